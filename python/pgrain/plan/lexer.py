"""PostgreSQL's lexical rules: the query's text as tokens that know their place.

The capture is built from slices of the query's own text, so the cut must be where PostgreSQL itself
would cut; this follows the rules of the manual's chapter "Lexical Structure" with
``standard_conforming_strings`` on. Structure inside an expression is sqlglot's business
(`dialect.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pgrain.errors import ComplaintSyntax

_TOKEN = re.compile(
    r"""(?P<space>[\ \t\n\r\f\v]+|--[^\n\r]*)
      |(?P<comment>/\*)
      |(?P<string>[eE]'(?:[^'\\]|\\.|'')*'|[uU]&'(?:[^']|'')*'|[bBxXnN]?'(?:[^']|'')*')
      |(?P<quoted>(?:[uU]&)?"(?:[^"]|"")*")
      |(?P<dollar>\$(?:[A-Za-z_\u0080-\U0010ffff][A-Za-z_0-9\u0080-\U0010ffff]*)?\$)
      |(?P<parameter>\$[0-9]+)
      |(?P<word>[A-Za-z_\u0080-\U0010ffff][A-Za-z_0-9$\u0080-\U0010ffff]*)
      |(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      |(?P<punctuation>::|:=|=>|\.\.|[()\[\],;:.])
      |(?P<operator>(?:(?!--|/\*)[-+*/<>=~!@\#%^&|`?])+)""",
    re.VERBOSE | re.DOTALL)
_OPENERS, _CLOSERS = ("(", "["), (")", "]")


@dataclass(frozen=True, slots=True)
class Token:
    """A lexical element: `kind`, its `value` (words folded to lower case), where it stands."""

    kind: str          # word, quoted, string, number, parameter, punctuation, operator
    value: str         # word: lower case; quoted: without quotes; string: as written; else text
    start: int
    end: int
    depth: int         # brackets around it

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these words, not in quotes."""
        return self.kind == "word" and self.value in words

    @property
    def is_name(self) -> bool:
        return self.kind in ("word", "quoted")


def fold(name: str) -> str:
    """An unquoted name as PostgreSQL folds it (ASCII letters only)."""
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in name)


def tokenize(text: str) -> list[Token]:
    """The tokens of `text`, comments and white space left out; 42601 where it cannot be read."""
    tokens: list[Token] = []
    position, depth = 0, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ComplaintSyntax(f'cannot read "{text[position:position + 20]}"',
                                  detail=describe_place(text, position))
        kind, start, position = match.lastgroup, position, match.end()
        if kind == "space":
            continue
        if kind == "comment":
            position = _end_of_comment(text, start)
            continue
        value = match.group()
        if kind == "dollar":
            close = text.find(value, position)
            if close < 0:
                raise ComplaintSyntax("a dollar-quoted string does not end",
                                      detail=describe_place(text, start))
            position = close + len(value)
            kind, value = "string", text[start:position]
        elif kind == "word":
            value = fold(value)
        elif kind == "quoted":
            if value[0] != '"':
                raise ComplaintSyntax("names with Unicode escapes (U&) cannot be read",
                                      detail=describe_place(text, start),
                                      hint="Write the characters themselves.")
            value = value[1:-1].replace('""', '"')
        if value in _CLOSERS and kind == "punctuation":
            depth -= 1
        tokens.append(Token(kind, value, start, position, depth))
        if value in _OPENERS and kind == "punctuation":
            depth += 1
        if depth < 0:
            raise ComplaintSyntax("a closing bracket has no opening one",
                                  detail=describe_place(text, start))
    if depth:
        raise ComplaintSyntax("a bracket is not closed")
    return tokens


def string_value(token: Token) -> str | None:
    """What a plain or dollar-quoted string literal says; None for other kinds of string."""
    text = token.value
    if token.kind != "string":
        return None
    if text[0] == "'":
        return text[1:-1].replace("''", "'")
    if text[0] == "$":
        mark = text.index("$", 1) + 1
        return text[mark:-mark]
    if text[0] in "eE" and "\\" not in text:
        return text[2:-1].replace("''", "'")
    return None


def closing(tokens: Sequence[Token], opening: int) -> int:
    """Index of the bracket that closes the one at index `opening`."""
    depth = tokens[opening].depth
    for index in range(opening + 1, len(tokens)):
        if tokens[index].depth == depth:
            return index
    raise ComplaintSyntax("a bracket is not closed")


def unbracketed(tokens: Sequence[Token]) -> Sequence[Token]:
    """`tokens` without the brackets around all of them, which PostgreSQL's grammar drops: (1) in
    ORDER BY is an ordinal, (a) a name."""
    while len(tokens) > 2 and tokens[0].kind == "punctuation" and tokens[0].value == "(" \
            and closing(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return tokens


def split(tokens: list[Token], separator: str = ",") -> list[list[Token]]:
    """`tokens` cut at the separators that no bracket encloses."""
    if not tokens:
        return []
    depth, parts = tokens[0].depth, [[]]
    for token in tokens:
        if token.kind == "punctuation" and token.value == separator and token.depth == depth:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


@dataclass(frozen=True)
class Insertion:
    """The definition of a view in a text, in the place of its name.

    start, end: the place of the name before; made: what stands there now, with `definition` from
    its character `offset` on. Without a `view`: another spelling of what was there.
    """

    start: int
    end: int
    made: str
    offset: int = 0
    view: str = ""
    definition: str = ""


class ExpandedText(str):
    """A text into which views were put; it knows the text before, for the places of errors."""

    before: str
    insertions: list[Insertion]

    @classmethod
    def of(cls, before: str, insertions: list[Insertion]) -> ExpandedText:
        """`before` with all `insertions` made."""
        parts, at = [], 0
        for one in sorted(insertions, key=lambda i: i.start):
            parts += [before[at:one.start], one.made]
            at = one.end
        text = cls("".join([*parts, before[at:]]))
        text.before, text.insertions = before, sorted(insertions, key=lambda i: i.start)
        return text

    def describe(self, position: int, end: int | None) -> str:
        """As `describe_place`, of the view or the text in which the place was written."""
        shift, length = 0, None if end is None else end - position
        for one in self.insertions:
            if position < one.start + shift:
                break
            inside = position - one.start - shift
            if inside < len(one.made) and not one.view:
                return describe_place(self.before, one.start)
            if inside < len(one.made):
                at = min(max(inside - one.offset, 0), len(one.definition))
                found = describe_place(one.definition, at, length and at + length)
                return f"View {one.view}, " + found.replace(
                    "Line", "line", 1).replace(":", " of its definition:", 1)
            shift += len(one.made) - (one.end - one.start)
        at = position - shift
        return describe_place(self.before, at, length and at + length)


def describe_place(text: str, position: int, end: int | None = None) -> str:
    """`Line 2, column 7: "..."`, for the DETAIL of an error."""
    if isinstance(text, ExpandedText):
        return text.describe(position, end)
    line = text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1) + 1
    snippet = " ".join(text[position:end if end is not None else position + 60].split())
    if len(snippet) > 80:
        snippet = snippet[:77] + "..."
    return f'Line {line}, column {column}: "{snippet}".'


def _end_of_comment(text: str, start: int) -> int:
    depth, position = 1, start + 2
    while depth:
        match = re.compile(r"/\*|\*/").search(text, position)
        if match is None:
            raise ComplaintSyntax("a comment does not end", detail=describe_place(text, start))
        depth += 1 if match.group() == "/*" else -1
        position = match.end()
    return position
