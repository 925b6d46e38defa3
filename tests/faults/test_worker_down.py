"""Without its worker a database keeps what is stored, and says how to get the rest back."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psycopg
import pytest

REPORT = ("SELECT hour, count(*) AS flagged FROM items "
          "WHERE pgrain.predict('colour', x) <> claim GROUP BY hour ORDER BY hour")
COMPLAIN = f"SELECT train_id, score FROM pgrain.complain($q${REPORT}$q$, 'flagged too high')"


def unreachable(connection, statement):
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(statement).fetchall()
    assert caught.value.sqlstate == "08006"
    assert "pgrain worker" in caught.value.diag.message_hint
    return caught.value


def test_a_socket_that_was_taken_away_comes_back(small):
    """A cleaner of /tmp, or a systemd unit that shares the folder: new sessions get in again."""
    socket = Path(small.value("SELECT socket FROM pgrain.worker"))
    socket.unlink()
    unreachable(small.connect(), "SELECT pgrain.predict('colour', ARRAY[0.321, 4.5])")
    deadline = time.monotonic() + 60
    while not socket.exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert small.connect().execute("SELECT pgrain.predict('colour', ARRAY[0.321, 4.5])").fetchone()
    assert "the socket was gone, and is there again" in small.worker.log_tail()


def test_killed_worker_loses_nothing(small):
    before = small.rows(REPORT), small.rows(COMPLAIN)
    session = small.connect()
    assert session.execute(COMPLAIN).fetchall() == before[1]
    small.worker.kill()

    # Stored predictions work on, in old sessions and new ones.
    assert session.execute(REPORT).fetchall() == before[0]
    fresh = small.connect()
    assert fresh.execute(REPORT).fetchall() == before[0]
    for connection in (session, fresh):
        unreachable(connection, COMPLAIN)
        unreachable(connection, "SELECT pgrain.predict('colour', ARRAY[0.123, 4.5])")
    # EXPLAIN calls predict on constants to estimate, and must not need the worker.
    small.rows("EXPLAIN SELECT * FROM items WHERE claim = "
               "pgrain.predict('colour', ARRAY[0.123, 4.5])")
    unreachable(small.connection, "SELECT * FROM items WHERE claim = "
                                  "pgrain.predict('colour', ARRAY[0.123, 4.5])")
    checks = {row[0]: row for row in small.rows("SELECT * FROM pgrain.doctor()")}
    assert checks["worker"][1] is False
    assert "pgrain worker" in checks["worker"][3]

    # A job that nobody takes is taken back; it does not start by surprise later.
    unreachable(small.connection, "CALL pgrain.train('colour')")
    assert small.rows("SELECT * FROM pgrain.progress") == []
    told = []
    session.add_notice_handler(
        lambda notice: told.append((notice.message_primary, notice.message_hint)))
    session.execute("BEGIN")
    session.execute("CALL pgrain.train('colour', wait => false)")
    session.execute("ROLLBACK")
    assert "no worker is alive to take it" in told[-1][0] and "pgrain worker" in told[-1][1]

    small.worker.start()
    # Everything comes back from tables, and the old session reconnects by itself.
    assert session.execute(COMPLAIN).fetchall() == before[1]
    assert small.rows(COMPLAIN) == before[1]
    assert all(row[1] for row in small.rows("SELECT * FROM pgrain.doctor()"))


def test_a_job_survives_its_worker(small):
    """kill -9 in the middle of a job: no half version is visible, and a new worker ends it."""
    version = small.value("SELECT version FROM pgrain.models")
    ranking = small.rows(COMPLAIN)
    small.execute("CALL pgrain.train('colour', wait => false)")
    deadline = time.monotonic() + 30
    while not small.value("SELECT count(*) FROM pgrain.jobs WHERE kind = 'train' "
                          "AND (state = 'running' OR (state = 'succeeded' AND job > 3))"):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    small.worker.kill()
    if small.value("SELECT version FROM pgrain.models") == version:
        assert small.value("SELECT count(*) FROM pgrain.versions WHERE active AND NOT ready") == 0
    small.worker.start()
    while small.value("SELECT count(*) FROM pgrain.progress"):
        assert time.monotonic() < deadline + 30
        time.sleep(0.05)
    assert small.value("SELECT state FROM pgrain.jobs ORDER BY job DESC LIMIT 1") == "succeeded"
    after = small.value("SELECT version FROM pgrain.models")
    assert after > version
    # Training is deterministic: the same rows give the same model, hence the same ranking.
    small.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
    again = small.rows(COMPLAIN)
    assert [row[0] for row in again] == [row[0] for row in ranking]
    assert [row[1] for row in again] == pytest.approx([row[1] for row in ranking], rel=1e-4)


def test_a_hung_worker_can_be_waited_for_or_left(small):
    """SIGSTOP: the wait ends at the statement's timeout and the session goes on afterwards."""
    session = small.connect()
    expected = session.execute(COMPLAIN).fetchall()
    os.kill(small.worker.pid, signal.SIGSTOP)
    try:
        session.execute("SET statement_timeout = '300ms'")
        started = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled) as caught:
            session.execute(COMPLAIN)
        assert time.monotonic() - started < 1.5
        assert caught.value.diag.message_primary.startswith("pgrain: canceling statement")
        assert session.execute(REPORT).fetchall()   # what is stored needs no worker
    finally:
        os.kill(small.worker.pid, signal.SIGCONT)
    session.execute("RESET statement_timeout")
    assert session.execute(COMPLAIN).fetchall() == expected


