"""The thread that keeps watches up: folds notes into states, has states computed again.

It asks every `poll_seconds`. A NOTIFY from the triggers would be quicker and make the commits of
all writers wait for each other (PostgreSQL serialises commits that notify).
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable

import psycopg
import structlog
from psycopg import sql

from pgrain.errors import PgrainError
from pgrain.store.database import Shared, hold
from pgrain.worker.polling import Poller, there
from pgrain.worker.watch_rows import bury, drained, problem, under_way, writers
from pgrain.worker.watches import Rebuild, Watches

log = structlog.get_logger()
LOOK_SECONDS = 2.0          # between two looks at what no note tells
LONGEST_PAUSE = 60.0        # between two tries to compute a state that failed
LIMIT_PAUSE = 20.0          # ... that is over a limit, at least: times what the last try took
BUILDERS = 2                # states that are computed at a time
SAY_AGAIN_SECONDS = 3600.0  # between two lines in the log about a watch that say the same


class Folder(Poller):
    """One thread for all watches of the database. Each state that is computed again has a thread of
    its own: it may take long, and the others are to be folded, and their alerts told, meanwhile."""

    poll_seconds = 0.1

    def __init__(self, connect: Callable[[], psycopg.Connection], looks: Shared,
                 watches: Callable[[], Watches]):
        super().__init__("watches", connect, looks)
        self._watches = watches
        self._failed: dict[int, tuple[float, float]] = {}   # watch -> (not before, pause)
        self._said: dict[tuple[int, str], tuple[str, float]] = {}
        # Watch -> (generation of its state, transactions that it waits for).
        self._draining: dict[int, tuple[int, dict[str, str | None]]] = {}
        self._looked, self._some = 0.0, True
        self._building: dict[int, threading.Thread] = {}

    def due(self, connection) -> bool:
        """Whether there are watches."""
        return there(connection, "pgrain.watch") and connection.execute(
            "SELECT EXISTS (SELECT FROM pgrain.watch) AS some").fetchone()["some"]

    def step(self, connection) -> bool:
        """One look at the notes and, every `LOOK_SECONDS`, at everything else."""
        if not there(connection, "pgrain.watch_note"):
            return False
        reasons = {}
        for row in connection.execute(_WAITING).fetchall():
            if row["cut"]:
                bury(connection, row["watch"])
                continue
            if row["draining"]:
                reasons[row["watch"]] = self._drain(connection, row["watch"], row["generation"])
                continue
            reasons[row["watch"]] = self._fold(connection, row["watch"])
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self._some = self.due(connection)
            connection.execute(_LOCKABLE)
            for row in connection.execute(_STALE).fetchall():
                if row["cut"]:      # by somebody who has noted nothing in the end
                    bury(connection, row["watch"])
                else:
                    reasons[row["watch"]] = reasons.get(row["watch"]) or row["reason"]
            for row in connection.execute(_CURED).fetchall():
                self._cured(connection, row["watch"], reasons)
        for number, reason in reasons.items():
            if (reason is not None and self._failed.get(number, (0.0,))[0] <= time.monotonic()
                    and len(self._building) < BUILDERS):
                self._begin(number, reason)
        return self._some

    def _fold(self, connection, number: int) -> str | None:
        if number in self._building or self._failed.get(number, (0.0,))[0] > time.monotonic():
            return None
        try:
            return self._watches().fold(connection, number)
        except Rebuild as error:
            return str(error)
        except PgrainError as error:
            self._say("notes refused", number, error.message, detail=error.detail,
                      sqlstate=error.sqlstate)
            return error.message
        except psycopg.Error as error:      # its row is its creator's: the others go on
            if connection.closed or isinstance(error, psycopg.OperationalError):
                raise
            reason = _reason(error)
            self._say("watch cannot be folded", number, reason, sqlstate=error.sqlstate)
            return reason
        except Exception as error:
            log.error("watch cannot be folded", watch=number, traceback=traceback.format_exc())
            return f"{type(error).__name__}: {error}"

    def _drain(self, connection, watch: int, generation: int) -> str | None:
        """More changes waited than are noted. The reason to compute the state when nobody is under
        way any more who may have seen that and left no note."""
        now = writers(connection, watch)
        if self._draining.get(watch, (None,))[0] != generation:
            # Those of this moment, at which everybody new notes what they change.
            self._draining[watch] = generation, now
            if now:
                log.info("watch waits for who changes its tables", watch=watch,
                         transactions=len(now))
        _, then = self._draining[watch]
        if under_way(then, now):
            return None
        del self._draining[watch]
        if drained(connection, watch, generation):
            return "more changes waited than are noted"
        return None

    def _begin(self, number: int, reason: str) -> None:
        if number in self._building:
            return
        if number not in self._failed:
            log.info("watch is computed again", watch=number, reason=reason)
        thread = self._building[number] = threading.Thread(
            target=self._rebuilt, args=(number,), name=f"watch {number}", daemon=True)
        thread.start()

    def _rebuilt(self, number: int) -> None:
        try:
            self._rebuild(number)
        except psycopg.Error as error:      # the database is away
            log.warning("watch is not computed", watch=number, error=str(error).strip())
        except Exception:
            log.error("watch cannot be computed", watch=number, traceback=traceback.format_exc())
        finally:
            del self._building[number]

    def _rebuild(self, number: int) -> None:
        """As the watch's creator: the function belongs to them. What they wrote runs on a
        connection of its own that ends with it."""
        began, failure = time.monotonic(), None
        try:
            with self._connect() as own:
                if not hold(own, "watch", number):
                    # Its maker, or another worker, is at it.
                    _, pause = self._failed.get(number, (0.0, 0.5))
                    self._failed[number] = (time.monotonic() + LOOK_SECONDS, pause)
                    return
                # Few states at a time: where somebody has locked a table, the others go on.
                own.execute("SET lock_timeout = '3s'")
                # Triggers that are off, or missing on a new partition, come (back) first.
                own.execute("SELECT pgrain._arm_watch(%(watch)s) "
                            "WHERE pgrain._watch_print(%(watch)s) IS NULL", {"watch": number})
                # Of a restored watch: a dump has its triggers, but no epoch.
                own.execute("SELECT pgrain._note_again(%(watch)s) "
                            "WHERE pgrain._watch_cut(%(watch)s) IS NULL", {"watch": number})
                own.execute(sql.SQL("SELECT pgrain.{}()").format(
                    sql.Identifier(f"_watch_{number}_build")))
        except psycopg.Error as error:
            failure = error
        if failure is None:
            self._failed.pop(number, None)
            for key in [key for key in list(self._said) if key[0] == number]:
                self._said.pop(key, None)
        else:
            pause = min(2 * self._failed.get(number, (0.0, 0.5))[1], LONGEST_PAUSE)
            if failure.sqlstate == "54000":   # until there are fewer rows
                pause = max(pause, LIMIT_PAUSE * (time.monotonic() - began))
            self._failed[number] = (time.monotonic() + pause, pause)
            self._say("watch cannot be computed", number, _reason(failure),
                      sqlstate=failure.sqlstate)
        with self._connect() as connection:
            problem(connection, number, failure and _reason(failure))
            if failure is not None:
                bury(connection, number)

    def _cured(self, connection, number: int, reasons: dict[int, str | None]) -> None:
        """A watch with a problem: is there nothing to be done for it, it has been computed, as by
        whoever makes it while this thread tries, too."""
        if (reasons.get(number) is None and number not in self._building
                and self._failed.get(number, (0.0,))[0] <= time.monotonic()):
            self._failed.pop(number, None)
            problem(connection, number, None)

    def _say(self, event: str, number: int, why: str, **more) -> None:
        """Into the log; what was said of a watch is said again when it is another reason, or after
        `SAY_AGAIN_SECONDS`."""
        before, when = self._said.get((number, event), ("", 0.0))
        if before != why or time.monotonic() - when > SAY_AGAIN_SECONDS:
            self._said[number, event] = why, time.monotonic()
            log.warning(event, watch=number, error=why, **more)


def _reason(error: psycopg.Error) -> str:
    """Message and detail, without the context: of a function in Python that is its whole stack."""
    primary = error.diag.message_primary
    if primary is None:     # not the server's
        return str(error).strip()
    primary = primary.removeprefix("pgrain: ")
    return primary + (f" ({error.diag.message_detail})" if error.diag.message_detail else "")


# Whether a watch is in another epoch than its state, or has another owner: notes that are under way
# are the last one's, and count for nothing.
_CUT = """CASE WHEN s.watch IS NULL THEN coalesce(pgrain._watch_cut({0}.watch) % 2 = 1, false)
    ELSE pgrain._watch_cut({0}.watch) IS DISTINCT FROM s.epoch
        OR s.owner <> pgrain._watch_owner({0}.watch) END AS cut"""
# What waits, a row a watch.
_WAITING = f"""
SELECT n.watch, s.generation, coalesce(s.draining, false) AS draining, {_CUT.format("n")}
FROM (SELECT watch FROM pgrain.watch_note
      UNION SELECT watch FROM pgrain.watch_state WHERE draining) AS n
