"""First and ProbaStep: LIMIT, OFFSET, DISTINCT ON by enumeration; thresholds on probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from gates_harness import World, differences, holds, probabilities, slopes, tangent

from pgrain.provenance.gates import counting, first
from pgrain.provenance.gates.first import First
from pgrain.provenance.gates.proba_step import ProbaStep

LIMITS = [(0, 1), (0, 2), (1, 1), (2, None), (0, None), (1, 3), (0, 0), (3, 2)]


def among_the_first(literals, target, offset, limit, R):
    """function(classes) -> (J,) whether each term is in the result."""
    def evaluate(classes):
        out, before = np.zeros(len(literals)), {}
        for j, literal in enumerate(literals):
            if holds([literal], classes, R):
                place = before.get(target[j], 0)
                out[j] = place >= offset and (limit is None or place < offset + limit)
                before[target[j]] = place + 1
        return out
    return evaluate


def independent_world(seed, offset, limit, V=6, R=2):
    rng = np.random.default_rng(seed)
    literals = 1 + rng.permutation(V) * R + rng.integers(R, size=V)
    target = rng.integers(2, size=V)
    layer = First(1 + V * R, target, literals, offset, limit)
    return World(V, R, layer, V), among_the_first(literals, target, offset, limit, R), rng


@pytest.mark.parametrize(("offset", "limit"), LIMITS)
@pytest.mark.parametrize("seed", range(3))
def test_relaxed_is_the_expectation_and_so_are_its_slopes(seed, offset, limit):
    world, function, rng = independent_world(seed, offset, limit)
    for how in ("inner", "any", "hard"):
        P = probabilities(rng, world.V, world.R, how)
        expected = world.expectation(P, function)
        assert world.literals(P) == pytest.approx(expected, rel=1e-11, abs=1e-14)
        d = rng.normal(size=world.V)
        expected = slopes(P, lambda Q, d=d: world.literals(Q) @ d)
        assert tangent(world.gradient(P, d)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("limit", [1, 2, 3, 9])
@pytest.mark.parametrize("approximate", [False, True])
def test_ties_are_kept_together(limit, approximate, monkeypatch):
    """WITH TIES: a term is kept if fewer than `limit` occur before the first of its peers."""
    rng = np.random.default_rng(limit)
    V, R = 7, 2
    literals = 1 + rng.permutation(V) * R + rng.integers(R, size=V)
    target = np.array([0, 0, 0, 0, 1, 1, 1])
    peers = np.array([5, 5, 6, 6, 6, 7, 7])
    if approximate:
        monkeypatch.setattr(first, "WORK", 0)
    world = World(V, R, First(1 + V * R, target, literals, 0, limit, peers), V)

    def function(classes):
        there = np.array([bool(holds([literal], classes, R)) for literal in literals])
        return np.array([there[j] and sum(there[(target == target[j]) & (np.arange(V) < j)
                                                & (peers != peers[j])]) < limit for j in range(V)])

    for how in ("inner", "any", "hard"):
        P = probabilities(rng, V, R, how)
        if not approximate:
            assert world.literals(P) == pytest.approx(world.expectation(P, function), rel=1e-11,
                                                      abs=1e-14)
        d = rng.normal(size=V)
        if not approximate:
            expected = slopes(P, lambda Q, d=d: world.literals(Q) @ d)
            assert tangent(world.gradient(P, d)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        elif how == "inner":
            expected = differences(P, lambda Q, d=d: world.literals(Q) @ d)
            assert tangent(world.gradient(P, d)) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def shared_world(seed, offset, limit):
    """Terms of few variables, some of them the same literal, one of them certain."""
    rng = np.random.default_rng(seed)
    V, R, J = 4, 3, 14
    literals = 1 + rng.integers(V * R, size=J)
    literals[rng.integers(J)] = 0
    target = rng.integers(3, size=J)
    layer = First(1 + V * R, target, literals, offset, limit)
    return World(V, R, layer, J), among_the_first(literals, target, offset, limit, R), rng


@pytest.mark.parametrize("seed", range(6))
def test_distinct_on_is_exact_where_terms_share_variables(seed):
    world, function, rng = shared_world(seed, 0, 1)
    for how in ("inner", "any", "hard"):
        P = probabilities(rng, world.V, world.R, how)
        expected = world.expectation(P, function)
        assert world.literals(P) == pytest.approx(expected, rel=1e-10, abs=1e-14)
        d = rng.normal(size=len(expected))
        expected = slopes(P, lambda Q, d=d: world.literals(Q) @ d)
        assert tangent(world.gradient(P, d)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("offset", "limit"), LIMITS)
def test_hard_is_what_sql_says(offset, limit):
    world, function, rng = shared_world(1, offset, limit)
    for _ in range(20):
        classes = rng.integers(world.R, size=world.V)
        got = world.literals(np.eye(world.R)[classes], hard=True)
        assert got.tolist() == function(classes).tolist()


def one_by_one(p, target, offset, limit):
    """(J,) by the recurrence, term by term."""
    result, alpha = np.zeros(len(p)), {}
    states = offset + (limit or 0)
    for j, q in enumerate(p):
        a = alpha.setdefault(target[j], np.eye(1, states)[0])
        result[j] = q * (1 - a.sum() if limit is None else a[offset:].sum())
        a[1:] = a[1:] * (1 - q) + a[:-1] * q
        a[0] *= 1 - q
    return result


@pytest.mark.parametrize(("offset", "limit"), [(0, 7), (3, 4), (5, None), (0, 40), (30, 1)])
@pytest.mark.parametrize("targets", [1, 3, 40])
def test_long_lists_in_chunks(offset, limit, targets, monkeypatch):
    monkeypatch.setattr(counting, "_FLOATS", 1)          # 1024 terms a chunk
    rng = np.random.default_rng(0)
    J = 2500
    p, target = rng.random(J) * 0.05, rng.integers(targets, size=J)
    p[rng.integers(J, size=30)] = rng.choice([0.0, 1.0], 30)
    layer = First(1 + 2 * J, target, 1 + 2 * np.arange(J), offset, limit)
    world = World(J, 2, layer, J)
    P = np.stack([p, 1 - p], axis=1)
    got = world.literals(P)
    assert got == pytest.approx(one_by_one(p, target, offset, limit), rel=1e-9, abs=1e-13)
    d = rng.normal(size=J)
    gradient = world.gradient(P, d)[:, 0]
    for v in [0, J - 1, *rng.integers(J, size=2)]:
        values = []
        for certain in (1.0, 0.0):
            moved = p.copy()
            moved[v] = certain
            values.append(one_by_one(moved, target, offset, limit) @ d)
        assert gradient[v] == pytest.approx(values[0] - values[1], rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(("offset", "limit"), [(60, 40), (80, None)])
def test_large_offsets_by_cumulants(offset, limit, monkeypatch):
    monkeypatch.setattr(first, "WORK", 0)
    rng = np.random.default_rng(0)
    J = 400
    p, target = rng.random(J), np.repeat([0, 1], J // 2)
    p[:3] = 0.0, 1.0, 1.0
    world = World(J, 2, First(1 + 2 * J, target, 1 + 2 * np.arange(J), offset, limit), J)
    P = np.stack([p, 1 - p], axis=1)
    got = world.literals(P)
    assert got == pytest.approx(one_by_one(p, target, offset, limit), abs=2e-3)
    d = rng.normal(size=J)
    chosen = [5, 100, 250]
    expected = np.array([
        (world.literals(P + s) - world.literals(P - s)) @ d / 2e-6
        for s in (np.eye(J)[v][:, None] * [1e-6, -1e-6] for v in chosen)])
    assert world.gradient(P, d)[chosen, 0] == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("J", [5, 64, 200])
def test_a_term_depends_on_those_up_to_it(J):
    network = World(J, 1, First(1 + J, np.zeros(J, int), 1 + np.arange(J), 0, 2), J).network
    targets, sources = network.edges()
    reached = np.eye(network.n_p, dtype=bool)
    for target, source in sorted(zip(targets.tolist(), sources.tolist(), strict=True)):
        reached[target] |= reached[source]               # sources stand before their targets
    for j in range(J):
        assert np.flatnonzero(reached[1 + J + j, 1:1 + J]).tolist() == list(range(j + 1))
    assert len(targets) < J * (34 if J <= 64 else 10)


def test_no_terms():
    for offset, limit in LIMITS:
        world = World(1, 2, First(3, [], [], offset, limit), 0)
        assert world.literals(np.array([[0.5, 0.5]])).tolist() == []
        assert world.gradient(np.array([[0.5, 0.5]])).tolist() == [[0, 0]]


@pytest.mark.parametrize("operator", [">", ">=", "<", "<="])
def test_proba_step(operator):
    t = np.array([0.5, 0.8, 0.05, 0.0, 1.0, -1.0, 2.0, np.nan])
    n, V = len(t), 4
    index = 1 + 2 * (np.arange(n) % V)
    world = World(V, 2, ProbaStep(1 + 2 * V, index, t, operator), 3 * n)
    p = np.array([0.3, 0.8, 1.0, 0.0])
    P = np.stack([p, 1 - p], axis=1)
    compare = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal}[operator]
    hard = world.literals(P, hard=True).reshape(n, 3)
    assert hard[:-1, 1].tolist() == compare(p[np.arange(n) % V], t)[:-1].astype(float).tolist()
    assert hard[-1].tolist() == [0, 0, 1]
    assert hard.sum(axis=1).tolist() == [1.0] * n
    relaxed = world.literals(P).reshape(n, 3)
    up = operator[0] == ">"
    assert relaxed[0, 1] == pytest.approx(0.3 if up else 0.7)
    assert relaxed[1, 1] == pytest.approx(0.5)                  # p = t
    assert relaxed[2, 1] == pytest.approx(1.0 if up else 0.0)
    assert relaxed[3:].tolist() == hard[3:].tolist()
    assert relaxed.sum(axis=1) == pytest.approx(1.0)
    inner = np.stack([[0.3, 0.8, 0.9, 0.1], [0.7, 0.2, 0.1, 0.9]], axis=1)
    d = np.random.default_rng(0).normal(size=3 * n)
    expected = differences(inner, lambda Q: world.literals(Q) @ d)
    assert tangent(world.gradient(inner, d)) == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert np.isfinite(world.gradient(P, d)).all()
    with pytest.raises(ValueError, match="no such comparison"):
        ProbaStep(0, index, t, "=")
