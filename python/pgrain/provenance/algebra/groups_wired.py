"""The groups of a SELECT in the network: their terms, aggregates, HAVING.

A term is a base row under one assignment of classes: a conjunction of literals with a group, and
for each aggregate whether it counts there and with what value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgrain import settings
from pgrain.provenance.algebra import chains, comparisons, jointly, overlaps, spelled
from pgrain.provenance.algebra.blocks import Aggregate, Number
from pgrain.provenance.algebra.given import Conditional, OfThere
from pgrain.provenance.algebra.possible import Rows, arithmetic
from pgrain.provenance.algebra.small_gates import (
    BooleanAggregate,
    Chosen,
    Disjoint,
    KnownEvent,
    KnownIf,
    Quotient,
)
from pgrain.provenance.algebra.wiring import CERTAIN, NEVER, Buckets
from pgrain.provenance.gates.extreme import Extreme
from pgrain.provenance.gates.kernels import distinct
from pgrain.provenance.gates.sums import Sums


@dataclass
class Terms:
    """Terms of one aggregate. group, row: (T,); literals: (T, L); value: (T,) float64 or None; at:
    (T,) which of the groups' terms each is, None where they are made of these."""

    group: np.ndarray
    row: np.ndarray
    literals: np.ndarray
    value: np.ndarray | None
    at: np.ndarray | None = None


