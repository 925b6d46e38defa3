"""Joins of subqueries, CTEs and views on their labels: factorised as if the calls were in the join.

Each is compared with PostgreSQL under every relabelling, in expectation with the enumeration, and
in its gradient with the query that says the same without a subquery.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from provenance_harness import Lab, enumerate_expectation, random_probabilities

from pgrain.errors import UnsupportedOperator
from pgrain.provenance.circuit import Circuit
from pgrain.provenance.over_join import OverJoinCircuit

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


ON = "FROM s AS a JOIN r AS b ON pgrain.predict('m', a.x) = pgrain.predict('m', b.x)"
ARITHMETIC = [
    f"SELECT 100.0 * count(*) FILTER (WHERE a.g = 0) / nullif(count(*), 0) AS share {ON}",
    f"SELECT a.g, round(sum(b.v) / nullif(count(b.c), 0), 2) AS mean, count(*) AS n {ON} "
    "GROUP BY a.g ORDER BY mean",
    f"SELECT count(*) / 2 AS half, count(*) / 2.0 AS quarter, a.g + 1 AS h {ON} GROUP BY a.g",
    f"SELECT coalesce(sum(a.v), 0) - coalesce(sum(b.v), 0) AS d, greatest(count(*), 1) AS c {ON}",
    f"WITH p AS {S} SELECT p.g, 1 - count(*)::float8 / (p.g + 2) AS d FROM p JOIN r AS b "
    "ON p.lab = b.c GROUP BY p.g",
    f"SELECT pgrain.predict('m', a.x) AS l, count(*) * 2 - 1 AS d {ON} GROUP BY 1",
]


@pytest.mark.parametrize("query", ARITHMETIC)
def test_arithmetic_over_a_factorised_join(schema: Lab, query: str) -> None:
    circuit = right_under_every_relabelling(schema, query)
    assert isinstance(circuit, OverJoinCircuit)
    rng = np.random.default_rng(8)
    P, step = random_probabilities(rng, circuit), 1e-6
    cells = [(row, c) for c in circuit.arithmetic for row in range(circuit.n)]
    weights = dict(zip(cells, rng.normal(size=len(cells)), strict=True))

    def total(P) -> float:
        numbers = circuit.relaxed(P).numbers
        return sum(w * np.nan_to_num(numbers[cell]) for cell, w in weights.items())

    gradient = circuit.gradient(P, weights)["m"]
    for _ in range(10):
        direction = rng.normal(size=P["m"].shape)
        up, down = ({"m": P["m"] + s * step * direction} for s in (1, -1))
        assert (gradient * direction).sum() == pytest.approx(
            (total(up) - total(down)) / (2 * step), rel=1e-5, abs=1e-6)


def test_linear_arithmetic_is_an_expectation(schema: Lab) -> None:
    circuit, _ = schema.circuit(f"SELECT 3 * count(*) - 2.5 AS d {ON}")
    P = random_probabilities(np.random.default_rng(9), circuit)
    expected = enumerate_expectation(circuit, P)
    np.testing.assert_allclose(circuit.relaxed(P).numbers, expected.numbers, rtol=1e-9)


def test_a_prediction_that_meets_a_column_is_not_multiplied_out(schema: Lab) -> None:
    """3 000 x 3 000 rows that meet through one prediction; and what the circuit says is right."""
    schema.connection.execute("CREATE TABLE labelled AS SELECT i AS id, CASE WHEN i % 3 = 0 THEN "
                              "'a' WHEN i % 3 = 1 THEN 'b' END AS c, i % 5 AS v "
                              "FROM generate_series(1, 3000) AS i")
    schema.connection.execute("CREATE TABLE IF NOT EXISTS big AS SELECT i AS id, 'f' || i % 4 AS x "
                              "FROM generate_series(1, 3000) AS i")
    circuit, _ = schema.circuit("SELECT count(*) AS n, sum(r.v) AS s FROM big AS l JOIN labelled "
                                "AS r ON pgrain.predict('m', l.x) = r.c")
    p = random_probabilities(np.random.default_rng(7), circuit)["m"]
    per_class = 750.0 * p.sum(axis=0)
    counts = np.array([1000.0, 1000.0])
    sums = np.array([sum(i % 5 for i in range(1, 3001) if i % 3 == r) for r in (0, 1)], float)
    got = circuit.relaxed({"m": p}).numbers[0]
    np.testing.assert_allclose(got, [per_class @ counts, per_class @ sums], rtol=1e-12)


ONE_SLOT = [
    "SELECT count(*) AS n FROM s AS a JOIN r AS b ON pgrain.predict('m', a.x) = b.c",
    "SELECT count(*) AS n FROM r AS b JOIN s AS a ON pgrain.predict('m', a.x) <> b.c "
    "AND b.v > 1",
    "SELECT a.g, b.g AS h, count(*) AS n, sum(b.v) AS t, avg(a.v) AS m FROM s AS a, r AS b "
    "WHERE pgrain.predict('m', a.x) = b.c OR b.c IS NULL GROUP BY a.g, b.g",
    "SELECT pgrain.predict('m', a.x) AS l, b.c, count(*) AS n FROM s AS a CROSS JOIN r AS b "
    "GROUP BY 1, 2",
    "SELECT count(*) AS n FROM s AS a, r AS b, s AS d WHERE pgrain.predict('m', a.x) = b.c "
    "AND d.id = b.id",
    "SELECT count(b.v) FILTER (WHERE pgrain.predict('m', a.x) > b.c) AS n FROM s AS a, r AS b",
    "SELECT count(*) AS n FROM s AS a, r AS b WHERE pgrain.predict('m', a.x) IS NULL",
]


@pytest.mark.parametrize("query", ONE_SLOT)
def test_one_prediction_between_two_sides(schema: Lab, query: str) -> None:
    circuit = right_under_every_relabelling(schema, query)
    assert len(circuit.lineage.sides) == 2
    P = random_probabilities(np.random.default_rng(6), circuit)
    expected = enumerate_expectation(circuit, P)
    relaxed = circuit.relaxed(P)
    for column, described in enumerate(circuit.columns):
        if described.name in ("n", "t"):
            np.testing.assert_allclose(np.nan_to_num(relaxed.numbers[:, column]),
                                       expected.numbers[:, column], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("query", [
    "SELECT count(*) AS n FROM (SELECT id FROM s WHERE pgrain.predict('m', x) = c AND id > 0) AS a",
    "WITH a AS (SELECT id, pgrain.predict('m', x) AS l FROM s WHERE id > 0 AND "
    "pgrain.predict('m', x) = c) SELECT l, count(*) AS n FROM a GROUP BY l",
])
def test_a_condition_on_a_label_beside_others_is_provenance(schema: Lab, query: str) -> None:
    """PostgreSQL could evaluate it, and value would be right; the variables would be missing."""
    circuit = right_under_every_relabelling(schema, query)
    P = random_probabilities(np.random.default_rng(6), circuit)
    expected = enumerate_expectation(circuit, P)
    column = next(n for n, c in enumerate(circuit.columns) if c.name == "n")
    np.testing.assert_allclose(circuit.relaxed(P).numbers[:, column], expected.numbers[:, column],
                               rtol=1e-9)
    assert "pgrain.predict" not in schema.circuit(query)[1].sql


ROUNDED = [
    "SELECT round((count(*) * 0.5)::float8) AS n FROM s WHERE pgrain.predict('m', x) <> 'b'",
    "SELECT (count(*) * 0.5::float8)::int AS n, (count(*) * 0.5)::int AS m FROM s "
    "WHERE pgrain.predict('m', x) <> 'b'",
    f"SELECT round(count(*) * 0.5::float8) AS n, round(count(*) * 0.5) AS m {ON}",
    "SELECT round(avg(v::float8)) AS n, round(avg(v)) AS m FROM s "
    "WHERE pgrain.predict('m', x) <> 'b'",
    "SELECT round(sum(id) / 2.0::real) AS n FROM s WHERE pgrain.predict('m', x) <> 'b'",
]


@pytest.mark.parametrize("query", ROUNDED)
def test_halves_are_rounded_as_their_type_is(schema: Lab, query: str) -> None:
    """Away from zero in numeric, to even in double precision."""
    right_under_every_relabelling(schema, query)


def test_infinity_beside_a_factorised_join_is_refused(schema: Lab) -> None:
    for number in ("'Infinity'::float8", "'NaN'::float8"):
        with pytest.raises(UnsupportedOperator, match="NaN or infinity"):
            schema.circuit(f"SELECT {number} * count(*) AS n {ON}")


def test_exists_lists_no_row_that_cannot_be(schema: Lab) -> None:
    """s.id = 4 has a NULL feature: no assignment of classes lets it pass."""
    circuit, _ = schema.circuit("SELECT id FROM r WHERE EXISTS (SELECT 1 FROM s WHERE s.id = "
                                "r.id + 1 AND pgrain.predict('m', s.x) = 'a')")
    P = random_probabilities(np.random.default_rng(6), circuit)
    assert (circuit.relaxed(P).weight > 0).all()
    assert len(circuit.relaxed(P).weight) == 2


@pytest.mark.parametrize("query", [
    "SELECT count(*) FILTER (WHERE a.id % 2 = b.id % 2) AS n FROM s AS a, r AS b "
    "WHERE pgrain.predict('m', a.x) = b.c",
    "SELECT sum(a.v * b.v) AS n FROM s AS a, r AS b WHERE pgrain.predict('m', a.x) = b.c",
    "SELECT count(*) AS n FROM s AS a, r AS b WHERE pgrain.predict('m', a.x) = b.c OR a.id = b.id",
])
def test_columns_of_both_sides_in_one_expression_keep_rows_together(schema: Lab, query) -> None:
    circuit = right_under_every_relabelling(schema, query)
    assert len(circuit.lineage.sides) == 1
