"""Joins on predictions whose duplicates do not matter: sides reduced to their distinct rows.

Large joins are reduced, and these are small: the limits are put to zero. On classes the circuit
equals PostgreSQL's answer under several relabellings, and gradients finite differences; where one
row meets a reduced side that shares no variable with it, the expectation is exact, too.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from provenance_checks import check_gradient
from provenance_family_parts import Parts
from provenance_harness import (
    Lab,
    assignments,
    enumerate_expectation,
    random_probabilities,
    shapes_of,
)
from test_random_families import Schemas

from pgrain.provenance import semijoin


@pytest.fixture(autouse=True)
def reduce_all(monkeypatch):
    monkeypatch.setattr(semijoin, "FEW_PAIRS", -1)
    monkeypatch.setattr(semijoin, "GAIN", 0)


@pytest.fixture(scope="module")
def schemas(lab: Lab):
    made = Schemas(lab)
    yield made
    made.close()


def relation(parts: Parts, alias: str) -> str:
    return parts.pick("t", "u", "p", "vw", "solo",
                      "(SELECT * FROM t WHERE id < 6)") + f" AS {alias}"


def join(parts: Parts, a: str = "l", b: str = "r") -> tuple[str, str]:
    """FROM and its conditions: two or three inputs that meet through predictions, and columns."""
    on = [parts.both(a, b)]
    if parts.chance(0.4):
        on.append(parts.pick(f"{a}.g = {b}.g", f"{a}.c = {b}.c", f"{a}.v < {b}.v"))
    where = [parts.maybe(parts.on_m(b), 0.4), parts.maybe(parts.plain(b), 0.4),
             parts.maybe(parts.on_n(a), 0.2)]
    from_ = f"{relation(parts, a)} JOIN {relation(parts, b)} ON {' AND '.join(on)}"
    if parts.chance(0.2):
        from_ += f" JOIN {relation(parts, 'k')} ON k.id = {parts.pick(a, b)}.id"
    return from_, parts.where(*where)


def make(parts: Parts) -> str:
    from_, where = join(parts)
    kind = parts.rng.randrange(7)
    shown = parts.pick("l.g", "l.g, r.c", "r.v", f"{parts.m('l')}, r.g", f"l.g, {parts.m('r')}")
    if kind == 0:
        return f"SELECT DISTINCT {shown} FROM {from_} {where}"
    if kind == 1:
        extremes = ", ".join(parts.rng.sample([
            "max(l.v) AS a", "min(r.v) AS b", "count(DISTINCT r.g) AS c", "max(l.v + r.v) AS d",
            f"bool_or({parts.m('r')} = l.c) AS e", f"bool_and({parts.m('l')} <> 'a') AS f",
            f"max(r.w) FILTER (WHERE {parts.m('l')} = 'b') AS h", "max(r.d) AS i"], 2))
        having = parts.maybe("HAVING max(l.v) > 1", 0.3)
        return f"SELECT l.g, {extremes} FROM {from_} {where} GROUP BY l.g {having}"
    if kind == 2:
        inner = (f"SELECT 1 FROM {relation(parts, 'r')} " + parts.where(
            parts.both("l", "r"), parts.maybe("r.g = l.g"), parts.maybe(parts.on_m("r"))))
        return (f"SELECT l.g, count(*) AS n FROM {relation(parts, 'l')} WHERE "
                f"{parts.pick('', 'NOT ')}EXISTS ({inner}) GROUP BY l.g")
    if kind == 3:
        operator = parts.pick("UNION", "INTERSECT", "EXCEPT")
        return (f"SELECT l.g FROM {from_} {where} {operator} "
                f"SELECT k.g FROM t AS k WHERE {parts.on_m('k')}")
    if kind == 4:
        return (f"SELECT q.c, count(*) AS n FROM (SELECT DISTINCT l.c, r.g FROM {from_} {where}) "
                "AS q GROUP BY q.c")
    if kind == 5:
        return (f"WITH a AS (SELECT id, g, {parts.m('t')} AS k FROM t), b AS (SELECT id, c, "
                f"{parts.m('u')} AS k FROM u WHERE id < 8) "
                "SELECT DISTINCT a.g, b.c FROM a JOIN b ON a.k = b.k")
    return (f"SELECT o.id FROM {relation(parts, 'o')} WHERE o.g "
            f"{parts.pick('IN', 'NOT IN', '>= ALL')} (SELECT l.g FROM {from_} {where})")


@pytest.mark.parametrize("seed", range(40))
def test_on_classes(schemas: Schemas, seed: int) -> None:
    lab, rng, found = schemas.use(seed % 5), np.random.default_rng(seed), 0
    for number in range(4):
        query = make(Parts(random.Random(f"semijoin/{seed}/{number}")))
        circuit, capture = lab.circuit(query)
        found += any("distinct rows" in note for note in
                     getattr(getattr(capture, "program", None), "notes", []))
        values = {model: lab.values(model, circuit) for model in shapes_of(circuit)}
        try:
            for _ in range(4):
                circuit.value(lab.predicted(circuit)).compare(lab.result(capture))
                for model, of in values.items():
                    lab.relabel(model, {value: str(rng.choice(lab.models[model].classes))
                                        for value in of})
        except Exception as error:
            raise AssertionError(query) from error
        finally:
            for model in values:
                lab.relabel(model, schemas.labels[model])
        check_gradient(circuit, random_probabilities(rng, circuit), rng)
    assert found, "no query was reduced"


@pytest.mark.parametrize("query", [
    "SELECT count(*) AS n FROM near AS l WHERE EXISTS (SELECT 1 FROM far AS r WHERE "
    "pgrain.predict('s', l.x) = pgrain.predict('s', r.x))",
    "SELECT l.g, count(*) AS n FROM near AS l WHERE NOT EXISTS (SELECT 1 FROM far AS r WHERE "
    "pgrain.predict('s', l.x) < pgrain.predict('s', r.x) AND r.g = l.g) GROUP BY l.g",
    "SELECT DISTINCT l.id FROM near AS l JOIN far AS r ON "
    "pgrain.predict('s', l.x) = pgrain.predict('s', r.x)"])
def test_one_row_beside_a_reduced_side_is_exact(lab: Lab, monkeypatch, query: str) -> None:
    monkeypatch.setattr(semijoin, "GAIN", 2)
    if "s" not in lab.models:
        lab.add_model("s", ["a", "b"], {f"s{i}": "a" for i in range(8)})
    lab.connection.execute(
        "DROP TABLE IF EXISTS near, far;"
        "CREATE TABLE near AS SELECT i AS id, 's' || i % 3 AS x, i % 2 AS g "
        "FROM generate_series(0, 5) AS i;"
        "CREATE TABLE far AS SELECT i AS id, 's' || 3 + i % 4 AS x, i % 2 AS g "
        "FROM generate_series(0, 15) AS i")
    circuit, capture = lab.circuit(query)
    assert any("distinct rows" in note for note in capture.program.notes)
    assert assignments(circuit) <= 2 ** 8
    P = random_probabilities(np.random.default_rng(1), circuit)
    expected, relaxed = enumerate_expectation(circuit, P), circuit.relaxed(P)
    for column, described in enumerate(circuit.columns):
        if described.role == "aggregate":
            np.testing.assert_allclose(relaxed.numbers[:, column], expected.numbers[:, column],
                                       rtol=1e-9, atol=1e-9)
    if "DISTINCT" in query:
        np.testing.assert_allclose(relaxed.weight, expected.present, rtol=1e-9)


def test_few_pairs_and_sides_that_do_not_shrink_stay_listed(lab: Lab, monkeypatch) -> None:
    def reduced(query: str) -> bool:
        _, capture = lab.circuit(query)
        return any("distinct rows" in note for note in capture.program.notes)

    if "s" not in lab.models:
        lab.add_model("s", ["a", "b"], {f"s{i}": "a" for i in range(8)})
    lab.connection.execute("DROP TABLE IF EXISTS many; CREATE TABLE many AS SELECT i AS id, "
                           "'s' || i % 8 AS x, i % 5 AS g FROM generate_series(1, 400) AS i")
    query = ("SELECT DISTINCT l.{0}, r.{0} FROM many AS l JOIN many AS r ON "
             "pgrain.predict('s', l.x) <> pgrain.predict('s', r.x)")
    monkeypatch.undo()
    assert reduced(query.format("g"))
    assert not reduced(query.format("id"))
    monkeypatch.setattr(semijoin, "FEW_PAIRS", 400 * 400)
    assert not reduced(query.format("g"))
