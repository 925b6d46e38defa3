"""A whole query as nodes: set operations, SELECTs, joins, subqueries, each with its place.

Every node keeps `start` and `end`, its place in the text it was read from; ``text[start:end]`` is
what the caller wrote. Nothing is resolved against the catalogs here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pgrain.plan.lexer import Token


@dataclass(eq=False)
class Piece:
    """Something inside an expression that is more than text. `start` and `end` are its place."""

    start: int
    end: int


class Qualifier(str):
    """The parts of a name before the last, joined by "."; a quoted part may have dots in it."""

    parts: tuple[str, ...]

    @classmethod
    def of(cls, parts: Sequence[str]) -> Qualifier | None:
        """None of no parts."""
        made = cls(".".join(parts))
        made.parts = tuple(parts)
        return made if parts else None


def relation_of(qualifier: str) -> str:
    """The name in FROM that a qualifier says; what is no `Qualifier` is one name."""
    return qualifier.parts[-1] if isinstance(qualifier, Qualifier) else qualifier


def has_schema(qualifier: str | None) -> bool:
    """Whether a qualifier names more than a relation."""
    return isinstance(qualifier, Qualifier) and len(qualifier.parts) > 1


@dataclass(eq=False)
class ColumnRef(Piece):
    """``a``, ``t.a``, ``s.t.a``, ``t.*`` (name "*"); parts folded as PostgreSQL does."""

    qualifier: Qualifier | None
    name: str


@dataclass(eq=False)
class ModelCall(Piece):
    """``pgrain.predict('m', x)`` or ``predict_proba``; bare: written without the schema."""

    function: str            # "predict", "predict_proba"
    model: str
    argument: Expr
    bare: bool


@dataclass(eq=False)
class AggregateCall(Piece):
    """``f([DISTINCT] argument, …) [FILTER (WHERE …)]``; no argument for ``count(*)``.

    order_by: the expressions of its ORDER BY, or of WITHIN GROUP (ORDER BY …). qualified: it is
    written ``pg_catalog.f``.
    """

    function: str
    arguments: list[Expr]
    distinct: bool
    filter: Expr | None
    order: bool              # has an ORDER BY of its own
    order_by: list[Expr] = field(default_factory=list)
    qualified: bool = False


@dataclass(eq=False)
class Subquery(Piece):
    """A query in brackets inside an expression.

    form: "scalar" (…), "exists" EXISTS (…), "array" ARRAY(…), "any" x op ANY/SOME (…), "all" x op
    ALL (…). IN is "any" with "=", NOT IN is "all" with "<>". For these two the piece spans the
    operand, the operator and the brackets; `operand` is the left side, `operator` the SQL operator.
    EXISTS spans the keyword; NOT before EXISTS is outside the piece.
    """

    form: str
    query: Query
    operand: Expr | None = None
    operator: str | None = None


@dataclass(eq=False)
class WindowCall(Piece):
    """A function with OVER; `model` says whether a model is called in it.

    parts: all expressions in it (arguments, FILTER, PARTITION BY, ORDER BY). They are no pieces of
    the expression around the call, and `walk` does not enter them.
    """

    model: bool
    parts: list[Expr] = field(default_factory=list)


@dataclass(eq=False)
class Expr:
    """A scalar expression of the query, verbatim.

    pieces: in the order of the text, the outermost ones only (what is inside a piece hangs on it).
    A subquery that calls no model (nor names a relation that does) is a Subquery piece too.
    functions: names called outside pieces' subqueries, aggregates included.
    tree: the whole expression as operators; `spine.read_tree` cuts it to what matters.
    """

    text: str
    start: int
    tokens: tuple[Token, ...]
    pieces: list[Piece] = field(default_factory=list)
    functions: tuple[str, ...] = ()
    tree: object = field(default=None, repr=False)

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    def walk(self) -> Iterator[Piece]:
        """All pieces at this query's level: those inside calls and operands, not in subqueries."""
        for piece in self.pieces:
            yield from walk_piece(piece)

    def substitute(self, replaced: dict[int, str]) -> str:
        """The text with pieces (any depth of `walk`) replaced, `replaced` by their start and end.

        Keys are ``(start, end)``; outer replacements win over inner ones.
        """
        spans = sorted(replaced, key=lambda span: (span[0], -span[1]))
        text, at = [], self.start
        for start, end in spans:
            if start < at or end > self.end:
                continue
            text.append(self.text[at - self.start:start - self.start])
            text.append(replaced[start, end])
            at = end
        text.append(self.text[at - self.start:])
        return "".join(text)


