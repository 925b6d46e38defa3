"""Comparisons of numbers of the circuit, wired: each row gets a boolean with three states."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from pgrain.errors import UnsupportedOperator
from pgrain.plan.expression import refuse
from pgrain.provenance.algebra import delta, jointly
from pgrain.provenance.algebra.blocks import Atom, Number
from pgrain.provenance.algebra.given import Given, IfAggregated
from pgrain.provenance.algebra.linear import moved, without_steps
from pgrain.provenance.algebra.small_gates import BooleanAggregate, Combination, Known
from pgrain.provenance.algebra.wiring import CERTAIN, NEVER, Buckets
from pgrain.provenance.gates.proba_step import ProbaStep
from pgrain.provenance.gates.threshold import Threshold

LARGEST = 2.0 ** 53      # integers above have neighbours that float64 takes for equal
_SOURCES = 3             # groups of which a comparison is taken given that they are there
_TESTS = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
          "=": np.equal, "<>": np.not_equal}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "<>": "<>"}


def place(rows, atom: Atom) -> np.ndarray:
    """(n,) places of threes of `atom` for each of `rows` (a Base or Groups)."""
    if atom.operator == "flag":
        return rows.three(atom.left.leaves[0])
    return _named(rows, atom, None)


def place_bound(rows, left: Number, operator: str, bound: np.ndarray, place) -> np.ndarray:
    """(n,) places of threes of left operator bound, NULL where that is NaN; place: for errors."""
    zero = Number(("const", 0), [("leaf", -1)])
    return _named(rows, Atom(operator, left, zero, place), bound)


def with_constant(atom: Atom) -> tuple[Number, str, Number | None] | None:
    """(number, operator, deterministic number or None for 0) of a comparison; None of what is none.
    Two numbers of the circuit are their difference and 0."""
    if atom.operator not in _MIRRORED:
        return None
    if _varies(atom.left) == _varies(atom.right):
        return _difference(atom)
    if _varies(atom.left):
        return atom.left, atom.operator, atom.right
    return atom.right, _MIRRORED[atom.operator], atom.left


def _difference(atom: Atom) -> tuple[Number, str, None] | None:
    """a - b, operator, 0; the two in an order that does not hang on how the query writes them."""
    sides = sorted(((repr(side), side) for side in (atom.left, atom.right)), key=lambda s: s[0])
    (_, left), (_, right) = sides
    if left.tree[0] != "x" or right.tree[0] != "x":
        return None
    number = Number(("-", ("x", 0), ("x", 1)), [left.leaves[left.tree[1]],
                                                right.leaves[right.tree[1]]])
    operator = atom.operator if left is atom.left else _MIRRORED[atom.operator]
    return number, operator, None


def _named(rows, atom: Atom, bound: np.ndarray | None) -> np.ndarray:
    try:
        return _decided(rows, atom, bound)
    except UnsupportedOperator as error:
        if error.detail is not None or atom.place is None:
            raise
        error.detail = refuse("", rows.assembly.program.text, *atom.place).detail
        raise


def _decided(rows, atom: Atom, bound: np.ndarray | None) -> np.ndarray:
    """By a threshold; by the groups' diagrams where these know more; where there is neither, by
    moments."""
    places = jointly.places(rows, atom, bound) if jointly.better(rows, atom) else None
    if places is None or (places < 0).any():
        try:
            others = _place(rows, atom, bound)
        except UnsupportedOperator:
            if places is None:
                places = jointly.places(rows, atom, bound)
            others = None
            if places is None or (places < 0).any():
                others = delta.place(rows, atom, bound)
        if places is None:
            return others
        places = places if others is None else np.where(places < 0, others, places)
    return places


def _place(rows, atom: Atom, bound: np.ndarray | None) -> np.ndarray:
    wiring = rows.assembly.wiring
    if atom.right is None:
        out, negated = wiring.threes(rows.n), atom.operator == "is not null"
        wiring.add(Known(out, rows.places(atom.left), negated))
        places = out + 3 * np.arange(rows.n)
        groups, of = _nothing_without(rows, atom.left)
        empty = np.full(rows.n, rows.assembly.settled(0 if negated else 1))
        return places if groups is None else given(rows, places, groups, of, empty)
    left, right, operator = atom.left, atom.right, atom.operator
    if not _varies(left):
        left, right, operator = right, left, _MIRRORED[operator]
    if not _varies(right) and operator not in ("=", "<>"):
        left, steps = without_steps(left)
        if steps and bound is None:
            bound = constant(rows, right)
        for step, digits in steps:
            width = 1.0 if digits is None else 10.0 ** -_digits(rows, left, digits)
            operator, bound = moved(step, width, operator, bound)
    kind = left.leaves[left.tree[1]] if left.tree[0] == "x" else None
    proba = kind is not None and kind[0] == "proba"
    extreme = kind is not None and not proba and _extreme(rows, kind)
    if (proba or extreme) and (bound is not None or not _varies(right)):
        bound = constant(rows, right) if bound is None else bound
        return _probability(rows, kind, operator, bound) if proba else \
            _of_extreme(rows, *extreme, operator, bound)
    return _linear(rows, left, right, operator, bound)


def _nothing_without(rows, number: Number) -> tuple:
    """(Groups, (n,) groups) of a plain aggregate that is NULL where its group has no rows."""
    leaf = number.leaves[number.tree[1]] if number.tree[0] == "x" else ("",)
    groups, of = rows, np.arange(rows.n)
    if leaf[0] == "cell":
        groups, of, leaf = _source(rows, leaf)
    if leaf is None or leaf[0] != "aggregate" or leaf[2] == "count":
        return None, of
    return groups, of


def _digits(rows, number: Number, tree: tuple) -> float:
    """How many digits a step keeps: one number for all rows."""
    digits = np.unique(constant(rows, Number(tree, number.leaves)))
    if len(digits) > 1 or np.isnan(digits).any():
        raise UnsupportedOperator("a threshold on a number rounded to digits that differ",
                                  hint="Compare the number as it is, without rounding.")
    return float(digits[0]) if len(digits) else 0.0


def _within(numbers: np.ndarray) -> None:
    """0A000 for what float64 cannot tell apart from its neighbours."""
    if (np.abs(numbers[~np.isnan(numbers)]) > LARGEST).any():
        raise UnsupportedOperator("a threshold on numbers beyond 2^53 has no provenance",
                                  hint="Subtract a constant, or divide, so that they are smaller.")


def refusal() -> UnsupportedOperator:
    """0A000 for numbers that no threshold is put on."""
    return UnsupportedOperator("a threshold on this arithmetic of numbers that depend on "
                               "predictions has no provenance yet",
                               hint="Compare one sum, count or average with a constant.")


def _varies(number: Number) -> bool:
    return any(leaf[0] != "leaf" for leaf in number.leaves)


def constant(rows, number: Number) -> np.ndarray:
    """(n,) values of a deterministic number, NaN for NULL."""
    value, _ = _Evaluation(rows).evaluate(number.tree, number.leaves)
    return value.constant


# --- probabilities and extremes ------------------------------------------------------------

def _probability(rows, leaf, operator: str, threshold: np.ndarray) -> np.ndarray:
    wiring = rows.assembly.wiring
    if operator in ("=", "<>"):
        raise UnsupportedOperator("a probability compared for equality has no provenance",
                                  hint="Use < or >.")
    literal = rows.probability(leaf[1], leaf[2])
    known = np.flatnonzero((literal >= 0) & ~np.isnan(threshold))
    places = np.full(rows.n, rows.assembly.null())
    out = wiring.threes(len(known))
    wiring.add(ProbaStep(out, literal[known], threshold[known], operator))
    places[known] = out + 3 * np.arange(len(known))
    return places


def _extreme(rows, leaf):
    """(Groups, groups of rows, aggregate) if a leaf is a plain minimum or maximum."""
    groups, of, leaf = (rows, np.arange(rows.n), leaf) if leaf[0] == "aggregate" else \
        _source(rows, leaf)
    if leaf is None or leaf[0] != "aggregate":
        return None
    aggregate = groups.grouping.aggregates[leaf[1]]
    if aggregate.function not in ("min", "max") or aggregate.number is not None:
        return None
    return groups, of, leaf[1]


def _source(rows, leaf):
    if leaf[0] != "cell":
        return rows, np.arange(rows.n), None
    groups, of, number = rows.origin(leaf)
    plain = number.tree[0] == "x"
    return groups, of, number.leaves[number.tree[1]] if plain else None


def _of_extreme(rows, groups, of, j: int, operator: str, bound: np.ndarray) -> np.ndarray:
    """max > c: is there a term over c; min < c likewise; the others are their negations."""
    if not groups.n:
        return np.full(rows.n, rows.assembly.null())
    if groups is not rows:
        first, which = _alike([of, bound])
        if len(first) < len(of):
            return _of_extreme(_Few(rows, len(first)), groups, of[first], j, operator,
                               bound[first])[which]
    wiring, terms = rows.assembly.wiring, groups.terms(j)
    _within(bound)
    _within(terms.value)
    function = groups.grouping.aggregates[j].function
    if operator in ("=", "<>"):
        return _of_extreme_equal(rows, groups, of, j, operator, bound)
    negated = operator[0] == ("<" if function == "max" else ">")
    test = {"<": np.greater_equal, "<=": np.greater, ">": np.less_equal, ">=": np.less}[operator] \
        if negated else {"<": np.less, "<=": np.less_equal, ">": np.greater,
                         ">=": np.greater_equal}[operator]
    row, term = Buckets(terms.group).pairs(of)
    keep = test(terms.value[term], bound[row])
    decided = wiring.any_of(rows.n, row[keep], terms.literals[term[keep]])
    out = wiring.threes(rows.n)
    wiring.add(BooleanAggregate(out, "bool_and" if negated else "bool_or",
                                decided + 3 * np.arange(rows.n) + 1, groups.known(j)[of]))
    places = out + 3 * np.arange(rows.n)
    places[np.isnan(bound) | (of < 0)] = rows.assembly.null()
    return given(rows, places, groups, of, np.full(rows.n, rows.assembly.null()))


def _of_extreme_equal(rows, groups, of, j: int, operator: str, bound: np.ndarray) -> np.ndarray:
    """P(max = c) = P(max >= c) - P(max > c)."""
    least, more = (_of_extreme(rows, groups, of, j, test, bound) for test in (">=", ">"))
    wiring, n = rows.assembly.wiring, rows.n
    equal, other = (1, 0) if operator == "=" else (0, 1)
    out, row = wiring.threes(n), 3 * np.arange(n)
    # (state, place, weight): not least, or more; least but not more; NULL
    parts = [(other, least, 1.0), (other, more + 1, 1.0), (equal, least + 1, 1.0),
             (equal, more + 1, -1.0), (2, least + 2, 1.0)]
    wiring.add(Combination(out, 3 * n, np.concatenate([row + state for state, _, _ in parts]),
                           np.concatenate([place for _, place, _ in parts]),
                           np.concatenate([np.full(n, weight) for *_, weight in parts])))
    return out + row


@dataclass
class _Few:
    """Some rows of a Base, as far as comparisons ask."""

    of: object
    n: int

    @property
    def assembly(self):
        return self.of.assembly


def given(rows, places, groups, of, empty) -> np.ndarray:
    """The comparison given that the group is there, whose presence is counted elsewhere; `empty`:
    (n,) places of what it is without the group."""
    if _settled(rows, groups):
        return places
    wiring = rows.assembly.wiring
    there = np.where(of < 0, CERTAIN, groups.any()[of])
    first, which = _alike([places, there, empty])
    out = wiring.threes(len(first))
    wiring.add(Given(out, places[first], there[first], empty[first]))
    return (out + 3 * np.arange(len(first)))[which]


def _settled(rows, groups) -> bool:
    """Whether comparisons need not ask if a group is there."""
    return groups.certain or (groups is not rows and groups.grouping.having is not None)


# --- sums ----------------------------------------------------------------------------------

@dataclass
class Linear:
    """constant + sum of coefficient x part of an aggregate, for each row.

    parts: (Groups, (n,) groups, aggregate, "count" or "sum", (n,) coefficients); nulls: aggregates
    without which the whole is NULL; wholes: (Groups, (n,) groups, aggregate, (n,) coefficients) of
    aggregates over numbers of the circuit; spread: (row (m,), *parts) of several groups for a row;
    lacks: (Groups, (n,) groups, aggregate) whose terms do not count.
    """

    constant: np.ndarray
    parts: list = field(default_factory=list)
    nulls: list = field(default_factory=list)
    wholes: list = field(default_factory=list)
    spread: list = field(default_factory=list)
    lacks: list = field(default_factory=list)

    @property
    def varies(self) -> bool:
        return bool(self.parts or self.wholes)

    def times(self, factor: np.ndarray) -> Linear:
        return Linear(self.constant * factor,
                      [(g, of, j, part, c * factor) for g, of, j, part, c in self.parts],
                      self.nulls, [(g, of, j, c * factor) for g, of, j, c in self.wholes])

    def plus(self, other: Linear) -> Linear:
        return Linear(self.constant + other.constant, self.parts + other.parts,
                      self.nulls + other.nulls, self.wholes + other.wholes)

    def without(self, groups, of: np.ndarray) -> Linear:
        """The same where the groups `of` have no rows."""
        def other(one, theirs: np.ndarray) -> np.ndarray:
            return np.where(theirs == of, -1, theirs) if one is groups else theirs

        parts = [(g, other(g, rows), j, part, c) for g, rows, j, part, c in self.parts]
        return Linear(self.constant, [part for part in parts if (part[1] >= 0).any()],
                      [(g, other(g, rows), j) for g, rows, j in self.nulls], self.wholes)

    def take(self, of: np.ndarray) -> Linear:
        """The rows `of`; NULL where there is none (-1)."""
        if not len(self.constant):
            return Linear(np.full(len(of), np.nan))
        there = of >= 0

        def group(rows: np.ndarray) -> np.ndarray:
            return np.where(there, rows[of], -1)

        return Linear(np.where(there, self.constant[of], np.nan),
                      [(g, group(rows), j, part, c[of]) for g, rows, j, part, c in self.parts],
                      [(g, group(rows), j) for g, rows, j in self.nulls],
                      [(g, group(rows), j, c[of]) for g, rows, j, c in self.wholes])


class _Evaluation:
    """A Number as (numerator, denominator or None), both Linear."""

    def __init__(self, rows):
        self.rows, self.n = rows, rows.n

    def evaluate(self, tree, leaves):
        name = tree[0]
        if name in ("x", "const"):
            return self.leaf(leaves[tree[1]])
        args = [self.evaluate(child, leaves) for child in tree[1:]]
        if name in ("identity", "nullif"):
            if name == "nullif" and not args[0][0].varies:
                raise self.refuse()
            return args[0]
        if name == "coalesce":
            (value, denominator), (default, _) = args
            if denominator is not None or value.wholes or not (default.constant == 0).all():
                raise self.refuse()
            return Linear(np.nan_to_num(value.constant), value.parts, []), None
        if name == "neg":
            (value, denominator), = args
            return value.times(np.full(self.n, -1.0)), denominator
        if name not in ("+", "-", "*", "/"):
            raise self.refuse()
        (a, b), (c, d) = args
        if name in ("+", "-"):
            c = c if name == "+" else c.times(np.full(self.n, -1.0))
            if b is None and d is None:
                return a.plus(c), None
            if b is None:
                (a, b), (c, d) = (c, d), (a, b)
            if d is not None or c.varies or b.wholes:
                raise self.refuse()
            return a.plus(b.times(c.constant)), b
        if name == "*":
            if a.varies or b is not None:
                (a, b), (c, d) = (c, d), (a, b)
            if a.varies or b is not None:
                raise self.refuse()
            return c.times(a.constant), d
        if name == "/":
            if not c.varies and d is None:
                return a.times(1.0 / c.constant), b
            if b is None and d is None and not c.wholes and not a.wholes:
                return a, c
        raise self.refuse()

    def leaf(self, leaf: tuple):
        zero = np.zeros(self.n)
        if leaf[0] == "leaf":
            return Linear(self.rows.constant(leaf)), None
        if leaf[0] == "cell":
            groups, of, number = self.rows.origin(leaf)
            value, denominator = _Evaluation(groups).evaluate(number.tree, number.leaves)
            return value.take(of), denominator and denominator.take(of)
        if leaf[0] != "aggregate":
            raise self.refuse()
        j, groups = leaf[1], np.arange(self.n)
        aggregate = self.rows.grouping.aggregates[j]
        one = np.ones(self.n)
        if aggregate.number is not None and aggregate.function in ("sum", "avg", "min", "max"):
            return Linear(zero, [], [], [(self.rows, groups, j, one)]), None
        if aggregate.number is not None or aggregate.function not in ("count", "sum", "avg"):
            raise self.refuse()
        count = Linear(zero, [(self.rows, groups, j, "count", one)])
        if aggregate.function == "count":
            return count, None
        total = Linear(zero, [(self.rows, groups, j, "sum", one)], [(self.rows, groups, j)])
        return total, count if aggregate.function == "avg" else None

    @staticmethod
    def refuse():
        return refusal()


def _linear(rows, left: Number, right: Number, operator: str,
            bound: np.ndarray | None = None) -> np.ndarray:
    """left operator right, or `bound` in its place."""
    evaluation = _Evaluation(rows)
    a, b = evaluation.evaluate(left.tree, left.leaves)
    c, d = (Linear(bound), None) if bound is not None else \
        evaluation.evaluate(right.tree, right.leaves)
    if d is not None:
        if b is not None or a.varies:
            raise evaluation.refuse()
        (a, b), (c, d), operator = (c, d), (a, b), _MIRRORED[operator]
    divided = []
    if b is not None:
        if c.varies or a.wholes:
            raise evaluation.refuse()
        divided = [(g, of, j) for g, of, j, _, _ in b.parts]
        c = b.times(c.constant).plus(Linear(np.zeros(rows.n), [], c.nulls))
    whole = a.plus(c.times(np.full(rows.n, -1.0)))
    whole.nulls = whole.nulls + divided
    if whole.wholes:
        return _with_wholes(rows, whole, operator)
    if any(groups is rows for groups, *_ in whole.parts):       # each row has terms of its own
        return threshold_of(rows, whole, operator)
    first, which = _alike([whole.constant, *(x for _, of, _, _, c in whole.parts for x in (of, c)),
                           *(of for _, of, _ in whole.nulls)])
    return threshold_of(rows, whole.take(first), operator)[which]


def _with_wholes(rows, whole: Linear, operator: str) -> np.ndarray:
    from pgrain.provenance.algebra.wholes import compare
    if not rows.n:
        return np.zeros(0, np.int64)
    (groups, of, *_), *_ = whole.wholes
    first, which = _alike([whole.constant, *(x for _, of, _, _, c in whole.parts for x in (of, c)),
                           *(of for _, of, _ in whole.nulls),
                           *(x for _, of, _, c in whole.wholes for x in (of, c))])
    places = compare(rows, whole.take(first), operator)[which]
    # Which group has the aggregate is counted where the group is.
    return given(rows, places, groups, of, np.full(rows.n, rows.assembly.null())) \
        if groups is rows else places


def evaluate(rows, number: Number) -> tuple[Linear, Linear | None]:
    """(numerator, denominator or None) of a Number."""
    return _Evaluation(rows).evaluate(number.tree, number.leaves)


def _alike(columns: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(one row of each kind, (n,) the kind of each row): rows of a kind have the same columns."""
    first, which = np.zeros(1, np.int64), np.zeros(len(columns[0]), np.int64)
    for column in columns:
        _, code = np.unique(column, return_inverse=True)
        _, first, which = np.unique(which * (int(code.max(initial=0)) + 1) + code,
                                    return_index=True, return_inverse=True)
    return first, which


