"""`pgrain worker`: start up, register, serve, run jobs, stop."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import resource
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

# The GPU is shared with whatever else runs there, so memory is taken as it is needed.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import psycopg
import structlog

from pgrain.cli.install import version
from pgrain.errors import PgrainError
from pgrain.store.database import Shared, connect, failure, power
from pgrain.worker import metrics, place
from pgrain.worker.memory import Memory

log = structlog.get_logger()
WAIT_SECONDS = 2.0
SAY_SECONDS = 10.0      # what a worker waits for is said again
HEARTBEAT_SECONDS = 3.0


@dataclass(frozen=True)
class Options:
    """What `pgrain worker` was told.

    dsn: libpq connection string of the database. address: a Unix socket's path or tls://host:port
    (None: `place.default_socket`). allow_users: OS users besides this one that may connect (none:
    the one that runs the server). tls, tls_peers: see `server.Server`. metrics: HOST:PORT.
    log_format: text or json; log_level: debug, info or warning. packages: those that user modules
    may come from (None: all that can be imported). coordinator, processes, process: see `crew`.
    """

    dsn: str
    address: str | None = None
    allow_users: tuple[str, ...] = ()
    tls: dict[str, str] = field(default_factory=dict)
    tls_peers: tuple[str, ...] = ()
    metrics: str | None = None
    log_format: str = "text"
    log_level: str = "info"
    packages: tuple[str, ...] | None = None
    coordinator: str | None = None
    processes: int = 1
    process: int = 0


def run(options: Options) -> int:
    """Serve one database until SIGTERM or SIGINT; returns the exit status."""
    # These import the mathematics, whose import settles JAX's configuration.
    from pgrain.models import custom
    from pgrain.worker import crew
    from pgrain.worker.catch_up import CatchUp
    from pgrain.worker.handlers import Handlers
    from pgrain.worker.jobs import Runner
    from pgrain.worker.server import Server, user_id
    from pgrain.worker.training_look import TrainingLook
    from pgrain.worker.watch_folder import Folder

    memory = Memory()
    memory.begin()
    configure_logs(options.log_format, options.log_level)
    _open_files()
    custom.allow(options.packages)
    if options.coordinator is not None:
        crew.join(options.coordinator, options.processes, options.process)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if options.process > 0:
        crew.follow(stopping.is_set)
        return 0
    device, dsn = describe_device(), options.dsn
    number = version()
    log.info("worker starts", version=number, device=device, pid=os.getpid())
    try:        # what no waiting will mend
        psycopg.conninfo.conninfo_to_dict(dsn)
        for name in options.allow_users:
            user_id(name)
    except (PgrainError, psycopg.ProgrammingError) as error:
        log.error("worker cannot start", error=str(error).strip(),
                  hint=getattr(error, "hint", None))
        return 1
    found = wait_for_extension(dsn, number, stopping)
    if found is None:
        return 0
    database, server_uid, too_much = found
    if too_much is not None:
        log.warning("worker has more rights than it needs", **too_much)

    identity = str(uuid.uuid4())
    endpoint, looks = None, Shared(lambda: connect(dsn, "looks"))
    try:
        address, mode = options.address, 0o660
        if address is None:
            address, mode = place.default_socket(database, server_uid)
        allowed = options.allow_users or (() if server_uid is None else (server_uid,))
        handlers = Handlers(lambda: connect(dsn, "requests"), version=number, device=device,
                            power=too_much)
        home = Home(looks, handlers.begin)
        server = Server(address, handlers.handle, version=number, database=database,
                        device=device, allow_users=allowed, tls=options.tls,
                        tls_peers=options.tls_peers, mode=mode, whose=home)
        if options.metrics is not None:
            endpoint = metrics.serve(options.metrics, version=number, database=database)
        server.listen()
    except (PgrainError, OSError) as error:
        log.error("worker cannot start", error=str(error), hint=getattr(error, "hint", None))
        return 1
    runner = Runner(lambda what: connect(dsn, what), looks, identity)
    threading.Thread(target=server.serve, name="accept", daemon=True).start()
    folder = Folder(lambda: connect(dsn, "watches"), looks, lambda: handlers.watches)
    catch_up = CatchUp(lambda: connect(dsn, "catching up"), looks)
    training = TrainingLook(lambda: connect(dsn, "training tables"), looks)
    threads = (runner, folder, catch_up, training)
    for thread in threads:
        thread.start()

    def look(connection: psycopg.Connection) -> None:
        handlers.residents.forget_erased(connection)
        handlers.residents.rest()
        handlers.tidy(connection)
        memory.trim()

    try:
        status = heartbeat(looks, identity, address, number, device, stopping, runner.interrupt,
                           look, home, server.reachable)
    finally:
        for thread in threads:
            thread.stopping.set()
        server.close()
        if endpoint is not None:
            endpoint.shutdown()
        for thread in threads:
            thread.join(5)
        looks.close()
        if crew.current() is not None:
            crew.current().end()
    log.info("worker stopped")
    return status


def configure_logs(form: str, level: str) -> None:
    """One event a line on stderr: key=value, or JSON objects. Within a request each line has its
    `request`, within a job its `job`."""
    last = (structlog.processors.JSONRenderer() if form == "json" else
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]))
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(_Unfailing(sys.stderr)),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level,
                    structlog.processors.TimeStamper(fmt="iso"), last])


class _Unfailing:
    """A stream that loses what cannot be written: whether the log's disk is full, or its reader has
    gone, is nobody's trouble who has a job done or asks something."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> None:
        """Write it, or not."""
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """As `write`."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def _open_files() -> None:
    """Allow as many open files as this process may have: each session is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def describe_device() -> str:
    """What JAX computes on, such as "cpu (2 cores)", "gpu: NVIDIA ...", or how many of them."""
    if len(jax.devices()) > 1:
        from pgrain.influence import devices
        return devices.describe()
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"cpu ({len(os.sched_getaffinity(0))} cores)"
    return f"{device.platform}: {device.device_kind}"


