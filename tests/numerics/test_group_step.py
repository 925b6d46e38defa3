"""The group step against retraining, against a general minimiser, and first order."""

from __future__ import annotations

import numpy as np
import pytest
from numerics_small import Reference, small_model
from scipy.optimize import minimize

from pgrain.influence.completion import Completion
from pgrain.influence.group_step import Added, GroupStep, logits_of, moved_probabilities
from pgrain.influence.projections import project, training_projection
from pgrain.models import registry
from pgrain.models.softmax import log_softmax, residual, softmax

N, D, R, ALPHA = 400, 4, 3, 1.0



@pytest.fixture(scope="module")
def convex():
    """Logistic regression, all of whose parameter space is the subspace: nothing is lost there."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, R, N)
    X = rng.normal(size=(N, D)) + np.array([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]])[y]
    wrong = (y == 0) & (X[:, 0] > 2.2)
    y = np.where(wrong, 1, y)
    X = X.astype(np.float32)
    reference = Reference(R, ALPHA)
    W = reference.optimum(X, y)
    model = registry.build("logistic_regression", R, (D,), {})
    theta = np.asarray(model.from_pytree({"dense.kernel": W[:-1], "dense.bias": W[-1]}))
    V = np.eye(model.n_parameters, dtype=np.float32)
    logits, J = project(model, theta, X, V)
    step = GroupStep(J, logits_of(residual(None, y, logits), y), y, ALPHA,
                     V.T.astype(np.float64) @ theta)
    inference = (rng.normal(size=(300, D)) + np.array([2, 0, 0, 0])).astype(np.float32)
    return dict(X=X, y=y, wrong=wrong, W=W, model=model, theta=theta, V=V, J=J, logits=logits,
                step=step, reference=reference, inference=inference, rng=rng)


def retrained(case, keep, labels):
    W = case["reference"].optimum(case["X"][keep], labels[keep], case["W"])
    return np.asarray(case["model"].from_pytree({"dense.kernel": W[:-1], "dense.bias": W[-1]}))


KINDS = ["delete one", "delete the wrong", "delete half", "relabel", "relabel against evidence",
         "repair", "all"]


def edited(case, kind):
    """(kept (N,) bool, labels (N,), rows whose features are repaired, those features)."""
    keep, y, at = np.ones(N, bool), case["y"].copy(), np.zeros(0, np.int64)
    if kind == "delete one":
        keep[7] = False
    elif kind == "delete half":
        keep[::2] = False
    elif kind == "delete the wrong":
        keep[case["wrong"]] = False
    elif kind == "relabel against evidence":
        y[:60] = (y[:60] + 1) % R
    if kind in ("relabel", "all"):
        y[case["wrong"]] = 0
    if kind == "all":
        keep[200:260] = False
    if kind in ("repair", "all"):
        at = np.arange(100, 180)
    new = -case["X"][at] + np.float32(0.5)
    keep[at] = False
    return keep, y, at, new


def added(case, V, at, new, y):
    logits, J = project(case["model"], case["theta"], new, V)
    return Added(J, logits, y[at]) if len(at) else None


def moved_by_training(case, keep, y, at, new):
    W = case["reference"].optimum(np.concatenate([case["X"][keep], new]),
                                  np.concatenate([y[keep], y[at]]), case["W"])
    return np.asarray(case["model"].from_pytree({"dense.kernel": W[:-1], "dense.bias": W[-1]}),
                      np.float64) - case["theta"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_retraining_where_the_subspace_is_everything(convex, kind):
    case, step = convex, convex["step"]
    keep, y, at, new = edited(case, kind)
    step.edit(keep.astype(float), y, added(case, case["V"], at, new, y))
    moved = step.solve()
    true = moved_by_training(case, keep, y, at, new)
    assert moved.status == "converged"
    np.testing.assert_allclose(moved.u, true, atol=2e-3 * np.abs(true).max())
    assert not np.allclose(-moved.u, true, atol=0.5 * np.abs(true).max())


@pytest.mark.parametrize("kind", KINDS)
def test_completed_a_few_stored_directions_are_enough(convex, kind):
    """4 of 15 directions are stored, and those of the edits found: retraining again. Without them
    it is not, also where the stored ones are the stiffest, as in the product."""
    case = convex
    H = _as_model(case, case["reference"].hessian(case["W"], case["X"]))
    V = np.ascontiguousarray(np.linalg.eigh(H)[1][:, :-5:-1]).astype(np.float32)
    logits, J = project(case["model"], case["theta"], case["X"], V)
    queried, J_queried = project(case["model"], case["theta"], case["inference"], V)
    step = GroupStep(J, logits, case["y"], ALPHA, V.T.astype(np.float64) @ case["theta"])
    completion = Completion(case["model"], case["theta"], V, step, case["X"], np.arange(N),
                            case["inference"], J_queried)
    keep, y, at, new = edited(case, kind)
    completion.edit(keep.astype(float), y, added(case, V, at, new, y), new)
    true = moved_by_training(case, keep, y, at, new)

    def error(u):
        return np.abs(completion.basis @ u - true).max() / np.abs(true).max()

    u = step.solve().u
    errors = [error(u)]
    while completion.count < 10 and completion.extend(u):
        u = step.solve(np.append(u, 0.0)).u
        errors.append(error(u))
    assert errors[0] > 0.02 and errors[-1] < 3e-3, errors
    P = moved_probabilities(queried, completion.J, u)
    np.testing.assert_allclose(P, softmax(project(
        case["model"], case["theta"] + true, case["inference"], V)[0]), atol=3e-3)
    # The next edits start with the directions that are there.
    completion.edit(keep.astype(float), y, added(case, V, at, new, y), new)
    assert error(step.solve().u) < 3e-3


def test_first_order_falls_short_of_it(convex):
    """The reason for the step: many rows at once are not the sum of each alone."""
    case, step = convex, convex["step"]
    keep = ~case["wrong"]
    step.edit(keep.astype(float), case["y"])
    u = step.solve().u
    true = retrained(case, keep, case["y"]) - case["theta"]
    H = case["reference"].hessian(case["W"], case["X"])
    A = training_projection(case["J"], residual(None, case["y"], case["logits"]))
    rotate = case["V"]      # parameters of the model and of the reference stand in one order
    first = np.linalg.solve(_as_model(case, H), rotate @ A[case["wrong"]].sum(axis=0))
    logits, J = project(case["model"], case["theta"], case["inference"], case["V"])

    def count(v):
        return moved_probabilities(logits, J, v)[:, 0].sum()

    start = count(np.zeros(step.m))
    share = (count(u) - start) / (count(true) - start)
    p = softmax(logits)
    slope = (p[:, [0]] * (J[:, 0] - np.einsum("nr,nrm->nm", p, J))).sum(axis=0)
    linear = float(slope @ first) / (count(true) - start)
    assert share == pytest.approx(1, abs=0.01)
    assert 0 < linear < 0.9


def _as_model(case, H):
    """The reference's Hessian, whose parameters are (D + 1, R) in rows, in the model's order."""
    d = (D + 1) * R
    order = np.asarray(case["model"].from_pytree({
        "dense.kernel": np.arange(D * R, dtype=np.float64).reshape(D, R),
        "dense.bias": np.arange(D * R, d, dtype=np.float64)})).astype(int)
    return H[np.ix_(order, order)]


def test_a_truncated_subspace_is_solved_as_well_as_it_can_be(convex):
    """Against a general minimiser over the same few coordinates, in float64."""
    case = convex
    V = np.linalg.qr(np.random.default_rng(1).normal(size=(15, 4)))[0].astype(np.float32)
    logits, J = project(case["model"], case["theta"], case["X"], V)
    theta = V.T.astype(np.float64) @ case["theta"]
    step = GroupStep(J, logits, case["y"], ALPHA, theta)
    keep, y = ~case["wrong"], case["y"].copy()
    y[10:40] = (y[10:40] + 1) % R
    new = added(case, V, np.arange(50, 55), case["X"][300:305], y)
    step.edit(keep.astype(float), y, new)

    def loss(u):
        log_p = log_softmax(logits + J.astype(np.float64) @ u)
        log_new = log_softmax(new.logits + new.J.astype(np.float64) @ u)
        return (-(keep * log_p[np.arange(N), y]).sum() - step.base @ u
                - log_new[np.arange(5), new.labels].sum()
                + ALPHA / 2 * ((theta + u) ** 2).sum())

    best = minimize(loss, np.zeros(4), method="BFGS", tol=1e-12).x
    np.testing.assert_allclose(step.solve().u, best, atol=2e-4)
    np.testing.assert_allclose(step.solve(best + 3.0).u, best, atol=2e-4)


@pytest.mark.parametrize("architecture", ["mlp", "cnn"])
def test_no_edit_is_no_move_also_away_from_the_optimum(architecture):
    model, theta, X, y = small_model(architecture)
    V = np.linalg.qr(np.random.default_rng(0).normal(size=(len(theta), 6)))[0]
    logits, J = project(model, theta, X, V)
    step = GroupStep(J, logits, y, 0.5, V.T @ theta)
    assert np.abs(step.base).max() > 0.1          # far from stationary
    step.edit(np.ones(len(y)), y)
    assert np.abs(step.solve().u).max() < 1e-6
    weights = np.ones(len(y))
    weights[:5] = 0
    step.edit(weights, y)
    u = step.solve().u
    gradient = step.gradient(u)[0]
    assert np.abs(u).max() > 1e-3 and np.abs(gradient).max() < 1e-2


def test_an_alpha_below_rounding_errors(convex):
    """Adding one vector to all classes changes no logits' differences: alpha alone holds those
    directions, and a float32 sum of curvature swallows a small one."""
    weights = np.where(np.arange(N) % 3 == 0, 0, 1).astype(np.float32)
    moved = []
    for alpha in (1e-9, 1e-3):
        step = GroupStep(convex["J"], convex["logits"], convex["y"], alpha,
                         convex["V"].T.astype(np.float64) @ convex["theta"])
        step.edit(weights, convex["y"])
        u = step.solve().u
        moved.append(moved_probabilities(convex["logits"], convex["J"], u))
    assert np.abs(moved[0] - moved[1]).max() < 1e-3
    assert np.abs(moved[0] - softmax(convex["logits"])).max() > 1e-2


def test_edits_that_leave_nothing_converge():
    """All rows deleted: only alpha holds the parameters, and the step still ends."""
    model, theta, X, y = small_model("logistic_regression")
    V = np.eye(len(theta), dtype=np.float32)
    logits, J = project(model, theta, X, V)
    step = GroupStep(J, logits, y, 0.5, theta)
    step.edit(np.zeros(len(y)), y)
    moved = step.solve()
    assert np.isfinite(moved.u).all() and moved.iterations <= 60


def test_logits_from_stored_residuals():
    rng = np.random.default_rng(2)
    logits = (rng.normal(size=(50, 5)) * 12).astype(np.float32)
    y = logits.argmax(axis=1)
    back = logits_of(residual(None, y, logits), y)
    np.testing.assert_allclose(log_softmax(back), log_softmax(logits), atol=1e-4)
