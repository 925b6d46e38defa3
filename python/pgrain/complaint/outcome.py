"""Whether complaints hold under other predictions, and what a complained cell is then.

The rows that each complaint is about are those that its WHERE selected when it was made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pgrain.complaint.grammar import Complaint, written
from pgrain.complaint.objective import Objective, complained_column
from pgrain.errors import InvalidArgument
from pgrain.provenance.annotate import quote
from pgrain.provenance.circuit import Circuit
from pgrain.provenance.output import Output
from pgrain.provenance.presence import ABSENT


@dataclass(frozen=True)
class Outcome:
    """value, relaxed: of the objective's cell (for a text and for a row: whether it is shown,
    is there, 0 or 1, and with what probability); NaN for NULL. holds: all complaints do. left: how
    much is still violated, in all: of each number the share of its first distance from the target,
    of each label and row 1."""

    value: float
    relaxed: float
    holds: bool
    left: float


class Watchful:
    """Complaints as conditions on the circuit's output.

    Raises
    ------
    InvalidArgument
        22023: a complaint without a target can never hold.
    """

    def __init__(self, objective: Objective):
        self.objective, self.circuit = objective, objective.circuit
        for complaint in objective.complaints:
            if complaint.operator in ("too high", "too low"):
                sign = "<=" if complaint.operator == "too high" else ">="
                raise InvalidArgument(
                    f'the complaint "{complaint.text}" has no target to reach',
                    hint=f"Say what would be right, as in {written(complaint.column)} {sign} 50.")
        self.columns = [complained_column(complaint, self.circuit)
                        for complaint in objective.complaints]
        # Which way "=" was wrong at first: once it is reached or passed there is nothing to gain.
        self.above = [[objective.value.numbers[row, column] > complaint.target
                       if column is not None and complaint.operator == "="
                       and not isinstance(complaint.target, str) else False for row in rows]
                      for complaint, column, rows in zip(objective.complaints, self.columns,
                                                         objective.matched, strict=True)]

    def outcome(self, predicted: dict[str, np.ndarray], P: dict[str, np.ndarray]) -> Outcome:
        """Under these predicted classes (V,) and probabilities (V, R) of each model."""
        value = self.circuit.value(predicted, P)
        shown, soft = reading(self.circuit, value, P, self.objective.first)
        return Outcome(shown, soft, self.holds(value), self._left(value))

    def _left(self, value: Output) -> float:
        left = 0.0
        parts = zip(self.objective.complaints, self.columns, self.objective.matched, self.above,
                    strict=True)
        for complaint, column, rows, above in parts:
            if complaint.operator == "no row":
                left += sum(bool(value.present[row]) for row in rows)
            elif complaint.operator == "a row":
                left += not any(value.present[row] for row in rows)
            else:
                for row, side in zip(rows, above, strict=True):
                    if not _cell_holds(complaint, value, row, column, side):
                        left += self._share(complaint, value, row, column)
        return float(left)

    def _share(self, complaint: Complaint, value: Output, row: int, column: int) -> float:
        """Of a violated cell, how far it is off, where 1 is as far as at first, or by 1."""
        if isinstance(complaint.target, str):
            return 1.0
        off = abs(float(value.numbers[row, column]) - complaint.target)
        first = abs(float(self.objective.value.numbers[row, column]) - complaint.target)
        return 1.0 if math.isnan(off) else max(off / max(first, 1.0), 1e-6)

    def holds(self, value: Output) -> bool:
        """Whether all complaints hold on classes."""
        parts = zip(self.objective.complaints, self.columns, self.objective.matched, self.above,
                    strict=True)
        for complaint, column, rows, above in parts:
            if complaint.operator == "no row":
                good = not any(value.present[row] for row in rows)
            elif complaint.operator == "a row":
                good = any(value.present[row] for row in rows)
            else:
                good = all(_cell_holds(complaint, value, row, column, side)
                           for row, side in zip(rows, above, strict=True))
            if not good:
                return False
        return True


def reading(circuit: Circuit, value: Output, P: dict[str, np.ndarray], key: tuple | None
            ) -> tuple[float, float]:
    """(value, relaxed) of one cell, a key of `Circuit.gradient`; see `Outcome`."""
    if key is None:
        return math.nan, math.nan
    row, column = key[:2]
    if column == ABSENT:
        absent = math.exp(circuit.log_absent(P, [row])[0])
        return float(value.present[row]), 1.0 - absent
    if len(key) == 3:
        shows = bool(value.present[row]) and value.text(row, column) == key[2]
        return float(shows), circuit.probability(P, row, column, key[2])
    return (float(value.numbers[row, column]),
            float(circuit.relaxed(P).numbers[row, column]))


def _cell_holds(complaint: Complaint, value: Output, row: int, column: int, above: bool) -> bool:
    if isinstance(complaint.target, str):
        return bool(value.present[row]) and value.text(row, column) == complaint.target
    v, t = float(value.numbers[row, column]), complaint.target
    if math.isnan(v):       # nothing is left that could be too high
        return complaint.operator in ("<=", "<")
    if complaint.operator == "=":
        return v <= t if above else v >= t
    return {"<=": v <= t, "<": v < t, ">=": v >= t, ">": v > t}[complaint.operator]


def one_sided(complaint: Complaint, circuit: Circuit, value: Output, rows: Sequence[int]) -> str:
    """The complaint's text with "=" as "<=" or ">=", by the side on which the numbers of `rows` are
    off: a repair need not hit a number, only reach it. Any other complaint's text as it is."""
    if complaint.operator != "=" or isinstance(complaint.target, str) or not len(rows):
        return complaint.text
    numbers = value.numbers[np.asarray(rows, int), complained_column(complaint, circuit)]
    if not ((numbers > complaint.target).all() or (numbers < complaint.target).all()):
        return complaint.text
    operator = "<=" if numbers[0] > complaint.target else ">="
    where = "" if complaint.where is None else f" WHERE {complaint.where}"
    return f"{quote(complaint.column)} {operator} {complaint.target!r}{where}"
