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


def test_values_that_the_model_cannot_read_hold_nothing_up(goods):
    """They are an error for whoever asks about them, and for nobody else."""
    before = stored(goods)
    odd = ["'{1,2,3}'", "'{{1,2}}'", "'{1e300,1}'"]
    with goods.connection.transaction():
        for value in odd:
            goods.execute(f"INSERT INTO goods (x, hour) VALUES ({value}, 1)")
        goods.execute("INSERT INTO goods (x, hour) SELECT ARRAY[500 + i, 1], 1 "
                      "FROM generate_series(1, 5) AS i")
    try:
        wait_for(goods, before + 5)
        for value in odd:
            with pytest.raises(psycopg.errors.InvalidParameterValue):
                goods.execute(f"SELECT pgrain.predict('colour', x) FROM goods WHERE x = {value}")
    finally:
        goods.execute("DELETE FROM goods WHERE x IN (" + ", ".join(odd) + ")")


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


def test_chunks_are_put_together_and_dropped_values_forgotten(small):
    """Rows come and go for long: chunks stay few, predictions and complaints right, also of values
    that another relation has too."""
    from pgrain.worker.compaction import SMALL_CHUNKS
    complaint = ("SELECT * FROM pgrain.complain($$ SELECT count(*) AS reds FROM flow "
                 "WHERE pgrain.predict('colour', x) = 'red' $$, 'reds too high', 20)")
    chunks = """SELECT count(*), sum(n_values) FROM pgrain.prediction_chunk
                WHERE relation = 'flow'::regclass"""
    small.execute("CREATE TABLE flow (id serial, x float8[])")
    small.execute("CREATE TABLE shares (x float8[])")
    small.execute("CALL pgrain.attach('colour', 'flow')")
    small.execute("INSERT INTO flow (x) SELECT ARRAY[1.0 + i / 7000.0, 0.25] "
                  "FROM generate_series(1, 6000) AS i")
    small.execute("INSERT INTO shares SELECT x FROM flow WHERE id <= 50")
    small.execute("CALL pgrain.attach('colour', 'flow')")
    small.execute("CALL pgrain.attach('colour', 'shares')")       # all its values are stored
    assert small.value("SELECT count(*) FROM pgrain.prediction_chunk "
                       "WHERE relation = 'shares'::regclass") == 0
    small.rows(complaint)                                         # in the worker's memory
    before = stored_of(small, "flow")
    assert before >= 6000
    for step in range(SMALL_CHUNKS + 4):
        small.execute("INSERT INTO flow (x) SELECT ARRAY[%s + i, -1.0] "
                      "FROM generate_series(1, 5) AS i", [10.0 * (step + 1)])
        small.execute("CALL pgrain.attach('colour', 'flow')")
    count, values = small.rows(chunks)[0]
    assert count <= SMALL_CHUNKS + 3 and values >= 6000
    small.execute("DELETE FROM flow WHERE id <= 6000")
    small.execute("CALL pgrain.attach('colour', 'flow')")
    count, values = small.rows(chunks)[0]
    assert values == 5 * (SMALL_CHUNKS + 4)
    # What the other relation has is stored again, as its own.
    deadline = time.monotonic() + 30
    while small.value("SELECT coalesce(sum(n_values), 0) FROM pgrain.prediction_chunk "
                      "WHERE relation = 'shares'::regclass") != 50:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # Projections went with their chunks, and those that stay have theirs.
    assert small.value("""
        SELECT count(*) FROM pgrain.spectrum_chunk k LEFT JOIN pgrain.prediction_chunk c USING (seq)
        WHERE k.kind = 'attached' AND c.seq IS NULL""") == 0
    assert small.value("""
        SELECT count(*) FROM pgrain.prediction_chunk c JOIN pgrain.models m USING (version)
        WHERE NOT EXISTS (SELECT FROM pgrain.spectrum_chunk k
                          WHERE k.kind = 'attached' AND k.seq = c.seq)""") == 0
    # And everything is as it is without stored values.
    predictions = "SELECT id, pgrain.predict('colour', x) FROM flow ORDER BY id"
    known, ranking = small.rows(predictions), small.rows(complaint)
    small.execute("SELECT pgrain.detach('colour', 'flow')")
    with small.connect() as other:
        assert other.execute(predictions).fetchall() == known
        alone = other.execute(complaint).fetchall()
    assert [row[1] for row in alone] == [row[1] for row in ranking] and len(ranking) == 20
    assert [row[2] for row in alone] == pytest.approx([row[2] for row in ranking], rel=1e-4)


