"""Any interleaving of changes from several sessions, rollbacks, crashes: a watch equals its query.

The dumber thing beside it is the query itself, computed from scratch in the same snapshot.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

import psycopg
import pytest
from psycopg import errors
from watch_checks import CONFLICTS, agree, agree_in, folded, until_current, wander

JOINED = """SELECT h.name, pgrain.predict('colour', s.x) AS label, count(*) AS n,
 count(*) FILTER (WHERE pgrain.predict('colour', s.x) = s.claim) AS same, sum(s.weight) AS total
 FROM stock AS s JOIN hours AS h ON h.hour = s.hour WHERE s.weight > 1
 GROUP BY h.name, pgrain.predict('colour', s.x)"""
GROUPED = """SELECT hour, count(*) AS n, sum(weight) AS total, avg(weight) AS mean
 FROM stock WHERE pgrain.predict('colour', x) <> claim GROUP BY hour"""
ONE = "SELECT count(*) AS n FROM stock WHERE pgrain.predict('colour', x) = 'red'"
WATCHES = {"joined": JOINED, "grouped": GROUPED, "one": ONE}


@pytest.fixture(scope="module")
def shop(small):
    small.execute("CREATE TABLE stock (id serial PRIMARY KEY, x float8[], claim text, hour integer,"
                  " weight numeric)")
    small.execute("CREATE TABLE hours (hour integer PRIMARY KEY, name text)")
    small.execute("INSERT INTO hours SELECT i, 'h' || i / 2 FROM generate_series(0, 7) AS i")
    small.execute("INSERT INTO stock (x, claim, hour, weight) SELECT x, claim, hour, id % 7 "
                  "FROM items")
    for name, query in WATCHES.items():
        small.execute("CALL pgrain.watch(%s, %s)", [name, query])
    return small


def all_agree(database):
    for name, query in WATCHES.items():
        agree(database, name, query, keys=("hour", "name", "label"))


def change(rng: random.Random, connection) -> None:
    """One statement that inserts, updates or deletes some rows."""
    kind = rng.choice(["insert", "insert", "update", "delete", "copy", "upsert", "both"])
    a, b = rng.randrange(60), rng.randrange(1, 9)
    if kind == "insert":
        connection.execute(
            "INSERT INTO stock (x, claim, hour, weight) SELECT CASE WHEN i %% 9 > 0 THEN "
            "ARRAY[(i + %s) / 7.0, -i / 5.0] END, (ARRAY['red','green','blue'])[1 + i %% 3], "
            "nullif(i %% 8, 7), i / 3.0 FROM generate_series(%s::int, %s::int) AS i",
            [a, a, a + b])
    elif kind == "update":
        connection.execute("UPDATE stock SET hour = (hour + 1) %% 8, weight = weight + 0.5, "
                           "x = CASE WHEN id %% 2 = 0 OR x IS NULL THEN x "
                           "ELSE ARRAY[x[2], x[1]] END "
                           "WHERE id %% 60 BETWEEN %s AND %s", [a, a + b])
    elif kind == "delete":
        connection.execute("DELETE FROM stock WHERE id %% 60 BETWEEN %s AND %s", [a, a + b // 3])
    elif kind == "copy":
        with connection.cursor().copy("COPY stock (x, claim, hour, weight) FROM STDIN") as copy:
            for i in range(b):
                copy.write_row([[i / 3.0, a / 9.0], "red", i % 8, i])
    elif kind == "upsert":
        connection.execute("INSERT INTO stock (id, x, claim, hour, weight) "
                           "SELECT i, '{1,2}', 'blue', 3, 2 FROM generate_series(%s::int, %s::int) "
                           "AS i ON CONFLICT (id) DO UPDATE SET claim = 'blue'", [a, a + b])
    else:
        connection.execute("WITH gone AS (DELETE FROM stock WHERE id %% 60 = %s RETURNING *) "
                           "INSERT INTO stock (x, claim, hour, weight) "
                           "SELECT x, claim, hour, weight + 1 FROM gone", [a])


@pytest.fixture
def stack():
    with contextlib.ExitStack() as opened:
        yield opened


@pytest.fixture
def crowded(shop):
    """`crowded(notes)`: of a watch so many notes may wait, and each note is counted."""
    whole = [shop.value("SELECT pg_get_functiondef('pgrain._most_notes'::regproc)"),
             "DROP TRIGGER count_notes ON pgrain.watch_note",
             shop.value("SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = "
                        "'count_notes'")]

    def crowd(notes: int, size: int = 1 << 20) -> None:
        shop.execute(f"CREATE OR REPLACE FUNCTION pgrain._most_notes(OUT notes bigint, OUT bytes "
                     f"bigint, OUT patience interval) LANGUAGE sql IMMUTABLE AS "
                     f"$$ SELECT {notes}, {size}, interval '0' $$")
        shop.execute("DROP TRIGGER count_notes ON pgrain.watch_note")
        shop.execute("CREATE TRIGGER count_notes AFTER INSERT ON pgrain.watch_note FOR EACH ROW "
                     "EXECUTE FUNCTION pgrain._count_notes()")
    yield crowd
    for statement in whole:
        shop.execute(statement)


@pytest.mark.parametrize(("seed", "most"), [(0, None), (1, None), (2, None), (3, 1), (4, 2),
                                            (5, 3)])
def test_interleaved_changes(shop, seed, most, crowded, stack):
    """Four sessions with open transactions, savepoints, rollbacks and commits in any order; the
    worker is killed and started while they go on. Where `most` notes may wait, most changes leave
    none, in snapshots of every kind."""
    rng = random.Random(seed)
    sessions = [stack.enter_context(contextlib.closing(psycopg.connect(shop.dsn())))
                for _ in range(4)]
    if most is not None:
        crowded(most)
        sessions[0].isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        sessions[1].isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    for session in sessions:
        session.execute("SET lock_timeout = '100ms'")
        session.commit()
    for step in range(48):
        session = rng.choice(sessions)
        wander(rng, session, change, (*CONFLICTS, errors.UniqueViolation,
                                      errors.SerializationFailure))
        if step == 20:
            shop.worker.kill()
            shop.worker.start()
        if step % 6 == 5:
            all_agree(shop)
    for session in sessions:
        session.commit() if rng.random() < 0.7 else session.rollback()
        session.close()
    all_agree(shop)
    folded(shop)
    until_current(shop)
    all_agree(shop)


def waiting(database, watch) -> int:
    """How many notes wait to be folded."""
    return database.execute("SELECT count(*) FROM pgrain.watch_note JOIN pgrain.watch "
                            "USING (watch) WHERE name = %s", [watch]).fetchone()[0]


def is_noted(database, watch) -> bool:
    """Whether a change would be noted."""
    return database.value("SELECT pgrain._may_note(watch) FROM pgrain.watch WHERE name = %s",
                          [watch])


def until_noted(database) -> None:
    deadline = time.monotonic() + 20
    while not all(is_noted(database, watch) for watch in WATCHES):
        assert time.monotonic() < deadline
        time.sleep(0.05)


INSERT = "INSERT INTO stock (x, claim, hour, weight) VALUES ('{1,2}', 'red', 3, 5)"


def test_notes_are_bounded_without_a_worker(shop, crowded):
    """Past the limit nothing more is noted; the worker computes the state again, but not while
    somebody who saw that and left no note is under way."""
    until_current(shop)
    shop.worker.kill()
    crowded(20)
    for _ in range(100):
        shop.execute(INSERT)
    shop.execute("UPDATE hours SET name = name || '+'")     # so do the other tables
    for watch in WATCHES:
        assert waiting(shop, watch) == 21 and not is_noted(shop, watch)
    with psycopg.connect(shop.dsn()) as under_way, psycopg.connect(shop.dsn()) as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM stock")
        under_way.execute(INSERT)
        assert waiting(under_way, "one") == 21
        under_way.execute("UPDATE hours SET name = name || '-'")
        shop.worker.start()
        until_noted(shop)
        shop.execute(INSERT)
        all_agree(shop)
        waits = "SELECT bool_and(draining) FROM pgrain.watch_state"
        time.sleep(1)
        assert shop.value(waits) and not shop.value("SELECT bool_or(current) FROM pgrain.watches")
        under_way.execute("PREPARE TRANSACTION 'under way'")
        time.sleep(1)
        assert shop.value(waits)
        all_agree(shop)
        shop.execute("COMMIT PREPARED 'under way'")
        all_agree(shop)
        until_current(shop)
        all_agree(shop)
        # One whose snapshot is from when nothing was noted.
        old.execute(INSERT)
        old.commit()
    all_agree(shop)
    until_current(shop)
    all_agree(shop)


@pytest.mark.parametrize("isolation", ["REPEATABLE_READ", "SERIALIZABLE"])
def test_notes_of_long_snapshots_are_bounded_too(shop, crowded, isolation):
    """Two sessions in each other's way as little as without a watch: none fails for what the other
    notes. The worker waits for the one whose snapshot and change are from before it came back."""
    until_current(shop)
    shop.worker.kill()
    shop.execute("VACUUM FULL pgrain.watch_note")
    crowded(20)
    with psycopg.connect(shop.dsn()) as one, psycopg.connect(shop.dsn()) as other:
        for session in (one, other):
            session.isolation_level = psycopg.IsolationLevel[isolation]
        for _ in range(60):
            for session in (one, other):
                session.execute(INSERT)
                session.execute("SELECT name FROM hours WHERE hour = 3").fetchall()
            for session in (one, other):
                session.commit()
        assert not any(is_noted(shop, watch) for watch in WATCHES)
        before = [waiting(shop, watch) for watch in WATCHES]
        assert max(before) < 100
        other.execute(INSERT)
        other.commit()
        one.execute(INSERT)
        one.execute("UPDATE hours SET name = name || '/' WHERE hour = 3")
        assert [waiting(shop, watch) for watch in WATCHES] == before
        shop.worker.start()
        until_noted(shop)
        other.execute(INSERT)
        other.commit()
        time.sleep(1)
        assert shop.value("SELECT bool_and(draining) FROM pgrain.watch_state")
        all_agree(shop)
        one.execute(INSERT)         # noted, in a snapshot of when nothing was
        one.commit()
        all_agree(shop)
        until_current(shop)
        all_agree(shop)


def test_who_stops_the_notes_and_is_rolled_back(shop, crowded):
    """No note is left that could be seen, and the watch does not stay as it is."""
    until_current(shop)
    crowded(3)
    with psycopg.connect(shop.dsn()) as undone:
        for _ in range(5):
            undone.execute(INSERT)
        assert not is_noted(shop, "one")
        shop.execute(INSERT)        # nobody notes it
        assert waiting(shop, "one") == 0
        all_agree(shop)
        undone.rollback()
    all_agree(shop)
    until_current(shop)
    all_agree(shop)


def test_a_crash_of_the_server_while_nothing_is_noted(shop, crowded):
    """A commit that left no note is not there without what says so."""
    until_current(shop)
    shop.worker.kill()
    crowded(20)
    with psycopg.connect(shop.dsn(), autocommit=True) as session:
        session.execute("SET synchronous_commit = on")      # as a server of users has it
        for _ in range(30):
            session.execute(INSERT)
        rows = session.execute("SELECT count(*) FROM stock").fetchone()
        os.kill(session.info.backend_pid, signal.SIGKILL)
    shop.connection.close()
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(psycopg.OperationalError):
            assert shop.rows("SELECT count(*) FROM stock") == [rows]
            break
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert not is_noted(shop, "one")
    shop.worker.start()
    all_agree(shop)
    until_current(shop)
    all_agree(shop)


def test_a_watch_that_ends_while_it_is_read(shop):
    """What says whether its changes are noted goes with it, or when its last reader has ended."""
    left = "SELECT count(*) FROM pg_class WHERE relname = %s"
    for reading in (False, True):
        shop.execute("CALL pgrain.watch('ended', %s)", [ONE])
        number = shop.value("SELECT watch FROM pgrain.watch WHERE name = 'ended'")
        with psycopg.connect(shop.dsn()) as reader:
            if reading:
                reader.execute("SELECT * FROM pgrain.provenance('ended')")
            shop.execute("SELECT pgrain.unwatch('ended')")
            assert shop.value(left, [f"_watch_{number}_cut"]) == reading
        shop.execute("SELECT pgrain._tidy()")
        assert shop.value(left, [f"_watch_{number}_cut"]) == 0


def test_large_notes_are_bounded(shop, crowded):
    until_current(shop)
    shop.worker.kill()
    crowded(1000, 200_000)
    many = INSERT.replace("VALUES (", "SELECT ").rstrip(")") + " FROM generate_series(1, 4000)"
    for _ in range(5):
        shop.execute(many)
    assert 1 <= waiting(shop, "one") <= 2
    shop.worker.start()
    until_current(shop)
    all_agree(shop)


def test_nobody_ends_the_notes_of_another(shop, crowded, as_role):
    """Notes of a role that the watch does not belong to count for nothing."""
    until_current(shop)
    number = shop.value("SELECT watch FROM pgrain.watch WHERE name = 'one'")
    shop.execute("CREATE ROLE mallory LOGIN")
    shop.execute("GRANT USAGE ON SCHEMA pgrain TO mallory")
    shop.execute("GRANT INSERT ON pgrain.watch_note TO mallory")
    shop.worker.kill()
    crowded(5)
    with shop.connect("mallory") as mallory:
        for _ in range(11):
            mallory.execute("INSERT INTO pgrain.watch_note (watch, sign, print, snapshot, "
                            "xid) VALUES (%s, 0, '', pg_current_snapshot(), "
                            "pg_current_xact_id())", [number])
        for function in ("pgrain._note_again({})", "setval('pgrain._watch_{}_cut', 1)"):
            with pytest.raises(errors.InsufficientPrivilege):
                mallory.execute("SELECT " + function.format(number))
    assert is_noted(shop, "one")
    shop.execute(INSERT)
    assert waiting(shop, "one") == 12
    shop.worker.start()
    until_current(shop)
    all_agree(shop)
    shop.execute("DROP OWNED BY mallory; DROP ROLE mallory")


def test_a_reader_in_an_old_snapshot(shop):
    """A snapshot from before changes and their folding shows the watch as it was."""
    until_current(shop)
    with psycopg.connect(shop.dsn()) as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        before = old.execute("SELECT * FROM pgrain.provenance('grouped')").fetchall()
        shop.execute("DELETE FROM stock WHERE id % 5 = 1")
        folded(shop)
        after = old.execute("SELECT * FROM pgrain.provenance('grouped')").fetchall()
        assert after == before
        assert shop.rows("SELECT * FROM pgrain.provenance('grouped')") != before


def test_a_change_made_in_a_snapshot_older_than_the_other_table(shop):
    """Its note was computed with the old hours; it must not be added to a state of the new."""
    until_current(shop)
    with psycopg.connect(shop.dsn()) as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM stock")
        shop.execute("UPDATE hours SET name = 'moved' WHERE hour = 3")
        until_current(shop)
        old.execute("INSERT INTO stock (x, claim, hour, weight) "
                    "SELECT '{1,2}', 'red', 3, 5 FROM generate_series(1, 10)")
        old.commit()
    all_agree(shop)
    until_current(shop)
    all_agree(shop)


@pytest.mark.parametrize("statement", [
    "TRUNCATE stock", "ALTER TABLE stock ALTER hour TYPE bigint",
    "ALTER TABLE stock DISABLE TRIGGER ALL; DELETE FROM stock WHERE id % 3 = 0; "
    "ALTER TABLE stock ENABLE TRIGGER ALL",
    "SET session_replication_role = replica; DELETE FROM stock WHERE id % 3 = 1; "
    "SET session_replication_role = origin",
    "DELETE FROM hours WHERE hour = 2", "VACUUM FULL stock"])
def test_what_statement_triggers_do_not_tell(shop, statement):
    shop.execute("INSERT INTO stock (x, claim, hour, weight) SELECT x, claim, hour, 3 FROM items")
    until_current(shop)
    for part in statement.split("; "):
        shop.execute(part)
    all_agree(shop)
    until_current(shop)
    all_agree(shop)


def test_a_new_version_of_the_model(shop):
    shop.execute("INSERT INTO stock (x, claim, hour, weight) SELECT x, claim, hour, 3 FROM items")
    until_current(shop)
    before = shop.rows("SELECT value, relaxed FROM pgrain.provenance('one')")
    shop.execute("SELECT pgrain.apply('colour', (SELECT array_agg(id::text) FROM train "
                 "WHERE id <= 60), 'relabel:blue')")
    shop.execute("CALL pgrain.train('colour')")
    all_agree(shop)
    assert shop.rows("SELECT value, relaxed FROM pgrain.provenance('one')") != before
    shop.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
    until_current(shop)
    all_agree(shop)
    assert shop.rows("SELECT * FROM pgrain.complain('one', 'n too high')")


def test_a_failing_expression_never_fails_the_statement(shop):
    """1 / 0 for some rows: the query fails, the user's INSERT does not."""
    shop.execute("CALL pgrain.watch('fragile', $$ SELECT count(*) AS n FROM stock WHERE "
                 "pgrain.predict('colour', x) = 'red' AND 1 / (weight - 99) < 5 $$)")
    shop.execute("INSERT INTO stock (x, claim, hour, weight) VALUES ('{1,2}', 'red', 1, 99)")
    assert shop.value("SELECT count(*) FROM stock WHERE weight = 99") == 1
    with pytest.raises(psycopg.errors.DivisionByZero):
        shop.execute("SELECT * FROM pgrain.provenance('fragile')")
    shop.execute("DELETE FROM stock WHERE weight = 99")
    until_current(shop, 70)
    agree(shop, "fragile", "SELECT count(*) AS n FROM stock WHERE "
          "pgrain.predict('colour', x) = 'red' AND 1 / (weight - 99) < 5")
    shop.execute("SELECT pgrain.unwatch('fragile')")


