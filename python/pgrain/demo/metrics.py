"""How good a ranking of suspects is, given the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def auc_r(wrong_in_order: Sequence[bool], n_wrong: int) -> float:
    """AUC_R of Flokas et al. (SIGMOD 2022), section 6.1.4, normalised to [0, 1].

    wrong_in_order: for each row of the ranking, best first, whether it is truly wrong; rows beyond
    the N-th do not count, a ranking shorter than N finds nothing further.
    n_wrong: N, the number of wrong rows in the whole training table.

    r_i is the share of all wrong rows among the first i; AUC_R = (1/N) sum_{i=1..N} r_i, divided by
    what a perfect ranking reaches, (N + 1) / 2N. A perfect ranking gives 1, a random one the
    share of wrong rows, one without any wrong row at its top 0.
    """
    if n_wrong <= 0:
        raise ValueError("without wrong rows there is nothing to find")
    found = np.zeros(n_wrong)
    top = np.asarray(wrong_in_order, bool)[:n_wrong]
    found[:len(top)] = top
    return float(np.cumsum(found).sum() / (n_wrong * (n_wrong + 1) / 2))


def precision_at(wrong_in_order: Sequence[bool], n: int) -> float:
    """Share of truly wrong rows among the first n of a ranking."""
    if n <= 0:
        raise ValueError("precision needs at least one row")
    return float(np.asarray(wrong_in_order, bool)[:n].sum() / n)
