"""Sums over segments: the few array kernels that the gates are made of, forward and reverse."""

from __future__ import annotations

import numpy as np

_CHUNK = 1 << 21          # floats of an outer product that are held at a time
_LOOP = 64                # up to so many segments a matrix product each is faster


class Segments:
    """`n` segments of the rows numbered by `index`; rows need not be sorted."""

    def __init__(self, index: np.ndarray, n: int):
        self.index, self.n = index, n
        self.order = None
        if len(index) and (index[1:] < index[:-1]).any():
            self.order = np.argsort(index, kind="stable")
            index = index[self.order]
        self.starts = np.flatnonzero(np.concatenate(([True], index[1:] != index[:-1]))) \
            if len(index) else np.zeros(0, np.int64)
        self.targets = index[self.starts]
        self.single = len(self.starts) == len(index)      # no segment has two rows

    def sum(self, rows: np.ndarray) -> np.ndarray:
        """(n, k) sums of `rows` (N, k) by segment."""
        out = np.zeros((self.n, *rows.shape[1:]))
        if len(rows) == 0:
            return out
        if self.single:
            out[self.index] = rows
            return out
        if self.order is not None:
            rows = rows[self.order]
        out[self.targets] = np.add.reduceat(rows, self.starts, axis=0)
        return out


class OuterSum:
    """S[q] = sum over the rows of segment q of the outer product x_i y_i^T."""

    def __init__(self, index: np.ndarray, n: int):
        self.order = None
        if len(index) and (index[1:] < index[:-1]).any():
            self.order = np.argsort(index, kind="stable")
            index = index[self.order]
        self.index, self.n = index, n
        self.segments = Segments(index, n)
        self.bounds = np.append(self.segments.starts, len(index))

    def forward(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n, R, R) of x, y (N, R)."""
        if self.order is not None:
            x, y = x[self.order], y[self.order]
        out = np.zeros((self.n, x.shape[1], y.shape[1]))
        targets, bounds = self.segments.targets, self.bounds
        if len(targets) <= _LOOP:
            for number, q in enumerate(targets):
                rows = slice(bounds[number], bounds[number + 1])
                out[q] = x[rows].T @ y[rows]
            return out
        step = max(1, _CHUNK // (x.shape[1] * y.shape[1]))
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            part = Segments(self.index[rows], self.n)
            products = x[rows, :, None] * y[rows, None, :]
            out[part.targets] += np.add.reduceat(products, part.starts, axis=0)
        return out

    def backward(self, gradient: np.ndarray, x: np.ndarray, y: np.ndarray):
        """(d/dx, d/dy) of sum(gradient * S), `gradient` (n, R, R)."""
        if self.order is not None:
            x, y = x[self.order], y[self.order]
        dx, dy = np.empty_like(x), np.empty_like(y)
        targets, bounds = self.segments.targets, self.bounds
        if len(targets) <= _LOOP:
            for number, q in enumerate(targets):
                rows = slice(bounds[number], bounds[number + 1])
                dx[rows] = y[rows] @ gradient[q].T
                dy[rows] = x[rows] @ gradient[q]
        else:
            step = max(1, _CHUNK // (x.shape[1] * y.shape[1]))
            for start in range(0, len(x), step):
                rows = slice(start, start + step)
                g = gradient[self.index[rows]]
                dx[rows] = np.einsum("nab,nb->na", g, y[rows])
                dy[rows] = np.einsum("nab,na->nb", g, x[rows])
        if self.order is not None:
            dx_, dy_ = np.empty_like(dx), np.empty_like(dy)
            dx_[self.order], dy_[self.order] = dx, dy
            return dx_, dy_
        return dx, dy
