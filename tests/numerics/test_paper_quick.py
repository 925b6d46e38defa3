"""The paper's experiments at their quick scale: rankings that a change must not ruin.

`make paper-quick` runs the same bounds, and prints what was measured.
"""

from __future__ import annotations

import pytest

from pgrain.demo.datasets import DatasetMissing
from pgrain.demo.paper.bounds import BOUNDS
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
