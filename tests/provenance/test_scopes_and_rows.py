"""Queries where names, rows or duplicates could deceive the walker: right, or refused by name.

Right means: equal to PostgreSQL under every relabelling of the feature values, also of those that
the circuit does not list as variables.
"""

from __future__ import annotations

import itertools

import pytest
from provenance_harness import Lab

from pgrain.errors import PgrainError
from pgrain.provenance.circuit import Circuit

CLASSES = ["a", "b"]
SCHEMA = """
CREATE TABLE s (id int, x text, c text, g int, v numeric);
INSERT INTO s VALUES (1, 'f0', 'a', 0, 1), (2, 'f1', 'b', 0, 1.00), (3, 'f2', NULL, 1, -2);
CREATE TABLE r (id int, x text, c text, g int, v numeric);
INSERT INTO r VALUES (1, 'f3', 'a', 0, 1), (2, 'f4', 'b', 1, 2), (3, NULL, NULL, NULL, 3);
CREATE TABLE nn (n int, k text);
INSERT INTO nn VALUES (1, 'a'), (2, 'b');
CREATE TABLE arr (id int, x text, a int[], ta text[]);
INSERT INTO arr VALUES (1, 'f0', '{1,2}', '{a,z}'), (2, 'f1', '{3}', '{b}'), (3, 'f2', NULL, '{}');
CREATE TABLE k (id int PRIMARY KEY, x text, v int);
CREATE VIEW v1 AS SELECT id, pgrain.predict('m', x) AS lab, g FROM s;
CREATE VIEW vg AS SELECT g, count(*) AS n FROM s WHERE pgrain.predict('m', x) = 'a' GROUP BY g;
CREATE VIEW whole AS SELECT o.*, pgrain.predict('w', o.*) AS label FROM s AS o;
"""
P = "pgrain.predict('m', x)"
RIGHT = [
    "SELECT r.g, vg.n, count(*) FROM r LEFT JOIN vg ON vg.g = r.g GROUP BY r.g, vg.g, vg.n",
    f"SELECT count(*) FROM r WHERE {P} = 'a' UNION ALL (WITH k AS (SELECT * FROM s) "
    f"SELECT count(*) FROM k WHERE {P} = 'a')",
    f"WITH s AS (SELECT * FROM s WHERE id < 3) SELECT count(*) FROM s WHERE {P} = 'a'",
    f"SELECT 'x' AS k, count(*) FROM s WHERE {P} = 'a' UNION SELECT 'y', count(*) FROM r "
    f"WHERE {P} = 'a'",
    f"SELECT count(*) FROM arr WHERE {P} = ANY (ta)",
    f"SELECT a, {P} AS l, count(*) FROM arr GROUP BY a, l",
    f"SELECT count(*) FROM arr WHERE ({P} = 'a') = (ta = '{{a,z}}')",
    f"SELECT count(*) FROM arr WHERE {P} = ta[1] OR cardinality(a) = 1",
    f"SELECT 1 FROM s WHERE {P} = 'a' HAVING true",
    f"SELECT 'x' FROM s WHERE {P} = 'a' GROUP BY ()",
    f"SELECT count(*) FROM s WHERE EXISTS (SELECT 1 FROM r WHERE r.g = s.g AND {P} = 'a' LIMIT 1)"
    .replace("AND pgrain.predict('m', x)", "AND pgrain.predict('m', r.x)"),
    f"WITH RECURSIVE k AS (SELECT id, {P} AS lk FROM r) SELECT count(*) FROM k WHERE lk = 'a'",
    f"SELECT count(*) > 1 AND count(*) < 3 AS two FROM s WHERE {P} = 'a'",
    f"SELECT g, NOT (count(*) = 0) AS some FROM s WHERE {P} = 'a' GROUP BY g",
    f"SELECT count(*) FROM s WHERE id NOT IN (SELECT id FROM r WHERE {P} = 'a')",
    f"SELECT id, n FROM r LEFT JOIN (SELECT g, count(*) AS n FROM s WHERE {P} = 'a' GROUP BY g) q "
    "USING (g)",
    f"SELECT g, count(*) FROM r NATURAL LEFT JOIN (SELECT g FROM s WHERE {P} = 'a') q GROUP BY g",
    f"SELECT g, count(*) FROM r FULL JOIN (SELECT g FROM s WHERE {P} = 'a') q USING (g) GROUP BY g",
    # counts as values
    f"SELECT 'x', count(*) FROM s WHERE {P} = 'a' GROUP BY g UNION SELECT 'y', count(*) FROM r "
    f"WHERE {P} = 'a' GROUP BY g",
    f"SELECT 1, count(*) FROM s WHERE {P} = 'a' UNION SELECT 1.0, count(*) FROM r WHERE {P} = 'a'",
    "SELECT DISTINCT n FROM vg",
    "SELECT g FROM vg WHERE n > ALL (SELECT g FROM r)",
    "SELECT r.c, vg.n, count(*) FROM vg JOIN r USING (g) GROUP BY r.c, vg.n",
    f"SELECT count(*) = ANY (SELECT 2) AS b FROM s WHERE {P} = 'a'",
    f"SELECT g FROM s WHERE {P} = 'a' GROUP BY g HAVING count(*) > ANY (VALUES (2), (5))",
    f"SELECT 'x', sum(v) FROM s WHERE {P} = 'a' GROUP BY g UNION SELECT 'y', count(*) FROM r "
    f"WHERE {P} = 'a' GROUP BY g",
    "SELECT r.g, k.n, count(*) FROM r LEFT JOIN (SELECT g, 2 * n AS n FROM vg) AS k ON k.g = r.g "
    "GROUP BY r.g, k.g, k.n",
    # CASE over aggregates whose values do not show what type they have
    f"SELECT CASE WHEN count(*) > 1 THEN c ELSE {P} END AS l FROM s GROUP BY c, x",
    f"SELECT CASE WHEN bool_or({P} = 'a') THEN c ELSE x END AS l FROM s GROUP BY c, x",
    f"SELECT g, coalesce(CASE WHEN count(*) FILTER (WHERE {P} = 'a') > 0 THEN max(c) END, min(x)) "
    "AS l FROM s GROUP BY g",
    f"SELECT q.l, count(*) FROM (SELECT CASE WHEN count(*) FILTER (WHERE {P} = 'a') > 0 THEN c "
    "ELSE x END AS l FROM s GROUP BY c, x) AS q GROUP BY q.l",
    f"SELECT g, CASE WHEN sum(v) FILTER (WHERE {P} = 'a') > 1 THEN g > 0 END FROM s GROUP BY g",
    f"SELECT g, count(*), (SELECT max(v) FROM r) AS m FROM s WHERE {P} = 'a' GROUP BY g",
    # * over USING and NATURAL: the merged columns first
    f"SELECT * FROM s JOIN (SELECT id, 5 AS z FROM r) AS k USING (id) WHERE {P} = 'a'",
    f"SELECT * FROM (SELECT id, 5 AS z FROM r) AS k JOIN s USING (id) WHERE {P} = 'a'",
    f"SELECT * FROM s LEFT JOIN (SELECT g, id AS i FROM r) AS k USING (g) WHERE {P} = 'a'",
    "SELECT * FROM v1 NATURAL JOIN nn",
    "SELECT * FROM vg FULL JOIN (SELECT id AS g, c FROM r) AS k USING (g)",
    "SELECT * FROM (SELECT id AS g, c FROM r) AS k LEFT JOIN vg USING (g)",
    "SELECT * FROM (SELECT g, c FROM r) AS k NATURAL RIGHT JOIN v1",
    "SELECT * FROM (SELECT id, c FROM r) AS k JOIN v1 USING (id) JOIN (SELECT id, g AS h FROM s)"
    " AS l USING (id)",
    "SELECT k.*, v1.*, * FROM (SELECT id, c FROM r) AS k JOIN v1 USING (id), nn",
    "SELECT count(*) FROM (SELECT * FROM (SELECT id, c FROM r) AS k JOIN v1 USING (id)) AS q "
    "WHERE q.lab = q.c",
    "SELECT * FROM (SELECT 'a' AS lab, 1 AS z) AS k JOIN v1 USING (lab)",
    "SELECT * FROM v1 LEFT JOIN (SELECT 'a' AS lab, 1 AS z) AS k USING (lab)",
    "SELECT j.lab FROM (v1 JOIN (SELECT 'a' AS lab, 1 AS z) AS k USING (lab)) AS j",
    # a column that was merged before, or on the other side
    "SELECT * FROM (SELECT id, c FROM r) AS a FULL JOIN (SELECT id + 1 AS id FROM r) AS b "
    "USING (id) LEFT JOIN v1 USING (id)",
    "SELECT id, lab FROM v1 JOIN ((SELECT n AS id FROM nn) AS a FULL JOIN "
    "(SELECT id + 1 AS id FROM r) AS b USING (id)) USING (id)",
    "SELECT id, count(*) FROM v1 FULL JOIN (SELECT id + 1 AS id FROM r) AS b USING (id) "
    "LEFT JOIN nn ON n = id GROUP BY id",
    # labels beside the groups that decide them
    f"SELECT x, {P} AS l, count(*) FROM s GROUP BY x",
    f"SELECT {P} = c, upper({P}), max(v) FROM s GROUP BY x, c HAVING {P} <> 'b' OR count(*) > 1",
    f"SELECT upper({P}) || '!', max(v) FROM s GROUP BY upper({P})",
    f"SELECT x, pgrain.predict('m', s.x) || c, max(v) FROM s GROUP BY {P}, x, c",
    f"SELECT x, {P}, pgrain.predict('m', c), max(v) FROM (SELECT x, 'f3' AS c, v FROM s) q "
    "GROUP BY x, c, 3",
    f"SELECT CASE WHEN count(*) FILTER (WHERE {P} = 'a') > 0 THEN {P} ELSE 'none' END FROM s "
    "GROUP BY c, x",
    f"SELECT l, sum(n) FROM (SELECT {P} AS l, count(*) AS n FROM s GROUP BY x) AS q GROUP BY l",
    # DISTINCT ON a label: the first row of each class
    f"SELECT DISTINCT ON ({P}) id, c FROM s ORDER BY {P}, id",
    f"SELECT DISTINCT ON ({P}) {P} AS l, id FROM s WHERE id > 0 ORDER BY l DESC, id DESC",
    "SELECT DISTINCT ON (lab, g) lab, g, id FROM v1 ORDER BY g, lab, id",
    "SELECT DISTINCT ON (1) lab, id FROM v1 ORDER BY 1, id DESC",
    "SELECT count(*), sum(id) FROM (SELECT DISTINCT ON (lab) lab, id FROM v1 ORDER BY lab, id) q",
    "SELECT lab, count(*) FROM (SELECT DISTINCT ON (c, v1.lab) v1.lab, r.c FROM v1 JOIN r USING (g)"
    " ORDER BY v1.lab, c, r.id) q GROUP BY lab",
    f"SELECT DISTINCT ON (upper({P})) id FROM s ORDER BY upper({P}), g DESC, id LIMIT 1 OFFSET 5",
    # arguments by name
    "SELECT count(*) FROM s WHERE pgrain.predict(model => 'm', x => x) = 'a'",
    "SELECT g, count(*) FROM s WHERE pgrain.predict(x => (s.x || ''), model := 'm'::text) = c "
    "GROUP BY g HAVING count(*) > 0",
    "SELECT id, pgrain.predict('m', x => s.x) FROM s WHERE pgrain.predict('m', x := x) <> 'a'",
    "SELECT g, count(*) FROM whole WHERE label = 'a' GROUP BY g",
    f"SELECT count(*) FROM (SELECT id, {P} AS l FROM s) q WHERE l = 'a' "
    "AND id IN (SELECT g FROM r)",
    "SELECT id, label FROM whole ORDER BY id",
    "SELECT a.id, b.label FROM whole AS a LEFT JOIN whole AS b ON b.label = a.c",
    "SELECT count(*) FROM whole AS a JOIN whole AS b ON a.label = b.label",
    # columns of views that are named with their schema
    "SELECT public.vg.g, public.vg.n FROM public.vg ORDER BY public.vg.g",
    "SELECT public.v1.* FROM public.v1 ORDER BY public.v1.id",
    "SELECT public.r.c, count(public.v1.lab) FROM public.r LEFT JOIN public.v1 ON "
    "public.v1.g = public.r.g AND public.v1.lab = 'a' GROUP BY public.r.c HAVING count(*) > 0",
    "SELECT count(*) FROM public.v1 WHERE public.v1.lab = 'a' AND EXISTS "
    "(SELECT 1 FROM public.r WHERE public.r.g = public.v1.g)",
    "SELECT public.r.id, public.r.g IN (SELECT v1.g FROM v1 WHERE lab = 'a') FROM public.r "
    "WHERE public.r.id > 0 ORDER BY public.r.id",
    # a plain subquery's own columns, named like numbers around it
    f"WITH f AS (SELECT g, sum(v) AS v FROM s WHERE {P} = 'a' GROUP BY g) "
    "SELECT g, v FROM f WHERE v > (SELECT min(v) FROM r) AND g IN (SELECT g FROM r WHERE v > 0)",
    f"SELECT q.g, q.v FROM (SELECT g, count(*) AS v FROM s WHERE {P} = 'a' GROUP BY g) AS q "
    "WHERE EXISTS (SELECT generate_series(1, 2) FROM r WHERE r.g = q.g AND v > 0 ORDER BY v)",
    "TABLE vg",
    f"WITH k AS (SELECT c, count(*) AS n FROM s WHERE {P} = 'a' GROUP BY c) TABLE k ORDER BY 1",
    "SELECT sum(n) FROM (TABLE vg) AS q WHERE g IN (SELECT r.h FROM (TABLE ONLY nn) AS r (h, k))",
    "(TABLE vg) UNION ALL SELECT id, g FROM s",
    # LIMITs whose order no prediction moves
    f"SELECT g, count(*), count(*) FILTER (WHERE {P} = 'a') FROM s GROUP BY g ORDER BY count(*) "
    "DESC LIMIT 1",
    f"SELECT g, avg(({P} = 'a')::int), stddev(v) AS d FROM s GROUP BY g "
    "ORDER BY d NULLS FIRST FETCH FIRST ROW ONLY",
    f"SELECT g, count(*) FILTER (WHERE {P} = 'a') AS n, count(*) AS k FROM s GROUP BY g HAVING "
    "EXISTS (SELECT 1 FROM v1 WHERE v1.g = s.g AND lab = 'b') AND count(*) > 0 "
    "ORDER BY count(*), sum(v) LIMIT 1",
    f"SELECT r.id, (SELECT count(*) FROM s WHERE s.g = r.g AND {P} = 'a' LIMIT 1) AS n FROM r"
    .replace("m', x", "m', s.x"),
    # aggregates that no prediction moves beside what only the group's rows know
    f"SELECT g, count(*) FILTER (WHERE {P} = 'a') FROM s GROUP BY g HAVING count(*) > "
    "(SELECT count(*) FROM r WHERE r.g = s.g)",
    f"SELECT (g + 1) * count(*), count(s.*), count(*) FILTER (WHERE {P} = 'a') FROM s "
    "GROUP BY g + 1 ORDER BY count(s) LIMIT 1",
    f"SELECT count(*) FILTER (WHERE {P} = 'a') NOT BETWEEN 1 AND 2, CASE WHEN count(*) FILTER "
    f"(WHERE {P} = 'a') IN (0, 2) THEN 'even' ELSE 'odd' END FROM s GROUP BY g",
    # rows counted as such
    "SELECT count(j.*) FROM v1 AS j WHERE lab = 'a'",
    "SELECT g, count(v1), count(v1.*) FILTER (WHERE lab = 'b') FROM v1 GROUP BY g",
    # numbers over groups: in keys, in texts, against each other
    f"SELECT r.c, 100.0 * count(*) / q.n FROM r CROSS JOIN (SELECT count(*) + 1 AS n FROM s WHERE "
    f"{P} = 'a') AS q GROUP BY r.c, q.n",
    "SELECT vg.n, r.g, count(*) FROM vg JOIN r USING (g) GROUP BY vg.n, r.g",
    "SELECT CASE WHEN n > 1 THEN 'many' WHEN n = 1 THEN 'one' END, count(*) FROM vg GROUP BY 1",
    f"SELECT b, count(*) FROM (SELECT g, CASE WHEN count(*) > 1 THEN 2 ELSE 1 END AS b FROM s "
    f"WHERE {P} = 'a' GROUP BY g) AS q GROUP BY b",
    "SELECT g FROM vg WHERE n >= (SELECT avg(n) FROM vg)",
    "SELECT g FROM vg WHERE n = (SELECT max(n) FROM vg) OR n < (SELECT sum(n) FROM vg WHERE g > 0)",
    "SELECT id FROM r WHERE g > (SELECT min(n) - 1 FROM vg WHERE vg.g <> r.id)",
    "SELECT g FROM vg GROUP BY g HAVING avg(n) > (SELECT n FROM vg WHERE g = 1) - 1",
    "SELECT r.id FROM r LEFT JOIN vg ON vg.g = r.g WHERE coalesce(vg.n, 0) < 2",
    "SELECT vg.g, vg.n, count(r.id) FROM vg LEFT JOIN r ON r.g = vg.g GROUP BY vg.g, vg.n "
    "HAVING vg.n > 1",
    "SELECT DISTINCT n > 1 FROM vg",
    "SELECT l.k, count(*) FILTER (WHERE lab = 'a') FROM v1, LATERAL (VALUES ('i', v1.id), "
    "('g', g)) AS l (k, w) GROUP BY l.k ORDER BY sum(l.w) LIMIT 1",
    # LIMITs that every possible row is below
    f"SELECT * FROM (SELECT g, count(*) AS n FROM s WHERE {P} = 'a' GROUP BY g) AS t LIMIT 1001",
    f"SELECT g, count(*) AS n FROM s WHERE {P} = 'a' GROUP BY g ORDER BY n DESC LIMIT 2",
    f"SELECT id, {P} AS l FROM s LIMIT 3",
    f"SELECT id FROM s ORDER BY {P} FETCH FIRST 3 ROWS ONLY",
    f"SELECT DISTINCT g, {P} FROM s ORDER BY 2 LIMIT 4",
    f"SELECT sum(n) FROM (SELECT c, count(*) AS n FROM s WHERE {P} = 'a' GROUP BY c LIMIT 3) AS q",
    f"SELECT c, count(*) AS n FROM s WHERE {P} = 'a' GROUP BY c UNION ALL SELECT 'all', count(*) "
    f"FROM s WHERE {P} = 'a' ORDER BY n LIMIT 4",
]
REFUSED = [
    (f"SELECT count(*) FROM r WHERE {P} = 'a' UNION ALL (WITH r AS (SELECT * FROM s) "
     f"SELECT count(*) FROM r WHERE {P} = 'a')", "name of the table"),
    ("WITH s AS (SELECT id, x, g FROM public.s WHERE id = 1) SELECT count(*) FROM v1, s "
     "WHERE lab = 'a'", "name of the table"),
    (f"SELECT nn.n FROM nn, LATERAL (SELECT count(*) AS n FROM s WHERE {P} = 'a' AND "
     "s.id >= nn.n) q WHERE EXISTS (SELECT 1 FROM r WHERE r.id = q.n)", "inside a subquery"),
    (f"SELECT q.n FROM (SELECT count(*) AS n FROM s WHERE {P} = 'a') q, generate_series(1, q.n)",
     "inside a subquery or function"),
    (f"SELECT count(DISTINCT q) FROM (SELECT g FROM s WHERE {P} = 'a' UNION ALL SELECT g FROM r) q",
     "whole row"),
    (f"SELECT q.g, q.n FROM (SELECT g, count(*) AS n FROM s WHERE {P} = 'a' GROUP BY g) AS q "
     "WHERE EXISTS (SELECT 1 FROM r WHERE r.g = q.g AND n > 0)", "inside a subquery"),
    (f"SELECT id FROM s ORDER BY {P}, id", "ORDER BY"),
    ("SELECT q.* FROM (SELECT v1.id, r.id FROM v1 JOIN r USING (g)) AS q", "columns of one name"),
    (f"SELECT {P} = 'a' AS l, pgrain.predict('m', k.x), max(v) FROM k GROUP BY id, {P} = 'a'",
     "not grouped by"),
    (f"SELECT {P} = 'a' AS l, pgrain.predict('m', k.x), count(*) FROM k GROUP BY id, {P} = 'a'",
     "not grouped by"),
    (f"SELECT FROM s WHERE {P} = 'a' EXCEPT ALL SELECT FROM r", "of no columns"),
    (f"SELECT g, (SELECT count(*) FROM r WHERE r.g = s.g), count(*) FILTER (WHERE {P} = 'a') "
     "FROM s GROUP BY ROLLUP (g)", "over GROUPING SETS"),
    (f"WITH k AS (SELECT id, {P} AS l FROM s) SELECT id FROM s", "nobody reads"),
    (f"SELECT g, count(*) AS n FROM s WHERE {P} = 'a' GROUP BY g ORDER BY n DESC LIMIT 1",
     "ORDER BY that depends"),
    (f"SELECT id, {P} AS l FROM s LIMIT 2", "LIMIT without ORDER BY"),
    (f"SELECT id FROM s WHERE {P} = 'a' FETCH FIRST ROW ONLY", "LIMIT without ORDER BY"),
    (f"SELECT {P} AS l, id FROM s ORDER BY l, id LIMIT 1", "ORDER BY that depends"),
    (f"SELECT id FROM s ORDER BY {P} LIMIT 1", "ORDER BY that depends"),
    (f"SELECT id FROM s WHERE {P} = 'a' LIMIT 3 OFFSET 1", "LIMIT without ORDER BY"),
    (f"SELECT id, (SELECT count(*) FROM (SELECT 1 FROM r WHERE r.g = s.g AND {P} = 'a' LIMIT 9) "
     "AS q) AS n FROM s", "LIMIT without ORDER BY"),
]


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.connection.execute(SCHEMA)
    lab.add_model("m", CLASSES, {f"f{i}": "a" for i in range(5)})
    lab.add_model("w", CLASSES, {f'["f{i}", {g}]': "a" for i, g in ((0, 0), (1, 0), (2, 1))},
                  "columns", ["x", "g"])
    return lab