def test_a_killed_backend_leaves_worker_and_others_in_peace(small):
    victim, other = small.connect(), small.connect()
    expected = other.execute(COMPLAIN).fetchall()
    victim.execute(COMPLAIN)
    os.kill(small.worker.pid, signal.SIGSTOP)
    thread = threading.Thread(target=lambda: pytest.raises(psycopg.Error, victim.execute, COMPLAIN))
    thread.start()
    time.sleep(0.2)
    small.execute("SELECT pg_terminate_backend(%s)", [victim.info.backend_pid])
    thread.join(5)
    os.kill(small.worker.pid, signal.SIGCONT)
    assert not thread.is_alive()
    assert other.execute(COMPLAIN).fetchall() == expected


def test_who_waits_for_a_job_hears_that_no_worker_is_alive(small):
    """And goes on waiting: the job goes on when a worker is back."""
    small.execute("SELECT pgrain.create_model('slow', 'train', 'id', '{x}', 'label', 'mlp', "
                  "'{\"epochs\": 100000}')")
    session, heard, ended = small.connect(), [], []
    session.add_notice_handler(lambda notice: heard.append(notice.message_primary))

    def train():
        try:
            session.execute("CALL pgrain.train('slow')")
        except psycopg.Error as error:
            ended.append(error.sqlstate)

    def until(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline and waiting.is_alive(), (heard, ended)
            time.sleep(0.05)
    attempts = ("SELECT count(*) FROM pgrain.jobs WHERE model = 'slow' AND state = 'running' "
                "AND attempts = %s")
    waiting = threading.Thread(target=train)
    waiting.start()
    until(lambda: small.value(attempts, [1]))
    small.worker.kill()
    until(lambda: any("no worker is alive; job" in line for line in heard))
    small.worker.start()
    until(lambda: small.value(attempts, [2]))
    small.execute("SELECT pgrain.cancel(max(job)) FROM pgrain.jobs")
    waiting.join(60)
    assert ended == ["57014"]
    small.execute("SELECT pgrain.drop_model('slow')")


LONG = """SELECT count(*) FROM pgrain.complain($$
    SELECT count(*) AS n FROM (
        SELECT id % 2000 AS g FROM many WHERE pgrain.predict('colour', x) = 'red' GROUP BY 1
        HAVING sum(amount) > 600 AND avg(amount) < 600 AND sum(amount * hour) > 3000) AS t $$,
    'n too high')"""


def worked(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("how", ["cancel", "kill"])
def test_an_evaluation_ends_with_who_asked_for_it(small, how):
    """Cancelled, or its backend killed: the worker stops in the middle, says so, and is free."""
    small.execute("""CREATE TABLE IF NOT EXISTS many AS SELECT i AS id, i % 7 AS hour,
        ARRAY[(i * 37 % 1000) / 100.0, (i * 91 % 977) / 100.0]::float8[] AS x,
        (i * 7919 % 10007) / 10.0 AS amount FROM generate_series(1, 40000) AS i""")
    small.execute("CALL pgrain.attach('colour', 'many')")
    with small.connect() as session:
        pid = session.info.backend_pid
        failed = []

        def ask():
            try:
                session.execute(LONG)
            except psycopg.Error as error:
                failed.append(error)
        thread = threading.Thread(target=ask)
        thread.start()
        # The session has done its part and waits; the worker computes.
        until, waits = time.monotonic() + 120, False
        while thread.is_alive() and not waits and time.monotonic() < until:
            before = worked(pid), worked(small.worker.pid)
            time.sleep(0.7)
            waits = (worked(pid) - before[0] < 0.05
                     and worked(small.worker.pid) - before[1] > 0.2)
        assert waits and not failed, "it is too quick to be interrupted"
        if how == "cancel":
            small.execute("SELECT pg_cancel_backend(%s)", [pid])
        else:
            small.execute("SELECT pg_terminate_backend(%s)", [pid])
        thread.join(30)
    assert len(failed) == 1
    until = time.monotonic() + 30
    while not (said := [line for line in small.worker.log.read_text().splitlines()
                        if "request stopped" in line and f"{pid}." in line]):
        assert time.monotonic() < until, "the worker goes on for nobody"
        time.sleep(0.05)
    # `learn` goes on with the `evaluate` that lacked something.
    assert len(said) == 1 and "level='info'" in said[0] and (
        "method='evaluate'" in said[0] or "method='learn'" in said[0])
    assert small.rows(COMPLAIN)
