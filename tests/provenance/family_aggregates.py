"""Families of random queries: aggregates, what stands over them, set operations."""

from __future__ import annotations

from provenance_family_parts import (
    EXPECTED,
    IF_KNOWN,
    ROW,
    TEXTS,
    Parts,
    Query,
    family,
)

# --- aggregates -----------------------------------------------------------------------------------

@family("aggregates: predictions in the argument")
def _(p: Parts) -> Query:
    m, n = p.m("l"), p.n("l")
    argument = p.pick(f"sum(CASE WHEN {m} = 'a' THEN l.v ELSE 1 END)", f"sum(length({m}))",
                      f"count({m})", f"sum(l.g * length({m}))", f"sum(({m} = l.c)::int)",
                      f"count(CASE {m} WHEN 'a' THEN 1 END)", f"sum({n}::int)",
                      f"sum(CASE {m} WHEN 'a' THEN {n}::int WHEN 'b' THEN l.g END)",
                      f"count(nullif({m}, l.c))")
    key = p.key("l")
    return Query(f"SELECT {key} AS k, {argument} AS n FROM {p.plain_relation('l')}"
                 f" {p.where(p.maybe(p.on_m('l'), 0.3))} GROUP BY 1", {"n": EXPECTED})


@family("aggregates: avg")
def _(p: Parts) -> Query:
    argument = p.pick("l.v", "l.w", f"length({p.m('l')})", f"{p.n('l')}::int",
                      f"CASE WHEN {p.m('l')} = 'a' THEN 1.0 ELSE l.v END")
    return Query(f"SELECT l.g, avg({argument}) AS mean FROM {p.plain_relation('l')} WHERE"
                 f" {p.on_m('l')} GROUP BY l.g")


@family("aggregates: DISTINCT")
def _(p: Parts) -> Query:
    argument = p.pick("count(DISTINCT l.c)", f"count(DISTINCT {p.m('l')})", "sum(DISTINCT l.v)",
                      f"count(DISTINCT {p.m('l')} || coalesce(l.c, ''))", "count(DISTINCT l.v)",
                      f"sum(DISTINCT length({p.m('l')}))")
    return Query(f"SELECT l.g, {argument} AS n FROM {p.plain_relation('l')}"
                 f" {p.where(p.on_m('l') if 'predict' not in argument else p.plain('l'))}"
                 " GROUP BY l.g", {"n": EXPECTED})


@family("aggregates: DISTINCT average")
def _(p: Parts) -> Query:
    return Query(f"SELECT avg(DISTINCT l.v) AS mean, count(DISTINCT l.c) FILTER"
                 f" (WHERE {p.on_n('l')}) AS n FROM t AS l WHERE {p.on_m('l')}")


@family("aggregates: min and max")
def _(p: Parts) -> Query:
    value = p.pick("l.v", "l.g", "l.w", "l.id", "l.v * 2 - l.id")
    return Query(f"SELECT l.g, {p.pick('min', 'max')}({value}) AS n, {p.pick('min', 'max')}(l.id)"
                 f"{p.maybe(' FILTER (WHERE l.id > 1)')} AS s FROM {p.plain_relation('l')} WHERE"
                 f" {p.on_m('l')} GROUP BY l.g", {"n": IF_KNOWN, "s": IF_KNOWN})


@family("aggregates: min and max of predictions")
def _(p: Parts) -> Query:
    value = p.pick(f"{p.n('l')}::int", f"{p.n('l')}::int * l.g", f"length({p.m('l')})")
    return Query(f"SELECT {p.pick('min', 'max')}({value}) AS n FROM {p.plain_relation('l')}",
                 {"n": IF_KNOWN})


@family("aggregates: min and max of texts and dates")
def _(p: Parts) -> Query:
    value = p.pick("l.c", "l.d", p.m("l"), "upper(l.c)")
    return Query(f"SELECT l.g, {p.pick('min', 'max')}({value}) AS shown FROM t AS l WHERE"
                 f" {p.on_m('l')} GROUP BY l.g")


