"""CALL repair: it edits, trains, asks again; every round is recorded and can be undone."""

from __future__ import annotations

import psycopg
import pytest

COUNT = "SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'blue'"


def active(database):
    return database.value("SELECT active_version FROM pgrain.model WHERE model = 'colour'")


@pytest.fixture
def undone(small):
    """As `small`; edits and versions are put back after the test."""
    version = active(small)
    heard = []
    small.connection.add_notice_handler(lambda d: heard.append(d.message_primary))
    small.heard = heard
    yield small
    small.execute("SELECT pgrain.revert('colour')")
    small.execute("SELECT pgrain.activate('colour', %s)", [version])


@pytest.mark.parametrize("intervention", ["delete", "relabel"])
def test_it_repairs_and_says_so(undone, intervention):
    before, version = undone.value(COUNT), active(undone)
    undone.execute("CALL pgrain.repair(%s, %s, %s, %s)",
                   [intervention, COUNT, f"n <= {before - 6}", intervention])
    after = undone.value(COUNT)
    assert after <= before - 6
    rounds = undone.rows("""
        SELECT round, model, rows_edited, before, predicted, low, high, actual, holds, seconds,
               version_before, version FROM pgrain.repair_round WHERE name = %s ORDER BY round""",
                         [intervention])
    last = rounds[-1]
    assert [row[0] for row in rounds] == list(range(1, len(rounds) + 1))
    assert rounds[0][3] == before and rounds[0][10] == version
    assert last[7] == after and last[8] is True and last[9] > 0
    assert all(not row[8] for row in rounds[:-1])
    assert last[11] == active(undone) != version
    assert sum(row[2] for row in rounds) == undone.value("SELECT count(*) FROM pgrain.edits")
    assert abs(last[4] - last[7]) <= 2 and last[5] <= last[4] <= last[6]
    assert any("the complaint holds after" in line for line in undone.heard)
    # the way back that it names
    back = next(line for line in undone.heard if "to go back: " in line).split("to go back: ")[1]
    for statement in back.split("; "):
        undone.execute(statement)
    assert undone.value(COUNT) == before and active(undone) == version


def test_a_budget_of_rows_and_rounds_is_kept(undone):
    before = undone.value(COUNT)
    undone.execute("CALL pgrain.repair('small', %s, 'n <= 0', 'delete', "
                   "'{\"rows\": 7, \"rounds\": 2, \"precompute\": {\"pairs\": 9}}')", [COUNT])
    rounds = undone.rows("SELECT rows_edited, holds FROM pgrain.repair_round "
                         "WHERE name = 'small' ORDER BY round")
    assert 1 <= len(rounds) <= 2 and not any(holds for _, holds in rounds)
    assert sum(rows for rows, _ in rounds) == undone.value(
        "SELECT count(*) FROM pgrain.edits") <= 7
    assert undone.value(COUNT) < before
    assert any("does not hold after" in line and "to go back" in line for line in undone.heard)


def test_a_second_round_goes_on_from_the_first(undone):
    """One row at a time: each round plans anew on the version that the one before has trained."""
    before = undone.value(COUNT)
    undone.execute("CALL pgrain.repair('twice', %s, %s, 'delete', "
                   "'{\"rounds\": 1, \"rows\": 2, \"precompute\": {\"pairs\": 9}}')",
                   [COUNT, f"n <= {before - 6}"])
    undone.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
    undone.execute("CALL pgrain.repair('twice', %s, %s, 'delete', "
                   "'{\"precompute\": {\"pairs\": 9}}')", [COUNT, f"n <= {before - 6}"])
    rounds = undone.rows("SELECT round, before, actual, version_before, version, holds "
                         "FROM pgrain.repair_round WHERE name = 'twice' ORDER BY round")
    assert len(rounds) >= 2 and rounds[0][2] == rounds[1][1] and rounds[0][4] == rounds[1][3]
    assert rounds[-1][5] and undone.value(COUNT) <= before - 6


def test_what_holds_is_left_alone(undone):
    version = active(undone)
    undone.execute("CALL pgrain.repair('nothing', %s, 'n <= 1000')", [COUNT])
    assert active(undone) == version
    assert undone.value("SELECT count(*) FROM pgrain.edits") == 0
    assert any("holds already" in line for line in undone.heard)


@pytest.mark.parametrize(("arguments", "sqlstate"), [
    (["x", COUNT, "n too high", "delete", "{}"], "22023"),
    (["x", COUNT, "m <= 1", "delete", "{}"], "42703"),
    (["x", COUNT, "n <= 1", "delete", '{"rounds": 0}'], "22023"),
    (["x", COUNT, "n <= 1", "delete", '{"train": 1}'], "22023"),
    ([None, COUNT, "n <= 1", "delete", "{}"], "22023"),
    (["x", COUNT, "n <= 1", "explode", "{}"], "22023"),
])
def test_refused_before_anything_is_edited(undone, arguments, sqlstate):
    version = active(undone)
    with pytest.raises(psycopg.Error) as raised:
        undone.execute("CALL pgrain.repair(%s, %s, %s, %s, %s)", arguments)
    assert raised.value.sqlstate == sqlstate
    assert active(undone) == version
    assert undone.value("SELECT count(*) FROM pgrain.edits") == 0


def test_not_inside_a_transaction_block(undone):
    with pytest.raises(psycopg.errors.ActiveSqlTransaction), undone.connection.transaction():
        undone.execute("CALL pgrain.repair('x', %s, 'n <= 1')", [COUNT])


def test_an_ordinary_user_cannot(undone, as_role):
    analyst = as_role(undone, "analyst", "user")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        analyst.execute("CALL pgrain.repair('x', %s, 'n <= 1')", [COUNT])
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        analyst.execute("SELECT * FROM pgrain.repair_round")
