"""kill -9 of the worker at random moments of every job: a new one ends it, and nobody ever sees a
half of anything."""

from __future__ import annotations

import os
import random
import threading
import time

import psycopg
import pytest

SEED = int(os.environ.get("PGRAIN_TEST_SEED", "8"))
KILLS = 3


@pytest.fixture
def shop(database, own_worker, model_in):
    """A model whose jobs take a second or two each."""
    it = database()
    it.worker = own_worker(it.cluster, it.name)
    model_in(it.connection, rows=3000, architecture="mlp",
             options='{"hidden": [64], "epochs": 30}')
    it.execute("CALL pgrain.train('colour')")
    it.execute("CALL pgrain.precompute('colour', '{\"pairs\": 8}')")
    it.execute("CALL pgrain.attach('colour', 'items')")
    return it


def whole(shop) -> None:
    """What must hold at any moment: the active version is ready, complete, and its attached values
    are stored; so is the active spectrum. (A precompute writes the values again before it drops the
    old chunks, so a value may be stored twice: readers go by its digest.)"""
    row = shop.rows("""
        SELECT v.ready, v.n_parameters, v.n_rows, (SELECT count(*) FROM pgrain.version_chunk c
               WHERE c.version = v.version AND c.kind = 'parameters') AS parts,
               (SELECT count(DISTINCT substr(c.digests, 1 + 16 * number, 16))
                FROM pgrain.prediction_chunk c, generate_series(0, c.n_values - 1) number
                WHERE c.version = v.version),
               s.ready, (SELECT count(*) FROM pgrain.spectrum_chunk c
                         WHERE c.spectrum = s.spectrum AND c.kind = 'training')
        FROM pgrain.model m JOIN pgrain.model_version v ON v.version = m.active_version
        LEFT JOIN pgrain.spectrum s ON s.spectrum = v.active_spectrum""")[0]
    assert row[0] is True and row[1] > 0 and row[2] == 3000 and row[3] == 1
    assert row[4] == shop.value("SELECT count(DISTINCT x) FROM items")
    assert row[5] in (None, True) and (row[5] is None or row[6] == 1)


@pytest.mark.parametrize("kind", ["train", "precompute", "attach"])
def test_jobs_end_as_if_nothing_had_happened(shop, queries, until, kind):
    rng = random.Random(f"{SEED} {kind}")
    call = {"train": "CALL pgrain.train('colour', wait => false)",
            "precompute": "CALL pgrain.precompute('colour', '{\"pairs\": 8}', wait => false)",
            "attach": "CALL pgrain.attach('colour', 'items', wait => false)"}[kind]
    report, complaint = shop.rows(queries["report"]), shop.rows(queries["complain"])
    if kind == "attach":
        shop.execute("SELECT pgrain.detach('colour', 'items')")
    started = time.monotonic()
    if kind != "attach":   # how long it takes, undisturbed
        shop.execute(call.replace(", wait => false", ""))
    usual = time.monotonic() - started
    shop.execute(call)
    job = shop.value("SELECT max(job) FROM pgrain.jobs")
    for _ in range(KILLS):
        time.sleep(rng.uniform(0, max(usual, 0.3)))
        shop.worker.kill()
        if kind != "attach":
            whole(shop)
        state = shop.value("SELECT state FROM pgrain.jobs WHERE job = %s", [job])
        shop.worker.start()
        if state == "succeeded":
            break
    until(lambda: shop.value("SELECT state NOT IN ('queued', 'running') FROM pgrain.jobs "
                             "WHERE job = %s", [job]), "the job ends")
    assert shop.value("SELECT state FROM pgrain.jobs WHERE job = %s", [job]) == "succeeded"
    assert shop.value("SELECT count(*) FROM pgrain.model_version WHERE job = %s", [job]) == (
        kind == "train")   # one version, not one an attempt
    assert shop.value("SELECT count(*) FROM pgrain.model_version WHERE NOT ready") == 0
    assert shop.value("SELECT count(*) FROM pgrain.spectrum WHERE NOT ready") == 0
    if kind == "train":
        shop.execute("CALL pgrain.precompute('colour', '{\"pairs\": 8}')")
    whole(shop)
    # The same rows and the same seed make the same model, so everything is as it was.
    assert shop.rows(queries["report"]) == report
    again = shop.rows(queries["complain"])
    assert [row[0] for row in again[:10]] == [row[0] for row in complaint[:10]]
    assert [row[1] for row in again] == pytest.approx([row[1] for row in complaint], rel=1e-3)