@family("aggregates: bool_and and bool_or")
def _(p: Parts) -> Query:
    return Query(f"SELECT l.g, {p.pick('bool_or', 'bool_and', 'every')}({p.on_m('l')}) AS shown"
                 f" FROM {p.plain_relation('l')} {p.where(p.plain('l'))} GROUP BY l.g",
                 {"shown": TEXTS})


@family("aggregates: FILTER")
def _(p: Parts) -> Query:
    items = ", ".join(f"{p.total('l')} FILTER (WHERE {condition}) AS {name}" for name, condition in
                      (("n", p.on_m("l")), ("s", p.pick(p.on_n("l"), p.plain("l"), p.on_m("l")))))
    return Query(f"SELECT {items} FROM {p.plain_relation('l')} {p.where(p.maybe(p.on_m('l'), 0.3))}"
                 f" {p.maybe('GROUP BY l.c')}", {"n": EXPECTED, "s": EXPECTED})


@family("aggregates: GROUP BY predictions")
def _(p: Parts) -> Query:
    m = p.m("l")
    key = p.pick(m, f"upper({m})", f"{m} = l.c", f"CASE WHEN {m} = 'a' THEN l.c ELSE 'z' END",
                 f"coalesce({m}, 'none')", f"length({m}) + l.g", f"{p.n('l')}::int % 2")
    second = p.maybe(f", {p.pick('l.g', p.n('l'), m)}", 0.4)
    items = f"{key} AS k{second}, {p.total('l')} AS n"
    by = f"{key}{second}" if second else p.pick(key, "1", "(1)", "(k)", "((1))")
    return Query(f"SELECT {items} FROM {p.plain_relation('l')} GROUP BY {by}",
                 {"n": EXPECTED, ROW: ""})


@family("aggregates: ROLLUP, CUBE, GROUPING SETS")
def _(p: Parts) -> Query:
    first, second = p.pick("l.g", "l.c"), p.pick("l.d", p.m("l"), p.m("l"))
    sets = p.pick(f"ROLLUP ({first}, {second})", f"CUBE ({first}, {second})",
                  f"GROUPING SETS (({first}), ({second}), ())", f"{first}, ROLLUP ({second})",
                  f"GROUPING SETS (({first}, {second}), {second})")
    return Query(f"SELECT {first} AS a, {second} AS b, {p.total('l')} AS n FROM"
                 f" {p.plain_relation('l')} {p.where(p.on_n('l'))} GROUP BY {sets}",
                 {"n": EXPECTED})


@family("aggregates: empty groups")
def _(p: Parts) -> Query:
    nothing = p.pick("l.id < 0", "l.g = 99", "false")
    if p.chance(0.5):
        return Query(f"SELECT count(*) AS n, sum(l.v) AS s, min(l.v) AS low FROM t AS l WHERE"
                     f" {nothing} AND {p.on_m('l')}", {"n": EXPECTED, "s": EXPECTED})
    return Query(f"SELECT l.g, count(*) FILTER (WHERE {nothing} AND {p.on_m('l')}) AS n, sum(l.v)"
                 f" FILTER (WHERE {p.on_m('l')}) AS s, count(*) AS all_ FROM t AS l GROUP BY l.g",
                 {"n": EXPECTED, "s": EXPECTED})


@family("aggregates: over a join, two predictions inside")
def _(p: Parts) -> Query:
    argument = p.pick(f"CASE WHEN {p.both()} THEN l.v ELSE r.g END", f"({p.both()})::int",
                      f"length({p.m('l')} || {p.m('r')})")
    return Query(f"SELECT r.g, sum({argument}) AS n FROM t AS l JOIN u AS r ON {p.meets()}"
                 " GROUP BY r.g", {"n": EXPECTED})


# --- over aggregates ------------------------------------------------------------------------------

@family("over aggregates: ratio of filtered counts")
def _(p: Parts) -> Query:
    top = f"count(*) FILTER (WHERE {p.on_m('l')})"
    whole = p.pick("count(*)", "nullif(count(l.v), 0)",
                   f"nullif(count(*) FILTER (WHERE {p.on_n('l')}), 0)")
    ratio = p.pick(f"100.0 * {top} / {whole}", f"{top}::float8 / {whole}",
                   f"round(100.0 * {top} / {whole}, 1)", f"coalesce({top} / {whole}::numeric, 0)",
                   f"1 - avg(({p.on_m('l')})::int)")
    return Query(f"SELECT l.g, {ratio} AS share FROM {p.plain_relation('l')} GROUP BY l.g")


