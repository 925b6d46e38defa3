"""predict answers for the value that is there now, by the version that is active now."""

from __future__ import annotations

import random
import struct

import psycopg
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


@pytest.mark.parametrize("model,features,value", [
    ("notes", "{x,y}", "jsonb_build_object('x', x, 'y', y)"), ("arrays", "{v}", "v")])
def test_values_in_whatever_order_they_come(small, model, features, value):
    """What a session remembers (a value, its label, which value came next) answers for scans in
    the same and in other orders, with gaps and repeats, where there is room for a few values only,
    and when another session activates another version in between."""
    rng = random.Random(11)
    small.execute(f"""
        CREATE TABLE {model} AS SELECT i AS id, i % 90 AS x, i % 90 % 7 AS y,
            ARRAY[i % 90, i % 90 % 7]::float8[] AS v,
            (ARRAY['a', 'b', 'c'])[1 + i % 90 / 30] AS label
        FROM generate_series(1, 140) AS i""")
    small.execute("SELECT pgrain.create_model(%s, %s, 'id', %s, 'label', 'logistic_regression')",
                  [model, model, features])
    predicted = f"pgrain.predict('{model}', {value})"
    expected = {}
    for edited in (False, True):
        if edited:
            small.execute("SELECT pgrain.apply(%s, ARRAY(SELECT id::text FROM notes "
                          "WHERE label = 'a'), 'relabel:b')", [model])
        small.execute("CALL pgrain.train(%s)", [model])
        version = small.value("SELECT version FROM pgrain.models WHERE model = %s", [model])
        expected[version] = dict(small.connect().execute(
            f"SELECT id, {predicted} FROM {model}").fetchall())
    (one, other) = expected
    assert expected[one] != expected[other]
    session = small.connect()
    session.execute(f"SELECT {predicted} FROM {model} LIMIT 1")
    session.execute("""DO LANGUAGE plpython3u $$
        import sys
        session = sys.modules["pgrain.backend.session"]
        session.REMEMBERED_BYTES = session.REMEMBERED_BYTES._replace(default=10_000)
        $$""")
    active = other
    for _ in range(80):
        if rng.random() < 0.2:
            active = rng.choice([one, other])
            small.execute("SELECT pgrain.activate(%s, %s)", [model, active])
        order = rng.choice(["id", "id", "id", "-id", "md5(id::text)", "id % 7, id"])
        where = rng.choice(["true", "true", "id % 3 > 0", f"id > {rng.randrange(140)}", "id < 20"])
        found = session.execute(
            f"SELECT id, {predicted} FROM (SELECT * FROM {model} WHERE {where} ORDER BY {order} "
            "LIMIT 1000) AS n").fetchall()
        assert all(expected[active][key] == label for key, label in found), (active, order, where)
    session.execute(f"""DO LANGUAGE plpython3u $$
        import sys
        model = sys.modules["pgrain.backend.session"].STATE.models["{model}"]
        kept = set(map(id, [model.nothing, *model.met.values()]))
        assert all(id(node[2]) in kept for node in model.met.values())   # the others are let go
        assert 10 < len(model.met) < 60
        $$""")


def test_arrays_are_remembered_by_their_bits(small):
    """0 and -0 are equal and not the same; the bytes of an array's numbers are no value of another
    type; what has NULLs or more dimensions is refused as ever."""
    session = small.connect()
    scan = ("SELECT array_agg(pgrain.predict('colour', x) ORDER BY n) FROM unnest(%s::text[]) "
            "WITH ORDINALITY AS u (t, n), LATERAL (SELECT t::float8[] AS x) AS v")
    values = ["{0,1}", "{-0,1}", "{3,4}", "{3,5}", "{0,1}"]
    first = session.execute(scan, [values]).fetchone()[0]
    assert session.execute(scan, [values]).fetchone()[0] == first
    assert session.execute(scan, [values[::-1]]).fetchone()[0] == first[::-1]
    session.execute("""DO LANGUAGE plpython3u $$
        import sys
        assert len(sys.modules["pgrain.backend.session"].STATE.models["colour"].met) == 4
        $$""")
    of_3_and_4 = struct.pack("<2d", 3, 4)
    for value, refused in ((of_3_and_4, "22023"), ([None, 1.0], "22023"), ([[3.0, 4.0]], "22023")):
        for _ in range(2):      # then the function of that type knows the model, too
            session.execute(scan, [values])                 # 3, 4 comes after -0, 1
            with pytest.raises(psycopg.Error) as caught:
                session.execute(f"SELECT ({scan}), pgrain.predict('colour', %s)",
                                [values[:2], value])
            assert caught.value.sqlstate == refused, value
