"""Weights of eigenpairs, chosen at query time: the inverse of the Hessian and its tamer relatives.

Deviation from the paper (section 4.2): 1/lambda is not stored with the projections, so these can be
changed without computing anything again.
"""

from __future__ import annotations

import numpy as np

from pgrain.errors import InvalidArgument

NAMES = ("inverse", "damped", "tikhonov", "truncated", "identity")


def filter_weights(eigenvalues: np.ndarray, name: str = "inverse",
                   damping: float = 0.0) -> np.ndarray:
    """w (k,) float64 with W = diag w.

    eigenvalues: (k,) positive, descending; lambda_1 the first. damping: delta, relative to it.
    inverse 1/l; damped 1/(l + delta l_1); tikhonov l/(l^2 + delta^2 l_1^2); truncated 1/l where
    l > delta l_1, else 0; identity 1. 22023 for another name or a negative damping.
    """
    if name not in NAMES:
        raise InvalidArgument(f'no filter "{name}"', hint="Filters are: " + ", ".join(NAMES) + ".")
    if not 0 <= damping < float("inf"):
        raise InvalidArgument(f"damping must be a number of at least 0, not {damping}")
    values = np.asarray(eigenvalues, np.float64)
    if len(values) == 0:
        return values.copy()
    floor = damping * values[0]
    if name == "inverse":
        return 1 / values
    if name == "damped":
        return 1 / (values + floor)
    if name == "tikhonov":
        return values / (values**2 + floor**2)
    if name == "truncated":
        return np.where(values > floor, 1 / values, 0.0)
    return np.ones_like(values)
