"""The spectrum of a version: what it will take, Lanczos (continued where it can), the choice of k.
"""

from __future__ import annotations

import os

import jax
import numpy as np
import psycopg

from pgrain.errors import LimitExceeded, NotReady
from pgrain.influence import lanczos as lanczos_module
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.lanczos import lanczos
from pgrain.influence.sample import sample_rows
from pgrain.influence.selection import choose_k
from pgrain.settings import MEMORY_BYTES, STORE_BYTES
from pgrain.store import predictions, spectra, versions
from pgrain.worker import crew
from pgrain.worker.resident import Resident

# What decides which operator a spectrum belongs to; equal in both, it can be continued.
OPERATOR = ("sample", "seed", "curvature")


def memory_bytes() -> int:
    """What one pass may hold: 2 GiB on a CPU, on a GPU a quarter of its memory if that is more."""
    bound = int(MEMORY_BYTES.default)
    device = jax.devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        bound = max(bound, stats.get("bytes_limit", 0) // 4)
    return bound


def store_bytes(resident: Resident, pairs: int, rows: int, attached: int) -> int:
    """What a precompute will store, within a few per cent: eigenvectors, J and p - e_y of the
    training rows, J of the attached values, all float32, and the attached values' predictions."""
    classes = len(resident.row.classes)
    training = rows * (4 * classes * (pairs + 1) + 8)
    values = attached * (4 * classes * (pairs + 2) + 18)
    return 4 * pairs * resident.model.n_parameters + training + values


def check_room(job, resident: Resident, options: dict, rows: int) -> int:
    """The predicted size; 54000 before anything is computed where there is no room for it."""
    pairs = min(options["pairs"], resident.model.n_parameters)
    lanczos_module.room_for(resident.model.n_parameters, pairs, memory_bytes())
    attached = predictions.count(job.connection, resident.row.version)
    needed = store_bytes(resident, pairs, rows, attached)
    room, whose = int(STORE_BYTES.default), "the limit store_bytes"
    free = disk_free(job.connection)
    if free is not None and free < room:
        room, whose = free, "the free room on the server's disk"
    if needed > room:
        none = store_bytes(resident, 0, rows, attached)
        fitting = int(pairs * max(room - none, 0) / (needed - none))
        raise LimitExceeded(
            f"precompute would store {needed / 1e6:,.0f} MB, more than {whose} "
            f"({room / 1e6:,.0f} MB)",
            detail=f"{pairs} eigenpairs, {resident.model.n_parameters:,} parameters, {rows:,} "
                   f"training rows, {attached:,} attached values.",
            hint=f"""Store fewer pairs, such as CALL pgrain.precompute('{job.model}', """
                 f"""'{{"pairs": {max(fitting, 1)}}}').""" if fitting else "Make room on the disk.")
    return needed


def disk_free(connection: psycopg.Connection) -> int | None:
    """Free bytes where the server keeps its data; None where the worker cannot see that (it is on
    another machine, or may not ask for the folder)."""
    row = connection.execute("SELECT setting FROM pg_settings "
                             "WHERE name = 'data_directory'").fetchone()
    try:
        return os.statvfs(row["setting"]).f_bavail * os.statvfs(row["setting"]).f_frsize
    except (TypeError, OSError):
        return None


def compute(job, resident: Resident, X: np.ndarray, y: np.ndarray, options: dict,
            changed: int) -> int:
    """Lanczos on the (sampled) curvature; stored, not yet active: the spectrum's number.

    The curvature is that of the loss that was minimised: the rows that are still as they were
    learned stand for all that were."""
    chosen = sample_rows(len(y), options["sample"], options["seed"])
    make = hessian_operator if crew.current() is None else crew.current().operator
    operator = make(resident.model, resident.theta, X[chosen], y[chosen], resident.row.alpha,
                    n_total=len(resident.learned.keys), curvature=options["curvature"])
    known = continued(job, resident, options, len(chosen), changed)
    found = lanczos(operator, resident.model.n_parameters, options["pairs"],
                    seed=options["seed"], known=known, memory=memory_bytes(),
                    progress=job.stage("spectrum"))
    if len(found.eigenvalues) == 0:
        raise NotReady(f'no eigenpair of model "{job.model}" converged', detail=found.status)
    return spectra.begin(
        job.connection, resident.row.version, job.number, eigenvalues=found.eigenvalues,
        residuals=found.residuals, vectors=found.vectors,
        k=k_of(job, resident, found.eigenvalues, options), sample_rows=len(chosen),
        status=found.status, options={
            **{name: options[name] for name in OPERATOR}, "changed": changed,
            "products": found.iterations, "continued_from": 0 if known is None
            else len(known.eigenvalues)})


def continued(job, resident: Resident, options: dict, sample: int, changed: int):
    """The version's stored pairs, where they are those of the same operator; else None."""
    if resident.row.active_spectrum is None:
        return None
    row = spectra.read(job.connection, resident.row.active_spectrum)
    same = (all(row.options.get(name) == options[name] for name in OPERATOR)
            and row.sample_rows == sample and row.options.get("changed") == changed == 0)
    if not same:
        return None
    return lanczos_module.Spectrum(row.eigenvalues, spectra.read_vectors(job.connection,
                                                                         row.spectrum),
                                   row.residuals, 0, row.status)


def k_of(job, resident: Resident, eigenvalues: np.ndarray, options: dict) -> int:
    """The automatic k: given, taken from a proxy model, or by the inflection rule."""
    stored = len(eigenvalues)
    if "k" in options:
        return min(options["k"], stored)
    if "proxy" in options:
        proxy = versions.read_model(job.connection, options["proxy"])
        spectrum = (None if proxy.active_version is None else
                    versions.read_version(job.connection, proxy.active_version).active_spectrum)
        if spectrum is None:
            raise NotReady(f'proxy model "{options["proxy"]}" has no stored spectrum',
                           hint=f"Run CALL pgrain.precompute('{options['proxy']}').")
        return min(spectra.read(job.connection, spectrum).k, stored)
    return choose_k(eigenvalues, len(resident.row.classes))
