"""Comparisons with sums of terms: HAVING count(*) > 3, HAVING sum(x) <= 10, LIMIT over groups.

The sum of a group is a sum of independent variables, one a block of exclusive events (`blocks`).
Each group is decided by the first of these that it fits:

- `lattice`: weights are multiples of some step, and few values lie on one side of the threshold;
- `halves`: few variables, any weights;
- `normal`: three cumulants.

On classes the sum is added up and compared, with a relative tolerance of 1e-12 for equality.
"""

from __future__ import annotations

import numpy as np

from pgrain.interrupts import check
from pgrain.provenance.gates.blocks import Blocks, Owners, as_rows
from pgrain.provenance.gates.halves import Halves, split
from pgrain.provenance.gates.kernels import heads, ranges
from pgrain.provenance.gates.lattice import Lattice
from pgrain.provenance.gates.network import Gradient, Layer, State, three_edges
from pgrain.provenance.gates.normal import comparison

VALUES = 4096             # values of a lattice on the shorter side of the threshold, at most
WORK = 1 << 28            # multiplications for one group
TOTAL_WORK = 1 << 31      # and for all of a layer; the cheapest groups first
TOTAL_STATES = 1 << 24    # numbers that `halves` multiplies, in all
TOLERANCE = 1e-12         # of a sum, relative to the addends' absolute values

_SCALES = (1.0, 10.0, 100.0, 1e3, 1e4)      # decimals that make a weight a whole number


class Threshold(Layer):
    """P[out + 3 g + (0, 1, 2)] = false, true, null of: sum of weights + constant[g]  op  0.

    Parameters
    ----------
    out, n : int
        Place and number of groups.
    operator : str
        One of > >= < <= = <>.
    target : (J,) int
        Group of each term.
    literals : (J, L) or (J,) int
        The term's weight counts if all hold; 0 pads. Exact where the terms of a group mention the
        same set of variables or none in common (one literal a term: always); otherwise such sets
        count as independent.
    weight : (J,) float
    constant : (n,) float
        NaN: the result is null.

    Attributes
    ----------
    exact : (n,) bool
        Groups that are not approximated by `normal`; known after `prepare`.
    """

    three = True

    def __init__(self, out: int, n: int, operator: str, target: np.ndarray, literals: np.ndarray,
                 weight: np.ndarray, constant: np.ndarray):
        self.out, self.n, self.operator = out, n, operator
        self.target, self.literals = np.asarray(target, np.int64), as_rows(literals)
        self.weight = np.asarray(weight, np.float64)
        self.constant = np.asarray(constant, np.float64)
        self.n_literals = 3 * n

    def prepare(self, owners: np.ndarray | Owners) -> None:
        blocks, weight, constant = collected(
            self.target, self.literals, self.weight,
            np.where(np.isnan(self.constant), 0.0, self.constant), Owners.of(owners))
        self.blocks, self.weights, self.constants = blocks, weight, constant
        self.group_of_event = blocks.target[blocks.block]
        scale = np.bincount(self.group_of_event, weights=np.abs(weight), minlength=self.n)
        self.tolerance = TOLERANCE * (scale + np.abs(constant))
        self.fixed = _compare(self.operator, np.sign(constant))       # groups without events
        self.exact = np.ones(self.n, bool)
        self.parts = _parts(self) if len(weight) else []

    def forward(self, state: State) -> None:
        q = self.blocks.probability(state.P)
        if state.hard:
            total = self.constants + np.bincount(self.group_of_event, weights=q * self.weights,
                                                 minlength=self.n)
            size = np.abs(self.constants) + np.bincount(
                self.group_of_event, weights=q * np.abs(self.weights), minlength=self.n)
            sign = np.where(np.abs(total) <= TOLERANCE * size, 0.0, np.sign(total))
            true = _compare(self.operator, sign).astype(float)
            false = 1.0 - true
        else:
            true = self.fixed.astype(float)
            false = 1.0 - true
            none = self.blocks.none(state.P, self.blocks.by_block(q))
            saved = []
            for part in self.parts:
                check()
                of_part, not_part, kept = part.forward(q, none)
                true[part.groups], false[part.groups] = of_part, not_part
                saved.append(kept)
            state.saved[self] = saved
        unknown = np.isnan(self.constant)
        out = state.P[self.out:self.out + 3 * self.n].reshape(self.n, 3)
        out[:, 0], out[:, 1] = np.where(unknown, 0.0, false), np.where(unknown, 0.0, true)
        out[:, 2] = unknown

    def backward(self, state: State, grad: Gradient) -> None:
        d = grad.P[self.out:self.out + 3 * self.n].reshape(self.n, 3).copy()
        d[np.isnan(self.constant)] = 0.0
        if not d.any():
            return
        d_q = np.zeros(self.blocks.n_events)
        for part, kept in zip(self.parts, state.saved[self], strict=True):
            check()
            part.backward(kept, d[part.groups, 1], d[part.groups, 0], d_q)
        self.blocks.backward(state.P, d_q, grad.P)

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        term, column = np.nonzero(self.literals)
        return three_edges(self.out, self.n, self.target[term], self.literals[term, column])


