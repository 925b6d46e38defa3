"""Families of random queries: relations and joins."""

from __future__ import annotations

from dataclasses import replace

from provenance_family_parts import (
    EXPECTED,
    NAMES,
    READER,
    ROW,
    TEXTS,
    Parts,
    Query,
    family,
)

# --- relations ------------------------------------------------------------------------------------

@family("relations: view with a model call")
def _(p: Parts) -> Query:
    return p.shape(f"{p.pick('vm', 'public.vm')} AS l", "l.label")


@family("relations: model call over a view with one")
def _(p: Parts) -> Query:
    condition = p.pick("l.label = {m}", "l.label <> {m}", "l.label = 'a' OR {m} = 'b'").format(
        m=p.pick(p.m("l"), p.m("r")))
    return Query(f"SELECT r.g, count(*) AS n FROM vm AS l JOIN u AS r ON {p.meets()}"
                 f" WHERE {condition} GROUP BY r.g", {"n": EXPECTED})


@family("relations: a join under a name of its own")
def _(p: Parts) -> Query:
    right = f"(SELECT g AS h, c AS d, id AS k FROM {p.pick('u', 'p')}) AS r"
    left = p.pick("t AS l", "vm AS l", "(SELECT * FROM t WHERE g > 0) AS l")
    join = p.pick(f"({left} JOIN {right} ON l.g = r.h)", f"({left} LEFT JOIN {right} ON l.g = r.h)",
                  f"({left} CROSS JOIN (SELECT 1 AS h, 2 AS k) AS r)")
    condition = p.on_label("j.label", "j") if "vm" in left else p.on_m("j")
    return p.pick(
        Query(f"SELECT j.h, count(*) AS n, sum(j.k) AS s FROM {join} AS j WHERE {condition}"
              " GROUP BY j.h", {"n": EXPECTED, "s": EXPECTED}),
        Query(f"SELECT j.h FROM {join} AS j WHERE {condition} GROUP BY j.h HAVING count(*) > 1"),
        Query(f"SELECT k.id FROM u AS k WHERE EXISTS (SELECT 1 FROM {join} j WHERE {condition} AND"
              " j.h = k.g)"))


@family("relations: nested views")
def _(p: Parts) -> Query:
    if p.chance(0.3):
        return Query("SELECT same, count(*) AS n, sum(v) AS s FROM vmm GROUP BY same",
                     {"n": EXPECTED, "s": EXPECTED})
    return p.shape(f"{p.pick('vmm', 'vmw')} AS l", "l.label")


@family("relations: aggregating view")
def _(p: Parts) -> Query:
    return p.pick(
        Query("SELECT g, n, total FROM vg", {"n": EXPECTED, "total": EXPECTED}),
        Query("SELECT sum(n) AS s FROM vg", {"s": EXPECTED}),
        Query(f"SELECT g FROM vg WHERE n {p.pick('>', '<=', '=')} {p.pick(1, 2)}", {ROW: ""}),
        Query("SELECT l.id, vg.n FROM t AS l LEFT JOIN vg ON vg.g = l.g", {"n": EXPECTED}),
        Query("SELECT g, 100.0 * n / (SELECT count(*) FROM t) AS share FROM vg ORDER BY g",
              {"share": EXPECTED}))


@family("relations: view with EXISTS inside")
def _(p: Parts) -> Query:
    return replace(p.shape("ve AS l", p.m("l")), exact={})


@family("relations: view over UNION ALL")
def _(p: Parts) -> Query:
    return p.shape("vu AS l", "l.label")


@family("relations: view of another owner")
def _(p: Parts) -> Query:
    return p.pick(p.shape("vo AS l"), p.shape("vom AS l", "l.label"))


@family("relations: materialised view")
def _(p: Parts) -> Query:
    return p.shape("mv AS l")


@family("relations: materialised view of predictions")
def _(p: Parts) -> Query:
    return Query(f"SELECT l.label, count(*) AS n FROM mlabel AS l WHERE {p.m('l')} "
                 f"{p.pick('=', '<>')} l.label GROUP BY l.label", {"n": EXPECTED})


@family("relations: partitioned")
def _(p: Parts) -> Query:
    return p.shape(f"{p.pick('p', 'p', 'p_low')} AS l")


@family("relations: inherited")
def _(p: Parts) -> Query:
    return p.shape(f"{p.pick('parent', 'parent *', 'ONLY parent', 'child')} AS l")


