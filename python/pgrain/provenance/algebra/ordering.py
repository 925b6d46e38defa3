"""ORDER BY, DISTINCT ON, LIMIT and OFFSET of a query: what rows are sorted and told apart by."""

from __future__ import annotations

from pgrain.errors import UnsupportedOperator
from pgrain.plan import nodes
from pgrain.plan.lexer import unbracketed
from pgrain.provenance.algebra.blocks import Bound, Column, LimitBlock, Relation
from pgrain.provenance.algebra.program import Program
from pgrain.provenance.algebra.select import SelectBuilder


def position(expression: nodes.Expr, names: list[str]) -> int | None:
    """The output column that an item of ORDER BY or DISTINCT ON names, by ordinal or by name."""
    tokens = unbracketed(expression.tokens)
    if len(tokens) == 1 and tokens[0].kind == "number" and tokens[0].value.isdigit():
        return int(tokens[0].value) - 1
    if len(tokens) == 1 and tokens[0].is_name and tokens[0].value in names:
        return names.index(tokens[0].value)
    return None


def terms(order: list) -> list[str]:
    """The terms of an ORDER BY; 0A000 if one depends on predictions."""
    for term in order:
        if isinstance(term, UnsupportedOperator):
            raise term
    return order


def order_of_output(program, item, relation, names) -> str | UnsupportedOperator:
    at = position(item.expression, names)
    if at is None or not 0 <= at < len(relation.columns):
        raise program.refuse("ORDER BY of this expression before LIMIT", item.expression,
                             "Order by a column of the output.")
    if relation.columns[at].random:
        return order_refusal(program, item)
    return f"_pgrain_o{at}{item.suffix}"


def order_refusal(program, item) -> UnsupportedOperator:
    """0A000, unless LIMIT keeps every row (`Bound`): which rows it keeps would hang on the
    predictions' order."""
    return program.refuse("LIMIT after an ORDER BY that depends on predictions", item.expression,
                          "Order by columns, or leave LIMIT out; a complaint names its rows.")


def order_of(builder: SelectBuilder, item: nodes.OrderItem, outputs: list, visible: int,
           partition: list[str]) -> str | UnsupportedOperator:
    """What rows are sorted by; a label only where DISTINCT ON tells rows apart by it already."""
    text, hangs = _sorted_by(builder, item.expression, outputs, visible, "ORDER BY")
    return order_refusal(builder.program, item) if hangs and text not in partition \
        else text + item.suffix


def part_of(builder: SelectBuilder, expression: nodes.Expr, outputs: list, visible: int) -> str:
    """What DISTINCT ON tells rows apart by: columns and labels, a possible row for each class."""
    text, hangs = _sorted_by(builder, expression, outputs, visible, "DISTINCT ON")
    if hangs == "number":
        raise part_refusal(builder.program, expression)
    return text


def part_refusal(program, expression: nodes.Expr):
    """0A000: which rows DISTINCT ON keeps would hang on the predictions' values."""
    return program.refuse("DISTINCT ON what depends on predictions", expression,
                          "Tell rows apart by columns; a complaint names its rows.")


def _sorted_by(builder: SelectBuilder, expression: nodes.Expr, outputs: list, visible: int,
               clause: str) -> tuple[str, str]:
    """(column of an item of ORDER BY or DISTINCT ON, what it hangs on: "", "label", "number")."""
    at = position(expression, [column.name for column, _ in outputs[:visible]])
    if at is None:
        return _hidden(builder, expression, outputs)
    if not 0 <= at < visible:
        raise builder.program.refuse(f"this position in {clause}", expression)
    return f"_pgrain_o{at}", _hangs(outputs[at][1])


def _hangs(made) -> str:
    """What an output hangs on: SQL on nothing, SQL that shows a label on that, else a number."""
    if isinstance(made, str):
        return ""
    return {True: "label", False: "", None: "number"}[getattr(made, "labelled", None)]


def _hidden(builder: SelectBuilder, expression, outputs: list) -> tuple[str, str]:
    """A column that is not selected but sorted or told apart by; what it hangs on."""
    if builder.randoms(expression):
        return "", "number"
    made = builder.prepare(expression)
    for number, (_, known) in enumerate(outputs):
        if getattr(known, "text", None) == made.text:
            return f"_pgrain_o{number}", _hangs(made)
    outputs.append((Column(f"_pgrain_{len(outputs)}", 0), made))
    return f"_pgrain_o{len(outputs) - 1}", _hangs(made)


def with_limit(program, query: nodes.Query, relation: Relation, order: list,
               ordered: bool) -> Relation:
    limit, offset = (_count(program, e) for e in (query.limit, query.offset))
    refusal = next((term for term in order if isinstance(term, UnsupportedOperator)), None)
    if not order and (limit is not None or offset):
        refusal = program.refuse("LIMIT without ORDER BY", query.limit or query.offset,
                                 "Say by what the rows are ordered.")
    if query.ties and limit is not None and offset:
        raise program.refuse("OFFSET beside FETCH FIRST ... WITH TIES", query.offset,
                             "Leave OFFSET out.")
    if refusal is not None and limit is not None and not offset and not relation.keyed \
            and not ordered:
        program.bounds.append(Bound(relation.block, limit, refusal))
        return relation
    if refusal is not None and relation.single and not ordered and not offset and limit != 0:
        return relation
    if refusal is not None:
        raise refusal
    block = LimitBlock(program.number(), relation, ", ".join(order), limit, offset or 0,
                       ties=query.ties and limit is not None)
    return after_limit(program, block, relation)


def after_limit(program: Program, block: LimitBlock, relation: Relation) -> Relation:
    program.blocks.append(block)
    return Relation(block.number, relation.cte, relation.columns, relation.keyed,
                    degrees=relation.degrees, unique=relation.unique, bounds=relation.bounds,
                    positive=relation.positive, wishes=relation.wishes)


def _count(program: Program, expression: nodes.Expr | None) -> int | None:
    if expression is None:
        return None
    text = expression.text.strip("() ")
    if not text.isdigit():
        raise program.refuse("LIMIT or OFFSET that is no plain number", expression,
                             "Write the number itself.")
    return int(text)


def cut_off(relation: Relation, visible: int) -> Relation:
    """The relation without hidden columns."""
    if len(relation.columns) == visible:
        return relation
    return Relation(relation.block, relation.cte, relation.columns[:visible], relation.keyed,
                    relation.single, relation.degrees, relation.settled,
                    relation.unique if all(at < visible for at in relation.unique or ()) else None,
                    relation.bounds, relation.positive, relation.sources, relation.wishes)
