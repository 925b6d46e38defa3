"""Texts that a query compares predictions with and that are no class of the model: misspelt, most
likely, and PostgreSQL would find the comparison false without a word."""

from __future__ import annotations

from collections.abc import Iterator

from pgrain.errors import class_list, nearest
from pgrain.plan.expression import MODEL_FUNCTIONS, OWN_SCHEMA
from pgrain.plan.lexer import Token, closing, split, string_value, tokenize

_COMPARED = ("=", "<>", "!=")


def misspelt(query: str, classes: dict[str, list[str]]) -> list[str]:
    """What to tell about ``predict('model', x) = 'text'``, ``'text' = predict(…)`` and
    ``predict(…) IN ('text', …)`` where the model (name -> its classes) has no such class. Only what
    stands in the query itself is looked at, not the bodies of views."""
    notes = []
    for model, text in _compared(tokenize(query)):
        known = classes.get(model)
        if known is not None and text not in known:
            close = nearest(text, known)
            note = (f'model "{model}" has no class "{text}"; '
                    + (f'did you mean "{close}"? ' if close else "")
                    + f"its classes: {class_list(known)}")
            if note not in notes:
                notes.append(note)
    return notes


def _compared(tokens: list[Token]) -> Iterator[tuple[str, str]]:
    """(model, text) of each comparison of a call with a string."""
    for index, token in enumerate(tokens):
        if not (token.is_name and token.value == MODEL_FUNCTIONS[0]
                and _is(tokens, index + 1, "(")):
            continue
        first, close = index, closing(tokens, index + 1)
        if _is(tokens, index - 1, "."):
            first = index - 2
            if first < 0 or tokens[first].value != OWN_SCHEMA:
                continue
        model = string_value(tokens[index + 2])
        if model is None:
            continue
        at = close + 1
        if _is(tokens, at, "::"):       # ::text
            at += 2
        if _is(tokens, at, *_COMPARED):
            found = [tokens[at + 1:at + 2]] if not _goes_on(tokens, at + 2) else []
        elif _word(tokens, at, "in") or _word(tokens, at, "not") and _word(tokens, at + 1, "in"):
            opening = at + 1 + _word(tokens, at, "not")
            if not _is(tokens, opening, "("):
                continue
            found = split(tokens[opening + 1:closing(tokens, opening)])
        elif _is(tokens, first - 1, *_COMPARED):
            found = [tokens[max(first - 2, 0):first - 1]] if not _goes_on(tokens, first - 3) else []
        else:
            continue
        for part in found:
            text = string_value(part[0]) if len(part) == 1 else None
            if text is not None:
                yield model, text


def _is(tokens: list[Token], at: int, *values: str) -> bool:
    return (0 <= at < len(tokens) and tokens[at].kind in ("punctuation", "operator")
            and tokens[at].value in values)


def _goes_on(tokens: list[Token], at: int) -> bool:
    """Whether a string is but a part of what is compared."""
    return 0 <= at < len(tokens) and (tokens[at].kind == "operator" or _is(tokens, at, "::"))


def _word(tokens: list[Token], at: int, word: str) -> bool:
    return at < len(tokens) and tokens[at].is_word(word)
