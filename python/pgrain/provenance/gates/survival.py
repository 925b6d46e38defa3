"""Which term of an ordered list occurs first: the kernel of minima, maxima and DISTINCT ON.

Terms stand in order within their group; w_j = P(term j occurs and no earlier one does). Terms of
one block exclude each other, blocks are independent. With h_j the probability that j occurs given
that no earlier term does (q_j over what is left of its block), S the survival, and "-b" for the
group without block b,

    S_j = prod_(i < j) (1 - h_i)
    w_j = q_j G_j,                      G_j = S_-b(j) up to j
    R_j = h_(j+1) c_(j+1) + (1 - h_(j+1)) R_(j+1)      expected c of the first of those after j
    d(sum c w) / dq_j = G_j (c_j - R_-b(j))

Between two terms of a block, "with" and "without b" differ by a factor, so G and R_-b follow from S
and R by recurrences within each block. Nothing is divided by a survival: q = 0 and q = 1 are exact.
"""

from __future__ import annotations

import numpy as np

from pgrain.provenance.gates.kernels import heads, scan


class Survival:
    """Terms in order.

    Parameters
    ----------
    group : (J,) int, nondecreasing
    block : (J,) int
        Terms with the same number (all of one group) exclude each other.
    """

    def __init__(self, group: np.ndarray, block: np.ndarray):
        start = heads(group)
        self.start = start.astype(float)
        self.go = 1.0 - self.start                       # 0 where a group starts
        self.back = np.append(self.go[1:], 0.0) if len(start) else self.go
        order = np.argsort(block, kind="stable")
        first = heads(block[order])
        self.shared = not first.all()
        if self.shared:
            self.order = order
            self.block_go = 1.0 - first
            self.block_back = np.append(self.block_go[1:], 0.0)
            # Terms strictly between a term and the next of its block: (after, before].
            self.after, self.before = order[:-1], order[1:] - 1
            self.adjacent = ~first[1:]

    def forward(self, q: np.ndarray) -> tuple[np.ndarray, tuple]:
        """(J,) w, and what backward needs."""
        if not len(q):
            return q, ()
        h = np.minimum(self._hazard(q), 1.0) if self.shared else q
        stay = 1.0 - h
        S = scan(self.go * np.append(0.0, stay[:-1]), self.start)
        if not self.shared:
            return q * S, (h, S, None)
        zero = stay <= 0.0
        logs = scan(self.go, np.log(np.where(zero, 1.0, stay)))
        zeros = scan(self.go, zero.astype(float))
        after, before = self.after, self.before
        keep = self.adjacent & (zeros[before] == zeros[after])
        with np.errstate(over="ignore"):
            between = np.where(keep, np.exp(logs[before] - logs[after]), 0.0)
        own = scan(np.append(0.0, between), np.where(self.block_go > 0, 0.0, S[self.order]))
        G = np.empty(len(q))
        G[self.order] = own
        return q * G, (h, G, between)

    def _hazard(self, q):
        q = q[self.order]
        earlier = scan(self.block_go, self.block_go * np.append(0.0, q[:-1]))
        left = np.maximum(1.0 - earlier, 0.0)
        h = np.empty(len(q))
        h[self.order] = np.where(left > 0.0, q / np.where(left > 0.0, left, 1.0), 0.0)
        return h

    def backward(self, saved: tuple, c: np.ndarray) -> np.ndarray:
        """(J,) derivative of sum(c * w) with respect to q."""
        if not len(c):
            return c
        h, G, between = saved
        gain = np.append((h * c)[1:], 0.0) * self.back
        stay = np.append((1.0 - h)[1:], 0.0) * self.back
        R = scan(stay[::-1], gain[::-1])[::-1]
        if between is None:
            return G * (c - R)
        correction = (h * (R - c))[self.order]
        between = np.append(between, 0.0) * self.block_back
        D = scan(between[::-1], (between * np.append(correction[1:], 0.0))[::-1])[::-1]
        without = R.copy()
        without[self.order] += D
        return G * (c - without)
