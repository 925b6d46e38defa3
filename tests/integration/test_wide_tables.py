"""Tables of as many columns as PostgreSQL lets have; a call takes a hundred arguments."""

from __future__ import annotations

import numpy as np
import pytest
from watch_checks import agree


@pytest.mark.parametrize("columns", [60, 1500])
def test_a_model_of_many_columns(small, columns):
    """Trained, stored, found again by content, complained about by count and by row, watched."""
    names = [f"c{number}" for number in range(columns)]
    table, model = f"wide{columns}", f"wide {columns}"
    # Rows fit a page: 1 500 numbers of four bytes do.
    cells = ", ".join(f"((i * {1 + number % 13} + {number}) % 97)::real AS {name}"
                      for number, name in enumerate(names))
    small.execute(f"CREATE TABLE {table} AS SELECT i AS id, CASE WHEN i > 40 THEN 'high' "
                  f"ELSE 'low' END AS label, {cells} FROM generate_series(1, 80) AS i")
    small.execute("SELECT pgrain.create_model(%s, %s, 'id', %s, 'label', 'logistic_regression')",
                  [model, table, names])
    small.execute("CALL pgrain.train(%s)", [model])
    small.execute("CALL pgrain.precompute(%s)", [model])
    small.execute("CALL pgrain.attach(%s, %s)", [model, table])
    assert small.value("SELECT stored_values FROM pgrain.attached WHERE model = %s",
                       [model]) == 80
    predict = f"pgrain.predict('{model}', w)"
    labels = dict(small.rows(f"SELECT id, {predict} FROM {table} AS w"))
    right = dict(small.rows(f"SELECT id, label FROM {table}"))
    assert np.mean([labels[key] == right[key] for key in right]) > 0.9

    count = f"SELECT count(*) AS n FROM {table} AS w WHERE {predict} = 'high'"
    ranked = small.rows("SELECT train_id, score FROM pgrain.complain(%s, 'n too high', 80)",
                        [count])
    assert len(ranked) > 40
    n, = small.rows("SELECT value, variables FROM pgrain.provenance(%s)", [count])
    assert n == (sum(label == "high" for label in labels.values()), 80)
    # All columns in the output, too.
    high = next(key for key, label in labels.items() if label == "high")
    rows = f"SELECT * FROM {table} AS w WHERE {predict} = 'high'"
    assert small.rows("SELECT FROM pgrain.complain(%s, %s, 5)", [rows, f"no row WHERE id = {high}"])
    shown = small.value("SELECT output FROM pgrain.provenance(%s) WHERE output ->> 'id' = %s "
                        "LIMIT 1", [f"SELECT *, {predict} AS p FROM {table} AS w", str(high)])
    assert len(shown) == columns + 3

    small.execute("CALL pgrain.watch(%s, %s)", [table, count])
    small.execute(f"UPDATE {table} SET c1 = 30 - c1 WHERE id % 3 = 0")
    agree(small, table, count)
    small.execute("SELECT pgrain.unwatch(%s)", [table])
    small.execute("SELECT pgrain.create_intervention(%s, 'turned', %s)",
                  [model, ["96 - c0", *names[1:]]])
    small.execute("CALL pgrain.precompute(%s, '{\"only\": \"interventions\"}')", [model])
    # 80 rows, but those that were changed since the training.
    assert small.value("SELECT changed_rows FROM pgrain.interventions WHERE model = %s",
                       [model]) == 80 - 26
