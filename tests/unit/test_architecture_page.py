"""docs/dev/architecture.md has one line a file: none missing, none too many."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "dev" / "architecture.md"


def listed() -> set[str]:
    found, folder = set(), ""
    for line in PAGE.read_text().splitlines():
        if heading := re.match(r"## ((?:sql|python)/\S*) ", line):
            folder = heading.group(1)
        elif row := re.match(r"\| `([\w.]+)` \| \S", line):
            found.add(folder + row.group(1))
    return found


def test_lists_every_file_and_no_other():
    there = {str(p.relative_to(ROOT)) for p in (ROOT / "python" / "pgrain").rglob("*.py")
             if p.name != "__init__.py"}
    there |= {str(p.relative_to(ROOT)) for p in (ROOT / "sql").glob("*.sql")}
    assert there - listed() == set(), "missing on the page"
    assert listed() - there == set(), "on the page, but not in the tree"
