"""A small world of variables for the gates' tests: all its classes, their joint probabilities.

A literal of variable v and class c is `1 + v * R + c`; literal 0 is the constant.
"""

from __future__ import annotations

import itertools

import numpy as np

from pgrain.provenance.gates.network import Network


def probabilities(rng: np.random.Generator, V: int, R: int, kind: str = "any") -> np.ndarray:
    """(V, R) float64: some rows certain, some nearly (1e-300), the others from a Dirichlet."""
    P = rng.dirichlet(np.ones(R), V)
    for v in range(V):
        draw = rng.random()
        if kind == "hard" or (kind == "any" and draw < 0.2):
            P[v] = np.eye(R)[rng.integers(R)]
        elif kind == "any" and draw < 0.35:
            P[v] = np.roll([1.0] + [1e-300] * (R - 1), rng.integers(R))
        elif kind == "any" and draw < 0.45:
            P[v] = np.roll([0.5, 0.5] + [0.0] * (R - 2), rng.integers(R))
    return P


def random_terms(rng: np.random.Generator, V: int, R: int, J: int, L: int,
                 constants: float = 0.05) -> np.ndarray:
    """(J, L) literals of different variables, some terms shorter than L."""
    literals = np.zeros((J, L), np.int64)
    for row in literals:
        if rng.random() < constants:
            continue
        width = rng.integers(1, min(L, V) + 1)
        row[rng.permutation(L)[:width]] = 1 + rng.permutation(V)[:width] * R + rng.integers(
            R, size=width)
    return literals


class World:
    """V variables of R classes, and one layer after them."""

    def __init__(self, V: int, R: int, layer, n_out: int = 0, before=(), n_before: int = 0,
                 complete: bool = False):
        self.V, self.R, self.layer = V, R, layer
        given = np.repeat(np.arange(V), R)
        first = 1 + V * R
        own = V + np.arange(n_before + n_out)
        if layer.three:
            own[n_before:] = V + n_before + np.arange(n_out) // 3
        mask = np.zeros(first + n_before + n_out, bool)
        mask[1:first] = complete
        self.network = Network(V * R, [*before, layer], np.concatenate([[-1], given, own]),
                               complete=mask)
        self.hidden = slice(first + n_before, first + n_before + n_out)

    def forward(self, P: np.ndarray, hard: bool = False):
        return self.network.forward(P.ravel(), hard)

    def literals(self, P: np.ndarray, hard: bool = False) -> np.ndarray:
        """What the layer writes to P."""
        return self.forward(P, hard).P[self.hidden].copy()

    def gradient(self, P: np.ndarray, dP=None, dX=None, dK=None) -> np.ndarray:
        """(V, R); dP: weights of what the layer writes."""
        state = self.forward(P)
        dense = np.zeros(self.network.n_p)
        if dP is not None:
            dense[self.hidden] = dP
        return self.network.backward(state, dense, dX, dK).reshape(self.V, self.R)

    def assignments(self):
        """Every (V,) classes, with the (V, R) one-hot of it."""
        for classes in itertools.product(range(self.R), repeat=self.V):
            yield np.array(classes), np.eye(self.R)[list(classes)]

    def expectation(self, P: np.ndarray, function) -> np.ndarray:
        """Sum over all assignments of their probability times `function(classes)`."""
        total = 0.0
        for classes, _ in self.assignments():
            total = total + P[np.arange(self.V), classes].prod() * np.asarray(
                function(classes), np.float64)
        return total


def holds(row: np.ndarray, classes: np.ndarray, R: int) -> bool:
    """Whether all literals of a term hold."""
    return all(literal == 0 or classes[(literal - 1) // R] == (literal - 1) % R
               for literal in row)


def slopes(P: np.ndarray, function) -> np.ndarray:
    """(V, R) derivatives of a function that is linear in each variable's distribution.

    Moving a variable onto class c, less moving it onto class 0: exact, no step size.
    """
    result = np.zeros_like(P)
    for v, c in np.ndindex(*P.shape):
        moved = P.copy()
        moved[v] = np.eye(P.shape[1])[c]
        result[v, c] = function(moved)
    return result - result[:, :1]


def differences(P: np.ndarray, function, step: float = 1e-6) -> np.ndarray:
    """(V, R) derivatives by moving mass between class 0 and class c, by central differences."""
    result = np.zeros_like(P)
    for v, c in np.ndindex(*P.shape):
        if c == 0:
            continue
        values = []
        for sign in (1, -1):
            moved = P.copy()
            moved[v, c] += sign * step
            moved[v, 0] -= sign * step
            values.append(function(moved))
        result[v, c] = (values[0] - values[1]) / (2 * step)
    return result


def tangent(gradient: np.ndarray) -> np.ndarray:
    """A gradient as slopes along the simplex: against class 0."""
    return gradient - gradient[:, :1]
