"""What a session and the worker remember of a complaint never shows in an answer.

Each case asks twice, so that everything is remembered, changes something, and asks again: the
answer must be that of a session that has just begun.
"""

from __future__ import annotations

import psycopg
import pytest

REPORT = ("SELECT hour, count(*) AS flagged FROM goods "
          "WHERE pgrain.predict('colour', x) <> claim GROUP BY hour")
ASK = "SELECT * FROM pgrain.complain(%s, %s, 20)"
WHERE = "flagged too high WHERE hour >= 1"


@pytest.fixture
def goods(small):
    small.execute("DROP TABLE IF EXISTS goods CASCADE")
    small.execute("CREATE TABLE goods AS SELECT id, x, claim, hour FROM items")
    small.execute("CREATE OR REPLACE FUNCTION public.late(integer) RETURNS boolean LANGUAGE sql "
                  "IMMUTABLE AS 'SELECT $1 > 1'")
    small.execute("""DO LANGUAGE plpgsql $$ BEGIN
        CREATE FUNCTION public.remembered(OUT requests integer, OUT marked boolean)
        LANGUAGE plpython3u AS $f$
import sys
state = sys.modules["pgrain.backend.session"].STATE
return state.client._number, any(known.mark for known in state.looked_up.values()) $f$;
        CREATE FUNCTION public.remembered_of(query text) RETURNS boolean
        LANGUAGE plpython3u AS $f$
import sys
looked_up = sys.modules["pgrain.backend.session"].STATE.looked_up
return any(known.mark for place, known in looked_up.items() if place[0] == query) $f$;
        EXCEPTION WHEN duplicate_function THEN NULL; END $$""")
    return small


def rounded(rows):
    return [(*row[:5], *(float(f"{number:.5g}") for number in row[5:])) for row in rows]


def fresh(database, query, complaint, role="postgres", *settings):
    """The same asked by a session of its own, verified."""
    with database.connect(role) as session:
        for setting in settings:
            session.execute(setting)
        return rounded(session.execute(
            "SELECT * FROM pgrain.complain(%s, %s, 20, options => '{\"verify\": \"always\"}')",
            [query, complaint]).fetchall())


def settle(session, query, complaint):
    """Ask until all is remembered: one request, nothing looked up; the answer."""
    session.execute(ASK, [query, complaint])
    for _ in range(50):
        before, = session.execute("SELECT requests FROM public.remembered()").fetchone()
        rows = session.execute(ASK, [query, complaint]).fetchall()
        after, marked = session.execute("SELECT * FROM public.remembered()").fetchone()
        if after == before + 1 and marked:
            return rounded(rows)
    raise AssertionError("a repeated complaint takes more than one request")


CHANGES = {
    "a value": ["UPDATE goods SET x = ARRAY[9, -3] WHERE id % 3 = 0"],
    "another column": ["UPDATE goods SET hour = 3 - hour"],
    "a row": ["INSERT INTO goods VALUES (5000, '{7, -2}', 'red', 2)"],
    "rows": ["DELETE FROM goods WHERE id % 2 = 0"],
    "another table": ["DROP TABLE goods", "CREATE TABLE goods AS SELECT id, x, claim, 3 - hour AS "
                      "hour FROM items WHERE id < 90"],
    "a view": ["ALTER TABLE goods RENAME TO behind_goods", "CREATE VIEW goods AS SELECT id, x, "
               "claim, hour FROM behind_goods WHERE id % 2 = 1"],
    "a column of the name": ["ALTER TABLE goods RENAME x TO y", "ALTER TABLE goods ADD x float8[] "
                             "DEFAULT '{2, 1}'"],
    "rewritten": ["UPDATE goods SET claim = 'green' WHERE id % 5 = 0", "VACUUM FULL goods"],
}


