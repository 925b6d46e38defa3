"""complain, provenance and explain: carry a query between PostgreSQL and the worker.

The worker thinks, PostgreSQL executes: EXPLAIN, probes, capture, the query itself (to verify) and
the complaint's WHERE all run here, as the calling user and in the caller's snapshot.
"""

from __future__ import annotations

import re
import struct
from collections import OrderedDict

from pgrain.backend import hints, session, snapshots, watch
from pgrain.backend.keys import protected, visible
from pgrain.backend.spi import (
    entry_point,
    fetch_all,
    from_postgres,
    json_object,
    prepared,
    query,
    writes_nothing,
)
from pgrain.errors import ComplaintSyntax, InvalidArgument, PgrainError, UnsupportedOperator
from pgrain.settings import QUERY_BYTES, TOP_K
from pgrain.wire.identity import pack_value
from pgrain.wire.ranked import pack_rows

_KNOWN_PLANS = 64
_FEW_TUPLES = 1000
_KNOWN_MATCHES = 32    # of a plan: complaints whose WHERE is evaluated beforehand
UNKNOWN_PLAN = "PG001"   # the worker has restarted or forgotten this plan
NEEDS_ROWS = "PG002"     # a complaint about rows needs a plan that knows their presence
# A guess that saves a round: the worker, which reads the grammar, has the last word (NEEDS_ROWS).
_ABOUT_ROWS = re.compile(r"\b(no|a)\s+row\b", re.IGNORECASE)
OPTIONS = {"among", "plausible", "method", "k", "damping", "filter", "normalize", "verify"}


@entry_point
def explain_statement(plpy, text: str, output: str) -> str:
    """EXPLAIN of one statement, as TEXT or JSON; through a cursor, which refuses several."""
    if text is None or output not in ("TEXT", "JSON"):
        raise InvalidArgument(f'no such format: "{output}"')
    explain = f"EXPLAIN (VERBOSE, COSTS OFF, FORMAT {output}) "
    try:
        rows = fetch_all(plpy, explain + text)
    except plpy.SPIError as error:
        sqlstate = from_postgres(error).sqlstate
        if sqlstate == "42P02":     # undefined_parameter
            raise UnsupportedOperator(
                "a parameter has no provenance yet",
                detail=_place(text, error.spidata[4] - 1 - len(explain)),
                hint="Write the value itself.") from None
        if sqlstate != "42P11":     # invalid_cursor_definition
            raise
        raise ComplaintSyntax("the query is not one SELECT",
                              detail="It holds several statements.") from None
    return "\n".join(next(iter(row.values())) for row in rows)


def _place(text: str, position: int) -> str | None:
    """Line and column of a parameter, for DETAIL."""
    found = re.match(r"\$[0-9]+", text[max(position, 0):])
    if not found:
        return None
    line, before = text.count("\n", 0, position) + 1, text[:position].rpartition("\n")[2]
    return f'Line {line}, column {len(before) + 1}: "{found.group()}".'


@entry_point
@writes_nothing
def complain(plpy, text: str, complaints: list[str], top_k: int, intervention: str,
             options: str) -> list[list]:
    """Ranked training rows, packed by columns (`wire/ranked.py`), one list a model."""
    options = check_options(options)
    TOP_K.check(top_k)
    found = watch.find(plpy, text)
    if found is not None:
        answer = watch.rank(plpy, found, _complaints(complaints), top_k, intervention, options)
        watch.let_go(found)
        if answer is not None:
            return _told(plpy, answer, found)
    ranking = {"top_k": top_k, "intervention": intervention, "options": options}
    answer = _evaluate(plpy, watch.query_of(plpy, text), _complaints(complaints), options,
                       ranked=True, ranking=ranking)
    if "notices" not in answer:
        answer, _ = session.call(plpy, "rank", {
            **_verified_matches(plpy, answer), **ranking,
            "as_rows": protected(answer["known"].models.values())})
    return _told(plpy, answer)


