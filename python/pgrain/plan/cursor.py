"""A place among the tokens of a text, and the small steps that every reader takes from there."""

from __future__ import annotations

from pgrain.errors import UnsupportedOperator
from pgrain.plan.keywords import AFTER_QUERY, QUERY, RESERVED
from pgrain.plan.lexer import Token, describe_place, tokenize

# An operator with one of these may end in + or - (manual, "Lexical Structure", operators).
_KEEPS_SIGN = frozenset("~!@#%^&|`?")
_ONE_WORD = ("int", "integer", "smallint", "bigint", "real", "float", "decimal", "dec", "numeric",
             "boolean", "varchar", "character", "char", "nchar", "bit", "time", "timestamp",
             "interval")
# Nodes keep their text: a chain of set operations of n bytes holds n² / 2. Bytes in all of a query.
_KEPT = 64 << 20
_FIELDS = ("year", "month", "day", "hour", "minute", "second")


def cut_signs(tokens: list[Token]) -> list[Token]:
    """Operators as PostgreSQL cuts them: ``a=-1`` is ``a``, ``=``, ``-``, ``1``."""
    cut: list[Token] = []
    for token in tokens:
        value = token.value
        if token.kind != "operator" or len(value) == 1 or _KEEPS_SIGN & set(value):
            cut.append(token)
            continue
        length = len(value)
        while length > 1 and value[length - 1] in "+-":
            length -= 1
        cut.append(Token("operator", value[:length], token.start, token.start + length,
                         token.depth))
        cut += [Token("operator", value[i], token.start + i, token.start + i + 1, token.depth)
                for i in range(length, len(value))]
    return cut


class Cursor:
    """The tokens of `text` and the index of the next one to read."""

    def __init__(self, text: str):
        self.text = text
        self.tokens = cut_signs(tokenize(text))
        self.index = 0
        self.kept = 0
        self.closing: dict[int, int] = {}     # index of an opening bracket -> of its closing one
        opened: list[int] = []
        for index, token in enumerate(self.tokens):
            if token.kind != "punctuation":
                continue
            if token.value in "([":
                opened.append(index)
            elif token.value in ")]":
                self.closing[opened.pop()] = index
        self._end = Token("end", "", len(text), len(text), 0)

    def at(self, index: int) -> Token:
        """The token at `index`; past the last one a token of kind "end"."""
        return self.tokens[index] if 0 <= index < len(self.tokens) else self._end

    @property
    def token(self) -> Token:
        return self.at(self.index)

    @property
    def last_end(self) -> int:
        """Where the token before this place ends, in characters."""
        return self.tokens[self.index - 1].end

    def advance(self) -> Token:
        token = self.token
        self.index += 1
        return token

    def slice(self, start: int, end: int) -> str:
        """``text[start:end]`` for a node that others may enclose."""
        self.kept += end - start
        if self.kept > _KEPT:
            raise UnsupportedOperator("the query is nested too deeply",
                                      detail=describe_place(self.text, start))
        return self.text[start:end]

    def is_mark(self, value: str, index: int | None = None) -> bool:
        token = self.token if index is None else self.at(index)
        return token.kind == "punctuation" and token.value == value

    def is_operator(self, *values: str, index: int | None = None) -> bool:
        token = self.token if index is None else self.at(index)
        return token.kind == "operator" and token.value in values

    def accept(self, *words: str) -> bool:
        """Step over these words, all of them in this order, or over none."""
        if all(self.at(self.index + i).is_word(word) for i, word in enumerate(words)):
            self.index += len(words)
            return True
        return False

    def accept_mark(self, value: str) -> bool:
        if self.is_mark(value):
            self.index += 1
            return True
        return False

    def expect(self, *words: str) -> None:
        if not self.accept(*words):
            raise self.unreadable()

    def expect_mark(self, value: str) -> None:
        if not self.accept_mark(value):
            raise self.unreadable()

    def name(self) -> str:
        """A name of any kind (a label: key words too)."""
        if not self.token.is_name:
            raise self.unreadable()
        return self.advance().value

    def unreadable(self, index: int | None = None) -> UnsupportedOperator:
        """The error for what cannot be read at this place."""
        token = self.token if index is None else self.at(index)
        if token.kind == "end":
            return UnsupportedOperator("the query has syntax that cannot be analysed",
                                       detail="It ends too early.")
        return UnsupportedOperator("the query has syntax that cannot be analysed",
                                   detail=describe_place(self.text, token.start))

    def opens_query(self, index: int | None = None) -> bool:
        """Whether the bracket at `index` holds a query, which may have more brackets of its own."""
        index = self.index if index is None else index
        if not self.is_mark("(", index):
            return False
        first = self.at(index + 1)
        if first.is_word(*QUERY):
            return not first.is_word("values") or self.is_mark("(", index + 2)
        if not self.opens_query(index + 1):
            return False
        after = self.closing[index + 1] + 1
        return self.is_mark(")", after) or self.at(after).is_word(*AFTER_QUERY)

    def after_type(self, index: int, arrays: bool = True) -> int | None:
        """The index after the name of a type that begins at `index`; None if none does."""
        token = self.at(index)
        if not token.is_name or token.is_word(*RESERVED):
            return None
        words = [self.at(index + i).value if self.at(index + i).kind == "word" else ""
                 for i in range(3)]
        kind, index = words[0], index + 1
        if kind == "setof":
            return self.after_type(index, arrays)
        if kind == "double" and words[1] == "precision":
            index += 1
        elif kind == "national" and words[1] in ("character", "char"):
            index += 2 if words[2] == "varying" else 1
        elif kind in ("character", "char", "nchar", "bit") and words[1] == "varying":
            index += 1
        elif kind not in _ONE_WORD:
            while self.is_mark(".", index) and self.at(index + 1).is_name:
                index += 2
        if self.is_mark("(", index):
            index = self.closing[index] + 1
        if kind in ("time", "timestamp") and self.at(index).is_word("with", "without") \
                and self.at(index + 1).is_word("time") and self.at(index + 2).is_word("zone"):
            index += 3
        if kind == "interval":
            index = self.after_fields(index)
        if arrays:
            if self.at(index).is_word("array"):
                index += 1
            while self.is_mark("[", index):
                index = self.closing[index] + 1
        return index

    def after_fields(self, index: int) -> int:
        """The index after an interval's fields (``day to second(3)``), if they begin at `index`."""
        for _ in range(2):
            if not self.at(index).is_word(*_FIELDS):
                return index
            index += 1
            if self.is_mark("(", index):
                index = self.closing[index] + 1
            if not self.at(index).is_word("to"):
                return index
            index += 1
        return index
