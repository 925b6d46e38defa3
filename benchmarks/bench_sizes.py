"""A large inference table: what it takes to attach, to predict all of it in one call, to start
the worker again, for a hundred sessions to hold. Few numbers a row: the rows are what counts."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable

import bench_watch
import psycopg
from bench_common import Bench
from bench_memory import memory, of_session

from pgrain.demo.timing import say

TRAIN, FEATURES, SESSIONS = 20_000, 4, 100
_ROW = "ARRAY[" + ", ".join(f"sin({7 * i + 3} * n::float8)" for i in range(FEATURES)) + "]"
_QUERY = "SELECT count(*) AS n FROM large WHERE pgrain.predict('large', x) <> claim"


def measure(bench: Bench, rows: int) -> None:
    section = f"A large table: {rows:,} rows of {FEATURES} numbers"
    say(section)
    bench.run(f"CREATE TABLE large_train AS SELECT n AS id, {_ROW} AS x, CASE WHEN sin(3.0 * n) + "
              "0.3 * sin(1000.0 * n) > 0 THEN 'yes' ELSE 'no' END AS label "
              f"FROM generate_series(1, {TRAIN}) AS n")
    bench.run("ALTER TABLE large_train ADD PRIMARY KEY (id)")
    bench.run(f"CREATE TABLE large AS SELECT n AS id, {_ROW} AS x, CASE WHEN n % 3 = 0 THEN 'yes' "
              f"ELSE 'no' END AS claim FROM generate_series({TRAIN + 1}, {TRAIN + rows}) AS n")
    bench.run("VACUUM ANALYZE")
    bench.run("SELECT pgrain.create_model('large', 'large_train', 'id', '{x}', 'label', "
              "'logistic_regression')")
    bench.run("CALL pgrain.train('large')")
    bench.run("CALL pgrain.precompute('large')")

    before = memory(bench.worker.pid, "VmRSS")
    whole = _batch(bench, section, "nothing of it stored", "SELECT id, x FROM large", rows)
    took, peak = _watched(bench.worker.pid,
                          lambda: bench.run("CALL pgrain.attach('large', 'large')"))
    bench.add(section, "attach", took, "s", note=f"worker at most {peak:,.0f} MB, "
                                                 f"{before:,.0f} before all this")
    stored = _batch(bench, section, "all of it stored", "SELECT id, x FROM large", rows)
    if whole != stored:
        raise AssertionError(f"stored and computed predictions differ: {stored} and {whole}")
    complain = lambda: bench.run(  # noqa: E731
        "SELECT count(*) FROM pgrain.complain(%s, 'n too high')", [_QUERY])
    complain()
    began = time.perf_counter()
    complain()
    bench.add(section, "a complaint about all of it, as the last time",
              1e3 * (time.perf_counter() - began))
    bench_watch.measure(bench, rows, lambda claim, first, n: (
        f"SELECT n AS id, {_ROW} AS x, {claim} AS claim "
        f"FROM generate_series({first}, {first + n - 1}) AS n"))
    bench.worker.stop()
    began = time.perf_counter()
    bench.worker.start()
    up = time.perf_counter() - began
    bench.add(section, "restart of the worker until it answers", up, "s")
    complain()
    bench.add(section, "restart until a complaint about all of it is answered",
              time.perf_counter() - began, "s")
    bench.add(section, "the worker's resident memory then",
              memory(bench.worker.pid, "VmRSS"), "MB")
    _sessions(bench, section, rows)


def _batch(bench: Bench, section: str, what: str, query: str, rows: int) -> tuple:
    """Counts by label of one predict_batch, in a session of its own, whose memory is watched."""
    with bench.cluster.connect(bench.connection.info.dbname) as session:
        call = ("SELECT count(*), count(*) FILTER (WHERE label = 'yes') FROM "
                "pgrain.predict_batch('large', %s)")
        session.execute("SET work_mem = '4MB'")     # what PostgreSQL keeps rows in, by default
        session.execute(call, [query + " LIMIT 1000"]).fetchall()
        pid = session.execute("SELECT pg_backend_pid()").fetchone()[0]
        start, worker_start = memory(pid, "RssAnon"), memory(bench.worker.pid, "VmRSS")
        found: list = []
        peaks: list[float] = []
        took, peak = _watched(pid, lambda: peaks.append(_watched(
            bench.worker.pid, lambda: found.extend(session.execute(call, [query]).fetchall()),
            "VmRSS")[1]), "RssAnon")
    bench.add(section, f"predict_batch, {what}", rows / took, "rows/s",
              note=f"the session's own memory {start:.1f} MB, at most {peak:.1f} "
                   f"meanwhile; the worker's {worker_start:,.0f}, {peaks[0]:,.0f}")
    return found[0]


def _sessions(bench: Bench, section: str, rows: int) -> None:
    private, shared = [], 0.0
    with contextlib.ExitStack() as stack:
        for _ in range(SESSIONS):
            session: psycopg.Connection = stack.enter_context(
                bench.cluster.connect(bench.connection.info.dbname))
            session.execute("SELECT pgrain.predict('large', x) FROM large LIMIT 1").fetchall()
            pid = session.execute("SELECT pg_backend_pid()").fetchone()[0]
            mine, shared = of_session(pid)
            private.append(mine)
    bench.add(section, f"each of {SESSIONS} sessions after its first prediction, private",
              statistics.median(private), "MB", note=f"{sum(private):,.0f} MB all of them")
    bench.add(section, "the map of stored predictions that they share, once a machine", shared,
              "MB", note=f"{1e6 * shared / rows:.0f} bytes an inference value")


def _watched(pid: int, work: Callable[[], object], what: str = "VmRSS") -> tuple[float, float]:
    """(seconds, the most MB that the process had meanwhile, looked at fifty times a second)."""
    over, most = threading.Event(), [memory(pid, what)]

    def look() -> None:
        while not over.wait(0.02):
            most[0] = max(most[0], memory(pid, what))

    thread = threading.Thread(target=look)
    thread.start()
    began = time.perf_counter()
    try:
        work()
    finally:
        took = time.perf_counter() - began
        over.set()
        thread.join()
    return took, most[0]
