"""train, precompute and attach through SQL, with a real worker."""

from __future__ import annotations


def test_models_view_says_what_is_stored(small):
    row = small.rows("""SELECT version, classes, n_rows, n_parameters, alpha, stored_pairs, k,
                        changed_rows FROM pgrain.models WHERE model = 'colour'""")[0]
    assert row[1] == ["blue", "green", "red"]
    assert row[2:6] == (240, 9, 0.5, 9)
    assert 3 <= row[6] <= 9
    assert row[7] == 0


def test_every_stored_pair_is_an_eigenpair(small):
    values = small.value("SELECT eigenvalues FROM pgrain.models")
    assert values == sorted(values, reverse=True)
    assert min(values) >= 0.5 * 0.999   # alpha I is part of the Hessian


def test_predict_is_the_same_stored_and_live(small):
    """Stored values come from tables; values that no relation has are computed by the worker."""
    stored = small.rows("SELECT id, pgrain.predict('colour', x), pgrain.predict_proba('colour', x) "
                        "FROM items ORDER BY id")
    live = small.rows("SELECT id, pgrain.predict('colour', ARRAY[x[1], x[2] + 1e-9]), "
                      "pgrain.predict_proba('colour', ARRAY[x[1], x[2] + 1e-9]) "
                      "FROM items WHERE x IS NOT NULL ORDER BY id")
    for (number, label, p), (_, other, q) in zip(stored[:-1], live, strict=True):
        assert label == other, number
        assert max(abs(a - b) for a, b in zip(p, q, strict=True)) < 1e-5
        assert abs(sum(p) - 1) < 1e-5
    assert stored[-1][1:] == (None, None)   # a null feature has no prediction


def test_jobs_are_recorded(small):
    kinds = small.rows("SELECT kind, state, message FROM pgrain.jobs ORDER BY job")
    assert [row[:2] for row in kinds[:3]] == [("train", "succeeded"), ("precompute", "succeeded"),
                                              ("attach", "succeeded")]
    assert "240 rows" in kinds[0][2]
    assert small.rows("SELECT * FROM pgrain.progress") == []


def test_attach_again_adds_what_is_new(small):
    before = small.value("SELECT stored_values FROM pgrain.attached")
    small.execute("INSERT INTO items VALUES (3000, '{7, 7}', 'red', 0), (3001, '{7, 7}', 'red', 0)")
    small.execute("CALL pgrain.attach('colour', 'items')")
    assert small.value("SELECT stored_values FROM pgrain.attached") == before + 1   # one new value
    small.execute("DELETE FROM items WHERE id >= 3000")


def test_precompute_says_which_rows_changed_since_training(small):
    """Rows that are not as they were learned are counted, and not ranked."""
    count = ("SELECT train_id FROM pgrain.complain($$ SELECT count(*) AS n FROM items "
             "WHERE pgrain.predict('colour', x) = 'red' $$, 'n too high', 1000)")
    small.execute("UPDATE train SET x = ARRAY[x[1] + 1, x[2]] WHERE id = 5")
    small.execute("UPDATE train SET label = 'mauve' WHERE id = 6")
    small.execute("DELETE FROM train WHERE id = 7")
    small.execute("INSERT INTO train VALUES (900, '{1, 1}', 'red')")
    small.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
    assert small.value("SELECT changed_rows FROM pgrain.models") == 3
    ranked = {row[0] for row in small.rows(count)}
    assert ranked == set(range(1, 241)) - {5, 6, 7}
    assert "3 training rows have changed" in small.value(
        "SELECT message FROM pgrain.jobs ORDER BY job DESC LIMIT 1")
