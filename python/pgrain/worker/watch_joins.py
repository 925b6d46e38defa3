"""Watches of joins of predictions with predictions, on the worker's side: what their sides are, and
whether the sums of a new state are what the query's own circuit says."""

from __future__ import annotations

import json

import numpy as np

from pgrain.errors import PgrainError
from pgrain.watch.joins import equality_sql, is_join, joined_shape, taken_apart
from pgrain.watch.plan import check_alert, shape
from pgrain.watch.state import StandingCircuit, key_of

_RELATIVE = 1e-6    # of a column's largest number, and of 1: what is small beside these may differ


def plan_join(capture, params: dict) -> dict:
    """``queries`` of the sides; given ``sides``, their shapes, ``shape`` and ``asked``: SQL that
    must find nothing."""
    join = taken_apart(capture)
    if "sides" not in params:
        return {"queries": join.texts}
    made = joined_shape(capture, join, params["sides"])
    if params["alert"] is not None:
        check_alert(params["alert"], made)
    return {"shape": made, "asked": equality_sql(made)}


def shape_of(capture, sides: list) -> dict:
    """The shape of a watch of this query, whose sides have these captures; as JSON has it."""
    made = shape(capture) if not is_join(capture) else joined_shape(
        capture, taken_apart(capture), [shape(side) for side in sides])
    return json.loads(json.dumps(made))


def confirm(circuit: StandingCircuit, evaluation) -> None:
    """The cells of a new state are those of the query's own circuit, which PostgreSQL has
    confirmed; XX000 where they are not."""
    for hard, theirs in ((True, evaluation.value), (False, evaluation.relaxed)):
        mine = circuit.output(hard)
        place = {key_of(keys, circuit.shape): row for row, keys in enumerate(theirs.keys)}
        order = [place.get(key_of(keys, circuit.shape)) for keys in mine.keys]
        scale = np.nan_to_num(np.abs(theirs.numbers)).max(axis=0, initial=1.0)
        if (sorted(place.values()) != sorted(row for row in order if row is not None)
                or len(order) != len(place)
                or hard and (mine.present != theirs.present[order]).any()
                or not np.allclose(mine.numbers / scale, theirs.numbers[order] / scale, rtol=0.0,
                                   atol=_RELATIVE, equal_nan=True)):
            raise PgrainError("the sums of the watch differ from its query's own circuit",
                              hint="Please report the query.")
