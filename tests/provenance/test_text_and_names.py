"""The query's own text reaches PostgreSQL: quotes, comments, names, every kind of relation."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from provenance_harness import SECRET, Lab

from pgrain.errors import PgrainError
from pgrain.provenance.grouping import equal_is_same

CLASSES = ["a", "b", "c'd", "e\\f"]
SCHEMA = """
CREATE TABLE t (id int PRIMARY KEY, x text, c text, g int, v numeric, "Mixed Case" text,
 img bytea, f float8[], "select" int);
INSERT INTO t SELECT i, 'f' || i % 5, (ARRAY['a', 'b', 'c''d', 'e\\f', NULL])[1 + i % 5],
 i % 3, i * 1.5, 'M' || i % 2, decode(md5((i % 4)::text), 'hex'),
 ARRAY[i % 3, 0.5, 'NaN'], i % 2 FROM generate_series(1, 20) AS i;
UPDATE t SET x = NULL, img = NULL, f = NULL WHERE id = 3;
CREATE TABLE "Übung" (id int, "x""y" text);
INSERT INTO "Übung" SELECT id, x FROM t;
CREATE VIEW doubled AS SELECT id * 2 AS id, x, c, g FROM t WHERE g IN (SELECT g FROM t);
CREATE TABLE parent (id int, x text); CREATE TABLE child () INHERITS (parent);
INSERT INTO parent VALUES (1, 'f0'); INSERT INTO child VALUES (2, 'f1'), (3, 'f1');
CREATE TABLE secret (id int, x text, owner text);
INSERT INTO secret SELECT id, x, CASE WHEN id % 2 = 0 THEN 'walker_reader' END FROM t;
CREATE SCHEMA other; CREATE TABLE other.t (x text, only_there int);
INSERT INTO other.t VALUES ('f1', 7), ('f2', 8);
CREATE TEMP TABLE passing AS SELECT * FROM t;
CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN short AS varchar(3);
CREATE TABLE odd (x text, l text COLLATE loose, ch char(3), j json, pt point, m mood, s short,
 n numeric, r int4range, tz timetz, b bit(2));
INSERT INTO odd SELECT 'f' || i % 5, (ARRAY['a', 'A', 'b', 'B'])[1 + i % 4],
 (ARRAY['a', 'b'])[1 + i % 2], to_json(i % 3), point(i % 2, 1), (ARRAY['sad', 'glad'])[1 + i % 2]
 ::mood, (ARRAY['a', 'b'])[1 + i % 2], (ARRAY[1.0, 1.00, 2])[1 + i % 3], int4range(0, i % 3),
 '10:00+00', (i % 4)::bit(2) FROM generate_series(1, 30) AS i;
CREATE FUNCTION pick(int) RETURNS SETOF t LANGUAGE sql STABLE AS
 'SELECT * FROM t WHERE g = $1';