@pytest.mark.parametrize("query", RIGHT)
def test_right_under_every_relabelling(schema: Lab, query: str) -> None:
    circuit, capture = schema.circuit(query)
    for labels in itertools.product(CLASSES, repeat=5):
        schema.relabel("m", {f"f{i}": label for i, label in enumerate(labels)})
        schema.relabel("w", {f'["f{i}", {g}]': labels[i] for i, g in ((0, 0), (1, 0), (2, 1))})
        circuit.value(schema.predicted(circuit)).compare(schema.result(capture))


def test_a_view_that_calls_with_a_whole_row_is_merged(schema: Lab) -> None:
    """PostgreSQL spells predict('w', o) as predict('w', o.*) in the view's definition."""
    circuit, _ = schema.circuit("SELECT id, label FROM whole")
    assert [column.role for column in circuit.columns] == ["row", "label"]
    circuit, _ = schema.circuit("SELECT count(*) FROM whole AS a JOIN whole AS b "
                                "ON a.label = b.label")
    assert isinstance(circuit, Circuit), "factorised"


def test_the_place_of_a_refusal_after_table_is_the_callers(schema: Lab) -> None:
    with pytest.raises(PgrainError) as raised:
        schema.circuit("TABLE vg ORDER BY n LIMIT 1")
    assert raised.value.detail == 'Line 1, column 19: "n".'


