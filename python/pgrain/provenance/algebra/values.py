"""Numbers as values: a possible row for each value that a number of a group can have.

GROUP BY n, DISTINCT, UNION, INTERSECT, EXCEPT and IN need the value itself, no threshold on it. A
row whose count n is of m rows becomes m + 1 possible rows, in which n is 0, 1, …, m: columns that
PostgreSQL groups and compares like any other. Row v is there with the probability P(n = v) =
P(n >= v) - P(n >= v + 1), given that the group is; the rows of one count exclude each other. So it
is with minima, maxima, sums and averages (`support.py` says what these can be): what is made of
them in the select list is then made of values, by PostgreSQL.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pgrain.errors import UnsupportedOperator
from pgrain.plan import nodes
from pgrain.plan.lexer import tokenize
from pgrain.provenance.algebra import comparisons, jointly, spelled
from pgrain.provenance.algebra.blocks import (
    ID,
    KEY,
    Atom,
    Chosen,
    Column,
    Key,
    Leaf,
    Made,
    Number,
    OutputSpec,
    PredicateBlock,
    Relation,
    SelectBlock,
    Support,
    Unit,
)
from pgrain.provenance.algebra.program import candidates, free_columns
from pgrain.provenance.algebra.small_gates import Combination
from pgrain.provenance.algebra.wiring import CERTAIN, NEVER

_ROW = "_pgrain_w"


def can_expand(relation: Relation, cells) -> bool:
    """Whether the numbers `cells` of a relation are counts whose largest value is known."""
    return all(cell in relation.bounds for cell in cells)


def expand(program, relation: Relation, cells: set[int], bare: bool = False,
           key: Key | None = None, supports: dict | None = None) -> Relation:
    """The relation with its numbers `cells` as columns of values; its other numbers stay.

    key: what its rows stand for, if it is keyed.
    bare: in place of its columns the row's number and the one count; what its rows hang on is left
    out, for a gate that asks about the counts of rows that are there.
    supports: cell -> SQL of its name -> Support, of those that are no counts.
    """
    block = SelectBlock(program.number(), key if relation.keyed else None)
    block.from_.append(Made(f"(SELECT * FROM {relation.cte}) AS {_ROW}"))
    if relation.keyed:
        block.where.append(Made(f"{_ROW}.{KEY} OPERATOR(pg_catalog.=) _pgrain_key.{KEY}"))
    block.units.append(Unit(f"{_ROW}.{ID}", relation, _ROW, bare=bare))
    columns, value, types = [], {}, {}
    for cell in sorted(cells):
        name = f"_pgrain_v{len(block.chosen)}"
        found: Support = supports[cell](name) if cell in (supports or {}) else \
            _of_count(name, int(cell in relation.positive), relation.bounds[cell])
        block.from_ += [Made(item) for item in found.from_]
        value[cell], types[cell] = found.value, found.oid
        block.leaves.append(Leaf(f"({found.known_by})::pg_catalog.float8"))
        block.chosen.append(Chosen(cell, len(block.leaves) - 1, cell in (supports or {})))
        if found.too_many is not None:
            block.leaves.append(Leaf(f"({found.too_many})::pg_catalog.float8"))
            block.too_many.append((len(block.leaves) - 1, found.refusal))
    if bare:
        block.outputs = [OutputSpec(Column("_pgrain_w", 23), "base", f"{_ROW}.{ID}"),
                         OutputSpec(Column("_pgrain_n", 20), "base", *value.values())]
        columns = [spec.column for spec in block.outputs]
    for number, column in enumerate([] if bare else relation.columns):
        made = replace(column)
        if column.cell in cells:
            made = Column(column.name, types[column.cell], labelled=True)
            block.outputs.append(OutputSpec(made, "base", value[column.cell]))
        elif column.cell is not None:
            made.cell = len(block.cells)
            block.cells.append(Number(("x", 0), [("cell", 0, column.cell)]))
            block.outputs.append(OutputSpec(made, "cell"))
        elif column.flag is not None:
            made.flag = len(block.flags)
            block.flags.append(Atom("flag", Number(("p", 0), [("flag", 0, column.flag)]), None))
            block.outputs.append(OutputSpec(made, "flag"))
        elif column.shown is not None:      # nothing can be made of it
            block.outputs.append(OutputSpec(made, "shown"))
        else:
            block.outputs.append(OutputSpec(made, "base", f"{_ROW}._pgrain_o{number}"))
        columns.append(made)
    degrees = {made.cell: relation.degrees[old.cell]
               for made, old in zip(columns, [] if bare else relation.columns, strict=False)
               if made.cell is not None and old.cell in relation.degrees}
    program.blocks.append(block)
    counts = {made.cell: old.cell for made, old in zip(columns, relation.columns, strict=False)
              if made.cell is not None and old.cell in relation.bounds}
    bounds = {cell: f"(SELECT pg_catalog.max({relation.bounds[old]}) FROM {relation.cte} AS "
              "_pgrain_w)" for cell, old in counts.items()}
    return Relation(block.number, block.row, columns, relation.keyed, degrees=degrees,
                    bounds=bounds, positive={c for c in counts if counts[c] in relation.positive})


def _of_count(name: str, least: int, bound: str) -> Support:
    series = f"pg_catalog.generate_series({least}, {bound})"
    return Support([f"LATERAL {series} AS {name} (_pgrain_v)"],
                   f"{name}._pgrain_v::pg_catalog.int8", f"{name}._pgrain_v", 20)


def wish(program, relation: Relation, places: list[int]) -> None:
    """Have the columns at these places made columns of values where they come from: lowering begins
    anew (`capture._lowered`). Nothing is done if that has been tried, or cannot be."""
    wanted = {relation.wishes[place] for place in places if place in relation.wishes}
    if wanted - program.values:
        program.wanted_values |= wanted
        raise UnsupportedOperator("a number that is wanted as a value")


def values_alone(program, relation: Relation, key: Key | None = None) -> Relation:
    """The relation with all its numbers as values, if that can be; else as it is. key: what its
    rows stand for, if it is keyed."""
    cells = {column.cell for column in relation.columns if column.cell is not None}
    plain = all(column.cell is not None or not column.random for column in relation.columns)
    wanted = {relation.sources[cell] for cell in cells if cell in relation.sources}
    if plain and wanted - program.values and can_expand(relation, cells):
        program.wanted_values |= wanted     # then what its SELECT compares with it knows the value
        raise UnsupportedOperator("a count beside comparisons of it")
    able = cells and plain and can_expand(relation, cells) and not (relation.keyed and key is None)
    if not able:
        wish(program, relation, [n for n, c in enumerate(relation.columns) if c.random])
    return expand(program, relation, cells, key=key) if able else relation


def literals(base, chosen: list[Chosen]) -> list[np.ndarray]:
    """Literals (n,) whose conjunction says that the numbers of each base row's row of unit 0 are
    the leaves' values.

    Several numbers, and those of groups that have passed a HAVING, are taken together where the
    groups are small; else as if independent.
    """
    for leaf, refusal in base.block.too_many:
        if (base.leaves[leaf] == -1).any():
            raise refusal
    atoms, codes = [], []
    for one in chosen:
        number, null = Number(("x", 0), [("cell", 0, one.cell)]), np.isnan(base.leaves[one.leaf])
        atoms.append(Atom("=", number, Number(("const", 0), [("leaf", one.leaf)])))
        codes.append(np.where(null, 2, 1))
        if one.nullable:
            atoms.append(Atom("is null", number, None))
            codes.append(null.astype(np.int64))
    joint = jointly.of(base, atoms) if len(atoms) > 1 or atoms and jointly.better(base, atoms[0]) \
        else None
    if joint is None or not joint.fits.any():
        return [_literal(base, one) for one in chosen]
    made = joint.literals(atoms, np.stack(codes, axis=1), np.arange(base.n), joint.fits,
                          base.units[0][1])
    if joint.fits.all():
        return [made]
    return [made, *(np.where(joint.fits, CERTAIN, _literal(base, one)) for one in chosen)]


def _literal(base, one: Chosen) -> np.ndarray:
    """(n,) literals that a number of each base row's row of unit 0 is the row's value."""
    rows, index = base.units[0]
    value = base.leaves[one.leaf]
    if one.nullable:
        return _literal_or_null(base, one.cell, value, index)
    groups, of, number = rows.origin[one.cell]
    of, j = of[index], number.leaves[number.tree[1]][1]
    known = spelled.every_value(base, groups, j)
    if known is None:
        return spelled.count_is(base, groups, of, j, value, index)
    first, size, literal = known
    at = value.astype(np.int64)
    there = at < size[of]
    return np.where(there, literal[np.where(there, first[of] + at, 0)], NEVER)


def _literal_or_null(base, cell: int, value: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The same of a number that may be NULL: `value` is NaN there."""
    number, wiring = Number(("x", 0), [("cell", 0, cell)]), base.assembly.wiring
    equal = comparisons.place_bound(base, number, "=", np.nan_to_num(value), None)
    null = comparisons.place(base, Atom("is null", number, None))
    out, row = wiring.exclusive(index), np.arange(base.n)
    wiring.add(Combination(out, base.n, row, np.where(np.isnan(value), null, equal) + 1,
                           np.ones(base.n)))
    return out + row


