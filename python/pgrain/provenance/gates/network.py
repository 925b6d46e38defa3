"""A network of gates: layers over flat vectors of probabilities and numbers.

Evaluated in order (`Network.forward`) and differentiated in reverse (`Network.backward`). A layer
is made of index arrays and holds no values; what its backward pass can reuse it leaves in
`State.saved`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pgrain.interrupts import check
from pgrain.provenance.gates.blocks import Owners


@dataclass(eq=False)
class State:
    """Values of one evaluation, float64.

    P : (n_p,) probabilities of literals; P[0] = 1; exactly 0.0 or 1.0 when `hard`, except raw ones
    X : (n_x,) numbers; 0 where K is 0
    K : (n_x,) probability that the number is known (not NULL)
    owner : (n_p,) int64, who owns each literal
    """

    P: np.ndarray
    X: np.ndarray
    K: np.ndarray
    hard: bool
    owner: np.ndarray
    saved: dict = field(default_factory=dict)

    @property
    def n_p(self) -> int:
        return len(self.P)


@dataclass(eq=False)
class Gradient:
    """Derivatives of one number with respect to a `State`'s vectors, of the same shapes.

    silent: layer -> (n,), with respect to log(1 - P[true]) of its groups, for layers that know it
    without cancellation or underflow (`AnyOf.log_silent`).
    """

    P: np.ndarray
    X: np.ndarray
    K: np.ndarray
    silent: dict = field(default_factory=dict)


class Layer:
    """Base of the gates. A layer writes P[out:out + n_literals] or X[out:out + n_numbers]."""

    out = 0
    n_literals = 0
    n_numbers = 0
    three = False             # writes threes: false, true, null

    def prepare(self, owners: np.ndarray | Owners) -> None:
        """Called once, before any other method, with the owner of each literal."""

    def forward(self, state: State) -> None:
        """Write this layer's slice."""
        raise NotImplementedError

    def backward(self, state: State, grad: Gradient) -> None:
        """Add to the gradient of the inputs, from that of this layer's slice."""
        raise NotImplementedError

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """(targets, sources) in node numbers: literal i is i, number i is n_p + i.

        Their transitive closure says what depends on what; an output may stand for another one of
        the same target (the literal "true" on "false").
        """
        raise NotImplementedError


def three_edges(out: int, n: int, group: np.ndarray, sources: np.ndarray):
    """Edges of a layer of threes: "false" of each group on its sources, the others on "false"."""
    false = out + 3 * np.arange(n)
    return (np.concatenate([out + 3 * group, false + 1, false + 2]),
            np.concatenate([sources, false, false]))


class Network:
    """Layers over the given probabilities.

    Parameters
    ----------
    given : int
        Number of given literals: P[1:1 + given].
    layers : in order of evaluation
    owner : (n_p,) int64
        Owner of each literal; -1 for the constant.
    n_x : int, optional
        Length of X and K; by default what the layers write.
    complete : (n_p,) bool, optional
        Given literals of owners whose literals' probabilities add up to one (see `Owners`; leave
        out owners that own raw copies too). Threes that layers write are found by themselves.
    """

    def __init__(self, given: int, layers: Sequence[Layer], owner: np.ndarray, *,
                 n_x: int | None = None, complete: np.ndarray | None = None):
        self.given, self.layers = int(given), list(layers)
        self.owner = np.asarray(owner, np.int64)
        self.n_p = len(self.owner)
        written = [layer.out + layer.n_numbers for layer in self.layers if layer.n_numbers]
        self.n_x = max(written, default=0) if n_x is None else n_x
        self.owners = Owners(self.owner, self._complete(complete))
        self.owners.given = 1 + self.given
        for layer in self.layers:
            check()
            layer.prepare(self.owners)

    def _complete(self, complete):
        result = np.zeros(self.n_p, bool)
        if complete is not None:
            result |= complete
        threes = [layer.out + 3 * np.arange(layer.n_literals // 3)
                  for layer in self.layers if layer.three]
        if threes:
            first = np.concatenate(threes)
            owner, second, third = (self.owner[first + place] for place in range(3))
            counts = np.bincount(self.owner[self.owner >= 0],
                                 minlength=max(int(owner.max(initial=-1)) + 1, 1))
            ours = (owner >= 0) & (owner == second) & (owner == third)
            ours[ours] = counts[owner[ours]] == 3
            for place in range(3):
                result[first[ours] + place] = True
        return result

    def forward(self, given: np.ndarray, hard: bool) -> State:
        """Evaluate; `given` (given,) float64."""
        P = np.zeros(self.n_p)
        P[0] = 1.0
        P[1:1 + self.given] = given
        state = State(P, np.zeros(self.n_x), np.zeros(self.n_x), hard, self.owner)
        for layer in self.layers:
            check()
            layer.forward(state)
        return state

    def backward(self, state: State, dP=None, dX=None, dK=None, silent=None) -> np.ndarray:
        """(given,) gradient of sum(dP * P) + sum(dX * X) + sum(dK * K).

        Each weight is None, an array of the vector's length, or (indices, values); `silent` as in
        `Gradient`.
        """
        grad = Gradient(_dense(dP, self.n_p), _dense(dX, self.n_x), _dense(dK, self.n_x),
                        silent or {})
        for layer in reversed(self.layers):
            check()
            layer.backward(state, grad)
        return grad.P[1:1 + self.given]

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """(targets, sources) of all layers in node numbers, not distinct."""
        parts = [layer.edges() for layer in self.layers]
        if not parts:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return tuple(np.concatenate(side) for side in zip(*parts, strict=True))


def _dense(weights, n: int) -> np.ndarray:
    if weights is None:
        return np.zeros(n)
    if isinstance(weights, tuple):
        dense = np.zeros(n)
        np.add.at(dense, weights[0], weights[1])
        return dense
    return np.array(weights, np.float64)
