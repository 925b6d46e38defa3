"""Advisory locks are open to every role of a database: whoever takes all that pgrain might want
holds nothing up, and what pgrain has instead is for those alone who may do what it stands for."""

from __future__ import annotations

import time

import psycopg
import pytest

# Names of which pgrain made its locks before 0.2.0, and any other that somebody may think of.
CLASSES = [int.from_bytes(name, "big") for name in (b"pgra", b"pgrb", b"pgrc", b"pgrp", b"pgrw")]
REPORT = ("SELECT hour, count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'red' "
          "GROUP BY hour")
STORED = "SELECT stored_values FROM pgrain.attached WHERE relation = 'more'::regclass"


@pytest.fixture(scope="module")
def shop(small):
    small.execute("CREATE TABLE more AS SELECT * FROM items WHERE x IS NOT NULL")
    small.execute("CALL pgrain.watch('reds', %s)", [REPORT])
    return small


def until(condition, what: str, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_who_takes_every_advisory_lock_holds_nothing_up(shop, as_role):
    stranger = as_role(shop, "stranger")
    jobs = shop.value("SELECT max(job) FROM pgrain.jobs")
    for number in CLASSES:
        stranger.execute("SELECT pg_advisory_lock(%s, n) FROM generate_series(0, %s) AS n",
                         [number, jobs + 20])
        stranger.execute("SELECT pg_advisory_lock(%s, n) FROM (SELECT oid::int FROM pg_class UNION "
                         "SELECT hashtext('colour')) AS t (n)", [number])
    shop.execute("SET statement_timeout = '60s'")
    shop.execute("CALL pgrain.train('colour')")
    shop.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
    shop.execute("CALL pgrain.attach('colour', 'more')")
    shop.execute("CALL pgrain.watch('blues', %s)", [REPORT.replace("'red'", "'blue'")])
    shop.execute("SELECT pgrain.unwatch('blues')")
    shop.execute("CALL pgrain.repair('stuck', %s, 'n <= 1 WHERE hour = 1', 'delete', "
                 "'{\"rows\": 1, \"rounds\": 1}')", [REPORT])
    shop.execute("RESET statement_timeout")
    before = shop.value(STORED)
    shop.execute("INSERT INTO more (id, x) VALUES (5000, '{77,7}')")
    shop.execute("INSERT INTO items SELECT 5000 + id, x, claim, hour FROM items WHERE id < 20")
    until(lambda: shop.value(STORED) == before + 1, "an attached table is caught up with")
    until(lambda: shop.value("SELECT bool_and(current) AND sum(pending_notes) = 0 "
                             "FROM pgrain.watches"), "watches are kept up")
    assert stranger.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid <> "
                            "pg_backend_pid()").fetchone()[0] == 0, "there is a lock to be guessed"


@pytest.mark.parametrize("grant", [None, "user", "admin"])
def test_nobody_can_hold_what_is_not_theirs(shop, as_role, grant):
    """An admin holds up repairs, which are theirs anyway, and nothing else."""
    role = as_role(shop, f"holder_{grant}", grant)
    for statement in ("SELECT pgrain._hold('job', '1')",
                      "SELECT pgrain._holder('job', '1')",
                      "INSERT INTO pgrain.held VALUES ('job', '1', pg_backend_pid(), now())",
                      "SELECT FROM pgrain.watch_lock FOR UPDATE",
                      "LOCK TABLE pgrain.held", "LOCK TABLE pgrain.watch_lock IN SHARE MODE",
                      *(["SELECT pgrain._hold_repair('colour')"] if grant != "admin" else [])):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), role.transaction():
            role.execute(statement)


def test_what_a_process_held_is_free_when_it_ends(shop):
    """Also where its number has come again: a process is told by when it began."""
    hold, holder = "SELECT pgrain._hold('job', '0')", "SELECT pgrain._holder('job', '0')"
    with shop.connect() as one:
        assert one.execute(hold).fetchone() == (True,)
        pid = one.info.backend_pid
        assert shop.value(holder) == pid and shop.value(hold) is False
        shop.execute("SELECT pgrain._leave('job', '0')")
        assert shop.value(holder) == pid, "only whoever has it may give it up"
    until(lambda: shop.value(holder) is None, "a process that has ended holds nothing")
    assert shop.value(hold) is True
    shop.execute("UPDATE pgrain.held SET started = started - interval '1 s' WHERE what = 'job' "
                 "AND name = '0'")
    with shop.connect() as one:
        assert one.execute(hold).fetchone() == (True,), "an earlier process of that number"
