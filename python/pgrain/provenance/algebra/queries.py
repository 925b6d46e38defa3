"""Whole queries lowered: SELECTs without grouping, set operations, DISTINCT."""

from __future__ import annotations

from pgrain.plan import nodes
from pgrain.plan.lexer import string_value
from pgrain.plan.reader import read_statement
from pgrain.provenance.algebra.blocks import (
    Atom,
    Column,
    Key,
    LimitBlock,
    MergeBlock,
    Number,
    OutputSpec,
    Relation,
    SelectBlock,
    quoted,
)
from pgrain.provenance.algebra.inline import may_inline
from pgrain.provenance.algebra.ordering import (
    after_limit,
    cut_off,
    order_of,
    order_of_output,
    part_of,
    terms,
    with_limit,
)
from pgrain.provenance.algebra.program import Program, untyped
from pgrain.provenance.algebra.scope import aliases_of
from pgrain.provenance.algebra.select import Prepared, SelectBuilder
from pgrain.provenance.algebra.values import ask_value_of, values_alone, wish


def lower_cte(program: Program, cte: nodes.Cte) -> Relation:
    """The rows of a CTE that depends on a model, lowered once."""
    if id(cte) not in program.relations:
        program.relations[id(cte)] = lower_query(program, cte.query, None)
    return program.relations[id(cte)]


def lower_query(program: Program, query: nodes.Query, key: Key | None,
                ordered: bool = False) -> Relation:
    """A query as a relation of possible rows; `key`: the outer columns that it may name; ordered:
    its last block is a LimitBlock, which knows the rows' order."""
    for cte in query.ctes:
        if not program.analysis.depends(cte):
            program.add_plain_cte(cte, query.recursive)
    body = query.body
    if isinstance(body, nodes.SetOperation):
        relation = _set_operation(program, body, key)
        if query.limit is None and query.offset is None and not ordered:
            return relation
        order = [order_of_output(program, item, relation, _names(body)) for item in query.order]
        return with_limit(program, query, relation, order, ordered)
    return lower_select(program, body, query, key, ordered)


def lower_select(program: Program, select: nodes.Select, query: nodes.Query,
                 key: Key | None, ordered: bool = False) -> Relation:
    """One SELECT, with the ORDER BY and LIMIT that stand after it."""
    if select.window and program.analysis.depends(select):
        raise program.refuse("WINDOW", select,
                             "Use a scalar subquery, or a join with a grouped subquery.")
    builder = SelectBuilder(program, select, key)
    builder.nested = query is not program.analysis.statement.query
    builder.order = query.order
    if may_inline(program, select, query.order):
        builder.inlines = query.order
    for item in select.from_:
        builder.add_from(item)
    builder.add_where()
    limited = ordered or query.limit is not None or query.offset is not None
    on = select.distinct_on
    if on and not query.order:
        raise program.refuse("DISTINCT ON without ORDER BY", select, "Say which row to keep.")
    wanted = query.order if limited or on else []
    from pgrain.provenance.algebra.groups import is_grouped, lower_groups, shows_case
    grouped = is_grouped(builder)
    values = [item.expression for number, item in enumerate(select.items)
              if ("item", id(select), number) in program.values]
    values += [select.having] if ("having", id(select)) in program.values else []
    alone = bool(grouped and values) and select.group is None and select.having is None
    if grouped:
        from pgrain.provenance.algebra.over_groups import (
            OverGroups,
            asks_over_groups,
        )
        # What an outer query makes of a text over aggregates it makes of possible rows.
        asks = asks_over_groups(builder, wanted)
        if values or asks or builder.nested and shows_case(builder):
            builder, grouped = OverGroups(builder, wanted, values, asks), False
    if grouped:
        relation, visible, order, partition = lower_groups(builder, wanted, on or [])
    else:
        plain = not (select.distinct or on or limited)
        outputs = select_outputs(builder, program.unused.get(id(query), set()) if plain else set())
        visible = len(outputs)
        partition = [part_of(builder, e, outputs, visible) for e in on or []]
        order = [order_of(builder, item, outputs, visible, partition) for item in wanted]
        relation = finish_rows(builder, outputs)
        relation.unique = _passed_on(builder, relation)
        relation.single = relation.single or alone
    if on:
        block = LimitBlock(program.number(), relation, ", ".join(terms(order)), 1, 0,
                           ", ".join(partition))
        relation = after_limit(program, block, relation)
    if select.distinct and not on:
        relation = merged(program, "union", False, [cut_off(relation, visible)], key is not None)
        if any(f"_pgrain_o{n}" in term for term in order if isinstance(term, str)
               for n in range(visible, visible + len(order) + 1)):
            raise program.refuse("ORDER BY of what DISTINCT does not select", select)
    if limited:
        relation = with_limit(program, query, relation, order, ordered)
    return cut_off(relation, visible)


