"""The library of repairs: each does what its name says, leaves other cells alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pgrain.errors import InvalidArgument, LimitExceeded
from pgrain.intervention import duplicates, library

SHAPE = [28, 28, 1]


def pictures(n=5, noise=0.0, seed=0):
    """Smooth blobs, and the same with salt and pepper."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:28, :28]
    clean = np.stack([200 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 60)
                      for a, b in rng.uniform(8, 20, (n, 2))]).astype(np.uint8)
    dirty = clean.copy()
    hit = rng.random(clean.shape) < noise
    dirty[hit] = rng.choice([0, 255], hit.sum())
    return clean, dirty


def repaired(name, values, options=None, kind="bytea", features=("image",), shape=SHAPE):
    options = library.check_repair(name, options or {}, kind, list(features), shape)
    fitted = library.fit(name, values, options)
    return library.transform(name, values, options, fitted, shape)


def test_the_median_filter_takes_salt_and_pepper_away():
    clean, dirty = pictures(noise=0.3)
    out = repaired("median", [picture.tobytes() for picture in dirty], {"size": 5})
    out = np.frombuffer(b"".join(out), np.uint8).reshape(dirty.shape)
    before, after = (np.abs(x.astype(float) - clean).mean() for x in (dirty, out))
    assert after < 0.15 * before
    expected = np.stack([ndimage.median_filter(picture, 5, mode="nearest") for picture in dirty])
    np.testing.assert_array_equal(out, expected)   # none bleeds into another


def test_the_bilateral_filter_keeps_an_edge_that_the_gaussian_blurs():
    rng = np.random.default_rng(1)
    edge = np.where(np.arange(28) < 14, 50.0, 200.0) + rng.normal(0, 4, (28, 28))
    value = [edge.astype(np.uint8).tobytes()]
    steps = {}
    for name, options in (("gaussian", {"sigma": 2}), ("bilateral", {"sigma": 2})):
        out = np.frombuffer(repaired(name, value, options)[0], np.uint8).reshape(28, 28)
        steps[name] = float(out[:, 14].mean()) - float(out[:, 13].mean())
        assert out[:, 2:10].std() < 0.6 * edge[:, 2:10].std()     # both take the noise away
    assert steps["bilateral"] > 140 and steps["gaussian"] < 60


def test_contrast_and_float32_pictures():
    x = np.linspace(0.4, 0.6, 784, dtype="<f4")
    out = np.frombuffer(repaired("contrast", [x.tobytes()], {"factor": 2})[0], "<f4")
    np.testing.assert_allclose(out, 0.5 + 2 * (x - 0.5), atol=1e-6)
    stretched = np.frombuffer(repaired("contrast", [x.tobytes()])[0], "<f4")
    assert stretched.min() == 0 and stretched.max() == 1
    grey = np.linspace(100, 120, 784).astype(np.uint8)
    out = np.frombuffer(repaired("contrast", [grey.tobytes()])[0], np.uint8)
    assert out.min() == 0 and out.max() == 255


ROWS = [{"age": a, "job": j, "ok": o} for a, j, o in
        [(30.0, "cook", True), (40.0, "cook", None), (None, "clerk", False), (99.0, None, True)]]
COLUMNS = dict(kind="columns", features=["age", "job", "ok"], shape=None)


def test_impute_fits_what_is_not_missing():
    out = repaired("impute", ROWS, {"columns": ["age"], "missing": [None, 99]}, **COLUMNS)
    assert [row["age"] for row in out] == [30, 40, 35, 35]
    assert [row["job"] for row in out] == [row["job"] for row in ROWS]
    every = repaired("impute", ROWS, {"columns": ["age"], "strategy": "mean"}, **COLUMNS)
    assert [row["age"] for row in every] == pytest.approx([169 / 3] * 4)
    mode = repaired("impute", ROWS, {"columns": ["job", "ok"], "strategy": "mode",
                                     "missing": [None]}, **COLUMNS)
    assert [row["job"] for row in mode] == ["cook", "cook", "clerk", "cook"]
    assert [row["ok"] for row in mode] == [True, True, False, True]
    with pytest.raises(InvalidArgument, match="no numbers"):
        repaired("impute", ROWS, {"columns": ["job"]}, **COLUMNS)


def test_true_is_not_the_number_one():
    rows = [{"age": 1.0, "job": "a", "ok": True}]
    out = repaired("constant", rows, {"columns": ["age", "ok"], "missing": [True], "value": None},
                   **COLUMNS)
    assert out == [{"age": 1.0, "job": "a", "ok": None}]


