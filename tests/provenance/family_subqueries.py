"""Families of random queries: subqueries, predictions, and families inside each other."""

from __future__ import annotations

from provenance_family_parts import (
    EXPECTED,
    IF_KNOWN,
    NAMES,
    ROW,
    TEXTS,
    Parts,
    Query,
    family,
)

# --- subqueries -----------------------------------------------------------------------------------

def counted(p: Parts, condition: str, outer: str = "", exact: bool = True) -> Query:
    """How many rows of t meet a condition with a subquery; rows or groups of them, too."""
    table = p.pick("t", "t", "p", "solo")
    where = p.where(condition, outer)
    kind = p.rng.randrange(3)
    if kind == 0:
        return Query(f"SELECT count(*) AS n, sum(l.v) AS s FROM {table} AS l {where}",
                     {"n": EXPECTED, "s": EXPECTED} if exact else {})
    if kind == 1:
        return Query(f"SELECT l.id, l.c FROM {table} AS l {where}", {ROW: ""} if exact else {})
    return Query(f"SELECT l.g, count(*) AS n FROM {table} AS l {where} GROUP BY l.g",
                 {"n": EXPECTED} if exact else {})


def inner_u(p: Parts, columns: str, condition: str) -> str:
    """A subquery over u or p, correlated or not."""
    correlated = p.pick("k.g = l.g", "k.id <> l.id", "k.c = l.c AND k.g = l.g", "")
    return (f"(SELECT {columns} FROM {p.pick('u', 'u', 'p', 'vw')} AS k"
            f" {p.where(condition, correlated)})")


@family("subqueries: EXISTS")
def _(p: Parts) -> Query:
    return counted(p, f"EXISTS {inner_u(p, '1', p.on_m('k'))}", p.maybe(p.on_n("l"), 0.4))


@family("subqueries: NOT EXISTS")
def _(p: Parts) -> Query:
    return counted(p, f"NOT EXISTS {inner_u(p, '*', p.on_m('k'))}", p.maybe(p.on_n("l"), 0.4))


@family("subqueries: EXISTS, predictions on both sides")
def _(p: Parts) -> Query:
    return counted(p, f"{p.maybe('NOT ')}EXISTS {inner_u(p, 'k.id', p.both('l', 'k'))}")


@family("subqueries: EXISTS beside the same model")
def _(p: Parts) -> Query:
    return counted(p, f"{p.maybe('NOT ')}EXISTS {inner_u(p, '1', p.on_m('k'))}", p.on_m("l"),
                   exact=False)


@family("subqueries: EXISTS in OR and in the select list")
def _(p: Parts) -> Query:
    exists = f"EXISTS {inner_u(p, '1', p.on_m('k'))}"
    return p.pick(counted(p, f"({exists} OR {p.plain('l')})"),
                  counted(p, f"({exists} OR {p.on_n('l')})"),
                  Query(f"SELECT l.id, {exists} AS shown FROM t AS l", {"shown": TEXTS}),
                  Query(f"SELECT count(*) FILTER (WHERE {exists}) AS n FROM t AS l",
                        {"n": EXPECTED}))


@family("subqueries: IN")
def _(p: Parts) -> Query:
    return p.pick(
        counted(p, f"l.c IN {inner_u(p, p.m('k'), p.plain('k'))}"),
        counted(p, f"l.g IN {inner_u(p, 'k.g', p.on_m('k'))}", p.maybe(p.on_n("l"), 0.4)),
        counted(p, f"{p.m('l')} IN {inner_u(p, 'k.c', p.plain('k'))}"),
        counted(p, f"{p.m('l')} IN {inner_u(p, p.m('k'), p.plain('k'))}", exact=False),
        counted(p, f"(l.g, {p.m('l')}) IN (SELECT k.g, k.c FROM u AS k)"))


@family("subqueries: NOT IN")
def _(p: Parts) -> Query:
    return p.pick(
        counted(p, f"l.c NOT IN {inner_u(p, p.m('k'), p.plain('k'))}"),
        counted(p, f"l.g NOT IN {inner_u(p, 'k.g', p.on_m('k'))}"),
        counted(p, f"NOT (l.g IN {inner_u(p, 'k.g', p.on_m('k'))})"),
        counted(p, f"{p.m('l')} NOT IN {inner_u(p, 'k.c', p.plain('k'))}"),
        counted(p, f"{p.m('l')} NOT IN {inner_u(p, 'k.c', 'k.c IS NOT NULL')}"),
        counted(p, f"{p.m('l')} NOT IN {inner_u(p, p.m('k'), p.plain('k'))}", exact=False))