def select_outputs(builder: SelectBuilder, unused: set[int]) -> list[tuple[Column, object]]:
    """(column, SQL or Number or Atom) of each entry of the select list, stars spelled out; NULL for
    labels at the positions `unused`."""
    outputs = []
    for number, item in enumerate(builder.select.items):
        if number in unused:
            builder.passed.append(None)
            name = item.alias or output_name(item.expression)
            outputs.append((Column(name, 25), Prepared("NULL::pg_catalog.text", False)))
            continue
        if item.star:
            outputs += _star(builder, item)
            continue
        outputs.append(_output(builder, item.expression, item.alias))
    return outputs


def _output(builder: SelectBuilder, expression: nodes.Expr, alias: str | None) -> tuple:
    name = alias or output_name(expression)
    builder.passed.append(_column_named(builder, expression))
    if builder.randoms(expression):
        return _random_output(builder, expression, name)
    column = Column(name, _type(builder, expression), labelled=builder.shows_label(expression))
    return column, builder.prepare(expression)


def _passed_on(builder: SelectBuilder, relation: Relation) -> tuple[int, ...] | None:
    """`Relation.unique` of a SELECT from one relation of possible rows, whose rows it hands on."""
    sources = len(builder.block.from_) - len(builder.block.atoms)   # each atom is one of FROM
    if len(builder.block.units) != 1 or sources != 1 or relation.keyed:
        return None
    unit = builder.block.units[0]
    if unit.relation.unique is None or unit.alias not in builder.aliases:
        return None
    wanted = [(unit.alias, builder.aliases[unit.alias][at].name) for at in unit.relation.unique]
    if any(column not in builder.passed for column in wanted):
        return None
    return tuple(builder.passed.index(column) for column in wanted)


def _random_output(builder, expression, name) -> tuple[Column, object]:
    from pgrain.plan.spine import Op, PieceLeaf, read_tree
    from pgrain.provenance.algebra.numbers import COMPARISONS
    tree = read_tree(expression, builder.is_random)
    if isinstance(tree, PieceLeaf) and isinstance(tree.piece, nodes.Subquery) \
            and tree.piece.form == "array":
        builder.block.shown.append(builder.answers[id(tree.piece)][1])
        return Column(name, 0, shown=len(builder.block.shown) - 1), None
    if not isinstance(tree, (Op, PieceLeaf)):       # numbers stand before IN, ANY or ALL alone
        return Column(name, 0, labelled=True), builder.prepare(expression)
    rows = builder.program.split and (builder.nested or builder.select.distinct)
    if isinstance(tree, PieceLeaf) and isinstance(tree.piece, nodes.AggregateCall) \
            and builder.evaluable(tree):
        return (Column(name, 0, labelled=True), builder.prepare(expression)) if rows else \
            (Column(name, 16), builder.read_atom(expression, tree))
    if isinstance(tree, Op) and tree.name in (*COMPARISONS, "is null", "is not null") \
            and not rows and not builder.of_truths(tree):
        return Column(name, 16), builder.read_atom(expression, tree)
    if isinstance(tree, Op) and builder.evaluable(tree) and not shows_number(builder, expression,
                                                                             tree):
        return Column(name, 0, labelled=True), builder.prepare(expression)
    found = expression.pieces[0] if len(expression.pieces) == 1 else None
    if isinstance(found, nodes.ColumnRef) and found.end - found.start == len(expression.text):
        column = builder.resolve(found.qualifier, found.name)[1]
        if column.flag is not None:
            return Column(name, 16), builder.read_atom(expression, tree)
    oid = 20 if builder.integer(expression, tree) else 701
    return Column(name, oid), builder.number(expression, tree)


