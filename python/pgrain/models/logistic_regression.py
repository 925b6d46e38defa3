"""Multinomial logistic regression: one affine map, convex, so influence can be proven on it."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

OPTIONS = {}
DEFAULTS: dict = {}


class LogisticRegression(nn.Module):
    """logits = W^T x + b with all R classes parametrised (7 850 parameters for 784 x 10).

    The redundant class is kept: with alpha > 0 the optimum is unique all the same, and the
    parameter count is that of the paper.
    """

    n_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.reshape(x, (x.shape[0], -1))
        return nn.Dense(self.n_classes, name="dense", kernel_init=nn.initializers.zeros)(x)


def module(n_classes: int, input_shape: tuple[int, ...], options: dict) -> nn.Module:
    """The Flax module; any input shape is flattened."""
    return LogisticRegression(n_classes)
