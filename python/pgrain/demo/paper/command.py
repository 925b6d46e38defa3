"""`pgrain paper`: measure what is missing, then write docs/paper.md from what is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import psycopg
from click.core import ParameterSource

from pgrain.cli.background import WorkerError
from pgrain.cli.cluster import ClusterError
from pgrain.cli.install import InstallError
from pgrain.demo import sources
from pgrain.demo.datasets import DatasetBroken, DatasetMissing
from pgrain.demo.feature_errors import ERRORS
from pgrain.demo.paper import costs
from pgrain.demo.paper.experiments import NAMES, experiment, work
from pgrain.demo.paper.records import Job, Records, changes
from pgrain.demo.paper.scales import SCALES, Scale
from pgrain.errors import PgrainError

RECORDS = Path(".local/paper")
FAILURES = (DatasetMissing, DatasetBroken, PgrainError, RuntimeError, OSError, InstallError,
            ClusterError, WorkerError, psycopg.Error, subprocess.SubprocessError)
"""What one configuration may fail with while the others go on; anything else is a bug of ours."""
FELL = 0.03
"""AUC_R that falls by more than this against the kept records is printed at the end of a run."""


def plan(names: tuple[str, ...], scale: Scale) -> list[Job]:
    """Jobs of the experiments, each once; first seeds first, and the noise of the convolutions, the
    largest part for the least of the figures, last, so that a run that is stopped early has
    something of everything."""
    by_key = {job.key: job for name in names for job in experiment(name).jobs(scale)}

    def turn(job: Job) -> tuple[bool, int]:
        late = job.kind == "setting" and job.what["architecture"] == "cnn" and \
            job.what["error"] in ERRORS and not job.what["denoise"]
        return late, job.what.get("seed", 0)

    return sorted(by_key.values(), key=turn)


def label(job: Job) -> str:
    """A job in a few words."""
    return f"{job.kind} " + " ".join(
        str(job.what[name]) for name in ("data", "architecture", "model", "error", "rate",
                                           "seed") if name in job.what)


def run(jobs: list[Job], records: Records, say: Callable[[str], None],
        hours: float | None = None) -> tuple[list[str], list[str]]:
    """Measures every job that has no record; sentences about those that could not be, and names of
    those that were not begun. hours: no job is begun that is predicted to end after them."""
    failures: list[str] = []
    late: list[str] = []
    table = costs.known(records)
    left = {job.key: costs.predict(job, table) for job in jobs if records.get(job) is None}
    everything, started = sum(left.values()), time.monotonic()
    # Predictions are of processor time; what the clock shows for it is learned on the way.
    spent = passed = 0.0
    for number, job in enumerate(jobs, 1):
        if job.key not in left:
            continue
        name = label(job)
        elapsed = time.monotonic() - started
        pace = passed / spent if spent else 1.0
        if hours is not None and elapsed + pace * left[job.key] > 3600 * hours:
            late.append(name)
            continue
        done = 1 - sum(left.values()) / everything if everything else 1.0
        say(f"[{number}/{len(jobs)}, {done:.0%}, about "
            f"{costs.duration(pace * sum(left.values()))} to go] {name}")
        try:
            found = records.measure(job, lambda job=job, name=name: work(
                job, lambda text: say(f"  {name}: {text}")))
        except FAILURES as error:
            failures.append(f"{name}: {error}")
            say(f"  {name}: {error}")
        else:
            passed += found["took"]
            spent += left[job.key]
            say(f"  {name}: {found['took']:g} s, {found['cpu']:g} s of processor time")
        del left[job.key]
    return failures, late


def estimate(jobs: list[Job], records: Records) -> str:
    """What is missing and how long it will take."""
    table = costs.known(records)
    missing = [job for job in jobs if records.get(job) is None]
    seconds = sum(costs.predict(job, table) for job in missing)
    return (f"{len(jobs)} configurations, {len(missing)} to be measured: about "
            f"{costs.duration(seconds)} of processor time; on two quiet cores between half of that "
            "and all of it. It may be stopped at any time (Ctrl-C); the same command goes on where "
            "it was.")


def describe(jobs: list[Job], records: Records, scale: Scale, say: Callable[[str], None],
             lines: bool) -> None:
    """The total, then what it is made of, then the total again: it is looked for in both places."""
    if scale.name != "full":
        total = estimate(jobs, records)
        say(total)
        if lines:
            from pgrain.demo.paper import sizes
            sizes.describe(jobs, records, say)
            say(total)
        return
    from pgrain.demo.paper import sizes
    from pgrain.demo.timing import device_rate
    rate, found = device_rate(), []
    least = sizes.describe(jobs, records, found.append, rate)
    total = (f"{len(jobs)} configurations; those missing take at least {costs.duration(least)} on "
             f"this device, at the rate of its matrix products ({rate / 1e9:,.0f} G operations a "
             "second)")
    for line in (total, *found, *([total] if lines else [])):
        say(line)


def absent(jobs: list[Job], records: Records) -> dict[str, tuple[str, list[Job]]]:
    """Data sets that jobs without a record need and that are not here: why, and those jobs."""
    needing: dict[str, list[Job]] = {}
    for job in jobs:
        if job.what.get("data") and records.get(job) is None:
            needing.setdefault(job.what["data"], []).append(job)
    found = {}
    for name, of in needing.items():
        try:
            sources.look(name)
        except (DatasetMissing, DatasetBroken) as error:
            found[name] = str(error), of
    return found


class Interrupts:
    """Ctrl-C during a run: said at once; the run ends, the page is written. During that it ends
    the process. An interrupt that arrives in a callback of JAX is swallowed there: it is raised
    again at the next line that is said."""

    def __init__(self):
        self.count, self.writing = 0, False

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *of) -> None:
        signal.signal(signal.SIGINT, self._before)

    def say(self, text: str) -> None:
        if self.count:
            raise KeyboardInterrupt
        click.echo(text)

    def _handle(self, number, frame) -> None:
        self.count += 1
        if self.writing:
            click.echo("\nended before the page was written")
            sys.stdout.flush()
            os._exit(130)
        if self.count == 1:
            click.echo("\nstopping; the same command goes on where it was. The page is written "
                       "from what is there, then this ends; Ctrl-C during that ends it at once")
        raise KeyboardInterrupt


def _check(say) -> None:
    """Measures anew, in memory: what is kept on disk would hide a change of the code."""
    from pgrain.demo.paper.bounds import BOUNDS
    found: dict[str, dict] = {}
    broken = []
    for bound in BOUNDS:
        if bound.job.key not in found:
            found[bound.job.key] = work(bound.job, lambda text: None)
        value, holds = bound.holds(found[bound.job.key])
        say(f"{'ok  ' if holds else 'FAIL'}  {value:6.3f}  {bound.says}")
        if not holds:
            broken.append(bound.says)
    if broken:
        raise click.ClickException(f"{len(broken)} of {len(BOUNDS)} bounds do not hold")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("names", nargs=-1, type=click.Choice(NAMES), metavar="[EXPERIMENT]...")
@click.option("--scale", default="small", type=click.Choice(sorted(SCALES)))
@click.option("--page", type=click.Path(path_type=Path),
              help="where to write what was found, docs/paper.md at the scale `small` and "
                   "docs/paper-<scale>.md at the others; plots and records go into a folder of "
                   "that name beside it")
@click.option("--records", default=RECORDS, type=click.Path(path_type=Path),
              help="measurements, one file each; what is there is not measured again")
@click.option("--check", is_flag=True,
              help="measure nothing but what the bounds of the quick scale need, and check them")
@click.option("--note", default="", help="a sentence for the page: what else the machine did")
@click.option("--render-only", is_flag=True, help="write the page from what is there")
@click.option("--plan", "plan_only", is_flag=True,
              help="print what would be measured, how large it is and how long it takes")
@click.option("--hours", type=float, help="begin nothing that would end after so many")
@click.option("--skip-missing", is_flag=True,
              help="leave out what needs a data set that is not here")
@click.pass_context
def command(context: click.Context, names: tuple[str, ...], scale: str, page: Path | None,
            records: Path, note: str, render_only: bool, check: bool, plan_only: bool,
            hours: float | None, skip_missing: bool) -> None:
    if check:
        _check(click.echo)
        return
    page = page or Path("docs") / ("paper.md" if scale == "small" else f"paper-{scale}.md")
    store = Records(records / scale, page.with_suffix("") / "records" / f"{scale}.jsonl")
    every = plan(NAMES, SCALES[scale])
    jobs = plan(names or NAMES, SCALES[scale])
    if plan_only:
        describe(jobs, store, SCALES[scale], click.echo, lines=True)
        return
    if render_only:
        named = context.get_parameter_source("records") is not ParameterSource.DEFAULT
        _some(every, store, named)
    failures: list[str] = []
    late: list[str] = []
    with Interrupts() as interrupts:
        if not render_only:
            skipped = _without(absent(jobs, store), skip_missing)
            failures += skipped.values()
            jobs = [job for job in jobs if job.key not in skipped]
            describe(jobs, store, SCALES[scale], interrupts.say, lines=False)
            try:
                failed, late = run(jobs, store, interrupts.say, hours)
                failures += failed
            except KeyboardInterrupt:
                pass
        interrupts.writing = True
        fell = [what for change, what in changes(store, jobs) if change < -FELL]
        there = bool(store.all(every))
        if there:
            from pgrain.demo.paper.page import write
            store.keep(every)
            write(page, SCALES[scale], store, note)
    click.echo(f"wrote {page} and {store.kept}" if there else
               "nothing has been measured: no page was written")
    if fell:
        click.echo(f"AUC_R at the automatic k fell by more than {FELL} against the kept records:\n"
                   "  " + "\n  ".join(fell))
    if late:
        click.echo(f"{len(late)} configurations would have ended after {hours:g} hours and were "
                   "not begun; the same command goes on with them")
    if interrupts.count:
        sys.exit(130)
    if failures:
        raise click.ClickException("not measured:\n  " + "\n  ".join(dict.fromkeys(failures)))


command.help = ("The paper's experiments: all of them, or those named.\n\nThey are "
                f"{', '.join(NAMES[:-1])} and {NAMES[-1]}.")


def _some(jobs: list[Job], records: Records, named: bool) -> None:
    """An error where there is nothing to write a page from. named: the folder was asked for, so
    that records kept beside the page are not what is meant."""
    if named and not records.folder.is_dir():
        raise click.ClickException(f"there is no folder {records.folder} with records; nothing was "
                                   "written")
    if not records.all(jobs):
        raise click.ClickException(f"there are no records of this scale, neither in "
                                   f"{records.folder} nor in {records.kept}; nothing was written. "
                                   "Without --render-only they are measured")


def _without(missing: dict[str, tuple[str, list[Job]]], skip: bool) -> dict[str, str]:
    """Key of each job that cannot be measured -> why; an error unless they are to be skipped."""
    lines = [f"{len(of)} configurations need {name}: {why}"
             for name, (why, of) in missing.items()]
    if lines and not skip:
        raise click.ClickException("\n  ".join(
            ["nothing was measured, data sets are missing:", *lines,
             "--skip-missing measures the others"]))
    return {job.key: line
            for line, (_, of) in zip(lines, missing.values(), strict=True) for job in of}