@family("relations: VALUES")
def _(p: Parts) -> Query:
    values = ("(VALUES (1, 'f0', 'f1', 'a', 1, 2.50, 1.5::float8, NULL::date),"
              " (2, 'f0', NULL, NULL, 2, 1, 0, '2026-01-01'), (3, NULL, 'f2', 'b', 1, -1, 1, NULL))"
              f" AS l ({NAMES})")
    return p.shape(values)


@family("relations: function")
def _(p: Parts) -> Query:
    if p.chance(0.3):
        return Query(f"SELECT i, count(*) AS n FROM generate_series(0, 2) AS i JOIN t AS l"
                     f" ON l.g = i WHERE {p.on_m('l')} GROUP BY i", {"n": EXPECTED})
    return p.shape(f"{p.pick('all_of_t()', 'of_group(1)')} AS l")


@family("relations: WITH ORDINALITY")
def _(p: Parts) -> Query:
    if p.chance(0.4):
        return Query("SELECT q.place % 2 AS k, count(*) AS n FROM unnest(ARRAY['f0', 'f1', 'f0',"
                     " NULL]) WITH ORDINALITY AS q (x, place) WHERE"
                     f" {p.m('q')} {p.pick('=', '<>')} 'a' GROUP BY 1", {"n": EXPECTED})
    return Query(f"SELECT l.place, {p.m('l')} AS shown FROM all_of_t() WITH ORDINALITY AS l"
                 f" ({NAMES}, place) WHERE {p.on_m('l')} AND place > 1", {"shown": TEXTS, ROW: ""})


@family("relations: row-level security")
def _(p: Parts) -> Query:
    if p.chance(0.3):
        return Query(f"SELECT count(*) AS n FROM s AS l JOIN s AS r ON l.g = r.g AND {p.both()}",
                     {"n": EXPECTED}, READER)
    return p.shape("s AS l", role=READER)


@family("relations: foreign table")
def _(p: Parts) -> Query:
    if p.chance(0.3):
        return Query(f"SELECT r.g, count(*) AS n FROM ft AS l JOIN t AS r ON {p.meets()}"
                     f" WHERE {p.both()} GROUP BY r.g", {"n": EXPECTED})
    return p.shape("ft AS l")


@family("relations: subquery in FROM")
def _(p: Parts) -> Query:
    inner = f"(SELECT {NAMES}, {p.m('i')} AS label FROM {p.plain_relation('i')} {{where}}) AS l"
    return p.shape(inner.format(where=p.maybe(f"WHERE {p.on_m('i')}")), "l.label")


# --- joins ----------------------------------------------------------------------------------------

def grouped(p: Parts, from_: str, aliases=("l", "r"), where: str = "") -> Query:
    """Linear aggregates over FROM, with or without groups."""
    a, b = p.pick(*aliases), p.pick(*aliases)
    items = f"{p.total(a)} AS n, {p.total(b)} AS s"
    exact = {"n": EXPECTED, "s": EXPECTED}
    if p.chance(0.4):
        return Query(f"SELECT {items} FROM {from_} {where}", exact)
    key = p.key(p.pick(*aliases))
    return Query(f"SELECT {key} AS k, {items} FROM {from_} {where} GROUP BY {key}", exact)


@family("joins: inner")
def _(p: Parts) -> Query:
    on = " AND ".join([p.both(), *([p.meets()] if p.chance(0.6) else [])])
    return grouped(p, f"{p.plain_relation('l')} {p.pick('JOIN', 'INNER JOIN')}"
                      f" {p.plain_relation('r')} ON {on}",
                   where=p.where(p.maybe(p.on_m("l"), 0.2), p.maybe(p.plain("r"), 0.2)))


@family("joins: rows of a join")
def _(p: Parts) -> Query:
    return Query(f"SELECT l.id, r.id AS other, {p.m('l')} AS shown FROM {p.plain_relation('l')}"
                 f" JOIN {p.plain_relation('r')} ON {p.meets()} AND {p.both()}",
                 {"shown": TEXTS, ROW: ""})


def outer(kind: str):
    @family(f"joins: {kind.lower()}, prediction in ON")
    def _(p: Parts) -> Query:
        # FULL JOIN wants conditions that can be hashed or merged.
        on = p.pick(f"{p.m('l')} = {p.m('r')}", f"l.g = r.g AND {p.m('l')} = {p.m('r')}",
                    f"{p.m('l')} = r.c", f"l.c = {p.m('r')} AND l.g = r.g")
        if kind != "FULL":
            on = p.pick(on, f"l.g = r.g AND {p.on_m('r')}", f"{p.both()} AND {p.meets()}",
                        f"l.id = r.id AND {p.on_m('l')}")
        left, right = p.pick("t", "solo", "vw"), p.pick("u", "t", "p")
        return grouped(p, f"{left} AS l {kind} {p.maybe('OUTER ')}JOIN {right} AS r ON {on}",
                       where=p.where(p.maybe(p.plain("l"), 0.2)))


