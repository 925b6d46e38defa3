"""Exact top 100 of n x k scores: what `complain` does beside what else does it, in one run.

    .local/venv/bin/python benchmarks/scoring.py [--write docs/benchmarks-scoring.md]

Single precision, k = 20; medians and least of alternating repetitions. The floor is reading the
array.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from pgrain.influence.top_k import top_k


@jax.jit
def jax_top(A, x):
    """JAX: product and top_k compiled together."""
    return jax.lax.top_k(A @ x, 100)


def measure(n: int, k: int, repeat: int) -> dict:
    """Milliseconds of each way, (median, least)."""
    rng = np.random.default_rng(n)
    A = rng.standard_normal((n, k), dtype=np.float32)
    x = rng.standard_normal(k, dtype=np.float32)
    on_device = jax.device_put(A)
    ways = {
        "reading the array (sum)": lambda: A.sum(),
        "product alone (numpy)": lambda: A @ x,
        "product, argpartition (numpy)": lambda: np.argpartition(-(A @ x), 100)[:100],
        "product, top_k (complain)": lambda: top_k(A @ x, 100),
        "JAX top_k": lambda: jax_top(on_device, x)[1].block_until_ready(),
    }
    times: dict[str, list] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repeat):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append((time.perf_counter() - began) * 1e3)
    assert set(top_k(A @ x, 100)) == set(np.argsort(-(A @ x), kind="stable")[:100])
    return {name: (statistics.median(t), min(t)) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[60_000, 600_000, 6_000_000])
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    results = {n: measure(n, 20, 15 if n > 1_000_000 else 60) for n in options.sizes}
    lines = ["# Scoring: exact top 100 of n × 20 scores", "",
             f"`benchmarks/scoring.py`, {os.cpu_count()} cores, {platform.machine()}, load "
             f"{os.getloadavg()[0]:.1f} (medians are several times those of a quiet machine, least "
             "values are close to it). Milliseconds, median; least.", "",
             "| | " + " | ".join(f"{n:,}" for n in results) + " |", "|---|" + "---|" * len(results)]
    for name in next(iter(results.values())):
        lines.append(f"| {name} | " + " | ".join(
            f"{result[name][0]:.2f}; {result[name][1]:.2f}" for result in results.values()) + " |")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        options.write.write_text(text)
        options.write.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
