"""Arithmetic over numbers and truth values, row by row, with SQL's NULL.

A value is a pair (x, k): its expectation given that it is known, and the probability that it is; on
classes k is 0 or 1 and x what SQL says. Rounding is the identity where relaxed: it has no slope.
What PostgreSQL would refuse (division by zero, the logarithm of a negative number) is NULL: a row
that is in the result would have made the query itself fail, and one that is not may well have it.
"""

from __future__ import annotations

import numpy as np

from pgrain.provenance.gates.kernels import add_at
from pgrain.provenance.gates.network import Gradient, Layer, State

_NEAR = 1e-12             # sums of decimals are this near to what `numeric` has: 2.675 is 2.67499…


class Arithmetic(Layer):
    """X[out + i] and K[out + i] of an expression over row i.

    Parameters
    ----------
    out, n : int
    tree : nested tuples or lists
        ("x", j): X and K at the places leaves[j]; ("p", j): a truth value, leaves[j] the places of
        its literal "false" (then "true", "null"), as a number 0 or 1; ("const", j): leaves[j], NaN
        for NULL. Or an operator with its arguments: + - * / //int % neg abs round floor ceil trunc
        rint to_int identity coalesce nullif greatest least sqrt exp ln power case. round and
        trunc may have a second argument, the digits, a "const". ("case", condition, value, …,
        else), also with (condition, value) as pairs; a condition is a "p", a "const" (0, NaN: not
        met) or a comparison of two "const"; else may be None.
    leaves : list of (n,) arrays
    """

    def __init__(self, out: int, n: int, tree, leaves: list[np.ndarray]):
        self.out, self.n, self.n_numbers = out, n, n
        self.leaves = [np.asarray(leaf) for leaf in leaves]
        self.root = self._node(tree)

    def prepare(self, owners) -> None:
        self._n_p = owners.n_p if hasattr(owners, "n_p") else len(owners)

    def _node(self, tree) -> _Node:
        name, *arguments = tree
        if name in ("x", "p", "const"):
            return _LEAVES[name](self.leaves[arguments[0]])
        if name == "case":
            return _Case(*self._branches(arguments))
        if name not in _OPERATORS:
            raise ValueError(f"no such operator: {name}")
        return _OPERATORS[name]([self._node(argument) for argument in arguments])

    def _branches(self, arguments):
        *parts, otherwise = arguments
        if parts and not isinstance(parts[0][0], str):
            parts = [part for pair in parts for part in pair]
        conditions = [self._condition(part) for part in parts[::2]]
        values = [self._node(part) for part in parts[1::2]]
        return conditions, values, None if otherwise is None else self._node(otherwise)

    def _condition(self, tree):
        name, *arguments = tree
        if name == "p":
            return self.leaves[arguments[0]].astype(np.int64)
        if name == "const":
            return np.nan_to_num(self.leaves[arguments[0]]) != 0
        left, right = (self.leaves[argument[1]] for argument in arguments)
        if any(argument[0] != "const" for argument in arguments):
            raise ValueError("a comparison in CASE is of constants")
        known = ~(np.isnan(left) | np.isnan(right))
        return known & _COMPARISONS[name](left, right)

    def forward(self, state: State) -> None:
        saved: list = []
        x, k = self.root.forward(state, saved)
        here = slice(self.out, self.out + self.n)
        state.X[here], state.K[here] = x, k
        state.saved[self] = saved

    def backward(self, state: State, grad: Gradient) -> None:
        here = slice(self.out, self.out + self.n)
        d_x, d_k = grad.X[here].copy(), grad.K[here].copy()
        if d_x.any() or d_k.any():
            self.root.backward(state, grad, list(state.saved[self]), d_x, d_k)

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        sources = list(self.root.sources(self._n_p))
        targets = np.tile(self._n_p + self.out + np.arange(self.n), len(sources))
        return targets, np.concatenate(sources) if sources else np.zeros(0, np.int64)


class _Node:
    """A part of the expression; forward leaves on `saved` what backward takes off its end."""

    children: list

    def forward(self, state, saved):
        """(x, k), each (n,); x = 0 where k = 0."""
        raise NotImplementedError

    def backward(self, state, grad, saved, d_x, d_k):
        raise NotImplementedError

    def sources(self, n_p):
        for child in self.children:
            yield from child.sources(n_p)


