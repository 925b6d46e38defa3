"""What analysts ask of a shop with orders, customers, tickets and events.

The queries are in `fixtures/analyst_queries.json`.

1. On predicted classes the circuit equals PostgreSQL's own answer, cell by cell, under several
   relabellings (all rows of one class among them).
2. What a query's "exact" names (a column, or the probabilities of rows) equals the enumeration of
   all class assignments.
3. The slope of its cells equals finite differences.
4. "refused": 0A000 with these words, the place in the query and what to write instead.

Models: `fraud` on orders.memo and events.memo, `topic` and `stars` (numeric labels) on
tickets.body, `risk` on whole rows of customers (their columns x and g).
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from provenance_checks import check_expectation, check_gradient, evaluate
from provenance_family_parts import TEXTS, Query
from provenance_harness import (
    Lab,
    assignments,
    enumerate_expectation,
    random_probabilities,
)

from pgrain.errors import UnsupportedOperator

QUERIES = json.loads((Path(__file__).parent / "fixtures" / "analyst_queries.json").read_text())
MOST = 12_000       # assignments that are enumerated
SCHEMA = """
CREATE DOMAIN cents AS numeric(10, 2) CHECK (VALUE > -10000);
CREATE TYPE prio AS ENUM ('low', 'normal', 'high');
CREATE TYPE address AS (city text, zip text);
CREATE TABLE customers (id int, name text, x text, g int, "Region" text, home address, since date,
 vip boolean);
INSERT INTO customers VALUES
 (1, 'Ann', 'm0', 1, 'north', ('Bern', '3000'), '2024-01-01', true),
 (2, 'Bob', 'm1', 1, 'north', ('Bern', '3001'), '2024-02-29', false),
 (3, 'Cy', 'm0', 1, 'south', ('Rome', NULL), NULL, NULL),
 (4, 'Di', NULL, 2, NULL, NULL, '2025-01-01', true),
 (5, 'ann', 'm1', 2, 'South', ('bern', '3000'), '2025-03-31', false);
CREATE TABLE orders (id int, customer int, memo text, amount cents, fee float8, day date,
 at timestamptz, prio prio, status text, tags text[], eta interval, qty smallint);
INSERT INTO orders VALUES
 (1, 1, 'm0', 10.00, 0.5, '2026-01-01', '2026-01-01 08:00+00', 'low', 'open', '{a,b}', '1 day', 1),
 (2, 1, 'm1', 10.0, -0.0, '2026-01-01', '2026-01-01 09:30+00', 'high', 'open', '{}', '24:00', 2),
 (3, 2, 'm2', -5.25, 0.0, '2026-01-02', '2026-01-02 10:00+00', NULL, 'paid', NULL, NULL, 3),
 (4, 2, 'm0', NULL, NULL, '2026-01-02', NULL, 'normal', NULL, '{b}', '2 hours', NULL),
 (5, 3, 'm3', 99.99, 1e-3, '2026-02-01', '2026-02-01 23:59:59.5+00', 'high', 'paid', '{a}',
  '1 mon', 5),
 (6, NULL, NULL, 7.5, 2, '2026-02-01', '2026-02-02 00:00+00', 'low', 'open', '{a,NULL}',
  '-1 day', 1),
 (7, 4, 'm2', 10.00, 0.5, NULL, '2026-02-03 00:00+00', 'normal', 'OPEN', NULL, '1 day', 1),
 (7, 4, 'm2', 10.00, 0.5, NULL, '2026-02-03 00:00+00', 'normal', 'OPEN', NULL, '1 day', 1),
 (8, 9, 'm1', 0, 0, '2026-02-01', '2026-02-01 00:00+00', 'low', 'paid', '{c,a}', '0', 0);
CREATE TABLE tickets (id int, order_id int, body text, opened timestamptz, score int, agent text);
INSERT INTO tickets VALUES
 (1, 1, 'b0', '2026-01-02 00:00+00', 3, 'eve'), (2, 1, 'b1', '2026-01-03 00:00+00', NULL, 'eve'),
 (3, 3, 'b0', '2026-01-03 12:00+00', 5, 'max'), (4, 5, 'b2', NULL, 1, NULL),
 (5, NULL, 'b1', '2026-02-03 00:00+00', 4, 'max'), (6, 8, NULL, '2026-02-04 00:00+00', 2, 'Max');
