"""The program under construction, and what its parts share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pgrain.plan import nodes
from pgrain.plan.expression import refuse
from pgrain.plan.lexer import tokenize, unbracketed
from pgrain.plan.spine import Op, PieceLeaf
from pgrain.provenance.algebra.blocks import Bound, Key, Relation, Slot
from pgrain.provenance.algebra.scope import Analysis, group_expressions

OVER = "over:"


@dataclass
class Program:
    """Blocks in order, the columns that PostgreSQL told, and what is still to be asked.

    columns: id of a Select -> alias -> [(name, type oid)]; types: (id of Select, text) -> oid;
    wanted: texts whose types must be known, by Select; wanted_over: the same over its groups.
    """

    analysis: Analysis
    columns: dict[int, dict]
    types: dict[tuple[int, str], int]
    classes: dict[str, list[str]]
    blocks: list = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    relations: dict[int, Relation] = field(default_factory=dict)   # id of Cte or Query -> its rows
    wanted: dict[int, list[str]] = field(default_factory=dict)
    wanted_over: dict[int, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kept: list = field(default_factory=list)
    plain: list[nodes.Cte] = field(default_factory=list)
    recursive: bool = False
    bounds: list[Bound] = field(default_factory=list)
    # id of a Query in FROM -> positions of labels that nothing around it names
    unused: dict[int, set[int]] = field(default_factory=dict)
    exact: bool = False          # no collation takes different texts for equal
    # (kind, name) of what may be meant in place of PostgreSQL's own; what PostgreSQL said of
    # (kind, name, types of the arguments), and what it is still to be asked (namesakes.py).
    namesakes: set = field(default_factory=set)
    meant: dict[tuple, str | None] = field(default_factory=dict)
    asked: set[tuple] = field(default_factory=set)
    # (id of a Select, alias, column) of counts that are values in its FROM; those that would help.
    values: frozenset = frozenset()
    wanted_values: set[tuple] = field(default_factory=set)
    # What a subquery's CASE over comparisons of numbers shows makes rows of its own, not numbers.
    split: bool = False
    all_labels: bool = False     # those that nothing names are kept

    @property
    def own_comparisons(self) -> bool:
        """Whether = and < on PostgreSQL's own types are PostgreSQL's own."""
        return ("comparison", "") not in self.namesakes

    @property
    def text(self) -> str:
        return self.analysis.statement.text

    def add_plain_cte(self, cte: nodes.Cte, recursive: bool) -> None:
        """A CTE without a model call goes before the capture as it is."""
        for known in self.plain:
            if known.name == cte.name and known is not cte:
                raise self.refuse(f'the CTE name "{cte.name}" given twice', cte,
                                  "Give each CTE a name of its own.")
        if cte not in self.plain:
            self.plain.append(cte)
            self.recursive |= recursive

    def number(self) -> int:
        """The number of the next block."""
        return len(self.blocks)

    def refuse(self, construct: str, place, hint: str | None = None):
        """0A000 with the place of a node."""
        return refuse(construct, self.text, place.start, place.end, hint)

    def type_of(self, select: nodes.Select, text: str, over: bool = False) -> int:
        """Type of an expression over the SELECT's FROM; 0, and asked for, if not known yet. over:
        of one that stands beside its aggregates."""
        known = self.types.get((id(select), OVER + text if over else text))
        if known is None:
            texts = (self.wanted_over if over else self.wanted).setdefault(id(select), [])
            if text not in texts:
                texts.append(text)
            return 0
        return known

    def namesake(self, kind: str, name: str, types: list[int]) -> str | None:
        """The function or operator that a call may mean in place of PostgreSQL's own; None, and
        asked for, if that is not known yet. kind: as in `namesakes.decide_sql`; types: of its
        arguments, 0 if not known yet."""
        if ("function" if kind == "extreme" else kind, name) not in self.namesakes or 0 in types:
            return None
        key = (kind, name, *types)
        if key not in self.meant:
            self.asked.add(key)
        schema = self.meant.get(key)
        return schema and f"{schema}.{name}"


def untyped(text: str) -> str | None:
    """The text if it is a bare string or NULL: what is around it says of which type it is."""
    tokens = unbracketed(tokenize(text))
    bare = len(tokens) == 1 and (tokens[0].kind == "string" or tokens[0].is_word("null"))
    return text if bare else None


def cut(expression: nodes.Expr, start: int, end: int) -> nodes.Expr:
    """The part of an expression between two places of the text."""
    at = expression.start
    pieces: list[nodes.Piece] = []
    for piece in expression.walk():
        if start <= piece.start and piece.end <= end and not any(
                known.start <= piece.start and piece.end <= known.end for known in pieces):
            pieces.append(piece)
    made = nodes.Expr(expression.text[start - at:end - at], start,
                      tuple(t for t in expression.tokens if start <= t.start and t.end <= end),
                      pieces, expression.functions)
    made.tree = _node(expression.tree, start, end)
    return made


def conjuncts(expression: nodes.Expr) -> Iterator[nodes.Expr]:
    """The parts that AND joins."""
    tree = expression.tree
    if isinstance(tree, Op) and tree.name == "and":
        for part in tree.args:
            yield from conjuncts(cut(expression, part.start, part.end))
    else:
        yield expression


def _parts(piece: nodes.Piece) -> list[nodes.Expr]:
    if isinstance(piece, nodes.ModelCall):
        return [piece.argument]
    if isinstance(piece, nodes.AggregateCall):
        return [*piece.arguments, *([piece.filter] if piece.filter else [])]
    if isinstance(piece, nodes.Subquery) and piece.operand is not None:
        return [piece.operand]
    return []


def _node(node, start: int, end: int):
    """The node of a tree that stands just there; None if there is none."""
    if node is None or (node.start, node.end) == (start, end):
        return node
    for child in getattr(node, "args", ()):
        if child is not None and child.start <= start and end <= child.end:
            return _node(child, start, end)
    piece = getattr(node, "piece", None)
    if piece is not None:
        if (piece.start, piece.end) == (start, end):        # without the brackets around it
            return PieceLeaf(start, end, piece)
        for part in _parts(piece):
            if part.start <= start and end <= part.end:
                return _node(part.tree, start, end)
    return None


def free_columns(program: Program, query: nodes.Query) -> set[tuple[str | None, str]]:
    """(qualifier or None, name) of the columns that a query may take from outside.

    Exact where the columns of its relations are known (SELECTs that depend on a model); elsewhere
    every name in the text counts.
    """
    found: set[tuple[str | None, str]] = set()
    for cte in query.ctes:
        found |= free_columns(program, cte.query)
    body = query.body
    if isinstance(body, nodes.SetOperation):
        return found | free_columns(program, body.left) | free_columns(program, body.right)
    if isinstance(body, nodes.Values) or id(body) not in program.columns:
        return found | set(candidates(tokenize(query.text)))
    expressions = [item.expression for item in body.items if item.expression is not None]
    expressions += [e for e in (body.where, body.having) if e is not None]
    expressions += [*(body.distinct_on or []), *group_expressions(body.group or [])]
    expressions += [item.expression for item in query.order]
    for item in body.from_:
        _free_of_from(program, item, expressions, found)
    for expression in expressions:
        for piece in expression.walk():
            if isinstance(piece, nodes.ColumnRef):
                found.add((piece.qualifier and nodes.relation_of(piece.qualifier), piece.name))
            elif isinstance(piece, nodes.Subquery):
                found |= free_columns(program, piece.query)
            elif isinstance(piece, nodes.WindowCall):
                found |= set(candidates(t for t in expression.tokens
                                        if piece.start <= t.start and t.end <= piece.end))
    known = program.columns[id(body)]
    mine = {name for columns in known.values() for name, _ in columns} | set(known)
    return {(qualifier, name) for qualifier, name in found
            if qualifier not in known and not (qualifier is None and name in mine)}


def _free_of_from(program, item: nodes.FromItem, expressions: list, found: set) -> None:
    if isinstance(item, nodes.Join):
        _free_of_from(program, item.left, expressions, found)
        _free_of_from(program, item.right, expressions, found)
        if item.on is not None:
            expressions.append(item.on)
    elif isinstance(item, nodes.Derived):
        found |= free_columns(program, item.query)
    elif isinstance(item, nodes.FunctionItem):
        expressions += item.arguments


def candidates(tokens) -> Iterator[tuple[str | None, str]]:
    """Everything in a text that may be a column's name: (qualifier or None, name).

    More than the columns: a key may well have a column too many, never one too few.
    """
    tokens = list(tokens)
    for index, token in enumerate(tokens):
        if not token.is_name:
            continue
        dotted = index + 2 < len(tokens) and tokens[index + 1].value == "." \
            and tokens[index + 2].is_name
        if dotted:
            yield token.value, tokens[index + 2].value
        star = index + 2 < len(tokens) and tokens[index + 1].value == "." \
            and tokens[index + 2].value == "*"
        if star:
            yield token.value, "*"
        # A qualifier is no column; alone, the same name is the whole row.
        if not dotted and not star and not (index and tokens[index - 1].value == "."):
            yield None, token.value
