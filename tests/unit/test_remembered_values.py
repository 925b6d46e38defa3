"""What a session remembers of the values that it has met: bounded, and of use also where there are
more values than room."""

from __future__ import annotations

from sys import getsizeof

import pytest

from pgrain.backend import session

FACTS = {"model": "m", "kind": "bytea", "features": ["x"], "version": 1, "classes": ["a", "b"],
         "spectrum": None, "last_seq": 0, "keys_table": None, "keys_column": None}
ROOM = 100      # values
VALUES = [number.to_bytes(40, "big") for number in range(1000)]
SIZE = getsizeof(VALUES[0]) + session.LABEL_BYTES


@pytest.fixture
def model(monkeypatch):
    """One with room for `ROOM` of `VALUES`."""
    monkeypatch.setattr(session, "REMEMBERED_BYTES",
                        session.REMEMBERED_BYTES._replace(default=ROOM * SIZE))
    return session.Model(FACTS)


def scan(model, values) -> int:
    """How many of the values were known, as `predict` goes about it."""
    known = 0
    for value in values:
        node = model.met.get(value)
        if node is None:
            model.remember(value, f"label of {value!r}")
        else:
            assert node[:2] == [value, f"label of {value!r}"]
            model.last[2] = model.last = node
            known += 1
        assert len(model.met) <= ROOM
    return known


def test_values_that_fit_are_known_from_the_second_time_on(model):
    assert scan(model, VALUES[:ROOM]) == 0
    for _ in range(3):
        assert scan(model, VALUES[:ROOM]) == ROOM


@pytest.mark.parametrize("times", [1.2, 2, 3])
def test_a_scan_over_more_than_there_is_room_for_finds_some_again(model, times):
    values = VALUES[:int(times * ROOM)]
    found = sum(scan(model, values) for _ in range(20))
    assert found > 20 * ROOM / 4


def test_other_values_are_remembered_soon_after(model):
    for _ in range(3):
        scan(model, VALUES[:900])
    few = VALUES[-20:]
    rounds = [scan(model, few) for _ in range(2 + ROOM // len(few))]
    assert rounds[-1] == len(few)
