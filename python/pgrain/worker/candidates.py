"""What a ranking may propose for a training row, and the change of q by the best of it.

One row of the answer is one training row with its best intervention: the deletion, the best of its
R - 1 other labels, the best of the model's feature repairs, or the best of all of these (``any``).
The best of a row is found without listing what is not: the changes are folded into one minimum a
row; which intervention it was is worked out for the few rows that are returned.

What makes different interventions comparable. The gain of a relabelling is the larger the more
wrong the new label is: called a trouser, any shoe raises the count of trousers more than the repair
of a picture does, or than the right label does for a row that has a wrong one. So ``any`` compares
*expected* gains (option ``plausible``): the gain times the probability, by the model, that the row
is right afterwards. That is p(y' | x) for a relabelling, p(y | x') for a feature repair, and for a
deletion the probability that its label was wrong, 1 - p(y | x). Removal of what a repair calls
redundant counts fully. Measured: docs/dev/semantics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pgrain.errors import InvalidArgument, no_class
from pgrain.influence.scores import (
    deletion_changes,
    relabel_changes,
    replacement_changes,
    weighted,
)
from pgrain.intervention.edits import ANY, DELETE, RELABEL, label_of, relabel
from pgrain.worker.resident import Repair, Training


@dataclass
class Candidates:
    """The interventions that one ranking is over.

    delete: deletions; classes: numbers of the classes to relabel to; repairs: precomputed feature
    repairs; names: all classes of the model; plausible: expected gains are compared.
    """

    delete: bool
    classes: np.ndarray
    repairs: Sequence[Repair]
    names: list[str]
    plausible: bool = False

    @staticmethod
    def of(intervention: str, classes: list[str], repairs: Sequence[Repair],
           among: Sequence[str] | None = None, plausible: bool = False) -> Candidates:
        """What an intervention's name stands for; 22023 if it is none.

        repairs: those that could be ranked now (only ``any`` and their own names ask for them).
        among: what ``any`` chooses from; None for everything.
        """
        made = Candidates._of(intervention, classes, repairs, among)
        made.plausible = plausible
        return made

    @staticmethod
    def _of(intervention, classes, repairs, among=None) -> Candidates:
        if intervention == ANY and among is not None:
            parts = [Candidates._of(name, classes, repairs) for name in among if name != ANY]
            if not parts or len(parts) < len(among):
                raise InvalidArgument('option "among" names what "any" chooses from',
                                      hint="""For example '{"among": ["delete", "relabel"]}'.""")
            chosen = {repair.name: repair for part in parts for repair in part.repairs}
            return Candidates(any(part.delete for part in parts),
                              np.unique(np.concatenate([part.classes for part in parts])),
                              tuple(chosen.values()), classes)
        none = np.zeros(0, np.int64)
        if intervention == DELETE:
            return Candidates(True, none, (), classes)
        if intervention == RELABEL:
            return Candidates(False, np.arange(len(classes)), (), classes)
        if intervention == ANY:
            return Candidates(True, np.arange(len(classes)), repairs, classes)
        if label_of(intervention) in classes:
            return Candidates(False, np.array([classes.index(label_of(intervention))]), (), classes)
        found = [repair for repair in repairs if repair.name == intervention]
        if found:
            return Candidates(False, none, found, classes)
        if label_of(intervention) is not None:
            raise no_class(None, label_of(intervention), classes)
        own = "".join(f", {repair.name!r}" for repair in repairs)
        raise InvalidArgument(f'no such intervention: "{intervention}"',
                              hint="Interventions are 'delete', 'relabel' (the best label of each "
                                   "row), 'any' (the best intervention of each row)"
                                   f"{own} and 'relabel:<class>' with one of {', '.join(classes)}.")

    def least(self, training: Training, w: np.ndarray, c: np.ndarray) -> np.ndarray:
        """The smallest change of q for each row: (n,) float32, +inf for a row that nothing of this
        changes. w, c: (k,), k at most the stored pairs."""
        if self.delete:
            best = training.deletions(len(w)).least(weighted(w, c))
            if self.plausible:
                best = best * _wrong(training, slice(None))
        else:
            best = np.full(len(training.rows), np.inf, np.float32)
        if len(self.classes) and self.plausible:
            # By columns: a minimum along a short last axis takes ten times as long.
            by_class = np.ascontiguousarray(self._labels(training, slice(None), w, c, True).T)
            best = np.minimum(best, np.minimum.reduce(by_class, axis=0))
        elif len(self.classes):
            best = np.minimum(best, training.relabellings(len(w)).least(weighted(w, c),
                                                                        self.classes))
        for repair in self.repairs:
            changes = replacement_changes(training.A[repair.at, :len(w)], repair.A[:, :len(w)],
                                          w, c)
            if self.plausible:
                changes = changes * repair.belief
            best[repair.at] = np.minimum(best[repair.at], changes)
        return best

    def columns(self, training: Training, at: np.ndarray, w: np.ndarray, c: np.ndarray,
                expected: bool = True) -> np.ndarray:
        """The change of q for the rows `at` by each intervention, in the order of `titles`:
        (len(at), number of interventions), +inf where one does not change the row. expected: the
        expected ones, if these are compared."""
        parts, weigh = [], expected and self.plausible
        if self.delete:
            changes = deletion_changes(training.A[at, :len(w)], w, c)
            parts.append((changes * _wrong(training, at) if weigh else changes)[:, None])
        if len(self.classes):
            parts.append(self._labels(training, at, w, c, weigh))
        for repair in self.repairs:
            place = np.searchsorted(repair.at, at).clip(max=max(len(repair.at) - 1, 0))
            there = (repair.at[place] == at) if len(repair.at) else np.zeros(len(at), bool)
            changes = np.full(len(at), np.inf, np.float32)
            changes[there] = replacement_changes(
                training.A[at[there], :len(w)], repair.A[place[there], :len(w)], w, c)
            if weigh:
                changes[there] *= repair.belief[place[there]]
            parts.append(changes[:, None])
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def titles(self) -> list[str]:
        """The interventions' names, a column of `columns` each."""
        return ([DELETE] * self.delete + [relabel(self.names[number]) for number in self.classes]
                + [repair.name for repair in self.repairs])

    def _labels(self, training: Training, at, w, c, weigh: bool) -> np.ndarray:
        labels = training.labels[at]
        changes = relabel_changes(training.J[at], labels, w, c)
        if weigh:
            changes = changes * np.maximum(training.residual[at], 0)   # p, but for the own label
        changes[np.arange(len(labels)), labels] = np.inf   # to keep its label is no intervention
        return changes if len(self.classes) == len(self.names) else changes[:, self.classes]


def _wrong(training: Training, at) -> np.ndarray:
    """(n,) how likely the rows' labels are wrong, 1 - p(y | x)."""
    labels = training.labels[at]
    return -training.residual[at][np.arange(len(labels)), labels]
