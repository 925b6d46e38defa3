"""A worker that cannot begin ends, or says every few seconds what it waits for."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from pgrain.cli.install import version
from pgrain.worker import main

BAD = {
    "an unknown host": ("host=no-such-host.invalid dbname=x connect_timeout=2", "no-such-host"),
    "nobody listens": ("host=127.0.0.1 port=1 dbname=x", "refused"),
    "no such socket": ("host=/tmp/no-such-folder dbname=x", "/tmp/no-such-folder"),
    "no such database": ("{dsn} dbname=nowhere", 'database "nowhere" does not exist'),
    "no such role": ("{dsn} user=nobody_at_all", 'nobody_at_all'),
    "a wrong password": ("host=127.0.0.1 port={port} dbname={database} user=with_password "
                         "password=wrong", "password authentication failed"),
    "no password": ("host=127.0.0.1 port={port} dbname={database} user=with_password",
                    "no password supplied"),
    "no extension": ("{dsn}", "has no extension pgrain"),
}


@pytest.fixture
def empty(own_cluster):
    """A database without the extension, in a cluster that asks for passwords over TCP."""
    cluster = own_cluster(listen_addresses="127.0.0.1")
    with cluster.connect("postgres") as connection:
        connection.execute("CREATE DATABASE empty")
        connection.execute("CREATE ROLE with_password LOGIN PASSWORD 'right'")
        rules = connection.execute("SHOW hba_file").fetchone()[0]
        file = Path(rules)      # (the first line that fits counts)
        file.write_text("host all with_password 127.0.0.1/32 scram-sha-256\n" + file.read_text())
        connection.execute("SELECT pg_reload_conf()")
        port = connection.execute("SHOW port").fetchone()[0]
    time.sleep(0.5)
    return {"dsn": cluster.dsn("empty"), "port": port, "database": "empty"}


def test_it_says_again_and_again_what_it_waits_for(empty, monkeypatch):
    monkeypatch.setattr(main, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(main, "SAY_SECONDS", 0.5)
    monkeypatch.setattr(main, "log", structlog.get_logger())
    found = {}
    for name, (dsn, expected) in BAD.items():
        stopping = threading.Event()
        threading.Timer(3.0, stopping.set).start()
        with capture_logs() as lines:
            assert main.wait_for_extension(dsn.format(**empty), version(), stopping) is None
        said = [line["problem"] for line in lines if line["event"] == "worker waits"]
        found[name] = (len(said) > 1, all(expected in problem for problem in said), said[:1])
    assert {name: it for name, it in found.items() if it[:2] != (True, True)} == {}


