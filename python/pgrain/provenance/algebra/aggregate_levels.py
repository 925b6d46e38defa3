"""Aggregates inside subqueries that are of the rows of a query around them.

PostgreSQL gives an aggregate to the innermost query of which it names a column (manual, "Aggregate
Expressions"): in ``SELECT g, (SELECT max(s.v) + r.v FROM r …) FROM s GROUP BY g`` max is over the
groups of s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgrain.plan import nodes
from pgrain.plan.expression import refuse
from pgrain.provenance.algebra.scope import aliases_of, group_expressions


@dataclass
class Level:
    """A query around a place: names of its relations, and of their columns (None: not known)."""

    aliases: set[str]
    columns: set[str] | None


def check_levels(statement: nodes.Statement, columns: dict) -> None:
    """0A000 for an aggregate that is surely of a query around its own."""
    for call, sure in outer_aggregates(statement.query, columns):
        if sure:
            raise refuse("an aggregate of the outer query inside a subquery", statement.text,
                         call.start, call.end,
                         "Group in a subquery in FROM, and join what is asked to its rows.")


def outer_aggregates(query: nodes.Query, columns: dict, levels: tuple[Level, ...] = ()) \
        -> Iterator[tuple[nodes.AggregateCall, bool]]:
    """(aggregate, whether that is sure) of those in `query` that are of a query around theirs.

    columns: id of a Select -> alias -> [(name, type oid)], where that is known.
    """
    for cte in query.ctes:
        yield from outer_aggregates(cte.query, columns, levels)
    body = query.body
    if isinstance(body, nodes.SetOperation):
        for side in (body.left, body.right):
            yield from outer_aggregates(side, columns, levels)
        return
    if isinstance(body, nodes.Values):
        for expression in body.expressions:
            yield from _of_expression(expression, columns, (*levels, Level(set(), set())))
        return
    known = columns.get(id(body))
    level = Level({alias for item in body.from_ for alias in aliases_of(item)},
                  known and {name for named in known.values() for name, _ in named})
    if not body.from_:
        level.columns = set()
    inside = (*levels, level)
    expressions = [item.expression for item in body.items] + [body.having]
    if levels or query.limit or query.offset or body.distinct_on:       # else nobody needs order
        expressions += [*(body.distinct_on or []), *(item.expression for item in query.order)]
    if levels:      # in these clauses no aggregate is of this query
        expressions += [body.where, *group_expressions(body.group or [])]
    for item in body.from_:
        yield from _of_from(item, columns, levels, inside)
    for expression in expressions:
        if expression is not None:
            yield from _of_expression(expression, columns, inside)


def _of_from(item: nodes.FromItem, columns: dict, levels: tuple, inside: tuple) -> Iterator:
    if isinstance(item, nodes.Join):
        yield from _of_from(item.left, columns, levels, inside)
        yield from _of_from(item.right, columns, levels, inside)
        if item.on is not None and levels:
            yield from _of_expression(item.on, columns, inside)
    elif isinstance(item, nodes.Derived):
        yield from outer_aggregates(item.query, columns, inside if item.lateral else levels)
    elif isinstance(item, nodes.FunctionItem):
        for expression in item.arguments:
            yield from _of_expression(expression, columns, inside)


def _of_expression(expression: nodes.Expr, columns: dict, levels: tuple) -> Iterator:
    for piece in expression.walk():
        if isinstance(piece, nodes.Subquery):
            yield from outer_aggregates(piece.query, columns, levels)
        elif isinstance(piece, nodes.AggregateCall) and len(levels) > 1:
            places = [_level(column, levels) for column in _columns(piece)]
            if places and all(place != len(levels) - 1 for place in places):
                yield piece, None not in places


def _columns(call: nodes.AggregateCall) -> Iterator[nodes.ColumnRef]:
    for part in [*call.arguments, *([call.filter] if call.filter is not None else [])]:
        yield from (piece for piece in part.walk() if isinstance(piece, nodes.ColumnRef))


def _level(column: nodes.ColumnRef, levels: tuple) -> int | None:
    """Which level a column is of; None if that is not known."""
    alias = column.qualifier and nodes.relation_of(column.qualifier)
    for number in range(len(levels) - 1, -1, -1):
        level = levels[number]
        if alias is not None:
            if alias in level.aliases:
                return number
        elif column.name in level.aliases or column.name in (level.columns or ()):
            return number
        elif level.columns is None:
            return None
    return None
