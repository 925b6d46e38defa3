"""How well plans predict what retraining does, beside first-order sums and "no change".

    .local/venv/bin/python benchmarks/repair_prediction.py [--rows 3000] [--seeds 0 1] [--out FILE]

Fashion-MNIST, four pixels made one, the brightest trousers labelled dress (`demo/corruptions.py`).
Queries: predicted trousers among half of the test pictures, predicted dresses among all. For each
model, seed, query and prefix of the ranking (deletions, and relabellings): the complained count as
predicted, in the stored directions alone and with up to 16 more (`influence/completion.py`; a plan
does that for logistic regression), and after retraining (warm start; logistic regression to its
optimum). A line of JSON a case; at the end the medians of |predicted - actual| / |actual change|,
the quantiles of the actual change divided by the predicted one, from which `worker/planning.py`
takes its interval, and how many cases lie in that interval, for the seeds from --set-on on, which
it was not set on. --cache: a folder where trained models and retrained predictions are kept. Not
part of the test suite: half an hour.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pgrain.demo import corruptions, datasets
from pgrain.influence.completion import Completion
from pgrain.influence.filters import filter_weights
from pgrain.influence.group_step import GroupStep, moved_probabilities
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.lanczos import lanczos
from pgrain.influence.projections import objective_projection, project, training_projection
from pgrain.influence.scores import deletion_changes, relabel_changes
from pgrain.influence.selection import choose_k
from pgrain.models import registry
from pgrain.models.predicting import predict_proba
from pgrain.models.softmax import residual, softmax
from pgrain.models.training import train
from pgrain.worker.planning import SHARES, calm, interval
from pgrain.worker.prefixes import DIRECTIONS, default_directions

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


def kept(cache: Path | None, name: str, make) -> np.ndarray:
    """An array that was made before, or is made now."""
    path = cache / f"{name}.npy" if cache else None
    if path is not None and path.exists():
        return np.load(path)
    made = make()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, made)
    return made


def run(name: str, rows: int, seed: int, out, cache: Path | None) -> list[dict]:
    images, Xq, _ = load(rows, seed)
    wrong = corruptions.bright(images, seed)
    X, Xq = smaller(images.pixels), smaller(Xq)
    y = wrong.labels.astype(np.int64)
    options = MODELS[name]
    model = registry.build(name, 10, X.shape[1:], {k: v for k, v in options.items()
                                                   if k == "hidden"})
    settings = {k: v for k, v in options.items() if k != "hidden"}
    alpha, mark = 1.0, f"{name}-{rows}-{seed}"
    theta = kept(cache, mark, lambda: train(model, X, y, options={**settings, "alpha": alpha},
                                            seed=seed).theta)
    operator = hessian_operator(model, theta, X, y, alpha, n_total=rows)
    found = lanczos(operator, model.n_parameters, 30)
    values, V = found.eigenvalues, found.vectors
    logits, J = project(model, theta, X, V)
    logits_q, J_q = project(model, theta, Xq, V)
    A, p_q = training_projection(J, residual(None, y, logits)), softmax(logits_q)
    k = choose_k(values, 10)
    w = filter_weights(values[:k])

    def step():
        return GroupStep(J, logits, y, alpha, V.T.astype(np.float64) @ theta.astype(np.float64))

    def counts(p, query):
        label, where, _ = query
        return int((p[where].argmax(axis=1) == label).sum()), float(p[where, label].sum())

    def retrained(title, keep, labels):
        def make():
            made = train(model, X[keep], labels[keep], options={**settings, "alpha": alpha},
                         seed=seed, theta0=theta)
            return softmax(predict_proba(model, made.theta, Xq)[0])
        return kept(cache, f"{mark}-{title}", make)

    drift = retrained("drift", np.ones(rows, bool), y)
    cases = []
    for title, query in queries(len(Xq)).items():
        label, where, sign = query
        slope = np.zeros_like(p_q)
        slope[where, label] = sign
        c = objective_projection(p_q, J_q, slope)[:k]
        ranked = {"delete": (deletion_changes(A[:, :k], w, c), y)}
        changes = relabel_changes(J[:, :, :k], y, w, c)
        changes[np.arange(rows), y] = np.inf
        ranked["relabel"] = (changes.min(axis=1), changes.argmin(axis=1))
        p = p_q[where, label]
        noise = float(np.sqrt((p * (1 - p)).sum()))
        for intervention, (change, new) in ranked.items():
            order = np.argsort(change, kind="stable")
            for n in (20, 80, 200):
                top = order[:n]
                keep, labels = np.ones(rows, bool), y.copy()
                if intervention == "delete":
                    keep[top] = False
                else:
                    labels[top] = new[top]
                before = counts(p_q, query)
                after = counts(retrained(f"{title}-{intervention}-{n}", keep, labels), query)
                stored = step()
                started = time.perf_counter()
                stored.edit(keep.astype(np.float32), labels)
                moved = stored.solve()
                alone, seconds = time.perf_counter() - started, 0.0
                in_stored = counts(moved_probabilities(logits_q, J_q, moved.u), query)
                completion = Completion(model, theta, V, stored, X, np.arange(rows), Xq, J_q)
                completion.edit(keep.astype(np.float32), labels)
                u, guess = moved.u, in_stored
                while completion.count < DIRECTIONS and completion.extend(u):
                    u, last = stored.solve(np.append(u, 0.0)).u, guess
                    guess = counts(moved_probabilities(logits_q, completion.J, u), query)
                    if all(calm(last[i], guess[i], abs(guess[i] - before[i])) for i in (0, 1)):
                        break
                seconds = time.perf_counter() - started
                planned = guess if default_directions(model) else in_stored
                begin = SimpleNamespace(value=before[0], relaxed=before[1])
                cases.append({
                    "model": name, "seed": seed, "query": title, "intervention": intervention,
                    "n": n, "before": before, "actual": after, "predicted": planned,
                    "completed": guess, "stored": in_stored, "interval": interval(
                        begin, *planned, noise,
                        SHARES[intervention == "delete", bool(default_directions(model))]),
                    "drift": counts(drift, query), "wrong": int(wrong.wrong[top].sum()),
                    "first": before[1] + sign * float(change[top].sum()), "directions":
                    completion.count, "seconds": [alone, seconds]})
                print(json.dumps(cases[-1]), file=out, flush=True)
    return cases


def summarise(cases: list[dict], set_on: int) -> None:
    for name in MODELS:
        for intervention in ("delete", "relabel"):
            for place, kind in enumerate(("hard", "relaxed")):
                rows = [r for r in cases if (r["model"], r["intervention"]) == (name, intervention)
                        and abs(r["actual"][place] - r["before"][place]) >= 3]
                if not rows:
                    continue
                actual = np.array([r["actual"][place] - r["before"][place] for r in rows])

                def error(key, place=place, rows=rows, actual=actual):
                    at = (lambda r: r[key]) if key == "first" else (lambda r: r[key][place])
                    start = [r["before"][1 if key == "first" else place] for r in rows]
                    made = np.array([at(r) for r in rows]) - np.array(start)
                    return np.median(np.abs(made - actual) / np.abs(actual)), made

                ratio = actual / np.where(error("predicted")[1] == 0, np.nan,
                                          error("predicted")[1])
                print(name, intervention, kind, len(rows), "cases: median error",
                      f"{error('predicted')[0]:.3f}, stored directions {error('stored')[0]:.3f}, "
                      f"completed {error('completed')[0]:.3f},",
                      f"first order {error('first')[0]:.3f}, no change 1; actual / predicted "
                      "change: quantiles 5 10 25 50 75 90 95 %",
                      np.nanquantile(ratio, [.05, .1, .25, .5, .75, .9, .95]).round(2).tolist())
            held = [r for r in cases if (r["model"], r["intervention"]) == (name, intervention)
                    and r["seed"] >= set_on]
            inside = [r["interval"][0] <= r["actual"][0] <= r["interval"][1] for r in held]
            width = [(r["interval"][1] - r["interval"][0])
                     / max(abs(r["predicted"][0] - r["before"][0]), 1) for r in held]
            if held:
                print(name, intervention, f"seeds from {set_on} on: {sum(inside)} of {len(held)} "
                      f"inside the interval, its width {np.median(width):.2f} of the change")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--out", default="/dev/stdout")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--set-on", type=int, default=2)
    arguments = parser.parse_args()
    found = []
    with open(arguments.out, "a") as out:
        for seed in arguments.seeds:
            for name in arguments.models:
                found += run(name, arguments.rows, seed, out, arguments.cache)
                summarise(found, arguments.set_on)


if __name__ == "__main__":
    main()
