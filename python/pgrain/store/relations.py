"""Feature values out of users' tables, in bulk.

They travel as COPY in binary form. Digests are computed here as `predict` computes them, from the
same canonical bytes (wire/identity.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
import structlog
from psycopg import sql

from pgrain.errors import (
    InsufficientPrivilege,
    InvalidArgument,
    PgrainError,
    UndefinedColumn,
    UndefinedObject,
)
from pgrain.interrupts import check
from pgrain.wire.identity import digest, hasher, parse_columns

Progress = Callable[[int, int, str], None]
Waiting = Callable[[str], None]     # called every LOCK_SECONDS of waiting for a lock; may raise
LOCK_SECONDS = 1
log = structlog.get_logger()


@dataclass
class Row:
    """One row: its key and label as text (None where the relation has none), value, digest.

    content: the digest without the installation's secret, if it was asked for. original: the
    table's value, where `value` is that of a repair.
    """

    key: str | None
    label: str | None
    value: object
    digest: bytes
    content: bytes | None = None
    original: object = None


@contextlib.contextmanager
def reading(connection: psycopg.Connection, relation: int, columns: list[str],
            reader: str | None, waiting: Waiting | None = None) -> Iterator[sql.Composed]:
    """A read-only transaction in which the relation can be read without running anybody's code.

    The worker reads users' relations with its own rights, which are more than their owners have,
    so nothing of theirs may run meanwhile: policies (row_security is off, which makes PostgreSQL
    refuse a table that has some), functions, operators and domains in views, casts of types of
    their own. The relation is locked before it is looked at, so that it can't change in between.
    `reader`: the role for which it is read, which must have SELECT itself. Where somebody else has
    locked it, `waiting` is told so every second, and may raise; by default this waits as long as
    somebody waits for it (`interrupts`). Gives the relation's name.

    Raises 42704 if it is gone, 42703 if a column is, 42501 if `reader` or the worker may not read
    it, or for code that would run.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        connection.execute("SET LOCAL row_security = off")
        name, kind, shown = _name(connection, relation)
        schema = connection.execute(_SCHEMA_CLOSED, [relation]).fetchone()
        if schema is not None:
            raise InsufficientPrivilege(
                f"the worker may not read {shown}",
                detail=f"Its role {READER_ROLE} may not enter that schema.",
                hint=sql.SQL("GRANT USAGE ON SCHEMA {} TO {}.").format(
                    sql.Identifier(schema["nspname"]), sql.Identifier(READER_ROLE)).as_string())
        # As a role that can do nothing but read. (Whoever granted SELECT to the worker's own role,
        # as before 0.2.0, need not do it again.)
        rights = connection.execute(_READER_MAY, {"relation": relation}).fetchone()
        if rights["may"]:
            connection.execute("SET LOCAL ROLE pgrain_reader")
        elif not rights["worker_may"]:
            raise InsufficientPrivilege(
                f"the worker may not read {shown}",
                detail=f"Its role {READER_ROLE} has no SELECT on it (any more).",
                hint=sql.SQL("GRANT SELECT ON {} TO {}.").format(
                    name, sql.Identifier(READER_ROLE)).as_string())
        _lock(connection, relation, name, kind, waiting or _patiently(shown))
        if reader is not None:
            role = connection.execute("SELECT has_table_privilege(oid, %s::oid, 'SELECT') AS may "
                                      "FROM pg_roles WHERE rolname = %s",
                                      [relation, reader]).fetchone()
            if role is None:
                raise InsufficientPrivilege(
                    f'there is no role "{reader}" any more, for which {shown} is read',
                    hint="Attach the relation again, or call train and precompute, as another.")
            if not role["may"]:
                raise InsufficientPrivilege(
                    f'role "{reader}" may not read {shown}',
                    hint=sql.SQL("GRANT SELECT ON {} TO {}.").format(
                        name, sql.Identifier(reader)).as_string())
        there = connection.execute(_COLUMNS, [relation]).fetchone()["columns"]
        for column in columns:
            if column not in there:
                raise UndefinedColumn(f'{shown} has no column "{column}" any more',
                                      detail=f"Its columns: {', '.join(there)}.", hint=_ANEW)
        foreign = connection.execute(_FOREIGN_CODE, {"relation": relation,
                                                     "columns": columns}).fetchone()
        if foreign is not None:
            raise InsufficientPrivilege(
                f"reading {shown} would run {foreign['what']}",
                detail="The worker runs no code of ordinary users with its own rights.",
                hint="Use a materialised view or a table.")
        yield name


