"""Queries without provenance: each is refused with its SQLSTATE, naming the construct."""

from __future__ import annotations

import pytest
from provenance_harness import Lab

from pgrain.errors import PgrainError

P = "pgrain.predict('m', x)"
SCHEMA = """
CREATE TABLE t (id int PRIMARY KEY, x text, c text, g int, v numeric, s interval);
INSERT INTO t VALUES (1, 'f0', 'a', 1, 2.5, '1 day'), (2, 'f1', 'b', 2, NULL, NULL);
CREATE VIEW hidden AS SELECT id, pgrain.predict('m', x) AS label FROM t;
CREATE MATERIALIZED VIEW stored AS SELECT * FROM hidden;
CREATE FUNCTION labels() RETURNS TABLE (l text) LANGUAGE sql STABLE
 AS $$ SELECT pgrain.predict('m', t.x) FROM t $$;
CREATE FUNCTION shaky(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN $1; END $$;
CREATE FUNCTION shaken(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN $1; END $$;
CREATE VIEW unsteady AS SELECT id, shaken(x) AS x, g FROM t WHERE random() < 2;
CREATE FUNCTION lowest(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT least($1, $2) $$;
CREATE FUNCTION predict(text, text) RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'a' || $2 $$;
CREATE FUNCTION pgrain.rank(text, bytea) RETURNS SETOF int LANGUAGE sql STABLE AS 'SELECT 1';
CREATE AGGREGATE low (int) (SFUNC = lowest, STYPE = int);
"""

