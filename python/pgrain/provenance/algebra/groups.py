"""GROUP BY, aggregates and HAVING over the rows of a SELECT."""

from __future__ import annotations

import functools
import re

from pgrain.plan import nodes
from pgrain.plan.spine import Leaf as SpineLeaf
from pgrain.plan.spine import Op, PieceLeaf, read_tree
from pgrain.provenance.algebra import support
from pgrain.provenance.algebra.blocks import (
    Atom,
    Column,
    Grouping,
    Number,
    OutputSpec,
    Relation,
)
from pgrain.provenance.algebra.group_aggregates import GroupAggregates, aggregates
from pgrain.provenance.algebra.group_dates import GroupDates
from pgrain.provenance.algebra.group_keys import GroupKeys
from pgrain.provenance.algebra.linear import (
    BENT,
    CONST,
    COUNT,
    EXTREME,
    LINEAR,
    OTHER,
    RATIO,
    WHOLE,
    degree,
)
from pgrain.provenance.algebra.numbers import (
    COMPARISONS,
    CONNECTIVES,
    FLOAT_OIDS,
    INTEGER_OIDS,
    NUMBER_OIDS,
    Numbers,
)
from pgrain.provenance.algebra.ordering import order_refusal, part_refusal, position
from pgrain.provenance.algebra.program import cut, free_columns, untyped
from pgrain.provenance.algebra.queries import output_name
from pgrain.provenance.algebra.select import Prepared
from pgrain.provenance.algebra.values import ask_aggregate

_ATOMS = (*COMPARISONS, "between", "not between", "in", "not in", "is null", "is not null")


def _into(expression: nodes.Expr, node) -> tuple:
    """(expression, node), down to the aggregates of what is deterministic as a whole."""
    part = cut(expression, node.start, node.end)
    if isinstance(node, SpineLeaf) and aggregates(part):
        return part, read_tree(part, lambda piece: isinstance(piece, nodes.AggregateCall))
    return expression, node


def shows_case(builder) -> bool:
    """Whether a grouped SELECT shows a text or truth made of comparisons of its aggregates, or (if
    the program is `split`) any CASE over them."""
    return any(item.expression is not None and aggregates(item.expression) and (
        _is_case(item.expression.tree) or builder.program.split
        and getattr(item.expression.tree, "name", "") == "case"
        or _has_case(item.expression.tree) and is_no_number(builder, item.expression))
        for item in builder.select.items)


def _has_case(tree) -> bool:
    """Whether a CASE is in it whose values do not show what type they have."""
    if not isinstance(tree, Op):
        return False
    values = [*tree.args[1::2], tree.args[-1]] if tree.name == "case" else []
    return any(child is not None and not (isinstance(child, SpineLeaf) and child.text.isdigit())
               for child in values) or any(map(_has_case, tree.args))


def is_no_number(builder, expression: nodes.Expr) -> bool:
    """Whether an expression beside aggregates is known to be a text, a truth, a date, …"""
    return builder.program.type_of(builder.select, expression.text, over=True) not in (
        0, *NUMBER_OIDS)


def _is_case(tree) -> bool:
    return isinstance(tree, Op) and (
        tree.name in (*CONNECTIVES, "between", "not between", "in", "not in")
        or tree.name == "case" and any(
            child is not None and untyped(child.text) is not None
            for child in [*tree.args[1::2], tree.args[-1]] if isinstance(child, SpineLeaf)))


def is_grouped(builder) -> bool:
    """Whether the SELECT groups, by GROUP BY or by aggregates alone."""
    select = builder.select
    expressions = [item.expression for item in select.items if item.expression] + \
        ([select.having] if select.having else [])
    return select.group is not None or select.having is not None or any(
        isinstance(piece, nodes.AggregateCall) for e in expressions for piece in e.walk())


def lower_groups(builder, wanted, on: list[nodes.Expr]) \
        -> tuple[Relation, int, list[str], list[str]]:
    """(relation of the groups, how many of its columns are visible, terms of ORDER BY, and of
    DISTINCT ON)."""
    return GroupBuilder(builder).lower(wanted, on)


