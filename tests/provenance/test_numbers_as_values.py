"""Minima, maxima, sums and averages of predictions as values: GROUP BY, DISTINCT, UNION, IN.

Each query is compared with PostgreSQL under every relabelling, cell by cell; in expectation with
the enumeration of all assignments (that of rows and of counts, where its groups share no
variables); and its gradient with finite differences.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from provenance_checks import check_classes, check_exact, check_gradient
from provenance_family_parts import EXPECTED, ROW
from provenance_harness import Lab, random_probabilities

from pgrain.errors import UnsupportedOperator

CLASSES = ["a", "1"]
P = "pgrain.predict('m', x)"
SCHEMA = """
CREATE TABLE s (id int, x text, g int, c text, v numeric, w float8, i int, b int8, d date);
INSERT INTO s VALUES (1, 'f0', 1, 'p', 2.50, 1.5, 3, 10, '2026-01-01'),
 (2, 'f1', 1, 'q', -1.25, 1.5, -1, 20, '2026-02-02'), (3, 'f2', 1, 'p', NULL, -2, 3, 10, NULL),
 (4, 'f3', 2, 'r', 2.50, 0, 2, 5, '2026-02-02'), (5, 'f4', NULL, NULL, 0.10, 7, NULL, 5, NULL);
CREATE TABLE k (id int, v numeric, d date, c text);
INSERT INTO k VALUES (1, 2.5, '2026-02-02', 'p'), (2, 1.25, '2026-01-01', 'r'),
 (3, NULL, NULL, 'q');
CREATE TABLE many AS SELECT i, 'f' || i % 5 AS x, 1.37 * i * i + 0.01 * i AS v
 FROM generate_series(1, 60) AS i;
