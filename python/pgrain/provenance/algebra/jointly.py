"""Comparisons of numbers of groups, decided together by a diagram of the groups' terms.

Where groups are small, this is exact for any arithmetic over counts, sums, averages, extremes and
truths of theirs, for any number of comparisons, and given what HAVING said of them: at each last
node of the diagram all of these have a value. Sets of shared variables are conditioned on as far as
they are among the terms; results of other gates count as independent.
"""

from __future__ import annotations

import numpy as np

from pgrain.errors import UnsupportedOperator
from pgrain.provenance.algebra.blocks import Atom, Number
from pgrain.provenance.algebra.diagrams import SET_BITS, Column, Diagrams, build
from pgrain.provenance.algebra.wiring import CERTAIN, NEVER, Buckets
from pgrain.provenance.gates.arithmetic import Arithmetic
from pgrain.provenance.gates.diagram import Diagram
from pgrain.provenance.gates.network import State
from pgrain.provenance.gates.threshold import cheapest

PAIRS = 1 << 21         # rows and last nodes that are evaluated
TERMS = 1 << 18         # terms of groups for rows that share variables with them
TOLERANCE = 1e-12       # of a comparison, relative
_TESTS = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
          "=": np.equal, "<>": np.not_equal}
_SCALES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)


class _Unknown(Exception):
    """A number that no diagram has."""


class Picked:
    """Some rows of a Base, as far as diagrams ask."""

    def __init__(self, of, rows: np.ndarray):
        self.of, self.rows, self.n = of, rows, len(rows)
        self.block, self.assembly = of.block, of.assembly

    def origin(self, leaf: tuple):
        groups, of, number = self.of.origin(leaf)
        return groups, of[self.rows], number

    def constant(self, leaf: tuple) -> np.ndarray:
        values = self.of.constant(leaf)
        return values[self.rows] if len(values) else values


