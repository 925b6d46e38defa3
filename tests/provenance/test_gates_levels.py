"""Levels: one sum against many constants, by enumeration, beside a Threshold for each, and many."""

from __future__ import annotations

import numpy as np
import pytest
from gates_harness import World, holds, probabilities, random_terms, slopes, tangent

from pgrain.provenance.gates import levels
from pgrain.provenance.gates.levels import Levels
from pgrain.provenance.gates.threshold import Threshold

ASKED = [-2, -1, 0, 1, 2, 3, 4, 9]


def random_world(seed):
    rng = np.random.default_rng(seed)
    V, R, J, n = 5, 2 + seed % 2, 14, 3
    literals = random_terms(rng, V, R, J, 1)
    target, weight = rng.integers(n, size=J), rng.choice([1.0, -1.0], J)
    order = rng.permutation((n + 1) * len(ASKED))        # the last group has no terms
    group, level = np.repeat(np.arange(n + 1), len(ASKED))[order], np.tile(ASKED, n + 1)[order]
    layer = Levels(1 + V * R, group, level, target, literals, weight)

    def function(classes):
        total = np.zeros(n + 1)
        for j in range(J):
            if holds(literals[j], classes, R):
                total[target[j]] += weight[j]
        true = total[group] >= level
        return np.stack([~true, true, np.zeros(len(level), bool)], axis=1).astype(float).ravel()
    return World(V, R, layer, 3 * len(level)), function, rng


@pytest.mark.parametrize("seed", range(8))
def test_the_expectation_what_sql_says_and_the_gradient(seed):
    world, function, rng = random_world(seed)
    for how in ("inner", "any", "hard"):
        P = probabilities(rng, world.V, world.R, how)
        assert world.literals(P) == pytest.approx(world.expectation(P, function), rel=1e-10,
                                                  abs=1e-14)
        d = rng.normal(size=world.hidden.stop - world.hidden.start)
        expected = slopes(P, lambda Q, d=d: world.literals(Q) @ d)
        assert tangent(world.gradient(P, d)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    for classes, P in world.assignments():
        assert world.literals(P, hard=True).tolist() == function(classes).tolist()


def copies(n, p, weight, chosen=None, kind=Levels):
    """(world, (n, 2) P) of one group over n variables of two classes, the terms on the first."""
    chosen, target = np.arange(1, n + 1) if chosen is None else chosen, np.zeros(n, np.int64)
    literals, zeros = 1 + 2 * np.arange(n), np.zeros(len(chosen), np.int64)
    if kind is Levels:
        layer = Levels(1 + 2 * n, zeros, chosen, target, literals, weight)
    else:                               # every term once for each constant
        m = len(chosen)
        layer = Threshold(1 + 2 * n, m, ">=", np.repeat(np.arange(m), n), np.tile(literals, m),
                          np.tile(weight, m), -chosen.astype(float))
    return World(n, 2, layer, 3 * len(chosen)), np.stack([p, 1 - p], axis=1)


def test_as_a_threshold_for_each():
    rng = np.random.default_rng(0)
    n = 60
    p, weight = rng.random(n), np.where(np.arange(n) % 3, 1.0, -1.0)
    world, P = copies(n, p, weight)
    other, _ = copies(n, p, weight, kind=Threshold)
    assert world.literals(P) == pytest.approx(other.literals(P), abs=1e-12)
    d = rng.normal(size=3 * n)
    assert tangent(world.gradient(P, d)) == pytest.approx(tangent(other.gradient(P, d)), rel=1e-8,
                                                          abs=1e-12)


def test_beyond_what_is_counted_out(monkeypatch):
    """20 000 terms and as many copies; three cumulants beside the counted distribution."""
    rng = np.random.default_rng(1)
    n = 1500
    p, weight = rng.beta(0.3, 0.6, n), np.where(np.arange(n) % 2, 1.0, -1.0)
    exact, P = copies(n, p, weight)
    counted = exact.literals(P).reshape(-1, 3)[:, 1]
    d = rng.normal(size=3 * n)
    gradient = tangent(exact.gradient(P, d))
    monkeypatch.setattr(levels, "VALUES", 10)
    rough, _ = copies(n, p, weight)
    assert rough.literals(P).reshape(-1, 3)[:, 1] == pytest.approx(counted, abs=2e-4)
    size = np.linalg.norm(gradient)
    assert np.linalg.norm(tangent(rough.gradient(P, d)) - gradient) < 0.02 * size
    # Expectation of the rows that EXCEPT ALL keeps, and no more memory than terms and copies take.
    n = 20_000
    p = rng.random(n)
    many, P = copies(n, p, np.where(np.arange(n) % 3, 1.0, -1.0))
    kept = many.literals(P).reshape(-1, 3)[:, 1].sum()
    draws = ((rng.random((400, n)) < p) * np.where(np.arange(n) % 3, 1, -1)).sum(axis=1)
    assert kept == pytest.approx(draws.clip(0).mean(), abs=5 * draws.std() / 20)


def test_edges_are_as_many_as_terms_and_copies():
    n = 5_000
    world, _ = copies(n, np.full(n, 0.5), np.ones(n))
    above, below = world.layer.edges()
    assert len(above) == len(below) <= 5 * n
    assert above.min() > below.min() > 0
