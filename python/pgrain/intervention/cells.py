"""Repairs of tabular features: impute, clip, constant; on one row's columns or on a float8[].

`columns` names the features that are repaired (for float8[]: `elements`, counted from 1); `missing`
restricts the repair to cells with one of these values (null among them), else every cell of those
columns is taken for wrong: the ranking decides in which rows that helps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from pgrain.errors import InvalidArgument
from pgrain.models.options import Option


class _Scalars(Option):
    """A scalar, or a list of scalars, of JSON."""

    def check(self, value):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict | list):
                raise self._wrong("a number, text, boolean or null"
                                  + (", or a list of them" if self.kind == "scalars" else ""),
                                  value)
        if self.kind == "scalar" and isinstance(value, list):
            raise self._wrong("a number, text, boolean or null", value)
        return value if self.kind == "scalar" or isinstance(value, list) else [value]


WHERE = (Option("columns", "names", "features that are repaired"),
         Option("elements", "integers", "elements of the float8[] that are repaired", 1, 1 << 24),
         _Scalars("missing", "scalars", "only cells with one of these values are repaired"))
IMPUTE = (Option("strategy", "choice", "what takes the cell's place",
                 choices=("median", "mean", "mode")),)
CLIP = (Option("low", "number", "least value"), Option("high", "number", "greatest value"),
        Option("quantile", "number", "cut at this quantile and at one minus it", 0, 0.5))
CONSTANT = (_Scalars("value", "scalar", "what takes the cell's place"),)


def complete(options: dict, kind: str, features: Sequence[str], shape) -> None:
    """22023 where the options do not say which cells, or name what is not there."""
    wanted, other = ("columns", "elements") if kind == "columns" else ("elements", "columns")
    if other in options:
        raise InvalidArgument(f'option "{other}" is not for features of kind "{kind}"',
                              hint=f'Use "{wanted}".')
    if not options.get(wanted):
        raise InvalidArgument(f'option "{wanted}" is missing',
                              detail="A repair of cells says which ones.",
                              hint=f"The features are: {', '.join(features)}.")
    for name in options.get("columns", ()):
        if name not in features:
            raise InvalidArgument(f'option "columns" names "{name}", which is no feature',
                                  hint=f"The features are: {', '.join(features)}.")
    if "quantile" in options and ("low" in options or "high" in options):
        raise InvalidArgument('option "quantile" goes without "low" and "high"')
    if options.get("low", -math.inf) > options.get("high", math.inf):
        raise InvalidArgument(f'option "low" ({options["low"]:g}) is above "high" '
                              f'({options["high"]:g})')


def complete_constant(options: dict, kind: str, features: Sequence[str], shape) -> None:
    """As `complete`, and the value must be there."""
    complete(options, kind, features, shape)
    if "value" not in options:
        raise InvalidArgument('option "value" is missing')
    value = options["value"]
    if kind == "float8" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InvalidArgument(f'option "value" must be a number, not {value!r}',
                              detail="It becomes an element of a float8[].")


def fit_impute(values: Sequence, options: dict) -> dict:
    """name -> the column's median, mean or mode over the cells that are not taken for missing."""
    strategy = options.get("strategy", "median")
    fitted = {}
    for name in _names(options):
        cells = [cell for cell in (_get(value, name) for value in values)
                 if cell is not None and not _is_missing(cell, options, every=False)]
        numbers = [cell for cell in cells if isinstance(cell, int | float)
                   and not isinstance(cell, bool)]
        if not cells:
            raise InvalidArgument(f'column "{name}" has no value to impute from')
        if strategy == "mode":
            most = max(Counter(map(_hashable, cells)).values())
            fitted[str(name)] = min((cell for cell, n in Counter(map(_hashable, cells)).items()
                                     if n == most), key=str)
        elif len(numbers) < len(cells):
            raise InvalidArgument(f'column "{name}" has values that are no numbers',
                                  hint='Use {"strategy": "mode"}.')
        else:
            fitted[str(name)] = float(np.median(numbers) if strategy == "median"
                                      else np.mean(numbers))
    return fitted


def impute(values: Sequence, options: dict, fitted: dict, shape) -> list:
    """The cells that are taken for wrong become the fitted value."""
    return [_with(value, {name: fitted[str(name)] for name in _names(options)
                          if _is_missing(_get(value, name), options)}) for value in values]


def fit_clip(values: Sequence, options: dict) -> dict:
    """name -> [low, high]; null for an open end."""
    fitted = {}
    q = options.get("quantile", None if "low" in options or "high" in options else 0.01)
    for name in _names(options):
        if q is None:
            fitted[str(name)] = [options.get("low"), options.get("high")]
            continue
        numbers = [cell for cell in (_get(value, name) for value in values) if cell is not None]
        if not numbers or not all(isinstance(cell, int | float) for cell in numbers):
            raise InvalidArgument(f'column "{name}" has values that are no numbers')
        fitted[str(name)] = np.quantile(numbers, [q, 1 - q]).tolist()
    return fitted


def clip(values: Sequence, options: dict, fitted: dict, shape) -> list:
    """Numbers outside of the bounds become the bound."""
    def inside(cell, bounds):
        low, high = bounds
        if low is not None and cell < low:
            return low
        return high if high is not None and cell > high else cell

    out = []
    for value in values:
        new = {}
        for name in _names(options):
            cell = _get(value, name)
            if (isinstance(cell, int | float) and not isinstance(cell, bool)
                    and _is_missing(cell, options)):
                new[name] = inside(cell, fitted[str(name)])
        out.append(_with(value, new))
    return out


def constant(values: Sequence, options: dict, fitted, shape) -> list:
    """The cells that are taken for wrong become the given value."""
    return [_with(value, {name: options["value"] for name in _names(options)
                          if _is_missing(_get(value, name), options)}) for value in values]


def _names(options: dict) -> list:
    """Names of columns, or indices of elements counted from 0."""
    return options.get("columns") or [number - 1 for number in options["elements"]]


def _get(value, name):
    if isinstance(value, dict):
        return value[name]
    if name >= len(value):
        raise InvalidArgument(f"there is no element {name + 1}",
                              detail=f"A value has {len(value)} elements.")
    return value[name]


def _with(value, cells: dict):
    if isinstance(value, dict):
        return {**value, **cells}
    out = list(value)
    for at, cell in cells.items():
        out[at] = cell
    return out


def _is_missing(cell, options: dict, every: bool = True) -> bool:
    """Whether the cell is one to repair. every: what to say where `missing` is not given."""
    if "missing" not in options:
        return every
    return any(cell is item or (cell is not None and item is not None
                                and isinstance(cell, bool) == isinstance(item, bool)
                                and cell == item) for item in options["missing"])


def _hashable(cell):
    return float(cell) if isinstance(cell, int) and not isinstance(cell, bool) else cell