@family("subqueries: ANY and ALL")
def _(p: Parts) -> Query:
    return p.pick(
        counted(p, f"l.c = ANY {inner_u(p, p.m('k'), p.plain('k'))}"),
        counted(p, f"l.c <> ALL {inner_u(p, p.m('k'), p.plain('k'))}"),
        counted(p, f"{p.m('l')} < ALL {inner_u(p, 'k.c', p.plain('k'))}"),
        counted(p, f"l.g > ANY {inner_u(p, p.n('k') + '::int', p.plain('k'))}"),
        counted(p, f"l.v >= ALL {inner_u(p, 'k.v', p.on_m('k'))}"),
        counted(p, f"{p.n('l')}::int <= SOME {inner_u(p, 'k.g', p.on_m('k'))}"),
        counted(p, f"{p.m('l')} <> ALL {inner_u(p, p.m('k'), p.plain('k'))}", exact=False))


@family("subqueries: scalar")
def _(p: Parts) -> Query:
    total = p.pick("count(*)", "sum(k.v)", "count(k.v)", f"count(*) FILTER (WHERE {p.on_m('k')})")
    subquery = inner_u(p, total, p.on_m("k") if "FILTER" not in total else p.plain("k"))
    return p.pick(
        Query(f"SELECT l.id, {subquery} AS n FROM t AS l", {"n": EXPECTED}),
        Query(f"SELECT l.g, count(*) AS s, (SELECT count(*) FROM u AS k WHERE {p.on_m('k')}) AS n"
              f" FROM t AS l WHERE {p.on_n('l')} GROUP BY l.g", {"n": IF_KNOWN, "s": EXPECTED}),
        Query(f"SELECT sum({subquery}) AS n FROM t AS l", {"n": EXPECTED}),
        Query(f"SELECT (SELECT count(*) FROM t AS k WHERE {p.on_m('k')}) AS n, (SELECT count(*)"
              f" FROM u AS k WHERE {p.on_m('k')}) AS s", {"n": EXPECTED, "s": EXPECTED}))


@family("subqueries: scalar, one row")
def _(p: Parts) -> Query:
    label = f"(SELECT {p.m('k')} FROM u AS k WHERE k.id = l.id)"
    return p.pick(Query(f"SELECT l.id, {label} AS shown FROM t AS l", {"shown": TEXTS}),
                  counted(p, f"{label} {p.pick('=', '<>')} l.c"),
                  counted(p, f"{label} = {p.m('l')}"),
                  counted(p, f"{label} IS {p.maybe('NOT ')}NULL"))


@family("subqueries: scalar in a comparison")
def _(p: Parts) -> Query:
    count = f"(SELECT count(*) FROM u AS k WHERE k.g = l.g AND {p.on_m('k')})"
    return p.pick(
        counted(p, f"{count} {p.pick('>', '=', '<=')} {p.pick(0, 1, 2)}",
                p.maybe(p.on_n("l"), 0.3)),
        counted(p, f"l.g < {count}"),
        counted(p, f"l.v >= (SELECT max(k.v) FROM u AS k WHERE {p.on_m('k')})", exact=False),
        counted(p, f"l.v > (SELECT avg(k.v) FROM u AS k WHERE {p.on_m('k')})", exact=False),
        counted(p, f"coalesce((SELECT sum(k.g) FROM u AS k WHERE {p.on_m('k')}), 0) >= l.g",
                exact=False))


@family("subqueries: ARRAY without a model call")
def _(p: Parts) -> Query:
    return counted(p, f"{p.m('l')} = ANY (ARRAY(SELECT k.c FROM u AS k WHERE k.g = l.g))")


