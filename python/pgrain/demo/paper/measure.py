"""One measurement: a model on corrupted rows, its spectrum, and AUC_R of every ranking.

Everything that the figures of section 6 compare comes from records made here: Rain++ at every k,
Rain (conjugate gradient) after every step, and rankings that need neither.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pgrain.demo.metrics import auc_r
from pgrain.demo.paper.cases import TWO_FLIPS, Case, Query, Setting, load
from pgrain.influence.baselines import losses
from pgrain.influence.conjugate_gradient import conjugate_gradient
from pgrain.influence.filters import filter_weights
from pgrain.influence.gradient import objective_gradient
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.lanczos import Spectrum, lanczos
from pgrain.influence.projections import objective_projection, project, training_projection
from pgrain.influence.sample import sample_rows
from pgrain.influence.scores import (
    deletion_changes,
    deletion_changes_by_k,
    relabel_changes,
    replacement_changes,
    self_influence,
)
from pgrain.influence.selection import choose_k
from pgrain.models.registry import Model, build
from pgrain.models.softmax import residual, softmax
from pgrain.models.training import predict_proba, train

Progress = Callable[[str], None]


@dataclass
class Fitted:
    """A trained model of a case with what Rain++ computes beforehand. J: (N, R, m); A: (N, m)."""

    case: Case
    model: Model
    theta: np.ndarray
    alpha: float
    metrics: dict
    spectrum: Spectrum
    k: int
    logits: np.ndarray
    J: np.ndarray
    query_p: np.ndarray
    query_J: np.ndarray
    operator: Callable[[np.ndarray], np.ndarray]
    seconds: dict

    @functools.cached_property
    def residual(self) -> np.ndarray:
        return residual(None, self.case.y, self.logits)

    @functools.cached_property
    def A(self) -> np.ndarray:
        return training_projection(self.J, self.residual)

    @functools.cached_property
    def A_denoised(self) -> np.ndarray:
        """(N, m): projections of the rows as they would be after the repair."""
        logits, J = project(self.model, self.theta, self.case.denoised, self.spectrum.vectors)
        return training_projection(J, residual(None, self.case.y, logits))

    @property
    def predicted(self) -> np.ndarray:
        return self.query_p.argmax(axis=1)


def build_model(setting: Setting, case: Case) -> Model:
    return build(setting.architecture, case.n_classes, case.X.shape[1:],
                 dict(setting.options), n_tokens=case.n_tokens)


def fit(setting: Setting, case: Case, say: Progress = lambda text: None) -> Fitted:
    """Trains on the corrupted rows; spectrum and projections."""
    seconds = {}
    model = build_model(setting, case)

    def timed(name, work):
        say(name)
        start = time.perf_counter()
        found = work()
        seconds[name] = round(time.perf_counter() - start, 3)
        return found

    trained = timed("train", lambda: train(model, case.X, case.y, options=dict(setting.options),
                                           seed=setting.seed))
    chosen = sample_rows(len(case.y), setting.sample, setting.seed)
    operator = hessian_operator(model, trained.theta, case.X[chosen], case.y[chosen],
                                trained.alpha, n_total=len(case.y))
    spectrum = timed("spectrum", lambda: lanczos(operator, model.n_parameters, setting.pairs,
                                                 seed=setting.seed))
    if len(spectrum.eigenvalues) == 0:
        raise RuntimeError(f"{setting}: {spectrum.status}")
    logits, J = timed("project training rows",
                      lambda: project(model, trained.theta, case.X, spectrum.vectors))
    query_logits, query_J = timed("project queried rows", lambda: project(
        model, trained.theta, case.query_X, spectrum.vectors))
    return Fitted(case, model, trained.theta, trained.alpha, trained.metrics, spectrum,
                  choose_k(spectrum.eigenvalues, case.n_classes), logits, J,
                  softmax(query_logits), query_J, operator, seconds)


def clean_predictions(setting: Setting) -> np.ndarray:
    """(V, R) probabilities of the same model on rows without the error; trained once for all
    settings that have it. A convex model's optimum knows no seed."""
    convex = setting.architecture == "logistic_regression"
    return _clean_predictions(replace(
        setting, error="none", rate=0.0, queries=(), swept=(), cg=0, baselines=False, denoise=False,
        systematic=True, pairs=1, sample=1, seed=0 if convex else setting.seed))


@functools.lru_cache(maxsize=64)
def _clean_predictions(setting: Setting) -> np.ndarray:
    case = load(setting)
    model = build_model(setting, case)
    trained = train(model, case.clean_X, case.clean_y, options=dict(setting.options),
                    seed=setting.seed)
    return predict_proba(model, trained.theta, case.query_X)[1]


