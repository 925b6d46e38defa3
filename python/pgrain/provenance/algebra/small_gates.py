"""Gates that the lowering needs beside those of `gates`: each a formula on one line."""

from __future__ import annotations

import numpy as np

from pgrain.provenance.gates.network import Gradient, Layer, State, three_edges


def add(vector: np.ndarray, at: np.ndarray, values: np.ndarray) -> None:
    vector += np.bincount(at, values, len(vector))


class SmallLayer(Layer):
    """Knows where the numbers begin in node numbers."""

    def prepare(self, owners) -> None:
        self.n_p = owners.n_p


class Disjoint(SmallLayer):
    """true = sum of the probabilities of events that exclude each other; false = 1 - true."""

    three = True

    def __init__(self, out: int, n: int, target: np.ndarray, event: np.ndarray):
        self.out, self.n, self.target, self.event = out, n, target, event
        self.n_literals = 3 * n

    def forward(self, state: State) -> None:
        true = np.bincount(self.target, state.P[self.event], self.n)
        true = np.rint(true) if state.hard else np.clip(true, 0.0, 1.0)
        place = self.out + 3 * np.arange(self.n)
        state.P[place], state.P[place + 1], state.P[place + 2] = 1.0 - true, true, 0.0

    def backward(self, state: State, grad: Gradient) -> None:
        place = self.out + 3 * np.arange(self.n)
        add(grad.P, self.event, (grad.P[place + 1] - grad.P[place])[self.target])

    def edges(self):
        return three_edges(self.out, self.n, self.target, self.event)


class Combination(SmallLayer):
    """P = sum of weight x P[literal]: of an event that is made of differences of others."""

    def __init__(self, out: int, n: int, target: np.ndarray, literal: np.ndarray,
                 weight: np.ndarray):
        self.out, self.n_literals = out, n
        self.target, self.literal, self.weight = target, literal, weight

    def _total(self, state: State) -> np.ndarray:
        return np.bincount(self.target, self.weight * state.P[self.literal], self.n_literals)

    def forward(self, state: State) -> None:
        total = self._total(state)
        state.P[self.out:self.out + self.n_literals] = np.rint(total) if state.hard else \
            np.clip(total, 0.0, 1.0)

    def backward(self, state: State, grad: Gradient) -> None:
        up = grad.P[self.out:self.out + self.n_literals] * (self._total(state) > 0)
        add(grad.P, self.literal, up[self.target] * self.weight)

    def edges(self):
        return self.out + self.target, self.literal


class Share(SmallLayer):
    """P = kept part / whole: what falls to one of several events that exclude each other."""

    def __init__(self, out: int, kept: np.ndarray, part: np.ndarray, whole: np.ndarray):
        self.out, self.kept, self.part, self.whole = out, kept, part, whole
        self.n_literals = len(kept)

    def forward(self, state: State) -> None:
        whole = state.P[self.whole]
        share = state.P[self.part] / np.where(whole > 0, whole, 1.0)
        state.P[self.out:self.out + self.n_literals] = state.P[self.kept] * share

    def backward(self, state: State, grad: Gradient) -> None:
        up = grad.P[self.out:self.out + self.n_literals]
        kept, part, whole = (state.P[at] for at in (self.kept, self.part, self.whole))
        safe = np.where(whole > 0, whole, 1.0)
        add(grad.P, self.kept, up * part / safe)
        add(grad.P, self.part, up * kept / safe)
        add(grad.P, self.whole, -up * kept * part / safe ** 2)

    def edges(self):
        out = self.out + np.arange(self.n_literals)
        return np.tile(out, 3), np.concatenate([self.kept, self.part, self.whole])


class BooleanAggregate(SmallLayer):
    """bool_or: true if any term is true, NULL if none is known, else false; bool_and mirrored.

    decided, known: literals "true" of the disjunctions over deciding and over known terms.
    """

    three = True

    def __init__(self, out: int, kind: str, decided: np.ndarray, known: np.ndarray):
        self.out, self.n, self.decided, self.known = out, len(known), decided, known
        self.wins = 1 if kind == "bool_or" else 0
        self.n_literals = 3 * self.n

    def forward(self, state: State) -> None:
        place = self.out + 3 * np.arange(self.n)
        decided, known = state.P[self.decided], state.P[self.known]
        state.P[place + self.wins] = decided
        state.P[place + 1 - self.wins] = np.maximum(known - decided, 0.0)
        state.P[place + 2] = 1.0 - known

    def backward(self, state: State, grad: Gradient) -> None:
        place = self.out + 3 * np.arange(self.n)
        wins, loses, null = (grad.P[place + self.wins], grad.P[place + 1 - self.wins],
                             grad.P[place + 2])
        add(grad.P, self.decided, wins - loses)
        add(grad.P, self.known, loses - null)

    def edges(self):
        groups = np.arange(self.n)
        return three_edges(self.out, self.n, np.concatenate([groups, groups]),
                           np.concatenate([self.decided, self.known]))