class _Number(_Node):
    def __init__(self, places):
        self.places = places.astype(np.int64)

    def forward(self, state, saved):
        return state.X[self.places], state.K[self.places]

    def backward(self, state, grad, saved, d_x, d_k):
        add_at(grad.X, self.places, d_x)
        add_at(grad.K, self.places, d_k)

    def sources(self, n_p):
        yield n_p + self.places


class _Truth(_Node):
    """A truth value as 0 or 1."""

    def __init__(self, places):
        self.places = places.astype(np.int64)

    def forward(self, state, saved):
        false, true = state.P[self.places], state.P[self.places + 1]
        k = false + true
        return _over(true, k), k

    def backward(self, state, grad, saved, d_x, d_k):
        false, true = state.P[self.places], state.P[self.places + 1]
        k = false + true
        slope = _over(d_x, k)
        x = _over(true, k)
        add_at(grad.P, self.places, d_k - slope * x)
        add_at(grad.P, self.places + 1, d_k + slope * (1.0 - x))

    def sources(self, n_p):
        yield self.places
        yield self.places + 1


class _Constant(_Node):
    def __init__(self, values):
        values = values.astype(np.float64)
        self.k = (~np.isnan(values)).astype(float)
        self.x = np.nan_to_num(values, posinf=np.inf, neginf=-np.inf)

    def forward(self, state, saved):
        return self.x, self.k

    def backward(self, state, grad, saved, d_x, d_k):
        pass

    def sources(self, n_p):
        return ()


def _over(a, b):
    """a / b, 0 where b = 0."""
    with np.errstate(over="ignore"):
        return np.where(b != 0.0, a / np.where(b != 0.0, b, 1.0), 0.0)


class _Function(_Node):
    """x = f(x of each argument), known where all are and f is defined."""

    def __init__(self, children, value, slopes):
        self.children, self.value, self.slopes = children, value, slopes

    def forward(self, state, saved):
        inputs = [child.forward(state, saved) for child in self.children]
        xs = [x for x, _ in inputs]
        k = np.ones(len(xs[0]))
        for _, of_input in inputs:
            k = k * of_input
        with np.errstate(all="ignore"):
            x = self.value(state.hard, *xs)
        defined = np.isfinite(x)
        k = np.where(defined, k, 0.0)
        saved.append((inputs, defined))
        return np.where(k > 0.0, x, 0.0), k

    def backward(self, state, grad, saved, d_x, d_k):
        inputs, defined = saved.pop()
        xs, ks = [x for x, _ in inputs], [k for _, k in inputs]
        known = defined & np.all([k > 0.0 for k in ks], axis=0)
        with np.errstate(all="ignore"):
            slopes = self.slopes(*xs)
        for number in reversed(range(len(self.children))):
            others = np.where(defined, d_k, 0.0)
            for other, k in enumerate(ks):
                if other != number:
                    others = others * k
            slope = np.where(known, slopes[number], 0.0)
            slope = np.where(np.isfinite(slope), slope, 0.0)
            self.children[number].backward(state, grad, saved, d_x * slope, others)


def _margin(size):
    return np.maximum(np.minimum(_NEAR * size, 1e-6), np.finfo(float).eps * size)


def _snapped(x):
    """x, or the whole number that it is meant to be."""
    near = np.rint(x)
    return np.where(np.abs(x - near) <= _margin(np.abs(x)), near, x)


def half_away(x: np.ndarray, digits=0.0) -> np.ndarray:
    """x to that many decimals, halves away from zero, as `numeric` rounds what the float means."""
    scale = 10.0 ** digits
    size = np.abs(x) * scale
    rounded = np.where(size == np.floor(size), size, np.floor(size + 0.5 + _margin(size)))
    return np.copysign(rounded, x) / scale + 0.0


def _truncated(x, digits=0.0):
    scale = 10.0 ** digits
    return np.trunc(_snapped(x * scale)) / scale + 0.0


def _divide(hard, a, b):
    return np.where(b != 0.0, a / np.where(b != 0.0, b, 1.0), np.nan)


def _divide_whole(hard, a, b):
    if not hard:
        return _divide(hard, a, b)
    safe = np.where(b != 0.0, b, 1.0)
    return np.where(b != 0.0, np.rint((a - np.fmod(a, safe)) / safe), np.nan)


