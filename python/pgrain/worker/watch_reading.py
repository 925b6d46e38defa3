"""A watch's state as it is read: cells, and what complaints about it ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np

from pgrain.complaint.objective import Objective, all_rows
from pgrain.provenance.output import Output
from pgrain.watch.joined_state import JoinedState
from pgrain.watch.state import StandingCircuit, State
from pgrain.worker.complaints import slopes

COMPLAINTS = 32          # about a state, of which it is known what they ask for


@dataclass
class Read:
    """A state that is read: its circuit, the output on classes and on probabilities, and what
    complaints about it ask for."""

    circuit: StandingCircuit
    value: Output
    relaxed: Output
    _asked: dict[tuple, tuple] = field(default_factory=dict)

    @staticmethod
    def of(state: State | JoinedState, kept: dict, pairs: int) -> Read:
        """That of a state."""
        circuit = StandingCircuit(state.standing(kept), kept, pairs)
        return Read(circuit, circuit.output(hard=True), circuit.output(hard=False))

    def asked(self, complaints: list, matches: list) -> tuple:
        """(gradient, effect's gradient, notices) of complaints about the rows `matches` (None: all
        of them), as `slopes` has them; not to be changed."""
        key = tuple(it.text for it in complaints), tuple(
            rows if rows is None else tuple(rows) for rows in matches)
        known = self._asked.get(key)
        if known is None:
            matched = [all_rows(self.value) if rows is None else rows for rows in matches]
            objective = Objective(complaints, self.circuit, self.value, self.relaxed, matched, {})
            gradient, notices = slopes(objective, Objective.gradient)
            effect = None if gradient is None else objective.effect_gradient()
            known = gradient, effect, notices
            if len(self._asked) < COMPLAINTS:
                self._asked[key] = known
        return known


def cells(circuit: StandingCircuit, value, relaxed, include_absent: bool) -> list[list]:
    """Rows of pgrain.provenance. `variables` is null: a state of sums has forgotten which."""
    rows = []
    for row in value.json_rows(include_absent):
        at, output = row["row"] - 1, json.dumps(row["output"])
        for number, column in enumerate(circuit.columns):
            if not column.model_dependent:
                continue
            both = (value.numbers[at, number], relaxed.numbers[at, number])
            rows.append([row["row"], output, column.name,
                         *(None if np.isnan(cell) else float(cell) for cell in both), None])
    return rows
