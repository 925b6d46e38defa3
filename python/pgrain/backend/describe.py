"""describe: what training rows have in common, and the functions that its predicates call.

The training table is read here, as the caller, a chunk of rows as packed JSON at a time; the
worker learns rules; and PostgreSQL counts what each predicate covers. Nothing is told that the
caller could not read.
"""

from __future__ import annotations

import json

from pgrain.backend import session
from pgrain.backend.hints import no_model
from pgrain.backend.models import check_key, gone, key_text
from pgrain.backend.spi import entry_point, fetch_all, json_object, query
from pgrain.errors import InsufficientPrivilege, InvalidArgument

CHUNK_ROWS = 5000
MOST_ROWS = 100_000
MOST_ELEMENTS = 32
MOST_TEXT = 2000
_OPTIONS = {"most": (int, 1, 10), "precision": (float, 0.05, 1), "recall": (float, 0.01, 1)}
_NUMBERS = {"smallint", "integer", "bigint", "real", "double precision", "numeric"}
_TIMES = {"date": "date", "timestamp without time zone": "timestamp",
          "timestamp with time zone": "timestamptz"}
_TEXTS = {"text", "character varying", "character", "name"}

_landmarks: dict[tuple, dict] = {}


@entry_point
def describe(plpy, name: str, keys: list[str], options: str) -> list[tuple]:
    """Predicates with what they cover; none, and a NOTICE, where there is nothing to say."""
    fields = _options(options)
    if None in keys:
        raise InvalidArgument("a training key is null")
    facts = session.model_facts(plpy, name, trained=False)
    table, key, label = _training_table(plpy, name)
    columns = _columns(plpy, facts, table, key)
    if not columns:
        raise InsufficientPrivilege(f"there is no column of {table} that you may read",
                                    hint=f"Its owner can GRANT SELECT ON {table} to you.")
    named = key_text(plpy, table, key)
    counts = fetch_all(plpy, plpy.prepare(
        f"SELECT count(*) AS rows, count(*) FILTER (WHERE {named} = ANY ($1)) AS found "
        f"FROM {table} AS t", ["text[]"]), [keys])[0]
    if not counts["found"]:
        plpy.notice("nothing to say: " + (f"no row of {table} has one of these keys" if keys
                                          else "no training key is given"))
        return []
    step = max(1, -(-counts["rows"] // MOST_ROWS))
    blobs, head = _read(plpy, table, named, columns, keys, step)
    answer, _ = session.call(plpy, "describe", {
        "columns": [{"sql": sql, "kind": kind, "literal": literal,
                     "of": next((c[0] for c in columns if sql == f"length({c[0]})"), None)}
                    for sql, _, kind, literal in columns],
        "rows": head, "step": step, "options": fields}, blobs)
    found = []
    for predicate in answer["predicates"]:
        row = fetch_all(plpy, plpy.prepare(
            f"SELECT count(*) AS covered, count(*) FILTER (WHERE {named} = ANY ($1)) AS hits "
            f"FROM {table} AS t WHERE {predicate}", ["text[]"]), [keys])[0]
        if row["covered"] and row["hits"]:
            found.append((predicate, row["covered"], row["hits"] / row["covered"],
                          row["hits"] / counts["found"]))
    found = [row for row in found if row[2] >= fields["precision"] and row[3] >= fields["recall"]]
    if not found:
        plpy.notice("nothing to say: " + (answer["why"] or "no predicate covers these rows and "
                                          "little else"))
    return found


@entry_point
def cluster(plpy, name: str, key: str) -> int | None:
    """The cluster of a training row; None for a row that the active version did not learn."""
    found = _landmark(plpy, name, key)
    return None if found is None else found[0]


def forget_landmarks() -> None:
    """Empty this session's memory of training keys."""
    _landmarks.clear()


@entry_point
def resembles(plpy, name: str, key: str) -> str | None:
    """The class that a training row looks like; None for a row that is not known."""
    found = _landmark(plpy, name, key)
    return None if found is None else found[1]


def _options(text: str) -> dict:
    given = json_object(text)
    fields = {"most": 3, "precision": 0.5, "recall": 0.1}
    for name, value in given.items():
        if name not in _OPTIONS:
            raise InvalidArgument(f'no such option: "{name}"',
                                  hint=f"Options are {', '.join(sorted(_OPTIONS))}.")
        kind, low, high = _OPTIONS[name]
        if (isinstance(value, bool) or not isinstance(value, int | float)
                or not low <= value <= high or kind(value) != value):
            raise InvalidArgument(f'option "{name}" must be a number from {low} to {high}')
        fields[name] = kind(value)
    return fields


def _training_table(plpy, name: str) -> tuple[str, str, str]:
    rows = query(plpy, """
        SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
                   AS name, m.key, m.label
        FROM pgrain.models m LEFT JOIN pg_catalog.pg_class c ON c.oid = m.training_table
        LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE m.model = $1
        """, ["text"], [name])
    if rows[0]["name"] is None:
        raise gone(name)
    check_key(plpy, name, rows[0]["name"], rows[0]["key"])
    return rows[0]["name"], rows[0]["key"], rows[0]["label"]


def _columns(plpy, facts, table: str, key: str) -> list[tuple[str, str, str, str]]:
    """What rows are described by: (SQL of a predicate's left side, SQL of its value as JSON, kind,
    literal). Only columns that the caller may read."""
    # Unqualified names: the predicate is a WHERE over the table as anybody would write it.
    result = []
    for row in query(plpy, """
            SELECT a.attname::text AS name, t.typtype::text AS typtype,
                   pg_catalog.format_type(a.atttypid, NULL) AS type
            FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
            WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped
              AND pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT')
            ORDER BY a.attnum""", ["text"], [table]):
        column, kind = plpy.quote_ident(row["name"]), row["type"]
        if row["name"] == key:
            continue
        if kind in _NUMBERS:
            result.append((column, f"{column}::float8", "number", "plain"))
        elif kind in _TIMES:
            result.append((column, f"extract(epoch FROM {column})::float8", "number",
                           _TIMES[kind]))
        elif kind == "boolean":
            result.append((column, column, "category", "plain"))
        elif kind == "uuid" or row["typtype"] == "e":     # values, but no words
            result.append((column, f"{column}::text", "category", "plain"))
        elif kind in _TEXTS:
            result.append((column, f"pg_catalog.left({column}::text, {MOST_TEXT})", "text",
                           "plain"))
            if kind in ("text", "character varying"):
                length = f"length({column})"
                result.append((length, length, "number", "plain"))
        elif kind == "bytea" and row["name"] in facts.features:
            for function in ("brightness", "contrast"):
                value = f"pgrain.{function}({column})"
                result.append((value, value, "number", "plain"))
        elif kind == "double precision[]" and row["name"] in facts.features:
            for at in range(1, _elements(plpy, table, column) + 1):
                result.append((f"{column}[{at}]", f"{column}[{at}]", "number", "plain"))
    if facts.spectrum is not None and _may_read(plpy, facts.name):
        model, text = plpy.quote_literal(facts.name), key_text(plpy, table, key, "")
        value = f"pgrain.resembles({model}, {text})"
        result.append((value, value, "category", "plain"))
        value = f"pgrain.cluster({model}, {text})"
        result.append((f"{value}::text", f"{value}::text", "category", "plain"))
    return result


def _elements(plpy, table: str, column: str) -> int:
    rows = fetch_all(plpy, f"SELECT pg_catalog.cardinality({column}) AS n FROM {table} AS t "
                           f"WHERE {column} IS NOT NULL LIMIT 1")
    return min(rows[0]["n"], MOST_ELEMENTS) if rows else 0


def _read(plpy, table: str, named: str, columns: list, keys: list[str], step: int
          ) -> tuple[list[bytes], list[int]]:
    """A JSON array of values for each column and, first, of who is a suspect; chunk after chunk.

    Of a large table every `step`-th row stands for the others; suspects are all taken.
    """
    inner = ", ".join(f"{value} AS c{number}" for number, (_, value, _, _) in enumerate(columns))
    outer = ", ".join(f"json_agg(c{number})::text AS c{number}" for number in range(len(columns)))
    sample = ("" if step == 1 else
              f" WHERE {named} = ANY ($1) OR pg_catalog.hashtext({named}) % {step} = 0")
    cursor = plpy.cursor(plpy.prepare(
        f"SELECT json_agg(suspect)::text AS suspect, {outer} FROM (SELECT (row_number() OVER () "
        f"- 1) / {CHUNK_ROWS} AS chunk, {named} = ANY ($1) AS suspect, {inner} "
        f"FROM {table} AS t{sample}) AS r GROUP BY chunk ORDER BY chunk", ["text[]"]), [keys])
    blobs, head = [], []
    while True:
        batch = cursor.fetch(1)
        if not len(batch):
            return blobs, head
        parts = [batch[0]["suspect"], *(batch[0][f"c{n}"] for n in range(len(columns)))]
        blobs += [part.encode() for part in parts]
        head.append(len(parts))


def _may_read(plpy, name: str) -> bool:
    return query(plpy, "SELECT pg_catalog.has_table_privilege(c.oid, 'SELECT') AS may "
                       "FROM pgrain.models m JOIN pg_catalog.pg_class c "
                       "ON c.oid = m.training_table WHERE m.model = $1", ["text"], [name])[0]["may"]


def _landmark(plpy, name: str, key: str) -> tuple[int, str | None] | None:
    rows = query(plpy, """
        SELECT m.version, m.precomputed_at::text AS at,
               (SELECT pg_catalog.max(e.erasure) FROM pgrain.erasures e WHERE e.model = m.model)
                   AS erasure, c.oid IS NULL
               OR pg_catalog.has_table_privilege(c.oid, 'SELECT') AS may
        FROM pgrain.models m LEFT JOIN pg_catalog.pg_class c ON c.oid = m.training_table
        WHERE m.model = $1""", ["text"], [name])
    if not rows:
        raise no_model(plpy, name)
    if not rows[0]["may"]:
        raise InsufficientPrivilege(f'permission denied for the training table of model "{name}"',
                                    hint="Its owner can GRANT SELECT on it to you; "
                                         "pgrain.models names it.")
    if rows[0]["at"] is None:
        return None
    session.ensure_loaded(plpy)
    wanted = (session.STATE.extension, name, rows[0]["version"], rows[0]["at"],
              rows[0]["erasure"])
    known = _landmarks.get(wanted)
    if known is None:
        known = _load(plpy, name)
        _landmarks.clear()
        _landmarks[wanted] = known
    return known.get(key)


def _load(plpy, name: str) -> dict[str, tuple[int, str | None]]:
    facts = session.model_facts(plpy, name)
    if facts.spectrum is None:
        return {}
    _, blobs = session.call(plpy, "landmarks", {"version": facts.version,
                                                "spectrum": facts.spectrum})
    keys, clusters, likenesses = json.loads(bytes(blobs[0])), blobs[1], blobs[2]
    classes = facts.classes
    return {key: (number, classes[like] if like >= 0 else None) for key, number, like in zip(
        keys, memoryview(bytes(clusters)).cast("h"), memoryview(bytes(likenesses)).cast("h"),
        strict=True)}
