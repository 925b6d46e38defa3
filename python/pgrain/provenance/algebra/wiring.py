"""The network under construction: places in its vectors, owners, conjunctions of literals."""

from __future__ import annotations

import numpy as np

from pgrain.provenance.gates.any_of import AnyOf
from pgrain.provenance.gates.events import Events
from pgrain.provenance.gates.network import Network

CERTAIN, NEVER = 0, 1        # literals of probability 1 and 0
FLAT = 1 << 14               # terms of disjunctions in a disjunction, together


class Wiring:
    """Allocates literals and numbers, collects layers.

    Given literals: NEVER, then for each model (V, R) class probabilities, then the same raw.
    """

    def __init__(self, shapes: dict[str, tuple[int, int]]):
        self.shapes = shapes
        self.layers: list = []
        self._any_of: list[tuple] = []      # (out, n, target, literals) of disjunctions
        self.disjunctions: list[tuple] = []     # all of them, with which terms are unknown
        self.values: list[tuple] = []       # (Base, literals) of rows that stand for values
        self._owners = [np.array([-1, -1], np.int64)]
        self.n_p, self.n_x, self._next_owner = 2, 0, 0
        self.offset, self.raw = {}, {}
        for model, (variables, classes) in shapes.items():
            self.offset[model] = self._allocate(np.repeat(np.arange(variables), classes))
        for model, (variables, classes) in shapes.items():
            self.raw[model] = self._allocate(np.arange(variables * classes))
        self.given = self.n_p - 1

    def _allocate(self, owners: np.ndarray) -> int:
        """Place of new literals; `owners` are numbered from 0 within them."""
        at = self.n_p
        self._owners.append(self._next_owner + owners)
        self._next_owner += int(owners.max(initial=-1)) + 1
        self.n_p += len(owners)
        return at

    def threes(self, n: int) -> int:
        """Place of n booleans: false, true, NULL."""
        return self._allocate(np.repeat(np.arange(n), 3))

    def exclusive(self, owner: np.ndarray) -> int:
        """Place of len(owner) events, of which those with one `owner` exclude each other."""
        return self._allocate(np.unique(owner, return_inverse=True)[1].reshape(-1))

    def singles(self, n: int) -> int:
        """Place of n events that own themselves."""
        return self._allocate(np.arange(n))

    def numbers(self, n: int) -> int:
        """Place of n numbers."""
        at = self.n_x
        self.n_x += n
        return at

    @property
    def owner(self) -> np.ndarray:
        """(n_p,) owner of each literal so far."""
        if len(self._owners) > 1:
            self._owners = [np.concatenate(self._owners)]
        return self._owners[0]

    def add(self, layer):
        """Append a layer; evaluated after all that are there."""
        self.layers.append(layer)
        return layer

    def network(self) -> Network:
        """The finished network."""
        complete = np.zeros(self.n_p, bool)
        for model, (variables, classes) in self.shapes.items():
            at = self.offset[model]
            complete[at:at + variables * classes] = True
        return Network(self.given, self.layers, self.owner, n_x=self.n_x, complete=complete)

    # --- conjunctions ----------------------------------------------------------------------

    def conjunction(self, *parts: np.ndarray) -> np.ndarray:
        """(n, L) literals of n conjunctions, from (n,) or (n, l) parts.

        A literal that stands twice counts once; two literals of one owner make the conjunction
        impossible: its first literal is NEVER then.
        """
        columns = [part[:, None] if part.ndim == 1 else part for part in parts]
        used = [column for column in columns if column.any()]    # CERTAIN is 0
        columns = used or columns[:1]
        literals = np.concatenate(columns, axis=1) if columns else np.zeros((0, 1), np.int64)
        if literals.shape[1] > 1:
            owners = np.where(literals == NEVER, -1, self.owner[literals])
            order = np.lexsort((literals, owners), axis=1)
            literals = np.take_along_axis(literals, order, axis=1)
            owners = np.take_along_axis(owners, order, axis=1)
            same = (owners[:, 1:] == owners[:, :-1]) & (owners[:, 1:] >= 0)
            twice = same & (literals[:, 1:] == literals[:, :-1])
            never = (same & ~twice).any(axis=1) | (literals == NEVER).any(axis=1)
            literals[:, 1:][twice] = CERTAIN
            literals[never] = CERTAIN
            literals[never, 0] = NEVER
            literals = -np.sort(-literals, axis=1)
            width = max(int((literals != CERTAIN).sum(axis=1).max(initial=1)), 1)
            literals = literals[:, :width]
        return literals

    def events(self, literals: np.ndarray) -> np.ndarray:
        """(n,) literals that stand for conjunctions; a single literal stands for itself."""
        if literals.shape[1] == 1:
            return literals[:, 0]
        from pgrain.provenance.algebra.overlaps import exact
        shared = exact(self, literals)
        out = self.singles(len(literals))
        self.add(Events(out, literals))
        return np.where(shared < 0, out + np.arange(len(literals)), shared)

    def any_of(self, n: int, target: np.ndarray, literals: np.ndarray,
               unknown: np.ndarray | None = None) -> int:
        """Place of n booleans: does any of the terms of each target occur."""
        possible = literals[:, 0] != NEVER
        if unknown is not None and not unknown[possible].any():
            unknown = None
        target, literals = target[possible], literals[possible]
        if unknown is None:
            literals = self.absorbed(target, literals)
            if self.values:
                from pgrain.provenance.algebra.valued import any_of
                known = any_of(self, n, target, literals)
                if known is not None:
                    return known
            known = target, literals
            target, literals = self.flattened(*known)
            if (np.bincount(known[0]) > 1).any():
                known = target, literals        # else rows with a partner have the one as it is
        out, unknown = self.threes(n), None if unknown is None else unknown[possible]
        self.add(AnyOf(out, n, target, literals, unknown))
        self.disjunctions.append((out, n, target, literals, unknown))
        if unknown is None:
            self._any_of.append((out, n, *known))
        return out

    def flattened(self, target: np.ndarray, literals: np.ndarray):
        """(target, literals) of disjunctions, where what stands in them are disjunctions that share
        variables, or one alone, and nothing but variables stands beside them: their terms in their
        place."""
        starts = np.array([out for out, *_ in self._any_of])
        if not len(starts) or not literals.size or literals.max() < starts[0]:
            return target, literals
        late = literals[literals >= starts[0]]
        inner = np.full(len(target), -1)            # the disjunction that stood in a term
        made_target, made = target, literals
        for layer in np.unique(np.searchsorted(starts, late, "right") - 1).tolist():
            out, n, theirs, others = self._any_of[layer]
            place = made - out
            true = (place >= 0) & (place < 3 * n) & (place % 3 == 1)
            term = np.flatnonzero(true.any(axis=1))
            if not len(term):
                continue
            column = true[term].argmax(axis=1)
            of, rest = place[term, column] // 3, made[term]
            rest[np.arange(len(term)), column] = CERTAIN
            pair, other = Buckets(theirs).pairs(of)
            if len(made) + len(pair) > FLAT:
                return target, literals
            wanted = self.conjunction(rest[pair], others[other])
            kept = np.ones(len(made), bool)
            kept[term] = False
            width = max(made.shape[1], wanted.shape[1])
            made = np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1])))
                                   for part in (made[kept], wanted)])
            made_target = np.concatenate([made_target[kept], made_target[term[pair]]])
            inner = np.concatenate([inner[kept], out + of[pair]])
        if made.max(initial=0) > self.given:
            return target, literals     # states of a comparison given that its group is there: none
        term, column = np.nonzero(made > NEVER)
        owner = self.owner[made[term, column]]
        mentioned = np.unique(np.column_stack([made_target[term], owner, inner[term]]), axis=0)
        if len(np.unique(mentioned[:, :2], axis=0)) == len(mentioned) \
                and (np.bincount(target) > 1).any():
            return target, literals                 # they share nothing: as good, and smaller
        # (A disjunction of one other is that one, which may share with what stands beside it.)
        possible = made[:, 0] != NEVER
        return made_target[possible], made[possible]

    def absorbed(self, target: np.ndarray, literals: np.ndarray) -> np.ndarray:
        """The terms of disjunctions, where x AND none of S beside x AND s for all s of S is x: rows
        of an outer join without a partner beside those with one."""
        starts = np.array([out for out, *_ in self._any_of])
        if not len(starts) or not literals.size or literals.max() < starts[0]:
            return literals
        late = literals[literals >= starts[0]]
        for layer in np.unique(np.searchsorted(starts, late, "right") - 1).tolist():
            out, n, theirs, others = self._any_of[layer]
            place = literals - out
            term, column = np.nonzero((place >= 0) & (place < 3 * n) & (place % 3 == 0))
            if not len(term):
                continue
            rest = literals[term].copy()
            of = place[term, column] // 3
            rest[np.arange(len(term)), column] = CERTAIN
            pair, other = Buckets(theirs).pairs(of)
            wanted = self.conjunction(rest[pair], others[other])
            mine = self.conjunction(literals)
            width = max(wanted.shape[1], mine.shape[1])
            rows = np.concatenate([np.column_stack([of_, np.pad(
                part, ((0, 0), (0, width - part.shape[1])))]) for of_, part in (
                    (target, mine), (target[term[pair]], wanted))])
            _, code = np.unique(rows, axis=0, return_inverse=True)
            code = code.reshape(-1)
            # What cannot occur need not stand there.
            missing = ~np.isin(code[len(mine):], code[:len(mine)]) & (wanted[:, 0] != NEVER)
            lacking = np.bincount(pair[missing], minlength=len(term)) > 0
            literals = literals.copy()
            literals[term[~lacking], column[~lacking]] = CERTAIN
        return literals


def expand(first: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(owner (T,), place (T,)) of ranges: item i has the places first[i] … first[i] + counts[i]."""
    owner = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, np.repeat(first, counts) + within


class Buckets:
    """Items by an integer label: which items have label x."""

    def __init__(self, labels: np.ndarray):
        self.order = np.argsort(labels, kind="stable")
        self.sorted = labels[self.order]

    def pairs(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(i, item) for every item whose label is wanted[i]."""
        first = np.searchsorted(self.sorted, wanted, "left")
        counts = np.searchsorted(self.sorted, wanted, "right") - first
        owner, place = expand(first, counts)
        return owner, self.order[place]
