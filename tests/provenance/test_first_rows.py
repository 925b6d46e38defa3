"""LIMIT, OFFSET, WITH TIES and DISTINCT ON over rows with equal features: exact where few.

Each query is compared with PostgreSQL under relabellings, in expectation with the enumeration of
all assignments, and its gradient with finite differences.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from provenance_checks import check_classes, check_exact, check_gradient
from provenance_family_parts import EXPECTED, ROW, TEXTS
from provenance_harness import Lab, enumerate_expectation, random_probabilities

CLASSES = ["a", "b", "c"]
P = "pgrain.predict('m', x)"
SCHEMA = """
CREATE TABLE t (id int, x text, g int, v int);
INSERT INTO t VALUES (1, 'f0', 1, 5), (2, 'f1', 1, 5), (3, 'f0', 2, 4), (4, 'f2', 2, 4),
 (5, 'f1', 1, 3), (6, 'f0', 2, 2), (7, NULL, 1, 2), (8, 'f3', 1, 1), (9, 'f2', NULL, 1);
CREATE TABLE long AS SELECT i AS id, 'f' || i % 4 AS x FROM generate_series(1, 600) AS i;
"""
N = {"n": EXPECTED, "s": EXPECTED}
QUERIES = [
    (f"SELECT id FROM t WHERE {P} = 'a' ORDER BY id LIMIT 2", {ROW: ""}),
    (f"SELECT id FROM t WHERE {P} <> 'a' ORDER BY v DESC, id OFFSET 1 LIMIT 3", {ROW: ""}),
    (f"SELECT id FROM t WHERE {P} = 'a' ORDER BY id DESC OFFSET 2", {ROW: ""}),
    (f"SELECT id FROM t WHERE {P} = 'a' ORDER BY v FETCH FIRST 2 ROWS WITH TIES", {ROW: ""}),
    (f"SELECT id, {P} AS shown FROM t WHERE {P} <> 'b' ORDER BY id LIMIT 3",
     {ROW: "", "shown": TEXTS}),
    (f"SELECT DISTINCT ON (g) g, id FROM t WHERE {P} IN ('a', 'b') ORDER BY g, v, id", {ROW: ""}),
    (f"SELECT DISTINCT ON (label, g) id FROM (SELECT *, {P} AS label FROM t) AS q ORDER BY label, "
     "g, id", {ROW: ""}),
    (f"SELECT count(*) AS n, sum(v) AS s FROM (SELECT v FROM t WHERE {P} = 'a' ORDER BY id LIMIT 3)"
     " AS q", N),
    ("SELECT l.id, r.id AS other FROM t AS l JOIN t AS r ON l.g = r.g AND l.id < r.id AND "
     "pgrain.predict('m', l.x) = 'a' AND pgrain.predict('m', r.x) <> 'b' ORDER BY 1, 2 LIMIT 2",
     {ROW: ""}),
    ("SELECT k.g, q.id FROM (VALUES (1), (2)) AS k (g) CROSS JOIN LATERAL (SELECT id FROM t WHERE "
     f"t.g = k.g AND {P} = 'a' ORDER BY id DESC LIMIT 1) AS q", {ROW: ""}),
]


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.connection.execute(SCHEMA)
    lab.add_model("m", CLASSES, {f"f{i}": "a" for i in range(4)})
    return lab


def checked(schema: Lab, query: str):
    return check_classes(schema, query, lambda n: itertools.islice(
        itertools.product(CLASSES, repeat=n), 0, None, 4))


@pytest.mark.parametrize(("query", "exact"), QUERIES)
def test_exact(schema: Lab, query: str, exact: dict) -> None:
    circuit = checked(schema, query)
    check_exact(circuit, query, exact)


def test_long_lists_with_equal_features(schema: Lab) -> None:
    """Six hundred rows over four variables: the first ones by diagrams, all by PostgreSQL."""
    circuit = checked(schema, f"SELECT id FROM long WHERE {P} = 'a' ORDER BY id LIMIT 50")
    rng = np.random.default_rng(5)
    P_ = random_probabilities(rng, circuit)
    np.testing.assert_allclose(circuit.relaxed(P_).weight[:64],
                               enumerate_expectation(circuit, P_, None, ()).present[:64],
                               rtol=1e-9, atol=1e-12)
    check_gradient(circuit, P_, rng)
