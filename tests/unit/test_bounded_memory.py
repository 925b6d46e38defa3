"""What sessions and the worker keep is bounded, and goes with what it belongs to. (What it takes in
all is measured by `make load` and benchmarks/flat_memory.py.)"""

from __future__ import annotations

import os
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest

from pgrain.backend import session, spi
from pgrain.errors import PgrainError
from pgrain.settings import WATCH_NOTE_BYTES, WATCH_NOTES
from pgrain.watch.state import State
from pgrain.worker import complaints, resident, watches
from pgrain.worker.complaints import Complaints, Plan, evaluation_of
from pgrain.worker.variables import VariableTable
from pgrain.worker.watch_rows import under_way
from pgrain.worker.watches import Watches


@pytest.fixture
def plpy():
    return SimpleNamespace(prepare=lambda sql, types: [sql])


def model(name: str, classes=("a", "b")) -> session.Model:
    return session.Model({"model": name, "kind": "text", "features": ["x"], "version": 1,
                          "classes": list(classes), "spectrum": None, "last_seq": 0,
                          "keys_table": None, "keys_column": None})


def test_a_session_keeps_so_many_statements_prepared(plpy, monkeypatch):
    monkeypatch.setattr(spi, "_plans", OrderedDict())
    for number in range(3 * spi.PREPARED):
        assert spi.prepared(plpy, f"SELECT {number}") == [f"SELECT {number}"]
    assert len(spi._plans) == spi.PREPARED
    assert spi.prepared(plpy, f"SELECT {number}") is spi.prepared(plpy, f"SELECT {number}")


@pytest.mark.parametrize("classes", [2, 1000])
def test_values_that_are_not_stored_are_bounded_by_bytes(classes):
    it = model("m", [str(number) for number in range(classes)])
    last = None
    for _ in range(100):
        found = {os.urandom(16): bytes(4 * classes) for _ in range(500)}
        it.keep_live(found)
        last = next(reversed(found))
    size = session.LIVE_VALUE_BYTES + 4 * classes
    assert session.LIVE_BYTES - 2 * size < len(it.live) * size <= session.LIVE_BYTES
    assert last in it.live      # those that were asked for first have gone


def test_models_of_a_session_are_bounded(monkeypatch):
    state = SimpleNamespace(models={}, extension=1)
    monkeypatch.setattr(session, "STATE", state)
    row = {"extension": 1, **model("").__dict__ | {"version": 1}}
    monkeypatch.setattr(session, "query", lambda plpy, sql, types, arguments: [
        {**{name: row.get(name) for name in ("kind", "features", "classes", "spectrum",
                                             "keys_table", "keys_column")},
         "extension": 1, "model": arguments[0], "version": 1, "last_seq": 0}])
    for number in range(3 * session.MODELS):
        session.load_model(None, f"m{number}", False)
        session.load_model(None, "used", False)
    assert len(state.models) == session.MODELS and "used" in state.models


def test_an_evaluation_goes_with_the_last_request_about_it():
    state = {"evaluations": OrderedDict({7: "it"})}
    assert evaluation_of(state, {"evaluation": 7}) == "it"
    assert evaluation_of(state, {"evaluation": 7}, last=True) == "it"
    assert not state["evaluations"]
    with pytest.raises(PgrainError, match="does not know"):
        evaluation_of(state, {"evaluation": 7})


def state_of(groups: int) -> State:
    return State({str(n): (["x"], np.zeros(3, np.int64), np.zeros((3, 32)), np.zeros((3, 32)))
                  for n in range(groups)})


def test_states_of_watches_are_bounded_and_go_with_them(monkeypatch):
    kept = Watches(None, None)
    for generation in range(10):
        kept._remember(1, generation, state_of(2), {})
    assert [key[1] for key in kept._states] == [6, 7, 8, 9] and watches.GENERATIONS == 4
    for number in range(2, 200):
        kept._remember(number, 0, state_of(2), {})
        kept._evaluated[(number, 0)] = ()
    assert len(kept._states) == watches.STATES == len(kept._evaluated)
    monkeypatch.setattr(watches, "STATES_BYTES", 5 * state_of(100).bytes)
    for number in range(300, 310):
        kept._remember(number, 0, state_of(100), {})
    assert len(kept._states) == 5
    kept._remember(400, 0, state_of(2000), {})      # one that is larger than all is allowed
    assert list(kept._states) == [(400, 0)] and not kept._evaluated
    kept.keep({500})
    assert not kept._states


