"""FROM as a tree: relations, subqueries, functions, and the joins between them."""

from __future__ import annotations

from pgrain.plan.expression import MODEL_FUNCTIONS, OWN_SCHEMA, refuse
from pgrain.plan.keywords import is_column_name
from pgrain.plan.nodes import (
    Derived,
    Expr,
    FromItem,
    FunctionItem,
    Item,
    Join,
    Query,
    Relation,
    Select,
)
from pgrain.plan.read_call import Frame
from pgrain.plan.read_expression import ExpressionReader

_OWN_GRAMMAR = ("xmltable", "json_table")
_JOINS = ("join", "inner", "left", "right", "full", "cross", "natural")


class FromReader(ExpressionReader):
    """Reads what stands after FROM."""

    def __init__(self, text: str, aggregates: frozenset[str]):
        super().__init__(text, aggregates)
        self.relations: list[tuple[int, tuple[str, ...]]] = []   # place and name, CTEs included
        self.scopes: list[set[str]] = []                         # names of CTEs, innermost last
        self.tables: list[tuple[str, ...]] = []

    def from_list(self) -> list[FromItem]:
        """``item, item, …`` from here."""
        items = [self._joined()]
        while self.accept_mark(","):
            items.append(self._joined())
        return items

    def _joined(self) -> FromItem:
        item = self._primary_item()
        while self.token.is_word(*_JOINS):
            item = self._join(item)
        return item

    def _join(self, left: FromItem) -> Join:
        """``left`` with the one join that begins here (and those inside its right side)."""
        natural = self.accept("natural")
        kind = self.token.value if self.token.is_word("inner", "left", "right", "full",
                                                      "cross") else "inner"
        self.accept(kind)
        if kind in ("left", "right", "full"):
            self.accept("outer")
        self.expect("join")
        right = self._primary_item()
        on = using = alias = None
        if not natural and kind != "cross":
            # a JOIN b JOIN c ON … ON …: the second ON is the first join's
            while self.token.is_word(*_JOINS):
                right = self._join(right)
            if self.accept("on"):
                on = self.expression()
            else:
                self.expect("using")
                using = self.names()
                if self.accept("as"):
                    alias = self.name()
        return Join(left.start, self.last_end, self.slice(left.start, self.last_end), kind, left,
                    right, on, using, natural, alias)

    def names(self) -> list[str]:
        """``(a, b, …)``"""
        self.expect_mark("(")
        found = [self.name()]
        while self.accept_mark(","):
            found.append(self.name())
        self.expect_mark(")")
        return found

    def _primary_item(self) -> FromItem:
        start = self.token.start
        lateral = self.accept("lateral")
        if self.opens_query():
            query = self.query_in_brackets()
            alias, columns = self._alias()
            return Derived(start, self._end_of_item(), self.slice(start, self.last_end), query,
                           alias, columns, lateral)
        if self.is_mark("(") and not lateral:
            self.advance()
            join = self._joined()
            self.expect_mark(")")
            inside = self.last_end
            if isinstance(join, Join):
                alias, columns = self._alias()
                if alias is not None:       # (a JOIN b …) AS j is (SELECT * FROM a JOIN b …) AS j
                    star = Item(None, None, True, None, start, inside)
                    body = Select(start, inside, False, None, [star], [join], None, None, None)
                    return Derived(start, self._end_of_item(), self.slice(start, self.last_end),
                                   Query(start, inside, self.slice(start, inside), body),
                                   alias, columns, False)
            join.start, join.end = start, self._end_of_item()
            join.text = self.slice(start, join.end)
            return join
        only = self.accept("only")
        if self.token.is_word("rows") and self.at(self.index + 1).is_word("from") \
                and self.is_mark("(", self.index + 2):
            return self._rows_from(start)
        if self._is_function():
            return self._function(start)
        return self._relation(start, only)

    def _relation(self, start: int, only: bool) -> Relation:
        bracket = only and self.accept_mark("(")
        parts = self.relation_name()
        if bracket:
            self.expect_mark(")")
        elif not only and self.is_operator("*"):
            self.advance()
        alias, columns = self._alias()
        return Relation(start, self._end_of_item(), self.slice(start, self.last_end), parts,
                        alias or parts[-1], columns, only)

    def relation_name(self) -> tuple[str, ...]:
        """``schema.name`` of a table, view or CTE, which is noted."""
        if not is_column_name(self.token):
            raise self.unreadable()
        place = self.token.start
        parts = [self.name()]
        while self.accept_mark("."):
            parts.append(self.name())
        name = tuple(parts)
        self.relations.append((place, name))
        if not (len(name) == 1 and any(name[0] in scope for scope in self.scopes)):
            self.tables.append(name)
        return name

    def _is_function(self) -> bool:
        index = self.index
        if not self.at(index).is_name:
            return False
        if self.at(index).is_word("current_date", "current_time", "current_timestamp",
                                  "localtime", "localtimestamp", "current_user", "session_user",
                                  "current_role", "current_catalog", "current_schema", "user"):
            return True
        while self.is_mark(".", index + 1) and self.at(index + 2).is_name:
            index += 2
        return self.is_mark("(", index + 1)

    def _call_of_item(self) -> tuple[str, list[Expr]]:
        """(name, arguments) of the function that is a relation here."""
        token, index = self.token, self.index
        names = [token.value]
        while self.is_mark(".", index + 1) and self.at(index + 2).is_name:
            index += 2
            names.append(self.at(index).value)
        if len(names) == 1 and names[0] in _OWN_GRAMMAR:
            raise refuse(names[0].upper(), self.text, token.start)
        if names[0] == OWN_SCHEMA and len(names) == 2 \
                or len(names) == 1 and names[0] in MODEL_FUNCTIONS:
            raise refuse(f"{OWN_SCHEMA}.{names[-1]} as a relation", self.text, token.start)
        if not self.is_mark("(", index + 1):
            self.relations.append((token.start, (token.value,)))      # as sqlglot reads it
            return names[-1], [self.expression()]
        if token.is_word("cast", "treat"):
            return names[-1], [self.expression()]
        self.index = index + 1
        self.frames.append(Frame())
        found = self.arguments(names[0] if len(names) == 1 else "")
        self.frames.pop()
        return names[-1], found.expressions

    def _function(self, start: int) -> FunctionItem:
        name, arguments = self._call_of_item()
        return self._function_item(start, name, arguments, name)

    def _rows_from(self, start: int) -> FunctionItem:
        """``ROWS FROM (f(…) [AS (definitions)], …)``."""
        self.expect("rows", "from")
        self.expect_mark("(")
        first, arguments = self._call_of_item()
        self._definitions()
        while self.accept_mark(","):
            arguments += self._call_of_item()[1]
            self._definitions()
        self.expect_mark(")")
        return self._function_item(start, first, arguments, None)

    def _function_item(self, start: int, name: str, arguments: list[Expr],
                       function: str | None) -> FunctionItem:
        self.accept("with", "ordinality")
        columns = self._definitions()
        alias = None
        if columns is None:
            alias, columns = self._alias(definitions=True)
        return FunctionItem(start, self._end_of_item(), self.slice(start, self.last_end),
                            alias or name, columns, arguments, function)

    def _definitions(self) -> list[str] | None:
        """The names in ``AS (name type, …)``, if it stands here."""
        if not (self.token.is_word("as") and self.is_mark("(", self.index + 1)):
            return None
        self.advance()
        return self._column_list()

    def _alias(self, definitions: bool = False) -> tuple[str | None, list[str] | None]:
        """``[AS] name [(columns)]`` after a relation; with types after a function."""
        if self.accept("as"):
            alias = self.name()
        elif is_column_name(self.token):
            alias = self.advance().value
        else:
            return None, None
        if not self.is_mark("("):
            return alias, None
        return alias, self._column_list() if definitions else self.names()

    def _column_list(self) -> list[str]:
        """``(name [type [COLLATE c]], …)``"""
        self.expect_mark("(")
        found = []
        while True:
            found.append(self.name())
            if not self.is_mark(",") and not self.is_mark(")"):
                after = self.after_type(self.index)
                if after is None:
                    raise self.unreadable()
                self.index = after
                if self.accept("collate"):
                    self.name()
                    while self.accept_mark("."):
                        self.name()
            if not self.accept_mark(","):
                self.expect_mark(")")
                return found

    def _end_of_item(self) -> int:
        if self.token.is_word("tablesample"):
            raise refuse("TABLESAMPLE", self.text, self.token.start, None,
                         "Store the sample in a table, and ask about that.")
        return self.last_end
