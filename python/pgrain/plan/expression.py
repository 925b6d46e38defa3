"""One slice of the query's text: its model calls, its columns, the functions it names."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from pgrain.errors import UnsupportedOperator
from pgrain.plan.dialect import parse_expression
from pgrain.plan.lexer import Token, closing, describe_place, fold, split, string_value
from pgrain.plan.nodes import Qualifier

MODEL_FUNCTIONS = ("predict", "predict_proba", "predict_batch")
OWN_SCHEMA = "pgrain"
_SUBQUERY = ("select", "with", "values", "table")
_PLACEHOLDER = "_pgrain_call_"


@dataclass(frozen=True)
class Call:
    """A call of a model function in the query's text."""

    function: str
    model: str
    argument: str            # source text
    columns: tuple           # (qualifier or None, name) of the argument
    start: int
    end: int
    bare: bool               # written without the schema


@dataclass(frozen=True)
class Expression:
    """A scalar expression of the query, verbatim."""

    text: str
    start: int
    tokens: tuple[Token, ...]
    calls: tuple[Call, ...]
    columns: tuple           # (qualifier or None, name) outside the model calls
    functions: tuple[str, ...]   # names called outside subqueries
    subquery: bool

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def casts_label(self) -> bool:
        """Whether a model call is cast: call::type, or CAST(call AS type)."""
        for call in self.calls:
            before = [token for token in self.tokens if token.end <= call.start]
            after = next((token for token in self.tokens if token.start >= call.end), None)
            if after is not None and after.value == "::" or len(before) > 1 \
                    and before[-1].value == "(" and before[-2].is_word("cast"):
                return True
        return False

    def with_labels(self, labels: dict[int, str]) -> str:
        """The text with each model call replaced by `labels[start of the call]`."""
        text, offset = self.text, self.start
        for call in sorted(self.calls, key=lambda c: -c.start):
            text = text[:call.start - offset] + labels[call.start] + text[call.end - offset:]
        return text


def refuse(construct: str, query: str, start: int, end: int | None = None,
           hint: str | None = None) -> UnsupportedOperator:
    """The error for a construct without provenance, with its place."""
    return UnsupportedOperator(f"{construct} has no provenance yet",
                               detail=describe_place(query, start, end), hint=hint)


def read_expression(query: str, tokens: list[Token]) -> Expression:
    """The expression that `tokens` of `query` spell; 0A000 for calls that cannot be followed."""
    start, end = tokens[0].start, tokens[-1].end
    text = query[start:end]
    calls = tuple(find_calls(query, tokens))
    bare = Expression(text, start, tuple(tokens), calls, (), (), False)
    tree = parse_expression(bare.with_labels(
        {call.start: f"{_PLACEHOLDER}{i}" for i, call in enumerate(calls)}))
    columns = _columns(tree)
    return Expression(text, start, tuple(tokens), calls, columns, tuple(called(tokens)),
                      tree.find(exp.Select) is not None)


def find_calls(query: str, tokens: list[Token]) -> list[Call]:
    """The model calls among `tokens`, outermost first; 0A000 where they cannot be followed."""
    calls, index, subqueries = [], 0, []
    while index < len(tokens):
        if _opens_subquery(tokens, index):
            subqueries.append(closing(tokens, index))
        found = _call_at(tokens, index)
        if found is None:
            index += 1
            continue
        first, opening = found
        close = closing(tokens, opening)
        if any(index < limit for limit in subqueries):
            raise refuse("a model call inside a subquery", query, tokens[first].start,
                         tokens[close].end)
        calls.append(_read_call(query, tokens, first, opening, close))
        index = close + 1
    return calls


def mentions_model(tokens: list[Token]) -> bool:
    """Whether any model function is called among `tokens`."""
    return any(_call_at(tokens, index) for index in range(len(tokens)))


def called(tokens: list[Token], inside: bool = False) -> list[str]:
    """Names of the functions that `tokens` call (subqueries included if `inside`)."""
    names, limit = [], -1
    for index, token in enumerate(tokens):
        if index < limit and not inside:
            continue
        if _opens_subquery(tokens, index):
            limit = closing(tokens, index)
        following = tokens[index + 1] if index + 1 < len(tokens) else None
        if token.is_name and following is not None and following.value == "(" \
                and following.kind == "punctuation":
            names.append(token.value)
    return names


def _opens_subquery(tokens, index: int) -> bool:
    return (tokens[index].value == "(" and tokens[index].kind == "punctuation"
            and index + 1 < len(tokens) and tokens[index + 1].is_word(*_SUBQUERY))


def _call_at(tokens, index: int) -> tuple[int, int] | None:
    """(first token, opening bracket) of a model call that starts at `index`."""
    token = tokens[index]
    if not token.is_name:
        return None

    def punctuation(i, value):
        return i < len(tokens) and tokens[i].kind == "punctuation" and tokens[i].value == value

    if token.value == OWN_SCHEMA and punctuation(index + 1, ".") and punctuation(index + 3, "("):
        return index, index + 3
    if token.value in MODEL_FUNCTIONS and punctuation(index + 1, "(") and not (
            index and punctuation(index - 1, ".")):
        return index, index + 1
    return None


def _read_call(query, tokens, first, opening, close) -> Call:
    function = tokens[opening - 1].value
    start, end = tokens[first].start, tokens[close].end
    if function != "predict":
        raise refuse(f"{OWN_SCHEMA}.{function}", query, start, end,
                     "Compare classes with pgrain.predict."
                     if function == "predict_proba" else None)
    model, value = model_arguments(tokens[opening:close + 1], query, start, end)
    if any(_call_at(tokens, i) for i in range(opening + 1, close)):
        raise refuse("a model call inside a model call", query, start, end)
    argument = query[value[0].start:value[-1].end]
    return Call(function, model, argument, _columns(parse_expression(argument)), start, end,
                first == opening - 1)


def model_arguments(tokens: list[Token], query: str, start: int,
                    end: int) -> tuple[str, list[Token]]:
    """(the model's name, the value's tokens) of a model call, whose brackets are the first and last
    of `tokens`: by place, or by name (``x => …, model => 'm'``). start, end: the call's place."""
    given = {}
    for name, argument in zip(("model", "x", ""), split(tokens[1:-1]), strict=False):
        if len(argument) > 1 and argument[1].kind == "punctuation" \
                and argument[1].value in ("=>", ":="):
            name, argument = argument[0].value, argument[2:]
        given[name] = argument
    if set(given) != {"model", "x"} or not all(given.values()):
        raise refuse("a model call without exactly two arguments", query, start, end,
                     "Write predict('model', value).")
    model = string_value(given["model"][0])
    if model is None or [t.value for t in given["model"][1:]] not in ([], ["::", "text"]):
        raise refuse("a model name that is not a literal", query, start, end,
                     "Write the model's name as a string.")
    return model, given["x"]


def _columns(tree: exp.Expression) -> tuple:
    columns = []
    for node in tree.find_all(exp.Column):
        if node.name.startswith(_PLACEHOLDER):
            continue
        parts = [_name(part) for part in node.parts if isinstance(part, exp.Identifier)]
        if isinstance(node.this, exp.Star):
            parts.append("*")
        name = (Qualifier.of(parts[:-1]), parts[-1])
        if name not in columns:
            columns.append(name)
    return tuple(columns)


def _name(identifier: exp.Identifier) -> str:
    return identifier.this if identifier.args.get("quoted") else fold(identifier.this)
