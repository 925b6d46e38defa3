"""Which queries can be watched, and the statement that notes what a change adds to one.

A watched query is one SELECT of inner joins of plain tables with count, sum and avg. Its
predictions are made of the columns of one of the tables, the *fact*; the others are *dimensions*.
Every number of such a query is linear in the rows of the fact, so a change adds the numbers of the
new rows and takes away those of the old ones: the query's own capture, with the transition table in
the fact's place (docs/dev/watches.md).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace

from pgrain.complaint.grammar import parse
from pgrain.errors import InvalidArgument, UndefinedColumn, UnsupportedOperator
from pgrain.plan.expression import refuse
from pgrain.plan.lexer import tokenize
from pgrain.provenance.annotate import Annotated, quote
from pgrain.provenance.capture_sql import capture_sql
from pgrain.provenance.compile import Capture
from pgrain.provenance.stamps import plain_table
from pgrain.wire.identity import canonical_sql

NEW, OLD = "_pgrain_new", "_pgrain_old"
# Types of which equal values have one text, or one that `state.canonical` makes so.
KEY_TYPES = {16, 19, 20, 21, 23, 25, 26, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1700, 2950}
_REWRITE = "Complain about the query itself, or leave that part out of the watch."
# Constant within a statement, but not from one to the next: what was added yesterday would be
# taken away differently today. (Functions of that kind are found in the catalog.)
_MOVING_WORDS = ("current_date", "current_time", "current_timestamp", "localtime",
                 "localtimestamp", "current_user", "session_user", "user", "current_role",
                 "current_catalog", "current_schema", "system_user")


@dataclass(frozen=True)
class Table:
    """One relation of FROM: its name as written (quoted), and the name the query knows it by."""

    relation: str
    alias: str
    fact: bool


def check_query(capture) -> None:
    """0A000 for a query that cannot be watched, whatever its tables are."""
    if not isinstance(capture, Capture) or not hasattr(capture.annotated, "sides"):
        detail = ("A watch keeps one SELECT of tables joined by conditions on columns, with "
                  "count, sum or avg; no subqueries, no HAVING, no outer joins.")
        message, place = getattr(capture, "no_join", None) or (None, None)
        if message is not None:
            detail += f" Here: {message.partition(' has no provenance')[0]}." \
                      + (f" {place}" if place else "")
        raise UnsupportedOperator("this query cannot be watched", detail=detail, hint=_REWRITE)
    annotated = capture.annotated
    query, select = annotated.query, annotated.query.select
    if annotated.by_row:
        raise UnsupportedOperator("a query without aggregation cannot be watched",
                                  hint="Select count(*), or a sum or avg, by group.")
    if select.prefix:
        raise UnsupportedOperator("a query with WITH cannot be watched",
                                  hint="Name the tables in FROM.")
    for expression in query.expressions():
        if expression.subquery:
            raise _refused("a subquery", query, expression)
        for token in expression.tokens:
            if token.is_word(*_MOVING_WORDS):
                raise _refused(f"{token.value}, which changes by itself,", query, expression)
            if token.is_word("collate"):
                raise _refused("COLLATE", query, expression)
    _check_keys(capture)


def tables(capture) -> list[Table]:
    """The relations of a query that can be watched, in the order of FROM; 0A000 for others.

    Of a join of predictions with predictions (`joins`), those of the query of one side.
    """
    check_query(capture)
    annotated = capture.annotated
    if len(annotated.sides) > 1:
        raise UnsupportedOperator(
            "a join of predictions with columns cannot be watched",
            hint=_REWRITE)
    query, units = annotated.query, annotated.query.from_.units
    facts = {unit for slot in annotated.slots for unit in slot.units}
    if len(facts) != 1:
        raise UnsupportedOperator(
            "predictions that are not made of one table's columns cannot be watched",
            hint="Let the arguments of the model calls name columns of one table.")
    found = []
    for number, unit in enumerate(units):
        relation = plain_table(unit.text)
        if relation is None or unit.lateral or tokenize(unit.text)[0].is_word("only"):
            raise refuse("a watch of what is no plain table", query.text, unit.start, None,
                         "Name tables in FROM, joined by ON or WHERE; a subquery's condition can "
                         "stand in WHERE.")
        found.append(Table(relation, unit.aliases[0], number in facts))
    return found


def _refused(construct: str, query, expression) -> UnsupportedOperator:
    error = refuse(construct, query.text, expression.start, expression.end, _REWRITE)
    return UnsupportedOperator(f"{construct} cannot be watched", detail=error.detail,
                               hint=_REWRITE)


def key_columns(annotated: Annotated) -> list[int]:
    """Numbers of the output columns that are the keys of GROUP BY."""
    texts = [cell.sql for cell in annotated.cells]
    return sorted({texts.index(key) for key in annotated.keys if key in texts})


def _check_keys(capture: Capture) -> None:
    annotated = capture.annotated
    texts = [cell.sql for cell in annotated.cells if cell.role == "group"]
    if any(key not in texts for key in annotated.keys):
        raise UnsupportedOperator("a GROUP BY column that is not selected cannot be watched",
                                  hint="Select every column of GROUP BY, as it is written there.")
    for number in key_columns(annotated):
        column = capture.output_columns[number]
        if column.type_oid not in KEY_TYPES:
            raise UnsupportedOperator(
                f'GROUP BY "{column.name}" of type {column.type_name} cannot be watched',
                hint="Group by its cast to text.")


def note_sql(capture: Capture, names: list[str], rows: str) -> str:
    """The capture of a change: `rows` (a transition table) in place of the fact.

    names: full quoted names of the tables, in the order of `tables`. In place of a digest comes
    the feature value itself, its canonical bytes behind their length: digests need the secret,
    which the trigger must not have.
    """
    annotated, units = capture.annotated, []
    for table, name in zip(tables(capture), names, strict=True):
        units.append(f"{rows if table.fact else name} AS {quote(table.alias)}")
    # Notes are kept: their numbers are float8, whatever a capture makes of numerics.
    measures = [dataclasses.replace(m, numeric=None) for m in annotated.sides[0].measures]
    side = dataclasses.replace(annotated.sides[0], units=units, measures=measures)
    facts = capture.model
    values = {}
    for slot in annotated.slots:
        content = canonical_sql(slot.argument + "\n", facts.kind, facts.features)
        values[slot.index] = (
            "(SELECT pg_catalog.int4send(pg_catalog.octet_length(_pgrain_v)) "
            f"OPERATOR(pg_catalog.||) _pgrain_v FROM (VALUES ({content})) "
            "AS _pgrain_v (_pgrain_v))")
    return capture_sql(dataclasses.replace(annotated, sides=[side]), facts.classes, values)


def shape(capture: Capture) -> dict:
    """What must be known to read notes and state: columns, keys, model. JSON."""
    annotated = capture.annotated
    return {"model": capture.model.name, "classes": capture.model.classes,
            "columns": [dataclasses.asdict(column) for column in capture.output_columns],
            "functions": [cell.function for cell in annotated.cells],
            "keys": key_columns(annotated), "grouped": bool(annotated.query.select.grouped),
            "slots": [slot.index for slot in annotated.slots],
            "measures": [measure.value is not None for measure in annotated.sides[0].measures],
            "cells": [{"role": cell.role, "function": cell.function,
                       "value": cell.value is not None,
                       "measure": cell.measure and list(cell.measure)}
                      for cell in annotated.cells]}


def reading(shape: dict):
    """The annotation, as far as reading a capture needs it, out of `shape` alone."""
    slots = [SimpleNamespace(index=index, side=0, model=shape["model"])
             for index in shape["slots"]]
    side = SimpleNamespace(slots=slots,
                           measures=[SimpleNamespace(value=value) for value in shape["measures"]])
    return SimpleNamespace(by_row=False, cross=[], slots=slots, sides=[side],
                           cells=[SimpleNamespace(**cell) for cell in shape["cells"]])


def check_alert(text: str, shape: dict) -> None:
    """An alert is ``<column> <operator> <number>``; 42601, 42703, 22023, 0A000 otherwise."""
    alert = parse(text)
    if alert.where is not None:
        raise UnsupportedOperator("an alert with WHERE is not supported yet",
                                  hint="Put the condition into the watched query.")
    if alert.column is None or not isinstance(alert.target, float):
        raise InvalidArgument(f'"{text}" is no alert',
                              hint="Write <column> > <number>, with any of < <= = >= >.")
    column = next((c for c in shape["columns"] if c["name"] == alert.column), None)
    if column is None:
        listed = ", ".join(f'"{c["name"]}"' for c in shape["columns"])
        raise UndefinedColumn(f'the query has no output column "{alert.column}"',
                              detail=f"The output columns are: {listed}.")
    if column["role"] != "aggregate":
        raise InvalidArgument(f'column "{alert.column}" is no count, sum or avg')
