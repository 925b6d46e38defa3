"""kill -9 of the worker while it catches up with watched and attached tables: afterwards a watch is
what its query is, every value is stored once, and nothing is stuck."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
from watch_checks import agree

SEED = int(os.environ.get("PGRAIN_TEST_SEED", "8"))
KILLS = 6
WATCHES = {
    "grouped": """SELECT hour, count(*) AS n, sum(weight) AS total, avg(weight) AS mean
        FROM stock WHERE pgrain.predict('colour', x) <> claim GROUP BY hour""",
    # A change of the other table has the state computed anew.
    "joined": """SELECT h.name AS hour, count(*) AS n FROM stock AS s JOIN hours AS h
        ON h.hour = s.hour WHERE pgrain.predict('colour', s.x) = 'red' GROUP BY h.name""",
    # Both tables change.
    "matched": """SELECT s.hour, count(*) AS n FROM stock AS s JOIN shelf AS h ON h.hour = s.hour
        AND pgrain.predict('colour', s.x) = pgrain.predict('colour', h.x) GROUP BY s.hour"""}
# What the worker's sessions are in the middle of.
BUSY = ("SELECT replace(application_name, 'pgrain worker: ', '') FROM pg_stat_activity WHERE "
        "datname = current_database() AND application_name LIKE 'pgrain worker: %' AND "
        "xact_start IS NOT NULL AND backend_xid IS NOT NULL")


@pytest.fixture
def shop(database, own_worker, model_in):
    it = database()
    it.worker = own_worker(it.cluster, it.name)
    model_in(it.connection, rows=600)
    it.execute("CREATE TABLE hours (hour integer PRIMARY KEY, name text)")
    it.execute("INSERT INTO hours SELECT i, 'h' || i / 2 FROM generate_series(0, 7) AS i")
    it.execute("CREATE TABLE stock (id serial PRIMARY KEY, x float8[], claim text, hour integer, "
               "weight numeric)")
    it.execute("INSERT INTO stock (x, claim, hour, weight) SELECT x, 'green', id % 8, id % 7 "
               "FROM items")
    it.execute("CREATE TABLE shelf (id serial PRIMARY KEY, x float8[], hour integer)")
    it.execute("INSERT INTO shelf (x, hour) SELECT x, id % 8 FROM items WHERE id % 4 = 0")
    it.execute("CALL pgrain.train('colour')")
    it.execute("CALL pgrain.precompute('colour', '{\"pairs\": 6}')")
    it.execute("CALL pgrain.attach('colour', 'stock')")
    for name, query in WATCHES.items():
        it.execute("CALL pgrain.watch(%s, %s)", [name, query])
    return it


def write(shop, seed: int, stop: threading.Event, failed: list) -> None:
    """Change the tables until told to stop."""
    rng = random.Random(seed)
    try:
        with shop.cluster.connect(shop.name) as session:
            while not stop.is_set():
                a, action = rng.randrange(10**6), rng.random()
                try:
                    if action < 0.6:
                        session.execute(
                            "INSERT INTO stock (x, claim, hour, weight) SELECT ARRAY[sin((%s + i) "
                            "* 0.37) * 4, cos(%s + i) * 3], (ARRAY['red','green','blue'])[1 + i %% "
                            "3], i %% 8, i FROM generate_series(1, 20) AS i", [a, a])
                    elif action < 0.7:
                        session.execute("DELETE FROM stock WHERE id %% 50 = %s", [a % 50])
                    elif action < 0.8:
                        session.execute("INSERT INTO shelf (x, hour) SELECT x, hour FROM stock "
                                        "WHERE id %% 50 = %s", [a % 50])
                    elif action < 0.85:
                        session.execute("DELETE FROM shelf WHERE id %% 20 = %s", [a % 20])
                    elif action < 0.97:
                        session.execute("UPDATE stock SET hour = (hour + 1) %% 8, weight = weight "
                                        "+ 1 WHERE id %% 50 = %s", [a % 50])
                    else:
                        session.execute("UPDATE hours SET name = 'h' || %s WHERE hour = %s",
                                        [a % 5, a % 8])
                except psycopg.errors.DeadlockDetected:
                    continue        # the two writers' own
                time.sleep(rng.uniform(0.02, 0.1))
    except psycopg.Error as error:
        failed.append(error)


def test_a_watch_equals_its_query_after_kills_in_catching_up(shop, until):
    rng, stop, failed = random.Random(SEED), threading.Event(), []
    writers = [threading.Thread(target=write, args=(shop, SEED + i, stop, failed))
               for i in range(2)]
    for thread in writers:
        thread.start()
    hit = []
    try:
        for kill in range(KILLS):
            until(lambda: shop.value("SELECT EXISTS (SELECT FROM pgrain.watch_note)"),
                  "there is something to be folded")
            time.sleep(rng.uniform(0, 0.5))
            deadline = time.monotonic() + 20
            while True:
                # Stopped first, so that what it was killed in can be told; every other one is
                # killed wherever it is, the others in a transaction that has written something.
                os.kill(shop.worker.pid, signal.SIGSTOP)
                busy = [row[0] for row in shop.rows(BUSY)]
                if kill % 2 == 0 or busy or time.monotonic() > deadline:
                    break
                os.kill(shop.worker.pid, signal.SIGCONT)
                time.sleep(rng.uniform(0, 0.01))
            hit += busy
            shop.worker.kill()
            shop.worker.start()
    finally:
        stop.set()
        for thread in writers:
            thread.join(30)
    assert failed == [], "a writer's statement failed"
    assert set(hit) & {"watches", "catching up"}, f"no kill in the middle of a change: {hit}"

    until(lambda: not shop.value("SELECT count(*) FROM pgrain.watch_note"), "notes are folded")
    until(lambda: shop.value("SELECT bool_and(current) FROM pgrain.watches"), "watches are current")
    for name, query in WATCHES.items():
        agree(shop, name, query)
        standing, scratch = (shop.rows("SELECT train_id, score FROM pgrain.complain(%s, "
                                       "'n too high', 20)", [what]) for what in (name, query))
        assert [row[0] for row in standing] == [row[0] for row in scratch]
        assert [row[1] for row in standing] == pytest.approx([row[1] for row in scratch], rel=1e-4)
    until(lambda: not shop.value("SELECT count(*) FROM pgrain.attachment_hint"), "hints are read")
    digests = "SELECT digests FROM pgrain.prediction_chunk"
    stored = lambda: [bytes(row[0])[at:at + 16] for row in shop.rows(digests)    # noqa: E731
                      for at in range(0, len(row[0]), 16)]
    there = shop.value("SELECT count(DISTINCT x) FROM stock")
    until(lambda: len(stored()) >= there, "every value is stored")
    assert len(set(stored())) == len(stored()), "a value is stored twice"
    assert shop.value("SELECT count(*) FROM pgrain.spectrum_chunk WHERE kind = 'attached'"
                      ) == len(shop.rows(digests)), "a chunk without its projections"
    until(lambda: not shop.value(
        "SELECT count(*) FROM pgrain.held WHERE pgrain._holder(what, name) IS NOT NULL")
        and not shop.rows(BUSY),
        "no lock and no transaction is left")


def test_a_state_that_a_crash_has_taken_back_is_not_taken_for_the_next(own_cluster, own_worker,
                                                                       model_in, until):
    """With synchronous_commit = off the last folds may be lost, while the worker lives on and knows
    what it has answered about them."""
    cluster = own_cluster(wal_writer_delay="10s", synchronous_commit="off")
    cluster.ensure_database("shop")
    query = ("SELECT hour, count(*) AS n FROM stock WHERE pgrain.predict('colour', x) = 'red' "
             "GROUP BY hour")
    insert = "INSERT INTO stock SELECT * FROM items WHERE id BETWEEN %s AND %s"

    def numbers(session, what):
        return session.execute("SELECT output_row, value, relaxed FROM pgrain.provenance(%s) "
                               "ORDER BY 1", [what]).fetchall()

    def folded(session):
        until(lambda: not session.execute("SELECT EXISTS (SELECT FROM pgrain.watch_note)"
                                          ).fetchone()[0], "notes are folded")
    with cluster.connect("shop") as session:
        own_worker(cluster, "shop")
        model_in(session, rows=300)
        session.execute("CALL pgrain.train('colour')")
        session.execute("CREATE TABLE stock AS SELECT * FROM items WHERE id <= 20")
        session.execute("CALL pgrain.watch('reds', %s)", [query])
        session.execute(insert, [21, 40])
        folded(session)
        session.execute("CHECKPOINT")
        kept = session.execute("SELECT count(*) FROM stock").fetchone()[0]
        # Whoever commits wakes it for every full page.
        writer = session.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = "
                                 "'walwriter'").fetchone()[0]
        os.kill(writer, signal.SIGSTOP)
        session.execute(insert, [41, 140])
        folded(session)
        lost = numbers(session, "reds")
    os.kill(writer, signal.SIGKILL)     # as the kernel does where memory is short

    def recovered():
        with contextlib.suppress(psycopg.OperationalError):
            return cluster.connect("shop")
    with until(recovered, "the server recovers") as session:
        assert session.execute("SELECT count(*) FROM stock").fetchone()[0] == kept, "all is lost"
        session.execute(insert, [141, 150])
        folded(session)
        standing = until(lambda: session.execute(
            "SELECT current FROM pgrain.watches").fetchone()[0] and numbers(session, "reds"),
            "the watch is current")
        assert standing != lost
        scratch = numbers(session, query)
        assert [row[:2] for row in standing] == [row[:2] for row in scratch]
        for mine, theirs in zip(standing, scratch, strict=True):
            assert mine[2] == pytest.approx(theirs[2], rel=1e-6)
