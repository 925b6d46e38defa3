"""Sixteen sessions at once, a short form of `make load` (benchmarks/load.py): nobody is told
anything that the manual does not promise, and every answer is what a session alone gets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

CLIENTS, SECONDS = 16, 15


@pytest.fixture(scope="module")
def loaded(server):
    """What one run found."""
    from load import DATABASE, Load, collect, own_server
    if not Path(server.server.program("pgbench")).exists():
        pytest.skip("no pgbench beside the server")
    with own_server(CLIENTS) as (cluster, worker):
        load = Load(cluster, worker, DATABASE, CLIENTS, SECONDS, rows=600, heavy=3000)
        load.prepare()
        load.run()
        found = collect(load)
        found["log"], found["pgbench"] = worker.log.read_text(), load.pgbench
        return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_error_but_the_promised_ones(loaded):
    from load import promised
    assert [error for error in loaded["errors"] if not promised(*error)] == []
    assert [(code, err) for code, _, err in loaded["pgbench"] if code != 0] == []
    assert "traceback" not in loaded["log"]


def test_every_answer_is_the_one_of_a_serial_run(loaded):
    assert loaded["wrong"] == []
    assert loaded["compared"] > CLIENTS


def test_complaints_are_answered_while_long_jobs_run(loaded):
    """And the jobs end too."""
    answered = {row["kind"]: row["in_jobs"] for row in loaded["latencies"]}
    assert answered["complain"] > 0 and answered["complain on the watch"] > 0
    ended = {(model, kind): state for model, kind, state, _, _ in loaded["jobs"]}
    assert ended[("heavy", "train")] == ended[("heavy", "precompute")] == "succeeded"
    assert ended[("moving", "train")] == "succeeded"
