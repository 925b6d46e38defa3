"""Lanczos against dense eigendecomposition: nothing missing, nothing invented, nothing negative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics_small import ARCHITECTURES, DEEP, small_model

from pgrain.errors import Cancelled, LimitExceeded
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.lanczos import Spectrum, lanczos
from pgrain.models.loss import total_loss


def symmetric(eigenvalues, seed=0) -> np.ndarray:
    d = len(eigenvalues)
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]
    return (Q * np.asarray(eigenvalues, np.float64)) @ Q.T


def check(M, spectrum, tol=1e-3):
    """What every answer must satisfy, measured on the matrix itself in float64."""
    V, values = spectrum.vectors.astype(np.float64), spectrum.eigenvalues
    m = len(values)
    assert V.shape == (len(M), m) and len(spectrum.residuals) == m
    assert (values > 0).all() and (np.diff(values) <= 1e-9 * np.abs(values[:-1])).all()
    assert np.abs(V.T @ V - np.eye(m)).max(initial=0) <= 1e-5
    residuals = np.linalg.norm(M @ V - V * values, axis=0)
    assert (residuals <= 1.05 * tol * values + 1e-6 * np.abs(M).max()).all()
    # The i-th pair is the i-th largest: no ghosts, no holes.
    true = np.linalg.eigvalsh(M)[::-1][:m]
    np.testing.assert_allclose(values, true, rtol=2 * tol, atol=1e-6 * np.abs(M).max())


value = st.one_of(st.sampled_from([-3.0, -1.0, 0.5, 0.5001, 1.0, 2.0, 100.0]),
                  st.floats(-10, 1000).filter(lambda v: abs(v) > 0.01))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(value, min_size=1, max_size=40), st.integers(1, 12), st.integers(0, 5))
def test_any_symmetric_matrix(eigenvalues, n_pairs, seed):
    M = symmetric(eigenvalues, seed)
    spectrum = lanczos(lambda v: M @ v, len(M), n_pairs, seed=seed)
    check(M, spectrum)
    positive = sum(v > 0 for v in eigenvalues)
    assert len(spectrum.eigenvalues) == min(n_pairs, positive), spectrum.status
    assert (spectrum.status == "converged") == (positive >= n_pairs)


def test_repeated_eigenvalues_come_with_their_multiplicity():
    M = symmetric([50.0] * 4 + [7.0] * 3 + [1.0] * 200)
    spectrum = lanczos(lambda v: M @ v, len(M), 7)
    check(M, spectrum)
    np.testing.assert_allclose(spectrum.eigenvalues, [50] * 4 + [7] * 3, rtol=1e-3)


def test_no_ghosts_where_plain_lanczos_makes_them():
    """One dominant eigenvalue: plain Lanczos reports it again and again after it converged."""
    values = np.concatenate([[1e4, 1e3], np.linspace(1, 2, 300)])
    M = symmetric(values)
    spectrum = lanczos(lambda v: M @ v, len(M), 20, max_iterations=250)
    check(M, spectrum)
    assert (spectrum.eigenvalues > 500).sum() == 2


def test_a_start_vector_that_hardly_contains_the_leading_vector():
    """Found by hypothesis: 364 converged before 368 was seen, and was returned as the largest."""
    M = symmetric([-3.0] * 5 + [0.5, -3, -3, 100, 45, 364, -3, 368])
    for seed in range(20):
        check(M, lanczos(lambda v: M @ v, len(M), 1, seed=seed))


def test_negative_eigenvalues_larger_than_any_positive_one():
    M = symmetric(np.concatenate([-np.geomspace(1e4, 1, 60), np.geomspace(100, 1, 60)]))
    spectrum = lanczos(lambda v: M @ v, len(M), 10)
    check(M, spectrum)
    assert len(spectrum.eigenvalues) == 10


@pytest.mark.parametrize("values, kept", [([3.0, 2.0, 1.0], 3), ([3.0, -2.0], 1), ([0.0, 0.0], 0),
                                          ([-1.0], 0)])
def test_fewer_pairs_than_asked_for(values, kept):
    M = symmetric(values)
    spectrum = lanczos(lambda v: M @ v, len(M), 30)
    assert len(spectrum.eigenvalues) == kept
    assert spectrum.iterations == len(values)
    assert spectrum.status != "converged" and spectrum.status.strip()
    check(M, spectrum)


def test_too_few_iterations_say_so_and_return_only_what_converged():
    M = symmetric(np.concatenate([[1e3], np.linspace(1, 1.2, 400)]))
    spectrum = lanczos(lambda v: M @ v, len(M), 20, max_iterations=22)
    assert 1 <= len(spectrum.eigenvalues) < 20
    assert "allow more" in spectrum.status
    V = spectrum.vectors.astype(np.float64)
    assert (np.linalg.norm(M @ V - V * spectrum.eigenvalues, axis=0)
            <= 1.05e-3 * spectrum.eigenvalues).all()


def test_an_operator_that_is_not_finite_is_an_answer_not_a_crash():
    spectrum = lanczos(lambda v: v * np.nan, 10, 3)
    assert len(spectrum.eigenvalues) == 0 and "finite" in spectrum.status


def test_same_seed_same_spectrum_and_cancel():
    M = symmetric(np.geomspace(100, 0.1, 60))
    one, two = (lanczos(lambda v: M @ v, 60, 5, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.vectors, two.vectors)

    def cancel(done, total, message):
        if done == 4:
            raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        lanczos(lambda v: M @ v, 60, 5, progress=cancel)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *DEEP])
def test_spectrum_of_every_architecture_against_the_dense_hessian(architecture):
    """An indefinite Hessian (an untrained net, almost no alpha). The dense one is `jax.hessian` of
    the loss, or for many layers its gradient differentiated backwards once more, a row at a time:
    either way none of what the operator does."""
    deep = architecture in DEEP
    model, theta, X, y = small_model(architecture, n=12 if deep else 40)
    y = jnp.asarray(y)

    def loss(t):
        return total_loss(model, t, X, y, jnp.ones(len(X)), 1e-3)

    def row(v):
        return jax.grad(lambda t: jnp.vdot(jax.grad(loss)(t), v))(theta)

    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    if deep:
        dense = jax.jit(lambda E: jax.lax.map(row, E), compiler_options=quick)(
            jnp.eye(model.n_parameters))
    else:
        dense = jax.jit(jax.hessian(loss), compiler_options=quick)(theta)
    M = np.asarray(dense, np.float64)
    assert np.abs(M - M.T).max() <= 1e-4 * np.abs(M).max()
    if architecture != "logistic_regression":
        assert np.linalg.eigvalsh(M)[0] < 0
    H = hessian_operator(model, theta, X, np.asarray(y), 1e-3, n_total=len(X))
    spectrum = lanczos(H, model.n_parameters, 6)
    check((M + M.T) / 2, spectrum)
    assert len(spectrum.eigenvalues) == 6


def test_more_pairs_without_starting_over():
    values = np.concatenate([np.geomspace(1e3, 5, 40), np.linspace(0.1, 1, 300), [-2, -30]])
    M = symmetric(values)
    products = []

    def matvec(v):
        products.append(1)
        return M @ v

    first = lanczos(matvec, len(M), 12)
    products.clear()
    more = lanczos(matvec, len(M), 30, known=first)
    continued = len(products)
    check(M, more)
    assert more.status == "converged" and len(more.eigenvalues) == 30
    np.testing.assert_array_equal(more.vectors[:, :12], first.vectors)      # kept as they were
    np.testing.assert_array_equal(more.residuals[:12], first.residuals)
    products.clear()
    fresh = lanczos(matvec, len(M), 30)
    np.testing.assert_allclose(more.eigenvalues, fresh.eigenvalues, rtol=2e-3)
    assert continued <= len(products)
    products.clear()
    assert len(lanczos(matvec, len(M), 10, known=first).eigenvalues) == 10 and not products


def test_residuals_of_new_pairs_are_those_of_the_operator_itself():
    """A known vector that is off contaminates what is orthogonal to it, and that shows."""
    M = symmetric(np.geomspace(100, 0.5, 60))
    good = lanczos(lambda v: M @ v, 60, 5)
    tilt = np.random.default_rng(0).standard_normal(good.vectors.shape)
    Q = np.linalg.qr(good.vectors + 0.05 * tilt)[0].astype(np.float32)
    off = Spectrum(good.eigenvalues, Q, good.residuals, good.iterations, good.status)
    more = lanczos(lambda v: M @ v, 60, 12, known=off)
    assert len(more.eigenvalues) < 12 and more.status != "converged"


@pytest.mark.parametrize("rooms", [26, 33, 60])
def test_a_bounded_basis_restarts_and_finds_the_same(rooms):
    M = symmetric(np.concatenate([np.geomspace(1e3, 10, 15), np.linspace(-5, 5, 400)]))
    spectrum = lanczos(lambda v: M @ v, len(M), 8 if rooms > 32 else 1,
                       memory=8 * len(M) * rooms, max_iterations=400)
    check(M, spectrum)
    assert spectrum.status == "converged"


def test_too_little_memory_is_refused_with_what_would_fit():
    with pytest.raises(LimitExceeded) as raised:
        lanczos(lambda v: v, 1000, 100, memory=8 * 1000 * 60)
    assert "at most 35 pairs" in raised.value.hint
