"""predict in plain SQL, against an empty PL/Python function, one that calls the same model, and a
client that fetches, predicts and writes back; memory and disk."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import statistics
import time
from pathlib import Path

import numpy as np
import psycopg
from bench_common import Bench
from bench_complain import complain
from bench_floors import (
    ITSELF,
    PYTHON_IS,
    mapped,
    python_alone,
    reading,
    stored,
)
from bench_memory import memory, of_session

from pgrain.demo.shop import SIZES, report
from pgrain.demo.timing import median, say, times
from pgrain.models.registry import build
from pgrain.models.training import predict_proba
from pgrain.settings import REMEMBERED_BYTES
from pgrain.store.database import connect
from pgrain.worker.resident import load_version


def measure(bench: Bench) -> None:
    _rates(bench)
    _memory(bench)


def _rates(bench: Bench) -> None:
    section = "predict, rows a second"
    say(section)
    bench.run("CREATE OR REPLACE FUNCTION empty(x bytea) RETURNS text LANGUAGE plpython3u STABLE"
              " STRICT AS $$ return 'dress' $$")
    bench.run("CREATE OR REPLACE FUNCTION empty(model text, x bytea) RETURNS text "
              "LANGUAGE plpython3u STABLE STRICT AS $$ return 'dress' $$")
    repeat = max(3, bench.repeat // 3)
    queries = {
        "an empty PL/Python function on the same rows":
            "SELECT count(empty(image)) FROM sellerdata",
        "an empty PL/Python function of two arguments, as predict has":
            f"SELECT count(empty('{bench.main}', image)) FROM sellerdata",
        "pgrain.predict, attached rows":
            f"SELECT count(pgrain.predict('{bench.main}', image)) FROM sellerdata",
        "pgrain.predict_batch, attached rows": _batch(bench, "SELECT id, image FROM sellerdata"),
    }
    # In turn, so that what else the machine does meets all of them alike.
    found: dict[str, list[float]] = {what: [] for what in queries}
    for _ in range(repeat + 1):
        for what, query in queries.items():
            found[what].append(times(lambda query=query: bench.run(query), 1, 0)[0])
    rates = {what: [1000 * bench.queried / ms for ms in took[1:]] for what, took in found.items()}
    empty = statistics.median(rates["an empty PL/Python function on the same rows"])

    def add(what: str, rate: float, **given) -> None:
        bench.add(section, what, rate, "rows/s", floor=empty, floor_is="the empty function",
                  **given)

    for what, rate in rates.items():
        given = {"low": min(rate), "high": max(rate)}
        if what == "an empty PL/Python function on the same rows":
            bench.add(section, what, empty, "rows/s", floor_is=ITSELF, **given)
        else:
            add(what, statistics.median(rate), **given)
    met_once = f"SELECT count(pgrain.predict('{bench.main}', image)) FROM sellerdata"
    firsts, scans, empties = [], [], []
    for _ in range(5):
        with bench.cluster.connect(bench.connection.info.dbname) as fresh:
            empties += times(lambda c=fresh: c.execute("SELECT empty('x')").fetchall(), 1, 0)
        with bench.cluster.connect(bench.connection.info.dbname) as fresh:
            firsts += times(lambda c=fresh: c.execute(met_once + " WHERE id = (SELECT min(id) "
                                                      "FROM sellerdata)").fetchall(), 1, 0)
            scans += times(lambda c=fresh: c.execute(met_once).fetchall(), 1, 0)
    add("pgrain.predict, attached rows that the session meets for the first time (by digest, from "
        "the shared map)", 1000 * bench.queried / statistics.median(scans))
    bench.add(section, "first call in a new session", statistics.median(firsts), low=min(firsts),
              high=max(firsts), floor=statistics.median(empties),
              floor_is="the first call of the empty function in one", note="budget 100")

    few = min(500, bench.queried)
    fresh_values = "set_byte(image, 1, {})"
    one = times(lambda: bench.run(
        f"SELECT count(pgrain.predict('{bench.main}', {fresh_values.format(7)})) "
        f"FROM (SELECT image FROM sellerdata LIMIT {few}) AS s"), 1, 0)[0]
    add(f"pgrain.predict, {few} values that nothing is stored of, one by one", 1000 * few / one)
    numbers = iter(range(8, 200))
    many = median(lambda: bench.run(_batch(
        bench, f"SELECT id, {fresh_values.format(next(numbers))} FROM sellerdata")), repeat)
    add("pgrain.predict_batch, values that nothing is stored of", 1000 * bench.queried / many,
        note=f"{1000 * bench.queried / many / (1000 * few / one):.0f} times a call a row")
    _same_model(bench, add)
    model = build("mlp", 10, (28, 28, 1), {"hidden": [256]})
    theta = model.init(0)

    def client():
        rows = bench.run("SELECT id, image FROM sellerdata")
        X = np.frombuffer(b"".join(bytes(r[1]) for r in rows), np.uint8).reshape(-1, 28, 28, 1)
        _, p = predict_proba(model, theta, X)
        with bench.connection.cursor().copy("COPY answers FROM STDIN") as copy:
            for row, label in zip(rows, p.argmax(1).tolist(), strict=True):
                copy.write_row((row[0], label))

    bench.run("CREATE TABLE answers (id bigint, label int)")
    add("psycopg: fetch, JAX, COPY back", bench.queried / median(client, repeat) * 1000)


def _batch(bench: Bench, query: str) -> str:
    return f"SELECT count(label) FROM pgrain.predict_batch('{bench.main}', $q${query}$q$)"


def _numpy_for_the_server(bench: Bench) -> str | None:
    """A folder from which the server's Python imports this one's numpy; None where it cannot."""
    spec = importlib.util.find_spec("numpy")
    home = bench.cluster.place / "numpy"
    home.mkdir(exist_ok=True)
    package = Path(spec.origin).parent
    for part in (package, package.with_name("numpy.libs")):
        if part.exists():
            shutil.copytree(part, home / part.name, dirs_exist_ok=True)
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    try:
        bench.run(f"DO LANGUAGE plpython3u $$ import sys; sys.path.insert(0, '{home}'); "
                  "import numpy $$")
    except psycopg.Error:       # another minor version of Python, as a rule
        return None
    return str(home)


def _same_model(bench: Bench, add) -> None:
    """A PL/Python function that holds the same network and computes a row at a time with numpy."""
    what = "a PL/Python function that calls the same model"
    if SIZES[bench.main][0] != "mlp" or len(SIZES[bench.main][1]["hidden"]) != 1:
        bench.skip(f"{what}: {bench.main} is no mlp of one layer")
        return
    home = _numpy_for_the_server(bench)
    if home is None:
        bench.skip(f"{what}: the server's Python cannot import this one's numpy")
        return
    with connect(bench.cluster.dsn(bench.connection.info.dbname)) as reader:
        version = reader.execute("SELECT active_version AS v FROM pgrain.model WHERE model = %s",
                                 [bench.main]).fetchone()["v"]
        resident = load_version(reader, version)
    tree = resident.model.to_pytree(resident.theta)
    layers = sorted({name.rpartition(".")[0] for name in tree})
    arrays = {f"{kind}{number}": tree[f"{layer}.{kind}"]
              for number, layer in enumerate(layers) for kind in ("kernel", "bias")}
    np.savez(bench.cluster.place / "numpy" / "model.npz", **arrays)
    (bench.cluster.place / "numpy" / "model.npz").chmod(0o644)
    bench.run(f"""CREATE OR REPLACE FUNCTION same_model(x bytea) RETURNS text LANGUAGE plpython3u
        STABLE STRICT AS $$
        if "mlp" not in SD:
            import sys
            sys.path.insert(0, '{home}')
            import numpy
            SD["mlp"] = numpy, dict(numpy.load('{home}/model.npz')), {resident.row.classes!r}
        np, m, classes = SD["mlp"]
        hidden = np.frombuffer(x, np.uint8).astype(np.float32) / 255 @ m["kernel0"] + m["bias0"]
        return classes[int((np.maximum(hidden, 0) @ m["kernel1"] + m["bias1"]).argmax())] $$""")
    same, rows = bench.run(f"SELECT count(*) FILTER (WHERE same_model(image) = pgrain.predict("
                           f"'{bench.main}', image)), count(*) FROM sellerdata")[0]
    if same < 0.999 * rows:
        raise AssertionError(f"it is another model: {same} of {rows} rows are predicted alike")
    took = median(lambda: bench.run("SELECT count(same_model(image)) FROM sellerdata"), 3)
    add(f"{what} with numpy, a row at a time", 1000 * bench.queried / took,
        note=f"{same:,} of {rows:,} predictions are the same")


def _sessions(bench: Bench, n: int = 100) -> None:
    """What sessions take of the machine's memory: private pages, shared ones once."""
    section = "Memory and disk"
    scan = f"SELECT count(pgrain.predict('{bench.main}', image)) FROM sellerdata"
    with contextlib.ExitStack() as stack:
        def sessions(number: int, query: str) -> tuple[float, float]:
            """(private MB a session, MB of the map) after a query in each."""
            private, shared = [], 0.0
            for _ in range(number):
                session = stack.enter_context(
                    bench.cluster.connect(bench.connection.info.dbname))
                session.execute(query).fetchall()
                pid = session.execute("SELECT pg_backend_pid()").fetchone()[0]
                mine, shared = of_session(pid)
                private.append(mine)
            return statistics.median(private), shared

        python, _ = sessions(3, "SELECT empty('x')")
        first, shared = sessions(n, scan + " WHERE id = 1")
        whole, _ = sessions(3, scan)
    bench.add(section, "a session with PL/Python alone, private", python, "MB", floor_is=ITSELF)
    bench.add(section, f"each of {n} sessions after its first prediction, private", first, "MB",
              floor=python, floor_is="PL/Python alone")
    bench.add(section, f"a session that has predicted all {bench.queried:,} rows, private", whole,
              "MB", floor=python, floor_is="PL/Python alone",
              note=f"remembered values are bounded: {REMEMBERED_BYTES.default >> 20} MB a model")
    bench.add(section, "the map of stored predictions that they share, once a machine", shared,
              "MB", **mapped(bench.queried, 10),
              note=f"{1e6 * shared / bench.queried:.0f} bytes an inference value")