def test_clip_and_constant():
    out = repaired("clip", ROWS, {"columns": ["age"], "low": 35}, **COLUMNS)
    assert [row["age"] for row in out] == [35, 40, None, 99]
    arrays = [[float(i), 7.0] for i in range(101)]
    out = repaired("clip", arrays, {"elements": [1], "quantile": 0.1}, kind="float8",
                   features=["x"], shape=None)
    assert [min(x) for x, in zip(zip(*out, strict=True), strict=True)] == [10, 7]
    assert max(row[0] for row in out) == 90
    out = repaired("constant", arrays[:2], {"elements": [2], "value": 0}, kind="float8",
                   features=["x"], shape=None)
    assert out == [[0.0, 0], [1.0, 0]]


def test_words():
    text = dict(kind="text", features=["review"], shape=None)
    out = repaired("drop_words", ["A VERY good film, isn't it", "good"],
                   {"words": ["very", "isn't"]}, **text)
    assert out == ["A good film, it", "good"]
    out = repaired("replace_words", ["Good film. goodness! GOOD"], {"words": {"good": "bad"}},
                   **text)
    assert out == ["Bad film. goodness! Bad"]
    rows = [{"review": "fine day", "other": "fine"}, {"review": None, "other": "x"}]
    out = repaired("replace_words", rows, {"columns": ["review"], "words": {"Fine": "poor"}},
                   kind="columns", features=["review", "other"], shape=None)
    assert out == [{"review": "poor day", "other": "fine"}, {"review": None, "other": "x"}]


@pytest.mark.parametrize(("name", "options", "kind"), [
    ("cure", {}, "bytea"), ("median", {}, "columns"), ("median", {"size": 4}, "bytea"),
    ("median", {"size": 3.5}, "bytea"), ("impute", {}, "columns"),
    ("impute", {"elements": [1]}, "columns"), ("impute", {"columns": ["age"], "x": 1}, "columns"),
    ("constant", {"columns": ["age"]}, "columns"), ("drop_words", {}, "text"),
    ("clip", {"columns": ["age"], "low": 1, "quantile": 0.1}, "columns"),
    ("clip", {"columns": ["age"], "low": 2, "high": 1}, "columns"),
    ("constant", {"elements": [1], "value": "a"}, "float8"),
    ("constant", {"elements": [1], "value": None}, "float8"),
    ("constant", {"elements": [1], "value": True}, "float8"),
    ("replace_words", {"words": ["a"]}, "text"), ("duplicates", {"by": "luck"}, "bytea"),
])
def test_nonsense_is_refused(name, options, kind):
    with pytest.raises(InvalidArgument):
        library.check_repair(name, options, kind, ["age", "job"], SHAPE)
    with pytest.raises(InvalidArgument):
        library.check_repair("median", {}, "bytea", ["image"], [784])


def test_duplicates_by_distance_are_those_of_brute_force():
    rng = np.random.default_rng(3)
    J = rng.standard_normal((300, 4, 6)).astype(np.float32)
    for a, b in ((5, 200), (200, 250), (7, 8)):           # a chain and a pair
        J[b] = J[a] + rng.normal(0, 1e-3, (4, 6))
    J[17] = J[16]
    labels = np.zeros(300, np.int64)
    labels[8] = 1
    digests = np.arange(300, dtype=np.uint64).repeat(2).view(np.uint8).reshape(300, 16)
    options = {"by": "distance", "distance": 0.01, "same_label": False}
    found = duplicates.redundant(digests, labels, J, options)
    flat = J.reshape(300, -1)
    distance = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    limit = 0.01 * np.median(np.linalg.norm(flat, axis=1))
    near = np.argwhere(np.triu(distance <= limit, 1))
    assert {tuple(pair) for pair in near.tolist()} >= {(5, 200), (200, 250), (7, 8), (16, 17)}
    assert found.tolist() == [8, 17, 200, 250]
    assert duplicates.redundant(digests, labels, J, {**options, "same_label": True}
                                ).tolist() == [17, 200, 250]
    digests[40] = digests[3]
    assert duplicates.redundant(digests, labels, J, {}).tolist() == [40]


def test_too_many_pairs_are_refused_before_they_are_listed():
    J = np.random.default_rng(0).normal(1, 1e-6, (6000, 2, 3)).astype(np.float32)
    with pytest.raises(LimitExceeded):
        duplicates.redundant(np.zeros((6000, 16), np.uint8), np.zeros(6000, np.int64), J,
                             {"by": "distance", "distance": 0.5})