class Groups:
    """Groups of a Base; `comparisons` treats them as rows whose leaves are aggregates."""

    def __init__(self, base):
        self.base, self.assembly, self.block = base, base.assembly, base.block
        self.grouping = base.block.grouping
        packed, number = self.assembly.packed, self.block.number
        counts = packed.ints(f"{number}.g.n")
        self.n = len(counts)
        settings.OUTPUT_ROWS.limit(self.n, hint="Filter the rows, or aggregate.")
        self.leaves = [packed.floats(f"{number}.l{i}") for i in range(len(self.grouping.leaves))]
        group = np.repeat(np.arange(self.n), counts)
        direct = f"{number}.g.m" not in packed      # rows come group after group
        member = np.arange(len(group)) if direct else packed.ints(f"{number}.g.m")
        row, entry, literals = base.pairs()
        label = entry if self.grouping.by_entry else row
        if self.grouping.sets:
            term, at = Buckets(member).pairs(label)
            row, entry, literals, group = row[term], entry[term], literals[term], group[at]
        else:
            of = np.zeros(int(max(member.max(initial=-1), label.max(initial=-1))) + 1, np.int64)
            of[member] = group
            group = of[label]
        possible = literals[:, 0] != NEVER
        self.group, self.row, self.entry = group[possible], row[possible], entry[possible]
        self.literals = literals[possible]
        self.certain = self.grouping.by is None
        self._known: dict = {}
        self.made: dict = {}

    @property
    def wiring(self):
        return self.assembly.wiring

    # --- terms -----------------------------------------------------------------------------

    def _measure(self, where: str, tag: str, j: int):
        packed = self.assembly.packed
        full = f"{self.block.number}.{where}.{tag}{j}"
        if full not in packed:
            return None
        values = {"mf": packed.flags, "mv": packed.floats, "mr": packed.ints}[tag](full)
        return values[self.row if where == "base" else self.entry]

    def terms(self, j: int) -> Terms:
        """The terms that aggregate j counts; values of count are 1."""
        if ("terms", j) in self.made:
            return self.made["terms", j]
        made, rank = self.counted(j)
        if rank is not None and self.grouping.aggregates[j].as_text:
            made.value = rank.astype(np.float64)
        elif rank is not None and self.grouping.aggregates[j].distinct:
            made = self._distinct(made, rank)
        self.made["terms", j] = made
        return made

    def counted(self, j: int) -> tuple[Terms, np.ndarray | None]:
        """The terms of aggregate j, and the ranks of their values where these must differ."""
        keep = np.ones(len(self.group), bool)
        value = None
        for where in ("base", "entry"):
            flags = self._measure(where, "mf", j)
            if flags is not None:
                keep &= flags
            found = self._measure(where, "mv", j)
            if found is not None:
                keep &= ~np.isnan(found)
                value = found
        ranks = [self._measure(where, "mr", j) for where in ("base", "entry")]
        rank = next((r for r in ranks if r is not None), None)
        at = np.flatnonzero(keep)
        made = Terms(self.group[at], self.row[at], self.literals[at],
                     None if value is None else value[at], at)
        return made, None if rank is None else rank[at]

    def _distinct(self, terms: Terms, rank: np.ndarray) -> Terms:
        """One term for each value of a group: the event that the value occurs."""
        code = terms.group * (int(rank.max(initial=0)) + 1) + rank
        _, first, which = np.unique(code, return_index=True, return_inverse=True)
        out = self.wiring.any_of(len(first), which, terms.literals)
        return Terms(terms.group[first], terms.row[first],
                     (out + 3 * np.arange(len(first)) + 1)[:, None],
                     None if terms.value is None else terms.value[first])

    def signature(self, j: int) -> tuple:
        """Aggregates of one signature have rows, or none, together."""
        aggregate = self.grouping.aggregates[j]
        flags = aggregate.flag_base, aggregate.flag_entry
        if not aggregate.distinct and aggregate.number is None \
                and len(self.terms(j).group) == len(self.group):
            flags = None, None          # it leaves out no row
        return id(self), *flags

    def any(self) -> np.ndarray:
        """(n,) literals: the group has a row."""
        if self.certain:
            return np.full(self.n, CERTAIN)
        if self.block.settled_groups and not self.grouping.by_entry:
            rows = np.bincount(self.group, minlength=self.n)
            if self.grouping.sets:
                rows += self.assembly.packed.flags(f"{self.block.number}.g.total")
            return np.where(rows > 0, CERTAIN, NEVER)
        if "any" not in self.made:
            self.made["any"] = self.wiring.any_of(self.n, self.group, self.literals)
        literals = self.made["any"] + 3 * np.arange(self.n) + 1
        literals[np.bincount(self.group, minlength=self.n) == 0] = NEVER
        if self.grouping.sets:
            total = self.assembly.packed.flags(f"{self.block.number}.g.total")
            literals[total] = CERTAIN
        return literals

    def tangled(self) -> np.ndarray:
        """(n,) bool: two terms of the group share some of their variables, but not all. As terms of
        a threshold or an extreme they would count as independent."""
        if "tangled" not in self.made:
            made, wiring = np.zeros(self.n, bool), self.wiring
            if self.literals.shape[1] > 1:
                owners = np.sort(np.where(self.literals > NEVER, wiring.owner[self.literals], -1),
                                 axis=1)
                block = self.group
                for column in owners.T:
                    block = distinct(block * (int(column.max(initial=0)) + 2) + column + 1)[1]
                made = overlaps.mentioned_twice(wiring, self.n, self.group, self.literals, block)
            self.made["tangled"] = made
        return self.made["tangled"]

    def among(self, j: int, others: tuple[int, ...]) -> np.ndarray:
        """(T,) bool: the terms of aggregate j that one of the aggregates `others` has, too."""
        terms = self.terms(j)
        made = np.zeros(len(terms.group), bool)
        for other in others:
            theirs = self.terms(other).at
            if terms.at is None or theirs is None:
                made |= self.signature(j) == self.signature(other)
            else:
                made |= np.isin(terms.at, theirs)
        return made

    def apart(self, j: int, other: int) -> bool:
        """Whether no row that aggregate `other` has is one of j under other classes alone."""
        terms, theirs = self.terms(j), self.terms(other)
        rest = ~self.among(j, (other,))
        return terms.row is not None and theirs.row is not None \
            and not np.isin(terms.row[rest], theirs.row).any()

    def known(self, j: int, lacking: tuple[int, ...] = ()) -> np.ndarray:
        """(n,) literals: aggregate j has something to aggregate; lacking: besides what these
        aggregates have."""
        if lacking:
            key = (j, lacking)
            if key not in self._known:
                terms, kept = self.terms(j), ~self.among(j, lacking)
                self._known[key] = self.wiring.any_of(self.n, terms.group[kept],
                                                      terms.literals[kept])
            return self._known[key] + 3 * np.arange(self.n) + 1
        key = self.signature(j)[1:]
        if key == (None, None) and not self.certain and not self.grouping.sets:
            return self.any()
        if key not in self._known:
            terms = self.terms(j)
            self._known[key] = self.wiring.any_of(self.n, terms.group, terms.literals)
        return self._known[key] + 3 * np.arange(self.n) + 1

    # --- numbers ---------------------------------------------------------------------------

    def constant(self, leaf: tuple) -> np.ndarray:
        return self.leaves[leaf[1]]

    def place(self, leaf: tuple, there: bool = False) -> np.ndarray:
        """(n,) places in X of an aggregate, or of a cell that all rows of a group stand beside;
        `there`: given that the group is."""
        if leaf[0] == "cell":
            return self.base.place(leaf, there)[self.first_rows()]
        if there:
            return self._there(leaf)
        if leaf[2] == "sum given":
            key = ("given", leaf[1])
            if key not in self.made:
                out, known = self.wiring.numbers(self.n), self.known(leaf[1])
                self.wiring.add(Conditional(out, self.place((*leaf[:2], "sum")), known))
                self.made[key] = out + np.arange(self.n)
            return self.made[key]
        key = ("place", leaf[1])
        if key not in self.made:
            self.made[key] = self._aggregate(leaf[1], self.grouping.aggregates[leaf[1]])
        return self.made[key]

    def sums(self, number: Number) -> bool:
        """Whether a Number counts as 0 where it is NULL."""
        return self.base.sums(number) or any(leaf[2:] == ("sum",) and leaf[0] == "aggregate"
                                             for leaf in number.leaves)

    def _there(self, leaf: tuple) -> np.ndarray:
        """(n,) places in X of an aggregate given that the group is there."""
        number, any_ = self.place(leaf), self.any()
        if (any_ <= NEVER).all():
            return number
        key = ("there", leaf)
        if key not in self.made:
            out = self.wiring.numbers(self.n)
            self.wiring.add(OfThere(out, number, any_, zero=leaf[2] in ("count", "sum"),
                                    null=leaf[2] != "count"))
            self.made[key] = out + np.arange(self.n)
        return self.made[key]

    def first_rows(self) -> np.ndarray:
        """(n,) a base row of each group."""
        first = np.zeros(self.n, np.int64)
        first[self.group[::-1]] = self.row[::-1]
        return first

    def origin(self, leaf: tuple):
        """As `Base.origin`, of a cell that all rows of a group stand beside."""
        groups, of, number = self.base.origin(leaf)
        return groups, of[self.first_rows()], number

    def part(self, j: int, part: str) -> np.ndarray:
        """(n,) places in X of the "sum" or "count" of what aggregate j is of, given that the group
        is there."""
        key = ("part", j, part)
        if key not in self.made:
            terms, out = self.terms(j), self.wiring.numbers(self.n)
            self.wiring.add(Sums(out, self.n, terms.group, self.wiring.events(terms.literals),
                                 terms.value if part == "sum" else None))
            places = out + np.arange(self.n)
            if part == "sum":
                places = self._quotient(out, None, self.known(j))
            any_ = self.any()
            if (any_ > NEVER).any():
                out = self.wiring.numbers(self.n)
                self.wiring.add(OfThere(out, places, any_, zero=True, null=part == "sum"))
                places = out + np.arange(self.n)
            self.made[key] = places
        return self.made[key]

    def _aggregate(self, j: int, aggregate: Aggregate) -> np.ndarray:
        terms, groups = self.terms(j), np.arange(self.n)
        if aggregate.number is not None:
            return self._of_numbers(j, aggregate)
        if aggregate.function in ("min", "max"):
            if jointly.small_and_tangled(self, groups):
                together = jointly.of_numbers(self, j)
                if together is not None:
                    return self._if_there(together)
            out, terms = self.wiring.numbers(self.n), self._by_value(terms)
            self.wiring.add(Extreme(out, self.n, aggregate.function, terms.group, terms.literals,
                                    terms.value))
            return out + groups
        events = self.wiring.events(terms.literals)
        count = None
        if aggregate.function in ("count", "avg"):
            count = self.wiring.numbers(self.n)
            self.wiring.add(Sums(count, self.n, terms.group, events))
        if aggregate.function == "count":
            return count + groups
        total = self.wiring.numbers(self.n)
        self.wiring.add(Sums(total, self.n, terms.group, events, terms.value))
        return self._quotient(total, count, self.known(j))

    def _by_value(self, terms: Terms) -> Terms:
        """The terms of an extreme, those of a group with equal values made one disjunction.

        A disjunction knows what its terms share; the extreme of terms that share some but not all
        of their variables does not. Where terms over the same variables have different values,
        only the extreme knows that they exclude each other: such groups stay as they are.
        """
        if terms.literals.shape[1] == 1:
            return terms
        there = np.flatnonzero(terms.literals[:, 0] != NEVER)
        group, literals, value = terms.group[there], terms.literals[there], terms.value[there]
        owners = np.sort(self.wiring.owner[literals], axis=1)
        same = group
        for column in owners.T:
            same = distinct(same * (int(column.max(initial=0)) + 2) + column + 1)[1]
        rank = np.unique(value, return_inverse=True)[1]
        targets, target = distinct(group * (int(rank.max(initial=0)) + 1) + rank)
        valued = distinct(same * len(targets) + target)[0] // max(len(targets), 1)
        several = np.zeros(self.n, bool)
        several[group[np.bincount(valued, minlength=len(same))[same] > 1]] = True
        merged = ~several[group] & (np.bincount(target, minlength=len(targets))[target] > 1)
        if not merged.any():
            return terms
        of, number = distinct(target[merged])
        first = np.zeros(len(targets), np.int64)
        first[target] = np.arange(len(target))
        at = self.wiring.any_of(len(of), number, literals[merged])
        joined = np.full((len(of), literals.shape[1]), CERTAIN)
        joined[:, 0] = at + 3 * np.arange(len(of)) + 1
        kept, first = np.flatnonzero(~merged), first[of]
        return Terms(np.concatenate([group[kept], group[first]]), None,
                     np.concatenate([literals[kept], joined]),
                     np.concatenate([value[kept], value[first]]))

    def _quotient(self, total: int, count: int | None, known: np.ndarray) -> np.ndarray:
        groups = np.arange(self.n)
        out = self.wiring.numbers(self.n)
        self.wiring.add(Quotient(out, total + groups, None if count is None else count + groups,
                                 known))
        return out + groups

    def numbered(self, j: int) -> Terms:
        """The terms of an aggregate over a number, without those whose number is surely NULL."""
        terms, number = self.terms(j), self.grouping.aggregates[j].number
        there = np.flatnonzero(~self.base.surely_null(number)[terms.row])
        if len(there) < len(terms.row) or terms.at is not None:
            terms = Terms(terms.group[there], terms.row[there], terms.literals[there], None)
            self.made["terms", j] = terms
        return terms

    def _if_there(self, places: np.ndarray) -> np.ndarray:
        """(n,) places in X of a number that is known given that the group is there."""
        any_ = self.any()
        if (any_ == CERTAIN).all():
            return places
        out = self.wiring.numbers(self.n)
        self.wiring.add(KnownIf(out, places, any_))
        return out + np.arange(self.n)

    def _of_numbers(self, j: int, aggregate: Aggregate) -> np.ndarray:
        """An aggregate whose argument is a number of the circuit, different for each base row."""
        base, number = self.base, aggregate.number
        terms = self.numbered(j)
        if aggregate.function in ("min", "max"):
            together = jointly.of_numbers(self, j)
            if together is not None:
                self.assembly.exactly[self.block.number, j] = "exact, by diagrams of the groups"
                return self._if_there(together)
            found = spelled.by_value(base, number, terms.row)
            if found is not None:
                at = found.row
                self.assembly.exactly[self.block.number, j] = "exact for groups without common " \
                    "variables, by the distributions of their counts"
                out = self.wiring.numbers(self.n)
                self.wiring.add(Extreme(
                    out, self.n, aggregate.function, terms.group[at],
                    self.wiring.conjunction(terms.literals[at], found.literals()), found.value))
                return out + np.arange(self.n)
        # A term occurs only where the groups that its number is of are there.
        places = base.places(number, True)[terms.row]
        events = self.wiring.events(terms.literals)
        groups = np.arange(self.n)
        if aggregate.function in ("min", "max"):
            out = self.wiring.numbers(self.n)
            self.wiring.add(Chosen(out, self.n, aggregate.function, terms.group, events, places))
            return out + groups
        out = self.wiring.numbers(self.n)
        known = self.wiring.any_of(self.n, terms.group, self._with_number(number, terms, events,
                                                                            places))
        known = known + 3 * groups + 1
        if aggregate.function in ("count", "avg"):
            count = self.wiring.numbers(self.n)
            self.wiring.add(Sums(count, self.n, terms.group, events, known=places))
            if aggregate.function == "count":
                return count + groups
        summed, given = self._without_own(aggregate, terms, events, places)
        self.wiring.add(Sums(out, self.n, terms.group, summed, number=given,
                             known=None if base.sums(number) else places))
        return self._quotient(out, count if aggregate.function == "avg" else None, known)

    def _with_number(self, number: Number, terms: Terms, events, places) -> np.ndarray:
        """(T, L) literals: the term occurs, and its number is not NULL."""
        if all(leaf[0] != "cell" for leaf in number.leaves):
            return terms.literals
        out = self.wiring.singles(len(events))
        self.wiring.add(KnownEvent(out, events, places))
        return (out + np.arange(len(events)))[:, None]

    def _without_own(self, aggregate: Aggregate, terms: Terms, events: np.ndarray,
                     places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Events that a row's number is multiplied with, and the places of the numbers.

        A count or sum over a group is 0 where the group is not there, and its expectation says so
        already: if the group's own presence is among the literals, it can be left out in place of
        dividing the number by it, which has a slope where the presence is impossible, too.
        """
        number, base = aggregate.number, self.base
        if number.tree[0] != "x" or number.leaves[number.tree[1]][0] != "cell":
            return events, places
        _, unit, cell = number.leaves[number.tree[1]]
        rows, index = base.units[unit]
        groups, of, made = rows.origin.get(cell, (None, None, None))
        if not isinstance(groups, Groups) or made.tree[0] != "x" \
                or made.leaves[made.tree[1]][2] not in ("count", "sum"):
            return events, places
        own = groups.any()[of[index[terms.row]]]
        mine = (terms.literals == own[:, None]) & (own > NEVER)[:, None]
        places = np.where(mine.any(axis=1), base.places(number)[terms.row], places)
        literals = np.where(mine, CERTAIN, terms.literals)
        return self.wiring.events(self.wiring.conjunction(literals)), places

    def three(self, leaf: tuple) -> np.ndarray:
        """(n,) places of threes: a boolean aggregate, or an atom of the grouping."""
        if leaf[0] == "condition":
            return comparisons.place(self, self.grouping.atoms[leaf[1]])
        j = leaf[1]
        key = ("three", j)
        if key not in self.made:
            aggregate, terms = self.grouping.aggregates[j], self.terms(j)
            decides = terms.value == (1.0 if aggregate.function == "bool_or" else 0.0)
            decided = self.wiring.any_of(self.n, terms.group[decides], terms.literals[decides])
            out = self.wiring.threes(self.n)
            self.wiring.add(BooleanAggregate(out, aggregate.function,
                                             decided + 3 * np.arange(self.n) + 1, self.known(j)))
            self.made[key] = out + 3 * np.arange(self.n)
        return self.made[key]

    def places(self, number: Number, there: bool = False) -> np.ndarray:
        """(n,) places in X of arithmetic over aggregates."""
        return arithmetic(self, number, self.n, there)

    def shown(self, j: int):
        """(group, text, literal) of everything that min or max of texts can be.

        The maximum is r if a term is r or more and none is more than r.
        """
        aggregate, terms, number = self.grouping.aggregates[j], self.terms(j), self.block.number
        rank = terms.value.astype(np.int64) if terms.value is not None else np.zeros(0, np.int64)
        if aggregate.function == "min":
            rank = -rank
        order = np.unique(np.stack([terms.group, rank], axis=1), axis=0).reshape(-1, 2)
        group, value = order[:, 0], order[:, 1]
        owner, term = Buckets(terms.group).pairs(group)
        settings.FACTOR_PAIRS.limit(len(owner), hint="Group by less, or aggregate a number.")
        places = []
        for keep in (rank[term] > value[owner], rank[term] >= value[owner]):
            places.append(self.wiring.any_of(len(group), owner[keep], terms.literals[term[keep]])
                          + 3 * np.arange(len(group)) + 1)
        out = self.wiring.threes(len(group))
        self.wiring.add(BooleanAggregate(out, "bool_or", *places))
        texts = {}
        for where in ("base", "entry"):
            tag = f"{number}.{where}.mt{j}"
            if tag in self.assembly.packed:
                texts = {int(r): text for r, text in self.assembly.packed.texts(tag)}
        nothing = self.wiring.conjunction(self.any(), self.known(j) - 1) if self.n else \
            np.zeros((0, 1), np.int64)
        return (np.concatenate([group, np.arange(self.n)]),
                [texts[abs(int(v))] for v in value] + [None] * self.n,
                np.concatenate([out + 3 * np.arange(len(group)), self.wiring.events(nothing)]))

    def case(self, c: int):
        """(group, text, literal) of a CASE over comparisons: one for each outcome of these."""
        packed, number = self.assembly.packed, self.block.number
        group = packed.ints(f"{number}.c{c}.g")
        numbers = self.grouping.cases[c][1]
        codes = [packed.ints(f"{number}.c{c}.t{i}") for i in numbers]
        parts = [self.any()[group], *chains.literals(
            self, [self.grouping.atoms[i] for i in numbers],
            np.stack(codes, axis=1) if codes else np.zeros((len(group), 0), np.int64), group)]
        return (group, [row[0] for row in packed.texts(f"{number}.c{c}.text")],
                self.wiring.events(self.wiring.conjunction(*parts)))

    # --- the relation ----------------------------------------------------------------------

    def rows(self):
        """The groups as possible rows."""
        rows = Rows(self.present()[:, None])
        everyone = np.arange(self.n)
        for number, made in enumerate(self.grouping.cells):
            rows.cells[number] = self.places(made)
            rows.given[number] = lambda made=made: self._passed(made)
            rows.sums |= {number} if self.sums(made) else set()
            rows.origin[number] = self, everyone, made
        for number, atom in enumerate(self.grouping.flags):
            rows.flags[number] = comparisons.place(self, atom)
        for number, j in enumerate(self.grouping.shown):
            rows.shown[number] = self.shown(j) if j >= 0 else self.case(-1 - j)
        return rows

    def _passed(self, number: Number) -> np.ndarray:
        """(n,) places in X of a number given that the group is there: where it is small, given that
        HAVING lets it pass, too."""
        places = jointly.given(self, number)
        if places is not None and (places >= 0).all():
            return places
        others = self.places(number, True)
        return others if places is None else np.where(places < 0, others, places)

    def present(self) -> np.ndarray:
        """(n,) literals: the group has a row, and HAVING lets it pass."""
        grouping, packed, number = self.grouping, self.assembly.packed, self.block.number
        if grouping.having is None:
            return self.any()
        group = packed.ints(f"{number}.h.g")
        codes = [packed.ints(f"{number}.h.t{i}") for i in range(len(grouping.atoms))]
        parts = [self.any()[group], *chains.literals(
            self, grouping.atoms,
            np.stack(codes, axis=1) if codes else np.zeros((len(group), 0), np.int64), group)]
        events = self.wiring.events(self.wiring.conjunction(*parts))
        out = self.wiring.threes(self.n)
        self.wiring.add(Disjoint(out, self.n, group, events))
        return out + 3 * np.arange(self.n) + 1