def _told(plpy, answer: dict, facts=None) -> list[list]:
    for notice in answer["notices"]:
        plpy.notice(notice)
    if "ranked" in answer:
        return answer["ranked"]
    return pack_rows(visible(plpy, answer["rows"], model=1, number=2, key=3, facts=facts))


def evaluate_complaints(plpy, text: str, complaints: list[str], options: dict,
                        ranked: bool = True) -> dict:
    """Evaluate the query and find the rows that complaints are about: {"evaluation": its number,
    "matches": rows of each complaint, None for all}.

    ranked: a ranking is to follow, so 55000 for a model without a spectrum.
    """
    return _verified_matches(plpy, _evaluate(plpy, watch.query_of(plpy, text),
                                             _complaints(complaints), options, ranked=ranked))


def _verified_matches(plpy, evaluation: dict) -> dict:
    if evaluation["verify"]:
        _verify(plpy, evaluation)
    return {"evaluation": evaluation["evaluation"],
            "matches": [match and _match(plpy, evaluation, number, match)
                        for number, match in enumerate(evaluation["match"])]}


def _complaints(complaints: list[str]) -> list[str]:
    if not all(isinstance(complaint, str) for complaint in complaints):
        raise InvalidArgument("each complaint is a text, not null",
                              hint="Give one array of complaints.")
    if not complaints:
        raise InvalidArgument("no complaint is given", hint="For example 'flagged <= 50'.")
    return complaints


@entry_point
@writes_nothing
def provenance(plpy, text: str, include_absent: bool) -> list[tuple]:
    """Each model-dependent cell; see sql/60_complain.sql for the columns."""
    found = watch.find(plpy, text)
    if found is not None:
        rows = watch.cells(plpy, found, include_absent)
        watch.let_go(found)
        if rows is not None:
            return rows
    evaluation = _evaluate(plpy, watch.query_of(plpy, text), complaints=[], options={})
    if evaluation["verify"]:
        _verify(plpy, evaluation)
    answer, _ = session.call(plpy, "cells", {"evaluation": evaluation["evaluation"],
                                             "include_absent": include_absent})
    return [tuple(row) for row in answer["rows"]]


@entry_point
@writes_nothing
def explain(plpy, text: str) -> list[str]:
    """The annotated plan, a line a row, then PostgreSQL's own."""
    text = watch.query_of(plpy, text)
    evaluation = _evaluate(plpy, text, complaints=[], options={})
    if evaluation["verify"]:
        _verify(plpy, evaluation)
    answer, _ = session.call(plpy, "render", {"evaluation": evaluation["evaluation"]})
    plan = query(plpy, "SELECT pgrain._explain($1, 'TEXT') AS plan", ["text"], [text])[0]["plan"]
    return [*answer["lines"], "", "PostgreSQL's plan:", *plan.split("\n")]


def check_options(options: str, allowed=OPTIONS) -> dict:
    """Options as a dict; 22023 for a name that is not allowed."""
    fields = json_object(options)
    unknown = sorted(set(fields) - set(allowed))
    if unknown:
        raise InvalidArgument(f'no such option: "{unknown[0]}"',
                              hint=f"Options are {', '.join(sorted(allowed))}.")
    return fields


def _evaluate(plpy, text: str, complaints: list[str], options: dict,
              ranked: bool = False, ranking: dict | None = None) -> dict:
    """Plan (or find the known plan), capture, and let the worker evaluate the circuit; with
    `ranking` (params of the method rank) its answer is that of rank, if it can be by now."""
    about_rows = any(_ABOUT_ROWS.search(complaint) for complaint in complaints)
    for _ in range(3):
        known, captured = _captured(plpy, text, about_rows)
        try:
            return _ask(plpy, known, captured, complaints, options, ranked, ranking)
        except PgrainError as error:
            if error.sqlstate == NEEDS_ROWS and not about_rows:
                about_rows = True
            elif error.sqlstate == UNKNOWN_PLAN:
                session.STATE.plans.pop(known.key, None)
                session.STATE.looked_up.clear()
            else:
                raise
    raise PgrainError("the worker forgets plans as they are made", hint="Try again.")


