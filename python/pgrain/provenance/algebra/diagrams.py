"""Terms of groups as decision diagrams: which sums, counts and extremes they can have together.

A diagram takes up the independent factors of a group one after the other: a variable, or variables
that conjunctions tie together. Its nodes are told apart by what has been added up so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pgrain.interrupts import check
from pgrain.provenance.algebra.wiring import CERTAIN, NEVER, Wiring, expand
from pgrain.provenance.gates.diagram import Paths
from pgrain.provenance.gates.kernels import combine, heads
from pgrain.provenance.gates.threshold import cheapest

NODES = 4096            # nodes of one diagram on one level, at most
LEVELS = 512            # factors of one diagram
OUTCOMES = 256          # outcomes of one factor
EDGES = 1 << 21         # edges of all diagrams together
SLACK = 8               # columns that go together have fewer nodes than their sizes say
_START = {"count": 0.0, "sum": 0.0, "some": 0.0, "set": 0.0, "min": np.inf, "max": -np.inf}
SET_BITS = 52           # different values that a "set" holds, in the bits of a float


@dataclass
class Column:
    """What is added up of a diagram's terms.

    kind: "count", "sum" of the values, "some" (1 where there is a term), "min", "max" of the
    values, "set" of them (whole numbers below SET_BITS, a bit each).
    instance: (T,) whose term each is; literals: (T, L); value: (T,) or None
    """

    kind: str
    instance: np.ndarray
    literals: np.ndarray
    value: np.ndarray | None = None


@dataclass
class Diagrams:
    """fits: (n,) bool, instances that have a diagram. Of the last nodes: node, instance (F,), and
    sums (F, columns). sources: (literal, instance) pairs, what decides about what."""

    fits: np.ndarray
    paths: Paths
    node: np.ndarray
    instance: np.ndarray
    sums: np.ndarray
    sources: tuple[np.ndarray, np.ndarray]


def build(wiring: Wiring, n: int, columns: list[Column]) -> Diagrams | None:
    """Diagrams of n instances; None if not one is small enough."""
    fits = np.ones(n, bool)
    while fits.any():
        made = _Builder(wiring, n, [_of(column, fits) for column in columns], fits).diagrams()
        if isinstance(made, Diagrams):
            return made
        fits = made         # some were too large: again without them
    return None


def _of(column: Column, fits: np.ndarray) -> Column:
    kept = fits[column.instance] & (column.literals[:, 0] != NEVER)
    return Column(column.kind, column.instance[kept], column.literals[kept],
                  None if column.value is None else column.value[kept])


class _Builder:
    def __init__(self, wiring: Wiring, n: int, columns: list[Column], fits: np.ndarray):
        self.wiring, self.n, self.columns, self.fits = wiring, n, columns, fits.copy()
        width = max(column.literals.shape[1] for column in columns)
        self.literals = np.concatenate([np.pad(
            c.literals, ((0, 0), (0, width - c.literals.shape[1]))) for c in columns])
        self.instance = np.concatenate([c.instance for c in columns])
        self.column = np.repeat(np.arange(len(columns)), [len(c.instance) for c in columns])
        self.value = np.concatenate([np.ones(len(c.instance)) if c.value is None else c.value
                                     for c in columns])

    def diagrams(self) -> Diagrams | np.ndarray:
        """The diagrams; or which instances may have one, if fewer than those asked for."""
        asked = self.fits.copy()
        self._factors()
        if (self.fits != asked).any():
            return self.fits
        self._outcomes()
        self._effects()
        found = self._levels()
        return self.fits if found is None else found

    # --- factors ---------------------------------------------------------------------------

    def _factors(self) -> None:
        """Owners of an instance's literals that terms tie together, directly or not."""
        term, place = np.nonzero(self.literals != CERTAIN)
        literal = self.literals[term, place]
        owner = self.wiring.owner
        lonely = owner[literal] < 0
        who = np.where(lonely, int(owner.max(initial=0)) + 1 + literal, owner[literal])
        keys, self.variable = np.unique(
            self.instance[term] * (int(who.max(initial=0)) + 1) + who, return_inverse=True)
        self.variable = self.variable.reshape(-1)
        self.term, self.literal, n_variables = term, literal, len(keys)
        of = np.zeros(n_variables, np.int64)
        of[self.variable] = self.instance[term]
        first = np.full(len(self.literals), -1)
        first[term[::-1]] = self.variable[::-1]
        graph = coo_array((np.ones(len(term)), (first[term], self.variable)),
                          shape=(n_variables, n_variables))
        n_factors, factor = connected_components(graph, directed=False) if n_variables else \
            (0, np.zeros(0, np.int64))
        # Literals that are listed of each variable: its outcomes, beside "none of them".
        pairs = np.unique(self.variable * len(owner) + literal)
        self.listed_of, self.listed = pairs // len(owner), pairs % len(owner)
        self.listed_first = np.searchsorted(self.listed_of, np.arange(n_variables))
        count = np.bincount(self.listed_of, minlength=n_variables)
        whole = self._whole(count)
        self.radix, self.none = count + ~whole, (~whole).astype(np.int64)
        size = np.exp(np.bincount(factor, np.log(self.radix), n_factors))
        instance_of = np.zeros(n_factors, np.int64)
        instance_of[factor] = of
        self.fits[instance_of[size > OUTCOMES + 0.5]] = False
        levels = np.bincount(instance_of, minlength=self.n)
        self.fits &= levels <= LEVELS
        bits = np.bincount(instance_of, np.log2(np.maximum(size, 1.0)), self.n)
        nodes = np.minimum(bits, self._sizes())
        self.fits &= nodes <= np.log2(SLACK * NODES)
        # A third of the levels' widest, as where widths grow with the square of the level.
        edges = np.exp2(np.minimum(nodes, 40.0)) / 3.0 * np.maximum(
            np.bincount(instance_of, size, self.n), 1.0)
        self.fits &= cheapest(np.where(self.fits, edges, np.inf), 2 * EDGES)
        self.factor, self.of_factor, self.n_variables = factor, instance_of, n_variables

    def _sizes(self) -> np.ndarray:
        """(n,) log2 of how many different sums an instance can have at most, going by its columns
        one by one."""
        bits, known = np.zeros(self.n), []
        # Whether there is a term, a count of the same terms says.
        kinds = [column.kind for column in self.columns]
        for number in sorted(range(len(kinds)), key=lambda n: kinds[n] == "some"):
            column, mine = self.columns[number], self.column == number
            of, value = self.instance[mine], self.value[mine]
            terms, own = np.bincount(of, minlength=self.n), np.zeros(self.n)
            if column.kind == "some":
                own += 1.0
            elif column.kind == "count":
                own += np.log2(terms + 1.0)
            elif column.kind == "sum":
                whole = np.bincount(of, value != np.rint(value), self.n) == 0
                span = np.where(whole, np.bincount(of, np.abs(value), self.n) + 1.0, np.inf)
                own += np.minimum(np.log2(span), terms)
            else:
                pairs = np.unique(np.column_stack([of, value]), axis=0)
                different = np.bincount(pairs[:, 0].astype(np.int64), minlength=self.n)
                own += different if column.kind == "set" else np.log2(different + 1.0)
            mark = _mark(of, self.literals[mine], value, self.n)
            for kind, marks in known:
                if kind == column.kind or (kind, column.kind) == ("count", "some"):
                    own[marks == mark] = 0.0
            known.append((column.kind, mark))
            bits += own
        return bits

    def _whole(self, count: np.ndarray) -> np.ndarray:
        """Variables of the models all classes of which are listed: nothing is left."""
        sizes = np.zeros(len(self.wiring.owner), np.int64)
        for model, (variables, classes) in self.wiring.shapes.items():
            at = self.wiring.offset[model]
            sizes[at:at + variables * classes] = classes
        return (sizes[self.listed[self.listed_first]] == count) if len(count) else count == 1

    # --- outcomes --------------------------------------------------------------------------

    def _outcomes(self) -> None:
        """Each factor's outcomes, in mixed radix over its variables."""
        order = np.lexsort((self.factor, self.of_factor[self.factor]))
        rank = np.cumsum(heads(self.factor[order])) - 1 if len(order) else order
        factor = np.empty(self.n_variables, np.int64)
        factor[order] = rank                        # factors by their instances
        n = int(rank.max(initial=-1)) + 1
        of = np.zeros(n, np.int64)
        of[factor] = self.of_factor[self.factor]
        starts = np.flatnonzero(heads(rank)) if n else np.zeros(0, np.int64)
        within = np.arange(len(order)) - starts[rank] if n else np.zeros(0, np.int64)
        width = int(within.max(initial=-1)) + 1
        self.stride = np.ones(self.n_variables, np.int64)
        size = np.ones(n, np.int64)
        for at in range(width):
            mine = order[within == at]
            self.stride[mine] = size[factor[mine]]
            size[factor[mine]] *= self.radix[mine]
        self.n_outcomes, self.first_outcome = size, np.cumsum(size) - size
        self.factor, self.of_factor = factor, of
        total = int(size.sum())
        number = np.arange(total) - np.repeat(self.first_outcome, size)
        self.outcomes = np.zeros((total, max(width, 1)), np.int64)
        for at in range(width):
            mine = order[within == at]
            row, place = expand(self.first_outcome[factor[mine]], size[factor[mine]])
            variable = mine[row]
            digit = number[place] // self.stride[variable] % self.radix[variable]
            literal = self.listed[np.minimum(self.listed_first[variable] + digit
                                             - self.none[variable], len(self.listed) - 1)]
            self.outcomes[place, at] = np.where((digit == 0) & (self.none[variable] > 0),
                                                -1 - variable, literal)

    def _effects(self) -> None:
        """What each outcome adds to each column, and what there is without any."""
        kinds = [column.kind for column in self.columns]
        term = self.term
        code = self.variable * len(self.wiring.owner) + self.literal
        listed = self.listed_of * len(self.wiring.owner) + self.listed
        digit = np.searchsorted(listed, code) - self.listed_first[self.variable] \
            + self.none[self.variable]
        first = np.full(len(self.literals), -1)
        first[term[::-1]] = self.factor[self.variable[::-1]]
        some = np.flatnonzero(first >= 0)
        row, outcome = expand(self.first_outcome[first[some]], self.n_outcomes[first[some]])
        counts = self.n_outcomes[first[some]]
        begins = np.zeros(len(self.literals), np.int64)
        begins[some] = np.cumsum(counts) - counts
        active = np.ones(len(row), bool)
        # Each literal of each term against all outcomes of the term's factor.
        pair, at = expand(begins[term], self.n_outcomes[first[term]])
        variable = self.variable[pair]
        number = outcome[at] - self.first_outcome[self.factor[variable]]
        holds = number // self.stride[variable] % self.radix[variable] == digit[pair]
        active[at[~holds]] = False
        total = len(self.outcomes)
        self.effect = np.tile([_START[kind] for kind in kinds], (total, 1))
        self.root = np.tile([_START[kind] for kind in kinds], (self.n, 1))
        of_term, outcome = some[row[active]], outcome[active]
        for number, kind in enumerate(kinds):
            mine = self.column[of_term] == number
            _gather(self.effect[:, number], kind, outcome[mine], self.value[of_term[mine]])
            sure = np.flatnonzero((first < 0) & (self.column == number))
            _gather(self.root[:, number], kind, self.instance[sure], self.value[sure])

    # --- levels ----------------------------------------------------------------------------

    def _levels(self) -> Diagrams | None:
        kinds = [column.kind for column in self.columns]
        counts = np.bincount(self.of_factor, minlength=self.n)
        first = np.cumsum(counts) - counts
        asked, instance = self.fits.copy(), np.flatnonzero(self.fits)
        node, sums = np.arange(len(instance)), self.root[instance]
        n_nodes = n_roots = len(instance)
        levels, last, edges = [], [], 0
        for t in range(int(counts[instance].max(initial=0)) + 1):
            check()
            open_ = counts[instance] > t
            last.append((node[~open_], instance[~open_], sums[~open_]))
            node, instance, sums = node[open_], instance[open_], sums[open_]
            if not len(node):
                break
            factor = first[instance] + t
            work = np.bincount(instance, self.n_outcomes[factor], self.n)
            kept = cheapest(np.where(work > 0, work, np.inf), EDGES - edges)[instance]
            self.fits[instance[~kept]] = False      # go on without them, to see who else will not
            node, instance, sums, factor = node[kept], instance[kept], sums[kept], factor[kept]
            source, outcome = expand(self.first_outcome[factor], self.n_outcomes[factor])
            made = _added(kinds, sums[source], self.effect[outcome])
            of = instance[source]
            keys = _words(kinds, made)
            order = np.lexsort((*keys, of))
            new = heads(of[order], *(key[order] for key in keys))
            number = np.empty(len(order), np.int64)
            number[order] = np.cumsum(new) - 1
            chosen = order[new]
            many = np.bincount(of[chosen], minlength=self.n) > NODES
            self.fits[many] = False
            levels.append((node[source], n_nodes + number, outcome))
            edges += len(source)
            node, instance, sums = n_nodes + np.arange(len(chosen)), of[chosen], made[chosen]
            n_nodes += len(chosen)
            small = self.fits[instance]
            node, instance, sums = node[small], instance[small], sums[small]
        if (self.fits != asked).any():
            return None
        node, instance, sums = (np.concatenate(parts) for parts in zip(*last, strict=True))
        rests = np.flatnonzero(self.none[self.listed_of] > 0)
        paths = Paths(n_nodes, n_roots, self.outcomes, self.listed[rests], self.listed_of[rests],
                      levels)
        decided = self.literal, self.instance[self.term]
        return Diagrams(self.fits, paths, node, instance, sums, decided)


