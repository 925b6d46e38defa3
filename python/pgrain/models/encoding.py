"""Feature values as PostgreSQL gives them -> arrays for a model.

Four kinds: "bytea" (one tensor a row), "float8" (one float8[] a row), "text" (`text.py`), "columns"
(many scalar columns a row). What the encoder learned from the training rows (means, categories,
words) is stored with the model version as JSON, and applied unchanged to every other row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from pgrain.errors import InvalidArgument, LimitExceeded
from pgrain.models import text
from pgrain.models.options import Option, check, pick

OPTIONS = {**text.OPTIONS, **{option.name: option for option in (
    Option("shape", "integers", "shape of one tensor, row-major, such as [28, 28, 1]", 1, 1 << 24),
    Option("standardize", "boolean", "scale elements of float8[] values to mean 0, deviation 1"),
    Option("categorical", "names", "columns that hold categories although they look like numbers"),
)}}
MAX_CATEGORIES = 1000
_NOISE = 1e-10
_FAR = 1e18         # deviations from the mean: beyond, squares of float32 are infinite
_KINDS = ("bytea", "float8", "text", "columns")


class Encoder:
    """What turns feature values into arrays. Made by `fit` or `from_json`."""

    kind: str
    _state: dict          # all that was learned; plain JSON values

    def __init__(self, kind: str, state: dict):
        self.kind = kind
        self._state = state

    @classmethod
    def fit(cls, kind: str, values: Sequence, features: Sequence[str], options: dict) -> Encoder:
        """Learn from training values, one a row.

        kind: "bytea" (bytes), "float8" (lists of numbers), "text" (str) or "columns" (dicts column
        -> number, digits, text, bool or None). features: the columns' names in order. Raises 22023
        for what cannot be read.
        """
        if kind not in _KINDS:
            raise InvalidArgument(f'no feature kind "{kind}"',
                                  hint="Kinds are: " + ", ".join(_KINDS) + ".")
        if len(values) == 0:
            raise InvalidArgument("there are no training rows")
        options = check(pick(options, OPTIONS), OPTIONS, what="the encoder")
        fit = {"bytea": _fit_bytes, "float8": _fit_arrays, "text": _fit_text,
               "columns": _fit_columns}[kind]
        return cls(kind, fit(values, list(features), options))

    def encode(self, values: Sequence) -> np.ndarray:
        """(N, *input_shape()): uint8 for bytea of one byte an element, int32 for text, else
        float32; row-major.

        Raises 22023 where a value is not of the learned form: `expected 784 bytes (28 x 28 x 1),
        not 100`.
        """
        encode = {"bytea": _encode_bytes, "float8": _encode_arrays, "text": text.encode,
                  "columns": _encode_columns}
        return encode[self.kind](values, self._state)

    def input_shape(self) -> tuple[int, ...]:
        """The shape of one encoded row."""
        if self.kind == "columns":
            return (sum(_width(column) for column in self._state["columns"]),)
        if self.kind == "text":
            return (self._state["length"],)
        return tuple(self._state["shape"])

    def n_tokens(self) -> int:
        """How many numbers a word can have; 0 for features that are no text."""
        return text.n_tokens(self._state) if self.kind == "text" else 0

    def to_json(self) -> dict:
        """Plain JSON values; `from_json` brings back an encoder that encodes bit for bit alike."""
        return {"kind": self.kind, **{name: value for name, value in self._state.items()
                                      if not name.startswith("_")}}

    @classmethod
    def given(cls, kind: str, state: dict, features: Sequence[str]) -> Encoder:
        """The encoder that a person describes, for weights trained elsewhere; 22023 if the
        description is of another kind, lacks something or contradicts itself."""
        if state.get("kind", kind) != kind:
            raise InvalidArgument(f'the encoding is of kind "{state["kind"]}", the model\'s '
                                  f'features are of kind "{kind}"')
        state = {name: value for name, value in state.items() if name != "kind"}
        try:
            _GIVEN[kind](state, list(features))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidArgument(f"the encoding cannot be used: {type(error).__name__} {error}",
                                  hint="pgrain.model_version.encoder of a trained version "
                                       "shows the form.") from error
        return cls(kind, state)

    @classmethod
    def from_json(cls, d: dict) -> Encoder:
        """The encoder that `to_json` described."""
        return cls(d["kind"], {name: value for name, value in d.items() if name != "kind"})


def _check_tensor(state: dict, features: list[str]) -> None:
    state["shape"] = check({"shape": state["shape"]}, OPTIONS, what="the encoding")["shape"]
    if state.setdefault("dtype", "uint8") not in ("uint8", "float32"):
        raise ValueError(f'dtype "{state["dtype"]}"')


def _check_array(state: dict, features: list[str]) -> None:
    state["shape"] = check({"shape": state["shape"]}, OPTIONS, what="the encoding")["shape"]
    if ("mean" in state) != ("scale" in state):
        raise KeyError("mean and scale belong together")
    for name in ("mean", "scale"):
        if name in state and len(state[name]) != math.prod(state["shape"]):
            raise ValueError(f"{name} has {len(state[name])} numbers")
    if not all(number > 0 for number in state.get("scale", [])):
        raise ValueError("scale holds a number that is not positive")


def _check_words(state: dict, features: list[str]) -> None:
    words = check({"words": state["words"]}, {"words": Option("words", "names", "the vocabulary")},
                  what="the encoding")["words"]
    if len(set(words)) != len(words):
        raise ValueError("words holds a word twice")
    check({"length": state["length"]}, OPTIONS, what="the encoding")


def _check_columns(state: dict, features: list[str]) -> None:
    names = [column["name"] for column in state["columns"]]
    if sorted(names) != sorted(features):
        raise ValueError(f"columns {names}, features {features}")
    for column in state["columns"]:
        column.setdefault("nulls", False)
        if column["type"] == "number":
            if not (math.isfinite(column["mean"]) and column["scale"] > 0):
                raise ValueError(f'mean and scale of "{column["name"]}"')
        elif column["type"] != "category" or not isinstance(column["categories"], list):
            raise ValueError(f'type of "{column["name"]}"')


_GIVEN = {"bytea": _check_tensor, "float8": _check_array, "text": _check_words,
          "columns": _check_columns}


def _fit_text(values: Sequence, features: list[str], options: dict) -> dict:
    return text.fit(values, pick(options, text.OPTIONS))


# --- bytea: one tensor, uint8 or little-endian float32 -------------------------------------------

def _fit_bytes(values: Sequence, features: list[str], options: dict) -> dict:
    if "shape" not in options:
        raise InvalidArgument('option "shape" is missing',
                              detail="A bytea feature is a tensor; its shape cannot be guessed.",
                              hint='Pass options such as {"shape": [28, 28, 1]}.')
    shape = options["shape"]
    size = math.prod(shape)
    first = values[0]
    # Both readings agree for no tensor (size >= 1), so the first value decides; the rest follow.
    float32 = first is not None and len(first) == 4 * size
    state = {"shape": shape, "dtype": "float32" if float32 else "uint8"}
    _encode_bytes(values, state)
    return state


def _encode_bytes(values: Sequence, state: dict) -> np.ndarray:
    shape, dtype = state["shape"], np.dtype(state["dtype"]).newbyteorder("<")
    expected = math.prod(shape) * dtype.itemsize
    for value in values:
        if value is None:
            raise InvalidArgument("a feature value is null")
        if len(value) != expected:
            dimensions = " x ".join(str(n) for n in shape)
            if dtype.itemsize == 4:
                dimensions += " float32"
            raise InvalidArgument(f"expected {expected} bytes ({dimensions}), not {len(value)}")
    out = np.frombuffer(b"".join(values), dtype).reshape(len(values), *shape)
    if dtype.itemsize == 4:
        out = out.astype(np.float32, copy=False)
        _refuse_infinite(out)
        _refuse_far(out, standardised=False)
    return out


# --- float8: one float8[] ------------------------------------------------------------------------

def _fit_arrays(values: Sequence, features: list[str], options: dict) -> dict:
    length = 0 if values[0] is None else len(values[0])
    shape = options.get("shape", [length])
    if length < 1 or math.prod(shape) != length:
        raise InvalidArgument(f"expected {math.prod(shape) or 1} numbers, not {length}")
    state = {"shape": shape}
    rows = _numbers(values, shape)
    if options.get("standardize", True):
        state["mean"], state["scale"] = (part.tolist() for part in _moments(rows))
    return state


def _encode_arrays(values: Sequence, state: dict) -> np.ndarray:
    rows = _numbers(values, state["shape"])
    if "mean" in state:
        rows = _standardised(rows, np.asarray(state["mean"]), np.asarray(state["scale"]))
    _refuse_far(rows, standardised="mean" in state)
    return rows.astype(np.float32).reshape(len(values), *state["shape"])


def _numbers(values: Sequence, shape: list[int]) -> np.ndarray:
    size = math.prod(shape)
    for value in values:
        if value is None or any(number is None for number in value):
            raise InvalidArgument("a feature value is null")
        if len(value) != size:
            raise InvalidArgument(f"expected {size} numbers, not {len(value)}")
    rows = np.asarray(values, np.float64).reshape(len(values), size)
    _refuse_infinite(rows)
    return rows


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation, (D,) each, of rows (n, D), or numbers of rows (n,); of a constant the
    deviation is 1."""
    largest = np.abs(rows).max(axis=0)
    # Neither sums nor squares of huge or tiny numbers leave float64; others are as they are.
    unit = np.where((largest > 1e150) | ((largest < 1e-150) & (largest > 0)), largest, 1.0)
    rows = rows / unit
    scale = rows.std(axis=0)
    # The deviation of a constant such as 0.1 is rounding noise, not 0.
    constant = scale <= _NOISE * np.abs(rows).max(axis=0)
    return rows.mean(axis=0) * unit, np.where(constant, 1, scale * unit)


