"""predict_batch says what predict and predict_proba say, for whatever a query returns."""

from __future__ import annotations

import psycopg
import pytest


def batch(connection, query, model="colour"):
    return connection.execute("SELECT * FROM pgrain.predict_batch(%s, %s)",
                              [model, query]).fetchall()


@pytest.mark.parametrize("query", [
    "SELECT id, x FROM items ORDER BY id",                                # stored values and null
    "SELECT id, ARRAY[x[1] + 0.25, x[2]] FROM items WHERE x IS NOT NULL ORDER BY id",   # new ones
    "SELECT 'row ' || id, CASE WHEN id % 3 = 0 THEN x ELSE ARRAY[x[1], 7] END FROM items "
    "WHERE x IS NOT NULL ORDER BY id DESC; ",
    "WITH twice AS (SELECT * FROM items UNION ALL SELECT * FROM items) "
    "SELECT NULL, x FROM twice -- a comment at the end",
    "SELECT id, x::text FROM items",                                      # another type
    "SELECT id, x FROM items WHERE false",
])
def test_it_equals_a_call_a_row(small, query):
    session = small.connect()
    inner = query.strip().rstrip(";")
    expected = session.execute(
        "SELECT q.k::text, pgrain.predict('colour', q.x), pgrain.predict_proba('colour', q.x) "
        f"FROM (\n{inner}\n) AS q(k, x)").fetchall()
    found = batch(session, query)
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine[2] is None) == (theirs[2] is None)
        if mine[2] is not None:     # a product of many rows may round otherwise than one of one
            assert mine[2] == pytest.approx(theirs[2], abs=1e-6)
            assert sum(mine[2]) == pytest.approx(1, abs=1e-5)


def test_keys_come_back_as_they_are(small):
    keys = ["", "NULL", None, 'a "b"', "\\", '\\"', "{1,2}", " both sides ", "x,y", "é\n\t", "'"]
    session = small.connect()
    found = session.execute(
        "SELECT key FROM pgrain.predict_batch('colour', format("
        "'SELECT k, ARRAY[n, 1.5]::float8[] FROM unnest(%%L::text[]) WITH ORDINALITY AS u (k, n)', "
        "%s::text[]))", [keys]).fetchall()
    assert [key for key, in found] == keys


def test_long_keys(small):
    """Longer together than what is handed over at once; the last of a block alone is, too."""
    lengths = [30, 3 << 20, 3 << 20, 3 << 20, 9 << 20, 1]
    found = small.connect().execute(
        "SELECT length(key), left(key, 1) FROM pgrain.predict_batch('colour', format("
        "'SELECT repeat(chr(96 + n::int), l), ARRAY[1, 2]::float8[] FROM unnest(%%L::int[]) "
        "WITH ORDINALITY AS u (l, n)', %s::int[]))", [lengths]).fetchall()
    assert found == [(length, chr(97 + at)) for at, length in enumerate(lengths)]


def test_probabilities_are_those_of_predict_proba_to_the_last_bit(small):
    session = small.connect()
    different = session.execute(
        "SELECT count(*) FILTER (WHERE b.probabilities IS DISTINCT FROM "
        "pgrain.predict_proba('colour', i.x)), count(DISTINCT b.probabilities) FROM "
        "pgrain.predict_batch('colour', 'SELECT id, x FROM items') AS b "
        "JOIN items AS i ON i.id = b.key::bigint").fetchone()
    assert different[0] == 0 and different[1] > 20


def test_many_rows_pass_in_several_batches(small):
    """More than are fetched at a time, most of them equal to another one."""
    rows = batch(small.connect(), "SELECT i, ARRAY[(i % 700) * 0.01 - 3, 0.5] "
                                  "FROM generate_series(1, 12000) AS i")
    assert [row[0] for row in rows] == [str(i) for i in range(1, 12001)]
    by_value = {}
    for key, label, p in rows:
        assert by_value.setdefault(int(key) % 700, (label, p)) == (label, p)
    assert len({label for label, _ in by_value.values()}) > 1


def test_models_of_many_columns(small):
    if not small.value("SELECT to_regclass('batch_people')"):
        small.execute("""
            CREATE TABLE batch_people AS SELECT i AS id, 20 + i % 50 AS age,
                (ARRAY['cook', 'clerk', NULL])[i % 3 + 1] AS job,
                CASE WHEN i % 50 + 20 * (i % 3) > 40 THEN '>50K' ELSE '<=50K' END AS income
            FROM generate_series(1, 300) AS i""")
        small.execute("SELECT pgrain.create_model('batch_income', 'batch_people', 'id', "
                      "'{age,job}', 'income', 'logistic_regression')")
        small.execute("CALL pgrain.train('batch_income')")
    session = small.connect()
    expected = session.execute("SELECT id::text, pgrain.predict('batch_income', p) "
                               "FROM batch_people p ORDER BY p.id").fetchall()
    found = batch(session, "SELECT id, job, age, income FROM batch_people ORDER BY id",
                  "batch_income")
    assert [row[:2] for row in found] == expected
    assert len({row[1] for row in found}) == 2
    with pytest.raises(psycopg.errors.InvalidParameterValue, match='feature "age" is missing'):
        batch(session, "SELECT id, job FROM batch_people", "batch_income")


