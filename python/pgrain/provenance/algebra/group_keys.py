"""GROUP BY: the keys, and which of them the others decide."""

from __future__ import annotations

from pgrain.errors import UnsupportedOperator
from pgrain.plan import nodes
from pgrain.plan.lexer import tokenize, unbracketed
from pgrain.plan.spine import Op, PieceLeaf, read_tree
from pgrain.provenance.algebra.program import cut
from pgrain.provenance.algebra.select import Prepared
from pgrain.provenance.algebra.values import ask_values


def _words(expression: nodes.Expr) -> list[str]:
    return [token.value for token in unbracketed(expression.tokens)]


class GroupKeys:
    """The part of a `GroupBuilder` that reads GROUP BY. `keys`: its expressions; `derived`: numbers
    of those that the others decide."""

    def read_group(self) -> None:
        self.grouping.by = ", ".join(self.group_item(item) for item in self.select.group)
        if not self.keys and not self.grouping.sets:
            self.grouping.by = None         # GROUP BY (): one group, whatever there is

    def add_labels(self, expressions: list[nodes.Expr]) -> None:
        """Labels that are named beside the groups that decide them, as keys of their own: GROUP BY
        x is GROUP BY x, predict('m', x), which is a possible row for each class."""
        if not self.keys or self.grouping.sets:
            return
        before = list(self.keys)
        for expression in expressions:
            pieces = list(expression.walk())
            for call in pieces:
                if not isinstance(call, nodes.ModelCall) or call.function != "predict" or any(
                        isinstance(piece, nodes.AggregateCall) and piece.start <= call.start
                        and call.end <= piece.end for piece in pieces):
                    continue
                label = cut(expression, call.start, call.end)
                alike = [key for key in self.keys if self.same(key, label)]
                if any(_words(key) == _words(label) for key in alike):
                    continue
                within = any(isinstance(piece, nodes.ModelCall)
                             and self.same(cut(key, piece.start, piece.end), label)
                             for key in before for piece in key.walk())
                columns = [cut(call.argument, piece.start, piece.end)
                           for piece in call.argument.walk()]
                if alike or not within or all(any(self.same(key, column) for key in before)
                                     for column in columns):
                    self.keys.append(label)
                    self.grouping.by += f", _pgrain_g{len(self.keys) - 1}"

    def labels_decided(self, expression: nodes.Expr) -> bool:
        """Whether each label in an expression over groups stands in a key."""
        def decided(node) -> bool:
            part = _words(cut(expression, node.start, node.end))
            if any(_words(key) == part for key in self.keys):
                return True
            if isinstance(node, Op):
                return all(child is None or decided(child) for child in node.args)
            return not isinstance(node, PieceLeaf)

        return decided(read_tree(expression, lambda piece: isinstance(piece, nodes.ModelCall)))

    def group_item(self, item: nodes.GroupItem) -> str:
        """An item of GROUP BY over our names of the keys."""
        if item.kind == "expression":
            return self.key(item.expressions[0])
        if item.kind == "list":
            inner = [self.key(e) for e in item.expressions] + \
                [self.group_item(i) for i in item.items]
            return f"({', '.join(inner)})"
        self.grouping.sets = True
        inner = [self.group_item(i) for i in item.items] or \
            [self.key(e) for e in item.expressions]
        word = {"rollup": "ROLLUP", "cube": "CUBE", "sets": "GROUPING SETS"}[item.kind]
        return f"{word} ({', '.join(inner)})"

    def key(self, expression: nodes.Expr) -> str:
        """Our name of a grouping key; an input column goes before an output's name."""
        tokens = unbracketed(expression.tokens)
        names = [item.alias or self.name(item.expression) for item in self.select.items]
        if len(tokens) == 1 and tokens[0].kind == "number" and tokens[0].value.isdigit():
            at = int(tokens[0].value) - 1
            if not 0 <= at < len(names):
                raise self.program.refuse("this position in GROUP BY", expression)
            expression = self.select.items[at].expression
        elif len(tokens) == 1 and tokens[0].is_name and tokens[0].value in names and \
                self.builder.resolve(None, tokens[0].value) is None:
            expression = self.select.items[names.index(tokens[0].value)].expression
        random = self.builder.randoms(expression) and not self.builder.evaluable(
            read_tree(expression, self.builder.is_random))
        if random and self.units_of(expression) is None:
            raise self.refuse_key(expression)
        if any(isinstance(p, nodes.AggregateCall) for p in expression.walk()):
            raise self.program.refuse("GROUP BY an aggregate", expression)
        for number, known in enumerate(self.keys):
            if self.same(known, expression):
                return f"_pgrain_g{number}"
        self.keys.append(expression)
        if random:
            self.derived.append(len(self.keys) - 1)
        return f"_pgrain_g{len(self.keys) - 1}"

    def refuse_key(self, expression: nodes.Expr):
        ask_values(self.builder, expression)
        return self.program.refuse(
            "GROUP BY a number that depends on predictions", expression,
            "Group by comparisons of it (CASE WHEN n > 10 THEN 'many' ELSE 'few' END), or by all "
            "columns that its subquery groups by, too.")

    def units_of(self, expression: nodes.Expr) -> set[str] | None:
        """The relations of possible rows whose rows decide an expression; None if they do not."""
        found = set()
        for piece in expression.walk():
            known = self.resolve(piece.qualifier, piece.name) \
                if isinstance(piece, nodes.ColumnRef) else None
            unit = self.builder.unit_of.get(known[0]) if known is not None else None
            if unit is None or known[1].shown is not None or known[1].flag is not None:
                return None
            if known[0] not in self.builder.deciding:
                return None
            found.add(known[0])
        return found

    def check_derived(self) -> None:
        """0A000 for a key that the others do not decide: it would say which groups there are."""
        known = set()
        for number, key in enumerate(self.keys):
            piece = key.pieces[0] if len(key.pieces) == 1 and number not in self.derived else None
            if isinstance(piece, nodes.ColumnRef) and len(unbracketed(key.tokens)) in (1, 3, 5):
                found = self.resolve(piece.qualifier, piece.name)
                if found is not None:
                    known.add((found[0], found[1].name))
                if piece.qualifier is None and piece.name in self.builder.merged:
                    known |= {(alias, piece.name) for alias in self.builder.aliases}
        equal = [pair for pair in self.builder.equal for pair in (pair, pair[::-1])]
        while any(a in known and b not in known for a, b in equal):
            known |= {b for a, b in equal if a in known}
        for number in self.derived:
            for alias in self.units_of(self.keys[number]):
                if self.grouping.sets or any((alias, name) not in known
                                             for name in self.builder.deciding[alias]):
                    raise self.refuse_key(self.keys[number])

    def same(self, one: nodes.Expr, other: nodes.Expr) -> bool:
        """Whether two expressions are the same to GROUP BY: t.c and c are one column."""
        def spelled(expression):
            replaced = {}
            for piece in expression.walk():
                if isinstance(piece, nodes.ColumnRef):
                    found = self.builder.resolve(piece.qualifier, piece.name)
                    if found is not None:
                        replaced[piece.start, piece.end] = f'"{found[0]}"."{found[1].name}"'
            return [t.value for t in unbracketed(tokenize(expression.substitute(replaced)))]

        return one.text == other.text or spelled(one) == spelled(other)

    def place_keys(self) -> None:
        self.check_derived()

        def prepared(labelled: bool) -> list:
            nothing = Prepared("NULL::pg_catalog.int4", labelled)
            return [nothing if number in self.derived else self.prepared_key(key, labelled)
                    for number, key in enumerate(self.keys)]

        made = prepared(False)
        if any(part.labelled for part in made):
            made = prepared(True)
        self.grouping.keys = [("entry" if part.labelled else "base", part.text) for part in made]

    def prepared_key(self, key: nodes.Expr, labelled: bool) -> Prepared:
        """A key over base rows; 0A000, and its counts are wanted as values, if it compares them in
        a way that is no threshold."""
        try:
            return self.builder.prepare(key, labelled)
        except UnsupportedOperator:
            ask_values(self.builder, key)
            raise

    def key_name(self, expression: nodes.Expr) -> str | None:
        """Our name of a grouping key that the expression is."""
        return next((f"_pgrain_g{number}" for number, key in enumerate(self.keys)
                     if number not in self.derived and self.same(key, expression)), None)
