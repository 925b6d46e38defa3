"""Batches of fixed sizes, so that a compiled function is compiled a handful of times."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pgrain.interrupts import check

SIZES = (1, 16, 128, 512, 1024, 2048, 4096, 8192, 16384)
MEMORY_BYTES = 512 << 20      # target for the intermediates of one batch


def fitting(row_floats: int, copies: float = 1, memory: int = MEMORY_BYTES) -> int:
    """The largest of SIZES up to 4096 whose intermediates stay under `memory` bytes.

    row_floats: floats of one row's forward pass; copies: how many such passes live at a time
    (tangents, cotangents).
    """
    rows = memory / (4 * max(row_floats, 1) * copies)
    return max((s for s in SIZES if s <= min(rows, 4096)), default=1)


def rounded(n: int) -> int:
    """n or up to 6 % more: of numbers between one and its double at most 16 are given. What is
    compiled for so many rows is then seldom compiled anew when a table has grown."""
    step = 1 << max(n.bit_length() - 5, 0)
    return -(-n // step) * step


def padded(n: int, largest: int) -> Iterator[tuple[slice, int]]:
    """Slices that cover n rows, each with the size of SIZES it should be padded to. Before each
    one a request that nobody waits for ends (`interrupts`)."""
    start = 0
    while start < n:
        check()
        stop = min(start + largest, n)
        yield slice(start, stop), next((s for s in SIZES if s >= stop - start), largest)
        start = stop


def pad(rows: np.ndarray, size: int) -> np.ndarray:
    """`rows` with zero rows appended up to `size`."""
    rows = np.asarray(rows)
    if len(rows) == size:
        return rows
    out = np.zeros((size, *rows.shape[1:]), rows.dtype)
    out[: len(rows)] = rows
    return out
