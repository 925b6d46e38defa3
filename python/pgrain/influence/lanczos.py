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
5. `known` pairs are kept as they are and the search goes on orthogonal to them (locking), so more
   pairs cost what the new ones cost. Residuals of the new pairs are measured with products of H
   itself, not of the deflated operator.
6. The basis is held within `memory` bytes: when it is full, it is replaced by its leading Ritz
   vectors and goes on with the residual (thick restart, Wu and Simon 2000).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pgrain.errors import LimitExceeded

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
            known: Spectrum | None = None, memory: int | None = None,
            progress: Callable[[int, int, str], None] | None = None) -> Spectrum:
    """Up to `n_pairs` leading positive eigenpairs of the symmetric d x d operator `matvec`.

    matvec: (d,) float32 -> (d,) of any float type; linear and symmetric. max_iterations: products
    at most, default 10 a pair plus 50; never more than d. progress(done, total, message) is called
    once a product and may raise. Keeps 8 d bytes a product (the basis and the products, float32),
    at most `memory` bytes (54000 if that is too little for the pairs). known: pairs of the same
    operator, found before; they count among the `n_pairs` and are returned as they are.
    """
    if known is not None and len(known.eigenvalues):
        return _continued(matvec, d, n_pairs, known, seed=seed, tol=tol, memory=memory,
                          max_iterations=max_iterations, progress=progress)
    return _search(matvec, d, n_pairs, np.zeros((d, 0), np.float32), seed, tol, memory,
                   max_iterations, progress)


def _continued(matvec, d: int, n_pairs: int, known: Spectrum, *, seed, tol, memory,
               max_iterations, progress) -> Spectrum:
    """The known pairs and those that a search orthogonal to them finds."""
    have = len(known.eigenvalues)
    if have >= n_pairs or have >= d:
        kept = min(have, n_pairs)
        return Spectrum(known.eigenvalues[:kept], known.vectors[:, :kept],
                        known.residuals[:kept], 0, "converged")
    new = _search(matvec, d, n_pairs - have, np.asarray(known.vectors, np.float32), seed + 1, tol,
                  memory, max_iterations, progress)
    values = np.concatenate([known.eigenvalues, new.eigenvalues])
    order = np.argsort(-values, kind="stable")
    return Spectrum(values[order],
                    np.concatenate([known.vectors, new.vectors], axis=1)[:, order],
                    np.concatenate([known.residuals, new.residuals])[order], new.iterations,
                    new.status if new.status == "converged" else f"{have} known; {new.status}")


