"""Which numbers of the circuit a threshold can be put on, and what it becomes.

A comparison is decided by a sum of independent terms if both sides together are linear in counts
and sums, or one side is a ratio with a count below and the other deterministic: a / n > t is
a - t n > 0 where n > 0 (avg(x) > t is sum(x - t) > 0). Steps around one side (rounding, division of
integers) move the threshold: floor(x) > 2 is x >= 3. Any other arithmetic over counts, sums and
extremes of columns is "bent": decided by diagrams where groups are small, else by moments.
"""

from __future__ import annotations

import numpy as np

from pgrain.errors import UnsupportedOperator
from pgrain.provenance.algebra.blocks import Atom, Number

CONST, COUNT, LINEAR, RATIO, EXTREME, PROBA, WHOLE, BENT, OTHER = (
    "const", "count", "linear", "ratio", "extreme", "proba", "whole", "bent", "other")
_SUMS = {COUNT, LINEAR}
_PLAIN = {CONST, COUNT, LINEAR, RATIO, EXTREME, BENT}     # of counts, sums and extremes of columns
_NAMES = {PROBA: "predict_proba", OTHER: "this arithmetic of numbers that depend on predictions",
          WHOLE: "an aggregate over numbers that depend on predictions"}


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
        return LINEAR if parts[0] in _SUMS else parts[0] if parts[0] in (RATIO, WHOLE) else OTHER
    if name == "coalesce" and parts[0] in _SUMS and parts[1:] == [CONST]:
        return LINEAR
    if name in ("+", "-"):
        if kinds <= {CONST, *_SUMS}:
            return COUNT if name == "+" and kinds == {COUNT} else LINEAR
        if kinds <= {CONST, WHOLE, *_SUMS}:
            return WHOLE
        if kinds <= {CONST, RATIO} and parts.count(RATIO) == 1:
            return RATIO
    if name == "*" and CONST in parts and kinds <= {CONST, RATIO, WHOLE, *_SUMS}:
        return LINEAR if kinds & _SUMS else (kinds - {CONST}).pop()
    if name == "/":
        if parts[1] == CONST and parts[0] in (RATIO, WHOLE, *_SUMS):
            return LINEAR if parts[0] in _SUMS else parts[0]
        if parts[1] == COUNT and parts[0] in (CONST, *_SUMS):
            return RATIO
    return BENT if kinds <= _PLAIN else OTHER


_STEPS = ("round", "rint", "to_int", "floor", "ceil", "trunc")


def without_steps(number: Number) -> tuple[Number, list[tuple[str, tuple | None]]]:
    """What is inside the steps around a number, and these, outermost first: (step, digits)."""
    tree, steps = number.tree, []
    while tree[0] in (*_STEPS, "identity", "//int"):
        if tree[0] == "//int":
            steps.append(("trunc", None))
            tree = ("/", *tree[1:])
            break
        if tree[0] in _STEPS:
            steps.append((tree[0], tree[2] if len(tree) > 2 else None))
        tree = tree[1]
    return Number(tree, number.leaves), steps


def moved(step: str, width: float, operator: str, bound: np.ndarray) -> tuple[str, np.ndarray]:
    """(operator, bounds) such that step(x) operator bound is x operator' bound'.

    width: of a step. round and to_int round halves away from zero, rint to even; trunc goes towards
    zero. 0A000 if the bounds of one query would need different operators.
    """
    ratio = bound / width
    near = np.round(ratio)
    ratio = np.where(np.abs(ratio - near) <= 1e-9 * np.maximum(np.abs(ratio), 1.0), near, ratio)
    # step(x) >= k for the least k of the grid that meets it; < and <= are its negations.
    least = np.ceil(ratio) if operator in (">=", "<") else np.floor(ratio) + 1.0
    if step == "floor":
        strict, at = np.zeros(len(least), bool), least
    elif step == "ceil":
        strict, at = np.ones(len(least), bool), least - 1.0
    elif step == "trunc":
        strict = least <= 0
        at = np.where(strict, least - 1.0, least)
    else:
        strict = least % 2 != 0 if step == "rint" else least <= 0
        at = least - 0.5
    strict = strict[~np.isnan(bound)]
    if strict.any() and not strict.all():
        raise UnsupportedOperator("a threshold on a rounded number by bounds that differ in sign "
                                  "or parity has no provenance yet",
                                  hint="Compare the number as it is, without rounding.")
    negated = operator in ("<", "<=")
    more = bool(strict.any())
    return {(False, False): ">=", (False, True): ">", (True, False): "<",
            (True, True): "<="}[negated, more], at * width


def threshold_problem(atom: Atom, of_leaf) -> str | None:
    """Why there is no sound threshold on an atom's numbers; None if there is one."""
    left, right = atom.left, atom.right
    if atom.operator not in ("=", "<>"):
        if degree(right, of_leaf) == CONST:
            left = without_steps(left)[0]
        elif degree(left, of_leaf) == CONST:
            right = without_steps(right)[0]
    sides = [degree(left, of_leaf), degree(right, of_leaf)]
    kinds = set(sides) - {CONST}
    if kinds <= _PLAIN or WHOLE in kinds and kinds <= {WHOLE, *_SUMS}:
        return None
    if len(kinds) == 1 and sides.count(CONST) == 1:
        kind = kinds.pop()
        if kind == PROBA and atom.operator in ("=", "<>"):
            return f"{_NAMES[kind]} compared for equality"
        bare = all(number.tree[0] in ("x", "const") or degree(number, of_leaf) == CONST
                   for number in (left, right))
        return None if kind == PROBA and bare else _NAMES[kind]
    return _NAMES[OTHER]
