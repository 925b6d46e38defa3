"""complain and provenance through SQL: values, signs, baselines, interventions."""

from __future__ import annotations

import math

import numpy as np
import psycopg
import pytest

REPORT = ("SELECT hour, count(*) AS flagged FROM items "
          "WHERE pgrain.predict('colour', x) <> claim GROUP BY hour")
COUNT = "SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'red'"


def complain(database, query, complaint, **options):
    arguments = "".join(f", {name} => %({name})s" for name in options)
    kind = "text" if isinstance(complaint, str) else "text[]"
    return database.rows(f"SELECT * FROM pgrain.complain(%(q)s, %(c)s::{kind}{arguments})",
                         {"q": query, "c": complaint, **options})


def relaxed(database, query=COUNT):
    return database.rows("SELECT value, relaxed FROM pgrain.provenance(%s)", [query])[0]


def test_provenance_has_the_query_s_values_and_expectations(small):
    rows = {row[1]["hour"]: row for row in small.rows(
        "SELECT * FROM pgrain.provenance(%s)", [REPORT])}
    result = dict(small.rows(REPORT))
    assert {hour: row[3] for hour, row in rows.items()} == result
    expected = dict(small.rows("""
        SELECT hour, sum(1 - (pgrain.predict_proba('colour', x))[array_position(m.classes, claim)])
        FROM items, pgrain.models m WHERE x IS NOT NULL GROUP BY hour"""))
    for hour, row in rows.items():
        assert row[4] == pytest.approx(expected[hour], rel=1e-5)
        assert row[1] == {"hour": hour, "flagged": result[hour]}


def test_the_ranking_is_a_ranking(small):
    rows = complain(small, REPORT, "flagged too high WHERE hour = 1", top_k=240)
    assert [row[0] for row in rows] == list(range(1, 241))
    assert {row[1] for row in rows} == {"colour"}
    assert [str(row[2]) for row in rows] == [row[3] for row in rows]
    assert {row[2] for row in rows} == {row[0] for row in small.rows("SELECT id FROM train")}
    scores = [row[5] for row in rows]
    assert scores == sorted(scores, reverse=True)
    short = complain(small, REPORT, "flagged too high WHERE hour = 1", top_k=7)
    assert [row[2:] for row in short] == [row[2:] for row in rows[:7]]


def test_effect_is_the_first_order_change_of_the_complained_cell(small):
    """score = -(change of q); for one cell `too high` q is the cell over max(value, 1)."""
    value = relaxed(small)[0]
    for row in complain(small, COUNT, "n too high", top_k=240):
        assert row[5] == pytest.approx(-row[6] / max(value, 1), rel=1e-4, abs=1e-9)
    for row in complain(small, COUNT, "n too low", top_k=240):
        assert row[5] == pytest.approx(row[6] / max(value, 1), rel=1e-4, abs=1e-9)


def retrained(small, keys, intervention):
    """The relaxed count after an intervention and retraining, through SQL alone."""
    small.execute("SELECT pgrain.apply('colour', %s, %s)", [keys, intervention])
    try:
        small.execute("CALL pgrain.train('colour')")
        return relaxed(small)[1]
    finally:
        small.execute("SELECT pgrain.revert('colour')")


