"""The groups of a SELECT in the capture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgrain.provenance.algebra import support
from pgrain.provenance.algebra.blocks import ID, KEY, SelectBlock
from pgrain.provenance.algebra.from_items import select_sql
from pgrain.settings import FACTOR_PAIRS

if TYPE_CHECKING:
    from pgrain.provenance.algebra.sql import Capture

EMPTY = "''::pg_catalog.bytea"
NUMBER = "(pg_catalog.row_number() OVER () OPERATOR(pg_catalog.-) 1)::pg_catalog.int4"
BOOLEANS = "(VALUES (true), (false), (NULL))"


def is_direct(block: SelectBlock) -> bool:
    """Whether the groups alone can carry what is known of their rows: nobody else reads these."""
    grouping = block.grouping
    return (grouping is not None and block.key is None and not grouping.by_entry
            and not grouping.sets and not block.details
            and all(a.distinct_base is None and not a.support for a in grouping.aggregates)
            and all(spec.where != "base" for spec in block.outputs)
            and all(at != "base" for at, _ in grouping.leaves + grouping.having_leaves))


def group_directly(capture: Capture, block: SelectBlock, columns: list[str]) -> None:
    """The base rows (`columns`) packed group after group, in one pass: no row has a number, and
    none is kept. ``g.n``: rows of each group."""
    n, grouping, cte = block.number, block.grouping, f"_pgrain_g{block.number}"
    parts = capture.base_parts(block)
    made = ["pg_catalog.count(*)::pg_catalog.int4 AS _pgrain_n"]
    for number, (_, a, b) in enumerate(parts):
        made.append(f"{a} AS _pgrain_a{number}")
        if b is not None:
            made.append(f"{b} AS _pgrain_b{number}")
    made += of_group(block)
    inner = select_sql(block, columns, FACTOR_PAIRS.default + 1)
    capture.ctes.append(
        f"{cte} AS MATERIALIZED (\nSELECT {NUMBER} AS {ID}, _pgrain_a.*\nFROM (\n"
        f"SELECT {', '.join(made)}\nFROM (\n{inner}\n) AS _pgrain_s"
        + (f"\nGROUP BY {grouping.by}" if grouping.by else "") + "\n) AS _pgrain_a\n)")
    results = capture.results
    for number, (tag, _, b) in enumerate(parts):
        results.add(cte, tag, f"pg_catalog.string_agg(_pgrain_a{number}, {EMPTY})",
                    f"pg_catalog.string_agg(_pgrain_b{number}, {EMPTY})" if b is not None else None)
    results.ints(cte, f"{n}.g.n", "_pgrain_n")
    results.add(cte, f"{n}.rows",
                "pg_catalog.int8send(pg_catalog.sum(_pgrain_n)::pg_catalog.int8)")
    _group_results(capture, block)


def of_group(block: SelectBlock) -> list[str]:
    """Columns of a group that its keys decide, and aggregates that no prediction moves."""
    grouping = block.grouping
    made = [f"({spec.sql}\n) AS _pgrain_o{c}" for c, spec in enumerate(block.outputs)
            if spec.where in ("constant", "key", "fixed")]
    made += [f"({sql}\n) AS _pgrain_l{i}" for i, (at, sql) in enumerate(grouping.leaves)
             if at in ("constant", "key", "fixed")]
    return made + [f"({sql}\n) AS _pgrain_w{i}" for i, (at, sql)
                   in enumerate(grouping.having_leaves) if at in ("constant", "key", "fixed")]


def group(capture: Capture, block: SelectBlock) -> None:
    """``g.m`` members (base rows or assignments) of each group, ``g.n`` how many, ``g.total`` which
    groups GROUPING SETS have without rows too."""
    n, grouping = block.number, block.grouping
    source = block.entry if grouping.by_entry else block.base
    member = "_pgrain_e" if grouping.by_entry else "_pgrain_b"
    where = "entry" if grouping.by_entry else "base"
    made = [f"pg_catalog.string_agg(pg_catalog.int4send(_pgrain_s.{member}), {EMPTY}) "
            "AS _pgrain_m", f"pg_catalog.count(_pgrain_s.{member})::pg_catalog.int4 "
            "AS _pgrain_n", f"(pg_catalog.array_agg(_pgrain_s.{member}))[1] AS _pgrain_first"]
    made += of_group(block) + support.of_group(block)
    capture.ctes += support.ctes(block)
    keyed = block.key is not None
    from_ = f"{source} AS _pgrain_s"
    by = [part for part in ("_pgrain_s." + KEY if keyed else "", grouping.by or "") if part]
    if keyed and grouping.by is None:
        from_ = (f"{block.key.cte} AS _pgrain_key LEFT JOIN {source} AS _pgrain_s ON "
                 f"_pgrain_s.{KEY} OPERATOR(pg_catalog.=) _pgrain_key.{KEY}")
        by = [f"_pgrain_key.{KEY}"]
        made.append(f"_pgrain_key.{KEY}")
    elif keyed:
        made.append(f"_pgrain_s.{KEY}")
    carried = [f"_pgrain_f._pgrain_o{c}" for c, spec in enumerate(block.outputs)
               if spec.where == where]
    carried += [f"_pgrain_f._pgrain_l{i}" for i, (at, _) in enumerate(grouping.leaves)
                if at == where]
    carried += [f"_pgrain_f._pgrain_w{i}" for i, (at, _) in enumerate(grouping.having_leaves)
                if at == where]
    if grouping.sets:
        keys = ", ".join(f"_pgrain_g{i}" for i in range(len(grouping.keys)))
        made.append(f"GROUPING({keys}) OPERATOR(pg_catalog.=) {2 ** len(grouping.keys) - 1} "
                    "AS _pgrain_total" if keys else "true AS _pgrain_total")
    cte = f"_pgrain_g{n}"
    grouped = f"SELECT {', '.join(made)}\nFROM {from_}" + (
        f"\nGROUP BY {', '.join(by)}" if by else "")
    capture.ctes.append(
        f"{cte} AS MATERIALIZED (\nSELECT {NUMBER} AS {ID}, _pgrain_a.*"
        + "".join(f", {column}" for column in carried) + f"\nFROM (\n{grouped}\n) AS _pgrain_a"
        + (f"\nLEFT JOIN {source} AS _pgrain_f ON _pgrain_f.{member} OPERATOR(pg_catalog.=) "
           "_pgrain_a._pgrain_first" if carried else "") + "\n)")
    results = capture.results
    results.add(cte, f"{n}.g.m", f"pg_catalog.string_agg(_pgrain_m, {EMPTY})")
    results.ints(cte, f"{n}.g.n", "_pgrain_n")
    if grouping.sets:
        results.flags(cte, f"{n}.g.total", "_pgrain_total")
    _group_results(capture, block)


def _group_results(capture: Capture, block: SelectBlock) -> None:
    """``l<i>`` leaves of each group, ``c<i>`` texts of a CASE, ``h`` assignments of atoms that
    HAVING lets pass."""
    n, grouping, results = block.number, block.grouping, capture.results
    cte = f"_pgrain_g{n}"
    for i in range(len(grouping.leaves)):
        results.floats(cte, f"{n}.l{i}", f"_pgrain_l{i}")
    for c, (text, atoms) in enumerate(grouping.cases):
        names = [f"_pgrain_h{i}" for i in atoms]
        codes = "".join(f", {state_code(name)} AS {name}" for name in names)
        tables = "".join(f", {BOOLEANS} AS {name} (_pgrain_v)" for name in names)
        shown = (f"(SELECT {ID}, ({text}\n)::pg_catalog.text AS _pgrain_o{codes} FROM {cte} AS "
                 f"_pgrain_x{tables}) AS _pgrain_s")
        results.ints(shown, f"{n}.c{c}.g", ID)
        results.texts(shown, f"{n}.c{c}.text", ["_pgrain_o"])
        for i, name in zip(atoms, names, strict=True):
            results.ints(shown, f"{n}.c{c}.t{i}", name)
    if grouping.having is not None:
        names = [f"_pgrain_h{i}" for i in range(len(grouping.atoms))]
        tables = "".join(f", {BOOLEANS} AS {name} (_pgrain_v)" for name in names)
        codes = ", ".join(f"{state_code(name)} AS {name}" for name in names)
        passing = (f"(SELECT {ID}{', ' if codes else ''}{codes} FROM {cte} AS _pgrain_x{tables}"
                   f"\nWHERE ({grouping.having}\n)) AS _pgrain_s")
        results.ints(passing, f"{n}.h.g", ID)
        for i, name in enumerate(names):
            results.ints(passing, f"{n}.h.t{i}", name)


def state_code(name: str) -> str:
    """0 false, 1 true, 2 NULL: the place of a boolean's state among its three literals."""
    return (f"CASE WHEN {name}._pgrain_v THEN 1 WHEN NOT {name}._pgrain_v THEN 0 ELSE 2 END")
