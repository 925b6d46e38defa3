"""Products with the Hessian of the training loss, in bounded memory.

Deviations from the paper (section 2.2 and 4.1):
1. H = (N/n) sum_S hess l + alpha I: a sum over a seeded sample S of n of the N rows, scaled to all
   of them, plus the regularisation of the loss (`models/loss.py`).
2. H v is forward over reverse (the tangent of the gradient), which is cheaper and leaner than
   differentiating <grad, v> backwards.
3. `gauss_newton` in place of the Hessian of a net: G = (N/n) sum_S J^T (diag p - p p^T) J
   + alpha I, which leaves out the logits' own curvature. It is never negative, and equal to H where
   the logits are linear in theta (logistic regression).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pgrain.influence import devices
from pgrain.models.batches import fitting, rounded
from pgrain.models.loss import data_loss
from pgrain.models.registry import Model

CURVATURES = ("hessian", "gauss_newton")


def _hessian_chunk(model: Model, theta, v, X, y, weights):
    """(hess of sum w l) v of one chunk of rows."""
    def gradient(t):
        return jax.grad(data_loss, argnums=1)(model, t, X, y, weights)

    return jax.jvp(gradient, (theta,), (v,))[1]


def _gauss_newton_chunk(model: Model, theta, v, X, y, weights):
    """(sum w J^T S J) v of one chunk of rows."""
    def logits(t):
        return model.logits(t, X)

    z, slope = jax.jvp(logits, (theta,), (v,))
    p = jax.nn.softmax(z)
    slope = weights[:, None] * p * (slope - (p * slope).sum(axis=1, keepdims=True))
    return jax.vjp(logits, theta)[1](slope)[0]


def _sum_of_chunks(model: Model, curvature: str, theta, v, X, y, weights):
    """The sum over chunks; X: (chunks, rows, ...), y and weights alike."""
    one = _hessian_chunk if curvature == "hessian" else _gauss_newton_chunk

    def chunk(total, rows):
        return total + one(model, theta, v, *rows), None

    return jax.lax.scan(chunk, jnp.zeros_like(theta), (X, y, weights))[0]


_product = functools.partial(jax.jit, static_argnums=(0, 1))(_sum_of_chunks)


@functools.lru_cache(maxsize=32)
def _divided_product(model: Model, curvature: str, mesh):
    """As `_product`, each device of the mesh with its own chunks; they add up at the end."""
    def share(theta, v, X, y, weights):
        return jax.lax.psum(_sum_of_chunks(model, curvature, theta, v, X, y, weights),
                            devices.ROWS)

    rows = P(devices.ROWS)
    return jax.jit(jax.shard_map(share, mesh=mesh, in_specs=(P(), P(), rows, rows, rows),
                                 out_specs=P(), check_vma=False))


def hessian_operator(model: Model, theta, X: np.ndarray, y: np.ndarray, alpha: float, *,
                     n_total: int, weights: np.ndarray | None = None,
                     chunk: int | None = None, curvature: str = "hessian", mesh=None
                     ) -> Callable[[np.ndarray], np.ndarray]:
    """The map v (d,) -> H v (d,) float32.

    X, y: the n rows of the sample, `n_total` = N the number of training rows they stand for.
    weights: (n,), default 1. chunk: rows at a time; by default what fits in
    `models.batches.MEMORY_BYTES`. curvature: "hessian" or "gauss_newton". mesh: the devices that
    share the chunks, default `devices.here()`. Compiled once a model and rounded number of rows.
    """
    n = len(y)
    mesh = mesh or devices.here()
    shares = 1 if mesh is None else mesh.size
    # Forward and backward activations and their tangents; the compiler reuses about half of them.
    chunk = min(chunk or fitting(model.row_floats, 3), rounded(-(-n // shares)))
    chunks = rounded(-(-n // chunk // shares)) * shares      # padding rows weigh nothing
    w = np.ones(n, np.float32) if weights is None else np.asarray(weights, np.float32)

    def split(rows):
        out = np.zeros((chunks * chunk, *rows.shape[1:]), rows.dtype)
        out[:n] = rows
        out = out.reshape(chunks, chunk, *rows.shape[1:])
        return jnp.asarray(out) if mesh is None else devices.split(out, mesh)

    data = split(np.asarray(X)), split(np.asarray(y, np.int32)), split(w)
    theta = np.asarray(theta, np.float32)
    theta = jnp.asarray(theta) if mesh is None else devices.copied(theta, mesh)
    scale = n_total / n

    def matvec(v: np.ndarray) -> np.ndarray:
        v = np.asarray(v, np.float32)
        if mesh is None:
            product = np.asarray(_product(model, curvature, theta, v, *data))
        else:
            product = devices.collect(_divided_product(model, curvature, mesh)(
                theta, devices.copied(v, mesh), *data))
        return scale * product + np.float32(alpha) * v

    return matvec
