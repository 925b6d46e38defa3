"""Rules that tell suspects from other rows: paths of shallow decision trees, pruned and validated.

A tree (scikit-learn) is grown on half of the rows; every path from its root to any node is a
candidate. A rule loses the conditions that it can do without; the best ones gain conditions of
other paths, of categories and bounds of numbers, for a shallow tree that splits by education does
not come to gender, nor one that splits by gender to the best bound of an age; what those make idle
goes again, and bounds move.
It counts only if the other half of the rows, which it has not seen, confirms it. So rows that have
nothing in common get no rule.

Rules are as good as they can be by F1, which may be less precise than what is asked for. Then they
are grown by what they gain, a suspect against a price for each row covered, over the rows that no
rule covers yet: a few prices give rules between the precise and the wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.tree import DecisionTreeClassifier

from pgrain.describe.columns import Feature
from pgrain.interrupts import check

DEPTHS = (1, 2, 3, 4)
GROWN, MOST_CONDITIONS = 5, 6
BOUNDS = 20     # of a number that are tried, a side, beside those of the trees
LEAST_SUSPECTS = 10
CONDITION_COST = 0.01
SIGNIFICANCE = 0.001
PRICES = 0.05, 0.15, 0.25   # below the precision that is asked for
MOST_ROWS = 20_000          # whose gains are added up for it
LOOKED_AT = 50
ADDED = 0.5     # of the rows that a further rule adds, the suspects, where more is asked of each


@dataclass
class Rule:
    """Conditions (feature, upper, threshold) that all hold, and the rows (N,) for which they do."""

    conditions: list[tuple[int, bool, float]]
    mask: np.ndarray


def describe(features: Sequence[Feature], suspect: np.ndarray, weight: np.ndarray, *,
             most: int = 3, precision: float = 0.5, recall: float = 0.1, seed: int = 0
             ) -> tuple[list[str], str]:
    """(predicates as SQL, best first; or none, and why).

    suspect: (N,) bool; weight: (N,) how many rows of the table each stands for. At least
    `precision` of what a predicate covers are suspects; beyond those before it, it covers at least
    `recall` of the suspects, and mostly suspects.
    """
    n = int(suspect.sum())
    if n < LEAST_SUSPECTS:
        return [], f"{n} rows are too few to have something in common (at least {LEAST_SUSPECTS})"
    if suspect.all():
        return [], "every row of the table is a suspect"
    if not features:
        return [], "the table has no column that could tell rows apart"
    X = np.stack([feature.data for feature in features], axis=1)
    fit = np.random.default_rng(seed).permutation(len(suspect)) % 2 == 0
    rules, pool = _candidates(X, suspect, weight, fit, features)
    base = weight[suspect].sum() / weight.sum()
    chosen, free, tried = [], np.ones(len(suspect), bool), 0
    while len(chosen) < most:
        left = suspect & free
        rules.sort(key=lambda rule: -_value(rule, left, suspect, weight, fit))
        if rules and (chosen or _rates(rules[0].mask, suspect, weight, fit)[0] < precision):
            rules += _precise(rules[:GROWN], pool, X, suspect, weight, fit & free, precision)
            rules.sort(key=lambda rule: (_rates(rule.mask, suspect, weight, fit)[0] < precision,
                                         -_value(rule, left, suspect, weight, fit)))
        found = None
        for rule in rules[:LOOKED_AT]:
            share, covered = _rates(rule.mask, suspect, weight, fit)
            new = (rule.mask & left & fit).sum() / max((suspect & fit).sum(), 1)
            added = _rates(rule.mask, suspect, weight, fit & free)[0]
            if (share < precision or covered < recall or new < recall
                    or added < min(precision, ADDED)):
                continue
            tried += 1
            if _confirmed(rule.mask & ~fit, suspect, weight, base, tried, precision, recall,
                          (suspect & ~fit).sum()):
                found = rule
                break
        if found is None:
            break
        chosen.append(found)
        free &= ~found.mask
    if not chosen:
        best = max(rules, key=lambda rule: _f1(rule.mask, suspect, weight, fit), default=None)
        told = ""
        if best is not None:
            share, covered = _rates(best.mask, suspect, weight, ~fit)
            told = (f"; the best try, {write(best, features)}, has precision {share:.2f} and "
                    f"recall {covered:.2f} on rows that it was not made from")
            if share >= precision and covered >= recall:
                return [], "too few rows to tell a reason from chance" + told
        return [], "no short predicate covers these rows and little else" + told
    return [write(rule, features) for rule in chosen], ""


def write(rule: Rule, features: Sequence[Feature]) -> str:
    """The rule as SQL, conditions in the order of the table's columns."""
    parts = sorted(rule.conditions, key=lambda c: (features[c[0]].column, c[0], not c[1]))
    return " AND ".join(features[number].write(upper, threshold)
                        for number, upper, threshold in parts)


