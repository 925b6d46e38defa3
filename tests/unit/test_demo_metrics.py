"""AUC_R on rankings whose value is known by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrain.demo.metrics import auc_r, precision_at


def test_values_worked_out_by_hand():
    assert auc_r([True, True], 2) == 1
    assert auc_r([True, False], 2) == pytest.approx((1 + 1) / 3)
    assert auc_r([False, True], 2) == pytest.approx((0 + 1) / 3)
    assert auc_r([True, False, True, False], 4) == pytest.approx((1 + 1 + 2 + 2) / 10)


def test_perfect_is_one_and_nothing_found_is_zero():
    assert auc_r([True] * 50 + [False] * 50, 50) == pytest.approx(1)
    assert auc_r([False] * 50 + [True] * 50, 50) == 0


def test_rows_beyond_the_number_of_errors_do_not_count():
    assert auc_r([True, False, True], 2) == auc_r([True, False], 2)


def test_a_short_ranking_finds_nothing_further():
    assert auc_r([True], 3) == auc_r([True, False, False], 3)


def test_random_ranking_scores_the_share_of_errors():
    """r_i grows by the share of errors a row: AUC_R is that share."""
    rng = np.random.default_rng(0)
    wrong = np.arange(20_000) < 4_000
    scores = [auc_r(rng.permutation(wrong), 4_000) for _ in range(20)]
    assert np.mean(scores) == pytest.approx(0.2, abs=0.01)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.data())
def test_moving_an_error_up_never_lowers_it(ranking, data):
    n = max(sum(ranking), 1)
    here = data.draw(st.integers(0, len(ranking) - 1))
    better = list(ranking)
    if here and better[here] and not better[here - 1]:
        better[here - 1], better[here] = True, False
    assert 0 <= auc_r(ranking, n) <= auc_r(better, n) <= 1 + 1e-12


def test_no_errors_is_an_error():
    with pytest.raises(ValueError):
        auc_r([True], 0)


def test_precision_counts_only_the_first_rows():
    assert precision_at([True, False, True, True], 2) == 0.5
    with pytest.raises(ValueError):
        precision_at([True], 0)