for _kind in ("LEFT", "RIGHT", "FULL"):
    outer(_kind)


@family("joins: rows of an outer join")
def _(p: Parts) -> Query:
    return Query(f"SELECT l.id, r.id AS other FROM t AS l {p.pick('LEFT', 'RIGHT')} JOIN u AS r ON"
                 f" l.g = r.g AND {p.pick(p.on_m('r'), p.on_m('l'), p.both())}", {ROW: ""})


@family("joins: outer on columns, prediction after it")
def _(p: Parts) -> Query:
    label = f"coalesce({p.m('r')}, 'none')"
    return grouped(p, f"t AS l {p.pick('LEFT', 'FULL', 'RIGHT')} JOIN u AS r ON l.id = r.id",
                   where=p.where(p.pick(f"{label} <> 'a'", f"{p.m('r')} IS NULL", p.on_m("r"),
                                        p.both())))


@family("joins: anti join by outer join")
def _(p: Parts) -> Query:
    return Query(f"SELECT l.g, count(*) AS n FROM t AS l LEFT JOIN u AS r ON l.g = r.g AND"
                 f" {p.pick(p.on_m('r'), p.both())} WHERE r.id IS NULL GROUP BY l.g",
                 {"n": EXPECTED})


@family("joins: cross")
def _(p: Parts) -> Query:
    comma = p.pick(" CROSS JOIN", ",")
    return grouped(p, f"{p.plain_relation('l')}{comma} {p.plain_relation('r')}",
                   where=p.where(p.both(), p.maybe(p.meets(), 0.4)))


@family("joins: NATURAL")
def _(p: Parts) -> Query:
    left = "(SELECT id, g, x, v FROM t) AS l"
    right = f"(SELECT {p.pick('g', 'id', 'id, g')}, x AS other, c FROM u) AS r"
    condition = p.pick(f"{p.m('l')} = pgrain.predict('m', r.other)", f"{p.m('l')} = r.c",
                       "pgrain.predict('m', x) <> pgrain.predict('m', other)")
    kind = p.pick("NATURAL JOIN", "NATURAL LEFT JOIN", "NATURAL FULL JOIN")
    return Query(f"SELECT count(*) AS n, sum(v) AS s FROM {left} {kind} {right}"
                 f" WHERE {condition}", {"n": EXPECTED, "s": EXPECTED})


@family("joins: USING")
def _(p: Parts) -> Query:
    shared = p.pick("g", "id", "g, c")
    key = shared.split(",")[0]
    kind = p.pick("JOIN", "LEFT JOIN", "FULL JOIN", "RIGHT JOIN")
    return Query(f"SELECT {key} AS k, count(*) AS n FROM t AS l {kind} u AS r USING ({shared})"
                 f" WHERE {p.pick(p.both(), p.on_m('l'), p.on_m('r'))} GROUP BY {key}",
                 {"n": EXPECTED})


@family("joins: USING with an alias")
def _(p: Parts) -> Query:
    kind = p.pick("JOIN", "LEFT JOIN", "FULL JOIN", "RIGHT JOIN")
    inner = p.pick("u AS r", f"(SELECT * FROM u AS k WHERE {p.on_m('k')}) AS r",
                   f"(SELECT g, count(*) AS id FROM u AS k WHERE {p.on_m('k')} GROUP BY g) AS r")
    joined = f"t AS l {kind} {inner} USING (g) AS j"
    condition = p.pick("j.g > 0 OR j.g IS NULL", f"coalesce({p.on_m('l')}, true) AND j.g < 2",
                       f"{p.on_m('l')} OR (SELECT count(*) FROM u AS k WHERE k.g = j.g) > 1",
                       f"{p.m('l')} = 'a' OR EXISTS (SELECT FROM u AS k WHERE k.g = j.g AND "
                       f"{p.on_m('k')})")
    return Query(p.pick(f"SELECT j.g AS k, count(*) AS n FROM {joined} WHERE {condition} GROUP BY "
                        "j.g", f"SELECT j.*, l.id, {p.m('l')} AS shown FROM {joined} WHERE "
                        f"{condition}"))


@family("joins: LATERAL without a model call")
def _(p: Parts) -> Query:
    return grouped(p, f"t AS l{p.pick(',', ' CROSS JOIN')} LATERAL (SELECT k.* FROM u AS k WHERE"
                      f" k.g {p.pick('=', '<>', '<')} l.g ORDER BY k.id LIMIT 3) AS r",
                   where=p.where(p.both()))


