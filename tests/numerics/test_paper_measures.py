"""The experiments' own arithmetic: queries, rules, sweeps of k, what peers are given."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from pgrain.demo import cifar10
from pgrain.demo.datasets import DatasetMissing
from pgrain.demo.paper import (
    cases,
    denoising,
    draw,
    measure,
    peers,
)
from pgrain.demo.paper.cases import Case, Setting, load
from pgrain.demo.paper.scales import SCALES
from pgrain.demo.peers import environment
from pgrain.models.training import predict_proba, train

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


def test_cifar10_is_read_where_the_user_has_it(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    for name in (*cifar10.TRAIN_FILES, *cifar10.TEST_FILES):
        data = rng.integers(0, 256, (20, 3073), dtype=np.uint8)
        data[:, 0] = np.arange(20) % 10
        (tmp_path / name).write_bytes(data.tobytes())
    monkeypatch.setenv("PGRAIN_CIFAR10", str(tmp_path))
    cases._pictures.cache_clear()
    try:
        case = load(Setting("cifar10", "cnn", "flip", rate=0.5, rows=60))
        assert case.X.shape == (60, 32, 32, 3) and case.wrong.sum() == 3
        assert set(case.y[case.wrong]) == {cifar10.CLASSES.index("horse")}
        spoiled = load(Setting("cifar10", "cnn", "salt_and_pepper", rate=1.0, rows=60,
                               denoise=True))
        assert spoiled.wrong.sum() == 6 and spoiled.denoised.shape == spoiled.X.shape
    finally:
        cases._pictures.cache_clear()


def test_the_automatic_k_is_ranked_by_the_changes_of_a_complaint(monkeypatch):
    rng = np.random.default_rng(0)
    A, c, wrong = rng.normal(size=(40, 3)), rng.normal(size=3), np.arange(40) < 5
    values = np.array([3.0, 2.0, 1.0])
    plain = measure.by_k(A, values, c, wrong)
    assert measure.by_k(A, values, c, wrong, 2) == plain
    moved = measure.by_k(A, values, c, wrong, 2, A / 2)
    assert moved == plain
    monkeypatch.setattr(measure, "deletion_changes", lambda *given: np.arange(40) * -1.0)
    assert measure.by_k(A, values, c, wrong, 2) == [plain[0], 0.0, plain[2]]


def test_intervals():
    assert draw.interval([0.5]) == "0.500"
    assert draw.interval([0.4, 0.6]) == "0.400; 0.600"
    assert draw.interval([1000.4, 1000.6], 1) == "1,000.4; 1,000.6"
    assert draw.interval([0.4, 0.5, 0.6]) == "0.500 ± 0.248"      # t = 4.303, s/sqrt 3 = 0.0577
    assert draw.half([0.5]) == 0
    assert draw.peak([0.1, 0.9, 0.3]) == ("0.900", 2)
    assert draw.span([0.31, 0.1], ".1f") == "0.1 to 0.3" and draw.span([3, 3]) == "3"


def test_a_models_own_probabilities_count_before_anothers():
    def record(architecture, **values):
        return {"kind": "peers", "peers": {"Q3": values}, "setting": {
            "data": "mnist", "architecture": architecture, "error": "flip", "rate": 0.4, "seed": 0}}

    found = peers.columns([record("mlp", cleanlab=0.1, ekfac=0.9),
                           record("logistic_regression", cleanlab=0.2)])
    rows = {a: peers.beside(found, "mnist", a, "flip", 0.4, "Q3")
            for a in ("mlp", "logistic_regression", "cnn")}
    assert rows == {"mlp": {"cleanlab": {0: 0.1}, "ekfac": {0: 0.9}},
                    "logistic_regression": {"cleanlab": {0: 0.2}}, "cnn": {"cleanlab": {0: 0.1}}}


def test_what_a_peer_is_given(tmp_path):
    """cleanlab: probabilities of rows by a model that has not seen them, or words; no weights."""
    X = RNG.normal(size=(90, 4)).astype(np.float32)
    y = (X[:, 0] > 0).astype(np.int32)
    case = Case(2, X, y, y > 0, X, y, X[:5], y[:5])
    setting = Setting("adult", "logistic_regression", "none")
    model = measure.build_model(setting, case)
    environment.export(tmp_path, case, model, None, {"Q7": np.zeros(0)}, 1, {})
    with np.load(tmp_path / "case.npz") as given:
        assert "kernel0" not in given and given["dq:Q7"].shape == (0,)
        fold = np.random.default_rng(0).integers(0, environment.FOLDS, len(y)) == 1
        theta = train(model, X[~fold], y[~fold]).theta
        np.testing.assert_allclose(given["held"][fold], predict_proba(model, theta, X[fold])[1],
                                   atol=1e-6)
    theta = train(model, X, y).theta
    environment.export(tmp_path, case, model, theta, {"Q7": np.ones((5, 2))}, 1, {}, held=False)
    with np.load(tmp_path / "case.npz") as given:
        assert "held" not in given
        np.testing.assert_allclose(given["X"] @ given["kernel0"] + given["bias0"],
                                   predict_proba(model, theta, X)[0], atol=1e-4)
    words = RNG.integers(0, 9, (90, 6)).astype(np.int32)
    environment.export(tmp_path, Case(2, words, y, y > 0, words, y, words[:5], y[:5], n_tokens=9),
                       model, None, {"Q3": np.zeros(0)}, 1, {})
    with np.load(tmp_path / "case.npz") as given:
        assert "held" not in given and (given["words"] == words).all()


def test_peers_answer_one_after_the_other_and_say_why_they_cannot(tmp_path, monkeypatch):
    """cleanlab, of our own making here: the process that answers has it and nothing else."""
    library, folder = tmp_path / "library", tmp_path / "case"
    for path, text in (("cleanlab/__init__.py", ""),
                       ("cleanlab/rank.py", "def get_label_quality_scores(y, held):\n"
                        "    print('what a library prints')\n    return held[range(len(y)), y]\n"),
                       ("cleanlab-9.9.dist-info/METADATA", "Name: cleanlab\nVersion: 9.9\n")):
        (library / path).parent.mkdir(parents=True, exist_ok=True)
        (library / path).write_text(text)
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(library))
    monkeypatch.setattr(environment, "_runners", {})
    y, held = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]], np.float32)
    np.savez(folder / "case.npz", y=y, held=held, held_seconds=2.0,
             **{"dq:Q1": np.zeros(0), "dq:Q3": np.zeros(0)})
    for _ in range(2):
        told, scores = environment.run(sys.executable, folder, "cleanlab")["cleanlab"]
        assert told["version"] == "9.9" and told["prepare"] == 2.0 and told["cpu"] >= 0
        np.testing.assert_allclose(scores["Q1"], [-0.9, -0.7, -0.4], atol=1e-6)
        assert (scores["Q3"] == scores["Q1"]).all()
    (runner,) = environment._runners.values()
    with pytest.raises(environment.PeerFailed, match="Arnoldi"):
        environment.run(sys.executable, folder, "pydvl")
    assert runner.process.poll() is None
    environment.run(sys.executable, folder, "cleanlab")
    monkeypatch.setattr(environment, "LIMIT", 0)
    with pytest.raises(environment.PeerFailed, match="more than 0 s"):
        environment.run(sys.executable, folder, "cleanlab")
    assert runner.process.poll() is not None
    monkeypatch.setattr(environment, "LIMIT", 60)
    environment.run(sys.executable, folder, "cleanlab")
    environment._end()


def test_a_clean_convex_model_is_that_of_every_seed_and_error(monkeypatch):
    asked = []
    monkeypatch.setattr(measure, "_clean_predictions", lambda setting: asked.append(setting))
    for architecture in ("logistic_regression", "mlp"):
        for seed, error in ((0, "flip"), (1, "flip"), (0, "gaussian_blur")):
            measure.clean_predictions(Setting("mnist", architecture, error, rate=0.4, seed=seed))
    assert len(set(asked[:3])) == 1 and len(set(asked[3:])) == 2


def test_the_count_after_deletion_is_that_of_training_without_those_rows(tmp_path):
    pytest.importorskip("matplotlib")
    setting = Setting("mnist", "mlp", "salt_and_pepper", rate=0.9, rows=600, queries=("Q3",),
                      pairs=12, sample=600, baselines=False, denoise=True, queried=400,
                      options=(("hidden", (16,)), ("epochs", 6)))
    try:
        case = load(setting)
    except DatasetMissing as error:
        pytest.skip(str(error))
    record = denoising.measure(setting.as_json(), lambda text: None)
    found = record["queries"]["Q3"]
    model = measure.build_model(setting, case)

    def ones(X, y):
        theta = train(model, X, y, options=dict(setting.options), seed=setting.seed).theta
        return (predict_proba(model, theta, case.query_X)[1].argmax(axis=1) == 1).sum()

    keep, X = ~case.wrong, case.X.copy()
    X[case.wrong] = case.denoised[case.wrong]
    assert found["value"] == ones(case.X, case.y)
    assert found["after"]["delete noisy"] == ones(case.X[keep], case.y[keep]) < found["clean"]
    assert found["after"]["denoise noisy"] == ones(X, case.y)
    # The damaged ones are the only ones: all that a ranking could take is known.
    assert 0 <= found["after"]["delete share"] <= 1 and record["n_wrong"] == case.wrong.sum()
    text = denoising.render([{"kind": "denoising", **record}], tmp_path, SCALES["small"])
    assert f"| {found['after']['delete noisy']:.1f} |" in text
