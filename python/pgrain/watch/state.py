"""The state of a watch: linear sums by group, and what rows add to them.

For each group and each *atom* (the rows of the group; for each aggregate its count and, for sum and
avg, its total) the state holds

    counts   how many pairs (row, class assignment) can contribute: an exact integer
    sums     [value, relaxed value, V^T grad of the relaxed value]   2 + m numbers

all of which add up over rows. A cell of the output is an atom (count, sum) or the ratio of two
(avg). Sums are kept as pairs (high, low) of float64 that together carry twice the digits (Knuth's
two-sum), so that a million additions and subtractions leave nothing behind; where a count falls to
zero the sums are set to zero, which is what they are. Where outliers go, what they were among is
summed anew (`State.add`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np

from pgrain.errors import InvalidArgument
from pgrain.provenance.annotate import Annotated
from pgrain.provenance.lineage import Lineage, sortable
from pgrain.provenance.output import Output, OutputColumn
from pgrain.watch.plan import reading

_BLOCK_BYTES = 32 << 20
# A sum so large of which so small a part is left, of what was added to it since it was computed,
# whatever the signs: outliers have gone, at once or one after the other. What they leave behind
# (the rounding of a float64, of a relaxed sum that of predictions in float32) would show.
_LARGE, _LEFT = 2.0 ** 20, 2.0 ** -16


@dataclass
class Tally:
    """What some rows add: keys (G,), texts (G,), counts (G, A) int64, sums (G, A, 2 + m); sizes
    (G, A, 2): value and relaxed value of the same without their signs."""

    keys: list[str]
    texts: list[list]
    counts: np.ndarray
    sums: np.ndarray
    sizes: np.ndarray


@dataclass
class State:
    """The state of one watch: key -> (texts, counts (A,), high (A, 2 + m), low (A, 2 + m),
    sizes (2, A, 2): those of `Tally` that are left, and the most that they have been)."""

    cells: dict[str, tuple] = field(default_factory=dict)

    def add(self, tally: Tally, sign: int) -> set[str]:
        """Add (+1) or take away (-1) a tally; the keys of the groups that it touched.

        22023 where an outlier has gone and the state is to be computed anew.
        """
        for number, key in enumerate(tally.keys):
            counts, sums = sign * tally.counts[number], sign * tally.sums[number]
            size = sign * tally.sizes[number]
            known = self.cells.get(key)
            if known is None:
                self.cells[key] = (tally.texts[number], counts, sums, np.zeros_like(sums),
                                   np.stack([size, size]))
                continue
            texts, held, high, low, (left, most) = known
            counts = held + counts
            total = high + sums                  # two-sum: total + error is high + sums exactly
            part = total - high
            error = (high - (total - part)) + (sums - part)
            low = low + error
            left = left + size
            most = np.maximum(most, left)
            high, low = total + low, low - ((total + low) - total)
            nothing = counts == 0
            for part in (high, low, left, most):
                part[nothing] = 0.0
            if most.max() > _LARGE and ((most > _LARGE) & (left < _LEFT * most)).any():
                raise InvalidArgument("a number far larger than all others has gone")
            self.cells[key] = (texts, counts, high, low, np.stack([left, most]))
        for key in set(tally.keys):
            if key != "[]" and not self.cells[key][1].any():   # "[]": there without any row
                del self.cells[key]
        return set(tally.keys)

    @property
    def bytes(self) -> int:
        """About how much memory it takes: each group has its texts, and three arrays."""
        some = next(iter(self.cells.values()), None)
        return 0 if some is None else len(self.cells) * (
            600 + sum(len(str(text)) for text in some[0])
            + sum(array.nbytes for array in some[1:]))

    def copy(self) -> State:
        """A state that can be added to without changing this one."""
        return State(dict(self.cells))

    def take(self, kept: dict, side: int, lineage: Lineage, predicted: np.ndarray, P: np.ndarray,
             J: np.ndarray | None, sign: int) -> set[str]:
        """`add` the `tally` of rows of the watch's one table."""
        return self.add(tally(reading(kept), kept, lineage, predicted, P, J), sign)

    def rows(self, keys: Iterable[str] | None = None) -> dict[str, tuple[str, bytes]]:
        """key -> (texts, data) of what is there, all of it or of these keys: rows of
        pgrain.watch_cell."""
        return {key: pack(self.cells[key]) for key in (self.cells if keys is None else keys)
                if key in self.cells}

    @staticmethod
    def loaded(rows: Iterable[tuple[str, str, bytes]], kept: dict) -> State:
        """The state whose `rows` these (key, texts, data) are."""
        return State({key: unpack(texts, data, atom_count(kept)) for key, texts, data in rows})

    too_large = None     # (see `JoinedState`)

    def standing(self, kept: dict) -> State:
        """The cells of the output: of a watch of one table, these."""
        return self


