"""Maps of stored predictions for the sessions of this machine (`wire/prediction_map.py`)."""

from __future__ import annotations

import fcntl
import os
import threading
from collections import OrderedDict

import numpy as np

from pgrain.store import predictions
from pgrain.wire.prediction_map import HEADER, MAGIC, places, shift_for
from pgrain.worker.resident import Residents

_KEPT = 8
# Nobody who gets the descriptor can write, grow or shrink the file, or lift this.
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class PredictionMaps:
    """One map a version, made when a session first asks and again when chunks have been added."""

    def __init__(self, residents: Residents):
        self._residents = residents
        self._lock = threading.Lock()
        self._maps: OrderedDict[int, tuple[int, int]] = OrderedDict()    # version: last seq, file

    def open(self, state: dict, params: dict, blobs: list) -> tuple:
        """({"last_seq"}, [], a descriptor) of a version's map with all chunks up to `last_seq`;
        ({"last_seq": None}, []) for a session on another machine."""
        if not state.get("local"):
            return {"last_seq": None}, []
        version = params["version"]
        with self._lock:
            known = self._maps.get(version)
            if known is None or known[0] < params["last_seq"]:
                resident = self._residents.version(version)
                last_seq, data = self._residents.with_connection(
                    lambda c: _read(c, version, len(resident.row.classes)))
                if known is not None:
                    os.close(known[1])
                known = self._maps[version] = (last_seq, _sealed(data))
                while len(self._maps) > _KEPT:
                    os.close(self._maps.popitem(last=False)[1][1])
            self._maps.move_to_end(version)
            return {"last_seq": known[0]}, [], os.dup(known[1])


    def keep(self, versions: set[int]) -> None:
        """Maps of other versions go: those are there no more. Sessions keep what they have."""
        with self._lock:
            for version in self._maps.keys() - versions:
                os.close(self._maps.pop(version)[1])


def pack(digests: np.ndarray, codes: np.ndarray, probabilities: np.ndarray) -> bytearray:
    """(n, 16) uint8, (n,) classes and (n, R) float32 as the bytes of a map. Of a digest that is
    there twice, either may be found."""
    n, n_classes = probabilities.shape
    shift = shift_for(n)
    numbers = np.ascontiguousarray(digests[:, :4]).view("<u4").reshape(-1) >> shift
    order = np.argsort(numbers, kind="stable")
    buckets, names, classes, p, end = places(n, n_classes, shift)
    data = bytearray(end)
    HEADER.pack_into(data, 0, MAGIC, n, n_classes, shift, end)
    out = np.frombuffer(data, np.uint8)
    counts = np.bincount(numbers, minlength=1 << (32 - shift))
    out[buckets + 4:buckets + 4 + 4 * len(counts)].view("<u4")[:] = np.cumsum(counts)
    out[names:names + 16 * n].reshape(n, 16)[:] = digests[order]
    out[classes:classes + 2 * n].view("<u2")[:] = codes[order]
    out[p:end].view("<f4").reshape(n, n_classes)[:] = probabilities[order]
    return data


def _read(connection, version: int, n_classes: int) -> tuple[int, bytearray]:
    """(the last chunk's seq, all values of a version packed)."""
    seqs = predictions.seqs(connection, version)
    found = [chunk for seq in seqs
             if (chunk := predictions.read(connection, seq, n_classes)) is not None]
    if not found:
        return max(seqs, default=0), pack(np.zeros((0, 16), np.uint8), np.zeros(0, np.uint16),
                                          np.zeros((0, n_classes), np.float32))
    return max(seqs), pack(*(np.concatenate([getattr(chunk, name) for chunk in found])
                             for name in ("digests", "predicted", "probabilities")))


def _sealed(data: bytearray) -> int:
    file = os.memfd_create("pgrain predictions", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(file, view):]
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    return file