def wait_for_extension(dsn: str, number: str,
                       stopping: threading.Event) -> tuple[str, int | None, dict | None] | None:
    """(the database's name, the OS user of its server, `database.power`), once the database and the
    extension of this worker's version in it are there."""
    told, when = None, 0.0
    while not stopping.is_set():
        try:
            with connect(dsn, role=None) as connection:     # the extension makes the worker's role
                row = connection.execute(_ABOUT).fetchone()
            if row["version"] == number:
                with connect(dsn) as connection:
                    return row["database"], place.server_user(connection), power(connection)
            if row["version"] is None:
                problem = f'database "{row["database"]}" has no extension pgrain'
            else:
                problem = (f'the extension in database "{row["database"]}" is of version '
                           f'{row["version"]}, this worker of {number}; run ALTER EXTENSION pgrain '
                           "UPDATE, or a worker of that version")
        except psycopg.Error as error:
            problem = str(error).strip()
        if problem != told or time.monotonic() - when > SAY_SECONDS:
            log.warning("worker waits", problem=problem)
            told, when = problem, time.monotonic()
        stopping.wait(WAIT_SECONDS)
    return None


class Home:
    """Which database this worker is in, of which run of which server.

    Where that has become another one of the same name (restored from a copy, exchanged for one by
    renaming, made anew, brought back to an earlier moment), `begin` is called: numbers of versions,
    spectra and watches are those of one database, and what is known of the last one's would be
    taken for this one's.
    """

    def __init__(self, looks: Shared, begin: Callable[[], None]):
        self._looks, self._begin = looks, begin
        self._lock = threading.Lock()
        self._known: tuple | None = None

    def __call__(self) -> str:
        """The server and the database, as sessions name them in their hello."""
        try:
            try:
                row = self._looks.get().execute(_ABOUT).fetchone()
            except psycopg.OperationalError:    # the connection may be to a server that has gone
                row = self._looks.get().execute(_ABOUT).fetchone()
        except psycopg.Error as error:
            raise failure(error) from None
        self.notice(row)
        return row["server"]

    def notice(self, row: dict) -> None:
        """This is what `_ABOUT` has found."""
        if row["extension"] is None:
            return
        with self._lock:
            found = row["server"], row["extension"]
            if self._known not in (None, found):
                log.info("the database, or the extension in it, is another one now")
                self._begin()
            self._known = found


