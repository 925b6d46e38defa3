"""The capture: one SELECT that joins, filters and groups in PostgreSQL and brings lineage packed.

Layout of its result, rows of ``(tag, meta, a, b, c)``; integers are int4 and numbers float8, both
big-endian, booleans one byte, digests 16 bytes:

==============  =====================================================================
``factor:s``    a = rows of each factor of side s, b = its pattern, c = NULL digests by slot
``digest:i``    a = digests of slot i, factor after factor (none for a NULL factor)
``measure:s:m`` a = presence of measure m for each row of side s, or its values, `NULL_FLOAT`
                where it is absent; with meta 'numeric' as PostgreSQL sends numerics, between
                `BREAK`s (`read_numerics`)
``pair``        a, b = factors of side 0 and 1 that join; absent if all do
``pattern``     a, b = patterns of side 0 and 1 of each joint pattern (two sides)
``group``       meta = JSON texts of the groups' columns, a = entries of each group,
                b = (pattern, class of each slot) of each entry, c = flags of each aggregate
``value:j``     a = argument of aggregate j for each entry
``row``         meta = JSON texts of each row's columns, a = pattern of each row, b = NULL flags
``entry``       meta = JSON texts of the labels of each entry, a = (pattern, classes)
``size``        meta = name of a limit, a = how many there are
==============  =====================================================================

A class is its number in the model's list; the number after the last stands for NULL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pgrain.provenance.annotate import Annotated, Detail, Side, quote
from pgrain.provenance.grouping import group_terms, representative
from pgrain.settings import ASSIGNMENTS, FACTOR_PAIRS, OUTPUT_ROWS
from pgrain.wire.identity import digest_sql, json_array_sql

_EMPTY = "''::pg_catalog.bytea"
# A NaN that PostgreSQL's arithmetic never makes: its own has no payload.
NULL_FLOAT = 0x7FF8000000000001
# Between numerics: two bytes that are none of theirs (digits, scales and signs are others, and a
# number of as many digits float8 does not hold), and a sign that no number has for NULL.
BREAK, NULL_NUMERIC = "7ffe", "00000000ffff0000"
_BREAK = f"pg_catalog.decode('{BREAK}', 'hex')"


def literal(text: str) -> str:
    """A string constant, whatever the text."""
    quoted = "'" + text.replace("'", "''").replace("\\", "\\\\") + "'"
    return f" E{quoted}" if "\\" in text else quoted


def packed_floats(column: str) -> str:
    """SQL for the float8 values of every row in one bytea, `NULL_FLOAT` for NULL (`read_floats`).

    A count of what is known, and a NULL flag, would each cost as much again as the value.
    """
    return (f"pg_catalog.string_agg(coalesce(pg_catalog.float8send({column}), "
            f"pg_catalog.decode('{NULL_FLOAT:x}', 'hex')), {_EMPTY})")


def packed_numerics(column: str) -> str:
    """SQL for the numerics of every row in one bytea: a cast to float8 goes by the number's text,
    and costs more than all else that is done with a row."""
    return (f"pg_catalog.string_agg(coalesce(pg_catalog.numeric_send({column}), pg_catalog.decode("
            f"'{NULL_NUMERIC}', 'hex')), {_BREAK})")


def with_clause(annotated: Annotated, ctes: Sequence[str]) -> str:
    """WITH the user's CTEs (verbatim) and ours."""
    select = annotated.query.select
    text = select.prefix + ",\n".join(ctes)
    if not ctes:
        text = select.prefix.rstrip(", ")
    return ("WITH RECURSIVE " if select.recursive else "WITH ") + text + "\n" if text else ""


def side_from(side: Side) -> str:
    """FROM and WHERE of one side, the user's text."""
    text = "FROM " + ",\n".join(side.units)
    if side.where:
        text += "\nWHERE " + "\n AND ".join(f"({condition}\n)" for condition in side.where)
    return text


def digests(annotated: Annotated, models: dict) -> dict[int, str]:
    """SQL for the digest of each slot's value; ``$1`` is the secret."""
    return {slot.index: digest_sql(slot.argument + "\n", models[slot.model].kind,
                                   models[slot.model].features) for slot in annotated.slots}


