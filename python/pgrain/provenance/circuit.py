"""The provenance circuit: the query's output as arrays of gates over the variables."""

from __future__ import annotations

import numpy as np

from pgrain.errors import InvalidArgument
from pgrain.provenance.groups import Groups
from pgrain.provenance.joint import OneSlot, Predicted, extend
from pgrain.provenance.lineage import Lineage
from pgrain.provenance.output import Output
from pgrain.provenance.presence import ABSENT, presence
from pgrain.provenance.rows import Rows


class Circuit:
    """The output of one query as a function of the class probabilities of its variables.

    Parameters
    ----------
    capture : Capture
        What `compile` returned.
    lineage : Lineage
        What `capture.read` returned.
    """

    def __init__(self, capture, lineage: Lineage):
        self.lineage, self.columns = lineage, capture.output_columns
        self.model = capture.annotated.slots[0].model
        self.classes = capture.models[self.model].classes
        annotated = capture.annotated
        self.by_row = annotated.by_row
        self.shape = (lineage.n_variables, lineage.n_classes)
        self.key_columns = [i for i, c in enumerate(self.columns)
                            if c.role in ("row", "group", "constant")]
        if self.by_row:
            self.gates = Rows(annotated, lineage, [c.numeric for c in self.columns])
        else:
            self.gates = Groups(annotated, lineage)
        # Without GROUP BY there is always one row.
        self.always = not self.by_row and not self.gates.grouped
        self._presence = None

    def value(self, predicted: dict[str, np.ndarray], P: dict | None = None) -> Output:
        """The output on predicted classes: what PostgreSQL returns; `P` changes nothing here.

        `predicted` maps the model's name to the classes (V,) of its variables, in the order of
        ``lineage.digests``. Count is 0 and sum NULL (NaN) over nothing.
        """
        classes = np.asarray(predicted[self.model])
        if classes.shape != self.shape[:1]:
            raise InvalidArgument(f"expected {self.shape[0]} predicted classes, "
                                  f"not {classes.shape}")
        if not self.by_row and isinstance(self.gates.joint, OneSlot):
            return self._evaluate(Predicted(classes, self.shape[1]), hard=True)
        P = np.zeros(self.shape)
        P[np.arange(len(classes)), classes] = 1.0
        return self._evaluate(extend(P), hard=True)

    def relaxed(self, P: dict[str, np.ndarray]) -> Output:
        """The output on probabilities, (V, R) float64: its expectation (avg: ratio of two)."""
        return self._evaluate(self._probabilities(P), hard=False)

    def gradient(self, P: dict[str, np.ndarray], weights: dict) -> dict[str, np.ndarray]:
        """d(sum of weight x relaxed cell)/dP, (V, R) float64 for each model.

        Keys of `weights` are (row, column) for a relaxed cell, (row, column, text) for the
        probability that the cell is there and shows `text`, or (row, ABSENT) for `log_absent`;
        columns by number.
        """
        extended = self._probabilities(P)
        absent = {key[0]: weight for key, weight in weights.items() if key[1] == ABSENT}
        cells = {key: weight for key, weight in weights.items() if key[1] != ABSENT}
        result = self.gates.gradient(extended, cells)
        if absent and not self.always:
            result += self._rows_there().gradient(extended, absent)
        return {self.model: result[:-1, :-1]}

    def log_absent(self, P: dict[str, np.ndarray], rows: list[int]) -> np.ndarray:
        """(len(rows),) log of the probability that each row is not in the output."""
        if self.always:
            return np.full(len(rows), -np.inf)
        return self._rows_there().log_absent(self._probabilities(P), rows)

    def _rows_there(self):
        if self._presence is None:
            self._presence = presence(self.lineage, self.by_row)
        return self._presence

    def probability(self, P: dict[str, np.ndarray], row: int, column: int, text: str) -> float:
        """Probability that the row is in the output and its `column` shows `text`."""
        p = self.gates.probabilities(self._probabilities(P))
        return float(p[self.gates.shows(row, column, text)].sum())

    def possible_texts(self, column: int) -> list[str]:
        """What a label column can show."""
        return sorted({t for t in self.gates.labels[column] if t is not None})

    def variables(self) -> np.ndarray:
        """(rows,) number of distinct variables that each output row depends on."""
        return self.gates.variable_counts() if self.by_row else self.gates.variables()

    def _probabilities(self, P) -> np.ndarray:
        array = np.asarray(P[self.model], np.float64)
        if array.shape != self.shape:
            raise InvalidArgument(f"expected probabilities of shape {self.shape}, "
                                  f"not {array.shape}")
        return extend(array)

    def _evaluate(self, P: np.ndarray | Predicted, hard: bool) -> Output:
        n_rows = len(self.lineage.texts)
        numbers = np.full((n_rows, len(self.columns)), np.nan)
        scales = np.zeros((n_rows, len(self.columns)))
        labels: dict[int, list] = {}
        if self.by_row:
            p = self.gates.probabilities(P)
            probability = self.gates.present(p)
            for column, cells in self.gates.cells(p).items():
                numbers[:, column] = cells
            if hard:
                labels = self.gates.texts(p)
        else:
            forward = self.gates.forward(P)
            probability = forward["rows"]
            for column, cells in self.gates.cells(forward).items():
                numbers[:, column] = cells
            for column, scale in self.gates.scales(forward).items():
                scales[:, column] = scale
        present = probability > 0.5
        if self.always:
            present = np.ones(n_rows, bool)
        if not self.by_row and hard:
            nothing = ~present
            for column, gate in self.gates.gates.items():
                numbers[nothing, column] = 0.0 if gate.function == "count" else np.nan
        return Output(self.columns, self.key_columns, self.lineage.texts, present, probability,
                      numbers, labels, scales, hard)