@family("subqueries: ARRAY compared")
def _(p: Parts) -> Query:
    return p.pick(
        counted(p, f"l.c = ANY (ARRAY{inner_u(p, p.m('k'), p.plain('k'))})"),
        counted(p, f"l.g = ANY (ARRAY{inner_u(p, 'k.g', p.on_m('k'))})"),
        counted(p, f"l.c <> ALL (ARRAY{inner_u(p, p.m('k'), p.plain('k'))})"))


@family("subqueries: ARRAY shown")
def _(p: Parts) -> Query:
    condition = p.maybe(" AND " + p.on_m("k"))
    return Query(f"SELECT l.id, ARRAY(SELECT {p.pick(p.m('k'), 'k.id')} FROM u AS k WHERE k.g = l.g"
                 f"{condition or ' AND ' + p.on_n('k')} ORDER BY k.id) AS shown FROM solo AS l")


@family("subqueries: nested")
def _(p: Parts) -> Query:
    inner = f"(SELECT e.g FROM vw AS e WHERE {p.on_m('e')} AND e.id <> k.id)"
    return counted(p, f"{p.maybe('NOT ')}EXISTS (SELECT 1 FROM u AS k WHERE k.g = l.g AND k.g"
                      f" {p.pick('IN', 'NOT IN')} {inner}{p.maybe(' AND ' + p.on_n('k'))})",
                   exact=False)


@family("subqueries: CTE")
def _(p: Parts) -> Query:
    how = p.pick("", "MATERIALIZED ", "NOT MATERIALIZED ")
    query = p.shape("q AS l", "l.label")
    return Query(f"WITH q AS {how}(SELECT {NAMES}, {p.m('i')} AS label FROM"
                 f" {p.plain_relation('i')}{p.maybe(' WHERE ' + p.on_m('i'))}) {query.text}",
                 query.exact)


@family("subqueries: CTE used twice")
def _(p: Parts) -> Query:
    how = p.pick("", "MATERIALIZED ", "NOT MATERIALIZED ")
    cte = (f"WITH q (id, g, v, label) AS {how}(SELECT i.id, i.g, i.v, {p.m('i')} FROM"
           f" {p.plain_relation('i')}{p.maybe(' WHERE ' + p.on_m('i'), 0.3)})")
    return p.pick(
        Query(f"{cte} SELECT l.g, count(*) AS n FROM q AS l JOIN q AS r ON l.label = r.label AND"
              f" l.id {p.pick('<', '<>', '<=')} r.id GROUP BY l.g", {"n": EXPECTED}),
        Query(f"{cte} SELECT q.g, count(*) * 1.0 / (SELECT count(*) FROM q WHERE label IS NOT NULL)"
              " AS share FROM q WHERE label = 'a' GROUP BY q.g"),
        Query(f"{cte} SELECT 'all' AS part, count(*) AS n FROM q UNION ALL SELECT 'a', count(*)"
              " FROM q WHERE label = 'a'", {"n": EXPECTED}))


@family("subqueries: CTE over a CTE")
def _(p: Parts) -> Query:
    return Query(f"WITH a AS (SELECT i.id, i.g, i.v, {p.m('i')} AS label FROM t AS i), b AS (SELECT"
                 f" g, label, count(*) AS n, sum(v) AS s FROM a GROUP BY g, label) SELECT b.g, b.n,"
                 f" b.s FROM b WHERE b.label {p.pick('=', '<>')} 'a'", {"n": EXPECTED})


# --- predictions ----------------------------------------------------------------------------------

@family("predictions: predict_proba in aggregates")
def _(p: Parts) -> Query:
    proba = f"(pgrain.predict_proba('m', l.x))[{p.pick(1, 2, 3)}]"
    where = p.where(p.maybe(p.on_n("l"), 0.4), p.plain("l"))
    return p.pick(
        Query(f"SELECT l.g, sum({proba}) AS n, count({proba}) AS s FROM {p.plain_relation('l')}"
              f" {where} GROUP BY l.g", {"n": EXPECTED, "s": EXPECTED}),
        Query(f"SELECT avg({proba}) AS mean, sum({proba} * l.g) AS n FROM t AS l {where}",
              {"n": EXPECTED}),
        Query(f"SELECT l.g, max({proba}) AS high, min(1 - {proba}) AS low FROM t AS l"
              " GROUP BY l.g"),
        Query(f"SELECT sum({proba}) FILTER (WHERE {p.on_m('l')}) AS n FROM t AS l",
              {"n": EXPECTED}))