def capture_sql(annotated: Annotated, classes: Sequence[str], names: dict[int, str]) -> str:
    """The whole statement; `names` has SQL for 16 bytes that name each slot's value."""
    rows = ", ".join(f"({number}, {literal(label)}::pg_catalog.text)"
                     for number, label in enumerate(classes))
    ctes = [f"_pgrain_class (_pgrain_i, _pgrain_label) AS MATERIALIZED (VALUES {rows}, "
            f"({len(classes)}, NULL))"]
    make = _rows if annotated.by_row else _groups
    parts, results = make(annotated, names, len(classes))
    return with_clause(annotated, ctes + parts) + "\nUNION ALL\n".join(_selects(results))


# --- aggregation ---------------------------------------------------------------------------

def _groups(annotated: Annotated, names, n_classes: int):
    ctes, results = [], []
    for number, side in enumerate(annotated.sides):
        ctes += _factors(annotated, number, side, names)
        results += _factor_results(number, side)
    ctes += _patterns(annotated)
    if len(annotated.sides) == 2:
        results.append(_row("pattern", None, _ints("_pgrain_p0"), _ints("_pgrain_p1"),
                            source="_pgrain_q"))
        if annotated.cross:
            results.append(_row("pair", None, _ints("_pgrain_f0", order=None),
                                _ints("_pgrain_f1", order=None), source="_pgrain_pair"))
            results.append(_size("factor_pairs", "_pgrain_pair"))
    entry, group, values = _entries(annotated, n_classes)
    ctes += [entry, group]
    results.append(_row("group", "pg_catalog.jsonb_agg(_pgrain_o)", _ints("_pgrain_n", None),
                        f"pg_catalog.string_agg(_pgrain_e, {_EMPTY})",
                        f"pg_catalog.string_agg(_pgrain_fl, {_EMPTY})", source="_pgrain_group"))
    for j in values:
        results.append(_row(f"value:{j}", None, f"pg_catalog.string_agg(_pgrain_v{j}, {_EMPTY})",
                            source="_pgrain_group"))
    results.append(_size("assignments", "_pgrain_q", n_classes ** len(annotated.slots)))
    return ctes, results


def _factors(annotated: Annotated, number: int, side: Side, names) -> list[str]:
    """The base rows of one side, grouped by keys, details and which digests are NULL."""
    kept, exact = side.keys + side.details, annotated.exact
    columns = [f"{names[slot.index]} AS _pgrain_x{slot.index}" for slot in side.slots]
    columns += [f"({detail.sql}) AS {detail.name}" for detail in kept]
    for m, measure in enumerate(side.measures):
        if measure.value:
            value = measure.numeric or measure.value
            guarded = (value if measure.flag == "true"
                       else f"CASE WHEN {measure.flag} THEN {value} END")
            columns.append(f"{guarded} AS _pgrain_mv{m}")
        else:
            columns.append(f"({measure.flag}) AS _pgrain_mf{m}")
    base = (f"SELECT {', '.join(columns) or '1 AS _pgrain_one'}\n{side_from(side)}\n"
            f"LIMIT {FACTOR_PAIRS.default + 1}")
    nulls = [f"(_pgrain_x{slot.index} IS NULL)" for slot in side.slots]
    terms = [term for d in kept for term in group_terms(d.name, d.oid, exact)] + nulls
    made = [f"{representative(d.name, d.oid)} AS {d.name}" for d in kept]
    made += [f"{null} AS _pgrain_null{slot.index}"
             for null, slot in zip(nulls, side.slots, strict=True)]
    made += [f"pg_catalog.string_agg(_pgrain_x{slot.index}, {_EMPTY}) AS _pgrain_x{slot.index}"
             for slot in side.slots]
    made.append("pg_catalog.count(*)::pg_catalog.int4 AS _pgrain_n")
    for m, measure in enumerate(side.measures):
        if measure.value:
            packed = packed_numerics if measure.numeric else packed_floats
            made.append(f"{packed(f'_pgrain_mv{m}')} AS _pgrain_mv{m}")
        else:
            made.append(f"pg_catalog.string_agg(pg_catalog.boolsend(_pgrain_mf{m}), {_EMPTY})"
                        f" AS _pgrain_mf{m}")
    pattern = [term for d in side.details for term in group_terms(d.name, d.oid, exact)]
    pattern += [f"_pgrain_null{slot.index}" for slot in side.slots]
    grouping = f"\nGROUP BY {', '.join(terms)}" if terms else "\nHAVING pg_catalog.count(*) > 0"
    rank = f"pg_catalog.dense_rank() OVER (ORDER BY {', '.join(pattern)})" if pattern else "1"
    # Factors are numbered last, in the order in which they are read: no result needs to sort them.
    first = "(pg_catalog.row_number() OVER () - 1)::pg_catalog.int4 AS"
    grouped = f"(SELECT {', '.join(made)}\nFROM (\n{base}\n) AS _pgrain_b{grouping}) AS _pgrain_f"
    if not side.keys:
        return [f"_pgrain_f{number} AS MATERIALIZED (\nSELECT {first} _pgrain_f, {first} "
                f"_pgrain_p, _pgrain_f.*\nFROM {grouped}\n)"]
    factor = (f"_pgrain_f{number} AS MATERIALIZED (\nSELECT {first} _pgrain_f, _pgrain_f.*\nFROM "
              f"(SELECT ({rank} - 1)::pg_catalog.int4 AS _pgrain_p, _pgrain_f.*\nFROM {grouped}) "
              "AS _pgrain_f\n)")
    return [factor, f"_pgrain_p{number} AS MATERIALIZED (\nSELECT DISTINCT ON (_pgrain_p) *"
                    f" FROM _pgrain_f{number} ORDER BY _pgrain_p\n)"]


