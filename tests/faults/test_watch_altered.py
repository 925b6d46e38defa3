"""What DBAs do to the tables of a watch: its number is that of the query, or it says nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import errors

ROWS = ("SELECT id, x, claim, hour, (1 + id % 7)::float8 AS weight, "
        "(CASE WHEN id % 3 = 0 THEN 'a' ELSE 'b' END)::mood AS mood FROM items")
QUERY = ("SELECT hour, count(*) AS n, sum(weight) AS total FROM {} "
         "WHERE pgrain.predict('colour', x) = 'red' GROUP BY hour")
# name: query, what is done, the tables that are written to afterwards, whether it is kept up then
CASES = {
    "another table by that name": (
        QUERY.format("swapped"),
        "ALTER TABLE swapped RENAME TO swapped_old; CREATE TABLE swapped AS "
        "SELECT * FROM swapped_old WHERE id % 2 = 0", ("swapped", "swapped_old"), True),
    "dropped and made anew": (
        "SELECT s.hour, count(*) AS n FROM facts AS s JOIN days AS d ON d.hour = s.hour "
        "WHERE pgrain.predict('colour', x) = 'red' GROUP BY s.hour",
        "DROP TABLE days; CREATE TABLE days AS SELECT generate_series(0, 2) AS hour",
        ("facts", "days"), True),
    "a table in front of it": (
        QUERY.format("shadowed"), "CREATE TABLE app.shadowed AS SELECT * FROM shadowed LIMIT 9",
        ("app.shadowed", "public.shadowed"), True),
    "a partition detached": (
        QUERY.format("parts"), "ALTER TABLE parts DETACH PARTITION parts_1",
        ("parts", "parts_1"), True),
    "a partition of another table now": (
        QUERY.format("alone"), "ALTER TABLE whole ATTACH PARTITION alone DEFAULT",
        ("whole", "alone"), False),
    "a partition for a while": (
        QUERY.format("wheel"),
        "ALTER TABLE wheel ATTACH PARTITION passing FOR VALUES IN (9); INSERT INTO wheel "
        f"SELECT id, x, claim, 9, weight, mood FROM ({ROWS}) AS r; "
        "ALTER TABLE wheel DETACH PARTITION passing", ("wheel", "passing"), True),
    "partitions of another table for a while": (
        "SELECT s.hour, count(*) AS n FROM facts AS s JOIN spans AS d ON d.hour = s.hour "
        "WHERE pgrain.predict('colour', x) = 'red' GROUP BY s.hour",
        "ALTER TABLE spans ATTACH PARTITION more FOR VALUES IN (3); UPDATE facts SET hour = 3; "
        "UPDATE facts SET hour = id % 3; ALTER TABLE spans DETACH PARTITION more",
        ("facts", "spans"), True),
    "a child of another table for a while": (
        QUERY.format("lent"), "ALTER TABLE lent INHERIT lender; UPDATE lender SET hour = 7; "
        "ALTER TABLE lent NO INHERIT lender", ("lent",), True),
    "an enum's label renamed": (
        "SELECT mood::text AS hour, count(*) AS n FROM moody "
        "WHERE pgrain.predict('colour', x) = 'red' GROUP BY mood::text",
        "ALTER TYPE mood RENAME VALUE 'a' TO 'c'", ("moody",), True),
    "another collation": (
        "SELECT hour, count(*) AS n FROM collated WHERE claim = 'RED' "
        "AND pgrain.predict('colour', x) = 'red' GROUP BY hour",
        "ALTER TABLE collated ALTER claim TYPE text COLLATE loose", ("collated",), False),
}


def values(connection, query):
    return {(hour, column): value for hour, column, value in connection.execute(
        "SELECT output ->> 'hour', output_column, value FROM pgrain.provenance(%s)",
        [query]).fetchall()}


def settled(database, names, seconds=30):
    deadline = time.monotonic() + seconds
    while not database.value("SELECT bool_and(current AND pending_notes = 0) FROM pgrain.watches "
                             "WHERE name = ANY (%s)", [list(names)]):
        assert time.monotonic() < deadline, database.rows("SELECT * FROM pgrain.watches")
        time.sleep(0.1)


def make(database, table, rows=ROWS):
    database.execute(f"CREATE TABLE {table} AS {rows}")


@pytest.fixture
def shop(small):
    small.execute("CREATE TYPE mood AS ENUM ('a', 'b')")
    yield small
    small.execute("SELECT pgrain.unwatch(name) FROM pgrain.watch")
    small.execute("DROP TYPE mood CASCADE")
    for (table,) in small.rows("SELECT oid::regclass FROM pg_class WHERE relkind IN ('r', 'p') "
                               "AND relnamespace = 'public'::regnamespace "
                               "AND relname NOT IN ('train', 'items')"):
        small.execute(f"DROP TABLE IF EXISTS {table} CASCADE")


def test_altered_tables(shop):
    """At once, when the worker has had its time, and after what is written next."""
    shop.execute("CREATE SCHEMA app; SET search_path = app, public")
    shop.execute("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', "
                 "deterministic = false)")
    for table in ("swapped", "facts", "shadowed", "alone", "moody", "collated", "lent"):
        make(shop, f"public.{table}")
    shop.execute("CREATE TABLE public.lender (LIKE lent); CREATE TABLE public.passing (LIKE lent);"
                 "CREATE TABLE public.spans (hour int) PARTITION BY LIST (hour);"
                 "CREATE TABLE public.some PARTITION OF spans FOR VALUES IN (0, 1);"
                 "CREATE TABLE public.more AS SELECT 3 AS hour; INSERT INTO spans VALUES (0), (1)")
    make(shop, "public.days", "SELECT generate_series(0, 3) AS hour")
    for table in ("parts", "whole", "wheel"):
        shop.execute(f"CREATE TABLE public.{table} (LIKE alone) PARTITION BY LIST (hour)")
    shop.execute("CREATE TABLE public.parts_1 PARTITION OF parts FOR VALUES IN (1);"
                 "CREATE TABLE public.parts_2 PARTITION OF parts DEFAULT")
    shop.execute("CREATE TABLE public.wheel_1 PARTITION OF wheel DEFAULT")
    shop.execute(f"INSERT INTO parts {ROWS}; INSERT INTO wheel {ROWS}")
    for name, (query, _, _, _) in CASES.items():
        shop.execute("CALL pgrain.watch(%s, %s)", [name, query])
    with contextlib.ExitStack() as stack:
        stack.callback(shop.execute, "RESET search_path; DROP SCHEMA app CASCADE")
        for name, (query, altered, _, _) in CASES.items():
            shop.execute(altered)
            assert values(shop, name) == values(shop, query), name
        kept = [name for name, case in CASES.items() if case[3]]
        settled(shop, kept)
        for name, (query, _, tables, _) in CASES.items():
            assert values(shop, name) == values(shop, query), name
            for table in tables:
                shop.execute(f"DELETE FROM {table} WHERE hour = 2")
                if table not in ("days", "spans"):
                    shop.execute(f"UPDATE {table} SET hour = hour + 1 WHERE id % 5 = 0")
                assert values(shop, name) == values(shop, query), (name, table)
        settled(shop, kept)
        for name, (query, _, _, kept_up) in CASES.items():
            assert values(shop, name) == values(shop, query), name
            current = shop.value("SELECT current FROM pgrain.watches WHERE name = %s", [name])
            assert bool(current) == kept_up, name


def test_a_partition_is_detached_under_an_old_snapshot(shop):
    """DETACH CONCURRENTLY waits for those who may still write to it: what they do there is no
    change of the table that they name."""
    shop.execute("CREATE TABLE parts (id int, x float8[], claim text, hour int, weight float8, "
                 "mood mood) PARTITION BY LIST (hour);"
                 "CREATE TABLE parts_0 PARTITION OF parts FOR VALUES IN (0, 2, 3);"
                 "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)")
    shop.execute(f"INSERT INTO parts {ROWS}")
    query = QUERY.format("parts")
    shop.execute("CALL pgrain.watch('w', %s)", [query])
    with psycopg.connect(shop.dsn()) as old, ThreadPoolExecutor(1) as beside:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM parts")
        detaching = beside.submit(shop.connect().execute,
                                  "ALTER TABLE parts DETACH PARTITION parts_1 CONCURRENTLY")
        while not shop.value("SELECT bool_or(inhdetachpending) FROM pg_inherits"):
            time.sleep(0.05)
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline and not shop.value(
                "SELECT current FROM pgrain.watches"):
            time.sleep(0.1)
        old.execute(f"INSERT INTO parts SELECT * FROM ({ROWS}) AS r WHERE hour = 1")
        old.commit()
        detaching.result(30)
    for _ in range(20):
        assert values(shop, "w") == values(shop, query)
        time.sleep(0.1)
    settled(shop, ["w"], 70)
    assert values(shop, "w") == values(shop, query)


def test_a_partition_is_not_watched(shop):
    shop.execute("CREATE TABLE whole (id int, x float8[], hour int) PARTITION BY LIST (hour);"
                 "CREATE TABLE part PARTITION OF whole DEFAULT")
    with pytest.raises(errors.FeatureNotSupported, match="part cannot be watched") as caught:
        shop.execute("CALL pgrain.watch('w', $$ SELECT count(*) AS n FROM part "
                     "WHERE pgrain.predict('colour', x) = 'red' $$)")
    assert "Watch the table above it" in caught.value.diag.message_hint


def test_generated_columns_of_partitions(shop):
    """PostgreSQL shows triggers NULL in place of what is generated in a partition whose columns are
    in other places."""
    shop.execute("CREATE TABLE made (id int, gone text, x float8[], weight float8, hour int, twice "
                 "float8 GENERATED ALWAYS AS (weight * 2) STORED) PARTITION BY LIST (hour);"
                 "CREATE TABLE made_0 PARTITION OF made FOR VALUES IN (0);"
                 "CREATE TABLE made_1 PARTITION OF made FOR VALUES IN (1)")
    rows = "(id, x, weight, hour) SELECT id, x, 1 + id % 7, {} FROM items"
    shop.execute("INSERT INTO made " + rows.format("id % 2"))
    query = ("SELECT hour, count(*) AS n, sum(twice) AS total FROM made "
             "WHERE pgrain.predict('colour', x) = 'red' GROUP BY hour")
    shop.execute("CALL pgrain.watch('w', %s)", [query])
    built = shop.value("SELECT built_at FROM pgrain.watches WHERE name = 'w'")
    for statement in ("INSERT INTO made " + rows.format("1"), "UPDATE made SET hour = 1 - hour"):
        shop.execute(statement)
        assert values(shop, "w") == values(shop, query)
        settled(shop, ["w"])
        assert values(shop, "w") == values(shop, query)
    assert shop.value("SELECT built_at FROM pgrain.watches WHERE name = 'w'") == built
    shop.execute("CREATE TABLE made_2 (hour int, x float8[], id int, gone text, weight float8, "
                 "twice float8 GENERATED ALWAYS AS (weight * 2) STORED);"
                 "ALTER TABLE made ATTACH PARTITION made_2 FOR VALUES IN (2)")
    for statement in ("INSERT INTO made " + rows.format("2"), "UPDATE made SET hour = 2 "
                      "WHERE hour = 0", "INSERT INTO made_2 " + rows.format("2")):
        shop.execute(statement)
        assert values(shop, "w") == values(shop, query)
        time.sleep(0.3)
        assert values(shop, "w") == values(shop, query)
    deadline = time.monotonic() + 20
    while "a generated column" not in (shop.value(
            "SELECT problem FROM pgrain.watches WHERE name = 'w'") or ""):
        assert time.monotonic() < deadline, shop.rows("SELECT * FROM pgrain.watches")
        time.sleep(0.1)
    with pytest.raises(errors.FeatureNotSupported, match="made cannot be watched"):
        shop.execute("CALL pgrain.watch('other', %s)", [query])
    shop.execute("ALTER TABLE made DETACH PARTITION made_2")
    settled(shop, ["w"], 70)
    assert values(shop, "w") == values(shop, query)
    shop.execute("SELECT pgrain.unwatch('w')")


def test_row_security_that_comes_later(shop, as_role):
    reader = as_role(shop, "later_reader", "user")
    make(shop, "stock")
    shop.execute("GRANT SELECT ON stock TO later_reader")
    query = QUERY.format("stock")
    shop.execute("CALL pgrain.watch('w', %s)", [query])
    shop.execute("CREATE POLICY p ON stock FOR SELECT TO later_reader USING (hour = 1);"
                 "ALTER TABLE stock ENABLE ROW LEVEL SECURITY")
    for _ in range(4):      # the worker looks every two seconds
        assert values(reader, "w").keys() == {("1", "n"), ("1", "total")}
        shop.execute("UPDATE stock SET weight = weight + 1 WHERE id % 3 = 0")
        time.sleep(1)
    # What was noted meanwhile has gone: the state of before is not taken for right again.
    shop.execute("ALTER TABLE stock DISABLE ROW LEVEL SECURITY")
    assert values(reader, "w") == values(shop, query)
    settled(shop, ["w"], 70)
    assert values(reader, "w") == values(shop, query)


def test_a_function_is_replaced_while_changes_are_under_way(shop):
    """What they noted by the old one does not count; one that is not IMMUTABLE is not watched."""
    make(shop, "stock")
    body = ("CREATE OR REPLACE FUNCTION large(w float8) RETURNS boolean LANGUAGE sql {} "
            "AS 'SELECT w > {}'")
    shop.execute(body.format("IMMUTABLE", 3))
    query = ("SELECT hour, count(*) AS n FROM stock WHERE pgrain.predict('colour', x) = 'red' "
             "AND large(weight) GROUP BY hour")
    shop.execute("CALL pgrain.watch('w', %s)", [query])
    with psycopg.connect(shop.dsn()) as open_one:
        open_one.execute("UPDATE stock SET weight = 4 WHERE id % 2 = 0")
        shop.execute(body.format("IMMUTABLE", 5))
        settled(shop, ["w"])
    assert values(shop, "w") == values(shop, query)
    settled(shop, ["w"])
    assert values(shop, "w") == values(shop, query)
    shop.execute(body.format("STABLE", 6))
    time.sleep(4)
    assert not shop.value("SELECT current FROM pgrain.watches")
    assert values(shop, "w") == values(shop, query)
    shop.execute("SELECT pgrain.unwatch('w'); DROP FUNCTION large")


def test_a_function_that_a_function_calls_is_replaced(shop):
    """Two calls away, by a quoted name, in a body that is a string and in one that is not."""
    make(shop, "stock")
    bound = "CREATE OR REPLACE FUNCTION {}() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT {}'"
    shop.execute(bound.format("bound", 3))
    shop.execute(bound.format("base", 6))
    shop.execute("""
        CREATE FUNCTION "Ü Two"() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
        CREATE FUNCTION "Übound"() RETURNS int LANGUAGE plpgsql IMMUTABLE AS
            'BEGIN RETURN public.BOUND()::int; END';
        CREATE FUNCTION atomic() RETURNS int LANGUAGE sql IMMUTABLE
            BEGIN ATOMIC SELECT base(); END;
        CREATE FUNCTION large(w float8) RETURNS boolean LANGUAGE sql IMMUTABLE AS
            'SELECT w > "Übound"() AND w < atomic()'""")
    query = ("SELECT hour, count(*) AS n FROM stock WHERE pgrain.predict('colour', x) = 'red' "
             "AND large(weight) GROUP BY hour")
    shop.execute("CALL pgrain.watch('w', %s)", [query])
    before = values(shop, "w")
    for name, number in (("bound", 2), ("base", 7)):
        settled(shop, ["w"])
        shop.execute(bound.format(name, number))
        found = values(shop, "w")
        assert found == values(shop, query) != before
        settled(shop, ["w"])
        assert values(shop, "w") == found
        before = found
    # What it does not call is nothing to it.
    print_ = "SELECT pgrain._watch_print((SELECT watch FROM pgrain.watch WHERE name = 'w'))"
    known = shop.value(print_)
    shop.execute("""CREATE OR REPLACE FUNCTION "Ü Two"() RETURNS int LANGUAGE sql IMMUTABLE
                    AS 'SELECT 2'""")
    assert shop.value(print_) == known
    shop.execute("""SELECT pgrain.unwatch('w'); DROP FUNCTION large, atomic, "Übound", "Ü Two";
                    DROP FUNCTION bound, base""")


def test_a_model_of_that_name_with_another_feature(shop):
    shop.execute("ALTER TABLE train ADD y float8[]; UPDATE train SET y = ARRAY[x[2], x[1]]")
    make(shop, "stock", f"SELECT *, ARRAY[x[2], x[1]] AS y FROM ({ROWS}) AS r")
    query = "SELECT count(*) AS n FROM stock AS s WHERE pgrain.predict('pair', {}) = 'red'"
    for features in ("x[1] AS a, x[2] AS b", "x[2] AS a, x[1] AS b"):
        shop.execute(f"CREATE TABLE seen AS SELECT id, label, {features} FROM train")
        shop.execute("SELECT pgrain.create_model('pair', 'seen', 'id', %s, 'label', "
                     "'logistic_regression')", ["{a,b}" if "x[1] AS a" in features else "{b,a}"])
        shop.execute("CALL pgrain.train('pair')")
        if "x[1] AS a" in features:
            query = query.format("jsonb_build_object('a', x[1], 'b', x[2])")
            shop.execute("CALL pgrain.watch('w', %s)", [query])
            shop.execute("SELECT pgrain.drop_model('pair'); DROP TABLE seen")
    settled(shop, ["w"])
    shop.execute("INSERT INTO stock (x, hour) SELECT ARRAY[i, 7 - i], 1 "
                 "FROM generate_series(-40, 40) AS i")
    assert values(shop, "w") == values(shop, query)
    settled(shop, ["w"])
    assert values(shop, "w") == values(shop, query)
    shop.execute("SELECT pgrain.drop_model('pair'); ALTER TABLE train DROP y")


def test_settings_of_who_writes_and_who_reads(shop):
    """Texts mean what they meant to the watch's creator, in the state and without it."""
    make(shop, "stock", f"SELECT *, '2020-01-01 12:00+00'::timestamptz AS at FROM ({ROWS}) AS r")
    query = ("SELECT extract(hour FROM at)::int AS hour, count(*) AS n FROM stock "
             "WHERE pgrain.predict('colour', x) = 'red' AND to_tsvector(claim) @@ "
             "to_tsquery('reds') GROUP BY extract(hour FROM at)::int")
    shop.execute("SET TimeZone = 'UTC'; SET default_text_search_config = 'pg_catalog.english'")
    shop.execute("CALL pgrain.watch('w', %s)", [query])
    other = shop.connect()
    other.execute("SET TimeZone = 'Asia/Tokyo'; "
                  "SET default_text_search_config = 'pg_catalog.simple'")
    other.execute("UPDATE stock SET claim = 'red' WHERE id % 2 = 0")
    assert values(other, "w") == values(shop, query)
    other.execute("ALTER TABLE stock DISABLE TRIGGER ALL")
    assert values(other, "w") == values(shop, query)
    shop.execute("RESET TimeZone; RESET default_text_search_config")


