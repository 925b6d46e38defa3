#!/opt/pgrain/bin/python
"""Exit status 0 if the worker of this container has registered in its database and lives. On a
standby nobody can register; there it is enough that the database answers."""

import os
import socket
import sys
import time

import psycopg

# Fields after the name, which may hold spaces: the 22nd of all is the start of process 1, the
# worker, in ticks since the machine started (proc_pid_stat(5)).
with open("/proc/1/stat") as file:
    ticks = int(file.read().rpartition(")")[2].split()[19])
age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
# Not what this container's worker registered before it died and was started anew. Two durations are
# compared, for the clocks of two machines may differ.
with psycopg.connect(os.environ["PGRAIN_DSN"], connect_timeout=5) as connection:
    alive = connection.execute(
        "SELECT pg_is_in_recovery() OR EXISTS (SELECT FROM pgrain.worker WHERE host = %s "
        "AND seen_at > clock_timestamp() - interval '15 seconds' "
        "AND started_at > clock_timestamp() - make_interval(secs => %s))",
        [socket.gethostname(), age]).fetchone()[0]
sys.exit(0 if alive else 1)