def _memory(bench: Bench) -> None:
    section = "Memory and disk"
    say(section)
    _sessions(bench)
    sizes = dict(bench.run(
        "SELECT c.relname, pg_total_relation_size(c.oid) FROM pg_class c WHERE c.relnamespace ="
        " 'pgrain'::regnamespace AND c.relkind = 'r'"))
    models = bench.run("SELECT count(*) FROM pgrain.models")[0][0]
    kept = stored(bench)
    for table, bytes_ in sorted(sizes.items(), key=lambda pair: -pair[1])[:4]:
        bench.add(section, f"pgrain.{table}, of {models} models", bytes_ / 1e6, "MB",
                  floor=kept.get(table, 0) / 1e6 or None,
                  floor_is="the arrays in it, without what PostgreSQL adds" if kept.get(table)
                  else "none: no arrays of a version")
    chunks = {name: size for name, size in sizes.items() if "chunk" in name}
    bench.add(section, "stored in all chunks, a training row and model",
              sum(chunks.values()) / bench.rows / models, "bytes",
              floor=FLOATS_A_ROW,
              floor_is="J and p - e_y of 30 pairs, 10 classes, float32",
              note="attached rows and versions included, so more than a training row alone")
    python_s, python_mb = python_alone(bench)
    arrays = sum(kept.values()) / 1e6
    bench.add(section, "the worker's resident memory", memory(bench.worker.pid, "VmRSS"), "MB",
              floor=python_mb + arrays,
              floor_is=f"{python_mb:.0f} MB of {PYTHON_IS}, and the arrays of all models")
    bench.worker.stop()
    began = time.perf_counter()
    bench.worker.start()
    up = time.perf_counter() - began
    complain(bench, report(bench.main))
    answered = time.perf_counter() - began
    bench.add(section, "restart of the worker until it answers", up, "s", floor=python_s,
              floor_is=PYTHON_IS)
    bench.add(section, "restart until the first complaint is answered",
              answered, "s", note=json.dumps({"training rows": bench.rows}), **_answering(bench))


def _answering(bench: Bench) -> dict:
    """The floor of a complaint to a worker that has just begun."""
    python, _ = python_alone(bench)
    size = int(bench.run("SELECT spectrum_bytes FROM pgrain.sizes WHERE model = %s",
                         [bench.main])[0][0])
    return {"floor": python + reading(bench, size) / 1000,
            "floor_is": f"{PYTHON_IS}, and reading the model's {size / 1e6:.0f} MB once"}


FLOATS_A_ROW = 4 * (10 * 30 + 10)
