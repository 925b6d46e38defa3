"""Predictions (and projections, once there is a spectrum) of attached relations."""

from __future__ import annotations

import numpy as np
import psycopg

from pgrain.errors import (
    InsufficientPrivilege,
    InvalidArgument,
    PgrainError,
    UndefinedColumn,
    UndefinedObject,
)
from pgrain.settings import CHUNK_ROWS
from pgrain.store import predictions, relations, spectra, versions
from pgrain.wire.identity import DIGEST_BYTES
from pgrain.worker import compaction
from pgrain.worker.polling import said
from pgrain.worker.resident import Resident, load_version


def run(job, *, leave_out: bool = False) -> str:
    """Store what the active version predicts for the values of one relation. leave_out: others
    than those which the model cannot read, which are an error otherwise."""
    connection = job.connection
    model = versions.read_model(connection, job.model)
    resident = load_version(connection, model.active_version)
    wanted = int(job.arguments["relation"])
    chunks = predictions.names(connection, resident.row.version)
    known = {digest for chunk in chunks for digest in chunk.digests}
    spectrum = resident.row.active_spectrum
    vectors = spectra.read_vectors(connection, spectrum) if spectrum is not None else None
    stored = 0
    unreadable: list[PgrainError] | None = [] if leave_out else None
    for attachment in predictions.attachments(connection, job.model):
        if attachment["relation"] == wanted:
            found, new = store_relation(job, resident, attachment, known, spectrum, vectors,
                                        unreadable)
            stored += sum(len(chunk.digests) for chunk in new)
            compaction.compact(connection, resident, wanted, chunks + new, found)
    projected = "" if spectrum is not None else "; no spectrum yet, so without projections"
    return (f"{stored} new values predicted by version {resident.row.version}{projected}"
            + _left_out(unreadable))


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
        unreadable: list[PgrainError] = []
        try:
            _, new = store_relation(job, resident, attachment, known, spectrum, vectors, unreadable)
            seqs += [chunk.seq for chunk in new]
            if unreadable:
                note += f"; attached {attachment['name']}{_left_out(unreadable)}"
        except _ALTERED as error:
            if job.connection.closed:
                raise
            reason, hint = said(error)
            predictions.fell_behind(job.connection, job.model, attachment["relation"],
                                    resident.row.version)
            predictions.cannot_read(job.connection, job.model, attachment["relation"], reason, hint)
            note += f"; attached {attachment['name']} is left out: {reason}"
    return seqs, note


def store_relation(job, resident: Resident, attachment: dict, known: set[bytes],
                   spectrum: int | None, vectors: np.ndarray | None,
                   unreadable: list[PgrainError] | None = None
                   ) -> tuple[set[bytes], list[predictions.Names]]:
    """Predict and store the values of one relation that `known` lacks (it is added to).

    unreadable: values that the model cannot read are left out, and why is added here; without it
    they are an error (22023). Returns (digests of all its values, the new chunks).
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
            waiting=waits, unreadable=unreadable), 1):
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
        try:
            made = resident.logits_and_projections(part, vectors)
        except InvalidArgument:
            if unreadable is None:
                raise
            odd = _unreadable(resident, part, unreadable)
            found.difference_update(part_names[i] for i in odd)
            part, part_names = ([x for i, x in enumerate(one) if i not in odd]
                                for one in (part, part_names))
            if not part:
                continue
            made = resident.logits_and_projections(part, vectors)
        predicted, logits, p, J = made
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


def _unreadable(resident: Resident, values: list, why: list[PgrainError]) -> set[int]:
    """Places of the values that the model cannot read (of another length, too large). Found by
    halves: as a rule there are none, and where there are, few."""
    odd: set[int] = set()
    waiting = [range(len(values))]
    while waiting:
        places = waiting.pop()
        try:
            resident.check(values[places.start:places.stop])
        except InvalidArgument as error:
            if len(places) == 1:
                odd.add(places.start)
                why.append(error)
            else:
                middle = len(places) // 2
                waiting += [places[middle:], places[:middle]]
    return odd


def _left_out(unreadable: list[PgrainError] | None) -> str:
    """The end of a message about values that are left out."""
    if not unreadable:
        return ""
    some = f"{len(unreadable)} values that the model cannot read are" if len(unreadable) > 1 else (
        "one value that the model cannot read is")
    return f"; {some} left out ({unreadable[0].message})"
