"""Tuple stamps -> digests of one column's file (see `provenance/stamps.py`).

A tuple's place in its file names at most one tuple that anybody can see: PostgreSQL uses a place
again only when the tuple before is dead to all. So the place is the index, and the transaction
number beside it says whether it is still the tuple that was seen there. Digests are numbered in
ascending order as they come in, so that a capture's need not be sorted each time.
"""

from __future__ import annotations

import threading

import numpy as np

from pgrain.provenance.lineage import Numbered, number_digests
from pgrain.settings import STAMPS
from pgrain.wire.identity import DIGEST_BYTES
from pgrain.worker.variables import Growing

_STAMP = np.dtype([("block", ">u4"), ("offset", ">u2"), ("xmin", ">u4")])
# An array over all places is looked up in one step, but where few tuples of a large file are known
# it would be mostly empty: then a sorted list is searched.
_PLACES_A_STAMP, _PLACES = 16, 1 << 20


class StampTable:
    """The stamps seen so far; shared by all connections."""

    def __init__(self):
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._places = Growing((), np.int64)        # block << 16 | offset
        self._xmin = Growing((), np.uint32)
        self._numbers = Growing((), np.int32)       # of the tuple's digest among `_distinct`
        self._distinct = np.zeros((0, DIGEST_BYTES), np.uint8)
        self._most = [0, 0]         # blocks and places in a block so far
        self._blocks = self._stride = 0             # ... that `_at` has room for
        self._at: np.ndarray | None = None          # place -> row, -1 where none is known
        self._order: np.ndarray | None = None       # rows by place, where there is no `_at`

    def __len__(self) -> int:
        return len(self._places.rows)

    def learn(self, stamps: np.ndarray, digests: np.ndarray) -> None:
        """Add pairs: (n, >= 10) and (n, 16) uint8. A tuple at the place of another one takes it.
        Of a table that has grown over the limit only what is new is kept."""
        block, offset, xmin = _parts(stamps)
        with self._lock:
            rows, known = self._find(block, offset, xmin)
            if known.all():
                return
            block, offset, xmin, rows = (part[~known] for part in (block, offset, xmin, rows))
            if len(self) + (rows < 0).sum() > STAMPS.default:
                self._begin()
                rows = np.full(len(rows), -1)
            numbers = self._numbered(digests[~known])
            again = rows >= 0
            self._xmin.rows[rows[again]] = xmin[again]
            self._numbers.rows[rows[again]] = numbers[again]
            # Whoever names one tuple twice says the same of it.
            places, first = np.unique((block << 16 | offset)[~again], return_index=True)
            if len(places):
                self._xmin.append(xmin[~again][first])
                self._numbers.append(numbers[~again][first])
                self._places.append(places)
                self._index(places)

    def translate(self, stamps: np.ndarray) -> tuple[Numbered, np.ndarray]:
        """(digests, unknown (n,) bool) of stamps (n, 10) uint8; all zeros: there is no value. What
        the digests say of unknown ones means nothing."""
        block, offset, xmin = _parts(stamps)
        there = offset > 0
        with self._lock:
            rows, known = self._find(block, offset, xmin)
            distinct = self._distinct
            numbers = np.zeros(len(rows), np.int32)
            if len(self):
                numbers = self._numbers.rows.take(np.maximum(rows, 0))
        known |= ~there
        return Numbered(distinct, numbers, None if there.all() else there), ~known

    def _find(self, block: np.ndarray, offset: np.ndarray, xmin: np.ndarray
              ) -> tuple[np.ndarray, np.ndarray]:
        """(the row of each place, -1 where none is known; whether it is this tuple's)."""
        if not len(self):
            return np.full(len(block), -1), np.zeros(len(block), bool)
        if self._at is not None:
            inside = (block < self._blocks) & (offset < self._stride)
            rows = self._at.take(np.where(inside, block * self._stride + offset, 0))
            rows = np.where(inside, rows, -1)
        else:
            wanted = block << 16 | offset
            places = self._places.rows
            near = np.searchsorted(places, wanted, sorter=self._order)
            rows = self._order.take(np.minimum(near, len(places) - 1))
            rows = np.where(places.take(rows) == wanted, rows, -1)
        return rows, (rows >= 0) & (self._xmin.rows.take(np.maximum(rows, 0)) == xmin)

    def _numbered(self, digests: np.ndarray) -> np.ndarray:
        """Numbers (n,) of digests, new ones put among the others."""
        new, numbers = number_digests(digests)
        names, wanted = (array.view(f"S{DIGEST_BYTES}")[:, 0]
                         for array in (self._distinct, np.ascontiguousarray(new)))
        at = np.searchsorted(names, wanted)
        there = np.zeros(len(new), bool)
        if len(names):
            there = names.take(np.minimum(at, len(names) - 1)) == wanted
        before = at[~there]
        if len(before):
            self._numbers.rows[:] += np.searchsorted(before, self._numbers.rows, "right"
                                                     ).astype(np.int32)
            self._distinct = np.insert(self._distinct, before, new[~there], axis=0)
        # As many new ones come before each as are new and smaller.
        return (at + np.cumsum(~there) - ~there)[numbers]

    def _index(self, added: np.ndarray) -> None:
        """Bring the index up to date with the last rows, of the places `added`."""
        blocks = self._most[0] = max(self._most[0], int(added.max() >> 16) + 1)
        stride = self._most[1] = max(self._most[1], int((added & 0xFFFF).max()) + 1)
        if blocks * stride > max(_PLACES, _PLACES_A_STAMP * len(self)):
            self._at, self._order = None, np.argsort(self._places.rows)
            return
        if self._at is None or blocks > self._blocks or stride > self._stride:
            # Some room for blocks and tuples to come: they come one by one.
            self._blocks, self._stride = blocks + blocks // 8, stride + stride // 4
            self._at = np.full(self._blocks * self._stride, -1, np.int32)
            self._order, added = None, self._places.rows
        first = len(self) - len(added)
        self._at[(added >> 16) * self._stride + (added & 0xFFFF)] = np.arange(first, len(self))


def _parts(stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Block and offset (int64) and transaction number of (n, >= 10) bytes."""
    packed = np.ascontiguousarray(stamps[:, :_STAMP.itemsize]).view(_STAMP)[:, 0]
    return (packed["block"].astype(np.int64), packed["offset"].astype(np.int64),
            packed["xmin"].astype(np.uint32))
