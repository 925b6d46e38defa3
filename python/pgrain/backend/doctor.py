"""doctor: one row a check, with what to do where a check fails."""

from __future__ import annotations

from pgrain.backend import session
from pgrain.backend.models import quoted
from pgrain.backend.spi import entry_point, query
from pgrain.errors import PgrainError, WorkerUnreachable
from pgrain.settings import ALL, WATCH_NOTES

FAILED_DAYS = 7
SHOWN_JOBS = 20
ALARM_SECONDS = 60      # a watch that cannot be computed for less is none: a lock, a short outage
MANY_NOTES = 5000       # a worker that runs has a watch computed anew before that


@entry_point
def doctor(plpy) -> list[tuple]:
    """Rows (what, ok, detail, hint)."""
    return [_extension(plpy), *_worker(plpy), *_models(plpy), *_attached(plpy), _jobs(plpy),
            _watches(plpy), *_notes(plpy)]


def _extension(plpy) -> tuple:
    try:
        state = session.ensure_loaded(plpy)
    except PgrainError as error:
        return ("extension", False, error.message, error.hint)
    return ("extension", True, f"version {state.version}, in database {state.database}", None)


def _worker(plpy) -> list[tuple]:
    try:
        answer, _ = session.call(plpy, "ping", {})
    except PgrainError as error:
        return [("worker", False, error.message, error.hint)]
    checks = [("worker", True, f"process {answer['pid']}, version {answer['version']}, "
                               f"on {answer['device']}", None)]
    if (power := answer.get("power")) is not None:
        checks.append(("worker's role", False, power["problem"], power["hint"]))
    return checks


@entry_point
def worker_here(plpy) -> list[tuple]:
    """What a standby's worker says about itself; nothing if it does not answer. Asked on a standby
    alone: elsewhere the table knows, and a worker that hangs must not keep anybody waiting."""
    if not query(plpy, "SELECT pg_catalog.pg_is_in_recovery() AS r")[0]["r"]:
        return []
    try:
        answer, _ = session.call(plpy, "ping", {})
    except WorkerUnreachable:
        return []
    return [(answer["pid"], answer["host"], answer["version"], answer["device"])]


@entry_point
def settings_rows(plpy) -> list[tuple]:
    """Every limit and default, as settings.py has it."""
    return [(it.name, it.default, it.minimum, it.maximum, it.unit, it.meaning)
            for it in sorted(ALL.values(), key=lambda it: it.name)]


def _models(plpy) -> list[tuple]:
    rows = query(plpy, """
        SELECT m.model, m.version, k, stored_pairs, n_rows,
               training_table::oid = 0 AND m.version IS NOT NULL AS imported,
               EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = training_table) AS there,
               (SELECT pg_catalog.min(f.name) FROM pg_catalog.unnest(features || key || label)
                    AS f (name) WHERE NOT EXISTS (
                    SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = training_table
                    AND a.attname = f.name AND NOT a.attisdropped)) AS lacks,
               s.problem, s.hint, s.new_rows, s.gone_rows, s.changed_rows,
               s.forgotten_rows, pg_catalog.date_trunc('second', s.looked_at)::text AS looked_at
        FROM pgrain.models AS m JOIN pgrain.staleness AS s ON s.model = m.model
        ORDER BY m.model""")
    checks = []
    for row in rows:
        name, hint, ok = row["model"], None, None
        detail = f"version {row['version']}, {row['n_rows']} rows"
        if row["forgotten_rows"]:
            detail += f" ({row['forgotten_rows']} forgotten since)"
        if not row["there"] and row["imported"]:
            # As it should be: bundle.md. It predicts, and complaints name rows by their keys.
            detail += ", from a bundle and without a training table"
        elif not row["there"]:
            detail = "its training table does not exist any more"
            hint = (f"SELECT pgrain.alter_model({quoted(name)}, 'the_table'); or SELECT "
                    f"pgrain.drop_model({quoted(name)})")
        elif row["lacks"] is not None:
            detail = f'its training table has no column "{row["lacks"]}" any more'
            hint = row["hint"]
        elif row["version"] is None:
            detail, hint = "not trained", f"CALL pgrain.train({quoted(name)})"
        elif (row["problem"] or "").startswith("its training table"):
            detail, hint = row["problem"], row["hint"]
        elif row["k"] is None:
            # It predicts as it should; whether somebody will complain about it is for them to say.
            detail, ok = f"{detail}, no spectrum: complaints about it need one", True
            hint = f"CALL pgrain.precompute({quoted(name)})"
        else:
            detail += f", k = {row['k']} of {row['stored_pairs']} stored pairs"
            if row["looked_at"] is not None:
                detail += (f"; training rows since: {row['new_rows']} new, "
                           f"{row['gone_rows']} gone, {row['changed_rows']} changed "
                           f"(at {row['looked_at']})")
        checks.append((f"model {name}", hint is None if ok is None else ok, detail, hint))
    return checks


