"""Complaints through SQL: latency (bench_latency), Rain against Rain++; scaling in k, interventions
and table size; precomputation."""

from __future__ import annotations

import re

import bench_latency
import scoring
from bench_common import Bench
from bench_floors import computing, forward, precomputing, reading, shop_model, training

from pgrain.demo import shop
from pgrain.demo.shop import report
from pgrain.demo.timing import median, say, times

SIZES = ("SELECT model, n_parameters FROM pgrain.models "
         f"WHERE model <> '{bench_latency.MODEL}' ORDER BY 2")


def complain(bench: Bench, query: str, *given, **options) -> list[tuple]:
    return shop.complain(bench.connection, query, *given, **options)


def measure(bench: Bench) -> None:
    bench_latency.measure(bench)
    _against_rain(bench)
    _scaling(bench)
    _scores(bench)
    _precompute(bench)


def _floor(bench: Bench, k: int = 20, classes: int = 1, table: str = "sellerdata") -> dict:
    """The least that a complaint about `report` takes: what is read; the query on a constant."""
    known = f"plain {table}"
    if known not in bench.facts:
        plain = re.sub(r"pgrain.predict\('\w+', image\)", "'dress'", report(bench.main, table))
        bench.facts[known] = min(times(lambda: bench.run(plain), max(5, bench.repeat // 3)))
    size = 4 * k * classes * bench.rows
    return {"floor": reading(bench, size) + bench.facts[known],
            "floor_is": f"{size / 1e6:.1f} MB of projections, read once, and "
                        f"{bench.facts[known]:.1f} ms for the query on a constant in place of "
                        "predictions"}


def _against_rain(bench: Bench) -> None:
    section = "Rain against Rain++, by model size (figure 1, table 4)"
    say(section)
    for name, parameters in bench.run(SIZES):
        few = max(2, bench.repeat // 10)
        fast = median(lambda m=name: complain(bench, report(m)), bench.repeat)
        bench.add(section, f"{name}, {parameters:,} parameters: Rain++, attached", fast,
                  **_floor(bench))
        live = median(lambda m=name: complain(bench, report(m, "unseen")), few)
        bench.add(section, f"{name}: Rain++, not attached, remembered since the first call", live,
                  **_floor(bench, table="unseen"))
        slow = median(lambda m=name: complain(bench, report(m), method="rain", k=4), few)
        products = 2 * forward(shop_model(*shop.SIZES[name])) * min(bench.rows, 10_000) * 4
        floor = computing(bench, products, "ms")
        bench.add(section, f"{name}: Rain, 4 iterations", slow,
                  note=f"{slow / fast:.0f} x Rain++ attached, {slow / live:.0f} x remembered",
                  floor=floor["floor"], floor_is=f"{floor['floor_is']} (4 Hessian products)")
        bench.facts[f"rain {name}"] = slow


def _scaling(bench: Bench) -> None:
    section = "Scaling"
    say(section)
    query = report(bench.main)
    stored = bench.run("SELECT max(cardinality(eigenvalues)) FROM pgrain.spectrum")[0][0]
    for k in (1, 10, 20, 30):
        if k <= stored:
            bench.add(section, f"k = {k}", median(
                lambda k=k: complain(bench, query, k=k), bench.repeat), **_floor(bench, k))
    for what, intervention, classes in [
            (f"{bench.rows:,} interventions: delete", "delete", 1),
            (f"{9 * bench.rows:,} candidates: relabel", "relabel", 10)]:
        bench.add(section, what, median(
            lambda i=intervention: complain(bench, query, intervention=i),
            max(3, bench.repeat // 3)), **_floor(bench, classes=classes))
    for top in (1, 100, 1000):
        bench.add(section, f"top_k = {top}", median(
            lambda t=top: complain(bench, query, top=t), max(3, bench.repeat // 3)),
            **_floor(bench))
    for what, table in [(f"{bench.queried:,} rows", "sellerdata"),
                        (f"{10 * bench.queried:,} rows, each value ten times", "many")]:
        larger = report(bench.main, table)
        complain(bench, larger)
        bench.add(section, f"table of {what}", median(
            lambda q=larger: complain(bench, q), max(3, bench.repeat // 3)),
            **_floor(bench, table=table))


def _scores(bench: Bench) -> None:
    """What `complain` does with stored projections, beside what else does it, all in turn."""
    section = "The scoring path in process (exact top 100, k = 20)"
    say(section)
    faiss_python = scoring.environment()
    for what, found, size in [
            *((f"delete, {n:,}", scoring.deletions(n, bench.repeat if n < 10**6 else 5,
                                                  faiss_python), 4 * 20 * n)
              for n in (60_000, 600_000, 6_000_000)),
            ("relabel, 60,000 × 9", scoring.relabellings(60_000, bench.repeat),
             4 * 20 * 10 * 60_000)]:
        for name, (middle, least, cpu) in found.items():
            bench.add(section, f"{what}: {name}", middle, low=least,
                      floor=reading(bench, size), floor_is=f"{size / 1e6:,.0f} MB, read once",
                      note=f"processor {cpu:.2f} ms at least"
                           + ("; budget 8 (stretch: reading it once)"
                              if (what, name) == ("delete, 600,000", scoring.OURS) else ""))
    if faiss_python is None:
        bench.skip("FAISS: pip could not install faiss-cpu")


def _precompute(bench: Bench) -> None:
    section = "Offline (figure 10)"
    say(section)
    for name, parameters in bench.run(SIZES):
        took = bench.facts[f"precompute {name}"]
        a_row = forward(shop_model(*shop.SIZES[name]))
        *steps, products = precomputing(bench, name, a_row, 30, bench.rows, min(bench.rows, 10_000))
        floor = computing(bench, sum(steps))
        rain = bench.facts[f"rain {name}"] / 1000
        bench.add(section, f"precompute {name}, {parameters:,} parameters, 30 pairs", took, "s",
                  floor=floor["floor"],
                  floor_is=f"{floor['floor_is']} ({products} Hessian products, projections)",
                  note=f"{took / rain:.1f} complaints of Rain with 4 iterations, through SQL")
        bench.add(section, f"train {name}", bench.facts[f"train {name}"], "s",
                  **training(bench, name, a_row))
        bench.add(section, f"attach {bench.queried:,} rows to {name}",
                  bench.facts[f"attach {name}"], "s",
                  **computing(bench, 31 * a_row * bench.queried))
