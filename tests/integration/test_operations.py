"""What a DBA watches: numbers for Prometheus, logs with request ids, the systemd unit."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
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