def shows_number(builder, expression: nodes.Expr, tree) -> bool:
    """Whether what an expression over comparisons shows is a number of the circuit."""
    from pgrain.plan.spine import Leaf as SpineLeaf
    from pgrain.provenance.algebra.numbers import NUMBER_OIDS
    if tree.name != "case" or builder.program.split and (
            builder.nested or builder.select.distinct):
        return False
    if any(isinstance(piece, nodes.AggregateCall) for piece in expression.walk()):
        return not any(isinstance(child, SpineLeaf) and untyped(child.text) is not None
                       for child in [*tree.args[1::2], tree.args[-1]]) and \
            builder.type_here(expression.text) in (0, *NUMBER_OIDS)
    return builder.program.type_of(builder.select, expression.text) in NUMBER_OIDS


def _star(builder: SelectBuilder, item: nodes.Item) -> list:
    if item.qualifier:
        alias = nodes.relation_of(item.qualifier)
        if alias not in builder.aliases:
            raise builder.program.refuse(f'"{item.qualifier}.*"', item, "Name the columns.")
        spelled = [(alias, column) for column in builder.aliases[alias]]
    else:
        spelled = [pair for of in builder.select.from_ for pair in _spelled(builder, of)]
    named = [(alias, column.name) for alias, column in spelled if alias is not None]
    if len(set(named)) < len(named):
        raise builder.program.refuse("a * over columns of one name", item, "Name the columns.")
    outputs = []
    for alias, column in spelled:
        if alias is None:
            outputs.append(_output(builder, column, None))
            continue
        if column.name.startswith("_pgrain_"):
            continue
        builder.passed.append((alias, column.name))
        if column.virtual is not None:
            text = f"({column.virtual}\n)"
            builder.keep_text(text)
            outputs.append((Column(column.name, column.oid, labelled=True), Prepared(text, True)))
        else:
            made = column_of(builder, alias, column)
            outputs.append((Column(column.name, column.oid, labelled=column.labelled), made))
    return outputs


def _spelled(builder: SelectBuilder, item: nodes.FromItem) -> list[tuple]:
    """What an unqualified * names, in PostgreSQL's order: (alias, Column), or (None, expression)
    of a column that USING or NATURAL merges; these come first."""
    if not isinstance(item, nodes.Join):
        return [(alias, column) for alias in aliases_of(item)
                for column in builder.aliases.get(alias, [])]
    left, right = _spelled(builder, item.left), _spelled(builder, item.right)
    names = item.using or []
    if item.natural:
        theirs = {_spelled_name(pair) for pair in right}
        names = [name for name in map(_spelled_name, left) if name in theirs]
    shared = []
    for name in names:
        if sum(_spelled_name(pair) == name for pair in left + right) != 2:
            raise builder.program.refuse("a * over NATURAL or USING", item, "Name the columns.")
        text = read_statement(f"SELECT {quoted(name)}")
        shared.append((None, text.query.body.items[0].expression))
    return shared + [pair for pair in left + right if _spelled_name(pair) not in names]


def _spelled_name(pair: tuple) -> str:
    alias, column = pair
    return column.name if alias is not None else column.pieces[0].name


def column_of(builder: SelectBuilder, alias: str, column: Column):
    """A column as an output: its SQL, or the number or boolean of the circuit that it is."""
    if column.cell is not None:
        return Number(("x", 0), [("cell", builder.unit_of[alias], column.cell)])
    if column.flag is not None:
        return Atom("flag", Number(("p", 0), [("flag", builder.unit_of[alias], column.flag)]),
                    None)
    if column.shown is not None:
        ask_value_of(builder, alias, column)
        raise builder.program.refuse(f'"{column.name}", a text or date that depends on '
                                     "predictions, in an outer query", builder.select,
                                     "Make it a number where it is aggregated, as with "
                                     "max(extract(epoch FROM ...)).")
    return f"{quoted(alias)}.{quoted(column.name)}"


def output_name(expression: nodes.Expr) -> str:
    """The name that PostgreSQL gives an output column, for simple expressions."""
    last = expression.pieces[-1] if expression.pieces else None
    if isinstance(last, nodes.ColumnRef) and last.end == expression.end:
        return last.name
    return "?column?"


def _column_named(builder: SelectBuilder, expression: nodes.Expr) -> tuple[str, str] | None:
    """(alias, name) of the column that an expression is."""
    piece = expression.pieces[0] if len(expression.pieces) == 1 else None
    if isinstance(piece, nodes.ColumnRef) and len(expression.text) == piece.end - piece.start:
        found = builder.resolve(piece.qualifier, piece.name)
        return (found[0], found[1].name) if found else None
    return None


