"""The capture of a program: one statement, packed rows ``(tag, meta, a, b, c)``.

Tags are ``<block>.<what>``; layouts stand beside the functions that make them. Integers are int4,
numbers float8, both big-endian; `NULL_FLOAT` stands for a number that is NULL.
"""

from __future__ import annotations

import math

from pgrain.provenance.algebra.blocks import (
    ID,
    KEY,
    PAIRS_A_FACTOR_PAIR,
    ArrayBlock,
    LimitBlock,
    MergeBlock,
    PredicateBlock,
    Relation,
    ScalarBlock,
    SelectBlock,
    Slot,
    gapped,
    lean,
)
from pgrain.provenance.algebra.from_items import select_sql
from pgrain.provenance.algebra.program import Program
from pgrain.provenance.algebra.sql_groups import (
    EMPTY,
    NUMBER,
    group,
    group_directly,
    is_direct,
    state_code,
)
from pgrain.provenance.algebra.support import ranked
from pgrain.provenance.capture_sql import exposed, literal, packed_floats
from pgrain.provenance.grouping import group_terms, representative
from pgrain.provenance.stamps import STAMP_BYTES, stamp_sql
from pgrain.settings import ASSIGNMENTS, FACTOR_PAIRS
from pgrain.wire.identity import DIGEST_BYTES, digest_sql, json_array_sql


class Results:
    """Rows of the capture: one scan for each source, several tags from it."""

    def __init__(self):
        self.parts: dict[str, list[tuple]] = {}

    def add(self, source: str, tag: str, a: str | None = None, b: str | None = None,
            meta: str | None = None) -> None:
        """Aggregates `a`, `b` (bytea) and `meta` (text) over `source`."""
        self.parts.setdefault(source, []).append((tag, a, b, meta))

    def ints(self, source: str, tag: str, column: str) -> None:
        """Integers of every row, in the order of the source."""
        self.add(source, tag, f"pg_catalog.string_agg(pg_catalog.int4send({column}), {EMPTY})")

    def longs(self, source: str, tag: str, column: str) -> None:
        """Integers of eight bytes of every row."""
        self.add(source, tag, f"pg_catalog.string_agg(pg_catalog.int8send({column}), {EMPTY})")

    def floats(self, source: str, tag: str, column: str) -> None:
        """Numbers of every row."""
        self.add(source, tag, packed_floats(column))

    def flags(self, source: str, tag: str, column: str) -> None:
        """Booleans (never NULL) of every row."""
        self.add(source, tag, f"pg_catalog.string_agg(pg_catalog.boolsend({column}), {EMPTY})")

    def digests(self, source: str, tag: str, column: str) -> None:
        """Digests (or stamps) of every row, zeros where there is none."""
        self.add(source, tag, f"pg_catalog.string_agg({column}, {EMPTY})")

    def texts(self, source: str, tag: str, columns: list[str]) -> None:
        """JSON texts of every row."""
        row = json_array_sql([f"({column})::pg_catalog.text" for column in columns])
        self.add(source, tag, meta=f"pg_catalog.jsonb_agg({row})::pg_catalog.text")

    def count(self, source: str, tag: str) -> None:
        self.add(source, tag, "pg_catalog.int8send(pg_catalog.count(*))")

    def sql(self) -> list[str]:
        """One SELECT for each source."""
        made = []
        null = "NULL::pg_catalog.bytea"
        for source, parts in self.parts.items():
            columns, rows = [], []
            for number, (tag, a, b, meta) in enumerate(parts):
                names = []
                for letter, text in (("a", a), ("b", b), ("m", meta)):
                    if text is not None:
                        columns.append(f"{text} AS {letter}{number}")
                    names.append(f"{letter}{number}" if text is not None else
                                 "NULL::pg_catalog.text" if letter == "m" else null)
                rows.append(f"({literal(tag)}::pg_catalog.text, {names[2]}, {names[0]}, "
                            f"{names[1]}, {null})")
            made.append(f"SELECT _pgrain_v.* FROM (SELECT {', '.join(columns)} FROM {source}"
                        f") AS _pgrain_s, LATERAL (VALUES {', '.join(rows)}) AS _pgrain_v "
                        "(tag, meta, a, b, c)")
        return made


