"""min and max over terms that may or may not occur."""

from __future__ import annotations

import numpy as np

from pgrain.provenance.gates.blocks import Blocks, Owners, as_rows
from pgrain.provenance.gates.network import Gradient, Layer, State
from pgrain.provenance.gates.survival import Survival

_LARGEST = 1e300          # of a slope: given an event of probability 1e-300, slopes are that steep


class Extreme(Layer):
    """X = E[least (largest) value | some term occurs], K = P(some term occurs).

    Exact for terms that mention the same set of variables or none in common (one literal a term:
    always); otherwise such sets count as independent.

    Parameters
    ----------
    out, n : int
    kind : "min" or "max"
    target : (J,) int
    literals : (J, L) or (J,) int
        The term occurs if all hold; 0 pads.
    value : (J,) float
    power : int, optional
        2: the expectation of the extreme's square.
    """

    def __init__(self, out: int, n: int, kind: str, target: np.ndarray, literals: np.ndarray,
                 value: np.ndarray, power: int = 1):
        self.out, self.n, self.kind = out, n, kind
        self.target, self.literals = np.asarray(target, np.int64), as_rows(literals)
        self.value = np.asarray(value, np.float64)
        self.n_numbers, self.power = n, power

    def prepare(self, owners: np.ndarray | Owners) -> None:
        owners = Owners.of(owners)
        self._n_p = owners.n_p
        blocks = Blocks(self.target, self.literals, owners)
        sign = -1.0 if self.kind == "max" else 1.0
        best = np.full(blocks.n_events, np.inf)          # an event's best value hides its others
        possible = blocks.event_of >= 0
        np.minimum.at(best, blocks.event_of[possible], sign * self.value[possible])
        target = blocks.target[blocks.block]
        self.order = np.lexsort((best, target))
        self.blocks = blocks
        self.group, self.ordered = target[self.order], (sign * best[self.order]) ** self.power
        self.survival = Survival(self.group, blocks.block[self.order])

    def forward(self, state: State) -> None:
        weights, saved = self.survival.forward(self.blocks.probability(state.P)[self.order])
        some = np.bincount(self.group, weights=weights, minlength=self.n)
        total = np.bincount(self.group, weights=weights * self.ordered, minlength=self.n)
        here = slice(self.out, self.out + self.n)
        state.K[here] = np.minimum(some, 1.0)
        state.X[here] = np.where(some > 0.0, total / np.where(some > 0.0, some, 1.0), 0.0)
        state.saved[self] = some, saved

    def backward(self, state: State, grad: Gradient) -> None:
        here = slice(self.out, self.out + self.n)
        d_x, d_k = grad.X[here], grad.K[here]
        if not (d_x.any() or d_k.any()):
            return
        some, saved = state.saved[self]
        known = some > 0.0
        # Times P(some), so that nothing overflows before the end.
        d_x, d_k = np.where(known, d_x, 0.0), np.where(known, d_k * some, d_k)
        c = d_k[self.group] + d_x[self.group] * (self.ordered - state.X[here][self.group])
        d = self.survival.backward(saved, c)
        with np.errstate(over="ignore"):
            d = np.clip(d / np.where(known, some, 1.0)[self.group], -_LARGEST, _LARGEST)
        d_q = np.empty(len(d))
        d_q[self.order] = d
        self.blocks.backward(state.P, d_q, grad.P)

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        term, column = np.nonzero(self.literals)
        return self._n_p + self.out + self.target[term], self.literals[term, column]
