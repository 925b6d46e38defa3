"""Conjugate gradient, and that three ways to the same influence agree at k = d."""

import numpy as np
from numerics_small import materialised, small_model

from pgrain.influence.baselines import gradient_dot
from pgrain.influence.conjugate_gradient import conjugate_gradient
from pgrain.influence.filters import filter_weights
from pgrain.influence.gradient import objective_gradient
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.lanczos import lanczos
from pgrain.influence.projections import objective_projection, project, training_projection
from pgrain.influence.scores import deletion_changes
from pgrain.models.softmax import residual, softmax


def test_solves_a_positive_definite_system():
    rng = np.random.default_rng(0)
    B = rng.standard_normal((30, 30))
    M, b = B @ B.T + np.eye(30), rng.standard_normal(30)
    solution = conjugate_gradient(lambda v: M @ v, b, n_iter=200, tol=1e-10)
    assert solution.status == "converged"
    np.testing.assert_allclose(solution.value, np.linalg.solve(M, b), rtol=1e-6)
    damped = conjugate_gradient(lambda v: M @ v, b, n_iter=200, damping=3.0, tol=1e-10)
    np.testing.assert_allclose(damped.value, np.linalg.solve(M + 3 * np.eye(30), b), rtol=1e-6)


def test_says_when_it_did_not_converge_or_cannot():
    M = np.diag(np.geomspace(1, 1e6, 50))
    solution = conjugate_gradient(lambda v: M @ v, np.ones(50), n_iter=5)
    assert "not converged" in solution.status and solution.stats["iterations"] == 5
    indefinite = conjugate_gradient(lambda v: -v, np.ones(3))
    assert "nonpositive curvature" in indefinite.status
    assert conjugate_gradient(lambda v: v, np.zeros(3)).status == "converged"


def test_all_pairs_equal_conjugate_gradient_equal_the_exact_solve():
    model, theta, X, y = small_model("logistic_regression", n=60)
    H = hessian_operator(model, theta, X, y, 1.0, n_total=60)
    g = np.random.default_rng(2).standard_normal((len(X), 3))
    gradient = objective_gradient(model, theta, X, g)
    dense = materialised(H, model.n_parameters)
    exact = gradient_dot(model, theta, X, y, np.linalg.solve(dense, gradient))
    rain = gradient_dot(model, theta, X, y,
                        conjugate_gradient(H, gradient, n_iter=300, tol=1e-6).value)
    spectrum = lanczos(H, model.n_parameters, model.n_parameters)
    logits, J = project(model, theta, X, spectrum.vectors)
    ours = deletion_changes(training_projection(J, residual(None, y, logits)),
                            filter_weights(spectrum.eigenvalues),
                            objective_projection(softmax(logits), J, g))
    scale = np.abs(exact).max()
    assert np.abs(rain - exact).max() <= 1e-3 * scale
    assert np.abs(ours - exact).max() <= 1e-3 * scale
