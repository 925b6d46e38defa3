"""Puts the extension into a PostgreSQL installation, and takes it out again.

What is written, all under the `--sharedir` of one `pg_config`, world readable:

    extension/pgrain.control
    extension/pgrain--X.Y.Z.sql          sql/*.sql in the order of their names
    extension/pgrain--OLD--X.Y.Z.sql     the upgrade from each released version (cli/upgrade.py)
    pgrain/X.Y.Z/pgrain/...              the Python inside the server: standard library only,
                                         and its bytecode
    pgrain/X.Y.Z/pgrain/VERSION

The backend's Python sits in a folder of its version, so that sessions of an older version of the
extension keep theirs. Each file and the folder appear by rename; nothing is half written.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pgrain.cli import upgrade

PACKAGE = Path(__file__).resolve().parents[1]
BACKEND_FILES = ("__init__.py", "errors.py", "settings.py")
BACKEND_FOLDERS = ("wire", "backend")
PYTHONDIR_TOKEN = "@PYTHONDIR@"
# What each stub begins with: the backend is imported once a session and kept in GD.
BACKEND_TOKEN = "@BACKEND@"
BACKEND_LOADER = """\
try:
    backend = GD["pgrain @VERSION@"]
except KeyError:
    import sys
    if "@PYTHONDIR@" not in sys.path:
        if "pgrain" in sys.modules:
            old = type("pgrain", (plpy.Error,), {"__module__": "builtins"})(
                "this session has begun with another version of pgrain")
            old.sqlstate, old.hint = "55000", "Start a new session."
            raise old
        sys.path.insert(0, "@PYTHONDIR@")
    from pgrain.backend import entry as backend
    GD["pgrain @VERSION@"] = backend"""
# What `predict` begins with, the quick way: a value that comes where it came the last time.
# known.last is the value before it, in a list of value, label and the one that came next
# (backend/session.py). A function for it would cost what it saves.
QUICK_TOKEN = "@QUICK@"
QUICK_WAY = """\
try:
    models, clock, pause = SD["known"]
    known = models[model]
    ahead, now = known.last[2], clock()
    if known.until > now < known.trusted and ahead[0] == x:
        known.until, known.last = now + pause, ahead
        return ahead[1]
except KeyError:
    pass"""
# The same for an array: equal lists may differ (0 and -0), the bytes of their numbers do not. What
# cannot be packed as so many numbers (NULLs, more dimensions, another length) goes the long way.
QUICK_ARRAYS_TOKEN = "@QUICK ARRAYS@"
QUICK_WAY_OF_ARRAYS = """\
try:
    models, clock, pause = SD["known"]
    known = models[model]
    ahead, now = known.last[2], clock()
    if known.until > now < known.trusted and known.packed(*x) == ahead[3]:
        known.until, known.last = now + pause, ahead
        return ahead[1]
