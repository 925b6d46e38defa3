"""Sentences of movie reviews with mean human ratings, in place of SST-2 (the same sentences).

`hutto_ICWSM_2014.tar.gz`, inside the PyPI source archive `vaderSentiment` 3.3.2, has a line a
sentence: number, mean of twenty ratings from -4 to 4, text, with tabs between. (C.J. Hutto and
E. Gilbert, VADER, ICWSM 2014; sentences from Pang and Lee, 2004.) SST-2 labels fragments and has
67 349; here are whole sentences, positive where the mean rating is above 0.
"""

from __future__ import annotations

import functools
import io
import tarfile
from dataclasses import dataclass

import numpy as np

from pgrain.demo.datasets import DatasetBroken
from pgrain.demo.sources import member, open_source

CLASSES = ("negative", "positive")
ROWS = 10_605
TRAIN_ROWS = 8_000
_ORDER_SEED = 20220612
_OUTER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_INNER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


@dataclass(frozen=True)
class Sentences:
    """Texts with ratings. A rating of exactly 0 counts as negative."""

    texts: list[str]
    ratings: np.ndarray
    """(N,) float64, mean rating from -4 to 4."""

    @property
    def labels(self) -> np.ndarray:
        """(N,) uint8: 1 for positive."""
        return (self.ratings > 0).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, rows: slice) -> Sentences:
        return Sentences(self.texts[rows], self.ratings[rows])


@functools.cache
def reviews() -> Sentences:
    """All sentences in an order that a fixed seed shuffled."""
    inner = member(open_source("reviews"), _OUTER)
    with tarfile.open(fileobj=io.BytesIO(inner), mode="r:gz") as bundle:
        found = parse(bundle.extractfile(_INNER).read())
    if len(found) != ROWS:
        raise DatasetBroken(f"{_INNER} holds {len(found)} sentences, not {ROWS}")
    order = np.random.default_rng(_ORDER_SEED).permutation(len(found))
    return Sentences([found.texts[i] for i in order], found.ratings[order])


def reviews_split() -> tuple[Sentences, Sentences]:
    """8 000 sentences to train on, 2 605 to query."""
    every = reviews()
    return every.part(slice(None, TRAIN_ROWS)), every.part(slice(TRAIN_ROWS, None))


def parse(data: bytes) -> Sentences:
    """Sentences in the file's order. Old files mix encodings: what is no UTF-8 reads as Latin-1."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    texts, ratings = [], []
    for number, line in enumerate(text.rstrip("\n").split("\n"), 1):
        parts = line.split("\t", 2)
        try:
            _, rating, sentence = parts
            ratings.append(float(rating))
        except ValueError as error:
            raise DatasetBroken(f"line {number} is not number, rating, text: {line[:60]!r}"
                                ) from error
        texts.append(sentence.strip())
    return Sentences(texts, np.array(ratings))
