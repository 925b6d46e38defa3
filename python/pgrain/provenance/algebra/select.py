"""One SELECT lowered: FROM and conditions to base rows, model calls to slots.

A condition without a model call stays as the caller wrote it, in the capture's WHERE. One that
compares predictions is evaluated by PostgreSQL for each class (entries). A subquery's answer, or a
comparison of numbers of the circuit, is a relation of possible rows of its own: it is joined, and
the condition becomes one without a model call.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgrain.errors import UnsupportedOperator
from pgrain.plan import nodes
from pgrain.plan.lexer import tokenize
from pgrain.plan.spine import Op, PieceLeaf
from pgrain.provenance.algebra.blocks import (
    Column,
    Detail,
    Key,
    Leaf,
    Made,
    SelectBlock,
    Slot,
    quoted,
)
from pgrain.provenance.algebra.from_items import FromItems
from pgrain.provenance.algebra.numbers import Numbers
from pgrain.provenance.algebra.program import Program, candidates, conjuncts, free_columns
from pgrain.provenance.algebra.values import member
from pgrain.provenance.grouping import no_numbers
from pgrain.provenance.probes import array
from pgrain.provenance.stamps import Stamped

# int8, int2, int4, text, oid, varchar, date, timestamp, timestamptz, uuid: of one type, = on them
# is the operator of their indexes.
_SYSTEM = {"ctid": 27, "tableoid": 26, "xmin": 28, "cmin": 29, "xmax": 28, "cmax": 29}
_INDEXED = {20, 21, 23, 25, 26, 1043, 1082, 1114, 1184, 2950}


@dataclass
class Prepared:
    """An expression ready for the capture; labelled: it is evaluated for each assignment."""

    text: str
    labelled: bool


class SelectBuilder(FromItems, Numbers):
    """Lowers FROM, WHERE and expressions of one SELECT; `groups.py` and `queries.py` go on."""

    def __init__(self, program: Program, select: nodes.Select, key: Key | None,
                 columns: dict | None = None):
        self.program, self.select, self.key = program, select, key
        self.known = columns if columns is not None else program.columns[id(select)]
        self.block = SelectBlock(-1, key)
        self.aliases: dict[str, list[Column]] = {}
        self.unit_of: dict[str, int] = {}          # alias -> number of its unit, if it has one
        self.merged: dict[str, str] = {}           # column of USING or NATURAL -> SQL
        self.calls: dict[str, Slot] = {}
        self.tables: dict[str, str] = {}           # alias -> quoted name of a plain table
        self.answers: dict[int, object] = {}       # id of a Subquery piece -> what stands for it
        self.must_hold: set[int] = set()           # ids of those that are whole conditions
        # alias -> names of columns that decide all others of its row
        self.deciding: dict[str, list[str]] = {}
        self.equal: list[tuple] = []               # columns that a condition says to be equal
        self.passed: list[tuple | None] = []       # the column that each entry selects as it is
        self.conditions: list[nodes.Expr] = []

    # --- names -----------------------------------------------------------------------------

    def resolve(self, qualifier: str | None, name: str) -> tuple[str, Column] | None:
        """(alias, column) of this SELECT; None for outer columns and unknown names."""
        if qualifier is not None:
            alias = nodes.relation_of(qualifier)
            return next(((alias, c) for c in self.aliases.get(alias, []) if c.name == name), None)
        return next(((alias, c) for alias, columns in self.aliases.items()
                     if not alias.startswith("_pgrain_") for c in columns if c.name == name), None)

    def resolve_outer(self, qualifier: str | None, name: str) -> tuple[str, str, int] | None:
        """(alias, name, type) of a column that the key brings in."""
        for alias, column, oid in self.key.columns if self.key else []:
            if column == name and qualifier in (None, alias) and alias not in self.aliases:
                return alias, column, oid
        return None

    def outer_columns(self, names) -> list[tuple[str, str, int]]:
        """The columns, ours and the key's, that (qualifier, name) pairs may mean."""
        found: dict[tuple, None] = {}
        for qualifier, name in sorted(names, key=str):
            aliases = [qualifier] if qualifier is not None else list(self.aliases)
            for alias in aliases:
                for column in self.aliases.get(alias, []):
                    if (name in (column.name, "*") or qualifier is None and name == alias) \
                            and not column.random:
                        found[alias, column.name, column.oid] = None
                if name in _SYSTEM and alias in self.tables:
                    found[alias, name, _SYSTEM[name]] = None
            for alias, column, oid in self.key.columns if self.key else []:
                if (column == name and qualifier in (None, alias)
                        or qualifier == alias and name == "*"
                        or qualifier is None and name == alias) and alias not in self.aliases:
                    found[alias, column, oid] = None
        return list(found)

    # --- conditions ------------------------------------------------------------------------

    def add_where(self, own: bool = True) -> None:
        """WHERE (if `own`) and the ON conditions of inner joins: what needs no key first."""
        from pgrain.provenance.algebra.subqueries import exists_alone
        if own and self.select.where is not None:
            self.conditions.append(self.select.where)
        parts = [part for condition in self.conditions for part in conjuncts(condition)]
        plain = [part for part in parts if not self.program.analysis.depends(part)
                 and not self.randoms(part)]
        for part in plain + [part for part in parts if part not in plain]:
            if exists_alone(self, part):
                continue
            tree = part.tree
            if isinstance(tree, PieceLeaf) and isinstance(tree.piece, nodes.Subquery) \
                    and tree.piece.form == "any":
                self.must_hold.add(id(tree.piece))
            made = self.prepare(part)
            (self.block.mixed if made.labelled else self.block.where).append(made.text)
            self._tie(part)

    def _tie(self, part: nodes.Expr) -> None:
        """Note a condition that two columns are equal: one of a table and one that the key brings
        in, or both ours."""
        tree = part.tree
        if not isinstance(tree, Op) or tree.name != "=" or not self.program.own_comparisons:
            return
        pieces = [arg.piece for arg in tree.args if isinstance(arg, PieceLeaf)]
        if len(pieces) != 2 or not all(isinstance(piece, nodes.ColumnRef) for piece in pieces):
            return
        sides = [self.resolve(piece.qualifier, piece.name) for piece in pieces]
        if None not in sides and not any(column.random for _, column in sides):
            self.equal.append(tuple((alias, column.name) for alias, column in sides))
        if self.key is None:
            return
        for mine, theirs in (pieces, pieces[::-1]):
            found = self.resolve(mine.qualifier, mine.name)
            outer = None if self.resolve(theirs.qualifier, theirs.name) else \
                self.resolve_outer(theirs.qualifier, theirs.name)
            if found is not None and outer is not None and found[0] in self.tables \
                    and found[1].oid == outer[2] and outer[2] in _INDEXED:
                self.block.tied.append((f"{quoted(found[0])}.{quoted(found[1].name)}",
                                        self.key.columns.index(outer)))

    def prepare(self, expression: nodes.Expr, labelled: bool = False) -> Prepared:
        """The expression as PostgreSQL will evaluate it, on base rows or (if `labelled`, or if it
        compares predictions) on assignments."""
        from pgrain.provenance.algebra.subqueries import answer_arrays
        replaced: dict[tuple[int, int], str] = {}
        if self.randoms(expression):
            replaced |= self.atoms_of(expression)
        replaced |= answer_arrays(self, expression)
        casts = self._number_casts(expression)
        replaced |= casts
        labelled |= bool(casts)

        def inside(piece) -> bool:
            return any(start <= piece.start and piece.end <= end for start, end in replaced)

        for piece in list(expression.walk()):
            if inside(piece):
                continue
            span = (piece.start, piece.end)
            if self.stands_for(piece) is not None:
                replaced[span] = self.stands_for(piece)
            elif isinstance(piece, nodes.Subquery) and self.program.analysis.depends(piece):
                replaced[span] = self.answer(piece)
            elif isinstance(piece, nodes.ModelCall):
                slot = self.slot(piece)
                replaced[span] = f'"_pgrain_c{slot.number}"."_pgrain_label"'
                labelled = True
            elif isinstance(piece, nodes.ColumnRef) and piece.qualifier is None \
                    and piece.name in self.merged:
                replaced[span] = self.merged[piece.name]
            elif isinstance(piece, nodes.ColumnRef) and self.whole_row(piece):
                raise self.program.refuse("a whole row of a subquery that depends on a model",
                                          piece, "Name the columns.")
            elif self.without_schema(piece) and not self.virtual(piece):
                replaced[span] = self.without_schema(piece)
            elif isinstance(piece, nodes.Subquery):
                if piece.operand is not None and self.randoms(piece.operand):
                    replaced[span] = self.number_in(piece)
                    continue
                self.refuse_random(free_columns(self.program, piece.query), piece)
            elif isinstance(piece, nodes.ColumnRef) and self.virtual(piece):
                replaced[span] = f"({self.virtual(piece)}\n)"
                labelled = True
            elif isinstance(piece, nodes.WindowCall):
                self.window = piece
        text = expression.substitute(replaced)
        if labelled:
            self.keep(expression, replaced)
        return Prepared(text, labelled)

    def number_in(self, piece: nodes.Subquery) -> str:
        """A number of the circuit before IN, ANY or ALL of a query that depends on no model."""
        if id(piece) not in self.answers:
            made = member(self, piece)
            if made is None:
                raise self.number_before(piece)
            self.answers[id(piece)] = made
        return self.answers[id(piece)]

    def number_before(self, place) -> UnsupportedOperator:
        return self.program.refuse(
            "a number that depends on predictions before IN, ANY or ALL", place,
            "Compare it with a list of values, or with a scalar subquery: "
            "n >= (SELECT max(n) ...).")

    def stands_for(self, piece: nodes.Piece) -> str | None:
        """A column that a piece is here (over_groups.py)."""

    def _number_casts(self, expression: nodes.Expr, label_of=None) -> dict[tuple[int, int], str]:
        """Labels cast to numbers: the classes that are none are NULL, and PostgreSQL need not
        refuse a class that no row has. label_of: a call -> SQL of its label, not on assignments."""
        replaced: dict[tuple[int, int], str] = {}

        def look(node) -> None:
            piece = getattr(node.args[0], "piece", None) \
                if isinstance(node, Op) and node.args else None        # now() has none
            if isinstance(piece, nodes.ModelCall) and piece.function == "predict" \
                    and node.name.startswith("cast:"):
                target = node.name.removeprefix("cast:")
                texts = no_numbers(target, self.program.classes[piece.model])
                if texts:
                    label = label_of(piece) if label_of else \
                        f'"_pgrain_c{self.slot(piece).number}"."_pgrain_label"'
                    replaced[node.start, node.end] = (
                        f"((CASE WHEN {label} OPERATOR(pg_catalog.=) ANY ({array(texts)}) THEN "
                        f"NULL ELSE {label} END)::{target})")
                return
            for child in getattr(node, "args", ()):
                if child is not None:
                    look(child)

        look(expression.tree)
        return replaced

    def whole_row(self, piece: nodes.ColumnRef) -> bool:
        """Whether a name means a row of a relation that PostgreSQL does not know as it is."""
        alias = piece.name if piece.qualifier is None else nodes.relation_of(piece.qualifier)
        if piece.name != "*" and (piece.qualifier is not None
                                  or self.resolve(None, piece.name) is not None):
            return False
        return alias in self.unit_of or any(c.virtual for c in self.aliases.get(alias, []))

    def refuse_random(self, names, place) -> None:
        """What is evaluated inside a subquery cannot know a number of the circuit."""
        for qualifier, name in names:
            found = self.resolve(qualifier, name)
            if found is not None and (found[1].random or found[1].virtual):
                raise self.program.refuse(f'"{name}", which depends on predictions, inside a '
                                          "subquery or function", place, "Use it outside of it; "
                                          "for VALUES write a UNION ALL of SELECTs.")

    def without_schema(self, piece: nodes.Piece) -> str | None:
        """s.t.c as t.c: what stands in FROM under the name may be a table of a schema no more."""
        if not isinstance(piece, nodes.ColumnRef) or not nodes.has_schema(piece.qualifier) \
                or piece.name == "*":
            return None
        alias = nodes.relation_of(piece.qualifier)
        if self.resolve(alias, piece.name) or self.resolve_outer(alias, piece.name):
            return f"{quoted(alias)}.{quoted(piece.name)}"
        return None

    def shows_label(self, expression: nodes.Expr) -> bool:
        """Whether what it shows is made of predictions: of calls or of columns that are."""
        for piece in expression.walk():
            if isinstance(piece, nodes.ModelCall) or isinstance(piece, nodes.Subquery) \
                    and self.program.analysis.depends(piece):
                return True
            found = self.resolve(piece.qualifier, piece.name) \
                if isinstance(piece, nodes.ColumnRef) else None
            if found is not None and (found[1].labelled or found[1].virtual):
                return True
        return False

    def virtual(self, piece: nodes.ColumnRef) -> str | None:
        """What a column of an inlined subquery stands for, if that is over predictions."""
        found = self.resolve(piece.qualifier, piece.name)
        return found[1].virtual if found is not None else None

    def keep_text(self, text: str) -> None:
        """Make the qualified columns of our own text known to expressions over assignments."""
        for qualifier, name in candidates(tokenize(text)):
            if qualifier is not None and not qualifier.startswith("_pgrain_c"):
                self._detail_of(qualifier, name)

    def keep(self, expression: nodes.Expr, replaced: dict) -> None:
        """Make what an expression over assignments names known there."""
        for text in replaced.values():
            self.keep_text(text)
        spans = list(replaced)
        for piece in expression.walk():
            if any(start <= piece.start and piece.end <= end for start, end in spans):
                continue
            if isinstance(piece, nodes.ColumnRef):
                if piece.qualifier is None and piece.name in self.aliases and \
                        self.resolve(None, piece.name) is None:
                    raise self.program.refuse("a whole row beside a model call", piece,
                                              "Name the columns.")
                qualifier = piece.qualifier and nodes.relation_of(piece.qualifier)
                self._detail_of(qualifier, piece.name, piece)
            elif isinstance(piece, nodes.Subquery):
                inner = [t for t in expression.tokens
                         if piece.start <= t.start and t.end <= piece.end]
                for alias, name, _ in self.outer_columns(candidates(inner)):
                    self._detail_of(alias, name)

    def _detail_of(self, qualifier: str | None, name: str, place=None) -> None:
        found = self.resolve(qualifier, name)
        if found is not None:
            alias, column = found
            self.detail(alias, column.name, column.oid)
            return
        outer = self.resolve_outer(qualifier, name)
        if outer is not None:
            self.detail(*outer)
        elif qualifier is not None and qualifier.startswith("_pgrain_"):
            self.detail(qualifier, name, 16)
        elif place is not None:
            raise self.program.refuse(f'column "{name}" beside a model call', place,
                                      "Name a column of one relation, as alias.column.")

    def detail(self, alias: str, name: str, oid: int) -> None:
        """Keep a column of base rows for expressions over assignments."""
        if all(d.exposes != (alias, name) for d in self.block.details):
            self.block.details.append(Detail(f"_pgrain_d{len(self.block.details)}",
                                             f"{quoted(alias)}.{quoted(name)}", oid,
                                             (alias, name)))

    def check_window(self) -> None:
        """A window sees every row: right only if predictions decide about none."""
        block = self.block
        if self.window is not None and (block.mixed or block.units or block.atoms
                                        or block.key is not None):
            raise self.program.refuse("a window function beside predictions", self.window,
                                      "Put it into a subquery without model calls.")

    # --- model calls -----------------------------------------------------------------------

    def slot(self, call: nodes.ModelCall, mode: str = "label") -> Slot:
        """The slot of a model call: one for each distinct call of a SELECT."""
        argument = self.plain(call.argument)
        kind = (call.function, call.model, " ".join(t.value for t in call.argument.tokens))
        known = self.calls.get(kind)
        if known is not None and known.mode == mode:
            return known
        slot = Slot(len(self.program.slots), -1, call.model, argument, mode)
        slot.stamped = self.stamp(slot.number, call.argument)
        self.program.slots.append(slot)
        self.block.slots.append(slot)
        self.calls[kind] = slot
        return slot

    def stamp(self, number: int, argument: nodes.Expr) -> Stamped | None:
        """How a tuple stamp names the value, if it is a plain column of a plain table of ours."""
        piece = argument.pieces[0] if len(argument.pieces) == 1 else None
        if not isinstance(piece, nodes.ColumnRef) or len(argument.text) != piece.end - piece.start:
            return None
        found = self.resolve(piece.qualifier, piece.name)
        if found is None or found[0] not in self.tables:
            return None
        return Stamped(number, self.tables[found[0]], found[0], found[1].name)

    def expand(self, call: nodes.ModelCall) -> str:
        """A base row for each class: the label is a column like any other."""
        slot = self.slot(call, "expanded")
        name = f"_pgrain_v{slot.number}"
        if name not in self.aliases:
            from pgrain.provenance.capture_sql import literal
            classes = self.program.classes[call.model]
            rows = ", ".join(f"({n}, {literal(text)}::pg_catalog.text)"
                             for n, text in enumerate(classes))
            self.block.from_.append(Made(f"(VALUES {rows}, ({len(classes)}, NULL)) AS {name} "
                                         "(_pgrain_i, _pgrain_label)"))
            self.block.where.append(Made(
                f"({name}._pgrain_i OPERATOR(pg_catalog.=) {len(classes)}) OPERATOR(pg_catalog.=) "
                f"(({slot.argument}\n) IS NULL)"))
            self.aliases[name] = [Column("_pgrain_i", 23), Column("_pgrain_label", 25)]
        return f"{name}._pgrain_label"

    def expanded(self, expression: nodes.Expr) -> Prepared | None:
        """An expression over labels on base rows, one for each class; None if other pieces hang on
        predictions, too."""
        pieces = [piece for piece in expression.walk() if self.program.analysis.depends(piece)]
        if any(isinstance(p, nodes.ColumnRef) and self.virtual(p) for p in expression.walk()) \
                or not all(isinstance(p, nodes.ModelCall) and p.function == "predict"
                           for p in pieces):
            return None
        replaced = self._number_casts(expression, self.expand)
        for piece in pieces:
            if not any(start <= piece.start and piece.end <= end for start, end in replaced):
                replaced[piece.start, piece.end] = self.expand(piece)
        for piece in expression.walk():
            if isinstance(piece, nodes.ColumnRef) and piece.qualifier is None \
                    and piece.name in self.merged:
                replaced[piece.start, piece.end] = self.merged[piece.name]
        return Prepared(expression.substitute(replaced), False)

    def plain(self, expression: nodes.Expr) -> str:
        """An expression that must not depend on a model, e.g. a model call's argument."""
        if self.program.analysis.depends(expression) or self.randoms(expression):
            raise self.program.refuse("a prediction made of predictions", expression)
        replaced = {(p.start, p.end): self.merged[p.name] for p in expression.walk()
                    if isinstance(p, nodes.ColumnRef) and p.qualifier is None
                    and p.name in self.merged}
        return expression.substitute(replaced)

    def answer(self, piece: nodes.Subquery) -> str:
        """SQL for the answer of a subquery, joined to FROM; once for each piece."""
        from pgrain.provenance.algebra.subqueries import join_answer
        if id(piece) not in self.answers:
            self.answers[id(piece)] = join_answer(self, piece)
        made = self.answers[id(piece)]
        if not isinstance(made, str):
            raise self.program.refuse("a number that depends on predictions", piece)
        return made

    def leaf(self, text: str) -> int:
        """Number of a deterministic number of base rows."""
        sql = f"({text}\n)::pg_catalog.float8"
        for number, known in enumerate(self.block.leaves):
            if known.sql == sql:
                return number
        self.block.leaves.append(Leaf(sql))
        return len(self.block.leaves) - 1
