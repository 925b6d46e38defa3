"""The capture of a query of any nesting: compiled in rounds, as `provenance.compile` says."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field

from pgrain.errors import InvalidArgument, UnsupportedOperator
from pgrain.plan import nodes
from pgrain.plan.explain import PlanFacts, check_calls, check_relations
from pgrain.plan.expression import refuse
from pgrain.plan.keywords import AGGREGATES
from pgrain.plan.reader import read_statement
from pgrain.provenance.algebra.aggregate_levels import check_levels
from pgrain.provenance.algebra.blocks import Relation
from pgrain.provenance.algebra.from_items import select_sql
from pgrain.provenance.algebra.program import OVER, Program
from pgrain.provenance.algebra.quantified import Respelled
from pgrain.provenance.algebra.queries import lower_query
from pgrain.provenance.algebra.scope import Core, analyse, columns_sql, over_sql, read_columns
from pgrain.provenance.algebra.sql import Capture as Renderer
from pgrain.provenance.algebra.views import expand_views
from pgrain.provenance.flatten import flatten
from pgrain.provenance.grouping import equal_is_same
from pgrain.provenance.namesakes import decide_sql
from pgrain.provenance.output import OutputColumn, match_sql, result_sql
from pgrain.provenance.probes import (
    Catalog,
    ProbeResult,
    Probes,
    catalog_sql,
    check_hidden,
    check_names,
    check_views,
    fingerprint_sql,
    hidden_notes,
)
from pgrain.provenance.semijoin import reduce
from pgrain.provenance.stamps import Stamped
from pgrain.wire.identity import among_sql, digest_sql, value_sql

_SPELLED = 16       # comparisons of a query that are spelled otherwise (quantified.py)


@dataclass
class NetworkCapture:
    """What to run for a query, and how to read what comes back (compare `compile.Capture`)."""

    program: Program
    final: Relation
    by_row: bool
    models: dict
    output_columns: list[OutputColumn]
    sql: str
    with_sql: str
    result_sql: str
    fingerprint_sql: str
    stamps: list[Stamped] = field(default_factory=list)
    stamped_sql: str | None = None
    no_join: tuple[str, str | None] | None = None   # why it is no `compile.Capture`: see there

    knows_rows = True        # the circuit knows the probability that a row is there

    def fetch_sql(self, model: str) -> str:
        """SQL for (digest, value) of the feature values whose digest is in ``$2`` (bytea[])."""
        facts, parts = self.models[model], []
        for slot in self.program.slots:
            if slot.model != model:
                continue
            argument = slot.argument + "\n"
            block = self.program.blocks[slot.block]
            inner = select_sql(block, [
                f"{digest_sql(argument, facts.kind, facts.features)} AS _pgrain_x",
                f"{value_sql(argument, facts.kind)} AS _pgrain_v"])
            parts.append(f"SELECT _pgrain_x, _pgrain_v FROM (\n{inner}\nOFFSET 0\n) AS _pgrain_s"
                         f"\nWHERE {among_sql('_pgrain_x')}")
        return (self.with_sql
                + "SELECT DISTINCT ON (_pgrain_x) _pgrain_x AS digest, _pgrain_v AS value FROM (\n"
                + "\nUNION ALL\n".join(parts) + "\n) AS _pgrain_u")

    def stamp_tag(self, stamp: Stamped) -> str:
        """The tag of the capture's rows that bring a slot's digests or stamps."""
        return f"{self.program.slots[stamp.slot].block}.x{stamp.slot}"

    def stamp_model(self, stamp: Stamped):
        """The model that reads the value of a slot."""
        return self.models[self.program.slots[stamp.slot].model]

    def read(self, rows):
        """The assembled network of the capture's rows; 54000 over a limit."""
        from pgrain.provenance.algebra.assemble import Assembly
        return Assembly(self.program, rows)

    @property
    def nested_loops(self) -> bool:
        """Whether PostgreSQL may join by nested loops.

        Of the rows that correlated subqueries are asked for it knows no number and takes them to
        be few.
        """
        return not self.program.keys

    def render(self, circuit) -> list[str]:
        """Lines of the annotated plan."""
        from pgrain.provenance.algebra.render import render_network
        return render_network(self, circuit)

    def circuit(self, lineage):
        """The circuit over what `read` returned."""
        from pgrain.provenance.algebra.circuit import NetworkCircuit
        return NetworkCircuit(self, lineage)

    def match_sql(self, where: str) -> str:
        """SQL for the output rows that meet a complaint's WHERE; ``$1`` is `Output.match_json`."""
        return match_sql(self.output_columns, where)


def compile_network(query: str, facts: PlanFacts, models: dict, probes: dict[str, ProbeResult],
                    describe) -> Probes | NetworkCapture:
    """The capture of `query`, or what must be asked first; parameters as `compile`'s.

    describe(names, oids) gives the types' names: [(name, oid, type name, numeric)] or Probes.
    """
    try:
        return _compile(query, facts, models, probes, describe, True)
    except UnsupportedOperator:
        # A refusal quotes what the caller wrote.
        return _compile(query, facts, models, probes, describe, False)


