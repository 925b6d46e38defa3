"""A worker that hangs (SIGSTOP): whoever waits for it can be stopped, by a timeout, a cancel or by
leaving, and has a usable session afterwards. Also: what arbitrary requests do to a worker."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time

import psycopg
import pytest

from pgrain.cli.install import version
from pgrain.errors import PgrainError
from pgrain.settings import CONNECT_SECONDS
from pgrain.wire.client import Client

REPORT = "SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'red'"
STORED = "SELECT count(*) FROM items WHERE pgrain.predict('colour', x) = 'red'"
# Every function and procedure that speaks with the worker, or waits for a job of its.
CALLS = {
    "predict": "SELECT pgrain.predict('colour', ARRAY[random(), 4.5])",
    "predict_proba": "SELECT pgrain.predict_proba('colour', ARRAY[random(), 4.5])",
    "predict_batch": "SELECT * FROM pgrain.predict_batch('colour', 'SELECT id, ARRAY[random(), "
                     "4.5] FROM items')",
    "complain": f"SELECT * FROM pgrain.complain($q${REPORT}$q$, 'n too high')",
    "complain about a watch": "SELECT * FROM pgrain.complain('standing', 'n too high')",
    "provenance": f"SELECT * FROM pgrain.provenance($q${REPORT}$q$)",
    "explain": f"SELECT * FROM pgrain.explain($q${REPORT}$q$)",
    "complaint_vector": f"SELECT pgrain.complaint_vector($q${REPORT}$q$, 'n too high')",
    "rank": "SELECT * FROM pgrain.rank('colour', (SELECT v FROM vectors))",
    "plan_repair": f"SELECT * FROM pgrain.plan_repair($q${REPORT}$q$, 'n <= 1')",
    "assess": f"SELECT * FROM pgrain.assess($q${REPORT}$q$, 'n too high')",
    "describe": "SELECT * FROM pgrain.describe('colour', '{1,2,3}')",
    "cluster": "SELECT pgrain.cluster('colour', '1')",
    "resembles": "SELECT pgrain.resembles('colour', '1')",
    "forget": "SELECT pgrain.forget('colour', '{99999}')",
    "create_intervention": "SELECT pgrain.create_intervention('colour', 'clipped', "
                           "library => 'clip')",
    "doctor": "SELECT * FROM pgrain.doctor()",
    "train": "CALL pgrain.train('colour')",
    "import_weights": "CALL pgrain.import_weights('colour', 'abcdefghijk')",
    "precompute": "CALL pgrain.precompute('colour')",
    "attach": "CALL pgrain.attach('colour', 'items')",
    "watch": f"CALL pgrain.watch('another', $q${REPORT}$q$)",
    "repair": f"CALL pgrain.repair('r', $q${REPORT}$q$, 'n <= 1')",
}


@pytest.fixture(scope="module")
def shop(small):
    small.execute(f"CALL pgrain.watch('standing', $q${REPORT}$q$)")
    small.execute(f"CREATE TABLE vectors AS SELECT pgrain.complaint_vector($q${REPORT}$q$, "
                  "'n too high') AS v")
    small.stored = small.value(STORED)
    return small


@pytest.fixture
def hung(shop):
    os.kill(shop.worker.pid, signal.SIGSTOP)
    yield shop
    os.kill(shop.worker.pid, signal.SIGCONT)


def usable(session, shop) -> bool:
    """What is stored needs no worker; the transaction can be used."""
    with session.transaction():
        session.execute("SET LOCAL statement_timeout = '20s'")
        return session.execute(STORED).fetchone()[0] == shop.stored


def test_every_call_is_listed(shop):
    """A new entry point belongs into CALLS, or among those that ask no worker."""
    alone = {"activate", "alter_model", "apply", "brightness", "cancel", "contrast", "create_model",
             "detach", "drop_intervention", "drop_model", "edits_sql", "grant_usage",
             "protect_keys", "revert", "unwatch"}
    found = {name for (name,) in shop.rows(
        "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pgrain'::regnamespace "
        "AND proname NOT LIKE '\\_%%'")}
    assert found == alone | {name for name in CALLS if " " not in name}


def test_a_timeout_ends_every_wait(hung):
    """One after another: after the first the session has no connection to the worker any more, and
    waits for the handshake of a new one."""
    session, slow = hung.connect(), {}
    session.execute("SET statement_timeout = '200ms'")
    for name, call in CALLS.items():
        started = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled) as caught:
            session.execute(call).fetchall()
        slow[name] = time.monotonic() - started
        assert caught.value.diag.message_primary.startswith("pgrain: "), name
        assert usable(session, hung), name
    assert max(slow.values()) < 5, slow
    # Jobs that nobody has taken are taken back.
    assert hung.rows("SELECT kind FROM pgrain.progress") == []


def test_a_cancel_ends_the_wait_for_an_answer(shop):
    """As the timeout, where the session is connected and has asked already."""
    session = shop.connect()
    for name in ("predict", "complain", "describe", "train"):
        session.execute(CALLS["predict"])
        os.kill(shop.worker.pid, signal.SIGSTOP)
        try:
            timer = threading.Timer(0.3, session.cancel)
            timer.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                session.execute(CALLS[name]).fetchall()
            timer.join()
            assert usable(session, shop)
        finally:
            os.kill(shop.worker.pid, signal.SIGCONT)
    assert session.execute(CALLS["complain"]).fetchall()


def test_no_wait_is_without_end(hung):
    """Without any timeout a session that is not connected gives up by itself; a lock_timeout is
    about locks and changes nothing; views that show workers wait for none."""
    session = hung.connect()
    session.execute("SET lock_timeout = '100ms'")
    started = time.monotonic()
    with pytest.raises(psycopg.OperationalError) as caught:
        session.execute(CALLS["complain"])
    assert caught.value.sqlstate == "08006"
    assert time.monotonic() - started < CONNECT_SECONDS.default + 10
    started = time.monotonic()
    for view in ("workers", "models", "jobs", "progress", "attached", "watches", "staleness",
                 "sizes", "versions", "edits", "settings"):
        session.execute(f"SELECT * FROM pgrain.{view}").fetchall()
    assert time.monotonic() - started < 5
    assert usable(session, hung)


def test_a_client_that_leaves_while_the_worker_hangs(hung, until):
    """PostgreSQL notices that the client has gone (client_connection_check_interval), and so do
    we."""
    client = subprocess.Popen(
        [hung.cluster.server.program("psql"), "-qX", hung.dsn(), "-c",
         "SET client_connection_check_interval = '100ms'", "-c", CALLS["complain"]],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waiting = ("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT * FROM "
               "pgrain.complain%%' AND state = 'active' AND pid <> pg_backend_pid()")
    until(lambda: hung.value(waiting), "it waits", 20)
    client.kill()
    client.wait()
    until(lambda: not hung.value(waiting), "the backend leaves", 4)


def test_arbitrary_requests(shop):
    """Any method with any parameters gets an answer or an error, and the worker lives on."""
    rng = random.Random(int(os.environ.get("PGRAIN_TEST_SEED", "8")))
    methods = ["ping", "predict", "plan", "evaluate", "learn", "supply", "verify", "match", "rank",
               "cells", "render", "vector", "rank_vector", "describe", "landmarks", "watch_plan",
               "watch_build", "watch_read", "check_repair", "repair_values", "plan_repair",
               "holds", "assess", "forget", "", "_ping", "__class__", "x" * 1000]
    names = ["version", "kind", "query", "explain", "probes", "models", "plan", "rows", "stamps",
             "evaluation", "complaint", "complaints", "options", "top_k", "intervention", "keys",
             "model", "path", "role", "columns", "step", "watch", "matches", "spectrum", "by",
             "values"]

    def anything(depth: int = 0):
        if depth < 3 and rng.random() < 0.4:
            return ([anything(depth + 1) for _ in range(rng.randrange(4))] if rng.random() < 0.5
                    else {rng.choice(names): anything(depth + 1) for _ in range(rng.randrange(4))})
        return rng.choice([None, True, 0, 1, -1, 2**63, 1.5, "", "colour", "delete", "\0", "é" * 50,
                           "SELECT 1", REPORT])
    pid, client = shop.worker.pid, Client(str(shop.worker.socket), version(), shop.name)
    outcomes = {}
    for number in range(300):
        method = methods[number % len(methods)]
        parameters = {name: anything() for name in rng.sample(names, rng.randrange(8))}
        blobs = [rng.randbytes(rng.randrange(40)) for _ in range(rng.randrange(3))]
        try:
            client.call(method, parameters, blobs, timeout=20)
            outcome = "answered"
        except PgrainError as error:
            outcome = error.sqlstate
            assert not getattr(error, "timed_out", False), (method, parameters)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert set(outcomes) > {"answered", "08P01"}, outcomes
    assert shop.worker.pid == pid
    assert shop.connect().execute(CALLS["complain"]).fetchall()
