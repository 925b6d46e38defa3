"""How long a run will take, before it starts: from the records that are kept, else from a table.

Seconds of processor time, of all threads: unlike the seconds on the clock they mean the same on a
machine that is busy with other work. Two quiet cores are done earlier, by up to half.
"""

from __future__ import annotations

import statistics

from pgrain.demo.paper.records import Job, Records

SECONDS = 60.0
"""Of a configuration of a kind that nothing is known of."""


def _like(kind: str, what: dict) -> tuple:
    """What makes two jobs cost about the same."""
    return (kind, what.get("data"), what.get("architecture"), what.get("rows"),
            bool(what.get("cg")), bool(what.get("baselines", True)))


def known(records: Records) -> dict[tuple, float]:
    """Median processor seconds of the kept records, by `_like`, and by its first three."""
    found: dict[tuple, list[float]] = {}
    for record in records.every_kept():
        if "cpu" not in record:
            continue
        like = _like(record["kind"], record["setting"])
        for name in (like, like[:3], like[:1]):
            found.setdefault(name, []).append(record["cpu"])
    return {name: statistics.median(values) for name, values in found.items()}


def predict(job: Job, table: dict[tuple, float]) -> float:
    """Processor seconds of a job, from the most like it that was measured."""
    like = _like(job.kind, job.what)
    return next((table[name] for name in (like, like[:3], like[:1]) if name in table), SECONDS)


def duration(seconds: float) -> str:
    """Hours and minutes, for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
