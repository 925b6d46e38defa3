"""The text of a query as the nodes of `nodes.py`; what cannot be followed is refused by name.

Recursive descent over the tokens of `lexer.py`, after PostgreSQL's grammar (gram.y, SelectStmt):
expressions in `read_expression.py` and `read_call.py`, FROM in `read_from.py`, queries here.
sqlglot reads the same text beside it and must find the same SELECTs, set operations, CTEs, tables.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from sqlglot import exp

from pgrain.errors import ComplaintSyntax, LimitExceeded, UnsupportedOperator
from pgrain.plan.dialect import parse_statement
from pgrain.plan.expression import called, mentions_model, refuse
from pgrain.plan.keywords import AGGREGATES, is_bare_label
from pgrain.plan.lexer import Token, describe_place, fold
from pgrain.plan.nodes import (
    ColumnRef,
    Cte,
    Expr,
    GroupItem,
    Item,
    Query,
    Select,
    SetOperation,
    Statement,
    Values,
    WindowCall,
)
from pgrain.plan.read_from import FromReader
from pgrain.plan.select import RESERVED_PREFIX
from pgrain.plan.spine import Leaf, PieceLeaf
from pgrain.settings import QUERY_BYTES

_WRITES = ("insert", "update", "delete", "merge")


# A statement is read several times while it is compiled. Its nodes are shared: nobody changes one.
@lru_cache(maxsize=8)
def read_statement(text: str, aggregates: frozenset[str] = AGGREGATES) -> Statement:
    """`text` as nodes; `aggregates`: names of functions that are aggregates.

    Raises
    ------
    ComplaintSyntax
        42601: not one SELECT (or set operation of SELECTs).
    UnsupportedOperator
        0A000: a construct that cannot be followed; DETAIL has its line, column and text.
    """
    if len(text.encode()) > QUERY_BYTES.default:
        raise LimitExceeded(f"the query is longer than {QUERY_BYTES.default:,.0f} bytes")
    try:
        return StatementReader(text, aggregates).statement()
    except RecursionError:
        raise UnsupportedOperator("the query is nested too deeply") from None


class StatementReader(FromReader):
    """Reads queries."""

    def __init__(self, text: str, aggregates: frozenset[str]):
        super().__init__(text, aggregates)
        self.selects: list[int] = []          # places, for the comparison with sqlglot
        self.set_operations: list[int] = []
        self.ctes: list[int] = []
        self.window_models = False

    def statement(self) -> Statement:
        """The whole text."""
        self._check_text()
        query = self.query()
        if self.token.kind != "end":
            raise self.unreadable()
        if self.window_models:
            for window in self.named_windows:
                window.model = True
        functions = set(called(self.tokens, inside=True))
        self._compare()
        return Statement(self.text, query, functions, list(dict.fromkeys(self.tables)))

    def _check_text(self) -> None:
        """That the tokens are one query, as far as one sees without reading it."""
        tokens = self.tokens
        while tokens and tokens[-1].value == ";" and tokens[-1].kind == "punctuation":
            tokens.pop()
        if not tokens:
            raise ComplaintSyntax("the query is empty", hint="Give one SELECT.")
        for token in tokens:
            if token.kind == "punctuation" and token.value == ";" and token.depth == 0:
                raise ComplaintSyntax("the query is not one statement",
                                      detail=describe_place(self.text, token.start),
                                      hint="Give one SELECT.")
            if token.kind == "parameter":
                raise refuse("a parameter", self.text, token.start, token.end,
                             "Write the value itself.")
            if token.is_name and token.value.startswith(RESERVED_PREFIX):
                raise refuse(f'a name that begins with "{RESERVED_PREFIX}"', self.text,
                             token.start, token.end, "Give it another name.")
        first = next((token for token in tokens if token.value != "("), tokens[0])
        if not first.is_word("select", "with", "table"):
            self._not_a_select(first)

    def _not_a_select(self, token: Token) -> None:
        if token.kind == "end":
            raise ComplaintSyntax("the query is not a SELECT", hint="Give one SELECT.")
        what = self.text[token.start:token.end]
        raise ComplaintSyntax(f'the query is not a SELECT but begins with "{what}"',
                              hint="Give one SELECT.")

    def query_in_brackets(self) -> Query:
        """``(query)`` from its opening bracket on."""
        self.expect_mark("(")
        query = self.query()
        self.expect_mark(")")
        return query

    def query(self) -> Query:
        """[WITH …] body [ORDER BY …] [LIMIT …] from here."""
        start, outer = self.token.start, len(self.scopes)
        ctes, recursive = self._with()
        query = self._compound()
        end = self.last_end
        order = self.order_by() if self.token.is_word("order") else []
        limit, offset, ties = self._limits()
        if self.token.is_word("for"):
            raise refuse("FOR UPDATE or SHARE", self.text, self.token.start, None, "Leave it out.")
        del self.scopes[outer:]
        if self.last_end == end and not ctes:
            return query
        # Brackets around the body alone mean nothing: PostgreSQL merges both levels' clauses.
        if ctes and query.ctes or order and query.order or limit and query.limit \
                or offset and query.offset:
            raise refuse("a clause given inside and outside of a query's brackets", self.text,
                         start)
        return Query(start, self.last_end, self.slice(start, self.last_end), query.body,
                     ctes or query.ctes, recursive or query.recursive, order or query.order,
                     limit or query.limit, offset or query.offset, ties or query.ties)

    def _with(self) -> tuple[list[Cte], bool]:
        if not self.accept("with"):
            return [], False
        recursive = self.accept("recursive")
        scope: set[str] = set()
        self.scopes.append(scope)
        if recursive:
            scope |= self._names_ahead()
        found = []
        while True:
            found.append(self._cte())
            scope.add(found[-1].name)
            if not self.accept_mark(","):
                break
        if not self.token.is_word("select", "table") and not self.is_mark("(") and (
                self.token.depth == 0 or self.token.is_word(*_WRITES)):
            self._not_a_select(self.token)
        return found, recursive

    def _names_ahead(self) -> set[str]:
        """The names of all CTEs of the WITH RECURSIVE here, which see each other."""
        names, index = set(), self.index
        while True:
            names.add(self.at(index).value)
            while not self.at(index).is_word("as") and self.at(index).kind != "end":
                index = self.closing.get(index, index) + 1
            while not self.is_mark("(", index) and self.at(index).kind != "end":
                index += 1
            index = self.closing.get(index, index) + 1
            if not self.is_mark(",", index):
                return names
            index += 1

    def _cte(self) -> Cte:
        start = self.token.start
        self.ctes.append(start)
        name = self.name()
        columns = self.names() if self.is_mark("(") else None
        self.expect("as")
        if not self.accept("materialized"):
            self.accept("not", "materialized")
        if self.at(self.index + 1).is_word(*_WRITES):
            raise refuse("a data-modifying CTE", self.text, self.at(self.index + 1).start, None,
                         "Write first, then ask what the tables hold.")
        query = self.query_in_brackets()
        end = self.last_end
        if self.token.is_word("search", "cycle"):
            raise refuse(self.token.value.upper(), self.text, self.token.start)
        return Cte(name, columns, query, start, end, self.slice(start, end))

    def _compound(self, minimum: int = 1) -> Query:
        """Set operations: INTERSECT binds tighter, each to the left."""
        start = self.token.start
        left = self._term()
        while True:
            token = self.token
            level = 2 if token.is_word("intersect") else 1
            if level < minimum or not token.is_word("union", "intersect", "except"):
                return left
            self.set_operations.append(token.start)
            self.advance()
            every = self.accept("all")
            if not every:
                self.accept("distinct")
            right = self._compound(level + 1)
            end = self.last_end
            body = SetOperation(start, end, token.value, every, left, right)
            left = Query(start, end, self.slice(start, end), body)

    def _term(self) -> Query:
        """One SELECT, VALUES or TABLE, or a query in brackets."""
        start = self.token.start
        if self.is_mark("("):
            return self.query_in_brackets()
        if self.token.is_word("select"):
            body = self._select()
        elif self.accept("values"):
            body = self._values(start)
        elif self.accept("table"):
            self.selects.append(start)
            only = self.accept("only")
            bracket = only and self.accept_mark("(")
            name = self.relation_name()
            if bracket:
                self.expect_mark(")")
            if self.is_operator("*"):
                self.advance()
            body = Values(start, self.last_end, table=name)
        else:
            raise self.unreadable()
        return Query(start, self.last_end, self.slice(start, self.last_end), body)

    def _values(self, start: int) -> Values:
        expressions = []
        while True:
            self.expect_mark("(")
            expressions += self._expressions()
            self.expect_mark(")")
            if not self.accept_mark(","):
                return Values(start, self.last_end, expressions)

    def _expressions(self) -> list[Expr]:
        found = [self.expression()]
        while self.accept_mark(","):
            found.append(self.expression())
        return found

    def _select(self) -> Select:
        start = self.advance().start
        self.selects.append(start)
        distinct, on = False, None
        if self.accept("distinct"):
            distinct = True
            if self.accept("on"):
                self.expect_mark("(")
                on = self._expressions()
                self.expect_mark(")")
        else:
            self.accept("all")
        items = []
        if not self._ends_select():
            items.append(self._item())
            while self.accept_mark(","):
                items.append(self._item())
        if self.token.is_word("into"):
            raise refuse("SELECT INTO", self.text, self.token.start, None, "Leave INTO out.")
        from_ = self.from_list() if self.accept("from") else []
        where = self.expression() if self.accept("where") else None
        group = self._group() if self.accept("group", "by") else None
        having = self.expression() if self.accept("having") else None
        window = self.token.is_word("window")
        if window:
            self._windows()
        return Select(start, self.last_end, distinct, on, items, from_, where, group, having,
                      window)

    def _ends_select(self) -> bool:
        """Whether nothing of a select list stands here (SELECT FROM t)."""
        return self.token.kind == "end" or self.is_mark(")") or self.token.is_word(
            "from", "where", "group", "having", "window", "union", "intersect", "except", "order",
            "limit", "offset", "fetch", "for", "into")

    def _item(self) -> Item:
        start = self.token.start
        if self.is_operator("*"):
            self.advance()
            return Item(None, None, True, None, start, self.last_end)
        expression = self.expression()
        tree = expression.tree
        if isinstance(tree, PieceLeaf) and isinstance(tree.piece, ColumnRef) \
                and tree.piece.name == "*" and tree.start == tree.piece.start:
            return Item(None, None, True, tree.piece.qualifier, start, self.last_end)
        alias = None
        if self.accept("as"):
            alias = self.name()
        elif is_bare_label(self.token):
            alias = self.name()
        return Item(expression, alias, False, None, start, self.last_end)

    def _group(self) -> list[GroupItem]:
        if self.accept("distinct"):
            raise refuse("GROUP BY DISTINCT", self.text, self.tokens[self.index - 1].start, None,
                         "List each set once: GROUP BY GROUPING SETS ((a, b), (a), ()).")
        self.accept("all")
        return self._group_items()

    def _group_items(self) -> list[GroupItem]:
        items = [self._group_item()]
        while self.accept_mark(","):
            items.append(self._group_item())
        return items

    def _group_item(self) -> GroupItem:
        start = self.token.start
        bracket = self.is_mark("(", self.index + 1)
        kind = None
        if self.token.is_word("rollup", "cube") and bracket:
            kind = self.advance().value
        elif self.accept("grouping", "sets"):
            kind = "sets"
        if kind:
            self.expect_mark("(")
            items = self._group_items()
            self.expect_mark(")")
            return GroupItem(kind, [], items, start, self.last_end)
        if self.is_mark("(") and self._is_list():
            close = self.closing[self.index]
            self.advance()
            expressions = [] if self.index == close else self._expressions()
            self.expect_mark(")")
            return GroupItem("list", expressions, [], start, self.last_end)
        return GroupItem("expression", [self.expression()], [], start, self.last_end)

    def _is_list(self) -> bool:
        """Whether the brackets here are a grouping list of their own: ``()`` or ``(a, b)``."""
        close = self.closing[self.index]
        after = self.at(close + 1)
        if not (after.kind == "end" or after.kind == "punctuation" and after.value in ",)"
                or after.is_word("having", "window", "union", "intersect", "except", "order",
                                 "limit", "offset", "fetch", "for")) or self.opens_query():
            return False
        depth = self.token.depth + 1
        return close == self.index + 1 or any(
            token.kind == "punctuation" and token.value == "," and token.depth == depth
            for token in self.tokens[self.index + 1:close])

    def _windows(self) -> None:
        """``WINDOW w AS (…), …``: read for what it calls; calls name it with OVER w."""
        first = self.index
        self.expect("window")
        while True:
            self.name()
            self.expect("as")
            self.window_definition(WindowCall(self.token.start, self.token.start, False))
            if not self.accept_mark(","):
                break
        self.window_models |= mentions_model(self.tokens[first:self.index])

    def _limits(self) -> tuple[Expr | None, Expr | None, bool]:
        """LIMIT or FETCH FIRST, and OFFSET, in either order; whether it is WITH TIES."""
        limit, offset, ties = None, None, False
        while True:
            if self.accept("limit"):
                limit = None if self.accept("all") else self.expression()
            elif self.accept("offset"):
                offset = self.expression()
                self.accept("row") or self.accept("rows")
            elif self.accept("fetch"):
                limit, ties = self._fetch()
            else:
                return limit, offset, ties

    def _fetch(self) -> tuple[Expr, bool]:
        """``FETCH FIRST [n] ROWS ONLY|WITH TIES`` after its first word."""
        self.accept("first") or self.expect("next")
        if self.token.is_word("row", "rows"):
            # One row. The constant is nowhere in the text: it has the place of ROW.
            at = self.token.start
            limit = Expr("1", at, (Token("number", "1", at, at + 1, self.token.depth),),
                         tree=Leaf(at, at + 1, "1"))
        else:
            limit = self.expression()
        self.accept("row") or self.expect("rows")
        ties = self.accept("with", "ties")
        if not ties:
            self.expect("only")
        return limit, ties

    def _compare(self) -> None:
        """That sqlglot, where it can read the text, finds the same SELECTs, CTEs, tables, ….

        The model calls are replaced by columns: sqlglot's tree is about everything else.
        """
        text, calls = self.text, sorted(self.calls, key=lambda call: call.start)
        for number, call in reversed(list(enumerate(calls))):
            text = text[:call.start] + f"{RESERVED_PREFIX}call_{number}" + text[call.end:]
        try:
            tree = parse_statement(text[:len(text) - len(self.text) + self.last_end])
        except UnsupportedOperator:
            return      # sqlglot knows less of PostgreSQL's grammar: no second opinion

        def outside(places: list[int]) -> int:
            return sum(not any(call.start < place < call.end for call in calls)
                       for place in places)

        # It writes VALUES in a set operation as SELECT * FROM (VALUES …) AS _values.
        selects = sum(not _is_values(node) for node in tree.find_all(exp.Select))
        tables = Counter(tuple(part.this if part.args.get("quoted") else fold(part.this)
                               for part in table.parts if isinstance(part, exp.Identifier))
                         for table in tree.find_all(exp.Table)
                         if isinstance(table.this, exp.Identifier))
        mine = Counter(name for place, name in self.relations if outside([place]))
        if (tables, selects, len(list(tree.find_all(exp.SetOperation))),
                len(list(tree.find_all(exp.CTE)))) != (
                mine, *map(outside, (self.selects, self.set_operations, self.ctes))):
            raise UnsupportedOperator("the query has syntax that cannot be analysed",
                                      hint="Write it with more brackets.")


def _is_values(select: exp.Select) -> bool:
    source = select.args.get("from_")
    return source is not None and isinstance(source.this, exp.Values) \
        and source.this.alias == "_values"