def _factor_results(number: int, side: Side) -> list[str]:
    source = f"_pgrain_f{number}"
    nulls = " OPERATOR(pg_catalog.||) ".join(f"pg_catalog.boolsend(_pgrain_null{slot.index})"
                                             for slot in side.slots)
    results = [_row(f"factor:{number}", None, _ints("_pgrain_n", None), _ints("_pgrain_p", None),
                    f"pg_catalog.string_agg({nulls}, {_EMPTY})" if nulls else None, source=source),
               _row("size", "'base_rows'", "pg_catalog.int8send(pg_catalog.sum(_pgrain_n)"
                    "::pg_catalog.int8)", source=source)]
    for slot in side.slots:
        column = f"_pgrain_x{slot.index}"
        results.append(_row(f"digest:{slot.index}", None,
                            f"pg_catalog.string_agg({column}, {_EMPTY})", source=source))
    for m, measure in enumerate(side.measures):
        packed = f"_pgrain_mv{m}" if measure.value else f"_pgrain_mf{m}"
        results.append(_row(f"measure:{number}:{m}", "'numeric'" if measure.numeric else None,
                            f"pg_catalog.string_agg({packed}, "
                            f"{_BREAK if measure.numeric else _EMPTY})", source=source))
    return results


def _patterns(annotated: Annotated) -> list[str]:
    """Joint patterns: what expressions can tell apart, over both sides."""
    first = annotated.sides[0]
    if len(annotated.sides) == 1:
        return ["_pgrain_q AS MATERIALIZED (SELECT _pgrain_f AS _pgrain_q, "
                + ", ".join(_carried(first, "_pgrain_f0")) + " FROM _pgrain_f0)"] \
            if _carried(first, "") else \
            ["_pgrain_q AS MATERIALIZED (SELECT _pgrain_f AS _pgrain_q FROM _pgrain_f0)"]
    ctes = []
    tables = [f"_pgrain_{'p' if side.keys else 'f'}{n}" for n, side in enumerate(annotated.sides)]
    carried = [column for table, side in zip(tables, annotated.sides, strict=True)
               for column in _carried(side, table)]
    if annotated.cross:
        laterals = [text for n, side in enumerate(annotated.sides)
                    for text in exposed(side.keys, f"_pgrain_f{n}")]
        ctes.append(
            "_pgrain_pair AS MATERIALIZED (\nSELECT _pgrain_f0._pgrain_f AS _pgrain_f0, "
            "_pgrain_f1._pgrain_f AS _pgrain_f1, _pgrain_f0._pgrain_p AS _pgrain_p0, "
            "_pgrain_f1._pgrain_p AS _pgrain_p1\nFROM _pgrain_f0 CROSS JOIN _pgrain_f1"
            + "".join(laterals) + "\nWHERE "
            + "\n AND ".join(f"({text}\n)" for text in annotated.cross)
            + f"\nLIMIT {FACTOR_PAIRS.default + 1}\n)")
        joined = ("(SELECT DISTINCT _pgrain_p0, _pgrain_p1 FROM _pgrain_pair) AS _pgrain_d"
                  f" JOIN {tables[0]} ON {tables[0]}._pgrain_p = _pgrain_d._pgrain_p0"
                  f" JOIN {tables[1]} ON {tables[1]}._pgrain_p = _pgrain_d._pgrain_p1")
    else:
        joined = f"{tables[0]} CROSS JOIN {tables[1]}"
    joined = joined.replace(" = ", " OPERATOR(pg_catalog.=) ")
    columns = [f"{tables[0]}._pgrain_p AS _pgrain_p0", f"{tables[1]}._pgrain_p AS _pgrain_p1",
               *carried]
    ctes.append("_pgrain_q AS MATERIALIZED (SELECT (pg_catalog.row_number() OVER () - 1)"
                f"::pg_catalog.int4 AS _pgrain_q, {', '.join(columns)}\nFROM {joined}"
                f"\nLIMIT {ASSIGNMENTS.default + 1})")
    return ctes


