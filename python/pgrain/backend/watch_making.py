"""watch and unwatch, and how a watch's state is computed from its query.

What a query's creator wrote runs as its creator, here and in the triggers; `watch` says how a watch
is read.
"""

from __future__ import annotations

import json

from pgrain.backend import complain, session, watch_joins
from pgrain.backend.spi import (
    entry_point,
    fetch_all,
    from_postgres,
    query,
    refused,
    writes_nothing,
)
from pgrain.backend.watch import QUERY, SETTINGS, no_watch
from pgrain.errors import (
    ActiveTransaction,
    DuplicateObject,
    InsufficientPrivilege,
    InvalidArgument,
    NotReady,
    PgrainError,
    UnsupportedOperator,
)

_ALERT_BYTES = 7900        # PostgreSQL's notifications carry less than 8000
_FLOATS = (700, 701)       # float4, float8
# STABLE functions of PostgreSQL's own whose result changes from one statement to the next.
_MOVING = ("now", "transaction_timestamp", "statement_timestamp", "current_setting", "age",
           "current_database", "current_schema", "current_schemas", "inet_client_addr",
           "inet_client_port", "inet_server_addr", "inet_server_port", "row_security_active")


@entry_point
def watch(plpy, name: str, text: str, alert: str | None) -> None:
    """Make a standing query: triggers first, then its state in a later snapshot."""
    if name is None or text is None:
        raise InvalidArgument("name and query may not be null")
    if not name.strip() or QUERY.match(name):
        raise InvalidArgument(f'"{name}" cannot be the name of a watch',
                              detail="complain would take it for a query.")
    if alert is not None and len(json.dumps([name, alert])) > _ALERT_BYTES:
        raise InvalidArgument("the names of watch and alert are too long for a notification",
                              detail=f"As JSON they may take {_ALERT_BYTES} bytes.")
    if query(plpy, "SELECT FROM pgrain.watch WHERE name = $1", ["text"], [name]):
        raise DuplicateObject(f'watch "{name}" exists already',
                              hint=f"End it with SELECT pgrain.unwatch({_quoted(name)}).")
    number = _make(plpy, name, text, alert)
    try:
        plpy.commit()
    except plpy.SPIError as error:
        if getattr(error, "sqlstate", None) != "2D000":
            raise
        raise ActiveTransaction("CALL pgrain.watch cannot run inside a transaction block",
                                detail="Its triggers must be there before its state is computed.",
                                hint="Run it outside of one (psycopg: autocommit).") from None
    failure = None
    try:
        query(plpy, f"SELECT pgrain._watch_{number:d}_build()")
    except plpy.SPIError as error:
        failure = from_postgres(error)
    if failure is not None:
        plpy.rollback()
        query(plpy, "DELETE FROM pgrain.watch WHERE watch = $1", ["bigint"], [number])
    # (held since its row was made: pgrain._begin_notes)
    query(plpy, "SELECT pgrain._leave('watch', $1)", ["text"], [str(number)])
    plpy.commit()
    if failure is not None:
        raise failure


def _parts(plpy, text: str, alert: str | None = None) -> tuple[list[dict], dict]:
    """(tables, the rest) of what a watch of the query is made of, as its names are read now."""
    plan, answer = asked(plpy, text)
    parts = watch_joins.parts if "queries" in answer else parts_of_one
    tables, made = parts(plpy, plan, answer, alert)
    made |= {"plain": _check_functions(plpy, made["functions"]),
             "oids": [table["oid"] for table in tables]}
    if len(set(made["oids"])) < len(tables):
        raise UnsupportedOperator("a join of a table with itself cannot be watched",
                                  hint="Complain about the query itself.")
    _check_digits(plpy, made["shape"])
    return tables, made


def _check_digits(plpy, shape: dict) -> None:
    """0A000 where different numbers that group or meet would have one text: that of float8 and
    float4 has as many digits as the setting extra_float_digits says, and all of them from 1 on."""
    keys = [of["columns"][number] for of in (shape, *shape.get("sides", ()))
            for number in of["keys"]]
    digits = query(plpy, "SELECT pg_catalog.current_setting('extra_float_digits')::int AS n")
    if digits[0]["n"] < 1 and any(key["type_oid"] in _FLOATS for key in keys):
        raise UnsupportedOperator(
            "columns of floating-point numbers that are shown with fewer digits than they have "
            "cannot be watched", detail="extra_float_digits is less than 1.",
            hint="SET extra_float_digits = 1, or group by their cast to numeric or text.")