LEFT JOIN pgrain.watch_state s USING (watch)"""
# With a problem, and a state that may be right.
_CURED = """
SELECT p.watch FROM pgrain.watch_problem p JOIN pgrain.watch_state s USING (watch)
WHERE NOT s.draining AND s.print <> ''"""
# Of a watch whose row came while its triggers were off.
_LOCKABLE = """
INSERT INTO pgrain.watch_lock (watch) SELECT w.watch FROM pgrain.watch w
WHERE NOT EXISTS (SELECT FROM pgrain.watch_lock l WHERE l.watch = w.watch) ON CONFLICT DO NOTHING"""
_STALE = f"""
SELECT w.watch, {_CUT.format("w")}, CASE WHEN s.watch IS NULL THEN 'there is no state yet'
    WHEN s.print IS DISTINCT FROM pgrain._watch_print(w.watch)
        THEN 'tables, triggers or functions were altered'
    ELSE 'the model has another version or spectrum' END AS reason
FROM pgrain.watch w JOIN pgrain.model m ON m.model = w.model
JOIN pgrain.model_version v ON v.version = m.active_version
LEFT JOIN pgrain.watch_state s ON s.watch = w.watch
WHERE s.watch IS NULL AND w.made_at < now() - interval '10 seconds'
   OR s.watch IS NOT NULL AND NOT s.draining
   AND (s.print IS DISTINCT FROM pgrain._watch_print(w.watch)
   OR pgrain._watch_cut(w.watch) IS DISTINCT FROM s.epoch
   OR s.owner <> pgrain._watch_owner(w.watch) OR s.version <> m.active_version
   OR s.spectrum IS DISTINCT FROM (SELECT x.spectrum FROM pgrain.spectrum x
                                   WHERE x.spectrum = v.active_spectrum))
"""
