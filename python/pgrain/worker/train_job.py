"""The train job: read rows, apply edits, fit, store a version, activate it."""

from __future__ import annotations

from collections import Counter

import numpy as np

from pgrain.errors import InvalidArgument, NotNull, NotUnique
from pgrain.intervention.edits import apply_edits, label_of
from pgrain.models.encoding import Encoder
from pgrain.models.registry import build, check_options
from pgrain.models.training import train
from pgrain.store import relations, versions
from pgrain.worker import attach_job


def run(job) -> str:
    """Train a new version of the job's model; returns the sentence that the caller reads."""
    connection = job.connection
    model = versions.read_model(connection, job.model)
    secret = versions.read_secret(connection)
    options = {**model.options, **job.arguments.get("options", {})}
    check_options(model.architecture, options)
    rows = read_training_rows(job, model, secret)
    edits = versions.edits(connection, job.model)
    rows, n_deleted, n_relabelled = apply_edits(rows, edits)
    if not rows:
        raise InvalidArgument(f'training table of model "{job.model}" has no usable rows')
    classes = sorted({row.label for row in rows})
    if len(classes) < 2:
        raise InvalidArgument(f'model "{job.model}" would have one class only: "{classes[0]}"')
    number = {label: index for index, label in enumerate(classes)}
    labels = np.array([number[row.label] for row in rows], np.int32)
    job.report("encode", 0, 1)
    values = [row.value for row in rows]
    encoder = Encoder.fit(model.kind, values, model.features, options)
    X = encoder.encode(values)
    network = build(model.architecture, len(classes), encoder.input_shape(), options)
    trained = train(network, X, labels, options=options, seed=int(options.get("seed", 0)),
                    progress=job.stage("train"))
    learned = versions.LearnedRows(
        [row.key for row in rows], labels,
        np.frombuffer(b"".join(row.digest for row in rows), np.uint8).reshape(-1, 16),
        np.array([label_of(edits.get(row.key)) is not None for row in rows]),
        relations.is_integer(connection, model.training_table, model.key))
    version = versions.begin_version(connection, job.model, job.number)
    with connection.transaction():
        versions.write_version(connection, version, classes=classes, encoder=encoder.to_json(),
                               options=options, alpha=trained.alpha, metrics=trained.metrics,
                               theta=trained.theta, rows=learned)
    # Active last: whoever predicts with it finds the attached values already stored.
    attach_job.predict_attached(job, version)
    versions.activate(connection, job.model, version)
    edited = f", {n_deleted} deleted and {n_relabelled} relabelled" if edits else ""
    return (f"version {version} of {job.model}: {len(rows)} rows{edited}, {len(classes)} classes, "
            f"{network.n_parameters} parameters, accuracy {trained.metrics['accuracy']:.4f}, "
            f"{trained.metrics['seconds']:.1f} s")


def read_training_rows(job, model: versions.ModelRow, secret: bytes) -> list[relations.Row]:
    """The table's rows in the order of their keys; 23502 for a null key or label, 23505 for a key
    that occurs twice. Rows whose single feature is null are left out."""
    total = relations.count(job.connection, model.training_table, job.submitter)
    rows = []
    for row in relations.read(job.connection, model.training_table, model.kind, model.features,
                              secret, reader=job.submitter, key=model.key,
                              label=model.label):
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
