"""Provenance of TPC-H-like queries with predictions: what it costs beside the queries themselves.

    .local/venv/bin/python benchmarks/tpch_provenance.py [--scale 0.05] [--repeat 5]
                                                         [--write docs/benchmarks-provenance.md]

A private cluster in a folder of its own is made, filled (`tpch_tables.sql`), and removed. Two
models (logistic regression) are trained through SQL; lineitem and customer are attached. For each
query, medians of wall times over one connection:

query      the query itself, with its model calls
without    the same without its model calls: a label that costs nothing where they stand
plain      the same on stored columns, of which predictions are the model's version
capture    the capture's SQL, fetched: by digests, and by tuple stamps where the query allows them
complain   `SELECT * FROM pgrain.complain(...)`, 100 rows; its first call also verifies
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version as version_of
from pathlib import Path

import psycopg
from tpch_queries import QUESTIONS, Question

from pgrain.cli.background import WorkerProcess
from pgrain.cli.cluster import Cluster
from pgrain.cli.install import find_server, install
from pgrain.cli.place import prepare, server_account
from pgrain.provenance.compile import ModelFacts, compile
from pgrain.provenance.probes import ProbeResult, Probes, spelled

TABLES = Path(__file__).with_name("tpch_tables.sql")
MODELS = """
SELECT pgrain.create_model('item', 'item_train', 'id', '{x}', 'label', 'logistic_regression');
SELECT pgrain.create_model('customer', 'customer_train', 'id', '{x}', 'label',
                           'logistic_regression');
