"""Training rows with their features repaired, as trained, as projected, as ranked.

Values come from pgrain.intervention_value, where the creator's session stored what their SQL
expressions gave, or from the library. The worker runs no SQL of users.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from pgrain.errors import InvalidArgument, NotReady, UndefinedObject
from pgrain.intervention import library
from pgrain.intervention.edits import DELETE, label_of
from pgrain.store import interventions, relations, versions
from pgrain.store.interventions import Intervention
from pgrain.wire.identity import DIGEST_BYTES, hasher


@dataclass
class Repaired:
    """A row's new feature value, and the digest under which a version records it."""

    value: object
    digest: bytes


@contextmanager
def blamed(it: Intervention) -> Iterator[None]:
    """Say which intervention a 22023 is about: a precompute is about all of a model's."""
    try:
        yield
    except InvalidArgument as error:
        raise InvalidArgument(f'intervention "{it.name}": {error.message}', detail=error.detail,
                              hint="Drop it, or create it again with other features or options."
                              ) from None


class Repairing:
    """Applies the feature repairs of one model."""

    def __init__(self, connection, model: versions.ModelRow, secret: bytes):
        self._connection, self._model = connection, model
        self._keyed = hasher(secret)
        self._known = {it.number: it for it in interventions.of_model(connection, model.model)}

    @property
    def all(self) -> list[Intervention]:
        return list(self._known.values())

    def named(self, name: str) -> Intervention:
        """One by its name; 42704 if it has been dropped."""
        for it in self._known.values():
            if it.name == name:
                return it
        raise UndefinedObject(f'model "{self._model.model}" has no intervention "{name}"',
                              hint="Revert the edits that name it, or create it again.")

    def fit(self, rows: list[relations.Row], wanted: Iterable[Intervention]) -> None:
        """Let repairs learn from the values of all training rows, once and for all."""
        values = None
        for it in wanted:
            if it.library is None or it.fitted is not None or library.is_removal(it.library):
                continue
            if values is None:
                values = [row.value for row in rows]
            fitted = library.fit(it.library, values, it.options)
            if fitted is not None:
                it.fitted = interventions.save_fitted(self._connection, it.number, fitted)

    def repaired(self, it: Intervention, rows: list[relations.Row]
                 ) -> tuple[list[Repaired | None], int]:
        """(rows' new values, None where the repair leaves a row as it is; number of rows that have
        changed since their new value was computed). Rows carry `content`."""
        if it.library is not None:
            new = library.transform(it.library, [row.value for row in rows], it.options, it.fitted,
                                    self._model.options.get("shape"))
            return [None if value == row.value else self._value(value)
                    for value, row in zip(new, rows, strict=True)], 0
        stored = interventions.values(self._connection, it.number, [row.key for row in rows])
        found, stale = [], 0
        for row in rows:
            source, canonical = stored.get(row.key, (None, None))
            if source is not None and source != row.content:
                stale += 1
                source = None
            found.append(None if source is None else self._value(interventions.decode(
                canonical, self._model.kind, self._model.features)))
        return found, stale

    def _value(self, value) -> Repaired:
        keyed = self._keyed.copy()
        keyed.update(_bytes(value, self._model.features))
        return Repaired(value, keyed.digest()[:DIGEST_BYTES])

    def apply(self, rows: list[relations.Row], edits: dict[str, str]) -> np.ndarray:
        """Give rows the features that the edits name, in place; numbers of the interventions, one
        a row, 0 for none. 55000 where a row has changed since its new value was computed."""
        numbers = np.zeros(len(rows), np.int64)
        by_name: dict[str, list[int]] = {}
        for at, row in enumerate(rows):
            edit = edits.get(row.key)
            if edit is not None and edit != DELETE and label_of(edit) is None:
                by_name.setdefault(edit, []).append(at)
        wanted = {name: self.named(name) for name in by_name}
        for it in wanted.values():
            with blamed(it):
                self.fit(rows, [it])
        for name, at in by_name.items():
            it = wanted[name]
            with blamed(it):
                found, stale = self.repaired(it, [rows[i] for i in at])
            if stale:
                raise NotReady(
                    f'{stale} rows have changed since intervention "{name}" computed their '
                    "features", hint="Run pgrain.revert for them, then pgrain.drop_intervention "
                                     "and pgrain.create_intervention again.")
            for i, new in zip(at, found, strict=True):
                if new is not None:
                    rows[i].value, rows[i].digest, numbers[i] = new.value, new.digest, it.number
        return numbers

    def removals(self, edits: dict[str, str]) -> dict[str, str]:
        """The edits with interventions that remove rows written as deletions."""
        gone = {it.name for it in self._known.values() if library.is_removal(it.library)}
        return {key: DELETE if edit in gone else edit for key, edit in edits.items()}

    def as_learned(self, rows: Iterable[relations.Row], learned: versions.LearnedRows,
                   classes: list[str], where: dict[str, int]
                   ) -> Iterator[tuple[relations.Row, int]]:
        """The rows that are still as a version learned them, with their numbers among the learned
        rows; features that it learned repaired are repaired. `row.original` keeps the table's.
        where: the number of each learned key (`versions.LearnedRows.where`)."""
        later: dict[int, list[tuple[relations.Row, int]]] = {}
        for row in rows:
            number = where.get(row.key)
            if number is None:
                continue
            row.original = row.value
            if learned.repairs[number]:
                later.setdefault(int(learned.repairs[number]), []).append((row, number))
            elif learned.is_same(number, row.digest, row.label, classes):
                yield row, number
        for intervention, pairs in later.items():
            if intervention not in self._known:
                continue   # dropped: what the version learned of these rows can't be had any more
            found, _ = self.repaired(self._known[intervention], [row for row, _ in pairs])
            for (row, number), new in zip(pairs, found, strict=True):
                if new is not None and learned.is_same(number, new.digest, row.label, classes):
                    row.value = new.value
                    yield row, number


def _bytes(value, features: list[str]) -> bytes:
    """Bytes that name a repaired value; only ever compared with themselves."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    cells = [value[name] for name in features] if isinstance(value, dict) else value
    return hashlib.sha256(json.dumps(cells).encode()).digest()
