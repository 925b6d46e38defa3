"""predict and complain as one SELECT through what people use: psycopg, SQLAlchemy, ODBC, JDBC,
PgBouncer, and SQL as BI tools rewrite it. What is not installed is skipped, with its package."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import pytest

from pgrain.cli.place import server_account

REPORT = ("SELECT hour, count(*) AS reds FROM items WHERE pgrain.predict('colour', x) = 'red' "
          "GROUP BY hour ORDER BY hour")
COMPLAIN = (f"SELECT rank, train_id, train_key, score FROM pgrain.complain($q${REPORT}$q$, "
            "'reds too high WHERE hour = 1', 5)")
PROVENANCE = f"SELECT output_column, value, relaxed FROM pgrain.provenance($q${REPORT}$q$)"
PROBA = "SELECT id, pgrain.predict_proba('colour', x) FROM items WHERE x IS NOT NULL ORDER BY id"


@pytest.fixture(scope="module")
def forwarded(small):
    """A TCP port on 127.0.0.1 that leads to the cluster's socket."""
    target = str(small.cluster.run / ".s.PGSQL.5432")
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def accept():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(target)
            for pair in ((client, server), (server, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def same(got, expected) -> None:
    """Rows equal, numbers by value: drivers have types of their own."""
    assert len(got) == len(expected) > 0
    for a, b in zip(got, expected, strict=True):
        for one, other in zip(a, b, strict=True):
            if isinstance(other, float):
                assert float(one) == pytest.approx(other, rel=1e-12)
            else:
                assert str(one) == str(other)


PROBES = ["SELECT * FROM ({}) AS t LIMIT 0", "SELECT * FROM ({}) AS t WHERE 1 = 0",
          "SELECT * FROM ({}) AS t WHERE false", 'SELECT "t".* FROM ({}) "t" LIMIT 1001']


@pytest.mark.parametrize("wrapped", PROBES)
@pytest.mark.parametrize("query", [REPORT, COMPLAIN, PROVENANCE], ids=["predict", "complain",
                                                                       "provenance"])
def test_metadata_probes(small, query, wrapped):
    """Column names and types are there, whether or not there are rows."""
    plain = small.execute(query)
    probe = small.execute(wrapped.format(query))
    assert [(c.name, c.type_code) for c in probe.description] == [
        (c.name, c.type_code) for c in plain.description]
    if "1001" in wrapped:
        same(probe.fetchall(), plain.fetchall())
    else:
        assert probe.fetchall() == []


@pytest.mark.parametrize("query", [REPORT, COMPLAIN, PROVENANCE])
def test_prepared_and_read_only(small, query):
    expected = small.rows(query)
    with psycopg.connect(small.dsn()) as session:
        session.read_only = True
        for _ in range(4):
            assert session.execute(query, prepare=True).fetchall() == expected
        session.commit()
        session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        assert session.execute(query).fetchall() == expected
        session.commit()
    with psycopg.connect(small.dsn()) as session, session.cursor("server_side") as cursor:
        cursor.itersize = 2
        assert cursor.execute(query).fetchall() == expected


def test_parameters(small):
    """Bound on the server: the query and the complaint are parameters of one prepared statement."""
    with psycopg.connect(small.dsn(), autocommit=True) as session:
        for number in (1, 2, 3):
            rows = session.execute(
                "SELECT rank, train_id FROM pgrain.complain(%s, %s, %s, %s, %s::jsonb)",
                [REPORT, f"reds too high WHERE hour = {number}", 4, "delete", "{}"],
                prepare=True).fetchall()
            assert [row[0] for row in rows] == [1, 2, 3, 4]
        assert session.execute("SELECT pgrain.predict(%s, %s)", ["colour", [0.5, 1.5]],
                               prepare=True).fetchone()[0] in ("red", "green", "blue")


def test_psql(small):
    done = subprocess.run([small.cluster.server.program("psql"), "-qXAt", "-F", "\t", small.dsn(),
                           "-c", COMPLAIN], capture_output=True, text=True, check=True)
    same([line.split("\t") for line in done.stdout.splitlines()], small.rows(COMPLAIN))


def test_sqlalchemy(small):
    sqlalchemy = pytest.importorskip("sqlalchemy", reason="no sqlalchemy (pip install sqlalchemy)")
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(
        small.dsn()))
    with engine.connect() as connection:
        connection = connection.execution_options(postgresql_readonly=True)
        for query in (REPORT, COMPLAIN, PROVENANCE):
            same([tuple(row) for row in connection.execute(sqlalchemy.text(
                query.replace(":", "\\:")))], small.rows(query))
        table = sqlalchemy.func.pgrain.complain(REPORT, "reds too high", 3).table_valued(
            "rank", "train_id", "score")
        rows = connection.execute(sqlalchemy.select(table.c.train_id).order_by(table.c.rank)).all()
        assert len(rows) == 3
    names = sqlalchemy.inspect(engine).get_view_names(schema="pgrain")
    assert {"models", "jobs"} <= set(names)
    engine.dispose()


def superset(query: str, limit: int | None) -> str:
    """A query as Superset sends it: parsed, wrapped as a subquery, identifiers quoted, LIMIT."""
    sqlglot = pytest.importorskip("sqlglot")
    from sqlglot import exp
    inner = sqlglot.parse_one(query, read="postgres")
    outer = sqlglot.select("*").from_(inner.subquery("virtual_table"))
    if limit is not None:
        outer = outer.limit(limit)
    for identifier in outer.find_all(exp.Identifier):
        identifier.set("quoted", True)
    return outer.sql(dialect="postgres", identify=True, pretty=True)


def test_sql_as_superset_rewrites_it(small):
    for query in (REPORT, PROBA):
        rewritten = superset(query, 1000)
        assert rewritten != query and '"' in rewritten and "LIMIT 1000" in rewritten
        assert small.rows(rewritten) == small.rows(query)[:1000]
    # The query inside of complain is a text, and stays as it is; the call around it is rewritten.
    rewritten = superset(COMPLAIN, 3)
    same(small.rows(rewritten), small.rows(COMPLAIN)[:3])
    # And what a tool has rewritten can be complained about (but for a LIMIT of no order that some
    # of four hours may not reach: whose rows would they be?).
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="LIMIT without ORDER BY"):
        small.rows("SELECT * FROM pgrain.complain(%s, 'reds too high')", [superset(REPORT, 3)])
    for limit in (None, 100):
        assert small.rows(
            "SELECT train_id FROM pgrain.complain(%s, 'reds too high WHERE hour = 1', 5)",
            [superset(REPORT, limit)]) == small.rows(
                COMPLAIN.replace("rank, train_id, train_key, score", "train_id"))


