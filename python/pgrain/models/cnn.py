"""A small convolutional network: three convolutions, then dense layers."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgrain.errors import InvalidArgument
from pgrain.models.convolution import PatchConvolution
from pgrain.models.mlp import ACTIVATIONS
from pgrain.models.options import Option

INPUT = "image"
OPTIONS = {option.name: option for option in (
    Option("channels", "integers", "output channels of each convolution", 1, 1024),
    Option("kernel", "integer", "side of the square kernels", 1, 11),
    Option("stride", "integer", "step of each convolution", 1, 4),
    Option("hidden", "integers", "widths of the dense layers after the convolutions", 1, 16384),
    Option("activation", "choice", "nonlinearity after each layer", choices=tuple(ACTIVATIONS)),
)}
DEFAULTS = {"channels": [16, 32, 64], "kernel": 3, "stride": 2, "hidden": [],
            "activation": "relu"}


class CNN(nn.Module):
    """Strided convolutions instead of pooling: a quarter of the work at each layer, and nothing
    but matrix products and slices to differentiate."""

    n_classes: int
    channels: Sequence[int] = (16, 32, 64)
    kernel: int = 3
    stride: int = 2
    hidden: Sequence[int] = ()
    activation: str = "relu"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.activation]
        for i, features in enumerate(self.channels):
            x = activation(PatchConvolution(features, self.kernel, self.stride,
                                            name=f"convolution_{i}")(x))
        x = jnp.reshape(x, (x.shape[0], -1))
        for i, width in enumerate(self.hidden):
            x = nn.Dense(width, name=f"hidden_{i}", kernel_init=nn.initializers.he_normal())(x)
            x = activation(x)
        return nn.Dense(self.n_classes, name="output")(x)


def module(n_classes: int, input_shape: tuple[int, ...], options: dict) -> nn.Module:
    """The Flax module; 22023 unless the input is an image (height, width[, channels])."""
    if len(input_shape) not in (2, 3):
        raise InvalidArgument(
            f'architecture "cnn" needs images, not values of shape {list(input_shape)}',
            hint='Give the option "shape" as [height, width, channels], or use "mlp".')
    return CNN(n_classes, tuple(options["channels"]), options["kernel"], options["stride"],
               tuple(options["hidden"]), options["activation"])
