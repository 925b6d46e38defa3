"""describe's rules: what was planted is found, nothing is found in rows that share nothing."""

from __future__ import annotations

import numpy as np
import pytest

from pgrain.demo import census
from pgrain.demo.datasets import DatasetMissing
from pgrain.demo.label_errors import flip_where
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


def flipped(seed=0):
    """Of private men who are not rich, three fifths are labelled so; who is old or married is rich
    as often as not, others seldom."""
    data, rng = table(seed), np.random.default_rng(seed + 7)
    data["married"] = rng.choice(["yes", "no", "once"], N, p=[.5, .3, .2])
    del data["note"]
    rich = rng.random(N) < np.where((data["age"] > 50) | (data["married"] == "yes"), 0.6, 0.1)
    wrong = ((data["sex"] == "male") & (data["workclass"] == "private") & ~rich
             & (rng.random(N) < 0.6))
    data["label"] = np.where(rich | wrong, "high", "low")
    return data, wrong


def holds(predicate, data):
    """(N,) bool: the predicate's conditions, read in Python."""
    mask = np.ones(len(data["label"]), bool)
    for condition in predicate.split(" AND "):
        name, operator, value = condition.replace("IS DISTINCT FROM", "!=").split(" ", 2)
        mask &= {"=": lambda a, b: a == b.strip("'"), "!=": lambda a, b: a != b.strip("'"),
                 ">": lambda a, b: a > float(b),
                 "<=": lambda a, b: a <= float(b)}[operator](data[name], value)
    return mask


@pytest.mark.parametrize("seed", range(3))
def test_a_precise_predicate_where_the_widest_is_not(seed):
    """Private men labelled rich are wrong in less than half of the cases, which has the best F1;
    the young and unmarried among them nearly always are."""
    data, wrong = flipped(seed)
    for asked, least in ((0.5, 0.6), (0.8, 0.77)):          # on the half that it was made from more
        predicates, why = described(wrong, data, precision=asked)
        assert predicates, why
        mask = holds(predicates[0], data)
        assert wrong[mask].mean() >= least and wrong[mask].sum() >= 0.3 * wrong.sum(), predicates
        for condition in ("sex = 'male'", "workclass = 'private'", "label = 'high'", "age <= ",
                          "married IS DISTINCT FROM 'yes'"):
            assert condition in predicates[0]


def test_a_further_predicate_adds_mostly_suspects():
    """It is not enough that it covers many suspects whom the first one covers as well."""
    data, rng = table(), np.random.default_rng(5)
    inside = (data["sex"] == "male") & (data["workclass"] == "private")
    suspect = inside & (rng.random(N) < np.where(data["age"] <= 55, 0.9, 0.2))
    predicates, _ = described(suspect, data)
    covered = np.zeros(N, bool)
    for predicate in predicates:
        added = holds(predicate, data) & ~covered
        assert suspect[added].mean() > 0.45, (predicates, suspect[added].mean())
        covered |= added
    assert suspect[covered].mean() > 0.8


def test_men_in_the_private_sector():
    """ADULT as in the paper's figure 12: of the private men labelled rich four in ten are, but not
    of the unmarried and of the less educated."""
    try:
        people = census.adult_split()[0]
    except DatasetMissing as error:
        pytest.skip(str(error))
    chosen = people.where(gender="Male", workclass="Private")
    bad = flip_where(people.labels, chosen, 0, 1, 0.6, 0)
    given = [Column(name, "number" if name.replace("_", "-") in census.NUMBERS else "category",
                    [row[name] for row in people.features]) for name in census.COLUMNS]
    given.append(Column("label", "category", [str(label) for label in bad.labels]))
    found = features(given, bad.wrong)
    predicates, _ = describe(found, bad.wrong, np.ones(len(people)), precision=0.8)
    data = {column.sql: np.array(column.values) for column in given}
    together = np.zeros(len(people), bool)
    for predicate in predicates:
        assert "workclass = 'Private' AND" in predicate and "gender = 'Male'" in predicate
        mask = holds(predicate, data)
        assert bad.wrong[mask].mean() >= 0.79, predicate
        together |= mask
    assert bad.wrong[together].mean() >= 0.8
    assert (bad.wrong & together).sum() / bad.wrong.sum() >= 0.8


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
