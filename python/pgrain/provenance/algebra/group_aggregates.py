"""Aggregates over the rows of a group: those of the circuit, and those that no prediction moves."""

from __future__ import annotations

from pgrain.plan import nodes
from pgrain.plan.spine import Op, read_tree
from pgrain.provenance.algebra.blocks import Aggregate
from pgrain.provenance.algebra.numbers import CONNECTIVES, NUMBER_OIDS
from pgrain.provenance.algebra.program import conjuncts, cut, free_columns, untyped
from pgrain.provenance.algebra.queries import shows_number
from pgrain.provenance.annotate import present
from pgrain.provenance.namesakes import UNKNOWN

# Sums of these are the same in whatever order their rows come.
_EXACT_OIDS = (20, 21, 23, 1186, 1700)
_SPREADS = ("stddev", "stddev_pop", "stddev_samp", "variance", "var_pop", "var_samp")
FUNCTIONS = ("count", "sum", "avg", "min", "max", "bool_and", "bool_or", "every")


def aggregates(expression: nodes.Expr) -> list[nodes.AggregateCall]:
    """The aggregates of an expression."""
    return [piece for piece in expression.walk() if isinstance(piece, nodes.AggregateCall)]


def _joins_conditions(tree) -> bool:
    """Whether a CASE branches on comparisons joined by AND, OR, NOT: PostgreSQL evaluates it for
    each of their outcomes."""
    return isinstance(tree, Op) and (tree.name == "case" and any(
        isinstance(child, Op) and child.name in CONNECTIVES for child in tree.args[0:-1:2])
        or any(map(_joins_conditions, tree.args)))


