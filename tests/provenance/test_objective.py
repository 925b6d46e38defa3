"""The objective: direction from the value, slope from the relaxed value, errors that say why."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from provenance_harness import Lab, random_probabilities

from pgrain.complaint.cell import as_sent, cell_name, found
from pgrain.complaint.grammar import parse
from pgrain.complaint.objective import Objective, all_rows, complained_column
from pgrain.complaint.outcome import Watchful
from pgrain.errors import InvalidArgument, LimitExceeded, PgrainError, UndefinedColumn

CLASSES = ["a", "b", "c"]
REPORT = ("SELECT g AS hour, count(*) AS flagged, sum(v) FILTER (WHERE v > 100) AS nothing,"
          " 'k' AS what FROM t WHERE pgrain.predict('m', x) <> c GROUP BY g")
LABELS = "SELECT id, pgrain.predict('m', x) AS label, d, length(pgrain.predict('m', x)) FROM t"

GROUPED = ("SELECT c, pgrain.predict('m', x) AS label, length(pgrain.predict('m', x)) AS size,"
           " max(v) AS n FROM t GROUP BY 1, 2, 3")


@pytest.fixture(scope="module")
def schema(lab: Lab) -> Lab:
    lab.connection.execute(
        "CREATE TABLE t AS SELECT i AS id, 'f' || i % 11 AS x, (ARRAY['a', 'b', 'c'])[1 + i % 3]"
        " AS c, i % 3 AS g, i::numeric / 4 AS v, date '2026-01-01' + i AS d"
        " FROM generate_series(1, 40) AS i")
    lab.add_model("m", CLASSES, {f"f{i}": CLASSES[i * i % 3] for i in range(11)})
    return lab


def objective(lab: Lab, query: str, *complaints: str) -> Objective:
    circuit, capture = lab.circuit(query)
    P = random_probabilities(np.random.default_rng(1), circuit)
    value, relaxed = circuit.value(lab.predicted(circuit)), circuit.relaxed(P)
    parsed = [parse(text) for text in complaints]
    for complaint in parsed:
        complained_column(complaint, circuit)
    matched = [all_rows(value) if c.where is None else lab.match(capture, value, c.where)
               for c in parsed]
    return Objective(parsed, circuit, value, relaxed, matched, P)


def cell(made: Objective, hour: int) -> tuple[float, float]:
    row = next(r for r in range(len(made.value.present)) if made.value.text(r, 0) == str(hour))
    return made.value.numbers[row, 1], made.relaxed.numbers[row, 1]


def test_violated_comparisons(schema: Lab) -> None:
    v, r = cell(objective(schema, REPORT, "flagged too high"), 1)
    for text, expected in [(f"flagged <= {v - 3}", r / 3), (f"flagged >= {v + 4}", -r / 4),
                           (f"flagged = {v - 2}", r / 2), (f"flagged = {v + 2}", -r / 2),
                           (f"flagged < {v}", r), (f"flagged > {v}", -r),
                           (f"flagged <= {v - 0.5}", r),
                           ("flagged too high", r / max(v, 1)),
                           ("flagged too low", -r / max(v, 1))]:
        made = objective(schema, REPORT, text + " WHERE hour = 1")
        assert made.q == pytest.approx(expected), text
        assert made.violated == 1
        assert "is violated" in made.notes[0]


def test_met_complaints_add_nothing_and_say_so(schema: Lab) -> None:
    v, _ = cell(objective(schema, REPORT, "flagged too high"), 1)
    for text in (f"flagged <= {v}", f"flagged >= {v}", f"flagged = {v}", f"flagged < {v + 1}"):
        made = objective(schema, REPORT, text + " WHERE hour = 1")
        assert made.q == 0 and made.violated == 0
        assert "is met" in made.notes[0]
        assert not made.gradient()["m"].any()
        assert made.effect_gradient()["m"].any()


def test_several_hold_together(schema: Lab) -> None:
    alone = [objective(schema, REPORT, f"flagged <= 1 WHERE hour = {h}") for h in (0, 1, 2)]
    together = objective(schema, REPORT, *(f"flagged <= 1 WHERE hour = {h}" for h in (0, 1, 2)))
    everywhere = objective(schema, REPORT, "flagged <= 1")
    assert together.q == pytest.approx(sum(o.q for o in alone))
    assert everywhere.q == pytest.approx(together.q)
    np.testing.assert_allclose(together.gradient()["m"], sum(o.gradient()["m"] for o in alone))
    np.testing.assert_allclose(together.effect_gradient()["m"], alone[0].effect_gradient()["m"])


def test_gradient_equals_finite_differences(schema: Lab) -> None:
    for query, texts in [(REPORT, ("flagged <= 1 WHERE hour < 2",
                                   "flagged too low WHERE hour = 2")),
                         (LABELS, ("label = 'a' WHERE id = 17", "label = 'b' WHERE id IN (3, 4)",
                                   "length too high WHERE id = 1"))]:
        made = objective(schema, query, *texts)
        direction = np.random.default_rng(2).normal(size=made.P["m"].shape)

        def q_at(step, made=made, direction=direction):
            P = {"m": made.P["m"] + step * direction}
            return Objective(made.complaints, made.circuit, made.value, made.circuit.relaxed(P),
                             made.matched, P).q

        slope = (q_at(1e-6) - q_at(-1e-6)) / 2e-6
        assert float((made.gradient()["m"] * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_a_text_target_is_minus_log_probability(schema: Lab) -> None:
    made = objective(schema, LABELS, "label = 'b' WHERE id = 17")
    row = made.matched[0][0]
    p = made.circuit.probability(made.P, row, 1, "b")
    variable = made.circuit.lineage.sides[0].variables[0][row]
    assert p == pytest.approx(made.P["m"][variable, 1])
    shown = made.value.text(row, 1)
    assert made.q == (0 if shown == "b" else pytest.approx(-math.log(p)))


def test_where_is_evaluated_by_postgresql_in_the_querys_types(schema: Lab) -> None:
    made = objective(schema, LABELS, "label = 'b' WHERE d = date '2026-01-08' AND label <> 'zz'"
                                     " -- so\n AND id::text LIKE '7%'")
    assert [made.value.text(row, 0) for row in made.matched[0]] == ["7"]
    made = objective(schema, REPORT, "flagged <= 1 WHERE flagged > 0 AND what = 'k'")
    assert len(made.matched[0]) == int((made.value.numbers[:, 1] > 0).sum())


@pytest.mark.parametrize(("query", "complaint", "kind", "words"), [
    (REPORT, "flaged <= 1", UndefinedColumn, "flaged"),
    (REPORT, '"Flagged" <= 1', UndefinedColumn, "Flagged"),
    (REPORT, "hour <= 1", InvalidArgument, "does not depend"),
    (REPORT, "flagged <= 1 WHERE hour = 99", InvalidArgument, "no output row"),
    (REPORT, "nothing <= 1", InvalidArgument, "is NULL"),
    (REPORT, "flagged = 'x'", InvalidArgument, "is a number"),
    (LABELS, "label <= 'x'", InvalidArgument, "compared with"),
    (LABELS, "label <= 1", InvalidArgument, "is no number"),
    (LABELS, "label = 'zebra'", InvalidArgument, "can never be"),
    (LABELS, "id <= 1", InvalidArgument, "does not depend"),
    (GROUPED, "label = 'b' WHERE c = 'a'", InvalidArgument, "a row of its own"),
    (GROUPED, "size too high", InvalidArgument, "a row of its own"),
])
def test_bad_complaints(schema: Lab, query, complaint, kind, words) -> None:
    with pytest.raises(kind) as raised:
        objective(schema, query, complaint)
    assert words in raised.value.message


def test_rows_that_are_null_can_be_left_out(schema: Lab) -> None:
    query = ("SELECT g, sum(v) FILTER (WHERE g > 1) AS v FROM t WHERE "
             "pgrain.predict('m', x) = 'a' GROUP BY g")
    with pytest.raises(InvalidArgument) as raised:
        objective(schema, query, "v too high")
    assert 'WHERE "v" IS NOT NULL' in raised.value.hint
    assert objective(schema, query, 'v too high WHERE "v" IS NOT NULL').violated == 1


def test_the_hint_tells_of_rows_that_are_possible_but_absent(schema: Lab) -> None:
    query = ("SELECT pgrain.predict('m', x) AS label, count(*) AS n FROM t WHERE id = 3"
             " GROUP BY 1")
    with pytest.raises(InvalidArgument) as raised:
        objective(schema, query, "n >= 1 WHERE label = 'zebra'")
    assert "2 more rows are possible" in raised.value.hint
    circuit, _ = schema.circuit(query)
    output = circuit.value(schema.predicted(circuit))
    assert len(output.json_rows()) == 1 and len(output.json_rows(include_absent=True)) == 3


def test_limits_say_what_would_be_needed(schema: Lab, monkeypatch) -> None:
    from pgrain import settings

    for name, query in [("OUTPUT_ROWS", LABELS), ("ASSIGNMENTS", REPORT), ("FACTOR_PAIRS", REPORT),
                        ("OUTPUT_ROWS", REPORT)]:
        small = settings.Setting(getattr(settings, name).name, 2, 1, 10, "rows", "few")
        monkeypatch.setattr(settings, name, small)
        monkeypatch.setitem(settings.ALL, small.name, small)
        with pytest.raises(LimitExceeded) as raised:
            schema.lineage(schema.capture(query))
        assert raised.value.sqlstate == "54000" and raised.value.hint
        monkeypatch.undo()


def test_an_unknown_layout_is_an_internal_error(schema: Lab) -> None:
    capture = schema.capture(REPORT)
    with pytest.raises(PgrainError) as raised:
        capture.read([("factor:0", None, b"\x00", None, None)])
    assert raised.value.sqlstate == "XX000"


def test_effects_are_about_the_first_cell_that_is_violated(schema: Lab) -> None:
    counts = {h: cell(objective(schema, REPORT, "flagged too high"), h)[0] for h in (0, 1, 2)}
    hour = max(counts, key=lambda h: (counts[h], h))
    assert hour != 0 and counts[hour] > counts[0]
    alone = objective(schema, REPORT, f"flagged <= {counts[hour] - 1} WHERE hour = {hour}")
    for texts in ([f"flagged <= {counts[hour] - 1}"],
                  ["flagged <= 99", f"flagged <= {counts[hour] - 1} WHERE hour = {hour}"]):
        made = objective(schema, REPORT, *texts)
        assert made.first == alone.first and made.cell[0] == len(texts) - 1
        np.testing.assert_array_equal(made.effect_gradient()["m"], alone.effect_gradient()["m"])
        assert any(note.endswith("in the row (hour = 0, what = k)") for note in made.met)
    kept = Objective(made.complaints, made.circuit, made.value, made.relaxed, made.matched, made.P,
                     (0, (made.matched[0][0], 1)))      # a cell that an earlier round has chosen
    assert kept.first == (made.matched[0][0], 1) != made.first and kept.q == made.q


def test_a_cell_is_found_again_by_its_row(schema: Lab) -> None:
    made = objective(schema, REPORT, "flagged too high WHERE hour = 2")
    sent = json.loads(json.dumps(as_sent(made.value, made.cell)))
    order = np.arange(len(made.value.keys))[::-1]
    turned = replace(made.value, keys=[made.value.keys[i] for i in order],
                     present=made.value.present[order], numbers=made.value.numbers[order])
    row = int(np.flatnonzero(order == made.first[0])[0])
    assert row != made.first[0] and found(turned, sent, 1) == (0, (row, 1))
    assert found(turned, {**sent, "nth": 1}, 1) is None
    for wrong in ({}, {**sent, "complaint": 1}, {**sent, "nth": -1}, {**sent, "nth": True},
                  {**sent, "cell": [9]}, {**sent, "cell": [1, 2]}, {**sent, "row": None}):
        with pytest.raises(InvalidArgument, match="cell is none"):
            found(turned, wrong, 1)
    assert cell_name(made.value, made.first) == '"flagged" of the row (hour = 2, what = k)'


def test_hints_spell_a_column_as_a_complaint_does(schema: Lab) -> None:
    query = ('SELECT g, count(*) AS "Pct", max(v) AS n FROM t '
             "WHERE pgrain.predict('m', x) = 'a' GROUP BY g")
    for text, hint in (('"Pct" too high', 'as in "Pct" <= 50.'), ("n too low", "as in n >= 50.")):
        with pytest.raises(InvalidArgument) as raised:
            Watchful(objective(schema, query, text))
        assert raised.value.hint.endswith(hint)
