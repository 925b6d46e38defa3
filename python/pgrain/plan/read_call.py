"""Calls inside expressions: models, aggregates, window functions, and all other functions."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgrain.plan.cursor import Cursor
from pgrain.plan.expression import (
    MODEL_FUNCTIONS,
    OWN_SCHEMA,
    mentions_model,
    model_arguments,
    refuse,
)
from pgrain.plan.lexer import Token
from pgrain.plan.nodes import AggregateCall, Expr, ModelCall, OrderItem, Piece, WindowCall
from pgrain.plan.spine import Node

# Functions whose name is a key word. The words are what may stand between their arguments.
CALLS: dict[str, tuple[str, ...]] = {
    "coalesce": (), "nullif": (), "greatest": (), "least": (), "grouping": (), "xmlconcat": (),
    "extract": ("from",), "overlay": ("placing", "from", "for"), "position": ("in",),
    "substring": ("from", "for", "similar", "escape"), "trim": ("from",), "normalize": (),
    "json_object": (), "json_array": (), "json_scalar": (), "json_serialize": (),
    "json_value": (), "json_query": (), "json_exists": (), "merge_action": ()}
_READ_MODELS = ("predict", "predict_proba")
_ARITHMETIC = {name: name for name in (
    "coalesce", "nullif", "greatest", "least", "round", "floor", "ceil", "trunc", "abs", "sqrt",
    "exp", "ln", "power")} | {"ceiling": "ceil", "pow": "power"}


@dataclass
class Frame:
    """What has been found so far in one expression; functions with their place."""

    pieces: list[Piece] = field(default_factory=list)
    functions: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class Arguments:
    """What stands between the brackets of a call; `plain`: expressions and commas alone."""

    expressions: list[Expr] = field(default_factory=list)
    order: list[OrderItem] = field(default_factory=list)
    star: bool = False
    distinct: bool = False
    plain: bool = True


class CallReader(Cursor):
    """Reads calls; what it needs of expressions and queries its subclasses have."""

    def __init__(self, text: str, aggregates: frozenset[str]):
        super().__init__(text)
        self.aggregates = aggregates
        self.frames: list[Frame] = []
        self.calls: list[ModelCall] = []
        self.named_windows: list[WindowCall] = []     # OVER w
        self._in_model = False

    def call(self, names: list[Token]) -> Node:
        """The call whose (qualified) name is `names`, from its bracket on."""
        start, name = names[0].start, names[-1].value
        self.frames[-1].functions.append((start, name))
        if names[0].value == OWN_SCHEMA and len(names) == 2 \
                or len(names) == 1 and name in MODEL_FUNCTIONS:
            return self.piece(self._model_call(names))
        qualified = names[0].value == "pg_catalog" and len(names) == 2
        known = len(names) == 1 or qualified
        first = self.index
        arguments = self.arguments(name if len(names) == 1 and names[0].kind == "word" else "")
        aggregate = arguments.star or arguments.distinct or bool(arguments.order) or (
            name in self.aggregates if known
            else ".".join(token.value for token in names[-2:]) in self.aggregates)
        if self.accept("within", "group"):
            self.expect_mark("(")
            arguments.order += self.order_by()
            self.expect_mark(")")
            aggregate = True
        where = None
        if self.token.is_word("filter") and self.is_mark("(", self.index + 1):
            self.index += 2
            self.expect("where")
            where = self.expression()
            self.expect_mark(")")
            aggregate = True
        parts = [*arguments.expressions, *(item.expression for item in arguments.order)]
        if self.accept("over"):
            window = WindowCall(start, 0, False, parts + ([where] if where else []))
            self._over(window)
            window.end = self.last_end
            window.model = window.model or mentions_model(self.tokens[first:self.index])
            self._absorb(window.parts, pieces=False)
            return self.piece(window)
        if aggregate:
            self._absorb(parts + ([where] if where else []), pieces=False)
            function = name if known else ".".join(token.value for token in names)
            return self.piece(AggregateCall(
                start, self.last_end, function, arguments.expressions, arguments.distinct, where,
                bool(arguments.order), [item.expression for item in arguments.order], qualified))
        self._absorb(parts, pieces=True)
        if known and name in _ARITHMETIC and arguments.plain:
            label = _ARITHMETIC[name]
        else:
            label = ("function:" if arguments.plain else "special:") + ".".join(map(_sql, names))
        made = self.op(label, [part.tree for part in parts], start)
        made.qualified = qualified
        return made

    def _absorb(self, parts: list[Expr], pieces: bool) -> None:
        """What was found in the parts of a call belongs to the expression around it too."""
        frame = self.frames[-1]
        for part in parts:
            if pieces:
                frame.pieces += part.pieces
            frame.functions += [(part.start, name) for name in part.functions]

    def arguments(self, word: str) -> Arguments:
        """The brackets after a function's name; `word`: the name, if it can be a key word."""
        found, between = Arguments(), CALLS.get(word, ())
        self.expect_mark("(")
        if self.is_operator("*") and self.is_mark(")", self.index + 1):
            found.star = True
            self.index += 2
            return found
        if self.accept("distinct"):
            found.distinct = True
        else:
            self.accept("all")
        if word == "extract" and self.at(self.index + 1).is_word("from"):
            self.index += 2
            found.plain = False
        elif word == "trim" and self.token.is_word("both", "leading", "trailing", "from"):
            found.plain = False
            self.accept("both") or self.accept("leading") or self.accept("trailing")
            self.accept("from")
        while not self.is_mark(")"):
            if self.accept("variadic"):
                found.plain = False
            if self.token.is_name and (self.is_mark("=>", self.index + 1)
                                       or self.is_mark(":=", self.index + 1)):
                self.index += 2
                found.plain = False
            if word == "normalize" and found.expressions:
                self.name()
                found.plain = False
                break
            found.expressions.append(self.expression(restricted=word == "position"))
            if self.accept_mark(","):
                continue
            if not self.token.is_word(*between):
                break
            self.advance()
            found.plain = False
        if self.token.is_word("order"):
            found.order = self.order_by()
        self.expect_mark(")")
        return found

    def order_by(self) -> list[OrderItem]:
        """``ORDER BY …`` from here."""
        self.expect("order", "by")
        items = []
        while True:
            expression = self.expression()
            if not (self.accept("asc") or self.accept("desc")) and self.accept("using"):
                if self.token.is_word("operator"):
                    self.index = self.closing[self.index + 1]
                self.advance()
            if self.accept("nulls") and not self.accept("first"):
                self.expect("last")
            items.append(OrderItem(expression, self.text[expression.end:self.last_end]))
            if not self.accept_mark(","):
                return items

    def _over(self, window: WindowCall) -> None:
        """``w`` or ``(…)`` after OVER."""
        if self.is_mark("("):
            self.window_definition(window)
        else:
            self.name()
            self.named_windows.append(window)

    def window_definition(self, window: WindowCall) -> None:
        """``([base] [PARTITION BY …] [ORDER BY …] [frame])``; its expressions join the parts."""
        close = self.closing[self.index]
        self.expect_mark("(")
        if self.token.is_name and not self.token.is_word("partition", "order", "rows", "range",
                                                         "groups"):
            self.advance()
            self.named_windows.append(window)
        if self.accept("partition", "by"):
            window.parts.append(self.expression())
            while self.accept_mark(","):
                window.parts.append(self.expression())
        if self.token.is_word("order"):
            window.parts += [item.expression for item in self.order_by()]
        if self.token.is_word("rows", "range", "groups"):
            self.index = close           # the frame names no columns of this level
        self.expect_mark(")")

    def _model_call(self, names: list[Token]) -> ModelCall:
        """``(model, argument)`` after the name of a model function; 0A000 for any other form."""
        function, opening = names[-1].value, self.index
        close = self.closing[opening]
        start, end = names[0].start, self.tokens[close].end
        if function not in _READ_MODELS:
            raise refuse(f"{OWN_SCHEMA}.{function}", self.text, start, end)
        if self._in_model:
            raise refuse("a model call inside a model call", self.text, start, end)
        model, value = model_arguments(self.tokens[opening:close + 1], self.text, start, end)
        self.index = next(i for i in range(opening, close) if self.tokens[i] is value[0])
        self._in_model = True
        argument = self.expression()
        self._in_model = False
        if self.last_end != value[-1].end:
            raise refuse("a model call without exactly two arguments", self.text, start, end,
                         "Write predict('model', value).")
        self.index = close
        self.expect_mark(")")
        self._absorb([argument], pieces=False)
        found = ModelCall(start, end, function, model, argument, len(names) == 1)
        self.calls.append(found)
        return found


def _sql(token: Token) -> str:
    """A name as it may be written again."""
    return token.value if token.kind == "word" else '"' + token.value.replace('"', '""') + '"'
