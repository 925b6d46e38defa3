"""Fixtures, split by what they need.

nothing         the tests of unit, numerics, provenance
`server`        a private PostgreSQL cluster of this test session, with the extension of this tree
`database`      factory of fresh databases with the extension; `module_database` lives for a module
`worker`        factory of worker processes, one a database, for a module
`as_role`       connections as an ordinary role
`small`         a database with a worker and a small trained model, for a module

Without a PostgreSQL that has plpython3u, tests that need one are skipped with that reason.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pgrain.cli.background import WorkerProcess
from pgrain.cli.cluster import Cluster
from pgrain.cli.install import InstallError, find_server, install, is_current
from pgrain.cli.place import PlaceError, prepare, server_account

_numbers = itertools.count(1)


class Database:
    """A database of the test cluster, with one autocommit superuser connection (opened when
    first used)."""

    def __init__(self, cluster: Cluster, name: str):
        self.cluster = cluster
        self.name = name
        self._connection: psycopg.Connection | None = None
        self._others: list[psycopg.Connection] = []

    @property
    def connection(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self.connect()
        return self._connection

    def dsn(self, role: str = "postgres") -> str:
        return self.cluster.dsn(self.name, role)

    def connect(self, role: str = "postgres", **options) -> psycopg.Connection:
        """Another autocommit session; closed with the database."""
        connection = self.cluster.connect(self.name, role, **options)
        self._others.append(connection)
        return connection

    def execute(self, query, parameters=None) -> psycopg.Cursor:
        return self.connection.execute(query, parameters)

    def rows(self, query, parameters=None) -> list[tuple]:
        return self.execute(query, parameters).fetchall()

    def value(self, query, parameters=None):
        """The first column of the first row."""
        row = self.execute(query, parameters).fetchone()
        return None if row is None else row[0]

    def dumped_into(self, empty: Database) -> Database:
        """`empty` with what pg_dump writes of this one."""
        dump = subprocess.run([self.cluster.server.program("pg_dump"), self.dsn()],
                              capture_output=True, text=True, check=True).stdout
        restored = subprocess.run([self.cluster.server.program("psql"), "-qX", "-v",
                                   "ON_ERROR_STOP=1", empty.dsn()], input=dump, text=True,
                                  capture_output=True)
        assert restored.returncode == 0, restored.stderr
        return empty

    def close(self) -> None:
        for connection in self._others:
            with contextlib.suppress(psycopg.Error):
                connection.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Cluster]:
    """A running cluster of its own, short-lived, with the extension of this working tree."""
    try:
        installation = find_server()
        account = server_account()
    except (InstallError, PlaceError) as error:
        pytest.skip(f"no PostgreSQL for tests: {error}")
    if not installation.has_plpython:
        pytest.skip(f"PostgreSQL {installation.major} has no plpython3u")
    try:
        install(installation)
    except InstallError as error:
        if not is_current(installation):
            pytest.skip(f"the extension of this tree is not installed "
                        f"({error}); run `make install`")
    # Short, and outside pytest's own folder, which the server's OS user cannot enter.
    place = Path(tempfile.mkdtemp(prefix="pgrain-", dir="/tmp"))
    prepare(place, account)
    cluster = Cluster(place, server=installation, account=account, settings={
        # Nothing here outlives the session; a crash test kills processes, not the machine.
        "fsync": "off", "full_page_writes": "off", "synchronous_commit": "off",
        "shared_buffers": "128MB", "log_min_messages": "notice",
        "max_prepared_transactions": "4"})
    cluster.start()
    yield cluster
    if os.environ.get("PGRAIN_TEST_KEEP"):
        print(f"\nkept: {cluster.dsn('postgres')}")
        return
    cluster.stop("immediate")
    shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _databases(cluster: Cluster) -> Iterator[Callable[..., Database]]:
    made: list[Database] = []

    def make(extension: bool = True) -> Database:
        database = Database(cluster, f"test_{next(_numbers)}")
        with cluster.connect("postgres") as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database.name)))
        made.append(database)
        if extension:
            database.execute("SET client_min_messages = warning")
            database.execute("CREATE EXTENSION pgrain CASCADE")
            database.execute("RESET client_min_messages")
        return database

    try:
        yield make
    finally:
        for database in made:
            database.close()
            with cluster.connect("postgres") as connection:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(
                    sql.Identifier(database.name)))


@pytest.fixture
def database(server: Cluster) -> Iterator[Callable[..., Database]]:
    """`database()` makes a fresh database with the extension; dropped after the test."""
    with _databases(server) as make:
        yield make


@pytest.fixture(scope="module")
def module_database(server: Cluster) -> Iterator[Callable[..., Database]]:
    """As `database`, for a whole module: what is costly to train is trained once."""
    with _databases(server) as make:
        yield make


@pytest.fixture(scope="module")
def worker(server: Cluster) -> Iterator[Callable[..., WorkerProcess]]:
    """`worker(database)` starts a worker process for a database and waits until it answers.

    The result has `pid`, `stop()`, `kill()` (-9), `start()`, `log_tail()`, `socket`.
    """
    running: list[WorkerProcess] = []

    def start(database: Database, **options) -> WorkerProcess:
        process = WorkerProcess(server, database.name, name=f"{database.name}-{next(_numbers)}",
                                **options)
        running.append(process)
        process.start()
        return process

    yield start
    for process in running:
        process.stop()


@pytest.fixture
def as_role() -> Iterator[Callable[..., psycopg.Connection]]:
    """`as_role(database, "alice", grant=...)`: a session of a role, made if it is not there.

    grant: None (no rights), "user" or "admin" (`pgrain.grant_usage`).
    """
    made: list[tuple[Database, str]] = []
    opened: list[psycopg.Connection] = []

    def connect(database: Database, role: str, grant: str | None = None) -> psycopg.Connection:
        if not database.value("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]):
            database.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
            made.append((database, role))
        if grant:
            database.execute("SELECT pgrain.grant_usage(%s, %s)", [role, grant == "admin"])
        opened.append(database.connect(role))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()
    for database, role in made:
        name = sql.Identifier(role)
        with database.connect() as connection:
            connection.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(name, name))


SMALL = """
CREATE TABLE train (id integer PRIMARY KEY, x float8[], label text);
INSERT INTO train
SELECT i, ARRAY[cos(i * 2.4) * (1 + i % 3) + (i % 3) * 2, sin(i * 1.7) * 2 - (i % 3)],
       (ARRAY['red', 'green', 'blue'])[i % 3 + 1]
