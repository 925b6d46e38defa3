"""Complaints about rows: presence by enumeration, in log space, and the objective made of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from provenance_harness import Lab, all_assignments, random_probabilities, shapes_of

from pgrain.complaint.grammar import parse
from pgrain.complaint.objective import Objective, all_rows
from pgrain.errors import InvalidArgument
from pgrain.influence.gradient import logit_cotangent
from pgrain.models.softmax import softmax
from pgrain.provenance.algebra.circuit import NetworkCircuit
from pgrain.provenance.compile import compile
from pgrain.provenance.presence import ABSENT
from pgrain.provenance.probes import Probes

CLASSES = ["a", "b", "c"]
GROUPS = "SELECT g, count(*) AS n FROM t WHERE pgrain.predict('m', x) <> c GROUP BY g"
BY_LABEL = "SELECT pgrain.predict('m', x) AS label, count(*) AS n FROM t WHERE id < 7 GROUP BY 1"
ROWS = "SELECT id, pgrain.predict('m', x) AS label FROM t WHERE pgrain.predict('m', x) <> c"
PAIRS = ("SELECT l.id, r.id AS other FROM t AS l, t AS r WHERE l.id < 4 AND r.id BETWEEN 4 AND 6"
         " AND pgrain.predict('m', l.x) = pgrain.predict('m', r.x)")
JOIN = ("SELECT l.g, count(*) AS n FROM t AS l, t AS r WHERE l.id < 4 AND r.id BETWEEN 4 AND 5"
        " AND pgrain.predict('m', l.x) = pgrain.predict('m', r.x) GROUP BY l.g")
HAVING = GROUPS + " HAVING count(*) > 1"
DISTINCT = "SELECT DISTINCT pgrain.predict('m', x) AS label FROM t WHERE id < 6"
FEW = GROUPS.replace("<> c", "<> c AND id < 6")      # over different variables
VALUES = f"SELECT n, count(*) AS k FROM ({FEW}) AS q GROUP BY n"
MEMBER = f"{FEW} HAVING count(*) IN (SELECT 2)"
EXTREME = f"{FEW} HAVING max(id) = 5"
TIES = f"{ROWS} AND id < 6 ORDER BY g FETCH FIRST 2 ROWS WITH TIES"
QUERIES = {"groups": GROUPS, "by label": BY_LABEL, "rows": ROWS, "pairs": PAIRS, "join": JOIN,
           "having": HAVING, "distinct": DISTINCT, "values": VALUES, "member": MEMBER,
           "extreme": EXTREME, "ties": TIES}


@pytest.fixture(scope="module")
def rows_there(lab: Lab) -> Lab:
    lab.connection.execute(
        "CREATE TABLE t AS SELECT i AS id, 'f' || i % 7 AS x, (ARRAY['a', 'b', 'c'])[1 + i % 3]"
        " AS c, i % 2 AS g FROM generate_series(1, 10) AS i")
    lab.connection.execute("CREATE TABLE many AS SELECT i AS id, 'm' || i AS x, i % 2 AS g"
                           " FROM generate_series(1, 6000) AS i")
    lab.add_model("m", CLASSES, {f"f{i}": CLASSES[i * i % 3] for i in range(7)}
                  | {f"m{i}": "a" if i % 2 else "b" for i in range(1, 6001)})
    return lab


def circuit_of(lab: Lab, query: str):
    explain, models, probes = lab.explain(query), {}, {}
    for _ in range(12):
        capture = compile(query, explain, models, probes, True)
        if not isinstance(capture, Probes):
            return capture.circuit(lab.lineage(capture)), capture
        models |= {name: lab.models[name] for name in capture.models}
        probes |= {name: lab.probe(text) for name, text in capture.sql.items()}
    raise AssertionError("compile asks too often")


def objective(lab: Lab, query: str, *complaints: str, P=None) -> Objective:
    circuit, capture = circuit_of(lab, query)
    P = P or random_probabilities(np.random.default_rng(1), circuit)
    value, relaxed = circuit.value(lab.predicted(circuit)), circuit.relaxed(P)
    parsed, matched = [parse(text) for text in complaints], []
    for complaint in parsed:
        rows = all_rows(value, complaint)
        for absent in (False, True) if complaint.where else ():
            found = lab.raw(capture.match_sql(complaint.where),
                            [value.match_json(absent).encode()], [0])
            rows = [int.from_bytes(row[0], "big") for row in found]
            if rows:
                break
        matched.append(rows)
    return Objective(parsed, circuit, value, relaxed, matched, P)


@pytest.mark.parametrize("name", QUERIES)
def test_log_absent_equals_the_enumeration(rows_there: Lab, name: str) -> None:
    circuit, capture = circuit_of(rows_there, QUERIES[name])
    assert capture.knows_rows
    rows = list(range(len(circuit.value(rows_there.predicted(circuit)).present)))
    for seed in range(3):
        P = random_probabilities(np.random.default_rng(seed), circuit)
        absent = np.zeros(len(rows))
        for predicted, weight in all_assignments(circuit, P):
            absent += weight * ~circuit.value(predicted).present
        found = circuit.log_absent(P, rows)
        if name == "having":      # the count given that there are rows: docs/dev/semantics.md
            np.testing.assert_allclose(np.exp(found), absent, atol=0.02)
        else:
            np.testing.assert_allclose(found, np.log(absent), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", QUERIES)
def test_its_gradient_equals_finite_differences(rows_there: Lab, name: str) -> None:
    circuit, _ = circuit_of(rows_there, QUERIES[name])
    rng = np.random.default_rng(3)
    logits = {m: rng.normal(size=shape) for m, shape in shapes_of(circuit).items()}
    step = {m: rng.normal(size=shape) for m, shape in shapes_of(circuit).items()}
    n = len(circuit.value(rows_there.predicted(circuit)).present)
    weights = {(row, ABSENT): float(w) for row, w in enumerate(rng.normal(size=n))}
    rows = [row for row, _ in weights]

    def q(size):
        P = {m: softmax(logits[m] + size * step[m]) for m in logits}
        return float(circuit.log_absent(P, rows) @ list(weights.values()))

    P = {m: softmax(logits[m]) for m in logits}
    gradient = circuit.gradient(P, weights)
    slope = sum(float((logit_cotangent(P[m], gradient[m]) * step[m]).sum()) for m in P)
    assert slope == pytest.approx((q(1e-5) - q(-1e-5)) / 2e-5, rel=1e-6)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("query", [
    "SELECT g, count(*) AS n FROM many WHERE pgrain.predict('m', x) = 'a' GROUP BY g",
    # DISTINCT is a network
    "SELECT DISTINCT g FROM many WHERE pgrain.predict('m', x) = 'a'"])
def test_thousands_of_sure_factors(rows_there: Lab, query: str) -> None:
    """3 000 variables a group, each in the class with 1 - 1e-12: P(absent) is 10^-36000."""
    made = objective(rows_there, query, "no row WHERE g = 1")
    small = 1e-12
    logits = np.tile(np.array([0.0, math.log(small), math.log(small)]), (6000, 1))
    P = {"m": softmax(logits)}
    made = objective(rows_there, query, "no row WHERE g = 1", P=P)
    assert made.q == pytest.approx(3000 * -math.log(2 * small), rel=1e-6)
    slopes = logit_cotangent(P["m"], made.gradient()["m"])
    asked = slopes.any(axis=1)
    assert asked.sum() == 3000
    # -log(1 - p_a) has the slope p_a ~ 1 in the logit of a: to lower it, push a down.
    np.testing.assert_allclose(slopes[asked], np.tile([1.0, -0.5, -0.5], (3000, 1)), rtol=1e-6)


def test_a_row_that_is_all_but_impossible(rows_there: Lab) -> None:
    query = "SELECT g, count(*) AS n FROM many WHERE pgrain.predict('m', x) = 'c' GROUP BY g"
    tiny = 1e-18
    P = {"m": np.tile([0.5, 0.5 - tiny, tiny], (6000, 1))}
    made = objective(rows_there, query, "a row WHERE g = 1", P=P)
    assert made.q == pytest.approx(-math.log(3000 * tiny), rel=1e-9)
    slopes = logit_cotangent(P["m"], made.gradient()["m"])
    assert slopes[slopes.any(axis=1)][:, 2] == pytest.approx(-1 / 3000, rel=1e-6)


def test_no_row_and_a_row(rows_there: Lab) -> None:
    made = objective(rows_there, ROWS, "no row")
    there = np.flatnonzero(made.value.present)
    assert made.violated == len(there) > 1
    assert made.q == pytest.approx(-made.circuit.log_absent(made.P, list(there)).sum())
    absent = int(np.flatnonzero(~made.value.present)[0])
    key = made.value.text(absent, 0)
    made = objective(rows_there, ROWS, f"a row WHERE id = {key}")
    p = -np.expm1(made.circuit.log_absent(made.P, [absent])[0])
    assert made.q == pytest.approx(-math.log(p)) and made.violated == 1
    effect = made.effect_gradient()["m"]
    slope = made.gradient()["m"]
    np.testing.assert_allclose(slope, -effect / p, rtol=1e-9)      # q = -log P(present)
    several = objective(rows_there, ROWS, "a row WHERE NOT id < 0 AND label IS NULL")
    rows = np.flatnonzero(~several.value.present).tolist()
    together = 1 - math.exp(several.circuit.log_absent(several.P, rows).sum())
    assert several.q == pytest.approx(-math.log(together))


def test_met_row_complaints_add_nothing_and_say_so(rows_there: Lab) -> None:
    for text in ("a row", "a row WHERE g = 0", "no row WHERE n > 1000", "no row WHERE g = 99"):
        made = objective(rows_there, GROUPS, text)
        assert made.q == 0 and made.violated == 0 and "is met" in made.notes[0], text
        made.effect_gradient()


def test_together_with_other_complaints(rows_there: Lab) -> None:
    parts = [objective(rows_there, GROUPS, text) for text in ("no row WHERE g = 0", "n too low")]
    both = objective(rows_there, GROUPS, "no row WHERE g = 0", "n too low")
    assert both.q == pytest.approx(sum(part.q for part in parts))
    np.testing.assert_allclose(both.gradient()["m"], sum(p.gradient()["m"] for p in parts))


def test_cells_of_rows_that_are_not_there(rows_there: Lab) -> None:
    """A count is 0 there, a text can be asked for; what has no value is refused."""
    made = objective(rows_there, BY_LABEL, "n >= 2 WHERE label = 'c'")
    row = made.matched[0][0]
    if made.value.present[row]:
        pytest.fail("the example needs a label that nobody predicts")
    assert made.value.numbers[row, 1] == 0 and made.weights == {(row, 1): -0.5}
    assert objective(rows_there, BY_LABEL, "n <= 2 WHERE label = 'c'").violated == 0
    there = objective(rows_there, ROWS, "no row")
    absent = int(np.flatnonzero(~there.value.present)[0])
    key = there.value.text(absent, 0)
    label = next(c for c in CLASSES if there.circuit.probability(there.P, absent, 1, c) > 0)
    made = objective(rows_there, ROWS, f"label = '{label}' WHERE id = {key}")
    assert made.violated == 1 and made.q > 0
    with pytest.raises(InvalidArgument) as raised:
        objective(rows_there, BY_LABEL.replace("count(*)", "sum(id)"), "n >= 1 WHERE label = 'c'")
    assert "is NULL" in raised.value.message and "a row" in raised.value.hint


def test_rows_that_no_prediction_moves_are_refused(rows_there: Lab) -> None:
    for query, text, words in [
            ("SELECT count(*) AS n FROM t WHERE pgrain.predict('m', x) = 'a'", "no row",
             "is in the result"),
            ("SELECT g, count(*) FILTER (WHERE pgrain.predict('m', x) = 'a') AS n FROM t"
             " GROUP BY g", "no row WHERE g = 1", "is in the result"),
            (GROUPS, "a row WHERE g = 99", "no output row matches")]:
        with pytest.raises(InvalidArgument) as raised:
            objective(rows_there, query, text)
        assert words in raised.value.message


def test_factorised_joins_go_through_the_network(rows_there: Lab) -> None:
    assert not rows_there.capture(JOIN).knows_rows
    assert isinstance(circuit_of(rows_there, JOIN)[0], NetworkCircuit)
    assert not isinstance(circuit_of(rows_there, GROUPS)[0], NetworkCircuit)