def ask_values(builder, expression: nodes.Expr) -> None:
    """Note that the numbers which an expression names are wanted as values of this SELECT's FROM,
    those of its scalar subqueries and its aggregates too: its lowering begins anew with them
    (`capture._lowered`)."""
    inside: list[nodes.AggregateCall] = []
    for piece in expression.walk():
        if any(call.start <= piece.start and piece.end <= call.end for call in inside):
            continue
        if isinstance(piece, nodes.AggregateCall):
            inside.append(piece)
            ask_aggregate(builder, piece)
        if isinstance(piece, nodes.Subquery):
            ask_value(builder, piece)
        found = builder.resolve(piece.qualifier, piece.name) \
            if isinstance(piece, nodes.ColumnRef) else None
        if found is None or not found[1].random or found[1].flag is not None \
                or found[0] not in getattr(builder, "unit_of", ()):
            continue
        ask_value_of(builder, *found)


def ask_aggregate(builder, piece: nodes.AggregateCall) -> None:
    """The same of an aggregate of this SELECT: those of its item, or of HAVING."""
    select = builder.select
    at = next((number for number, item in enumerate(select.items) if item.expression is not None
               and item.expression.start <= piece.start and piece.end <= item.expression.end), None)
    builder.program.wanted_values.add(("having", id(select)) if at is None
                                      else ("item", id(select), at))


