"""Subqueries in expressions: their answers as relations of possible rows.

EXISTS, IN, ANY and ALL become a boolean for each value of the outer columns they need; a scalar
subquery becomes its possible rows, and a NULL where none is there. In SQL's logic x op ANY (S) is
true if it is for some row, else NULL if it is for some row, else false; x op ALL (S) is
NOT (NOT (x op s) for ANY s).
"""

from __future__ import annotations

from dataclasses import replace

from pgrain.plan import nodes
from pgrain.plan.lexer import tokenize
from pgrain.plan.spine import Op, PieceLeaf
from pgrain.provenance.algebra.blocks import (
    ID,
    KEY,
    ArrayBlock,
    Column,
    Key,
    Made,
    PredicateBlock,
    Relation,
    ScalarBlock,
    Unit,
)
from pgrain.provenance.algebra.numbers import compared_arrays
from pgrain.provenance.algebra.program import candidates, cut, free_columns
from pgrain.provenance.algebra.quantified import is_ordered, respelled
from pgrain.provenance.algebra.values import (
    ask_value,
    ask_values,
    can_expand,
    expand,
    values_alone,
    wants_value,
    wish,
)

_NEGATED = {"=": "<>", "<>": "=", "!=": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def join_answer(builder, piece: nodes.Subquery):
    """Join the subquery's answer to the SELECT.

    Returns SQL of its value, or (unit, cell) if it is a number of the circuit.
    """
    from pgrain.provenance.algebra.queries import lower_query, plain_query
    program = builder.program
    free = free_columns(program, piece.query)
    builder.refuse_random(free, piece)
    needed = builder.outer_columns(free)
    if piece.form == "exists":
        query = _without_limit(program, piece.query)
        key = builder.make_key(needed) if needed else None
        relation = lower_query(program, query, key)
        true = f"SELECT {KEY + ', ' if key else ''}{ID} FROM {relation.cte}"
        return _join_boolean(builder, PredicateBlock(program.number(), relation, key, true, None,
                                                     every=True))
    if piece.form == "scalar":
        return _scalar(builder, piece, needed)
    if piece.form == "array":
        return _array(builder, piece, needed)
    if program.analysis.depends(piece.query) and builder.randoms(piece.operand):
        rows = lower_query(program, piece.query, builder.make_key(needed) if needed else None)
        if is_ordered(builder, piece, rows):
            raise respelled(builder, piece, rows)
        ask_values(builder, piece.operand)
    operand, columns = _operand(builder, piece.operand)
    columns = list(dict.fromkeys(needed + columns))
    key = builder.make_key(columns) if columns else None
    lower = lower_query if program.analysis.depends(piece.query) else plain_query
    relation = values_alone(program, lower(program, piece.query, key if needed else None), key)
    if len(relation.columns) == 1 and relation.columns[0].random \
            and is_ordered(builder, piece, relation):
        raise respelled(builder, piece, relation)
    true, unknown = _compared(program, piece, relation, key, operand)
    if id(piece) in builder.must_hold:      # NULL is as good as false
        unknown = None
    answer = _join_boolean(builder, PredicateBlock(program.number(), relation, key, true, unknown))
    return f"(NOT {answer})" if piece.form == "all" else answer


def exists_alone(builder, condition: nodes.Expr) -> bool:
    """Take up a condition that is [NOT] EXISTS by the values of its key, if that can be.

    Then the reader finds each row's answer, and PostgreSQL need not join it: rows for which it
    can't be true are read in vain, which costs less. Not where a row is shown for itself.
    """
    from pgrain.provenance.algebra.groups import is_grouped
    from pgrain.provenance.algebra.queries import lower_query
    tree, code = condition.tree, 1
    while isinstance(tree, Op) and tree.name == "not":
        tree, code = tree.args[0], 1 - code
    piece = tree.piece if isinstance(tree, PieceLeaf) else None
    program = builder.program
    if not isinstance(piece, nodes.Subquery) or piece.form != "exists" \
            or not program.analysis.depends(piece) or id(piece) in builder.answers \
            or builder.key is not None or not is_grouped(builder):
        return False
    free = free_columns(program, piece.query)
    needed = builder.outer_columns(free)
    if not needed or not Key("", needed, "").whole:
        return False
    builder.refuse_random(free, piece)
    key = builder.make_key(needed)
    relation = lower_query(program, _without_limit(program, piece.query), key)
    block = PredicateBlock(program.number(), relation, key, "", None, every=True, joined=False)
    if not block.of_rows(program.blocks[relation.block]):
        block.true, block.joined = f"SELECT {KEY}, {ID} FROM {relation.cte}", True
        builder.answers[id(piece)] = _join_boolean(builder, block)
        return False
    program.blocks.append(block)
    answer = Relation(block.number, "", [Column("_pgrain_v", 16)], True)
    builder.block.units.append(Unit("", answer, f"_pgrain_q{block.number}", key, code))
    return True


def _without_limit(program, query: nodes.Query) -> nodes.Query:
    """EXISTS (… LIMIT 1) is EXISTS (…): one row is as good as any."""
    if query.limit is None or query.offset is not None:
        return query
    text = query.limit.text.strip("() ")
    if not text.isdigit() or not int(text):
        return query
    made = replace(query, limit=None, order=[])
    program.kept.append(made)
    program.analysis.dependent.add(id(made))
    return made


def _operand(builder, operand: nodes.Expr) -> tuple[str, list]:
    """(SQL of the left side, the columns that it needs)."""
    replaced = {}
    for piece in operand.pieces:
        if isinstance(piece, nodes.ModelCall) and piece.function == "predict":
            replaced[piece.start, piece.end] = builder.expand(piece)
        elif isinstance(piece, nodes.Subquery) and builder.program.analysis.depends(piece) \
                and wants_value(builder, piece) \
                and not builder.is_random(piece):
            replaced[piece.start, piece.end] = builder.answer(piece)
        elif isinstance(piece, nodes.Subquery) and piece.form == "scalar" \
                and builder.program.analysis.depends(piece):
            ask_value(builder, piece)
            raise builder.program.refuse("a number of a subquery before IN, ANY or ALL", piece,
                                         "Write the subquery in FROM, and compare its column.")
        elif builder.program.analysis.depends(piece):
            raise builder.program.refuse("this left side of IN, ANY or ALL", piece,
                                         "Write it as a column of a subquery in FROM.")
        elif builder.is_random(piece):
            raise builder.number_before(piece)
        elif isinstance(piece, nodes.ColumnRef) and piece.qualifier is None \
                and piece.name in builder.merged:
            replaced[piece.start, piece.end] = builder.merged[piece.name]
        elif builder.without_schema(piece):
            replaced[piece.start, piece.end] = builder.without_schema(piece)
    text = operand.substitute(replaced)
    return text, builder.outer_columns(candidates(tokenize(text)))


def _compared(program, piece, relation: Relation, key: Key | None, operand: str):
    """SELECTs of the rows for which the comparison is true, and of those for which it is NULL."""
    if any(column.random for column in relation.columns):
        raise program.refuse("ANY, ALL or IN over numbers that depend on predictions", piece,
                             "Compare with a scalar subquery.")
    names = [f"_pgrain_r._pgrain_o{number}" for number in range(len(relation.columns))]
    other = names[0] if len(names) == 1 else f"ROW({', '.join(names)})"
    operator = piece.operator
    if piece.form == "all" and operator in _NEGATED and len(names) == 1 \
            and program.own_comparisons:
        test = f"(({operand}\n) {_NEGATED[operator]} {other})"
    elif piece.form == "all":
        test = f"(NOT (({operand}\n) {operator} {other}))"
    else:
        test = f"(({operand}\n) {operator} {other})"
    sources = [f"{relation.cte} AS _pgrain_r"]
    joined = ""
    if key is not None:
        sources = [f"{key.cte} AS _pgrain_key", *key.lateral("_pgrain_key"), *sources]
        if relation.keyed:
            joined = f" AND _pgrain_r.{KEY} OPERATOR(pg_catalog.=) _pgrain_key.{KEY}"
    made = f"SELECT {f'_pgrain_key.{KEY}, ' if key else ''}_pgrain_r.{ID} FROM " + \
        ", ".join(sources)
    true = f"{made} WHERE {test}{joined}"
    # A comparison is NULL only where something compared is; so it need not be tried elsewhere.
    # (Two branches: PostgreSQL finds the rows of each without trying all pairs.)
    null, nulls = f"({operand}\n) IS NULL", f"{other} IS NULL"
    if len(names) > 1:      # of a row: that one of its columns is NULL
        null, nulls = f"NOT (({operand}\n) IS NOT NULL)", f"NOT ({other} IS NOT NULL)"
    return true, (f"{made} WHERE {null} AND {test} IS NULL{joined}\nUNION ALL\n"
                  f"{made} WHERE NOT ({null}) AND {nulls} AND {test} IS NULL{joined}")


def _join_boolean(builder, block: PredicateBlock) -> str:
    builder.program.blocks.append(block)
    alias = f"_pgrain_q{block.number}"
    relation = Relation(block.number, alias, [Column("_pgrain_v", 16)], block.key is not None)
    builder.block.from_.append(Made(alias))
    builder._unit(alias, relation, block.key)
    builder.aliases[alias] = [Column("_pgrain_v", 16)]
    return f"{alias}._pgrain_v"


def _array(builder, piece: nodes.Subquery, needed: list):
    """("array", unit): the unit's row number is the key of the array's elements."""
    from pgrain.provenance.algebra.queries import lower_query
    program = builder.program
    if not piece.query.order:
        raise program.refuse("ARRAY of a query without ORDER BY", piece,
                             "Say in which order the elements stand.")
    key = builder.make_key(needed) if needed else None
    relation = lower_query(program, piece.query, key, ordered=True)
    if len(relation.columns) != 1 or relation.columns[0].random:
        raise program.refuse("an array of numbers that depend on predictions", piece)
    block = ArrayBlock(program.number(), relation, key)
    program.blocks.append(block)
    alias = f"_pgrain_a{block.number}"
    builder.block.from_.append(Made(alias))
    made = Relation(block.number, alias, [], key is not None)
    return "array", builder._unit(alias, made, key)


def answer_arrays(builder, expression: nodes.Expr) -> dict[tuple[int, int], str]:
    """x op ANY (ARRAY(query)) is x op ANY (query): what to put in its place."""
    replaced: dict[tuple[int, int], str] = {}
    for node, piece in compared_arrays(expression):
        if builder.program.analysis.depends(piece):
            operand = cut(expression, node.args[0].start, node.args[0].end)
            made = nodes.Subquery(node.start, node.end, node.name[:3], piece.query, operand,
                                  node.name[4:])
            builder.program.kept.append(made)
            builder.program.analysis.dependent.add(id(made))
            replaced[node.start, node.end] = builder.answer(made)
    return replaced


def _scalar(builder, piece: nodes.Subquery, needed: list):
    from pgrain.provenance.algebra.queries import lower_query
    program = builder.program
    key = builder.make_key(needed) if needed else None
    relation = lower_query(program, piece.query, key)
    if len(relation.columns) != 1:
        raise program.refuse("a scalar subquery of several columns", piece)
    cell = relation.columns[0].cell
    if wants_value(builder, piece) and relation.columns[0].random:
        if cell is not None and can_expand(relation, {cell}):
            relation = replace(expand(program, relation, {cell}, key=key), single=relation.single)
        else:
            wish(program, relation, [0])
    if not relation.single:
        block = ScalarBlock(program.number(), relation, key)
        program.blocks.append(block)
        relation = Relation(block.number, f"_pgrain_u{block.number}", relation.columns,
                            key is not None, True, relation.degrees)
    alias = f"_pgrain_s{len(builder.block.units)}_{relation.block}"
    builder.block.from_.append(Made(f"{relation.cte} AS {alias}"))
    unit = builder._unit(alias, relation, key)
    column = relation.columns[0]
    if column.cell is not None:
        return unit, column.cell
    if column.shown is not None:
        ask_value(builder, piece)
        raise program.refuse("a scalar subquery of a text or date that depends on predictions",
                             piece, "Make it a number, as with max(extract(epoch FROM ...)).")
    if column.flag is not None:
        raise program.refuse("a scalar subquery of a comparison over predictions", piece,
                             "Let it return the number, and compare that.")
    builder.aliases[alias] = [Column("_pgrain_o0", column.oid)]
    return f"{alias}._pgrain_o0"
