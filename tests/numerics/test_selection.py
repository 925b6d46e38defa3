"""The choice of k, the filters, the exact top k."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pgrain.errors import InvalidArgument
from pgrain.influence.filters import NAMES, filter_weights
from pgrain.influence.scores import deletion_changes, deletion_changes_by_k, relatif, self_influence
from pgrain.influence.selection import SHARE, choose_k, stable_k
from pgrain.influence.top_k import top_k


@pytest.mark.parametrize("eigenvalues, n_classes, k", [
    ([100, 50, 25, 24, 12], 2, 3),           # 24/25 is the first ratio >= 0.9
    ([100, 95, 40, 20, 19], 1, 1),           # 95/100 counts when R allows it
    ([100, 95, 40, 20, 19], 2, 4),           # and does not when k must be at least 2
    ([100, 95, 40, 20, 10], 2, 5),           # no inflection: all that is stored
    ([100, 90], 1, 1),                       # 0.9 itself counts
    ([100, 50, 25], 10, 3),                  # fewer stored than classes
    ([100, 50, 25], 3, 3),
    ([], 10, 0),
])
def test_smallest_k_at_an_inflection(eigenvalues, n_classes, k):
    assert choose_k(np.array(eigenvalues, float), n_classes) == k


@pytest.mark.parametrize("c, n_classes, k", [
    ([1, 0, 0, 0], 2, 2),                    # one pair is enough, but R are taken
    ([1, 0, 0, 0], 1, 1),
    ([0, 0, 0, 1e-200], 2, 4),               # what the complaint moves is in the last pair
    ([10, 0, 3, 0], 1, 3),                   # 100/8 + 9/2 of 17: the first alone has 0.74
    ([10, 0, 0.8, 0], 1, 1),                 # 0.32 of 12.8 is not worth two more
    ([1e200, 0, 0, 1e200], 1, 4),
    ([0, 0, 0, 0], 2, 0),
    ([1, 2, 3, 4], 9, 4),                    # fewer stored than classes
])
def test_smallest_k_that_makes_the_ranking(c, n_classes, k):
    values = np.array([8.0, 4, 2, 1])
    assert stable_k(values, filter_weights(values), np.array(c, float), n_classes) == k


def test_the_share_is_that_of_the_scores_variance():
    """Rows whose gradients have the covariance of the Hessian, as at an optimum: the first k pairs'
    scores have with those of all pairs the correlation sqrt(share)."""
    rng = np.random.default_rng(3)
    values = np.geomspace(100, 1, 12)
    A = rng.standard_normal((200_000, 12)) * np.sqrt(values)
    for name, damping in (("inverse", 0.0), ("damped", 0.05), ("identity", 0.0)):
        c = rng.standard_normal(12) * values ** 0.8
        w = filter_weights(values, name, damping)
        by_k = deletion_changes_by_k(A.astype(np.float32), w, c)
        correlations = [np.corrcoef(one, by_k[-1])[0, 1] for one in by_k]
        k = stable_k(values, w, c, 1)
        assert correlations[k - 1] >= SHARE ** 0.5 - 0.003
        assert k == 1 or correlations[k - 2] < SHARE ** 0.5 + 0.003


def test_filters_by_their_formulas():
    values, d = np.array([4.0, 2.0, 0.1]), 0.1
    assert np.allclose(filter_weights(values), [0.25, 0.5, 10])
    assert np.allclose(filter_weights(values, "damped", d), 1 / (values + 0.4))
    assert np.allclose(filter_weights(values, "tikhonov", d), values / (values**2 + 0.16))
    assert np.allclose(filter_weights(values, "truncated", d), [0.25, 0.5, 0])
    assert np.allclose(filter_weights(values, "identity", d), 1)
    for name in set(NAMES) - {"identity"}:
        assert np.allclose(filter_weights(values, name, 0.0), 1 / values)
        assert filter_weights(np.zeros(0), name).shape == (0,)
    for bad in (dict(name="inverted"), dict(damping=-1.0), dict(damping=float("nan"))):
        with pytest.raises(InvalidArgument):
            filter_weights(values, **bad)


def slow_top_k(scores, k):
    order = sorted(range(len(scores)),
                   key=lambda i: (np.isnan(scores[i]), -scores[i] if scores[i] == scores[i] else 0,
                                  i))
    return order[:k]


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(st.sampled_from([np.float32, np.float64]), st.integers(0, 60),
                  elements=st.sampled_from([0.0, -0.0, 1.0, 2.5, -1.0, float("nan"), float("inf"),
                                            -float("inf"), 1e30])),
       st.integers(0, 80))
def test_top_k_is_exact_with_ties_nan_and_infinities(scores, k):
    assert top_k(scores, k).tolist() == slow_top_k(scores, k)


@pytest.mark.parametrize("make", [
    lambda rng, n: rng.standard_normal(n),
    lambda rng, n: np.sort(rng.standard_normal(n)),
    lambda rng, n: np.round(rng.standard_normal(n), 1),              # many ties
    lambda rng, n: np.where(np.arange(n) % 16 == 0, -1.0, rng.random(n)),   # misleads the sample
    lambda rng, n: np.where(np.arange(n) % 16 == 0, 9.0, rng.random(n)),
    lambda rng, n: np.full(n, 3.0),
    lambda rng, n: np.where(rng.random(n) < 0.5, np.nan, rng.random(n)),
    lambda rng, n: np.full(n, np.nan),
])
@pytest.mark.parametrize("k", [1, 100, 900])
def test_top_k_of_long_arrays(make, k):
    scores = make(np.random.default_rng(0), 100_000).astype(np.float32)
    expected = np.lexsort((np.arange(len(scores)), -scores, np.isnan(scores)))[:k]
    np.testing.assert_array_equal(top_k(scores, k), expected)


def test_relatif_divides_by_the_root_of_self_influence():
    A, w = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32), np.array([1.0, 1.0])
    np.testing.assert_allclose(self_influence(A, w), [25, 0])
    np.testing.assert_allclose(relatif(np.array([10.0, 0.0], np.float32), A, w), [2, 0])
    np.testing.assert_allclose(relatif(np.ones((2, 3), np.float32), A, w), [[0.2] * 3, [0] * 3])


def test_a_sweep_over_k_is_each_k_alone():
    rng = np.random.default_rng(0)
    A, c = rng.standard_normal((50, 7)).astype(np.float32), rng.standard_normal(7)
    values = np.geomspace(100, 1, 7)
    for name, damping in (("inverse", 0.0), ("damped", 0.1), ("tikhonov", 0.1), ("identity", 0.0),
                          ("truncated", 0.05)):
        sweep = deletion_changes_by_k(A, filter_weights(values, name, damping), c)
        for k in range(1, 8):
            alone = deletion_changes(A[:, :k], filter_weights(values[:k], name, damping), c[:k])
            np.testing.assert_allclose(sweep[k - 1], alone, rtol=1e-4, atol=1e-5)
