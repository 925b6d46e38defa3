"""The experiments' own arithmetic: queries, rules, sweeps of k, records that can be taken up."""

from __future__ import annotations

import numpy as np
import pytest

from pgrain.demo.paper import draw, measure
from pgrain.demo.paper.cases import Case, Setting
from pgrain.demo.paper.experiments import NAMES, experiment, jobs_of, setting_of
from pgrain.demo.paper.records import Job, Records
from pgrain.demo.paper.scales import SCALES

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 10, 60).astype(np.int32)
CASE = Case(10, None, None, None, None, None, None, LABELS)
P = RNG.dirichlet(np.ones(10), 60)


@pytest.mark.parametrize("name", ["Q1", "Q1:5-9", "Q2:1,4", "Q3", "Q3:7"])
def test_a_querys_gradient_is_that_of_its_relaxed_value(name):
    query = CASE.query(name, "mnist")
    gradient = query.gradient(P)
    step = RNG.normal(size=P.shape)
    slope = (query.relaxed(P + 1e-6 * step) - query.relaxed(P - 1e-6 * step)) / 2e-6
    assert slope == pytest.approx((gradient * step).sum(), rel=1e-6)


@pytest.mark.parametrize("name", ["Q1", "Q1:5-9", "Q2:1,4", "Q3", "Q3:7"])
def test_on_classes_the_relaxed_value_is_the_value(name):
    query = CASE.query(name, "mnist")
    predicted = RNG.integers(0, 10, 60)
    assert query.relaxed(np.eye(10)[predicted]) == pytest.approx(query.value(predicted))


def test_a_join_counts_equal_predictions_of_the_two_sides():
    query = CASE.query("Q1:5-9", "mnist")
    predicted = RNG.integers(0, 3, 60)
    left, right = predicted[LABELS == 5], predicted[LABELS == 9]
    assert query.value(predicted) == sum(a == b for a in left for b in right) > 0
    assert query.truth == query.value(LABELS) == 0


def test_the_complaint_goes_against_the_true_value():
    query = CASE.query("Q3:1", "mnist")
    for predicted, sign in [(np.ones(60, int), 1), (np.zeros(60, int), -1)]:
        assert measure.direction(query, predicted, P) == sign


def test_every_k_is_a_prefix():
    A, c = RNG.normal(size=(50, 4)), RNG.normal(size=4)
    eigenvalues, wrong = np.array([9.0, 4.0, 2.0, 1.0]), np.arange(50) < 10
    found = measure.by_k(A, eigenvalues, c, wrong)
    for k in range(1, 5):
        change = A[:, :k] @ (c[:k] / eigenvalues[:k])     # of q on removal: it should fall
        assert found[k - 1] == measure.judge(-change, wrong)


def test_a_wrong_sign_turns_the_ranking_round():
    wrong = np.arange(100) < 20
    scores = wrong + 0.1 * RNG.random(100)
    assert measure.judge(scores, wrong) == 1 and measure.judge(-scores, wrong) == 0


def test_steps_of_conjugate_gradient_are_those_of_the_solver():
    root = RNG.normal(size=(8, 8))
    H = root @ root.T + np.eye(8)
    b = RNG.normal(size=8)
    steps, status = measure.cg_steps(lambda v: H @ v, b, 12)
    assert status == "converged" and len(steps) <= 9
    np.testing.assert_allclose(steps[-1], np.linalg.solve(H, b), rtol=1e-4)
    np.testing.assert_allclose(steps[0], b * (b @ b) / (b @ H @ b))
    steps, status = measure.cg_steps(lambda v: -v, b, 5)
    assert steps == [] and "nonpositive curvature" in status


def test_the_rule_takes_what_the_complaint_asks_for():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    y = np.array([0, 0, 1, 1])
    assert np.argmax(measure.rule(p, y, (1,), -1)) == 1       # too few: labelled 0, looks like 1
    assert np.argmax(measure.rule(p, y, (1,), +1)) == 3       # too many: labelled 1, looks like 0


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)
def test_settings_survive_their_records(scale):
    for name in NAMES:
        for job in experiment(name).jobs(scale):
            assert jobs_of([setting_of(job.what)])[0].what == job.what


def test_a_record_is_measured_once_and_keyed_by_all_that_it_depends_on(tmp_path):
    records = Records(tmp_path)
    one = Job("setting", Setting("mnist", "mlp", "flip", seed=0).as_json())
    other = Job("setting", Setting("mnist", "mlp", "flip", seed=1).as_json())
    assert one.key != other.key
    assert records.measure(one, lambda: {"a": 1})["a"] == 1
    assert records.measure(one, lambda: {"a": 2})["a"] == 1
    assert records.all([one, other]) == [records.get(one)]

    def fails():
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        records.measure(other, fails)
    assert records.get(other) is None and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_section_can_be_written_before_anything_is_measured(name, tmp_path):
    pytest.importorskip("matplotlib")
    assert isinstance(experiment(name).render([], tmp_path), str)
    assert experiment(name).TITLE and experiment(name).REPORTED


def test_intervals():
    assert draw.interval([0.5]) == "0.500"
    assert draw.interval([0.4, 0.6]) == "0.500 ± 1.271"       # t = 12.706, s/sqrt 2 = 0.1
    assert draw.peak([0.1, 0.9, 0.3]) == ("0.900", 2)
