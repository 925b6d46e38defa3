"""Counts as values: a possible row for each value that a count can have.

GROUP BY n, DISTINCT, UNION, INTERSECT, EXCEPT and IN need the value itself, no threshold on it. A
row whose count n is of m rows becomes m + 1 possible rows, in which n is 0, 1, …, m: columns that
PostgreSQL groups and compares like any other. Row v is there with the probability P(n = v) =
P(n >= v) - P(n >= v + 1), given that the group is; the rows of one count exclude each other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pgrain.errors import UnsupportedOperator
from pgrain.plan import nodes
from pgrain.plan.lexer import tokenize
from pgrain.provenance.algebra import comparisons
from pgrain.provenance.algebra.blocks import (
    ID,
    KEY,
    Column,
    Key,
    Leaf,
    Number,
    OutputSpec,
    PredicateBlock,
    Relation,
    SelectBlock,
    Unit,
)
from pgrain.provenance.algebra.program import candidates, free_columns
from pgrain.provenance.algebra.small_gates import Combination
from pgrain.provenance.algebra.wiring import NEVER
from pgrain.provenance.gates.levels import Levels

_ROW = "_pgrain_w"


def can_expand(relation: Relation, cells) -> bool:
    """Whether the numbers `cells` of a relation are counts whose largest value is known."""
    return not relation.keyed and all(cell in relation.bounds for cell in cells)


def expand(program, relation: Relation, cells: set[int], bare: bool = False) -> Relation:
    """The relation with its counts `cells` as columns of int8; its other numbers stay.

    bare: in place of its columns the row's number and the one count; what its rows hang on is left
    out, for a gate that asks about the counts of rows that are there.
    """
    block = SelectBlock(program.number())
    block.from_.append(f"(SELECT * FROM {relation.cte}) AS {_ROW}")
    block.units.append(Unit(f"{_ROW}.{ID}", relation, _ROW, bare=bare))
    columns, value = [], {}
    for cell in sorted(cells):
        name = f"_pgrain_v{len(block.chosen)}"
        block.from_.append(f"LATERAL pg_catalog.generate_series(0, {relation.bounds[cell]}) AS "
                           f"{name} (_pgrain_v)")
        value[cell] = f"{name}._pgrain_v::pg_catalog.int8"
        block.leaves.append(Leaf(f"({name}._pgrain_v)::pg_catalog.float8"))
        block.chosen.append((cell, len(block.leaves) - 1))
    if bare:
        block.outputs = [OutputSpec(Column("_pgrain_w", 23), "base", f"{_ROW}.{ID}"),
                         OutputSpec(Column("_pgrain_n", 20), "base", *value.values())]
        columns = [spec.column for spec in block.outputs]
    for number, column in enumerate([] if bare else relation.columns):
        made = replace(column)
        if column.cell in cells:
            made = Column(column.name, 20, labelled=True)
            block.outputs.append(OutputSpec(made, "base", value[column.cell]))
        elif column.cell is not None:
            made.cell = len(block.cells)
            block.cells.append(Number(("x", 0), [("cell", 0, column.cell)]))
            block.outputs.append(OutputSpec(made, "cell"))
        else:
            block.outputs.append(OutputSpec(made, "base", f"{_ROW}._pgrain_o{number}"))
        columns.append(made)
    degrees = {made.cell: relation.degrees[old.cell]
               for made, old in zip(columns, [] if bare else relation.columns, strict=False)
               if made.cell is not None and old.cell in relation.degrees}
    program.blocks.append(block)
    bounds = {made.cell: f"(SELECT pg_catalog.max({relation.bounds[old.cell]}) FROM {relation.cte} "
              "AS _pgrain_w)" for made, old in zip(columns, relation.columns, strict=False)
              if made.cell is not None and old.cell in relation.bounds}
    return Relation(block.number, block.row, columns, False, degrees=degrees, bounds=bounds)


def values_alone(program, relation: Relation) -> Relation:
    """The relation with all its numbers as values, if they are counts; else as it is."""
    cells = {column.cell for column in relation.columns if column.cell is not None}
    plain = all(column.cell is not None or not column.random for column in relation.columns)
    wanted = {relation.sources[cell] for cell in cells if cell in relation.sources}
    if plain and wanted - program.values and can_expand(relation, cells):
        program.wanted_values |= wanted     # then what its SELECT compares with it knows the value
        raise UnsupportedOperator("a count beside comparisons of it")
    return expand(program, relation, cells) if cells and plain and can_expand(relation, cells) \
        else relation


def literals(base, unit: int, cell: int, value: np.ndarray) -> np.ndarray:
    """(n,) literals that the count `cell` of each base row's row of a unit is `value` (n,)."""
    rows, index = base.units[unit]
    groups, of, number = rows.origin[cell]
    of, terms = of[index], groups.terms(number.leaves[number.tree[1]][1])
    asked = np.zeros(max(groups.n, 1), bool)
    asked[of] = True
    kept = np.flatnonzero(asked[terms.group] & (terms.literals[:, 0] != NEVER))
    wiring, n = base.assembly.wiring, base.n
    out, row, bounds = wiring.threes(2 * n), np.arange(n), np.concatenate([value, value + 1.0])
    wiring.add(Levels(out, np.tile(of, 2), bounds, terms.group[kept], terms.literals[kept],
                      np.ones(len(kept))))
    nothing = np.array([base.assembly.settled(state) for state in (0, 1)])
    at_least = [comparisons.given(base, out + 3 * (half * n + row), groups, of,
                                  nothing[(bounds[half * n + row] <= 0.0).astype(int)]) + 1
                for half in (0, 1)]
    out = wiring.exclusive(index)
    wiring.add(Combination(out, n, np.tile(row, 2), np.concatenate(at_least),
                           np.repeat([1.0, -1.0], n)))
    return out + row