def _compare(operator: str, sign: np.ndarray) -> np.ndarray:
    return {">": sign > 0, ">=": sign >= 0, "<": sign < 0, "<=": sign <= 0, "=": sign == 0,
            "<>": sign != 0}[operator]


def collected(target: np.ndarray, literals: np.ndarray, weight: np.ndarray, constant: np.ndarray,
              owners: Owners) -> tuple[Blocks, np.ndarray, np.ndarray]:
    """(blocks of exclusive events, weight of each event, constant of each group) of terms: those
    that are certain are part of the constant, those that cancel are left out."""
    constant = constant.copy()
    blocks = Blocks(target, literals, owners)
    possible = blocks.event_of >= 0
    summed = np.bincount(blocks.event_of[possible], weight[possible], blocks.n_events)
    size = np.bincount(blocks.event_of[possible], np.abs(weight[possible]), blocks.n_events)
    summed[np.abs(summed) <= TOLERANCE * size] = 0.0        # 1 - 10 * 0.1
    certain = ~blocks.literals.any(axis=1)
    np.add.at(constant, blocks.target[blocks.block[certain]], summed[certain])
    keep = ~certain & (summed != 0)
    if not keep.all():
        smaller = Blocks(blocks.target[blocks.block[keep]], blocks.literals[keep], owners)
        kept = np.empty(smaller.n_events)
        kept[smaller.event_of] = summed[keep]
        blocks, summed = smaller, kept
    return blocks, summed, constant


def _parts(layer: Threshold) -> list:
    """The groups that have events, each with the method that decides it."""
    blocks, weight = layer.blocks, layer.weights
    groups, of_block = np.unique(blocks.target, return_inverse=True)
    of_event = of_block[blocks.block]
    n, constant = len(groups), layer.constants[groups]
    whole, step = _whole(weight, of_event, n)
    low = np.minimum(np.minimum.reduceat(whole, blocks.starts), 0.0)
    high = np.maximum(np.maximum.reduceat(whole, blocks.starts), 0.0)
    low_of, high_of = (np.bincount(of_block, weights=x, minlength=n) for x in (low, high))
    span = high_of - low_of
    with np.errstate(divide="ignore", invalid="ignore"):
        at = np.where(step > 0, -constant / step, 0.0)        # whole sum op at
    near = np.rint(at)
    at = np.where(np.abs(at - near) <= 1e-9 * np.maximum(1.0, np.abs(at)), near, at)
    # Bins on either side of the threshold: count from the nearer end.
    cap = np.clip(np.floor(at - low_of) + 1, 0, span)
    cap_back = np.clip(np.floor(high_of - at) + 1, 0, span)
    flip = cap_back < cap
    cap = np.minimum(cap, cap_back)
    work = span * np.minimum(cap + 1, span)
    outcomes = np.diff(np.append(blocks.starts, blocks.n_events)) + 1
    half, states = split(of_block, outcomes, n)
    fits = (step > 0) & (cap <= VALUES) & (work <= WORK)
    lattice = fits & (work <= 8 * states) & cheapest(np.where(fits, work, np.inf), TOTAL_WORK)
    halves = ~lattice & cheapest(np.where(lattice, np.inf, states), TOTAL_STATES)
    more = fits & ~lattice & ~halves
    lattice |= more & cheapest(np.where(more, work, np.inf), TOTAL_WORK)
    parts = []
    if lattice.any():
        parts.append(_OnLattice(layer, groups, of_block, lattice, whole, low, high, at, cap, flip,
                                low_of, high_of))
    if halves.any():
        parts.append(_InHalves(layer, groups, of_block, halves, half, outcomes))
    rest = ~lattice & ~halves
    if rest.any():
        parts.append(_Normal(layer, groups, of_block, rest, step, at))
        layer.exact[groups[rest]] = False
    return parts