def test_a_label_out_of_a_subquery_depends_on_the_model(schema: Lab) -> None:
    for query in (f"SELECT id, l FROM (SELECT id, {P} AS l FROM s ORDER BY id LIMIT 2) AS q",
                  f"SELECT q.* FROM (SELECT DISTINCT id, {P} AS l FROM s) AS q",
                  f"SELECT r.id, q.l FROM r LEFT JOIN (SELECT g, {P} AS l FROM s) AS q "
                  "ON q.g = r.g",
                  f"SELECT id, (SELECT {P} FROM r WHERE r.id = s.id ORDER BY g LIMIT 1) FROM s"
                  .replace("m', x", "m', r.x"),
                  "SELECT id, EXISTS (SELECT 1 FROM v1 WHERE v1.g = r.g AND lab = 'a') FROM r"):
        circuit, _ = schema.circuit(query)
        assert [column.model_dependent for column in circuit.columns] == [False, True], query


@pytest.mark.parametrize("query", [
    "SELECT lab, count(*) FROM (SELECT {} FROM s) AS q GROUP BY lab",
    "WITH q AS (SELECT {} FROM s) SELECT g FROM q WHERE lab = 'a' GROUP BY g HAVING count(*) > 1",
    "SELECT id FROM r WHERE EXISTS (SELECT 1 FROM (SELECT {} FROM s) AS q WHERE q.g = r.g AND lab"
    " = 'a')",
    "SELECT r.id, q.lab FROM r LEFT JOIN (SELECT {} FROM s) AS q ON q.g = r.g"])
