"""The demo's data: what the IDX reader accepts, how many labels go wrong, and which."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from pgrain.demo import corruptions, datasets
from pgrain.demo.corruptions import DRESS, SNEAKER, TROUSER
from pgrain.demo.datasets import DatasetBroken, DatasetMissing, Images


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("shape", [(5,), (2, 3), (4, 28, 28)])
def test_idx_reads_back_what_was_written(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(idx(array)))
    np.testing.assert_array_equal(datasets.read_idx(path), array)


@pytest.mark.parametrize("damage", [
    lambda data: data[:-1], lambda data: data + b"x", lambda data: b"\1" + data[1:],
    lambda data: data[:2] + b"\x0d" + data[3:], lambda data: data[:5], lambda data: b""])
def test_idx_refuses_a_damaged_file(tmp_path, damage):
    path = tmp_path / "a"
    path.write_bytes(damage(idx(np.zeros((2, 3), np.uint8))))
    with pytest.raises(DatasetBroken):
        datasets.read_idx(path)


def test_missing_package_says_how_to_get_it(tmp_path):
    with pytest.raises(DatasetMissing, match="apt-get install dataset-fashion-mnist"):
        datasets.fashion_mnist("train", tmp_path)


@pytest.mark.skipif(not datasets.FOLDER.exists(), reason="dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_what_it_should_be():
    test = datasets.fashion_mnist("t10k")
    assert test.pixels.shape == (10_000, 28, 28)
    assert np.bincount(test.labels).tolist() == [1000] * 10


@pytest.fixture
def images() -> Images:
    """1 000 pictures, 300 of them trousers, of all brightnesses."""
    rng = np.random.default_rng(7)
    labels = np.repeat([TROUSER, DRESS, SNEAKER, 0], [300, 300, 300, 100]).astype(np.uint8)
    rng.shuffle(labels)
    return Images(rng.integers(0, 256, (1000, 28, 28), np.uint8), labels)


def test_bright_flips_ninety_percent_of_the_brightest_trousers_to_dress(images):
    bad = corruptions.bright(images, seed=0)
    assert bad.wrong.sum() == round(0.9 * 120)
    assert set(images.labels[bad.wrong]) == {TROUSER} and set(bad.labels[bad.wrong]) == {DRESS}
    brightness = images.pixels.sum((1, 2), dtype=np.int64)
    trousers = images.labels == TROUSER
    limit = np.sort(brightness[trousers])[-120]
    assert brightness[bad.wrong].min() >= limit


def test_random_flips_forty_percent_of_the_trousers_to_sneaker(images):
    bad = corruptions.random(images, seed=0)
    assert bad.wrong.sum() == 120
    assert set(images.labels[bad.wrong]) == {TROUSER} and set(bad.labels[bad.wrong]) == {SNEAKER}


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_a_seed_fixes_the_errors_and_true_labels_stay(images, name):
    corrupt = corruptions.CORRUPTIONS[name]
    before = images.labels.copy()
    first, again, other = corrupt(images, 1), corrupt(images, 1), corrupt(images, 2)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.labels != other.labels).any()
    np.testing.assert_array_equal(images.labels, before)
    np.testing.assert_array_equal(first.wrong, first.labels != images.labels)
