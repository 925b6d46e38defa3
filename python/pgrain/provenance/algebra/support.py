"""What values a sum, average, minimum or maximum of a group can have, as PostgreSQL finds them.

A minimum or maximum is one of the values that the group's rows have, or NULL. A sum is that of some
of its rows: the different ones are counted out row after row, or every number between the least
and the largest sum may be one, whichever are fewer; an average is a sum over a number of rows. More
than `MOST` are refused. A value too many does no harm: its probability is 0.
"""

from __future__ import annotations

import math

from pgrain.provenance.algebra.blocks import Aggregate, SelectBlock, Support

MOST = 4096             # sums of a group, at most
DIGITS = 6              # decimals that the network adds up without an error (jointly.py)
_INT8, _NUMERIC, _FLOATS = 20, 1700, (700, 701)
_FINITE = ("{0} IS NOT NULL AND {0} OPERATOR(pg_catalog.<>) ALL (ARRAY['NaN', 'Infinity', "
           "'-Infinity']::pg_catalog.numeric[])")


def mark(aggregate: Aggregate, oid: int) -> bool:
    """Have the capture bring what is needed to know an aggregate's values; False if they can't be
    known: of numbers of the circuit, of floating-point sums. oid: type of its argument."""
    if aggregate.number is not None or aggregate.argument is None \
            or aggregate.function not in ("min", "max", "sum", "avg"):
        return False
    where, sql = aggregate.argument
    if aggregate.function in ("min", "max"):
        aggregate.support = "ranks"
        setattr(aggregate, f"distinct_{where}", sql)
        return True
    aggregate.support = "sums"
    setattr(aggregate, f"distinct_{where}", f"({sql}\n)::pg_catalog.numeric")
    return oid not in _FLOATS


def where_of(aggregate: Aggregate) -> str:
    """Where an aggregate's values are evaluated: "base" or "entry"."""
    return "base" if aggregate.distinct_entry is None else "entry"


def ranked(aggregate: Aggregate, where: str) -> bool:
    """Whether the values of an aggregate have ranks."""
    return getattr(aggregate, f"distinct_{where}") is not None and (
        aggregate.support != "sums" or aggregate.distinct)


def _list(block: SelectBlock, j: int) -> str:
    return f"_pgrain_s{block.number}_{j}"


def of_group(block: SelectBlock) -> list[str]:
    """Columns of a group that say what its aggregates can be: ranks of values, values, or (where
    these hang on classes) patterns of rows."""
    made, by_entry = [], block.grouping.by_entry
    for j, aggregate in enumerate(block.grouping.aggregates):
        if not aggregate.support:
            continue
        where = where_of(aggregate)
        patterns = aggregate.support == "sums" and where == "entry"
        column = "_pgrain_p" if patterns else \
            f"_pgrain_mr{j}" if aggregate.support == "ranks" else f"_pgrain_md{j}"
        known = f"_pgrain_s.{column} IS NOT NULL" if patterns else _known(aggregate, j)
        once = "DISTINCT " if aggregate.support == "ranks" or \
            aggregate.distinct and not patterns else ""
        array = f"pg_catalog.array_agg({once}_pgrain_s.{column}) FILTER (WHERE {known})"
        # The group's own rows; where it is made of the others, all there are.
        own = by_entry == (where == "entry") and not (patterns and by_entry) \
            or patterns and not by_entry
        if not own:
            source = block.entry if where == "entry" and not patterns else block.base
            array = f"(SELECT {array} FROM {source} AS _pgrain_s)"
        made.append(f"{array} AS _pgrain_s{j}")
    return made


def _known(aggregate: Aggregate, j: int) -> str:
    value = f"_pgrain_s._pgrain_md{j}"
    return f"{value} IS NOT NULL" if aggregate.support == "ranks" else _FINITE.format(value)


def ctes(block: SelectBlock) -> list[str]:
    """What the columns of `of_group` name: values by their ranks, or by the patterns of rows."""
    made = []
    for j, aggregate in enumerate(block.grouping.aggregates):
        where = where_of(aggregate)
        source = f"{block.base if where == 'base' else block.entry} AS _pgrain_s"
        if aggregate.support == "ranks":
            made.append(
                f"{_list(block, j)} AS MATERIALIZED (SELECT DISTINCT ON (_pgrain_mr{j}) "
                f"_pgrain_mr{j} AS _pgrain_r, _pgrain_md{j} AS _pgrain_v FROM {source} "
                f"WHERE _pgrain_md{j} IS NOT NULL ORDER BY _pgrain_mr{j})")
        elif aggregate.support == "sums" and where == "entry":
            value = f"_pgrain_md{j}"
            made.append(
                f"{_list(block, j)} AS MATERIALIZED (SELECT _pgrain_p, pg_catalog.array_agg("
                f"DISTINCT {value}) AS _pgrain_v, {_extent(value)} FROM {source} WHERE "
                f"{_known(aggregate, j)} GROUP BY _pgrain_p)")
    return made


