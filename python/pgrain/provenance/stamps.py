"""Tuple stamps: a cheaper name for a feature value than its digest, where it means the same.

A digest reads the whole value of every row. A stamp, (ctid, xmin, tableoid), names one version of
one tuple without reading it, and a tuple version never changes. Once the worker has seen
a stamp beside its digest, the stamp stands for it; stamps it has not seen are looked up by tuple
id, so that a statement pays for the digests of new rows alone.

What makes the name sure, beside the stamp itself, is the key under which the worker keeps it:

- the file (relfilenode and tablespace), for VACUUM FULL, CLUSTER, TRUNCATE and rewrites put other
  tuples at the same places; the caller's own EXPLAIN holds a lock that keeps the file until the end
  of its transaction;
- the column's number, for a column may be dropped and another one made of the same name;
- the server's incarnation (start of its checkpointer): after a crash a transaction number whose
  use was never written down is used again. No session survives a crash, so it is read once a
  session.

A freed place is used again only by another transaction, whose number differs. Only plain columns
of built-in types, of plain heap tables that the caller may read whole, qualify; everything else
goes by digest. The key comes from `pgrain._stamp_key` (sql/30_session.sql), which looks at the
catalogs with a snapshot of its own, after the EXPLAIN has locked the table; where the snapshot is
the whole transaction's (REPEATABLE READ), there are no stamps. What is learned is read from the
table that the key names, never from whatever its name means by then, and belongs to that table's
stamps only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgrain.plan.lexer import tokenize
from pgrain.provenance.annotate import Annotated, quote
from pgrain.provenance.capture_sql import literal
from pgrain.wire.identity import DIGEST_BYTES, digest_sql, value_sql

STAMP_BYTES = 10     # of a stamp in the capture: ctid and xmin


@dataclass(frozen=True)
class Stamped:
    """A slot whose argument is the plain column `column` of the table `relation`, seen in the
    query as `alias`; `relation` is quoted."""

    slot: int
    relation: str
    alias: str
    column: str


def stamped_slots(annotated: Annotated) -> list[Stamped] | None:
    """The slots as `Stamped` if every one of them qualifies by the query's text; else None."""
    if annotated.query.select.prefix:      # a CTE may hide a table of its name
        return None
    units = {alias: unit for unit in annotated.query.from_.units for alias in unit.aliases}
    found = []
    for slot in annotated.slots:
        if slot.column is None:
            return None
        alias, column = slot.column
        relation = plain_table(units[alias].text) if alias in units else None
        if relation is None:
            return None
        found.append(Stamped(slot.index, relation, alias, column))
    return found


def stamp_sql(stamped: Stamped) -> str:
    """SQL for the stamp of a row, bytea of `STAMP_BYTES`; NULL where the value is NULL.

    The table goes without saying, once it is the one of that name; every concatenation would cost
    as much as reading the row.
    """
    alias = quote(stamped.alias)
    present = f"{alias}.{quote(stamped.column)} IS NOT NULL"
    return (f"CASE WHEN {present} AND {alias}.tableoid OPERATOR(pg_catalog.=) "
            f"{literal(stamped.relation)}::pg_catalog.regclass::pg_catalog.oid "
            f"THEN pg_catalog.tidsend({alias}.ctid) OPERATOR(pg_catalog.||) "
            f"pg_catalog.xidsend({alias}.xmin) WHEN {present} THEN "
            f"pg_catalog.decode('{'ff' * STAMP_BYTES}', 'hex') END")


def widen(stamps: np.ndarray, key: str) -> np.ndarray:
    """(n, 16) names of the stamps (n, STAMP_BYTES) uint8 of the table that `key` names.

    A tuple of another table (a child's) becomes a name that nobody learns.
    """
    names = np.zeros((len(stamps), DIGEST_BYTES), np.uint8)
    names[:, :STAMP_BYTES] = stamps
    names[:, STAMP_BYTES:STAMP_BYTES + 4] = _oid(key)
    return names


def learn_sql(stamped: Stamped, kind: str, features: list[str]) -> tuple[str, str]:
    """SQL for stamps and digests, 32 bytes a row in one bytea, of the tuples ``$2`` (tid[]).

    ``$1`` is the secret. Between the two parts belongs the table's full name, which comes with
    the key.
    """
    digest = digest_sql(f"_pgrain_t.{quote(stamped.column)}", kind, features)
    return (f"SELECT pg_catalog.string_agg({_stamp('_pgrain_t')} OPERATOR(pg_catalog.||) {digest}, "
            "''::pg_catalog.bytea) AS learned FROM ONLY ",
            " AS _pgrain_t WHERE _pgrain_t.ctid OPERATOR(pg_catalog.=) ANY ($2)")


def values_sql(stamped: Stamped, kind: str, features: list[str]) -> tuple[str, str]:
    """SQL for (digest, value) of the tuples ``$2``, around the table's name like `learn_sql`."""
    column = f"_pgrain_t.{quote(stamped.column)}"
    return (f"SELECT {digest_sql(column, kind, features)} AS digest, {value_sql(column, kind)} AS "
            "value FROM ONLY ", " AS _pgrain_t WHERE _pgrain_t.ctid OPERATOR(pg_catalog.=) ANY "
            f"($2) AND {column} IS NOT NULL")


def _stamp(alias: str) -> str:
    join = " OPERATOR(pg_catalog.||) "
    return join.join([f"pg_catalog.tidsend({alias}.ctid)", f"pg_catalog.xidsend({alias}.xmin)",
                      f"pg_catalog.oidsend({alias}.tableoid)", "pg_catalog.decode('0000', 'hex')"])


def of_table(stamps: np.ndarray, key: str) -> np.ndarray:
    """(n,) bool: which stamps (n, >= 16) uint8 are of the table that `key` names."""
    return (stamps[:, STAMP_BYTES:STAMP_BYTES + 4] == _oid(key)).all(axis=1)


def _oid(key: str) -> np.ndarray:
    return np.frombuffer(int(key.split(":")[-4]).to_bytes(4, "big"), np.uint8)


def plain_table(text: str) -> str | None:
    """The table's quoted name, if a unit of FROM is nothing but ``[ONLY] name [[AS] alias]``."""
    tokens = tokenize(text)
    if any(token.value in ("(", ")", "*") and token.kind == "punctuation" for token in tokens):
        return None
    if tokens and tokens[0].is_word("only"):
        tokens = tokens[1:]
    if not tokens or not tokens[0].is_name:
        return None
    names, at = [tokens[0].value], 1
    while at + 1 < len(tokens) and tokens[at].value == ".":
        names.append(tokens[at + 1].value)
        at += 2
    rest = [token for token in tokens[at:] if not token.is_word("as")]
    if len(rest) > 1 or any(not token.is_name for token in rest):
        return None
    return ".".join(quote(name) for name in names)