def ask_values(builder, expression: nodes.Expr) -> None:
    """Note that the counts which an expression names are wanted as values of this SELECT's FROM:
    its lowering begins anew with them (`capture._lowered`)."""
    for piece in expression.walk():
        found = builder.resolve(piece.qualifier, piece.name) \
            if isinstance(piece, nodes.ColumnRef) else None
        if found is None or found[1].cell is None or found[0] not in builder.unit_of:
            continue
        relation = builder.block.units[builder.unit_of[found[0]]].relation
        if can_expand(relation, {found[1].cell}):
            builder.program.wanted_values.add(relation.sources.get(
                found[1].cell, (id(builder.select), found[0], found[1].name)))


def member(builder, piece: nodes.Subquery) -> str | None:
    """SQL of ``n IN (SELECT …)``, ``n > ALL (SELECT …)``, …, for a count n and a query that depends
    on no model: joined as a boolean, true if the count is one of the values for which PostgreSQL
    says so. None if it is another number."""
    from pgrain.provenance.algebra.subqueries import _join_boolean
    program, operand = builder.program, piece.operand
    randoms = builder.randoms(operand)
    spans = {(p.start, p.end) for p in randoms}
    kinds = {program.text[p.start:p.end] for p in randoms}
    if len(kinds) != 1 or builder.key is not None:
        return None
    kind, unit, cell, *_ = builder.piece_number(randoms[0])
    relation = builder.block.units[unit].relation if kind == "cell" else None
    if relation is None or not can_expand(relation, {cell}):
        return None
    free = free_columns(program, piece.query)
    builder.refuse_random(free, piece)
    rest = operand.substitute({span: "NULL" for span in spans})
    needed = builder.outer_columns(free | set(candidates(tokenize(rest))))
    alias = builder.block.units[unit].alias
    key: Key = builder.make_key([(alias, ID, 23), *needed])
    values = expand(program, relation, {cell}, bare=True)
    test = operand.substitute({span: "_pgrain_r._pgrain_o1" for span in spans}) + \
        program.text[piece.operand.end:piece.end]
    sources = ", ".join([f"{key.cte} AS _pgrain_key", *key.lateral("_pgrain_key"),
                         f"{values.cte} AS _pgrain_r"])
    made = (f"SELECT _pgrain_key.{KEY}, _pgrain_r.{ID} FROM {sources} WHERE "
            f"_pgrain_r._pgrain_o0 OPERATOR(pg_catalog.=) _pgrain_key._pgrain_c0 AND ({test}\n)")
    return _join_boolean(builder, PredicateBlock(program.number(), values, key, made,
                                                 made + " IS NULL"))


