"""Distributions of sums of independent integers, many groups at a time.

The Poisson-binomial distribution and its generalisation to integer weights (Wang, "On the number
of successes in independent trials", Statistica Sinica 1993; Hong, "On computing the distribution
function for the Poisson binomial distribution", CSDA 2013), by direct convolution in a balanced
tree: all terms are positive, so that also tails of 1e-200 keep their digits, which a Fourier
transform would lose. Values above a group's cap are added up in its last bin: who asks for
P(S > 3) of a million terms pays for five bins.

Nodes of equal width (rounded up to a few widths) are convolved together, one column a node.
"""

from __future__ import annotations

import numpy as np

from pgrain.interrupts import check
from pgrain.provenance.gates.kernels import heads

_WIDE = 96                # from here one np.convolve a pair is faster than a step a bin
_CHUNK = 1 << 15          # floats that a step works on, to stay in the cache

WIDTHS = np.unique(np.concatenate([[1]] + [[(1 << k) + 1, 3 * (1 << k) // 2 + 1]
                                           for k in range(22)]))


class Lattice:
    """Sums of independent leaves by group.

    Parameters
    ----------
    group : (B,) int
        Group of each leaf, nondecreasing; every group in [0, n) has one at least.
    width : (B,) int
        A leaf's values are 0 … width - 1, at most the group's cap.
    cap : (n,) int
        Sums of `cap` and more share the group's last bin.

    Values of leaves are one flat array; bin r of leaf b stands at `first[b] + r * stride[b]`.
    Those of the results likewise: bin r of group g at `root_first[g] + r * root_stride[g]`, for
    r < root_width[g].
    """

    def __init__(self, group: np.ndarray, width: np.ndarray, cap: np.ndarray):
        n = len(cap)
        nodes, self.shapes, column = _pack(WIDTHS[np.searchsorted(WIDTHS, width)])
        self.first, self.stride = nodes[0] + column, nodes[1]
        self.size = sum(w * count for w, count in self.shapes)
        self.levels: list[_Level] = []
        part, column = nodes[2], column
        while len(group) > n:
            level = _Level(group, width, cap, part, column)
            self.levels.append(level)
            group, width, part, column = level.group, level.width, level.part, level.column
        self.root_shapes = self.levels[-1].shapes if self.levels else self.shapes
        base = np.cumsum([0] + [w * count for w, count in self.root_shapes])
        self.root_size = int(base[-1])
        self.root_width = width
        self.root_stride = np.array([count for _, count in self.root_shapes], np.int64)[part]
        self.root_first = base[part] + column

    def forward(self, leaves: np.ndarray) -> tuple[np.ndarray, list]:
        """(root_size,) distributions of the sums, from those of the leaves (size,); and saved."""
        parts, saved = _cut(leaves, self.shapes), []
        for level in self.levels:
            saved.append(parts)
            parts = level.forward(parts)
        return _join(parts), saved

    def backward(self, saved: list, d: np.ndarray) -> np.ndarray:
        """(size,) gradient with respect to the leaves, given that to the result."""
        parts = _cut(d, self.root_shapes)
        for level, inputs in zip(reversed(self.levels), reversed(saved), strict=True):
            parts = level.backward(inputs, parts)
        return _join(parts)


def _pack(bucket):
    """Nodes in parts of one width: ((base, stride, part) by node, [(width, count)], column)."""
    widths, part = np.unique(bucket, return_inverse=True)
    counts = np.bincount(part, minlength=len(widths))
    order = np.argsort(part, kind="stable")
    column = np.empty(len(part), np.int64)
    column[order] = np.arange(len(part)) - np.repeat(np.cumsum(counts) - counts, counts)
    base = np.cumsum(widths * counts) - widths * counts
    return ((base[part], counts[part], part),
            list(zip(widths.tolist(), counts.tolist(), strict=True)), column)


def _cut(flat, shapes):
    parts, at = [], 0
    for width, count in shapes:
        parts.append(flat[at:at + width * count].reshape(width, count))
        at += width * count
    return parts


def _join(parts):
    return np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0)


class _Level:
    """Nodes of a group are summed in pairs, narrow ones first; an odd one is handed on."""

    def __init__(self, group, width, cap, part, column):
        order = np.lexsort((width, group))
        group, width, part, column = group[order], width[order], part[order], column[order]
        new = heads(group)
        starts = np.flatnonzero(new)
        counts = np.diff(np.append(starts, len(group)))
        place = np.arange(len(group)) - np.repeat(starts, counts)
        paired = place < np.repeat(counts - counts % 2, counts)
        a = np.flatnonzero(paired & (place % 2 == 0))
        b, odd = a + 1, np.flatnonzero(~paired)
        full = width[a] + width[b] - 1
        last = cap[group[a]]
        out = np.minimum(full, last + 1)
        fold = full > last + 1
        # Batches of pairs with equal parts and results; then the parts of the result.
        bucket = np.concatenate([np.searchsorted(WIDTHS, out), np.searchsorted(WIDTHS, width[odd])])
        key = ((part[a] * 64 + part[b]) * 64 + bucket[:len(a)]) * 2 + fold
        by_key = np.lexsort((key, bucket[:len(a)]))
        self.steps, self.shapes = [], []
        node_part = np.empty(len(bucket), np.int64)
        node_column = np.empty(len(bucket), np.int64)
        bounds = np.append(np.flatnonzero(heads(key[by_key])), len(a))
        batches = [by_key[bounds[i]:bounds[i + 1]] for i in range(len(bounds) - 1)]
        handed = np.lexsort((part[odd], bucket[len(a):]))
        for number, value in enumerate(np.unique(bucket)):
            size, at = int(WIDTHS[value]), 0
            for pairs in batches:
                if bucket[pairs[0]] != value:
                    continue
                first, second = a[pairs], b[pairs]
                self.steps.append(_Pairs(number, at, part[first[0]], part[second[0]],
                                         column[first], column[second],
                                         last[pairs] if fold[pairs[0]] else None))
                node_part[pairs], node_column[pairs] = number, at + np.arange(len(pairs))
                at += len(pairs)
            same = handed[bucket[len(a) + handed] == value]
            for source in np.unique(part[odd[same]]):
                those = same[part[odd[same]] == source]
                self.steps.append(_Pass(number, at, source, column[odd[those]]))
                node_part[len(a) + those] = number
                node_column[len(a) + those] = at + np.arange(len(those))
                at += len(those)
            self.shapes.append((size, at))
        group = np.concatenate([group[a], group[odd]])
        order = np.argsort(group, kind="stable")
        self.group, self.width = group[order], np.concatenate([out, width[odd]])[order]
        self.part, self.column = node_part[order], node_column[order]

    def forward(self, parts):
        results = [np.zeros(shape) for shape in self.shapes]
        for step in self.steps:
            check()
            step.forward(parts, results)
        return results

    def backward(self, parts, d):
        results = [np.zeros_like(part) for part in parts]
        for step in self.steps:
            check()
            step.backward(parts, d, results)
        return results