@pytest.mark.parametrize("intervention", ["delete", "relabel:red", "relabel", "any"])
def test_effect_has_the_sign_and_size_of_the_truth(small, intervention):
    """Rows at both ends and in the middle: the effect of each against a retrained model.

    (Every single row, removed and relabelled, is tested on arrays in tests/numerics.)
    """
    version = small.value("SELECT version FROM pgrain.models")
    before = relaxed(small)[1]
    # By expected gains, the last of `any` are those with next to no effect, of either sign.
    rows = complain(small, COUNT, "n too high", top_k=1000, intervention=intervention,
                    options='{"k": 9, "plausible": false}')
    assert {row[4] for row in rows} == {intervention} or intervention in ("relabel", "any")
    chosen = [rows[i] for i in (0, 1, len(rows) // 2, -2, -1)]
    truth = [retrained(small, [row[3]], row[4]) - before for row in chosen]
    small.execute("SELECT pgrain.activate('colour', %s)", [version])
    effect = [row[6] for row in chosen]
    assert np.corrcoef(effect, truth)[0, 1] > 0.98
    slope = np.dot(effect, truth) / np.dot(truth, truth)
    assert 0.9 < slope < 1.1
    ends = [0, 1, -2, -1]   # the middle row's effect is about nothing
    assert np.sign([effect[i] for i in ends]).tolist() == np.sign([truth[i] for i in ends]).tolist()


def by_intervention(small, intervention, complaint="n too low"):
    return {(row[2], row[4]): row[5:] for row in complain(
        small, COUNT, complaint, top_k=1000, intervention=intervention, options='{"k": 9}')}


def test_relabel_gives_the_best_other_label_of_each_row(small):
    """One line a row, the best of all that `relabel:<class>` gives, with its score and effect."""
    rows = complain(small, COUNT, "n too low", top_k=1000, intervention="relabel",
                    options='{"k": 9}')
    assert sorted(row[2] for row in rows) == list(range(1, 241))
    every = {}
    for label in ("red", "green", "blue"):
        every |= by_intervention(small, f"relabel:{label}")
    assert len(every) == 2 * 240
    labels = dict(small.rows("SELECT id, label FROM train"))
    for row in rows:
        assert row[4] != f"relabel:{labels[row[2]]}"
        assert every[row[2], row[4]] == pytest.approx(row[5:], rel=1e-4, abs=1e-7)
        assert row[5] >= max(score for (key, _), (score, _) in every.items()
                             if key == row[2]) - 1e-6
    assert [row[5] for row in rows] == sorted((row[5] for row in rows), reverse=True)


def test_any_gives_the_best_intervention_of_each_row(small):
    """By gains; by expected gains in test_interventions.py."""
    options = '{"k": 9, "plausible": false}'
    rows = complain(small, COUNT, "n too high", top_k=1000, intervention="any", options=options)
    assert sorted(row[2] for row in rows) == list(range(1, 241))
    every = (by_intervention(small, "delete", "n too high")
             | by_intervention(small, "relabel", "n too high"))
    for row in rows:
        assert every[row[2], row[4]] == pytest.approx(row[5:], rel=1e-4, abs=1e-7)
        assert row[5] >= max(score for (key, _), (score, _) in every.items()
                             if key == row[2]) - 1e-6
    assert len({row[4] for row in rows}) > 1
    short = complain(small, COUNT, "n too high", top_k=7, intervention="any", options=options)
    assert short == rows[:7]


def test_rain_on_all_rows_agrees_with_all_eigenpairs(small):
    """Conjugate gradient to convergence and k = d are the same inverse Hessian."""
    full = complain(small, COUNT, "n too high", top_k=240, options='{"k": 9}')
    rain = complain(small, COUNT, "n too high", top_k=240, options='{"method": "rain", "k": 100}')
    scores = {row[2]: row[5] for row in full}
    assert [scores[row[2]] for row in rain] == pytest.approx([row[5] for row in rain],
                                                             rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("how", [
    ("delete", "{}"), ("relabel", "{}"), ("any", "{}"), ("relabel", '{"plausible": true}'),
    ("delete", '{"normalize": "relatif"}'), ("delete", '{"method": "rain"}'),
    ("delete", '{"method": "gradient_dot"}')])
def test_the_unit_of_a_sum_does_not_matter(small, how):
    """Slopes beyond what float32 holds, and below: the same ranking, effects in that unit, scores
    in some other one (the weight of a violation depends on its size)."""
    def ranking(unit):
        return complain(small, f"SELECT sum({unit}::float8) AS s FROM items "
                               "WHERE pgrain.predict('colour', x) = 'red'", "s too high",
                        top_k=40, intervention=how[0], options=how[1])

    plain = ranking("1")
    assert len(plain) == 40 and all(math.isfinite(value) for row in plain for value in row[5:])
    for unit in ("1e-60", "1e60", "1e150"):
        rows = ranking(unit)
        assert [row[2:5] for row in rows] == [row[2:5] for row in plain], unit
        size = max(abs(row[6]) for row in plain)
        assert [row[6] / float(unit) for row in rows] == pytest.approx(
            [row[6] for row in plain], rel=1e-3, abs=1e-6 * size)
        assert [row[5] / rows[0][5] for row in rows] == pytest.approx(
            [row[5] / plain[0][5] for row in plain], rel=1e-3, abs=1e-6)
    assert "RuntimeWarning" not in small.worker.log.read_text()


def test_assess_finds_the_same_in_any_unit(small):
    found = [dict(small.rows(f"""SELECT check_name, value FROM pgrain.assess($$
        SELECT sum({unit}::float8) AS s FROM items WHERE pgrain.predict('colour', x) = 'red' $$,
        's too high')""")) for unit in ("1", "1e150")]
    for check in ("gradient in the subspace", "adversarial predictions", "agreement across k",
                  "agreement with gradient_dot"):
        assert found[1][check] == pytest.approx(found[0][check], rel=1e-4), check


def test_gradient_dot_is_another_ranking_of_the_same_rows(small):
    rows = complain(small, COUNT, "n too high", top_k=240, options='{"method": "gradient_dot"}')
    assert {row[2] for row in rows} == set(range(1, 241))
    assert [row[2] for row in rows] != [row[2] for row in complain(small, COUNT, "n too high",
                                                                   top_k=240)]


def test_several_complaints_hold_together(small):
    one = {row[2]: row[5] for row in complain(small, REPORT, "flagged too high WHERE hour = 1",
                                              top_k=240)}
    two = {row[2]: row[5] for row in complain(small, REPORT, "flagged too low WHERE hour = 2",
                                              top_k=240)}
    both = complain(small, REPORT, ["flagged too high WHERE hour = 1",
                                    "flagged too low WHERE hour = 2"], top_k=240)
    for row in both:
        assert row[5] == pytest.approx(one[row[2]] + two[row[2]], rel=1e-4, abs=1e-7)


def test_a_met_complaint_says_so_and_ranks_nothing(small):
    notices = []
    session = small.connect()
    session.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    rows = session.execute("SELECT * FROM pgrain.complain(%s, 'n <= 100000')", [COUNT]).fetchall()
    assert rows == []
    assert any("is met" in notice for notice in notices)


def test_where_sees_values_and_types_of_the_output(small):
    """A WHERE on the complained column itself, with the query's own types."""
    worst = small.rows(REPORT + " ORDER BY 2 DESC LIMIT 1")[0]
    by_value = complain(small, REPORT, f"flagged too high WHERE flagged = {worst[1]}::bigint")
    by_hour = complain(small, REPORT, "flagged too high WHERE hour IN (" + ", ".join(
        str(hour) for hour, n in small.rows(REPORT) if n == worst[1]) + ")")
    assert [row[2:] for row in by_value] == [row[2:] for row in by_hour]


def test_values_that_are_not_attached_are_computed_live(small):
    """The same complaint on a copy of the rows under other values gives the same kind of answer,
    and on equal values exactly the same one."""
    stored = complain(small, COUNT, "n too high", top_k=240)
    query = COUNT.replace("FROM items", "FROM (SELECT ARRAY[x[1], x[2] + 1e-12 * i] AS x "
                          "FROM items, generate_series(1, 1) AS i WHERE x IS NOT NULL) AS moved")
    live = complain(small, query, "n too high", top_k=240)
    scores = {row[2]: row[5] for row in stored}
    assert [row[5] for row in live] == pytest.approx([scores[row[2]] for row in live],
                                                     rel=1e-3, abs=1e-6)


def test_a_point_complaint(small):
    query = "SELECT id, pgrain.predict('colour', x) AS label FROM items WHERE x IS NOT NULL"
    row = small.rows(query + " LIMIT 1")[0]
    wanted = next(c for c in ("red", "green", "blue") if c != row[1])
    rows = complain(small, query, f"label = '{wanted}' WHERE id = {row[0]}", top_k=5)
    assert len(rows) == 5
    assert rows[0][5] > 0 and rows[0][6] > 0   # deleting it makes the wanted label likelier


def test_a_self_join_on_predictions(small):
    query = ("SELECT count(*) AS n FROM items a JOIN items b "
             "ON pgrain.predict('colour', a.x) = pgrain.predict('colour', b.x)")
    value, expectation = relaxed(small, query)
    assert value == small.value(query)
    p = np.array([row[0] for row in small.rows(
        "SELECT pgrain.predict_proba('colour', x) FROM items WHERE x IS NOT NULL ORDER BY id")])
    values = [str(row[0]) for row in small.rows("SELECT x FROM items WHERE x IS NOT NULL "
                                                "ORDER BY id")]
    pairs = p @ p.T
    same = np.array([[a == b for b in values] for a in values])
    # Where both sides show one value they are one variable and agree surely.
    assert expectation == pytest.approx(np.where(same, 1.0, pairs).sum(), rel=1e-5)
    assert len(complain(small, query, "n too high", top_k=3)) == 3


def test_explain_shows_our_operators_and_postgresql_s(small):
    lines = [row[0] for row in small.rows("SELECT pgrain.explain(%s)", [REPORT])]
    split = lines.index("PostgreSQL's plan:")
    ours, theirs = "\n".join(lines[:split]), "\n".join(lines[split:])
    assert "-> Scan items" in ours
    assert 'column "flagged" bigint: count, exact expectation' in ours
    assert "Seq Scan on public.items" in theirs


@pytest.mark.parametrize("options", ['{"method": "rain", "k": "abc"}', '{"method": "rain", "k": 0}',
                                     '{"method": "rain", "damping": "nan"}', '{"k": null}',
                                     '{"method": "rain", "filter": "damped"}',
                                     '{"method": "gradient_dot", "k": 3}', '{"damping": -1}',
                                     '{"filter": "inverse", "damping": 0.1}',
                                     '{"filter": "truncated", "damping": 1}',
                                     '{"normalize": "bogus"}'])
def test_options_that_mean_nothing_are_refused(small, options):
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        complain(small, COUNT, "n too high", options=options)


def scores(small, options):
    return np.array([row[5] for row in sorted(complain(
        small, COUNT, "n too high", top_k=240, options=options), key=lambda row: row[2])])


def test_filters_and_normalisation_reach_the_ranking(small):
    """Each against its formula on the stored spectrum: one eigenpair at a time adds up."""
    values = np.array(small.value("SELECT eigenvalues FROM pgrain.models"))
    steps = [scores(small, f'{{"k": {k}, "filter": "identity"}}') for k in range(1, 10)]
    parts = np.diff([np.zeros(240), *steps], axis=0)          # c_i a_zi, by eigenpair
    delta = 0.05 * values[0]
    expected = {'{"k": 9}': 1 / values,
                '{"k": 9, "damping": 0.05}': 1 / (values + delta),
                '{"k": 9, "filter": "tikhonov", "damping": 0.05}': values / (values**2 + delta**2),
                '{"k": 9, "filter": "truncated", "damping": 0.05}':
                    np.where(values > delta, 1 / values, 0)}
    for options, weights in expected.items():
        assert scores(small, options) == pytest.approx(weights @ parts, rel=1e-3, abs=1e-6)
    plain, normal = scores(small, '{"k": 9}'), scores(small, '{"k": 9, "normalize": "relatif"}')
    assert (np.sign(plain) == np.sign(normal)).all()
    assert plain.argmax() != normal.argmax() or not np.allclose(plain, normal)


def test_gradient_dot_is_the_identity_filter_with_all_eigenpairs(small):
    """The same sign and size, by two ways that share no code."""
    assert scores(small, '{"method": "gradient_dot"}') == pytest.approx(
        scores(small, '{"k": 9, "filter": "identity"}'), rel=1e-3, abs=1e-6)


def test_effects_keep_their_size_where_many_rows_have_changed(small):
    """The Hessian is that of all rows that were learned, also when half of them can't be read."""
    before = {row[2]: row[6] for row in complain(small, COUNT, "n too high", top_k=240,
                                                 options='{"k": 9}')}
    small.execute("UPDATE train SET x = ARRAY[x[1] + 1e-6, x[2]] WHERE id % 2 = 0")
    small.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
    after = {row[2]: row[6] for row in complain(small, COUNT, "n too high", top_k=240,
                                                options='{"k": 9}')}
    assert set(after) == {i for i in range(1, 241) if i % 2}
    a, b = np.array(list(after.values())), np.array([before[i] for i in after])
    assert 0.8 < (a @ b) / (b @ b) < 1.25
    small.execute("UPDATE train SET x = ARRAY[x[1] - 1e-6, x[2]] WHERE id % 2 = 0")


def test_a_hopelessly_wrong_prediction_still_has_a_ranking(small):
    """-log P has a bounded slope however small P is: P below 1e-20 ranks like any other."""
    small.execute("CREATE TABLE far AS SELECT g AS id, ARRAY[60.0 * g, -60.0 * g]::float8[] AS x "
                  "FROM generate_series(1, 3) AS g")
    query = "SELECT id, pgrain.predict('colour', x) AS label FROM far"
    classes = small.value("SELECT classes FROM pgrain.models")
    for number in (1, 2, 3):
        p = small.value(f"SELECT pgrain.predict_proba('colour', x) FROM far WHERE id = {number}")
        wrong = classes[int(np.argmin(p))]
        rows = complain(small, query, f"label = '{wrong}' WHERE id = {number}", top_k=3)
        assert p[int(np.argmin(p))] < 1e-15
        assert rows[0][5] > 1e-3
    small.execute("DROP TABLE far")


def test_arrays_that_begin_elsewhere_and_hold_null(small):
    """'[0:1]={2,3}' is the value '{2,3}' to a model. A null among the features is refused."""
    small.execute("CREATE TABLE shifted AS SELECT id, format('[0:1]={%s,%s}', x[1] + 0.25, x[2])"
                  "::float8[] AS x, hour FROM items WHERE x IS NOT NULL")
    small.execute("CREATE TABLE plain AS SELECT id, ARRAY[x[0], x[1]] AS x, hour FROM shifted")
    counted = "SELECT count(*) AS n FROM {} WHERE pgrain.predict('colour', {}) = 'blue'"
    ranked = [small.rows("SELECT train_key, score FROM pgrain.complain(%s, 'n too high', 20)",
                         [counted.format(*place)])
              for place in (("shifted", "x"), ("shifted", "x[:]"), ("plain", "x"))]
    assert ranked[0] == ranked[1] == ranked[2] and ranked[0]
    small.execute("UPDATE plain SET x = ARRAY[9.5, NULL] WHERE id = 3")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="finite numbers, not null"):
        small.rows("SELECT * FROM pgrain.complain(%s, 'n too high')",
                   [counted.format("plain", "x")])
    small.execute("DROP TABLE shifted, plain")
