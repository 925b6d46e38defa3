"""What is known of a group given that it is there: comparisons, and numbers."""

from __future__ import annotations

import numpy as np

from pgrain.provenance.algebra.small_gates import SmallLayer, add
from pgrain.provenance.gates.network import Gradient, State, three_edges


class Given(SmallLayer):
    """A comparison given that its group has a row.

    For a group without rows the comparison has the states of `empty` (a three of its own), which
    are part of its probability: (P[state] - P[empty's state] (1 - A)) / A, A = P[any].
    """

    three = True

    def __init__(self, out: int, three: np.ndarray, any_: np.ndarray, empty: np.ndarray):
        self.out, self.three_of, self.any, self.empty = out, three, any_, empty
        self.n = len(three)
        self.n_literals = 3 * self.n

    def forward(self, state: State) -> None:
        A = state.P[self.any]
        safe = np.where(A > 1e-12, A, 1.0)
        for code in range(3):
            part = state.P[self.three_of + code] - state.P[self.empty + code] * (1.0 - A)
            value = np.where(A > 1e-12, np.clip(part / safe, 0.0, 1.0), 0.0)
            state.P[self.out + 3 * np.arange(self.n) + code] = value

    def backward(self, state: State, grad: Gradient) -> None:
        A = state.P[self.any]
        safe = np.where(A > 1e-12, A, 1.0)
        for code in range(3):
            up = np.where(A > 1e-12, grad.P[self.out + 3 * np.arange(self.n) + code], 0.0)
            empty = state.P[self.empty + code]
            part = state.P[self.three_of + code] - empty * (1.0 - A)
            up = np.where((part < -1e-12) | (part > safe + 1e-12), 0.0, up)     # clipped
            add(grad.P, self.three_of + code, up / safe)
            add(grad.P, self.empty + code, -up * (1.0 - A) / safe)
            add(grad.P, self.any, up * (empty / safe - part / safe ** 2))

    def edges(self):
        groups = np.arange(self.n)
        return three_edges(self.out, self.n, np.tile(groups, 3), np.concatenate(
            [self.three_of, self.any, self.empty]))


class IfAggregated(SmallLayer):
    """A comparison that is NULL where an aggregate has nothing to aggregate.

    K = P[known]; `without`: the comparison (a three) where that aggregate has no terms. Then
    P[state] - P[without's state] (1 - K) is true or false and known; NULL is the rest.
    """

    three = True

    def __init__(self, out: int, three: np.ndarray, known: np.ndarray, without: np.ndarray):
        self.out, self.three_of, self.known, self.without = out, three, known, without
        self.n = len(three)
        self.n_literals = 3 * self.n

    def _parts(self, state: State):
        return [state.P[self.three_of + code] - state.P[self.without + code]
                * (1.0 - state.P[self.known]) for code in range(2)]

    def forward(self, state: State) -> None:
        place = self.out + 3 * np.arange(self.n)
        false, true = (np.clip(part, 0.0, 1.0) for part in self._parts(state))
        state.P[place], state.P[place + 1] = false, true
        state.P[place + 2] = np.clip(1.0 - false - true, 0.0, 1.0)

    def backward(self, state: State, grad: Gradient) -> None:
        place = self.out + 3 * np.arange(self.n)
        K = state.P[self.known]
        for code, part in enumerate(self._parts(state)):
            up = np.where(part < 0.0, 0.0, grad.P[place + code] - grad.P[place + 2])
            add(grad.P, self.three_of + code, up)
            add(grad.P, self.without + code, -up * (1.0 - K))
            add(grad.P, self.known, up * state.P[self.without + code])

    def edges(self):
        return three_edges(self.out, self.n, np.tile(np.arange(self.n), 3), np.concatenate(
            [self.three_of, self.known, self.without]))


class Conditional(SmallLayer):
    """X = X[total] / P[known]: the expectation of a sum given that there is something to add."""

    def __init__(self, out: int, total: np.ndarray, known: np.ndarray):
        self.out, self.total, self.known, self.n_numbers = out, total, known, len(total)

    def forward(self, state: State) -> None:
        at = slice(self.out, self.out + self.n_numbers)
        known = state.P[self.known]
        state.K[at] = known
        state.X[at] = np.where(known > 0, state.X[self.total] / np.where(known > 0, known, 1.0), 0)

    def backward(self, state: State, grad: Gradient) -> None:
        at = slice(self.out, self.out + self.n_numbers)
        known = state.P[self.known]
        up = np.where(known > 0, grad.X[at], 0.0) / np.where(known > 0, known, 1.0)
        add(grad.X, self.total, up)
        add(grad.P, self.known, grad.K[at] - up * state.X[at])

    def edges(self):
        out = self.n_p + self.out + np.arange(self.n_numbers)
        return np.tile(out, 2), np.concatenate([self.n_p + self.total, self.known])


class OfThere(SmallLayer):
    """A number of a group given that the group is there, A = P[any].

    X is divided by A for counts and sums, which are 0 where the group is not there; K is, but for
    counts, which are never NULL.
    """

    def __init__(self, out: int, number: np.ndarray, any_: np.ndarray, zero: bool, null: bool):
        self.out, self.number, self.any, self.n_numbers = out, number, any_, len(number)
        self.zero, self.null = zero, null

    def forward(self, state: State) -> None:
        at = slice(self.out, self.out + self.n_numbers)
        A, X, K = state.P[self.any], state.X[self.number], state.K[self.number]
        safe = np.where(A > 0, A, 1.0)
        state.X[at] = X / safe if self.zero else X
        state.K[at] = np.minimum(K / safe, 1.0) if self.null else K

    def backward(self, state: State, grad: Gradient) -> None:
        at = slice(self.out, self.out + self.n_numbers)
        A = state.P[self.any]
        safe = np.where(A > 0, A, 1.0)
        for divided, up, into, value in ((self.zero, grad.X[at], grad.X, state.X),
                                         (self.null, grad.K[at], grad.K, state.K)):
            if not divided:
                add(into, self.number, up)
                continue
            add(into, self.number, up / safe)
            add(grad.P, self.any, np.where(A > 0, -up * value[self.number] / safe ** 2, 0.0))

    def edges(self):
        out = self.n_p + self.out + np.arange(self.n_numbers)
        return np.tile(out, 2), np.concatenate([self.n_p + self.number, self.any])


class IfKnown(SmallLayer):
    """X = X / K: a number that counts as 0 where it is NULL, given that it is not."""

    def __init__(self, out: int, number: np.ndarray):
        self.out, self.number, self.n_numbers = out, number, len(number)

    def forward(self, state: State) -> None:
        at = slice(self.out, self.out + self.n_numbers)
        K = state.K[self.number]
        state.K[at] = K
        state.X[at] = np.where(K > 0, state.X[self.number] / np.where(K > 0, K, 1.0), 0.0)

    def backward(self, state: State, grad: Gradient) -> None:
        at = slice(self.out, self.out + self.n_numbers)
        K = state.K[self.number]
        up = np.where(K > 0, grad.X[at], 0.0) / np.where(K > 0, K, 1.0)
        add(grad.X, self.number, up)
        add(grad.K, self.number, grad.K[at] - up * state.X[at])

    def edges(self):
        return self.n_p + self.out + np.arange(self.n_numbers), self.n_p + self.number
