"""[NOT] EXISTS whose answers the reader finds by the values of its key: `Unit.by`.

Each query is compared with PostgreSQL under every relabelling, and in expectation with the
enumeration of all assignments.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from provenance_harness import Lab, enumerate_expectation, random_probabilities

from pgrain.errors import LimitExceeded
from pgrain.provenance.gates.threshold import Threshold

CLASSES = ["a", "b"]
SCHEMA = """
CREATE TABLE o (id int, big int8, small int2, g text, x text);
INSERT INTO o VALUES (1, -9223372036854775808, 1, 'p', 'f0'), (2, 0, 2, 'p', 'f1'),
                     (3, NULL, NULL, 'q', 'f2'), (1, 9223372036854775807, -1, 'q', NULL),
                     (NULL, 5, 1, NULL, 'f1'), (7, 7, 7, 'r', 'f0');
CREATE TABLE i (o int, big int8, small int2, x text);
INSERT INTO i VALUES (1, -9223372036854775808, 1, 'f0'), (1, 0, 1, 'f3'), (2, 0, 2, 'f1'),
                     (3, NULL, NULL, 'f2'), (NULL, NULL, NULL, 'f3'), (2, 5, 1, NULL);
"""
INNER = "SELECT 1 FROM i WHERE {0} AND pgrain.predict('m', i.x) = 'a'"
KEYS = ["i.o = o.id", "i.big = o.big", "i.small = o.small AND i.o = o.id",
        "i.big IS NOT DISTINCT FROM o.big", "(i.o = o.id OR o.big IS NULL)",
        "i.o < o.id", "i.small = o.small AND i.big IS NOT DISTINCT FROM o.big"]
SHAPES = ["SELECT g, count(*) AS n, sum(o.id) AS s FROM o WHERE {0} GROUP BY g",
          "SELECT count(*) AS n FROM o WHERE id > 0 AND {0}",
          "SELECT pgrain.predict('m', o.x) AS l, count(*) AS n FROM o WHERE {0} GROUP BY 1"]


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.connection.execute(SCHEMA)
    lab.add_model("m", CLASSES, {f"f{i}": "a" for i in range(4)})
    many = [f"c{i}" for i in range(60)]
    lab.add_model("many", many, {"v": "c0"})
    return lab


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("form", ["EXISTS ({0})", "NOT EXISTS ({0})", "NOT (NOT EXISTS ({0}))"])
def test_equals_postgresql_under_every_relabelling(schema: Lab, shape, key, form) -> None:
    query = shape.format(form.format(INNER.format(key)))
    circuit, capture = schema.circuit(query)
    units = [unit for block in capture.program.blocks if block.kind == "select"
             for unit in block.units]
    assert any(unit.by is not None for unit in units)
    for labels in itertools.product(CLASSES, repeat=4):
        schema.relabel("m", {f"f{i}": label for i, label in enumerate(labels)})
        circuit.value(schema.predicted(circuit)).compare(schema.result(capture))
    if "SELECT pgrain" in shape:       # the group's label and EXISTS share variables
        return
    P = random_probabilities(np.random.default_rng(len(query)), circuit)
    expected = enumerate_expectation(circuit, P).numbers
    relaxed = circuit.relaxed(P).numbers
    n = [c.name for c in capture.output_columns].index("n")
    assert relaxed[:, n] == pytest.approx(expected[:, n], abs=1e-12)


def test_several_at_once(schema: Lab) -> None:
    inner = [INNER.format(key) for key in KEYS]
    query = (f"SELECT g, count(*) AS n FROM o WHERE EXISTS ({inner[0]}) AND NOT EXISTS "
             f"({inner[1]}) AND (EXISTS ({inner[3]}) OR g = 'p') GROUP BY g")
    circuit, capture = schema.circuit(query)
    for labels in itertools.product(CLASSES, repeat=4):
        schema.relabel("m", {f"f{i}": label for i, label in enumerate(labels)})
        circuit.value(schema.predicted(circuit)).compare(schema.result(capture))


def test_a_group_that_no_classes_give_is_not_possible(schema: Lab) -> None:
    """Its rows have no partner at all: it is not among the absent rows."""
    inner = INNER.format(KEYS[0])
    circuit, _ = schema.circuit(f"SELECT g, count(*) AS n FROM o WHERE EXISTS ({inner}) GROUP BY g")
    every = [row["output"]["g"] for row in
             circuit.value(schema.predicted(circuit)).json_rows(include_absent=True)]
    assert sorted(every) == ["p", "q"] and len(circuit.texts) == 4


def test_a_row_is_not_shown_for_nothing(schema: Lab) -> None:
    """Without grouping, rows for which it can't be true are dropped by PostgreSQL."""
    circuit, _ = schema.circuit(f"SELECT id, g FROM o WHERE EXISTS ({INNER.format(KEYS[0])})")
    assert sorted(text[0] for text in circuit.texts) == ["1", "1", "2", "3"]


