"""Extreme: min and max over terms that may not occur, by enumeration, with shared variables."""

from __future__ import annotations

import numpy as np
import pytest
from gates_harness import World, holds, probabilities, random_terms, slopes, tangent

from pgrain.provenance.gates.extreme import Extreme


def disjoint_terms(rng, R, J):
    """Terms over {0, 1}, {2} or {3}: the same set of variables or none in common."""
    sets = [[0, 1], [2], [3]]
    literals = np.zeros((J, 2), np.int64)
    for row in literals:
        chosen = np.array(sets[rng.integers(len(sets))])
        row[:len(chosen)] = 1 + chosen * R + rng.integers(R, size=len(chosen))
    return literals


def random_world(seed, L, kind, ties=False, complete=False):
    rng = np.random.default_rng(seed)
    V, R, J, n = 4, 3, 15, 3
    literals = random_terms(rng, V, R, J, 1) if L == 1 else disjoint_terms(rng, R, J)
    target = rng.integers(n, size=J)
    value = rng.integers(-2, 3, J).astype(float) if ties else rng.normal(size=J)
    world = World(V, R, Extreme(0, n, kind, target, literals, value), complete=complete)
    pick = min if kind == "min" else max

    def extreme(classes):
        """(2 n,) whether there is one, and it (0 where there is none)."""
        out = np.zeros((2, n))
        for g in range(n):
            there = [value[j] for j in range(J)
                     if target[j] == g and holds(literals[j], classes, R)]
            if there:
                out[:, g] = 1.0, pick(there)
        return out.ravel()

    return world, extreme, rng, n


@pytest.mark.parametrize("kind", ["min", "max"])
@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_relaxed_is_the_conditional_expectation(seed, L, kind):
    world, extreme, rng, n = random_world(seed, L, kind, seed % 2, seed % 3 == 0)
    for how in ("inner", "any"):
        P = probabilities(rng, world.V, world.R, how)
        some, total = world.expectation(P, extreme).reshape(2, n)
        state = world.forward(P)
        assert state.K == pytest.approx(some, rel=1e-11, abs=1e-14)
        known = some > 0
        assert state.X[known] == pytest.approx((total / np.where(known, some, 1))[known],
                                               rel=1e-9, abs=1e-9)
        assert (state.X[~known] == 0).all()


@pytest.mark.parametrize("kind", ["min", "max"])
@pytest.mark.parametrize("seed", range(6))
def test_hard_is_what_sql_says(seed, kind):
    world, extreme, rng, n = random_world(seed, 1 + seed % 2, kind, seed % 2)
    for _ in range(10):
        classes = rng.integers(world.R, size=world.V)
        state = world.forward(np.eye(world.R)[classes], hard=True)
        assert np.concatenate([state.K, state.X]).tolist() == extreme(classes).tolist()


@pytest.mark.parametrize("kind", ["min", "max"])
@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_gradient_also_at_0_and_1(seed, L, kind):
    world, _, rng, n = random_world(seed, L, kind, seed % 2, seed % 3 == 0)
    for how in ("inner", "any", "hard"):
        P = probabilities(rng, world.V, world.R, how)
        state = world.forward(P)
        known = state.K > 1e-9
        d_x, d_k = np.where(known, rng.normal(size=n), 0.0), rng.normal(size=n)
        X, K = state.X.copy(), np.where(known, state.K, 1.0)

        def of_sums(Q, w=world, d_x=d_x, d_k=d_k, X=X, K=K):
            """Linear in each variable, and with the same slope at P: X = (X K) / K."""
            at = w.forward(Q)
            return (d_k * at.K + d_x * (at.X * at.K - X * at.K) / K).sum()

        gradient = tangent(world.gradient(P, None, d_x, d_k))
        assert gradient == pytest.approx(slopes(P, of_sums), rel=1e-8, abs=1e-10)


def test_improbable_terms_keep_their_expectation_and_slopes():
    V, R = 3, 2
    layer = Extreme(0, 1, "max", np.zeros(V, np.int64), 1 + R * np.arange(V), [1.0, 5.0, 3.0])
    world = World(V, R, layer)
    P = np.tile([1e-300, 1.0], (V, 1))
    state = world.forward(P)
    assert state.K == pytest.approx([3e-300], rel=1e-12, abs=0)
    assert state.X == pytest.approx([3.0])
    gradient = world.gradient(P, None, [1.0], None)[:, 0]
    assert gradient == pytest.approx(np.array([-2.0, 2.0, 0.0]) / 3e-300, rel=1e-9, abs=1e285)
    assert world.gradient(P, None, None, [1.0])[:, 0] == pytest.approx(1.0)
    nothing = np.tile([0.0, 1.0], (V, 1))
    assert world.forward(nothing).X.tolist() == [0.0]
    assert world.gradient(nothing, None, [1.0], [1.0])[:, 0].tolist() == [1.0, 1.0, 1.0]


def test_thousands_of_variables_with_several_values_each():
    """max over labels cast to numbers: every class of a variable is a value of its own."""
    rng = np.random.default_rng(0)
    V, R = 800, 4
    literals = 1 + np.arange(V * R)
    value = np.tile(np.arange(R, dtype=float), V)
    world = World(V, R, Extreme(0, 1, "max", np.zeros(V * R, np.int64), literals, value))
    P = rng.dirichlet(np.array([40.0, 1, 0.05, 0.005]), V)
    P[:3] = np.eye(R)[0]
    below = np.cumsum(P, axis=1).prod(axis=0)              # P(max <= c)
    expected = R - 1 - below[:-1].sum()
    state = world.forward(P)
    assert state.K == pytest.approx([1.0])
    assert state.X == pytest.approx([expected], rel=1e-10)
    gradient = tangent(world.gradient(P, None, [1.0], None))
    cumulative = np.cumsum(P, axis=1)
    for v in (0, 1, 17, 799):
        others = np.delete(cumulative, v, axis=0).prod(axis=0)[:-1]
        slope = [-(others[c:]).sum() for c in range(R)]
        assert gradient[v] == pytest.approx(np.array(slope) - slope[0], rel=1e-8, abs=1e-11)


def test_no_terms_and_what_depends_on_what():
    empty = World(1, 2, Extreme(0, 2, "min", [], np.zeros((0, 1), np.int64), []))
    state = empty.forward(np.array([[0.5, 0.5]]))
    assert state.K.tolist() == state.X.tolist() == [0, 0]
    assert empty.gradient(np.array([[0.5, 0.5]]), None, [1, 1], [1, 1]).tolist() == [[0, 0]]
    edges = World(1, 2, Extreme(0, 1, "min", [0, 0], np.array([[1, 0], [2, 0]]),
                                [1, 2])).network.edges()
    assert set(zip(*(side.tolist() for side in edges), strict=True)) == {(3, 1), (3, 2)}
