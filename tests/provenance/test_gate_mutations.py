"""Gates that are made wrong on purpose are caught: by PostgreSQL's result, enumeration, or slopes.

The comparison with PostgreSQL's result sees classes alone. A gate that forgets that two terms
share a variable is right on classes; the enumeration over all assignments sees it. A wrong reverse
pass is seen by finite differences alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from provenance_checks import check_expectation, check_gradient, evaluate
from provenance_family_parts import EXPECTED, IF_KNOWN, ROW, Query
from provenance_harness import Lab, enumerate_expectation, random_probabilities

from pgrain.errors import PgrainError
from pgrain.provenance.algebra import first_rows
from pgrain.provenance.gates import any_of
from pgrain.provenance.gates.any_of import AnyOf
from pgrain.provenance.gates.arithmetic import Arithmetic
from pgrain.provenance.gates.blocks import Owners
from pgrain.provenance.gates.events import Events
from pgrain.provenance.gates.extreme import Extreme
from pgrain.provenance.gates.first import First
from pgrain.provenance.gates.network import Layer
from pgrain.provenance.gates.proba_step import ProbaStep
from pgrain.provenance.gates.sums import Sums
from pgrain.provenance.gates.threshold import Threshold

CLASSES = ["a", "b", "c"]
LABELS = {"f0": "a", "f1": "b", "f2": "a"}
SCHEMA = """
CREATE TABLE t (id int, x text, c text, g int, v numeric);
INSERT INTO t VALUES (1, 'f0', 'a', 1, 1), (2, 'f1', 'b', 1, 2.5), (3, 'f2', 'c', 1, 4),
 (4, 'f0', 'c', 2, -1), (5, 'f2', NULL, 2, 3), (6, 'f1', 'a', 2, 0.5), (7, 'f1', 'b', 3, 2);
