"""What the sections of `make bench` share: the server, medians, floors, entries."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version as version_of
from pathlib import Path

import numpy as np
import psycopg

from pgrain.cli.background import WorkerProcess
from pgrain.cli.cluster import Cluster
from pgrain.cli.install import find_server, install
from pgrain.cli.place import prepare, server_account

DATABASE = "bench"


@dataclass
class Entry:
    """One figure. floor: the least it could take, in the same unit; floor_is: what that is."""

    section: str
    what: str
    value: float
    unit: str = "ms"
    floor: float | None = None
    floor_is: str = ""
    note: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def distance(self) -> float | None:
        """How many times its floor (or, for a rate, what share of it)."""
        return self.value / self.floor if self.floor else None

    def as_json(self) -> dict:
        return asdict(self)


@dataclass
class Bench:
    """One run: where it runs, how large, what was found so far."""

    rows: int
    queried: int
    seconds: float
    repeat: int
    main: str = "mlp_256"
    """The model of everything that is not about model size."""
    cluster: Cluster | None = None
    worker: WorkerProcess | None = None
    connection: psycopg.Connection | None = None
    entries: list[Entry] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    facts: dict = field(default_factory=dict)

    def add(self, section: str, what: str, value: float, unit: str = "ms", **given) -> Entry:
        entry = Entry(section, what, value, unit, **given)
        self.entries.append(entry)
        distance = f", {entry.distance:.1f} x the floor" if entry.distance else ""
        say(f"  {what}: {value:,.4g} {unit}{distance}")
        return entry

    def skip(self, what: str) -> None:
        self.skipped.append(what)
        say(f"  not measured: {what}")

    def run(self, query: str, parameters=None) -> list[tuple]:
        cursor = self.connection.execute(query, parameters)
        return cursor.fetchall() if cursor.description else []

    def has(self, name: str) -> bool:
        """Is there a function or procedure pgrain.<name>?"""
        return bool(self.run("SELECT 1 FROM pg_proc WHERE proname = %s AND pronamespace ="
                             " 'pgrain'::regnamespace", [name]))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def times(work: Callable[[], object], repeat: int, warm: int = 1) -> list[float]:
    """Milliseconds of `repeat` calls after `warm` calls that do not count."""
    for _ in range(warm):
        work()
    found = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - began))
    return found


def median(work: Callable[[], object], repeat: int, warm: int = 1) -> float:
    return statistics.median(times(work, repeat, warm))


@contextlib.contextmanager
def server(bench: Bench, name: str = DATABASE) -> Iterator[None]:
    """A private cluster with one database and its worker; all of it goes afterwards."""
    installation, account = find_server(), server_account()
    install(installation)
    place = Path(tempfile.mkdtemp(prefix="pgrain-", dir="/tmp"))
    prepare(place, account)
    cluster = Cluster(place, server=installation, account=account,
                      settings={"fsync": "off", "shared_buffers": "512MB", "work_mem": "64MB",
                                "max_parallel_workers_per_gather": "0"})
    worker = None
    try:
        cluster.start()
        cluster.ensure_database(name)
        worker = WorkerProcess(cluster, name)
        worker.start()
        with cluster.connect(name) as connection:
            bench.cluster, bench.worker, bench.connection = cluster, worker, connection
            yield
    finally:
        if worker:
            worker.stop()
        cluster.stop("immediate")
        shutil.rmtree(place, ignore_errors=True)


# --- floors --------------------------------------------------------------------------------------

def memory_bandwidth() -> float:
    """Bytes a second that one numpy call reads from memory (256 MB, far beyond any cache)."""
    data = np.ones(1 << 25, np.float64)
    return data.nbytes / (median(data.sum, 7) / 1000)


def multiply_rate() -> float:
    """Float32 operations a second of a large matrix product, all cores."""
    a = np.ones((1024, 1024), np.float32)
    return 2 * 1024**3 / (median(lambda: a @ a, 7) / 1000)


# --- machine -------------------------------------------------------------------------------------

def machine() -> dict:
    cpu = platform.machine()
    with contextlib.suppress(OSError):
        cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                    if line.startswith("model name")), cpu)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                            text=True, check=False).stdout.strip() or "unknown"
    return {"cpu": cpu, "cores": os.cpu_count(), "load": [round(x, 2) for x in os.getloadavg()],
            "python": platform.python_version(), "commit": commit,
            "postgresql": subprocess.run([find_server().pg_config, "--version"],
                                         capture_output=True, text=True,
                                         check=True).stdout.split()[1],
            **{name: version_of(name) for name in ("jax", "numpy", "psycopg")}}
