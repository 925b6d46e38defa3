"""The group step: where the parameters go when many training rows are edited at once.

First-order influence adds up one row's effect n times; retraining does not, for the curvature and
the probabilities of the other rows change on the way. Here the edited training problem is solved,
restricted to a subspace theta* + V u and with logits linear in u:

    minimise over u   sum_j w_j l(z_j + J_j u, y_j) + sum_i l(z'_i + J'_i u, y'_i)
                      + alpha/2 |V^T theta* + u|^2 - <g0, u>

with z_j, J_j logits and projections of the stored rows, w_j = 0 where a row is deleted, y_j its new
label where it is relabelled; a row whose features are repaired is deleted and comes back as one of
the rows i with the logits and projections of its new features. It is convex; Newton's method with
halved steps solves it (paper section 4: one first-order step; design: `plan_repair`). With all
directions of a convex model it is retraining; `completion` adds those that the stored ones lack.

Deviations from the formula of design.md, section 6:
1. g0, the gradient of the unedited problem at u = 0, is taken off. Where training stopped at the
   optimum it is 0; where it did not (a net), the step would answer "train on" and "the edits" at
   once, although nobody trains on without edits. So no edit means no move, exactly (the proximal
   Bregman objective of Bae et al. 2022 does the same).
2. The Hessian is formed anew only when a step made with the last one gains too little: from one
   prefix of edits to the next it hardly changes, and it is nine tenths of the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from pgrain import interrupts
from pgrain.models.softmax import softmax

_BLOCK = 4096                  # rows at a time: J of a block stays in the cache
_ENOUGH = 0.25                 # a step must shrink the gradient at least to this share


@dataclass(frozen=True)
class Added:
    """Rows that come in by an edit. J: (r, R, m) float32; logits: (r, R); labels: (r,) classes."""

    J: np.ndarray
    logits: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Moved:
    """u: (m,) float64; status: "converged" or a sentence; iterations: gradients formed."""

    u: np.ndarray
    status: str
    iterations: int


def logits_of(residual: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logits (n, R) float32, up to a constant a row, from stored p_z - e_y.

    The label's entry is p_y - 1, stored without cancellation; a p that float32 lost is taken for
    the least that it holds.
    """
    p = np.maximum(residual, np.float32(1e-45)).astype(np.float64)
    rows = np.arange(len(labels))
    out = np.log(p)
    out[rows, labels] = np.log1p(np.maximum(residual[rows, labels].astype(np.float64),
                                            -1 + 1e-45 + 2.0 ** -60))
    return out.astype(np.float32)


