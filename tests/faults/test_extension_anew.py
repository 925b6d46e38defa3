"""DROP EXTENSION and CREATE EXTENSION under a living worker and a living session, and another
database in the place of theirs."""

from __future__ import annotations

import time

import psycopg

PREDICT = "SELECT id, pgrain.predict('colour', x) FROM items WHERE x IS NOT NULL ORDER BY id"


def test_worker_and_sessions_find_their_way_back(small):
    session = small.connect()
    before = session.execute(PREDICT).fetchall()
    before_that = len(small.worker.log_tail(10**6))
    small.execute("DROP EXTENSION pgrain")
    time.sleep(5)       # it waits, and does not say so every second
    said = small.worker.log_tail(10**6)[before_that:]
    assert said.count("has no extension pgrain") == 1, said
    assert said.count("jobs wait for the database") <= 1, said
    small.execute("CREATE EXTENSION pgrain")
    deadline = time.monotonic() + 30
    while not small.value("SELECT count(*) FROM pgrain.workers"):
        assert time.monotonic() < deadline, "the worker has not registered again"
        time.sleep(0.1)
    # Another model of the same name; version numbers begin at 1 again.
    small.execute("CREATE TABLE other AS SELECT id, x, CASE label WHEN 'red' THEN 'green' "
                  "ELSE 'red' END AS label FROM train")
    small.execute("SELECT pgrain.create_model('colour', 'other', 'id', '{x}', 'label', "
                  "'logistic_regression')")
    small.execute("CALL pgrain.train('colour')")
    after = small.connect().execute(PREDICT).fetchall()
    assert after != before
    assert session.execute(PREDICT).fetchall() == after


def test_another_database_takes_the_place_of_a_workers(database, own_worker, model_in, until):
    """A copy of it by renaming, in which a model has another version of the same number: the worker
    knows none of those by memory."""
    it = database()
    model_in(it.connection, rows=60)
    copy, old = f"{it.name}_copy", f"{it.name}_old"
    ask = "SELECT pgrain.predict_proba('colour', ARRAY[0.125, 4.5])"      # a value that nobody has
    it.close()
    with it.cluster.connect("postgres") as admin:
        admin.execute(f"CREATE DATABASE {copy} TEMPLATE {it.name}")
        try:
            with it.cluster.connect(copy) as connection:
                connection.execute("UPDATE train SET label = CASE label WHEN 'red' THEN 'blue' "
                                   "WHEN 'blue' THEN 'green' ELSE 'red' END")
                worker = own_worker(it.cluster, copy)
                connection.execute("CALL pgrain.train('colour')")
                expected = connection.execute(ask).fetchone()
                worker.stop()
            worker = own_worker(it.cluster, it.name)
            with it.cluster.connect(it.name) as connection:
                connection.execute("CALL pgrain.train('colour')")
                assert connection.execute(ask).fetchone() != expected
            admin.execute(f"ALTER DATABASE {it.name} ALLOW_CONNECTIONS false")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                          "WHERE datname = %s", [it.name])
            admin.execute(f"ALTER DATABASE {it.name} RENAME TO {old}")
            admin.execute(f"ALTER DATABASE {copy} RENAME TO {it.name}")

            def answer():
                with it.cluster.connect(it.name) as connection:
                    try:
                        return connection.execute(ask).fetchone()
                    except psycopg.OperationalError:    # it has not registered yet
                        return None
            assert until(answer, "the worker is back") == expected
        finally:
            for name in (copy, old):
                admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
