"""How many connections a worker holds: what docs/user/operations.md tells whoever sets
max_connections."""

from __future__ import annotations

HELD = ("SELECT replace(application_name, 'pgrain worker: ', ''), count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name LIKE 'pgrain worker%' GROUP BY 1")
IDLE = {"jobs": 1, "looks": 1}


def test_a_worker_holds_two_connections_and_more_only_while_it_needs_them(
        database, own_worker, model_in, queries, until):
    shop = database()
    own_worker(shop.cluster, shop.name)
    held = lambda: dict(shop.rows(HELD))    # noqa: E731
    until(lambda: held() == IDLE, "a worker that has just begun holds two")

    model_in(shop.connection, rows=600, architecture="mlp", options='{"epochs": 4000}')
    shop.execute("CALL pgrain.train('colour', wait => false)")
    until(lambda: held() == {**IDLE, "progress of a job": 1}, "one more while a job runs")
    shop.execute("SELECT pgrain.cancel(max(job)) FROM pgrain.jobs")
    until(lambda: held() == IDLE, "two again")

    shop.execute("CALL pgrain.train('colour', '{\"epochs\": 2}')")
    shop.execute("CALL pgrain.precompute('colour', '{\"pairs\": 4}')")
    shop.execute("CALL pgrain.attach('colour', 'items')")
    shop.execute("CALL pgrain.watch('reds', %s)", [queries["report"].partition(" ORDER")[0]])
    assert shop.rows(queries["complain"])
    shop.execute("INSERT INTO items SELECT -i, ARRAY[i / 7.0, -i / 3.0], 1 "
                 "FROM generate_series(1, 20) AS i")
    until(lambda: held() == {**IDLE, "requests": 1, "watches": 1, "catching up": 1},
          "one for each thing that there is to do")
    # With a watch there is always something to look at; the others are given back.
    until(lambda: held() == {**IDLE, "watches": 1}, "what is not needed goes")
    shop.execute("SELECT pgrain.unwatch('reds')")
    until(lambda: held() == IDLE, "and without a watch two again")
    assert shop.rows(queries["complain"]), "answers go on"
