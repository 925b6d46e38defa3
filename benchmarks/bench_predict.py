"""predict in plain SQL, against an empty PL/Python function, one that calls the same model, and a
client that fetches, predicts and writes back; memory and disk."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from bench_common import Bench
from bench_complain import complain

from pgrain.demo.shop import report
from pgrain.demo.timing import median, say
from pgrain.models.registry import build
from pgrain.models.training import predict_proba


def measure(bench: Bench) -> None:
    _rates(bench)
    _memory(bench)


def _rates(bench: Bench) -> None:
    section = "predict, rows a second"
    say(section)
    bench.run("CREATE OR REPLACE FUNCTION empty(x bytea) RETURNS text LANGUAGE plpython3u STABLE"
              " STRICT AS $$ return 'dress' $$")
    repeat = max(3, bench.repeat // 3)

    def rate(query: str) -> float:
        return bench.queried / median(lambda: bench.run(query), repeat) * 1000

    empty = rate("SELECT count(empty(image)) FROM sellerdata")
    bench.add(section, "an empty PL/Python function on the same rows", empty, "rows/s")
    ours = f"SELECT count(pgrain.predict('{bench.main}', image)) FROM "
    bench.add(section, "pgrain.predict, attached rows", rate(ours + "sellerdata"), "rows/s",
              floor=empty, floor_is="the empty function")
    began = time.perf_counter()
    bench.run(ours.replace("image", "set_byte(image, 1, 7)") + "sellerdata WHERE id <= 500")
    bench.add(section, "pgrain.predict, 500 values that nothing is stored of, one by one",
              500 / (time.perf_counter() - began), "rows/s", floor=empty,
              floor_is="the empty function")
    if bench.has("predict_batch"):
        bench.skip("predict_batch: it is there, this script does not know it yet")
    else:
        bench.skip("predict_batch: not built yet")
    with bench.cluster.connect(bench.connection.info.dbname) as fresh:
        began = time.perf_counter()
        fresh.execute(ours + "sellerdata WHERE id = 1").fetchall()
        bench.add(section, "first call in a new session", 1000 * (time.perf_counter() - began))
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
    bench.add(section, "psycopg: fetch, JAX, COPY back",
              bench.queried / median(client, repeat) * 1000, "rows/s", floor=empty,
              floor_is="the empty function")


def _memory(bench: Bench) -> None:
    section = "Memory and disk"
    say(section)
    sizes = dict(bench.run(
        "SELECT c.relname, pg_total_relation_size(c.oid) FROM pg_class c WHERE c.relnamespace ="
        " 'pgrain'::regnamespace AND c.relkind = 'r'"))
    models = bench.run("SELECT count(*) FROM pgrain.models")[0][0]
    for table, bytes_ in sorted(sizes.items(), key=lambda pair: -pair[1])[:4]:
        bench.add(section, f"pgrain.{table}, of {models} models", bytes_ / 1e6, "MB")
    chunks = {name: size for name, size in sizes.items() if "chunk" in name}
    stored = FLOATS_A_ROW * bench.rows * models
    bench.add(section, "stored in all chunks, a training row and model",
              sum(chunks.values()) / bench.rows / models, "bytes",
              floor=stored / bench.rows / models,
              floor_is="J and p - e_y of 30 pairs, 10 classes, float32",
              note="attached rows and versions included, so more than a training row alone")
    status = Path(f"/proc/{bench.worker.pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines()
                    if line.startswith("VmRSS"))
    bench.add(section, "the worker's resident memory", resident / 1e3, "MB")
    bench.worker.stop()
    began = time.perf_counter()
    bench.worker.start()
    up = time.perf_counter() - began
    complain(bench, report(bench.main))
    bench.add(section, "restart of the worker until it answers", up, "s")
    bench.add(section, "restart until the first complaint is answered",
              time.perf_counter() - began, "s", note=json.dumps({"training rows": bench.rows}))


FLOATS_A_ROW = 4 * (10 * 30 + 10)
