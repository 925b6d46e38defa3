"""A walker that is made wrong on purpose is caught by the comparison with PostgreSQL's result."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from provenance_harness import Lab

from pgrain.errors import PgrainError
from pgrain.provenance.circuit import Circuit
from pgrain.provenance.lineage import Lineage

CLASSES = ["a", "b", "c"]
GROUPED = ("SELECT g, count(*) AS n, sum(v) AS total, avg(v) FILTER (WHERE c = 'a') AS mean FROM t"
           " WHERE pgrain.predict('m', x) <> c GROUP BY g")
JOINED = ("SELECT l.g, count(*) AS n, sum(l.v) AS total FROM t l JOIN t r ON l.g = r.g AND"
          " pgrain.predict('m', l.x) = pgrain.predict('m', r.x) GROUP BY l.g")
LISTED = "SELECT id, pgrain.predict('m', x) AS label FROM t WHERE pgrain.predict('m', x) <> c"


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.connection.execute(
        "CREATE TABLE t AS SELECT i AS id, 'f' || i % 11 AS x, (ARRAY['a', 'b', 'c'])[1 + i % 3]"
        " AS c, i % 2 AS g, (i * 7 % 10)::numeric / 4 AS v FROM generate_series(1, 40) AS i")
    lab.add_model("m", CLASSES, {f"f{i}": CLASSES[i * i % 3] for i in range(11)})
    return lab


def evaluate(lab: Lab, capture, lineage: Lineage, change_classes=lambda c: c) -> None:
    circuit = Circuit(capture, lineage)
    predicted = {m: change_classes(c) for m, c in lab.predicted(circuit).items()}
    circuit.value(predicted).compare(lab.result(capture))


def drop_a_row(lineage: Lineage) -> None:
    side = lineage.sides[0]
    side.weights[0] = side.weights[0].copy()
    side.weights[0][3] = 0.0
    side.variables[0] = side.variables[0].copy()
    side.variables[0][3] = lineage.n_variables


def drop_entries(lineage: Lineage) -> None:
    for name in ("entries", "group_of_entry", "flags"):
        setattr(lineage, name, getattr(lineage, name)[::2])


def repeat_an_entry(lineage: Lineage) -> None:
    for name in ("entries", "group_of_entry", "flags"):
        array = getattr(lineage, name)
        setattr(lineage, name, np.concatenate([array, array[:3]]))


def shift_the_classes(lineage: Lineage) -> None:
    lineage.entries = lineage.entries.copy()
    lineage.entries[:, 1] = (lineage.entries[:, 1] + 1) % lineage.n_classes


def swap_variables(lineage: Lineage) -> None:
    side = lineage.sides[0]
    side.variables[0] = (side.variables[0] + 1) % lineage.n_variables


def swap_groups(lineage: Lineage) -> None:
    lineage.texts = lineage.texts[::-1]


def lose_a_pair(lineage: Lineage) -> None:
    lineage.pairs = (lineage.pairs[0][1:], lineage.pairs[1][1:])


def all_flags(lineage: Lineage) -> None:
    for side in lineage.sides:
        for flag in side.flag_weight:
            side.weights[flag] = np.ones_like(side.weights[flag])


def change_a_value(lineage: Lineage) -> None:
    side = lineage.sides[0]
    weight = side.value_weight[0]
    side.weights[weight] = side.weights[weight] * (1 + 1e-6)


MUTATIONS = [(GROUPED, drop_a_row), (GROUPED, drop_entries), (GROUPED, repeat_an_entry),
             (GROUPED, shift_the_classes), (GROUPED, swap_variables), (GROUPED, swap_groups),
             (GROUPED, all_flags), (GROUPED, change_a_value),
             (JOINED, drop_a_row), (JOINED, drop_entries), (JOINED, lose_a_pair),
             (JOINED, swap_variables), (JOINED, change_a_value),
             (LISTED, swap_variables), (LISTED, swap_groups), (LISTED, shift_the_classes)]


@pytest.mark.parametrize("query", [GROUPED, JOINED, LISTED])
def test_the_right_walker_passes(schema: Lab, query: str) -> None:
    capture = schema.capture(query)
    evaluate(schema, capture, schema.lineage(capture))


@pytest.mark.parametrize(("query", "mutation"), MUTATIONS)
def test_mutations_of_the_lineage_are_caught(schema: Lab, query: str, mutation) -> None:
    capture = schema.capture(query)
    lineage = schema.lineage(capture)
    mutation(lineage)
    with pytest.raises(PgrainError) as raised:
        evaluate(schema, capture, lineage)
    assert raised.value.sqlstate == "XX000"
    assert "by PostgreSQL" in raised.value.detail


@pytest.mark.parametrize(("query", "before", "after"), [
    (GROUPED, '"_pgrain_label" <> c', '"_pgrain_label" = c'),
    (GROUPED, "(c = 'a')", "(c = 'b')"),
    (JOINED, '"_pgrain_label" = ', '"_pgrain_label" < '),
    (JOINED, "l.g = r.g", "l.g <= r.g"),
    (LISTED, '"_pgrain_label" <> c', '"_pgrain_label" <= c'),
])
def test_mutations_of_the_capture_are_caught(schema: Lab, query, before, after) -> None:
    capture = schema.capture(query)
    assert before in capture.sql
    wrong = dataclasses.replace(capture, sql=capture.sql.replace(before, after))
    with pytest.raises(PgrainError):
        evaluate(schema, capture, schema.lineage(wrong))


def test_a_stale_prediction_is_caught(schema: Lab) -> None:
    def one_wrong(classes):
        classes = classes.copy()
        classes[0] = (classes[0] + 1) % len(CLASSES)
        return classes

    capture = schema.capture(GROUPED)
    with pytest.raises(PgrainError):
        evaluate(schema, capture, schema.lineage(capture), one_wrong)


def test_the_error_names_row_column_and_both_values(schema: Lab) -> None:
    capture = schema.capture(GROUPED)
    circuit = Circuit(capture, schema.lineage(capture))
    rows = [list(row) for row in schema.result(capture)]
    rows[0][1] = str(int(rows[0][1]) + 1)
    with pytest.raises(PgrainError) as raised:
        circuit.value(schema.predicted(circuit)).compare(rows)
    assert f"(g = {rows[0][0]})" in raised.value.detail
    assert 'column "n"' in raised.value.detail.lower()
    assert f"{int(rows[0][1]) - 1} by the circuit, {rows[0][1]} by PostgreSQL" \
        in raised.value.detail


@pytest.mark.parametrize("change", [
    lambda rows: rows[1:],
    lambda rows: rows + rows[:1],
    lambda rows: [[None, *rows[0][1:]], *rows[1:]],
    lambda rows: [[*rows[0][:2], None, *rows[0][3:]], *rows[1:]]])
def test_missing_added_and_changed_rows_are_caught(schema: Lab, change) -> None:
    capture = schema.capture(GROUPED)
    circuit = Circuit(capture, schema.lineage(capture))
    rows = [list(row) for row in schema.result(capture)]
    with pytest.raises(PgrainError):
        circuit.value(schema.predicted(circuit)).compare(change(rows))