@pytest.mark.parametrize("form", ["EXISTS", "NOT EXISTS"])
def test_gradient_of_two_thousand_variables_in_one_exists(schema: Lab, form: str) -> None:
    """Along single variables and along random directions: finite differences, through SQL."""
    model = f"wide {form}"
    schema.add_model(model, CLASSES, {f"w{i}": "b" for i in range(2000)})
    query = (f"SELECT count(*) AS n FROM o WHERE {form} (SELECT 1 FROM generate_series(0, 1999) AS"
             f" i (k) WHERE o.id IS NOT NULL AND pgrain.predict('{model}', 'w' || i.k) = 'a')")
    circuit, _ = schema.circuit(query)
    assert circuit.shapes[model] == (2000, 2)
    rng = np.random.default_rng(0)
    p = (rng.random(2000) + 0.1) * 1e-3      # no step leads below 0

    def value(p) -> float:
        P = {model: np.stack([p, 1 - p], axis=1)}
        return float(circuit.relaxed(P).numbers[0, 0])

    slope = circuit.gradient({model: np.stack([p, 1 - p], axis=1)}, {(0, 0): 1.0})[model]
    slope = slope[:, 0] - slope[:, 1]
    none = np.prod(1 - p)       # of the six rows of o one has no id: it is the last of NOT EXISTS
    assert value(p) == pytest.approx(5 * (1 - none) if form == "EXISTS" else 5 * none + 1,
                                     rel=1e-10)
    directions = [*np.eye(2000)[[0, 999, 1999]], *rng.normal(size=(4, 2000))]
    for direction in directions:
        step = 1e-6
        numeric = (value(p + step * direction) - value(p - step * direction)) / (2 * step)
        assert slope @ direction == pytest.approx(numeric, rel=1e-5)


def test_what_must_be_listed_says_so(schema: Lab) -> None:
    """Five million pairs of a label join under min beside count: 54000, with what could be written
    instead."""
    schema.add_model("pair", CLASSES, {f"g{i}": "a" for i in range(7)})
    schema.connection.execute("CREATE TABLE IF NOT EXISTS wide AS SELECT i AS id, 'g' || i % 7 AS "
                              "x FROM generate_series(1, 2200) AS i")
    with pytest.raises(LimitExceeded) as caught:
        schema.circuit("SELECT min(b.id) AS n, count(*) AS m FROM wide AS a JOIN wide AS b ON "
                       "pgrain.predict('pair', a.x) = pgrain.predict('pair', b.x)")
    assert "IN (SELECT" in caught.value.hint
    assert "listed for min, count" in caught.value.detail


def test_few_keys_find_their_rows_by_an_index(schema: Lab) -> None:
    """Without nested loops PostgreSQL would read the whole table for ten keys."""
    schema.connection.execute(
        "CREATE TABLE IF NOT EXISTS many AS SELECT i AS id, i / 2 AS o, 'f' || i % 4 AS x FROM "
        "generate_series(1, 100000) AS i; CREATE INDEX IF NOT EXISTS many_o ON many (o); "
        "ANALYZE many")
    query = ("SELECT count(*) AS n FROM many AS a WHERE id BETWEEN 5 AND 15 AND EXISTS (SELECT 1 "
             "FROM many AS b WHERE b.o = a.id AND pgrain.predict('m', b.x) = 'a')")
    circuit, capture = schema.circuit(query)
    circuit.value(schema.predicted(circuit)).compare(schema.result(capture))
    schema.connection.execute("SET enable_nestloop = off")
    try:
        plan = "\n".join(row[0] for row in schema.rows(
            "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) "
            + capture.sql.replace("$1", "'\\x00'::bytea")))
    finally:
        schema.connection.execute("RESET enable_nestloop")
    scans = [line for line in plan.split("\n") if "on many b" in line or "on many_o" in line]
    assert any("Index" in line and "never executed" not in line for line in scans)
    assert all("never executed" in line for line in scans if "Seq Scan" in line)