def _lock(connection, relation: int, name: sql.Composed, kind: str, waiting: Waiting) -> None:
    # Materialised views and foreign tables are no tables to LOCK.
    statement = sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE" if kind in ("r", "p", "v")
                        else "SELECT FROM {} LIMIT 0").format(name)
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(1000 * LOCK_SECONDS))
    while True:
        try:
            with connection.transaction():
                connection.execute(statement)
        except psycopg.errors.LockNotAvailable:
            row = connection.execute(_HOLDER, [relation]).fetchone()
            who = f"process {row['pid']} has" if row["pid"] is not None else "there is"
            waiting(f"waits: {who} a lock on {row['shown']}")
        else:
            break
    connection.execute("SET LOCAL lock_timeout = 0")


def _patiently(shown: str) -> Waiting:
    told = []

    def wait(why: str) -> None:
        check()
        if not told:
            log.info("reading waits for a lock", relation=shown, why=why)
            told.append(why)
    return wait


# Of the relation, or what is below it; of a view's tables the first that anybody has locked.
_HOLDER = """
WITH RECURSIVE it (oid) AS (
    SELECT %s::oid
    UNION SELECT part FROM it, LATERAL (
        SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = it.oid
        UNION ALL SELECT d.refobjid FROM pg_rewrite w JOIN pg_depend d
            ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
            AND d.refclassid = 'pg_class'::regclass WHERE w.ev_class = it.oid) AS below (part))
SELECT l.pid, min(it.oid)::regclass::text AS shown FROM it
LEFT JOIN pg_locks l ON l.relation = it.oid AND l.granted AND l.mode = 'AccessExclusiveLock'
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
GROUP BY l.pid ORDER BY l.pid NULLS LAST LIMIT 1
"""
READER_ROLE = "pgrain_reader"
_ANEW = ("Columns are found by name. Say the new one: SELECT pgrain.alter_model(...) for a "
         "training table, CALL pgrain.attach(...) with features for an attached relation.")
_ELSEWHERE = ("A training table of another name: SELECT pgrain.alter_model(...). What is stored "
              "keeps answering.")
_SCHEMA_CLOSED = """
SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %s AND NOT has_schema_privilege(n.oid, 'USAGE')
"""
_COLUMNS = """
SELECT coalesce(array_agg(attname::text ORDER BY attnum), '{}') AS columns
FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
"""
_READER_MAY = """
SELECT has_table_privilege('pgrain_reader', c.oid, 'SELECT')
       AND has_schema_privilege('pgrain_reader', c.relnamespace, 'USAGE') AS may,
       has_any_column_privilege(c.oid, 'SELECT') AS worker_may
FROM pg_class c WHERE c.oid = %(relation)s
"""

# Functions, operators and domains that a superuser does not answer for, in the views behind a
# relation; types of that sort in the columns that are cast to text or jsonb.
_FOREIGN_CODE = """
WITH RECURSIVE reached (oid) AS (
    SELECT %(relation)s::oid
    UNION
    SELECT d.refobjid FROM reached r JOIN pg_rewrite w ON w.ev_class = r.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
        AND d.refclassid = 'pg_class'::regclass
), used AS (
    SELECT d.refclassid, d.refobjid FROM reached r JOIN pg_rewrite w ON w.ev_class = r.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
    JOIN pg_class c ON c.oid = r.oid AND c.relkind = 'v'
    UNION
    SELECT 'pg_type'::regclass, coalesce(nullif(t.typelem, 0), t.oid) FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = %(relation)s AND a.attname = ANY (%(columns)s) AND t.typtype <> 'e'
)
SELECT what FROM (
    SELECT 'function ' || p.oid::regprocedure, p.proowner FROM used JOIN pg_proc p
        ON refclassid = 'pg_proc'::regclass AND p.oid = refobjid
    UNION ALL
    SELECT 'operator ' || o.oid::regoperator, o.oprowner FROM used JOIN pg_operator o
        ON refclassid = 'pg_operator'::regclass AND o.oid = refobjid
    UNION ALL
    SELECT 'code of type ' || t.oid::regtype, t.typowner FROM used JOIN pg_type t
        ON refclassid = 'pg_type'::regclass AND t.oid = refobjid
) AS code (what, owner) JOIN pg_roles o ON o.oid = owner AND NOT o.rolsuper LIMIT 1
"""


def count(connection: psycopg.Connection, relation: int, reader: str | None,
          waiting: Waiting | None = None) -> int:
    """Rows of a relation now (all of them are counted). waiting: see `reading`."""
    with reading(connection, relation, [], reader, waiting) as name:
        statement = sql.SQL("SELECT count(*) AS n FROM {}").format(name)
        return connection.execute(statement).fetchone()["n"]


