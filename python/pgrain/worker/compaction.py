"""Stored chunks of an attached relation put together, and values that have gone from it dropped.

A relation that rows keep coming to gets a chunk each time it is caught up with, and rows that are
deleted leave their values behind. So now and then its small chunks become large ones, and chunks
most of whose values have gone are written again without them. Nothing depends on it but memory and
the time to read: a value that is not stored is computed live.

A value is written again only in a chunk that is small, or half of which has gone. So what is stored
stays below twice what is there plus `CHUNK_ROWS` values, and few chunks hold less than half of
`CHUNK_ROWS`.
"""

from __future__ import annotations

import numpy as np
import psycopg
import structlog

from pgrain.settings import CHUNK_ROWS
from pgrain.store import predictions, spectra
from pgrain.store.predictions import Names, Predictions
from pgrain.worker.resident import Resident

log = structlog.get_logger()
SMALL_CHUNKS = 16
_FIELDS = ("digests", "predicted", "logits", "probabilities")


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
    if (not seqs or any(values is None for values in read)
            or predictions.take(connection, seqs) != set(seqs)):
        return None
    connection.execute(_FORGET, [version, seqs])
    whole = {name: np.concatenate([getattr(values, name) for values in read])
             for name in _FIELDS}
    J = None if spectrum is None else np.concatenate([projected[seq] for seq in seqs])
    left, keep = set(found), []
    for number, digest in enumerate(predictions.split(whole["digests"].tobytes())):
        if digest in left:      # once, if two chunks have it
            left.discard(digest)
            keep.append(number)
    size = int(CHUNK_ROWS.default)
    for at in range(0, len(keep), size):
        here = keep[at:at + size]
        seq = predictions.write(connection, version, relation,
                                Predictions(*(whole[name][here] for name in _FIELDS)))
        if J is not None:
            spectra.write(connection, spectrum, "attached", seq, {"J": J[here]})
    if len(keep) < len(whole["digests"]):
        # Values that other relations have too were stored once: they are looked at again.
        connection.execute(_HINT, [resident.row.model, relation])
    return len(whole["digests"]), len(keep)


_STATE = """SELECT v.active_spectrum, EXISTS (SELECT FROM pgrain.spectrum s
    JOIN pgrain.job j USING (job)
    WHERE s.version = v.version AND NOT s.ready AND j.state IN ('queued', 'running')) AS computing
FROM pgrain.model_version v WHERE v.version = %s"""
_FORGET = """DELETE FROM pgrain.spectrum_chunk k USING pgrain.spectrum s
WHERE k.spectrum = s.spectrum AND s.version = %s AND k.kind = 'attached' AND k.seq = ANY (%s)"""
_HINT = """INSERT INTO pgrain.attachment_hint (relation)
SELECT a.relation FROM pgrain.attachment a WHERE a.model = %s AND a.relation <> %s::oid"""
