"""Functions and operators that are named as PostgreSQL's own, and which of them a call means.

The walker computes count, sum, round, +, > and so on itself, so it must know that PostgreSQL means
its own. A function of another schema goes before PostgreSQL's where search_path lists it so, and
where its arguments fit better. Without such a namesake nothing is asked. With one, PostgreSQL is
asked for the types of the arguments, and the rules of its manual ("Type Conversion") are applied so
that they err on one side: a namesake that can take the arguments counts as meant, unless
PostgreSQL's own takes just these types and is visible.
"""

from __future__ import annotations

from collections.abc import Sequence

from pgrain.plan.keywords import AGGREGATES

# What the walker computes itself, beside aggregates: `numbers.ARITHMETIC`, comparisons, casts.
FUNCTIONS = ("abs", "round", "floor", "ceil", "ceiling", "trunc", "sqrt", "exp", "ln", "power",
             "pow")
OPERATORS = ("+", "-", "*", "/", "%", "^", "=", "<>", "<", "<=", ">", ">=")
TYPES = ("int2", "int4", "int8", "float4", "float8")
UNKNOWN = 705       # a string or NULL whose type is for the call to choose
_NUMBERS = "ARRAY[20, 21, 23, 700, 701, 1700]::pg_catalog.oid[]"

# Whether a value of type `source` may become one of type `target` without being told to. More than
# that is harmless. Domains count as what they are over.
_BASE = ("(WITH RECURSIVE d (oid) AS (SELECT {0}::pg_catalog.oid UNION ALL SELECT t.typbasetype"
         " FROM d JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) d.oid WHERE"
         " t.typbasetype OPERATOR(pg_catalog.<>) 0::pg_catalog.oid) SELECT d.oid FROM d JOIN"
         " pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) d.oid WHERE t.typbasetype"
         " OPERATOR(pg_catalog.=) 0::pg_catalog.oid)")
_BECOMES = (
    "EXISTS (SELECT FROM pg_catalog.pg_type AS a, pg_catalog.pg_type AS b WHERE"
    " a.oid OPERATOR(pg_catalog.=) " + _BASE.format("{source}") + " AND"
    " b.oid OPERATOR(pg_catalog.=) " + _BASE.format("{target}") + " AND ("
    f"a.oid OPERATOR(pg_catalog.=) {UNKNOWN}::pg_catalog.oid OR b.typtype"
    " OPERATOR(pg_catalog.=) 'p' OR a.oid OPERATOR(pg_catalog.=) b.oid"
    " OR a.typcategory OPERATOR(pg_catalog.=) 'A' AND b.typcategory OPERATOR(pg_catalog.=) 'A'"
    " OR b.typtype OPERATOR(pg_catalog.=) 'c' AND (a.typtype OPERATOR(pg_catalog.=) 'c' OR a.oid"
    " OPERATOR(pg_catalog.=) 2249::pg_catalog.oid)"
    " OR EXISTS (SELECT FROM pg_catalog.pg_cast AS k WHERE"
    " k.castsource OPERATOR(pg_catalog.=) a.oid AND k.casttarget OPERATOR(pg_catalog.=) b.oid"
    " AND k.castcontext OPERATOR(pg_catalog.=) 'i')))")
# The same of numbers, in short: the catalog is asked for every query.
_OF_NUMBER = ("EXISTS (SELECT FROM pg_catalog.pg_type AS b WHERE b.oid OPERATOR(pg_catalog.=) {0}"
              " AND (b.typcategory OPERATOR(pg_catalog.=) 'N' OR b.typtype OPERATOR(pg_catalog.=)"
              " 'p' OR b.typtype OPERATOR(pg_catalog.=) 'd' OR EXISTS (SELECT FROM"
              " pg_catalog.pg_cast AS k WHERE k.casttarget OPERATOR(pg_catalog.=) b.oid AND"
              f" k.castsource OPERATOR(pg_catalog.=) ANY ({_NUMBERS}) AND"
              " k.castcontext OPERATOR(pg_catalog.=) 'i')))")
_ELSEWHERE = ("n.nspname OPERATOR(pg_catalog.<>) 'pg_catalog' AND n.nspname OPERATOR(pg_catalog.=)"
              " ANY (pg_catalog.current_schemas(true))")
