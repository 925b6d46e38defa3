"""Stored arrays: what goes in comes out, and a flipped bit is noticed."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrain.errors import DataCorrupted
from pgrain.store.arrays import pack, pack_texts, unpack, unpack_texts
from pgrain.worker.variables import VariableTable


@settings(deadline=None)      # a busy machine is no defect
@given(st.lists(st.text()))
def test_texts_survive(texts):
    arrays = pack_texts(texts)
    checksum, data = pack(arrays)
    assert unpack_texts(unpack(checksum, data, "a list")) == texts


@given(st.data())
def test_a_flipped_bit_is_noticed(data):
    checksum, packed = pack({"x": np.arange(20, dtype=np.float32)})
    damaged = bytearray(packed)
    damaged[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DataCorrupted, match="a chunk"):
        unpack(checksum, bytes(damaged), "a chunk")


digests = st.lists(st.integers(0, 40), max_size=30).map(
    # Few distinct upper halves, so that equal ones with different lower halves occur.
    lambda numbers: np.array([[n % 3] * 8 + [n] * 8 for n in numbers], np.uint8).reshape(-1, 16))


@given(st.lists(digests, max_size=4), digests)
def test_variables_are_found_as_in_a_dictionary(batches, wanted):
    table, known = VariableTable(2, 1), {}
    for batch in batches:
        labels = np.array([row[15] % 2 for row in batch], np.int64)
        logits = np.array([[row[15], 1.0] for row in batch], np.float32).reshape(-1, 2)
        table.add(batch, labels, logits, np.zeros((len(batch), 2, 1), np.float32))
        known.update((row.tobytes(), row[15]) for row in batch)
    rows = table.find(wanted)
    predicted, p, J = table.snapshot()
    assert len(p) == len(J) == len(predicted) == len(known)
    for digest, row in zip(wanted, rows, strict=True):
        if digest.tobytes() not in known:
            assert row == -1
        else:
            assert predicted[row] == known[digest.tobytes()] % 2


def test_what_is_added_later_is_written_behind_what_readers_see():
    """Every evaluation keeps the arrays that it read. Were each addition a copy of the table, the
    worker would hold a table for each of them."""
    rng = np.random.default_rng(5)
    table = VariableTable(3, 2)

    def add(n):
        names = rng.integers(0, 256, (n, 16), dtype=np.uint8)
        table.add(names, rng.integers(0, 3, n), rng.normal(size=(n, 3)).astype(np.float32),
                  rng.normal(size=(n, 3, 2)).astype(np.float32))
        return names
    first = add(1000)
    kept = []
    for _ in range(200):
        seen = table.snapshot()
        kept.append((seen, [array.copy() for array in seen]))
        add(3)
    for seen, as_read in kept:
        for array, before in zip(seen, as_read, strict=True):
            np.testing.assert_array_equal(array, before)
    # 201 snapshots, and the first table with a few larger ones that replaced it.
    assert len({id(seen[2].base) for seen, _ in kept}) <= 4
    # Those of one addition lie in the order of their digests.
    in_order = np.array(sorted(first.tolist()), np.uint8)
    assert len(table) == 1600 and (table.find(in_order) == np.arange(1000)).all()


def test_a_table_of_values_that_are_not_stored_begins_anew(monkeypatch):
    """Rows come and go: what was computed for them is not kept for ever."""
    from types import SimpleNamespace

    from pgrain.worker import resident as module
    monkeypatch.setattr(module, "LIVE_BYTES", 100_000)
    residents = module.Residents(lambda: None)
    version = SimpleNamespace(lock=threading.RLock(), tables=OrderedDict(),
                              row=SimpleNamespace(classes=["a", "b"]))
    rng, seen = np.random.default_rng(3), []
    for _ in range(50):
        table = residents.table(version, None, 0)
        if not seen or seen[-1] is not table:
            seen.append(table)
        table.add(rng.integers(0, 256, (500, 16), dtype=np.uint8), np.zeros(500, np.int64),
                  np.zeros((500, 2), np.float32), None)
        assert table.live == len(table) and table.live_bytes < 150_000
    assert len(version.tables) == 1 and len(seen) > 5
    # What one look-up asks for stays, and as much again.
    table = residents.table(version, None, 0)
    kept = rng.integers(0, 256, (5000, 16), dtype=np.uint8)
    table.add(kept, np.zeros(5000, np.int64), np.zeros((5000, 2), np.float32), None)
    assert (table.find(kept) >= 0).all() and table.live_bytes > 300_000
    assert residents.table(version, None, 0) is table
    table.add(rng.integers(0, 256, (9000, 16), dtype=np.uint8), np.zeros(9000, np.int64),
              np.zeros((9000, 2), np.float32), None)
    assert len(residents.table(version, None, 0)) == 0
    stored = VariableTable(2, None)
    stored.add(rng.integers(0, 256, (500, 16), dtype=np.uint8), np.zeros(500, np.int64),
               np.zeros((500, 2), np.float32), None, live=False)
    assert stored.live_bytes == 0


def test_of_two_tables_each_value_is_read_where_it_is():
    """What is not stored moves to a table that begins anew; what has been stored since does not."""
    rng = np.random.default_rng(4)
    names = rng.integers(0, 256, (30, 16), dtype=np.uint8)
    predicted, logits = rng.integers(0, 3, 30), rng.normal(size=(30, 3)).astype(np.float32)
    J = rng.normal(size=(30, 3, 2)).astype(np.float32)
    old, new = VariableTable(3, 2), VariableTable(3, 2)
    old.add(names[:20], predicted[:20], logits[:20], J[:20])
    old.add(names[10:], predicted[10:], logits[10:], J[10:], live=False)
    assert (len(old), old.live) == (30, 10)
    new.add_live_of(old)
    assert (len(new), new.live) == (10, 10) and (new.find(names[10:]) < 0).all()
    at = new.find(names)
    found = new.rows(at, old, old.find(names[at < 0]))
    np.testing.assert_array_equal(found[0], predicted)
    np.testing.assert_array_equal(found[2], J)
    np.testing.assert_allclose(found[1].argmax(axis=1), logits.argmax(axis=1))
