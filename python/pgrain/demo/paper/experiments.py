"""Which measurements each figure and table needs. One list, in the order of the paper.

An experiment is a module of `pgrain.demo.paper` with TITLE, HOW (through SQL, or with the library
alone), REPORTED (what the paper says),
`jobs(scale)` and `render(records, folder, scale) -> Markdown`; `folder` takes
its plots. Sentences with numbers are made from the records, or printed at the scale `small` alone,
whose records are kept and were read beside them.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from pgrain.demo.paper.cases import Setting
from pgrain.demo.paper.records import Job

NAMES = ("latency", "spectra", "iterations", "peaks", "choice_of_k", "online", "pool", "streaming",
         "offline", "points", "two_errors", "adult", "magnitude", "denoising", "baselines",
         "controls", "lds", "repaired", "surface")


def experiment(name: str) -> ModuleType:
    return importlib.import_module(f"pgrain.demo.paper.{name}")


def jobs_of(settings: list[Setting]) -> list[Job]:
    """Jobs of plain settings, each once."""
    return [Job("setting", s.as_json()) for s in dict.fromkeys(settings)]


def setting_of(what: dict) -> Setting:
    """The inverse of `Setting.as_json`."""
    options = tuple((name, tuple(value) if isinstance(value, list) else value)
                    for name, value in what["options"].items())
    return Setting(**{**what, "queries": tuple(what["queries"]),
                      "swept": tuple(what["swept"]), "options": options,
                      "peers": tuple(what.get("peers", ()))})


def work(job: Job, say) -> dict:
    """Measures a job of any kind."""
    if job.kind == "setting":
        from pgrain.demo.paper.measure import measure
        return measure(setting_of(job.what), say)
    return experiment(job.kind).measure(job.what, say)
