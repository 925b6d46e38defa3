"""One peer on one exported case; runs in the peers' environment (`environment.py`), without pgrain.

    python runner.py kronfluence FOLDER

Prints one JSON line: seconds of preparation, seconds of a complaint, version; writes one score a
training row and complaint (larger is more suspect) to FOLDER/<peer>.npz, by the complaint's name.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch


class Case:
    """The rows, the trained model, the complaints: each the gradient of q (to be reduced) with
    respect to the class probabilities of the queried rows, which q is linear in."""

    def __init__(self, folder):
        data = np.load(Path(folder) / "case.npz")
        self.X = torch.tensor(data["X"])
        self.y = torch.tensor(data["y"], dtype=torch.long)
        self.query = torch.tensor(data["query"])
        self.query_y = torch.tensor(data["query_y"], dtype=torch.long)
        self.held, self.held_seconds = data["held"], float(data["held_seconds"])
        self.target = int(data["target"])
        self.complaints = {name[3:]: torch.tensor(data[name], dtype=torch.float32)
                           for name in data.files if name.startswith("dq:")}
        layers, i = [], 0
        while f"kernel{i}" in data.files:
            kernel, bias = torch.tensor(data[f"kernel{i}"]), torch.tensor(data[f"bias{i}"])
            layer = torch.nn.Linear(*kernel.shape)
            with torch.no_grad():
                layer.weight.copy_(kernel.T)
                layer.bias.copy_(bias)
            layers += [layer, torch.nn.ReLU()]
            i += 1
        self.model = torch.nn.Sequential(*layers[:-1])

    def rows(self):
        return torch.utils.data.TensorDataset(self.X, self.y)

    def trousers(self):
        """The queried rows of the class that the query counts, with their true labels."""
        which = self.query_y == self.target
        return self.query[which], self.query_y[which]


def kronfluence(case):
    """EK-FAC. The measurement is the complaint itself, summed over the queried rows."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Ours(Task):
        def compute_train_loss(self, batch, model, sample=False):
            logits = model(batch[0])
            if not sample:
                return torch.nn.functional.cross_entropy(logits, batch[1], reduction="sum")
            with torch.no_grad():
                drawn = torch.multinomial(logits.softmax(-1), 1).flatten()
            return torch.nn.functional.cross_entropy(logits, drawn, reduction="sum")

        def compute_measurement(self, batch, model):
            return (batch[1] * model(batch[0]).softmax(-1)).sum()

    task = Ours()
    analyzer = Analyzer("case", prepare_model(case.model, task), task, cpu=True,
                        disable_tqdm=True, disable_model_save=True)
    start = time.perf_counter()
    analyzer.fit_all_factors("ekfac", case.rows(), factor_args=FactorArguments("ekfac"),
                             per_device_batch_size=512, overwrite_output_dir=True)
    prepare = time.perf_counter() - start
    found = {}
    start = time.perf_counter()
    for name, dq in case.complaints.items():
        analyzer.compute_pairwise_scores(
            name, "ekfac", torch.utils.data.TensorDataset(case.query, dq), case.rows(),
            score_args=ScoreArguments(aggregate_query_gradients=True),
            per_device_query_batch_size=512, per_device_train_batch_size=512,
            overwrite_output_dir=True)
        scores = analyzer.load_pairwise_scores(name)["all_modules"].sum(0).numpy()
        found[name] = -scores                    # removing z changes q by +scores
    return prepare, (time.perf_counter() - start) / len(found), found, ""


