"""Numbers of the circuit in expressions: arithmetic over them, and comparisons (atoms).

PostgreSQL does not know the value of a count of predictions. What is deterministic in an expression
over such numbers (leaves) it evaluates, verbatim; the arithmetic between them is the network's. A
comparison becomes an atom: a boolean with a probability, joined as ``_pgrain_t{i}`` with its
values true, false and NULL, so that PostgreSQL evaluates everything around it.
"""

from __future__ import annotations

import math
import re

from pgrain.plan import nodes
from pgrain.plan.expression import called
from pgrain.plan.lexer import tokenize
from pgrain.plan.spine import Leaf as SpineLeaf
from pgrain.plan.spine import Op, PieceLeaf, read_tree
from pgrain.provenance.algebra.blocks import Atom, Made, Number
from pgrain.provenance.algebra.linear import BENT, CONST, OTHER, PROBA, threshold_problem
from pgrain.provenance.algebra.program import cut, untyped
from pgrain.provenance.algebra.values import ask_value_of, ask_values
from pgrain.provenance.namesakes import UNKNOWN

COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")
CONNECTIVES = ("and", "or", "not", "is true", "is not true", "is false", "is not false",
               "is unknown", "is not unknown")
ARITHMETIC = {"+": "+", "-": "-", "*": "*", "/": "/", "%": "%", "neg": "neg", "abs": "abs",
              "round": "round", "floor": "floor", "ceil": "ceil", "ceiling": "ceil",
              "trunc": "trunc", "coalesce": "coalesce", "nullif": "nullif",
              "greatest": "greatest", "least": "least", "sqrt": "sqrt", "exp": "exp", "ln": "ln",
              "power": "power", "pow": "power", "^": "power"}
SPELLINGS = {"ceil": ("ceil", "ceiling"), "power": ("power", "pow")}
INTEGER_OIDS = (20, 21, 23)
FLOAT_OIDS = (700, 701)
NUMBER_OIDS = (*INTEGER_OIDS, *FLOAT_OIDS, 1700)
# What may make a number of no number, or the other way round.
_SAYS_TYPE = re.compile(r"'|::|\b(cast|case|array|row|interval)\b", re.IGNORECASE)
_FLOATING = ("numeric", "decimal", "real", "float", "float4", "float8", "double precision")
_INTEGER = ("int", "integer", "bigint", "smallint", "int2", "int4", "int8")


def compared_arrays(expression: nodes.Expr) -> list[tuple[Op, nodes.Subquery]]:
    """Where an expression compares by ANY or ALL with ARRAY(query), and the arrays."""
    found = []

    def look(node) -> None:
        args = getattr(node, "args", ())
        if getattr(node, "name", "")[:4] in ("any:", "all:"):
            piece = getattr(args[1], "piece", None)
            if isinstance(piece, nodes.Subquery) and piece.form == "array":
                found.append((node, piece))
        for child in args:
            if child is not None:
                look(child)

    look(expression.tree)
    return found


def _given(tree: tuple, leaves: list) -> tuple:
    """A sum under COALESCE: its expectation where it is not NULL (elsewhere it counts as 0)."""
    found = leaves[tree[1]] if tree[0] == "x" else ("",)
    if found[0] == "cell" or found[0] == "aggregate" and found[2] == "sum":
        leaf = (*found[:2], "sum given") if found[0] == "aggregate" else (*found[:3], "given")
        if leaf not in leaves:
            leaves.append(leaf)
        return "x", leaves.index(leaf)
    return tree


