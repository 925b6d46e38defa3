"""A count compared with the greatest or least of counts, value by value (`gates.most`).

n = (SELECT max(n) FROM k), HAVING count(*) >= (SELECT max(n) …): what each number can be, and with
which probability, is one distribution each. Exact where the groups have no variables in common.
"""

from __future__ import annotations

import numpy as np

from pgrain.provenance.algebra import spelled
from pgrain.provenance.algebra.wiring import Buckets
from pgrain.provenance.gates.kernels import distinct
from pgrain.provenance.gates.most import AgainstCounts

CELLS = 1 << 21         # candidates times values, at most


def places(rows, operator: str, sign: float, mine, theirs, group, event, of) -> np.ndarray | None:
    """(n,) places of threes: number  op  the extreme of the candidates of group of[r]; None if
    these are no counts, or too many.

    mine, theirs: Linear, of the rows and of the candidates; group, event: (m,) the group that each
    candidate is of, and the literal that it is there; sign: 1.0 against the greatest, -1.0 (and
    `operator` of the negated numbers) against the least.
    """
    wiring, n = rows.assembly.wiring, len(of)
    if mine.nulls or theirs.nulls or len(mine.parts) != 1 or len(theirs.parts) != 1:
        return None
    order = np.argsort(group, kind="stable")
    asked, set_of = distinct(of)
    order = order[np.isin(group[order], asked)]
    if not len(order):
        return None
    theirs, group, event = theirs.take(order), group[order], event[order]
    candidate_set = np.searchsorted(asked, group)
    own = _own(mine, theirs, set_of, candidate_set)
    if own is None:
        return None
    entries = spelled.of_linear(rows, mine)
    others = spelled.of_linear(rows, theirs) if entries is not None else None
    if entries is None or others is None:
        return None
    row, count, candidate = entries.row, entries.count, others.row
    value, of_value = sign * entries.value, sign * others.value
    if AgainstCounts.cells(set_of, row, value, candidate_set, candidate, of_value) > CELLS:
        return None
    # What the own candidate is where the number is `value`: both are made of one count.
    at = own[row]
    its = np.where(at >= 0, sign * (theirs.constant[at] + theirs.parts[0][4][at] * count), -np.inf)
    literal, of_literal = entries.literals(), others.literals()
    out = wiring.threes(n)
    wiring.add(AgainstCounts(out, operator, set_of, row, value, literal, value >= its, value > its,
                             own, candidate_set, event, candidate, of_value, of_literal))
    return out + 3 * np.arange(n)


def _own(mine, theirs, set_of, candidate_set) -> np.ndarray | None:
    """(n,) the candidate that is the row's own count, -1 for none; None if there are several."""
    own = np.full(len(set_of), -1)
    (groups, of, j, part, _), (others, their, k, their_part, _) = mine.parts[0], theirs.parts[0]
    if groups is not others or (j, part) != (k, their_part):
        return own
    most = groups.n + 1
    row, found = Buckets(candidate_set * most + their).pairs(set_of * most + of)
    row, found = row[of[row] >= 0], found[of[row] >= 0]
    if len(np.unique(row)) < len(row):
        return None
    own[row] = found
    return own
