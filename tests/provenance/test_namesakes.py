"""Functions, operators and types that are named as PostgreSQL's own: taken for what they are, or
refused; and nothing is refused that PostgreSQL's own rules give to PostgreSQL."""

from __future__ import annotations

import itertools

import pytest
from provenance_harness import Lab

from pgrain.errors import UnsupportedOperator
from pgrain.provenance.over_join import OverJoin

CLASSES = ["a", "b"]
SCHEMA = """
CREATE FUNCTION second(text, text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $2';
CREATE FUNCTION three(float8, int) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT 3.0';
CREATE FUNCTION no(bigint, numeric) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE FUNCTION seven(bigint, numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT 7.0';
CREATE TABLE w (id int, x text, g int, v numeric, f float8, n varchar, k bigint);
INSERT INTO w VALUES (1, 'f0', 0, 1, 1.5, 'p', 3), (2, 'f1', 0, 2.5, 2, 'o', 4),
 (3, 'f2', 1, -2, 3, 'y', 5);
CREATE VIEW vw AS SELECT g, max(n) AS m, count(*) AS n FROM w
 WHERE pgrain.predict('m', x) = 'a' GROUP BY g;
"""
P = "pgrain.predict('m', x)"
SOME = f"FILTER (WHERE {P} = 'a')"
GROUPED = f"(SELECT g, count(*) AS n FROM w WHERE {P} = 'a' GROUP BY g) AS q"
MAX_VARCHAR = "CREATE AGGREGATE max(varchar) (SFUNC = second, STYPE = text)"
MAX_TEXT = "CREATE AGGREGATE max(text) (SFUNC = second, STYPE = text)"
PLAIN_MAX = "CREATE FUNCTION max(varchar) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'q' $$"
COUNT_TEXT = "CREATE AGGREGATE count(text) (SFUNC = second, STYPE = text)"
SPREAD = "CREATE FUNCTION max(VARIADIC int[]) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'"
ROUND = ("CREATE FUNCTION round(float8, int) RETURNS numeric LANGUAGE sql IMMUTABLE AS"
         " 'SELECT 3.0'")
GREATER = "CREATE OPERATOR > (LEFTARG = bigint, RIGHTARG = numeric, FUNCTION = no)"
PLUS = "CREATE OPERATOR + (LEFTARG = bigint, RIGHTARG = numeric, FUNCTION = seven)"
FLOAT8 = "CREATE DOMAIN float8 AS int"
EQUAL = ("CREATE FUNCTION no(text, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT false';"
         "CREATE OPERATOR <> (LEFTARG = text, RIGHTARG = text, FUNCTION = no)")
