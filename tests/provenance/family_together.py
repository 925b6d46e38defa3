"""Families of random queries: several numbers of one group together, and numbers as values."""

from __future__ import annotations

from provenance_family_parts import EXPECTED, ROW, TEXTS, Parts, Query, family


def _two(p: Parts) -> str:
    """A condition on several numbers of a group, or on arithmetic that is no sum."""
    m, n = p.on_m("l"), p.on_n("l")
    a, b = f"count(*) FILTER (WHERE {m})", f"count(*) FILTER (WHERE {n})"
    s = f"sum(l.v) FILTER (WHERE {n})"
    return p.pick(
        f"{a} > 1 AND {s} > 2", f"{a} > 0 OR sum(l.w) FILTER (WHERE {m}) < 0", f"{a} = {b} + 1",
        f"min(l.v) FILTER (WHERE {m}) < 1 AND max(l.v) FILTER (WHERE {m}) > 1",
        f"bool_or({m}) AND NOT bool_and({m})", f"count(DISTINCT {p.m('l')}) = 2",
        f"max(l.v) FILTER (WHERE {m}) > 2 * min(l.v) FILTER (WHERE {m})",
        f"max(l.id) FILTER (WHERE {m}) > max(l.id) FILTER (WHERE {n})",
        f"max(l.id) FILTER (WHERE {m}) - min(l.id) FILTER (WHERE {n}) >= 1",
        f"avg(l.v) FILTER (WHERE {m}) >= avg(l.v)", f"avg(l.w) FILTER (WHERE {m}) < avg(l.v)",
        f"abs({a} - {b}) >= 1", f"greatest({a}, {b}, 1) > 1", f"{a} % 2 = 0",
        f"coalesce(avg(l.v) FILTER (WHERE {m}), 2) > 1.5", f"{a} * {b} = 2",
        f"sum(l.v) FILTER (WHERE {m}) > sum(l.v) FILTER (WHERE {n})",
        f"max(l.v) FILTER (WHERE {m}) * {a} > 2", f"round(avg(l.v) FILTER (WHERE {m})) = 1",
        f"count(DISTINCT l.c) FILTER (WHERE {m}) > {b}",
        f"CASE WHEN {a} > 1 THEN {b} ELSE 2 END >= 2", f"sqrt({a}) + {b} > 1.5")


@family("over aggregates: several numbers of one group compared")
def _(p: Parts) -> Query:
    relation = p.pick("t", "solo", "u", "p", "t AS l JOIN u AS r USING (g)")
    relation = relation if " AS l" in relation else f"{relation} AS l"
    by = "g" if "USING" in relation else "l.g"
    where = p.maybe(f"WHERE {p.on_m('l')}", 0.4)
    return p.pick(
        Query(f"SELECT {by} FROM {relation} {where} GROUP BY {by} HAVING {_two(p)}", {ROW: ""}),
        Query(f"SELECT {by}, CASE WHEN {_two(p)} THEN 'x' WHEN {_two(p)} THEN 'y' END AS shown"
              f" FROM {relation} GROUP BY {by}", {"shown": TEXTS}),
        Query(f"SELECT {by}, {_two(p)} AS shown FROM {relation} {where} GROUP BY {by}"),
        Query(f"SELECT q.k, count(*) AS n FROM (SELECT {by} AS g, CASE WHEN {_two(p)} THEN 'x' ELSE"
              f" 'y' END AS k FROM {relation} {where} GROUP BY {by}) AS q GROUP BY q.k",
              {"n": EXPECTED}))


@family("over aggregates: numbers of two groupings in one comparison")
def _(p: Parts) -> Query:
    def k(a: str, on: str) -> str:
        return (f"(SELECT {a}.g, max({a}.v) AS top, min({a}.v) AS least, avg({a}.v) AS mean,"
                f" count(*) AS n FROM solo AS {a} WHERE {on} GROUP BY {a}.g)")

    test = p.pick("q.top > r.top", "q.top <= r.least", "q.mean > r.mean", "q.top > r.mean",
                  "q.n * r.n > 1", "q.top = r.top", "q.n > r.n AND q.top > r.top",
                  "q.top - r.least > q.n")
    return p.pick(
        Query(f"SELECT q.g, r.g AS h FROM {k('l', p.on_m('l'))} AS q JOIN {k('k', p.on_n('k'))} AS"
              f" r ON r.g = q.g WHERE {test}", {ROW: ""}),
        Query(f"WITH q AS (SELECT max(l.v) AS m FROM t AS l WHERE {p.on_m('l')}), r AS (SELECT"
              f" max(l.v) AS m FROM u AS l WHERE {p.on_n('l')}) SELECT q.m > r.m AS shown FROM q,"
              " r"),
        Query(f"SELECT l.g FROM solo AS l WHERE {p.on_m('l')} GROUP BY l.g HAVING avg(l.v)"
              f" {p.pick('>', '<=')} (SELECT avg(k.v) FROM solo AS k WHERE {p.on_n('k')})",
              {ROW: ""}))