def asked(plpy, text: str) -> tuple[dict, dict]:
    """(plan of a query, the worker's first answer to `watch_plan`); made anew for a worker that
    has been started since, or has forgotten it."""
    plan, _, key = complain.planned(plpy, text)
    try:
        return plan, session.call(plpy, "watch_plan", {"plan": plan["plan"]})[0]
    except PgrainError as error:
        if error.sqlstate != complain.UNKNOWN_PLAN:
            raise
    session.STATE.plans.pop(key, None)
    plan, _, _ = complain.planned(plpy, text)
    return plan, session.call(plpy, "watch_plan", {"plan": plan["plan"]})[0]


def parts_of_one(plpy, plan: dict, answer: dict, alert: str | None) -> tuple[list[dict], dict]:
    """(tables, the rest) where one table's columns are what the model reads."""
    tables = []
    for table in answer["tables"]:
        rows = query(plpy, """
            SELECT c.oid::bigint AS oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
            FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n
                ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
            WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1)::pg_catalog.oid
            """, ["text"], [table["relation"]])
        tables.append({**table, "oid": rows[0]["oid"], "name": rows[0]["name"]})
    made, _ = session.call(plpy, "watch_plan", {
        "plan": plan["plan"], "names": [table["name"] for table in tables], "alert": alert})
    return tables, {**made, "fact": next(table["oid"] for table in tables if table["fact"]),
                    **dict.fromkeys(("second", "second_new", "second_old"))}


def _make(plpy, name: str, text: str, alert: str | None) -> int:
    tables, made = _parts(plpy, text, alert)
    names = {table["oid"]: table["name"] for table in tables}
    for fact, *notes in ((made["fact"], made["note_new"], made["note_old"]),
                         (made["second"], made["second_new"], made["second_old"])):
        # What a transition table cannot give (ctid, a schema before a column) shows here.
        for rows, note in zip(("_pgrain_new", "_pgrain_old"), notes, strict=True):
            if note is not None:
                fetch_all(plpy, f"EXPLAIN (COSTS OFF) WITH {rows} AS (SELECT * FROM {names[fact]})"
                                f" SELECT * FROM (\n{note}\n) AS _pgrain_note")
    settings = {name: query(plpy, "SELECT pg_catalog.current_setting($1) AS s", ["text"],
                            [name])[0]["s"] for name in SETTINGS}
    settings["search_path"] = list(query(
        plpy, "SELECT pg_catalog.current_schemas(false)::text[] AS s")[0]["s"])
    try:
        number = query(plpy, """
            INSERT INTO pgrain.watch (name, query, alert, settings, model, fact, tables, functions,
                                      plain, note_new, note_old, second, second_new, second_old,
                                      shape)
            VALUES ($1, $2, $3, $4::jsonb, $5, $6::oid::regclass, $7::oid[]::regclass[], $8::name[],
                    $9, $10, $11, $12::oid::regclass, $13, $14, $15::jsonb)
            RETURNING watch
            """, ["text", "text", "text", "text", "text", "bigint", "bigint[]", "text[]", "boolean",
                  "text", "text", "bigint", "text", "text", "text"],
            [name, text, alert, json.dumps(settings), made["shape"]["model"], made["fact"],
             made["oids"], made["functions"], made["plain"], made["note_new"], made["note_old"],
             made["second"], made["second_new"], made["second_old"],
             json.dumps(made["shape"])])[0]["watch"]
        query(plpy, "SELECT pgrain._arm_watch($1)", ["bigint"], [number])
    except plpy.SPIError as error:
        if getattr(error, "sqlstate", None) != "55P03":
            raise refused(plpy, error, "A watch makes triggers and functions") from None
        raise PgrainError("a table of the watch is in use", sqlstate="55P03",
                          detail="Its triggers could not be made within 3 seconds.",
                          hint="Try again when long transactions on it have ended.") from None
    return number


