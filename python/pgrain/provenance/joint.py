"""Gates of select-project-join: expected weight of each pattern and joint class.

For a pattern q and classes a (one for each slot), S_w[q, a] is the expected sum, over the joined
rows of the pattern, of the rows' weights w times the indicator that the slots predict a. Variables
are independent, so with P the (V, R) probabilities

- one slot:            S[q, a] = sum_i w_i p_i[a]
- two slots, listed:   S[q] = sum_i w_i p_i p'_i^T, or w_i diag(p_i) where both are one variable
- one slot, two sides: S[q] = sum over joining factors of A_f B_g, B_g the weight of g's rows
- two sides, factored: S[q] = sum over joining factors of A_f A'_g^T, with A_f = sum of w_i p_i,
  corrected for variables that occur on both sides:  + sum_v c_v (diag(p_v) - p_v p_v^T),
  c_v = the joined weight of pairs of rows that are both v.

P is extended by a class for NULL (last column) and a variable that is always NULL (last row).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from pgrain.provenance.lineage import Lineage
from pgrain.provenance.segments import OuterSum, Segments
from pgrain.settings import FACTOR_PAIRS


def extend(P: np.ndarray) -> np.ndarray:
    """(V + 1, R + 1): `P` with the class and the variable that stand for NULL."""
    extended = np.zeros((P.shape[0] + 1, P.shape[1] + 1))
    extended[:-1, :-1] = P
    extended[-1, -1] = 1.0
    return extended


class Predicted:
    """Predicted classes in place of probabilities: what `extend` of the one-hot rows would be.

    classes: (V + 1,), the last one NULL's; width: R + 1.
    """

    def __init__(self, classes: np.ndarray, n_classes: int):
        self.classes, self.width = np.append(classes, n_classes), n_classes + 1


class OneSlot:
    """One prediction for each row."""

    def __init__(self, lineage: Lineage):
        side = lineage.sides[0]
        self.variables, self.weights = side.variables[0], side.weights
        self.row_factor = side.factor
        self.shape = len(side.starts), lineage.n_variables + 1
        # The rows come factor after factor: they are a sparse matrix as they stand.
        self.indices = self.variables.astype(np.int32)
        self.bounds = np.append(side.starts, len(side.factor)).astype(np.int32)
        self.matrices: dict[int, csr_matrix] = {}

    def _matrix(self, weight: int) -> csr_matrix:
        """(Q, V + 1): the weight of each pattern's rows of each variable, row by row."""
        if weight not in self.matrices:
            self.matrices[weight] = csr_matrix((self.weights[weight], self.indices, self.bounds),
                                               self.shape)
        return self.matrices[weight]

    def forward(self, P: np.ndarray | Predicted, combination: tuple) -> np.ndarray:
        """(Q, R + 1)."""
        if isinstance(P, Predicted):
            n = self.shape[0] * P.width
            return np.bincount(self.row_factor * P.width + P.classes.take(self.variables),
                               self.weights[combination[0]], n).reshape(-1, P.width)
        return self._matrix(combination[0]) @ P

    def backward(self, P: np.ndarray, combination: tuple, gradient: np.ndarray) -> np.ndarray:
        """(V + 1, R + 1): d sum(gradient * S) / dP."""
        matrix = self._matrix(combination[0])
        used = np.flatnonzero(gradient.any(axis=1))
        if 2 * len(used) < len(gradient):       # one group's, as a rule: few rows
            matrix, gradient = matrix[used], gradient[used]
        return matrix.T @ gradient

    def variables_of_patterns(self):
        """(pattern, variable) pairs, not distinct."""
        return self.row_factor, self.variables


class TwoSlots:
    """Two predictions for each listed row."""

    def __init__(self, lineage: Lineage):
        side = lineage.sides[0]
        self.n, self.weights, self.factor = len(side.starts), side.weights, side.factor
        self.first, self.second = side.variables
        same = self.first == self.second
        self.same, self.apart = np.flatnonzero(same), np.flatnonzero(~same)
        self.outer = OuterSum(self.factor[self.apart], self.n)
        self.diagonal = Segments(self.factor[self.same], self.n)
        n_variables = lineage.n_variables + 1
        self.to_first = Segments(self.first[self.apart], n_variables)
        self.to_second = Segments(self.second[self.apart], n_variables)
        self.to_same = Segments(self.first[self.same], n_variables)

    def _rows(self, P, combination):
        weights = self.weights[combination[0]]
        return (P[self.first[self.apart]] * weights[self.apart, None],
                P[self.second[self.apart]], weights)

    def forward(self, P: np.ndarray, combination: tuple) -> np.ndarray:
        x, y, weights = self._rows(P, combination)
        S = self.outer.forward(x, y)
        shared = self.diagonal.sum(P[self.first[self.same]] * weights[self.same, None])
        np.einsum("qaa->qa", S)[:] += shared
        return S.reshape(self.n, P.shape[1] ** 2)

    def backward(self, P: np.ndarray, combination: tuple, gradient: np.ndarray) -> np.ndarray:
        gradient = gradient.reshape(self.n, P.shape[1], P.shape[1])
        x, y, weights = self._rows(P, combination)
        dx, dy = self.outer.backward(gradient, x, y)
        diagonal = np.einsum("qaa->qa", gradient)[self.factor[self.same]]
        return (self.to_first.sum(dx * weights[self.apart, None]) + self.to_second.sum(dy)
                + self.to_same.sum(diagonal * weights[self.same, None]))

    def variables_of_patterns(self):
        return (np.concatenate([self.factor, self.factor]),
                np.concatenate([self.first, self.second]))


