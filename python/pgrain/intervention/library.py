"""The library of feature repairs: which there are, what they take, how they are applied.

A repair is a function of one feature value. Some learn something from all training values first (a
median, the categories): `fit` returns it as JSON, and it is stored with the intervention, so that
what was ranked, what is trained and what `edits_sql` prints are the same values.

``duplicates`` is another kind: it changes no value, it removes rows that others nearly equal
(`duplicates.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgrain.errors import InvalidArgument
from pgrain.intervention import cells, duplicates, pictures, words
from pgrain.models.options import Option, check


@dataclass(frozen=True)
class Repair:
    """One entry of the library.

    kinds: kinds of features (`Encoder`) that it works on. transform(values, options, fitted,
    shape) -> new values, one each; a value that it leaves alone comes back equal. fit(values,
    options) -> JSON, or None where there is nothing to learn. complete(options, kind, shape,
    features) checks what single options cannot.
    """

    kinds: tuple[str, ...]
    options: dict[str, Option]
    transform: Callable | None
    fit: Callable | None = None
    complete: Callable | None = None


def _named(*options: Option) -> dict[str, Option]:
    return {option.name: option for option in options}


REPAIRS: dict[str, Repair] = {
    "median": Repair(("bytea",), _named(*pictures.MEDIAN), pictures.median,
                     complete=pictures.complete),
    "gaussian": Repair(("bytea",), _named(*pictures.GAUSSIAN), pictures.gaussian,
                       complete=pictures.complete),
    "bilateral": Repair(("bytea",), _named(*pictures.BILATERAL), pictures.bilateral,
                        complete=pictures.complete),
    "contrast": Repair(("bytea",), _named(*pictures.CONTRAST), pictures.contrast,
                       complete=pictures.complete),
    "impute": Repair(("columns", "float8"), _named(*cells.WHERE, *cells.IMPUTE), cells.impute,
                     cells.fit_impute, cells.complete),
    "clip": Repair(("columns", "float8"), _named(*cells.WHERE, *cells.CLIP), cells.clip,
                   cells.fit_clip, cells.complete),
    "constant": Repair(("columns", "float8"), _named(*cells.WHERE, *cells.CONSTANT),
                       cells.constant, complete=cells.complete_constant),
    "drop_words": Repair(("text", "columns"), _named(*words.WHERE, *words.DROP), words.drop,
                         complete=words.complete),
    "replace_words": Repair(("text", "columns"), _named(*words.WHERE, *words.REPLACE),
                            words.replace, complete=words.complete),
    "duplicates": Repair(("bytea", "text", "float8", "columns"), _named(*duplicates.OPTIONS), None),
}


def check_repair(library: str, options: dict, kind: str, features: Sequence[str],
                 shape: Sequence[int] | None) -> dict:
    """The options with their types checked; 22023 for another repair or option, or for a repair
    that cannot work on features of this kind."""
    repair = REPAIRS.get(library)
    if repair is None:
        raise InvalidArgument(f'no such repair: "{library}"',
                              hint="Repairs are: " + ", ".join(sorted(REPAIRS)) + ".")
    if kind not in repair.kinds:
        fitting = [name for name, other in REPAIRS.items() if kind in other.kinds]
        raise InvalidArgument(f'repair "{library}" does not work on features of kind "{kind}"',
                              hint="For these there are: " + ", ".join(fitting) + ".")
    checked = check(options, repair.options, what=f'repair "{library}"')
    if repair.complete is not None:
        repair.complete(checked, kind, features, shape)
    return checked


def is_removal(library: str | None) -> bool:
    """Whether an intervention removes rows instead of changing their features."""
    return library == "duplicates"


def fit(library: str, values: Sequence, options: dict) -> dict | None:
    """What a repair learns from all training values (JSON); None if it learns nothing."""
    learn = REPAIRS[library].fit
    return None if learn is None else learn(values, options)


def transform(library: str, values: Sequence, options: dict, fitted: dict | None,
              shape: Sequence[int] | None) -> list:
    """The values with the repair applied, one each."""
    return REPAIRS[library].transform(values, options, fitted, shape)