def test_labels_that_nothing_names_bring_no_variables(schema: Lab, query: str) -> None:
    """Else the rows would hang on predictions that decide nothing, and their model be ranked."""
    def models(labels: str) -> list[str]:
        circuit, _ = schema.circuit(query.format(labels))
        return sorted(model for model, found in circuit.lineage.digests.items() if len(found))

    both = f"id, g, {P} AS lab, pgrain.predict('w', s) AS other"
    assert models(both) == ["m"]
    assert models(both.replace("lab", "mine").replace("other", "lab")) == ["w"]


def test_a_view_that_shows_its_owner_more_is_refused(schema: Lab) -> None:
    """Its calls are the query's, read with the caller's rights: not what the view returns."""
    execute = schema.connection.execute
    execute("CREATE ROLE pgrain_view_reader; GRANT USAGE ON SCHEMA pgrain TO pgrain_view_reader;"
            "GRANT SELECT ON pgrain.stand_in TO pgrain_view_reader;"
            "CREATE TABLE rows_of AS SELECT * FROM s;"
            "CREATE VIEW theirs AS SELECT id, pgrain.predict('m', x) AS lab FROM rows_of;"
            "CREATE VIEW mine WITH (security_invoker) AS SELECT * FROM theirs;"
            "CREATE VIEW asked WITH (security_invoker) AS SELECT id, pgrain.predict('m', x) AS lab"
            " FROM rows_of; GRANT SELECT ON theirs, mine, asked TO pgrain_view_reader")
    try:
        for sqlstate, rights in (("42501", ""),
                                 ("0A000", "GRANT SELECT ON rows_of TO pgrain_view_reader;"
                                 "ALTER TABLE rows_of ENABLE ROW LEVEL SECURITY;"
                                 "CREATE POLICY few ON rows_of USING (id < 3)")):
            execute(rights)
            with schema.as_role("pgrain_view_reader"):
                for view in ("theirs", "mine"):
                    with pytest.raises(PgrainError, match="owner's rights") as raised:
                        schema.circuit(f"SELECT lab, count(*) FROM {view} GROUP BY lab")
                    assert raised.value.sqlstate == sqlstate
        with schema.as_role("pgrain_view_reader"):
            circuit, capture = schema.circuit("SELECT id, lab FROM asked")
            result = schema.result(capture)
        assert sorted(row[0] for row in result) == ["1", "2"]
        circuit.value(schema.predicted(circuit)).compare(result)
        execute("ALTER TABLE rows_of DISABLE ROW LEVEL SECURITY")
        with schema.as_role("pgrain_view_reader"):       # the same rows for both
            circuit, capture = schema.circuit("SELECT id, lab FROM theirs")
            circuit.value(schema.predicted(circuit)).compare(schema.result(capture))
    finally:
        execute("DROP TABLE rows_of CASCADE; DROP OWNED BY pgrain_view_reader;"
                "DROP ROLE pgrain_view_reader")


