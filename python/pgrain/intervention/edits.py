"""Interventions by name: ``delete``, ``relabel:<class>`` (paper section 5.3 has x' = x), and the
names of a model's feature repairs; ``relabel`` and ``any`` stand for the best of several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

DELETE = "delete"
RELABEL = "relabel"
ANY = "any"
_PREFIX = "relabel:"


class Labelled(Protocol):
    """A training row as far as edits are concerned."""

    key: str | None
    label: str | None


Row = TypeVar("Row", bound=Labelled)


def relabel(label: str) -> str:
    """The name of the intervention that gives a row this label."""
    return _PREFIX + label


def label_of(intervention: str | None) -> str | None:
    """The label that a relabelling gives; None for any other intervention."""
    if intervention is not None and intervention.startswith(_PREFIX):
        return intervention[len(_PREFIX):]
    return None


def apply_edits(rows: Iterable[Row], edits: dict[str, str]) -> tuple[list[Row], int, int]:
    """The rows with the edits (key -> intervention) in force: (rows, deleted, relabelled)."""
    kept, deleted, relabelled = [], 0, 0
    for row in rows:
        edit = edits.get(row.key)
        if edit == DELETE:
            deleted += 1
            continue
        if (label := label_of(edit)) is not None:
            relabelled += 1
            row.label = label
        kept.append(row)
    return kept, deleted, relabelled
