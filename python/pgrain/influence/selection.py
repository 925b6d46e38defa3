"""How many eigenpairs to use (paper section 4.3)."""

from __future__ import annotations

import numpy as np

INFLECTION = 0.9


def choose_k(eigenvalues: np.ndarray, n_classes: int) -> int:
    """The smallest k >= R with lambda_{k+1} / lambda_k >= 0.9, at most what is stored.

    eigenvalues: (m,) positive, descending. The paper says "close to one" for the ratio after the
    inflection; 0.9 makes it a number. Without an inflection, or with m <= R, the answer is m.
    """
    values = np.asarray(eigenvalues, np.float64)
    for k in range(max(n_classes, 1), len(values)):
        if values[k] >= INFLECTION * values[k - 1]:
            return k
    return len(values)
