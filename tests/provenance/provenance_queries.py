"""Random schemas, data and queries over the families that must work."""

from __future__ import annotations

import random

CLASSES = ["a", "b", "O'k", "ab"]
FEATURES = [f"f{i}" for i in range(6)]
COLUMNS = "id, x, c, g, v, w, d"


def literal(value) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value)


def random_row(rng: random.Random, number: int) -> str:
    """(id, x, c, g, v, w, d): NULLs, duplicates, equal numbers of different spelling."""
    values = [number, rng.choice([*FEATURES, *FEATURES, None]),
              rng.choice([*CLASSES, *CLASSES, None, "z"]), rng.choice([0, 1, 2, 3, None]),
              rng.choice(["1.0", "1.00", "2.5", "-3", "0", "NULL"]),
              rng.choice(["'-0'", "0", "1.5", "-2.25", "NULL"]),
              rng.choice(["'2026-01-01'", "'2026-01-02'", "NULL"])]
    return "(" + ", ".join([literal(v) for v in values[:4]] + values[4:]) + ")"


def schema_sql(rng: random.Random, largest: int = 14) -> str:
    """Tables t, u (may be empty), a partitioned table p, views, a function."""
    parts = []
    define = "(id int, x text, c text, g int, v numeric, w float8, d date)"
    for name in ("t", "u"):
        n = rng.choice([0, 1, 3, largest, largest]) if name == "u" else rng.randint(1, largest)
        parts.append(f"CREATE TABLE {name} {define};")
        if n:
            rows = ", ".join(random_row(rng, i) for i in range(n))
            parts.append(f"INSERT INTO {name} VALUES {rows};")
    parts.append(f"CREATE TABLE p {define} PARTITION BY LIST (g);"
                 "CREATE TABLE p_low PARTITION OF p FOR VALUES IN (0, 1);"
                 "CREATE TABLE p_rest PARTITION OF p DEFAULT;"
                 "INSERT INTO p SELECT * FROM t UNION ALL SELECT * FROM u;"
                 "CREATE VIEW vw AS SELECT * FROM t WHERE g IS DISTINCT FROM 1;"
                 "CREATE MATERIALIZED VIEW mv AS SELECT * FROM p;"
                 "CREATE FUNCTION all_of_t() RETURNS SETOF t LANGUAGE sql STABLE"
                 " AS 'SELECT * FROM t';")
    return "\n".join(parts)


