"""Threads of the worker that look at the database now and then."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

import psycopg
import structlog

log = structlog.get_logger()
PAUSE_SECONDS = 1.0     # after a failure


class Poller(threading.Thread):
    """Calls `step(connection)` every `poll_seconds` until `stopping` is set.

    A lost database is waited for, and an exception that nobody expected is logged: neither ends the
    thread. On a standby there is nothing to do; it may be promoted one day.
    """

    poll_seconds = 1.0

    def __init__(self, name: str, connect: Callable[[], psycopg.Connection]):
        super().__init__(name=name, daemon=True)
        self._connect = connect
        self.stopping = threading.Event()

    def step(self, connection: psycopg.Connection) -> None:
        """One look."""
        raise NotImplementedError

    def run(self) -> None:
        """The thread's life."""
        while not self.stopping.is_set():
            try:
                with self._connect() as connection:
                    while not self.stopping.is_set():
                        if not connection.execute("SELECT pg_is_in_recovery() AS r"
                                                  ).fetchone()["r"]:
                            self.step(connection)
                        self.stopping.wait(self.poll_seconds)
            except psycopg.Error as error:
                log.warning(f"{self.name}: waits for the database", error=str(error).strip())
                self.stopping.wait(PAUSE_SECONDS)
            except Exception:
                log.error(f"{self.name}: failed", traceback=traceback.format_exc())
                self.stopping.wait(PAUSE_SECONDS)
