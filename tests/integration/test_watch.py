"""Watches: they equal the query computed from scratch, whatever happens to the table."""

from __future__ import annotations

import psycopg
import pytest
from watch_checks import agree, folded

QUERY = """SELECT hour, count(*) AS n, sum(weight) AS total, avg(weight) FILTER (WHERE weight > 1)
AS mean FROM stock WHERE pgrain.predict('colour', x) <> claim GROUP BY hour"""


@pytest.fixture(scope="module")
def shop(small):
    """`small` with a table that is watched."""
    small.execute("""
        CREATE TABLE stock (id serial PRIMARY KEY, x float8[], claim text, hour integer,
                            weight float8)""")
    small.execute("""
        INSERT INTO stock (x, claim, hour, weight)
        SELECT x, claim, hour, 1 + id % 7 FROM items""")
    small.execute("CALL pgrain.watch('mismatches', %s)", [QUERY])
    return small


def test_a_watch_equals_its_query(shop):
    agree(shop, 'mismatches', QUERY)
    assert shop.value("SELECT current FROM pgrain.watches")


def test_changes_are_seen_at_once_and_after_folding(shop):
    shop.execute("INSERT INTO stock (x, claim, hour, weight) SELECT ARRAY[i / 3.0, -i / 5.0], "
                 "'green', i % 5, i FROM generate_series(1, 30) AS i")
    agree(shop, 'mismatches', QUERY)
    shop.execute("UPDATE stock SET hour = hour + 1, claim = 'red' WHERE id % 3 = 0")
    agree(shop, 'mismatches', QUERY)
    shop.execute("DELETE FROM stock WHERE id % 4 = 0")
    agree(shop, 'mismatches', QUERY)
    folded(shop)
    agree(shop, 'mismatches', QUERY)
    assert shop.value("SELECT current FROM pgrain.watches")


def test_ranking_equals_that_of_the_query(shop):
    for complaint in ("n too high", "total <= 3 WHERE hour = 1", "mean too low WHERE hour < 3"):
        standing = shop.rows("SELECT train_id, score, effect FROM pgrain.complain("
                             "'mismatches', %s, 50)", [complaint])
        scratch = shop.rows("SELECT train_id, score, effect FROM pgrain.complain(%s, %s, 50)",
                            [QUERY, complaint])
        assert len(standing) == 50
        assert [row[0] for row in standing] == [row[0] for row in scratch]
        for mine, theirs in zip(standing, scratch, strict=True):
            assert mine[1:] == pytest.approx(theirs[1:], rel=1e-4, abs=1e-9)


def test_what_is_told_is_what_is_told_of_the_query(shop):
    """Predictions that are certain move nothing; those of no rows are none."""
    shop.execute("CREATE TABLE sure (x float8[], hour integer)")
    shop.execute("INSERT INTO sure SELECT ARRAY[1000000.0 * sign(i % 3 - 1), 2000000], i % 2 "
                 "FROM generate_series(0, 8) AS i WHERE i % 3 <> 1")
    query = ("SELECT count(*) FILTER (WHERE pgrain.predict('colour', x) = 'red') AS red, "
             "count(*) FILTER (WHERE pgrain.predict('colour', x) = 'blue' AND hour > 7) AS late "
             "FROM sure")
    shop.execute("CALL pgrain.watch('sure', %s)", [query])
    told = {}
    with shop.connect() as session:
        notices = []
        session.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        for complaint in ("red too high", "red too low", "late too low", "red <= 1000"):
            for asked in ("sure", query):
                notices.clear()
                rows = session.execute("SELECT train_id, score, effect FROM pgrain.complain("
                                       "%s, %s, 5)", [asked, complaint]).fetchall()
                told.setdefault(complaint, []).append((rows, list(notices)))
    for complaint, (standing, scratch) in told.items():
        assert standing == scratch, complaint
    (rows, (notice,)), _ = told["red too high"]
    assert len(rows) == 5 and notice.startswith("every score is 0: to first order no training row")
    (rows, (notice,)), _ = told["late too low"]
    assert rows == [] and "depend on no prediction" in notice
    shop.execute("SELECT pgrain.unwatch('sure'); DROP TABLE sure")


def test_a_where_that_fails_says_so_as_for_the_query(shop):
    for query in ("mismatches", QUERY):
        with pytest.raises(psycopg.errors.UndefinedColumn) as caught:
            shop.rows("SELECT * FROM pgrain.complain(%s, 'n too high WHERE hour = noon')", [query])
        assert "in the complaint's WHERE: column \"noon\"" in caught.value.diag.message_primary
        assert "The query's output has hour, n, " in caught.value.diag.message_detail
        assert "single quotes" in caught.value.diag.message_hint


def test_a_look_reads_no_other_tables_of_the_schema(shop):
    """What the query's names may mean is looked up by name."""
    number = shop.value("SELECT watch FROM pgrain.watch WHERE name = 'mismatches'")
    fetched = ("SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_sys_tables "
               "WHERE relname = 'pg_class'")

    def read() -> int:
        with shop.connect() as session, session.transaction():
            for _ in range(2):      # statements are planned, catalogs are known
                session.execute("SELECT pgrain._watch_print(%s)", [number])
                before = session.execute(fetched).fetchone()[0]
            for _ in range(10):
                session.execute("SELECT pgrain._watch_print(%s)", [number])
            return session.execute(fetched).fetchone()[0] - before

    few = read()
    assert few >= 10
    names = [f"beside_{i}" for i in range(100)]
    shop.execute("".join(f"CREATE TABLE {name} ();" for name in names))
    assert read() <= few + 100      # dead rows of catalogs are none of ours
    shop.execute("DROP TABLE " + ", ".join(names))


def test_protected_keys_stay_with_those_who_may_read_them(shop, as_role):
    """Also in a session that knew the model before its keys were protected."""
    reader = as_role(shop, "watch_reader", "user")
    shop.execute("GRANT SELECT ON stock TO watch_reader")
    ask = "SELECT train_key, score FROM pgrain.complain('mismatches', 'n too high', 5)"
    before = reader.execute(ask).fetchall()
    assert all(key is not None for key, _ in before)
    shop.execute("SELECT pgrain.protect_keys('colour')")
    after = reader.execute(ask).fetchall()
    shop.execute("SELECT pgrain.protect_keys('colour', false)")
    assert [key for key, _ in after] == [None] * 5
    assert [score for _, score in after] == [score for _, score in before]