@family("over aggregates: arithmetic")
def _(p: Parts) -> Query:
    n, s = (f"count(*) FILTER (WHERE {p.on_m('l')})", f"sum(l.g) FILTER (WHERE {p.on_n('l')})")
    linear = p.pick(f"count(*) - {n}", f"2 * {n} + 1", f"{n} - count(l.v)", f"-({n})",
                    f"({n} + {n.replace('count(*)', 'count(l.g)')}) * 0.5",
                    f"{n} + l.g", f"coalesce({s}, 0) + {n}")
    bent = p.pick(f"{n} * {n}", f"({n} + 1) / 2", f"{n} % 2", f"abs({n} - 2)", f"{n} ^ 2",
                  f"sqrt({n})", f"({n} - 1) * coalesce({s}, 1)", f"exp(-{n}::float8)")
    return Query(f"SELECT l.g, {linear} AS n, {bent} AS bent FROM t AS l GROUP BY l.g",
                 {"n": EXPECTED})


@family("over aggregates: COALESCE, NULLIF, CASE, casts, rounding")
def _(p: Parts) -> Query:
    s = f"sum(l.v) FILTER (WHERE {p.on_m('l')})"
    cell = p.pick(f"coalesce({s}, 0)", f"nullif(count(*) FILTER (WHERE {p.on_m('l')}), 0)",
                  f"({s})::float8", f"round({s}, 1)", f"floor({s})", f"greatest({s}, 0)",
                  f"least({s}, l.g)", f"(count(*) FILTER (WHERE {p.on_m('l')}))::text",
                  f"CASE WHEN count(*) > 1 THEN {s} ELSE 0 END", f"trunc(avg(l.v), 2) + {s}",
                  f"CASE WHEN count(*) FILTER (WHERE {p.on_m('l')}) > 1 THEN 'many' ELSE 'few' END")
    return Query(f"SELECT l.g, {cell} AS n FROM {p.plain_relation('l')} GROUP BY l.g")


@family("over aggregates: HAVING count")
def _(p: Parts) -> Query:
    key = p.pick("l.g", "l.c", "l.g % 2")
    # The relaxed count is not conditioned on the group being there.
    count = p.maybe(", count(*) AS n")
    return Query(f"SELECT {key} AS k{count} FROM {p.plain_relation('l')} WHERE {p.on_m('l')}"
                 f" GROUP BY {key} HAVING count(*) {p.pick('>', '>=', '<', '<=', '=', '<>')}"
                 f" {p.pick(0, 1, 2, 3)}", {ROW: ""})


@family("over aggregates: HAVING")
def _(p: Parts) -> Query:
    a, b = p.on_m("l"), p.on_m("l")
    n = "count(*)"
    condition = p.pick(
        "sum(l.g) > 2", "avg(l.v) > 1", "min(l.v) < 1", "max(l.v) >= 2.5", f"bool_or({a})",
        f"count(DISTINCT {p.m('l')}) > 1", f"count(*) FILTER (WHERE {a}) > count(*) FILTER"
        f" (WHERE {b})", f"2 * count(*) FILTER (WHERE {a}) >= {n}", f"{n} > 1 OR sum(l.v) > 3",
        f"NOT ({n} > 2)", f"l.g > 0 AND {n} > 1", "sum(l.v) IS NOT NULL", "max(l.v) IS NULL",
        f"{n} BETWEEN 1 AND 3", f"{n} IN (1, 3)", f"NOT bool_and({b}) AND {n} < 4",
        f"CASE WHEN {n} > 1 THEN sum(l.g) > 1 ELSE true END", f"sum(l.v) / {n} > 1",
        f"{n} > (SELECT count(*) FROM solo AS k WHERE {p.on_n('k')})",
        f"EXISTS (SELECT 1 FROM u AS k WHERE k.g = l.g AND {p.on_n('k')})",
        "coalesce(sum(l.v), 0) <= 2.5", "sum(l.v) <> 1")
    return Query(f"SELECT l.g, {p.total('l')} AS n FROM {p.plain_relation('l')}"
                 f" {p.where(p.maybe(p.on_m('l'), 0.7))} GROUP BY l.g HAVING {condition}")


