"""What to do about an error that PostgreSQL finds in a caller's query or a complaint's WHERE."""

from __future__ import annotations

import re

from pgrain.backend.spi import from_postgres, query
from pgrain.errors import PgrainError, UndefinedObject, nearest

_NAME = re.compile(r'\s*((?:(?:"[^"]+"|[^\W\d]\w*)\.)?(?:"[^"]+"|[^\W\d]\w*))\s*;?\s*')
_DENIED = re.compile(r"permission denied for (?:table|view|materialized view|foreign table) (.+)")


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
        # Not where the lack is another's, such as that of a view's owner.
        rows = query(plpy, """
            SELECT c.oid::regclass::text AS relation, pg_catalog.quote_ident(current_user) AS caller
            FROM pg_catalog.pg_class c
            WHERE c.oid = pg_catalog.to_regclass(pg_catalog.quote_ident($1))
              AND NOT pg_catalog.has_table_privilege(c.oid, 'SELECT')
            """, ["text"], [denied[1]])
        if rows:
            failure.hint = (f"Its owner can run GRANT SELECT ON {rows[0]['relation']} "
                            f"TO {rows[0]['caller']}.")
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
