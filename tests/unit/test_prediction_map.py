"""The map of stored predictions: what was packed is found, nothing else, and damage is noticed."""

import fcntl
import mmap
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrain.errors import DataCorrupted
from pgrain.wire.prediction_map import PredictionMap, shift_for
from pgrain.worker.prediction_maps import _sealed, pack


def packed(n, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    digests = rng.integers(0, 256, (n, 16)).astype(np.uint8)
    codes = rng.integers(0, n_classes, n).astype(np.uint16)
    p = rng.random((n, n_classes), np.float32)
    return digests, codes, p, pack(digests, codes, p)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 100, 20_000])
def test_every_value_is_found_and_no_other(n):
    digests, codes, p, data = packed(n)
    found = PredictionMap(bytes(data))
    assert (found.n, found.n_classes, found.nbytes) == (n, 3, len(data))
    for digest, code, row in zip(digests, codes, p, strict=True):
        place = found.find(digest.tobytes())
        assert found.codes[place] == code
        assert found.probabilities(place) == row.tobytes()
    for other in np.random.default_rng(1).integers(0, 256, (500, 16)).astype(np.uint8):
        assert found.find(other.tobytes()) is None


@given(st.lists(st.binary(min_size=16, max_size=16).map(lambda d: bytes(b % 2 for b in d)),
                unique=True, max_size=40), st.binary(min_size=16, max_size=16))
@settings(max_examples=100, deadline=None)
def test_digests_that_are_alike(digests, other):
    """All in one bucket, and full of each other's pieces: no match across two of them."""
    names = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
    n = len(names)
    found = PredictionMap(bytes(pack(names, np.arange(n, dtype=np.uint16),
                                     np.zeros((n, 2), np.float32))))
    for number, digest in enumerate(digests):
        assert found.codes[found.find(digest)] == number
    for first, second in zip(digests, digests[1:], strict=False):
        across = (first + second)[5:21]
        place = found.find(across)
        assert place is None if across not in digests else found.codes[place] == \
            digests.index(across)
    assert (found.find(other) is None) == (other not in digests)


def test_buckets_stay_small():
    for n in (10, 1_000, 1_000_000):
        assert n / (1 << (32 - shift_for(n))) <= 2


def test_damage_is_noticed():
    *_, data = packed(50)
    for wrong in (b"", bytes(data[:40]), bytes(data[:-1]), b"x" * len(data)):
        with pytest.raises(DataCorrupted):
            PredictionMap(wrong)


def test_nobody_can_change_the_file():
    *_, data = packed(200)
    file = _sealed(data)
    try:
        with pytest.raises(OSError):
            os.pwrite(file, b"x", 0)
        with pytest.raises(OSError):
            os.ftruncate(file, 10)
        with pytest.raises(OSError):
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        with mmap.mmap(file, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == bytes(data)
    finally:
        os.close(file)
