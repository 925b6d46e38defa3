"""Subqueries in FROM that only select and filter, merged into the SELECT around them.

``SELECT … FROM (SELECT c, predict('m', x) AS label FROM t WHERE …) AS s WHERE s.label <> s.c``
would list a possible row for each class of each row of t. Merged, t is read once and a label stays
what it is, an expression over a prediction: `Column.virtual`.
"""

from __future__ import annotations

from pgrain.plan import nodes
from pgrain.plan.lexer import tokenize
from pgrain.provenance.algebra.blocks import Column, Slot, quoted
from pgrain.provenance.algebra.program import candidates, conjuncts
from pgrain.provenance.algebra.scope import group_expressions


class _Cannot(Exception):
    """This subquery keeps a block of its own."""


def expressions_of(select: nodes.Select, order: list[nodes.OrderItem]) -> list[nodes.Expr]:
    """All expressions of a SELECT, those of ON included."""
    found = [item.expression for item in select.items if item.expression is not None]
    found += [e for e in (select.where, select.having) if e is not None]
    found += [*(select.distinct_on or []), *group_expressions(select.group or [])]
    found += [item.expression for item in order]
    items = list(select.from_)
    while items:
        item = items.pop()
        if isinstance(item, nodes.Join):
            items += [item.left, item.right]
            found += [item.on] if item.on is not None else []
    return found


def may_inline(program, select: nodes.Select, order: list[nodes.OrderItem]) -> bool:
    """Whether labels may become expressions in this SELECT: nothing joins or correlates on them."""
    items = list(select.from_)
    while items:
        item = items.pop()
        if isinstance(item, nodes.Join):
            if item.kind not in ("inner", "cross") or item.using or item.natural:
                return False
            items += [item.left, item.right]
        elif isinstance(item, (nodes.Derived, nodes.FunctionItem)) and getattr(
                item, "lateral", True) and not _free_of_labels(program, select, item):
            return False
    return not any(isinstance(piece, nodes.Subquery) and program.analysis.depends(piece)
                   for expression in expressions_of(select, order) for piece in expression.walk())


def _free_of_labels(program, select: nodes.Select, item: nodes.FromItem) -> bool:
    """Whether a lateral item names no label of the subqueries in FROM, nor a row with one."""
    if program.analysis.depends(item):
        return False
    named = {name for _, name in candidates(tokenize(item.text))}
    items = list(select.from_)
    while items:
        other = items.pop()
        if isinstance(other, nodes.Join):
            items += [other.left, other.right]
        elif program.analysis.depends(other):
            cte = program.analysis.cte_of.get(id(other))
            query = cte.query if cte is not None else getattr(other, "query", None)
            shown = getattr(query.body, "items", None) if query is not None else None
            known = program.columns.get(id(select), {}).get(other.alias, [])
            if not shown or len(shown) != len(known) or any(part.star for part in shown):
                return False
            labels = {name for (name, _), part in zip(known, shown, strict=True)
                      if program.analysis.depends(part.expression)}
            if named & {*labels, other.alias, "*"}:
                return False
    return True


def inline(builder, alias: str, query: nodes.Query, order: list[nodes.OrderItem]) -> bool:
    """Merge `query` as `alias` if it only selects and filters; False if it does more."""
    body = query.body
    if not isinstance(body, nodes.Select) or query.ctes or query.limit is not None \
            or query.offset is not None or body.distinct or body.distinct_on or body.window \
            or body.group is not None or body.having is not None \
            or any(builder.program.analysis.depends(item) for item in body.from_) \
            or id(body) not in builder.program.columns:
        return False
    merge = _Merge(builder, alias, query, order)
    try:
        merge.read()
    except _Cannot:
        return False
    merge.apply()
    return True


def as_column(argument: nodes.Expr) -> str:
    """SQL that is in a select list what `argument` is as an argument: o.* is many columns there,
    and one row here. PostgreSQL spells whole rows so in the definitions of views."""
    star = any(isinstance(p, nodes.ColumnRef) and p.name == "*" for p in argument.walk())
    return f"coalesce({argument.text}\n)" if star else argument.text


