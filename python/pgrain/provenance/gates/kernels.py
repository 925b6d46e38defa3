"""Array kernels of the gates: scattering, products without division, recurrences, codes."""

from __future__ import annotations

from math import isqrt

import numpy as np

_CODES = 1 << 62          # codes of several columns stay below


def add_at(out: np.ndarray, index: np.ndarray, values: np.ndarray) -> None:
    """out[index] += values, repeated indices added up; `index` and `values` of one shape."""
    if index.size * 8 >= len(out):
        out += np.bincount(index.ravel(), weights=values.ravel(), minlength=len(out))
    else:
        np.add.at(out, index.ravel(), values.ravel())


def product(columns: np.ndarray) -> np.ndarray:
    """(N,) product along the second axis of (N, L); faster than np.prod for a few columns."""
    result = columns[:, 0].copy()
    for column in range(1, columns.shape[1]):
        result *= columns[:, column]
    return result


def products_of_others(columns: np.ndarray) -> np.ndarray:
    """(N, L): in each row, the product of the other entries; no division, so zeros are fine."""
    result = np.ones_like(columns)
    before = np.ones(len(columns))
    for column in range(1, columns.shape[1]):
        before = before * columns[:, column - 1]
        result[:, column] = before
    after = np.ones(len(columns))
    for column in range(columns.shape[1] - 2, -1, -1):
        after = after * columns[:, column + 1]
        result[:, column] *= after
    return result


def scan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) y with y[i] = a[i] y[i-1] + b[i], y[-1] = 0; where a[i] = 0 it starts anew.

    In blocks of about sqrt(N): all blocks at once column by column, then what each hands to the
    next. Only multiplies and adds, so that a = 0 and a = 1 are exact (a ratio of cumulative
    products is neither).
    """
    n = len(a)
    width = max(1, isqrt(n))
    rows = -(-n // width)
    y, carried = np.zeros(rows * width), np.zeros(rows * width)
    y[:n], carried[:n] = b, a
    y, carried = (np.ascontiguousarray(x.reshape(rows, width).T) for x in (y, carried))
    for i in range(1, width):
        y[i] += carried[i] * y[i - 1]
        carried[i] *= carried[i - 1]
    last, factor = y[-1].tolist(), carried[-1].tolist()
    handed = [0.0]
    for row in range(rows - 1):
        handed.append(last[row] + factor[row] * handed[row])
    y += carried * np.array(handed)
    return y.T.ravel()[:n]


def heads(*columns: np.ndarray) -> np.ndarray:
    """(N,) bool: where any of the sorted `columns` differs from the entry before."""
    new = np.ones(len(columns[0]), bool)
    if len(new):
        new[1:] = False
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return new


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """All of starts[i], starts[i] + 1, …, starts[i] + counts[i] - 1, one range after the other."""
    return np.arange(int(counts.sum())) + np.repeat(starts - (np.cumsum(counts) - counts), counts)


def order_of(code: np.ndarray, kind: str | None = None) -> np.ndarray | None:
    """An order that sorts `code` (kind "stable": ties stay); None if it is sorted."""
    if len(code) == 0 or (code[1:] >= code[:-1]).all():
        return None
    return np.argsort(code, kind=kind)


def order_of_two(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """An order that sorts by `first`, then by `second`; faster than lexsort where few tie."""
    order = order_of(first)
    if order is None:
        order = np.arange(len(first))
    sorted_ = first[order]
    tie = sorted_[1:] == sorted_[:-1]
    if tie.any():
        tied = np.zeros(len(first), bool)
        tied[1:] |= tie
        tied[:-1] |= tie
        places = np.flatnonzero(tied)
        inside = np.lexsort((second[order[places]], sorted_[places]))
        order[places] = order[places[inside]]
    return order


def distinct(code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the distinct values, ascending; (N,) number of each entry's): np.unique, but faster."""
    order = order_of(code)
    new = heads(code if order is None else code[order])
    number = np.cumsum(new) - 1
    if order is None:
        return code[new], number
    inverse = np.empty(len(code), np.int64)
    inverse[order] = number
    return code[order[new]], inverse


def combine(columns: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    """(N,) int64 code, ordered as the columns are lexicographically; column i is in [0, sizes[i]).

    A prefix whose codes would overflow is replaced by its rank among those that occur.
    """
    code, size = columns[0].astype(np.int64), int(sizes[0])
    for column, width in zip(columns[1:], sizes[1:], strict=True):
        if size * int(width) >= _CODES:
            values, code = distinct(code)
            size = len(values)
        code, size = code * int(width) + column, size * int(width)
    return code
