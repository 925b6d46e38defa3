"""`pgrain paper`: what it says before it measures, and what it does when something is missing."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from pgrain.demo import sources
from pgrain.demo.datasets import DatasetMissing
from pgrain.demo.paper import command as paper
from pgrain.demo.paper import page, sizes
from pgrain.demo.paper.cases import load
from pgrain.demo.paper.experiments import setting_of
from pgrain.demo.paper.measure import build_model
from pgrain.demo.paper.records import Records
from pgrain.demo.paper.scales import SCALES

SMALL = SCALES["small"]


def invoke(folder: Path, *arguments: str):
    return CliRunner().invoke(paper.command, [
        "--page", str(folder / "docs" / "p.md"), "--records", str(folder / "records"), *arguments])


@pytest.fixture
def only_fashion(monkeypatch):
    def look(name):
        if name != "fashion":
            raise DatasetMissing(f"fetch {name}")

    monkeypatch.setattr(sources, "look", look)


@pytest.mark.parametrize(("data", "architecture"), [
    ("mnist", "mlp"), ("fashion", "cnn"), ("adult", "logistic_regression"), ("reviews", "lstm")])
def test_shapes_of_the_plan_are_those_of_the_data(data, architecture):
    setting = SMALL.setting(data, architecture, "none")
    try:
        case = load(setting)
    except DatasetMissing as error:
        pytest.skip(str(error))
    shape = sizes.SHAPES[data]
    assert shape.row == case.X.shape[1:] and shape.classes == case.n_classes
    assert sizes.rows_of(setting) == (len(case.y), len(case.query_y))
    assert sizes.model_of(setting) is build_model(setting, case)


def test_operations_are_those_of_the_layers():
    mlp = sizes.model_of(SMALL.setting("fashion", "mlp", "none"))
    assert sizes.forward(mlp) == 2 * (784 * 128 + 128 * 10)
    # A step of the lstm: four gates of 32 units, from 32 numbers of a word and 32 of its state.
    lstm = sizes.model_of(SMALL.setting("reviews", "lstm", "none"))
    assert sizes.forward(lstm) == 46 * 2 * 4 * 32 * (32 + 32) + 2 * 32 * 2


def test_operations_of_a_convolution_are_those_of_its_kernel(monkeypatch):
    import jax
    import jax.numpy as jnp
    traced = jax.make_jaxpr(lambda x, k: jax.lax.conv_general_dilated(
        x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))(
        jnp.zeros((3, 8, 8, 5)), jnp.zeros((3, 3, 5, 7)))
    assert sizes._operations(traced.jaxpr) == 2 * (3 * 4 * 4 * 7) * (3 * 3 * 5)


def test_the_plan_has_its_total_first_and_last_and_reads_no_data(tmp_path, monkeypatch):
    def looked(*given):
        raise AssertionError("the plan reads data")

    monkeypatch.setattr("pgrain.demo.paper.cases.load", looked)
    monkeypatch.setattr(sources, "open_source", looked)
    done = invoke(tmp_path, "--plan")
    assert done.exit_code == 0, done.output
    first, *between, last = done.output.splitlines()
    assert first == last and "configurations" in first and "processor time" in first
    assert any("cnn" in line and "33,546 parameters" in line for line in between)
    assert list(tmp_path.iterdir()) == []


def test_missing_data_are_said_once_before_anything_is_made(tmp_path, only_fashion, monkeypatch):
    def worked(job, say):
        raise AssertionError(f"measures {job}")

    monkeypatch.setattr(paper, "work", worked)
    done = invoke(tmp_path, "adult", "surface")
    assert done.exit_code == 1 and "nothing was measured" in done.output
    assert done.output.count("fetch adult") == done.output.count("fetch mnist") == 1
    assert list(tmp_path.iterdir()) == []


def test_missing_data_can_be_left_out(tmp_path, only_fashion, monkeypatch):
    asked = []

    def worked(job, say):
        asked.append(job)
        return {}

    monkeypatch.setattr(paper, "work", worked)
    monkeypatch.setattr(page, "write", lambda *given: None)
    done = invoke(tmp_path, "peaks", "--skip-missing")
    assert done.exit_code == 1 and done.output.count("fetch mnist") == 1
    assert asked and {job.what["data"] for job in asked} == {"fashion"}
    nothing = invoke(tmp_path / "other", "surface", "--skip-missing")
    assert nothing.exit_code == 1 and "no page was written" in nothing.output


def test_a_page_of_nothing_is_no_page(tmp_path, monkeypatch):
    # Without --records they are looked for below the current folder.
    monkeypatch.chdir(tmp_path)
    written = tmp_path / "docs" / "p.md"
    written.parent.mkdir()
    written.write_text("what was here")
    for done in (invoke(tmp_path, "--render-only"),
                 CliRunner().invoke(paper.command, ["--render-only", "--page", str(written)])):
        assert done.exit_code == 1 and "nothing was written" in done.output
        assert written.read_text() == "what was here"


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("swallowed", [False, True])
def test_ctrl_c_writes_the_page_and_a_second_one_ends(tmp_path, twice, swallowed, monkeypatch):
    """swallowed: by a callback in C, as some of JAX do."""
    written, begun = [], []

    def write(path, scale, records, note):
        if twice:
            os.kill(os.getpid(), signal.SIGINT)
        written.append(path)

    def worked(job, say):
        begun.append(job)
        if len(begun) == 2:
            with contextlib.suppress(*[KeyboardInterrupt] if swallowed else []):
                os.kill(os.getpid(), signal.SIGINT)
        return {}

    def ended(status):
        raise SystemExit(status)

    monkeypatch.setattr(sources, "look", lambda name: None)
    monkeypatch.setattr(paper.os, "_exit", ended)
    monkeypatch.setattr(paper, "work", worked)
    monkeypatch.setattr(page, "write", write)
    before = signal.getsignal(signal.SIGINT)
    done = invoke(tmp_path, "controls")
    assert done.exit_code == 130 and isinstance(done.exception, SystemExit)
    assert done.output.count("goes on where it was") == 2          # at the start, and when it stops
    assert ("before the page was written" in done.output) == twice == (not written)
    assert len(begun) == 2 and signal.getsignal(signal.SIGINT) is before


def test_where_every_data_set_comes_from_is_known(monkeypatch, tmp_path):
    monkeypatch.setenv("PGRAIN_CACHE", str(tmp_path))
    monkeypatch.delenv("PGRAIN_CIFAR10", raising=False)
    for name in ("mnist", "adult", "reviews", "cifar10", "nonsense"):
        with pytest.raises(DatasetMissing):
            sources.look(name)
    needed = {job.what["data"] for scale in SCALES.values()
              for job in paper.plan(paper.NAMES, scale) if "data" in job.what}
    assert needed <= set(sizes.SHAPES)


def test_the_least_time_follows_from_the_rate(tmp_path):
    jobs = paper.plan(("controls",), SMALL)
    lines: list[str] = []
    records = Records(tmp_path)
    least = sizes.describe(jobs, records, lines.append, 1e9)
    each = sum(sizes.operations(setting_of(jobs[0].what),
                                sizes.model_of(setting_of(jobs[0].what))).values())
    assert math.isclose(least, len(jobs) * each / 1e9, rel_tol=0.5) and "at least" in lines[0]
    assert sizes.describe(jobs, records, lines.append) == 0
