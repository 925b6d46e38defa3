"""What a watch costs: to who changes the table, to the worker, to who complains.

    .local/venv/bin/python benchmarks/watches.py [--rows 10000 100000 1000000] [--train 60000]
                                                 [--write docs/benchmarks-watches.md]

A private cluster in a folder of its own is made and removed. A logistic regression of 20 features
and 10 classes, k = 20 of 30 stored pairs. For tables of each size, over one connection:

insert          INSERT of 1 000 rows without a watch / with one: what the note adds
seen            complain on the watch right after, its note not folded: new values are predicted
folded          from the end of the INSERT until the note is in the state (the worker looks ten
                times a second)
complain        on the watch: without and with WHERE; and of the query itself, in the same run
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

from pgrain.demo.timing import private_server, say

ROW = """(SELECT array_agg(sin(i * (j + 3.7) * {a}) + CASE WHEN i % 10 = j THEN 1.2 ELSE 0 END)
          FROM generate_series(0, 19) AS j)"""
QUERY = ("SELECT hour, count(*) AS flagged FROM {} WHERE pgrain.predict('m', x) <> claim "
         "GROUP BY hour")


def timed(connection, statement: str, parameters=None) -> float:
    """Milliseconds of one statement."""
    began = time.perf_counter()
    connection.execute(statement, parameters).fetchall() if statement.startswith("SELECT") \
        else connection.execute(statement, parameters)
    return (time.perf_counter() - began) * 1e3


def medians(connection, statements: dict[str, tuple], repeat: int) -> dict[str, dict]:
    """Medians and least of each, taken in turns so that all meet the same neighbours."""
    times: dict[str, list] = {name: [] for name in statements}
    for statement in statements.values():
        timed(connection, *statement)
        timed(connection, *statement)
    for _ in range(repeat):
        for name, statement in statements.items():
            times[name].append(timed(connection, *statement))
    return {name: {"median": statistics.median(t), "least": min(t)} for name, t in times.items()}


def fill(connection, train: int) -> None:
    connection.execute("CREATE TABLE train AS SELECT i AS id, " + ROW.format(a=0.618)
                       + " AS x, (i % 10)::text AS label FROM generate_series(1, "
                       + str(train) + ") AS i")
    connection.execute("UPDATE train SET label = '3' WHERE label = '7' AND id % 3 = 0")
    connection.execute("SELECT pgrain.create_model('m', 'train', 'id', '{x}', 'label', "
                       "'logistic_regression')")
    for statement in ("CALL pgrain.train('m')", "CALL pgrain.precompute('m')"):
        say(f"{statement} {timed(connection, statement) / 1e3:.1f} s")


def insert(table: str, start: int, rows: int) -> str:
    return (f"INSERT INTO {table} SELECT i, {ROW.format(a=0.414)}, (i % 9)::text, i % 24 "
            f"FROM generate_series({start}, {start + rows - 1}) AS i")


def fill_stock(connection, table: str, rows: int) -> None:
    """Rows of 10 000 different values: a prediction belongs to a value, not to a row."""
    connection.execute(insert(table, 1, min(rows, 10_000)))
    if rows > 10_000:
        connection.execute(f"INSERT INTO {table} SELECT n * 10000 + id, x, claim, (hour + n) % 24 "
                           f"FROM {table}, generate_series(1, {rows // 10_000 - 1}) AS n")


def one_size(connection, rows: int, repeat: int) -> dict:
    table, plain = f"stock_{rows}", f"plain_{rows}"
    result: dict = {"rows": rows}
    for name in (table, plain):
        connection.execute(f"CREATE TABLE {name} (id bigint, x float8[], claim text, hour int)")
    fill_stock(connection, table, rows)
    connection.execute(f"INSERT INTO {plain} SELECT * FROM {table}")
    connection.execute(f"VACUUM ANALYZE {table}")
    result["attach_s"] = timed(connection, f"CALL pgrain.attach('m', '{table}')") / 1e3
    result["build_s"] = timed(connection, "CALL pgrain.watch(%s, %s)",
                              (table, QUERY.format(table))) / 1e3
    start = 10 * rows
    noted, unnoted, seen, folded = [], [], [], []
    ranked = ("SELECT * FROM pgrain.complain(%s, 'flagged too high WHERE hour = 13', 100, "
              "'delete', '{\"k\": 20}')", (table,))
    for number in range(repeat + 1):
        first = timed(connection, insert(plain, start, 1000))
        second = timed(connection, insert(table, start, 1000))
        began = time.perf_counter()
        third = timed(connection, *ranked)
        while connection.execute("SELECT count(*) FROM pgrain.watch_note").fetchone()[0]:
            time.sleep(0.005)
        if number:     # the first one warms up
            unnoted.append(first)
            noted.append(second)
            seen.append(third)
            folded.append((time.perf_counter() - began) * 1e3)
        start += 1000
    result |= {name: statistics.median(times) for name, times in (
        ("insert_ms", unnoted), ("insert_noted_ms", noted), ("seen_ms", seen),
        ("folded_ms", folded))}
    result["one_row_ms"] = medians(connection, {
        "plain": (insert(plain, start, 1),), "noted": (insert(table, start, 1),)}, 20)
    while connection.execute("SELECT count(*) FROM pgrain.watch_note").fetchone()[0]:
        time.sleep(0.05)
    for_watch = "SELECT * FROM pgrain.complain(%s, %s, 100, 'delete', '{\"k\": 20}')"
    statements = {"a view": ("SELECT * FROM pgrain.watches WHERE false",),
                  "watch": (for_watch, (table, "flagged too high")),
                  "watch, WHERE": (for_watch, (table, "flagged too high WHERE hour = 13"))}
    if rows <= 100_000:
        statements["query"] = (for_watch, (QUERY.format(table), "flagged too high"))
        statements["query, WHERE"] = (for_watch, (QUERY.format(table),
                                                  "flagged too high WHERE hour = 13"))
    result["complain_ms"] = medians(connection, statements, repeat=60 if rows <= 10_000 else 20)
    connection.execute("SELECT pgrain.unwatch(%s)", [table])
    say(json.dumps(result))
    return result


def report(results: list[dict], train: int) -> str:
    lines = ["# What a watch costs", "",
             f"`benchmarks/watches.py`, {os.cpu_count()} cores, {platform.machine()}, load "
             f"{os.getloadavg()[0]:.1f} while measuring, {train} training rows, k = 20. "
             "Milliseconds, medians; tables of different size have the same watched query, a count "
             "by 24 hours. The load makes wall times of everything here several times longer "
             "than on a quiet machine; compare within a column.", "",
             "| rows of the table | " + " | ".join(f"{r['rows']:,}" for r in results) + " |",
             "|---|" + "---|" * len(results)]
    for title, get in (
            ("first state (s)", lambda r: f"{r['build_s']:.2f}"),
            ("INSERT of 1 000 rows, no watch", lambda r: f"{r['insert_ms']:.0f}"),
            ("the same, watched", lambda r: f"{r['insert_noted_ms']:.0f}"),
            ("complain right after, note not folded", lambda r: f"{r['seen_ms']:.0f}"),
            ("until it is folded", lambda r: f"{r['folded_ms']:.0f}"),
            ("INSERT of a row, no watch", lambda r: f"{r['one_row_ms']['plain']['median']:.2f}"),
            ("the same, watched", lambda r: f"{r['one_row_ms']['noted']['median']:.2f}")):
        lines.append(f"| {title} | " + " | ".join(get(r) for r in results) + " |")
    names = list(results[0]["complain_ms"])
    for name in names:
        cells = [r["complain_ms"].get(name) for r in results]
        lines.append(f"| complain: {name} (median; least) | " + " | ".join(
            "" if c is None else f"{c['median']:.2f}; {c['least']:.2f}" for c in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--train", type=int, default=60_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    settings = {"fsync": "off", "shared_buffers": "1GB", "work_mem": "128MB"}
    with private_server("bench", settings) as (_, _, connection):
        connection.execute("SET client_min_messages = error")
        connection.execute("CREATE EXTENSION IF NOT EXISTS pgrain CASCADE")
        fill(connection, options.train)
        results = [one_size(connection, rows, options.repeat) for rows in options.rows]
    text = report(results, options.train)
    print(text)
    if options.write:
        options.write.write_text(text)
        options.write.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