def _candidates(X, suspect, weight, fit, features) -> tuple[list[Rule], list]:
    """(rules, conditions that rules may gain)."""
    found: dict[tuple, Rule] = {}
    split: set[tuple[int, bool, float]] = set()
    least = max(3, round(0.03 * (suspect & fit).sum()))
    balance = np.where(suspect, weight[~suspect].sum() / max(weight[suspect].sum(), 1e-9), 1.0)
    for depth in DEPTHS:
        for each in (weight, weight * balance, weight * np.sqrt(balance)):
            check()
            tree = DecisionTreeClassifier(max_depth=depth, min_samples_leaf=least, random_state=0,
                                          criterion="entropy")
            tree.fit(X[fit], suspect[fit], sample_weight=each[fit])
            for conditions in _paths(tree.tree_):
                split.update(conditions)
                rule = _pruned(conditions, X, suspect, weight, fit, features)
                if rule is not None:
                    found.setdefault(tuple(rule.conditions), rule)
    best = sorted(found.values(), key=lambda rule: -_worth(rule.conditions, rule.mask, suspect,
                                                           weight, fit))[:GROWN]
    # What a row is says more than what it is not: of categories, equalities alone.
    pool = sorted({c for c in split if features[c[0]].sorted is not None}
                  | {(number, True, 0.5) for number, feature in enumerate(features)
                     if feature.sorted is None}
                  | {(number, upper, bound) for number, feature in enumerate(features)
                     if feature.sorted is not None
                     for bound in _bounds(X[suspect & fit, number]) for upper in (False, True)})
    for rule in best:
        grown = _grown(rule, pool, X, suspect, weight, fit)
        found.setdefault(tuple(grown.conditions), grown)
    return list(found.values()), pool + [(number, False, 0.5)
                                         for number, feature in enumerate(features)
                                         if feature.sorted is None]


def _precise(rules, pool, X, suspect, weight, within, precision) -> list[Rule]:
    """Rules grown from `rules` by what they gain at some prices below `precision`: what a row in
    `within` adds is its weight, if it is a suspect, less the price."""
    rows = np.flatnonzero(within)
    rows = rows[np.random.default_rng(0).permutation(len(rows))[:MOST_ROWS]]
    if not suspect[rows].any():
        return []
    inside = X[rows]
    holds = np.array([(inside[:, number] > bound) == upper for number, upper, bound in pool])
    found: dict[tuple, Rule] = {}
    for price in PRICES:
        if price >= precision:
            break
        worth = weight[rows] * (suspect[rows] - (precision - price))
        worth /= worth[suspect[rows]].sum()
        for rule in rules:
            check()
            conditions = _gaining(rule.conditions, pool, holds, inside, worth)
            found.setdefault(tuple(conditions), Rule(conditions, _holds(X, conditions)))
    return list(found.values())


def _gaining(conditions, pool, holds, X, worth) -> list:
    """The steps of `_grown` by the sum of `worth` (n,) over the covered rows of X. All conditions
    that may come are tried with one product. holds: (len(pool), n)."""
    taken = np.array([number for number, _, _ in pool]), np.array([upper for _, upper, _ in pool])

    def best_with(rest, allowed):
        gains = np.where(allowed, holds @ (worth * _holds(X, rest)), -np.inf)
        at = int(gains.argmax()) if len(gains) else 0
        return (gains[at] - CONDITION_COST * (len(rest) + 1), at) if len(gains) else (-np.inf, 0)

    value = float(worth @ _holds(X, conditions)) - CONDITION_COST * len(conditions)
    while True:
        steps = []
        if len(conditions) < MOST_CONDITIONS:
            free = np.ones(len(pool), bool)
            for number, upper, _ in conditions:
                free &= (taken[0] != number) | (taken[1] != upper)
            gain, at = best_with(conditions, free)
            steps.append((gain, [*conditions, pool[at]] if pool else conditions))
        for gone in conditions if len(conditions) > 1 else ():
            rest = [c for c in conditions if c != gone]
            steps.append((float(worth @ _holds(X, rest)) - CONDITION_COST * len(rest), rest))
            gain, at = best_with(rest, (taken[0] == gone[0]) & (taken[1] == gone[1]))
            steps.append((gain, [*rest, pool[at]] if pool else rest))
        gain, changed = max(steps, key=lambda step: step[0], default=(-np.inf, conditions))
        if not gain > value + 1e-9:
            return sorted(conditions)
        value, conditions = gain, changed


def _bounds(values: np.ndarray) -> list[float]:
    """Between the suspects' values of one number, about as many of them between any two."""
    shares = (np.arange(BOUNDS) + 0.5) / BOUNDS
    there = np.unique(values[np.isfinite(values)])
    if len(there) < 2:
        return there.tolist()
    wanted = np.quantile(values[np.isfinite(values)], shares, method="inverted_cdf")
    at = np.minimum(np.searchsorted(there, np.unique(wanted)), len(there) - 2)
    return ((there[at] + there[at + 1]) / 2).tolist()


