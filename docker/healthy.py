#!/opt/pgrain/bin/python
"""Exit status 0 if the worker of this container has registered in its database and lives. On a
standby nobody can register; there it is enough that the database answers."""

import os
import socket
import sys

import psycopg

with psycopg.connect(os.environ["PGRAIN_DSN"], connect_timeout=5) as connection:
    alive = connection.execute(
        "SELECT pg_is_in_recovery() OR EXISTS (SELECT FROM pgrain.worker WHERE host = %s "
        "AND seen_at > clock_timestamp() - interval '15 seconds')",
        [socket.gethostname()]).fetchone()[0]
sys.exit(0 if alive else 1)