class Joint:
    """Numbers and comparisons over `rows` (a Base, some of its rows, or Groups), by the terms of
    their groups.

    beside: (n, L) literals that hold beside each row, given which everything is.
    """

    def __init__(self, rows, beside: np.ndarray | None = None):
        self.rows, self.n = rows, rows.n
        self.beside, self.event = None, np.zeros(self.n, np.int64)
        if beside is not None:
            self.beside, self.event = np.unique(beside, axis=0, return_inverse=True)
            self.event = self.event.reshape(-1)
        self.slots: list[tuple] = []            # (Groups, (n,) group of each row, -1: none)
        self._slot: dict[tuple, int] = {}
        self.columns: list[tuple] = []          # (slot, kind, aggregate or None)
        self.scales: dict[tuple, float] = {}
        self.own = False                        # HAVING of `rows` itself has let them pass

    # --- what is asked ---------------------------------------------------------------------

    def _every(self) -> np.ndarray:
        return np.arange(self.n)

    def ask(self, asked: Atom | Number) -> bool:
        """Whether a diagram can know this; called before `build`."""
        try:
            (self._ask_atom if isinstance(asked, Atom) else self._ask)(
                self.rows, self._every(), asked)
        except _Unknown:
            return False
        return True

    def _ask_atom(self, rows, of, atom: Atom) -> None:
        for number in (atom.left, atom.right):
            if number is not None:
                self._ask(rows, of, number)

    def _ask(self, rows, of: np.ndarray, number: Number) -> None:
        for leaf in number.leaves:
            if leaf[0] == "leaf":
                continue
            if leaf[0] == "condition":
                self._ask_atom(rows, of, _atoms(rows)[leaf[1]])
            elif leaf[0] == "aggregate" and hasattr(rows, "grouping"):
                self._ask_aggregate(self._slot_of(rows, of), leaf[1])
            elif leaf[0] == "cell":
                groups, theirs, made = self._origin(rows, of, leaf)
                self._ask(groups, theirs, made)
            else:
                raise _Unknown

    @staticmethod
    def _origin(rows, of, leaf):
        try:
            groups, theirs, made = rows.origin(leaf)
        except UnsupportedOperator:
            raise _Unknown from None
        return groups, np.where(of >= 0, theirs[of], -1) if len(theirs) else \
            np.full(len(of), -1), made

    def _slot_of(self, groups, of: np.ndarray) -> int:
        key = id(groups), of.tobytes()
        if key not in self._slot:
            self._slot[key] = len(self.slots)
            self.slots.append((groups, of))
            slot = self._slot[key]
            if not groups.certain:
                self._column(slot, "some", None)
            if self._passed(groups):
                for atom in groups.grouping.atoms:
                    self._ask_atom(groups, of, atom)
        return self._slot[key]

    def _passed(self, groups) -> bool:
        """Whether rows of these groups are there only where HAVING let them pass."""
        return (self.own or groups is not self.rows) and groups.grouping.having is not None

    @property
    def passed(self) -> bool:
        """Whether one of the groups has passed a HAVING."""
        return any(self._passed(groups) for groups, _ in self.slots)

    def _column(self, slot: int, kind: str, j: int | None) -> int:
        if (slot, kind, j) not in self.columns:
            self.columns.append((slot, kind, j))
        return self.columns.index((slot, kind, j))

    def _ask_aggregate(self, slot: int, j: int) -> None:
        groups = self.slots[slot][0]
        aggregate = groups.grouping.aggregates[j]
        if aggregate.number is not None:
            raise _Unknown
        if aggregate.distinct and aggregate.function in ("count", "sum", "avg"):
            self._column(slot, "set", j)
        elif aggregate.function in ("sum", "avg"):
            self._column(slot, "sum", j)
            self._column(slot, "count" if aggregate.function == "avg" else "some", j)
        elif aggregate.function.startswith("bool"):
            self._column(slot, "max", j)
            self._column(slot, "min", j)
        else:
            self._column(slot, aggregate.function, j)

    # --- the diagrams ----------------------------------------------------------------------

    def build(self) -> bool:
        """Make the diagrams; False if there is none."""
        of = np.stack([*(of for _, of in self.slots), self.event], axis=1)
        distinct, instance = np.unique(of, axis=0, return_inverse=True)
        self.instance = instance.reshape(-1)
        self.of_instance, n = distinct, len(distinct)
        columns = []
        for slot, kind, j in self.columns:
            made = self._terms(slot, kind, j)
            if made is None:
                return False
            columns.append(made)
        if self.beside is not None:
            columns.append(Column("some", np.arange(n), self.beside[distinct[:, -1]]))
        self.found = build(self.rows.assembly.wiring, n, columns) if n and columns else None
        if self.found is None:
            return False
        finals = np.bincount(self.found.instance, minlength=n)
        self.last = Buckets(self.found.instance)
        self.n_finals = finals
        self.fits = self.found.fits[self.instance]
        if int(finals[self.instance[self.fits]].sum()) > PAIRS:
            return False
        self._there = self._conditions()
        return True

    def _terms(self, slot: int, kind: str, j: int | None) -> Column | None:
        groups, mine = self.slots[slot][0], self.of_instance[:, slot]
        if j is None:
            instance, term = Buckets(groups.group).pairs(mine)
            literals = groups.wiring.absorbed(groups.group, groups.literals)
            return Column("some", instance, literals[term])
        terms, rank = groups.counted(j)
        value = terms.value
        if kind == "sum":
            scale = next((scale for scale in _SCALES if _is_whole(value * scale)), 0.0)
            self.scales[slot, j] = scale
            value = np.rint(value * scale) if scale else value
        elif kind in ("min", "max") and groups.grouping.aggregates[j].as_text:
            value = rank
        elif kind == "set":
            values, value = np.unique(rank, return_inverse=True)
            if len(values) > SET_BITS:
                return None
            value = value.reshape(-1)
            weights = np.ones(len(values))
            if terms.value is not None:
                weights[value] = terms.value
            self.scales[slot, j] = weights
        instance, term = Buckets(terms.group).pairs(mine)
        return Column(kind, instance, terms.literals[term],
                      None if value is None else value[term].astype(np.float64))

    def _conditions(self) -> np.ndarray:
        """(F,) bool: the last nodes at which all groups are there."""
        found, there = self.found, np.ones(len(self.found.node), bool)
        if self.beside is not None:
            there &= found.sums[:, -1] > 0
        for slot, (groups, _) in enumerate(self.slots):
            mine = self.of_instance[found.instance, slot]
            if not groups.certain:
                there &= (self._sums(slot, "some", None) > 0) | (mine < 0) | self._total(groups,
                                                                                        mine)
            if self._passed(groups):
                there &= self._having(slot, groups, mine) | (mine < 0)
        return there

    @staticmethod
    def _total(groups, of) -> np.ndarray:
        """Where GROUPING SETS have a group whatever there is."""
        if not groups.grouping.sets:
            return np.zeros(len(of), bool)
        return groups.assembly.packed.flags(f"{groups.block.number}.g.total")[of] & (of >= 0)

    def _having(self, slot: int, groups, mine) -> np.ndarray:
        """(F,) bool: HAVING lets the group pass."""
        packed, number = groups.assembly.packed, groups.block.number
        m, states = len(groups.grouping.atoms), np.zeros(len(mine), np.int64)
        nodes = _Nodes(self, np.arange(len(mine)))
        for i, atom in enumerate(groups.grouping.atoms):
            states += 3 ** i * nodes.state(groups, self.slots[slot][1], mine, atom)
        passing = packed.ints(f"{number}.h.g").astype(np.int64) * 3 ** m
        for i in range(m):
            passing += 3 ** i * packed.ints(f"{number}.h.t{i}").astype(np.int64)
        return np.isin(mine.astype(np.int64) * 3 ** m + states, passing)

    def _sums(self, slot: int, kind: str, j: int | None) -> np.ndarray:
        return self.found.sums[:, self.columns.index((slot, kind, j))]

    # --- answers ---------------------------------------------------------------------------

    def _pairs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(place in `rows`, last node) where the rows' groups are there."""
        row, node = self.last.pairs(self.instance[rows])
        kept = self._there[node]
        return row[kept], node[kept]

    def _states(self, atoms: list[Atom], rows: np.ndarray, bounds=None):
        """(place in `rows`, last node, (pairs, m) states of the atoms)."""
        row, node = self._pairs(rows)
        nodes = _Nodes(self, node)
        of = rows[row]
        states = [nodes.state(self.rows, self._every(), of, atom, bounds) for atom in atoms]
        return row, node, np.stack(states, axis=1)

    def literals(self, atoms: list[Atom], codes: np.ndarray, at: np.ndarray, fits: np.ndarray,
                 owner: np.ndarray | None = None) -> np.ndarray:
        """(T,) literals that the atoms are in the states codes (T, m) at the rows `at` (T,), given
        that their groups are there; CERTAIN where no diagram `fits` (T,).

        owner: (n,) events of rows with one owner exclude each other; by default those of one row.
        """
        made = np.full(len(at), CERTAIN)
        at, codes = at[fits], codes[fits]
        rows, place = np.unique(at, return_inverse=True)
        row, node, states = self._states(atoms, rows)
        power = 3 ** np.arange(len(atoms))
        wanted = place.reshape(-1) * 3 ** len(atoms) + codes @ power
        events, which = np.unique(wanted, return_inverse=True)
        asked = row * 3 ** len(atoms) + states @ power
        event = np.searchsorted(events, asked)
        hit = event < len(events)
        hit[hit] = events[event[hit]] == asked[hit]
        of_row = rows[events // 3 ** len(atoms)]
        out = self.rows.assembly.wiring.exclusive(of_row if owner is None else owner[of_row])
        self._add(out, (event[hit], node[hit]), of_row)
        made[fits] = out + which.reshape(-1)
        return made

    def threes(self, atom: Atom, bounds: np.ndarray | None = None) -> np.ndarray:
        """(n,) places of threes, -1 where no diagram fits; bounds: (n,) in place of atom.right."""
        rows = np.flatnonzero(self.fits)
        row, node, states = self._states([atom], rows, bounds)
        out = self.rows.assembly.wiring.threes(len(rows))
        self._add(out, (3 * row + states[:, 0], node), np.repeat(rows, 3))
        places = np.full(self.n, -1)
        places[rows] = out + 3 * np.arange(len(rows))
        return places

    def numbers(self, number: Number, zero: bool = False) -> np.ndarray:
        """(n,) places in X of a number given that the rows' groups are there, -1 where no diagram
        fits; zero: it counts as 0 where it is NULL."""
        rows = np.flatnonzero(self.fits)
        row, node = self._pairs(rows)
        x, k = _Nodes(self, node).number(self.rows, self._every(), rows[row], number)
        known = k > 0
        out = self.rows.assembly.wiring.numbers(len(rows))
        self._add(0, (np.zeros(0, np.int64), np.zeros(0, np.int64)), rows[:0], out,
                  (row[known], node[known], x[known]), rows, zero)
        places = np.full(self.n, -1)
        places[rows] = out + np.arange(len(rows))
        return places

    def _add(self, out: int, event, rows: np.ndarray, out_x: int = 0, number=None,
             of_number=None, zero: bool = False) -> None:
        """Append the gate; `rows`, `of_number`: the row of each event and number."""
        found: Diagrams = self.found
        there = np.flatnonzero(self._there)
        layer = Diagram(out, found.paths, (found.instance[there], found.node[there]),
                        (event[0], found.node[event[1]]), self.instance[rows], out_x=out_x,
                        number=number and (number[0], found.node[number[1]], number[2]),
                        of_number=None if of_number is None else self.instance[of_number],
                        zero=zero)
        layer.sources = found.sources
        self.rows.assembly.wiring.add(layer)


class _Nodes:
    """What numbers are at last nodes `node` (M,)."""

    def __init__(self, joint: Joint, node: np.ndarray):
        self.joint, self.node = joint, node

    def state(self, rows, of, index, atom: Atom, bounds=None) -> np.ndarray:
        """(M,) 0 false, 1 true, 2 NULL of an atom over `rows`; `of`: (n,) their rows by the rows of
        the whole, `index`: (M,) here."""
        if atom.operator == "flag":
            leaf = atom.left.leaves[0]
            if leaf[0] == "condition":
                return self.state(rows, of, index, _atoms(rows)[leaf[1]])
            return self._truth(rows, of, index, leaf[1])
        x, k = self.number(rows, of, index, atom.left)
        if atom.operator in ("is null", "is not null"):
            return ((k > 0) == (atom.operator == "is not null")).astype(np.int64)
        if bounds is not None:
            y, known = np.nan_to_num(bounds[index]), ~np.isnan(bounds[index])
        else:
            y, of_y = self.number(rows, of, index, atom.right)
            known = of_y > 0
        near = np.abs(x - y) <= TOLERANCE * (np.abs(x) + np.abs(y))
        holds = _TESTS[atom.operator](np.where(near, 0.0, x - y), 0.0)
        return np.where((k > 0) & known, holds.astype(np.int64), 2)

    def number(self, rows, of, index, number: Number) -> tuple[np.ndarray, np.ndarray]:
        """(x, k) of a number, x = 0 where k = 0."""
        m, xs, ks, ps, leaves = len(index), [], [], [], []
        for leaf in number.leaves:
            if leaf[0] == "leaf":
                known = index >= 0
                value = rows.constant(leaf)
                leaves.append(np.where(known, value[np.where(known, index, 0)], np.nan)
                              if len(value) else np.full(m, np.nan))
            elif leaf[0] == "condition":
                state = self.state(rows, of, index, _atoms(rows)[leaf[1]])
                leaves.append(3 * m * len(ps) + 3 * np.arange(m))
                ps.append(np.eye(3)[state].ravel())
            else:
                x, k = self._leaf(rows, of, index, leaf)
                leaves.append(m * len(xs) + np.arange(m))
                xs.append(x)
                ks.append(k)
        nothing = np.zeros(0)
        state = State(np.concatenate(ps or [nothing]), np.concatenate(xs or [nothing]),
                      np.concatenate(ks or [nothing]), True, nothing)
        if not m:
            return nothing, nothing
        return Arithmetic(0, m, number.tree, leaves).root.forward(state, [])

    def _leaf(self, rows, of, index, leaf) -> tuple[np.ndarray, np.ndarray]:
        if leaf[0] == "cell":
            groups, whole, made = self.joint._origin(rows, of, leaf)
            _, here, _ = self.joint._origin(rows, index, leaf)
            return self.number(groups, whole, here, made)
        slot = self.joint._slot_of(rows, of)
        j = leaf[1]
        aggregate = rows.grouping.aggregates[j]

        def column(kind: str) -> np.ndarray:
            return self.joint._sums(slot, kind, j)[self.node]

        scale = self.joint.scales.get((slot, j))
        if aggregate.function in ("count", "sum", "avg") and aggregate.distinct:
            bits = (column("set").astype(np.int64)[:, None] >> np.arange(len(scale))) & 1
            count, total = bits.sum(axis=1), bits @ scale
        elif aggregate.function == "count":
            count = column("count")
        elif aggregate.function in ("sum", "avg"):
            total = column("sum") / (scale or 1.0)
            count = column("count" if aggregate.function == "avg" else "some")
        else:
            total = column(aggregate.function)
            count = np.isfinite(total).astype(float)
        there = (index >= 0).astype(float)
        if aggregate.function == "count":
            return count * there, there
        k = there * (count > 0)
        value = total / np.maximum(count, 1) if aggregate.function == "avg" else total
        return np.where(k > 0, value, 0.0), k

    def _truth(self, rows, of, index, j: int) -> np.ndarray:
        slot = self.joint._slot_of(rows, of)
        function = rows.grouping.aggregates[j].function
        value = self.joint._sums(slot, "max" if function == "bool_or" else "min", j)[self.node]
        return np.where(np.isfinite(value) & (index >= 0), (value > 0).astype(np.int64), 2)


def _atoms(rows) -> list[Atom]:
    return rows.grouping.atoms if hasattr(rows, "grouping") else rows.block.atoms


def _is_whole(values: np.ndarray) -> bool:
    """Whether sums of these are whole numbers that float64 holds."""
    near = np.abs(values - np.rint(values)) <= 1e-9 * np.maximum(1.0, np.abs(values))
    return bool(near.all()) and float(np.abs(values).sum()) < 2.0 ** 53


def knows(rows, atom: Atom) -> bool:
    """Whether diagrams can know a comparison, if the groups are small."""
    joint = Joint(rows)
    return joint.ask(atom) and bool(joint.slots)


def passed(rows, atom: Atom) -> bool:
    """Whether a comparison is of groups that a HAVING has let pass."""
    joint = Joint(rows)
    return joint.ask(atom) and joint.passed


def better(rows, atom: Atom) -> bool:
    """Whether diagrams know more of a comparison than a threshold does: what a HAVING has let pass,
    what values that must differ share, and which of several sums have something to add."""
    joint = Joint(rows)
    if not joint.ask(atom):
        return False
    sums = {(slot, j) for slot, kind, j in joint.columns if kind == "sum"}
    return joint.passed or len(sums) > 1 or any(kind == "set" for _, kind, _ in joint.columns)


def sharing(rows, atoms: list[Atom], at: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """(T,) bool: the literals `beside` (T, L) of the rows `at` (T,) share variables with the terms
    of the groups that the atoms are of."""
    made, joint = np.zeros(len(at), bool), Joint(rows)
    used = (beside > NEVER).any(axis=1)
    if not used.any() or not all([joint.ask(atom) for atom in atoms]):
        return made
    owner = rows.assembly.wiring.owner
    most = int(owner.max(initial=0)) + 2
    theirs = np.where(beside > NEVER, owner[beside], -1)
    work = np.zeros(len(at))
    for groups, of in joint.slots:
        work += np.bincount(groups.group, minlength=groups.n + 1)[of[at]]
        term, column = np.nonzero(groups.literals > NEVER)
        pairs = np.unique(groups.group[term] * most + owner[groups.literals[term, column]] + 1)
        mine = of[at][:, None] * most + theirs + 1
        made |= (np.isin(mine, pairs) & (theirs >= 0) & (of[at] >= 0)[:, None]).any(axis=1)
    return made & cheapest(np.where(made, work, np.inf), TERMS)


def of(rows, atoms: list[Atom], beside: np.ndarray | None = None) -> Joint | None:
    """Diagrams that know all of these atoms, given what holds beside; None if there are none."""
    joint = Joint(rows, beside)
    asked = [joint.ask(atom) for atom in atoms]
    return joint if all(asked) and joint.slots and joint.build() else None


def places(rows, atom: Atom, bounds: np.ndarray | None = None) -> np.ndarray | None:
    """(n,) places of threes of a comparison (with `bounds` in place of atom.right), -1 where its
    groups are too large; None if all are."""
    joint = of(rows, [atom])
    return None if joint is None or not joint.fits.any() else joint.threes(atom, bounds)


def given(groups, number: Number) -> np.ndarray | None:
    """(n,) places in X of a number of groups given that HAVING lets them pass, -1 where they are
    too large; None if all are, or there is no HAVING that a prediction moves."""
    joint = Joint(groups)
    joint.own = True
    if groups.grouping.having is None or not groups.grouping.atoms \
            or not joint.ask(number) or not joint.slots \
            or not joint.build() or not joint.fits.any():
        return None
    return joint.numbers(number, groups.sums(number))
