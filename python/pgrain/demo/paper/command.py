"""`pgrain paper`: measure what is missing, then write docs/paper.md from what is there."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pgrain.demo.datasets import DatasetBroken, DatasetMissing
from pgrain.demo.paper.experiments import NAMES, experiment, work
from pgrain.demo.paper.records import Job, Records
from pgrain.demo.paper.scales import SCALES, Scale
from pgrain.errors import PgrainError

RECORDS = Path(".local/paper")


def plan(names: tuple[str, ...], scale: Scale) -> list[Job]:
    """Jobs of the experiments, each once; first seeds first, so that a run that is stopped early
    has something of everything."""
    by_key = {job.key: job for name in names for job in experiment(name).jobs(scale)}
    return sorted(by_key.values(), key=lambda job: job.what.get("seed", 0))


def run(names: tuple[str, ...], scale: Scale, records: Records, say) -> list[str]:
    """Measures every job that has no record; sentences about those that could not be."""
    jobs = plan(names, scale)
    failures = []
    started = time.monotonic()
    for number, job in enumerate(jobs, 1):
        if records.get(job) is not None:
            continue
        label = f"[{number}/{len(jobs)}] {job.kind} " + " ".join(
            str(job.what[name]) for name in ("data", "architecture", "error", "rate", "seed")
            if name in job.what)
        say(label)
        try:
            found = records.measure(job, lambda job=job, label=label: work(
                job, lambda text: say(f"{label}: {text}")))
            say(f"{label}: {found['took']} s; {time.monotonic() - started:.0f} s in all")
        except (DatasetMissing, DatasetBroken, PgrainError, RuntimeError) as error:
            failures.append(f"{label.split('] ')[1]}: {error}")
            say(f"{label}: {error}")
    return failures


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
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--scale", default="small", type=click.Choice(sorted(SCALES)))
@click.option("--page", default=Path("docs/paper.md"), type=click.Path(path_type=Path),
              help="where to write what was found; plots go into a folder beside it")
@click.option("--records", default=RECORDS, type=click.Path(path_type=Path),
              help="measurements, one file each; what is there is not measured again")
@click.option("--check", is_flag=True,
              help="measure nothing but what the bounds of the quick scale need, and check them")
@click.option("--note", default="", help="a sentence for the page: what else the machine did")
@click.option("--render-only", is_flag=True, help="write the page from what is there")
def command(names: tuple[str, ...], scale: str, page: Path, records: Path,
            note: str, render_only: bool, check: bool) -> None:
    """The paper's experiments: all of them, or those named."""
    if check:
        _check(click.echo)
        return
    store = Records(records / scale)
    failures: list[str] = []
    if not render_only:
        failures = run(names or NAMES, SCALES[scale], store, click.echo)
    from pgrain.demo.paper.page import write
    write(page, SCALES[scale], store, note)
    click.echo(f"wrote {page}")
    if failures:
        raise click.ClickException("not measured:\n  " + "\n  ".join(failures))
