"""From the query's text to its capture; asks for what it must know on the way.

>>> compile(query, explain, models, probes)      # may return Probes(sql, models)
>>> compile(query, explain, models, probes)      # at last a Capture
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

from pgrain.errors import ComplaintSyntax, UnsupportedOperator
from pgrain.plan.explain import check_calls, check_relations, read_explain
from pgrain.plan.keywords import AGGREGATES
from pgrain.plan.query import bare_name, build, check_single_model, is_ordinal, model_names
from pgrain.plan.reader import read_statement
from pgrain.plan.searched_case import searched_case
from pgrain.plan.select import read_select
from pgrain.provenance.algebra.aggregate_levels import outer_aggregates
from pgrain.provenance.algebra.capture import bare, compile_network, read_expanded
from pgrain.provenance.annotate import Annotated, Annotator
from pgrain.provenance.capture_sql import capture_sql, digests, side_from, with_clause
from pgrain.provenance.circuit import Circuit
from pgrain.provenance.flatten import flatten
from pgrain.provenance.grouping import no_numbers
from pgrain.provenance.lineage import Lineage, read_lineage
from pgrain.provenance.namesakes import decide_sql
from pgrain.provenance.output import OutputColumn, match_sql, result_sql
from pgrain.provenance.over_join import OverJoin, split
from pgrain.provenance.probes import (
    Catalog,
    ProbeResult,
    Probes,
    catalog_sql,
    check_catalog,
    check_hidden,
    columns_sql,
    fingerprint_sql,
    hidden_notes,
    output_sql,
    read_columns,
)
from pgrain.provenance.render import render
from pgrain.provenance.stamps import (
    Stamped,
    plain_table,
    stamp_sql,
    stamped_slots,
)
from pgrain.wire.identity import among_sql, digest_sql, value_sql

NUMERIC_TYPES = {20: "bigint", 21: "smallint", 23: "integer", 700: "real",
                 701: "double precision", 1700: "numeric"}
_TYPE_NAMES = NUMERIC_TYPES | {16: "boolean", 17: "bytea", 25: "text", 1043: "varchar",
                               1082: "date", 1083: "time", 1114: "timestamp",
                               1184: "timestamptz", 1186: "interval", 2950: "uuid",
                               114: "json", 3802: "jsonb", 1009: "text[]", 1007: "integer[]",
                               1022: "float8[]", 19: "name", 26: "oid"}


@dataclass(frozen=True)
class ModelFacts:
    """What the walker needs to know about a model's active version."""

    name: str
    version: int
    classes: list[str]
    kind: str
    features: list[str]


