"""Who may make and read watches, what is refused, alerts, partitions, and how watches end."""

from __future__ import annotations

import json
import subprocess
import time

import psycopg
import pytest
from psycopg import errors
from watch_checks import agree, folded

COUNT = "SELECT hour, count(*) AS n FROM {} WHERE pgrain.predict('colour', x) = 'red' GROUP BY hour"


@pytest.fixture(scope="module")
def shop(small):
    small.execute("CREATE TABLE stock AS SELECT * FROM items")
    return small


def watch(connection, name, query, alert=None):
    connection.execute("CALL pgrain.watch(%s, %s, %s)", [name, query, alert])


def test_a_watch_runs_as_its_creator(shop, as_role):
    """An expression of the creator's runs with the creator's rights whoever inserts; a reader
    sees what their own rights would show them."""
    maker, reader = as_role(shop, "maker", "admin"), as_role(shop, "reader", "user")
    writer = as_role(shop, "writer")
    maker.execute("SET search_path = public")
    shop.execute("CREATE SCHEMA own AUTHORIZATION maker")
    shop.execute("GRANT USAGE ON SCHEMA own TO PUBLIC")
    shop.execute("CREATE TABLE goods AS SELECT * FROM items")
    shop.execute("GRANT INSERT, SELECT ON goods TO writer")
    with pytest.raises(errors.InsufficientPrivilege):
        watch(maker, "w", COUNT.format("goods"))
    shop.execute("GRANT SELECT ON goods TO maker")
    with pytest.raises(errors.InsufficientPrivilege, match="may not watch") as caught:
        watch(maker, "w", COUNT.format("goods"))
    assert "GRANT SELECT, TRIGGER ON public.goods TO maker" in caught.value.diag.message_hint
    shop.execute("GRANT TRIGGER ON goods TO maker")
    maker.execute("CREATE FUNCTION own.plain(integer) RETURNS integer LANGUAGE sql IMMUTABLE "
                  "AS 'SELECT $1'")
    watch(maker, "w", COUNT.format("goods"))
    watch(maker, "v", "SELECT count(*) AS n FROM goods WHERE pgrain.predict('colour', x) = 'red' "
                      "AND own.plain(hour) >= 0")
    shop.execute("CREATE OR REPLACE FUNCTION own.plain(integer) RETURNS integer LANGUAGE plpgsql "
                 "IMMUTABLE AS $$ BEGIN PERFORM set_config('own.who', current_user, false); "
                 "RETURN $1; END $$")
    writer.execute("INSERT INTO goods SELECT * FROM goods LIMIT 5")
    assert writer.execute("SHOW own.who").fetchone() == ("maker",)
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied for watch"):
        reader.execute("SELECT * FROM pgrain.provenance('w')")
    shop.execute("GRANT SELECT ON goods TO reader")
    assert reader.execute("SELECT * FROM pgrain.provenance('w')").fetchall()
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied for watch"):
        reader.execute("SELECT * FROM pgrain.provenance('v')")     # calls a function of maker's
    shop.execute("REVOKE SELECT ON goods FROM maker")
    with pytest.raises(errors.InsufficientPrivilege):
        maker.execute("SELECT * FROM pgrain.provenance('w')")
    for name in ("w", "v"):
        with pytest.raises(psycopg.Error):
            reader.execute("SELECT pgrain.unwatch(%s)", [name])
        maker.execute("SELECT pgrain.unwatch(%s)", [name])
    shop.execute("DROP TABLE goods; DROP SCHEMA own CASCADE")


def test_nobody_writes_states_or_others_notes(shop, as_role):
    """A state would be a vector of the caller's choice, a way to read projections."""
    watch(shop, "w", COUNT.format("stock"))
    other = as_role(shop, "other", "admin")
    for statement in ("UPDATE pgrain.watch_cell SET data = ''", "DELETE FROM pgrain.watch_note",
                      "UPDATE pgrain.watch_state SET generation = 1",
                      "UPDATE pgrain.watch SET note_new = 'SELECT 1'",
                      "SELECT pgrain._watch_1_build()"):
        with pytest.raises((errors.InsufficientPrivilege, errors.UndefinedFunction)):
            other.execute(statement)
    assert other.execute("DELETE FROM pgrain.watch").rowcount == 0
    with pytest.raises(errors.InsufficientPrivilege):
        other.execute("INSERT INTO pgrain.watch (name, query, owner, settings, model, fact, tables,"
                      " functions, plain, note_new, note_old, shape) SELECT 'mine', query, "
                      "'postgres', settings, model, fact, tables, functions, plain, note_new, "
                      "note_old, shape FROM pgrain.watch")
    number = shop.value("SELECT watch FROM pgrain.watch")
    with pytest.raises(errors.InsufficientPrivilege):
        other.execute("SELECT pgrain._build_watch(%s)", [number])
    shop.execute("SELECT pgrain.unwatch('w')")


