"""Options of precompute: more pairs, Gauss-Newton, k from a proxy, and what does not fit."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import pytest

COUNT = "SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'red'"


def precompute(small, **options):
    small.execute("CALL pgrain.precompute('colour', %s)", [json.dumps(options)])
    return small.rows("SELECT s.eigenvalues, s.options, m.k FROM pgrain.models m "
                      "JOIN pgrain.model_version v USING (version) "
                      "JOIN pgrain.spectrum s ON s.spectrum = v.active_spectrum "
                      "WHERE m.model = 'colour'")[0]


def ranking(small, **options):
    return small.rows("SELECT train_id, score FROM pgrain.complain(%s, 'n too high', 240, "
                      "options => %s) ORDER BY train_id", [COUNT, json.dumps(options)])


def test_more_pairs_continue_from_the_stored_ones(small):
    before, _, _ = precompute(small, pairs=4, seed=7)
    after, options, _ = precompute(small, pairs=8, seed=7)
    assert after[:4] == before and len(after) == 8
    assert options["continued_from"] == 4
    fresh, options, _ = precompute(small, pairs=8, seed=8)
    assert options["continued_from"] == 0           # another seed is another sample
    assert np.allclose(fresh, after, rtol=2e-3)


def test_gauss_newton_is_the_hessian_of_a_linear_model(small):
    values, _, _ = precompute(small, pairs=9)
    exact = ranking(small, k=9)
    others, options, _ = precompute(small, pairs=9, curvature="gauss_newton")
    assert options["curvature"] == "gauss_newton" and options["continued_from"] == 0
    assert np.allclose(values, others, rtol=1e-3)
    again = ranking(small, k=9)
    scale = max(abs(score) for _, score in exact)
    assert np.allclose([s for _, s in exact], [s for _, s in again], atol=2e-3 * scale)


def test_k_is_given_or_taken_from_a_proxy(small):
    assert precompute(small, pairs=9, k=5)[2] == 5
    small.execute("SELECT pgrain.create_model('proxy', 'train', 'id', '{x}', 'label', "
                  "'logistic_regression')")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="no stored spectrum"):
        precompute(small, pairs=9, proxy="proxy")
    small.execute("CALL pgrain.train('proxy')")
    small.execute("CALL pgrain.precompute('proxy', '{\"pairs\": 9, \"k\": 7}')")
    assert precompute(small, pairs=9, proxy="proxy")[2] == 7


def test_all_pairs_agree_with_conjugate_gradient_row_by_row(small):
    """k = d: Rain++ and converged conjugate gradient are the same solve, through SQL: each row
    within a thousandth of itself. Where the pairs' parts cancel to less than 1e-4 of the largest
    score float32 does not hold that many digits: there within 1e-7 of the largest."""
    precompute(small, pairs=9)
    ours, rain = ranking(small, k=9), ranking(small, method="rain", k=60)
    ours, rain = (np.array([score for _, score in found]) for found in (ours, rain))
    scale = np.abs(rain).max()
    apart, whole = np.abs(ours - rain), np.abs(rain) >= 1e-4 * scale
    assert (~whole).sum() <= 5 and (apart[~whole] <= 1e-7 * scale).all()
    assert (apart[whole] <= 1e-3 * np.abs(rain[whole])).all()


def test_self_influence_ignores_the_complaint(small):
    precompute(small, pairs=9)
    high = ranking(small, method="self_influence")
    low = small.rows("SELECT train_id, score FROM pgrain.complain(%s, 'n too low', 240, options "
                     "=> '{\"method\": \"self_influence\"}') ORDER BY train_id", [COUNT])
    assert high == low and min(score for _, score in high) >= 0
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="deletions only"):
        small.execute("SELECT * FROM pgrain.complain(%s, 'n too high', 5, 'relabel', "
                      "'{\"method\": \"self_influence\"}')", [COUNT])


def test_a_stable_k_is_of_the_complaint(small):
    """It is what the same number does, the notice says which, and complaints about other cells take
    another one; also with a filter, in plans and for vectors."""
    precompute(small, pairs=9, k=1)
    heard, taken = [], {}
    small.connection.add_notice_handler(lambda d: heard.append(d.message_primary))
    for label in ("red", "green", "blue"):
        query = COUNT.replace("'red'", f"'{label}'")
        for more in ({}, {"filter": "identity"}):
            def asked(k, query=query, more=more, call="complain(%s, 'n too high'", of=None):
                return small.rows(f"SELECT * FROM pgrain.{call}, 240, 'delete', %s)",
                                  [of or query, json.dumps({"k": k, **more})])
            heard.clear()
            ranked = asked("stable")
            k = next(int(line.split()[2]) for line in heard if line.startswith('option "k"'))
            assert ranked == asked(k) and 3 <= k <= 9
            taken[label, bool(more)] = k
            vector = small.value("SELECT pgrain.complaint_vector(%s, 'n too high')", [query])
            by_vector = small.rows("SELECT * FROM pgrain.rank('colour', %s, 240, 'delete', %s)",
                                   [vector, json.dumps({"k": "stable", **more})])
            assert by_vector == ranked
    assert len(set(taken.values())) > 1, taken
    before = small.value(COUNT)
    plans = [small.rows("SELECT train_key FROM pgrain.plan_repair(%s, %s, options => %s)",
                        [COUNT, f"n <= {before - 3}", json.dumps({"k": k})])
             for k in ("stable", taken["red", False])]
    assert plans[0] == plans[1] and plans[0]
    for options, message in (({"k": "steady"}, '"stable"'),
                             ({"k": "stable", "method": "rain"}, "cannot be")):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=message):
            ranking(small, **options)


@pytest.mark.parametrize("options, message", [
    ({"curvature": "fisher"}, "curvature"), ({"k": 0}, '"k"'), ({"proxy": 5}, "proxy"),
    ({"pairs": 0}, "pairs")])
def test_bad_options(small, options, message):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=message):
        precompute(small, **options)
