"""predict answers for the value that is there now, by the version that is active now."""

from __future__ import annotations

import pytest


def labels(connection, where="true"):
    return dict(connection.execute(
        f"SELECT id, pgrain.predict('colour', x) FROM items WHERE {where}").fetchall())


def test_a_changed_value_gets_its_own_answer(small):
    """Also when another session has changed it a moment ago."""
    reader, writer = small.connect(), small.connect()
    before = labels(reader)
    other = next(key for key in sorted(before) if before[key] != before[1])
    writer.execute("UPDATE items SET x = (SELECT x FROM items WHERE id = %s) WHERE id = 1", [other])
    try:
        assert labels(reader, "id = 1") == {1: before[other]}
        writer.execute("UPDATE items SET x = ARRAY[x[1] + 0.001, x[2]] WHERE id = 1")
        expected = small.value("SELECT pgrain.predict('colour', x) FROM items WHERE id = 1")
        assert labels(reader, "id = 1") == {1: expected}
    finally:
        writer.execute("DELETE FROM items WHERE id = 1")
        writer.execute("INSERT INTO items SELECT id - 1000, x, claim, hour FROM items "
                       "WHERE id = 1001")
    assert labels(reader, "id = 1") == {1: before[1]}


def test_every_spelling_of_a_value_gives_the_same_answer(small):
    session = small.connect()
    session.execute("SET search_path = public, pgrain")
    rows = session.execute("""
        SELECT pgrain.predict('colour', x), pgrain.predict('colour', x::text),
               predict('colour', x), PREDICT('colour', x) FROM items WHERE x IS NOT NULL
        """).fetchall()
    assert len(rows) == 130
    assert all(len(set(row)) == 1 for row in rows)
    assert session.execute("SELECT PREDICT('colour', '{1.5, 0.25}')").fetchone() == \
        session.execute("SELECT PREDICT('colour', ARRAY[1.5, 0.25])").fetchone()


def test_the_active_version_counts_at_once_in_every_session(small):
    session = small.connect()
    old = small.value("SELECT version FROM pgrain.models")
    before = session.execute("SELECT id, pgrain.predict_proba('colour', x) FROM items "
                             "WHERE x IS NOT NULL ORDER BY id").fetchall()
    keys = [row[0] for row in small.rows("SELECT id::text FROM train WHERE label = 'green' "
                                         "AND id % 2 = 0")]
    small.execute("SELECT pgrain.apply('colour', %s, 'delete')", [keys])
    small.execute("CALL pgrain.train('colour')")
    after = session.execute("SELECT id, pgrain.predict_proba('colour', x) FROM items "
                            "WHERE x IS NOT NULL ORDER BY id").fetchall()
    assert before != after
    assert small.value("SELECT n_rows FROM pgrain.models") == 240 - len(keys)
    small.execute("SELECT pgrain.activate('colour', %s)", [old])
    assert session.execute("SELECT id, pgrain.predict_proba('colour', x) FROM items "
                           "WHERE x IS NOT NULL ORDER BY id").fetchall() == before
    small.execute("SELECT pgrain.revert('colour')")


def test_an_activation_that_is_rolled_back_is_forgotten(small):
    """Also within microseconds: one string of statements, a savepoint, a loop."""
    versions = [row[0] for row in small.rows("SELECT version FROM pgrain.versions ORDER BY 1")]
    old, new = versions[0], versions[-1]
    assert old != new
    small.execute("SELECT pgrain.activate('colour', %s)", [new])
    session = small.connect()
    proba = "pgrain.predict_proba('colour', ARRAY[1.5, -0.5])"
    expected = session.execute(f"SELECT {proba}").fetchone()[0]
    small.execute("SELECT pgrain.activate('colour', %s)", [old])
    other = session.execute(f"SELECT {proba}").fetchone()[0]
    small.execute("SELECT pgrain.activate('colour', %s)", [new])
    assert expected != other
    for _ in range(10):
        cursor = session.execute(f"BEGIN; SELECT pgrain.activate('colour', {old}); "
                                 f"SELECT {proba}; ROLLBACK; SELECT {proba}")
        results = []
        while True:
            if cursor.description:
                results.append(cursor.fetchone()[0])
            if not cursor.nextset():
                break
        assert results[-2:] == [other, expected]
        session.execute(f"""DO $$
            DECLARE inside float8[]; after float8[];
            BEGIN
                BEGIN
                    PERFORM pgrain.activate('colour', {old});
                    inside := {proba};
                    RAISE EXCEPTION 'undo';
                EXCEPTION WHEN raise_exception THEN after := {proba};
                END;
                PERFORM set_config('test.inside', inside::text, false),
                        set_config('test.after', after::text, false);
            END $$""")
        inside, after = session.execute("SELECT current_setting('test.inside')::float8[], "
                                        "current_setting('test.after')::float8[]").fetchone()
        assert (inside, after) == (other, expected)
    small.execute("SELECT pgrain.activate('colour', %s)", [old])


def test_rolled_back_training_data_leaves_no_trace(small):
    session = small.connect()
    session.execute("BEGIN")
    session.execute("SELECT pgrain.create_model('passing', 'train', 'id', '{x}', 'label', "
                    "'logistic_regression')")
    assert session.execute("SELECT count(*) FROM pgrain.models").fetchone() == (2,)
    session.execute("ROLLBACK")
    assert session.execute("SELECT count(*) FROM pgrain.models").fetchone() == (1,)


def test_it_works_in_a_read_only_transaction(small):
    session = small.connect()
    session.execute("SET default_transaction_read_only = on")
    assert len(labels(session)) == 131
    rows = session.execute("""
        SELECT * FROM pgrain.complain($$ SELECT count(*) AS n FROM items
            WHERE pgrain.predict('colour', x) <> claim $$, 'n too high', top_k => 3)""").fetchall()
    assert len(rows) == 3


@pytest.mark.parametrize("kind,expression", [
    ("a row", "pgrain.predict('income', a)"),
    ("a subset of columns", "pgrain.predict('income', to_jsonb(a) - 'id')"),
    ("an object", "pgrain.predict('income', jsonb_build_object('job', job, 'age', age))"),
    ("an untyped literal",
     "pgrain.predict('income', '{\"age\": 30, \"job\": \"cook\"}')"),
])
def test_models_of_many_columns(small, kind, expression):
    if not small.value("SELECT to_regclass('people')"):
        small.execute("""
            CREATE TABLE people AS SELECT i AS id, 20 + i % 50 AS age,
                (ARRAY['cook', 'clerk', NULL])[i % 3 + 1] AS job,
                CASE WHEN (20 + i % 50) + 20 * (i % 3) > 60 THEN '>50K' ELSE '<=50K' END AS income
            FROM generate_series(1, 300) AS i""")
        small.execute("SELECT pgrain.create_model('income', 'people', 'id', '{age,job}', 'income', "
                      "'logistic_regression')")
        small.execute("CALL pgrain.train('income')")
    rows = small.rows(f"SELECT a.income, {expression} FROM people a WHERE age < 70")
    assert {row[1] for row in rows} <= {">50K", "<=50K"}
    if kind != "an untyped literal":
        assert sum(a == b for a, b in rows) > 0.8 * len(rows)
