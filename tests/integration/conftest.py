"""A small trained model, shared by the tests of a module."""

from __future__ import annotations

import pytest

SMALL = """
CREATE TABLE train (id integer PRIMARY KEY, x float8[], label text);
INSERT INTO train
SELECT i, ARRAY[cos(i * 2.4) * (1 + i % 3) + (i % 3) * 2, sin(i * 1.7) * 2 - (i % 3)],
       (ARRAY['red', 'green', 'blue'])[i % 3 + 1]
FROM generate_series(1, 240) AS i;
-- a tenth of the reds are labelled blue
UPDATE train SET label = 'blue' WHERE label = 'red' AND id % 10 = 0;
CREATE TABLE items (id integer PRIMARY KEY, x float8[], claim text, hour integer);
INSERT INTO items
SELECT i, ARRAY[cos(i * 3.1) * (1 + i % 3) + (i % 3) * 2, sin(i * 2.3) * 2 - (i % 3)],
       (ARRAY['red', 'green', 'blue'])[i % 3 + 1], i % 4
FROM generate_series(1, 120) AS i;
INSERT INTO items SELECT id + 1000, x, claim, hour FROM items WHERE id <= 10;   -- shared values
INSERT INTO items VALUES (2000, NULL, 'red', 1);
"""


@pytest.fixture(scope="module")
def small(module_database, worker):
    """A database with a worker and model `colour`: trained, precomputed, items attached."""
    database = module_database()
    database.worker = worker(database)
    for statement in SMALL.split(";\n"):
        if statement.strip():
            database.execute(statement)
    database.execute("SELECT pgrain.create_model('colour', 'train', 'id', '{x}', 'label', "
                     "'logistic_regression', '{\"alpha\": 0.5}')")
    database.execute("CALL pgrain.train('colour')")
    database.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
    database.execute("CALL pgrain.attach('colour', 'items')")
    return database