# A function whose arguments are spread or left out may be meant though it is hidden as it stands.
_CANDIDATE = ("(pg_catalog.pg_function_is_visible(p.oid) OR p.provariadic OPERATOR(pg_catalog.<>)"
              " 0::pg_catalog.oid OR p.pronargdefaults OPERATOR(pg_catalog.>) 0::pg_catalog.int2)")


def _texts(names: Sequence[str]) -> str:
    return "ARRAY[" + ", ".join(f"'{name}'" for name in sorted(names)) + "]::pg_catalog.name[]"


# Objects below are PostgreSQL's own, made by initdb: by its number few are looked at.
_MADE = "{0}.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid"
# Rows ('namesake', kind, name, schema, whether numbers can be its arguments or its result). Kind
# "comparison": there are comparisons of PostgreSQL's own types that are not PostgreSQL's own.
CATALOG = f"""
SELECT DISTINCT 'namesake', 'function', p.proname::pg_catalog.text, n.nspname::pg_catalog.text,
 (NOT EXISTS (SELECT FROM pg_catalog.unnest(p.proargtypes) AS argument
  WHERE NOT {_OF_NUMBER.format("argument")})
  OR p.prorettype OPERATOR(pg_catalog.=) ANY ({_NUMBERS}))::pg_catalog.text
 FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n
 ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
 WHERE p.proname OPERATOR(pg_catalog.=) ANY ({_texts([*AGGREGATES, *FUNCTIONS])})
 AND {_MADE.format("p")} AND {_ELSEWHERE} AND {_CANDIDATE}
UNION ALL
SELECT DISTINCT 'namesake', 'operator', o.oprname::pg_catalog.text, n.nspname::pg_catalog.text,
 ((o.oprleft OPERATOR(pg_catalog.=) 0::pg_catalog.oid OR {_OF_NUMBER.format("o.oprleft")})
  AND {_OF_NUMBER.format("o.oprright")})::pg_catalog.text
 FROM pg_catalog.pg_operator AS o JOIN pg_catalog.pg_namespace AS n
 ON n.oid OPERATOR(pg_catalog.=) o.oprnamespace
 WHERE o.oprname OPERATOR(pg_catalog.=) ANY ({_texts(OPERATORS)}) AND {_MADE.format("o")}
 AND {_ELSEWHERE} AND pg_catalog.pg_operator_is_visible(o.oid)
UNION ALL
SELECT DISTINCT 'namesake', 'comparison', '', n.nspname::pg_catalog.text, 'true'
 FROM pg_catalog.pg_operator AS o JOIN pg_catalog.pg_namespace AS n
 ON n.oid OPERATOR(pg_catalog.=) o.oprnamespace
 WHERE o.oprname OPERATOR(pg_catalog.=) ANY ({_texts(OPERATORS[6:])}) AND {_MADE.format("o")}
 AND {_ELSEWHERE} AND pg_catalog.pg_operator_is_visible(o.oid)
 AND o.oprleft OPERATOR(pg_catalog.<) 16384::pg_catalog.oid
 AND o.oprright OPERATOR(pg_catalog.<) 16384::pg_catalog.oid
UNION ALL
SELECT 'namesake', 'type', t.typname::pg_catalog.text, n.nspname::pg_catalog.text, 'true'
 FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n
 ON n.oid OPERATOR(pg_catalog.=) t.typnamespace
 WHERE t.typname OPERATOR(pg_catalog.=) ANY ({_texts(TYPES)}) AND {_MADE.format("t")}
 AND {_ELSEWHERE} AND pg_catalog.pg_type_is_visible(t.oid)"""


