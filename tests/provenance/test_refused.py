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
CREATE FUNCTION labels() RETURNS TABLE (l text) LANGUAGE sql STABLE
 AS $$ SELECT pgrain.predict('m', t.x) FROM t $$;
CREATE FUNCTION shaky(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN $1; END $$;
CREATE FUNCTION lowest(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT least($1, $2) $$;
CREATE FUNCTION predict(text, text) RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'a' || $2 $$;
CREATE AGGREGATE low (int) (SFUNC = lowest, STYPE = int);
"""

REFUSED = [
    # query, SQLSTATE, words of the message
    (f"SELECT c, count(*) FROM t WHERE {P} = 'a' GROUP BY c HAVING count(*) > 1", "0A000",
     "HAVING"),
    (f"SELECT DISTINCT {P} FROM t", "0A000", "DISTINCT"),
    (f"SELECT {P} FROM t UNION ALL SELECT c FROM t", "0A000", "UNION"),
    (f"SELECT {P} FROM t INTERSECT SELECT c FROM t", "0A000", "INTERSECT"),
    (f"SELECT {P} FROM t EXCEPT SELECT c FROM t", "0A000", "EXCEPT"),
    (f"(SELECT {P} FROM t) UNION (SELECT c FROM t)", "0A000", "set operation"),
    (f"SELECT id FROM t WHERE {P} = 'a' LIMIT 3", "0A000", "LIMIT"),
    (f"SELECT id FROM t WHERE {P} = 'a' ORDER BY id OFFSET 1", "0A000", "OFFSET"),
    (f"SELECT id FROM t WHERE {P} = 'a' FETCH FIRST 1 ROW ONLY", "0A000", "FETCH"),
    (f"SELECT id FROM t WHERE {P} = 'a' FOR UPDATE", "0A000", "FOR UPDATE"),
    (f"SELECT min(v) FROM t WHERE {P} = 'a'", "0A000", "min"),
    (f"SELECT max({P}) FROM t", "0A000", "max"),
    (f"SELECT string_agg(c, ',') FROM t WHERE {P} = 'a'", "0A000", "string_agg"),
    (f"SELECT low(g) FROM t WHERE {P} = 'a'", "0A000", "low"),
    (f"SELECT count(DISTINCT c) FROM t WHERE {P} = 'a'", "0A000", "count(DISTINCT)"),
    (f"SELECT sum(v ORDER BY id) FROM t WHERE {P} = 'a'", "0A000", "ORDER BY inside"),
    (f"SELECT sum(s) FROM t WHERE {P} = 'a'", "0A000", "interval"),
    (f"SELECT 100 * count(*) FROM t WHERE {P} = 'a'", "0A000", "arithmetic over aggregates"),
    (f"SELECT round(avg(v), 2) FROM t WHERE {P} = 'a'", "0A000", "arithmetic over aggregates"),
    (f"SELECT count(*)::int FROM t WHERE {P} = 'a'", "0A000", "arithmetic over aggregates"),
    (f"SELECT id, rank() OVER (ORDER BY id), {P} FROM t", "0A000", "window function"),
    (f"SELECT count(*) OVER w, {P} FROM t WINDOW w AS (ORDER BY id)", "0A000", "WINDOW"),
    (f"SELECT count(*) FROM t WHERE {P} = 'a' GROUP BY ROLLUP (c)", "0A000", "ROLLUP"),
    (f"SELECT count(*) FROM t WHERE {P} = 'a' GROUP BY CUBE (c)", "0A000", "CUBE"),
    (f"SELECT count(*) FROM t WHERE {P} = 'a' GROUP BY GROUPING SETS ((c), ())", "0A000",
     "GROUPING SETS"),
    (f"SELECT count(*) FROM t WHERE {P} = 'a' GROUP BY ()", "0A000", "GROUP BY"),
    (f"SELECT count(*) FROM (SELECT {P} AS l FROM t) q WHERE l = 'a'", "0A000", "subquery"),
    (f"WITH q AS (SELECT {P} AS l FROM t) SELECT count(*) FROM q WHERE l = 'a'", "0A000", "CTE"),
    (f"SELECT count(*) FROM t WHERE EXISTS (SELECT 1 FROM t k WHERE pgrain.predict('m', k.x) = t.c)"
     f" AND {P} = 'a'", "0A000", "subquery"),
    (f"SELECT (SELECT {P}) FROM t", "0A000", "subquery"),
    ("SELECT count(*) FROM t LEFT JOIN t r ON pgrain.predict('m', t.x) = pgrain.predict('m', r.x)",
     "0A000", "left join"),
    ("SELECT count(*) FROM t FULL JOIN t r ON t.id = r.id AND pgrain.predict('m', t.x) = 'a'",
     "0A000", "full join"),
    ("SELECT count(*) FROM t NATURAL JOIN t r WHERE pgrain.predict('m', x) = g::text", "0A000",
     "beside a model call"),
    ("SELECT avg((pgrain.predict_proba('m', x))[1]) FROM t", "0A000", "predict_proba"),
    (f"SELECT count(*) FROM t WHERE {P} = 'a' AND pgrain.predict('n', x) = 'a'", "0A000",
     "several models"),
    ("SELECT count(*) FROM t a, t b, t c WHERE pgrain.predict('m', a.x) = pgrain.predict('m', b.x)"
     " AND pgrain.predict('m', b.x) = pgrain.predict('m', c.x)", "0A000", "third"),
    (f"SELECT count(*) FROM t WHERE {P} = 'a' AND random() < 0.5", "0A000", "pg_catalog.random"),
    (f"SELECT count(*) FROM t WHERE {P} = 'a' AND shaky(g) > 0", "0A000", "public.shaky"),
    ("SELECT count(*) FROM t WHERE pgrain.predict(c, x) = 'a'", "0A000", "not a literal"),
    ("SELECT count(*) FROM t WHERE pgrain.predict(model => 'm', x => x) = 'a'", "0A000",
     "named arguments"),
    ("SELECT count(*) FROM t WHERE predict('m', x) = 'a'", "0A000", "unqualified predict"),
    (f"SELECT count(*) FROM t TABLESAMPLE bernoulli (50) WHERE {P} = 'a'", "0A000", "TABLESAMPLE"),
    ("SELECT count(*) FROM hidden JOIN t USING (id) WHERE pgrain.predict('n', x) = label", "0A000",
     "not in the query's text"),
    ("SELECT count(*) FROM labels() WHERE l = 'a'", "0A000", "not in the query's text"),
    (f"SELECT count(*) FROM t WHERE {P} = 'a' OR true", "0A000", "does not make"),
    (f"SELECT id FROM t WHERE {P} = $1", "0A000", "parameter"),
    (f"SELECT id INTO k FROM t WHERE {P} = 'a'", "0A000", "INTO"),
    (f"SELECT {P} FROM t; SELECT 1", "42601", "not one statement"),
    (f"DELETE FROM t WHERE {P} = 'a'", "42601", "not a SELECT"),
    (f"INSERT INTO t SELECT 1, {P} FROM t", "42601", "not a SELECT"),
    ("VALUES (1)", "42601", "not a SELECT"),
    ("", "42601", "empty"),
    (f"WITH gone AS (DELETE FROM t RETURNING *) SELECT {P} FROM gone", "0A000", "data-modifying"),
    ("SELECT count(*) FROM t", "22023", "calls no model"),
    (f"SELECT id FROM t ORDER BY {P}", "0A000", "ORDER BY alone"),
    (f"SELECT generate_series(1, 2), {P} FROM t", "0A000", "set-returning function"),
    (f"SELECT count(*), unnest(ARRAY[g]) FROM t WHERE {P} = 'a' GROUP BY 2", "0A000",
     "set-returning function"),
    ("SELECT 'it''s", "42601", "cannot read"),
]
# What cannot be explained (parameters, several statements) is refused before anything is asked.
_NOT_EXPLAINED = ("$1", ";", "DELETE", "INSERT", "VALUES", "it''s", "INTO k")


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
    assert not error.message.endswith(".")
    assert error.message[0].islower() or error.message.split()[0].isupper()


def test_the_place_is_named(schema: Lab) -> None:
    query = f"SELECT c,\n  count(*)\nFROM t WHERE {P} = 'a'\nGROUP BY c HAVING count(*) > 1"
    with pytest.raises(PgrainError) as raised:
        schema.capture(query)
    assert raised.value.detail.startswith("Line 4, column 12:")
    assert "count(*) > 1" in raised.value.detail
