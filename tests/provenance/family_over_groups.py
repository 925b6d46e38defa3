"""Families of random queries: orders and numbers over groups that hang on predictions in part."""

from __future__ import annotations

from provenance_family_parts import EXPECTED, ROW, TEXTS, Parts, Query, family


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


@family("over aggregates: share of a total that is joined")
def _(p: Parts) -> Query:
    total = (f"(SELECT count(*) AS total, sum(k.g) AS s FROM {p.pick('t', 'u')} AS k WHERE"
             f" {p.on_m('k')})")
    with_, q = p.pick(
        ("", f"{total} AS q"), (f"WITH q AS {total} ", "q"),
        (f"WITH z AS {total}, q AS (SELECT s, total, total + 1 AS more FROM z) ", "q"))
    some = f"count(*) FILTER (WHERE {p.on_m('l')})"
    share = p.pick(f"100.0 * {some} / nullif(q.total, 0)", f"{some} - q.total", f"{some} * q.s",
                   f"CASE WHEN q.total > 1 THEN {some} ELSE 0 END", "q.total / 2.0")
    shown = f"SELECT l.g, {share} AS share, q.total AS n FROM {p.plain_relation('l')}"
    by = p.pick("l.g, q.total, q.s", "q.total, q.s, 1", "l.g, 3, q.s")
    having = p.pick("", f"HAVING {some} > 0.3 * q.total", "HAVING q.total > 1")
    return Query(f"{with_}{shown} {p.pick(f'CROSS JOIN {q}', f'JOIN {q} ON true')} GROUP BY {by}"
                 f" {having}", {ROW: ""} if having else {"n": EXPECTED})


@family("over aggregates: GROUP BY a group and its number")
def _(p: Parts) -> Query:
    k = (f"(SELECT g, count(*) AS n, sum(v) AS s FROM {p.pick('t', 'solo')} AS l WHERE"
         f" {p.on_m('l')} GROUP BY g)")
    join, by = p.pick(("JOIN u AS r ON r.g = k.g", "k.g"), ("JOIN u AS r ON r.g = k.g", "r.g"),
                      ("JOIN u AS r USING (g)", "g"), ("CROSS JOIN u AS r", "r.id, k.g"))
    having = p.maybe(" HAVING k.n > 1 OR k.s > 2")
    return Query(f"WITH k AS {k} SELECT {by} AS h, k.n AS m, k.s * 2 AS twice, count(*) AS n,"
                 f" sum(r.id) AS s FROM k {join} GROUP BY {by}, k.n, k.s{having}",
                 {} if having else {"n": EXPECTED, "s": EXPECTED})


@family("over aggregates: sums of arithmetic over counts")
def _(p: Parts) -> Query:
    def inner(a: str) -> str:
        return (f"(SELECT {a}.g, {a}.c, count(*) AS n, sum({a}.v) AS s, max({a}.v) AS top FROM"
                f" {p.pick('solo', 't', 'u', 'p')} AS {a} WHERE {p.on_m(a)} GROUP BY {a}.g, {a}.c)")
    value = p.pick("2 * q.n", "q.n * q.g", "q.n + 1", "-q.n", "q.n::numeric", "q.n / 2.0",
                   "coalesce(q.s, 0)", "q.s * 3", "coalesce(q.s, 1)", "q.n - q.g",
                   "CASE WHEN q.g > 0 THEN q.n ELSE 0 END", "round(q.s, 1)", "q.n")
    of = p.pick(
        f"{inner('l')} AS q", f"{inner('l')} AS q JOIN u AS k ON k.g = q.g",
        f"(SELECT z.g, z.n, z.s FROM {inner('l')} AS z) AS q",
        f"(SELECT z.g, z.n, z.s FROM {inner('l')} AS z UNION ALL SELECT z.g, z.n, z.s FROM"
        f" {inner('r')} AS z) AS q", f"u AS k LEFT JOIN {inner('l')} AS q USING (g)")
    if p.chance(0.3):
        of, value = f"solo AS k JOIN {inner('l')} AS q USING (g, c)", p.pick("q.top", "q.n + k.id")
        of = of.replace("FROM t ", "FROM solo ").replace("FROM u ", "FROM solo ")
    if "LEFT JOIN" in of:
        value = p.pick("coalesce(q.n, 0)", "q.n", "coalesce(q.s, 0)", "coalesce(2 * q.n, 0)")
    return Query(f"SELECT sum({value}) AS n FROM {of}", {"n": EXPECTED})


