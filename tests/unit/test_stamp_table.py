"""The table of tuple stamps against a dictionary, with and without room for every place."""

from types import SimpleNamespace

import numpy as np
import pytest

from pgrain.provenance.lineage import Numbered, number_digests
from pgrain.provenance.stamps import STAMP_BYTES
from pgrain.worker import stamp_table
from pgrain.worker.stamp_table import StampTable

LAYOUT = np.dtype([("block", ">u4"), ("offset", ">u2"), ("xmin", ">u4")])


def stamps(block, offset, xmin) -> np.ndarray:
    made = np.zeros(len(block), LAYOUT)
    made["block"], made["offset"], made["xmin"] = block, offset, xmin
    return made.view(np.uint8).reshape(-1, STAMP_BYTES)


def digests(rng, n: int) -> np.ndarray:
    return rng.integers(0, 256, (n, 16)).astype(np.uint8)


@pytest.mark.parametrize("room", [True, False])
def test_it_knows_what_a_dictionary_knows(monkeypatch, room):
    if not room:
        monkeypatch.setattr(stamp_table, "_PLACES", 0)
        monkeypatch.setattr(stamp_table, "_PLACES_A_STAMP", 2)
    rng, sparse = np.random.default_rng(0), 0
    for _ in range(60):
        table, known, pool = StampTable(), {}, digests(rng, rng.integers(1, 40))
        pool[rng.random(pool.shape) < 0.3] = 0          # also at their ends
        blocks = int(rng.integers(1, 400))
        for _ in range(6):
            n = int(rng.integers(1, 60))
            block, offset = rng.integers(0, blocks, n), rng.integers(1, rng.integers(2, 12), n)
            xmin = rng.integers(1, 4, n)
            once = np.unique(np.stack([block, offset], 1), axis=0, return_index=True)[1]
            block, offset, xmin = block[once], offset[once], xmin[once]
            told = pool[rng.integers(0, len(pool), len(once))]
            for b, o, x, digest in zip(block, offset, xmin, told, strict=True):
                if known.get((b, o), (None,))[0] != x:      # a tuple never changes
                    known[b, o] = x, digest.tobytes()
            table.learn(stamps(block, offset, xmin), told)
            assert len(table) == len(known)
            sparse += table._at is None
            block, offset = rng.integers(0, blocks + 5, 80), rng.integers(0, 14, 80)
            xmin = rng.integers(1, 4, 80)
            block[offset == 0] = xmin[offset == 0] = 0      # there is no value
            found, unknown = table.translate(stamps(block, offset, xmin))
            expected = [known.get((b, o), (None,)) for b, o in zip(block, offset, strict=True)]
            assert unknown.tolist() == [bool(o) and e[0] != x for o, x, e in
                                        zip(offset, xmin, expected, strict=True)]
            for digest, o, e, new in zip(found.digests(), offset, expected, unknown, strict=True):
                assert new or digest.tobytes() == (e[1] if o else bytes(16))
    assert bool(sparse) != room


def test_tuples_that_are_not_the_tables_own_stay_unknown():
    table, rng = StampTable(), np.random.default_rng(1)
    foreign = np.full((3, STAMP_BYTES), 0xFF, np.uint8)
    assert table.translate(foreign)[1].all()
    table.learn(stamps([0, 1], [1, 2], [7, 7]), digests(rng, 2))
    assert table.translate(foreign)[1].all()
    assert table.translate(stamps([0, 1, 1], [1, 2, 2], [7, 7, 8]))[1].tolist() == [0, 0, 1]


def test_over_the_limit_only_what_is_new_is_kept(monkeypatch):
    monkeypatch.setattr(stamp_table, "STAMPS", SimpleNamespace(default=5))
    table, rng = StampTable(), np.random.default_rng(2)
    first, second = stamps([0] * 4, [1, 2, 3, 4], [1] * 4), stamps([9] * 3, [1, 2, 3], [1] * 3)
    table.learn(first, digests(rng, 4))
    told = digests(rng, 3)
    table.learn(second, told)
    assert len(table) == 3 and table.translate(first)[1].all()
    assert (table.translate(second)[0].digests() == told).all()


def test_numbered_digests_are_numbered_as_sorting_numbers_them():
    rng = np.random.default_rng(3)
    distinct, _ = number_digests(digests(rng, 50))
    numbers, there = rng.integers(0, 50, 30), rng.random(30) < 0.8
    for given in (None, there):
        numbered = Numbered(distinct, numbers, given)
        rows = numbered.digests() if given is None else numbered.digests()[given]
        for ours, sorted_ in zip(numbered.used(), number_digests(rows), strict=True):
            assert (ours == sorted_).all()
