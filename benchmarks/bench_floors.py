"""Floors that several sections state: what has to be read, over the rate at which this machine
reads that much; multiplications and additions, over the rate of a large product of matrices; what
PostgreSQL and Python take without pgrain.

`floor_is` of a figure names its floor. Where there is none it begins with "none" and says why.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import jax
import numpy as np
from bench_common import Bench

from pgrain.demo.timing import device_rate, multiply_rate, times
from pgrain.models.registry import Model, build

PIXELS = (28, 28, 1)
PIECE = 1 << 18
ITSELF = "none: it is a floor itself"
_PYTHON = """
import jax, jax.numpy as jnp, numpy, psycopg
jax.jit(lambda x: x @ x)(jnp.ones((8, 8))).block_until_ready()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""
PYTHON_IS = "a Python process that imports JAX and psycopg and multiplies two matrices"


# --- what is read --------------------------------------------------------------------------------

def reading(bench: Bench, size: int) -> float:
    """Milliseconds in which the machine reads an array of `size` bytes once: the least of several
    times and ways (one core, all cores). It is read again and again, as projections are, so one
    that fits the cache is there."""
    known = bench.facts.setdefault("reading", {})
    if size not in known:
        array = np.ones(max(1, size // 4), np.float32)
        pieces = [array[at:at + PIECE] for at in range(0, len(array), PIECE)]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            known[size] = min(min(times(way, 9, 2)) for way in (
                array.max, lambda: array @ array, lambda: list(pool.map(np.max, pieces)),
                lambda: list(pool.map(lambda piece: piece @ piece, pieces))))
    return known[size]


def round_trip(bench: Bench) -> float:
    """Milliseconds of SELECT 1: the least of some."""
    if "round trip" not in bench.facts:
        bench.facts["round trip"] = min(times(lambda: bench.run("SELECT 1"), 31))
    return bench.facts["round trip"]


# --- what is computed ----------------------------------------------------------------------------

def computing(bench: Bench, operations: float, unit: str = "s") -> dict:
    """The floor of so many multiplications and additions in single precision, in "s" or "ms"."""
    if "multiply" not in bench.facts:
        # The fastest that is seen, of numpy's and JAX's products: nothing computes faster.
        bench.facts["multiply"] = max(rate() for rate in 3 * (multiply_rate, device_rate))
    rate = bench.facts["multiply"]
    return {"floor": operations / rate * {"s": 1, "ms": 1000}[unit],
            "floor_is": f"{operations / 1e9:,.3g} G operations at {rate / 1e9:.0f} G/s"}


@cache
def forward(model: Model) -> float:
    """Multiplications and additions of products of matrices in the forward pass of one row.

    Least numbers for the rest follow. A product with the Hessian goes forward and back along one
    tangent, and each way costs at least as much as the pass itself: 2 passes (for one layer and its
    weights that is all; what is needed of the primal pass is kept). A projection on k directions
    goes forward along k tangents: k passes. A gradient: the pass and as much again.
    """
    rows = 8
    kind = np.int32 if model.n_tokens else np.float32
    traced = jax.make_jaxpr(model.logits)(
        jax.ShapeDtypeStruct((model.n_parameters,), np.float32),
        jax.ShapeDtypeStruct((rows, *model.input_shape), kind))
    return _operations(traced.jaxpr) / rows


def shop_model(architecture: str, options: dict) -> Model:
    """A model of the shop's pictures."""
    return build(architecture, 10, PIXELS, options)


def _operations(jaxpr) -> float:
    total = 0.0
    for step in jaxpr.eqns:
        out = step.outvars[0].aval
        if step.primitive.name == "dot_general":
            (contracted, _), _ = step.params["dimension_numbers"]
            left = step.invars[0].aval.shape
            total += 2.0 * out.size * np.prod([left[axis] for axis in contracted])
        elif step.primitive.name == "conv_general_dilated":
            kernel = step.invars[1].aval
            features = step.params["dimension_numbers"].rhs_spec[0]
            total += 2.0 * out.size * kernel.size / kernel.shape[features]
        inner = sum(_operations(part) for part in _parts(step.params))
        total += inner * step.params.get("length", 1)       # of a scan
    return total


def _parts(params: dict) -> Iterator:
    """The programs within a step: calls, bodies of loops, branches."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part


def precomputing(bench: Bench, name: str, per_row: float, pairs: int, rows: int, sample: int
                 ) -> tuple[float, float, int]:
    """Operations of (the Hessian products, the projections) of a precomputed model, and how many
    products there were. per_row: `forward` of the model."""
    products = int(bench.run(
        "SELECT options ->> 'products' FROM pgrain.spectrum WHERE spectrum = (SELECT "
        "v.active_spectrum FROM pgrain.model m JOIN pgrain.model_version v ON v.version = "
        "m.active_version WHERE m.model = %s)", [name])[0][0])
    return 2 * per_row * products * sample, per_row * (pairs + 1) * rows, products


def training(bench: Bench, name: str, per_row: float) -> dict:
    """The floor of a model's training, by what its metrics say was done."""
    metrics, rows = bench.run("SELECT metrics, n_rows FROM pgrain.models WHERE model = %s",
                              [name])[0]
    passes = metrics["epochs"] + metrics.get("products", 0)
    found = computing(bench, 2 * per_row * passes * rows)
    what = (f"{metrics['epochs']} Newton steps, {metrics['products']} Hessian products"
            if "products" in metrics else f"{metrics['epochs']} epochs")
    found["floor_is"] += f" ({what})"
    return found


# --- what others take ----------------------------------------------------------------------------

def python_alone(bench: Bench) -> tuple[float, float]:
    """(seconds, resident MB) of a Python process with what the worker imports (`PYTHON_IS`)."""
    if "python" not in bench.facts:
        found = []
        for _ in range(3):
            began = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", _PYTHON], capture_output=True, text=True,
                                  check=True)
            found.append((time.perf_counter() - began, int(done.stdout) / 1e3))
        bench.facts["python"] = min(found)
    return bench.facts["python"]


def stored(bench: Bench) -> dict[str, float]:
    """Bytes of the arrays of all versions, by the table that has them: what must be kept,
    without what PostgreSQL adds."""
    columns = ("version", "spectrum", "prediction")
    found = bench.run("SELECT " + ", ".join(f"sum({c}_bytes)::float8" for c in columns)
                      + " FROM pgrain.sizes")[0]
    return {f"{c}_chunk": size or 0.0 for c, size in zip(columns, found, strict=True)}


def mapped(values: int, classes: int) -> dict:
    """The floor of a map of stored predictions, in MB."""
    size = 16 + 1 + 4 * classes
    return {"floor": values * size / 1e6,
            "floor_is": f"{size} bytes a value: digest 16, class 1, {classes} probabilities in "
                        "float32"}
