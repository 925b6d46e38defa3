"""Projections, gradients and Hessian products against explicit derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numerics_small import ARCHITECTURES, materialised, small_model

from pgrain.errors import Cancelled
from pgrain.influence.baselines import gradient_dot
from pgrain.influence.gradient import objective_gradient
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.projections import objective_projection, project, training_projection
from pgrain.influence.sample import sample_rows
from pgrain.models.loss import cross_entropy, data_loss, total_loss
from pgrain.models.softmax import residual, softmax

architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


# Explicit derivatives of each small model, compiled once for all the tests that compare with them.

@functools.cache
def logits_of(architecture):
    """theta -> logits of the small model's rows, compiled."""
    model, _, X, _ = small_model(architecture)
    return jax.jit(lambda t: model.logits(t, X))


@functools.cache
def jacobian(architecture) -> np.ndarray:
    """(N, R, d): of the logits, in reverse mode."""
    model, theta, X, _ = small_model(architecture)
    return np.asarray(jax.jit(jax.jacrev(lambda t: model.logits(t, X)))(theta))


@functools.cache
def row_gradients(architecture) -> np.ndarray:
    """(N, d): of each row's loss, in reverse mode."""
    model, theta, X, y = small_model(architecture)
    return np.asarray(jax.jit(jax.jacrev(
        lambda t: cross_entropy(model.logits(t, X), jnp.asarray(y))))(theta))


def directions(model, k=4, seed=1):
    V = np.random.default_rng(seed).standard_normal((model.n_parameters, k))
    return np.linalg.qr(V)[0].astype(np.float32)