def _type(builder: SelectBuilder, expression: nodes.Expr) -> int:
    found = _column_named(builder, expression)
    return builder.resolve(*found)[1].oid if found else 0


def finish_rows(builder: SelectBuilder, outputs: list) -> Relation:
    """Close a SELECT without grouping: its block, and the relation of its possible rows."""
    builder.check_window()
    program, block = builder.program, builder.block
    block.number = program.number()
    columns, degrees, bounds, sources, wishes = [], {}, {}, {}, {}
    starred = any(item.star for item in builder.select.items)
    for at, (column, made) in enumerate(outputs):
        passed = builder.passed[at] if at < len(builder.passed) else None
        if column.random or made is None or hasattr(made, "tree"):
            if passed:
                wishes[at] = id(builder.select), *passed
            elif not starred and at < len(builder.select.items):
                wishes[at] = "item", id(builder.select), at
        if made is None:
            spec = OutputSpec(column, "shown")
        elif isinstance(made, str):
            spec = OutputSpec(column, "base", made)
            column.literal = untyped(made)
        elif hasattr(made, "labelled"):
            spec = OutputSpec(column, "entry" if made.labelled else "base", made.text)
            column.literal = untyped(made.text)
        elif hasattr(made, "operator"):
            column.flag = len(block.flags)
            block.flags.append(made)
            spec = OutputSpec(column, "flag")
        else:
            from pgrain.provenance.algebra.linear import degree
            column.cell = len(block.cells)
            degrees[column.cell] = degree(made, builder.leaf_degree)
            bound = _bound(block, made)
            bounds |= {column.cell: bound} if bound else {}
            if bound and block.atoms and passed:
                sources[column.cell] = id(builder.select), *passed
            block.cells.append(made)
            spec = OutputSpec(column, "cell")
        block.outputs.append(spec)
        columns.append(column)
    for slot in block.slots:
        slot.block = block.number
    program.blocks.append(block)
    return Relation(block.number, block.row, columns, block.key is not None, degrees=degrees,
                    settled=block.settled and not block.enumerated, bounds=bounds,
                    positive={cell for cell in bounds if _positive(block, block.cells[cell])},
                    sources=sources, wishes=wishes)


def _bound(block: SelectBlock, number: Number) -> str | None:
    """What a count that is handed on is not above."""
    leaf = number.leaves[number.tree[1]] if number.tree[0] == "x" else ("",)
    inner = block.units[leaf[1]].relation if leaf[0] == "cell" else None
    bound = inner and inner.bounds.get(leaf[2])
    return bound and f"(SELECT pg_catalog.max({bound}) FROM {inner.cte} AS _pgrain_w)"


def _positive(block: SelectBlock, number: Number) -> bool:
    """Whether a count that is handed on is never 0."""
    _, unit, cell = number.leaves[number.tree[1]][:3]
    return cell in block.units[unit].relation.positive


def _plain(program: Program, query: nodes.Query, key: Key | None, n_columns: int) -> Relation:
    """A query that depends on no model: PostgreSQL's own rows, all of them certain."""
    block = SelectBlock(program.number(), key)
    names = ", ".join(f"_pgrain_o{n}" for n in range(n_columns))
    block.from_.append(f"(\n{query.text}\n) AS _pgrain_p ({names})")
    columns = [Column(f"_pgrain_o{n}", 0) for n in range(n_columns)]
    block.outputs = [OutputSpec(column, "base", f"_pgrain_p.{column.name}") for column in columns]
    program.blocks.append(block)
    return Relation(block.number, block.row, columns, key is not None, settled=True)


def plain_query(program: Program, query: nodes.Query, key: Key | None) -> Relation:
    """`_plain` of a query whose number of columns its text shows."""
    body = query.body
    while isinstance(body, nodes.SetOperation):
        body = body.left.body
    if not isinstance(body, nodes.Select) or any(item.star for item in body.items):
        raise program.refuse("IN, ANY or ALL of a query whose columns are not named", query,
                             "Name the columns.")
    return _plain(program, query, key, len(body.items))


# --- set operations ------------------------------------------------------------------------

