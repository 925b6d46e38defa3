"""Arithmetic and HAVING over the aggregates of a factorised join.

``SELECT 100.0 * count(*) FILTER (…) / count(*) FROM l JOIN r ON predict(l) = predict(r)``: the
aggregates are those of the factorised join (`circuit`), selected beside the query's own columns;
the arithmetic over them is `gates.arithmetic`. As there, a ratio is one of expectations; a sum is
taken to be known where it has anything to add.

HAVING decides which rows the value has. No cell is conditioned on it where relaxed
(docs/dev/semantics.md), so only complaints about rows need its probability: these list the pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pgrain.errors import UnsupportedOperator
from pgrain.plan import nodes
from pgrain.plan.lexer import tokenize
from pgrain.plan.reader import read_statement
from pgrain.plan.spine import Leaf as SpineLeaf
from pgrain.plan.spine import read_tree
from pgrain.provenance.algebra.aggregate_levels import outer_aggregates
from pgrain.provenance.algebra.blocks import Number
from pgrain.provenance.algebra.numbers import (
    COMPARISONS,
    CONNECTIVES,
    FLOAT_OIDS,
    INTEGER_OIDS,
    SPELLINGS,
    Numbers,
)
from pgrain.provenance.algebra.program import conjuncts, cut, untyped
from pgrain.provenance.annotate import quote
from pgrain.provenance.circuit import Circuit
from pgrain.provenance.flatten import join_conditions
from pgrain.provenance.gates.arithmetic import Arithmetic
from pgrain.provenance.gates.network import Gradient, State
from pgrain.provenance.namesakes import UNKNOWN
from pgrain.provenance.output import Output, OutputColumn, match_sql


@dataclass
class Split:
    """A query of arithmetic over aggregates as one of aggregates.

    text: the query with the numbers that arithmetic needs (`hidden`, by their text) as columns
    after its own; expressions: the arithmetic, by output column; having: its condition.
    """

    text: str
    expressions: dict[int, nodes.Expr]
    hidden: list[str]
    n_columns: int
    having: nodes.Expr | None = None
    # (kind, name, texts of the arguments) of what a namesake of PostgreSQL's own may be meant by,
    # and the query with these texts as columns.
    calls: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    typed: str = ""

    def asked(self, types: list[int]) -> list[tuple]:
        """(kind, name, types of the arguments) for `namesakes.decide_sql`; `types`: oids of the
        columns of `typed`."""
        known = dict(zip(self.texts, types[self.n_columns:], strict=True))
        return [(kind, name, *(UNKNOWN if untyped(text) is not None else known[text]
                               for text in texts)) for kind, name, texts in self.calls]

    @property
    def texts(self) -> list[str]:
        """The columns that `typed` has after the query's own."""
        return list(dict.fromkeys(text for _, _, texts in self.calls for text in texts))

    def numbers(self, types: list[int]) -> dict[int, Number]:
        """The arithmetic of each output column; `types`: oids of all columns of `text`."""
        reader = _Reader(list(self.hidden), types[self.n_columns:])
        return {column: reader.number(e, read_tree(e, reader.is_random))
                for column, e in self.expressions.items()}

    def condition(self, types: list[int]) -> tuple | None:
        """HAVING as a tree over numbers; `types` as in `numbers`."""
        if self.having is None:
            return None
        reader = _Reader(list(self.hidden), types[self.n_columns:])
        return reader.condition_of(self.having)


def split(text: str, namesakes: frozenset = frozenset()) -> Split | None:
    """`text` as aggregates, if arithmetic over them is what it selects; 0A000 if it is more.
    namesakes: (kind, name) of what may be meant in place of PostgreSQL's own."""
    statement = read_statement(text)
    body = statement.query.body
    if not isinstance(body, nodes.Select) or body.distinct \
            or body.distinct_on or body.window or statement.query.limit is not None \
            or statement.query.offset is not None or any(item.star for item in body.items) \
            or not _joins_on_calls(body) or any(outer_aggregates(statement.query, {})):
        return None
    reader, expressions, replaced = _Reader([], None, namesakes), {}, []
    for column, item in enumerate(body.items):
        expression = item.expression
        aggregates = [p for p in expression.walk() if isinstance(p, nodes.AggregateCall)]
        if not aggregates or _alone(expression, aggregates[0]):
            continue
        expressions[column] = expression
        reader.number(expression, read_tree(expression, reader.is_random))
        alias = f" AS {quote(item.alias)}" if item.alias else ""
        replaced.append((item.start, item.end, f"pg_catalog.count(*){alias}"))
    if body.having is not None:
        reader.condition_of(body.having)
        keyword = [token for token in tokenize(statement.text)
                   if token.is_word("having") and token.end <= body.having.start][-1]
        replaced.append((keyword.start, body.having.end, ""))
    elif not expressions:
        return None
    end = body.items[-1].end
    more = "".join(f",\n({one}\n) AS {quote(f'pgrain number {n}')}"
                   for n, one in enumerate(reader.hidden))
    replaced.append((end, end, more))
    made, at = [], 0
    for start, stop, new in sorted(replaced, key=lambda r: r[:2]):
        made += [statement.text[at:start], new]
        at = stop
    found = Split("".join(made) + statement.text[at:], expressions, reader.hidden, len(body.items),
                  body.having, list(dict.fromkeys(reader.calls)))
    found.typed = statement.text[:end] + "".join(
        f",\n({one}\n) AS {quote(f'pgrain argument {n}')}" for n, one in enumerate(found.texts)
    ) + statement.text[end:]
    return found


