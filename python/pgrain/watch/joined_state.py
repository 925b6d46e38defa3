"""The state of a watched join of predictions with predictions: sums of each side, by class.

With L[k, c] the sums of the rows of the left side that have the key k (the columns that meet) and
the class c, and R[k, c] those of the right side,

    cell = sum over k, c of  L[k, c] · R[k, c]               on classes, and on probabilities
           + sum over values v on both sides  l_v[c] · r_v[c] · (p_v[c] − p_v[c]²)
    V^T grad likewise, by the product rule; of the second sum (1 − 2 p_v[c]) V^T grad p_v[c]

where l_v[c] and r_v[c] are the weights of the rows that have the value v. The second sum is 0 on
classes. It is there because equal values are one variable: both have the class c with probability
p_v[c], not p_v[c]² (docs/dev/semantics.md, "Exact in expectation").

So the state has three parts: the sums of each side, as those of a watch of the side's query alone;
the weights of each value, on each side; and the second sum, by output row, kept up as values come
and go. None of them is made by joining the tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np

from pgrain.errors import LimitExceeded
from pgrain.provenance.lineage import Lineage
from pgrain.watch.joined_values import Meetings, Values, Weights
from pgrain.watch.plan import reading
from pgrain.watch.state import (
    State,
    Tally,
    atom_count,
    atoms_of,
    canonical,
    class_slopes,
    key_of,
    pack,
    tally,
    unpack,
)

MOST = 100_000               # sums by key and class, and values, of one side
MOST_NUMBERS = 4_000_000     # weights of one side: values x aggregates x classes
_PAIRS = 1_000_000           # of sums that are multiplied for one reading
_HINT = ("Join on columns with fewer values, let conditions choose fewer rows, or complain about "
         "the query itself.")


class JoinedState:
    """The state of one watch of a join; the same methods as `State`."""

    def __init__(self, sides=None, shared: State | None = None, values: Values | None = None,
                 meetings: Meetings | None = None):
        self.sides = sides or (State(), State())
        self.shared = shared or State()
        self.values = values or Values()
        self.meetings = meetings or Meetings()
        self._standing: State | None = None     # what `standing` has made of this

    # --- changes -----------------------------------------------------------------------------

    def take(self, kept: dict, side: int, lineage: Lineage, predicted: np.ndarray, P: np.ndarray,
             J: np.ndarray | None, sign: int) -> set[str]:
        """Add (+1) or take away (-1) rows of one side; the keys of what they touch.

        22023 where an outlier has gone and the state is to be computed anew; 54000 over a limit.
        """
        self._standing = None
        shape = kept["sides"][side]
        annotated = reading(shape)
        added, cells = tally(annotated, shape, lineage, predicted, P, J), self.sides[side].cells
        before = [key in cells for key in added.keys]
        touched = {f"{side}{key}" for key in self.sides[side].add(added, sign)}
        for key, texts, there in zip(added.keys, added.texts, before, strict=True):
            if (key in cells) != there:
                self._meets(kept, side, texts, -1 if there else 1)
        shared = _Shared(kept)
        for at, row, variable, weights in _weighed(kept, side, annotated, lineage):
            before = self.values.get(at).get(row)
            after = weights if before is None and sign == 1 else \
                (before or _nothing(weights)).plus(weights, sign)
            self.values.put(at, row, after if after.counts.any() else None)
            touched.add("v" + json.dumps([side, at[1], at[2].hex(), row]))
            others = self.values.get((1 - side, *at[1:]))
            if others:
                spread = _spread(variable, predicted, P, J, lineage.n_classes)
                for other in others.values():
                    shared.add(*((weights, other) if side == 0 else (other, weights)), spread)
        touched |= {"s" + key for key in self.shared.add(shared.tally(), sign)}
        _check_room(len(self.sides[side].cells), MOST)
        _check_room(self.values.counts[side], _most_values(shape, lineage.n_classes))
        return touched

    def _meets(self, kept: dict, side: int, texts: list, by: int) -> None:
        met = _met(kept, side, texts, predictions=True)
        if met is not None:
            self.meetings.add(side, met, by)

    def copy(self) -> JoinedState:
        """A state that can be added to without changing this one."""
        return JoinedState(tuple(side.copy() for side in self.sides), self.shared.copy(),
                           self.values.copy(), self.meetings.copy())

    @property
    def bytes(self) -> int:
        """About how much memory it takes."""
        some = next(iter(self.values.items()), None)
        one = 0 if some is None else 600 + 2 * next(iter(some[1].values())).sums.nbytes
        parts = [*self.sides, self.shared, *filter(None, [self._standing])]
        return sum(part.bytes for part in parts) + one * sum(self.values.counts)

    # --- as rows of pgrain.watch_cell ----------------------------------------------------------

    def rows(self, keys: Iterable[str] | None = None) -> dict[str, tuple[str, bytes]]:
        """key -> (texts, data) of what is there, all of it or of these keys."""
        if keys is None:
            keys = [f"{side}{key}" for side in (0, 1) for key in self.sides[side].cells]
            keys += ["s" + key for key in self.shared.cells]
            keys += ["v" + json.dumps([at[0], at[1], at[2].hex(), row])
                     for at, found in self.values.items() for row in found]
        made = {}
        for key in keys:
            if key[0] != "v":
                cells = (self.shared if key[0] == "s" else self.sides[int(key[0])]).cells
                if key[1:] in cells:
                    made[key] = pack(cells[key[1:]])
                continue
            side, met, digest, row = json.loads(key[1:])
            found = self.values.get((side, met, bytes.fromhex(digest))).get(row)
            if found is not None:
                made[key] = json.dumps(found.texts), (found.counts.astype("<i8").tobytes()
                                                      + found.sums.astype("<f8").tobytes())
        return made

    @staticmethod
    def loaded(rows: Iterable[tuple[str, str, bytes]], kept: dict) -> JoinedState:
        """The state whose `rows` these (key, texts, data) are."""
        made = JoinedState()
        for key, texts, data in rows:
            if key[0] == "s":
                made.shared.cells[key[1:]] = unpack(texts, data, len(kept["atoms"]))
                continue
            if key[0] != "v":
                side = int(key[0])
                cell = made.sides[side].cells[key[1:]] = unpack(
                    texts, data, atom_count(kept["sides"][side]))
                made._meets(kept, side, cell[0], 1)
                continue
            side, met, digest, row = json.loads(key[1:])
            shape = atom_count(kept["sides"][side]), len(kept["classes"])
            n = shape[0] * shape[1]
            made.values.put(
                (side, met, bytes.fromhex(digest)), row,
                Weights(json.loads(texts), np.frombuffer(data, "<i8", n).reshape(shape).astype(
                    np.int64), np.frombuffer(data, "<f8", n, 8 * n).reshape(shape).astype(float)))
        return made

    # --- reading -------------------------------------------------------------------------------

    @property
    def too_large(self) -> str | None:
        """Why these sums are not multiplied, as a sentence's end; None where they are."""
        if self.meetings.pairs <= _PAIRS:
            return None
        return (f"the watch of a join would multiply {self.meetings.pairs:,} pairs of sums, of at "
                f"most {_PAIRS:,}")

    def standing(self, kept: dict) -> State:
        """The cells of the output, as those of a watch of one table; to be read alone. Made once;
        54000 where that takes too many products."""
        if self.too_large:
            raise LimitExceeded(self.too_large, hint=_HINT)
        if self._standing is None:
            self._standing = self._multiplied(kept)
        return self._standing

    def _multiplied(self, kept: dict) -> State:
        parts = [_Part(state, kept, side) for side, state in enumerate(self.sides)]
        first, second = _meeting(*parts)
        keys: dict[str, int] = {}
        texts, number = [], np.empty(len(first), np.int64)
        known: dict[tuple[int, int], int] = {}
        rows = (parts[0].row[first], parts[1].row[second])
        for place, pair in enumerate(zip(rows[0].tolist(), rows[1].tolist(), strict=True)):
            if pair not in known:
                row = _shown(kept, parts[0].texts[pair[0]], parts[1].texts[pair[1]])
                key = key_of(row, kept)
                if key not in keys:
                    keys[key] = len(texts)
                    texts.append(row)
                known[pair] = keys[key]
            number[place] = known[pair]
        depth = max((part.sums.shape[2] for part in parts), default=2)
        counts = np.zeros((len(texts), len(kept["atoms"])), np.int64)
        sums = np.zeros((len(texts), len(kept["atoms"]), depth))
        for start in range(0, len(first), 1 << 14):
            some = slice(start, start + (1 << 14))
            i, j, to = first[some], second[some], number[some]
            for atom, (a, b) in enumerate(kept["atoms"]):
                left, right = parts[0].sums[i, a], parts[1].sums[j, b]
                product = np.empty((len(i), depth))
                product[:, :2] = left[:, :2] * right[:, :2]
                product[:, 2:] = left[:, 2:] * right[:, 1:2] + left[:, 1:2] * right[:, 2:]
                np.add.at(sums[:, atom], to, product)
                np.add.at(counts[:, atom], to, parts[0].counts[i, a] * parts[1].counts[j, b])
        made = State()
        for key, place in keys.items():
            total = sums[place]
            if key in self.shared.cells:
                total = total + self.shared.cells[key][2]
            made.cells[key] = texts[place], counts[place], total
        return made


