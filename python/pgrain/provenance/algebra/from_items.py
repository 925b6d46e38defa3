"""FROM and WHERE of the base rows: what PostgreSQL joins, possible rows beside it."""

from __future__ import annotations

from collections.abc import Iterator

from pgrain.plan import nodes
from pgrain.plan.lexer import tokenize
from pgrain.provenance.algebra.blocks import (
    FEW_KEYS,
    ID,
    KEY,
    Column,
    Key,
    Made,
    Relation,
    SelectBlock,
    Unit,
    quoted,
)
from pgrain.provenance.algebra.inline import expressions_of, inline
from pgrain.provenance.algebra.program import candidates, free_columns
from pgrain.provenance.algebra.scope import aliases_of
from pgrain.provenance.algebra.values import can_expand, expand, wish
from pgrain.provenance.stamps import plain_table


class FromItems:
    """The part of a `SelectBuilder` that reads FROM."""

    def add_from(self, item: nodes.FromItem) -> None:
        """One item of FROM, in the order of the text."""
        if not self.program.analysis.depends(item):
            if any(c.random or c.virtual for columns in self.aliases.values() for c in columns):
                for part in _lateral(item):
                    self.refuse_random(candidates(tokenize(part.text)), part)
            self.block.from_.append(item.text)
            for alias in aliases_of(item):
                self.aliases[alias] = [Column(n, oid) for n, oid in self.known.get(alias, [])]
            self.merged |= self._merge_plain(item)
            self._plain_tables(item)
            return
        if isinstance(item, nodes.Join):
            if item.kind in ("inner", "cross"):
                merged = self.add_sides(item)
                if item.on is not None:
                    self.conditions.append(item.on)
                self._using(item, *merged)
                self.name_merged(item)
                return
            from pgrain.provenance.algebra.outer_joins import outer_join
            outer_join(self, item)
            self.name_merged(item)
            return
        if isinstance(item, nodes.FunctionItem):
            raise self.program.refuse("a model call in a function of FROM", item,
                                      "Call the model in SELECT, WHERE, ON or GROUP BY.")
        from pgrain.provenance.algebra.queries import lower_cte, lower_query
        query = self.program.analysis.cte_of[id(item)].query \
            if isinstance(item, nodes.Relation) else item.query
        if self.inlines is not None and self.key is None and item.alias is not None \
                and inline(self, item.alias, query, self.inlines):
            return
        if isinstance(item, nodes.Relation):
            relation = lower_cte(self.program, self.program.analysis.cte_of[id(item)])
            self.add_unit(item.alias, relation)
            return
        self.program.unused[id(item.query)] = self._unused(item)
        free = free_columns(self.program, item.query)
        if item.lateral:
            self.refuse_random(free, item)
            needed = self.outer_columns(free)
            key = self.make_key(needed) if needed else None
            relation = lower_query(self.program, item.query, key)
            self.add_unit(item.alias, relation, key)
            return
        inherited = self.key is not None and any(
            name == column and qualifier in (None, alias)
            for qualifier, name in free for alias, column, _ in self.key.columns)
        known = self.program.relations
        if inherited:
            relation = lower_query(self.program, item.query, self.key)
        elif id(item.query) in known:       # an outer join reads its sides more than once
            relation = known[id(item.query)]
        else:
            relation = known[id(item.query)] = lower_query(self.program, item.query, None)
        self.add_unit(item.alias, relation)

    def name_merged(self, join: nodes.Join) -> None:
        """The columns that USING merges, under the alias that they have been given."""
        if join.alias is None:
            return
        owner = {}
        for alias, columns in self.aliases.items():
            for column in columns:
                owner.setdefault(column.name, f"{quoted(alias)}.{quoted(column.name)}")
        made = [f"{self.merged.get(name, owner[name])} AS {quoted(name)}" for name in join.using]
        self.block.from_.append(Made(f"LATERAL (SELECT {', '.join(made)}) AS "
                                     f"{quoted(join.alias)}"))
        self.aliases[join.alias] = [Column(name, oid) for name, oid in self.known[join.alias]]

    def _unused(self, item: nodes.Derived) -> set[int]:
        """Positions of a subquery's labels that nothing in this SELECT names: they are left out, or
        all would hang on predictions that decide nothing."""
        inner, known = item.query.body, self.known.get(item.alias, [])
        if self.program.all_labels or not isinstance(inner, nodes.Select) \
                or len(inner.items) != len(known) \
                or any(part.star for part in [*inner.items, *self.select.items]):
            return set()
        texts = [expression.text for expression in expressions_of(self.select, self.order)]
        items = list(self.select.from_)
        while items:
            other = items.pop()
            if isinstance(other, nodes.Join):
                if other.natural:
                    return set()
                items += [other.left, other.right]
                texts += [quoted(name) for name in other.using or []]
            elif other is not item:
                texts.append(other.text)
        named = {name for text in texts for _, name in candidates(tokenize(text))}
        if named & {"*", item.alias}:
            return set()
        return {number for number, ((name, _), part) in enumerate(zip(known, inner.items,
                                                                      strict=True))
                if name not in named and self.program.analysis.depends(part.expression)}

    def add_sides(self, join: nodes.Join) -> tuple[list[str], dict, dict]:
        """Both sides of a join: (aliases of all before the right one, SQL of the columns that USING
        and NATURAL merged before it, and in it)."""
        self.add_from(join.left)
        left, mine = list(self.aliases), self.merged
        self.merged = {}
        self.add_from(join.right)
        theirs = self.merged
        self.merged = theirs | mine
        return left, mine, theirs

    def add_unit(self, alias: str, relation: Relation, key: Key | None = None) -> int:
        """A relation of possible rows under `alias`; `key`: made of this SELECT's own columns."""
        names = self.known.get(alias) or [(c.name, c.oid) for c in relation.columns]
        wanted = [n for n, (name, _) in enumerate(names)
                  if relation.columns[n].random and self.wants(alias, name)]
        cells = {relation.columns[n].cell for n in wanted}
        if cells and not can_expand(relation, cells):
            wish(self.program, relation, wanted)
        elif cells:
            relation = expand(self.program, relation, cells, key=key or self.key)
        columns = [Column(name, oid, column.cell, column.flag, column.labelled,
                          shown=column.shown)
                   for (name, oid), column in zip(names, relation.columns, strict=True)]
        parts = [ID, *([KEY] if relation.keyed else [])]
        parts += [f"_pgrain_o{number} AS {quoted(column.name)}"
                  for number, column in enumerate(columns) if not column.random]
        self.block.from_.append(Made(f"(SELECT {', '.join(parts)} FROM {relation.cte}) AS "
                                     f"{quoted(alias)}"))
        self.aliases[alias] = columns
        if relation.unique is not None and not relation.keyed:
            self.deciding[alias] = [columns[at].name for at in relation.unique]
        return self._unit(alias, relation, key)

    def wants(self, alias: str, name: str) -> bool:
        """Whether a column of FROM is wanted as values, or an item of the select list of it is."""
        values = self.program.values
        if (id(self.select), alias, name) in values:
            return True
        return any(isinstance(piece, nodes.ColumnRef) and piece.name == name
                   and piece.qualifier in (None, alias)
                   for number, item in enumerate(self.select.items)
                   if item.expression is not None and ("item", id(self.select), number) in values
                   for piece in item.expression.walk())

    def _unit(self, alias: str, relation: Relation, key: Key | None) -> int:
        if relation.keyed:
            if key is None:
                self.block.where.append(Made(f"{quoted(alias)}.{KEY} OPERATOR(pg_catalog.=) "
                                             f"_pgrain_key.{KEY}"))
            else:
                self.join_key(alias, key)
        self.block.units.append(Unit(f"{quoted(alias)}.{ID}", relation, alias))
        self.unit_of[alias] = len(self.block.units) - 1
        return self.unit_of[alias]

    def join_key(self, alias: str, key: Key) -> None:
        """Tie the rows under `alias` to the values of our columns that they stand for."""
        name = f"{key.cte}_of_{len(self.block.from_)}"
        self.block.from_.append(Made(f"(SELECT * FROM {key.cte}) AS {name}"))
        self.block.where += [Made(condition) for condition in (
            *key.same(name), f"{quoted(alias)}.{KEY} OPERATOR(pg_catalog.=) {name}.{KEY}")]

    def make_key(self, columns: list[tuple[str, str, int]]) -> Key:
        """The distinct values of `columns` over the rows that FROM and WHERE give so far."""
        number = len(self.program.keys)
        cte = f"_pgrain_k{number}"
        made = [f"{quoted(alias)}.{quoted(name)} AS _pgrain_c{n}"
                for n, (alias, name, _) in enumerate(columns)]
        key = Key(cte, columns, "")
        # Its own KEY, if this SELECT has one, is left out.
        names = ", ".join(f"_pgrain_c{n}" for n in range(len(columns)))
        if key.plain:
            inner = select_sql(self.block, made)
            distinct = f"SELECT DISTINCT {names} FROM (\n{inner}\n) AS _pgrain_s"
        else:
            inner = select_sql(self.block, [f"{key.row} AS _pgrain_t", *made])
            names = f"_pgrain_t, {names}"
            distinct = (f"SELECT DISTINCT ON (_pgrain_t) {names} FROM (\n{inner}\n) AS _pgrain_s "
                        "ORDER BY _pgrain_t")
        key.sql = (f"{cte} AS MATERIALIZED (\nSELECT (pg_catalog.row_number() OVER () - 1)"
                   f"::pg_catalog.int4 AS {KEY}, {names} FROM (\n{distinct}\n) AS _pgrain_s\n)")
        key.after = len(self.program.blocks)
        self.program.keys.append(key)
        return key

    def _plain_tables(self, item: nodes.FromItem) -> None:
        """Note the tables of an item whose every row is a row of the join: no NULLs made up."""
        if isinstance(item, nodes.Join) and item.kind in ("inner", "cross"):
            self._plain_tables(item.left)
            self._plain_tables(item.right)
        elif isinstance(item, nodes.Relation) and item.columns is None \
                and id(item) not in self.program.analysis.cte_of \
                and plain_table(item.text) is not None:
            self.tables[item.alias] = plain_table(item.text)

    def _merge_plain(self, item: nodes.FromItem) -> dict[str, str]:
        """USING and NATURAL inside an item that PostgreSQL joins itself: * is not ours to spell.
        SQL of the merged columns that are not just those of the left side."""
        if not isinstance(item, nodes.Join):
            return {}
        left, right = self._merge_plain(item.left), self._merge_plain(item.right)
        made = left | right
        if not (item.using or item.natural):
            return made
        self.opaque_star = True

        def side(of: nodes.FromItem, known: dict[str, str]) -> dict[str, str]:
            names: dict[str, str] = {}
            for alias in aliases_of(of):
                for column in self.aliases.get(alias, []):
                    names.setdefault(column.name, f"{quoted(alias)}.{quoted(column.name)}")
            return names | known

        one, other = side(item.left, left), side(item.right, right)
        for name in item.using or [name for name in one if name in other]:
            made.pop(name, None)
            if name not in one or name not in other:
                continue
            if item.kind == "full":
                made[name] = f"coalesce({one[name]}, {other[name]})"
            elif item.kind == "right":
                made[name] = other[name]
            elif name in left:
                made[name] = left[name]
        return made

    opaque_star = False
    nested = False                              # it is not the outermost
    order: list[nodes.OrderItem] = []           # what stands after it
    window: nodes.WindowCall | None = None      # PostgreSQL computes it over the base rows
    inlines: list[nodes.OrderItem] | None = None   # ORDER BY, if subqueries of FROM may be merged
    random_columns: frozenset = frozenset()     # of an outer join's inputs (outer_joins.py)

    def _using(self, item: nodes.Join, left: list[str], mine: dict, theirs: dict) -> None:
        names = item.using
        right = [alias for alias in self.aliases if alias not in left]
        if item.natural:
            known = {c.name for alias in right for c in self.aliases[alias]}
            names = [c.name for alias in left for c in self.aliases[alias] if c.name in known]
        for name in names or []:
            sides, owners = [], []
            for aliases, merged in ((left, mine), (right, theirs)):
                owner = next((a for a in aliases for c in self.aliases[a] if c.name == name), None)
                if owner is None:
                    raise self.program.refuse("a column of USING", item)
                column = next(c for c in self.aliases[owner] if c.name == name)
                if column.random:
                    raise self.program.refuse("a join on a number that depends on predictions",
                                              item, "Write it as ON a.n = b.n.")
                sides.append(merged.get(name, f"{quoted(owner)}.{quoted(name)}"))
                owners.append((owner, name))
            self.equal.append(tuple(owners))
            self.block.where.append(f"{sides[0]} = {sides[1]}")
            self.merged[name] = sides[0]


