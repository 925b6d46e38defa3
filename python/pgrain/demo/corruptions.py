"""Label errors with a known truth. Each function takes true labels and returns the wrong ones with
a mask; the same seed gives the same errors on every machine.

`bright` is the error of the demo. It depends on the features, so a model learns it: pictures that
look like the corrupted ones are predicted wrong, and the count in the report moves.
`random` is the paper's (table 2: pants to sneakers, 10 to 40 %). A model with a smooth decision
hardly believes it, and the count barely moves; it is here for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pgrain.demo.datasets import CLASSES, Images

TROUSER, DRESS, SNEAKER = (CLASSES.index(name) for name in ("trouser", "dress", "sneaker"))
BRIGHTEST = 0.4
"""Share of the trousers that count as bright."""
BRIGHT_RATE = 0.9
"""Share of the bright ones whose label is changed."""
RANDOM_RATE = 0.4


@dataclass(frozen=True)
class Corrupted:
    """Labels as the training table has them, and which of them are wrong."""

    labels: np.ndarray
    """(N,) uint8."""
    wrong: np.ndarray
    """(N,) bool."""
    story: str


def _flip(images: Images, chosen: np.ndarray, label: int, story: str) -> Corrupted:
    labels = images.labels.copy()
    labels[chosen] = label
    return Corrupted(labels, labels != images.labels, story)


def bright(images: Images, seed: int) -> Corrupted:
    """90 % of the brightest 40 % of the trousers become dresses. Brightness is the sum of a
    picture's pixels; of equal ones the first comes first."""
    trousers = np.flatnonzero(images.labels == TROUSER)
    brightness = images.pixels[trousers].sum((1, 2), dtype=np.int64)
    brightest = trousers[np.argsort(-brightness, kind="stable")]
    brightest = brightest[:round(BRIGHTEST * len(trousers))]
    chosen = np.random.default_rng(seed).choice(
        brightest, round(BRIGHT_RATE * len(brightest)), replace=False)
    return _flip(images, chosen, DRESS,
                 f"{len(chosen):,} of the {len(brightest):,} brightest trousers are labelled dress")


def random(images: Images, seed: int) -> Corrupted:
    """40 % of the trousers, whichever, become sneakers."""
    trousers = np.flatnonzero(images.labels == TROUSER)
    chosen = np.random.default_rng(seed).choice(
        trousers, round(RANDOM_RATE * len(trousers)), replace=False)
    return _flip(images, chosen, SNEAKER,
                 f"{len(chosen):,} of {len(trousers):,} trousers are labelled sneaker")


CORRUPTIONS: dict[str, Callable[[Images, int], Corrupted]] = {"bright": bright, "random": random}