@pytest.mark.parametrize(("shown", "rule"), [
    ("100.0 * count(*) FILTER (WHERE {}) / count(*)", "exact expectation"),
    ("coalesce(sum(v) FILTER (WHERE {}), 0)", "exact expectation"),
    ("max(v) FILTER (WHERE {})", "exact for independent rows"),
    ("avg(v) FILTER (WHERE {})", "approximate: a ratio of expectations"),
    ("count(v) FILTER (WHERE {}) / nullif(count(*) FILTER (WHERE {}), 0.0)", "approximate"),
    ("(count(*) FILTER (WHERE {})) ^ 2", "approximate: arithmetic over expectations")])
def test_explain_says_how_exact_a_number_is(schema: Lab, shown: str, rule: str) -> None:
    shown = shown.replace("{}", f"{P} = 'a'")
    for having in ("", " HAVING count(*) FILTER (WHERE " + f"{P} = 'a') > 0"):
        circuit, capture = schema.circuit(f"SELECT n FROM (SELECT g, {shown} AS n FROM s GROUP BY g"
                                          f"{having}) AS q")
        [line] = [line for line in capture.render(circuit) if 'column "n"' in line]
        assert rule in line, line
    circuit, capture = schema.circuit(f"SELECT g, {shown} AS n FROM s GROUP BY g{having}")
    [line] = [line for line in capture.render(circuit) if 'column "n"' in line]
    assert f"{rule}" in line and line.endswith("not conditioned on HAVING")