class Known:
    """What was looked up for a query. key: of the plan in the session's memory; stamps: keys of
    tuple stamps (`_stamp_keys`); mark: of the snapshot in which all this was so (`snapshots`).
    conditions: what `selected` has prepared since."""

    def __init__(self, plan: dict, models: dict, key: tuple, stamps: list[str]):
        self.plan, self.models, self.key, self.stamps = plan, models, key, stamps
        self.mark: str | None = None
        self.conditions: dict[str, object] = {}


def _captured(plpy, text: str, about_rows: bool) -> tuple[Known, tuple]:
    """What must be known of a query, and its capture (`_run_capture`)."""
    session.ensure_loaded(plpy)
    QUERY_BYTES.limit(len(text.encode()))
    environment = snapshots.environment(plpy)
    place = (text, environment._replace(mark=None), about_rows)
    remembered = session.STATE.looked_up
    known = remembered.get(place)
    if known is not None and known.mark is not None and known.mark == environment.mark:
        try:
            captured = _run_capture(plpy, known.plan, known.stamps)
        except plpy.SPIError as error:
            if _cancelled(error):
                raise
            # What has come between says its own error below.
        else:
            # The capture has locked what it reads: what is so now was so while it ran.
            if snapshots.still(plpy, known.mark):
                return known, captured
    plan, models, key = planned(plpy, text, about_rows, environment)
    known = Known(plan, models, key, _stamp_keys(plpy, plan))
    captured = _run_capture(plpy, plan, known.stamps)
    if not snapshots.moves(text) and snapshots.still(plpy, environment.mark):
        known.mark = environment.mark
    remembered[place] = known
    remembered.move_to_end(place)
    if len(remembered) > _KNOWN_PLANS:
        remembered.popitem(last=False)
    return known, captured


def planned(plpy, text: str, about_rows: bool = False,
            environment: snapshots.Environment | None = None) -> tuple[dict, dict, tuple]:
    """(plan, facts of its models, the key under which the session knows it) of a query."""
    session.ensure_loaded(plpy)
    QUERY_BYTES.limit(len(text.encode()))
    try:
        explained = query(plpy, "SELECT pgrain._explain($1, 'JSON') AS plan", ["text"],
                          [text])[0]["plan"]
    except plpy.SPIError as error:
        raise hints.of_query(plpy, text, error) from None
    environment = environment or snapshots.environment(plpy)
    # What EXPLAIN shows of a constant may be the same under settings that read it differently.
    key = (text, explained, environment._replace(mark=None), about_rows)
    state = session.STATE
    plan = state.plans.get(key)
    models = {name: session.model_facts(plpy, name) for name in (plan or {}).get("models", ())}
    if (plan is None or plan["versions"] != {n: m.version for n, m in models.items()}
            or plan["print"] != _fingerprint(plpy, plan)):
        plan, models = _plan(plpy, text, explained, environment, about_rows)
        state.plans[key] = plan
        if len(state.plans) > _KNOWN_PLANS:
            state.plans.popitem(last=False)
    return plan, models, key


def _plan(plpy, text: str, explained: str, environment: snapshots.Environment,
          about_rows: bool) -> tuple[dict, dict]:
    """Ask the worker for the capture; answer its questions about catalogs and models."""
    # So that what is asked for every query is planned once, as for the capture (`_statement`).
    query(plpy, "SELECT pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true)")
    models, probes = {}, {}
    while True:
        answer, _ = session.call(plpy, "plan", {
            "query": text, "explain": explained, "path": environment.path,
            "role": environment.role, "probes": probes, "rows": about_rows,
            "models": {name: _facts(model) for name, model in models.items()}})
        if "capture" in answer:
            plan = {**answer, "models": list(models),
                    "versions": {name: model.version for name, model in models.items()}}
            plan["print"] = _fingerprint(plpy, plan)
            return plan, models
        for name in answer.get("need_models", ()):
            models[name] = session.model_facts(plpy, name)
        for name, asked in answer.get("need_probes", {}).items():
            try:
                probes[name] = _probe(plpy, asked)
            except plpy.SPIError as error:
                raise hints.of_capture(plpy, models.values(), error) from None


