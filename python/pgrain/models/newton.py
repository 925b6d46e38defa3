"""Logistic regression to the optimum: Newton's method with preconditioned conjugate gradient.

Influence is the derivative of the optimum, so on a convex model theta has to be one: the gradient
of L is driven to rounding error in float64. The Hessian is sum_z S_z (x) x_z x_z^T + alpha I with
S = diag p - p p^T. Its Kronecker product of averages, mean(S) (x) X^T X + alpha I, is inverted
exactly through two small eigendecompositions, and with it conjugate gradient needs some tens of
steps where it would need thousands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pgrain.models.softmax import log_softmax

_HELD_BYTES = 1 << 30           # float64 features are kept if they fit here, else made on the fly
_KRONECKER_FEATURES = 4096      # beyond, X^T X is replaced by its diagonal


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
    """Chunks of [x, 1] in float64, with the label and the weight of each row."""

    def __init__(self, X: np.ndarray, y: np.ndarray, weights: np.ndarray, chunk: int = 8192):
        self.X, self.y, self.weights, self.chunk = X, y, weights, chunk
        self.features = int(np.prod(X.shape[1:])) + 1
        held = len(X) * self.features * 8 <= _HELD_BYTES
        self._held = [self._make(start) for start in self._starts()] if held else None

    def _starts(self):
        return range(0, len(self.X), self.chunk)

    def _make(self, start: int):
        rows = slice(start, start + self.chunk)
        x = self.X[rows].reshape(len(self.X[rows]), -1)
        A = np.ones((len(x), self.features))
        np.divide(x, 255 if x.dtype == np.uint8 else 1, out=A[:, :-1])
        return A, self.y[rows], self.weights[rows]

    def __iter__(self):
        return iter(self._held) if self._held is not None else map(self._make, self._starts())


def minimise(X: np.ndarray, y: np.ndarray, n_classes: int, alpha: float, *,
             weights: np.ndarray | None = None, start: np.ndarray | None = None,
             tol: float = 1e-8, max_iterations: int = 50,
             progress: Callable[[int, int, str], None] | None = None) -> Optimum:
    """The minimiser of L = sum w_z l + alpha/2 |theta|^2.

    X: (N, ...) uint8 (scaled by 1/255) or float; y: (N,) classes; start: (D+1, R). Stops when the
    gradient's norm is below tol times max(1, the norm at theta = 0). `progress(done, total,
    message)` is called once a Newton step and may raise.
    """
    weights = np.ones(len(X)) if weights is None else np.asarray(weights, np.float64)
    rows = _Rows(X, np.asarray(y), weights)
    theta = np.zeros((rows.features, n_classes)) if start is None else np.array(start, np.float64)
    precondition = None
    products = 0
    loss, gradient, S = _gradient(rows, theta, alpha)
    reference = max(1.0, _gradient(rows, np.zeros_like(theta), alpha, only="norm"))
    gram = _gram(rows)
    status = f"stopped after {max_iterations} Newton steps; allow more iterations or raise alpha"
    done = 0
    for done in range(max_iterations + 1):
        norm = float(np.linalg.norm(gradient))
        if progress is not None:
            progress(min(done, 19), 20, f"Newton step {done}: gradient norm {norm:.3g}")
        if norm <= tol * reference:
            status = "converged"
            break
        if done == max_iterations:
            break
        precondition = _preconditioner(gram, S / weights.sum(), alpha)
        # Superlinear, not exact: the early steps need no precise direction.
        step, used = _solve(lambda v, t=theta: _product(rows, t, v, alpha), -gradient, precondition,
                            rtol=min(0.1, (norm / reference) ** 0.5), max_steps=200)
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
        theta, (loss, gradient, S) = theta + scale * step, trial
    return Optimum(theta, status, float(loss), float(np.linalg.norm(gradient)), done, products)


def _gradient(rows: _Rows, theta: np.ndarray, alpha: float, only: str | None = None):
    loss, gradient = 0.5 * alpha * float(np.vdot(theta, theta)), alpha * theta
    S = np.zeros((theta.shape[1], theta.shape[1]))
    for A, y, w in rows:
        log_p = log_softmax(A @ theta)
        p = np.exp(log_p)
        loss -= float(w @ log_p[np.arange(len(y)), y])
        S += np.diag(w @ p) - (p * w[:, None]).T @ p
        p[np.arange(len(y)), y] -= 1
        gradient = gradient + A.T @ (p * w[:, None])
    return float(np.linalg.norm(gradient)) if only == "norm" else (loss, gradient, S)


def _product(rows: _Rows, theta: np.ndarray, v: np.ndarray, alpha: float) -> np.ndarray:
    out = alpha * v
    for A, _, w in rows:
        p = np.exp(log_softmax(A @ theta))
        t = A @ v
        t = p * (t - (p * t).sum(axis=1, keepdims=True))
        out = out + A.T @ (t * w[:, None])
    return out


def _gram(rows: _Rows) -> tuple[np.ndarray, np.ndarray | None]:
    """Eigenvalues (D+1,) and eigenvectors (or None for the identity) of sum w x x^T."""
    if rows.features > _KRONECKER_FEATURES:
        return sum(w @ (A * A) for A, _, w in rows), None
    return np.linalg.eigh(sum((A * w[:, None]).T @ A for A, _, w in rows))


def _preconditioner(gram, S: np.ndarray, alpha: float) -> Callable[[np.ndarray], np.ndarray]:
    g, Q = gram
    s, U = np.linalg.eigh(S)
    scale = 1 / (np.maximum(g, 0)[:, None] * np.maximum(s, 0)[None, :] + max(alpha, 1e-12))

    def apply(v: np.ndarray) -> np.ndarray:
        inner = (v if Q is None else Q.T @ v) @ U
        inner = (scale * inner) @ U.T
        return inner if Q is None else Q @ inner

    return apply


def _solve(product, b: np.ndarray, precondition, *, rtol: float, max_steps: int):
    x, r = np.zeros_like(b), b.copy()
    z = precondition(r)
    p, rz = z.copy(), float(np.vdot(r, z))
    goal = rtol * np.linalg.norm(b)
    for used in range(1, max_steps + 1):
        hp = product(p)
        step = rz / float(np.vdot(p, hp))
        x, r = x + step * p, r - step * hp
        if np.linalg.norm(r) <= goal:
            break
        z = precondition(r)
        rz, before = float(np.vdot(r, z)), rz
        p = z + rz / before * p
    return x, used