CREATE TABLE u AS SELECT * FROM t WHERE id IN (1, 3, 5, 6) UNION ALL VALUES (8, NULL, 'b', 2, 7);
"""
M = "pgrain.predict('m', {}.x)".format
EXISTS = Query(f"SELECT l.g, count(*) AS n FROM t AS l WHERE EXISTS (SELECT 1 FROM u AS k WHERE"
               f" k.g = l.g AND {M('k')} <> 'a') GROUP BY l.g", {"n": EXPECTED})
PAIRS = Query(f"SELECT l.g, count(*) AS n FROM t AS l WHERE NOT EXISTS (SELECT 1 FROM u AS k WHERE"
              f" k.g = l.g AND {M('k')} = {M('l')} AND k.id > l.id) GROUP BY l.g", {"n": EXPECTED})
NOT_IN = Query(f"SELECT l.id FROM t AS l WHERE l.c NOT IN (SELECT {M('k')} FROM u AS k WHERE"
               " k.g = l.g)", {ROW: ""})
NOT_IN_SHOWN = Query(f"SELECT l.id, l.c NOT IN (SELECT {M('k')} FROM u AS k WHERE k.g = l.g)"
                     " AS shown FROM t AS l")
HAVING = Query(f"SELECT l.g FROM t AS l WHERE {M('l')} = 'a' GROUP BY l.g HAVING count(*) >= 2",
               {ROW: ""})
SUM_HAVING = Query(f"SELECT l.g FROM t AS l WHERE {M('l')} <> 'c' GROUP BY l.g HAVING"
                   " sum(l.id) > 4", {ROW: ""})
LIMIT = Query(f"SELECT l.id FROM t AS l WHERE {M('l')} = 'a' ORDER BY l.id OFFSET 1 LIMIT 2")
ON = Query(f"SELECT DISTINCT ON (l.g) l.g, l.id FROM t AS l WHERE {M('l')} = 'a' ORDER BY l.g,"
           " l.id", {ROW: ""})
LEAST = Query(f"SELECT l.g, min(l.v) AS low FROM t AS l WHERE {M('l')} <> 'c' GROUP BY l.g",
              {"low": IF_KNOWN})
BOTH = Query(f"SELECT l.id, r.id AS other FROM t AS l JOIN u AS r ON l.g = r.g AND {M('l')} = 'b'"
             f" AND EXISTS (SELECT 1 FROM u AS k WHERE k.id = r.id AND k.x <> l.x AND {M('k')} ="
             " 'a')")
SHARE = Query(f"SELECT l.g, 10.0 * count(*) FILTER (WHERE {M('l')} = 'a') / sum(l.id) AS share FROM"
              " t AS l GROUP BY l.g", {"share": EXPECTED})
STEP = Query("SELECT l.g, count(*) AS n FROM t AS l WHERE (pgrain.predict_proba('m', l.x))[1] > 0.5"
             " GROUP BY l.g")
QUERIES = {name: value for name, value in globals().items() if isinstance(value, Query)}


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.add_model("m", CLASSES, LABELS)
    lab.set_probabilities("m", {"f0": [0.6, 0.3, 0.1], "f1": [0.2, 0.7, 0.1],
                                "f2": [0.9, 0.1, 0.0]})
    lab.connection.execute(SCHEMA)
    return lab


def caught_by(lab: Lab, query: Query) -> set[str]:
    """Which of the three checks object."""
    circuit, capture = lab.circuit(query.text)
    found = set()
    try:
        evaluate(lab, circuit, query, lab.predicted(circuit)).compare(lab.result(capture))
    except PgrainError as error:
        assert error.sqlstate == "XX000"
        found.add("comparison")
    P = random_probabilities(np.random.default_rng(1), circuit)
    try:
        raw = P if "predict_proba" in query.text else None
        check_expectation(circuit, query, P, enumerate_expectation(circuit, P, raw))
    except AssertionError:
        found.add("enumeration")
    try:
        check_gradient(circuit, P, np.random.default_rng(2))
    except AssertionError:
        found.add("slopes")
    return found


# --- what is made wrong: each takes pytest's monkeypatch ------------------------------------------

def made_with(kind: type[Layer], change: Callable[[dict], dict]):
    """Gates of a kind are made with other arguments."""
    def mutate(monkeypatch) -> None:
        make = kind.__init__
        names = make.__code__.co_varnames[1:make.__code__.co_argcount]

        def made(self, *arguments, **named):
            given = dict(zip(names, arguments, strict=False)) | named
            make(self, **(given | change(given)))
        monkeypatch.setattr(kind, "__init__", made)
    return mutate


def diagrams_of_first_rows(change: Callable[[dict], dict]):
    """What decides small lists of rows that share variables gets other arguments."""
    def mutate(monkeypatch) -> None:
        exact = first_rows.exact
        names = exact.__code__.co_varnames[:exact.__code__.co_argcount]

        def changed(*arguments):
            given = dict(zip(names, arguments, strict=True))
            return exact(**(given | change(given)))
        monkeypatch.setattr(first_rows, "exact", changed)
    return mutate


def beyond_diagrams(mutation):
    """The same in lists that are too long for a diagram."""
    def mutate(monkeypatch) -> None:
        monkeypatch.setattr(first_rows, "PAIRS", -1)
        mutation(monkeypatch)
    return mutate


def known_terms(given: dict) -> dict:
    """Only the terms that are not NULL."""
    if given.get("unknown") is None:
        return {}
    keep = ~np.asarray(given["unknown"])
    return {"target": np.asarray(given["target"])[keep], "unknown": None,
            "literals": np.asarray(given["literals"])[keep]}


def swapped(kind: type[Layer]):
    """True for false: a complement forgotten."""
    def mutate(monkeypatch) -> None:
        forward = kind.forward

        def wrong(self, state) -> None:
            forward(self, state)
            three = state.P[self.out:self.out + 3 * self.n].reshape(self.n, 3)
            three[:, :2] = three[:, 1::-1].copy()
        monkeypatch.setattr(kind, "forward", wrong)
    return mutate


def each_for_itself(kind: type[Layer]):
    """Classes of one variable count as independent of each other."""
    def mutate(monkeypatch) -> None:
        prepare = kind.prepare
        monkeypatch.setattr(kind, "prepare", lambda self, owners: prepare(
            self, Owners(np.arange(Owners.of(owners).n_p) - 1)))
    return mutate


def nothing_shared(monkeypatch) -> None:
    """Terms of several variables count as independent of each other."""
    monkeypatch.setattr(any_of, "_components", lambda blocks, owners: None)


def wrong_slope(kind: type[Layer]):
    """The reverse pass subtracts what it should add."""
    def mutate(monkeypatch) -> None:
        backward = kind.backward

        def wrong(self, state, grad) -> None:
            before = [vector.copy() for vector in (grad.P, grad.X, grad.K)]
            backward(self, state, grad)
            for vector, old in zip((grad.P, grad.X, grad.K), before, strict=True):
                vector[:] = 2 * old - vector
        monkeypatch.setattr(kind, "backward", wrong)
    return mutate


def reversed_tree(given: dict) -> dict:
    """The operands of the outermost operator change places."""
    operator, *operands = given["tree"]
    return {"tree": (operator, *reversed(operands))} if operator in "-/" else {}


def flipped(given: dict) -> dict:
    return {"operator": {">": "<", ">=": "<=", "<": ">", "<=": ">="}[given["operator"]]}


MUTATIONS = {
    "NULL as false in NOT IN": (NOT_IN, made_with(AnyOf, known_terms), "comparison"),
    "NULL as true in NOT IN": (NOT_IN_SHOWN, made_with(AnyOf, lambda a: {"unknown": None}),
                               "comparison"),
    "NOT EXISTS without NOT": (PAIRS, swapped(AnyOf), "comparison"),
    "EXISTS of other groups": (EXISTS, made_with(AnyOf, lambda a: {
        "target": np.roll(a["target"], 1)}), "comparison"),
    "variables shared by pairs": (PAIRS, nothing_shared, "enumeration"),
    "classes of EXISTS independent": (EXISTS, each_for_itself(AnyOf), "enumeration"),
    "HAVING count off by one": (HAVING, made_with(Threshold, lambda a: {
        "constant": np.asarray(a["constant"]) - 1}), "comparison"),
    "HAVING > for >=": (HAVING, made_with(Threshold, lambda a: {
        "operator": ">"}), "comparison"),
    "HAVING complement": (HAVING, swapped(Threshold), "comparison"),
    "HAVING sum without its weights": (SUM_HAVING, made_with(Threshold, lambda a: {
        "weight": np.ones(len(a["weight"]))}), "comparison"),
    "HAVING sum, classes independent": (SUM_HAVING, each_for_itself(Threshold), "enumeration"),
    "LIMIT off by one": (LIMIT, diagrams_of_first_rows(
        lambda a: {"limit": a["limit"] + 1}), "comparison"),
    "OFFSET off by one": (LIMIT, diagrams_of_first_rows(
        lambda a: {"offset": a["offset"] - 1}), "comparison"),
    "LIMIT of a long list off by one": (LIMIT, beyond_diagrams(made_with(
        First, lambda a: {"limit": a["limit"] + 1})), "comparison"),
    "OFFSET of a long list off by one": (LIMIT, beyond_diagrams(made_with(
        First, lambda a: {"offset": a["offset"] - 1})), "comparison"),
    "DISTINCT ON takes a second": (ON, made_with(First, lambda a: {"limit": 2}), "comparison"),
    "max for min": (LEAST, made_with(Extreme, lambda a: {"kind": "max"}), "comparison"),
    "min, classes independent": (LEAST, each_for_itself(Extreme), "enumeration"),
    "a condition of two is lost": (BOTH, made_with(Events, lambda a: {
        "literals": np.where(np.arange(np.shape(a["literals"])[1]) > 0, 0, a["literals"])
        if np.ndim(a["literals"]) == 2 else a["literals"]}), "comparison"),
    "a sum's sign": (PAIRS, made_with(Sums, lambda a: {
        "weight": -(np.ones(len(a["target"])) if a.get("weight") is None else a["weight"])}),
        "comparison"),
    "a ratio upside down": (SHARE, made_with(Arithmetic, reversed_tree), "comparison"),
    "a threshold turned round": (STEP, made_with(ProbaStep, flipped), "comparison"),
    "slope of EXISTS": (EXISTS, wrong_slope(AnyOf), "slopes"),
    "slope of pairs": (PAIRS, wrong_slope(AnyOf), "slopes"),
    "slope of a ratio": (SHARE, wrong_slope(Arithmetic), "slopes"),
    "slope of min": (LEAST, wrong_slope(Extreme), "slopes"),
    "slope of a sum": (PAIRS, wrong_slope(Sums), "slopes"),
    "slope of a threshold": (STEP, wrong_slope(ProbaStep), "slopes"),
}


@pytest.mark.parametrize("name", QUERIES)
def test_the_right_gates_pass(schema: Lab, name: str) -> None:
    assert caught_by(schema, QUERIES[name]) == set()


@pytest.mark.parametrize("name", MUTATIONS)
def test_wrong_gates_are_caught(schema: Lab, monkeypatch, name: str) -> None:
    query, mutate, by = MUTATIONS[name]
    mutate(monkeypatch)
    found = caught_by(schema, query)
    assert by in found
    if by != "comparison":      # else the shorter check would have done
        assert "comparison" not in found