def read(connection: psycopg.Connection, relation: int, kind: str, features: list[str],
         secret: bytes, *, reader: str | None, names: list[str] | None = None,
         key: str | None = None, label: str | None = None,
         content: bool = False, waiting: Waiting | None = None,
         unreadable: list[PgrainError] | None = None) -> Iterator[Row]:
    """All rows whose features are not null, in the order in which PostgreSQL returns them.

    features: the columns; names: what the model calls them (kind "columns"; default the same).
    Values: bytes, list of floats, or a dict column -> number, text, bool, None. See `reading` for
    `reader`, `waiting` and what is refused. content: give `Row.content`, too. unreadable: rows
    whose value has no digest (an array of arrays) are left out, and why is added here; without
    it they are an error (22023).
    """
    names = names or features
    columns = [_text(key), _text(label)]
    if kind == "columns":
        cells = sql.SQL(", ").join(
            sql.SQL("t.{} AS {}").format(sql.Identifier(column), sql.Identifier(name))
            for name, column in zip(names, features, strict=True))
        columns.append(sql.SQL("(SELECT to_jsonb(_pgrain_row) FROM (SELECT {}) AS _pgrain_row)"
                               "::text").format(cells))
        condition = sql.SQL("true")
    else:
        columns.append(sql.SQL("t.{}").format(sql.Identifier(features[0])))
        condition = sql.SQL("t.{} IS NOT NULL").format(sql.Identifier(features[0]))
    used = [column for column in (key, label, *features) if column is not None]
    wanted = {"bytea": "bytea", "float8": "double precision[]"}.get(kind)
    types = ["text", "text", {"bytea": "bytea", "float8": "float8[]"}.get(kind, "text")]
    keyed, plain = hasher(secret), hasher(b"")
    with (reading(connection, relation, used, reader, waiting) as name,
          connection.cursor() as cursor):
        found = _type_of(connection, relation, features[0])
        if wanted not in (None, found):
            raise InvalidArgument(f'column "{features[0]}" of {_name(connection, relation)[2]} is '
                                  f"{found} now, but the model reads {wanted}")
        statement = sql.SQL("COPY (SELECT {} FROM {} AS t WHERE {}) TO STDOUT (FORMAT BINARY)"
                            ).format(sql.SQL(", ").join(columns), name, condition)
        with cursor.copy(statement) as copy:
            copy.set_types(types)
            for key_text, label_text, value in copy.rows():
                check()
                try:
                    named = digest(keyed, value, kind, names)
                except InvalidArgument as error:
                    if unreadable is None:
                        raise
                    unreadable.append(error)
                    continue
                yield Row(key_text, label_text,
                          plain_columns(value) if kind == "columns" else value, named,
                          digest(plain, value, kind, names) if content else None)


def plain_columns(text: str) -> dict:
    """A row's JSON object with numbers as floats."""
    return {name: float(value) if isinstance(value, str) and type(value) is not str else value
            for name, value in parse_columns(text).items()}


def is_integer(connection: psycopg.Connection, relation: int, column: str) -> bool:
    """Whether a key column is an integer type (then `train_id` can be given)."""
    row = connection.execute(
        "SELECT atttypid IN (20, 21, 23) AS yes FROM pg_attribute "
        "WHERE attrelid = %s AND attname = %s", [relation, column]).fetchone()
    return bool(row and row["yes"])


def _type_of(connection: psycopg.Connection, relation: int, column: str) -> str:
    """A column's type as PostgreSQL prints it (a domain's: what it is a domain over)."""
    return connection.execute(
        "SELECT format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL) AS type "
        "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
        "WHERE attrelid = %s AND attname = %s", [relation, column]).fetchone()["type"]


def _name(connection: psycopg.Connection, relation: int) -> tuple[sql.Composed, str, str]:
    """The relation's full name, its kind, and the name as messages have it."""
    row = connection.execute(
        "SELECT n.nspname, c.relname, c.relkind, c.oid::regclass::text AS shown FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s", [relation]).fetchone()
    if row is None:
        raise UndefinedObject("the relation does not exist any more", hint=_ELSEWHERE)
    return (sql.Composed([sql.Identifier(row["nspname"], row["relname"])]), row["relkind"],
            row["shown"])


def _text(column: str | None) -> sql.Composable:
    if column is None:
        return sql.SQL("NULL::text")
    return sql.SQL("t.{}::text").format(sql.Identifier(column))
