"""Where the worker listens if nobody says, and which OS user runs the server."""

from __future__ import annotations

import os
import pwd
import re
import socket
import stat
import struct
from pathlib import Path

import psycopg

from pgrain.errors import PgrainError

RUN = Path("/run/pgrain")


def server_user(connection: psycopg.Connection) -> int | None:
    """The OS user that runs the server at the other end of a Unix socket, as the kernel says; for
    a connection over TCP, the user `postgres` if there is one."""
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as twin:
        if twin.family == socket.AF_UNIX:
            data = twin.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return struct.unpack("3i", data)[1]
    try:
        return pwd.getpwnam("postgres").pw_uid
    except KeyError:
        return None


def default_socket(database: str, server: int | None, run: Path = RUN) -> tuple[str, int]:
    """(path, mode) of the socket for one database: in /run/pgrain if that can be written, else in a
    folder of this user in /tmp.

    Only this user and `server` may use it. A folder that was there keeps its rights. Where the two
    share no group, the file lets everybody come as far as the kernel's check of who is calling
    (`worker/server.py`), and nobody else by it.
    """
    me = os.geteuid()
    name = re.sub(r"[^A-Za-z0-9_-]", "_", database)[:40]
    if name != database:   # two databases, two sockets
        name += f"-{database.encode().hex()[:16]}"
    folder, own = _folder(run if _writable(run) else Path(f"/tmp/pgrain-{me}"), me)
    mode = 0o600
    if server not in (None, me):
        group = pwd.getpwuid(server).pw_gid
        if own and me == 0:
            os.chown(folder, -1, group)
            folder.chmod(0o2750)
        elif own:
            folder.chmod(0o711)
        # A folder that was there keeps the rights that somebody gave it. One that hands the
        # server's group to what is made in it needs no access for others.
        facts = folder.stat()
        mode = 0o660 if facts.st_mode & stat.S_ISGID and facts.st_gid == group else 0o666
    return str(folder / f"{name}.sock"), mode


def _writable(folder: Path) -> bool:
    if folder.is_dir():
        return os.access(folder, os.W_OK | os.X_OK)
    return os.access(folder.parent, os.W_OK | os.X_OK)


def _folder(folder: Path, me: int) -> tuple[Path, bool]:
    """The folder, and whether it is a worker's own: made now, or in /tmp."""
    try:
        folder.mkdir(mode=0o700)
        made = True
    except FileExistsError:
        made = False
    facts = folder.lstat()
    if folder.is_symlink() or (facts.st_uid != me and not os.access(folder, os.W_OK)):
        raise PgrainError(f"{folder} belongs to somebody else",
                          hint="Remove it, or name a socket with --socket.")
    return folder, made or (folder.parent == Path("/tmp") and facts.st_uid == me)
