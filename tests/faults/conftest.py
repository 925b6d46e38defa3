"""A cluster that a test may break, and models in it."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from pgrain.cli.background import WorkerProcess
from pgrain.cli.cluster import Cluster
from pgrain.cli.place import prepare, server_account

_numbers = itertools.count(1)

TABLES = """
CREATE TABLE train AS
SELECT i AS id, ARRAY[cos(i * 2.4) * (1 + i % 3) + (i % 3) * 2, sin(i * 1.7) * 2 - (i % 3)] AS x,
       (ARRAY['red', 'green', 'blue'])[i % 3 + 1] AS label
FROM generate_series(1, {rows}) AS i;
ALTER TABLE train ADD PRIMARY KEY (id);
CREATE TABLE items AS
SELECT i AS id, ARRAY[cos(i * 3.1) * (1 + i % 3), sin(i * 2.3) * 2 - (i % 3)] AS x, i % 4 AS hour
FROM generate_series(1, {rows}) AS i
"""
REPORT = ("SELECT hour, count(*) AS reds FROM items WHERE pgrain.predict('colour', x) = 'red' "
          "GROUP BY hour ORDER BY hour")
COMPLAIN = f"SELECT train_id, score FROM pgrain.complain($q${REPORT}$q$, 'reds too high')"


@pytest.fixture
def own_cluster(server):
    """`own_cluster(**settings)`: a cluster of the test's own, with fsync off."""
    made = []

    def make(**settings) -> Cluster:
        place = Path(tempfile.mkdtemp(prefix="pgrain-", dir="/tmp"))
        prepare(place, server_account())
        cluster = Cluster(place, server=server.server, account=server.account, settings={
            "fsync": "off", "shared_buffers": "32MB", "max_wal_size": "256MB", **settings})
        made.append(cluster)
        cluster.start()
        return cluster
    yield make
    for cluster in made:
        cluster.stop("immediate")
        shutil.rmtree(cluster.place, ignore_errors=True)


@pytest.fixture
def own_worker():
    """`own_worker(cluster, database)`: a worker of the test's own."""
    made = []

    def make(cluster: Cluster, database: str, wait: bool = True) -> WorkerProcess:
        process = WorkerProcess(cluster, database, name=f"own-{next(_numbers)}")
        made.append(process)
        process.start(wait)
        return process
    yield make
    for process in made:
        process.stop()


def make_model(connection, *, rows: int = 300, architecture: str = "logistic_regression",
               options: str = "{}") -> None:
    """Tables `train` and `items`, and a model `colour` that is not trained yet."""
    for statement in TABLES.format(rows=rows).split(";"):
        connection.execute(statement)
    connection.execute("SELECT pgrain.create_model('colour', 'train', 'id', '{x}', 'label', %s, "
                       "%s::jsonb)", [architecture, options])


@pytest.fixture
def model_in():
    """`make_model` as a fixture."""
    return make_model


@pytest.fixture(scope="session")
def queries() -> dict[str, str]:
    """The report and the complaint about it."""
    return {"report": REPORT, "complain": COMPLAIN}


@pytest.fixture(scope="session")
def until():
    """`until(condition, seconds)`: poll; an assertion with the description if it does not come."""
    def wait(condition, what: str, seconds: float = 60, step: float = 0.02):
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            time.sleep(step)
        return value
    return wait
