"""Columns of a table as conditions: a number may be cut anywhere, a category equals or not, a text
has a word or not. Each condition knows how it is written in SQL.

The SQL of a column (`Column.sql`) is what PostgreSQL evaluated for the values here, so a condition
means the same there, but for NaN and for texts that were cut.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

MOST_CATEGORIES = 40
MOST_WORDS = 200
WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass
class Column:
    """One column or derived value. kind: "number", "category" or "text"; values: one a row, None
    for null; literal: "plain" or the type that a number is written as ("date", "timestamp",
    "timestamptz": seconds since 1970). of: the SQL of the text whose length this is, which says
    nothing that the text does not where that is a category."""

    sql: str
    kind: str
    values: Sequence
    literal: str = "plain"
    of: str | None = None


@dataclass
class Feature:
    """A column of numbers (N,) that a tree may split, and how a split is written.

    column: which of the described columns it is; sorted: of a number, its different values in
    ascending order, of which `data` holds the positions (float32 trees split those exactly).
    """

    column: int
    data: np.ndarray
    low: str
    high: str
    sorted: np.ndarray | None = None
    literal: str = "plain"

    def write(self, upper: bool, threshold: float) -> str:
        """The SQL of `data > threshold` (upper) or `data <= threshold`."""
        if self.sorted is None:
            return self.high if upper else self.low
        at = min(max(math.floor(threshold), 0), len(self.sorted) - 2)
        cut = shortest(float(self.sorted[at]), float(self.sorted[at + 1]), self.literal)
        return f"{self.low} {'>' if upper else '<='} {cut}"


def features(columns: Sequence[Column], suspect: np.ndarray) -> list[Feature]:
    """All that a tree may split. suspect: (N,) bool; it chooses the categories and words."""
    found = []
    categories = {column.sql for column in columns if column.kind == "category"
                  or column.kind == "text" and len(set(column.values)) <= MOST_CATEGORIES}
    for number, column in enumerate(columns):
        if column.of in categories:
            continue
        null = np.array([value is None for value in column.values])
        if null.any() and not null.all():
            found.append(Feature(number, null.astype(np.float32), f"{column.sql} IS NOT NULL",
                                 f"{column.sql} IS NULL"))
        if null.all():
            continue
        if column.kind == "number":
            found += _number(number, column, null)
        elif column.sql in categories:
            found += _categories(number, column, suspect)
        else:
            found += _words(number, column, suspect)
    return found


def shortest(low: float, high: float, literal: str = "plain") -> str:
    """The shortest number c with low <= c < high, as SQL; for times, the whole seconds."""
    if literal != "plain":
        if low == -math.inf:
            low = high - 86400.0
        whole = math.floor(high) if math.isfinite(high) else math.inf
        return _time(whole if low <= whole < high else low, literal)
    if low == -math.inf:
        low = max(high - max(1.0, abs(high)), -sys.float_info.max)
    elif high == math.inf:
        high = low + max(1.0, abs(low))
    for digits in range(-15, 18):
        scale = 10.0 ** digits
        if not math.isfinite(low * scale):
            break
        number = math.ceil(low * scale) / scale
        if low <= number < high:
            return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    return repr(low)


def _time(seconds: float, literal: str) -> str:
    """Seconds since 1970 as a constant of a type, also in years that only PostgreSQL has."""
    try:
        at = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError):
        if literal == "date":
            return f"('1970-01-01'::date + {math.floor(seconds / 86400)})"
        zone = "+00" if literal == "timestamptz" else ""
        return f"('1970-01-01 00:00:00{zone}'::{literal} + make_interval(secs => {seconds!r}))"
    if literal == "date":
        return f"'{at.date().isoformat()}'::date"
    text = at.replace(tzinfo=None).isoformat(" ", "microseconds")     # strftime pads no years
    return f"'{text}{'+00' if literal == 'timestamptz' else ''}'::{literal}"


def literal(text: str) -> str:
    """A string constant, whatever standard_conforming_strings says."""
    quoted = "'" + text.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def _number(number: int, column: Column, null: np.ndarray) -> list[Feature]:
    data = np.array([np.nan if value is None else float(value) for value in column.values])
    data[np.isnan(data) & ~null] = np.inf      # PostgreSQL sorts NaN last
    values, place = np.unique(data[~null], return_inverse=True)
    if len(values) < 2:
        return []
    ranks = np.full(len(data), float(np.median(place)), np.float32)
    ranks[~null] = place
    return [Feature(number, ranks, column.sql, column.sql, values, column.literal)]


def _categories(number: int, column: Column, suspect: np.ndarray) -> list[Feature]:
    counts = Counter(value for value, there in zip(column.values, suspect, strict=True)
                     if there and value is not None)
    values = set(column.values)
    if len(values) < 2:
        return []
    found = []
    for value, _ in counts.most_common(MOST_CATEGORIES):
        same = np.array([other == value for other in column.values], np.float32)
        if isinstance(value, bool):
            high, low = (f"{column.sql}", f"NOT {column.sql}") if value else (
                f"NOT {column.sql}", f"{column.sql}")
        else:
            high = f"{column.sql} = {literal(value)}"
            low = f"{column.sql} IS DISTINCT FROM {literal(value)}"
            if len(values) == 2 and None not in values:
                low = f"{column.sql} = {literal(next(iter(values - {value})))}"
        found.append(Feature(number, same, low, high))
    return found


def _words(number: int, column: Column, suspect: np.ndarray) -> list[Feature]:
    """Words that at least 5 % of the suspects have, most telling first."""
    texts = [set(WORD.findall(value.lower())) if value else set() for value in column.values]
    inside = Counter(word for words, there in zip(texts, suspect, strict=True) if there
                     for word in words)
    least = max(3, 0.05 * suspect.sum())
    every = Counter(word for words in texts for word in words if inside[word] >= least)
    rate, n = suspect.sum(), len(texts)
    told = sorted(every, key=lambda word: (
        -abs(math.log((inside[word] + 0.5) / (every[word] + 1) * n / rate)) * inside[word] ** 0.5,
        word))
    found = []
    for word in told[:MOST_WORDS]:
        pattern = literal(rf"\m{word}\M")
        found.append(Feature(number, np.array([word in words for words in texts], np.float32),
                             f"{column.sql} !~* {pattern}", f"{column.sql} ~* {pattern}"))
    return found