class OneOfTwo:
    """A join of rows with a prediction and rows without: nothing but the prediction ties them."""

    def __init__(self, lineage: Lineage):
        self.sides, self.n = lineage.sides, len(lineage.joint[0])
        self.f0, self.f1, self.q = _pairs_with_pattern(lineage)
        side = self.sides[0]
        self.variables = side.variables[0]
        self.factors = [Segments(s.factor, len(s.starts)) for s in self.sides]
        self.by_variable = Segments(self.variables, lineage.n_variables + 1)
        self.to_pattern = Segments(self.q, self.n)
        self.to_f0 = Segments(self.f0, len(side.starts))

    def _beside(self, combination) -> np.ndarray:
        """(pairs, 1): weight of the rows without a prediction."""
        weights = self.sides[1].weights[combination[1]]
        return self.factors[1].sum(weights[:, None])[self.f1]

    def forward(self, P: np.ndarray, combination: tuple) -> np.ndarray:
        """(Q, R + 1)."""
        rows = P[self.variables]
        if combination[0]:
            rows = rows * self.sides[0].weights[combination[0]][:, None]
        return self.to_pattern.sum(self.factors[0].sum(rows)[self.f0] * self._beside(combination))

    def backward(self, P: np.ndarray, combination: tuple, gradient: np.ndarray) -> np.ndarray:
        rows = self.to_f0.sum(gradient[self.q] * self._beside(combination))[self.sides[0].factor]
        if combination[0]:
            rows = rows * self.sides[0].weights[combination[0]][:, None]
        return self.by_variable.sum(rows)

    def variables_of_patterns(self):
        """(pattern, variable) pairs, not distinct."""
        side = self.sides[0]
        pairs = np.unique(np.stack([self.f0, self.q]), axis=1)
        order = np.argsort(side.factor, kind="stable")
        counts = np.bincount(side.factor, minlength=len(side.starts))
        n = counts[pairs[0]]
        rows = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + np.repeat(
            (np.cumsum(counts) - counts)[pairs[0]], n)
        return np.repeat(pairs[1], n), self.variables[order[rows]]