def threshold_of(rows, whole: Linear, operator: str) -> np.ndarray:
    """(n,) places of threes: `whole` compared with 0, given that the groups that it is of are there
    (their presence is counted elsewhere)."""
    sources = []
    for groups, of, *_ in whole.parts:
        if not _settled(rows, groups) and all(groups is not known or (of != other).any()
                                              for known, other in sources):
            sources.append((groups, of))
    return _given_all(rows, whole, operator, sources[:_SOURCES])


def _given_all(rows, whole: Linear, operator: str, sources: list) -> np.ndarray:
    if not sources:
        return _against_zero(rows, whole, operator)
    (groups, of), *rest = sources
    places = _given_all(rows, whole, operator, rest)
    if whole.spread:            # where the row's own group is not there, the others decide
        sign = np.sign(sum(np.bincount(row, c, len(of)) for row, _, _, _, _, c in whole.spread))
        empty = _constant_places(rows, operator, np.where(sign != 0, sign, whole.constant))
    else:
        empty = _given_all(rows, whole.without(groups, of), operator, rest)
    for other, theirs in rest:          # rows whose group is asked for already
        of = np.where((groups is other) & (of == theirs), -1, of)
    return given(rows, places, groups, of, empty)


def _constant_places(rows, operator: str, constant: np.ndarray) -> np.ndarray:
    """(n,) places of threes of comparisons of constants with 0."""
    states = np.where(np.isnan(constant), 2, _TESTS[operator](constant, 0.0))
    known = {state: rows.assembly.settled(state) for state in np.unique(states).tolist()}
    return np.array([known.get(state, -1) for state in range(3)])[states]


