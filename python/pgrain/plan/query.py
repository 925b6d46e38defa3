"""The logical operators of the query: From, Filter, Aggregate, Project, with their expressions."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from pgrain.errors import InvalidArgument, UnsupportedOperator
from pgrain.plan.dialect import parse_expression
from pgrain.plan.expression import (
    Expression,
    find_calls,
    mentions_model,
    read_expression,
    refuse,
)
from pgrain.plan.from_clause import From, conjuncts, read_from
from pgrain.plan.lexer import Token, closing, fold, split, unbracketed
from pgrain.plan.select import Select

AGGREGATES = ("count", "sum", "avg")


@dataclass(frozen=True)
class Aggregate:
    """``function(argument) FILTER (WHERE filter)``; no argument for ``count(*)``."""

    function: str
    argument: Expression | None
    filter: Expression | None


@dataclass(frozen=True)
class Item:
    """One entry of the select list."""

    kind: str                # "plain", "aggregate", "star"
    expression: Expression | None
    aggregate: Aggregate | None = None
    qualifier: str | None = None      # of a star
    alias: str | None = None


@dataclass
class Query:
    """One SELECT as operators; `conditions` are the conjuncts of WHERE and of inner ON."""

    select: Select
    from_: From
    conditions: list[Expression]
    items: list[Item]
    keys: list[tuple]                 # (Expression, index of the select item it stands for or None)
    aggregated: bool

    @property
    def text(self) -> str:
        return self.select.query

    def expressions(self) -> list[Expression]:
        """Every expression of the query, in the order of the text of each clause."""
        found = [item.expression for item in self.items if item.kind == "plain"]
        for item in self.items:
            if item.aggregate is not None:
                found += [e for e in (item.aggregate.argument, item.aggregate.filter) if e]
        return found + self.conditions + [key for key, _ in self.keys]

    def calls(self) -> list:
        """The model calls, by their place."""
        calls = {call.start: call for e in self.expressions() for call in e.calls}
        return [calls[start] for start in sorted(calls)]


def model_names(select: Select) -> list[str]:
    """Names of the models that the query calls; 0A000 where a call cannot be followed."""
    tokens = [t for item in select.items for t in item] + select.from_ + select.where \
        + [t for item in select.group for t in item]
    return sorted({call.model for call in find_calls(select.query, tokens)})


def build(select: Select, aggregates: set[str]) -> Query:
    """The operators of a SELECT that `read_select` has cut."""
    query = select.query
    for tokens in (*select.items, select.order):
        _refuse_windows(query, tokens)
    from_ = read_from(query, select.from_)
    seen: set[str] = set()
    for unit in from_.units:
        for alias in unit.aliases:
            if alias in seen:
                raise refuse(f'the relation name "{alias}" given twice', query, unit.start)
            seen.add(alias)
    conditions = from_.conditions + conjuncts(query, select.where)
    items = [_item(query, tokens, aggregates) for tokens in select.items]
    aggregated = select.grouped or any(item.kind == "aggregate" for item in items)
    for expression in conditions:
        _refuse_aggregates(query, expression, aggregates)
    keys = [_key(query, tokens, items) for tokens in select.group]
    built = Query(select, from_, conditions, items, keys, aggregated)
    if mentions_model(select.order) and not built.calls():
        raise refuse("a model call in ORDER BY alone", query, select.order[0].start, None,
                     "Call the model in SELECT, WHERE, ON or GROUP BY.")
    return built


def resolve_keys(query: Query, columns: set[str]) -> list[Expression]:
    """The grouping expressions, as PostgreSQL resolves names: an input column before an alias."""
    resolved = []
    for expression, item in query.keys:
        if item is not None and not (expression.text and bare_name(expression) in columns
                                     and not is_ordinal(expression)):
            chosen = query.items[item]
            if chosen.kind != "plain":
                raise refuse("GROUP BY an aggregate", query.text, expression.start,
                             expression.end)
            resolved.append(chosen.expression)
        else:
            resolved.append(expression)
    return resolved


def _key(query: str, tokens: list[Token], items: list[Item]) -> tuple:
    expression = read_expression(query, tokens)
    if is_ordinal(expression):
        number = int(unbracketed(tokens)[0].value)
        if not 1 <= number <= len(items) or any(i.kind == "star" for i in items[:number]):
            raise refuse(f"GROUP BY position {number}", query, expression.start, expression.end,
                         "Write the expression itself.")
        return expression, number - 1
    name = bare_name(expression)
    for number, item in enumerate(items):
        if name is not None and item.alias == name:
            return expression, number
    return expression, None


def is_ordinal(expression: Expression) -> bool:
    """Whether a grouping expression is the position of a column of the select list."""
    tokens = unbracketed(expression.tokens)
    return len(tokens) == 1 and tokens[0].kind == "number"


def bare_name(expression: Expression) -> str | None:
    """The name that a grouping expression is, without a qualifier."""
    tokens = unbracketed(expression.tokens)
    return tokens[0].value if len(tokens) == 1 and tokens[0].is_name else None


def _item(query: str, tokens: list[Token], aggregates: set[str]) -> Item:
    if not tokens:
        raise refuse("an empty select item", query, 0)
    if tokens[-1].value == "*" and tokens[-1].kind == "operator" and len(tokens) in (1, 3, 5):
        qualifier = tokens[-3].value if len(tokens) > 1 else None
        return Item("star", None, qualifier=qualifier)
    tokens, alias = _strip_alias(query, tokens)
    while tokens[0].value == "(" and closing(tokens, 0) == len(tokens) - 1 \
            and not tokens[1].is_word("select", "with", "values") \
            and len(split(tokens[1:-1])) == 1:
        tokens = tokens[1:-1]
    aggregate = _aggregate(query, tokens, aggregates)
    if aggregate is not None:
        return Item("aggregate", None, aggregate, alias=alias)
    expression = read_expression(query, tokens)
    _refuse_aggregates(query, expression, aggregates, "arithmetic over aggregates")
    return Item("plain", expression, alias=alias)


def _strip_alias(query: str, tokens: list[Token]) -> tuple[list[Token], str | None]:
    text, at = query[tokens[0].start:tokens[-1].end], tokens[0].start
    for number, call in reversed(list(enumerate(find_calls(query, tokens)))):
        text = text[:call.start - at] + f"_pgrain_call_{number}" + text[call.end - at:]
    tree = parse_expression(text)
    if not isinstance(tree, exp.Alias):
        return tokens, None
    rest = tokens[:-1]
    if rest and rest[-1].is_word("as"):
        rest = rest[:-1]
    identifier = tree.args["alias"]
    alias = identifier.this if identifier.args.get("quoted") else fold(identifier.this)
    if not rest or not tokens[-1].is_name or tokens[-1].value != alias:
        raise refuse("a select item of unknown form", query, tokens[0].start, tokens[-1].end)
    return rest, alias


def _aggregate(query: str, tokens: list[Token], aggregates: set[str]) -> Aggregate | None:
    """The aggregate that `tokens` are, None if they are something else."""
    index = 2 if [t.value for t in tokens[:2]] == ["pg_catalog", "."] else 0
    if len(tokens) < index + 3 or not tokens[index].is_name or tokens[index + 1].value != "(":
        return None
    function = tokens[index].value
    if function not in aggregates and function not in AGGREGATES:
        return None
    close = closing(tokens, index + 1)
    inner, rest = tokens[index + 2:close], tokens[close + 1:]
    where = None
    if len(rest) > 3 and rest[0].is_word("filter") and rest[1].value == "(" \
            and rest[2].is_word("where"):
        end = closing(rest, 1)
        where = read_expression(query, rest[3:end])
        rest = rest[end + 1:]
    if rest:
        return None
    start, end = tokens[0].start, tokens[-1].end
    if function not in AGGREGATES:
        raise refuse(f"the aggregate {function}", query, start, end,
                     "Use count, sum or avg.")
    if inner and inner[0].is_word("distinct"):
        raise refuse(f"{function}(DISTINCT)", query, start, end)
    if inner and inner[0].is_word("all"):
        inner = inner[1:]
    if any(t.is_word("order") and t.depth == inner[0].depth for t in inner):
        raise refuse("ORDER BY inside an aggregate", query, start, end, "Leave it out.")
    if len(inner) == 1 and inner[0].value == "*" and function == "count":
        return Aggregate(function, None, where)
    if len(split(inner)) != 1:
        raise InvalidArgument(f"the aggregate {function} takes one argument")
    argument = read_expression(query, inner)
    for expression in (argument, where):
        if expression is not None:
            _refuse_aggregates(query, expression, aggregates)
    return Aggregate(function, argument, where)


def _refuse_aggregates(query: str, expression: Expression, aggregates: set[str],
                       construct: str = "an aggregate inside an expression") -> None:
    for name in expression.functions:
        if name in aggregates or name in AGGREGATES:
            raise refuse(construct, query, expression.start, expression.end,
                         "Select count, sum or avg itself as a column.")


def _refuse_windows(query: str, tokens: list[Token]) -> None:
    for before, token in zip(tokens, tokens[1:], strict=False):
        if token.is_word("over") and before.value == ")":
            raise refuse("a window function", query, token.start, None,
                         "Use a scalar subquery, or a join with a grouped subquery.")


def check_single_model(query: Query) -> str:
    """The one model of the query; 22023 without any, 0A000 with several."""
    calls = query.calls()
    models = sorted({call.model for call in calls})
    if not models:
        raise InvalidArgument("the query calls no model",
                              hint="Call pgrain.predict in SELECT, WHERE, ON or GROUP BY.")
    if len(models) > 1:
        second = next(call for call in calls if call.model != calls[0].model)
        raise UnsupportedOperator(
            "a query with several models has no provenance yet",
            detail=f"It calls {', '.join(chr(34) + m + chr(34) for m in models)}; "
                   f'"{second.model}" comes second.')
    return models[0]
