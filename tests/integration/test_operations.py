"""What a DBA watches: numbers for Prometheus, logs with request ids, the systemd unit."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import psycopg
import pytest

from pgrain.cli.background import WorkerProcess

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def watched(module_database, server):
    """A database whose worker serves metrics and logs JSON, a line a request."""
    pytest.importorskip("prometheus_client")
    it = module_database()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    it.worker = WorkerProcess(server, it.name, name=f"{it.name}-watched", arguments=(
        "--metrics", str(port), "--log-format", "json", "--log-level", "debug"))
    it.worker.start()
    it.metrics_port = port
    it.metrics = lambda: urllib.request.urlopen(  # noqa: S310
        f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    it.execute("CREATE TABLE t AS SELECT i AS id, (i * 37 % 50)::float8 AS x, CASE WHEN "
               "i * 37 % 50 > 30 THEN 'a' ELSE 'b' END AS label FROM generate_series(1, 100) AS i")
    it.execute("SELECT pgrain.create_model('m', 't', 'id', '{x}', 'label', 'logistic_regression')")
    it.execute("CALL pgrain.train('m')")
    it.execute("CALL pgrain.precompute('m')")
    yield it
    it.worker.stop()


def value(text: str, name: str, **labels: str) -> float:
    wanted = "".join(rf'(?=[^}}]*{key}="{content}")' for key, content in labels.items())
    found = re.search(rf"^{name}(?:\{{{wanted}[^}}]*\}})? (\S+)$", text, re.M)
    return float(found[1]) if found else 0.0


def test_prometheus_counts_what_was_asked_and_what_came_of_it(watched):
    before = watched.metrics()
    complain = ("SELECT count(*) FROM pgrain.complain($$ SELECT count(*) AS n FROM t WHERE "
                "pgrain.predict('m', t) = 'a' $$, '{} too high')")
    assert watched.value(complain.format("n")) > 0
    with pytest.raises(psycopg.Error) as caught:
        watched.execute(complain.format("nothing"))
    after = watched.metrics()
    gained = {(method, state): value(after, "pgrain_requests_total", method=method, sqlstate=state)
              - value(before, "pgrain_requests_total", method=method, sqlstate=state)
              for method, state in (("rank", "00000"), ("evaluate", caught.value.sqlstate))}
    assert gained == {("rank", "00000"): 1, ("evaluate", caught.value.sqlstate): 1}
    assert value(after, "pgrain_request_seconds_count", method="rank") == \
        value(after, "pgrain_requests_total", method="rank", sqlstate="00000")
    assert value(after, "pgrain_jobs_total", kind="train", state="succeeded") == 1
    assert value(after, "pgrain_connections") >= 1 and value(after, "pgrain_requests_present") == 0
    assert value(after, "process_resident_memory_bytes") > 1e7
    assert f'database="{watched.name}"' in after


def test_prometheus_is_asked_nonsense(watched):
    """Its port is open to all on the machine: garbage and silence cost the worker nothing."""
    port = watched.metrics_port

    def say(text: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
            caller.sendall(text)
            with contextlib.suppress(ConnectionError):
                return caller.recv(100)     # a timeout is an error
        return b""

    threads = lambda: len(list(Path(f"/proc/{watched.worker.pid}/task").iterdir()))  # noqa: E731
    before = threads()
    for text in (b"\x00\xff" * 5000 + b"\r\n\r\n", b"GET /metrics HTTP/9.9\r\n\r\n",
                 b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
                 b"GET " + b"/" * 100_000, b"GET /metrics?name[]=%00 HTTP/1.1\r\n\r\n",
                 b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 50_000):
        say(text)
    began = time.monotonic()
    with contextlib.ExitStack() as silent:
        for _ in range(50):
            silent.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert say(b"") == b"" and time.monotonic() - began < 15, "silence is not waited for"
        deadline = time.monotonic() + 30
        while threads() > before + 5:
            assert time.monotonic() < deadline, "each silent caller keeps a thread"
            time.sleep(0.2)
    assert 'database="' in watched.metrics()
    assert watched.value("SELECT ok FROM pgrain.doctor() WHERE what = 'worker'")


@pytest.mark.parametrize("where", ["99999", "127.0.0.1:123456", "nothing", "host:", "-1"])
def test_a_place_for_metrics_that_is_none(watched, server, where):
    one = WorkerProcess(server, watched.name, name=f"{watched.name}-nowhere",
                        arguments=("--metrics", where))
    one.start(wait=False)
    try:
        deadline = time.monotonic() + 40
        while "no address for metrics" not in one.log_tail(10_000):
            assert time.monotonic() < deadline, one.log_tail(10_000)
            time.sleep(0.2)
        assert "Traceback" not in one.log_tail(10_000)
    finally:
        one.stop()


def test_log_lines_are_json_with_the_number_of_request_or_job(watched):
    pid = watched.connection.info.backend_pid
    watched.value("SELECT pgrain.predict('m', '{\"x\": 12345}'::jsonb)")
    lines = [json.loads(line) for line in watched.worker.log.read_text().splitlines()
             if line.startswith("{")]
    requests = [line for line in lines if line["event"].endswith("request")]
    mine = [line for line in requests if line["request"].startswith(f"{pid}.")]
    assert mine and {"method", "sqlstate", "seconds", "timestamp", "level"} <= mine[-1].keys()
    assert mine[-1]["method"] == "predict"
    numbers = [line["request"] for line in requests]
    assert len(set(numbers)) == len(numbers)
    jobs = watched.rows("SELECT job::text, kind FROM pgrain.jobs ORDER BY job")
    assert [(str(line["job"]), line["kind"]) for line in lines
            if line["event"] == "job finished"] == jobs


def test_the_systemd_unit_is_a_valid_one(tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze")
    page = (ROOT / "docs" / "user" / "worker.md").read_text()
    unit = re.search(r"```ini\n(.*?)```", page, re.S)[1]
    assert "Restart=always" in unit and "User=root" not in unit
    file = tmp_path / "pgrain-shop.service"
    # The paths of the manual are not here; everything else is judged as it stands there.
    file.write_text(unit.replace("/opt/pgrain/bin/pgrain", "/bin/true")
                    .replace("After=postgresql.service\n", ""))
    done = subprocess.run([program, "verify", "--man=no", file], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "pgrain-shop" in line]
    assert done.returncode == 0 and said == [], done.stderr


def test_doctor_counts_failures_that_can_still_be_mended(watched):
    """Not those that are old, dismissed, or of what is gone; it says how to dismiss one."""
    def jobs():
        return watched.rows("SELECT ok, detail, hint FROM pgrain.doctor() WHERE what = 'jobs'")[0]

    def failed(kind, arguments="{}", age="1 hour"):
        return watched.value("INSERT INTO pgrain.job (kind, model, arguments, state, submitted_at, "
                             "finished_at) VALUES (%s, 'm', %s, 'failed', now() - %s::interval, "
                             "now() - %s::interval) RETURNING job", [kind, arguments, age, age])

    assert jobs()[0]
    old = failed("train", age="8 days")
    assert jobs()[0], "an old failure"
    moot = failed("precompute", age="2 days")
    assert jobs()[0], "of a version that is active no more"
    gone = failed("attach", json.dumps({"relation": 1}))
    assert jobs()[0], "of a relation that is not attached"
    number = failed("train")
    ok, detail, hint = jobs()
    assert not ok and "1 failed" in detail and f"SELECT pgrain.cancel({number})" in hint
    more = failed("train")
    ok, detail, hint = jobs()
    assert not ok and "2 failed" in detail
    assert hint.count(f"job IN ({number}, {more})") == 2     # to look at, and to dismiss
    watched.execute("DELETE FROM pgrain.job WHERE job = %s", [more])
    assert watched.value("SELECT pgrain.cancel(%s)", [number]) is False
    assert watched.value("SELECT state FROM pgrain.jobs WHERE job = %s", [number]) == "failed"
    assert jobs()[0], "dismissed"
    # An attach that worked does not answer for one of another relation.
    watched.execute("CREATE TABLE one AS SELECT * FROM t; CREATE TABLE two AS SELECT * FROM t")
    watched.execute("CALL pgrain.attach('m', 'one')")
    again = failed("attach", json.dumps({"relation": watched.value("SELECT 'one'::regclass::oid")}))
    assert not jobs()[0]
    watched.execute("CALL pgrain.attach('m', 'two')")
    assert not jobs()[0]
    watched.execute("CALL pgrain.attach('m', 'one')")
    assert jobs()[0], "repeated with success"
    watched.execute("DELETE FROM pgrain.job WHERE job = ANY (%s)", [[old, moot, gone, number,
                                                                     again]])


def test_a_worker_with_too_many_rights_says_so(watched, server):
    """In its log, and in doctor; with what to do."""
    one = WorkerProcess(server, watched.name, name=f"{watched.name}-super", arguments=(
        "--dsn", server.dsn(watched.name, "postgres")))
    assert not watched.rows("SELECT FROM pgrain.doctor() WHERE what = $$worker's role$$")
    assert "more rights" not in watched.worker.log_tail(10_000)
    watched.worker.stop()
    logged = server.log.stat().st_size
    try:
        watched.execute(f"ALTER ROLE postgres IN DATABASE {watched.name} SET log_statement = 'all'")
        one.start()
        watched.execute("CALL pgrain.train('m')")
        with watched.connect() as session:
            ok, detail, hint = session.execute(
                "SELECT ok, detail, hint FROM pgrain.doctor() WHERE what = $$worker's role$$"
            ).fetchone()
        assert not ok and '"postgres", a superuser' in detail and "user=pgrain_worker" in hint
        warned = [line for line in one.log.read_text().splitlines() if "more rights" in line]
        assert len(warned) == 1 and "level='warning'" in warned[0] and "postgres" in warned[0]
        # What it stores is in the server's log no more than if it were pgrain_worker.
        log = server.log.read_bytes()[logged:].decode(errors="replace")
        writers = set(re.findall(r"\[(\d+)\] .*INSERT INTO pgrain\.version_chunk", log))
        assert writers
        assert not [line[:300] for line in log.splitlines() if "parameters: " in line
                    and re.search(r"\[(\d+)\] ", line)[1] in writers]
    finally:
        one.stop()
        watched.execute(f"ALTER ROLE postgres IN DATABASE {watched.name} RESET log_statement")
        watched.worker.start()


def test_changes_that_pile_up_are_in_doctor(watched):
    """Without a worker nobody folds them: how many, their size, and both ways out."""
    watched.execute("CREATE TABLE changing AS SELECT * FROM t")
    watched.execute("CALL pgrain.watch('piled', $$ SELECT count(*) AS n FROM changing AS c WHERE "
                    "pgrain.predict('m', c) = 'a' $$)")
    watched.worker.stop()
    try:
        number = watched.value("SELECT watch FROM pgrain.watch WHERE name = 'piled'")
        watched.execute("INSERT INTO pgrain.watch_note (watch, sign, print, snapshot, xid) "
                        "SELECT %s, 1, '', pg_current_snapshot(), pg_current_xact_id() "
                        "FROM generate_series(1, 5001)", [number])
        ok, detail, hint = watched.rows("SELECT ok, detail, hint FROM pgrain.doctor() "
                                        "WHERE what = 'watch piled'")[0]
        assert not ok and "5001 changes" in detail and "kB" in detail
        assert "pgrain worker" in hint and "SELECT pgrain.unwatch('piled')" in hint
        watched.execute("SELECT pgrain.unwatch('piled')")
        assert watched.value("SELECT count(*) FROM pgrain.watch_note") == 0
        assert not watched.rows("SELECT FROM pgrain.doctor() WHERE what = 'watch piled'")
    finally:
        watched.worker.start()


def test_old_versions_can_be_taken_away(watched, as_role):
    """As the manual says, by an admin: nothing of them is left, and the active one goes on."""
    admin = as_role(watched, "tidier", grant="admin")
    for _ in range(2):
        watched.execute("CALL pgrain.train('m')")
        watched.execute("CALL pgrain.precompute('m')")
    complain = ("SELECT train_id, score FROM pgrain.complain($$ SELECT count(*) AS n FROM t WHERE "
                "pgrain.predict('m', t) = 'a' $$, 'n too high')")
    before = watched.rows(complain)
    page = (ROOT / "docs" / "user" / "operations.md").read_text()
    statement = re.search(r"DELETE FROM pgrain\.model_version.*?;", page, re.S)[0]
    assert admin.execute(statement).rowcount == 0       # none is so old
    assert admin.execute(statement.replace("30 days", "0 days")).rowcount >= 2
    assert watched.value("SELECT count(*) FROM pgrain.sizes WHERE model = 'm'") == 1
    for table, column in (("version_chunk", "version"), ("spectrum", "version"),
                          ("prediction_chunk", "version")):
        assert watched.value(f"SELECT count(*) FROM pgrain.{table} WHERE {column} NOT IN "
                             "(SELECT version FROM pgrain.models)") == 0
    assert watched.rows(complain) == before
    assert watched.value("SELECT ok FROM pgrain.doctor() WHERE what = 'model m'")
