"""The paper's feature errors (its table 3) on pictures, seeded, with a known truth, and the repair
of section 6.9.

Random errors hit a share of all rows, systematic ones a share of the rows of one class
(section 6.1.2). Pixels are uint8; the paper's 0 and 1 are 0 and 255.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pgrain.demo.label_errors import pick

SALT_AND_PEPPER_SHARE = 0.3
BLUR_SIGMA = 2.0


@dataclass(frozen=True)
class WrongPixels:
    """Pictures as the training table has them, and which of them were damaged."""

    pixels: np.ndarray
    """(N, H, W) or (N, H, W, C) uint8."""
    wrong: np.ndarray
    """(N,) bool. A damaged picture counts, also where the damage happens to change nothing."""


def salt_and_pepper(pixels: np.ndarray, seed: int,
                    share: float = SALT_AND_PEPPER_SHARE) -> np.ndarray:
    """`share` of the pixels of each picture, all channels of a pixel together, become 0 or 255
    with equal probability. pixels: (N, H, W[, C]) uint8."""
    out = np.array(pixels)
    n, height, width = out.shape[:3]
    count = round(share * height * width)
    rng = np.random.default_rng(seed)
    flat = out.reshape(n, height * width, -1)
    for picture in flat:
        where = rng.choice(height * width, count, replace=False)
        picture[where] = np.where(rng.random(count) < 0.5, 0, 255)[:, None]
    return out


def gaussian_blur(pixels: np.ndarray, seed: int = 0, sigma: float = BLUR_SIGMA) -> np.ndarray:
    """Each picture convolved with a Gaussian of `sigma` pixels; edges are continued. The seed is
    not used: every error here is called alike."""
    sigmas = [0, sigma, sigma] + [0] * (np.ndim(pixels) - 3)
    blurred = ndimage.gaussian_filter(np.asarray(pixels, np.float32), sigmas, mode="nearest")
    return np.rint(blurred).clip(0, 255).astype(np.uint8)


def median_denoise(pixels: np.ndarray, side: int = 3) -> np.ndarray:
    """Each pixel becomes the median of its neighbourhood, itself included: the repair of salt and
    pepper (section 6.9; the paper does not say how wide, 3 x 3 is the least)."""
    size = [1, side, side] + [1] * (np.ndim(pixels) - 3)
    return ndimage.median_filter(np.asarray(pixels, np.uint8), size=size, mode="nearest")


ERRORS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "salt_and_pepper": salt_and_pepper, "gaussian_blur": gaussian_blur}


def damage(pixels: np.ndarray, labels: np.ndarray, error: str, rate: float, seed: int, *,
           only: int | None = None) -> WrongPixels:
    """`error` (of ERRORS) on `rate` of all rows (random), or of the rows of class `only`
    (systematic). pixels: (N, H, W[, C]) uint8; labels: (N,)."""
    candidates = np.ones(len(labels), bool) if only is None else np.asarray(labels) == only
    rows = pick(candidates, rate, seed)
    out = np.array(pixels)
    out[rows] = ERRORS[error](out[rows], seed + 1)
    wrong = np.zeros(len(labels), bool)
    wrong[rows] = True
    return WrongPixels(out, wrong)
