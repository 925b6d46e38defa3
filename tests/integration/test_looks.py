"""What a worker finds by looking at users' tables: training rows beside those that a version
learned (pgrain.staleness), attached relations that cannot be read (pgrain.attached, doctor)."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from psycopg import sql

from pgrain.store.database import Shared, connect
from pgrain.worker import catch_up, training_look

COUNTS = "SELECT new_rows, gone_rows, changed_rows FROM pgrain.staleness WHERE model = 'colour'"
PROBLEM = "SELECT problem FROM pgrain.staleness WHERE model = 'colour'"


@pytest.fixture
def look(small):
    """`look()`: the worker's look at training tables, now, in this process."""
    with connect(small.dsn()) as connection:
        it = training_look.TrainingLook(lambda: connection, Shared(lambda: connection))

        def once() -> None:
            it.sweep(connection)
            it._due, it._rests = set(it._seen), {}      # the counters come when they come
            while it.step(connection):
                pass
        yield once


@pytest.fixture
def check(small):
    """`check()`: the worker's look at attached relations, and at these as if it were their time."""
    with connect(small.dsn()) as connection:
        it = catch_up.CatchUp(lambda: connection, Shared(lambda: connection))

        def once(*relations: int) -> None:
            it._sweep(connection)
            it._rests.clear()
            it._dirty.update(relations)
            while it.step(connection):
                pass
        yield once


def doctor(database, what: str) -> list[tuple]:
    return database.rows("SELECT ok, detail, hint FROM pgrain.doctor() WHERE what = %s", [what])


def test_rows_that_are_new_gone_or_changed(small, look):
    assert small.rows(COUNTS) == [(0, 0, 0)] and small.value(PROBLEM) is None
    began = small.value("SELECT looked_at FROM pgrain.staleness")
    look()
    assert small.rows(COUNTS) == [(0, 0, 0)]
    assert small.value("SELECT looked_at FROM pgrain.staleness") > began
    small.execute("INSERT INTO train VALUES (900, '{1, 1}', 'red'), (901, '{1, 2}', 'red'), "
                  "(902, NULL, 'red')")      # (rows without a feature are never learned)
    small.execute("UPDATE train SET x = ARRAY[x[1] + 1, x[2]] WHERE id IN (5, 6)")
    small.execute("UPDATE train SET label = 'mauve' WHERE id IN (6, 8)")
    small.execute("UPDATE train SET x = x WHERE id > 200")
    small.execute("DELETE FROM train WHERE id = 7")
    assert small.rows(COUNTS) == [(0, 0, 0)], "as of looked_at"
    look()
    assert small.rows(COUNTS) == [(2, 1, 3)]
    assert small.rows("SELECT stale, problem, hint FROM pgrain.staleness") == [
        (True, "training rows since it was trained: 2 new, 1 gone, 3 changed",
         "CALL pgrain.train('colour')")]
    [(ok, detail, _)] = doctor(small, "model colour")
    assert ok and "2 new, 1 gone, 3 changed" in detail

    small.execute("SELECT pgrain.apply('colour', '{900, 10}', 'delete')")
    look()
    assert small.rows(COUNTS) == [(1, 1, 3)], "a row that an edit takes out is not missed"
    small.execute("SELECT pgrain.revert('colour')")
    small.execute("SELECT pgrain.forget('colour', '{11}')")
    look()
    assert small.rows(COUNTS) == [(3, 1, 3)], "who is erased and not deleted is learned again"
    small.execute("DELETE FROM train WHERE id = 11")
    look()
    assert small.rows(COUNTS) == [(2, 1, 3)], "and is not said to be gone"

    version = small.value("SELECT version FROM pgrain.models")
    small.execute("DELETE FROM train WHERE x IS NULL")
    small.execute("UPDATE train SET label = 'red' WHERE label = 'mauve'")
    small.execute("CALL pgrain.train('colour')")
    assert small.rows(COUNTS) == [(0, 0, 0)]
    small.execute("SELECT pgrain.activate('colour', %s)", [version])
    assert small.rows(COUNTS) == [(None, None, None)], "nobody has looked since"
    look()
    assert small.value(COUNTS.replace("new_rows,", "new_rows +")) == 3


