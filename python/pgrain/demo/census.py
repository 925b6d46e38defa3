"""ADULT: who earned more than 50 000 dollars, by the census of 1994 (`census.csv` of the PyPI wheel
`xai` 0.3.0).

The file has the 32 561 rows of the original `adult.data`, without `fnlwgt`, with `ethnicity` and
`gender` for `race` and `sex`, and `loan` for the income; "?" is a missing value. The official test
part is not in it; we shuffle with a fixed seed and cut.
"""

from __future__ import annotations

import csv
import functools
import io
from dataclasses import dataclass

import numpy as np

from pgrain.demo.datasets import DatasetBroken
from pgrain.demo.sources import member, open_source

NUMBERS = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
CATEGORIES = ("workclass", "marital-status", "occupation", "relationship", "ethnicity", "gender")
"""`education` says what `education-num` says, and `native-country` is not in the file."""
COLUMNS = tuple(name.replace("-", "_") for name in NUMBERS + CATEGORIES)
CLASSES = ("<=50K", ">50K")
ROWS = 32_561
TRAIN_ROWS = 22_000
_ORDER_SEED = 20220612


@dataclass(frozen=True)
class People:
    """Rows of the census. `features`: one dict a row, column -> float, str or None (missing)."""

    features: list[dict]
    labels: np.ndarray
    """(N,) uint8: 1 for more than 50 000 dollars."""

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, **values: str) -> np.ndarray:
        """(N,) bool: rows whose columns have these values."""
        return np.array([all(row[name] == value for name, value in values.items())
                         for row in self.features], bool)

    def part(self, rows: slice) -> People:
        return People(self.features[rows], self.labels[rows])


@functools.cache
def adult() -> People:
    """All 32 561 rows in an order that a fixed seed shuffled."""
    found = parse(member(open_source("adult"), "xai/data/census.csv").decode())
    if len(found) != ROWS:
        raise DatasetBroken(f"census.csv holds {len(found)} rows, not {ROWS}")
    order = np.random.default_rng(_ORDER_SEED).permutation(len(found))
    return People([found.features[i] for i in order], found.labels[order])


def adult_split() -> tuple[People, People]:
    """22 000 rows to train on, 10 561 to query."""
    every = adult()
    return every.part(slice(None, TRAIN_ROWS)), every.part(slice(TRAIN_ROWS, None))


def parse(text: str) -> People:
    """People from the CSV text, in the file's order."""
    features, labels = [], []
    try:
        for row in csv.DictReader(io.StringIO(text), skipinitialspace=True):
            values: dict = {name.replace("-", "_"): float(row[name]) for name in NUMBERS}
            for name in CATEGORIES:
                values[name.replace("-", "_")] = None if row[name] == "?" else row[name].strip()
            features.append(values)
            labels.append(CLASSES.index(row["loan"].strip()))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DatasetBroken(f"line {len(labels) + 2} of census.csv is not as expected: "
                            f"{error!r}") from error
    return People(features, np.array(labels, np.uint8))
