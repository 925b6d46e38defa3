"""Options of models: what may be given, of which type, within which bounds.

An options object (jsonb in SQL) mixes three concerns: how features become arrays (`shape`), what
the network looks like (`hidden`), how it is trained (`alpha`). Each room declares its own
`Option`s; `check` refuses what nobody declared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgrain.errors import InvalidArgument


@dataclass(frozen=True)
class Option:
    """One option: its kind, its bounds (inclusive; of each element for lists), its meaning.

    kind: "integer", "number", "boolean", "integers" (a list), "names" (a list), "name", "choice",
    "object" (JSON, whose parts somebody else checks).
    """

    name: str
    kind: str
    meaning: str
    minimum: float = float("-inf")
    maximum: float = float("inf")
    choices: tuple[str, ...] = ()

    def check(self, value):
        """`value` as the option's Python type; 22023 if it is of another type or out of bounds."""
        if self.kind == "boolean":
            if not isinstance(value, bool):
                raise self._wrong("true or false", value)
            return value
        if self.kind == "choice":
            if value not in self.choices:
                raise self._wrong("one of " + ", ".join(self.choices), value)
            return value
        if self.kind == "name":
            if not isinstance(value, str):
                raise self._wrong("a name", value)
            return value
        if self.kind == "names":
            if not (isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)):
                raise self._wrong("a list of names", value)
            return list(value)
        if self.kind == "object":
            if not isinstance(value, dict):
                raise self._wrong("an object", value)
            return value
        if self.kind == "integers":
            if not isinstance(value, list | tuple):
                raise self._wrong("a list of integers", value)
            return [self._number(v, whole=True) for v in value]
        return self._number(value, whole=self.kind == "integer")

    def _number(self, value, *, whole: bool):
        what = "an integer" if whole else "a number"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(what, value)
        if whole and value != int(value):
            raise self._wrong(what, value)
        if not self.minimum <= value <= self.maximum:      # NaN fails here too
            raise self._wrong(f"{what} between {self.minimum:g} and {self.maximum:g}", value)
        return int(value) if whole else float(value)

    def _wrong(self, wanted: str, value) -> InvalidArgument:
        return InvalidArgument(f'option "{self.name}" must be {wanted}, not {value!r}',
                               detail=f"{self.name}: {self.meaning}.")


def check(options: Mapping, allowed: Mapping[str, Option], *, what: str) -> dict:
    """The options with their values checked; 22023 for a name that is not in `allowed`.

    what: whose options these are, for the message ('architecture "mlp"').
    """
    checked = {}
    for name, value in options.items():
        if name not in allowed:
            raise InvalidArgument(f'{what} has no option "{name}"',
                                  hint="Options are: " + ", ".join(sorted(allowed)) + ".")
        checked[name] = allowed[name].check(value)
    return checked


def pick(options: Mapping, allowed: Mapping[str, Option]) -> dict:
    """The part of `options` that one room declared."""
    return {name: value for name, value in options.items() if name in allowed}
