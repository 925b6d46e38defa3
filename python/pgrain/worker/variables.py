"""The variables of one model version in memory: digest -> probabilities and J_x.

A look-up of V digests is one binary search over sorted 64-bit halves, not a dictionary access each.
Circuits number their variables in the order of their digests, and a table's values that were added
together lie in that order, too: so a look-up goes through memory once, from one end to the other.
"""

from __future__ import annotations

import threading

import numpy as np

from pgrain.models.softmax import softmax
from pgrain.wire.identity import DIGEST_BYTES


class Index:
    """Row numbers of 16-byte names, found by binary search."""

    def __init__(self):
        self.build(np.zeros((0, DIGEST_BYTES), np.uint8))

    def build(self, names: np.ndarray) -> None:
        """Index (n, 16) uint8, all different."""
        high, low = _halves(names)
        self._order = np.argsort(high, kind="stable")
        self._high, self._low = high[self._order], low[self._order]

    def find(self, names: np.ndarray) -> np.ndarray:
        """Row numbers (m,) of (m, 16) names, -1 where there is none."""
        high, low = _halves(names)
        n = len(self._high)
        if n == 0:
            return np.full(len(high), -1, np.int64)
        at = np.searchsorted(self._high, high)
        at_most = np.minimum(at, n - 1)
        same_high = self._high[at_most] == high
        same = same_high & (self._low[at_most] == low)
        result = np.where(same, self._order[at_most], -1)
        # Names with equal upper and different lower halves lie side by side.
        for row in np.flatnonzero(same_high & ~same):
            here = at[row]
            while here < n and self._high[here] == high[row]:
                if self._low[here] == low[row]:
                    result[row] = self._order[here]
                    break
                here += 1
        return result

    def missing(self, names: np.ndarray) -> np.ndarray:
        """(m,) bool: the first occurrence of each name that is not indexed."""
        high, low = _halves(names)
        order = np.lexsort((low, high))
        first = np.ones(len(order), bool)
        first[1:] = (high[order][1:] != high[order][:-1]) | (low[order][1:] != low[order][:-1])
        new = np.zeros(len(names), bool)
        new[order[first]] = True
        return new & (self.find(names) < 0)


class Growing:
    """An array that rows are added to, in place where there is room.

    `rows` is a view of what is there; a later `append` changes nothing in it. What was evaluated
    keeps its views, and every session has some: were each `append` a copy, they would hold as many
    whole tables in memory.
    """

    def __init__(self, shape: tuple[int, ...], dtype):
        self._room = np.zeros((0, *shape), dtype)
        self.rows = self._room[:0]

    def append(self, rows: np.ndarray) -> None:
        """Add (n, *shape)."""
        n = len(self.rows)
        total = n + len(rows)
        if total > len(self._room):
            # The first time just what is needed: most tables are loaded once and then rest.
            room = np.empty((max(total, n + n // 2), *self._room.shape[1:]), self._room.dtype)
            room[:n] = self.rows
            self._room = room
        self._room[n:total] = rows
        self.rows = self._room[:total]


class VariableTable:
    """Values of one version, with J_x for one spectrum (or without, if n_pairs is None).

    logits: (n, R) float32; p: (n, R) float64; predicted: (n,) int64; J: (n, R, m) float32 or None.
    Readers take the arrays once (`snapshot`): `add` writes behind what they see.
    """

    def __init__(self, n_classes: int, n_pairs: int | None):
        self.n_classes, self.n_pairs = n_classes, n_pairs
        self.lock = threading.Lock()
        self.loaded: set[int] = set()
        self.last_seq = 0
        self.live = 0       # how many of its values are not stored, as far as is known
        self.asked = 0      # ... that one look-up found, at most
        self._live = Growing((), np.bool_)      # ... which
        self._index = Index()
        self._digests = Growing((DIGEST_BYTES,), np.uint8)
        self._logits = Growing((n_classes,), np.float32)
        self._J = None if n_pairs is None else Growing((n_classes, n_pairs), np.float32)
        self._predicted = Growing((), np.int64)
        self._p = Growing((n_classes,), np.float64)

    def __len__(self) -> int:
        return len(self._digests.rows)

    @property
    def live_bytes(self) -> int:
        """About how much memory the values take that are not stored."""
        return self.live * self._value_bytes

    @property
    def asked_bytes(self) -> int:
        """... and those of them that the largest look-up found."""
        return self.asked * self._value_bytes

    @property
    def _value_bytes(self) -> int:
        return DIGEST_BYTES + 24 + self.n_classes * (12 + 4 * (self.n_pairs or 0))

    def add(self, digests: np.ndarray, predicted: np.ndarray, logits: np.ndarray,
            J: np.ndarray | None, *, live: bool = True) -> None:
        """Add values (n, 16), (n,), (n, R), (n, R, m); those that are there already are skipped.
        live: they were computed, not read from where they are stored."""
        with self.lock:
            if not live:
                known = self._index.find(digests)
                self._live.rows[known[known >= 0]] = False
                self.live = int(self._live.rows.sum())
            new = np.flatnonzero(self._index.missing(digests))
            if not len(new):
                return
            new = new[np.argsort(_halves(digests[new])[0], kind="stable")]
            self._digests.append(digests[new])
            self.live += len(new) if live else 0
            self._live.append(np.full(len(new), live))
            self._logits.append(logits[new])
            self._predicted.append(predicted[new])
            self._p.append(softmax(logits[new]))
            if self._J is not None:
                self._J.append(J[new])
            self._index.build(self._digests.rows)

    def add_live_of(self, other: VariableTable) -> None:
        """Add those values of another table of this kind that are not stored."""
        with other.lock:
            rows = other._live.rows
            parts = [array.rows[rows] for array in (other._digests, other._predicted,
                                                    other._logits)]
            J = None if other._J is None else other._J.rows[rows]
        self.add(*parts, J)

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Row numbers of digests (n, 16) uint8, -1 where a value is not known."""
        with self.lock:
            rows = self._index.find(digests)
            if self.live > self.asked:
                self.asked = max(self.asked, int(self._live.rows[rows[rows >= 0]].sum()))
            return rows

    def snapshot(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(predicted, p, J), consistent with each other and with row numbers given before."""
        with self.lock:
            return (self._predicted.rows, self._p.rows,
                    None if self._J is None else self._J.rows)


    def rows(self, at: np.ndarray, other: VariableTable, behind: np.ndarray
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(predicted, p, J) of the values in rows `at`; in place of each -1, the next one of rows
        `behind` of another table of this kind."""
        found = []
        for here, there in zip(self.snapshot(), other.snapshot(), strict=True):
            if here is None:
                found.append(None)
                continue
            rows = np.empty((len(at), *here.shape[1:]), here.dtype)
            rows[at >= 0], rows[at < 0] = here[at[at >= 0]], there[behind]
            found.append(rows)
        return tuple(found)


def _halves(names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 16) uint8 as two arrays (n,) of 64-bit numbers."""
    # Big endian: ordered as the bytes are, and as `provenance.lineage.number_digests` orders them.
    pairs = np.ascontiguousarray(names).view(">u8").reshape(-1, 2)
    return pairs[:, 0].astype(np.uint64), pairs[:, 1].astype(np.uint64)
