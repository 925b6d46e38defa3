"""Watches of joins of predictions with predictions: they equal the query computed from scratch,
whatever happens to either table."""

from __future__ import annotations

import contextlib
import json
import random
import time

import psycopg
import pytest
from psycopg import errors
from watch_checks import agree, agree_in, folded, until_current, wander

SAME = "pgrain.predict('colour', s.x) = pgrain.predict('colour', h.x)"
WATCHES = {
    "counted": f"SELECT count(*) AS n FROM stock AS s JOIN shelf AS h ON {SAME}",
    "keyed": f"""SELECT count(*) AS n, sum(s.weight) AS total, avg(h.price) AS mean
        FROM stock AS s, shelf AS h WHERE {SAME} AND h.hour = s.hour""",
    "grouped": f"""SELECT s.hour, h.kind, count(*) AS n, sum(s.weight) AS total,
        avg(h.price) FILTER (WHERE h.price > 2) AS mean
        FROM stock AS s JOIN shelf AS h ON {SAME} AND s.hour = h.hour
        WHERE s.claim <> pgrain.predict('colour', s.x) AND h.kind <> 'c'
        GROUP BY s.hour, h.kind""",
    "labelled": f"""SELECT pgrain.predict('colour', h.x) AS label, count(*) AS n,
        count(*) FILTER (WHERE pgrain.predict('colour', s.x) = s.claim) AS same
        FROM stock AS s JOIN shelf AS h ON {SAME} GROUP BY pgrain.predict('colour', h.x)""",
    "named": f"""SELECT d.name, count(*) AS n FROM stock AS s JOIN hours AS d ON d.hour = s.hour
        JOIN shelf AS h ON {SAME} WHERE h.price > 1 GROUP BY d.name""",
}
KEYS = ("hour", "kind", "label", "name")
COMPLAINTS = {"counted": "n too high", "keyed": "mean too low", "labelled": "same too high",
              "grouped": "total too high WHERE hour < 2", "named": "n <= 3 WHERE name = 'h1'"}


@pytest.fixture(scope="module")
def shop(small):
    """`small` with tables that have some values in common, and some rows without one."""
    small.execute("CREATE TABLE stock (id serial PRIMARY KEY, x float8[], claim text, hour integer,"
                  " weight numeric)")
    small.execute("CREATE TABLE shelf (id serial PRIMARY KEY, x float8[], kind text, hour bigint,"
                  " price float8)")
    small.execute("CREATE TABLE hours (hour integer PRIMARY KEY, name text)")
    small.execute("INSERT INTO hours SELECT i, 'h' || i / 2 FROM generate_series(0, 7) AS i")
    small.execute("INSERT INTO stock (x, claim, hour, weight) SELECT x, claim, hour, id % 7 "
                  "FROM items")
    small.execute("INSERT INTO shelf (x, kind, hour, price) "
                  "SELECT CASE WHEN id % 3 = 0 OR x IS NULL THEN x "
                  "ELSE ARRAY[x[2], x[1]] END, chr(97 + id % 3), nullif(id % 5, 4), id % 9 "
                  "FROM items WHERE id % 2 = 0")
    for name, query in WATCHES.items():
        small.execute("CALL pgrain.watch(%s, %s)", [name, query])
    return small


def all_agree(database):
    for name, query in WATCHES.items():
        agree(database, name, query, KEYS)


def rankings_agree(database):
    for name, complaint in COMPLAINTS.items():
        standing, scratch = (database.rows(
            "SELECT train_id, score, effect FROM pgrain.complain(%s, %s, 40)", [what, complaint])
            for what in (name, WATCHES[name]))
        assert len(standing) == 40, name
        assert [row[0] for row in standing] == [row[0] for row in scratch], name
        for mine, theirs in zip(standing, scratch, strict=True):
            assert mine[1:] == pytest.approx(theirs[1:], rel=1e-4, abs=1e-9), name


def built(database):
    return database.rows("SELECT watch, built_at FROM pgrain.watch_state ORDER BY watch")


def test_a_watch_equals_its_query(shop):
    assert shop.value("SELECT bool_and(current) FROM pgrain.watches")
    all_agree(shop)
    rankings_agree(shop)


