"""pg_cron runs precompute, as docs/user/operations.md shows it."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from pgrain.cli.background import WorkerProcess
from pgrain.cli.cluster import Cluster
from pgrain.cli.place import prepare, server_account

PAGE = Path(__file__).resolve().parents[2] / "docs" / "user" / "operations.md"


@pytest.fixture
def shop(server):
    """A database with pg_cron, pgrain, a worker and a trained model without a spectrum."""
    if not (server.server.sharedir / "extension" / "pg_cron.control").exists():
        pytest.skip(f"no pg_cron (package postgresql-{server.server.major}-cron)")
    place = Path(tempfile.mkdtemp(prefix="pgrain-", dir="/tmp"))
    prepare(place, server_account())
    cluster = Cluster(place, server=server.server, account=server.account, settings={
        "fsync": "off", "shared_buffers": "32MB", "shared_preload_libraries": "pg_cron",
        "cron.database_name": "shop", "cron.host": str(place / "run")})
    worker = None
    try:
        cluster.start()
        cluster.ensure_database("shop")
        worker = WorkerProcess(cluster, "shop")
        worker.start()
        with cluster.connect("shop") as it:
            it.execute("CREATE EXTENSION pg_cron")
            it.execute("CREATE TABLE t AS SELECT i AS id, (i * 37 % 50)::float8 AS x, CASE WHEN "
                       "i * 37 % 50 > 30 THEN 'a' ELSE 'b' END AS label "
                       "FROM generate_series(1, 200) AS i")
            it.execute("SELECT pgrain.create_model('ops', 't', 'id', '{x}', 'label', "
                       "'logistic_regression')")
            it.execute("CALL pgrain.train('ops')")
            yield it
    finally:
        if worker:
            worker.stop()
        cluster.stop("immediate")
        shutil.rmtree(place, ignore_errors=True)


def test_precompute_at_night(shop):
    """The schedule of the manual runs; one that fails says why."""
    page = PAGE.read_text()
    schedule = re.search(r"^SELECT cron\.schedule\(.*?;$", page, re.M | re.S).group()
    look = re.search(r"^SELECT status, return_message.*?;$", page, re.M | re.S).group()
    right = shop.execute(schedule).fetchone()[0]
    wrong = shop.execute("SELECT cron.schedule('wrong', '0 3 * * *', "
                         "$$CALL pgrain.precompute('none')$$)").fetchone()[0]
    assert shop.execute("SELECT schedule FROM cron.job WHERE jobid = %s",
                        [right]).fetchone()[0] == "0 3 * * *"
    for number in (right, wrong):
        # Not at night, but as soon as this pg_cron can: before 1.5 it knows no seconds.
        try:
            shop.execute("SELECT cron.alter_job(%s, schedule => '2 seconds')", [number])
        except psycopg.Error:
            shop.execute("SELECT cron.alter_job(%s, schedule => '* * * * *')", [number])

    def ended():
        return dict(shop.execute("SELECT jobid, (status, return_message)::text "
                                 "FROM cron.job_run_details WHERE status IN ('succeeded', "
                                 "'failed') ORDER BY start_time").fetchall())
    deadline = time.monotonic() + 240
    while len(ended()) < 2:
        assert time.monotonic() < deadline, shop.execute(look).fetchall()
        time.sleep(0.2)
    for number in (right, wrong):
        shop.execute("SELECT cron.unschedule(%s)", [number])
    assert ended()[right].startswith("(succeeded"), ended()
    assert ended()[wrong].startswith("(failed")
    assert 'model ""none"" does not exist' in ended()[wrong]
    while shop.execute(look).fetchone()[0] == "running":       # the next run has begun meanwhile
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert shop.execute(look).fetchone()[0] in ("succeeded", "failed")
    k, stale = shop.execute("SELECT k, stale FROM pgrain.models JOIN pgrain.staleness "
                            "USING (model)").fetchone()
    assert k > 0 and stale is False
