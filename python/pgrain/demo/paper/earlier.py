"""Sections of docs/paper.md whose records are lost: kept as they were written, with their commit.

`docs/paper/earlier/<experiment>.md` begins with a comment, `<!-- name: value; ... -->`; the rest is
the section without its head. A section is taken from here while fewer configurations have records
than it was made from; after that its file has no use, and the page is written from the records.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Earlier:
    """measured: how many configurations it was made from; sizes, note: for the head."""

    measured: int
    commit: str
    sizes: str
    note: str
    text: str


def read(folder: Path, name: str) -> Earlier | None:
    """The earlier section of an experiment, if there is one."""
    path = folder / "earlier" / f"{name}.md"
    if not path.exists():
        return None
    head, _, text = path.read_text().partition("\n")
    found = dict(re.findall(r"(\w+): (.*?)(?=; \w+: | -->)", head))
    return Earlier(int(found["measured"]), found["commit"], found.get("sizes", ""),
                   found.get("note", ""), text.strip())