def _compile(query: str, facts: PlanFacts, models: dict, probes: dict[str, ProbeResult],
             describe, reducing: bool) -> Probes | NetworkCapture:
    """As `compile_network`; reducing: sides of large joins may be reduced (`semijoin`)."""
    statement, catalog, wanted = read_expanded(query, facts, probes)
    if wanted is not None:
        return wanted
    analysis = analyse(statement)
    if not analysis.calls:
        raise InvalidArgument("the query calls no model",
                              detail=" ".join(note[0].upper() + note[1:] + "."
                                              for note in hidden_notes(catalog)) or None,
                              hint="Call pgrain.predict in SELECT, WHERE, ON or GROUP BY.")
    _check(statement, analysis, catalog, facts)
    names = sorted({call.model for call in analysis.calls})
    ask = Probes(models=[name for name in names if name not in models])
    reduced = None
    if reducing and not ask.models:
        reduced = reduce(flatten(statement) or statement.text, models, probes,
                         frozenset(catalog.aggregates | AGGREGATES))
    if isinstance(reduced, Probes):
        return reduced
    if reduced is not None:
        statement = read_statement(reduced.text, frozenset(catalog.aggregates | AGGREGATES))
        analysis = analyse(statement)
    refusal = None
    for _ in range(_SPELLED + 1):
        try:
            return _network(query, statement, analysis, catalog, facts, models, probes, describe,
                            ask, reduced)
        except Respelled as error:
            refusal = refusal or error
            statement = read_statement(error.text, frozenset(catalog.aggregates | AGGREGATES))
            analysis = analyse(statement)
    raise refusal


def _network(query: str, statement, analysis, catalog: Catalog, facts: PlanFacts, models: dict,
             probes: dict[str, ProbeResult], describe, ask: Probes, reduced) \
        -> Probes | NetworkCapture:
    """The capture of a statement that says what `query` does; ask: what must be asked besides."""
    check_levels(statement, {})
    mark = _mark(statement.text)
    names = sorted({call.model for call in analysis.calls})
    if "output" not in probes:
        ask.sql["output"] = f"SELECT * FROM (\n{query}\n) AS _pgrain_output LIMIT 0"
    for core in analysis.cores:
        if f"scope:{mark}:{core.number}" not in probes:
            ask.sql[f"scope:{mark}:{core.number}"] = columns_sql(core, catalog.readable)
    if ask.sql or ask.models:
        return ask
    columns, types = {}, {}
    for core in analysis.cores:
        found = probes[f"scope:{mark}:{core.number}"]
        columns[id(core.select)] = read_columns(core, found.columns, found.types)[0]
        types |= _types(core, mark, probes)
    check_levels(statement, columns)
    program, final = _lowered(analysis, columns, types,
                              {name: models[name].classes for name in names}, catalog.exact,
                              catalog.namesakes, _meant(probes))
    if program.wanted or program.wanted_over or program.asked:
        return _asked(program, mark, catalog.readable)
    if reduced is not None and program.bounds:
        raise program.bounds[0].refusal     # which would quote what the caller did not write
    if not program.slots:
        raise UnsupportedOperator("a query of whose result nothing depends on a prediction",
                                  detail="It calls a model in ORDER BY, or where nobody reads it.",
                                  hint="Call the model in SELECT, WHERE, ON or GROUP BY.")
    described = describe(probes["output"])
    if isinstance(described, Probes):
        return described
    if len(described) != len(final.columns):
        raise UnsupportedOperator(
            "the select list cannot be analysed",
            detail=f"PostgreSQL says {len(described)} columns, the text {len(final.columns)}.",
            hint="Name the columns instead of *.")
    block = program.blocks[final.block]
    by_row = block.kind == "select" and block.grouping is None
    renderer = Renderer(program, models)
    sql = renderer.render(final, by_row)
    output = [_output(spec, column, block.outputs[n] if by_row else None, program.exact)
              for n, (spec, column) in enumerate(zip(described, final.columns, strict=True))]
    result = result_sql(bare(query), len(described))
    program.notes += [*(reduced.notes if reduced is not None else []), *hidden_notes(catalog)]
    stamps = [slot.stamped for slot in program.slots]
    stamps = [] if None in stamps or program.plain else stamps
    stamped = Renderer(program, models, True).render(final, by_row) if stamps else None
    return NetworkCapture(program, final, by_row, {name: models[name] for name in names}, output,
                          sql, renderer.with_(), result,
                          fingerprint_sql(statement, facts.functions), stamps, stamped)


