"""The first edits of a ranking as the group step takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgrain.errors import NotReady, PgrainError
from pgrain.influence.completion import Completion
from pgrain.influence.group_step import Added, GroupStep, logits_of
from pgrain.influence.projections import project
from pgrain.intervention.edits import DELETE, label_of
from pgrain.models.registry import Model
from pgrain.wire.identity import unpack_value
from pgrain.worker.features import training_features
from pgrain.worker.ranking import Suspects, Variables
from pgrain.worker.resident import Residents, Spectrum

DIRECTIONS = 16
"""Most directions that a plan finds beside the stored ones."""
TO_THE_OPTIMUM = ("logistic_regression",)
"""Architectures for which it does so unasked. A net's training does not reach the optimum along
directions in which the loss is flat, so for it the stored ones alone predict better (mlp: median
error of deletions 0.07 against 0.28; `benchmarks/repair_prediction.py`)."""


@dataclass
class RepairedRows:
    """What one feature repair makes of the suspects that it is proposed for. at: (r,) positions in
    `Training.rows`, ascending; J: (r, R, m); logits: (r, R); X: (r, ...) or None."""

    at: np.ndarray
    J: np.ndarray
    logits: np.ndarray
    X: np.ndarray | None = None


class Prefixes:
    """Edits by the length of the prefix.

    repaired: the rows of each feature repair among the interventions, by name.
    """

    def __init__(self, spectrum: Spectrum, classes: list[str], suspects: Suspects,
                 repaired: dict[str, RepairedRows]):
        self.training, self.classes = spectrum.training, classes
        self.suspects, self.repaired = suspects, repaired

    def put(self, length: int, step: GroupStep, completion: Completion | None = None) -> None:
        """Have `step` solve for the first `length` edits."""
        training = self.training
        weights, targets = np.ones(len(training.rows), np.float32), training.labels.copy()
        come: dict[str, list[int]] = {}
        for at, title in zip(self.suspects.at[:length].tolist(),
                             self.suspects.interventions[:length], strict=True):
            label = label_of(title)
            if label is not None and title not in self.suspects.repairs:
                targets[at] = self.classes.index(label)
                continue
            weights[at] = 0
            if title == DELETE:
                continue
            repair = self.suspects.repairs[title]
            if repair.A[int(np.searchsorted(repair.at, at))].any():
                come.setdefault(title, []).append(at)
            # else the repair leaves nothing of the row
        parts = []
        for title, at in come.items():
            rows = self.repaired[title]
            place = np.searchsorted(rows.at, at)
            parts.append((rows.J[place], rows.logits[place], training.labels[at],
                          None if rows.X is None else rows.X[place]))
        added = Added(*(np.concatenate([part[i] for part in parts]) for i in range(3))) \
            if parts else None
        if completion is None:
            step.edit(weights, targets, added)
        else:
            X = np.concatenate([part[3] for part in parts]) if parts else None
            completion.edit(weights, targets, added, X)


def stored_rows(residents: Residents, spectrum: Spectrum,
                suspects: Suspects) -> dict[str, RepairedRows]:
    """`RepairedRows` of the suspects' feature repairs out of what is stored."""
    found = {}
    for name, numbers in _wanted(suspects).items():
        rows, J, residual = residents.repaired_rows(spectrum, suspects.repairs[name], numbers)
        if len(rows):
            at = np.searchsorted(spectrum.training.rows, rows)
            found[name] = RepairedRows(at, J, logits_of(residual, spectrum.training.labels[at]))
    return found


def completed(residents: Residents, variables: Variables, spectrum: Spectrum, suspects: Suspects,
              step: GroupStep) -> tuple[Completion | None, dict[str, RepairedRows], str | None]:
    """(what finds the directions that the stored ones lack, repaired rows, None); or (None, ...,
    why there is none): it needs the features of nearly all training rows and of the queried
    values."""
    resident, wanted = variables.resident, _wanted(suspects)
    try:
        if variables.values is None:
            raise NotReady("there are too many queried values")
        features = training_features(residents, resident, wanted)
    except PgrainError as error:
        return None, stored_rows(residents, spectrum, suspects), error.message
    training = spectrum.training
    here = np.isin(features.numbers, training.rows)
    rows = np.searchsorted(training.rows, features.numbers[here])
    if len(rows) < 0.9 * len(training.rows):
        return (None, stored_rows(residents, spectrum, suspects),
                f"{len(training.rows) - len(rows)} training rows have changed since")
    repaired = {}
    for name, numbers in wanted.items():
        found, X = features.repaired.get(name, (np.zeros(0, np.int64), None))
        if not np.isin(numbers, found).all():
            return (None, stored_rows(residents, spectrum, suspects),
                    f'rows have changed since intervention "{name}" was made')
        logits, J = project(resident.model, resident.theta, X, spectrum.vectors)
        repaired[name] = RepairedRows(np.searchsorted(training.rows, found), J, logits, X)
    values = [resident.value(unpack_value(variables.values[digest.tobytes()], resident.row.kind))
              for digest in variables.digests]
    _, J = variables.logits_and_projections()
    completion = Completion(resident.model, resident.theta, spectrum.vectors, step,
                            features.X[here], rows, resident.encoder.encode(values), J)
    return completion, repaired, None


def default_directions(model: Model) -> int:
    return DIRECTIONS if model.architecture in TO_THE_OPTIMUM else 0


def _wanted(suspects: Suspects) -> dict[str, np.ndarray]:
    """Name of a feature repair -> the learned rows (by number, ascending) that it is proposed for
    and does not remove."""
    titles = np.array(suspects.interventions)
    found = {}
    for name, repair in suspects.repairs.items():
        mine = np.flatnonzero(titles == name)
        mine = mine[repair.A[np.searchsorted(repair.at, suspects.at[mine])].any(axis=1)]
        if len(mine):
            found[name] = np.sort(suspects.numbers[mine])
    return found