def decide_sql(kind: str, name: str, types: Sequence[int]) -> str:
    """The schemas of the namesakes that a call of `name` with arguments of `types` may mean.

    kind: "function" (aggregates too), "operator", or "extreme" for min and max where a namesake
    that has declared itself the first or last of its type's own order does no harm (citext's);
    name: one of those above.
    """
    given = "ARRAY[" + ", ".join(map(str, types)) + "]::pg_catalog.oid[]"
    becomes = _BECOMES.format(source=f"({given})[i]", target="declared")
    if kind == "operator":
        left = "0::pg_catalog.oid" if len(types) == 1 else str(types[0]) + "::pg_catalog.oid"
        own = (f"o.oprleft OPERATOR(pg_catalog.=) {left} AND o.oprright OPERATOR(pg_catalog.=)"
               f" {types[-1]}::pg_catalog.oid")
        sides = ([("o.oprleft", 1), ("o.oprright", 2)] if len(types) == 2 else [("o.oprright", 1)])
        fits = " AND ".join(_BECOMES.format(source=f"({given})[{i}]", target=side)
                            for side, i in sides)
        missing = "IS" if len(types) == 1 else "IS NOT"
        fits += f" AND (o.oprleft OPERATOR(pg_catalog.=) 0::pg_catalog.oid) {missing} TRUE"
        return (f"SELECT DISTINCT n.nspname::pg_catalog.text AS schema"
                " FROM pg_catalog.pg_operator AS o JOIN pg_catalog.pg_namespace AS n"
                " ON n.oid OPERATOR(pg_catalog.=) o.oprnamespace"
                f" WHERE o.oprname OPERATOR(pg_catalog.=) '{name}' AND {_ELSEWHERE}"
                f" AND pg_catalog.pg_operator_is_visible(o.oid) AND {fits} AND NOT EXISTS ("
                " SELECT FROM pg_catalog.pg_operator AS o WHERE"
                " o.oprnamespace OPERATOR(pg_catalog.=) 11::pg_catalog.oid AND"
                f" o.oprname OPERATOR(pg_catalog.=) '{name}' AND {own}"
                " AND pg_catalog.pg_operator_is_visible(o.oid))")
    n, sorts = len(types), ""
    if kind == "extreme":       # CREATE AGGREGATE (SORTOP = <); PostgreSQL's planner trusts it, too
        sorts = (" AND NOT EXISTS (SELECT FROM pg_catalog.pg_aggregate AS g JOIN pg_catalog.pg_amop"
                 " AS m ON m.amopopr OPERATOR(pg_catalog.=) g.aggsortop AND m.amopmethod"
                 " OPERATOR(pg_catalog.=) 403::pg_catalog.oid AND m.amopstrategy"
                 f" OPERATOR(pg_catalog.=) {1 if name == 'min' else 5}::pg_catalog.int2"
                 " WHERE g.aggfnoid::pg_catalog.oid OPERATOR(pg_catalog.=) p.oid AND p.proargtypes"
                 f" OPERATOR(pg_catalog.=) '{' '.join(map(str, types))}'::pg_catalog.oidvector)")
    return (
        "SELECT DISTINCT n.nspname::pg_catalog.text AS schema FROM pg_catalog.pg_proc AS p"
        " JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace"
        f" WHERE p.proname OPERATOR(pg_catalog.=) '{name}' AND {_ELSEWHERE} AND {_CANDIDATE}"
        " AND (p.provariadic OPERATOR(pg_catalog.<>) 0::pg_catalog.oid OR ("
        f"{n} OPERATOR(pg_catalog.<=) p.pronargs AND {n} OPERATOR(pg_catalog.>=)"
        " (p.pronargs OPERATOR(pg_catalog.-) p.pronargdefaults) AND NOT EXISTS ("
        "SELECT FROM pg_catalog.unnest(p.proargtypes) WITH ORDINALITY AS d (declared, i)"
        f" WHERE i OPERATOR(pg_catalog.<=) {n} AND NOT {becomes})))"
        # PostgreSQL's own of just these types goes first, unless arguments are spread or left out.
        " AND NOT (p.provariadic OPERATOR(pg_catalog.=) 0::pg_catalog.oid"
        f" AND p.pronargs OPERATOR(pg_catalog.=) {n} AND EXISTS ("
        "SELECT FROM pg_catalog.pg_proc AS q WHERE"
        " q.pronamespace OPERATOR(pg_catalog.=) 11::pg_catalog.oid"
        f" AND q.proname OPERATOR(pg_catalog.=) '{name}'"
        " AND pg_catalog.pg_function_is_visible(q.oid)"
        f" AND q.proargtypes OPERATOR(pg_catalog.=) '{' '.join(map(str, types))}'"
        "::pg_catalog.oidvector))" + sorts)
