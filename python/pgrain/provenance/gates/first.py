"""LIMIT, OFFSET, WITH TIES and DISTINCT ON: which terms of an ordered list are among the first."""

from __future__ import annotations

import numpy as np

from pgrain.provenance.gates.blocks import Owners
from pgrain.provenance.gates.counting import Counting
from pgrain.provenance.gates.kernels import add_at, distinct, heads, order_of, ranges, scan
from pgrain.provenance.gates.network import Gradient, Layer, State
from pgrain.provenance.gates.normal import comparison
from pgrain.provenance.gates.survival import Survival

WORK = 1 << 30            # terms times counts; above, counts are approximately normal
_DIRECT = 64              # lists up to this long name all that a term depends on


class First(Layer):
    """P[out + j] = P(term j occurs, and of those before it in its target [offset, offset + limit)).

    Parameters
    ----------
    out : int
    target, event : (J,) int
        Terms stand in order within each target; `event` is the literal that term j occurs.
    offset : int
    limit : int or None
        None: no limit. Exact for independent terms; for offset 0 and limit 1 (DISTINCT ON) also
        where terms exclude each other or are the same literal.
    peers : (J,) int or None
        WITH TIES (offset 0): terms that follow each other and have one number are kept together,
        if fewer than `limit` occur before the first of them.
    """

    def __init__(self, out: int, target: np.ndarray, event: np.ndarray, offset: int,
                 limit: int | None, peers: np.ndarray | None = None):
        self.peers = None if peers is None else np.asarray(peers, np.int64)
        self.out = out
        self.target, self.event = np.asarray(target, np.int64), np.asarray(event, np.int64)
        self.offset, self.limit = int(offset), None if limit is None else int(limit)
        self.n_literals = len(self.event)

    def prepare(self, owners: np.ndarray | Owners) -> None:
        owners = Owners.of(owners)
        order = order_of(self.target, "stable")
        self.order = np.arange(self.n_literals) if order is None else order
        self.group, self.events = self.target[self.order], self.event[self.order]
        self.start = heads(self.group)
        self.go = (~self.start).astype(float)
        self.leader = None          # the first of a term's peers
        if self.peers is not None:
            changes = self.start | heads(self.peers[self.order])
            self.leader = np.flatnonzero(changes)[np.cumsum(changes) - 1]
        self.kernel = self._kernel(owners)

    def _kernel(self, owners):
        starts = np.append(np.flatnonzero(self.start), self.n_literals)
        longest = int(np.diff(starts).max(initial=0))
        limit = self.limit
        if limit is not None and self.offset + limit >= longest:
            limit = None if limit else 0                 # no list is that long
        if limit == 0 or self.offset >= longest:
            return _Nothing()
        if limit is None and self.offset == 0:
            return _Everything()
        if limit == 1 and self.offset == 0 and self.leader is None:
            return _Earliest(self.group, self.events, owners)
        states = self.offset + (1 if limit is None else limit)
        if self.n_literals * states <= WORK:
            return _Counted(self.leader, Counting(self.start, states, self.offset, limit is None))
        return _Approximate(self.leader, self.go, self.offset, limit)

    def forward(self, state: State) -> None:
        p = state.P[self.events]
        if state.hard:
            before = scan(self.go, self.go * np.append(0.0, p[:-1]))
            if self.leader is not None:
                before = before[self.leader]
            kept = before >= self.offset
            if self.limit is not None:
                kept &= before < self.offset + self.limit
            result = np.where(kept, p, 0.0)
        else:
            result, state.saved[self] = self.kernel.forward(p)
        state.P[self.out + self.order] = result

    def backward(self, state: State, grad: Gradient) -> None:
        d = grad.P[self.out + self.order]
        if d.any():
            p = state.P[self.events]
            add_at(grad.P, self.events, self.kernel.backward(p, state.saved[self], d))

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """A term on the terms up to it; in long lists on an earlier output and those since.

        Term i of a list (from 1) stands on the output i & (i - 1) and on the events after it, so
        that no path is longer than the binary logarithm.
        """
        starts = np.flatnonzero(self.start)
        size = np.diff(np.append(starts, self.n_literals))
        base = np.repeat(starts, size)
        i = np.arange(self.n_literals) - base + 1
        out = self.out + self.order
        if isinstance(self.kernel, _Everything | _Nothing):
            return out, self.events
        since = np.where(np.repeat(size, size) <= _DIRECT, 0, i & (i - 1))
        counts = i - since
        events = self.events[ranges(base + since, counts)]
        chained = since > 0
        return (np.concatenate([np.repeat(out, counts), out[chained]]),
                np.concatenate([events, out[(base + since - 1)[chained]]]))


