"""n >= ALL (SELECT n FROM k) and its relatives: numbers compared with all or some rows of a query
that depends on predictions, spelled as comparisons with the greatest or least of these.

PostgreSQL cannot compare what it does not know. With m the greatest of the query's numbers,
n >= ALL (…) is (n >= m) IS NOT FALSE, which is true where the query has no rows, as it must be; of
a query that has NULLs, and of an n that may be NULL, the rest is said beside it. For ANY it is
the opposite of the opposite: n >= ANY (…) is NOT (n < ALL (…)).
"""

from __future__ import annotations

from pgrain.errors import UnsupportedOperator
from pgrain.plan import nodes
from pgrain.plan.lexer import ExpandedText, Insertion
from pgrain.plan.spine import Leaf as SpineLeaf
from pgrain.plan.spine import Op, PieceLeaf, read_tree
from pgrain.provenance.algebra.blocks import Relation
from pgrain.provenance.algebra.linear import CONST, COUNT, LINEAR, degree

_OPPOSITE = {"=": "<>", "<>": "=", "!=": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_SUMS = (CONST, COUNT, LINEAR)
_KEEPS_KNOWN = ("+", "-", "*", "neg", "abs", "greatest", "least", "coalesce", "round")


class Respelled(UnsupportedOperator):
    """What is refused as it stands, and the statement's text in which it is spelled otherwise."""

    text: ExpandedText


def is_ordered(builder, piece: nodes.Subquery, relation: Relation) -> bool:
    """Whether it asks for an order, or for all to be equal, of counts and sums: then the extremes
    decide. (Extremes and averages of groups are compared value by value.)"""
    operator = piece.operator if piece.form == "all" else _OPPOSITE.get(piece.operator)
    if operator not in ("<", "<=", ">", ">=", "=") or len(relation.columns) != 1:
        return False
    column, operand = relation.columns[0], piece.operand
    number = builder.number(operand, read_tree(operand, builder.is_random))
    return degree(number, builder.leaf_degree) in _SUMS and (
        not column.random or relation.degrees.get(column.cell) in _SUMS)


def respelled(builder, piece: nodes.Subquery, relation: Relation) -> Respelled:
    """The refusal of a comparison (`is_ordered`) with the rows of `relation` that says it by their
    extremes."""
    program = builder.program
    query, operand = piece.query.text, piece.operand.text
    rows = f"(\n{query}\n) AS every_row (number)"
    operator = piece.operator if piece.form == "all" else _OPPOSITE[piece.operator]
    said = [f"((({operand}\n) {one} (SELECT pg_catalog.{extreme}(every_row.number) FROM {rows}"
            ")) IS NOT FALSE)"
            for one, extreme in ((">", "max"), (">=", "max"), ("<", "min"), ("<=", "min"))
            if one == operator or operator == "=" and len(one) > 1]
    if not _all_known(relation):
        said.append("(NOT EXISTS (SELECT 1 FROM " + rows + " WHERE every_row.number IS NULL) "
                    "OR NULL)")
    if not _is_known(builder, piece.operand):
        said.append(f"(({operand}\n) IS NOT NULL OR NOT EXISTS (\n{query}\n) OR NULL)")
    made = ("(NOT (" if piece.form == "any" else "((") + " AND ".join(said) + "))"
    refusal = builder.number_before(piece)
    error = Respelled(refusal.message, detail=refusal.detail, hint=refusal.hint)
    error.text = ExpandedText.of(program.text, [Insertion(piece.start, piece.end, made)])
    return error


def _all_known(relation: Relation) -> bool:
    """Whether no row of a query has a NULL, for certain: counts have none."""
    return len(relation.columns) == 1 and relation.columns[0].cell in relation.bounds


def _is_known(builder, operand: nodes.Expr) -> bool:
    """Whether what stands before ALL or ANY cannot be NULL: arithmetic of counts and constants."""
    def known(node) -> bool:
        if isinstance(node, SpineLeaf):
            return node.text.strip("() ").replace(".", "", 1).isdigit()
        if isinstance(node, PieceLeaf):
            kind, unit, cell = (*builder.piece_number(node.piece), None, None)[:3]
            return kind == "cell" and cell in builder.block.units[unit].relation.bounds
        return isinstance(node, Op) and node.name in _KEEPS_KNOWN and all(map(known, node.args))

    return known(read_tree(operand, builder.is_random))
