"""Tuple stamps stand in for digests, and never for another value.

Every case asks for provenance with the worker warm, changes the table in a way that moves, replaces
or renames tuples, and asks again: the circuit's value must be the query's own, which PostgreSQL
computes from the values themselves.
"""

from __future__ import annotations

import random

import pytest

QUERY = "SELECT count(*) AS n FROM moving WHERE pgrain.predict('colour', x) = 'red'"
ROWS = """SELECT claim, count(*) AS n FROM moving WHERE pgrain.predict('colour', x) <> claim
          GROUP BY claim"""
SWAP = ("UPDATE moving m SET x = o.x FROM moving o WHERE o.id = (SELECT max(id) + min(id) - m.id "
        "FROM moving)")


@pytest.fixture
def moving(small):
    if small.value("SELECT relkind = 'v' FROM pg_class WHERE oid = to_regclass('moving')"):
        small.execute("DROP VIEW moving")
    for name in ("moving", "behind", "part", "child", "other"):
        small.execute(f"DROP TABLE IF EXISTS {name} CASCADE")
    small.execute("CREATE TABLE moving AS SELECT id, x, claim FROM items WHERE id < 1000")
    check(small)
    return small


def check(database, connection=None):
    """provenance equals the query, in two shapes."""
    connection = connection or database.connection
    circuit = connection.execute("SELECT value FROM pgrain.provenance(%s)", [QUERY]).fetchone()
    assert circuit == connection.execute(QUERY).fetchone()
    cells = connection.execute("SELECT output ->> 'claim', value FROM pgrain.provenance(%s)",
                               [ROWS]).fetchall()
    assert sorted(cells) == sorted(connection.execute(ROWS).fetchall())
    return circuit


CHANGES = {
    "swap values": [SWAP],
    "vacuum, then reuse the places": ["DELETE FROM moving WHERE id % 2 = 0", "VACUUM moving",
                                      "INSERT INTO moving SELECT id, x, claim FROM items "
                                      "WHERE id % 2 = 1 AND id < 1000"],
    "vacuum full": [SWAP, "VACUUM FULL moving"],
    "cluster": ["CREATE INDEX moving_x ON moving (x)", "CLUSTER moving USING moving_x"],
    "truncate and load": ["TRUNCATE moving", "INSERT INTO moving SELECT id, x, claim FROM items "
                                             "WHERE id BETWEEN 30 AND 150 ORDER BY id DESC"],
    "drop and create": ["DROP TABLE moving", "CREATE TABLE moving AS SELECT id, x, claim "
                                             "FROM items ORDER BY id DESC"],
    "another column of the name": ["ALTER TABLE moving DROP COLUMN x",
                                   "ALTER TABLE moving ADD COLUMN x float8[] DEFAULT '{9, -3}'"],
    "columns renamed": ["ALTER TABLE moving ADD COLUMN y float8[] DEFAULT '{9, -3}'",
                        "ALTER TABLE moving RENAME x TO z", "ALTER TABLE moving RENAME y TO x"],
    "type changed": ["ALTER TABLE moving ALTER x TYPE numeric[]",
                     "ALTER TABLE moving ALTER x TYPE float8[] USING "
                     "ARRAY[-(x[1]::float8), x[2]::float8]"],
    "a child": ["CREATE TABLE child () INHERITS (moving)",
                "INSERT INTO child SELECT id, ARRAY[9, -3], claim FROM moving WHERE x IS NOT NULL"],
    "partitioned": ["ALTER TABLE moving RENAME TO part",
                    "CREATE TABLE moving (LIKE part) PARTITION BY RANGE (id)",
                    "CREATE TABLE other PARTITION OF moving FOR VALUES FROM (2000) TO (3000)",
                    "ALTER TABLE moving ATTACH PARTITION part FOR VALUES FROM (0) TO (2000)",
                    "INSERT INTO moving SELECT id + 2000, ARRAY[9, -3], claim FROM part"],
    "a view of the name": ["ALTER TABLE moving RENAME TO behind",
                           "CREATE VIEW moving AS SELECT id, ARRAY[-x[1], x[2]] AS x, claim "
                           "FROM behind WHERE x IS NOT NULL"],
    "nulls": ["UPDATE moving SET x = NULL WHERE id % 3 = 0"],
}


@pytest.mark.parametrize("statements", CHANGES.values(), ids=CHANGES.keys())
def test_after(moving, statements):
    for statement in statements:
        moving.execute(statement)
    check(moving)
    check(moving)


def test_rolled_back_tuples_are_not_remembered_for_others(moving):
    """The same places filled by a transaction that rolls back and by one that commits."""
    session = moving.connect()
    places = []
    for number in range(4):
        session.execute("BEGIN")
        session.execute("INSERT INTO moving SELECT id + 5000, ARRAY[%s::float8, -3], claim "
                        "FROM items WHERE id <= 50", [9.0 - 5 * number])
        check(moving, session)
        places.append(session.execute("SELECT min(ctid), max(ctid) FROM moving WHERE id > 5000"
                                      ).fetchone())
        session.execute("COMMIT" if number == 3 else "ROLLBACK")
        check(moving, session)
        check(moving)
        moving.execute("VACUUM moving")
    assert len(set(places)) < len(places)   # else nothing was put to the test