def room_for(d: int, n_pairs: int, memory: int | None) -> int:
    """Basis vectors that fit into `memory` bytes; 54000 if too few for `n_pairs`."""
    if memory is None:
        return 1 << 30
    room = int(memory // (8 * d))
    if room < n_pairs + _SPARE + 5:
        fitting = max(room - _SPARE - 5, 0)
        raise LimitExceeded(
            f"{n_pairs} eigenpairs of {d:,} parameters do not fit into {memory:,} bytes",
            detail=f"Lanczos holds {8 * d:,} bytes a step.",
            hint=f"Ask for at most {fitting} pairs." if fitting else "Use a smaller model.")
    return room


def _search(matvec, d: int, n_pairs: int, locked: np.ndarray, seed: int, tol: float,
            memory: int | None, max_iterations: int | None, progress) -> Spectrum:
    free = d - locked.shape[1]
    limit = min(free, max_iterations or 10 * n_pairs + 50)
    room = min(limit, max(room_for(d, n_pairs, memory), 1))
    expected = min(limit, max(3 * n_pairs, n_pairs + _SPARE))      # for the progress alone
    rng = np.random.default_rng(seed)
    dtype = np.float64 if 16 * d * room <= 1 << 28 else np.float32
    locked = locked.astype(dtype)
    basis = _Columns(d, room, dtype)         # Q
    products = _Columns(d, room, dtype)      # H Q
    projected = np.zeros((room, room))       # Q^T H Q
    norm_h, done = 0.0, 0
    q = _unit(rng.standard_normal(d).astype(dtype))
    q = _unit(q - locked @ (locked.T @ q))
    estimate = "starting"
    while True:
        hq = np.asarray(matvec(q.astype(np.float32) if dtype == np.float32 else q), dtype)
        if not np.isfinite(hq).all():
            return _empty(d, done, "the operator returned numbers that are not finite; "
                                          "train the model again with a smaller learning rate")
        basis.append(q)
        products.append(hq)
        m, done = basis.count, done + 1
        column = basis.all.T @ hq
        projected[:m, m - 1] = projected[m - 1, :m] = column
        norm_h = max(norm_h, float(np.linalg.norm(hq)))
        if progress is not None:
            progress(min(done, expected - 1), expected, f"Lanczos step {done}: {estimate}")
        if done == limit:
            break
        r = hq - basis.all @ column
        for _ in range(2):
            r -= locked @ (locked.T @ r)
            r -= basis.all @ (basis.all.T @ r)
        beta = float(np.linalg.norm(r))
        if beta <= 10 * np.finfo(np.float32).eps * norm_h:
            r = _fresh(basis, locked, rng, dtype)
            beta = 0.0
        if m >= n_pairs + _SPARE and (done % 5 == 0 or beta == 0 or m == room):
            values, S = np.linalg.eigh(projected[:m, :m])
            values, S = values[::-1][:n_pairs], S[:, ::-1][:, :n_pairs]
            bounds = beta * np.abs(S[-1])
            good = (values > 0) & (bounds <= 0.5 * tol * np.abs(values))
            estimate = f"{int(good.sum())} of {n_pairs} pairs"
            # After an exhausted space (beta = 0) the bound says nothing about what lies outside it.
            if good.all() and beta > 0:
                break
        if m == room:
            # The residual is orthogonal to the whole basis, so also to what is kept of it.
            keep = min(n_pairs + (room - n_pairs) // 3, m - 1)
            values, S = np.linalg.eigh(projected[:m, :m])
            S = np.ascontiguousarray(S[:, ::-1][:, :keep])
            basis.combine(S)
            products.combine(S)
            projected[:] = 0
            projected[:keep, :keep] = np.diag(values[::-1][:keep])
        q = _unit(r)
    return _pairs(basis, products, projected, n_pairs, tol, done, limit, free)


def _pairs(basis, products, projected, n_pairs: int, tol: float, done: int, limit: int,
           d: int) -> Spectrum:
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
        status = (f"{kept} of {n_pairs} pairs converged in {done} products; allow more than "
                  f"{limit} iterations, or ask for fewer pairs")
    return Spectrum(values[:kept].astype(np.float64), V[:, :kept].astype(np.float32),
                    residuals[:kept].astype(np.float64), done, status)


def _empty(d: int, iterations: int, status: str) -> Spectrum:
    return Spectrum(np.zeros(0), np.zeros((d, 0), np.float32), np.zeros(0), iterations, status)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def _fresh(basis: _Columns, locked: np.ndarray, rng: np.random.Generator, dtype) -> np.ndarray:
    """A random vector orthogonal to the basis and to what is locked."""
    r = _unit(rng.standard_normal(len(basis.all)).astype(dtype))
    for _ in range(3):
        r = r - locked @ (locked.T @ r)
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

    def combine(self, S: np.ndarray) -> None:
        """Replace the m columns by their combinations with S (m, keep), in blocks of rows."""
        S = S.astype(self._store.dtype)
        for at in range(0, len(self._store), 1 << 16):
            rows = slice(at, at + (1 << 16))
            self._store[rows, : S.shape[1]] = self._store[rows, : self.count] @ S
        self.count = S.shape[1]

    @property
    def all(self) -> np.ndarray:
        return self._store[:, : self.count]
