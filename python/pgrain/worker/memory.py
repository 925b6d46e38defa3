"""The C library's allocator in a process of many threads, most of which wait most of the time.

glibc gives threads arenas of their own, up to eight a core, and each keeps what its busiest moment
needed: with a thread a session, the memory of a busy worker grew for as long as anybody looked,
while what was in use stayed the same. Two arenas suffice where one thread at a time runs Python;
and pages that are free are given back now and then. With another C library nothing is done.
"""

from __future__ import annotations

import ctypes
import time

ARENAS = 2
TRIM_SECONDS = 20.0
_M_ARENA_MAX = -8       # malloc.h


class Memory:
    """Keeps the process from holding what it does not use."""

    def __init__(self):
        library = ctypes.CDLL(None)
        self._limit = getattr(library, "mallopt", None)
        self._trim = getattr(library, "malloc_trim", None)
        self._trimmed = time.monotonic()

    def begin(self) -> None:
        """Call it before threads are started: an arena that is there stays."""
        if self._limit is not None and self._trim is not None:
            self._limit(_M_ARENA_MAX, ARENAS)

    def trim(self) -> None:
        """Give free pages back, if that has not been done for a while."""
        if self._trim is not None and time.monotonic() - self._trimmed > TRIM_SECONDS:
            self._trim(0)
            self._trimmed = time.monotonic()