def _fingerprint(plpy, plan: dict) -> str:
    return plpy.execute(_kept(plpy, plan, plan["fingerprint"]))[0]["fingerprint"]


def _kept(plpy, plan: dict, sql: str, *types: str):
    """A statement that is the plan's alone, prepared once and thrown away with it."""
    prepared = plan.setdefault("prepared", {})
    if sql not in prepared:
        prepared[sql] = plpy.prepare(sql, list(types))
    return prepared[sql]


def _statement(plpy, plan: dict, name: str, *types: str):
    """A statement of the plan, prepared once and thrown away with it: PostgreSQL's own plan cache
    does not notice that a name has come to mean another function.

    The secret must stay a parameter: were it a constant of a custom plan, debug_print_plan would
    show it. The caller's functions may have changed any setting by now, hence here.
    """
    query(plpy, "SELECT pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true), "
                "pg_catalog.set_config('standard_conforming_strings', 'on', true), "
                "pg_catalog.set_config('enable_nestloop', $1, true)", ["text"],
          ["on" if plan["nested_loops"] else "off"])
    prepared = plan.setdefault("prepared", {})
    if name not in prepared:
        text = plan[name] if name in plan else plan["fetch"][name.removeprefix("fetch ")]
        try:
            prepared[name] = plpy.prepare(text, list(types))
        except plpy.SPIError as error:
            models = [session.model_facts(plpy, model) for model in plan["models"]]
            raise hints.of_capture(plpy, models, error) from None
    return prepared[name]


def _facts(model) -> dict:
    return {"version": model.version, "classes": model.classes, "kind": model.kind,
            "features": model.features}


def _probe(plpy, asked: str | list) -> dict:
    """Rows of a SELECT that the worker asks for; [statement, text[], …]: one of our own, planned
    once a session."""
    if isinstance(asked, str):
        plan, arguments = plpy.prepare(asked), []
        plpy.cursor(plan).close()   # refuses several statements, which execute would run
    else:
        asked, *arguments = asked
        plan = prepared(plpy, asked, *["text[]"] * len(arguments))
    result = plpy.execute(plan, arguments, 100_000)
    rows = [[None if value is None else str(value) for value in row.values()] for row in result]
    return {"columns": result.colnames(), "types": result.coltypes(), "rows": rows}


def _ask(plpy, known: Known, captured: tuple, complaints: list[str], options: dict,
         ranked: bool, ranking: dict | None) -> dict:
    """Hand a capture over; by tuple stamps if that is possible, else by digests."""
    plan, models = known.plan, known.models
    matches = plan.setdefault("matches", OrderedDict())
    for stamps in ([known.stamps, []] if known.stamps else [[]]):
        params, blobs = captured or _run_capture(plpy, plan, stamps)
        captured = None
        if ranking is not None:
            params |= {"rank": {**ranking, "as_rows": protected(models.values())},
                       "matches": _remembered(plpy, known, matches.get(tuple(complaints)))}
        params |= {"complaints": complaints, "options": options, "ranked": ranked,
                   "models": {name: {"version": model.version, "spectrum": model.spectrum,
                                     "last_seq": model.last_seq}
                              for name, model in models.items()}}
        answer, wanted = session.call(plpy, "evaluate", params, blobs)
        new = []
        if "unknown" in answer:
            new = [_tuples(packed) for packed in wanted]
            answer, wanted = _learn(plpy, plan, stamps, new)
        if "unknown" not in answer:
            break   # else: tuples that are not the table's own, such as a new child's
    if "missing" in answer:
        counts, values = _fetch(plpy, plan, models, answer["missing"], wanted, new)
        answer, wanted = session.call(plpy, "supply", {"values": counts}, values)
        if "missing" in answer:
            raise PgrainError("the rows changed while the complaint was read")
    if "match" in answer:
        matches[tuple(complaints)] = answer["match"]
        matches.move_to_end(tuple(complaints))
        if len(matches) > _KNOWN_MATCHES:
            matches.popitem(last=False)
    return {**answer, "known": known}