@family("joins: LATERAL with a model call")
def _(p: Parts) -> Query:
    rows = (f"(SELECT k.id, k.v, {p.m('k')} AS label FROM u AS k WHERE k.g = l.g"
            f"{p.maybe(' AND ' + p.on_m('k'))}) AS r")
    one = f"(SELECT count(*) AS n FROM u AS k WHERE k.g = l.g AND {p.on_m('k')}) AS r"
    return p.pick(
        Query(f"SELECT l.g, count(*) AS n FROM t AS l, LATERAL {rows} WHERE r.label = {p.m('l')}"
              " GROUP BY l.g", {"n": EXPECTED}),
        Query(f"SELECT l.g, count(r.id) AS n FROM t AS l LEFT JOIN LATERAL {rows} ON true"
              " GROUP BY l.g", {"n": EXPECTED}),
        Query(f"SELECT l.id, r.n FROM t AS l CROSS JOIN LATERAL {one}", {"n": EXPECTED}),
        Query(f"SELECT count(*) AS n FROM t AS l, LATERAL {one} WHERE r.n"
              f" {p.pick('> 1', '= 0', '>= l.g')}", {"n": EXPECTED}))


@family("joins: self-join")
def _(p: Parts) -> Query:
    table = p.pick("t", "p", "vw")
    return grouped(p, f"{table} AS l JOIN {table} AS r ON {p.both()}{p.maybe(' AND ' + p.meets())}")


@family("joins: three inputs")
def _(p: Parts) -> Query:
    last = p.pick("o.g = r.g", "o.id = l.id", "o.g = l.g AND o.c = r.c")
    third = p.pick(last, f"{p.m('o')} = {p.m('r')} AND {last}", f"{last} AND {p.on_n('o')}",
                   f"{p.m('o')} IN ({p.m('l')}, {p.m('r')}) AND {last}")
    return grouped(p, f"t AS l JOIN u AS r ON {p.both()} AND {p.pick('l.g = r.g', 'l.id < r.id')}"
                      f" JOIN solo AS o ON {third}", ("l", "r", "o"))


@family("joins: four inputs, outer and inner")
def _(p: Parts) -> Query:
    return Query(f"SELECT l.g, count(*) AS n, count(o.id) AS s FROM t AS l JOIN u AS r ON"
                 f" l.g = r.g AND {p.both()} LEFT JOIN solo AS o ON o.id = l.id AND {p.on_n('o')}"
                 f" JOIN vw AS e ON e.id = l.id GROUP BY l.g", {"n": EXPECTED, "s": EXPECTED})


def labelled(p: Parts, table: str) -> str:
    """A subquery that shows labels of `table`, and sometimes filters by them."""
    call = p.pick("pgrain.predict('m', x)", "pgrain.predict('m', q.x)")
    shown = p.pick(f"{call} AS label", f"coalesce({call}, c) AS label",
                   f"{call} AS label, {call} <> c AS wrong")
    where = p.pick("", "", " WHERE g > 0", f" WHERE {call} <> 'b'", f" WHERE {call} = c AND id > 0")
    return f"SELECT id, g, v, c, {shown} FROM {table} AS q{where}"


@family("joins: labels of subqueries, CTEs and views")
def _(p: Parts) -> Query:
    left, right = labelled(p, p.pick("t", "p")), labelled(p, p.pick("u", "t", "solo"))
    on = p.pick("l.label = r.label", "l.label = r.c", "l.label <> r.label AND l.g = r.g",
                "l.label = r.label OR r.g = 1", "l.label < r.label AND r.v > 1",
                "l.label = r.label AND l.label = r.c")
    shown = p.pick("count(*) AS n", "count(*) AS n, sum(r.v) AS s", "count(r.v) AS n",
                   "count(*) FILTER (WHERE l.label = 'a') AS n")
    key = p.pick("", "", "l.g", "r.g", "l.label")
    select = f"SELECT {key + ' AS key, ' if key else ''}{shown}"
    group = f" GROUP BY {key}" + p.maybe(" ORDER BY key") if key else ""
    exact = {name: EXPECTED for name in ("n", "s") if f" AS {name}" in shown}
    return p.pick(
        Query(f"{select} FROM ({left}) AS l JOIN ({right}) AS r ON {on}{group}", exact),
        Query(f"{select} FROM ({left}) AS l, ({right}) AS r WHERE {on}{group}", exact),
        Query(f"WITH l AS ({left}), r AS ({right}) {select} FROM l JOIN r ON {on}{group}", exact),
        Query(f"WITH q AS ({left}) {select} FROM q AS l JOIN q AS r ON {on}{group}", exact),
        Query(f"{select} FROM vm AS l JOIN ({right}) AS r ON {on}{group}", exact),
        Query(f"{select} FROM vm AS l CROSS JOIN u AS r WHERE l.label = r.c{group}", exact))


