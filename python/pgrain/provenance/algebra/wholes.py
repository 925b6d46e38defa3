"""Counts and sums compared with an aggregate over such numbers: n > (SELECT avg(n) FROM k).

A sum, and an average over a certain number of rows, of numbers that are 0 where their groups are
not there is linear in the terms of all groups, so it is a threshold like any other, exact. The rest
goes by means and variances (`gates.spread`): an average over groups that may be missing is
linearised around its expectation, numbers against their maximum are normal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgrain import settings
from pgrain.provenance.algebra import against, comparisons
from pgrain.provenance.algebra.comparisons import Linear
from pgrain.provenance.algebra.small_gates import Constants, FromLiterals, KnownEvent, KnownIf
from pgrain.provenance.algebra.wiring import CERTAIN, Buckets
from pgrain.provenance.gates.arithmetic import Arithmetic
from pgrain.provenance.gates.spread import AgainstExtreme, NormalStep, Variances
from pgrain.provenance.gates.sums import Sums

FLAT = 1 << 18      # terms of a threshold over all groups, at most; above it goes by moments
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "<>": "<>"}


@dataclass
class Moments:
    """Means and variances (n,) places in X, of numbers given that their groups are there; there:
    (n,) literals of these; alone: (n, 2) group object's place and group that the number is of, -1
    where it is of several; scale: (n,) what it is multiplied with."""

    mean: np.ndarray
    variance: np.ndarray
    there: np.ndarray
    alone: np.ndarray
    scale: np.ndarray


def compare(rows, whole: Linear, operator: str) -> np.ndarray:
    """(n,) places of threes: whole op 0, where `whole` has one aggregate of numbers."""
    if len(whole.wholes) != 1:
        raise comparisons.refusal()
    (groups, of, j, scale), = whole.wholes
    function = groups.grouping.aggregates[j].function
    groups.numbered(j)
    if function in ("sum", "avg"):
        flat = _flat(whole, groups, of, j, scale, function)
        if flat is not None:
            return comparisons.threshold_of(rows, flat, operator)
        if operator in ("=", "<>"):
            raise comparisons.refusal()
        return _against_mean(rows, whole, operator)
    return _against_extreme(rows, whole, operator)


def _inner(groups, j: int) -> Linear:
    """What aggregate j is of, for each base row."""
    number = groups.grouping.aggregates[j].number
    value, denominator = comparisons.evaluate(groups.base, number)
    if denominator is not None or value.wholes:
        raise comparisons.refusal()
    return value


def _own(value: Linear, n: int) -> np.ndarray:
    """(n,) literals of the one group that a number is of; CERTAIN if that is there anyway, or if
    there are several."""
    sources = {id(groups): (groups, of) for groups, of, *_ in value.parts}
    same = len(sources) == 1
    if not same or any(len(np.unique(of)) and (of != value.parts[0][1]).any()
                       for _, of, *_ in value.parts):
        return np.full(n, CERTAIN)
    groups, of = next(iter(sources.values()))
    if groups.certain or groups.grouping.having is not None:
        return np.full(n, CERTAIN)
    return groups.any()[of]


def _flat(whole: Linear, groups, of, j: int, scale, function: str) -> Linear | None:
    """`whole` with its aggregate spelled out as the terms of all groups; None if that is not exact
    or takes too many."""
    terms, value = groups.terms(j), _inner(groups, j)
    if value.nulls or groups.grouping.aggregates[j].distinct:
        return None
    own = _own(value, groups.base.n)
    constant = (value.constant != 0).any()
    stripped = np.where((terms.literals == own[terms.row][:, None]) & ~np.array(constant), CERTAIN,
                        terms.literals)
    if stripped.any():
        return None
    if function == "avg":
        if terms.literals.any():
            return None                 # the number of rows is not certain
        # n > sum / rows is rows * n > sum: whole numbers stay whole.
        whole = whole.times(np.maximum(np.bincount(terms.group, minlength=groups.n), 1.0)[of])
        scale = np.asarray(scale)
    row, term = Buckets(terms.group).pairs(of)
    nulls = list(whole.nulls)
    if not _of_own(whole, row, value, terms.row[term]) and terms.literals.any():
        nulls.append((groups, of, j))       # there may be nothing to add
    added = np.bincount(row, value.constant[terms.row[term]], len(of)) * scale
    empty = np.bincount(row, minlength=len(of)) == 0
    spread = [(row, inner, mine[terms.row[term]], k, part, c[terms.row[term]] * scale[row])
              for inner, mine, k, part, c in value.parts]
    size = sum(int((np.bincount(inner.terms(k).group, minlength=inner.n)[mine]).sum())
               for _, inner, mine, k, _, _ in spread)
    if size > FLAT:
        return None
    return Linear(np.where(empty, np.nan, whole.constant + added), whole.parts, nulls, [],
                  whole.spread + spread)


def _of_own(whole: Linear, row: np.ndarray, value: Linear, base: np.ndarray) -> bool:
    """Whether each number is compared with an aggregate over its own group, among others."""
    if not whole.parts or not value.parts or whole.parts[0][0] is not value.parts[0][0]:
        return False
    mine = value.parts[0][1][base] == whole.parts[0][1][row]
    return bool((np.bincount(row[mine], minlength=len(whole.constant)) > 0).all())


# --- moments -------------------------------------------------------------------------------

def moments(assembly, value: Linear) -> Moments:
    """Of linear numbers without aggregates of numbers in them."""
    wiring, n = assembly.wiring, len(value.constant)
    row, literals, weight = comparisons.terms_of(value.parts, n)
    constant = np.nan_to_num(value.constant)
    mean, variance = wiring.numbers(n), wiring.numbers(n)
    wiring.add(Sums(mean, n, row, wiring.events(literals), weight))
    wiring.add(Variances(variance, n, row, literals, weight))
    mean, variance = mean + np.arange(n), variance + np.arange(n)
    there = _own(value, n)
    uncertain = np.flatnonzero(there != CERTAIN)
    if len(uncertain):          # E[x | there] = E[x] / P(there), for x = 0 elsewhere
        q = wiring.numbers(len(uncertain))
        wiring.add(FromLiterals(q, there[uncertain]))
        q, m, v = q + np.arange(len(uncertain)), mean[uncertain], variance[uncertain]
        mean[uncertain] = given = _number(assembly, ("/", ("x", 0), ("x", 1)), [m, q])
        variance[uncertain] = _number(
            assembly, ("-", ("/", ("+", ("x", 0), ("*", ("x", 1), ("x", 1))), ("x", 2)),
                       ("*", ("x", 3), ("x", 3))), [v, m, q, given])
    mean = _number(assembly, ("+", ("x", 0), ("const", 1)), [mean, constant])
    alone, scale = np.full((n, 2), -1), np.zeros(n)
    if len(value.parts) == 1 and not constant.any():
        groups, of, j, part, c = value.parts[0]
        alone = np.stack([np.full(n, id(groups) * 8 + 2 * j + (part == "sum")), of], axis=1)
        scale = c
    return Moments(mean, variance, there, alone, scale)


def _number(assembly, tree: tuple, leaves: list[np.ndarray]) -> np.ndarray:
    n = len(leaves[0])
    out = assembly.wiring.numbers(n)
    assembly.wiring.add(Arithmetic(out, n, tree, leaves))
    return out + np.arange(n)


def _candidates(groups, j: int):
    """(group, event, Moments) of the numbers that aggregate j is of, and that they are there."""
    assembly, value, terms = groups.assembly, _inner(groups, j), groups.terms(j)
    found = moments(assembly, value.take(terms.row))
    event = assembly.wiring.events(terms.literals)
    if value.nulls:
        places = groups.base.places(groups.grouping.aggregates[j].number, True)[terms.row]
        out = assembly.wiring.singles(len(event))
        assembly.wiring.add(KnownEvent(out, event, places))
        event = out + np.arange(len(event))
    return terms.group, event, found


def _own_pairs(mine: Moments, row: np.ndarray, theirs: Moments, term: np.ndarray) -> np.ndarray:
    """(m,) bool: the number of the row is the candidate (times a constant)."""
    return (mine.alone[row, 0] >= 0) & (mine.alone[row] == theirs.alone[term]).all(axis=1)


def _against_mean(rows, whole: Linear, operator: str) -> np.ndarray:
    """With a sum or average over rows that may be missing."""
    assembly, wiring, n = rows.assembly, rows.assembly.wiring, len(whole.constant)
    (groups, of, j, scale), = whole.wholes
    average = groups.grouping.aggregates[j].function == "avg"
    mine = moments(assembly, Linear(whole.constant, whole.parts))
    group, event, theirs = _candidates(groups, j)
    q = wiring.numbers(len(event))
    wiring.add(FromLiterals(q, event))
    q = q + np.arange(len(event))
    # Sums over the rows of each group: q m, q, and the variances of what each adds.
    total = _sum(assembly, groups.n, group, _number(
        assembly, ("*", ("x", 0), ("x", 1)), [q, theirs.mean]))
    one = _sum(assembly, groups.n, group, q)
    around = theirs.mean
    if average:
        around = _number(assembly, ("-", ("x", 0), ("/", ("x", 1), ("x", 2))),
                         [theirs.mean, total[group], one[group]])
    each = _number(assembly, (
        "-", ("*", ("x", 0), ("+", ("x", 1), ("*", ("x", 2), ("x", 2)))),
        ("*", ("*", ("x", 0), ("x", 0)), ("*", ("x", 2), ("x", 2)))), [q, theirs.variance, around])
    spread = _sum(assembly, groups.n, group, each)
    # A row that is one of those averaged is there: the rest is taken given that.
    row, term = Buckets(group).pairs(of)
    at = np.flatnonzero(_own_pairs(mine, row, theirs, term))
    own = np.full(n, -1)
    own[row[at]] = term[at]
    zero = wiring.numbers(1)
    wiring.add(Constants(zero, np.zeros(1)))
    known = own >= 0

    def of_own(places, nothing=None):
        return np.where(known, places[own], zero if nothing is None else nothing)

    sure = wiring.numbers(1)
    wiring.add(Constants(sure, np.ones(1)))
    missing = ("-", ("const", 7), ("x", 0))                 # 1 - q of the own row
    leaves = [of_own(q, sure), of_own(theirs.mean), total[of], one[of], mine.mean, mine.variance,
              scale, np.ones(n), spread[of], of_own(each),
              np.where(known, mine.scale / np.where(theirs.scale[own] == 0, 1.0,
                                                    theirs.scale[own]), 0.0),
              of_own(theirs.variance)]
    summed = ("+", ("x", 2), ("*", missing, ("x", 1)))
    count = ("+", ("x", 3), missing) if average else ("const", 7)
    mean = _number(assembly, ("+", ("x", 4), ("*", ("const", 6), ("/", summed, count))), leaves)
    share = ("/", ("const", 6), count)
    rest = ("*", ("*", share, share), ("-", ("x", 8), ("x", 9)))
    own_part = ("*", ("*", ("+", ("const", 10), share), ("+", ("const", 10), share)), ("x", 11))
    # Without an own row the number and the average are independent.
    other = ("*", ("x", 5), ("const", 12))
    leaves.append(np.where(known, 0.0, 1.0))
    variance = _number(assembly, ("+", ("+", rest, own_part), other), leaves)
    unknown = np.isnan(whole.constant)
    # Counts and their average lie on a lattice of steps 1 / rows: half of one between > and >=.
    whole_numbers = _counts(whole.parts) and _counts(_inner(groups, j).parts)
    half = _number(assembly, ("/", ("const", 13), count), [
        *leaves, np.full(n, 0.5 if whole_numbers else 0.0)])
    out = wiring.threes(n)
    wiring.add(NormalStep(out, operator, _null_where_empty(rows, whole, groups, of, j, mean, known),
                          variance, mine.mean, half))
    return np.where(unknown, assembly.null(), out + 3 * np.arange(n))


def _null_where_empty(rows, whole: Linear, groups, of, j: int, mean, own) -> np.ndarray:
    """The mean, NULL where the aggregate is of nothing, or an own sum is."""
    wiring, n = rows.assembly.wiring, len(mean)
    literals = [np.where(own, CERTAIN, groups.known(j)[of])]
    literals += [g.known(k)[mine] for g, mine, k in whole.nulls]
    events = wiring.events(wiring.conjunction(*literals))
    if not events.any():
        return mean
    out = wiring.numbers(n)
    wiring.add(KnownIf(out, mean, events))
    return out + np.arange(n)


def _sum(assembly, n: int, group: np.ndarray, number: np.ndarray) -> np.ndarray:
    out = assembly.wiring.numbers(n)
    assembly.wiring.add(Sums(out, n, group, np.zeros(len(group), np.int64), number=number))
    return out + np.arange(n)


def _against_extreme(rows, whole: Linear, operator: str) -> np.ndarray:
    """With the greatest or least of numbers."""
    assembly, wiring, n = rows.assembly, rows.assembly.wiring, len(whole.constant)
    (groups, of, j, scale), = whole.wholes
    turned = -scale         # number op turned * extreme
    if (turned > 0).all():
        pass
    elif (turned < 0).all():
        operator = _TURNED[operator]
    else:
        raise comparisons.refusal()
    least = groups.grouping.aggregates[j].function == "min"
    operator = _TURNED[operator] if least else operator         # of negated numbers
    number = Linear(whole.constant, whole.parts).times(1.0 / turned)
    if not whole.nulls:
        terms = groups.terms(j)
        places = against.places(rows, operator, -1.0 if least else 1.0, number,
                                _inner(groups, j).take(terms.row), terms.group,
                                wiring.events(terms.literals), of)
        if places is not None:
            return np.where(np.isnan(whole.constant), assembly.null(), places)
    mine = moments(assembly, number)
    group, event, theirs = _candidates(groups, j)
    row, term = Buckets(group).pairs(of)
    settings.FACTOR_PAIRS.limit(len(row), hint="Group by less, or filter the groups first.")
    # What is at least (at most) itself need not be compared with itself.
    same = _own_pairs(mine, row, theirs, term) & (mine.scale[row] == theirs.scale[term])
    own = np.zeros(n, bool)
    own[row[same]] = True
    row, term = row[~same], term[~same]
    whole_numbers = _counts(whole.parts) and _counts(_inner(groups, j).parts) and (
        np.rint(turned) == turned).all() and (np.rint(whole.constant) == whole.constant).all()
    mean = mine.mean
    if whole.nulls:
        mean = _null_where_empty(rows, Linear(whole.constant, whole.parts, whole.nulls), groups, of,
                                 j, mean, np.ones(n, bool))
    out = wiring.threes(n)
    wiring.add(AgainstExtreme(
        out, operator, -1.0 if least else 1.0, mean, mine.variance, own, row, theirs.mean[term],
        theirs.variance[term], event[term],
        0.5 / float(np.abs(turned).max(initial=1.0)) if whole_numbers else 0.0))
    return np.where(np.isnan(whole.constant), assembly.null(), out + 3 * np.arange(n))


def _counts(parts) -> bool:
    return all(part == "count" and (np.rint(c) == c).all() for *_, part, c in parts)
