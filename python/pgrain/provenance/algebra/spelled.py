"""A count, value by value: literals that it is 0, 1, 2, …, from one distribution.

P(n = v) = P(n >= v) - P(n >= v + 1), given that the count's group is there (`values` makes rows of
them). The greatest or least of such counts is that of rows which exclude each other, exact over
groups without common variables; the extreme of *expected* counts would leave out that the largest
of several uncertain ones is expected to be larger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pgrain.errors import UnsupportedOperator
from pgrain.provenance.algebra import comparisons
from pgrain.provenance.algebra.small_gates import Combination
from pgrain.provenance.algebra.wiring import CERTAIN, NEVER, expand
from pgrain.provenance.gates.kernels import distinct
from pgrain.provenance.gates.levels import Levels

MOST = 1 << 20          # rows and values of their counts together, at most
COMMON = 0.1            # of the variables may be those of several groups


def count_is(rows, groups, of: np.ndarray, j: int, value: np.ndarray,
             owner: np.ndarray) -> np.ndarray:
    """(n,) literals: count j of the group of[i] is value[i], given that the group is there; those
    of one owner exclude each other."""
    terms, wiring, n = groups.terms(j), rows.assembly.wiring, len(of)
    asked = np.zeros(max(groups.n, 1), bool)
    asked[of] = True
    kept = np.flatnonzero(asked[terms.group] & (terms.literals[:, 0] != NEVER))
    out, row, bounds = wiring.threes(2 * n), np.arange(n), np.concatenate([value, value + 1.0])
    wiring.add(Levels(out, np.tile(of, 2), bounds, terms.group[kept], terms.literals[kept],
                      np.ones(len(kept))))
    nothing = np.array([rows.assembly.settled(state) for state in (0, 1)])
    at_least = [comparisons.given(rows, out + 3 * (half * n + row), groups, of,
                                  nothing[(bounds[half * n + row] <= 0.0).astype(int)]) + 1
                for half in (0, 1)]
    out = wiring.exclusive(owner)
    wiring.add(Combination(out, n, np.tile(row, 2), np.concatenate(at_least),
                           np.repeat([1.0, -1.0], n)))
    return out + row


def every_value(rows, groups, j: int) -> tuple | None:
    """(first (n,), size (n,), literals): count j of group g is v by the literal at first[g] + v,
    v < size[g]; those of a group exclude each other. Made once: n = v is one event wherever it is
    asked for. None if there are too many."""
    key = "every value", j, groups is rows
    if key not in groups.made:
        terms = groups.terms(j)
        size = np.bincount(terms.group[terms.literals[:, 0] != NEVER], minlength=groups.n) + 1
        group, value = expand(np.zeros(groups.n, np.int64), size)
        groups.made[key] = None if int(size.sum()) > MOST else (
            np.cumsum(size) - size, size, count_is(rows, groups, group, j,
                                                   value.astype(np.float64), group))
    return groups.made[key]


def common(groups, asked: np.ndarray) -> float:
    """The share of the variables of the groups `asked` that several of them mention."""
    term, column = np.nonzero((groups.literals > NEVER)
                              & np.isin(groups.group, asked)[:, None])
    owner = groups.wiring.owner[groups.literals[term, column]]
    pairs = distinct(owner * (groups.n + 1) + groups.group[term])[0] // (groups.n + 1)
    _, times = np.unique(pairs, return_counts=True)
    return float((times > 1).mean()) if len(times) else 0.0


def by_value(base, number, row: np.ndarray) -> Spelled | None:
    """As `of_linear`, of a Number at the rows `row` (T,) of a Base. None, too, where its groups
    (those of labels aside) have many variables in common: their counts go up and down together
    then, and the extreme of the expected counts is closer."""
    try:
        linear, denominator = comparisons.evaluate(base, number)
    except UnsupportedOperator:
        return None
    if denominator is not None or any(
            not groups.grouping.by_entry and common(groups, np.unique(of[of >= 0])) > COMMON
            for groups, of, *_ in linear.parts):
        return None
    return of_linear(base, linear.take(row))


@dataclass
class Spelled:
    """What numbers of rows can be, given that their groups are there, NULL left out.

    row, count, value: (S,); literals(): (S,) that the row's number is the value, and their gate.
    """

    row: np.ndarray
    count: np.ndarray
    value: np.ndarray
    literals: Callable[[], np.ndarray]


def of_linear(rows, linear) -> Spelled | None:
    """What a Linear over `rows` can be. None if it is no count (times a constant, plus one), is of
    groups that a HAVING has let pass, or has too many values."""
    if linear.wholes or linear.nulls or linear.spread or len(linear.parts) != 1:
        return None
    (groups, of, j, part, factor), = linear.parts
    if part != "count" or groups.grouping.having is not None and groups is not rows:
        return None
    known = np.flatnonzero(~np.isnan(linear.constant))
    counted, alone = known[of[known] >= 0], known[of[known] < 0]
    terms = groups.terms(j)
    size = np.bincount(terms.group[terms.literals[:, 0] != NEVER], minlength=groups.n) + 1
    if len(counted) and int(size[of[counted]].sum()) > MOST:
        return None
    unique, which = np.unique(of[counted], return_inverse=True)
    which, sizes = which.reshape(-1), size[unique]
    place, value = expand(np.zeros(len(unique), np.int64), sizes)
    entry, at = expand((np.cumsum(sizes) - sizes)[which], sizes[which])
    row = np.concatenate([counted[entry], alone])
    count = np.concatenate([value[at], np.zeros(len(alone), np.int64)])

    def literals() -> np.ndarray:
        known = every_value(rows, groups, j)
        if known is not None and len(unique):
            mine = known[2][known[0][of[counted][entry]] + value[at]]
        else:
            mine = (count_is(rows, groups, unique[place], j, value.astype(np.float64), place)
                    if len(unique) else np.zeros(0, np.int64))[at]
        return np.concatenate([mine, np.full(len(alone), CERTAIN)])

    return Spelled(row, count, linear.constant[row] + factor[row] * count, literals)