@pytest.mark.parametrize("statements", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("own", [True, False], ids=["own", "other"])
def test_after_a_change_of(goods, statements, own):
    session = goods.connect()
    settle(session, REPORT, WHERE)
    for statement in statements:
        (session if own else goods.connection).execute(statement)
    for _ in range(2):
        rows = rounded(session.execute(ASK, [REPORT, WHERE]).fetchall())
        assert rows == fresh(goods, REPORT, WHERE)
    goods.execute("DROP VIEW IF EXISTS goods") if statements is CHANGES["a view"] else None
    goods.execute("DROP TABLE IF EXISTS behind_goods")


def test_a_view_under_the_query(goods):
    goods.execute("CREATE VIEW shown AS SELECT id, x, claim, hour FROM goods WHERE hour < 3")
    query = REPORT.replace("goods", "shown")
    session = goods.connect()
    before = settle(session, query, WHERE)
    goods.execute("CREATE OR REPLACE VIEW shown AS SELECT id, x, claim, hour FROM goods "
                  "WHERE id % 2 = 0")
    after = rounded(session.execute(ASK, [query, WHERE]).fetchall())
    assert after == fresh(goods, query, WHERE) != before


def test_a_function_of_the_query(goods):
    query = REPORT.replace(" GROUP", " AND late(hour) GROUP")
    session = goods.connect()
    before = settle(session, query, "flagged too high")
    goods.execute("CREATE OR REPLACE FUNCTION public.late(integer) RETURNS boolean LANGUAGE sql "
                  "IMMUTABLE AS 'SELECT $1 > 2'")
    after = rounded(session.execute(ASK, [query, "flagged too high"]).fetchall())
    assert after == fresh(goods, query, "flagged too high") != before
    goods.execute("DROP SCHEMA IF EXISTS first CASCADE")
    goods.execute("CREATE SCHEMA first")
    goods.execute("CREATE FUNCTION first.late(integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS "
                  "'SELECT $1 = 1'")
    session.execute("SET search_path = first, public")
    there = rounded(session.execute(ASK, [query, "flagged too high"]).fetchall())
    assert there == fresh(goods, query, "flagged too high", "postgres",
                          "SET search_path = first, public") != after
    session.execute("RESET search_path")
    assert rounded(session.execute(ASK, [query, "flagged too high"]).fetchall()) == after


def test_the_search_path(goods):
    goods.execute("DROP SCHEMA IF EXISTS aside CASCADE")
    goods.execute("CREATE SCHEMA aside")
    goods.execute("CREATE TABLE aside.goods AS SELECT id, x, claim, 3 - hour AS hour FROM goods "
                  "WHERE id % 3 = 0")
    session = goods.connect()
    here = settle(session, REPORT, WHERE)
    session.execute("SET search_path = aside, public")
    there = settle(session, REPORT, WHERE)
    assert there == fresh(goods, REPORT, WHERE, "postgres", "SET search_path = aside, public")
    assert there != here
    session.execute("RESET search_path")
    assert rounded(session.execute(ASK, [REPORT, WHERE]).fetchall()) == here
    session.execute("CREATE TEMP TABLE goods AS SELECT id, x, claim, hour FROM items WHERE id < 60")
    mine = rounded(session.execute(ASK, [REPORT, WHERE]).fetchall())
    assert mine != here
    session.execute("DROP TABLE pg_temp.goods")
    assert rounded(session.execute(ASK, [REPORT, WHERE]).fetchall()) == here


def test_roles_and_policies(goods, as_role):
    as_role(goods, "half_reader", "user")
    goods.execute("GRANT SELECT ON goods TO half_reader")
    goods.execute("ALTER TABLE goods ENABLE ROW LEVEL SECURITY")
    goods.execute("CREATE POLICY half ON goods TO half_reader USING (id % 2 = 1)")
    session = goods.connect()
    every = settle(session, REPORT, WHERE)
    session.execute("SET ROLE half_reader")
    half = settle(session, REPORT, WHERE)
    assert half == fresh(goods, REPORT, WHERE, "half_reader") != every
    session.execute("RESET ROLE")
    assert rounded(session.execute(ASK, [REPORT, WHERE]).fetchall()) == every
    session.execute("SET ROLE half_reader")
    goods.execute("DROP POLICY half ON goods")
    goods.execute("CREATE POLICY half ON goods TO half_reader USING (id % 2 = 0)")
    other = rounded(session.execute(ASK, [REPORT, WHERE]).fetchall())
    assert other == fresh(goods, REPORT, WHERE, "half_reader") != half
    session.execute("SET row_security = off")
    with pytest.raises(psycopg.Error) as caught:
        session.execute(ASK, [REPORT, WHERE])
    assert caught.value.sqlstate == "42501"
    session.execute("RESET row_security")
    goods.execute("REVOKE SELECT ON goods FROM half_reader")
    with pytest.raises(psycopg.Error) as caught:
        session.execute(ASK, [REPORT, WHERE])
    assert caught.value.sqlstate == "42501"


def test_what_this_transaction_has_written(goods):
    session = goods.connect()
    before = settle(session, REPORT, WHERE)
    session.execute("BEGIN")
    session.execute("UPDATE goods SET x = ARRAY[9, -3] WHERE id % 3 = 0")
    inside = rounded(session.execute(ASK, [REPORT, WHERE]).fetchall())
    assert inside != before
    session.execute("SAVEPOINT s")
    session.execute("DELETE FROM goods WHERE hour = 2")
    deeper = rounded(session.execute(ASK, [REPORT, WHERE]).fetchall())
    assert deeper != inside
    session.execute("ROLLBACK TO s")
    assert rounded(session.execute(ASK, [REPORT, WHERE]).fetchall()) == inside
    session.execute("ROLLBACK")
    assert rounded(session.execute(ASK, [REPORT, WHERE]).fetchall()) == before


def test_an_older_snapshot_stays_what_it_is(goods):
    session = goods.connect()
    settle(session, REPORT, WHERE)
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    before = rounded(session.execute(ASK, [REPORT, WHERE]).fetchall())
    goods.execute("UPDATE goods SET x = ARRAY[9, -3] WHERE id % 3 = 0")
    assert rounded(session.execute(ASK, [REPORT, WHERE]).fetchall()) == before
    session.execute("COMMIT")
    assert rounded(session.execute(ASK, [REPORT, WHERE]).fetchall()) \
        == fresh(goods, REPORT, WHERE) != before


def test_conditions_are_evaluated_each_time(goods):
    """Also where the output rows are those of the last time."""
    session = goods.connect()
    for hour in (1, 2, 1, 3):
        session.execute("SELECT set_config('shop.hour', %s, false)", [str(hour)])
        for _ in range(2):
            moving = session.execute(ASK, [REPORT, "flagged too high WHERE hour = "
                                           "current_setting('shop.hour')::int"]).fetchall()
            assert rounded(moving) == fresh(goods, REPORT, f"flagged too high WHERE hour = {hour}")


def test_conditions_on_what_the_model_says(goods):
    """A WHERE that reads the count itself sees today's counts."""
    session = goods.connect()
    counts = dict(session.execute(REPORT).fetchall())
    most = max(counts, key=counts.get)
    complaint = f"flagged too high WHERE flagged >= {counts[most]}"
    settle(session, REPORT, complaint)
    goods.execute("DELETE FROM goods WHERE hour = %s", [most])
    goods.execute("INSERT INTO goods SELECT id, x, claim, hour FROM items WHERE hour <> %s "
                  "AND id < 1000", [most])
    after = session.execute(ASK, [REPORT, complaint]).fetchall()
    assert rounded(after) == fresh(goods, REPORT, complaint)


def test_a_condition_that_fails_on_the_rows_of_yesterday(goods):
    session = goods.connect()
    counts = dict(session.execute(REPORT).fetchall())
    most = max(counts, key=counts.get)
    complaint = f"flagged too high WHERE 1 / (hour - {most + 10}) <= 1"
    settle(session, REPORT, complaint)
    goods.execute(f"UPDATE goods SET hour = {most + 10} WHERE hour = {most}")
    with pytest.raises(psycopg.errors.DivisionByZero):
        session.execute(ASK, [REPORT, complaint])
    goods.execute(f"UPDATE goods SET hour = {most} WHERE hour = {most + 10}")
    assert rounded(session.execute(ASK, [REPORT, complaint]).fetchall()) \
        == fresh(goods, REPORT, complaint)


def test_rows_that_a_condition_names_by_other_columns(goods):
    """Only the columns that a condition mentions go with it; `q` is all of them."""
    for condition in ("q.flagged > 0 AND hour > 1", "row_to_json(q) ->> 'hour' > '1'",
                      '"hour" > 1', "HOUR > 1", "flagged > 0 AND hour > 1"):
        assert fresh(goods, REPORT, f"flagged too high WHERE {condition}") \
            == fresh(goods, REPORT, "flagged too high WHERE hour > 1")


def test_other_options_and_complaints_over_the_same_circuit(goods):
    """The circuit is evaluated once; what is asked of it is not."""
    session = goods.connect()
    asked = "SELECT * FROM pgrain.complain(%s, %s, %s, %s, %s)"
    for complaint in ("flagged too high WHERE hour = 1", "flagged too low WHERE hour = 1",
                      "flagged <= 1 WHERE hour = 2", "flagged too high"):
        for top, intervention, options in ((20, "delete", '{"k": 9}'), (5, "delete", '{"k": 2}'),
                                           (20, "relabel", "{}"),
                                           (20, "delete", '{"method": "gradient_dot"}'),
                                           (20, "delete", '{"normalize": "relatif"}')):
            mine = session.execute(asked, [REPORT, complaint, top, intervention,
                                           options]).fetchall()
            with goods.connect() as other:
                theirs = other.execute(asked, [REPORT + f" -- {top} {intervention}", complaint,
                                               top, intervention, options]).fetchall()
            assert rounded(mine) == rounded(theirs)


def test_another_version_and_a_restarted_worker(goods):
    session = goods.connect()
    version = goods.value("SELECT version FROM pgrain.models WHERE model = 'colour'")
    before = settle(session, REPORT, WHERE)
    goods.execute("CALL pgrain.train('colour', '{\"alpha\": 5.0}')")
    goods.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
    after = rounded(session.execute(ASK, [REPORT, WHERE]).fetchall())
    assert after == fresh(goods, REPORT, WHERE) != before
    settle(session, REPORT, WHERE)
    goods.execute("SELECT pgrain.activate('colour', %s)", [version])
    assert rounded(session.execute(ASK, [REPORT, WHERE]).fetchall()) == before
    goods.worker.kill()
    goods.worker.start()
    assert rounded(session.execute(ASK, [REPORT, WHERE]).fetchall()) == before
    settle(session, REPORT, WHERE)


def test_keys_protected_meanwhile(goods, as_role):
    reader = as_role(goods, "goods_reader", "user")
    goods.execute("GRANT SELECT ON goods TO goods_reader")
    assert all(row[3] for row in settle(reader, REPORT, WHERE))
    goods.execute("SELECT pgrain.protect_keys('colour')")
    hidden = reader.execute(ASK, [REPORT, WHERE]).fetchall()
    goods.execute("SELECT pgrain.protect_keys('colour', false)")
    assert [row[2:4] for row in hidden] == [(None, None)] * 20
    assert all(row[3] for row in reader.execute(ASK, [REPORT, WHERE]).fetchall())


def in_days(goods):
    """`goods` with columns that settings have a say in; the report by day."""
    goods.execute("ALTER TABLE goods ADD day date, ADD at timestamptz")
    goods.execute("UPDATE goods SET day = CASE WHEN hour < 2 THEN date '2020-01-02' "
                  "ELSE date '2020-02-01' END, "
                  "at = timestamptz '2020-01-01 00:00+00' + hour * interval '1 hour'")
    return REPORT.replace("hour, count", "day, count").replace("BY hour", "BY day")


# What a constant says is settled when a statement is prepared: (a condition, settings under which
# it is read in two ways). The last DateStyles even print both days alike.
READINGS = {
    "DateStyle": ("day = '01/02/2020'", ["SET DateStyle = 'ISO, MDY'",
                                         "SET DateStyle = 'ISO, DMY'"]),
    "DateStyle as EXPLAIN shows it": ("day = '01/02/2020'", ["SET DateStyle = 'SQL, MDY'",
                                                             "SET DateStyle = 'SQL, DMY'"]),
    "TimeZone": ("at >= '2020-01-01 02:00'", ["SET TimeZone = 'UTC'",
                                              "SET TimeZone = 'Asia/Tokyo'"]),
    "IntervalStyle": ("hour * interval '1 hour' < interval '-1 2:00:00' + interval '1 day 5:00:00'",
                      ["SET IntervalStyle = postgres", "SET IntervalStyle = sql_standard"]),
    "transform_null_equals": ("(claim = NULL OR hour > 1) IS NOT NULL",
                              ["SET transform_null_equals = off",
                               "SET transform_null_equals = on"]),
    "array_nulls": ("(claim = ANY ('{NULL,red}'::text[])) IS NOT NULL",
                    ["SET array_nulls = on", "SET array_nulls = off"]),
}


@pytest.mark.parametrize("condition,settings", READINGS.values(), ids=READINGS.keys())
def test_constants_mean_what_they_mean_now(goods, condition, settings):
    in_days(goods)
    query = REPORT.replace(" GROUP", f" AND {condition} GROUP")
    session = goods.connect()
    answers = []
    for setting in settings:
        session.execute(setting)
        answers.append(settle(session, query, "flagged too high"))
        assert answers[-1] == fresh(goods, query, "flagged too high", "postgres", setting)
    assert answers[0] != answers[1]


@pytest.mark.parametrize("watched", [None, "ISO, MDY", "SQL, MDY"])
def test_constants_of_a_condition_mean_what_they_mean_now(goods, watched):
    query = in_days(goods)
    goods.execute("CREATE SCHEMA IF NOT EXISTS first")
    goods.execute("DROP FUNCTION IF EXISTS first.late(integer)")
    if watched:
        with goods.connect() as maker:     # who may write days in another style
            maker.execute(f"SET DateStyle = '{watched}'")
            maker.execute("CALL pgrain.watch('days', %s)", [query])
    session = goods.connect()
    asked = "days" if watched else query
    for style in ("'SQL, MDY'", "'SQL, DMY'"):
        session.execute(f"SET DateStyle = {style}")
        for complaint in ("flagged too high WHERE day = '01/02/2020'", "flagged too high WHERE "
                          "day = '2020-02-01'"):
            for _ in range(2):
                rows = rounded(session.execute(ASK, [asked, complaint]).fetchall())
                assert rows
                assert rows == fresh(goods, query, complaint, "postgres",
                                     f"SET DateStyle = {style}")
    # Nor does a plan of PostgreSQL's notice that a name means another function by now.
    if not watched:
        session.execute("SET search_path = first, public")
        complaint = "flagged too high WHERE late(extract(month FROM day)::integer)"
        before = settle(session, query, complaint)
        goods.execute("CREATE FUNCTION first.late(integer) RETURNS boolean LANGUAGE sql IMMUTABLE "
                      "AS 'SELECT $1 = 1'")
        after = rounded(session.execute(ASK, [query, complaint]).fetchall())
        assert after == fresh(goods, query, complaint, "postgres",
                              "SET search_path = first, public") != before
    goods.execute("DROP SCHEMA first CASCADE")
    if watched:
        goods.execute("SELECT pgrain.unwatch('days')")


def test_now_is_never_remembered(goods):
    """A constant that says now is read again each time; a call of now() is evaluated anyway."""
    session = goods.connect()
    for moving, kept in ((" AND 'now'::timestamptz > '2020-01-01' GROUP", False),
                         (" AND now() > '2020-01-01' GROUP", True)):
        query = REPORT.replace(" GROUP", moving)
        marks = set()
        for _ in range(5):
            session.execute(ASK, [query, WHERE])
            marks.add(session.execute("SELECT public.remembered_of(%s)", [query]).fetchone()[0])
        assert (True in marks) == kept
