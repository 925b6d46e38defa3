"""pgspot on the extension's script: nothing that a hostile search_path could change."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pgrain.cli import install

# These run as their caller, in whose search_path names of the caller must resolve, or are dissolved
# into the statement that calls them; every name of their own is qualified (test_rights.py,
# test_hostile_callers.py).
ANSWERED = {"pgrain._stamp_key", "pgrain.predict", "pgrain.predict_proba", "pgrain.predict_batch",
            "pgrain._ranked", "pgrain.complain", "pgrain._unwatchable"}


def test_pgspot_finds_nothing_that_is_not_answered(tmp_path):
    program = Path(sys.executable).with_name("pgspot")
    if not program.exists() and not shutil.which("pgspot"):
        pytest.skip("no pgspot (pip install pgspot)")
    script = install.fill_in(install.full_script(), "/x", install.version())
    file = tmp_path / "pgrain.sql"
    file.write_text("\n".join(line for line in script.splitlines() if not line.startswith("\\")))
    done = subprocess.run([str(program) if program.exists() else "pgspot", str(file)],
                          capture_output=True, text=True)
    findings = [line for line in done.stdout.splitlines() if line.startswith("PS")]
    open_ones = [line for line in findings
                 if not (line.startswith("PS005") and line.split(": ")[2].split("(")[0]
                         in ANSWERED)]
    assert open_ones == []
    assert "Errors: 0" in done.stdout
