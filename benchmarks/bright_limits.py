"""How well anything ranks the bright trousers, on one model: is a low AUC_R ours, or the method's?

    .local/venv/bin/python benchmarks/bright_limits.py [--rows 8000] [--seeds 1] [--alphas 1]
                                                       [--architecture logistic_regression]

Rain++ at every k, filters and damping, a smaller Hessian sample, `rain` after 1 to 400 steps of
conjugate gradient, other objectives than the count, and an oracle that knows the missed trousers.
A table for each model on the standard output; docs/dev/influence.md has what was seen.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from pgrain.demo.paper.cases import FILTERED, load
from pgrain.demo.paper.measure import (
    Fitted,
    by_k,
    cg_steps,
    direction,
    dot_products,
    fit,
    judge,
    rule,
)
from pgrain.demo.paper.scales import SCALES
from pgrain.influence.conjugate_gradient import conjugate_gradient
from pgrain.influence.gradient import objective_gradient
from pgrain.influence.projections import objective_projection
from pgrain.influence.scores import relatif
from pgrain.models.softmax import softmax

STEPS = (1, 2, 3, 5, 10, 20, 50, 100, 400)
DAMPING = (0.01, 0.05, 0.2)
SMALL_SAMPLE = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=8_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--alphas", default="1")
    parser.add_argument("--architecture", default="logistic_regression")
    given = parser.parse_args()
    for alpha in map(float, given.alphas.split(",")):
        for seed in range(given.seeds):
            _table(given.architecture, given.rows, seed, alpha)


def _table(architecture: str, rows: int, seed: int, alpha: float) -> None:
    setting = SCALES["small"].setting("fashion", architecture, "bright")
    setting = replace(setting, rows=rows, seed=seed, sample=rows,
                      options=(*setting.options, ("alpha", alpha)))
    fitted = fit(setting, load(setting))
    case, p = fitted.case, fitted.query_p
    query = case.query("Q3", "fashion")
    sign = direction(query, fitted.predicted, p)
    dq = sign * np.asarray(query.gradient(p), np.float64)
    print(f"\n{architecture}, {rows:,} rows, seed {seed}, alpha {alpha:g}: "
          f"{int(case.wrong.sum())} wrong labels, gradient norm "
          f"{fitted.metrics['gradient_norm']:.3g}, automatic k = {fitted.k}")
    _say("the rule", judge(rule(softmax(fitted.logits), case.y, query.classes, sign), case.wrong))
    _of_spectrum(fitted, dq)
    smaller = fit(replace(setting, sample=SMALL_SAMPLE), case)
    _say_by_k(f"Rain++, {SMALL_SAMPLE:,} rows in the Hessian", smaller, dq)
    _of_rain(fitted, dq)
    _of_objectives(fitted, sign)


def _of_spectrum(fitted: Fitted, dq: np.ndarray) -> None:
    """Choices at query time, on what is stored."""
    _say_by_k("Rain++", fitted, dq)
    c, values = objective_projection(fitted.query_p, fitted.query_J, dq), \
        fitted.spectrum.eigenvalues
    for share in DAMPING:
        changes = fitted.A @ (c / (values + share * values[0]))
        _say(f"all pairs, damped by {share} of the largest", judge(-changes, fitted.case.wrong))
    _say("all pairs, identity", judge(-(fitted.A @ c), fitted.case.wrong))
    k, w = fitted.k, 1 / values[:fitted.k]
    changes = relatif(fitted.A[:, :k] @ (w * c[:k]), fitted.A[:, :k], w)
    _say("automatic k, normalised (relatif)", judge(-changes, fitted.case.wrong))


def _of_rain(fitted: Fitted, dq: np.ndarray) -> None:
    """The paper's predecessor, towards the exact solve."""
    gradient = objective_gradient(fitted.model, fitted.theta, fitted.case.query_X, dq)
    few = [n for n in STEPS if n <= 5]
    steps, _ = cg_steps(fitted.operator, gradient, few[-1])
    found = {n: steps[n - 1] for n in few if n <= len(steps)}
    status = ""
    for n in STEPS[len(few):]:
        solution = conjugate_gradient(fitted.operator, gradient, n_iter=n)
        found[n], status = solution.value, solution.status
        if status == "converged":
            break
    changes = dot_products(fitted, [gradient, *found.values()])
    _say("gradient_dot", judge(-changes[:, 0], fitted.case.wrong))
    for at, n in enumerate(found, 1):
        _say(f"rain, {n} steps", judge(-changes[:, at], fitted.case.wrong))
    print(f"  (the last: {status})")


def _of_objectives(fitted: Fitted, sign: int) -> None:
    """Other sums over the same rows than that of p, and what only an oracle can ask."""
    p, true = fitted.query_p, FILTERED["fashion"]
    of_class, is_class = p[:, true], fitted.case.query_y == true
    slopes = {
        "sum of log p where p > 0.05": np.where(of_class > 0.05, 1 / np.maximum(of_class, 0.05), 0),
        "sum of p where 0.2 < p < 0.8": (of_class > 0.2) & (of_class < 0.8),
        "oracle: the rows of the class": is_class,
        "oracle: the missed rows of the class": is_class & (fitted.predicted != true)}
    for name, slope in slopes.items():
        dq = np.zeros_like(p, np.float64)
        dq[:, true] = sign * slope
        _say_by_k(name, fitted, dq)


def _say_by_k(what: str, fitted: Fitted, dq: np.ndarray) -> None:
    c = objective_projection(fitted.query_p, fitted.query_J, dq)
    every = by_k(fitted.A, fitted.spectrum.eigenvalues, c, fitted.case.wrong)
    best = int(np.argmax(every))
    _say(f"{what}: automatic k = {fitted.k}", every[fitted.k - 1])
    _say(f"{what}: the best k, {best + 1}", every[best])
    _say(f"{what}: k = {len(every)}", every[-1])


def _say(what: str, value: float) -> None:
    print(f"  {what}: {value:.3f}", flush=True)


if __name__ == "__main__":
    main()
