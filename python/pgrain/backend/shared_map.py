"""Stored predictions of a version from memory that the sessions of a machine share.

The worker of this machine hands over a sealed memory file; where there is none (it is away, or on
another machine), the session reads the tables into its own memory instead (`session.py`).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Mapping

from pgrain.errors import PgrainError
from pgrain.wire.descriptors import DescriptorClient
from pgrain.wire.prediction_map import PredictionMap

PATIENCE_SECONDS = 3.0       # with a worker that makes the map; the tables know it all, too
GREETING_SECONDS = 0.2       # one that does not even greet hangs, and must hold nothing up
RETRY_SECONDS = 60.0
_NEEDED_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE

_refused_until = 0.0


def fetch(addresses: list[str], version: str, database: str, server: str | None, number: int,
          last_seq: int, on_wait, owners: Mapping[str, int] | None = None
          ) -> tuple[PredictionMap, int] | None:
    """(map, its last chunk) of model version `number` with the chunks up to `last_seq` at least,
    from the first worker at `addresses` that gives one; None if none does. version, database,
    server: see `Client`; owners: its `owner` by address."""
    global _refused_until
    local = [address for address in addresses if DescriptorClient.possible(address)]
    if time.monotonic() < _refused_until:
        return None
    for address in local:       # one that was killed a moment ago is still among them
        client = DescriptorClient(address, version, database, patience=PATIENCE_SECONDS,
                                  greeting=GREETING_SECONDS, on_wait=on_wait, server=server,
                                  owner=(owners or {}).get(address))
        try:
            found = _ask(client, number, last_seq)
        except (PgrainError, OSError, ValueError):
            continue            # whatever it was, the tables have the same predictions
        except BaseException:   # cancelled while it waited: the next statement does not wait again
            _refused_until = time.monotonic() + RETRY_SECONDS
            raise
        if found is not None:
            return found
    if local:
        _refused_until = time.monotonic() + RETRY_SECONDS
    return None


def _ask(client: DescriptorClient, number: int, last_seq: int) -> tuple[PredictionMap, int] | None:
    descriptor = None
    try:
        answer, _ = client.call("prediction_map", {"version": number, "last_seq": last_seq})
        descriptor = client.take()
        if answer["last_seq"] is None or descriptor is None:
            return None
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _NEEDED_SEALS != _NEEDED_SEALS:
            return None     # it could be cut short under us
        # Private, yet shared: nothing is written, so no page is copied (and a mapping that is
        # called shared of a sealed file is refused before Linux 6.7).
        mapped = mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        return PredictionMap(mapped), answer["last_seq"]
    finally:
        client.close()
        for spent in (descriptor, client.take()):
            if spent is not None:
                os.close(spent)
