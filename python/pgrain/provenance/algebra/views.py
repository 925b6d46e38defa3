"""Views whose body calls a model, put into the query as subqueries.

Any other view stays a relation in FROM and runs with its owner's rights, as always. A materialised
view is data: what it was computed from does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pgrain.errors import UnsupportedOperator
from pgrain.plan import nodes
from pgrain.plan.lexer import ExpandedText, Insertion, tokenize
from pgrain.plan.reader import read_statement
from pgrain.provenance.algebra.blocks import quoted


@dataclass
class _Found:
    """What stands in a query: insertions to make, names of CTEs, columns that are named with a
    schema (start, end, qualifier, name), and views that are replaced under their own names."""

    made: list[Insertion] = field(default_factory=list)
    ctes: set[str] = field(default_factory=set)
    columns: list[tuple[int, int, str, str]] = field(default_factory=list)
    expanded: dict[str, str] = field(default_factory=dict)


def expand_views(statement: nodes.Statement, views: dict[str, str]) -> str:
    """The text with each named view in `views` (quoted name -> its query) replaced by its query,
    and TABLE v by SELECT * FROM v."""
    if not views and not any(token.is_word("table") for token in tokenize(statement.text)):
        return statement.text
    known = _Found()
    _query(statement.query, set(), {}, known)
    for view, definition in views.items():
        hidden = known.ctes & {table[0] for table in read_statement(definition).tables
                               if len(table) == 1}
        if hidden:
            raise UnsupportedOperator(
                f'a CTE with the name of the table "{min(hidden)}", which view {view} reads, has '
                "no provenance", hint="Give the CTE a name of its own.")
    found = _Found()
    _query(statement.query, set(), views, found)
    # What was s.v is v, a subquery: its columns are v's.
    made = found.made + [
        Insertion(start, end, f"{quoted(found.expanded[qualifier])}."
                  + ("*" if name == "*" else quoted(name)))
        for start, end, qualifier, name in dict.fromkeys(found.columns)
        if qualifier in found.expanded]
    return ExpandedText.of(statement.text, made) if made else statement.text


def _query(query: nodes.Query, ctes: set[str], views, found: _Found) -> None:
    """Note what stands below `query`."""
    seen = set(ctes)
    for cte in query.ctes:
        _query(cte.query, seen | ({cte.name} if query.recursive else set()), views, found)
        seen.add(cte.name)
        found.ctes.add(cte.name)
    body = query.body
    if isinstance(body, nodes.SetOperation):
        _query(body.left, seen, views, found)
        _query(body.right, seen, views, found)
    elif isinstance(body, nodes.Select):
        for item in body.from_:
            _from(item, seen, views, found)
        found.columns += [(item.start, item.end, item.qualifier, "*") for item in body.items
                          if nodes.has_schema(item.qualifier)]
        expressions = [item.expression for item in body.items] + [body.where, body.having]
        expressions += [*(body.distinct_on or []), *_grouped(body.group or [])]
        for expression in expressions + [item.expression for item in query.order]:
            _expression(expression, seen, views, found)
    elif isinstance(body, nodes.Values):
        if body.table is not None:
            found.made.append(Insertion(body.start, body.start + len("TABLE"), "SELECT * FROM"))
        for expression in body.expressions:
            _expression(expression, seen, views, found)


def _grouped(items: list[nodes.GroupItem]) -> list[nodes.Expr]:
    return [e for item in items for e in item.expressions + _grouped(item.items)]


def _expression(expression: nodes.Expr | None, ctes, views, found: _Found) -> None:
    for piece in expression.walk() if expression is not None else ():
        if isinstance(piece, nodes.ColumnRef) and nodes.has_schema(piece.qualifier):
            found.columns.append((piece.start, piece.end, piece.qualifier, piece.name))
        if isinstance(piece, nodes.Subquery):
            _query(piece.query, ctes, views, found)


def _from(item: nodes.FromItem, ctes, views, found: _Found) -> None:
    if isinstance(item, nodes.Join):
        _from(item.left, ctes, views, found)
        _from(item.right, ctes, views, found)
        _expression(item.on, ctes, views, found)
    elif isinstance(item, nodes.Derived):
        _query(item.query, ctes, views, found)
    elif isinstance(item, nodes.Relation):
        if len(item.name) == 1 and item.name[0] in ctes:
            return
        name = ".".join(quoted(part) for part in item.name)
        definition = views.get(name)
        if definition is not None:
            definition = definition.rstrip().rstrip(";")
            columns = f" ({', '.join(quoted(c) for c in item.columns)})" if item.columns else ""
            found.made.append(Insertion(item.start, item.end,
                                        f"(\n{definition}\n) AS {quoted(item.alias)}{columns}", 2,
                                        name, definition))
            if len(item.name) > 1 and item.alias == item.name[-1]:
                found.expanded[".".join(item.name)] = item.alias
