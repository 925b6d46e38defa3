"""Queries written to break the walker (`fixtures/nasty_queries.json`), after what must work.

Each is compared with PostgreSQL, cell by cell, under several relabellings; where its expectation is
said to be exact, with the enumeration of all assignments. "refused": it must be 0A000, with a hint;
"known": the model has a class that no row has; "reduced": small sides of joins are reduced, too.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from provenance_harness import Lab, assignments, enumerate_expectation, random_probabilities

from pgrain.errors import UnsupportedOperator
from pgrain.provenance import semijoin

QUERIES = json.loads((Path(__file__).parent / "fixtures" / "nasty_queries.json").read_text())
VALUES = [f"f{i}" for i in range(4)]
SCHEMA = """
CREATE TABLE t (id int, x text, c text, g int, v numeric, d date, ts timestamptz, iv interval,
                j jsonb, f float8, b boolean);
INSERT INTO t VALUES
 (1, 'f0', 'a', 0, 1, '2024-01-01', '2024-01-01 00:00+00', '1 day', '{"a":1}', 0.5, true),
 (2, 'f1', 'b', 0, 1.00, '2024-01-02', '2024-01-02 00:00+00', '24 hours', '{"a": 1.0}', -0.0,
  false),
 (3, 'f2', NULL, 1, -2, '2024-02-01', NULL, '30 days', '{"b":2}', 0, NULL),
 (4, NULL, 'a', 1, 3, NULL, '2024-02-02 00:00+00', '1 month', NULL, NULL, true),
 (5, 'f0', 'a', 1, 1, '2024-02-01', '2024-03-01 00:00+00', NULL, '[1]', 2.5, false),
 (5, 'f0', 'a', 1, 1, '2024-02-01', '2024-03-01 00:00+00', NULL, '[1]', 2.5, false);
CREATE TABLE r (id int, x text, c text, g int, w numeric);
INSERT INTO r VALUES (1, 'f0', 'a', 0, 10), (2, 'f3', 'b', 1, 20), (3, NULL, NULL, NULL, 30),
                     (4, 'f1', 'a', 1, NULL);
CREATE TABLE e (id int, x text, c text, g int, v numeric);
CREATE TABLE part (id int, x text, m int, v numeric) PARTITION BY RANGE (m);
CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (1) TO (2);
CREATE TABLE part2 PARTITION OF part FOR VALUES FROM (2) TO (3);
INSERT INTO part VALUES (1, 'f0', 1, 1), (2, 'f1', 1, 2), (3, 'f2', 2, 3), (4, NULL, 2, 4);
CREATE TABLE mother (id int, x text);
CREATE TABLE child (extra int) INHERITS (mother);
INSERT INTO mother VALUES (1, 'f0');
INSERT INTO child VALUES (2, 'f1', 9);
CREATE VIEW vt AS SELECT id, g, v, pgrain.predict('m', x) AS lab FROM t;
CREATE VIEW vv AS SELECT lab, count(*) AS n FROM vt GROUP BY lab;
CREATE MATERIALIZED VIEW mv AS SELECT id, x, g FROM t WHERE id < 4;
CREATE TABLE guarded (id int, x text, owner text);
INSERT INTO guarded VALUES (1, 'f0', 'u'), (2, 'f1', 'u'), (3, 'f2', 'z'), (4, NULL, 'u');
CREATE FUNCTION three() RETURNS TABLE (k int, x text) LANGUAGE sql STABLE
 AS $$ VALUES (1, 'f0'), (2, 'f1'), (2, NULL) $$;
"""
MODELS = {"m": ["a", "b"], "k": ["0", "1", "2"], "z": ["a", "x"], "u": ["0", "1", "unknown"]}


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.connection.execute(SCHEMA)
    for model, classes in MODELS.items():
        lab.add_model(model, classes, {value: classes[0] for value in VALUES})
        probabilities = {value: [0.5 + 0.1 * i, 0.5 - 0.1 * i, *[0.0] * (len(classes) - 2)]
                         for i, value in enumerate(VALUES)}
        lab.set_probabilities(model, probabilities)
    return lab


def relabelled(schema: Lab, number: int, chance: random.Random, known: bool) -> None:
    for model, classes in MODELS.items():
        classes = classes[:2] if known else classes
        schema.relabel(model, {value: classes[number] if number < 2 else chance.choice(classes)
                               for value in VALUES})


@pytest.mark.parametrize("case", QUERIES, ids=[case["name"] for case in QUERIES])
def test_nasty(schema: Lab, monkeypatch, case: dict) -> None:
    query = case["query"]
    if case.get("reduced"):
        monkeypatch.setattr(semijoin, "FEW_PAIRS", -1)
        monkeypatch.setattr(semijoin, "GAIN", 0)
    if case.get("refused"):
        with pytest.raises(UnsupportedOperator) as caught:
            schema.circuit(query)
        assert caught.value.detail, "a refusal names the place"
        return
    circuit, capture = schema.circuit(query)
    shown = "predict_proba" in query
    chance = random.Random(query)
    for number in range(6):
        relabelled(schema, number, chance, case.get("known", False))
        raw = [schema.probabilities(circuit)] if shown else []
        circuit.value(schema.predicted(circuit), *raw).compare(schema.result(capture))
    if not case["exact"] or assignments(circuit) > 3000:
        return
    P = random_probabilities(np.random.default_rng(3), circuit)
    expected = enumerate_expectation(circuit, P).numbers
    relaxed = np.nan_to_num(circuit.relaxed(P).numbers)
    for number, column in enumerate(capture.output_columns):
        if column.role == "aggregate" and column.name != "approx":
            assert relaxed[:, number] == pytest.approx(expected[:, number], abs=1e-9)
