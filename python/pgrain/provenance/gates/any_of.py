"""Disjunctions with SQL's three truth values: EXISTS, IN, DISTINCT, HAVING bool_or, row presence.

A group's terms fall into independent *factors*; with t, u and f the probability that a factor has a
true term, only an unknown one, or none,

    false = prod f,   true = 1 - prod (1 - t),   null = prod (1 - t) - prod f

in log space, so that thousands of factors neither underflow where they need not nor cancel, and a
gradient is a product over the other factors, with zeros counted instead of divided by.

A factor is a block of exclusive events (`blocks`). Blocks that share variables are not independent:
`_Conditioned` takes the variable of most events, and sums over its classes the disjunction of what
is left, itself a `_Disjunction`; blocks that met only there come apart. That is exact, and no more
work than enumerating the joint classes (for `EXISTS (… WHERE predict(inner) = predict(outer))` it
is linear, where enumeration is exponential in the inner rows).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pgrain.provenance.gates.blocks import Blocks, Owners, as_rows
from pgrain.provenance.gates.kernels import add_at, distinct, ranges
from pgrain.provenance.gates.network import Gradient, Layer, State, three_edges

STATES = 4096             # joint classes that a component is conditioned on, at most
LARGEST_LOG = 690.0       # exp of it is finite: no factor is less likely silent than 1e-300
TERMS = 4_000_000         # copies of events that conditioning may make at each depth
WORK = 200_000            # copies of blocks that conditioning on gates may need in all
_ALWAYS = 4096            # and that each component may need however many there are


class AnyOf(Layer):
    """Three literals a group, P[out + 3 g + (0, 1, 2)] = false, true, null.

    TRUE if a term with unknown = False occurs, else NULL if one with unknown = True does, else
    FALSE.

    Parameters
    ----------
    out, n : int
        Place and number of groups.
    target : (J,) int
        Group of each term.
    literals : (J, L) or (J,) int
        The term occurs if all hold; 0 pads. Variables may be shared within and across terms: exact,
        unless a component of shared variables needs more than `STATES` joint classes; then its
        blocks count as independent.
    unknown : (J,) bool or None
        Terms whose condition is NULL rather than true.
    """

    three = True

    def __init__(self, out: int, n: int, target: np.ndarray, literals: np.ndarray,
                 unknown: np.ndarray | None = None):
        self.out, self.n = out, n
        self.target, self.literals = np.asarray(target, np.int64), as_rows(literals)
        self.unknown = None if unknown is None else np.asarray(unknown, bool)
        self.n_literals = 3 * n

    def prepare(self, owners: np.ndarray | Owners) -> None:
        unknown = self.unknown
        if unknown is None:
            unknown = np.zeros(len(self.target), bool)
        self.core = _Disjunction(self.n, self.target, self.literals, unknown, Owners.of(owners),
                                 np.ones(self.n))

    def forward(self, state: State) -> None:
        false, true, null, saved = self.core.forward(state.P)
        state.saved[self] = saved
        out = state.P[self.out:self.out + 3 * self.n].reshape(self.n, 3)
        out[:, 0], out[:, 1], out[:, 2] = false, true, null

    def backward(self, state: State, grad: Gradient) -> None:
        d = grad.P[self.out:self.out + 3 * self.n].reshape(self.n, 3).copy()
        if d.any():
            self.core.backward(state.P, state.saved[self], d[:, 0], d[:, 1], d[:, 2], grad.P)
        if self in grad.silent:
            self.core.backward_silent(state.P, state.saved[self], grad.silent[self], grad.P)

    def log_silent(self, state: State) -> np.ndarray:
        """(n,) log(1 - P[true]), a sum over factors: thousands of them do not underflow."""
        return state.saved[self][2]

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        term, column = np.nonzero(self.literals)
        return three_edges(self.out, self.n, self.target[term], self.literals[term, column])


class _Disjunction:
    """The disjunction of terms by group; `paths` (n,) joint classes conditioned on so far."""

    def __init__(self, n, target, literals, unknown, owners, paths):
        self.n, self.has_unknown = n, bool(unknown.any())
        blocks = Blocks(target, literals, owners)
        known = np.zeros(blocks.n_events, bool)     # the same event, known and unknown, is known
        possible = blocks.event_of >= 0
        known[blocks.event_of[possible & ~unknown]] = True
        self.joint = None
        component = _components(blocks, owners)
        if component is not None:
            joint = _Conditioned.choose(blocks, component, known, owners, paths)
            if joint is not None:
                self.joint, apart = joint
                keep = apart[blocks.block]
                blocks_target = blocks.target[blocks.block[keep]]
                known = known[keep]
                blocks = Blocks(blocks_target, blocks.literals[keep], owners)
                known_of = np.zeros(blocks.n_events, bool)
                known_of[blocks.event_of] = known
                known = known_of
        self.blocks, self.known = blocks, known
        self.all_known = bool(known.all())
        self.group = blocks.target
        if self.joint is not None:
            self.group = np.concatenate([self.group, self.joint.group])

    def forward(self, P):
        """(false, true, null) of each group, each (n,), and what backward needs."""
        blocks = self.blocks
        q = blocks.probability(P)
        some = blocks.by_block(q)
        if self.all_known:
            t, u = some, None
        else:
            t = blocks.by_block(np.where(self.known, q, 0.0))
            u = blocks.by_block(np.where(self.known, 0.0, q))
        f = blocks.none(P, some)
        saved = None
        if self.joint is not None:
            of_joint, saved = self.joint.forward(P)
            f, t, u = (None if part is None else np.concatenate([part, more]) for part, more in
                       zip((f, t, np.zeros(blocks.n) if u is None else u), of_joint, strict=True))
        silent = f if u is None else f + u          # no true term
        log_silent = _log(t, silent)
        total = np.bincount(self.group, weights=log_silent, minlength=self.n)
        true = -np.expm1(total) + 0.0
        if not self.has_unknown:
            return np.exp(total), true, 0.0, (log_silent, log_silent, total, total, saved)
        if u is None:
            u = np.zeros(len(f))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(silent > 0, u / silent, 0.0)       # given that no term is true
            ratio = _log(share, np.where(silent > 0, f / silent, 1.0))
        total_ratio = np.bincount(self.group, weights=ratio, minlength=self.n)
        log_false = log_silent + ratio
        total_false = np.bincount(self.group, weights=log_false, minlength=self.n)
        null = np.exp(total) * -np.expm1(total_ratio) + 0.0
        return np.exp(total_false), true, null, (log_silent, log_false, total, total_false, saved)

    def backward(self, P, saved, d_false, d_true, d_null, out):
        """Add the gradient to `out`, with false = 1 - true - null: f = 1 - t - u likewise."""
        log_silent, log_false, total, total_false, inner = saved
        silent = self._others(log_silent, total)
        if not self.has_unknown:
            d_t, d_u = (d_true - d_false)[self.group] * silent, None
        else:
            false = self._others(log_false, total_false)
            d_u = (d_null - d_false)[self.group] * false
            d_t = (d_true - d_null)[self.group] * silent + d_u
        n = self.blocks.n
        block = self.blocks.block
        d = d_t[:n] if self.blocks.single else d_t[:n][block]
        if not self.all_known:
            d = np.where(self.known, d, d_u[:n][block])
        self.blocks.backward(P, d, out)
        if self.joint is not None:
            self.joint.backward(P, inner, d_t[n:], 0.0 if d_u is None else d_u[n:], out)

    def backward_silent(self, P, saved, d_silent, out):
        """Add to `out` the gradient of sum(d_silent * log(1 - true)): one factor's share in a sum
        of logs hangs on no other factor."""
        log_silent, inner = saved[0], saved[4]
        d_t = -d_silent[self.group] * np.exp(np.minimum(-log_silent, LARGEST_LOG))
        n, block = self.blocks.n, self.blocks.block
        d = d_t[:n] if self.blocks.single else d_t[:n][block]
        self.blocks.backward(P, np.where(self.known, d, 0.0), out)
        if self.joint is not None:
            self.joint.backward(P, inner, d_t[n:], 0.0, out)

    def _others(self, logs, total):
        """For each factor, the product of the group's other factors."""
        zero = np.isneginf(logs)
        if not zero.any():
            return np.exp(total[self.group] - logs)
        finite = np.where(zero, 0.0, logs)
        zeros = np.bincount(self.group[zero], minlength=self.n)
        total = np.bincount(self.group, weights=finite, minlength=self.n)
        others = np.exp(total[self.group] - finite)
        others[zeros[self.group] > zero] = 0.0
        return others


