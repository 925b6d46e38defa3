"""Records of the paper's experiments: kept, taken up, compared; what a run costs."""

from __future__ import annotations

import json

import pytest

from pgrain.demo.paper import (
    baselines,
    command,
    costs,
    peaks,
)
from pgrain.demo.paper.cases import Setting
from pgrain.demo.paper.experiments import NAMES, experiment, jobs_of, setting_of
from pgrain.demo.paper.records import Job, Records, changes
from pgrain.demo.paper.scales import SCALES


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


def test_a_ranking_is_compared_on_the_seeds_that_both_have():
    of = [({"k": 1, "setting": {"seed": seed}}, {"rain++": [own, 0.9], "rain": [0.2, rain]})
          for seed, own, rain in ((0, 0.5, 0.7), (1, 0.1, 0.1))]
    automatic = baselines.by_seed(of, "automatic", {})
    assert automatic == {0: 0.5, 1: 0.1} and baselines.by_seed(of, "best", {}) == {0: 0.9, 1: 0.9}
    assert baselines.by_seed(of, "rain", {}) == {0: 0.7, 1: 0.2}
    assert baselines.lead(automatic, baselines.by_seed(of, "ekfac", {"ekfac": {0: 0.8}})) == \
        pytest.approx(0.3)                                   # not 0.8 against the mean of both, 0.3
    assert baselines.lead(automatic, {7: 1.0}) is None


def test_processor_time_used_elsewhere_is_counted(tmp_path):
    found = Records(tmp_path).measure(Job("peers", {}), lambda: {"elsewhere": 40.0, "a": 1})
    assert 40 <= found["cpu"] < 45 and "elsewhere" not in found and found["a"] == 1


def test_what_is_largest_for_the_least_comes_last():
    """A run that ends after its hours has the other figures."""
    jobs = command.plan(NAMES, SCALES["small"])
    late = [peaks.name_of(job.what) for job in jobs if job.kind == "setting"][-12:]
    assert {name.split(", ", 1)[1] for name in late} == {
        f"cnn, {error}, {whom}" for error in peaks.NOISE for whom in ("one class", "all rows")}
    seeds = [job.what.get("seed", 0) for job in jobs[:-12]]
    assert seeds == sorted(seeds)