"""
P = "pgrain.predict('m', x)"
QUERIES = [
    f"SELECT count(*) FROM t WHERE {P} = 'a';  -- done; really\n",
    f"/* first /* nested */ */ SELECT g /* the group */, count(*) -- n\nFROM t -- table\n"
    f"WHERE {P} = 'a' -- AND false\n AND true GROUP BY g -- end",
    f"SELECT count(*) FROM t WHERE {P} = $tag$c'd$tag$ OR {P} = E'e\\\\f' OR c = '--'",
    f'SELECT "Mixed Case" AS "Group ""by""", count(*) FROM t WHERE {P} <> "Mixed Case"'
    ' GROUP BY "Mixed Case"',
    'SELECT t."select", count(*) FROM t WHERE pgrain.predict($$m$$, t.x) = c GROUP BY "select"',
    'SELECT count(*) AS from FROM "Übung" AS "Ü" WHERE "pgrain"."predict"(\'m\', "Ü"."x""y")'
    " = 'a'",
    f"SELECT count(*) FROM t WHERE CASE WHEN g = 1 AND id > 2 THEN {P} ELSE c END = 'a' AND"
    " id BETWEEN 1 AND 15 AND NOT id BETWEEN SYMMETRIC 9 AND 7",
    f"SELECT c IS DISTINCT FROM 'a' AS d, count(*) FROM t WHERE {P} IS DISTINCT FROM c GROUP BY 1",
    f"SELECT extract(year FROM date '2026-01-01') AS y, substring(c FROM 1 FOR 1), count(*)"
    f" FROM t WHERE {P} = 'a' GROUP BY c, 1",
    f"SELECT (count(*)), ((sum(v))) total FROM t WHERE (({P} = 'a') AND (g > 0))",
    f"SELECT id, c FROM t WHERE {P} = 'a' ORDER BY {P}, id",
    f"SELECT ALL id, {P}::text COLLATE \"C\" AS l FROM t",
    f"WITH k AS (SELECT * FROM t WHERE g = 1), n (i) AS (SELECT 5) SELECT count(*) FROM k"
    f" WHERE {P} = 'a' AND id > (SELECT min(i) FROM n)",
    "WITH RECURSIVE r (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 5)"
    " SELECT i, count(*) FROM r JOIN t ON t.id = i WHERE pgrain.predict('m', t.x) <> 'a'"
    " GROUP BY i",
    f"SELECT count(*), sum(g) FROM doubled WHERE {P} = c",
    f"SELECT count(*) FROM parent WHERE {P} = 'a'",
    f"SELECT count(*) FROM ONLY parent WHERE {P} <> 'zz'",
    f"SELECT count(*) FROM parent * WHERE {P} <> 'zz'",
    f"SELECT g, count(*) FROM pick(1) WHERE {P} <> 'a' GROUP BY g",
    f"SELECT ordinality, count(*) FROM pick(1) WITH ORDINALITY WHERE {P} <> 'a' GROUP BY 1",
    "SELECT q.n, count(*) FROM (VALUES ('f0', 1), ('f1', 2)) AS q (x, n)"
    " WHERE pgrain.predict('m', q.x) = 'a' GROUP BY n",
    "SELECT count(*) FROM t JOIN \"Übung\" USING (id) WHERE pgrain.predict('m', t.x) = t.c",
    "SELECT l.g, count(*) FROM t l LEFT JOIN t r ON l.id = r.id + 5 WHERE"
    " coalesce(pgrain.predict('m', r.x), 'none') <> 'a' GROUP BY l.g",
    "SELECT count(*) FROM (t l LEFT JOIN t k ON l.id = k.id + 5) JOIN t r ON"
    " pgrain.predict('m', k.x) = pgrain.predict('m', r.x) AND l.g = r.g",
    "SELECT count(*) FROM (t l CROSS JOIN t k), t r WHERE pgrain.predict('m', l.x)"
    " = pgrain.predict('m', r.x) AND k.id = l.id",
    "SELECT count(*) FROM public.t, LATERAL (SELECT t.x || '' AS y) AS s"
    " WHERE pgrain.predict('m', s.y) = t.c",
    "SELECT a.g, count(*), sum(b.only_there) FROM t a, other.t b WHERE pgrain.predict('m', a.x)"
    " = pgrain.predict('m', b.x) GROUP BY a.g",
    "SELECT count(*) FROM t WHERE pgrain.predict('m', x || '') = 'a'"
    " OR pgrain.predict('m', t.x) = 'b'",
    "SELECT id, t.*, pgrain.predict('m', x) AS l FROM t WHERE id < 4",
    "SELECT count(t), count(t.*) FROM t WHERE pgrain.predict('m', x) = 'a'",
    f"(SELECT count(*) FROM t WHERE {P} = 'a')",
    f"SELECT {P} l, count(*) FILTER (WHERE g = 1 AND {P} = 'a' OR v > 3) FROM t GROUP BY l",
    "SELECT count(*) FROM t WHERE pgrain.predict('m', 'f1') = c",
    f"SELECT g, count(*) FROM passing WHERE {P} = c GROUP BY g",
    f"SELECT count(*) FROM odd WHERE {P} = l",
    f"SELECT l COLLATE \"C\", count(*) FROM odd WHERE {P} = l GROUP BY 1",
    f"SELECT l = 'a', count(*) FROM odd WHERE {P} = l COLLATE \"C\" GROUP BY l",
    f"SELECT ch, count(*) FROM odd WHERE {P} = ch GROUP BY ch",
    f"SELECT n::text, count(*) FROM odd WHERE ({P} = 'a') = (n::text = '1.0') GROUP BY 1",
    f"SELECT m, s, count(*) FROM odd WHERE {P} = s AND ({P} = 'a' OR m < 'glad') GROUP BY m, s",
    f"SELECT count(*), sum((j::text)::int) FROM odd WHERE ({P} = 'a') = (pt[0] = 1) AND"
    f" (j::text = '1' OR {P} = 'b')",
    f"SELECT r, tz, b, {P} AS p, j, pt FROM odd WHERE {P} <> 'a' OR upper(r) = 2",
    f"SELECT count(*) FILTER (WHERE {P} = 'a' AND b = B'01' AND tz < '11:00+00') FROM odd",
    "SELECT l.l, count(*) FROM odd l JOIN odd r ON l.l = r.l AND l.ch = r.ch AND"
    " pgrain.predict('m', l.x) < pgrain.predict('m', r.x) GROUP BY l.l",
    f"SELECT count(v) FILTER (WHERE {P} IN (SELECT k.c FROM t k)) FROM pick(1)",
    f"SELECT count(*) FROM t WHERE {P} NOT IN (SELECT k.c FROM t k WHERE k.c IS NOT NULL)",
    f"SELECT count(*) FROM t WHERE {P} <> ALL (SELECT k.c FROM t k WHERE k.id < t.id)",
    "SELECT count(*), 'it''s' AS what, (SELECT max(id) FROM t) FROM t"
    f" WHERE {P} = 'a' AND false IS NULL",
    "SELECT count(*), (SELECT count(*) FROM odd), (SELECT k.id FROM t k ORDER BY k.id LIMIT 1),"
    f" 1 + (SELECT max(k.id) FROM t k) AS more FROM t WHERE {P} = 'a' AND false IS NULL",
]


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    rng = random.Random(3)
    lab.connection.execute(SCHEMA)
    lab.add_model("m", CLASSES, {f"f{i}": rng.choice(CLASSES) for i in range(5)})
    lab.add_model("pictures", CLASSES, {value: rng.choice(CLASSES) for value, in
                                        lab.rows("SELECT DISTINCT img::text FROM t"
                                                 " WHERE img IS NOT NULL")}, "bytea")
    lab.add_model("arrays", CLASSES, {value: rng.choice(CLASSES) for value, in
                                      lab.rows("SELECT DISTINCT f::text FROM t"
                                               " WHERE f IS NOT NULL")}, "float8")
    lab.add_model("rows", CLASSES, {value: rng.choice(CLASSES) for value, in lab.rows(
        "SELECT DISTINCT jsonb_build_array(x, g)::text FROM t")}, "columns", ["x", "g"])
    return lab


