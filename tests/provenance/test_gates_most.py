"""Counts against the greatest of counts: the enumeration of all classes, and its slopes.

Variable v is a number with the values 0 .. R - 1, its classes; variable V - 1 says which candidates
are there.
"""

from __future__ import annotations

import numpy as np
import pytest
from gates_harness import World, differences, probabilities, tangent

from pgrain.provenance.gates.most import WEIGHTS, AgainstCounts

V, R = 5, 3
TESTS = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal,
         "=": np.equal, "<>": np.not_equal}
SCALE = 2.0             # of candidates: row r is compared with twice the others


def against(operator: str, own: bool, scale: float):
    """Rows 0 and 1 are the variables 0 and 1, compared with candidates of the sets 0 and 1: the
    variables 0 (if `own`), 2, 3 and 1 (if `own`), 2, times `scale`; 2 and 3 may be absent."""
    candidates = [(0, 2), (0, 3), (1, 2)] + ([(0, 0), (1, 1)] if own else [])
    candidates.sort()
    event = np.array([1 + (V - 1) * R + (v == 3) if v > 1 else 0 for _, v in candidates])
    value = np.arange(R, dtype=float)
    row = np.repeat([0, 1], R)
    of = np.repeat(np.arange(len(candidates)), R)
    mine = np.array([next((c for c, pair in enumerate(candidates) if pair == (r, r)), -1)
                     for r in range(2)])
    its = np.where(mine[row] >= 0, scale * np.tile(value, 2), -np.inf)
    layer = AgainstCounts(
        1 + V * R, operator, np.arange(2), row, np.tile(value, 2), 1 + np.arange(2 * R),
        np.tile(value, 2) >= its, np.tile(value, 2) > its, mine,
        np.array([s for s, _ in candidates]), event, of, scale * np.tile(value, len(candidates)),
        np.concatenate([1 + v * R + np.arange(R) for _, v in candidates]))

    def states(classes) -> np.ndarray:
        made = np.zeros((2, 3))
        for r in range(2):
            there = [scale * classes[v] for s, v in candidates if s == r and (
                v < 2 or classes[V - 1] == (v == 3))]
            made[r, int(TESTS[operator](classes[r], max(there))) if there else 2] = 1.0
        return made.ravel()

    return World(V, R, layer, 6), states


@pytest.mark.parametrize("scale", [1.0, SCALE])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("operator", WEIGHTS)
def test_exact(operator: str, own: bool, scale: float) -> None:
    world, states = against(operator, own, scale)
    for classes, P in list(world.assignments())[::5]:
        np.testing.assert_array_equal(world.literals(P, True), states(classes))
    rng = np.random.default_rng(len(operator))
    P = probabilities(rng, V, R)
    P[V - 1] = [0.3, 0.0, 0.7]          # candidates that are there together are not independent
    np.testing.assert_allclose(world.literals(P), world.expectation(P, states), atol=1e-12)
    P = 0.8 * rng.dirichlet(np.ones(R), V) + 0.2 / R
    weights = rng.normal(size=6)
    np.testing.assert_allclose(
        tangent(world.gradient(P, weights)),
        differences(P, lambda p: float(weights @ world.literals(p))), rtol=1e-5, atol=1e-6)


def test_many_candidates_that_cannot_be_beaten() -> None:
    """A thousand candidates, each as great where it is there: nobody is as likely as that is."""
    n = 1000
    layer = AgainstCounts(3, ">=", np.zeros(1, int), np.zeros(1, int), np.ones(1),
                          np.zeros(1, int), np.ones(1, bool), np.ones(1, bool), np.full(1, -1),
                          np.zeros(n, int), np.full(n, 1), np.arange(n), np.full(n, 2.0),
                          np.zeros(n, int))
    world = World(1, 2, layer, 3)
    for p in (1.0, 0.0, 0.001):
        assert world.literals(np.array([[p, 1 - p]])) == pytest.approx(
            [1 - (1 - p) ** n, 0.0, (1 - p) ** n], abs=1e-12)
