"""From the packed rows of a capture to the network: each block's possible rows and numbers."""

from __future__ import annotations

import math

import numpy as np

from pgrain import settings
from pgrain.errors import UnsupportedOperator
from pgrain.interrupts import check
from pgrain.provenance.algebra import chains, comparisons, first_rows, values
from pgrain.provenance.algebra.blocks import (
    PAIRS_A_FACTOR_PAIR,
    ArrayBlock,
    LimitBlock,
    MergeBlock,
    Number,
    PredicateBlock,
    ScalarBlock,
    SelectBlock,
    Slot,
    Unit,
    gapped,
)
from pgrain.provenance.algebra.given import IfKnown
from pgrain.provenance.algebra.groups_wired import Groups
from pgrain.provenance.algebra.packed import Packed
from pgrain.provenance.algebra.possible import Rows, arithmetic
from pgrain.provenance.algebra.program import Program
from pgrain.provenance.algebra.small_gates import (
    Combination,
    Constants,
    Disjoint,
    FromLiterals,
    Share,
)
from pgrain.provenance.algebra.wiring import CERTAIN, NEVER, Buckets, Wiring
from pgrain.provenance.gates.first import First
from pgrain.provenance.gates.levels import Levels
from pgrain.provenance.lineage import number_digests

_LISTED = ("In the outermost SELECT count, sum, avg, arithmetic and HAVING over them do without "
           "the pairs of a join on predictions; anywhere DISTINCT, EXISTS, min and max, if they "
           "stand without counts, columns are named with their table, and those that are needed "
           "have few values. x IN (SELECT y ...) can stand for EXISTS (SELECT 1 ... WHERE y = x).")


def listed_because(block: SelectBlock) -> str | None:
    """What needs the pairs of a join on predictions one by one; None if there is no such join."""
    if len(block.enumerated) < 2 or not block.mixed or len(block.from_) < 2 and not any(
            " join " in f" {text.lower()} " for text in block.from_) and block.key is None:
        return None
    if block.grouping is None:
        return "the rows of a subquery or of the result, each with its own predictions"
    names = dict.fromkeys(("DISTINCT " if one.distinct else "") + one.function
                          for one in block.grouping.aggregates)
    parts = ["HAVING"] if block.grouping.having is not None else []
    return ", ".join([*parts, *names]) or "the presence of groups"


