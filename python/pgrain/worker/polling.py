"""Threads of the worker that look at the database now and then."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable

import psycopg
import structlog

from pgrain.errors import PgrainError
from pgrain.store.database import Shared

log = structlog.get_logger()
PAUSE_SECONDS = 1.0     # after a failure
LINGER_SECONDS = 10.0   # a connection is kept so long after there was something to do


class Poller(threading.Thread):
    """Calls `step(connection)` every `poll_seconds` until `stopping` is set, as long as there is
    something to do; while there is not, asks `due` every `idle_seconds` without a connection of its
    own: those are scarce (max_connections).

    A lost database is waited for, and an exception that nobody expected is logged: neither ends the
    thread. On a standby there is nothing to do; it may be promoted one day.
    """

    poll_seconds = 1.0
    idle_seconds = 1.0

    def __init__(self, name: str, connect: Callable[[], psycopg.Connection], looks: Shared):
        super().__init__(name=name, daemon=True)
        self._connect, self._looks = connect, looks
        self.stopping = threading.Event()

    def due(self, connection: psycopg.Connection) -> bool:
        """Whether there is something to do. The connection is shared: one short statement."""
        raise NotImplementedError

    def step(self, connection: psycopg.Connection) -> bool:
        """One look, and what it finds to be done; whether more is to be expected."""
        raise NotImplementedError

    def run(self) -> None:
        """The thread's life."""
        while not self.stopping.is_set():
            try:
                if self._primary(self._looks.get()) and self.due(self._looks.get()):
                    with self._connect() as connection:
                        self._work(connection)
                self.stopping.wait(self.idle_seconds)
            except psycopg.Error as error:
                log.warning(f"{self.name}: waits for the database", error=str(error).strip())
                self.stopping.wait(PAUSE_SECONDS)
            except Exception:
                log.error(f"{self.name}: failed", traceback=traceback.format_exc())
                self.stopping.wait(PAUSE_SECONDS)

    def _work(self, connection: psycopg.Connection) -> None:
        until = 0.0
        while not self.stopping.is_set():
            if self._primary(connection) and self.step(connection):
                until = time.monotonic() + LINGER_SECONDS
            elif time.monotonic() > until:
                return
            self.stopping.wait(self.poll_seconds)

    @staticmethod
    def _primary(connection: psycopg.Connection) -> bool:
        return not connection.execute("SELECT pg_is_in_recovery() AS r").fetchone()["r"]


def there(connection: psycopg.Connection, table: str) -> bool:
    """Whether the extension is (still) there."""
    return connection.execute("SELECT to_regclass(%s) IS NOT NULL AS there",
                              [table]).fetchone()["there"]


def said(error: Exception) -> tuple[str, str | None]:
    """(what went wrong, what to do), without DETAIL, which may quote a row."""
    if isinstance(error, PgrainError):
        return error.message, error.hint
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    return primary or str(error).strip(), getattr(getattr(error, "diag", None), "message_hint",
                                                  None)
