"""The complaint grammar.

``<column> <= | < | >= | > | = <number or 'text'>``, ``<column> too high``, ``<column> too low``,
``no row``, ``a row``; each with an optional ``WHERE <condition on output columns>``, which
PostgreSQL evaluates. Column names fold like SQL names; in double quotes they keep their case.

>>> parse("flagged <= 50 WHERE hour = 13")
Complaint(column='flagged', operator='<=', target=50.0, where='hour = 13', ...)
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass

from sqlglot import exp

from pgrain.errors import ComplaintSyntax, PgrainError
from pgrain.plan.dialect import parse_expression
from pgrain.plan.expression import MODEL_FUNCTIONS, OWN_SCHEMA
from pgrain.plan.lexer import Token, string_value, tokenize
from pgrain.provenance.annotate import quote

OPERATORS = ("<=", "<", ">=", ">", "=")
_ALLOWED = ("Write <column> <=, <, >=, > or = <number or 'text'>, <column> too high, "
            "<column> too low, no row, or a row, each with an optional WHERE <condition on output "
            "columns>.")


@dataclass(frozen=True)
class Complaint:
    """One complaint.

    Attributes
    ----------
    column : str or None
        Output column, folded as SQL does; None for ``no row`` and ``a row``.
    operator : str
        One of ``<= < >= > =``, ``too high``, ``too low``, ``no row``, ``a row``.
    target : float, str or None
        A number, a text, or None where the operator has no target.
    where : str or None
        The condition, verbatim.
    text : str
        What the user wrote.
    """

    column: str | None
    operator: str
    target: float | str | None
    where: str | None
    text: str


def written(column: str) -> str:
    """A column's name as a complaint spells it: quoted only where it would fold."""
    return column if re.fullmatch(r"[a-z_][a-z0-9_]*", column) else quote(column)


@functools.lru_cache(maxsize=256)
def parse(text: str) -> Complaint:
    """The complaint that `text` spells; 42601 with what is allowed."""
    try:
        tokens = tokenize(text)
    except ComplaintSyntax as error:
        raise _unreadable(text, error.message) from None
    for token in tokens:
        if token.value == ";" and token.kind == "punctuation" or token.kind == "parameter":
            raise _unreadable(text, f'"{token.value}" does not belong into a complaint')
    place = next((i for i, t in enumerate(tokens) if t.depth == 0 and t.is_word("where")), None)
    head = tokens if place is None else tokens[:place]
    where = None
    if place is not None:
        where = _condition(text, tokens[place + 1:])
    words = [t.value if t.kind == "word" else None for t in head]
    if words in (["no", "row"], ["a", "row"]):
        return Complaint(None, " ".join(words), None, where, text)
    if not head:
        raise _unreadable(text, "it is empty" if not tokens else "it names no column")
    if not head[0].is_name:
        raise _unreadable(text, f'"{_written(text, head[:1])}" is not a column')
    column, rest, words = head[0].value, head[1:], words[1:]
    if words in (["too", "high"], ["too", "low"]):
        return Complaint(column, " ".join(words), None, where, text)
    if not rest:
        raise _unreadable(text, f'nothing is said about "{column}"')
    if rest[0].kind != "operator":
        raise _unreadable(text, f'"{_written(text, rest)}" cannot be read')
    operator = next((o for o in OPERATORS if rest[0].value.startswith(o)
                     and rest[0].value[len(o):] in ("", "-", "+")), None)
    if operator is None:
        raise _unreadable(text, f'"{rest[0].value}" is not one of {", ".join(OPERATORS)}')
    sign = rest[0].value[len(operator):]
    return Complaint(column, operator, _target(text, sign, rest[1:]), where, text)


def _target(text: str, sign: str, tokens: list[Token]) -> float | str:
    if not sign and len(tokens) == 1 and tokens[0].kind == "string":
        value = string_value(tokens[0])
        if value is None:
            raise _unreadable(text, "the text has escapes", "Write it in plain quotes.")
        return value
    if not sign and len(tokens) == 1 and tokens[0].is_word("true", "false"):
        return tokens[0].value          # as a boolean column shows it
    if not sign and tokens and tokens[0].kind == "operator" and tokens[0].value in ("-", "+"):
        sign, tokens = tokens[0].value, tokens[1:]
    if len(tokens) == 1 and tokens[0].kind == "number":
        number = float(tokens[0].value)
        if not math.isfinite(number):
            raise _unreadable(text, "the number is too large")
        return -number if sign == "-" else number
    if not tokens:
        raise _unreadable(text, "the target is missing")
    raise _unreadable(text, f'"{_written(text, tokens)}" is neither a number nor a text in quotes')


def _condition(text: str, tokens: list[Token]) -> str:
    if not tokens:
        raise _unreadable(text, "the condition after WHERE is empty")
    where = _written(text, tokens)
    for token, following in zip(tokens, tokens[1:], strict=False):
        if token.is_name and token.value in (*MODEL_FUNCTIONS, OWN_SCHEMA) \
                and following.value in ("(", "."):
            raise _unreadable(text, "the condition calls a model")
    try:
        tree = parse_expression(f"({where}\n)")
    except PgrainError:
        raise _unreadable(text, f'"{where}" is not one condition') from None
    if not isinstance(tree, exp.Paren) or tree.find(exp.Query) is not None:
        raise _unreadable(text, "the condition has a subquery or is not one condition")
    return where


def _written(text: str, tokens: list[Token]) -> str:
    return text[tokens[0].start:tokens[-1].end]


def _unreadable(text: str, reason: str, hint: str = _ALLOWED) -> ComplaintSyntax:
    if text.lstrip().startswith(("{", "[")):
        hint = ("Several complaints are an array: ARRAY['a <= 1', 'b <= 2'], or "
                "'{a <= 1, b <= 2}'::text[]. A list that a client sends as a parameter needs that "
                "cast, too: %s::text[], $2::text[].")
    elif re.search(r"\band\b|,", re.split(r"\bwhere\b", text, maxsplit=1, flags=re.I)[0], re.I):
        hint += " Several complaints are an array: ARRAY['a <= 1', 'b <= 2']."
    return ComplaintSyntax(f'cannot read the complaint "{text}"',
                           detail=reason[0].upper() + reason[1:] + ".", hint=hint)
