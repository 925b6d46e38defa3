"""What compile asks PostgreSQL before it can write the capture: small SELECTs, run as the caller.

``catalog``  the functions and relations that the text and the plan name
``output``   names and types of the query's output columns
``columns``  names and types of the relations in FROM, and types of the expressions to keep
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from pgrain.errors import UnsupportedOperator
from pgrain.plan.expression import MODEL_FUNCTIONS, OWN_SCHEMA, refuse
from pgrain.plan.from_clause import From
from pgrain.plan.query import AGGREGATES, Query
from pgrain.plan.select import Select
from pgrain.provenance.annotate import quote
from pgrain.provenance.capture_sql import literal
from pgrain.provenance.namesakes import CATALOG as NAMESAKES
from pgrain.provenance.namesakes import TYPES
from pgrain.provenance.stamps import plain_table

# Its text is the same for every query, so that a session plans it once: $1 has the relations that
# are named, quoted, $2 the functions.
_CATALOG = """WITH RECURSIVE named (written, oid) AS (
 SELECT n, pg_catalog.to_regclass(n)::pg_catalog.oid FROM pg_catalog.unnest($1) AS n
), reached (oid) AS (
 SELECT oid FROM named WHERE oid IS NOT NULL
 UNION
 SELECT e.oid FROM reached AS r CROSS JOIN LATERAL (
  SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = r.oid
  UNION ALL
  SELECT d.refobjid FROM pg_catalog.pg_rewrite AS w JOIN pg_catalog.pg_depend AS d
   ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
   AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> r.oid
   WHERE w.ev_class = r.oid
  UNION ALL
  SELECT d.refobjid FROM pg_catalog.pg_policy AS p JOIN pg_catalog.pg_depend AS d
   ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND d.objid = p.oid
   AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> r.oid
   WHERE p.polrelid = r.oid
 ) AS e (oid))
SELECT 'relation' AS what,
 regexp_replace(n.nspname, '^pg_temp_.*', 'pg_temp')::text AS a,
 c.relname::text AS b, c.relkind::text AS c,
 (SELECT bool_or(true) FROM named WHERE named.oid = c.oid)::text AS d
 FROM reached JOIN pg_catalog.pg_class AS c ON c.oid = reached.oid
 JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
UNION ALL
SELECT 'column', named.written, a.attname::text, NULL, NULL
 FROM named JOIN pg_catalog.pg_attribute AS a ON a.attrelid = named.oid
 WHERE a.attnum > 0 AND NOT a.attisdropped
 AND NOT pg_catalog.has_table_privilege(named.oid, 'SELECT')
 AND pg_catalog.has_column_privilege(named.oid, a.attnum, 'SELECT')
UNION ALL
SELECT 'view', named.written, pg_catalog.pg_get_viewdef(c.oid), (
  -- What its owner reads, and the caller may not, or sees other rows of.
  WITH RECURSIVE inside (oid) AS (
   SELECT c.oid UNION SELECT d.refobjid FROM inside AS i
   JOIN pg_catalog.pg_class AS v ON v.oid = i.oid
    AND (v.oid = c.oid OR v.relkind = 'v' AND {invoker})
   JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = v.oid
   JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
    AND d.objid = w.oid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass)
  SELECT pg_catalog.concat(CASE WHEN a.allowed THEN 'rows ' ELSE 'denied ' END,
   k.oid::pg_catalog.regclass) FROM inside AS i
  JOIN pg_catalog.pg_class AS k ON k.oid = i.oid AND k.oid <> c.oid
  JOIN pg_catalog.pg_roles AS o ON o.oid = c.relowner AND o.rolname <> CURRENT_USER,
  LATERAL (SELECT pg_catalog.has_table_privilege(k.oid, 'SELECT')
   OR pg_catalog.has_any_column_privilege(k.oid, 'SELECT')) AS a (allowed)
  WHERE NOT a.allowed
  OR k.relrowsecurity AND (pg_catalog.row_security_active(k.oid)
   OR NOT (o.rolsuper OR o.rolbypassrls) AND (k.relforcerowsecurity
    OR NOT pg_catalog.pg_has_role(o.oid, k.relowner, 'USAGE')))
  ORDER BY 1 LIMIT 1), {invoker_of_c}::text
 FROM named JOIN pg_catalog.pg_class AS c ON c.oid = named.oid
 WHERE c.relkind = 'v' AND EXISTS (
  WITH RECURSIVE below (oid) AS (
   SELECT c.oid UNION SELECT k.oid FROM below AS b
   JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = b.oid
   JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
    AND d.objid = w.oid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
   JOIN pg_catalog.pg_class AS k ON k.oid = d.refobjid AND k.relkind = 'v')
  SELECT FROM below AS b JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = b.oid
   JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
    AND d.objid = w.oid AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
   JOIN pg_catalog.pg_proc AS p ON p.oid = d.refobjid AND p.proname IN {model_functions}
   JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace AND n.nspname = 'pgrain')
