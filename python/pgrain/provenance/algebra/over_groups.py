"""Grouped queries whose HAVING or select list asks a subquery that depends on a model.

A subquery's answer has a probability of its own for each group, so it is joined to the groups, not
to their rows: SELECT e FROM … GROUP BY k HAVING h is SELECT e FROM (SELECT k, aggregates FROM …
GROUP BY k) WHERE h.
"""

from __future__ import annotations

from pgrain.plan import nodes
from pgrain.plan.lexer import tokenize, unbracketed
from pgrain.plan.spine import PieceLeaf
from pgrain.provenance.algebra.blocks import Atom, Column, Made, Number, quoted
from pgrain.provenance.algebra.group_aggregates import aggregates
from pgrain.provenance.algebra.groups import GroupBuilder
from pgrain.provenance.algebra.numbers import INTEGER_OIDS
from pgrain.provenance.algebra.program import cut
from pgrain.provenance.algebra.select import Prepared, SelectBuilder
from pgrain.provenance.algebra.values import ask_aggregate, expand


def asks_over_groups(builder, order: list[nodes.OrderItem]) -> bool:
    """Whether a grouped SELECT has a subquery that depends on a model outside its aggregates, or
    one with which an aggregate is compared."""
    keys = _keys(builder.select)
    return any(isinstance(piece, nodes.Subquery) and (
        builder.program.analysis.depends(piece) or _of_aggregates(piece))
               for expression in _expressions(builder.select, order)
               if _words(expression) not in keys for piece in _outside(expression))


def _words(expression: nodes.Expr) -> list[str]:
    return [token.value for token in unbracketed(expression.tokens)]


def _keys(select: nodes.Select) -> list[list[str]]:
    """The words of what GROUP BY names: expressions, and items by their number or name."""
    keys = [_words(expression) for item in select.group or [] for expression in item.expressions]
    named = {word[0] for word in keys if len(word) == 1}
    return keys + [_words(item.expression) for number, item in enumerate(select.items, 1)
                   if item.expression is not None and {str(number), item.alias} & named]


def _of_aggregates(piece: nodes.Subquery) -> bool:
    """Whether an aggregate stands before IN, ANY or ALL of a subquery."""
    return piece.operand is not None and any(isinstance(p, nodes.AggregateCall)
                                             for p in piece.operand.walk())


def _expressions(select: nodes.Select, order) -> list[nodes.Expr]:
    found = [item.expression for item in select.items if item.expression is not None]
    found += [select.having] if select.having is not None else []
    return found + [item.expression for item in order]


def _outside(expression: nodes.Expr):
    """The pieces that are not inside aggregates."""
    inside: list[nodes.Piece] = []
    for piece in expression.walk():
        if isinstance(piece, nodes.AggregateCall):
            inside.append(piece)
        if not any(a.start <= piece.start and piece.end <= a.end for a in inside):
            yield piece