@architectures
def test_projection_equals_explicit_jacobian_times_v(architecture):
    model, theta, X, _ = small_model(architecture)
    V = directions(model)
    logits, J = project(model, theta, X, V, batch=7)          # 24 rows: a batch that is not full
    np.testing.assert_allclose(J, jacobian(architecture) @ V, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(logits, logits_of(architecture)(theta), rtol=1e-5, atol=1e-5)
    assert J.dtype == logits.dtype == np.float32 and J.flags.c_contiguous


@architectures
def test_training_projection_equals_v_transposed_times_loss_gradient(architecture):
    model, theta, X, y = small_model(architecture)
    V = directions(model)
    logits, J = project(model, theta, X, V, batch=7)
    np.testing.assert_allclose(training_projection(J, residual(None, y, logits)),
                               row_gradients(architecture) @ V, rtol=1e-3, atol=3e-5)


@architectures
def test_objective_projection_gradient_and_finite_differences_agree(architecture):
    model, theta, X, _ = small_model(architecture)
    V = directions(model)
    g = np.random.default_rng(3).standard_normal((len(X), model.n_classes))
    g[::3] = 0                                                # rows that the query leaves out
    logits, J = project(model, theta, X, V, batch=7)
    c = objective_projection(softmax(logits), J, g)
    gradient = objective_gradient(model, theta, X, g, batch=16)
    np.testing.assert_allclose(V.T @ gradient, c, rtol=1e-3, atol=1e-4)
    assert c.dtype == np.float64

    def q(t):
        return float((softmax(np.asarray(logits_of(architecture)(t))) * g).sum())

    h = 0.01
    differences = [(q(theta + h * v) - q(theta - h * v)) / (2 * h) for v in V.T]
    np.testing.assert_allclose(c, differences, rtol=5e-3, atol=5e-3)


@architectures
def test_hessian_product_equals_difference_of_gradients(architecture):
    model, theta, X, y = small_model(architecture)
    v = directions(model, 1)[:, 0]
    weights = np.ones(len(y), np.float32)
    gradient = jax.jit(jax.grad(lambda t: total_loss(model, t, X, jnp.asarray(y), weights, 0.7)))
    h = 0.01
    differences = (gradient(theta + h * v) - gradient(theta - h * v)) / (2 * h)
    product = hessian_operator(model, theta, X, y, 0.7, n_total=len(y))(v)
    np.testing.assert_allclose(product, differences, rtol=1e-2,
                               atol=5e-3 * float(np.abs(product).max()))


@architectures
def test_hessian_product_equals_the_dense_hessian_for_any_chunk(architecture):
    model, theta, X, y = small_model(architecture)
    dense = np.asarray(jax.jit(jax.hessian(lambda t: data_loss(
        model, t, X, jnp.asarray(y), jnp.ones(len(y)))))(theta))
    dense = dense + 0.3 * np.eye(model.n_parameters)
    for chunk in (5, None):                                   # 24 rows: padded, automatic
        H = hessian_operator(model, theta, X, y, 0.3, n_total=len(y), chunk=chunk)
        np.testing.assert_allclose(materialised(H, model.n_parameters), dense,
                                   rtol=1e-3, atol=1e-4 * np.abs(dense).max())


@architectures
def test_gauss_newton_product_equals_jacobians_and_is_never_negative(architecture):
    model, theta, X, y = small_model(architecture)
    J = jacobian(architecture).astype(np.float64)
    p = softmax(np.asarray(logits_of(architecture)(theta)))
    S = np.einsum("nr,rs->nrs", p, np.eye(3)) - np.einsum("nr,ns->nrs", p, p)
    dense = np.einsum("nrd,nrs,nse->de", J, S, J) + 0.3 * np.eye(model.n_parameters)
    G = materialised(hessian_operator(model, theta, X, y, 0.3, n_total=len(y), chunk=7,
                                      curvature="gauss_newton"), model.n_parameters)
    np.testing.assert_allclose(G, dense, rtol=1e-3, atol=1e-4 * np.abs(dense).max())
    assert np.linalg.eigvalsh((G + G.T) / 2)[0] > 0.29
    if architecture == "logistic_regression":
        H = materialised(hessian_operator(model, theta, X, y, 0.3, n_total=len(y)),
                         model.n_parameters)
        np.testing.assert_allclose(G, H, rtol=1e-3, atol=1e-4 * np.abs(H).max())


def test_scale_of_a_sampled_hessian():
    """H = (N/n) sum_S + alpha I: the data part grows with N, alpha does not."""
    model, theta, X, y = small_model("mlp", n=600)
    v = directions(model, 1)[:, 0]
    sample = sample_rows(600, 200, seed=0)
    part = hessian_operator(model, theta, X[sample], y[sample], 0.0, n_total=200)(v)
    scaled = hessian_operator(model, theta, X[sample], y[sample], 5.0, n_total=600)(v)
    np.testing.assert_allclose(scaled, 3 * part + 5 * v, rtol=1e-4, atol=1e-3)
    whole = hessian_operator(model, theta, X, y, 5.0, n_total=600)(v)
    assert np.linalg.norm(scaled - whole) < 0.3 * np.linalg.norm(whole)
    assert np.linalg.norm(part + 5 * v - whole) > 0.5 * np.linalg.norm(whole)


def test_samples_are_seeded_sorted_and_without_repeats():
    one, two = sample_rows(1000, 100, 4), sample_rows(1000, 100, 4)
    np.testing.assert_array_equal(one, two)
    assert (np.diff(one) > 0).all() and len(one) == 100 and one.max() < 1000
    assert not np.array_equal(one, sample_rows(1000, 100, 5))
    np.testing.assert_array_equal(sample_rows(5, 100, 0), np.arange(5))


@architectures
def test_gradient_dot_equals_rows_gradients_times_gradient(architecture):
    model, theta, X, y = small_model(architecture)
    g = 1e-9 * np.random.default_rng(5).standard_normal(model.n_parameters)
    np.testing.assert_allclose(gradient_dot(model, theta, X, y, g),
                               row_gradients(architecture) @ g, rtol=2e-3, atol=1e-13)


def test_confident_rows_keep_a_gradient():
    """p_y - 1 is computed without cancellation: a saturated row keeps an influence."""
    logits = np.array([[40.0, 0.0, 0.0]], np.float32)
    r = residual(None, np.array([0]), logits)
    assert r[0, 0] < 0 and r[0, 1] > 0
    np.testing.assert_allclose(r[0, 0], -2 * np.exp(-40.0), rtol=1e-6)
    assert abs(r.sum()) < 1e-24


def test_projection_can_be_cancelled():
    model, theta, X, _ = small_model("mlp")

    def cancel(done, total, message):
        raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        project(model, theta, X, directions(model), progress=cancel)


def test_no_directions_and_no_rows():
    model, theta, X, _ = small_model("mlp")
    logits, J = project(model, theta, X[:0], directions(model))
    assert logits.shape == (0, 3) and J.shape == (0, 3, 4)
    assert not objective_projection(np.zeros((0, 3)), J, np.zeros((0, 3))).any()
    assert not objective_gradient(model, theta, X, np.zeros((len(X), 3))).any()
