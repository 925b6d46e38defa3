"""Exceptions that carry what a PostgreSQL client should read: SQLSTATE, DETAIL, HINT.

Every error that a user can meet is one of these, on whichever side of the wire it is raised. The
backend turns it into a PostgreSQL error once, at the entry point (`backend/entry.py`); the wire
carries it as a JSON object (`to_dict`, `from_dict`).

Messages start in lower case, quote names with double quotes and have no final stop; DETAIL and
HINT are sentences.
"""

from __future__ import annotations

from collections.abc import Sequence

CLASSES_SHOWN = 20


class PgrainError(Exception):
    """Base of all errors that reach a user. Raised itself only for internal errors (XX000)."""

    sqlstate = "XX000"

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None,
                 sqlstate: str | None = None):
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        if sqlstate is not None:
            self.sqlstate = sqlstate

    def to_dict(self) -> dict:
        """The error as the wire carries it."""
        return {"sqlstate": self.sqlstate, "message": self.message,
                "detail": self.detail, "hint": self.hint}

    @staticmethod
    def from_dict(fields: dict) -> PgrainError:
        """The error that `to_dict` described, as the most specific class of its SQLSTATE."""
        sqlstate = str(fields.get("sqlstate") or "XX000")
        kind = _BY_SQLSTATE.get(sqlstate, PgrainError)
        return kind(str(fields.get("message") or "unknown error"), detail=fields.get("detail"),
                    hint=fields.get("hint"), sqlstate=sqlstate)


class UndefinedObject(PgrainError):
    """No such model, version, watch, attached relation."""

    sqlstate = "42704"


class UndefinedColumn(PgrainError):
    """A column that the relation or the query's output does not have."""

    sqlstate = "42703"


class DuplicateObject(PgrainError):
    """A name that is taken."""

    sqlstate = "42710"


class InvalidArgument(PgrainError):
    """A value outside what the function takes."""

    sqlstate = "22023"


class ComplaintSyntax(PgrainError):
    """A complaint, or a query, that cannot be read."""

    sqlstate = "42601"


class NotUnique(PgrainError):
    """A training key that occurs twice."""

    sqlstate = "23505"


class NotNull(PgrainError):
    """A label or key that is null where it must not be."""

    sqlstate = "23502"


class UnsupportedOperator(PgrainError):
    """A construct without provenance; the message names it and its place."""

    sqlstate = "0A000"


class NotReady(PgrainError):
    """Something must be run first (train, precompute); the hint is the statement."""

    sqlstate = "55000"


class ActiveTransaction(PgrainError):
    """A waiting procedure was called inside a transaction block."""

    sqlstate = "25001"


class ObjectInUse(PgrainError):
    """Another job already does this for the same model."""

    sqlstate = "55006"


class WorkerUnreachable(PgrainError):
    """The worker process does not answer."""

    sqlstate = "08006"
    timed_out = False   # the connection is there, but the answer took too long


class ProtocolViolation(PgrainError):
    """A frame or message that the protocol does not allow, or another protocol version."""

    sqlstate = "08P01"


class Busy(PgrainError):
    """The worker's queue is full."""

    sqlstate = "53400"


class Cancelled(PgrainError):
    """The statement or job was cancelled."""

    sqlstate = "57014"


class LimitExceeded(PgrainError):
    """Over a limit of `settings.py`; the message names the limit."""

    sqlstate = "54000"


class ReadOnly(PgrainError):
    """A query that is asked about, and writes."""

    sqlstate = "25006"


class InsufficientPrivilege(PgrainError):
    """The role may not do this."""

    sqlstate = "42501"


class DataCorrupted(PgrainError):
    """A stored chunk whose checksum does not match."""

    sqlstate = "XX001"


_BY_SQLSTATE = {kind.sqlstate: kind for kind in PgrainError.__subclasses__()}


def nearest(given: str, known: Sequence[str]) -> str | None:
    """Which of the names `given` was meant to be, if it is like one."""
    from difflib import get_close_matches  # here: most sessions never need it

    folded = {name.casefold(): name for name in reversed(known)}
    found = get_close_matches(given.casefold().strip(), folded, 1)
    return folded[found[0]] if found else None


def class_list(classes: Sequence[str]) -> str:
    """Names of classes for a message; of many, the first."""
    more = len(classes) - CLASSES_SHOWN
    return ", ".join(classes[:CLASSES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def no_class(model: str | None, given: str, classes: Sequence[str]) -> InvalidArgument:
    """22023 for a label that is no class of the model."""
    meant = nearest(given, classes)
    return InvalidArgument(f'{"the model" if model is None else f"model {_quoted(model)}"} has no '
                           f"class {_quoted(given)}",
                           detail=f"Its classes: {class_list(classes)}.",
                           hint=meant and f"Did you mean {_quoted(meant)}?")


def _quoted(name: str) -> str:
    return '"' + name + '"'
