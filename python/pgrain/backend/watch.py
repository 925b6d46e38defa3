"""How a session reads a watch: its state, and the notes that its snapshot sees.

The state is written by the worker alone. A reader gets out of a watch what the query itself would
give them, or is refused. How watches are made: `watch_making`.
"""

from __future__ import annotations

import json
import re

from pgrain.backend import complain, hints, session, snapshots
from pgrain.backend.keys import protected
from pgrain.backend.spi import query
from pgrain.errors import InsufficientPrivilege, PgrainError, UndefinedObject

QUERY = re.compile(r"\s*(select|with|table|values|explain|\(|--|/\*)", re.I)    # no name of one
# Under which a query is read as its creator wrote it, beside search_path.
SETTINGS = ("TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output",
            "lc_numeric", "lc_monetary", "lc_time", "default_text_search_config",
            "timezone_abbreviations", "array_nulls", "transform_null_equals", "xmloption")
_MATCHES = 32              # complaints about a watch whose WHERE a session knows as a statement
_WATCHES = 64              # that a session remembers
_NOTES_BYTES = 1 << 20     # of a watch's notes, between two statements


class Standing:
    """One watch as this session knows it.

    generation: of the state whose output (`output`, JSON for a complaint's WHERE) is known here.
    here: the `snapshots.Environment` in which it was read; conditions: what `complain.selected` has
    prepared since. keys_table, keys_column: as those of `session.Model`.
    """

    def __init__(self, row: dict):
        self.__dict__.update(row)
        self.notes_print: str = self.statements + self.tree
        self.here: snapshots.Environment | None = None
        self.conditions: dict[str, object] = {}

    @property
    def legible(self) -> bool:
        """Whether this session reads the watch's texts as they were written: a day and an interval
        in some of the styles are others in others."""
        return ((self.date_style.startswith("ISO") or self.date_style == self.here.date_style)
                and (self.interval_style != "sql_standard"
                     or self.interval_style == self.here.interval_style))

    @property
    def stale(self) -> str | None:
        """Why the state cannot be used, as a sentence's end; None where it can."""
        if self.generation is None:
            return "it has not been computed yet"
        if self.print is None:
            return "its triggers are missing or off"
        if self.state_print != self.print:
            return "its tables, triggers or functions have been altered"
        if self.epoch != self.cut:
            return "more changes waited than are noted"
        if (self.version, self.spectrum) != (self.active_version, self.active_spectrum):
            return f'model "{self.model}" has another version or spectrum by now'
        if self.notes_print != self.state_notes:
            return "its statements, or its partitions, have changed"
        return None


