"""A private PostgreSQL cluster: made, started, stopped, removed without touching any other.

It listens on a Unix socket only, in a folder of mode 0700 that belongs to the server's OS user.
That folder is the access control: who can reach the socket (that user, and root) may connect as any
database role, so authentication is `trust`. A peer map would say no more, and in PostgreSQL 15 it
cannot say "any role" at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from pgrain.cli.install import Server, find_server, version
from pgrain.cli.place import OUTSIDE, Account, choose, prepare, server_account

SUPERUSER = "postgres"
DATABASE = "pgrain"
START_SECONDS = 120
LEAVE_SECONDS = 30

_CONFIGURATION = """
# Written by pgrain. A private cluster: a Unix socket, no network.
listen_addresses = ''
unix_socket_directories = '{run}'
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = 256MB
max_wal_size = 4GB
checkpoint_timeout = 15min
log_destination = 'stderr'
logging_collector = off
log_line_prefix = '%m [%p] %q%u@%d '
log_min_messages = warning
# Digests and circuits are read in one stream; just-in-time compilation costs more than it saves.
jit = off
"""


def alive(pid: int) -> bool:
    """Does the process run? (One that is dead and not yet reaped does not.)"""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def processes_in(folder: Path) -> list[int]:
    """Living processes whose working directory is `folder`: PostgreSQL's is its data directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                there = os.readlink(entry / "cwd")
            except OSError:
                continue
            if there == str(folder) and alive(int(entry.name)):
                found.append(int(entry.name))
    return found


class ClusterError(Exception):
    """The server cannot be started or stopped; the message carries the end of its log."""


