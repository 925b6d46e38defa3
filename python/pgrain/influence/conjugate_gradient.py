"""Conjugate gradient: w with H w = grad q, as Rain does for each complaint (paper equation 4).

Deviations from the paper:
1. Its mu(w) = w^T H w - <grad q, w> lacks a factor 1/2 before the first term; the gradient that it
   states, H w - grad q, is that of 1/2 w^T H w - <grad q, w>, which is what is minimised here.
2. The Hessian of a net is indefinite: `damping` is added to its diagonal, and a direction of
   nonpositive curvature ends the iteration, with a status that says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pgrain.influence.scores import bounded
from pgrain.interrupts import check


@dataclass(frozen=True)
class Solution:
    """value: (d,) float64; status: "converged" or a sentence; stats: iterations, residual (relative
    to the right-hand side)."""

    value: np.ndarray
    status: str
    stats: dict = field(default_factory=dict)


def conjugate_gradient(matvec: Callable[[np.ndarray], np.ndarray], b: np.ndarray, *,
                       n_iter: int = 10, damping: float = 0.0, tol: float = 1e-6,
                       progress: Callable[[int, int, str], None] | None = None) -> Solution:
    """Minimise 1/2 w^T (H + damping I) w - <b, w> over w, starting at 0.

    matvec: v (d,) -> H v; b: (d,); n_iter: products at most; tol: ||H w - b|| / ||b|| to reach.
    """
    b, exponent = bounded(b)        # squares of it are formed, and products in float32
    w, r = np.zeros_like(b), b.copy()
    p, rr = r.copy(), float(r @ r)
    norm = float(np.sqrt(rr))
    status = f"not converged after {n_iter} products; allow more, or raise damping"
    done = 0
    if norm == 0:
        return Solution(w, "converged", {"iterations": 0, "residual": 0.0})
    for done in range(1, n_iter + 1):
        check()
        hp = np.asarray(matvec(p), np.float64) + damping * p
        curvature = float(p @ hp)
        if curvature <= 0:
            status = (f"nonpositive curvature at product {done}: the Hessian is indefinite; raise "
                      "damping")
            break
        step = rr / curvature
        w += step * p
        r -= step * hp
        rr, before = float(r @ r), rr
        if progress is not None:
            progress(done, n_iter, f"residual {np.sqrt(rr) / norm:.3g}")
        if np.sqrt(rr) <= tol * norm:
            status = "converged"
            break
        p = r + rr / before * p
    return Solution(np.ldexp(w, exponent), status, {
        "iterations": done, "residual": float(np.sqrt(rr)) / norm})