def test_a_job_that_had_ended_but_for_its_row_is_not_done_again(small, until):
    """The worker died between making the version active and saying so: no second version."""
    small.execute("CALL pgrain.train('colour')")
    version, job = small.rows("SELECT max(version), max(job) FROM pgrain.model_version")[0]
    small.execute("SELECT pgrain.activate('colour', (SELECT min(version) FROM pgrain.versions))")
    small.execute("UPDATE pgrain.job SET state = 'running', finished_at = NULL WHERE job = %s",
                  [job])
    until(lambda: small.value("SELECT state FROM pgrain.jobs WHERE job = %s", [job])
          == "succeeded", "it is taken up")
    assert small.value("SELECT max(version) FROM pgrain.model_version") == version
    assert small.value("SELECT version FROM pgrain.models") == version


def test_complaints_are_answered_right_or_not_at_all(shop, queries):
    """Sessions complain on and on while their worker is killed under them: each answer is the right
    one, each failure says that the worker is not reachable, and then it goes on."""
    expected = shop.rows(queries["complain"])
    stop, wrong, answers, failures = threading.Event(), [], [0], []

    def complain():
        with shop.cluster.connect(shop.name) as session:
            while not stop.is_set():
                try:
                    rows = session.execute(queries["complain"]).fetchall()
                except psycopg.Error as error:
                    failures.append(error.sqlstate)
                    time.sleep(0.02)
                    continue
                answers[0] += 1
                if [row[0] for row in rows] != [row[0] for row in expected]:
                    wrong.append(rows)
    threads = [threading.Thread(target=complain) for _ in range(3)]
    for thread in threads:
        thread.start()
    rng = random.Random(SEED)
    for _ in range(KILLS):
        time.sleep(rng.uniform(0.2, 1.0))
        shop.worker.kill()
        shop.worker.start()
    before = answers[0]
    time.sleep(1.5)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert answers[0] > before, "nobody is answered after the restart"
    assert set(failures) <= {"08006"}, set(failures)


def test_a_killed_training_goes_on_after_its_last_epoch(shop, until):
    """To the same weights, bit for bit; and nothing of what it kept stays behind."""
    call = "CALL pgrain.train('colour', '{\"epochs\": %s}', wait => %s)"
    size = ("SELECT coalesce(sum(octet_length(data)), 0) FROM pgrain.version_chunk "
            "WHERE kind = 'checkpoint'")
    weights = ("SELECT c.data, metrics ->> 'resumed_after' FROM pgrain.version_chunk c "
               "JOIN pgrain.model_version v USING (version) WHERE kind = 'parameters' "
               "ORDER BY version DESC LIMIT 1")
    shop.execute(call % (100, "true"))      # compiles
    started = time.monotonic()
    shop.execute(call % (1000, "true"))
    # Some twelve seconds, and twenty times that below what may be asked for.
    epochs = min(int(1000 * 12 / (time.monotonic() - started)), 50_000)
    shop.execute(call % (epochs, "false"))
    until(lambda: shop.value(size), "an epoch is kept")
    shop.worker.kill()
    # Weights, two moments of Adam: three times the parameters, and some numbers.
    assert 0 < shop.value(size) < 13 * shop.value(
        "SELECT max(n_parameters) FROM pgrain.model_version") + 4000
    shop.worker.start()
    job = shop.value("SELECT max(job) FROM pgrain.jobs")
    until(lambda: shop.value("SELECT state = 'succeeded' FROM pgrain.jobs WHERE job = %s", [job]),
          "the job ends", 120)
    data, after = shop.rows(weights)[0]
    assert 0 < int(after) < epochs
    assert shop.value(size) == 0
    shop.execute(call % (epochs, "true"))
    again, after = shop.rows(weights)[0]
    assert after is None and bytes(again) == bytes(data)
    shop.execute(call % (min(20 * epochs, 100_000), "false"))
    until(lambda: shop.value(size), "an epoch is kept")
    job = shop.value("SELECT max(job) FROM pgrain.jobs")
    shop.execute("SELECT pgrain.cancel(%s)", [job])
    until(lambda: shop.value("SELECT state = 'cancelled' FROM pgrain.jobs WHERE job = %s", [job]),
          "it is cancelled")
    assert shop.value(size) == 0
    assert shop.value("SELECT count(*) FROM pgrain.model_version WHERE NOT ready") == 0