class Cluster:
    """One private cluster in `place` (made with `pgrain.cli.place`)."""

    def __init__(self, place: Path, *, server: Server | None = None,
                 account: Account | None = None, settings: dict[str, str] | None = None):
        self.place = place
        self.server = server or find_server()
        self.account = account or server_account()
        self.settings = settings or {}
        self.data = place / "data"
        self.run = place / "run"
        self.log = place / "log" / "postgresql.log"

    @classmethod
    def of_checkout(cls, root: Path) -> Cluster:
        """The cluster of `make up`: under .local of the checkout, wherever that can be."""
        account = server_account()
        return cls(choose(root / ".local" / "cluster", account), account=account)

    # --- life -------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        return (self.data / "PG_VERSION").exists()

    def _tool(self, name: str, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([self.server.program(name), *arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, **self.account.spawn_options())

    def create(self) -> bool:
        """initdb, unless there is a cluster of this major already; True when one was made."""
        if self.exists:
            major = (self.data / "PG_VERSION").read_text().strip()
            if major != str(self.server.major):
                raise ClusterError(
                    f"the cluster in {self.place} was made by PostgreSQL {major}, this is "
                    f"{self.server.major}; `make clean` removes it with its data")
            return False
        prepare(self.place, self.account)
        # initdb wants an empty folder: what an interrupted one left goes.
        for leftover in self.data.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        done = self._tool("initdb", "-D", str(self.data), "-U", SUPERUSER, "-A", "trust",
                          "-E", "UTF8", "--locale=C.UTF-8", "--data-checksums", "--no-instructions")
        if done.returncode != 0:
            raise ClusterError(f"initdb failed:\n{done.stdout.strip()}")
        return True

    def _configure(self) -> None:
        """Our settings, in a file of their own, written anew at each start (the place may have
        moved); postgresql.conf includes it."""
        lines = [_CONFIGURATION.format(run=self.run).strip()]
        lines += [f"{name} = '{value}'" for name, value in self.settings.items()]
        self._write_as_server(self.data / "pgrain.conf", "\n".join(lines) + "\n")
        main = self.data / "postgresql.conf"
        include = "include_if_exists = 'pgrain.conf'"
        if include not in (text := main.read_text()):
            self._write_as_server(main, f"{text}\n{include}\n")

    def _write_as_server(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o600)
        if not self.account.is_invoking:
            os.chown(path, self.account.uid, self.account.gid)

    def start(self) -> bool:
        """Starts the server (making the cluster first if need be); False when it runs already."""
        self.create()
        if self.running:
            return False
        self._clear_dead_lock()
        self._configure()
        done = self._tool("pg_ctl", "start", "-w", "-s", "-t", str(START_SECONDS),
                          "-D", str(self.data), "-l", str(self.log))
        if done.returncode != 0:
            raise ClusterError(f"PostgreSQL does not start:\n{done.stdout.strip()}\n"
                               f"--- end of {self.log}\n{self.log_tail()}")
        return True

    def _clear_dead_lock(self) -> None:
        """After a kill -9 of the postmaster: wait until its children have left, then take away its
        lock files. PostgreSQL would do so itself, but takes a dead process that nobody has reaped
        (in a container whose process 1 does not) for a living one."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while users := processes_in(self.data):
            if time.monotonic() > deadline:
                raise ClusterError(f"processes {users} still use {self.data}, whose server is dead")
            time.sleep(0.05)
        for lock in (self.data / "postmaster.pid", *self.run.glob(".s.PGSQL.*.lock")):
            lock.unlink(missing_ok=True)

    def stop(self, mode: str = "fast") -> bool:
        """Stops the server; False when it was not running."""
        if not self.exists or not self.running:
            return False
        done = self._tool("pg_ctl", "stop", "-w", "-s", "-m", mode, "-D", str(self.data))
        if done.returncode != 0:
            raise ClusterError(f"PostgreSQL does not stop:\n{done.stdout.strip()}")
        return True

    def kill(self) -> None:
        """kill -9 to the postmaster: for tests. Its children notice and leave by themselves."""
        if pid := self.pid:
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 10
            while alive(pid) and time.monotonic() < deadline:
                time.sleep(0.02)

    def remove(self) -> None:
        """Stops the server and deletes the whole place."""
        self.stop("immediate")
        shutil.rmtree(self.place, ignore_errors=True)
        if self.place.parent == OUTSIDE:
            with contextlib.suppress(OSError):      # another checkout's cluster is there
                OUTSIDE.rmdir()

    @property
    def pid(self) -> int | None:
        """Process id of the running postmaster."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n")[0])
        except (OSError, ValueError):
            return None
        return pid if alive(pid) else None

    @property
    def running(self) -> bool:
        # The number alone could be another program's by now.
        return self.exists and (pid := self.pid) is not None and pid in processes_in(self.data)

    def log_tail(self, lines: int = 20) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    # --- connections ------------------------------------------------------------------------------

    def dsn(self, database: str = DATABASE, role: str = SUPERUSER) -> str:
        """libpq connection string."""
        return make_conninfo(host=str(self.run), dbname=database, user=role)

    def connect(self, database: str = DATABASE, role: str = SUPERUSER,
                **options) -> psycopg.Connection:
        """An autocommit connection (procedures that wait cannot run inside a transaction)."""
        return psycopg.connect(self.dsn(database, role), autocommit=True, **options)

    def ensure_database(self, database: str = DATABASE, *, renew: bool = False) -> bool:
        """A database with the extension; True when it was made now. renew: the extension is
        dropped and made again."""
        with self.connect("postgres") as connection:
            made = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s",
                                      [database]).fetchone() is None
            if made:
                name = psycopg.sql.Identifier(database)
                connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(name))
        with self.connect(database, options="-c client_min_messages=warning") as connection:
            stamp = f"pgrain script {self._script_hash()}"
            row = connection.execute(
                "SELECT shobj_description(d.oid, 'pg_database'), extversion FROM pg_database d,"
                " pg_extension e WHERE d.datname = current_database()"
                " AND e.extname = 'pgrain'").fetchone()
            if row is not None and row[1] != version() and not renew:
                connection.execute("ALTER EXTENSION pgrain UPDATE")
                self._stamp(connection, database, stamp)
            elif row is not None and row[0] != stamp and not renew:
                raise ClusterError(
                    "the extension's SQL has changed since this cluster got it, and there is no "
                    "upgrade script between two states of one version\n"
                    "  HINT: `make renew` makes the extension anew (your tables stay, models and "
                    "edits go)")
            if row is not None and renew:
                connection.execute("DROP EXTENSION pgrain CASCADE")
            if row is None or renew:
                connection.execute("CREATE EXTENSION pgrain CASCADE")
                self._stamp(connection, database, stamp)
        return made

    @staticmethod
    def _stamp(connection: psycopg.Connection, database: str, stamp: str) -> None:
        connection.execute(psycopg.sql.SQL("COMMENT ON DATABASE {} IS {}").format(
            psycopg.sql.Identifier(database), psycopg.sql.Literal(stamp)))

    def _script_hash(self) -> str:
        """Of the installed script that CREATE EXTENSION runs."""
        script = self.server.sharedir / "extension" / f"pgrain--{version()}.sql"
        return hashlib.sha256(script.read_bytes()).hexdigest()[:16]
