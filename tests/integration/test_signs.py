"""Every form of complaint against retraining: what a ranking says of a row is what happens to the
objective when the model is trained without that row, or with another label of it.

The objective is written here a second time, as SQL over `predict_proba`, form by form; nothing of
it comes from the code that ranks. All pairs are stored and the model is convex, so that the scores
should be right in size and not only in order.
"""

from __future__ import annotations

import numpy as np
import pytest

ROWS = (3, 31, 59, 87, 115, 143, 171, 199, 227)      # of each label three
BLUE = "pgrain.predict('colour', x) = 'blue'"


def p(label, model="colour"):
    """The probability of a label (SQL) of an item."""
    return (f"(pgrain.predict_proba('{model}', x))[(SELECT array_position(classes, {label}) "
            f"FROM pgrain.models WHERE model = '{model}')]")


def over(what, where="true"):
    return f"(SELECT {what} FROM items WHERE x IS NOT NULL AND {where})"


def forms(db):
    """name -> (query, complaints, the objective as SQL)."""
    blue = p("'blue'")
    count = f"SELECT count(*) AS n FROM items WHERE {BLUE}"
    n, of_all = db.value(count), over(f"sum({blue})")
    groups = (f"SELECT hour, count(*) AS n, sum(id) AS s FROM items WHERE {BLUE} GROUP BY hour")
    hours = {hour: (number, total) for hour, number, total in db.rows(groups)}
    labels = ("SELECT id, pgrain.predict('colour', x) AS label FROM items WHERE x IS NOT NULL")
    others = [row[0] for row in db.rows(
        f"SELECT id FROM items WHERE x IS NOT NULL AND NOT {BLUE} ORDER BY id LIMIT 2")]
    there = [row[0] for row in db.rows(f"SELECT id FROM items WHERE {BLUE} ORDER BY id LIMIT 2")]
    one, both = f"id = {others[0]}", f"id IN ({others[0]}, {others[1]})"
    pair = f"id IN ({there[0]}, {there[1]})"
    claims = "SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) <> claim"
    two = ("SELECT count(*) AS n FROM items "
           "WHERE pgrain.predict('colour', x) = pgrain.predict('shade', x)")
    same = " + ".join(f"{p(label)} * {p(label, 'shade')}"
                      for label in ("'red'", "'green'", "'blue'"))
    by_label = ("SELECT pgrain.predict('colour', x) AS label, count(*) AS n FROM items "
                "WHERE x IS NOT NULL GROUP BY 1")
    reds = dict(db.rows(by_label))["red"]
    return {
        "<=": (count, [f"n <= {n - 5}"], f"{of_all} / 5"),
        "<": (count, [f"n < {n}"], of_all),
        "= below": (count, [f"n = {n - 4}"], f"{of_all} / 4"),
        "= above": (count, [f"n = {n + 4}"], f"-{of_all} / 4"),
        ">=": (count, [f"n >= {n + 3}"], f"-{of_all} / 3"),
        ">": (count, [f"n > {n}"], f"-{of_all}"),
        "too high": (count, ["n too high"], f"{of_all} / {n}"),
        "too low": (count, ["n too low"], f"-{of_all} / {n}"),
        "where": (groups, ["n too high WHERE hour = 2"],
                  f"{over(f'sum({blue})', 'hour = 2')} / {hours[2][0]}"),
        "array": (groups, [f"n <= {hours[1][0] - 2} WHERE hour = 1", "s too low WHERE hour = 3",
                           "n <= 1000 WHERE hour = 2"],
                  f"{over(f'sum({blue})', 'hour = 1')} / 2 - "
                  f"{over(f'sum(id * {blue})', 'hour = 3')} / {hours[3][1]}"),
        "average": (f"SELECT avg(({BLUE})::int) AS s FROM items WHERE x IS NOT NULL", ["s too low"],
                    f"-{over(f'avg({blue})')}"),
        "point": (labels, [f"label = 'blue' WHERE {one}"], f"-{over(f'sum(ln({blue}))', one)}"),
        "points": (labels, [f"label = 'blue' WHERE {both}"], f"-{over(f'sum(ln({blue}))', both)}"),
        "no row": (f"SELECT id FROM items WHERE {BLUE}", [f"no row WHERE {pair}"],
                   f"-{over(f'sum(ln(1 - {blue}))', pair)}"),
        "a row": (f"SELECT id FROM items WHERE {BLUE}", [f"a row WHERE {both}"],
                  f"-ln(1 - exp({over(f'sum(ln(1 - {blue}))', both)}))"),
        "<> column": (claims, ["n too high"],
                      f"{over('sum(1 - ' + p('claim') + ')')} / {db.value(claims)}"),
        "two models": (two, ["n too high"], f"{over(f'sum({same})')} / {db.value(two)}"),
        "by label": (by_label, ["n too low WHERE label = 'red'"],
                     f"-{over('sum(' + p(chr(39) + 'red' + chr(39)) + ')')} / {reds}"),
    }


@pytest.fixture(scope="module")
def signs(small):
    """(database, forms, objective of each form by intervention and row after training)."""
    small.execute("""CREATE TABLE shades AS SELECT id, x, CASE WHEN id % 7 = 0 THEN 'red'
                     ELSE label END AS label FROM train""")
    small.execute("SELECT pgrain.create_model('shade', 'shades', 'id', '{x}', 'label', "
                  "'logistic_regression', '{\"alpha\": 2}')")
    small.execute("CALL pgrain.train('shade')")
    small.execute("CALL pgrain.precompute('shade', '{\"pairs\": 9}')")
    version = small.value("SELECT version FROM pgrain.models WHERE model = 'colour'")
    asked = forms(small)
    every = "SELECT " + ", ".join(f"({objective})::float8" for _, _, objective in asked.values())
    start, found = np.array(small.rows(every)[0]), {}
    for intervention in ("delete", "relabel:red"):
        for row in ROWS:
            small.execute("SELECT pgrain.apply('colour', ARRAY[%s], %s)", [str(row), intervention])
            small.execute("CALL pgrain.train('colour', '{\"warm_start\": true}')")
            found[intervention, row] = np.array(small.rows(every)[0]) - start
            small.execute("SELECT pgrain.revert('colour')")
            small.execute("SELECT pgrain.activate('colour', %s)", [version])
    return small, asked, found


@pytest.mark.parametrize("intervention", ["delete", "relabel:red"])
def test_scores_are_what_training_does(signs, intervention):
    db, asked, found = signs
    for at, (name, (query, complaints, _)) in enumerate(asked.items()):
        scores = dict(db.rows(
            "SELECT train_id, score FROM pgrain.complain(%s, %s::text[], 1000, %s, '{\"k\": 9}') "
            "WHERE model = 'colour'", [query, complaints, intervention]))
        rows = [row for row in ROWS if row in scores]        # who is red is not made red
        assert len(rows) == (9 if intervention == "delete" else 6)
        told = np.array([-scores[row] for row in rows])
        true = np.array([found[intervention, row][at] for row in rows])
        assert np.corrcoef(told, true)[0, 1] > 0.99, (name, told, true)
        # A new label is no small change, and -log p bends; elsewhere it is exact but for 5 %.
        slope = told @ true / (told @ told)
        assert abs(slope - 1) < (0.05 if intervention == "delete" else 0.15), (name, slope)
