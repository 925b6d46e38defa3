"""Feature values out of users' tables, in bulk.

They travel as COPY in binary form. Digests are computed here as `predict` computes them, from the
same canonical bytes (wire/identity.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgrain.errors import UndefinedObject
from pgrain.wire.identity import digest, hasher, parse_columns

Progress = Callable[[int, int, str], None]


@dataclass
class Row:
    """One row: its key and label as text (None where the relation has none), value, digest."""

    key: str | None
    label: str | None
    value: object
    digest: bytes


def count(connection: psycopg.Connection, relation: int) -> int:
    """Rows of a relation now (all of them are counted)."""
    statement = sql.SQL("SELECT count(*) AS n FROM {}").format(_name(connection, relation))
    return connection.execute(statement).fetchone()["n"]


def read(connection: psycopg.Connection, relation: int, kind: str, features: list[str],
         secret: bytes, *, names: list[str] | None = None, key: str | None = None,
         label: str | None = None) -> Iterator[Row]:
    """All rows whose features are not null, in the order in which PostgreSQL returns them.

    features: the columns; names: what the model calls them (kind "columns"; default the same).
    Values: bytes, list of floats, or a dict column -> number, text, bool, None.
    """
    names = names or features
    columns = [_text(key), _text(label)]
    if kind == "columns":
        pairs = sql.SQL(", ").join(sql.SQL("{}, t.{}").format(sql.Literal(name),
                                                               sql.Identifier(column))
                                   for name, column in zip(names, features, strict=True))
        columns.append(sql.SQL("jsonb_build_object({})::text").format(pairs))
        condition = sql.SQL("true")
    else:
        columns.append(sql.SQL("t.{}").format(sql.Identifier(features[0])))
        condition = sql.SQL("t.{} IS NOT NULL").format(sql.Identifier(features[0]))
    statement = sql.SQL("COPY (SELECT {} FROM {} AS t WHERE {}) TO STDOUT (FORMAT BINARY)").format(
        sql.SQL(", ").join(columns), _name(connection, relation), condition)
    types = ["text", "text", {"bytea": "bytea", "float8": "float8[]"}.get(kind, "text")]
    keyed = hasher(secret)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(types)
        for key_text, label_text, value in copy.rows():
            name = digest(keyed, value, kind, names)
            yield Row(key_text, label_text,
                      plain_columns(value) if kind == "columns" else value, name)


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


def _name(connection: psycopg.Connection, relation: int) -> sql.Composed:
    row = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = %s", [relation]).fetchone()
    if row is None:
        raise UndefinedObject("the relation does not exist any more")
    return sql.Composed([sql.Identifier(row["nspname"], row["relname"])])


def _text(column: str | None) -> sql.Composable:
    if column is None:
        return sql.SQL("NULL::text")
    return sql.SQL("t.{}::text").format(sql.Identifier(column))