def test_precompute_counts_as_well(small, look):
    small.execute("CALL pgrain.train('colour')")
    small.execute("DELETE FROM train WHERE id IN (20, 21); INSERT INTO train VALUES (903, '{3, 1}',"
                  " 'red'); UPDATE train SET label = 'red' WHERE id = 22")
    small.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
    assert small.rows(COUNTS) == [(1, 2, small.value("SELECT changed_rows - 2 FROM pgrain.models"))]


def test_a_training_table_that_cannot_be_read(small, look):
    """Says so, with what to do; what was counted before stays, with its time."""
    small.execute("CALL pgrain.train('colour')")
    before = small.rows("SELECT new_rows, looked_at FROM pgrain.staleness")
    small.execute("REVOKE SELECT ON train FROM pgrain_reader, pgrain_worker")
    look()
    assert small.rows("SELECT new_rows, looked_at FROM pgrain.staleness") == before
    problem, hint = small.rows("SELECT problem, hint FROM pgrain.staleness")[0]
    assert "cannot be read: the worker may not read public.train" in problem
    assert hint == 'GRANT SELECT ON "public"."train" TO "pgrain_reader".'
    assert doctor(small, "model colour") == [(False, problem, hint)]
    small.execute(hint.rstrip("."))
    look()
    assert "cannot be read" not in (small.value(PROBLEM) or "")
    assert "cannot be read" not in doctor(small, "model colour")[0][1]


def test_an_admin_counts_no_rows_that_he_may_not_read(small, look, as_role):
    """Pointing a model at a table makes the worker look at it for whoever does."""
    admin = as_role(small, "pointing", "admin")
    small.execute("CREATE TABLE secret AS SELECT id, x, label FROM train LIMIT 77")
    small.execute("GRANT SELECT ON secret TO pgrain_reader")
    try:
        for column in ("created_by = created_by", "created_by = 'postgres'",
                       "pointed_by = 'postgres'"):
            admin.execute(f"UPDATE pgrain.model SET training_table = 'secret', {column}")
            admin.execute(f"UPDATE pgrain.model SET {column}")
            look()
            problem = small.value(PROBLEM)
            assert 'role "pointing" may not read public.secret' in problem, column
            assert small.value("SELECT new_rows FROM pgrain.staleness") != 77
        small.execute("UPDATE pgrain.model SET training_table = 'train', pointed_by = 'postgres'")
        look()
        assert "may not read" not in (small.value(PROBLEM) or "")
    finally:
        small.execute("SELECT pgrain.alter_model('colour', 'train'); DROP TABLE secret")


