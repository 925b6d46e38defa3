"""Which joins of predictions with predictions can be watched, and the two queries they are kept by.

``… FROM l JOIN r ON predict('m', l.x) = predict('m', r.x) AND l.key = r.key …`` is linear in the
rows of l, and in those of r. What a row of one side adds depends on the other side's rows only
through their sums by class, by the columns that must be equal, and by the columns of GROUP BY. So
each *side* is a query of its own, with one prediction, that can be watched as it is:

    SELECT <its columns of GROUP BY>, <its columns that meet>, predict('m', l.x), <its aggregates>
    FROM l WHERE <conditions on l alone> GROUP BY <all of these columns>

and the cells of the join are sums of products of the two sides' (`joined_state`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pgrain.errors import UnsupportedOperator
from pgrain.plan.expression import Expression, refuse
from pgrain.plan.lexer import unbracketed
from pgrain.provenance.annotate import Annotator, is_column
from pgrain.provenance.compile import Capture
from pgrain.provenance.namesakes import decide_sql
from pgrain.watch.plan import check_query, key_columns, shape

_HINT = ("A watch keeps predict(…) = predict(…) between two tables, and columns of the two that "
         "are equal; complain about the query itself.")
# Types whose equality, between any two of a set, is that of their canonical texts.
_COMPARABLE = ({20, 21, 23}, {25, 1043})


@dataclass
class _Side:
    """The query of one side while it is put together."""

    columns: list[str] = field(default_factory=list)
    aggregates: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    where: list[str] = field(default_factory=list)

    def column(self, text: str) -> int:
        if text not in self.columns:
            self.columns.append(text)
        return self.columns.index(text)

    @property
    def text(self) -> str:
        selected = [*self.columns, *(self.aggregates or ["pg_catalog.count(*)"])]
        where = "\nWHERE " + "\n AND ".join(f"({text}\n)" for text in self.where) \
            if self.where else ""
        return ("SELECT " + "\n, ".join(selected) + "\nFROM " + "\n, ".join(self.units) + where
                + "\nGROUP BY " + "\n, ".join(self.columns))


@dataclass(frozen=True)
class Join:
    """A join of predictions with predictions, taken apart.

    Attributes
    ----------
    texts : list of str
        The query of each side.
    meet : list of [int, int]
        Columns of the two side's queries that must be equal; the predictions are the first.
    shown : list of [int, int]
        (side, column of its query) of each output column that is no aggregate.
    aggregates : list
        (side, number among its aggregates) of each aggregate of the output; None: of both.
    """

    texts: list[str]
    meet: list[list[int]]
    shown: list[list[int]]
    aggregates: list


def is_join(capture) -> bool:
    """Whether the query joins predictions with predictions."""
    return (isinstance(capture, Capture) and hasattr(capture.annotated, "sides")
            and len(capture.annotated.sides) == 2
            and all(side.slots for side in capture.annotated.sides))


def taken_apart(capture) -> Join:
    """The queries that a watch of a join is kept by; 0A000 for what no such two add up to."""
    check_query(capture)
    annotated = capture.annotated
    query = annotated.query
    names = Annotator(query, annotated.columns, {})

    def of(expressions) -> set[int]:
        return {annotated.side_of[unit] for e in expressions for unit in names.touched(e)}

    sides = (_Side(), _Side())
    for number, unit in enumerate(query.from_.units):
        sides[annotated.side_of[number]].units.append(unit.text)
    predictions, columns = [], []
    for condition in query.conditions:
        where = of([condition])
        if len(where) < 2:
            sides[min(where, default=0)].where.append(condition.text)
            continue
        pair = _equated(condition)
        if pair is None:
            raise _refused("a condition between the two tables", query, condition)
        # Which of the two texts is of the first side.
        first = {annotated.side_of[unit] for unit in names.units_of(pair[0][1])}
        second = {annotated.side_of[unit] for unit in names.units_of(pair[1][1])}
        if {*first, *second} != {0, 1} or len(first) != 1 or len(second) != 1:
            raise _refused("a condition between the two tables", query, condition)
        left, right = (pair[0][0], pair[1][0]) if first == {0} else (pair[1][0], pair[0][0])
        met = [sides[0].column(left), sides[1].column(right)]
        (predictions if condition.calls else columns).append(met)
    if not predictions:
        raise UnsupportedOperator("predictions that need not be equal cannot be watched",
                                  hint=_HINT)
    keys, shown, aggregates = key_columns(annotated), [], []
    for number, item in enumerate(query.items):
        if item.kind == "aggregate":
            aggregates.append(_placed(query, item.aggregate, of, sides))
            continue
        where = of([item.expression])
        if number not in keys or len(where) != 1:
            raise _refused("a column of both tables" if len(where) > 1
                           else "a column that GROUP BY does not name", query, item.expression)
        side = where.pop()
        shown.append([side, sides[side].column(item.expression.text)])
    met = [*predictions[:1], *(pair for pair in [*predictions[1:], *columns]
                               if pair != predictions[0])]
    return Join([side.text for side in sides], met, shown, aggregates)


def _placed(query, aggregate, of, sides) -> tuple[int, int] | None:
    """Where an aggregate is computed: by the query of the table that it is about."""
    parts = [e for e in (aggregate.argument, aggregate.filter) if e is not None]
    if not parts:
        return None
    where = of(parts)
    if len(where) > 1:
        raise _refused("an aggregate of both tables", query, parts[0])
    side = min(where, default=0)
    argument = "*" if aggregate.argument is None else f"{aggregate.argument.text}\n"
    sides[side].aggregates.append(
        f"pg_catalog.{aggregate.function}({argument})"
        + (f" FILTER (WHERE {aggregate.filter.text}\n)" if aggregate.filter is not None else ""))
    return side, len(sides[side].aggregates) - 1


def _equated(condition: Expression) -> tuple | None:
    """((text, columns), (text, columns)) of a condition ``a = b`` between two model calls, or two
    columns; None of any other."""
    tokens = list(unbracketed(condition.tokens))
    at = [number for number, token in enumerate(tokens)
          if token.kind == "operator" and token.value == "=" and token.depth == tokens[0].depth]
    if len(at) != 1 or not 0 < at[0] < len(tokens) - 1:
        return None
    calls = {(call.start, call.end): call for call in condition.calls}
    found = []
    for part in (tokens[:at[0]], tokens[at[0] + 1:]):
        part = unbracketed(part)
        start, end = part[0].start, part[-1].end
        text = condition.text[start - condition.start:end - condition.start]
        call = calls.get((start, end))
        if call is not None:
            found.append((text, call.columns))
        elif not calls and is_column(text):
            named = [token.value for token in part if token.is_name]
            found.append((text, ((".".join(named[:-1]) or None, named[-1]),)))
        else:
            return None
    return tuple(found)


def _refused(construct: str, query, expression: Expression) -> UnsupportedOperator:
    error = refuse(construct, query.text, expression.start, expression.end)
    return UnsupportedOperator(f"{construct} of a join of predictions cannot be watched",
                               detail=error.detail, hint=_HINT)


# --- shapes -------------------------------------------------------------------------------------

def joined_shape(capture, join: Join, sides: list[dict]) -> dict:
    """What must be known to read notes and state of a join; JSON.

    Beside what `plan.shape` has: ``sides``, the shapes of the sides' queries; ``meet`` and
    ``shown`` of `Join`; ``atoms``, (atom of the first side, of the second) whose product each atom
    of the output sums up.
    """
    for left, right in join.meet:
        types = [side["columns"][column]["type_oid"]
                 for side, column in zip(sides, (left, right), strict=True)]
        if types[0] != types[1] and not any(set(types) <= some for some in _COMPARABLE):
            names = [side["columns"][column]["type_name"]
                     for side, column in zip(sides, (left, right), strict=True)]
            raise UnsupportedOperator(
                f"a join of columns of types {names[0]} and {names[1]} cannot be watched",
                hint="Give both columns one type.")
    atoms, aggregates = [[0, 0]], iter(join.aggregates)
    for function in capture.annotated.cells:
        if function.role != "aggregate":
            continue
        place = next(aggregates)
        count, total = (0, None) if place is None else _atoms_of(sides[place[0]], place[1])
        for atom in ((count,) if function.function == "count" else (count, total)):
            atoms.append([atom, 0] if place is None or place[0] == 0 else [0, atom])
    return {**shape(capture), "sides": sides, "meet": join.meet, "shown": join.shown,
            "atoms": atoms}


def _atoms_of(side: dict, number: int) -> tuple[int, int]:
    """(count, total) of the aggregate with this number of a side's query."""
    functions = [function for function in side["functions"] if function]
    at = 1 + sum(1 if function == "count" else 2 for function in functions[:number])
    return at, at + 1


def equality_sql(shape: dict) -> list[str]:
    """SQL each of which has a row where an = between the sides is not PostgreSQL's own."""
    asked = {(25, 25)}
    for left, right in shape["meet"][1:]:
        asked.add((shape["sides"][0]["columns"][left]["type_oid"],
                   shape["sides"][1]["columns"][right]["type_oid"]))
    return [decide_sql("operator", "=", types) for types in sorted(asked)]