@dataclass
class Capture:
    """The capture of one query: what to run, and how to read what comes back.

    Attributes
    ----------
    sql : str
        One SELECT; ``$1`` is the secret (bytea). Few rows (tag, meta, a, b, c), packed.
    result_sql : str
        The query itself, each output column as text.
    output_columns : list of OutputColumn
    stamps, stamped_sql : list of Stamped, str or None
        `sql` with tuple stamps in place of digests (stamps.py), if the query's text allows it.
    fingerprint_sql : str
        One text that changes when names in the query may mean something else.
    """

    annotated: Annotated
    models: dict[str, ModelFacts]
    output_columns: list[OutputColumn]
    sql: str
    result_sql: str
    stamps: list[Stamped] = field(default_factory=list)
    stamped_sql: str | None = None
    fingerprint_sql: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def model(self) -> ModelFacts:
        """The query's one model."""
        return self.models[self.annotated.slots[0].model]

    def fetch_sql(self, model: str) -> str:
        """SQL for (digest, value) of the feature values whose digest is in ``$2`` (bytea[]).

        ``$1`` is the secret. `value` is bytea, text, float8[], or the text of a JSON object.
        """
        facts, parts = self.models[model], []
        for slot in self.annotated.slots:
            if slot.model != model:
                continue
            argument = slot.argument + "\n"
            parts.append(
                "SELECT _pgrain_x, _pgrain_v FROM (\nSELECT "
                f"{digest_sql(argument, facts.kind, facts.features)} AS _pgrain_x, "
                f"{value_sql(argument, facts.kind)} AS _pgrain_v\n"
                f"{side_from(self.annotated.sides[slot.side])}\nOFFSET 0"
                f"\n) AS _pgrain_s{slot.index}\nWHERE {among_sql('_pgrain_x')}")
        return (with_clause(self.annotated, [])
                + "SELECT DISTINCT ON (_pgrain_x) _pgrain_x AS digest, _pgrain_v AS value FROM (\n"
                + "\nUNION ALL\n".join(parts) + "\n) AS _pgrain_u")

    def stamp_tag(self, stamp: Stamped) -> str:
        """The tag of the capture's row that brings a slot's digests or stamps."""
        return f"digest:{stamp.slot}"

    def stamp_model(self, stamp: Stamped) -> ModelFacts:
        """The model that reads the value of a slot."""
        return self.models[self.annotated.slots[stamp.slot].model]

    def read(self, rows) -> Lineage:
        """The lineage that `rows` of `sql` carry; 54000 over a limit."""
        return read_lineage(self.annotated, len(self.model.classes), rows)

    nested_loops = True      # whether PostgreSQL may join by them

    @property
    def knows_rows(self) -> bool:
        """Whether the circuit knows the probability that a row is there (`Circuit.log_absent`)."""
        annotated = self.annotated
        return (annotated.by_row or len(annotated.slots) == len(annotated.sides) == 1
                or not annotated.query.select.grouped)

    def render(self, circuit: Circuit) -> list[str]:
        """Lines of the annotated plan."""
        return [*(f"note: {note}" for note in self.notes), *render(self, circuit.lineage)]

    def circuit(self, lineage: Lineage) -> Circuit:
        """The circuit over what `read` returned."""
        return Circuit(self, lineage)

    def match_sql(self, where: str) -> str:
        """SQL for the output rows that meet a complaint's WHERE; ``$1`` is `Output.match_json`."""
        return match_sql(self.output_columns, where)


def compile(query: str, explain, models: dict[str, ModelFacts],
            probes: dict[str, ProbeResult], rows: bool = False) -> Probes | Capture:
    """The capture of `query`, or what must be asked first.

    Parameters
    ----------
    query : str
        The caller's text.
    explain : list, dict or str
        Its ``EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON)``.
    models : dict
        `ModelFacts` of the models asked for so far; unknown ones are the caller's error (42704).
    probes : dict
        Answers of the SQL asked for so far.
    rows : bool
        There are complaints about rows: the circuit must know their presence (`knows_rows`).

    Raises
    ------
    ComplaintSyntax, UnsupportedOperator, InvalidArgument
        42601 not one SELECT; 0A000 a construct without provenance; 22023 no model call.
    """
    facts = read_explain(explain)
    if facts.writes:
        read_statement(query)       # names what writes, with its place
        raise ComplaintSyntax("the query writes", hint="Give one SELECT.")
    try:
        made = _compile_join(query, facts, models, probes)
        if isinstance(made, Probes) or made.knows_rows or not rows:
            return made
        raise UnsupportedOperator("the presence of groups over two predictions")
    except UnsupportedOperator as reason:
        # Not one SELECT of the factorising kind, but perhaps one in disguise. What is none, the
        # other can do, or names.
        with contextlib.suppress(UnsupportedOperator):
            made = _compile_disguised(query, facts, models, probes)
            if made is not None and (isinstance(made, Probes) or made.knows_rows or not rows):
                return made
        made = _compile_other(query, facts, models, probes)
        if not isinstance(made, Probes):
            made.no_join = reason.message, reason.detail    # (not itself, which holds all of this)
        return made


def _compile_other(query: str, facts, models: dict[str, ModelFacts],
                   probes: dict[str, ProbeResult]):
    try:
        return compile_network(query, facts, models, probes,
                               lambda output: _describe(output, probes))
    except UnsupportedOperator:
        searched = searched_case(query)
        if searched is None:
            raise
        with contextlib.suppress(UnsupportedOperator):
            return compile_network(searched, facts, models, probes,
                                   lambda output: _describe(output, probes))
        raise