def _carried(side: Side, table: str) -> list[str]:
    names = [d.name for d in side.details] + [f"_pgrain_null{slot.index}" for slot in side.slots]
    return [f"{table}.{name}" for name in names]


def exposed(details: list[Detail], table: str) -> list[str]:
    """The FROM aliases made again, with the columns that expressions need."""
    aliases: dict[str, list[str]] = {}
    for detail in details:
        if detail.exposes is not None:
            alias, column = detail.exposes
            aliases.setdefault(alias, []).append(f'{quote(table)}.{detail.name} AS {quote(column)}')
    return [f"\nCROSS JOIN LATERAL (SELECT {', '.join(columns)}) AS {quote(alias)}"
            for alias, columns in aliases.items()]


def _assignments(annotated: Annotated, n_classes: int) -> str:
    """FROM and WHERE over patterns and class assignments, mixed conditions applied."""
    details = [d for side in annotated.sides for d in side.details]
    text = "FROM _pgrain_q" + "".join(exposed(details, "_pgrain_q"))
    where = []
    for slot in annotated.slots:
        text += f"\nCROSS JOIN _pgrain_class AS _pgrain_c{slot.index}"
        where.append(f"(_pgrain_c{slot.index}._pgrain_label IS NULL) OPERATOR(pg_catalog.=) "
                     f"_pgrain_q._pgrain_null{slot.index}")
    where.append(f"(SELECT pg_catalog.count(*) FROM _pgrain_q) OPERATOR(pg_catalog.<=) "
                 f"{ASSIGNMENTS.default // n_classes ** len(annotated.slots)}")
    where += [f"({condition}\n)" for condition in annotated.mixed]
    return text + "\nWHERE " + "\n AND ".join(where)


def _entry_code(annotated: Annotated) -> str:
    first, *others = [f"_pgrain_a{slot.index}" for slot in annotated.slots]
    # Two int4 in one go: each call and each concatenation of bytes is as dear as reading a row.
    codes = ["pg_catalog.int8send((_pgrain_q::pg_catalog.int8 OPERATOR(pg_catalog.<<) 32) "
             f"OPERATOR(pg_catalog.|) {first}::pg_catalog.int8)"]
    codes += [f"pg_catalog.int4send({code})" for code in others]
    return " OPERATOR(pg_catalog.||) ".join(codes)


