"""The variables of one model version in memory: digest -> probabilities and J_x.

A look-up of V digests is one binary search over sorted 64-bit halves, not a dictionary access each.
"""

from __future__ import annotations

import threading

import numpy as np

from pgrain.models.softmax import softmax
from pgrain.wire.identity import DIGEST_BYTES


class VariableTable:
    """Values of one version, with J_x for one spectrum (or without, if n_pairs is None).

    logits: (n, R) float32; p: (n, R) float64; predicted: (n,) int64; J: (n, R, m) float32 or None.
    Readers take the arrays once (`snapshot`): `add` puts new ones in their place.
    """

    def __init__(self, n_classes: int, n_pairs: int | None):
        self.n_classes, self.n_pairs = n_classes, n_pairs
        self.lock = threading.Lock()
        self.loaded: set[int] = set()
        self.last_seq = 0
        self._digests = np.zeros((0, DIGEST_BYTES), np.uint8)
        self._logits = np.zeros((0, n_classes), np.float32)
        self._J = None if n_pairs is None else np.zeros((0, n_classes, n_pairs), np.float32)
        self._predicted = np.zeros(0, np.int64)
        self._index()

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, digests: np.ndarray, predicted: np.ndarray, logits: np.ndarray,
            J: np.ndarray | None) -> None:
        """Add values (n, 16), (n,), (n, R), (n, R, m); those that are there already are skipped."""
        with self.lock:
            found = self._find(digests)
            _, first = np.unique(_halves(digests), return_index=True)
            new = np.zeros(len(digests), bool)
            new[first] = True
            new &= found < 0
            if not new.any():
                return
            self._digests = np.concatenate([self._digests, digests[new]])
            self._logits = np.concatenate([self._logits, logits[new]])
            self._predicted = np.concatenate([self._predicted, predicted[new].astype(np.int64)])
            if self._J is not None:
                self._J = np.concatenate([self._J, J[new]])
            self._index()

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Row numbers of digests (n, 16) uint8, -1 where a value is not known."""
        with self.lock:
            return self._find(digests)

    def snapshot(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(predicted, p, J), consistent with each other and with row numbers given before."""
        with self.lock:
            return self._predicted, self._p, self._J

    def _index(self) -> None:
        halves = _halves(self._digests)
        self._order = np.argsort(halves, order=("high", "low"))
        self._sorted = halves[self._order]
        self._sorted_high = np.ascontiguousarray(self._sorted["high"])
        self._p = softmax(self._logits)

    def _find(self, digests: np.ndarray) -> np.ndarray:
        wanted = _halves(digests)
        n = len(self._sorted)
        if n == 0:
            return np.full(len(wanted), -1, np.int64)
        at = np.searchsorted(self._sorted_high, wanted["high"])
        at_most = np.minimum(at, n - 1)
        same = self._sorted[at_most] == wanted
        result = np.where(same, self._order[at_most], -1)
        # Equal upper halves with different lower ones: 2^-64 a pair, but then the search is exact.
        high_only = ~same & (self._sorted_high[at_most] == wanted["high"])
        for row in np.flatnonzero(high_only):
            here = at[row]
            while here < n and self._sorted_high[here] == wanted["high"][row]:
                if self._sorted[here] == wanted[row]:
                    result[row] = self._order[here]
                here += 1
        return result


def _halves(digests: np.ndarray) -> np.ndarray:
    """(n, 16) uint8 as (n,) records of two 64-bit numbers."""
    return np.ascontiguousarray(digests).view([("high", "<u8"), ("low", "<u8")]).reshape(-1)
