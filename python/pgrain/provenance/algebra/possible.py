"""The possible rows of a relation in the network, and arithmetic over the numbers of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pgrain.provenance.algebra.blocks import Number
from pgrain.provenance.gates.arithmetic import Arithmetic


@dataclass
class Rows:
    """Possible rows of a relation.

    literals: (n, L), the event of each; cells: number of a cell -> (n,) places in X; flags: ->
    (n,) places of threes; origin: cell -> (Groups or Base, (n,) group or row of each row, Number
    over these), where one of them made it (-1: the cell is NULL); shown: -> (row, text, literal) of
    each text that it can be, or (row, element, literal) in the order of an array whose elements
    they are; given: cell -> what makes its places given that the row is there (see `there`); sums:
    cells whose number counts as 0 where it is NULL, as that of a sum does.
    """

    literals: np.ndarray
    cells: dict[int, np.ndarray] = field(default_factory=dict)
    flags: dict[int, np.ndarray] = field(default_factory=dict)
    origin: dict[int, tuple] = field(default_factory=dict)
    shown: dict[int, tuple] = field(default_factory=dict)
    base: np.ndarray | None = None      # (n,) rows of one base row exclude each other
    key: np.ndarray | None = None       # (n,) of a SELECT: the key whose row each is
    given: dict[int, Callable[[], np.ndarray]] = field(default_factory=dict)
    sums: set[int] = field(default_factory=set)

    def there(self, cell: int) -> np.ndarray:
        """(n,) places of a cell given that its row is there: a count of a group is 0 in the worlds
        without the group, and its place in `cells` says so."""
        return self.given[cell]() if cell in self.given else self.cells[cell]

    def __len__(self) -> int:
        return len(self.literals)


def arithmetic(rows, number: Number, n: int, there: bool = False) -> np.ndarray:
    """(n,) places in X of a Number over `rows` (a Base or Groups); `there`: given that they are."""
    if number.tree[0] == "x":
        return rows.place(number.leaves[number.tree[1]], there)
    leaves = []
    for leaf in number.leaves:
        if leaf[0] == "leaf":
            leaves.append(rows.constant(leaf))
        elif leaf[0] in ("condition", "flag"):
            leaves.append(rows.three(leaf))
        else:
            leaves.append(rows.place(leaf, there))
    wiring = rows.assembly.wiring
    out = wiring.numbers(n)
    wiring.add(Arithmetic(out, n, number.tree, leaves))
    return out + np.arange(n)
