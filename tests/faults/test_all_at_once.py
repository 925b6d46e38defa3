"""Things that a DBA does while something is under way: each ends, and says what has happened."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest


@pytest.fixture
def shop(database, own_worker, model_in):
    it = database()
    it.worker = own_worker(it.cluster, it.name)
    model_in(it.connection, rows=3000, architecture="mlp",
             options='{"hidden": [64], "epochs": 60}')
    it.execute("SET statement_timeout = '90s'")
    return it


class Call(threading.Thread):
    """A statement in a session of its own; `error`: what it ended with."""

    def __init__(self, shop, statement):
        super().__init__(daemon=True)
        self.session, self.statement, self.error = shop.connect(), statement, None
        self.session.execute("SET statement_timeout = '90s'")
        self.start()

    def run(self):
        try:
            self.session.execute(self.statement)
        except psycopg.Error as error:
            self.error = error

    def ended(self):
        self.join(100)
        assert not self.is_alive()
        return self.error


def running(shop, until, kind="train"):
    until(lambda: shop.value("SELECT count(*) FROM pgrain.progress WHERE kind = %s AND "
                             "state = 'running'", [kind]), f"{kind} runs")


DONE = {
    "the model dropped": ("SELECT pgrain.drop_model('colour')", "57014"),
    "the training table dropped": ("DROP TABLE train", None),
    "cancelled": ("SELECT pgrain.cancel(max(job)) FROM pgrain.jobs", "57014"),
    "keys protected": ("SELECT pgrain.protect_keys('colour')", None),
    "the job's row deleted": ("DELETE FROM pgrain.job", None),
    "the session of who waits ended": (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL pgrain.tr%'",
        "57P01"),
    "the worker's sessions ended": (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE "
        "'pgrain worker%' AND datname = current_database()", None),
    "the extension dropped": ("DROP EXTENSION pgrain", None),
}


@pytest.mark.parametrize("what", DONE)
def test_in_the_middle_of_a_training(shop, until, what):
    statement, sqlstate = DONE[what]
    call = Call(shop, "CALL pgrain.train('colour')")
    running(shop, until)
    time.sleep(0.3)
    shop.execute("SET lock_timeout = '20s'")
    shop.execute(statement)
    error = call.ended()
    if sqlstate is not None:
        assert error is not None and error.sqlstate == sqlstate, error
    elif error is not None:
        assert error.sqlstate[:2] != "XX", error
    # The worker goes on, with whatever there is now.
    fresh = shop.connect()
    fresh.execute("SET statement_timeout = '90s'")
    if "extension" in what:
        fresh.execute("SET client_min_messages = warning; CREATE EXTENSION pgrain")
        alive = "SELECT count(*) FROM pgrain.workers WHERE alive"
        until(lambda: fresh.execute(alive).fetchone()[0], "the worker registers")
    until(lambda: not fresh.execute("SELECT count(*) FROM pgrain.progress").fetchone()[0],
          "no job is left", 60)
    fresh.execute("CREATE TABLE other AS SELECT i AS id, ARRAY[i, -i]::float8[] AS x, "
                  "(i % 2)::text AS label FROM generate_series(1, 60) AS i")
    fresh.execute("SELECT pgrain.create_model('other', 'other', 'id', '{x}', 'label', "
                  "'logistic_regression')")
    fresh.execute("CALL pgrain.train('other')")
    assert fresh.execute("SELECT pgrain.predict('other', '{1,-1}'::float8[])").fetchone()[0] in "01"
    if what != "the extension dropped":
        assert not fresh.execute("SELECT count(*) FROM pgrain.versions WHERE active AND NOT ready"
                                 ).fetchone()[0]
    assert "Traceback" not in shop.worker.log.read_text(), shop.worker.log_tail(40)


def test_two_ask_for_the_same(shop, until):
    """The second is told, whoever it is; what the first asked for is done."""
    first = Call(shop, "CALL pgrain.train('colour')")
    running(shop, until)
    second = Call(shop, "CALL pgrain.train('colour')").ended()
    assert second is not None and second.sqlstate == "55006"
    assert "already under way" in second.diag.message_primary
    assert first.ended() is None
    calls = [Call(shop, "CALL pgrain.attach('colour', 'items')") for _ in range(3)]
    told = [call.ended() for call in calls]
    assert None in told and {error.sqlstate for error in told if error is not None} <= {"55006"}
    shop.execute("SELECT pgrain.detach('colour', 'items')")
    assert not shop.value("SELECT count(*) FROM pgrain.prediction_chunk")


def test_a_relation_is_detached_while_it_is_attached(shop, until):
    shop.execute("CALL pgrain.train('colour')")
    shop.execute("CREATE TABLE many AS SELECT ARRAY[i / 100.0, -i / 70.0]::float8[] AS x "
                 "FROM generate_series(1, 60000) AS i")
    call = Call(shop, "CALL pgrain.attach('colour', 'many')")
    running(shop, until, "attach")
    shop.execute("SELECT pgrain.detach('colour', 'many')")
    error = call.ended()
    assert error is None or error.sqlstate[:2] != "XX", error
    assert not shop.value("SELECT count(*) FROM pgrain.attached WHERE relation = 'many'::regclass")
    shop.execute("SELECT pgrain._tidy()")
    assert not shop.value("SELECT count(*) FROM pgrain.prediction_chunk WHERE relation = "
                          "'many'::regclass")
    assert "Traceback" not in shop.worker.log.read_text(), shop.worker.log_tail(40)


def test_watches_are_made_at_the_same_time(shop):
    """By one role that has made none before, each of another table."""
    shop.execute("CREATE ROLE maker LOGIN; SELECT pgrain.grant_usage('maker', true)")
    try:
        shop.execute("CALL pgrain.train('colour', '{\"epochs\": 1}')")
        for round_ in range(3):
            tables = [f"stock_{round_}_{number}" for number in range(4)]
            for table in tables:
                shop.execute(f"CREATE TABLE {table} AS SELECT * FROM items LIMIT 50; "
                             f"GRANT SELECT, TRIGGER ON {table} TO maker")
            sessions = [shop.connect("maker") for _ in tables]
            errors = []

            def make(session, table, errors=errors):
                try:
                    session.execute("CALL pgrain.watch(%s, %s)", [
                        table, f"SELECT count(*) AS n FROM {table} WHERE "
                               "pgrain.predict('colour', x) = 'red'"])
                except psycopg.Error as error:
                    errors.append(error)
            threads = [threading.Thread(target=make, args=pair)
                       for pair in zip(sessions, tables, strict=True)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(90)
            assert not errors
            shop.execute("REVOKE ALL ON pgrain.watch_note FROM maker; "
                         "REVOKE ALL ON FUNCTION pgrain._build_watch(bigint), "
                         "pgrain._may_note(bigint), pgrain._watch_tree(regclass[]) FROM maker")
    finally:
        shop.execute("DELETE FROM pgrain.watch; DROP OWNED BY maker; DROP ROLE maker")