class _Nothing:
    """LIMIT 0."""

    def forward(self, p):
        return np.zeros(len(p)), None

    def backward(self, p, saved, d):
        return np.zeros(len(p))


class _Everything:
    """No limit, no offset."""

    def forward(self, p):
        return p, None

    def backward(self, p, saved, d):
        return d


class _Earliest:
    """The first of each list; terms with one owner exclude each other."""

    def __init__(self, group, events, owners):
        n_p = owners.n_p
        # A literal that stood before in its list occurs only if that one did: never the first.
        literal = distinct(group * n_p + events)[1]
        seen = np.argsort(literal, kind="stable")
        new = np.zeros(len(events), bool)
        new[seen] = heads(literal[seen])
        self.new = np.flatnonzero(new)
        group, events = group[self.new], events[self.new]
        self.survival = Survival(group, distinct(group * n_p + owners.dense[events])[1])

    def forward(self, p):
        result = np.zeros(len(p))
        result[self.new], saved = self.survival.forward(p[self.new])
        return result, saved

    def backward(self, p, saved, d):
        result = np.zeros(len(p))
        result[self.new] = self.survival.backward(saved, d[self.new])
        return result


class _ByCount:
    """p_j times c_j, the probability that so many terms occur before term j (or before the first of
    its peers) as may. Subclasses have c, and the derivative of sum(d * c) with respect to p."""

    def __init__(self, leader):
        self.leader = leader

    def forward(self, p):
        c, saved = self.before(p)
        if self.leader is not None:
            c = c[self.leader]
        return p * c, (c, saved)

    def backward(self, p, saved, d):
        c, saved = saved
        of_c = d * p
        if self.leader is not None:
            of_c = np.bincount(self.leader, of_c, len(p))
        return d * c + self.slopes(p, saved, of_c)


class _Counted(_ByCount):
    """By the distribution of the number of terms before."""

    def __init__(self, leader, counting):
        super().__init__(leader)
        self.counting = counting

    def before(self, p):
        return self.counting.forward(p)

    def slopes(self, p, saved, d):
        return self.counting.backward(p, saved, d)


class _Approximate(_ByCount):
    """By the first three cumulants of the number of terms before (`normal`)."""

    def __init__(self, leader, go, offset, limit):
        super().__init__(leader)
        self.go, self.back = go, np.append(go[1:], 0.0)[::-1]
        self.offset, self.limit = offset, limit

    def before(self, p):
        spread = p * (1.0 - p)
        mean, variance, third = (scan(self.go, self.go * np.append(0.0, k[:-1]))
                                 for k in (p, spread, spread * (1.0 - 2.0 * p)))
        fixed = variance < 1e-12
        safe = np.where(fixed, 1.0, variance)
        c = np.where(fixed, self._inside(np.rint(mean)), 0.0)
        slopes = [np.zeros(len(p)) for _ in range(3)]
        bounds = [(1.0, self.offset - 0.5)]
        if self.limit is not None:
            bounds.append((-1.0, self.offset + self.limit - 0.5))
        for sign, bound in bounds:
            x = np.full(len(p), bound)
            more, _, *d = comparison(">", mean, safe, np.where(fixed, 0.0, third), x, x)
            c += np.where(fixed, 0.0, sign * more)
            for slope, of_more in zip(slopes, d, strict=True):
                slope += np.where(fixed, 0.0, sign * of_more)
        return c, slopes

    def _inside(self, count):
        inside = count >= self.offset
        return inside if self.limit is None else inside & (count < self.offset + self.limit)

    def slopes(self, p, saved, d):
        result = np.zeros(len(p))
        rates = (1.0, 1.0 - 2.0 * p, 1.0 - 6.0 * p + 6.0 * p * p)
        for slope, rate in zip(saved, rates, strict=True):
            later = np.append((d * slope)[1:], 0.0)[::-1] * self.back
            result = result + rate * scan(self.back, later)[::-1]
        return result
