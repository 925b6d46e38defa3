"""docs/dev/promises.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_named_test_is_there():
    named = re.findall(r"`([\w/]+\.py)::(\w+)` \|$", (ROOT / "docs/dev/promises.md").read_text(),
                       re.MULTILINE)
    rows = [line for line in (ROOT / "docs/dev/promises.md").read_text().splitlines()
            if line.startswith("| ") and not line.startswith("| promise")]
    assert len(named) == len(rows), "a row without a test"
    missing = [f"{file}::{name}" for file, name in named
               if f"def {name}(" not in (ROOT / "tests" / file).read_text()]
    assert missing == []
