"""Queries of any nesting through SQL: provenance equals the query, complaints rank, signs hold."""

from __future__ import annotations

import psycopg
import pytest

RED = "pgrain.predict('colour', x)"
QUERIES = {
    "ratio": (f"SELECT hour, 100.0 * count(*) FILTER (WHERE {RED} = 'red') / count(*) AS share "
              "FROM items GROUP BY hour", "share too high"),
    "having": (f"SELECT hour, count(*) AS n FROM items WHERE {RED} <> claim GROUP BY hour "
               "HAVING count(*) >= 1", "n <= 0"),
    "cte": (f"WITH p AS (SELECT hour, claim, {RED} AS colour FROM items) "
            "SELECT hour, count(*) AS n FROM p WHERE colour <> claim GROUP BY hour", "n too high"),
    "exists": ("SELECT count(*) AS n FROM items o WHERE EXISTS (SELECT 1 FROM items i WHERE "
               "i.hour = o.hour AND pgrain.predict('colour', i.x) <> i.claim)", "n <= 1"),
    "in": (f"SELECT count(*) AS n FROM items WHERE claim NOT IN (SELECT {RED} FROM items "
           "WHERE id < 3)", "n too low"),
    "union": (f"SELECT 1 AS part, count(*) AS n FROM items WHERE hour = 1 AND {RED} = 'red' "
              f"UNION ALL SELECT 2, count(*) FROM items WHERE hour = 2 AND {RED} = 'red'",
              "n too high WHERE part = 2"),
    "proba": ("SELECT hour, avg((pgrain.predict_proba('colour', x))[1]) AS p FROM items "
              "GROUP BY hour", "p >= 2"),
    "maximum": ("SELECT max(n) AS n FROM (SELECT hour, count(*) AS n FROM items WHERE "
                f"{RED} <> claim GROUP BY hour) s", "n <= 0"),
    "left join": ("SELECT o.hour, count(i.id) AS n FROM items o LEFT JOIN items i ON i.id = o.id "
                  "AND pgrain.predict('colour', i.x) <> i.claim GROUP BY o.hour", "n too high"),
    "limit": (f"SELECT count(*) AS n FROM (SELECT id FROM items WHERE {RED} = 'red' ORDER BY id "
              "LIMIT 7) s", "n too low"),
    "sum of counts, limit": ("SELECT sum(n) AS n FROM (SELECT hour, count(*) AS n FROM items WHERE "
                             f"{RED} = 'red' GROUP BY (1) ORDER BY (1) LIMIT 2) s", "n too low"),
    "join on predictions, distinct": (
        "SELECT count(*) AS n FROM (SELECT DISTINCT l.id FROM items l JOIN items r ON r.id < 3 AND "
        "pgrain.predict('colour', l.x) = pgrain.predict('colour', r.x)) s", "n too high"),
    "join on predictions, maximum": (
        "SELECT max(l.id) AS n FROM items l JOIN items r ON r.id < 40 AND "
        "pgrain.predict('colour', l.x) = pgrain.predict('colour', r.x)", "n <= 0"),
    "join on predictions, exists": (
        "SELECT count(*) AS n FROM items o WHERE EXISTS (SELECT 1 FROM items i WHERE i.id > o.id "
        "AND i.hour = o.hour AND pgrain.predict('colour', i.x) = pgrain.predict('colour', o.x))",
        "n <= 1"),
}


@pytest.mark.parametrize("name", QUERIES)
def test_provenance_has_the_query_s_values(small, name) -> None:
    query, _ = QUERIES[name]
    columns = [c.name for c in small.execute(query).description]
    result = sorted(str([None if v is None else float(v) for v in row])
                    for row in small.rows(query))
    cells = {}
    for row, output, column, value, _, variables in small.rows(
            "SELECT * FROM pgrain.provenance(%s)", [query]):
        cells[row] = output
        assert variables > 0
        assert output[column] == pytest.approx(value)
    got = sorted(str([None if output[c] is None else float(output[c]) for c in columns])
                 for output in cells.values())
    assert [eval_row(r) for r in got] == [pytest.approx(eval_row(r), rel=1e-6) for r in result]


def eval_row(text: str) -> list:
    """The numbers of a row that was sorted as text; NULL is -1."""
    return [-1.0 if part == "None" else float(part) for part in text.strip("[]").split(", ")]


@pytest.mark.parametrize("name", QUERIES)
def test_a_complaint_ranks_training_rows(small, name) -> None:
    query, complaint = QUERIES[name]
    rows = small.rows("SELECT rank, model, score, effect FROM pgrain.complain(%s, %s)",
                      [query, complaint])
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1)) and rows
    assert {row[1] for row in rows} == {"colour"}
    scores = [row[2] for row in rows]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0
    # A positive score reduces what was complained about: the cell falls, or rises if too low.
    rising = "too low" in complaint or ">=" in complaint
    assert (rows[0][3] > 0) == rising


def test_nested_and_flat_spellings_agree(small) -> None:
    """The same count by the factorising path and by blocks: one ranking."""
    flat = f"SELECT hour, count(*) AS n FROM items WHERE {RED} <> claim GROUP BY hour"
    nested = QUERIES["cte"][0]
    ask = ("SELECT train_id, round(score::numeric, 9), round(effect::numeric, 9) "
           "FROM pgrain.complain(%s, 'n too high WHERE hour = 1', top_k => 20)")
    assert small.rows(ask, [flat]) == small.rows(ask, [nested])