_ABOUT = """
SELECT current_database() AS database, pg_is_in_recovery() AS standby,
       concat(extract(epoch FROM pg_postmaster_start_time()), ' ',
              (SELECT oid FROM pg_database WHERE datname = current_database())) AS server,
       (SELECT extversion FROM pg_extension WHERE extname = 'pgrain') AS version,
       (SELECT oid FROM pg_extension WHERE extname = 'pgrain') AS extension
"""


def heartbeat(looks: Shared, identity: str, address: str, number: str, device: str,
              stopping: threading.Event, interrupt: Callable[[int], None],
              look: Callable[[psycopg.Connection], None], home: Home,
              reachable: Callable[[], bool] = lambda: True) -> int:
    """Register and say every few seconds that this worker lives; take the registration away at
    the end. A lost database is waited for. On a standby nothing can be written: sessions there know
    the worker from the server's own pgrain.toml, and hear from itself who it is.
    `interrupt` is called with the number of a job of this worker that is to stop; `look` with the
    connection, to see what else has happened in the database; `home` is told which database that
    is, before sessions can find this worker there; `reachable` says whether they can connect: as
    long as not, it does not say that it lives.

    The exit status: 1 if the extension has become one of another version."""
    connection = None
    registered = ready = False
    said = -math.inf
    while not stopping.is_set():
        can_connect = reachable()
        try:
            known, connection = connection, looks.get()
            if connection is not known:
                registered = False
            row = connection.execute(_ABOUT).fetchone()
            if row["version"] not in (number, None):
                log.error("worker stops: the extension is of another version now",
                          extension=row["version"], worker=number)
                stopping.set()
                return 1
            home.notice(row)
            if row["extension"] is not None:
                said = -math.inf
            elif time.monotonic() - said > SAY_SECONDS:
                said = time.monotonic()
                log.warning("worker waits",
                            problem=f'database "{row["database"]}" has no extension pgrain')
            if not row["standby"] and row["version"] is not None:
                if not registered:
                    # An address has one worker: whoever was registered there has gone.
                    connection.execute("DELETE FROM pgrain.worker WHERE socket = %s OR "
                                       "seen_at < now() - interval '1 day'", [address])
                    connection.execute("""
                        INSERT INTO pgrain.worker (worker, socket, pid, host, version, device, uid)
                        VALUES (%s, %s, %s, %s, %s, %s, %s)""",
                        [identity, address, os.getpid(), socket.gethostname(), number, device,
                         os.geteuid()])
                updated = connection.execute(
                    "UPDATE pgrain.worker SET seen_at = CASE WHEN %s THEN clock_timestamp() "
                    "ELSE seen_at END WHERE worker = %s", [can_connect, identity])
                registered = updated.rowcount > 0   # not if the extension was made anew
                if not registered:
                    continue
                for job in connection.execute(
                        "SELECT job FROM pgrain.job WHERE worker = %s AND state = 'running' "
                        "AND cancel_requested", [identity]):
                    interrupt(job["job"])
            if row["version"] is not None:
                look(connection)
            if not ready:
                log.info("worker ready", socket=address, standby=row["standby"])
                ready = True
        except psycopg.Error as error:
            log.warning("worker waits for the database", error=str(error).strip())
            looks.close()
        # A short wait keeps the end quick even where the event is set by a signal handler.
        until = time.monotonic() + HEARTBEAT_SECONDS
        while time.monotonic() < until and not stopping.wait(0.1):
            pass
    if connection is not None and not connection.closed:
        try:
            if registered:
                connection.execute("DELETE FROM pgrain.worker WHERE worker = %s", [identity])
        except psycopg.Error:
            log.info("registration stays: the database is gone")
    return 0
