"""The private cluster of `make up` and of these tests: safe to kill, closed to the network."""

from __future__ import annotations

import pytest


@pytest.fixture
def own_cluster(server):
    """The session's cluster again, sure to run when the test is over."""
    yield server
    server.start()


def test_never_runs_as_root(server):
    import pathlib
    status = pathlib.Path(f"/proc/{server.pid}/status").read_text()
    uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
    assert "0" not in uids


def test_has_no_network_address(server):
    with server.connect("postgres") as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert connection.execute("SHOW data_checksums").fetchone() == ("on",)


def test_starts_again_after_kill_9(own_cluster, database):
    base = database()
    base.execute("CREATE TABLE kept AS SELECT 1 AS a")
    base.execute("CHECKPOINT")
    own_cluster.kill()
    assert not own_cluster.running
    assert own_cluster.start() is True
    assert base.connect().execute("SELECT a FROM kept").fetchone() == (1,)
    assert own_cluster.start() is False


def test_stop_and_start_are_idempotent(own_cluster):
    assert own_cluster.stop() is True
    assert own_cluster.stop() is False
    assert own_cluster.start() is True
    assert own_cluster.start() is False


def test_each_database_is_fresh(database):
    first, second = database(), database()
    first.execute("CREATE TABLE only_here ()")
    assert second.value("SELECT to_regclass('only_here')") is None
    assert second.value("SELECT extname FROM pg_extension WHERE extname = 'pgrain'") == "pgrain"


def test_roles_connect_as_themselves(database, as_role):
    base = database()
    session = as_role(base, "test house role")
    assert session.execute("SELECT current_user, session_user").fetchone() == (
        "test house role", "test house role")
