"""Decision diagrams: what several numbers of a group are together, by enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from gates_harness import holds, probabilities, random_terms, tangent

from pgrain.provenance.algebra import diagrams
from pgrain.provenance.algebra.diagrams import Column, build
from pgrain.provenance.algebra.wiring import Wiring
from pgrain.provenance.gates.diagram import Diagram

KINDS = ["count", "sum", "some", "min", "max", "set"]


def summed(kind: str, values: list[float]) -> float:
    """What a column holds of the terms that occur."""
    if kind in ("count", "sum"):
        return float(len(values)) if kind == "count" else sum(values)
    if kind == "set":
        return float(sum(1 << int(v) for v in set(values)))
    if kind == "some":
        return float(bool(values))
    return {"min": min, "max": max}[kind](values, default={"min": np.inf, "max": -np.inf}[kind])


class Case:
    """Random columns over V variables, and a gate that knows each last node."""

    def __init__(self, seed: int, width: int):
        rng = self.rng = np.random.default_rng(seed)
        self.V, self.R, self.n = 5, 2 + seed % 2, 3
        self.wiring = Wiring({"m": (self.V, self.R)})
        self.columns = []
        for kind in KINDS:
            terms = random_terms(rng, self.V, self.R, 6, width)     # of literals from 1 on
            terms = np.where(terms > 0, terms - 1 + self.wiring.offset["m"], 0)
            self.columns.append(Column(kind, rng.integers(self.n, size=6), terms,
                                       rng.integers(4, size=6).astype(float)))
        self.found = build(self.wiring, self.n, self.columns)

    def wired(self, zero: bool = False):
        """(network, P -> (events, X, K)): an event for each last node, given a random condition."""
        found, rng = self.found, self.rng
        self.allowed = rng.random(len(found.node)) < 0.7
        chosen = np.flatnonzero(self.allowed)
        known = chosen[rng.random(len(chosen)) < 0.8]
        self.value = rng.normal(size=len(found.node))
        self.known = np.isin(np.arange(len(found.node)), known)
        out, out_x = self.wiring.singles(len(chosen)), self.wiring.numbers(self.n)
        layer = Diagram(out, found.paths, (found.instance[chosen], found.node[chosen]),
                        (np.arange(len(chosen)), found.node[chosen]), found.instance[chosen],
                        out_x=out_x, number=(found.instance[known], found.node[known],
                                             self.value[known]), of_number=np.arange(self.n),
                        zero=zero)
        layer.sources = found.sources
        self.wiring.add(layer)
        self.network = self.wiring.network()
        self.places = slice(out, out + len(chosen))
        self.chosen = chosen
        return self

    def forward(self, P, hard=False):
        given = np.concatenate([[0.0], P.ravel(), P.ravel()])     # NEVER, classes, the same raw
        return self.network.forward(given, hard)

    def last(self, classes, instance: int) -> int:
        """The last node of an instance under an assignment."""
        sums = []
        for column in self.columns:
            sums.append(summed(column.kind, [
                v for i, row, v in zip(column.instance, column.literals, column.value, strict=True)
                if i == instance and holds(np.where(row > 0, row + 1 - self.wiring.offset["m"], 0),
                                           classes, self.R)]))
        at = np.flatnonzero((self.found.instance == instance)
                            & (self.found.sums == np.array(sums)).all(axis=1))
        assert len(at) == 1, (instance, sums)
        return int(at[0])

    def expected(self, P):
        """(probability of each last node, by enumeration)."""
        total = np.zeros(len(self.found.node))
        for classes in itertools.product(range(self.R), repeat=self.V):
            weight = P[np.arange(self.V), classes].prod()
            for instance in range(self.n):
                total[self.last(np.array(classes), instance)] += weight
        return total


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("zero", [False, True])
def test_joint_distribution_conditions_and_gradient(seed, width, zero):
    """zero: a number counts as 0 where it is not known, as sums do."""
    case = Case(seed, width).wired(zero)
    assert case.found.fits.all()
    of = case.found.instance
    for how in ("inner", "any"):
        P = probabilities(case.rng, case.V, case.R, how)
        p = case.expected(P)
        assert np.bincount(of, p) == pytest.approx(np.ones(case.n))
        there = np.bincount(of, p * case.allowed, case.n)
        state = case.forward(P)
        want = np.where(there[of] > 1e-12, p / np.where(there > 0, there, 1.0)[of], 0.0)
        assert state.P[case.places] == pytest.approx(want[case.chosen], abs=1e-9)
        known = np.bincount(of, p * case.known, case.n)
        total = np.bincount(of, p * case.known * case.value, case.n)
        some = (known > 1e-12) & (there > 1e-12)
        over = there if zero else known
        assert state.X[some] == pytest.approx((total / np.where(some, over, 1.0))[some])
        assert state.K[some] == pytest.approx((known / np.where(some, there, 1.0))[some])
    P = probabilities(case.rng, case.V, case.R, "inner")
    weights = case.rng.normal(size=len(case.chosen))
    d_x, d_k = case.rng.normal(size=(2, case.n))

    def mixture(Q):
        state = case.forward(Q)
        return state.P[case.places] @ weights + state.X @ d_x + state.K @ d_k

    state = case.forward(P)
    dP = np.zeros(case.network.n_p)
    dP[case.places] = weights
    gradient = case.network.backward(state, dP, d_x, d_k)[1:1 + P.size].reshape(P.shape)
    found = np.zeros_like(P)
    for v, c in np.ndindex(*P.shape):
        move = np.zeros_like(P)
        move[v, c], move[v, 0] = 1e-6, move[v, 0] - 1e-6
        if c:
            found[v, c] = (mixture(P + move) - mixture(P - move)) / 2e-6
    assert tangent(gradient) == pytest.approx(found, rel=1e-4, abs=1e-6)


def test_on_classes_one_node_is_reached():
    case = Case(0, 2).wired()
    for classes in itertools.product(range(case.R), repeat=case.V):
        state = case.forward(np.eye(case.R)[list(classes)], hard=True)
        want = {case.last(np.array(classes), i) for i in range(case.n)}
        got = set(case.chosen[state.P[case.places] == 1.0].tolist())
        assert got == {node for node in want if case.allowed[node]}


def test_counts_of_many_rows_take_few_nodes_and_too_large_ones_none(monkeypatch):
    """60 rows in two counts: at most 31 · 31 sums on a level, not 2^60; sums of many weights do not
    fit, and leave the others alone."""
    wiring = Wiring({"m": (120, 2)})
    literals = wiring.offset["m"] + 2 * np.arange(120)[:, None]
    instance = np.repeat([0, 1], 60)
    halves = [np.arange(120) % 2 == part for part in (0, 1)]
    weights = np.where(instance == 0, 1.0, 2.0 ** (np.arange(120) % 60 / 3))
    found = build(wiring, 2, [Column("sum", instance[half], literals[half], weights[half])
                              for half in halves])
    assert found.fits.tolist() == [True, False]
    assert len(found.node) == 31 * 31
    assert (found.instance == 0).all()
    monkeypatch.setattr(diagrams, "LEVELS", 59)
    assert build(wiring, 2, [Column("count", instance, literals)]) is None
