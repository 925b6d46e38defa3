"""Complaints through SQL: latency (bench_latency), Rain against Rain++; scaling in k, interventions
and table size; precomputation."""

from __future__ import annotations

import bench_latency
import numpy as np
from bench_common import Bench

from pgrain.demo import shop
from pgrain.demo.shop import report
from pgrain.demo.timing import median, memory_bandwidth, say
from pgrain.influence.scores import deletion_changes, top_k

SIZES = ("SELECT model, n_parameters FROM pgrain.models "
         f"WHERE model <> '{bench_latency.MODEL}' ORDER BY 2")


def complain(bench: Bench, query: str, *given, **options) -> list[tuple]:
    return shop.complain(bench.connection, query, *given, **options)


def measure(bench: Bench) -> None:
    bench.facts["bandwidth"] = memory_bandwidth()
    bench_latency.measure(bench)
    _against_rain(bench)
    _scaling(bench)
    _scores(bench)
    _precompute(bench)


def _against_rain(bench: Bench) -> None:
    section = "Rain against Rain++, by model size (figure 1, table 4)"
    say(section)
    for name, parameters in bench.run(SIZES):
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
    for name, parameters in bench.run(SIZES):
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
