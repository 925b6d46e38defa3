"""What happens to the server: its death, its limits, and statements that are stopped."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time

import psycopg
import pytest


@pytest.fixture
def broken(own_cluster, own_worker, model_in):
    """A small cluster with few connections, a worker and a trained model."""
    cluster = own_cluster(max_connections="14", superuser_reserved_connections="2")
    cluster.ensure_database("shop")
    with cluster.connect("shop") as connection:
        worker = own_worker(cluster, "shop")
        model_in(connection, rows=600)
        connection.execute("CALL pgrain.train('colour')")
        connection.execute("CALL pgrain.precompute('colour', '{\"pairs\": 6}')")
        connection.execute("CALL pgrain.attach('colour', 'items')")
        connection.execute("CREATE ROLE ann LOGIN")
        connection.execute("SELECT pgrain.grant_usage('ann')")
        connection.execute("GRANT SELECT ON items TO ann")
    return cluster, worker


def test_the_whole_server_dies_in_the_middle_of_a_job(broken, queries, until):
    cluster, worker = broken
    with cluster.connect("shop") as session:
        report = session.execute(queries["report"]).fetchall()
        ranking = session.execute(queries["complain"]).fetchall()
        session.execute("CREATE TABLE many AS SELECT g AS id, t.x, t.label FROM train t, "
                        "generate_series(1, 30) g0, LATERAL (SELECT g0 * 1000 + t.id AS g) n")
        session.execute("SELECT pgrain.create_model('big', 'many', 'id', '{x}', 'label', 'mlp', "
                        "'{\"epochs\": 10}')")
        session.execute("CALL pgrain.train('big', wait => false)")
        until(lambda: session.execute("SELECT state = 'running' FROM pgrain.progress").fetchone(),
              "the job runs")
        time.sleep(0.3)
    cluster.kill()
    cluster.start()
    # The worker comes back by itself, and so do job and sessions; nothing is half there.
    with cluster.connect("shop") as session:
        until(lambda: session.execute("SELECT state FROM pgrain.jobs ORDER BY job DESC LIMIT 1"
                                      ).fetchone()[0] == "succeeded", "the job ends", 120)
        assert session.execute("SELECT count(*) FROM pgrain.model_version WHERE NOT ready"
                               ).fetchone()[0] == 0
        assert session.execute("SELECT count(*) FROM pgrain.versions WHERE model = 'big'"
                               ).fetchone()[0] == 1
        assert session.execute(queries["report"]).fetchall() == report
        assert session.execute(queries["complain"]).fetchall() == ranking
    assert worker.pid is not None, "the worker outlived it"


def test_a_backend_is_killed_and_postgresql_restarts_its_sessions(broken, queries, until):
    """kill -9 of one backend makes the postmaster throw out all sessions, the worker's too."""
    cluster, worker = broken
    session = cluster.connect("shop")
    ranking = session.execute(queries["complain"]).fetchall()
    os.kill(session.info.backend_pid, signal.SIGKILL)

    def again():
        with contextlib.suppress(psycopg.OperationalError), cluster.connect("shop") as fresh:
            return fresh.execute(queries["complain"]).fetchall()
    assert until(again, "complaints are answered again") == ranking
    with cluster.connect("shop") as fresh:
        until(lambda: fresh.execute("SELECT bool_or(alive) FROM pgrain.workers").fetchone()[0],
              "the worker is registered")
        fresh.execute("CALL pgrain.train('colour')")
    assert worker.pid is not None


def test_out_of_connections(broken, queries, until):
    """Sessions that are in go on; the worker that cannot get in waits, and says what for."""
    cluster, worker = broken
    session = cluster.connect("shop", "ann")
    expected = session.execute(queries["complain"]).fetchall()
    taken = []
    with pytest.raises(psycopg.OperationalError, match="connection"):
        while True:
            taken.append(cluster.connect("shop", "ann"))
    assert session.execute(queries["complain"]).fetchall() == expected
    worker.kill()
    quiet = time.monotonic()
    while time.monotonic() - quiet < 1:   # also what the dead worker's backends leave
        with contextlib.suppress(psycopg.OperationalError):
            taken.append(cluster.connect("shop", "ann"))
            quiet = time.monotonic()
        time.sleep(0.02)
    worker.start(wait=False)
    until(lambda: "worker waits" in worker.log_tail(5), "it says so")
    assert "connection" in worker.log_tail(5)
    with pytest.raises(psycopg.OperationalError) as caught:
        session.execute(queries["complain"])
    assert caught.value.sqlstate == "08006"
    assert session.execute(queries["report"]).fetchall()   # what is stored needs no worker
    for connection in taken:
        connection.close()
    until(lambda: worker.answers, "the worker comes in")

    def asked():
        with contextlib.suppress(psycopg.OperationalError):
            return session.execute(queries["complain"]).fetchall()
    assert until(asked, "complaints are answered again") == expected


