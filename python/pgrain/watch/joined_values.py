"""The values of both sides of a watched join with their weights, and how many sums meet.

`joined_state` says what for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_BUCKETS = 4096


@dataclass(frozen=True)
class Weights:
    """What one value has on one side, for one row of the output's columns of that side.

    texts: of these columns; counts: (A, R) int64 contributions; sums: (A, R) float64 weights, by
    atom and class.
    """

    texts: list
    counts: np.ndarray
    sums: np.ndarray

    def plus(self, other: Weights, sign: int) -> Weights:
        """These and (-1: without) those."""
        counts = self.counts + sign * other.counts
        return Weights(self.texts, counts,
                       np.where(counts == 0, 0.0, self.sums + sign * other.sums))


_NONE: dict = {}     # never changed


def _bucket(at: tuple) -> int:
    return int.from_bytes(at[2][:2], "big") % _BUCKETS


class Values:
    """(side, key, digest) -> {row of the output: `Weights`}.

    In buckets by the digest, of which a copy shares those that are not changed: so a change does
    not cost by the number of values.
    """

    def __init__(self, buckets: list[dict] | None = None, counts: tuple = (0, 0)):
        self._buckets = [_NONE] * _BUCKETS if buckets is None else list(buckets)
        self._own: set[int] = set()     # buckets that no other has
        self.counts = list(counts)      # of each side

    def get(self, at: tuple) -> dict[str, Weights]:
        """What is there of a value, not to be changed."""
        return self._buckets[_bucket(at)].get(at, _NONE)

    def put(self, at: tuple, row: str, weights: Weights | None) -> None:
        """Keep the weights of a value; None: they are all gone."""
        bucket = _bucket(at)
        if bucket not in self._own:
            self._buckets[bucket] = dict(self._buckets[bucket])
            self._own.add(bucket)
        found = dict(self._buckets[bucket].get(at, {}))
        self.counts[at[0]] += (weights is not None) - (row in found)
        if weights is None:
            found.pop(row, None)
        else:
            found[row] = weights
        if found:
            self._buckets[bucket][at] = found
        else:
            self._buckets[bucket].pop(at, None)

    def items(self) -> Iterable[tuple[tuple, dict[str, Weights]]]:
        """All of them."""
        for bucket in self._buckets:
            yield from bucket.items()

    def copy(self) -> Values:
        """Values that can be changed without changing these."""
        self._own = set()
        return Values(self._buckets, tuple(self.counts))


class Meetings:
    """How many sums of each side have what meets, by its name; pairs: of sums that meet."""

    def __init__(self, counts: tuple[dict, dict] | None = None, pairs: int = 0):
        first, second = counts or ({}, {})
        self._counts, self.pairs = (dict(first), dict(second)), pairs

    def add(self, side: int, met: str, by: int) -> None:
        """So many more sums (or, with a sign, fewer) of a side have this."""
        own = self._counts[side]
        self.pairs += by * self._counts[1 - side].get(met, 0)
        own[met] = own.get(met, 0) + by
        if not own[met]:
            del own[met]

    def copy(self) -> Meetings:
        """Others that can be changed without changing these."""
        return Meetings(self._counts, self.pairs)