class GroupBuilder(GroupKeys, GroupAggregates, GroupDates, Numbers):
    """Expressions over groups: aggregates are the numbers, the rest is of a row of the group."""

    def __init__(self, builder):
        self.builder, self.program, self.select = builder, builder.program, builder.select
        self.block, self.grouping = builder.block, Grouping()
        self.answers = builder.answers
        self.keys: list[nodes.Expr] = []
        self.derived: list[int] = []        # keys that the others decide
        self.valued: dict[int, tuple] = {}  # cell -> (aggregate, call) whose values are wanted
        self.known_calls: dict[tuple, str | None] = {}

    def resolve(self, qualifier, name):
        return self.builder.resolve(qualifier, name)

    # --- the whole -------------------------------------------------------------------------

    def lower(self, wanted, on) -> tuple[Relation, int, list[str], list[str]]:
        select = self.select
        expressions = [item.expression for item in select.items if item.expression]
        for expression in expressions + [item.expression for item in wanted] + on:
            for piece in expression.walk():
                if isinstance(piece, nodes.WindowCall):
                    raise self.program.refuse("a window function over groups", piece,
                                              "Use a scalar subquery, or a join with a grouped "
                                              "subquery.")
        if any(item.star for item in select.items):
            raise self.program.refuse("* beside aggregates", select, "Name the columns.")
        if select.group is not None:
            self.read_group()
        asked = expressions + [item.expression for item in wanted] + on + (
            [select.having] if select.having is not None else [])
        self.add_labels(asked)
        self.place_keys()
        self.touch(asked)
        outputs: list[OutputSpec] = []
        for item in select.items:
            outputs.append(self.output(item.expression, item.alias or
                                       self.name(item.expression)))
        visible = len(outputs)
        order = []
        names = [spec.column.name for spec in outputs]
        for item in wanted:
            at, dependent = self.sorted_by(item.expression, outputs, names)
            order.append(order_refusal(self.program, item) if dependent
                         else f"_pgrain_o{at}{item.suffix}")
        partition = []
        for expression in on:
            at, dependent = self.sorted_by(expression, outputs, names)
            if dependent:
                raise part_refusal(self.program, expression)
            partition.append(f"_pgrain_o{at}")
        if select.having is not None:
            self.having(select.having)
        relation = self.finish(outputs, select.having is None)
        # (A CASE is split into rows by its comparisons: `Program.split`.)
        relation.wishes = {n: ("item", id(select), n) for n in range(visible)
                           if outputs[n].column.cell is not None
                           or outputs[n].column.shown is not None
                           and self.grouping.shown[outputs[n].column.shown] >= 0}
        return relation, visible, order, partition

    def sorted_by(self, expression: nodes.Expr, outputs: list[OutputSpec], names: list[str]) \
            -> tuple[int, bool]:
        """(place of the column, whether it hangs on predictions) of an item of ORDER BY or
        DISTINCT ON; a column of its own if it is not selected."""
        at = position(expression, names)
        if at is not None and 0 <= at < len(names) and outputs[at].column.random:
            expression, at = self.select.items[at].expression, None
        if at is None:
            self.sorting = True
            outputs.append(self.output(expression, f"_pgrain_{len(outputs)}"))
            self.sorting, at = False, len(outputs) - 1
        if not 0 <= at < len(outputs):
            raise self.program.refuse("this position in ORDER BY", expression)
        return at, outputs[at].column.random or \
            outputs[at].where == "entry" and not self.grouping.by_entry

    def lower_columns(self, calls: list[nodes.Expr], valued: set[str] = frozenset(),
                      having: nodes.Expr | None = None) -> Relation:
        """The groups with their keys and then aggregates as columns, and with `having`; valued:
        texts of aggregates whose values are wanted, which are numbers of the circuit here."""
        if self.select.group is not None:
            self.read_group()
        self.place_keys()
        self.touch(calls + ([having] if having is not None else []))
        outputs = [self.output(key, f"_pgrain_{n}") for n, key in enumerate(self.keys)]
        for call in calls:
            name = f"_pgrain_{len(outputs)}"
            outputs.append(self.as_value(call, name) if call.text in valued
                           and self.numbers_in(call) else self.output(call, name))
        if having is not None:
            self.having(having)
        return self.finish(outputs, having is None)

    def as_value(self, expression: nodes.Expr, name: str) -> OutputSpec:
        """An aggregate as a number of the circuit whose values are known: see `supports`."""
        call = expression.pieces[0]
        if self.boolean_aggregate(PieceLeaf(call.start, call.end, call)):
            return self.output(expression, name)
        made = self.read_aggregate(call)
        oid = self.program.type_of(self.select, call.arguments[0].text) if call.arguments else 0
        if made.function != "count" and not support.mark(made, oid) \
                or made.number is not None:
            raise self.program.refuse(
                f"GROUP BY, DISTINCT or a set operation of {call.function} of "
                + ("numbers that depend on predictions" if made.number is not None
                   else "floating-point numbers"), call,
                "Group by comparisons of it (CASE WHEN s > 10 THEN 'many' ELSE 'few' END)"
                + ("." if made.number is not None else ", or cast what it is of to numeric."))
        if made not in self.grouping.aggregates:
            self.grouping.aggregates.append(made)
        at = self.grouping.aggregates.index(made)
        self.grouping.cells.append(Number(("x", 0), [("aggregate", at, made.function)]))
        self.valued[len(self.grouping.cells) - 1] = at, call
        oid = 20 if made.function == "count" else \
            self.program.type_of(self.select, expression.text, over=True)
        return OutputSpec(Column(name, oid, len(self.grouping.cells) - 1), "cell")

    def supports(self) -> dict:
        """Cell -> what it can be (a function of a name), of the values that are no counts."""
        made = {}
        for cell, (at, call) in self.valued.items():
            if call.function == "count":
                continue
            refusal = self.program.refuse(
                f"GROUP BY, DISTINCT or a set operation of {call.function} where it can be more "
                f"than {support.MOST} different numbers", call, "Filter the rows, round what it is "
                "of, or group by comparisons of it.")
            oid = self.program.type_of(self.select, self.program.text[call.start:call.end],
                                       over=True)
            made[cell] = functools.partial(support.support, self.block, at, oid=oid,
                                           refusal=refusal)
        return made

    def finish(self, outputs: list[OutputSpec], all_: bool) -> Relation:
        """Close the block; `all_`: without HAVING."""
        grouping, select = self.grouping, self.select
        if grouping.fixed and self.one_copy != self.block.one_copy:
            raise self.program.refuse("a comparison of predictions beside aggregates that none "
                                      "moves", select, "Put it into FILTER, or into HAVING.")
        self.block.number = self.program.number()
        self.block.grouping, self.block.outputs = grouping, outputs
        for slot in self.block.slots:
            slot.block = self.block.number
        self.program.blocks.append(self.block)
        degrees = {n: degree(number, self.leaf_degree) for n, number in enumerate(grouping.cells)}
        relation = Relation(self.block.number, f"_pgrain_g{self.block.number}",
                            [spec.column for spec in outputs], self.block.key is not None,
                            select.group is None and all_, degrees,
                            all_ and (select.group is None
                                      or self.settled and not self.grouping.by_entry))
        relation.bounds = {n: self.bound() for n, number in enumerate(grouping.cells)
                           if self.is_count(number)}
        if grouping.by is not None and not grouping.sets:
            relation.positive = {n for n in relation.bounds if self.counts_every(grouping.cells[n])}
        names = [spec.sql for spec in outputs if spec.where == "key"]
        keys = [f"_pgrain_g{n}" for n in range(len(self.keys)) if n not in self.derived]
        if not grouping.sets and all(name in names for name in keys):
            relation.unique = tuple(n for n, spec in enumerate(outputs) if spec.where == "key")
        return relation

    def is_count(self, number: Number) -> bool:
        """Whether a number is a count of rows as it is."""
        leaf = number.leaves[number.tree[1]] if number.tree[0] == "x" else ("",)
        return leaf[0] == "aggregate" and leaf[2] == "count" and \
            self.grouping.aggregates[leaf[1]].number is None

    def counts_every(self, number: Number) -> bool:
        """Whether a count leaves out no row: of a group that is there it is not 0."""
        aggregate = self.grouping.aggregates[number.leaves[number.tree[1]][1]]
        return aggregate.flag_base is None and aggregate.flag_entry is None

    def bound(self) -> str:
        """SQL of how many rows a group has at most (see `Relation.bounds`)."""
        if self.grouping.by_entry:
            return f"(SELECT pg_catalog.count(*) FROM {self.block.base})::pg_catalog.int4"
        return "_pgrain_w._pgrain_n"

    def name(self, expression: nodes.Expr) -> str:
        piece = expression.pieces[0] if len(expression.pieces) == 1 else None
        if isinstance(piece, nodes.AggregateCall) and piece.end == expression.end:
            return piece.function
        return output_name(expression)

    # --- outputs ---------------------------------------------------------------------------

    def output(self, expression: nodes.Expr, name: str) -> OutputSpec:
        """One column: a key, a number of the circuit, a comparison, or text of the group's row."""
        if self.key_name(expression) is not None or not self.numbers_in(expression):
            where, text = self.of_group(expression)
            column = Column(name, self.type_of(expression), literal=untyped(text))
            column.extreme = any(call.function in ("min", "max") for call in aggregates(expression))
            column.labelled = self.builder.shows_label(expression) or bool(
                self.builder.randoms(expression))
            return OutputSpec(column, where, text)
        tree = read_tree(expression, self.is_random)
        if _is_case(tree) or self.of_truths(tree) or isinstance(tree, Op) and _has_case(tree) \
                and self.evaluable(tree) and is_no_number(self, expression):
            return self.cases(expression, name)
        if isinstance(tree, Op) and tree.name in ("cast:text", "cast:varchar"):
            tree = tree.args[0]
        if isinstance(tree, Op) and tree.name in (*COMPARISONS, "is null", "is not null") or \
                self.boolean_aggregate(tree):
            self.grouping.flags.append(self.read_atom(expression, tree))
            return OutputSpec(Column(name, 16, flag=len(self.grouping.flags) - 1), "flag")
        extreme = self.extreme_date(tree)
        if extreme or isinstance(tree, PieceLeaf) and isinstance(tree.piece, nodes.AggregateCall):
            at = self.aggregate(*extreme[:2]) if extreme else self.aggregate(tree.piece)
            if extreme or self.grouping.aggregates[at].as_text:
                self.grouping.shown.append(at)
                column = Column(name, 0, shown=len(self.grouping.shown) - 1, extreme=True)
                return OutputSpec(column, "shown")
        number = self.number(expression, tree)
        oid = 20 if self.integer(expression, tree) else 701
        self.grouping.cells.append(number)
        return OutputSpec(Column(name, oid, len(self.grouping.cells) - 1), "cell")

    def cases(self, expression: nodes.Expr, name: str) -> OutputSpec:
        """A CASE whose conditions are comparisons of aggregates and whose values are texts."""
        replaced: dict[tuple[int, int], str] = {}
        self._having(expression, read_tree(expression, self._matters), replaced)
        # BETWEEN and IN are several comparisons.
        atoms = sorted({int(number) for text in replaced.values()
                        for number in re.findall(r"_pgrain_h(\d+)\._pgrain_v", text)})
        self.grouping.cases.append((expression.substitute(replaced), atoms))
        column = Column(name, 0, shown=len(self.grouping.shown))
        self.grouping.shown.append(-len(self.grouping.cases))
        return OutputSpec(column, "shown")

    def type_here(self, text: str) -> int:
        return self.program.type_of(self.select, text, over=True)

    def boolean_aggregate(self, tree) -> bool:
        return isinstance(tree, PieceLeaf) and isinstance(tree.piece, nodes.AggregateCall) \
            and tree.piece.function in ("bool_and", "bool_or", "every")

    def evaluable(self, node) -> bool:
        return self.boolean_aggregate(node) or super().evaluable(node)

    def numbers_in(self, expression: nodes.Expr) -> bool:
        """Whether an expression over groups has numbers of the circuit in it."""
        return any(self.is_random(piece) for piece in expression.walk())

    def is_random(self, piece: nodes.Piece) -> bool:
        if isinstance(piece, nodes.AggregateCall):
            return self.fixed_call(piece) is None
        if isinstance(piece, nodes.ColumnRef):
            found = self.builder.resolve(piece.qualifier, piece.name)
            return found is not None and found[1].random and not self._in_aggregate(piece)
        return False

    def _in_aggregate(self, piece) -> bool:
        expressions = [item.expression for item in self.select.items if item.expression]
        expressions += [self.select.having] if self.select.having else []
        return any(isinstance(p, nodes.AggregateCall) and p.start <= piece.start
                   and piece.end <= p.end for e in expressions for p in e.walk())

    def of_group(self, expression: nodes.Expr) -> tuple[str, str]:
        """(where, SQL) of a deterministic expression over groups."""
        name = self.key_name(expression)
        if name is not None:
            return "key", name
        if aggregates(expression):
            return "fixed", self.over_keys(expression)
        columns = [p for p in expression.walk()
                   if isinstance(p, (nodes.ColumnRef, nodes.ModelCall))
                   or isinstance(p, nodes.Subquery) and self.of_rows(p)]
        if not columns and not self.grouping.sets:
            return "constant", expression.text
        if self.grouping.sets:
            return "key", self.over_keys(expression)
        made = self.builder.prepare(expression, labelled=self.grouping.by_entry)
        if made.labelled and not (self.grouping.by_entry and self.labels_decided(expression)):
            raise self.program.refuse("a prediction that is not grouped by", expression)
        return ("entry" if made.labelled else "base"), made.text

    def of_rows(self, piece: nodes.Subquery) -> bool:
        """Whether a subquery may depend on a model or on the row that it is asked for: if not, it
        has its value in a group without rows too."""
        return self.program.analysis.depends(piece) or bool(
            free_columns(self.program, piece.query))

    def over_keys(self, expression: nodes.Expr) -> str:
        """The expression over a group's rows: its grouping keys by our names (GROUPING SETS make
        them NULL), its aggregates by those of what they are of."""
        if self.beyond_keys(expression) is not None:
            place = "GROUPING SETS" if self.grouping.sets else "aggregates"
            raise self.program.refuse(f"this expression over {place}", expression,
                                      "Select the grouping expressions themselves.")
        replaced = {}
        for piece in expression.walk():
            made = self.fixed_call(piece) if isinstance(piece, nodes.AggregateCall) else \
                self.key_name(cut(expression, piece.start, piece.end))
            if made is not None:
                replaced[piece.start, piece.end] = made
        return expression.substitute(replaced)

    def type_of(self, expression: nodes.Expr) -> int:
        piece = expression.pieces[0] if len(expression.pieces) == 1 else None
        if isinstance(piece, nodes.ColumnRef):
            found = self.builder.resolve(piece.qualifier, piece.name)
            if found is not None and piece.end - piece.start == len(expression.text):
                return found[1].oid
        return 0

    # --- numbers over groups ---------------------------------------------------------------

    def prepare(self, expression: nodes.Expr, labelled: bool = False):
        where, text = self.of_group(expression)
        self._where = where
        return Prepared(text, False)

    def leaf(self, text: str) -> int:
        leaf = (getattr(self, "_where", None) or "constant", f"({text}\n)::pg_catalog.float8")
        self._where = None
        if leaf not in self.grouping.leaves:
            self.grouping.leaves.append(leaf)
        return self.grouping.leaves.index(leaf)

    def leaf_text(self, text: str) -> int:
        return self.leaf(text)

    _degrees = {"count": COUNT, "sum": LINEAR, "sum given": LINEAR, "avg": RATIO}

    def leaf_degree(self, leaf: tuple) -> str:
        if leaf[0] == "cell":
            return super().leaf_degree(leaf)
        if leaf[0] == "aggregate":
            part, number = leaf[2], self.grouping.aggregates[leaf[1]].number
            if number is None:
                return self._degrees.get(part, EXTREME)
            linear = degree(number, self.builder.leaf_degree) in (CONST, COUNT, LINEAR)
            return WHOLE if linear and part in ("sum", "avg", "min", "max") else OTHER
        return {"leaf": CONST, "condition": BENT}.get(leaf[0], OTHER)

    def piece_number(self, piece: nodes.Piece) -> tuple:
        if isinstance(piece, nodes.AggregateCall):
            number = self.aggregate(piece)
            if self.grouping.aggregates[number].as_text:
                ask_aggregate(self, piece)
                raise self.program.refuse(f"an expression over {piece.function} of what is no "
                                          "number", piece,
                                          "Make it a number, as with extract(epoch FROM ...).")
            return "aggregate", number, self.grouping.aggregates[number].function
        found = self.resolve(piece.qualifier, piece.name) \
            if isinstance(piece, nodes.ColumnRef) else None
        if found is not None and found[1].cell is not None and any(
                found[0] in self.units_of(self.keys[number]) for number in self.derived):
            return "cell", self.builder.unit_of[found[0]], found[1].cell
        raise self.program.refuse("a number that depends on predictions outside an aggregate",
                                  piece, "Put it into an aggregate.")

    def read_atom(self, expression, node) -> Atom:
        if self.boolean_aggregate(node):
            number = self.aggregate(node.piece)
            return Atom("flag", Number(("p", 0), [("aggregate", number, "bool")]), None)
        return super().read_atom(expression, node)

    def condition(self, atom: Atom) -> int:
        if atom not in self.grouping.atoms:
            self.grouping.atoms.append(atom)
        return self.grouping.atoms.index(atom)

    def atom_column(self, atom: Atom) -> str:
        return f"_pgrain_h{self.condition(atom)}._pgrain_v"

    def integer(self, expression, node) -> bool:
        return super().integer(*_into(expression, node))

    def floating(self, expression, node) -> bool:
        return super().floating(*_into(expression, node))

    def integer_piece(self, piece: nodes.Piece) -> bool:
        if isinstance(piece, nodes.AggregateCall):
            if piece.function == "count":
                return True
            if piece.function == "avg" or not piece.arguments:
                return False
            oid = self.program.type_of(self.select, piece.arguments[0].text)
            return oid in ((21, 23) if piece.function == "sum" else INTEGER_OIDS)
        return super().integer_piece(piece)

    def floating_piece(self, piece: nodes.Piece) -> bool:
        if isinstance(piece, nodes.AggregateCall):
            return piece.function != "count" and bool(piece.arguments) and \
                self.program.type_of(self.select, piece.arguments[0].text) in FLOAT_OIDS
        return super().floating_piece(piece)

    # --- HAVING ----------------------------------------------------------------------------

    def having(self, expression: nodes.Expr) -> None:
        """Comparisons of aggregates become atoms, what is deterministic a column of the groups."""
        replaced: dict[tuple[int, int], str] = {}
        self._having(expression, read_tree(expression, self._matters), replaced)
        self.grouping.having = expression.substitute(replaced)

    def _matters(self, piece: nodes.Piece) -> bool:
        return self.is_random(piece) or isinstance(piece, (nodes.ModelCall, nodes.ColumnRef,
                                                           nodes.Subquery))

    def _having(self, expression, node, replaced) -> None:
        part = cut(expression, node.start, node.end)
        if not self.numbers_in(part):
            if isinstance(node, SpineLeaf) and not aggregates(part):
                return                      # a constant
            leaf = self.of_group(part)
            if leaf not in self.grouping.having_leaves:
                self.grouping.having_leaves.append(leaf)
            at = self.grouping.having_leaves.index(leaf)
            replaced[node.start, node.end] = f"_pgrain_x._pgrain_w{at}"
        elif isinstance(node, Op) and node.name in (*CONNECTIVES, "case"):
            for child in node.args:
                if child is not None:
                    self._having(expression, child, replaced)
        else:
            found = read_tree(part, self.is_random)
            if isinstance(found, Op) and isinstance(node, Op) and found.name not in _ATOMS \
                    and all(child is None or self.evaluable(child) for child in found.args):
                for child in node.args:     # of the same places, with columns and labels apart
                    if child is not None:
                        self._having(expression, child, replaced)
                return
            self._atoms(part, found, replaced)


