"""repair: the train-rank-fix loop. Plan, apply, train, run the query; next rows until it holds.

Each step is a transaction of its own, and a procedure that waits holds back no VACUUM (`jobs`).
Edits are those of `pgrain.apply`, versions those of `pgrain.train`: whatever a repair has done can
be looked at and undone like anything that a person did.
"""

from __future__ import annotations

import json
import time

from pgrain.backend import session
from pgrain.backend.complain import check_options, evaluate_complaints
from pgrain.backend.jobs import commit_first, run_job
from pgrain.backend.keys import visible
from pgrain.backend.models import quoted, require_model
from pgrain.backend.plan_repair import OPTIONS as PLAN_OPTIONS
from pgrain.backend.plan_repair import make_plan
from pgrain.backend.spi import entry_point, json_object, query, writes_nothing
from pgrain.errors import InsufficientPrivilege, InvalidArgument, ObjectInUse

ROUNDS = 5
_OPTIONS = PLAN_OPTIONS | {"rounds", "train", "precompute"}


@entry_point
@writes_nothing
def plan_for_repair(plpy, text: str, complaints: list[str], intervention: str,
                    options: str, cell: str) -> str:
    """A plan as JSON, with its model and whether it is predicted to cure. cell: as JSON, that
    which `complaints_hold` chose."""
    plan = make_plan(plpy, text, complaints, intervention, check_options(options, PLAN_OPTIONS),
                     _read_cell(cell))
    seen = visible(plpy, plan["rows"], model=plan["model"], number=1, key=2)
    if any(row[2] is None for row in seen):
        raise InsufficientPrivilege(
            f'the training keys of model "{plan["model"]}" are protected',
            hint="A repair edits rows by their keys: let somebody run it who may read them in the "
                 "training table.")
    return json.dumps(plan)


def _read_cell(text: str) -> dict | None:
    """A cell as `complaints_hold` gives it; the worker looks closer (`complaint/cell.py`)."""
    return None if text in (None, "null") else json_object(text, "cell")


@entry_point
@writes_nothing
def complaints_hold(plpy, text: str, complaints: list[str], cell: str) -> str:
    """{"holds", "value", "relaxed", "cell", "name", "complaints"} as JSON; needs no spectrum.
    cell: which one is read, null for the first that is violated; as JSON."""
    evaluated = evaluate_complaints(plpy, text, complaints, {}, ranked=False)
    return json.dumps(session.call(plpy, "holds", {**evaluated, "cell": _read_cell(cell)})[0])


@entry_point
def repair(plpy, name: str, text: str, complaints: list[str], intervention: str,
           options: str) -> None:
    """The loop; a row of pgrain.repair_round for each round."""
    if any(argument is None for argument in (name, text, complaints, intervention, options)):
        raise InvalidArgument("no argument may be null")
    options = check_options(options, _OPTIONS)
    rounds = _whole(options, "rounds", ROUNDS)
    left = _whole(options, "rows", None)
    settings = {kind: _settings(options, kind) for kind in ("train", "precompute")}
    planning = {key: options[key] for key in options if key in PLAN_OPTIONS}
    commit_first(plpy, "repair", may_queue=False)
    begin = _holds(plpy, text, complaints)
    if begin["holds"]:
        plpy.notice("the complaint holds already, so there is nothing to repair")
        return
    # From here on "=" holds once the number is there or past it, as plans have it: a count may step
    # over its target, and would be chased up and down.
    asked = begin["complaints"]
    # Numbers before and after each round are those of one cell, also once it is cured.
    cell = begin["cell"]
    before, edited, model, locked, undo = begin["value"], 0, None, None, None
    try:
        for number in range(1, rounds + 1):
            started = time.monotonic()
            if number > 1:       # the new version has no spectrum yet
                run_job(plpy, "precompute", model, {"options": settings["precompute"]})
            if left is not None:
                planning["rows"] = left
            plan = json.loads(query(
                plpy, "SELECT pgrain._plan_repair($1, $2, $3, $4::jsonb, $5::jsonb) AS plan",
                ["text", "text[]", "text", "text", "text"],
                [text, asked, intervention, json.dumps(planning), json.dumps(cell)])[0]["plan"])
            for notice in plan["notices"]:
                plpy.notice(notice)
            if not plan["rows"]:
                break
            model = plan["model"]
            version_before = require_model(plpy, model)["active_version"]
            if undo is None:
                _alone(plpy, model)
                locked = model
                undo = _Undo(plpy, model, version_before)
                _check_settings(plpy, model, settings)
            last = plan["rows"][-1]
            plpy.info(f"pgrain: round {number}: {len(plan['rows'])} rows, predicted {last[4]:g} "
                      f"({last[5]:g} to {last[6]:g}), now {_shown(before)}")
            undo.edited(plan["rows"])
            _apply(plpy, model, plan["rows"])
            plpy.commit()
            run_job(plpy, "train", model, {"options": {"warm_start": True, **settings["train"]}})
            now = _holds(plpy, text, asked, cell)
            _record(plpy, name, model, text, complaints, intervention, plan["rows"], before, now,
                    time.monotonic() - started, version_before,
                    require_model(plpy, model)["active_version"])
            plpy.commit()
            plpy.info(f"pgrain: round {number}: {begin['name'] or 'the number'} is "
                      f"{_shown(now['value'])} after training, "
                      + ("the complaint holds" if now["holds"]
                         else "the complaint does not hold yet"))
            before, edited = now["value"], edited + len(plan["rows"])
            if now["holds"]:
                plpy.notice(f"the complaint holds after {number} "
                            f"{'round' if number == 1 else 'rounds'} and {edited} edited rows; "
                            + undo.way_back())
                _leave(plpy, locked)
                return
            if left is not None:
                left -= len(plan["rows"])
                if left < 1:
                    break
    except Exception:        # also a cancelled statement: its edits are recorded all the same
        if undo is not None and undo.any:
            plpy.notice(f"the repair was broken off, with edits recorded; {undo.way_back()}")
        if locked is not None:
            # The error takes this transaction with it, and would take the giving up, too.
            plpy.rollback()
            _leave(plpy, locked)
            plpy.commit()
        raise
    if locked is not None:
        _leave(plpy, locked)
    if not edited:
        plpy.notice("no training row would help, so nothing was edited")
        return
    plpy.notice(f"the complaint does not hold after {edited} edited rows, "
                f"{begin['name'] or 'the number'} is {_shown(before)}; " + undo.way_back())


