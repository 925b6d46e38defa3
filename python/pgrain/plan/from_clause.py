"""FROM as a list of units and the conditions of the inner joins between them.

A unit is what stays together in the text: a table, a subquery, a function, or several relations
bound by outer joins, USING or NATURAL. Inner joins are taken apart, so that a condition that calls
the model can be evaluated on predictions instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgrain.plan.expression import mentions_model, read_expression, refuse
from pgrain.plan.lexer import Token, closing, split

_MODIFIERS = ("inner", "left", "right", "full", "outer", "cross", "natural")


@dataclass(frozen=True)
class Unit:
    """Relations that are kept together, verbatim."""

    text: str
    start: int
    aliases: tuple[str, ...]
    lateral: bool            # may refer to units before it
    merged: bool             # has columns merged by USING or NATURAL


@dataclass
class From:
    """The units in the order of the text, and the ON conditions between them."""

    units: list[Unit]
    conditions: list         # Expression


def read_from(query: str, tokens: list[Token]) -> From:
    """FROM's `tokens` (without the keyword) taken apart; 0A000 for what keeps a model call."""
    result = From([], [])
    for item in split(tokens):
        _join_tree(query, item, result)
    return result


def _join_tree(query: str, tokens: list[Token], result: From) -> None:
    depth = tokens[0].depth
    joins = [i for i, t in enumerate(tokens) if t.depth == depth and t.is_word("join")]
    if not joins:
        _primary(query, tokens, result)
        return
    units, conditions = From([], []), []
    starts = []
    for j in joins:
        first = j
        while first and tokens[first - 1].is_word(*_MODIFIERS):
            first -= 1
        starts.append(first)
    _primary(query, tokens[:starts[0]], units)
    for number, (first, j) in enumerate(zip(starts, joins, strict=True)):
        end = starts[number + 1] if number + 1 < len(starts) else len(tokens)
        words = {t.value for t in tokens[first:j]}
        right = tokens[j + 1:end]
        on = [i for i, t in enumerate(right) if t.depth == depth and t.is_word("on")]
        using = [i for i, t in enumerate(right) if t.depth == depth and t.is_word("using")]
        plain = words <= {"inner"} and len(on) == 1 and not using
        if plain or words == {"cross"} and not on and not using:
            _primary(query, right[:on[0]] if plain else right, units)
            if plain:
                conditions.append(right[on[0] + 1:])
            continue
        whole = tokens[:end]
        if using and right[closing(right, using[0] + 1) + 1:]:
            raise refuse("an alias of JOIN USING", query, right[using[0]].start)
        if mentions_model(whole):
            kind = " ".join(t.value for t in tokens[first:j + 1]) + (" using" if using else "")
            place = next(i for i in range(len(whole)) if mentions_model(whole[i:i + 4]))
            raise refuse(f"a model call under {kind}", query, whole[place].start, None,
                         "Join with ON, and without OUTER, or filter in WHERE.")
        inside = From([], [])
        for part in (whole[:starts[0]], *(tokens[a + 1:b] for a, b in zip(
                joins[:number + 1], starts[1:number + 1] + [end], strict=True))):
            cut = [i for i, t in enumerate(part) if t.depth == depth and t.is_word("on", "using")]
            _primary(query, part[:cut[0]] if cut else part, inside)
        units = From([Unit(
            _slice(query, whole), whole[0].start,
            tuple(alias for unit in inside.units for alias in unit.aliases),
            any(unit.lateral for unit in inside.units),
            bool(using) or "natural" in words or any(unit.merged for unit in inside.units))], [])
        conditions = []
    result.units += units.units
    result.conditions += units.conditions
    for condition in conditions:
        result.conditions += conjuncts(query, condition)


def _primary(query: str, tokens: list[Token], result: From) -> None:
    """One table, subquery, function or bracketed join."""
    if not tokens:
        raise refuse("a join that is not written in pairs", query, 0)
    text, start = _slice(query, tokens), tokens[0].start
    index, lateral = 0, tokens[0].is_word("lateral")
    index += lateral
    index += tokens[index].is_word("only")
    if tokens[index].value == "(" and tokens[index].kind == "punctuation":
        close = closing(tokens, index)
        if close == len(tokens) - 1 and not tokens[index + 1].is_word("select", "with", "values"):
            for item in split(tokens[index + 1:close]):
                _join_tree(query, item, result)
            return
        names, index = ["_pgrain_unnamed"], close + 1
    elif tokens[index].is_word("rows") and index + 1 < len(tokens) \
            and tokens[index + 1].is_word("from"):
        names, index = ["_pgrain_unnamed"], closing(tokens, index + 2) + 1
        lateral = True
    else:
        names = [tokens[index].value]
        index += 1
        while index + 1 < len(tokens) and tokens[index].value == ".":
            names.append(tokens[index + 1].value)
            index += 2
        if index < len(tokens) and tokens[index].value == "(":
            index, lateral = closing(tokens, index) + 1, True
            if [t.value for t in tokens[index:index + 2]] == ["with", "ordinality"]:
                index += 2
        elif index < len(tokens) and tokens[index].value == "*":
            index += 1
    alias = names[-1]
    rest = tokens[index:]
    if rest and rest[0].is_word("as"):
        rest = rest[1:]
    if rest and rest[0].is_name and not rest[0].is_word("tablesample"):
        alias, rest = rest[0].value, rest[1:]
    if rest and rest[0].value == "(":
        rest = rest[closing(rest, 0) + 1:]
    if rest:
        sample = rest[0].is_word("tablesample")
        raise refuse("TABLESAMPLE" if sample else f'"{rest[0].value}" in FROM', query,
                     rest[0].start, None,
                     "Store the sample in a table, and ask about that." if sample else None)
    if mentions_model(tokens):
        place = next(i for i in range(len(tokens)) if mentions_model(tokens[i:i + 4]))
        raise refuse("a model call inside a subquery or function of FROM", query,
                     tokens[place].start, None,
                     "Call the model in the outer SELECT, WHERE, ON or GROUP BY.")
    result.units.append(Unit(text, start, (alias,), lateral, False))


def conjuncts(query: str, tokens: list[Token]) -> list:
    """The conditions that a WHERE or ON joins by AND, as expressions."""
    return [read_expression(query, part) for part in split_and(tokens)]


def split_and(tokens: list[Token]) -> list[list[Token]]:
    """`tokens` cut at AND; the AND of BETWEEN, and those under OR or CASE, stay."""
    while tokens and tokens[0].value == "(" and tokens[0].kind == "punctuation" \
            and closing(tokens, 0) == len(tokens) - 1 \
            and not tokens[1].is_word("select", "with", "values"):
        tokens = tokens[1:-1]
    if not tokens:
        return []
    depth, cases, between, parts = tokens[0].depth, 0, 0, [[]]
    for number, token in enumerate(tokens):
        after_dot = number and tokens[number - 1].value == "."
        if token.depth == depth and token.kind == "word" and not after_dot:
            cases += token.value == "case"
            cases -= token.value == "end"
            if cases == 0:
                if token.value == "or":
                    return [list(tokens)]
                if token.value == "between":
                    between += 1
                elif token.value == "and":
                    if between:
                        between -= 1
                    else:
                        parts.append([])
                        continue
        parts[-1].append(token)
    if len(parts) == 1:
        return [list(tokens)]
    return [piece for part in parts for piece in split_and(part)]


def _slice(query: str, tokens: list[Token]) -> str:
    return query[tokens[0].start:tokens[-1].end]
