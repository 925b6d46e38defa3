"""Logits and probabilities of rows."""

from __future__ import annotations

import functools

import jax
import numpy as np

from pgrain.models.batches import fitting, pad, padded
from pgrain.models.registry import Model
from pgrain.models.softmax import softmax


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Model, theta: jax.Array, X: jax.Array) -> jax.Array:
    return model.logits(theta, X)


def predict_proba(model: Model, theta, X: np.ndarray,
                  batch: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, R) float32 and probabilities (N, R) float32, the softmax taken in float64.

    X: (N, *input_shape) uint8 or float32. batch: rows at a time; by default what fits in memory.
    """
    batch = batch or fitting(model.row_floats)
    logits = np.empty((len(X), model.n_classes), np.float32)
    for rows, size in padded(len(X), batch):
        out = np.asarray(_logits(model, theta, pad(X[rows], size)))
        logits[rows] = out[: rows.stop - rows.start]
    return logits, softmax(logits).astype(np.float32)
