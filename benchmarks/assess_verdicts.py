"""What `assess` says about complaints of which the truth is known: a table of verdicts.

    .local/venv/bin/python benchmarks/assess_verdicts.py [--seeds 0 1] [--cache DIR] [--detail]

ADULT, Fashion-MNIST and MNIST (four pixels made one), 1 500 training rows, 1 500 queried; a model
of the wrong labels, of the true ones and of permuted ones each. The checks are the worker's own
(`worker/assessing.py`), over counts and shares as a circuit would give them; what the checks would
need a database for is made here. Kinds of complaints:

- effective: wrong labels, the target is what the model of the true ones says, and AUC_R of the
  ranking is at least 0.5 and twice chance: "useful" is right;
- irrelevant: the same, AUC_R at most chance or 0.1;
- clean, truth: a model of true labels, the target is the number by the queried rows' true labels;
- clean, far: half, 0.7, 1.5 and 2 times the number, a target that nobody has a reason for;
- permuted: half of the number and twice as much;
- clean, no target / permuted, no target / effective, no target: "too high" or "too low".

A line of JSON a complaint with --detail; the table on standard error. Not part of the test suite.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from repair_prediction import smaller

from pgrain.complaint.grammar import Complaint
from pgrain.complaint.objective import Objective
from pgrain.demo import census, corruptions, datasets, digits
from pgrain.demo.label_errors import flip_class, flip_where, permute
from pgrain.demo.metrics import auc_r
from pgrain.influence.gradient import objective_gradient
from pgrain.influence.group_step import GroupStep
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.lanczos import lanczos
from pgrain.influence.projections import objective_projection, project, training_projection
from pgrain.influence.selection import choose_k
from pgrain.models import registry
from pgrain.models.encoding import Encoder
from pgrain.models.softmax import residual, softmax
from pgrain.models.training import train
from pgrain.worker.assessing import Assessment
from pgrain.worker.resident import Training

ROWS = QUERIED = 1500
CLASSES = {"fashion": (1, 3, 7, 8), "mnist": (1, 4, 7, 8)}
CASES = {
    "adult": ("male_private 0.5", "male_private 0.6", "male_private 0.7", "flip 0.4", "none",
              "permuted"),
    "fashion": ("bright", "flip 0.4", "none", "permuted"),
    "mnist": ("flip 0.2", "flip 0.4", "none", "permuted")}
OPTIONS = {"logistic_regression": ({}, {"tol": 1e-5}), "mlp": ({"hidden": [64]}, {"epochs": 40})}


def adult(seed: int):
    """(X, y, wrong labels by error, X of the queried rows, their y, rows of each query)."""
    every = census.adult()
    order = np.random.default_rng(seed + 50).permutation(len(every.labels))[:ROWS + QUERIED]
    people = census.People([every.features[i] for i in order], every.labels[order])
    rows, asked = people.part(slice(ROWS)), people.part(slice(ROWS, None))
    encoder = Encoder.fit("columns", rows.features, list(census.COLUMNS), {})
    private, men = asked.where(workclass="Private"), asked.where(gender="Male")
    queries = {"Q4": private & men, "Q5": private, "Q6": men, "Q7": np.ones(QUERIED, bool),
               "women elsewhere": ~private & asked.where(gender="Female")}
    chosen = rows.where(gender="Male", workclass="Private")

    def labels(error: str, rate: float) -> np.ndarray:
        if error == "male_private":
            return flip_where(rows.labels, chosen, 0, 1, rate, seed).labels
        return flip_class(rows.labels, 0, 1, rate, seed).labels

    slopes = {name: (mask / mask.sum())[:, None] * np.array([0.0, 1.0])
              for name, mask in queries.items()}
    return (encoder.encode(rows.features), rows.labels, labels, encoder.encode(asked.features),
            asked.labels, slopes)


def pictures(data: str, seed: int):
    train_set, test_set = ((datasets.fashion_mnist("train"), datasets.fashion_mnist("t10k"))
                           if data == "fashion" else digits.mnist_split())
    rng = np.random.default_rng(seed)
    part = rng.permutation(len(train_set))[:ROWS]
    images = datasets.Images(train_set.pixels[part], train_set.labels[part])
    asked = rng.permutation(len(test_set))[:QUERIED]

    def labels(error: str, rate: float) -> np.ndarray:
        if error == "bright":
            return corruptions.bright(images, seed).labels
        return flip_class(images.labels, 1, 7, rate, seed).labels

    slopes = {f"count of {c}": np.tile(np.eye(10)[c], (len(asked), 1)) for c in CLASSES[data]}
    return (smaller(images.pixels), images.labels, labels, smaller(test_set.pixels[asked]),
            test_set.labels[asked], slopes)


class Fitted:
    """A model of a case and what is stored of it; in place of `Variables` and `Spectrum`."""

    def __init__(self, data: str, error: str, architecture: str, seed: int, cache: Path | None):
        X, truth, labels, self.X, asked, self.slopes = (
            adult(seed) if data == "adult" else pictures(data, seed))
        kind, _, rate = error.partition(" ")
        y = (truth if kind == "none" else permute(truth, seed) if kind == "permuted"
             else labels(kind, float(rate or 0))).astype(np.int64)
        n_classes = 2 if data == "adult" else 10
        shape, settings = OPTIONS[architecture]
        model = registry.build(architecture, n_classes, X.shape[1:], shape)
        path = cache and cache / f"{data}-{error.replace(' ', '')}-{architecture}-{seed}.npz"
        if path and path.exists():
            stored = dict(np.load(path))
        else:
            trained = train(model, X, y, options=settings, seed=seed)
            spectrum = lanczos(hessian_operator(model, trained.theta, X, y, trained.alpha,
                                                n_total=len(y)), model.n_parameters, 30, seed=seed)
            stored = {"theta": trained.theta, "alpha": trained.alpha,
                      "eigenvalues": spectrum.eigenvalues, "V": spectrum.vectors}
            for name, rows in (("", X), ("asked_", self.X)):
                stored[name + "logits"], stored[name + "J"] = project(
                    model, trained.theta, rows, spectrum.vectors)
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez(path, **stored)
        self.truth = {name: float((of * np.eye(n_classes)[asked]).sum())
                      for name, of in self.slopes.items()}
        self.wrong, self.V = y != truth, stored["V"]
        self.p, self.J, self.asked_logits = (softmax(stored["asked_logits"]), stored["asked_J"],
                                             stored["asked_logits"])
        error_of = residual(None, y, stored["logits"])
        self.training = Training(np.arange(len(y)), y, stored["J"],
                                 training_projection(stored["J"], error_of), error_of)
        self.logits, self.alpha = stored["logits"], float(stored["alpha"])
        self.row = SimpleNamespace(eigenvalues=stored["eigenvalues"],
                                   k=choose_k(stored["eigenvalues"], n_classes))
        self.resident = SimpleNamespace(
            model=model, theta=stored["theta"],
            row=SimpleNamespace(classes=[str(c) for c in range(n_classes)]))
        self.values, self.predicted = {}, self.p.argmax(axis=1)

    def training_logits(self) -> np.ndarray:
        return self.logits

    def group_step(self, resident) -> GroupStep:
        theta = self.V.T.astype(np.float64) @ resident.theta.astype(np.float64)
        return GroupStep(self.training.J, self.logits, self.training.labels, self.alpha, theta)

    def projection(self, slopes: np.ndarray) -> np.ndarray:
        return objective_projection(self.p, self.J, slopes)

    def shares(self, slopes: np.ndarray, direction: np.ndarray) -> np.ndarray:
        cotangent = self.p * (slopes - (self.p * slopes).sum(axis=1, keepdims=True))
        return (cotangent * (self.J[:, :, :len(direction)] @ direction)).sum(axis=1)

    def logits_and_projections(self) -> tuple[np.ndarray, np.ndarray]:
        return self.asked_logits, self.J

    def gradient(self, slopes: np.ndarray) -> np.ndarray:
        return objective_gradient(self.resident.model, self.resident.theta, self.X, slopes)


class Linear:
    """The circuit of a count or a share: one cell, linear in the probabilities."""

    def __init__(self, slopes: np.ndarray):
        self.slopes = slopes
        self.columns = [SimpleNamespace(name="n", numeric=True, model_dependent=True,
                                        role="number")]

    def value(self, predicted, P=None):
        return self._cell(np.eye(self.slopes.shape[1])[predicted["m"]])

    def relaxed(self, P):
        return self._cell(P["m"])

    def _cell(self, p):
        return SimpleNamespace(numbers=np.array([[float((self.slopes * p).sum())]]),
                               present=np.array([True]))

    @staticmethod
    def number(output) -> float:
        return float(output.numbers[0, 0])

    def gradient(self, P, weights):
        return {"m": sum(weights.values()) * self.slopes}


def assessed(fitted: Fitted, slopes: np.ndarray, operator: str, target: float | None) -> dict:
    """The findings by name, and AUC_R of the ranking."""
    circuit = Linear(slopes)
    value = circuit.value({"m": fitted.predicted})
    complaint = Complaint("n", operator, target, None, f"n {operator} {target}")
    objective = Objective([complaint], circuit, value, circuit.relaxed({"m": fitted.p}), [[0]],
                          {"m": fitted.p})
    gradient = objective.gradient()["m"]
    if not gradient.any():
        return {}
    assessment = Assessment(objective, {"m": fitted}, "m", fitted, gradient)
    findings = [finding for made in assessment.findings() for finding in made]
    n = int(fitted.wrong.sum())
    return {"checks": {f.check: [f.value, f.verdict] for f in findings},
            "auc_r": auc_r(fitted.wrong[assessment.order[:n]], n) if n else None,
            "chance": float(fitted.wrong.mean())}


def complaints(error: str, value: float, clean: float, truth: float):
    """(kind, operator, target); effective ones are told from irrelevant ones by their AUC_R."""
    def towards(target: float) -> str:
        return "<=" if value > target else ">="

    if error == "none":
        if value != truth:
            yield "clean, truth", towards(truth), truth
        yield from (("clean, no target", word, None) for word in ("too high", "too low"))
        yield from (("clean, far", towards(f * value), f * value) for f in (0.5, 0.7, 1.5, 2.0)
                    if value)
    elif error == "permuted":
        yield from (("permuted, no target", word, None) for word in ("too high", "too low"))
        yield from (("permuted", towards(f * value), f * value) for f in (0.5, 2.0) if value)
    elif value != clean:
        yield "error", towards(clean), clean
        yield "error, no target", "too high" if value > clean else "too low", None


def kind_of(kind: str, found: dict) -> str:
    if not kind.startswith("error"):
        return kind
    auc, chance = found["auc_r"], found["chance"]
    name = ("effective" if auc >= max(0.5, 2 * chance) else
            "irrelevant" if auc <= max(chance, 0.1) else "in between")
    return kind.replace("error", name)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", nargs="*", default=list(CASES))
    parser.add_argument("--architecture", default="logistic_regression", choices=sorted(OPTIONS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--detail", action="store_true")
    arguments = parser.parse_args()
    table: dict[tuple, Counter] = {}
    for data in arguments.data:
        for seed in arguments.seeds:
            of = {error: Fitted(data, error, arguments.architecture, seed, arguments.cache)
                  for error in CASES[data]}
            for error, fitted in of.items():
                for query, slopes in fitted.slopes.items():
                    circuit = Linear(slopes)
                    value, clean = (circuit.number(circuit.value({"m": model.predicted}))
                                    for model in (fitted, of["none"]))
                    for kind, operator, target in complaints(error, value, clean,
                                                             fitted.truth[query]):
                        found = assessed(fitted, slopes, operator, target)
                        if not found:
                            continue
                        kind = kind_of(kind, found)
                        verdict = found["checks"]["overall"][1]
                        table.setdefault((kind, data), Counter())[verdict] += 1
                        if arguments.detail:
                            print(json.dumps({
                                "data": data, "error": error, "seed": seed, "query": query,
                                "kind": kind, "value": value, "operator": operator,
                                "target": target, "verdict": verdict, **found}, default=float),
                                flush=True)
    for kind, data in sorted(table):
        counts = table[kind, data]
        print(f"{kind:24} {data:8} " + ", ".join(
            f"{name} {counts[name]}" for name in ("useful", "doubtful", "not useful")),
            file=sys.stderr)


if __name__ == "__main__":
    main()
