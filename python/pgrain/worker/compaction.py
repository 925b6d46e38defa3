"""Stored chunks of an attached relation put together, and values that have gone from it dropped.

A relation that rows keep coming to gets a chunk each time it is caught up with, and rows that are
deleted leave their values behind. So now and then its small chunks become large ones, and chunks
most of whose values have gone are written again without them. Nothing depends on it but memory and
the time to read: a value that is not stored is computed live.

A value is written again only in a chunk that is small, or half of which has gone. So what is stored
stays below twice what is there plus `CHUNK_ROWS` values, in at most a `CHUNK_ROWS`/2-th as many
chunks plus `SMALL_CHUNKS`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import psycopg
import structlog

from pgrain.settings import CHUNK_ROWS
from pgrain.store import predictions, spectra
from pgrain.store.predictions import Names, Predictions
from pgrain.wire.identity import DIGEST_BYTES
from pgrain.worker.resident import Resident

log = structlog.get_logger()
SMALL_CHUNKS = 16


@dataclass
class _Part:
    """Values that stay, of one chunk; J: their projections under the active spectrum, or None."""

    values: Predictions
    J: np.ndarray | None


def compact(connection: psycopg.Connection, resident: Resident, relation: int,
            chunks: list[Names], found: set[bytes]) -> int:
    """Write chunks of `relation` again if that is due: of its version's `chunks`, given that the
    relation has the values `found`. Returns how many values were dropped."""
    seqs = due([chunk for chunk in chunks if chunk.relation == relation], found)
    if not seqs:
        return 0
    with connection.transaction():
        counts = _rewrite(connection, resident, relation, seqs, found)
        if counts is None:      # somebody else is at it
            raise psycopg.Rollback
    if counts is None:
        return 0
    before, after = counts
    log.info("chunks put together", model=resident.row.model, relation=relation,
             chunks=len(seqs), values=before, dropped=before - after)
    return before - after


def due(chunks: list[Names], found: set[bytes]) -> list[int]:
    """Which of a relation's chunks are to be written again now, none if it is not worth it."""
    size = int(CHUNK_ROWS.default)
    staying = [sum(digest in found for digest in chunk.digests) for chunk in chunks]
    gone = sum(len(chunk.digests) for chunk in chunks) - sum(staying)
    small = [2 * len(chunk.digests) < size for chunk in chunks]
    if sum(small) <= SMALL_CHUNKS and gone <= sum(staying) + size:
        return []
    return [chunk.seq for chunk, stay, is_small in zip(chunks, staying, small, strict=True)
            if is_small or 2 * stay < len(chunk.digests)]


def _rewrite(connection, resident: Resident, relation: int, seqs: list[int],
             found: set[bytes]) -> tuple[int, int] | None:
    """(values before, values after) of these chunks; None if they are not what they were."""
    version, n_classes = resident.row.version, len(resident.row.classes)
    row = connection.execute(_STATE, [version]).fetchone()
    if row is None or row["computing"]:     # a precompute knows its chunks by number
        return None
    spectrum, projected = row["active_spectrum"], {}
    if spectrum is not None:
        projected = {seq: arrays["J"] for seq, arrays in
                     spectra.chunks(connection, spectrum, "attached", seqs)}
        seqs = [seq for seq in seqs if seq in projected]
    read = [predictions.read(connection, seq, n_classes) for seq in seqs]
    if (any(values is None for values in read)
            or predictions.take(connection, seqs) != set(seqs)):
        return None
    connection.execute(_FORGET, [version, seqs])
    parts = [_those(values, projected.get(seq), found)
             for seq, values in zip(seqs, read, strict=True)]
    before = sum(len(values.digests) for values in read)
    after = _write(connection, version, relation, spectrum, parts) if parts else 0
    if after < before:
        # Values that other relations have too were stored once: they are looked at again.
        connection.execute(_HINT, [resident.row.model, relation])
    return before, after


def _those(values: Predictions, J: np.ndarray | None, found: set[bytes]) -> _Part:
    names = predictions.split(values.digests.tobytes())
    keep = np.fromiter((name in found for name in names), bool, len(names))
    return _Part(Predictions(values.digests[keep], values.predicted[keep], values.logits[keep],
                             values.probabilities[keep]), None if J is None else J[keep])


def _write(connection, version: int, relation: int, spectrum: int | None,
           parts: list[_Part]) -> int:
    """The parts one behind the other, in chunks of the usual size, each value once; how many."""
    digests = np.concatenate([part.values.digests for part in parts])
    _, first = np.unique(digests.view(f"V{DIGEST_BYTES}").reshape(-1), return_index=True)
    first.sort()

    def joined(arrays):
        return np.concatenate(list(arrays))[first]
    whole = Predictions(*(joined(getattr(part.values, name) for part in parts)
                          for name in ("digests", "predicted", "logits", "probabilities")))
    J = None if spectrum is None else joined(part.J for part in parts)
    size = int(CHUNK_ROWS.default)
    for at in range(0, len(first), size):
        here = slice(at, at + size)
        seq = predictions.write(connection, version, relation, Predictions(
            whole.digests[here], whole.predicted[here], whole.logits[here],
            whole.probabilities[here]))
        if J is not None:
            spectra.write(connection, spectrum, "attached", seq,
                          {"J": np.ascontiguousarray(J[here])})
    return len(first)


_STATE = """SELECT v.active_spectrum, EXISTS (SELECT FROM pgrain.spectrum s
    JOIN pgrain.job j USING (job)
    WHERE s.version = v.version AND NOT s.ready AND j.state IN ('queued', 'running')) AS computing
FROM pgrain.model_version v WHERE v.version = %s"""
_FORGET = """DELETE FROM pgrain.spectrum_chunk k USING pgrain.spectrum s
WHERE k.spectrum = s.spectrum AND s.version = %s AND k.kind = 'attached' AND k.seq = ANY (%s)"""
_HINT = """INSERT INTO pgrain.attachment_hint (relation)
SELECT a.relation FROM pgrain.attachment a WHERE a.model = %s AND a.relation <> %s::oid"""
