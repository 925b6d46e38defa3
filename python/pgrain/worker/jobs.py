"""Taking and running jobs.

A job is taken with FOR UPDATE SKIP LOCKED and held by the server's process that runs it
(pgrain.held). When a worker dies that process ends, so a job that says "running" and that nobody
has is an orphan and is taken again, from its last finished step.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import structlog

from pgrain.errors import Cancelled, PgrainError, WorkerUnreachable
from pgrain.store.database import Shared, hold, leave
from pgrain.worker import attach_job, metrics, precompute_job, train_job
from pgrain.worker.polling import there

log = structlog.get_logger()
POLL_SECONDS = 1.0
REPORT_SECONDS = 0.5
MOST_ATTEMPTS = 5

STEPS = {"train": train_job.run, "precompute": precompute_job.run, "attach": attach_job.run}


@dataclass
class Job:
    """One job under way. `connection` runs its statements; `report` commits progress."""

    number: int
    kind: str
    model: str
    arguments: dict
    submitter: str
    connection: psycopg.Connection
    reporter: psycopg.Connection
    stopping: threading.Event
    message: str | None = None
    _reported: float = 0.0

    def report(self, phase: str, done: int, total: int, message: str | None = None) -> None:
        """Write progress (at most twice a second) and raise Cancelled if that was asked for."""
        if self.stopping.is_set():
            raise WorkerUnreachable("the worker is stopping")
        now = time.monotonic()
        if now - self._reported < REPORT_SECONDS and done < total:
            return
        self._reported = now
        row = self.reporter.execute("""
            UPDATE pgrain.job SET phase = %s, done = %s, total = %s, message = %s
            WHERE job = %s RETURNING cancel_requested""",
            [phase, done, total, message, self.number]).fetchone()
        if row is None or row["cancel_requested"]:
            raise Cancelled(f"job {self.number} was cancelled")

    def waits(self, phase: str) -> Callable[[str], None]:
        """What `relations.read` calls while it waits for a lock: says so, and that it goes on."""
        told = []

        def wait(why: str) -> None:
            if not told:
                log.info("job waits for a lock", phase=phase, why=why)
                told.append(why)
            self.report(phase, 0, 1, why)
        return wait

    def cancel_requested(self) -> bool:
        """Whether somebody wants it to stop."""
        row = self.reporter.execute("SELECT cancel_requested FROM pgrain.job WHERE job = %s",
                                    [self.number]).fetchone()
        return row is None or row["cancel_requested"]

    def stage(self, phase: str) -> Callable[[int, int, str], None]:
        """`report` for one phase, as the numerical functions call it."""
        return lambda done, total, message="": self.report(phase, done, total, message)


class Runner(threading.Thread):
    """The thread that runs jobs, one at a time."""

    def __init__(self, connect: Callable[[str], psycopg.Connection], looks: Shared, worker: str):
        super().__init__(name="jobs", daemon=True)
        self._connect, self._looks, self._worker = connect, looks, worker
        self.stopping = threading.Event()
        self._current: Job | None = None

    def interrupt(self, number: int) -> None:
        """End the statement that a cancelled job is in: it may wait for a lock, where it cannot see
        that it is to stop. (What it computes, it stops by itself at its next step.)"""
        job = self._current
        if job is not None and job.number == number:
            job.connection.cancel_safe(timeout=5)

    def run(self) -> None:
        """Take jobs until told to stop; a lost database, or an extension that was dropped, is
        waited for, and an exception that nobody expected is logged."""
        while not self.stopping.is_set():
            try:
                # A standby has no jobs of its own; it may be promoted one day.
                looks = self._looks.get()
                if (looks.execute("SELECT pg_is_in_recovery() AS r").fetchone()["r"]
                        or not there(looks, "pgrain.job")):
                    self.stopping.wait(POLL_SECONDS)
                    continue
                with self._connect("jobs") as connection:
                    connection.execute("LISTEN pgrain_job")
                    while not self.stopping.is_set():
                        if not self.take(connection):
                            for _ in connection.notifies(timeout=POLL_SECONDS, stop_after=1):
                                pass
            except psycopg.Error as error:
                log.warning("jobs wait for the database", error=str(error).strip())
                self.stopping.wait(POLL_SECONDS)
            except Exception:
                log.error("jobs: failed", traceback=traceback.format_exc())
                self.stopping.wait(POLL_SECONDS)

    def take(self, connection) -> bool:
        """Run one job if there is one; whether there was."""
        for candidate in connection.execute("""
                SELECT job, pgrain._holder('job', job::text) AS holder FROM pgrain.job
                WHERE state IN ('queued', 'running') ORDER BY job""").fetchall():
            number = candidate["job"]
            if candidate["holder"] is not None or not hold(connection, "job", number):
                continue
            try:
                # Before the job is claimed: where no more connections are to be had, it waits.
                with self._connect("progress of a job") as reporter:
                    job = self._claim(connection, reporter, number)
                    if job is not None:
                        self._current = job
                        self._run(job)
                        return True
            finally:
                self._current = None
                leave(connection, "job", number)
        return False

    def _claim(self, connection, reporter, number: int) -> Job | None:
        row = connection.execute("""
            UPDATE pgrain.job SET state = 'running', attempts = attempts + 1, worker = %s,
                   message = NULL, started_at = coalesce(started_at, now())
            WHERE job = (SELECT job FROM pgrain.job WHERE job = %s
                         AND state IN ('queued', 'running') FOR UPDATE SKIP LOCKED)
            RETURNING kind, model, arguments, submitted_by, attempts""",
            [self._worker, number]).fetchone()
        if row is None:
            return None
        if row["attempts"] > MOST_ATTEMPTS:
            self._end(connection, number, row["kind"], "failed", None, PgrainError(
                f"job {number} was given up after {MOST_ATTEMPTS} attempts",
                hint="The worker died each time; see its log."))
            return None
        return Job(number, row["kind"], row["model"], row["arguments"], row["submitted_by"],
                   connection, reporter, self.stopping)

    def _run(self, job: Job) -> None:
        structlog.contextvars.bind_contextvars(job=job.number, kind=job.kind, model=job.model)
        log.info("job started")
        started = time.monotonic()
        try:
            message = STEPS[job.kind](job)
        except Cancelled:
            self._end(job.reporter, job.number, job.kind, "cancelled", "cancelled", None)
            log.info("job cancelled")
        except WorkerUnreachable:   # stopping: it stays "running", and the next worker takes it up
            log.info("job interrupted")
        except PgrainError as error:
            self._end(job.reporter, job.number, job.kind, "failed", error.message, error)
            log.info("job failed", error=error.message, detail=error.detail)
        except psycopg.Error as error:
            if _connection_is_lost(job.connection, error):
                raise   # it stays "running", and is taken up again
            if isinstance(error, psycopg.errors.QueryCanceled) and job.cancel_requested():
                self._end(job.reporter, job.number, job.kind, "cancelled", "cancelled", None)
                log.info("job cancelled")
                return
            # The primary message alone is for everybody: DETAIL may quote a key.
            message = error.diag.message_primary or type(error).__name__
            self._end(job.reporter, job.number, job.kind, "failed", message, PgrainError(
                message, detail=error.diag.message_detail,
                hint=error.diag.message_hint, sqlstate=error.sqlstate))
            log.warning("job failed in the database", error=str(error))
        except Exception as error:
            self._end(job.reporter, job.number, job.kind, "failed", str(error), PgrainError(
                f"{job.kind} failed: {type(error).__name__}: {error}",
                hint="This is a defect of pgrain; the worker's log has the details."))
            log.error("job failed", traceback=traceback.format_exc())
        else:
            self._end(job.reporter, job.number, job.kind, "succeeded", message, None)
            log.info("job finished", seconds=round(time.monotonic() - started, 2))
        finally:
            structlog.contextvars.clear_contextvars()

    def _end(self, connection, number: int, kind: str, state: str, message: str | None,
             error: PgrainError | None) -> None:
        # DETAIL may quote a key. Where keys are protected, it is in the worker's log alone.
        connection.execute("""
            UPDATE pgrain.job j SET state = %s, message = %s, finished_at = now(),
                   error = CASE WHEN EXISTS (SELECT FROM pgrain.protected_keys p
                                             WHERE p.model = j.model)
                                THEN %s::jsonb - 'detail' ELSE %s::jsonb END,
                   done = CASE WHEN %s = 'succeeded' THEN total ELSE done END
            WHERE job = %s""",
            [state, message, *2 * [json.dumps(error.to_dict()) if error else None], state,
             number])
        metrics.job(kind, state)


def _connection_is_lost(connection: psycopg.Connection, error: psycopg.Error) -> bool:
    """Whether the server or the connection went away. A full disk, a timeout or a lock that is not
    to be had are errors of the job, though psycopg counts them among the operational ones."""
    state = error.sqlstate
    return connection.closed or (isinstance(error, psycopg.OperationalError)
                                 and (state is None or state[:2] == "08" or state[:3] == "57P"))
