"""An expression as operators, only as deep as something in it matters.

`read_expression.py` reads every expression down to its constants, by PostgreSQL's table of operator
precedence, and leaves the tree on the `Expr`; `read_tree` cuts it off where nothing of interest
lies below.

The `name` of an `Op`, and its arguments:

``and`` ``or``                       two or more (a chain without brackets is one node)
``not`` ``neg`` ``pos``              one; the last two are the signs
``=`` ``<>`` ``<`` ``<=`` ``>`` ``>=`` ``+`` ``-`` ``*`` ``/`` ``%`` ``^``     two; also as
                                     ``OPERATOR(pg_catalog.=)``
``is null`` ``is true`` ``is false`` ``is unknown``, also ``is not …``        one; ``is [not]
                                     document``, ``is [not] json``, ``is [not] normalized`` too
``is [not] distinct from``           two
``[not] between [symmetric]``        three
``[not] in``                         the value, then the list
``any:=`` ``all:<>`` …               the value, and an array (with a subquery it is a piece)
``operator:||`` ``operator:[not] like`` ``operator:at time zone`` …           two (with ESCAPE
                                     three); a prefix operator has one
``cast:numeric(10, 2)``              one; the type as written
``case``                             condition, value, …, and ELSE or None
``case_simple``                      operand, value, result, …, and ELSE or None
``coalesce`` ``nullif`` ``greatest`` ``least`` ``round`` ``floor`` ``ceil`` ``trunc`` ``abs``
``sqrt`` ``exp`` ``ln`` ``power``    the function's, where it has no schema, or pg_catalog
``function:f`` ``function:s.f``      the function's; f(arguments, …) is the same call
``special:extract`` …                the expressions in a call with a grammar of its own
                                     (``extract(… FROM …)``, ``trim``, named arguments, VARIADIC)
``[]``                               the array, then each subscript; ``slice``: with ``a[1:2]``
``field:f``                          a row, of which f is taken ("*": all)
``row`` ``array``                    its elements
``collate``                          the value, and a leaf that is the collation's name
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pgrain.errors import UnsupportedOperator
from pgrain.plan.nodes import Expr, Piece


@dataclass(eq=False)
class Node:
    """Part of an expression; ``text[start:end]`` of the statement, with the brackets around it."""

    start: int
    end: int


@dataclass(eq=False)
class Leaf(Node):
    """A part without anything of interest, verbatim, brackets included."""

    text: str


@dataclass(eq=False)
class PieceLeaf(Node):
    """A piece of interest; its place is wider than the piece's if it stands in brackets."""

    piece: Piece


@dataclass(eq=False)
class Op(Node):
    """An operator, function or other construct over parts of which at least one matters.

    qualified: it is written with PostgreSQL's schema, so that no namesake of it can be meant.
    """

    name: str
    args: list[Node | None]
    qualified: bool = False


def read_tree(expression: Expr, interesting: Callable[[Piece], bool]) -> Node:
    """`expression` as operators over the pieces that are `interesting`.

    What holds none is one Leaf; the whole expression too.
    """
    def reduce(node: Node) -> Node:
        if isinstance(node, PieceLeaf) and interesting(node.piece):
            return node
        if isinstance(node, Op):
            args = [arg and reduce(arg) for arg in node.args]
            if any(isinstance(arg, (Op, PieceLeaf)) for arg in args):
                return Op(node.start, node.end, node.name, args, node.qualified)
        offset = expression.start
        return Leaf(node.start, node.end, expression.text[node.start - offset:node.end - offset])

    try:
        return reduce(expression.tree)
    except RecursionError:
        raise UnsupportedOperator("an expression is nested too deeply",
                                  detail=f'It begins with "{expression.text[:60]}".') from None