CALL pgrain.train('item'); CALL pgrain.train('customer');
CALL pgrain.precompute('item'); CALL pgrain.precompute('customer');
CALL pgrain.attach('item', 'lineitem'); CALL pgrain.attach('customer', 'customer')
"""


@contextlib.contextmanager
def filled_database(scale: float) -> Iterator[psycopg.Connection]:
    """A connection to a database with tables, models and a worker; all of it goes afterwards."""
    server, account = find_server(), server_account()
    install(server)
    place = Path(tempfile.mkdtemp(prefix="pgrain-", dir="/tmp"))
    prepare(place, account)
    cluster = Cluster(place, server=server, account=account, settings={
        "fsync": "off", "shared_buffers": "1GB", "work_mem": "128MB",
        # predict is parallel unsafe; what it is compared with shall have one process, too.
        "max_parallel_workers_per_gather": "0"})
    worker = None
    try:
        cluster.start()
        cluster.ensure_database("tpch")
        worker = WorkerProcess(cluster, "tpch")
        worker.start()
        with cluster.connect("tpch") as connection:
            # One at a time: VACUUM cannot run beside other statements.
            for statement in TABLES.read_text().replace("{scale}", str(scale)).split(";\n"):
                connection.execute(statement.encode())
            for statement in MODELS.split(";"):
                began = time.perf_counter()
                connection.execute(statement.encode())
                say(f"{' '.join(statement.split())[:70]}  {time.perf_counter() - began:.1f} s")
            yield connection
    finally:
        if worker:
            worker.stop()
        cluster.stop("immediate")
        shutil.rmtree(place, ignore_errors=True)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def median_ms(run: Callable[[], object], repeat: int) -> float:
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def capture_of(connection: psycopg.Connection, query: str):
    """Compiled as the worker does it, its questions answered here."""
    explain = connection.execute(
        b"EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) " + query.encode()).fetchone()[0]
    models, probes = {}, {}
    for _ in range(12):
        step = compile(query, explain, models, probes)
        if not isinstance(step, Probes):
            return step
        for name in step.models:
            row = connection.execute("SELECT version, classes FROM pgrain.models WHERE model = %s",
                                     [name]).fetchone()
            models[name] = ModelFacts(name, *row, "float8", ["x"])
        for name, text in step.sql.items():
            cursor = connection.execute(spelled(text).encode())
            probes[name] = ProbeResult([c.name for c in cursor.description],
                                       [c.type_code for c in cursor.description],
                                       [list(row) for row in cursor.fetchall()])
    raise AssertionError("compile asks too often")


def run_capture(connection: psycopg.Connection, text: str, secret: bytes | None) -> int:
    """Runs it and fetches everything, binary; bytes that came."""
    given = [] if secret is None else [secret]
    result = connection.pgconn.exec_params(text.encode(), given, [17] * len(given),
                                           [1] * len(given), 1)
    if result.ntuples == 0:
        raise RuntimeError(result.error_message.decode())
    return sum(len(result.get_value(i, j) or b"") for i in range(result.ntuples)
               for j in range(result.nfields))


def measure(connection: psycopg.Connection, question: Question, repeat: int) -> dict:
    """Milliseconds of everything about one question; `error` where a step fails."""
    def fetch(text: str):
        return lambda: connection.execute(text.encode()).fetchall()

    found: dict = {"name": question.name, "what": question.what}
    found["rows"] = len(fetch(question.query)())
    found["query"] = median_ms(fetch(question.query), repeat)
    fetch(question.without)()
    found["without"] = median_ms(fetch(question.without), repeat)
    fetch(question.plain)()
    found["plain"] = median_ms(fetch(question.plain), repeat)
    secret = connection.execute("SELECT secret FROM pgrain.installation").fetchone()[0]
    try:
        capture = capture_of(connection, question.query)
        # As the backend runs it.
        connection.execute("SET plan_cache_mode = force_generic_plan")
        connection.execute("SELECT set_config('enable_nestloop', %s, false)",
                           ["on" if capture.nested_loops else "off"])
        found["bytes"] = run_capture(connection, capture.sql, secret)
        found["digests"] = median_ms(lambda: run_capture(connection, capture.sql, secret), repeat)
        if stamped := getattr(capture, "stamped_sql", None):
            run_capture(connection, stamped, None)
            found["stamps"] = median_ms(lambda: run_capture(connection, stamped, None), repeat)
        connection.execute("RESET enable_nestloop; RESET plan_cache_mode")
        complain = ("SELECT * FROM pgrain.complain(%s, %s)", [question.query, question.complaint])
        first = median_ms(lambda: connection.execute(*complain).fetchall(), 1)
        found["first"] = first
        found["complain"] = median_ms(lambda: connection.execute(*complain).fetchall(), repeat)
        found["variables"] = connection.execute(
            "SELECT max(variables) FROM pgrain.provenance(%s)", [question.query]).fetchone()[0]
    except Exception as error:
        connection.execute("RESET enable_nestloop; RESET plan_cache_mode")
        found["error"] = str(error).split("\n")[0]
    return found


def cell(found: dict, name: str) -> str:
    value = found.get(name)
    return "" if value is None else f"{value:,.0f}" if isinstance(value, (int, float)) else value


def report(results: list[dict], questions: list[Question], facts: list[str]) -> str:
    """The page, as Markdown."""
    lines = ["# Provenance of TPC-H-like queries", "", *facts, "",
             "| query | | rows | without | plain | query | capture by digests | by stamps | MB |"
             " capture / without | / plain | complain | its first call | variables of a cell |",
             "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for found in results:
        captures = [found[name] for name in ("digests", "stamps") if name in found]
        ratios = [f"{min(captures) / found[name]:.1f}" if captures else ""
                  for name in ("without", "plain")]
        size = f"{found['bytes'] / 1e6:.1f}" if captures else ""
        lines.append(f"| {found['name']} | {found['what']} | {cell(found, 'rows')} | "
                     + " | ".join([cell(found, name) for name in
                                   ("without", "plain", "query", "digests", "stamps")]
                                  + [size, *ratios]
                                  + [cell(found, name)
                                     for name in ("complain", "first", "variables")]) + " |")
    lines += [f"\n{found['name']} failed: {found['error']}" for found in results
              if "error" in found]
    lines += ["", "## The queries", ""]
    for question in questions:
        lines += [f"{question.name}, {question.what}; complaint: `{question.complaint}`", "",
                  "```sql", question.query, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def machine(connection: psycopg.Connection, options) -> list[str]:
    """Hardware, versions, sizes, and what the columns mean."""
    with contextlib.suppress(OSError):
        cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                    if line.startswith("model name")), platform.machine())
    server = connection.execute("SHOW server_version").fetchone()[0].split(" ")[0]
    items, customers = connection.execute(
        "SELECT (SELECT count(*) FROM lineitem), (SELECT count(*) FROM customer)").fetchone()
    return [
        f"Written by `benchmarks/tpch_provenance.py --scale {options.scale}`. {cpu}, "
        f"{os.cpu_count()} cores, no GPU; PostgreSQL {server}, Python "
        f"{platform.python_version()}, numpy {version_of('numpy')}. {items:,} rows of lineitem, "
        f"{customers:,} of customer, attached; logistic regressions on 4,000 and 2,000 rows.",
        "",
        f"Milliseconds, medians of {options.repeat}, one process of PostgreSQL. `without` is the "
        "query without its model calls (a constant label stands for each, so that no row is lost); "
        "`plain` is the query on stored columns in place of predictions, which filter before a "
        "join; `query` is the query itself. The capture is its SQL, run and fetched (MB by "
        "digests; the ratios are of the quicker one); `complain` is the whole of it through SQL "
        "(100 rows), its first call verification included."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scale", type=float, default=0.05)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", help="names of queries, with commas between them")
    parser.add_argument("--write", type=Path, help="a file for the page; else it is printed")
    options = parser.parse_args()
    chosen = [q for q in QUESTIONS if not options.only or q.name in options.only.split(",")]
    results = []
    with filled_database(options.scale) as connection:
        facts = machine(connection, options)
        for question in chosen:
            results.append(measure(connection, question, options.repeat))
            say(str(results[-1]))
    page = report(results, chosen, facts)
    if options.write:
        options.write.write_text(page)
    else:
        print(page, end="")


if __name__ == "__main__":
    main()
