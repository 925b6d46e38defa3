"""A worker of two processes: precompute through SQL gives what one process gives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

TRAIN = """
CREATE TABLE train AS
SELECT i AS id, ARRAY[cos(i * 2.4) * (1 + i % 3), sin(i * 1.7) * 2 - (i % 3)] AS x,
       (ARRAY['red', 'green', 'blue'])[i % 3 + 1] AS label FROM generate_series(1, 301) AS i
"""
RANKING = ("SELECT train_id, score FROM pgrain.complain($$ SELECT count(*) AS n FROM train WHERE "
           "pgrain.predict('m', x) = 'red' $$, 'n too high', 301) ORDER BY train_id")


def results(database):
    values = database.value("SELECT eigenvalues FROM pgrain.models")
    return np.array(values), np.array(database.rows(RANKING))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_precompute_as_one_does(module_database, worker):
    database = module_database()
    database.execute(TRAIN)
    database.execute("SELECT pgrain.create_model('m', 'train', 'id', '{x}', 'label', 'mlp', "
                     "'{\"hidden\": [5], \"epochs\": 30, \"batch_size\": 32}')")
    single = worker(database)
    database.execute("CALL pgrain.train('m')")
    database.execute("CALL pgrain.attach('m', 'train')")
    database.execute("CALL pgrain.precompute('m', '{\"pairs\": 6}')")
    alone = results(database)
    single.stop()

    with socket.socket() as free:
        free.bind(("localhost", 0))
        together = ["--coordinator", f"localhost:{free.getsockname()[1]}", "--processes", "2",
                    "--process"]
    helper = subprocess.Popen(
        [sys.executable, "-m", "pgrain.cli.main", "worker", "--dsn", "nobody needs this",
         *together, "1"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"})
    try:
        leader = worker(database, environment={"JAX_PLATFORMS": "cpu"},
                        arguments=(*together, "0"))
        assert "2 processes" in database.value("SELECT device FROM pgrain.workers WHERE alive")
        # Another seed, so that nothing is continued.
        database.execute("CALL pgrain.precompute('m', '{\"pairs\": 6, \"seed\": 1}')")
        values, ranking = results(database)
        database.execute("CALL pgrain.precompute('m', '{\"pairs\": 5, \"seed\": 2}')")   # again
        leader.stop()
        out, error = helper.communicate(timeout=60)
    finally:
        helper.kill()
    assert helper.returncode == 0, error[-3000:]
    served = int((out + error).split("commands=")[1].split()[0])
    assert served > 40                                   # two jobs' products and projections
    np.testing.assert_allclose(values, alone[0], rtol=1e-3)
    np.testing.assert_array_equal(ranking[:, 0], alone[1][:, 0])
    assert np.corrcoef(ranking[:, 1], alone[1][:, 1])[0, 1] > 0.999
