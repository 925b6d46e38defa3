"""The worker's connections to PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import psycopg.sql
from psycopg.rows import dict_row

from pgrain.errors import PgrainError, WorkerUnreachable

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
                                 connect_timeout=10, client_encoding="utf8")
    settings = dict(_SETTINGS)
    if connection.info.server_version >= 170000:
        settings["transaction_timeout"] = 0
    if role is not None:    # (also where it has logged in: ALTER ROLE can set another)
        settings = {"role": psycopg.sql.Identifier(role), **settings}
    if connection.info.parameter_status("is_superuser") == "on":    # before it is another role
        settings = {**_UNLOGGED, **settings}
    connection.execute(psycopg.sql.SQL("; ").join(     # one round trip
        psycopg.sql.SQL("SET {} = {}").format(psycopg.sql.Identifier(name), value)
        for name, value in settings.items()))
    return connection


# What ALTER DATABASE or ALTER ROLE sets for applications is not meant for the worker, whose
# statements take as long as they take and write its own tables (autovacuum does the same).
_SETTINGS = {"search_path": psycopg.sql.SQL("pg_catalog, pg_temp"), "statement_timeout": 0,
             "lock_timeout": 0, "idle_in_transaction_session_timeout": 0,
             "idle_session_timeout": 0, "default_transaction_isolation": "read committed",
             "default_transaction_read_only": "off", "extra_float_digits": 1,
             "standard_conforming_strings": "on", "row_security": "on",
             # How keys and labels are written, and what psycopg reads.
             "DateStyle": "ISO", "IntervalStyle": "postgres", "bytea_output": "hex"}
# As sql/10_schema.sql sets it for the worker's own role: what it stores are parameters.
_UNLOGGED = {"log_parameter_max_length": 0, "log_parameter_max_length_on_error": 0}


def hold(connection: psycopg.Connection, what: str, name: object) -> bool:
    """Take a job, relation or watch for the process of this connection; False where another one has
    it (sql/25_held.sql)."""
    return connection.execute("SELECT pgrain._hold(%s, %s) AS mine",
                              [what, str(name)]).fetchone()["mine"]


def leave(connection: psycopg.Connection, what: str, name: object) -> None:
    """Give it up; it goes with the connection, too."""
    if not connection.closed:
        connection.execute("SELECT pgrain._leave(%s, %s)", [what, str(name)])


def failure(error: psycopg.Error) -> PgrainError:
    """What a session reads of a statement of the worker's that failed. DETAIL, which may quote a
    row, is left to the worker's log."""
    if error.sqlstate is None or error.sqlstate[:2] == "08" or error.sqlstate[:3] == "57P":
        return WorkerUnreachable("the worker cannot reach its own database",
                                 detail=str(error).strip(), hint="Its log says so, too.")
    return PgrainError(f"the worker failed in the database: {error.diag.message_primary}",
                       hint="Its log has the details.", sqlstate=error.sqlstate)


def power(connection: psycopg.Connection) -> dict | None:
    """What is wrong with the role that this connection has logged in as, or works as: {"problem",
    "hint"} where one of them may do everything or row security does not hold for it, else None.

    Nothing that the worker does needs that. It takes `WORKER_ROLE` on anyway, but whoever logs in
    may take off what they have put on.
    """
    row = connection.execute(_POWER).fetchone()
    if row is None:
        return None
    what = "a superuser" if row["rolsuper"] else "a role for which row security does not hold"
    if row["rolname"] == WORKER_ROLE:
        return {"problem": f"its role {WORKER_ROLE} is {what}",
                "hint": f"ALTER ROLE {WORKER_ROLE} NOSUPERUSER NOBYPASSRLS, then restart it."}
    return {"problem": f'it has logged in as "{row["rolname"]}", {what}',
            "hint": f"Start it with user={WORKER_ROLE} in --dsn."}


_POWER = """
SELECT rolname, rolsuper FROM pg_roles WHERE rolname IN (session_user, current_user)
AND (rolsuper OR rolbypassrls) ORDER BY rolname = session_user DESC LIMIT 1
"""


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
