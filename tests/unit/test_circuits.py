"""Circuits that the worker keeps: found by the same capture alone, bounded, dropped with rows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pgrain.worker import circuits, resident
from pgrain.worker.circuits import Circuits, Evaluated, mentioned

COLUMNS = ["hour", "flagged", "Mixed", "q2"]


@pytest.mark.parametrize(("where", "columns"), [
    ("hour = 13", {0}), ("HOUR = 13", {0}), ('"hour" = 13', {0}), ('"HOUR" = 13', set()),
    ("mixed = 1", set()), ('"Mixed" = 1', {2}), ("flagged > 1 AND hour IN (1, 2)", {0, 1}),
    ("'hour' = 'hour'", set()), ("q.hour = 1", None), ("row_to_json(q) IS NOT NULL", None),
    ("(q).hour = 1", None), ("hour * 2 > 1", None), ("q2 = 1", {3}),
    ("hour = 1 -- flagged", {0}), (f"{'a' * 64} = 1", None)])
def test_the_columns_that_a_condition_may_read(where, columns):
    assert mentioned(where, COLUMNS) == columns


def request(**given):
    return {"plan": "p", "rows": [["factor:0", None, [True, True, False]]], "stamps": ["1:2:3:4:5"],
            "models": {"m": {"version": 1, "spectrum": 2, "last_seq": 9}}} | given


def test_a_key_for_all_that_a_circuit_is_made_of():
    kept = Circuits()
    key = kept.key(request(), [b"abcd", b"ef"])
    assert key == kept.key(request(complaints=["n too high"]), [memoryview(b"abcd"), b"ef"])
    others = [
        (request(plan="r"), [b"abcd", b"ef"]), (request(stamps=["1:2:3:5:5"]), [b"abcd", b"ef"]),
        (request(stamps=[]), [b"abcd", b"ef"]), (request(), [b"abce", b"ef"]),
        (request(), [b"abc", b"def"]), (request(), [b"ef", b"abcd"]),
        (request(rows=[["factor:0", None, [True, False, True]]]), [b"abcd", b"ef"]),
        (request(models={"m": {"version": 2, "spectrum": 2}}), [b"abcd", b"ef"]),
        (request(models={"m": {"version": 1, "spectrum": None}}), [b"abcd", b"ef"])]
    assert len({key, *(kept.key(*other) for other in others)}) == len(others) + 1
    assert kept.key(request(), [bytes(circuits.KEPT_BYTES + 1)]) is None


def evaluated(resident):
    return Evaluated(None, {}, None, None, {"m": resident})


def test_they_are_bounded_and_the_oldest_go():
    kept, resident = Circuits(), SimpleNamespace(row=SimpleNamespace(version=1))
    current = {1: resident}.get
    for number in range(circuits.CIRCUITS + 5):
        kept.put(bytes([number]), evaluated(resident), 1)
        assert kept.get(b"\0", current) is not None     # used, so it stays
    assert kept.get(b"\1", current) is None
    kept.put(b"large", evaluated(resident), circuits.KEPT_BYTES)
    assert kept.get(b"large", current) is not None
    assert kept.get(b"\0", current) is None


def test_a_version_loaded_anew_drops_them():
    """Rows may have been erased from the copy in memory that a circuit was made with."""
    kept, resident = Circuits(), SimpleNamespace(row=SimpleNamespace(version=1))
    kept.put(b"k", evaluated(resident), 1)
    assert kept.get(b"k", {1: resident}.get) is not None
    assert kept.get(b"k", {1: SimpleNamespace(row=resident.row)}.get) is None
    assert kept.get(b"k", {1: resident}.get) is None


class Learned:
    """Training rows of a version, as `forget` sees them."""

    def __init__(self, keys):
        self.keys = keys

    def without(self, numbers):
        return Learned([key for n, key in enumerate(self.keys) if n not in numbers])


def test_versions_that_only_circuits_hold(monkeypatch):
    """They go with the next circuit that is kept, and are erased before that."""
    def load(connection, number):
        row = SimpleNamespace(version=number, model="m")
        return resident.Resident(row, [], SimpleNamespace(n_parameters=1), None, None,
                                 Learned(["a", "b"]))

    monkeypatch.setattr(resident, "load_version", load)
    residents, kept = resident.Residents(lambda: SimpleNamespace(closed=False)), Circuits()
    for number in range(resident.RESIDENT_VERSIONS + 2):
        kept.put(bytes([number]), evaluated(residents.version(number)), 1)
    outside, inside = ([made.residents["m"] for made, _ in kept._known.values()
                        if residents.holds(made.residents["m"]) is held]
                       for held in (False, True))
    assert len(outside) == 2
    residents.forget("m", 1)
    assert [held.learned.keys for held in outside + inside] == [[]] * len(outside + inside)
    latest = residents.version(5)
    kept.put(b"new", evaluated(latest), 1)
    kept.prune(residents.holds)
    assert [made.residents["m"] for made, _ in kept._known.values()] == [latest]
