"""Notes of watches on their way into a state: many become one, and say which values they are about.

A note is the lineage of what one statement changed (docs/dev/watches.md). Reading one takes some
dozen steps over arrays, however few rows it has, so notes that wait are put together first: their
lineages side by side, the factors numbered through.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pgrain.errors import InvalidArgument, PgrainError
from pgrain.wire.identity import DIGEST_BYTES, array_received
from pgrain.worker.resident import Resident

TOGETHER_BYTES = 16 << 20      # of notes that are put together: so much is held twice
ROWS = 1 << 24                 # of notes that are put together; rows without a value take no bytes


# --- what is no note -----------------------------------------------------------------------------
# A watch's creator may insert notes of their own making (docs/dev/watches.md).

@contextlib.contextmanager
def as_noted() -> Iterator[None]:
    """22023 for whatever goes wrong in here because a note is none that the watch's statements
    make."""
    try:
        yield
    except PgrainError as error:
        if error.sqlstate != "XX000":
            raise
        raise _strange(error.detail or error.message) from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
            struct.error) as error:
        raise _strange(f"{type(error).__name__}: {error}") from error


def _strange(detail: str) -> InvalidArgument:
    return InvalidArgument("a note is none that the statements of its watch make", detail=detail)


def _check_counts(rows: list[tuple]) -> None:
    """22023 where notes that were put together say to be of more than `ROWS` rows."""
    for tag, _, a, *_ in rows:
        if tag == "group" or tag.startswith("factor:"):
            counts = np.frombuffer(bytes(a) if a is not None else b"", ">i4").astype(np.int64)
            if counts.min(initial=0) < 0 or counts.sum() > ROWS:
                raise _strange(f"{counts.sum()} rows of {tag}")


@as_noted()
def rows_of(note: Mapping) -> list[tuple]:
    """The rows (tag, meta, a, b, c) of a note as pgrain.watch_note has it; 22023 where it has
    none, or not as many of each."""
    return list(zip(*(note[name] for name in ("tags", "metas", "a", "b", "c")), strict=True))


# --- together ------------------------------------------------------------------------------------

def batches(notes: Sequence[tuple[int, list[tuple]]]) -> Iterator[tuple[int, list[tuple]]]:
    """(sign, rows) of notes, given as such, put together by sign.

    What was added comes before what was taken away, in whatever order the notes are: so no state
    in between lacks a row that it is yet to lose, and where a count is zero nothing is left.
    """
    for sign in (1, -1):
        waiting: list[list[tuple]] = []
        size = 0
        for its, rows in notes:
            if its != sign:
                continue
            waiting.append(rows)
            size += sum(len(part) for row in rows for part in row[2:] if part is not None)
            if size > TOGETHER_BYTES:
                yield sign, together(waiting)
                waiting, size = [], 0
        if waiting:
            yield sign, together(waiting)


@as_noted()
def together(notes: list[list[tuple]]) -> list[tuple]:
    """The rows (tag, meta, a, b, c) of notes made by one statement as those of one capture.

    Only of captures with one side, in which a pattern is a factor (`capture_sql`). Limits were
    kept by each for itself, so their rows stay apart.
    """
    if len(notes) == 1:
        return notes[0]
    parts: dict[str, list[tuple]] = {}
    rows: list[tuple] = []
    starts, factors = [], 0
    for note in notes:
        starts.append(factors)
        for tag, meta, a, b, c in note:
            if tag == "size":
                rows.append((tag, meta, a, b, c))
                continue
            parts.setdefault(tag, []).append((meta, a, b, c))
            if tag.startswith("factor:"):
                factors += len(a) // 4 if a is not None else 0
    for tag, found in parts.items():
        if len(found) != len(notes):
            raise InvalidArgument("notes of different statements", detail=f'"{tag}"')
        metas, *columns = zip(*found, strict=True)
        meta, (a, b, c) = None, columns
        if tag.startswith("factor:"):
            b = [_moved(part, start, 1) for part, start in zip(b, starts, strict=True)]
        elif tag == "group":
            # Beside its pattern each entry has the classes: as many as there are slots.
            width = 1 + sum(other.startswith("digest:") for other in parts)
            b = [_moved(part, start, width) for part, start in zip(b, starts, strict=True)]
            meta = f"[{', '.join(text.strip()[1:-1] for text in metas if text and text != '[]')}]"
        rows.append((tag, meta, *(_joined(column) for column in (a, b, c))))
    return rows


def _joined(column: Sequence) -> bytes | None:
    there = [part for part in column if part is not None]
    return b"".join(there) if there else None


def _moved(packed, start: int, width: int) -> bytes | None:
    """Packed int4, `width` in a row, of which the first is a pattern's number."""
    if packed is None:
        return None
    numbers = np.frombuffer(bytes(packed), ">i4").copy().reshape(-1, width)
    numbers[:, 0] += start
    return numbers.tobytes()


# --- values --------------------------------------------------------------------------------------

@as_noted()
def named(rows: list[tuple], keyed) -> tuple[list[tuple], dict[bytes, bytes]]:
    """(the rows with digests in place of values, canonical bytes by digest) of a note; keyed: a
    hasher with the secret."""
    values, made = {}, []
    for tag, meta, a, b, c in rows:
        if tag.startswith("digest:"):
            digests = []
            for content in _contents(a):
                state = keyed.copy()
                state.update(content)
                digests.append(state.digest()[:DIGEST_BYTES])
                values[digests[-1]] = content
            a = b"".join(digests)
        made.append((tag, meta, a, b, c))
    _check_counts(made)
    return made, values


def _contents(packed) -> list[bytes]:
    """The canonical bytes that a note packed, each behind its length."""
    found, at, data = [], 0, bytes(packed) if packed is not None else b""
    while at < len(data):
        length, = struct.unpack_from(">i", data, at)
        if not 0 <= length <= len(data) - at - 4:       # (-4 would be no end)
            raise ValueError(f"a value of {length} bytes")
        found.append(data[at + 4:at + 4 + length])
        at += 4 + length
    return found


@as_noted()
def raw_value(content: bytes, resident: Resident):
    """A feature value out of its canonical bytes (wire/identity.py)."""
    kind = resident.row.kind
    if kind == "bytea":
        return content
    if kind == "text":
        return content.decode()
    if kind == "float8":
        return array_received(content)
    if kind == "columns":
        pairs = zip(resident.features, _members(content.decode()), strict=True)
        return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in pairs) + "}"
    raise InvalidArgument(f'no such kind of input: "{kind}"')


def _members(text: str) -> list[str]:
    """The members of a JSON array of scalars, each as it is written."""
    decoder, found, at = json.JSONDecoder(), [], 1
    while text[at] != "]":
        _, end = decoder.raw_decode(text, at)
        found.append(text[at:end])
        at = end + 2 if text[end] == "," else end
    return found