def load(plpy, name: str | None, number: int | None, role: str) -> None:
    """Read a watch and what `role` may do about it. Runs as the extension's owner."""
    rows = query(plpy, """
        SELECT w.watch, w.name, w.query, pg_catalog.pg_get_userbyid(o)::text AS owner,
               o::bigint AS owner_oid, w.model, w.shape::text AS shape, w.plain,
               w.tables::oid[]::bigint[] AS oids, w.fact::oid::bigint AS fact,
               (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(s), ', ' ORDER BY n)
                FROM pg_catalog.jsonb_array_elements_text(
                         w.settings -> 'search_path' || '"pg_temp"')
                     WITH ORDINALITY AS e (s, n)) AS path, w.settings::text AS settings,
               w.settings ->> 'DateStyle' AS date_style,
               w.settings ->> 'IntervalStyle' AS interval_style,
               made.statements, w.second::oid::bigint AS second,
               pgrain._watch_tree(w.tables) AS tree,
               s.generation, s.version, s.spectrum, s.pairs, s.notes_print AS state_notes,
               s.print AS state_print, s.problem, s.changes, s.before::text AS before,
               s.epoch, pgrain._watch_cut(w.watch) AS cut,
               p.training_table::oid::bigint AS keys_table, p.key AS keys_column,
               pgrain._watch_print(w.watch) AS print, m.active_version,
               (SELECT x.spectrum FROM pgrain.spectrum x
                WHERE x.spectrum = v.active_spectrum) AS active_spectrum,
               EXISTS (SELECT FROM pgrain.watch_note n WHERE n.watch = w.watch) AS noted,
               -- (in one whoever reads has written, so this is asked anew: see snapshots.py)
               pg_catalog.pg_trigger_depth() > 0 AS in_trigger,
               -- (a table that was dropped: its state is not used)
               (SELECT pg_catalog.bool_and(coalesce(
                    pg_catalog.has_table_privilege($3, t, 'SELECT'), true))
                FROM pg_catalog.unnest(w.tables) AS t)
               AND (w.plain OR pg_catalog.pg_has_role($3, o, 'USAGE')) AS allowed
        FROM pgrain.watch w CROSS JOIN pgrain._watch_owner(w.watch) AS o
        CROSS JOIN LATERAL (VALUES (pg_catalog.md5(pg_catalog.concat(
            w.note_new, w.note_old, w.second_new, w.second_old)))) AS made (statements)
        LEFT JOIN pgrain.model m ON m.model = w.model
        LEFT JOIN pgrain.model_version v ON v.version = m.active_version
        LEFT JOIN pgrain.watch_state s ON s.watch = w.watch
        LEFT JOIN pgrain.protected_keys p ON p.model = w.model
        WHERE w.name = $1 OR w.watch = $2
        """, ["text", "bigint", "name"], [name, number, role])
    session.STATE.loaded_watch = None
    if not rows:
        session.STATE.watches.pop(name, None)
        return
    found = Standing(dict(rows[0]))
    known = session.STATE.watches.get(found.name)
    same = known is not None and (known.watch, known.generation) == (found.watch,
                                                                     found.generation)
    found.output = known.output if same else None
    found.matches = known.matches if same else {}
    found.cells = None
    watches = session.STATE.watches
    session.STATE.loaded_watch = found
    found.notes = []
    if name is None:        # to be computed: which notes there are, not what they say
        found.notes = [dict(row) for row in query(plpy, """
            SELECT n.note, n.sign, n.xid::text AS xid FROM pgrain.watch_note n
            WHERE n.watch = $1 AND n.owner = $2::oid
            """, ["bigint", "bigint"], [found.watch, found.owner_oid])]
        return
    watches.pop(found.name, None)
    watches[found.name] = found
    while len(watches) > _WATCHES:      # those that were read longest ago
        del watches[next(iter(watches))]
    if found.noted:         # where one says that it is to be computed again, no other is of use
        found.notes = [dict(row) for row in query(plpy, """
            SELECT n.note, n.side, n.sign, n.print, n.tags, n.metas, n.a, n.b, n.c,
                   n.xid::text AS xid, n.snapshot::text AS snapshot,
                   pg_catalog.pg_snapshot_xmin(n.snapshot) > $3::xid8 AND coalesce((
                       SELECT pg_catalog.bool_and(
                           pg_catalog.pg_visible_in_snapshot(x::xid8, n.snapshot))
                       FROM pg_catalog.unnest($4) AS x), true) AS sees
            FROM pgrain.watch_note n WHERE n.watch = $1 AND n.owner = $2::oid
            AND (n.sign OPERATOR(pg_catalog.=) 0 OR NOT EXISTS (
                SELECT FROM pgrain.watch_note m WHERE m.watch = $1 AND m.owner = $2::oid
                AND m.sign OPERATOR(pg_catalog.=) 0))
            ORDER BY n.note
            """, ["bigint", "bigint", "text", "text[]"],
            [found.watch, found.owner_oid, found.before or "0", found.changes or []])]


def load_cells(plpy, name: str | None) -> None:
    """Read a watch's cells into memory. Runs as the extension's owner."""
    found = session.STATE.watches[name]
    found.cells = [dict(row) for row in query(plpy, """
        SELECT key, texts, data FROM pgrain.watch_cell WHERE watch = $1 ORDER BY key
        """, ["bigint"], [found.watch])]


