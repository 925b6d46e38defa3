"""Many sessions at once: what they are told, how long it takes, what it costs in memory.

    .local/venv/bin/python benchmarks/load.py [--clients 64] [--seconds 600] [--rows 2000]
                                              [--heavy 20000] [--write docs/benchmarks-load.md]

pgbench drives the scripts in load/: predictions (stored and new values), complaints about a table
and on a watch, insertions and deletions in the watched, attached table; one session edits, trains,
precomputes and activates a model meanwhile, one has jobs done that take long. Every answer is
written down. Afterwards the same questions are asked one at a time, of the same versions, and the
answers must be the same. A private cluster in a folder of its own is made and removed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import statistics
import subprocess
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from bench_common import machine, say
from bench_memory import memory_kib

from pgrain.cli.background import WorkerProcess
from pgrain.cli.cluster import Cluster
from pgrain.demo.timing import private_server

SCRIPTS = Path(__file__).parent / "load"
DATABASE = "load"
# Script -> weight, of what the many sessions do.
MIX = {"predict": 8, "predict_new": 4, "complain": 6, "complain_watch": 3, "watch": 1, "insert": 6,
       "delete": 6}
HALF_SECOND = 0.5
LOOKED_INTO = """\
Looked into every 11 s in two other runs (24 sessions for 270 and 330 s, 16 and 20 versions of
one model): resident memory went by -1.1 and +8.1 MiB a minute over the second half, up and down
by 30 MiB as jobs came and went. What malloc had given out did not grow: 248 MiB after 132 s,
250 after 265 s, 251 after 298 s with a job under way, 199 to 203 without; 197 after the load,
176 a minute after its beginning. Of the 302 MiB that it had from the system in the end a third
was free. Versions in memory: 8 and those of the job; compiled programs: 56 to 58; Python
objects: 265 to 276 thousand, the fewest at the end. What fills does so up to a bound: circuits
(32), values of rows that were changed (up to 8 MiB a version, then from 0 again), values that
are not stored (4 MiB of 64), plans (20 of 256)."""
SAME = 1e-3   # of scores, relative to the largest: float32 sums in another order


@dataclass
class Load:
    """One run: how it is set, and what was found.

    memory: (seconds, resident KiB of the worker, anonymous KiB of each backend). pgbench: exit
    status, standard output and error of each process.
    """

    cluster: Cluster
    worker: WorkerProcess
    database: str
    clients: int = 64
    seconds: float = 600
    rows: int = 2000
    heavy: int = 20_000
    memory: list[tuple[float, int, list[int]]] = field(default_factory=list)
    pgbench: list[tuple[int, str, str]] = field(default_factory=list)

    def prepare(self) -> None:
        """Tables, models, attached relations, the watch."""
        script = self.cluster.server.program("psql")
        subprocess.run([script, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"rows={self.rows}",
                        "-v", f"heavy={self.heavy}", "-f", "-",
                        self.cluster.dsn(self.database)], check=True, capture_output=True,
                       text=True, input=(SCRIPTS / "tables.sql").read_text())
        with self.cluster.connect(self.database) as connection:
            for model in ("steady", "moving"):
                connection.execute("SELECT pgrain.create_model(%s, 'train', 'id', '{x}', 'label', "
                                   "'logistic_regression')", [model])
                connection.execute("CALL pgrain.train(%s)", [model])
                connection.execute("CALL pgrain.precompute(%s)", [model])
                connection.execute("CALL pgrain.attach(%s, 'items')", [model])
            connection.execute("CALL pgrain.attach('steady', 'stream')")
            connection.execute("""CALL pgrain.watch('reds', $$ SELECT hour, count(*) AS reds
                FROM stream WHERE pgrain.predict('steady', x) = 'red' GROUP BY hour $$)""")
            connection.execute("""SELECT pgrain.create_model('heavy', 'heavy', 'id', '{x}', 'label',
                'mlp', '{"hidden": [128], "epochs": 20}')""")

    def run(self) -> None:
        """The load itself."""
        mix = [part for name, weight in MIX.items()
               for part in ("-f", f"{SCRIPTS / name}.sql@{weight}")]
        plans = [("many", self.clients - 2, mix), ("retrain", 1, ["-f", str(SCRIPTS /
                 "retrain.sql")]), ("long", 1, ["-f", str(SCRIPTS / "long.sql")])]
        over = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(over,))
        running = []
        sampler.start()
        for _, clients, scripts in plans:
            running.append(subprocess.Popen(
                [self.cluster.server.program("pgbench"), "-n", "-c", str(clients), "-j",
                 str(min(clients, 2)), "-T", str(round(self.seconds)), *scripts,
                 self.cluster.dsn(self.database)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        for process in running:
            out, err = process.communicate()
            self.pgbench.append((process.returncode, out, err))
        over.set()
        sampler.join()

    def _sample(self, over: threading.Event) -> None:
        began = time.monotonic()
        with self.cluster.connect(self.database) as connection:
            while not over.is_set():
                backends = [row[0] for row in connection.execute(
                    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
                    "AND application_name = 'pgbench'")]
                sizes = [size for pid in backends if (size := memory_kib(pid, "RssAnon"))]
                self.memory.append((time.monotonic() - began,
                                    memory_kib(self.worker.pid, "VmRSS") or 0, sizes))
                over.wait(HALF_SECOND if self.seconds < 60 else 5)

    # --- what was found ---------------------------------------------------------------------------

    def errors(self) -> Counter:
        """(kind, sqlstate, message) -> how often."""
        with self.cluster.connect(self.database) as connection:
            return Counter({tuple(row[:3]): row[3] for row in connection.execute(
                "SELECT kind, sqlstate, message, count(*) FROM answer WHERE sqlstate <> '00000' "
                "GROUP BY 1, 2, 3")})

    def compare(self) -> tuple[int, list[str]]:
        """The same questions, one at a time: (how many different ones were compared, what
        differed)."""
        wrong = []
        compared = 0
        with self.cluster.connect(self.database) as connection:
            for watch, query in connection.execute(
                    "SELECT answer -> 0, answer -> 1 FROM answer WHERE kind = 'watch against query'"
                    " AND sqlstate = '00000'"):
                compared += 1
                if without_zeros(watch) != without_zeros(query):
                    wrong.append(f"watch {watch}, query {query}")
            asked = defaultdict(list)
            for kind, question, version, answer in connection.execute(
                    "SELECT DISTINCT kind, question, version, answer FROM answer "
                    "WHERE version IS NOT NULL AND sqlstate = '00000'"):
                asked[version].append((kind, question, answer))
            models = dict(connection.execute("SELECT version, model FROM pgrain.versions"))
            for version, questions in sorted(asked.items()):
                connection.execute("SELECT pgrain.activate(%s, %s)", [models[version], version])
                for kind, question, answer in questions:
                    _, alone = connection.execute(
                        connection.execute("SELECT statement_of(%s, %s)",
                                           [kind, question]).fetchone()[0]).fetchone()
                    compared += 1
                    if not same(answer, alone):
                        wrong.append(f"{kind} {question} of version {version}: {answer}, "
                                     f"alone {alone}")
        return compared, wrong

    def latencies(self) -> list[dict]:
        """One row a kind: answers, median, 95 %, 99 %, longest in ms; the same while a long job
        ran; the least number of answers in any ten seconds that lay within such a job."""
        with self.cluster.connect(self.database) as connection:
            jobs = [(row[0], row[1]) for row in connection.execute(
                "SELECT started_at, coalesce(finished_at, now()) FROM pgrain.jobs "
                "WHERE model = 'heavy' AND started_at IS NOT NULL ORDER BY 1")]
            found = []
            for kind, in connection.execute("SELECT DISTINCT kind FROM answer ORDER BY 1"):
                rows = connection.execute("SELECT began, ms FROM answer WHERE kind = %s AND "
                                          "sqlstate = '00000' ORDER BY 1", [kind]).fetchall()
                within = [row for row in rows if any(a <= row[0] <= b for a, b in jobs)]
                found.append({"kind": kind, "answers": len(rows), **quantiles(r[1] for r in rows),
                              "in_jobs": len(within),
                              "jobs": quantiles(r[1] for r in within)})
            return found

    def statements_by_session(self) -> tuple[int, int]:
        """The least and the largest number of answers that one of the many sessions got."""
        with self.cluster.connect(self.database) as connection:
            return connection.execute("SELECT min(n), max(n) FROM (SELECT pid, count(*) AS n FROM "
                                      "answer GROUP BY pid) AS a").fetchone()

    def silent(self) -> float:
        """The longest time, in seconds, in which no complaint of any session was answered."""
        with self.cluster.connect(self.database) as connection:
            return float(connection.execute("""
                SELECT extract(epoch FROM max(gap)) FROM (
                    SELECT at - lag(at) OVER (ORDER BY at) AS gap FROM (
                        SELECT began + ms * interval '1 ms' AS at FROM answer
                        WHERE kind LIKE 'complain%' AND sqlstate = '00000') AS a) AS b
                """).fetchone()[0])

    def jobs(self) -> list[tuple]:
        with self.cluster.connect(self.database) as connection:
            return connection.execute("""
                SELECT model, kind, state, count(*), max(extract(epoch FROM finished_at
                       - started_at))::float8 FROM pgrain.jobs GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
                """).fetchall()

    def growth(self) -> dict[str, dict[str, float]]:
        """MiB of the worker and of the median backend: at the beginning of the second quarter, in
        the middle, at the end (medians of a twentieth of the run), and MiB a minute over the second
        half (a straight line)."""
        series = {"worker": [(t, worker / 1024) for t, worker, _ in self.memory if worker],
                  "backend": [(t, statistics.median(sizes) / 1024)
                              for t, _, sizes in self.memory if len(sizes) > self.clients // 2]}
        return {name: shape(points) for name, points in series.items()}


def shape(points: list[tuple[float, float]]) -> dict[str, float]:
    count = max(1, len(points) // 20)
    at = {name: statistics.median(y for _, y in points[where:where + count])
          for name, where in (("quarter", len(points) // 4), ("half", len(points) // 2),
                              ("end", len(points) - count))}
    second = points[len(points) // 2:]
    slope, _ = statistics.linear_regression([x / 60 for x, _ in second], [y for _, y in second])
    return {**at, "per_minute": slope}


def quantiles(values) -> dict[str, float]:
    ordered = sorted(values)
    if not ordered:
        return {}
    pick = lambda share: ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]  # noqa: E731
    return {"median": pick(0.5), "p95": pick(0.95), "p99": pick(0.99), "longest": ordered[-1]}


def without_zeros(counts: dict | None) -> dict:
    """A group that is absent and one that counts nothing are the same here."""
    return {key: value for key, value in (counts or {}).items() if value}


def same(one, other) -> bool:
    """Whether two answers are the same; rankings up to float32 and the order of equal scores."""
    if not (isinstance(one, list) and one and isinstance(one[0], list)):
        return one == other
    if not isinstance(other, list) or len(one) != len(other):
        return False
    near = SAME * max(abs(score) for _, score in other)
    if any(abs(a[1] - b[1]) > near for a, b in zip(one, other, strict=True)):
        return False
    # Rows clear of the last place must be in both.
    clear = {row for row, score in other if score > other[-1][1] + near}
    return clear <= {row for row, _ in one}


def promised(kind: str, sqlstate: str, message: str) -> bool:
    """Errors that the manual promises under load: busy; a model just trained has no spectrum."""
    return sqlstate == "53400" or (sqlstate == "55000" and kind == "complain"
                                   and '"moving" has no stored spectrum' in message)


@contextlib.contextmanager
def own_server(clients: int):
    """A private cluster with a worker for this run."""
    settings = {"fsync": "off", "shared_buffers": "256MB", "max_connections": str(clients + 30)}
    with private_server(DATABASE, settings) as (cluster, worker, _):
        yield cluster, worker


def page(load: Load, facts: dict) -> str:
    """docs/benchmarks-load.md."""
    compared, wrong = facts["compared"], facts["wrong"]
    lines = ["# Many sessions at once", "", f"`make load ARGS=\"--clients {load.clients} --seconds "
             f"{load.seconds:.0f}\"` wrote this page. {facts['machine']}", "",
             f"{load.clients} sessions for {load.seconds:.0f} s, each asking again as soon as it "
             "has its answer: predictions of stored and of new values, complaints about a table of "
             f"{load.rows} rows and on a watch, insertions into and deletions from the watched and "
             "attached table. One session edits, trains, precomputes and activates a model "
             "meanwhile, one has jobs done that take long.", "",
             "| what | answers | median ms | 95 % | 99 % | longest | median ms in long jobs | 99 % "
             "in long jobs |", "|---|---|---|---|---|---|---|---|"]
    for row in facts["latencies"]:
        numbers = [row.get(name) for name in ("median", "p95", "p99", "longest")]
        numbers += [row["jobs"].get(name) for name in ("median", "p99")]
        lines.append(f"| {row['kind']} | {row['answers']} | " + " | ".join(
            "–" if number is None else f"{number:.0f}" for number in numbers) + " |")
    least, most = facts["sessions"]
    lines += ["", f"Answers by session: {least} to {most}. Longest time in which no complaint of "
              f"any session was answered: {facts['silent']:.1f} s.", "", "## Errors", ""]
    lines += [f"- {count} × `{state}` {kind}: {message}" for (kind, state, message), count
              in sorted(facts["errors"].items())] or ["None."]
    lines += ["", "## Jobs", "", "| model | job | ended as | how many | longest, s |",
              "|---|---|---|---|---|"]
    lines += [f"| {model} | {kind} | {state} | {count} | {longest or 0:.1f} |"
              for model, kind, state, count, longest in facts["jobs"]]
    lines += ["", "## Memory", "", "| MiB | after a quarter | after half | at the end | a minute, "
              "second half |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {g['quarter']:.0f} | {g['half']:.0f} | {g['end']:.0f} | "
              f"{g['per_minute']:+.1f} |" for name, g in facts["growth"].items()]
    lines += ["", "Worker: resident. Backend: the median session's anonymous memory.", "",
              LOOKED_INTO, "",
              "## Against a serial run", "", f"{compared} different answers compared with the same "
              f"question asked alone, of the same version: {len(wrong)} differ."]
    lines += [f"- {text}" for text in wrong[:10]]
    return "\n".join(lines) + "\n"


def collect(load: Load) -> dict:
    compared, wrong = load.compare()
    return {"errors": load.errors(), "latencies": load.latencies(), "jobs": load.jobs(),
            "sessions": load.statements_by_session(), "silent": load.silent(),
            "growth": load.growth(), "compared": compared, "wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--heavy", type=int, default=20_000)
    parser.add_argument("--note", default="", help="a sentence about the machine, for the page")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with own_server(options.clients) as (cluster, worker):
        load = Load(cluster, worker, DATABASE, options.clients, options.seconds, options.rows,
                    options.heavy)
        load.prepare()
        say("prepared")
        load.run()
        say("asking again, alone")
        facts = collect(load)
        about = machine()
        facts["machine"] = (f"{about['cores']} cores, {about['cpu']}, PostgreSQL "
                            f"{about['postgresql']}, commit {about['commit']}. {options.note}")
        text = page(load, facts)
        print(text)
        if keep := os.environ.get("PGRAIN_LOAD_KEEP"):   # the worker's log and every sample
            Path(keep).mkdir(exist_ok=True)
            shutil.copy(worker.log, keep)
            shutil.copy(cluster.log, keep)
            (Path(keep) / "memory.json").write_text(json.dumps(load.memory))
        if options.write:
            options.write.write_text(text)
        unpromised = [error for error in facts["errors"] if not promised(*error)]
        for code, _, err in load.pgbench:
            if code != 0:
                say(f"pgbench ended with {code}: {err[-2000:]}")
        if unpromised or facts["wrong"] or any(code for code, _, _ in load.pgbench):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