def pack(cell: tuple) -> tuple[str, bytes]:
    """(texts as JSON, counts, sizes and sums as little-endian bytes) of one cell, for its table
    row."""
    texts, counts, high, low, sizes = cell
    return (json.dumps(texts), counts.astype("<i8").tobytes() + b"".join(
        part.astype("<f8").tobytes() for part in (sizes, high, low)))


def unpack(texts: str, data, atoms: int) -> tuple:
    """The cell that `pack` packed."""
    counts = np.frombuffer(data, "<i8", atoms).astype(np.int64)
    numbers = np.frombuffer(data, "<f8", offset=8 * atoms).astype(np.float64)
    sizes, sums = numbers[:4 * atoms], numbers[4 * atoms:]
    return (json.loads(texts), counts, *sums.reshape(2, atoms, -1), sizes.reshape(2, atoms, 2))


def atom_count(shape: dict) -> int:
    """How many atoms a watch of this shape has."""
    return 1 + sum(1 if function == "count" else 2 for function in shape["functions"] if function)


def canonical(text: str | None, type_oid: int) -> str | None:
    """One text for all values that PostgreSQL holds equal: 1.0 and 1.00, 0 and -0."""
    if text is None:
        return None
    if type_oid == 1700:
        number = Decimal(text)
        return str(number.normalize() + 0) if number.is_finite() else text
    if type_oid in (700, 701):
        return repr(float(text) + 0.0)
    return text.rstrip(" ") if type_oid == 1042 else text