class QueryMaker:
    """One random query after the other; `family` says what the last one is about."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.family = ""

    def pick(self, *choices):
        return self.rng.choice(choices)

    def predict(self, alias: str, bare: bool) -> str:
        column = "x" if bare else f"{alias}.x"
        return f"pgrain.predict('m', {column})"

    def relation(self, alias: str) -> str:
        rng = self.rng
        kind = rng.randrange(12)
        if kind < 5:
            return f"{self.pick('t', 'u', 'p')} {self.pick('AS ', '')}{alias}"
        return [f"vw AS {alias}", f"mv {alias}", f"all_of_t() AS {alias}",
                f"(SELECT * FROM t WHERE g < 3 ORDER BY id LIMIT 9) AS {alias}",
                f"(VALUES (1, 'f0', 'a', 1, 2.50, 1.5::float8, NULL::date),"
                f" (2, 'f0', NULL, 2, 1, 0, '2026-01-01')) AS {alias} ({COLUMNS})",
                f"(SELECT a.id, b.x, a.c, a.g, a.v, b.w, a.d FROM t a LEFT JOIN u b"
                f" ON a.id = b.id) {alias}",
                f"public.t AS {alias}"][kind - 5]

    def one_condition(self, alias: str, bare: bool) -> str:
        """A condition on one prediction and columns."""
        p = self.predict(alias, bare)
        q = "" if bare else f"{alias}."
        return self.pick(
            f"{p} = 'a'", f"{p} <> {q}c", f"{p} IN ('a', 'O''k')", f"{p} = {q}c OR {q}g > 1",
            f"{p} IS NULL", f"{p} IS DISTINCT FROM {q}c", f"{p} LIKE 'a%'",
            f"NOT ({p} = 'a' OR {p} = {q}c)", f"{p} BETWEEN 'a' AND 'ab' AND {q}g >= 0",
            f"CASE WHEN {q}g > 1 THEN {p} = 'a' ELSE {p} <> 'b' END", f"length({p}) = {q}g",
            f"{p} < {q}c", f"coalesce({p}, 'a') = 'a'", f"({p} = 'a') = ({q}v > 1)",
            f"{p} /* -- */ = ANY (ARRAY['b', {q}c])", f"{p} IN (SELECT k.c FROM t k)",
            f"{q}w + length({p}) > 1.5")

    def two_condition(self) -> str:
        """A condition on two predictions."""
        left, right = self.predict("l", False), self.predict("r", False)
        return self.pick(
            f"{left} = {right}", f"{left} = {right}", f"{left} <> {right}", f"{left} < {right}",
            f"{left} = 'a' OR {right} = 'b'", f"({left}, {right}) IN (('a', 'b'), ('b', 'b'))",
            f"{left} = {right} AND {left} <> 'a'", f"{left} IS NOT DISTINCT FROM {right}",
            f"{left} = r.c AND {right} = l.c", f"{left} || {right} = 'aa' OR l.g = r.g",
            f"coalesce({left} = {right}, l.c = 'a')")

    def plain_condition(self, alias: str, bare: bool) -> str:
        q = "" if bare else f"{alias}."
        return self.pick(f"{q}g > 0", f"{q}g IS NOT NULL", f"{q}v < 2.5", f"{q}c = 'a' OR {q}g = 1",
                         f"{q}id BETWEEN 1 AND 9", f"EXISTS (SELECT 1 FROM u k WHERE k.g = {q}g)",
                         f"{q}d >= date '2026-01-01'", "true", f"{q}c <> 'x; -- y'")

    def cross_condition(self) -> str:
        return self.pick("l.g = r.g", "l.id <> r.id", "l.id < r.id", "l.c = r.c", "l.v = r.v",
                         "l.g + 1 = r.g", "l.w >= r.w", "(l.g = r.g OR l.c = r.c)")

    def aggregate(self, aliases: list[str], bare: bool) -> str:
        alias = self.rng.choice(aliases)
        p, q = self.predict(alias, bare), "" if bare else f"{alias}."
        other = self.rng.choice(aliases)
        o = "" if bare else f"{other}."
        text = self.pick(
            "count(*)", "count(*)", f"count({q}v)", f"count({p})", f"sum({q}v)", f"sum({q}g)",
            f"avg({q}w)", f"sum(CASE WHEN {p} = 'a' THEN {q}v ELSE 1 END)", f"avg(length({p}))",
            f"sum({q}g * length({p}))", f"sum({q}v * {o}w)", f"avg({q}v + {o}g)",
            f"count(CASE {p} WHEN 'a' THEN 1 END)", "count(1)", "sum(2)")
        if self.rng.random() < 0.35:
            text += " FILTER (WHERE " + self.pick(
                self.one_condition(alias, bare), self.plain_condition(alias, bare),
                self.plain_condition(other, bare)) + ")"
        return text

    def group_key(self, aliases: list[str], bare: bool) -> str:
        alias = self.rng.choice(aliases)
        p, q = self.predict(alias, bare), "" if bare else f"{alias}."
        return self.pick(f"{q}g", f"{q}c", f"{q}v", f"{q}w", p, p, f"upper({p})", f"{q}g % 2",
                         f"{q}d", f"CASE WHEN {p} = 'a' THEN {q}c ELSE 'z' END", f"{p} = {q}c",
                         f"date_trunc('month', {q}d)", f"left({q}c, 1)")

    def from_and_where(self) -> tuple[str, list[str], bool]:
        """FROM ... WHERE ..., the aliases, and whether columns may stand unqualified."""
        kind = self.rng.randrange(10)
        if kind < 4:
            bare = self.rng.random() < 0.5
            conditions = [self.one_condition("l", bare) for _ in range(self.pick(0, 1, 1, 2))]
            conditions += [self.plain_condition("l", bare) for _ in range(self.pick(0, 1))]
            self.rng.shuffle(conditions)
            where = " WHERE " + " AND ".join(f"({c})" for c in conditions) if conditions else ""
            self.family = "scan"
            return f"FROM {self.relation('l')}{where}", ["l"], bare
        same = self.rng.random() < 0.4
        left = self.relation("l")
        right = left.replace(" l", " r") if same and left.endswith(" l") else self.relation("r")
        self.family = "self-join" if same else "join"
        model = [self.two_condition()] if self.rng.random() < 0.75 else \
            [self.one_condition("l", False), self.one_condition("r", False)]
        plain = [self.cross_condition() for _ in range(self.pick(0, 0, 1, 1, 2))]
        plain += [self.plain_condition("l", False)] if self.rng.random() < 0.3 else []
        if kind == 9:
            self.family = "lateral"
            right = (f"LATERAL (SELECT k.* FROM {self.pick('t', 'u')} k"
                     f" WHERE k.g {self.pick('=', '<', '<>')} l.g) AS r")
        third = ""
        if kind == 8:
            self.family = "three inputs"
            third = f" CROSS JOIN LATERAL (SELECT r.g AS h) AS e JOIN {self.pick('t', 'u')} o" \
                " ON o.g = e.h"
        together = model + plain
        self.rng.shuffle(together)
        if self.rng.random() < 0.5:
            on = " AND ".join(f"({c})" for c in together)
            return (f"FROM {left} {self.pick('JOIN', 'INNER JOIN')} {right} ON {on}{third}",
                    ["l", "r"], False)
        where = " AND ".join(f"({c})" for c in together)
        comma = "," if third else self.pick(",", " CROSS JOIN")
        return f"FROM {left}{comma} {right}{third} WHERE {where}", ["l", "r"], False

    def query(self) -> str:
        from_, aliases, bare = self.from_and_where()
        shape = self.rng.randrange(5)
        if shape == 0:
            self.family += ", rows"
            alias = self.rng.choice(aliases)
            q = "" if bare else f"{alias}."
            items = self.rng.sample(
                [f"{q}id", f"{q}c AS \"C c\"", f"{self.predict(alias, bare)} AS label",
                 f"{q}v * 2", f"length({self.predict(alias, bare)}) AS n", f"{alias}.*",
                 f"{self.predict(alias, bare)} = {q}c AS same", "'x' y"], self.pick(2, 3, 4))
            return f"SELECT {', '.join(items)} {from_}"
        aggregates = [self.aggregate(aliases, bare) for _ in range(self.pick(1, 1, 2, 3))]
        if shape == 1:
            self.family += ", one group"
            return f"SELECT {', '.join(aggregates)} {from_}"
        keys = [self.group_key(aliases, bare) for _ in range(self.pick(1, 1, 2))]
        self.family += ", groups"
        if any("predict" in key for key in keys):
            self.family += " by prediction"
        if shape == 2:
            items = [f"{key} AS k{i}" for i, key in enumerate(keys)] + aggregates
            by = ", ".join(str(i + 1) if self.rng.random() < 0.5 else f"k{i}"
                           for i in range(len(keys)))
            order = " ORDER BY 1" if self.rng.random() < 0.3 else ""
            return f"SELECT {', '.join(items)} {from_} GROUP BY {by}{order};"
        items = aggregates + (keys if shape == 3 else [])
        return f"SELECT {', '.join(items)} {from_} GROUP BY {', '.join(keys)}"
