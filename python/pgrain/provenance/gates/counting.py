"""How many terms of an ordered list have occurred so far: the kernel of LIMIT and OFFSET.

For independent terms in order, alpha_j(s) = P(s of those before j occur), s < `states`:

    alpha_(j+1)(s) = (1 - p_j) alpha_j(s) + p_j alpha_j(s - 1)

Chunks of terms are laid out as rows of about the square root of their number; all rows advance
together, once from a start of their own and once more from what the rows before hand on, which is
the product of polynomials of degree < `states`. Backward recomputes a chunk from its start.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from pgrain.interrupts import check

_FLOATS = 1 << 21         # of a chunk's alpha
_NOTHING = 1e-250         # a start below is none: all later terms are beyond the limit


class Counting:
    """Weights of counts before each term: c_j = sum of alpha_j over a window of counts.

    Parameters
    ----------
    start : (J,) bool
        Where a list begins.
    states : int
        Counts that matter; without `top` larger ones are forgotten, with `top` the last one holds
        all from there on.
    first : int
        The window is [first, states).
    """

    def __init__(self, start: np.ndarray, states: int, first: int, top: bool):
        self.start, self.states, self.first, self.top = start, states, first, top
        size = max(1024, _FLOATS // states)
        self.chunks = [slice(at, min(at + size, len(start))) for at in range(0, len(start), size)]

    def forward(self, p: np.ndarray) -> tuple[np.ndarray, list]:
        """(J,) c, and each chunk's start (None: nothing to do)."""
        c, carry, saved = np.zeros(len(p)), np.zeros(self.states), []
        for chunk in self.chunks:
            check()
            if carry.sum() < _NOTHING and not self.start[chunk].any():
                saved.append(None)
                continue
            saved.append(carry)
            rows = _Rows(self, p[chunk], self.start[chunk])
            c[chunk], carry = rows.counts(carry)
        return c, saved

    def backward(self, p: np.ndarray, saved: list, d: np.ndarray) -> np.ndarray:
        """(J,) derivative of sum(d * c) with respect to p."""
        result, carry = np.zeros(len(p)), np.zeros(self.states)
        for chunk, before in zip(reversed(self.chunks), reversed(saved), strict=True):
            check()
            if before is None:
                carry = np.zeros(self.states)
                continue
            rows = _Rows(self, p[chunk], self.start[chunk])
            result[chunk], carry = rows.slopes(before, d[chunk], carry)
        return result


class _Rows:
    """One chunk, (width, rows): term (i, r) is number r * width + i."""

    def __init__(self, counting, p, start):
        self.n, self.top, self.first = len(p), counting.top, counting.first
        self.width = max(1, isqrt(self.n))
        self.rows = -(-self.n // self.width)
        self.p, self.start = self._lay(p), self._lay(start)
        self.states = counting.states
        self.fresh = self.start.any(axis=0)

    def _lay(self, values):
        padded = np.zeros(self.width * self.rows, values.dtype)
        padded[:self.n] = values
        return np.ascontiguousarray(padded.reshape(self.rows, self.width).T)

    def _flat(self, values):
        return values.T.ravel()[:self.n]

    def _advance(self, alpha, i):
        """alpha (states, rows) past term i of each row."""
        p = self.p[i]
        moved = alpha * p
        alpha = alpha - moved
        alpha[1:] += moved[:-1]
        if self.top:
            alpha[-1] += moved[-1]
        return alpha

    def _begin(self, alpha, i):
        here = self.start[i]
        if here.any():
            alpha[:, here] = 0.0
            alpha[0, here] = 1.0
        return alpha

    def _carries(self, carry):
        """(states, rows) alpha before each row, alpha after the last, each row's own (kept)."""
        alpha = np.zeros((self.states, self.rows))
        alpha[0] = 1.0
        for i in range(self.width):
            alpha = self._advance(self._begin(alpha, i), i)
        before = np.empty_like(alpha)
        for row in range(self.rows):
            before[:, row] = carry
            carry = alpha[:, row] if self.fresh[row] else self._convolved(alpha[:, row], carry)
        self.own = alpha
        return before, carry

    def _convolved(self, a, b):
        full = np.convolve(a, b)
        result = full[:self.states].copy()
        if self.top:
            result[-1] += full[self.states:].sum()
        return result

    def counts(self, carry):
        alpha, last = self._carries(carry)
        c = np.empty((self.width, self.rows))
        for i in range(self.width):
            alpha = self._begin(alpha, i)
            c[i] = alpha[self.first:].sum(axis=0)
            alpha = self._advance(alpha, i)
        return self._flat(c), last

    def _recede(self, beta, i, d):
        """beta after term i of each row -> before it, with d * c_i added; 0 before a start."""
        p = self.p[i]
        shifted = self._next(beta)
        beta = beta * (1.0 - p) + shifted * p
        beta[self.first:] += d[i]
        beta[:, self.start[i]] = 0.0
        return beta

    def _next(self, beta):
        """beta(s + 1)."""
        shifted = np.empty_like(beta)
        shifted[:-1] = beta[1:]
        shifted[-1] = beta[-1] if self.top else 0.0
        return shifted

    def slopes(self, before, d, carry):
        alpha, _ = self._carries(before)
        d = self._lay(d)
        kept = np.empty((self.width, self.states, self.rows))
        for i in range(self.width):
            alpha = self._begin(alpha, i)
            kept[i] = alpha
            alpha = self._advance(alpha, i)
        local = np.zeros((self.states, self.rows))
        for i in reversed(range(self.width)):
            local = self._recede(local, i, d)
        beta = np.empty_like(local)
        for row in reversed(range(self.rows)):
            beta[:, row] = carry
            carry = local[:, row].copy()
            if not self.fresh[row]:
                carry += self._correlated(self.own[:, row], beta[:, row])
        result = np.empty((self.width, self.rows))
        for i in reversed(range(self.width)):
            result[i] = (kept[i] * (self._next(beta) - beta)).sum(axis=0)
            beta = self._recede(beta, i, d)
        return self._flat(result), carry

    def _correlated(self, own, beta):
        """sum over k of own(k) beta(s + k)."""
        end = beta[-1] if self.top else 0.0
        return np.correlate(np.append(beta, np.full(self.states - 1, end)), own, "valid")
