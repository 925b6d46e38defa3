"""Memory by operations: what a worker and a session hold after many of one kind.

    .local/venv/bin/python benchmarks/flat_memory.py [--only cycles shapes] [--scale 1]
                                   [--minutes 10] [--write docs/benchmarks-memory.md]

`make load` measures by minutes, of many sessions at once; here one session does one thing over and
over, each part on a server of its own, until every cache has met its bound. Parts that are not
measured stay on the page as they are.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench_common import machine, say
from bench_memory import memory
from load import DATABASE, MIX, SCRIPTS, Load

from pgrain.demo.timing import private_server

REPORT = ("SELECT hour, count(*) AS reds FROM items WHERE pgrain.predict('{}', x) = 'red' "
          "GROUP BY hour")
SAMPLES = 20
NOTES = " ".join([
    "A worker keeps what it needs of the last 8 versions and the plans of the last 256 queries, a",
    "session those of its last 64 queries. One that asks about one model keeps 16 MiB of values",
    "that it has met, 8 of predictions that are not stored and some 4 of 20,000 stored ones that",
    "came since it mapped the others; with what Python's allocator keeps beside these it went up",
    "and down between 43 and 49 MB while 1.2 million new values came (`stored`). Each further",
    "model may take as much again (at most 16 of them), each of the last 64 queries of another",
    "shape half a megabyte (`shapes`)."])
REST_SECONDS = 25       # the worker gives free pages back every 20 s


@dataclass
class Part:
    """One kind of operation: (operations so far, MB of the worker, MB of the session), private."""

    name: str
    what: str
    points: list[tuple[int, float, float]] = field(default_factory=list)


def cycles(run) -> Iterator[None]:
    """a training, a spectrum, three complaints, an earlier version, a complaint"""
    ask = f"SELECT count(*) FROM pgrain.complain($q${REPORT.format('moving')}$q$, %s, 10)"
    for number in range(10**9):
        run("SELECT pgrain.apply('moving', ARRAY[%s::text], 'relabel:blue')", 1 + number % 300)
        run("CALL pgrain.train('moving')")
        run("CALL pgrain.precompute('moving')")
        for hour in range(3):
            run(ask, f"reds too high WHERE hour = {hour}")
        run("SELECT pgrain.activate('moving', max(version)) FROM pgrain.versions "
            "WHERE model = 'moving' AND ready AND NOT active")
        run(ask, "reds too high WHERE hour = 1")
        run("SELECT pgrain.revert('moving')")
        yield


def complaints(run) -> Iterator[None]:
    """a complaint about one query, every third in words of its own"""
    ask = f"SELECT count(*) FROM pgrain.complain($q${REPORT.format('steady')}$q$, %s, 10)"
    for number in range(10**9):
        run(ask, f"reds too high WHERE hour = {number % 24}" if number % 3 else f"reds = {number}")
        yield


def shapes(run) -> Iterator[None]:
    """a complaint about a query of another shape"""
    for number in range(10**9):
        run("SELECT count(*) FROM pgrain.complain(%s, 'reds too high', 10)",
            f"SELECT hour + {number} AS h{number}, count(*) AS reds, sum(id) AS s{number} "
            f"FROM items WHERE pgrain.predict('steady', x) = 'red' AND id > {number % 50} "
            f"GROUP BY hour + {number}")
        yield


def values(run) -> Iterator[None]:
    """predictions of a hundred values that nobody has met"""
    for number in range(10**9):
        run("SELECT count(pgrain.predict('steady', value(%s * 1000003::bigint + i))) "
            "FROM generate_series(1, 100) AS i", number)
        yield


def watch(run) -> Iterator[None]:
    """a hundred rows into a watched and attached table, a hundred out, a look at the watch"""
    for number in range(10**9):
        run("INSERT INTO stream (x, hour) SELECT value(%s * 7919::bigint + i), i %% 24 "
            "FROM generate_series(1, 100) AS i", number)
        run("DELETE FROM stream WHERE id IN (SELECT id FROM stream ORDER BY id LIMIT 100)")
        if number % 4 == 0:
            run("SELECT count(*) FROM pgrain.complain('reds', 'reds too high', 10)")
        yield


def mix(run) -> Iterator[None]:
    """ten of what `make load` asks, by its weights; every 20th time a model is trained, too"""
    drawn = random.Random(1)
    kinds = {"predict": ("predict", 47), "predict_new": ("predict new values", 1_000_000),
             "complain": ("complain", 47), "complain_watch": ("complain on the watch", 47),
             "watch": ("watch against query", 0)}
    writes = {name: re.sub(r"^\\.*\n", "", (SCRIPTS / f"{name}.sql").read_text(), flags=re.M)
              for name in ("insert", "delete")}
    for number in range(10**9):
        for name in drawn.choices(list(MIX), list(MIX.values()), k=10):
            if name in writes:
                run(writes[name].replace(":n", str(drawn.randint(1, 10**9))))
            else:
                kind, most = kinds[name]
                question = drawn.randint(0, most)
                run("SELECT ask(%s, %s, statement_of(%s, %s))", kind, question, kind, question)
        if number % 20 == 19:
            run("SELECT pgrain.apply('moving', ARRAY[%s::text], 'relabel:blue')",
                str(1 + number % 300))
            run("CALL pgrain.train('moving')")
            run("CALL pgrain.precompute('moving')")
            run("SELECT pgrain.revert('moving')")
        yield


def stored(run) -> Iterator[None]:
    """a thousand rows into an attached table, a thousand out, predictions of all that are in it"""
    for number in range(10**9):
        run("INSERT INTO stream (x, hour) SELECT value(%s * 7919::bigint + i), i %% 24 "
            "FROM generate_series(1, 1000) AS i", number)
        run("DELETE FROM stream WHERE id IN (SELECT id FROM stream ORDER BY id LIMIT 1000)")
        run("SELECT count(pgrain.predict('steady', x)) FROM stream")
        yield


# Part -> how many operations.
PARTS = {cycles: 100, complaints: 20_000, shapes: 600, values: 1500, watch: 2000, mix: 1500,
         stored: 1200}


def measure(part, operations: int, minutes: float) -> Part:
    """One part on a server of its own; fewer operations where they take longer than `minutes`."""
    found = Part(part.__name__, part.__doc__)
    with private_server(DATABASE, {"fsync": "off", "shared_buffers": "64MB"}) as server:
        cluster, worker, session = server
        Load(cluster, worker, DATABASE, rows=400, heavy=100).prepare()

        def run(sql: str, *arguments) -> None:
            cursor = session.execute(sql, arguments or None)
            if cursor.description:
                cursor.fetchall()

        def look(done: int) -> None:
            point = (done, *(memory(pid, "RssAnon")
                             for pid in (worker.pid, session.info.backend_pid)))
            found.points.append(point)
            say(f"  {found.name}: {point[0]} operations, worker {point[1]:.1f} MB, "
                f"session {point[2]:.1f} MB")

        work = part(run)
        until = time.monotonic() + 60 * minutes
        for done in range(1, operations + 1):
            next(work)
            if time.monotonic() > until:
                break
            if done % max(1, operations // SAMPLES) == 0:
                look(done)
        time.sleep(REST_SECONDS)
        look(done)
    return found


def section(part: Part, facts: dict) -> str:
    """What the page says of one part."""
    count = len(part.points) - 1
    at = sorted({0, count // 4, count // 2, 3 * count // 4, count - 1})
    lines = [f"Each operation: {part.what}.", "",
             "| operations | " + " | ".join(f"{part.points[i][0]:,}" for i in at) + " | rest |",
             "|---|" + "---|" * (len(at) + 1)]
    for name, column in (("worker", 1), ("session", 2)):
        lines.append(f"| {name} | " + " | ".join(
            f"{part.points[i][column]:.1f}" for i in (*at, count)) + " |")
    return "\n".join([*lines, "", f"{facts['cores']} cores, PostgreSQL {facts['postgresql']}, "
                      f"commit {facts['commit']}, load {facts['load'][0]} at the end."])


def page(sections: dict[str, str]) -> str:
    """docs/benchmarks-memory.md."""
    lines = ["# Memory by operations", "", "`benchmarks/flat_memory.py` wrote this page.", "",
             "One session does one thing over and over. MB of private memory (RssAnon) of the "
             "worker and of the session's backend; *rest*: 25 s after the last operation.", ""]
    for part in PARTS:
        if part.__name__ in sections:
            lines += [f"## {part.__name__}", "", sections[part.__name__], ""]
    return "\n".join([*lines, "## Bounds", "", NOTES, ""])


def written(path: Path | None) -> dict[str, str]:
    """The sections of a page that was written before."""
    if path is None or not path.exists():
        return {}
    parts = re.split(r"^## (\w+)\n", path.read_text(), flags=re.M)[1:]
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = {part.__name__: part for part in PARTS}
    parser.add_argument("--only", nargs="*", choices=names)
    parser.add_argument("--scale", type=float, default=1.0, help="times as many operations")
    parser.add_argument("--minutes", type=float, default=10.0, help="at most, for each part")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    sections = written(given.write)
    for part, operations in PARTS.items():
        if not given.only or part.__name__ in given.only:
            found = measure(part, max(SAMPLES, round(given.scale * operations)), given.minutes)
            sections[part.__name__] = section(found, machine())
    text = page(sections)
    if given.write:
        given.write.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
