"""Latency of complain through SQL, split by step: a watch, ad hoc, a join on predictions, values
that are not attached, the first of a shape; hot and cold; at 1 and 8 clients.

The split is taken inside the session itself: for the length of a measurement its calls of SPI and
of the worker are wrapped with clocks (`STEPS`), in the very backend that answers.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
from bench_common import Bench
from bench_floors import ITSELF, computing, forward, reading, shop_model

from pgrain.demo import shop
from pgrain.demo.corruptions import bright
from pgrain.demo.datasets import CLASSES, fashion_mnist
from pgrain.demo.timing import median, say, times
from pgrain.influence.scores import deletion_changes, top_k

MODEL, TRAIN, K, TOP = "budget", 60_000, 20, 100
OF_READ = f"{4 * TRAIN * K / 1e6:.1f} MB of projections, read once"
BUDGETS = {"watch": (3, 1), "ad hoc": (25, 8), "join": (30, 10), "first": (100, 30)}
STEPS = ("looked up", "capture", "verify", "WHERE", "worker", "rest")
ASK = f"SELECT * FROM pgrain.complain(%s, %s, top_k => {TOP}, options => '{{\"k\": {K}}}')"

_WRAP = """
DO LANGUAGE plpython3u $pgrain$
import sys, time
client, spi, session = (sys.modules["pgrain." + name] for name in
                        ("wire.client", "backend.spi", "backend.session"))
spent = GD["pgrain spent"] = dict.fromkeys(
    ("looked up", "capture", "verify", "WHERE", "worker"), 0.0)
if "pgrain unwrapped" not in GD:
    GD["pgrain unwrapped"] = plpy.execute, plpy.cursor, plpy.prepare, client.Client._call
execute, cursor, prepare, call = GD["pgrain unwrapped"]
texts, depth, clock = {}, [0], time.perf_counter
spi._plans.clear()     # prepared anew, so that their texts are known here
for plan in session.STATE.plans.values():
    plan.pop("prepared", None)
for known in session.STATE.looked_up.values():
    known.plan.pop("prepared", None)
def step(source):
    text = source if isinstance(source, str) else texts.get(id(source), "")
    return ("capture" if "_pgrain_class" in text else
            "verify" if "AS _pgrain_result" in text else
            "WHERE" if "AS output_row FROM" in text else "looked up")
def clocked(name, work, *given):
    depth[0] += 1
    began = clock()
    try:
        return work(*given)
    finally:
        depth[0] -= 1
        if not depth[0] and name:
            spent[name] += clock() - began
class Cursor:
    def __init__(self, inner, name):
        self.inner, self.name = inner, name
    def fetch(self, size):
        return clocked(self.name, self.inner.fetch, size)
    def close(self):
        self.inner.close()
def prepared(text, types=()):
    made = clocked("looked up", prepare, text, list(types))
    texts[id(made)] = text
    GD.setdefault("pgrain kept", []).append(made)
    return made
def waiting(text):
    return text == "SELECT 1"     # the check for interrupts while the worker is waited for
plpy.prepare = prepared
plpy.execute = lambda source, *given: clocked(
    None if waiting(texts.get(id(source))) else step(source), execute, source, *given)
plpy.cursor = lambda source, *given: Cursor(clocked(step(source), cursor, source, *given),
                                            step(source))
client.Client._call = lambda self, *given: clocked("worker", call, self, *given)
$pgrain$"""
_UNWRAP = """
DO LANGUAGE plpython3u $pgrain$
import sys
(plpy.execute, plpy.cursor, plpy.prepare,
 sys.modules["pgrain.wire.client"].Client._call) = GD["pgrain unwrapped"]
$pgrain$"""
_SPENT = """
CREATE OR REPLACE FUNCTION public.bench_spent() RETURNS text LANGUAGE plpython3u AS $pgrain$
import json
spent = GD["pgrain spent"]
said = json.dumps(spent)
for name in spent:
    spent[name] = 0.0