def _extent(value: str) -> str:
    """SQL of the least and the largest that is added, of the digits that matter and that show."""
    return (f"LEAST(pg_catalog.min({value}), 0) AS _pgrain_low, GREATEST(pg_catalog.max({value}), "
            f"0) AS _pgrain_high, pg_catalog.max(pg_catalog.min_scale({value})) AS _pgrain_digits, "
            f"pg_catalog.max(pg_catalog.scale({value})) AS _pgrain_shown")


def support(block: SelectBlock, j: int, name: str, oid: int, refusal) -> Support:
    """The values of aggregate j of a block's groups; name: of ours; oid: of their type."""
    aggregate = block.grouping.aggregates[j]
    if aggregate.support == "ranks":
        ranks = (f"LATERAL pg_catalog.unnest(pg_catalog.array_append(_pgrain_w._pgrain_s{j}, "
                 f"NULL::pg_catalog.int4)) AS {name}r (_pgrain_r) LEFT JOIN {_list(block, j)} AS "
                 f"{name} ON {name}._pgrain_r OPERATOR(pg_catalog.=) {name}r._pgrain_r")
        known_by = f"{name}r._pgrain_r" if aggregate.as_text else f"{name}._pgrain_v"
        return Support([ranks], f"{name}._pgrain_v", known_by, oid)
    of_rows, step = (_of_values if where_of(aggregate) == "base" else _of_patterns)(block, j)
    average = aggregate.function == "avg"
    value = "_pgrain_x OPERATOR(pg_catalog./) _pgrain_m" if average else \
        "_pgrain_x::pg_catalog.int8" if oid == _INT8 else "_pgrain_x"
    made = [f"LATERAL ({of_rows}) AS {name}b", _sums(name, value, step, average)]
    return Support(made, f"{name}._pgrain_v", f"{name}._pgrain_v", oid, f"{name}._pgrain_r",
                   refusal)


def _of_values(block: SelectBlock, j: int) -> tuple[str, str]:
    """(what is known of all sums: how many rows, the logarithm of the number of sums, least and
    largest sum, digits; what a row adds to a sum): values that no class moves."""
    array, value, many = f"_pgrain_w._pgrain_s{j}", "_pgrain_u._pgrain_v", "_pgrain_u._pgrain_c"
    times = f"{value} OPERATOR(pg_catalog.*) {many}"
    return (
        f"SELECT coalesce(pg_catalog.cardinality({array}), 0) AS _pgrain_n, coalesce(pg_catalog.sum"
        f"(pg_catalog.ln(({many} OPERATOR(pg_catalog.+) 1)::pg_catalog.float8)), 0) AS _pgrain_ln, "
        f"coalesce(pg_catalog.sum(LEAST({times}, 0)), 0) AS _pgrain_low, coalesce(pg_catalog.sum("
        f"GREATEST({times}, 0)), 0) AS _pgrain_high, coalesce(pg_catalog.max(pg_catalog.min_scale("
        f"{value})), 0) AS _pgrain_digits, coalesce(pg_catalog.max(pg_catalog.scale({value})), 0) "
        "AS _pgrain_shown FROM (SELECT _pgrain_v, pg_catalog.count(*) AS _pgrain_c FROM "
        f"pg_catalog.unnest({array}) AS _pgrain_u (_pgrain_v) GROUP BY _pgrain_v) AS _pgrain_u",
        "LATERAL (VALUES (_pgrain_z._pgrain_x, _pgrain_z._pgrain_m), (coalesce(_pgrain_z._pgrain_x,"
        f" 0) OPERATOR(pg_catalog.+) ({array})[_pgrain_z._pgrain_i OPERATOR(pg_catalog.+) 1], "
        "_pgrain_z._pgrain_m OPERATOR(pg_catalog.+) {one})) AS _pgrain_y (_pgrain_x, _pgrain_m)")


