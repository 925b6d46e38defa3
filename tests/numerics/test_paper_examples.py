"""The paper's section 3, in numbers, and rankings that must find nothing.

Its printed X has two rows wrong: with its own loss, (-theta_1 - 3)^2 and (theta_2/1000 - 1)^2, x_2
is (-1, 0) and x_3 is (0, 1/1000).
"""

from __future__ import annotations

import numpy as np
import pytest

from pgrain.influence.filters import filter_weights
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.lanczos import lanczos
from pgrain.influence.projections import objective_projection, project, training_projection
from pgrain.influence.scores import deletion_changes
from pgrain.models import registry, training
from pgrain.models.softmax import residual, softmax

X = np.array([[1, 0], [-1, 0], [0, 1e-3], [0, -1e-3]])
Y = np.array([1.0, 3.0, 1.0, 3.0])
OPTIMUM = np.array([-1.0, -1e3])


def least_squares(X, y):
    return np.linalg.lstsq(X, y, rcond=None)[0]


def test_the_example_is_as_the_text_says():
    H = 2 * X.T @ X
    np.testing.assert_allclose(least_squares(X, Y), OPTIMUM, rtol=1e-9)
    np.testing.assert_allclose(H, [[4, 0], [0, 4e-6]], atol=1e-18)
    spectrum = lanczos(lambda v: H @ v, 2, 2)
    np.testing.assert_allclose(spectrum.eigenvalues, [4, 4e-6], rtol=1e-6)
    gradients = 2 * (X @ OPTIMUM - Y)[:, None] * X
    np.testing.assert_allclose(gradients[0], [-4, 0], atol=1e-12)
    np.testing.assert_allclose(gradients[2], [0, -4e-3], atol=1e-12)


def test_why_small_eigenvalues_hurt():
    """z_5 = ((0, 1), 1): with both pairs the step is off by 5e8 where the truth moves by 1e3; with
    the leading pair alone nothing absurd happens."""
    H = 2 * X.T @ X
    x5, y5 = np.array([0.0, 1.0]), 1.0
    gradient = 2 * (x5 @ OPTIMUM - y5) * x5
    spectrum = lanczos(lambda v: H @ v, 2, 2)
    V = spectrum.vectors.astype(np.float64)
    truth = least_squares(np.vstack([X, x5]), np.append(Y, y5))
    np.testing.assert_allclose(truth, [-1, 1], atol=0.01)

    def moved(k, name="inverse", damping=0.0):
        w = filter_weights(spectrum.eigenvalues[:k], name, damping)
        return OPTIMUM - V[:, :k] @ (w * (V[:, :k].T @ gradient))

    assert moved(2)[1] == pytest.approx(5e8, rel=0.01)
    error = {k: np.linalg.norm(moved(k) - truth) for k in (1, 2)}
    assert error[1] < 1.1e3 < 4e8 < error[2]
    for name in ("damped", "tikhonov", "truncated"):       # the filters are for just this
        assert np.linalg.norm(moved(2, name, 0.01) - truth) < 6e4


def ranked(y, q_rows, q_class, X, wrong):
    """AUC_R of deletions for a count of `q_class` among `q_rows`, too high."""
    model = registry.build("logistic_regression", 3, (X.shape[1],), {})
    theta = training.train(model, X, y, options={"alpha": 1.0}).theta
    H = hessian_operator(model, theta, X, y, 1.0, n_total=len(y))
    spectrum = lanczos(H, model.n_parameters, 12)
    logits, J = project(model, theta, X, spectrum.vectors)
    z, Jx = project(model, theta, q_rows, spectrum.vectors)
    g = np.zeros((len(q_rows), 3))
    g[:, q_class] = 1
    c = objective_projection(softmax(z), Jx, g)
    A = training_projection(J, residual(None, y, logits))
    order = np.argsort(deletion_changes(A, filter_weights(spectrum.eigenvalues), c))
    hits = np.cumsum(wrong[order])[: wrong.sum()]
    best = np.arange(1, wrong.sum() + 1)
    return hits.sum() / best.sum()


def rows(rng, n=600):
    centres = np.array([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]])
    y = rng.integers(0, 3, n)
    return (centres[y] + rng.standard_normal((n, 4))).astype(np.float32), y


def test_negative_controls():
    """Corrupted labels are found by the query that they spoil; on clean and on permuted labels,
    rows picked at random come out at chance. The classes overlap, so the former is no 1."""
    found: dict[str, list] = {"spoiled": [], "clean": [], "permuted": []}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        X, y = rows(rng)
        Q, truth = rows(rng, 300)
        wrong = (y == 0) & (X[:, 3] > 0.3)                  # systematic: class 0 called 1
        found["spoiled"].append(ranked(np.where(wrong, 1, y), Q[truth == 0], 1, X, wrong))
        # A tenth of all rows, whichever: nothing is wrong with them.
        picked = rng.random(len(y)) < 0.1
        found["clean"].append(ranked(y, Q, 1, X, picked))
        found["permuted"].append(ranked(rng.permutation(y), Q, 1, X, picked))
    print({name: np.round(values, 3).tolist() for name, values in found.items()})
    for name in ("clean", "permuted"):                      # chance is the share of picked rows
        assert np.mean(found[name]) < 0.2, found
        assert np.mean(found["spoiled"]) > 4 * np.mean(found[name]), found