UNION ALL
SELECT 'policy', r.oid::pg_catalog.regclass::text, y.polname::text, NULL, NULL
 FROM reached AS r JOIN pg_catalog.pg_policy AS y ON y.polrelid = r.oid
 JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
  AND d.objid = y.oid AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
 JOIN pg_catalog.pg_proc AS p ON p.oid = d.refobjid AND p.proname IN {model_functions}
 JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace AND n.nspname = 'pgrain'
UNION ALL
SELECT DISTINCT 'hidden', 'function ' || n.nspname || '.' || p.proname, NULL, NULL, NULL
 FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
 WHERE p.proname = ANY ($2) AND n.nspname NOT IN ('pgrain', 'pg_catalog')
 AND pg_catalog.concat_ws(' ', p.prosrc, pg_catalog.pg_get_function_sqlbody(p.oid),
  pg_catalog.pg_get_expr(p.proargdefaults, 0)) ~ 'predict'
UNION ALL
SELECT DISTINCT 'hidden', 'materialised view ' || r.oid::pg_catalog.regclass::text, NULL, NULL,
 NULL FROM reached AS r JOIN pg_catalog.pg_class AS c ON c.oid = r.oid AND c.relkind = 'm'
 JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = c.oid
 JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
  AND d.objid = w.oid AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
 JOIN pg_catalog.pg_proc AS p ON p.oid = d.refobjid AND p.proname IN {model_functions}
 JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace AND n.nspname = 'pgrain'
UNION ALL
SELECT 'inexact', NULL, NULL, NULL, NULL
 WHERE EXISTS (SELECT FROM pg_catalog.pg_collation WHERE NOT collisdeterministic)
UNION ALL
SELECT DISTINCT 'function', n.nspname::text, p.proname::text,
 p.prokind::text || p.provolatile::text || CASE WHEN p.proretset THEN 'r' ELSE '' END,
 pg_catalog.pg_function_is_visible(p.oid)::text
 FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
 WHERE p.proname = ANY ($2)
