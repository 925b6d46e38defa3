"""AnyOf: SQL's OR over terms, exact by enumeration, also where terms share variables."""

from __future__ import annotations

import numpy as np
import pytest
from gates_harness import World, holds, probabilities, random_terms, slopes, tangent

from pgrain.provenance.gates import any_of
from pgrain.provenance.gates.any_of import AnyOf


def truth(literals, target, unknown, n, R):
    """function(classes) -> (3 n,) one-hot of false, true, null by group."""
    def evaluate(classes):
        out = np.zeros((n, 3))
        for g in range(n):
            occurring = [unknown[j] for j in range(len(target))
                         if target[j] == g and holds(literals[j], classes, R)]
            out[g, 1 if False in occurring else 2 if True in occurring else 0] = 1
        return out.ravel()
    return evaluate


def random_world(seed, L, complete=False, V=4, R=3, J=14, n=3, constants=0.03):
    rng = np.random.default_rng(seed)
    literals = random_terms(rng, V, R, J, L, constants)
    target = rng.integers(n, size=J)
    unknown = rng.random(J) < 0.3 if seed % 3 else None
    layer = AnyOf(1 + V * R, n, target, literals if L > 1 else literals[:, 0], unknown)
    world = World(V, R, layer, 3 * n, complete=complete)
    unknown = np.zeros(J, bool) if unknown is None else unknown
    return world, truth(literals, target, unknown, n, R), rng


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("L", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_relaxed_is_the_expectation(seed, L, complete):
    world, function, rng = random_world(seed, L, complete)
    for kind in ("inner", "any"):
        P = probabilities(rng, world.V, world.R, kind)
        got = world.literals(P)
        assert got == pytest.approx(world.expectation(P, function), rel=1e-11, abs=1e-14)
        assert got.reshape(-1, 3).sum(axis=1) == pytest.approx(1.0, abs=1e-12)
        assert (got >= 0).all()


@pytest.mark.parametrize("L", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_hard_is_what_sql_says(seed, L):
    world, function, rng = random_world(seed, L, bool(seed % 2))
    for _ in range(10):
        classes = rng.integers(world.R, size=world.V)
        got = world.literals(np.eye(world.R)[classes], hard=True)
        assert got.tolist() == function(classes).tolist()
        assert not np.signbit(got).any()


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("L", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_gradient_also_at_0_and_1(seed, L, complete):
    world, _, rng = random_world(seed, L, complete)
    for kind in ("inner", "any", "hard"):
        P = probabilities(rng, world.V, world.R, kind)
        d = rng.normal(size=world.hidden.stop - world.hidden.start)
        expected = slopes(P, lambda Q, d=d: world.literals(Q) @ d)
        assert tangent(world.gradient(P, d)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_two_thousand_variables_and_their_gradient():
    rng = np.random.default_rng(0)
    V, R = 2000, 2
    layer = AnyOf(1 + V * R, 1, np.zeros(V, np.int64), 1 + R * np.arange(V))
    world = World(V, R, layer, 3)
    p = rng.random(V) * 2e-3
    p[:2] = 0.0
    P = np.stack([p, 1 - p], axis=1)
    assert world.literals(P) == pytest.approx([np.prod(1 - p), 1 - np.prod(1 - p), 0], rel=1e-11)
    gradient = world.gradient(P, [0, 1, 0])[:, 0]
    expected = [np.prod(np.delete(1 - p, v)) for v in range(V)]
    assert gradient == pytest.approx(expected, rel=1e-10)
    for v in (2, 7, 1999):                            # finite differences too
        step = np.zeros((V, R))
        step[v] = 1e-5, -1e-5
        numeric = (world.literals(P + step) - world.literals(P - step))[1] / 2e-5
        assert gradient[v] == pytest.approx(numeric, rel=1e-6)
    P[5] = 1, 0                                       # one certain: only its own slope is left
    gradient = world.gradient(P, [0, 1, 0])[:, 0]
    assert gradient[5] == pytest.approx(np.prod(np.delete(1 - p, 5)), rel=1e-10)
    assert np.delete(gradient, 5).tolist() == [0.0] * (V - 1)
    P[6] = 1, 0                                       # two: none
    assert world.gradient(P, [0, 1, 0]).tolist() == np.zeros((V, R)).tolist()


def test_thousands_of_factors_neither_underflow_nor_cancel():
    V, R = 3000, 2
    layer = AnyOf(1 + V * R, 1, np.zeros(V, np.int64), 1 + R * np.arange(V))
    world = World(V, R, layer, 3)
    P = np.tile([1e-300, 1.0], (V, 1))
    assert world.literals(P) == pytest.approx([1, 3e-297, 0], rel=1e-12, abs=0)
    assert world.gradient(P, [0, 1, 0])[:, 0] == pytest.approx(1.0)
    P = np.tile([0.2, 0.8], (V, 1))
    assert world.literals(P)[0] == pytest.approx(np.exp(V * np.log(0.8)), rel=1e-9, abs=0)
    assert world.gradient(P, [0, 1, 0])[:, 0] == pytest.approx(
        np.exp((V - 1) * np.log(0.8)), rel=1e-9, abs=0)


def test_none_of_the_likely_classes_keeps_its_digits():
    """NOT EXISTS (… predict(x) <> 'c'): 1 - (p_a + p_b) is 0 in float64, p_c is 1e-30."""
    layer = AnyOf(4, 1, [0, 0], np.array([1, 2]))
    P = np.array([[0.5, 0.5, 1e-30]])
    assert World(1, 3, layer, 3, complete=True).literals(P)[0] == pytest.approx(
        1e-30, rel=1e-12, abs=0)
    every = AnyOf(4, 1, [0, 0, 0], np.array([1, 2, 3]))
    thirds = np.array([[0.1, 0.2, 0.7]])
    assert World(1, 3, every, 3, complete=True).literals(thirds)[:2].tolist() == [0.0, 1.0]


def test_a_hub_shared_by_many_is_exact():
    """EXISTS (… WHERE predict(inner) = predict(outer)): 40 inner rows, 3^41 assignments."""
    rng = np.random.default_rng(3)
    V, R = 41, 3
    literals = np.array([(1 + c, 1 + v * R + c) for v in range(1, V) for c in range(R)])
    layer = AnyOf(1 + V * R, 1, np.zeros(len(literals), np.int64), literals)
    world = World(V, R, layer, 3)
    P = probabilities(rng, V, R, "inner")
    P[1:] = P[1:] * 0.02 + np.array([0.0, 0.0, 0.98])
    expected = sum(P[0, c] * (1 - np.prod(1 - P[1:, c])) for c in range(R))
    assert world.literals(P)[1] == pytest.approx(expected, rel=1e-12)
    expected = slopes(P, lambda Q: world.literals(Q)[1])
    assert tangent(world.gradient(P, [0, 1, 0])) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_too_many_joint_classes_count_as_independent(monkeypatch):
    monkeypatch.setattr(any_of, "STATES", 1)
    layer = AnyOf(7, 1, [0, 0], np.array([[1, 3], [3, 5]]))
    P = np.array([[0.5, 0.5], [0.4, 0.6], [0.3, 0.7]])
    assert World(3, 2, layer, 3).literals(P)[0] == pytest.approx((1 - 0.2) * (1 - 0.12))


def test_a_literal_twice_in_a_term_counts_once():
    P = np.array([[0.25, 0.75], [0.5, 0.5]])
    layer = AnyOf(5, 2, [0, 1], np.array([[1, 3, 1], [1, 0, 1]]))
    assert World(2, 2, layer, 6).literals(P)[1::3] == pytest.approx([0.125, 0.25])


def test_no_terms_and_no_groups():
    world = World(1, 2, AnyOf(3, 2, np.zeros(0, np.int64), np.zeros((0, 2), np.int64)), 6)
    assert world.literals(np.array([[0.5, 0.5]])).tolist() == [1, 0, 0, 1, 0, 0]
    assert world.gradient(np.array([[0.5, 0.5]]), np.ones(6)).tolist() == [[0, 0]]
    impossible = World(1, 2, AnyOf(3, 1, [0], np.array([[1, 2]])), 3)
    assert impossible.literals(np.array([[0.5, 0.5]])).tolist() == [1, 0, 0]
    assert World(1, 2, AnyOf(3, 0, [], np.zeros((0, 1), np.int64)), 0).literals(
        np.array([[0.5, 0.5]])).tolist() == []


def test_what_a_group_depends_on():
    layer = AnyOf(7, 2, [1, 0], np.array([[1, 3], [6, 0]]))
    edges = World(3, 2, layer, 6).network.edges()
    assert set(zip(*(side.tolist() for side in edges), strict=True)) == {
        (10, 1), (10, 3), (7, 6), (8, 7), (9, 7), (11, 10), (12, 10)}
