"""How well the group step predicts what retraining does, beside first-order sums and "no change".

    .local/venv/bin/python benchmarks/repair_prediction.py [--rows 3000] [--seeds 3] [--out FILE]

Fashion-MNIST, four pixels made one, the brightest trousers labelled dress (`demo/corruptions.py`).
Queries: predicted trousers among half of the test pictures, predicted dresses among all. For each
model, seed, query and prefix of the ranking (deletions, and relabellings): the complained count as
predicted and after retraining (warm start; logistic regression to its optimum). A line of JSON a
case; at the end the medians of |predicted - actual| / |actual change| and the quantiles of the
actual change divided by the predicted one,
from which `worker/planning.py` takes its interval. Not part of the test suite: half an hour.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from pgrain.demo import corruptions, datasets
from pgrain.influence.filters import filter_weights
from pgrain.influence.group_step import GroupStep, moved_probabilities
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.lanczos import lanczos
from pgrain.influence.projections import objective_projection, project, training_projection
from pgrain.influence.sample import sample_rows
from pgrain.influence.scores import deletion_changes, relabel_changes
from pgrain.influence.selection import choose_k
from pgrain.models import registry
from pgrain.models.predicting import predict_proba
from pgrain.models.softmax import residual, softmax
from pgrain.models.training import train

TROUSER, DRESS = 1, 3
MODELS = {"logistic_regression": {"tol": 1e-5}, "mlp": {"hidden": [64], "epochs": 40}}


def load(rows: int, seed: int):
    train_set, test_set = datasets.fashion_mnist("train"), datasets.fashion_mnist("t10k")
    rng = np.random.default_rng(seed)
    part = rng.permutation(len(train_set))[:rows]
    images = datasets.Images(train_set.pixels[part], train_set.labels[part])
    chosen = rng.permutation(len(test_set))[:4000]
    return images, test_set.pixels[chosen], test_set.labels[chosen]


def smaller(pixels: np.ndarray) -> np.ndarray:
    """(N, 28, 28) as (N, 14, 14, 1) uint8: means of four pixels, so that retraining is quick."""
    n = len(pixels)
    return pixels.reshape(n, 14, 2, 14, 2).mean(axis=(2, 4)).astype(np.uint8)[..., None]


def queries(n: int) -> dict:
    half = np.arange(n) % 2 == 0
    every = np.ones(n, bool)
    return {"trousers, one half": (TROUSER, half, -1), "dresses": (DRESS, every, 1)}


def run(name: str, rows: int, seed: int, out) -> list[dict]:
    images, Xq, _ = load(rows, seed)
    wrong = corruptions.bright(images, seed)
    X, Xq = smaller(images.pixels), smaller(Xq)
    y = wrong.labels.astype(np.int64)
    options = MODELS[name]
    model = registry.build(name, 10, X.shape[1:], {k: v for k, v in options.items()
                                                   if k == "hidden"})
    settings = {k: v for k, v in options.items() if k != "hidden"}
    trained = train(model, X, y, options=settings, seed=seed)
    theta = trained.theta
    chosen = sample_rows(rows, 10_000, 0)
    operator = hessian_operator(model, theta, X[chosen], y[chosen], trained.alpha, n_total=rows)
    spectrum = lanczos(operator, model.n_parameters, 30)
    logits, J = project(model, theta, X, spectrum.vectors)
    logits_q, J_q = project(model, theta, Xq, spectrum.vectors)
    R_z = residual(None, y, logits)
    A, p_q = training_projection(J, R_z), softmax(logits_q)
    k = choose_k(spectrum.eigenvalues, 10)
    w = filter_weights(spectrum.eigenvalues[:k])
    step = GroupStep(J, logits, y, trained.alpha,
                     spectrum.vectors.T.astype(np.float64) @ theta.astype(np.float64))

    def counts(p, query):
        label, where, _ = query
        return int((p[where].argmax(axis=1) == label).sum()), float(p[where, label].sum())

    def retrained(keep, labels):
        made = train(model, X[keep], labels[keep], options=settings, seed=seed, theta0=theta)
        return softmax(predict_proba(model, made.theta, Xq)[0])

    drift = retrained(np.ones(rows, bool), y)
    found = []
    for title, query in queries(len(Xq)).items():
        label, where, sign = query
        slope = np.zeros_like(p_q)
        slope[where, label] = sign
        c = objective_projection(p_q, J_q, slope)[:k]
        ranked = {"delete": (deletion_changes(A[:, :k], w, c), y)}
        changes = relabel_changes(J[:, :, :k], y, w, c)
        changes[np.arange(rows), y] = np.inf
        ranked["relabel"] = (changes.min(axis=1), changes.argmin(axis=1))
        for intervention, (change, new) in ranked.items():
            order = np.argsort(change, kind="stable")
            u = None
            for n in (20, 80, 200):
                top = order[:n]
                keep, labels = np.ones(rows, bool), y.copy()
                if intervention == "delete":
                    keep[top] = False
                else:
                    labels[top] = new[top]
                started = time.perf_counter()
                step.edit(keep.astype(np.float32), labels, np.zeros(step.m))
                moved = step.solve(u)
                u = moved.u
                seconds = time.perf_counter() - started
                hard, soft = counts(moved_probabilities(logits_q, J_q, u), query)
                after = counts(retrained(keep, labels), query)
                before = counts(p_q, query)
                found.append({
                    "model": name, "seed": seed, "query": title, "intervention": intervention,
                    "n": n, "before": before, "actual": after, "predicted": [hard, soft],
                    "drift": counts(drift, query), "wrong": int(wrong.wrong[top].sum()),
                    "first": before[1] + sign * float(change[top].sum()), "seconds": seconds,
                    "iterations": moved.iterations, "status": moved.status})
                print(json.dumps(found[-1]), file=out, flush=True)
    return found


def summarise(found: list[dict]) -> None:
    for name in MODELS:
        for place, kind in enumerate(("hard", "relaxed")):
            rows = [r for r in found if r["model"] == name
                    and abs(r["actual"][place] - r["before"][place]) >= 3]
            if not rows:
                continue
            actual = np.array([r["actual"][place] - r["before"][place] for r in rows])
            made = np.array([r["predicted"][place] - r["before"][place] for r in rows])
            first = np.array([r["first"] - r["before"][1] for r in rows])
            ratio = actual / np.where(made == 0, np.nan, made)
            print(name, kind, len(rows), "cases: median error",
                  f"group step {np.median(np.abs(made - actual) / np.abs(actual)):.3f},",
                  f"first order {np.median(np.abs(first - actual) / np.abs(actual)):.3f},",
                  "no change 1; actual / predicted change: quantiles 5 10 25 50 75 90 95 %",
                  np.nanquantile(ratio, [.05, .1, .25, .5, .75, .9, .95]).round(2).tolist())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--out", default="/dev/stdout")
    arguments = parser.parse_args()
    found = []
    with open(arguments.out, "a") as out:
        for seed in range(arguments.seeds):
            for name in arguments.models:
                found += run(name, arguments.rows, seed, out)
                summarise(found)


if __name__ == "__main__":
    main()