def check(lab: Lab, query: str):
    try:
        circuit, capture = lab.circuit(query)
        circuit.value(lab.predicted(circuit)).compare(lab.result(capture))
    except PgrainError as error:
        raise AssertionError(f"{query}\n{error.message}\n{error.detail}\n{error.hint}") from error
    return circuit, capture


@pytest.mark.parametrize("query", QUERIES)
def test_text_survives(schema: Lab, query: str) -> None:
    check(schema, query)


def test_a_minimum_may_be_any_of_those_that_are_equal(schema: Lab) -> None:
    """Which of 'a' and 'A' is the least, the collation (or citext) leaves to PostgreSQL."""
    schema.connection.execute("CREATE EXTENSION IF NOT EXISTS citext")
    for text in ("min(l) AS k", "max(l) AS k", "min(l::citext) AS k", "max(l::citext) AS k"):
        query = f"SELECT {text}, count(*) AS n FROM odd WHERE {P} <> 'zz' GROUP BY ch"
        circuit, capture = check(schema, query)
        output, result = circuit.value(schema.predicted(circuit)), schema.result(capture)
        output.compare([(k.swapcase(), n) for k, n in result])
        with pytest.raises(PgrainError, match="differs"):
            output.compare([(k + "b", n) for k, n in result])
        # Where the collation tells them apart, they are not the same.
        output.columns = [dataclasses.replace(c, tied=False) for c in output.columns]
        with pytest.raises(PgrainError, match="differs"):
            output.compare([(k.swapcase(), n) for k, n in result])
    circuit, _ = check(schema, "SELECT min(CASE WHEN g = 1 THEN interval '1 month' ELSE interval"
                               f" '30 days' END) AS k FROM t WHERE {P} <> 'zz'")
    for text in ("1 mon", "30 days", "720:00:00"):
        circuit.value(schema.predicted(circuit)).compare([(text,)])
    assert [equal_is_same(25, exact) for exact in (True, False)] == [True, False]


def test_an_input_column_comes_before_an_alias_in_group_by(schema: Lab) -> None:
    circuit, _ = check(schema, f"SELECT g AS c, count(*) FROM t WHERE {P} <> 'zz' GROUP BY c, g")
    assert len(circuit.lineage.texts) == schema.rows(
        "SELECT count(*) FROM (SELECT DISTINCT c, g FROM t WHERE x IS NOT NULL) q")[0][0]


@pytest.mark.parametrize(("model", "argument"), [
    ("pictures", "img"), ("arrays", "f"), ("arrays", "t.f::float8[]"), ("rows", "t"),
    ("rows", "to_jsonb(t)"), ("rows", "o")])
