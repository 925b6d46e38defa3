"""Sums against many constants each: the copies of a row that INTERSECT ALL and EXCEPT ALL keep.

Copy i of a row is there if its count is at least i. One distribution of the count serves all its
copies; a `Threshold` for each would list every term once a copy. Few values are counted out
(`lattice`), many go by three cumulants (`normal`), as in `threshold`.
"""

from __future__ import annotations

import numpy as np

from pgrain.interrupts import check
from pgrain.provenance.gates.blocks import Owners, as_rows
from pgrain.provenance.gates.kernels import ranges
from pgrain.provenance.gates.lattice import Lattice
from pgrain.provenance.gates.network import Gradient, Layer, State
from pgrain.provenance.gates.normal import comparison
from pgrain.provenance.gates.threshold import cheapest, collected

VALUES = 2048             # values of a sum that is counted out, at most
TOTAL_WORK = 1 << 28      # multiplications for all of a layer


class Levels(Layer):
    """P[out + 3 l + (0, 1, 2)] = false, true, null of: sum of group[l]'s weights >= level[l].

    Parameters
    ----------
    out : int
    group, level : (n,) int
        Group of each result, and what it is compared with.
    target, literals, weight : (J,), (J, L) or (J,), (J,)
        As in `Threshold`; weights are 1 and -1.
    """

    three = True

    def __init__(self, out: int, group: np.ndarray, level: np.ndarray, target: np.ndarray,
                 literals: np.ndarray, weight: np.ndarray):
        self.out, self.n = out, len(group)
        self.group, self.level = np.asarray(group, np.int64), np.asarray(level, np.float64)
        self.target, self.literals = np.asarray(target, np.int64), as_rows(literals)
        self.weight = np.asarray(weight, np.float64)
        self.groups = int(max(self.group.max(initial=-1), self.target.max(initial=-1))) + 1
        self.n_literals = 3 * self.n

    def prepare(self, owners: np.ndarray | Owners) -> None:
        blocks, weight, constant = collected(self.target, self.literals, self.weight,
                                             np.zeros(self.groups), Owners.of(owners))
        self.blocks, self.weights = blocks, weight
        self.block_of = np.repeat(np.arange(len(blocks.starts)),
                                  np.diff(np.append(blocks.starts, blocks.n_events)))
        self.group_of_event = blocks.target[blocks.block]
        # What a sum of events must reach.
        self.at = self.level - constant[self.group]
        whole = np.rint(weight)
        low, high = (np.zeros(0), np.zeros(0)) if not len(weight) else (
            np.minimum(np.minimum.reduceat(whole, blocks.starts), 0.0),
            np.maximum(np.maximum.reduceat(whole, blocks.starts), 0.0))
        self.low = np.bincount(blocks.target, low, self.groups)
        span = np.bincount(blocks.target, high - low, self.groups)
        some = span > 0
        work = np.where(some, span * span, np.inf)
        counted = some & (span <= VALUES) & cheapest(work, TOTAL_WORK)
        self.counted = _Counted(self, counted, span, low, high, whole) if counted.any() else None
        self.rest = np.flatnonzero((some & ~counted)[self.group])
        self.fixed = np.flatnonzero(~some[self.group])

    def forward(self, state: State) -> None:
        q = self.blocks.probability(state.P)
        if state.hard:
            total = np.bincount(self.group_of_event, q * self.weights, self.groups)
            true = (total[self.group] >= self.at - 0.5).astype(float)
        else:
            true = np.zeros(self.n)
            true[self.fixed] = self.at[self.fixed] <= 0.5
            none = self.blocks.none(state.P, self.blocks.by_block(q))
            kept = self.counted.forward(q, none, true) if self.counted is not None else None
            state.saved[self] = kept, self._normal(q, true)
        out = state.P[self.out:self.out + 3 * self.n].reshape(self.n, 3)
        out[:, 0], out[:, 1], out[:, 2] = 1.0 - true, true, 0.0

    def _normal(self, q, true) -> tuple | None:
        if not len(self.rest):
            return None
        w, n = self.weights, len(self.blocks.starts)
        m1, m2, m3 = (np.bincount(self.block_of, q * w ** k, n) for k in (1, 2, 3))
        cumulants = (m1, np.maximum(m2 - m1 * m1, 0.0), m3 - 3.0 * m1 * m2 + 2.0 * m1 ** 3)
        mean, variance, third = (np.bincount(self.blocks.target, k, self.groups)[
            self.group[self.rest]] for k in cumulants)
        at = self.at[self.rest] - 0.5
        sure = variance <= 1e-20                    # nothing is open any more
        found, _, *slopes = comparison(">=", mean, np.where(sure, 1.0, variance),
                                       np.where(sure, 0.0, third), at, at)
        true[self.rest] = np.where(sure, mean >= at, found)
        return m1, m2, [np.where(sure, 0.0, slope) for slope in slopes]

    def backward(self, state: State, grad: Gradient) -> None:
        d = grad.P[self.out:self.out + 3 * self.n].reshape(self.n, 3)
        d = d[:, 1] - d[:, 0]
        if not d.any():
            return
        d_q = np.zeros(self.blocks.n_events)
        kept, normal = state.saved[self]
        if kept is not None:
            self.counted.backward(kept, d, d_q)
        if normal is not None:
            m1, m2, slopes = normal
            d_mean, d_variance, d_third = (
                np.bincount(self.group[self.rest], d[self.rest] * slope, self.groups)[
                    self.group_of_event] for slope in slopes)
            w, m1, m2 = self.weights, m1[self.block_of], m2[self.block_of]
            d_q += (d_mean * w + d_variance * (w * w - 2.0 * m1 * w)
                    + d_third * (w ** 3 - 3.0 * (w * m2 + m1 * w * w) + 6.0 * m1 * m1 * w))
        self.blocks.backward(state.P, d_q, grad.P)

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Terms under the first result of their group, its other results under that."""
        term, column = np.nonzero(self.literals)
        first = np.full(self.groups, -1)
        first[self.group[::-1]] = np.arange(self.n)[::-1]
        of = first[self.target[term]]
        asked = of >= 0
        false = self.out + 3 * np.arange(self.n)
        others = np.flatnonzero(first[self.group] != np.arange(self.n))
        return (np.concatenate([self.out + 3 * of[asked], false[others], false + 1, false + 2]),
                np.concatenate([self.literals[term, column][asked],
                                false[first[self.group[others]]], false, false]))


class _Counted:
    """The groups whose sums are counted out, value by value."""

    def __init__(self, layer: Levels, chosen, span, low, high, whole):
        blocks = layer.blocks
        number = np.cumsum(chosen) - 1
        self.blocks = np.flatnonzero(chosen[blocks.target])
        group = number[blocks.target[self.blocks]]
        self.events = np.flatnonzero(chosen[layer.group_of_event])
        place = np.empty(len(blocks.starts), np.int64)
        place[self.blocks] = np.arange(len(self.blocks))
        self.of = place[layer.block_of[self.events]]
        cap = span[chosen].astype(np.int64)
        self.lattice = Lattice(group, (high - low)[self.blocks].astype(np.int64) + 1, cap)
        first, stride, low = self.lattice.first, self.lattice.stride, low[self.blocks]
        bins = (whole[self.events] - low[self.of]).astype(np.int64)
        self.place = first[self.of] + bins * stride[self.of]
        self.place_none = first - low.astype(np.int64) * stride
        size = self.lattice.root_width
        self.start, self.size = np.cumsum(size) - size, size
        roots = np.repeat(np.arange(len(cap)), size)
        self.root = (self.lattice.root_first[roots]
                     + ranges(np.zeros(len(cap), np.int64), size) * self.lattice.root_stride[roots])
        # Each level's first value that is enough, one past the end if none is.
        self.levels = np.flatnonzero(chosen[layer.group])
        of = number[layer.group[self.levels]]
        enough = np.rint(layer.at[self.levels] - layer.low[chosen][of]).astype(np.int64)
        self.never = enough >= size[of]
        self.at = self.start[of] + np.clip(enough, 0, size[of] - 1)

    def forward(self, q, none, true):
        leaves = np.bincount(self.place, q[self.events], self.lattice.size)
        leaves += np.bincount(self.place_none, none[self.blocks], self.lattice.size)
        check()
        result, saved = self.lattice.forward(leaves)
        tail = self._sums(result[self.root], -1)
        true[self.levels] = np.where(self.never, 0.0, np.minimum(tail[self.at], 1.0))
        return saved

    def backward(self, saved, d, d_q):
        given = np.bincount(self.at, np.where(self.never, 0.0, d[self.levels]), len(self.root))
        of_root = np.zeros(self.lattice.root_size)
        of_root[self.root] = self._sums(given, 1)
        leaves = self.lattice.backward(saved, of_root)
        d_q[self.events] += leaves[self.place] - leaves[self.place_none][self.of]

    def _sums(self, x: np.ndarray, step: int) -> np.ndarray:
        """Running sums of `x` within each group: from its start (step 1) or from its end (-1)."""
        out = np.empty(len(x))
        for width in np.unique(self.size):
            at = self.start[self.size == width][:, None] + np.arange(width)[::step]
            out[at] = np.cumsum(x[at], axis=1)
        return out
