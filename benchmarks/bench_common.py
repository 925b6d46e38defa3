"""What the sections of `make bench` share: the run, its entries, the machine."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as version_of

import psycopg

from pgrain.cli.background import WorkerProcess
from pgrain.cli.cluster import Cluster
from pgrain.cli.install import find_server
from pgrain.demo.timing import SETTINGS, private_server, say

DATABASE = "bench"


@dataclass
class Entry:
    """One figure. floor: the least it could take, in the same unit; floor_is: what that is, or,
    where there is none, why ("none: ...")."""

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
    offline_rows: int = 60_000
    """Training rows of precomputation at full size."""
    cluster: Cluster | None = None
    worker: WorkerProcess | None = None
    connection: psycopg.Connection | None = None
    entries: list[Entry] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    facts: dict = field(default_factory=dict)

    def add(self, section: str, what: str, value: float, unit: str = "ms", *, floor_is: str,
            **given) -> Entry:
        """Every figure says its floor, or why it has none."""
        entry = Entry(section, what, value, unit, floor_is=floor_is, **given)
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


@contextlib.contextmanager
def server(bench: Bench, name: str = DATABASE) -> Iterator[None]:
    """A private cluster with one database and its worker; all of it goes afterwards."""
    # More sessions than PostgreSQL's 100: a hundred are counted beside the run's own.
    settings = {**SETTINGS, "max_connections": "150"}
    with private_server(name, settings) as (bench.cluster, bench.worker, bench.connection):
        yield


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
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "postgresql": subprocess.run([find_server().pg_config, "--version"],
                                         capture_output=True, text=True,
                                         check=True).stdout.split()[1],
            **{name: version_of(name) for name in ("jax", "numpy", "psycopg")}}
