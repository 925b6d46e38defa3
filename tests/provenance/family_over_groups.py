"""Families of random queries: orders and numbers over groups that hang on predictions in part."""

from __future__ import annotations

from provenance_family_parts import EXPECTED, ROW, Parts, Query, family


def _exact(p: Parts, a: str) -> str:
    """An aggregate that no prediction moves."""
    return p.pick("count(*)", f"sum({a}.v)", f"max({a}.d)", f"count(DISTINCT {a}.c)", f"avg({a}.g)",
                  f"sum({a}.id) FILTER (WHERE {a}.c = 'a')", f"min({a}.c)", f"count({a}.v) * 2 - 1",
                  f"sum({a}.v) / count(*)", f"stddev({a}.id)")


@family("over aggregates: LIMIT by an order that no prediction moves")
def _(p: Parts) -> Query:
    a = p.pick("l", "r")
    relation = f"{p.plain_relation('l')} {p.pick('', 'LEFT ')}JOIN u AS r ON {p.meets()}" \
        if p.chance(0.3) else p.plain_relation(a := "l")
    by = p.pick("l.g", "l.c", "l.g, l.c")
    total = _exact(p, a)
    order = p.pick(total, f"{total} DESC", "2", "k DESC NULLS LAST", "3 NULLS FIRST",
                   f"sum({a}.w) NULLS FIRST")
    limit = p.pick("LIMIT 2", "LIMIT 1 OFFSET 1", "OFFSET 1", "FETCH FIRST 1 ROW ONLY")
    having = p.maybe(f" HAVING {p.pick('count(*) > 1', 'max(l.id) > 1')}", 0.3)
    # Groups and their order are certain, so it is which of them LIMIT keeps.
    kept = (f"SELECT {by.split(', ')[0]} AS g, {total} AS k, count(*) AS every, {p.total(a)} FILTER"
            f" (WHERE {p.on_m(a)}) AS n FROM {relation} GROUP BY {by}{having}"
            f" ORDER BY {order}, {by} {limit}")
    if p.chance(0.5):
        return Query(kept, {ROW: ""})
    cells = p.pick("sum(q.n) AS n, count(*) AS s", "sum(q.n) AS n, sum(q.every) AS s")
    whole = p.pick(f"SELECT {cells} FROM ({kept}) q", f"WITH q AS ({kept}) SELECT {cells} FROM q")
    return Query(whole, {"n": EXPECTED, "s": EXPECTED})


@family("over aggregates: columns of a grouped subquery that no prediction moves")
def _(p: Parts) -> Query:
    inner = (f"(SELECT l.g, l.c, {_exact(p, 'l')} AS k, count(*) AS every, count(*) FILTER (WHERE"
             f" {p.on_m('l')}) AS n FROM {p.plain_relation('l')} GROUP BY l.g, l.c) AS q")
    return p.pick(
        Query(f"SELECT q.g, q.c, q.k, q.n FROM {inner} ORDER BY q.every, q.g, q.c LIMIT 3",
              {ROW: ""}),
        Query(f"SELECT q.every, sum(q.n) AS n, count(*) AS s FROM {inner} GROUP BY q.every"
              f" ORDER BY {p.pick('s DESC', '1', 'max(q.g)')}, 1 LIMIT 2", {ROW: ""}),
        Query(f"SELECT DISTINCT q.k FROM {inner}", {ROW: ""}),
        Query(f"SELECT sum(q.n) AS n, max(q.every) AS s FROM {inner} WHERE q.every >"
              f" {p.pick('1', '(SELECT avg(r.id) FROM u AS r)')}", {"n": EXPECTED}),
        Query(f"SELECT q.g, q.n FROM {inner} WHERE 2 * q.n > q.every", {ROW: ""}),
        Query(f"SELECT r.id, q.n FROM u AS r JOIN {inner} ON q.g = r.g AND q.every > r.id",
              {"n": EXPECTED, ROW: ""}))
