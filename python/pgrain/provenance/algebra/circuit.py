"""The circuit of a query of any nesting: its output rows over the network (compare `Circuit`)."""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

from pgrain.errors import InvalidArgument
from pgrain.provenance.algebra import comparisons
from pgrain.provenance.algebra.assemble import Assembly
from pgrain.provenance.algebra.presence import Presence
from pgrain.provenance.algebra.small_gates import Disjoint
from pgrain.provenance.algebra.wiring import NEVER
from pgrain.provenance.output import RELATIVE, RELATIVE_PROBABILITY, Output
from pgrain.provenance.presence import ABSENT


class NetworkCircuit:
    """The output of one query as a function of the class probabilities of its variables.

    Parameters
    ----------
    capture : NetworkCapture
    lineage : Assembly
        What ``capture.read`` returned; ``lineage.digests`` names the variables of each model.

    Attributes
    ----------
    shapes, classes : dict
        Model -> (V, R); model -> its classes.
    """

    def __init__(self, capture, lineage: Assembly):
        self.capture, self.lineage = capture, lineage
        self.columns, self.by_row = capture.output_columns, capture.by_row
        self.program, self.wiring = capture.program, lineage.wiring
        self.shapes, self.classes = self.wiring.shapes, self.program.classes
        self.key_columns = [i for i, c in enumerate(self.columns)
                            if c.role in ("row", "group", "constant")]
        packed = lineage.packed
        self.n = packed.count("final.count")
        texts = packed.texts("final.texts")
        self.texts = [row[:len(self.key_columns)] for row in texts]
        self.cells: dict[int, np.ndarray] = {}
        self.options: dict[int, tuple] = {}      # column -> (row, text, literal) of each option
        self.arrays: dict[int, tuple] = {}       # column -> (row, element, literal) in order
        (self._of_rows if self.by_row else self._of_relation)()
        self.numeric = {column: np.array([math.nan if t is None else float(t) for t in option[1]])
                        for column, option in self.options.items()
                        if self.columns[column].numeric}
        self.network = self.wiring.network()
        self._presence = Presence(self.network)
        self.relative = RELATIVE_PROBABILITY if any(
            slot.mode == "proba" for slot in self.program.slots) else RELATIVE

    # --- output rows -----------------------------------------------------------------------

    def _of_rows(self) -> None:
        """A query without grouping: each base row is an output row."""
        block = self.program.blocks[self.capture.final.block]
        base = self.lineage.bases[block.number]
        labels = [c for c, spec in enumerate(block.outputs[:len(self.columns)])
                  if spec.where == "entry"]
        if block.enumerated:
            row, entry, literals = base.pairs()
            event = self.wiring.events(literals)
            out = self.wiring.threes(base.n)
            self.wiring.add(Disjoint(out, base.n, row, event))
            self.present = out + 3 * np.arange(base.n) + 1
            texts = self.lineage.packed.texts("final.labels") if labels else []
            for place, column in enumerate(labels):
                self.options[column] = (row, [texts[e][place] for e in entry], event)
        else:
            self.present = self.wiring.events(base.literals)
        for column, spec in enumerate(block.outputs[:len(self.columns)]):
            if spec.where == "cell":
                self.cells[column] = base.places(block.cells[spec.column.cell])
            elif spec.where == "flag":
                self._flag(column, comparisons.place(base, block.flags[spec.column.flag]))
            elif spec.where == "shown":
                self.arrays[column] = self.lineage.array_of(base, block.shown[spec.column.shown])

    def _of_relation(self) -> None:
        """Any other query: each possible row of the last relation is an output row."""
        final = self.capture.final
        rows = self.lineage.rows[final.block]
        self.present = self.wiring.events(rows.literals)
        for column, described in enumerate(final.columns):
            if described.cell is not None:
                self.cells[column] = rows.cells[described.cell]
            elif described.flag is not None:
                self._flag(column, rows.flags[described.flag])
            elif described.shown is not None:
                self.options[column] = rows.shown[described.shown]

    def _flag(self, column: int, places: np.ndarray) -> None:
        """A boolean of the circuit as a label: true, false or NULL, and the row there."""
        every = np.arange(self.n)
        literals = np.concatenate([
            self.wiring.conjunction(self.present, places + code) for code in (1, 0, 2)]) \
            if self.n else np.zeros((0, 1), np.int64)
        self.options[column] = (np.tile(every, 3), ["true"] * self.n + ["false"] * self.n
                                + [None] * self.n, self.wiring.events(literals))

    # --- evaluation ------------------------------------------------------------------------

    def value(self, predicted: dict[str, np.ndarray], P: dict | None = None) -> Output:
        """The output on predicted classes: what PostgreSQL returns.

        `predicted` maps each model to the classes (V,) of its variables, in the order of
        ``lineage.digests``; `P` to their probabilities, which matter for predict_proba alone.
        """
        hard = {}
        for model, (variables, classes) in self.shapes.items():
            chosen = np.asarray(predicted[model])
            if chosen.shape != (variables,):
                raise InvalidArgument(f"expected {variables} predicted classes, "
                                      f"not {chosen.shape}")
            hard[model] = np.zeros((variables, classes))
            hard[model][np.arange(variables), chosen] = 1.0
        return self._output(self._forward(hard, P or hard, True), True)

    def relaxed(self, P: dict[str, np.ndarray]) -> Output:
        """The output on probabilities (V, R) of each model: its expectation, where that is exact
        (docs/dev/semantics.md)."""
        return self._output(self._forward(P, P, False), False)

    def gradient(self, P: dict[str, np.ndarray], weights: dict) -> dict[str, np.ndarray]:
        """d(sum of weight x relaxed cell)/dP, (V, R) float64 for each model.

        Keys of `weights` are (row, column) for a relaxed cell, (row, column, text) for the
        probability that the cell is there and shows `text`, or (row, ABSENT) for `log_absent`.
        """
        state = self._forward(P, P, False)
        dP, dX, silent = np.zeros(self.network.n_p), np.zeros(self.network.n_x), {}
        for key, weight in weights.items():
            row, column = key[:2]
            if column == ABSENT:
                self._presence.add(state, int(self.present[row]), weight, dP, silent)
            elif len(key) == 3:
                np.add.at(dP, self._literals(row, column, key[2]), weight)
            elif column in self.cells:
                dX[self.cells[column][row]] += weight
            else:
                of, _, literal = self.options[column]
                n, total = self._moments(column, state.P)
                mine = (of == row) & ~np.isnan(self.numeric[column])
                if n[row] > 0:
                    slope = (self.numeric[column][mine] - total[row] / n[row]) / n[row]
                    np.add.at(dP, literal[mine], weight * slope)
        return self._split(self.network.backward(state, dP, dX, silent=silent))

    def log_absent(self, P: dict[str, np.ndarray], rows: list[int]) -> np.ndarray:
        """(len(rows),) log of the probability that each row is not in the output."""
        state = self._forward(P, P, False)
        return np.array([self._presence.log_absent(state, int(self.present[row]))
                         for row in rows], float)

    def probability(self, P: dict[str, np.ndarray], row: int, column: int, text: str) -> float:
        """Probability that the row is in the output and its `column` shows `text`."""
        state = self._forward(P, P, False)
        return float(state.P[self._literals(row, column, text)].sum())

    def possible_texts(self, column: int) -> list[str]:
        """What a label column can show."""
        if column in self.arrays:       # any subsequence of its elements
            return []
        return sorted({t for t in self.options[column][1] if t is not None})

    def variables(self) -> np.ndarray:
        """(rows,) number of distinct variables that each output row depends on."""
        n_p, n_nodes = self.network.n_p, self.network.n_p + self.network.n_x
        targets, sources = self.network.edges()
        ones = np.ones(len(targets), np.int8)
        step = csr_matrix(coo_matrix((ones, (targets, sources)), shape=(n_nodes, n_nodes)) > 0)
        every = np.arange(self.n)
        starts = [(every, self.present)]
        starts += [(every, n_p + places) for places in self.cells.values()]
        starts += [(row, literal) for row, _, literal in
                   (*self.options.values(), *self.arrays.values())]
        rows = np.concatenate([row for row, _ in starts])
        nodes = np.concatenate([node for _, node in starts])
        reached = csr_matrix((np.ones(len(rows), bool), (rows, nodes)), shape=(self.n, n_nodes))
        found = [reached]
        while reached.nnz:      # the network has no cycles
            reached = (reached.astype(np.int32) @ step.astype(np.int32)) > 0
            found.append(reached)
        names = self._variable_of_literal()
        together = sum(part.astype(np.int32) for part in found).tocoo()
        given = together.col < len(names)
        row, variable = together.row[given], names[together.col[given]]
        row, variable = row[variable >= 0], variable[variable >= 0]
        pairs = np.unique(row * (int(names.max(initial=0)) + 1) + variable)
        return np.bincount(pairs // (int(names.max(initial=0)) + 1), minlength=self.n)

    # --- inside ----------------------------------------------------------------------------

    def _variable_of_literal(self) -> np.ndarray:
        """Variable of each given literal, -1 for constants; raw copies share it."""
        names = np.full(self.wiring.given + 1, -1, np.int64)
        shift = 0
        for model, (variables, classes) in self.shapes.items():
            made = shift + np.repeat(np.arange(variables), classes)
            for at in (self.wiring.offset[model], self.wiring.raw[model]):
                names[at:at + len(made)] = made
            shift += variables
        return names

    def _forward(self, P: dict, raw: dict, hard: bool):
        parts = [np.zeros(1)]
        for given in (P, raw):
            for model, shape in self.shapes.items():
                array = np.asarray(given[model], np.float64)
                if array.shape != shape:
                    raise InvalidArgument(f"expected probabilities of shape {shape}, "
                                          f"not {array.shape}")
                parts.append(array.ravel())
        return self.network.forward(np.concatenate(parts), hard)

    def _split(self, gradient: np.ndarray) -> dict[str, np.ndarray]:
        result = {}
        for model, (variables, classes) in self.shapes.items():
            size = variables * classes
            parts = [gradient[at - 1:at - 1 + size]
                     for at in (self.wiring.offset[model], self.wiring.raw[model])]
            result[model] = (parts[0] + parts[1]).reshape(variables, classes)
        return result

    def _literals(self, row: int, column: int, text: str) -> np.ndarray:
        of, texts, literal = self.options[column]
        return literal[(of == row) & np.array([t == text for t in texts], bool)]

    def _moments(self, column: int, P: np.ndarray):
        of, _, literal = self.options[column]
        known = ~np.isnan(self.numeric[column])
        p = P[literal[known]]
        return (np.bincount(of[known], p, self.n),
                np.bincount(of[known], p * self.numeric[column][known], self.n))

    def _output(self, state, hard: bool) -> Output:
        numbers = np.full((self.n, len(self.columns)), np.nan)
        for column, places in self.cells.items():
            numbers[:, column] = np.where(state.K[places] > 0, state.X[places], np.nan)
        labels: dict[int, list] = {}
        for column, (of, texts, literal) in self.options.items():
            if column in self.numeric:
                n, total = self._moments(column, state.P)
                numbers[:, column] = np.where(n > 0, total / np.where(n > 0, n, 1.0), np.nan)
            if hard:
                shown: list = [None] * self.n
                for at in np.flatnonzero(state.P[literal] > 0.5).tolist():
                    shown[of[at]] = texts[at]
                labels[column] = shown
        for column, (of, elements, literal) in self.arrays.items() if hard else ():
            made: list[list] = [[] for _ in range(self.n)]
            for at in np.flatnonzero(state.P[literal] > 0.5).tolist():
                made[of[at]].append(elements[at])
            labels[column] = ["{" + ",".join(row) + "}" for row in made]
        weight = state.P[self.present]
        return Output(self.columns, self.key_columns, self.texts, weight > 0.5, weight, numbers,
                      labels, np.nan_to_num(np.abs(numbers)), hard, self.relative,
                      self.present != NEVER,
                      any(block.kind == "limit" for block in self.program.blocks))