def _remainder(hard, a, b):
    return np.where(b != 0.0, np.fmod(a, np.where(b != 0.0, b, 1.0)), np.nan)


def _plain(a, *rest):
    """Slopes of what is the identity where relaxed."""
    return [np.ones(len(a))] + [np.zeros(len(a)) for _ in rest]


def _divide_slopes(a, b):
    return 1.0 / b, -a / (b * b)


def _make(value, slopes):
    return lambda children: _Function(children, value, slopes)


def _rounding(hard_value):
    return _make(lambda hard, x, *digits: hard_value(x, *digits) if hard else x + 0.0, _plain)


class _Mixture(_Node):
    """The first branch that is taken: x and k over branches, one taken with probability T given
    that no earlier one is."""

    def _mix(self, taken, values):
        reach, weights = np.ones(len(taken[0])), []
        for T in taken:
            weights.append(reach * T)
            reach = reach * (1.0 - T)
        k = sum(w * of_value for w, (_, of_value) in zip(weights, values, strict=True))
        x = sum(w * of_value * x for w, (x, of_value) in zip(weights, values, strict=True))
        return _over(x, k), k, weights

    def _mix_backward(self, taken, values, x, k, d_x, d_k):
        """(d_taken, [(d_x, d_k)] of the values)."""
        _, _, weights = self._mix(taken, values)
        per_weight, of_values = [], []
        for w, (of_x, of_k) in zip(weights, values, strict=True):
            gain = d_k + _over(d_x * (of_x - x), k)
            per_weight.append(of_k * gain)
            of_values.append((_over(d_x * w * of_k, k), w * gain))
        rest, d_taken = np.zeros(len(d_x)), [None] * len(taken)
        reach = [np.ones(len(d_x))]
        for T in taken[:-1]:
            reach.append(reach[-1] * (1.0 - T))
        for i in reversed(range(len(taken))):
            d_taken[i] = reach[i] * (per_weight[i] - rest)
            rest = taken[i] * per_weight[i] + (1.0 - taken[i]) * rest
        return d_taken, of_values


class _Coalesce(_Mixture):
    """The first that is known: K = 1 - prod (1 - K_i)."""

    def __init__(self, children):
        self.children = children

    def forward(self, state, saved):
        inputs = [child.forward(state, saved) for child in self.children]
        x, k, _ = self._mix(*self._known(inputs))
        saved.append((inputs, x, k))
        return x, k

    def _known(self, inputs):
        return [k for _, k in inputs], [(x, np.ones(len(x))) for x, _ in inputs]

    def backward(self, state, grad, saved, d_x, d_k):
        inputs, x, k = saved.pop()
        d_taken, of_values = self._mix_backward(*self._known(inputs), x, k, d_x, d_k)
        for child, taken, (value, _) in reversed(list(zip(self.children, d_taken, of_values,
                                                          strict=True))):
            child.backward(state, grad, saved, value, taken)


class _Case(_Mixture):
    """CASE: conditions as if independent of each other and of the values."""

    def __init__(self, conditions, values, otherwise):
        self.conditions = conditions
        self.children = values if otherwise is None else [*values, otherwise]
        self.otherwise = otherwise is not None

    def _taken(self, state):
        taken = [c.astype(float) if c.dtype == bool else state.P[c + 1] for c in self.conditions]
        return [*taken, np.ones(len(taken[0]))] if self.otherwise else taken

    def forward(self, state, saved):
        values = [child.forward(state, saved) for child in self.children]
        x, k, _ = self._mix(self._taken(state), values)
        saved.append((values, x, k))
        return x, k

    def backward(self, state, grad, saved, d_x, d_k):
        values, x, k = saved.pop()
        d_taken, of_values = self._mix_backward(self._taken(state), values, x, k, d_x, d_k)
        for condition, d in zip(self.conditions, d_taken, strict=False):
            if condition.dtype != bool:
                add_at(grad.P, condition + 1, d)
        for child, (value, known) in reversed(list(zip(self.children, of_values, strict=True))):
            child.backward(state, grad, saved, value, known)

    def sources(self, n_p):
        yield from super().sources(n_p)
        for condition in self.conditions:
            if condition.dtype != bool:
                yield condition
                yield condition + 1


