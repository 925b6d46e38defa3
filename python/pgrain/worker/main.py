"""`pgrain worker`: start up, register, serve, run jobs, stop."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import uuid
from importlib.metadata import version as package_version

# The GPU is shared with whatever else runs there, so memory is taken as it is needed.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import psycopg
import structlog

from pgrain.errors import PgrainError
from pgrain.store.database import connect

log = structlog.get_logger()
WAIT_SECONDS = 2.0
HEARTBEAT_SECONDS = 3.0


def run(dsn: str, socket_path: str, allow_users: list[str]) -> int:
    """Serve one database until SIGTERM or SIGINT; returns the exit status.

    dsn: libpq connection string of the database. socket_path: the Unix socket to listen on.
    allow_users: OS users besides this one that may connect (the server's).
    """
    # These import the mathematics, whose import settles JAX's configuration.
    from pgrain.worker.handlers import Handlers
    from pgrain.worker.jobs import Runner
    from pgrain.worker.resident import Residents
    from pgrain.worker.server import Server

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr), processors=[
        structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"])])
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    device = describe_device()
    version = package_version("pgrain")
    log.info("worker starts", version=version, device=device, pid=os.getpid())
    database = wait_for_extension(dsn, stopping)
    if database is None:
        return 0

    identity = str(uuid.uuid4())
    server = Server(socket_path, Handlers(Residents(lambda: connect(dsn)), version=version,
                                          device=device).handle,
                    version=version, database=database, device=device, allow_users=allow_users)
    try:
        server.listen()
    except PgrainError as error:
        log.error("worker cannot start", error=error.message, hint=error.hint)
        return 1
    runner = Runner(lambda: connect(dsn), identity)
    threading.Thread(target=server.serve, name="accept", daemon=True).start()
    runner.start()
    try:
        heartbeat(dsn, identity, socket_path, version, device, stopping)
    finally:
        runner.stopping.set()
        server.close()
        runner.join(5)
    log.info("worker stopped")
    return 0


def describe_device() -> str:
    """What JAX computes on, such as "cpu (2 cores)" or "gpu: NVIDIA ..."."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"cpu ({len(os.sched_getaffinity(0))} cores)"
    return f"{device.platform}: {device.device_kind}"


def wait_for_extension(dsn: str, stopping: threading.Event) -> str | None:
    """The database's name, once the database and the extension in it are there."""
    told = None
    while not stopping.is_set():
        try:
            with connect(dsn) as connection:
                row = connection.execute(
                    "SELECT current_database() AS database, to_regclass('pgrain.worker') "
                    "IS NOT NULL AS there").fetchone()
            if row["there"]:
                return row["database"]
            problem = f'database "{row["database"]}" has no extension pgrain'
        except psycopg.Error as error:
            problem = str(error).strip()
        if problem != told:
            log.warning("worker waits", problem=problem)
            told = problem
        stopping.wait(WAIT_SECONDS)
    return None


def heartbeat(dsn: str, identity: str, socket_path: str, version: str, device: str,
              stopping: threading.Event) -> None:
    """Register and say every few seconds that this worker lives; take the registration away at
    the end. A lost database is waited for."""
    connection = None
    while not stopping.is_set():
        try:
            if connection is None or connection.closed:
                connection = connect(dsn)
                # A socket has one worker: whoever was registered on this one has gone.
                connection.execute("DELETE FROM pgrain.worker WHERE socket = %s", [socket_path])
                connection.execute("""
                    INSERT INTO pgrain.worker (worker, socket, pid, host, version, device)
                    VALUES (%s, %s, %s, %s, %s, %s)""",
                    [identity, socket_path, os.getpid(), socket.gethostname(), version, device])
                log.info("worker ready", socket=socket_path)
            updated = connection.execute("UPDATE pgrain.worker SET seen_at = clock_timestamp() "
                                         "WHERE worker = %s", [identity])
            if updated.rowcount == 0:   # the extension was dropped and made anew
                connection.close()
                continue
        except psycopg.Error as error:
            log.warning("worker waits for the database", error=str(error).strip())
            if connection is not None:
                connection.close()
        # A short wait keeps the end quick even where the event is set by a signal handler.
        until = time.monotonic() + HEARTBEAT_SECONDS
        while time.monotonic() < until and not stopping.wait(0.1):
            pass
    if connection is not None and not connection.closed:
        try:
            connection.execute("DELETE FROM pgrain.worker WHERE worker = %s", [identity])
        except psycopg.Error:
            log.info("registration stays: the database is gone")
        connection.close()
