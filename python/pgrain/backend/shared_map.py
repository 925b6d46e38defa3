"""Stored predictions of a version from memory that the sessions of a machine share.

The worker of this machine hands over a sealed memory file; where there is none (it is away, or on
another machine), the session reads the tables into its own memory instead (`session.py`).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time

from pgrain.errors import PgrainError
from pgrain.wire.descriptors import DescriptorClient
from pgrain.wire.prediction_map import PredictionMap

PATIENCE_SECONDS = 3.0       # a worker that hangs must not hold up what the tables know, too
RETRY_SECONDS = 60.0
_NEEDED_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE

_refused_until = 0.0


def fetch(address: str | None, version: str, database: str, server: str | None, number: int,
          last_seq: int, on_wait) -> tuple[PredictionMap, int] | None:
    """(map, its last chunk) of model version `number` with the chunks up to `last_seq` at least;
    None where the worker at `address` gives none. version, database, server: see `Client`."""
    global _refused_until
    if address is None or not DescriptorClient.possible(address):
        return None
    if time.monotonic() < _refused_until:
        return None
    client = DescriptorClient(address, version, database, patience=PATIENCE_SECONDS,
                              on_wait=on_wait, server=server)
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
    except (PgrainError, OSError, ValueError):
        # Whatever it was, the tables have the same predictions.
        _refused_until = time.monotonic() + RETRY_SECONDS
        return None
    finally:
        client.close()
        for spent in (descriptor, client.take()):
            if spent is not None:
                os.close(spent)
