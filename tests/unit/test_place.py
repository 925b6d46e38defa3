"""Where the private cluster goes: in the checkout when it can, elsewhere when it must."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from pgrain.cli import place
from pgrain.cli.place import PlaceError


@pytest.fixture
def base():
    """A short folder that every OS user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="pgrain-place-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def account():
    try:
        return place.server_account()
    except PlaceError as error:
        pytest.skip(str(error))


@pytest.fixture
def outside(base, monkeypatch):
    """The fall-back folder, kept out of the machine's own places."""
    target = base / "elsewhere"
    monkeypatch.setattr(place, "_outside", lambda local: target)
    return target


def test_lives_in_the_checkout_when_it_can(base, account, outside):
    local = base / ".local" / "cluster"
    assert place.choose(local, account) == local
    assert place.choose(local, account) == local
    assert not outside.exists()


def test_socket_folders_let_in_the_server_and_nobody_else(base, account, outside):
    local = place.choose(base / ".local" / "cluster", account)
    assert (local / "run").stat().st_mode & 0o777 == 0o700
    assert (local / "run").stat().st_uid == account.uid
    assert (local / "data").stat().st_mode & 0o777 == 0o700
    assert local.stat().st_mode & 0o007 == 0
    assert (local / "worker").stat().st_mode & 0o007 == 0
    assert account.can_enter(local / "worker")


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user can enter their own folders")
def test_goes_elsewhere_below_a_folder_of_mode_0700(base, account, outside):
    closed = base / "closed"
    closed.mkdir(mode=0o700)
    local = closed / ".local" / "cluster"
    assert place.choose(local, account) == outside
    assert local.is_symlink() and account.can_enter(outside / "run")
    assert place.choose(local, account) == outside


def test_goes_elsewhere_when_socket_paths_would_be_too_long(base, account, outside):
    local = base / ("x" * 80) / "cluster"
    assert not place.fits(local)
    assert place.choose(local, account) == outside


@pytest.mark.parametrize("name", ["a space", "quote'", "com,ma", "größe"])
def test_goes_elsewhere_when_a_path_would_need_quotes(base, account, outside, name):
    assert place.choose(base / name / "cluster", account) == outside


def test_a_copied_checkout_gets_its_own_cluster(base, account, outside):
    local = base / ".local" / "cluster"
    local.parent.mkdir()
    local.symlink_to(base / "somebody-elses")
    assert place.choose(local, account) == local
    assert not local.is_symlink()
