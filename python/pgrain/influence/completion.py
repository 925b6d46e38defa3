"""Directions that the stored eigenvectors lack, for the edits at hand.

The leading eigenvectors are where the Hessian is stiff *without* the edits. Rows that get a label
which nothing else supports pull elsewhere too: retraining fits them along directions of their own
and moves the stored ones less than the group step says. (Logistic regression, 200 rows relabelled,
30 pairs: a count of 226 after retraining was predicted as 329, with 300 pairs as 262.) So the
gradient of the edited problem that is left over at the group step's solution, outside the subspace,
becomes one more direction, and the step is solved again: each is the Krylov direction of
conjugate gradient, with an exact minimum over all directions so far (Davidson's method). Four to
eight are enough where the stored ones hold the stiff part.

One direction costs a reverse and a forward pass over the training rows and a forward pass over the
queried ones, which is about two epochs of training. For nets the logits stay linear in theta.
"""

from __future__ import annotations

import numpy as np

from pgrain.influence.gradient import reverse_pass
from pgrain.influence.group_step import Added, GroupStep
from pgrain.influence.projections import project
from pgrain.models.registry import Model


class Completion:
    """The directions found so far; they serve all prefixes of a ranking.

    Parameters
    ----------
    model, theta : Model, (d,)
    V : (d, m) float32
        The stored eigenvectors.
    step : GroupStep
        In V; extended here.
    X : (n', ...)
        Encoded features of those of its rows that can be had.
    rows : (n',)
        Which of its rows they are. The others do not feel the new directions.
    queried : (V, ...)
        Encoded features of the values that the model is applied to.
    J : (V, R, m) float32
        Their projections; extended here.
    """

    def __init__(self, model: Model, theta: np.ndarray, V: np.ndarray, step: GroupStep,
                 X: np.ndarray, rows: np.ndarray, queried: np.ndarray, J: np.ndarray):
        self.model, self.theta, self.step = model, np.asarray(theta, np.float32), step
        self.basis = np.asarray(V, np.float64)
        self.X, self.rows, self.queried, self.J = X, np.asarray(rows), queried, J
        self.X_added: np.ndarray | None = None
        self.stored = V.shape[1]
        step.edit(np.ones(step.n), step.labels)
        self._base = np.zeros(len(theta))
        self._base = self._gradient(np.zeros(step.m))

    @property
    def count(self) -> int:
        """How many directions there are beside the stored ones."""
        return self.basis.shape[1] - self.stored

    def edit(self, weights: np.ndarray, targets: np.ndarray, added: Added | None = None,
             X_added: np.ndarray | None = None) -> None:
        """As `GroupStep.edit`. added.J may hold the stored directions alone; X_added are the
        features of these rows."""
        self.X_added = X_added
        if added is not None and added.J.shape[2] < self.step.m:
            more = project(self.model, self.theta, X_added, self.basis[:, added.J.shape[2]:])[1]
            added = Added(np.concatenate([added.J, more], axis=2), added.logits, added.labels)
        self.step.edit(weights, targets, added)

    def extend(self, u: np.ndarray) -> bool:
        """Add the direction of what is left over at u, (m,); False if nothing is."""
        left = self._gradient(u)
        size = np.linalg.norm(left)
        for _ in range(2):                       # twice: once leaves rounding errors
            left -= self.basis @ (self.basis.T @ left)
        rest = np.linalg.norm(left)
        if rest <= 1e-6 * max(size, np.linalg.norm(self._base), 1e-12):
            return False
        direction = left / rest
        self.basis = np.concatenate([self.basis, direction[:, None]], axis=1)
        V = direction[:, None]
        J = np.zeros((self.step.n, self.step.R, 1), np.float32)
        J[self.rows] = project(self.model, self.theta, self.X, V)[1]
        J_added = None
        if self.step.added is not None:
            J_added = project(self.model, self.theta, self.X_added, V)[1]
        self.step.extend(J, np.array([direction @ self.theta]), J_added)
        self.J = np.concatenate([self.J, project(self.model, self.theta, self.queried, V)[1]],
                                axis=2)
        return True

    def _gradient(self, u: np.ndarray) -> np.ndarray:
        """The edited problem's gradient in all directions at theta* + basis u: (d,) float64."""
        step = self.step
        error = step.probabilities(u).astype(np.float64)
        targets = step.targets if step.added is None else np.concatenate(
            [step.targets, step.added.labels])
        error[np.arange(len(error)), targets] -= 1
        g = step.alpha * (self.theta.astype(np.float64) + self.basis @ u) - self._base
        g += reverse_pass(self.model, self.theta, self.X,
                          error[self.rows] * step.weights[self.rows, None])
        if step.added is not None:
            g += reverse_pass(self.model, self.theta, self.X_added, error[step.n:])
        return g
