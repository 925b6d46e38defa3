"""A convolution that is fast on a CPU, also under vmap and forward mode.

XLA's convolution on the CPU is slow as soon as it is batched over kernels, which is what pushing k
tangents through a network does. Here a convolution is the gathering of patches by strided slices
(linear, no parameters, differentiates into itself) followed by one matrix product, which XLA hands
to its fast matrix kernels whatever is batched.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


def patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Patches of images, zero-padded so that the output has ceil(H/stride) x ceil(W/stride).

    x: (N, H, W, C). Returns (N, H', W', size*size*C), each patch row-major over (row, column,
    channel). The padding is that of TensorFlow's and Flax's "SAME".
    """
    pads, outs = [], []
    for length in x.shape[1:3]:
        out = -(-length // stride)
        total = max((out - 1) * stride + size - length, 0)
        pads.append((total // 2, total - total // 2))
        outs.append(out)
    x = jnp.pad(x, ((0, 0), pads[0], pads[1], (0, 0)))
    slices = [x[:, i: i + (outs[0] - 1) * stride + 1: stride,
                j: j + (outs[1] - 1) * stride + 1: stride, :]
              for i in range(size) for j in range(size)]
    return jnp.concatenate(slices, axis=-1)


class PatchConvolution(nn.Module):
    """A two-dimensional convolution as patches times a matrix; "SAME" padding, with a bias.

    The kernel has shape (size*size*C, features): Flax's `nn.Conv` kernel (size, size, C, features)
    reshaped, so weights trained elsewhere fit by a reshape.
    """

    features: int
    size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.features, name="matrix",
                        kernel_init=nn.initializers.he_normal())(patches(x, self.size, self.stride))
