"""Events and Sums: products and sums of them, by enumeration; and the kernels under all gates."""

from __future__ import annotations

import numpy as np
import pytest
from gates_harness import World, holds, probabilities, random_terms, slopes, tangent

from pgrain.provenance.gates.events import Events
from pgrain.provenance.gates.kernels import combine, products_of_others, ranges, scan
from pgrain.provenance.gates.network import Layer, Network
from pgrain.provenance.gates.sums import Sums


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 1013])
def test_scan_is_the_recurrence(n):
    rng = np.random.default_rng(n)
    a = rng.choice([0.0, 1.0, 0.5, 0.99], n)
    b = rng.normal(size=n)
    y, expected = 0.0, []
    for i in range(n):
        y = a[i] * y + b[i]
        expected.append(y)
    assert scan(a, b) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_products_of_others_and_ranges():
    rows = np.random.default_rng(0).choice([0.0, 1.0, 0.3, 2.0], (50, 5))
    others = products_of_others(rows)
    for i, column in np.ndindex(*rows.shape):
        assert others[i, column] == pytest.approx(np.delete(rows[i], column).prod())
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]


def test_codes_keep_the_order_where_they_would_overflow():
    rng = np.random.default_rng(0)
    columns = [rng.integers(1 << 40, size=200) >> rng.choice([0, 38]) for _ in range(4)]
    code = combine(columns, [1 << 40] * 4)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    assert [rows[i] for i in np.argsort(code, kind="stable")] == sorted(rows)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("hard", [False, True])
def test_events_and_sums_are_expectations(seed, hard):
    rng = np.random.default_rng(seed)
    V, R, E, J, n = 4, 3, 7, 20, 3
    literals = random_terms(rng, V, R, E, 3)
    first = 1 + V * R
    target, event = rng.integers(n, size=J), rng.integers(E, size=J)
    weight = rng.normal(size=J) if seed % 2 else None
    sums = Sums(0, n, target, first + event, weight)
    world = World(V, R, sums, before=[Events(first, literals)], n_before=E)
    P = probabilities(rng, V, R, "hard" if hard else "any")
    state = world.forward(P, hard)

    def cell(classes):
        out = np.zeros(n)
        for j in range(J):
            out[target[j]] += (1.0 if weight is None else weight[j]) * holds(
                literals[event[j]], classes, R)
        return out

    assert state.X == pytest.approx(world.expectation(P, cell), rel=1e-12, abs=1e-12)
    assert (state.K == 1.0).all()
    if not hard:
        d = rng.normal(size=n)
        gradient = world.gradient(P, dX=d)
        expected = slopes(P, lambda Q: world.forward(Q).X @ d)
        assert tangent(gradient) == pytest.approx(expected, rel=1e-9, abs=1e-9)
        sparse = world.network.backward(state, None, (np.arange(n), d))
        assert sparse.reshape(V, R) == pytest.approx(gradient)


class Given(Layer):
    """Numbers put there by hand."""

    def __init__(self, X, K):
        self.X, self.K, self.n_numbers = np.array(X), np.array(K), len(X)
        self.seen = None

    def forward(self, state):
        state.X[:self.n_numbers], state.K[:self.n_numbers] = self.X, self.K

    def backward(self, state, grad):
        self.seen = grad.X[:self.n_numbers].copy(), grad.K[:self.n_numbers].copy()


def test_sums_of_numbers_skip_what_is_not_known():
    given = Given([10.0, 0.0, 4.0], [1.0, 0.0, 0.5])
    target = [0, 0, 0, 1, 1, 1]
    number = np.array([0, 1, 2, -1, -1, -1])
    known = np.array([0, 1, 2, 0, 1, 2])
    sums = Sums(3, 2, target, np.array([1, 2, 1, 1, 2, 1]), np.array([1, 1, 2, 1, 1, 1.0]), number,
                known)
    network = Network(2, [given, sums], np.array([-1, 0, 0]))
    P = np.array([0.75, 0.25])
    state = network.forward(P, False)
    assert state.X[3:] == pytest.approx([0.75 * 10 + 2 * 0.75 * 4 * 0.5, 0.75 + 0.75 * 0.5])
    gradient = network.backward(state, None, ([3, 4], [1.0, 10.0]))
    assert gradient == pytest.approx([10 + 4 + 10 * 1.5, 0.0])
    dX, dK = given.seen
    assert dX[:3] == pytest.approx([0.75, 0.0, 0.75])
    assert dK[:3] == pytest.approx([0.75 * 10 + 7.5, 2.5, 0.75 * 8 + 7.5])


def test_edges_name_what_depends_on_what():
    events = Events(5, np.array([[1, 3], [2, 0]]))
    sums = Sums(1, 2, np.array([0, 1, 1]), np.array([5, 6, 0]), None, np.array([-1, 0, -1]))
    network = Network(4, [events, sums], np.array([-1, 0, 0, 1, 1, 2, 3]), n_x=3)
    edges = set(zip(*(side.tolist() for side in network.edges()), strict=True))
    n_p = 7
    assert edges == {(5, 1), (5, 3), (6, 2), (n_p + 1, 5), (n_p + 2, 6), (n_p + 2, n_p)}


def test_a_network_without_layers_is_its_input():
    network = Network(2, [], np.array([-1, 0, 0]))
    state = network.forward(np.array([0.25, 0.75]), False)
    assert state.P.tolist() == [1.0, 0.25, 0.75]
    assert network.backward(state, ([0, 1, 1], [5.0, 1.0, 2.0])).tolist() == [3.0, 0.0]
