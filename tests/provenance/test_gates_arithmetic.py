"""Arithmetic: SQL's values on classes, finite differences of X and K where relaxed."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest

from pgrain.provenance.gates.arithmetic import Arithmetic, half_away
from pgrain.provenance.gates.network import Gradient, State

NAN = np.nan


def evaluate(tree, X, K, leaves, hard=False, P=None, owner=None):
    """(layer, state) of a tree over given X, K; results stand behind them."""
    n_x, n = len(X), len(leaves[0])
    P = np.array([1.0] if P is None else P)
    state = State(P, np.append(X, np.zeros(n)), np.append(K, np.zeros(n)), hard,
                  np.zeros(len(P), np.int64))
    layer = Arithmetic(n_x, n, tree, leaves)
    layer.prepare(state.owner)
    layer.forward(state)
    return layer, state


def hard(tree, *columns):
    """Values (None: NULL) of a tree over columns of values (None: NULL), on classes."""
    n = len(columns[0])
    flat = [value for column in columns for value in column]
    X = np.array([0.0 if value is None else value for value in flat])
    K = np.array([float(value is not None) for value in flat])
    leaves = [np.arange(n) + i * n for i in range(len(columns))]
    _, state = evaluate(tree, X, K, leaves, hard=True)
    assert set(state.K[len(X):]) <= {0.0, 1.0}
    return [x if k else None for x, k in zip(state.X[len(X):], state.K[len(X):], strict=True)]


A, B, C = ("x", 0), ("x", 1), ("x", 2)


@pytest.mark.parametrize(("tree", "a", "b", "expected"), [
    (("+", A, B), [1, 2, None], [5, None, 1], [6, None, None]),
    (("-", A, B), [1, 2], [5, 0.5], [-4, 1.5]),
    (("*", A, B), [3, 0], [5, None], [15, None]),
    (("/", A, B), [7, 1, 3], [2, 0, None], [3.5, None, None]),
    (("//int", A, B), [7, -7, 7, -7, 1], [2, 2, -2, -2, 0], [3, -3, -3, 3, None]),
    (("//int", A, B), [9007199254740991, 6], [9007199254740991, 3], [1, 2]),
    (("%", A, B), [7, -7, 7, 5.5, 1], [3, 3, -3, 2, 0], [1, -1, 1, 1.5, None]),
    (("nullif", A, B), [1, 2, None, 3], [1, 3, 4, None], [None, 2, None, 3]),
    (("coalesce", A, B), [1, None, None], [2, 3, None], [1, 3, None]),
    (("greatest", A, B), [1, None, 7, None], [2, 3, 5, None], [2, 3, 7, None]),
    (("least", A, B), [1, None, 7, None], [2, 3, 5, None], [1, 3, 5, None]),
    (("power", A, B), [2, 9, -8, 0], [10, 0.5, 3, 0], [1024, 3, -512, 1]),
    (("neg", A), [1, 0, None], [0, 0, 0], [-1, 0, None]),
    (("abs", A), [-3, 2, 0], [0, 0, 0], [3, 2, 0]),
    (("round", A), [0.5, 1.5, -0.5, 2.4999], [0, 0, 0, 0], [1, 2, -1, 2]),
    (("to_int", A), [2.5, -2.5, 3.49], [0, 0, 0], [3, -3, 3]),
    (("floor", A), [1.9, -1.1, 2.9999999999999996], [0, 0, 0], [1, -2, 3]),
    (("ceil", A), [1.1, -1.9, 3.0000000000000004], [0, 0, 0], [2, -1, 3]),
    (("trunc", A), [1.9, -1.9], [0, 0], [1, -1]),
    (("sqrt", A), [4, -1, 0], [0, 0, 0], [2, None, 0]),
    (("ln", A), [1, 0, -2], [0, 0, 0], [0, None, None]),
    (("exp", A), [0, 1], [0, 0], [1, np.e]),
    (("identity", A), [4, None], [0, 0], [4, None]),
    (("coalesce", ("/", A, B), ("neg", A)), [6, 6], [2, 0], [3, -6]),
    (("greatest", A, B, ("*", A, B)), [2, 5], [3, None], [6, 5]),
])
def test_hard_is_sql(tree, a, b, expected):
    assert hard(tree, a, b) == pytest.approx(expected)


def test_signs_of_zero_do_not_show():
    assert not np.signbit(hard(("neg", A), [0])[0])
    assert not np.signbit(hard(("round", A), [-0.2])[0])


def test_rounding_is_that_of_numeric():
    rng = np.random.default_rng(0)
    for digits in (0, 1, 2, 4):
        values = rng.normal(size=300) * 10.0 ** rng.integers(-2, 6, 300)
        texts = [f"{value:.{digits + 1}f}" for value in values]
        texts += ["2.675", "1.005", "-0.125", "0.5", "4503599627370497", "123456789012345"]
        exact = [float(Decimal(t).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))
                 for t in texts]
        got = half_away(np.array([float(t) for t in texts]), digits)
        assert got.tolist() == pytest.approx(exact, rel=1e-15, abs=0)
    layer, state = evaluate(("round", ("x", 0), ("const", 1)), [2.675, 1234.5], [1, 1],
                            [np.array([0, 1]), np.array([2.0, -2.0])], hard=True)
    assert state.X[2:].tolist() == [2.68, 1200.0]


def test_case_takes_the_first_that_holds():
    leaves = [np.array([1.0, 2.0, 3.0, NAN]), np.full(4, 2.0), np.array([0, 1, 2, 3]),
              np.array([10.0, 20.0, NAN, 40.0])]
    X, K = [1.5, 2.5, 3.5, 4.5], np.ones(4)
    flat = ("case", ("<", ("const", 0), ("const", 1)), ("x", 2),
            ("=", ("const", 0), ("const", 1)), ("const", 3), None)
    pairs = ("case", [("<", ("const", 0), ("const", 1)), ("x", 2)],
             [("=", ("const", 0), ("const", 1)), ("const", 3)], None)
    for tree in (flat, pairs):
        _, state = evaluate(tree, X, K, leaves, hard=True)
        assert state.K[4:].tolist() == [1, 1, 0, 0]
        assert state.X[4:].tolist() == [1.5, 20.0, 0, 0]
    _, state = evaluate((*flat[:-1], ("neg", ("x", 2))), X, K, leaves, hard=True)
    assert state.X[4:].tolist() == [1.5, 20.0, -3.5, -4.5]


def test_case_on_predictions_and_truth_values_as_numbers():
    P = [1.0, 0.3, 0.6, 0.1, 0.5, 0.5, 0.0]           # two threes: false, true, null
    leaves = [np.array([1, 4]), np.array([10.0, 20.0]), np.array([0, 1])]
    _, state = evaluate(("case", ("p", 0), ("const", 1), ("x", 2)), [3.0, 4.0], [1.0, 0.5],
                        leaves, P=P)
    assert state.K[2:] == pytest.approx([1.0, 0.5 + 0.25])
    assert state.X[2:] == pytest.approx([0.6 * 10 + 0.4 * 3, (0.5 * 20 + 0.25 * 4) / 0.75])
    _, state = evaluate(("to_int", ("p", 0)), [0.0], [1.0], leaves[:1], P=P)
    assert state.K[1:] == pytest.approx([0.9, 1.0])
    assert state.X[1:] == pytest.approx([0.6 / 0.9, 0.5])


TREES = [
    ("+", A, B), ("-", A, B), ("*", A, B), ("/", A, B), ("//int", A, B), ("%", A, B),
    ("neg", A), ("abs", A), ("round", A), ("floor", A), ("trunc", A), ("to_int", A),
    ("coalesce", A, B, C), ("nullif", A, B), ("greatest", A, B, C), ("least", A, B, C),
    ("sqrt", ("abs", A)), ("exp", A), ("ln", ("abs", A)), ("power", ("abs", A), B),
    ("case", ("p", 3), A, ("p", 4), ("*", A, B), C), ("case", ("p", 3), A, None),
    ("coalesce", ("/", ("+", A, B), ("nullif", C, ("const", 5))), ("p", 4), ("const", 5)),
    ("*", ("p", 3), ("greatest", A, ("const", 5))), ("+", A, A),
    ("round", ("/", A, B), ("const", 5)),
]


@pytest.mark.parametrize("tree", TREES, ids=str)
@pytest.mark.parametrize("certain", [False, True])
def test_gradient_is_the_finite_difference(tree, certain):
    rng = np.random.default_rng(3)
    n = 12
    X = rng.normal(size=3 * n) * 3
    K = np.ones(3 * n) if certain else rng.choice([0.2, 0.7, 1.0, 0.0], 3 * n)
    X[K == 0] = 0.0
    P = np.append(1.0, rng.dirichlet(np.ones(3), 2 * n).ravel())
    constants = rng.normal(size=n)
    constants[:2] = NAN
    leaves = [np.arange(n), n + np.arange(n), 2 * n + np.arange(n), 1 + 3 * np.arange(n),
              1 + 3 * (n + np.arange(n)), constants]
    layer, state = evaluate(tree, X, K, leaves, P=P)
    assert np.isfinite(state.X).all() and (state.K >= 0).all() and (state.K <= 1 + 1e-12).all()
    assert (state.X[state.K == 0] == 0).all()
    d = np.random.default_rng(1).normal(size=(2, n))
    grad = Gradient(np.zeros(len(P)), np.zeros(4 * n), np.zeros(4 * n))
    grad.X[3 * n:], grad.K[3 * n:] = d
    layer.backward(state, grad)

    def value(X, K, P):
        _, s = evaluate(tree, X, K, leaves, P=P)
        return d[0] @ s.X[3 * n:] + d[1] @ s.K[3 * n:]

    step = 1e-6
    for vector, gradient in ((0, grad.X[:3 * n]), (1, grad.K[:3 * n]), (2, grad.P)):
        for i in range(1 if vector == 2 else 0, len(gradient)):
            if vector < 2 and K[i] == 0.0:
                continue                    # a NULL's number is 0; K steps off its end
            values = []
            for sign in (1, -1):
                inputs = [X.copy(), K.copy(), P.copy()]
                inputs[vector][i] += sign * step
                values.append(value(*inputs))
            numeric = (values[0] - values[1]) / (2 * step)
            assert gradient[i] == pytest.approx(numeric, rel=2e-5, abs=2e-6), (vector, i)


def test_relaxed_nulls():
    leaves = [np.array([0]), np.array([1])]
    for tree, X, K, x, k in [
        (("/", A, B), [1, 0], [1, 1], 0, 0),
        (("nullif", A, B), [2, 2], [0.5, 1], 0, 0),
        (("nullif", A, B), [2, 3], [0.5, 1], 2, 0.5),
        (("coalesce", A, B), [4, 8], [0.25, 1], 0.25 * 4 + 0.75 * 8, 1),
        (("coalesce", A, B), [4, 8], [0.5, 0.5], (0.5 * 4 + 0.25 * 8) / 0.75, 0.75),
        (("coalesce", A, B), [4, 0], [0.5, 0], 4, 0.5),
        (("greatest", A, B), [4, 8], [1, 0.5], 6, 1),
    ]:
        _, state = evaluate(tree, X, K, leaves)
        assert (state.X[2], state.K[2]) == pytest.approx((x, k))


def test_what_a_row_depends_on():
    layer, _ = evaluate(("+", ("x", 0), ("case", ("p", 1), ("const", 2), None)), [1.0], [1.0],
                        [np.array([0]), np.array([1]), np.array([2.0])], P=[1, 0.5, 0.5, 0])
    targets, sources = layer.edges()
    assert set(zip(targets.tolist(), sources.tolist(), strict=True)) == {(5, 4), (5, 1), (5, 2)}


def test_an_unknown_operator_is_an_error():
    with pytest.raises(ValueError, match="no such operator"):
        Arithmetic(0, 1, ("sin", ("x", 0)), [np.array([0])])