def ask_value_of(builder, alias: str, column: Column) -> None:
    """The same of one column."""
    # (An outer join has a relation of its own; its sides are asked.)
    relation = builder.block.units[builder.unit_of[alias]].relation
    builder.program.wanted_values.add(relation.sources.get(
        column.cell, (id(builder.select), alias, column.name)))


def ask_value(builder, piece: nodes.Subquery) -> None:
    """The same of one scalar subquery that depends on a model."""
    if piece.form == "scalar" and builder.program.analysis.depends(piece):
        builder.program.wanted_values.add(("scalar", id(piece)))


def wants_value(builder, piece: nodes.Subquery) -> bool:
    """Whether a scalar subquery is wanted as values, or an item of the select list with it."""
    values = builder.program.values
    return ("scalar", id(piece)) in values or any(
        known is piece for number, item in enumerate(builder.select.items)
        if item.expression is not None and ("item", id(builder.select), number) in values
        for known in item.expression.walk())


def member(builder, piece: nodes.Subquery) -> str | None:
    """SQL of ``n IN (SELECT …)``, ``s > ALL (SELECT …)``, for a number and a query that depends on
    no model: joined as a boolean. Of a count: true if it is one of the values for which PostgreSQL
    says so; of others: if it is at such a place among the query's values. None if there are
    several numbers."""
    from pgrain.provenance.algebra.subqueries import _join_boolean
    program, operand = builder.program, piece.operand
    randoms = builder.randoms(operand)
    spans = {(p.start, p.end) for p in randoms}
    kinds = {program.text[p.start:p.end] for p in randoms}
    kind, unit, cell = (*builder.piece_number(randoms[0]), None, None)[:3]
    if len(kinds) != 1 or builder.key is not None or kind != "cell":
        ask_values(builder, operand)
        return None
    relation = builder.block.units[unit].relation
    free = free_columns(program, piece.query)
    builder.refuse_random(free, piece)
    rest = operand.substitute({span: "NULL" for span in spans})
    needed = builder.outer_columns(free | set(candidates(tokenize(rest))))
    alias = builder.block.units[unit].alias
    key: Key = builder.make_key([(alias, ID, 23), *needed])
    test = operand.substitute({span: "_pgrain_r._pgrain_o1" for span in spans}) + \
        program.text[piece.operand.end:piece.end]
    if can_expand(relation, {cell}) and not relation.keyed:
        values = expand(program, relation, {cell}, bare=True)
        joined = "_pgrain_r._pgrain_o0 OPERATOR(pg_catalog.=) _pgrain_key._pgrain_c0"
    elif operand.text == program.text[randoms[0].start:randoms[0].end]:
        values = _among(program, relation, cell, key, piece.query)
        joined = f"_pgrain_r.{KEY} OPERATOR(pg_catalog.=) _pgrain_key.{KEY}"
    else:
        ask_values(builder, operand)
        return None
    sources = ", ".join([f"{key.cte} AS _pgrain_key", *key.lateral("_pgrain_key"),
                         f"{values.cte} AS _pgrain_r"])
    made = (f"SELECT _pgrain_key.{KEY}, _pgrain_r.{ID} FROM {sources} WHERE {joined} AND ({test}"
            "\n)")
    return _join_boolean(builder, PredicateBlock(program.number(), values, key, made,
                                                 made + " IS NULL"))


