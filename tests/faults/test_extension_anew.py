"""DROP EXTENSION and CREATE EXTENSION under a living worker and a living session."""

from __future__ import annotations

import time

PREDICT = "SELECT id, pgrain.predict('colour', x) FROM items WHERE x IS NOT NULL ORDER BY id"


def test_worker_and_sessions_find_their_way_back(small):
    session = small.connect()
    before = session.execute(PREDICT).fetchall()
    before_that = len(small.worker.log_tail(10**6))
    small.execute("DROP EXTENSION pgrain")
    time.sleep(5)       # it waits, and does not say so every second
    said = small.worker.log_tail(10**6)[before_that:]
    assert said.count("has no extension pgrain") == 1, said
    assert said.count("jobs wait for the database") <= 1, said
    small.execute("CREATE EXTENSION pgrain")
    deadline = time.monotonic() + 30
    while not small.value("SELECT count(*) FROM pgrain.workers"):
        assert time.monotonic() < deadline, "the worker has not registered again"
        time.sleep(0.1)
    # Another model of the same name; version numbers begin at 1 again.
    small.execute("CREATE TABLE other AS SELECT id, x, CASE label WHEN 'red' THEN 'green' "
                  "ELSE 'red' END AS label FROM train")
    small.execute("SELECT pgrain.create_model('colour', 'other', 'id', '{x}', 'label', "
                  "'logistic_regression')")
    small.execute("CALL pgrain.train('colour')")
    after = small.connect().execute(PREDICT).fetchall()
    assert after != before
    assert session.execute(PREDICT).fetchall() == after
