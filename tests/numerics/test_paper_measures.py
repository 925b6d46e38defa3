"""The experiments' own arithmetic: queries, rules, sweeps of k, records that can be taken up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pgrain.demo import cifar10
from pgrain.demo.datasets import DatasetMissing
from pgrain.demo.paper import (
    adult,
    baselines,
    cases,
    choice_of_k,
    command,
    costs,
    denoising,
    draw,
    iterations,
    latency,
    lds,
    magnitude,
    measure,
    page,
    peaks,
    peers,
    points,
    repaired,
    two_errors,
)
from pgrain.demo.paper.cases import Case, Setting, load
from pgrain.demo.paper.experiments import NAMES, experiment, jobs_of, setting_of
from pgrain.demo.paper.records import Job, Records, changes
from pgrain.demo.paper.scales import SCALES, UNRELATED
from pgrain.demo.peers import environment
from pgrain.models.training import predict_proba, train

SYSTEMATIC = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
KEPT = Path(__file__).resolve().parents[2] / "docs" / "paper" / "records" / "small.jsonl"
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
            if "error" in job.what:
                assert jobs_of([setting_of(job.what)])[0].what == job.what
            assert json.loads(json.dumps(job.what)) == job.what


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


def test_what_was_kept_is_shown_and_compared_but_measured_again(tmp_path):
    job, kept = Job("setting", {"data": "mnist", "seed": 0}), tmp_path / "kept" / "small.jsonl"
    first = Records(tmp_path / "first", kept)
    first.measure(job, lambda: {"k": 2, "queries": {"Q3": {"rain++": [0.1, 0.9]}}})
    first.keep([job])
    later = Records(tmp_path / "later", kept)
    assert later.get(job) is None and later.all([job])[0]["k"] == 2
    later.measure(job, lambda: {"k": 1, "queries": {"Q3": {"rain++": [0.5, 0.9]}}})
    assert later.all([job])[0]["k"] == 1
    (change, what), = changes(later, [job])
    assert change == pytest.approx(-0.4) and "0.900 -> 0.500" in what
    later.keep([job])
    assert kept.read_text().count("\n") == 1
    later.keep([Job("setting", {"data": "mnist", "seed": 1})])     # nothing of it: nothing is lost
    assert kept.read_text().count("\n") == 1
    other = Job("setting", {"data": "mnist", "seed": 2})
    later.measure(other, lambda: {})
    later.keep([other])                                            # what nobody asks for goes
    assert [json.loads(line)["key"] for line in kept.read_text().splitlines()] == [other.key]


def test_a_run_goes_on_after_a_failure_and_an_interrupt(tmp_path, monkeypatch):
    jobs = [Job("setting", {"seed": seed}) for seed in range(3)]
    records, asked = Records(tmp_path), []

    def work(job, say):
        asked.append(job.what["seed"])
        if job.what["seed"] == 0:
            raise RuntimeError("no such data")
        if job.what["seed"] == 2 and len(asked) < 4:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(command, "work", work)
    with pytest.raises(KeyboardInterrupt):
        command.run(jobs, records, lambda text: None)
    failures, late = command.run(jobs, records, lambda text: None)
    assert asked == [0, 1, 2, 0, 2] and late == []
    assert len(failures) == 1 and "no such data" in failures[0]
    assert command.run(jobs, records, lambda text: None, hours=1e-9) == (
        [], [command.label(jobs[0])])
    assert asked == [0, 1, 2, 0, 2]


def test_costs_are_those_of_what_is_most_alike():
    def record(cpu, **what):
        return {"kind": "setting", "setting": what, "cpu": cpu}

    class Kept:
        def every_kept(self):
            return [record(10, data="a", architecture="x", rows=1),
                    record(20, data="a", architecture="x", rows=2),
                    record(40, data="b", architecture="x", rows=1)]

    table = costs.known(Kept())
    assert costs.predict(Job("setting", {"data": "a", "architecture": "x", "rows": 2}), table) == 20
    assert costs.predict(Job("setting", {"data": "a", "architecture": "x", "rows": 9}), table) == 15
    assert costs.predict(Job("setting", {"data": "c"}), table) == 20
    cnn = Job("setting", {"data": "c", "architecture": "cnn"})
    assert costs.predict(cnn, table) == costs.TYPICAL["setting", "cnn"]
    assert costs.predict(Job("other", {}), table) == costs.SECONDS


@pytest.mark.parametrize("name", NAMES)
def test_every_section_is_written_from_the_records_that_are_kept_with_their_sizes(name, tmp_path):
    pytest.importorskip("matplotlib")
    records = Records(tmp_path / "records", KEPT)
    text = page.section(name, SCALES["small"], records, tmp_path)
    found = records.all(experiment(name).jobs(SCALES["small"]))
    assert f"{len(found)} of " in text
    assert ("Nothing has been measured" in text) == (not found)
    captions = [line for line in text.splitlines()
                if line.startswith("*") and line.endswith(".*") and not line.startswith("**")]
    assert captions
    for record in found:
        if "n_rows" in record and "data" in record["setting"]:
            rows, size = f"{record['n_rows']:,} rows", f"{record['n_parameters']:,} parameters"
            assert any(rows in line and size in line for line in captions), (rows, size)


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


@pytest.mark.parametrize("name", NAMES)
def test_every_section_can_be_written_before_anything_is_measured(name, tmp_path):
    pytest.importorskip("matplotlib")
    assert isinstance(experiment(name).render([], tmp_path, SCALES["small"]), str)
    assert experiment(name).TITLE and experiment(name).REPORTED


def test_two_errors_of_records_with_and_without_the_queries_of_our_own():
    records = [record for line in KEPT.read_text().splitlines()
               if (record := json.loads(line)["record"])["kind"] == "setting"
               and record["setting"]["error"] == "flip2"]
    asked = {len(record["queries"]) for record in records}
    assert asked == {6, 10} and all("own_oracle" in r["queries"]["Q3:1"] for r in records)
    written = experiment("two_errors").render(records, KEPT.parent, SCALES["small"])
    assert "| cnn, 40%, 1 seed | Q3:9 |" in written
    assert "| mlp, 40%, 5 seeds | Q3:9@4 |" in written and "| cnn, 40%, 1 seed | Q3:9@4 |" \
        not in written


def test_complaints_that_point_against_the_error_are_marked():
    def run(complaint):
        return {"queries": {"Q3:1": {"complaint": complaint}, "Q3:7": {"complaint": "too high"}}}

    # Ones are labelled seven: too few ones and too many sevens are what the error did.
    assert not two_errors.turned(run("too low"), "Q3:1")
    assert two_errors.turned(run("too high"), "Q3:1")
    assert two_errors.mark([run("too high"), run("too low")], "Q3:1") == " †1"
    assert two_errors.mark([run("too low")], "Q3:7") == ""


def test_a_repair_that_changed_nothing_counts_as_infinitely_wrong():
    row = {"before": 224.0, "actual": 224.0}
    assert repaired.error(234.0, row) == float("inf") and repaired.error(224.0, row) == 0
    assert repaired.error(234.0, {"before": 224.0, "actual": 244.0}) == 0.5
    record = {"setting": {"data": "mnist", "architecture": "mlp", "error": "flip"}, "query": "Q3",
              "n_rows": 9, "n_parameters": 5, "drift": 1.0, "truth": 255.0, "rounds": [
                  {"intervention": "delete", "target": 234.0, "rows_edited": 34, "wrong": 34,
                   "predicted": 234.0, "first": 230.0, "low": 229.0, "high": 240.0, **row}]}
    written = repaired.render([record], KEPT.parent, SCALES["small"])
    assert "| mnist, mlp, flip, Q3 | delete | 1 | inf | inf | 0 of 1 |" in written
    assert "relative error is infinite" in written


def test_the_sweep_is_split_by_what_the_error_did():
    judged = {"truth": 0.0, "complaint": "too high", "rain++": [0.95]}
    record = {"setting": {"data": "mnist", "swept": ["Q1:1-5", "Q1:0-2"]}, "queries": {
        "Q1:1-5": {**judged, "value": 50.0, "clean": 100.0},
        "Q1:0-2": {**judged, "value": 200.0, "clean": 100.0, "rain++": [0.1]}}}
    written = magnitude._directions([record])
    assert "| mnist | Q1 | a flipped class | lowered | 1 | 100% |" in written
    assert "| mnist | Q1 | other classes | raised | 1 | 0% |" in written
    assert "in 1 of 2 queries the complaint asks for more" in written


def test_rain_that_met_nonpositive_curvature_is_counted():
    records = [{"queries": {"Q1": {"rain_status": status, "rain": [0.5] * n}}} for status, n in (
        ("not converged after 8 products", 8), ("nonpositive curvature at product 3", 2))]
    assert "for 2 to 8 iterations" in iterations.stopped(records)
    assert "in 1 of these 2 runs was one met, after 2 iterations" in iterations.stopped(records)
    assert "in none of these 1 runs" in iterations.stopped(records[:1])


def test_what_rain_does_beyond_its_peak_is_counted():
    assert iterations.rises([0.2, 0.9, 0.5, 0.4]) == 0          # rises before the peak are none
    assert iterations.rises([0.9, 0.5, 0.8, 0.3, 0.33]) == 1
    records = [{"setting": {"architecture": "cnn"}, "queries": {"Q1": {"rain": curve}}}
               for curve in ([0.9, 0.5, 0.8], [0.1, 0.9, 0.7])]
    assert "on cnn to 0.50 to 0.70" in iterations.erratic(records)
    assert "in 1 of 2 runs" in iterations.erratic(records)


def test_rain_through_sql_is_a_line_over_its_iterations():
    step = {"gradient": 5.0, "scores": 7.0, "cg": 2.0}
    record = {"setting": {"model": "mlp"}, "steps": step, "sql": {
        f"rain {n}": [2 * (5.0 + 7.0 + n * 2.0) + 10, 0.0] for n in latency.ITERATIONS}}
    assert latency.line(record) == pytest.approx((4.0, 34.0))
    said = latency._beside([record])
    assert "has 2.0 times the Hessian product" in said and "mlp 34 beside 12" in said


def test_points_below_chance_say_whether_deletion_helps_at_all():
    def point(seed, value, relaxed, complaint, clean=100, found=0.0):
        return {"rain++": found, "chance": 0.1, "against": False, "seed": seed,
                "judged": {"value": value, "clean": clean, "relaxed": relaxed,
                           "complaint": complaint}}

    def record(query, deleted, again):
        return {"setting": {"data": "mnist", "architecture": "mlp", "error": "gaussian_blur",
                            "systematic": True, "rate": 1.0, "seed": 0},
                "deleted": {query: [deleted, 0]}, "again": {query: [again, 0]}}

    name = "mnist, mlp, gaussian_blur, one class"
    found = {(name, 1.0, "Q1"): [point(0, 120, 120.0, "too high")],
             (name, 1.0, "Q3"): [point(0, 50, 50.0, "too low", found=0.9)]}
    records = [record("Q1", 130.0, 121.0), record("Q3", 60.0, 50.0)]
    assert peaks.deletions(found, records) == {(name, 1.0, "Q1"): -1, (name, 1.0, "Q3"): 1}
    noisy = [record("Q1", 130.0, 105.0)]
    assert peaks.deletions(found, noisy) == {(name, 1.0, "Q1"): 0}
    said = peaks._deleted(found, records)
    assert "| gaussian_blur, one class | at chance or below | 1 | 0 | 1 | 0 |" in said
    assert "| gaussian_blur, one class | above chance | 1 | 1 | 0 | 0 |" in said
    # Q1 is neither complained about the wrong way nor hardly moved.
    assert "In 0 of those 1 points" in peaks._turned(found)
    assert "1 have neither" in peaks._turned(found)
    found[name, 1.0, "Q1"][0]["judged"]["value"] = 104
    assert "in 1 others the error moved the query by less" in peaks._turned(found)


def test_rain_whose_best_step_is_its_last_is_counted():
    records = [{"setting": {"error": "flip"}, "queries": {"Q1": {"rain": curve}}}
               for curve in ([0.1, 0.2], [0.2, 0.1], [0.3])]
    assert "best one is its last in 1 of 3 complaints (flip 1)" in peaks._last(records)


@pytest.mark.parametrize("name", NAMES)
def test_every_section_says_what_runs_through_sql(name, tmp_path):
    how = experiment(name).HOW
    assert ("SQL" in how) or how.startswith("with the library")
    assert f"Measured {how}." in page.section(name, SCALES["quick"], Records(tmp_path), tmp_path)


def test_colours_of_a_scatter_are_errors_and_markers_models(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = {}

    def keep(figure, path):
        axes, = figure.axes
        drawn["points"] = [c for c in axes.collections if len(c.get_offsets())]
        drawn["names"] = [text.get_text() for text in figure.legends[0].get_texts()]

    monkeypatch.setattr(draw, "_save", keep)
    groups = [(f"{data}, {model}, {error}", [0.5], [0.5]) for data in ("mnist", "fashion")
              for model in ("mlp", "cnn") for error in ("flip", "gaussian_blur, one class")]
    draw.scatter(tmp_path / "p.png", [groups], x="x", y=["y"], parts=True)
    edges = [tuple(c.get_edgecolor()[0][:3]) for c in drawn["points"]]
    assert len(set(edges)) == 2 and edges[0] == edges[2] == edges[4] != edges[1]
    hollow = [not len(c.get_facecolor()) for c in drawn["points"]]
    assert hollow == [False] * 4 + [True] * 4
    assert drawn["names"] == ["flip", "gaussian_blur, one class", "mnist, mlp", "mnist, cnn",
                              "fashion, mlp", "fashion, cnn"]


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


def test_captions_state_rows_and_sizes():
    records = [{"setting": {"data": "mnist", "architecture": a}, "n_rows": 8000,
                "n_parameters": d, "n_query": 2000} for a, d in (("mlp", 101770), ("cnn", 33546))]
    assert draw.caption("Spectra", records) == (
        "*Spectra. mnist, 8,000 rows (2,000 queried): cnn of 33,546 parameters, mlp of 101,770 "
        "parameters.*\n\n")
    assert draw.caption("Spectra") == "*Spectra.*\n\n"


@pytest.mark.parametrize("name", ["quick", "full"])
def test_numbers_of_the_small_scale_are_not_on_other_pages(name, tmp_path):
    pytest.importorskip("matplotlib")
    small = page.only("kept\ngone <!-- small -->", SCALES["small"])
    assert small == "kept\ngone" and page.only("kept\ngone <!-- small -->", SCALES[name]) == "kept"
    page.write(tmp_path / "p.md", SCALES[name], Records(tmp_path / "records"))
    text = (tmp_path / "p.md").read_text()
    rows = f"{SCALES[name].rows['fashion']:,}".replace(",", " ")
    assert f"the same pictures, {rows} + 10 000" in text and "<!--" not in text
    # What the kept records say, in words that were read beside them, belongs to their scale.
    kept = Records(tmp_path / "records", KEPT)
    for module in (adult, points, two_errors, baselines):
        found = kept.all(module.jobs(SCALES["small"]))
        texts = [module.render(found, tmp_path, SCALES[scale]) for scale in ("small", name)]
        assert texts[0].startswith(texts[1][:200]) and len(texts[0]) > len(texts[1])


def test_a_ranking_is_compared_on_the_seeds_that_both_have():
    of = [({"k": 1, "setting": {"seed": seed}}, {"rain++": [own, 0.9], "rain": [0.2, rain]})
          for seed, own, rain in ((0, 0.5, 0.7), (1, 0.1, 0.1))]
    automatic = baselines.by_seed(of, "automatic", {})
    assert automatic == {0: 0.5, 1: 0.1} and baselines.by_seed(of, "best", {}) == {0: 0.9, 1: 0.9}
    assert baselines.by_seed(of, "rain", {}) == {0: 0.7, 1: 0.2}
    assert baselines.lead(automatic, baselines.by_seed(of, "ekfac", {"ekfac": {0: 0.8}})) == \
        pytest.approx(0.3)                                   # not 0.8 against the mean of both, 0.3
    assert baselines.lead(automatic, {7: 1.0}) is None


def test_every_row_of_the_baselines_has_cleanlab_and_of_dense_layers_ek_fac():
    """By the plan: what a peer says of the same wrong labels counts for every model if it knows
    none."""
    small = SCALES["small"]
    rows, records = set(), []
    for job in experiment("baselines").jobs(small):
        what = job.what
        if job.kind == "setting" and what["baselines"]:
            rows |= {(what["data"], what["architecture"], what["error"], what["rate"], query,
                      what["seed"]) for query in what["queries"] if query != UNRELATED}
        elif job.kind == "peers":
            asked = what.get("peers") or list(peers.ASKED)
            records.append({"kind": "peers", "setting": what, "peers": {
                query: dict.fromkeys(asked, 0.5) for query in what["queries"]}})
    found, lacking = peers.columns(records), set()
    for *row, seed in sorted(rows):
        columns = peers.beside(found, *row)
        dense = row[1] in ("mlp", "logistic_regression")
        lacking |= {(column, *row, seed) for column in (["ekfac"] if dense else []) + ["cleanlab"]
                    if seed not in columns.get(column, {})}
        assert dense or "ekfac" not in columns
    assert rows and not lacking


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


def test_processor_time_used_elsewhere_is_counted(tmp_path):
    found = Records(tmp_path).measure(Job("peers", {}), lambda: {"elsewhere": 40.0, "a": 1})
    assert 40 <= found["cpu"] < 45 and "elsewhere" not in found and found["a"] == 1


def test_the_machine_of_each_record_is_on_the_page(tmp_path, monkeypatch):
    """A page may be of several: times of one say nothing of another."""
    monkeypatch.setattr("pgrain.demo.paper.records.hardware", lambda: "Abacus, 10 cores")
    found = Records(tmp_path).measure(Job("pool", {}), dict)
    assert page._load([found]).endswith("on Abacus, 10 cores")
    both = page._load([found, {"machine": "Slide rule"}])
    assert both.endswith("on Abacus, 10 cores and Slide rule")
    assert " on " not in page._load([{"load": 2.0}])


def test_a_clean_convex_model_is_that_of_every_seed_and_error(monkeypatch):
    asked = []
    monkeypatch.setattr(measure, "_clean_predictions", lambda setting: asked.append(setting))
    for architecture in ("logistic_regression", "mlp"):
        for seed, error in ((0, "flip"), (1, "flip"), (0, "gaussian_blur")):
            measure.clean_predictions(Setting("mnist", architecture, error, rate=0.4, seed=seed))
    assert len(set(asked[:3])) == 1 and len(set(asked[3:])) == 2


def test_wins_of_baselines_are_listed_for_errors_by_feature_too():
    found = {job.what["error"] for job in experiment("baselines").jobs(SCALES["small"])}
    assert "male_private" in found

    def record(kind, **judged):
        setting = {"data": "adult", "architecture": "logistic_regression", "seed": 0, "rate": 0.6,
                   "error": "male_private"}
        return {"kind": kind, "setting": setting, "n_rows": 9, "n_wrong": 3, "chance": 0.3, "k": 1,
                "n_parameters": 4, **judged}

    text = baselines.render([
        record("setting", queries={"Q4": {"rain++": [0.5, 0.6], "loss": 0.1, "rule": 0.58}}),
        record("peers", peers={"Q4": {"ekfac": 0.9, "cleanlab": 0.2}})], Path(), SCALES["small"])
    wins, best = text.split("at its best k too")
    assert "- EK-FAC: adult, logistic_regression, male_private 60%, Q4 (0.400)" in wins
    assert "- the rule: adult, logistic_regression, male_private 60%, Q4 (0.080)" in wins
    assert "- EK-FAC" in best and "- the rule" not in best and "- cleanlab" not in wins


def test_figure_4_has_every_error_of_tables_2_and_3_and_the_chance_of_each():
    jobs = experiment("peaks").jobs(SCALES["small"])
    having: dict = {}
    for job in jobs:
        what = job.what
        having.setdefault((what["data"], peaks.name_of(what).split(", ", 2)[2]), set()).add(
            what["rate"])
    for data in ("mnist", "fashion", "reviews", "adult"):
        assert having[data, "flip"] == {0.1, 0.2, 0.3, 0.4}
    for data in ("mnist", "fashion"):
        for error in ("gaussian_blur", "salt_and_pepper"):
            assert having[data, f"{error}, all rows"] == {0.1, 0.2, 0.3, 0.4}
            assert having[data, f"{error}, one class"] == set(SYSTEMATIC)
    assert having["adult", "male_private"] == {0.5, 0.6, 0.7}
    # All models of both sets of pictures.
    some = set(peaks.SOME)
    every = {("flip", True, rate) for rate in (0.1, 0.2, 0.3, 0.4)} | {
        (error, whom, rate) for error in peaks.NOISE
        for whom, rates in ((True, SYSTEMATIC), (False, (0.1, 0.2, 0.3, 0.4))) for rate in rates}
    few = {one for one in every if one[0] == "flip" or one[2] == 0.4 or one[1:] == (True, 1.0)}
    for data in ("mnist", "fashion"):
        convex = few if data == "fashion" else {one for one in every if one[2] in some}
        for model, asked in (("mlp", every), ("cnn", few), ("logistic_regression", convex)):
            found = {(job.what["error"], job.what["systematic"], job.what["rate"]) for job in jobs
                     if (job.what["data"], job.what["architecture"]) == (data, model)
                     and job.kind == "setting" and job.what["error"] != "bright"}
            assert found == asked, (data, model)
    setting = {"data": "mnist", "architecture": "mlp", "error": "flip", "rate": 0.1,
               "seed": 0}
    records = [{"setting": setting, "k": 1, "chance": chance, "queries": {
        "Q3": {"rain": [0.2, peak], "rain++": [0.1, 0.4], "value": 257, "clean": 260, "truth": 255,
               "complaint": "too high"}, "Q3:4": {"rain++": [1.0]}}}
        for peak, chance in ((0.5, 0.01), (0.7, 0.03))]
    (key, seeds), = peaks.points(records).items()
    assert key == ("mnist, mlp, flip", 0.1, "Q3") and [s["rain"] for s in seeds] == [0.5, 0.7]
    assert [s["chance"] for s in seeds] == [0.01, 0.03] and seeds[0]["automatic"] == 0.1
    # The error lowered the count; "too high" asks for more of that.
    assert seeds[0]["against"] and not peaks.against({"value": 3, "clean": 3, "complaint": "-"})
    assert not peaks.against({"value": 250, "clean": 260, "complaint": "too low"})


def test_what_is_largest_for_the_least_comes_last():
    """A run that ends after its hours has the other figures."""
    jobs = command.plan(NAMES, SCALES["small"])
    late = [peaks.name_of(job.what) for job in jobs if job.kind == "setting"][-12:]
    assert {name.split(", ", 1)[1] for name in late} == {
        f"cnn, {error}, {whom}" for error in peaks.NOISE for whom in ("one class", "all rows")}
    seeds = [job.what.get("seed", 0) for job in jobs[:-12]]
    assert seeds == sorted(seeds)


def test_intervals_over_seeds_are_of_what_all_seeds_have():
    curves = [(("flip", rate), seed, [rate]) for rate, seeds in ((0.1, (0,)), (0.4, (0, 1)))
              for seed in seeds]
    assert choice_of_k.common(curves) == {0: [[0.4]], 1: [[0.4]]}
    assert choice_of_k.common(curves[:1] + [(("blur", 0.1), 1, [1.0])]) == {}
    records = [{"setting": {"rate": rate, "seed": seed}} for rate, seed in
               ((0.1, 0), (0.4, 0), (0.4, 1))]
    assert magnitude.complete(records) == [0]


def test_curves_of_several_seeds_end_where_the_first_one_stopped():
    assert iterations.average([[0.2, 0.4, 0.9], [0.4, 0.6], []]) == pytest.approx([0.3, 0.5])


def test_a_perfect_prediction_of_noisy_retrainings_has_a_ceiling():
    truth = RNG.normal(size=200_000)
    one, two = (truth + RNG.normal(size=truth.size) for _ in range(2))
    agreement = np.corrcoef(one, two)[0, 1]
    assert lds.ceiling(agreement) == pytest.approx(np.corrcoef(truth, one + two)[0, 1], abs=0.01)


def judged_count(value, clean, again, **after):
    return {"value": value, "clean": clean, "after": {"again": again, **after}}


def test_a_count_comes_closer_or_goes_farther_unless_there_is_nothing_to_see():
    hurt = judged_count(200, 260, 203, worse=150, better=255, beyond=325)
    assert [denoising.closer(hurt, name) for name in ("worse", "better", "beyond")] == [-1, 1, -1]
    assert denoising.closer(judged_count(258, 260, 255, worse=100), "worse") is None
    for complaint, asked in (("too low", [False, True]), ("too high", [True, False])):
        judged = {**hurt, "complaint": complaint}
        assert [denoising._as_asked(judged, name) for name in ("worse", "better")] == asked


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