def _compile_disguised(query: str, facts, models: dict[str, ModelFacts],
                       probes: dict[str, ProbeResult]) -> Probes | Capture | OverJoin | None:
    """A join on predictions: calls in subqueries, arithmetic or HAVING over aggregates."""
    statement, catalog, wanted = read_expanded(query, facts, probes)
    if wanted is not None:
        return wanted
    flat = flatten(statement)
    over = split(flat or statement.text, frozenset(catalog.number_namesakes))
    if over is not None and over.calls:
        wanted = _namesakes_over(over, probes)
        if wanted:
            return wanted
        if any(result.rows for name, result in probes.items() if name.startswith("over namesake ")):
            over = None         # another's is meant, which the other compiler names
    if over is None:
        return flat and _compile_named("flat:", flat, facts, models, probes, query)
    inner = _compile_named("over:", over.text, facts, models, probes)
    if isinstance(inner, Probes):
        return inner
    if len(inner.annotated.sides) < 2:
        return None
    if "output" not in probes:
        return Probes({"output": output_sql(replace(read_select(over.text), query=bare(query)))})
    described = _describe(probes["output"], probes)
    if isinstance(described, Probes):
        return described
    if not all(column.numeric for column in inner.output_columns[len(described):]):
        return None         # dates and intervals
    numbers = over.numbers([column.type_oid for column in inner.output_columns])
    columns = []
    for (name, oid, type_name, numeric), column in zip(described, inner.output_columns,
                                                       strict=False):
        if len(columns) in numbers:
            if not numeric:
                return None
            columns.append(OutputColumn(name, oid, type_name, True, True, "aggregate"))
        else:
            columns.append(replace(column, name=name))
    return OverJoin(inner, columns, result_sql(bare(query), len(columns)), numbers,
                    over.condition([column.type_oid for column in inner.output_columns]))


def _namesakes_over(over, probes: dict[str, ProbeResult]) -> Probes | None:
    """What must be asked to know whose operators and functions the arithmetic of a join calls."""
    if "over types" not in probes:
        return Probes({"over types": f"SELECT * FROM (\n{bare(over.typed)}\n) AS _pgrain_output "
                                     "LIMIT 0"})
    asked = {" ".join(("over namesake", kind, name, *map(str, types))):
             decide_sql(kind, name, types)
             for kind, name, *types in over.asked(probes["over types"].types)}
    missing = {name: sql for name, sql in asked.items() if name not in probes}
    return Probes(missing) if missing else None


def _compile_named(prefix: str, text: str, facts, models: dict[str, ModelFacts],
                   probes: dict[str, ProbeResult], original: str | None = None):
    """As `_compile_join`, with probes under names of its own."""
    made = _compile_join(text, facts, models,
                         {name.removeprefix(prefix): result for name, result in probes.items()
                          if name.startswith(prefix)}, original)
    if isinstance(made, Probes):
        return Probes({prefix + name: sql for name, sql in made.sql.items()}, made.models)
    return made


