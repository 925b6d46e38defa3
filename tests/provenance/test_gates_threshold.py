"""Threshold: comparisons of sums, by enumeration, by convolution, and how far `normal` is off."""

from __future__ import annotations

import numpy as np
import pytest
from gates_harness import (
    World,
    differences,
    holds,
    probabilities,
    random_terms,
    slopes,
    tangent,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrain.provenance.gates import halves, threshold
from pgrain.provenance.gates.lattice import Lattice
from pgrain.provenance.gates.threshold import Threshold

OPERATORS = [">", ">=", "<", "<=", "=", "<>"]
COMPARE = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal,
           "=": np.equal, "<>": np.not_equal}


def truth(operator, literals, target, weight, constant, R):
    """function(classes) -> (3 n,) one-hot of false, true, null by group."""
    n = len(constant)

    def evaluate(classes):
        total = np.array(constant, float)
        for j in range(len(target)):
            if holds(literals[j], classes, R):
                total[target[j]] += weight[j]
        total[np.abs(total) < 1e-9] = 0.0
        out = np.zeros((n, 3))
        out[:, 1] = COMPARE[operator](total, 0.0)
        out[:, 0] = 1 - out[:, 1]
        out[np.isnan(constant)] = 0, 0, 1
        return out.ravel()
    return evaluate


KINDS = {
    "count": lambda rng, J: np.ones(J),
    "integers": lambda rng, J: rng.integers(-3, 6, J).astype(float),
    "halves": lambda rng, J: rng.integers(-3, 6, J) / 2,
    "decimals": lambda rng, J: np.round(rng.normal(size=J) * 3, 1),
    "reals": lambda rng, J: rng.normal(size=J),
}


def random_world(seed, kind, operator, L=1, complete=False):
    rng = np.random.default_rng(seed)
    V, R, J, n = 5, 2 + seed % 2, 16, 3
    if L == 1:
        literals = random_terms(rng, V, R, J, 1)
    else:                  # terms of one group over the same variables, or over others
        sets = [[0, 1], [2], [3, 4]]
        literals = np.zeros((J, 2), np.int64)
        for row in literals:
            chosen = np.array(sets[rng.integers(len(sets))])
            row[:len(chosen)] = 1 + chosen * R + rng.integers(R, size=len(chosen))
        literals[0] = 0
    target = rng.integers(n, size=J)
    weight = KINDS[kind](rng, J)
    constant = -np.round(rng.random(n + 2) * 5 - 1, 0 if kind != "reals" else 3)
    constant[-1] = np.nan
    layer = Threshold(1 + V * R, n + 2, operator, target, literals, weight, constant)
    world = World(V, R, layer, 3 * (n + 2), complete=complete)
    return world, truth(operator, literals, target, weight, constant, R), rng


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("L", [1, 2])
def test_relaxed_is_the_expectation(kind, operator, L):
    for seed in range(2):
        world, function, rng = random_world(seed, kind, operator, L, bool(seed))
        assert world.layer.exact.all()
        for how in ("inner", "any"):
            P = probabilities(rng, world.V, world.R, how)
            got = world.literals(P)
            assert got == pytest.approx(world.expectation(P, function), rel=1e-10, abs=1e-14)
            assert got.reshape(-1, 3).sum(axis=1) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("kind", KINDS)
