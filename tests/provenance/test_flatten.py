"""Joins of subqueries, CTEs and views on their labels: factorised as if the calls were in the join.

Each is compared with PostgreSQL under every relabelling, in expectation with the enumeration, and
in its gradient with the query that says the same without a subquery.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from provenance_harness import Lab, enumerate_expectation, random_probabilities

from pgrain.provenance.circuit import Circuit

CLASSES = ["a", "b"]
SCHEMA = """
CREATE TABLE s (id int, x text, c text, g int, v numeric);
INSERT INTO s VALUES (1, 'f0', 'a', 0, 1), (2, 'f1', 'b', 0, 1.00), (3, 'f2', NULL, 1, -2),
                     (4, NULL, 'a', 1, 3);
CREATE TABLE r (id int, x text, c text, g int, v numeric);
INSERT INTO r VALUES (1, 'f0', 'a', 0, 1), (2, 'f3', 'b', 1, 2), (3, NULL, NULL, NULL, 3);
CREATE VIEW vs AS SELECT id, g, v, pgrain.predict('m', x) AS lab FROM s;
"""
S = "(SELECT id, g, v, c, pgrain.predict('m', x) AS lab FROM s)"
R = "(SELECT id, g, v, c, pgrain.predict('m', x) AS lab FROM r)"
DIRECT = "FROM s AS a JOIN r AS b ON pgrain.predict('m', a.x) = pgrain.predict('m', b.x)"
# (query, the same without a subquery)
SAME = [
    (f"SELECT count(*) AS n FROM {S} AS a JOIN {R} AS b ON a.lab = b.lab",
     f"SELECT count(*) AS n {DIRECT}"),
    (f"SELECT count(*) AS n FROM {S} AS a, {R} AS b WHERE a.lab = b.lab",
     f"SELECT count(*) AS n {DIRECT}"),
    (f"WITH a AS {S}, b AS {R} SELECT count(*) AS n FROM a JOIN b ON a.lab = b.lab",
     f"SELECT count(*) AS n {DIRECT}"),
    (f"WITH a AS {S}, b AS {R} SELECT a.g, sum(b.v) AS n FROM a JOIN b ON a.lab = b.lab "
     "WHERE b.id < 3 GROUP BY a.g ORDER BY a.g",
     f"SELECT a.g, sum(b.v) AS n {DIRECT} WHERE b.id < 3 GROUP BY a.g"),
    (f"WITH a AS {S}, b AS {R} SELECT a.lab, count(*) AS n FROM a JOIN b ON a.lab = b.lab "
     "GROUP BY a.lab",
     f"SELECT pgrain.predict('m', a.x) AS lab, count(*) AS n {DIRECT} GROUP BY 1"),
    ("SELECT count(*) AS n FROM vs AS a JOIN vs AS b ON a.lab = b.lab",
     f"SELECT count(*) AS n {DIRECT.replace('r AS b', 's AS b')}"),
    ("SELECT count(*) AS n FROM vs AS a JOIN r AS b ON a.lab = b.c",
     "SELECT count(*) AS n FROM s AS a JOIN r AS b ON pgrain.predict('m', a.x) = b.c"),
    ("SELECT count(*) AS n FROM (SELECT id, pgrain.predict('m', x) FROM s "
     "WHERE pgrain.predict('m', x) <> c) AS a JOIN (SELECT id, c, pgrain.predict('m', x) <> c AS "
     "wrong FROM r WHERE id > 0) AS b ON predict = b.c AND (wrong OR b.id = 1)",
     "SELECT count(*) AS n FROM s AS a JOIN r AS b ON pgrain.predict('m', a.x) = b.c "
     "AND (pgrain.predict('m', b.x) <> b.c OR b.id = 1) WHERE pgrain.predict('m', a.x) <> a.c"),
]
# Not flattened, yet right: what is more than select and filter, or hides a name.
OTHERS = [
    f"SELECT lab, count(*) AS n FROM {S} AS a JOIN {R} AS b USING (lab) GROUP BY lab",
    f"SELECT count(*) AS n FROM (SELECT DISTINCT lab FROM {S} AS i) AS a JOIN {R} AS b "
    "ON a.lab = b.lab",
    f"SELECT count(*) AS n FROM {S} AS a LEFT JOIN {R} AS b ON a.lab = b.lab",
    f"SELECT a.id AS lab, count(*) AS n FROM {S} AS a JOIN {R} AS b ON a.lab = b.lab "
    "GROUP BY a.id ORDER BY lab",
]


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.connection.execute(SCHEMA)
    lab.add_model("m", CLASSES, {f"f{i}": "a" for i in range(4)})
    return lab


def right_under_every_relabelling(schema: Lab, query: str):
    circuit, capture = schema.circuit(query)
    for labels in itertools.product(CLASSES, repeat=4):
        schema.relabel("m", {f"f{i}": label for i, label in enumerate(labels)})
        circuit.value(schema.predicted(circuit)).compare(schema.result(capture))
    return circuit


@pytest.mark.parametrize(("query", "same"), SAME)
def test_as_if_called_in_the_join(schema: Lab, query: str, same: str) -> None:
    circuit = right_under_every_relabelling(schema, query)
    assert isinstance(circuit, Circuit)         # of the factorising kind
    direct, _ = schema.circuit(same)
    P = random_probabilities(np.random.default_rng(5), circuit)
    column = next(n for n, c in enumerate(circuit.columns) if c.name == "n")
    assert [c.name for c in circuit.columns] == [c.name for c in direct.columns]
    rows = range(len(circuit.relaxed(P).present))
    for row in rows:
        assert circuit.relaxed(P).numbers[row, column] == pytest.approx(
            direct.relaxed(P).numbers[row, column], rel=1e-12)
    mine, theirs = (c.gradient(P, {(row, column): 1.0 for row in rows}) for c in (circuit, direct))
    np.testing.assert_allclose(mine["m"], theirs["m"], rtol=1e-12, atol=1e-12)


def test_expectation_with_shared_values(schema: Lab) -> None:
    circuit, _ = schema.circuit(SAME[0][0])
    P = random_probabilities(np.random.default_rng(6), circuit)
    expected = enumerate_expectation(circuit, P)
    np.testing.assert_allclose(circuit.relaxed(P).numbers, expected.numbers, rtol=1e-9)


@pytest.mark.parametrize("query", OTHERS)
def test_others_are_right_as_well(schema: Lab, query: str) -> None:
    right_under_every_relabelling(schema, query)


def test_joins_of_labels_are_not_multiplied_out(schema: Lab) -> None:
    """3 000 x 3 000 rows: nine million pairs would be over the limit."""
    schema.connection.execute(
        "CREATE TABLE big AS SELECT i AS id, 'f' || i % 4 AS x FROM generate_series(1, 3000) AS i")
    query = ("WITH a AS (SELECT id, pgrain.predict('m', x) AS lab FROM big) "
             "SELECT count(*) AS n FROM a AS l JOIN a AS r ON l.lab = r.lab")
    circuit, _ = schema.circuit(query)
    P = random_probabilities(np.random.default_rng(7), circuit)
    p = P["m"]
    # 750 rows share each of four values: equal with themselves, else by chance.
    want = 750.0 ** 2 * (4 + sum(p[i] @ p[j] for i in range(4) for j in range(4) if i != j))
    assert circuit.relaxed(P).numbers[0, 0] == pytest.approx(want, rel=1e-12)
