"""A streaming standby with a worker of its own, which can only poll, and says itself who it is."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

from pgrain.cli.cluster import Cluster
from pgrain.cli.place import prepare


@pytest.fixture
def pair(own_cluster, own_worker, model_in, until):
    """(primary, standby): a model on the one, replicated to the other; a worker beside each."""
    primary = own_cluster(wal_level="replica", max_wal_senders="4", hot_standby="on")
    primary.ensure_database("shop")
    place = Path(tempfile.mkdtemp(prefix="pgrain-", dir="/tmp"))
    prepare(place, primary.account)
    standby = Cluster(place, server=primary.server, account=primary.account,
                      settings={**primary.settings, "hot_standby_feedback": "on"})
    with primary.connect("shop") as connection:
        primary.worker = own_worker(primary, "shop")
        model_in(connection, rows=400)
        connection.execute("CALL pgrain.train('colour')")
        connection.execute("CALL pgrain.precompute('colour', '{\"pairs\": 6}')")
        connection.execute("CALL pgrain.attach('colour', 'items')")
    done = subprocess.run(
        [primary.server.program("pg_basebackup"), "-D", str(standby.data), "-R", "-X", "stream",
         "-c", "fast", "-d", primary.dsn("postgres")], capture_output=True, text=True,
        **primary.account.spawn_options())
    assert done.returncode == 0, done.stderr
    standby.data.chmod(0o700)
    standby.start()
    yield primary, standby
    standby.stop("immediate")
    shutil.rmtree(place, ignore_errors=True)


def test_a_standby_answers_as_the_primary(pair, own_worker, queries, until):
    primary, standby = pair
    one, two = primary.connect("shop"), standby.connect("shop")
    assert two.execute("SELECT pg_is_in_recovery()").fetchone()[0]
    expected = {name: one.execute(text).fetchall() for name, text in queries.items()}
    ask = f"SELECT output, value FROM pgrain.provenance($q${queries['report']}$q$)"
    explain = f"SELECT * FROM pgrain.explain($q${queries['report']}$q$)"

    # Stored predictions need no worker; the primary's worker, whose row is replicated, is not ours.
    assert two.execute(queries["report"]).fetchall() == expected["report"]
    with pytest.raises(psycopg.OperationalError) as caught:
        two.execute(queries["complain"])
    assert caught.value.sqlstate == "08006"
    assert "this standby knows no worker of its own" in caught.value.diag.message_primary
    assert "pgrain.toml" in caught.value.diag.message_hint
    assert two.execute("SELECT * FROM pgrain.workers").fetchall() == []

    worker = own_worker(standby, "shop", wait=False)
    until(lambda: worker.answers, "the standby's worker listens", 120)
    file = standby.data / "pgrain.toml"
    file.write_text("[workers")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        standby.connect("shop").execute(queries["complain"])
    assert caught.value.diag.message_primary == "pgrain: pgrain.toml cannot be read"
    assert "Expected ']'" in caught.value.diag.message_detail
    assert str(standby.data) not in str(caught.value)
    file.write_text(f'[workers]\nshop = "{worker.socket}"\n')
    file.chmod(0o644)
    two = standby.connect("shop")
    assert two.execute(queries["complain"]).fetchall() == expected["complain"]
    assert two.execute(ask).fetchall() == one.execute(ask).fetchall()
    assert two.execute(explain).fetchall()[0] == one.execute(explain).fetchall()[0]
    assert two.execute("SELECT pgrain.predict('colour', ARRAY[0.5, 0.25])").fetchone() == (
        one.execute("SELECT pgrain.predict('colour', ARRAY[0.5, 0.25])").fetchone())
    assert two.execute("SELECT pid, alive FROM pgrain.workers").fetchall() == [(worker.pid, True)]
    checks = {row[0]: row for row in two.execute("SELECT * FROM pgrain.doctor()").fetchall()}
    assert checks["worker"][1] and f"process {worker.pid}" in checks["worker"][2]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        two.execute("CALL pgrain.train('colour')")

    # A new version on the primary arrives, and is answered for.
    one.execute("SELECT pgrain.apply('colour', '{1,2,3,4,5,6}', 'delete')")
    one.execute("CALL pgrain.train('colour')")
    one.execute("CALL pgrain.precompute('colour', '{\"pairs\": 6}')")
    fresh = one.execute(queries["complain"]).fetchall()
    assert fresh != expected["complain"]
    until(lambda: two.execute("SELECT k IS NOT NULL AND n_rows = 394 FROM pgrain.models"
                              ).fetchone()[0], "it is replicated")
    assert two.execute(queries["complain"]).fetchall() == fresh

    # Promoted, the standby is a primary like any other, and its worker takes jobs.
    primary.worker.stop()
    primary.stop("immediate")
    two.execute("SELECT pg_promote()")
    until(lambda: not two.execute("SELECT pg_is_in_recovery()").fetchone()[0], "it is promoted")
    until(lambda: two.execute("SELECT count(*) FROM pgrain.workers WHERE pid = %s AND alive",
                              [worker.pid]).fetchone()[0], "its worker registers")
    two.execute("CALL pgrain.train('colour')")
    assert two.execute(queries["report"]).fetchall()


def test_what_pgrain_toml_may_hold(tmp_path):
    from pgrain.backend import place
    from pgrain.errors import NotReady
    conf = str(tmp_path / "postgresql.conf")
    assert place.read(conf) == ({}, {}) == place.read(None)
    file = tmp_path / "pgrain.toml"
    file.write_text('[tls]\nca = "/a"\n[workers]\nshop = "/s"\n')
    assert place.read(conf) == ({"ca": "/a"}, {"shop": "/s"})
    for text in ("nonsense", "[workers]\nshop = 1\n", "[other]\n", "tls = 1\n"):
        file.write_text(text)
        with pytest.raises(NotReady, match=r"pgrain\.toml"):
            place.read(conf)