class _Undo:
    """What takes a repair back: its own edits and no others, and the version before."""

    def __init__(self, plpy, model: str, version: int):
        self.model, self.version = model, version
        self.began = query(plpy, "SELECT pg_catalog.now()::text AS at")[0]["at"]
        self.earlier = {row["train_key"]: row["intervention"] for row in query(
            plpy, "SELECT train_key, intervention FROM pgrain.training_edit WHERE model = $1",
            ["text"], [model])}
        self.replaced: dict[str, list[str]] = {}
        self.any = False

    def edited(self, rows: list) -> None:
        """Note the rows of a plan that are about to be edited."""
        self.any = True
        for row in rows:
            before = self.earlier.pop(row[2], None)
            if before is not None:
                self.replaced.setdefault(before, []).append(row[2])

    def way_back(self) -> str:
        """The statements, for a notice."""
        model = quoted(self.model)
        if not self.earlier and not self.replaced:
            statements = [f"SELECT pgrain.revert({model})"]
        else:
            statements = [f"SELECT pgrain.revert({model}, ARRAY(SELECT train_key FROM "
                          f"pgrain.edits WHERE model = {model} AND applied_at >= "
                          f"{quoted(self.began)}))"]
        for intervention, keys in sorted(self.replaced.items()):
            listed = ", ".join(map(quoted, keys))
            statements.append(f"SELECT pgrain.apply({model}, ARRAY[{listed}], "
                              f"{quoted(intervention)})")
        statements.append(f"SELECT pgrain.activate({model}, {self.version})")
        return "to go back: " + "; ".join(statements)


def _alone(plpy, model: str) -> None:
    """55006 where another session repairs the model: their edits would be trained together."""
    mine = query(plpy, "SELECT pgrain._hold_repair($1) AS x", ["text"], [model])[0]["x"]
    if not mine:
        raise ObjectInUse(f'a repair of model "{model}" is already under way',
                          hint="Wait for it to end; see pgrain.progress.")


def _leave(plpy, model: str) -> None:
    query(plpy, "SELECT pgrain._leave('repair', $1)", ["text"], [model])


def _check_settings(plpy, model: str, settings: dict) -> None:
    """22023 for options that `train` or `precompute` would refuse, before anything is edited."""
    row = query(plpy, "SELECT architecture, options::text FROM pgrain.model WHERE model = $1",
                ["text"], [model])[0]
    session.call(plpy, "check_options", {
        "architecture": row["architecture"], "precompute": settings["precompute"],
        "options": {**json.loads(row["options"]), **settings["train"]}})


def _holds(plpy, text: str, complaints: list[str], cell: dict | None = None) -> dict:
    found = json.loads(query(plpy, "SELECT pgrain._holds($1, $2, $3::jsonb) AS state",
                             ["text", "text[]", "text"],
                             [text, complaints, json.dumps(cell)])[0]["state"])
    plpy.commit()
    return found


def _apply(plpy, model: str, rows: list) -> None:
    by_intervention: dict[str, list[str]] = {}
    for row in rows:
        by_intervention.setdefault(row[3], []).append(row[2])
    for intervention, keys in by_intervention.items():
        query(plpy, "SELECT pgrain.apply($1, $2, $3)", ["text", "text[]", "text"],
              [model, keys, intervention])


def _record(plpy, name, model, text, complaints, intervention, rows, before, now, seconds,
            version_before, version) -> None:
    query(plpy, """
        INSERT INTO pgrain.repair_round (name, round, model, query, complaint, intervention,
            rows_edited, before, predicted, low, high, actual, holds, seconds, version_before,
            version)
        SELECT $1, 1 + coalesce(pg_catalog.max(r.round), 0), $2, $3, $4, $5, $6, $7, $8, $9, $10,
               $11, $12, $13, $14, $15
        FROM pgrain.repair_round AS r WHERE r.name = $1
        """, ["text", "text", "text", "text[]", "text", "integer", "float8", "float8", "float8",
              "float8", "float8", "boolean", "float8", "bigint", "bigint"],
          [name, model, text, complaints, intervention, len(rows), before, *rows[-1][4:7],
           now["value"], now["holds"], seconds, version_before, version])


def _whole(options: dict, name: str, default):
    value = options.get(name, default)
    if value is not None and (type(value) is not int or value < 1):
        raise InvalidArgument(f'option "{name}" must be a whole number of at least 1')
    return value


def _settings(options: dict, name: str) -> dict:
    value = options.get(name, {})
    if not isinstance(value, dict):
        raise InvalidArgument(f'option "{name}" is not a JSON object',
                              hint=f"It holds the options of pgrain.{name}.")
    return value


def _shown(value) -> str:
    return "NULL" if value is None else f"{value:g}"
