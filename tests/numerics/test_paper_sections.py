"""Sections of docs/paper.md: their sentences, tables and figures come from the records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pgrain.demo.paper import (
    adult,
    baselines,
    choice_of_k,
    denoising,
    draw,
    iterations,
    latency,
    lds,
    magnitude,
    page,
    peaks,
    peers,
    points,
    repaired,
    two_errors,
)
from pgrain.demo.paper.experiments import NAMES, experiment
from pgrain.demo.paper.records import Job, Records
from pgrain.demo.paper.scales import SCALES, UNRELATED

SYSTEMATIC = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
KEPT = Path(__file__).resolve().parents[2] / "docs" / "paper" / "records" / "small.jsonl"
RNG = np.random.default_rng(0)


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


def test_the_machine_of_each_record_is_on_the_page(tmp_path, monkeypatch):
    """A page may be of several: times of one say nothing of another."""
    monkeypatch.setattr("pgrain.demo.paper.records.hardware", lambda: "Abacus, 10 cores")
    found = Records(tmp_path).measure(Job("pool", {}), dict)
    assert page._load([found]).endswith("on Abacus, 10 cores")
    both = page._load([found, {"machine": "Slide rule"}])
    assert both.endswith("on Abacus, 10 cores and Slide rule")
    assert " on " not in page._load([{"load": 2.0}])


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