BROKEN = {
    "no SELECT for the worker": (
        "REVOKE SELECT ON {} FROM pgrain_reader, pgrain_worker", "may not read",
        "GRANT SELECT", "GRANT SELECT ON {} TO pgrain_reader"),
    "a column is gone": ("ALTER TABLE {} RENAME x TO y", 'has no column "x" any more', "features",
                         "ALTER TABLE {} RENAME y TO x"),
    "row security": ("ALTER TABLE {} ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON {} USING (true)",
                     "row", "", "ALTER TABLE {} DISABLE ROW LEVEL SECURITY"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_attached_relation_that_cannot_be_read(small, check, name):
    """doctor names it, with the fix; `pgrain doctor` says the same; both forget it when it is
    mended."""
    breaks, problem, hint, mends = BROKEN[name]
    small.execute("CREATE TABLE goods AS SELECT * FROM items WHERE x IS NOT NULL")
    small.execute("CALL pgrain.attach('colour', 'goods')")
    check()
    assert doctor(small, "attached goods") == []
    small.execute(breaks.format("goods", "goods"))
    check()
    [(ok, detail, fix)] = doctor(small, "attached goods")
    assert not ok and problem in detail and hint in fix
    assert "pgrain.detach('colour', 'goods')" in fix
    since = small.value("SELECT problem_since FROM pgrain.attached WHERE problem IS NOT NULL")
    said = subprocess.run([sys.executable, "-m", "pgrain.cli.main", "doctor", "--dsn",
                           small.dsn()], capture_output=True, text=True)
    assert said.returncode == 1 and f"FAIL  attached goods: {detail}" in said.stdout, said
    check()
    assert small.value("SELECT problem_since FROM pgrain.attached WHERE problem IS NOT NULL"
                       ) == since
    small.execute(mends.format("goods"))
    check()
    assert doctor(small, "attached goods") == []
    small.execute("DROP TABLE goods")
    check()


def test_a_transaction_that_goes_on_holds_up_its_own_model_alone(small):
    """Whoever has a row of pgrain's that the worker needs for a model, and does not commit."""
    small.execute("CREATE TABLE one AS SELECT * FROM items WHERE x IS NOT NULL; "
                  "CREATE TABLE other AS SELECT * FROM one")
    small.execute("SELECT pgrain.create_model('second', 'train', 'id', '{x}', 'label', "
                  "'logistic_regression')")
    small.execute("CALL pgrain.train('second')")
    for model, relation in (("colour", "one"), ("second", "other")):
        small.execute("CALL pgrain.attach(%s, %s)", [model, relation])
    stored = "SELECT stored_values FROM pgrain.attached WHERE relation = %s::regclass"
    before = small.value(stored, ["other"])
    with small.connect() as undecided:
        with pytest.raises(ZeroDivisionError), undecided.transaction():
            undecided.execute("SELECT FROM pgrain.model_version WHERE model = 'colour' FOR UPDATE")
            small.execute("INSERT INTO one (id, x) VALUES (-1, '{71,7}')")
            time.sleep(2)       # until the worker waits for it
            small.execute("INSERT INTO other (id, x) VALUES (-1, '{71,7}')")
            deadline = time.monotonic() + 40
            while small.value(stored, ["other"]) != before + 1:
                assert time.monotonic() < deadline, "all others wait, too"
                time.sleep(0.2)
            assert small.value(stored, ["one"]) == before
            raise ZeroDivisionError
    deadline = time.monotonic() + 40
    while small.value(stored, ["one"]) != before + 1:
        assert time.monotonic() < deadline, "it is caught up with when that has ended"
        time.sleep(0.2)
    assert doctor(small, "attached one") == []
    small.execute("SELECT pgrain.drop_model('second')")
    small.execute("DROP TABLE one, other")


def test_a_foreign_table_whose_server_is_away(small, check, module_database):
    if not small.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'"):
        pytest.skip("postgres_fdw is not installed")
    other = module_database(extension=False)
    other.execute("CREATE TABLE far (x float8[]); INSERT INTO far VALUES ('{1,2}'), ('{3,4}')")
    info = other.connection.info
    small.execute("CREATE EXTENSION postgres_fdw")
    small.execute(sql.SQL("CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host {}, "
                          "port {}, dbname {})").format(info.host, str(info.port), info.dbname))
    small.execute(sql.SQL("CREATE USER MAPPING FOR PUBLIC SERVER other OPTIONS (user {}, "
                          "password_required 'false')").format(info.user))
    small.execute("CREATE FOREIGN TABLE far (x float8[]) SERVER other")
    small.execute("CALL pgrain.attach('colour', 'far')")
    check()
    assert doctor(small, "attached far") == []
    small.execute("ALTER SERVER other OPTIONS (SET port '1')")
    check(small.value("SELECT 'far'::regclass::oid::bigint"))
    [(ok, detail, fix)] = doctor(small, "attached far")
    assert not ok and "could not connect to server" in detail and "pgrain.detach" in fix
    small.execute(sql.SQL("ALTER SERVER other OPTIONS (SET port {})").format(str(info.port)))
    check()
    assert doctor(small, "attached far") == []
    small.execute("DROP FOREIGN TABLE far")


def test_the_worker_looks_by_itself(small):
    """Within a minute or so, without a job and without a hint."""
    small.execute("CALL pgrain.train('colour')")
    small.execute("INSERT INTO train VALUES (904, '{5, 1}', 'red')")
    small.execute("CREATE TABLE shut AS SELECT * FROM items WHERE x IS NOT NULL")
    small.execute("CALL pgrain.attach('colour', 'shut')")
    small.execute("REVOKE SELECT ON shut FROM pgrain_reader, pgrain_worker")
    small.connection.close()        # its counters are reported when it ends, at the latest
    deadline = time.monotonic() + 150
    while not (small.rows(COUNTS) == [(1, 0, 0)] and doctor(small, "attached shut")):
        assert time.monotonic() < deadline, (small.rows(COUNTS), doctor(small, "attached shut"))
        time.sleep(1)
