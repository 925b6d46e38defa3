"""Outer joins that depend on predictions: the inner join, and the rows without a partner.

l LEFT JOIN r ON c  =  (l JOIN r ON c)  UNION ALL  (l, NULLs) WHERE NOT EXISTS (r WHERE c)
"""

from __future__ import annotations

from pgrain.plan import nodes
from pgrain.plan.lexer import tokenize
from pgrain.plan.reader import read_statement
from pgrain.provenance.algebra.blocks import Column, Made, Relation, quoted
from pgrain.provenance.algebra.scope import aliases_of


def outer_join(builder, join: nodes.Join) -> None:
    """Add an outer join to the SELECT's FROM as one relation of possible rows."""
    from pgrain.provenance.algebra.queries import merged
    from pgrain.provenance.algebra.select import SelectBuilder
    program = builder.program
    left, right = aliases_of(join.left), aliases_of(join.right)
    matched = SelectBuilder(program, builder.select, builder.key, builder.known)
    _, *merged_before = matched.add_sides(join)
    builder.merged |= matched.merged
    shared = _shared(builder, join, left, right, *merged_before)
    on = join.on
    if join.using or join.natural:
        text = " AND ".join(f"{one} = {other}" for _, one, other in shared) or "true"
        on = read_statement(f"SELECT 1 WHERE {text}").query.body.where
    elif on is not None:
        known = {(p.start, p.end): matched.merged[p.name] for p in on.walk() if isinstance(
            p, nodes.ColumnRef) and p.qualifier is None and p.name in matched.merged}
        if known:
            on = read_statement(f"SELECT 1 WHERE {on.substitute(known)}").query.body.where
    columns = [(alias, name, oid) for alias in left + right
               for name, oid in builder.known.get(alias, [])]
    if on is not None:
        matched.conditions.append(on)
    matched.add_where(own=False)
    random = {(alias, c.name) for alias in left + right for c in matched.aliases[alias] if c.random}
    matched.random_columns = random
    # What gives a NULL of a column's type: CTEs that depend on a model are there only as lowered.
    joined = ",\n".join(f"{text}\n" for text in matched.block.from_)
    sides = [_rows(matched, columns, set(left + right))]
    kinds = {"left": [(join.left, join.right, left)], "right": [(join.right, join.left, right)],
             "full": [(join.left, join.right, left), (join.right, join.left, right)]}
    for kept, other, aliases in kinds[join.kind]:
        lonely = SelectBuilder(program, builder.select, builder.key, builder.known)
        lonely.random_columns = random
        lonely.add_from(kept)
        lonely.add_where(own=False)
        lonely.block.where.append(f"(NOT {_partner(lonely, other, on)})")
        sides.append(_rows(lonely, columns, set(aliases),
                           joined if program.analysis.depends(other) else other.text))
    if builder.select.group is not None:
        program.notes.append("whether a group over an outer join on predictions is there takes its "
                             "rows with and without a partner for independent; its cells do not")
    relation = merged(program, "union", True, sides, builder.key is not None)
    _expose(builder, relation, columns)
    # Rows of the kept side are as they were; those of the other may be NULLs instead.
    for alias in {"left": left, "right": right, "full": []}[join.kind]:
        if alias in matched.deciding:
            builder.deciding[alias] = matched.deciding[alias]
    for name, one, other in shared:
        builder.merged[name] = {"left": one, "right": other,
                                "full": f"coalesce({one}, {other})"}[join.kind]


def _shared(builder, join: nodes.Join, left: list[str], right: list[str], mine: dict,
            theirs: dict):
    """(name, SQL on the left, SQL on the right) of the columns that USING or NATURAL merges; mine,
    theirs: SQL of those that each side has merged already."""
    def owner(aliases, name):
        return next((f"{quoted(alias)}.{quoted(name)}" for alias in aliases
                     if any(name == known for known, _ in builder.known.get(alias, []))), None)

    names = join.using or []
    if join.natural:
        names = [name for alias in left for name, _ in builder.known.get(alias, [])
                 if owner(right, name)]
    return [(name, mine.get(name) or owner(left, name), theirs.get(name) or owner(right, name))
            for name in dict.fromkeys(names)]


def _rows(builder, columns, present: set, other: str = "") -> Relation:
    """The rows of one part: columns of aliases that are not `present`, but in the FROM `other`, are
    NULL."""
    from pgrain.provenance.algebra.queries import column_of, finish_rows
    outputs = []
    random = builder.random_columns
    for alias, name, oid in columns:
        labelled = False
        if alias in present:
            column = builder.resolve(alias, name)[1]
            text, labelled = column_of(builder, alias, column), column.labelled
        elif (alias, name) in random:
            text = "NULL"
        else:
            text = f"(SELECT {quoted(alias)}.{quoted(name)} FROM {other} LIMIT 0)"
        outputs.append((Column(name, oid, labelled=labelled), text))
    return finish_rows(builder, outputs)


def _partner(builder, other: nodes.FromItem, on: nodes.Expr | None) -> str:
    """SQL that says whether a row of the builder has a partner in `other`."""
    text = other.text + (" WHERE " + on.text if on is not None else "")
    one = nodes.Expr("1", other.start, tuple(tokenize("1")))
    select = nodes.Select(other.start, other.end, False, None, [nodes.Item(one, None)], [other],
                          on, None, None)
    query = nodes.Query(other.start, other.end, "SELECT 1 FROM " + text, select)
    piece = nodes.Subquery(other.start, other.end, "exists", query)
    program = builder.program
    program.columns[id(select)] = {alias: builder.known[alias] for alias in aliases_of(other)
                                   if alias in builder.known}
    program.kept.append(select)             # keeps its id from being used again
    program.analysis.dependent.update((id(select), id(query), id(piece)))
    return builder.answer(piece)


def _expose(builder, relation: Relation, columns) -> None:
    """The relation under the names that the joined relations had."""
    alias = f"_pgrain_j{relation.block}"
    builder.block.from_.append(Made(f"{relation.cte} AS {alias}"))
    aliases: dict[str, list[tuple[int, Column]]] = {}
    for number, ((of, name, oid), made) in enumerate(zip(columns, relation.columns, strict=True)):
        aliases.setdefault(of, []).append((number, Column(name, oid, made.cell, made.flag,
                                                               made.labelled)))
    unit = builder._unit(alias, relation, None)
    for of, made in aliases.items():
        parts = ", ".join(f"{alias}._pgrain_o{number} AS {quoted(column.name)}"
                          for number, column in made if not column.random)
        builder.block.from_.append(Made(f"LATERAL (SELECT {parts}) AS {quoted(of)}"))
        builder.aliases[of] = [column for _, column in made]
        builder.unit_of[of] = unit
