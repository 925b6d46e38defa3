"""What to do about an error that PostgreSQL finds in a caller's query or a complaint's WHERE."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pgrain.backend.spi import from_postgres, query
from pgrain.errors import InvalidArgument, PgrainError, UndefinedObject, nearest

_NAME = re.compile(r'\s*((?:(?:"[^"]+"|[^\W\d]\w*)\.)?(?:"[^"]+"|[^\W\d]\w*))\s*;?\s*')
_DENIED = re.compile(r"permission denied for (?:table|view|materialized view|foreign table) (.+)")
_SHUT = re.compile(r"permission denied for schema (.+)")


def of_query(plpy, text: str, error) -> PgrainError:
    """The plpy.SPIError of a caller's query as ours: with a hint where the text is a name and no
    query, or where the caller lacks SELECT on a relation."""
    failure = from_postgres(error)
    name = _NAME.fullmatch(text)
    if failure.sqlstate == "42601" and name is not None:
        failure = PgrainError(f'"{name[1]}" is not a query', sqlstate="42601",
                              hint=of_relation(plpy, text) or "Give the text of a SELECT.")
    denied = _DENIED.fullmatch(failure.message)
    if failure.sqlstate == "42501" and failure.hint is None and denied is not None:
        # Not where the lack is another's, such as that of a view's owner. PostgreSQL says the name
        # without the schema: what the search_path finds, or else what the text may name in full.
        rows = query(plpy, """
            SELECT c.oid::regclass::text AS relation, pg_catalog.quote_ident(current_user) AS caller
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
              AND NOT pg_catalog.has_table_privilege(c.oid, 'SELECT')
              AND (pg_catalog.pg_table_is_visible(c.oid)
                   OR pg_catalog.strpos(pg_catalog.lower($2), pg_catalog.lower(n.nspname)) > 0)
            """, ["text", "text"], [denied[1], text])
        if len(rows) == 1:
            failure.hint = (f"Its owner can run GRANT SELECT ON {rows[0]['relation']} "
                            f"TO {rows[0]['caller']}.")
    shut = _SHUT.fullmatch(failure.message)
    if failure.sqlstate == "42501" and failure.hint is None and shut is not None:
        rows = query(plpy, """
            SELECT pg_catalog.quote_ident(n.nspname) AS schema,
                   pg_catalog.quote_ident(current_user) AS caller
            FROM pg_catalog.pg_namespace n
            WHERE n.nspname = $1 AND NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE')
            """, ["text"], [shut[1]])
        if rows:
            failure.hint = (f"Its owner can run GRANT USAGE ON SCHEMA {rows[0]['schema']} "
                            f"TO {rows[0]['caller']}.")
    return failure


# What identity.canonical_sql makes of an argument that is no value of the model's kind. The
# caller's own text has been through EXPLAIN by then.
_NO_VALUE = (
    (re.compile(r"operator does not exist: bytea pg_catalog\.\|\| (.+)"), "bytea"),
    (re.compile(r"function pg_catalog\.convert_to\((.+), unknown\) does not exist"), "text"),
    (re.compile(r"cannot cast type (.+) to double precision\[\]"), "float8[]"))


def of_capture(plpy, models: Iterable, error) -> PgrainError:
    """The plpy.SPIError of a statement that reads what `models` are asked about."""
    failure = from_postgres(error)
    if failure.sqlstate in ("42883", "42846"):
        for pattern, kind in _NO_VALUE:
            found = pattern.fullmatch(failure.message)
            takers = [model for model in models if model.kind == kind.removesuffix("[]")]
            if found is not None and takers:
                first = takers[0]
                return InvalidArgument(
                    f'model "{first.name}" takes a {kind}, not {found[1]}' if len(takers) == 1 else
                    f"a model that takes a {kind} is asked about {found[1]}",
                    detail=f"Its features: {', '.join(first.features)}." if len(takers) == 1
                    else None,
                    hint=f"Pass the value, not the row: pgrain.predict("
                         f"'{first.name}', t.{plpy.quote_ident(first.features[0])}).")
    return failure


def no_model(plpy, name: str) -> UndefinedObject:
    """42704 for a name that no model has, with the one that is meant, of those that the caller may
    see."""
    hint = "See pgrain.models, or make it with pgrain.create_model."
    if query(plpy, "SELECT pg_catalog.has_schema_privilege('pgrain', 'USAGE') AND "
                   "pg_catalog.has_table_privilege('pgrain.models', 'SELECT') AS may")[0]["may"]:
        rows = query(plpy, "SELECT model FROM pgrain.models ORDER BY model LIMIT 1000")
        meant = nearest(name, [row["model"] for row in rows])
        if meant:
            hint = f'Did you mean "{meant}"? {hint}'
    return UndefinedObject(f'model "{name}" does not exist', hint=hint)


def of_relation(plpy, text: str) -> str | None:
    """Which query is meant where `text` is the name of a table or view."""
    name = _NAME.fullmatch(text)
    if name is None or not query(plpy, "SELECT pg_catalog.to_regclass($1) IS NOT NULL AS there",
                                 ["text"], [name[1]])[0]["there"]:
        return None
    return f"There is a relation of that name: write SELECT * FROM {name[1]}."


def of_condition(plpy, columns: list[str], error) -> PgrainError:
    """The plpy.SPIError of a complaint's WHERE as ours: it says where it is from, and which
    columns the query's output has."""
    failure = from_postgres(error)
    if failure.sqlstate[:2] not in ("22", "42"):
        return failure
    listed = ", ".join(plpy.quote_ident(name) for name in columns)
    hints = [failure.hint]
    if failure.sqlstate == "42703":
        hints.append("A text in it stands in single quotes: station = 'North'.")
    return PgrainError(f"in the complaint's WHERE: {failure.message}",
                       detail=" ".join(filter(None, [failure.detail,
                                                     f"The query's output has {listed}."])),
                       hint=" ".join(filter(None, hints)) or None, sqlstate=failure.sqlstate)