@family("over aggregates: HAVING without GROUP BY")
def _(p: Parts) -> Query:
    return Query(f"SELECT count(*) AS n FROM t AS l WHERE {p.on_m('l')} HAVING count(*) >"
                 f" {p.pick(0, 1, 2)}", {ROW: ""})


@family("over aggregates: HAVING over groups of a prediction")
def _(p: Parts) -> Query:
    return Query(f"SELECT {p.m('l')} AS k, count(*) AS n FROM {p.plain_relation('l')} GROUP BY 1"
                 f" HAVING count(*) {p.pick('>', '=', '<>')} {p.pick(1, 2)}", {ROW: ""})


@family("over aggregates: ORDER BY")
def _(p: Parts) -> Query:
    order = p.pick("n DESC, 1", "count(*)", "2 DESC NULLS LAST", "l.g, n", "-count(*)")
    return Query(f"SELECT l.g, count(*) AS n FROM {p.plain_relation('l')} WHERE {p.on_m('l')}"
                 f" GROUP BY l.g ORDER BY {order}", {"n": EXPECTED})


@family("over aggregates: LIMIT of rows")
def _(p: Parts) -> Query:
    limit = p.pick("LIMIT 2", "LIMIT 1 OFFSET 1", "OFFSET 1", "FETCH FIRST 2 ROWS ONLY", "LIMIT 3",
                   "LIMIT ALL OFFSET 2")
    relation = p.pick("solo", "solo", "t", "p")
    return Query(f"SELECT l.id, l.c FROM {relation} AS l WHERE {p.on_m('l')} ORDER BY"
                 f" {p.pick('l.id', 'l.id DESC', 'l.g NULLS FIRST, l.id')} {limit}", {ROW: ""})


@family("over aggregates: FETCH FIRST WITH TIES")
def _(p: Parts) -> Query:
    m, order = p.on_m("l"), p.pick("l.g", "l.g DESC", "l.c NULLS FIRST", "l.g, l.c", "l.v")
    first = f"FETCH FIRST {p.pick('1 ROW', '2 ROWS', '3 ROWS')} WITH TIES"
    kept = f"FROM solo AS l WHERE {m} ORDER BY {order} {first}"
    return p.pick(
        Query(f"SELECT l.id, l.c {kept}", {ROW: ""}),
        Query(f"SELECT count(*) AS n, sum(q.v) AS s FROM (SELECT l.v {kept}) AS q",
              {"n": EXPECTED, "s": EXPECTED}),
        Query(f"SELECT l.id, {p.m('l')} AS shown FROM {p.pick('t', 'solo')} AS l ORDER BY {order} "
              f"{first}", {"shown": TEXTS, ROW: ""}),
        Query(f"SELECT l.g, count(*) AS k, count(*) FILTER (WHERE {m}) AS n FROM t AS l GROUP BY"
              f" l.g ORDER BY k {first}", {ROW: ""}),
        Query(f"SELECT DISTINCT l.g, l.d FROM t AS l WHERE {m} ORDER BY l.d {first}"))


@family("over aggregates: LIMIT of groups")
def _(p: Parts) -> Query:
    return Query(f"SELECT l.g, count(*) AS n FROM {p.pick('solo', 't')} AS l WHERE {p.on_m('l')}"
                 f" GROUP BY l.g ORDER BY l.g {p.pick('', 'DESC')} LIMIT {p.pick(1, 2)}")


@family("over aggregates: aggregate over a limited subquery")
def _(p: Parts) -> Query:
    return Query(f"SELECT count(*) AS n, sum(q.id) AS s FROM (SELECT l.id FROM solo AS l WHERE"
                 f" {p.on_m('l')} ORDER BY l.id LIMIT {p.pick(1, 2, 3)}) AS q",
                 {"n": EXPECTED, "s": EXPECTED})


