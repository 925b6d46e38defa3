"""Which parts of a query depend on a model, and what columns each SELECT's relations have.

PostgreSQL itself says what columns there are: one probe a SELECT, the FROM clauses around it made
lateral, so that correlated ones can be asked too. Nothing is executed (LIMIT 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pgrain.plan import nodes
from pgrain.plan.expression import refuse
from pgrain.plan.lexer import tokenize
from pgrain.provenance.annotate import quote

SEPARATOR = "_pgrain_next"


@dataclass
class Core:
    """A SELECT that depends on a model, where it stands.

    number: in the order of the text; withs: texts of the WITH clauses that it sees, outermost
    first; froms: FROM texts of the SELECTs around it. plain: it does not depend on a model, but
    names in it may be its own or those of numbers around it that do.
    """

    number: int
    select: nodes.Select
    levels: list[tuple[str, str]]     # (WITH text or "", FROM text) of the SELECTs around it
    with_: str
    aliases: list[str]
    plain: bool = False


@dataclass
class Analysis:
    """What depends on a model."""

    statement: nodes.Statement
    dependent: set[int] = field(default_factory=set)          # id of nodes
    cte_of: dict[int, nodes.Cte] = field(default_factory=dict)    # id of Relation -> Cte
    cores: list[Core] = field(default_factory=list)
    calls: list[nodes.ModelCall] = field(default_factory=list)
    tables: list[nodes.Relation] = field(default_factory=list)    # those that are no CTE
    plain: list[nodes.Cte] = field(default_factory=list)          # CTEs without a model call

    def depends(self, node) -> bool:
        """Whether the node's meaning depends on a model's predictions; of an expression also a part
        that was cut out of one."""
        if isinstance(node, nodes.Expr):
            return id(node) in self.dependent or any(id(piece) in self.dependent
                                                     for piece in node.walk())
        return node is not None and id(node) in self.dependent


def analyse(statement: nodes.Statement) -> Analysis:
    """Mark everything that depends on a model; 0A000 for a recursive CTE that does."""
    analysis = Analysis(statement)
    _Marker(analysis).query(statement.query, {})
    if analysis.calls:
        _check_names(analysis)
        _collect(analysis, statement.query, [], "")
    return analysis


def _check_names(analysis: Analysis) -> None:
    """Plain CTEs go before the whole capture, where they must not hide a table of their name."""
    for cte in analysis.plain:
        inside = [(other.start, other.end) for other in analysis.plain]
        for table in analysis.tables:
            if table.name == (cte.name,) and not any(
                    start <= table.start and table.end <= end for start, end in inside):
                raise refuse(f'a CTE with the name of the table "{cte.name}"',
                             analysis.statement.text, cte.start, cte.end,
                             "Give the CTE a name of its own.")


class _Marker:
    """Marks nodes, innermost first; `ctes` maps the names that a node sees to their Cte."""

    def __init__(self, analysis: Analysis):
        self.analysis = analysis

    def mark(self, node, dependent: bool) -> bool:
        if dependent:
            self.analysis.dependent.add(id(node))
        return dependent

    def query(self, query: nodes.Query, ctes: dict) -> bool:
        seen, inside = dict(ctes), False
        for cte in query.ctes:
            names = {**seen, cte.name: cte} if query.recursive else seen
            found = self.query(cte.query, names)
            if found and query.recursive and _mentions(cte.query, cte.name):
                raise refuse("a recursive CTE with a model call", self.analysis.statement.text,
                             cte.start, cte.end,
                             "Call the model on the rows that the recursive CTE returns.")
            inside |= self.mark(cte, found)
            if not found:
                self.analysis.plain.append(cte)
            seen[cte.name] = cte
        found = self.body(query.body, seen)
        for expression in [item.expression for item in query.order] + [query.limit, query.offset]:
            if expression is not None:
                found |= self.expression(expression, seen)
        return self.mark(query, found | inside)

    def body(self, body, ctes: dict) -> bool:
        if isinstance(body, nodes.SetOperation):
            found = [self.query(side, ctes) for side in (body.left, body.right)]
            return self.mark(body, any(found))
        if isinstance(body, nodes.Values):
            return self.mark(body, any([self.expression(e, ctes) for e in body.expressions]))
        found = any([self.from_item(item, ctes) for item in body.from_])
        expressions = [item.expression for item in body.items] + [body.where, body.having]
        expressions += body.distinct_on or []
        expressions += list(group_expressions(body.group or []))
        found |= any([self.expression(e, ctes) for e in expressions if e is not None])
        return self.mark(body, found)

    def from_item(self, item: nodes.FromItem, ctes: dict) -> bool:
        if isinstance(item, nodes.Join):
            found = [self.from_item(item.left, ctes), self.from_item(item.right, ctes)]
            if item.on is not None:
                found.append(self.expression(item.on, ctes))
            return self.mark(item, any(found))
        if isinstance(item, nodes.Derived):
            return self.mark(item, self.query(item.query, ctes))
        if isinstance(item, nodes.FunctionItem):
            return self.mark(item, any([self.expression(e, ctes) for e in item.arguments]))
        if len(item.name) == 1 and item.name[0] in ctes:
            cte = ctes[item.name[0]]
            self.analysis.cte_of[id(item)] = cte
            return self.mark(item, self.analysis.depends(cte))
        self.analysis.tables.append(item)
        return False

    def expression(self, expression: nodes.Expr, ctes: dict) -> bool:
        found = False
        for piece in expression.walk():
            inside = False
            if isinstance(piece, nodes.WindowCall) and piece.model:
                raise refuse("a window function over predictions", self.analysis.statement.text,
                             piece.start, piece.end,
                             "Use a scalar subquery, or a join with a grouped subquery.")
            if isinstance(piece, nodes.ModelCall):
                self.analysis.calls.append(piece)
                inside = True
            elif isinstance(piece, nodes.Subquery):
                inside = self.query(piece.query, ctes)
            self.mark(piece, inside)
            found |= inside
        # An aggregate or a subquery's operand depends on what stands inside.
        for piece in expression.walk():
            if any(self.analysis.depends(p) for p in nodes.walk_piece(piece)):
                self.mark(piece, True)
        return self.mark(expression, found)


def group_expressions(items: Sequence[nodes.GroupItem]) -> Iterator[nodes.Expr]:
    """Every expression of a GROUP BY."""
    for item in items:
        yield from item.expressions
        yield from group_expressions(item.items)


def aliases_of(item: nodes.FromItem) -> list[str]:
    """The names that the relations of a FROM item go by, in the order of ``*``."""
    if isinstance(item, nodes.Join):
        return aliases_of(item.left) + aliases_of(item.right) + (
            [item.alias] if item.alias else [])
    return [item.alias] if item.alias else []


def _mentions(query: nodes.Query, name: str) -> bool:
    return any(token.is_name and token.value == name for token in tokenize(query.text))


def _with(query: nodes.Query, upto: int | None = None) -> str:
    ctes = query.ctes if upto is None else query.ctes[:upto]
    if not ctes:
        return ""
    return ("WITH RECURSIVE " if query.recursive else "WITH ") + ", ".join(
        cte.text for cte in ctes) + "\n"


def _collect(analysis: Analysis, query: nodes.Query, levels: list, with_: str) -> None:
    """Gather the dependent SELECTs below `query`. `with_`: WITH of the levels passed so far."""
    if not analysis.depends(query):
        return
    for number, cte in enumerate(query.ctes):
        if analysis.depends(cte):
            inner = _with(query, number)
            _collect(analysis, cte.query, levels + ([(with_, "")] if with_ else []), inner)
    if query.ctes:
        levels, with_ = levels + ([(with_, "")] if with_ else []), _with(query)
    _collect_body(analysis, query, levels, with_)


def _collect_body(analysis: Analysis, query: nodes.Query, levels: list, with_: str) -> None:
    body, text = query.body, analysis.statement.text
    if isinstance(body, nodes.SetOperation):
        for side in (body.left, body.right):
            _collect(analysis, side, levels, with_)
        return
    if isinstance(body, nodes.Values):
        if analysis.depends(body):
            raise refuse("a model call in VALUES", text, body.start, body.end,
                         "Call the model in the SELECT that reads the values.")
        return
    if not analysis.depends(body) and not analysis.depends(query):
        return
    from_ = ", ".join(item.text + "\n" for item in body.from_)
    aliases = [alias for item in body.from_ for alias in aliases_of(item)]
    if len(set(aliases)) < len(aliases):        # of tables in different schemas
        twice = next(alias for alias in aliases if aliases.count(alias) > 1)
        raise refuse(f'the relation name "{twice}" given twice', text, body.from_[0].start,
                     body.from_[-1].end, "Give each relation an alias of its own.")
    analysis.cores.append(Core(len(analysis.cores), body, levels, with_, aliases))
    inside = [*levels, (with_, from_)]
    for item in body.from_:
        # A lateral item sees the FROM around it; asking with all of it is wrong only for names
        # that a later item hides, which PostgreSQL would refuse anyway.
        before = ", ".join(other.text + "\n" for other in body.from_[:body.from_.index(item)])
        _collect_from(analysis, item, [*levels, (with_, before)], "")
    expressions = [item.expression for item in body.items] + [body.where, body.having]
    expressions += body.distinct_on or []
    expressions += list(group_expressions(body.group or []))
    expressions += [item.expression for item in query.order]
    for expression in expressions:
        if expression is not None:
            _collect_expression(analysis, expression, inside)


def _collect_from(analysis: Analysis, item: nodes.FromItem, levels: list, left: str) -> None:
    if isinstance(item, nodes.Join):
        _collect_from(analysis, item.left, levels, left)
        with_, before = levels[-1]
        beside = ", ".join(part for part in (before, item.left.text + "\n") if part)
        _collect_from(analysis, item.right, [*levels[:-1], (with_, beside)], left)
        if item.on is not None:
            both = ", ".join(part for part in (before, item.left.text + "\n",
                                               item.right.text + "\n") if part)
            _collect_expression(analysis, item.on, [*levels[:-1], (with_, both)])
    elif isinstance(item, nodes.Derived) and analysis.depends(item):
        # Not lateral: it sees the levels outside alone, but the WITH of its own SELECT.
        _collect(analysis, item.query, levels if item.lateral else
                 [*levels[:-1], (levels[-1][0], "")], "")


def _collect_expression(analysis: Analysis, expression: nodes.Expr, levels: list) -> None:
    for piece in expression.walk():
        if not isinstance(piece, nodes.Subquery):
            continue
        body = piece.query.body
        if analysis.depends(piece.query):
            _collect(analysis, piece.query, levels, "")
        elif isinstance(body, nodes.Select) and not piece.query.ctes \
                and (_names_one_of(piece.query, analysis) or body.from_ and _aggregates(body)):
            aliases = [alias for item in body.from_ for alias in aliases_of(item)]
            analysis.cores.append(Core(len(analysis.cores), body, levels, "", aliases, True))


def _aggregates(select: nodes.Select) -> bool:
    """Whether aggregates of columns without their table stand in a SELECT: of whose rows they are
    hangs on what columns it has."""
    return any(isinstance(piece, nodes.AggregateCall) and any(
        isinstance(column, nodes.ColumnRef) and column.qualifier is None
        for column in nodes.walk_piece(piece))
        for expression in (*(item.expression for item in select.items), select.where, select.having)
        if expression is not None for piece in expression.walk())


def _names_one_of(query: nodes.Query, analysis: Analysis) -> bool:
    """Whether a name in `query` is one that a SELECT met so far gives to an output column."""
    given = {item.alias for core in analysis.cores for item in core.select.items}
    return any(token.is_name and token.value in given for token in tokenize(query.text))


def _tables(items: Sequence[nodes.FromItem]) -> Iterator[nodes.Relation]:
    for item in items:
        if isinstance(item, nodes.Join):
            yield from _tables([item.left, item.right])
        elif isinstance(item, nodes.Relation):
            yield item


def columns_sql(core: Core, readable: dict, expressions: Sequence[str] = ()) -> str:
    """The probe of one SELECT: the columns of each alias, then the expressions.

    readable: quoted name of a table -> its columns that the caller may read, if not all.
    """
    named = {item.alias: ".".join(quote(part) for part in item.name)
             for item in _tables(core.select.from_)}
    from_ = ", ".join(item.text + "\n" for item in core.select.from_)
    columns = []
    for alias in core.aliases:
        few = readable.get(named.get(alias), None)
        columns += [f"{quote(alias)}.{quote(name)}" for name in few] if few else \
            [f"{quote(alias)}.*"]
        columns.append(f"1 AS {SEPARATOR}")
    columns += [f"({text}\n)" for text in expressions]
    return _within(core, core.with_ + f"SELECT {', '.join(columns) or '1'}"
                   + (f" FROM {from_}" if from_ else ""))


def over_sql(core: Core, statement: str, expression: str) -> str:
    """The probe of an expression beside a SELECT's aggregates: its last column."""
    items, end = core.select.items, core.select.end
    shown = statement[items[0].start:items[-1].end] + ",\n" if items else ""
    at = items[-1].end if items else core.select.start + len("SELECT")
    return _within(core, f"{core.with_}SELECT {shown}({expression}\n){statement[at:end]}\n")


def _within(core: Core, sql: str) -> str:
    """A probe's SELECT where it sees what `core` does; no row of it is asked for."""
    for with_, outer in reversed(core.levels):
        sql = f"(\n{sql}\n LIMIT 0) AS _pgrain_probe"
        sql = with_ + "SELECT _pgrain_probe.* FROM " + (
            f"{outer}, LATERAL {sql}" if outer else sql)
    return sql + "\nLIMIT 0"


def read_columns(core: Core, columns: list[str], types: list[int], n_expressions: int = 0):
    """(alias -> [(name, type oid)], types of the expressions) from the probe's answer."""
    found: dict[str, list[tuple[str, int]]] = {alias: [] for alias in core.aliases}
    pairs, position = list(zip(columns, types, strict=True)), 0
    for alias in core.aliases:
        while pairs[position][0] != SEPARATOR:
            found[alias].append(pairs[position])
            position += 1
        position += 1
    return found, [oid for _, oid in pairs[position:position + n_expressions]]