return said
$pgrain$"""


_EMPTY = f"""
CREATE OR REPLACE FUNCTION public.bench_empty(query text, complaint text)
RETURNS TABLE (rank integer, model text, train_id bigint, train_key text, intervention text,
               score float8, effect float8) LANGUAGE sql STABLE ROWS {TOP} AS $pgrain$
    SELECT r.n::int4, m.word, r.id, r.id::text, m.word, r.score, r.score
    FROM public.bench_arrays() AS m,
        ROWS FROM (unnest(m.scores::float8[]), unnest(m.ids::int8[])) WITH ORDINALITY
        AS r (score, id, n) $pgrain$"""
_ARRAYS = f"""
CREATE OR REPLACE FUNCTION public.bench_arrays(OUT ids text, OUT scores text, OUT word text)
RETURNS SETOF record LANGUAGE plpython3u STABLE ROWS 1 AS $pgrain$
if "rows" not in SD:
    SD["rows"] = ["{{" + ",".join(str(7 * i) for i in range({TOP})) + "}}",
                  "{{" + ",".join("%.17g" % (1 / (i + 3)) for i in range({TOP})) + "}}", "delete"]
return [SD["rows"]]
$pgrain$"""


def report(table: str, extra: str = "") -> str:
    return shop.report(MODEL, table, extra)


def prepare(bench: Bench) -> None:
    """The model of the budgets: logistic regression on 60 000 rows, 30 pairs stored."""
    say(f"  {MODEL}: logistic regression on {TRAIN:,} rows")
    train = fashion_mnist("train").first(TRAIN)
    labels = bright(train, 0).labels
    with bench.connection.cursor() as cursor:
        cursor.execute("CREATE TABLE train_budget (id bigint PRIMARY KEY, image bytea, label text)")
        with cursor.copy("COPY train_budget FROM STDIN (FORMAT binary)") as out:
            out.set_types(["int8", "bytea", "text"])
            for number, (pixels, label) in enumerate(zip(train.pixels, labels, strict=True)):
                out.write_row((number + 1, pixels.tobytes(), CLASSES[label]))
    bench.run("SELECT pgrain.create_model(%s, 'train_budget', 'id', '{image}', 'label', "
              "'logistic_regression', '{\"shape\": [28, 28, 1]}')", [MODEL])
    for statement in (f"CALL pgrain.train('{MODEL}')", f"CALL pgrain.precompute('{MODEL}')",
                      f"CALL pgrain.attach('{MODEL}', 'sellerdata')"):
        bench.run(statement)
    bench.run("CALL pgrain.watch('bench_watch', %s)", [report("sellerdata")])
    bench.run("CREATE TABLE IF NOT EXISTS bench_elsewhere (n integer)")
    bench.run("INSERT INTO bench_elsewhere SELECT 0 WHERE NOT EXISTS "
              "(SELECT FROM bench_elsewhere)")
    bench.run("CREATE TABLE changing AS SELECT id, image, clothingtype, hour FROM sellerdata")
    bench.run("VACUUM ANALYZE changing")
    bench.run(_ARRAYS)
    bench.run(_EMPTY)


@contextlib.contextmanager
def wrapped(session: psycopg.Connection) -> Iterator[None]:
    session.execute(_SPENT)
    session.execute(_WRAP)
    try:
        yield
    finally:
        session.execute(_UNWRAP)


def split(session: psycopg.Connection, query: str, complaint: str, repeat: int,
          before: Callable[[], object] = lambda: None) -> dict[str, list[float]]:
    """Milliseconds of each step and of the whole, of `repeat` calls; `before` each, unclocked."""
    found: dict[str, list[float]] = {name: [] for name in ("whole", *STEPS)}
    for _ in range(3):
        session.execute(ASK, [query, complaint]).fetchall()
    with wrapped(session):
        for number in range(repeat + 2):
            before()
            session.execute("SELECT public.bench_spent()").fetchone()
            began = time.perf_counter()
            session.execute(ASK, [query, complaint]).fetchall()
            whole = time.perf_counter() - began
            spent = json.loads(session.execute("SELECT public.bench_spent()").fetchone()[0])
            if number < 2:         # statements are prepared anew
                continue
            found["whole"].append(1e3 * whole)
            for name, seconds in spent.items():
                found[name].append(1e3 * seconds)
            found["rest"].append(1e3 * (whole - sum(spent.values())))
    return found


def measure(bench: Bench) -> None:
    prepare(bench)
    bench.connection.execute("SET client_min_messages = error")
    floors = _floors(bench)
    _by_step(bench, floors)
    _capture(bench)
    _unattached(bench)
    _first(bench, floors)
    _clients(bench, floors)


def _floors(bench: Bench) -> dict[str, tuple[float, str]]:
    """The least: what is read from memory, and the same query on a stored column."""
    read = reading(bench, 4 * TRAIN * K)
    plain = {"ad hoc": re.sub(r"pgrain.predict\('\w+', image\)", "'dress'", report("sellerdata")),
             "join": "SELECT sum(l.n * r.n) FROM (SELECT clothingtype, count(*) n FROM left_side "
                     "GROUP BY 1) AS l JOIN (SELECT clothingtype, count(*) n FROM right_side "
                     "GROUP BY 1) AS r USING (clothingtype)"}
    floors = {"watch": (read, OF_READ)}
    for name, query in plain.items():
        took = min(times(lambda q=query: bench.run(q), bench.repeat))
        floors[name] = (read + took, f"{OF_READ}, and {took:.1f} ms for the query on a stored "
                                     "column instead of predictions"
                                     + (", joined by counts" if name == "join" else ""))
    return floors


def _by_step(bench: Bench, floors: dict) -> None:
    section = "complain through SQL, by step"
    say(section)
    ids = itertools.count(1)
    with bench.cluster.connect(bench.connection.info.dbname) as session:
        session.execute("SET client_min_messages = error")
        bench.add(section, "a round trip to the server (SELECT 1)",
                  median(lambda: session.execute("SELECT 1").fetchall(), bench.repeat),
                  floor_is=ITSELF)
        surface = median(lambda: session.execute(
            "SELECT * FROM public.bench_empty(%s, %s)", ["bench_watch", "x"]).fetchall(),
            bench.repeat)
        bench.add(section, f"a PL/Python function that returns {TOP} made-up rows like complain's",
                  surface, floor_is=ITSELF,
                  note="nothing is asked of anybody: what is left to SQL and client")
        A = np.random.default_rng(0).normal(size=(TRAIN, K)).astype(np.float32)
        w, c = np.ones(K), np.ones(K)
        bench.add(section, f"scores of {TRAIN:,} deletions and the top {TOP} (numpy, in process)",
                  median(lambda: top_k(-deletion_changes(A, w, c), TOP), bench.repeat),
                  floor=floors["watch"][0], floor_is=floors["watch"][1])
        committed = lambda: bench.run("UPDATE bench_elsewhere SET n = n + 1")  # noqa: E731
        changed = lambda: bench.run(  # noqa: E731
            "UPDATE changing SET hour = (hour + 1) %% 24 WHERE id = %s", [next(ids)])
        floors["watch"] = (floors["watch"][0] + surface,
                           f"{OF_READ}, and {surface:.2f} ms for made-up rows")
        for name, what, query, complaint, before in [
                ("watch", "watch, with WHERE", "bench_watch",
                 "flagged too high WHERE hour = 13", None),
                ("watch", "watch, all groups", "bench_watch", "flagged too high", None),
                ("watch", "watch, another transaction has committed since", "bench_watch",
                 "flagged too high WHERE hour = 13", committed),
                ("ad hoc", "ad hoc, with WHERE, as the last time", report("sellerdata"),
                 "flagged too high WHERE hour = 13", None),
                ("ad hoc", "ad hoc, all groups, as the last time", report("sellerdata"),
                 "flagged too high", None),
                ("ad hoc", "ad hoc, another transaction has committed since",
                 report("sellerdata"), "flagged too high WHERE hour = 13", committed),
                ("ad hoc", "ad hoc, a row of the table has changed since", report("changing"),
                 "flagged too high WHERE hour = 13", changed),
                ("join", "join on predict(l) = predict(r), as the last time", shop.join(MODEL),
                 "n too high", None),
                ("join", "join, another transaction has committed since", shop.join(MODEL),
                 "n too high", committed)]:
            found = split(session, query, complaint, bench.repeat, before or (lambda: None))
            budget, stretch = BUDGETS[name]
            of = {step: statistics.median(found[step]) for step in STEPS}
            steps = ", ".join(f"{step} {took:.2f}" for step, took in of.items() if took)
            bench.add(section, what, statistics.median(found["whole"]), low=min(found["whole"]),
                      high=max(found["whole"]), floor=floors[name][0], floor_is=floors[name][1],
                      note=f"budget {budget} (stretch {stretch}); of it {steps}")


def _capture(bench: Bench) -> None:
    """The capture alone, beside the query itself and without its model calls."""
    section = "Capture, against the query itself and without its model calls"
    say(section)
    counted = ("SELECT hour, clothingtype, count(*) AS n, avg(length(image)) AS size FROM "
               f"sellerdata WHERE pgrain.predict('{MODEL}', image) <> clothingtype "
               "GROUP BY hour, clothingtype")
    grouped = (f"SELECT pgrain.predict('{MODEL}', image) AS label, count(*) AS n FROM sellerdata "
               f"GROUP BY pgrain.predict('{MODEL}', image)")
    with bench.cluster.connect(bench.connection.info.dbname) as session:
        session.execute("SET client_min_messages = error")
        for what, query in (("a filter and groups", report("sellerdata")),
                            ("two groups, two aggregates", counted),
                            ("grouped by prediction", grouped)):
            plain = re.sub(r"pgrain.predict\('\w+', image\)", "md5(image)", query)
            constant = re.sub(r"pgrain.predict\('\w+', image\)", "lower('Dress')", query)
            found = split(session, query, "n too high" if " AS n" in query else "flagged too high",
                          bench.repeat)["capture"]
            without, with_it = (median(lambda q=q: session.execute(q).fetchall(), bench.repeat)
                                for q in (constant, query))
            reads = median(lambda q=plain: session.execute(q).fetchall(), max(3, bench.repeat // 3))
            took = statistics.median(found)
            bench.add(section, f"{what}, {bench.queried:,} rows", took, low=min(found),
                      high=max(found), floor=without, floor_is="the query without its model calls",
                      note=f"budget 3 × (stretch 1.5); {took / with_it:.2g} × the query itself "
                           f"({with_it:.1f} ms), {took / reads:.2g} × one that reads the pictures "
                           f"(md5, {reads:.1f} ms)")


def _unattached(bench: Bench) -> None:
    section = "complain over values that are not attached"
    say(section)
    query, a_row = report("unseen"), forward(shop_model("logistic_regression", {}))
    with bench.cluster.connect(bench.connection.info.dbname) as session:
        session.execute("SET client_min_messages = error")
        attached = median(lambda: session.execute(
            ASK, [report("sellerdata"), "flagged too high WHERE hour = 13"]).fetchall(),
            bench.repeat, 3)
        for what in ("first: every value is predicted and projected",
                     "again: the worker remembers the values"):
            first = what.startswith("first")
            found = times(lambda: session.execute(
                ASK, [query, "flagged too high WHERE hour = 13"]).fetchall(),
                1 if first else bench.repeat, warm=0)
            floor, floor_is = attached, "the same of attached values, in this section"
            if first:
                work = computing(bench, 31 * a_row * bench.queried, "ms")
                floor += work["floor"]
                floor_is += f", and {work['floor_is']}: predictions, 30 projections"
            bench.add(section, f"{bench.queried:,} values, {what}", statistics.median(found),
                      low=min(found), high=max(found), floor=floor, floor_is=floor_is)


def _first(bench: Bench, floors: dict) -> None:
    section = "The first complaint of a shape"
    say(section)
    numbers = itertools.count(-1_000_000)

    def shape() -> str:
        return report("sellerdata", f" AND id > {next(numbers)}")

    with bench.cluster.connect(bench.connection.info.dbname) as session:
        session.execute("SET client_min_messages = error")
        session.execute(ASK, [shape(), "flagged too high"]).fetchall()
        alone, asked, split_ = [], [], []
        for _ in range(max(5, bench.repeat // 3)):
            query = shape()
            began = time.perf_counter()
            session.execute(query).fetchall()
            middle = time.perf_counter()
            session.execute(ASK, [query, "flagged too high WHERE hour = 13"]).fetchall()
            alone.append(1e3 * (middle - began))
            asked.append(1e3 * (time.perf_counter() - middle))
        plan = min(times(lambda: session.execute("EXPLAIN " + shape()).fetchall(), bench.repeat))
        with wrapped(session):
            for _ in range(5):
                session.execute("SELECT public.bench_spent()").fetchone()
                session.execute(ASK, [shape(), "flagged too high WHERE hour = 13"]).fetchall()
                split_.append(json.loads(
                    session.execute("SELECT public.bench_spent()").fetchone()[0]))
        of = ", ".join(f"{name} {1e3 * statistics.median(s[name] for s in split_):.1f}"
                       for name in split_[0])
        budget, stretch = BUDGETS["first"]
        extra = [a - b for a, b in zip(asked, alone, strict=True)]
        bench.add(section, "besides running the query, session and worker warm",
                  statistics.median(extra), low=min(extra), high=max(extra),
                  floor=floors["watch"][0] + plan,
                  floor_is=f"{floors['watch'][1]}, and {plan:.2g} ms to plan a query of a new "
                           "shape (EXPLAIN)",
                  note=f"budget {budget} (stretch {stretch}); all of it "
                       f"{statistics.median(asked):.1f}, the query alone "
                       f"{statistics.median(alone):.1f}; of all {of}")
    empty = _anew(bench, "SELECT * FROM public.bench_empty(%s, %s)", lambda: ("a", "b"))
    for what, query in (("a query, its first prediction included", shape),
                        ("a watch", lambda: "bench_watch")):
        found = _anew(bench, ASK, lambda q=query: (q(), "flagged too high WHERE hour = 13"))
        bench.add(section, f"cold: a new session, connecting included: {what}",
                  statistics.median(found), low=min(found), high=max(found),
                  floor=statistics.median(empty), floor_is="a new session's first call of an empty "
                                                           "PL/Python function")


def _anew(bench: Bench, statement: str, arguments: Callable[[], tuple]) -> list[float]:
    """Milliseconds of the first statement of each of five sessions, connecting included."""
    found = []
    for _ in range(5):
        given = arguments()
        began = time.perf_counter()
        with bench.cluster.connect(bench.connection.info.dbname) as session:
            session.execute(statement, given).fetchall()
            found.append(1e3 * (time.perf_counter() - began))
    return found


def _clients(bench: Bench, floors: dict) -> None:
    section = "complain, several clients (pgbench)"
    say(section)
    cores = os.cpu_count()
    # pgbench counts the rows in the server: a client that reads them is not in the floor.
    counted = min(times(lambda: bench.run("SELECT count(*) FROM public.bench_empty('a', 'b')"),
                        bench.repeat))
    floors = {**floors, "watch": (reading(bench, 4 * TRAIN * K) + counted,
                                  f"{OF_READ}, and {counted:.2g} ms to count made-up rows")}
    for name, query, complaint in [("watch", "bench_watch", "flagged too high WHERE hour = 13"),
                                   ("ad hoc", report("sellerdata"),
                                    "flagged too high WHERE hour = 13"),
                                   ("join", shop.join(MODEL), "n too high")]:
        script = (f"SELECT count(*) FROM pgrain.complain($${query}$$, '{complaint}', "
                  f"top_k => {TOP}, options => '{{\"k\": {K}}}');\n")
        alone = None
        for clients in (1, 8):
            found, problem = pgbench(bench, script, clients)
            if not found:
                bench.skip(f"{name}, {clients} clients: {problem}")
                continue
            rate = len(found) / bench.seconds
            alone = alone or rate
            one, is_ = floors[name]
            turns = max(1, clients / cores)
            if turns > 1:
                is_ = f"one client's, {one:.2g}, by {clients} clients over {cores} cores"
            bench.add(section, f"{name}, {clients} client{'s' * (clients > 1)}",
                      statistics.median(found), low=found[0],
                      high=found[int(0.99 * (len(found) - 1))], floor=one * turns, floor_is=is_,
                      note=f"{rate:.1f} a second, {rate / alone:.2g} x one client's; the range "
                           "is to the 99th percentile")


def pgbench(bench: Bench, script: str, clients: int) -> tuple[list[float], str]:
    """Milliseconds of each transaction, sorted; else why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "complain.sql").write_text(script)
        done = subprocess.run(
            [str(bench.cluster.server.bindir / "pgbench"), "-n", "-c", str(clients),
             "-T", str(round(bench.seconds)), "-l", "-f", "complain.sql",
             bench.cluster.dsn(bench.connection.info.dbname)],
            cwd=folder, capture_output=True, text=True, check=False)
        found = sorted(int(line.split()[2]) / 1000 for log in Path(folder).glob("pgbench_log*")
                       for line in log.read_text().splitlines())
    if done.returncode:
        return [], (done.stderr or "no transaction").splitlines()[-1]
    return found, "no transaction"