@family("over aggregates: aggregate over groups of which some are kept")
def _(p: Parts) -> Query:
    relation = p.pick("solo", "solo", "t", "p")
    kept = p.pick(
        "SELECT l.g, count(*) AS n, sum(l.v) AS s {} GROUP BY l.g ORDER BY l.g LIMIT 1",
        "SELECT l.g, count(*) AS n, sum(l.v) AS s {} GROUP BY l.g ORDER BY l.g DESC LIMIT 2",
        "SELECT l.g, count(*) AS n, sum(l.v) AS s {} GROUP BY (1) ORDER BY (1) OFFSET 1",
        "SELECT l.g, l.c, count(*) AS n, sum(l.v) AS s {} GROUP BY l.g, l.c ORDER BY 1, 2"
        " LIMIT 1 OFFSET 1",
        "SELECT DISTINCT ON (l.g) l.g, l.c, count(*) AS n, sum(l.v) AS s {} GROUP BY l.g, l.c"
        " ORDER BY l.g, l.c",
        "SELECT DISTINCT ON (2) c, g, n, s FROM (SELECT l.g, l.c, count(*) AS n, sum(l.v) AS s {}"
        " GROUP BY l.g, l.c) AS k ORDER BY g, c DESC",
        "SELECT g, n, s FROM (SELECT l.g, count(*) AS n, sum(l.v) AS s {} GROUP BY l.g) AS k"
        " ORDER BY g LIMIT 2").format(f"FROM {relation} AS l WHERE {p.on_m('l')}")
    cells = p.pick("sum(q.n) AS n, sum(q.s) AS s, count(*) AS k", "avg(q.n) AS mean, sum(q.n) AS n",
                   "max(q.n) AS top, sum(q.s) AS s", "sum(q.n * 2 + 1) AS twice, count(q.n) AS k")
    whole = p.pick(f"SELECT {cells} FROM ({kept}) AS q",
                   f"WITH q AS ({kept}) SELECT {cells} FROM q",
                   f"SELECT {cells} FROM r3 JOIN ({kept}) AS q USING (g)",
                   f"SELECT q.g, {cells} FROM ({kept}) AS q GROUP BY q.g")
    # Where groups share no prediction, the group that is kept is independent of those before it.
    return Query(whole.replace("r3", "(SELECT DISTINCT g FROM u) AS r"),
                 {"n": EXPECTED, "s": EXPECTED, "k": EXPECTED} if relation == "solo" else {})


@family("over aggregates: LIMIT before the prediction")
def _(p: Parts) -> Query:
    return p.shape(f"(SELECT * FROM {p.pick('t', 'p')} ORDER BY id LIMIT 3) AS l")


@family("over aggregates: sum of counts")
def _(p: Parts) -> Query:
    inner = (f"(SELECT l.g, l.c, count(*) AS n FROM {p.plain_relation('l')} WHERE {p.on_m('l')}"
             " GROUP BY l.g, l.c) AS q")
    return p.pick(Query(f"SELECT sum(q.n) AS n FROM {inner}", {"n": EXPECTED}),
                  Query(f"SELECT q.g, sum(q.n) AS n, count(*) AS s FROM {inner} GROUP BY q.g",
                        {"n": EXPECTED, "s": EXPECTED}))


@family("over aggregates: avg, max, min of counts")
def _(p: Parts) -> Query:
    inner = (f"(SELECT l.g, count(*) FILTER (WHERE {p.on_m('l')}) AS n, count(*) AS whole FROM"
             f" {p.plain_relation('l')} {p.where(p.maybe(p.on_m('l'), 0.4))} GROUP BY l.g) AS q")
    cell = p.pick("avg(q.n)", "max(q.n)", "min(q.n)", "max(q.n) - min(q.n)",
                  "sum(q.n) / nullif(sum(q.whole), 0)", "avg(q.n * 1.0 / q.whole)")
    # Of few groups, whatever they share.
    return Query(f"SELECT {cell} AS n FROM {inner}",
                 {"n": IF_KNOWN} if cell[:3] in ("max", "min") else {})


@family("over aggregates: condition on a grouped subquery")
def _(p: Parts) -> Query:
    inner = (f"(SELECT l.g, count(*) AS n FROM {p.plain_relation('l')} WHERE {p.on_m('l')}"
             " GROUP BY l.g) AS q")
    return p.pick(Query(f"SELECT count(*) AS n FROM {inner} WHERE q.n > {p.pick(1, 2)}",
                        {"n": EXPECTED}),
                  Query(f"SELECT r.id, q.n FROM u AS r JOIN {inner} ON q.g = r.g",
                        {"n": EXPECTED}),
                  Query(f"SELECT r.id FROM u AS r JOIN {inner} ON q.g = r.g AND q.n >= r.id"))


