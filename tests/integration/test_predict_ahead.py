"""Values that nothing is stored of are predicted many at a time, and answers are what they were."""

from __future__ import annotations

import pytest

COUNTED = """
DO LANGUAGE plpython3u $python$
import sys
plpy.execute("SELECT pgrain.predict('colour', '{1.5, 0.25}'::float8[])")
ahead = sys.modules["pgrain.backend.ahead"]
asked, real = [], ahead.live_batch
GD["asked"] = asked
def counted(plpy, model, packed):
    asked.append(len(packed))
    return real(plpy, model, packed)
ahead.live_batch = counted
$python$"""
ROWS = 1500


@pytest.fixture
def session(small):
    """A session that counts values by request, and a table of new values."""
    with small.connect() as session:
        session.execute("DROP TABLE IF EXISTS ahead CASCADE")
        session.execute(f"CREATE TABLE ahead AS SELECT n AS id, ARRAY[n / 300.0 - 2.5, random()] "
                        f"AS x FROM generate_series(1, {ROWS}) AS n")
        session.execute("CREATE OR REPLACE FUNCTION asked() RETURNS int[] LANGUAGE plpython3u AS "
                        "$$ asked = list(GD['asked']); GD['asked'].clear(); return asked $$")
        session.execute(COUNTED)
        yield session


def asked(session) -> list[int]:
    return session.execute("SELECT asked()").fetchone()[0]


def alone(session, value: str = "x") -> dict:
    """Labels as predict_batch says them."""
    return dict(session.execute("SELECT key::int, label FROM pgrain.predict_batch('colour', %s)",
                                [f"SELECT id, {value} FROM ahead"]).fetchall())


def test_a_scan_asks_for_many_at_a_time(session):
    found = dict(session.execute("SELECT id, pgrain.predict('colour', x) FROM ahead").fetchall())
    requests = asked(session)
    assert len(requests) < 12 and sum(requests) == ROWS
    assert found == alone(session) and len(set(found.values())) > 1
    session.execute("INSERT INTO ahead SELECT id + 10000, ARRAY[x[1] + 0.0001, x[2]] FROM ahead "
                    "WHERE id <= 100")
    order = "SELECT id, pgrain.predict('colour', x) FROM ahead ORDER BY random()"
    found = dict(session.execute(order).fetchall())
    requests = asked(session)
    assert len(requests) < 60 and sum(requests) == 100
    assert found == alone(session)


def test_values_that_are_in_no_table_cost_little_more(session):
    given = "SELECT id, pgrain.predict('colour', ARRAY[x[1], 7 + x[2]]) FROM ahead WHERE id <= 40"
    found = dict(session.execute(given).fetchall())
    from pgrain.backend.ahead import VALUES
    requests = asked(session)
    assert len(requests) == 40 and sum(requests) <= 40 + 2 * VALUES
    assert found.items() <= alone(session, "ARRAY[x[1], 7 + x[2]]").items()


@pytest.mark.parametrize(("guard", "column"), [
    ("ALTER TABLE ahead ENABLE ROW LEVEL SECURITY", "x"),
    ("CREATE DOMAIN pair AS float8[]; ALTER TABLE ahead ALTER x TYPE pair", "x"),
    ("ALTER TABLE ahead RENAME x TO y", "y"),
    ("SET default_transaction_isolation = serializable", "x"),
    ("CREATE VIEW seen AS SELECT * FROM ahead; CREATE ROLE ahead_reader; GRANT SELECT ON seen TO "
     "ahead_reader; SELECT pgrain.grant_usage('ahead_reader'); SET ROLE ahead_reader", "x")])
def test_nobody_looks_where_that_could_do_harm(session, guard, column):
    expected = alone(session)
    for statement in guard.split("; "):
        session.execute(statement)
    table = "seen" if "seen" in guard else "ahead"
    found = session.execute(f"SELECT id, pgrain.predict('colour', {column}) FROM {table} "
                            "WHERE id <= 5").fetchall()
    session.execute("RESET ROLE")
    assert asked(session) == [1] * 5 and found == [(i, expected[i]) for i in range(1, 6)]


def test_a_value_that_no_model_can_take_fails_for_who_asks_for_it(session):
    session.execute("UPDATE ahead SET x = CASE id % 3 WHEN 0 THEN ARRAY[1, 2, 3]::float8[] "
                    "WHEN 1 THEN ARRAY[1, NULL]::float8[] ELSE x END")
    found = session.execute("SELECT count(pgrain.predict('colour', x)) FROM ahead "
                            "WHERE id % 3 = 2 AND id < 60").fetchone()
    assert found == (20,) and asked(session)[0] == 1
    with pytest.raises(Exception, match="expected|features|numbers"):
        session.execute("SELECT pgrain.predict('colour', x) FROM ahead WHERE id % 3 = 0").fetchall()
