"""The worker's connections to PostgreSQL."""

from __future__ import annotations

import psycopg
import psycopg.sql
from psycopg.rows import dict_row

WORKER_ROLE = "pgrain_worker"


def connect(dsn: str, *, role: str | None = WORKER_ROLE) -> psycopg.Connection:
    """An autocommit connection that returns rows as dicts.

    The connection works as the worker's role, whoever `dsn` logs in as: what it may read is what
    was granted to that role. TCP keepalives let it notice a vanished server.
    """
    connection = psycopg.connect(dsn, autocommit=True, row_factory=dict_row,
                                 application_name="pgrain worker", keepalives_idle=30,
                                 connect_timeout=10)
    if role is not None and connection.info.user != role:
        connection.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(role)))
    connection.execute("SET search_path = pg_catalog, pg_temp")
    return connection
