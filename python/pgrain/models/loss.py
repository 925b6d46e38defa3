"""The training loss that influence sees.

    L(theta) = sum_z w_z l(theta, z) + alpha/2 |theta|^2,     l = cross-entropy in nats

Deviation from the paper (section 2.2, L is a bare sum): (1) alpha > 0 is added, a fixed number of
the model version. It makes the Hessian of a convex model positive definite and the optimum unique;
it does not change with the number of rows, so that a removed row removes its own loss and nothing
else. It acts on all parameters, biases included.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pgrain.models.registry import Model


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """-log p_y a row: (N, R), (N,) integers -> (N,)."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None].astype(int), 1)[:, 0]


def data_loss(model: Model, theta: jax.Array, X: jax.Array, y: jax.Array,
              weights: jax.Array) -> jax.Array:
    """sum_z w_z l(theta, z), without the alpha term: a scalar."""
    return jnp.sum(weights * cross_entropy(model.logits(theta, X), y))


def total_loss(model: Model, theta: jax.Array, X: jax.Array, y: jax.Array, weights: jax.Array,
               alpha: float) -> jax.Array:
    """L(theta) of all given rows: a scalar."""
    return data_loss(model, theta, X, y, weights) + 0.5 * alpha * jnp.vdot(theta, theta)
