"""What timed runs share: a server of their own, medians, rates of the hardware. Used by
`benchmarks/` and by the paper's experiments."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg

from pgrain.cli.background import WorkerProcess
from pgrain.cli.cluster import Cluster
from pgrain.cli.install import find_server, install
from pgrain.cli.place import prepare, server_account

SETTINGS = {"fsync": "off", "shared_buffers": "512MB", "work_mem": "64MB",
            "max_parallel_workers_per_gather": "0"}


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
def private_server(name: str, settings: dict[str, str] | None = None
                   ) -> Iterator[tuple[Cluster, WorkerProcess, psycopg.Connection]]:
    """A private cluster with one database, its worker, and a session; all of it goes afterwards,
    also on Ctrl-C."""
    installation, account = find_server(), server_account()
    install(installation)
    place = Path(tempfile.mkdtemp(prefix="pgrain-", dir="/tmp"))
    prepare(place, account)
    cluster = Cluster(place, server=installation, account=account, settings=settings or SETTINGS)
    worker = None
    try:
        cluster.start()
        cluster.ensure_database(name)
        worker = WorkerProcess(cluster, name)
        worker.start()
        with cluster.connect(name) as connection:
            yield cluster, worker, connection
    finally:
        if worker:
            worker.stop()
        cluster.stop("immediate")
        shutil.rmtree(place, ignore_errors=True)


# --- rates of the hardware -----------------------------------------------------------------------

def memory_bandwidth() -> float:
    """Bytes a second that one numpy call reads from memory (256 MB, far beyond any cache)."""
    data = np.ones(1 << 25, np.float64)
    return data.nbytes / (median(data.sum, 7) / 1000)


def multiply_rate() -> float:
    """Float32 operations a second of a large matrix product, all cores."""
    a = np.ones((1024, 1024), np.float32)
    return 2 * 1024**3 / (median(lambda: a @ a, 7) / 1000)


def device_rate() -> float:
    """The same on JAX's default device."""
    import jax
    import jax.numpy as jnp
    side = 2048
    a = jnp.ones((side, side), jnp.float32)
    product = jax.jit(jnp.matmul)
    return 2 * side**3 / (median(lambda: product(a, a).block_until_ready(), 5) / 1000)