def test_nobody_waits_for_another_table_or_fails_by_an_assertion(shop):
    make(shop, "stock")
    make(shop, "days", "SELECT generate_series(0, 3) AS hour")
    shop.execute("CREATE FUNCTION checked(w float8) RETURNS boolean LANGUAGE plpgsql IMMUTABLE "
                 "AS 'BEGIN ASSERT w < 50; RETURN true; END'")
    joined = ("SELECT s.hour, count(*) AS n FROM stock AS s JOIN days AS d ON d.hour = s.hour "
              "WHERE pgrain.predict('colour', x) = 'red' GROUP BY s.hour")
    shop.execute("CALL pgrain.watch('joined', %s)", [joined])
    shop.execute("CALL pgrain.watch('checked', $$ SELECT count(*) AS n FROM stock "
                 "WHERE pgrain.predict('colour', x) = 'red' AND checked(weight) $$)")
    with psycopg.connect(shop.dsn()) as locking, shop.connect() as writer:
        locking.execute("LOCK TABLE days")
        writer.execute("SET statement_timeout = '5s'")      # of a machine under load
        writer.execute("UPDATE stock SET weight = 60, hour = (hour + 1) % 4 WHERE id % 4 = 0")
    assert values(shop, "joined") == values(shop, joined)
    settled(shop, ["joined"])
    assert values(shop, "joined") == values(shop, joined)
    shop.execute("SELECT pgrain.unwatch('checked'); DROP FUNCTION checked")


