"""Predictions (and projections, once there is a spectrum) of attached relations."""

from __future__ import annotations

import numpy as np
import psycopg

from pgrain.errors import InsufficientPrivilege, InvalidArgument, UndefinedColumn, UndefinedObject
from pgrain.settings import CHUNK_ROWS
from pgrain.store import predictions, relations, spectra, versions
from pgrain.wire.identity import DIGEST_BYTES
from pgrain.worker import compaction
from pgrain.worker.resident import Resident, load_version


def run(job) -> str:
    """Store what the active version predicts for the values of one relation."""
    connection = job.connection
    model = versions.read_model(connection, job.model)
    resident = load_version(connection, model.active_version)
    wanted = int(job.arguments["relation"])
    chunks = predictions.names(connection, resident.row.version)
    known = {digest for chunk in chunks for digest in chunk.digests}
    spectrum = resident.row.active_spectrum
    vectors = spectra.read_vectors(connection, spectrum) if spectrum is not None else None
    stored = 0
    for attachment in predictions.attachments(connection, job.model):
        if attachment["relation"] == wanted:
            found, new = store_relation(job, resident, attachment, known, spectrum, vectors)
            stored += sum(len(chunk.digests) for chunk in new)
            compaction.compact(connection, resident, wanted, chunks + new, found)
    projected = "" if spectrum is not None else "; no spectrum yet, so without projections"
    return f"{stored} new values predicted by version {resident.row.version}{projected}"


# What may be wrong with a relation that was attached once: it, or what the roles may, was altered.
_ALTERED = (UndefinedObject, UndefinedColumn, InsufficientPrivilege, InvalidArgument,
            psycopg.ProgrammingError, psycopg.DataError)


def predict_attached(job, version: int) -> str:
    """Predictions of every attached relation for a version that is about to become active; a note
    of those that are left out."""
    resident = load_version(job.connection, version)
    known = {digest for chunk in predictions.names(job.connection, version)
             for digest in chunk.digests}
    return store_all(job, resident, known, None, None)[1]


def store_all(job, resident: Resident, known: set[bytes], spectrum: int | None,
              vectors: np.ndarray | None) -> tuple[list[int], str]:
    """`store_relation` of every attached relation: (seqs of the new chunks, a note of those that
    are left out). Their predictions are computed live, which is slower and no less right, so a
    relation that was altered holds nothing up."""
    seqs, note = [], ""
    for attachment in predictions.attachments(job.connection, job.model):
        try:
            _, new = store_relation(job, resident, attachment, known, spectrum, vectors)
            seqs += [chunk.seq for chunk in new]
        except _ALTERED as error:
            if job.connection.closed:
                raise
            reason = (error.diag.message_primary if isinstance(error, psycopg.Error)
                      else error.message)
            predictions.fell_behind(job.connection, job.model, attachment["relation"],
                                    resident.row.version)
            note += f"; attached {attachment['name']} is left out: {reason}"
    return seqs, note


def store_relation(job, resident: Resident, attachment: dict, known: set[bytes],
                   spectrum: int | None, vectors: np.ndarray | None
                   ) -> tuple[set[bytes], list[predictions.Names]]:
    """Predict and store the values of one relation that `known` lacks (it is added to).

    Returns (digests of all its values, the new chunks).
    """
    connection, kind = job.connection, resident.row.kind
    secret = versions.read_secret(connection)
    waits = job.waits(f"read {attachment['name']}")
    total = max(relations.count(connection, attachment["relation"], attachment["attached_by"],
                                waits), 1)
    chunk_rows = int(CHUNK_ROWS.default)
    values: list = []
    names: list[bytes] = []
    found: set[bytes] = set()
    new: list[predictions.Names] = []
    # Read all first: the connection is busy while a COPY runs, and chunks are written on it.
    for done, row in enumerate(relations.read(
            connection, attachment["relation"], kind, attachment["features"], secret,
            reader=attachment["attached_by"], names=resident.features,
            waiting=waits), 1):
        found.add(row.digest)
        if row.digest not in known:
            known.add(row.digest)
            names.append(row.digest)
            values.append(row.value)
        if done % 1000 == 0:
            job.report(f"read {attachment['name']}", done, max(total, done))
    for at in range(0, len(values), chunk_rows):
        part, part_names = values[at:at + chunk_rows], names[at:at + chunk_rows]
        job.report(f"predict {attachment['name']}", at, len(values))
        predicted, logits, p, J = resident.logits_and_projections(part, vectors)
        with connection.transaction():
            seq = predictions.write(connection, resident.row.version, attachment["relation"],
                                    predictions.Predictions(
                np.frombuffer(b"".join(part_names), np.uint8).reshape(-1, DIGEST_BYTES),
                predicted.astype("<u2"), logits.astype("<f4"), p.astype("<f4")))
            if J is not None:
                spectra.write(connection, spectrum, "attached", seq, {"J": J})
        new.append(predictions.Names(seq, attachment["relation"], part_names))
    predictions.caught_up(connection, resident.row.model, attachment["relation"],
                          resident.row.version, len(found))
    job.report(f"predict {attachment['name']}", 1, 1)
    return found, new
