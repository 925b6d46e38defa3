"""Products with the Hessian of the training loss, in bounded memory.

Deviations from the paper (section 2.2 and 4.1):
1. H = (N/n) sum_S hess l + alpha I: a sum over a seeded sample S of n of the N rows, scaled to all
   of them, plus the regularisation of the loss (`models/loss.py`).
2. H v is forward over reverse (the tangent of the gradient), which is cheaper and leaner than
   differentiating <grad, v> backwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pgrain.models.batches import fitting
from pgrain.models.loss import data_loss
from pgrain.models.registry import Model


@functools.partial(jax.jit, static_argnums=0)
def _product(model: Model, theta, v, X, y, weights):
    """sum over chunks of (hess of sum w l) v; X: (chunks, rows, ...), y and weights alike."""
    def chunk(total, rows):
        def gradient(t):
            return jax.grad(data_loss, argnums=1)(model, t, *rows)
        return total + jax.jvp(gradient, (theta,), (v,))[1], None

    return jax.lax.scan(chunk, jnp.zeros_like(theta), (X, y, weights))[0]


def hessian_operator(model: Model, theta, X: np.ndarray, y: np.ndarray, alpha: float, *,
                     n_total: int, weights: np.ndarray | None = None,
                     chunk: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """The map v (d,) -> H v (d,) float32.

    X, y: the n rows of the sample, `n_total` = N the number of training rows they stand for.
    weights: (n,), default 1. chunk: rows at a time; by default what fits in
    `models.batches.MEMORY_BYTES`. Compiled once a model and shape.
    """
    n = len(y)
    # Forward and backward activations and their tangents; the compiler reuses about half of them.
    chunk = min(chunk or fitting(model.row_floats, 3), n)
    chunks = -(-n // chunk)
    w = np.ones(n, np.float32) if weights is None else np.asarray(weights, np.float32)

    def split(rows):
        out = np.zeros((chunks * chunk, *rows.shape[1:]), rows.dtype)
        out[:n] = rows
        return jnp.asarray(out.reshape(chunks, chunk, *rows.shape[1:]))

    data = split(np.asarray(X)), split(np.asarray(y, np.int32)), split(w)
    theta = jnp.asarray(theta, jnp.float32)
    scale = n_total / n

    def matvec(v: np.ndarray) -> np.ndarray:
        v = np.asarray(v, np.float32)
        return scale * np.asarray(_product(model, theta, v, *data)) + np.float32(alpha) * v

    return matvec