class GroupStep:
    """The training problem in the subspace; `solve` takes edits.

    Parameters
    ----------
    J : (n, R, m) float32
    logits : (n, R)
    labels : (n,) classes
    alpha : float
    theta : (m,) float64
        V^T theta*.
    """

    def __init__(self, J: np.ndarray, logits: np.ndarray, labels: np.ndarray, alpha: float,
                 theta: np.ndarray):
        self.J, self.logits = J, np.asarray(logits, np.float32)
        self.labels, self.alpha = np.asarray(labels), float(alpha)
        self.theta = np.asarray(theta, np.float64)
        self.n, self.R, self.m = J.shape
        self.weights = np.ones(self.n, np.float32)
        self.targets = self.labels.copy()
        self.added: Added | None = None
        self._factor = None
        self.base = np.zeros(self.m)
        self.base = self.gradient(np.zeros(self.m))[0]

    def edit(self, weights: np.ndarray, targets: np.ndarray, added: Added | None = None) -> None:
        """The edits in force from now on: (n,) 0 or 1, (n,) classes, rows that come in."""
        self.weights = np.asarray(weights, np.float32)
        self.targets, self.added = np.asarray(targets), added

    def extend(self, J: np.ndarray, theta: np.ndarray, J_added: np.ndarray | None = None) -> None:
        """Solve over more directions, orthonormal to those before: J (n, R, q) float32, theta (q,),
        J_added (r, R, q) of the rows that have come in."""
        self.J = np.concatenate([self.J, J], axis=2)
        self.theta = np.concatenate([self.theta, theta])
        self.m = self.J.shape[2]
        if self.added is not None:
            self.added = Added(np.concatenate([self.added.J, J_added], axis=2), self.added.logits,
                               self.added.labels)
        error = softmax32(self.logits)
        error[np.arange(self.n), self.labels] -= 1
        base = np.einsum("nr,nrq->q", error.astype(np.float64), J) + self.alpha * theta
        self.base, self._factor = np.concatenate([self.base, base]), None

    def solve(self, start: np.ndarray | None = None, *, tol: float = 1e-4, most: int = 60,
              check: Callable[[], None] = lambda: None) -> Moved:
        """The minimiser under the edits in force.

        start: (m,) to start from. tol: norm of the gradient to reach, in the norm of the inverse
        Hessian (how far u still is), relative to |u|. check() is called once a gradient and may
        raise.
        """
        u = np.zeros(self.m) if start is None else np.array(start, np.float64)
        g, p = self.gradient(u)
        done, fresh = 1, False
        if self._factor is None:
            self._factorise(p)
            fresh = True
        while done < most:
            check()
            step = -cho_solve(self._factor, g)
            decrement = float(-g @ step)
            if decrement <= 0 or np.linalg.norm(step) <= tol * max(np.linalg.norm(u), 1e-12):
                return Moved(u + step if decrement > 0 else u, "converged", done)
            scale = 1.0
            while True:
                trial, p_trial = self.gradient(u + scale * step)
                done += 1
                # Convex: while the slope along the step is still downhill, it was not too long.
                slope = float(trial @ step)
                if slope <= 0.5 * decrement or scale < 1e-4 or done >= most:
                    break
                scale /= 2
                check()
            size = float(g @ cho_solve(self._factor, g))
            u, g, p = u + scale * step, trial, p_trial
            left = float(g @ cho_solve(self._factor, g))
            if left > _ENOUGH ** 2 * size:
                if fresh and scale == 1.0 and left > size:
                    return Moved(u, "no further progress", done)
                self._factorise(p)
                fresh = True
            else:
                fresh = False
        return Moved(u, f"not converged after {most} gradients", done)

    def gradient(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(gradient (m,) float64, probabilities (n + r, R) float32) at u, of the rows that have
        come in last."""
        g, p = self.alpha * (self.theta + u) - self.base, []
        small = u.astype(np.float32)
        for J, logits, targets, weights in self._blocks():
            flat = J.reshape(-1, self.m)
            block = softmax32(logits + (flat @ small).reshape(-1, self.R))
            p.append(block)
            error = block.copy()
            rows = np.arange(len(block))
            error[rows, targets] = 0
            error[rows, targets] = -error.sum(axis=1)
            if weights is not None:
                error *= weights[:, None]
            g += error.reshape(-1) @ flat
        return g, np.concatenate(p)

    def probabilities(self, u: np.ndarray) -> np.ndarray:
        """(n + r, R) float32 at u."""
        return self.gradient(u)[1]

    def _blocks(self):
        """(J, logits, targets, weights or None for ones) of some rows at a time."""
        for at in range(0, self.n, _BLOCK):
            interrupts.check()
            part = slice(at, at + _BLOCK)
            yield self.J[part], self.logits[part], self.targets[part], self.weights[part]
        if self.added is not None and len(self.added.labels):
            yield self.added.J, self.added.logits, self.added.labels, None

    def _factorise(self, p: np.ndarray) -> None:
        """Cholesky factor of sum_j w_j J_j^T (diag p_j - p_j p_j^T) J_j + alpha I."""
        H, at = np.zeros((self.m, self.m)), 0
        for J, _, _, weights in self._blocks():
            q = p[at:at + len(J)]
            at += len(J)
            weights = np.ones(len(J), np.float32) if weights is None else weights
            w = q * weights[:, None]
            flat = J.reshape(-1, self.m)
            H += (flat * w.reshape(-1, 1)).T @ flat
            mean = np.matmul(q[:, None, :], J)[:, 0, :]
            H -= (mean * weights[:, None]).T @ mean
        H[np.diag_indices_from(H)] += self.alpha
        # Sums of float32 products are exact to about this; a smaller alpha does not keep the factor
        # positive. Only the steps are made with it: where they end is the gradient's to say.
        rounding = np.finfo(np.float32).eps * float(H.diagonal().max(initial=1.0))
        while True:
            try:
                self._factor = cho_factor(H, lower=True, check_finite=False)
                return
            except LinAlgError:
                if not rounding < H.diagonal().max():       # also where H is not finite
                    raise
                H[np.diag_indices_from(H)] += rounding
                rounding *= 16


def softmax32(logits: np.ndarray) -> np.ndarray:
    """(n, R) float32 probabilities; for sums over many rows, not for logs."""
    z = np.exp(logits - logits.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def moved_probabilities(logits: np.ndarray, J: np.ndarray, u: np.ndarray) -> np.ndarray:
    """softmax(logits + J u), (V, R) float64, of values that the model is applied to."""
    n, n_classes, m = J.shape
    return softmax(logits + (J.reshape(-1, m) @ u.astype(np.float32)).reshape(n, n_classes))
