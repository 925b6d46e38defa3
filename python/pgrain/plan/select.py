"""The one SELECT of the query, cut into its clauses; everything unknown is refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from sqlglot import exp

from pgrain.errors import ComplaintSyntax, LimitExceeded, UnsupportedOperator
from pgrain.plan.dialect import parse_expression, parse_statement
from pgrain.plan.expression import called, find_calls, mentions_model, refuse
from pgrain.plan.lexer import Token, closing, describe_place, fold, split, tokenize
from pgrain.settings import QUERY_BYTES

_WRITES = ("insert", "update", "delete", "merge")
_CLAUSES = ("from", "where", "group", "having", "window", "union", "intersect", "except", "order",
            "limit", "offset", "fetch", "for", "into")
_REFUSED = {
    "having": ("HAVING", "Filter the rows of the answer with the complaint's WHERE."),
    "window": ("WINDOW", None), "union": ("UNION", None), "intersect": ("INTERSECT", None),
    "except": ("EXCEPT", None), "limit": ("LIMIT", "Leave it out; a complaint names its rows."),
    "offset": ("OFFSET", "Leave it out; a complaint names its rows."),
    "fetch": ("FETCH FIRST", "Leave it out; a complaint names its rows."),
    "for": ("FOR UPDATE or SHARE", "Leave it out."), "into": ("SELECT INTO", "Leave INTO out."),
}
RESERVED_PREFIX = "_pgrain_"


@dataclass
class Select:
    """The clauses of one SELECT as lists of tokens of `query`."""

    query: str                      # without semicolon and trailing comments
    prefix: str                     # "WITH [RECURSIVE] a AS (...), " of CTEs, or ""
    recursive: bool
    items: list[list[Token]]
    from_: list[Token]
    where: list[Token]
    group: list[list[Token]]
    order: list[Token]
    tables: list[tuple[str, ...]] = field(default_factory=list)   # names of relations, as parts
    functions: set[str] = field(default_factory=set)
    grouped: bool = False           # has GROUP BY


# A query is cut once although `compile` is called several times for it.
@lru_cache(maxsize=32)
def read_select(text: str) -> Select:
    """`text` cut into clauses.

    Raises
    ------
    ComplaintSyntax
        42601: not one SELECT.
    UnsupportedOperator
        0A000: a construct without provenance; DETAIL has its line, column and text.
    """
    if len(text.encode()) > QUERY_BYTES.default:
        raise LimitExceeded(f"the query is longer than {QUERY_BYTES.default:,.0f} bytes")
    tokens = tokenize(text)
    while tokens and tokens[-1].value == ";" and tokens[-1].kind == "punctuation":
        tokens.pop()
    if not tokens:
        raise ComplaintSyntax("the query is empty", hint="Give one SELECT.")
    for token in tokens:
        if token.kind == "punctuation" and token.value == ";" and token.depth == 0:
            raise ComplaintSyntax("the query is not one statement",
                                  detail=describe_place(text, token.start),
                                  hint="Give one SELECT.")
        if token.kind == "parameter":
            raise refuse("a parameter", text, token.start, token.end, "Write the value itself.")
        if token.is_name and token.value.startswith(RESERVED_PREFIX):
            raise refuse(f'a name that begins with "{RESERVED_PREFIX}"', text, token.start,
                         token.end)
    while tokens[0].value == "(" and closing(tokens, 0) == len(tokens) - 1:
        for bracket in (tokens[0], tokens[-1]):
            text = text[:bracket.start] + " " + text[bracket.end:]
        tokens = tokens[1:-1]
    query = text[:tokens[-1].end]
    prefix, recursive, start = _with(query, tokens)
    if not tokens[start].is_word("select"):
        what = text[tokens[start].start:tokens[start].end]
        if tokens[start].value == "(":
            raise refuse("a bracketed query or set operation", query, tokens[start].start)
        if tokens[start].is_word("table"):
            raise refuse("TABLE", query, tokens[start].start)
        raise ComplaintSyntax(f'the query is not a SELECT but begins with "{what}"',
                              hint="Give one SELECT.")
    clauses = _clauses(query, tokens[start + 1:])
    select = Select(query, prefix, recursive, [], clauses.get("from", []),
                    clauses.get("where", []), [], clauses.get("order", []))
    items = clauses["select"]
    if items and items[0].is_word("distinct"):
        raise refuse("DISTINCT", query, items[0].start, None, "Use GROUP BY and count(*).")
    if items and items[0].is_word("all"):
        items = items[1:]
    if not items:
        raise refuse("a SELECT without columns", query, tokens[start].start)
    select.items = split(items)
    if "group" in clauses:
        select.grouped = True
        select.group = split(clauses["group"])
        _check_group(query, select.group)
    if not select.from_:
        raise refuse("a SELECT without FROM", query, tokens[start].start)
    select.functions = set(called(tokens, inside=True))
    _check_tree(select, tokens[start:])
    return select


def _with(query: str, tokens: list[Token]) -> tuple[str, bool, int]:
    if not tokens[0].is_word("with"):
        return "", False, 0
    recursive = tokens[1].is_word("recursive")
    index = 1 + recursive
    while True:
        while index < len(tokens) and not tokens[index].is_word("as"):
            index += 1
        while index < len(tokens) and tokens[index].value != "(":
            index += 1
        if index >= len(tokens):
            raise ComplaintSyntax("the WITH clause cannot be read")
        close = closing(tokens, index)
        if tokens[index + 1].is_word(*_WRITES):
            raise refuse("a data-modifying CTE", query, tokens[index + 1].start, None,
                         "Write first, then ask what the tables hold.")
        if mentions_model(tokens[index:close]):
            place = next(i for i in range(index, close) if mentions_model(tokens[i:i + 4]))
            raise refuse("a model call inside a CTE", query, tokens[place].start, None,
                         "Call the model in the outer SELECT, WHERE, ON or GROUP BY.")
        index = close + 1
        if index < len(tokens) and tokens[index].is_word("search", "cycle"):
            raise refuse(tokens[index].value.upper(), query, tokens[index].start)
        if index >= len(tokens) or tokens[index].value != ",":
            break
        index += 1
    if index >= len(tokens) or tokens[index].is_word(*_WRITES):
        raise ComplaintSyntax("the query is not a SELECT", hint="Give one SELECT.")
    return query[tokens[1 + recursive].start:tokens[close].end] + ", ", recursive, index


def _clauses(query: str, tokens: list[Token]) -> dict[str, list[Token]]:
    clauses: dict[str, list[Token]] = {"select": []}
    current, previous, skip = "select", None, False
    depth = tokens[0].depth if tokens else 0
    for token in tokens:
        if skip:
            skip, previous = False, token
            continue
        if token.depth == depth and token.is_word(*_CLAUSES) and not _is_part(token, previous):
            if token.value in _REFUSED:
                construct, hint = _REFUSED[token.value]
                raise refuse(construct, query, token.start, None, hint)
            current = token.value
            if current in clauses:
                raise ComplaintSyntax("the query is not one SELECT",
                                      detail=describe_place(query, token.start))
            clauses[current] = []
            skip = current in ("group", "order")      # BY
        else:
            clauses[current].append(token)
        previous = token
    return clauses


def _is_part(token: Token, previous: Token | None) -> bool:
    """Whether a clause's word is a label, or part of an expression (IS DISTINCT FROM)."""
    if previous is None:
        return False
    return (previous.value == "." or previous.is_word("as")
            or token.value == "from" and previous.is_word("distinct")
            or token.value == "group" and previous.is_word("within"))