def _remembered(plpy, known: Known, match: list[dict | None] | None) -> list | None:
    """What PostgreSQL finds for each WHERE among the output rows of the last time: the worker
    takes it where it has the same rows again, and thereby answers at once. None where it cannot."""
    if match is None:
        return None
    try:
        return [m and [m["name"], _select(plpy, known, m)] for m in match]
    except plpy.SPIError as error:
        # A condition may fail on other rows than those of today, but a cancel is a cancel.
        if _cancelled(error):
            raise
        return None


def _cancelled(error) -> bool:
    """Whether the statement is to stop (class 57, operator intervention)."""
    return from_postgres(error).sqlstate[:2] == "57"


def _select(plpy, known: Known, match: dict) -> list[int]:
    own = session.STATE.own
    if not own:
        return selected(plpy, known.conditions, match["sql"], match["output"])
    # The query is read as its creator's, a watch's; the complaint as its caller's.
    try:
        watch.set_config(plpy, {name: callers for name, (callers, _) in own.items()})
        return selected(plpy, {}, match["sql"], match["output"])
    finally:
        watch.set_config(plpy, {name: creators for name, (_, creators) in own.items()})


def selected(plpy, kept: dict[str, object], sql: str, output: str) -> list[int]:
    """The rows of `output` that a WHERE finds. Its statement is prepared once for as long as
    nothing that its names and constants depend on can have changed: `kept` goes when something
    has."""
    statement = kept.get(sql)
    if statement is not None:       # which a cursor has taken for one SELECT
        rows = plpy.execute(statement, [output])
    else:
        statement = plpy.prepare(sql, ["jsonb"])
        rows = fetch_all(plpy, statement, [output])
        if len(kept) < _KNOWN_MATCHES and not snapshots.moves(sql):
            kept[sql] = statement
    return [row["output_row"] for row in rows]


def _shortened(message: str) -> str:
    return message if len(message) <= 200 else f"{message[:100]} ... {message[-90:]}"


def _run_capture(plpy, plan: dict, stamped: list[str]) -> tuple[dict, list]:
    try:
        if stamped:
            rows = _captured_rows(plpy, plan, "stamped", [], [])
        else:
            rows = _captured_rows(plpy, plan, "capture", ["bytea"], [session.STATE.secret])
    except plpy.SPIError as error:
        if getattr(error, "sqlstate", None) != "22003":
            raise
        # Numbers of the circuit are float8, which holds less than numeric does.
        raise UnsupportedOperator(
            "a number that is out of range has no provenance", detail=_shortened(str(error)),
            hint="If the query itself runs, filter such numbers out, or divide them.") from None
    head, blobs = [], []
    for row in rows:
        parts = [row["a"], row["b"], row["c"]]
        head.append([row["tag"], row["meta"], [part is not None for part in parts]])
        blobs.extend(part for part in parts if part is not None)
    return {"plan": plan["plan"], "rows": head, "stamps": stamped}, blobs


def _captured_rows(plpy, plan: dict, name: str, types: list[str], arguments: list):
    """Rows of a plan's statement; through a cursor until one has taken it for one SELECT."""
    statement = _statement(plpy, plan, name, *types)
    taken = plan.setdefault("taken", set())
    if name in taken:
        return plpy.execute(statement, arguments)
    rows = fetch_all(plpy, statement, arguments)
    taken.add(name)
    return rows


