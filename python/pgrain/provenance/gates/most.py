"""Counts against the greatest (or least) of counts, by their distributions.

With F_c(v) = 1 - e_c + e_c P(n_c <= v) that candidate c is not there or at most v,

    P(n >= all others) = sum over v of P(n = v) prod_c F_c(v),

and with the next smaller value in place of v for >. Candidates count as independent of each other
and of n; the candidate that is the row's own number is left out of the product, for what is there
to compare n = v with is known then. Products are sums of logs, a set of candidates at a time.
"""

from __future__ import annotations

import numpy as np

from pgrain.provenance.gates.kernels import add_at, distinct, heads
from pgrain.provenance.gates.network import Gradient, Layer, State

_TINY = 1e-300
# true = constant + weights of P(>= all), P(> all), P(no other is there)
WEIGHTS = {">=": (0, 1, 0, -1), ">": (0, 0, 1, -1), "<": (1, -1, 0, 0), "<=": (1, 0, -1, 0),
           "=": (0, 1, -1, 0), "<>": (1, -1, 1, -1)}


class AgainstCounts(Layer):
    """P[out + 3 r + (0, 1, 2)] of: number  op  the greatest of the candidates that are there.

    Parameters
    ----------
    out : int
    operator : str
        One of > >= < <= = <>.
    set_of : (n,) int
        Set of candidates that each row is compared with.
    row, value, literal, at_least, more : (A,)
        What a row's number can be: its values, the literals that it is that, and whether its own
        candidate is then at most that, and less (true if it has none).
    own : (n,) int
        Candidate that is the row's own number, -1 for none.
    candidate_set, event : (C,) int
        Set of each candidate, nondecreasing, and the literal that it is there.
    of, of_value, of_literal : (B,)
        What candidates can be, given that they are there: candidate, value, literal.
    """

    three = True

    def __init__(self, out: int, operator: str, set_of, row, value, literal, at_least, more, own,
                 candidate_set, event, of, of_value, of_literal):
        self.out, self.n, self.n_literals = out, len(set_of), 3 * len(set_of)
        self.weights, self.set_of, self.own = WEIGHTS[operator], set_of, own
        self.row, self.literal = row, literal
        self.ok = at_least.astype(float), more.astype(float)
        self.candidate_set, self.event = candidate_set, event
        self.of, self.of_literal = of, of_literal
        self._grid(value, of_value)

    def _grid(self, value, of_value) -> None:
        """Cells (candidate, place): place 0 is below all values of the set."""
        sets = np.concatenate([self.set_of[self.row], self.candidate_set[self.of]])
        values = np.concatenate([value, of_value])
        order = np.lexsort((values, sets))
        new = heads(sets[order], values[order])
        code = np.empty(len(order), np.int64)
        code[order] = np.cumsum(new) - 1
        n_sets = int(max(self.set_of.max(initial=-1), self.candidate_set.max(initial=-1))) + 1
        self.size = np.bincount(sets[order][new], minlength=n_sets) + 1
        first = np.cumsum(self.size) - self.size
        place = code - (first - np.arange(n_sets))[sets] + 1
        self.first_of_set = first
        self.place, of_place = place[:len(value)], place[len(value):]
        width = self.size[self.candidate_set]
        self.first = np.cumsum(width) - width               # of each candidate's cells
        self.candidate = np.repeat(np.arange(len(width)), width)
        within = np.arange(len(self.candidate)) - self.first[self.candidate]
        self.in_set = first[self.candidate_set[self.candidate]] + within
        self.last = self.first + width - 1
        self.cell = self.first[self.of] + of_place
        self.in_own = np.where(self.own[self.row] >= 0, self.first[self.own[self.row]]
                               if len(self.first) else 0, -1)

    @staticmethod
    def cells(set_of, row, value, candidate_set, of, of_value) -> int:
        """How many cells there would be."""
        n_sets = int(max(set_of.max(initial=-1), candidate_set.max(initial=-1))) + 1
        sets = np.concatenate([set_of[row], candidate_set[of]])
        values = distinct(np.concatenate([value, of_value]))[1]
        most = int(values.max(initial=0)) + 1
        size = 1 + np.bincount(distinct(sets * most + values)[0] // most, minlength=n_sets)
        return int((size * np.bincount(candidate_set, minlength=n_sets)).sum())

    # --- forward ---------------------------------------------------------------------------

    def _products(self, state: State):
        """(cdf, F) of each cell, and the logs of all candidates' product by place of a set."""
        added = np.bincount(self.cell, state.P[self.of_literal], len(self.candidate))
        total = np.cumsum(added)
        before = np.where(self.first > 0, total[self.first - 1], 0.0) if len(self.first) else \
            np.zeros(0)
        cdf = np.minimum(total - before[self.candidate], 1.0)
        e = state.P[self.event][self.candidate]
        F = np.maximum(1.0 - e + e * cdf, _TINY)
        return cdf, F, np.bincount(self.in_set, np.log(F), int(self.size.sum()))

    def _others(self, F, logs, below: int) -> np.ndarray:
        """(A,) the product of all candidates but the row's own, at its value or one below."""
        place = self.place - below
        of_all = logs[self.first_of_set[self.set_of[self.row]] + place]
        mine = np.log(F[np.where(self.in_own >= 0, self.in_own + place, 0)]) if len(F) else 0.0
        return np.exp(of_all - np.where(self.in_own >= 0, mine, 0.0))

    def forward(self, state: State) -> None:
        cdf, F, logs = self._products(state)
        p = state.P[self.literal]
        others = self._others(F, logs, 0), self._others(F, logs, 1)
        ahead, strictly = (np.bincount(self.row, p * ok * part, self.n)
                           for ok, part in zip(self.ok, others, strict=True))
        nobody = np.where(self.own >= 0, 0.0, np.exp(logs[self.first_of_set[self.set_of]]))
        constant, a, b, c = self.weights
        true = np.clip(constant + a * ahead + b * strictly + c * nobody, 0.0, 1.0 - nobody)
        if state.hard:
            true, nobody = np.rint(true), np.rint(nobody)
        out = state.P[self.out:self.out + 3 * self.n].reshape(self.n, 3)
        out[:, 1], out[:, 2] = true, nobody
        out[:, 0] = np.maximum(1.0 - true - nobody, 0.0)
        state.saved[self] = cdf, F, others, nobody

    # --- backward --------------------------------------------------------------------------

    def backward(self, state: State, grad: Gradient) -> None:
        d = grad.P[self.out:self.out + 3 * self.n].reshape(self.n, 3)
        if not d.any():
            return
        cdf, F, others, nobody = state.saved[self]
        d_true, d_nobody = d[:, 1] - d[:, 0], d[:, 2] - d[:, 0]
        _, a, b, c = self.weights
        d_nobody = np.where(self.own >= 0, 0.0, d_nobody + c * d_true)
        p, d_p = state.P[self.literal], np.zeros(len(self.row))
        by_set = np.bincount(self.first_of_set[self.set_of], d_nobody * nobody,
                             int(self.size.sum()))
        by_cell = np.zeros(len(F))              # what the rows' own candidates have no part in
        for weight, ok, part, below in zip((a, b), self.ok, others, (0, 1), strict=True):
            up = weight * d_true[self.row] * ok * part
            d_p += up
            place = self.place - below
            by_set += np.bincount(self.first_of_set[self.set_of[self.row]] + place, up * p,
                                  len(by_set))
            mine = self.in_own >= 0
            add_at(by_cell, self.in_own[mine] + place[mine], (up * p)[mine])
        add_at(grad.P, self.literal, d_p)
        d_F = (by_set[self.in_set] - by_cell) / F
        add_at(grad.P, self.event, np.bincount(self.candidate, d_F * (cdf - 1.0),
                                               len(self.event)))
        d_cdf = d_F * state.P[self.event][self.candidate]
        total = np.cumsum(d_cdf)
        before = total[self.cell] - d_cdf[self.cell]
        add_at(grad.P, self.of_literal, total[self.last[self.of]] - before)

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """A set's candidates stand under the first row of the set, its other rows under that."""
        false = self.out + 3 * np.arange(self.n)
        first = np.full(len(self.size), -1)
        first[self.set_of[::-1]] = np.arange(self.n)[::-1]
        of_candidate = first[self.candidate_set]
        asked = of_candidate >= 0
        entry = of_candidate[self.of] >= 0
        others = np.flatnonzero(first[self.set_of] != np.arange(self.n))
        return (np.concatenate([false[self.row], false[of_candidate[asked]],
                                false[of_candidate[self.of][entry]], false[others], false + 1,
                                false + 2]),
                np.concatenate([self.literal, self.event[asked], self.of_literal[entry],
                                false[first[self.set_of[others]]], false, false]))