def cheapest(cost: np.ndarray, budget: float) -> np.ndarray:
    """(n,) bool: the cheapest ones whose cost is within the budget together."""
    order = np.argsort(cost, kind="stable")
    result = np.zeros(len(cost), bool)
    result[order] = np.cumsum(cost[order]) <= budget
    return result


def _whole(weight: np.ndarray, group: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(weights as whole multiples of their group's step, (n,) step: 0 where there is none)."""
    scale = np.zeros(n)
    whole = np.zeros(len(weight))
    for factor in _SCALES:
        open_ = scale[group] == 0
        if not open_.any():
            break
        scaled = weight[open_] * factor
        rounded = np.rint(scaled)
        bad = (np.abs(scaled - rounded) > 1e-9 * np.maximum(1.0, np.abs(scaled))) | (
            np.abs(rounded) > 2.0 ** 53)
        fits = np.bincount(group[open_][bad], minlength=n) == 0
        here = fits & (scale == 0)
        scale[here] = factor
        chosen = here[group]
        whole[chosen] = np.rint(weight[chosen] * factor)
    starts = np.flatnonzero(heads(group))
    divisor = np.gcd.reduceat(np.abs(whole).astype(np.int64), starts)
    divisor = np.maximum(divisor, 1)
    with np.errstate(divide="ignore"):
        step = np.where(scale > 0, divisor / scale, 0.0)
    return whole / divisor[group], step


class _Part:
    """Some groups of a layer: `groups` (m,), and which events and blocks are theirs."""

    def __init__(self, layer, groups, of_block, chosen):
        self.groups = groups[chosen]
        number = np.cumsum(chosen) - 1
        self.blocks = np.flatnonzero(chosen[of_block])
        self.group_of_block = number[of_block[self.blocks]]
        counts = np.diff(np.append(layer.blocks.starts, layer.blocks.n_events))[self.blocks]
        self.events = ranges(layer.blocks.starts[self.blocks], counts)
        self.block_of_event = np.repeat(np.arange(len(self.blocks)), counts)


class _OnLattice(_Part):
    """Groups whose sums are counted out, value by value."""

    def __init__(self, layer, groups, of_block, chosen, whole, low, high, at, cap, flip, low_of,
                 high_of):
        super().__init__(layer, groups, of_block, chosen)
        cap, flip = cap[chosen].astype(np.int64), flip[chosen]
        back = flip[self.group_of_block]
        origin = np.where(back, high[self.blocks], low[self.blocks])
        width = (high - low)[self.blocks].astype(np.int64)
        last = cap[self.group_of_block]
        self.lattice = Lattice(self.group_of_block, np.minimum(width, last) + 1, cap)
        first, stride = self.lattice.first, self.lattice.stride
        of = self.block_of_event
        bins = np.minimum(np.abs(whole[self.events] - origin[of]).astype(np.int64), last[of])
        self.place = first[of] + bins * stride[of]
        self.place_none = first + np.minimum(np.abs(origin).astype(np.int64), last) * stride
        size = self.lattice.root_width
        roots = np.repeat(np.arange(len(cap)), size)
        value = ranges(np.zeros(len(cap), np.int64), size)
        self.root = self.lattice.root_first[roots] + value * self.lattice.root_stride[roots]
        self.of_root = roots
        level = np.where(flip, (high_of - at[:])[chosen], (at - low_of)[chosen])
        sign = np.sign(value - level[roots])
        # The last bin holds all that is beyond: it is never "equal" unless nothing is beyond.
        self.true = _compare(layer.operator, np.where(flip[roots], -sign, sign))

    def forward(self, q, none):
        size = self.lattice.size
        leaves = np.bincount(self.place, weights=q[self.events], minlength=size)
        leaves += np.bincount(self.place_none, weights=none[self.blocks], minlength=size)
        result, saved = self.lattice.forward(leaves)
        result = result[self.root]
        true, false = (np.bincount(self.of_root[side], weights=result[side],
                                   minlength=len(self.groups)) for side in (self.true, ~self.true))
        return true, false, saved

    def backward(self, saved, d_true, d_false, d_q):
        d = np.zeros(self.lattice.root_size)
        d[self.root] = np.where(self.true, d_true[self.of_root], d_false[self.of_root])
        leaves = self.lattice.backward(saved, d)
        d_q[self.events] += leaves[self.place] - leaves[self.place_none][self.block_of_event]


class _InHalves(_Part):
    """Groups of few variables."""

    def __init__(self, layer, groups, of_block, chosen, half, outcomes):
        super().__init__(layer, groups, of_block, chosen)
        outcomes = outcomes[self.blocks]
        self.none_at = np.cumsum(outcomes) - outcomes         # each variable's first: no event
        self.at = np.arange(len(self.events)) + self.block_of_event + 1
        value = np.zeros(len(self.events) + len(self.blocks))
        value[self.at] = layer.weights[self.events]
        self.halves = Halves(len(self.groups), self.group_of_block, half[self.blocks], outcomes,
                             value, layer.constants[self.groups], layer.tolerance[self.groups],
                             layer.operator)

    def forward(self, q, none):
        p = np.empty(len(self.events) + len(self.blocks))
        p[self.at], p[self.none_at] = q[self.events], none[self.blocks]
        return self.halves.forward(p)

    def backward(self, saved, d_true, d_false, d_q):
        d = self.halves.backward(saved, d_true, d_false)
        d_q[self.events] += d[self.at] - d[self.none_at][self.block_of_event]


class _Normal(_Part):
    """Groups of many variables, by the cumulants of their sum."""

    def __init__(self, layer, groups, of_block, chosen, step, at):
        super().__init__(layer, groups, of_block, chosen)
        self.weights, self.operator = layer.weights[self.events], layer.operator
        x, step, at = -layer.constants[self.groups], step[chosen], at[chosen]
        # On a lattice: half way between the values around x.
        self.low = np.where(step > 0, (np.ceil(at) - 0.5) * step, x)
        self.high = np.where(step > 0, (np.floor(at) + 0.5) * step, x)
        self.x, self.tolerance = x, layer.tolerance[self.groups]

    def forward(self, q, none):
        q, w, n = q[self.events], self.weights, len(self.blocks)
        moments = [np.bincount(self.block_of_event, weights=q * w ** k, minlength=n)
                   for k in (1, 2, 3)]
        m1, m2, m3 = moments
        cumulants = (m1, np.maximum(m2 - m1 * m1, 0.0), m3 - 3.0 * m1 * m2 + 2.0 * m1 ** 3)
        mean, variance, third = (np.bincount(self.group_of_block, weights=k,
                                             minlength=len(self.groups)) for k in cumulants)
        fixed = variance <= (1e-6 * self.tolerance) ** 2      # certain: no spread to speak of
        safe = np.where(fixed, 1.0, variance)
        true, false, *slopes = comparison(self.operator, mean, safe, np.where(fixed, 0.0, third),
                                          self.low, self.high)
        off = mean - self.x
        sign = np.where(np.abs(off) <= self.tolerance, 0.0, np.sign(off))
        certain = _compare(self.operator, sign)
        true, false = np.where(fixed, certain, true), np.where(fixed, ~certain, false)
        return true, false, (m1, m2, [np.where(fixed, 0.0, d) for d in slopes])

    def backward(self, saved, d_true, d_false, d_q):
        m1, m2, slopes = saved
        w, of = self.weights, self.block_of_event
        d = d_true - d_false
        d_mean, d_variance, d_third = ((d * slope)[self.group_of_block[of]] for slope in slopes)
        m1, m2 = m1[of], m2[of]
        d_q[self.events] += (d_mean * w + d_variance * (w * w - 2.0 * m1 * w)
                             + d_third * (w ** 3 - 3.0 * (w * m2 + m1 * w * w)
                                          + 6.0 * m1 * m1 * w))
