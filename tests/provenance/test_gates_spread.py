"""Numbers against the mean or the extreme of numbers: exact on classes, close for many terms."""

from __future__ import annotations

import numpy as np
import pytest
from gates_harness import World, differences, probabilities, tangent

from pgrain.provenance.gates.network import Network
from pgrain.provenance.gates.spread import AgainstExtreme, NormalStep, Variances
from pgrain.provenance.gates.sums import Sums

G, V, R = 3, 6, 3
OPERATORS = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal,
             "=": np.equal, "<>": np.not_equal}


def terms(rng):
    """(target, literal): variable v counts in group v % G if it has one of two classes."""
    variable = np.repeat(np.arange(V), 2)
    classes = np.stack([rng.permutation(R)[:2] for _ in range(V)]).ravel()
    return variable % G, 1 + variable * R + classes


def counts(target, literal, classes):
    held = (literal - 1) % R == classes[(literal - 1) // R]
    return np.bincount(target[held], minlength=G)


def test_variances_are_those_of_the_enumeration():
    rng = np.random.default_rng(3)
    target, literal = terms(rng)
    weight = rng.normal(size=len(target))
    world = World(V, R, Variances(0, G, target, literal, weight))
    P = probabilities(rng, V, R)

    def moments(classes):
        held = (literal - 1) % R == classes[(literal - 1) // R]
        total = np.bincount(target[held], weight[held], G)
        return np.concatenate([total, total ** 2])

    first, second = np.split(world.expectation(P, moments), 2)
    np.testing.assert_allclose(world.forward(P).X, second - first ** 2, atol=1e-12)


def extreme_world(rng, operator, sign, own, half=0.5):
    target, literal = terms(rng)
    place = np.arange(G)
    row, other = (part.ravel() for part in np.meshgrid(place, place, indexing="ij"))
    keep = row != other if own else np.ones(len(row), bool)
    # The first group is not there if variable 0 has class 0; the others always are.
    event = np.where(other == 0, 2, 0)
    layer = AgainstExtreme(1 + V * R, operator, sign, place, G + place, np.full(G, own),
                           row[keep], other[keep], G + other[keep], event[keep], half)
    layer.out = 1 + V * R
    before = [Sums(0, G, target, literal), Variances(G, G, target, literal, np.ones(len(target)))]
    return World(V, R, layer, 3 * G, before), target, literal, keep, row, other


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("operator", OPERATORS)
def test_against_an_extreme_on_classes_and_its_slope(operator, sign, own):
    rng = np.random.default_rng(len(operator) + own)
    world, target, literal, keep, row, other = extreme_world(rng, operator, sign, own)
    pick = max if sign > 0 else min
    for classes, P in list(world.assignments())[::7]:
        n, shown = counts(target, literal, classes), world.literals(P, True).reshape(G, 3)
        for g in range(G):
            there = [n[o] for o in other[keep & (row == g)] if o or classes[0] == 1]
            there += [n[g]] if own else []
            test = {">": lambda a, b: sign * a > sign * b, ">=": lambda a, b: sign * a >= sign * b,
                    "<": lambda a, b: sign * a < sign * b, "<=": lambda a, b: sign * a <= sign * b,
                    "=": lambda a, b: a == b, "<>": lambda a, b: a != b}[operator]
            assert shown[g].argmax() == (int(test(n[g], pick(there))) if there else 2)
            assert shown[g].sum() == 1
    P = 0.8 * rng.dirichlet(np.ones(R), V) + 0.2 / R
    weights = rng.normal(size=3 * G)
    np.testing.assert_allclose(world.literals(P).reshape(G, 3).sum(axis=1), 1.0)
    np.testing.assert_allclose(
        tangent(world.gradient(P, weights)),
        differences(P, lambda p: float(weights @ world.literals(p))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operator", list(OPERATORS)[:4])
def test_a_step_on_classes_and_its_slope(operator):
    rng = np.random.default_rng(5)
    target, literal = terms(rng)
    weight = np.where(target == 0, 2.0, -1.0)
    one = np.zeros(len(target), np.int64)
    before = [Sums(0, 1, one, literal, weight), Variances(1, 1, one, literal, weight),
              Sums(2, 1, one[:1], one[:1], np.full(1, 0.5))]
    layer = NormalStep(1 + V * R, operator, np.array([0]), np.array([1]), np.array([0]),
                       np.array([2]))
    world = World(V, R, layer, 3, before)
    for classes, P in list(world.assignments())[::5]:
        n = counts(target, literal, classes)
        shown = world.literals(P, True)
        assert shown.argmax() == int(OPERATORS[operator](2 * n[0] - n[1] - n[2], 0))
    P = 0.8 * rng.dirichlet(np.ones(R), V) + 0.2 / R
    weights = np.array([0.3, 1.7, 0.5])
    np.testing.assert_allclose(
        tangent(world.gradient(P, weights)),
        differences(P, lambda p: float(weights @ world.literals(p))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operator", [">=", ">"])
def test_many_terms_are_close_to_normal(operator):
    """The chance that a count of 40 rows is the greatest of four: by 40 000 samples."""
    rng = np.random.default_rng(11)
    groups, each = 4, 40
    p = rng.beta(2.0, 2.0, (groups, each)) * np.array([[1.0], [0.95], [0.9], [1.05]]).clip(0, 1)
    p = np.minimum(p, 1.0)
    target, literal = np.repeat(np.arange(groups), each), 1 + np.arange(groups * each)
    place = np.arange(groups)
    row, other = (part.ravel() for part in np.meshgrid(place, place, indexing="ij"))
    row, other = row[row != other], other[row != other]
    out = 1 + groups * each
    layers = [Sums(0, groups, target, literal),
              Variances(groups, groups, target, literal, np.ones(len(target))),
              AgainstExtreme(out, operator, 1.0, place, groups + place, np.zeros(groups, bool), row,
                             other, groups + other, np.zeros(len(row), np.int64), 0.5)]
    owner = np.concatenate([[-1], np.arange(groups * each), groups * each + np.arange(12) // 3])
    network = Network(groups * each, layers, owner)
    got = network.forward(p.ravel(), False).P[out + 1::3]
    n = (rng.random((40_000, groups, each)) < p).sum(axis=2)
    for g in range(groups):
        ahead = OPERATORS[operator](n[:, g], np.delete(n, g, axis=1).max(axis=1)).mean()
        assert got[g] == pytest.approx(ahead, abs=0.01)
