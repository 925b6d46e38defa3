"""Where the private cluster lives, and which OS user runs its server.

PostgreSQL refuses to run as root. So when root runs `make`, the server runs as the OS user
`postgres` (Debian's package makes it), and its folder must be one that this user can get to: not
inside a checkout below a directory of mode 0700. An ordinary user runs the server as themselves.

The place holds:

    data/     the cluster (mode 0700, of the server's user)
    run/      the server's socket (mode 0700, of the server's user: this is the access control)
    worker/   the worker's socket: of the invoking user, its group is the server's
    log/      the server's log (mode 0700, of the server's user)
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

LONGEST_SOCKET_PATH = 100
"""Bytes. The kernel allows 107; a little is left for the suffix of a second socket."""

OUTSIDE = Path("/var/lib/pgrain")
"""Of root's checkouts that the server's user cannot enter."""

_PLAIN = re.compile(r"[A-Za-z0-9_./@+-]+")


class PlaceError(Exception):
    """The cluster cannot live here; the message says why and what to do."""


@dataclass(frozen=True)
class Account:
    """An OS user."""

    name: str
    uid: int
    gid: int
    home: str

    @staticmethod
    def by_name(name: str) -> Account:
        entry = pwd.getpwnam(name)
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)

    @staticmethod
    def invoking() -> Account:
        uid = os.geteuid()
        try:
            return Account.by_name(pwd.getpwuid(uid).pw_name)
        except KeyError as error:
            raise PlaceError(f"OS user {uid} has no name; add it to /etc/passwd "
                             "(PostgreSQL needs one)") from error

    @property
    def is_invoking(self) -> bool:
        return self.uid == os.geteuid()

    def spawn_options(self) -> dict:
        """Keyword arguments for subprocess that run a program as this user."""
        environment = {key: value for key, value in os.environ.items()
                       if not key.startswith(("PG", "LC_", "LANG"))}
        environment |= {"LC_ALL": "C.UTF-8", "HOME": self.home, "USER": self.name,
                        "LOGNAME": self.name}
        options: dict = {"env": environment, "cwd": "/", "stdin": subprocess.DEVNULL}
        if not self.is_invoking:
            options |= {"user": self.uid, "group": self.gid,
                        "extra_groups": os.getgrouplist(self.name, self.gid)}
        return options

    def can_enter(self, folder: Path) -> bool:
        """May this user use `folder` (asked of the kernel, as that user)?"""
        return subprocess.run(["test", "-x", str(folder), "-a", "-r", str(folder)],
                              **self.spawn_options()).returncode == 0


def server_account() -> Account:
    """The OS user that runs the server: the invoking one, or `postgres` for root."""
    invoking = Account.invoking()
    if invoking.uid != 0:
        return invoking
    try:
        return Account.by_name("postgres")
    except KeyError as error:
        raise PlaceError('there is no OS user "postgres"; '
                         "install the package postgresql") from error


def fits(folder: Path) -> bool:
    """Do socket paths below `folder` fit into a socket address, without characters that a
    configuration file or a connection string would need quoted?"""
    longest = len(os.fsencode(folder / "worker" / ".s.PGSQL.5432"))
    return longest <= LONGEST_SOCKET_PATH and _PLAIN.fullmatch(str(folder)) is not None


def prepare(folder: Path, account: Account) -> None:
    """Makes the folders of a place with their owners and modes; repeats harmlessly."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink() or folder.lstat().st_uid not in (os.geteuid(), account.uid):
        raise PlaceError(f"{folder} belongs to somebody else; move it away")
    private = account.is_invoking
    _own(folder, -1, -1 if private else account.gid, 0o700 if private else 0o750)
    for name in ("data", "run", "log"):
        (folder / name).mkdir(exist_ok=True)
        _own(folder / name, -1 if private else account.uid, -1 if private else account.gid, 0o700)
    # Set-group-id: the worker's socket inherits the server's group, and lets it in.
    (folder / "worker").mkdir(exist_ok=True)
    _own(folder / "worker", -1, -1 if private else account.gid, 0o700 if private else 0o2750)


def _own(path: Path, uid: int, gid: int, mode: int) -> None:
    if (uid, gid) != (-1, -1):
        os.chown(path, uid, gid)
    path.chmod(mode)


def choose(local: Path, account: Account) -> Path:
    """`local` (a checkout's .local/cluster) if the server can live there; else a folder outside
    that is named by the checkout's path, with `local` a symbolic link to it."""
    place = _outside(local)
    if local.is_symlink():
        if Path(os.readlink(local)) == place:
            prepare(place, account)
            return place
        local.unlink()  # of a checkout that was copied: that cluster is the other one's
    if fits(local):
        fresh = not local.exists()
        prepare(local, account)
        if account.can_enter(local / "run"):
            return local
        if not fresh and any((local / "data").iterdir()):
            raise PlaceError(f'OS user "{account.name}" can no longer get to {local}; '
                             "did the rights of a folder above it change?")
        _remove_empty(local)
    prepare(place, account)
    if not account.can_enter(place / "run"):
        raise PlaceError(f'OS user "{account.name}" cannot get to {place}')
    local.parent.mkdir(parents=True, exist_ok=True)
    local.symlink_to(place)
    return place


def _outside(local: Path) -> Path:
    """The folder for a checkout whose own cannot be used: short, and the same at each call."""
    name = hashlib.sha256(os.fsencode(local)).hexdigest()[:12]
    if os.geteuid() == 0:
        return OUTSIDE / name
    return Path("/var/tmp") / f"pgrain-{os.geteuid()}-{name}"


def _remove_empty(folder: Path) -> None:
    for name in ("data", "run", "log", "worker"):
        (folder / name).rmdir()
    folder.rmdir()
