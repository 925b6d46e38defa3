"""What influence is compared with. Each gives changes of q or suspicion a training row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pgrain.influence.projections import project, training_projection
from pgrain.influence.scores import bounded
from pgrain.models.registry import Model
from pgrain.models.softmax import log_softmax, residual


def gradient_dot(model: Model, theta, X: np.ndarray, y: np.ndarray, gradient: np.ndarray, *,
                 batch: int | None = None,
                 progress: Callable[[int, int, str], None] | None = None) -> np.ndarray:
    """<grad q, grad l_z>: the change of q on removal if the Hessian were I; (N,) float64.

    gradient: (d,) grad q (`gradient.objective_gradient`). One forward tangent a row instead of one
    gradient a row. With gradient = H^-1 grad q (`conjugate_gradient`) it is Rain's score: removing
    z changes q by +<H^-1 grad q, grad l_z>. X: (N, ...), y: (N,) classes.
    """
    # A unit tangent keeps float32 from under- or overflowing.
    gradient, exponent = bounded(gradient)
    size = float(np.linalg.norm(gradient)) or 1.0
    direction = (gradient / size).astype(np.float32)[:, None]
    logits, J = project(model, theta, X, direction, batch=batch, progress=progress)
    change = training_projection(J, residual(None, np.asarray(y), logits))[:, 0]
    return np.ldexp(change.astype(np.float64) * size, exponent)


def losses(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """-log p_y a row, (N,) float32: suspicious where the model disagrees with the label."""
    return -log_softmax(logits)[np.arange(len(y)), y].astype(np.float32)


def unlabelled(p: np.ndarray, y: np.ndarray, target: int) -> np.ndarray:
    """The rule "label is not `target`, sort by p(target)": (N,) float32; rows of it get -1."""
    return np.where(np.asarray(y) == target, -1.0, p[:, target]).astype(np.float32)