def test_many_keys_are_hashed_and_no_row_is_kept(schema: Lab) -> None:
    """Not the wide side of EXISTS, of which PostgreSQL 15 knows more than of a CTE of keys."""
    schema.connection.execute(
        "CREATE TABLE IF NOT EXISTS many AS SELECT i AS id, i / 2 AS o, 'f' || i % 4 AS x FROM "
        "generate_series(1, 100000) AS i; ANALYZE many")
    query = ("SELECT count(*) AS n FROM many AS a WHERE id < 60000 AND EXISTS (SELECT 1 FROM many "
             "AS b WHERE b.o = a.id AND pgrain.predict('m', b.x) = 'a')")
    circuit, capture = schema.circuit(query)
    circuit.value(schema.predicted(circuit)).compare(schema.result(capture))
    schema.connection.execute("SET enable_nestloop = off")
    try:
        plan = "\n".join(row[0] for row in schema.rows(
            "EXPLAIN (VERBOSE, COSTS OFF) " + capture.sql.replace("$1", "'\\x00'::bytea")))
    finally:
        schema.connection.execute("RESET enable_nestloop")
    assert "Inner Unique: true" in plan
    kept = {line.split()[1] for line in plan.split("\n") if line.split()[:1] == ["CTE"]}
    assert "_pgrain_k0" in kept and not any(name.startswith("_pgrain_b") for name in kept)


def test_more_possible_rows_than_an_int4_can_number_are_over_the_limit(schema: Lab) -> None:
    """216 000 assignments of three labels for each of 10 000 rows: 54000, not 22003."""
    labels = ", ".join(f"pgrain.predict('many', t.x || '{c}') AS l{c}" for c in "abc")
    query = (f"SELECT count(*) AS n FROM (SELECT DISTINCT {labels}, i FROM "
             "generate_series(1, 10000) AS i, (VALUES ('v')) AS t (x)) AS s")
    with pytest.raises(LimitExceeded, match="factor_pairs is limited"):
        schema.circuit(query)


def test_in_asks_for_the_values_of_the_columns_that_it_names(schema: Lab) -> None:
    """o.g is no whole row of o; and where NULL is as good as false, no pair is listed for it."""
    inner = "SELECT i.o, i.x FROM i WHERE pgrain.predict('m', i.x) = 'a'"
    _, capture = schema.circuit(f"SELECT count(*) AS n FROM o WHERE (o.id, o.x) IN ({inner})")
    assert [key.columns for key in capture.program.keys] == [[("o", "id", 23), ("o", "x", 25)]]
    block = next(b for b in capture.program.blocks if b.kind == "predicate")
    assert block.unknown is None
    _, capture = schema.circuit(f"SELECT count(*) AS n FROM o WHERE (o.id, o.x) NOT IN ({inner})")
    block = next(b for b in capture.program.blocks if b.kind == "predicate")
    assert block.unknown is not None


def test_rows_above_one_average_share_its_thresholds(schema: Lab) -> None:
    """A threshold for each number that is compared with it, not for each row."""
    query = ("SELECT count(*) AS n FROM (VALUES (1), (1), (2), (NULL), (NULL), (2), (1)) AS v (k) "
             "WHERE k > (SELECT avg(o.small) FROM o WHERE pgrain.predict('m', o.x) = 'a')")
    circuit, capture = schema.circuit(query)
    thresholds = [layer for layer in circuit.network.layers if isinstance(layer, Threshold)]
    assert sum(layer.n for layer in thresholds) == 3
    for labels in itertools.product(CLASSES, repeat=4):
        schema.relabel("m", {f"f{i}": label for i, label in enumerate(labels)})
        circuit.value(schema.predicted(circuit)).compare(schema.result(capture))
