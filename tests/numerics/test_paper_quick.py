"""The paper's experiments at their quick scale: rankings that a change must not ruin.

`make paper-quick` runs the same bounds, and prints what was measured.
"""

from __future__ import annotations

import pytest

from pgrain.demo.datasets import DatasetMissing
from pgrain.demo.paper import measure
from pgrain.demo.paper.bounds import BOUNDS, BRIGHT, FLIPS, NOISE
from pgrain.demo.paper.experiments import work
from pgrain.demo.paper.records import Records


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Records:
    return Records(tmp_path_factory.mktemp("records"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.says)
def test_bound(bound, records):
    try:
        record = records.measure(bound.job, lambda: work(bound.job, lambda text: None))
    except DatasetMissing as error:
        pytest.skip(str(error))
    value, holds = bound.holds(record)
    assert holds, f"{bound.says}: {value:.3f}"


def negated(changes):
    return lambda *given: -changes(*given)


def unweighted(filter_weights):
    """1 in place of 1 / lambda: the dot product of gradients in the subspace."""
    return lambda eigenvalues: eigenvalues / eigenvalues


def two(choose_k):
    """The first pair alone."""
    return lambda *given: 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ruin", "setting"), [
    ("deletion_changes", negated, FLIPS), ("deletion_changes_by_k", negated, FLIPS),
    ("relabel_changes", negated, FLIPS), ("replacement_changes", negated, NOISE),
    ("filter_weights", unweighted, BRIGHT), ("choose_k", two, BRIGHT)],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""))
def test_a_ruined_ranking_breaks_a_bound(name, ruin, setting, monkeypatch):
    """On Fashion-MNIST, which is where the tests run by themselves."""
    bounds = [bound for bound in BOUNDS if bound.setting == setting]
    monkeypatch.setattr(measure, name, ruin(getattr(measure, name)))
    try:
        record = work(bounds[0].job, lambda text: None)
    except DatasetMissing as error:
        pytest.skip(str(error))
    assert not all(bound.holds(record)[1] for bound in bounds)