REFUSED = [
    # query, SQLSTATE, words of the message
    # Windows: over predictions, over rows that are there by predictions, and what ranks them.
    (f"SELECT id, rank() OVER (ORDER BY {P}) FROM t", "0A000", "window function"),
    (f"SELECT id, rank() OVER (ORDER BY id) FROM t WHERE {P} = 'a'", "0A000", "window function"),
    (f"SELECT c, rank() OVER (ORDER BY count(*)) FROM t WHERE {P} = 'a' GROUP BY c", "0A000",
     "window function"),
    (f"SELECT c, sum(count(*)) OVER (ORDER BY c) FROM t WHERE {P} = 'a' GROUP BY c", "0A000",
     "window function"),
    (f"SELECT q.id FROM (SELECT id, row_number() OVER (PARTITION BY {P} ORDER BY id) AS n FROM t)"
     " AS q WHERE q.n = 1", "0A000", "window function"),
    (f"SELECT count(*) OVER w, {P} FROM t WINDOW w AS (ORDER BY id)", "0A000", "WINDOW"),
    # Order and limits; those that the data decides are in test_scopes_and_rows.py.
    (f"SELECT c FROM t WHERE {P} = 'a' ORDER BY id LIMIT (SELECT count(*) FROM t)", "0A000",
     "no plain number"),
    (f"SELECT DISTINCT ON (c) id FROM t WHERE {P} = 'a'", "0A000",
     "DISTINCT ON without ORDER BY"),
    (f"SELECT DISTINCT ON (c) id FROM t ORDER BY c, {P}, id", "0A000", "depends on predictions"),
    (f"SELECT DISTINCT ON (n) c, count(*) AS n FROM t WHERE {P} = 'a' GROUP BY c ORDER BY n, c",
     "0A000", "DISTINCT ON what depends on predictions"),
    # Aggregates.
    (f"SELECT string_agg(c, ',') FROM t WHERE {P} = 'a'", "0A000", "string_agg"),
    (f"SELECT array_agg({P}) FROM t", "0A000", "array_agg"),
    (f"SELECT stddev(v) FROM t WHERE {P} = 'a'", "0A000", "stddev"),
    (f"SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY v) FROM t WHERE {P} = 'a'", "0A000",
     "percentile_cont"),
    (f"SELECT low(g) FROM t WHERE {P} = 'a'", "0A000", "low"),
    (f"SELECT sum(v ORDER BY id) FROM t WHERE {P} = 'a'", "0A000", "ORDER BY inside"),
    (f"SELECT min(c)::date FROM t WHERE {P} = 'a'", "0A000", "min cast to date"),
    (f"SELECT sum(s) FROM t WHERE {P} = 'a'", "0A000", "sum of what is no number"),
    # Aggregates of the rows outside, inside a subquery.
    *((query, "0A000", "an aggregate of the outer query") for query in (
        f"SELECT g, (SELECT count(t.x)) FROM t WHERE {P} = 'a' GROUP BY g",
        f"SELECT g, (SELECT count(x)) FROM t WHERE {P} = 'a' GROUP BY g",
        f"SELECT g, (SELECT max(k.v) FROM t AS k WHERE k.g = count(t.x)) FROM t WHERE {P} = 'a' "
        "GROUP BY g",
        f"SELECT g, (SELECT max(k.v) + sum(t.v) FROM t AS k) FROM t WHERE {P} = 'a' GROUP BY g",
        "SELECT g, (SELECT count(*) FROM t AS k WHERE pgrain.predict('m', k.x) = 'a' AND k.v > "
        "avg(t.v)) FROM t GROUP BY g",
        f"SELECT (SELECT max(v) FROM (VALUES (count(t.x))) AS q (v)) FROM t WHERE {P} = 'a'",
        f"SELECT (SELECT count(*) FILTER (WHERE t.id > 1)) FROM t WHERE {P} = 'a'",
        f"SELECT g FROM t WHERE {P} = 'a' GROUP BY g HAVING EXISTS (SELECT FROM stored AS o WHERE "
        "o.id > sum(v))")),
    # Numbers beyond double precision, and what is none.
    (f"SELECT count(*) > 1e400::numeric FROM t WHERE {P} = 'a'", "0A000", "does not hold"),
    (f"SELECT g FROM t WHERE {P} = 'a' GROUP BY g HAVING sum(v) > 1e-400", "0A000",
     "does not hold"),
    (f"SELECT count(*) * interval '1 day' FROM t WHERE {P} = 'a'", "0A000", "what is no number"),
    (f"SELECT date '2026-01-01' + count(*)::int FROM t WHERE {P} = 'a'", "0A000",
     "what is no number"),
    # What is made of numbers that depend on predictions.
    (f"SELECT q.n, count(*) FROM (SELECT c, sum(v::float8) AS n FROM t WHERE {P} = 'a' GROUP BY c) "
     "AS q GROUP BY q.n", "0A000", "of floating-point numbers"),
    ("SELECT DISTINCT sum((pgrain.predict_proba('m', x))[1]) FROM t GROUP BY g", "0A000",
     "of numbers that depend on predictions"),
    (f"SELECT pgrain.predict('m', q.x) FROM (SELECT max(x) AS x FROM t WHERE {P} = 'a') AS q",
     "0A000", "made of predictions"),
    (f"SELECT pgrain.predict('m', {P}) FROM t", "0A000", "a model call inside a model call"),
    # Functions, and where calls may stand.
    (f"SELECT count(*) FROM t WHERE {P} = 'a' AND random() < 0.5", "0A000", "pg_catalog.random"),
    (f"SELECT count(*) FROM t WHERE {P} = 'a' AND shaky(g) > 0", "0A000", "public.shaky"),
    (f"SELECT count(*) FROM t WHERE EXISTS (SELECT 1 FROM t AS k WHERE {P} = 'a' AND random() <"
     " 0.5)", "0A000", "pg_catalog.random"),
    ("SELECT * FROM pgrain.predict_batch('m', 'SELECT 1')", "0A000", "predict_batch"),
    (f"SELECT count(*) FROM t, generate_series(1, length({P})) AS i", "0A000",
     "a function of FROM"),
    (f"SELECT q.x FROM (VALUES ((SELECT {P} FROM t WHERE id = 1))) AS q (x)", "0A000",
     "a model call in VALUES"),
    (f"SELECT generate_series(1, 2), {P} FROM t", "0A000", "set-returning function"),
    (f"SELECT count(*), unnest(ARRAY[g]) FROM t WHERE {P} = 'a' GROUP BY 2", "0A000",
     "set-returning function"),
    ("SELECT count(*) FROM t WHERE pgrain.predict(c, x) = 'a'", "0A000", "not a literal"),
    ("SELECT count(*) FROM t WHERE predict('m', x) = 'a'", "0A000", "unqualified predict"),
    # Subqueries that depend on no model, but on aggregates.
    (f"SELECT g FROM t WHERE {P} = 'a' GROUP BY g HAVING (SELECT count(*) FROM t AS k WHERE k.g ="
     " count(t.v)) > 0", "0A000", "an aggregate of the outer query"),
    ("SELECT t.g, count(*) FROM t JOIN t AS r ON pgrain.predict('m', t.x) = pgrain.predict('m',"
     " r.x) GROUP BY t.g HAVING EXISTS (SELECT 1 FROM t AS k WHERE k.g = count(r.v))", "0A000",
     "an aggregate of the outer query"),
    (f"SELECT c, count(*) FROM t WHERE {P} = 'a' GROUP BY DISTINCT ROLLUP (c), ROLLUP (c)", "0A000",
     "GROUP BY DISTINCT"),
    (f"SELECT g AS _pgrain_g FROM t WHERE {P} = 'a'", "0A000", "a name that begins with"),
    (f"WITH k AS (SELECT g, count(*) AS n FROM t WHERE {P} = 'a' GROUP BY g) SELECT k.g FROM k "
     "JOIN k AS j USING (n)", "0A000", "a join on a number"),
    # Statements.
    ("WITH RECURSIVE r AS (SELECT id, pgrain.predict('m', x) AS l FROM t UNION ALL SELECT id + 1, l"
     " FROM r WHERE id < 3) SELECT count(*) FROM r WHERE l = 'a'", "0A000", "recursive CTE"),
    (f"SELECT count(*) FROM t TABLESAMPLE bernoulli (50) WHERE {P} = 'a'", "0A000", "TABLESAMPLE"),
    (f"SELECT id FROM t WHERE {P} = 'a' FOR UPDATE", "0A000", "FOR UPDATE"),
    (f"WITH gone AS (DELETE FROM t RETURNING *) SELECT {P} FROM gone", "0A000", "data-modifying"),
    (f"SELECT id FROM t WHERE {P} = $1", "0A000", "parameter"),
    (f"SELECT id INTO k FROM t WHERE {P} = 'a'", "0A000", "INTO"),
    (f"SELECT {P} FROM t; SELECT 1", "42601", "not one statement"),
    (f"DELETE FROM t WHERE {P} = 'a'", "42601", "not a SELECT"),
    (f"INSERT INTO t SELECT 1, {P} FROM t", "42601", "not a SELECT"),
    ("VALUES (1)", "42601", "not a SELECT"),
    ("", "42601", "empty"),
    ("SELECT 'it''s", "42601", "cannot read"),
    # A volatile function where only the plan shows it: in a view.
    ("SELECT count(*) FROM unsteady WHERE pgrain.predict('m', x) = 'a'", "0A000",
     "the volatile function "),
    ("SELECT g, max(n) FROM (SELECT g, count(*) AS n FROM unsteady WHERE pgrain.predict('m', x) = "
     "'a' GROUP BY g) AS k GROUP BY g", "0A000", "in a view or policy"),
    # Nothing to complain about. What a function's body or a stored view predicts is data.
    ("SELECT count(*) FROM t", "22023", "calls no model"),
    ("SELECT count(*) FROM labels() WHERE l = 'a'", "22023", "calls no model"),
    ("SELECT count(*) FROM stored WHERE label = 'a'", "22023", "calls no model"),
]
# For these there is nothing to write instead.
_NOTHING_INSTEAD = ("made of predictions", "a model call inside a model call", "predict_batch")
# What cannot be explained (parameters, several statements) is refused before anything is asked.
_NOT_EXPLAINED = ("$1", ";", "VALUES (1)", "it''s", "INTO k", "predict_batch")