def test_changes_of_both_tables_count_at_once_and_are_folded(shop):
    before = built(shop)
    with shop.connect() as session, session.transaction():
        session.execute("INSERT INTO shelf (x, kind, hour, price) SELECT x, 'a', hour, 3 "
                        "FROM stock WHERE id % 5 = 0")
        session.execute("UPDATE stock SET hour = (hour + 1) % 4, weight = weight + 1 "
                        "WHERE id % 3 = 0")
        session.execute("DELETE FROM shelf WHERE id % 4 = 1")
        session.execute("INSERT INTO stock (x, claim, hour, weight) VALUES ('{0.5,0.25}', 'red', "
                        "1, 2), ('{0.5,0.25}', 'green', 2, 5)")
        for name, query in WATCHES.items():
            agree_in(session, name, query, KEYS)
    all_agree(shop)
    rankings_agree(shop)
    folded(shop)
    all_agree(shop)
    rankings_agree(shop)
    assert built(shop) == before, "the notes were folded, nothing was computed again"
    assert shop.value("SELECT bool_and(current) FROM pgrain.watches")


def test_a_value_on_both_sides_is_one_variable(shop):
    """Its rows have one class with certainty, whatever its probabilities are."""
    shop.execute("CREATE TABLE one (x float8[]); CREATE TABLE other (x float8[])")
    shop.execute("INSERT INTO one VALUES ('{0.75,0.5}')")
    query = ("SELECT count(*) AS n FROM one AS s, other AS h WHERE " + SAME)
    shop.execute("CALL pgrain.watch('pair', %s)", [query])
    relaxed = "SELECT relaxed FROM pgrain.provenance('pair')"
    assert shop.value(relaxed) == 0
    for values, expected in ((["{0.75,0.5}"], 1.0), (["{0.75,0.5}"] * 2, 3.0), ([], 3.0)):
        for value in values:
            shop.execute("INSERT INTO other VALUES (%s)", [value])
        assert shop.value(relaxed) == pytest.approx(expected, abs=1e-9)
        folded(shop)
        assert shop.value(relaxed) == pytest.approx(expected, abs=1e-9)
        agree(shop, "pair", query)
    shop.execute("UPDATE other SET x = '{0.75,0.25}'")
    assert 0.3 < shop.value(relaxed) / 3 < 0.999
    agree(shop, "pair", query)
    shop.execute("DELETE FROM other")
    folded(shop)
    assert shop.value(relaxed) == 0
    assert shop.rows("SELECT key FROM pgrain.watch_cell JOIN pgrain.watch USING (watch) "
                     "WHERE name = 'pair' AND key ~ '^(1|v.1)'") == []
    shop.execute("SELECT pgrain.unwatch('pair')")
    shop.execute("DROP TABLE one, other")


def test_outliers_go_one_after_the_other(shop):
    """Each is no more than ten thousand times what it leaves behind."""
    shop.execute("INSERT INTO stock (x, claim, hour, weight) SELECT x, 'black', 1, w / 3 FROM "
                 "(SELECT x FROM shelf WHERE x IS NOT NULL LIMIT 9) AS nine, "
                 "unnest('{1e16,1e12,1e8,1e4,1}'::numeric[]) AS w")
    shop.execute("UPDATE hours SET name = name; ALTER TABLE shelf ALTER kind TYPE varchar; "
                 "ALTER TABLE shelf ALTER kind TYPE text")      # all is summed at once
    until_current(shop)
    for most in ("1e14", "1e10", "1e6", "1e2"):
        shop.execute("DELETE FROM stock WHERE claim = 'black' AND weight > %s", [most])
        all_agree(shop)
        folded(shop)
        until_current(shop)
        all_agree(shop)
        rankings_agree(shop)
    shop.execute("DELETE FROM stock WHERE claim = 'black'")


