"""Terms as blocks of exclusive events, and which literals exclude each other.

A *term* of a target is a conjunction of literals (class c of variable v). Equal terms of a target
are one *event*. Events of a target over the same set of owners (variables) form a *block*: two of
them differ in some variable's class, so they exclude each other, and a block is one categorical
variable with the outcomes "event 1", …, "event k", "none". With one literal a term, the blocks of
a target are its variables, and independent. With several, blocks may share owners.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from pgrain.provenance.gates.kernels import (
    add_at,
    combine,
    heads,
    order_of,
    order_of_two,
    product,
    products_of_others,
    ranges,
)


class Owners:
    """Who owns which literal.

    Parameters
    ----------
    owner : (n_p,) int64
        Literals of one owner exclude each other; -1: literal 0, the constant. Any other literal
        with -1 owns itself.
    complete : (n_p,) bool, optional
        Literals of owners whose probabilities are known to add up to one. Then "none of a, b" is
        taken as the sum of the others, which is exact where 1 - (p_a + p_b) would cancel.
    """

    def __init__(self, owner: np.ndarray, complete: np.ndarray | None = None):
        self.n_p = len(owner)
        self.owner = np.asarray(owner, np.int64)
        self.complete = complete
        self.given: int | None = None     # literals below are constants and variables, no gates'

    @staticmethod
    def of(owner: np.ndarray | Owners) -> Owners:
        return owner if isinstance(owner, Owners) else Owners(owner)

    @cached_property
    def _sorted(self):
        """(order of literals by owner, dense owner by literal, first place of each owner)."""
        owner = self.owner
        lonely = np.flatnonzero(owner < 0)
        if len(lonely) > 1:
            owner = owner.copy()
            owner[lonely] = owner.max() + 1 + np.arange(len(lonely))
        if self.n_p:
            owner = owner.copy()
            owner[0] = min(0, int(owner.min())) - 1     # the constant stands first
        order = order_of(owner, "stable")
        new = heads(owner if order is None else owner[order])
        dense = np.cumsum(new) - 1
        starts = np.append(np.flatnonzero(new), self.n_p)
        rank = np.arange(self.n_p)
        if order is not None:
            rank[order] = np.arange(self.n_p)
            dense = dense[rank]
        return order, dense, starts, rank

    @property
    def dense(self) -> np.ndarray:
        """(n_p,) owners numbered from 0 (the constant)."""
        return self._sorted[1]

    @property
    def rank(self) -> np.ndarray:
        """(n_p,) place of each literal when they are sorted by owner; the constant's is 0."""
        return self._sorted[3]

    @property
    def n(self) -> int:
        return len(self._sorted[2]) - 1

    def literal_of(self, rank: np.ndarray) -> np.ndarray:
        order = self._sorted[0]
        return rank if order is None else order[rank]

    def size(self, dense: np.ndarray) -> np.ndarray:
        starts = self._sorted[2]
        return starts[dense + 1] - starts[dense]

    def first(self, dense: np.ndarray) -> np.ndarray:
        """A literal of each of these owners."""
        return self.literal_of(self._sorted[2][dense])

    def literals(self, dense: np.ndarray) -> np.ndarray:
        """All literals of these owners, one owner after the other."""
        return self.literal_of(ranges(self._sorted[2][dense], self.size(dense)))


def as_rows(literals: np.ndarray) -> np.ndarray:
    """(J, L) literals; (J,) is one a term."""
    literals = np.asarray(literals, np.int64)
    return literals[:, None] if literals.ndim == 1 else literals


