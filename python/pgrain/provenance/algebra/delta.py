"""Comparisons of arithmetic over the numbers of large groups, by the delta method.

g(X) op 0 for counts, sums and extremes X: g is linearised at the expectations, with the variance
grad gᵀ Cov(X) grad g, and taken as normal. Counts and sums have the covariance of their terms;
extremes have a variance of their own and count as independent of all else. (Oehlert, "A note on
the delta method", The American Statistician 1992.) On classes there is no variance: g decides.
"""

from __future__ import annotations

import numpy as np

from pgrain.errors import UnsupportedOperator
from pgrain.provenance.algebra import comparisons
from pgrain.provenance.algebra.blocks import Atom, Number
from pgrain.provenance.algebra.small_gates import Constants
from pgrain.provenance.gates.arithmetic import Arithmetic
from pgrain.provenance.gates.extreme import Extreme
from pgrain.provenance.gates.spread import NormalStep, Variances

_INSIDE = ("identity", "round", "rint", "to_int", "floor", "ceil", "trunc", "coalesce", "nullif")
_NUMBERS = 6        # different numbers in one comparison, at most


def place(rows, atom: Atom, bound: np.ndarray | None) -> np.ndarray:
    """(n,) places of threes of atom.left operator atom.right (or `bound`)."""
    if atom.right is None or atom.operator not in ("<", "<=", ">", ">="):
        raise UnsupportedOperator(
            "an equality of this arithmetic over groups of many rows has no provenance",
            hint="Compare by < or >, or one count or sum alone.")
    made = _Delta(rows)
    every = np.arange(rows.n)
    left = made.read(rows, every, atom.left)
    right = made.read(rows, every, atom.right) if bound is None else made.constant(bound)
    return made.step(atom.operator, left, right)