def test_odbc(small, forwarded):
    pyodbc = pytest.importorskip(     # it is there without what it needs: another ImportError
        "pyodbc", exc_type=ImportError,
        reason="no pyodbc, or not what it needs (pip install pyodbc; packages unixodbc, "
               "odbc-postgresql)")
    drivers = list(Path("/usr/lib").glob("*/odbc/psqlodbcw.so"))
    if not drivers:
        pytest.skip("no ODBC driver (package odbc-postgresql)")
    connection = pyodbc.connect(
        f"Driver={drivers[0]};Server=127.0.0.1;Port={forwarded};Database={small.name};"
        "Uid=postgres;ReadOnly=1;UseServerSidePrepare=1;UseDeclareFetch=1;Fetch=3",
        autocommit=False)
    cursor = connection.cursor()
    for query in (REPORT, COMPLAIN, PROVENANCE):
        expected = small.execute(query)
        rows = cursor.execute(query).fetchall()
        assert [column[0] for column in cursor.description] == [
            column.name for column in expected.description]
        same([tuple(row) for row in rows], expected.fetchall())
        cursor.execute(f"SELECT * FROM ({query}) AS t WHERE 1 = 0")
        assert cursor.fetchall() == []
    rows = cursor.execute("SELECT rank FROM pgrain.complain(?, ?, 3)", REPORT,
                          "reds too high").fetchall()
    assert [row[0] for row in rows] == [1, 2, 3]
    connection.close()


