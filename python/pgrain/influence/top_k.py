"""The largest scores, exactly."""

from __future__ import annotations

import numpy as np

_SAMPLED_ABOVE = 1 << 15


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest scores, descending; ties in order of index; all if k > n.

    scores: (n,) float32 or float64. NaN comes after everything else. On long arrays a threshold
    from a sample leaves few candidates, so the array is read about once; the answer is exact, for
    a threshold that leaves too few is dropped.
    """
    return _first(np.asarray(scores), k, 1)


def least_k(changes: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k smallest changes, ascending: `top_k` of -changes, which is not made."""
    return _first(np.asarray(changes), k, -1)


def _first(values: np.ndarray, k: int, sign: int) -> np.ndarray:
    n = len(values)
    k = min(max(int(k), 0), n)
    if k == 0:
        return np.zeros(0, np.int64)
    candidates = None
    if n > _SAMPLED_ABOVE and k < n // 64:
        candidates = _beyond_sampled_threshold(values, k, sign)
    if candidates is None:
        candidates = _partition(values if sign > 0 else -values, k)
    found = values[candidates]
    if sign > 0:
        found = -found
    # lexsort: last key first. NaN last, then by size, then by index.
    order = np.lexsort((candidates, found, np.isnan(found)))
    return candidates[order[:k]]


def _beyond_sampled_threshold(values: np.ndarray, k: int, sign: int) -> np.ndarray | None:
    """All indices of values at or beyond a threshold that at least k reach; None if it failed."""
    step = 16
    sample = values[::step]
    rank = min(2 * (k // step) + 8, len(sample))      # about twice the wanted share, and some
    at = len(sample) - rank if sign > 0 else rank - 1
    threshold = np.partition(sample, at)[at]
    if np.isnan(threshold):
        return None
    candidates = np.flatnonzero(values >= threshold if sign > 0 else values <= threshold)
    return candidates if k <= len(candidates) <= _most(k, len(values)) else None


def _most(k: int, n: int) -> int:
    """Candidates beyond which sorting them costs more than a partition of everything."""
    return max(16 * k + 1024, n // 16)


def _partition(scores: np.ndarray, k: int) -> np.ndarray:
    """All indices whose score is at or over the k-th largest, NaN counting as the least."""
    nan = np.isnan(scores)
    clean = np.where(nan, -np.inf, scores) if nan.any() else scores
    kth = np.partition(clean, len(clean) - k)[len(clean) - k]
    if kth == -np.inf:
        return np.arange(len(scores))
    above, ties = np.flatnonzero(clean > kth), np.flatnonzero(clean == kth)
    return np.concatenate([above, ties[: k - len(above)]])
