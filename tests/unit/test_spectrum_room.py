"""What a precompute will store is predicted, and refused with a hint where there is no room."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pgrain.errors import LimitExceeded
from pgrain.models import registry
from pgrain.store.arrays import pack
from pgrain.worker import spectrum_step


def resident(d=784, classes=10):
    model = registry.build("logistic_regression", classes, (d,), {})
    return SimpleNamespace(model=model, row=SimpleNamespace(version=1, classes=["c"] * classes))


def test_the_prediction_is_what_is_written():
    one, rows, pairs = resident(), 5000, 30
    written = len(pack({"vectors": np.zeros((pairs, one.model.n_parameters), np.float32)})[1])
    written += len(pack({"rows": np.zeros(rows, np.int64),
                         "J": np.zeros((rows, 10, pairs), np.float32),
                         "residual": np.zeros((rows, 10), np.float32)})[1])
    predicted = spectrum_step.store_bytes(one, pairs, rows, 0)
    assert abs(predicted - written) < 0.01 * written


def test_no_room_says_how_many_pairs_would_fit(monkeypatch):
    monkeypatch.setattr(spectrum_step.predictions, "count", lambda *_: 0)
    job = SimpleNamespace(connection=None, model="m")
    for free, fits in ((None, True), (1 << 40, True), (30 << 20, False), (0, False)):
        monkeypatch.setattr(spectrum_step, "disk_free", lambda _, free=free: free)
        if fits:
            assert spectrum_step.check_room(job, resident(), {"pairs": 30}, 60_000) > 70e6
            continue
        with pytest.raises(LimitExceeded) as raised:
            spectrum_step.check_room(job, resident(), {"pairs": 30}, 60_000)
        assert raised.value.sqlstate == "54000"
        if free:
            pairs = int(raised.value.hint.split('"pairs": ')[1].split("}")[0])
            assert spectrum_step.store_bytes(resident(), pairs, 60_000, 0) <= free
