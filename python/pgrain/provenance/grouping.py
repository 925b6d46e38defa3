"""How a column is grouped without losing anything that PostgreSQL could tell apart.

Patterns are made by GROUP BY, but equal values may differ: 1.0 and 1.00, -0 and 0, texts under a
nondeterministic collation. A pattern must not mix them, for an expression may see the difference.
"""

from __future__ import annotations

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


def representative(sql: str, oid: int) -> str:
    """The value of a group; types that may lack equality are grouped by their text alone."""
    if oid in _EXACT or oid in _TEXT or oid in _EQUAL_BUT_DISTINCT:
        return sql
    return f"(pg_catalog.array_agg({sql}))[1]"
