"""Every setting and limit in one place: name, default, least, most, unit, meaning.

The check, the error message and the documentation all read the same `Setting`. Nothing here is a
PostgreSQL parameter: any role can SET a placeholder, so none of these can come from one.
"""

from __future__ import annotations

from collections import namedtuple

from pgrain.errors import InvalidArgument, LimitExceeded


class Setting(namedtuple("Setting", "name default minimum maximum unit meaning")):
    """One number with its bounds (both inclusive): name, unit and meaning are texts."""

    # (`dataclasses` and `typing` take longer to import than all that a session needs.)
    __slots__ = ()

    def check(self, value: float) -> float:
        """`value` if it lies within the bounds; else 22023."""
        if not self.minimum <= value <= self.maximum:
            raise InvalidArgument(
                f"{self.name} must be between {_plain(self.minimum)} and {_plain(self.maximum)}, "
                f"not {_plain(value)}",
                detail=f"{self.name}: {self.meaning} ({self.unit}).")
        return value

    def limit(self, value: float, *, detail: str | None = None, hint: str | None = None) -> None:
        """54000 if `value` exceeds the default of this limit."""
        if value > self.default:
            raise LimitExceeded(
                f"{self.name} is limited to {self.default:,.0f}, but {value:,.0f} would be needed",
                detail=f"{self.name}: {self.meaning} ({self.unit})."
                       + (f" {detail}" if detail else ""), hint=hint)


def _plain(value: float) -> str:
    """1000000, not 1e+06."""
    return str(value) if isinstance(value, int) else f"{value:g}"


ALL: dict[str, Setting] = {}


def _setting(*fields) -> Setting:
    setting = Setting(*fields)
    ALL[setting.name] = setting
    return setting


FRAME_BYTES = _setting("frame_bytes", 1 << 30, 1 << 10, 1 << 31, "bytes",
                       "largest frame that either side of the wire accepts")
HEADER_BYTES = _setting("header_bytes", 64 << 20, 1 << 10, 1 << 28, "bytes",
                        "largest JSON header inside a frame")
CONNECT_SECONDS = _setting("connect_seconds", 20, 0.1, 60, "seconds",
                           "how long a session tries to reach the worker and waits for its hello")
REQUEST_SECONDS = _setting("request_seconds", 600, 1, 86400, "seconds",
                           "how long a session waits for one answer of the worker")
WAIT_SLICE_SECONDS = _setting("wait_slice_seconds", 0.05, 0.001, 0.05, "seconds",
                              "longest wait between two checks for interrupts")
CONCURRENT_REQUESTS = _setting("concurrent_requests", 4, 1, 64, "requests",
                               "requests that the worker computes at a time")
QUEUED_REQUESTS = _setting("queued_requests", 128, 1, 10000, "requests",
                           "requests that may wait for their turn before the worker says busy")
TOP_K = _setting("top_k", 100, 1, 1_000_000, "rows", "rows that a ranking returns")
CHUNK_ROWS = _setting("chunk_rows", 5000, 1, 100_000, "rows", "rows in one stored chunk")
STORED_PAIRS = _setting("stored_pairs", 30, 1, 500, "eigenpairs",
                        "eigenpairs that precompute stores")
CURVATURE_SAMPLE = _setting("curvature_sample", 10_000, 1, 100_000_000, "rows",
                            "training rows whose loss makes the Hessian")
MEMORY_BYTES = _setting("memory_bytes", 2 << 30, 64 << 20, 1 << 40, "bytes",
                        "what one pass over training rows may hold at a time, beside the rows")
STORE_BYTES = _setting("store_bytes", 64 << 30, 1 << 20, 1 << 50, "bytes",
                       "what one precompute may store")
FACTOR_PAIRS = _setting("factor_pairs", 4_000_000, 1, 1_000_000_000, "pairs",
                        "pairs of factors (or rows) of a join that are listed")
ASSIGNMENTS = _setting("assignments", 2_000_000, 1, 100_000_000, "rows",
                       "class assignments that PostgreSQL evaluates for one query")
OUTPUT_ROWS = _setting("output_rows", 200_000, 1, 100_000_000, "rows",
                       "possible output rows of a query")
REMEMBERED_BYTES = _setting("remembered_bytes", 16 << 20, 0, 1 << 34, "bytes",
                            "values and their labels that a session remembers for one model")
WATCH_NOTES = _setting("watch_notes", 10_000, 1, 100_000_000, "changes",
                       "changes that wait for a worker before their watch is to be computed again")
WATCH_NOTE_BYTES = _setting("watch_note_bytes", 256 << 20, 1 << 20, 1 << 40, "bytes",
                            "what these may take in pgrain.watch_note")
STAMPS = _setting("stamps", 8_000_000, 1, 1_000_000_000, "tuples",
                  "tuple stamps that the worker remembers for one column of one table")
QUERY_BYTES = _setting("query_bytes", 1 << 20, 1, 1 << 26, "bytes", "length of a query's text")
