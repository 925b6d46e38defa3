"""create_intervention and edits_sql: feature repairs, and edits as statements.

SQL expressions of users are evaluated here, in the caller's session and with the caller's rights
(the functions are SECURITY INVOKER), and what they give is stored for the worker. So nobody's
expression ever runs with more rights than its author has.
"""

from __future__ import annotations

import json

from pgrain.backend import session
from pgrain.backend.models import gone, key_text, quoted, require_model
from pgrain.backend.spi import entry_point, fetch_all, json_object, query
from pgrain.errors import (
    DuplicateObject,
    InvalidArgument,
    ObjectInUse,
    UndefinedObject,
)
from pgrain.wire.identity import (
    canonical_sql,
    json_object_sql,
    pack_value,
    unpack_value,
    value_sql,
)

KEYS_A_STATEMENT = 1000
_RESERVED = ("delete", "relabel", "any")
_UNKEYED = "pg_catalog.substr(pg_catalog.sha256({}), 1, 16)"


@entry_point
def create_intervention(plpy, name: str, title: str, features: list[str] | None,
                        library: str | None, options: str) -> None:
    """Declare a feature repair; with expressions, evaluate them for all training rows."""
    if None in (name, title, options):
        raise InvalidArgument("a model, a name and options are needed")
    if (features is None) == (library is None):
        raise InvalidArgument("an intervention has either features or a library",
                              hint="features: one SQL expression a feature of the model; library: "
                                   "the name of a repair such as 'median'.")
    if not title or title in _RESERVED or title.startswith("relabel:"):
        raise InvalidArgument(f'"{title}" cannot be the name of an intervention',
                              detail="delete, relabel, relabel:<class> and any are built in.")
    model = require_model(plpy, name)
    if not model["there"]:
        raise gone(name)
    fields = json_object(options)
    if query(plpy, "SELECT 1 AS x FROM pgrain.intervention WHERE model = $1 AND name = $2",
             ["text", "text"], [name, title]):
        raise DuplicateObject(f'model "{name}" already has an intervention "{title}"',
                              hint=f"Run SELECT pgrain.drop_intervention({quoted(name)}, "
                                   f"{quoted(title)}) first, or choose another name.")
    if library is not None:
        fields = _with_words(plpy, fields)
        answer, _ = session.call(plpy, "check_repair", {"model": name, "library": library,
                                                        "options": fields})
        fields = answer["options"]
    elif fields:
        raise InvalidArgument("expressions take no options",
                              hint="Write what they depend on into the expressions.")
    number = query(plpy, """
        INSERT INTO pgrain.intervention (model, name, features, library, options)
        VALUES ($1, $2, $3, $4, $5::jsonb) RETURNING intervention
        """, ["text", "text", "text[]", "text", "text"],
        [name, title, features, library, json.dumps(fields)])[0]["intervention"]
    if features is not None:
        _store_values(plpy, model, number, features)


@entry_point
def drop_intervention(plpy, name: str, title: str) -> None:
    """Drop a feature repair; refused while edits name it."""
    require_model(plpy, name)
    if query(plpy, "SELECT 1 AS x FROM pgrain.training_edit WHERE model = $1 "
                   "AND intervention = $2 LIMIT 1", ["text", "text"], [name, title]):
        raise ObjectInUse(f'edits of model "{name}" use intervention "{title}"',
                          hint="Take them back with pgrain.revert first.")
    if not query(plpy, "DELETE FROM pgrain.intervention WHERE model = $1 AND name = $2 "
                       "RETURNING 1 AS x", ["text", "text"], [name, title]):
        raise UndefinedObject(f'model "{name}" has no intervention "{title}"',
                              hint="See pgrain.interventions.")


