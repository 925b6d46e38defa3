"""How many eigenpairs to use (paper section 4.3)."""

from __future__ import annotations

import numpy as np

INFLECTION = 0.9
SHARE = 0.97


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


def stable_k(eigenvalues: np.ndarray, w: np.ndarray, c: np.ndarray, n_classes: int) -> int:
    """The smallest k >= R whose pairs make 0.97 of the ranking's variance; 0 if c is 0.

    The score of a row is the sum of w_i c_i a_zi. Were labels drawn from the model's
    probabilities, the rows' gradients would have the covariance H / N (Fisher), so pair i adds
    lambda_i (w_i c_i)^2 to the variance of the scores: with the inverse filter c_i^2 / lambda_i.
    The pairs after k hardly change the ranking that all would give, and small eigenvalues make
    them unreliable. Unlike `choose_k` this sees the complaint: on one and the same spectrum
    complaints need different k (docs/dev/influence.md). eigenvalues: (m,) positive, descending;
    w: (m,) of the filter; c: (m,).
    """
    c = np.asarray(c, np.float64)
    scale = np.abs(w * c).max(initial=0.0)
    if scale == 0:
        return 0
    share = np.cumsum(eigenvalues * (w * c / scale) ** 2)
    return max(int(np.searchsorted(share, SHARE * share[-1])) + 1, min(n_classes, len(c)))
