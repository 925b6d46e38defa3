"""Whether anybody still waits for what this thread computes: PostgreSQL's CHECK_FOR_INTERRUPTS.

Long loops call `check` between two steps: a layer of gates, a batch of rows, a product of conjugate
gradient. It looks at the clock, and every `LOOK_SECONDS` asks whether to stop; in a thread that
nobody can interrupt it does nothing. It may raise, so what others share (caches, tables of
variables) is only ever changed by steps that have no `check` in them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LOOK_SECONDS = 0.02


class Abandoned(Exception):
    """Nobody waits any more for what this thread computes."""


class _Thread(threading.local):
    gone: Callable[[], bool] | None = None
    due = 0.0


_thread = _Thread()


def check() -> None:
    """Raise `Abandoned` if what this thread computes is for nobody any more."""
    gone = _thread.gone
    if gone is None:
        return
    now = time.monotonic()
    if now >= _thread.due:
        _thread.due = now + LOOK_SECONDS
        if gone():
            raise Abandoned


class Wanted:
    """With it, `check` asks `gone` in this thread."""

    __slots__ = ("_before", "_gone")

    def __init__(self, gone: Callable[[], bool]):
        self._gone = gone

    def __enter__(self) -> None:
        self._before = _thread.gone
        _thread.gone, _thread.due = self._gone, time.monotonic() + LOOK_SECONDS

    def __exit__(self, *_) -> None:
        _thread.gone = self._before