def _compile_join(query: str, facts, models: dict[str, ModelFacts],
                  probes: dict[str, ProbeResult], original: str | None = None) -> Probes | Capture:
    """One SELECT of joins, with count, sum and avg over at most two different predictions.

    `original`: the caller's text that `query` stands for, with names of columns that it decides.
    """
    select = read_select(query)
    asked = select if original is None else replace(select, query=bare(original), prefix="")
    names = model_names(select)
    wanted = Probes(models=[name for name in names if name not in models])
    if "catalog" not in probes:
        build(select, set())          # refuse what the text alone shows
        wanted.sql["catalog"] = catalog_sql(select, facts.functions)
    if "output" not in probes:
        wanted.sql["output"] = output_sql(asked)
    if wanted.sql or wanted.models:
        return wanted
    catalog = Catalog.read(probes["catalog"])
    if query.lower().count("select") > 1 and any(outer_aggregates(
            read_statement(query, frozenset(catalog.aggregates | AGGREGATES)).query, {})):
        raise UnsupportedOperator("aggregates that may be of the outer query inside a subquery")
    operators = build(select, catalog.aggregates)
    check_catalog(operators, catalog)
    check_hidden(catalog, select.functions, facts.functions)
    check_calls(facts, operators.calls(), catalog.predict_is_ours)
    check_relations(facts, catalog.relations,
                    bool(catalog.user_functions & (select.functions | facts.functions)))
    if not operators.calls():
        raise UnsupportedOperator("a query without a model call has no provenance")
    check_single_model(operators)
    if catalog.readable and any(plain_table(unit.text) is None for unit in operators.from_.units):
        raise UnsupportedOperator("a join of relations of which some columns can be read")
    expressions = _typed_expressions(operators)
    if "columns" not in probes:
        return Probes({"columns": columns_sql(select, operators.from_, expressions,
                                              catalog.readable)})
    columns, types = read_columns(operators.from_, expressions, probes["columns"])
    annotated = replace(Annotator(operators, columns, types).run(), exact=catalog.exact)
    columns_ = _describe(probes["output"], probes)
    if isinstance(columns_, Probes):
        return columns_
    if len(columns_) != len(annotated.cells):
        raise UnsupportedOperator(
            "the select list cannot be analysed",
            detail=f"PostgreSQL says {len(columns_)} columns, the text "
                   f"{len(annotated.cells)}.", hint="Name the columns instead of *.")
    described = []
    for (name, oid, type_name, numeric), cell in zip(columns_, annotated.cells, strict=True):
        if cell.role == "aggregate" and not numeric:
            raise UnsupportedOperator(
                f'the aggregate "{name}" of type {type_name} has no provenance yet',
                hint="Make its argument a number, as with extract(epoch FROM ...).")
        described.append(OutputColumn(name, oid, type_name, cell.dependent, numeric, cell.role))
    classes = models[annotated.slots[0].model].classes
    if no_numbers("numeric", classes) and any(e.casts_label for e in operators.expressions()):
        raise UnsupportedOperator("a class that is no number, cast to one")
    stamps = stamped_slots(annotated)
    stamped_sql = stamps and capture_sql(annotated, classes,
                                         {stamp.slot: stamp_sql(stamp) for stamp in stamps})
    return Capture(annotated, models, described,
                   capture_sql(annotated, classes, digests(annotated, models)),
                   result_sql(asked.query, len(described)),
                   stamps or [], stamped_sql, fingerprint_sql(select, facts.functions),
                   hidden_notes(catalog))


def _describe(output: ProbeResult, probes: dict[str, ProbeResult]):
    """[(name, type oid, type name, whether it is a number)] of the output columns, or Probes."""
    unknown = [oid for oid in output.types if oid not in _TYPE_NAMES]
    if unknown and "types" not in probes:
        return Probes({"types": "SELECT t.oid::pg_catalog.text, pg_catalog.format_type(t.oid, -1)"
                                " FROM pg_catalog.pg_type AS t WHERE t.oid IN ("
                                + ", ".join(str(oid) for oid in sorted(set(unknown))) + ")"})
    names = dict(_TYPE_NAMES)
    if unknown:
        names |= {int(oid): name for oid, name in probes["types"].rows}
    return [(name, oid, names[oid], oid in NUMERIC_TYPES)
            for name, oid in zip(output.columns, output.types, strict=True)]


def _typed_expressions(operators) -> list[str]:
    """Texts of the deterministic expressions whose value may become a detail of a pattern, or a
    weight of a row."""
    found = []
    if operators.aggregated:
        found = [e for e, _ in operators.keys
                 if not e.calls and not is_ordinal(e)]
        aliases = {item.alias for item in operators.items if item.alias}
        found = [e for e in found if bare_name(e) not in aliases]
        if operators.select.grouped:
            found += [item.expression for item in operators.items
                      if item.kind == "plain" and not item.expression.calls]
    found += [item.aggregate.argument for item in operators.items
              if item.aggregate is not None and item.aggregate.function != "count"
              and item.aggregate.argument is not None and not item.aggregate.argument.calls]
    return list(dict.fromkeys(e.text for e in found))
