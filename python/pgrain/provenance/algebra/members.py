"""An aggregate over numbers of other groups, row by row: what diagrams take up of each.

max(n) over a grouped subquery is of the counts of the groups that are there. A diagram of all their
terms (`jointly`) knows the counts, and which groups are there, at each of its last nodes; here
stands which rows such an aggregate is over, and what these hang on besides the groups themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pgrain.errors import UnsupportedOperator
from pgrain.provenance.algebra.blocks import Number
from pgrain.provenance.algebra.wiring import CERTAIN, NEVER

MOST = 12       # rows of an aggregate over numbers that a diagram takes up, at most


class Members:
    """The rows that aggregate j, which is over a number, has in each of `groups`.

    Raises UnsupportedOperator where a row is there by less, or other things, than the groups of its
    number being there: by a LIMIT among them, say.

    Attributes
    ----------
    number : Number
        What is aggregated, over rows of `groups.base`.
    row : (n, K) int
        Base row of each term of a group, -1 where it has fewer.
    literals : (n, K, L) int
        What must hold for a term, besides that the groups of its number are there.
    """

    def __init__(self, groups, j: int):
        base, self.number = groups.base, groups.grouping.aggregates[j].number
        terms, _ = groups.counted(j)
        kept = np.flatnonzero(~base.surely_null(self.number)[terms.row]
                              & (terms.literals[:, 0] != NEVER))
        kept = kept[np.argsort(terms.group[kept], kind="stable")]
        group, row, literals = terms.group[kept], terms.row[kept], terms.literals[kept]
        count = np.bincount(group, minlength=groups.n)
        self.most = int(count.max(initial=0))
        if self.most > MOST:
            return
        known = {(id(inner), of.tobytes()): (inner, of)
                 for inner, of in sources(base, self.number, row)}
        for inner, of in known.values():
            own = np.where(of >= 0, inner.any()[of], CERTAIN) if inner.n else np.zeros_like(of)
            mine = (literals == own[:, None]) & (own > NEVER)[:, None]
            if not (mine.any(axis=1) | (own <= NEVER)).all():
                raise UnsupportedOperator("rows that hang on more than the groups they are of")
            literals = np.where(mine, CERTAIN, literals)
        place = np.arange(len(group)) - np.repeat(np.cumsum(count) - count, count)
        self.row = np.full((groups.n, self.most), -1)
        self.row[group, place] = row
        self.literals = np.zeros((groups.n, self.most, literals.shape[1]), np.int64)
        self.literals[group, place] = literals

    @classmethod
    def of(cls, groups, j: int) -> Members:
        """Those of an aggregate, made once."""
        if ("members", j) not in groups.made:
            groups.made["members", j] = cls(groups, j)
        return groups.made["members", j]

    def rows_of(self, group: np.ndarray, k: int) -> np.ndarray:
        """The base row of the k-th term of each group, -1 where there is none (or no group)."""
        return np.where(group >= 0, self.row[group, k], -1)

    def hangs(self, k: int) -> bool:
        """Whether the k-th terms hang on more than their groups."""
        return bool(self.literals[:, k].any())


def sources(rows, number: Number, of: np.ndarray) -> Iterator[tuple]:
    """(Groups, (n,) groups, -1: none) that a Number is of, for the rows `of` (n,) of a Base."""
    for leaf in number.leaves:
        if leaf[0] != "cell":
            continue
        groups, theirs, made = rows.origin(leaf)
        theirs = np.where(of >= 0, theirs[of], -1) if len(theirs) else np.full(len(of), -1)
        if hasattr(groups, "grouping"):
            yield groups, theirs
        else:
            yield from sources(groups, made, theirs)