@pytest.mark.parametrize("query,error,message", [
    ("SELECT id FROM items", "22023", "returns no feature"),
    ("SELECT id, x, hour FROM items", "22023", "more than a key and a feature"),
    ("SELECT id, hour, x FROM items", "22023", "more than a key and a feature"),
    ("SELECT id, x FROM items; SELECT 1", "42601", "syntax error"),
    ("SELECT 1, '{1,2}'::float8[]) AS q; DROP TABLE items; SELECT (1", "42601", "syntax error"),
    ("DELETE FROM items RETURNING id, x", "42601", "syntax error"),
    ("SELECT id, no_such FROM items", "42703", "no_such"),
    ("SELECT id, x FROM items ORDER BY 5", "42P10", "ORDER BY position 5"),
    ("SELECT id, hour FROM items", "42846", "cannot cast type integer to double precision"),
])
def test_what_is_no_key_and_features_is_refused(small, query, error, message):
    before = small.value("SELECT count(*) FROM items")
    with pytest.raises(psycopg.Error, match=message) as refused:
        batch(small.connect(), query)
    assert refused.value.sqlstate == error
    assert small.value("SELECT count(*) FROM items") == before


def test_unknown_models_are_named(small):
    with pytest.raises(psycopg.errors.UndefinedObject, match='model "no_such" does not exist'):
        batch(small.connect(), "SELECT 1, '{1,2}'::float8[]", "no_such")


def test_it_runs_with_the_callers_rights_and_writes_nothing(small, as_role):
    small.execute("""CREATE OR REPLACE FUNCTION leave_a_trace() RETURNS float8[] LANGUAGE plpgsql
                     AS $$ BEGIN INSERT INTO traces VALUES (1); RETURN '{1,2}'; END $$;
                     CREATE TABLE IF NOT EXISTS traces (n int)""")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        batch(small.connect(), "SELECT 1, leave_a_trace()")
    assert small.value("SELECT count(*) FROM traces") == 0
    ordinary = as_role(small, "batch_reader", grant="user")
    assert batch(ordinary, "SELECT 1, '{1,2}'::float8[]")[0][0] == "1"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        batch(ordinary, "SELECT id, x FROM items")


def test_what_functions_of_the_query_do_is_undone(small):
    """Settings, notifications and locks too; and no error of theirs is taken for the end."""
    small.execute("""CREATE OR REPLACE FUNCTION meddle(how text) RETURNS float8[] LANGUAGE plpgsql
        AS $$ BEGIN
            IF how = 'fail' THEN RAISE SQLSTATE 'PGR00' USING MESSAGE = 'not the end'; END IF;
            PERFORM set_config('work_mem', '77MB', false), pg_notify('meddled', 'x'),
                    pg_advisory_xact_lock(4712);
            RETURN '{1,2}';
        END $$""")
    session = small.connect()
    session.execute("LISTEN meddled")
    with session.transaction():
        found = batch(session, "SELECT i, meddle('quietly') FROM generate_series(1, 9) AS i")
        assert len(found) == 9
        assert session.execute("SHOW work_mem").fetchone()[0] != "77MB"
        assert session.execute("SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = "
                               "pg_backend_pid() AND objid = 4712").fetchall() == []
    assert session.execute("SHOW work_mem").fetchone()[0] != "77MB"
    assert list(session.notifies(timeout=0.2)) == []
    with pytest.raises(psycopg.Error, match="not the end"):
        batch(session, "SELECT 1, meddle('fail')")


def test_calls_within_calls_and_errors_in_later_blocks(small):
    """Each call goes on where it was, whatever was called or failed in between."""
    session, numbers = small.connect(), "SELECT i, ARRAY[i * 0.001 - 3, 0.5]"
    inner = f"{numbers} FROM generate_series(1, 700) AS i"
    outer = ("SELECT key, ARRAY[key::int * 0.001 - 3, probabilities[1]] FROM "
             f"pgrain.predict_batch('colour', $q${inner}$q$)")
    nested = batch(session, outer)
    assert nested == batch(session, "SELECT key, ARRAY[key::int * 0.001 - 3, p] FROM (VALUES "
                           + ", ".join(f"('{key}', {p[0]!r}::float8)"
                                       for key, _, p in batch(session, inner)) + ") AS v(key, p)")
    fails = "SELECT i, ARRAY[1 / (3000 - i), 0.5] FROM generate_series(1, 4000) AS i"
    with pytest.raises(psycopg.errors.DivisionByZero, match="^pgrain: division by zero"):
        batch(session, fails)
    assert batch(session, outer) == nested
