"""Rows projected on eigenvectors: J (R x k), the logits' Jacobian times V.

Deviations from the paper (sections 4.2 and 5.1):
1. The paper pushes each v_i through the loss; here it goes through the logits, linearised once a
   batch. One J then serves every label and every class: a_z = J_z^T (p_z - e_y) is the paper's
   <v_i, grad l>, J_x gives all its <grad p_ij, v_i>, and a relabelling needs no second pass.
2. 1/lambda is not folded into what is stored (the paper's b_z): filter, damping and k are chosen at
   query time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pgrain.influence import devices
from pgrain.influence.gradient import logit_cotangent
from pgrain.models.batches import fitting, pad, padded
from pgrain.models.registry import Model


def _pushed(model: Model, theta, X, tangents):
    """Logits (B, R) and their directional derivatives (k, B, R); tangents: (k, d)."""
    logits, linear = jax.linearize(lambda t: model.logits(t, X), theta)
    return logits, jax.lax.map(linear, tangents, batch_size=_tangents_at_a_time(len(tangents)))


_push = functools.partial(jax.jit, static_argnums=0)(_pushed)


@functools.lru_cache(maxsize=32)
def _divided_push(model: Model, mesh):
    """As `_push`, each device of the mesh with its share of the rows."""
    rows = P(devices.ROWS)
    return jax.jit(jax.shard_map(functools.partial(_pushed, model), mesh=mesh,
                                 in_specs=(P(), rows, P()),
                                 out_specs=(rows, P(None, devices.ROWS)), check_vma=False))


def _tangents_at_a_time(k: int) -> int | None:
    """One after the other on a CPU: its caches hold one, and a batched convolution takes twice as
    long (measured on two cores, 30 tangents, ms a 1 000 rows: cnn 950 against 1 700; mlp 110 either
    way). All at once elsewhere."""
    return None if jax.default_backend() == "cpu" or k < 2 else min(k, 32)


def project(model: Model, theta, X: np.ndarray, V: np.ndarray, *, batch: int | None = None,
            mesh=None, progress: Callable[[int, int, str], None] | None = None
            ) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, R) and J (N, R, k), both float32: J[z, r, i] = <d logit_r / d theta, v_i>.

    X: (N, *input_shape); V: (d, k). batch: rows at a time; by default what fits in
    `models.batches.MEMORY_BYTES`. mesh: the devices that share the rows of a batch, default
    `devices.here()`. progress(done, total, message) is called once a batch.
    """
    k, mesh = V.shape[1], mesh or devices.here()
    tangents = np.ascontiguousarray(np.asarray(V, np.float32).T)
    theta = np.asarray(theta, np.float32)
    if mesh is not None:
        theta, tangents = devices.copied(theta, mesh), devices.copied(tangents, mesh)
    else:
        theta, tangents = jnp.asarray(theta), jnp.asarray(tangents)
    shares = 1 if mesh is None else mesh.size
    batch = (batch or fitting(model.row_floats, 3 if _tangents_at_a_time(k) is None else k + 2)
             ) * shares
    logits = np.empty((len(X), model.n_classes), np.float32)
    J = np.empty((len(X), model.n_classes, k), np.float32)
    for rows, size in padded(len(X), batch):
        n = rows.stop - rows.start
        size = -(-size // shares) * shares
        if mesh is None:
            out, slopes = _push(model, theta, pad(X[rows], size), tangents)
        else:
            out, slopes = _divided_push(model, mesh)(
                theta, devices.split(pad(X[rows], size), mesh), tangents)
        logits[rows] = devices.collect(out)[:n]
        J[rows] = devices.collect(slopes)[:, :n].transpose(1, 2, 0)
        if progress is not None:
            progress(rows.stop, len(X), "projections")
    return logits, J


def training_projection(J: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """a_z = J_z^T (p_z - e_y) = V^T grad l_z, row by row.

    J: (N, R, k); residual: (N, R), p_z - e_y of `models.softmax.residual`. Returns (N, k) float32.
    """
    return np.matmul(residual[:, None, :], J)[:, 0, :]


def objective_projection(p: np.ndarray, J: np.ndarray, dq_dp: np.ndarray) -> np.ndarray:
    """c = V^T grad q of attached rows (paper equation 8): (k,) float64.

    p: (V, R) probabilities; J: (V, R, k); dq_dp: (V, R), the objective's gradient with respect to
    the probabilities. d p_j = p_j (d logit_j - sum_i p_i d logit_i), hence
    c = sum_v J_v^T [p (g - <p, g>)]. Accumulated in float64, in blocks that stay in the cache.
    """
    cotangent = logit_cotangent(p, dq_dp)
    c = np.zeros(J.shape[2])
    for start in range(0, len(J), 256):
        u = cotangent[start: start + 256].reshape(-1)
        if u.any():
            c += u @ J[start: start + 256].reshape(len(u), -1).astype(np.float64)
    return c