def test_hints_of_what_is_not_attached_go(small):
    """A detached partition keeps its trigger, a dropped table its hints, until the next sweep."""
    small.execute("CREATE TABLE parted (x float8[], hour int) PARTITION BY LIST (hour);"
                  "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);"
                  "CREATE TABLE passing AS SELECT x FROM items;"
                  "CREATE TABLE late AS SELECT ARRAY[i, 77.0]::float8[] AS x "
                  "FROM generate_series(1, 9) AS i")
    for table in ("parted", "passing", "late"):
        small.execute(f"CALL pgrain.attach('colour', '{table}')")
    small.execute("ALTER TABLE parted DETACH PARTITION parted_1")
    small.execute("INSERT INTO parted_1 (x, hour) VALUES ('{1,2}', 1)")
    small.execute("BEGIN; INSERT INTO passing VALUES ('{7,7}'); DROP TABLE passing; COMMIT")
    # as if the worker had stored its values just after it was detached
    small.execute("DELETE FROM pgrain.attachment WHERE relation = 'late'::regclass")
    stored = "SELECT count(*) FROM pgrain.prediction_chunk WHERE relation = 'late'::regclass"
    assert small.value(stored) == 1
    small.execute("SELECT pgrain._tidy()")
    assert small.value(stored) == 0
    assert small.value("SELECT count(*) FROM pgrain.attachment_hint WHERE relation NOT IN "
                       "(SELECT relation FROM pgrain.attachment)") == 0
    assert small.value("SELECT count(*) FROM pg_trigger WHERE tgname = '_pgrain_attached' "
                       "AND tgrelid = 'parted_1'::regclass") == 0
    small.execute("SELECT pgrain.detach('colour', 'parted'); DROP TABLE parted, parted_1, late")


def stored_of(database, relation: str) -> int:
    return database.value("SELECT stored_values FROM pgrain.attached "
                          "WHERE relation = %s::regclass", [relation])


def test_a_locked_table_keeps_nobody_but_itself_waiting(small):
    """Somebody holds an ACCESS EXCLUSIVE lock: other tables are caught up with, `train` says what
    it waits for and can be cancelled; once the lock is gone, all is done. Also through views."""
    def count(name):
        return small.value("SELECT stored_values FROM pgrain.attached "
                           "WHERE relation = %s::regclass", [name])

    def until(what, seconds=60):
        end = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < end
            time.sleep(0.1)
        return found

    def training():
        return small.rows("SELECT job, message FROM pgrain.progress WHERE kind = 'train' "
                          "AND message LIKE 'waits: %%'")

    small.execute("CREATE TABLE shut AS SELECT id, x FROM items WHERE x IS NOT NULL;"
                  "CREATE TABLE open AS SELECT * FROM shut;"
                  "CREATE VIEW through AS SELECT * FROM shut;"
                  "CREATE MATERIALIZED VIEW kept AS SELECT * FROM shut")
    for name in ("shut", "open", "through", "kept"):
        small.execute(f"CALL pgrain.attach('colour', '{name}')")
    before = {name: count(name) for name in ("shut", "open")}
    holder = small.connect()
    holder.autocommit = False
    holder.execute("LOCK TABLE shut; REFRESH MATERIALIZED VIEW kept;"
                   "INSERT INTO shut VALUES (90001, '{71, 1}')")
    small.execute("INSERT INTO pgrain.attachment_hint (relation) VALUES ('shut'::regclass)")
    try:
        small.execute("INSERT INTO open VALUES (90002, '{71, 2}')")
        until(lambda: count("open") == before["open"] + 1, 30)
        pid = holder.info.backend_pid
        assert small.rows("SELECT relation::text, locked_by FROM pgrain.attached WHERE locked_by "
                          "IS NOT NULL ORDER BY 1") == [("kept", pid), ("shut", pid)]
        said = until(lambda: [line for line in small.worker.log.read_text().splitlines()
                              if "catching up waits for a lock" in line])
        assert f"process {pid} has a lock on public.shut" in said[0]
        # Of a job: the first that it meets, whichever that is.
        small.execute("CALL pgrain.train('colour', wait => false)")
        job, message = until(training)[0]
        assert f"waits: process {pid} has a lock on " in message
        small.execute("SELECT pgrain.cancel(%s)", [job])
        until(lambda: small.value("SELECT state FROM pgrain.jobs WHERE job = %s", [job])
              == "cancelled", 20)
        small.execute("CALL pgrain.train('colour', wait => false)")
        job = until(training)[0][0]
    finally:
        holder.commit()
    until(lambda: small.value("SELECT state FROM pgrain.jobs WHERE job = %s", [job]) == "succeeded")
    until(lambda: count("shut") == before["shut"] + 1)
    assert len([line for line in small.worker.log.read_text().splitlines()
                if "catching up waits for a lock" in line and " on public.shut" in line]) <= 3


