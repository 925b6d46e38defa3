"""Gates of a query without aggregation: each row of FROM is an output row of its own.

The row is there with the probability of the assignments that pass; a label's text has a
probability; a numeric label is the ratio of expectations over the assignments that pass.
"""

from __future__ import annotations

import math

import numpy as np

from pgrain.provenance.annotate import Annotated
from pgrain.provenance.lineage import Lineage
from pgrain.provenance.segments import Segments
from pgrain.settings import ASSIGNMENTS


class Rows:
    """The rows with their entries: the assignments that let them pass, and what they show."""

    def __init__(self, annotated: Annotated, lineage: Lineage, numeric: list[bool]):
        self.lineage = lineage
        side = lineage.sides[0]
        self.n_rows = len(side.pattern)
        order = np.argsort(lineage.entries[:, 0], kind="stable")
        pattern = lineage.entries[order, 0]
        first = np.searchsorted(pattern, side.pattern, "left")
        counts = np.searchsorted(pattern, side.pattern, "right") - first
        ASSIGNMENTS.limit(int(counts.sum()), hint="Filter the rows, or aggregate.")
        self.row = np.repeat(np.arange(self.n_rows), counts)
        offset = np.arange(len(self.row)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.entry = order[np.repeat(first, counts) + offset]
        self.variables = [v[self.row] for v in side.variables]
        self.classes = [lineage.entries[self.entry, 1 + s] for s in range(len(self.variables))]
        n = lineage.n_variables + 1
        self.by_variable = [Segments(v, n) for v in self.variables]
        self.labels, self.numbers = {}, {}
        columns = [c for c, cell in enumerate(annotated.cells) if cell.role == "label"]
        for place, column in enumerate(columns):
            texts = [label[place] for label in lineage.labels]
            self.labels[column] = texts
            if numeric[column]:
                numbers = np.array([math.nan if t is None else float(t) for t in texts], float)
                self.numbers[column] = numbers

    def probabilities(self, P: np.ndarray) -> np.ndarray:
        """Probability of each (row, entry)."""
        p = P[self.variables[0], self.classes[0]]
        if len(self.variables) == 2:
            same = self.variables[0] == self.variables[1]
            p = np.where(same, p * (self.classes[0] == self.classes[1]),
                         p * P[self.variables[1], self.classes[1]])
        return p

    def present(self, p: np.ndarray) -> np.ndarray:
        """(rows,) probability that the row is in the output."""
        return np.bincount(self.row, p, self.n_rows)

    def cells(self, p: np.ndarray) -> dict[int, np.ndarray]:
        """(rows,) values of the numeric labels; NaN where NULL or never there."""
        cells = {}
        for column in self.numbers:
            n, total = self._moments(column, p)
            with np.errstate(invalid="ignore", divide="ignore"):
                cells[column] = np.where(n > 0, total / n, np.nan)
        return cells

    def _moments(self, column: int, p: np.ndarray):
        numbers = self.numbers[column][self.entry]
        known = ~np.isnan(numbers)
        n = np.bincount(self.row[known], p[known], self.n_rows)
        return n, np.bincount(self.row[known], (p * numbers)[known], self.n_rows)

    def texts(self, p: np.ndarray) -> dict[int, list]:
        """Texts of the labels of each row, for `p` of predicted classes (0 or 1)."""
        entry = np.full(self.n_rows, -1, np.int64)
        chosen = p > 0.5
        entry[self.row[chosen]] = self.entry[chosen]
        return {column: [texts[e] if e >= 0 else None for e in entry.tolist()]
                for column, texts in self.labels.items()}

    def shows(self, row: int, column: int, text: str) -> np.ndarray:
        """Which (row, entry) pairs are `row` with `text` in `column`."""
        wanted = np.array([t == text for t in self.labels[column]], bool)
        return (self.row == row) & (wanted[self.entry] if len(wanted) else False)

    def gradient(self, P: np.ndarray, weights: dict) -> np.ndarray:
        """d/dP; keys (row, column) are numeric labels, (row, column, text) probabilities."""
        p = self.probabilities(P)
        to_p = np.zeros(len(p))
        for key, weight in weights.items():
            row, column = key[:2]
            if len(key) == 3:
                to_p += weight * self.shows(row, column, key[2])
                continue
            n, total = self._moments(column, p)
            numbers = self.numbers[column][self.entry]
            mine = (self.row == row) & ~np.isnan(numbers)
            if n[row] > 0:
                to_p[mine] += weight * (numbers[mine] - total[row] / n[row]) / n[row]
        result = np.zeros_like(P)
        if len(self.variables) == 1:
            np.add.at(result, (self.variables[0], self.classes[0]), to_p)
            return result
        same = self.variables[0] == self.variables[1]
        agree = same & (self.classes[0] == self.classes[1])
        np.add.at(result, (self.variables[0][agree], self.classes[0][agree]), to_p[agree])
        for mine, other in ((0, 1), (1, 0)):
            factor = P[self.variables[other][~same], self.classes[other][~same]]
            np.add.at(result, (self.variables[mine][~same], self.classes[mine][~same]),
                      to_p[~same] * factor)
        return result

    def variable_counts(self) -> np.ndarray:
        """(rows,) number of distinct variables of each row."""
        null = self.lineage.n_variables
        slots = self.lineage.sides[0].variables
        counts = sum((v != null).astype(np.int64) for v in slots)
        if len(slots) == 2:
            counts -= ((slots[0] == slots[1]) & (slots[0] != null)).astype(np.int64)
        return counts