@family("over aggregates: HAVING an aggregate that is NULL")
def _(p: Parts) -> Query:
    total = p.pick("sum(l.v)", "avg(l.v)", "max(l.v)", "min(l.g)", "sum(l.w)")
    grouped = f"FROM {p.plain_relation('l')} WHERE {p.on_m('l')} GROUP BY l.g"
    null = f"IS {p.maybe('NOT ')}NULL"
    return p.pick(Query(f"SELECT l.g {grouped} HAVING {total} {null}", {ROW: ""}),
                  Query(f"SELECT q.g FROM (SELECT l.g, {total} AS s {grouped}) AS q WHERE q.s"
                        f" {null}", {ROW: ""}))


@family("over aggregates: HAVING sums of what may be NULL")
def _(p: Parts) -> Query:
    sums = p.pick("sum(l.v) > count(*)", "sum(l.v) / count(*) > 1", "sum(l.v) > sum(l.w)",
                  "sum(l.v) + sum(l.w) <= 1", "avg(l.v) > 1.5", "sum(l.v) <> sum(l.g)",
                  "NOT (sum(l.v) > 2 * count(l.w))", "sum(l.g) >= 2 * sum(l.v)")
    grouped = f"FROM solo AS l WHERE {p.on_m('l')} GROUP BY l.g"
    r = f"(SELECT k.g, sum(k.v) AS s FROM solo AS k WHERE {p.on_n('k')} GROUP BY k.g) AS r"
    return p.pick(Query(f"SELECT l.g {grouped} HAVING {sums}", {ROW: ""}),
                  Query(f"SELECT q.g FROM (SELECT l.g, sum(l.v) AS s {grouped}) AS q JOIN {r} USING"
                        f" (g) WHERE q.s {p.pick('>', '<=', '=')} r.s", {ROW: ""}))


@family("over aggregates: simple CASE over counts")
def _(p: Parts) -> Query:
    by_label = (f"(SELECT l.g, {p.m('l')} AS label, count(*) AS n FROM {p.plain_relation('l')}"
                " GROUP BY 1, 2) AS q")
    some = f"count(*) FILTER (WHERE {p.on_m('l')})"
    words = f"CASE {some} WHEN 0 THEN 'none' WHEN 1 THEN 'one' ELSE 'more' END"
    return p.pick(
        Query(f"SELECT q.g, sum(CASE q.label WHEN 'a' THEN q.n WHEN 'b' THEN 0 END) AS n, sum(CASE"
              f" q.label WHEN 'a' THEN 0 ELSE 2 * q.n END) AS s FROM {by_label} GROUP BY q.g",
              {"n": EXPECTED, "s": EXPECTED}),
        Query(f"SELECT l.g, {words} AS shown FROM {p.plain_relation('l')} GROUP BY l.g",
              {"shown": TEXTS}),
        Query(f"SELECT CASE q.n WHEN 0 THEN 'none' WHEN q.g THEN 'g' ELSE 'more' END AS bucket,"
              f" count(*) AS n FROM (SELECT l.g, {some} AS n FROM t AS l GROUP BY l.g) AS q"
              " GROUP BY 1", {"n": EXPECTED}))


@family("over aggregates: counts of two groupings compared")
def _(p: Parts) -> Query:
    q = f"(SELECT l.g, count(*) AS n FROM solo AS l WHERE {p.on_m('l')} GROUP BY l.g) AS q"
    r = f"(SELECT k.g, count(*) AS n FROM solo AS k WHERE {p.on_n('k')} GROUP BY k.g) AS r"
    compared = p.pick("q.n > r.n", "q.n <= r.n", "q.n = r.n", "q.n - r.n >= 0", "r.n <> q.n",
                      "2 * q.n < r.n + 1", "q.n >= r.n AND q.n <> r.n", "q.n < r.n OR r.n < q.n",
                      "CASE WHEN q.n > r.n THEN q.g > 0 WHEN q.n < r.n THEN true END")
    rows = p.pick(
        Query(f"SELECT q.g, r.g AS h FROM {q} {p.pick(f'CROSS JOIN {r}', f'JOIN {r} ON r.g = q.g')}"
              f" WHERE {compared}", {ROW: ""}),
        Query(f"SELECT l.g FROM solo AS l WHERE {p.on_m('l')} GROUP BY l.g HAVING count(*)"
              f" {p.pick('>', '<=', '=')} (SELECT count(*) FROM solo AS k WHERE {p.on_n('k')})",
              {ROW: ""}),
        Query(f"WITH q AS (SELECT l.g, count(*) AS n FROM solo AS l WHERE {p.on_m('l')} GROUP BY"
              f" l.g) SELECT q.g, r.g AS h FROM q, q AS r WHERE {compared} AND q.g <= r.g",
              {ROW: ""}))
    return rows


