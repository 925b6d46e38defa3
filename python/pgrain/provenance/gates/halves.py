"""Comparisons of sums of a few independent variables with any real weights, by enumeration.

The variables of a group are split into two halves, and the outcomes of each are enumerated: with 20
variables of two outcomes 2 x 1024 instead of a million (Horowitz and Sahni, "Computing partitions
with applications to the knapsack problem", JACM 1974). Sorted by its sum, the second half's
outcomes that meet the comparison with one outcome of the first are a range or two.
"""

from __future__ import annotations

import numpy as np

from pgrain.provenance.gates.kernels import (
    add_at,
    heads,
    product,
    products_of_others,
    ranges,
    scan,
)

STATES = 4096             # outcomes of one half, at most


def split(group: np.ndarray, outcomes: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Which half each variable falls into, and what enumerating a group takes.

    Parameters
    ----------
    group : (B,) int, nondecreasing
    outcomes : (B,) int

    Returns
    -------
    half : (B,) int, 0 or 1; cost : (n,) float, numbers multiplied; inf where there are too many.
    """
    logs = np.log2(outcomes)
    start = heads(group)
    before = scan((~start).astype(float), np.where(start, 0.0, np.append(0.0, logs[:-1])))
    total = np.bincount(group, weights=logs, minlength=n)
    half = (before + 0.5 * logs > 0.5 * total[group]).astype(np.int64)
    bits = np.bincount(2 * group + half, weights=logs, minlength=2 * n).reshape(n, 2)
    members = np.bincount(2 * group + half, minlength=2 * n).reshape(n, 2)
    states = np.exp2(np.minimum(bits, 60.0))
    cost = (states * np.maximum(members, 1)).sum(axis=1)
    return half, np.where((states <= STATES + 0.5).all(axis=1), cost, np.inf)


class Halves:
    """P(sum op 0) and P(not) of each group.

    Parameters
    ----------
    n : int
        Number of groups; each has one variable at least.
    group, half, outcomes : (B,) int
        Of each variable, `group` nondecreasing.
    value : (S,) float
        Addend of each outcome, one variable's outcomes after the other's.
    constant, tolerance : (n,) float
        What is added to the sum; sums up to `tolerance` from zero are zero.
    operator : str
    """

    def __init__(self, n, group, half, outcomes, value, constant, tolerance, operator):
        order = np.lexsort((half, group))
        side = 2 * group[order] + half[order]
        first = (np.cumsum(outcomes) - outcomes)[order]
        outcomes = outcomes[order]
        members = np.bincount(side, minlength=2 * n)
        starts = np.cumsum(members) - members
        radix = np.ones((2 * n, int(members.max(initial=1))), np.int64)
        place = np.arange(len(side)) - starts[side]
        radix[side, place] = outcomes
        base = np.full(radix.shape, len(value))           # where padding finds its 1
        base[side, place] = first
        padding = np.ones(radix.shape, bool)
        padding[side, place] = False
        states = radix.prod(axis=1)
        of_side = np.repeat(np.arange(2 * n), states)
        number = ranges(np.zeros(2 * n, np.int64), states)
        pointers = np.empty((len(of_side), radix.shape[1]), np.int64)
        for column in range(radix.shape[1]):
            size = radix[of_side, column]
            pointers[:, column] = base[of_side, column] + number % size * ~padding[of_side, column]
            number //= size
        total = np.append(value, 0.0)[pointers].sum(axis=1)
        left = of_side % 2 == 0
        group_of_state = of_side // 2
        self.n, self.size = n, len(value)
        self.left, self.group = pointers[left], group_of_state[left]
        right, group_right, values = pointers[~left], group_of_state[~left], total[~left]
        order = np.lexsort((values, group_right))
        self.right, values = right[order], values[order]
        group_right = group_right[order]
        self.group_right = group_right
        counts = np.bincount(group_right, minlength=n)
        ends = np.cumsum(counts)
        begin, end = (ends - counts)[self.group], ends[self.group]
        needed = -(total[left] + constant[self.group])
        # Of the sorted right half: below `low` the sum is negative, from `high` on positive.
        low = _bisect(values, begin, end, needed - tolerance[self.group], False)
        high = _bisect(values, begin, end, needed + tolerance[self.group], True)
        self.begin, self.end = begin, end
        less, equal, greater = (begin, low), (low, high), (high, end)
        true = {"<": [less], "=": [equal], ">": [greater], "<=": [(begin, high)],
                ">=": [(low, end)], "<>": [less, greater]}
        opposite = {"<": ">=", "=": "<>", ">": "<=", "<=": ">", ">=": "<", "<>": "="}
        self.true, self.false = true[operator], true[opposite[operator]]
        new = heads(group_right)
        self.forth = (~new).astype(float)                 # running sums start anew by group
        self.back = self.forth[::-1].copy()
        self.back[1:], self.back[:1] = self.forth[:0:-1], 0.0

    def forward(self, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
        """(true, false), each (n,), of the outcomes' probabilities (S,); and saved."""
        p = np.append(probabilities, 1.0)
        left, right = product(p[self.left]), product(p[self.right])
        up = np.append(scan(self.forth, right), 0.0)
        down = np.append(scan(self.back, right[::-1])[::-1], 0.0)
        weights = [sum(self._range(up, down, *bounds) for bounds in side)
                   for side in (self.true, self.false)]
        true, false = (np.bincount(self.group, weights=left * w, minlength=self.n)
                       for w in weights)
        return true, false, (p, left, *weights)

    def _range(self, up, down, low, high):
        """Sum of the right outcomes in [low, high), each within a group."""
        empty = high <= low
        below = np.where(low > self.begin, up[low - 1], 0.0)
        inner = up[high - 1] - below                      # not from an end: a difference
        result = np.where(low == self.begin, up[high - 1],
                          np.where(high == self.end, down[np.minimum(low, len(down) - 1)], inner))
        return np.where(empty, 0.0, np.maximum(result, 0.0))

    def backward(self, saved, d_true: np.ndarray, d_false: np.ndarray) -> np.ndarray:
        """(S,) gradient with respect to the outcomes' probabilities."""
        p, left, w_true, w_false = saved
        d_left = d_true[self.group] * w_true + d_false[self.group] * w_false
        forth, back = np.zeros(len(self.right)), np.zeros(len(self.right))
        for sides, d in ((self.true, d_true), (self.false, d_false)):
            change = left * d[self.group]
            for low, high in sides:
                some = high > low
                to_end, inner = some & (high == self.end), some & (low > self.begin)
                inner &= ~to_end
                from_begin = some & ~to_end & ~inner
                _add(forth, low, change, to_end | inner)
                _add(forth, high, -change, inner)
                _add(back, high - 1, change, from_begin)
        d_right = scan(self.forth, forth) + scan(self.back, back[::-1])[::-1]
        out = np.zeros(self.size + 1)
        for pointers, d in ((self.left, d_left), (self.right, d_right)):
            others = products_of_others(p[pointers])
            others *= d[:, None]
            add_at(out, pointers, others)
        return out[:-1]


def _add(out, places, values, where):
    out += np.bincount(places[where], weights=values[where], minlength=len(out))


def _bisect(values, begin, end, wanted, after):
    """First place in [begin, end) of sorted `values` that is >= wanted (after: > wanted)."""
    low, high = begin.copy(), end.copy()
    while (low < high).any():
        middle = (low + high) // 2
        at = values[np.minimum(middle, len(values) - 1)]
        right = (at <= wanted if after else at < wanted) & (low < high)
        left = ~right & (low < high)
        low[right] = middle[right] + 1
        high[left] = middle[left]
    return low
