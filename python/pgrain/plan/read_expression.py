"""Scalar expressions by PostgreSQL's grammar (``a_expr`` of gram.y): their pieces, their tree.

Precedence climbing over the operator table of PostgreSQL 9.5 and later (manual, "Operator
Precedence"; the %left and %nonassoc lines of gram.y). Which names are columns follows from the
grammar alone: not what is called, not types, labels, argument names or fields.
"""

from __future__ import annotations

from bisect import bisect_left

from pgrain.plan.keywords import RESERVED, is_column_name, is_function_name
from pgrain.plan.lexer import Token
from pgrain.plan.nodes import ColumnRef, Expr, Piece, Qualifier, Subquery
from pgrain.plan.read_call import CALLS, CallReader, Frame
from pgrain.plan.spine import Leaf, Node, Op, PieceLeaf

OR, AND, NOT, IS, COMPARISON, MATCH, OPERATOR, SUM, PRODUCT, POWER, AT, COLLATE, SIGN, CAST = \
    range(1, 15)
_LEVELS = {"<": COMPARISON, ">": COMPARISON, "=": COMPARISON, "<=": COMPARISON, ">=": COMPARISON,
           "<>": COMPARISON, "!=": COMPARISON, "+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT,
           "%": PRODUCT, "^": POWER}
_WORDS = {"or": OR, "and": AND, "is": IS, "isnull": IS, "notnull": IS, "between": MATCH,
          "in": MATCH, "like": MATCH, "ilike": MATCH, "collate": COLLATE}
_MATCH = ("between", "in", "like", "ilike", "similar")
_NONASSOCIATIVE = (IS, COMPARISON, MATCH)
_CONSTANTS = ("true", "false", "null")
# Called without brackets (func_expr_common_subexpr).
_NULLARY = ("current_catalog", "current_date", "current_role", "current_schema", "current_time",
            "current_timestamp", "current_user", "localtime", "localtimestamp", "session_user",
            "system_user", "user")
_FORMS = ("nfc", "nfd", "nfkc", "nfkd")


