"""CALL pgrain.train: where it starts from."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def shapes(module_database, worker):
    """A model over numbers and categories that takes many steps from nothing."""
    database = module_database()
    worker(database)
    database.execute("CREATE TABLE train AS SELECT i AS id, (i * 37 % 100)::float8 AS size, "
                     "(ARRAY['a', 'b', 'c'])[1 + i % 3] AS kind, "
                     "CASE WHEN i * 37 % 100 > 50 + 10 * (i % 3) THEN 'yes' WHEN i % 5 = 0 "
                     "THEN 'maybe' ELSE 'no' END AS label FROM generate_series(1, 300) AS i")
    database.execute("SELECT pgrain.create_model('m', 'train', 'id', '{size, kind}', 'label', "
                     "'logistic_regression')")
    return database


def last(database):
    return database.rows("SELECT message, metrics ->> 'start', (metrics ->> 'epochs')::int, "
                         "v.classes, (SELECT encoder FROM pgrain.model_version e "
                         "WHERE e.version = v.version) FROM pgrain.versions v, pgrain.jobs j "
                         "WHERE v.active ORDER BY job DESC LIMIT 1")[0]


def test_warm_start_goes_on_from_the_active_version(shapes):
    shapes.execute("CALL pgrain.train('m', '{\"warm_start\": true}')")
    message, start, cold, classes, encoder = last(shapes)
    assert start == "fresh weights: no version is active" and start in message
    shapes.execute("SELECT pgrain.apply('m', '{5, 10, 15}', 'delete')")
    shapes.execute("CALL pgrain.train('m', '{\"warm_start\": true}')")
    message, start, warm, _, again = last(shapes)
    assert start.startswith("started from version") and start in message
    assert warm < cold
    assert again == encoder            # deleted rows move no mean: weights keep their meaning
    p = shapes.value("SELECT pgrain.predict_proba('m', '{\"size\": 60, \"kind\": \"b\"}'::jsonb)")
    shapes.execute("CALL pgrain.train('m')")
    _, start, _, _, other = last(shapes)
    assert start == "fresh weights" and other != encoder
    q = shapes.value("SELECT pgrain.predict_proba('m', '{\"size\": 60, \"kind\": \"b\"}'::jsonb)")
    assert p == pytest.approx(q, abs=0.02)      # a convex model ends where it ends


def test_warm_start_keeps_a_class_that_lost_its_rows(shapes):
    shapes.execute("SELECT pgrain.apply('m', array_agg(id::text), 'delete') FROM train "
                   "WHERE label = 'maybe'")
    shapes.execute("CALL pgrain.train('m', '{\"warm_start\": true}')")
    assert last(shapes)[3] == ["maybe", "no", "yes"]
    shapes.execute("CALL pgrain.train('m')")
    assert last(shapes)[3] == ["no", "yes"]
    shapes.execute("SELECT pgrain.revert('m')")
    shapes.execute("CALL pgrain.train('m', '{\"warm_start\": true}')")
    assert 'does not know class "maybe"' in last(shapes)[1]
    shapes.execute("CALL pgrain.train('m', "
                   "'{\"warm_start\": true, \"categorical\": [\"size\"]}')")
    assert "other options" in last(shapes)[1]


def test_hardly_any_alpha_on_separable_rows(shapes):
    """The optimum is far away and is not reached, which is said; a plan on it still works."""
    shapes.execute("CREATE TABLE parted AS SELECT i AS id, i::float8 AS a, (i > 50)::text AS label "
                   "FROM generate_series(1, 100) AS i")
    shapes.execute("SELECT pgrain.create_model('parted', 'parted', 'id', '{a}', 'label', "
                   "'logistic_regression', '{\"alpha\": 1e-9}')")
    shapes.execute("CALL pgrain.train('parted')")
    assert "not at the optimum" in last(shapes)[0]
    shapes.execute("CALL pgrain.precompute('parted')")
    rows = shapes.rows("SELECT predicted FROM pgrain.plan_repair($$ SELECT count(*) AS n "
                       "FROM parted t WHERE pgrain.predict('parted', t) = 'true' $$, 'n <= 45', "
                       "'relabel')")
    assert rows and rows[-1][0] < 50


def test_edits_taken_back_make_a_version_stale(shapes):
    """Also if none is left to be counted, one of several, one applied anew, and when an older
    version becomes active; not what `forget` erases."""
    def state():
        n, problem, hint = shapes.rows("SELECT edits_since_training, problem, hint "
                                       "FROM pgrain.staleness WHERE model = 'm'")[0]
        return (n, problem, hint) if "edits" in (problem or "") else (n, None, None)

    def revert(keys=None):
        said = []
        with shapes.connect() as session:
            session.add_notice_handler(lambda notice: said.append(notice.message_primary))
            session.execute("SELECT pgrain.revert('m', %s::text[])", [keys])
        return said

    revert()
    shapes.execute("CALL pgrain.train('m')")
    plain = shapes.value("SELECT version FROM pgrain.models WHERE model = 'm'")
    current = (0, None, None)           # as far as edits go
    assert state() == current
    shapes.execute("SELECT pgrain.apply('m', '{1, 2, 3}', 'delete')")
    assert state() == (3, "edits since it was trained", "CALL pgrain.train('m')")
    assert revert(["3"]) == []                  # the version knows nothing of it
    shapes.execute("SELECT pgrain.apply('m', '{3}', 'delete')")
    shapes.execute("CALL pgrain.train('m')")
    assert state() == current
    version = shapes.value("SELECT version FROM pgrain.models WHERE model = 'm'")
    assert revert(["2", "100"]) == [
        '1 of the keys have no edit, so nothing is taken back for them: "100"',
        f"version {version} was trained with 1 of the edits taken back; they count no more from "
        "the next CALL pgrain.train('m')"]
    taken_back = "edits taken back since it was trained"
    assert state() == (1, taken_back, "CALL pgrain.train('m')")
    shapes.execute("SELECT pgrain.forget('m', '{1}')")
    first = ("Rows that were forgotten are learned again while they are in the table: DELETE them "
             "from train first, then CALL pgrain.train('m')")
    assert state() == (1, taken_back, first)
    assert len(revert()) == 1
    assert state() == (2, taken_back, first)
    shapes.execute("SELECT pgrain.activate('m', %s)", [plain])
    assert state() == current                   # it was trained without any
    shapes.execute("SELECT pgrain.activate('m', %s)", [version])
    assert state()[1] == taken_back
    shapes.execute("CALL pgrain.train('m')")
    assert state() == current