class _Merge:
    """What becomes of the subquery: SQL of its columns, labels as texts, conditions on labels."""

    def __init__(self, builder, alias: str, query: nodes.Query, order):
        from pgrain.provenance.algebra.select import SelectBuilder
        self.builder, self.alias, self.select = builder, alias, query.body
        self.order = order
        self.inner = SelectBuilder(builder.program, query.body, None)
        self.hidden: dict[str, Column] = {}          # SQL inside -> column outside
        self.calls: list[tuple[str, str, str]] = []  # (mark, model, SQL of the argument)
        self.outputs: list[tuple[str | None, str | None]] = []   # (SQL, label text)
        self.conditions: list[str] = []

    def read(self) -> None:
        for item in self.select.from_:
            self.inner.add_from(item)
        if self.inner.conditions:
            raise _Cannot
        for part in conjuncts(self.select.where) if self.select.where is not None else ():
            if self.depends(part):
                self.conditions.append(self.lift(part))
            else:
                self.inner.block.where.append(part.text)
        for item in self.select.items:
            if item.star:
                self.star(item)
            elif self.depends(item.expression):
                self.outputs.append((None, self.lift(item.expression)))
            else:
                if any(isinstance(p, (nodes.AggregateCall, nodes.WindowCall))
                       for p in item.expression.walk()):
                    raise _Cannot
                self.outputs.append((item.expression.text, None))
        known = self.builder.known.get(self.alias, [])
        if len(known) != len(self.outputs):
            raise _Cannot
        labels = {name for (name, _), (_, text) in zip(known, self.outputs, strict=True) if text}
        self.check_uses(labels)

    def depends(self, expression: nodes.Expr) -> bool:
        return self.builder.program.analysis.depends(expression)

    def star(self, item: nodes.Item) -> None:
        if self.inner.opaque_star:
            raise _Cannot
        aliases = [nodes.relation_of(item.qualifier)] if item.qualifier else \
            list(self.inner.aliases)
        for alias in aliases:
            for column in self.inner.aliases.get(alias, []):
                self.outputs.append((f"{quoted(alias)}.{quoted(column.name)}", None))

    def lift(self, expression: nodes.Expr) -> str:
        """An expression over predictions as the SELECT around will spell it."""
        replaced: dict[tuple[int, int], str] = {}
        for piece in expression.walk():
            span = (piece.start, piece.end)
            if any(start <= span[0] and span[1] <= end for start, end in replaced):
                continue
            if isinstance(piece, nodes.ModelCall) and piece.function == "predict":
                mark = f"_pgrain_call{len(self.calls)}_"
                self.calls.append((mark, piece.model, self.column(as_column(piece.argument), 0)))
                replaced[span] = mark
            elif isinstance(piece, nodes.ColumnRef):
                found = self.inner.resolve(piece.qualifier, piece.name)
                if found is None:
                    raise _Cannot
                sql = f"{quoted(found[0])}.{quoted(found[1].name)}"
                replaced[span] = self.column(sql, found[1].oid)
            else:
                raise _Cannot
        return expression.substitute(replaced)

    def column(self, sql: str, oid: int) -> str:
        """A column outside for something that is evaluated inside."""
        if sql not in self.hidden:
            self.hidden[sql] = Column(f"_pgrain_m{len(self.hidden)}", oid)
        return f"{quoted(self.alias)}.{self.hidden[sql].name}"

    def check_uses(self, labels: set[str]) -> None:
        """Labels must not stand where a prediction can't: in model calls, in plain subqueries."""
        for expression in expressions_of(self.builder.select, self.order):
            for piece in expression.walk():
                if isinstance(piece, nodes.ColumnRef) and piece.qualifier is None \
                        and piece.name == self.alias:
                    raise _Cannot       # the whole row
                if isinstance(piece, nodes.ModelCall):
                    tokens = piece.argument.tokens
                elif isinstance(piece, (nodes.Subquery, nodes.WindowCall)):
                    tokens = [t for t in expression.tokens
                              if piece.start <= t.start and t.end <= piece.end]
                else:
                    continue
                if any(name in labels or name in ("*", self.alias)
                       for _, name in candidates(tokens)):
                    raise _Cannot

    def apply(self) -> None:
        """Put it into the SELECT around."""
        builder, inner = self.builder, self.inner.block
        unused = self.unused()
        kept = self.conditions + [label for name, (_, label) in self.named()
                                  if label and name not in unused]
        texts = {}
        for mark, model, argument in self.calls:
            if not any(mark in text for text in kept):
                continue
            texts[mark] = f'"_pgrain_c{self.slot(model, argument).number}"."_pgrain_label"'

        def spelled(text: str) -> str:
            for mark, label in texts.items():
                text = text.replace(mark, label)
            return text

        columns, parts = [], []
        for (name, oid), (_, (sql, label)) in zip(builder.known[self.alias], self.named(),
                                                  strict=True):
            if sql is not None:
                parts.append(f"({sql}\n) AS {quoted(name)}")
            elif name in unused:
                continue
            columns.append(Column(name, oid, virtual=label and spelled(label)))
        parts += [f"({sql}\n) AS {column.name}" for sql, column in self.hidden.items()]
        where = "WHERE " + "\n AND ".join(f"({c}\n)" for c in inner.where) if inner.where else ""
        builder.block.from_.append(
            f"(SELECT {', '.join(parts)} FROM " + ",\n".join(f"{item}\n" for item in inner.from_)
            + where + f") AS {quoted(self.alias)}")
        builder.aliases[self.alias] = columns + list(self.hidden.values())
        for text in self.conditions:
            made = spelled(text)
            builder.keep_text(made)
            builder.block.mixed.append(made)

    def named(self) -> list[tuple[str, tuple[str | None, str | None]]]:
        """(name outside, output) of each column."""
        names = [name for name, _ in self.builder.known[self.alias]]
        return list(zip(names, self.outputs, strict=True))

    def unused(self) -> set[str]:
        """Labels that the SELECT around does not name: nothing hangs on their predictions."""
        select = self.builder.select
        named = {name for expression in expressions_of(select, self.order)
                 for _, name in candidates(expression.tokens)}
        if self.builder.program.all_labels or "*" in named \
                or any(item.star for item in select.items):
            return set()
        return {name for name, (_, label) in self.named() if label and name not in named}

    def slot(self, model: str, argument: str) -> Slot:
        """The slot of a call whose argument is a column of ours."""
        builder, kind = self.builder, ("predict", model, argument)
        if kind not in builder.calls:
            slot = Slot(len(builder.program.slots), -1, model, argument, "label")
            builder.program.slots.append(slot)
            builder.block.slots.append(slot)
            builder.calls[kind] = slot
        return builder.calls[kind]