class ExpressionReader(CallReader):
    """Reads expressions from its place on; the readers of FROM and of queries build on it."""

    def expression(self, restricted: bool = False) -> Expr:
        """The longest expression from here; `restricted`: b_expr, without AND, NOT, IN, LIKE …"""
        first = self.index
        self.frames.append(Frame())
        tree = self.parse(0, restricted)
        return self._finish(self.tokens[first:self.index], self.frames.pop(), tree)

    def _finish(self, tokens: list[Token], frame: Frame, tree: Node) -> Expr:
        start, end = tokens[0].start, tokens[-1].end
        return Expr(self.slice(start, end), start, tuple(tokens), frame.pieces,
                    tuple(name for _, name in frame.functions), tree)

    def _operand(self, node: Node) -> Expr:
        """What has just been read, as an expression of its own; its pieces leave this one."""
        frame, inner = self.frames[-1], Frame()
        inner.pieces = [p for p in frame.pieces if p.start >= node.start]
        inner.functions = [f for f in frame.functions if f[0] >= node.start]
        del frame.pieces[len(frame.pieces) - len(inner.pieces):]
        first = bisect_left(self.tokens, node.start, key=lambda token: token.start)
        last = bisect_left(self.tokens, node.end, key=lambda token: token.start)
        return self._finish(self.tokens[first:last], inner, node)

    def piece(self, piece: Piece) -> PieceLeaf:
        self.frames[-1].pieces.append(piece)
        return PieceLeaf(piece.start, piece.end, piece)

    def leaf(self, start: int) -> Leaf:
        return Leaf(start, self.last_end, self.text[start:self.last_end])

    def op(self, name: str, args: list[Node | None], start: int) -> Op:
        return Op(start, self.last_end, name, args)

    def parse(self, minimum: int = 0, restricted: bool = False) -> Node:
        """Operators that bind at least as tightly as `minimum`, and their operands."""
        left, closed = self._prefix(restricted), None
        while True:
            level = self._level(restricted)
            if level is None or level < minimum:
                return left
            if level == closed:
                raise self.unreadable()
            left, closed = self._infix(left, level, restricted)

    def _level(self, restricted: bool) -> int | None:
        """How tightly the operator here binds; None if here is none."""
        token, following = self.token, self.at(self.index + 1)
        if token.kind == "operator":
            return _LEVELS.get(token.value, OPERATOR)
        if token.kind == "punctuation":
            return CAST if token.value == "::" else None
        if token.kind != "word":
            return None
        if token.value == "operator":
            return OPERATOR if self._operator_end() else None
        if token.value == "is" and restricted:
            words = [following, self.at(self.index + 2)]
            words = words[1:] if following.is_word("not") else words[:1]
            return IS if words[0].is_word("distinct", "document") else None
        if restricted:
            return None
        if token.value == "not":
            return MATCH if following.is_word(*_MATCH) else None
        if token.value == "at":
            return AT if following.is_word("time", "local") else None
        if token.value == "similar":
            return MATCH if following.is_word("to") else None
        return _WORDS.get(token.value)

    def _operator_end(self) -> int | None:
        """Index after ``OPERATOR(schema.+)`` if it stands here."""
        if not self.token.is_word("operator") or not self.is_mark("(", self.index + 1):
            return None
        close = self.closing[self.index + 1]
        return close + 1 if self.at(close - 1).kind == "operator" else None

    def _prefix(self, restricted: bool) -> Node:
        start = self.token.start
        if self.token.is_word("not") and not restricted:
            self.advance()
            return self.op("not", [self.parse(NOT)], start)
        if self.is_operator("-", "+"):
            sign = self.advance().value
            return self.op("neg" if sign == "-" else "pos", [self.parse(SIGN, restricted)], start)
        if self.token.kind == "operator" or self._operator_end():
            name = self._operator_name()
            return self.op(f"operator:{name}", [self.parse(OPERATOR + 1, restricted)], start)
        return self._primary()

    def _operator_name(self) -> str:
        end, start = self._operator_end(), self.token.start
        self.index = end or self.index + 1
        return self.text[start:self.last_end]

    def _of_postgresql(self, first: Token) -> str | None:
        """The operator of the ``OPERATOR(pg_catalog.…)`` from `first` to this place, if it is."""
        words = self.tokens[bisect_left(self.tokens, first.start, key=lambda t: t.start):self.index]
        if len(words) == 6 and first.is_word("operator") and words[2].value == "pg_catalog":
            return words[4].value
        return None

    def _infix(self, left: Node, level: int, restricted: bool) -> tuple[Node, int | None]:
        """`left` with the operator here, and the level that may not follow at once."""
        start, token = left.start, self.token
        if level in (OR, AND):
            args = [left]
            while self.accept(token.value):
                args.append(self.parse(level + 1))
            return self.op(token.value, args, start), None
        if level == IS:
            return self._is(left, restricted)
        if level == MATCH:
            return self._match(left)
        if level == CAST:
            self.advance()
            return self._cast(left, start), None
        if level == AT:
            self.advance()
            if self.accept("local"):
                return self.op("operator:at local", [left], start), None
            self.expect("time", "zone")
            return self.op("operator:at time zone", [left, self.parse(AT + 1)], start), None
        if level == COLLATE:
            self.advance()
            place = self.token.start
            self.name()
            while self.accept_mark("."):
                self.name()
            return self.op("collate", [left, self.leaf(place)], start), None
        name = self._operator_name()
        name = "<>" if name == "!=" else name
        if self.token.is_word("any", "some", "all") and not restricted:
            return self._quantified(left, name), None
        qualified = self._of_postgresql(token)
        right = self.parse(level + 1, restricted)
        made = self.op(name if name in _LEVELS else f"operator:{name}", [left, right], start)
        if qualified in _LEVELS:        # OPERATOR(pg_catalog.+) is +, only as tight as any other
            made.name, made.qualified = "<>" if qualified == "!=" else qualified, True
        return made, level if level in _NONASSOCIATIVE else None

    def _is(self, left: Node, restricted: bool) -> tuple[Node, int | None]:
        start, word = left.start, self.advance().value
        if word != "is":
            return self.op("is null" if word == "isnull" else "is not null", [left], start), None
        name = "is not" if self.accept("not") else "is"
        if self.accept("distinct", "from"):
            right = self.parse(IS + 1, restricted)
            return self.op(f"{name} distinct from", [left, right], start), IS
        if self.token.is_word(*_FORMS):
            name += f" {self.advance().value}"
        if not self.token.is_word("null", "true", "false", "unknown", "document", "normalized",
                                  "json"):
            raise self.unreadable()
        name += f" {self.advance().value}"
        if name.endswith("json"):
            while self.token.is_word("value", "array", "object", "scalar", "with", "without",
                                     "unique", "keys"):
                name += f" {self.advance().value}"
        return self.op(name, [left], start), None

    def _match(self, left: Node) -> tuple[Node, int | None]:
        start = left.start
        negated = "not " if self.accept("not") else ""
        word = self.advance().value
        if word == "between":
            if self.accept("symmetric"):
                word = "between symmetric"
            else:
                self.accept("asymmetric")
            low = self.parse(0, restricted=True)
            self.expect("and")
            return self.op(negated + word, [left, low, self.parse(MATCH + 1)], start), MATCH
        if word == "in":
            if self.opens_query():
                form, operator = ("all", "<>") if negated else ("any", "=")
                return self._subquery(form, left, operator), None
            self.expect_mark("(")
            args = [left, *self._list()]
            self.expect_mark(")")
            return self.op(f"{negated}in", args, start), None
        if word == "similar":
            self.expect("to")
            word = "similar to"
        elif self.token.is_word("any", "some", "all"):
            return self._quantified(left, negated + word), None
        args = [left, self.parse(MATCH + 1)]
        if self.accept("escape"):
            args.append(self.parse(MATCH + 1))
        return self.op(f"operator:{negated}{word}", args, start), MATCH

    def _quantified(self, left: Node, operator: str) -> Node:
        """``left operator ANY|SOME|ALL (…)``, from the quantifier on."""
        form = "all" if self.advance().value == "all" else "any"
        if self.opens_query():
            return self._subquery(form, left, operator)
        self.expect_mark("(")
        array = self.parse()
        self.expect_mark(")")
        return self.op(f"{form}:{operator}", [left, array], left.start)

    def _subquery(self, form: str, left: Node, operator: str) -> PieceLeaf:
        operand = self._operand(left)
        query = self.query_in_brackets()
        return self.piece(Subquery(left.start, self.last_end, form, query, operand, operator))

    def _cast(self, value: Node, start: int) -> Node:
        """The cast of `value` to the type that stands here."""
        place, after = self.token.start, self.after_type(self.index)
        if after is None:
            raise self.unreadable()
        self.index = after
        return self.op(f"cast:{self.text[place:self.last_end]}", [value], start)

    def _list(self) -> list[Node]:
        nodes = [self.parse()]
        while self.accept_mark(","):
            nodes.append(self.parse())
        return nodes

    def _primary(self) -> Node:
        token, following = self.token, self.at(self.index + 1)
        if token.kind == "number":
            if following.is_name and following.start == token.end:
                raise self.unreadable()      # 0x1F, 1_000: numbers of later versions
            self.advance()
            return self.leaf(token.start)
        if token.kind == "string":
            return self._string(token.start)
        if self.is_mark("("):
            return self._indirection(self._brackets())
        if not token.is_name:
            raise self.unreadable()
        if token.kind == "word":
            node = self._keyword(token, following)
            if node is not None:
                return node
        after = self.after_type(self.index, arrays=False)
        if after is not None and self.at(after).kind == "string":      # date '2026-01-01'
            self.index = after
            node = self._string(token.start)
            if token.is_word("interval"):
                self.index = self.after_fields(self.index)
                node = self.leaf(token.start)
            return node
        return self._named(token)

    def _keyword(self, token: Token, following: Token) -> Node | None:
        """An expression that begins with a key word; None if `token` is none here."""
        word, start = token.value, token.start
        bracket = following.kind == "punctuation" and following.value == "("
        if word in _CONSTANTS or word in _NULLARY and not (word == "current_schema" and bracket):
            self.advance()
            if bracket and word not in _CONSTANTS:
                self.index = self.closing[self.index] + 1
            return self.leaf(start)
        if word == "case":
            return self._case()
        if word == "array" and (bracket or self.is_mark("[", self.index + 1)):
            self.advance()
            if bracket:
                query = self.query_in_brackets()
                return self.piece(Subquery(start, self.last_end, "array", query))
            return self._array(start)
        if not bracket:
            return None
        if word == "exists":
            self.advance()
            query = self.query_in_brackets()
            return self.piece(Subquery(start, self.last_end, "exists", query))
        if word in ("cast", "treat"):
            self.index += 2
            value = self.parse()
            self.expect("as")
            node = self._cast(value, start)
            self.expect_mark(")")
            node.end = self.last_end
            node.name = node.name if word == "cast" else "special:treat"
            return node
        if word == "row":
            self.index += 2
            args = [] if self.is_mark(")") else self._list()
            self.expect_mark(")")
            return self._overlaps(self.op("row", args, start))
        return None

    def _string(self, start: int) -> Leaf:
        """A string from here, continued on the lines after it, as one constant."""
        self.advance()
        while self.token.kind == "string" and self.token.value[0] == "'" \
                and any(c in self.text[self.last_end:self.token.start] for c in "\n\r"):
            self.advance()
        if self.token.is_word("uescape") and self.at(self.index + 1).kind == "string":
            self.index += 2
        return self.leaf(start)

    def _brackets(self) -> Node:
        """A subquery, a row, or an expression in brackets, which its place includes."""
        start = self.token.start
        if self.opens_query():
            query = self.query_in_brackets()
            return self.piece(Subquery(start, self.last_end, "scalar", query))
        self.advance()
        nodes = self._list()
        self.expect_mark(")")
        if len(nodes) > 1:
            return self._overlaps(self.op("row", nodes, start))
        nodes[0].start, nodes[0].end = start, self.last_end
        return nodes[0]

    def _overlaps(self, row: Op) -> Op:
        if not self.accept("overlaps"):
            return row
        return self.op("operator:overlaps", [row, self._primary()], row.start)

    def _array(self, start: int) -> Op:
        """``[a, b]`` or ``[[a, b], [c, d]]`` after ARRAY."""
        self.expect_mark("[")
        args: list[Node] = []
        while not self.is_mark("]"):
            nested = self.is_mark("[")
            args.append(self._array(self.token.start) if nested else self.parse())
            if not self.accept_mark(","):
                break
        self.expect_mark("]")
        return self.op("array", args, start)

    def _case(self) -> Op:
        start = self.advance().start
        simple = not self.token.is_word("when")
        args: list[Node | None] = [self.parse()] if simple else []
        while self.accept("when"):
            args.append(self.parse())
            self.expect("then")
            args.append(self.parse())
        args.append(self.parse() if self.accept("else") else None)
        self.expect("end")
        return self.op("case_simple" if simple else "case", args, start)

    def _named(self, first: Token) -> Node:
        """A call or a column, by its name."""
        at = self.index
        names, index = [first], at + 1
        while self.is_mark(".", index) and self.at(index + 1).is_name:
            names.append(self.at(index + 1))
            index += 2
        if first.is_word("collation") and self.at(index).is_word("for"):
            self.index = index + 1
            return self.op("special:collation for", [self._primary()], first.start)
        if self.is_mark("(", index):
            if not (is_function_name(first) or first.kind == "word" and first.value in CALLS
                    or len(names) > 1 and first.value not in RESERVED):
                raise self.unreadable()
            self.index = index
            return self.call(names)
        if not is_column_name(first):
            raise self.unreadable()
        self.index = index
        parts = [token.value for token in names]
        if self.is_mark(".") and self.is_operator("*", index=self.index + 1):
            self.index += 2
            parts.append("*")
        return self._indirection(self.piece(ColumnRef(
            first.start, self.last_end, Qualifier.of(parts[:-1]), parts[-1])))

    def _indirection(self, node: Node) -> Node:
        """`node` with the subscripts and fields that follow."""
        while self.is_mark("[") or self.is_mark("."):
            start = node.start
            if self.accept_mark("."):
                field = "*" if self.is_operator("*") else None
                name = self.advance().value if field else self.name()
                node = self.op(f"field:{name}", [node], start)
                continue
            args, name = [node], "[]"
            while self.accept_mark("["):
                while not self.is_mark("]"):
                    if self.accept_mark(":"):
                        name = "slice"
                    else:
                        args.append(self.parse())
                self.expect_mark("]")
            node = self.op(name, args, start)
        return node