class _Pass:
    """Nodes that are handed on."""

    def __init__(self, to, at, source, columns):
        self.to, self.here, self.source, self.columns = to, slice(at, at + len(columns)), source, \
            columns

    def forward(self, parts, results):
        source = parts[self.source]
        results[self.to][:len(source), self.here] = source[:, self.columns]

    def backward(self, parts, d, results):
        out = results[self.source]
        out[:, self.columns] = d[self.to][:len(out), self.here]


class _Pairs:
    """The sums of pairs of nodes, all first ones of one part and all second ones of another."""

    def __init__(self, to, at, first, second, columns_first, columns_second, last):
        self.to, self.here = to, slice(at, at + len(columns_first))
        self.first, self.second = first, second
        self.columns = columns_first, columns_second
        self.last = last                            # the bin that all above are added to, or None
        self.low = None if last is None else int(last.min()) + 1

    def _inputs(self, parts):
        x = parts[self.first][:, self.columns[0]]
        y = parts[self.second][:, self.columns[1]]
        return x, y

    def forward(self, parts, results):
        x, y = self._inputs(parts)
        full = _convolve(x, y)
        result = results[self.to]
        size = min(len(full), len(result))
        result[:size, self.here] = full[:size]
        if self.last is not None:
            columns = np.arange(self.here.start, self.here.stop)
            result[self.last, columns] += self._above(full).sum(axis=0)
            inside = result[self.low:, self.here]
            inside[np.arange(self.low, len(result))[:, None] > self.last] = 0.0

    def _above(self, full):
        """What stands above each column's last bin, from bin `low` on."""
        rows = np.arange(self.low, len(full))[:, None]
        return np.where(rows > self.last, full[self.low:], 0.0)

    def backward(self, parts, d, results):
        x, y = self._inputs(parts)
        g = np.zeros((len(x) + len(y) - 1, x.shape[1]))
        of_result = d[self.to][:, self.here]
        size = min(len(g), len(of_result))
        g[:size] = of_result[:size]
        if self.last is not None:
            ends = g[self.last, np.arange(g.shape[1])]
            above = np.arange(self.low, len(g))[:, None] > self.last
            g[self.low:] = np.where(above, ends, g[self.low:])
        dx, dy = _correlate(g, x, y)
        results[self.first][:, self.columns[0]] = dx
        results[self.second][:, self.columns[1]] = dy


def _convolve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(a + b - 1, n) convolution of the columns of x (a, n) and y (b, n)."""
    if len(x) > len(y):
        x, y = y, x
    n, width = x.shape[1], len(y)
    if len(x) >= _WIDE:
        out = np.empty((n, len(x) + width - 1))
        x, y = np.ascontiguousarray(x.T), np.ascontiguousarray(y.T)
        for row in range(n):
            out[row] = np.convolve(y[row], x[row])
        return out.T
    out = np.zeros((len(x) + width - 1, n))
    step = max(1, _CHUNK // width)
    product = np.empty((width, min(step, n)))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        part, ys = out[:, rows], y[:, rows]
        buffer = product[:, :ys.shape[1]]
        for i in range(len(x)):
            np.multiply(x[i, rows], ys, out=buffer)
            part[i:i + width] += buffer
    return out


def _correlate(g: np.ndarray, x: np.ndarray, y: np.ndarray):
    """(dx, dy) of sum(g * convolve(x, y))."""
    if len(x) > len(y):
        dy, dx = _correlate(g, y, x)
        return dx, dy
    n, width = x.shape[1], len(y)
    if len(x) >= _WIDE:
        g, x, y = (np.ascontiguousarray(values.T) for values in (g, x, y))
        dx, dy = np.empty_like(x), np.empty_like(y)
        for row in range(n):
            dx[row] = np.correlate(g[row], y[row], "valid")
            dy[row] = np.correlate(g[row], x[row], "valid")
        return dx.T, dy.T
    dx, dy = np.empty_like(x), np.zeros_like(y)
    step = max(1, _CHUNK // width)
    product = np.empty((width, min(step, n)))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        gs, ys, part = g[:, rows], y[:, rows], dy[:, rows]
        buffer = product[:, :ys.shape[1]]
        for i in range(len(x)):
            np.multiply(gs[i:i + width], ys, out=buffer)
            buffer.sum(axis=0, out=dx[i, rows])
            np.multiply(x[i, rows], gs[i:i + width], out=buffer)
            part += buffer
    return dx, dy