def _lateral(item: nodes.FromItem) -> Iterator[nodes.FromItem]:
    """The parts of an item that may name what stands before it in FROM."""
    if isinstance(item, nodes.Join):
        yield from _lateral(item.left)
        yield from _lateral(item.right)
    elif isinstance(item, nodes.FunctionItem) or isinstance(item, nodes.Derived) and item.lateral:
        yield item


def _of_keys(block: SelectBlock, sql: str, ended: bool) -> str:
    """The rows of `sql` for every row of the block's key; ended: it ends with conditions.

    PostgreSQL knows no number of these and must not join by nested loops (`nested_loops`). So that
    few keys find their rows by an index all the same, there are two branches, of which one runs.
    Nor does it know (before 17) that a CTE's values differ, and would rather hash the other side,
    wide as it may be: GROUP BY says so.
    """
    key = block.key
    source = key.cte
    if block.tied and key.plain and len(key.columns) == 1:
        source = (f"(SELECT pg_catalog.min({KEY}) AS {KEY}, _pgrain_c0 FROM {key.cte} GROUP BY "
                  "_pgrain_c0)")
    sources = [f"{source} AS _pgrain_key", *key.lateral("_pgrain_key")]
    made = f"SELECT _pgrain_key.{KEY}, _pgrain_i.* FROM " + ",\n".join(sources)
    if not block.tied or not ended:
        return f"{made},\nLATERAL (\n{sql}\n) AS _pgrain_i"
    count = f"(SELECT pg_catalog.count(*) FROM {key.cte})"
    narrow = "".join(f"\n AND {column} = ANY (ARRAY(SELECT _pgrain_c{number} FROM {key.cte}))"
                     for column, number in block.tied)
    return (f"{made},\nLATERAL (\n{sql}\n) AS _pgrain_i"
            f"\nWHERE {count} OPERATOR(pg_catalog.>) {FEW_KEYS}\nUNION ALL\n"
            f"{made},\nLATERAL (\n{sql}{narrow}\n) AS _pgrain_i"
            f"\nWHERE {count} OPERATOR(pg_catalog.<=) {FEW_KEYS}")


def select_sql(block: SelectBlock, columns: list[str], limit: int | None = None) -> str:
    """SELECT of `columns` over the base rows of a block, the key's number first if it has one."""
    from_ = ",\n".join(f"{text}\n" for text in block.from_)
    sql = f"SELECT {', '.join(columns) or '1 AS _pgrain_one'}"
    if from_:
        sql += f"\nFROM {from_}"
    if block.where:
        sql += "WHERE " if from_ else "\nWHERE "
        sql += "\n AND ".join(f"({condition}\n)" for condition in block.where)
    if block.key is not None:
        sql = _of_keys(block, sql, bool(from_ and block.where))
    if limit is not None:
        sql += f"\nLIMIT {limit}"
    return sql
