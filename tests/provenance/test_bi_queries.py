"""Queries as BI tools and dbt models write them, over the shop of `test_analyst_queries`.

The queries are in `fixtures/bi_queries.json`.

1. On predicted classes the circuit equals PostgreSQL's own answer, cell by cell, under several
   relabellings (all rows of one class among them).
2. "exact": each number is its expectation, by enumeration of all class assignments, or that given
   that it is known; labels and rows have their probabilities.
3. The slope of its cells equals finite differences.
4. "refused": these words, and what to write instead.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from provenance_checks import check_gradient, counts_rows, evaluate
from provenance_family_parts import Query
from provenance_harness import Lab, assignments, enumerate_expectation, random_probabilities
from test_analyst_queries import MOST, filled, relabelled

from pgrain.errors import PgrainError

QUERIES = json.loads((Path(__file__).parent / "fixtures" / "bi_queries.json").read_text())
MORE = """
CREATE TYPE verdict AS ENUM ('ok', 'fraud', 'unsure');
CREATE DOMAIN topic_name AS text CHECK (VALUE <> '');
CREATE TABLE lookup (label text, team text, weight int);
INSERT INTO lookup VALUES ('fraud', 'risk', 3), ('ok', 'sales', 1), ('bug', 'dev', 5),
 ('billing', 'fin', 2), (NULL, 'none', 0), ('fraud', 'audit', 7);
CREATE MATERIALIZED VIEW stored AS
 SELECT id, memo, amount, pgrain.predict('fraud', memo) AS old FROM orders;
CREATE TABLE gen (id int, memo text, up text GENERATED ALWAYS AS (coalesce(memo, 'm0')) STORED);
INSERT INTO gen (id, memo) VALUES (1, 'm0'), (2, NULL), (3, 'm3');
CREATE TABLE empty_orders (LIKE orders);
CREATE VIEW verdicts AS SELECT id, customer, amount, pgrain.predict('fraud', memo) AS label
 FROM orders;
CREATE VIEW kview AS SELECT customer AS g, count(*) AS n FROM orders
 WHERE pgrain.predict('fraud', memo) = 'fraud' GROUP BY customer;
CREATE FUNCTION vol2(text) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT $1 $$;
CREATE VIEW hidden_vol_call AS SELECT id, pgrain.predict('fraud', vol2(memo)) AS label FROM orders;
CREATE FUNCTION flagged(t text) RETURNS boolean LANGUAGE sql STABLE
 AS $$ SELECT pgrain.predict('fraud', $1) = 'fraud' $$;
CREATE FUNCTION atomic(t text) RETURNS boolean STABLE
 BEGIN ATOMIC SELECT pgrain.predict('fraud', t) = 'fraud'; END;
CREATE FUNCTION lab(t text, y text DEFAULT pgrain.predict('fraud', 'm1')) RETURNS text
 LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN $2; END $$;
CREATE FUNCTION rows_of(int) RETURNS TABLE (id int, memo text) LANGUAGE sql STABLE
 AS $$ SELECT id, memo FROM orders WHERE customer = $1 $$;
"""


@pytest.fixture(scope="module")
def shop(lab: Lab) -> Lab:
    filled(lab).connection.execute(MORE)
    return lab


def check_exact(circuit, P, raw) -> None:
    """Everything that the query shows, by enumeration."""
    texts_of = tuple(c for c, d in enumerate(circuit.columns)
                     if d.role == "label" and d.model_dependent)
    expected, relaxed = enumerate_expectation(circuit, P, raw, texts_of), circuit.relaxed(P)
    for column, described in enumerate(circuit.columns):
        if not described.model_dependent or described.role in ("row", "group"):
            continue
        if described.role == "label":
            for text in circuit.possible_texts(column):
                for row in range(len(relaxed.present)):
                    assert circuit.probability(P, row, column, text) == pytest.approx(
                        expected.texts.get((row, column, text), 0.0), abs=1e-9), described.name
            continue
        got, want = np.nan_to_num(relaxed.numbers[:, column]), expected.numbers[:, column]
        known = expected.known[:, column]
        there = known > 1e-12
        plainly = np.abs(got - want).max(initial=0.0)
        if_known = np.abs(got[there] - want[there] / known[there]).max(initial=0.0)
        assert min(plainly, if_known) < 1e-9, f"{described.name}: {plainly}, {if_known}"
    if not counts_rows(circuit):
        np.testing.assert_allclose(relaxed.weight, expected.present, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", QUERIES, ids=range(len(QUERIES)))
def test_query(shop: Lab, case: dict) -> None:
    text = case["query"]
    query = Query(text, {})
    if "refused" in case:
        with pytest.raises(PgrainError, match=case["refused"]) as caught:
            shop.circuit(text)
        assert caught.value.hint and caught.value.sqlstate in ("0A000", "22023")
        return
    circuit, capture = shop.circuit(text)
    chance, rng = random.Random(text), np.random.default_rng(len(text))
    for number in range(5):
        relabelled(shop, number, chance)
        evaluate(shop, circuit, query, shop.predicted(circuit)).compare(shop.result(capture))
    P = random_probabilities(rng, circuit)
    if case["exact"] and assignments(circuit) <= MOST:
        check_exact(circuit, P, P if "predict_proba" in text else None)
    check_gradient(circuit, P, rng)
    capture.render(circuit)


@pytest.mark.parametrize("called", ["flagged(memo)", "atomic(memo)", "lab(memo) = 'fraud'"])
def test_what_a_function_predicts_is_data(shop: Lab, called: str) -> None:
    """In a body of text, in one of SQL, in the default of an argument: it is said."""
    with pytest.raises(PgrainError) as caught:
        shop.circuit(f"SELECT count(*) AS n FROM orders WHERE {called}")
    assert caught.value.sqlstate == "22023"
    assert f"Function public.{called.partition('(')[0]} calls a model inside" in caught.value.detail