def test_jdbc(small, forwarded, tmp_path):
    jars = sorted(Path("/usr/share/java").glob("postgresql*.jar"))
    if not shutil.which("java") or not shutil.which("javac"):
        pytest.skip("no Java compiler (package openjdk-17-jdk-headless)")
    if not jars:
        pytest.skip("no JDBC driver (package libpostgresql-jdbc-java)")
    queries = [REPORT, COMPLAIN, PROVENANCE, f"SELECT * FROM ({REPORT}) t WHERE 1 = 0"]
    (tmp_path / "queries.sql").write_text("\n;\n".join(queries))
    done = subprocess.run(
        ["java", "-cp", str(jars[0]), str(Path(__file__).parent / "Probe.java"),
         f"jdbc:postgresql://127.0.0.1:{forwarded}/{small.name}", str(tmp_path / "queries.sql")],
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = [[line[2:].split("\t") for line in part.strip("\n").splitlines() if line != "# "]
               for part in done.stdout.split("--\n")][:-1]
    assert len(answers) == len(queries)
    for query, rows in zip(queries[:3], answers, strict=False):
        same(rows, small.rows(query))
    assert answers[3] == []


@pytest.fixture
def bouncer(small):
    """PgBouncer in transaction mode in front of the cluster; its port."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not Path(program).exists():
        pytest.skip("no PgBouncer (package pgbouncer)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    account = server_account()
    folder = Path(tempfile.mkdtemp(prefix="pgrain-bouncer-", dir="/tmp"))
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "ini").write_text(f"""[databases]
* = host={small.cluster.run} port=5432
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {number}
unix_socket_dir =
auth_type = any
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 2
logfile = {folder}/log
ignore_startup_parameters = extra_float_digits
""".replace("* = host", f"{small.name} = user=postgres host"))
    for path in (folder, *folder.iterdir()):
        os.chown(path, account.uid, account.gid)
    process = subprocess.Popen([program, "-q", str(folder / "ini")], stderr=subprocess.DEVNULL,
                               **account.spawn_options())
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", number), 1).close()
            break
        except OSError:
            log = folder / "log"
            assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
            time.sleep(0.05)
    yield number
    process.terminate()
    process.wait(10)
    shutil.rmtree(folder)


def test_pgbouncer_in_transaction_mode(small, bouncer):
    """Twelve sessions on two backends: each transaction may land on another one."""
    expected = {query: small.rows(query) for query in (REPORT, COMPLAIN, PROVENANCE)}
    dsn = f"host=127.0.0.1 port={bouncer} dbname={small.name} user=postgres"
    sessions = [psycopg.connect(dsn, prepare_threshold=None) for _ in range(12)]
    pids = set()
    for number in range(3):
        for session in sessions:
            query = list(expected)[number]
            assert session.execute(query).fetchall() == expected[query]
            pids.add(session.execute("SELECT pg_backend_pid()").fetchone()[0])
            session.commit()
    assert 1 <= len(pids) <= 2
    for session in sessions:
        session.close()


def test_what_tools_show(small):
    """Columns of types that every driver knows, and comments on everything listed."""
    known = {"int4", "int8", "text", "float8", "bool", "jsonb", "_text", "_float8", "timestamptz",
             "name", "_name", "regclass", "numeric", "interval", "uuid", "bytea", "json",
             "_regclass"}
    types = {row[0] for row in small.rows("""
        SELECT t.typname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0
        JOIN pg_type t ON t.oid = atttypid WHERE relnamespace = 'pgrain'::regnamespace
        AND relkind = 'v'""")}
    assert types <= known
    assert small.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'pgrain'::regnamespace "
                       "AND relkind = 'v' AND obj_description(oid, 'pg_class') IS NULL") == 0
