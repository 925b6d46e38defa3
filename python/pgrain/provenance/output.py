"""The circuit's output rows: as JSON, for a complaint's WHERE, and compared with PostgreSQL's."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np

from pgrain.errors import PgrainError
from pgrain.provenance.annotate import quote

RELATIVE = 1e-9
RELATIVE_PROBABILITY = 1e-5  # predict_proba shows float32; sums of its differences cancel
_RELATIVE_REAL = 1e-5        # PostgreSQL adds real in real
_INTEGERS = (20, 21, 23)
_NOT_READ = (705, 2249, 2287)     # unknown, record, record[]: no text can be read as one


def result_sql(text: str, n_columns: int) -> str:
    """The query `text` with each of its columns as text."""
    numbered = ", ".join(f"_pgrain_{i}" for i in range(n_columns))
    return ("SELECT " + ", ".join(f"_pgrain_{i}::pg_catalog.text" for i in range(n_columns))
            + f" FROM (\n{text}\n) AS _pgrain_result ({numbered})")


@dataclass(frozen=True)
class OutputColumn:
    """One column of the query's output."""

    name: str
    type_oid: int
    type_name: str
    model_dependent: bool
    numeric: bool
    role: str                # "constant", "group", "row", "label", "aggregate"
    tied: bool = False       # which of several equal texts it shows is PostgreSQL's to choose