def find(plpy, text: str) -> Standing | None:
    """The watch of that name as of this statement; None where `text` is no name but a query."""
    if QUERY.match(text):
        return None
    session.ensure_loaded(plpy)
    here = snapshots.environment(plpy)
    role, found = here.role, session.STATE.watches.get(text)
    if found is None or here.mark is None or found.here != here:
        query(plpy, "SELECT pgrain._load_watch($1, NULL, $2)", ["text", "name"], [text, role])
        found = session.STATE.loaded_watch
    if found is None:
        if not re.search(r"\s", text.strip()):
            raise no_watch(text, hints.of_relation(plpy, text))
        return None
    found.here = here
    if not found.allowed:
        raise InsufficientPrivilege(
            f'permission denied for watch "{text}"',
            detail=f'Role "{role}" may not read all that the watched query reads.',
            hint="It needs SELECT on its tables; where the query calls functions of users, "
                 f'membership in role "{found.owner}" as well.')
    return found


def read(plpy, found: Standing, params: dict):
    """Ask the worker about a watch's state; None where it is stale, with a notice."""
    reason = found.stale
    for note in found.notes:
        if reason is None and note["sign"] == 0:
            reason = note["print"]
        elif reason is None and (not note["sees"] or note["print"] != found.state_notes):
            reason = "a change was made before another table's, or a partition's"
        elif reason is None and not _whole(note):
            reason = "a note is none that its statements make"
    if reason is not None:
        return _from_query(plpy, found, f"is to be computed again ({reason})")
    if found.in_trigger:    # AFTER ... FOR EACH ROW comes before what notes the change
        return _from_query(plpy, found, "is read in a trigger")
    if found.problem is not None:
        return _from_query(plpy, found, f"is too large ({found.problem})")
    params |= {"watch": found.watch, "generation": found.generation, "version": found.version,
               "spectrum": found.spectrum, "pairs": found.pairs}
    notes, blobs = [], []
    for note in found.notes:
        notes.append(packed_note(note, blobs))
    if notes:
        params |= {"notes": notes, "shape": json.loads(found.shape),
                   "last_seq": session.model_facts(plpy, found.model).last_seq}
    try:
        answer, _ = session.call(plpy, "watch_read", params, blobs)
    except PgrainError as error:
        if not notes or error.sqlstate[:2] not in ("0A", "22", "54"):
            raise
        # A note of rows that cannot be counted, which may be gone again by now.
        return _from_query(plpy, found, f"is to be computed again ({error.message})")
    if "need_state" in answer:
        query(plpy, "SELECT pgrain._load_watch_cells($1)", ["text"], [found.name])
        cells, found.cells = found.cells, None      # the worker keeps them
        params |= {"state": [[cell["key"], cell["texts"]] for cell in cells],
                   "shape": json.loads(found.shape)}
        answer, _ = session.call(plpy, "watch_read", params,
                                 [*(cell["data"] for cell in cells), *blobs])
    if "too large" in answer:
        return _from_query(plpy, found, f"is too large ({answer['too large']})")
    return answer


def _from_query(plpy, found: Standing, state: str) -> None:
    plpy.notice(f'pgrain: watch "{found.name}" {state}; this answer is computed from its query')


def _whole(note: dict) -> bool:
    """Whether a note has of each column as many as it has tags. (Who made the watch may have
    inserted it.)"""
    tags = note["tags"]
    return isinstance(tags, list) and all(isinstance(tag, str) for tag in tags) and all(
        isinstance(note[name], list) and len(note[name]) == len(tags)
        and all(part is None or isinstance(part, kind) for part in note[name])
        for name, kind in (("metas", str), ("a", bytes), ("b", bytes), ("c", bytes)))


def let_go(found: Standing) -> None:
    """Forget a watch with many notes: an idle session is not to hold them."""
    if sum(len(part) for note in found.notes for column in "abc"
           for part in note[column] or () if part is not None) > _NOTES_BYTES:
        session.STATE.watches.pop(found.name, None)


