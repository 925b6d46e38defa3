"""Where this server's sessions find a worker, as its administrator has written it down.

The file is `pgrain.toml` in the folder of the server's postgresql.conf: who can write there runs
the server. Nothing that a role can SET, and no table that replication copies, says where the keys
of TLS lie, or which worker a standby has::

    [tls]                               # for workers on other machines
    ca = "/etc/pgrain/ca.pem"
    certificate = "/etc/pgrain/server.pem"
    key = "/etc/pgrain/server.key"

    [workers]                           # database -> address, instead of those that registered
    shop = "/run/pgrain/standby.sock"
"""

from __future__ import annotations

import os

from pgrain.errors import NotReady

FILE = "pgrain.toml"
_WHERE = "The file is beside this server's postgresql.conf; see docs/user/security.md."


def read(config_file: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """(files of TLS, database -> address) of the file beside `config_file`; empty without one.

    Raises 55000 where it cannot be read or holds something else.
    """
    path = os.path.join(os.path.dirname(config_file), FILE) if config_file else None
    if path is None or not os.path.exists(path):
        return {}, {}
    import tomllib
    try:
        with open(path, "rb") as handle:
            content = tomllib.load(handle)
    except (OSError, ValueError) as error:
        # Not the path: where the configuration lies is not for every role to know.
        raise NotReady(f"{FILE} cannot be read", detail=getattr(error, "strerror", None)
                       or str(error), hint=_WHERE) from None
    for name, table in content.items():
        if name not in ("tls", "workers") or not isinstance(table, dict) or not all(
                isinstance(value, str) for value in table.values()):
            raise NotReady(f'{FILE} has something wrong at "{name}"',
                           detail="It has two tables, [tls] and [workers], of texts.", hint=_WHERE)
    return content.get("tls", {}), content.get("workers", {})
