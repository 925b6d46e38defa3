"""Annotation: which side of a factorised join evaluates what, and what the capture must keep.

A *slot* is one distinct model call. Two slots whose arguments come from disjoint relations make two
*sides* that meet only through predictions (and conditions on columns); each side is captured once
and never multiplied out (eager aggregation, Yan and Larson, VLDB 1995). Expressions are

- deterministic on one side: evaluated by that side's part of the capture, verbatim;
- deterministic across sides: the join condition between the sides' factors;
- mixed, with a model call: evaluated by PostgreSQL once for each pattern of the columns it needs
  and each assignment of classes to the slots.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pgrain.errors import UnsupportedOperator
from pgrain.plan import nodes
from pgrain.plan.expression import Expression, refuse
from pgrain.plan.lexer import tokenize, unbracketed
from pgrain.plan.query import Query, resolve_keys
from pgrain.provenance.grouping import known_type

SLOTS = 2
_NUMERIC = 1700


@dataclass(frozen=True)
class Slot:
    """One distinct model call: a variable for each row of its side."""

    index: int
    side: int
    model: str
    argument: str
    column: tuple | None = None  # (alias, name) if the argument is nothing but a column
    units: tuple = ()            # numbers of the units of FROM whose columns the argument names


@dataclass
class Detail:
    """A deterministic value that the capture keeps for each pattern (or to join factors)."""

    name: str
    sql: str
    oid: int
    exposes: tuple | None        # (alias, column) that expressions know it by


@dataclass
class Measure:
    """A deterministic argument of an aggregate: a weight for each row of one side."""

    side: int
    value: str | None            # float8, or None where only its presence counts
    flag: str                    # boolean, never NULL; where there is a value, it must not be NULL,
                                 # either, for the row to count
    numeric: str | None = None   # the value as it is, of type numeric


@dataclass
class Side:
    """One input of the factorised join."""

    units: list[str] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    details: list[Detail] = field(default_factory=list)
    keys: list[Detail] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)


@dataclass
class Cell:
    """How one output column comes to be."""

    role: str                    # "constant", "group", "row", "label", "aggregate"
    sql: str | None = None       # for the part of the capture that evaluates it
    function: str | None = None  # of an aggregate
    flag: str | None = None      # boolean SQL for each assignment
    value: str | None = None     # float8 SQL for each assignment (mixed argument)
    measure: tuple | None = None # (side, number) of a deterministic argument
    dependent: bool = False


@dataclass
class Annotated:
    """The query with its annotation; `capture_sql` renders it."""

    query: Query
    sides: list[Side]
    slots: list[Slot]
    cross: list[str]             # conditions between the sides, on columns
    mixed: list[str]             # conditions on predictions
    keys: list[str]              # grouping expressions for each assignment
    cells: list[Cell]
    notes: list[str]
    exact: bool = False          # no collation takes different texts for equal
    columns: dict = field(default_factory=dict)    # alias -> [(name, type oid)]
    side_of: list[int] = field(default_factory=list)    # of each unit of FROM

    @property
    def by_row(self) -> bool:
        """Without aggregation each row of the FROM is an output row of its own."""
        return not self.query.aggregated


class Annotator:
    """Builds `Annotated` from the query and the types of its columns."""

    def __init__(self, query: Query, columns: dict[str, list[tuple[str, int]]],
                 types: dict[str, int]):
        self.query, self.columns, self.types = query, columns, types
        self.units = query.from_.units
        self.unit_of = {alias: number for number, unit in enumerate(self.units)
                        for alias in unit.aliases}
        self.labels: dict[int, str] = {}

    def run(self) -> Annotated:
        query = self.query
        self.slots_of_calls()
        self.assign_sides()
        self.sides = [Side() for _ in range(1 + max(self.side_of))]
        for number, unit in enumerate(self.units):
            self.sides[self.side_of[number]].units.append(unit.text)
        for slot in self.slots:
            self.sides[slot.side].slots.append(slot)
        names = {name for columns in self.columns.values() for name, _ in columns}
        keys = resolve_keys(query, names)
        mixed, cross = [], []
        for condition in query.conditions:
            if condition.calls:
                mixed.append(self.evaluated(condition))
                continue
            sides = {self.side_of[u] for u in self.touched(condition)}
            if len(sides) < 2:
                self.sides[min(sides, default=0)].where.append(condition.text)
            else:
                self.keep(condition, "keys")
                cross.append(condition.text)
        key_sql = [self.value(key) for key in keys] if query.aggregated else []
        shown = self.determined_labels(keys)
        key_sql += shown
        moving = bool(mixed or shown) or any(key.calls for key in keys)
        cells = [cell for item in query.items for cell in self.cells(item, moving)]
        return Annotated(query, self.sides, self.slots, cross, mixed, key_sql, cells, [],
                         columns=self.columns, side_of=self.side_of)

    def determined_labels(self, keys: list) -> list[str]:
        """Labels that are selected beside the groups that decide them: GROUP BY x is GROUP BY x,
        predict('m', x), which is a possible row for each class."""
        query = self.query
        if not (query.aggregated and query.select.grouped):
            return []
        grouped = {self.labels[call.start] for key in keys for call in key.calls}
        plain = {self.resolve(key.columns[0])[:2] for key in keys if len(key.columns) == 1
                 and is_column(key.text) and self.resolve(key.columns[0]) is not None}
        texts, shown = [_bare(key.with_labels(self.labels)) for key in keys], {}
        for item in query.items:
            if item.kind != "plain" or \
                    _bare(item.expression.with_labels(self.labels)) in texts:
                continue
            for call in item.expression.calls:
                label = self.labels[call.start]
                if label not in grouped or \
                        {(self.resolve(column) or ())[:2] for column in call.columns} <= plain:
                    shown[label] = None
                elif _bare(label) not in texts:
                    raise refuse("a prediction that is not grouped by", query.text, call.start,
                                 call.end)
        return list(shown)

    # --- names -----------------------------------------------------------------------------

    def resolve(self, column: tuple) -> tuple | None:
        """(alias, name, type oid, merged) of a column as the text names it; None if unknown."""
        qualifier, name = column
        if qualifier is None:
            owners = [alias for alias, columns in self.columns.items()
                      if any(name == known for known, _ in columns)]
            if owners:
                return owners[0], name, self.type_of(owners[0], name), len(owners) > 1
            return (name, "*", 0, False) if name in self.columns else None
        alias = nodes.relation_of(qualifier)
        if alias in self.columns:
            return alias, name, self.type_of(alias, name), nodes.has_schema(qualifier)
        return None

    def type_of(self, alias: str, name: str) -> int:
        return next((oid for known, oid in self.columns[alias] if known == name), 0)

    def touched(self, expression: Expression) -> set[int]:
        """The units whose columns an expression needs, those of its model calls included."""
        columns = expression.columns + tuple(c for call in expression.calls for c in call.columns)
        return self.units_of(columns, expression.subquery)

    def units_of(self, columns, subquery: bool = False) -> set[int]:
        units = set()
        for column in columns:
            found = self.resolve(column)
            if found is not None:
                units.add(self.unit_of[found[0]])
            elif not subquery:
                return set(range(len(self.units)))
        return units

    # --- sides -----------------------------------------------------------------------------

    def slots_of_calls(self) -> None:
        self.slots, known = [], {}
        for call in self.query.calls():
            columns = [self.resolve(column) for column in call.columns]
            key, column = (call.model, call.argument), None
            if len(columns) == 1 and columns[0] is not None and is_column(call.argument):
                key, column = (call.model, columns[0][:2]), columns[0][:2]
            if key not in known:
                if len(known) == SLOTS:
                    raise refuse("a third different model call", self.query.text, call.start,
                                 call.end, "Use at most two different calls in one query.")
                known[key] = len(known)
                self.slots.append((call, self.units_of(call.columns), column))
            self.labels[call.start] = f'"_pgrain_c{known[key]}"."_pgrain_label"'

    def assign_sides(self) -> None:
        """`side_of` for each unit, and the slots with their sides."""
        self.side_of = [0] * len(self.units)
        if self.query.aggregated and len(self.slots) == 2:
            groups = [self.with_laterals(units) for _, units, _ in self.slots]
            if groups[0] and groups[1] and not groups[0] & groups[1]:
                self.spread(groups)
                self.side_of = [1 if unit in groups[1] else 0 for unit in range(len(self.units))]
        elif self.query.aggregated and len(self.slots) == 1 and self.slots[0][1]:
            # What nothing but the prediction ties to it stands on the other side.
            groups = [self.with_laterals(self.slots[0][1]), set()]
            self.spread(groups, tied_only=True)
            if not self.ties(groups[0]):
                self.side_of = [0 if unit in groups[0] else 1 for unit in range(len(self.units))]
        self.slots = [Slot(number, self.side_of[min(units, default=0)], call.model, call.argument,
                           column, tuple(sorted(units)))
                      for number, (call, units, column) in enumerate(self.slots)]

    def with_laterals(self, units: set[int]) -> set[int]:
        """`units`, and all that stand before a lateral one (it may refer to any of them)."""
        last = max((u for u in units if self.units[u].lateral), default=-1)
        return units | set(range(last)) if last > 0 else set(units)   # spread adds to it

    def ties(self, side: set[int]) -> bool:
        """Whether an expression needs columns of `side` and of others: then a pattern would be as
        fine as a pair of rows."""
        expressions = [*self.query.conditions]
        names = {name for columns in self.columns.values() for name, _ in columns}
        expressions += resolve_keys(self.query, names)
        for item in self.query.items:
            if item.kind == "aggregate":
                expressions += [e for e in (item.aggregate.argument, item.aggregate.filter)
                                if e is not None]
            elif item.expression is not None:
                expressions.append(item.expression)
        for expression in expressions:
            units = self.units_of(expression.columns, expression.subquery)
            if units & side and units - side:
                return True
        return False

    def spread(self, groups: list[set[int]], tied_only: bool = False) -> None:
        """Give each other unit to the side that a condition ties it to; the rest to the first,
        unless `tied_only`."""
        ties = [self.touched(c) for c in self.query.conditions if not c.calls]
        ties += [set(range(number + 1)) for number, unit in enumerate(self.units)
                 if unit.lateral and number]
        changed = True
        while changed:
            changed = False
            for tie in ties:
                free = tie - groups[0] - groups[1]
                side = next((g for g in groups if g & tie), None)
                if free and side is not None:
                    side |= free
                    changed = True
        for number, unit in enumerate(self.units):
            before = set(range(number + 1))
            if unit.lateral and number and not any(before <= group for group in groups):
                groups[0] |= set(range(len(self.units)))
                groups[1].clear()
                return
        if not tied_only:
            groups[0] |= set(range(len(self.units))) - groups[1]

    # --- expressions -----------------------------------------------------------------------

    def keep(self, expression: Expression, purpose: str) -> None:
        """Make the columns of `expression` known where it will be evaluated."""
        for column in expression.columns:
            found = self.resolve(column)
            if found is None and expression.subquery:
                continue
            if found is None or found[3] or found[1] == "*" or not found[2]:
                written = ".".join(part for part in column if part)
                raise refuse(f'column "{written}" beside a model call' if purpose == "details"
                             else f'column "{written}" in a condition between the inputs',
                             self.query.text, expression.start, expression.end,
                             "Name a column of one relation, as alias.column.")
            alias, name, oid, _ = found
            side = self.sides[self.side_of[self.unit_of[alias]]]
            self.detail(side, purpose, f"{quote(alias)}.{quote(name)}", oid, (alias, name))

    def detail(self, side: Side, purpose: str, sql: str, oid: int, exposes) -> str:
        details = getattr(side, purpose)
        if not known_type(oid):
            raise UnsupportedOperator(f"{sql} of type {oid} beside a model call has no provenance "
                                      "here")
        for known in details:
            if known.sql == sql and known.exposes == exposes:
                return known.name
        number = self.sides.index(side)
        letter = "d" if purpose == "details" else "k"
        details.append(Detail(f"_pgrain_{letter}{number}_{len(details)}", sql, oid, exposes))
        return details[-1].name

    def evaluated(self, expression: Expression) -> str:
        """A mixed expression for one assignment: its columns kept, its calls made labels."""
        self.keep(expression, "details")
        return expression.with_labels(self.labels)

    def value(self, expression: Expression) -> str:
        """SQL for the value of `expression` for one pattern and assignment."""
        if expression.calls:
            return self.evaluated(expression)
        sides = {self.side_of[u] for u in self.touched(expression)}
        if not sides:
            return expression.text
        if len(sides) == 1:
            side = self.sides[sides.pop()]
            found = self.resolve(expression.columns[0]) if len(expression.columns) == 1 \
                and is_column(expression.text) else None
            # A condition may know the column: rows are not grouped by it twice.
            name = next((known.name for known in side.details if found is not None
                         and not found[3] and known.exposes == found[:2]), None)
            name = name or self.detail(side, "details", expression.text,
                                       self.type_of_text(expression), None)
            return f'"_pgrain_q"."{name}"'
        return self.evaluated(expression)

    def type_of_text(self, expression: Expression) -> int:
        """Type of an expression that was asked for, or of a plain column; 0 if unknown."""
        if expression.text in self.types:
            return self.types[expression.text]
        if len(expression.columns) == 1 and is_column(expression.text):
            found = self.resolve(expression.columns[0])
            return found[2] if found is not None else 0
        return 0

    def cells(self, item, moving: bool) -> list[Cell]:
        if item.kind == "star":
            return self.star(item)
        if item.kind == "aggregate":
            return [self.aggregate(item.aggregate, moving)]
        expression = item.expression
        if not self.query.aggregated:
            if expression.calls:
                return [Cell("label", self.evaluated(expression), dependent=True)]
            return [Cell("row", expression.text)]
        if not self.query.select.grouped:
            if expression.calls:      # of columns PostgreSQL itself says so
                raise refuse("a column beside aggregates without GROUP BY", self.query.text,
                             expression.start, expression.end)
            return [Cell("constant", expression.text)]
        return [Cell("group", self.value(expression))]

    def star(self, item) -> list[Cell]:
        if self.query.aggregated:
            raise UnsupportedOperator("* in a query with aggregates has no provenance yet",
                                      hint="Name the columns.")
        aliases = [item.qualifier] if item.qualifier else list(self.columns)
        if not item.qualifier and any(unit.merged or "_pgrain_unnamed" in unit.aliases
                                      for unit in self.units):
            raise UnsupportedOperator("a * over NATURAL or USING has no provenance yet",
                                      hint="Name the columns.")
        if item.qualifier and item.qualifier not in self.columns:
            raise UnsupportedOperator(f'"{item.qualifier}.*" has no provenance yet',
                                      hint="Name the columns.")
        if any(len({name for name, _ in self.columns[alias]}) < len(self.columns[alias])
               for alias in aliases):
            raise UnsupportedOperator("a * over columns of one name has no provenance yet",
                                      hint="Name the columns.")
        return [Cell("row", f"{quote(alias)}.{quote(name)}")
                for alias in aliases for name, _ in self.columns[alias]]

    def aggregate(self, aggregate, moving: bool) -> Cell:
        """Filter and argument, each as a weight of rows or as a value of assignments."""
        argument, where = aggregate.argument, aggregate.filter
        dependent = moving or any(e is not None and e.calls for e in (argument, where))
        parts = [e for e in (argument, where) if e is not None and not e.calls]
        sides = {self.side_of[u] for e in parts for u in self.touched(e)}
        flags, measure_flags, measure, value = [], [], None, None
        if len(sides) > 1 or not parts:
            rowwise = []
        else:
            rowwise = parts
        if where is not None:
            if where in rowwise:
                measure_flags.append(f"coalesce(({where.text}), false)")
            else:
                flags.append(f"coalesce(({self.evaluated(where)}), false)")
        if argument is not None:
            if argument in rowwise:
                measure_flags.append(present(argument.text))
                value = argument.text
            else:
                text = self.evaluated(argument)
                flags.append(present(text))
                if aggregate.function != "count":
                    value = text
        value_sql = None
        if measure_flags:
            side = min(sides, default=0)
            weight = numeric = None
            if argument in rowwise and aggregate.function != "count" and argument is not None:
                weight = f"({value})::pg_catalog.float8"
                numeric = f"({value})" if self.type_of_text(argument) == _NUMERIC else None
                value = None
                measure_flags.remove(present(argument.text))     # the weight is NULL then
            made = Measure(side, weight, " AND ".join(measure_flags) or "true", numeric)
            measures = self.sides[side].measures
            if made not in measures:
                measures.append(made)
            measure = (side, measures.index(made))
        if value is not None and aggregate.function != "count":
            value_sql = f"({value})::pg_catalog.float8"
        return Cell("aggregate", None, aggregate.function, " AND ".join(flags) or "true",
                    value_sql, measure, dependent)


def present(sql: str) -> str:
    """SQL that says whether a datum is not NULL (a row of NULLs is a datum)."""
    return f"pg_catalog.num_nonnulls({sql}) OPERATOR(pg_catalog.=) 1"


def quote(name: str) -> str:
    """A name as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def _bare(text: str) -> list[str]:
    return [token.value for token in unbracketed(tokenize(text))]


def is_column(argument: str) -> bool:
    """Nothing but a column: a name, or names with dots between them."""
    tokens = tokenize(argument)
    return len(tokens) % 2 == 1 and all(
        token.is_name if number % 2 == 0 else token.value == "."
        for number, token in enumerate(tokens))