def _check_group(query: str, group: list[list[Token]]) -> None:
    for tokens in group:
        if not tokens:
            raise ComplaintSyntax("an item of GROUP BY is empty")
        first = tokens[0]
        if first.is_word("rollup", "cube", "grouping", "all", "distinct") and len(tokens) > 1:
            name = {"grouping": "GROUPING SETS", "all": "GROUP BY ALL",
                    "distinct": "GROUP BY DISTINCT"}.get(first.value, first.value.upper())
            raise refuse(name, query, first.start)
        if first.value == "(" and closing(tokens, 0) == len(tokens) - 1 \
                and (len(tokens) == 2 or len(split(tokens[1:-1])) > 1):
            raise refuse("a bracketed list in GROUP BY", query, first.start, None,
                         "Write the expressions without brackets.")


def _check_tree(select: Select, tokens: list[Token]) -> None:
    """sqlglot reads the whole query alike: the same items, conditions and groups.

    The model calls are replaced by columns first: sqlglot's tree is about everything else.
    """
    text, offset = select.query[tokens[0].start:], tokens[0].start
    calls = find_calls(select.query, tokens)
    for number, call in sorted(enumerate(calls), key=lambda pair: -pair[1].start):
        text = (text[:call.start - offset] + f"{RESERVED_PREFIX}call_{number}"
                + text[call.end - offset:])
    tree = parse_statement(text)
    if not isinstance(tree, exp.Select):
        raise UnsupportedOperator("the query has syntax that cannot be analysed",
                                  detail=f"It was read as {type(tree).__name__}.")

    def same(mine: list[list[Token]], theirs: list) -> bool:
        if len(mine) != len(theirs):
            return False
        for part, node in zip(mine, theirs, strict=True):
            piece = select.query[part[0].start:part[-1].end]
            for number, call in sorted(enumerate(calls), key=lambda pair: -pair[1].start):
                if part[0].start <= call.start < part[-1].end:
                    at = part[0].start
                    piece = (piece[:call.start - at] + f"{RESERVED_PREFIX}call_{number}"
                             + piece[call.end - at:])
            if parse_expression(piece) != node:
                return False
        return True

    where = tree.args.get("where")
    group = tree.args.get("group")
    agree = (same(select.items, tree.expressions)
             and same([select.where] if select.where else [], [where.this] if where else [])
             and same(select.group, group.expressions if group else []))
    if not agree:
        raise UnsupportedOperator("the query has syntax that cannot be analysed",
                                  hint="Write the expressions with more brackets.")
    whole = parse_statement(select.query) if select.prefix else tree
    ctes = {cte.alias_or_name for cte in whole.find_all(exp.CTE)}
    select.tables = [tuple(part.this if part.args.get("quoted") else fold(part.this)
                           for part in table.parts if isinstance(part, exp.Identifier))
                     for table in whole.find_all(exp.Table)]
    select.tables = [t for t in dict.fromkeys(select.tables)
                     if t and not (len(t) == 1 and t[0] in ctes)]

