"""Numbers against the greatest, least or mean of such numbers, and these extremes themselves.

Each query is compared with PostgreSQL under relabellings, cell by cell; in expectation with the
enumeration of all assignments, where groups share variables, too; its gradient with finite
differences. What is too large for diagrams is compared with convolutions.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from provenance_checks import check_classes, check_exact, check_gradient
from provenance_family_parts import EXPECTED, IF_KNOWN, ROW, TEXTS
from provenance_harness import Lab, random_probabilities

CLASSES = ["a", "b"]
P = "pgrain.predict('m', x)"
SCHEMA = """
CREATE TABLE apart (id int, x text, g int, h int, v numeric);
INSERT INTO apart SELECT i, 'f' || i, i % 3, i % 2, i * 1.5 FROM generate_series(0, 7) AS i;
CREATE TABLE common (id int, x text, g int, h int, v numeric);
INSERT INTO common SELECT i, 'f' || i * i % 5, i % 3, i % 2, i % 4 FROM generate_series(0, 9) AS i;
INSERT INTO common VALUES (10, NULL, 3, 0, 1), (11, 'f1', NULL, 1, NULL);
CREATE TABLE wide (x text, g int);
INSERT INTO wide SELECT 'w' || i, i % 4 FROM generate_series(1, 120) AS i;
CREATE TABLE many (x text, g int);
INSERT INTO many SELECT 'f' || i % 8, i % 20 FROM generate_series(1, 60) AS i;
"""
TABLES = ["apart", "common"]
COUNTS = {"where": "SELECT g, count(*) AS n FROM {t} WHERE {p} = 'a' GROUP BY g",
          "filter": "SELECT g, count(*) FILTER (WHERE {p} = 'a') AS n FROM {t} GROUP BY g",
          "label": "SELECT {p} AS g, count(*) AS n FROM {t} GROUP BY 1"}
AGAINST = ["n = (SELECT max(n) FROM k)", "n <> (SELECT max(n) FROM k)",
           "n < (SELECT max(n) FROM k)", "n > (SELECT min(n) FROM k)",
           "n = (SELECT min(n) FROM k)", "2 * n > (SELECT max(n) FROM k)",
           "n > (SELECT avg(n) FROM k)", "n <= (SELECT avg(n) FROM k)",
           "n = (SELECT avg(n) FROM k)", "2 * n >= (SELECT sum(n) FROM k)",
           "n + 1 >= (SELECT max(n) FROM k WHERE g IS NOT NULL)"]
EXTREMES = [
    ("SELECT max(n) AS top, min(n) AS least, avg(n) AS mean, sum(n) AS n FROM k",
     {"top": IF_KNOWN, "least": IF_KNOWN, "n": EXPECTED}),
    ("SELECT max(2 * n + 1) AS top, max(n) - min(n) AS spread FROM k",
     {"top": IF_KNOWN, "spread": IF_KNOWN}),
]
MORE = [
    ("SELECT h, max(n) AS top, min(n) AS least FROM (SELECT h, g, count(*) AS n FROM {t} WHERE {p} "
     "= 'a' GROUP BY h, g) AS k GROUP BY h", {"top": IF_KNOWN, "least": IF_KNOWN}),
    ("SELECT max(s) AS top, min(s) AS least FROM (SELECT g, sum(v) AS s FROM {t} WHERE {p} = 'a' "
     "GROUP BY g) AS k", {"top": IF_KNOWN, "least": IF_KNOWN}),
    ("WITH k AS (SELECT g, sum(v) AS s FROM {t} WHERE {p} = 'a' GROUP BY g) SELECT g FROM k WHERE "
     "s = (SELECT max(s) FROM k)", {ROW: ""}),
    ("SELECT max(coalesce(q.n, 0)) AS top FROM (VALUES (0), (1), (7)) AS d (g) LEFT JOIN (SELECT g,"
     " count(*) AS n FROM {t} WHERE {p} = 'a' GROUP BY g) AS q USING (g)", {"top": IF_KNOWN}),
    ("WITH k AS (SELECT g, count(*) AS n FROM {t} WHERE {p} = 'a' GROUP BY g) SELECT count(*) AS n "
     "FROM k WHERE n = (SELECT max(n) FROM k)", {"n": EXPECTED}),
    ("WITH k AS (SELECT g, count(*) AS n FROM {t} WHERE {p} = 'a' GROUP BY g) SELECT max(n) > 2 AS "
     "shown FROM k", {"shown": TEXTS}),
    ("SELECT g FROM {t} WHERE {p} = 'a' GROUP BY g HAVING count(*) >= (SELECT max(n) FROM (SELECT "
     "count(*) AS n FROM {t} WHERE {p} = 'a' GROUP BY g) AS k)", {ROW: ""}),
]
VALUES = [
    "SELECT DISTINCT n FROM k", "SELECT n, count(*) AS rows FROM k GROUP BY n",
    "SELECT n FROM k UNION SELECT 2", "SELECT DISTINCT n % 2 FROM k",
    "SELECT n FROM k EXCEPT SELECT 1",
    "SELECT 2 IN (SELECT n FROM k) AS shown",
]
SEVERAL = [
    "SELECT DISTINCT a, b FROM (SELECT g, count(*) FILTER (WHERE {p} = 'a') AS a, sum(v) FILTER "
    "(WHERE {p} = 'b') AS b FROM {t} GROUP BY g) AS k",
    "SELECT DISTINCT max(v) AS top FROM {t} WHERE {p} = 'a' GROUP BY g",
    "SELECT DISTINCT sum(v) AS s, count(*) AS n FROM {t} WHERE {p} = 'a' GROUP BY g",
]
EXACT = [
    *((f"WITH k AS ({of}) {shown}", {"shown": TEXTS, ROW: ""})
      for of in COUNTS.values() for shown in VALUES),
    *((shown, {ROW: ""}) for shown in SEVERAL),
    *((f"WITH k AS ({of}) SELECT g FROM k WHERE {test}", {ROW: ""})
      for of in COUNTS.values() for test in AGAINST),
    *((f"WITH k AS ({of}) {shown}", exact) for of in COUNTS.values() for shown, exact in EXTREMES),
    *MORE]


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.connection.execute(SCHEMA)
    lab.add_model("m", CLASSES, {f"f{i}": "a" for i in range(8)}
                  | {f"w{i}": "a" for i in range(1, 121)})
    return lab


def some(n: int) -> list:
    """Labels of n values: some 32 of all, nine at random where there are too many."""
    every = list(itertools.product(CLASSES, repeat=n)) if n < 9 else [
        np.random.default_rng(i).choice(CLASSES, n).tolist() for i in range(9)]
    return every[::max(len(every) // 32, 1)]


def checked(schema: Lab, query: str):
    return check_classes(schema, query, some)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("query", "exact"), EXACT)
def test_exact(schema: Lab, query: str, exact: dict, table: str) -> None:
    query = query.format(t=table, p=P)
    circuit = checked(schema, query)
    check_exact(circuit, query, exact)


def distribution(p: np.ndarray) -> np.ndarray:
    """(n + 1,) of the number of successes."""
    made = np.ones(1)
    for q in p:
        made = np.convolve(made, [1 - q, q])
    return made


@pytest.mark.parametrize("of", ["where", "filter"])
def test_extremes_of_large_groups(schema: Lab, of: str) -> None:
    """Thirty rows a group, too many for diagrams: by convolutions, exact."""
    counted = COUNTS[of].format(t="wide", p=P)
    circuit = checked(schema, f"SELECT max(n) AS top, min(n) AS least FROM ({counted}) AS k")
    rng = np.random.default_rng(7)
    P_ = random_probabilities(rng, circuit)
    group_of = dict(schema.rows("SELECT x, g FROM wide"))
    group = np.array([group_of[value] for value in schema.values("m", circuit)])
    n = np.stack([distribution(P_["m"][group == g, 0]) for g in range(4)])
    absent = n[:, :1] * (of == "where")         # a group without rows is not there
    at_most = np.cumsum(n, axis=1).prod(axis=0)
    top = np.diff(at_most, prepend=absent.prod())[1:] @ np.arange(1, 31)
    at_least = np.cumsum(n[:, ::-1], axis=1)[:, ::-1][:, 1:]        # from 1 on
    least = ((at_least + absent).prod(axis=0) - absent.prod()).sum()
    got = circuit.relaxed(P_).numbers[0]
    assert got == pytest.approx(np.array([top, least]) / (1 - absent.prod()), rel=1e-9)
    check_gradient(circuit, P_, rng)


@pytest.mark.parametrize("of", ["where", "filter"])
def test_the_greatest_of_many_groups(schema: Lab, of: str) -> None:
    """Twenty groups, too many for diagrams: each one's chance to be the greatest, exact."""
    counted = COUNTS[of].format(t="(SELECT x, row_number() OVER () % 20 AS g FROM wide) AS t", p=P)
    circuit = checked(schema, f"WITH k AS ({counted}) SELECT g FROM k WHERE n = "
                                    "(SELECT max(n) FROM k)")
    rng = np.random.default_rng(8)
    P_ = random_probabilities(rng, circuit)
    group_of = dict(schema.rows("SELECT x, row_number() OVER () % 20 FROM wide"))
    group = np.array([group_of[value] for value in schema.values("m", circuit)])
    n = np.stack([distribution(P_["m"][group == g, 0]) for g in range(20)])
    at_most = np.cumsum(n, axis=1)
    first = 1 if of == "where" else 0           # a group without rows is not there
    relaxed = circuit.relaxed(P_)
    assert len(relaxed.present) == 20
    for row in range(20):
        g = int(relaxed.text(row, 0))
        chance = (n[g] * np.delete(at_most, g, axis=0).prod(axis=0))[first:].sum()
        assert relaxed.weight[row] == pytest.approx(chance, rel=1e-9)
    check_gradient(circuit, P_, rng)


@pytest.mark.parametrize("test", AGAINST[:8])
def test_many_groups(schema: Lab, test: str) -> None:
    """More groups than diagrams take up: PostgreSQL's answer on classes, and a slope."""
    circuit = checked(schema, f"WITH k AS ({COUNTS['where'].format(t='many', p=P)}) SELECT g "
                                    f"FROM k WHERE {test}")
    rng = np.random.default_rng(len(test))
    check_gradient(circuit, random_probabilities(rng, circuit), rng)