def measure(setting: Setting, say: Progress = lambda text: None) -> dict:
    """The record of a setting: plain JSON values."""
    return judged(setting, fit(setting, load(setting), say), say)


def judged(setting: Setting, fitted: Fitted, say: Progress = lambda text: None) -> dict:
    """The record of what `fit` gave."""
    case = fitted.case
    say("clean model")
    clean_p = clean_predictions(setting)
    record = {
        "setting": setting.as_json(), "n_parameters": fitted.model.n_parameters,
        "n_rows": len(case.y), "n_wrong": int(case.wrong.sum()), "n_query": len(case.query_y),
        "k": fitted.k, "eigenvalues": fitted.spectrum.eigenvalues.tolist(),
        "spectrum_status": fitted.spectrum.status,
        "spectrum_products": fitted.spectrum.iterations,
        "accuracy": float((fitted.predicted == case.query_y).mean()),
        "accuracy_clean": float((clean_p.argmax(axis=1) == case.query_y).mean()),
        "chance": float(case.wrong.mean()), "seconds": fitted.seconds, "queries": {}}
    brief = replace(setting, baselines=False, cg=0)
    for name in (*setting.queries, *setting.swept):
        say(f"query {name}")
        query = case.query(name, setting.data)
        record["queries"][name] = _judge(setting if name in setting.queries else brief, fitted,
                                         query, clean_p)
    return record


def direction(query: Query, predicted: np.ndarray, p: np.ndarray) -> int:
    """+1 if the value is too high, -1 if too low, against the true labels (section 6.1.3). Where
    the value is right its expectation decides, so that the sweep has an answer for every query."""
    off = query.value(predicted) - query.truth or query.relaxed(p) - query.truth
    return 1 if off >= 0 else -1


def _judge(setting: Setting, fitted: Fitted, query: Query, clean_p: np.ndarray) -> dict:
    """AUC_R of every ranking for the complaint "too high" or "too low" about one query."""
    case = fitted.case
    sign, dq, c = complained(fitted, query)
    found = {"value": query.value(fitted.predicted), "relaxed": query.relaxed(fitted.query_p),
             "truth": query.truth, "clean": query.value(clean_p.argmax(axis=1)),
             "complaint": "too high" if sign > 0 else "too low"}
    if not case.wrong.any():
        return found
    values, k = fitted.spectrum.eigenvalues, fitted.k
    found["rain++"] = by_k(fitted.A, values, c, case.wrong, k)
    mislabelled = np.flatnonzero(case.wrong & (case.clean_y != case.y))
    if len(mislabelled):
        found["relabel_back"] = relabel_back(fitted, c, mislabelled)
    own = own_error(setting, case, query)
    if own is not None:
        found["own"] = by_k(fitted.A, values, c, own, k)
        found["own_oracle"] = judge(oracle(fitted.A, own), own)
    if setting.denoise:
        found["denoise"] = by_k(fitted.A, values, c, case.wrong, k, fitted.A_denoised)
    if setting.baselines or setting.cg:
        gradient = objective_gradient(fitted.model, fitted.theta, case.query_X, dq)
        directions = [gradient]
        if setting.cg:
            steps, found["rain_status"] = cg_steps(fitted.operator, gradient, setting.cg)
            directions += steps
        changes = dot_products(fitted, directions)
        found["gradient_dot"] = judge(-changes[:, 0], case.wrong)
        if setting.cg:
            found["rain"] = [judge(-changes[:, i], case.wrong) for i in range(1, len(directions))]
        if own is not None:
            found["own_gradient_dot"] = judge(-changes[:, 0], own)
            found["own_rain"] = [judge(-changes[:, i], own) for i in range(1, len(directions))]
    if setting.baselines:
        w = 1 / values[:k]
        found["loss"] = judge(losses(fitted.logits, case.y), case.wrong)
        found["self_influence"] = judge(self_influence(fitted.A[:, :k], w), case.wrong)
        if query.classes is not None:
            scores = rule(softmax(fitted.logits), case.y, query.classes, sign)
            found["rule"] = judge(scores, case.wrong)
            if own is not None:
                found["own_rule"] = judge(scores, own)
    return found


def complained(fitted: Fitted, query: Query) -> tuple[int, np.ndarray, np.ndarray]:
    """Of the complaint that the query's value calls for: +1 "too high" or -1 "too low"; dq/dp of
    the objective (V, R); the objective projected (m,)."""
    sign = direction(query, fitted.predicted, fitted.query_p)
    dq = sign * np.asarray(query.gradient(fitted.query_p), np.float64)
    return sign, dq, objective_projection(fitted.query_p, fitted.query_J, dq)


