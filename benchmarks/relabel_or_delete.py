"""Relabel or delete wrong labels, when rows are scarce? Paired seeds, every edit retrained.

    .local/venv/bin/python benchmarks/relabel_or_delete.py [--rows 150 300 1000] [--seeds 10]

Fashion-MNIST, four pixels made one, the brightest trousers labelled dress. The count of predicted
trousers among 2 000 test pictures is too low; of the ranking of relabellings by expected gain
(`worker/candidates.py`) the first N rows are taken, N the number of wrong ones, and the same rows
are once deleted and once relabelled. Beside it: the first N of the ranking of deletions, deleted,
and the truth, deleted and relabelled. After training: the count's distance from what the model of
the true labels says, and accuracy over all classes. A line of JSON a seed; at the end means of the
paired differences with 95 % intervals (t).
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from repair_prediction import TROUSER, load, smaller
from scipy import stats

from pgrain.demo import corruptions
from pgrain.influence.filters import filter_weights
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.lanczos import lanczos
from pgrain.influence.projections import objective_projection, project, training_projection
from pgrain.influence.scores import deletion_changes, relabel_changes
from pgrain.influence.selection import choose_k
from pgrain.models import registry
from pgrain.models.predicting import predict_proba
from pgrain.models.softmax import residual, softmax
from pgrain.models.training import train

MODELS = {"logistic_regression": {}, "mlp": {"hidden": [64], "epochs": 60}}


def run(name: str, rows: int, seed: int) -> dict:
    images, Xq, truth_q = load(rows, seed)
    Xq, truth_q = smaller(Xq[:2000]), truth_q[:2000]
    bad = corruptions.bright(images, seed)
    X, y = smaller(images.pixels), bad.labels.astype(np.int64)
    true = images.labels.astype(np.int64)
    settings = {k: v for k, v in MODELS[name].items() if k != "hidden"}
    model = registry.build(name, 10, X.shape[1:], {k: v for k, v in MODELS[name].items()
                                                   if k == "hidden"})

    def fitted(keep, labels):
        theta = train(model, X[keep], labels[keep], options=settings, seed=seed).theta
        predicted = predict_proba(model, theta, Xq)[0].argmax(axis=1)
        return theta, int((predicted == TROUSER).sum()), float((predicted == truth_q).mean())

    every = np.ones(rows, bool)
    theta, count, accuracy = fitted(every, y)
    _, goal, best = fitted(every, true)
    spectrum = lanczos(hessian_operator(model, theta, X, y, 1.0, n_total=rows),
                       model.n_parameters, 30)
    k = choose_k(spectrum.eigenvalues, 10)
    w, V = filter_weights(spectrum.eigenvalues[:k]), spectrum.vectors[:, :k]
    logits, J = project(model, theta, X, V)
    logits_q, J_q = project(model, theta, Xq, V)
    slope = np.zeros_like(logits_q, dtype=float)
    slope[:, TROUSER] = -1
    c = objective_projection(softmax(logits_q), J_q, slope)
    p, at = softmax(logits), np.arange(rows)
    expected = relabel_changes(J, y, w, c) * p
    expected[at, y] = np.inf
    n = int(bad.wrong.sum())
    top = np.argsort(expected.min(axis=1), kind="stable")[:n]
    first = np.argsort(deletion_changes(training_projection(J, residual(None, y, logits)), w, c),
                       kind="stable")[:n]

    def without(rows_out):
        keep = every.copy()
        keep[rows_out] = False
        return fitted(keep, y)[1:]

    relabelled = y.copy()
    relabelled[top] = expected[top].argmin(axis=1)
    made = {"relabelled": fitted(every, relabelled)[1:], "deleted": without(top),
            "deleted by its own ranking": without(first), "truth deleted": without(bad.wrong)}
    return {"model": name, "rows": rows, "seed": seed, "wrong": n,
            "found": int(bad.wrong[top].sum()), "found by deletion": int(bad.wrong[first].sum()),
            "right label": int((relabelled[top] == true[top]).sum()),
            "before": [count, accuracy], "goal": [goal, best], **made}


def interval(values) -> str:
    values = np.asarray(values, float)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.4g} ± {half:.2g}"


def summarise(found: list[dict]) -> None:
    for key in dict.fromkeys((r["model"], r["rows"]) for r in found):
        rows = [r for r in found if (r["model"], r["rows"]) == key]
        if len(rows) < 3:
            continue
        print(*key, f"{len(rows)} seeds, wrong {np.mean([r['wrong'] for r in rows]):.0f}, found "
              f"{np.mean([r['found'] / r['wrong'] for r in rows]):.2f}, with the right label "
              f"{np.mean([r['right label'] / r['wrong'] for r in rows]):.2f}")
        for what in ("before", "relabelled", "deleted", "deleted by its own ranking",
                     "truth deleted"):
            print(f"  {what}: count off by",
                  interval([abs(r[what][0] - r["goal"][0]) for r in rows]),
                  ", accuracy below the goal", interval([r["goal"][1] - r[what][1] for r in rows]))
        for other in ("deleted", "deleted by its own ranking"):
            print(f"  {other} minus relabelled: count error", interval(
                [abs(r[other][0] - r["goal"][0]) - abs(r["relabelled"][0] - r["goal"][0])
                 for r in rows]), ", accuracy", interval(
                [r[other][1] - r["relabelled"][1] for r in rows]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[150, 300, 1000])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    arguments = parser.parse_args()
    found = []
    for name in arguments.models:
        for rows in arguments.rows:
            for seed in range(arguments.seeds):
                found.append(run(name, rows, seed))
                print(json.dumps(found[-1]), flush=True)
    summarise(found)


if __name__ == "__main__":
    main()
