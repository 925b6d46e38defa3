"""Whether an output row of a network is there, in log space (compare `provenance.presence`).

A row's presence is one literal. log P(absent) is read off where it is known best:

- the result of a disjunction (a group has a row): the sum of logs of its factors;
- a class of a variable, or a truth value: the sum of the owner's other literals;
- a conjunction: 1 - prod (1 - c) over its literals, c the complement of each, found likewise.
"""

from __future__ import annotations

import math

import numpy as np

from pgrain.provenance.algebra.wiring import CERTAIN, NEVER
from pgrain.provenance.gates.any_of import AnyOf
from pgrain.provenance.gates.events import Events
from pgrain.provenance.presence import LEAST

# A complement that is known only as 1 - p says nothing below the precision of p.
_ROUNDING = 2.0 ** -53


class Presence:
    """Complements of a network's literals."""

    def __init__(self, network):
        self.network = network
        self.any_of = [layer for layer in network.layers if isinstance(layer, AnyOf)]
        self.events = [layer for layer in network.layers if isinstance(layer, Events)]

    def log_absent(self, state, literal: int) -> float:
        """log(1 - P[literal])."""
        found = self._disjunction(literal)
        if found is not None:
            layer, group = found
            return float(layer.log_silent(state)[group])
        complement = self._complement(state, literal)[0]
        return math.log(complement) if complement > 0 else -math.inf

    def add(self, state, literal: int, weight: float, dP: np.ndarray, silent: dict) -> None:
        """Add the gradient of weight x log(1 - P[literal]) to `dP` and `silent`."""
        found = self._disjunction(literal)
        if found is not None:
            layer, group = found
            silent.setdefault(layer, np.zeros(layer.n))[group] += weight
            return
        complement, slopes = self._complement(state, literal)
        for index, slope in slopes:
            dP[index] += weight * slope / max(complement, LEAST)

    def _disjunction(self, literal: int):
        """(layer, group) if the literal is a disjunction's "true"."""
        for layer in self.any_of:
            if layer.out <= literal < layer.out + layer.n_literals:
                group, place = divmod(literal - layer.out, 3)
                return (layer, group) if place == 1 else None
        return None

    def _complement(self, state, literal: int) -> tuple[float, list]:
        """1 - P[literal], and its slopes [(indices, d/dP)]."""
        if literal in (CERTAIN, NEVER):
            return (0.0 if literal == CERTAIN else 1.0), []
        for layer in self.events:
            if layer.out <= literal < layer.out + layer.n_literals:
                return self._conjunction(state, layer.literals[literal - layer.out])
        owners = self.network.owners
        if owners.complete is not None and owners.complete[literal]:
            others = owners.literals(owners.dense[[literal]])
            others = others[others != literal]
            return float(state.P[others].sum()), [(others, 1.0)]
        p = float(state.P[literal])
        return max(1.0 - p, 0.0 if p == 1.0 else _ROUNDING), [(np.array([literal]), -1.0)]

    def _conjunction(self, state, literals: np.ndarray) -> tuple[float, list]:
        parts = [self._complement(state, int(part)) for part in literals if part != CERTAIN]
        with np.errstate(divide="ignore"):
            logs = np.log1p(-np.minimum([complement for complement, _ in parts], 1.0))
        slopes = []
        for number, (_, of_part) in enumerate(parts):
            others = math.exp(np.delete(logs, number).sum())
            slopes += [(index, others * slope) for index, slope in of_part]
        return float(-np.expm1(logs.sum())), slopes
