"""Measurements on disk: one JSON file a configuration, so that a run can be taken up again."""

from __future__ import annotations

import hashlib
import json
import os
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


class Records:
    """The records under a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, job: Job) -> dict | None:
        path = self.folder / f"{job.key}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def all(self, jobs: list[Job]) -> list[dict]:
        """Records of those jobs that have been measured, in order."""
        return [record for job in jobs if (record := self.get(job)) is not None]

    def measure(self, job: Job, work: Callable[[], dict]) -> dict:
        """The record, measured if there is none; written in one step, with its seconds."""
        found = self.get(job)
        if found is not None:
            return found
        start = time.perf_counter()
        found = {**work(), "took": round(time.perf_counter() - start, 1)}
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{job.key}.json"
        # A run that is stopped leaves no half record.
        partial = path.with_suffix(f".{os.getpid()}.part")
        partial.write_text(json.dumps(found))
        partial.replace(path)
        return found