def _stamp_keys(plpy, plan: dict) -> list[str]:
    """The keys under which the worker keeps stamps of each slot; empty if one can't have any."""
    keys = []
    for stamp in plan["stamps"]:
        rows = query(plpy, 'SELECT key, "table" FROM pgrain._stamp_key($1, $2)', ["text", "name"],
                     [stamp["relation"], stamp["column"]])
        if not rows or session.STATE.incarnation is None:
            return []
        keys.append(f"{session.STATE.incarnation}:{rows[0]['key']}")
        stamp["table"] = rows[0]["table"]
    return keys


def _tuples(packed) -> list[str]:
    """Where the tuples of some stamps are, as PostgreSQL's tid reads it."""
    return [f"({block},{offset})" for block, offset in
            (struct.unpack_from("!IH", packed, at) for at in range(0, len(packed), 16))]


def _learn(plpy, plan: dict, keys: list[str], new: list[list[str]]) -> tuple[dict, list]:
    """Look up the tuples behind stamps that the worker has not seen, tell it their digests; what
    it answers to the request now."""
    learned = []
    for stamp, tuples in zip(plan["stamps"], new, strict=True):
        statement = _kept(plpy, plan, stamp["table"].join(stamp["learn"]), "bytea", "tid[]")
        rows = plpy.execute(statement, [session.STATE.secret, tuples])
        learned.append(rows[0]["learned"] or b"")
    return session.call(plpy, "learn", {"keys": keys}, learned)


def _fetch(plpy, plan: dict, models: dict, missing: list[str], wanted: list,
           new: list[list[str]]):
    """The feature values behind digests that the worker has not stored. new: tuples of each stamp
    that it had not seen a moment ago; the values are theirs, as a rule."""
    lengths, blobs = {}, []
    for name, packed in zip(missing, wanted, strict=True):
        data = bytes(packed)
        digests = [data[at:at + 16] for at in range(0, len(data), 16)]
        rows = _of_tuples(plpy, plan, name, set(digests), new)
        if rows is None:
            rows = fetch_all(plpy, _statement(plpy, plan, f"fetch {name}", "bytea", "bytea[]"),
                             [session.STATE.secret, digests])
        lengths[name] = len(rows)
        for row in rows:
            if models[name].kind == "float8" and None in row["value"]:
                raise InvalidArgument("expected finite numbers, not null")  # it has no wire form
            blobs.append(row["digest"])
            blobs.append(pack_value(row["value"], models[name].kind))
    return lengths, blobs


def _of_tuples(plpy, plan: dict, name: str, digests: set[bytes], new: list[list[str]]):
    """(digest, value) of some digests among a few tuples, which spares the digests of all others;
    None where it is not all of them."""
    if not 0 < sum(map(len, new)) <= _FEW_TUPLES:
        return None
    found = {}
    for stamp, tuples in zip(plan["stamps"], new, strict=True):
        if stamp["model"] == name:
            statement = _kept(plpy, plan, stamp["table"].join(stamp["values"]), "bytea", "tid[]")
            for row in plpy.execute(statement, [session.STATE.secret, tuples]):
                if row["digest"] in digests:
                    found[row["digest"]] = row
    return list(found.values()) if len(found) == len(digests) else None


def _verify(plpy, evaluation: dict) -> None:
    """Compare the circuit's values with what PostgreSQL returns for the query itself."""
    rows = fetch_all(plpy, evaluation["known"].plan["result"])
    session.call(plpy, "verify", {"evaluation": evaluation["evaluation"],
                                  "rows": [list(row.values()) for row in rows]})


def _match(plpy, evaluation: dict, number: int, match: dict) -> list[int]:
    """The output rows that a complaint with a WHERE is about.

    If no row of the result meets its WHERE, those that are possible but absent may.
    """
    known: Known = evaluation["known"]
    try:
        rows = _select(plpy, known, match)
        if not rows and match["more"]:
            answer, _ = session.call(plpy, "match", {"evaluation": evaluation["evaluation"],
                                                     "complaint": number})
            rows = _select(plpy, known, answer)
    except plpy.SPIError as error:
        raise hints.of_condition(plpy, known.plan["columns"], error) from None
    return rows
