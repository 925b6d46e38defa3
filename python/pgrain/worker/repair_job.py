"""The part of precompute about feature repairs: J_z' and p_z' - e_y of every row that one changes.

A chunk of rows a transaction, as for the training rows; what an interrupted attempt has stored is
kept. Nothing here runs SQL of users: their expressions were evaluated by the session that created
the intervention.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pgrain.errors import InvalidArgument
from pgrain.influence.projections import project
from pgrain.intervention import library
from pgrain.intervention.duplicates import redundant
from pgrain.models.softmax import residual
from pgrain.settings import CHUNK_ROWS
from pgrain.store import interventions, relations, spectra
from pgrain.store.interventions import Intervention
from pgrain.worker.repairing import Repairing, blamed
from pgrain.worker.resident import Resident


def project_repairs(job, resident: Resident, repairing: Repairing, spectrum: int,
                    vectors: np.ndarray, rows: list[relations.Row], numbers: np.ndarray) -> str:
    """Project every repair of the model under one spectrum; a clause for the job's message.

    rows: those that are as learned, `numbers` among the learned rows (ascending).
    """
    originals = [replace(row, value=row.original) for row in rows]
    notes = []
    for it in repairing.all:
        with blamed(it):
            repairing.fit(originals, [it])
        if library.is_removal(it.library):
            n, stale = _removed(job, resident, it, spectrum, numbers), 0
        else:
            n, stale = _projected(job, resident, repairing, it, spectrum, vectors, originals,
                                  numbers)
        interventions.finish(job.connection, it.number, spectrum, n, stale)
        notes.append(f'"{it.name}" {"removes" if library.is_removal(it.library) else "changes"} '
                     f"{n} rows" + (f" ({stale} have changed since it was created)"
                                    if stale else ""))
    return "; " + ", ".join(notes) if notes else ""


def _projected(job, resident: Resident, repairing: Repairing, it: Intervention, spectrum: int,
               vectors, originals: list[relations.Row], numbers: np.ndarray) -> tuple[int, int]:
    """Number of rows that the repair changes, and of those whose new value is out of date."""
    step, kind = int(CHUNK_ROWS.default), interventions.kind_of_chunks(it.number)
    changed = stale = 0
    for seq, at in enumerate(range(0, len(numbers), step)):
        job.report(f"project {it.name}", at, len(numbers))
        part = numbers[at:at + step]
        stored = interventions.read_chunk(job.connection, spectrum, it.number, seq)
        if stored is None or not np.array_equal(stored["asked"], part):
            stored = _chunk(resident, repairing, it, vectors, originals[at:at + step], part)
            spectra.write(job.connection, spectrum, kind, seq, stored)
        changed += len(stored["rows"])
        stale += int(stored["stale"][0])
    spectra.drop_after(job.connection, spectrum, kind, -(-len(numbers) // step))
    return changed, stale


def _chunk(resident: Resident, repairing: Repairing, it: Intervention, vectors,
           rows: list[relations.Row], numbers: np.ndarray) -> dict[str, np.ndarray]:
    with blamed(it):
        found, stale = repairing.repaired(it, rows)
    learned = resident.learned
    # What a version learned repaired in this very way is no candidate any more.
    at = [i for i, new in enumerate(found) if new is not None
          and learned.digests[numbers[i]].tobytes() != new.digest]
    with blamed(it):
        X = _encoded(resident, [found[i].value for i in at], [rows[i].key for i in at])
    chosen = numbers[at]
    R, m = len(resident.row.classes), vectors.shape[1]
    logits, J = (project(resident.model, resident.theta, X, vectors) if at
                 else (np.zeros((0, R), np.float32), np.zeros((0, R, m), np.float32)))
    return {"asked": numbers, "rows": chosen, "J": J,
            "residual": residual(None, learned.labels[chosen], logits),
            "stale": np.array([stale], np.int64)}


def _encoded(resident: Resident, values: list, keys: list[str]) -> np.ndarray | None:
    """The values as inputs, None of none; 22023 with the first row that has no such value."""
    if not values:
        return None
    try:
        return resident.encoder.encode(values)
    except InvalidArgument:
        for value, key in zip(values, keys, strict=True):
            try:
                resident.encoder.encode([value])
            except InvalidArgument as error:
                raise InvalidArgument(error.message, detail=" ".join(filter(None, (
                    error.detail, f"In the row with key {key}.")))) from None
        raise


def _removed(job, resident: Resident, it: Intervention, spectrum: int,
             numbers: np.ndarray) -> int:
    job.report(f"compare rows for {it.name}", 0, 1)
    kind = interventions.kind_of_chunks(it.number)
    learned = resident.learned
    J = np.zeros((len(numbers), 1, 1), np.float32)
    if it.options.get("by", "digest") == "distance":
        parts = [arrays["J"] for _, arrays in spectra.chunks(job.connection, spectrum, "training")]
        J = np.concatenate(parts)
    rows = numbers[redundant(learned.digests[numbers], learned.labels[numbers], J, it.options)]
    spectra.write(job.connection, spectrum, kind, 0, {"asked": numbers, "rows": rows})
    return len(rows)