def _entries(annotated: Annotated, n_classes: int):
    """Which assignments pass, to which group they belong, and what they add to each cell."""
    columns = ["_pgrain_q._pgrain_q"]
    columns += [f"_pgrain_c{slot.index}._pgrain_i AS _pgrain_a{slot.index}"
                for slot in annotated.slots]
    columns += [f"({key}\n) AS _pgrain_k{number}" for number, key in enumerate(annotated.keys)]
    outputs, flags, values = [], [], []
    for number, cell in enumerate(annotated.cells):
        if cell.role == "group" and cell.sql in annotated.keys:
            outputs.append(f"_pgrain_k{annotated.keys.index(cell.sql)}::pg_catalog.text")
        elif cell.role == "group":
            columns.append(f"({cell.sql}\n)::pg_catalog.text AS _pgrain_o{number}")
            outputs.append(f"(pg_catalog.array_agg(_pgrain_o{number}))[1]")
        elif cell.role == "constant":
            outputs.append(f"({cell.sql}\n)::pg_catalog.text")
        else:
            flags.append(None)
            if cell.flag != "true":
                columns.append(f"({cell.flag}\n) AS _pgrain_fl{number}")
                flags[-1] = f"pg_catalog.boolsend(_pgrain_fl{number})"
            if cell.value:
                columns.append(f"{cell.value} AS _pgrain_v{number}")
                values.append(number)
    entry = (f"_pgrain_entry AS MATERIALIZED (\nSELECT {', '.join(columns)}\n"
             f"{_assignments(annotated, n_classes)}\n)")
    made = ["(pg_catalog.row_number() OVER ())::pg_catalog.int4 AS _pgrain_g",
            "pg_catalog.count(*)::pg_catalog.int4 AS _pgrain_n",
            f"pg_catalog.string_agg({_entry_code(annotated)}, {_EMPTY}) AS _pgrain_e",
            f"{_flags(flags)} AS _pgrain_fl"]
    made += [f"pg_catalog.string_agg(pg_catalog.float8send(coalesce(_pgrain_v{j}, 0)), {_EMPTY})"
             f" AS _pgrain_v{j}" for j in values]
    made.append(f"{json_array_sql(outputs)} AS _pgrain_o")
    keys = ", ".join(f"_pgrain_k{number}" for number in range(len(annotated.keys)))
    group = (f"_pgrain_group AS MATERIALIZED (\nSELECT {', '.join(made)}\nFROM _pgrain_entry"
             + (f"\nGROUP BY {keys}" if keys else "")
             + f"\nLIMIT {OUTPUT_ROWS.default + 1}\n)")
    return entry, group, values


def _flags(flags: list[str | None]) -> str:
    """SQL for a byte for each entry of a group and each flag; None is one that is always true."""
    if not flags:
        return "NULL::pg_catalog.bytea"
    if not any(flags):
        return ("pg_catalog.decode(pg_catalog.repeat('01', (pg_catalog.count(*) "
                f"OPERATOR(pg_catalog.*) {len(flags)})::pg_catalog.int4), 'hex')")
    parts = [flag or "pg_catalog.boolsend(true)" for flag in flags]
    return f"pg_catalog.string_agg({' OPERATOR(pg_catalog.||) '.join(parts)}, {_EMPTY})"


# --- rows without aggregation --------------------------------------------------------------