def captum(case):
    """TracIn knows losses, no counts: the queried rows that are trousers, with that label.
    An opponent of theirs (negative influence) is suspect."""
    from captum.influence import TracInCPFast
    torch.save(case.model.state_dict(), "checkpoint.pt")

    def load(model, path):
        model.load_state_dict(torch.load(path))
        return 1.0

    start = time.perf_counter()
    tracin = TracInCPFast(case.model, case.model[2], case.rows(), ["checkpoint.pt"],
                          checkpoints_load_func=load, batch_size=512,
                          loss_fn=torch.nn.CrossEntropyLoss(reduction="sum"))
    prepare = time.perf_counter() - start
    start = time.perf_counter()
    found = tracin.influence(case.trousers())
    return (prepare, time.perf_counter() - start, -found.sum(0).numpy(),
            "last layer; the complaint as the loss of the true trousers")


def dattri(case):
    """TRAK on the last checkpoint; the target is the loss of the true trousers."""
    from dattri.algorithm import TRAKAttributor
    from dattri.task import AttributionTask
    state = {k: v.detach() for k, v in case.model.state_dict().items()}

    def loss(params, data):
        image, label = data
        out = torch.func.functional_call(case.model, params, image.unsqueeze(0))
        return torch.nn.functional.cross_entropy(out, label.unsqueeze(0).long())

    def correct(params, data):
        return torch.exp(-loss(params, data))

    task = AttributionTask(loss_func=loss, model=case.model, checkpoints=[state])
    attributor = TRAKAttributor(task=task, correct_probability_func=correct, device="cpu",
                                projector_kwargs={"proj_dim": 512, "device": "cpu"})
    # It draws its random matrix again for every batch: large ones are four times as fast.
    train = torch.utils.data.DataLoader(case.rows(), batch_size=512, shuffle=False)
    query = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*case.trousers()),
                                        batch_size=512, shuffle=False)
    start = time.perf_counter()
    with torch.no_grad():
        attributor.cache(train)
    prepare = time.perf_counter() - start
    start = time.perf_counter()
    with torch.no_grad():
        found = attributor.attribute(query)
    return (prepare, time.perf_counter() - start, -found.sum(1).numpy(),
            "512 random projections; the complaint as the loss of the true trousers")


def pydvl(case):
    """Arnoldi: the low-rank inverse Hessian, as ours. Per-row gradients are made for each
    complaint."""
    from pydvl.influence.torch import ArnoldiInfluence
    loss = torch.nn.functional.cross_entropy
    train = torch.utils.data.DataLoader(case.rows(), batch_size=512)
    start = time.perf_counter()
    influence = ArnoldiInfluence(case.model, loss, rank=20).fit(train)
    prepare = time.perf_counter() - start
    start = time.perf_counter()
    factors = influence.influence_factors(*case.trousers())
    factors = factors.sum(0, keepdim=True)
    found = []
    for at in range(0, len(case.X), 250):
        found.append(influence.influences_from_factors(
            factors, case.X[at:at + 250], case.y[at:at + 250])[0])
    # Its influence is that of upweighting a row on the loss, whose sign it flips to "helpful is
    # positive"; an unhelpful row is suspect.
    return (prepare, time.perf_counter() - start, -torch.cat(found).detach().numpy(),
            "the complaint as the loss of the true trousers")


def cleanlab(case):
    """Knows nothing of the complaint; out-of-fold probabilities of three folds of our model."""
    from cleanlab.rank import get_label_quality_scores
    start = time.perf_counter()
    quality = get_label_quality_scores(case.y.numpy(), case.held)
    return case.held_seconds, time.perf_counter() - start, -quality, "the same for every complaint"


if __name__ == "__main__":
    name, folder = sys.argv[1:3]
    torch.manual_seed(0)
    case = Case(folder)
    prepare, complaint, scores, note = globals()[name](case)
    if not isinstance(scores, dict):             # the same for every complaint
        scores = dict.fromkeys(case.complaints, scores)
    np.savez(Path(folder) / f"{name}.npz",
             **{query: np.asarray(values, np.float64) for query, values in scores.items()})
    package = {"pydvl": "pyDVL"}.get(name, name)
    print(json.dumps({"prepare": prepare, "complaint": complaint, "version": version(package),
                      "note": note}))
