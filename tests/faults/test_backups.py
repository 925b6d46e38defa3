"""pg_upgrade, a base backup with point-in-time recovery, dump and restore, several databases of one
cluster: what survives, and that nobody is answered by another server's worker."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

from pgrain.cli.cluster import Cluster
from pgrain.cli.place import prepare

WATCH = "CALL pgrain.watch('reds', $q${}$q$)"
CELLS = "SELECT output, value FROM pgrain.provenance('reds') ORDER BY 1"


@pytest.fixture
def place_for(server):
    """`place_for(**settings)`: a cluster that is not made yet, in a folder of its own."""
    made = []

    def make(**settings) -> Cluster:
        place = Path(tempfile.mkdtemp(prefix="pgrain-", dir="/tmp"))
        prepare(place, server.account)
        made.append(Cluster(place, server=server.server, account=server.account,
                            settings={"fsync": "off", "shared_buffers": "32MB", **settings}))
        return made[-1]
    yield make
    for cluster in made:
        cluster.stop("immediate")
        shutil.rmtree(cluster.place, ignore_errors=True)


def run(cluster: Cluster, *arguments, cwd=None) -> None:
    options = cluster.account.spawn_options() | ({"cwd": cwd} if cwd else {})
    done = subprocess.run(arguments, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr


def fill(cluster: Cluster, model_in, queries) -> None:
    """A model with everything that can be stored: versions, spectrum, attached values, edits, a
    watch, a repair, protected keys."""
    with cluster.connect("shop") as connection:
        model_in(connection, rows=300)
        for statement in ("CALL pgrain.train('colour')",
                          "CALL pgrain.precompute('colour', '{\"pairs\": 6}')",
                          "CALL pgrain.attach('colour', 'items')",
                          "SELECT pgrain.apply('colour', '{3}', 'delete')",
                          "SELECT pgrain.create_intervention('colour', 'zero', "
                          "'{\"ARRAY[x[1], 0]\"}')",
                          WATCH.format(queries["report"])):
            connection.execute(statement)


def state(cluster: Cluster, queries) -> dict:
    """What users see of it all."""
    with cluster.connect("shop") as connection:
        def ask(text):
            return connection.execute(text).fetchall()
        return {"models": ask("SELECT model, version, k, n_rows, edits FROM pgrain.models"),
                "attached": ask("SELECT model, relation::text, stored_values FROM pgrain.attached"),
                "edits": ask("SELECT model, train_key, intervention FROM pgrain.edits"),
                "interventions": ask("SELECT model, name FROM pgrain.interventions"),
                "watch": ask(CELLS), "report": ask(queries["report"]),
                "complain": ask(queries["complain"])}


def test_pg_upgrade(own_cluster, place_for, own_worker, model_in, queries, until):
    """Everything is kept, spectra and stored predictions too: pg_upgrade copies tables as they are.
    (From 15 to 15 here, which goes the same way as to another major.)"""
    old = own_cluster()
    old.ensure_database("shop")
    worker = own_worker(old, "shop")
    fill(old, model_in, queries)
    before = state(old, queries)
    worker.stop()
    old.stop()
    new = place_for()
    new.create()
    programs = str(Path(new.server.program("postgres")).parent)
    run(new, new.server.program("pg_upgrade"), "-b", programs, "-B", programs, "-d", str(old.data),
        "-D", str(new.data), "-U", "postgres", "-s", str(new.run), cwd=str(new.place / "log"))
    new.start()
    with new.connect("shop") as connection:     # before a worker is there: what is stored
        assert connection.execute(queries["report"]).fetchall() == before["report"]
        with pytest.raises(psycopg.OperationalError) as caught:
            connection.execute(queries["complain"])
        assert caught.value.sqlstate == "08006"
    own_worker(new, "shop")
    assert state(new, queries) == before
    with new.connect("shop") as connection:
        connection.execute("INSERT INTO items SELECT id + 1000, x, hour FROM items")
        assert connection.execute("SELECT value FROM pgrain.provenance('reds') ORDER BY output"
                                  ).fetchall() == connection.execute(
            f"SELECT reds::float8 FROM ({queries['report']}) r ORDER BY hour").fetchall()
        connection.execute("CALL pgrain.train('colour')")
        connection.execute("CALL pgrain.precompute('colour', '{\"pairs\": 6}')")
        assert connection.execute("SELECT n_rows FROM pgrain.models").fetchone() == (299,)
        assert connection.execute("SELECT * FROM pgrain.doctor() WHERE NOT ok").fetchall() == []


def test_point_in_time_recovery(own_cluster, place_for, own_worker, model_in, queries, until):
    """Back to a moment: everything as it was then, while the original and its worker live on. The
    worker of the original answers nobody of the copy."""
    copy = place_for()
    archive = copy.place / "log"        # a folder that the server's OS user may write to
    original = own_cluster(wal_level="replica", archive_mode="on", max_wal_senders="4",
                           archive_command=f"cp %p {archive}/%f")
    original.ensure_database("shop")
    copy.settings |= {"restore_command": f"cp {archive}/%f %p", "recovery_target_name": "then",
                      "recovery_target_action": "promote", "archive_mode": "off"}
    run(copy, original.server.program("pg_basebackup"), "-D", str(copy.data), "-X", "stream",
        "-c", "fast", "--no-manifest", "-d", original.dsn("postgres"))
    copy.data.chmod(0o700)
    theirs = own_worker(original, "shop")
    fill(original, model_in, queries)
    then = state(original, queries)
    with original.connect("shop") as connection:
        # A job that is under way at that moment.
        connection.execute(
            "INSERT INTO pgrain.job (kind, model, arguments, state, worker, started_at) SELECT "
            "'precompute', 'colour', '{\"options\": {\"pairs\": 6}}', 'running', worker, now() "
            "FROM pgrain.worker")
        connection.execute("SELECT pg_create_restore_point('then')")
        # What somebody regrets.
        connection.execute("DROP TABLE items CASCADE")
        connection.execute("UPDATE train SET label = 'green' WHERE label = 'red' AND id > 3")
        connection.execute("CALL pgrain.train('colour')")
        last = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()[0]
        until(lambda: connection.execute("SELECT last_archived_wal >= %s FROM pg_stat_archiver",
                                         [last]).fetchone()[0], "the log is archived", 60)
    (copy.data / "recovery.signal").touch()
    shutil.chown(copy.data / "recovery.signal", copy.account.uid, copy.account.gid)
    copy.start()
    with copy.connect("shop") as connection:
        until(lambda: not connection.execute("SELECT pg_is_in_recovery()").fetchone()[0],
              "it is promoted", 60)
        assert connection.execute(queries["report"]).fetchall() == then["report"]
        # The table of workers was restored, too, and that worker lives: elsewhere.
        with pytest.raises(psycopg.OperationalError) as caught:
            connection.execute(queries["complain"])
        assert caught.value.sqlstate == "08006"
        assert "serves another server" in caught.value.diag.message_primary
    own_worker(copy, "shop")
    with copy.connect("shop") as connection:
        until(lambda: connection.execute("SELECT state = 'succeeded' FROM pgrain.jobs ORDER BY job "
                                         "DESC LIMIT 1").fetchone()[0], "the job is done again")
    after = state(copy, queries)
    assert {name: after[name] for name in then if name != "complain"} == {
        name: then[name] for name in then if name != "complain"}
    assert [row[0] for row in after["complain"]] == [row[0] for row in then["complain"]]
    assert theirs.pid is not None


def test_several_databases_of_a_cluster(database, own_worker, model_in, queries):
    """Each has its own models, secret and worker; a worker serves its own database only."""
    one, two = database(), database()
    for it, rows in ((one, 300), (two, 200)):
        it.worker = own_worker(it.cluster, it.name)
        model_in(it.connection, rows=rows)
        it.execute("CALL pgrain.train('colour')")
        it.execute("CALL pgrain.precompute('colour', '{\"pairs\": 6}')")
    assert one.value("SELECT secret FROM pgrain.installation") != two.value(
        "SELECT secret FROM pgrain.installation")
    first, second = one.rows(queries["complain"]), two.rows(queries["complain"])
    assert len(first) != len(second) or first != second
    # One without a worker is not answered by the other's, and keeps out of its way.
    two.worker.stop()
    with pytest.raises(psycopg.OperationalError, match="worker"):
        two.execute(queries["complain"])
    assert one.rows(queries["complain"]) == first
    one.execute("DROP EXTENSION pgrain")        # and the roles stay for the other
    two.worker.start()
    assert two.rows(queries["complain"]) == second