class Base:
    """The base rows of a SELECT, and their numbers."""

    def __init__(self, assembly: Assembly, block: SelectBlock):
        self.assembly, self.block = assembly, block
        packed, n = assembly.packed, block.number
        self.n = packed.count(f"{n}.rows")
        why = listed_because(block)
        settings.FACTOR_PAIRS.limit(
            self.n, detail=why and f"The pairs of rows are listed for {why}.",
            hint="Filter the inputs first, or join on columns." + (f" {_LISTED}" if why else ""))
        self.units = [(assembly.rows[unit.relation.block], self._rows_of(j, unit))
                      for j, unit in enumerate(block.units)]
        self.leaves = [packed.floats(f"{n}.f{i}") for i in range(len(block.leaves))]
        self.key = packed.ints(f"{n}.k") if block.key is not None else None
        parts = [np.zeros((self.n, 1), np.int64)]
        self.parts_of_unit = []
        for rows, index in self.units:
            self.parts_of_unit.append(rows.literals[index])
            parts.append(rows.literals[index])
        if block.units and block.units[0].bare:
            parts = [np.zeros((self.n, 1), np.int64)]
        if block.chosen:
            chosen = values.literals(self, block.chosen)
            assembly.wiring.values.append((self, chosen))
            parts += chosen
        if block.among is not None:
            parts.append(values.places_among(self, block.among))
        for slot in block.slots:
            if slot.mode == "expanded":
                variable = self.variable(slot)
                parts.append(np.where(variable < 0, CERTAIN, variable
                                      + packed.ints(f"{n}.y{slot.number}")))
        self.literals = assembly.wiring.conjunction(*parts)
        codes = [packed.ints(f"{n}.t{i}") for i in range(len(block.atoms))]
        if codes:
            self.literals = assembly.wiring.conjunction(self.literals, *chains.literals(
                self, block.atoms, np.stack(codes, axis=1), np.arange(self.n), self.literals))

    def _rows_of(self, j: int, unit: Unit) -> np.ndarray:
        """(n,) the row of a unit that each base row stands beside."""
        packed, n = self.assembly.packed, self.block.number
        if unit.by is None:
            return packed.ints(f"{n}.u{j}.0")
        parts = range(len(unit.values))
        return 3 * found([packed.longs(f"{n}.u{j}.{i}") for i in parts],
                         [packed.longs(f"{unit.by.cte}.{i}") for i in parts]) + unit.code

    def variable(self, slot: Slot) -> np.ndarray:
        """(n,) place of each row's variable (its first class), -1 where the value is NULL."""
        return self.assembly.variables[slot.number]

    def probability(self, slot: int, number: int) -> np.ndarray:
        """(n,) raw literal of a class of a slot (by its place in the block), -1 where NULL."""
        slot = self.block.slots[slot]
        variable, wiring = self.variable(slot), self.assembly.wiring
        shift = wiring.raw[slot.model] - wiring.offset[slot.model]
        return np.where(variable < 0, -1, variable + shift + number)

    # What `comparisons` asks of rows: leaf -> constants, places in X, or groups.

    def constant(self, leaf: tuple) -> np.ndarray:
        return self.leaves[leaf[1]]

    def place(self, leaf: tuple, there: bool = False) -> np.ndarray:
        """(n,) places in X of a leaf that is a number of the circuit; `there`: given that the rows
        are."""
        if leaf[0] == "proba":
            out = self.assembly.wiring.numbers(self.n)
            self.assembly.wiring.add(FromLiterals(out, self.probability(leaf[1], leaf[2])))
            return out + np.arange(self.n)
        rows, index = self.units[leaf[1]]
        places = (rows.there(leaf[2]) if there else rows.cells[leaf[2]])[index]
        return self._if_known(places) if leaf[3:] and leaf[2] in rows.sums else places

    def sums(self, number: Number) -> bool:
        """Whether a Number counts as 0 where it is NULL."""
        return any(leaf[0] == "cell" and not leaf[3:] and leaf[2] in self.units[leaf[1]][0].sums
                   for leaf in number.leaves)

    def _if_known(self, places: np.ndarray) -> np.ndarray:
        out = self.assembly.wiring.numbers(self.n)
        self.assembly.wiring.add(IfKnown(out, places))
        return out + np.arange(self.n)

    def three(self, leaf: tuple) -> np.ndarray:
        """(n,) places of threes of a leaf that is a boolean of the circuit."""
        if leaf[0] == "condition":
            return comparisons.place(self, self.block.atoms[leaf[1]])
        rows, index = self.units[leaf[1]]
        return rows.flags[leaf[2]][index]

    def origin(self, leaf: tuple):
        """(Groups, (n,) groups, its Number) of a cell."""
        rows, index = self.units[leaf[1]]
        if leaf[2] not in rows.origin:
            raise comparisons.refusal()
        groups, of, number = rows.origin[leaf[2]]
        return groups, of[index], number

    def surely_null(self, number: Number) -> np.ndarray:
        """(n,) bool: rows for which a Number is NULL whatever the model says."""
        null = np.zeros(self.n, bool)
        if _skips_null(number.tree):
            return null
        for leaf in number.leaves:
            if leaf[0] == "leaf":
                null |= np.isnan(self.leaves[leaf[1]])
            elif leaf[0] == "proba":
                null |= self.variable(self.block.slots[leaf[1]]) < 0
        return null

    def places(self, number: Number, there: bool = False) -> np.ndarray:
        """(n,) places in X of a Number, computed for each row if it is no plain cell."""
        return arithmetic(self, number, self.n, there)

    def pairs(self):
        """(base row, assignment, literals (T, L)) of all assignments that pass."""
        block, packed, n = self.block, self.assembly.packed, self.block.number
        labels = block.enumerated
        if not labels:
            rows = np.arange(self.n)
            return rows, np.full(self.n, -1), self.literals
        if self._assignments is None:
            self._assignments = packed.ints(f"{n}.e.p"), self.pattern()
        entry_pattern, pattern = self._assignments
        row, entry = Buckets(entry_pattern).pairs(pattern)
        settings.ASSIGNMENTS.limit(packed.count(f"{n}.assignments"), hint="Let expressions that "
                                   "call the model use columns with fewer distinct values.")
        limit_possible(len(row))
        return row, entry, self.joined(row, entry)

    _assignments = None

    def all_pairs(self):
        """(base row, assignment, literals) of every pair, impossible ones too: see `gapped`."""
        passing = self.assembly.packed.ints(f"{self.block.number}.e.p")
        limit_possible(self.n * len(passing))
        row = np.repeat(np.arange(self.n), len(passing))
        entry = np.tile(np.arange(len(passing)), self.n)
        literals = self.joined(row, entry)
        impossible = self.pattern()[row] != passing[entry]
        literals[impossible] = CERTAIN
        literals[impossible, 0] = NEVER
        return row, entry, literals

    def pattern(self) -> np.ndarray:
        """(n,) what tells rows apart under an assignment."""
        if not self.block.simple:
            return self.assembly.packed.ints(f"{self.block.number}.p")
        pattern = np.zeros(self.n, np.int64)
        for i, slot in enumerate(self.block.enumerated):
            pattern |= (self.variable(slot) < 0).astype(np.int64) << i
        return pattern

    def joined(self, row: np.ndarray, entry: np.ndarray) -> np.ndarray:
        """(T, L) literals of base rows under assignments (-1: none)."""
        packed, n = self.assembly.packed, self.block.number
        parts = [self.literals[row]]
        for slot in self.block.enumerated:
            variable = self.variable(slot)[row]
            classes = packed.ints(f"{n}.e.a{slot.number}")[entry]
            parts.append(np.where(variable < 0, CERTAIN, variable + classes))
        return self.assembly.wiring.conjunction(*parts)


