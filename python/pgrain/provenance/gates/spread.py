"""Comparisons of an uncertain number with an aggregate of uncertain numbers, by their moments.

Numbers are taken as normal (sums of many independent terms). On classes all is certain, and the
comparison is exact.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from pgrain.interrupts import check
from pgrain.provenance.gates.blocks import Blocks, Owners
from pgrain.provenance.gates.kernels import add_at
from pgrain.provenance.gates.network import Gradient, Layer, State, three_edges

TOLERANCE = 1e-9          # of numbers that are taken for equal on classes, relative
_SMALLEST = 1e-12         # variance
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def _density(u: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * u * u) / np.sqrt(2.0 * np.pi)


class Variances(Layer):
    """X[out + g] = variance of the sum of weight x 1{literals} over the terms of target g; K = 1.

    Parameters
    ----------
    out, n : int
    target : (J,) int
    literals : (J, L) or (J,) int
        As `Threshold` has them: blocks of exclusive events count as independent of each other.
    weight : (J,) float
    """

    def __init__(self, out: int, n: int, target: np.ndarray, literals: np.ndarray,
                 weight: np.ndarray):
        self.out, self.n, self.n_numbers = out, n, n
        self.terms = target, literals, np.asarray(weight, np.float64)

    def prepare(self, owners: np.ndarray | Owners) -> None:
        owners = Owners.of(owners)
        self._n_p = owners.n_p
        target, literals, weight = self.terms
        self.blocks = blocks = Blocks(target, literals, owners)
        possible = blocks.event_of >= 0
        self.weights = np.bincount(blocks.event_of[possible], weight[possible], blocks.n_events)

    def _means(self, q: np.ndarray) -> np.ndarray:
        return np.bincount(self.blocks.block, q * self.weights, self.blocks.n)

    def forward(self, state: State) -> None:
        q, w = self.blocks.probability(state.P), self.weights
        of_block = np.bincount(self.blocks.block, q * w * w, self.blocks.n) - self._means(q) ** 2
        here = slice(self.out, self.out + self.n)
        state.X[here] = np.bincount(self.blocks.target, np.maximum(of_block, 0.0), self.n)
        state.K[here] = 1.0

    def backward(self, state: State, grad: Gradient) -> None:
        d = grad.X[self.out:self.out + self.n]
        if d.any():
            q, w, block = self.blocks.probability(state.P), self.weights, self.blocks.block
            slope = w * w - 2.0 * self._means(q)[block] * w
            self.blocks.backward(state.P, d[self.blocks.target[block]] * slope, grad.P)

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        target, literal = self.blocks.sources(np.arange(self.blocks.n_events))
        return self._n_p + self.out + target, literal


class NormalStep(Layer):
    """P[out + 3 g + (0, 1, 2)] = false, true, NULL of: number  op  0, for one of > >= < <=.

    mean, variance, size, half: (n,) places in X; `size` is of what is compared, for the tolerance;
    `half` half the distance of the values that the number can have, 0 if none is known.
    """

    three = True

    def __init__(self, out: int, operator: str, mean: np.ndarray, variance: np.ndarray,
                 size: np.ndarray, half: np.ndarray):
        self.out, self.operator, self.n = out, operator, len(mean)
        self.mean, self.variance, self.size, self.half = mean, variance, size, half
        self.sign = 1.0 if operator[0] == ">" else -1.0
        self.shift = 1.0 if len(operator) == 2 else -1.0
        self.n_literals = 3 * self.n

    def prepare(self, owners) -> None:
        self._n_p = Owners.of(owners).n_p

    def _moments(self, state: State):
        v = np.maximum(state.X[self.variance], 0.0)
        return self.sign * state.X[self.mean], v, state.hard | (v < _SMALLEST)

    def forward(self, state: State) -> None:
        mean, v, fixed = self._moments(state)
        bound = TOLERANCE * np.maximum(np.abs(state.X[self.size]), 1.0)
        step = mean >= -bound if len(self.operator) == 2 else mean > bound
        shifted = mean + self.shift * state.X[self.half]
        true = np.where(fixed, step, ndtr(shifted / np.sqrt(np.where(fixed, 1.0, v))))
        known = state.K[self.mean]
        out = state.P[self.out:self.out + 3 * self.n].reshape(self.n, 3)
        out[:, 0], out[:, 1], out[:, 2] = known * (1.0 - true), known * true, 1.0 - known
        state.saved[self] = true

    def backward(self, state: State, grad: Gradient) -> None:
        d = grad.P[self.out:self.out + 3 * self.n].reshape(self.n, 3)
        mean, v, fixed = self._moments(state)
        true, safe = state.saved[self], np.where(fixed, 1.0, v)
        u = (mean + self.shift * state.X[self.half]) / np.sqrt(safe)
        slope = np.where(fixed, 0.0, (d[:, 1] - d[:, 0]) * state.K[self.mean] * _density(u))
        add_at(grad.X, self.mean, self.sign * slope / np.sqrt(safe))
        add_at(grad.X, self.half, self.shift * slope / np.sqrt(safe))
        add_at(grad.X, self.variance, -slope * u / (2.0 * safe))
        add_at(grad.K, self.mean, d[:, 0] * (1.0 - true) + d[:, 1] * true - d[:, 2])

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        every = np.arange(self.n)
        return three_edges(self.out, self.n, np.concatenate([every, every, every]),
                           self._n_p + np.concatenate([self.mean, self.variance, self.half]))


class AgainstExtreme(Layer):
    """P[out + 3 g + (0, 1, 2)] of: number  op  the greatest (or least) of those that are there.

    Parameters
    ----------
    out : int
    operator : str
        One of > >= < <= = <>, of the numbers times `sign`.
    sign : float
        1.0 against the greatest, -1.0 against the least.
    mean, variance : (n,) int
        Places in X of the number's moments.
    own : (n,) bool
        The number is one of those that are there, and left out of its pairs.
    row, other_mean, other_variance, event : (m,) int
        Pairs: with which others it is compared, and the literals that these are there.
    half : float
        Half the distance of the values that numbers can have (1/2 for counts; 0: none is known).

    P(number >= all) = E over z of prod (1 - q + q F((number(z) - mean) / deviation)), by
    Gauss-Hermite quadrature.
    """

    three = True

    def __init__(self, out: int, operator: str, sign: float, mean, variance, own, row, other_mean,
                 other_variance, event, half: float):
        self.out, self.operator, self.sign, self.n = out, operator, sign, len(mean)
        self.mean, self.variance, self.own = mean, variance, np.asarray(own, bool)
        self.row, self.other, self.spread, self.event = row, other_mean, other_variance, event
        self.half = half
        self.n_literals = 3 * self.n
        # true = constant + weights of P(>= all), P(> all), P(no other is there)
        self.weights = {">=": (0, 1, 0, -1), ">": (0, 0, 1, -1), "<": (1, -1, 0, 0),
                        "<=": (1, 0, -1, 0), "=": (0, 1, -1, 0), "<>": (1, -1, 1, -1)}[operator]

    def prepare(self, owners) -> None:
        self._n_p = Owners.of(owners).n_p

    # --- on classes ------------------------------------------------------------------------

    def _hard(self, state: State) -> list[np.ndarray]:
        there = state.P[self.event] > 0.5
        row, other = self.row[there], state.X[self.other][there]
        mine = state.X[self.mean][row]
        bound = TOLERANCE * np.maximum(np.maximum(np.abs(mine), np.abs(other)), 1.0)
        ahead = self.sign * (mine - other)
        return [np.bincount(row, beaten, self.n) == 0
                for beaten in (ahead < -bound, ahead <= bound, np.ones(len(row)))]

    # --- relaxed ---------------------------------------------------------------------------

    def _pairs(self, state: State):
        sigma = np.sqrt(np.maximum(state.X[self.variance], _SMALLEST))
        deviation = np.sqrt(np.maximum(state.X[self.spread], _SMALLEST))
        return sigma, deviation, state.P[self.event]

    def _at(self, state, node, shift, sigma, deviation, q):
        """(u, F(u), factor) of each pair at a node."""
        number = state.X[self.mean] + sigma * node
        u = (self.sign * (number[self.row] - state.X[self.other]) + shift) / deviation
        below = ndtr(u)
        return u, below, np.maximum(1.0 - q + q * below, 1e-300)

    def _all(self, state, shift) -> tuple[np.ndarray, np.ndarray]:
        """(n,) P(number ahead of all others), and (nodes, n) its parts."""
        parts = np.empty((len(_NODES), self.n))
        for k, node in enumerate(_NODES):
            check()
            factor = self._at(state, node, shift, *self._pairs(state))[2]
            parts[k] = _WEIGHTS[k] * np.exp(np.bincount(self.row, np.log(factor), self.n))
        return parts.sum(axis=0), parts

    def forward(self, state: State) -> None:
        if state.hard:
            found = self._hard(state)
        else:
            absent = np.exp(np.bincount(
                self.row, np.log(np.maximum(1.0 - state.P[self.event], _SMALLEST)), self.n))
            pairs = [self._all(state, shift) if weight else (np.zeros(self.n), None)
                     for weight, shift in zip(self.weights[1:3], (self.half, -self.half),
                                              strict=True)]
            state.saved[self] = [parts for _, parts in pairs], absent
            found = [total for total, _ in pairs] + [absent]
        ahead, strictly, nobody = (np.asarray(part, float) for part in found)
        strictly, nobody = np.where(self.own, 0.0, strictly), np.where(self.own, 0.0, nobody)
        constant, a, b, c = self.weights
        true = np.clip(constant + a * ahead + b * strictly + c * nobody, 0.0, 1.0 - nobody)
        known = state.K[self.mean]
        if not state.hard:
            state.saved[self] += true, nobody
        out = state.P[self.out:self.out + 3 * self.n].reshape(self.n, 3)
        out[:, 1], out[:, 2] = known * true, 1.0 - known * (1.0 - nobody)
        out[:, 0] = np.maximum(1.0 - out[:, 1] - out[:, 2], 0.0)

    def backward(self, state: State, grad: Gradient) -> None:
        d = grad.P[self.out:self.out + 3 * self.n].reshape(self.n, 3)
        if not d.any():
            return
        parts, absent, true, nobody = state.saved[self]
        known = state.K[self.mean]
        add_at(grad.K, self.mean, (d[:, 1] - d[:, 0]) * true + (d[:, 0] - d[:, 2]) * (1.0 - nobody))
        d_true = (d[:, 1] - d[:, 0]) * known
        d_nobody = (d[:, 2] - d[:, 0]) * known
        _, a, b, c = self.weights
        d_absent = np.where(self.own, 0.0, d_nobody + c * d_true)
        q = state.P[self.event]
        add_at(grad.P, self.event, -(d_absent * absent)[self.row]
               / np.maximum(1.0 - q, _SMALLEST))
        if a:
            self._back(state, grad, self.half, parts[0], a * d_true)
        if b:
            self._back(state, grad, -self.half, parts[1], np.where(self.own, 0.0, b * d_true))

    def _back(self, state, grad, shift, parts, up) -> None:
        sigma, deviation, q = self._pairs(state)
        for k, node in enumerate(_NODES):
            check()
            u, below, factor = self._at(state, node, shift, sigma, deviation, q)
            d = (up * parts[k])[self.row] / factor
            add_at(grad.P, self.event, d * (below - 1.0))
            d_u = d * q * _density(u)
            by_row = np.bincount(self.row, d_u * self.sign / deviation, self.n)
            add_at(grad.X, self.mean, by_row)
            add_at(grad.X, self.variance, by_row * node / (2.0 * sigma))
            add_at(grad.X, self.other, -d_u * self.sign / deviation)
            add_at(grad.X, self.spread, -d_u * u / (2.0 * deviation ** 2))

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        every, n_p = np.arange(self.n), self._n_p
        return three_edges(
            self.out, self.n, np.concatenate([every, every, self.row, self.row, self.row]),
            np.concatenate([n_p + self.mean, n_p + self.variance, n_p + self.other,
                            n_p + self.spread, self.event]))
