"""Decision diagrams: the joint distribution of several numbers of a group.

Level after level a diagram takes up one independent factor of its group (a variable, or variables
that terms tie together), and goes from a node to another one for each of the factor's outcomes.
Nodes of a level that hold the same numbers so far are one node, so counts of m rows need no 2^m
nodes. What the numbers are at the last nodes is known when the network is made; only the
probabilities to get there are computed here (compare multi-terminal binary decision diagrams;
Clarke, McMillan, Zhao, Fujita and Yang, DAC 1993).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgrain.provenance.gates.blocks import Owners
from pgrain.provenance.gates.kernels import add_at, product, products_of_others
from pgrain.provenance.gates.network import Gradient, Layer, State

_LEAST = 1e-12      # of a condition: below it nothing is said given that


@dataclass
class Paths:
    """How the nodes of many diagrams are reached.

    outcomes : (O, L) int
        Factors of each outcome's probability: a literal, or -1 - r for "none of the literals that
        `rest` lists for r"; 0 (the constant) pads.
    rest, rest_of : (J,) int
        Literals of one owner that an outcome rules out all of, and whose.
    levels : list of (source, target, outcome), each (T,) int
        Edges; nodes are numbered through, level after level, the roots first.
    """

    n_nodes: int
    n_roots: int
    outcomes: np.ndarray
    rest: np.ndarray
    rest_of: np.ndarray
    levels: list[tuple[np.ndarray, np.ndarray, np.ndarray]]


class Diagram(Layer):
    """P[out + i] = P(a node of event i is reached) / P(one of its condition is); X likewise.

    Parameters
    ----------
    out, out_x : int
        Places of the events in P and of the numbers in X.
    paths : Paths
    condition : ((C,), (C,)) int
        (condition, last node) pairs: where a condition holds.
    event : ((E,), (E,)) int
        (event, last node) pairs, each node one of the event's condition.
    of : (n,) int
        Condition of each event.
    number : ((M,), (M,), (M,) float)
        (number, last node, value) where a number is known: X = E[value | known and the condition],
        K = P(known | the condition).
    of_number : (m,) int
        Condition of each number.
    zero : bool
        X = E[value, 0 where it is not known | the condition] instead, as sums have it.
    """

    def __init__(self, out: int, paths: Paths, condition, event, of: np.ndarray, *,
                 out_x: int = 0, number=None, of_number: np.ndarray | None = None,
                 zero: bool = False):
        self.out, self.paths, self.of = out, paths, of
        self.condition, self.event, self.zero = condition, event, zero
        self.n_literals, self.n_numbers = len(of), 0
        self.n_conditions = int(max(condition[0].max(initial=-1), of.max(initial=-1))) + 1
        if number is not None and len(of_number):
            # A layer has one place: numbers are written beside it, and said in `edges`.
            self.out_x, self.number, self.of_number = out_x, number, of_number
            self.n_conditions = max(self.n_conditions, int(of_number.max()) + 1)
        else:
            self.number = None

    def prepare(self, owners: np.ndarray | Owners) -> None:
        owners = Owners.of(owners)
        self.n_p = owners.n_p
        paths = self.paths
        self.n_rests = int(paths.rest_of.max(initial=-1)) + 1
        # Columns of [P, rests].
        self.columns = np.where(paths.outcomes < 0, self.n_p - 1 - paths.outcomes, paths.outcomes)

    def forward(self, state: State) -> None:
        paths = self.paths
        rests = np.maximum(1.0 - np.bincount(paths.rest_of, state.P[paths.rest], self.n_rests), 0.0)
        factors = np.concatenate([state.P, rests])
        q = product(factors[self.columns])
        p = np.zeros(paths.n_nodes)
        p[:paths.n_roots] = 1.0
        low = paths.n_roots
        for source, target, outcome in paths.levels:
            high = int(target.max(initial=low - 1)) + 1
            p[low:high] = np.bincount(target - low, p[source] * q[outcome], high - low)
            low = high
        there = np.bincount(self.condition[0], p[self.condition[1]], self.n_conditions)
        some = np.bincount(self.event[0], p[self.event[1]], self.n_literals)
        safe = np.where(there > _LEAST, there, 1.0)
        of = self.of
        value = np.where(there[of] > _LEAST, np.clip(some / safe[of], 0.0, 1.0), 0.0)
        state.P[self.out:self.out + self.n_literals] = np.rint(value) if state.hard else value
        kept = None
        if self.number is not None:
            row, node, x = self.number
            known = np.bincount(row, p[node], len(self.of_number))
            total = np.bincount(row, p[node] * x, len(self.of_number))
            here = slice(self.out_x, self.out_x + len(self.of_number))
            given = there[self.of_number]
            some_known = (known > 0.0) & (given > _LEAST)
            state.K[here] = np.where(some_known, np.minimum(known / safe[self.of_number], 1.0), 0.0)
            over = given if self.zero else known
            state.X[here] = np.where(some_known, total / np.where(some_known, over, 1.0), 0.0)
            kept = known, some_known
        state.saved[self] = factors, q, p, there, some, kept

    def backward(self, state: State, grad: Gradient) -> None:
        factors, q, p, there, some, kept = state.saved[self]
        d = grad.P[self.out:self.out + self.n_literals]
        of, paths = self.of, self.paths
        safe = np.where(there > _LEAST, there, 1.0)
        d = np.where(there[of] > _LEAST, d, 0.0) / safe[of]
        d_there = np.zeros(self.n_conditions)
        add_at(d_there, of, -d * some / safe[of])
        dp = np.zeros(paths.n_nodes)
        add_at(dp, self.event[1], d[self.event[0]])
        if kept is not None:
            known, some_known = kept
            here = slice(self.out_x, self.out_x + len(self.of_number))
            given = safe[self.of_number]
            over = given if self.zero else np.where(some_known, known, 1.0)
            d_x, X = np.where(some_known, grad.X[here], 0.0) / over, state.X[here]
            d_k = np.where(some_known, grad.K[here], 0.0) / given
            row, node, x = self.number
            taken = np.zeros(len(X)) if self.zero else X
            add_at(dp, node, d_x[row] * (x - taken[row]) + d_k[row])
            add_at(d_there, self.of_number, -d_k * known / given - d_x * (X - taken))
        if not (dp.any() or d_there.any()):
            return
        add_at(dp, self.condition[1], d_there[self.condition[0]])
        d_q = np.zeros(len(q))
        for source, target, outcome in reversed(paths.levels):
            add_at(d_q, outcome, dp[target] * p[source])
            add_at(dp, source, dp[target] * q[outcome])
        others = products_of_others(factors[self.columns])
        others *= d_q[:, None]
        d_factors = np.zeros(len(factors))
        add_at(d_factors, self.columns, others)
        d_factors[0] = 0.0
        grad.P += d_factors[:self.n_p]
        add_at(grad.P, paths.rest, -d_factors[self.n_p:][paths.rest_of])

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Everything of a condition on the literals of the diagrams that its nodes are of."""
        literals, targets = self.sources
        if not len(targets):
            return targets, literals
        target, source = [], []
        for places, conditions in self._outputs():
            first = np.full(self.n_conditions, -1)
            first[conditions[::-1]] = places[::-1]
            asked = first[targets] >= 0
            target += [first[targets[asked]], places]
            source += [literals[asked], first[conditions]]
        target, source = np.concatenate(target), np.concatenate(source)
        return target[target != source], source[target != source]

    def _outputs(self):
        yield self.out + np.arange(self.n_literals), self.of
        if self.number is not None:
            yield self.n_p + self.out_x + np.arange(len(self.of_number)), self.of_number

    # (literals (S,), conditions (S,)): which literals decide what is under a condition.
    sources: tuple[np.ndarray, np.ndarray] = (np.zeros(0, np.int64), np.zeros(0, np.int64))
