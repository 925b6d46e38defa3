"""Values that a statement is likely to ask for next, predicted together.

A plain `predict` is handed one row at a time, and a value that nothing is stored of is a round trip
to the worker. Where a statement has met two of them, this looks at rows of the tables that its
transaction reads already, and has the worker predict those of their values that are not known
either, in one request.

It is a guess about what comes next, never about an answer: a prediction is a function of the value,
whoever asked for it first, and what is not asked for is forgotten. And it is safe to look: plain
tables without row security, columns of built-in types that the caller may read, so no code of
anybody runs; under the statement's own snapshot; under a lock that this transaction holds, so that
nothing is waited for; not where that would add to what a serializable transaction has read. What
goes wrong here (a value that the model cannot take) ends the looking, not the statement.

How much is looked at depends on how much of it was asked for (`VALUES_A_HIT`), so that a statement
whose values are in no table (those of an expression) loses a few milliseconds, once.
"""

from __future__ import annotations

from pgrain.backend.session import STATE, Model, live_batch
from pgrain.backend.spi import from_postgres, query
from pgrain.errors import PgrainError
from pgrain.wire.identity import digest as digest_of
from pgrain.wire.identity import pack_value, value_sql

VALUES, VALUES_A_HIT = 64, 8            # predicted beforehand; more for each that was asked for
ROWS, ROWS_A_MISS = 2000, 200           # looked at in a statement; more for each other value
_REQUEST = 5000                         # values in one request to the worker, at most
_REQUEST_BYTES = 8 << 20
_FETCH, _FETCH_BYTES = 500, 1 << 20     # rows fetched at a time, and about how much they may take
_STATEMENT = """
SELECT pg_catalog.statement_timestamp()::pg_catalog.text AS statement,
       pg_catalog.current_setting('transaction_isolation')
       OPERATOR(pg_catalog.=) 'serializable' AS serializable"""
_TYPES = {"bytea": [17], "text": [25, 1043], "float8": [1022]}

_TABLES = """
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) l.relation
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE l.locktype OPERATOR(pg_catalog.=) 'relation' AND l.granted
AND l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d
    WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
AND c.relkind OPERATOR(pg_catalog.=) 'r' AND NOT c.relrowsecurity
AND c.relam OPERATOR(pg_catalog.=) 2 AND c.oid OPERATOR(pg_catalog.>=) 16384
AND n.nspname OPERATOR(pg_catalog.<>) 'pgrain'
AND (SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute a
     WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attname OPERATOR(pg_catalog.=) ANY ($1)
     AND NOT a.attisdropped AND a.atttypid OPERATOR(pg_catalog.<) 16384
     AND ($2 IS NULL OR a.atttypid OPERATOR(pg_catalog.=) ANY ($2))
     AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT'))
    OPERATOR(pg_catalog.=) pg_catalog.cardinality($1)
GROUP BY c.oid, n.nspname, c.relname ORDER BY pg_catalog.pg_relation_size(c.oid) LIMIT 8"""


class Ahead:
    """What one statement has asked of one model beyond what is stored, and how far its tables have
    been looked through."""

    def __init__(self, statement: str):
        self.statement = statement
        self.misses = self.rows = self.predicted = 0
        self.hits = 0
        self.unasked: set[bytes] = set()        # digests predicted, not asked for yet
        self.tables: list[_Table] | None = None


class _Table:
    """A table being looked through, from its beginning to its end."""

    def __init__(self, plpy, name: str, value: str):
        self.place = "(0,0)"
        self.plan = plpy.prepare(
            f"SELECT t.ctid::pg_catalog.text AS place, {value} AS value FROM ONLY {name} AS t "
            "WHERE t.ctid OPERATOR(pg_catalog.>) $1 LIMIT $2", ["tid", "bigint"])
        self.fetch = 20

    def next(self, plpy, most: int) -> list:
        """Values of the next rows; none at the end."""
        rows = plpy.execute(self.plan, [self.place, min(self.fetch, most)])
        if not rows:
            return []
        self.place = rows[len(rows) - 1]["place"]
        values = [row["value"] for row in rows]
        size = sum(len(value) for value in values if value is not None) // len(values)
        self.fetch = max(1, min(_FETCH, _FETCH_BYTES // max(1, size)))
        return values


def asked(model: Model, digest: bytes) -> None:
    """A value that was not stored had been predicted before it was asked for."""
    ahead = model.ahead
    if ahead is not None and digest in ahead.unasked:
        ahead.unasked.discard(digest)
        ahead.hits += 1


def predict(plpy, model: Model, digest: bytes, packed: bytes) -> dict[bytes, bytes]:
    """float32 probabilities of a value that is not known, and perhaps of others, by digest."""
    now = query(plpy, _STATEMENT)[0]
    ahead = model.ahead
    if ahead is None or ahead.statement != now["statement"]:
        ahead = model.ahead = Ahead(now["statement"])
    ahead.misses += 1
    if ahead.misses > 1 and not now["serializable"]:
        try:
            others = _others(plpy, model, ahead, digest)
            if others:
                found = live_batch(plpy, model, [packed, *others.values()])
                ahead.unasked.update(others)
                return dict(zip([digest, *others], found, strict=True))
        except plpy.SPIError as error:
            if from_postgres(error).sqlstate[:2] in ("40", "57"):   # the statement is to stop
                raise
            ahead.tables = []
        except PgrainError as error:
            if error.sqlstate[:2] != "22":      # no worker, say
                raise
            ahead.tables = []
    return {digest: live_batch(plpy, model, [packed])[0]}


def _others(plpy, model: Model, ahead: Ahead, digest: bytes) -> dict[bytes, bytes]:
    """Values that come next in the tables and are not known: digest -> as the wire carries it."""
    if ahead.tables is None:
        rows = query(plpy, _TABLES, ["name[]", "oid[]"], [model.features, _TYPES.get(model.kind)])
        ahead.tables = [_Table(plpy, row["name"], _value(plpy, model)) for row in rows]
    others: dict[bytes, bytes] = {}
    size = 0
    most = min(_REQUEST, VALUES + VALUES_A_HIT * ahead.hits - ahead.predicted)
    while ahead.tables and len(others) < most and size < _REQUEST_BYTES:
        left = ROWS + ROWS_A_MISS * (ahead.misses + ahead.hits) - ahead.rows
        if left <= 0:
            break
        values = ahead.tables[0].next(plpy, min(left, most))
        ahead.rows += len(values)
        if not values:
            ahead.tables.pop(0)
        for value in values:
            if value is None or (model.kind in ("bytea", "text") and value in model.met):
                continue
            try:
                name = digest_of(STATE.hasher, value, model.kind, model.features)
                packed = pack_value(value, model.kind)
            except PgrainError:
                continue        # one that the model cannot take: who asks for it is told
            if name != digest and name not in model.live and model.code(name) is None:
                others[name] = packed
                size += len(packed)
    ahead.predicted += len(others)
    return others


def _value(plpy, model: Model) -> str:
    """SQL for a row's value, as `predict` is given it."""
    columns = ", ".join(f"t.{plpy.quote_ident(name)}" for name in model.features)
    if model.kind == "columns":
        columns = f"(SELECT r FROM (SELECT {columns}) AS r)"
    return value_sql(columns, model.kind)