class Blocks:
    """Distinct events of terms, sorted by (target, block, literals).

    Parameters
    ----------
    target : (J,) int
    literals : (J, L) or (J,) int
        0 pads. A term with two classes of one variable cannot occur and is left out.

    Attributes
    ----------
    event_of : (J,) event of each term, -1 where it cannot occur
    literals : (E, L') of each event
    block : (E,) block of each event, nondecreasing
    target : (B,) target of each block, nondecreasing
    owners : (B, L') dense owners of each block (0 pads)
    """

    def __init__(self, target: np.ndarray, literals: np.ndarray, owners: Owners):
        rows = as_rows(literals)
        target = np.asarray(target, np.int64)
        self._owners = owners
        if rows.shape[1] == 1:
            self._one(target, rows[:, 0], owners)
        else:
            self._several(target, rows, owners)
        self.n_events, self.n = len(self.block), len(self.target)
        self.single = self.n_events == self.n
        self.starts = np.flatnonzero(heads(self.block))
        self._find_complements()

    def _one(self, target, literal, owners, event_of=None):
        code = target * owners.n_p + owners.rank[literal]
        order = order_of(code)
        if order is not None:
            code, target, literal = code[order], target[order], literal[order]
        new = heads(code)
        self._set(new, order, target, literal[:, None], owners.dense[literal][:, None])

    def _several(self, target, rows, owners):
        rank = np.sort(owners.rank[rows], axis=1)          # pads first, then by owner
        owner = owners.dense[owners.literal_of(rank)]
        twice = (rank[:, 1:] == rank[:, :-1]) & (rank[:, 1:] > 0)
        possible = np.ones(len(rank), bool)
        if twice.any():
            rank[:, :-1][twice] = 0
            rank = np.sort(rank, axis=1)
            owner = owners.dense[owners.literal_of(rank)]
        clash = (owner[:, 1:] == owner[:, :-1]) & (owner[:, 1:] > 0)
        if clash.any():
            possible = ~clash.any(axis=1)
            rank, owner, target = rank[possible], owner[possible], target[possible]
        used = np.flatnonzero(rank.any(axis=0))
        first = used[0] if len(used) else rank.shape[1] - 1
        rank, owner = rank[:, first:], owner[:, first:]
        width = rank.shape[1]
        n_targets = int(target.max(initial=0)) + 1
        of_block = combine([target, *owner.T], [n_targets] + [owners.n] * width)
        if width == 1:
            of_literals = rank[:, 0]
        else:
            of_literals = combine(list(rank.T), [owners.n_p] * width)
        order = order_of_two(of_block, of_literals)
        of_block, of_literals = of_block[order], of_literals[order]
        self._set(heads(of_block, of_literals), order, target[order],
                  owners.literal_of(rank[order]), owner[order], heads(of_block))
        if not possible.all():
            event_of = np.full(len(possible), -1)
            event_of[possible] = self.event_of
            self.event_of = event_of

    def _set(self, new, order, target, literals, owner, new_block=None):
        event = np.cumsum(new) - 1
        if order is None:
            self.event_of = event
        else:
            self.event_of = np.empty(len(event), np.int64)
            self.event_of[order] = event
        first = np.flatnonzero(new)
        self.literals = np.ascontiguousarray(literals[first])
        if new_block is None:
            new_block = heads(target, owner[:, 0])
        new_block = new_block[first]
        self.block = np.cumsum(new_block) - 1
        self.target, self.owners = target[first][new_block], owner[first][new_block]

    def _find_complements(self):
        """Blocks whose "none" is the sum of the owner's other literals, where those are few."""
        complete = self._owners.complete
        self.exact = np.zeros(0, np.int64)
        if complete is None or self.n_events == 0 or self.literals.shape[1] > 1:
            return
        literal, owner = self.literals[:, 0], self.owners[:, 0]
        listed = np.diff(np.append(self.starts, self.n_events))
        others = self._owners.size(owner) - listed
        chosen = np.flatnonzero(complete[literal[self.starts]] & (owner > 0)
                                & (others <= np.maximum(listed, 2)))
        if len(chosen) == 0:
            return
        size = self._owners.size(owner[chosen])
        candidates = self._owners.literals(owner[chosen])
        place = np.repeat(np.arange(len(chosen)), size)
        # An owner's literals stand in the order of their ranks, which have no gaps.
        events, of = ranges(self.starts[chosen], listed[chosen]), np.repeat(
            np.arange(len(chosen)), listed[chosen])
        begins = np.cumsum(size) - size
        lowest = self._owners.rank[candidates[begins]]
        free = np.ones(len(candidates), bool)
        free[begins[of] + self._owners.rank[literal[events]] - lowest[of]] = False
        self.exact, self._others, self._others_of = chosen, candidates[free], place[free]

    def by_block(self, values: np.ndarray) -> np.ndarray:
        """(B,) sums of `values` (E,)."""
        if self.single:
            return values
        return np.add.reduceat(values, self.starts) if len(values) else np.zeros(self.n)

    def probability(self, P: np.ndarray) -> np.ndarray:
        """(E,) of each event."""
        if self.literals.shape[1] == 1:
            return P[self.literals[:, 0]]
        return product(P[self.literals])

    def none(self, P: np.ndarray, some: np.ndarray) -> np.ndarray:
        """(B,) that no event of the block occurs; `some` (B,) that one does."""
        none = np.maximum(1.0 - some, 0.0)
        if len(self.exact):
            none[self.exact] = np.bincount(self._others_of, weights=P[self._others],
                                           minlength=len(self.exact))
        return none

    def backward(self, P: np.ndarray, d: np.ndarray, out: np.ndarray) -> None:
        """Add to `out` (n_p,) the gradient with respect to P, given that to `probability`."""
        if self.literals.shape[1] == 1:
            add_at(out, self.literals[:, 0], d)
            return
        others = products_of_others(P[self.literals])
        others *= d[:, None]
        add_at(out, self.literals, others)

    def sources(self, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(target, literal) of these events, constants left out."""
        literals = self.literals[events]
        target = np.repeat(self.target[self.block[events]], literals.shape[1])
        literals = literals.ravel()
        return target[literals > 0], literals[literals > 0]