def change(rng: random.Random, connection) -> None:
    """One statement that inserts, updates or deletes some rows of one of the tables."""
    a, b = rng.randrange(60), rng.randrange(1, 9)
    table, rest = rng.choice([("stock", "claim, hour, weight"), ("shelf", "kind, hour, price")])
    kind = rng.choice(["insert", "copy", "update", "delete"])
    if kind == "insert":
        connection.execute(
            f"INSERT INTO {table} (x, {rest}) SELECT CASE WHEN i %% 9 > 0 THEN "
            "ARRAY[(i %% 7) / 7.0, -(i %% 11) / 5.0] END, (ARRAY['red','green','blue','a','c'])"
            "[1 + i %% 5], nullif(i %% 8, 7), i / 3.0 FROM generate_series(%s::int, %s::int) AS i",
            [a, a + b])
    elif kind == "copy":
        source = "shelf" if table == "stock" else "stock"
        connection.execute(f"INSERT INTO {table} (x, {rest}) SELECT x, 'blue', hour, 2 FROM "
                           f"{source} WHERE id %% 60 BETWEEN %s AND %s LIMIT 5", [a, a + b])
    elif kind == "update":
        connection.execute(f"UPDATE {table} SET hour = (hour + 1) %% 8, x = CASE WHEN id %% 2 = 0 "
                           "OR x IS NULL THEN x ELSE ARRAY[x[2], x[1]] END "
                           "WHERE id %% 60 BETWEEN %s AND %s", [a, a + b])
    else:
        connection.execute(f"DELETE FROM {table} WHERE id %% 60 BETWEEN %s AND %s",
                           [a, a + b // 3])


@pytest.mark.parametrize("seed", [0, 1])
def test_interleaved_changes(shop, seed):
    """Three sessions with open transactions, savepoints, rollbacks and commits in any order; the
    worker is killed and started while they go on."""
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(contextlib.closing(psycopg.connect(shop.dsn())))
                    for _ in range(3)]
        for session in sessions:
            session.execute("SET lock_timeout = '100ms'")
            session.commit()
        for step in range(36):
            session = rng.choice(sessions)
            wander(rng, session, change)
            if step == 15:
                shop.worker.kill()
                shop.worker.start()
            if step % 7 == 6:
                all_agree(shop)
        for session in sessions:
            session.commit() if rng.random() < 0.7 else session.rollback()
    all_agree(shop)
    folded(shop)
    until_current(shop)
    all_agree(shop)
    shop.execute("UPDATE hours SET name = 'h' || hour / 2")
    until_current(shop)
    rankings_agree(shop)


@pytest.mark.parametrize("statement", [
    "TRUNCATE shelf", "ALTER TABLE stock ALTER hour TYPE bigint",
    "ALTER TABLE shelf DISABLE TRIGGER ALL; DELETE FROM shelf WHERE id % 3 = 0; "
    "ALTER TABLE shelf ENABLE TRIGGER ALL",
    "SET session_replication_role = replica; DELETE FROM shelf WHERE id % 3 = 1; "
    "SET session_replication_role = origin",
    "DELETE FROM hours WHERE hour = 2", "VACUUM FULL shelf"])
def test_what_statement_triggers_do_not_tell(shop, statement):
    shop.execute("INSERT INTO shelf (x, kind, hour, price) SELECT x, 'b', hour, id % 7 FROM items")
    until_current(shop)
    for part in statement.split("; "):
        shop.execute(part)
    all_agree(shop)
    until_current(shop)
    all_agree(shop)
    shop.execute("INSERT INTO shelf (x, kind, hour, price) SELECT x, 'a', hour, id FROM items "
                 "WHERE id < 9")
    all_agree(shop)


def test_a_watch_is_made_after_the_worker_was_started_anew(shop):
    """The session knows the plan of its query; the worker does not any more."""
    for name in ("first", "second"):
        shop.execute("CALL pgrain.watch(%s, %s)", [name, WATCHES["keyed"]])
        agree(shop, name, WATCHES["keyed"])
        shop.execute("SELECT pgrain.unwatch(%s)", [name])
        shop.worker.kill()
        shop.worker.start()


def test_tables_that_change_places(shop):
    """Each is watched as what the query takes it for by then."""
    for name in ("here", "there"):
        shop.execute(f"CREATE TABLE {name} AS SELECT id, x, hour FROM items WHERE id % 4 > "
                     + ("1" if name == "here" else "2"))
    query = ("SELECT s.hour, count(*) AS n FROM here AS s JOIN there AS h "
             f"ON {SAME} GROUP BY s.hour")
    shop.execute("CALL pgrain.watch('swapped', %s)", [query])
    shop.execute("ALTER TABLE here RENAME TO passing; ALTER TABLE there RENAME TO here; "
                 "ALTER TABLE passing RENAME TO there")
    agree(shop, "swapped", query)
    until_current(shop)
    before = built(shop)
    for statement in ("INSERT INTO here SELECT id, x, 3 FROM items LIMIT 7",
                      "DELETE FROM there WHERE id % 3 = 0"):
        shop.execute(statement)
        agree(shop, "swapped", query)
        folded(shop)
        agree(shop, "swapped", query)
    assert built(shop) == before, "their triggers have changed places, too"
    shop.execute("SELECT pgrain.unwatch('swapped'); DROP TABLE here, there")


def test_partitions_of_the_second_table(shop):
    shop.execute("CREATE TABLE parts (LIKE shelf) PARTITION BY RANGE (price)")
    shop.execute("CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (4)")
    shop.execute("CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (4) TO (100)")
    shop.execute("INSERT INTO parts SELECT id, x, kind, hour, 1 + id % 8 FROM shelf")
    query = ("SELECT s.hour, count(*) AS n FROM stock AS s JOIN parts AS h "
             f"ON {SAME} GROUP BY s.hour")
    shop.execute("CALL pgrain.watch('parts', %s)", [query])
    before = built(shop)
    for statement in ("INSERT INTO parts_low SELECT id, x, 'a', hour, 1 FROM items WHERE id < 30",
                      "UPDATE parts SET price = 5 WHERE price < 2",
                      "DELETE FROM parts_high WHERE id % 2 = 0"):
        shop.execute(statement)
        agree(shop, "parts", query)
        folded(shop)
        agree(shop, "parts", query)
    assert built(shop) == before
    shop.execute("SELECT pgrain.unwatch('parts'); DROP TABLE parts")


def test_alerts(shop):
    listening = shop.connect()
    listening.execute("LISTEN pgrain_watch")
    n = shop.value("SELECT value FROM pgrain.provenance('counted')")
    shop.execute("CALL pgrain.watch('loud', %s, %s)", [WATCHES["counted"], f"n > {n + 20}"])
    x = shop.value("SELECT x FROM stock WHERE x IS NOT NULL LIMIT 1")
    for holds, statement in ((True, "INSERT INTO shelf (x, kind, hour, price) SELECT %s, 'more', "
                                    "9, 1 FROM generate_series(1, 200)"),
                             (False, "DELETE FROM shelf WHERE kind = 'more' AND x = %s")):
        shop.execute(statement, [x])
        heard = [json.loads(it.payload) for it in listening.notifies(timeout=10, stop_after=1)]
        assert heard == [{"watch": "loud", "alert": f"n > {n + 20}", "holds": holds}]
    shop.execute("SELECT pgrain.unwatch('loud')")


def test_more_pairs_of_sums_than_are_multiplied(shop):
    """It is folded, says that it cannot be read, and can be read when there are fewer again."""
    for name in ("wide", "broad"):
        shop.execute(f"CREATE TABLE {name} AS SELECT k, g, ARRAY[k % 7 - 3, g / 9.0] AS x "
                     "FROM generate_series(1, 820) AS k, generate_series(1, 20) AS g")
    query = ("SELECT s.g, h.g AS other, count(*) AS n FROM wide AS s JOIN broad AS h "
             f"ON {SAME} AND s.k = h.k GROUP BY s.g, h.g")
    shop.execute("CALL pgrain.watch('wide', %s, 'n > 900')", [query])
    rows = "SELECT rank, train_id, score FROM pgrain.complain({}, 'n too high WHERE g = 3', 9)"
    before = built(shop)
    # (The worker tries to compute what has no state after ten seconds.)
    deadline = time.monotonic() + 10
    while shop.value("SELECT count(*) FROM pgrain.watch_problem"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with shop.connect() as session:
        notices = []
        session.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        ranked = session.execute(rows.format("'wide'")).fetchall()
        assert len(ranked) == 9 and notices == []
        for name in ("wide", "broad"):
            shop.execute(f"INSERT INTO {name} SELECT k, g, ARRAY[k % 7 - 3, g / 9.0] "
                         "FROM generate_series(821, 840) AS k, generate_series(1, 20) AS g")
        for _ in range(2):      # with notes that wait, and when they are folded
            notices.clear()
            assert session.execute(rows.format("'wide'")).fetchall() == session.execute(
                rows.format(f"$${query}$$")).fetchall()
            assert [*map(str, notices)] == [
                'pgrain: watch "wide" is too large (the watch of a join would multiply 1,008,000 '
                "pairs of sums, of at most 1,000,000); this answer is computed from its query"]
            folded(shop)
        current, problem, since, groups = shop.rows(
            "SELECT current, problem, problem_since, groups FROM pgrain.watches "
            "WHERE name = 'wide'")[0]
        assert not current and "1,008,000 pairs of sums" in problem and since and groups > 50_000
        shop.execute("UPDATE broad SET x = x WHERE k = 1")
        folded(shop)
        assert shop.rows("SELECT problem_since FROM pgrain.watches WHERE name = 'wide'") == [
            (since,)]
        shop.execute("DELETE FROM wide WHERE k > 820")
        folded(shop)
        assert shop.rows("SELECT current, problem, problem_since FROM pgrain.watches "
                         "WHERE name = 'wide'") == [(True, None, None)]
        assert built(shop) == before, "it was folded all along"
        notices.clear()
        found = session.execute(rows.format("'wide'")).fetchall()
        assert [row[1] for row in found] == [row[1] for row in ranked] and notices == []
    shop.execute("SELECT pgrain.unwatch('wide'); DROP TABLE wide, broad")


def test_dump_and_restore(shop, module_database, worker):
    copy = shop.dumped_into(module_database(extension=False))
    copy.worker = worker(copy)
    copy.execute("INSERT INTO shelf (x, kind, hour, price) SELECT x, 'b', hour, 3 FROM items")
    all_agree(copy)
    until_current(copy)
    copy.execute("DELETE FROM stock WHERE id % 7 = 2")
    all_agree(copy)


@pytest.mark.parametrize("query, message", [
    (f"SELECT count(*) AS n FROM stock s, stock h WHERE {SAME}", "join of a table with itself"),
    (f"SELECT count(*) AS n FROM stock s, shelf h, hours a, hours b WHERE {SAME} "
     "AND a.hour = s.hour AND b.hour = h.hour", "join of a table with itself"),
    ("SELECT count(*) AS n FROM stock s, shelf h WHERE pgrain.predict('colour', s.x) = h.kind",
     "predictions with columns"),
    (f"SELECT count(*) AS n FROM stock s, shelf h WHERE NOT ({SAME})",
     "a condition between the two tables"),
    ("SELECT count(*) AS n FROM stock s, shelf h WHERE pgrain.predict('colour', s.x) <> "
     "pgrain.predict('colour', h.x)", "a condition between the two tables"),
    (f"SELECT count(*) AS n FROM stock s, shelf h WHERE {SAME} AND s.hour < h.hour",
     "a condition between the two tables"),
    ("SELECT count(*) AS n FROM stock s, shelf h WHERE pgrain.predict('colour', s.x) = 'red' "
     "AND pgrain.predict('colour', h.x) = 'blue'", "that need not be equal"),
    (f"SELECT sum(s.weight * h.price) AS n FROM stock s, shelf h WHERE {SAME}",
     "an aggregate of both tables"),
    (f"SELECT s.hour + h.hour AS t, count(*) AS n FROM stock s, shelf h WHERE {SAME} "
     "GROUP BY s.hour + h.hour", "a column of both tables"),
    (f"SELECT count(*) AS n FROM stock s, shelf h WHERE {SAME} AND s.weight = h.price",
     "columns of types numeric and double precision"),
    (f"SELECT count(*) AS n FROM stock s, shelf h WHERE {SAME} AND s.x = h.x", "cannot be watched"),
    (f"SELECT s.hour, count(*) AS n FROM stock s, shelf h WHERE {SAME} GROUP BY s.hour "
     "HAVING count(*) > 2", "cannot be watched"),
    (f"SELECT count(*) AS n FROM stock s, shelf h WHERE {SAME} AND s.hour IN (SELECT 1)",
     "a subquery"),
])
def test_refused_by_name(shop, query, message):
    with pytest.raises(errors.FeatureNotSupported, match=message) as caught:
        shop.execute("CALL pgrain.watch('refused', %s)", [query])
    assert caught.value.diag.message_hint
    assert not shop.rows("SELECT * FROM pgrain.watches WHERE name = 'refused'")


@pytest.mark.parametrize("query", [
    "SELECT price, count(*) AS n FROM near WHERE pgrain.predict('colour', x) = 'red' "
    "GROUP BY price",
    f"SELECT count(*) AS n FROM near AS s JOIN also AS h ON {SAME} AND s.price = h.price"])
def test_numbers_of_one_text_are_not_taken_for_one(shop, query):
    """With fewer digits than they have, numbers that differ are shown alike."""
    for name in ("near", "also"):
        shop.execute(f"CREATE TABLE {name} AS SELECT x, 0.1 + (id % 2) * 3e-17::float8 AS price "
                     "FROM items")
    with shop.connect() as session:
        for digits in (0, -9):
            session.execute(f"SET extra_float_digits = {digits}")
            with pytest.raises(errors.FeatureNotSupported, match="fewer digits") as caught:
                session.execute("CALL pgrain.watch('near', %s)", [query])
            assert "extra_float_digits = 1" in caught.value.diag.message_hint
        session.execute("SET extra_float_digits = 1")
        session.execute("CALL pgrain.watch('near', %s)", [query])
        agree(shop, "near", query, ("price",))
        session.execute("DELETE FROM near WHERE price > 0.1")
        agree(shop, "near", query, ("price",))
        session.execute("SELECT pgrain.unwatch('near')")
        # It becomes such a column later.
        session.execute("ALTER TABLE near ALTER price TYPE integer; "
                        "ALTER TABLE also ALTER price TYPE integer")
        session.execute("SET extra_float_digits = -9")
        session.execute("CALL pgrain.watch('near', %s)", [query])
        for name in ("near", "also"):
            session.execute(f"ALTER TABLE {name} ALTER price TYPE float8 USING 0.1")
            session.execute(f"UPDATE {name} SET price = 0.1::float8 + 3e-17 WHERE x[1] > 0.5")
        deadline = time.monotonic() + 20
        while "fewer digits" not in (shop.value(
                "SELECT problem FROM pgrain.watches WHERE name = 'near'") or ""):
            assert time.monotonic() < deadline, shop.rows("SELECT * FROM pgrain.watches")
            time.sleep(0.1)
    shop.execute("SELECT pgrain.unwatch('near'); DROP TABLE near, also")


def test_another_equality_is_not_taken_for_postgresqls(shop):
    shop.execute("CREATE SCHEMA front")
    shop.execute("CREATE FUNCTION front.never(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE "
                 "AS 'SELECT false'")
    shop.execute("CREATE OPERATOR front.= (LEFTARG = text, RIGHTARG = text, "
                 "FUNCTION = front.never)")
    with shop.connect() as session:
        session.execute("SET search_path = front, pg_catalog, public")
        with pytest.raises(errors.FeatureNotSupported, match="not PostgreSQL's own"):
            session.execute("CALL pgrain.watch('refused', %s)", [WATCHES["counted"]])
    shop.execute("DROP SCHEMA front CASCADE")


def test_a_new_version_of_the_model(shop):
    shop.execute("SELECT pgrain.apply('colour', (SELECT array_agg(id::text) FROM train "
                 "WHERE id <= 60), 'relabel:blue')")
    shop.execute("CALL pgrain.train('colour')")
    all_agree(shop)
    shop.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
    until_current(shop)
    all_agree(shop)
    rankings_agree(shop)
