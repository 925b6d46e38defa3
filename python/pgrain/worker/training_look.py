"""Looking at training tables: which rows are new, gone or changed since the active version learned.

What `pgrain.staleness` says. `train` and `precompute` read the rows anyway and write down what they
find; in between, this looks when PostgreSQL's counters of written rows have moved (those of views
and foreign tables say nothing: they are read every `BLIND_SECONDS`), and rests for `RESTS` times as
long as that took. It reads for the role that has pointed the model at its table, as a job would for
the one that submitted it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import psycopg
import structlog

from pgrain.errors import PgrainError, WorkerUnreachable
from pgrain.intervention.edits import DELETE
from pgrain.store import relations, versions
from pgrain.store.database import Shared, hold, leave
from pgrain.worker.polling import Poller, said, there
from pgrain.worker.repairing import Repairing

log = structlog.get_logger()
SWEEP_SECONDS = 60.0
BLIND_SECONDS = 900.0
RESTS = 10
FAILED_SECONDS = 60.0


class Locked(Exception):
    """Somebody has locked the table; why in words."""


class Compared:
    """The rows of a training table beside those that a version learned, counted as they pass.

    new: that it did not learn and that `removed` (keys of rows that edits in force take out) lacks.
    where: the number of each learned key. A key that occurs again is a new row; one that was erased
    is, too, while its row is there.
    """

    def __init__(self, learned: versions.LearnedRows, removed: set[str]):
        self.where = learned.where()
        self._there = np.zeros(len(learned.keys), bool)
        self._blank = ~learned.digests.any(axis=1)
        self._removed = removed
        self.new = 0

    def passing(self, rows: Iterable[relations.Row]) -> Iterator[relations.Row]:
        """The same rows."""
        for row in rows:
            number = self.where.get(row.key)
            if number is not None and not (self._there[number] or self._blank[number]):
                self._there[number] = True
            elif row.key not in self._removed:
                self.new += 1
            yield row

    def counts(self, same: int) -> tuple[int, int, int]:
        """(new, gone, changed), of which `same` are as they were learned."""
        there = int(self._there.sum())
        return self.new, int((~self._blank).sum()) - there, there - same


def removed(connection: psycopg.Connection, model: str, repairing: Repairing) -> set[str]:
    """Keys of rows that the edits in force take out."""
    edits = repairing.removals(versions.edits(connection, model)[0])
    return {key for key, edit in edits.items() if edit == DELETE}


def record(connection: psycopg.Connection, model: str, version: int, began: str,
           counts: tuple[int, int, int]) -> None:
    """What was found beside `version`, by a reading that began then (`now`)."""
    connection.execute("""
        INSERT INTO pgrain.training_state AS s (model, version, new_rows, gone_rows, changed_rows,
                                                looked_at)
        SELECT m.model, %(version)s, %(new)s, %(gone)s, %(changed)s, %(began)s::timestamptz
        FROM pgrain.model m WHERE m.model = %(model)s
        ON CONFLICT (model) DO UPDATE SET version = excluded.version,
            new_rows = excluded.new_rows, gone_rows = excluded.gone_rows,
            changed_rows = excluded.changed_rows, looked_at = excluded.looked_at,
            problem = NULL, hint = NULL
        WHERE s.version <> excluded.version
           OR coalesce(s.looked_at, '-infinity') <= excluded.looked_at""",
        {"model": model, "version": version, "began": began,
         **dict(zip(("new", "gone", "changed"), counts, strict=True))})


def now(connection: psycopg.Connection) -> str:
    """The server's clock, before a reading begins."""
    return connection.execute("SELECT clock_timestamp()::text AS now").fetchone()["now"]


def cannot(connection: psycopg.Connection, model: str, version: int, error: Exception) -> None:
    """A look failed: what the last one found stays, with its time."""
    problem, hint = said(error)
    new = connection.execute("""
        INSERT INTO pgrain.training_state AS s (model, version, problem, hint)
        SELECT m.model, %(version)s, %(problem)s, %(hint)s
        FROM pgrain.model m WHERE m.model = %(model)s
        ON CONFLICT (model) DO UPDATE SET problem = excluded.problem, hint = excluded.hint
        WHERE (s.problem, s.hint) IS DISTINCT FROM (excluded.problem, excluded.hint)""",
        {"model": model, "version": version, "problem": problem, "hint": hint})
    if new.rowcount:
        log.warning("cannot look at a training table", model=model, error=problem)