def _grown(rule: Rule, pool, X, suspect, weight, fit) -> Rule:
    """The rule changed one step at a time for as long as that is worth more than its cost, the best
    step first: a condition of `pool` comes, one goes that the others make idle, or a bound moves.
    One bound a side."""
    def steps(rule: Rule):
        if len(rule.conditions) < MOST_CONDITIONS:
            taken = {condition[:2] for condition in rule.conditions}
            yield from ((rule.conditions, rule.mask, c) for c in pool if c[:2] not in taken)
        if len(rule.conditions) > 1:
            for gone in rule.conditions:
                rest = [c for c in rule.conditions if c != gone]
                mask = _holds(X, rest)
                yield rest, mask, None
                yield from ((rest, mask, c) for c in pool if c[:2] == gone[:2] and c != gone)

    while True:
        check()
        tries = [Rule(sorted([*conditions, c]), mask & ((X[:, c[0]] > c[2]) == c[1]))
                 if c else Rule(conditions, mask) for conditions, mask, c in steps(rule)]
        best = max(tries, key=lambda r: _worth(r.conditions, r.mask, suspect, weight, fit),
                   default=rule)
        if (_worth(best.conditions, best.mask, suspect, weight, fit)
                <= _worth(rule.conditions, rule.mask, suspect, weight, fit)):
            return rule
        rule = best


def _worth(conditions, mask, suspect, weight, fit) -> float:
    return _f1(mask, suspect, weight, fit) - CONDITION_COST * len(conditions)


def _paths(tree) -> list[list[tuple[int, bool, float]]]:
    paths, stack = [], [(0, [])]
    while stack:
        node, conditions = stack.pop()
        if conditions:
            paths.append(conditions)
        if tree.children_left[node] >= 0:
            number, threshold = int(tree.feature[node]), float(tree.threshold[node])
            stack.append((tree.children_left[node], [*conditions, (number, False, threshold)]))
            stack.append((tree.children_right[node], [*conditions, (number, True, threshold)]))
    return paths


def _pruned(conditions, X, suspect, weight, fit, features) -> Rule | None:
    """The rule without the conditions that are worth less than their cost; of two bounds of one
    side the tighter. None if nothing is left."""
    tight: dict[tuple[int, bool], float] = {}
    for number, upper, threshold in conditions:
        known = tight.get((number, upper), threshold)
        tight[number, upper] = max(known, threshold) if upper else min(known, threshold)
    kept = sorted((number, upper, threshold) for (number, upper), threshold in tight.items())

    def value(some):
        return _worth(some, _holds(X, some), suspect, weight, fit)

    while len(kept) > 1:
        without = max(([c for c in kept if c != gone] for gone in kept), key=value)
        if value(without) < value(kept):
            break
        kept = without
    mask = _holds(X, kept)
    return Rule(kept, mask) if mask.any() and not mask.all() else None


def _holds(X, conditions) -> np.ndarray:
    """(N,) bool: the rows for which all of the conditions hold."""
    mask = np.ones(len(X), bool)
    for number, upper, threshold in conditions:
        mask &= (X[:, number] > threshold) == upper
    return mask


def _rates(mask, suspect, weight, within) -> tuple[float, float]:
    """Precision and recall within some rows."""
    inside, wanted = mask & within, suspect & within
    hit = weight[inside & wanted].sum()
    return (float(hit / max(weight[inside].sum(), 1e-9)),
            float(hit / max(weight[wanted].sum(), 1e-9)))


def _f1(mask, suspect, weight, within) -> float:
    share, covered = _rates(mask, suspect, weight, within)
    return 2 * share * covered / max(share + covered, 1e-9)


def _value(rule: Rule, left, suspect, weight, fit) -> float:
    """F1 where only suspects that no rule covers yet count for recall, less a cost a condition."""
    share = _rates(rule.mask, suspect, weight, fit)[0]
    covered = _rates(rule.mask, left, weight, fit)[1]
    return 2 * share * covered / max(share + covered, 1e-9) - CONDITION_COST * len(rule.conditions)


def _confirmed(mask, suspect, weight, base, tried, precision, recall, n_held) -> bool:
    """Whether rows that the rule was not made from say the same: precision and recall within 30 %
    of what is asked, and more suspects than chance would give (binomial, Bonferroni over the
    rules that were tried)."""
    hits, covered = int((mask & suspect).sum()), int(mask.sum())
    if not covered:
        return False
    share = weight[mask & suspect].sum() / weight[mask].sum()
    if share < 0.7 * precision or hits < 0.7 * recall * n_held:
        return False
    return binomtest(hits, covered, min(float(base), 1.0),
                     alternative="greater").pvalue < SIGNIFICANCE / tried
