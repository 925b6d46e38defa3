"""Conjunctions: an event is that all its literals hold."""

from __future__ import annotations

import numpy as np

from pgrain.provenance.gates.blocks import as_rows
from pgrain.provenance.gates.kernels import add_at, product, products_of_others
from pgrain.provenance.gates.network import Gradient, Layer, State


class Events(Layer):
    """P[out + i] = product over l of P[literals[i, l]].

    Parameters
    ----------
    out : int
    literals : (E, L) or (E,) int
        0 pads; a row never has two literals of one owner.
    """

    def __init__(self, out: int, literals: np.ndarray):
        self.out, self.literals = out, as_rows(literals)
        self.n_literals = len(self.literals)

    def forward(self, state: State) -> None:
        state.P[self.out:self.out + self.n_literals] = product(state.P[self.literals])

    def backward(self, state: State, grad: Gradient) -> None:
        d = grad.P[self.out:self.out + self.n_literals]
        others = products_of_others(state.P[self.literals])
        others *= d[:, None]
        add_at(grad.P, self.literals, others)

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        row, column = np.nonzero(self.literals)
        return self.out + row, self.literals[row, column]
