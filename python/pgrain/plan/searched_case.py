"""CASE x WHEN v THEN … as CASE WHEN (x) = (v) THEN …, which says the same.

What x is, a comparison knows; PostgreSQL evaluates neither with a number of the circuit in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pgrain.plan.lexer import tokenize


@dataclass
class _Case:
    """A CASE that is being read: where its operand begins and ends, its values (start, end)."""

    start: int
    end: int | None = None
    values: list[tuple[int, int]] = field(default_factory=list)


def searched_case(text: str) -> str | None:
    """The text with each simple CASE as a searched one; None if there is none."""
    edits: list[tuple[int, int, str]] = []
    open_: list[_Case] = []
    tokens = tokenize(text)
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        if before is not None and (before.is_word("as") or before.value == "."):
            continue                    # a name
        if token.is_word("case") and after is not None:
            open_.append(_Case(after.start))
        elif token.is_word("when") and open_ and after is not None:
            case = open_[-1]
            if case.end is None:
                case.end = before.end if before.end > case.start else case.start
            case.values.append((after.start, after.start))
        elif token.is_word("then") and open_ and open_[-1].values:
            open_[-1].values[-1] = (open_[-1].values[-1][0], before.end)
        elif token.is_word("end") and open_:
            case = open_.pop()
            if case.end is not None and case.end > case.start:
                inside = [edit for edit in edits if case.start <= edit[0] < case.end]
                edits = [edit for edit in edits if edit not in inside] + _edits(text, case)
    if not edits:
        return None
    for start, end, made in sorted(edits, reverse=True):
        text = text[:start] + made + text[end:]
    return text


def _edits(text: str, case: _Case) -> list[tuple[int, int, str]]:
    """What to put where, for a simple CASE: its operand goes to each of its values."""
    operand = text[case.start:case.end]
    operand = searched_case(operand) or operand
    made = [(case.start, case.end, "")]
    for start, end in case.values:
        made += [(start, start, f"({operand}\n) = ("), (end, end, "\n)")]
    return made