def _among(program, relation: Relation, cell: int, key: Key, query: nodes.Query) -> Relation:
    """Where a number can be among the values of a query: at one, between two, below or above all,
    or NULL; a possible row for each, with a number that is there for PostgreSQL to compare. key:
    its first column is the row whose number it is."""
    block = SelectBlock(program.number(), key)
    value = ("(SELECT DISTINCT _pgrain_x::pg_catalog.float8 AS _pgrain_x FROM (\n"
             f"{query.text}\n) AS _pgrain_y (_pgrain_x) WHERE _pgrain_x IS NOT NULL)")
    less, plus, by = (f"OPERATOR(pg_catalog.{one})" for one in "-+/")
    places = (
        "SELECT _pgrain_x AS _pgrain_low, _pgrain_x AS _pgrain_high, 0 AS _pgrain_kind, _pgrain_x"
        f" AS _pgrain_at FROM {value} AS _pgrain_y UNION ALL SELECT _pgrain_x, _pgrain_z, 1, "
        f"coalesce((_pgrain_x {plus} _pgrain_z) {by} 2, _pgrain_x {plus} 1) FROM (SELECT _pgrain_x,"
        " pg_catalog.lead(_pgrain_x) OVER (ORDER BY _pgrain_x) AS _pgrain_z FROM "
        f"{value} AS _pgrain_y) AS _pgrain_y UNION ALL SELECT NULL, pg_catalog.min(_pgrain_x), 1, "
        f"coalesce(pg_catalog.min(_pgrain_x) {less} 1, 0) FROM {value} AS _pgrain_y UNION ALL "
        "SELECT NULL, NULL, 2, NULL")
    block.from_ += [Made(f"(SELECT * FROM {relation.cte}) AS {_ROW}"),
                    Made(f"LATERAL ({places}) AS _pgrain_v")]
    block.where.append(Made(f"{_ROW}.{ID} OPERATOR(pg_catalog.=) _pgrain_key._pgrain_c0"))
    block.units.append(Unit(f"{_ROW}.{ID}", relation, _ROW, bare=True))
    block.leaves = [Leaf(f"(_pgrain_v._pgrain_{name})::pg_catalog.float8")
                    for name in ("low", "high", "kind")]
    block.among = cell
    block.outputs = [OutputSpec(Column("_pgrain_w", 23), "base", f"{_ROW}.{ID}"),
                     OutputSpec(Column("_pgrain_n", 701), "base", "_pgrain_v._pgrain_at")]
    program.blocks.append(block)
    return Relation(block.number, block.row, [spec.column for spec in block.outputs], True)


def places_among(base, cell: int) -> np.ndarray:
    """(n,) literals that the number `cell` of each base row's row is where the row says: `_among`'s
    low, high and kind (0 at low, 1 between, 2 NULL); NaN: no bound."""
    low, high, kind = base.leaves
    number, wiring, n = Number(("x", 0), [("cell", 0, cell)]), base.assembly.wiring, base.n

    def place(operator: str, bound: np.ndarray) -> np.ndarray:
        return comparisons.place_bound(base, number, operator, np.nan_to_num(bound), None)

    from_low, over_low, from_high = place(">=", low), place(">", low), place(">=", high)
    point, null = kind == 0, kind == 2
    parts = []      # (rows, literal, weight)
    for chosen, literal, weight in (
            (point, from_low + 1, 1.0), (point, over_low + 1, -1.0), (null, from_low + 2, 1.0),
            (~point & ~null & ~np.isnan(low), over_low + 1, 1.0),
            (~point & ~null & ~np.isnan(low) & ~np.isnan(high), from_high + 1, -1.0),
            (~point & ~null & np.isnan(low), from_high, 1.0),
            (~point & ~null & np.isnan(low) & np.isnan(high), from_high + 1, 1.0)):
        rows = np.flatnonzero(chosen)
        parts.append((rows, literal[rows], np.full(len(rows), weight)))
    out = wiring.exclusive(base.key)
    wiring.add(Combination(out, n, *(np.concatenate(part) for part in zip(*parts, strict=True))))
    return out + np.arange(n)
