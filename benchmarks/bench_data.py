"""The tables and models of `make bench`: the demo's shop, and copies of it."""

from __future__ import annotations

import json
import time

from bench_common import Bench, multiply_rate, say

from pgrain.demo import tables
from pgrain.demo.corruptions import bright
from pgrain.demo.datasets import Images, fashion_mnist

SIZES = {"mlp_32": ("mlp", {"hidden": [32]}), "mlp_256": ("mlp", {"hidden": [256]}),
         "mlp_1024": ("mlp", {"hidden": [1024]})}
"""Models of growing size over the same rows (the paper's figure 1)."""


def load(bench: Bench, names: tuple[str, ...]) -> None:
    """`train`, `sellerdata` (attached), `unseen` (one pixel differs, so nothing of it is stored),
    `many` (every row of sellerdata ten times), and the models, trained and precomputed."""
    train, test = fashion_mnist("train").first(bench.rows), fashion_mnist("t10k")
    test = Images(test.pixels[:bench.queried], test.labels[:bench.queried])
    corrupted = bright(train, 0)
    tables.load(bench.connection, {"bench": 1}, train, test, corrupted, 0, lambda *_: None)
    bench.run("CREATE TABLE unseen AS SELECT id, set_byte(image, 0, 1) AS image, clothingtype, hour"
              " FROM sellerdata")
    bench.run("CREATE TABLE many AS SELECT s.id + 1000000 * g AS id, image, clothingtype, hour"
              " FROM sellerdata s, generate_series(0, 9) AS g")
    bench.run("CREATE TABLE left_side AS SELECT * FROM sellerdata WHERE id % 2 = 0")
    bench.run("CREATE TABLE right_side AS SELECT * FROM sellerdata WHERE id % 2 = 1")
    bench.run("VACUUM ANALYZE")
    for name in names:
        architecture, options = SIZES[name]
        bench.run("SELECT pgrain.create_model(%s, 'train', 'id', '{image}', 'label', %s, %s)",
                  [name, architecture, json.dumps({"shape": [28, 28, 1], **options})])
        for step in ("train", "precompute"):
            began = time.perf_counter()
            bench.run(f"CALL pgrain.{step}('{name}')")
            bench.facts[f"{step} {name}"] = time.perf_counter() - began
            say(f"  {step} {name}: {bench.facts[f'{step} {name}']:.1f} s")
        began = time.perf_counter()
        bench.run(f"CALL pgrain.attach('{name}', 'sellerdata')")
        bench.facts[f"attach {name}"] = time.perf_counter() - began
    bench.facts["multiply"] = multiply_rate()