UNION ALL""" + NAMESAKES
_FINGERPRINT = """SELECT pg_catalog.md5(pg_catalog.string_agg(part, ',' ORDER BY part
 COLLATE "C")) AS fingerprint FROM (
SELECT pg_catalog.concat_ws(':', 'f', p.oid, p.xmin, pg_catalog.pg_function_is_visible(p.oid))
 FROM pg_catalog.pg_proc AS p WHERE p.proname OPERATOR(pg_catalog.=)
 ANY ({functions}::pg_catalog.name[])
UNION ALL
SELECT pg_catalog.concat_ws(':', 'a', a.attrelid, a.attnum, a.xmin)
 FROM pg_catalog.unnest({tables}) AS n JOIN pg_catalog.pg_attribute AS a
 ON a.attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(n)::pg_catalog.oid
 WHERE a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2
UNION ALL
SELECT pg_catalog.concat_ws(':', 't', t.oid, t.xmin, pg_catalog.pg_type_is_visible(t.oid))
 FROM pg_catalog.pg_type AS t
 WHERE t.typname OPERATOR(pg_catalog.=) ANY ({types}::pg_catalog.name[])
 AND t.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
UNION ALL
SELECT pg_catalog.concat_ws(':', 'o', o.oid, o.xmin, pg_catalog.pg_operator_is_visible(o.oid))
 FROM pg_catalog.pg_operator AS o
 WHERE o.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
UNION ALL
SELECT 'd' WHERE EXISTS (SELECT FROM pg_catalog.pg_collation AS d WHERE NOT d.collisdeterministic
 AND d.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid)
UNION ALL
SELECT pg_catalog.concat_ws(':', 'c', k.oid, k.xmin) FROM pg_catalog.pg_cast AS k
 WHERE k.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid) AS parts (part)"""
_INVOKER = """EXISTS (SELECT FROM pg_catalog.pg_options_to_table({}.reloptions) AS r
    WHERE r.option_name = 'security_invoker' AND r.option_value::pg_catalog.bool)"""
CATALOG = _CATALOG.format(
    model_functions="(" + ", ".join(literal(name) for name in MODEL_FUNCTIONS) + ")",
    invoker=_INVOKER.format("v"), invoker_of_c=_INVOKER.format("c"))
SEPARATOR = "_pgrain_next"


@dataclass
class ProbeResult:
    """What a probe returned: names and type oids of its columns, and its rows as text."""

    columns: list[str]
    types: list[int]
    rows: list[list[str | None]]


@dataclass
class Probes:
    """What must be known before the next call of `compile`. sql: a statement, or one with what its
    parameters are, each a text[]."""

    sql: dict[str, str | tuple] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)


@dataclass
class Catalog:
    """The answer of the ``catalog`` probe."""

    relations: set                # (schema, name) named or reached
    kinds: dict                   # (schema, name) -> relkind
    aggregates: set               # names
    volatile: list                # (schema, name, visible)
    user_functions: set           # names outside pg_catalog and pgrain
    predict_is_ours: bool         # an unqualified predict is pgrain's
    # (kind, name) of what may be meant in place of PostgreSQL's own, and of those for numbers.
    namesakes: set = field(default_factory=set)
    number_namesakes: set = field(default_factory=set)
    sets: set = field(default_factory=set)    # names of set-returning functions
    steady: set = field(default_factory=set)      # names of visible functions that are not volatile
    views: dict = field(default_factory=dict)    # quoted name -> query of those that call a model
    # (name of such a view, 'denied' or 'rows' and the relation of which its owner is shown more)
    others: list = field(default_factory=list)
    hidden: list = field(default_factory=list)    # functions and such that call a model inside
    policies: list = field(default_factory=list)    # (table, policy) of those that call a model
    exact: bool = True            # no collation takes different texts for equal
    # Where the caller may read some columns only: quoted name of the table -> those columns.
    readable: dict = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, result: ProbeResult) -> Catalog:
        catalog = cls(set(), {}, set(), [], set(), True)
        visible_models, own_sets, built_in = set(), set(), set()
        for what, schema, name, kind, flag in result.rows:
            if what == "relation":
                catalog.relations.add((schema, name))
                catalog.kinds[schema, name] = kind
                continue
            if what == "namesake":
                catalog.namesakes.add((schema, name))
                if flag == "true":
                    catalog.number_namesakes.add((schema, name))
                continue
            if what == "inexact":
                catalog.exact = False
                continue
            if what == "hidden":
                catalog.hidden.append(schema)
                continue
            if what == "policy":
                catalog.policies.append((schema, name))
                continue
            if what == "view":
                catalog.views[schema] = name
                if kind is not None and flag != "true":
                    catalog.others.append((schema, kind))
                continue
            if what == "column":
                catalog.readable[schema].append(name)
                continue
            if kind[0] in "aw" and (flag == "true" or schema != "pg_catalog"):
                catalog.aggregates |= {name, f"{schema}.{name}"}
            if schema == OWN_SCHEMA and name in MODEL_FUNCTIONS:
                pass
            elif kind[1] == "v":
                catalog.volatile.append((schema, name, flag == "true"))
            elif flag == "true":
                catalog.steady.add(name)
            if kind[2:] == "r":
                (own_sets if schema == OWN_SCHEMA else catalog.sets).add(name)
            elif schema == "pg_catalog":
                built_in.add(name)
            if schema not in ("pg_catalog", OWN_SCHEMA):
                catalog.user_functions.add(name)
            if name == "predict" and flag == "true":
                visible_models.add(schema)
        catalog.sets |= own_sets - built_in         # rank(…) OVER is not pgrain.rank
        catalog.predict_is_ours = visible_models == {OWN_SCHEMA}
        return catalog


def array(names: Sequence[str]) -> str:
    """A text[] constant."""
    return f"ARRAY[{', '.join(literal(name) for name in names)}]::pg_catalog.text[]"


def catalog_sql(select: Select, functions: set) -> tuple[str, list[str], list[str]]:
    """The ``catalog`` probe: its statement, and what $1 and $2 are, each a text[]."""
    tables = [".".join(quote(part) for part in table) for table in select.tables]
    names = select.functions | functions | set(AGGREGATES) | {"predict"}
    return CATALOG, sorted(tables), sorted(names)


def spelled(asked: str | tuple) -> str:
    """A statement of `Probes.sql` with its parameters written out."""
    if isinstance(asked, str):
        return asked
    text, *arguments = asked
    for number, names in enumerate(arguments, 1):
        text = text.replace(f"${number}", array(names))
    return text


def fingerprint_sql(select: Select, functions: set) -> str:
    """SQL for one text that changes when a name in the query may mean something else.

    Functions by the names used (and whether they are visible), the relations and their columns,
    types, operators and casts that are not PostgreSQL's own. EXPLAIN's text shows none of these: it
    prints another function of the same name, or a column of another type, just as before.
    """
    tables = [".".join(quote(part) for part in table) for table in select.tables]
    names = select.functions | functions | set(AGGREGATES) | {"predict"}
    return _FINGERPRINT.format(tables=array(tables), functions=array(sorted(names)),
                               types=array(TYPES))


def output_sql(select: Select) -> str:
    """The ``output`` probe: PostgreSQL itself says what the query's columns are."""
    return f"SELECT * FROM (\n{select.query}\n) AS _pgrain_output LIMIT 0"