def _standardised(numbers: np.ndarray, mean, scale) -> np.ndarray:
    with np.errstate(over="ignore"):        # what is infinite then is refused as too far
        return (numbers - mean) / scale


def _refuse_far(rows: np.ndarray, column: str = "", standardised: bool = True) -> None:
    """22023 for numbers that float32 arithmetic would make infinite, and predictions nonsense."""
    far = ~(np.abs(rows) <= _FAR)
    if far.any():
        unit = " standard deviations from the mean of the training rows" if standardised else ""
        raise InvalidArgument(f"a number{column} is too far off",
                              detail=f"It is {rows[far][0]:g}{unit}; at most {_FAR:g} can be "
                                     "computed with.")


def _refuse_infinite(rows: np.ndarray) -> None:
    finite = np.isfinite(rows)
    if not finite.all():
        raise InvalidArgument(f"expected finite numbers, not {rows[~finite][0]}")


# --- columns: many scalars -----------------------------------------------------------------------

def _fit_columns(values: Sequence, features: list[str], options: dict) -> dict:
    if not features:
        raise InvalidArgument("there are no feature columns")
    for name in options.get("categorical", []):
        if name not in features:
            raise InvalidArgument(f'option "categorical" names "{name}", which is no feature')
    return {"columns": [_fit_column(name, [_cell(row, name) for row in values],
                                    name in options.get("categorical", []))
                        for name in features]}


