"""The worker's connections to PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import psycopg.sql
from psycopg.rows import dict_row

WORKER_ROLE = "pgrain_worker"


def connect(dsn: str, what: str | None = None, *,
            role: str | None = WORKER_ROLE) -> psycopg.Connection:
    """An autocommit connection that returns rows as dicts; `what` it is for is seen in
    pg_stat_activity.

    The connection works as the worker's role, whoever `dsn` logs in as: what it may read is what
    was granted to that role. TCP keepalives let it notice a vanished server.
    """
    connection = psycopg.connect(dsn, autocommit=True, row_factory=dict_row,
                                 application_name=f"pgrain worker: {what}" if what
                                 else "pgrain worker", keepalives_idle=30,
                                 connect_timeout=10)
    if role is not None and connection.info.user != role:
        connection.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(role)))
    connection.execute(psycopg.sql.SQL("; ").join(     # one round trip
        psycopg.sql.SQL("SET {} = {}").format(psycopg.sql.Identifier(name), value)
        for name, value in _SETTINGS.items()))
    return connection


# What ALTER DATABASE or ALTER ROLE sets for applications is not meant for the worker, whose
# statements take as long as they take and write its own tables (autovacuum does the same).
_SETTINGS = {"search_path": psycopg.sql.SQL("pg_catalog, pg_temp"), "statement_timeout": 0,
             "lock_timeout": 0, "idle_in_transaction_session_timeout": 0,
             "idle_session_timeout": 0, "default_transaction_isolation": "read committed",
             "default_transaction_read_only": "off", "extra_float_digits": 1,
             "standard_conforming_strings": "on", "row_security": "on"}


class Shared:
    """One connection for the short looks of several threads: single statements that wait for
    nobody, never a transaction. Made when first asked for, and again after it was lost."""

    def __init__(self, make: Callable[[], psycopg.Connection]):
        self._make, self._lock = make, threading.Lock()
        self._connection: psycopg.Connection | None = None

    def get(self) -> psycopg.Connection:
        """The connection; another one than last time if that was lost."""
        with self._lock:
            if self._connection is None or self._connection.closed:
                self._connection = self._make()
            return self._connection

    def close(self) -> None:
        """Give it up; who asks for it later gets a new one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
