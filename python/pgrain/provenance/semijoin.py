"""Joins on predictions whose duplicates do not matter: a side reduced to its distinct rows.

``SELECT DISTINCT l.g FROM l JOIN r ON predict('m', l.x) = predict('m', r.x)`` asks of r only which
classes there are. So r becomes ``(SELECT DISTINCT predict('m', r.x) AS … FROM r)``, some rows a
class in place of one a row (a semi-join reduction: Bernstein and Chiu, JACM 1981; duplicates
eliminated before the join: Yan and Larson, VLDB 1995). That holds of DISTINCT, set operations
without ALL, EXISTS, IN, ANY and ALL, of groups without aggregates, and of min, max, bool_and,
bool_or and aggregates with DISTINCT.

On classes it is the same query. In expectation "there is a row of class c" counts as independent of
the row that it is joined with and of the other classes (docs/dev/semantics.md), where listed pairs
are conditioned on what they share, if they are few. So few pairs stay listed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from pgrain.errors import PgrainError
from pgrain.plan import nodes
from pgrain.plan.expression import OWN_SCHEMA
from pgrain.plan.lexer import tokenize
from pgrain.plan.reader import read_statement
from pgrain.provenance.algebra.inline import expressions_of
from pgrain.provenance.algebra.program import candidates, conjuncts
from pgrain.provenance.algebra.scope import Analysis, analyse
from pgrain.provenance.annotate import quote
from pgrain.provenance.capture_sql import literal
from pgrain.provenance.flatten import join_conditions
from pgrain.provenance.grouping import group_terms
from pgrain.provenance.probes import ProbeResult, Probes

FEW_PAIRS = 100_000
"""Pairs that stay listed."""
GAIN = 2
"""A side stays as it is unless so many times fewer rows are left of it."""
_OUTER_ROWS = 100            # what a correlated subquery is taken to be asked for
_REDUCTIONS = 4
_INSENSITIVE = {"min", "max", "bool_and", "bool_or", "every"}


class _Cannot(Exception):
    """This SELECT is left as it is."""


@dataclass
class Reduced:
    """A query with sides reduced: what was made of it."""

    text: str
    notes: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)       # alias of a reduced side -> its rows


def reduce(text: str, models: dict, probes: dict[str, ProbeResult],
           names: frozenset[str]) -> Reduced | Probes | None:
    """The query with its large sides reduced, what must be known first, or None.

    `names`: all names of aggregates, as `read_statement` takes them.
    """
    made = Reduced(text)
    for _ in range(_REDUCTIONS):
        try:
            found = _Reduction(read_statement(made.text, names), models, probes, made.rows).run()
        except PgrainError:
            break
        if isinstance(found, Probes):
            return found
        if found is None:
            break
        made = Reduced(found[0], [*made.notes, found[1]], made.rows)
    return made if made.notes else None


class _Reduction:
    """One side of one SELECT: the first that gains."""

    def __init__(self, statement: nodes.Statement, models: dict, probes: dict, rows: dict):
        self.text, self.statement = statement.text, statement
        self.models, self.probes, self.rows = models, probes, rows
        self.analysis: Analysis = analyse(statement)
        self.mark = hashlib.sha256(self.text.encode()).hexdigest()[:12]
        # What a probe may name: CTEs of the whole query that call no model.
        self.plain = [cte for cte in statement.query.ctes if cte in self.analysis.plain]
        self.with_ = ""
        if self.plain:
            recursive = "RECURSIVE " if statement.query.recursive else ""
            self.with_ = f"WITH {recursive}" + ",\n".join(cte.text for cte in self.plain) + "\n"

    def run(self) -> tuple[str, str] | Probes | None:
        wanted: dict[str, str] = {}
        for select, order, set_like in _selects(self.statement.query, False):
            if not self.analysis.depends(select):
                continue
            try:
                found = _Site(self, select, order, set_like).run()
            except _Cannot:
                continue
            if isinstance(found, Probes):
                wanted |= found.sql
            elif found is not None:
                return found
        return Probes(wanted) if wanted else None


def _selects(query: nodes.Query, set_like: bool):
    """(SELECT, its ORDER BY, whether only the set of its rows matters) below `query`."""
    set_like = set_like and query.limit is None and query.offset is None
    for cte in query.ctes:
        yield from _selects(cte.query, False)
    body = query.body
    if isinstance(body, nodes.SetOperation):
        for side in (body.left, body.right):
            yield from _selects(side, set_like if body.all else True)
    elif isinstance(body, nodes.Select):
        yield body, query.order, set_like
        items = list(body.from_)
        while items:
            item = items.pop()
            if isinstance(item, nodes.Join):
                items += [item.left, item.right]
            elif isinstance(item, nodes.Derived):
                yield from _selects(item.query, False)
        for expression in expressions_of(body, query.order):
            for piece in expression.walk():
                if isinstance(piece, nodes.Subquery):
                    yield from _selects(piece.query, piece.form in ("exists", "any", "all"))


class _Site:
    """A SELECT whose duplicates do not matter."""

    def __init__(self, parent: _Reduction, select: nodes.Select, order: list, set_like: bool):
        self.parent, self.select, self.order = parent, select, order
        self.analysis = parent.analysis
        if not select.from_ or select.distinct_on or select.window \
                or not (set_like or self._insensitive()):
            raise _Cannot
        self.leaves = list(_leaves(select.from_))
        self.owner = {leaf.alias: n for n, leaf in enumerate(self.leaves)}
        if len(self.owner) < len(self.leaves) or None in self.owner:
            raise _Cannot
        wheres = [select.where, *join_conditions(select.from_)]
        self.conditions = [part for where in wheres if where is not None
                           for part in conjuncts(where)]
        outputs = {item.alias for item in select.items if item.alias}
        order = [item for item in order if not _names(item.expression, outputs)]
        self.others = [e for e in expressions_of(select, order)
                       if not any(e is where for where in wheres)]

    def _insensitive(self) -> bool:
        """Whether the SELECT says itself that duplicates do not matter."""
        aggregates = [piece for expression in expressions_of(self.select, self.order)
                      for piece in expression.walk() if isinstance(piece, nodes.AggregateCall)]
        if aggregates:
            return all(piece.function in _INSENSITIVE or piece.distinct for piece in aggregates)
        return self.select.distinct or self.select.group is not None

    # --- what names what -------------------------------------------------------------------

    def touched(self, expression: nodes.Expr) -> set[int]:
        """The leaves that an expression names; -1 for what is outside."""
        found = set()
        for piece in expression.walk():
            if isinstance(piece, (nodes.Subquery, nodes.WindowCall)):
                raise _Cannot
            if isinstance(piece, nodes.ColumnRef):
                found.add(self._owner(piece))
        return found

    def _owner(self, piece: nodes.ColumnRef) -> int:
        if piece.qualifier is None:
            if piece.name not in self.owner:
                raise _Cannot         # a column of nobody knows what
            return self.owner[piece.name]         # a row
        if nodes.has_schema(piece.qualifier):
            raise _Cannot             # schema.table.column names no subquery
        return self.owner.get(piece.qualifier, -1)

    def _calls(self, piece: nodes.Piece, part: set[int]) -> bool:
        return isinstance(piece, nodes.ModelCall) and bool(self.touched(piece.argument) & part)

    def parts(self, crossing: list[nodes.Expr]) -> list[set[int]]:
        """Leaves that may be reduced together: one with predictions, alone, and with those that
        conditions on columns tie to it."""
        calling = {n for n in range(len(self.leaves))
                   for c in crossing if any(self._calls(p, {n}) for p in c.walk())}
        ties = [self.touched(c) - {-1} for c in self.conditions if not self.analysis.depends(c)]
        found = []
        for leaf in sorted(calling):
            part, size = {leaf}, 0
            while len(part) > size:
                size = len(part)
                for tie in ties:
                    if tie & part:
                        part = part | tie - calling
            found += [{leaf}] if len(part) == 1 else [{leaf}, part]
        return found

    # --- the reduction ---------------------------------------------------------------------

    def run(self) -> tuple[str, str] | Probes | None:
        crossing = [c for c in self.conditions if self.analysis.depends(c)
                    and len(self.touched(c)) > 1]
        for expression in self.others:
            self.touched(expression)
        ask: dict[str, str] = {}
        plans = [plan for part in self.parts(crossing) if (plan := self._plan(part)) is not None]
        if not plans:
            return None
        outer = any(-1 in self.touched(c) for c in crossing)
        sizes = [self._size({n}, None, ask)[0] for n in range(len(self.leaves))]
        best = None
        for plan in plans:
            rows, kept = self._size(plan.part, plan, ask)
            for model, _, _ in plan.labels:
                kept = max(kept, 1) * (len(self.parent.models[model].classes) + 1)
            beside = max((size for n, size in enumerate(sizes) if n not in plan.part),
                         default=_OUTER_ROWS if outer else 1)
            if rows * beside > FEW_PAIRS and GAIN * kept <= rows and (
                    best is None or rows / kept > best.rows / best.kept):
                plan.rows, plan.kept, best = rows, kept, plan
        if ask:
            return Probes(ask)
        return best and self._rewritten(best)

    def _plan(self, part: set[int]) -> _Plan | None:
        """What the rest of the SELECT needs of the leaves `part`; None if it needs too much."""
        if any(item.star and (item.qualifier is None or self.owner.get(item.qualifier, -1) in part)
               for item in self.select.items) or not all(self._probed(n) for n in part):
            return None
        plan = _Plan(part, [c for c in self.conditions if self.touched(c) <= part])
        plan.kept_conditions = [c for c in self.conditions if not self.touched(c) <= part]
        for expression in [*plan.kept_conditions, *self.others]:
            calls = [piece for piece in expression.walk() if self._calls(piece, part)]
            for call in calls:
                if call.function != "predict" or not self.touched(call.argument) <= part:
                    return None
                plan.labels.setdefault(_kind(call), f"pgrain label {len(plan.labels)}")
            for piece in expression.walk():
                if isinstance(piece, nodes.ColumnRef) and self._owner(piece) in part and not any(
                        call.start <= piece.start and piece.end <= call.end for call in calls):
                    if piece.qualifier is None or piece.name == "*":
                        return None
                    plan.columns.setdefault((piece.qualifier, piece.name), 0)
        return plan if plan.labels else None

    def _probed(self, number: int) -> bool:
        """Whether a leaf can be read by a SELECT of its own, without a model."""
        leaf = self.leaves[number]
        if self.analysis.depends(leaf):
            return False
        if isinstance(leaf, nodes.Relation):
            cte = self.analysis.cte_of.get(id(leaf))
            return cte is None or cte in self.parent.plain
        if not isinstance(leaf, nodes.Derived) or leaf.lateral:
            return False
        names = {cte.name for cte in self.analysis.cte_of.values() if cte not in self.parent.plain}
        return not names & {name for _, name in candidates(tokenize(leaf.text))}

    def _from(self, part: set[int]) -> str:
        return ",\n".join(self.parent.text[self.leaves[n].start:self.leaves[n].end] + "\n"
                          for n in sorted(part))

    def _size(self, part: set[int], plan: _Plan | None, ask: dict) -> tuple[int, int]:
        """(rows, distinct rows of what is needed) of leaves; `ask`: what is not known yet."""
        if not all(self._probed(n) for n in part):
            known = self.parent.rows.get(self.leaves[min(part)].alias, _OUTER_ROWS)
            return known, known
        probes, with_ = self.parent.probes, self.parent.with_
        where = [f"({c.text}\n)" for c in self.conditions
                 if not self.analysis.depends(c) and self.touched(c) and self.touched(c) <= part]
        source = f"FROM {self._from(part)}" + (f"WHERE {' AND '.join(where)}" if where else "")
        name = f"semijoin:{self.parent.mark}:{self.select.start}:{sorted(part)}:{plan is not None}"
        columns = [f"{quote(alias)}.{quote(column)}" for alias, column in
                   (plan.columns if plan is not None else ())]
        if columns:
            if f"{name}:types" not in probes:
                ask[f"{name}:types"] = f"{with_}SELECT {', '.join(columns)} {source}\nLIMIT 0"
                return 1, 1
            types = probes[f"{name}:types"].types
            plan.columns = dict(zip(plan.columns, types, strict=True))
            if any(group_terms("", oid)[0] for oid in types):
                return 1, 1           # a type that may have no equality
        if f"{name}:size" not in probes:
            apart = "1"
            if columns:
                terms = ", ".join(term for column, oid in zip(columns, types, strict=True)
                                  for term in group_terms(column, oid))
                apart = (f"(SELECT pg_catalog.count(*) FROM (SELECT 1 {source}\n"
                         f"GROUP BY {terms}) AS q)")
            ask[f"{name}:size"] = (f"{with_}SELECT (SELECT pg_catalog.count(*) {source}\n)::"
                                   f"pg_catalog.text AS n, ({apart})::pg_catalog.text AS of_it")
            return 1, 1
        rows, apart = probes[f"{name}:size"].rows[0]
        return int(rows), int(apart)

    def _rewritten(self, plan: _Plan) -> tuple[str, str]:
        """The whole text with the part reduced, and a note."""
        text, leaves = self.parent.text, [self.leaves[n] for n in sorted(plan.part)]
        alone = len(leaves) == 1
        alias = leaves[0].alias if alone else "pgrain side"
        shown = []
        for (of, name), oid in plan.columns.items():
            sql = f"{quote(of)}.{quote(name)}"
            shown.append(sql if alone else f"{sql} AS {quote(f'{of}.{name}')}")
            # Equal values that an expression could tell apart are not one row.
            shown += [f"{term} AS {quote(f'pgrain detail {len(shown)}')}"
                      for term in group_terms(sql, oid)[1:]]
        for (model, argument, bare), name in plan.labels.items():
            schema = "" if bare else f"{OWN_SCHEMA}."
            shown.append(f"{schema}predict({literal(model)}, {argument}\n) AS {quote(name)}")
        own = "".join(f"\n{'AND' if n else 'WHERE'} ({c.text}\n)" for n, c in enumerate(plan.own))
        side = f"(SELECT DISTINCT {', '.join(shown)}\nFROM {self._from(plan.part)}{own}) AS " + \
            quote(alias)

        def spans(expression: nodes.Expr) -> dict[tuple[int, int], str]:
            replaced = {}
            for piece in expression.walk():
                if self._calls(piece, plan.part):
                    replaced[piece.start, piece.end] = \
                        f"{quote(alias)}.{quote(plan.labels[_kind(piece)])}"
                elif not alone and isinstance(piece, nodes.ColumnRef) \
                        and self._owner(piece) in plan.part:
                    replaced[piece.start, piece.end] = \
                        f"{quote(alias)}.{quote(f'{piece.qualifier}.{piece.name}')}"
            return replaced

        rest = [n for n in range(len(self.leaves)) if n not in plan.part]
        from_ = ",\n".join([*([self._from(set(rest))] if rest else []), side])
        conditions = "".join(f"\n{'AND' if n else 'WHERE'} ({c.substitute(spans(c))}\n)"
                             for n, c in enumerate(plan.kept_conditions))
        end = self.select.where.end if self.select.where is not None else self.select.from_[-1].end
        edits = {(self.select.from_[0].start, end): f"{from_}{conditions}\n"}
        for expression in self.others:
            made = spans(expression)
            for item in self.select.items:
                if item.expression is expression and item.alias is None:
                    for span in made:
                        if span == (expression.start, expression.end):
                            piece = expression.pieces[0]
                            name = piece.function if isinstance(piece, nodes.ModelCall) \
                                else piece.name
                            made[span] += f" AS {quote(name)}"
            edits |= made
        parts, at = [], 0
        for (start, stop), new in sorted(edits.items(), key=lambda e: (e[0][0], -e[0][1])):
            if start < at:
                continue              # inside what was replaced already
            parts += [text[at:start], new]
            at = stop
        names = ", ".join(leaf.alias for leaf in leaves)
        self.parent.rows[alias] = plan.kept
        return "".join([*parts, text[at:]]), (
            f"joined on predictions by distinct rows, for duplicates do not matter here: {names} "
            f"({plan.rows} rows, at most {plan.kept} distinct); approximate in expectation")


@dataclass
class _Plan:
    """What is cut out: the leaves, the conditions that go with them, and what is needed of them."""

    part: set[int]
    own: list[nodes.Expr]
    kept_conditions: list[nodes.Expr] = field(default_factory=list)
    columns: dict[tuple[str, str], int] = field(default_factory=dict)   # (alias, name) -> type oid
    labels: dict[tuple, str] = field(default_factory=dict)              # call -> name of its label
    rows: int = 0
    kept: int = 0


def _names(expression: nodes.Expr, outputs: set[str]) -> bool:
    """Whether an ORDER BY is by an output column's name."""
    piece = expression.pieces[0] if len(expression.pieces) == 1 else None
    return isinstance(piece, nodes.ColumnRef) and piece.qualifier is None \
        and piece.name in outputs and piece.end - piece.start == len(expression.text)


def _kind(call: nodes.ModelCall) -> tuple[str, str, bool]:
    return call.model, call.argument.text, call.bare


def _leaves(items: list[nodes.FromItem]):
    for item in items:
        if isinstance(item, nodes.Join):
            if item.kind not in ("inner", "cross") or item.using or item.natural:
                raise _Cannot
            yield from _leaves([item.left, item.right])
        elif isinstance(item, nodes.Derived) and item.lateral or \
                isinstance(item, nodes.FunctionItem) and any(
                    isinstance(p, nodes.ColumnRef) for a in item.arguments for p in a.walk()):
            raise _Cannot
        else:
            yield item
