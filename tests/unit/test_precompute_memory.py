"""Precompute holds the encoded table and a block of rows, not all rows."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from pgrain.models.encoding import Encoder
from pgrain.store.relations import Row
from pgrain.store.versions import LearnedRows
from pgrain.worker import precompute_job

N, COLUMNS = 12_000, [f"c{i}" for i in range(10)]

LEARNED = LearnedRows([str(i) for i in range(N)], np.zeros(N, np.int64),
                      np.ones((N, 16), np.uint8), np.zeros(N, bool), True, np.zeros(N, np.int64))


def row(i: int) -> Row:
    return Row(value={name: (i * 37 + j) / 7 for j, name in enumerate(COLUMNS)}, digest=b"",
               key=str(i), label="a")


@pytest.fixture
def read(monkeypatch):
    """`read(order, keep)`: the rows of the table in that order, found as learned."""
    encoder = Encoder.fit("columns", [row(i).value for i in range(50)], COLUMNS, {})
    monkeypatch.setattr(precompute_job, "_BLOCK_ROWS", 500)
    monkeypatch.setattr(precompute_job.versions, "read_secret", lambda connection: b"")
    monkeypatch.setattr(precompute_job.relations, "count", lambda *given: N)
    monkeypatch.setattr(precompute_job.training_look, "now", lambda connection: "")
    monkeypatch.setattr(precompute_job.training_look, "removed", lambda *given: set())
    monkeypatch.setattr(precompute_job.training_look, "record", lambda *given: None)

    def start(order, keep=False):
        monkeypatch.setattr(precompute_job.relations, "read",
                            lambda *given, **more: map(row, order))
        repairing = SimpleNamespace(
            all=[1] if keep else [], as_learned=lambda rows, learned, classes, where: (
                (one, int(one.key)) for one in rows))
        job = SimpleNamespace(connection=None, submitter="", model="m", report=lambda *given: None,
                              waits=lambda phase: None)
        model = SimpleNamespace(training_table=1, kind="columns", features=COLUMNS, key="id",
                                label="y")
        resident = SimpleNamespace(
            encoder=encoder, row=SimpleNamespace(classes=["a"], version=1),
            learned=LEARNED)
        return precompute_job.learned_rows(job, model, resident, repairing), encoder
    return start


def test_rows_come_in_any_order_and_some_are_missing(read):
    order = np.random.default_rng(0).permutation(N)[:900].tolist()
    found, encoder = read(order, keep=True)
    np.testing.assert_array_equal(found.numbers, sorted(order))
    np.testing.assert_array_equal(found.X, encoder.encode([row(i).value for i in sorted(order)]))
    assert [one.key for one in found.whole] == [str(i) for i in sorted(order)]
    found, _ = read([])
    assert found.X.shape == (0, 10) and not len(found.numbers) and not found.whole


def test_memory_is_that_of_the_encoded_table(read):
    def peak(keep: bool) -> int:
        tracemalloc.start()
        found, _ = read(range(N), keep)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.X.shape == (N, 10)
        return most

    encoded = N * 10 * 4
    assert peak(False) < encoded + (2 << 20)
    assert peak(True) > encoded + (6 << 20)         # what holding the rows would take