def test_hard_is_what_sql_says(kind, operator):
    world, function, rng = random_world(7, kind, operator, 1 + (kind == "reals"))
    for _ in range(10):
        classes = rng.integers(world.R, size=world.V)
        got = world.literals(np.eye(world.R)[classes], hard=True)
        assert got.tolist() == function(classes).tolist()


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("L", [1, 2])
def test_gradient_also_at_0_and_1(kind, operator, L):
    for seed in range(2):
        world, _, rng = random_world(seed, kind, operator, L, bool(seed))
        for how in ("inner", "any", "hard"):
            P = probabilities(rng, world.V, world.R, how)
            d = rng.normal(size=world.hidden.stop - world.hidden.start)
            expected = slopes(P, lambda Q, d=d, w=world: w.literals(Q) @ d)
            assert tangent(world.gradient(P, d)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def bernoullis(n, operator, weight, constant):
    """One group over n variables of two classes, the terms on the first."""
    layer = Threshold(1 + 2 * n, 1, operator, np.zeros(n, np.int64), 1 + 2 * np.arange(n), weight,
                      np.array([constant]))
    return World(n, 2, layer, 3)


def both(p):
    return np.stack([p, 1 - p], axis=1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(0, 60),
       st.sampled_from(OPERATORS))
def test_poisson_binomial_is_the_convolution(p, least, operator):
    world = bernoullis(len(p), operator, np.ones(len(p)), -float(least))
    mass = np.ones(1)
    for q in p:
        mass = np.convolve(mass, [1 - q, q])
    expected = mass[COMPARE[operator](np.arange(len(mass)), least)].sum()
    got = world.literals(both(np.array(p)))
    assert got[1] == pytest.approx(expected, rel=1e-11, abs=1e-300)
    assert got[0] == pytest.approx(1 - expected, abs=1e-12)


@pytest.mark.parametrize(("n", "least"), [(2000, 1000), (2000, 900), (4000, 10), (30000, 3)])
def test_poisson_binomial_of_thousands(n, least):
    rng = np.random.default_rng(n)
    p = rng.random(n) * (1.0 if least > 500 else 2 * least / n)
    world = bernoullis(n, ">", np.ones(n), -float(least))
    assert world.layer.exact.all()
    mass = np.zeros(least + 1)
    mass[0] = 1.0
    for q in p:                                   # P(sum = k), k <= least, one after the other
        mass[1:] = mass[1:] * (1 - q) + mass[:-1] * q
        mass[0] *= 1 - q
    got = world.literals(both(p))
    assert got[0] == pytest.approx(mass.sum(), rel=1e-10)
    gradient = world.gradient(both(p), [0, 1, 0])[:, 0]
    for v in rng.integers(n, size=3):
        values = []
        for certain in (1.0, 0.0):
            moved = p.copy()
            moved[v] = certain
            values.append(world.literals(both(moved))[1])
        assert gradient[v] == pytest.approx(values[0] - values[1], rel=1e-8)


def test_tails_keep_their_digits():
    n = 60
    p = np.full(n, 1e-5)
    world = bernoullis(n, ">=", np.ones(n), -float(n))
    got = world.literals(both(p))
    assert got[1] == pytest.approx(1e-300, rel=1e-9, abs=0)
    assert world.gradient(both(p), [0, 1, 0])[:, 0] == pytest.approx(1e-295, rel=1e-9, abs=0)


def random_lattice(rng):
    n = rng.integers(1, 6)
    group = np.sort(np.concatenate([np.arange(n), rng.integers(n, size=rng.integers(0, 40))]))
    cap = rng.integers(0, rng.choice([4, 60, 400]), size=n)
    width = np.minimum(rng.integers(1, rng.choice([3, 9, 250]), size=len(group)), cap[group] + 1)
    return Lattice(group, width, cap), group, width, cap


@pytest.mark.parametrize("seed", range(25))
def test_lattice_is_the_convolution_with_the_tail_in_the_last_bin(seed):
    rng = np.random.default_rng(seed)
    lattice, group, width, cap = random_lattice(rng)
    flat, leaves = np.zeros(lattice.size), []
    for b, size in enumerate(width):
        leaves.append(rng.dirichlet(np.ones(size)))
        flat[lattice.first[b] + np.arange(size) * lattice.stride[b]] = leaves[-1]
    result, saved = lattice.forward(flat)
    d = np.zeros(lattice.root_size)
    for g in range(len(cap)):
        mass = np.ones(1)
        for b in np.flatnonzero(group == g):
            mass = np.convolve(mass, leaves[b])
        bins = lattice.root_width[g]
        expected = np.append(mass, np.zeros(bins))[:bins]
        expected[-1] += mass[bins:].sum()
        places = lattice.root_first[g] + np.arange(bins) * lattice.root_stride[g]
        assert result[places] == pytest.approx(expected, rel=1e-11, abs=1e-300)
        d[places] = rng.normal(size=bins)
    gradient = lattice.backward(saved, d)
    for b in rng.integers(len(group), size=4):        # linear in each leaf
        place = lattice.first[b] + rng.integers(width[b]) * lattice.stride[b]
        moved = flat.copy()
        moved[place] += 0.5
        expected = (lattice.forward(moved)[0] @ d - result @ d) / 0.5
        assert gradient[place] == pytest.approx(expected, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_method_gives_the_same(operator, monkeypatch):
    """Lattice and halves on the same groups; and the gradient of `normal` by differences."""
    rng = np.random.default_rng(2)
    n = 14
    P = both(rng.random(n))
    weight = rng.integers(1, 5, n).astype(float)
    results, slopes_ = [], []
    for states in (0, 4096):
        monkeypatch.setattr(halves, "STATES", states)
        monkeypatch.setattr(threshold, "WORK", 0 if states else 1 << 28)
        world = bernoullis(n, operator, weight, -17.0)
        assert type(world.layer.parts[0]).__name__ == ("_InHalves" if states else "_OnLattice")
        results.append(world.literals(P))
        slopes_.append(tangent(world.gradient(P, [0.3, 1, 0])))
    assert results[0] == pytest.approx(results[1], rel=1e-11)
    assert slopes_[0] == pytest.approx(slopes_[1], rel=1e-9, abs=1e-13)
    monkeypatch.setattr(halves, "STATES", 0)
    for step in (1.0, np.pi):
        world = bernoullis(n, operator, weight * step, -17.0 * step)
        assert not world.layer.exact.any()
        got = world.literals(P)
        assert got[:2].sum() == pytest.approx(1.0)
        if operator not in ("=", "<>") or step == 1:
            assert got == pytest.approx(results[0], abs=0.02 if step == 1 else 0.08)
        expected = differences(P, lambda Q, w=world: w.literals(Q)[1])
        assert tangent(world.gradient(P, [0, 1, 0])) == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(("kind", "limit"), [("lattice", 1e-3), ("reals", 1e-3), ("rare", 8e-3)])
def test_the_normal_approximation_is_this_far_off(kind, limit, monkeypatch):
    """100 terms, the largest error over all thresholds; the table is in docs/dev/semantics.md."""
    rng = np.random.default_rng(0)
    n = 100
    p = rng.random(n) * (0.1 if kind == "rare" else 1.0)
    scale = 1024 if kind == "reals" else 1          # all weights are multiples of 1 / scale
    weight = rng.integers(1, 21 * scale, n) / scale
    mass = np.ones(1)
    for q, w in zip(p, (weight * scale).astype(int), strict=True):
        shifted = np.zeros(len(mass) + w)
        shifted[:len(mass)] = mass * (1 - q)
        shifted[w:] += mass * q
        mass = shifted
    monkeypatch.setattr(halves, "STATES", 0)
    monkeypatch.setattr(threshold, "WORK", 0)
    off = []
    for x in np.rint(np.linspace(0.02, 0.98, 25) * weight.sum()):
        layer = bernoullis(n, "<=", weight, -x)
        below = np.arange(len(mass)) <= x * scale
        off.append(layer.literals(both(p))[1] - mass[below].sum())
    assert 1e-6 < np.abs(off).max() < limit


def test_certain_sums_stay_certain_when_approximated(monkeypatch):
    monkeypatch.setattr(halves, "STATES", 0)
    n = 50
    weight = np.arange(n) + np.sqrt(2)
    for total, expected in ((-weight[:10].sum(), [1, 0]), (-weight[:9].sum(), [0, 1])):
        p = np.zeros(n)
        p[:10] = 1.0
        world = bernoullis(n, ">", weight, total)
        assert not world.layer.exact.any()
        assert world.literals(both(p))[:2].tolist() == expected
        assert np.isfinite(world.gradient(both(p), [1, 0, 0])).all()


def test_equality_has_a_relative_tolerance():
    """0.1 + 0.2 = 0.3, as the numeric type has it."""
    world = bernoullis(2, "=", np.array([0.1, 0.2]), -0.3)
    assert world.literals(both(np.array([1.0, 1.0])), hard=True).tolist() == [0, 1, 0]
    assert world.literals(both(np.array([0.5, 0.5]))).tolist() == [0.75, 0.25, 0]
    reals = bernoullis(2, "=", np.array([np.pi, np.e]), -(np.pi + np.e))
    assert reals.literals(both(np.array([0.5, 0.5]))).tolist() == [0.75, 0.25, 0]


def test_no_terms():
    layer = Threshold(3, 2, "<=", np.zeros(0, np.int64), np.zeros((0, 1), np.int64), np.zeros(0),
                      np.array([1.0, -1.0]))
    world = World(1, 2, layer, 6)
    P = np.array([[0.5, 0.5]])
    assert world.literals(P).tolist() == [1, 0, 0, 0, 1, 0]
    assert world.literals(P, hard=True).tolist() == [1, 0, 0, 0, 1, 0]
    assert world.gradient(P, np.ones(6)).tolist() == [[0, 0]]
