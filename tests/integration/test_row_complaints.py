"""Complaints about rows, and about cells of rows that are not there, through SQL."""

from __future__ import annotations

import psycopg
import pytest

ODD = ("SELECT id, pgrain.predict('colour', x) AS label FROM items "
       "WHERE pgrain.predict('colour', x) <> claim")
GROUPS = ("SELECT hour, count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'red' "
          "AND id BETWEEN 1 AND 12 GROUP BY hour")


def complain(database, query, complaint, **options):
    arguments = "".join(f", {name} => %({name})s" for name in options)
    kind = "text" if isinstance(complaint, str) else "text[]"
    return database.rows(f"SELECT * FROM pgrain.complain(%(q)s, %(c)s::{kind}{arguments})",
                         {"q": query, "c": complaint, **options})


def notices(database, *arguments, **options):
    heard, connection = [], database.connection

    def hear(diagnostic):
        heard.append(diagnostic.message_primary)

    connection.add_notice_handler(hear)
    try:
        return complain(database, *arguments, **options), heard
    finally:
        connection.remove_notice_handler(hear)


def there(database, item):
    """P(the item's predicted class is not its claim)."""
    return database.value("""
        SELECT 1 - (pgrain.predict_proba('colour', x))[array_position(m.classes, claim)]
        FROM items, pgrain.models m WHERE m.model = 'colour' AND id = %s""", [item])


def unsure(database, present):
    """An item in (or not in) ODD's result, the one that the model is least sure of."""
    return database.rows(f"""
        SELECT id FROM items WHERE x IS NOT NULL AND id < 1000
        AND (pgrain.predict('colour', x) <> claim) = {present}
        ORDER BY abs(0.5 - (pgrain.predict_proba('colour', x))[
            array_position(ARRAY['blue', 'green', 'red'], claim)]) LIMIT 1""")[0][0]


@pytest.mark.parametrize("present", [True, False])
def test_the_ranked_rows_move_the_row(small, present):
    """Deleting what `no row` (`a row`) ranks first, and retraining, makes the row less (more)
    likely: as the effect says, and not the other way round."""
    item = unsure(small, present)
    text = f"{'no' if present else 'a'} row WHERE id = {item}"
    rows = complain(small, ODD, text, top_k=3)
    assert len(rows) == 3 and all(row[5] > 0 for row in rows)
    assert all((row[6] < 0) == present for row in rows)
    before, version = there(small, item), small.value(
        "SELECT active_version FROM pgrain.model WHERE model = 'colour'")
    try:
        small.execute("SELECT pgrain.apply('colour', %s, 'delete')", [[row[3] for row in rows]])
        small.execute("CALL pgrain.train('colour')")
        after = there(small, item)
    finally:
        small.execute("SELECT pgrain.revert('colour')")
        small.execute("SELECT pgrain.activate('colour', %s)", [version])
    assert (after < before) == present
    assert after - before == pytest.approx(sum(row[6] for row in rows), rel=0.5)


def test_no_row_of_a_group(small):
    """-log P(absent) is a sum over the rows under the group, whatever their number."""
    hours = {hour for hour, _ in small.rows(GROUPS)}
    rows = complain(small, GROUPS, f"no row WHERE hour = {min(hours)}", top_k=5)
    assert len(rows) == 5
    assert complain(small, GROUPS, "no row", top_k=5) != rows


def test_a_row_that_is_possible_but_absent(small):
    query = ("SELECT id % 20 AS part, count(*) AS n FROM items WHERE id <= 40 "
             "AND pgrain.predict('colour', x) = 'red' GROUP BY id % 20")
    parts = {part for part, _ in small.rows(query)}
    rows = small.rows("SELECT output, relaxed FROM pgrain.provenance(%s, true)", [query])
    absent = max((relaxed, output["part"]) for output, relaxed in rows
                 if output["part"] not in parts)[1]
    by_row = complain(small, query, f"a row WHERE part = {absent}", top_k=240)
    by_count = complain(small, query, f"n >= 1 WHERE part = {absent}", top_k=240)
    # one asks for log P, the other for the expected count: much the same rows
    assert len({r[2] for r in by_row[:20]} & {r[2] for r in by_count[:20]}) >= 10
    assert complain(small, query, f"n <= 1 WHERE part = {absent}") == []


def test_what_holds_is_told_and_ranks_nothing(small):
    hours = {hour for hour, _ in small.rows(GROUPS)}
    for text in (f"a row WHERE hour = {min(hours)}", "no row WHERE n > 1000",
                 "no row WHERE hour = 99"):
        rows, heard = notices(small, GROUPS, text)
        assert rows == [] and any("is met" in line for line in heard), heard
        assert any("nothing is violated" in line for line in heard)


def test_rows_and_cells_hold_together(small):
    hours = sorted(hour for hour, _ in small.rows(GROUPS))
    both = complain(small, GROUPS, [f"no row WHERE hour = {hours[0]}",
                                    f"n too high WHERE hour = {hours[1]}"], top_k=240)
    parts = [{r[2]: r[5] for r in complain(small, GROUPS, text, top_k=240)} for text in (
        f"no row WHERE hour = {hours[0]}", f"n too high WHERE hour = {hours[1]}")]
    for row in both:
        assert row[5] == pytest.approx(parts[0][row[2]] + parts[1][row[2]], rel=1e-3, abs=1e-6)


def test_a_factorised_join_is_planned_anew_for_its_rows(small):
    query = ("SELECT l.hour, count(*) AS pairs FROM items l, items r WHERE l.id < 10 "
             "AND r.id BETWEEN 20 AND 30 "
             "AND pgrain.predict('colour', l.x) = pgrain.predict('colour', r.x) GROUP BY l.hour")
    cells = complain(small, query, "pairs too high WHERE hour = 1", top_k=5)
    assert len(complain(small, query, "no row WHERE hour = 1", top_k=5)) == 5
    # The complaint is about rows though a comment hides that from the session's own guess.
    assert len(complain(small, query, "no /* ! */ row WHERE hour = 1", top_k=5)) == 5
    assert complain(small, query, "pairs too high WHERE hour = 1", top_k=5) == cells


@pytest.mark.parametrize(("query", "text", "sqlstate"), [
    ("SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'red'", "no row",
     "22023"),
    (GROUPS, "a row WHERE hour = 99", "22023"),
    (GROUPS, "no row WHERE nothing = 1", "42703"),
])
def test_refused(small, query, text, sqlstate):
    with pytest.raises(psycopg.Error) as raised:
        complain(small, query, text)
    assert raised.value.sqlstate == sqlstate