def test_hints_do_not_grow_while_no_worker_reads_them(small):
    """A hint that has waited serves for later statements; none of them is forgotten for that."""
    small.execute("CREATE TABLE busy AS SELECT id, x FROM items WHERE x IS NOT NULL")
    small.execute("CALL pgrain.attach('colour', 'busy')")

    def hints():
        return small.value("SELECT count(*) FROM pgrain.attachment_hint "
                           "WHERE relation = 'busy'::regclass")

    def add(session, n, at=[0]):  # noqa: B006
        for _ in range(n):
            at[0] += 1
            session.execute("INSERT INTO busy VALUES (%s, ARRAY[81, %s])", [90100 + at[0], at[0]])

    def until(what):
        end = time.monotonic() + 45         # the sweep would find it, too, but not before 60 s
        while not what():
            assert time.monotonic() < end
            time.sleep(0.1)

    def count():
        return small.value("SELECT stored_values FROM pgrain.attached "
                           "WHERE relation = 'busy'::regclass")

    until(lambda: hints() == 0)
    before = count()
    small.worker.stop()
    sessions = []
    try:
        add(small, 3)
        assert hints() == 3
        frozen = small.connect()            # whose snapshot is of now
        frozen.autocommit = False
        frozen.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM busy")
        small.execute("DELETE FROM pgrain.attachment_hint WHERE ctid <> (SELECT min(ctid) FROM "
                      "pgrain.attachment_hint WHERE relation = 'busy'::regclass)")
        small.execute("UPDATE pgrain.attachment_hint SET made_at = now() - interval '1 minute'")
        under_way, strict = small.connect(), small.connect()
        sessions += [frozen, under_way, strict]
        for session in (under_way, strict):
            session.autocommit = False
        strict.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        add(small, 20)
        add(under_way, 1)                   # relies on the one that is there
        assert hints() == 1
        add(strict, 1)
        strict.commit()
        assert hints() == 2
        small.execute("UPDATE pgrain.attachment_hint SET made_at = now() - interval '1 minute'")
        add(frozen, 1)                      # and its statement does not fail
        frozen.commit()
        assert hints() == 3
    except BaseException:
        small.worker.start()
        raise
    small.worker.start()
    until(lambda: count() == before + 25)   # all but the one under way
    assert hints() == 1, "what a transaction under way relies on stays"
    time.sleep(1)
    add(small, 1)
    until(lambda: count() == before + 26)
    under_way.commit()
    until(lambda: count() == before + 27)
    until(lambda: hints() == 0)
    for session in sessions:
        session.close()