@family("over aggregates: LIMIT by a certain order beside predictions in FILTER")
def _(p: Parts) -> Query:
    k = f"FROM {p.pick('u', 'solo')} AS k WHERE {p.on_m('k')}"
    condition = p.pick(f"l.id < (SELECT count(*) {k})", f"l.g >= (SELECT min(k.g) {k})",
                       f"l.g IN (SELECT k.g {k})", f"EXISTS (SELECT {k} AND k.g = l.g)",
                       f"l.g <> ALL (SELECT k.g {k} AND k.id <> l.id)")
    condition = p.pick(condition, condition, f"({condition} OR {p.on_n('l')})")
    some = p.pick(f"count(*) FILTER (WHERE {condition})", f"sum(l.v) FILTER (WHERE {condition})",
                  f"sum(CASE WHEN {condition} THEN 1 ELSE 0 END)")
    order = p.pick("count(*)", "every DESC", "max(l.id)", "sum(l.v) NULLS LAST")
    return Query(f"SELECT l.g, count(*) AS every, {some} AS n FROM {p.plain_relation('l')} GROUP BY"
                 f" l.g {p.maybe('HAVING count(*) > 1', 0.3)} ORDER BY {order}, l.g LIMIT 2",
                 {ROW: ""})


@family("over aggregates: a minimum or maximum compared for equality")
def _(p: Parts) -> Query:
    m, f, relation = p.on_m("l"), p.pick("max", "min"), p.pick("t", "u", "solo")
    v, other = p.pick(("l.v", "r.v"), ("l.g", "r.g"), ("l.id", "r.g"))
    extreme = f"(SELECT {f}({v}) FROM {relation} AS l WHERE {m}{p.pick('', ' AND l.g = r.g')})"
    condition = p.pick(f"{other} = {extreme}", f"{other} <> {extreme}",
                       f"{extreme} IN ({other}, 1)", f"{extreme} NOT IN (1, 2)")
    group = f"FROM {relation} AS l WHERE {m} GROUP BY l.g"
    return p.pick(
        Query(f"SELECT r.id FROM u AS r WHERE {condition}", {ROW: ""}),
        Query(f"SELECT count(*) AS n FROM u AS r WHERE {condition}", {"n": EXPECTED}),
        Query(f"SELECT l.g {group} HAVING {f}({v}) = {p.pick('1', '2.5', 'l.g')}", {ROW: ""}),
        Query(f"SELECT l.g, {f}({v}) = 1 AS shown {group}", {ROW: ""}),
        Query(f"SELECT l.g {group} HAVING {f}(l.d) {p.pick('=', '<>')} '2026-02-02'", {ROW: ""}),
        Query(f"SELECT q.m = 1 AS one, count(*) AS n FROM (SELECT {f}({v}) AS m {group}) AS q GROUP"
              " BY 1"))


def _counts(p: Parts, relation: str, a: str = "l") -> str:
    """Groups of g with a count n of predictions; columns alone tell them apart."""
    m = p.on_m(a)
    return p.pick(f"SELECT {a}.g, count(*) AS n FROM {relation} AS {a} WHERE {m} GROUP BY {a}.g",
                  f"SELECT {a}.g, count(*) FILTER (WHERE {m}) AS n FROM {relation} AS {a} GROUP BY"
                  f" {a}.g", f"SELECT {a}.c AS g, count({a}.v) AS n FROM {relation} AS {a} WHERE"
                  f" {m} GROUP BY {a}.c")