@pytest.fixture
def small_disk(own_cluster):
    """A tablespace of 24 MB on a tmpfs of its own."""
    cluster = own_cluster()
    folder = cluster.place / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700,"
                           f"uid={cluster.account.uid},gid={cluster.account.gid}", "tmpfs",
                           str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield cluster, folder
    finally:
        cluster.stop("immediate")
        subprocess.run(["umount", str(folder)], check=False)


def test_a_full_disk_fails_the_job_and_nothing_else(small_disk, own_worker, model_in, queries):
    cluster, folder = small_disk
    with cluster.connect("postgres") as connection:
        connection.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        connection.execute("CREATE DATABASE shop TABLESPACE small")
    with cluster.connect("shop") as session:
        session.execute("SET client_min_messages = warning; CREATE EXTENSION pgrain CASCADE")
        own_worker(cluster, "shop")
        model_in(session, rows=300)
        session.execute("CALL pgrain.train('colour')")
        session.execute("CALL pgrain.precompute('colour', '{\"pairs\": 6}')")
        report = session.execute(queries["report"]).fetchall()
        ranking = session.execute(queries["complain"]).fetchall()
        session.execute("CREATE TABLE filler (data bytea)")
        session.execute("ALTER TABLE filler ALTER data SET STORAGE EXTERNAL")
        with contextlib.suppress(psycopg.errors.DiskFull):
            while True:
                session.execute("INSERT INTO filler VALUES (decode(repeat('00', 500000), 'hex'))")
        # A version of some megabytes cannot be stored.
        session.execute("SELECT pgrain.create_model('wide', 'train', 'id', '{x}', 'label', 'mlp', "
                        "'{\"hidden\": [600, 600], \"epochs\": 1}')")
        with pytest.raises(psycopg.errors.DiskFull) as caught:
            session.execute("CALL pgrain.train('wide')")
        # to extend a file, or to write a block of one: whichever came first
        assert re.fullmatch("pgrain: could not .*: No space left on device",
                            caught.value.diag.message_primary)
        row = session.execute("SELECT state, attempts, error_code FROM pgrain.jobs "
                              "ORDER BY job DESC LIMIT 1").fetchone()
        assert row == ("failed", 1, "53100")
        assert session.execute("SELECT count(*) FROM pgrain.versions WHERE model = 'wide' "
                               "AND (ready OR active)").fetchone()[0] == 0
        assert session.execute(queries["report"]).fetchall() == report
        assert session.execute(queries["complain"]).fetchall() == ranking
        session.execute("DROP TABLE filler")
        session.execute("CHECKPOINT")   # the space comes back with it
        session.execute("CALL pgrain.train('wide')")
        assert session.execute("SELECT count(*) FROM pgrain.versions WHERE model = 'wide' "
                               "AND active").fetchone()[0] == 1


SLOW = """CREATE FUNCTION slow(i integer) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN PERFORM pg_sleep(0.05); RETURN true; END $$"""


