"""The packed rows of a capture by tag, as arrays."""

from __future__ import annotations

import json

import numpy as np

from pgrain.errors import PgrainError, UnsupportedOperator
from pgrain.provenance.lineage import digest_rows, read_floats


class Packed:
    """``tag -> (meta, a, b)`` of the capture's result."""

    def __init__(self, rows):
        self.rows = {tag: (meta, a, b) for tag, meta, a, b, _ in rows}

    def _get(self, tag: str):
        if tag not in self.rows:
            raise PgrainError("the capture came back in an unknown layout", detail=f"No {tag}.")
        return self.rows[tag]

    @staticmethod
    def _array(data, dtype: str) -> np.ndarray:
        return np.frombuffer(bytes(data) if data is not None else b"", dtype=dtype)

    def __contains__(self, tag: str) -> bool:
        return tag in self.rows

    def ints(self, tag: str) -> np.ndarray:
        """(n,) int64."""
        return self._array(self._get(tag)[1], ">i4").astype(np.int64)

    def longs(self, tag: str) -> np.ndarray:
        """(n,) int64 of eight bytes each."""
        return self._array(self._get(tag)[1], ">i8").astype(np.int64)

    def flags(self, tag: str) -> np.ndarray:
        """(n,) bool."""
        return self._array(self._get(tag)[1], np.uint8).astype(bool)

    def floats(self, tag: str) -> np.ndarray:
        """(n,) float64, NaN for NULL; NaN and infinity themselves are refused."""
        values = read_floats(self._get(tag)[1])
        if values is None:
            raise UnsupportedOperator("arithmetic over NaN or infinity has no provenance",
                                      hint="Filter such values out.")
        return values

    def digests(self, tag: str) -> tuple[np.ndarray, np.ndarray]:
        """((m, 16) uint8 of the rows that have one, (n,) bool: which have none).

        Zeros stand for NULL: no digest is all zeros, but by a chance of 2^-128.
        """
        digests = digest_rows(self._get(tag)[1])
        null = ~digests.any(axis=1)
        return (digests[~null] if null.any() else digests), null

    def count(self, tag: str) -> int:
        data = self._array(self._get(tag)[1], ">i8")
        return int(data[0]) if len(data) else 0

    def texts(self, tag: str) -> list[list]:
        """A list of texts for each row."""
        return json.loads(self._get(tag)[0] or "[]")
