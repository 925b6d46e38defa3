"""describe's rules: what was planted is found, nothing is found in rows that share nothing."""

from __future__ import annotations

import numpy as np
import pytest

from pgrain.describe.columns import Column, features, literal, shortest
from pgrain.describe.rules import describe

N = 4000


def table(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "age": rng.integers(17, 90, N).astype(float),
        "sex": rng.choice(["male", "female"], N),
        "workclass": rng.choice(["private", "gov", "self"], N, p=[.7, .15, .15]),
        "label": rng.choice(["low", "high"], N, p=[.75, .25]),
        "note": [" ".join(rng.choice(["red", "green", "blue", "refund", "paid"], 3))
                 + f" {i}" for i in range(N)],
    }


def columns(data):
    kinds = {"age": "number", "note": "text"}
    return [Column(name, kinds.get(name, "category"), [v.item() if hasattr(v, "item") else v
                                                       for v in values])
            for name, values in data.items()]


def described(suspect, data=None, **options):
    given = columns(table() if data is None else data)
    weight = np.ones(len(suspect))
    return describe(features(given, suspect), suspect, weight, **options)


def test_two_columns_that_were_planted():
    data = table()
    rng = np.random.default_rng(1)
    inside = (data["sex"] == "male") & (data["workclass"] == "private") & (data["label"] == "high")
    suspect = (inside & (rng.random(N) < 0.9)) | (rng.random(N) < 0.005)
    predicates, why = described(suspect, data)
    assert why == ""
    assert predicates[0] == "sex = 'male' AND workclass = 'private' AND label = 'high'"
    assert len(predicates) == 1


def test_a_range_of_numbers_and_a_word():
    data = table()
    old = (data["age"] > 60) & (data["age"] <= 70)
    predicates, _ = described(old, data)
    assert predicates == ["age > 60 AND age <= 70"]
    words = np.array(["refund" in note for note in data["note"]]) & (data["sex"] == "female")
    predicates, _ = described(words, data)
    assert predicates == ["sex = 'female' AND note ~*  E'\\\\mrefund\\\\M'"]


def test_two_groups_get_two_predicates():
    data = table()
    suspect = ((data["age"] > 75) & (data["sex"] == "male")) | (
        (data["workclass"] == "gov") & (data["label"] == "high"))
    predicates, _ = described(suspect, data)
    assert len(predicates) == 2
    assert any("age > 75" in p and "male" in p for p in predicates)
    assert any("gov" in p and "high" in p for p in predicates)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.01, 0.1, 0.4])
def test_random_rows_have_nothing_in_common(seed, share):
    suspect = np.random.default_rng(100 + seed).random(N) < share
    predicates, why = described(suspect, table(seed))
    assert predicates == []
    assert why


def test_it_says_why_it_declines():
    assert "too few" in described(np.arange(N) < 4)[1]
    assert "every row" in described(np.ones(N, bool))[1]
    rng = np.random.default_rng(0)
    weak = rng.random(N) < np.where(table()["sex"] == "male", 0.12, 0.06)
    predicates, why = described(weak)
    assert predicates == [] and "the best try" in why


def test_nulls_and_truth_values():
    data = table()
    missing = np.random.default_rng(3).random(N) < 0.2
    data = {"age": [None if m else float(a) for m, a in zip(missing, data["age"], strict=True)],
            "paid": [bool(i % 3) for i in range(N)]}
    suspect = missing & ~np.array(data["paid"])
    given = [Column("age", "number", data["age"]), Column("paid", "category", data["paid"])]
    predicates, _ = describe(features(given, suspect), suspect, np.ones(N))
    assert predicates == ["age IS NULL AND NOT paid"]


@pytest.mark.parametrize(("low", "high", "text"), [
    (3.2, 4.7, "4"), (0.123, 0.129, "0.125"), (59.99, 61.3, "60"), (-2.5, -1.5, "-2"),
    (1234.0, 1234.5, "1234"), (1e-9, 2e-9, "1e-09"), (0.0, 1.0, "0")])
def test_thresholds_are_short(low, high, text):
    found = shortest(low, high)
    assert low <= float(found) < high
    assert len(found) <= len(text) + 1


DAY, INFINITY = 86400.0, float("inf")


@pytest.mark.parametrize(("low", "high", "kind", "text"), [
    (-60_000 * 1e6, -59_999 * 1e6, "date", "'0068-09-03'::date"),            # not of 1968
    (-64_000 * 1e6, -63_999 * 1e6, "date", "('1970-01-01'::date + -740741)"),      # before Christ
    (3e11, 3e11 + 0.5, "timestamptz",
     "('1970-01-01 00:00:00+00'::timestamptz + make_interval(secs => 300000000000))"),
    (1e9, INFINITY, "timestamptz", "'2001-09-09 01:46:40.000000+00'::timestamptz"),
    (-INFINITY, 1e9, "timestamp", "'2001-09-08 01:46:40.000000'::timestamp"),
    (-INFINITY, 5.0, "plain", "0"), (5.0, INFINITY, "plain", "5")])
def test_bounds_of_times_and_of_what_is_infinite(low, high, kind, text):
    assert shortest(low, high, kind) == text


def test_infinite_numbers_are_a_side_of_their_own():
    days = [-INFINITY if i % 5 == 0 else float(i) for i in range(N)]
    suspect = np.array(days) == -INFINITY
    predicates, _ = describe(features([Column("d", "number", days)], suspect), suspect, np.ones(N))
    assert len(predicates) == 1 and predicates[0].startswith("d <= ")
    assert float(predicates[0].removeprefix("d <= ")) < 1


def test_literals():
    assert literal("it's") == "'it''s'"
    assert literal("a\\b") == " E'a\\\\b'"
