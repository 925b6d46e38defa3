"""Conditions on a probability that the query itself reads: predict_proba(…)[2] > 0.8."""

from __future__ import annotations

import numpy as np

from pgrain.provenance.gates.network import Gradient, Layer, State, three_edges


class ProbaStep(Layer):
    """P[out + 3 i + (0, 1, 2)] = false, true, null of: p op t, with p = P[index[i]].

    On classes the indicator: p is what the model says, and does not change with them. Relaxed, the
    probability of "true" under a prior that makes the threshold even,

        p (1 - t) / (p (1 - t) + t (1 - p))     for > and >=, one minus that for < and <=

    which rises from 0 to 1, is 1/2 at p = t, and p itself for t = 1/2: with two classes the
    condition is then the prediction. For t <= 0 and t >= 1 no p moves it: the indicator.

    Parameters
    ----------
    out : int
    index : (n,) int
        Literals.
    threshold : (n,) float
        NaN: the result is null.
    operator : > >= < <=
    """

    three = True

    def __init__(self, out: int, index: np.ndarray, threshold: np.ndarray, operator: str):
        self.out, self.index = out, np.asarray(index, np.int64)
        self.t = np.broadcast_to(np.asarray(threshold, np.float64), self.index.shape)
        self.operator, self.n = operator, len(self.index)
        if operator not in (">", ">=", "<", "<="):
            raise ValueError(f"no such comparison: {operator}")
        self.null = np.isnan(self.t)
        self.inner = (self.t > 0.0) & (self.t < 1.0)
        self.n_literals = 3 * self.n

    def forward(self, state: State) -> None:
        p = state.P[self.index]
        holds = {">": p > self.t, ">=": p >= self.t, "<": p < self.t, "<=": p <= self.t}
        true = holds[self.operator].astype(float)
        false = 1.0 - true
        if not state.hard:
            above, below = self._sides(p)
            if self.operator[0] == "<":
                above, below = below, above
            true, false = np.where(self.inner, above, true), np.where(self.inner, below, false)
        out = state.P[self.out:self.out + 3 * self.n].reshape(self.n, 3)
        out[:, 0], out[:, 1] = np.where(self.null, 0.0, false), np.where(self.null, 0.0, true)
        out[:, 2] = self.null

    def _sides(self, p):
        t = np.where(self.inner, self.t, 0.5)
        up, down = p * (1.0 - t), t * (1.0 - p)
        return up / (up + down), down / (up + down)

    def backward(self, state: State, grad: Gradient) -> None:
        d = grad.P[self.out:self.out + 3 * self.n].reshape(self.n, 3)
        p, t = state.P[self.index], np.where(self.inner, self.t, 0.5)
        slope = t * (1.0 - t) / (p * (1.0 - t) + t * (1.0 - p)) ** 2
        slope = np.where(self.inner, slope, 0.0)
        sign = 1.0 if self.operator[0] == ">" else -1.0
        np.add.at(grad.P, self.index, sign * slope * (d[:, 1] - d[:, 0]))

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        return three_edges(self.out, self.n, np.arange(self.n), self.index)
