"""What numbers and comparisons are at the last nodes of diagrams (`jointly`)."""

from __future__ import annotations

import numpy as np

from pgrain.provenance.algebra.blocks import Atom, Number
from pgrain.provenance.gates.arithmetic import Arithmetic
from pgrain.provenance.gates.network import State

TOLERANCE = 1e-12       # of a comparison, relative
_TESTS = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
          "=": np.equal, "<>": np.not_equal}


class Nodes:
    """What numbers are at last nodes `node` (M,)."""

    def __init__(self, joint, node: np.ndarray):
        self.joint, self.node = joint, node

    def state(self, rows, of, index, atom: Atom, bounds=None) -> np.ndarray:
        """(M,) 0 false, 1 true, 2 NULL of an atom over `rows`; `of`: (n,) their rows by the rows of
        the whole, `index`: (M,) here."""
        if atom.operator == "flag":
            leaf = atom.left.leaves[0]
            if leaf[0] == "condition":
                return self.state(rows, of, index, atoms_of(rows)[leaf[1]])
            return self._truth(rows, of, index, leaf[1])
        x, k = self.number(rows, of, index, atom.left)
        if atom.operator in ("is null", "is not null"):
            return ((k > 0) == (atom.operator == "is not null")).astype(np.int64)
        if bounds is not None:
            y, known = np.nan_to_num(bounds[index]), ~np.isnan(bounds[index])
        else:
            y, of_y = self.number(rows, of, index, atom.right)
            known = of_y > 0
        near = np.abs(x - y) <= TOLERANCE * (np.abs(x) + np.abs(y))
        holds = _TESTS[atom.operator](np.where(near, 0.0, x - y), 0.0)
        return np.where((k > 0) & known, holds.astype(np.int64), 2)

    def number(self, rows, of, index, number: Number) -> tuple[np.ndarray, np.ndarray]:
        """(x, k) of a number, x = 0 where k = 0."""
        m, xs, ks, ps, leaves = len(index), [], [], [], []
        for leaf in number.leaves:
            if leaf[0] == "leaf":
                known = index >= 0
                value = rows.constant(leaf)
                leaves.append(np.where(known, value[np.where(known, index, 0)], np.nan)
                              if len(value) else np.full(m, np.nan))
            elif leaf[0] == "condition":
                state = self.state(rows, of, index, atoms_of(rows)[leaf[1]])
                leaves.append(3 * m * len(ps) + 3 * np.arange(m))
                ps.append(np.eye(3)[state].ravel())
            else:
                x, k = self._leaf(rows, of, index, leaf)
                leaves.append(m * len(xs) + np.arange(m))
                xs.append(x)
                ks.append(k)
        nothing = np.zeros(0)
        state = State(np.concatenate(ps or [nothing]), np.concatenate(xs or [nothing]),
                      np.concatenate(ks or [nothing]), True, nothing)
        if not m:
            return nothing, nothing
        return Arithmetic(0, m, number.tree, leaves).root.forward(state, [])

    def within(self, groups, group: int, number: Number) -> tuple[np.ndarray, np.ndarray]:
        """As `number`, of one of the groups that a `Joint` was asked for by `ask_groups`."""
        with self.joint.inside():
            return self.number(groups, np.array([group]), np.full(len(self.node), group), number)

    def _leaf(self, rows, of, index, leaf) -> tuple[np.ndarray, np.ndarray]:
        if leaf[0] == "cell":
            groups, whole, made = self.joint._origin(rows, of, leaf)
            _, here, _ = self.joint._origin(rows, index, leaf)
            return self.number(groups, whole, here, made)
        slot = self.joint._slot_of(rows, of)
        j = leaf[1]
        aggregate = rows.grouping.aggregates[j]
        if aggregate.number is not None:
            return self._of_members(slot, rows, index, j)

        def column(kind: str) -> np.ndarray:
            return self.joint._sums(slot, kind, j)[self.node]

        scale = self.joint.scales.get((slot, j))
        if aggregate.function in ("count", "sum", "avg") and aggregate.distinct:
            bits = (column("set").astype(np.int64)[:, None] >> np.arange(len(scale))) & 1
            count, total = bits.sum(axis=1), bits @ scale
        elif aggregate.function == "count":
            count = column("count")
        elif aggregate.function in ("sum", "avg"):
            total = column("sum") / (scale or 1.0)
            count = column("count" if aggregate.function == "avg" else "some")
        else:
            total = column(aggregate.function)
            count = np.isfinite(total).astype(float)
        there = (index >= 0).astype(float)
        if aggregate.function == "count":
            return count * there, there
        k = there * (count > 0)
        value = total / np.maximum(count, 1) if aggregate.function == "avg" else total
        return np.where(k > 0, value, 0.0), k

    def _of_members(self, slot: int, groups, index, j: int) -> tuple[np.ndarray, np.ndarray]:
        """An aggregate over numbers of the groups that are there."""
        joint, function = self.joint, groups.grouping.aggregates[j].function
        made, members = joint.members[slot, j]
        total, count = np.zeros(len(index)), np.zeros(len(index))
        best = np.full(len(index), np.inf)
        sign = -1.0 if function == "max" else 1.0
        for k, member in enumerate(members):
            row = made.rows_of(index, k)
            there = row >= 0
            if member.column is not None:
                there &= joint.found.sums[self.node, member.column] > 0
            for other in member.slots:
                if (other, "some", None) in joint.columns:
                    there &= joint._sums(other, "some", None)[self.node] > 0
            with joint.inside():
                x, known = self.number(groups.base, member.row, row, made.number)
            there &= known > 0
            count += there
            total += np.where(there, x, 0.0)
            best = np.where(there, np.minimum(best, sign * x), best)
        here = (index >= 0).astype(float)
        if function == "count":
            return count * here, here
        k = here * (count > 0)
        value = {"sum": total, "avg": total / np.maximum(count, 1)}.get(function)
        return np.where(k > 0, sign * best if value is None else value, 0.0), k

    def _truth(self, rows, of, index, j: int) -> np.ndarray:
        slot = self.joint._slot_of(rows, of)
        function = rows.grouping.aggregates[j].function
        value = self.joint._sums(slot, "max" if function == "bool_or" else "min", j)[self.node]
        return np.where(np.isfinite(value) & (index >= 0), (value > 0).astype(np.int64), 2)


def atoms_of(rows) -> list[Atom]:
    return rows.grouping.atoms if hasattr(rows, "grouping") else rows.block.atoms
