"""Conjunctions whose parts share variables, decided by diagrams where these are small.

predict(l.x) = 'a' AND EXISTS (… predict(k.x) = 'a'), two EXISTS over the same rows, a label IN the
labels of rows that are among them, EXCEPT and INTERSECT of sides with the same values: each part is
a literal of a variable or the result of a disjunction, and a product of their probabilities would
take them as independent. Here a diagram takes up the variables of all parts, and knows at its last
nodes which disjunctions have a term.
"""

from __future__ import annotations

import numpy as np

from pgrain.provenance.algebra.diagrams import Column, Diagrams, build
from pgrain.provenance.algebra.wiring import CERTAIN, NEVER, Buckets
from pgrain.provenance.gates.diagram import Diagram
from pgrain.provenance.gates.kernels import distinct
from pgrain.provenance.gates.threshold import cheapest

PAIRS = 1 << 18         # (conjunction, literal of a term) that are looked at


class Disjunctions:
    """All disjunctions of a network: which terms a literal's has."""

    def __init__(self, known: list[tuple]):
        """known: (out, n, target (T,), literals (T, L), unknown (T,) or None) by ascending out."""
        self.known = known
        self.starts = np.array([out for out, *_ in known])
        self.ends = np.array([out + 3 * n for out, n, *_ in known])
        self.base = np.cumsum([0, *(n for _, n, *_ in known)])

    def read(self) -> None:
        """group (T,), literals (T, L), unknown (T,) of all terms."""
        width = max(literals.shape[1] for _, _, _, literals, _ in self.known)
        self.group = np.concatenate([base + target for base, (_, _, target, _, _) in zip(
            self.base, self.known, strict=False)])
        self.literals = np.concatenate([np.pad(literals, ((0, 0), (0, width - literals.shape[1])))
                                        for _, _, _, literals, _ in self.known])
        self.unknown = np.concatenate([
            np.zeros(len(target), bool) if unknown is None else unknown
            for _, _, target, _, unknown in self.known])

    def of(self, literals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(group, -1: none; state 0 false, 1 true, 2 NULL) that each literal is of."""
        layer = np.clip(np.searchsorted(self.starts, literals, "right") - 1, 0, None)
        inside = (literals >= self.starts[layer]) & (literals < self.ends[layer])
        group, state = np.divmod(literals - self.starts[layer], 3)
        return np.where(inside, self.base[layer] + group, -1), np.where(inside, state, 1)


def exact(wiring, literals: np.ndarray) -> np.ndarray:
    """(n,) literals that stand for conjunctions (n, L) whose parts share variables; -1 where they
    share none, or are too large."""
    made = np.full(len(literals), -1)
    if not wiring.disjunctions:
        return made
    known = Disjunctions(wiring.disjunctions)
    group, _ = known.of(literals)
    several = ((literals > NEVER).sum(axis=1) > 1) & (group >= 0).any(axis=1) \
        & (literals[:, 0] != NEVER)
    if not several.any():
        return made
    rows = np.flatnonzero(several)
    known.read()
    if not _may_share(wiring, known, literals[rows], group[rows]):
        return made
    which = np.zeros(len(rows), np.int64)
    for column in literals[rows].T:
        which = distinct(which * (int(column.max()) + 1) + column)[1]
    first = np.zeros(int(which.max()) + 1, np.int64)
    first[which] = rows
    made[rows] = _decided(wiring, known, literals[first])[which]
    return made


def _may_share(wiring, known: Disjunctions, literals: np.ndarray, group: np.ndarray) -> bool:
    """Whether any variable is mentioned by two disjunctions, or by one and beside it."""
    owner, used = wiring.owner, np.zeros(int(known.base[-1]) + 1, bool)
    used[group[group >= 0]] = True
    mine = used[known.group]
    term, column = np.nonzero(known.literals[mine] > NEVER)
    theirs = owner[known.literals[mine][term, column]]
    _, times = np.unique(distinct(known.group[mine][term] * (int(owner.max()) + 1) + theirs)[0]
                         % (int(owner.max()) + 1), return_counts=True)
    return bool((times > 1).any()
                or np.isin(owner[literals[(group < 0) & (literals > NEVER)]], theirs).any())


def _decided(wiring, known: Disjunctions, literals: np.ndarray) -> np.ndarray:
    made = np.full(len(literals), -1)
    group, state = known.of(literals)
    buckets = Buckets(known.group)
    size = np.bincount(known.group, minlength=int(known.base[-1]))
    cost = np.where(group >= 0, size[group], literals > NEVER).sum(axis=1) * literals.shape[1]
    kept = np.flatnonzero(cheapest(cost.astype(float), PAIRS))
    literals, group, state = literals[kept], group[kept], state[kept]
    parts = [_terms(known, buckets, literals[:, part], group[:, part])
             for part in range(literals.shape[1])]
    shared = _shared(wiring, parts, len(literals))
    if not shared.any():
        return made
    number = np.cumsum(shared) - 1
    columns, tests = [], []
    for part, (of, terms, unknown) in enumerate(parts):
        mine, at = shared[of], []
        for wanted in (False, True):
            chosen = mine & (unknown == wanted)
            if wanted and not chosen.any():
                at.append(None)
                continue
            at.append(len(columns))
            columns.append(Column("some", number[of[chosen]], terms[chosen]))
        tests.append((literals[shared, part] == CERTAIN, state[shared, part], at))
    found = build(wiring, int(shared.sum()), columns)
    if found is None:
        return made
    holds = np.ones(len(found.node), bool)
    for certain, wanted, (true, null) in tests:
        some = found.sums[:, true] > 0
        code = np.where(some, 1, 0 if null is None else
                        np.where(found.sums[:, null] > 0, 2, 0))
        holds &= (code == wanted[found.instance]) | certain[found.instance]
    fits, decided = decide(wiring, found, holds)
    made[kept[np.flatnonzero(shared)[fits]]] = decided
    return made


def decide(wiring, found: Diagrams, holds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(instances that have a diagram, literals that they end at one of the last nodes at which
    `holds` (F,))."""
    fits = np.flatnonzero(found.fits)
    place = np.full(len(found.fits), -1)
    place[fits] = np.arange(len(fits))
    out = wiring.singles(len(fits))
    of = place[found.instance]
    layer = Diagram(out, found.paths, (of, found.node), (of[holds], found.node[holds]),
                    np.arange(len(fits)))
    decided, instance = found.sources
    mine = found.fits[instance]
    layer.sources = decided[mine], place[instance[mine]]
    wiring.add(layer)
    return fits, out + np.arange(len(fits))


def _terms(known: Disjunctions, buckets: Buckets, literal: np.ndarray, group: np.ndarray):
    """(conjunction (T,), literals (T, L), unknown (T,)) of the terms of one part of each."""
    row, term = buckets.pairs(group)
    alone = np.flatnonzero((group < 0) & (literal > NEVER))
    terms = np.zeros((len(row) + len(alone), known.literals.shape[1]), np.int64)
    terms[:len(row)], terms[len(row):, 0] = known.literals[term], literal[alone]
    return (np.concatenate([row, alone]), terms,
            np.concatenate([known.unknown[term], np.zeros(len(alone), bool)]))


def mentioned_twice(wiring, n: int, group: np.ndarray, literals: np.ndarray, term: np.ndarray
                    ) -> np.ndarray:
    """(n,) bool: groups in which two terms mention one variable. literals: (T, L) of rows, each of
    a group and of a term (T,)."""
    row, column = np.nonzero(literals > NEVER)
    owner, made = wiring.owner, np.zeros(n, bool)
    most, terms = int(owner.max(initial=0)) + 1, int(term.max(initial=0)) + 1
    pairs, pair = distinct(group[row] * most + owner[literals[row, column]])
    both = distinct(pair * terms + term[row])[0] // terms
    made[pairs[np.bincount(both, minlength=len(pairs)) > 1] // most] = True
    return made


def _shared(wiring, parts: list[tuple], n: int) -> np.ndarray:
    """(n,) bool: conjunctions of which two parts mention one variable."""
    owner, found = wiring.owner, []
    most = int(owner.max(initial=0)) + 1
    for of, terms, _ in parts:
        row, column = np.nonzero(terms > NEVER)
        found.append(np.unique(of[row] * most + owner[terms[row, column]]))
    mentioned, count = np.unique(np.concatenate(found), return_counts=True)
    made = np.zeros(n, bool)
    made[mentioned[count > 1] // most] = True
    return made