def _mark(of: np.ndarray, literals: np.ndarray, value: np.ndarray, n: int) -> np.ndarray:
    """(n,) uint64: equal for instances with the same terms, and but for chance for these alone."""
    odd = np.uint64(0x9E3779B97F4A7C15)
    mixed = np.ascontiguousarray(value, np.float64).view(np.uint64)
    for column in np.sort(literals, axis=1).T:
        mixed = (mixed ^ (mixed >> np.uint64(29)) ^ column.astype(np.uint64)) * odd
    mixed ^= mixed >> np.uint64(32)
    made = np.zeros(n, np.uint64)
    np.add.at(made, of, mixed)
    return made


def _words(kinds: list[str], sums: np.ndarray) -> list[np.ndarray]:
    """Columns that tell the rows of `sums` apart, the counts among them in one."""
    counted = [kind in ("count", "some") for kind in kinds]
    counts = [column.astype(np.int64) for column, is_count in zip(sums.T, counted, strict=True)
              if is_count]
    keys = [column for column, is_count in zip(sums.T, counted, strict=True) if not is_count]
    if counts:
        keys.append(combine(counts, [int(column.max(initial=0)) + 1 for column in counts]))
    return keys


def _gather(out: np.ndarray, kind: str, at: np.ndarray, value: np.ndarray) -> None:
    """Add values to a column's places `at`."""
    if kind in ("count", "sum"):
        out += np.bincount(at, value if kind == "sum" else None, len(out))
    elif kind == "some":
        out[at] = 1.0
    elif kind == "min":
        np.minimum.at(out, at, value)
    elif kind == "max":
        np.maximum.at(out, at, value)
    else:
        bits = out.astype(np.int64)
        np.bitwise_or.at(bits, at, np.int64(1) << value.astype(np.int64))
        out[:] = bits


def _added(kinds: list[str], one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N, columns) of two parts of a group together."""
    made = one + other
    for number, kind in enumerate(kinds):
        a, b = one[:, number], other[:, number]
        if kind == "min":
            made[:, number] = np.minimum(a, b)
        elif kind in ("max", "some"):
            made[:, number] = np.maximum(a, b)
        elif kind == "set":
            made[:, number] = a.astype(np.int64) | b.astype(np.int64)
    return made
