"""Whether an output row is there, in log space: for complaints about rows.

A row is there if any of the base rows under it passes. The base rows of one variable v pass under a
set A of its classes, variables are independent, hence exactly

    log P(row absent) = sum over v of log(1 - p_v(A)),

a sum that thousands of variables neither under- nor overflow. `ABSENT` stands for it where the
circuit's gradient takes a column. What this cannot do (groups over two predictions) the network of
`algebra/` can.
"""

from __future__ import annotations

import numpy as np

from pgrain.provenance.gates.kernels import distinct, ranges

ABSENT = "absent"
LEAST = 1e-300         # a probability below counts for this much, so that slopes stay finite
_BLOCK = 1 << 20       # cells of a block of (row, variable) pairs and their classes


class OnePrediction:
    """Rows or groups over one prediction each base row.

    Parameters
    ----------
    row : (N,) int or None
        Output row of each base row; None: that of the entry that passes (`group_of_entry`).
    variable, pattern : (N,) int
    entries : (E, 2) int64
        Pattern and class that pass.
    group_of_entry : (E,) int64
    n_rows, n_classes : int
        Output rows; classes, that of NULL included.
    """

    def __init__(self, row: np.ndarray | None, variable: np.ndarray, pattern: np.ndarray,
                 entries: np.ndarray, group_of_entry: np.ndarray, n_rows: int, n_classes: int):
        self.n_rows = n_rows
        width = int(variable.max(initial=0)) + 1
        if row is None:      # base rows of one variable and pattern pass alike: each once
            kinds = distinct(pattern * width + variable)[0]
            pattern, variable = kinds // width, kinds % width
        order = np.argsort(entries[:, 0], kind="stable")
        first = np.searchsorted(entries[order, 0], pattern, "left")
        counts = np.searchsorted(entries[order, 0], pattern, "right") - first
        entry = order[ranges(first, counts)]
        kind = np.repeat(np.arange(len(pattern)), counts)
        of = group_of_entry[entry] if row is None else row[kind]
        pairs, number = distinct(of * width + variable[kind])
        self.row, self.variable = pairs // width, pairs % width
        self.passes = np.zeros((len(pairs), n_classes), bool)
        self.passes[number, entries[entry, 1]] = True

    def log_absent(self, P: np.ndarray, rows: list[int]) -> np.ndarray:
        """(len(rows),) log P(row absent) under `P` extended by NULL, (V + 1, R + 1)."""
        logs = np.zeros(len(self.row))
        step = max(_BLOCK // max(P.shape[1], 1), 1)
        for at in range(0, len(self.row), step):
            part = slice(at, at + step)
            some, none = self._split(P, part)
            with np.errstate(divide="ignore"):
                logs[part] = np.where(some < 0.5, np.log1p(-np.minimum(some, 0.5)), np.log(none))
        return np.bincount(self.row, logs, self.n_rows)[rows]

    def gradient(self, P: np.ndarray, weights: dict[int, float]) -> np.ndarray:
        """d(sum of weight x log P(row absent))/dP, in the shape of `P`."""
        of_row = np.zeros(self.n_rows)
        for row, weight in weights.items():
            of_row[row] += weight
        result = np.zeros_like(P)
        chosen = np.flatnonzero(of_row[self.row] != 0)
        _, none = self._split(P, chosen)
        slope = -of_row[self.row[chosen]] / np.maximum(none, LEAST)
        np.add.at(result, self.variable[chosen], self.passes[chosen] * slope[:, None])
        return result

    def _split(self, P: np.ndarray, part) -> tuple[np.ndarray, np.ndarray]:
        """p(A) and p(not A) of each pair, each summed on its own, so that neither cancels."""
        p, passes = P[self.variable[part]], self.passes[part]
        return (p * passes).sum(axis=1), (p * ~passes).sum(axis=1)


class TwoPredictions:
    """Rows of a query without aggregation, over two predictions each: all pairs of classes."""

    def __init__(self, variables: list[np.ndarray], pattern: np.ndarray, entries: np.ndarray,
                 n_classes: int):
        self.first, self.second = variables
        self.pattern, self.n_classes = pattern, n_classes
        self.passes: dict[int, np.ndarray] = {}
        for q, a, b in entries.tolist():
            if q not in self.passes:
                self.passes[q] = np.zeros((n_classes, n_classes), bool)
            self.passes[q][a, b] = True

    def log_absent(self, P: np.ndarray, rows: list[int]) -> np.ndarray:
        """(len(rows),) log P(row absent)."""
        result = np.zeros(len(rows))
        for at, row in enumerate(rows):
            joint, passes = self._joint(P, row)
            some = joint[passes].sum()
            with np.errstate(divide="ignore"):
                result[at] = np.log1p(-some) if some < 0.5 else np.log(joint[~passes].sum())
        return result

    def gradient(self, P: np.ndarray, weights: dict[int, float]) -> np.ndarray:
        """d(sum of weight x log P(row absent))/dP."""
        result = np.zeros_like(P)
        for row, weight in weights.items():
            joint, passes = self._joint(P, row)
            slope = -weight / max(joint[~passes].sum(), LEAST)
            v, w = self.first[row], self.second[row]
            if v == w:
                result[v] += slope * np.diagonal(passes)
            else:
                result[v] += slope * (passes @ P[w])
                result[w] += slope * (P[v] @ passes)
        return result

    def _joint(self, P: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
        v, w = self.first[row], self.second[row]
        joint = np.diag(P[v]) if v == w else np.outer(P[v], P[w])
        passes = self.passes.get(int(self.pattern[row]))
        return joint, np.zeros(joint.shape, bool) if passes is None else passes


def presence(lineage, by_row: bool) -> OnePrediction | TwoPredictions:
    """The gate of a lineage; groups over two predictions have none here (`compile` sees to it)."""
    n_classes = lineage.n_classes + 1
    side = lineage.sides[0]
    if by_row and len(side.variables) == 2:
        return TwoPredictions(side.variables, side.pattern, lineage.entries, n_classes)
    pattern = side.pattern if by_row else side.factor     # as `joint.OneSlot` has it
    rows = np.arange(len(pattern)) if by_row else None
    return OnePrediction(rows, side.variables[0], pattern, lineage.entries, lineage.group_of_entry,
                         len(lineage.texts), n_classes)
