"""sqlglot's PostgreSQL dialect, as far as we need it: the structure inside one expression."""

from __future__ import annotations

from functools import lru_cache

import sqlglot
from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import SqlglotError

from pgrain.errors import UnsupportedOperator


class Dialect(Postgres):
    """PostgreSQL without BigQuery's ``PREDICT(MODEL ...)``."""

    class Parser(Postgres.Parser):
        FUNCTION_PARSERS = {name: parser for name, parser
                            in Postgres.Parser.FUNCTION_PARSERS.items() if name != "PREDICT"}
        FUNCTIONS = {name: parser for name, parser in Postgres.Parser.FUNCTIONS.items()
                     if name != "PREDICT"}


# Trees are shared: nobody may change one. A query is read several times while it is compiled.
@lru_cache(maxsize=512)
def parse_statement(text: str) -> exp.Expression:
    """The syntax tree of one statement; 0A000 where sqlglot cannot read it."""
    try:
        trees = sqlglot.parse(text, dialect=Dialect)
    except (SqlglotError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnsupportedOperator("the query has syntax that cannot be analysed",
                                  detail=reason) from None
    if len(trees) != 1 or trees[0] is None:
        raise UnsupportedOperator("the query has syntax that cannot be analysed")
    return trees[0]


@lru_cache(maxsize=512)
def parse_expression(text: str) -> exp.Expression:
    """The syntax tree of one scalar expression (or select item)."""
    tree = parse_statement(f"SELECT {text}")
    extra = [name for name, value in tree.args.items()
             if value and name not in ("expressions", "kind", "hint", "operation_modifiers")]
    if not isinstance(tree, exp.Select) or len(tree.expressions) != 1 or extra:
        raise UnsupportedOperator(f'cannot analyse "{text}" as one expression')
    return tree.expressions[0]