@entry_point
def edits_sql(plpy, name: str) -> list[str]:
    """The model's edits as statements; at most KEYS_A_STATEMENT rows each."""
    model = require_model(plpy, name)
    if not model["there"]:
        raise gone(name)
    table = _full_name(plpy, model)
    repairs = {row["name"]: row for row in query(plpy, """
        SELECT intervention, name, features, library FROM pgrain.intervention WHERE model = $1
        """, ["text"], [name])}
    edits: dict[str, list[str]] = {}
    for row in query(plpy, "SELECT train_key, intervention FROM pgrain.training_edit "
                           "WHERE model = $1 ORDER BY intervention, train_key", ["text"], [name]):
        edits.setdefault(row["intervention"], []).append(row["train_key"])
    statements = []
    for edit, keys in edits.items():
        for at in range(0, len(keys), KEYS_A_STATEMENT):
            statements += _statements(plpy, model, table, edit, keys[at:at + KEYS_A_STATEMENT],
                                      repairs)
    return statements


def _statements(plpy, model: dict, table: str, edit: str, keys: list[str],
                repairs: dict) -> list[str]:
    chosen = (f"{plpy.quote_ident(model['key'])} IN ("
              + ", ".join(plpy.quote_literal(key) for key in keys) + ")")
    repair = repairs.get(edit)
    if edit == "delete" or (repair and repair["library"] == "duplicates"):
        return [f"DELETE FROM {table} WHERE {chosen};"]
    if edit.startswith("relabel:"):
        label = plpy.quote_literal(edit[len("relabel:"):])
        return [f"UPDATE {table} SET {plpy.quote_ident(model['label'])} = {label} WHERE {chosen};"]
    if repair is None:
        raise UndefinedObject(f'model "{model["model"]}" has no intervention "{edit}"',
                              hint="Revert the edits that name it.")
    if repair["features"] is not None:
        cells = ", ".join(f"{plpy.quote_ident(column)} = ({expression}\n)" for column, expression
                          in zip(model["features"], repair["features"], strict=True))
        return [f"UPDATE {table} AS t SET {cells} WHERE t.{chosen};"]
    return _updates(plpy, model, table, edit, keys)


def _updates(plpy, model: dict, table: str, edit: str, keys: list[str]) -> list[str]:
    """One UPDATE a row with the values that a repair of the library gives. The rows are read with
    the caller's rights; the worker computes."""
    key, features, kind = key_text(plpy, table, model["key"]), model["features"], model["kind"]
    rows = fetch_all(plpy, plpy.prepare(
        f"SELECT {key} AS key, {value_sql(_value(plpy, model), kind)} AS value "
        f"FROM {table} AS t WHERE {key} = ANY ($1)", ["text[]"]), [keys])
    column = plpy.quote_ident(model["key"])
    rows = [row for row in rows if row["value"] is not None]
    answer, blobs = session.call(plpy, "repair_values", {"model": model["model"], "name": edit},
                                 [pack_value(row["value"], kind) for row in rows])
    changed = iter(blobs)
    statements = []
    for row, there in zip(rows, answer["changed"], strict=True):
        if not there:
            continue
        value = unpack_value(next(changed), kind)
        if kind == "columns":
            cells = json.loads(value)
        elif kind == "bytea":
            cells = {features[0]: "\\x" + value.hex()}
        elif kind == "float8":
            cells = {features[0]: "{" + ", ".join(map(repr, value)) + "}"}
        else:
            cells = {features[0]: value}
        changes = ", ".join(f"{plpy.quote_ident(name)} = {_literal(plpy, cell)}"
                            for name, cell in cells.items())
        statements.append(f"UPDATE {table} SET {changes} WHERE {column} = "
                          f"{plpy.quote_literal(row['key'])};")
    return statements


def _literal(plpy, cell) -> str:
    """A literal without a type, which takes the column's."""
    if isinstance(cell, bool):
        cell = "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        cell = int(cell)   # '37' is a literal of an integer column, '37.0' is none
    return plpy.quote_nullable(None if cell is None else str(cell))