def found(wanted: list[np.ndarray], among: list[np.ndarray]) -> np.ndarray:
    """(n,) the place of each row of the columns `wanted` among the distinct rows of `among`."""
    code = np.zeros(len(wanted[0]) + len(among[0]), np.int64)
    for mine, theirs in zip(wanted, among, strict=True):
        _, number = np.unique(np.concatenate([mine, theirs]), return_inverse=True)
        _, code = np.unique(code * (int(number.max(initial=0)) + 1) + number, return_inverse=True)
    place = np.full(int(code.max(initial=-1)) + 1, -1, np.int64)
    place[code[len(wanted[0]):]] = np.arange(len(among[0]))
    return place[code[:len(wanted[0])]]


def limit_possible(rows: int) -> None:
    """54000 for more possible rows than a SELECT may have."""
    settings.FACTOR_PAIRS.limit(math.ceil(rows / PAIRS_A_FACTOR_PAIR),
                                hint="Filter the rows first: each counts once for each class that "
                                "its predictions can have.")


def _skips_null(tree) -> bool:
    return tree[0] in ("coalesce", "case", "greatest", "least") or any(
        _skips_null(child) for child in tree[1:] if isinstance(child, tuple))


class Assembly:
    """Builds the network of a program from its capture, block by block."""

    def __init__(self, program: Program, rows):
        self.program, self.packed = program, Packed(rows)
        self._read_variables()
        self.gapped = gapped(program.blocks)
        self._settled: dict[int, int] = {}      # state -> place of a boolean that is always in it
        self.rows: dict[int, Rows] = {}
        self.bases: dict[int, Base] = {}
        self.exactly: dict[tuple, str] = {}     # (block, aggregate of numbers) -> how exact it is
        for block in program.blocks:
            check()
            self.rows[block.number] = getattr(self, f"_{block.kind}")(block)
        for bound in program.bounds:
            base = self.bases.get(bound.block)
            grouped = base is None or base.block.grouping is not None
            possible = len(self.rows[bound.block]) if grouped else base.n
            if possible > bound.limit:
                known = bound.refusal
                raise UnsupportedOperator(
                    str(known), detail=known.detail, hint=f"{known.hint} A LIMIT of {possible} or "
                    "more keeps all rows that are possible, and is none.")

    def _read_variables(self) -> None:
        """Digests of each model's distinct values, and each slot's variables."""
        program, packed = self.program, self.packed
        self.digests, shapes, numbers = {}, {}, {}
        for model in program.classes:
            slots = [slot for slot in program.slots if slot.model == model]
            if not slots:       # called where nothing of the result depends on it
                self.digests[model] = np.zeros((0, 16), np.uint8)
                shapes[model] = (0, len(program.classes[model]))
                continue
            found = [packed.digests(f"{slot.block}.x{slot.number}") for slot in slots]
            together = np.concatenate([digests for digests, _ in found]) if found else \
                np.zeros((0, 16), np.uint8)
            self.digests[model], all_numbers = number_digests(together)
            shapes[model] = (len(self.digests[model]), len(program.classes[model]))
            cuts = np.cumsum([len(digests) for digests, _ in found])[:-1]
            for slot, (_, null), mine in zip(slots, found, np.split(all_numbers, cuts),
                                             strict=True):
                variable = np.full(len(null), -1, np.int64)
                variable[~null] = mine
                numbers[slot.number] = variable
        self.wiring = Wiring(shapes)
        self.variables = {}
        for slot in program.slots:
            variable, (_, classes) = numbers[slot.number], shapes[slot.model]
            self.variables[slot.number] = np.where(
                variable < 0, -1, self.wiring.offset[slot.model] + variable * classes)

    def _count(self, key) -> int:
        return self.packed.count(f"{key.cte}.count") if key is not None else 1

    # --- blocks ----------------------------------------------------------------------------

    def _select(self, block: SelectBlock) -> Rows:
        base = self.bases[block.number] = Base(self, block)
        if block.grouping is not None:
            return Groups(base).rows()
        if block.number in self.gapped:
            row, entry, literals = base.all_pairs()
        elif block.enumerated:
            row = self.packed.ints(f"{block.number}.r.b")
            limit_possible(len(row))
            entry = self.packed.ints(f"{block.number}.r.e")
            literals = base.joined(row, entry)
        else:
            row, literals = np.arange(base.n), base.literals
        rows = Rows(literals, base=row if block.enumerated else None,
                    key=None if base.key is None else base.key[row])
        for number, made in enumerate(block.cells):
            rows.cells[number] = base.places(made)[row]
            rows.given[number] = lambda made=made: base.places(made, True)[row]
            rows.sums |= {number} if base.sums(made) else set()
            rows.origin[number] = base, row, made
            if made.tree[0] == "x" and made.leaves[made.tree[1]][0] == "cell":
                leaf = made.leaves[made.tree[1]]
                inner, index = base.units[leaf[1]]
                if leaf[2] in inner.origin:
                    groups, of, what = inner.origin[leaf[2]]
                    rows.origin[number] = groups, of[index][row], what
        for number, atom in enumerate(block.flags):
            rows.flags[number] = comparisons.place(base, atom)[row]
        return rows

    def array_of(self, base: Base, unit: int):
        """(base row, element, literal) of the arrays that base rows show, in order."""
        rows, index = base.units[unit]
        key, texts, literals = rows.shown[0]
        row, element = Buckets(key).pairs(index)
        return row, [texts[at] for at in element], literals[element]

    def _predicate(self, block: PredicateBlock) -> Rows:
        packed, n = self.packed, block.number
        inner = self.rows[block.relation.block].literals
        keys, literals, unknown = [], [], []
        if block.of_rows(self.program.blocks[block.relation.block]):
            possible = inner[:, 0] != NEVER
            key = self.rows[block.relation.block].key
            keys.append(np.zeros(possible.sum(), np.int64) if block.key is None else key[possible])
            literals.append(inner[possible])
            unknown.append(np.zeros(possible.sum(), bool))
        for letter, null in (("q", False), ("w", True)):
            if f"{n}.{letter}.id" not in packed:
                continue
            ids = packed.ints(f"{n}.{letter}.id")
            settings.FACTOR_PAIRS.limit(len(ids), hint="Filter the subquery or the outer rows.")
            keys.append(packed.ints(f"{n}.{letter}.k") if block.key is not None
                        else np.zeros(len(ids), np.int64))
            literals.append(inner[ids])
            unknown.append(np.full(len(ids), null))
        count = self._count(block.key)
        keys, literals = np.concatenate(keys), np.concatenate(literals)
        out = self.wiring.any_of(count, keys, literals, np.concatenate(unknown))
        three = out + np.arange(3 * count)
        # Without a row the answer is false whatever the model says.
        none = 3 * np.flatnonzero(np.bincount(keys[literals[:, 0] != NEVER], minlength=count) == 0)
        three[none], three[none + 1], three[none + 2] = CERTAIN, NEVER, NEVER
        return Rows(three[:, None])

    def _array(self, block: ArrayBlock) -> Rows:
        packed, n = self.packed, block.number
        inner = self.rows[block.relation.block]
        order = packed.ints(f"{block.relation.block}.o.id")
        key = packed.ints(f"{n}.a.k") if block.key is not None else np.zeros(len(inner), np.int64)
        texts = [row[0] for row in packed.texts(f"{n}.a.text")]
        rows = Rows(np.zeros((self._count(block.key), 1), np.int64))
        rows.shown[0] = (key[order], [texts[at] for at in order],
                         self.wiring.events(inner.literals[order]))
        return rows

    def _scalar(self, block: ScalarBlock) -> Rows:
        inner = self.rows[block.relation.block]
        count = self._count(block.key)
        if block.key is None:
            key = np.zeros(len(inner), np.int64)
        else:
            key = self.packed.ints(f"{block.number}.s.k")
        out = self.wiring.any_of(count, key, inner.literals)
        none = out + 3 * np.arange(count)
        rows = Rows(_stack(inner.literals, none[:, None]), sums=inner.sums)
        for number, places in inner.cells.items():
            nothing = self.wiring.numbers(1)
            self.wiring.add(Constants(nothing, np.array([np.nan])))
            rows.cells[number] = np.concatenate([places, np.full(count, nothing)])
            rows.given[number] = lambda number=number, nothing=nothing: np.concatenate(
                [inner.there(number), np.full(count, nothing)])
            if number in inner.origin:
                source, of, made = inner.origin[number]
                rows.origin[number] = source, np.concatenate([of, np.full(count, -1)]), made
        return rows

    def null(self) -> int:
        """Place of a boolean that is NULL for certain."""
        return self.settled(2)

    def settled(self, state: int) -> int:
        """Place of a boolean that is false (0), true (1) or NULL (2) for certain."""
        if state not in self._settled:
            terms = np.zeros(int(state > 0), np.int64)
            self._settled[state] = self.wiring.any_of(1, terms, terms[:, None] + CERTAIN,
                                                      terms + state == 2)
        return self._settled[state]

    def _merge(self, block: MergeBlock) -> Rows:
        packed, n = self.packed, block.number
        sides = [self.rows[side.block] for side in block.sides]
        if block.operator == "union" and block.all:
            return self._union_all(block, sides)
        groups = packed.ints(f"{n}.m.group")
        members = []
        for number, side in enumerate(sides):
            counts = packed.ints(f"{n}.m.n{number}")
            group = np.repeat(np.arange(len(counts)), counts)
            members.append((group, side.literals[packed.ints(f"{n}.m.m{number}")], len(counts)))
        if block.all:
            return self._copies(block, members, groups, packed.ints(f"{n}.m.copy"))
        if block.operator == "union":
            group = np.concatenate([group for group, _, _ in members])
            literals = members[0][1]
            for _, more, _ in members[1:]:
                literals = _stack(literals, more)
            out = self.wiring.any_of(members[0][2], group, literals)
            return Rows((out + 3 * groups + 1)[:, None])
        outs = [self.wiring.any_of(count, group, literals) for group, literals, count in members]
        second = 1 if block.operator == "intersect" else 0
        return Rows(np.stack([outs[0] + 3 * groups + 1, outs[1] + 3 * groups + second], axis=1))

    def _copies(self, block: MergeBlock, members, groups, copy) -> Rows:
        """INTERSECT ALL: copy i is there if both have i; EXCEPT ALL: if A has i more than B."""
        sides = []
        for number, (group, literals, _) in enumerate(members):
            sign = -1.0 if number and block.operator == "except" else 1.0
            sides.append((group, literals, np.full(len(group), sign)))
        if block.operator == "except":
            sides = [(np.concatenate([a[0], b[0]]), _stack(a[1], b[1]),
                      np.concatenate([a[2], b[2]])) for a, b in [sides]]
        places = []
        for target, literals, weight in sides:
            possible = literals[:, 0] != NEVER
            out = self.wiring.threes(len(groups))
            self.wiring.add(Levels(out, groups, copy, target[possible], literals[possible],
                                   weight[possible]))
            places.append(out + 3 * np.arange(len(groups)) + 1)
        return Rows(np.stack(places, axis=1))

    def _union_all(self, block: MergeBlock, sides: list[Rows]) -> Rows:
        packed, n = self.packed, block.number
        side, source = packed.ints(f"{n}.m.side"), packed.ints(f"{n}.m.src")
        literals, shift = sides[0].literals, [0]
        for more in sides[1:]:
            shift.append(len(literals))
            literals = _stack(literals, more.literals)
        at = np.array(shift)[side] + source
        rows = Rows(literals[at])
        for c, column in enumerate(block.columns):
            if column.cell is not None:
                constant = packed.floats(f"{n}.m.f{c}")
                out = self.wiring.numbers(len(side))
                self.wiring.add(Constants(out, constant))
                cells = [relation.columns[c].cell for relation in block.sides]

                def places(of, out=out, cells=cells) -> np.ndarray:
                    made = out + np.arange(len(side))
                    for number, cell in enumerate(cells):
                        if cell is not None:
                            mine = side == number
                            made[mine] = of(sides[number], cell)[source[mine]]
                    return made

                rows.cells[column.cell] = places(lambda rows, cell: rows.cells[cell])
                rows.given[column.cell] = lambda places=places: places(Rows.there)
                if any(cell in sides[k].sums for k, cell in enumerate(cells)):
                    rows.sums.add(column.cell)
                self._joint_origin(block, c, rows, sides, side, source, constant)
            elif column.flag is not None:
                places = np.zeros(len(side), np.int64)
                for number, relation in enumerate(block.sides):
                    mine = side == number
                    flag = relation.columns[c].flag
                    places[mine] = sides[number].flags[flag][source[mine]]
                rows.flags[column.flag] = places
        return rows

    @staticmethod
    def _joint_origin(block, c: int, rows: Rows, sides, side, source, constant) -> None:
        """The origin of a column of UNION ALL, if all sides that have numbers have one."""
        cells = [relation.columns[c].cell for relation in block.sides]
        known = [sides[k].origin.get(cell) for k, cell in enumerate(cells) if cell is not None]
        numbers = np.array([cell is None for cell in cells])[side] & ~np.isnan(constant)
        if numbers.any() or None in known or any(
                one[0] is not known[0][0] or one[2] != known[0][2] for one in known):
            return
        of = np.full(len(side), -1)
        for k, cell in enumerate(cells):
            if cell is not None:
                of[side == k] = sides[k].origin[cell][1][source[side == k]]
        rows.origin[block.columns[c].cell] = known[0][0], of, known[0][2]

    def _limit(self, block: LimitBlock) -> Rows:
        inner, packed = self.rows[block.relation.block], self.packed
        ids = packed.ints(f"{block.number}.o.id")
        part = packed.ints(f"{block.number}.o.part")
        part = np.unique(part, return_inverse=True)[1] if len(part) else part
        kept = np.zeros(len(inner), np.int64)
        peers = packed.ints(f"{block.number}.o.peers") if block.ties else None
        base = None if inner.base is None else inner.base[ids]
        exact = first_rows.exact(self.wiring, part, inner.literals[ids], np.arange(len(ids))
                                 if base is None else base, block.offset, block.limit, peers)
        if (exact < 0).any():
            events = self.wiring.events(inner.literals[ids])
            others = self._first(block, part, events, base, peers)
            exact = np.where(exact < 0, others, exact)
        if block.limit == 1 and not block.ties:         # one row of a part excludes the others
            out = self.wiring.exclusive(part)
            self.wiring.add(Combination(out, len(ids), np.arange(len(ids)), exact,
                                        np.ones(len(ids))))
            exact = out + np.arange(len(ids))
        kept[ids] = exact
        return Rows(kept[:, None], inner.cells, inner.flags, inner.origin, inner.shown,
                    given=inner.given, sums=inner.sums)

    def _first(self, block: LimitBlock, part, events, base, peers) -> np.ndarray:
        """(n,) literals: the row is there and among the first, of rows in order.

        Rows of one base row under different labels exclude each other: together they are one
        term, and each has its share of what is kept; those that DISTINCT ON tells apart by the
        label are a term in each part.
        """
        if base is None:
            out = self.wiring.singles(len(events))
            self.wiring.add(First(out, part, events, block.offset, block.limit, peers))
            return out + np.arange(len(events))
        term = base.astype(np.int64) * (int(part.max(initial=0)) + 1) + part
        _, first, which = np.unique(term, return_index=True, return_inverse=True)
        order = np.argsort(first)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        which = place[which]
        whole = self.wiring.threes(len(first))
        self.wiring.add(Disjoint(whole, len(first), which, events))
        whole = whole + 3 * np.arange(len(first)) + 1
        out = self.wiring.singles(len(first))
        self.wiring.add(First(out, part[first[order]], whole, block.offset, block.limit,
                              None if peers is None else peers[first[order]]))
        kept = out + np.arange(len(first))
        shares = self.wiring.singles(len(events))
        self.wiring.add(Share(shares, kept[which], events, whole[which]))
        return shares + np.arange(len(events))


def _stack(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Literal matrices of different widths, one below the other."""
    width = max(one.shape[1], other.shape[1])
    padded = [np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in (one, other)]
    return np.concatenate(padded)


