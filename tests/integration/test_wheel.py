"""Install without a clone: a wheel in a fresh virtual environment, a server and a table that are
there already, and away again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, server):
    """A virtual environment with pgrain from its wheel, and a copy of the server's installation for
    it to write into."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"   # a build must not write into the tree
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(
        ".git", ".local", "__pycache__", ".hypothesis", "benchmarks", "docs"))
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w",
                           str(folder), str(source)], capture_output=True, text=True)
    if done.returncode != 0 and "No matching distribution" in done.stderr:
        pytest.skip("pip cannot fetch what builds the wheel")
    assert done.returncode == 0, done.stderr
    wheel, = folder.glob("pgrain-*.whl")
    shutil.rmtree(source)
    # What the worker needs is a gigabyte; it is taken from this environment, pgrain itself is not.
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    site = subprocess.run([python, "-c", "import site; print(site.getsitepackages()[0])"],
                          capture_output=True, text=True, check=True).stdout.strip()
    here = subprocess.run([sys.executable, "-c", "import site; print(site.getsitepackages()[0])"],
                          capture_output=True, text=True, check=True).stdout.strip()
    for entry in Path(here).iterdir():
        if not entry.name.startswith(("pgrain", "_pgrain", "__editable__", "pip")) \
                and not entry.name.endswith(".pth") and not (Path(site) / entry.name).exists():
            (Path(site) / entry.name).symlink_to(entry)
    share = folder / "share"
    shutil.copytree(server.server.sharedir, share, symlinks=True,
                    ignore=shutil.ignore_patterns("pgrain*"))
    config = folder / "pg_config"
    config.write_text(f"#!/bin/sh\nprintf '%s\\n' {server.server.bindir} {share} "
                      f"'PostgreSQL {server.server.major}'\n")
    config.chmod(0o755)
    return folder / "venv" / "bin" / "pgrain", config, share


def call(*command, **options) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True,
                          cwd="/", env=environment, **options)


def test_install_says_what_it_writes_and_uninstall_takes_it_away(fresh):
    pgrain, config, share = fresh
    done = call(pgrain, "install", "--pg-config", config)
    assert done.returncode == 0, done.stderr
    assert str(share) in done.stdout
    written = {path.relative_to(share).parts[0] for path in share.rglob("*pgrain*")}
    assert written == {"extension", "pgrain"}
    assert (share / "extension" / "pgrain--0.1.0--0.2.0.sql").exists()
    again = call(pgrain, "install", "--pg-config", config)
    assert f"is already in {share}" in again.stdout and again.returncode == 0
    done = call(pgrain, "uninstall", "--pg-config", config)
    assert done.returncode == 0 and "removed" in done.stdout
    assert list(share.rglob("*pgrain*")) == []
    assert f"nothing of it is in {share}" in call(pgrain, "uninstall", "--pg-config", config).stdout


def test_five_statements_with_a_worker_from_the_wheel(fresh, server, database):
    """The extension of this tree is installed already (fixture `server`) and has the same files as
    the wheel's; the worker is the wheel's."""
    pgrain, config, share = fresh
    call(pgrain, "install", "--pg-config", config)
    files = [path.relative_to(share) for path in share.rglob("*")
             if path.is_file() and "pgrain" in str(path) and path.suffix != ".pyc"]
    assert len(files) > 10
    for file in files:
        ours = (server.server.sharedir / file).read_text()
        assert (share / file).read_text().replace(str(share), str(server.server.sharedir)) == ours
    it = database(extension=False)
    it.execute("CREATE TABLE mine (id integer PRIMARY KEY, a float8, b float8, verdict text)")
    it.execute("INSERT INTO mine SELECT i, i % 10, i % 7, CASE WHEN i % 10 > 4 THEN 'yes' "
               "ELSE 'no' END FROM generate_series(1, 200) AS i")
    for arguments, says in [([], "--dsn"), (["--dsn", it.dsn()], "CREATE EXTENSION pgrain")]:
        doctor = call(pgrain, "doctor", *arguments)
        assert doctor.returncode and says in doctor.stderr and "Traceback" not in doctor.stderr
    it.execute("SET client_min_messages = warning; CREATE EXTENSION pgrain CASCADE")
    log = share.parent / "worker.log"
    with open(log, "w") as output:
        worker = subprocess.Popen([str(pgrain), "worker", "--dsn", it.dsn("pgrain_worker")],
                                  stdout=output, stderr=output, cwd="/", umask=0o007)
    try:
        deadline = time.monotonic() + 120
        while not it.value("SELECT count(*) FROM pgrain.workers"):
            assert worker.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        it.execute("SELECT pgrain.create_model('mine', 'mine', 'id', '{a, b}', 'verdict', "
                   "'logistic_regression')")
        it.execute("CALL pgrain.train('mine'); ")
        it.execute("CALL pgrain.precompute('mine')")
        rows = it.rows("SELECT train_id FROM pgrain.complain($$ SELECT count(*) AS n FROM mine m "
                       "WHERE pgrain.predict('mine', m) = 'yes' $$, 'n too high', 5)")
        assert len(rows) == 5
        doctor = call(pgrain, "doctor", "--dsn", it.dsn())
        assert doctor.returncode == 0, doctor.stdout + doctor.stderr
        said = [line[6:].split(":")[0] for line in doctor.stdout.splitlines()
                if line.startswith("ok")]
        assert said == [row[0] for row in it.rows("SELECT what FROM pgrain.doctor()")]
    finally:
        worker.terminate()
        worker.wait(20)
    doctor = call(pgrain, "doctor", "--dsn", it.dsn())
    assert doctor.returncode == 1 and "FAIL" in doctor.stdout and "pgrain worker" in doctor.stdout
    assert psycopg.connect(it.dsn()).execute("SELECT count(*) FROM mine").fetchone()[0] == 200
