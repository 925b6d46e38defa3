"""The objective: a function q of the class probabilities, always to be reduced.

For a cell with value v (on classes), relaxed value r (on probabilities) and target t, with scale
s = max(|v - t|, 1) and sign sigma = sign(v - t):

- a violated ``<=``, ``>=``, ``<``, ``>`` or ``=`` adds sigma r / s; a met one adds nothing, and a
  note says so (a strict one is met only strictly: at v = t it pushes away from t);
- ``too high`` adds r / max(|v|, 1), ``too low`` -r / max(|v|, 1);
- ``= 'text'`` adds -log P(the row is there and the cell shows the text);
- ``no row`` adds -log P(row absent) for each row that it matches;
- ``a row`` adds -log(1 - product of P(row absent)) over the rows that it matches: with one row,
  -log P(row present); with several, one of them is enough.

The direction comes from the value, the slope from the relaxed value. Comparisons and texts may be
about a row that is possible but not in the result; there a count is 0 and other numbers are NULL.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pgrain.complaint.cell import row_name
from pgrain.complaint.grammar import Complaint, written
from pgrain.errors import InvalidArgument, UndefinedColumn, nearest
from pgrain.provenance.annotate import quote
from pgrain.provenance.circuit import Circuit
from pgrain.provenance.output import Output
from pgrain.provenance.presence import ABSENT

# Below this a probability is taken for this much, so that -log and its slope stay finite. Through
# the softmax the slope is bounded, J^T (p - e_t), as long as 1/p times p is 1: hence far below what
# the logits of an ordinary net can reach (a gap of 690).
LEAST_PROBABILITY = 1e-300


def complained_column(complaint: Complaint, circuit: Circuit) -> int | None:
    """Number of the output column a complaint names; None for a complaint about rows.

    Raises
    ------
    UndefinedColumn
        42703: not in the output.
    InvalidArgument
        22023: named twice, or it does not depend on the model.
    """
    if complaint.column is None:
        return None
    names = [c.name for c in circuit.columns]
    found = [i for i, name in enumerate(names) if name == complaint.column]
    listed = "The output columns are: " + ", ".join(f'"{n}"' for n in names) + "."
    if not found:
        raise UndefinedColumn(f'the query has no output column "{complaint.column}"',
                              detail=listed)
    if len(found) > 1:
        raise InvalidArgument(f'the query has several output columns "{complaint.column}"',
                              detail=listed, hint="Give them different names with AS.")
    column = circuit.columns[found[0]]
    if not column.model_dependent:
        dependent = [f'"{c.name}"' for c in circuit.columns if c.model_dependent]
        raise InvalidArgument(
            f'column "{complaint.column}" does not depend on the model',
            hint=f"Complain about {', '.join(dependent)}." if dependent else None)
    return found[0]


@dataclass
class Objective:
    """q and its slopes, for complaints that hold together.

    Parameters
    ----------
    complaints : list of Complaint
    circuit : Circuit
    value, relaxed : Output
        The circuit on predicted classes and on `P`.
    matched : list of list of int
        For each complaint the output rows (numbers as in `Output.match_json`) that its WHERE
        selects: of those in the result, or, if there is none, of the possible ones. For one
        without WHERE: `all_rows`.
    P : dict
        Model name -> (V, R) probabilities.
    cell : (int, tuple), optional
        The number of a complaint, and the cell (a key of `Circuit.gradient`) that effects and
        predictions are about. Not given, the first that is violated, in the order of the
        complaints and of the output rows; where all is met, the first.

    Attributes
    ----------
    q : float
    weights : dict
        What each cell adds to the slope of q (keys of `Circuit.gradient`).
    notes : list of str
        One for each complained cell: met or violated, with numbers. met: those of the met ones.
    violated : int
        How many cells are violated.
    """

    complaints: Sequence[Complaint]
    circuit: Circuit
    value: Output
    relaxed: Output
    matched: Sequence[Sequence[int]]
    P: dict
    cell: tuple[int, tuple] | None = None
    q: float = 0.0
    weights: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    met: list = field(default_factory=list)
    violated: int = 0

    def __post_init__(self):
        self._violated: tuple | None = None
        self._met: tuple | None = None
        parts = zip(self.complaints, self.matched, strict=True)
        for self._number, (complaint, rows) in enumerate(parts):
            column = complained_column(complaint, self.circuit)
            rows = [int(row) for row in rows]
            for row in rows:
                if not 0 <= row < len(self.value.present):
                    raise InvalidArgument(f"there is no output row {row}")
            if column is None:
                self._row_complaint(complaint, rows)
                continue
            if not rows:
                raise self._nothing_matched(complaint)
            for row in rows:
                self._cell(complaint, row, column)
        self.cell = self.cell or self._violated or self._met

    @property
    def first(self) -> tuple | None:
        """The cell that effects and predictions are about, a key of `Circuit.gradient`."""
        return self.cell and self.cell[1]

    def _seen(self, key: tuple, violated: bool) -> None:
        if violated:
            self._violated = self._violated or (self._number, key)
        else:
            self._met = self._met or (self._number, key)

    def gradient(self) -> dict[str, np.ndarray]:
        """dq/dP, (V, R) float64 for each model."""
        return self.circuit.gradient(self.P, self.weights)

    def effect_gradient(self) -> dict[str, np.ndarray]:
        """Gradient of the relaxed value of `cell` alone.

        For a text target it is that of the probability that the cell shows the text, for a
        complaint about rows that of the probability that the row is there.
        """
        weights = self.effect_weights()
        if not weights:
            return {model: np.zeros_like(p) for model, p in self.P.items()}
        return self.circuit.gradient(self.P, weights)

    def effect_weights(self) -> dict:
        """The keys of `Circuit.gradient` whose gradient is `effect_gradient`."""
        if self.first is None:
            return {}
        if self.first[1] == ABSENT:      # P(present) = 1 - exp(log P(absent))
            return {self.first: -math.exp(
                self.circuit.log_absent(self.P, [self.first[0]])[0])}
        return {self.first: 1.0}

    def _row_complaint(self, complaint: Complaint, rows: list[int]) -> None:
        """``no row``: each present row of `rows` should be absent; ``a row``: one should be there.
        """
        present = [row for row in rows if self.value.present[row]]
        if complaint.operator == "no row":
            rows = present
            if not rows:
                self.met.append(f'"{complaint.text}" is met (no output row matches)')
                self.notes.append(self.met[-1])
        elif not rows:
            raise self._nothing_matched(complaint)
        if not rows:
            return
        met = complaint.operator == "a row" and bool(present)
        self._seen((present[0] if met else rows[0], ABSENT), violated=not met)
        if met:
            self._note_met(complaint, present[0])
            return
        logs = self.circuit.log_absent(self.P, rows)
        if complaint.operator == "no row":
            for row, log_absent in zip(rows, logs.tolist(), strict=True):
                if log_absent == -math.inf:
                    raise self._certain(complaint, row, "in")
                self._violated_row(complaint, row, log_absent, -1.0, -log_absent)
            return
        total = float(logs.sum())
        if total == 0.0:
            raise self._certain(complaint, rows[0], "never in")
        # -log(1 - e^total), whose slope is 1 / (e^-total - 1); at least LEAST_PROBABILITY.
        there = max(-math.expm1(total), LEAST_PROBABILITY)
        slope = math.exp(total) / there
        for row, log_absent in zip(rows, logs.tolist(), strict=True):
            self._violated_row(complaint, row, log_absent, slope, -math.log(there) / len(rows))

    def _violated_row(self, complaint, row, log_absent, weight, q) -> None:
        key = (row, ABSENT)
        self.violated += 1
        self.q += q
        self.weights[key] = self.weights.get(key, 0.0) + weight
        p = -math.expm1(log_absent)
        self._note(complaint, row, f"is violated (there with probability {p:g})")

    def _certain(self, complaint: Complaint, row: int, where: str) -> InvalidArgument:
        return InvalidArgument(
            f"{row_name(self.value, row)} is {where} the result, whatever is predicted",
            detail=f'The complaint is "{complaint.text}".',
            hint="Complain about one of its numbers, or choose other rows with WHERE.")

    def _cell(self, complaint: Complaint, row: int, column: int) -> None:
        if isinstance(complaint.target, str):
            self._text_cell(complaint, row, column)
            return
        described = self.circuit.columns[column]
        self._one_cell(complaint, described)
        if not described.numeric:
            raise InvalidArgument(
                f'column "{complaint.column}" is no number',
                hint=f"Write {written(complaint.column)} = 'text'.")
        v, r = float(self.value.numbers[row, column]), float(self.relaxed.numbers[row, column])
        if math.isnan(v) or math.isnan(r):
            absent = not self.value.present[row]
            raise InvalidArgument(
                f'the cell "{complaint.column}" of {row_name(self.value, row)} is NULL',
                detail=f'The complaint is "{complaint.text}"; there is no value to move.'
                       + (" The row is possible, but not in the result." if absent else ""),
                hint="Choose other rows with WHERE, or complain about a count"
                     + (", or that there should be \"a row\"." if absent else
                        f"; WHERE {quote(complaint.column)} IS NOT NULL leaves out what is NULL."))
        key = (row, column)
        weight = self.weight(complaint, v)
        self._seen(key, violated=weight != 0.0)
        state = f"value {v:g}, relaxed {r:g}"
        if weight == 0.0:
            self._note_met(complaint, row, f" ({state})")
            return
        self.violated += 1
        self.q += weight * r
        self.weights[key] = self.weights.get(key, 0.0) + weight
        self._note(complaint, row, f"is violated ({state})")

    @staticmethod
    def _one_cell(complaint: Complaint, described) -> None:
        """A label that rows are told apart by is no cell that could show another one."""
        if described.role in ("group", "row"):
            raise InvalidArgument(
                f'column "{complaint.column}" has a row of its own for each value',
                detail=f'The complaint is "{complaint.text}".',
                hint="Complain about the row: no row, or a row, WHERE "
                     f"{written(complaint.column)} = '...'.")

    @staticmethod
    def weight(complaint: Complaint, v: float) -> float:
        """What one unit of the relaxed value adds to q; 0 where the complaint is met."""
        if complaint.operator in ("too high", "too low"):
            return (1.0 if complaint.operator == "too high" else -1.0) / max(abs(v), 1.0)
        t = complaint.target
        scale = max(abs(v - t), 1.0)
        high = {"<=": v > t, "<": v >= t, "=": v > t}.get(complaint.operator, False)
        low = {">=": v < t, ">": v <= t, "=": v < t}.get(complaint.operator, False)
        return (high - low) / scale

    def _text_cell(self, complaint: Complaint, row: int, column: int) -> None:
        described, target = self.circuit.columns[column], complaint.target
        if complaint.operator != "=":
            raise InvalidArgument(f'a text is compared with "=", not with "{complaint.operator}"',
                                  detail=f'The complaint is "{complaint.text}".')
        self._one_cell(complaint, described)
        if described.role != "label":
            raise InvalidArgument(f'column "{complaint.column}" is a number',
                                  hint="Write the target without quotes.")
        possible = self.circuit.possible_texts(column)
        if target not in possible:
            shown = ", ".join(f"'{t}'" for t in possible[:20])
            meant = nearest(target, possible)
            raise InvalidArgument(
                f'column "{complaint.column}" can never be \'{target}\'',
                detail=f"It can be {shown}." if possible else None,
                hint=meant and f"Did you mean '{meant}'?")
        p = self.circuit.probability(self.P, row, column, target)
        key = (row, column, target)
        shown = self.value.text(row, column)
        state = f"value {'NULL' if shown is None else repr(shown)}, probability {p:g}"
        met = shown == target and bool(self.value.present[row])
        self._seen(key, violated=not met)
        if met:
            self._note_met(complaint, row, f" ({state})")
            return
        self.violated += 1
        bounded = max(p, LEAST_PROBABILITY)
        self.q -= math.log(bounded)
        self.weights[key] = self.weights.get(key, 0.0) - 1.0 / bounded
        self._note(complaint, row, f"is violated ({state})")

    def _note_met(self, complaint: Complaint, row: int, state: str = "") -> None:
        self._note(complaint, row, "is met" + state)
        self.met.append(self.notes[-1])

    def _note(self, complaint: Complaint, row: int, state: str) -> None:
        self.notes.append(f'"{complaint.text}" {state} in {row_name(self.value, row)}')

    def _nothing_matched(self, complaint: Complaint) -> InvalidArgument:
        absent = int((~self.value.present).sum())
        hint = "Look at the query's output, or leave WHERE out."
        if absent:
            hint = (f"{absent} more rows are possible but not in the result, and none of them "
                    "matches either: pgrain.provenance(query, include_absent => true) shows them.")
        return InvalidArgument(f'no output row matches the complaint "{complaint.text}"',
                               hint=hint)


def all_rows(value: Output, complaint: Complaint | None = None) -> list[int]:
    """The rows that a complaint without WHERE is about: those in the result; for ``a row`` where
    there is none, all that are possible."""
    rows = np.flatnonzero(value.present).tolist()
    if not rows and complaint is not None and complaint.operator == "a row":
        return list(range(len(value.present)))
    return rows