def own_error(setting: Setting, case: Case, query: Query) -> np.ndarray | None:
    """(N,) bool: of two errors, the rows of those that a count is about; None for other settings,
    and where it is about all."""
    about = query.about or query.classes
    if setting.error != "flip2" or about is None:
        return None
    sources = [source for source, target in TWO_FLIPS if {source, target} & set(about)]
    own = case.wrong & np.isin(case.clean_y, sources)
    return own if 0 < own.sum() < case.wrong.sum() else None


def oracle(A: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """(N,) scores of the linear ranking A u that ridge regression finds from the truth: about what
    any query, filter or k could reach with the stored projections. A: (N, m)."""
    scaled = A / np.maximum(np.sqrt((A.astype(np.float64) ** 2).mean(axis=0)), 1e-30)
    H = scaled.T @ scaled + 1e-3 * len(A) * np.eye(A.shape[1])
    return scaled @ np.linalg.solve(H, scaled.T @ (wrong - wrong.mean()))


def judge(scores: np.ndarray, wrong: np.ndarray) -> float:
    """AUC_R of the ranking by descending score."""
    n = int(wrong.sum())
    order = np.argsort(-np.asarray(scores), kind="stable")[:n]
    return round(auc_r(wrong[order], n), 5)


def by_k(A: np.ndarray, eigenvalues: np.ndarray, c: np.ndarray, wrong: np.ndarray,
         k: int | None = None, A_new: np.ndarray | None = None) -> list[float]:
    """AUC_R of Rain++ at k = 1 ... m, the inverse filter: the product's own filter and changes, so
    that a ruin of either shows here. At the automatic `k` it is what a complaint calls for that k:
    `deletion_changes`, or, with A_new, `replacement_changes`. A, A_new: (N, m)."""
    w = filter_weights(eigenvalues)
    moved = A if A_new is None else A - A_new
    found = [judge(-change, wrong) for change in deletion_changes_by_k(moved, w, c)]
    if k is not None:
        changes = (deletion_changes(A[:, :k], w[:k], c[:k]) if A_new is None
                   else replacement_changes(A[:, :k], A_new[:, :k], w[:k], c[:k]))
        found[k - 1] = judge(-changes, wrong)
    return found


def relabel_back(fitted: Fitted, c: np.ndarray, rows: np.ndarray) -> float:
    """Of mislabelled rows, the share whose relabelling to the clean class the complaint welcomes:
    `relabel_changes` at the automatic k is below 0 there. rows: numbers of rows."""
    k, w = fitted.k, filter_weights(fitted.spectrum.eigenvalues)
    changes = relabel_changes(fitted.J[rows], fitted.case.y[rows], w[:k], c[:k])
    back = changes[np.arange(len(rows)), fitted.case.clean_y[rows]]
    return round(float((back < 0).mean()), 5)


def cg_steps(operator, gradient: np.ndarray, n: int) -> tuple[list[np.ndarray], str]:
    """What conjugate gradient has after each step up to n, or up to where it stops by itself. The
    product's own solver, asked n times over the same products."""
    products: list[np.ndarray] = []
    at = 0

    def matvec(v):
        nonlocal at
        if at == len(products):
            products.append(np.asarray(operator(v)))
        at += 1
        return products[at - 1]

    steps: list[np.ndarray] = []
    status = ""
    for i in range(1, n + 1):
        at = 0
        solution = conjugate_gradient(matvec, gradient, n_iter=i)
        status = solution.status
        if solution.stats["iterations"] < i or "curvature" in status:
            break
        steps.append(solution.value)
        if status == "converged":
            break
    return steps, status


def dot_products(fitted: Fitted, directions: list[np.ndarray]) -> np.ndarray:
    """(N, m): <direction, grad l_z> of every training row, all directions in one pass."""
    sizes = [float(np.linalg.norm(v)) or 1.0 for v in directions]
    units = np.stack([v / size for v, size in zip(directions, sizes, strict=True)], axis=1)
    _, J = project(fitted.model, fitted.theta, fitted.case.X, units.astype(np.float32))
    return training_projection(J, fitted.residual) * np.array(sizes)


def rule(p: np.ndarray, y: np.ndarray, classes: tuple[int, ...], sign: int) -> np.ndarray:
    """What one would do without influence. A count of the classes is too low: rows labelled
    otherwise, those first that the model takes for one of them; too high: rows labelled so, those
    first that the model takes for something else. (N,), other rows last."""
    inside, mass = np.isin(y, classes), p[:, list(classes)].sum(axis=1)
    return np.where(inside, -1.0, mass) if sign < 0 else np.where(inside, 1 - mass, -1.0)