@family("over aggregates: truths of comparisons")
def _(p: Parts) -> Query:
    filter_, n = f"FILTER (WHERE {p.on_n('l')})", "count(l.v)"
    s = f"sum(l.v) {p.maybe(filter_)}"
    truth = p.pick(f"({s} > 1) IS NULL", f"({s} > 1) IS NOT NULL",
                   f"({s} > 1) IS DISTINCT FROM true", f"({n} > 1) = ({s} > 1)",
                   f"({s} > 1) IS NOT DISTINCT FROM ({n} > 0)", f"({s} <= 2) IS NOT TRUE",
                   f"({n} > 1) <> ({s} > 1)")
    group = f"FROM {p.pick('t', 'solo', 'u')} AS l WHERE {p.on_m('l')} GROUP BY l.g"
    return p.pick(Query(f"SELECT l.g, {truth} AS shown {group}", {"shown": TEXTS}),
                  Query(f"SELECT l.g {group} HAVING {truth}", {ROW: ""}),
                  Query("SELECT q.g, (q.s > 1) IS NULL AS shown FROM (SELECT l.g, sum(l.v) AS s"
                        f" {group}) AS q", {"shown": TEXTS}))


@family("over aggregates: two counts as values")
def _(p: Parts) -> Query:
    relation = p.pick("t", "solo", "u")
    where = p.maybe(f"WHERE {p.on_n('l')}")
    inner = (f"(SELECT l.g, count(*) FILTER (WHERE {p.on_m('l')}) AS a, count(l.v) FILTER (WHERE"
             f" {p.pick(p.on_m('l'), p.on_n('l'))}) AS b FROM {relation} AS l"
             f" {where} GROUP BY l.g) AS q")
    disjoint = {ROW: ""} if relation == "solo" and "'n'" not in inner else {}
    return p.pick(
        Query(f"SELECT q.a, q.b, count(*) AS n FROM {inner} GROUP BY q.a, q.b",
              {"n": EXPECTED} | disjoint),
        Query(f"SELECT DISTINCT q.a, q.b FROM {inner}", {ROW: ""}),
        Query(f"SELECT q.a + q.b AS m, count(*) AS n FROM {inner} GROUP BY 1", {"n": EXPECTED}),
        Query(f"SELECT count(*) AS n FROM {inner} WHERE (q.a, q.b) IN (SELECT r.id, r.g FROM u AS"
              " r)"),
        Query(f"SELECT q.a, sum(q.b) AS n FROM {inner} WHERE q.b > 0 GROUP BY q.a"))


@family("over aggregates: numbers of groups that a HAVING has let pass")
def _(p: Parts) -> Query:
    relation, m = p.pick("t", "solo", "u"), p.on_m("l")
    having = p.pick("count(*) > 1", "sum(l.v) > 1", "count(*) < 3 AND sum(l.v) > 1",
                    "max(l.v) > 1", "sum(l.v) IS NOT NULL")
    inner = (f"(SELECT l.g, count(*) AS n, sum(l.v) AS s FROM {relation} AS l WHERE {m} GROUP BY"
             f" l.g HAVING {having})")
    solo = {ROW: ""} if relation == "solo" else {}
    return p.pick(
        Query(f"SELECT sum(q.n) AS n, sum(q.s) AS s, sum(2 * q.n + 1) AS k FROM {inner} AS q",
              {"n": EXPECTED, "s": EXPECTED, "k": EXPECTED}),
        Query(f"SELECT q.n AS m, count(*) AS n FROM {inner} AS q GROUP BY q.n",
              {"n": EXPECTED} | solo),
        Query(f"SELECT q.g FROM {inner} AS q WHERE {p.pick('q.n > 1', 'q.s > 2', 'q.s > q.n')}",
              {ROW: ""}),
        Query(f"SELECT count(*) AS n FROM {inner} AS q JOIN u AS r ON r.g = q.g AND q.n > r.id",
              {"n": EXPECTED}),
        Query(f"SELECT DISTINCT q.n FROM {inner} AS q", solo))


