"""The gradient of an objective over values that are not attached: one reverse pass."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pgrain.models.batches import fitting, pad, padded
from pgrain.models.registry import Model
from pgrain.models.softmax import softmax


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Model, theta, X):
    return model.logits(theta, X)


@functools.partial(jax.jit, static_argnums=0)
def _reverse(model: Model, theta, X, cotangent):
    def linear(t):
        return jnp.sum(model.logits(t, X) * cotangent)

    return jax.grad(linear)(theta)


def logit_cotangent(p: np.ndarray, dq_dp: np.ndarray) -> np.ndarray:
    """dq/dlogits = p (g - <p, g>), (V, R) float64.

    In float64: in float32 the component of a confidently predicted class cancels to nothing. A
    constant added to a row of g changes nothing, since p sums to 1; with that of the likeliest
    class taken off, a slope of 1 / (1 - p) there (a row that is almost sure) does not cancel.
    """
    p, g = np.asarray(p, np.float64), np.asarray(dq_dp, np.float64)
    g = g - np.take_along_axis(g, p.argmax(axis=1)[:, None], 1)
    return p * (g - (p * g).sum(axis=1, keepdims=True))


def objective_gradient(model: Model, theta, X: np.ndarray, dq_dp: np.ndarray,
                       batch: int | None = None) -> np.ndarray:
    """grad q = sum_v sum_j dq/dp_vj grad p_vj (paper equation 7): (d,) float64.

    X: (V, *input_shape); dq_dp: (V, R). One reverse-mode pass a batch with dq/dp as cotangent,
    instead of the paper's one a class. Batches are padded to a few fixed sizes, so a new complaint
    compiles nothing; a padded row has the cotangent 0.
    """
    dq_dp = np.asarray(dq_dp, np.float64)
    out = np.zeros(model.n_parameters)
    for rows, size in padded(len(X), batch or fitting(model.row_floats, 3)):
        if dq_dp[rows].any():
            x = pad(X[rows], size)
            p = softmax(np.asarray(_logits(model, theta, x))[: rows.stop - rows.start])
            cotangent = logit_cotangent(p, dq_dp[rows])
            scale = np.abs(cotangent).max() or 1.0   # keeps float32 from under- and overflowing
            out += scale * np.asarray(
                _reverse(model, theta, x, pad((cotangent / scale).astype(np.float32), size)),
                np.float64)
    return out


def reverse_pass(model: Model, theta, X: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
    """sum_v J_v^T cotangent_v with J_v the Jacobian of the logits: (d,) float64.

    X: (V, *input_shape); cotangent: (V, R), of the logits.
    """
    out = np.zeros(model.n_parameters)
    cotangent = np.asarray(cotangent, np.float64)
    for rows, size in padded(len(X), fitting(model.row_floats, 3)):
        scale = np.abs(cotangent[rows]).max() or 1.0   # keeps float32 from under- and overflowing
        out += scale * np.asarray(
            _reverse(model, theta, pad(X[rows], size),
                     pad((cotangent[rows] / scale).astype(np.float32), size)), np.float64)
    return out