FROM generate_series(1, 240) AS i;
-- a tenth of the reds are labelled blue
UPDATE train SET label = 'blue' WHERE label = 'red' AND id % 10 = 0;
CREATE TABLE items (id integer PRIMARY KEY, x float8[], claim text, hour integer);
INSERT INTO items
SELECT i, ARRAY[cos(i * 3.1) * (1 + i % 3) + (i % 3) * 2, sin(i * 2.3) * 2 - (i % 3)],
       (ARRAY['red', 'green', 'blue'])[i % 3 + 1], i % 4
FROM generate_series(1, 120) AS i;
INSERT INTO items SELECT id + 1000, x, claim, hour FROM items WHERE id <= 10;   -- shared values
INSERT INTO items VALUES (2000, NULL, 'red', 1);
"""


@pytest.fixture(scope="module")
def small(module_database, worker):
    """A database with a worker and model `colour`: trained, precomputed, items attached."""
    database = module_database()
    database.worker = worker(database)
    for statement in SMALL.split(";\n"):
        if statement.strip():
            database.execute(statement)
    database.execute("SELECT pgrain.create_model('colour', 'train', 'id', '{x}', 'label', "
                     "'logistic_regression', '{\"alpha\": 0.5}')")
    database.execute("CALL pgrain.train('colour')")
    database.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
    database.execute("CALL pgrain.attach('colour', 'items')")
    return database


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks by what a test asks for, so that `-m "not server"` needs no list kept by hand."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "server" in fixtures:
            item.add_marker(pytest.mark.server)
        if "worker" in fixtures:
            item.add_marker(pytest.mark.worker)
