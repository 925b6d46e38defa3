"""Measurements on disk: one JSON file a configuration, so that a run can be taken up again.

Two places. The folder of a run (`.local/paper/<scale>`) decides what is measured again: nothing
that is in it. The file kept in the repository (`docs/paper/records/<scale>.jsonl`, a line a
record) never does: a fresh clone measures everything, and can be compared with what was kept; and
the page can be rendered from it without measuring.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

VERSION = 1
"""Raised when the meaning of records changes; older ones are then measured again."""


@dataclass(frozen=True)
class Job:
    """kind: which function measures; what: its configuration, plain JSON values."""

    kind: str
    what: dict

    @property
    def key(self) -> str:
        text = json.dumps([VERSION, self.kind, self.what], sort_keys=True)
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def commit() -> str:
    """Of the working tree that measures."""
    try:
        return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                              text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware() -> str:
    """Of the machine that measures, in a few words."""
    cpu, told = platform.machine(), Path("/proc/cpuinfo")
    for line in told.read_text().splitlines() if told.exists() else []:
        if line.startswith("model name"):
            cpu = line.split(":")[1].strip()
            break
    return f"{cpu}, {os.cpu_count()} cores"


def cpu_seconds() -> float:
    """Processor time of this process and of children that have ended, all threads."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


class Records:
    """The records under a folder, and behind them those of `kept`, a file of JSON lines."""

    def __init__(self, folder: Path, kept: Path | None = None):
        self.folder, self.kept = folder, kept
        self._kept: dict[str, dict] = {}
        if kept is not None and kept.exists():
            lines = [json.loads(line) for line in kept.read_text().splitlines()]
            self._kept = {line["key"]: line["record"] for line in lines}

    def get(self, job: Job) -> dict | None:
        """What this folder has measured."""
        path = self.folder / f"{job.key}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def before(self, job: Job) -> dict | None:
        """What was kept of an earlier run."""
        return self._kept.get(job.key)

    def all(self, jobs: list[Job]) -> list[dict]:
        """Records of those jobs that have been measured, here or earlier, in order."""
        return [record for job in jobs
                if (record := self.get(job) or self.before(job)) is not None]

    def every_kept(self) -> list[dict]:
        return list(self._kept.values())

    def measure(self, job: Job, work: Callable[[], dict]) -> dict:
        """The record, measured if there is none; written in one step. took: seconds; cpu: seconds
        of processor time, which other work on the machine does not change, with those that the
        work says were used `elsewhere`, in a process that goes on; load: the load average when it
        began; machine: which one, since a page may be of several."""
        found = self.get(job)
        if found is not None:
            return found
        start, used, load = time.perf_counter(), cpu_seconds(), os.getloadavg()[0]
        found = {"kind": job.kind, "setting": job.what, **work()}
        found |= {"took": round(time.perf_counter() - start, 1), "load": round(load, 1),
                  "cpu": round(cpu_seconds() - used + found.pop("elsewhere", 0.0), 1),
                  "commit": commit(), "machine": hardware()}
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{job.key}.json"
        # A run that is stopped leaves no half record.
        partial = path.with_suffix(f".{os.getpid()}.part")
        partial.write_text(json.dumps(found))
        partial.replace(path)
        return found

    def keep(self, jobs: list[Job]) -> None:
        """Writes what was measured for these jobs, else what was kept of them, to the kept file;
        what none of them asks for goes. Lines are in the order of their keys, so that a change of
        one is a change of one line."""
        if self.kept is None:
            return
        every = {job.key: found for job in jobs
                 if (found := self.get(job) or self.before(job)) is not None}
        if not every:
            return
        self.kept.parent.mkdir(parents=True, exist_ok=True)
        partial = self.kept.with_suffix(f".{os.getpid()}.part")
        partial.write_text("".join(json.dumps({"key": key, "record": every[key]}) + "\n"
                                   for key in sorted(every)))
        partial.replace(self.kept)
        self._kept = every


def automatic(record: dict) -> dict[str, float]:
    """AUC_R at the automatic k by query, of a record that has any."""
    return {name: judged["rain++"][record["k"] - 1]
            for name, judged in record.get("queries", {}).items() if judged.get("rain++")}


def changes(records: Records, jobs: list[Job]) -> list[tuple[float, str]]:
    """(new AUC_R - kept AUC_R, which) at the automatic k of every query that is in both, the worst
    first. The same seeds on another machine differ by rounding, which training magnifies."""
    found = []
    for job in jobs:
        new, old = records.get(job), records.before(job)
        if new is None or old is None:
            continue
        old_values = automatic(old)
        name = " ".join(str(job.what[n]) for n in ("data", "architecture", "error", "rate", "seed")
                        if n in job.what)
        found += [(value - old_values[query], f"{name}, {query}: {old_values[query]:.3f} -> "
                   f"{value:.3f}") for query, value in automatic(new).items()
                  if query in old_values]
    return sorted(found)