# Refused once, or near to what is refused: these work.
ANSWERED = [
    f"SELECT id, {P}, rank() OVER (ORDER BY id) FROM t",
    "SELECT count(*) FROM (SELECT *, rank() OVER (ORDER BY id) AS r FROM t) AS q WHERE q.r = 1 AND"
    " pgrain.predict('m', q.x) = 'a'",
    f"SELECT id FROM t WHERE {P} = 'a' ORDER BY id OFFSET 1",
    f"SELECT id, {P} FROM t ORDER BY {P}",
    f"(SELECT {P} FROM t) UNION (SELECT c FROM t)",
    f"SELECT g FROM t WHERE {P} = 'a' GROUP BY g HAVING sum(v) > ANY (VALUES (2), (5))",
    f"SELECT avg(v) = ANY (SELECT 2) FROM t WHERE {P} = 'a'",
    f"SELECT max(now() - s)::date, date_trunc('month', min(now() - s)) FROM t WHERE {P} = 'a'",
    f"SELECT extract(epoch FROM max(now() - s)) FROM t WHERE {P} = 'a'",
    f"SELECT g FROM t WHERE {P} = 'a' GROUP BY g HAVING max(now() - s) > min(now() - s)",
    "SELECT id FROM t WHERE c = (SELECT max(k.c) FROM t AS k WHERE pgrain.predict('m', k.x) = 'a')",
    f"SELECT max(s) FILTER (WHERE {P} = 'a') * 2 FROM t",
    f"SELECT json_build_object('n', count(*)) FROM t WHERE {P} = 'a'",
    f"SELECT q.n, count(*) FROM (SELECT c, sum(v) AS n FROM t WHERE {P} = 'a' GROUP BY c) AS q"
    " GROUP BY q.n",
    f"SELECT g FROM t WHERE {P} = 'a' GROUP BY g HAVING sum(v) + 1 > ANY (VALUES (2), (5))",
    f"SELECT avg(v) - max(v) = ANY (SELECT 2) FROM t WHERE {P} = 'a'",
    f"SELECT DISTINCT sum(v) FROM t WHERE {P} = 'a' GROUP BY g",
    f"SELECT DISTINCT sum(q.n) FROM (SELECT g, c, count(*) AS n FROM t WHERE {P} = 'a' GROUP BY g,"
    " c) AS q GROUP BY q.g",
    f"SELECT max(v) FROM t WHERE {P} = 'a' UNION SELECT 2",
    f"SELECT g FROM t WHERE (g, v) IN (SELECT g, max(v) FROM t WHERE {P} = 'a' GROUP BY g)",
    f"SELECT max(now() - s) - min(now() - s) FROM t WHERE {P} = 'a'",
    f"SELECT max({P}) FROM t", f"SELECT count(*) FROM t WHERE {P} = 'a' GROUP BY ()",
    f"SELECT (SELECT {P}) FROM t", f"SELECT count(*) FROM t WHERE {P} = 'a' OR true",
    f"SELECT round(avg(v), 2), count(*)::int, 100 * count(*) FROM t WHERE {P} = 'a'",
    "SELECT count(*) FROM t FULL JOIN t r ON t.id = r.id AND pgrain.predict('m', t.x) = 'a'",
    "SELECT count(*) FROM t NATURAL JOIN t r WHERE pgrain.predict('m', x) = g::text",
    f"SELECT count(*) FROM t WHERE {P} = 'a' AND pgrain.predict('n', x) = 'a'",
    "SELECT count(*) FROM t a, t b, t c WHERE pgrain.predict('m', a.x) = pgrain.predict('m', b.x)"
    " AND pgrain.predict('m', b.x) = pgrain.predict('m', c.x)",
    "SELECT count(*) FROM hidden JOIN t USING (id) WHERE pgrain.predict('n', x) = label",
    f"SELECT count(*) FROM labels() JOIN t ON {P} = l",
    f"SELECT count(*) FROM stored JOIN t USING (id) WHERE {P} = label",
    "WITH RECURSIVE r (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 3) SELECT i,"
    " count(*) FROM r JOIN t ON t.id = i WHERE pgrain.predict('m', t.x) = 'a' GROUP BY i",
]


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.add_model("m", ["a", "b"], {"f0": "a", "f1": "b"})
    lab.add_model("n", ["a", "b"], {"f0": "a", "f1": "b"})
    lab.connection.execute(SCHEMA)
    return lab


