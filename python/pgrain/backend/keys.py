"""protect_keys: training keys for those only who may read them where they come from.

A ranking is still given to everybody who may run the query: how many rows, their scores and
effects. What a protected model keeps back is which rows they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pgrain.backend import session
from pgrain.backend.models import require_model
from pgrain.backend.spi import entry_point, prepared, query


@entry_point
def protect_keys(plpy, name: str, protect: bool) -> None:
    """Record (or take back) that a model's training keys are for its training table's readers."""
    require_model(plpy, name)
    if protect:
        query(plpy, "INSERT INTO pgrain.protected_keys (model, training_table, key) "
                    "SELECT model, training_table, key FROM pgrain.model WHERE model = $1 "
                    "ON CONFLICT DO NOTHING", ["text"], [name])
    else:
        query(plpy, "DELETE FROM pgrain.protected_keys WHERE model = $1", ["text"], [name])
    session.forget_models(plpy)


def protected(models: Iterable) -> bool:
    """Whether a ranking of these models (facts as of `visible`) is to go through `visible`."""
    return any(facts.keys_table is not None for facts in models)


def visible(plpy, rows: Sequence[Sequence], *, key: int, number: int | None = None,
            model: int | str, facts=None) -> Sequence[Sequence]:
    """Rows of a ranking as this caller may see them: train_key and train_id are None where the
    model's keys are protected and the caller cannot read them in the training table.

    key, number: the columns of train_key and train_id; model: the column of the model's name, or
    that name; facts: those of the one model there is, where they are known (`session.Model`).
    Asked as the caller, in the caller's snapshot.
    """
    by_model: dict[str, list] = {}
    for at, row in enumerate(rows):
        by_model.setdefault(row[model] if isinstance(model, int) else model, []).append(at)
    known = {name: facts or session.STATE.models.get(name) or session.model_facts(plpy, name)
             for name in by_model}
    if all(of.keys_table is None for of in known.values()):
        return rows
    rows = [list(row) for row in rows]
    for name, numbers in by_model.items():
        facts, group = known[name], [rows[at] for at in numbers]
        if facts.keys_table is None:
            continue
        keys = {row[key] for row in group if row[key] is not None}
        readable = _readable(plpy, facts, keys)
        for row in group:
            if row[key] not in readable:
                row[key] = None
                if number is not None:
                    row[number] = None
    return rows


def _readable(plpy, facts, keys: set[str]) -> set[str]:
    """Those of the keys that the caller could select from the training table."""
    found = query(plpy, """
        SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
               pg_catalog.has_schema_privilege(n.oid, 'USAGE')
               AND pg_catalog.has_column_privilege(c.oid, $2, 'SELECT') AS may,
               c.relkind OPERATOR(pg_catalog.=) 'r' AND NOT pg_catalog.row_security_active(c.oid)
                   AS every_row
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
        WHERE c.oid OPERATOR(pg_catalog.=) $1::pg_catalog.oid
          AND EXISTS (SELECT FROM pg_catalog.pg_attribute a
                      WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid
                        AND a.attname OPERATOR(pg_catalog.=) $2::pg_catalog.name
                        AND NOT a.attisdropped)
        """, ["bigint", "text"], [facts.keys_table, facts.keys_column])
    if not found or not found[0]["may"]:
        return set()
    if found[0]["every_row"]:
        return keys
    # Row security, or a view with conditions of its own: the table itself says which rows.
    column = plpy.quote_ident(facts.keys_column)
    rows = plpy.execute(prepared(plpy, f"SELECT t.{column}::pg_catalog.text AS key FROM "
                                       f"{found[0]['name']} AS t WHERE t.{column}::pg_catalog.text "
                                       "OPERATOR(pg_catalog.=) ANY ($1)", "text[]"), [sorted(keys)])
    return {row["key"] for row in rows}
