"""Comparisons of sums of many independent variables, from their first three cumulants.

P(S <= x) is taken as that of a shifted gamma distribution with the same mean, variance and skewness
g, by the cube root that makes it normal (Wilson and Hilferty, "The distribution of chi-square",
PNAS 1931):

    z = (x - mean) / sd,   P(S <= x) = Phi( (6 / g) ((1 + g z / 2)^(1/3) - 1) + g / 6 )

which is Phi(z) for g -> 0. Against Phi(z) alone it divides the largest error by 2 to 5 for
symmetric sums and by 10 to 50 for skewed ones (rare events), and against the Edgeworth term of the
same order it stays between 0 and 1 and keeps tails positive (docs/dev/semantics.md has the table).
On a lattice x stands half a step between two values.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

_FLAT = 1e-5              # skewness below which the limit's series is used


def comparison(operator: str, mean: np.ndarray, variance: np.ndarray, third: np.ndarray,
               low: np.ndarray, high: np.ndarray):
    """P(S op x), its complement, and the derivatives of the former; all (n,).

    Parameters
    ----------
    mean, variance, third : (n,) cumulants of S; variance > 0
    low, high : (n,) float
        P(S < x) is taken at `low`, P(S <= x) at `high`: half a step below and above x on a lattice,
        both x where values have no step.

    Returns
    -------
    true, false : probabilities; d_mean, d_variance, d_third : derivatives of `true`.
    """
    below, above = _Tails(mean, variance, third, low), _Tails(mean, variance, third, high)
    less, at_most, at_least, more = below.lower, above.lower, below.upper, above.upper
    equal = np.maximum(at_most - less, 0.0)
    true, false, slope = {
        "<": (less, at_least, below.slopes), "<=": (at_most, more, above.slopes),
        ">": (more, at_most, [-d for d in above.slopes]),
        ">=": (at_least, less, [-d for d in below.slopes]),
        "=": (equal, less + more, _difference(above, below)),
        "<>": (less + more, equal, _difference(below, above)),
    }[operator]
    return true, false, *slope


def _difference(a, b):
    return [x - y for x, y in zip(a.slopes, b.slopes, strict=True)]


class _Tails:
    """P(S <= x), P(S > x), and the former's derivatives with respect to the three cumulants."""

    def __init__(self, mean, variance, third, x):
        sd = np.sqrt(variance)
        z, g = (x - mean) / sd, third / (variance * sd)
        flat = np.abs(g) < _FLAT
        g_ = np.where(flat, 1.0, g)
        y = 1.0 + 0.5 * g_ * z
        root = np.cbrt(y)
        w = np.where(flat, z - g * (z * z - 1.0) / 6.0, 6.0 / g_ * (root - 1.0) + g_ / 6.0)
        self.lower, self.upper = ndtr(w), ndtr(-w)
        density = np.exp(-0.5 * w * w) / np.sqrt(2.0 * np.pi)
        steep = 1.0 / np.maximum(root * root, 1e-8)       # infinite at the gamma's own end
        w_z = np.where(flat, 1.0 - g * z / 3.0, steep)
        w_g = np.where(flat, (1.0 - z * z) / 6.0,
                       -6.0 / (g_ * g_) * (root - 1.0) + z * steep / g_ + 1.0 / 6.0)
        z_v, g_v = -0.5 * z / variance, -1.5 * g / variance
        self.slopes = [density * w_z * (-1.0 / sd), density * (w_z * z_v + w_g * g_v),
                       density * w_g / (variance * sd)]