def walk_piece(piece: Piece) -> Iterator[Piece]:
    """`piece` and the pieces inside it at the same query level."""
    yield piece
    inner: list[Expr] = []
    if isinstance(piece, ModelCall):
        inner = [piece.argument]
    elif isinstance(piece, AggregateCall):
        inner = [*piece.arguments, *([piece.filter] if piece.filter else []), *piece.order_by]
    elif isinstance(piece, Subquery) and piece.operand is not None:
        inner = [piece.operand]
    for expression in inner:
        yield from expression.walk()


@dataclass(eq=False)
class Item:
    """One entry of a select list: an expression with its alias, or a star."""

    expression: Expr | None
    alias: str | None
    star: bool = False
    qualifier: str | None = None
    start: int = 0
    end: int = 0


@dataclass(eq=False)
class FromItem:
    """One relation of FROM. `aliases` are the names that it (or its parts) go by."""

    start: int
    end: int
    text: str


@dataclass(eq=False)
class Relation(FromItem):
    """``[ONLY] schema.name [*] [[AS] alias [(columns)]]``."""

    name: tuple[str, ...]
    alias: str
    columns: list[str] | None
    only: bool


@dataclass(eq=False)
class Derived(FromItem):
    """``[LATERAL] (query) [AS] alias [(columns)]``, VALUES included; alias None if unnamed."""

    query: Query
    alias: str | None
    columns: list[str] | None
    lateral: bool


@dataclass(eq=False)
class FunctionItem(FromItem):
    """A function in FROM, or ROWS FROM (…), with or without ORDINALITY; always lateral."""

    alias: str | None
    columns: list[str] | None
    arguments: list[Expr]
    function: str | None


@dataclass(eq=False)
class Join(FromItem):
    """``left kind JOIN right``; kind: inner, left, right, full, cross.

    The place of a join includes its brackets. One with an alias is a `Derived`. alias: what
    ``USING (…) AS alias`` names, the merged columns alone.
    """

    kind: str
    left: FromItem
    right: FromItem
    on: Expr | None
    using: list[str] | None
    natural: bool
    alias: str | None = None


@dataclass(eq=False)
class OrderItem:
    expression: Expr
    suffix: str              # " DESC NULLS LAST", verbatim, or ""


@dataclass(eq=False)
class GroupItem:
    """One item of GROUP BY: an expression, or ROLLUP, CUBE, GROUPING SETS over lists of them.

    kind: "expression" (expressions has one), "list" (a bracketed list, or empty), "rollup", "cube"
    (items are expressions or lists), "sets" (items are any of these).
    """

    kind: str
    expressions: list[Expr] = field(default_factory=list)
    items: list[GroupItem] = field(default_factory=list)
    start: int = 0
    end: int = 0


@dataclass(eq=False)
class Select:
    """One SELECT … FROM … WHERE … GROUP BY … HAVING."""

    start: int
    end: int
    distinct: bool
    distinct_on: list[Expr] | None
    items: list[Item]
    from_: list[FromItem]
    where: Expr | None
    group: list[GroupItem] | None
    having: Expr | None
    window: bool = False     # has a WINDOW clause


@dataclass(eq=False)
class Values:
    """``VALUES (…), …`` or ``TABLE name``; `expressions` are all expressions in it."""

    start: int
    end: int
    expressions: list[Expr] = field(default_factory=list)
    table: tuple[str, ...] | None = None


@dataclass(eq=False)
class SetOperation:
    """``left UNION|INTERSECT|EXCEPT [ALL] right``; each side a Query (with brackets, or none)."""

    start: int
    end: int
    operator: str            # "union", "intersect", "except"
    all: bool
    left: Query
    right: Query


@dataclass(eq=False)
class Cte:
    """One entry of WITH. `text` is the whole entry, verbatim."""

    name: str
    columns: list[str] | None
    query: Query
    start: int
    end: int
    text: str


@dataclass(eq=False)
class Query:
    """[WITH …] body [ORDER BY …] [LIMIT …] [OFFSET …]; `text` without enclosing brackets."""

    start: int
    end: int
    text: str
    body: Select | SetOperation | Values
    ctes: list[Cte] = field(default_factory=list)
    recursive: bool = False
    order: list[OrderItem] = field(default_factory=list)
    limit: Expr | None = None        # LIMIT or FETCH FIRST; None for LIMIT ALL
    offset: Expr | None = None
    ties: bool = False               # FETCH FIRST … WITH TIES


@dataclass(eq=False)
class Statement:
    """The whole text: its query, and the text that all places refer to."""

    text: str
    query: Query
    functions: set[str] = field(default_factory=set)   # every function name called anywhere
    tables: list[tuple[str, ...]] = field(default_factory=list)  # relations that are no CTE
