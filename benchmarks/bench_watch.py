"""What a watch costs by how much changes and by how large its table is (the paper's figure 9): to
who changes the rows, to who complains right after, to the worker until the change is in the state.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

from bench_common import Bench
from bench_floors import reading

from pgrain.demo.timing import say, times
from pgrain.worker.watch_folder import Folder

CHANGES = (1, 100, 1_000, 10_000)
JOINED, JOIN_CHANGES = (10_000, 1_000), (1, 1_000)
REPEAT = 3
BUDGET = "budget 500 for 1,000 rows, whatever the table (stretch 50)"
SECTION = "A watch, by the change and by the table (figure 9)"
ASK = "SELECT * FROM pgrain.complain('sizes', 'n too high')"
CLAIM = "CASE WHEN n % 3 = 0 THEN 'yes' ELSE 'no' END"
PLAIN = "SELECT claim, count(*) AS n FROM {} WHERE 'yes' <> claim GROUP BY claim"


def measure(bench: Bench, rows: int, select: Callable[[str, int, int], str]) -> None:
    """On tables of a hundredth, a tenth and all of `rows`; and one beside another, joined.
    select(claim, first, n): SQL for n rows (id, x, claim) of values that nobody has met."""
    say(SECTION)
    given = 10 * rows

    def new(change: int) -> str:
        nonlocal given
        given += change
        return select(CLAIM, given - change, change)

    for size in sorted({max(rows // 100, 1_000), max(rows // 10, 1_000), rows}):
        with _watch(bench, f"table of {size:,} rows", size,
                    "SELECT claim, count(*) AS n FROM watched WHERE "
                    "pgrain.predict('large', x) <> claim GROUP BY claim", PLAIN):
            for change in CHANGES:
                _change(bench, f"{size:,} rows, {change:,} inserted", change, new, PLAIN)
    _join(bench, new)


def _join(bench: Bench, new: Callable[[int], str]) -> None:
    """Pairs of rows that the model takes for the same, of two tables; the larger one grows."""
    large, small = JOINED
    what = f"join of {large:,} rows with {small:,}"
    plain = ("SELECT l.claim, sum(l.n * r.n) FROM (SELECT claim, count(*) AS n FROM {} GROUP BY 1)"
             " AS l JOIN (SELECT claim, count(*) AS n FROM beside GROUP BY 1) AS r USING (claim) "
             "GROUP BY 1")
    bench.run(f"CREATE TABLE beside AS SELECT * FROM large OFFSET 7 LIMIT {small}")
    with _watch(bench, what, large,
                "SELECT l.claim, count(*) AS n FROM watched AS l JOIN beside AS r ON "
                "pgrain.predict('large', l.x) = pgrain.predict('large', r.x) GROUP BY l.claim",
                plain):
        for change in JOIN_CHANGES:
            _change(bench, f"{what}, {change:,} more", change, new, plain)
    bench.run("DROP TABLE beside")


@contextlib.contextmanager
def _watch(bench: Bench, what: str, size: int, query: str, plain: str) -> Iterator[None]:
    """A watch on `watched`, `size` rows of `large`, with `unwatched` of the same rows. plain: the
    query without predictions, of the table that is put in."""
    bench.run(f"CREATE TABLE watched AS SELECT * FROM large LIMIT {size}")
    bench.run("CREATE TABLE unwatched AS SELECT * FROM watched")
    least = min(times(lambda: bench.run(plain.format("unwatched")), 3))
    began = time.perf_counter()
    bench.run("CALL pgrain.watch('sizes', %s)", [query])
    bench.add(SECTION, f"{what}: its first state", time.perf_counter() - began, "s",
              floor=least / 1000, floor_is="the query on a stored column instead of predictions")
    bench.run(ASK)
    yield
    bench.run("SELECT pgrain.unwatch('sizes')")
    bench.run("DROP TABLE watched, unwatched")


def _change(bench: Bench, what: str, change: int, new: Callable[[int], str], plain: str) -> None:
    """So many rows are inserted at once, some times."""
    found: dict[str, list[float]] = {name: [] for name in ("plain", "noted", "seen", "folded")}
    for number in range(REPEAT + 1):
        rows = new(change)
        took = {"plain": _timed(bench, f"INSERT INTO unwatched {rows}"),
                "noted": _timed(bench, f"INSERT INTO watched {rows}")}
        began = time.perf_counter()
        took["seen"] = _timed(bench, ASK)
        while bench.run("SELECT count(*) FROM pgrain.watch_note")[0][0]:
            if time.perf_counter() > began + 60:
                raise TimeoutError("the worker does not fold what is noted")
            time.sleep(0.005)
        took["folded"] = 1e3 * (time.perf_counter() - began)
        for name, ms in took.items():
            if number:              # the first one warms up
                found[name].append(ms)
    of = {name: statistics.median(took) for name, took in found.items()}
    bench.add(SECTION, f"{what}: INSERT", of["noted"], floor=of["plain"],
              floor_is="the same INSERT without a watch")
    bench.run(f"CREATE TABLE changed AS {new(change)}")
    least = min(times(lambda: bench.run(plain.format("changed")), 5))
    bench.run("DROP TABLE changed")
    projections = _projections(bench)
    bench.add(SECTION, f"{what}: a complaint right after", of["seen"], low=min(found["seen"]),
              high=max(found["seen"]), floor=least + reading(bench, projections),
              floor_is="the query on a stored column instead of predictions, over the new rows "
                       f"alone, and {projections / 1e6:.1f} MB of projections, read once",
              note=BUDGET)
    bench.add(SECTION, f"{what}: until it is in the state", of["folded"],
              low=min(found["folded"]), high=max(found["folded"]),
              floor=1e3 * Folder.poll_seconds / 2,
              floor_is="half of the time between two looks of the worker",
              note="the worker looks ten times a second; the one before has just been, so it "
                   "is nearly all of that time here")


def _projections(bench: Bench) -> int:
    """Bytes of the projections of the training rows."""
    rows, pairs = bench.run("SELECT n_rows, stored_pairs FROM pgrain.models "
                            "WHERE model = 'large'")[0]
    return 4 * rows * pairs


def _timed(bench: Bench, statement: str) -> float:
    began = time.perf_counter()
    bench.run(statement)
    return 1e3 * (time.perf_counter() - began)
