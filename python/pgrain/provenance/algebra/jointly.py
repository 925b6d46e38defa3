"""Comparisons of numbers of groups, decided together by a diagram of the groups' terms.

Where groups are small, this is exact for any arithmetic over counts, sums, averages, extremes and
truths of theirs, for any number of comparisons, and given what HAVING said of them: at each last
node of the diagram all of these have a value. Sets of shared variables are conditioned on as far as
they are among the terms; results of other gates count as independent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pgrain.errors import UnsupportedOperator
from pgrain.provenance.algebra.blocks import Atom, Number
from pgrain.provenance.algebra.diagrams import SET_BITS, Column, Diagrams, build
from pgrain.provenance.algebra.last_nodes import Nodes, atoms_of
from pgrain.provenance.algebra.members import MOST, Members, sources
from pgrain.provenance.algebra.wiring import CERTAIN, NEVER, Buckets
from pgrain.provenance.gates.diagram import Diagram
from pgrain.provenance.gates.threshold import cheapest

EQUAL = 1e-9            # of a value that a number is, relative
PAIRS = 1 << 21         # rows and last nodes that are evaluated
TANGLED = 256           # terms of a group that share variables in part, to be worth a try
ROWS = 2048             # terms of a group among others whose numbers are aggregated
TERMS = 1 << 18         # terms of groups for rows that share variables with them
_SCALES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)


class _Unknown(Exception):
    """A number that no diagram has."""


@dataclass
class _Member:
    """One row of an aggregate over numbers: (n,) its base row, -1 for none, by the rows of the
    whole; the slots of its number, and the column that says if the rest of it holds (None: it is
    nothing)."""

    row: np.ndarray
    slots: list[int]
    column: int | None


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
        self.members: dict[tuple, tuple[Members, list[_Member]]] = {}   # by (slot, aggregate)
        self.inner: list[bool] = []             # slots that need not be there
        self._within = False                    # asking about numbers of an aggregate over these

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

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Groups that are asked about in the block are those of an aggregate's numbers."""
        self._within = True
        try:
            yield
        finally:
            self._within = False

    def _ask_atom(self, rows, of, atom: Atom) -> None:
        for number in (atom.left, atom.right):
            if number is not None:
                self._ask(rows, of, number)

    def _ask(self, rows, of: np.ndarray, number: Number) -> None:
        for leaf in number.leaves:
            if leaf[0] == "leaf":
                continue
            if leaf[0] == "condition":
                self._ask_atom(rows, of, atoms_of(rows)[leaf[1]])
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
        key = id(groups), of.tobytes(), self._within
        if key not in self._slot:
            if self._within and groups.grouping.having is not None:
                raise _Unknown
            self._slot[key] = len(self.slots)
            self.slots.append((groups, of))
            self.inner.append(self._within)
            slot = self._slot[key]
            if not groups.certain and not (self._within
                                           and (groups.any()[of[of >= 0]] == CERTAIN).all()):
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
            self._ask_members(slot, j)
        elif aggregate.distinct and aggregate.function in ("count", "sum", "avg"):
            self._column(slot, "set", j)
        elif aggregate.function in ("sum", "avg"):
            self._column(slot, "sum", j)
            self._column(slot, "count" if aggregate.function == "avg" else "some", j)
        elif aggregate.function.startswith("bool"):
            self._column(slot, "max", j)
            self._column(slot, "min", j)
        else:
            self._column(slot, aggregate.function, j)

    def _ask_members(self, slot: int, j: int) -> None:
        """An aggregate over numbers: these, row by row."""
        groups, of = self.slots[slot]
        if (slot, j) in self.members:
            return
        if self._within or groups.grouping.aggregates[j].distinct or not groups.n:
            raise _Unknown
        try:
            made = Members.of(groups, j)
        except UnsupportedOperator:
            raise _Unknown from None
        if made.most > MOST:
            raise _Unknown
        found = []
        for k in range(made.most):
            row = made.rows_of(of, k)
            wanted = {self._key(*source) for source in sources(groups.base, made.number, row)}
            with self.inside():
                self._ask(groups.base, row, made.number)
            if not wanted <= self._slot.keys():
                raise _Unknown
            slots = [self._slot[key] for key in wanted]
            if any(self._rows(other) > ROWS for other in slots):
                raise _Unknown
            column = self._column(slot, ("member", k), j) if made.hangs(k) else None
            found.append(_Member(row, slots, column))
        self.members[slot, j] = made, found

    def ask_groups(self, groups, asked: np.ndarray, numbers: list[Number]) -> bool:
        """Whether a diagram can know these numbers of the groups `asked`, each of which may be
        missing; called before `build`."""
        try:
            with self.inside():
                for group in asked.tolist():
                    self._slot_of(groups, np.array([group]))
                    for number in numbers:
                        self._ask(groups, np.array([group]), number)
        except _Unknown:
            return False
        return all(self._rows(slot) <= ROWS for slot in range(len(self.slots)))

    def is_there(self, groups, group: int) -> np.ndarray:
        """(F,) bool: the last nodes at which one of these groups is there."""
        slot = self._slot[self._key(groups, np.array([group]))]
        if (slot, "some", None) not in self.columns:
            return np.ones(len(self.found.node), bool)
        return self._sums(slot, "some", None) > 0

    @staticmethod
    def _key(groups, of: np.ndarray) -> tuple:
        return id(groups), of.tobytes(), True

    def _rows(self, slot: int) -> int:
        """Terms of the largest group of a slot."""
        groups, of = self.slots[slot]
        return int(np.bincount(groups.group, minlength=groups.n + 1)[of].max(initial=0))

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

    def _terms(self, slot: int, kind, j: int | None) -> Column | None:
        groups, mine = self.slots[slot][0], self.of_instance[:, slot]
        if isinstance(kind, tuple):
            made, k = self.members[slot, j][0], kind[1]
            instance = np.flatnonzero(made.rows_of(mine, k) >= 0)
            return Column("some", instance, made.literals[mine[instance], k])
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
            if self.inner[slot]:
                continue
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
        nodes = Nodes(self, np.arange(len(mine)))
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
        nodes = Nodes(self, node)
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
        self.add(out, (event[hit], node[hit]), of_row)
        made[fits] = out + which.reshape(-1)
        return made

    def threes(self, atom: Atom, bounds: np.ndarray | None = None) -> np.ndarray:
        """(n,) places of threes, -1 where no diagram fits; bounds: (n,) in place of atom.right."""
        rows = np.flatnonzero(self.fits)
        row, node, states = self._states([atom], rows, bounds)
        out = self.rows.assembly.wiring.threes(len(rows))
        self.add(out, (3 * row + states[:, 0], node), np.repeat(rows, 3))
        places = np.full(self.n, -1)
        places[rows] = out + 3 * np.arange(len(rows))
        return places

    def numbers(self, number: Number, zero: bool = False) -> np.ndarray:
        """(n,) places in X of a number given that the rows' groups are there, -1 where no diagram
        fits; zero: it counts as 0 where it is NULL."""
        rows = np.flatnonzero(self.fits)
        row, node = self._pairs(rows)
        x, k = Nodes(self, node).number(self.rows, self._every(), rows[row], number)
        known = k > 0
        out = self.rows.assembly.wiring.numbers(len(rows))
        self.add(0, (np.zeros(0, np.int64), np.zeros(0, np.int64)), rows[:0], out,
                  (row[known], node[known], x[known]), rows, zero)
        places = np.full(self.n, -1)
        places[rows] = out + np.arange(len(rows))
        return places

    def add(self, out: int, event, rows: np.ndarray, out_x: int = 0, number=None,
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


def _is_whole(values: np.ndarray) -> bool:
    """Whether sums of these are whole numbers that float64 holds."""
    near = np.abs(values - np.rint(values)) <= 1e-9 * np.maximum(1.0, np.abs(values))
    return bool(near.all()) and float(np.abs(values).sum()) < 2.0 ** 53


def knows(rows, atom: Atom) -> bool:
    """Whether diagrams can know a comparison, if the groups are small."""
    joint = Joint(rows)
    return joint.ask(atom) and bool(joint.slots)


def better(rows, atom: Atom) -> bool:
    """Whether diagrams know more of a comparison than a threshold does: what a HAVING has let pass,
    what values that must differ share, which of several sums have something to add, and what a
    number has to do with the greatest, least or mean of such."""
    joint = Joint(rows)
    if not joint.ask(atom):
        return False
    sums = {(slot, j) for slot, kind, j in joint.columns if kind == "sum"}
    return joint.passed or len(sums) > 1 or bool(joint.members) \
        or any(small_and_tangled(groups, of) for groups, of in joint.slots) \
        or any(kind == "set" for _, kind, _ in joint.columns)


def small_and_tangled(groups, of: np.ndarray) -> bool:
    """Whether some of the groups `of` have terms that share variables in part, but few."""
    of = of[of >= 0]
    tangled = groups.tangled()[of]
    size = np.bincount(groups.group, minlength=groups.n)[of]
    return bool((tangled & (size <= TANGLED)).any())


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


def of_numbers(groups, j: int) -> np.ndarray | None:
    """(n,) places in X of an aggregate, given that the groups are there; None if one
    of them is too large."""
    number = Number(("x", 0), [("aggregate", j, groups.grouping.aggregates[j].function)])
    joint = Joint(groups)
    if not joint.ask(number) or not joint.build() or not joint.fits.all():
        return None
    return joint.numbers(number)


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