def test_plans_of_versions_that_are_gone_go(monkeypatch):
    kept = Complaints(SimpleNamespace(holds=lambda it: True))
    kept._plans.update({"both": Plan(None, {"a": 1, "b": 2}), "one": Plan(None, {"a": 1})})
    kept.keep({1, 3})
    assert list(kept._plans) == ["one"]
    # Stamps of all columns together.
    monkeypatch.setattr(complaints, "ALL_STAMPS", 100)
    table = type("Table", (), {"__len__": lambda self: 40})
    monkeypatch.setattr(complaints, "StampTable", table)
    for number in range(9):
        kept._stamp_table(str(number))
    assert len(kept._stamps) == 2


def test_values_of_all_versions_are_bounded_together(monkeypatch):
    """Those of the versions used least go first, and those of the one in use stay."""
    monkeypatch.setattr(resident, "ALL_LIVE_BYTES", 3 * 100 * 64)
    residents = resident.Residents(None)
    held = []
    for number in range(5):
        row = SimpleNamespace(version=number, model="m", classes=["a", "b"])
        it = resident.Resident(row, [], None, None, None, None)
        residents._versions[number] = it
        held.append(it)
        table = residents.passing(it, None)
        assert isinstance(table, VariableTable)
        digests = np.random.default_rng(number).integers(0, 256, (100, 16), np.uint8)
        table.add(digests, np.zeros(100, np.int64), np.zeros((100, 2), np.float32), None)
        assert table.live_bytes == 100 * (16 + 24 + 24)
        residents.passing(it, None)
    live = [sum(t.live for t in it.passing.values()) for it in held]
    assert live == [0, 0, 100, 100, 100]
    residents.keep({4})
    assert list(residents._versions) == [4]


def test_who_has_prepared_is_still_under_way():
    then = {"3/17": "700", "4/9": None}
    assert under_way(then, {"4/9": None}) and under_way(then, {"4/9": "800"})
    assert under_way(then, {"-1/700": "700"})
    assert not under_way(then, {"3/18": "701", "5/1": None}) and not under_way(then, {})
    assert not under_way({"4/9": None}, {"5/1": None})


def test_the_limits_of_notes_are_those_that_are_shown():
    """sql/67_watch_notes.sql counts, pgrain.settings tells."""
    from pathlib import Path
    text = (Path(__file__).parents[2] / "sql" / "67_watch_notes.sql").read_text()
    assert f"SELECT {WATCH_NOTES.default}, {WATCH_NOTE_BYTES.default}, interval" in text


def test_what_was_compiled_for_networks_is_let_go(monkeypatch):
    """A model of texts has another vocabulary, so another network, each time it is trained."""
    from pgrain.models import predicting, registry
    from pgrain.worker import handlers
    monkeypatch.setattr(handlers, "TIDY_SECONDS", -1)
    monkeypatch.setattr(registry, "NETWORKS", 0)
    assert registry.forget_compiled()       # of other tests
    monkeypatch.setattr(registry, "NETWORKS", 3)
    nothing = SimpleNamespace(execute=lambda sql: SimpleNamespace(fetchall=list))
    kept = handlers.Handlers(None, version="", device="")
    sizes = []
    for features in range(41, 46):
        network = registry.build("logistic_regression", 2, (features,), {})
        theta, X = np.zeros(network.n_parameters, np.float32), np.zeros((1, features), np.float32)
        logits, _ = predicting.predict_proba(network, theta, X)
        assert logits.shape == (1, 2)
        kept.tidy(nothing)
        sizes.append(predicting._logits._cache_size())
    assert sizes[2] == 0 and sizes[4] == 2, sizes


def test_what_is_compiled_does_not_grow_with_a_table(monkeypatch):
    """Each night there are some rows more: they are padded, and what was compiled for numbers of
    rows or pairs that do not come again is let go at last."""
    from pgrain.influence import hvp, projections
    from pgrain.models import registry
    network = registry.build("logistic_regression", 2, (3,), {})
    theta = np.zeros(network.n_parameters, np.float32)
    v = np.arange(len(theta), dtype=np.float32)
    X, y = np.ones((1100, 3), np.float32), np.zeros(1100, np.int32)
    programs, products = hvp._product._cache_size(), []
    for n in range(1025, 1085, 10):
        operator = hvp.hessian_operator(network, theta, X[:n], y[:n], 0.0, n_total=n)
        products.append(operator(v) / n)
    assert hvp._product._cache_size() - programs == 1
    assert np.ptp(products, axis=0).max() < 1e-4 * np.abs(products).max() > 0
    registry.forget_compiled()
    monkeypatch.setattr(registry, "NETWORKS", 10**9)
    monkeypatch.setattr(registry, "PROGRAMS", 10**9)
    monkeypatch.setattr(registry, "_programs_then", registry._programs)
    for k in range(1, 4):
        projections.project(network, theta, X[:1], np.ones((len(theta), k), np.float32))
    assert not registry.forget_compiled() and projections._push._cache_size() >= 3
    monkeypatch.setattr(registry, "PROGRAMS", 3)
    assert registry.forget_compiled() and projections._push._cache_size() == 0