def _against_zero(rows, whole: Linear, operator: str) -> np.ndarray:
    """(n,) places of threes: `whole` compared with 0, NULL where one of its aggregates is."""
    unknown = np.isnan(whole.constant)
    nulls: dict[tuple, tuple] = {}
    for groups, of, j in whole.nulls:
        nulls.setdefault((groups.signature(j), of.tobytes()), (groups, of, j))
    places = _if_known(rows, replace(whole, constant=np.where(unknown, 0.0, whole.constant)),
                       operator, list(nulls.values()))
    return np.where(unknown, rows.assembly.null(), places)


def _if_known(rows, whole: Linear, operator: str, nulls: list) -> np.ndarray:
    """The comparison where each of `nulls` has something to aggregate, else NULL."""
    wiring, n = rows.assembly.wiring, len(whole.constant)
    if not nulls:
        target, literals, weights = terms_of(whole.parts, n, whole.spread, whole.lacks)
        if not len(target):
            return _constant_places(rows, operator, whole.constant)
        _within(np.bincount(target, np.abs(weights), n) + np.abs(whole.constant))
        out = wiring.threes(n)
        wiring.add(Threshold(out, n, operator, target, literals, weights, whole.constant))
        return out + 3 * np.arange(n)
    (groups, of, j), *rest = nulls
    places = without = _if_known(rows, whole, operator, rest)
    # Where a row counts here under one class and there under another, and for many numbers: as if
    # independent.
    if len(nulls) <= _SOURCES and not whole.spread and all(
            one is not groups or groups.apart(k, j) for one, _, k, _, _ in whole.parts):
        without = _if_known(rows, replace(whole, lacks=[*whole.lacks, (groups, of, j)]), operator,
                            rest)
    lacking = tuple(k for one, theirs, k in whole.lacks if one is groups and (theirs == of).all())
    known = np.where(of < 0, NEVER, groups.known(j, lacking)[of])
    out = wiring.threes(n)
    wiring.add(IfAggregated(out, places, known, without))
    return out + 3 * np.arange(n)


