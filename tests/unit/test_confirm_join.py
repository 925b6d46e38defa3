"""The sums of a new watch of a join beside the circuit of its query: a state that says anything
else is not stored."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pgrain.errors import PgrainError
from pgrain.provenance.output import OutputColumn
from pgrain.watch.state import StandingCircuit, State
from pgrain.worker.watch_joins import confirm

COLUMNS = [{"name": "g", "type_oid": 1700, "type_name": "numeric", "model_dependent": False,
            "numeric": True, "role": "group", "tied": False},
           *({"name": name, "type_oid": 701, "type_name": "double precision",
              "model_dependent": True, "numeric": True, "role": "aggregate", "tied": False}
             for name in ("n", "total"))]
SHAPE = {"model": "m", "classes": ["a", "b"], "functions": [None, "count", "sum"],
         "columns": COLUMNS, "keys": [0], "grouped": True}


def circuit(rows):
    """That of a state with rows {key: ((n, relaxed), (total, relaxed))}."""
    state = State()
    for key, (n, total) in rows.items():
        sums = np.zeros((4, 3))
        sums[0, :2] = sums[1, :2] = sums[2, :2] = n
        sums[3, :2] = total
        state.cells[key] = [key], np.ones(4, np.int64), sums
    return StandingCircuit(state, SHAPE, 1)


def evaluation(rows):
    """What the query's own circuit says, in another order and in other words for equal numbers."""
    made = {}
    for hard, which in (("value", 0), ("relaxed", 1)):
        cells = [[np.nan, n[which], total[which]] for n, total in rows.values()]
        made[hard] = SimpleNamespace(
            columns=[OutputColumn(**column) for column in COLUMNS],
            keys=[[key + "0"] for key in reversed(rows)],
            numbers=np.array(cells[::-1]).reshape(-1, 3),
            present=np.array([n[which] > 0.5 for n, _ in reversed(rows.values())], bool))
    return SimpleNamespace(**made)


ROWS = {"1.5": ((3.0, 2.75), (40.0, 38.5)), "2.5": ((0.0, 0.25), (np.nan, 2.0)),
        "4.5": ((2.0, 1.5), (-1000.0, -900.0))}


def without(key):
    return {name: row for name, row in ROWS.items() if name != key}


def test_what_is_the_same_is_confirmed():
    confirm(circuit(ROWS), evaluation(ROWS))
    confirm(circuit({}), evaluation({}))
    near = {**ROWS, "1.5": ((3.0, 2.75 + 1e-8), (40.0, 38.5 - 1e-5))}       # of a total of 1000
    confirm(circuit(near), evaluation(ROWS))


@pytest.mark.parametrize("other", [
    without("1.5"), {**ROWS, "7.5": ((1.0, 1.0), (1.0, 1.0))},
    {**without("4.5"), "5.5": ROWS["4.5"]},
    {**ROWS, "1.5": ((4.0, 2.75), (40.0, 38.5))},       # a value
    {**ROWS, "1.5": ((3.0, 2.7501), (40.0, 38.5))},     # an expectation
    {**ROWS, "1.5": ((3.0, 2.75), (40.0, 38.6))},       # one of another column
    {**ROWS, "2.5": ((1.0, 0.25), (np.nan, 2.0))},      # a row that should be absent
    {**ROWS, "4.5": ((0.0, 1.5), (-1000.0, -900.0))},   # one that should be there
    {**ROWS, "4.5": ((2.0, 1.5), (1000.0, -900.0))},
    {**ROWS, "4.5": ((2.0, 1.5), (np.inf, -900.0))},
    {**ROWS, "4.5": ((2.0, 1.5), (np.nan, -900.0))}])
def test_what_is_another_is_refused(other):
    for mine, theirs in ((other, ROWS), (ROWS, other)):
        with pytest.raises(PgrainError, match="differ from its query's own circuit"):
            confirm(circuit(mine), evaluation(theirs))