@pytest.mark.parametrize("query, message", [
    ("SELECT id FROM stock WHERE pgrain.predict('colour', x) = 'red'", "without aggregation"),
    ("SELECT count(*) AS n FROM stock WHERE pgrain.predict('colour', x) = 'red' "
     "AND id IN (SELECT id FROM items)", "cannot be watched"),
    ("SELECT count(*) AS n FROM stock a, stock b WHERE a.id = b.id "
     "AND pgrain.predict('colour', a.x) = 'red'", "join of a table with itself"),
    ("SELECT count(*) AS n FROM stock a, items b WHERE pgrain.predict('colour', a.x) = b.claim",
     "predictions with columns"),
    ("SELECT count(*) AS n FROM stock WHERE pgrain.predict('colour', x) = 'red' "
     "AND now() > '2000-01-01'", "now"),
    ("SELECT count(*) AS n FROM stock WHERE pgrain.predict('colour', x) = 'red' "
     "AND current_date > '2000-01-01'", "current_date"),
    ("SELECT count(*) AS n FROM stock WHERE pgrain.predict('colour', x) = 'red' GROUP BY hour",
     "not selected"),
    ("SELECT hour, count(*) AS n FROM stock WHERE pgrain.predict('colour', x) = 'red' "
     "GROUP BY hour HAVING count(*) > 2", "cannot be watched(.|\\n)*Here: HAVING. Line 1, column"),
    ("SELECT max(hour) AS n FROM stock WHERE pgrain.predict('colour', x) = 'red'",
     "cannot be watched(.|\\n)*Here: the aggregate max. Line 1, column 8"),
    ("SELECT count(*) AS n FROM (SELECT * FROM stock) s WHERE pgrain.predict('colour', x) = 'red'",
     "plain table"),
    ("SELECT count(*) AS n FROM pg_temp.passing WHERE pgrain.predict('colour', x) = 'red'",
     "cannot be watched"),
    ("SELECT count(*) AS n FROM seen_stock WHERE pgrain.predict('colour', x) = 'red'",
     "cannot be watched"),
])
def test_refused_by_name(shop, query, message):
    shop.execute("CREATE OR REPLACE VIEW seen_stock AS SELECT * FROM stock")
    shop.execute("CREATE TEMPORARY TABLE IF NOT EXISTS passing AS SELECT * FROM stock")
    with pytest.raises(errors.FeatureNotSupported, match=message):
        watch(shop, "refused", query)
    assert not shop.rows("SELECT * FROM pgrain.watches")


def test_names_and_transactions(shop):
    with pytest.raises(errors.InvalidParameterValue):
        watch(shop, "select it", COUNT.format("stock"))
    with pytest.raises(errors.UndefinedObject, match='watch "nowhere" does not exist'):
        shop.execute("SELECT * FROM pgrain.complain('nowhere', 'n too high')")
    with shop.connect() as connection, connection.transaction(), \
            pytest.raises(errors.ActiveSqlTransaction):
        watch(connection, "w", COUNT.format("stock"))
    watch(shop, "w", COUNT.format("stock"))
    with pytest.raises(errors.DuplicateObject):
        watch(shop, "w", COUNT.format("stock"))
    shop.execute("SELECT pgrain.unwatch('w')")
    assert not shop.rows("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal "
                         "AND tgrelid = 'stock'::regclass")
    assert not shop.rows("SELECT proname FROM pg_proc WHERE proname ~ '^_watch_[0-9]'")


