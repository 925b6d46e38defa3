"""train, precompute, attach: queue a job for the worker and, if asked, wait for it; cancel.

A procedure that waits ends its transaction in each slice, so that it holds back no VACUUM, and
looks at the job's row. Cancelling the statement cancels the job.
"""

from __future__ import annotations

import json
import time

from pgrain.backend import session
from pgrain.backend.models import (
    check_features,
    gone,
    grant_to_worker,
    quoted,
    relation_columns,
    require_model,
)
from pgrain.backend.spi import entry_point, json_object, prepared, query
from pgrain.errors import (
    ActiveTransaction,
    Cancelled,
    InvalidArgument,
    NotReady,
    ObjectInUse,
    PgrainError,
    UndefinedObject,
    WorkerUnreachable,
)
from pgrain.wire.client import START_HINT

REPORT_SECONDS = 2.0
STALE_SECONDS = 15


@entry_point
def train(plpy, name: str, options: str, wait: bool) -> None:
    """Queue (and wait for) the training of a new version."""
    _require(name, options, wait)
    _with_table(require_model(plpy, name))
    _run(plpy, "train", name, {"options": json_object(options)}, wait)


@entry_point
def import_weights(plpy, name: str, weights: bytes, options: str, wait: bool) -> None:
    """Queue (and wait for) a new version made of weights that were trained elsewhere.

    It is a train job, so that a model never has two versions in the making."""
    _require(name, weights, options, wait)
    _with_table(require_model(plpy, name))
    if not weights:
        raise InvalidArgument("the weights are empty",
                              hint="Give the bytes of a safetensors or a Flax msgpack file.")
    arguments = {"options": json_object(options), "weights": True}
    _run(plpy, "train", name, arguments, wait, weights=weights)


@entry_point
def precompute(plpy, name: str, options: str, wait: bool) -> None:
    """Queue (and wait for) spectrum and projections of the active version."""
    _require(name, options, wait)
    model = require_model(plpy, name)
    _trained(model)
    _with_table(model)
    _run(plpy, "precompute", name, {"options": json_object(options)}, wait)


@entry_point
def attach(plpy, name: str, relation: str, features: list[str] | None, wait: bool) -> None:
    """Record an inference relation and queue (and wait for) its predictions."""
    _require(name, relation, wait)
    model = require_model(plpy, name)
    _trained(model)
    features = list(features if features is not None else model["features"])
    if len(features) != len(model["features"]):
        raise InvalidArgument(f'model "{name}" reads {len(model["features"])} features, '
                              f"not {len(features)}",
                              detail=f"Its features: {', '.join(model['features'])}.")
    check_features(relation, features, relation_columns(plpy, relation), model["kind"])
    grant_to_worker(plpy, relation)
    query(plpy, """
        INSERT INTO pgrain.attachment (model, relation, features)
        VALUES ($1, $2::regclass, $3::name[])
        ON CONFLICT (model, relation) DO UPDATE SET features = excluded.features,
            attached_by = current_user, attached_at = pg_catalog.now()
        """, ["text", "text", "text[]"], [name, relation, features])
    query(plpy, "SELECT pgrain._hint_at($1::regclass)", ["text"], [relation])
    oid = query(plpy, "SELECT $1::regclass::oid::bigint AS oid", ["text"], [relation])[0]["oid"]
    _run(plpy, "attach", name, {"relation": oid}, wait)


@entry_point
def cancel(plpy, job: int) -> bool:
    """Ask a job to stop: a queued one is cancelled at once, a running one at its next step. One
    that has failed is dismissed: `doctor` counts it no more.

    Whether the job was still under way. Raises 42704 if there is no such job.
    """
    rows = query(plpy, "SELECT state FROM pgrain.jobs WHERE job = $1", ["bigint"], [job])
    if not rows:
        raise UndefinedObject(f"job {job} does not exist", hint="See pgrain.jobs.")
    rows = query(plpy, """
        UPDATE pgrain.job SET cancel_requested = true,
               message = CASE state WHEN 'queued' THEN 'cancelled' ELSE message END,
               state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END
        WHERE job = $1 AND state IN ('queued', 'running', 'failed') RETURNING state
        """, ["bigint"], [job])
    return bool(rows) and rows[0]["state"] != "failed"


def _require(*arguments) -> None:
    if any(argument is None for argument in arguments):
        raise InvalidArgument("no argument may be null")


def _with_table(model: dict) -> None:
    if not model["there"]:      # dropped, or of a bundle
        raise gone(model["model"])


def _trained(model: dict) -> None:
    if model["active_version"] is None:
        raise NotReady(f'model "{model["model"]}" is not trained',
                       hint=f"Run CALL pgrain.train({quoted(model['model'])}).")


def _run(plpy, kind: str, name: str, arguments: dict, wait: bool,
         weights: bytes | None = None) -> None:
    if wait:
        run_job(plpy, kind, name, arguments, weights)
        return
    job = _submit(plpy, kind, name, arguments, weights)
    place = _place(plpy, job)
    if place is None:
        plpy.notice(f"queued as job {job}, but no worker is alive to take it; see pgrain.progress",
                    hint=START_HINT)
    else:
        plpy.notice(f"queued as job {job}{place}; see pgrain.progress")