@family("joins: one prediction between two inputs")
def _(p: Parts) -> Query:
    on = p.pick(f"{p.m('l')} = r.c", f"{p.m('r')} <> l.c", f"{p.m('l')} = r.c OR l.g = 1",
                f"{p.m('l')} IN (r.c, 'a') AND r.v > 1", f"{p.m('l')} > r.c AND l.c = 'a'",
                f"{p.m('l')} IS DISTINCT FROM r.c", f"{p.m('l')} = 'a'",
                f"({p.m('l')} = l.c) = (r.c = 'a')", f"{p.n('l')}::int = r.g")
    third = p.pick("", "", " JOIN solo AS o ON o.id = r.id", " JOIN solo AS o ON o.g = l.g",
                   " CROSS JOIN (VALUES (1), (2)) AS o (k)")
    shown = p.pick("count(*) AS n", "count(*) AS n, sum(r.v) AS s", "sum(l.w) AS s",
                   "count(r.c) AS n", "count(*) FILTER (WHERE r.g > 0) AS n",
                   "sum(r.g) FILTER (WHERE l.c = 'a') AS s")
    key = p.pick("", "", "l.g, ", "r.g, ", "r.c, ", "l.g, r.g, ")
    group = f" GROUP BY {key.rstrip(', ')}" if key else ""
    exact = {name: EXPECTED for name in ("n", "s") if f" AS {name}" in shown}
    return Query(f"SELECT {key}{shown} FROM {p.pick('t', 'p', 'vw')} AS l"
                 f" JOIN {p.pick('u', 't', 'mv')} AS r ON {on}{third}{group}", exact)


@family("joins: arithmetic over the aggregates of a join on predictions")
def _(p: Parts) -> Query:
    on = p.pick(f"{p.m('l')} = {p.m('r')}", f"{p.m('l')} = r.c",
                f"{p.m('l')} <> {p.m('r')} AND l.g = r.g")
    cell, exact = p.pick(
        ("2 * count(*) - 1", EXPECTED), ("count(*) + count(r.v) / 2.0", EXPECTED),
        ("100.0 * count(*) FILTER (WHERE l.g = 0) / nullif(count(*), 0)", None),
        ("round(sum(r.v) / nullif(count(r.c), 0), 1)", None), ("count(*) / 2", None),
        ("coalesce(sum(r.v), 0) - count(*)", EXPECTED), ("-count(*)::float8", EXPECTED),
        ("greatest(count(*), 2) % 3", None), ("count(*) FILTER (WHERE r.g = 1) - 0.5 * count(*)",
                                              EXPECTED))
    key = p.pick("", "l.g, ", "l.g, l.g + 1 AS h, ")
    if key and cell == "2 * count(*) - 1":
        exact = None        # a group that is absent has no row, not -1
    return Query(f"SELECT {key}{cell} AS n FROM t AS l JOIN {p.pick('u', 't')} AS r ON {on}"
                 + (" GROUP BY l.g" + p.maybe(" ORDER BY n") if key else ""),
                 {"n": exact} if exact else {})


@family("joins: HAVING over the aggregates of a join on predictions")
def join_having(p: Parts) -> Query:
    first, second = p.rng.sample(
        [f"count(*) {p.pick('>', '<', '=', '<>')} {p.pick(1, 3, 6)}", "sum(r.v) >= 2.5",
         "avg(l.v) < 1.5", "sum(r.v) IS NULL", "count(r.v) BETWEEN 1 AND 4", "l.g IN (0, 2)",
         f"2 * count(*) FILTER (WHERE {p.m('r')} = 'a') >= count(*)", "sum(l.w) > sum(r.w)"], 2)
    condition = p.pick(first, f"{first} AND {second}", f"{first} OR {second}",
                       f"NOT ({first}) AND {second}", f"({first}) IS NOT TRUE")
    key = p.pick("l.g", "l.g", f"l.g, {p.m('r')}")
    shown = p.pick("count(*) AS n", "sum(r.v) AS s, count(*) + 1 AS more", "count(l.v) AS n")
    return Query(f"SELECT {key}, {shown} FROM {p.plain_relation('l')} JOIN "
                 f"{p.plain_relation('r')} ON {p.both()} {p.maybe('AND l.g = r.g', 0.3)} "
                 f"GROUP BY {key} HAVING {condition}")
