"""The paper's label errors (its tables 2 and 3), seeded, with a known truth.

Rates of a class are shares of the rows of that class, rates of a predicate shares of the rows
that satisfy it and have the label that is changed (section 6.1.2). The number of changed rows is
the rate times that, rounded; the same seed changes the same rows on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class WrongLabels:
    """Labels as the training table has them, and which of them are wrong."""

    labels: np.ndarray
    """(N,) of the dtype given."""
    wrong: np.ndarray
    """(N,) bool."""


def flip_class(labels: np.ndarray, source: int, target: int, rate: float,
               seed: int) -> WrongLabels:
    """Class-conditional: `rate` of the rows labelled `source` become `target`."""
    return flip_where(labels, np.ones(len(labels), bool), source, target, rate, seed)


def flip_classes(labels: np.ndarray, pairs: list[tuple[int, int]], rate: float,
                 seed: int) -> WrongLabels:
    """Several classes at the same rate each: MNIST's 1 -> 7 and 4 -> 9 (section 6.8.3)."""
    found = np.asarray(labels).copy()
    for number, (source, target) in enumerate(pairs):
        # Each pair draws from the true labels: what one has flipped the next must not flip again.
        one = flip_class(labels, source, target, rate, seed + 7919 * number)
        found[one.wrong] = target
    return WrongLabels(found, found != labels)


def flip_where(labels: np.ndarray, chosen: np.ndarray, source: int, target: int, rate: float,
               seed: int) -> WrongLabels:
    """Feature-conditional: of the rows in `chosen` (N,) bool that are labelled `source`, `rate`
    become `target` (ADULT: men in the private sector who earned less)."""
    labels = np.asarray(labels)
    rows = pick(np.asarray(chosen, bool) & (labels == source), rate, seed)
    found = labels.copy()
    found[rows] = target
    return WrongLabels(found, found != labels)


def permute(labels: np.ndarray, seed: int) -> np.ndarray:
    """A negative control: every row gets the label of another one, at random."""
    return np.asarray(labels)[np.random.default_rng(seed).permutation(len(labels))]


def pick(candidates: np.ndarray, rate: float, seed: int) -> np.ndarray:
    """Numbers of `rate` of the rows in `candidates` (N,) bool, without replacement, ascending."""
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate lies between 0 and 1, not at {rate}")
    rows = np.flatnonzero(candidates)
    return np.sort(np.random.default_rng(seed).choice(rows, round(rate * len(rows)),
                                                      replace=False))