def _check_functions(plpy, names: list[str]) -> bool:
    """Whether the query calls PostgreSQL's own functions only; 0A000 for what moves by itself."""
    plain = True
    for row in query(plpy, """
            SELECT p.proname::text AS name, n.nspname::text AS schema, p.provolatile::text AS how
            FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n
                ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
            WHERE p.proname OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.name[])
            """, ["text[]"], [names]):
        if row["schema"] == "pgrain":
            continue
        own = row["schema"] == "pg_catalog"
        plain = plain and own
        if row["how"] != "i" and (not own or row["name"] in _MOVING
                                  or row["name"].startswith("pg_")):
            raise UnsupportedOperator(
                f"the function {row['schema']}.{row['name']} cannot be watched",
                detail="Its result may change while the rows stay the same.",
                hint="Declare it IMMUTABLE if it is, or complain about the query itself.")
    return plain


@entry_point
def unwatch(plpy, name: str) -> None:
    """End a watch: its triggers, functions, notes and state go."""
    found = query(plpy, """
        SELECT coalesce(pg_catalog.pg_get_userbyid(o), w.owner)::text AS owner,
               coalesce(pg_catalog.pg_has_role(o, 'USAGE'),
                        (SELECT rolsuper FROM pg_catalog.pg_roles
                         WHERE rolname = current_user)) AS mine
        FROM pgrain.watch w, pgrain._watch_owner(w.watch) AS o
        WHERE w.name = $1""", ["text"], [name])
    if not found:
        raise no_watch(name)
    if not found[0]["mine"]:
        raise InsufficientPrivilege(f'watch "{name}" belongs to role "{found[0]["owner"]}"',
                                    hint="Only its members and superusers may end it.")
    try:
        query(plpy, "DELETE FROM pgrain.watch WHERE name = $1", ["text"], [name])
    except plpy.SPIError as error:
        raise refused(plpy, error, "Its triggers and functions are dropped") from None
    session.STATE.watches.pop(name, None)


@entry_point
@writes_nothing
def build(plpy, number: int) -> None:
    """Compute a watch's state from its query, in this statement's snapshot, as its creator."""
    session.ensure_loaded(plpy)
    role = query(plpy, "SELECT current_user::text AS role")[0]["role"]
    query(plpy, "SELECT pgrain._load_watch(NULL, $1, $2)", ["bigint", "name"], [number, role])
    found = session.STATE.loaded_watch
    if found is None:
        raise no_watch(str(number))
    if found.owner != role:
        raise InsufficientPrivilege(f'watch "{found.name}" belongs to role "{found.owner}"')
    if not found.allowed:
        raise InsufficientPrivilege(f'role "{role}" may not read all that the watched query reads')
    _, made = _parts(plpy, found.query)
    statements = [made[name] for name in ("note_new", "note_old", "second_new", "second_old")]
    if ((made["oids"], made["fact"], made["second"], made["plain"], made["shape"])
            != (found.oids, found.fact, found.second, found.plain, json.loads(found.shape))
            or query(plpy, "SELECT pg_catalog.md5(pg_catalog.concat($1, $2, $3, $4)) AS print",
                     ["text"] * 4, statements)[0]["print"] != found.statements):
        session.call(plpy, "watch_renew", {**made, "watch": number})
        raise NotReady("what the query reads, or how changes are noted, is not what it was",
                       detail="What notes a change has been made anew.", hint="Try again.")
    if found.print is None:
        raise NotReady(f'triggers of watch "{found.name}" are missing or off',
                       hint="The worker makes them again; see its log.")
    evaluation = complain._evaluate(plpy, found.query, complaints=[], options={"verify": "always"})
    complain._verify(plpy, evaluation)
    # (the worker compares what these add up to with that)
    sides = [complain._evaluate(plpy, text, complaints=[], options={"verify": "never"})
             for text in made.get("queries", ())]
    session.call(plpy, "watch_build", {
        "evaluation": evaluation["evaluation"], "watch": number, "print": found.print,
        "sides": [side["evaluation"] for side in sides],
        "generation": found.generation, "cut": found.cut,
        "notes": [note["note"] for note in found.notes],
        "notes_print": found.notes_print, "shape": json.loads(found.shape),
        "changes": [note["xid"] for note in found.notes if note["sign"] == 0]})


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