@dataclass
class Output:
    """The output rows of one evaluation of the circuit, those that are absent included.

    Attributes
    ----------
    present : (G,) bool
        Whether the row is in the query's result (for `value`; for `relaxed`: more likely than not).
    weight : (G,) float64
        Rows that the group has (expected); probability of the row without aggregation.
    numbers : (G, C) float64
        Cells of aggregates and numeric labels, NaN for NULL and for all other columns.
    """

    columns: list[OutputColumn]
    key_columns: list[int]
    keys: list[list]
    present: np.ndarray
    weight: np.ndarray
    numbers: np.ndarray
    labels: dict[int, list]
    scales: np.ndarray
    hard: bool
    relative: float = RELATIVE      # how far a cell may be from PostgreSQL's
    possible: np.ndarray | None = None      # (G,) bool, rows that some classes have; None: all
    limited: bool = False           # rows are kept by their order, which may hold some equal

    def text(self, row: int, column: int) -> str | None:
        """The cell as text, None for NULL."""
        described = self.columns[column]
        if described.role in ("row", "group", "constant"):
            return self.keys[row][self.key_columns.index(column)]
        if described.role == "label" and column in self.labels:
            return self.labels[column][row]
        number = self.numbers[row, column]
        if math.isnan(number):
            return None
        if described.type_oid in _INTEGERS and (self.hard or float(number).is_integer()):
            return str(round(number))
        return repr(float(number))

    def json_rows(self, include_absent: bool = False) -> list[dict]:
        """The rows as objects, for `pgrain.provenance`; ``row`` numbers them from 1.

        Each is ``{"row": int, "present": bool, "output": {name: value}}``.
        """
        rows = []
        for row in self._rows(include_absent):
            output = {}
            for column, described in enumerate(self.columns):
                output[described.name] = _json_value(described.type_oid, self.text(row, column))
            rows.append({"row": row + 1, "present": bool(self.present[row]), "output": output})
        return rows

    def match_json(self, include_absent: bool = False, columns: Iterable[int] | None = None) -> str:
        """``$1`` of `match_sql`: cells as text, under the column's position; of all columns, or of
        those that the condition reads."""
        chosen = range(len(self.columns)) if columns is None else sorted(columns)
        return json.dumps([
            {"output_row": row} | {f"c{column}": self.text(row, column) for column in chosen}
            for row in self._rows(include_absent)])

    def match_sql(self, where: str) -> str:
        """See `match_sql`."""
        return match_sql(self.columns, where)

    def compare(self, result_rows) -> None:
        """PostgreSQL's own result (rows of ``result_sql``) has the same rows and cells.

        Raises
        ------
        PgrainError
            XX000, naming the row, the column and both values.
        """
        mine, theirs = defaultdict(list), defaultdict(list)
        keyed = [c for c, d in enumerate(self.columns) if d.role != "aggregate"]
        counted = [c for c, d in enumerate(self.columns) if d.role == "aggregate"]
        for row in np.flatnonzero(self.present).tolist():
            key = tuple(_normal(self.columns[c], self.text(row, c)) for c in keyed)
            mine[key].append(([self.numbers[row, c] for c in counted],
                              [self.scales[row, c] for c in counted]))
        for texts in result_rows:
            key = tuple(_normal(self.columns[c], texts[c]) for c in keyed)
            theirs[key].append([math.nan if texts[c] is None else float(texts[c])
                                for c in counted])
        self._same_group(mine, theirs, keyed)
        for key in theirs.keys() | mine.keys():
            if len(mine[key]) != len(theirs[key]):
                names = [self.columns[c].name for c in keyed]
                raise _differs(f"{len(mine[key])} rows {_describe(names, key)} by the circuit, "
                               f"{len(theirs[key])} by PostgreSQL", self.limited)
            cells = sorted(mine[key], key=lambda pair: _order(pair[0]))
            for (numbers, scales), expected in zip(cells, sorted(theirs[key], key=_order),
                                                   strict=True):
                for c, number, other, scale in zip(counted, numbers, expected, scales,
                                                   strict=True):
                    if not _close(number, other, scale, self.columns[c].type_oid,
                                  self.relative):
                        names = [self.columns[k].name for k in keyed]
                        raise _differs(
                            f'column "{self.columns[c].name}" of the row '
                            f"{_describe(names, key)} is {_show(number)} by the circuit, "
                            f"{_show(other)} by PostgreSQL")

    def _same_group(self, mine: dict, theirs: dict, keyed: list[int]) -> None:
        """Rows of groups that PostgreSQL holds equal may be named by another member of the group.

        So under a nondeterministic collation, or citext: 'Ulm' and 'ULM'. Names left over on both
        sides are paired if they differ in case, accents and blanks alone.
        """
        left, right = ({k for k in a if len(a[k]) != len(b.get(k, ()))}
                       for a, b in ((mine, theirs), (theirs, mine)))
        if not left or not right:
            return
        loose = defaultdict(list)
        for key in right:
            loose[self._loose(key, keyed)].append(key)
        for key in left:
            candidates = loose.get(self._loose(key, keyed), [])
            if len(candidates) == 1 and candidates[0] != key and not theirs.get(key):
                theirs[key] = theirs.pop(candidates.pop())

    def _loose(self, key: tuple, keyed: list[int]) -> tuple:
        return tuple(_fold_text(cell) if isinstance(cell, str)
                     and self.columns[c].role == "group" else cell
                     for c, cell in zip(keyed, key, strict=True))

    def _rows(self, include_absent: bool) -> list[int]:
        if not include_absent:
            return np.flatnonzero(self.present).tolist()
        return list(range(len(self.keys))) if self.possible is None else \
            np.flatnonzero(self.possible).tolist()


def match_sql(columns: list[OutputColumn], where: str) -> str:
    """SQL for the numbers of the output rows that meet `where`; ``$1`` is `Output.match_json`.

    Cells travel as text and are cast to the query's types, so that every type reads its own
    output. The end of line keeps a comment in `where` from swallowing the bracket.
    """
    counts = Counter()
    cells, names = [], []
    for number, column in enumerate(columns):
        counts[column.name] += 1
        cells.append(f"c{number} pg_catalog.text")
        cast = "" if column.type_oid in _NOT_READ else f"::{column.type_name}"
        names.append(f"c{number}{cast} AS {quote(column.name)}")
    return (f"SELECT _pgrain_row AS output_row FROM (SELECT output_row AS _pgrain_row, "
            f"{', '.join(names)} FROM pg_catalog.jsonb_to_recordset($1::pg_catalog.jsonb) AS "
            f"_pgrain_r (output_row pg_catalog.int4, {', '.join(cells)})) AS q\n"
            f"WHERE ({where}\n) ORDER BY 1")


