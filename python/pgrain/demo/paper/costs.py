"""How long a run will take, before it starts: from the records that are kept, else from a table.

Seconds of processor time, of all threads: unlike the seconds on the clock they mean the same on a
machine that is busy with other work. Two quiet cores are done earlier, by up to half.
"""

from __future__ import annotations

import statistics

from pgrain.demo.paper.records import Job, Records

SECONDS = 60.0
"""Of a configuration of a kind that nothing is known of."""
TYPICAL = {
    ("setting", "mlp"): 45, ("setting", "logistic_regression"): 15, ("setting", "cnn"): 300,
    ("setting", "lstm"): 150, ("setting", "wide_resnet_10"): 600, ("points", "mlp"): 60,
    ("peers", "mlp"): 60, ("peers", "logistic_regression"): 15, ("peers", "lstm"): 5,
    ("surface", "mlp"): 90, ("surface", "logistic_regression"): 40, ("repaired", "mlp"): 150,
    ("repaired", "logistic_regression"): 150, ("latency", "mlp"): 120, ("latency", "cnn"): 300,
    ("latency", "logistic_regression"): 80, ("streaming", "mlp"): 90}
"""By kind and architecture, at the scale `small`, where no record is kept: rough."""


def _like(kind: str, what: dict) -> tuple:
    """What makes two jobs cost about the same."""
    return (kind, what.get("data"), what.get("architecture"), what.get("model"), what.get("rows"),
            bool(what.get("cg")), bool(what.get("baselines", True)), what.get("pairs"),
            bool(what.get("denoise")), bool(what.get("swept")), tuple(what.get("peers", ())))


def _parts(like: tuple) -> tuple[tuple, ...]:
    """From the most alike to the least: all of it; data, architecture and model; the kind."""
    return like, like[:4], like[:1]


def known(records: Records) -> dict[tuple, float]:
    """Median processor seconds of the kept records, by `_like`, and by its first parts."""
    found: dict[tuple, list[float]] = {}
    for record in records.every_kept():
        if "cpu" not in record:
            continue
        like = _like(record["kind"], record["setting"])
        for name in _parts(like):
            found.setdefault(name, []).append(record["cpu"])
    return {name: statistics.median(values) for name, values in found.items()}


def predict(job: Job, table: dict[tuple, float]) -> float:
    """Processor seconds of a job, from the most like it that was measured."""
    like = _like(job.kind, job.what)
    for name, seconds in ((like, table), (like[:4], table), ((job.kind, like[2]), TYPICAL),
                          (like[:1], table)):
        if name in seconds:
            return float(seconds[name])
    return SECONDS


def duration(seconds: float) -> str:
    """Hours and minutes, for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
