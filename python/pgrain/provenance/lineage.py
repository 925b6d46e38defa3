"""Packed lineage: the bytes of a capture as numpy arrays (layout: `capture_sql`)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np

from pgrain import settings
from pgrain.errors import PgrainError, UnsupportedOperator
from pgrain.provenance.annotate import Annotated
from pgrain.provenance.capture_sql import BREAK, NULL_FLOAT
from pgrain.wire.identity import DIGEST_BYTES

_TENS = 10.0 ** np.arange(23)
_HINTS = {
    "factor_pairs": "Join on columns with fewer matches, or filter the inputs first.",
    "base_rows": "Filter the inputs first, or join on columns.",
    "assignments": "Let expressions that call the model use columns with fewer distinct values.",
    "output_rows": "Filter the rows, or aggregate.",
}


@dataclass
class SideRows:
    """The base rows of one side, factor after factor."""

    starts: np.ndarray            # (F,) first row of each factor
    factor: np.ndarray            # (N,) factor of each row
    pattern: np.ndarray           # (F,) pattern of each factor
    variables: list[np.ndarray]   # per slot of the side: (N,) variable, V where NULL
    weights: list[np.ndarray]     # (N,) float64; the first is all ones
    flag_weight: list[int] = field(default_factory=list)    # of each measure
    value_weight: list[int] = field(default_factory=list)   # of each measure, or flag_weight


@dataclass
class Lineage:
    """What the circuit is made of.

    Attributes
    ----------
    digests : dict
        Model name -> (V, 16) uint8, the distinct feature values in ascending order.
    entries : (E, 1 + slots) int64
        Pattern and class of each slot; class R stands for NULL.
    group_of_entry : (E,) int64
    """

    n_classes: int
    digests: dict[str, np.ndarray]
    n_variables: int
    sides: list[SideRows]
    entries: np.ndarray
    group_of_entry: np.ndarray
    flags: np.ndarray                        # (E, aggregates) bool
    values: dict[int, np.ndarray]            # cell -> (E,) float64
    texts: list[list]                        # of each group or row: texts of its columns
    labels: list[list]                       # by row: texts of each entry's labels
    pairs: tuple | None                      # factors of side 0 and 1 that join, None: all do
    joint: tuple | None                      # patterns of side 0 and 1 of each joint pattern


def _array(data: bytes | None, dtype: str) -> np.ndarray:
    return np.frombuffer(bytes(data) if data is not None else b"", dtype=dtype)


def _int32(data) -> np.ndarray:
    return _array(data, ">i4").astype(np.int64)


@dataclass(frozen=True)
class Numbered:
    """In place of a capture's digests: which of some digests each row has.

    distinct: (D, 16) uint8, ascending, perhaps more than are used; numbers: (N,) among them; there:
    (N,) bool, which rows have one at all, None: all.
    """

    distinct: np.ndarray
    numbers: np.ndarray
    there: np.ndarray | None = None

    def used(self) -> tuple[np.ndarray, np.ndarray]:
        """As `number_digests` of the digests of those rows that have one."""
        numbers = self.numbers if self.there is None else self.numbers[self.there]
        seen = np.zeros(len(self.distinct), bool)
        seen[numbers] = True
        if seen.all():
            return self.distinct, numbers.astype(np.int64)
        return self.distinct[seen], (np.cumsum(seen) - 1).take(numbers)

    def digests(self) -> np.ndarray:
        """(N, 16) uint8, zeros for a row that has none."""
        if not len(self.distinct):
            return np.zeros((len(self.numbers), DIGEST_BYTES), np.uint8)
        digests = self.distinct.take(self.numbers, axis=0)
        if self.there is not None:
            digests[~self.there] = 0
        return digests


def digest_rows(data) -> np.ndarray:
    """(N, 16) uint8 of a capture's digests, bytes or `Numbered`."""
    if isinstance(data, Numbered):
        return data.digests()
    return _array(data, np.uint8).reshape(-1, DIGEST_BYTES)