def alone(database, first, count):
    """Groups with one row each, folded into the state: hours `first` and on."""
    database.execute("INSERT INTO stock (x, claim, hour, weight) SELECT ARRAY[i / 3.0, 1], 'red', "
                     "%s + i, 5 + i FROM generate_series(0, %s::int - 1) AS i", [first, count])
    folded(database)
    until_current(database)


@contextlib.contextmanager
def unfolded(database):
    """The worker answers, and folds nothing: somebody else seems to be at it."""
    with database.connect() as other, other.transaction():
        other.execute("SELECT FROM pgrain.watch_lock FOR UPDATE")
        yield


def test_rows_that_come_and_go_beside_one_that_stays(shop):
    """Notes are folded in no order: a group never seems to lose its last row, and with it its sums,
    if what was taken away came before what was added."""
    alone(shop, 100, 30)
    with unfolded(shop):
        for hour in range(100, 130):
            shop.execute("INSERT INTO stock (x, claim, hour, weight) VALUES ('{2,2}', 'red', %s, "
                         "7)", [hour])
            shop.execute("DELETE FROM stock WHERE hour = %s AND weight = 7", [hour])
        all_agree(shop)
    folded(shop)
    assert shop.value("SELECT bool_and(current) FROM pgrain.watches")
    all_agree(shop)


