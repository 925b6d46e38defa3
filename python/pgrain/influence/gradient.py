"""The gradient of an objective over values that are not attached: one reverse pass."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pgrain.models.batches import fitting, pad, padded
from pgrain.models.registry import Model


@functools.partial(jax.jit, static_argnums=0)
def _reverse(model: Model, theta, X, dq_dp):
    def linear(t):
        return jnp.sum(jax.nn.softmax(model.logits(t, X)) * dq_dp)

    return jax.grad(linear)(theta)


def objective_gradient(model: Model, theta, X: np.ndarray, dq_dp: np.ndarray,
                       batch: int | None = None) -> np.ndarray:
    """grad q = sum_v sum_j dq/dp_vj grad p_vj (paper equation 7): (d,) float64.

    X: (V, *input_shape); dq_dp: (V, R). One reverse-mode pass a batch with dq/dp as cotangent,
    instead of the paper's one a class. Batches are padded to a few fixed sizes, so a new complaint
    compiles nothing; a padded row has the cotangent 0.
    """
    dq_dp = np.asarray(dq_dp, np.float32)
    out = np.zeros(model.n_parameters)
    for rows, size in padded(len(X), batch or fitting(model.row_floats, 3)):
        if dq_dp[rows].any():
            out += np.asarray(_reverse(model, theta, pad(X[rows], size), pad(dq_dp[rows], size)),
                              np.float64)
    return out
