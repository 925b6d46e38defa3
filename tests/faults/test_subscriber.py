"""A subscriber of logical replication: rows are applied to an attached and watched table without a
statement, so no trigger of pgrain's fires. Answers are right as soon as they are there."""

from __future__ import annotations

import sys
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
from watch_checks import agree_in

QUERY = ("SELECT hour, count(*) AS n FROM stock WHERE pgrain.predict('colour', x) = 'red' "
         "GROUP BY hour")
ROWS = ("SELECT i AS id, ARRAY[cos(i * 3.1) * (1 + i % 3), sin(i * 2.3) * 2 - i % 3] AS x, "
        "i % 4 AS hour FROM generate_series({}) AS i")
TABLE = "CREATE TABLE stock (id integer PRIMARY KEY, x float8[], hour integer)"
# Beyond what was seen before: nothing that is stored answers for it.
CHANGES = [
    "INSERT INTO stock " + ROWS.format("201, 320"),
    "UPDATE stock SET hour = hour + 1, x = ARRAY[x[1] + 0.125, x[2]] WHERE id % 3 = 0",
    "DELETE FROM stock WHERE id % 5 = 0",
    "BEGIN; TRUNCATE stock; INSERT INTO stock " + ROWS.format("401, 460") + "; COMMIT",
    "UPDATE stock SET x = NULL WHERE id % 7 = 0",
]


@pytest.fixture
def pair(own_cluster, own_worker, model_in):
    """(publisher, subscriber): a table here, the same there, attached and watched."""
    publisher, subscriber = own_cluster(wal_level="logical"), own_cluster()
    for cluster in (publisher, subscriber):
        cluster.ensure_database("shop")
    with publisher.connect("shop") as connection:
        connection.execute(TABLE)
        connection.execute("INSERT INTO stock " + ROWS.format("1, 200"))
        connection.execute("CREATE PUBLICATION changes FOR TABLE stock")
    with subscriber.connect("shop") as connection:
        subscriber.worker = own_worker(subscriber, "shop")
        model_in(connection)
        connection.execute(TABLE)
        connection.execute("INSERT INTO stock " + ROWS.format("-40, -1"))
        connection.execute("CALL pgrain.train('colour')")
        connection.execute("CALL pgrain.precompute('colour', '{\"pairs\": 6}')")
        connection.execute("CALL pgrain.attach('colour', 'stock')")
        connection.execute("CALL pgrain.watch('reds', %s)", [QUERY])
    return publisher, subscriber


def right(connection: psycopg.Connection) -> None:
    """Of one snapshot: the watch, the query's provenance, the query, and what is complained of."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        counts = dict(connection.execute(QUERY).fetchall())
        for name in ("reds", QUERY):
            assert counts == {row[0]: row[1] for row in connection.execute(
                "SELECT (output ->> 'hour')::int, value FROM pgrain.provenance(%s)", [name])}
        agree_in(connection, "reds", QUERY)
        standing, scratch = (connection.execute(
            "SELECT train_id, score FROM pgrain.complain(%s, 'n too high', 20)", [name]).fetchall()
            for name in ("reds", QUERY))
        assert [row[0] for row in standing] == [row[0] for row in scratch]
        assert [row[1] for row in standing] == pytest.approx([row[1] for row in scratch], rel=1e-4)


def applied(source: psycopg.Connection):
    """Whether the subscriber has applied all that is written by now."""
    written = source.execute("SELECT pg_current_wal_lsn()").fetchone()[0]
    return lambda: source.execute("SELECT bool_and(replay_lsn >= %s) FROM pg_stat_replication",
                                  [written]).fetchone()[0]


def test_applied_rows_are_counted_at_once(pair, until):
    publisher, subscriber = pair
    source, here = publisher.connect("shop"), subscriber.connect("shop")
    right(here)
    assert here.execute("SELECT current FROM pgrain.watches").fetchone()[0]
    here.execute(f"CREATE SUBSCRIPTION sub CONNECTION '{publisher.dsn('shop')}' "
                 "PUBLICATION changes")
    until(lambda: here.execute("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"
                               ).fetchone()[0], "the first copy is there")
    assert here.execute("SELECT count(*) FROM stock").fetchone() == (240,)
    right(here)
    here.execute("DELETE FROM stock WHERE id < 0")
    for change in CHANGES:
        source.execute(change)
        until(applied(source), "it is applied")
        right(here)
        rows = "SELECT id, x, hour FROM stock ORDER BY id"
        assert here.execute(rows).fetchall() == source.execute(rows).fetchall()

    # Such a table is watched no more, and is none to be watched, as long as that goes on.
    assert not here.execute("SELECT current FROM pgrain.watches").fetchone()[0]
    with pytest.raises(errors.FeatureNotSupported, match="stock cannot be watched") as caught:
        here.execute("CALL pgrain.watch('more', %s)", [QUERY])
    assert "A subscription writes to it" in caught.value.diag.message_detail
    until(lambda: here.execute("SELECT stored_values >= (SELECT count(DISTINCT x) FROM stock) "
                               "FROM pgrain.attached").fetchone()[0],
          "what was applied is stored, though nothing hinted at it", 100)
    here.execute("DROP SUBSCRIPTION sub")
    until(lambda: here.execute("SELECT current FROM pgrain.watches").fetchone()[0],
          "the watch is kept up again", 100)
    here.execute("INSERT INTO stock " + ROWS.format("501, 520"))
    right(here)
    assert here.execute("SELECT current FROM pgrain.watches").fetchone()[0]