def _store_values(plpy, model: dict, number: int, expressions: list[str]) -> None:
    features, kind = model["features"], model["kind"]
    if len(expressions) != len(features) or None in expressions:
        raise InvalidArgument(f'model "{model["model"]}" reads {len(features)} features, '
                              f"not {len(expressions)}",
                              detail=f"Its features: {', '.join(features)}.",
                              hint="One expression each; a column's name leaves it as it is.")
    table = _full_name(plpy, model)
    for expression in expressions:
        probe = f"SELECT ({expression}\n) FROM {table} AS t LIMIT 0"
        plpy.cursor(probe).close()   # takes one SELECT, no several statements
        _one_value(plpy, expression, table)
        if len(plpy.execute(probe).colnames()) != 1:
            raise InvalidArgument(f'"{expression}" is no single expression')
    types = {row["attname"]: row["type"] for row in query(plpy, """
        SELECT attname::text, pg_catalog.format_type(atttypid, atttypmod) AS type
        FROM pg_catalog.pg_attribute WHERE attrelid = $1::regclass AND attnum > 0
        """, ["text"], [table])}
    new = [f"CAST(({expression}\n) AS {types[feature]})" for expression, feature
           in zip(expressions, features, strict=True)]
    if kind == "columns":
        after = json_object_sql([plpy.quote_ident(feature) for feature in features], new)
    else:
        after = new[0]
    before = canonical_sql(_value(plpy, model), kind, features)
    key = key_text(plpy, table, model["key"])
    # OFFSET 0: each expression is evaluated once a row, also where it is volatile.
    query_text = f"""
        INSERT INTO pgrain.intervention_value (intervention, train_key, source, value)
        SELECT $1, r.k, {_UNKEYED.format('r.old')}, r.new FROM (
            SELECT {key} AS k, {before} AS old, {canonical_sql(after, kind, features)} AS new
            FROM {table} AS t OFFSET 0) AS r
        WHERE r.k IS NOT NULL AND r.new IS NOT NULL AND r.old IS NOT NULL AND r.new <> r.old"""
    done = plpy.execute(plpy.prepare(query_text, ["bigint"]), [number])
    if done.nrows() == 0:
        plpy.notice("the expressions change no row")


def _one_value(plpy, expression: str, table: str) -> None:
    """22023 for a function that returns a set: a row would get several values. PostgreSQL takes
    none within CASE."""
    try:
        plpy.cursor(f"SELECT CASE WHEN true THEN ({expression}\n) END FROM {table} AS t LIMIT 0"
                    ).close()
    except plpy.SPIError as error:
        if getattr(error, "sqlstate", None) != "0A000":
            raise
        raise InvalidArgument(f'"{expression}" gives a set of values',
                              hint="An expression gives one value for each training row, such as "
                                   "a subquery that aggregates them.") from None


def _with_words(plpy, options: dict) -> dict:
    """The options with the words of a user's table in place of its name: read here, with the
    caller's rights."""
    if "table" not in options:
        return options
    rest = {name: value for name, value in options.items()
            if name not in ("table", "word", "replacement")}
    names = [options.get("word", "word"), options.get("replacement")]
    if not all(isinstance(name, str) for name in (options["table"], names[0])):
        raise InvalidArgument('options "table" and "word" are names')
    columns = [plpy.quote_ident(name) + "::text" for name in names if name is not None]
    relation = query(plpy, "SELECT $1::regclass::text AS relation", ["text"],
                     [options["table"]])[0]["relation"]
    rows = [list(row.values()) for row in fetch_all(
        plpy, f"SELECT {columns[0]} AS a{', ' + columns[1] + ' AS b' if columns[1:] else ''} "
              f"FROM {relation} ORDER BY 1")]
    if any(None in row for row in rows):
        raise InvalidArgument(f"table {relation} has a word that is null")
    words = {row[0]: row[1] for row in rows} if columns[1:] else [row[0] for row in rows]
    return {**rest, "words": words}


def _value(plpy, model: dict) -> str:
    """The feature value of a training row `t`, as the model's kind of input."""
    if model["kind"] != "columns":
        return f"t.{plpy.quote_ident(model['features'][0])}"
    names = [plpy.quote_ident(name) for name in model["features"]]
    return json_object_sql(names, [f"t.{name}" for name in names])


def _full_name(plpy, model: dict) -> str:
    """The training table's name with its schema, whatever the search_path of who runs it."""
    row = query(plpy, """
        SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = $1::regclass""", ["text"], [model["training_table"]])
    return row[0]["name"]
