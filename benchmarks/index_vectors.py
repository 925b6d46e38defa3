"""The vectors and queries of the index studies, and how much of the exact answer was found."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

K, TOP = 20, 100
PART = 10_000_000         # vectors made at a time: 800 MB


def parts(n: int, uneven: bool) -> Iterator[np.ndarray]:
    """(at most PART, K) float32 each, n in all; the same each time."""
    for number, first in enumerate(range(0, n, PART)):
        rng = np.random.default_rng([n, number])
        made = rng.standard_normal((min(PART, n - first), K), dtype=np.float32)
        if uneven:
            made *= (0.9 ** np.arange(K, dtype=np.float32))
            made *= np.exp(2 * rng.standard_normal((len(made), 1), dtype=np.float32))
        yield made
        del made        # or two parts would be there while the next one is made


def queries(n: int, count: int) -> np.ndarray:
    """(count, K) float32, each new to whoever made an index of the n vectors."""
    return np.random.default_rng(n + 1).standard_normal((count, K), dtype=np.float32)


def recall(found: list[np.ndarray], exact: list[np.ndarray]) -> float:
    """The share of the exact top 100 that was found, over all queries."""
    return float(np.mean([np.isin(one, other).mean()
                          for one, other in zip(exact, found, strict=True)]))