# --- set operations -------------------------------------------------------------------------------

def two_sides(p: Parts, columns: str = "{a}.g", left: str = "m", right: str = "n"):
    conditions = {"m": p.on_m, "n": p.on_n, "-": p.plain}
    return (f"SELECT {columns.format(a='l')} FROM {p.plain_relation('l')} WHERE"
            f" {conditions[left]('l')}",
            f"SELECT {columns.format(a='r')} FROM {p.plain_relation('r')} WHERE"
            f" {conditions[right]('r')}")


@family("set operations: UNION ALL")
def _(p: Parts) -> Query:
    if p.chance(0.5):
        left, right = two_sides(p, "{a}.id, {a}.c AS label", right=p.pick("-", "m", "n"))
        return Query(f"{left} UNION ALL {right}", {ROW: ""})
    months = " UNION ALL ".join(f"SELECT {i} AS month, l.g, {p.m('l')} AS label, l.v FROM"
                                f" {p.plain_relation('l')}" for i in range(p.pick(2, 3)))
    return Query(f"SELECT q.month, count(*) AS n, sum(q.v) AS s FROM ({months}) AS q WHERE q.label"
                 f" {p.pick('=', '<>')} 'a' GROUP BY q.month", {"n": EXPECTED, "s": EXPECTED})


@family("set operations: UNION ALL of aggregates")
def _(p: Parts) -> Query:
    return Query(f"SELECT 'left' AS side, count(*) AS n FROM t AS l WHERE {p.on_m('l')} UNION ALL"
                 f" SELECT 'right', count(*) FROM u AS r WHERE {p.on_m('r')} UNION ALL"
                 f" SELECT 'none', 3", {"n": EXPECTED})


@family("set operations: UNION")
def _(p: Parts) -> Query:
    left, right = two_sides(p, p.pick("{a}.g", "{a}.c", "{a}.g, {a}.c"),
                            right=p.pick("m", "n", "-"))
    return Query(f"{left} UNION {right}", {ROW: ""})


@family("set operations: UNION of predictions")
def _(p: Parts) -> Query:
    return Query(f"SELECT {p.m('l')} AS label FROM t AS l UNION SELECT"
                 f" {p.pick(p.m('r'), 'r.c')} FROM u AS r", {ROW: ""})


def _combined(operator: str):
    @family(f"set operations: {operator}")
    def _(p: Parts) -> Query:
        left, right = two_sides(p, p.pick("{a}.g", "{a}.c", "{a}.g, {a}.c"),
                                right=p.pick("n", "-"))
        exact = {} if operator.endswith("ALL") else {ROW: ""}
        if p.chance(0.3):
            return Query(f"SELECT count(*) AS n FROM ({left} {operator} {right}) AS q",
                         {"n": EXPECTED} if exact else {})
        return Query(f"({left}) {operator} ({right})", exact)


for _operator in ("INTERSECT", "INTERSECT ALL", "EXCEPT", "EXCEPT ALL"):
    _combined(_operator)


@family("set operations: three sides")
def _(p: Parts) -> Query:
    first, second = two_sides(p)
    third, _ = two_sides(p, right="-")
    operators = p.pick(("UNION", "INTERSECT"), ("EXCEPT", "UNION ALL"), ("UNION ALL", "EXCEPT"),
                       ("INTERSECT", "EXCEPT"))
    return Query(f"({first}) {operators[0]} ({second}) {operators[1]} ({third}) ORDER BY 1")


@family("set operations: predictions compared as rows")
def _(p: Parts) -> Query:
    return Query(f"SELECT l.g, {p.m('l')} AS label FROM t AS l {p.pick('EXCEPT', 'INTERSECT')}"
                 f" SELECT r.g, r.c FROM u AS r", {ROW: ""})