def test_a_row_trigger_changes_what_its_statement_adds(shop):
    """The inner statement notes the end of rows before the outer one notes their beginning."""
    alone(shop, 200, 3)
    shop.execute("CREATE FUNCTION moved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                 "UPDATE stock SET hour = hour + 10 WHERE id = NEW.id; RETURN NULL; END $$")
    shop.execute("CREATE TRIGGER moved AFTER INSERT ON stock FOR EACH ROW WHEN (NEW.claim = 'red') "
                 "EXECUTE FUNCTION moved()")
    with psycopg.connect(shop.dsn()) as unseen:
        unseen.execute("INSERT INTO stock (x, claim, hour, weight) VALUES ('{2,2}', 'red', 200, 7)")
        agree_in(unseen, "grouped", GROUPED)
    all_agree(shop)
    folded(shop)
    assert shop.value("SELECT bool_and(current) FROM pgrain.watches")
    all_agree(shop)
    shop.execute("DROP TRIGGER moved ON stock; DROP FUNCTION moved")


def test_what_a_trigger_reads(shop):
    """Triggers for each row, and those whose names come first, fire before the change is noted."""
    shop.execute("CREATE TABLE seen (trigger text, standing float8, scratch float8)")
    shop.execute(f"""CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO seen SELECT TG_NAME, (SELECT value FROM pgrain.provenance('one')), n
        FROM ({ONE}) AS scratch; RETURN NULL; END $$""")
    for name, when in (("each_row", "AFTER INSERT OR DELETE ON stock FOR EACH ROW"),
                       ('"A first"', "AFTER INSERT OR DELETE ON stock"),
                       ("zulu", "AFTER INSERT OR DELETE ON stock")):
        shop.execute(f"CREATE TRIGGER {name} {when} EXECUTE FUNCTION look()")
    shop.execute("INSERT INTO stock (x, claim, hour, weight) SELECT x, 'seen', 3, 1 FROM items "
                 "WHERE pgrain.predict('colour', x) = 'red' LIMIT 2")
    shop.execute("DELETE FROM stock WHERE claim = 'seen'")
    seen = shop.rows("SELECT * FROM seen")
    assert {row[0] for row in seen} == {"each_row", "A first", "zulu"} and len(seen) == 8
    assert len({scratch for *_, scratch in seen}) == 2
    assert all(standing == scratch for _, standing, scratch in seen), seen
    for name in ("each_row", '"A first"', "zulu"):
        shop.execute(f"DROP TRIGGER {name} ON stock")
    shop.execute("DROP FUNCTION look; DROP TABLE seen")
    all_agree(shop)


@pytest.mark.parametrize("weight", ["1e12", "1e300", "-1e15"])
def test_an_outlier_comes_and_goes(shop, weight):
    """What it leaves of rounding does not show in the sums of the rows that stay."""
    shop.execute("INSERT INTO stock (x, claim, hour, weight) SELECT ARRAY[i / 3.0, 1], 'red', 300, "
                 "0.1 FROM generate_series(1, 9) AS i")
    shop.execute("INSERT INTO stock (x, claim, hour, weight) VALUES ('{2,2}', 'blue', 300, %s)",
                 [weight])
    folded(shop)
    until_current(shop)
    all_agree(shop)
    shop.execute("DELETE FROM stock WHERE hour = 300 AND weight = %s", [weight])
    all_agree(shop)
    folded(shop)
    until_current(shop)
    all_agree(shop)
    shop.execute("DELETE FROM stock WHERE hour = 300")


@pytest.mark.parametrize("other_sign", [1, -1])
def test_outliers_go_one_after_the_other(shop, other_sign):
    """Each is no more than ten thousand times what it leaves behind."""
    shop.execute("INSERT INTO stock (x, claim, hour, weight) SELECT ARRAY[i / 3.0, 1], 'black', "
                 "300 + i %% 2, w / 3 * CASE WHEN i %% 4 > 1 AND w > 1e3 THEN %s ELSE 1 END FROM "
                 "generate_series(1, 9) AS i, unnest('{1e16,1e12,1e8,1e4,1}'::numeric[]) AS w",
                 [other_sign])
    shop.execute("UPDATE hours SET name = name")        # all is summed at once
    until_current(shop)
    for most in (1e14, 1e10, 1e6, 1e2):
        shop.execute("DELETE FROM stock WHERE hour >= 300 AND abs(weight) > %s", [most])
        if other_sign == 1 or most == 1e2:      # (large ones that cancel leave no query exact)
            all_agree(shop)
        folded(shop)
        until_current(shop)
    all_agree(shop)
    shop.execute("DELETE FROM stock WHERE hour >= 300")


def test_others_are_folded_while_one_is_computed(shop):
    """However long that takes."""
    until_current(shop)
    shop.execute("CREATE TABLE slow AS SELECT x FROM items LIMIT 3")
    shop.execute("""CREATE FUNCTION patient() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
        WHILE NOT pg_try_advisory_lock_shared(7) LOOP PERFORM pg_sleep(0.05); END LOOP;
        RETURN pg_advisory_unlock_shared(7); END $$""")
    query = "SELECT count(*) AS n FROM slow WHERE pgrain.predict('colour', x) = 'red' AND patient()"
    shop.execute("CALL pgrain.watch('slow', %s)", [query])
    built = "SELECT built_at FROM pgrain.watches WHERE name = 'slow'"
    before = shop.value(built)
    with shop.connect() as holding:
        holding.execute("SELECT pg_advisory_lock(7)")
        shop.execute("VACUUM FULL slow")
        deadline = time.monotonic() + 20
        while not shop.value("SELECT count(*) FROM pg_locks WHERE relation = 'slow'::regclass"):
            assert time.monotonic() < deadline, "nobody computes it"
            time.sleep(0.05)
        for _ in range(2):
            shop.execute(INSERT)
            folded(shop)
        assert shop.value(built) == before
    until_current(shop)
    assert shop.value(built) > before
    agree(shop, "slow", query)
    all_agree(shop)
    shop.execute("SELECT pgrain.unwatch('slow')")
    shop.execute("DROP TABLE slow; DROP FUNCTION patient")


def test_thousands_of_notes_are_folded_at_once(shop):
    """A state that stands is not computed from the table again for how many notes wait."""
    until_current(shop)
    generation = "SELECT max(generation) FROM pgrain.watch_state JOIN pgrain.watch USING (watch) "
    built = shop.rows("SELECT watch, built_at FROM pgrain.watch_state ORDER BY watch")
    with unfolded(shop):
        before = shop.value(generation + "WHERE name = 'one'")
        shop.execute("DO $$ BEGIN FOR i IN 1 .. 2100 LOOP INSERT INTO stock (x, claim, hour, "
                     "weight) VALUES (ARRAY[i % 50, 1], 'red', i % 8, 2); END LOOP; END $$")
        all_agree(shop)
    folded(shop)
    assert shop.value(generation + "WHERE name = 'one'") > before
    assert shop.rows("SELECT watch, built_at FROM pgrain.watch_state ORDER BY watch") == built
    all_agree(shop)
    shop.execute("DELETE FROM stock WHERE claim = 'red' AND weight = 2 AND x[2] = 1")
