"""Wide residual networks of 10, 18 and 26 layers (390 K, 779 K, 1.55 M parameters).

Four groups of one, two or three blocks, after Zagoruyko and Komodakis (2016), with what influence
needs changed:

1. Group normalisation (Wu and He 2018), eight channels a group, in place of batch normalisation.
   With batch statistics a row's loss depends on the other rows of its batch, so it has no gradient
   of its own, removing it changes the loss of others, and the running means that inference uses
   are no parameters that a Hessian could see. A group's mean and variance are the row's own.
   (Fixup and its kin need no normalisation at all, but train slower at these widths.)
2. No dropout: training and inference compute the same function.
3. The paper gives parameter counts and no widths; these widths give its counts within 0.3 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax

from pgrain.errors import InvalidArgument
from pgrain.models.convolution import PatchConvolution
from pgrain.models.mlp import ACTIVATIONS
from pgrain.models.options import Option

INPUT = "image"
OPTIONS = {option.name: option for option in (
    Option("widths", "integers", "channels of each group of blocks; the first halves nothing, "
           "each further one halves height and width", 1, 2048),
    Option("activation", "choice", "nonlinearity after each normalisation",
           choices=tuple(ACTIVATIONS)),
    Option("stem", "integer", "channels of the first convolution", 1, 512),
    Option("stem_stride", "integer", "step of the first convolution; 2 quarters all the work",
           1, 4),
)}
WIDTHS = {1: [24, 48, 80, 128], 2: [24, 40, 72, 128], 3: [16, 32, 80, 152]}
CHANNELS_A_GROUP = 8


class Normalise(nn.Module):
    """Group normalisation over a row's own pixels, then the nonlinearity."""

    activation: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        size = next(s for s in range(min(CHANNELS_A_GROUP, channels), 0, -1) if channels % s == 0)
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        groups = x.reshape(x.shape[0], -1, channels // size, size)
        mean = groups.mean(axis=(1, 3), keepdims=True)
        centred = groups - mean
        variance = (centred * centred).mean(axis=(1, 3), keepdims=True)
        normal = (centred * jax.lax.rsqrt(variance + 1e-5)).reshape(x.shape)
        return ACTIVATIONS[self.activation](normal * scale + bias)


class Block(nn.Module):
    """Two convolutions with what comes in added to what comes out (pre-activation)."""

    features: int
    stride: int
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Normalise(self.activation, name="normalise_0")(x)
        if x.shape[-1] != self.features or self.stride > 1:
            x = PatchConvolution(self.features, 1, self.stride, use_bias=False,
                                 name="shortcut")(y)
        y = PatchConvolution(self.features, 3, self.stride, use_bias=False,
                             name="convolution_0")(y)
        y = Normalise(self.activation, name="normalise_1")(y)
        return x + PatchConvolution(self.features, 3, 1, use_bias=False, name="convolution_1")(y)


class WideResNet(nn.Module):
    """A convolution, groups of blocks, the mean over pixels, one affine map."""

    n_classes: int
    blocks: int
    widths: Sequence[int]
    stem: int = 16
    stem_stride: int = 1
    activation: str = "relu"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = PatchConvolution(self.stem, 3, self.stem_stride, use_bias=False, name="stem")(x)
        for group, features in enumerate(self.widths):
            for block in range(self.blocks):
                stride = 2 if group and not block else 1
                x = Block(features, stride, self.activation, name=f"block_{group}_{block}")(x)
        x = Normalise(self.activation, name="normalise")(x).mean(axis=(1, 2))
        return nn.Dense(self.n_classes, name="output")(x)


class Family:
    """One depth: what `registry` expects of an architecture's module."""

    INPUT = INPUT
    OPTIONS = OPTIONS

    def __init__(self, layers: int):
        self.layers, self.blocks = layers, (layers - 2) // 8
        self.DEFAULTS = {"widths": WIDTHS[self.blocks], "stem": 16, "stem_stride": 1,
                         "activation": "relu"}

    def module(self, n_classes: int, input_shape: tuple[int, ...], options: dict) -> nn.Module:
        """The Flax module; 22023 unless the input is an image (height, width[, channels])."""
        if len(input_shape) not in (2, 3):
            raise InvalidArgument(
                f'architecture "wide_resnet_{self.layers}" needs images, not values of shape '
                f"{list(input_shape)}",
                hint='Give the option "shape" as [height, width, channels], or use "mlp".')
        if not options["widths"]:
            raise InvalidArgument('option "widths" names no group of blocks')
        return WideResNet(n_classes, self.blocks, tuple(options["widths"]), options["stem"],
                          options["stem_stride"], options["activation"])
