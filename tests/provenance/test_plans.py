"""Golden annotated plans: fixtures/plans.sql holds pairs of query and plan.

`PGRAIN_UPDATE_GOLDEN=1` writes the plans anew; look at the difference before you keep it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from provenance_harness import Lab

from pgrain.provenance.render import render

FIXTURES = Path(__file__).parent / "fixtures" / "plans.sql"
BLOCKS = FIXTURES.read_text().strip().split("\n\n")
PAIRS = list(zip(BLOCKS[::2], BLOCKS[1::2], strict=True))


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.connection.execute(
        "CREATE TABLE shop (id int PRIMARY KEY, city text);"
        "INSERT INTO shop VALUES (0, 'Ulm'), (1, 'Bonn'), (2, 'Kiel');"
        "CREATE TABLE sellerdata AS SELECT i AS id, decode(md5((i % 9)::text), 'hex') AS image,"
        " (ARRAY['trouser', 'dress'])[1 + i % 2] AS clothingtype, 10 + i % 4 AS hour,"
        " i % 3 AS shop, i::numeric AS price FROM generate_series(1, 30) AS i")
    labels = {value: ("trouser", "dress")[number % 2] for number, (value,) in enumerate(
        lab.rows("SELECT DISTINCT image::text FROM sellerdata ORDER BY 1"))}
    lab.add_model("clothing", ["trouser", "dress"], labels, "bytea")
    return lab


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_annotated_plan(schema: Lab, number: int) -> None:
    query, expected = PAIRS[number]
    circuit, capture = schema.circuit(query)
    circuit.value(schema.predicted(circuit)).compare(schema.result(capture))
    plan = "\n".join(render(capture, circuit.lineage))
    if os.environ.get("PGRAIN_UPDATE_GOLDEN"):
        BLOCKS[2 * number + 1] = plan
        FIXTURES.write_text("\n\n".join(BLOCKS) + "\n")
        return
    assert plan == expected
