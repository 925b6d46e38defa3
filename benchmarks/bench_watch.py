"""What a watch costs by how much changes and by how large its table is (the paper's figure 9): to
who changes the rows, to who complains right after, to the worker until the change is in the state.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from bench_common import Bench

from pgrain.demo.timing import say

CHANGES = (1, 100, 1_000, 10_000)
REPEAT = 3
BUDGET = "budget 500 for 1,000 rows, whatever the table (stretch 50)"


def measure(bench: Bench, rows: int, select: Callable[[str, int, int], str]) -> None:
    """On tables of a hundredth, a tenth and all of `rows`. select(claim, first, n): SQL for n rows
    (id, x, claim) of values that nobody has met."""
    section = "A watch, by the change and by the table (figure 9)"
    say(section)
    next_id = 10 * rows
    for size in sorted({max(rows // 100, 1_000), max(rows // 10, 1_000), rows}):
        bench.run(f"CREATE TABLE watched AS SELECT * FROM large LIMIT {size}")
        bench.run("CREATE TABLE unwatched AS SELECT * FROM watched")
        began = time.perf_counter()
        bench.run("CALL pgrain.watch('sizes', 'SELECT claim, count(*) AS n FROM watched "
                  "WHERE pgrain.predict(''large'', x) <> claim GROUP BY claim')")
        bench.add(section, f"table of {size:,} rows: its first state", time.perf_counter() - began,
                  "s")
        ask = "SELECT * FROM pgrain.complain('sizes', 'n too high')"
        bench.run(ask)
        for change in CHANGES:
            found: dict[str, list[float]] = {name: [] for name in ("plain", "noted", "seen",
                                                                   "folded")}
            for number in range(REPEAT + 1):
                new = select("CASE WHEN n % 3 = 0 THEN 'yes' ELSE 'no' END", next_id, change)
                next_id += change
                took = {"plain": _timed(bench, f"INSERT INTO unwatched {new}"),
                        "noted": _timed(bench, f"INSERT INTO watched {new}")}
                began = time.perf_counter()
                took["seen"] = _timed(bench, ask)
                while bench.run("SELECT count(*) FROM pgrain.watch_note")[0][0]:
                    if time.perf_counter() > began + 60:
                        raise TimeoutError("the worker does not fold what is noted")
                    time.sleep(0.005)
                took["folded"] = 1e3 * (time.perf_counter() - began)
                for name, ms in took.items():
                    if number:              # the first one warms up
                        found[name].append(ms)
            of = {name: statistics.median(took) for name, took in found.items()}
            bench.add(section, f"{size:,} rows, {change:,} inserted: INSERT", of["noted"],
                      floor=of["plain"], floor_is="the same INSERT without a watch")
            bench.add(section, f"{size:,} rows, {change:,} inserted: a complaint right after",
                      of["seen"], low=min(found["seen"]), high=max(found["seen"]), note=BUDGET)
            bench.add(section, f"{size:,} rows, {change:,} inserted: until it is in the state",
                      of["folded"], low=min(found["folded"]), high=max(found["folded"]),
                      note="the worker looks ten times a second")
        bench.run("SELECT pgrain.unwatch('sizes')")
        bench.run("DROP TABLE watched, unwatched")


def _timed(bench: Bench, statement: str) -> float:
    began = time.perf_counter()
    bench.run(statement)
    return 1e3 * (time.perf_counter() - began)