def _rows(annotated: Annotated, names, n_classes: int):
    """Each row of the FROM is an output row; patterns say what the model-dependent part is."""
    side, exact = annotated.sides[0], annotated.exact
    columns = ["(pg_catalog.row_number() OVER ())::pg_catalog.int4 AS _pgrain_r"]
    columns += [f"{names[slot.index]} AS _pgrain_x{slot.index}" for slot in side.slots]
    columns += [f"({d.sql}) AS {d.name}" for d in side.details]
    texts = [f"({cell.sql}\n)::pg_catalog.text" for cell in annotated.cells if cell.role == "row"]
    columns.append(f"{json_array_sql(texts)} AS _pgrain_o")
    nulls = [f"(_pgrain_x{slot.index} IS NULL)" for slot in side.slots]
    terms = [term for d in side.details for term in group_terms(d.name, d.oid, exact)] + nulls
    numbered = [f"(pg_catalog.dense_rank() OVER (ORDER BY {', '.join(terms)}) - 1)"
                "::pg_catalog.int4 AS _pgrain_q"]
    numbered += [f"{null} AS _pgrain_null{slot.index}"
                 for null, slot in zip(nulls, side.slots, strict=True)]
    base = (f"_pgrain_base AS MATERIALIZED (\nSELECT {', '.join(numbered)}, _pgrain_b.*\nFROM (\n"
            f"SELECT {', '.join(columns)}\n{side_from(side)}\nLIMIT {OUTPUT_ROWS.default + 1}\n"
            ") AS _pgrain_b\n)")
    carried = ", ".join(["_pgrain_q", *(d.name for d in side.details),
                         *(f"_pgrain_null{slot.index}" for slot in side.slots)])
    pattern = (f"_pgrain_q AS MATERIALIZED (SELECT DISTINCT ON (_pgrain_q) {carried}"
               " FROM _pgrain_base ORDER BY _pgrain_q)")
    labels = [f"({cell.sql}\n)::pg_catalog.text" for cell in annotated.cells
              if cell.role == "label"]
    columns = ["_pgrain_q._pgrain_q",
               *(f"_pgrain_c{slot.index}._pgrain_i AS _pgrain_a{slot.index}"
                 for slot in annotated.slots),
               f"{json_array_sql(labels)} AS _pgrain_o"]
    entry = (f"_pgrain_entry AS MATERIALIZED (\nSELECT {', '.join(columns)}\n"
             f"{_assignments(annotated, n_classes)}\n)")
    flags = " OPERATOR(pg_catalog.||) ".join(f"pg_catalog.boolsend(_pgrain_null{slot.index})"
                                             for slot in side.slots)
    order = "_pgrain_r"
    results = [
        _row("row", "pg_catalog.jsonb_agg(_pgrain_o ORDER BY _pgrain_r)::pg_catalog.text",
             _ints("_pgrain_q", order),
             f"pg_catalog.string_agg({flags}, {_EMPTY} ORDER BY {order})", source="_pgrain_base"),
        _row("entry", "pg_catalog.jsonb_agg(_pgrain_o)::pg_catalog.text",
             f"pg_catalog.string_agg({_entry_code(annotated)}, {_EMPTY})",
             source="_pgrain_entry"),
        _size("output_rows", "_pgrain_base"),
        _size("assignments", "_pgrain_q", n_classes ** len(annotated.slots)),
    ]
    for slot in side.slots:
        results.append(_row(f"digest:{slot.index}", None,
                            f"pg_catalog.string_agg(_pgrain_x{slot.index}, {_EMPTY} "
                            f"ORDER BY {order})", source="_pgrain_base"))
    return [base, pattern, entry], results


# --- small things --------------------------------------------------------------------------

def _ints(column: str, order: str | None = "_pgrain_q") -> str:
    by = f" ORDER BY {order}" if order else ""
    return f"pg_catalog.string_agg(pg_catalog.int4send({column}), {_EMPTY}{by})"


def _size(limit: str, table: str, factor: int = 1) -> Result:
    return _row("size", f"'{limit}'",
                f"pg_catalog.int8send(pg_catalog.count(*) OPERATOR(pg_catalog.*) {factor})",
                source=table)


class Result(NamedTuple):
    """A row of the capture: aggregates over `source`, None for NULL."""

    tag: str
    meta: str | None
    a: str | None
    b: str | None
    c: str | None
    source: str


def _row(tag: str, meta: str | None, a: str | None = None, b: str | None = None,
         c: str | None = None, *, source: str) -> Result:
    return Result(tag, meta, a, b, c, source)


def _selects(results: list[Result]) -> list[str]:
    """One SELECT for each source, however many rows it gives."""
    null, made = "NULL::pg_catalog.bytea", []
    for source in dict.fromkeys(result.source for result in results):
        columns, rows = [], []
        for number, result in enumerate(r for r in results if r.source == source):
            values = []
            for letter, text in zip("mabc", result[1:5], strict=True):
                values.append(f"{letter}{number}" if text is not None else
                              "NULL::pg_catalog.text" if letter == "m" else null)
                if text is not None:
                    as_ = f"({text})::pg_catalog.text" if letter == "m" else text
                    columns.append(f"{as_} AS {letter}{number}")
            rows.append(f"('{result.tag}'::pg_catalog.text, {', '.join(values)})")
        made.append(f"SELECT _pgrain_v.* FROM (SELECT {', '.join(columns)} FROM {source}) AS "
                    f"_pgrain_s, LATERAL (VALUES {', '.join(rows)}) AS _pgrain_v "
                    "(tag, meta, a, b, c)")
    return made