def test_who_ends_a_watch_does_not_wait_for_who_computes_it(shop):
    """Who ends it has its row and wants its tables, who computes it reads these and wants the
    row: the latter gives way."""
    watch(shop, "w", COUNT.format("stock"))
    with shop.connect() as other, other.transaction():
        other.execute("SELECT FROM pgrain.watch WHERE name = 'w' FOR UPDATE")
        shop.execute("VACUUM FULL stock")       # it is to be computed again
        deadline = time.monotonic() + 20
        while not shop.value("SELECT count(*) FROM pg_locks WHERE relation = 'stock'::regclass "
                             "AND granted"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
        other.execute("SET LOCAL lock_timeout = '3s'; LOCK TABLE stock IN ACCESS EXCLUSIVE MODE")
    current(shop, "w")
    shop.execute("SELECT pgrain.unwatch('w')")


def test_alerts(shop):
    """One notification when the condition starts to hold and one when it stops."""
    for alert, error in (("n > 5 WHERE hour = 1", errors.FeatureNotSupported),
                         ("nothing > 5", errors.UndefinedColumn),
                         ("hour > 5", errors.InvalidParameterValue),
                         (" " * 8000 + "n > 5", errors.InvalidParameterValue),
                         ("n", errors.SyntaxError)):
        with pytest.raises(error):
            watch(shop, "loud", COUNT.format("stock"), alert)
    listening = shop.connect()
    listening.execute("LISTEN pgrain_watch")
    watch(shop, "loud", COUNT.format("stock"), "n > 400")
    red = shop.value("SELECT x FROM stock WHERE pgrain.predict('colour', x) = 'red' LIMIT 1")
    for holds, statement in ((True, "INSERT INTO stock (x, claim, hour) SELECT %s, 'more', 9 "
                                    "FROM generate_series(1, 500)"),
                             (False, "DELETE FROM stock WHERE claim = 'more' AND x = %s")):
        with pytest.raises(ZeroDivisionError), shop.connection.transaction():
            shop.execute(statement, [red])
            raise ZeroDivisionError          # rolled back: nobody hears of it
        shop.execute(statement, [red])
        heard = [json.loads(n.payload) for n in listening.notifies(timeout=10, stop_after=1)]
        assert heard == [{"watch": "loud", "alert": "n > 400", "holds": holds}]
        assert shop.value("SELECT alert_holds FROM pgrain.watches") is holds
    assert not list(listening.notifies(timeout=0.5))
    shop.execute("SELECT pgrain.unwatch('loud')")


def test_partitions(shop):
    """Rows through the parent, into a partition directly, and a partition that is attached."""
    shop.execute("CREATE TABLE parts (LIKE items) PARTITION BY RANGE (hour)")
    shop.execute("CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (2)")
    shop.execute("CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (2) TO (5)")
    shop.execute("INSERT INTO parts SELECT * FROM items")
    query = COUNT.format("parts")
    watch(shop, "parts", query)
    for statement in ("INSERT INTO parts SELECT * FROM items",
                      "INSERT INTO parts_low SELECT * FROM items WHERE hour < 2",
                      "UPDATE parts SET hour = 3 WHERE hour = 0 AND id < 40",
                      "DELETE FROM parts_high WHERE id < 30"):
        shop.execute(statement)
        agree(shop, "parts", query)
    assert shop.value("SELECT current FROM pgrain.watches WHERE name = 'parts'")
    shop.execute("CREATE TABLE parts_more (LIKE parts)")
    shop.execute("INSERT INTO parts_more SELECT id, x, claim, hour + 5 FROM items")
    shop.execute("ALTER TABLE parts ATTACH PARTITION parts_more FOR VALUES FROM (5) TO (99)")
    agree(shop, "parts", query)
    current(shop, "parts")
    shop.execute("INSERT INTO parts_more SELECT id, x, claim, hour + 5 FROM items")
    agree(shop, "parts", query)
    shop.execute("TRUNCATE parts_low")
    agree(shop, "parts", query)
    current(shop, "parts")
    shop.execute("ALTER TABLE parts DETACH PARTITION parts_more")
    agree(shop, "parts", query)
    current(shop, "parts")
    shop.execute("SELECT pgrain.unwatch('parts')")
    shop.execute("DROP TABLE parts, parts_more")


def current(database, name):
    deadline = time.monotonic() + 20
    while not database.value("SELECT current FROM pgrain.watches WHERE name = %s", [name]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    agree(database, name, database.value("SELECT query FROM pgrain.watches WHERE name = %s",
                                         [name]))


def test_rows_of_columns(shop, worker):
    """A model of scalar columns, called with a row: the values travel as JSON."""
    shop.execute("CREATE TABLE mixed AS SELECT id, x[1] AS a, CASE WHEN id % 3 = 0 THEN 'u' ELSE "
                 "'it''s \"v\"' END AS b, label FROM train")
    shop.execute("SELECT pgrain.create_model('mixed', 'mixed', 'id', '{a, b}', 'label', "
                 "'logistic_regression')")
    shop.execute("CALL pgrain.train('mixed')")
    shop.execute("CALL pgrain.precompute('mixed')")
    query = ("SELECT pgrain.predict('mixed', m) = label AS hour, count(*) AS n FROM mixed m "
             "GROUP BY pgrain.predict('mixed', m) = label")
    watch(shop, "mixed", query)
    shop.execute("INSERT INTO mixed SELECT id, a + 0.25, b, label FROM mixed WHERE id % 2 = 0")
    agree(shop, "mixed", query)
    folded(shop)
    agree(shop, "mixed", query)
    shop.execute("SELECT pgrain.unwatch('mixed')")
    shop.execute("SELECT pgrain.drop_model('mixed')")


def test_dump_and_restore(shop, module_database, worker):
    """Watches come along; their states are computed again by the first worker."""
    watch(shop, "kept", COUNT.format("stock"))
    copy = shop.dumped_into(module_database(extension=False))
    # Its notes are bounded before a worker has been there, too.
    copy.execute("CREATE OR REPLACE FUNCTION pgrain._most_notes(OUT notes bigint, OUT bytes "
                 "bigint, OUT patience interval) LANGUAGE sql IMMUTABLE AS "
                 "$$ SELECT 20, 1 << 20, interval '0' $$")
    for _ in range(70):
        copy.execute("INSERT INTO stock SELECT * FROM items LIMIT 3")
    assert copy.value("SELECT count(*) FROM pgrain.watch_note") == 64
    worker(copy)
    copy.execute("INSERT INTO stock SELECT * FROM items")
    agree(copy, "kept", COUNT.format("stock"))
    current(copy, "kept")
    copy.execute("DROP EXTENSION pgrain")
    assert not copy.rows("SELECT tgname FROM pg_trigger WHERE tgname ~ 'pgrain'")
    copy.execute("INSERT INTO stock SELECT * FROM items")
    shop.execute("SELECT pgrain.unwatch('kept')")


def test_dumps_of_single_tables(shop, module_database):
    """They carry triggers: elsewhere those are errors and no more, and on another table of the
    watch's database they make no notes that count, and go."""
    watch(shop, "kept", COUNT.format("stock"))
    dump = subprocess.run([shop.cluster.server.program("pg_dump"), "-t", "stock", shop.dsn()],
                          capture_output=True, text=True, check=True).stdout
    bare = module_database(extension=False)
    for place, script in ((bare, dump), (shop, dump.replace("public.stock", "public.stock_too"))):
        done = subprocess.run([shop.cluster.server.program("psql"), "-qX", place.dsn()],
                              input=script, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    errors = [line for line in done.stderr.splitlines() if "ERROR" in line]
    assert all("already exists" in line or "multiple primary" in line for line in errors), errors
    assert bare.value("SELECT count(*) FROM stock") == shop.value("SELECT count(*) FROM stock_too")
    name = "_pgrain_watch_%"
    made = ("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'stock_too'::regclass "
            f"AND tgname LIKE '{name}'")
    shop.execute("INSERT INTO stock_too SELECT * FROM items")
    agree(shop, "kept", COUNT.format("stock"))
    deadline = time.monotonic() + 20
    while shop.value(made):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    current(shop, "kept")
    agree(shop, "kept", COUNT.format("stock"))
    shop.execute("SELECT pgrain.unwatch('kept'); DROP TABLE stock_too")


def until(what, holds, seconds=30):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_watches_outlive_their_model(shop, as_role):
    """Whoever drops a model reads which watches it leaves, others' too; they stay to be seen and
    ended, their notes do not grow, and a model of that name brings them back."""
    shop.execute("CREATE TABLE lots AS SELECT * FROM items; CREATE TABLE lesson AS TABLE train")
    keeper, dropper = as_role(shop, "keeper", "admin"), as_role(shop, "dropper", "admin")
    shop.execute("GRANT SELECT, TRIGGER, INSERT ON lots TO keeper")
    make = "SELECT pgrain.create_model('passing', 'lesson', 'id', '{x}', 'label', " \
           "'logistic_regression', '{\"alpha\": 0.5}')"
    shop.execute(make)
    shop.execute("CALL pgrain.train('passing')")
    query = "SELECT count(*) AS n FROM lots WHERE pgrain.predict('passing', x) = 'red'"
    watch(keeper, "it's kept", query)
    assert shop.value("SELECT current FROM pgrain.watches")
    said = []
    dropper.add_notice_handler(lambda notice: said.append(notice.message_primary))
    dropper.execute("SELECT pgrain.drop_model('passing')")
    assert said == ["watches of this model stay, and cannot be computed until there is a model "
                    "'passing' again; end them: SELECT pgrain.unwatch('it''s kept')"]
    seen = "SELECT name, owner, current, problem FROM pgrain.watches"
    gone = [("it's kept", "keeper", False, 'model "passing" does not exist any more')]
    assert shop.rows(seen) == gone
    ok, detail, hint = shop.rows("SELECT ok, detail, hint FROM pgrain.doctor() "
                                 "WHERE what = 'watches'")[0]
    assert not ok and "it's kept: model \"passing\" does not exist" in detail
    assert "SELECT pgrain.unwatch('it''s kept')" in hint
    shop.worker.stop()          # a worker that has the version in memory still folds into it
    shop.execute("INSERT INTO lots SELECT * FROM items WHERE id < 20")
    assert shop.value("SELECT count(*) FROM pgrain.watch_note") == 1
    shop.worker.start()
    until("notes stay", lambda: not shop.value("SELECT count(*) FROM pgrain.watch_note"))
    with pytest.raises(errors.InsufficientPrivilege):
        dropper.execute("SELECT pgrain.unwatch('it''s kept')")
    shop.execute(make)
    assert shop.rows(seen)[0][3] == 'model "passing" is not trained'
    shop.execute("CALL pgrain.train('passing')")
    until("it comes back", lambda: shop.value("SELECT current FROM pgrain.watches"), 90)
    assert shop.rows(seen) == [("it's kept", "keeper", True, None)]
    agree(shop, "it's kept", query, keys=())
    shop.execute("SELECT pgrain.drop_model('passing')")
    keeper.execute("SELECT pgrain.unwatch('it''s kept')")
    assert shop.rows("SELECT FROM pgrain.watches") == []
    assert shop.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '\\_pgrain\\_watch%'") == 0
    shop.execute("DROP TABLE lots, lesson")


def test_what_keeps_a_watch_from_being_computed(shop, as_role):
    """pgrain.watches says it, to its owner in full; doctor when it lasts; the log once."""
    reader = as_role(shop, "onlooker", "user")
    shop.execute("CREATE TABLE parcels AS SELECT *, 1 AS divisor FROM items")
    query = "SELECT sum(10 / divisor) AS n FROM parcels WHERE pgrain.predict('colour', x) = 'red'"
    watch(shop, "w", query)
    began = len(shop.worker.log.read_text())
    doctor = "SELECT ok, detail FROM pgrain.doctor() WHERE what = 'watches'"
    assert shop.rows(doctor) == [(True, "1, 1 of them current")]
    shop.execute("UPDATE parcels SET divisor = 0")
    problem = "SELECT problem FROM pgrain.watches"
    until("the problem is seen", lambda: shop.value(problem) is not None)
    assert shop.value(problem) == "division by zero"
    assert reader.execute(problem).fetchone() == ("it cannot be computed",)
    assert shop.rows(doctor)[0][0], "it has lasted a moment"
    tries = "SELECT extract(epoch FROM now() - problem_since) FROM pgrain.watches"
    time.sleep(8)           # three tries
    assert shop.value(tries) > 8
    log = shop.worker.log.read_text()[began:]
    assert log.count("watch cannot be computed") == 1 and "division by zero" in log
    assert "Traceback" not in log and "CONTEXT" not in log
    shop.execute("UPDATE pgrain.watch_problem SET since = now() - interval '61 seconds'")
    assert shop.rows(doctor) == [(False, "cannot be computed: w: division by zero")]
    shop.execute("UPDATE parcels SET divisor = 2")
    until("it is mended", lambda: shop.value("SELECT current FROM pgrain.watches"), 90)
    assert shop.rows(doctor) == [(True, "1, 1 of them current")]
    assert shop.value("SELECT count(*) FROM pgrain.watch_problem") == 0
    shop.execute("SELECT pgrain.unwatch('w')")
    shop.execute("DROP TABLE parcels")