def _lowered(analysis, columns: dict, types: dict, classes: dict, exact: bool,
             namesakes: set, meant: dict):
    """(program, the relation of its output); numbers of subqueries split into rows only where
    nothing else does, labels that nothing names kept where there are no others."""
    def lowered(values: frozenset = frozenset(), **options):
        program = Program(analysis, columns, types, classes, exact=exact, namesakes=namesakes,
                          meant=meant, values=values, **options)
        try:
            return program, lower_query(program, analysis.statement.query, None)
        except UnsupportedOperator:
            if program.wanted_over:     # it may not be refused once these types are known
                program.wanted.clear()
                return program, None
            if program.wanted_values <= values:
                raise
        return lowered(values | program.wanted_values, **options)

    try:
        program, final = lowered()
    except UnsupportedOperator:
        with contextlib.suppress(UnsupportedOperator):
            return lowered(split=True)
        raise
    if final is None or program.slots:
        return program, final
    return lowered(program.values, all_labels=True)


def _output(described, column, spec, exact: bool) -> OutputColumn:
    name, oid, type_name, numeric = described
    if column.cell is not None:
        role = "aggregate"
    elif column.flag is not None or column.shown is not None \
            or spec is not None and spec.where == "entry":
        role = "label"
    else:
        role = "row" if spec is not None else "group"
    dependent = column.random or column.labelled
    tied = column.extreme and not equal_is_same(oid, exact)
    return OutputColumn(name, oid, type_name, dependent, numeric, role, tied)


def bare(query: str) -> str:
    """The query without what may stand around it: brackets, a semicolon."""
    return read_statement(query).query.text


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _types(core: Core, mark: str, probes: dict) -> dict:
    """Types of expressions over a SELECT that were asked for in earlier rounds."""
    found = {}
    for over in ("", OVER):
        prefix = f"{over}type:{mark}:{core.number}:"
        found |= {(id(core.select), over + name.removeprefix(prefix)): result.types[-1]
                  for name, result in probes.items() if name.startswith(prefix)}
    return found


def _asked(program: Program, mark: str, readable: dict) -> Probes:
    """What the program must know before it is one."""
    asked = {}
    for core in program.analysis.cores:
        for text in program.wanted.get(id(core.select), ()):
            asked[f"type:{mark}:{core.number}:{text}"] = columns_sql(core, readable, [text])
        for text in program.wanted_over.get(id(core.select), ()):
            asked[f"{OVER}type:{mark}:{core.number}:{text}"] = over_sql(core, program.text, text)
    for kind, name, *types in program.asked:
        asked[" ".join(("namesake", kind, name, *map(str, types)))] = decide_sql(kind, name, types)
    return Probes(asked)


def _meant(probes: dict) -> dict[tuple, str | None]:
    """`Program.meant` from the answers of `decide_sql`."""
    return {(kind, of, *map(int, types)): result.rows[0][0] if result.rows else None
            for name, result in probes.items() if name.startswith("namesake ")
            for _, kind, of, *types in [name.split(" ")]}


def read_expanded(query: str, facts: PlanFacts, probes: dict):
    """(statement, catalog, None), views with model calls expanded; or (…, what to ask)."""
    text = query
    for _ in range(32):
        statement = read_statement(text)
        name = f"catalog:{_mark(text)}"
        if name not in probes:
            return statement, None, Probes({name: catalog_sql(statement, facts.functions)})
        catalog = Catalog.read(probes[name])
        check_views(catalog)
        names = frozenset(catalog.aggregates | AGGREGATES)
        statement = read_statement(text, names)
        expanded = expand_views(statement, catalog.views)
        if expanded == text:
            return statement, catalog, None
        text = expanded
    raise UnsupportedOperator("views nested this deep have no provenance")


def _check(statement: nodes.Statement, analysis, catalog: Catalog, facts: PlanFacts) -> None:
    """Volatile functions, foreign names; the plan's calls and relations are those of the text."""
    # A call that the planner found needless (an output that nobody reads) does no harm here.
    planned = facts.functions
    facts = PlanFacts(facts.relations, facts.calls, planned, empty=True, lossy=True)
    check_calls(facts, analysis.calls, catalog.predict_is_ours)
    check_relations(facts, catalog.relations,
                    bool(catalog.user_functions & (statement.functions | facts.functions)))
    for schema, name, visible in sorted(catalog.volatile):
        place = statement.text.lower().find(name)
        if name in statement.functions and (visible or f"{schema}." in statement.text):
            raise refuse(f"the volatile function {schema}.{name}", statement.text, max(place, 0),
                         None, "Declare it STABLE if its result does not change within a "
                               "statement.")
    check_hidden(catalog, statement.functions, planned)
    check_names(catalog, analysis.calls)
    for core in analysis.cores:
        for item in core.select.items if not core.plain else ():
            for name in item.expression.functions if item.expression else ():
                if name in catalog.sets:
                    raise refuse(f"the set-returning function {name} outside FROM",
                                 statement.text, item.start, item.end, "Call it in FROM.")


