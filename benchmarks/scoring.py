"""Exact top 100 of n x k scores: what `complain` does beside what else does it, in one run
(`make bench ARGS="--only complain"`).

Single precision, k = 20. Deletions: n rows of 20 numbers. New labels: rows x 10 classes x 20
numbers, the best label of each row. Every repetition takes all ways in turn, FAISS among them (in
an environment and a process of its own, `.local/faiss`, made by pip when it is not there); each
answer is compared with a full sort in float64. The floor is reading the array once.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from pgrain.influence.blocks import ProjectionBlocks
from pgrain.influence.top_k import least_k

K, CLASSES, TOP = 20, 10, 100
OURS = "complain: blocks, least_k"
ENVIRONMENT = Path(".local/faiss")
PEER = Path(__file__).with_name("scoring_faiss.py")


def both(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 20) projections and 20 weights; the peer makes the same."""
    rng = np.random.default_rng(n)
    return rng.standard_normal((n, K), dtype=np.float32), rng.standard_normal(K, dtype=np.float32)


@jax.jit
def jax_top(A, x):
    """JAX: product and top_k compiled together."""
    return jax.lax.top_k(-(A @ x), TOP)


@jax.jit
def jax_relabel(J, own, x):
    """JAX: the best new label of each row, and the top of these."""
    slopes = J @ x
    mine = jax.nn.one_hot(own, slopes.shape[1], dtype=bool)
    kept = jax.numpy.where(mine, slopes, 0).sum(axis=1)
    best = jax.numpy.where(mine, jax.numpy.inf, slopes).min(axis=1)
    return jax.lax.top_k(kept - best, TOP)


class Reading:
    """The array read once by all cores, in pieces that a core's cache holds."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def __call__(self, array: np.ndarray) -> None:
        flat = array.reshape(-1)
        pieces = [flat[at:at + (1 << 18)] for at in range(0, len(flat), 1 << 18)]
        list(self._pool.map(np.max, pieces))


class Faiss:
    """FAISS in a process of its own: one line asks for one search."""

    def __init__(self, python: str | None, n: int):
        self._process = None
        if python is not None:
            self._process = subprocess.Popen([python, str(PEER), str(n), str(K), str(TOP)],
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                             text=True)
            self._process.stdout.readline()      # it has built its index

    def search(self) -> dict | None:
        """{"wall", "cpu": ms, "rows"} of one search; None without FAISS."""
        if self._process is None:
            return None
        self._process.stdin.write("search\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()


def environment() -> str | None:
    """The Python that has FAISS; made once."""
    python = ENVIRONMENT.absolute() / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "faiss-cpu"], check=False)
    done = subprocess.run([str(python), "-c", "import faiss"], capture_output=True, check=False)
    return str(python) if done.returncode == 0 else None


def alternate(ways: dict, repeat: int, faiss: Faiss | None = None) -> dict:
    """name -> (median, least, least processor time) in ms, all ways in turn."""
    wall: dict[str, list] = {name: [] for name in ways}
    cpu: dict[str, list] = {name: [] for name in ways}
    for round_ in range(-2, repeat):
        for name, way in ways.items():
            began, used = time.perf_counter(), time.process_time()
            way()
            took = (time.perf_counter() - began, time.process_time() - used)
            if round_ >= 0:
                wall[name].append(took[0] * 1e3)
                cpu[name].append(took[1] * 1e3)
        found = faiss.search() if faiss else None
        if found and round_ >= 0:
            wall.setdefault("FAISS flat (inner product)", []).append(found["wall"])
            cpu.setdefault("FAISS flat (inner product)", []).append(found["cpu"])
    return {name: (statistics.median(wall[name]), min(wall[name]), min(cpu[name])) for name in wall}


def deletions(n: int, repeat: int, python: str | None) -> dict:
    """The n rows whose removal lowers the objective most."""
    A, x = both(n)
    made, on_device, read = ProjectionBlocks(A), jax.device_put(A), Reading()
    faiss = Faiss(python, n)
    expected = np.argsort(A.astype(np.float64) @ x, kind="stable")[:TOP]
    ours = least_k(made.least(x), TOP)
    for found in (ours, np.asarray(jax_top(on_device, x)[1])):
        assert len(set(found) ^ set(expected)) <= 2      # float32 may swap the last two
    if (found := faiss.search()) is not None:
        assert len(set(found["rows"]) ^ set(expected)) <= 2
    try:
        return alternate({
            "reading the array once, all cores": lambda: read(A),
            OURS: lambda: least_k(made.least(x), TOP),
            "numpy: matmul, argpartition": lambda: np.argpartition(A @ x, TOP)[:TOP],
            "JAX: matmul, top_k": lambda: jax_top(on_device, x)[1].block_until_ready(),
        }, repeat, faiss)
    finally:
        faiss.close()


def relabellings(rows: int, repeat: int) -> dict:
    """The rows whose best new label lowers the objective most, of rows x 9 candidates."""
    rng = np.random.default_rng(rows)
    J = rng.standard_normal((rows, CLASSES, K), dtype=np.float32)
    own = rng.integers(0, CLASSES, rows)
    x = rng.standard_normal(K, dtype=np.float32)
    made, read = ProjectionBlocks(J, own), Reading()
    on_device, own_there, every = jax.device_put(J), jax.device_put(own), np.arange(rows)

    def with_numpy():
        slopes = J @ x
        changes = slopes - slopes[every, own][:, None]
        changes[every, own] = np.inf
        return np.argpartition(changes.min(axis=1), TOP)[:TOP]

    found = [set(least_k(made.least(x), TOP)), set(with_numpy()),
             set(np.asarray(jax_relabel(on_device, own_there, x)[1]))]
    assert all(len(found[0] ^ other) <= 2 for other in found)
    return alternate({
        "reading the array once, all cores": lambda: read(J),
        OURS: lambda: least_k(made.least(x), TOP),
        "numpy: matmul, argpartition": with_numpy,
        "JAX: matmul, top_k":
            lambda: jax_relabel(on_device, own_there, x)[1].block_until_ready(),
    }, repeat)