def packed_note(note: dict, blobs: list) -> dict:
    """A note's head for the wire; its blobs are appended to `blobs`."""
    head = []
    for number, tag in enumerate(note["tags"]):
        parts = [note[column][number] for column in "abc"]
        head.append([tag, note["metas"][number], [part is not None for part in parts]])
        blobs.extend(part for part in parts if part is not None)
    return {"side": note["side"], "sign": note["sign"], "rows": head}


def rank(plpy, found: Standing, complaints: list[str], top_k: int, intervention: str,
         options: dict) -> dict | None:
    """The worker's ranking for complaints about a watch; None where its query must be run."""
    if options.get("method", "rain++") != "rain++" or options.get("verify") == "always":
        return None
    params = {"complaints": complaints, "top_k": top_k, "intervention": intervention,
              "options": options, "matches": None, "as_rows": protected([found])}
    statements = found.matches.get(tuple(complaints))
    if statements is not None and any(statements) and not found.legible:
        return None
    if statements is not None and found.output is not None and not found.notes:
        params["matches"] = _matches(plpy, found, statements, found.output)
        if [] in params["matches"]:
            return None
    answer = read(plpy, found, params)
    if answer is None or "ad hoc" in answer:
        return None
    if "match" in answer:
        if any(answer["match"]) and not found.legible:
            return None
        if not found.notes:
            if len(found.matches) >= _MATCHES:
                found.matches.clear()
            found.matches[tuple(complaints)] = answer["match"]
            found.output = answer["output"]
        params["matches"] = _matches(plpy, found, answer["match"], answer["output"])
        if answer["absent"] and [] in params["matches"]:
            return None       # about rows that are possible but not in the result, perhaps
        answer = read(plpy, found, {key: value for key, value in params.items()
                                    if key != "state"})
    return answer


def _matches(plpy, found: Standing, statements: list, output: str) -> list:
    return [None if sql is None else _match(plpy, found, sql, output) for sql in statements]


def _match(plpy, found: Standing, sql: str, output: str) -> list[int]:
    try:
        return complain.selected(plpy, found.conditions, sql, output)
    except plpy.SPIError as error:
        columns = [column["name"] for column in json.loads(found.shape)["columns"]]
        raise hints.of_condition(plpy, columns, error) from None


def cells(plpy, found: Standing, include_absent: bool) -> list[tuple] | None:
    """Rows of pgrain.provenance for a watch; None where its query must be run."""
    answer = read(plpy, found, {"cells": True, "include_absent": include_absent})
    if answer is None or "ad hoc" in answer:
        return None
    return [tuple(row) for row in answer["rows"]]


def query_of(plpy, text: str) -> str:
    """The query of the watch of that name, its names and texts meaning what they meant to its
    creator until this call ends; or `text` itself, which is a query. The settings that a
    complaint's own texts are read in are in `session.STATE.own` then."""
    session.STATE.own = {}
    found = find(plpy, text)
    if found is None:
        return text
    settings = {name: value for name, value in json.loads(found.settings).items()
                if name in SETTINGS}
    if not found.legible:       # its days are read in its order, and written so that all read them
        settings["DateStyle"] = "ISO, " + found.date_style.rpartition(" ")[2]
        if found.interval_style == "sql_standard":
            settings["IntervalStyle"] = "postgres"
    own = {row["name"]: row["own"] for row in query(plpy, """
        SELECT name, pg_catalog.current_setting(name) AS own FROM pg_catalog.unnest($1) AS name
        """, ["text[]"], [list(settings)])}
    set_config(plpy, {"search_path": found.path, **settings})
    session.STATE.own = {name: (value, settings[name]) for name, value in own.items()
                         if value != settings[name]}
    return found.query


def set_config(plpy, settings: dict[str, str]) -> None:
    """Settings, until this call ends."""
    query(plpy, "SELECT pg_catalog.set_config(name, value, true) "
                "FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS s (name, value)",
          ["text[]", "text[]"], [list(settings), list(settings.values())])


def no_watch(name: str, hint: str | None = None) -> UndefinedObject:
    return UndefinedObject(f'watch "{name}" does not exist',
                           hint=hint or "See pgrain.watches, or make it with CALL pgrain.watch.")
