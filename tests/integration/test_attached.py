"""Attached relations while rows keep coming: answers are right at once, and stored soon."""

from __future__ import annotations

import time

import psycopg
import pytest


def stored(database) -> int:
    return database.value("SELECT stored_values FROM pgrain.attached "
                          "WHERE relation = 'goods'::regclass")


def wait_for(database, count: int) -> None:
    deadline = time.monotonic() + 30
    while stored(database) != count:
        assert time.monotonic() < deadline, (stored(database), count)
        time.sleep(0.1)


@pytest.fixture(scope="module")
def goods(small):
    small.execute("SELECT pgrain.detach('colour', 'items')")
    small.execute("CREATE TABLE goods (id serial, x float8[], hour integer) "
                  "PARTITION BY RANGE (hour)")
    small.execute("CREATE TABLE goods_low PARTITION OF goods FOR VALUES FROM (0) TO (2)")
    small.execute("CREATE TABLE goods_high PARTITION OF goods FOR VALUES FROM (2) TO (99)")
    small.execute("INSERT INTO goods (x, hour) SELECT x, hour FROM items WHERE x IS NOT NULL")
    small.execute("CALL pgrain.attach('colour', 'goods')")
    return small


STATEMENTS = [
    "INSERT INTO goods (x, hour) VALUES ('{91,1}', 1), ('{91,2}', 5)",
    "INSERT INTO goods_low (x, hour) VALUES ('{92,1}', 1)",
    "UPDATE goods SET x = '{93,1}' WHERE id = 7",
    "SET session_replication_role = replica; INSERT INTO goods_high (x, hour) VALUES ('{94,1}', 3)"
    "; RESET session_replication_role",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_new_values_are_stored(goods, statement):
    before, values = stored(goods), goods.value("SELECT count(DISTINCT x) FROM goods")
    for part in statement.split("; "):
        goods.execute(part)
    new = goods.value("SELECT count(DISTINCT x) FROM goods") - values
    assert new + ("UPDATE" in statement) > 0
    # at once, stored or not: a prediction for each row
    assert goods.value("SELECT bool_and(pgrain.predict('colour', x) IS NOT NULL) FROM goods")
    wait_for(goods, before + goods.value(
        "SELECT count(*) FROM regexp_matches(%s, '\\{9', 'g')", [statement]))


def test_copy(goods):
    before = stored(goods)
    with goods.connection.cursor().copy("COPY goods (x, hour) FROM STDIN") as copy:
        for i in range(50):
            copy.write_row([[70.0 + i, 3.5], i % 9])
    wait_for(goods, before + 50)


def test_rolled_back_rows_are_not_stored(goods):
    before = stored(goods)
    with pytest.raises(ZeroDivisionError), goods.connection.transaction():
        goods.execute("INSERT INTO goods (x, hour) VALUES ('{1234,5}', 1)")
        raise ZeroDivisionError
    goods.execute("INSERT INTO goods (x, hour) VALUES ('{1235,5}', 1)")
    wait_for(goods, before + 1)


def test_a_statement_never_fails_because_of_us(goods):
    """Without the table of hints there are none, and everything else goes on."""
    goods.execute("ALTER TABLE pgrain.attachment_hint RENAME TO hidden")
    goods.execute("INSERT INTO goods (x, hour) VALUES ('{1236,5}', 1)")
    goods.execute("ALTER TABLE pgrain.hidden RENAME TO attachment_hint")
    assert goods.value("SELECT count(*) FROM goods WHERE x = '{1236,5}'") == 1


def test_what_no_trigger_tells_is_found_by_counting(goods, monkeypatch):
    """The sweep itself, in this process: a trigger that is off, and PostgreSQL's counters."""
    from pgrain.store.database import Shared, connect
    from pgrain.worker import catch_up

    goods.execute("ALTER TABLE goods DISABLE TRIGGER ALL")
    before = stored(goods)
    with connect(goods.dsn()) as connection:
        thread = catch_up.CatchUp(lambda: connection, Shared(lambda: connection))
        thread._sweep(connection)
        thread._dirty.clear()
        thread._sweep(connection)
        assert not thread._dirty
        goods.execute("INSERT INTO goods (x, hour) VALUES ('{1237,5}', 1)")
        goods.connection.close()          # its counters are reported when it ends, at the latest
        deadline = time.monotonic() + 15
        while not thread._dirty:
            assert time.monotonic() < deadline
            time.sleep(0.2)
            thread._sweep(connection)
        thread.step(connection)
    assert stored(goods) > before
    goods.execute("ALTER TABLE goods ENABLE TRIGGER ALL")


def test_triggers_go_with_the_attachment(goods, as_role):
    triggers = "SELECT count(*) FROM pg_trigger WHERE tgname = '_pgrain_attached'"
    assert goods.value(triggers) == 3
    goods.execute("SELECT pgrain.detach('colour', 'goods')")
    assert goods.value(triggers) == 0
    # who may not put triggers on a table gets none there, and may attach it all the same
    modeller = as_role(goods, "attacher", "admin")
    goods.execute("GRANT SELECT ON goods TO attacher WITH GRANT OPTION")
    with pytest.raises(psycopg.errors.ActiveSqlTransaction), modeller.transaction():
        modeller.execute("CALL pgrain.attach('colour', 'goods')")
    modeller.execute("CALL pgrain.attach('colour', 'goods')")
    assert goods.value(triggers) == 0
