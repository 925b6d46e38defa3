"""docs/paper.md: what was found, what the paper reports, why the two differ."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from pgrain.demo.paper import draw
from pgrain.demo.paper.experiments import NAMES, experiment
from pgrain.demo.paper.records import Records
from pgrain.demo.paper.scales import Scale


def _template(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


def machine() -> str:
    """Hardware, versions, commit: one paragraph."""
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists(
            "/proc/cpuinfo") else []:
        if line.startswith("model name"):
            cpu = line.split(":")[1].strip()
            break
    try:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                                text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return (f"{cpu}, {os.cpu_count()} cores, no GPU; Python {platform.python_version()}, "
            f"jax {version('jax')}, numpy {version('numpy')}; commit {commit}.")


def write(path: Path, scale: Scale, records: Records, note: str = "") -> None:
    """The page, its plots beside it in the folder `paper`."""
    folder = path.parent / "paper"
    models = ", ".join(f"{name} {dict(options)}" if options else f"{name} of default size"
                       for name, options in ((n, scale.options.get(n, ())) for n in scale.sample))
    parts = [_template("page_head.md").format(
        scale=scale.name, machine=f"{machine()} {note}".strip(), fashion_rows=scale.rows["fashion"],
        models=models.replace("{", "(").replace("}", ")").replace("'", ""))]
    for name in NAMES:
        one = experiment(name)
        jobs = one.jobs(scale)
        found = records.all(jobs)
        seconds = sum(record["took"] for record in found)
        sizes = sorted({f"{r['setting']['data']} {r['n_rows']:,} rows, "
                        f"{r['setting']['architecture']} of {r['n_parameters']:,} parameters"
                        for r in found if "setting" in r})
        parts += [f"## {one.TITLE}", f"`pgrain paper {name} --scale {scale.name}`: {len(found)} of "
                  f"{len(jobs)} configurations measured, {seconds:,.0f} s. "
                  + ("; ".join(sizes) + "." if sizes else ""),
                  f"**Reported:** {one.REPORTED}",
                  one.render(found, folder) if found else draw.table([], [])]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join([*(part.strip() for part in parts),
                                 _template("page_tail.md").strip()]) + "\n")
