"""The scoring path is exact: it equals a full sort, with ties, NaN and infinities, however the rows
are cut into blocks and whichever threads take them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrain.influence import blocks
from pgrain.influence.blocks import ProjectionBlocks
from pgrain.influence.top_k import least_k, top_k

SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)


def sorted_rows(scores, k):
    """The first k of a stable sort: descending, equal ones by index, NaN last."""
    return np.argsort(-scores, kind="stable")[:k].tolist()


@st.composite
def score_arrays(draw):
    """Arrays on both sides of every threshold in top_k, with few or many equal values."""
    n = draw(st.sampled_from([0, 1, 2, 7, 100, 5_000, 32_768, 32_769, 50_000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.sampled_from(["normal", "few values", "constant", "ascending", "one block"]))
    constant = draw(st.sampled_from([0, 1, np.inf, -np.inf, np.nan]))
    scores = {"normal": lambda: rng.standard_normal(n),
              "few values": lambda: rng.integers(-3, 4, n),
              "constant": lambda: np.full(n, constant),
              "ascending": lambda: np.arange(n),
              # What a sample of every 16th number does not see.
              "one block": lambda: np.where(np.arange(n) // 300 == n // 600, 10.0, 0)
              + rng.standard_normal(n) * 1e-3}[shape]().astype(np.float32)
    special = draw(st.sampled_from([0, 0, 3, n // 2, n]))
    if special and n:
        scores[rng.integers(0, n, special)] = rng.choice(SPECIAL, special)
    return scores


@given(score_arrays(), st.sampled_from([0, 1, 2, 100, 700, 10**6]))
@settings(max_examples=100, deadline=None)
def test_top_k_is_a_stable_sort(scores, k):
    assert top_k(scores, k).tolist() == sorted_rows(scores, k)
    assert least_k(-scores, k).tolist() == sorted_rows(scores, k)


@st.composite
def whole_problems(draw):
    """Projections in small whole numbers: every sum is exact in float32, in whatever order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, n_classes = draw(st.integers(1, 70)), draw(st.integers(2, 5))
    m = draw(st.integers(1, 6))
    k = draw(st.integers(1, m))
    J = rng.integers(-2, 3, (n, n_classes, m)).astype(np.float32)
    labels = rng.integers(0, n_classes, n)
    weights = rng.integers(-3, 4, k).astype(np.float32)
    classes = draw(st.sampled_from([None, "all", "one", "some"]))
    chosen = {None: None, "all": np.arange(n_classes), "one": np.array([n_classes - 1]),
              "some": np.flatnonzero(rng.random(n_classes) < .5)}[classes]
    if chosen is not None and not len(chosen):
        chosen = np.array([0])
    return J, labels, weights, chosen


def least_relabelling(J, labels, weights, classes):
    """One row and one class at a time."""
    out = []
    for row, label in zip(J.astype(float), labels, strict=True):
        slopes = row[:, :len(weights)] @ weights
        others = [c for c in (range(len(row)) if classes is None else classes) if c != label]
        out.append(min((slopes[c] - slopes[label] for c in others), default=np.inf))
    return np.array(out)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, and helpers whatever this machine has."""
    def cut(numbers):
        monkeypatch.setattr(blocks, "BLOCK_NUMBERS", numbers)
        monkeypatch.setattr(blocks, "_HELPED_BLOCKS", 2)
        monkeypatch.setattr(blocks, "_HELPERS", 3)
    monkeypatch.setattr(blocks, "_pool", ThreadPoolExecutor(3))
    yield cut
    blocks._pool.shutdown()


def test_least_relabelling_however_it_is_cut(small_blocks):
    @given(whole_problems(), st.integers(1, 200), st.integers(0, 3))
    @settings(max_examples=200, deadline=None)
    def check(problem, numbers, unused_pairs):
        J, labels, weights, classes = problem
        small_blocks(numbers)
        made = ProjectionBlocks(J, labels, len(weights) + unused_pairs)
        changes = made.least(weights, classes)
        assert np.array_equal(changes, least_relabelling(J, labels, weights, classes))
        assert top_k(-changes, 9).tolist() == sorted_rows(-changes, 9)
        assert np.array_equal(made.least(weights, classes), changes)     # again: nothing was kept
    check()


def test_deletions_however_they_are_cut(small_blocks):
    @given(whole_problems(), st.integers(1, 200))
    @settings(max_examples=200, deadline=None)
    def check(problem, numbers):
        J, _, weights, _ = problem
        small_blocks(numbers)
        A = J[:, 0]
        assert np.array_equal(ProjectionBlocks(A).least(weights), A[:, :len(weights)] @ weights)
    check()


def test_real_numbers_and_full_blocks():
    """At the sizes that are used: against float64, within the rounding of k float32 products."""
    rng = np.random.default_rng(0)
    J = rng.standard_normal((30_000, 4, 12), np.float32)
    labels = rng.integers(0, 4, len(J))
    weights = rng.standard_normal(9).astype(np.float32)
    slopes = J[:, :, :9].astype(np.float64) @ weights.astype(np.float64)
    changes = slopes - slopes[np.arange(len(J)), labels][:, None]
    changes[np.arange(len(J)), labels] = np.inf
    found = ProjectionBlocks(J, labels).least(weights)
    size = np.abs(J[:, :, :9] * weights).sum(axis=2).max(axis=1)
    assert np.all(np.abs(found - changes.min(axis=1)) <= 4 * 9 * 2.0**-24 * size)
    assert ProjectionBlocks(J, labels).n_blocks > 2


def test_a_row_whose_numbers_are_not_finite_harms_no_other(small_blocks):
    small_blocks(40)
    J = np.ones((50, 2, 3), np.float32)
    J[17, 1] = np.nan
    J[18, 0] = np.inf
    labels = np.zeros(50, int)
    found = ProjectionBlocks(J, labels).least(np.ones(3))
    assert np.isnan(found[17]) and found[18] == -np.inf
    assert np.all(np.delete(found, [17, 18]) == 0)
    assert top_k(-found, 50)[-1] == 17


def test_more_weights_than_pairs_is_refused():
    with pytest.raises(ValueError, match="3 weights for 2 pairs"):
        ProjectionBlocks(np.ones((5, 4), np.float32), pairs=2).least(np.ones(3))