def _of_patterns(block: SelectBlock, j: int) -> tuple[str, str]:
    """The same where what a row adds hangs on its classes."""
    array, listed = f"_pgrain_w._pgrain_s{j}", _list(block, j)
    of = "_pgrain_t._pgrain_"
    return (
        f"SELECT coalesce(pg_catalog.cardinality({array}), 0) AS _pgrain_n, coalesce(pg_catalog.sum"
        f"(pg_catalog.ln((pg_catalog.cardinality({of}v) OPERATOR(pg_catalog.+) 1)"
        f"::pg_catalog.float8)), 0) AS _pgrain_ln, coalesce(pg_catalog.sum({of}low), 0) AS "
        f"_pgrain_low, coalesce(pg_catalog.sum({of}high), 0) AS _pgrain_high, coalesce("
        f"pg_catalog.max({of}digits), 0) AS _pgrain_digits, coalesce(pg_catalog.max({of}shown), 0) "
        f"AS _pgrain_shown FROM pg_catalog.unnest({array}) AS _pgrain_u (_pgrain_p) JOIN {listed} "
        f"AS _pgrain_t ON {of}p OPERATOR(pg_catalog.=) _pgrain_u._pgrain_p",
        "LATERAL (SELECT _pgrain_z._pgrain_x, _pgrain_z._pgrain_m UNION ALL SELECT coalesce("
        "_pgrain_z._pgrain_x, 0) OPERATOR(pg_catalog.+) _pgrain_u._pgrain_v, _pgrain_z._pgrain_m "
        f"OPERATOR(pg_catalog.+) {{one}} FROM {listed} AS _pgrain_t, LATERAL pg_catalog.unnest("
        f"_pgrain_t._pgrain_v) AS _pgrain_u (_pgrain_v) WHERE _pgrain_t._pgrain_p "
        f"OPERATOR(pg_catalog.=) ({array})[_pgrain_z._pgrain_i OPERATOR(pg_catalog.+) 1]) AS "
        "_pgrain_y (_pgrain_x, _pgrain_m)")


def _sums(name: str, value: str, step: str, average: bool) -> str:
    """FROM item of all sums (or averages) of a group, and a -1 where there are too many."""
    of = f"{name}b._pgrain_"
    tens = f"pg_catalog.power(10::pg_catalog.numeric, {of}digits)"
    span = (f"(({of}high OPERATOR(pg_catalog.-) {of}low) OPERATOR(pg_catalog.*) {tens} "
            f"OPERATOR(pg_catalog.+) 1)")
    exact = f"{of}digits OPERATOR(pg_catalog.<=) {DIGITS}"
    few = f"{of}ln OPERATOR(pg_catalog.<=) {math.log(MOST) + 1e-9!r}::pg_catalog.float8"
    if average:     # of which number of rows, too
        span = f"({span} OPERATOR(pg_catalog.*) ({of}n OPERATOR(pg_catalog.+) 1))"
        few = f"({few} OR {span} OPERATOR(pg_catalog.<=) {MOST})"
    near = f"{span} OPERATOR(pg_catalog.<=) {MOST}"
    counted = (
        "SELECT DISTINCT _pgrain_v, 0 FROM (WITH RECURSIVE _pgrain_z (_pgrain_i, _pgrain_x, "
        "_pgrain_m) AS (SELECT 0, NULL::pg_catalog.numeric, 0::pg_catalog.numeric WHERE "
        f"{exact} AND {few} UNION SELECT _pgrain_z._pgrain_i OPERATOR(pg_catalog.+) 1, "
        "_pgrain_y._pgrain_x, _pgrain_y._pgrain_m FROM _pgrain_z, "
        f"{step.format(one=int(average))} WHERE _pgrain_z._pgrain_i OPERATOR(pg_catalog.<) {of}n) "
        f"SELECT {value} AS _pgrain_v FROM _pgrain_z WHERE _pgrain_i OPERATOR(pg_catalog.=) {of}n)"
        " AS _pgrain_z")
    parts = [counted]
    if average:
        parts.append(f"SELECT NULL, -1 WHERE NOT ({exact} AND {few})")
    else:
        last = f"CASE WHEN {exact} AND {near} AND NOT {few} THEN {of}high ELSE {of}low " \
            "OPERATOR(pg_catalog.-) 1 END"
        parts.append(f"SELECT {value}, 0 FROM (SELECT pg_catalog.round(_pgrain_x, {of}shown) AS "
                     f"_pgrain_x FROM pg_catalog.generate_series({of}low, {last}, 1 OPERATOR("
                     f"pg_catalog./) {tens}) AS _pgrain_z (_pgrain_x)) AS _pgrain_z")
        parts.append(f"SELECT NULL, 0 WHERE {exact} AND {near} AND NOT {few}")
        parts.append(f"SELECT NULL, -1 WHERE NOT ({exact} AND ({few} OR {near}))")
    return "LATERAL (" + " UNION ALL ".join(parts) + f") AS {name} (_pgrain_v, _pgrain_r)"
