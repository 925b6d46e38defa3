"""Multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgrain.models.options import Option

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "gelu": nn.gelu}
OPTIONS = {option.name: option for option in (
    Option("hidden", "integers", "widths of the hidden layers", 1, 16384),
    Option("activation", "choice", "nonlinearity after each hidden layer",
           choices=tuple(ACTIVATIONS)),
)}
DEFAULTS = {"hidden": [256], "activation": "relu"}


class MLP(nn.Module):
    """Affine layers with a nonlinearity between them; no dropout, no normalisation, so that
    training and inference compute the same function."""

    n_classes: int
    hidden: Sequence[int] = (256,)
    activation: str = "relu"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.reshape(x, (x.shape[0], -1))
        for i, width in enumerate(self.hidden):
            x = nn.Dense(width, name=f"hidden_{i}", kernel_init=nn.initializers.he_normal())(x)
            x = ACTIVATIONS[self.activation](x)
        return nn.Dense(self.n_classes, name="output")(x)


def module(n_classes: int, input_shape: tuple[int, ...], options: dict) -> nn.Module:
    """The Flax module; any input shape is flattened."""
    return MLP(n_classes, tuple(options["hidden"]), options["activation"])
