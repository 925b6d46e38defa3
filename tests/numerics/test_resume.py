"""A training that is taken up again ends where it would have ended, bit for bit."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from numerics_small import small_model

from pgrain.models import registry, training
from pgrain.store.arrays import pack, unpack

NET = {"epochs": 7, "batch_size": 16, "learning_rate": 0.05}
CASES = {
    "adam, patience": ("mlp", {**NET, "patience": 3}),
    "sgd, constant": ("mlp", {**NET, "optimizer": "sgd", "schedule": "constant"}),
    "newton": ("logistic_regression", {"tol": 1e-9, "alpha": 0.01}),
}


small = functools.cache(small_model)


def trained(architecture, options, **given):
    model, theta, X, y = small(architecture, n=70)
    return training.train(model, X, y, options=options, seed=4, theta0=theta, **given)


@pytest.mark.parametrize("case", CASES)
def test_from_any_epoch(case):
    """The state goes through the bytes that the database keeps."""
    states = []
    whole = trained(*CASES[case], keep=lambda state: states.append(pack(state())))
    assert len(states) >= 4
    for done, (checksum, data) in enumerate(states[:-1], 1):
        again = trained(*CASES[case], resume=unpack(checksum, data, "state"))
        np.testing.assert_array_equal(again.theta, whole.theta)
        assert again.metrics["resumed_after"] == done
        assert again.metrics["epochs"] == whole.metrics["epochs"]


def test_what_is_kept_is_needed():
    """Without the optimizer's momentum, or with other epochs done, it ends elsewhere."""
    states, case = [], CASES["sgd, constant"]
    whole = trained(*case, keep=lambda state: states.append(state()))
    state = states[3]
    forgotten = {name: np.zeros_like(value) if name.startswith("state") else value
                 for name, value in state.items()}
    for wrong in (forgotten, {**state, "epoch": state["epoch"] - 1}):
        assert not np.array_equal(trained(*case, resume=wrong).theta, whole.theta)


@pytest.mark.parametrize("price", [0, 30, 40, 1000])
def test_newton_keeps_where_its_preconditioner_was_made(monkeypatch, price):
    """Its sample is small here, so that it is no exact solve and what it was made of shows. price:
    of that factor; it is made from the start, later, or never."""
    from pgrain.models import newton
    monkeypatch.setattr(newton, "_DENSE_ROWS", 12)
    monkeypatch.setattr(newton, "_price", lambda rows, d: price)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((300, 4)).astype(np.float32), rng.integers(0, 3, 300)
    X[:, 0] += 3 * y
    model = registry.build("logistic_regression", 3, (4,), {})
    states: list[dict] = []
    options = {"alpha": 1e-3, "tol": 1e-10}
    whole = training.train(model, X, y, options=options, keep=lambda state: states.append(state()))
    last = [training.train(model, X, y, options=options, resume=state).theta for state in states]
    for theta in last:
        np.testing.assert_array_equal(theta, whole.theta)