def tally(annotated: Annotated, shape: dict, lineage: Lineage, predicted: np.ndarray,
          P: np.ndarray, J: np.ndarray | None) -> Tally:
    """What the rows of a capture add to the state.

    predicted: (V,) classes; P: (V, R) probabilities; J: (V, R, m) logits' Jacobian times V, or
    None without a spectrum. Rows are taken in blocks, so memory does not grow with their number.
    """
    side, m = lineage.sides[0], 0 if J is None else J.shape[2]
    atoms = atoms_of(annotated, lineage)
    # Of notes that were put together a group may be there several times.
    texts: dict[str, list] = {}
    keys = [key_of(row, shape) for row in lineage.texts]
    for key, row in zip(keys, lineage.texts, strict=True):
        texts.setdefault(key, row)
    number_of = {key: number for number, key in enumerate(texts)}
    group_number = np.array([number_of[key] for key in keys], np.int64)
    counts = np.zeros((len(texts), len(atoms)), np.int64)
    sums = np.zeros((len(texts), len(atoms), 2 + m))
    # Without a sign they are the sums themselves.
    signed = [bool((side.weights[weighted] < 0).any() or (per_entry < 0).any())
              for _, weighted, per_entry, _ in atoms]
    sizes = np.zeros((len(texts), len(atoms), 2))
    joint = np.zeros(len(lineage.entries), np.int64)
    for column in range(1, lineage.entries.shape[1]):
        joint = joint * (lineage.n_classes + 1) + lineage.entries[:, column]
    order = np.argsort(lineage.entries[:, 0], kind="stable")
    pattern, joint = lineage.entries[order, 0], joint[order]
    group = group_number[lineage.group_of_entry[order]]
    n_joint = (lineage.n_classes + 1) ** len(side.variables)
    step = max(_BLOCK_BYTES // (8 * n_joint * (2 + m)), 16)
    for start in range(0, len(side.factor), step):
        rows = slice(start, start + step)
        factor = side.factor[rows]
        first = int(factor[0])
        bounds = np.flatnonzero(np.concatenate(([True], factor[1:] != factor[:-1])))
        entries = slice(*np.searchsorted(pattern, [first, int(factor[-1]) + 1]))
        where, which, to = pattern[entries] - first, joint[entries], group[entries]
        if not len(where):
            continue
        made = _joint([v[rows] for v in side.variables], predicted, P, J, lineage.n_classes)
        summed: dict[int, np.ndarray] = {}
        for number, (counted, weighted, per_entry, flags) in enumerate(atoms):
            if weighted not in summed:
                block = made if not weighted else \
                    made * side.weights[weighted][rows][:, None, None]
                summed[weighted] = np.add.reduceat(block, bounds, axis=0)
            here = np.add.reduceat((side.weights[counted][rows] != 0).astype(np.int64), bounds)
            add = per_entry[order][entries][:, None] * summed[weighted][where, which]
            np.add.at(sums[:, number], to, add)
            np.add.at(counts[:, number], to, here[where] * flags[order][entries])
            if signed[number]:
                size = np.add.reduceat(made[..., :2] * np.abs(side.weights[weighted][rows])[
                    :, None, None], bounds, axis=0)
                np.add.at(sizes[:, number], to,
                          np.abs(per_entry)[order][entries][:, None] * size[where, which])
    for number, some in enumerate(signed):
        if not some:
            sizes[:, number] = sums[:, number, :2]
    return Tally(list(texts), list(texts.values()), counts, sums, sizes)


def key_of(texts: list, shape: dict) -> str:
    """The group's name: the canonical texts of its key columns, as JSON."""
    shown = [c for c, column in enumerate(shape["columns"]) if column["role"] != "aggregate"]
    return json.dumps([canonical(texts[shown.index(c)], shape["columns"][c]["type_oid"])
                       for c in shape["keys"]])


def atoms_of(annotated: Annotated, lineage: Lineage) -> list[tuple]:
    """(weight that counts, weight that sums, factor of each entry, flag of each entry)."""
    side, n = lineage.sides[0], len(lineage.entries)
    atoms, number = [(0, 0, np.ones(n), np.ones(n, np.int64))], 0
    for column, cell in enumerate(annotated.cells):
        if cell.role != "aggregate":
            continue
        flags = lineage.flags[:, number].astype(np.int64)
        number += 1
        count = total = 0
        if cell.measure is not None:
            count = side.flag_weight[cell.measure[1]]
            total = side.value_weight[cell.measure[1]]
        atoms.append((count, count, flags.astype(np.float64), flags))
        if cell.function != "count":
            if cell.value:
                atoms.append((count, count, flags * lineage.values[column], flags))
            else:
                atoms.append((count, total, flags.astype(np.float64), flags))
    return atoms


def _joint(variables: list[np.ndarray], predicted, P, J, n_classes: int) -> np.ndarray:
    """(n, joint classes, 2 + m): class indicator, probability and its projected gradient."""
    single = [class_slopes(v, predicted, P, J, n_classes) for v in variables]
    if len(single) == 1:
        return single[0]
    left, right = single
    n, width, depth = left.shape
    made = np.empty((n, width, width, depth))
    made[..., :2] = left[:, :, None, :2] * right[:, None, :, :2]
    made[..., 2:] = (left[:, :, None, 2:] * right[:, None, :, 1:2]
                     + left[:, :, None, 1:2] * right[:, None, :, 2:])
    same = np.flatnonzero(variables[0] == variables[1])     # x = x: one variable, not two
    made[same] = 0.0
    for c in range(width):
        made[same, c, c] = left[same, c]
    return made.reshape(n, width * width, depth)


def class_slopes(variable: np.ndarray, predicted, P, J, n_classes: int) -> np.ndarray:
    """d p_j = p_j (J_j - sum_i p_i J_i) beside p_j and the indicator; the last class is NULL."""
    n, m = len(variable), 0 if J is None else J.shape[2]
    made = np.zeros((n, n_classes + 1, 2 + m))
    known = np.flatnonzero(variable < len(P))
    at = variable[known]
    made[known, predicted[at], 0] = 1.0
    p = P[at]
    made[known, :-1, 1] = p
    if m:
        slopes = J[at].astype(np.float64)
        mean = np.einsum("nr,nrm->nm", p, slopes)
        made[known, :-1, 2:] = p[:, :, None] * (slopes - mean[:, None, :])
    missing = np.flatnonzero(variable >= len(P))
    made[missing, n_classes, :2] = 1.0
    return made


class StandingCircuit:
    """A state as the circuit that `complaint.objective` takes: columns, value, relaxed, gradient.

    The gradient is projected already: `gradient` gives V^T grad, (m,), in place of (V, R).
    """

    def __init__(self, state: State, shape: dict, m: int):
        self.shape = shape
        self.columns = [OutputColumn(**column) for column in shape["columns"]]
        keys_ = [c for c, column in enumerate(self.columns) if column.role != "aggregate"]
        cells = list(state.cells.values())
        if not shape["grouped"] and not cells:
            atoms = atom_count(shape)
            nothing = np.zeros((atoms, 2 + m))
            cells = [([None] * len(keys_), np.zeros(atoms, np.int64), nothing)]
        cells.sort(key=lambda cell: [sortable(text) for text in cell[0]])
        self.texts = [cell[0] for cell in cells]
        shaped = (len(cells), atom_count(shape), 2 + m)
        self.counts = np.array([cell[1] for cell in cells], np.int64).reshape(shaped[:2])
        self.sums = np.array([cell[2] for cell in cells]).reshape(shaped) if cells \
            else np.zeros(shaped)
        self.key_columns = keys_
        self.atom_of: dict[int, tuple[int, int | None]] = {}
        at = 1
        for column, function in enumerate(shape["functions"]):
            if function is None or self.columns[column].role != "aggregate":
                continue
            self.atom_of[column] = (at, None if function == "count" else at + 1)
            at += 1 if function == "count" else 2

    def output(self, hard: bool) -> Output:
        """The output rows on classes (`hard`) or on probabilities."""
        which = 0 if hard else 1
        n_rows = len(self.texts)
        weight = self.sums[:, 0, which]
        present = weight > 0.5
        if not self.shape["grouped"]:
            present = np.ones(n_rows, bool)
        numbers = np.full((n_rows, len(self.columns)), np.nan)
        for column, (n_atom, t_atom) in self.atom_of.items():
            n = self.sums[:, n_atom, which]
            if t_atom is None:
                numbers[:, column] = n
                continue
            some = n > 0
            total = self.sums[some, t_atom, which]
            numbers[some, column] = total if self.shape["functions"][column] == "sum" \
                else total / n[some]
        return Output(self.columns, self.key_columns, self.texts, present, weight, numbers, {},
                      np.zeros_like(numbers), hard)

    def gradient(self, P, weights: dict) -> dict[str, np.ndarray]:
        """V^T grad of the sum of weight x relaxed cell, (m,) float64, under the model's name;
        nothing where no row can contribute."""
        c, depends = np.zeros(self.sums.shape[2] - 2), False
        for (row, column), weight in weights.items():
            n_atom, t_atom = self.atom_of[column]
            depends = depends or self.counts[row, n_atom] > 0
            n, slope_n = self.sums[row, n_atom, 1], self.sums[row, n_atom, 2:]
            if t_atom is None:
                c += weight * slope_n
                continue
            total, slope_t = self.sums[row, t_atom, 1], self.sums[row, t_atom, 2:]
            if self.shape["functions"][column] == "sum":
                c += weight * slope_t
            elif n > 0:
                c += weight * (slope_t / n - slope_n * total / n ** 2)
        return {self.shape["model"]: c} if depends else {}

    def probability(self, P, row: int, column: int, text: str) -> float:
        """No cell of an aggregate shows a text."""
        raise InvalidArgument("a watch has no label columns")

    def possible_texts(self, column: int) -> list[str]:
        """None: see `probability`."""
        return []
