"""A log that cannot be written any more (its disk is full, its reader has gone) ends nothing."""

from __future__ import annotations

import subprocess

import pytest

from pgrain.cli.background import WorkerProcess


@pytest.fixture
def unheard(database):
    """(database, a worker of it whose log nobody reads any more)."""
    it = database()
    worker = subprocess.Popen(
        WorkerProcess(it.cluster, it.name, name=it.name).command, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, umask=0o007,
        cwd="/")
    for line in worker.stderr:
        if b"worker ready" in line:
            break
    worker.stderr.close()
    yield it, worker
    worker.kill()
    worker.wait(10)


def test_a_worker_that_nobody_hears(unheard, model_in, queries, until):
    it, worker = unheard
    it.execute("SET statement_timeout = '90s'")
    model_in(it.connection)
    for procedure in ("train('colour')", "precompute('colour')", "attach('colour', 'items')"):
        it.execute(f"CALL pgrain.{procedure}")
    expected = it.rows(queries["complain"])
    assert expected
    # What it says now it says of lost connections and of a job that fails.
    it.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
               "WHERE application_name LIKE 'pgrain worker%' AND datname = current_database()")
    it.execute("ALTER TABLE train RENAME label TO other")
    with pytest.raises(Exception, match="has no column"):
        it.execute("CALL pgrain.train('colour')")
    it.execute("ALTER TABLE train RENAME other TO label")
    it.execute("INSERT INTO items SELECT id + 1000, ARRAY[x[1] + 0.5, x[2]], hour FROM items")
    until(lambda: it.value("SELECT stored_values = (SELECT count(DISTINCT x) FROM items) "
                           "FROM pgrain.attached"), "new values are stored", 60)
    it.execute("CALL pgrain.train('colour')")
    it.execute("CALL pgrain.precompute('colour')")
    assert len(it.rows(queries["complain"])) == len(expected)
    assert worker.poll() is None
    worker.terminate()
    assert worker.wait(20) == 0
