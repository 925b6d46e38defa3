"""A database with the stand-in model, for a module."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The modules beside this file; pytest imports by path and adds no folder of its own.
sys.path.insert(0, str(Path(__file__).parent))

from provenance_harness import Lab  # noqa: E402


@pytest.fixture(scope="module")
def lab(module_database) -> Lab:
    """A fresh database (without the extension) and its stand-in model functions."""
    laboratory = Lab(module_database(extension=False).connection)
    laboratory.connection.execute("SET client_min_messages = warning")
    laboratory.install()
    return laboratory