class Capture:
    """Renders the blocks of a program: CTEs in order, and the results they bring."""

    def __init__(self, program: Program, models: dict, stamped: bool = False):
        self.program, self.models, self.stamped = program, models, stamped
        self.ctes: list[str] = []
        self.results = Results()
        self.gapped, self.lean = gapped(program.blocks), lean(program.blocks)

    def render(self, final: Relation, by_row: bool) -> str:
        """The whole statement. `final`: the relation whose rows are the query's output."""
        self._blocks()
        last = self.program.blocks[final.block]
        if by_row:
            self._row_texts(last)
        else:
            columns = [f"_pgrain_o{n}" for n, c in enumerate(final.columns) if not c.random]
            self.results.texts(f"(SELECT * FROM {final.cte} ORDER BY {ID}) AS _pgrain_s",
                               "final.texts", columns or ["NULL"])
            self.results.count(final.cte, "final.count")
        return self.with_() + "\nUNION ALL\n".join(self.results.sql())

    def with_(self) -> str:
        """WITH of the caller's plain CTEs and ours."""
        plain = [cte.text for cte in self.program.plain]
        return ("WITH RECURSIVE " if self.program.recursive else "WITH ") + ",\n".join(
            plain + self.ctes) + "\n"

    def _blocks(self) -> None:
        for number, model in enumerate(self.program.classes):
            rows = ", ".join(f"({n}, {literal(label)}::pg_catalog.text)"
                             for n, label in enumerate(self.program.classes[model]))
            self.ctes.append(f"_pgrain_class{number} (_pgrain_i, _pgrain_label) AS MATERIALIZED "
                             f"(VALUES {rows}, ({len(self.program.classes[model])}, NULL))")
        keys = list(self.program.keys)
        for block in self.program.blocks:
            while keys and keys[0].after <= block.number:
                self._key(keys.pop(0))
            getattr(self, f"_{block.kind}")(block)
        for key in keys:
            self._key(key)

    def _key(self, key) -> None:
        self.ctes.append(key.sql)
        self.results.count(key.cte, f"{key.cte}.count")
        if any(block.kind == "predicate" and not block.joined and block.key is key
               for block in self.program.blocks):
            names = [f"_pgrain_c{n}" for n in range(len(key.columns))]
            for i, sql in enumerate(key.packed(names)):
                self.results.longs(key.cte, f"{key.cte}.{i}", sql)

    # --- a SELECT --------------------------------------------------------------------------

    def named(self, slot: Slot) -> str:
        """SQL of a row's digest (or stamp), zeros for NULL."""
        width = STAMP_BYTES if self.stamped else DIGEST_BYTES
        return (f"coalesce(_pgrain_x{slot.number}, "
                f"pg_catalog.decode('{'00' * width}', 'hex'))")

    def slot_columns(self, block: SelectBlock) -> list[str]:
        """SQL of the digest (or tuple stamp) of each slot's value."""
        columns = []
        for slot in block.slots:
            if self.stamped:
                columns.append(f"{stamp_sql(slot.stamped)} AS _pgrain_x{slot.number}")
                continue
            facts = self.models[slot.model]
            columns.append(f"{digest_sql(slot.argument + chr(10), facts.kind, facts.features)} "
                           f"AS _pgrain_x{slot.number}")
        return columns

    def _select(self, block: SelectBlock) -> None:
        """``x<i>`` digests of slots, ``y<i>`` class of an expanded slot, ``u<j>.<i>`` rows of units
        ``t<i>`` atoms, ``f<i>`` leaves, ``p`` pattern, ``k`` key."""
        n, grouping, results = block.number, block.grouping, self.results
        columns = self.slot_columns(block)
        columns += [f"_pgrain_v{slot.number}._pgrain_i AS _pgrain_y{slot.number}"
                    for slot in block.slots if slot.mode == "expanded"]
        columns += [f"{sql} AS _pgrain_u{j}_{i}" for j, unit in enumerate(block.units)
                    for i, sql in enumerate(unit.values)]
        columns += [f"{state_code(f'_pgrain_t{i}')} AS _pgrain_t{i}"
                    for i in range(len(block.atoms))]
        columns += [f"{leaf.sql} AS _pgrain_f{i}" for i, leaf in enumerate(block.leaves)]
        columns += [f"({detail.sql}) AS {detail.name}" for detail in block.details]
        columns += self._placed(block, "base")
        if is_direct(block):
            if block.enumerated:
                self._entries(block, [])
            return group_directly(self, block, columns)
        inner = select_sql(block, columns, FACTOR_PAIRS.default + 1)
        labels = block.enumerated
        if n in self.lean:
            # Read once, rows need not be kept.
            read = any(other.kind == "predicate" and other.relation.block == n and other.joined
                       for other in self.program.blocks)
            source = block.base if read else f"(\n{inner}\n) AS {block.base}"
            if read:
                self.ctes.append(f"{block.base} AS MATERIALIZED (\n{inner}\n)")
            for tag, a, b in self.base_parts(block):
                results.add(source, tag, a, b)
            self._entries(block, [])
            key = KEY if block.key is not None else ""
            if read:
                self.ctes.append(f"{block.row} AS (SELECT {key} FROM {block.base} WHERE "
                                 f"{_null_pattern(labels)} OPERATOR(pg_catalog.=) ANY (ARRAY("
                                 f"SELECT _pgrain_p FROM {block.entry})))")
            return results.count(source, f"{n}.rows")
        numbered = [f"{NUMBER} AS _pgrain_b"]
        if labels and not block.simple:
            nulls = [f"(_pgrain_x{slot.number} IS NULL)" for slot in labels]
            terms = [t for d in block.details
                     for t in group_terms(d.name, d.oid, self.program.exact)] + nulls
            if block.key is not None and grouping and grouping.by_entry:
                terms.append(KEY)
            numbered.append(f"(pg_catalog.dense_rank() OVER (ORDER BY {', '.join(terms)}) "
                            "OPERATOR(pg_catalog.-) 1)::pg_catalog.int4 AS _pgrain_p")
            numbered += [f"{null} AS _pgrain_null{slot.number}"
                         for null, slot in zip(nulls, labels, strict=True)]
        elif labels:
            numbered.append(f"{_null_pattern(labels)} AS _pgrain_p")
        numbered += self._ranks(grouping, "base")
        self.ctes.append(f"{block.base} AS MATERIALIZED (\nSELECT {', '.join(numbered)}, "
                         f"_pgrain_s.* FROM (\n{inner}\n) AS _pgrain_s\n)")
        for tag, a, b in self.base_parts(block):
            results.add(block.base, tag, a, b)
        if grouping is not None:
            _measure_texts(results, grouping, f"{n}.base", block.base, "base")
        if labels:
            carried = ["_pgrain_p", *(d.name for d in block.details)]
            if not block.simple:
                carried += [f"_pgrain_null{slot.number}" for slot in labels]
            if block.key is not None and grouping and grouping.by_entry:
                carried.append(KEY)
            self._entries(block, carried)
        if grouping is None:
            self._rows(block)
        else:
            group(self, block)
        results.count(block.base, f"{n}.rows")

    def base_parts(self, block: SelectBlock) -> list[tuple[str, str, str | None]]:
        """(tag, aggregates for a and b) of what is known of each base row, but for the numbers of
        its groups."""
        n, made = block.number, Results()
        for slot in block.slots:
            made.digests("", f"{n}.x{slot.number}", self.named(slot))
            if slot.mode == "expanded":
                made.ints("", f"{n}.y{slot.number}", f"_pgrain_y{slot.number}")
        for j, unit in enumerate(block.units):
            pack = made.ints if unit.by is None else made.longs
            for i in range(len(unit.values)):
                pack("", f"{n}.u{j}.{i}", f"_pgrain_u{j}_{i}")
        for i in range(len(block.atoms)):
            made.ints("", f"{n}.t{i}", f"_pgrain_t{i}")
        for i in range(len(block.leaves)):
            made.floats("", f"{n}.f{i}", f"_pgrain_f{i}")
        if block.enumerated and not block.simple:
            made.ints("", f"{n}.p", "_pgrain_p")
        if block.key is not None:
            made.ints("", f"{n}.k", KEY)
        if block.grouping is not None:
            _measure_results(made, block.grouping, f"{n}.base", "", "base")
        return [(tag, a, b) for tag, a, b, _ in made.parts.get("", [])]

    def _placed(self, block: SelectBlock, where: str) -> list[str]:
        """Columns of outputs, keys, measures and leaves that are evaluated `where`."""
        columns = [f"({spec.sql}\n) AS _pgrain_o{c}" for c, spec in enumerate(block.outputs)
                   if spec.where == where]
        grouping = block.grouping
        if grouping is None:
            return columns
        columns += [f"({sql}\n) AS _pgrain_g{i}" for i, (at, sql) in enumerate(grouping.keys)
                    if at == where]
        if where == "base":
            columns += [f"({sql}\n) AS _pgrain_z{i}" for i, sql in enumerate(grouping.fixed)]
        columns += [f"({sql}\n) AS _pgrain_l{i}" for i, (at, sql) in enumerate(grouping.leaves)
                    if at == where]
        columns += [f"({sql}\n) AS _pgrain_w{i}"
                    for i, (at, sql) in enumerate(grouping.having_leaves) if at == where]
        for j, aggregate in enumerate(grouping.aggregates):
            flag, value, distinct = (getattr(aggregate, f"{what}_{where}")
                                     for what in ("flag", "value", "distinct"))
            if value is not None:       # NULL says that the row does not count here
                columns.append(f"CASE WHEN {flag or 'true'} THEN {value} END AS _pgrain_mv{j}")
            elif flag is not None:
                columns.append(f"({flag}) AS _pgrain_mf{j}")
            if distinct is not None:
                columns.append(f"({distinct}) AS _pgrain_md{j}")
        return columns

    @staticmethod
    def _ranks(grouping, where: str) -> list[str]:
        if grouping is None:
            return []
        return [f"pg_catalog.dense_rank() OVER (ORDER BY _pgrain_md{j})::pg_catalog.int4 "
                f"AS _pgrain_mr{j}" for j, a in enumerate(grouping.aggregates) if ranked(a, where)]

    def _patterns(self, block: SelectBlock, carried: list[str]) -> None:
        """What entries can tell apart: NULLs, and details. Nothing `carried`: any NULLs at all."""
        pattern, labels = f"_pgrain_p{block.number}", block.enumerated
        if block.simple:
            nulls = [f"(_pgrain_p OPERATOR(pg_catalog.&) {1 << i}) OPERATOR(pg_catalog.<>) 0 AS "
                     f"_pgrain_null{slot.number}" for i, slot in enumerate(labels)]
            source = f"(SELECT DISTINCT {', '.join(carried)} FROM {block.base})" if carried else \
                f"pg_catalog.generate_series(0, {(1 << len(labels)) - 1})"
            columns = ", ".join(["_pgrain_s.*", *nulls])
            self.ctes.append(f"{pattern} AS MATERIALIZED (SELECT {columns} FROM {source} AS "
                             f"_pgrain_s{'' if carried else ' (_pgrain_p)'})")
            return
        made = []
        for name in carried:
            detail = next((d for d in block.details if d.name == name), None)
            made.append(f"{representative(name, detail.oid)} AS {name}"
                        if detail and representative(name, detail.oid) != name else name)
        if all(" AS " not in part for part in made):
            self.ctes.append(f"{pattern} AS MATERIALIZED (SELECT DISTINCT ON (_pgrain_p) "
                             f"{', '.join(carried)} FROM {block.base} ORDER BY _pgrain_p)")
        else:
            self.ctes.append(f"{pattern} AS MATERIALIZED (SELECT {', '.join(carried)} FROM "
                             f"{block.base} AS _pgrain_s JOIN (SELECT pg_catalog.min(_pgrain_b) AS "
                             f"_pgrain_b FROM {block.base} GROUP BY _pgrain_p) AS _pgrain_m "
                             "USING (_pgrain_b))")

    def _entries(self, block: SelectBlock, carried: list[str]) -> None:
        """``e.p`` pattern, ``e.a<i>`` class of each slot of every assignment that passes."""
        n, labels, pattern = block.number, block.enumerated, f"_pgrain_p{block.number}"
        keyed = KEY in carried
        self._patterns(block, carried)
        columns = ["_pgrain_q._pgrain_p", *([f"_pgrain_q.{KEY}"] if keyed else [])]
        columns += [f"_pgrain_c{slot.number}._pgrain_i AS _pgrain_a{slot.number}"
                    for slot in labels]
        columns += self._placed(block, "entry")
        from_ = f"FROM {pattern} AS _pgrain_q" + "".join(exposed(block.details, "_pgrain_q"))
        where, size = [], _assignments(self.program, block)
        order = list(self.program.classes)
        for slot in labels:
            from_ += f"\nCROSS JOIN _pgrain_class{order.index(slot.model)} AS " \
                f"_pgrain_c{slot.number}"
            where.append(f"(_pgrain_c{slot.number}._pgrain_label IS NULL) OPERATOR(pg_catalog.=) "
                         f"_pgrain_q._pgrain_null{slot.number}")
        where.append(f"(SELECT pg_catalog.count(*) FROM {pattern}) OPERATOR(pg_catalog.<=) "
                     f"{ASSIGNMENTS.default // size}")
        where += [f"({condition}\n)" for condition in block.mixed]
        ranks = self._ranks(block.grouping, "entry")
        self.ctes.append(
            f"{block.entry} AS MATERIALIZED (\nSELECT {NUMBER} AS _pgrain_e, "
            + "".join(f"{rank}, " for rank in ranks) + "_pgrain_s.* FROM (\nSELECT "
            f"{', '.join(columns)}\n{from_}\nWHERE " + "\n AND ".join(where)
            + "\n) AS _pgrain_s\n)")
        results, entry = self.results, block.entry
        results.ints(entry, f"{n}.e.p", "_pgrain_p")
        for slot in labels:
            results.ints(entry, f"{n}.e.a{slot.number}", f"_pgrain_a{slot.number}")
        if block.grouping is not None:
            _measure_results(results, block.grouping, f"{n}.entry", entry, "entry")
            _measure_texts(results, block.grouping, f"{n}.entry", entry, "entry")
        results.add(pattern, f"{n}.assignments",
                    f"pg_catalog.int8send(pg_catalog.count(*) OPERATOR(pg_catalog.*) {size})")

    def _rows(self, block: SelectBlock) -> None:
        """Possible rows: a base row under an assignment. Where every pair has a number, with gaps
        where it is none, the numbers say what they are; else ``r.b`` base row and ``r.e``
        assignment of each, in the order of its ID."""
        n = block.number
        key = [f"_pgrain_b.{KEY}"] if block.key is not None else []
        columns = []
        for c, spec in enumerate(block.outputs):
            if spec.where in ("base", "entry"):
                columns.append(f"_pgrain_{spec.where[0]}._pgrain_o{c}")
        if not block.enumerated:
            self.ctes.append(f"{block.row} AS (SELECT _pgrain_b._pgrain_b AS {ID}"
                             + "".join(f", {column}" for column in key + columns)
                             + f" FROM {block.base} AS _pgrain_b)")
            return
        joined = (f"FROM {block.base} AS _pgrain_b JOIN {block.entry} AS _pgrain_e "
                  "ON _pgrain_e._pgrain_p OPERATOR(pg_catalog.=) _pgrain_b._pgrain_p")
        most = PAIRS_A_FACTOR_PAIR * FACTOR_PAIRS.default
        if n in self.gapped:
            if (FACTOR_PAIRS.default + 1) * _assignments(self.program, block) > 2 ** 31:
                # Too many for these numbers, and for the limit, too, which the reader then names.
                joined += ("\nWHERE (SELECT pg_catalog.count(*) FROM "
                           f"{block.base}) OPERATOR(pg_catalog.*) (SELECT pg_catalog.count(*) FROM "
                           f"{block.entry}) OPERATOR(pg_catalog.<=) {most}")
            number = ("(_pgrain_b._pgrain_b OPERATOR(pg_catalog.*) (SELECT pg_catalog.count(*) "
                      f"FROM {block.entry}) OPERATOR(pg_catalog.+) _pgrain_e._pgrain_e)"
                      "::pg_catalog.int4")
            made = ", ".join([f"{number} AS {ID}", *key, *columns])
            self.ctes.append(f"{block.row} AS (\nSELECT {made}\n{joined}\n)")
            return
        made = ", ".join([f"{NUMBER} AS {ID}", *key, "_pgrain_b._pgrain_b", "_pgrain_e._pgrain_e",
                          *columns])
        self.ctes.append(f"{block.row} AS MATERIALIZED (\nSELECT {made}\n{joined}\n"
                         f"LIMIT {most + 1}\n)")
        self.results.ints(block.row, f"{n}.r.b", "_pgrain_b")
        self.results.ints(block.row, f"{n}.r.e", "_pgrain_e")

    def _row_texts(self, block: SelectBlock) -> None:
        """Output rows of a query without grouping: one for each base row."""
        texts = [f"_pgrain_o{c}" for c, spec in enumerate(block.outputs) if spec.where == "base"]
        self.results.texts(block.base, "final.texts", texts or ["NULL"])
        self.results.count(block.base, "final.count")
        labels = [f"_pgrain_o{c}" for c, spec in enumerate(block.outputs) if spec.where == "entry"]
        if labels:
            self.results.texts(block.entry, "final.labels", labels)

    # --- the others ------------------------------------------------------------------------

    def _predicate(self, block: PredicateBlock) -> None:
        """``q.k``, ``q.id``: key and row for which it is true (EXISTS of a SELECT's rows: all);
        ``w.…``: for which it is NULL."""
        if not block.joined:
            return
        n, keyed = block.number, block.key is not None
        parts = []
        inner = self.program.blocks[block.relation.block]
        for letter, sql, value, code in (("q", block.true, "true", 1),
                                         ("w", block.unknown, "NULL::pg_catalog.bool", 2)):
            if sql is None:
                continue
            if block.of_rows(inner):
                parts.append(f"SELECT {KEY}, true AS _pgrain_v, {KEY} OPERATOR(pg_catalog.*) 3 "
                             f"OPERATOR(pg_catalog.+) 1 AS {ID} FROM (SELECT DISTINCT {KEY} FROM "
                             f"{block.relation.cte}) AS _pgrain_s" if keyed else
                             f"SELECT true AS _pgrain_v, 1 AS {ID} WHERE EXISTS "
                             f"(SELECT FROM {block.relation.cte})")
                continue
            cte = f"_pgrain_{letter}t{n}"
            self.ctes.append(f"{cte} AS MATERIALIZED (\nSELECT * FROM (\n{sql}\n) AS _pgrain_s\n"
                             f"LIMIT {FACTOR_PAIRS.default + 1}\n)")
            if keyed:
                parts.append(f"SELECT {KEY}, {value} AS _pgrain_v, {KEY} OPERATOR(pg_catalog.*) 3 "
                             f"OPERATOR(pg_catalog.+) {code} AS {ID} FROM (SELECT DISTINCT {KEY} "
                             f"FROM {cte}) AS _pgrain_s")
                self.results.ints(cte, f"{n}.{letter}.k", KEY)
            else:
                parts.append(f"SELECT {value} AS _pgrain_v, {code} AS {ID} WHERE EXISTS "
                             f"(SELECT FROM {cte})")
            self.results.ints(cte, f"{n}.{letter}.id", ID)
        if keyed:
            parts.append(f"SELECT {KEY}, false, {KEY} OPERATOR(pg_catalog.*) 3 FROM "
                         f"{block.key.cte}")
        else:
            parts.append("SELECT false, 0")
        self.ctes.append(f"_pgrain_q{n} AS MATERIALIZED (\n" + "\nUNION ALL\n".join(parts) + "\n)")

    def _array(self, block: ArrayBlock) -> None:
        """``a.k`` key and text (as array_out spells it) of each element."""
        n, relation = block.number, block.relation
        source = f"(SELECT * FROM {relation.cte} ORDER BY {ID}) AS _pgrain_s"
        element = ("pg_catalog.substr(ARRAY[_pgrain_o0]::pg_catalog.text, 2, pg_catalog.length("
                   "ARRAY[_pgrain_o0]::pg_catalog.text) OPERATOR(pg_catalog.-) 2)")
        self.results.texts(source, f"{n}.a.text", [element])
        if block.key is not None:
            self.results.ints(source, f"{n}.a.k", KEY)
            self.ctes.append(f"_pgrain_a{n} AS (SELECT {KEY}, {KEY} AS {ID} FROM {block.key.cte})")
        else:
            self.ctes.append(f"_pgrain_a{n} AS (SELECT 0 AS {ID})")

    def _scalar(self, block: ScalarBlock) -> None:
        """``s.k``: key of each row of the subquery."""
        n, relation = block.number, block.relation
        column = "" if relation.columns[0].random else ", _pgrain_o0"
        null = "" if relation.columns[0].random else ", NULL"
        count = f"(SELECT pg_catalog.count(*) FROM {relation.cte})::pg_catalog.int4"
        if block.key is None:
            made = (f"SELECT {ID}{column} FROM {relation.cte} UNION ALL SELECT {count}{null}")
        else:
            key = f", {KEY}"
            # Not correlated after all: every key has all the rows.
            rows = f"SELECT {ID}{key}{column} FROM {relation.cte}" if relation.keyed else \
                f"SELECT {ID}{key}{column} FROM {relation.cte}, {block.key.cte}"
            made = (f"{rows} UNION ALL SELECT {count} OPERATOR(pg_catalog.+) {KEY}{key}{null} "
                    f"FROM {block.key.cte}")
            self.results.ints(f"(SELECT * FROM {relation.cte} ORDER BY {ID}) AS _pgrain_s",
                              f"{n}.s.k", KEY)
        self.ctes.append(f"_pgrain_u{n} AS MATERIALIZED (\n{made}\n)")

    def _side(self, relation: Relation, number: int, columns, keyed: bool) -> str:
        parts = [f"{number} AS _pgrain_side", f"{ID} AS _pgrain_src", *([KEY] if keyed else [])]
        for c, (mine, column) in enumerate(zip(relation.columns, columns, strict=True)):
            if not column.random:
                parts.append(f"{mine.literal or f'_pgrain_o{c}'} AS _pgrain_o{c}")
            elif column.cell is not None:
                parts.append(f"{'NULL' if mine.random else f'_pgrain_o{c}'}::pg_catalog.float8 "
                             f"AS _pgrain_f{c}")
            elif not mine.random:
                raise self.program.refuse("a boolean that depends on predictions in one part of a "
                                          "set operation alone", self.program.analysis.statement
                                          .query)
        return f"SELECT {', '.join(parts)} FROM {relation.cte}"

    def _merge(self, block: MergeBlock) -> None:
        """UNION ALL: ``m.side``, ``m.src`` of each row, ``m.f<c>`` numbers of a side without
        predictions. Others: ``m.m<side>`` members, ``m.n<side>`` their number, ``m.group`` and
        ``m.copy`` of each row."""
        n, results = block.number, self.results
        sides = [self._side(side, number, block.columns, block.keyed)
                 for number, side in enumerate(block.sides)]
        together = "(" + "\nUNION ALL\n".join(sides) + ") AS _pgrain_s"
        key = [KEY] if block.keyed else []
        plain = [f"_pgrain_o{c}" for c, column in enumerate(block.columns) if not column.random]
        cte = f"_pgrain_m{n}"
        if block.operator == "union" and block.all:
            self.ctes.append(f"{cte} AS MATERIALIZED (\nSELECT {NUMBER} AS {ID}, _pgrain_s.*\n"
                             f"FROM {together}\n)")
            results.ints(cte, f"{n}.m.side", "_pgrain_side")
            results.ints(cte, f"{n}.m.src", "_pgrain_src")
            for c, column in enumerate(block.columns):
                if column.cell is not None:
                    results.floats(cte, f"{n}.m.f{c}", f"_pgrain_f{c}")
            return
        made = list(key + plain)
        for side in range(len(block.sides)):
            mine = f"FILTER (WHERE _pgrain_side OPERATOR(pg_catalog.=) {side})"
            made.append(f"coalesce(pg_catalog.string_agg(pg_catalog.int4send(_pgrain_src), {EMPTY}"
                        f") {mine}, {EMPTY}) AS _pgrain_m{side}")
            made.append(f"(pg_catalog.count(*) {mine})::pg_catalog.int4 AS _pgrain_n{side}")
        by = ", ".join(key + plain)
        self.ctes.append(f"_pgrain_n{n} AS MATERIALIZED (\nSELECT {NUMBER} AS _pgrain_group, "
                         f"_pgrain_s.* FROM (\nSELECT {', '.join(made)} FROM {together}"
                         + (f"\nGROUP BY {by}" if by else "") + "\n) AS _pgrain_s\n)")
        for side in range(len(block.sides)):
            results.add(f"_pgrain_n{n}", f"{n}.m.m{side}",
                        f"pg_catalog.string_agg(_pgrain_m{side}, {EMPTY})")
            results.ints(f"_pgrain_n{n}", f"{n}.m.n{side}", f"_pgrain_n{side}")
        copies = ""
        if block.all:
            most = "_pgrain_n0" if block.operator == "except" else \
                "LEAST(_pgrain_n0, _pgrain_n1)"
            copies = f", LATERAL pg_catalog.generate_series(1, {most}) AS _pgrain_c (_pgrain_copy)"
        columns = ", ".join(["_pgrain_group", "_pgrain_copy" if block.all else
                             "1 AS _pgrain_copy", *key, *plain])
        self.ctes.append(f"{cte} AS MATERIALIZED (\nSELECT {NUMBER} AS {ID}, _pgrain_s.* FROM "
                         f"(SELECT {columns} FROM _pgrain_n{n}{copies}) AS _pgrain_s\n)")
        results.ints(cte, f"{n}.m.group", "_pgrain_group")
        results.ints(cte, f"{n}.m.copy", "_pgrain_copy")

    def _limit(self, block: LimitBlock) -> None:
        """``o.id``: rows in order, partition after partition; ``o.part``: their partitions;
        ``o.peers`` (WITH TIES): rows of one number are equal to the order."""
        n, relation = block.number, block.relation
        by = [part for part in (KEY if relation.keyed else "", block.partition) if part]
        part = f"pg_catalog.dense_rank() OVER (ORDER BY {', '.join(by)})::pg_catalog.int4" \
            if by else "1"
        place = f"pg_catalog.row_number() OVER (ORDER BY {block.order})" if block.order else ID
        peers = f"pg_catalog.dense_rank() OVER (ORDER BY {block.order})::pg_catalog.int4" \
            if block.ties else "1"
        source = (f"(SELECT {ID}, _pgrain_part, _pgrain_peers FROM (SELECT {ID}, {part} AS "
                  f"_pgrain_part, {place} AS _pgrain_place, {peers} AS _pgrain_peers FROM "
                  f"{relation.cte}) AS _pgrain_s ORDER BY _pgrain_part, _pgrain_place) AS "
                  "_pgrain_s")
        self.results.ints(source, f"{n}.o.id", ID)
        self.results.ints(source, f"{n}.o.part", "_pgrain_part")
        if block.ties:
            self.results.ints(source, f"{n}.o.peers", "_pgrain_peers")