CREATE TABLE events (id int, month int, memo text, val numeric) PARTITION BY LIST (month);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
CREATE TABLE events_x PARTITION OF events DEFAULT;
INSERT INTO events VALUES (1, 1, 'm0', 1.5), (2, 1, 'm1', NULL), (3, 2, 'm0', 2.50),
 (4, 2, 'm2', 2.5), (5, NULL, 'm3', 4), (6, 3, NULL, 5), (7, 2, 'm2', 2.5);
CREATE TABLE returns (id int, order_id int, memo text, amount numeric, day date);
CREATE SCHEMA other;
CREATE TABLE other.orders (id int, memo text);
CREATE VIEW judged AS SELECT o.*, pgrain.predict('fraud', o.memo) AS verdict FROM orders AS o;
CREATE VIEW daily AS SELECT day, count(*) AS total, count(*) FILTER (WHERE verdict = 'fraud') AS
 bad, sum(amount) FILTER (WHERE verdict = 'fraud') AS lost FROM judged GROUP BY day;
CREATE VIEW monthly AS SELECT date_trunc('month', day)::date AS month, sum(bad) AS bad,
 sum(total) AS total, max(bad) AS worst FROM daily GROUP BY 1;
CREATE VIEW about AS SELECT t.*, pgrain.predict('topic', t.body) AS topic,
 pgrain.predict('stars', t.body)::int AS stars FROM tickets AS t;
CREATE VIEW risky AS SELECT c.id, c."Region", pgrain.predict('risk', c) AS risk FROM customers AS c;
"""
MODELS = {"fraud": (["ok", "fraud"], [f"m{i}" for i in range(4)]),
          "topic": (["bug", "billing", "other"], [f"b{i}" for i in range(3)]),
          "stars": (["1", "3", "5"], [f"b{i}" for i in range(3)]),
          "risk": (["high", "low"], ['["m0", 1]', '["m1", 1]', '[null, 2]', '["m1", 2]'])}


def filled(lab: Lab) -> Lab:
    """The shop, with models of random probabilities."""
    lab.connection.execute(SCHEMA)
    rng = np.random.default_rng(1)
    for model, (classes, values) in MODELS.items():
        kind, features = ("columns", ["x", "g"]) if model == "risk" else ("text", ())
        lab.add_model(model, classes, {value: classes[0] for value in values}, kind, features)
        shares = rng.dirichlet(np.ones(len(classes)), len(values)).tolist()
        lab.set_probabilities(model, dict(zip(values, shares, strict=True)))
    return lab


@pytest.fixture(scope="module")
def shop(lab: Lab) -> Lab:
    return filled(lab)


def relabelled(shop: Lab, number: int, chance: random.Random) -> None:
    for model, (classes, values) in MODELS.items():
        shop.relabel(model, {value: classes[number % len(classes)] if number < 2
                             else chance.choice(classes) for value in values})


@pytest.mark.parametrize("case", QUERIES, ids=[case["name"] for case in QUERIES])
def test_query(shop: Lab, case: dict) -> None:
    query = Query(case["query"], case.get("exact", {}))
    if "refused" in case:
        with pytest.raises(UnsupportedOperator, match=case["refused"]) as caught:
            shop.circuit(query.text)
        assert caught.value.detail.startswith("Line 1, column ") and caught.value.hint
        return
    circuit, capture = shop.circuit(query.text)
    chance, rng = random.Random(case["name"]), np.random.default_rng(len(query.text))
    for number in range(6):
        relabelled(shop, number, chance)
        evaluate(shop, circuit, query, shop.predicted(circuit)).compare(shop.result(capture))
    P = random_probabilities(rng, circuit)
    if query.exact:
        assert assignments(circuit) <= MOST
        texts_of = tuple(c for c, d in enumerate(circuit.columns)
                         if query.exact.get(d.name) == TEXTS)
        raw = P if "predict_proba" in query.text else None
        assert check_expectation(circuit, query, P,
                                 enumerate_expectation(circuit, P, raw, texts_of))
    check_gradient(circuit, P, rng)
    capture.render(circuit)
