"""LIMIT, OFFSET and DISTINCT ON over rows that share variables, decided by diagrams where small.

Two orders with the same features are flagged together or not at all, so whether one is among the
first is not independent of the other. A diagram of the rows up to it counts those that are there.
"""

from __future__ import annotations

import numpy as np

from pgrain.provenance.algebra.diagrams import Column, build
from pgrain.provenance.algebra.overlaps import decide, mentioned_twice
from pgrain.provenance.algebra.wiring import NEVER, expand
from pgrain.provenance.gates.kernels import heads
from pgrain.provenance.gates.threshold import cheapest

PAIRS = 1 << 11         # of a row and one before it, in all lists: 64 rows of a single one


def exact(wiring, part: np.ndarray, literals: np.ndarray, term: np.ndarray, offset: int,
          limit: int | None, peers: np.ndarray | None) -> np.ndarray:
    """(n,) literals: the row is there, and of those before it in its part [offset, offset + limit)
    are; -1 in parts whose rows share no variables, and where a diagram would be too large.

    literals: (n, L), rows in order; term: (n,) rows of one term exclude each other; peers: as
    `gates.first` has them.
    """
    made = np.full(len(part), -1)
    order = np.argsort(part, kind="stable")
    part, literals = part[order], literals[order]
    rows = np.flatnonzero(
        mentioned_twice(wiring, int(part.max(initial=-1)) + 1, part, literals, term[order])[part]
        & (literals[:, 0] != NEVER))
    if not len(rows):
        return made
    start = heads(part)
    first = np.flatnonzero(start)[np.cumsum(start) - 1]
    leader = np.arange(len(part))
    if peers is not None:
        changes = start | heads(peers[order])
        leader = np.flatnonzero(changes)[np.cumsum(changes) - 1]
    before = leader - first
    if offset == 0 and limit is not None:
        rows = rows[before[rows] >= limit]      # those before are kept whenever they are there
    rows = rows[cheapest(before[rows].astype(np.float64), PAIRS)]
    instance, earlier = expand(first[rows], before[rows])
    found = None if not len(rows) else build(wiring, len(rows), [
        Column("some", np.arange(len(rows)), literals[rows]),
        Column("count", instance, literals[earlier])])
    if found is None:
        return made
    there, count = found.sums.T
    holds = (there > 0) & (count >= offset)
    if limit is not None:
        holds &= count < offset + limit
    fits, decided = decide(wiring, found, holds)
    made[order[rows[fits]]] = decided
    return made