def _place(plpy, job: int) -> str | None:
    """" behind job 7 (train of model "m")" where all workers have their hands full with earlier
    jobs, "" where one is free, None where none is alive."""
    alive = query(plpy, "SELECT count(*) AS n FROM pgrain.workers WHERE seen_at > "
                        "pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1)",
                  ["float8"], [STALE_SECONDS])[0]["n"]
    if not alive:
        return None
    ahead = query(plpy, "SELECT job, kind, model FROM pgrain.job WHERE job < $1 "
                        "AND state IN ('queued', 'running') ORDER BY state = 'running', job",
                  ["bigint"], [job])
    if len(ahead) < alive:
        return ""
    first, more = ahead[-1], len(ahead) - 1
    return (f' behind job {first["job"]} ({first["kind"]} of model "{first["model"]}")'
            + (f" and {more} more" if more else ""))


def run_job(plpy, kind: str, name: str, arguments: dict, weights: bytes | None = None) -> None:
    """Queue a job and wait until it has succeeded; its error otherwise. Ends the transaction."""
    job = _submit(plpy, kind, name, arguments, weights)
    commit_first(plpy, kind)
    session.forget_models(plpy)
    try:
        _wait(plpy, job)
    except WorkerUnreachable:
        query(plpy, "UPDATE pgrain.job SET state = 'cancelled', message = 'no worker took it' "
                    "WHERE job = $1 AND state = 'queued'", ["bigint"], [job])
        plpy.commit()
        raise
    except plpy.SPIError as error:
        if getattr(error, "sqlstate", None) in ("57014", "57P01"):
            query(plpy, "UPDATE pgrain.job SET cancel_requested = true, state = CASE state "
                        "WHEN 'queued' THEN 'cancelled' ELSE state END WHERE job = $1",
                  ["bigint"], [job])
            plpy.commit()
            raise Cancelled(f"{kind} was cancelled",
                            detail=f"Job {job} stops at its next step.") from None
        raise
    finally:
        session.forget_models(plpy)


def _submit(plpy, kind: str, name: str, arguments: dict, weights: bytes | None = None) -> int:
    rows = query(plpy, """
        INSERT INTO pgrain.job (kind, model, arguments) VALUES ($1, $2, $3::jsonb)
        ON CONFLICT (model, kind, (coalesce(arguments ->> 'relation', '')))
            WHERE state IN ('queued', 'running') DO NOTHING
        RETURNING job
        """, ["text", "text", "text"], [kind, name, json.dumps(arguments)])
    if not rows:
        raise ObjectInUse(f'a {kind} job of model "{name}" is already under way',
                          hint="See pgrain.progress; wait for it to end.")
    if weights is not None:     # in the transaction of the job's row: no worker sees one alone
        query(plpy, "INSERT INTO pgrain.weights (job, data) VALUES ($1, $2)",
              ["bigint", "bytea"], [rows[0]["job"], weights])
    if not query(plpy, "SELECT pg_catalog.pg_is_in_recovery() AS r")[0]["r"]:
        plpy.execute("NOTIFY pgrain_job")
    return rows[0]["job"]


def commit_first(plpy, kind: str, may_queue: bool = True) -> None:
    """End the transaction; 25001 inside a block, where a procedure cannot. may_queue: whether it
    has an argument `wait`."""
    try:
        plpy.commit()
    except plpy.SPIError as error:
        if getattr(error, "sqlstate", None) != "2D000":
            raise
        raise ActiveTransaction(
            f"CALL pgrain.{kind} cannot wait inside a transaction block",
            hint="Run it outside of one (psycopg: autocommit)"
                 + (", or with wait => false." if may_queue else ".")) from None


def _wait(plpy, job: int) -> None:
    submitted = reported = time.monotonic()
    last, delay, told = None, 0.005, False
    while True:
        row = query(plpy, """
            SELECT state, phase, done, total, message, error,
                   coalesce((SELECT pg_catalog.max(seen_at) > pg_catalog.clock_timestamp()
                                    - pg_catalog.make_interval(secs => $2)
                             FROM pgrain.workers), false) AS alive
            FROM pgrain.job WHERE job = $1
            """, ["bigint", "float8"], [job, STALE_SECONDS])
        plpy.commit()
        if not row:
            raise Cancelled(f"job {job} is there no more", detail="Somebody has deleted its row.")
        row = row[0]
        if row["state"] in ("succeeded", "failed", "cancelled"):
            return _finish(plpy, job, row)
        now = time.monotonic()
        if row["state"] == "queued" and not row["alive"] and now - submitted > REPORT_SECONDS:
            raise WorkerUnreachable(
                "no worker takes the job", detail=f"Job {job} was taken back.", hint=START_HINT)
        # One that runs is taken up again; one that nobody has begun is about to be taken back.
        if row["state"] == "running" and not row["alive"] and not told:
            plpy.notice(f"no worker is alive; job {job} goes on when one is")
        told = not row["alive"]
        if now - reported >= REPORT_SECONDS:
            line = _progress_line(row)
            if row["state"] == "queued":
                line += _place(plpy, job) or ""
            if line != last:
                plpy.info(line)
                last = line
            reported = now
        plpy.execute(prepared(plpy, "SELECT pg_catalog.pg_sleep($1)", "float8"), [delay])
        delay = min(0.05, delay * 1.5)


def _progress_line(row: dict) -> str:
    line = f"pgrain: {row['phase'] or row['state']}"
    if row["total"]:
        line += f" {100 * (row['done'] or 0) // row['total']} %"
    if row["message"]:
        line += f", {row['message']}"
    return line


def _finish(plpy, job: int, row: dict) -> None:
    if row["state"] == "succeeded":
        if row["message"]:
            plpy.info(f"pgrain: {row['message']}")
        return
    if row["state"] == "cancelled":
        raise Cancelled(f"job {job} was cancelled")
    raise PgrainError.from_dict(json.loads(row["error"] or "{}"))
