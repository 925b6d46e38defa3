"""The train job: read rows, apply edits, fit, store a version, activate it.

A job that brings weights (`pgrain.import_weights`) takes them as they are in place of fitting.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from pgrain.errors import InvalidArgument, NotNull, NotUnique, PgrainError, WorkerUnreachable
from pgrain.intervention.edits import apply_edits, label_of
from pgrain.models.registry import check_options
from pgrain.models.training import take, train
from pgrain.store import relations, versions
from pgrain.worker import attach_job, beginnings, checkpoints, training_look
from pgrain.worker.repairing import Repairing


def run(job) -> str:
    """Train a new version of the job's model; returns the sentence that the caller reads."""
    versions.drop_unfinished(job.connection)
    try:
        return _run(job)
    except WorkerUnreachable:      # stopping: the next worker goes on from what is kept
        raise
    except PgrainError:            # cancelled or failed: nobody will
        versions.drop_unfinished(job.connection, job.number)
        raise


def _run(job) -> str:
    connection = job.connection
    done = versions.stored(connection, job.number)
    if done is not None:   # an interrupted attempt came as far as that; nothing is trained twice
        left_out = attach_job.predict_attached(job, done)
        versions.activate(connection, job.model, done)
        return (f"version {done} of {job.model}, trained before its worker was interrupted"
                + left_out)
    model = versions.read_model(connection, job.model)
    secret = versions.read_secret(connection)
    given = dict(job.arguments.get("options", {}))
    imported = bool(job.arguments.get("weights"))
    own = beginnings.import_options(given) if imported else {}
    options = {**model.options, **given}
    check_options(model.architecture, options)
    began = training_look.now(connection)
    rows = read_training_rows(job, model, secret)
    repairing = Repairing(connection, model, secret)
    edits, of_edits = versions.edits(connection, job.model)
    edits = repairing.removals(edits)
    repairs = dict(zip([row.key for row in rows], repairing.apply(rows, edits), strict=True))
    rows, n_deleted, n_relabelled = apply_edits(rows, edits)
    if not rows:
        raise InvalidArgument(f'training table of model "{job.model}" has no usable rows')
    job.report("encode", 0, 1)
    try:
        start = (beginnings.imported(job, model, rows, options, own) if imported else
                 beginnings.prepare(job, model, rows, options))
    except InvalidArgument as error:
        error.detail = beginnings.whose(error, model, rows, options) or error.detail
        raise
    number = {label: index for index, label in enumerate(start.classes)}
    labels = np.array([number[row.label] for row in rows], np.int32)
    if imported:
        trained = take(start.network, start.theta, start.X, labels, options)
    else:
        kept = checkpoints.Checkpoints(job, checkpoints.subject(options, start, labels, rows))
        trained = train(start.network, start.X, labels, options=options,
                        seed=int(options.get("seed", 0)), progress=job.stage("train"),
                        theta0=start.theta, keep=kept.keep, resume=kept.resume())
    learned = versions.LearnedRows(
        [row.key for row in rows], labels,
        np.frombuffer(b"".join(row.digest for row in rows), np.uint8).reshape(-1, 16),
        np.array([label_of(edits.get(row.key)) is not None for row in rows]),
        relations.is_integer(connection, model.training_table, model.key),
        np.array([repairs[row.key] for row in rows], np.int64))
    with connection.transaction():
        version = versions.begin_version(connection, job.model, job.number)
        versions.write_version(connection, version, classes=start.classes,
                               encoder=start.encoder.to_json(), options=options,
                               alpha=trained.alpha, theta=trained.theta, rows=learned,
                               shapes=start.network.shapes(),
                               metrics={**trained.metrics, "start": start.note, **of_edits})
    # Active last: whoever predicts with it finds the attached values already stored.
    left_out = attach_job.predict_attached(job, version)
    versions.activate(connection, job.model, version)
    training_look.record(connection, job.model, version, began, (0, 0, 0))
    versions.drop_weights(connection, job.number)
    n_repaired = np.count_nonzero(learned.repairs)
    edited = f", {n_deleted} deleted and {n_relabelled} relabelled" if edits else ""
    edited += f", {n_repaired} repaired" if n_repaired else ""
    metrics = trained.metrics
    short = (f"; {metrics['status']}" if "float64_gradient_norm" in metrics
             and metrics["status"] != "converged" else "")     # Newton's method: to the optimum
    return (f"version {version} of {job.model}: {len(rows)} rows{edited}, {len(start.classes)} "
            f"classes, {start.network.n_parameters} parameters, "
            f"accuracy {trained.metrics['accuracy']:.4f}, {trained.metrics['seconds']:.1f} s"
            + (f"; {start.note}" if imported or options.get("warm_start") else "")
            + short + left_out + many_values(start.encoder.to_json(), model.label,
                                             start.classes, len(rows)))


MANY_VALUES = 50        # of which so many that half the rows, or more, have one of their own


def many_values(encoder: dict, label: str, classes: list[str], n_rows: int) -> str:
    """A sentence about columns taken as categories (dates and texts are, and labels of any type)
    with about as many of them as rows: nothing is learned from what occurs once."""
    limit = max(MANY_VALUES, n_rows // 2)
    said = [f'column "{column["name"]}" has {len(column["categories"])} categories in {n_rows} '
            "rows, and each is learned by itself: leave it out, or make a number or groups of it "
            "in a view, such as extract(epoch FROM ...) of a date"
            for column in encoder.get("columns", ())
            if column["type"] == "category" and len(column["categories"]) > limit]
    if len(classes) > limit:
        said.append(f'label "{label}" has {len(classes)} classes in {n_rows} rows: models are '
                    "classifiers; group its values in a view, such as width_bucket(...)")
    return "".join(f"; {text}" for text in said)


def read_training_rows(job, model: versions.ModelRow, secret: bytes) -> list[relations.Row]:
    """The table's rows in the order of their keys; 23502 for a null key or label, 23505 for a key
    that occurs twice. Rows whose single feature is null are left out."""
    waits = job.waits("read")
    total = relations.count(job.connection, model.training_table, job.submitter, waits)
    rows = []
    for row in relations.read(job.connection, model.training_table, model.kind, model.features,
                              secret, reader=job.submitter, key=model.key,
                              label=model.label, content=True, waiting=waits):
        rows.append(row)
        if len(rows) % 1000 == 0:
            job.report("read", len(rows), max(total, len(rows)))
    for name, column in (("key", model.key), ("label", model.label)):
        empty = next((row for row in rows if getattr(row, name) is None), None)
        if empty is not None:
            raise NotNull(f'{name} column "{column}" of the training table has a null value',
                          detail=None if name == "key" else f"In the row with key {empty.key}.",
                          hint="Correct the row, or train on a view without it.")
    key, times = next(iter(Counter(row.key for row in rows).most_common(1)), (None, 0))
    if times > 1:
        raise NotUnique(f'key column "{model.key}" of the training table is not unique',
                        detail=f"Key {key} occurs {times} times.")
    # COPY returns rows in no promised order; training must not depend on where they lie.
    integers = relations.is_integer(job.connection, model.training_table, model.key)
    rows.sort(key=(lambda row: int(row.key)) if integers else (lambda row: row.key))
    return rows
