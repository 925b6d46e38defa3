"""When does pgvector pay? Its exact scan, IVFFlat and HNSW beside exact scoring, in PostgreSQL.

    .local/venv/bin/python benchmarks/index_pgvector.py --dsn "host=… dbname=…"
                   [--rows 100000,1000000] [--queries 20] [--write docs/benchmarks-index.md]

The vectors and queries are those of `index_study.py`, in a table of their own (`index_vectors`,
made anew and dropped) of a database whose server has the extension vector (Debian 13's package
postgresql-17-pgvector). A query is `ORDER BY v <#> … LIMIT 100` through psycopg, binary, prepared;
exact scoring is pgrain's, in process, so the difference includes a round trip (well below 0.1 ms).
"""

from __future__ import annotations

import argparse
import os
import statistics
import struct
import sys
import time
from pathlib import Path

import numpy as np
import psycopg
from index_vectors import TOP, K, parts, queries, recall

from pgrain.influence.blocks import ProjectionBlocks
from pgrain.influence.top_k import least_k

HEADING, NEXT = "## pgvector", "## What this says"
SEARCH = f"SELECT id FROM index_vectors ORDER BY v <#> %t::vector LIMIT {TOP}"


def filled(connection: psycopg.Connection, n: int, uneven: bool) -> np.ndarray:
    """The table with n vectors; these."""
    connection.execute("DROP TABLE IF EXISTS index_vectors")
    connection.execute(f"CREATE UNLOGGED TABLE index_vectors (id integer, v vector({K}))")
    made = np.concatenate(list(parts(n, uneven)))
    big = made.astype(">f4")
    # Rows of COPY's binary form: two fields, the number and (dimensions, unused, numbers).
    row = np.zeros(n, [("fields", ">i2"), ("size", ">i4"), ("id", ">i4"), ("bytes", ">i4"),
                       ("dim", ">i2"), ("unused", ">i2"), ("v", ">f4", K)])
    row["fields"], row["size"], row["id"] = 2, 4, np.arange(n)
    row["bytes"], row["dim"], row["v"] = 4 + 4 * K, K, big
    with connection.cursor().copy("COPY index_vectors FROM STDIN (FORMAT binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0))
        for start in range(0, n, 100_000):
            copy.write(row[start:start + 100_000].tobytes())
        copy.write(struct.pack("!h", -1))
    connection.execute("VACUUM ANALYZE index_vectors")
    return made


def timed(search, asked: np.ndarray) -> tuple[list[float], list[np.ndarray]]:
    """(milliseconds, rows) of each query."""
    search(asked[0])
    wall, found = [], []
    for query in asked:
        began = time.perf_counter()
        found.append(search(query))
        wall.append(1e3 * (time.perf_counter() - began))
    return wall, found


def study(connection: psycopg.Connection, n: int, uneven: bool, count: int) -> list[list]:
    """Rows of the table: [way, build s, MB, least ms, median ms, recall]."""
    made, asked = filled(connection, n, uneven), queries(n, count)
    rows: list[list] = []
    truth: list[np.ndarray] = []

    def add(way: str, build: float, size: int, search) -> None:
        wall, found = timed(search, asked)
        if not truth:
            truth.extend(found)
        rows.append([way, build, size / 1e6, min(wall), statistics.median(wall),
                     recall(found, truth)])
        print(n, "uneven" if uneven else "even", rows[-1], file=sys.stderr, flush=True)

    def search(query: np.ndarray) -> np.ndarray:
        value = str(query.tolist())
        return np.array([row[0] for row in connection.execute(SEARCH, [value], prepare=True,
                                                              binary=True)])

    def size(name: str) -> int:
        return connection.execute("SELECT pg_relation_size(%s)", [name]).fetchone()[0]

    began = time.perf_counter()
    blocks = ProjectionBlocks(made)
    add("pgrain: exact, blocks, in process", time.perf_counter() - began, blocks.nbytes,
        lambda query: least_k(blocks.least(-query), TOP))
    add("pgvector: no index", 0.0, size("index_vectors"), search)
    lists = max(10, round(n / 1000))
    for kind, options, setting, values in (
            ("ivfflat", f"lists = {lists}", "ivfflat.probes",
             [max(1, round(lists * share)) for share in (0.01, 0.05, 0.2)]),
            ("hnsw", "m = 16, ef_construction = 64", "hnsw.ef_search", [128, 1000])):
        began = time.perf_counter()
        connection.execute(f"CREATE INDEX index_vectors_{kind} ON index_vectors USING {kind} "
                           f"(v vector_ip_ops) WITH ({options})")
        took = time.perf_counter() - began
        for value in values:
            connection.execute(f"SET {setting} = {value}")
            what = f"{value} of {lists} lists read" if kind == "ivfflat" else f"ef_search {value}"
            add(f"pgvector: {kind}, {what}", took, size(f"index_vectors_{kind}"), search)
        connection.execute(f"DROP INDEX index_vectors_{kind}")
    connection.execute("DROP TABLE index_vectors")
    return rows


def section(connection: psycopg.Connection, runs: dict[str, list], count: int, load) -> str:
    version, server = connection.execute(
        "SELECT extversion, current_setting('server_version') FROM pg_extension "
        "WHERE extname = 'vector'").fetchone()
    lines = [HEADING, "",
             f"`benchmarks/index_pgvector.py`: pgvector {version} in PostgreSQL "
             f"{server.split(' ')[0]}, {len(os.sched_getaffinity(0))} cores; {count} queries of "
             f"{TOP} rows; load {load[0]:.0f} before, {load[1]:.0f} after. MB of a way without an "
             "index: of the array, or the table; else of the index beside the table.", ""]
    for name, rows in runs.items():
        n, shape = name.split()
        lines += [f"{int(n):,} vectors, {shape}:", "",
                  "| | build s | MB | least ms | median ms | recall |", "|---|---|---|---|---|---|"]
        lines += [f"| {way} | {build:.1f} | {size:,.0f} | {least:.2f} | {median:.2f} "
                  f"| {share:.3f} |" for way, build, size, least, median, share in rows]
        lines.append("")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--rows", default="100000,1000000")
    parser.add_argument("--shapes", default="even,uneven")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--write", type=Path, help="the page whose section this is")
    options = parser.parse_args()
    with psycopg.connect(options.dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute("SET maintenance_work_mem = '2GB'; SET jit = off")
        load = [os.getloadavg()[0]]
        runs = {f"{n} {shape}": study(connection, int(n), shape == "uneven", options.queries)
                for n in options.rows.split(",") for shape in options.shapes.split(",")}
        text = section(connection, runs, options.queries, [*load, os.getloadavg()[0]])
    if options.write is None:
        print(text, end="")
        return
    page = options.write.read_text()
    end = page.index(NEXT)
    begin = page.index(HEADING) if HEADING in page else end
    options.write.write_text(page[:begin] + text + "\n" + page[end:])


if __name__ == "__main__":
    main()