def test_truncated_and_rewritten_in_one_transaction(moving):
    session = moving.connect()
    session.execute("BEGIN")
    before = check(moving, session)
    session.execute("TRUNCATE moving")
    assert check(moving, session) == (0,)
    session.execute("INSERT INTO moving SELECT id, ARRAY[-x[1], x[2]], claim FROM items "
                    "WHERE x IS NOT NULL")
    check(moving, session)
    session.execute("ROLLBACK")
    assert check(moving) == check(moving, session) == before


def test_two_tables_of_one_name(moving):
    """The search path decides, also between two sessions."""
    moving.execute("CREATE SCHEMA IF NOT EXISTS aside")
    moving.execute("DROP TABLE IF EXISTS aside.moving")
    moving.execute("CREATE TABLE aside.moving AS SELECT id, ARRAY[-x[1], x[2]] AS x, claim "
                   "FROM items WHERE x IS NOT NULL")
    session = moving.connect()
    session.execute("SET search_path = aside, public")
    check(moving, session)
    check(moving)
    session.execute("CREATE TEMP TABLE moving AS SELECT id, ARRAY[9.0, -3.0]::float8[] AS x, claim "
                    "FROM items WHERE id < 20")
    assert check(moving, session) == session.execute(QUERY).fetchone()


def test_row_level_security_is_in_force(moving, as_role):
    reader = as_role(moving, "row_reader", "user")
    moving.execute("GRANT SELECT ON moving TO row_reader")
    moving.execute("ALTER TABLE moving ENABLE ROW LEVEL SECURITY")
    moving.execute("CREATE POLICY odd ON moving TO row_reader USING (id % 2 = 1)")
    everything, half = check(moving), check(moving, reader)
    assert half < everything


def test_column_grants_are_enough(moving, as_role):
    """Stamps need system columns, which column grants do not include; digests do not."""
    reader = as_role(moving, "column_reader", "user")
    moving.execute("GRANT SELECT (x, claim) ON moving TO column_reader")
    assert check(moving, reader) == check(moving)


@pytest.mark.parametrize("seed", range(6))
def test_random_changes(moving, seed):
    """Any interleaving of inserts, updates, deletes and vacuums by two sessions."""
    rng = random.Random(seed)
    sessions = [moving.connect(), moving.connect()]
    for _ in range(12):
        session = rng.choice(sessions)
        session.execute(rng.choice([
            f"UPDATE moving SET x = ARRAY[{rng.uniform(-3, 9)}, x[2]] WHERE id % 7 = {seed}",
            f"DELETE FROM moving WHERE id % 11 = {rng.randrange(11)}",
            "INSERT INTO moving SELECT id, x, claim FROM items "
            f"WHERE id % 13 = {rng.randrange(13)}",
            "UPDATE moving SET claim = 'red' WHERE id % 5 = 0",
            "VACUUM moving",
        ]))
        check(moving, rng.choice(sessions))


def test_an_older_snapshot_has_no_stamps(moving):
    """REPEATABLE READ: the catalogs are newer than what the transaction's queries see of them."""
    session = moving.connect()
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    session.execute("SELECT 1 FROM items LIMIT 1").fetchone()
    moving.execute("ALTER TABLE moving DROP COLUMN x")
    moving.execute("ALTER TABLE moving ADD COLUMN x float8[] DEFAULT '{2.5, -3}'")
    check(moving, session)
    session.execute("ROLLBACK")
    check(moving)


def test_composite_types_can_be_read_in_another_way(small):
    """Renamed attributes change what a row means without touching a tuple."""
    small.execute("CREATE TYPE pair AS (a float8, b float8)")
    small.execute("""CREATE TABLE pairs AS SELECT i AS id, ROW(i, -i)::pair AS r,
        CASE WHEN i > 20 THEN 'big' ELSE 'small' END AS label FROM generate_series(1, 40) AS i""")
    small.execute("CREATE VIEW flat AS SELECT id, (r).a, (r).b, label FROM pairs")
    small.execute("SELECT pgrain.create_model('sizes', 'flat', 'id', '{a,b}', 'label', "
                  "'logistic_regression')")
    small.execute("CALL pgrain.train('sizes')")
    text = "SELECT count(*) AS n FROM pairs WHERE pgrain.predict('sizes', r) = 'big'"
    ask = "SELECT value FROM pgrain.provenance(%s)"
    assert small.value(ask, [text]) == small.value(text) == 20
    for old, new in (("a", "t"), ("b", "a"), ("t", "b")):
        small.execute(f"ALTER TYPE pair RENAME ATTRIBUTE {old} TO {new}")
    assert small.value(ask, [text]) == small.value(text) < 20


def test_values_of_new_tuples_are_read_by_their_places(moving):
    """Some new values, one of them twice, and more of them than are read by place."""
    from pgrain.backend import complain
    for rows in (3, complain._FEW_TUPLES + 1):
        moving.execute("INSERT INTO moving SELECT 5000 + n, ARRAY[n / 7.0, %s - n / 2], 'red' "
                       "FROM generate_series(0, %s) AS n", [rows, rows])
        check(moving)
        check(moving)