"""
IN = f"FROM s WHERE {P} = 'a'"
Q = f"(SELECT g, {{0}} AS m {IN} GROUP BY g) AS q"
# Groups have no variables in common: the rows' probabilities are exact, and counts of them.
EXACT = [
    *(f"SELECT q.m, count(*) AS n FROM {Q.format(f)} GROUP BY q.m"
      for f in ("max(v)", "min(w)", "max(c)", "min(d)", "sum(v)", "sum(i)", "avg(v)", "avg(i)",
                "sum(b)", "avg(b)", "max(v) - min(v)", "sum(i) * 2 + count(*)",
                "round(avg(v), 1)", "coalesce(sum(v), 0)", "sum(DISTINCT i)", "sum(i % 2)",
                "sum(i) FILTER (WHERE c <> 'q')", "max(i) > 2", "max(v)::text || min(c)")),
    f"SELECT {P} AS l, max(v) AS m, count(*) AS n FROM s GROUP BY 1",
    *(f"SELECT DISTINCT {f} AS m {IN} GROUP BY g" for f in
      ("max(v)", "sum(v)", "avg(i), max(c)", "min(d), g", "sum(i) + 1")),
    f"SELECT DISTINCT max(v) AS m, sum(i) AS k {IN}",
    f"SELECT max(v) AS m {IN} UNION SELECT 2.5", f"SELECT 2.5 EXCEPT SELECT max(v) AS m {IN}",
    f"SELECT c {IN} AND g = 2 INTERSECT SELECT max(c) {IN} AND g = 1",
    f"SELECT q.m FROM (SELECT sum(i) AS m {IN} AND g = 1 UNION ALL SELECT max(i) {IN} AND g = 2) "
    "AS q GROUP BY q.m",
    f"SELECT k.id FROM k WHERE v IN (SELECT max(v) {IN})",
    f"SELECT k.id FROM k WHERE v NOT IN (SELECT sum(v) {IN} GROUP BY g)",
    f"SELECT k.id FROM k WHERE (d, c) = ANY (SELECT max(d), min(c) {IN})",
    f"SELECT k.id FROM k WHERE d = (SELECT max(s.d) {IN})",
    f"SELECT k.id FROM k WHERE c < (SELECT max(s.c) {IN} AND s.v > k.v)",
    f"SELECT k.id, (SELECT max(d) {IN}) AS last FROM k ORDER BY last, id",
    f"SELECT q.g, q.m - date '2026-01-01' AS days FROM {Q.format('max(d)')}",
    f"SELECT q.g FROM {Q.format('max(c)')} WHERE q.m LIKE 'p%'",
    f"SELECT k.id, q.g FROM k JOIN {Q.format('max(d)')} ON q.m = k.d",
    f"SELECT q.m, count(*) AS n FROM (SELECT g, sum(v) AS m {IN} GROUP BY g HAVING count(*) > 1) "
    "AS q GROUP BY q.m",
    "SELECT q.m, count(*) AS n FROM (SELECT g, sum(CASE WHEN pgrain.predict('m', x) = 'a' THEN i "
    "ELSE 1 END) AS m FROM s GROUP BY g) AS q GROUP BY q.m",
    "SELECT q.m, count(*) AS n FROM (SELECT g, max(pgrain.predict('m', x)) AS m, sum(CASE WHEN "
    "pgrain.predict('m', x) = '1' THEN 1 END) AS k FROM s GROUP BY g) AS q GROUP BY q.m, q.k",
    f"SELECT q.g, q.m FROM {Q.format('sum(v)')} WHERE q.m::text LIKE '%.25'",
]
# Rows of one group in several places, numbers beside values: equal on classes.
EQUAL = [
    f"SELECT q.m, sum(q.k) AS n FROM (SELECT g, max(v) AS m, count(*) AS k {IN} GROUP BY g) AS q "
    "GROUP BY q.m",
    f"WITH q AS (SELECT g, max(v) AS m, sum(i) AS k {IN} GROUP BY g) SELECT a.g, b.g FROM q AS a "
    "JOIN q AS b ON a.m = b.m AND a.k <> b.k",
    f"SELECT max(v) AS m {IN} GROUP BY g EXCEPT ALL SELECT v {IN}",
    f"SELECT g {IN} GROUP BY g HAVING avg(v) - max(v) = ANY (SELECT 0)",
    f"SELECT s.id FROM s WHERE (g, v) IN (SELECT g, max(v) {IN} GROUP BY g)",
    f"SELECT g, max(v) AS m {IN} GROUP BY ROLLUP (g) UNION SELECT 1, 2.5",
    f"SELECT k.id, q.m FROM k LEFT JOIN {Q.format('max(c)')} ON q.m = k.c",
    f"SELECT DISTINCT (SELECT max(s.v) {IN} AND s.id <> k.id) AS m FROM k",
    f"SELECT k.c, q.m, count(*) FROM k LEFT JOIN {Q.format('sum(i)')} ON q.g = k.id GROUP BY k.c, "
    "q.m",
    f"SELECT * FROM {Q.format('max(d)')} ORDER BY 1",
    f"SELECT DISTINCT * FROM {Q.format('max(d)')}",
    f"SELECT DISTINCT max(DISTINCT v), bool_or(i > 2) AS m {IN} GROUP BY g",
]


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.connection.execute(SCHEMA)
    lab.add_model("m", CLASSES, {f"f{i}": "a" for i in range(5)})
    return lab


def checked(schema: Lab, query: str):
    return check_classes(schema, query, lambda n: itertools.product(CLASSES, repeat=n))


@pytest.mark.parametrize("query", EXACT)
def test_exact(schema: Lab, query: str) -> None:
    circuit = checked(schema, query)
    check_exact(circuit, query, {"n": EXPECTED, ROW: ""})


@pytest.mark.parametrize("query", EQUAL)
def test_equal_on_classes(schema: Lab, query: str) -> None:
    circuit = checked(schema, query)
    rng = np.random.default_rng(len(query))
    check_gradient(circuit, random_probabilities(rng, circuit), rng)


@pytest.mark.parametrize(("of", "words"), [
    ("sum(v)", "more than 4096 different"), ("avg(v)", "more than 4096 different"),
    ("sum(v::float8)", "floating-point"), ("sum(sqrt(i)::numeric)", "more than 4096 different")])
def test_refused_by_name(schema: Lab, of: str, words: str) -> None:
    """Where there is no small support: 0A000, which names it, its place and what helps."""
    query = f"SELECT DISTINCT {of} AS m FROM many WHERE {P} = 'a'"
    with pytest.raises(UnsupportedOperator, match=words) as raised:
        schema.circuit(query)
    assert raised.value.hint and of in raised.value.detail


def test_large_groups(schema: Lab) -> None:
    """An extreme of 60 rows, integers that make 3 661 sums, five distinct numbers 12 times each."""
    for of in ("max(v)", "sum(2 * i)", "sum(i % 5)", "sum(1.5 * (i % 3))", "avg(i % 3)"):
        query = f"SELECT DISTINCT {of} AS m FROM many WHERE {P} = 'a'"
        checked(schema, query)
