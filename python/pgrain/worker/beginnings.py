"""What a training starts from: fresh weights, those of the active version, or imported ones.

With `warm_start`, classes, encoding and first weights are those of the active version where they
still fit, so that the new version differs from it by what the edits did, and by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgrain.errors import InvalidArgument
from pgrain.models import encoding, weights
from pgrain.models.encoding import Encoder
from pgrain.models.options import Option, check, pick
from pgrain.models.registry import Model, build_for
from pgrain.store import relations, versions

# Options of an import alone; classes and encoding of a version are stored beside its options.
IMPORT_OPTIONS = {option.name: option for option in (
    Option("classes", "names", "the class of each output of the network, in their order"),
    Option("encoding", "object", "how features become the network's inputs, as in "
           "pgrain.model_version.encoder; by default learned from the training rows"),
)}


@dataclass
class Start:
    """What training starts from. theta: (d,) or None for fresh weights; note: which, and why."""

    classes: list[str]
    encoder: Encoder
    X: np.ndarray
    network: Model
    theta: np.ndarray | None
    note: str


def prepare(job, model: versions.ModelRow, rows: list[relations.Row], options: dict) -> Start:
    """Classes, encoding, network and first weights: the active version's where `warm_start` asks
    for them and they fit, else learned from the rows."""
    values = [row.value for row in rows]
    classes = sorted({row.label for row in rows})
    note = "fresh weights"
    if options.get("warm_start"):
        warm, note = warm_start(job, model, classes, values, options)
        if warm is not None:
            return warm
    if len(classes) < 2:
        raise InvalidArgument(f'model "{job.model}" would have one class only: "{classes[0]}"')
    encoder = Encoder.fit(model.kind, values, model.features, options)
    network = build_for(model.architecture, len(classes), encoder, options)
    return Start(classes, encoder, encoder.encode(values), network, None, note)


def warm_start(job, model: versions.ModelRow, classes: list[str], values: list,
               options: dict) -> tuple[Start | None, str]:
    """The start from the active version, or None and why there is none.

    Its encoding stays although the rows may have other means by now: its weights mean nothing
    under another. Its classes stay although edits may have taken all rows of one.
    """
    if model.active_version is None:
        return None, "fresh weights: no version is active"
    row = versions.read_version(job.connection, model.active_version)
    before = f"version {row.version}"
    if unknown := sorted(set(classes) - set(row.classes)):
        return None, f'fresh weights: {before} does not know class "{unknown[0]}"'
    if pick(options, encoding.OPTIONS) != pick(row.options, encoding.OPTIONS):
        return None, f"fresh weights: {before} encodes features by other options"
    encoder = Encoder.from_json(row.encoder)
    network = build_for(model.architecture, len(row.classes), encoder, options)
    theta = versions.read_theta(job.connection, row.version)
    if network is not build_for(row.architecture, len(row.classes), encoder, row.options):
        return None, f"fresh weights: {before} is a network of another shape"
    return (Start(row.classes, encoder, encoder.encode(values), network, theta,
                  f"started from {before}"), "")


def whose(error: InvalidArgument, model: versions.ModelRow, rows: list[relations.Row],
          options: dict) -> str | None:
    """The row whose value an encoder has refused with `error`, as a sentence; None if it was no
    row's. Encodings are refused value by value, so the first one is found by halving."""
    def refused(count: int) -> bool:
        try:
            Encoder.fit(model.kind, [row.value for row in rows[:count]], model.features, options)
        except InvalidArgument as again:
            return again.message == error.message
        return False

    low, high = 0, len(rows)
    if not refused(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if refused(middle) else (middle, high)
    return f"In the row with key {rows[high - 1].key}."


def import_options(given: dict) -> dict:
    """The options of an import, taken out of `given`, checked (22023)."""
    own = check(pick(given, IMPORT_OPTIONS), IMPORT_OPTIONS, what="import_weights")
    for name in own:
        del given[name]
    return own


def imported(job, model: versions.ModelRow, rows: list[relations.Row], options: dict,
             own: dict) -> Start:
    """Weights trained elsewhere, with the classes and the encoding that belong to them."""
    found = sorted({row.label for row in rows})
    classes = own.get("classes", found)
    if len(set(classes)) != len(classes):
        raise InvalidArgument('option "classes" names a class twice')
    if unknown := sorted(set(found) - set(classes)):
        raise InvalidArgument(f'the training table has label "{unknown[0]}", which is no class of '
                              "the weights", detail=f"Its classes: {', '.join(classes)}.",
                              hint="Delete or relabel those rows with pgrain.apply, or correct "
                                   'the option "classes".')
    values = [row.value for row in rows]
    if "encoding" in own:
        encoder = Encoder.given(model.kind, own["encoding"], model.features)
    else:
        encoder = Encoder.fit(model.kind, values, model.features, options)
    network = build_for(model.architecture, len(classes), encoder, options)
    theta = weights.theta_of(network, weights.read(versions.read_weights(job.connection,
                                                                        job.number)))
    return Start(classes, encoder, encoder.encode(values), network, theta, "imported weights")