def _assignments(program: Program, block: SelectBlock) -> int:
    """How many class assignments a pattern has, NULL as a class of its own."""
    return math.prod(len(program.classes[slot.model]) + 1 for slot in block.enumerated)


def _null_pattern(labels: list[Slot]) -> str:
    """SQL of which labels are NULL, a bit each."""
    return "(" + " OPERATOR(pg_catalog.+) ".join(
        f"CASE WHEN _pgrain_x{slot.number} IS NULL THEN {1 << i} ELSE 0 END"
        for i, slot in enumerate(labels)) + ")"


def _measure_results(results: Results, grouping, tag: str, source: str, where: str) -> None:
    """Presence and value of each row for each aggregate."""
    for j, aggregate in enumerate(grouping.aggregates):
        if getattr(aggregate, f"value_{where}") is not None:
            results.floats(source, f"{tag}.mv{j}", f"_pgrain_mv{j}")
        elif getattr(aggregate, f"flag_{where}") is not None:
            results.flags(source, f"{tag}.mf{j}", f"_pgrain_mf{j}")
        if ranked(aggregate, where):
            results.ints(source, f"{tag}.mr{j}", f"_pgrain_mr{j}")


def _measure_texts(results: Results, grouping, tag: str, source: str, where: str) -> None:
    """Texts of the ranks of values."""
    for j, aggregate in enumerate(grouping.aggregates):
        if getattr(aggregate, f"distinct_{where}") is not None and aggregate.as_text:
            results.texts(f"(SELECT DISTINCT _pgrain_mr{j}, (_pgrain_md{j})::"
                               f"pg_catalog.text FROM {source}) AS _pgrain_s", f"{tag}.mt{j}",
                               [f"_pgrain_mr{j}", f"_pgrain_md{j}"])