JOINED = "w AS a JOIN w AS b ON pgrain.predict('m', a.x) = pgrain.predict('m', b.x)"
FIRST = "SET search_path = public, pg_catalog"
# (what is made, the query, the function or operator that is refused, or None)
CASES = [
    # an aggregate whose signature fits better
    (MAX_VARCHAR, f"SELECT max(n) FROM w WHERE {P} = 'a'", "public.max"),
    (MAX_VARCHAR, f"SELECT max(n), count(*) {SOME} AS n FROM w GROUP BY g", "public.max"),
    (MAX_VARCHAR, f"SELECT g, count(*) {SOME} AS n FROM w GROUP BY g ORDER BY max(n) LIMIT 1",
     "public.max"),
    (MAX_VARCHAR, "SELECT g, n FROM vw", None),          # its max was PostgreSQL's, and is
    (MAX_VARCHAR, f"SELECT max(x), max(id), max(v) FROM w WHERE {P} = 'a'", None),
    (MAX_VARCHAR, f"SELECT max({P}) FROM w", None),
    (MAX_VARCHAR, f"SELECT pg_catalog.max(n) FROM w WHERE {P} = 'a'", None),
    (MAX_VARCHAR, f"SELECT public.max(n) FROM w WHERE {P} = 'a'", "public.max"),
    (COUNT_TEXT, f"SELECT count(x) FROM w WHERE {P} = 'a'", "public.count"),
    (COUNT_TEXT, f"SELECT count(*), count(id) FROM w WHERE {P} = 'a'", None),
    (SPREAD, f"SELECT max(id) FROM w WHERE {P} = 'a'", "public.max"),
    # a plain function, and one that search_path finds first
    (PLAIN_MAX, f"SELECT max(n) FROM w WHERE {P} = 'a'", "public.max"),
    (PLAIN_MAX, f"SELECT max(x) FROM w WHERE {P} = 'a'", None),
    (MAX_TEXT, f"SELECT max(x) FROM w WHERE {P} = 'a'", None),
    (f"{MAX_TEXT}; {FIRST}", f"SELECT max(x) FROM w WHERE {P} = 'a'", "public.max"),
    (f"{MAX_TEXT}; {FIRST}", f"SELECT max(n) FROM w WHERE {P} = 'a'", "public.max"),
    (f"{MAX_TEXT}; {FIRST}", f"SELECT max(id), pg_catalog.max(x) FROM w WHERE {P} = 'a'", None),
    # arithmetic
    (ROUND, f"SELECT round(avg(f) {SOME}, 1) FROM w", "public.round"),
    (ROUND, f"SELECT g FROM w WHERE {P} = 'a' GROUP BY g HAVING round(sum(f), 1) > 2",
     "public.round"),
    (ROUND, f"SELECT q.g, round(q.n * 1.5::float8, 1) FROM {GROUPED}", "public.round"),
    (ROUND, f"SELECT round(100.0 * count(*) {SOME} / count(*), 1) FROM w", None),
    (ROUND, f"SELECT q.g, round(q.n * 1.5, 1) FROM {GROUPED}", None),
    (ROUND, f"SELECT pg_catalog.round((avg(f) {SOME})::numeric, 1) FROM w", None),
    (PLUS, f"SELECT count(*) + 1.5 FROM w WHERE {P} = 'a'", "public.+"),
    (PLUS, f"SELECT sum(q.n + 1.5) FROM {GROUPED}", "public.+"),
    (PLUS, f"SELECT count(*) + 1, count(*) OPERATOR(pg_catalog.+) 1.5 FROM w WHERE {P} = 'a'",
     None),
    (FLOAT8, f"SELECT count(*)::float8 / 2 FROM w WHERE {P} = 'a'", None),
    (f"{FLOAT8}; {FIRST}", f"SELECT count(*)::float8 / 2 FROM w WHERE {P} = 'a'", "float8"),
    (f"{FLOAT8}; {FIRST}", f"SELECT count(*)::pg_catalog.float8 / 2 FROM w WHERE {P} = 'a'", None),
    # comparisons
    (GREATER, f"SELECT count(*) > 1.5 AS b FROM w WHERE {P} = 'a'", "public.>"),
    (GREATER, f"SELECT g FROM w WHERE {P} = 'a' GROUP BY g HAVING count(*) > 1.5", "public.>"),
    (GREATER, f"SELECT q.g FROM {GROUPED} WHERE q.n > 1.5", "public.>"),
    (GREATER, f"SELECT g FROM w GROUP BY g HAVING count(*) > (SELECT count(*) + 0.5 FROM w "
     f"WHERE {P} = 'a')", "public.>"),
    (GREATER, f"SELECT q.g FROM {GROUPED} WHERE q.n > 1", None),
    (GREATER, f"SELECT g FROM w WHERE {P} = 'a' GROUP BY g HAVING count(*) >= 1.5", None),
    (GREATER, f"SELECT g FROM w WHERE {P} = 'a' GROUP BY g HAVING count(*) OPERATOR(pg_catalog.>) "
     "1.5", None),
    (f"{EQUAL}; {FIRST}", "SELECT id FROM w WHERE x = ALL (SELECT n FROM w AS k WHERE "
     "pgrain.predict('m', k.x) = 'a')", None),
    # joins on predictions
    (GREATER, "SELECT count(*) > 4.5 AS b FROM w AS a JOIN w AS b ON pgrain.predict('m', a.x) = "
     "pgrain.predict('m', b.x)", "public.>"),
    (GREATER, "SELECT count(*) FROM w AS a JOIN w AS b ON pgrain.predict('m', a.x) = "
     "pgrain.predict('m', b.x)", None),
    (PLUS, f"SELECT count(*) + 1.5 FROM {JOINED}", "public.+"),
    (PLUS, f"SELECT a.g, sum(b.k) / count(*) FROM {JOINED} GROUP BY a.g HAVING count(*) + 0.5 > 1",
     "public.+"),
]
# Arithmetic over a join on predictions that stays factorised beside namesakes.
FACTORISED = [
    (PLUS, f"SELECT count(*) + 1, sum(a.f) + 1.5 FROM {JOINED}"),
    (PLUS, f"SELECT a.g, round(100.0 * count(*) / 7, 1) FROM {JOINED} GROUP BY a.g"),
    (GREATER, f"SELECT a.g, count(*) - 1 AS n FROM {JOINED} GROUP BY 1 HAVING count(*) > 1"),
    (ROUND, f"SELECT round(sum(a.v) / count(*), 1) FROM {JOINED}"),
]


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.connection.execute(SCHEMA)
    lab.add_model("m", CLASSES, {f"f{i}": "a" for i in range(3)})
    return lab


@pytest.mark.parametrize(("made", "query", "refused"), CASES)
def test_what_a_name_means(schema: Lab, made: str, query: str, refused: str | None) -> None:
    # psycopg begins no transaction of its own here; what is made is undone.
    with schema.connection.transaction(force_rollback=True):
        schema.connection.execute(f"SET LOCAL check_function_bodies = off; {made}")
        if refused is not None:
            with pytest.raises(UnsupportedOperator) as raised:
                schema.circuit(query)
            assert refused in raised.value.message
            assert "pg_catalog" in raised.value.hint or f"{refused}(" in query
            assert raised.value.detail
            return
        circuit, capture = schema.circuit(query)
        for labels in itertools.product(CLASSES, repeat=3):
            schema.relabel("m", {f"f{i}": label for i, label in enumerate(labels)})
            circuit.value(schema.predicted(circuit)).compare(schema.result(capture))


@pytest.mark.parametrize(("made", "query"), FACTORISED)
def test_arithmetic_over_a_join_stays_factorised(schema: Lab, made: str, query: str) -> None:
    with schema.connection.transaction(force_rollback=True):
        schema.connection.execute(f"SET LOCAL check_function_bodies = off; {made}")
        circuit, capture = schema.circuit(query)
        assert isinstance(capture, OverJoin)
        circuit.value(schema.predicted(circuit)).compare(schema.result(capture))


def test_nothing_is_asked_without_a_namesake(schema: Lab, monkeypatch) -> None:
    asked, probe = [], schema.probe
    monkeypatch.setattr(schema, "probe", lambda text: asked.append(text) or probe(text))
    schema.capture(f"SELECT g, round(sum(v) + 1, 1), max(n) FROM w WHERE {P} = 'a' GROUP BY g "
                   "HAVING max(id) > 1")
    assert len(asked) >= 3
    assert not any(text.startswith("SELECT DISTINCT n.nspname") for text in asked
                   if isinstance(text, str))