class TwoSides:
    """A factorised join: two inputs that meet through predictions (and keys)."""

    def __init__(self, lineage: Lineage):
        self.sides = lineage.sides
        self.n = len(lineage.joint[0])
        f0, f1, q = _pairs_with_pattern(lineage)
        order = np.lexsort((f0, q))
        self.f0, self.f1, self.q = f0[order], f1[order], q[order]
        new = np.concatenate(([True], (self.f0[1:] != self.f0[:-1]) | (self.q[1:] != self.q[:-1]))
                             )[:len(self.f0)]
        self.group = np.cumsum(new) - 1
        heads = np.flatnonzero(new)
        self.group_f0, self.group_q = self.f0[heads], self.q[heads]
        n_variables = lineage.n_variables + 1
        self.factors = [Segments(s.factor, len(s.starts)) for s in self.sides]
        self.by_variable = [Segments(s.variables[0], n_variables) for s in self.sides]
        self.to_group = Segments(self.group, len(heads))
        self.outer = OuterSum(self.group_q, self.n)
        self.to_f0 = Segments(self.group_f0, len(self.sides[0].starts))
        self.to_f1 = Segments(self.f1, len(self.sides[1].starts))
        self._share(lineage)

    def _share(self, lineage: Lineage) -> None:
        """Where one variable stands on both sides of joining factors."""
        null = lineage.n_variables
        codes = []
        for side in self.sides:
            code = side.variables[0] * len(side.starts) + side.factor
            keep = np.flatnonzero(side.variables[0] != null)
            distinct, inverse = np.unique(code[keep], return_inverse=True)
            codes.append((distinct // len(side.starts), distinct % len(side.starts),
                          Segments(inverse, len(distinct)), keep))
        self.codes = codes
        (v0, g0, _, _), (v1, g1, _, _) = codes
        first, last = np.searchsorted(v1, v0, "left"), np.searchsorted(v1, v0, "right")
        counts = last - first
        FACTOR_PAIRS.limit(int(counts.sum()), hint="Filter the inputs first.")
        i0 = np.repeat(np.arange(len(v0)), counts)
        i1 = np.arange(len(i0)) - np.repeat(np.cumsum(counts) - counts, counts) + \
            np.repeat(first, counts)
        width = len(self.sides[1].starts)
        joined = self.f0 * width + self.f1
        order = np.argsort(joined, kind="stable")
        wanted = g0[i0] * width + g1[i1]
        place = np.searchsorted(joined[order], wanted)
        place = np.minimum(place, max(len(joined) - 1, 0))
        found = joined[order][place] == wanted if len(joined) else np.zeros(len(wanted), bool)
        self.i0, self.i1 = i0[found], i1[found]
        self.shared_v = v0[self.i0]
        self.shared_q = self.q[order][place][found] if len(joined) else np.zeros(0, np.int64)
        self.shared_outer = OuterSum(self.shared_q, self.n)
        self.shared_diagonal = Segments(self.shared_q, self.n)
        self.to_shared = Segments(self.shared_v, lineage.n_variables + 1)

    def _factor_sums(self, P, combination):
        sums = []
        for side, segments, weight in zip(self.sides, self.factors, combination, strict=True):
            rows = P[side.variables[0]]
            sums.append(segments.sum(rows * side.weights[weight][:, None] if weight else rows))
        return sums

    def _shared_weights(self, combination) -> np.ndarray:
        totals = []
        for side, (_, _, segments, keep), weight in zip(self.sides, self.codes, combination,
                                                        strict=True):
            totals.append(segments.sum(side.weights[weight][keep, None])[:, 0])
        return totals[0][self.i0] * totals[1][self.i1]

    def forward(self, P: np.ndarray, combination: tuple) -> np.ndarray:
        """(Q, (R + 1)^2)."""
        left, right = self._factor_sums(P, combination)
        S = self.outer.forward(left[self.group_f0], self.to_group.sum(right[self.f1]))
        if len(self.shared_v):
            weights = self._shared_weights(combination)[:, None]
            p = P[self.shared_v]
            S -= self.shared_outer.forward(weights * p, p)
            np.einsum("qaa->qa", S)[:] += self.shared_diagonal.sum(weights * p)
        return S.reshape(self.n, P.shape[1] ** 2)

    def backward(self, P: np.ndarray, combination: tuple, gradient: np.ndarray) -> np.ndarray:
        gradient = gradient.reshape(self.n, P.shape[1], P.shape[1])
        left, right = self._factor_sums(P, combination)
        dx, dy = self.outer.backward(gradient, left[self.group_f0],
                                     self.to_group.sum(right[self.f1]))
        of_factor = [self.to_f0.sum(dx), self.to_f1.sum(dy[self.group])]
        result = np.zeros_like(P)
        for side, segments, weight, d in zip(self.sides, self.by_variable, combination, of_factor,
                                             strict=True):
            rows = d[side.factor]
            result += segments.sum(rows * side.weights[weight][:, None] if weight else rows)
        if len(self.shared_v):
            weights = self._shared_weights(combination)[:, None]
            p = P[self.shared_v]
            dx, dy = self.shared_outer.backward(gradient, weights * p, p)
            diagonal = np.einsum("qaa->qa", gradient)[self.shared_q]
            result += self.to_shared.sum(weights * (diagonal - dx) - dy)
        return result

    def variables_of_patterns(self):
        found = []
        for side, factor in zip(self.sides, (self.f0, self.f1), strict=True):
            pairs = np.unique(np.stack([factor, self.q]), axis=1)
            order = np.argsort(side.factor, kind="stable")
            counts = np.bincount(side.factor, minlength=len(side.starts))
            starts = np.cumsum(counts) - counts
            n = counts[pairs[0]]
            rows = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + np.repeat(
                starts[pairs[0]], n)
            found.append((np.repeat(pairs[1], n), side.variables[0][order[rows]]))
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _pairs_with_pattern(lineage: Lineage):
    """(factor of side 0, factor of side 1, joint pattern) of each joining pair."""
    p0, p1 = lineage.joint
    if lineage.pairs is None:
        return p0, p1, np.arange(len(p0))
    f0, f1 = lineage.pairs
    width = int(p1.max(initial=0)) + 1
    codes = p0 * width + p1
    order = np.argsort(codes)
    wanted = lineage.sides[0].pattern[f0] * width + lineage.sides[1].pattern[f1]
    return f0, f1, order[np.searchsorted(codes[order], wanted)] if len(codes) else f0


def joint_gate(lineage: Lineage) -> OneSlot | OneOfTwo | TwoSlots | TwoSides:
    """The gate that fits the lineage."""
    if len(lineage.sides) == 2:
        return TwoSides(lineage) if lineage.sides[1].variables else OneOfTwo(lineage)
    return OneSlot(lineage) if len(lineage.sides[0].variables) == 1 else TwoSlots(lineage)