@family("predictions: predict_proba in rows")
def _(p: Parts) -> Query:
    return Query(f"SELECT l.id, (pgrain.predict_proba('m', l.x))[1] AS n, {p.m('l')} AS shown FROM"
                 f" {p.plain_relation('l')} {p.where(p.maybe(p.on_m('l')))}")


@family("predictions: predict_proba with a threshold")
def _(p: Parts) -> Query:
    proba = f"(pgrain.predict_proba('m', l.x))[{p.pick(1, 2)}]"
    condition = f"{proba} {p.pick('>', '>=', '<', '<=')} {p.pick(0.2, 0.5, 0.75)}"
    return p.pick(
        Query(f"SELECT l.g, count(*) AS n FROM t AS l WHERE {condition} GROUP BY l.g"),
        Query(f"SELECT count(*) FILTER (WHERE {condition} AND {p.on_n('l')}) AS n FROM t AS l"),
        Query(f"SELECT l.id, l.c FROM {p.plain_relation('l')} WHERE {condition}"),
        Query(f"SELECT sum(CASE WHEN {condition} THEN l.v ELSE 0 END) AS n FROM t AS l"))


@family("predictions: several models")
def _(p: Parts) -> Query:
    condition = p.pick(f"{p.on_m('l')} AND {p.on_n('l')}", f"({p.on_m('l')} OR {p.on_n('l')})",
                       f"length({p.m('l')}) = {p.n('l')}::int",
                       f"({p.on_m('l')}) = ({p.on_n('l')})")
    return p.pick(
        Query(f"SELECT l.g, count(*) AS n FROM {p.plain_relation('l')} WHERE {condition}"
              " GROUP BY l.g", {"n": EXPECTED}),
        Query(f"SELECT {p.m('l')} AS a, {p.n('l')} AS b, count(*) AS n FROM t AS l GROUP BY 1, 2",
              {"n": EXPECTED}),
        Query(f"SELECT count(*) AS n FROM t AS l JOIN u AS r ON l.g = r.g AND {p.m('l')} ="
              f" r.c AND {p.n('r')} = '1'", {"n": EXPECTED}),
        Query(f"SELECT l.id, {p.m('l')} AS shown, {p.n('l')} AS digit FROM t AS l WHERE"
              f" {condition}",
              {ROW: "", "shown": TEXTS}))


@family("predictions: on expressions")
def _(p: Parts) -> Query:
    argument = p.pick("coalesce(l.x, 'f0')", "lower(upper(l.x))", "'f1'", "l.x || ''", "l.y",
                      "CASE WHEN l.g = 1 THEN l.y ELSE l.x END", "replace(l.x, '0', '1')",
                      "'f' || (l.id % 2)", "coalesce(l.y, l.x)",
                      "(SELECT min(k.x) FROM u AS k WHERE k.g = l.g)")
    label = f"pgrain.predict('m', {argument})"
    return p.pick(p.shape("t AS l", label),
                  Query(f"SELECT count(*) AS n FROM t AS l WHERE {label} = {p.m('l')}",
                        {"n": EXPECTED}))


@family("predictions: on whole rows")
def _(p: Parts) -> Query:
    row = p.pick("l", "l", "to_jsonb(l)", "to_jsonb(l.*)")
    relation = p.pick("t AS l", "p AS l", "(SELECT * FROM t WHERE g > 0) AS l")
    label = f"pgrain.predict('r', {row})"
    return p.pick(
        Query(f"SELECT l.g, count(*) AS n FROM {relation} WHERE {label} = 'a' GROUP BY l.g",
              {"n": EXPECTED}),
        Query(f"SELECT {label} AS k, count(*) AS n FROM {relation} GROUP BY 1", {"n": EXPECTED}),
        Query(f"SELECT count(*) AS n FROM {relation} WHERE {label} = {p.m('l')}",
              {"n": EXPECTED}))