def test_statement_timeout_cancel_and_lock_timeout(small, queries):
    """Whatever stops a complaint, the session is as good as new."""
    small.execute(SLOW)
    slow = queries["complain"].replace("items WHERE", "items WHERE slow(id) AND")
    session = small.connect()
    small.execute("CREATE OR REPLACE VIEW pgrain_try AS SELECT 1")   # any lock to wait for
    expected = session.execute(queries["complain"]).fetchall()

    session.execute("SET statement_timeout = '400ms'")
    with pytest.raises(psycopg.errors.QueryCanceled) as caught:
        session.execute(slow)
    assert "statement timeout" in caught.value.diag.message_primary
    session.execute("RESET statement_timeout")
    assert session.execute(queries["complain"]).fetchall() == expected

    threading.Timer(0.4, session.cancel).start()
    started = time.monotonic()
    with pytest.raises(psycopg.errors.QueryCanceled):
        session.execute(slow)
    assert time.monotonic() - started < 3
    assert session.execute(queries["complain"]).fetchall() == expected

    holder = small.connect()
    holder.execute("BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
    session.execute("SET lock_timeout = '200ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable) as caught:
        session.execute(queries["complain"])
    assert caught.value.diag.message_primary.startswith("pgrain: ")
    # The worker's own wait for the same lock ends where its role's lock_timeout says.
    holder.execute("ROLLBACK")
    assert session.execute(queries["complain"]).fetchall() == expected
    small.execute("DROP VIEW pgrain_try")


def test_a_job_that_waits_for_a_lock_can_be_cancelled(small, until):
    holder = small.connect()
    holder.execute("BEGIN; LOCK TABLE train IN ACCESS EXCLUSIVE MODE")
    small.execute("CALL pgrain.train('colour', wait => false)")
    job = small.value("SELECT max(job) FROM pgrain.jobs")
    until(lambda: small.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                              " AND application_name = 'pgrain worker: jobs'"), "it waits")
    assert small.value("SELECT pgrain.cancel(%s)", [job]) is True
    until(lambda: small.value("SELECT state = 'cancelled' FROM pgrain.jobs WHERE job = %s", [job]),
          "it is cancelled while it waits", 10)
    holder.execute("ROLLBACK")
    assert small.value("SELECT pgrain.cancel(%s)", [job]) is False
    small.execute("CALL pgrain.train('colour')")


def test_cancel(small, until):
    with pytest.raises(psycopg.errors.UndefinedObject, match="job 999999 does not exist"):
        small.execute("SELECT pgrain.cancel(999999)")
    # One that is queued goes at once, also where no worker is.
    small.worker.stop()
    small.execute("INSERT INTO pgrain.job (kind, model) VALUES ('precompute', 'colour')")
    job = small.value("SELECT max(job) FROM pgrain.jobs")
    assert small.value("SELECT pgrain.cancel(%s)", [job]) is True
    assert small.value("SELECT state FROM pgrain.jobs WHERE job = %s", [job]) == "cancelled"
    small.worker.start()
    # One that runs stops at its next step; whoever waits for it is told.
    waiting = small.connect()
    caught = []

    def train():
        try:
            waiting.execute("CALL pgrain.train('slow')")
        except psycopg.Error as error:
            caught.append(error)
    small.execute("SELECT pgrain.create_model('slow', 'train', 'id', '{x}', 'label', 'mlp', "
                  "'{\"epochs\": 100000}')")
    thread = threading.Thread(target=train)
    thread.start()
    job = until(lambda: small.value("SELECT job FROM pgrain.progress WHERE state = 'running' "
                                    "AND phase = 'train'"), "it trains")
    assert small.value("SELECT pgrain.cancel(%s)", [job]) is True
    thread.join(20)
    assert caught and caught[0].sqlstate == "57014"
    assert f"job {job} was cancelled" in caught[0].diag.message_primary
    small.execute("SELECT pgrain.drop_model('slow')")


def test_a_client_that_leaves(small, until):
    """CALL train from a client that is killed: the job goes on or is cancelled, but nothing hangs
    and the worker serves others."""
    small.execute("SELECT pgrain.create_model('left', 'train', 'id', '{x}', 'label', 'mlp', "
                  "'{\"epochs\": 100000}')")
    client = subprocess.Popen([small.cluster.server.program("psql"), "-qX", small.dsn(), "-c",
                               "SET client_connection_check_interval = '100ms'", "-c",
                               "CALL pgrain.train('left')"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: small.value("SELECT count(*) FROM pgrain.progress WHERE state = 'running'"),
          "it trains")
    client.kill()
    client.wait()
    until(lambda: not small.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE "
                                  "'CALL pgrain.train(''left'')%%'"), "the backend leaves", 20)
    for (job,) in small.rows("SELECT job FROM pgrain.progress"):
        small.execute("SELECT pgrain.cancel(%s)", [job])
    until(lambda: not small.value("SELECT count(*) FROM pgrain.progress"), "the job ends", 20)
    small.execute("SELECT pgrain.drop_model('left')")


def test_a_flipped_bit_is_found(small, until):
    """In stored parameters: the version is refused with XX001, by name, and others work on."""
    version = small.value("SELECT version FROM pgrain.models WHERE model = 'colour'")
    small.execute("SELECT pgrain.create_model('other', 'train', 'id', '{x}', 'label', "
                  "'logistic_regression')")
    small.execute("CALL pgrain.train('other')")
    flip = ("UPDATE pgrain.version_chunk SET data = set_byte(data, length(data) - 3, "
            "get_byte(data, length(data) - 3) # 64) WHERE version = %s AND kind = 'parameters'")
    small.execute(flip, [version])
    small.worker.kill()
    small.worker.start()
    with pytest.raises(psycopg.Error) as caught:
        small.execute("SELECT pgrain.predict('colour', ARRAY[0.77, 0.78])")
    assert caught.value.sqlstate == "XX001"
    assert f"version {version}" in str(caught.value)
    assert small.value("SELECT pgrain.predict('other', ARRAY[0.77, 0.78])")
    small.execute(flip, [version])
    assert small.value("SELECT pgrain.predict('colour', ARRAY[0.77, 0.78])")
    small.execute("SELECT pgrain.drop_model('other')")