def terms_of(parts, n: int, spread=(), lacks=()):
    """(row (T,), literals (T, L), weights (T,)) of a Linear's parts; lacks: (Groups, (n,) groups,
    aggregate) whose terms are left out."""
    found = []
    for owner, groups, of, j, part, coefficient in [*((None, *each) for each in parts), *spread]:
        terms = groups.terms(j)
        row, term = Buckets(terms.group).pairs(of)
        for one, theirs, k in lacks:
            if one is groups:
                kept = ~(groups.among(j, (k,))[term] & (theirs[row] == of[row]))
                row, term = row[kept], term[kept]
        weight = coefficient[row]
        if part == "sum":
            weight = weight * terms.value[term]
        found.append((row if owner is None else owner[row], terms.literals[term], weight))
    width = max((literals.shape[1] for _, literals, _ in found), default=1)
    literals = [np.pad(x, ((0, 0), (0, width - x.shape[1]))) for _, x, _ in found]
    if not found:
        return np.zeros(0, np.int64), np.zeros((0, 1), np.int64), np.zeros(0)
    row, literals = np.concatenate([f[0] for f in found]), np.concatenate(literals)
    weight = np.where(np.isnan(w := np.concatenate([f[2] for f in found])), 0.0, w)
    possible = literals[:, 0] != NEVER
    return row[possible], literals[possible], weight[possible]