class GroupAggregates:
    """The part of a `GroupBuilder` that reads aggregates."""

    # --- aggregates that no prediction moves -----------------------------------------------

    settled = False         # no prediction decides which rows a group has
    one_copy = ""           # SQL, where base rows stand there more than once
    sorting = False         # an item of ORDER BY or DISTINCT ON is read

    def touch(self, expressions: list[nodes.Expr]) -> None:
        """Read what stands inside the aggregates, which may join more to the base rows; then it is
        known whether predictions decide about these."""
        self.block.decisive = len(self.block.atoms), len(self.block.units)
        for call in (call for expression in expressions for call in aggregates(expression)):
            for part in (*self.arguments(call), call.filter):
                if part is None:
                    continue
                if part is not call.filter and self.is_number(part):
                    self.builder.number(part, read_tree(part, self.builder.is_random))
                else:
                    self.builder.prepare(part)
        # One group for each key is made of a row without values, too, which must not count.
        self.one_copy = self.block.one_copy
        self.settled = self.block.settled_groups and not self.grouping.by_entry and not (
            self.grouping.by is None and self.block.key is not None)
        for expression in expressions:
            for part in conjuncts(expression) if expression is self.select.having else [expression]:
                if aggregates(part) and self.beyond_keys(part) is not None:
                    # What stands beside them is known of the group's rows alone.
                    self.known_calls |= {(id(call), False): None for call in aggregates(part)}

    def beyond_keys(self, expression: nodes.Expr) -> nodes.Piece | None:
        """What keys and aggregates do not say of an expression over groups; None if all."""
        known: list[nodes.Piece] = []
        for piece in expression.walk():
            if any(of.start <= piece.start and piece.end <= of.end for of in known):
                continue
            if isinstance(piece, nodes.AggregateCall) or \
                    self.key_name(cut(expression, piece.start, piece.end)) is not None:
                known.append(piece)
            elif isinstance(piece, (nodes.ColumnRef, nodes.ModelCall)) or \
                    self.program.analysis.depends(piece) or isinstance(piece, nodes.Subquery) and \
                    self.builder.outer_columns(self.free(piece)):
                return piece
        return None

    def free(self, piece: nodes.Subquery) -> set[tuple[str | None, str]]:
        """Columns that a subquery may take from the group's rows; over GROUPING SETS, where nothing
        else can be done, those that say so."""
        return {(of, name) for of, name in free_columns(self.program, piece.query)
                if of is not None or not self.grouping.sets}

    def arguments(self, call: nodes.AggregateCall) -> list[nodes.Expr]:
        """What an aggregate is of; count of the rows of a relation is count(*): these are never
        NULL, unless an outer join made them."""
        argument = call.arguments[0] if len(call.arguments) == 1 else None
        piece = argument.pieces[0] if argument is not None and len(argument.pieces) == 1 else None
        if call.function != "count" or call.distinct or not isinstance(piece, nodes.ColumnRef) \
                or piece.end - piece.start != len(argument.text) \
                or not self.builder.whole_row(piece):
            return call.arguments
        alias = piece.name if piece.qualifier is None else nodes.relation_of(piece.qualifier)
        unit = self.builder.unit_of.get(alias)
        return [] if unit is None or self.block.units[unit].alias == alias else call.arguments

    def is_number(self, argument: nodes.Expr) -> bool:
        """Whether an aggregate's argument is a number of the circuit, not a text or truth that
        PostgreSQL makes of comparisons of such numbers."""
        if not self.builder.randoms(argument):
            return False
        tree = read_tree(argument, self.builder.is_random)
        return not self.builder.evaluable(tree) or isinstance(tree, Op) and shows_number(
            self.builder, argument, tree) and not _joins_conditions(tree)

    def fixed_call(self, call: nodes.AggregateCall) -> str | None:
        """SQL of an aggregate over a group's rows, if no prediction moves it.

        Sums of floating-point numbers hang on the order of the rows in their last digits: they may
        sort groups, but what is shown or compared of them is not PostgreSQL's.
        """
        if not self.settled:
            return None
        known = id(call), self.sorting
        if known not in self.known_calls:
            self.known_calls[known] = self.read_fixed(call)
        return self.known_calls[known]

    def read_fixed(self, call: nodes.AggregateCall) -> str | None:
        arguments = self.arguments(call)
        if call.order or call.function not in (*FUNCTIONS, *_SPREADS) or len(arguments) > 1 \
                or self.namesake_of(call):
            return None
        parts = []
        for part in [*arguments, *([call.filter] if call.filter is not None else [])]:
            if self.builder.randoms(part) or self.program.analysis.depends(part):
                return None
            made = self.builder.prepare(part)
            if made.labelled or part.tokens[-1].value == "*":       # t.* in a list is its columns
                return None
            if made.text not in self.grouping.fixed:
                self.grouping.fixed.append(made.text)
            parts.append(f"_pgrain_z{self.grouping.fixed.index(made.text)}")
        if call.function in ("sum", "avg", *_SPREADS) and not self.sorting:
            oid = self.program.type_of(self.select, call.arguments[0].text)
            if oid and oid not in _EXACT_OIDS:
                return None
        argument = ("DISTINCT " if call.distinct else "") + parts[0] if arguments else "*"
        conditions = parts[-1:] if call.filter is not None else []
        if self.one_copy:
            if self.one_copy not in self.grouping.fixed:
                self.grouping.fixed.append(self.one_copy)
            conditions.append(f"_pgrain_z{self.grouping.fixed.index(self.one_copy)}")
        filter_ = f" FILTER (WHERE {' AND '.join(conditions)})" if conditions else ""
        return f"pg_catalog.{call.function}({argument}){filter_}"

    # --- aggregates of the circuit ---------------------------------------------------------

    def aggregate(self, call: nodes.AggregateCall, wrapped: str | None = None,
                  seconds: bool = False) -> int:
        """Number of an aggregate of this grouping; wrapped: SQL of what is made of each value of an
        extreme, over "{}"; seconds: of dates, as numbers."""
        made = self.read_aggregate(call)
        for where in ("base", "entry") if wrapped or seconds else ():
            text = getattr(made, f"distinct_{where}")
            if text is None:
                continue
            text = wrapped.replace("{}", f"({text}\n)") if wrapped else text
            setattr(made, f"distinct_{where}", None if seconds else text)
            if seconds:
                made.as_text = False
                setattr(made, f"value_{where}", f"pg_catalog.date_part('epoch', ({text}\n))")
        if made not in self.grouping.aggregates:
            self.grouping.aggregates.append(made)
        return self.grouping.aggregates.index(made)

    def read_aggregate(self, call: nodes.AggregateCall) -> Aggregate:
        if call.function not in FUNCTIONS:
            raise self.program.refuse(f"the aggregate {call.function}", call,
                                      "Use count, sum, avg, min, max, bool_and or bool_or.")
        namesake = self.namesake_of(
            call, "extreme" if call.function in ("min", "max") else "function")
        if namesake:
            raise self.program.refuse(
                f"{call.function}, which may mean {namesake} here,", call,
                f"Write pg_catalog.{call.function} if PostgreSQL's own is meant.")
        if call.order:
            raise self.program.refuse("ORDER BY inside an aggregate", call, "Leave it out.")
        function = "bool_and" if call.function == "every" else call.function
        made = Aggregate(function, call.distinct, None, None)
        flags: dict[str, list[str]] = {"base": [], "entry": []}
        if call.filter is not None:
            part = self.builder.prepare(call.filter)
            flags["entry" if part.labelled else "base"].append(f"coalesce(({part.text}), false)")
        if self.arguments(call):
            if len(call.arguments) > 1:
                raise self.program.refuse("an aggregate of several arguments", call)
            self.argument(call, call.arguments[0], made, flags)
        made.flag_base = " AND ".join(flags["base"]) or None
        made.flag_entry = " AND ".join(flags["entry"]) or None
        return made

    def namesake_of(self, call: nodes.AggregateCall, kind: str = "function") -> str | None:
        """What an aggregate may mean in place of PostgreSQL's own."""
        if call.qualified or ("function", call.function) not in self.program.namesakes:
            return None
        types = [UNKNOWN if untyped(part.text) is not None
                 else self.program.type_of(self.select, part.text) for part in call.arguments]
        return self.program.namesake(kind, call.function, types)

    def argument(self, call, argument: nodes.Expr, made: Aggregate, flags) -> None:
        if self.is_number(argument):
            if call.distinct or made.function.startswith("bool"):
                raise self.program.refuse(f"{call.function} of numbers that depend on predictions",
                                          call)
            tree = read_tree(argument, self.builder.is_random)
            made.number = self.builder.number(argument, tree)
            return
        if made.function in ("sum", "avg") and not argument.pieces:
            self.builder.check_number(argument)
        part = self.builder.prepare(argument)
        where = "entry" if part.labelled else "base"
        flags[where].append(present(f"({part.text}\n)"))
        made.argument = where, part.text
        value = f"({part.text}\n)::pg_catalog.float8"
        if made.function.startswith("bool"):
            value = f"({part.text}\n)::pg_catalog.int4::pg_catalog.float8"
        elif made.function in ("sum", "avg"):
            oid = self.program.type_of(self.select, argument.text)
            if oid and oid not in NUMBER_OIDS:
                raise self.program.refuse(f"{made.function} of what is no number", call,
                                          "Make it a number, as with extract(epoch FROM ...).")
        elif made.function in ("min", "max"):
            oid = self.program.type_of(self.select, argument.text)
            if oid and oid not in NUMBER_OIDS:
                made.as_text = True
                setattr(made, f"distinct_{where}", part.text)
                return
        if made.function != "count":
            setattr(made, f"value_{where}", value)
        if call.distinct:
            setattr(made, f"distinct_{where}", part.text)
