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
from bench_floors import ITSELF, PYTHON_IS, mapped, python_alone, reading, stored
from bench_memory import memory, of_session

from pgrain.demo.timing import say, times

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
    empty = _empty(bench, section, rows)
    whole = _batch(bench, section, "nothing of it stored", "SELECT id, x FROM large", rows, empty)
    out = min(times(lambda: _copied_out(bench), 2)) / 1000
    took, peak = _watched(bench.worker.pid,
                          lambda: bench.run("CALL pgrain.attach('large', 'large')"))
    bench.add(section, "attach", took, "s", floor=out,
              floor_is="the same rows through COPY in binary, thrown away",
              note=f"worker at most {peak:,.0f} MB, {before:,.0f} before all this")
    again = _batch(bench, section, "all of it stored", "SELECT id, x FROM large", rows, empty)
    if whole != again:
        raise AssertionError(f"stored and computed predictions differ: {again} and {whole}")
    _predicted(bench, section, rows, empty)
    complain = lambda: bench.run(  # noqa: E731
        "SELECT count(*) FROM pgrain.complain(%s, 'n too high')", [_QUERY])
    complain()
    began = time.perf_counter()
    complain()
    bench.add(section, "a complaint about all of it, as the last time",
              1e3 * (time.perf_counter() - began), **_complaining(bench))
    bench_watch.measure(bench, rows, lambda claim, first, n: (
        f"SELECT n AS id, {_ROW} AS x, {claim} AS claim "
        f"FROM generate_series({first}, {first + n - 1}) AS n"))
    bench.worker.stop()
    began = time.perf_counter()
    bench.worker.start()
    up = time.perf_counter() - began
    complain()
    answered = time.perf_counter() - began
    resident = memory(bench.worker.pid, "VmRSS")
    python_s, python_mb = python_alone(bench)
    asked, arrays = _complaining(bench), sum(stored(bench).values())
    bench.add(section, "restart of the worker until it answers", up, "s", floor=python_s,
              floor_is=PYTHON_IS)
    bench.add(section, "restart until a complaint about all of it is answered", answered, "s",
              floor=python_s + (asked["floor"] + reading(bench, int(arrays))) / 1000,
              floor_is=f"{PYTHON_IS}, reading {arrays / 1e6:.0f} MB of arrays once, and the query "
                       "on a constant in place of predictions")
    bench.add(section, "the worker's resident memory then", resident, "MB",
              floor=python_mb + arrays / 1e6,
              floor_is=f"{python_mb:.0f} MB of {PYTHON_IS}, and {arrays / 1e6:.0f} MB of arrays")
    _sessions(bench, section, rows)


def _empty(bench: Bench, section: str, rows: int) -> float:
    """Rows a second of an empty PL/Python function of predict's arguments."""
    bench.run("CREATE FUNCTION empty(model text, x float8[]) RETURNS text LANGUAGE plpython3u "
              "STABLE STRICT AS $$ return 'yes' $$")
    found = [1000 * rows / ms for ms in times(lambda: bench.run(
        "SELECT count(empty('large', x)) FROM large"), 3)]
    rate = statistics.median(found)
    bench.add(section, "an empty PL/Python function of two arguments, as predict has", rate,
              "rows/s", low=min(found), high=max(found), floor_is=ITSELF)
    return rate


def _predicted(bench: Bench, section: str, rows: int, empty: float) -> None:
    """Plain predict of float8[], as it is the first time in a session and from then on. A session
    remembers some values: in a large table most are looked up in the shared map each time."""
    query = "SELECT count(pgrain.predict('large', x)) FROM large"
    with bench.cluster.connect(bench.connection.info.dbname) as session:
        first, *again = [1000 * rows / ms for ms in times(
            lambda: session.execute(query).fetchall(), 4, 0)]
    floor = {"floor": empty, "floor_is": "the empty function"}
    bench.add(section, "pgrain.predict of float8[], attached rows", statistics.median(again),
              "rows/s", low=min(again), high=max(again), **floor)
    bench.add(section, "pgrain.predict of float8[], attached rows, the first time in a session",
              first, "rows/s", **floor)


def _copied_out(bench: Bench) -> None:
    with bench.connection.cursor().copy(
            "COPY (SELECT id, x FROM large) TO STDOUT (FORMAT binary)") as out:
        for _ in out:
            pass


def _complaining(bench: Bench) -> dict:
    """The floor of a complaint about the whole table, in ms."""
    plain = _QUERY.replace("pgrain.predict('large', x)", "'yes'")
    took = min(times(lambda: bench.run(plain), 3))
    pairs = bench.run("SELECT stored_pairs FROM pgrain.models WHERE model = 'large'")[0][0]
    size = 4 * TRAIN * pairs
    return {"floor": took + reading(bench, size),
            "floor_is": f"{took:.3g} ms for the query on a constant in place of predictions, and "
                        f"{size / 1e6:.1f} MB of projections, read once"}


def _batch(bench: Bench, section: str, what: str, query: str, rows: int, empty: float) -> tuple:
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
    bench.add(section, f"predict_batch, {what}", rows / took, "rows/s", floor=empty,
              floor_is="the empty function",
              note=f"the session's own memory {start:.1f} MB, at most {peak:.1f} "
                   f"meanwhile; the worker's {worker_start:,.0f}, {peaks[0]:,.0f}")
    return found[0]


def _sessions(bench: Bench, section: str, rows: int) -> None:
    with contextlib.ExitStack() as stack:
        def sessions(number: int, function: str) -> tuple[list[float], float]:
            private, shared = [], 0.0
            for _ in range(number):
                session: psycopg.Connection = stack.enter_context(
                    bench.cluster.connect(bench.connection.info.dbname))
                session.execute(f"SELECT {function}('large', x) FROM large LIMIT 1").fetchall()
                pid = session.execute("SELECT pg_backend_pid()").fetchone()[0]
                mine, shared = of_session(pid)
                private.append(mine)
            return private, shared

        python, _ = sessions(3, "empty")
        private, shared = sessions(SESSIONS, "pgrain.predict")
    bench.add(section, f"each of {SESSIONS} sessions after its first prediction, private",
              statistics.median(private), "MB", floor=statistics.median(python),
              floor_is="PL/Python alone", note=f"{sum(private):,.0f} MB all of them")
    bench.add(section, "the map of stored predictions that they share, once a machine", shared,
              "MB", **mapped(rows, 2), note=f"{1e6 * shared / rows:.0f} bytes an inference value")


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
