"""Latency of complaints through SQL: split by step, hot and cold, one and eight clients; Rain
against Rain++; scaling in k, interventions and table size; precomputation."""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_common import Bench

from pgrain.demo import shop
from pgrain.demo.shop import COMPLAINT, join, report
from pgrain.demo.timing import median, memory_bandwidth, say, times
from pgrain.influence.scores import deletion_changes, top_k

FLOATS = 4


def complain(bench: Bench, query: str, *given, **options) -> list[tuple]:
    return shop.complain(bench.connection, query, *given, **options)


def floor_of(bench: Bench, rows_touched: int, k: int) -> tuple[float, str]:
    """What must be read: the training rows' projections and the touched variables' Jacobians."""
    size = FLOATS * k * bench.rows + FLOATS * 10 * (k + 1) * rows_touched
    bandwidth = bench.facts["bandwidth"]
    return 1000 * size / bandwidth, f"{size / 1e6:.1f} MB at {bandwidth / 1e9:.1f} GB/s"


def measure(bench: Bench) -> None:
    bench.facts["bandwidth"] = memory_bandwidth()
    _split(bench)
    _kinds(bench)
    _clients(bench)
    _against_rain(bench)
    _scaling(bench)
    _scores(bench)
    _precompute(bench)


def _split(bench: Bench) -> None:
    section = "complain, by step"
    say(section)
    query = report(bench.main)
    began = time.perf_counter()
    with bench.cluster.connect(bench.connection.info.dbname) as fresh:
        fresh.execute("SELECT * FROM pgrain.complain(%s, %s)", [query, COMPLAINT]).fetchall()
    bench.add(section, "cold: new session, first complaint of its shape, connect included",
              1000 * (time.perf_counter() - began), note="compiles, verifies, runs the query once")
    k = bench.run("SELECT k FROM pgrain.models WHERE model = %s", [bench.main])[0][0]
    floor, floor_is = floor_of(bench, bench.queried, k)
    found = times(lambda: complain(bench, query), bench.repeat)
    whole = bench.add(section, f"hot: all of it, {bench.queried:,} attached rows, top 100, k = {k}",
                      statistics.median(found), floor=floor, floor_is=floor_is, low=min(found),
                      high=max(found))
    trip = bench.add(section, "a round trip to the server (SELECT 1)",
                     median(lambda: bench.run("SELECT 1"), bench.repeat))
    explain = bench.add(section, "EXPLAIN of the query", median(
        lambda: bench.run("EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) " + query), bench.repeat))
    bench.add(section, "the query with its model calls, in PostgreSQL alone",
              median(lambda: bench.run(query), bench.repeat))
    bench.add(section, "the same on a stored column, without a model",
              median(lambda: bench.run(re.sub(r"pgrain.predict\('\w+', image\)", "'dress'", query)),
                     bench.repeat))
    A = np.random.default_rng(0).normal(size=(bench.rows, k)).astype(np.float32)
    w, c = np.ones(k), np.ones(k)
    score = bench.add(section, "scores of the training rows and the top 100 (numpy, in process)",
                      median(lambda: top_k(-deletion_changes(A, w, c), 100), bench.repeat),
                      floor=1000 * A.nbytes / bench.facts["bandwidth"],
                      floor_is=f"{A.nbytes / 1e6:.1f} MB of projections, once")
    rest = whole.value - trip.value - explain.value - score.value
    bench.add(section, "what is left: capture, two trips to the worker, circuit, c, rows back",
              rest)


