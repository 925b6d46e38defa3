"""Subqueries and CTEs of labels put into the query that joins them, as text.

``WITH a AS (SELECT id, predict('m', x) AS label FROM l) SELECT count(*) FROM a JOIN b ON a.label =
b.label`` joins what it names, not what it calls; where labels are called in the join itself, the
join is factorised (`annotate`). So the call moves out, and its argument becomes a column of the
subquery. Only what selects and filters is moved; anything else is left to `algebra`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pgrain.errors import PgrainError
from pgrain.plan import nodes
from pgrain.plan.expression import OWN_SCHEMA
from pgrain.provenance.algebra.inline import as_column, expressions_of
from pgrain.provenance.algebra.program import conjuncts
from pgrain.provenance.algebra.scope import Analysis, analyse
from pgrain.provenance.annotate import quote
from pgrain.provenance.capture_sql import literal


class _Cannot(Exception):
    """This query is left as it is."""


@dataclass
class _Flat:
    """What a subquery becomes: the columns that stay, label columns as texts, conditions."""

    text: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    conditions: list[str] = field(default_factory=list)


def flatten(statement: nodes.Statement) -> str | None:
    """The query with the calls of its subqueries in its own clauses, or None: where it joins on
    labels. Others gain nothing by it, and lose tuple stamps."""
    try:
        return _Flattening(statement, analyse(statement)).run()
    except (_Cannot, PgrainError):
        return None


class _Flattening:
    def __init__(self, statement: nodes.Statement, analysis: Analysis):
        self.text, self.query, self.analysis = statement.text, statement.query, analysis
        if not isinstance(self.query.body, nodes.Select) or self.query.recursive:
            raise _Cannot
        self.body = self.query.body
        self.ctes = {cte.name: cte for cte in self.query.ctes if analysis.depends(cte.query)}
        self.replaced: list[tuple[int, int, str]] = []

    def run(self) -> str:
        flat: dict[str, _Flat] = {}
        leaves = list(_leaves(self.body.from_))
        for leaf in leaves:
            inner = self.inner(leaf)
            if inner is not None:
                if leaf.alias is None or leaf.columns is not None or leaf.alias in flat:
                    raise _Cannot
                flat[leaf.alias] = self.flat(leaf.alias, inner)
                self.replaced.append((leaf.start, leaf.end, flat[leaf.alias].text))
        if not flat or not self.joins_on_labels(leaves, flat):
            raise _Cannot
        for expression in expressions_of(self.body, []):
            self.outer(expression, flat, set())
        outputs = {item.alias for item in self.body.items if item.alias}
        for item in self.query.order:
            self.outer(item.expression, flat, outputs)
        if any(item.star for item in self.body.items):
            raise _Cannot
        conditions = [f"({c}\n)" for one in flat.values() for c in one.conditions]
        if conditions and self.body.where is not None:
            self.replaced.append((self.body.where.start, self.body.where.start, "("))
            self.replaced.append((self.body.where.end, self.body.where.end,
                                  "\n) AND " + " AND ".join(conditions)))
        elif conditions:
            end = self.body.from_[-1].end
            self.replaced.append((end, end, "\nWHERE " + " AND ".join(conditions) + "\n"))
        kept = [cte.text for cte in self.query.ctes if cte.name not in self.ctes]
        return ("WITH " + ",\n".join(kept) + "\n" if kept else "") + self.substituted()

    def joins_on_labels(self, leaves: list[nodes.FromItem], flat: dict[str, _Flat]) -> bool:
        labels = {name for one in flat.values() for name in one.labels}
        wheres = [self.body.where, *join_conditions(self.body.from_)]
        for part in (part for where in wheres if where is not None for part in conjuncts(where)):
            columns = [piece for piece in part.walk() if isinstance(piece, nodes.ColumnRef)]
            if any(c.name in labels for c in columns) and len(leaves) > 1 and (
                    len({c.qualifier for c in columns}) > 1
                    or sum(c.qualifier is None for c in columns) > 1):
                return True
        return False

    def inner(self, leaf: nodes.FromItem) -> nodes.Query | None:
        """The query of a relation that depends on a model; None of any other."""
        if isinstance(leaf, nodes.Relation) and len(leaf.name) == 1:
            return self.ctes[leaf.name[0]].query if leaf.name[0] in self.ctes and \
                self.ctes[leaf.name[0]].columns is None else self.refuse(leaf)
        if isinstance(leaf, nodes.Derived) and not leaf.lateral:
            return leaf.query if self.analysis.depends(leaf.query) else None
        if isinstance(leaf, nodes.Relation):
            return None
        raise _Cannot

    def refuse(self, leaf: nodes.Relation) -> None:
        if leaf.name[0] in self.ctes:
            raise _Cannot

    # --- a subquery ------------------------------------------------------------------------

    def flat(self, alias: str, query: nodes.Query) -> _Flat:
        body = query.body
        if not isinstance(body, nodes.Select) or query.ctes or query.limit is not None \
                or query.offset is not None or body.distinct or body.distinct_on or body.window \
                or body.group is not None or body.having is not None \
                or any(self.analysis.depends(item) for item in body.from_):
            raise _Cannot
        made, hidden, columns, where = _Flat(), {}, [], []
        for part in conjuncts(body.where) if body.where is not None else ():
            if self.analysis.depends(part):
                made.conditions.append(self.lifted(part, alias, hidden))
            else:
                where.append(part.text)
        for item in body.items:
            if item.star or not self.analysis.depends(item.expression):
                if not item.star and any(isinstance(p, (nodes.AggregateCall, nodes.WindowCall))
                                         for p in item.expression.walk()):
                    raise _Cannot
                columns.append(self.text[item.start:item.end])
                continue
            name = item.alias or _bare_call(item.expression)
            if name is None or name in made.labels:
                raise _Cannot
            made.labels[name] = self.lifted(item.expression, alias, hidden)
        columns += [f"({sql}\n) AS {quote(name)}" for sql, name in hidden.items()]
        made.text = (f"(SELECT {', '.join(columns)}\nFROM "
                     f"{self.text[body.from_[0].start:body.from_[-1].end]}\n"
                     + ("WHERE " + "\n AND ".join(f"({w}\n)" for w in where) + "\n"
                        if where else "") + f") AS {quote(alias)}") if body.from_ else ""
        if not made.text:
            raise _Cannot
        return made

    def lifted(self, expression: nodes.Expr, alias: str, hidden: dict[str, str]) -> str:
        """An expression over predictions as the query around it may spell it."""
        if any(token.is_word("collate") for token in expression.tokens):
            raise _Cannot       # outside it would be explicit, and clash with another
        replaced: dict[tuple[int, int], str] = {}

        def column(sql: str) -> str:
            name = hidden.setdefault(sql, f"pgrain argument {len(hidden)}")
            return f"{quote(alias)}.{quote(name)}"

        for piece in expression.walk():
            span = (piece.start, piece.end)
            if any(start <= span[0] and span[1] <= end for start, end in replaced):
                continue
            if isinstance(piece, nodes.ModelCall) and piece.function == "predict":
                if self.analysis.depends(piece.argument):
                    raise _Cannot
                schema = "" if piece.bare else f"{OWN_SCHEMA}."
                replaced[span] = (f"{schema}predict({literal(piece.model)}, "
                                  f"{column(as_column(piece.argument))})")
            elif isinstance(piece, nodes.ColumnRef) and piece.name != "*":
                replaced[span] = column(self.text[piece.start:piece.end])
            else:
                raise _Cannot
        return expression.substitute(replaced)

    # --- the query around ------------------------------------------------------------------

    def outer(self, expression: nodes.Expr, flat: dict[str, _Flat], outputs: set[str]) -> None:
        """Put the texts of labels where the query names them. `outputs` hide columns by name."""
        calls = []
        for piece in expression.walk():
            if isinstance(piece, (nodes.Subquery, nodes.WindowCall)):
                raise _Cannot
            if isinstance(piece, nodes.ModelCall):
                calls.append((piece.start, piece.end))
            if not isinstance(piece, nodes.ColumnRef):
                continue
            if piece.name == "*" or piece.qualifier is None and piece.name in flat:
                raise _Cannot       # whole rows
            if piece.qualifier is None:
                # Were another relation's column of that name, PostgreSQL had called it ambiguous.
                found = [] if piece.name in outputs else \
                    [one for one in flat.values() if piece.name in one.labels]
            else:
                found = [flat[piece.qualifier]] if piece.qualifier in flat else []
                found = [one for one in found if piece.name in one.labels]
            if found:
                if any(start <= piece.start and piece.end <= end for start, end in calls):
                    raise _Cannot       # a prediction made of predictions
                self.replaced.append((piece.start, piece.end, f"({found[0].labels[piece.name]})"))

    def substituted(self) -> str:
        parts, at = [], self.body.start
        for start, end, text in sorted(self.replaced, key=lambda r: r[:2]):
            if start < at:
                raise _Cannot
            parts += [self.text[at:start], text]
            at = end
        return "".join([*parts, self.text[at:self.query.end]])


def _leaves(items: list[nodes.FromItem]) -> Iterator[nodes.FromItem]:
    for item in items:
        if not isinstance(item, nodes.Join):
            yield item
        elif item.kind not in ("inner", "cross") or item.using or item.natural:
            raise _Cannot
        else:
            yield from _leaves([item.left, item.right])


def join_conditions(items: list[nodes.FromItem]) -> Iterator[nodes.Expr | None]:
    """What stands after ON."""
    for item in items:
        if isinstance(item, nodes.Join):
            yield item.on
            yield from join_conditions([item.left, item.right])


def _bare_call(expression: nodes.Expr) -> str | None:
    """The name that PostgreSQL gives to a column which is a call and nothing else."""
    piece = expression.pieces[0]
    alone = piece.start == expression.start and piece.end == expression.end
    return piece.function if alone and isinstance(piece, nodes.ModelCall) else None
