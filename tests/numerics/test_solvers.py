"""Conjugate gradient, and that three ways to the same influence agree at k = d."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numerics_small import materialised, small_model

from pgrain.influence.baselines import gradient_dot
from pgrain.influence.conjugate_gradient import conjugate_gradient
from pgrain.influence.filters import filter_weights
from pgrain.influence.gradient import objective_gradient
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.lanczos import lanczos
from pgrain.influence.projections import objective_projection, project, training_projection
from pgrain.influence.scores import deletion_changes
from pgrain.models.loss import cross_entropy
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


@pytest.mark.parametrize("architecture", ["logistic_regression", "mlp"])
def test_all_pairs_equal_conjugate_gradient_equal_the_exact_solve(architecture):
    """k = d, alpha > 0: each row's change within a thousandth of itself, three ways. The exact one
    is in float64 from the rows' gradients on. alpha of the net makes its Hessian definite."""
    alpha = {"logistic_regression": 1.0, "mlp": 60.0}[architecture]
    model, theta, X, y = small_model(architecture, n=60)
    d = model.n_parameters
    H = hessian_operator(model, theta, X, y, alpha, n_total=60)
    g = np.random.default_rng(2).standard_normal((len(X), 3))
    gradient = objective_gradient(model, theta, X, g)
    rows = jax.jit(jax.jacrev(lambda t: cross_entropy(model.logits(t, X), jnp.asarray(y))))(theta)
    exact = np.asarray(rows, np.float64) @ np.linalg.solve(materialised(H, d), gradient)
    rain = gradient_dot(model, theta, X, y,
                        conjugate_gradient(H, gradient, n_iter=300, tol=1e-6).value)
    spectrum = lanczos(H, d, d)
    assert len(spectrum.eigenvalues) == d
    logits, J = project(model, theta, X, spectrum.vectors)
    ours = deletion_changes(training_projection(J, residual(None, y, logits)),
                            filter_weights(spectrum.eigenvalues),
                            objective_projection(softmax(logits), J, g))
    worst = {name: float(np.abs(found / exact - 1).max())
             for name, found in (("rain++", ours), ("rain", rain))}
    print(architecture, d, worst, "least over largest", np.abs(exact).min() / np.abs(exact).max())
    assert max(worst.values()) <= 1e-3, worst
