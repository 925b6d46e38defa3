"""The leading eigenpairs of a symmetric operator that is only known by its products.

Lanczos with full reorthogonalisation (paper section 4.1). Deviations and additions:
1. The paper names plain Lanczos. In floating point it loses orthogonality and reports ghosts,
   copies of converged pairs. Every new vector is orthogonalised twice against all earlier ones.
2. The projected matrix Q^T H Q is formed in full from the stored products H Q, not read off the
   recurrence, so that a restart (3) needs no special case and the residual ||H v - lambda v|| of
   each pair is computed from actual products, without another one.
3. Where the Krylov space is exhausted (few distinct eigenvalues), the search goes on with a random
   vector orthogonal to it, so repeated eigenvalues are found with their multiplicity there. A
   repeated eigenvalue of a large operator whose Krylov space is never exhausted can be returned
   fewer times than it occurs; what is returned is an eigenpair all the same.
4. The Hessian of a net is indefinite. A pair counts only if lambda > 0 and
   ||H v - lambda v|| <= tol lambda; the list ends before the first pair that does not count, so
   that it never has a hole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Products beyond n_pairs before an answer is believed: a start vector that hardly contains a
# leading eigenvector lets the next one converge in its place, until rounding brings it up.
_SPARE = 20


@dataclass(frozen=True)
class Spectrum:
    """The leading eigenpairs, descending.

    eigenvalues: (m,) float64; vectors: (d, m) float32, orthonormal columns; residuals: (m,)
    float64, ||H v - lambda v||; iterations: products used; status: "converged", or a sentence that
    says why there are fewer pairs than asked for and what to do.
    """

    eigenvalues: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    iterations: int
    status: str


def lanczos(matvec: Callable[[np.ndarray], np.ndarray], d: int, n_pairs: int, *, seed: int = 0,
            tol: float = 1e-3, max_iterations: int | None = None,
            progress: Callable[[int, int, str], None] | None = None) -> Spectrum:
    """Up to `n_pairs` leading positive eigenpairs of the symmetric d x d operator `matvec`.

    matvec: (d,) float32 -> (d,) of any float type; linear and symmetric. max_iterations: products
    at most, default 10 a pair plus 50; never more than d. progress(done, total, message) is called
    once a product and may raise. Keeps 8 d bytes a product (the basis and the products, float32).
    """
    limit = min(d, max_iterations or 10 * n_pairs + 50)
    expected = min(limit, max(3 * n_pairs, n_pairs + _SPARE))      # for the progress alone
    rng = np.random.default_rng(seed)
    dtype = np.float64 if 16 * d * limit <= 1 << 28 else np.float32
    basis = _Columns(d, limit, dtype)        # Q
    products = _Columns(d, limit, dtype)     # H Q
    projected = np.zeros((limit, limit))     # Q^T H Q
    norm_h = 0.0
    q = _unit(rng.standard_normal(d).astype(dtype))
    estimate = "starting"
    while True:
        hq = np.asarray(matvec(q.astype(np.float32) if dtype == np.float32 else q), dtype)
        if not np.isfinite(hq).all():
            return _empty(d, basis.count, "the operator returned numbers that are not finite; "
                                          "train the model again with a smaller learning rate")
        basis.append(q)
        products.append(hq)
        m = basis.count
        column = basis.all.T @ hq
        projected[:m, m - 1] = projected[m - 1, :m] = column
        norm_h = max(norm_h, float(np.linalg.norm(hq)))
        if progress is not None:
            progress(min(m, expected - 1), expected, f"Lanczos step {m}: {estimate}")
        if m == limit:
            break
        r = hq - basis.all @ column
        r -= basis.all @ (basis.all.T @ r)
        beta = float(np.linalg.norm(r))
        if beta <= 10 * np.finfo(np.float32).eps * norm_h:
            r = _fresh(basis, rng, dtype)
            beta = 0.0
        if m >= n_pairs + _SPARE and (m % 5 == 0 or beta == 0):
            values, S = np.linalg.eigh(projected[:m, :m])
            values, S = values[::-1][:n_pairs], S[:, ::-1][:, :n_pairs]
            bounds = beta * np.abs(S[-1])
            good = (values > 0) & (bounds <= 0.5 * tol * np.abs(values))
            estimate = f"{int(good.sum())} of {n_pairs} pairs"
            # After an exhausted space (beta = 0) the bound says nothing about what lies outside it.
            if good.all() and beta > 0:
                break
        q = _unit(r)
    return _pairs(basis, products, projected, n_pairs, tol, limit, d)


def _pairs(basis, products, projected, n_pairs: int, tol: float, limit: int, d: int) -> Spectrum:
    m = basis.count
    values, S = np.linalg.eigh(projected[:m, :m])
    wanted = min(n_pairs, m)
    values, S = values[::-1][:wanted], np.ascontiguousarray(S[:, ::-1][:, :wanted])
    S = S.astype(basis.all.dtype)
    V = basis.all @ S
    residuals = np.linalg.norm(products.all @ S - V * values.astype(V.dtype), axis=0)
    counts = (values > 0) & (residuals <= tol * np.abs(values))
    kept = int(counts.argmin()) if not counts.all() else wanted
    if kept == n_pairs:
        status = "converged"
    elif kept == wanted and wanted == d:
        status = f"the operator has only {d} eigenpairs, all of them found"
    elif values[kept] <= 0:
        status = f"only {kept} eigenvalues found are positive; ask for fewer pairs"
    else:
        status = (f"{kept} of {n_pairs} pairs converged in {m} products; allow more than {limit} "
                  "iterations, or ask for fewer pairs")
    return Spectrum(values[:kept].astype(np.float64), V[:, :kept].astype(np.float32),
                    residuals[:kept].astype(np.float64), m, status)


def _empty(d: int, iterations: int, status: str) -> Spectrum:
    return Spectrum(np.zeros(0), np.zeros((d, 0), np.float32), np.zeros(0), iterations, status)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def _fresh(basis: _Columns, rng: np.random.Generator, dtype) -> np.ndarray:
    """A random vector orthogonal to the basis."""
    r = _unit(rng.standard_normal(len(basis.all)).astype(dtype))
    for _ in range(3):
        r = _unit(r - basis.all @ (basis.all.T @ r))
    return r


class _Columns:
    """A growing matrix of d rows, in blocks of columns so that unused room is never touched."""

    def __init__(self, d: int, limit: int, dtype):
        # Fortran order: a column is contiguous, and pages of unused columns are never touched.
        self._store = np.empty((d, limit), dtype, order="F")
        self.count = 0

    def append(self, column: np.ndarray) -> None:
        self._store[:, self.count] = column
        self.count += 1

    @property
    def all(self) -> np.ndarray:
        return self._store[:, : self.count]
