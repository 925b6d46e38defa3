"""Makes a machine ready for `make demo` and `make test`: packages, virtual environment.

Runs with the bare `python3` of the machine, before anything is installed: standard library only,
no import of pgrain. It says what it will install, installs only what is missing, and needs no
network when nothing is.

    python3 python/pgrain/cli/bootstrap.py [--demo] [--check]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LOCAL = ROOT / ".local"
VENV = LOCAL / "venv"
STAMP = LOCAL / "bootstrap.stamp"
EXTRAS = "dev"
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
OLDEST_PYTHON = (3, 11)


def say(text: str) -> None:
    print(f"pgrain: {text}", flush=True)


def fail(text: str) -> None:
    print(f"pgrain: {text}", file=sys.stderr, flush=True)
    raise SystemExit(1)


# --- what is missing ------------------------------------------------------------------------------

def server_majors() -> list[int]:
    """Debian's PostgreSQL servers on this machine, newest first."""
    found = [int(p.parts[-3]) for p in Path("/usr/lib/postgresql").glob("*/bin/postgres")
             if p.parts[-3].isdigit()]
    return sorted(found, reverse=True)


def has_plpython(major: int) -> bool:
    return Path(f"/usr/share/postgresql/{major}/extension/plpython3u.control").exists()


def other_server() -> bool:
    """Is there a PostgreSQL with plpython3u that Debian did not install (PG_CONFIG or PATH)?"""
    program = os.environ.get("PG_CONFIG") or shutil.which("pg_config")
    if not program or not shutil.which(program):
        return False
    answer = subprocess.run([program, "--sharedir", "--bindir"], capture_output=True, text=True)
    lines = answer.stdout.split("\n")
    return (answer.returncode == 0 and len(lines) >= 2
            and Path(lines[0], "extension", "plpython3u.control").exists()
            and Path(lines[1], "initdb").exists())


def venv_works() -> bool:
    """Can this Python make a virtual environment with pip? (Debian splits ensurepip off.)"""
    try:
        import ensurepip  # noqa: F401, PLC0415
        import venv  # noqa: F401, PLC0415
    except ImportError:
        return False
    return True


def missing_packages(demo: bool) -> list[str]:
    """Debian packages to install; the plpython package of a server not yet there ends in `-?`."""
    packages = []
    if not other_server() and not any(has_plpython(major) for major in server_majors()):
        majors = server_majors()
        packages += ([f"postgresql-plpython3-{majors[0]}"] if majors
                     else ["postgresql", "postgresql-plpython3-?"])
    if demo and not FASHION_MNIST.exists():
        packages.append("dataset-fashion-mnist")
    if not (VENV / "bin" / "python").exists() and not venv_works():
        # Debian names the package of its default Python python3-venv.
        packages.append("python3-venv")
    return packages


# --- installing -----------------------------------------------------------------------------------

def privileged() -> list[str]:
    """The words to put before a command that needs root."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if not sudo:
        fail("packages must be installed, but this is not root and there is no sudo\n"
             "  HINT: run the same command as root once, or install them by hand")
    return [sudo]


def apt(*arguments: str) -> subprocess.CompletedProcess:
    environment = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"]
    return subprocess.run([*privileged(), *environment, "apt-get", "-o", "DPkg::Lock::Timeout=300",
                           *arguments], stdin=subprocess.DEVNULL)


def default_major() -> str | None:
    """The major that Debian's `postgresql` package stands for, as apt's lists say."""
    text = subprocess.run(["apt-cache", "show", "--no-all-versions", "postgresql"],
                          capture_output=True, text=True).stdout
    found = re.search(r"^Depends:.*\bpostgresql-(\d+)", text, re.MULTILINE)
    return found.group(1) if found else None


def install_packages(packages: list[str]) -> None:
    if not shutil.which("apt-get"):
        fail(f"missing: {', '.join(packages)}, and this machine has no apt-get\n"
             "  HINT: install PostgreSQL (15 or newer) with PL/Python 3, set PG_CONFIG to its "
             "pg_config, and run this again")
    privileged()
    known = all(subprocess.run(["apt-cache", "show", name], capture_output=True).returncode == 0
                for name in packages if not name.endswith("-?"))
    if (not known or default_major() is None) and apt("update", "-q").returncode != 0:
        fail("apt-get update failed; is there a network?")
    major = default_major()
    if any(name.endswith("-?") for name in packages) and major is None:
        fail("apt knows no package postgresql\n  HINT: look at /etc/apt/sources.list")
    names = [name.replace("-?", f"-{major}") for name in packages]
    say(f"installing Debian packages: {' '.join(names)}")
    arguments = ["install", "-y", "-q", "--no-install-recommends", *names]
    if apt(*arguments).returncode != 0:
        # Old lists name versions that the mirror no longer has.
        say("apt-get failed; trying once more with fresh lists")
        if apt("update", "-q").returncode != 0 or apt(*arguments).returncode != 0:
            fail(f"apt-get could not install {' '.join(names)}")


# --- the virtual environment ----------------------------------------------------------------------

def find_python() -> str:
    """A Python new enough for the virtual environment: this one, else Debian's."""
    if sys.version_info >= OLDEST_PYTHON:
        return sys.executable
    for name in ("python3.13", "python3.12", "python3.11"):
        if found := shutil.which(name):
            return found
    fail(f"Python {'.'.join(map(str, OLDEST_PYTHON))} or newer is needed, this is "
         f"{sys.version.split()[0]}")
    raise AssertionError


def wanted_stamp() -> str:
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "extension/pgrain.control"):
        digest.update((ROOT / name).read_bytes())
    digest.update(f"{ROOT}|{EXTRAS}".encode())
    return digest.hexdigest()


def venv_is_current() -> bool:
    return ((VENV / "bin" / "python").exists() and STAMP.exists()
            and STAMP.read_text().strip() == wanted_stamp())


def make_venv() -> None:
    python = VENV / "bin" / "python"
    LOCAL.mkdir(exist_ok=True)
    if not python.exists() or subprocess.run([python, "-c", ""]).returncode != 0:
        say(f"making a virtual environment in {VENV.relative_to(ROOT)}")
        subprocess.run([find_python(), "-m", "venv", "--clear", str(VENV)], check=True)
    say(f"installing Python packages into it: pgrain[{EXTRAS}] "
        "(jax, flax, optax, numpy, psycopg, sqlglot, pytest and what they need; about 1 GB)")
    done = subprocess.run([python, "-m", "pip", "install", "--disable-pip-version-check",
                           *([] if sys.stdout.isatty() else ["--progress-bar", "off"]),
                           "--editable", f"{ROOT}[{EXTRAS}]"], stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        fail("pip could not install the Python packages; its message is above")
    STAMP.write_text(wanted_stamp() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--demo", action="store_true", help="also the data of the demo")
    parser.add_argument("--check", action="store_true", help="only say what is missing")
    arguments = parser.parse_args()
    packages = missing_packages(arguments.demo)
    current = venv_is_current()
    if not packages and current:
        return
    say("this will install:")
    for name in packages:
        say(f"  Debian package {name.replace('-?', '-<major of postgresql>')}")
    if not current:
        say(f"  Python packages of pgrain[{EXTRAS}] into .local/venv")
    say("and what comes next may put the extension's files into the PostgreSQL server's own share "
        "folder\n  (`pgrain uninstall` takes them away) and start a private cluster under .local/ "
        "(as root: under\n  /var/lib/pgrain where the server's user cannot enter this folder)")
    if arguments.check:
        raise SystemExit(1)
    if packages:
        install_packages(packages)
    if not current:
        make_venv()


if __name__ == "__main__":
    main()
