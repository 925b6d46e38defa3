"""Which numbers of the circuit a threshold can be put on, and what it becomes.

A comparison is decided by a sum of independent terms if both sides together are linear in counts
and sums, or one side is a ratio with a count below and the other deterministic: a / n > t is
a - t n > 0 where n > 0 (avg(x) > t is sum(x - t) > 0).
"""

from __future__ import annotations

from pgrain.provenance.algebra.blocks import Atom, Number

CONST, COUNT, LINEAR, RATIO, EXTREME, PROBA, OTHER = (
    "const", "count", "linear", "ratio", "extreme", "proba", "other")
_SUMS = {COUNT, LINEAR}
_NAMES = {EXTREME: "a minimum or maximum", PROBA: "predict_proba",
          OTHER: "this arithmetic of numbers that depend on predictions",
          RATIO: "a ratio of numbers that depend on predictions"}


def degree(number: Number, of_leaf) -> str:
    """What kind of function of the counts and sums a number is; `of_leaf` says it of a leaf."""
    return _degree(number.tree, [of_leaf(leaf) for leaf in number.leaves])


def _degree(tree: tuple, leaves: list[str]) -> str:
    name = tree[0]
    if name in ("x", "p", "const"):
        return leaves[tree[1]]
    parts = [_degree(child, leaves) for child in tree[1:] if isinstance(child, tuple)]
    kinds = set(parts)
    if kinds <= {CONST}:
        return CONST
    if name == "identity" or name == "nullif" and parts[1] == CONST:
        return parts[0]
    if name == "neg":
        return LINEAR if parts[0] in _SUMS else parts[0] if parts[0] == RATIO else OTHER
    if name == "coalesce" and parts[0] in _SUMS and parts[1:] == [CONST]:
        return LINEAR
    if name in ("+", "-"):
        if kinds <= {CONST, *_SUMS}:
            return COUNT if name == "+" and kinds == {COUNT} else LINEAR
        if kinds <= {CONST, RATIO} and parts.count(RATIO) == 1:
            return RATIO
    if name == "*" and CONST in parts and kinds <= {CONST, RATIO, *_SUMS}:
        return LINEAR if kinds & _SUMS else RATIO
    if name == "/":
        if parts[1] == CONST and parts[0] in (RATIO, *_SUMS):
            return LINEAR if parts[0] in _SUMS else RATIO
        if parts[1] == COUNT and parts[0] in (CONST, *_SUMS):
            return RATIO
    return OTHER


def threshold_problem(atom: Atom, of_leaf) -> str | None:
    """Why there is no sound threshold on an atom's numbers; None if there is one."""
    sides = [degree(atom.left, of_leaf), degree(atom.right, of_leaf)]
    kinds = set(sides) - {CONST}
    if kinds <= _SUMS:
        return None
    bare = all(number.tree[0] in ("x", "const") or degree(number, of_leaf) == CONST
               for number in (atom.left, atom.right))
    if len(kinds) == 1 and sides.count(CONST) == 1:
        kind = kinds.pop()
        if kind in (EXTREME, PROBA) and atom.operator in ("=", "<>"):
            return f"{_NAMES[kind]} compared for equality"
        return None if kind == RATIO or kind in (EXTREME, PROBA) and bare else _NAMES[kind]
    return _NAMES[OTHER]
