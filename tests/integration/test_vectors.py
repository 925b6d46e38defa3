"""Complaint vectors: the same ranking bit for bit; all that is not the same is refused."""

from __future__ import annotations

import psycopg
import pytest

REPORT = ("SELECT hour, count(*) AS n FROM items "
          "WHERE pgrain.predict('colour', x) = 'red' GROUP BY hour")
TEXT = "n <= 3 WHERE hour = 1"


@pytest.fixture(scope="module")
def vector(small):
    return small.value("SELECT pgrain.complaint_vector(%s, %s)", [REPORT, TEXT])


def rank(database, vector, options="{}", intervention="delete", model="colour"):
    return database.rows("SELECT * FROM pgrain.rank(%s, %s, 50, %s, %s)",
                         [model, vector, intervention, options])


@pytest.mark.parametrize(("intervention", "options"), [
    ("delete", "{}"), ("relabel", "{}"), ("delete", '{"k": 5, "damping": 0.1}'),
    ("delete", '{"normalize": "relatif"}')])
def test_it_ranks_bit_for_bit_as_the_complaint_does(small, vector, intervention, options):
    complained = small.rows("SELECT * FROM pgrain.complain(%s, %s, 50, %s, %s)",
                            [REPORT, TEXT, intervention, options])
    assert rank(small, vector, options, intervention) == complained
    assert len(complained) == 50


def test_it_is_small_and_says_nothing_of_the_data(small, vector):
    assert len(vector) < 600        # 2 x 9 numbers and a header
    assert b"items" not in vector and b"hour" not in vector


def test_several_complaints_at_once_are_another_vector(small, vector):
    both = small.value("SELECT pgrain.complaint_vector(%s, %s::text[])",
                       [REPORT, [TEXT, "n too high WHERE hour = 2"]])
    assert rank(small, both) != rank(small, vector)


def test_what_holds_has_no_vector(small):
    assert small.value("SELECT pgrain.complaint_vector(%s, 'n <= 1000')", [REPORT]) is None


@pytest.mark.parametrize("damage", [
    lambda v: v[:-1], lambda v: v[:40], lambda v: v[:4], lambda v: v + b"x",
    lambda v: v[:-60] + bytes([v[-60] ^ 1]) + v[-59:], lambda v: v[:20] + b"?" + v[21:]])
def test_a_damaged_vector_is_refused(small, vector, damage):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="truncated or has been changed"):
        rank(small, damage(vector))


def test_what_is_no_vector_is_refused(small):
    for nothing in (b"", b"hello, here is a vector"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="no complaint vector"):
            rank(small, nothing)


def test_another_version_is_refused_and_named(small, vector):
    before = small.value("SELECT active_version FROM pgrain.model WHERE model = 'colour'")
    try:
        small.execute("SELECT pgrain.apply('colour', '{1,2,3}', 'delete')")
        small.execute("CALL pgrain.train('colour')")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            rank(small, vector)
        small.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
        with pytest.raises(psycopg.errors.InvalidParameterValue) as raised:
            rank(small, vector)
        assert f'made with version {before} of "colour"' in raised.value.diag.message_detail
    finally:
        small.execute("SELECT pgrain.revert('colour')")
        small.execute("SELECT pgrain.activate('colour', %s)", [before])
    assert len(rank(small, vector)) == 50


def test_ranking_takes_the_right_to_read_the_training_rows(small, vector, as_role):
    analyst = as_role(small, "analyst", "user")
    small.execute("GRANT SELECT ON items TO analyst")
    made = analyst.execute("SELECT pgrain.complaint_vector(%s, %s)", [REPORT, TEXT]).fetchone()[0]
    assert made == vector
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        analyst.execute("SELECT * FROM pgrain.rank('colour', %s)", [made])
    modeller = as_role(small, "modeller", "admin")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="train"):
        modeller.execute("SELECT * FROM pgrain.rank('colour', %s)", [made])
    small.execute("GRANT SELECT ON train TO modeller")
    assert len(modeller.execute("SELECT * FROM pgrain.rank('colour', %s)", [made]).fetchall()) \
        == 100