def test_every_kind_of_input(schema: Lab, model: str, argument: str) -> None:
    """The digests of the capture name the values; what is fetched has the digest asked for."""
    from pgrain.wire import identity

    relation = "t" if argument != "o" else "(SELECT id, x, g, c FROM t) AS o"
    query = (f"SELECT id % 3 AS k, count(*) FROM {relation} WHERE"
             f" pgrain.predict('{model}', {argument}) <> c GROUP BY 1")
    capture = schema.capture(query)
    lineage = schema.lineage(capture)
    facts = schema.models[model]
    array = b"{" + b",".join(b'"\\\\x' + d.tobytes().hex().encode() + b'"'
                             for d in lineage.digests[model][:2]) + b"}"
    fetched = _fetch(schema, capture.fetch_sql(model), array)
    assert len(fetched) == len(lineage.digests[model][:2])
    keyed = identity.hasher(SECRET)
    for digest, value in fetched:
        assert identity.digest(keyed, value, facts.kind, facts.features) == digest
    if model in ("pictures",):
        check(schema, query)


@pytest.mark.parametrize("query", [
    "SELECT count(*) FROM t WHERE pgrain.predict('m', x) <> c",
    "SELECT g FROM t WHERE EXISTS (SELECT 1 FROM t AS k WHERE pgrain.predict('m', k.x) = t.c)"])
def test_digests_are_looked_up_in_a_hash_table(schema: Lab, query: str) -> None:
    """Rows times digests would be the square of a table that nothing is stored of."""
    sql = schema.capture(query).fetch_sql("m")
    lab = schema.connection
    lab.execute("SET plan_cache_mode = force_generic_plan")
    try:
        lab.execute(f"PREPARE fetched (bytea, bytea[]) AS {sql}".encode())
        plan = "\n".join(line for line, in lab.execute("EXPLAIN EXECUTE fetched ('', '{}')"))
    finally:
        lab.execute("RESET plan_cache_mode")
        lab.execute("DEALLOCATE ALL")
    assert "hashed SubPlan" in plan and "ANY ($2" not in plan


def _fetch(lab: Lab, sql: str, array: bytes):
    """Rows of fetch_sql, with the value as Python's side of the wire has it."""
    prepared = sql.replace("$1", "'\\x" + SECRET.hex() + "'::bytea").replace(
        "$2", "'" + array.decode() + "'")
    return [(bytes(digest), value) for digest, value in lab.rows(prepared)]


def test_two_spellings_of_a_call_are_one_slot(schema: Lab) -> None:
    circuit, capture = check(schema, "SELECT count(*) FROM t WHERE pgrain.predict('m', x) = 'a' OR"
                                     " pgrain.predict('m', t.x) = c OR"
                                     " pgrain.predict('m', \"t\".\"x\") IS NULL")
    assert len(capture.annotated.slots) == 1


def test_a_self_join_of_one_variable_is_not_squared(schema: Lab) -> None:
    """x = x is certain, whatever the probabilities; two different variables are not."""
    circuit, _ = schema.circuit(
        "SELECT count(*) FROM t l JOIN t r ON l.id = r.id AND pgrain.predict('m', l.x) ="
        " pgrain.predict('m', r.x)")
    P_ = np.full(circuit.shape, 1.0 / circuit.shape[1])
    known = schema.rows("SELECT count(x) FROM t")[0][0]
    assert circuit.relaxed({"m": P_}).numbers[0, 0] == pytest.approx(known)


def test_row_level_security_stays_in_force(schema: Lab) -> None:
    schema.connection.execute(
        "ALTER TABLE secret ENABLE ROW LEVEL SECURITY; DROP ROLE IF EXISTS walker_reader;"
        "CREATE ROLE walker_reader; GRANT USAGE ON SCHEMA pgrain TO walker_reader;"
        "GRANT SELECT ON secret, pgrain.stand_in TO walker_reader;"
        "CREATE POLICY own ON secret USING (owner = current_user"
        " AND id IN (SELECT id FROM t)); GRANT SELECT ON t TO walker_reader;")
    query = f"SELECT count(*) FROM secret WHERE {P} IS NOT NULL"
    try:
        schema.connection.execute("SET ROLE walker_reader")
        circuit, _ = check(schema, query)
        assert circuit.value(schema.predicted(circuit)).numbers[0, 0] == 10
    finally:
        schema.connection.execute("RESET ROLE")
        schema.connection.execute("DROP OWNED BY walker_reader; DROP ROLE walker_reader")


def test_bare_predict_in_the_search_path(schema: Lab) -> None:
    try:
        schema.connection.execute("SET search_path = public, pgrain")
        check(schema, "SELECT g, count(*) FROM t WHERE PREDICT('m', x) = 'a' GROUP BY g")
    finally:
        schema.connection.execute("RESET search_path")