def _log(some: np.ndarray, none: np.ndarray) -> np.ndarray:
    """log(none), none = 1 - some, from whichever of both says more."""
    result = np.empty(len(some))
    small = some < 0.5
    with np.errstate(divide="ignore"):
        np.log1p(-some, out=result, where=small)
        np.log(none, out=result, where=~small)
    return np.minimum(result, 0.0, out=result)


def _components(blocks: Blocks, owners: Owners) -> np.ndarray | None:
    """(B,) component of blocks of one target that share owners; None if no two do.

    Conditioning on an owner copies the events that do not mention it. Where that would need more
    than `WORK` copies, results of other gates (owners that are no variables) are cut: what they tie
    together counts as independent, and what variables tie (the classes of a row) stays exact.
    """
    if blocks.owners.shape[1] == 1 or blocks.n == 0:
        return None
    block, column = np.nonzero(blocks.owners)
    code = blocks.target[block] * owners.n + blocks.owners[block, column]
    found, node = distinct(code)
    if len(found) == len(code):
        return None
    component = _connected(blocks.n, block, node, len(found))
    sizes = np.bincount(component)
    shared_by = np.bincount(node)                       # blocks of each (target, owner)
    of_node = np.zeros(len(found), np.int64)
    of_node[node] = component[block]
    gate = np.zeros(len(found), bool) if owners.given is None else \
        owners.first(found % owners.n) >= owners.given
    common = np.flatnonzero(gate & (shared_by > 1))
    if not len(common):
        return component
    share = shared_by[common] / sizes[of_node[common]]
    copies = np.log(share + 2.0 * (1.0 - share))        # true, and the rest
    needed = np.bincount(of_node[common], copies, len(sizes)) + np.log(sizes)
    most = max(WORK / len(sizes), _ALWAYS)
    cut = common[needed[of_node[common]] > np.log(most)]
    if not len(cut):
        return component
    kept = ~np.isin(node, cut)
    return _connected(blocks.n, block[kept], node[kept], len(found))


