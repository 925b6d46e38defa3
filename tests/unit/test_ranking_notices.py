"""What a ranking of relabellings says about itself."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pgrain.worker.ranking import _unlikely

CLASSES = ["dress", "shoe", "trouser"]


def spectrum(n: int, n_classes: int) -> SimpleNamespace:
    """n rows of class 0; the likeliest other class is the last one."""
    p = np.tile(np.array([0.7, 0.1, 0.2][:n_classes]), (n, 1))
    p[:, -1] = 0.2
    p[:, 0] -= 1
    return SimpleNamespace(training=SimpleNamespace(residual=p, labels=np.zeros(n, int)))


@pytest.mark.parametrize(("unlikely", "said"), [(0, False), (10, False), (11, True), (30, True)])
def test_labels_that_the_model_does_not_hold_for_likely_are_counted(unlikely, said):
    proposed = np.array([1] * unlikely + [2] * (30 - unlikely))
    notices = _unlikely(spectrum(30, 3), np.arange(30), proposed, CLASSES)
    assert len(notices) == said
    if said:
        assert notices[0].startswith(f'{unlikely} of 30 rows would get a label, mostly "shoe"')
        assert '"plausible": true' in notices[0]


def test_two_classes_and_no_rows_say_nothing():
    assert _unlikely(spectrum(5, 2), np.arange(5), np.ones(5, int), CLASSES[:2]) == []
    assert _unlikely(spectrum(5, 3), np.arange(0), np.zeros(0, int), CLASSES) == []