def columns_sql(select: Select, from_: From, expressions: Sequence[str],
                readable: dict) -> str:
    """The ``columns`` probe: each alias of FROM, then the expressions whose type is needed."""
    columns = []
    for unit in from_.units:
        table = plain_table(unit.text)
        for alias in unit.aliases:
            if table in readable:
                columns += [f"{quote(alias)}.{quote(name)}" for name in readable[table]]
            elif alias != "_pgrain_unnamed":
                columns.append(f"{quote(alias)}.*")
            columns.append(f"1 AS {SEPARATOR}")
    columns += [f"({text}\n)" for text in expressions]
    with_ = ""
    if select.prefix:
        with_ = ("WITH RECURSIVE " if select.recursive else "WITH ") + select.prefix[:-2] + "\n"
    units = ", ".join(f"{unit.text}\n" for unit in from_.units)
    return f"{with_}SELECT {', '.join(columns)} FROM {units} LIMIT 0"


def read_columns(from_: From, expressions: Sequence[str], result: ProbeResult):
    """(columns of each alias, type of each expression) from the ``columns`` probe."""
    aliases = [alias for unit in from_.units for alias in unit.aliases]
    columns: dict[str, list] = {alias: [] for alias in aliases}
    pairs = list(zip(result.columns, result.types, strict=True))
    position = 0
    for alias in aliases:
        while pairs[position][0] != SEPARATOR:
            columns[alias].append(pairs[position])
            position += 1
        position += 1
    types = {text: oid for text, (_, oid) in zip(expressions, pairs[position:], strict=True)}
    return columns, types


