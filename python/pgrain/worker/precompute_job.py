"""The precompute job: spectrum, projections of training rows, their repairs, attached relations.

Steps that are stored as they finish, and skipped when the job is taken up again: the spectrum; each
chunk of training projections. At the end one transaction makes the spectrum the active one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from pgrain.errors import NotReady
from pgrain.influence.hvp import CURVATURES
from pgrain.influence.landmarks import clusters, resembles
from pgrain.influence.projections import project
from pgrain.models.options import Option, check, pick
from pgrain.models.softmax import residual
from pgrain.settings import CHUNK_ROWS, CURVATURE_SAMPLE, STORED_PAIRS
from pgrain.store import predictions, relations, spectra, versions
from pgrain.worker import attach_job, crew, spectrum_step, training_look
from pgrain.worker.repair_job import project_repairs
from pgrain.worker.repairing import Repairing
from pgrain.worker.resident import Resident, load_version

_BLOCK_ROWS = 4096              # rows that are encoded at a time

OPTIONS = {
    "pairs": STORED_PAIRS,
    "sample": CURVATURE_SAMPLE,
}


def run(job) -> str:
    """Precompute the active version; returns the sentence that the caller reads."""
    connection = job.connection
    model = versions.read_model(connection, job.model)
    if model.active_version is None:
        raise NotReady(f'model "{job.model}" is not trained',
                       hint=f"Run CALL pgrain.train('{job.model}').")
    options = check_options(job.arguments.get("options", {}))
    resident = load_version(connection, model.active_version)
    repairing = Repairing(connection, model, versions.read_secret(connection))
    rows = learned_rows(job, model, resident, repairing)
    numbers, changed = rows.numbers, len(resident.learned.keys) - len(rows.numbers)
    if not len(numbers):
        raise NotReady(f'no training row of model "{job.model}" is as it was learned',
                       detail="They have changed since, or are gone.",
                       hint=f"Run CALL pgrain.train('{job.model}').")
    if options["only"] == "interventions":
        return only_repairs(job, resident, repairing, rows.whole, numbers)
    X, y = rows.X, resident.learned.labels[numbers]
    spectrum = spectra.resumable(connection, job.number)
    if spectrum is None:
        spectrum_step.check_room(job, resident, options, len(y))
        spectrum = spectrum_step.compute(job, resident, X, y, options, changed)
    vectors = spectra.read_vectors(connection, spectrum)
    project_training(job, resident, spectrum, vectors, X, y, numbers)
    store_landmarks(job, resident, spectrum, X, y, numbers)
    repaired = project_repairs(job, resident, repairing, spectrum, vectors, rows.whole, numbers)
    seqs, left_out = attach_job.store_all(job, resident, set(), spectrum, vectors)
    with connection.transaction():
        spectra.finish(connection, spectrum, changed)
        predictions.delete(connection, resident.row.version, seqs)
    stored = spectra.read(connection, spectrum)
    short = "" if stored.status == "converged" else f"; {stored.status}"
    note = (f"; {changed} training rows have changed since training and are not ranked"
            if changed else "")
    return (f"version {resident.row.version} of {job.model}: {len(stored.eigenvalues)} eigenpairs, "
            f"k = {stored.k}, {len(numbers)} rows projected{note}{repaired}{short}{left_out}")


def only_repairs(job, resident: Resident, repairing: Repairing, rows: list, numbers: np.ndarray
                 ) -> str:
    """Project interventions that were created since, under the spectrum that there is."""
    spectrum = resident.row.active_spectrum
    if spectrum is None:
        raise NotReady(f'model "{job.model}" has no stored spectrum',
                       hint="Run pgrain.precompute without the option only.")
    vectors = spectra.read_vectors(job.connection, spectrum)
    done = project_repairs(job, resident, repairing, spectrum, vectors, rows, numbers)
    return f"version {resident.row.version} of {job.model}: " + (
        done.removeprefix("; ") or "there are no interventions")


def check_options(options: dict) -> dict:
    """The job's options with their defaults, whole numbers within bounds (22023)."""
    allowed = {name: Option(name, "integer", setting.meaning, setting.minimum, setting.maximum)
               for name, setting in OPTIONS.items()}
    allowed["only"] = Option("only", "choice", "what is computed",
                             choices=("all", "interventions"))
    allowed["curvature"] = Option("curvature", "choice",
                                  "of the loss, or Gauss-Newton's part of it", choices=CURVATURES)
    allowed["k"] = Option("k", "integer", "eigenpairs that complaints use by default", 1,
                          STORED_PAIRS.maximum)
    allowed["proxy"] = Option("proxy", "name", "a model whose k is used, such as a smaller one of "
                              "the same task (paper section 4.3)")
    allowed["seed"] = Option("seed", "integer", "seed of the sample and of Lanczos", 0, 2**31)
    given = check(options, allowed, what="precompute")
    defaults = {name: int(setting.default) for name, setting in OPTIONS.items()}
    return {**defaults, "seed": 0, "only": "all", "curvature": CURVATURES[0],
            **pick(given, allowed)}