def _attached(plpy) -> list[tuple]:
    """Relations that the worker cannot read: their new values are computed live."""
    rows = query(plpy, """
        SELECT model, relation::text, problem, hint,
               pg_catalog.date_trunc('second', problem_since)::text AS since
        FROM pgrain.attached WHERE problem IS NOT NULL ORDER BY relation::text, model""")
    return [(f"attached {row['relation']}", False,
             f"cannot be read for model {row['model']} since {row['since']}, so its new values are "
             f"computed live: {row['problem']}",
             (f"{row['hint']} " if row["hint"] else "") + "When that is mended it is read again "
             "within a minute, or ten where it shows in reading only; or end it: "
             f"SELECT pgrain.detach({quoted(row['model'])}, {quoted(row['relation'])})")
            for row in rows]


def _jobs(plpy) -> tuple:
    """Red for failures that somebody may still want to look at: of the last days, not repeated
    since, not dismissed, and of what is still there."""
    row = query(plpy, """
        SELECT pg_catalog.count(*) FILTER (WHERE state IN ('queued', 'running')) AS open,
               pg_catalog.count(*) FILTER (WHERE failed) AS failed,
               pg_catalog.array_agg(job ORDER BY job) FILTER (WHERE failed) AS jobs
        FROM (SELECT j.job, j.state, j.state = 'failed' AND NOT j.cancel_requested
                  AND j.finished_at > pg_catalog.now() - pg_catalog.make_interval(days => $1)
                  AND NOT EXISTS (
                      SELECT FROM pgrain.jobs l WHERE l.model = j.model AND l.kind = j.kind
                      AND l.arguments ->> 'relation' IS NOT DISTINCT FROM
                          j.arguments ->> 'relation'
                      AND l.job > j.job AND l.state = 'succeeded')
                  AND CASE j.kind
                      WHEN 'attach' THEN EXISTS (
                          SELECT FROM pgrain.attached a WHERE a.model = j.model
                          AND a.relation::oid::text = j.arguments ->> 'relation')
                      WHEN 'precompute' THEN NOT EXISTS (  -- of a version that is active no more
                          SELECT FROM pgrain.versions v WHERE v.model = j.model AND v.active
                          AND v.created_at > j.finished_at)
                      ELSE true END AS failed
              FROM pgrain.jobs j JOIN pgrain.models USING (model)) AS j
        """, ["integer"], [FAILED_DAYS])[0]
    hint = None
    if row["failed"]:
        one, some = len(row["jobs"]) == 1, ", ".join(map(str, row["jobs"][:SHOWN_JOBS]))
        which = f"job = {some}" if one else f"job IN ({some})"
        hint = (f"SELECT job, model, kind, error FROM pgrain.jobs WHERE {which}; then run "
                + (f"it again, or dismiss it: SELECT pgrain.cancel({some})" if one else
                   "them again, or dismiss them: SELECT pgrain.cancel(job) FROM pgrain.jobs WHERE "
                   + which))
    return ("jobs", not row["failed"],
            f"{row['open']} unfinished, {row['failed']} failed in the last {FAILED_DAYS} days and "
            "not repeated", hint)


def _watches(plpy) -> tuple:
    """Red for those that are not current and will not be by themselves: the model is not there or
    not trained, or the worker has tried in vain for a while."""
    rows = query(plpy, """
        SELECT name, current, problem, problem IS NOT NULL AND coalesce(problem_since
                   < pg_catalog.now() - pg_catalog.make_interval(secs => $1), true) AS bad
        FROM pgrain.watches ORDER BY name""", ["double precision"], [ALARM_SECONDS])
    bad = [row for row in rows if row["bad"]]
    if not bad:
        return ("watches", True, f"{len(rows)}, {sum(row['current'] for row in rows)} of them "
                                 "current", None)
    return ("watches", False,
            "cannot be computed: " + "; ".join(f"{row['name']}: {row['problem']}" for row in bad),
            "Mend what it says, and it is computed again by itself; or end it: "
            + "; ".join(f"SELECT pgrain.unwatch({quoted(row['name'])})" for row in bad))


def _notes(plpy) -> list[tuple]:
    """Where changes of watched tables pile up: nobody folds them while no worker runs."""
    rows = query(plpy, """
        SELECT name, pending_notes,
               pg_catalog.pg_size_pretty(pg_catalog.pg_total_relation_size('pgrain.watch_note'))
                   AS size
        FROM pgrain.watches WHERE pending_notes > $1 ORDER BY name""", ["bigint"], [MANY_NOTES])
    return [(f"watch {row['name']}", False,
             f"{row['pending_notes']} changes wait to be folded; all that wait take {row['size']}"
             + ("; no more are noted, and it will be computed again"
                if row["pending_notes"] > WATCH_NOTES.default else ""),
             "Start a worker: pgrain worker --dsn ...; or end the watch, which takes them away: "
             f"SELECT pgrain.unwatch({quoted(row['name'])})") for row in rows]