class _Delta:
    def __init__(self, rows):
        self.rows, self.wiring = rows, rows.assembly.wiring
        self.leaves: list[np.ndarray] = []      # places in X, or constants
        self.of: dict[int, tuple] = {}          # leaf -> (Groups, (n,) groups, aggregate, part)
        self._known: dict[tuple, int] = {}

    def constant(self, values: np.ndarray) -> tuple:
        self.leaves.append(values)
        return "const", len(self.leaves) - 1

    def number(self, places: np.ndarray) -> tuple:
        """A node for further numbers of the circuit."""
        self.leaves.append(places)
        return "x", len(self.leaves) - 1

    # --- reading ---------------------------------------------------------------------------

    def read(self, rows, of: np.ndarray, number: Number) -> tuple:
        """The tree of a number over plain counts, sums and extremes."""
        return self._tree(rows, of, number.tree, number.leaves)

    def _tree(self, rows, of, tree: tuple, leaves: list[tuple]) -> tuple:
        if tree[0] in ("x", "const", "p"):
            return self._leaf(rows, of, leaves[tree[1]])
        if tree[0] in ("case", "%"):
            raise comparisons.refusal()
        name = "/" if tree[0] == "//int" else tree[0]
        args = [self._tree(rows, of, child, leaves) for child in tree[1:]]
        if name in ("greatest", "least"):       # (a + b ± |a - b|) / 2, which has slopes
            *first, last = args
            two = self.constant(np.full(self.rows.n, 2.0))
            for other in first:
                sign = "+" if name == "greatest" else "-"
                last = ("/", (sign, ("+", last, other), ("abs", ("-", last, other))), two)
            return last
        return (name, *args)

    def _leaf(self, rows, of, leaf: tuple) -> tuple:
        if leaf[0] == "leaf":
            values = rows.constant(leaf)
            return self.constant(np.where(of >= 0, values[of], np.nan) if len(values)
                                 else np.full(len(of), np.nan))
        if leaf[0] == "cell":
            groups, theirs, made = rows.origin(leaf)
            here = np.where(of >= 0, theirs[of], -1) if len(theirs) else np.full(len(of), -1)
            return self.read(groups, here, made)
        if leaf[0] != "aggregate" or leaf[2] == "bool":
            raise comparisons.refusal()
        aggregate = rows.grouping.aggregates[leaf[1]]
        if aggregate.number is not None or aggregate.as_text:
            raise comparisons.refusal()
        if aggregate.function == "avg":
            return "/", self._plain(rows, of, leaf[1], "sum"), self._plain(rows, of, leaf[1],
                                                                           "count")
        return self._plain(rows, of, leaf[1], aggregate.function)

    def _plain(self, groups, of, j: int, part: str) -> tuple:
        key = id(groups), of.tobytes(), j, part
        if key not in self._known:
            if len(self.of) == _NUMBERS:
                raise comparisons.refusal()
            places = self._mean(groups, j, part)
            nothing = self.wiring.numbers(1)
            self.wiring.add(Constants(nothing, np.array([np.nan])))
            places = np.where(of >= 0, places[of], nothing) if len(places) else \
                np.full(len(of), nothing)
            self._known[key] = self.number(places)[1]
            self.of[self._known[key]] = groups, of, j, part
        return "x", self._known[key]

    @staticmethod
    def _mean(groups, j: int, part: str) -> np.ndarray:
        """(groups,) places in X: a sum or count, or an extreme, given that the group is there."""
        if part in ("min", "max"):
            return groups.place(("aggregate", j, part), True)
        return groups.part(j, part)

    # --- moments ---------------------------------------------------------------------------

    def _variance(self, parts: list[tuple]) -> np.ndarray:
        """(n,) places of the variance of a sum of (Groups, groups, aggregate, part, factor)."""
        n, out = self.rows.n, self.wiring.numbers(self.rows.n)
        row, literals, weight = comparisons.terms_of(
            [(groups, of, j, part, np.full(n, factor)) for groups, of, j, part, factor in parts],
            n)
        self.wiring.add(Variances(out, n, row, literals, weight))
        return out + np.arange(n)

    def _of_extreme(self, groups, of, j: int, part: str, mean: tuple) -> tuple:
        terms, out = groups.terms(j), self.wiring.numbers(groups.n)
        self.wiring.add(Extreme(out, groups.n, part, terms.group, terms.literals, terms.value,
                                power=2))
        squares = self.number(np.where(of >= 0, out + of, self.leaves[mean[1]]))
        return "-", squares, ("*", mean, mean)

    def covariances(self) -> dict[tuple[int, int], tuple]:
        """(leaf, leaf) -> tree of their covariance; pairs that have none are missing."""
        made, scale, n = {}, {}, self.rows.n
        sums = {leaf: what for leaf, what in self.of.items() if what[3] in ("sum", "count")}
        for leaf, (groups, _, j, part) in sums.items():
            value = groups.terms(j).value if part == "sum" else None
            scale[leaf] = 1.0 / max(float(np.abs(value).max(initial=0.0)), 1e-300) \
                if value is not None and value.any() else 1.0
        own = {leaf: self.number(self._variance([(*what, scale[leaf])]))
               for leaf, what in sums.items()}
        for leaf, what in self.of.items():
            if leaf not in sums:
                made[leaf, leaf] = self._of_extreme(*what, ("x", leaf))
                continue
            made[leaf, leaf] = ("/", own[leaf], self.constant(np.full(n, scale[leaf] ** 2)))
            for other in sums:
                if other < leaf:
                    both = self.number(self._variance([(*what, scale[leaf]),
                                                       (*sums[other], scale[other])]))
                    twice = ("-", ("-", both, own[leaf]), own[other])
                    by = self.constant(np.full(n, 2.0 * scale[leaf] * scale[other]))
                    made[other, leaf] = ("/", twice, by)
        return made

    def step(self, operator: str, left: tuple, right: tuple) -> np.ndarray:
        """(n,) places of threes: left operator right."""
        n, wiring = self.rows.n, self.wiring
        g = "-", left, right
        slopes = {leaf: _slope(g, leaf) for leaf in self.of}
        total = None
        two = self.constant(np.full(n, 2.0))
        for (one, other), covariance in self.covariances().items():
            if slopes[one] is None or slopes[other] is None:
                continue
            part = ("*", ("*", slopes[one], slopes[other]), covariance)
            part = part if one == other else ("*", two, part)
            total = part if total is None else ("+", total, part)
        if total is None:
            total = self.constant(np.zeros(n))
        zero = self.constant(np.zeros(n))
        variance = self._made(("coalesce", total, zero))    # NULL where g is
        out = wiring.threes(n)
        wiring.add(NormalStep(out, operator, self._made(g), variance, self._made(left),
                              self._made(zero)))
        return out + 3 * np.arange(n)

    def _made(self, tree: tuple) -> np.ndarray:
        out = self.wiring.numbers(self.rows.n)
        self.wiring.add(Arithmetic(out, self.rows.n, self._ones(tree), self.leaves))
        return out + np.arange(self.rows.n)

    def _ones(self, tree: tuple) -> tuple:
        """The tree with "one" as a constant."""
        if tree[0] == "one":
            return self.constant(np.ones(self.rows.n))
        if tree[0] in ("x", "const"):
            return tree
        return (tree[0], *(self._ones(child) for child in tree[1:]))


def _slope(tree: tuple, leaf: int) -> tuple | None:
    """The derivative of a tree with respect to a leaf; None for 0."""
    name, *args = tree
    if name == "const":
        return None
    if name == "x":
        return ("one",) if args[0] == leaf else None
    slopes = [_slope(arg, leaf) for arg in args]
    if name in _INSIDE:
        return slopes[0]
    if all(slope is None for slope in slopes):
        return None
    if name == "neg":
        return "neg", slopes[0]
    if name in ("+", "-"):
        one, other = slopes
        if other is None:
            return one
        if one is None:
            return other if name == "+" else ("neg", other)
        return name, one, other
    a, b = args[0], args[1] if len(args) > 1 else None
    if name == "*":
        parts = [("*", slope, factor) for slope, factor in zip(slopes, (b, a), strict=True)
                 if slope is not None]
        return parts[0] if len(parts) == 1 else ("+", *parts)
    if name == "/":
        first = None if slopes[0] is None else ("/", slopes[0], b)
        second = None if slopes[1] is None else ("/", ("*", a, slopes[1]), ("*", b, b))
        if second is None:
            return first
        return ("neg", second) if first is None else ("-", first, second)
    if name == "abs":
        return "*", slopes[0], ("/", a, ("abs", a))
    if name == "exp":
        return "*", slopes[0], tree
    if name == "ln":
        return "/", slopes[0], a
    if name == "sqrt":
        return "/", slopes[0], ("+", tree, tree)
    if name == "power" and slopes[1] is None:
        return "*", slopes[0], ("*", b, ("/", tree, a))
    raise comparisons.refusal()