def hidden_notes(catalog: Catalog) -> list[str]:
    """What the query takes from a model without saying so: data, as far as it is concerned."""
    return [f"{name} calls a model inside; what it returns is data here, and has no provenance"
            for name in catalog.hidden]


def check_views(catalog: Catalog) -> None:
    """A view that calls a model is read with the caller's rights, for its calls are the query's: it
    must not show its owner more, or other rows."""
    for view, found in catalog.others:
        reason, relation = found.split(" ", 1)
        denied = reason == "denied"
        raise UnsupportedOperator(
            f"the view {view}, which calls a model and reads {relation} with its owner's rights, "
            "has no provenance for other roles",
            detail=("The current role may not read that relation." if denied else
                    "Its owner is shown other rows of that relation than the current role."),
            hint="Leave the model call out of the view and call it in the query; or give the view "
                 "the option security_invoker, and the role SELECT on what it reads.",
            sqlstate="42501" if denied else None)


def check_policies(catalog: Catalog) -> None:
    """A row-level security policy that calls a model decides rows behind the query's back."""
    for table, policy in catalog.policies:
        raise UnsupportedOperator(
            f'the policy "{policy}" of table {table}, which calls a model, has no provenance',
            hint="Write the condition in the query, as a role that the policy does not bind.")


def check_catalog(operators: Query, catalog: Catalog) -> None:
    """Volatile and set-returning functions and foreign ``predict`` are refused by name."""
    if catalog.views:
        raise UnsupportedOperator("a view that calls a model has no provenance here")
    select, calls = operators.select, operators.calls()
    for expression in operators.expressions():
        for name in expression.functions:
            if name in catalog.sets:
                raise refuse(f"the set-returning function {name} outside FROM", select.query,
                             expression.start, expression.end, "Call it in FROM.")
    words = {t.value for item in select.items for t in item}
    words |= {t.value for t in select.from_ + select.where}
    words |= {t.value for item in select.group for t in item}
    for schema, name, visible in sorted(catalog.volatile):
        if name in select.functions and (visible or schema in words):
            token = next((t for item in [*select.items, select.from_, select.where,
                                         *select.group, select.order] for t in item
                          if t.is_name and t.value == name), None)
            place = token.start if token else 0
            raise refuse(f"the volatile function {schema}.{name}", select.query, place, None,
                         "Declare it STABLE if its result does not change within a statement.")
    for name in AGGREGATES:
        if name in select.functions and ("function", name) in (
                catalog.namesakes if name == "count" else catalog.number_namesakes):
            raise UnsupportedOperator(f"{name}, which may be another function")
    check_names(catalog, calls)


def check_hidden(catalog: Catalog, written: set[str], planned: set[str]) -> None:
    """A volatile function that the plan calls and the text does not stands in a view, or in a
    policy: rows of the capture may be others than those of the query. written, planned: names of
    functions in the text, in the plan."""
    for schema, name, visible in sorted(catalog.volatile):
        if visible and name in planned - written - catalog.steady:
            raise UnsupportedOperator(
                f"the volatile function {schema}.{name} in a view or policy that the query reads "
                "has no provenance", detail="The query's plan calls it, its text does not.",
                hint="Declare it STABLE if its result does not change within a statement, or store "
                     "the view's rows in a table.")


def check_names(catalog: Catalog, calls) -> None:
    """Names that PostgreSQL may take for another function than ours are refused."""
    check_policies(catalog)
    for call in calls:
        if call.bare and not catalog.predict_is_ours:
            raise UnsupportedOperator(
                "an unqualified predict that may be another function has no provenance yet",
                detail="No function named predict is visible, or one outside schema pgrain is.",
                hint=f"Write {OWN_SCHEMA}.predict(...).")
