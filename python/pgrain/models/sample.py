"""Seeded samples of rows: of those whose loss makes the Hessian, or a preconditioner."""

from __future__ import annotations

import numpy as np


def sample_rows(n_total: int, n_sample: int, seed: int) -> np.ndarray:
    """`n_sample` of `n_total` row numbers without replacement, ascending; all if there are fewer.

    The same arguments give the same rows, on every machine: (n,) int64.
    """
    if n_sample >= n_total:
        return np.arange(n_total)
    return np.sort(np.random.default_rng(seed).choice(n_total, n_sample, replace=False))