@family("over aggregates: counts of outer joins and of correlated subqueries as values")
def _(p: Parts) -> Query:
    of = f"FROM {p.pick('t', 'solo')} AS l WHERE {p.on_m('l')} AND l.g = r.g"
    some = f"(SELECT count(*) {of})"
    joined = (f"u AS r LEFT JOIN (SELECT l.g, count(*) AS n FROM {p.pick('t', 'solo')} AS l WHERE"
              f" {p.on_m('l')} GROUP BY l.g) AS q {p.pick('USING (g)', 'ON q.g = r.g')}")
    by = p.pick("q.n", "coalesce(q.n, 0)")
    flat = (f"(SELECT r.id, count(l.id) AS n FROM u AS r LEFT JOIN {p.pick('t', 'solo')} AS l ON"
            f" l.g = r.g AND {p.on_m('l')} GROUP BY r.id) AS q")
    return p.pick(
        Query(f"SELECT {some} AS m, count(*) AS n FROM u AS r GROUP BY 1", {"n": EXPECTED}),
        Query(f"SELECT q.m, count(*) AS n FROM (SELECT r.id, {some} AS m FROM u AS r) AS q GROUP BY"
              " q.m", {"n": EXPECTED}),
        Query(f"SELECT x.n AS m, count(*) AS n FROM u AS r CROSS JOIN LATERAL {some} AS x (n) GROUP"
              " BY x.n", {"n": EXPECTED}),
        Query(f"SELECT {by} AS m, count(*) AS n FROM {joined} GROUP BY 1", {"n": EXPECTED}),
        Query(f"SELECT q.n AS m, count(*) AS n FROM {flat} GROUP BY q.n", {"n": EXPECTED}),
        Query(f"SELECT r.id FROM u AS r WHERE {some} {p.pick('IN', 'NOT IN', '> ALL')} (SELECT z.id"
              f" FROM t AS z{p.maybe(' WHERE z.g = r.g')})", {ROW: ""}),
        Query(f"SELECT DISTINCT {some} AS m FROM u AS r"))


@family("joins: groups over an outer join on predictions")
def _(p: Parts) -> Query:
    on = p.pick(p.on_m("r"), f"{p.on_m('r')} AND l.id <> r.id", p.on_n("r"))
    left = f"{p.pick('t', 'solo', 'u')} AS l LEFT JOIN {p.pick('u', 'solo')} AS r ON l.g = r.g AND"
    by = p.pick("l.g", "l.id", "l.c")
    return p.pick(
        Query(f"SELECT {by}, count(r.id) AS n, sum(r.v) AS s FROM {left} {on} GROUP BY {by}",
              {"n": EXPECTED, "s": EXPECTED, ROW: ""}),
        Query(f"SELECT {by}, count(r.id) AS n FROM {left} {on} WHERE {p.on_n('l')} GROUP BY {by}",
              {"n": EXPECTED} | ({} if "'n'" in on else {ROW: ""})),
        Query(f"SELECT {by} FROM {left} {on} GROUP BY {by} HAVING count(r.id)"
              f" {p.pick('>', '=', '<')} 1", {ROW: ""}),
        Query(f"SELECT DISTINCT {by} FROM {left} {on}", {ROW: ""}))


@family("subqueries: a sum, average or extreme before IN, ANY or ALL")
def _(p: Parts) -> Query:
    r = p.pick("SELECT r.v FROM u AS r", "SELECT r.w FROM u AS r WHERE r.g = l.g",
               "SELECT r.id FROM u AS r", "SELECT r.v * 2 FROM u AS r WHERE r.id <> l.g",
               "VALUES (1.0), (2), (NULL)", "SELECT r.v FROM u AS r WHERE r.v > 100")
    test = p.pick(f"IN ({r})", f"NOT IN ({r})", f"= ANY ({r})", f"<> ALL ({r})", f"> ALL ({r})",
                  f"<= ANY ({r})", f"< ALL ({r})", f">= ANY ({r})", f"<> ANY ({r})")
    total = p.pick("sum(l.v)", "sum(l.g)", "avg(l.v)", "max(l.v)", "min(l.id)")
    group = f"FROM {p.pick('t', 'solo', 'u')} AS l WHERE {p.on_m('l')} GROUP BY l.g"
    plain = "l.g" not in r
    return p.pick(
        Query(f"SELECT l.g {group} HAVING {total} {test}", {ROW: ""}),
        Query(f"SELECT l.g, {total} {test} AS shown {group}"),
        Query(f"SELECT count(*) AS n FROM (SELECT l.g, {total} AS s {group}) AS l WHERE l.s {test}",
              {"n": EXPECTED}) if plain or p.chance(0.5) else
        Query(f"SELECT l.g {group} HAVING {total} {test} OR count(*) > 1"))