def _set_operation(program: Program, body: nodes.SetOperation, key: Key | None) -> Relation:
    sides: list[Relation | None] = []
    for side in (body.left, body.right):
        sides.append(lower_query(program, side, key) if program.analysis.depends(side) else None)
    width = next(len(side.columns) for side in sides if side is not None)
    sides = [side or _plain(program, query, key, width)
             for side, query in zip(sides, (body.left, body.right), strict=True)]
    if len(sides[0].columns) != len(sides[1].columns):
        raise program.refuse("a set operation of unequal columns", body)
    if not width:
        raise program.refuse("a set operation of no columns", body, "Select something.")
    random = [n for n in range(width) if any(s.columns[n].random for s in sides)]
    wanted = "sides", id(body)
    if wanted in program.values:
        sides = [values_alone(program, side, key) for side in sides]
    elif body.operator == "union" and body.all:
        relation = merged(program, "union", True, sides, key is not None)
        relation.wishes = {n: wanted for n in random}
        return relation
    if random and not (body.operator == "union" and body.all):
        if body.operator == "union" and all(side.single for side in sides) \
                and _told_apart(body):
            return merged(program, "union", True, sides, key is not None)
        sides = [values_alone(program, side, key) for side in sides]
    if any(column.random for side in sides for column in side.columns) \
            and not (body.operator == "union" and body.all):
        raise program.refuse(f"{body.operator.upper()} of rows with numbers that depend on "
                             "predictions", body, "Write UNION ALL.")
    return merged(program, body.operator, body.all, sides, key is not None)


def _told_apart(body: nodes.SetOperation) -> bool:
    """Whether a constant column tells the one row of each side apart: then UNION is UNION ALL."""
    constants = []
    for side in (body.left, body.right):
        inner = side.body
        if isinstance(inner, nodes.SetOperation) and inner.operator == "union":
            return False
        if not isinstance(inner, nodes.Select) or any(item.star for item in inner.items):
            return False
        constants.append([_constant(item.expression) for item in inner.items])
    return any(a is not None and b is not None and type(a) is type(b) and a != b
               for a, b in zip(*constants, strict=False))


def _constant(expression: nodes.Expr) -> str | int | None:
    """The value of a bare string or integer."""
    if len(expression.tokens) != 1:
        return None
    token = expression.tokens[0]
    if token.kind == "number":
        return int(token.value) if token.value.isdigit() else None
    return string_value(token)


def merged(program: Program, operator: str, all_: bool, sides: list[Relation],
           keyed: bool) -> Relation:
    """Rows of `sides` put together by a set operation (DISTINCT is a UNION of one side)."""
    if not (operator == "union" and all_):
        sides = [values_alone(program, side) for side in sides]
    number = program.number()
    columns, degrees = [], {}
    if not (operator == "union" and all_) and any(c.random for s in sides for c in s.columns):
        raise program.refuse("DISTINCT of rows with numbers that depend on predictions",
                             program.analysis.statement.query, "Group by the other columns.")
    for n, column in enumerate(sides[0].columns):
        made = Column(column.name, column.oid or sides[-1].columns[n].oid,
                      labelled=any(side.columns[n].labelled for side in sides))
        if any(side.columns[n].cell is not None for side in sides):
            made.cell = n
            degrees[n] = next(side.degrees.get(side.columns[n].cell, "other") for side in sides
                               if side.columns[n].cell is not None)
            kinds = {side.degrees.get(side.columns[n].cell, "other") for side in sides
                     if side.columns[n].cell is not None}
            degrees[n] = kinds.pop() if len(kinds) == 1 else "other"
        elif any(side.columns[n].shown is not None for side in sides):
            for side in sides:
                wish(program, side, [n])
            raise program.refuse("a set operation or DISTINCT of texts that depend on predictions",
                                 program.analysis.statement.query)
        elif any(side.columns[n].flag is not None for side in sides):
            made.flag = n
        columns.append(made)
    program.blocks.append(MergeBlock(number, operator, all_, sides, keyed, columns))
    settled = operator == "union" and all(side.settled for side in sides)
    return Relation(number, f"_pgrain_m{number}", columns, keyed, degrees=degrees, settled=settled)


# --- ORDER BY and LIMIT --------------------------------------------------------------------

def _names(body) -> list[str]:
    """Output names of a set operation: those of its first SELECT."""
    while isinstance(body, nodes.SetOperation):
        body = body.left.body
    if not isinstance(body, nodes.Select):
        return []
    return [item.alias or (output_name(item.expression) if item.expression else "")
            for item in body.items]
