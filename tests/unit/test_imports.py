"""Who may import whom (docs/dev/architecture.md), and how little the backend brings along."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "python" / "pgrain"
BASE = {"errors", "settings", "interrupts"}
ALLOWED = {
    "errors": set(), "settings": {"errors"}, "interrupts": set(),
    "wire": BASE, "backend": BASE | {"wire"},
    "plan": BASE | {"wire"}, "provenance": BASE | {"wire", "plan"},
    "complaint": BASE | {"wire", "plan", "provenance"},
    "models": BASE, "influence": BASE | {"models"},
    "intervention": BASE | {"models", "influence"}, "describe": BASE,
    "watch": BASE | {"wire", "plan", "provenance", "complaint", "store"},
    "store": BASE | {"wire"},
}


def imported(path: Path) -> set[str]:
    """Rooms of pgrain that a file imports."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {module.split(".")[1] for module in modules
                  if module.split(".")[0] == "pgrain" and "." in module}
    return rooms


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_rooms_import_what_they_may(room):
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else sorted(
        (PACKAGE / room).rglob("*.py"))
    for path in files:
        extra = imported(path) - ALLOWED[room] - {room}
        assert not extra, f"{path.relative_to(PACKAGE)} imports {sorted(extra)}"


def test_the_backend_is_standard_library_only_and_starts_no_thread():
    """Imported in a process of its own, with nothing else on the path."""
    code = """
import sys, threading
before = set(sys.modules)
from pgrain.backend import entry
for name in entry.__all__:
    assert callable(getattr(entry, name))
others = sorted({name.split('.')[0] for name in set(sys.modules) - before}
                - set(sys.stdlib_module_names) - {'pgrain'})
print(others, threading.active_count())
"""
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True,
                          env={"PYTHONPATH": str(PACKAGE.parent)}, check=True)
    assert done.stdout.strip() == "[] 1"


def test_a_session_begins_without_what_is_slow_to_import():
    """The first prediction of each new session waits for its imports."""
    code = """
import sys
before = set(sys.modules)
from pgrain.backend import entry
entry.predict, entry.load_session
print(sorted({'ast', 'dataclasses', 'inspect', 'pathlib', 'ssl', 'tomllib', 'typing', 'urllib'}
             & (set(sys.modules) - before)))
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c",
                           f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})" + code],
                          capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
