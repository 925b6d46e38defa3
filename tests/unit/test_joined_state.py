"""The state of a watched join beside the sum over all pairs of rows."""

from __future__ import annotations

import numpy as np
import pytest

from pgrain.errors import LimitExceeded
from pgrain.provenance.lineage import Lineage, SideRows
from pgrain.watch import joined_state
from pgrain.watch.joined_state import JoinedState
from pgrain.watch.state import StandingCircuit

CLASSES, M = 3, 4
NAMES = ["a", "b", "c"]


def column(name, role, oid=23):
    return {"name": name, "type_oid": oid, "type_name": "integer", "model_dependent": True,
            "numeric": True, "role": role, "tied": False}


def side_shape():
    """SELECT g, k, predict(x), sum(w) … GROUP BY g, k, predict(x)."""
    return {"model": "m", "classes": NAMES, "functions": [None, None, None, "sum"],
            "columns": [column("g", "group"), column("k", "group"), column("c", "group", 25),
                        column("w", "aggregate")],
            "keys": [0, 1, 2], "grouped": True, "slots": [0], "measures": [True],
            "cells": [{"role": "group", "function": None, "value": False, "measure": None}] * 3
            + [{"role": "aggregate", "function": "sum", "value": False, "measure": [0, 0]}]}


# SELECT l.g, r.g, count(*), avg(r.w) … WHERE predict(l.x) = predict(r.x) AND l.k = r.k GROUP BY …
SHAPE = {"model": "m", "classes": NAMES, "functions": [None, None, "count", "avg"],
         "columns": [column("g", "group"), column("h", "group"), column("n", "aggregate"),
                     column("w", "aggregate")],
         "keys": [0, 1], "grouped": True, "sides": [side_shape(), side_shape()],
         "meet": [[2, 2], [1, 1]], "shown": [[0, 0], [1, 0]],
         "atoms": [[0, 0], [0, 0], [0, 1], [0, 2]]}


def lineage(rows, values):
    """What a capture of rows (g, k, variable or None, w) brings; values: (V, 16) digests."""
    heads = list(dict.fromkeys((g, k, v is None) for g, k, v, _ in rows))
    ordered = sorted(rows, key=lambda row: heads.index((row[0], row[1], row[2] is None)))
    factor = np.array([heads.index((g, k, v is None)) for g, k, v, _ in ordered], np.int64)
    used = sorted({v for _, _, v, _ in rows if v is not None})
    variables = np.array([len(used) if v is None else used.index(v) for _, _, v, _ in ordered],
                         np.int64)
    texts, entries, group = [], [], []
    for number, (g, k, null) in enumerate(heads):
        for c in ([CLASSES] if null else range(CLASSES)):
            text = [str(g), None if k is None else str(k), None if null else NAMES[c]]
            if text not in texts:
                texts.append(text)
            entries.append([number, c])
            group.append(texts.index(text))
    counts = np.bincount(factor, minlength=len(heads))
    side = SideRows(np.cumsum(counts) - counts, factor, np.arange(len(heads)), [variables],
                    [np.ones(len(rows)), np.array([w for *_, w in ordered])], [0], [1])
    made = Lineage(CLASSES, {"m": values[used]}, len(used), [side],
                   np.array(entries, np.int64), np.array(group, np.int64),
                   np.ones((len(entries), 1), bool), {}, texts, [], None, None)
    return made, used


def taken(state, side, rows, world, sign):
    values, predicted, P, J = world
    made, used = lineage(rows, values)
    return state.take(SHAPE, side, made, predicted[used], P[used], J[used], sign)


def by_pairs(left, right, world):
    """{(g, h): [n, w] as pairs (value, relaxed, gradient)} out of every pair of rows."""
    _, predicted, P, J = world
    slopes = P[:, :, None] * (J - np.einsum("vc,vcm->vm", P, J)[:, None, :])
    found = {}
    for g, k, v, _ in left:
        for h, other, u, w in right:
            if None in (k, other, v, u) or k != other:
                continue
            same = v == u
            value = float(predicted[v] == predicted[u])
            p = 1.0 if same else float(P[v] @ P[u])
            slope = np.zeros(M) if same else P[v] @ slopes[u] + P[u] @ slopes[v]
            one = np.concatenate([[value, p], slope])
            sums = found.setdefault((str(g), str(h)), [np.zeros(2 + M), np.zeros(2 + M)])
            sums[0] += one
            sums[1] += w * one
    return found


