"""Probabilities from logits, in float64: float32 would round a confident p to 1."""

from __future__ import annotations

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, R) logits of any float type -> (N, R) probabilities float64."""
    z = np.asarray(logits, np.float64)
    z = np.exp(z - z.max(axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(N, R) logits of any float type -> log probabilities float64, finite for finite logits."""
    z = np.asarray(logits, np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def residual(p: np.ndarray, y: np.ndarray, logits: np.ndarray | None = None) -> np.ndarray:
    """p_z - e_y, the gradient of the loss with respect to the logits: (N, R) float32.

    p: (N, R); y: (N,) class numbers. Pass float64 p, or `logits`: then the entry at the label,
    p_y - 1, is computed as minus the sum of the others, which does not cancel where p_y is near 1.
    """
    p = softmax(logits) if logits is not None else np.asarray(p, np.float64)
    rows = np.arange(len(p))
    out = p.copy()
    out[rows, y] = 0
    out[rows, y] = -out.sum(axis=1)
    return out.astype(np.float32)
