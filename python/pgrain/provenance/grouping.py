"""How a column is grouped without losing anything that PostgreSQL could tell apart.

Patterns are made by GROUP BY, but equal values may differ: 1.0 and 1.00, -0 and 0, texts under a
nondeterministic collation. A pattern must not mix them, for an expression may see the difference.
"""

from __future__ import annotations

import re

# bool, bytea, char, name, int8, int2, int4, oid, date, time, timestamp, timestamptz, uuid
_EXACT = {16, 17, 18, 19, 20, 21, 23, 26, 1082, 1083, 1114, 1184, 2950}
_TEXT = {25, 1043}
# numeric, float4, float8, interval, timetz, jsonb
_EQUAL_BUT_DISTINCT = {1700, 700, 701, 1186, 1266, 3802}


def known_type(oid: int) -> bool:
    """Whether the representative of a group is the value itself, or of a type that fits an array.

    array_agg of arrays makes one array of more dimensions, whose first element is none of them.
    """
    return oid in _EXACT or oid in _TEXT or oid in _EQUAL_BUT_DISTINCT or oid in (114, 142, 600)


def equal_is_same(oid: int, exact: bool) -> bool:
    """Whether nothing tells equal values of a type apart; exact: see `group_terms`."""
    return oid in _EXACT or exact and oid in _TEXT


def group_terms(sql: str, oid: int, exact: bool = False) -> list[str]:
    """Terms for GROUP BY and ORDER BY that tell apart whatever can be told apart.

    exact: no collation takes different texts for equal.
    """
    as_text = f'({sql})::pg_catalog.text COLLATE "C"'
    if oid in _EXACT or exact and oid in _TEXT:
        return [sql]
    if oid in _TEXT:
        return [sql, f'({sql}) COLLATE "C"']
    if oid in _EQUAL_BUT_DISTINCT:
        return [sql, as_text]
    return [as_text]


_INTEGER = re.compile(r"[+-]?(\d[\d_]*|0[xX][\da-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+)")
_NUMBER = re.compile(r"[+-]?((\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][+-]?\d+)?|nan|inf|infinity|"
                     r"0[xXoObB][\da-fA-F_]+)", re.IGNORECASE)
_SPELLED = {"int": _INTEGER, "integer": _INTEGER, "bigint": _INTEGER, "smallint": _INTEGER,
            "int2": _INTEGER, "int4": _INTEGER, "int8": _INTEGER, "numeric": _NUMBER,
            "decimal": _NUMBER, "real": _NUMBER, "float": _NUMBER, "float4": _NUMBER,
            "float8": _NUMBER, "double precision": _NUMBER}


def no_numbers(target: str, texts: list[str]) -> list[str]:
    """Those of `texts` that a cast to the type `target` refuses for certain, if it is of numbers.

    What one version of PostgreSQL reads as a number and another does not is left to it.
    """
    kind = " ".join(target.lower().removeprefix("pg_catalog.").split("(")[0].split())
    spelled = _SPELLED.get(kind)
    return [text for text in texts if not spelled.fullmatch(text.strip())] if spelled else []


def representative(sql: str, oid: int) -> str:
    """The value of a group; types that may lack equality are grouped by their text alone."""
    if oid in _EXACT or oid in _TEXT or oid in _EQUAL_BUT_DISTINCT:
        return sql
    return f"(pg_catalog.array_agg({sql}))[1]"
