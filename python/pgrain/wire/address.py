"""Where a worker listens: a Unix socket's path, or ``tls://host:port``."""

from __future__ import annotations

from collections import namedtuple

from pgrain.errors import InvalidArgument

SCHEME = "tls://"


class Remote(namedtuple("Remote", "host port")):
    """A worker on another machine, by host (str) and port (int); always spoken to over mutual
    TLS."""

    __slots__ = ()


def parse(address: str) -> str | Remote:
    """A Unix socket's path, or host and port; 22023 for anything else."""
    if address.startswith("/"):
        return address
    host, colon, port = address.removeprefix(SCHEME).rpartition(":")
    if not address.startswith(SCHEME) or not colon or not host or not (
            port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidArgument(f'no address of a worker: "{address}"',
                              hint="Give the path of a Unix socket, or tls://host:port.")
    return Remote(host.strip("[]"), int(port))


def write(remote: Remote) -> str:
    """The address as `parse` reads it."""
    host = f"[{remote.host}]" if ":" in remote.host else remote.host
    return f"{SCHEME}{host}:{remote.port}"