def check(state, left, right, world):
    parts = [joined_state._Part(part, SHAPE, side) for side, part in enumerate(state.sides)]
    assert state.meetings.pairs == len(joined_state._meeting(*parts)[0])
    circuit = StandingCircuit(state.standing(SHAPE), SHAPE, M)
    expected = by_pairs(left, right, world)
    assert {tuple(texts) for texts in circuit.texts} == set(expected)
    for row, texts in enumerate(circuit.texts):
        n, total = expected[tuple(texts)]
        assert circuit.sums[row, 1] == pytest.approx(n, rel=1e-9, abs=1e-9)
        assert circuit.sums[row, 2] == pytest.approx(n, rel=1e-9, abs=1e-9)
        assert circuit.sums[row, 3] == pytest.approx(total, rel=1e-9, abs=1e-9)


def make_world(rng, n):
    logits = rng.normal(size=(n, CLASSES)) * 2
    P = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    values = np.sort(rng.integers(0, 256, (n, 16), np.uint8).view("S16").ravel()).view(
        np.uint8).reshape(n, 16)
    return values, P.argmax(axis=1), P, rng.normal(size=(n, CLASSES, M))


def some_rows(rng, n):
    return [(int(rng.integers(3)), None if rng.random() < 0.1 else int(rng.integers(2)),
             None if rng.random() < 0.1 else int(rng.integers(12)), float(rng.integers(-3, 9)))
            for _ in range(n)]


@pytest.mark.parametrize("seed", range(4))
def test_sums_are_those_over_all_pairs(seed):
    """After any changes of both sides; also of a state that was stored and read again."""
    rng = np.random.default_rng(seed)
    world, state, sides = make_world(rng, 12), JoinedState(), ([], [])
    for step in range(12):
        side = int(rng.integers(2))
        if rng.random() < 0.4 and sides[side]:
            gone = [sides[side].pop(int(rng.integers(len(sides[side]))))
                    for _ in range(int(rng.integers(1, len(sides[side]) + 1)))]
            before = state.rows()
            other = state.copy()
            touched = taken(other, side, gone, world, -1)
            assert state.rows() == before, "a copy was changed"
        else:
            new = some_rows(rng, int(rng.integers(1, 9)))
            sides[side].extend(new)
            before, other = state.rows(), state.copy()
            touched = taken(other, side, new, world, 1)
        after = other.rows()
        assert {key for key in {*before, *after} if before.get(key) != after.get(key)} <= touched
        state = other if step % 3 else JoinedState.loaded(
            ((key, *row) for key, row in after.items()), SHAPE)
        check(state, *sides, world)
    for side in (0, 1):
        if sides[side]:
            taken(state, side, sides[side], world, -1)
    assert state.rows() == {} and not any(state.values.counts)


def test_sums_are_multiplied_once_a_state(monkeypatch):
    rng = np.random.default_rng(0)
    world, calls = make_world(rng, 12), []
    multiplied = JoinedState._multiplied
    monkeypatch.setattr(JoinedState, "_multiplied",
                        lambda self, kept: calls.append(self) or multiplied(self, kept))
    state = JoinedState()
    for side in (0, 1):
        taken(state, side, some_rows(rng, 9), world, 1)
    for _ in range(3):
        state.standing(SHAPE)
    assert calls == [state]
    other = state.copy()
    taken(other, 0, [(0, 0, 1, 5.0)], world, 1)
    other.standing(SHAPE)
    state.standing(SHAPE)
    assert calls == [state, other]
    taken(state, 1, [(0, 0, 1, 5.0)], world, 1)
    assert state.standing(SHAPE).cells.keys() and calls == [state, other, state]


def test_limits(monkeypatch):
    rng = np.random.default_rng(0)
    world, rows = make_world(rng, 12), [(0, 0, v, 1.0) for v in range(12)]
    monkeypatch.setattr(joined_state, "MOST", 12)
    taken(JoinedState(), 0, rows, world, 1)
    with pytest.raises(LimitExceeded, match="sums of one table"):
        taken(JoinedState(), 0, [*rows, (1, 0, 0, 1.0)], world, 1)
    # What meets nothing is not kept, and does not count.
    taken(JoinedState(), 0, [*rows, *((0, None, v, 1.0) for v in range(12))], world, 1)
    monkeypatch.setattr(joined_state, "_PAIRS", 5)
    state = JoinedState()
    for side in (0, 1):
        taken(state, side, [(g, 0, 0, 1.0) for g in range(2)], world, 1)
    with pytest.raises(LimitExceeded, match="multiply 12 pairs of sums, of at most 5"):
        state.standing(SHAPE)
    assert state.too_large and state.copy().too_large
    assert JoinedState.loaded(((key, *row) for key, row in state.rows().items()), SHAPE).too_large
    taken(state, 0, [(1, 0, 0, 1.0)], world, -1)
    assert state.meetings.pairs == 6 and state.too_large
    taken(state, 1, [(g, 0, 0, 1.0) for g in range(2)], world, -1)
    assert state.too_large is None and state.standing(SHAPE).cells == {}
