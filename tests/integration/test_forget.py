"""forget: nothing about the rows is left in tables, bundles or memory; everything else stays."""

from __future__ import annotations

import psycopg
import pytest

COUNT = "SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'red'"


def ranking(small, session=None, intervention="delete"):
    return (session or small.connection).execute(
        "SELECT train_key, score FROM pgrain.complain(%s, 'n too high'::text, 1000, %s)",
        [COUNT, intervention]).fetchall()


def everything(small) -> bytes:
    """All that the extension's tables hold, as text."""
    tables = [row[0] for row in small.rows(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE relkind = 'r' "
        "AND relnamespace = 'pgrain'::regnamespace")]
    return "\n".join(row[0] for table in tables for row in small.rows(
        f"SELECT t::text FROM {table} AS t"))


def test_nothing_is_left(small, worker):
    """A second version, a repair, edits, landmarks, a second worker: each had the rows."""
    small.execute("INSERT INTO train VALUES (770077, '{0.123456789, 9.87654321}', 'red'), "
                  "(770078, '{0.2233445566, 8.1122334455}', 'blue')")
    keys = ["770077", "770078"]
    small.execute("SELECT pgrain.create_intervention('colour', 'moved', "
                  "ARRAY['ARRAY[x[1] + 1, x[2]]'])")
    small.execute("SELECT pgrain.create_intervention('colour', 'zero', library => 'constant', "
                  "options => '{\"elements\": [1], \"value\": 0}')")
    small.execute("SELECT pgrain.apply('colour', '{770077}', 'moved')")
    small.execute("CALL pgrain.train('colour')")
    small.execute("SELECT pgrain.revert('colour')")
    small.execute("CALL pgrain.train('colour')")
    small.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
    small.execute("SELECT pgrain.apply('colour', '{770077}', 'delete')")
    small.execute("SELECT pgrain.apply('colour', '{770078}', 'relabel:red')")
    before = {key: score for key, score in ranking(small)}
    assert set(keys) <= set(before)
    assert small.value("SELECT pgrain.cluster('colour', '770077')") is not None
    texts = [key.encode().hex() for key in keys]
    assert all(text in everything(small) for text in texts)
    digests = [bytes(row[0]).hex() for row in small.rows(
        "SELECT substr(sha256((SELECT secret FROM pgrain.installation) || array_send(x)), 1, 16) "
        "FROM train WHERE id >= 770077")]
    assert all(digest in everything(small) for digest in digests)

    assert small.value("SELECT pgrain.forget('colour', %s)", [[*keys, "no such"]]) == 2
    left = everything(small)
    for trace in (*texts, *digests, *keys):
        assert trace not in left
    after = {key: score for key, score in ranking(small)}
    assert set(after) == set(before) - set(keys)
    assert all(after[key] == pytest.approx(before[key], rel=1e-5, abs=1e-8) for key in after)
    for intervention in ("any", "moved", "zero", "relabel"):
        assert not set(keys) & {row[0] for row in ranking(small, None, intervention)}
    assert small.value("SELECT pgrain.cluster('colour', '770077')") is None
    assert small.value("SELECT pgrain.cluster('colour', '3')") is not None
    assert small.value("SELECT count(*) FROM pgrain.edits") == 0
    assert small.rows("SELECT model, n_rows FROM pgrain.erasures") == [("colour", 2)]
    assert small.value("SELECT n_rows FROM pgrain.models") == 242     # what it was trained on
    small.execute("CALL pgrain.precompute('colour', '{\"only\": \"interventions\"}')")
    assert not set(keys) & {row[0] for row in ranking(small, None, "moved")}
    assert small.value("SELECT pgrain.forget('colour', %s)", [keys]) == 0


def test_another_worker_forgets_as_well(small, worker):
    """It had the version in memory; within a few heartbeats it answers without the row."""
    import time
    session = small.connect()
    assert "5" in dict(ranking(small, session))
    other = worker(small)
    second = small.connect()
    assert second.execute("SELECT count(*) FROM pgrain.workers WHERE alive").fetchone()[0] == 2
    small.execute("SELECT pgrain.forget('colour', '{5}')")
    for _ in range(40):
        if "5" not in dict(ranking(small, session)):
            break
        time.sleep(0.25)
    assert "5" not in dict(ranking(small, session))
    assert "5" not in dict(ranking(small, second))
    other.stop()


def test_who_may_and_when(small, as_role):
    analyst = as_role(small, "curious", "user")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        analyst.execute("SELECT pgrain.forget('colour', '{1}')")
    admin = as_role(small, "officer", "admin")
    assert admin.execute("SELECT pgrain.forget('colour', '{1}')").fetchone() == (1,)
    assert small.value("SELECT erased_by FROM pgrain.erasures ORDER BY erasure DESC LIMIT 1"
                       ) == "officer"
    with pytest.raises(psycopg.errors.UndefinedObject):
        small.execute("SELECT pgrain.forget('nobody', '{1}')")
    with small.connect() as session, session.transaction(force_rollback=True):
        session.execute("SELECT pgrain.apply('colour', '{2}', 'delete')")
        with pytest.raises(psycopg.errors.ActiveSqlTransaction):
            session.execute("SELECT pgrain.forget('colour', '{2}')")


def test_what_was_forgotten_is_to_be_deleted_before_training(small):
    """While the row is in the table, the next training would learn it again: the hint says so."""
    small.execute("INSERT INTO train VALUES (770079, '{0.1, 9.8}', 'red')")
    small.execute("CALL pgrain.train('colour')")
    small.execute("CALL pgrain.precompute('colour')")
    small.execute("SELECT pgrain.forget('colour', '{770079}')")
    small.execute("SELECT pgrain.apply('colour', '{1}', 'delete')")
    hint, forgotten = small.rows("SELECT hint, forgotten_rows FROM pgrain.staleness "
                                 "WHERE model = 'colour'")[0]
    assert forgotten == 1
    assert "DELETE" in hint and hint.endswith("first, then CALL pgrain.train('colour')")
    assert "1 forgotten since" in small.value(
        "SELECT detail FROM pgrain.doctor() WHERE what = 'model colour'")
    small.execute("DELETE FROM train WHERE id = 770079")
    small.execute("SELECT pg_sleep(0.01)")
    small.execute("CALL pgrain.precompute('colour')")      # looks at the table
    assert small.rows("SELECT hint, new_rows FROM pgrain.staleness WHERE model = 'colour'") == [
        ("CALL pgrain.train('colour')", 0)]
    small.execute("SELECT pgrain.revert('colour')")


def test_a_rollback_brings_nothing_back_and_is_told(small):
    with psycopg.connect(small.dsn()) as connection:
        notes = []
        connection.add_notice_handler(lambda notice: notes.append(notice.message_primary))
        connection.execute("SELECT 1")
        connection.execute("SELECT pgrain.forget('colour', '{\"no such\"}')")
        connection.rollback()
    assert [note for note in notes if "also if this transaction is rolled back" in note]
    with psycopg.connect(small.dsn(), autocommit=True) as connection:
        notes.clear()
        connection.add_notice_handler(lambda notice: notes.append(notice.message_primary))
        connection.execute("SELECT pgrain.forget('colour', '{\"no such\"}')")
    assert notes == []
