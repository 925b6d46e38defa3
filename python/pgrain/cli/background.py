"""The worker as a background process: start, wait until it answers, stop."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from pgrain.cli.cluster import DATABASE, Cluster

WORKER_ROLE = "pgrain_worker"
START_SECONDS = 120
STOP_SECONDS = 10


def code_stamp() -> str:
    """Changes whenever a Python file of the package does."""
    package = Path(__file__).resolve().parents[1]
    facts = [(str(p.relative_to(package)), s.st_size, s.st_mtime_ns)
             for p in sorted(package.rglob("*.py")) for s in [p.stat()]]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


class WorkerError(Exception):
    """The worker does not start; the message carries the end of its log."""


class WorkerProcess:
    """One `pgrain worker` for one database of a cluster.

    It runs as the invoking OS user, who can read the virtual environment; its socket is in a
    folder that the server's OS user can enter, and inherits that folder's group.
    """

    def __init__(self, cluster: Cluster, database: str = DATABASE, *, name: str = "pgrain",
                 log: Path | None = None, environment: dict[str, str] | None = None,
                 arguments: tuple[str, ...] = ()):
        self.cluster = cluster
        self.database = database
        self.socket = cluster.place / "worker" / f"{name}.sock"
        self.pid_file = cluster.place / "worker" / f"{name}.pid"
        self.stamp_file = cluster.place / "worker" / f"{name}.code"
        self.log = log or cluster.place / "worker" / f"{name}.log"
        self.environment = environment or {}
        self.arguments = arguments
        self._process: subprocess.Popen | None = None

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "pgrain.cli.main", "worker",
                "--dsn", self.cluster.dsn(self.database, WORKER_ROLE),
                "--socket", str(self.socket), "--allow-user", self.cluster.account.name,
                *self.arguments]

    @property
    def pid(self) -> int | None:
        """Process id of the running worker (a stale pid file, or one whose number another program
        has now, is none)."""
        if self._process is not None:
            return self._process.pid if self._process.poll() is None else None
        try:
            pid = int(self.pid_file.read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(str(self.socket)) in words else None

    @property
    def answers(self) -> bool:
        """Does somebody accept connections on the socket?"""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self.socket))
            except OSError:
                return False
        return True

    @property
    def registered(self) -> bool:
        """Does the database know a worker (so that sessions will find it)?"""
        with self.cluster.connect(self.database) as connection:
            return connection.execute("SELECT count(*) > 0 FROM pgrain.workers WHERE pid = %s",
                                      [self.pid]).fetchone()[0]

    @property
    def outdated(self) -> bool:
        """Does it run code that has changed on disk since?"""
        try:
            return self.pid is not None and self.stamp_file.read_text() != code_stamp()
        except OSError:
            return True

    def start(self, wait: bool = True) -> bool:
        """Starts it, and waits until it answers; False when it was running already."""
        if self.pid:
            return False
        # rw for the group: the folder's, which is the server's.
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, umask=0o007, cwd="/",
                env={**os.environ, **self.environment})
        self.pid_file.write_text(f"{self._process.pid}\n")
        self.stamp_file.write_text(code_stamp())
        if wait:
            self.wait()
        return True

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Until it accepts connections and is registered."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.pid is None:
                raise WorkerError(f"the worker ended:\n{self.log_tail()}")
            if self.answers and self.registered:
                return
            time.sleep(0.05)
        raise WorkerError(f"the worker does not answer after {seconds:.0f} s:\n{self.log_tail()}")

    def stop(self) -> bool:
        """SIGTERM, and SIGKILL when that does not help; False when it was not running."""
        pid = self.pid
        if pid is None:
            return False
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self.pid is not None:
            if time.monotonic() > deadline:
                self.kill()
                break
            time.sleep(0.02)
        self._forget()
        return True

    def kill(self) -> None:
        """kill -9."""
        if pid := self.pid:
            os.kill(pid, signal.SIGKILL)
            while self.pid is not None:
                time.sleep(0.01)

    def _forget(self) -> None:
        if self._process is not None:
            self._process.wait(STOP_SECONDS)
        self.pid_file.unlink(missing_ok=True)

    def log_tail(self, lines: int = 30) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"