def _joins_on_calls(body: nodes.Select) -> bool:
    """Whether a condition has a model call and columns of several relations."""
    for part in (p for where in (body.where, *join_conditions(body.from_)) if where is not None
                 for p in conjuncts(where)):
        columns = [p for p in part.walk() if isinstance(p, nodes.ColumnRef)]
        if any(isinstance(p, nodes.ModelCall) for p in part.walk()) and (
                len({c.qualifier for c in columns}) > 1
                or sum(c.qualifier is None for c in columns) > 1):
            return True
    return False


def _alone(expression: nodes.Expr, piece: nodes.Piece) -> bool:
    inside = expression.text
    while inside.startswith("(") and inside.endswith(")"):
        inside = inside[1:-1].strip()
    return piece.end - piece.start == len(inside)


class _Reader(Numbers):
    """Reads arithmetic whose numbers are aggregates, and hides what these need."""

    select = None

    def __init__(self, hidden: list[str], types: list[int] | None,
                 namesakes: frozenset = frozenset()):
        self.hidden, self.types, self.namesakes = hidden, types, namesakes
        self.calls: list[tuple] = []
        self.program = self

    def check_own(self, expression, node, name: str, args: list) -> None:
        """Note what may be another's, for the types of its arguments to be asked."""
        kind = "function" if name.isalpha() else "operator"
        texts = tuple(cut(expression, arg.start, arg.end).text for arg in args)
        self.calls += [(kind, of, texts) for of in SPELLINGS.get(name, (name,))
                       if (kind, of) in self.namesakes and not node.qualified]

    def is_random(self, piece: nodes.Piece) -> bool:
        return isinstance(piece, nodes.AggregateCall)

    def leaf(self, text: str) -> int:
        if text not in self.hidden:
            self.hidden.append(text)
        return self.hidden.index(text)

    def leaf_of(self, expression: nodes.Expr, boolean: bool = False) -> int:
        return self.leaf(expression.text)

    def number(self, expression: nodes.Expr, node) -> Number:
        self.expression = expression
        return super().number(expression, node)

    def condition_of(self, expression: nodes.Expr) -> tuple:
        """A condition as ("and" | "or" | "not" | "is …", …), ("compare", operator, left, right),
        ("null", number), or ("known", number) of what is true or false by itself."""
        self.expression = expression
        return self._condition(expression, read_tree(expression, self.is_random))

    def _condition(self, expression: nodes.Expr, node) -> tuple:
        def compare(operator: str, left, right) -> tuple:
            self.check_own(expression, node, operator, [left, right])
            return ("compare", operator, self.number(expression, left),
                    self.number(expression, right))

        if isinstance(node, SpineLeaf):
            text = cut(expression, node.start, node.end).text
            leaf = "leaf", self.leaf(f"({text}\n)::pg_catalog.int4")
            return "known", Number(("const", 0), [leaf])
        name, args = getattr(node, "name", ""), getattr(node, "args", ())
        if name in CONNECTIVES:
            return name, *(self._condition(expression, child) for child in args)
        if name in COMPARISONS:
            return compare(name, *args)
        if name in ("between", "not between"):
            inside = ("and", compare(">=", args[0], args[1]), compare("<=", args[0], args[2]))
            return inside if name == "between" else ("not", inside)
        if name in ("in", "not in"):
            among = ("or", *(compare("=", args[0], other) for other in args[1:]))
            return among if name == "in" else ("not", among)
        if name in ("is null", "is not null"):
            tested = ("null", self.number(expression, args[0]))
            return tested if name == "is null" else ("not", tested)
        raise self.refuse_at(expression, node, "this use of an aggregate in HAVING")

    def piece_number(self, piece: nodes.Piece) -> tuple:
        return "aggregate", self.leaf(self._text(piece)), piece.function

    def _text(self, piece: nodes.Piece) -> str:
        return cut(self.expression, piece.start, piece.end).text

    def type_of(self, select, text: str) -> int:
        """Type of a deterministic text; 0 as long as nobody knows."""
        return self.types[self.hidden.index(text)] if self.types and text in self.hidden else 0

    def integer_piece(self, piece: nodes.Piece) -> bool:
        return self.type_of(None, self._text(piece)) in INTEGER_OIDS

    def floating_piece(self, piece: nodes.Piece) -> bool:
        return self.type_of(None, self._text(piece)) in FLOAT_OIDS

    def _case(self, expression, node, leaves):
        raise self.refuse_at(expression, node, "CASE over aggregates")

    def refuse_at(self, expression, node, construct: str, hint: str | None = None):
        return UnsupportedOperator(construct, hint=hint)