def _json_value(oid: int, text: str | None):
    if text is None:
        return None
    if oid == 16:
        return text in ("true", "t")
    if oid in _INTEGERS:
        return int(text)
    if oid in (700, 701, 1700):
        try:
            number = float(text)
        except ValueError:
            return text
        return number if math.isfinite(number) else text
    if oid in (114, 3802):
        return json.loads(text)
    return text


def _normal(column: OutputColumn, text: str | None):
    """A key cell as it is compared: by value, for 1.0 and 1.00 may share a group, and either may
    name it; so may '1 day' and '24:00:00', or JSON numbers. A minimum under a collation that
    ignores case may be any of the texts that are equal to it."""
    if text is not None and column.type_oid == 1186:
        return _span(text)
    if text is not None and column.type_oid == 3802:
        return _frozen(json.loads(text, parse_float=Decimal, parse_int=Decimal))
    if text is None or not column.numeric:
        return _fold_text(text) if text is not None and column.tied else text
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    return number if number.is_finite() else text


_UNITS = {"year": 360, "mon": 30, "day": 1}
_CLOCK = re.compile(r"(-|\+)?(\d+):(\d\d):(\d\d(?:\.\d+)?)")


def _span(text: str):
    """An interval as PostgreSQL compares it: days of a month 30, hours of a day 24; in seconds.

    The text itself in any other style than IntervalStyle = postgres.
    """
    words, seconds = text.split(), Decimal(0)
    clock = _CLOCK.fullmatch(words[-1]) if words else None
    if clock:
        sign, hours, minutes, rest = clock.groups()
        amount = int(hours) * 3600 + int(minutes) * 60 + Decimal(rest)
        seconds += -amount if sign == "-" else amount
        words.pop()
    for number, unit in zip(words[::2], words[1::2], strict=False):
        days = _UNITS.get(unit.removesuffix("s"))
        if days is None or not re.fullmatch(r"[+-]?\d+", number):
            return text
        seconds += int(number) * days * 86400
    return text if len(words) % 2 else seconds


def _frozen(value):
    """A JSON value that can be compared and hashed."""
    if isinstance(value, dict):
        return "object", frozenset((name, _frozen(part)) for name, part in value.items())
    if isinstance(value, list):
        return "array", tuple(_frozen(part) for part in value)
    return type(value).__name__, value


def _fold_text(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text)
    return "".join(c for c in letters if not unicodedata.combining(c)).casefold().strip()


def _order(numbers) -> tuple:
    return tuple((1, 0.0) if math.isnan(x) else (0, float(f"{x:.9g}")) for x in numbers)


def _close(number: float, other: float, scale: float, oid: int, relative: float) -> bool:
    if math.isnan(number) or math.isnan(other):
        return math.isnan(number) and math.isnan(other)
    relative = max(relative, _RELATIVE_REAL if oid == 700 else 0.0)
    bound = relative * max(abs(number), abs(other))
    return abs(number - other) <= max(bound, 1e-3 * relative * scale)


def _describe(names, key) -> str:
    if not names:
        return "of the result"
    return "(" + ", ".join(f"{n} = {'NULL' if k is None else k}"
                           for n, k in zip(names, key, strict=True)) + ")"


def _show(number: float) -> str:
    return "NULL" if math.isnan(number) else f"{number:.12g}"


def _differs(detail: str, limited: bool = False) -> PgrainError:
    ties = ("Of rows that ORDER BY holds equal, LIMIT and DISTINCT ON keep which PostgreSQL likes: "
            "add columns to ORDER BY until it tells all rows apart. ") if limited else ""
    return PgrainError("the circuit differs from the query's own result",
                       detail=detail[0].upper() + detail[1:] + ".",
                       hint=f"{ties}If the data changed between the two, try again; "
                            "else please report the query.")