def state_of(kept: dict) -> type:
    """The kind of state that a watch of this shape has."""
    return JoinedState if "sides" in kept else State


def side_of(kept: dict, side: int) -> dict:
    """The shape of the query that notes a change of one side."""
    return kept["sides"][side] if "sides" in kept else kept


# --- limits ------------------------------------------------------------------------------------

def _most_values(shape: dict, n_classes: int) -> int:
    """How many values of one side may be kept."""
    return min(MOST, MOST_NUMBERS // (atom_count(shape) * n_classes))


def _check_room(wanted: int, most: int) -> None:
    if wanted > most:
        raise LimitExceeded(f"the watch of a join would keep {wanted:,} sums of one table, of at "
                            f"most {most:,}", hint=_HINT)


# --- rows by value -----------------------------------------------------------------------------

def _weighed(kept: dict, side: int, annotated, lineage: Lineage) -> Iterable[tuple]:
    """(place among `Values`, row of the output, variable, `Weights`) of what rows of a side have.

    What meets nothing (a NULL among the columns that meet, or for a prediction) is left out.
    """
    shape, rows = kept["sides"][side], lineage.sides[0]
    digests = lineage.digests[shape["model"]]
    n_variables, n_classes = lineage.n_variables, lineage.n_classes
    atoms = atoms_of(annotated, lineage)
    places, of_group = [], np.full(len(lineage.texts), -1, np.int64)
    known: dict[tuple[str, str], int] = {}
    columns = [column for its, column in kept["shown"] if its == side]
    for group, texts in enumerate(lineage.texts):
        met = _met(kept, side, texts)
        if met is None:
            continue
        shown = [texts[column] for column in columns]
        row = json.dumps([canonical(text, shape["columns"][column]["type_oid"])
                          for text, column in zip(shown, columns, strict=True)])
        if (met, row) not in known:
            known[met, row] = len(places)
            places.append((met, row, shown))
        of_group[group] = known[met, row]
    there = np.flatnonzero(rows.variables[0] < n_variables)
    pairs, of_pair = np.unique(rows.factor[there] * n_variables + rows.variables[0][there],
                               return_inverse=True)
    weights = {w: rows.weights[w][there] for atom in atoms for w in atom[:2]}
    sums = {w: np.bincount(of_pair, some, len(pairs)) for w, some in weights.items()}
    some = {w: np.bincount(of_pair, its != 0, len(pairs)) for w, its in weights.items()}
    # Each of these with each class that passes: entries of the same factor.
    entries = np.flatnonzero((lineage.entries[:, 1] < n_classes)
                             & (of_group[lineage.group_of_entry] >= 0))
    entries = entries[np.argsort(lineage.entries[entries, 0], kind="stable")]
    factors = lineage.entries[entries, 0]
    first = np.searchsorted(factors, pairs // n_variables, "left")
    n = np.searchsorted(factors, pairs // n_variables, "right") - first
    pair = np.repeat(np.arange(len(pairs)), n)
    entry = entries[np.repeat(first, n) + np.arange(len(pair)) - np.repeat(np.cumsum(n) - n, n)]
    place = of_group[lineage.group_of_entry[entry]]
    codes, to = np.unique(place * n_variables + pairs[pair] % n_variables, return_inverse=True)
    _check_room(len(codes), _most_values(shape, n_classes))     # each is there before, or after
    shaped = (len(codes), len(atoms), n_classes)
    counts, totals = np.zeros(shaped, np.int64), np.zeros(shaped)
    classes = lineage.entries[entry, 1]
    for atom, (counted, weighted, per_entry, flags) in enumerate(atoms):
        np.add.at(counts, (to, atom, classes),
                  (flags[entry] * some[counted][pair]).astype(np.int64))
        np.add.at(totals, (to, atom, classes), per_entry[entry] * sums[weighted][pair])
    for number, code in enumerate(codes.tolist()):
        met, row, shown = places[code // n_variables]
        variable = code % n_variables
        yield ((side, met, digests[variable].tobytes()), row, variable,
               Weights(shown, counts[number], totals[number]))


def _met(kept: dict, side: int, texts: list, predictions: bool = False) -> str | None:
    """The name of what meets, of a group of one side; None where that is NULL. The prediction
    itself is the first of it."""
    columns = [pair[side] for pair in kept["meet"]]
    if any(texts[column] is None for column in columns):
        return None
    described = kept["sides"][side]["columns"]
    return json.dumps([canonical(texts[column], described[column]["type_oid"])
                       for column in columns[0 if predictions else 1:]])


def _nothing(weights: Weights) -> Weights:
    return Weights(weights.texts, np.zeros_like(weights.counts), np.zeros_like(weights.sums))


def _spread(variable: int, predicted, P, J, n_classes: int) -> np.ndarray:
    """(R, 2 + m): 0, p − p², and (1 − 2p) V^T grad p, of each class of one variable."""
    made = class_slopes(np.array([variable]), predicted, P, J, n_classes)[0, :-1]
    p = made[:, 1:2].copy()
    made[:, 0] = 0.0
    made[:, 1:2] = p - p * p
    made[:, 2:] *= 1.0 - 2.0 * p
    return made


class _Shared:
    """What values on both sides add to the second sum, by output row."""

    def __init__(self, kept: dict):
        self._kept, self._found = kept, {}
        self._atoms = np.array(kept["atoms"])

    def add(self, left: Weights, right: Weights, spread: np.ndarray) -> None:
        texts = _shown(self._kept, left.texts, right.texts)
        key = key_of(texts, self._kept)
        a, b = self._atoms.T
        product = left.sums[a] * right.sums[b]
        found = ((left.counts[a] * right.counts[b]).sum(axis=1), product @ spread,
                 np.abs(product) @ spread[:, :2])
        known = self._found.get(key)
        if known is not None:
            found = tuple(some + more for some, more in zip(found, known[1], strict=True))
        self._found[key] = texts, found

    def tally(self) -> Tally:
        """All of it."""
        found = list(self._found.values())
        return Tally(list(self._found), [texts for texts, _ in found],
                     *(np.array([part[number] for _, part in found]) for number in range(3)))


# --- products of sums ----------------------------------------------------------------------------

def _shown(kept: dict, left: list, right: list) -> list:
    """Texts of an output row's columns that are no aggregates, out of those of its sides."""
    parts = (iter(left), iter(right))
    return [next(parts[side]) for side, _ in kept["shown"]]


class _Part:
    """The sums of one side as arrays: counts (n, A), sums (n, A, 2 + m); met: the name of what
    meets of each; row: number of each among texts, those of the output's columns."""

    def __init__(self, state: State, kept: dict, side: int):
        columns = [column for its, column in kept["shown"] if its == side]
        atoms = atom_count(kept["sides"][side])
        cells, self.met, rows, self.texts = [], [], [], []
        known: dict[str, int] = {}
        for cell in state.cells.values():
            met = _met(kept, side, cell[0], predictions=True)
            if met is None or not cell[1].any():
                continue
            texts = [cell[0][column] for column in columns]
            name = json.dumps(texts)
            if name not in known:
                known[name] = len(self.texts)
                self.texts.append(texts)
            cells.append(cell)
            self.met.append(met)
            rows.append(known[name])
        self.row = np.array(rows, np.int64)
        self.counts = np.array([cell[1] for cell in cells], np.int64).reshape(len(cells), atoms)
        self.sums = np.array([cell[2] for cell in cells]) if cells else np.zeros((0, atoms, 2))


def _meeting(left: _Part, right: _Part) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the sums of both sides that meet."""
    number = {met: place for place, met in enumerate(dict.fromkeys(right.met))}
    of_right = np.array([number[met] for met in right.met], np.int64)
    of_left = np.array([number.get(met, -1) for met in left.met], np.int64)
    order = np.argsort(of_right, kind="stable")
    met = of_right[order]
    begins = np.searchsorted(met, of_left, "left")
    n = np.searchsorted(met, of_left, "right") - begins
    first = np.repeat(np.arange(len(of_left)), n)
    second = order[np.repeat(begins, n) + np.arange(len(first)) - np.repeat(np.cumsum(n) - n, n)]
    return first, second
