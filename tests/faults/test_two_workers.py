"""Several workers of one database, and workers of another version."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pgrain.cli.install import version
from pgrain.errors import NotReady, UndefinedObject
from pgrain.wire.client import Client

MODELS = 6


def test_two_workers_divide_jobs_and_double_none(database, own_worker, model_in, until):
    it = database()
    model_in(it.connection, rows=1500)
    for number in range(MODELS):
        it.execute("SELECT pgrain.create_model(%s, 'train', 'id', '{x}', 'label', 'mlp', "
                   "'{\"epochs\": 20}')", [f"m{number}"])
    workers = [own_worker(it.cluster, it.name) for _ in range(2)]
    assert it.value("SELECT count(*) FROM pgrain.workers WHERE alive") == 2
    with it.connection.transaction():
        for number in range(MODELS):
            it.execute("CALL pgrain.train(%s, wait => false)", [f"m{number}"])
    until(lambda: not it.value("SELECT count(*) FROM pgrain.progress"), "all jobs end", 120)
    assert it.rows("SELECT DISTINCT state, attempts FROM pgrain.jobs") == [("succeeded", 1)]
    assert it.value("SELECT count(DISTINCT worker) FROM pgrain.job") == 2, "one did all the work"
    assert it.rows("SELECT model, count(*) FROM pgrain.versions GROUP BY model ORDER BY model") == [
        (f"m{number}", 1) for number in range(MODELS)]

    # One dies in a job: the other takes that job up, and sessions of the dead one go to the other.
    session = it.connect()
    ask = "SELECT pgrain.predict('m0', ARRAY[{}, 2.5])"
    session.execute(ask.format(0.1))
    it.execute("CALL pgrain.train('m0', '{\"epochs\": 200}', wait => false)")
    job = it.value("SELECT max(job) FROM pgrain.jobs")
    who = until(lambda: it.value("SELECT w.pid FROM pgrain.job j JOIN pgrain.worker w USING "
                                 "(worker) WHERE job = %s AND state = 'running'", [job]),
                "somebody takes it")
    next(w for w in workers if w.pid == who).kill()
    for number in range(5):
        session.execute(ask.format(number))
        it.connect().execute(ask.format(number + 0.5))
    until(lambda: it.value("SELECT state FROM pgrain.jobs WHERE job = %s", [job]) == "succeeded",
          "the other one ends it", 120)
    assert it.value("SELECT attempts FROM pgrain.jobs WHERE job = %s", [job]) == 2
    assert it.value("SELECT count(*) FROM pgrain.versions WHERE model = 'm0'") == 2


def test_a_worker_refuses_other_versions_and_databases(small):
    with pytest.raises(NotReady, match="the extension is of version 9.9.9, the worker of"):
        Client(str(small.worker.socket), "9.9.9", small.name).call("ping", {})
    with pytest.raises(UndefinedObject, match="this worker serves database"):
        Client(str(small.worker.socket), version(), "elsewhere").call("ping", {})


def test_a_worker_of_another_version_takes_no_jobs(database, own_worker, model_in, until):
    """It stops when the extension becomes another one's, and waits until it is its own."""
    it = database()
    model_in(it.connection)
    worker = own_worker(it.cluster, it.name)
    it.execute("UPDATE pg_extension SET extversion = '9.9.9' WHERE extname = 'pgrain'")
    until(lambda: worker.pid is None, "the worker stops")
    assert "of another version now" in worker.log_tail()
    it.execute("INSERT INTO pgrain.job (kind, model) VALUES ('train', 'colour')")
    worker.start(wait=False)
    until(lambda: "run ALTER EXTENSION pgrain UPDATE" in worker.log_tail(), "it says what to do")
    time.sleep(1)
    assert it.value("SELECT state FROM pgrain.job") == "queued"
    it.execute("UPDATE pg_extension SET extversion = %s WHERE extname = 'pgrain'", [version()])
    until(lambda: it.value("SELECT state FROM pgrain.job") == "succeeded", "then it works")


def test_a_hung_worker_is_passed_over_by_new_sessions(database, own_worker, model_in, until):
    it = database()
    model_in(it.connection)
    first, second = (own_worker(it.cluster, it.name) for _ in range(2))
    it.execute("CALL pgrain.train('colour')")
    os.kill(first.pid, signal.SIGSTOP)
    try:
        until(lambda: it.value("SELECT count(*) FROM pgrain.workers WHERE alive") == 1,
              "it is noticed", 30)
        session = it.connect()
        session.execute("SET statement_timeout = '5s'")
        assert session.execute("SELECT pgrain.predict('colour', ARRAY[3.25, 1])").fetchone()[0]
    finally:
        os.kill(first.pid, signal.SIGCONT)