class TrainingLook(Poller):
    """One thread for the training tables of the database."""

    poll_seconds = idle_seconds = 1.0

    def __init__(self, connect: Callable[[], psycopg.Connection], looks: Shared):
        super().__init__("training tables", connect, looks)
        self._seen: dict[str, tuple] = {}       # model -> (version, rows written), as last counted
        self._due: set[str] = set()
        self._rests: dict[str, float] = {}      # model -> not before
        self._swept = self._blind = time.monotonic()

    def due(self, connection) -> bool:
        """Whether a model is to be looked at; every `SWEEP_SECONDS`, which have moved."""
        if time.monotonic() - self._swept > SWEEP_SECONDS and there(connection,
                                                                    "pgrain.training_state"):
            self.sweep(connection)
        return self._next() is not None

    def step(self, connection) -> bool:
        """Look at one; whether there was one."""
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self.sweep(connection)
        model = self._next()
        if model is None:
            return False
        self._due.discard(model)
        self._look(connection, model)
        return True

    def sweep(self, connection: psycopg.Connection) -> None:
        """Notice models whose version or table has moved."""
        self._swept = time.monotonic()
        blind = self._swept - self._blind > BLIND_SECONDS
        if blind:
            self._blind = self._swept
        found = connection.execute(_WRITTEN).fetchall()
        for row in found:
            state = row["version"], row["written"]
            if self._seen.get(row["model"]) != state or row["failed"] or (blind and row["blind"]):
                self._due.add(row["model"])
            self._seen[row["model"]] = state
        known = {row["model"] for row in found}
        self._due &= known
        self._seen = {model: seen for model, seen in self._seen.items() if model in known}
        self._rests = {model: rest for model, rest in self._rests.items() if model in known}

    def _next(self) -> str | None:
        return min((model for model in self._due
                    if self._rests.get(model, 0.0) <= time.monotonic()), default=None)

    def _look(self, connection: psycopg.Connection, name: str) -> None:
        began = time.monotonic()
        try:
            model = versions.read_model(connection, name)
        except PgrainError:         # dropped meanwhile
            return
        if model.active_version is None or not hold(connection, "relation", f"of model {name}"):
            return                  # another worker of this database is at it
        try:
            self._compare(connection, model)
            self._rests[name] = time.monotonic() + RESTS * (time.monotonic() - began)
        except Locked as error:
            log.info("looking at a training table waits for a lock", model=name, why=str(error))
            self._due.add(name)
            self._rests[name] = time.monotonic() + FAILED_SECONDS
        except (PgrainError, psycopg.DatabaseError) as error:
            if self.stopping.is_set():
                return
            if connection.closed:
                raise
            self._rests[name] = time.monotonic() + FAILED_SECONDS
            cannot(connection, name, model.active_version, error)
        finally:
            leave(connection, "relation", f"of model {name}")

    def _compare(self, connection, model: versions.ModelRow) -> None:
        row = versions.read_version(connection, model.active_version)
        learned = versions.read_rows(connection, row.version)
        repairing = Repairing(connection, model, versions.read_secret(connection))
        reader = connection.execute("SELECT coalesce(pointed_by, created_by) AS reader FROM "
                                    "pgrain.model WHERE model = %s", [model.model]).fetchone()
        if reader is None:          # dropped meanwhile
            return
        compared = Compared(learned, removed(connection, model.model, repairing))
        began = now(connection)
        rows = compared.passing(self._until_stopped(relations.read(
            connection, model.training_table, model.kind, model.features,
            versions.read_secret(connection), reader=reader["reader"],
            key=model.key, label=model.label, content=bool(repairing.all), waiting=_give_way)))
        same = np.zeros(len(learned.keys), bool)
        for _, number in repairing.as_learned(rows, learned, row.classes, compared.where):
            same[number] = True
        record(connection, model.model, row.version, began, compared.counts(int(same.sum())))

    def _until_stopped(self, rows: Iterable[relations.Row]) -> Iterator[relations.Row]:
        for done, row in enumerate(rows):
            if done % 1000 == 0 and self.stopping.is_set():
                raise WorkerUnreachable("the worker is stopping")
            yield row


def _give_way(why: str) -> None:
    raise Locked(why)


# Of a table and all below it; `blind` where the counters say nothing.
_WRITTEN = """
WITH RECURSIVE tree (model, oid) AS (
    SELECT m.model, m.training_table::oid FROM pgrain.model m WHERE m.active_version IS NOT NULL
    UNION
    SELECT tree.model, i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
SELECT m.model, m.active_version AS version, bool_or(c.relkind NOT IN ('r', 'p')) AS blind,
       coalesce(bool_or(s.problem IS NOT NULL), false) AS failed,
       sum(pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid)
           + pg_stat_get_tuples_deleted(c.oid))::bigint AS written
FROM tree JOIN pg_class c USING (oid) JOIN pgrain.model m USING (model)
LEFT JOIN pgrain.training_state s ON s.model = m.model
GROUP BY m.model, m.active_version"""
