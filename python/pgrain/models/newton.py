"""Logistic regression to the optimum: Newton's method with preconditioned conjugate gradient.

Influence is the derivative of the optimum, so on a convex model theta has to be one: the gradient
of L is driven down in float64. The Hessian sum_z S_z (x) x_z x_z^T + alpha I, S = diag p - p p^T,
is badly conditioned (1e6 on pictures), so each Newton step is solved by conjugate gradient with a
preconditioner. First the Kronecker product of averages, mean(S) (x) X^T X + alpha I, inverted
through two small eigendecompositions: it costs next to nothing, is made anew for each step, and is
exact at theta = 0, where S is the same for every row. Once its solves have cost what a Cholesky
factor of the Hessian on a seeded sample of rows would (exact when there are few rows), they are
made with that; for small d from the start, for large d never. Directions need no float64: products
are float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from pgrain.models.sample import sample_rows
from pgrain.models.softmax import log_softmax

_HELD_BYTES = 1 << 30           # float32 features are kept if they fit here, else made on the fly
_DENSE_PARAMETERS = 9000        # up to here the sampled Hessian is factorised (d^2 floats)
_DENSE_ROWS = 4096              # rows of its sample
_KRONECKER_FEATURES = 4096      # beyond, X^T X is replaced by its diagonal
_STALE_STEPS = 25               # a solve longer than this makes the next step factorise again
_NARROW = 6                     # multiplications by ten columns take this many times longer than
                                # those of two large matrices (measured, OpenBLAS, two cores)


@dataclass(frozen=True)
class Optimum:
    """Where Newton stopped. value: (D+1, R) float64, the bias in the last row."""

    value: np.ndarray
    status: str
    loss: float
    gradient_norm: float
    iterations: int
    products: int


class _Rows:
    """Chunks of [x, 1] in float32, with the label and the weight of each row."""

    def __init__(self, X: np.ndarray, y: np.ndarray, weights: np.ndarray, chunk: int = 4096):
        self.X, self.y, self.weights, self.chunk = X, y, weights, chunk
        self.features = int(np.prod(X.shape[1:])) + 1
        self.held = len(X) * self.features * 4 <= _HELD_BYTES
        self._held = [self._make(start) for start in self._starts()] if self.held else None

    def _starts(self):
        return range(0, len(self.X), self.chunk)

    def _make(self, start: int):
        rows = slice(start, start + self.chunk)
        x = self.X[rows].reshape(len(self.X[rows]), -1)
        # A column after the other, if they are kept: A^T t takes less than half the time then.
        A = np.ones((len(x), self.features), np.float32, order="F" if self.held else "C")
        # As `Model.logits` does it, so that both see the same numbers.
        np.divide(x, np.float32(255 if x.dtype == np.uint8 else 1), out=A[:, :-1])
        return A, self.y[rows], self.weights[rows]

    def __iter__(self):
        return iter(self._held) if self._held is not None else map(self._make, self._starts())


def minimise(X: np.ndarray, y: np.ndarray, n_classes: int, alpha: float, *,
             weights: np.ndarray | None = None, start: np.ndarray | None = None,
             tol: float = 1e-6, max_iterations: int = 50,
             progress: Callable[[int, int, str], None] | None = None, keep=None,
             resume: dict[str, np.ndarray] | None = None) -> Optimum:
    """The minimiser of L = sum w_z l + alpha/2 |theta|^2.

    X: (N, ...) uint8 (scaled by 1/255) or float; y: (N,) classes; start: (D+1, R). Stops when the
    gradient's norm is below tol times max(1, the norm at theta = 0). `progress(done, total,
    message)` is called once a Newton step and may raise. keep, resume: as `training.train`; theta
    and where the preconditioner was made are all that a step depends on.
    """
    weights = np.ones(len(X)) if weights is None else np.asarray(weights, np.float64)
    rows = _Rows(X, np.asarray(y), weights)
    theta = np.zeros((rows.features, n_classes)) if start is None else np.array(start, np.float64)
    precondition, made_at, products, first = None, None, 0, 0
    averages, price = _Averages(rows, alpha), _price(rows, theta.size)

    def factorised(so_far: int) -> bool:
        return so_far + _STALE_STEPS > price

    used, accuracy, least = 0, 0.3, float("inf")
    if resume is not None:
        theta, made_at = resume["theta"], resume["made_at"]
        first, products, used = resume["counts"].tolist()
        accuracy, least = resume["numbers"].tolist()
    loss, gradient = _gradient(rows, theta, alpha)
    reference = max(1.0, float(np.linalg.norm(
        gradient if start is None and resume is None
        else _gradient(rows, np.zeros_like(theta), alpha)[1])))
    status = f"stopped after {max_iterations} Newton steps, not at the optimum; raise alpha"
    for done in range(first, max_iterations + 1):
        norm = float(np.linalg.norm(gradient))
        least = min(least, norm)         # the norm may rise; progress never falls
        report = functools.partial(_report, progress, f"Newton step {done + 1}: gradient norm "
                                   f"{norm:.3g}", least, tol * reference, reference)
        report()
        if norm <= tol * reference:
            status = "converged"
            break
        if done == max_iterations:
            break
        if not factorised(products):
            precondition, made_at = averages.inverse(theta), theta
        else:
            # `products - used`: what was known before the last step.
            if made_at is None or used > _STALE_STEPS or not factorised(products - used):
                precondition, made_at = None, theta
            if precondition is None:
                precondition = _sampled_cholesky(rows, made_at, alpha, report)
        step, used = _solve(rows, theta, alpha, -gradient, precondition, report,
                            rtol=accuracy, max_steps=100)
        products += used
        scale, slope = 1.0, float(np.vdot(gradient, step))
        for _ in range(30):
            trial = _gradient(rows, theta + scale * step, alpha)
            # Near the optimum the loss no longer resolves progress; the gradient still does.
            if trial[0] <= loss + 1e-4 * scale * slope or np.linalg.norm(trial[1]) < norm / 2:
                break
            scale /= 2
        else:
            status = "no further progress in float64"
            break
        theta, (loss, gradient) = theta + scale * step, trial
        # Eisenstat and Walker (1996), choice 2: solve as exactly as the last step was rewarded.
        accuracy = min(0.3, max(1e-3, 0.9 * (np.linalg.norm(gradient) / norm) ** 2))
        if keep is not None:
            keep(lambda at=(done + 1, products, used), numbers=(accuracy, least), theta=theta,
                 made_at=made_at: {"theta": theta, "made_at": made_at, "counts": np.array(at),
                                   "numbers": np.array(numbers)})
    return Optimum(theta, status, float(loss), float(np.linalg.norm(gradient)), done, products)


def _report(progress, message: str, norm: float, goal: float, reference: float) -> None:
    """Progress by orders of magnitude of the gradient's norm."""
    if progress is not None:
        span = np.log(reference / goal)
        left = np.log(max(norm, goal) / goal) / span if span > 0 else 0.0
        progress(int(100 * (1 - min(left, 1.0))), 100, message)


def _gradient(rows: _Rows, theta: np.ndarray, alpha: float) -> tuple[float, np.ndarray]:
    loss, gradient = 0.5 * alpha * float(np.vdot(theta, theta)), alpha * theta
    for A, y, w in rows:
        A = A.astype(np.float64)
        log_p = log_softmax(A @ theta)
        p = np.exp(log_p)
        loss -= float(w @ log_p[np.arange(len(y)), y])
        p[np.arange(len(y)), y] -= 1
        gradient = gradient + A.T @ (p * w[:, None])
    return loss, gradient


def _probabilities(rows: _Rows, theta: np.ndarray) -> list[np.ndarray]:
    theta = theta.astype(np.float32)
    return [np.exp(log_softmax(A @ theta)).astype(np.float32) for A, _, _ in rows]


def _product(rows: _Rows, p_of: list[np.ndarray], v: np.ndarray, alpha: float) -> np.ndarray:
    v = v.astype(np.float32)
    out = alpha * v
    for (A, _, w), p in zip(rows, p_of, strict=True):
        t = A @ v
        t = p * (t - (p * t).sum(axis=1, keepdims=True))
        out += A.T @ (t * w[:, None].astype(np.float32))
    return out


def _price(rows: _Rows, d: int) -> float:
    """How many products with the Hessian cost what a factor of it on the sample does."""
    if d > _DENSE_PARAMETERS:
        return float("inf")
    factor = min(len(rows.X), _DENSE_ROWS) * d ** 2 + d ** 3 / 3
    return factor / (_NARROW * 4 * d * (len(rows.X) + rows.features))


def _sampled_cholesky(rows: _Rows, theta: np.ndarray, alpha: float, report):
    n, (D, R) = len(rows.X), theta.shape
    picked = sample_rows(n, _DENSE_ROWS, 0)
    part = _Rows(rows.X[picked], rows.y[picked], rows.weights[picked])
    scale = rows.weights.sum() / max(part.weights.sum(), 1e-300)
    exact = len(picked) == n
    H = np.zeros((R, D, R, D), np.float64 if exact else np.float32)
    for A, _, w in part:
        A = A.astype(H.dtype)
        p = np.exp(log_softmax(A @ theta)).astype(H.dtype)
        for r in range(R):
            report()
            for s in range(r + 1):
                weight = (scale * w * p[:, r] * ((r == s) - p[:, s])).astype(H.dtype)
                H[r, :, s] += (A * weight[:, None]).T @ A
    H = H.reshape(R * D, R * D)
    # Only the lower triangle of blocks is filled, which is what the factorisation reads.
    H[np.diag_indices_from(H)] += alpha
    report()
    factor = cho_factor(H, lower=True, overwrite_a=True, check_finite=False)

    def apply(v: np.ndarray) -> np.ndarray:
        flat = cho_solve(factor, v.T.reshape(-1).astype(H.dtype), check_finite=False)
        return flat.reshape(R, D).T.astype(np.float64)

    return apply


class _Averages:
    """The preconditioner mean(S) (x) X^T X + alpha I. X^T X is decomposed once, mean(S), which has
    a row for each class, wherever it is asked for."""

    def __init__(self, rows: _Rows, alpha: float):
        self.rows, self.alpha = rows, alpha

    @functools.cached_property
    def _features(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Eigenvalues and eigenvectors of X^T X; of its diagonal, with None, where there are many
        features."""
        if self.rows.features > _KRONECKER_FEATURES:
            return sum(w @ (A * A) for A, _, w in self.rows), None
        return np.linalg.eigh(sum((A * w[:, None]).T @ A for A, _, w in self.rows))

    def inverse(self, theta: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        S = np.zeros((theta.shape[1], theta.shape[1]))
        total = self.rows.weights.sum()
        for (_, _, w), p in zip(self.rows, _probabilities(self.rows, theta), strict=True):
            S += (np.diag(w @ p) - (p * w[:, None]).T @ p) / total
        s, U = np.linalg.eigh(S)
        g, Q = self._features
        scale = 1 / (np.maximum(g, 0)[:, None] * np.maximum(s, 0)[None, :] + self.alpha)

        def apply(v: np.ndarray) -> np.ndarray:
            inner = (v if Q is None else Q.T @ v) @ U
            inner = (scale * inner) @ U.T
            return inner if Q is None else Q @ inner

        return apply


def _solve(rows: _Rows, theta, alpha: float, b: np.ndarray, precondition, report, *, rtol: float,
           max_steps: int):
    """H x = b by preconditioned conjugate gradient, to `rtol`; the steps used."""
    p_of = _probabilities(rows, theta)
    x, r = np.zeros_like(b), b.copy()
    z = precondition(r)
    p, rz = z.copy(), float(np.vdot(r, z))
    goal = rtol * np.linalg.norm(b)
    used = 0
    while used < max_steps:
        used += 1
        report()
        hp = _product(rows, p_of, p, alpha).astype(np.float64)
        curvature = float(np.vdot(p, hp))
        if curvature <= 0:          # float32 has nothing more to say
            break
        step = rz / curvature
        x, r = x + step * p, r - step * hp
        if np.linalg.norm(r) <= goal:
            break
        z = precondition(r)
        rz, before = float(np.vdot(r, z)), rz
        p = z + rz / before * p
    return x, used