class _Extremes(_Node):
    """greatest, least: of those arguments that are known."""

    def __init__(self, children, pick):
        self.children, self.pick = children, pick

    def _pair(self, a, b):
        (xa, ka), (xb, kb) = a, b
        k = ka + kb - ka * kb
        best = self.pick(xa, xb)
        return _over(ka * kb * best + ka * (1 - kb) * xa + (1 - ka) * kb * xb, k), k

    def forward(self, state, saved):
        inputs = [child.forward(state, saved) for child in self.children]
        steps = [inputs[0]]
        for other in inputs[1:]:
            steps.append(self._pair(steps[-1], other))
        saved.append((inputs, steps))
        return steps[-1]

    def backward(self, state, grad, saved, d_x, d_k):
        inputs, steps = saved.pop()
        of_inputs = [None] * len(inputs)
        for i in reversed(range(1, len(inputs))):
            (xa, ka), (xb, kb), (x, k) = steps[i - 1], inputs[i], steps[i]
            best = self.pick(xa, xb)
            first = best == xa
            d_sum = _over(d_x, k)
            d_known = d_k - d_sum * x
            of_inputs[i] = (d_sum * (ka * kb * ~first + (1 - ka) * kb),
                            d_sum * (ka * best + (1 - ka) * xb - ka * xa) + d_known * (1 - ka))
            d_x, d_k = (d_sum * (ka * kb * first + ka * (1 - kb)),
                        d_sum * (kb * best + (1 - kb) * xa - kb * xb) + d_known * (1 - kb))
        of_inputs[0] = d_x, d_k
        for child, d in reversed(list(zip(self.children, of_inputs, strict=True))):
            child.backward(state, grad, saved, *d)


class _NullIf(_Node):
    """NULL where both are equal; relaxed only where exactly so."""

    def __init__(self, children):
        self.children = children

    def forward(self, state, saved):
        (x, k), (other, known) = (child.forward(state, saved) for child in self.children)
        keep = ~((x == other) & (known > 0.0))
        saved.append(keep)
        return np.where(keep, x, 0.0), np.where(keep, k, 0.0)

    def backward(self, state, grad, saved, d_x, d_k):
        keep = saved.pop()
        nothing = np.zeros(len(keep))
        self.children[1].backward(state, grad, saved, nothing, nothing)
        self.children[0].backward(state, grad, saved, d_x * keep, d_k * keep)


_LEAVES = {"x": _Number, "p": _Truth, "const": _Constant}
_COMPARISONS = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
                "=": np.equal, "<>": np.not_equal}
_OPERATORS = {
    "+": _make(lambda hard, a, b: a + b, lambda a, b: (np.ones(len(a)), np.ones(len(a)))),
    "-": _make(lambda hard, a, b: a - b, lambda a, b: (np.ones(len(a)), -np.ones(len(a)))),
    "*": _make(lambda hard, a, b: a * b, lambda a, b: (b, a)),
    "/": _make(_divide, _divide_slopes),
    "//int": _make(_divide_whole, _divide_slopes),
    "%": _make(_remainder, lambda a, b: (np.ones(len(a)), -np.trunc(a / b))),
    "neg": _make(lambda hard, x: -x + 0.0, lambda x: (-np.ones(len(x)),)),
    "abs": _make(lambda hard, x: np.abs(x), lambda x: (np.sign(x),)),
    "identity": _make(lambda hard, x: x + 0.0, _plain),
    "round": _rounding(half_away),
    "trunc": _rounding(_truncated),
    "to_int": _rounding(half_away),
    "rint": _rounding(lambda x: np.rint(x) + 0.0),
    "floor": _rounding(lambda x: np.floor(_snapped(x)) + 0.0),
    "ceil": _rounding(lambda x: np.ceil(_snapped(x)) + 0.0),
    "sqrt": _make(lambda hard, x: np.sqrt(x), lambda x: (0.5 / np.sqrt(x),)),
    "exp": _make(lambda hard, x: np.exp(x), lambda x: (np.exp(x),)),
    "ln": _make(lambda hard, x: np.log(x), lambda x: (1.0 / x,)),
    "power": _make(lambda hard, a, b: np.power(a, b),
                   lambda a, b: (b * np.power(a, b - 1.0),
                                 np.power(a, b) * np.log(np.where(a > 0, a, 1.0)))),
    "coalesce": _Coalesce,
    "nullif": _NullIf,
    "greatest": lambda children: _Extremes(children, np.maximum),
    "least": lambda children: _Extremes(children, np.minimum),
}
