"""Stored predictions from shared memory: one copy for all sessions, right at once, never needed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from pgrain.backend import shared_map
from pgrain.wire.descriptors import DescriptorClient

ANSWERS = "SELECT id, pgrain.predict('colour', x), pgrain.predict_proba('colour', x) FROM items"


def mapped(session) -> set[str]:
    """Inodes of the maps in the session's process."""
    pid = session.execute("SELECT pg_backend_pid()").fetchone()[0]
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:pgrain predictions" in line}


def ask(session, query=ANSWERS):
    return session.execute(query + " ORDER BY 1").fetchall()


def test_sessions_share_one_map_and_need_none(small):
    first, second = small.connect(), small.connect()
    answers = ask(first)
    assert ask(second) == answers
    assert len(mapped(first)) == 1 and mapped(first) == mapped(second)

    # Values attached later are stored for old sessions too, at once: no worker is needed for them.
    small.execute("CREATE TABLE later AS SELECT i AS id, ARRAY[i * 0.01 - 1, 0.77]::float8[] AS x "
                  "FROM generate_series(1, 300) AS i")
    small.execute("CALL pgrain.attach('colour', 'later')")
    new = ANSWERS.replace("items", "later")
    expected = ask(small.connect(), new)
    old_map = mapped(first)
    small.worker.kill()
    assert ask(first, new) == expected and mapped(first) == old_map
    assert ask(first) == answers

    # Without its worker a new session reads the tables.
    third = small.connect()
    assert ask(third) == answers and ask(third, new) == expected
    assert mapped(third) == set()
    small.worker.start()
    assert mapped(small.connect()) == set()
    fourth = small.connect()
    assert ask(fourth, new) == expected and len(mapped(fourth)) == 1


def test_another_version_is_another_map(small):
    session = small.connect()
    before = ask(session)
    version = small.value("SELECT version FROM pgrain.models")
    old_map = mapped(session)
    small.execute("SELECT pgrain.apply('colour', ARRAY['2', '4', '6', '8', '10'], 'delete')")
    small.execute("CALL pgrain.train('colour')")
    after = ask(session)
    assert after != before
    assert mapped(session) and not mapped(session) & old_map       # the old one is let go
    small.execute("SELECT pgrain.activate('colour', %s)", [version])
    assert ask(session) == before
    session.execute("BEGIN")
    session.execute("SELECT pgrain.activate('colour', (SELECT max(version) FROM pgrain.versions))")
    assert ask(session) == after
    session.execute("ROLLBACK")
    assert ask(session) == before
    small.execute("SELECT pgrain.revert('colour')")


def test_a_worker_that_hangs_holds_nothing_up_for_long(small):
    answers = ask(small.connect())
    os.kill(small.worker.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        session = small.connect()
        assert ask(session) == answers
        assert time.monotonic() - began < shared_map.PATIENCE_SECONDS + 20
        assert mapped(session) == set()
    finally:
        os.kill(small.worker.pid, signal.SIGCONT)


def test_a_remote_worker_is_not_asked(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a connection was opened")
    monkeypatch.setattr(DescriptorClient, "call", fail)
    assert shared_map.fetch(["tls://gpu.example:5555"], "1", "db", None, 1, 1, lambda: None) is None
    assert shared_map.fetch([], "1", "db", None, 1, 1, lambda: None) is None
