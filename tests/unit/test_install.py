"""What `pgrain install` writes, and that it writes nothing when nothing changed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from importlib.util import cache_from_source
from pathlib import Path

import pytest
from click.testing import CliRunner

from pgrain.cli import install, main
from pgrain.cli.install import Server

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fake_server(tmp_path: Path) -> Server:
    """A sharedir of nobody's, with a quote in its path."""
    sharedir = tmp_path / "it's here"
    (sharedir / "extension").mkdir(parents=True)
    return Server("pg_config", tmp_path / "bin", sharedir, 15)


def test_second_install_changes_nothing(fake_server):
    assert install.install(fake_server) is True
    assert install.install(fake_server) is False


def test_changed_or_left_over_file_is_noticed(fake_server):
    install.install(fake_server)
    home = fake_server.sharedir / "pgrain" / install.version() / "pgrain"
    (home / "errors.py").write_text("broken")
    assert not install.is_current(fake_server)
    install.install(fake_server)
    (home / "backend" / "gone_since.py").write_text("")
    assert install.install(fake_server) is True
    assert not (home / "backend" / "gone_since.py").exists()


def test_script_holds_every_sql_file_in_order(fake_server):
    install.install(fake_server)
    script = (fake_server.sharedir / "extension"
              / f"pgrain--{install.version()}.sql").read_text()
    names = [p.name for p in sorted((ROOT / "sql").glob("*.sql"))]
    places = [script.index(f"-- {name}\n") for name in names]
    assert places == sorted(places)
    assert "@PYTHONDIR@" not in script


def test_backend_folder_is_filled_in_as_a_python_literal():
    awkward = r"""/it's a "quoted\n" place"""
    line = install.fill_in('return "@PYTHONDIR@"', awkward, "1.2.3")
    assert ast.literal_eval(line.removeprefix("return ")) == awkward


def test_everything_is_world_readable_and_nothing_writable(fake_server):
    old = os.umask(0o077)
    try:
        install.install(fake_server)
    finally:
        os.umask(old)
    for path in (fake_server.sharedir / "pgrain").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path
    for path in (fake_server.sharedir / "extension").iterdir():
        assert path.stat().st_mode & 0o777 == 0o644, path


def test_installed_backend_imports_alone_and_stays_small(fake_server):
    """Standard library only, no threads: what PostgreSQL will load into each session."""
    install.install(fake_server)
    folder = fake_server.sharedir / "pgrain" / install.version()
    modules = [".".join(p.relative_to(folder).with_suffix("").parts)
               for p in folder.rglob("*.py") if p.name != "__init__.py"]
    code = (f"import sys, threading; sys.path.insert(0, {str(folder)!r})\n"
            f"for name in {modules!r}: __import__(name)\n"
            "assert threading.active_count() == 1, threading.enumerate()\n"
            "foreign = {m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)\n"
            "print(sorted(foreign - {'pgrain', '__main__', '__mp_main__'}))")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    for path in folder.rglob("*.py"):       # or each new session would compile what it imports
        # Beside its source, whatever PYTHONPYCACHEPREFIX says here.
        assert (path.parent / "__pycache__" / Path(cache_from_source(path)).name).exists(), path


def test_uninstall_leaves_nothing(fake_server):
    install.install(fake_server)
    assert install.uninstall(fake_server)
    assert [p for p in fake_server.sharedir.rglob("*") if p.is_file()] == []
    assert install.uninstall(fake_server) == []


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_who_may_not_write_is_told_the_command(fake_server, command, monkeypatch):
    if command == "uninstall":
        install.install(fake_server)
    monkeypatch.setattr(install.os, "access", lambda *_: False)
    monkeypatch.setattr(install.os, "geteuid", lambda: 0)      # where sudo is, it would be asked
    with pytest.raises(install.InstallError, match=f"run `pgrain {command}` once as root"):
        getattr(install, command)(fake_server)


@pytest.mark.parametrize("command, module, extra", [
    ("demo", "pgrain.demo.story", "demo"), ("paper", "pgrain.demo.paper.command", "bench")])
def test_a_missing_library_is_said_with_its_extra(command, module, extra, monkeypatch):
    class Lacks:
        def find_spec(self, name, path=None, target=None):
            if name == module:
                raise ModuleNotFoundError("No module named 'PIL'", name="PIL")

    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Lacks(), *sys.meta_path])
    result = CliRunner().invoke(main.main, [command, "--help"])
    assert result.exit_code == 1 and "PIL is missing" in result.output
    assert f"[{extra}]'" in result.output


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["version"]["path"] == "extension/pgrain.control"
    assert "version" in project["project"]["dynamic"]
    printed = subprocess.run([sys.executable, "-m", "pgrain.cli.main", "--version"],
                             capture_output=True, text=True, check=True).stdout
    assert install.version() in printed
    assert f"## {install.version()}" in (ROOT / "CHANGELOG.md").read_text()


def test_bootstrap_runs_with_a_bare_python():
    """It is the first thing a fresh machine runs: no import outside the standard library."""
    code = ("import sys; sys.path.insert(0, 'python/pgrain/cli'); import bootstrap\n"
            "print(sorted({m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)"
            " - {'bootstrap', '__main__'}))")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_server_of_the_pg_config_on_the_path_comes_first(tmp_path, monkeypatch):
    """Before Debian's own, unless it is that of a library alone; PG_CONFIG before both."""
    def server(name: str, plpython: bool = True) -> Path:
        share = tmp_path / name / "share"
        (share / "extension").mkdir(parents=True)
        if plpython:
            (share / "extension" / "plpython3u.control").touch()
        program = tmp_path / name / "pg_config"
        program.write_text(f"#!/bin/sh\nprintf '%s\\n' {tmp_path / name} {share} "
                           "'PostgreSQL 16.1'\n")
        program.chmod(0o755)
        return program
    mine, library, named = server("mine"), server("library", plpython=False), server("named")
    monkeypatch.delenv("PG_CONFIG", raising=False)
    monkeypatch.setenv("PATH", f"{mine.parent}:{os.environ['PATH']}")
    assert install.find_server().sharedir == tmp_path / "mine" / "share"
    assert install.find_server(str(named)).sharedir == tmp_path / "named" / "share"
    monkeypatch.setenv("PG_CONFIG", str(named))
    assert install.find_server().sharedir == tmp_path / "named" / "share"
    monkeypatch.delenv("PG_CONFIG")
    monkeypatch.setenv("PATH", f"{library.parent}:/usr/bin:/bin")
    try:
        found = install.find_server().sharedir
    except install.InstallError:
        return      # no server here besides
    assert found != tmp_path / "library" / "share"