def test_writers_under_row_security_off(shop, as_role):
    """As the scripts of pg_dump; the watch's creator is nobody whom row security spares."""
    maker = as_role(shop, "watch_maker", "admin")
    make(shop, "stock")
    make(shop, "days", "SELECT generate_series(0, 3) AS hour")
    shop.execute("GRANT SELECT, TRIGGER ON stock, days TO watch_maker")
    joined = ("SELECT s.hour, count(*) AS n FROM stock AS s JOIN days AS d ON d.hour = s.hour "
              "WHERE pgrain.predict('colour', x) = 'red' GROUP BY s.hour")
    maker.execute("CALL pgrain.watch('w', %s)", [joined])
    with shop.connect() as writer:
        writer.execute("SET row_security = off")
        for change in ("DELETE FROM stock WHERE id % 3 = 0", "DELETE FROM days WHERE hour = 1"):
            writer.execute(change)
            assert values(shop, "w") == values(shop, joined), change
    settled(shop, ["w"])
    assert values(shop, "w") == values(shop, joined)
    shop.execute("SELECT pgrain.unwatch('w')")


def test_settings_for_applications(shop):
    """What ALTER DATABASE or ALTER ROLE sets does not keep the worker from its work; and what it
    stores is not in the server's log."""
    make(shop, "stock")
    query = QUERY.format("stock")
    logged = shop.cluster.log.stat().st_size
    for setting in ("default_transaction_read_only = on", "statement_timeout = '1ms'",
                    "default_transaction_isolation = serializable", "row_security = off",
                    "idle_session_timeout = '200ms'", "lock_timeout = '1ms'",
                    "role = pgrain_reader", "log_statement = 'all'",
                    *(["transaction_timeout = '1ms'"] if shop.value(
                        "SELECT current_setting('transaction_timeout', true)") else [])):
        shop.execute(f"ALTER ROLE pgrain_worker IN DATABASE {shop.name} SET {setting}")
    try:
        shop.worker.stop()
        shop.worker.start()
        shop.execute("CALL pgrain.watch('w', %s)", [query])
        shop.execute("DELETE FROM stock WHERE id % 3 = 0")
        time.sleep(1)
        shop.execute("VACUUM FULL stock")
        shop.execute("CALL pgrain.attach('colour', 'stock')")
        settled(shop, ["w"])
        assert values(shop, "w") == values(shop, query)
        shop.execute("SELECT pgrain.detach('colour', 'stock')")
        log = shop.cluster.log.read_bytes()[logged:]
        assert b"INSERT INTO pgrain.watch_cell" in log and b"parameters: " not in log
    finally:
        shop.execute(f"ALTER ROLE pgrain_worker IN DATABASE {shop.name} RESET ALL")


def test_an_unlogged_table_after_a_crash(shop):
    make(shop, "stock")
    shop.execute("ALTER TABLE stock SET UNLOGGED")
    query = QUERY.format("stock")
    shop.execute("CALL pgrain.watch('w', %s)", [query])
    shop.execute("CHECKPOINT")      # what was committed is on disk
    assert values(shop, "w")
    os.kill(shop.value("SELECT pg_backend_pid()"), signal.SIGKILL)
    deadline = time.monotonic() + 30
    rows = None
    while rows != 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)
        with contextlib.suppress(psycopg.OperationalError):
            shop._connection = None
            rows = shop.value("SELECT count(*) FROM stock")
    assert values(shop, "w") == {}
    settled(shop, ["w"])
    assert values(shop, "w") == {}