@family("over aggregates: GROUP BY a count")
def _(p: Parts) -> Query:
    relation = p.pick("solo", "t", "u")
    inner = f"({_counts(p, relation)}) AS q"
    exact = {"k": EXPECTED} | ({ROW: ""} if relation == "solo" else {})
    by = p.pick("q.n", "q.n", "q.n % 2", "q.n + 1", "q.n > 1, q.n", "q.n % 2 = 0",
                "q.n || ' rows'", "CASE WHEN q.n IN (SELECT r.id FROM u AS r) THEN 'in' END")
    shown = by.rsplit(", ")[-1]
    return p.pick(
        Query(f"SELECT {shown} AS m, count(*) AS k FROM {inner} GROUP BY {by}", exact),
        Query(f"SELECT {shown} AS m, count(*) AS k, min(q.g) FROM {inner} GROUP BY {by} ORDER BY"
              " 1"),
        Query(f"SELECT q.n AS m, sum(q.n) AS k FROM {inner} GROUP BY 1", exact),
        Query(f"SELECT DISTINCT q.n AS m FROM {inner}", {ROW: ""}),
        Query(f"SELECT q.n AS m, count(*) AS k FROM {inner} GROUP BY q.n HAVING count(*) > 1"),
        Query(f"WITH q AS ({_counts(p, relation)}) SELECT r.id, q.n AS m, count(*) AS k FROM u AS r"
              " JOIN q ON q.n > r.id GROUP BY r.id, q.n", {"k": EXPECTED}))