def _connected(n: int, block: np.ndarray, node: np.ndarray, n_nodes: int) -> np.ndarray:
    """(n,) component of blocks by the nodes that they share."""
    size = n + n_nodes
    graph = coo_matrix((np.ones(len(block), np.int8), (block, n + node)), (size, size))
    return distinct(connected_components(graph, directed=False)[1][:n])[1]


class _Conditioned:
    """Components of blocks that share owners: the sum over the classes of one owner each, the hub.

    For class c of the hub a subgroup holds the events with c, without that literal, and the events
    that do not mention the hub; one more subgroup, for the classes not listed, only the latter.
    """

    @staticmethod
    def choose(blocks, component, known, owners, paths):
        """(the components to condition, (B,) bool: blocks left apart); None if there are none."""
        shared = np.bincount(component)[component] > 1
        if not shared.any():
            return None
        of_event = shared[blocks.block]
        label, part = distinct(component[blocks.block[of_event]])
        literals = blocks.literals[of_event]
        event, column = np.nonzero(literals)
        literal = literals[event, column]
        # The hub of a component is the owner with most events; fewest classes where equal.
        owner = owners.dense[literal]
        code = part[event] * owners.n + owner
        pairs, inverse = distinct(code)
        counts = np.bincount(inverse)
        classes = distinct(inverse * owners.n_p + literal)[0] // owners.n_p
        n_classes = np.bincount(classes, minlength=len(pairs))
        of_pair = pairs // owners.n
        best = np.lexsort((-n_classes, counts, of_pair))
        last = best[np.append(np.flatnonzero(np.diff(of_pair[best])), len(best) - 1)]
        hub, events_with, n_classes = pairs[last] % owners.n, counts[last], n_classes[last]
        group = np.zeros(len(label), np.int64)
        group[part] = blocks.target[blocks.block[of_event]]
        states = paths[group] * (n_classes + 1)
        total = np.bincount(part, minlength=len(label))
        copies = events_with + (total - events_with) * (n_classes + 1)
        cheap = np.argsort(copies, kind="stable")
        fits = np.zeros(len(label), bool)
        fits[cheap] = np.cumsum(copies[cheap]) <= TERMS
        fits &= states <= STATES
        if not fits.any():
            return None
        fit_of_label = np.zeros(int(component.max()) + 1, bool)
        fit_of_label[label[fits]] = True
        apart = ~(shared & fit_of_label[component])
        chosen = fits[part]
        number = np.cumsum(fits) - 1
        return _Conditioned(number[part[chosen]], literals[chosen], known[of_event][chosen],
                            hub[fits], group[fits], owners, states[fits]), apart

    def __init__(self, part, literals, known, hub, group, owners, states):
        n = len(hub)
        self.group, self.n = group, n
        owner = np.where(literals > 0, owners.dense[literals], -1)
        at_hub = owner == hub[part][:, None]
        has = at_hub.any(axis=1)
        hub_literal = np.where(at_hub, literals, 0).sum(axis=1)
        rest = np.where(at_hub, 0, literals)
        # Subgroups: each listed class of each hub, then the classes not listed.
        listed, own = distinct(part[has] * owners.n_p + owners.rank[hub_literal[has]])
        self.part, self.literal = listed // owners.n_p, owners.literal_of(listed % owners.n_p)
        free = np.flatnonzero(~has)
        counts = np.bincount(self.part, minlength=n)
        if owners.complete is None:
            open_ = np.ones(n, bool)
        else:
            first = self.literal[np.searchsorted(self.part, np.arange(n))]
            open_ = ~(owners.complete[first] & (owners.size(hub) == counts))
        open_ &= np.bincount(part[free], minlength=n) > 0
        self.other = np.flatnonzero(open_)
        starts = np.cumsum(counts) - counts
        n_sub = len(listed) + len(self.other)
        copies = counts[part[free]]
        spread = ranges(starts[part[free]], copies)
        to_other = np.full(n, -1)
        to_other[self.other] = len(listed) + np.arange(len(self.other))
        outside = free[open_[part[free]]]
        self.inner = _Disjunction(
            n_sub,
            np.concatenate([own, spread, to_other[part[outside]]]),
            np.concatenate([rest[has], np.repeat(rest[free], copies, axis=0), rest[outside]]),
            ~np.concatenate([known[has], np.repeat(known[free], copies), known[outside]]),
            owners, states[np.concatenate([self.part, self.other])])

    def forward(self, P):
        """(f, t, u) of each component, each (n,), and what backward needs."""
        false, true, null, saved = self.inner.forward(P)
        if not self.inner.has_unknown:
            null = np.zeros(len(true))
        p = P[self.literal]
        other = np.maximum(1.0 - np.bincount(self.part, weights=p, minlength=self.n), 0.0)
        m, parts = len(p), []
        for values in (false, true, null):
            parts.append(np.bincount(self.part, weights=p * values[:m], minlength=self.n))
            parts[-1][self.other] += other[self.other] * values[m:]
        nothing = np.ones(self.n, bool)             # no event without the hub: certainly none
        nothing[self.other] = False
        parts[0][nothing] += other[nothing]
        return parts, (p, other, true, null, saved)

    def backward(self, P, saved, d_t, d_u, out):
        p, other, true, null, inner = saved
        d_u = np.broadcast_to(d_u, self.n)
        m = len(p)
        part = np.concatenate([self.part, self.other])
        weight = np.concatenate([p, other[self.other]])
        d_class = d_t[part] * true + d_u[part] * null
        d_other = np.zeros(self.n)                  # p(other) = 1 - the listed ones
        d_other[self.other] = d_class[m:]
        add_at(out, self.literal, d_class[:m] - d_other[self.part])
        self.inner.backward(P, inner, np.zeros(len(part)), d_t[part] * weight, d_u[part] * weight,
                            out)
