"""docs/paper.md: what was found, what the paper reports, why the two differ."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

from pgrain.demo.paper import draw
from pgrain.demo.paper.experiments import NAMES, experiment
from pgrain.demo.paper.records import Records, commit, hardware
from pgrain.demo.paper.scales import Scale


def _template(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


def machine() -> str:
    """Hardware, versions, commit: one paragraph."""
    return (f"{hardware()}; Python {platform.python_version()}, "
            f"jax {version('jax')}, numpy {version('numpy')}; rendered at commit {commit()}.")


def device() -> str:
    """What JAX computes on."""
    import jax
    kind = jax.devices()[0].device_kind
    return f"{os.cpu_count()} cores, no GPU" if kind == "cpu" else f"{jax.device_count()} {kind}"


def _load(records: list[dict]) -> str:
    """What else the machine did: times mean little without it."""
    loads = [r["load"] for r in records if "load" in r]
    machines = sorted({r["machine"] for r in records if "machine" in r})
    return (f", load average {min(loads):g} to {max(loads):g} at the start (two busy cores: 2)"
            if loads else "") + (f", on {' and '.join(machines)}" if machines else "")


def section(name: str, scale: Scale, records: Records, folder: Path) -> str:
    """One experiment: how to make it alone, what the paper reports, what was found; `folder` takes
    the plots."""
    one = experiment(name)
    jobs = one.jobs(scale)
    found = records.all(jobs)
    used = sum(record.get("cpu", 0) for record in found)
    commits = ", ".join(sorted({r["commit"] for r in found if "commit" in r}))
    head = (f"`pgrain paper {name} --scale {scale.name}`: {len(found)} of {len(jobs)} "
            f"configurations measured, {used:,.0f} s of processor time"
            f"{f', commit {commits}' if commits else ''}"
            f"{_load(found) if hasattr(one, 'TIMED') else ''}. Measured {one.HOW}.")
    body = one.render(found, folder, scale) if found else draw.table([], [])
    return "\n\n".join([f"## {one.TITLE}", head, f"**Reported:** {one.REPORTED}", body.strip()])


def _rows(scale: Scale, data: str) -> str:
    """Rows to learn from and to query."""
    from pgrain.demo.paper.sizes import SHAPES
    shape = SHAPES[data]
    return f"{min(scale.rows[data], shape.train):,} + {shape.query:,}".replace(",", " ")


def only(text: str, scale: Scale) -> str:
    """Lines that end in `<!-- NAME -->` belong to the scale of that name alone."""
    lines = (re.fullmatch(r"(.*?)(?: <!-- (\w+) -->)?", line).groups()
             for line in text.splitlines())
    return "\n".join(line for line, name in lines if name in (None, scale.name))


def write(path: Path, scale: Scale, records: Records, note: str = "") -> None:
    """The page, its plots beside it in the folder of its name."""
    folder = path.with_suffix("")
    models = ", ".join(f"{name} {dict(options)}" if options else f"{name} of default size"
                       for name, options in ((n, scale.options.get(n, ())) for n in scale.sample))
    every = {job.key: job for name in NAMES for job in experiment(name).jobs(scale)}
    used = sum(record.get("cpu", 0) for record in records.all(list(every.values())))
    parts = [only(_template("page_head.md"), scale).format(
        scale=scale.name, device=device(), minutes=f"{used / 60:,.0f}",
        machine=f"{machine()} {note.rstrip('.')}{'.' if note else ''}".strip(),
        **{data: _rows(scale, data) for data in ("mnist", "fashion", "adult", "reviews")},
        wide=f"Wide residual networks learn {scale.colour} here" if scale.wide_resnets
        else "Where there is a WRN-10, in figure 2, it learns a part of Fashion-MNIST",
        hessian=", ".join(f"{name} {n:,}" for name, n in scale.sample.items()), cg=scale.cg,
        long_cg=scale.long_cg, pairs=scale.pairs,
        models=models.replace("{", "(").replace("}", ")").replace("'", "")).strip()]
    parts += [section(name, scale, records, folder) for name in NAMES]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join([*parts, only(_template("page_tail.md").strip(), scale)]) + "\n"
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(text.replace("](paper/", f"]({folder.name}/"))
    partial.replace(path)