@family("set operations: rows with counts")
def _(p: Parts) -> Query:
    one, other = _counts(p, p.pick("t", "solo")), _counts(p, "u", "r")
    if p.chance(0.3):
        other = p.pick("SELECT r.g, r.id FROM u AS r", "SELECT 1, 2",
                       "VALUES (1, 1), (NULL, 0)")
    operator = p.pick("UNION", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL")
    if "text" in one or ".c AS g" in one or ".c AS g" in other:
        one, other = (f"SELECT q.n FROM ({side}) AS q (g, n)" for side in (one, other))
    both = f"{one} {operator} {other}"
    return p.pick(Query(both), Query(f"SELECT count(*) AS k, max(z.n) FROM ({both}) AS z"
                                     f"{' (n)' if 'AS q (g, n)' in one else ' (g, n)'}"))


def _one_number(p: Parts, a: str, kind: str) -> str:
    """A minimum, maximum, sum or average of few values, of one type."""
    return {"number": p.pick(f"max({a}.v)", f"min({a}.v)", f"sum({a}.v)", f"avg({a}.g)",
                             f"sum({a}.v) FILTER (WHERE {a}.g > 0)", f"round(avg({a}.v), 1)",
                             f"sum(DISTINCT {a}.v)", f"max({a}.v) - min({a}.v)"),
            "whole": p.pick(f"max({a}.g)", f"sum({a}.g)", f"min({a}.id)", f"sum({a}.g) + count(*)",
                            f"sum(CASE WHEN {p.on_m(a)} THEN 1 ELSE {a}.g END)",
                            f"coalesce(sum({a}.g), 0)", f"max({p.n(a)}::int)"),
            "text": p.pick(f"max({a}.c)", f"min({a}.c)", f"max({p.m(a)})", f"min({a}.x)"),
            "date": p.pick(f"max({a}.d)", f"min({a}.d)")}[kind]


_KINDS = ("number", "number", "whole", "whole", "text", "date")


@family("over aggregates: GROUP BY a minimum, maximum, sum or average")
def _(p: Parts) -> Query:
    relation, kind = p.pick("solo", "solo", "t", "u"), p.pick(*_KINDS)
    m, more = _one_number(p, "l", kind), p.maybe(f", {_one_number(p, 'l', 'whole')} AS k", 0.3)
    having = p.maybe(" HAVING count(*) > 1", 0.2)
    q = (f"(SELECT l.g, {m} AS m{more} FROM {relation} AS l WHERE {p.on_m('l')} GROUP BY l.g"
         f"{having}) AS q")
    exact = {"n": EXPECTED} | ({ROW: ""} if relation == "solo" else {})
    by, shown = ("q.m, q.k", "q.k") if more else p.pick(
        ("q.m", "q.m"), ("1", "q.m::text"), ("1", "coalesce(q.m::text, 'none')"),
        ("q.m IS NULL, 1", "q.m"))
    grouped = Query(f"SELECT {shown} AS m, count(*) AS n FROM {q} GROUP BY {by}", exact)
    return p.pick(grouped, grouped,
                  Query(f"SELECT DISTINCT q.m FROM {q}", {ROW: ""} if relation == "solo" else {}),
                  Query(f"SELECT q.g FROM {q} WHERE q.m::text LIKE '%1%'", {ROW: ""}))


@family("set operations: rows with minima, maxima, sums and averages")
def _(p: Parts) -> Query:
    kind = p.pick(*_KINDS)

    def side(relation: str, a: str) -> str:
        by = p.pick(f" GROUP BY {a}.g", f" GROUP BY {a}.c", "")
        return (f"SELECT {_one_number(p, a, kind)} AS m FROM {relation} AS {a} WHERE {p.on_m(a)}"
                f"{by}")
    other = {"number": "SELECT r.v FROM u AS r", "whole": "SELECT r.g FROM u AS r",
             "text": "SELECT r.c FROM u AS r", "date": "SELECT r.d FROM u AS r"}[kind]
    other = p.pick(other, side("u", "r"))
    one = side(p.pick("t", "solo"), "l")
    operator = p.pick("UNION", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL")
    return p.pick(Query(f"{one} {operator} {other}"),
                  Query(f"SELECT z.m, count(*) AS n FROM ({one} UNION ALL {other}) AS z GROUP BY"
                        " z.m"),
                  Query(f"SELECT DISTINCT{one[6:]}"))


@family("subqueries: IN the minimum, maximum, sum or average of rows")
def _(p: Parts) -> Query:
    kind = p.pick(*_KINDS)
    column = {"number": "r.v", "whole": "r.g", "text": "r.c", "date": "r.d"}[kind]
    relation = p.pick("solo", "t")
    inner = (f"SELECT {_one_number(p, 'l', kind)} FROM {relation} AS l WHERE {p.on_m('l')}"
             f"{p.maybe(' AND l.g = r.g', 0.4)}")
    grouped = inner + p.pick("", " GROUP BY l.c")
    test = p.pick(f"{column} IN ({grouped})", f"{column} NOT IN ({grouped})",
                  f"{column} = ANY ({grouped})", f"{column} <> ALL ({grouped})",
                  f"{column} = ({inner})", f"{column} >= ({inner})")
    exact = {ROW: ""} if relation == "solo" and " GROUP BY" not in test else {}
    return p.pick(Query(f"SELECT r.id FROM u AS r WHERE {test}", exact),
                  Query(f"SELECT count(*) AS n FROM u AS r WHERE {test}",
                        {"n": EXPECTED} if exact else {}),
                  Query(f"SELECT DISTINCT ({inner}) AS m FROM u AS r"))


@family("subqueries: a count before IN, ANY or ALL")
def _(p: Parts) -> Query:
    r = p.pick("SELECT r.id FROM u AS r", "SELECT r.g FROM u AS r", "SELECT r.id FROM u AS r WHERE"
               " r.g = l.g", "SELECT r.g FROM u AS r WHERE r.id <> l.g")
    test = p.pick(f"IN ({r})", f"NOT IN ({r})", f"= ANY ({r})", f"<> ALL ({r})", f"> ALL ({r})",
                  f"<= ANY ({r})", f"- 1 IN ({r})")
    m = p.on_m("l")
    group = f"FROM {p.plain_relation('l')} WHERE {m} GROUP BY l.g"
    if p.chance(0.3):
        table = p.pick("t", "solo")
        inner = _counts(p, table, "k")
        some = f"SELECT q.n FROM ({inner}) AS q (g, n){p.pick('', ' WHERE q.n > 0')}"
        operand = p.pick("r.id", "r.g", "r.id % 3")
        return Query(f"SELECT r.id FROM u AS r WHERE {operand} {p.pick('IN', 'NOT IN', '> ALL')}"
                     f" ({some})", {ROW: ""} if table == "solo" else {})
    return p.pick(
        Query(f"SELECT l.g {group} HAVING count(*) {test}", {ROW: ""}),
        Query(f"SELECT l.g, count(*) AS n {group} HAVING count(*) {test} OR l.g = 1"),
        Query(f"SELECT l.g, count(*) {test} AS shown {group}", {ROW: ""}),
        Query(f"SELECT l.g FROM ({_counts(p, 't', 'k')}) AS l (g, n) WHERE l.n "
              f"{test.replace('l.g', '1')}", {ROW: ""}))


BUCKETS = ("CASE WHEN q.n > 1 THEN 'many' ELSE 'few' END", "q.n > 1", "q.n BETWEEN 1 AND 2",
           "CASE WHEN q.n >= 2 THEN 2 WHEN q.n = 1 THEN 1 END",
           "CASE WHEN q.n > 1 AND q.g > 0 THEN 'big' WHEN q.g IS NULL THEN 'none' ELSE 'small' END",
           "coalesce(CASE WHEN q.n > 1 THEN 'many' END, 'few')",
           "(CASE WHEN q.n > 1 THEN 'many' ELSE 'few' END) || '!'")


@family("over aggregates: GROUP BY comparisons of counts")
def _(p: Parts) -> Query:
    relation, m = p.pick("solo", "t", "u", "p"), p.on_m("l")
    inner = p.pick(
        f"SELECT l.g, count(*) AS n FROM {relation} AS l WHERE {m} GROUP BY l.g",
        f"SELECT l.g, count(*) FILTER (WHERE {m}) AS n FROM {relation} AS l GROUP BY l.g")
    bucket = p.pick(*BUCKETS)
    shown = p.pick(
        f"SELECT {bucket} AS bucket, count(*) AS n FROM ({inner}) AS q GROUP BY 1",
        f"WITH q AS ({inner}) SELECT count(*) AS n, {bucket} AS bucket FROM q GROUP BY bucket",
        f"SELECT b AS bucket, count(*) AS n FROM (SELECT q.g, {bucket} AS b FROM ({inner}) AS q)"
        " AS z GROUP BY b")
    return Query(shown, {"n": EXPECTED} | ({ROW: ""} if relation == "solo" else {}))


@family("over aggregates: HAVING several comparisons of one number")
def _(p: Parts) -> Query:
    n = p.pick("count(*)", "sum(l.g)", f"count(*) FILTER (WHERE {p.on_m('l')})")
    condition = p.pick(f"{n} BETWEEN 1 AND 2", f"{n} IN (1, 3)", f"{n} >= 2 OR {n} = 0",
                       f"{n} > 1 AND {n} <> 3 AND {n} < 5", f"{n} NOT BETWEEN 1 AND 2",
                       f"CASE WHEN {n} = 1 THEN l.g > 0 WHEN {n} > 2 THEN true END",
                       f"({n} > 1) = ({n} < 3)", f"{n} > l.g AND {n} < l.g + 3")
    having = f"FROM {p.plain_relation('l')} WHERE {p.on_m('l')} GROUP BY l.g HAVING {condition}"
    return Query(f"SELECT l.g {having}", {ROW: ""} if "sum" not in n else {})


@family("over aggregates: comparisons of counts, shown")
def _(p: Parts) -> Query:
    inner = f"(SELECT l.g, count(*) AS n FROM t AS l WHERE {p.on_m('l')} GROUP BY l.g) AS q"
    bucket = p.pick(*BUCKETS)
    text = BUCKETS[0]
    return Query(p.pick(f"SELECT q.g, {bucket} AS bucket FROM {inner}",
                        f"SELECT DISTINCT {text} AS bucket FROM {inner}",
                        f"SELECT q.g, {text} AS bucket, q.n FROM {inner} ORDER BY bucket",
                        f"SELECT {text} AS b FROM {inner} EXCEPT SELECT 'many'",
                        f"SELECT q.g, max({text}) AS m FROM {inner} GROUP BY q.g",
                        f"SELECT count(DISTINCT {text}) AS n, bool_or(q.n > 1) FROM {inner}"))


@family("over aggregates: CASE over aggregates that names columns and labels")
def _(p: Parts) -> Query:
    some = f"count(*) FILTER (WHERE {p.on_m('l')})"
    condition = p.pick(f"{some} > 1", f"{some} = 0", f"sum(l.v) FILTER (WHERE {p.on_m('l')}) > 1",
                       f"bool_or({p.on_m('l')})", f"count(*) > 1 AND {some} > 0")
    by, one, other = p.pick(("l.c, l.x", "l.c", "l.x"), ("l.c, l.x", "l.c", p.m("l")),
                            ("l.g", "max(l.c)", "min(l.x)"), ("l.d", "l.d", "NULL"),
                            (f"l.c, {p.m('l')}", p.m("l"), "l.c"), ("l.g", "l.g > 0", "false"))
    case = f"CASE WHEN {condition} THEN {one} ELSE {other} END"
    if p.chance(0.3):
        case = f"coalesce({case}, {one})"
    inner = f"SELECT {case} AS shown, count(*) AS n FROM {p.plain_relation('l')} GROUP BY {by}"
    return Query(inner if p.chance(0.7) else f"SELECT q.shown, count(*) AS n FROM ({inner}) AS q "
                 "GROUP BY q.shown")


@family("over aggregates: GROUP BY a text made of aggregates in a subquery")
def _(p: Parts) -> Query:
    some = f"count(*) FILTER (WHERE {p.on_m('l')})"
    case = p.pick(f"CASE WHEN {some} > 1 THEN 'many' WHEN {some} = 1 THEN 'one' ELSE 'none' END",
                  f"CASE WHEN 100.0 * {some} / count(*) > 40 THEN 'bad' ELSE 'good' END",
                  f"{some} > 0 AND count(*) > 1", f"{some} IN (1, 2)",
                  f"CASE WHEN max(l.id) > 3 THEN 'late' WHEN {some} > 0 THEN 'a' ELSE 'b' END")
    inner = f"(SELECT l.g, {case} AS b FROM {p.plain_relation('l')} GROUP BY l.g) AS q"
    return p.pick(Query(f"SELECT q.b, count(*) AS n FROM {inner} GROUP BY q.b"),
                  Query(f"SELECT q.g FROM {inner} WHERE q.b::text IN ('many', 'bad', 'true')"),
                  Query(f"SELECT DISTINCT q.b FROM {inner}"))


@family("over aggregates: a number compared with an aggregate over numbers")
def _(p: Parts) -> Query:
    relation, m = p.pick("solo", "t", "u"), p.on_m("l")
    settled = p.chance(0.5)
    some = f"count(*) FILTER (WHERE {m})" if settled else "count(*)"
    k = (f"(SELECT l.g, l.c, {some} AS n FROM {relation} AS l {'' if settled else f'WHERE {m}'}"
         " GROUP BY l.g, l.c)")
    linear = p.pick("k.n > (SELECT avg(n) FROM k)", "k.n <= (SELECT avg(n) + 1 FROM k)",
                    "3 * k.n >= (SELECT sum(n) FROM k)", "k.n > 1.5 * (SELECT avg(n) FROM k)",
                    "k.n < (SELECT sum(n) FROM k AS z WHERE z.g = k.g)")
    bent = p.pick("k.n >= (SELECT max(n) FROM k)", "k.n = (SELECT min(n) FROM k)",
                  "k.n < (SELECT max(n) FROM k)", "2 * k.n > (SELECT max(n) FROM k)",
                  "k.n > (SELECT max(z.n) FROM k AS z WHERE z.g <> k.g)",
                  "k.n BETWEEN (SELECT avg(n) FROM k) AND (SELECT max(n) FROM k)")
    condition = linear if p.chance(0.5) else bent
    exact = {ROW: ""} if settled and condition == linear else {}
    return p.pick(
        Query(f"WITH k AS {k} SELECT k.g, k.c FROM k WHERE {condition}", exact),
        Query(f"WITH k AS {k} SELECT count(*) AS n FROM k WHERE {condition}",
              {"n": EXPECTED} if exact else {}),
        Query(f"WITH k AS {k}, z AS (SELECT avg(n) AS mean, max(n) AS top FROM k) SELECT k.g, k.c,"
              f" k.n FROM k, z WHERE k.n {p.pick('>', '<=')} {p.pick('z.mean', 'z.top')}"),
        Query(f"WITH k AS {k} SELECT r.id FROM u AS r WHERE r.g {p.pick('>', '<')} (SELECT "
              f"{p.pick('avg', 'max', 'min', 'sum')}(n) FROM k WHERE k.g > 0)"),
        Query(f"WITH k AS {k} SELECT g, {p.pick('sum', 'avg', 'max', 'min')}(n) AS m FROM k"
              f" GROUP BY g HAVING {p.pick('sum', 'avg', 'max', 'min')}(n) {p.pick('>', '<')} 1.5"),
        Query(f"SELECT l.g FROM {relation} AS l WHERE {m} GROUP BY l.g HAVING count(*)"
              f" {p.pick('>=', '<')} (SELECT {p.pick('avg', 'max')}(n) FROM {k} AS z)"))
