"""Catching up with attached relations: new values are predicted and stored soon after they come.

Nothing depends on it but speed. It is told by hints (statement triggers, sql/66_attached.sql) and,
every `SWEEP_SECONDS`, by PostgreSQL's counters of written rows, for what no trigger sees; views and
foreign tables, which have neither, are read again every `BLIND_SECONDS`. A relation is read as a
whole, so it rests for `RESTS` times as long as that took. One that somebody has locked is tried
again every `LOCKED_SECONDS`; `pgrain.attached.locked_by` says who. One that cannot be read is in
`pgrain.attached.problem`, with why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import psycopg
import structlog
from psycopg import sql

from pgrain.errors import PgrainError, WorkerUnreachable
from pgrain.store import predictions, relations
from pgrain.store.database import Shared, hold, leave
from pgrain.worker import attach_job
from pgrain.worker.polling import Poller, said, there

log = structlog.get_logger()
SWEEP_SECONDS = 60.0
BLIND_SECONDS = 900.0
RESTS = 10
FAILED_SECONDS = 600.0
LOCKED_SECONDS = 5.0


class _Locked(Exception):
    """Somebody has locked the relation; why in words."""


class CatchUp(Poller):
    """One thread for all attached relations of the database."""

    poll_seconds = idle_seconds = 0.5

    def __init__(self, connect: Callable[[], psycopg.Connection], looks: Shared):
        super().__init__("catching up", connect, looks)
        self._dirty: set[int] = set()
        self._rests: dict[int, float] = {}      # relation -> not before
        self._locked: set[int] = set()          # of which it was said that somebody has locked it
        self._refused: set[tuple[str, int]] = set()     # models' relations that a check has refused
        self._written: dict[int, int] = {}      # relation -> rows written, as last counted
        self._swept = time.monotonic()
        self._blind = time.monotonic()

    def due(self, connection) -> bool:
        """Whether there is a hint, a relation that has rested, or the time of the next sweep."""
        if not there(connection, "pgrain.attachment_hint"):
            return False
        return (time.monotonic() - self._swept > SWEEP_SECONDS
                or any(self._rests.get(relation, 0.0) <= time.monotonic()
                       for relation in self._dirty)
                or connection.execute("SELECT EXISTS (SELECT FROM pgrain.attachment_hint) AS hinted"
                                      ).fetchone()["hinted"])

    def step(self, connection) -> bool:
        """Look for relations with something new; read one that is due."""
        if not there(connection, "pgrain.attachment_hint"):
            return False
        hinted = connection.execute(_HINTED).fetchall()
        self._dirty.update(row["relation"] for row in hinted)
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._sweep(connection)
        now = time.monotonic()
        for relation in sorted(self._dirty):
            if self._rests.get(relation, 0.0) <= now:
                self._dirty.discard(relation)
                self._catch_up(connection, relation)
                return True
        return bool(hinted)

    def _sweep(self, connection) -> None:
        self._swept = time.monotonic()
        connection.execute(_IMPATIENT)
        try:
            connection.execute("SELECT pgrain._tidy()")
        except psycopg.DatabaseError as error:     # somebody's event trigger, perhaps
            if connection.closed:
                raise
            log.warning("what was dropped cannot be tidied up", error=str(error).strip())
        self._check(connection)
        blind = self._swept - self._blind > BLIND_SECONDS
        if blind:
            self._blind = self._swept
        for row in connection.execute(_WRITTEN).fetchall():
            before = self._written.get(row["relation"])
            self._written[row["relation"]] = row["written"]
            if before != row["written"] or (blind and row["blind"]):
                self._dirty.add(row["relation"])

    def _check(self, connection) -> None:
        """Note which relations could not be read now, before somebody needs it: without rights,
        columns, or their roles. One that can be read again is. (What else may be wrong shows when
        it is read, as it does for foreign tables, whose server this would ask.)"""
        for row in connection.execute(_CHECKED).fetchall():
            relation = row["relation"]
            try:
                with relations.reading(connection, relation, row["features"], row["attached_by"],
                                       self._waits("check")) as name:
                    connection.execute(sql.SQL("SELECT FROM {} LIMIT 0").format(name))
            except _Locked:
                continue
            except (PgrainError, psycopg.DatabaseError) as error:
                if connection.closed:
                    raise
                self._refused.add((row["model"], relation))
                self._cannot(connection, row["model"], relation, error)
            else:
                if (row["model"], relation) in self._refused:
                    self._refused.discard((row["model"], relation))
                    self._dirty.add(relation)
                    self._rests.pop(relation, None)

    @staticmethod
    def _cannot(connection, model: str, relation: int, error: Exception) -> None:
        if predictions.cannot_read(connection, model, relation, *said(error)):
            log.warning("cannot catch up", model=model, relation=relation, error=said(error)[0])

    def _catch_up(self, connection, relation: int) -> None:
        began = time.monotonic()
        if not hold(connection, "relation", relation):
            return              # another worker of this database is at it
        model = None
        connection.execute(_IMPATIENT)
        try:
            # Hints of later changes come later; those of this moment are answered by what follows.
            connection.execute(_FORGET, [relation])
            for row in connection.execute(
                    "SELECT a.model FROM pgrain.attachment a JOIN pgrain.model m USING (model) "
                    "WHERE a.relation = %s::oid AND m.active_version IS NOT NULL",
                    [relation]).fetchall():
                model = row["model"]
                message = attach_job.run(SimpleNamespace(
                    connection=connection, model=model,
                    arguments={"relation": relation}, report=self._report, waits=self._waits),
                    leave_out=True)
                log.info("caught up", model=model, relation=relation, found=message)
            self._rests[relation] = time.monotonic() + RESTS * (time.monotonic() - began)
            self._locked.discard(relation)
        except WorkerUnreachable:
            return
        except (_Locked, psycopg.errors.LockNotAvailable) as error:
            # The others go on; this one's turn comes again.
            self._dirty.add(relation)
            self._rests[relation] = time.monotonic() + LOCKED_SECONDS
            if relation not in self._locked:
                self._locked.add(relation)
                log.warning("catching up waits for a lock", relation=relation,
                            why=str(error).strip(), again_in=LOCKED_SECONDS)
        except (PgrainError, psycopg.errors.DatabaseError) as error:
            if connection.closed:
                raise
            self._dirty.add(relation)
            self._rests[relation] = time.monotonic() + FAILED_SECONDS
            if model is None:
                log.warning("cannot catch up", relation=relation, error=str(error).strip())
            else:
                self._cannot(connection, model, relation, error)
        finally:
            leave(connection, "relation", relation)

    @staticmethod
    def _waits(phase: str) -> Callable[[str], None]:
        def give_way(why: str) -> None:
            raise _Locked(why)
        return give_way

    def _report(self, phase: str, done: int, total: int, message: str | None = None) -> None:
        if self.stopping.is_set():
            raise WorkerUnreachable("the worker is stopping")


# Attached relations with a hint, their own or of a partition of theirs.
_TREE = """WITH RECURSIVE tree (root, oid) AS (
    SELECT DISTINCT a.relation::oid, a.relation::oid FROM pgrain.attachment a
    UNION
    SELECT tree.root, i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
"""
# A transaction that goes on may have deleted a model, or a row of pgrain's that is written here.
_IMPATIENT = "SET lock_timeout = '3s'"
_CHECKED = """
SELECT a.model, a.relation::oid::bigint AS relation, a.features::text[] AS features, a.attached_by
FROM pgrain.attachment a JOIN pg_class c ON c.oid = a.relation WHERE c.relkind <> 'f'"""
_HINTED = _TREE + """SELECT DISTINCT tree.root::bigint AS relation FROM tree
WHERE EXISTS (SELECT FROM pgrain.attachment_hint h WHERE h.relation = tree.oid)"""
_FORGET = """WITH RECURSIVE tree (oid) AS (
    SELECT %s::oid
    UNION
    SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
SELECT pgrain._forget_hints(array_agg(oid), false) FROM tree"""
_WRITTEN = _TREE + """SELECT tree.root::bigint AS relation,
    sum(pg_stat_get_tuples_inserted(tree.oid) + pg_stat_get_tuples_updated(tree.oid)
        + pg_stat_get_tuples_deleted(tree.oid))::bigint AS written,
    bool_or(c.relkind NOT IN ('r', 'p')) AS blind
FROM tree JOIN pg_class c USING (oid) GROUP BY tree.root"""