def _fit_column(name: str, cells: list, categorical: bool) -> dict:
    """A column is numeric if every value that is not null reads as a number."""
    present = [cell for cell in cells if cell is not None]
    nulls = len(present) < len(cells)
    if not categorical and present:
        numbers = [_number(cell) for cell in present]
        if all(number is not None for number in numbers):
            _finite(numbers, name)
            mean, scale = _moments(np.array(numbers))
            return {"name": name, "type": "number", "mean": float(mean), "scale": float(scale),
                    "nulls": nulls}
    categories = sorted({_category(cell) for cell in present})
    if len(categories) > MAX_CATEGORIES:
        raise LimitExceeded(
            f'column "{name}" has {len(categories)} categories, more than {MAX_CATEGORIES}',
            hint="Leave the column out of the features, or group its values in a view.")
    return {"name": name, "type": "category", "categories": categories, "nulls": nulls}


def _width(column: dict) -> int:
    own = 1 if column["type"] == "number" else len(column["categories"])
    return own + bool(column["nulls"])


def _encode_columns(values: Sequence, state: dict) -> np.ndarray:
    """Numbers standardised, categories one-hot, each followed by a null flag where training saw
    nulls. A null number becomes the mean; an unknown category (or a null that training never saw)
    is all zeros."""
    out = np.zeros((len(values), sum(_width(column) for column in state["columns"])), np.float32)
    at = 0
    for column in state["columns"]:
        cells = [_cell(row, column["name"]) for row in values]
        null = np.array([cell is None for cell in cells], bool)
        width = _width(column)
        if column["nulls"]:
            out[:, at + width - 1] = null
        if column["type"] == "number":
            numbers = [column["mean"] if cell is None else _number(cell) for cell in cells]
            for cell, number in zip(cells, numbers, strict=True):
                if number is None:
                    raise InvalidArgument(
                        f'expected a number for column "{column["name"]}", not "{cell}"')
            _finite(numbers, column["name"])
            scaled = _standardised(np.array(numbers), column["mean"], column["scale"])
            _refuse_far(scaled, f' of column "{column["name"]}"')
            out[:, at] = scaled
        else:
            place = {category: i for i, category in enumerate(column["categories"])}
            for row, cell in enumerate(cells):
                i = None if cell is None else place.get(_category(cell))
                if i is not None:
                    out[row, at + i] = 1
        at += width
    return out


def _cell(row, name: str):
    if row is None:
        raise InvalidArgument("a feature value is null")
    if name not in row:
        raise InvalidArgument(f'there is no value for feature column "{name}"')
    return row[name]


def _number(cell) -> float | None:
    """The cell as a number; None if it is no number. Digits in a string count as a number."""
    if isinstance(cell, bool):
        return None
    if isinstance(cell, int | float | Decimal):
        return float(cell)
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def _finite(numbers: list[float], name: str) -> None:
    for number in numbers:
        if not math.isfinite(number):
            raise InvalidArgument(f'expected finite numbers for column "{name}", not {number}')


def _category(cell) -> str:
    """One spelling a value, however the driver typed it: 1, 1.0 and '1' are one category."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, str):
        return cell
    number = float(cell)
    return str(int(number)) if number.is_integer() else repr(number)
