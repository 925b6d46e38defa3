"""Repairs of pictures: median, Gaussian and bilateral filter, contrast (scipy.ndimage).

A picture is a bytea tensor of shape (height, width) or (height, width, channels), a byte or a
float32 an element; channels are filtered one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from pgrain.errors import InvalidArgument
from pgrain.models.options import Option

MEDIAN = (Option("size", "integer", "pixels on a side of the window; odd", 3, 31),)
GAUSSIAN = (Option("sigma", "number", "standard deviation in pixels", 0.1, 30),)
BILATERAL = (Option("sigma", "number", "standard deviation in pixels", 0.1, 10),
             Option("tolerance", "number", "standard deviation of values that count as alike, as a "
                                           "share of the picture's range", 0.001, 10))
CONTRAST = (Option("factor", "number", "distances from the picture's mean are multiplied by it",
                   0, 100),
            Option("stretch", "boolean", "map the percentiles 2 and 98 to the ends of the range"))


def complete(options: dict, kind: str, features: Sequence[str], shape) -> None:
    """22023 unless the model's shape is that of pictures."""
    if shape is None or len(shape) not in (2, 3):
        raise InvalidArgument("a picture filter needs pictures",
                              detail=f"The model's shape is {shape}, not [height, width] or "
                                     "[height, width, channels].")
    if options.get("size", 3) % 2 == 0:
        raise InvalidArgument('option "size" must be odd')


def median(values: Sequence[bytes], options: dict, fitted, shape) -> list[bytes]:
    """Each pixel becomes the median of its window."""
    size = options.get("size", 3)
    return _filtered(values, shape, lambda x: ndimage.median_filter(
        x, size=_window(x, size), mode="nearest"))


def gaussian(values: Sequence[bytes], options: dict, fitted, shape) -> list[bytes]:
    """A Gaussian blur."""
    sigma = options.get("sigma", 1.0)
    return _filtered(values, shape, lambda x: ndimage.gaussian_filter(
        x.astype(np.float32), sigma=[0, sigma, sigma] + [0] * (x.ndim - 3), mode="nearest"))


def bilateral(values: Sequence[bytes], options: dict, fitted, shape) -> list[bytes]:
    """A blur that keeps edges (Tomasi and Manduchi 1998): neighbours count by distance and by how
    alike their value is. scipy has none, so: a weighted sum over the shifts of a small window."""
    sigma = options.get("sigma", 1.0)
    radius = max(1, math.ceil(2 * sigma))

    def work(x):
        x = x.astype(np.float32)
        axes = tuple(range(1, x.ndim))
        spread = x.max(axis=axes, keepdims=True) - x.min(axis=axes, keepdims=True)
        alike = np.maximum(options.get("tolerance", 0.1) * spread, 1e-12)
        padded = np.pad(x, [(0, 0), (radius, radius), (radius, radius)]
                        + [(0, 0)] * (x.ndim - 3), mode="edge")
        total, weight = np.zeros_like(x), np.zeros_like(x)
        height, width = x.shape[1:3]
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                moved = padded[:, radius + dy:radius + dy + height, radius + dx:radius + dx + width]
                share = np.exp(-((moved - x) / alike) ** 2 / 2
                               - np.float32((dx * dx + dy * dy) / (2 * sigma * sigma)))
                total += share * moved
                weight += share
        return total / weight
    return _filtered(values, shape, work)


def contrast(values: Sequence[bytes], options: dict, fitted, shape) -> list[bytes]:
    """More or less contrast: by a factor around the mean, or stretched over the whole range."""
    def work(x):
        x = x.astype(np.float32)
        axes = tuple(range(1, x.ndim))
        if options.get("stretch", "factor" not in options):
            low, high = np.percentile(x, [2, 98], axis=axes, keepdims=True)
            top = 255.0 if x.max(initial=0) > 1 else 1.0
            return np.clip((x - low) * (top / np.maximum(high - low, 1e-6)), 0, top)
        mean = x.mean(axis=axes, keepdims=True)
        return mean + options["factor"] * (x - mean)
    return _filtered(values, shape, work)


def _window(x: np.ndarray, size: int) -> tuple[int, ...]:
    return (1, size, size, *[1] * (x.ndim - 3))


def _filtered(values: Sequence[bytes], shape: Sequence[int], work) -> list[bytes]:
    """Apply `work` to all pictures at once, (N, H, W[, C]); bytes are rounded and clipped."""
    if not values:
        return []
    size = math.prod(shape)
    dtype = np.dtype(np.uint8 if len(values[0]) == size else "<f4")
    for value in values:
        if len(value) != size * dtype.itemsize:
            raise InvalidArgument(f"expected {size * dtype.itemsize} bytes, not {len(value)}")
    x = np.frombuffer(b"".join(values), dtype).reshape(len(values), *shape)
    out = np.asarray(work(x))
    if dtype == np.uint8:
        out = np.clip(np.rint(out), 0, 255)
    out = np.ascontiguousarray(out, dtype)
    return [picture.tobytes() for picture in out]
