"""The first and last of dates over the rows of a group: compared, subtracted, cut to days.

A date is a number of seconds where it is compared or subtracted. What keeps the order of dates (a
cast to date, date_trunc) can as well be made of each date as of their maximum.
"""

from __future__ import annotations

import re

from pgrain.plan import nodes
from pgrain.plan.spine import Leaf as SpineLeaf
from pgrain.plan.spine import Op, PieceLeaf
from pgrain.provenance.algebra.blocks import Atom, Number
from pgrain.provenance.algebra.group_aggregates import aggregates
from pgrain.provenance.algebra.program import cut, untyped

DATE_OIDS = {1082: "pg_catalog.date", 1114: "pg_catalog.timestamp", 1184: "pg_catalog.timestamptz"}
_DATE, _TIMESTAMP, _INTERVAL = 1082, 1114, 1186
_EPOCH = re.compile(r"\(*\s*(extract\s*\(\s*(epoch|'epoch')\s+from|date_part\s*\(\s*'epoch')",
                    re.IGNORECASE)


class GroupDates:
    """The part of a `GroupBuilder` that reads minima and maxima of dates."""

    def extreme_date(self, node) -> tuple[nodes.AggregateCall, str | None, int] | None:
        """(minimum or maximum of dates, what is made of each, type) that a node is."""
        call, oid = self._extreme(node)
        if call is not None:
            return (call, None, oid) if oid in DATE_OIDS else None
        if not isinstance(node, Op) or not node.args:
            return None
        call, oid = self._extreme(node.args[-1])
        if call is None or oid not in (0, *DATE_OIDS):      # not known yet: asked for
            return None
        target = node.name.removeprefix("cast:").removeprefix("pg_catalog.")
        if node.name.startswith("cast:") and target in ("date", "timestamp") \
                and ("type", target) not in self.program.namesakes:
            return call, f"({{}})::pg_catalog.{target}", _DATE if target == "date" else _TIMESTAMP
        unit = node.args[0].text.strip() if isinstance(node.args[0], SpineLeaf) else ""
        if node.name.removeprefix("function:").removeprefix("pg_catalog.") == "date_trunc" \
                and len(node.args) == 2 and re.fullmatch(r"'[a-z]+'", unit) \
                and "date_trunc" not in {name for kind, name in self.program.namesakes}:
            return call, f"pg_catalog.date_trunc({unit}, {{}})", 1184 if oid == _DATE else oid
        return None

    def _extreme(self, node) -> tuple[nodes.AggregateCall | None, int]:
        """(minimum or maximum, type of its argument) that a node is."""
        call = node.piece if isinstance(node, PieceLeaf) else None
        if not isinstance(call, nodes.AggregateCall) or call.function not in ("min", "max") \
                or len(call.arguments or ()) != 1:
            return None, 0
        return call, self.program.type_of(self.select, call.arguments[0].text)

    def atom(self, expression, operator: str, left, right) -> Atom:
        """As ever; and dates beside a date, times between dates beside an interval, as seconds."""
        both = [self.extreme_date(side) for side in (left, right)]
        if None not in both and (both[0][2] == both[1][2] or 1184 not in (both[0][2], both[1][2])):
            return Atom(operator, *map(self._seconds, both), (left.start, right.end))
        for one, other in ((left, right), (right, left)):
            extreme = self.extreme_date(one)
            span = None if extreme else self._span(expression, one)
            if not (extreme or span) or not isinstance(other, SpineLeaf):
                continue
            kind = extreme[2] if extreme else _INTERVAL
            if kind not in DATE_OIDS and span[1] == _DATE:       # days, a number
                continue
            number = self._seconds(extreme) if extreme else span[0]
            other = self._constant_seconds(expression, other, kind)
            return Atom(operator, *((number, other) if one is left else (other, number)),
                        (left.start, right.end))
        return super().atom(expression, operator, left, right)

    def _seconds(self, extreme: tuple) -> Number:
        call, wrapped, _ = extreme
        return Number(("x", 0), [("aggregate", self.aggregate(call, wrapped, True),
                                  call.function)])

    def _constant_seconds(self, expression, node, oid: int) -> Number:
        """A date or interval that no prediction moves."""
        kind = DATE_OIDS.get(oid, "pg_catalog.interval")
        part = cut(expression, node.start, node.end)
        where, text = self.of_group(part)
        if untyped(text) is not None:
            text = f"{untyped(text)}::{kind}"
        elif not aggregates(part):
            known = self.program.type_of(self.select, part.text)
            dates = known in DATE_OIDS and oid in DATE_OIDS
            if known and known != oid and not dates:
                raise self.program.refuse("a comparison of dates with what is none", part,
                                          f"Cast it to {kind}.")
            if known and known != oid:      # as PostgreSQL does: a date is its midnight
                text = f"({text}\n)::{DATE_OIDS[max(known, oid)]}"
        leaf = where, f"pg_catalog.date_part('epoch', ({text}\n))"
        if leaf not in self.grouping.leaves:
            self.grouping.leaves.append(leaf)
        return Number(("const", 0), [("leaf", self.grouping.leaves.index(leaf))])

    def _span(self, expression, node) -> tuple[Number, int] | None:
        """(seconds, type of the dates) of the time between two dates that a node is."""
        if not isinstance(node, Op) or node.name != "-":
            return None
        ends = [self.extreme_date(arg) for arg in node.args]
        if len(ends) != 2 or None in ends or ends[0][2] != ends[1][2]:
            return None
        numbers = [self._seconds(end) for end in ends]
        leaves = list(dict.fromkeys(number.leaves[0] for number in numbers))
        tree = ("-", *(("x", leaves.index(number.leaves[0])) for number in numbers))
        return Number(tree, leaves), ends[0][2]

    def _tree(self, expression, node, leaves: list) -> tuple:
        """As ever; and days between dates, seconds between or of times."""
        span, whole = self._span(expression, node), isinstance(node, Op)
        if span is not None and span[1] == _DATE:
            day = ("leaf", self.leaf_text("86400"))
            return "/", self._placed(span[0], leaves), ("const", _at(leaves, day))
        if whole and node.args and node.name.split(":")[-1] in ("extract", "date_part") \
                and _EPOCH.match(cut(expression, node.start, node.end).text):
            inner = self.extreme_date(node.args[-1])
            span = None if inner else self._span(expression, node.args[-1])
            if inner is None and span is None and self._unknown(node.args[-1]):
                return "const", _at(leaves, ("leaf", self.leaf_text("0")))
            if inner or span and span[1] != _DATE:
                return self._placed(self._seconds(inner) if inner else span[0], leaves)
        return super()._tree(expression, node, leaves)

    def _unknown(self, node) -> bool:
        """Whether a node may be of dates, once types are known that have been asked for."""
        parts = node.args if isinstance(node, Op) and node.name == "-" else [node]
        return all(call is not None and oid in (0, *DATE_OIDS)
                   for call, oid in map(self._extreme, parts))

    @staticmethod
    def _placed(number: Number, leaves: list) -> tuple:
        """The tree of a number over other leaves."""
        def placed(tree: tuple) -> tuple:
            if tree[0] in ("x", "const"):
                return tree[0], _at(leaves, number.leaves[tree[1]])
            return (tree[0], *map(placed, tree[1:]))

        return placed(number.tree)


def _at(leaves: list, leaf: tuple) -> int:
    if leaf not in leaves:
        leaves.append(leaf)
    return leaves.index(leaf)