@pytest.mark.parametrize(("query", "sqlstate", "words"), REFUSED)
def test_refused_by_name(schema: Lab, query: str, sqlstate: str, words: str) -> None:
    explain = []
    if query and not any(mark in query for mark in _NOT_EXPLAINED):
        explain = schema.explain(query)
    with pytest.raises(PgrainError) as raised:
        schema.capture(query, explain or [{"Plan": {}}])
    error = raised.value
    assert error.sqlstate == sqlstate, (error.message, error.detail)
    assert words in error.message
    if sqlstate == "0A000":
        assert error.detail and (error.hint or any(part in words for part in _NOTHING_INSTEAD))
    assert not error.message.endswith(".")
    assert error.message[0].islower() or error.message.split()[0].isupper()


def test_the_place_is_named(schema: Lab) -> None:
    query = f"SELECT c,\n  count(*)\nFROM t WHERE {P} = 'a'\nGROUP BY c ORDER BY c LIMIT (SELECT 1)"
    with pytest.raises(PgrainError) as raised:
        schema.capture(query)
    assert raised.value.detail.startswith("Line 4, column 29:")
    assert "(SELECT 1)" in raised.value.detail


def test_the_place_in_a_view_is_named(schema: Lab) -> None:
    """By the view and its definition; places outside are the caller's, however long views are."""
    listed = "(SELECT string_agg(v.label, ',') FROM hidden AS v)"
    schema.connection.execute(
        "CREATE OR REPLACE VIEW \"All labels\" AS SELECT id,\n (SELECT string_agg(v.label, ',') "
        "FROM hidden AS v) AS s FROM hidden; CREATE OR REPLACE VIEW over AS SELECT * FROM "
        "\"All labels\" WHERE id > 1")
    for query, where, what in (
            ("SELECT o.s FROM hidden AS h, over AS o", 'View "All labels", line 2, column ',
             "string_agg(v.label, ','::text)"),
            (f"SELECT h.id, o.id FROM hidden AS h, hidden AS o\nWHERE {listed} = 'a'",
             "Line 2, column 15:", "string_agg(v.label, ',')"),
            ("SELECT count(*) FROM hidden AS h WHERE h.label = 'a' GROUP BY id\nORDER BY id "
             "LIMIT (SELECT 1)", "Line 2, column 19:", "(SELECT 1)")):
        with pytest.raises(PgrainError) as raised:
            schema.capture(query)
        assert raised.value.detail.startswith(where), raised.value.detail
        assert what in raised.value.detail


@pytest.mark.parametrize("query", ANSWERED)
def test_its_neighbours_are_answered(schema: Lab, query: str, monkeypatch) -> None:
    monkeypatch.setattr(schema, "calls_are_data", "labels()" in query)
    circuit, capture = schema.circuit(query)
    circuit.value(schema.predicted(circuit)).compare(schema.result(capture))