def number_digests(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct digests (V, 16), the number of each row's digest) of (N, 16) bytes.

    Sorted by the first eight bytes alone: those of a keyed digest do not collide by chance; where
    they do all the same, both halves are sorted.
    """
    halves = np.ascontiguousarray(digests).view(">u8").reshape(-1, 2).astype(np.uint64)
    if not len(halves):
        return digests.reshape(0, DIGEST_BYTES), np.zeros(0, np.int64)
    first, second = np.ascontiguousarray(halves.T)
    order = np.argsort(first)
    first, second = first[order], second[order]
    new = first[1:] != first[:-1]
    if (~new & (second[1:] != second[:-1])).any():
        order = np.lexsort((halves[:, 1], halves[:, 0]))
        new = (halves[order[1:]] != halves[order[:-1]]).any(axis=1)
    begins = np.concatenate(([True], new))
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(begins) - 1
    return digests[order[begins]], numbers


def read_lineage(annotated: Annotated, n_classes: int, rows) -> Lineage:
    """The lineage in the rows (tag, meta, a, b, c) of a capture; 54000 over a limit."""
    table = {}
    for tag, meta, a, b, c in rows:
        if tag == "size":
            count = int(_array(a, ">i8")[0]) if a is not None else 0
            limit = settings.FACTOR_PAIRS if meta == "base_rows" else settings.ALL[meta]
            limit.limit(count, hint=_HINTS[meta])
        else:
            table[tag] = (meta, a, b, c)
    slots = annotated.slots
    try:
        digests, of_slot = _numbered([table[f"digest:{s.index}"][1] for s in slots])
        read = _read_rows if annotated.by_row else _read_groups
        lineage = read(annotated, n_classes, table, digests, of_slot)
    except (KeyError, ValueError, IndexError) as error:
        raise PgrainError("the capture came back in an unknown layout", detail=str(error)) from None
    settings.OUTPUT_ROWS.limit(len(lineage.texts), hint=_HINTS["output_rows"])
    return lineage


def _numbered(parts: list) -> tuple[np.ndarray, list[np.ndarray]]:
    """(distinct digests (V, 16), the number of each row's digest, for each part)."""
    if len(parts) == 1 and isinstance(parts[0], Numbered):
        digests, numbers = parts[0].used()
        return digests, [numbers]
    parts = [digest_rows(part) for part in parts]
    digests, numbers = number_digests(np.concatenate(parts))
    return digests, np.split(numbers, np.cumsum([len(part) for part in parts])[:-1])


def _read_groups(annotated, n_classes, table, digests, of_slot) -> Lineage:
    sides = []
    for number, side in enumerate(annotated.sides):
        _, counts, patterns, nulls = table[f"factor:{number}"]
        counts = _int32(counts)
        nulls = _array(nulls, np.uint8).astype(bool).reshape(len(counts), len(side.slots))
        factor = np.repeat(np.arange(len(counts)), counts)
        rows = SideRows(np.cumsum(counts) - counts, factor, _int32(patterns),
                        _variables(side.slots, nulls[factor], of_slot, len(digests)),
                        [np.ones(len(factor))])
        for m, measure in enumerate(side.measures):
            flags = table[f"measure:{number}:{m}"][1]
            if measure.value:
                values = (read_numerics if table[f"measure:{number}:{m}"][0] == "numeric" else
                          read_floats)(flags)
                if values is None:
                    raise _not_finite()
                flags = ~np.isnan(values)
            else:
                flags = _array(flags, np.uint8)
            if len(flags) != len(factor):
                raise ValueError("measures do not fit their rows")
            if flags.all():         # as the rows themselves
                rows.flag_weight.append(0)
            else:
                rows.flag_weight.append(len(rows.weights))
                rows.weights.append(flags.astype(np.float64))
            if measure.value:
                rows.weights.append(np.where(flags, values, 0.0))
                rows.value_weight.append(len(rows.weights) - 1)
            else:
                rows.value_weight.append(rows.flag_weight[-1])
        sides.append(rows)
    meta, counts, codes, flags = table["group"]
    counts = _int32(counts)
    entries = _int32(codes).reshape(-1, 1 + len(annotated.slots))
    aggregates = sum(cell.role == "aggregate" for cell in annotated.cells)
    values = {}
    for j, cell in enumerate(annotated.cells):
        if cell.value:
            values[j] = _array(table[f"value:{j}"][1], ">f8").astype(np.float64)
            _finite(values[j])
    pairs = joint = None
    if len(sides) == 2:
        joint = (_int32(table["pattern"][1]), _int32(table["pattern"][2]))
        if annotated.cross:
            pairs = (_int32(table["pair"][1]), _int32(table["pair"][2]))
    # PostgreSQL's hashing gives the groups in no order that a person would know again.
    texts = json.loads(meta or "[]")
    order = sorted(range(len(texts)), key=lambda g: [sortable(text) for text in texts[g]])
    rank = np.empty(len(texts), np.int64)
    rank[order] = np.arange(len(texts))
    return Lineage(n_classes, {annotated.slots[0].model: digests}, len(digests), sides, entries,
                   np.repeat(rank, counts),
                   _array(flags, np.uint8).astype(bool).reshape(len(entries), aggregates),
                   values, [texts[g] for g in order], [], pairs, joint)


def _read_rows(annotated, n_classes, table, digests, of_slot) -> Lineage:
    side = annotated.sides[0]
    meta, patterns, nulls, _ = table["row"]
    patterns = _int32(patterns)
    nulls = _array(nulls, np.uint8).astype(bool).reshape(len(patterns), len(side.slots))
    rows = SideRows(np.arange(len(patterns)), np.arange(len(patterns)), patterns,
                    _variables(side.slots, nulls, of_slot, len(digests)),
                    [np.ones(len(patterns))])
    labels, codes, _, _ = table["entry"]
    entries = _int32(codes).reshape(-1, 1 + len(annotated.slots))
    return Lineage(n_classes, {annotated.slots[0].model: digests}, len(digests), [rows], entries,
                   np.zeros(len(entries), np.int64), np.zeros((len(entries), 0), bool), {},
                   json.loads(meta or "[]"), json.loads(labels or "[]"), None, None)


def sortable(text: str | None) -> tuple:
    """Numbers by value, then texts, NULL last, as a person would sort."""
    if text is None:
        return (2, 0.0, "")
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def _variables(slots, nulls, of_slot, n_variables) -> list[np.ndarray]:
    variables = []
    for number, slot in enumerate(slots):
        variable = np.full(len(nulls), n_variables, np.int64)
        variable[~nulls[:, number]] = of_slot[slot.index]
        variables.append(variable)
    return variables


def read_floats(data: bytes | None) -> np.ndarray | None:
    """(n,) float64, NaN for NULL (`capture_sql.packed_floats`). None if NaN or an infinity of the
    user's is among them.
    """
    values = _array(data, ">f8").astype(np.float64)
    finite = np.isfinite(values)
    if finite.all() or (finite | (_array(data, ">u8") == NULL_FLOAT)).all():
        return values
    return None


def read_numerics(data: bytes | None) -> np.ndarray | None:
    """(n,) float64, NaN for NULL, of numerics (`capture_sql.packed_numerics`), rounded as their
    text would be. None if NaN or an infinity of the user's is among them; 0A000 if one is greater
    than float8 holds.

    A numeric is how many digits it has to the base of 10 000, the power that the first stands for,
    its sign, its scale in decimals, and the digits.
    """
    words = _array(data, ">u2").astype(np.uint16)
    if not len(words):
        return np.zeros(0)
    ends = np.append(np.flatnonzero(words == int(BREAK, 16)), len(words))
    starts = np.append(0, ends[:-1] + 1)
    size, sign = ends - starts - 4, words[np.minimum(starts + 2, len(words) - 1)]
    if (size < 0).any() or (words[starts] != size).any():
        raise ValueError("numerics of another layout")
    null, minus = sign == 0xFFFF, sign == 0x4000
    if (~null & ~minus & (sign != 0)).any():
        return None
    # Whole numbers up to 2^53, and powers of ten up to 22, are exact: one division, rounded once.
    decimals = -4 * (words[starts + 1].view(np.int16).astype(np.int64) + 1 - size)
    other = np.flatnonzero((size > 3) | (np.abs(decimals) > 22))
    whole = np.where(size > 0, words[np.minimum(starts + 4, len(words) - 1)], 0.0)
    for place in range(1, min(int(size.max()), 3)):
        there = np.flatnonzero(size > place)
        whole[there] = whole[there] * 10_000 + words[starts[there] + 4 + place]
    scale = _TENS[np.minimum(np.abs(decimals), 22)]
    values = whole / scale if (decimals >= 0).all() else \
        np.where(decimals >= 0, whole / scale, whole * scale)
    for row in other.tolist():
        digits = words[starts[row] + 4:ends[row]]
        values[row] = float("".join(f"{digit:04d}" for digit in digits) + f"e{-decimals[row]}")
    values[null] = np.nan
    values[minus] *= -1.0
    if np.isinf(values).any():
        raise UnsupportedOperator(
            "a number that is out of range has no provenance",
            detail="It is greater than what double precision holds.",
            hint="If the query itself runs, filter such numbers out, or divide them.")
    return values


def _finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise _not_finite()


def _not_finite() -> UnsupportedOperator:
    return UnsupportedOperator("an aggregate over NaN or infinity has no provenance yet",
                               hint="Filter such values out.")