def _kinds(bench: Bench) -> None:
    section = "complain, by kind of query"
    say(section)
    for what, query, complaint in [
            ("count with filter and group, attached", report(bench.main), COMPLAINT),
            (f"join on predict(l) = predict(r), {bench.queried // 2:,} x {bench.queried // 2:,}",
             join(bench.main), "n too high"),
            (f"one group of {bench.queried // 24:,} rows",
             report(bench.main, extra=" AND hour = 13"), COMPLAINT),
            (f"not attached: {bench.queried:,} values, which the worker remembers after the first",
             report(bench.main, table="unseen"), COMPLAINT)]:
        began = time.perf_counter()
        complain(bench, query, complaint)
        first = 1000 * (time.perf_counter() - began)
        began = time.perf_counter()
        bench.run(query)
        itself = 1000 * (time.perf_counter() - began)
        found = times(lambda q=query, c=complaint: complain(bench, q, c),
                      max(3, bench.repeat // 3))
        bench.add(section, what, statistics.median(found), low=min(found), high=max(found),
                  note=f"first call {first:,.0f} ms, the query itself {itself:,.0f} ms")
    if bench.has("watch"):
        try:
            bench.run("CALL pgrain.watch('bench', %s)", [report(bench.main)])
            found = times(lambda: complain(bench, "bench"), bench.repeat)
            bench.add(section, "a watch over the same rows", statistics.median(found),
                      low=min(found), high=max(found))
            bench.run("SELECT pgrain.unwatch('bench')")
        except Exception as error:
            bench.skip(f"a watch: {str(error).splitlines()[0]}")
    else:
        bench.skip("watches: pgrain.watch is not built yet")


def _clients(bench: Bench) -> None:
    section = "complain, several clients (pgbench)"
    say(section)
    script = (f"SELECT count(*) FROM pgrain.complain($${report(bench.main)}$$, '{COMPLAINT}',"
              f" top_k => 100);\n")
    for clients in (1, 8):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "complain.sql").write_text(script)
            done = subprocess.run(
                [bench.cluster.server.tool("pgbench") if hasattr(bench.cluster.server, "tool")
                 else str(bench.cluster.server.bindir / "pgbench"), "-n", "-c", str(clients),
                 "-T", str(round(bench.seconds)), "-l", "-f", "complain.sql",
                 bench.cluster.dsn(bench.connection.info.dbname)],
                cwd=folder, capture_output=True, text=True, check=False)
            found = sorted(int(line.split()[2]) / 1000 for log in Path(folder).glob("pgbench_log*")
                           for line in log.read_text().splitlines())
        if done.returncode or not found:
            bench.skip(f"{clients} clients: {(done.stderr or 'no transaction').splitlines()[-1]}")
            continue
        bench.add(section, f"{clients} client{'s' * (clients > 1)}", statistics.median(found),
                  low=found[0], high=found[int(0.99 * (len(found) - 1))],
                  note=f"{len(found) / bench.seconds:.1f} a second; the range is to the 99th "
                       "percentile")


def _against_rain(bench: Bench) -> None:
    section = "Rain against Rain++, by model size (figure 1, table 4)"
    say(section)
    for name, parameters in bench.run("SELECT model, n_parameters FROM pgrain.models ORDER BY 2"):
        few = max(2, bench.repeat // 10)
        fast = median(lambda m=name: complain(bench, report(m)), bench.repeat)
        bench.add(section, f"{name}, {parameters:,} parameters: Rain++, attached", fast)
        live = median(lambda m=name: complain(bench, report(m, "unseen")), few)
        bench.add(section, f"{name}: Rain++, not attached, remembered since the first call", live)
        slow = median(lambda m=name: complain(bench, report(m), method="rain", k=4), few)
        flops = 12 * parameters * min(bench.rows, 10_000) * 4
        bench.add(section, f"{name}: Rain, 4 iterations", slow,
                  note=f"{slow / fast:.0f} x Rain++ attached, {slow / live:.0f} x remembered",
                  floor=1000 * flops / bench.facts["multiply"],
                  floor_is=f"{flops / 1e9:.0f} G operations of 4 Hessian products at "
                           f"{bench.facts['multiply'] / 1e9:.0f} G/s")
        bench.facts[f"rain {name}"] = slow


def _scaling(bench: Bench) -> None:
    section = "Scaling"
    say(section)
    query = report(bench.main)
    stored = bench.run("SELECT max(cardinality(eigenvalues)) FROM pgrain.spectrum")[0][0]
    for k in (1, 10, 20, 30):
        if k <= stored:
            bench.add(section, f"k = {k}", median(
                lambda k=k: complain(bench, query, k=k), bench.repeat))
    for what, intervention in [(f"{bench.rows:,} interventions: delete", "delete"),
                               (f"{9 * bench.rows:,} candidates: relabel", "relabel")]:
        bench.add(section, what, median(
            lambda i=intervention: complain(bench, query, intervention=i),
            max(3, bench.repeat // 3)))
    for top in (1, 100, 1000):
        bench.add(section, f"top_k = {top}", median(
            lambda t=top: complain(bench, query, top=t), max(3, bench.repeat // 3)))
    for what, table in [(f"{bench.queried:,} rows", "sellerdata"),
                        (f"{10 * bench.queried:,} rows, each value ten times", "many")]:
        larger = report(bench.main, table)
        complain(bench, larger)
        bench.add(section, f"table of {what}", median(
            lambda q=larger: complain(bench, q), max(3, bench.repeat // 3)))


def _scores(bench: Bench) -> None:
    section = "The scoring path in process (600,000 x 20, exact top 100)"
    say(section)
    A = np.random.default_rng(0).normal(size=(600_000, 20)).astype(np.float32)
    w, c = np.ones(20), np.random.default_rng(1).normal(size=20)
    floor = {"floor": 1000 * A.nbytes / bench.facts["bandwidth"],
             "floor_is": f"{A.nbytes / 1e6:.0f} MB, read once"}
    bench.add(section, "ours: product, then exact top 100",
              median(lambda: top_k(-deletion_changes(A, w, c), 100), bench.repeat), **floor)
    v = (w * c).astype(np.float32)
    bench.add(section, "numpy: matmul and argpartition",
              median(lambda: np.argpartition(-(A @ v), -100)[-100:], bench.repeat), **floor)
    import jax
    import jax.numpy as jnp
    on_device = jnp.asarray(A)
    best = jax.jit(lambda a, x: jax.lax.top_k(-(a @ x), 100))
    bench.add(section, "JAX: matmul and top_k",
              median(lambda: best(on_device, v)[1].block_until_ready(), bench.repeat), **floor)


def _precompute(bench: Bench) -> None:
    section = "Offline (figure 10)"
    say(section)
    for name, parameters in bench.run("SELECT model, n_parameters FROM pgrain.models ORDER BY 2"):
        took = bench.facts[f"precompute {name}"]
        flops = parameters * (12 * 80 * min(bench.rows, 10_000) + 2 * 31 * bench.rows)
        rain = bench.facts[f"rain {name}"] / 1000
        bench.add(section, f"precompute {name}, {parameters:,} parameters, 30 pairs", took, "s",
                  floor=flops / bench.facts["multiply"],
                  floor_is=f"{flops / 1e9:,.0f} G operations (80 Hessian products, projections) "
                           f"at {bench.facts['multiply'] / 1e9:.0f} G/s",
                  note=f"{took / rain:.1f} complaints of Rain with 4 iterations, through SQL")
        bench.add(section, f"train {name}", bench.facts[f"train {name}"], "s")
        bench.add(section, f"attach {bench.queried:,} rows to {name}",
                  bench.facts[f"attach {name}"], "s")
