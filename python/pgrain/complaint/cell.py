"""Names of output rows and cells: for who reads a message, and for the same cell in a later run.

A row is known by the columns of the query's result that tell rows apart (what is grouped by, or
comes from the tables): its number in the circuit is no place in the result, which ORDER BY and
LIMIT choose, and another one after training.
"""

from __future__ import annotations

import hashlib
import json

from pgrain.errors import InvalidArgument
from pgrain.provenance.output import Output
from pgrain.provenance.presence import ABSENT

_TELLING = ("group", "row")
_SHOWN_COLUMNS = 3
_SHOWN_LETTERS = 30


def row_name(output: Output, row: int) -> str:
    """``the row (day = 6)``: by at most three of its columns, long texts cut."""
    parts = []
    for column in _telling(output)[:_SHOWN_COLUMNS]:
        text = output.text(row, column)
        text = "NULL" if text is None else text
        short = text if len(text) <= _SHOWN_LETTERS else text[:_SHOWN_LETTERS - 1] + "…"
        parts.append(f"{output.columns[column].name} = {short}")
    if parts:
        return f"the row ({', '.join(parts)})"
    return "the only row" if len(output.present) == 1 else f"row {row + 1} (as numbered by " \
                                                           "pgrain.provenance)"


def cell_name(output: Output, key: tuple) -> str:
    """``"held" of the row (day = 6)``, or the row itself where the complaint is about that."""
    row, column = key[:2]
    if column == ABSENT:
        return row_name(output, row)
    name = f'"{output.columns[column].name}"'
    if len(key) == 3:
        name += f" = '{key[2]}'"
    return f"{name} of {row_name(output, row)}"


def as_sent(output: Output, cell: tuple[int, tuple]) -> dict:
    """A complaint's number and cell, as `found` finds them again under other predictions."""
    number, (row, *rest) = cell
    mark = _mark(output, row)
    before = sum(_mark(output, other) == mark for other in range(row))
    return {"complaint": number, "row": mark, "nth": before, "cell": rest}


def found(output: Output, sent: dict, complaints: int) -> tuple[int, tuple] | None:
    """The same cell in the rows of another run; None if there is no such row any more.

    Raises
    ------
    InvalidArgument
        If that is no cell of such an output and of so many complaints.
    """
    if not _is_sent(output, sent, complaints):
        raise InvalidArgument("cell is none that pgrain._holds has returned for these complaints")
    left = sent["nth"]
    for row in range(len(output.keys)):
        if _mark(output, row) == sent["row"]:
            if not left:
                return sent["complaint"], (row, *sent["cell"])
            left -= 1
    return None


def _is_sent(output: Output, sent: dict, complaints: int) -> bool:
    if not isinstance(sent, dict) or set(sent) != {"complaint", "row", "nth", "cell"}:
        return False
    number, mark, nth, rest = (sent[key] for key in ("complaint", "row", "nth", "cell"))
    return (type(number) is int and 0 <= number < complaints and isinstance(mark, str)
            and type(nth) is int and nth >= 0 and isinstance(rest, list) and 1 <= len(rest) <= 2
            and (rest[0] == ABSENT
                 or type(rest[0]) is int and 0 <= rest[0] < len(output.columns))
            and all(isinstance(label, str) for label in rest[1:]))


def _telling(output: Output) -> list[int]:
    return [number for number, column in enumerate(output.columns) if column.role in _TELLING]


def _mark(output: Output, row: int) -> str:
    texts = [output.text(row, column) for column in _telling(output)]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
