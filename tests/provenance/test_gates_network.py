"""Gates on top of gates: groups with a HAVING under EXISTS, max, LIMIT and sums; by enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from gates_harness import probabilities, slopes, tangent
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrain.provenance.gates import (
    AnyOf,
    Arithmetic,
    Events,
    Extreme,
    First,
    Network,
    Sums,
    Threshold,
)

GROUPS, MEMBERS, R = 3, 2, 2
V = GROUPS * MEMBERS
GIVEN = 1 + V * R


def network(least, offset, limit, values):
    """Groups of two variables; those with count > least are the rows of an outer query."""
    literal = 1 + R * np.arange(V)                        # class 0
    group = np.repeat(np.arange(GROUPS), MEMBERS)
    having, exists, first = GIVEN, GIVEN + 3 * GROUPS, GIVEN + 3 * GROUPS + 3
    pair = first + GROUPS
    present = having + 3 * np.arange(GROUPS) + 1
    zero = np.zeros(GROUPS, np.int64)
    count, best, total, ratio = 0, GROUPS, GROUPS + 1, GROUPS + 2
    layers = [
        Threshold(having, GROUPS, ">", group, literal, np.ones(V), np.full(GROUPS, -least)),
        AnyOf(exists, 1, zero, present),
        First(first, zero, present, offset, limit),
        Events(pair, np.stack([present, np.roll(literal, -2)[::MEMBERS]], axis=1)),
        Sums(count, GROUPS, group, literal),
        Extreme(best, 1, "max", zero, present, values),
        Sums(total, 1, zero, present, values),
        Arithmetic(ratio, 1, ("coalesce", ("+", ("x", 0), ("x", 1)), ("const", 2)),
                   [np.array([best]), np.array([total]), np.array([-1.0])]),
    ]
    owner = np.concatenate([[-1], np.repeat(np.arange(V), R), V + np.repeat(np.arange(GROUPS), 3),
                            np.full(3, V + GROUPS), V + GROUPS + 1 + np.arange(2 * GROUPS)])
    built = Network(V * R, layers, owner)
    return built, exists, first, best, total, ratio


def by_hand(classes, least, offset, limit, values):
    """(exists, in the result by group, max or None, sum) of one assignment."""
    rows = [g for g in range(GROUPS)
            if sum(classes[g * MEMBERS:(g + 1) * MEMBERS] == 0) > least]
    kept = rows[offset:None if limit is None else offset + limit]
    numbers = [values[g] for g in rows]
    return (float(bool(rows)), [float(g in kept) for g in range(GROUPS)],
            max(numbers) if rows else None, sum(numbers))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10 ** 6), st.sampled_from([0.0, 1.0]), st.integers(0, 2),
       st.sampled_from([None, 0, 1, 2]))
def test_layers_on_layers(seed, least, offset, limit):
    rng = np.random.default_rng(seed)
    values = rng.integers(-5, 6, GROUPS).astype(float)
    built, exists, first, best, total, ratio = network(least, offset, limit, values)
    P = probabilities(rng, V, R)
    state = built.forward(P.ravel(), False)
    expected = np.zeros(3 + GROUPS + 1)
    for assignment in itertools.product(range(R), repeat=V):
        classes = np.array(assignment)
        found, kept, largest, added = by_hand(classes, least, offset, limit, values)
        p = P[np.arange(V), classes].prod()
        expected += p * np.array([found, added, largest or 0.0, found, *kept])
        hard = built.forward(np.eye(R)[classes].ravel(), True)
        assert hard.P[exists + 1] == found and hard.P[exists] == 1 - found
        assert hard.P[first:first + GROUPS].tolist() == kept
        assert hard.X[total] == added
        assert (hard.X[best], hard.K[best]) == ((largest, 1) if found else (0, 0))
        assert hard.X[ratio] == (largest + added if found else -1)
    assert state.P[exists + 1] == pytest.approx(expected[0], rel=1e-11)
    assert state.X[total] == pytest.approx(expected[1], rel=1e-9, abs=1e-11)
    assert state.K[best] == pytest.approx(expected[3], rel=1e-11)
    assert state.X[best] * state.K[best] == pytest.approx(expected[2], rel=1e-9, abs=1e-11)
    assert state.P[first:first + GROUPS] == pytest.approx(expected[4:], rel=1e-10, abs=1e-14)
    d = np.zeros(built.n_p)
    d[exists:first + GROUPS] = rng.normal(size=3 + GROUPS)
    d_x = np.zeros(built.n_x)
    d_x[total] = 1.5

    def value(Q):
        at = built.forward(Q.ravel(), False)
        return at.P @ d + at.X @ d_x

    gradient = built.backward(state, d, d_x).reshape(V, R)
    assert tangent(gradient) == pytest.approx(slopes(P, value), rel=1e-8, abs=1e-10)


def test_every_cell_depends_on_the_variables_it_should():
    built, exists, first, best, _, ratio = network(0.0, 0, 2, np.arange(3.0))
    targets, sources = built.edges()
    size = built.n_p + built.n_x
    step = np.eye(size, dtype=bool)
    step[targets, sources] = True
    for _ in range(6):
        step |= step @ step
    given = slice(1, GIVEN)
    of_class_0 = np.arange(V) * R
    for node in (exists + 1, first + 2, built.n_p + best, built.n_p + ratio):
        assert np.flatnonzero(step[node, given]).tolist() == of_class_0.tolist()
    assert np.flatnonzero(step[first, given]).tolist() == [0, 2]
    assert np.flatnonzero(step[built.n_p, given]).tolist() == [0, 2]


def test_what_a_layer_writes_adds_up_and_is_used_as_such():
    """NOT EXISTS over a nearly certain row: false of false is true, to the last digit."""
    owner = np.array([-1, 0, 0, 1, 1, 1, 2, 2, 2])
    built = Network(2, [AnyOf(3, 1, [0], [1]), AnyOf(6, 1, [0], [3])], owner)
    P = built.forward(np.array([1e-300, 1.0]), False).P
    assert P[3:6].tolist() == [1.0, 1e-300, 0.0]
    assert P[6:9] == pytest.approx([1e-300, 1.0, 0.0], rel=1e-12, abs=0)
