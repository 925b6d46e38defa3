"""Whether any of several groups has a value, where the groups share variables.

DISTINCT n, UNION and GROUP BY n over a grouped subquery ask whether any group's count is 3. Rows of
different groups with equal features are one variable, so the groups' counts are not independent: a
diagram of all the groups' terms knows at its last nodes which values there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgrain.provenance.algebra import jointly, spelled
from pgrain.provenance.algebra.last_nodes import Nodes
from pgrain.provenance.algebra.members import MOST
from pgrain.provenance.algebra.wiring import CERTAIN, NEVER

EVENTS = 1 << 20        # values times last nodes, at most


@dataclass
class _Alone:
    """What a `Joint` asks of rows, where it is told the groups."""

    assembly: object
    n: int = 1


def any_of(wiring, n: int, target: np.ndarray, literals: np.ndarray) -> int | None:
    """Place of n booleans: does any of the terms of each target occur; None where these are no rows
    of values, share no variables, or are too many."""
    if not len(target) or not wiring.values:
        return None
    for base, parts in wiring.values:
        row = _rows(parts, literals)
        sure = ~literals.any(axis=1)
        if (row >= 0).any() and ((row >= 0) | sure).all():
            return _decided(wiring, base, parts, n, target[~sure], literals[~sure], row[~sure],
                            target[sure])
    return None


def _rows(parts: list[np.ndarray], literals: np.ndarray) -> np.ndarray:
    """(T,) the row of values whose literal is among each term's; -1 for none."""
    first = parts[0]
    order = np.argsort(first, kind="stable")
    made = np.full(len(literals), -1)
    if not len(first):
        return made
    for column in literals.T:
        at = np.minimum(np.searchsorted(first[order], column), len(order) - 1)
        hit = (first[order[at]] == column) & (column > NEVER)
        made[hit] = order[at[hit]]
    return made


def _decided(wiring, base, parts, n, target, literals, row, sure) -> int | None:
    rows, index = base.units[0]
    origins = [rows.origin.get(one.cell) for one in base.block.chosen]
    if None in origins or any(origin[0] is not origins[0][0] for origin in origins):
        return None
    groups = origins[0][0]
    if not hasattr(groups, "grouping"):
        return None
    of = origins[0][1][index][row]
    if (of < 0).any() or any((origin[1] != origins[0][1]).any() for origin in origins):
        return None
    rest = literals.copy()
    for part in parts:
        rest[rest == part[row][:, None]] = CERTAIN
    there = groups.any()[of]
    rest[(rest == there[:, None]) & (there > NEVER)[:, None]] = CERTAIN
    asked = np.unique(of)
    if rest.any() or len(asked) > MOST or not spelled.common(groups, asked):
        return None
    stands = (literals == there[:, None]).any(axis=1) | (there == CERTAIN)
    joint = jointly.Joint(_Alone(base.assembly))
    numbers = [origin[2] for origin in origins]
    if not stands.all() or not joint.ask_groups(groups, asked, numbers) or not joint.build():
        return None
    nodes = np.arange(len(joint.found.node))
    if n * len(nodes) > EVENTS:
        return None
    occurs = np.zeros((n, len(nodes)), bool)
    occurs[sure] = True
    for group in asked.tolist():
        mine = np.flatnonzero(of == group)
        holds = np.tile(joint.is_there(groups, group), (len(mine), 1))
        for one, number in zip(base.block.chosen, numbers, strict=True):
            x, known = Nodes(joint, nodes).within(groups, group, number)
            value = base.leaves[one.leaf][row[mine]][:, None]
            near = np.abs(x - value) <= jointly.EQUAL * np.maximum(np.abs(value), 1.0)
            holds &= np.where(np.isnan(value), known == 0, (known > 0) & near)
        np.logical_or.at(occurs, target[mine], holds)
    out = wiring.threes(n)
    event, node = np.nonzero(np.ones_like(occurs))
    joint.add(out, (3 * event + occurs.ravel(), node), np.zeros(3 * n, np.int64))
    return out
