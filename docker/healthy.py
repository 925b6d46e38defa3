#!/opt/pgrain/bin/python
"""Exit status 0 if the worker of this container has registered in its database and lives."""

import os
import socket
import sys

import psycopg

with psycopg.connect(os.environ["PGRAIN_DSN"], connect_timeout=5) as connection:
    alive = connection.execute(
        "SELECT bool_or(alive) FROM pgrain.workers WHERE host = %s OR pg_is_in_recovery()",
        [socket.gethostname()]).fetchone()[0]
sys.exit(0 if alive else 1)