@dataclass
class OverJoin:
    """The capture of arithmetic over the aggregates of `inner`, whose columns begin with ours."""

    inner: object
    output_columns: list[OutputColumn]
    result_sql: str
    arithmetic: dict[int, Number]
    having: tuple | None = None

    @property
    def knows_rows(self) -> bool:
        """Whether the circuit knows the probability that a row is there."""
        return self.having is None and self.inner.knows_rows

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def circuit(self, lineage) -> OverJoinCircuit:
        """The circuit over what `read` returned."""
        return OverJoinCircuit(self, lineage)

    def match_sql(self, where: str) -> str:
        """SQL for the output rows that meet a complaint's WHERE; ``$1`` is `Output.match_json`."""
        return match_sql(self.output_columns, where)

    def render(self, circuit) -> list[str]:
        """Lines of the annotated plan."""
        lines = ["Project"]
        for column in self.arithmetic:
            described = self.output_columns[column]
            lines.append(f'  column "{described.name}" {described.type_name}: arithmetic over '
                         "expectations (approximate unless linear)")
        if self.having is not None:
            lines.append("  HAVING: on classes; cells are not conditioned on it, and complaints "
                         "about rows list the pairs")
        return lines + ["  -> " + line if n == 0 else "     " + line
                        for n, line in enumerate(self.inner.render(circuit.inner))]


