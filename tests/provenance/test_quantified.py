"""n >= ALL (SELECT n FROM k) and its relatives: numbers of the circuit before ANY and ALL of rows
that depend on predictions, with NULLs among them, and with none at all.

Each query equals PostgreSQL's own under relabellings; counts equal the enumeration of all
assignments, variables that groups share included. The errors of the rest are bounded as
docs/dev/semantics.md says.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from provenance_checks import check_classes, check_exact, check_gradient
from provenance_family_parts import ROW, TEXTS
from provenance_harness import Lab, enumerate_expectation, random_probabilities

from pgrain.errors import UnsupportedOperator

P = "pgrain.predict('m', x) = 'a'"
SCHEMA = """
CREATE TABLE apart (x text, g int, v numeric, f float8);
INSERT INTO apart VALUES ('f0', 0, 1, 0.5), ('f1', 0, NULL, 1), ('f2', 1, 2, 2), ('f3', 1, 3, 2),
 ('f4', 2, NULL, NULL), ('f5', 3, 1, 0.5);
CREATE TABLE common (x text, g int, v numeric, f float8);
INSERT INTO common VALUES ('f0', 0, 1, 1), ('f1', 0, 2, 1), ('f0', 1, 2, 2), ('f2', 1, NULL, 3),
 ('f1', 2, NULL, 1), ('f3', 2, -1, 0), (NULL, 3, 4, 1), ('f3', NULL, 5, 2);
"""
TABLES = ["apart", "common"]
COUNT = "WITH k AS (SELECT g, count(*) AS n FROM {t} WHERE {p} GROUP BY g) "
EMPTY = "WITH k AS (SELECT g, count(*) FILTER (WHERE {p}) AS n FROM {t} GROUP BY g) "
SUM = "WITH k AS (SELECT g, sum(v) AS n FROM {t} WHERE {p} GROUP BY g) "
ORDERS = [">= ALL", "> ALL", "<= ALL", "< ALL", ">= ANY", "> SOME", "<= ANY", "< ANY", "= ALL",
          "<> ANY"]
COUNTS = [
    *(f"SELECT g FROM k WHERE n {order} (SELECT n FROM k)" for order in ORDERS),
    "SELECT g, n > ALL (SELECT i.n FROM k AS i WHERE i.g <> k.g) AS shown FROM k",
    "SELECT g FROM k WHERE n + 1 > ALL (SELECT n FROM k)",
    "SELECT g FROM k WHERE NOT (n) < ANY (SELECT n FROM k)",
    "SELECT g FROM k WHERE n > ALL (SELECT n FROM k WHERE g > 100)",
    "SELECT g FROM k WHERE n < ANY (SELECT n FROM k WHERE g > 100)",
]
HAVING = ("SELECT g FROM {t} WHERE {p} GROUP BY g HAVING (count(*)) >= ALL "
          "(SELECT count(*) FROM {t} WHERE {p} GROUP BY g)")
SCALAR = ("SELECT d.g FROM generate_series(0, 3) AS d (g) WHERE (SELECT count(*) FROM {t} AS o "
          "WHERE o.g = d.g AND pgrain.predict('m', o.x) = 'a') >= ALL (SELECT count(*) FROM {t} "
          "WHERE {p} GROUP BY g)")
# What is compared is NULL, or has NULLs beside it: none of these is exact where that can be.
NULLS = [
    *(f"SELECT g, n, n {order} (SELECT n FROM k) AS shown FROM k" for order in
      (">= ALL", "< ANY", "= ALL", "<> ANY")),
    "SELECT g FROM k WHERE n >= ALL (SELECT n FROM k WHERE n IS NOT NULL)",
    "SELECT g, n > ALL (SELECT n FROM k WHERE g > 100) AS shown FROM k",
    "SELECT g FROM k WHERE n <= ALL (SELECT i.n FROM k AS i WHERE i.g > k.g)",
    "SELECT 3 > ALL (SELECT n FROM k) AS shown, 2 < ANY (SELECT n FROM k) AS some",
]
VALUES = [
    *(f"SELECT g FROM k WHERE n {test} (SELECT n FROM k)" for test in
      ("= ANY", "= SOME", "<> ALL", "IN", "NOT IN")),
    "SELECT g FROM k WHERE n = ANY (SELECT i.n FROM k AS i WHERE i.g <> k.g)",
    "SELECT g FROM k WHERE n NOT IN (SELECT i.n FROM k AS i WHERE i.g > k.g)",
]
EXTREMES = ("WITH k AS (SELECT g, {of}(f) AS n FROM {t} WHERE {p} GROUP BY g) "
            "SELECT g FROM k WHERE n >= ALL (SELECT n FROM k)")


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.connection.execute(SCHEMA)
    lab.add_model("m", ["a", "b"], {f"f{i}": "a" for i in range(6)})
    return lab


def every(n: int) -> list:
    """Labels of n values: half of all, those of one class among them."""
    return [labels for labels in itertools.product("ab", repeat=n)
            if labels.count("a") % 2 == n % 2 or n < 2]


def error(circuit, seed: int) -> float:
    """Largest error of a row's probability, slopes checked on the way."""
    rng = np.random.default_rng(seed)
    P_ = random_probabilities(rng, circuit)
    check_gradient(circuit, P_, rng)
    expected = enumerate_expectation(circuit, P_)
    return float(np.abs(circuit.relaxed(P_).weight - expected.present).max(initial=0.0))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("query", [*(of + shown for of in (COUNT, EMPTY) for shown in COUNTS),
                                   HAVING, SCALAR])
def test_counts_are_exact(schema: Lab, query: str, table: str) -> None:
    query = query.format(t=table, p=P)
    check_exact(check_classes(schema, query, every), query, {ROW: "", "shown": TEXTS})


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("shown", NULLS)
def test_nulls_and_no_rows(schema: Lab, shown: str, table: str) -> None:
    assert error(check_classes(schema, (SUM + shown).format(t=table, p=P), every), 1) < 0.25


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("of", [COUNT, EMPTY, SUM])
@pytest.mark.parametrize("shown", VALUES)
def test_values(schema: Lab, of: str, shown: str, table: str) -> None:
    circuit = check_classes(schema, (of + shown).format(t=table, p=P), every)
    # Over groups without common variables that a count is v is one event, before IN and behind it.
    alone = table == "apart" and ("WHERE i.g" in shown or of == EMPTY)
    missing = table == "apart" and of == COUNT
    assert error(circuit, 2) < (1e-9 if alone else 0.05 if missing else 0.3)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("of", ["max", "min"])
def test_extremes(schema: Lab, of: str, table: str) -> None:
    circuit = check_classes(schema, EXTREMES.format(of=of, t=table, p=P), every)
    assert error(circuit, 3) < 0.25


def test_a_refusal_says_where(schema: Lab) -> None:
    """Places are those of the caller's text, not of what it was spelled as."""
    query = ("WITH k AS (SELECT g, sum(f) AS s FROM apart WHERE " + P + " GROUP BY g)\n"
             "SELECT g FROM k WHERE s >= ALL (SELECT s FROM k) AND s = ANY (SELECT s FROM k)")
    with pytest.raises(UnsupportedOperator) as caught:
        schema.circuit(query)
    assert caught.value.detail.startswith("Line ") and "every_row" not in caught.value.detail
    assert caught.value.hint