class Known(SmallLayer):
    """Whether a number is NULL (or, negated, is not)."""

    three = True

    def __init__(self, out: int, number: np.ndarray, negated: bool):
        self.out, self.n, self.number, self.negated = out, len(number), number, negated
        self.n_literals = 3 * self.n

    def forward(self, state: State) -> None:
        place = self.out + 3 * np.arange(self.n)
        K = state.K[self.number]
        state.P[place + self.negated], state.P[place + 1 - self.negated] = K, 1.0 - K

    def backward(self, state: State, grad: Gradient) -> None:
        place = self.out + 3 * np.arange(self.n)
        add(grad.K, self.number, grad.P[place + self.negated] - grad.P[place + 1 - self.negated])

    def edges(self):
        return three_edges(self.out, self.n, np.arange(self.n), self.n_p + self.number)


class KnownEvent(SmallLayer):
    """P = P[event] K[number]: it occurs, and its number is not NULL."""

    def __init__(self, out: int, event: np.ndarray, number: np.ndarray):
        self.out, self.event, self.number, self.n_literals = out, event, number, len(event)

    def forward(self, state: State) -> None:
        at = slice(self.out, self.out + self.n_literals)
        state.P[at] = state.P[self.event] * state.K[self.number]

    def backward(self, state: State, grad: Gradient) -> None:
        up = grad.P[self.out:self.out + self.n_literals]
        add(grad.P, self.event, up * state.K[self.number])
        add(grad.K, self.number, up * state.P[self.event])

    def edges(self):
        out = self.out + np.arange(self.n_literals)
        return np.tile(out, 2), np.concatenate([self.event, self.n_p + self.number])


class Quotient(SmallLayer):
    """X = sum / count of independent expectations, K = P[known]; `count` None: X = sum."""

    def __init__(self, out: int, total: np.ndarray, count: np.ndarray | None, known: np.ndarray):
        self.out, self.total, self.count, self.known = out, total, count, known
        self.n_numbers = len(total)

    def forward(self, state: State) -> None:
        at = slice(self.out, self.out + self.n_numbers)
        total = state.X[self.total]
        if self.count is not None:
            count = state.X[self.count]
            total = np.where(count > 0, total / np.where(count > 0, count, 1.0), 0.0)
        state.K[at] = state.P[self.known]
        state.X[at] = np.where(state.K[at] > 0, total, 0.0)

    def backward(self, state: State, grad: Gradient) -> None:
        at = slice(self.out, self.out + self.n_numbers)
        up = np.where(state.K[at] > 0, grad.X[at], 0.0)
        add(grad.P, self.known, grad.K[at])
        if self.count is None:
            add(grad.X, self.total, up)
            return
        count = state.X[self.count]
        safe = np.where(count > 0, count, 1.0)
        up = np.where(count > 0, up, 0.0)
        add(grad.X, self.total, up / safe)
        add(grad.X, self.count, -up * state.X[self.total] / safe ** 2)

    def edges(self):
        out = self.n_p + self.out + np.arange(self.n_numbers)
        sources = [self.known, self.n_p + self.total]
        if self.count is not None:
            sources.append(self.n_p + self.count)
        return np.tile(out, len(sources)), np.concatenate(sources)


class FromLiterals(SmallLayer):
    """X = P of a (raw) literal, K = 1; literal -1: NULL."""

    def __init__(self, out: int, literal: np.ndarray):
        self.out, self.literal, self.n_numbers = out, literal, len(literal)

    def forward(self, state: State) -> None:
        at = slice(self.out, self.out + self.n_numbers)
        there = self.literal >= 0
        state.K[at] = there
        state.X[at] = np.where(there, state.P[self.literal], 0.0)

    def backward(self, state: State, grad: Gradient) -> None:
        there = self.literal >= 0
        up = grad.X[self.out:self.out + self.n_numbers]
        add(grad.P, self.literal[there], up[there])

    def edges(self):
        there = np.flatnonzero(self.literal >= 0)
        return self.n_p + self.out + there, self.literal[there]