class OverJoinCircuit:
    """As `Circuit`, with arithmetic over its aggregates; interface and meaning are the same."""

    def __init__(self, capture: OverJoin, lineage):
        self.inner = Circuit(capture.inner, lineage)
        self.columns, self.arithmetic = capture.output_columns, capture.arithmetic
        self.first = len(self.columns)       # of the hidden columns
        self.key_columns = [c for c in self.inner.key_columns if c < self.first]
        self.n = len(lineage.texts)
        hidden = range(self.first, len(self.inner.columns))
        self.constants = {}
        for column in hidden:
            if column in self.inner.key_columns:
                place = self.inner.key_columns.index(column)
                texts = [row[place] for row in lineage.texts]
                values = np.array([0.0 if text is None else float(text) for text in texts], float)
                if not np.isfinite(values).all():
                    raise UnsupportedOperator("arithmetic over NaN or infinity has no provenance",
                                              hint="Filter such values out.")
                values[[text is None for text in texts]] = np.nan
                self.constants[column] = values
        # Numbers of the hidden aggregates first, column after column, then those made of them.
        self.places = {column: n * self.n for n, column in
                       enumerate(c for c in hidden if c not in self.constants)}
        self.layers = {}
        for column, number in self.arithmetic.items():
            self.layers[column] = self._layer(number)
        self.tested: list[Arithmetic] = []        # the numbers of HAVING
        self.having = capture.having and self._test(capture.having)

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def _layer(self, number: Number) -> Arithmetic:
        made = len(self.places) + len(self.layers) + len(getattr(self, "tested", ()))
        leaves = [self._leaf(self.first + leaf[1]) for leaf in number.leaves]
        return Arithmetic(made * self.n, self.n, number.tree, leaves)

    def _test(self, tree: tuple) -> tuple:
        """A condition with layers in place of numbers."""
        made = []
        for part in tree[1:]:
            if isinstance(part, Number):
                self.tested.append(self._layer(part))
                part = self.tested[-1]
            made.append(self._test(part) if isinstance(part, tuple) else part)
        return tree[0], *made

    def _leaf(self, column: int) -> np.ndarray:
        if column in self.constants:
            return self.constants[column]
        return self.places[column] + np.arange(self.n)

    def value(self, predicted: dict, P: dict | None = None) -> Output:
        return self._over(self.inner.value(predicted, P), True)[0]

    def relaxed(self, P: dict) -> Output:
        return self._over(self.inner.relaxed(P), False)[0]

    def _over(self, made: Output, hard: bool) -> tuple[Output, State]:
        size = (len(self.places) + len(self.layers) + len(self.tested)) * self.n
        state = State(np.ones(1), np.zeros(size), np.zeros(size), hard, np.zeros(1, np.int64))
        for column, place in self.places.items():
            numbers = made.numbers[:, column]
            state.X[place:place + self.n] = np.nan_to_num(numbers)
            state.K[place:place + self.n] = ~np.isnan(numbers)
        numbers, scales = made.numbers[:, :self.first].copy(), made.scales[:, :self.first].copy()
        for column, layer in self.layers.items():
            layer.forward(state)
            here = slice(layer.out, layer.out + self.n)
            numbers[:, column] = np.where(state.K[here] > 0, state.X[here], np.nan)
            scales[:, column] = np.nan_to_num(np.abs(numbers[:, column]))
        present = made.present
        if hard and self.having is not None:
            for layer in self.tested:
                layer.forward(state)
            hidden = made.scales[:, self.first:].max(axis=1, initial=0.0)
            present = present & (_truth(self.having, state, hidden) == 1.0)
        keys = [row[:len(self.key_columns)] for row in made.keys]
        return Output(self.columns, self.key_columns, keys, present, made.weight, numbers,
                      made.labels, scales, hard, made.relative), state

    def gradient(self, P: dict, weights: dict) -> dict:
        """As `Circuit.gradient`: cells of arithmetic by the chain rule."""
        passed = {key: weight for key, weight in weights.items()
                  if len(key) != 2 or key[1] not in self.layers}
        _, state = self._over(self.inner.relaxed(P), False)
        grad = Gradient(np.zeros(1), np.zeros(len(state.X)), np.zeros(len(state.X)))
        for key, weight in weights.items():
            if len(key) == 2 and key[1] in self.layers:
                grad.X[self.layers[key[1]].out + key[0]] += weight
        for layer in self.layers.values():
            layer.backward(state, grad)
        for column, place in self.places.items():
            for row in np.flatnonzero(grad.X[place:place + self.n]).tolist():
                passed[row, column] = passed.get((row, column), 0.0) + grad.X[place + row]
        return self.inner.gradient(P, passed)


_NEAR = 1e-12         # float64 sums of decimals are this near to what `numeric` has
_COMPARED = {"=": lambda d: d == 0, "<>": lambda d: d != 0, "<": lambda d: d < 0,
             "<=": lambda d: d <= 0, ">": lambda d: d > 0, ">=": lambda d: d >= 0}


def _truth(tree: tuple, state: State, scale: np.ndarray) -> np.ndarray:
    """(n,) 1, 0 or NaN (unknown) of a condition on classes; `scale` of the numbers in it."""
    name, *parts = tree
    if name in ("compare", "null", "known"):
        numbers = []
        for layer in parts[-2:] if name == "compare" else parts:
            here = slice(layer.out, layer.out + layer.n)
            numbers.append(np.where(state.K[here] > 0, state.X[here], np.nan))
        if name == "known":
            return numbers[0]
        if name == "null":
            return np.isnan(numbers[0]).astype(float)
        left, right = numbers
        near = np.abs(left - right) <= _NEAR * np.maximum(np.maximum(np.abs(left), np.abs(right)),
                                                          scale)
        made = _COMPARED[parts[0]](np.where(near, 0.0, left - right)).astype(float)
        return np.where(np.isnan(left) | np.isnan(right), np.nan, made)
    values = [_truth(part, state, scale) for part in parts]
    if name == "not":
        return 1.0 - values[0]
    if name in ("and", "or"):
        decides = 0.0 if name == "and" else 1.0
        decided = np.any([v == decides for v in values], axis=0)
        unknown = np.any([np.isnan(v) for v in values], axis=0)
        return np.where(decided, decides, np.where(unknown, np.nan, 1.0 - decides))
    what = name.removeprefix("is ").removeprefix("not ")
    found = np.isnan(values[0]) if what == "unknown" else values[0] == float(what == "true")
    return (found != name.startswith("is not")).astype(float)
