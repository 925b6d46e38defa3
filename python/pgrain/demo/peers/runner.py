"""Peers on exported cases; runs in the peers' environment (`environment.py`), without pgrain.

Reads requests, a line of JSON each, [FOLDER, peer, ...], and answers each with a line, {} or
{"error": text}. Writes seconds of preparation, seconds of a complaint, seconds of processor time
and the version to FOLDER/<peer>.json, and one score a training row and complaint (larger is more
suspect) to FOLDER/<peer>.npz, by the complaint's name. What not every peer needs is imported where
it is used.
"""

import importlib
import json
import os
import sys
import time
import traceback
from importlib.metadata import version
from pathlib import Path

import numpy as np


class Case:
    """The rows, the trained model, the complaints: each the gradient of q (to be reduced) with
    respect to the class probabilities of the queried rows, which q is linear in."""

    def __init__(self, data):
        import torch
        torch.manual_seed(0)
        self.X = torch.tensor(data["X"])
        self.y = torch.tensor(data["y"], dtype=torch.long)
        self.query = torch.tensor(data["query"])
        self.query_y = torch.tensor(data["query_y"], dtype=torch.long)
        self.target = int(data["target"])
        self.complaints = {name[3:]: torch.tensor(data[name], dtype=torch.float32)
                           for name in data if name.startswith("dq:")}
        layers, i = [], 0
        while f"kernel{i}" in data:
            kernel, bias = torch.tensor(data[f"kernel{i}"]), torch.tensor(data[f"bias{i}"])
            layer = torch.nn.Linear(*kernel.shape)
            with torch.no_grad():
                layer.weight.copy_(kernel.T)
                layer.bias.copy_(bias)
            layers += [layer, torch.nn.ReLU()]
            i += 1
        self.model = torch.nn.Sequential(*layers[:-1])

    def rows(self):
        import torch
        return torch.utils.data.TensorDataset(self.X, self.y)

    def trousers(self):
        """The queried rows of the class that the query counts, with their true labels."""
        which = self.query_y == self.target
        return self.query[which], self.query_y[which]


def kronfluence(case):
    """EK-FAC. The measurement is the complaint itself, summed over the queried rows."""
    import torch
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
    import torch
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
    import torch
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
    # It draws its random matrix again for every batch, so these are large.
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
    import torch
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


def out_of_fold(words, y, folds):
    """Probabilities of rows by a linear model over TF-IDF weights of words that has not seen them.
    words: (N, length) numbers; 0 is no word, 1 one that the vocabulary lacks."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    rows, at = (words > 1).nonzero()
    counts = csr_matrix((np.ones(len(rows)), (rows, words[rows, at])),
                        shape=(len(words), int(words.max()) + 1))
    model = make_pipeline(TfidfTransformer(), LogisticRegression(max_iter=1000))
    return cross_val_predict(model, counts, y, cv=folds, method="predict_proba")


def cleanlab(data):
    """Knows nothing of the complaint; probabilities out of fold, of our model or over words."""
    from cleanlab.rank import get_label_quality_scores
    start = time.perf_counter()
    if "words" in data:
        held = out_of_fold(data["words"], data["y"], int(data["folds"]))
        prepare = time.perf_counter() - start
    else:
        held, prepare = data["held"], float(data["held_seconds"])
    start = time.perf_counter()
    quality = get_label_quality_scores(data["y"], held)
    return prepare, time.perf_counter() - start, -quality, "the same for every complaint"


def answer(folder, names):
    """Each peer's files; the processor time is that since the peer before."""
    global used
    with np.load(folder / "case.npz") as opened:
        data = dict(opened)
    for name in names:
        prepare, complaint, scores, note = globals()[name](
            data if name == "cleanlab" else Case(data))
        if not isinstance(scores, dict):             # the same for every complaint
            asked = [field[3:] for field in data if field.startswith("dq:")]
            scores = dict.fromkeys(asked, scores)
        np.savez(folder / f"{name}.npz",
                 **{query: np.asarray(values, np.float64) for query, values in scores.items()})
        package = {"pydvl": "pyDVL"}.get(name, name)
        before, used = used, time.process_time()
        (folder / f"{name}.json").write_text(json.dumps({
            "prepare": prepare, "complaint": complaint, "version": version(package), "note": note,
            "cpu": round(used - before, 2)}))


used = 0.0

if __name__ == "__main__":
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)                                    # what libraries print is no reply
    for line in sys.stdin:
        folder, *names = json.loads(line)
        # A library may have been installed since, and some write to where they are.
        importlib.invalidate_caches()
        os.chdir(folder)
        try:
            answer(Path(folder), names)
            told = {}
        except Exception:
            told = {"error": traceback.format_exc()}
        os.chdir("/")
        print(json.dumps(told), file=replies, flush=True)
