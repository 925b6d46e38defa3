"""Conditions that share variables with each other: exact where a diagram of both is small.

Each query is compared with PostgreSQL under every relabelling, and its expectations (of rows, or of
a count) with the enumeration of all assignments; its gradient with finite differences.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from provenance_checks import check_expectation, check_gradient
from provenance_family_parts import EXPECTED, ROW, Query
from provenance_harness import Lab, enumerate_expectation, random_probabilities

CLASSES = ["0", "1", "7"]
SCHEMA = """
CREATE TABLE l (id int, g int, x text, y text);
INSERT INTO l VALUES (1, 1, 'f0', 'f1'), (2, 1, 'f1', 'f2'), (3, 2, 'f2', NULL), (4, 2, NULL, 'f0'),
                     (5, 2, 'f3', 'f3'), (6, NULL, 'f0', 'f0');
CREATE TABLE k (id int, g int, x text);
INSERT INTO k VALUES (1, 1, 'f0'), (2, 2, 'f1'), (3, 2, 'f3'), (4, 1, 'f1'), (5, NULL, NULL);
"""
L, M, K = (f"pgrain.predict('m', {of})" for of in ("l.x", "l.y", "k.x"))
SOME = f"EXISTS (SELECT 1 FROM k WHERE {K} = '1'{{0}})"
CONDITIONS = [
    f"{L} IN (SELECT {K} FROM k WHERE k.g IS NOT NULL)", f"{L} NOT IN (SELECT {K} FROM k)",
    f"{L} IN (SELECT {K} FROM k WHERE k.g = l.g)", f"{L} <> ALL (SELECT {K} FROM k WHERE k.id < 3)",
    f"{L} = '1' AND {SOME.format('')}", f"{L} = '1' AND NOT {SOME.format(' AND k.g = l.g')}",
    f"{L} = {M} AND {SOME.format(' AND k.g = l.g')}",
    f"{SOME.format(' AND k.id < 3')} AND NOT {SOME.format(' AND k.id > 1')}",
    f"{SOME.format('')} AND EXISTS (SELECT 1 FROM k WHERE {K} = '7' AND k.g = l.g)",
    f"{L} = '7' AND {M} NOT IN (SELECT {K} FROM k)",
    # a label against a number that it is part of
    f"{L}::int > (SELECT avg(pgrain.predict('m', x)::int) FROM l AS z)",
    f"{L}::int = (SELECT max(pgrain.predict('m', x)::int) FROM l AS z)",
    f"{L}::int + 1 < (SELECT count(*) FROM k WHERE {K} <> '0')",
    f"{L}::int > (SELECT sum({K}::int) FROM k WHERE k.g = l.g)",
]
QUERIES = [
    *(f"SELECT l.id FROM l WHERE {condition}" for condition in CONDITIONS),
    *(f"SELECT l.g, count(*) AS n FROM l WHERE {condition} GROUP BY l.g"
      for condition in CONDITIONS),
    *(f"SELECT {L} AS label FROM l {operator} SELECT {K} FROM k" for operator in
      ("EXCEPT", "INTERSECT")),
]


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.connection.execute(SCHEMA)
    lab.add_model("m", CLASSES, {f"f{i}": "0" for i in range(4)})
    return lab


@pytest.mark.parametrize("query", QUERIES)
def test_exact(schema: Lab, query: str) -> None:
    circuit, capture = schema.circuit(query)
    values = schema.values("m", circuit)
    for labels in itertools.islice(itertools.product(CLASSES, repeat=len(values)), 0, None, 5):
        schema.relabel("m", dict(zip(values, labels, strict=True)))
        circuit.value(schema.predicted(circuit)).compare(schema.result(capture))
    rng = np.random.default_rng(len(query))
    P = random_probabilities(rng, circuit)
    exact = {"n": EXPECTED} if "count(*) AS n" in query else {ROW: ""}
    assert check_expectation(circuit, Query(query, exact), P, enumerate_expectation(circuit, P))
    check_gradient(circuit, P, rng)
