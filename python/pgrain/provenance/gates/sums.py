"""Expected sums and counts: linear in the events' probabilities, so exact under any sharing."""

from __future__ import annotations

import numpy as np

from pgrain.provenance.gates.kernels import add_at
from pgrain.provenance.gates.network import Gradient, Layer, State


class Sums(Layer):
    """X[out + g] = sum over terms of target g of weight * P[event] * X[number]; K = 1.

    Parameters
    ----------
    out, n : int
        Place and number of sums; one layer may hold many (targets over columns and groups).
    target, event : (J,) int
    weight : (J,) float or None
    number : (J,) int or None
        Places in X; -1: the term has no number (a factor of 1).
    known : (J,) int or None
        Places in K whose probability multiplies the term (-1: none): what an aggregate needs that
        skips NULLs; ``count(x)`` has `known` without `number`, ``sum(x)`` both.
    """

    def __init__(self, out: int, n: int, target: np.ndarray, event: np.ndarray,
                 weight: np.ndarray | None = None, number: np.ndarray | None = None,
                 known: np.ndarray | None = None):
        self.out, self.n = out, n
        self.target, self.event = np.asarray(target, np.int64), np.asarray(event, np.int64)
        self.weight = None if weight is None else np.asarray(weight, np.float64)
        self.number, self.known = _Numbers.of(number), _Numbers.of(known)
        self.n_numbers = n

    def forward(self, state: State) -> None:
        terms = self._weighted(state.P[self.event])
        for numbers, values in ((self.number, state.X), (self.known, state.K)):
            if numbers is not None:
                terms = terms * numbers.take(values)
        here = slice(self.out, self.out + self.n)
        state.X[here] = np.bincount(self.target, weights=terms, minlength=self.n)
        state.K[here] = 1.0

    def _weighted(self, values: np.ndarray) -> np.ndarray:
        return values if self.weight is None else values * self.weight

    def backward(self, state: State, grad: Gradient) -> None:
        d = self._weighted(grad.X[self.out:self.out + self.n][self.target])
        x = 1.0 if self.number is None else self.number.take(state.X)
        k = 1.0 if self.known is None else self.known.take(state.K)
        add_at(grad.P, self.event, d * x * k if self.number or self.known else d)
        if self.number or self.known:
            d = d * state.P[self.event]
        if self.number:
            self.number.add(grad.X, d * k)
        if self.known:
            self.known.add(grad.K, d * x)

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        n_p = self._n_p
        here = n_p + self.out + self.target
        targets, sources = [here[self.event > 0]], [self.event[self.event > 0]]
        for numbers in (self.number, self.known):
            if numbers is not None:
                targets.append(here[numbers.terms])
                sources.append(n_p + numbers.places)
        return np.concatenate(targets), np.concatenate(sources)

    def prepare(self, owners) -> None:
        self._n_p = owners.n_p if hasattr(owners, "n_p") else len(owners)


class _Numbers:
    """One place in X or K a term, or none."""

    @staticmethod
    def of(index):
        return None if index is None else _Numbers(np.asarray(index, np.int64))

    def __init__(self, index: np.ndarray):
        self.all = bool((index >= 0).all())
        self.terms = np.flatnonzero(index >= 0)
        self.places, self.n = index[self.terms], len(index)

    def take(self, values: np.ndarray) -> np.ndarray:
        if self.all:
            return values[self.places]
        result = np.ones(self.n)
        result[self.terms] = values[self.places]
        return result

    def add(self, out: np.ndarray, d: np.ndarray) -> None:
        add_at(out, self.places, d if self.all else d[self.terms])