except Exception:
    pass"""
VERSION_TOKEN = "@VERSION@"


class InstallError(Exception):
    """Something about the machine that the user must change; the message says what."""


@dataclass(frozen=True)
class Server:
    """One PostgreSQL installation, as its pg_config describes it."""

    pg_config: str
    bindir: Path
    sharedir: Path
    major: int

    @property
    def has_plpython(self) -> bool:
        return (self.sharedir / "extension" / "plpython3u.control").exists()

    def program(self, name: str) -> str:
        return str(self.bindir / name)


def describe(pg_config: str) -> Server:
    """The installation of one pg_config program."""
    try:
        answer = subprocess.run([pg_config, "--bindir", "--sharedir", "--version"],
                                capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError) as error:
        raise InstallError(f'cannot run "{pg_config}": {error}') from error
    major = re.search(r"(\d+)", answer[2])
    return Server(pg_config, Path(answer[0]), Path(answer[1]), int(major.group(1)) if major else 0)


def find_server(pg_config: str | None = None) -> Server:
    """The named installation; else PG_CONFIG's; else the one on the PATH, if it is that of a
    server with plpython3u (Debian's may be a library's); else the newest of Debian's that has it.
    """
    named = pg_config or os.environ.get("PG_CONFIG")
    if named:
        return describe(named)
    candidates = sorted((p for p in Path("/usr/lib/postgresql").glob("*/bin/pg_config")
                         if p.parts[-3].isdigit() and p.with_name("postgres").exists()),
                        key=lambda p: int(p.parts[-3]), reverse=True)
    on_path = shutil.which("pg_config")
    servers = [describe(str(p)) for p in [*([on_path] if on_path else []), *candidates]]
    for server in servers:
        if server.has_plpython:
            return server
    if servers:
        raise InstallError(
            f"PostgreSQL {servers[0].major} is here, but plpython3u is not; "
            f"install postgresql-plpython3-{servers[0].major}")
    raise InstallError("there is no PostgreSQL server on this machine; install postgresql and "
                       "postgresql-plpython3-<major>, or name a pg_config")


# --- what is to be written ------------------------------------------------------------------------

def sources() -> tuple[Path, Path]:
    """The folders `sql` and `extension`: of the checkout, else those the wheel carries."""
    for root in (PACKAGE.parents[1], PACKAGE / "_extension"):
        if (root / "extension" / "pgrain.control").exists():
            return root / "sql", root / "extension"
    raise InstallError("the files of the extension are neither beside this package nor inside it")


def version() -> str:
    """The version in the control file, the only place where it is written."""
    text = (sources()[1] / "pgrain.control").read_text()
    found = re.search(r"^default_version\s*=\s*'([^']+)'", text, re.MULTILINE)
    if not found:
        raise InstallError("pgrain.control names no default_version")
    return found.group(1)


def full_script() -> str:
    """The extension script with its tokens: sql/*.sql in the order of their names."""
    files = sorted(sources()[0].glob("*.sql"))
    if not files:
        raise InstallError("there is no file in sql/")
    return "\n".join(f"-- {path.name}\n{path.read_text().rstrip()}\n" for path in files)


def fill_in(script: str, pythondir: str, number: str) -> str:
    """A script as PostgreSQL reads it: with the loader of the backend in each function, and in that
    the backend's folder (it stands inside a Python string literal, in dollar quotes)."""
    folder = pythondir.replace("\\", "\\\\").replace('"', '\\"')
    for token, text in ((QUICK_TOKEN, QUICK_WAY), (QUICK_ARRAYS_TOKEN, QUICK_WAY_OF_ARRAYS),
                        (BACKEND_TOKEN, BACKEND_LOADER),
                        (VERSION_TOKEN, number), (PYTHONDIR_TOKEN, folder)):
        script = script.replace(token, text)
    return script


def wanted(server: Server) -> dict[Path, bytes]:
    """Every file to be written below the sharedir, with its content."""
    number = version()
    home = Path("pgrain") / number
    extension = sources()[1]
    files = {Path("extension/pgrain.control"): (extension / "pgrain.control").read_bytes()}
    full = full_script()
    scripts = {f"pgrain--{number}.sql": full, **upgrade.upgrades(extension, number, full)}
    for name, script in scripts.items():
        files[Path("extension") / name] = fill_in(script, str(server.sharedir / home),
                                                  number).encode()
    chosen = [PACKAGE / name for name in BACKEND_FILES]
    for folder in BACKEND_FOLDERS:
        chosen += sorted((PACKAGE / folder).rglob("*.py"))
    for path in chosen:
        files[home / "pgrain" / path.relative_to(PACKAGE)] = path.read_bytes()
    files[home / "pgrain" / "VERSION"] = f"{number}\n".encode()
    return files


def is_current(server: Server) -> bool:
    """Is exactly this already installed (nothing more in the backend's folder either)?"""
    files = wanted(server)
    home = server.sharedir / "pgrain" / version()
    for name, content in files.items():
        try:
            if (server.sharedir / name).read_bytes() != content:
                return False
        except OSError:
            return False
    there = {p.relative_to(server.sharedir) for p in home.rglob("*")
             if p.is_file() and "__pycache__" not in p.parts}
    return there <= set(files)


# --- writing --------------------------------------------------------------------------------------

def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in (path.parent, *path.parent.parents):
        if folder.name == "pgrain" or "pgrain" in folder.parts:
            folder.chmod(0o755)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as handle:
        handle.write(content)
        os.fchmod(handle.fileno(), 0o644)
    os.replace(handle.name, path)


def _compile(staging: Path, home: Path) -> None:
    """Bytecode beside the sources: the server's OS user cannot write it there, and each new session
    would compile all that it imports. Python takes what is of its own version and leaves the rest;
    without it sessions begin more slowly, so nothing here is an error."""
    for program in {sys.executable, shutil.which("python3", path=os.defpath)} - {None, ""}:
        with contextlib.suppress(OSError):
            subprocess.run([program, "-I", "-m", "compileall", "-q", "-s", str(staging), "-p",
                            str(home), str(staging)], capture_output=True, check=False)
    for path in staging.rglob("*"):
        if "__pycache__" in path.parts:
            path.chmod(0o755 if path.is_dir() else 0o644)


def _replace_folder(new: Path, place: Path) -> None:
    """`new` takes the place of `place`; sessions that hold open files of the old one keep them."""
    old = place.with_name(f".{place.name}.old-{os.getpid()}")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def install(server: Server) -> bool:
    """Writes the extension into `server`; False when it is there already, unchanged."""
    if is_current(server):
        return False
    _need_write_access(server)
    files = wanted(server)
    home = Path("pgrain") / version()
    (server.sharedir / "pgrain").mkdir(exist_ok=True)
    (server.sharedir / "pgrain").chmod(0o755)
    staging = server.sharedir / "pgrain" / f".{version()}.new-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    for name, content in files.items():
        if name.parts[0] == "pgrain":
            _write(staging / name.relative_to(home), content)
    staging.chmod(0o755)
    _compile(staging, server.sharedir / home)
    _replace_folder(staging, server.sharedir / home)
    # The control file last: until then CREATE EXTENSION sees what was there before.
    for name in sorted((n for n in files if n.parts[0] == "extension"), reverse=True):
        _write(server.sharedir / name, files[name])
    return True


def uninstall(server: Server) -> list[Path]:
    """Takes every file of pgrain out of `server`; the paths that went. Databases that have the
    extension keep their tables, but its functions fail until it is installed again."""
    places = [*sorted((server.sharedir / "extension").glob("pgrain--*.sql")),
              server.sharedir / "extension" / "pgrain.control", server.sharedir / "pgrain"]
    places = [place for place in places if place.exists()]
    if places:
        _need_write_access(server, "uninstall")
    for place in places:
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    return places


def _need_write_access(server: Server, command: str = "install") -> None:
    if os.access(server.sharedir / "extension", os.W_OK) and os.access(server.sharedir, os.W_OK):
        return
    if os.geteuid() == 0 or not shutil.which("sudo"):
        raise InstallError(f"{server.sharedir} is not writable, and there is no sudo; "
                           f"run `pgrain {command}` once as root")
    raise NeedsRoot()


class NeedsRoot(InstallError):
    """The caller should run the same command through sudo."""


def with_sudo(arguments: list[str]) -> int:
    """Runs `pgrain <arguments>` as root; its exit status."""
    print(f"pgrain: writing into PostgreSQL's folders needs root: sudo pgrain {arguments[0]}",
          file=sys.stderr, flush=True)
    return subprocess.run(["sudo", sys.executable, "-m", "pgrain.cli.main", *arguments]).returncode