class Numbers:
    """The part of a SelectBuilder that reads numbers of the circuit."""

    compared: frozenset = frozenset()    # id of arrays that ANY or ALL compares with

    def is_random(self, piece: nodes.Piece) -> bool:
        """Whether a piece stands for a number (or boolean) of the circuit."""
        if isinstance(piece, nodes.ColumnRef):
            found = self.resolve(piece.qualifier, piece.name)
            return found is not None and found[1].random
        if isinstance(piece, nodes.ModelCall):
            return piece.function == "predict_proba"
        if isinstance(piece, nodes.Subquery) and piece.form in ("scalar", "array") \
                and id(piece) not in self.compared and self.program.analysis.depends(piece):
            from pgrain.provenance.algebra.subqueries import join_answer
            if id(piece) not in self.answers:
                self.answers[id(piece)] = join_answer(self, piece)
            return not isinstance(self.answers[id(piece)], str)
        return False

    def randoms(self, expression: nodes.Expr) -> list[nodes.Piece]:
        """The pieces of an expression that are numbers of the circuit."""
        self.compared |= {id(piece) for _, piece in compared_arrays(expression)}
        return [piece for piece in expression.walk()
                if not isinstance(piece, nodes.AggregateCall) and self.is_random(piece)]

    # --- atoms -----------------------------------------------------------------------------

    def atoms_of(self, expression: nodes.Expr) -> dict[tuple[int, int], str]:
        """What to put in place of the comparisons of numbers of the circuit: boolean columns."""
        tree = read_tree(expression, self.is_random)
        replaced: dict[tuple[int, int], str] = {}
        self._atoms(expression, tree, replaced)
        return replaced

    def evaluable(self, node) -> bool:
        """Whether PostgreSQL can evaluate a node once the comparisons in it are booleans."""
        if isinstance(node, PieceLeaf):
            found = self.resolve(node.piece.qualifier, node.piece.name) \
                if isinstance(node.piece, nodes.ColumnRef) else None
            return found is not None and found[1].flag is not None
        if isinstance(node, SpineLeaf) or node.name in (
                *COMPARISONS, "between", "not between", "in", "not in", "is null", "is not null"):
            return True
        return all(child is None or self.evaluable(child) for child in node.args)

    def of_truths(self, node) -> bool:
        """Whether a node compares or tests truths, which PostgreSQL can do once the comparisons in
        it are booleans: (sum(v) > 6) IS NULL, (a > 1) = (b > 2)."""
        return isinstance(node, Op) and node.name in (
            *COMPARISONS, "is null", "is not null", "is distinct from", "is not distinct from") \
            and all(self.evaluable(child) for child in node.args)

    def _atoms(self, expression, node, replaced) -> None:
        if isinstance(node, SpineLeaf):
            return
        if isinstance(node, Op) and (node.name in (*CONNECTIVES, "case") or all(
                child is None or self.evaluable(child) for child in node.args)):
            for child in node.args:
                if child is not None:
                    self._atoms(expression, child, replaced)
            return
        if isinstance(node, Op) and node.name in ("between", "not between"):
            x, low, high = node.args
            self.check_own(expression, node, ">=", [x, low])
            self.check_own(expression, node, "<=", [x, high])
            made = [self.atom_column(self.atom(expression, op, a, b))
                    for op, a, b in ((">=", x, low), ("<=", x, high))]
            text = f"({made[0]} AND {made[1]})"
            replaced[node.start, node.end] = text if node.name == "between" else f"(NOT {text})"
            return
        if isinstance(node, Op) and node.name in ("in", "not in"):
            for other in node.args[1:]:
                self.check_own(expression, node, "=" if node.name == "in" else "<>",
                               [node.args[0], other])
            made = [self.atom_column(self.atom(expression, "=", node.args[0], other))
                    for other in node.args[1:]]
            text = f"({' OR '.join(made)})"
            replaced[node.start, node.end] = text if node.name == "in" else f"(NOT {text})"
            return
        replaced[node.start, node.end] = self.atom_column(self.read_atom(expression, node))

    def read_atom(self, expression, node) -> Atom:
        """The comparison that a node of the expression is; 0A000 for anything else."""
        if isinstance(node, Op) and node.name in COMPARISONS:
            self.check_own(expression, node, node.name, node.args)
            return self.atom(expression, node.name, *node.args)
        if isinstance(node, Op) and node.name in ("is null", "is not null"):
            return Atom(node.name, self.number(expression, node.args[0]), None)
        if isinstance(node, PieceLeaf) and isinstance(node.piece, nodes.ColumnRef):
            found = self.resolve(node.piece.qualifier, node.piece.name)
            if found is not None and found[1].flag is not None:
                return Atom("flag", Number(("p", 0), [("flag", self.unit_of[found[0]],
                                                       found[1].flag)]), None)
        raise self.refuse_at(expression, node, "this use of a number that depends on predictions",
                             "Compare it with =, <>, <, <=, > or >=.")

    def atom(self, expression, operator: str, left, right) -> Atom:
        """left operator right, as numbers."""
        start, end = min(left.start, right.start), max(left.end, right.end)
        made = Atom(operator, self.number(expression, left), self.number(expression, right),
                    (start, end))
        problem = threshold_problem(made, self.leaf_degree)
        if problem:
            raise self.program.refuse(f"a threshold on {problem}", cut(expression, start, end),
                                      "Compare one sum, count or average, or one ratio of them, "
                                      "with a constant.")
        return made

    def atom_column(self, atom: Atom) -> str:
        """A boolean column of base rows for an atom."""
        for number, known in enumerate(self.block.atoms):
            if known == atom:
                return f"_pgrain_t{number}._pgrain_v"
        self.block.atoms.append(atom)
        name = f"_pgrain_t{len(self.block.atoms) - 1}"
        self.block.from_.append(Made(f"(VALUES (true), (false), (NULL)) AS {name} (_pgrain_v)"))
        return f"{name}._pgrain_v"

    # --- arithmetic ------------------------------------------------------------------------

    def number(self, expression: nodes.Expr, node) -> Number:
        """The arithmetic that a node of the expression spells, over numbers and leaves."""
        leaves: list[tuple] = []
        tree = self._tree(expression, node, leaves)
        return Number(tree, leaves)

    def _tree(self, expression, node, leaves: list) -> tuple:
        def leaf(kind: str, *what) -> tuple:
            entry = (kind, *what)
            if entry not in leaves:
                leaves.append(entry)
            return entry, leaves.index(entry)

        if isinstance(node, SpineLeaf):
            return "const", leaf("leaf", self.leaf_of(cut(expression, node.start, node.end)))[1]
        if isinstance(node, PieceLeaf):
            return "x", leaf(*self.piece_number(node.piece))[1]
        name = node.name
        if name == "[]" and isinstance(node.args[0], PieceLeaf) \
                and isinstance(node.args[0].piece, nodes.ModelCall):
            return "x", leaf("proba", *self._probability(expression, node))[1]
        if name.startswith("cast:"):
            return self._cast(expression, node, leaves)
        if name == "case":
            return self._case(expression, node, leaves)
        plain = name.removeprefix("function:").removeprefix("pg_catalog.")
        if plain not in ARITHMETIC:
            plain = plain.removeprefix("special:").removesuffix("_simple")
            raise self.refuse_at(
                expression, node, f"{plain.upper() if plain.isalpha() else plain} over a number "
                "that depends on predictions",
                "Aggregate the number: max(extract(epoch FROM x)), not extract(epoch FROM max(x))."
                if plain in ("extract", "date_part", "age", "date_trunc")
                else "Select the number itself, and format it outside the query.")
        if plain not in ("coalesce", "greatest", "least"):     # these are grammar
            self.check_own(expression, node, {"neg": "-", "nullif": "="}.get(plain, plain),
                           node.args)
        args = [self._tree(expression, child, leaves) for child in node.args]
        if plain == "coalesce":
            args = [_given(arg, leaves) for arg in args]
        operator = ARITHMETIC[plain]
        if operator == "round" and len(args) == 1 and self.floating(expression, node.args[0]):
            operator = "rint"       # to even, as PostgreSQL rounds double precision
        if operator == "/" and all(self.integer(expression, child) for child in node.args):
            operator = "//int"
        return (operator, *args)

    def check_own(self, expression, node: Op, name: str, args: list) -> None:
        """0A000 if a function or operator over numbers may not be PostgreSQL's own."""
        kind = "function" if name.isalpha() else "operator"
        for of in SPELLINGS.get(name, (name,)):
            if node.qualified or (kind, of) not in self.program.namesakes:
                continue
            texts = [expression.text[arg.start - expression.start:arg.end - expression.start]
                     for arg in args]
            namesake = self.program.namesake(kind, of, [
                UNKNOWN if untyped(text) is not None else self.type_here(text) for text in texts])
            if namesake:
                own = f"pg_catalog.{of}" if kind == "function" else f"OPERATOR(pg_catalog.{of})"
                raise self.program.refuse(f"{of}, which may mean {namesake} here,",
                                          cut(expression, node.start, node.end),
                                          f"Write {own} if PostgreSQL's own is meant.")

    def leaf_type(self, text: str) -> int:
        """Type of a deterministic part of an expression; 0, and asked for, if not known yet."""
        return self.program.type_of(self.select, text)

    def type_here(self, text: str) -> int:
        """Type of an expression of this SELECT; 0, and asked for, if not known yet."""
        return self.program.type_of(self.select, text)

    def _cast(self, expression, node, leaves) -> tuple:
        written = node.name.removeprefix("cast:").strip().lower()
        target = written.removeprefix("pg_catalog.")
        kind = target.split("(")[0].strip()
        if target == written and ("type", kind) in self.program.namesakes:
            raise self.program.refuse(f"the type {kind}, which may be another here,",
                                      cut(expression, node.start, node.end),
                                      f"Write pg_catalog.{kind} if PostgreSQL's own is meant.")
        piece = getattr(node.args[0], "piece", None)
        if kind not in (*_FLOATING, *_INTEGER) and isinstance(piece, nodes.AggregateCall) \
                and piece.function in ("min", "max"):
            raise self.program.refuse(f"{piece.function} cast to {target}",
                                      cut(expression, node.start, node.end),
                                      f"Cast what it is of: {piece.function}(x::{target}).")
        inner = self._tree(expression, node.args[0], leaves)
        if kind in _FLOATING and "(" not in target:
            return ("identity", inner)
        if kind in ("numeric", "decimal"):
            digits = target.rstrip(")").split(",")
            leaf = ("leaf", self.leaf_text(digits[1].strip() if len(digits) > 1 else "0"))
            if leaf not in leaves:
                leaves.append(leaf)
            return ("round", inner, ("const", leaves.index(leaf)))
        if kind in _INTEGER:
            return ("rint" if self.floating(expression, node.args[0]) else "to_int", inner)
        raise self.refuse_at(expression, node,
                             f"a number that depends on predictions cast to {target}",
                             "Cast it to numeric, double precision or an integer type.")

    def _case(self, expression, node, leaves) -> tuple:
        parts = []
        *pairs, otherwise = node.args
        for number, child in enumerate(pairs):
            if number % 2:
                parts.append(self._tree(expression, child, leaves))
                continue
            if isinstance(child, SpineLeaf):
                text = cut(expression, child.start, child.end)
                leaf = ("leaf", self.leaf_of(text, boolean=True))
                one = ("leaf", self.leaf_text("1"))
                for known in (leaf, one):
                    if known not in leaves:
                        leaves.append(known)
                parts.append(("=", ("const", leaves.index(leaf)), ("const", leaves.index(one))))
                continue
            condition = ("condition", self.condition(self.read_atom(expression, child)))
            if condition not in leaves:
                leaves.append(condition)
            parts.append(("p", leaves.index(condition)))
        if otherwise is None:
            leaf = ("leaf", self.leaf_text("NULL"))
            if leaf not in leaves:
                leaves.append(leaf)
            return ("case", *parts, ("const", leaves.index(leaf)))
        return ("case", *parts, self._tree(expression, otherwise, leaves))

    def _probability(self, expression, node) -> tuple[int, int]:
        call, index = node.args[0].piece, node.args[1]
        text = cut(expression, index.start, index.end).text.strip("[] ")
        classes = self.program.classes[call.model]
        if not text.isdigit() or not 1 <= int(text) <= len(classes):
            raise self.refuse_at(expression, node, "a subscript of predict_proba that is no "
                                 "number of a class", f"Write a number from 1 to {len(classes)}.")
        return self.block.slots.index(self.slot(call, "proba")), int(text) - 1

    def piece_number(self, piece: nodes.Piece) -> tuple:
        """Which number of the circuit a piece is."""
        if isinstance(piece, nodes.ColumnRef):
            alias, column = self.resolve(piece.qualifier, piece.name)
            if column.cell is not None:
                return "cell", self.unit_of[alias], column.cell
            if column.shown is not None:
                ask_value_of(self, alias, column)
                raise self.program.refuse(
                    f'"{column.name}", a text or date that depends on predictions, in an outer '
                    "query", piece, "Make it a number where it is aggregated, as with "
                    "max(extract(epoch FROM ...)).")
        elif isinstance(piece, nodes.Subquery) and piece.form == "scalar":
            unit, cell = self.answers[id(piece)]
            return "cell", unit, cell
        elif isinstance(piece, nodes.ModelCall):
            raise self.program.refuse("predict_proba as a whole", piece,
                                      "Write (pgrain.predict_proba('model', value))[i].")
        raise self.program.refuse("this number that depends on predictions", piece)

    def leaf_degree(self, leaf: tuple) -> str:
        """What kind of number a leaf is (linear.py)."""
        if leaf[0] == "cell":
            return self.block.units[leaf[1]].relation.degrees.get(leaf[2], OTHER)
        return {"leaf": CONST, "proba": PROBA, "condition": BENT}.get(leaf[0], OTHER)

    def leaf_of(self, expression: nodes.Expr, boolean: bool = False) -> int:
        """A deterministic part of the arithmetic, as a leaf."""
        if not boolean:
            self.check_number(expression)
        text = self.prepare(expression)
        if text.labelled:
            text = self.expanded(expression) or text
        if text.labelled:
            raise self.program.refuse("a class and a number of predictions in one expression",
                                      expression, "Give the condition in FILTER (WHERE ...).")
        return self.leaf_text(f"({text.text}\n)::pg_catalog.int4" if boolean else text.text)

    def expanded(self, expression: nodes.Expr):
        """The expression with a base row for each class of its labels (select.py)."""

    def check_number(self, expression: nodes.Expr) -> None:
        """0A000 for what is added to numbers, or compared with them, and is none in float8."""
        calls = called(list(expression.tokens))
        if not expression.pieces and not calls:
            values = [float(token.value) for token in expression.tokens if token.kind == "number"
                      if any(digit in "123456789" for digit in token.value.lower().split("e")[0])]
            if any(math.isinf(value) or not value for value in values):
                raise self.program.refuse("a number that double precision does not hold",
                                          expression, "Leave it out, or make it less extreme.")
        known = all(isinstance(piece, nodes.ColumnRef) and self.is_number_column(piece)
                    for piece in expression.pieces)
        if known and not calls and not _SAYS_TYPE.search(expression.text):
            return
        if untyped(expression.text) is None and self.type_here(expression.text) not in (
                0, *NUMBER_OIDS):
            raise self.program.refuse("arithmetic of predictions with what is no number",
                                      expression, "Make it a number, as with extract(epoch FROM "
                                      "...), or do it outside the query.")

    def is_number_column(self, piece: nodes.ColumnRef) -> bool:
        """Whether a column is known to be a number."""
        found = self.resolve(piece.qualifier, piece.name)
        return found is not None and found[1].oid in NUMBER_OIDS

    def leaf_text(self, text: str) -> int:
        """A deterministic text as a leaf."""
        return self.leaf(text)

    def condition(self, atom: Atom) -> int:
        """Number of an atom that a CASE branches on."""
        self.atom_column(atom)
        return self.block.atoms.index(atom)

    def integer(self, expression, node) -> bool:
        """Whether PostgreSQL computes this part in integers, so that / truncates."""
        if isinstance(node, SpineLeaf):
            text = expression.text[node.start - expression.start:node.end - expression.start]
            tokens = tokenize(text)
            if all(t.kind != "word" for t in tokens) and any(t.kind == "number" for t in tokens):
                return all(t.value.isdigit() for t in tokens if t.kind == "number")
            return self.leaf_type(text) in INTEGER_OIDS
        if isinstance(node, PieceLeaf):
            return self.integer_piece(node.piece)
        if node.name.startswith("cast:"):
            return node.name.removeprefix("cast:").strip().lower() in _INTEGER
        plain = node.name.removeprefix("function:")
        if plain in ("+", "-", "*", "/", "%", "neg", "abs", "coalesce", "nullif", "greatest",
                     "least"):
            return all(self.integer(expression, child) for child in node.args)
        if plain == "case":
            values = [*node.args[1:-1:2], *([node.args[-1]] if node.args[-1] is not None else [])]
            return all(self.integer(expression, child) for child in values)
        return False

    def floating(self, expression, node) -> bool:
        """Whether PostgreSQL computes this part in real or double precision."""
        if isinstance(node, SpineLeaf):
            text = expression.text[node.start - expression.start:node.end - expression.start]
            if all(t.kind != "word" for t in tokenize(text)):
                return False
            return self.leaf_type(text) in FLOAT_OIDS
        if isinstance(node, PieceLeaf):
            return self.floating_piece(node.piece)
        if node.name.startswith("cast:"):
            kind = node.name.removeprefix("cast:").strip().lower().removeprefix("pg_catalog.")
            return kind in _FLOATING and kind not in ("numeric", "decimal")
        children = [child for child in node.args if child is not None]
        if node.name == "case":
            children = [*node.args[1:-1:2], *children[-1:]]
        return any(self.floating(expression, child) for child in children)

    def floating_piece(self, piece: nodes.Piece) -> bool:
        """Whether a number of the circuit is real or double precision in SQL."""
        if isinstance(piece, nodes.ColumnRef):
            found = self.resolve(piece.qualifier, piece.name)
            return found is not None and found[1].oid in FLOAT_OIDS
        if isinstance(piece, nodes.Subquery) and piece.form == "scalar":
            unit, cell = self.answers[id(piece)]
            columns = self.block.units[unit].relation.columns
            return next(c.oid for c in columns if c.cell == cell) in FLOAT_OIDS
        return isinstance(piece, nodes.ModelCall)

    def integer_piece(self, piece: nodes.Piece) -> bool:
        """Whether a number of the circuit is an integer in SQL."""
        if isinstance(piece, nodes.ColumnRef):
            found = self.resolve(piece.qualifier, piece.name)
            return found is not None and found[1].oid in INTEGER_OIDS
        if isinstance(piece, nodes.Subquery) and piece.form == "scalar":
            unit, cell = self.answers[id(piece)]
            columns = self.block.units[unit].relation.columns
            return next(c.oid for c in columns if c.cell == cell) in INTEGER_OIDS
        return False

    def refuse_at(self, expression, node, construct: str, hint: str | None = None):
        """0A000 with the place of a node of the expression, whose numbers are wanted as values:
        then PostgreSQL can do with them what is no threshold and no arithmetic."""
        part = cut(expression, node.start, node.end)
        ask_values(self, part)
        return self.program.refuse(construct, part, hint)