@pytest.mark.parametrize(("aggregate", "rule"), [
    ("sum(n)", "exact"), ("sum(2 * n + 1)", "exact"), ("sum(n * n)", "approximate"),
    ("max(n)", "exact, by diagrams"), ("avg(n)", "approximate"),
    ("max(n * n)", "exact, by diagrams"), ("sum(a)", "approximate")])
def test_explain_says_how_exact_an_aggregate_of_numbers_is(schema: Lab, aggregate: str,
                                                           rule: str) -> None:
    circuit, capture = schema.circuit(f"SELECT {aggregate} FROM (SELECT g, count(*) AS n, avg(v) AS"
                                      f" a FROM s WHERE {P} = 'a' GROUP BY g) AS q")
    [line] = [line for line in capture.render(circuit) if "(numbers)" in line]
    assert f": {rule}" in line


def test_which_of_equal_rows_limit_keeps_is_said_to_be_open(schema: Lab) -> None:
    """PostgreSQL keeps another row than the capture: the hint says what to write."""
    circuit, _ = schema.circuit(f"SELECT c, count(*) FILTER (WHERE {P} = 'a') FROM s GROUP BY c "
                                "ORDER BY count(*) LIMIT 1")
    value = circuit.value(schema.predicted(circuit))
    [key] = value.json_rows()
    other = next(c for c in ("a", "b", None) if c != key["output"]["c"])
    with pytest.raises(PgrainError, match="differs") as raised:
        value.compare([(other, "1")])
    assert "add columns to ORDER BY" in raised.value.hint


@pytest.mark.parametrize(("query", "construct"), REFUSED)
def test_refused_by_name(schema: Lab, query: str, construct: str) -> None:
    with pytest.raises(PgrainError) as raised:
        schema.circuit(query)
    error = raised.value
    assert error.sqlstate == "0A000"
    assert construct in f"{error.message} {error.detail}"