@dataclass
class LearnedNow:
    """Rows that are still as a version learned them. numbers: (n,) int64, ascending, among the
    learned rows; X: (n, ...) encoded; whole: the rows themselves where repairs need them, else
    none."""

    numbers: np.ndarray
    X: np.ndarray
    whole: list[relations.Row]


def learned_rows(job, model, resident: Resident, repairing: Repairing) -> LearnedNow:
    """Reads the training table once. Rows are encoded as they come and put where they belong, so
    that memory holds the encoded table and a block of rows of it, not the rows as well."""
    secret = versions.read_secret(job.connection)
    waits = job.waits("read")
    total = max(relations.count(job.connection, model.training_table, job.submitter, waits), 1)
    n = len(resident.learned.keys)
    there, X, whole = np.zeros(n, bool), None, {}

    def reported(rows):
        for done, row in enumerate(rows, 1):
            if done % 1000 == 0:
                job.report("read", done, max(total, done))
            yield row

    rows = relations.read(job.connection, model.training_table, model.kind, model.features, secret,
                          reader=job.submitter, key=model.key, label=model.label,
                          content=bool(repairing.all), waiting=waits)
    began = training_look.now(job.connection)
    compared = training_look.Compared(resident.learned, training_look.removed(
        job.connection, job.model, repairing))
    pairs = repairing.as_learned(compared.passing(reported(rows)), resident.learned,
                                 resident.row.classes, compared.where)
    while block := list(itertools.islice(pairs, _BLOCK_ROWS)):
        part = resident.encoder.encode([row.value for row, _ in block])
        if X is None:
            X = np.empty((n, *part.shape[1:]), part.dtype)
        at = [number for _, number in block]
        X[at], there[at] = part, True
        if repairing.all:
            whole.update((number, row) for row, number in block)
    numbers = np.flatnonzero(there)
    training_look.record(job.connection, job.model, resident.row.version, began,
                         compared.counts(len(numbers)))
    if X is None:
        X = np.empty((n, *resident.encoder.input_shape()), np.float32)
    return LearnedNow(numbers, X if there.all() else X[there],
                      [whole[number] for number in sorted(whole)])


def project_training(job, resident: Resident, spectrum: int, vectors, X, y, numbers) -> None:
    """J_z and p_z - e_y of the training rows, a chunk a transaction."""
    step = int(CHUNK_ROWS.default)
    # What an interrupted attempt has stored counts where it is about the same rows.
    done = {seq for seq in spectra.present(job.connection, spectrum, "training")
            if np.array_equal(spectra.read_rows(job.connection, spectrum, seq),
                              numbers[seq * step:(seq + 1) * step])}
    spectra.drop_after(job.connection, spectrum, "training", -(-len(y) // step))
    push = project if crew.current() is None else crew.current().project
    for seq, at in enumerate(range(0, len(y), step)):
        job.report("project training rows", at, len(y))
        if seq in done:
            continue
        part = slice(at, at + step)
        logits, J = push(resident.model, resident.theta, X[part], vectors)
        spectra.write(job.connection, spectrum, "training", seq,
                      {"rows": numbers[part], "J": J,
                       "residual": residual(None, y[part], logits)})


def store_landmarks(job, resident: Resident, spectrum: int, X, y, numbers) -> None:
    """A cluster and the class it resembles for every projected row, for `pgrain.describe`."""
    if not len(y) or spectra.present(job.connection, spectrum, "landmarks"):
        return
    job.report("compare rows", 0, 1)
    parts = (arrays["J"] for _, arrays in spectra.chunks(job.connection, spectrum, "training"))
    likeness = (resembles(X, y, len(resident.row.classes)) if resident.row.kind != "text"
                else np.full(len(y), -1, np.int16))
    spectra.write(job.connection, spectrum, "landmarks", 0,
                  {"rows": numbers, "cluster": clusters(parts), "resembles": likeness})