@family("set operations: DISTINCT")
def _(p: Parts) -> Query:
    columns = p.pick("l.g", "l.c", "l.g, l.c", p.m("l") + " AS label", f"l.g, {p.m('l')} AS label",
                     "upper(l.c)", f"l.g, {p.m('l')} = l.c AS same")
    if p.chance(0.3):
        return Query(f"SELECT count(*) AS n FROM (SELECT DISTINCT {columns} FROM"
                     f" {p.plain_relation('l')} WHERE {p.on_m('l')}) AS q", {"n": EXPECTED})
    return Query(f"SELECT DISTINCT {columns} FROM {p.plain_relation('l')} WHERE {p.on_m('l')}",
                 {ROW: ""})


@family("set operations: DISTINCT ON")
def _(p: Parts) -> Query:
    relation = p.pick("solo", "solo", "t", "p")
    shown = p.pick("l.c", p.n("l") + " AS digit")
    key = p.pick("l.g", "1", "(1)", "h", "g, h", "(1), l.g")
    first, second = p.pick("l.g", "1", "(1)", "h"), p.pick("l.id", "(2)")
    return Query(f"SELECT DISTINCT ON ({key}) l.g AS h, l.id, {shown} FROM {relation} AS l WHERE"
                 f" {p.on_m('l')} ORDER BY {first}, {second}{p.maybe(' DESC')}", {ROW: ""})


@family("set operations: DISTINCT ON a label")
def _(p: Parts) -> Query:
    relation, label = p.pick("solo", "solo", "t", "u"), p.m("l")
    exact = {ROW: ""} if relation == "solo" else {}
    inner = f"SELECT {label} AS label, l.id, l.g, l.c FROM {relation} AS l WHERE {p.plain('l')}"
    key, order = p.pick(("label", "label"), ("label, g", "g, label"), ("2", "2"),
                        ("label, q.g", "label DESC, g NULLS FIRST"))
    text = f"SELECT DISTINCT ON ({key}) id, label, c FROM ({inner}) AS q ORDER BY {order}, id"
    text += p.maybe(" DESC")
    if p.chance(0.3):
        return Query(f"SELECT label, count(*) AS n, sum(id) AS s FROM ({text}) AS o GROUP BY label",
                     {})
    return Query(text, exact)


@family("set operations: DISTINCT ON groups")
def _(p: Parts) -> Query:
    key, order = p.pick(("l.g", "l.g, l.c"), ("1", "1, l.c DESC"), ("c", "(2), 1"),
                        ("l.g % 2", "l.g % 2, 1, 2"))
    return Query(f"SELECT DISTINCT ON ({key}) l.g, l.c, count(*) AS n FROM {p.pick('solo', 't')} AS"
                 f" l WHERE {p.on_m('l')} GROUP BY {p.pick('1, 2', '(1), (2)', '(l.g), c')}"
                 f"{p.maybe(' HAVING count(*) < 3')} ORDER BY {order}")


@family("over aggregates: HAVING over rounded numbers")
def having_steps(p: Parts) -> Query:
    some, operator = f"count(*) FILTER (WHERE {p.on_m('l')})", p.pick("<", "<=", ">", ">=")
    flipped = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}[operator]
    condition = p.pick(
        f"{some} / 2 {operator} {p.pick(-1, 0, 1, 0.5)}", f"-{some} / 2 {operator} {p.pick(-1, 0)}",
        f"100 * {some} / count(*) {operator} {p.pick(0, 33, 50, 99)}",
        f"{p.pick(1, 50)} {flipped} round(100.0 * {some} / count(*))",
        f"round({some} / 3.0, 1) {operator} {p.pick(0, 0.3, 0.7, 0.65)}",
        f"floor({some} / 2.0) {operator} {p.pick(0, 1)}",
        f"ceil(-{some} / 2.0) {operator} {p.pick(-1, 0, 1)}",
        f"({some} / 2.0)::int {operator} {p.pick(0, 1, 1.5)}",
        f"({some}::float8 / 2)::int {operator} {p.pick(0, 1)}",
        f"trunc({some} * 0.7, 1) {operator} {p.pick(0.7, 1, 1.4)}")
    return Query(f"SELECT l.g FROM t AS l GROUP BY l.g HAVING {condition}", {ROW: ""})