class KnownIf(SmallLayer):
    """X = X[number]; K = K[number] P[event]: NULL where the event does not occur."""

    def __init__(self, out: int, number: np.ndarray, event: np.ndarray):
        self.out, self.number, self.event, self.n_numbers = out, number, event, len(number)

    def forward(self, state: State) -> None:
        at = slice(self.out, self.out + self.n_numbers)
        state.X[at] = state.X[self.number]
        state.K[at] = state.K[self.number] * state.P[self.event]

    def backward(self, state: State, grad: Gradient) -> None:
        at = slice(self.out, self.out + self.n_numbers)
        add(grad.X, self.number, grad.X[at])
        add(grad.K, self.number, grad.K[at] * state.P[self.event])
        add(grad.P, self.event, grad.K[at] * state.K[self.number])

    def edges(self):
        out = self.n_p + self.out + np.arange(self.n_numbers)
        return np.tile(out, 2), np.concatenate([self.n_p + self.number, self.event])


class Constants(SmallLayer):
    """Numbers that depend on nothing; NaN: NULL."""

    def __init__(self, out: int, values: np.ndarray):
        self.out, self.values, self.n_numbers = out, values, len(values)

    def forward(self, state: State) -> None:
        at = slice(self.out, self.out + self.n_numbers)
        known = ~np.isnan(self.values)
        state.K[at] = known
        state.X[at] = np.where(known, self.values, 0.0)

    def backward(self, state: State, grad: Gradient) -> None:
        pass

    def edges(self):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)


class Chosen(SmallLayer):
    """min or max of numbers of the circuit over the terms that occur.

    Relaxed: the numbers stand at their expectations, and the extreme of those terms that occur is
    taken: sum_i x_i p_i prod_(better j) (1 - p_j), given that any occurs. It leaves out that the
    largest of several uncertain numbers is expected to be larger than the largest expectation.
    """

    def __init__(self, out: int, n: int, kind: str, target: np.ndarray, event: np.ndarray,
                 number: np.ndarray):
        self.out, self.n, self.sign = out, n, 1.0 if kind == "max" else -1.0
        order = np.argsort(target, kind="stable")
        self.target, self.event, self.number = target[order], event[order], number[order]
        self.n_numbers = n

    def _weights(self, state: State):
        """(order, x, weight of each term being the extreme, 1 - P(none) of each target)."""
        x = state.X[self.number]
        p = state.P[self.event] * state.K[self.number]
        order = np.lexsort((-self.sign * x, self.target))
        target, p = self.target[order], p[order]
        ones = p >= 1.0
        logs = np.log1p(-np.where(ones, 0.0, p))
        total = np.cumsum(logs) - logs
        hits = np.cumsum(ones) - ones
        starts = np.flatnonzero(np.concatenate(([True], target[1:] != target[:-1]))) \
            if len(target) else np.zeros(0, np.int64)
        size = np.diff(np.append(starts, len(target)))
        before = np.exp(total - np.repeat(total[starts], size))
        before = np.where(hits - np.repeat(hits[starts], size) > 0, 0.0, before)
        return order, x[order], p, before

    def forward(self, state: State) -> None:
        order, x, p, before = self._weights(state)
        target = self.target[order]
        some = np.bincount(target, p * before, self.n)
        best = np.bincount(target, x * p * before, self.n)
        at = slice(self.out, self.out + self.n)
        known = some > 0
        state.K[at] = np.rint(some) if state.hard else np.minimum(some, 1.0)
        state.X[at] = np.where(known, best / np.where(known, some, 1.0), 0.0)

    def backward(self, state: State, grad: Gradient) -> None:
        order, x, p, before = self._weights(state)
        target = self.target[order]
        some = np.bincount(target, p * before, self.n)
        safe = np.where(some > 0, some, 1.0)
        at = slice(self.out, self.out + self.n)
        up = np.where(some > 0, grad.X[at] / safe, 0.0)
        mean = state.X[at]
        to_weight = up[target] * (x - mean[target]) + grad.K[at][target]
        add(grad.X, self.number[order], up[target] * p * before)
        # d weight_i / d p_j: before_i for j = i, -weight_i / (1 - p_j) for j before i.
        pushed = to_weight * p * before
        after = np.cumsum(pushed[::-1])[::-1] - pushed
        starts = np.flatnonzero(np.concatenate(([True], target[1:] != target[:-1]))) \
            if len(target) else np.zeros(0, np.int64)
        size = np.diff(np.append(starts, len(target)))
        ends = np.append(starts[1:], len(target)) - 1
        after = after - np.repeat(after[ends] if len(ends) else after, size)
        to_p = to_weight * before - np.where(p < 1.0, after / np.where(p < 1.0, 1.0 - p, 1.0), 0.0)
        add(grad.P, self.event[order], to_p * state.K[self.number[order]])
        add(grad.K, self.number[order], to_p * state.P[self.event[order]])

    def edges(self):
        out = self.n_p + self.out + self.target
        return np.concatenate([out, out]), np.concatenate([self.event, self.n_p + self.number])