@family("predictions: numeric labels")
def _(p: Parts) -> Query:
    digit = f"{p.n('l')}::{p.pick('int', 'numeric', 'float8')}"
    return p.pick(
        Query(f"SELECT l.g, avg({digit}) AS n, sum({digit}) AS s FROM {p.plain_relation('l')}"
              " GROUP BY l.g", {"n": IF_KNOWN, "s": EXPECTED}),
        Query(f"SELECT sum({digit} * l.v) AS n FROM t AS l WHERE {p.on_m('l')}", {"n": EXPECTED}),
        Query(f"SELECT l.id, {digit} AS n FROM t AS l WHERE {digit} > {p.pick('l.g', '0')}",
              {ROW: ""}),
        Query(f"SELECT avg(abs({digit} - l.g)) AS n FROM t AS l", {"n": IF_KNOWN}))


# --- one inside the other -------------------------------------------------------------------------

def source(p: Parts, depth: int) -> str:
    """A SELECT with the columns id, g, c, v, label, of families inside each other."""
    if depth == 0:
        return p.pick(
            f"SELECT i.id, i.g, i.c, i.v, {p.m('i')} AS label FROM {p.plain_relation('i')}"
            f" {p.where(p.maybe(p.on_m('i'), 0.3))}",
            f"SELECT id, g, c, v, label FROM {p.pick('vm', 'vmw', 'vu')}",
            f"SELECT i.id, i.g, i.c, i.v, {p.m('i')} AS label FROM ve AS i",
            f"SELECT i.id, i.g, i.c, i.v, i.c AS label FROM t AS i WHERE {p.on_n('i')}")
    inner = source(p, depth - 1)
    other = source(p, 0)
    return p.pick(
        f"SELECT q.* FROM ({inner}) AS q WHERE {p.maybe('NOT ')}EXISTS (SELECT 1 FROM u AS k WHERE"
        f" k.g = q.g AND {p.on_n('k')})",
        f"SELECT q.* FROM ({inner}) AS q WHERE q.g {p.pick('IN', 'NOT IN')} (SELECT e.g FROM"
        f" ({other}) AS e WHERE e.label = 'a')",
        f"({inner}) UNION ALL ({other})",
        f"({inner}) UNION ({other})",
        f"SELECT DISTINCT q.id, q.g, q.c, q.v, q.label FROM ({inner}) AS q WHERE q.label <> 'b'",
        f"SELECT q.id, q.g, e.c, q.v, q.label FROM ({inner}) AS q JOIN t AS e ON e.id = q.id AND"
        f" e.c = q.label",
        f"SELECT q.id, q.g, q.c, q.v, coalesce(e.label, q.c) AS label FROM t AS q LEFT JOIN"
        f" ({inner}) AS e ON e.id = q.id AND e.label = 'a'",
        f"WITH w AS ({inner}) SELECT w.* FROM w WHERE w.label IN (SELECT e.label FROM w AS e WHERE"
        " e.g = 1)")


@family("inside each other: rows")
def _(p: Parts) -> Query:
    return Query(f"SELECT q.id, q.label FROM ({source(p, p.pick(1, 2))}) AS q WHERE"
                 f" {p.on_label('q.label', 'q')}")


@family("inside each other: groups")
def _(p: Parts) -> Query:
    return Query(f"SELECT q.g, count(*) AS n, sum(q.v) AS s, count(*) FILTER (WHERE q.label = 'a')"
                 f" AS part FROM ({source(p, p.pick(1, 1, 2))}) AS q GROUP BY q.g"
                 f"{p.maybe(' HAVING count(*) > 1')} ORDER BY 1")


@family("inside each other: one number")
def _(p: Parts) -> Query:
    return Query(f"SELECT {p.pick('count(*)', 'sum(v)', 'max(v)', 'count(DISTINCT label)')} AS n"
                 f" FROM ({source(p, p.pick(1, 2))}) AS q {p.where(p.on_label('q.label', 'q'))}")


@family("inside each other: EXISTS inside a view under HAVING")
def _(p: Parts) -> Query:
    return Query(f"SELECT l.g, count(*) AS n FROM ve AS l WHERE {p.pick(p.on_n('l'), p.on_m('l'))}"
                 f" GROUP BY l.g HAVING count(*) > {p.pick(0, 1)} OR l.g IN (SELECT r.g FROM vg"
                 " AS r WHERE r.n > 1)")
