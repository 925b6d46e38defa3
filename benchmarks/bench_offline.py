"""Precomputation at full size: wall clock, processor time, where it goes, memory, against Rain.

`make bench ARGS="--only offline"`. Each model gets a worker of its own, so that the peak of its
memory is that of this job; the processor time of the worker stands beside the wall clock, since
only it means anything on a machine that does other work.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from pathlib import Path

from bench_common import Bench
from bench_floors import computing, forward, precomputing, reading, shop_model, training
from bench_memory import memory

from pgrain.demo import shop
from pgrain.demo.timing import say

CASES = {
    "logistic_regression": ("logistic_regression", {}, 60_000, {"sample": 60_000}, 30),
    "mlp_512": ("mlp", {"hidden": [512], "epochs": 3}, 60_000, {"sample": 10_000}, 300),
    "cnn": ("cnn", {"epochs": 1}, 10_000, {"sample": 1_000}, None),
    "wide_resnet_10": ("wide_resnet_10", {"epochs": 1}, 500, {"sample": 100, "pairs": 10}, None),
}
"""Model: architecture, options, training rows at most, options of precompute, budget in seconds
(the issue's; the others are here for their memory, on as few rows as this takes)."""
STEPS, POLL = 4, 0.1
BUDGET_RAIN, STRETCH_RAIN = 15, 5


def measure(bench: Bench) -> None:
    """Every case in a table of its own size; largest first, so that tables only shrink."""
    computing(bench, 0)         # measured before anything is
    loaded = None
    for name, (architecture, options, rows, given, budget) in CASES.items():
        rows = min(rows, bench.offline_rows)
        if rows != loaded:
            say(f"loading {rows:,} rows")
            bench.run("SELECT count(pgrain.drop_model(model)) FROM "
                      "(SELECT model FROM pgrain.models OFFSET 0) AS m")
            bench.run("DROP TABLE IF EXISTS unseen, many, left_side, right_side CASCADE")
            shop.fill(bench.connection, rows, min(bench.queried, 1_000))
            loaded = rows
        _case(bench, name, architecture, options, rows, given, budget)


def _case(bench: Bench, name: str, architecture: str, options: dict, rows: int, given: dict,
          budget: float | None) -> None:
    section = f"Offline at full size: {name}"
    say(section)
    bench.run("SELECT pgrain.create_model(%s, 'train', 'id', '{image}', 'label', %s, %s)",
              [name, architecture, json.dumps({"shape": [28, 28, 1], **options})])
    wall, processor = _step(bench, f"CALL pgrain.train('{name}')")[:2]
    parameters = bench.run("SELECT n_parameters FROM pgrain.models WHERE model = %s", [name])[0][0]
    a_row = forward(shop_model(architecture, options))
    bench.add(section, f"train, {rows:,} rows, {parameters:,} parameters", wall, "s",
              **training(bench, name, a_row), note=f"processor {processor:.1f} s")
    # A worker that has done nothing yet: what it compiles counts, as it does for a user.
    bench.worker.stop()
    bench.worker.start()
    before = memory(bench.worker.pid, "VmRSS")
    wall, processor, phases = _step(
        bench, f"CALL pgrain.precompute('{name}', '{json.dumps(given)}')")
    sample, pairs = min(given["sample"], rows), given.get("pairs", 30)
    *work, products = precomputing(bench, name, a_row, pairs, rows, sample)
    steps = dict(zip(("spectrum", "project training rows"),
                     (computing(bench, operations) for operations in work), strict=True))
    floor = computing(bench, sum(work))
    bench.add(section, f"precompute, {pairs} pairs, {rows:,} rows, {sample:,} of them in the "
              "Hessian", wall, "s", floor=floor["floor"],
              floor_is=f"{floor['floor_is']} ({products} Hessian products, projections)",
              note=f"processor {processor:.1f} s" + (
                  f"; budget {budget} at 60,000 rows" if budget else ""))
    encoded = rows * 28 * 28
    steps["read"] = {"floor": reading(bench, encoded) / 1000,
                     "floor_is": f"{encoded / 1e6:.1f} MB of encoded rows, read once"}
    phases["reading, compiling, storing: no phase reported"] = max(wall - phases.total(), 0.0)
    for phase, seconds in phases.most_common():
        bench.add(section, f"of it: {phase}", seconds, "s", note=f"{seconds / wall:.0%}",
                  **steps.get(phase, {"floor_is": "none of its own: it computes nothing that the "
                                                  "whole's floor counts"}))
    peak = memory(bench.worker.pid, "VmHWM")
    arrays = (encoded + 4 * pairs * parameters + 4 * 10 * (pairs + 1) * rows) / 1e6
    bench.add(section, "the worker's peak memory in it", peak, "MB",
              floor=before + arrays,
              floor_is=f"{before:.0f} before the job, and {arrays:.1f} of encoded rows, "
                       "eigenvectors and projections",
              note=f"{before:.0f} before the job; the encoded rows are {encoded / 1e6:.1f}; the "
                   "intermediates of a pass are bounded by 537, Lanczos by 2,147")
    bench.run(f"CALL pgrain.attach('{name}', 'sellerdata')")
    query = shop.report(name)
    asked = []
    shop.complain(bench.connection, query, method="rain", k=STEPS)       # compiles
    for _ in range(2):
        began, used = time.perf_counter(), _processor(bench.worker.pid)
        shop.complain(bench.connection, query, method="rain", k=STEPS)
        asked.append((_processor(bench.worker.pid) - used, time.perf_counter() - began))
    rain_processor, rain = min(asked)
    bench.add(section, f"one complaint of Rain, {STEPS} steps of conjugate gradient", rain, "s",
              **computing(bench, 2 * a_row * STEPS * sample),
              note=f"processor {rain_processor:.1f} s")
    bench.add(section, "precompute, in complaints of Rain", wall / rain, "",
              floor=sum(work) / (2 * a_row * STEPS * sample),
              floor_is="the same ratio of their operations",
              note=f"by processor time {processor / max(rain_processor, 0.01):.1f}; budget "
                   f"{BUDGET_RAIN} (stretch {STRETCH_RAIN})")


def _step(bench: Bench, call: str) -> tuple[float, float, Counter]:
    """Seconds by the wall clock, of the worker's processors, and by phase of the job."""
    pid, phases, done = bench.worker.pid, Counter(), threading.Event()

    def watch() -> None:
        with bench.cluster.connect(bench.connection.info.dbname) as other:
            last = time.perf_counter()
            while not done.wait(POLL):
                row = other.execute("SELECT phase FROM pgrain.progress WHERE state = 'running'"
                                    ).fetchone()
                now = time.perf_counter()
                if row and row[0]:
                    phases[row[0]] += now - last
                last = now

    thread = threading.Thread(target=watch)
    used, began = _processor(pid), time.perf_counter()
    thread.start()
    try:
        bench.run(call)
    finally:
        done.set()
        thread.join()
    return time.perf_counter() - began, _processor(pid) - used, phases


def _processor(pid: int) -> float:
    """Seconds of processor time that a process has used, its threads together."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
