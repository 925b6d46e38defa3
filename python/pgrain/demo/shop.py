"""The shop of the timed runs: the demo's tables and copies of them, models of growing size, and
what is asked of them. Used by `benchmarks/` and by the paper's experiments."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import psycopg

from pgrain.demo import tables
from pgrain.demo.corruptions import bright
from pgrain.demo.datasets import Images, fashion_mnist

SIZES = {"mlp_32": ("mlp", {"hidden": [32]}), "mlp_256": ("mlp", {"hidden": [256]}),
         "mlp_1024": ("mlp", {"hidden": [1024]})}
"""Models of growing size over the same rows (the paper's figure 1)."""
COMPLAINT = "flagged too high WHERE hour = 13"


def report(model: str, table: str = "sellerdata", extra: str = "") -> str:
    """How many rows' claims the model doubts, by hour."""
    return (f"SELECT hour, count(*) AS flagged FROM {table} WHERE "
            f"pgrain.predict('{model}', image) <> clothingtype{extra} GROUP BY hour")


def join(model: str, left: str = "left_side", right: str = "right_side") -> str:
    """Pairs of rows that look alike to the model."""
    return (f"SELECT count(*) AS n FROM {left} l JOIN {right} r"
            f" ON pgrain.predict('{model}', l.image) = pgrain.predict('{model}', r.image)")


def complain(connection: psycopg.Connection, query: str, complaint: str = COMPLAINT,
             top: int = 100, intervention: str = "delete", **options) -> list[tuple]:
    """The rows of `pgrain.complain`."""
    return connection.execute("SELECT * FROM pgrain.complain(%s, %s, top_k => %s,"
                              " intervention => %s, options => %s)",
                              [query, complaint, top, intervention,
                               json.dumps(options)]).fetchall()


def fill(connection: psycopg.Connection, rows: int, queried: int) -> None:
    """`train`, `sellerdata`, `unseen` (one pixel differs, so nothing of it is stored), `many`
    (every row of sellerdata ten times), and sellerdata's halves."""
    train, test = fashion_mnist("train").first(rows), fashion_mnist("t10k")
    test = Images(test.pixels[:queried], test.labels[:queried])
    tables.load(connection, {"bench": 1}, train, test, bright(train, 0), 0, lambda *_: None)
    connection.execute("CREATE TABLE unseen AS SELECT id, set_byte(image, 0, 1) AS image, "
                       "clothingtype, hour FROM sellerdata")
    connection.execute("CREATE TABLE many AS SELECT s.id + 1000000 * g AS id, image, "
                       "clothingtype, hour FROM sellerdata s, generate_series(0, 9) AS g")
    for name, rest in (("left_side", 0), ("right_side", 1)):
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM sellerdata WHERE id % 2 = {rest}")
    connection.execute("VACUUM ANALYZE")


def model(connection: psycopg.Connection, name: str, architecture: str, options: dict,
          say: Callable[[str], None], precompute: dict | None = None) -> dict[str, float]:
    """Creates, trains, precomputes it, attaches sellerdata; seconds of each step."""
    connection.execute(
        "SELECT pgrain.create_model(%s, 'train', 'id', '{image}', 'label', %s, %s)",
        [name, architecture, json.dumps({"shape": [28, 28, 1], **options})])
    found = {}
    for step, call in (("train", f"CALL pgrain.train('{name}')"),
                       ("precompute", f"CALL pgrain.precompute('{name}', "
                                      f"'{json.dumps(precompute or {})}')"),
                       ("attach", f"CALL pgrain.attach('{name}', 'sellerdata')")):
        began = time.perf_counter()
        connection.execute(call)
        found[step] = time.perf_counter() - began
        say(f"{step} {name}: {found[step]:.1f} s")
    return found
