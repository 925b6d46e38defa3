"""Gates of aggregation: count, sum and avg as linear maps of the joint sums, and their ratio.

With N the expected number of arguments that are not NULL and T their expected sum,
count = N and sum = T are exact expectations; avg = T / N is a ratio of expectations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgrain.provenance.annotate import Annotated
from pgrain.provenance.joint import extend, joint_gate
from pgrain.provenance.lineage import Lineage


@dataclass
class Gate:
    """One aggregate: which joint sums it reads, and the weight of each entry."""

    column: int
    function: str
    flags: np.ndarray               # (E,) float64 of 0 and 1
    count: tuple                    # combination of row weights that counts
    total: tuple | None             # combination that sums
    values: np.ndarray | None       # (E,) argument of each entry, None if it is a row weight


class Groups:
    """All aggregates of a query."""

    def __init__(self, annotated: Annotated, lineage: Lineage):
        self.lineage, self.joint = lineage, joint_gate(lineage)
        self.n_groups = len(lineage.texts)
        self.grouped = annotated.query.select.grouped
        self.pattern = lineage.entries[:, 0]
        self.classes = lineage.entries[:, 1]
        for column in range(2, lineage.entries.shape[1]):
            self.classes = self.classes * (lineage.n_classes + 1) + lineage.entries[:, column]
        self.group = lineage.group_of_entry
        self.base = (0,) * len(lineage.sides)
        self.gates: dict[int, Gate] = {}
        for number, cell in enumerate(annotated.cells):
            if cell.role != "aggregate":
                continue
            count, total = self.base, None
            if cell.measure is not None:
                side, m = cell.measure
                rows = lineage.sides[side]
                count = tuple(rows.flag_weight[m] if s == side else 0
                              for s in range(len(lineage.sides)))
                total = tuple(rows.value_weight[m] if s == side else 0
                              for s in range(len(lineage.sides)))
            if cell.function == "count":
                total = None
            elif cell.value:
                total = count
            self.gates[number] = Gate(number, cell.function,
                                      lineage.flags[:, len(self.gates)].astype(np.float64),
                                      count, total, lineage.values.get(number))

    def _combinations(self) -> list[tuple]:
        wanted = [self.base]
        for gate in self.gates.values():
            wanted += [gate.count] + ([gate.total] if gate.total else [])
        return list(dict.fromkeys(wanted))

    def _sum(self, weights: np.ndarray) -> np.ndarray:
        return np.bincount(self.group, weights, self.n_groups)

    def forward(self, P: np.ndarray) -> dict:
        """``rows``: (G,) expected rows; for each aggregate (N, T or None), each (G,)."""
        sums = {c: self.joint.forward(P, c)[self.pattern, self.classes]
                for c in self._combinations()}
        result = {"rows": self._sum(sums[self.base])}
        for number, gate in self.gates.items():
            n = self._sum(gate.flags * sums[gate.count])
            total = None
            if gate.total is not None:
                weights = gate.flags * sums[gate.total]
                total = self._sum(weights if gate.values is None else weights * gate.values)
            result[number] = (n, total)
        return result

    def cells(self, forward: dict) -> dict[int, np.ndarray]:
        """(G,) values of each aggregate; NaN stands for NULL."""
        cells = {}
        for number, gate in self.gates.items():
            n, total = forward[number]
            if gate.function == "count":
                cells[number] = n
                continue
            empty = n <= 0
            safe = np.where(empty, 1.0, n)
            cells[number] = np.where(empty, np.nan,
                                     total if gate.function == "sum" else total / safe)
        return cells

    def scales(self, forward: dict) -> dict[int, np.ndarray]:
        """(G,) bounds of the sum of absolute values, against which rounding is judged."""
        scales = {}
        for number, gate in self.gates.items():
            if gate.total is None:
                continue
            if gate.values is not None:
                largest = np.abs(gate.values).max(initial=0)
            else:
                side = next(s for s, w in enumerate(gate.total) if w)
                largest = np.abs(self.lineage.sides[side].weights[gate.total[side]]).max(initial=0)
            n = forward[number][0]
            scales[number] = largest * (n if gate.function == "sum" else 1.0)
        return scales

    def gradient(self, P: np.ndarray, weights: dict) -> np.ndarray:
        """d/dP of the sum of weight x cell over `weights` {(group, column): weight}."""
        forward = None
        to_sums: dict[tuple, np.ndarray] = {}
        by_column: dict[int, np.ndarray] = {}
        for (row, column), weight in weights.items():
            by_column.setdefault(column, np.zeros(self.n_groups))[row] += weight
        for column, weight in by_column.items():
            gate = self.gates[column]
            to_n, to_total = np.zeros(self.n_groups), np.zeros(self.n_groups)
            if gate.function == "count":
                to_n = weight
            elif gate.function == "sum":
                to_total = weight
            else:
                forward = forward or self.forward(P)     # avg alone is not linear
                n, total = forward[column]
                safe = np.where(n <= 0, 1.0, n)
                to_total = np.where(n <= 0, 0.0, weight / safe)
                to_n = np.where(n <= 0, 0.0, -weight * total / safe ** 2)
            self._scatter(to_sums, gate.count, gate.flags * to_n[self.group])
            if gate.total is not None:
                values = 1.0 if gate.values is None else gate.values
                self._scatter(to_sums, gate.total, gate.flags * values * to_total[self.group])
        return self._backward(P, to_sums)

    def _backward(self, P: np.ndarray, to_sums: dict[tuple, np.ndarray]) -> np.ndarray:
        """d/dP of the joint sums' weighted sum, from the weight of each entry."""
        result = None
        for combination, entry_gradient in to_sums.items():
            width = P.shape[1] ** (self.lineage.entries.shape[1] - 1)
            n_patterns = self.joint.n if hasattr(self.joint, "n") else \
                len(self.lineage.sides[0].starts)
            dense = np.bincount(self.pattern * width + self.classes, entry_gradient,
                                n_patterns * width).reshape(n_patterns, width)
            part = self.joint.backward(P, combination, dense)
            result = part if result is None else result + part
        return np.zeros_like(P) if result is None else result

    def fixed_counts(self, column: int) -> bool:
        """Whether no prediction moves how many arguments an aggregate has in any group: an average
        is the exact expectation then."""
        # Probabilities at which nothing cancels by chance, as it would among equal ones.
        P = 0.5 + np.random.default_rng(0).random((self.lineage.n_variables,
                                                   self.lineage.n_classes))
        P = extend(P / P.sum(axis=1, keepdims=True))
        gate = self.gates[column]
        # Of a sum of the groups with weights that do not cancel: a row moves from group to group.
        weights = 1.0 + np.sqrt(2.0 + np.arange(self.n_groups))
        to_sums: dict[tuple, np.ndarray] = {}
        self._scatter(to_sums, gate.count, gate.flags * weights[self.group])
        slopes = self._backward(P, to_sums)[:-1, :-1]
        apart = slopes.max(axis=1, initial=-np.inf) - slopes.min(axis=1, initial=np.inf)
        return bool((apart <= 1e-9 * np.abs(slopes).max(initial=1.0)).all())

    @staticmethod
    def _scatter(sums: dict, combination: tuple, gradient: np.ndarray) -> None:
        if combination in sums:
            sums[combination] = sums[combination] + gradient
        else:
            sums[combination] = gradient

    def variables(self) -> np.ndarray:
        """(G,) number of distinct variables that the cells of each group may depend on."""
        null = self.lineage.n_variables
        patterns, variables = self.joint.variables_of_patterns()
        keep = variables != null
        width = null + 1
        pairs = np.unique(patterns[keep] * width + variables[keep])
        patterns, variables = pairs // width, pairs % width
        n_patterns = int(self.pattern.max(initial=-1)) + 1
        used = np.unique(self.group * n_patterns + self.pattern) if n_patterns else \
            np.zeros(0, np.int64)
        counts = np.zeros(self.n_groups, np.int64)
        if not len(used):
            return counts
        groups, of = used // n_patterns, used % n_patterns
        bounds = np.searchsorted(patterns, [of, of + 1])
        for group in np.unique(groups):
            mine = np.flatnonzero(groups == group) if len(of) < 4096 else \
                np.arange(*np.searchsorted(groups, [group, group + 1]))
            if len(mine) == 1:
                counts[group] = bounds[1][mine[0]] - bounds[0][mine[0]]
            else:
                parts = [variables[bounds[0][i]:bounds[1][i]] for i in mine]
                counts[group] = len(np.unique(np.concatenate(parts)))
        return counts