def test_two_models_rank_apart(small) -> None:
    small.execute("SELECT pgrain.create_model('second', 'train', 'id', '{x}', 'label', "
                  "'logistic_regression', '{\"alpha\": 0.1}')")
    for procedure in ("train('second')", "precompute('second', '{\"pairs\": 5}')",
                      "attach('second', 'items')"):
        small.execute(f"CALL pgrain.{procedure}")
    query = (f"SELECT count(*) AS n FROM items WHERE {RED} = 'red' "
             "OR pgrain.predict('second', x) = 'red'")
    value, relaxed = small.rows("SELECT value, relaxed FROM pgrain.provenance(%s)", [query])[0]
    assert value == small.rows(query)[0][0]
    expected = small.rows("""
        SELECT sum(1 - (1 - (pgrain.predict_proba('colour', x))[i]) *
                       (1 - (pgrain.predict_proba('second', x))[i]))
        FROM items, (SELECT array_position(classes, 'red') AS i FROM pgrain.models
                     WHERE model = 'colour') AS m WHERE x IS NOT NULL""")[0][0]
    assert relaxed == pytest.approx(expected, rel=1e-5)
    rows = small.rows("SELECT model, rank FROM pgrain.complain(%s, 'n too high', top_k => 5)",
                      [query])
    assert rows == [(model, rank) for model in ("colour", "second") for rank in range(1, 6)]


def test_explain_shows_the_blocks(small) -> None:
    lines = [row[0] for row in small.rows("SELECT pgrain.explain(%s)", [QUERIES["exists"][0]])]
    assert any("disjunctions" in line for line in lines)
    assert any("Seq Scan" in line for line in lines)


@pytest.mark.parametrize("function", ["complain(%s, 'n too high')", "provenance(%s)",
                                      "explain(%s)"])
@pytest.mark.parametrize(("query", "construct", "place"), [
    (f"SELECT count(*) AS n\nFROM items WHERE {RED} = $1", "a parameter", "Line 2, column "),
    (f"WITH gone AS (DELETE FROM items RETURNING *) SELECT count(*) AS n FROM gone WHERE {RED} ="
     " 'red'", "a data-modifying CTE", "Line 1, column 15: \"DELETE FROM"),
])
def test_what_postgresql_would_refuse_or_do_is_refused_by_name(small, function, query, construct,
                                                               place) -> None:
    with pytest.raises(psycopg.Error, match=f"{construct} has no provenance yet") as raised:
        small.rows(f"SELECT * FROM pgrain.{function}", [query])
    diagnosis = raised.value.diag
    assert diagnosis.sqlstate == "0A000"
    assert diagnosis.message_detail.startswith(place) and diagnosis.message_hint
    if "$1" in query:
        assert diagnosis.message_detail == f'Line 2, column {18 + len(RED) + 3}: "$1".'


def test_values_that_are_not_attached(small) -> None:
    query = ("SELECT count(*) AS n FROM (VALUES (ARRAY[0.1, 0.2]::float8[]), "
             "(ARRAY[0.3, -0.2])) AS v (x) WHERE EXISTS (SELECT 1 FROM items i WHERE "
             "pgrain.predict('colour', i.x) = pgrain.predict('colour', v.x))")
    try:
        value = small.rows("SELECT value FROM pgrain.provenance(%s)", [query])[0][0]
    except psycopg.Error:
        pytest.skip("the model's input is no array of two numbers")
    assert value == small.rows(query)[0][0]


def test_what_calls_a_model_inside_is_data_and_explain_says_so(small) -> None:
    small.execute("CREATE MATERIALIZED VIEW seen AS SELECT id, pgrain.predict('colour', x) AS c "
                  "FROM items")
    small.execute("CREATE FUNCTION colour_of(v float8[]) RETURNS text LANGUAGE plpgsql STABLE AS "
                  "$$ BEGIN RETURN pgrain.predict('colour', v); END $$")
    query = (f"SELECT count(*) AS n FROM items JOIN seen USING (id) WHERE {RED} = 'red' "
             "AND seen.c = 'red' AND colour_of(x) = 'red'")
    notes = [row[0] for row in small.rows("SELECT pgrain.explain(%s)", [query])
             if row[0].startswith("note:")]
    assert len(notes) == 2 and "materialised view seen" in " ".join(notes)
    with pytest.raises(psycopg.Error, match="calls no model") as raised:
        small.rows("SELECT * FROM pgrain.provenance('SELECT count(*) FROM seen WHERE c = ''red''')")
    assert "seen" in raised.value.diag.message_detail


def test_explain_shows_what_the_caller_wrote_and_nothing_of_its_own(small) -> None:
    """However either begins: items of FROM and conditions."""
    query = ("SELECT count(*) AS n FROM (VALUES ('red'), ('green')) AS v (c), "
             "LATERAL (SELECT coalesce(v.c, 'blue') AS c) AS w, items AS i "
             "WHERE i.claim OPERATOR(pg_catalog.=) w.c AND EXISTS (SELECT 1 FROM items AS j WHERE "
             "j.hour = i.hour AND j.id < 9 AND pgrain.predict('colour', j.x) = v.c)")
    lines = [row[0].strip() for row in small.rows("SELECT pgrain.explain(%s)", [query])]
    annotated = lines[:lines.index("PostgreSQL's plan:")]
    for written in ("from (VALUES ('red'), ('green')) AS v (c)",
                    "from LATERAL (SELECT coalesce(v.c, 'blue') AS c) AS w", "from items AS i",
                    "where i.claim OPERATOR(pg_catalog.=) w.c"):
        assert written in annotated, "\n".join(annotated)
    assert not [line for line in annotated if line.startswith("from") and "_pgrain_" in line]
