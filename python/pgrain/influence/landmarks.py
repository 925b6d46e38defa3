"""What a training row is like, apart from its label: a cluster, the class that it resembles.

For `pgrain.describe`, which says in words what suspects have in common.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.cluster.vq import kmeans2, vq

CLUSTERS = 12
SAMPLE = 20_000
PER_CLASS = 1000
DIRECTIONS = 16
REFINEMENTS = 2


def clusters(parts: Iterable[np.ndarray], seed: int = 0) -> np.ndarray:
    """(N,) int16: k-means over the rows' Jacobians along the eigenvectors, what each can do to the
    model. parts: N rows in all, in arrays (n, R, m) float32, of which one is held at a time.
    Numbers are arbitrary, equal for equal arrays and seeds."""
    rng = np.random.default_rng(seed)
    seen, directions = [], None
    for J in parts:
        flat = J.reshape(len(J), -1)
        if directions is None:
            directions, _ = np.linalg.qr(rng.standard_normal(
                (flat.shape[1], min(DIRECTIONS, flat.shape[1]))))
            directions = directions.astype(np.float32)
        seen.append(flat @ directions)
    points = np.concatenate(seen).astype(np.float64)
    n = len(points)
    spread = points.std(axis=0)
    points /= np.where(spread > 0, spread, 1)
    sample = points[rng.choice(n, SAMPLE, replace=False)] if n > SAMPLE else points
    k = min(CLUSTERS, len(np.unique(sample, axis=0)))
    centres, _ = kmeans2(sample, k, minit="++", rng=np.random.default_rng(seed))
    return vq(points, centres)[0].astype(np.int16)


def resembles(X: np.ndarray, y: np.ndarray, n_classes: int, seed: int = 0) -> np.ndarray:
    """(N,) int16: the class whose typical row points in the same direction; -1 for a row of zeros.

    Rows are taken at length one (brightness is a factor of a picture) and less their mean. The
    typical row of a class is the median of its rows; then, twice, of those of its rows that it
    resembles most, so that a wrongly labelled minority does not move it. X: (N, ...) encoded rows;
    y: (N,) classes.
    """
    n = len(y)
    rng = np.random.default_rng(seed)
    flat = X.reshape(n, -1)
    rows = {label: np.flatnonzero(y == label) for label in range(n_classes)}
    rows = {label: np.sort(rng.choice(found, PER_CLASS, replace=False)) if len(found) > PER_CLASS
            else found for label, found in rows.items() if len(found)}
    sample = np.concatenate(list(rows.values()))
    mean = _unit(flat[sample]).mean(axis=0)
    points = {label: _unit(flat[found]) - mean for label, found in rows.items()}
    typical = np.zeros((n_classes, flat.shape[1]))
    for label, own in points.items():
        typical[label] = np.median(own, axis=0)
    for _ in range(REFINEMENTS):
        directions = _unit(typical).T
        for label, own in points.items():
            agree = (own @ directions).argmax(axis=1) == label
            if agree.any():
                typical[label] = np.median(own[agree], axis=0)
    directions = _unit(typical).T.astype(np.float32)
    out = np.empty(n, np.int16)
    for at in range(0, n, 4096):
        part = _unit(flat[at:at + 4096])
        likeness = (part - mean).astype(np.float32) @ directions
        likeness[:, [label not in rows for label in range(n_classes)]] = -np.inf
        out[at:at + 4096] = np.where(part.any(axis=1), likeness.argmax(axis=1), -1)
    return out


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