class OverGroups(SelectBuilder):
    """A SELECT whose rows are the groups of `builder`.

    values: expressions whose aggregates are wanted as values (values.py); asks: whether HAVING may
    ask subqueries, and is not the groups' own.
    """

    def __init__(self, builder: SelectBuilder, order: list[nodes.OrderItem],
                 values: list[nodes.Expr] = (), asks: bool = True):
        super().__init__(builder.program, builder.select, builder.key, {})
        self.nested = builder.nested
        groups = GroupBuilder(builder)
        calls: list[nodes.Expr] = []
        for expression in _expressions(builder.select, order):
            for piece in expression.walk():
                if isinstance(piece, nodes.AggregateCall):
                    made = cut(expression, piece.start, piece.end)
                    if all(known.text != made.text for known in calls):
                        calls.append(made)
        valued = {builder.program.text[call.start:call.end] for expression in values
                  for call in aggregates(expression)}
        own = bool(values) and not asks and builder.select.having not in values
        relation = groups.lower_columns(calls, valued, builder.select.having if own else None)
        if groups.valued:
            relation = expand(builder.program, relation, set(groups.valued), key=builder.key,
                              supports=groups.supports())
        self.keys = groups.keys
        self.alias = f"_pgrain_g{relation.block}"
        self.block.from_.append(Made(f"{relation.cte} AS {self.alias}"))
        self.unit = self._unit(self.alias, relation, None)
        columns = relation.columns[len(self.keys):]
        self.columns = {call.text: column for call, column in zip(calls, columns, strict=True)}
        self.aliases[self.alias] = [
            Column(f"_pgrain_o{n}", column.oid) for n, column in enumerate(relation.columns)
            if not column.random]
        self._expose(groups, relation)
        if builder.select.having is not None and not own:
            self.conditions.append(builder.select.having)
        self.add_where(own=False)

    def _expose(self, groups: GroupBuilder, relation) -> None:
        """Grouping keys that are columns, under the names that they had."""
        aliases: dict[str, list[str]] = {}
        for number, key in enumerate(self.keys):
            piece = key.pieces[0] if len(key.pieces) == 1 else None
            if isinstance(piece, nodes.ColumnRef) and len(key.text) == piece.end - piece.start:
                found = groups.resolve(piece.qualifier, piece.name)
                if found is not None and relation.columns[number].random:
                    made = relation.columns[number]
                    self.aliases.setdefault(found[0], []).append(
                        Column(found[1].name, made.oid, made.cell, made.flag))
                    self.unit_of[found[0]] = self.unit
                elif found is not None:
                    alias, column = found
                    aliases.setdefault(alias, []).append(
                        f"{self.alias}._pgrain_o{number} AS {quoted(column.name)}")
                    self.aliases.setdefault(alias, []).append(
                        Column(column.name, column.oid, labelled=column.labelled))
        for alias, parts in aliases.items():
            self.block.from_.append(Made(f"LATERAL (SELECT {', '.join(parts)}) AS "
                                         f"{quoted(alias)}"))

    # --- aggregates are columns here -------------------------------------------------------

    def is_random(self, piece: nodes.Piece) -> bool:
        if isinstance(piece, nodes.AggregateCall):
            return self.column(piece).random
        return super().is_random(piece)

    def randoms(self, expression: nodes.Expr) -> list[nodes.Piece]:
        super().randoms(expression)
        return [piece for piece in [*_outside(expression), *aggregates(expression)]
                if self.is_random(piece)]

    def stands_for(self, piece: nodes.Piece) -> str | None:
        if isinstance(piece, nodes.AggregateCall):
            at = next(n for n, column in enumerate(self.columns.values())
                      if column is self.column(piece))
            return f"{self.alias}._pgrain_o{len(self.keys) + at}"
        if isinstance(piece, nodes.ModelCall):
            return self.key_column(self.program.text[piece.start:piece.end])
        return super().stands_for(piece)

    def key_column(self, text: str) -> str | None:
        """The column of the grouping key that `text` spells."""
        words = [token.value for token in tokenize(text)]
        return next((f"{self.alias}._pgrain_o{number}" for number, key in enumerate(self.keys)
                     if [token.value for token in tokenize(key.text)] == words), None)

    def type_here(self, text: str) -> int:
        return self.program.type_of(self.select, text, over=True)

    leaf_type = type_here

    def shows_label(self, expression: nodes.Expr) -> bool:
        return super().shows_label(expression) or any(
            self.column(call).labelled for call in aggregates(expression))

    def column(self, piece: nodes.AggregateCall) -> Column:
        """The column of an aggregate."""
        text = self.program.text[piece.start:piece.end]
        return self.columns[text]

    def piece_number(self, piece: nodes.Piece) -> tuple:
        if isinstance(piece, nodes.AggregateCall):
            column = self.column(piece)
            if column.cell is None:
                ask_aggregate(self, piece)
                raise self.program.refuse("an expression over this aggregate", piece)
            return "cell", self.unit, column.cell
        return super().piece_number(piece)

    def integer_piece(self, piece: nodes.Piece) -> bool:
        if isinstance(piece, nodes.AggregateCall):
            return self.column(piece).oid in INTEGER_OIDS
        return super().integer_piece(piece)

    def evaluable(self, node) -> bool:
        if isinstance(node, PieceLeaf) and isinstance(node.piece, nodes.AggregateCall):
            return self.column(node.piece).flag is not None
        return super().evaluable(node)

    def read_atom(self, expression, node) -> Atom:
        if isinstance(node, PieceLeaf) and isinstance(node.piece, nodes.AggregateCall) \
                and self.column(node.piece).flag is not None:
            return Atom("flag", Number(("p", 0), [("flag", self.unit,
                                                   self.column(node.piece).flag)]), None)
        return super().read_atom(expression, node)

    def prepare(self, expression: nodes.Expr, labelled: bool = False) -> Prepared:
        key = self.key_column(expression.text)
        if key is not None:
            return Prepared(key, False)
        for piece in _outside(expression):
            if isinstance(piece, nodes.ColumnRef) and not self.randoms(expression) \
                    and self.resolve(piece.qualifier, piece.name) is None \
                    and self.resolve_outer(piece.qualifier, piece.name) is None:
                raise self.program.refuse("this expression beside a subquery over groups",
                                          expression, "Group by its columns.")
        return super().prepare(expression, labelled)
