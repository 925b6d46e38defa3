"""What the families of queries are made of: a random schema, and fragments over its tables."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

CLASSES = ["a", "b", "O'k"]          # of model m, on column x
DIGITS = ["0", "1", "7"]             # of model n, on column y
ROW_CLASSES = ["a", "b"]             # of model r, on whole rows (their columns x and g)
FEATURES = [f"f{i}" for i in range(5)]
GROUPS = [0, 1, 2, None]
NAMES = "id, x, y, c, g, v, w, d"
DEFINE = ("(id int, x text, y text, c text, g int, v numeric, w float8, d date)")
OWNER, READER = "pgrain_family_owner", "pgrain_family_reader"

ROW = "(row)"
EXPECTED, IF_KNOWN, TEXTS = "expected", "if known", "texts"
"""What is exact of a column: E[cell, NULL as 0], E[cell | not NULL], P(the cell shows a text)."""


@dataclass(frozen=True)
class Query:
    """One query; `exact` names what of its relaxed value is an expectation.

    Keys are names of output columns (values: EXPECTED, IF_KNOWN, TEXTS), or ROW for the probability
    that a row is in the result. role: who runs it.
    """

    text: str
    exact: dict = field(default_factory=dict)
    role: str | None = None


def literal(value) -> str:
    if value is None:
        return "NULL"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def random_row(rng: random.Random, number: int, features: list[str], x: str | None = None) -> str:
    """NULLs, duplicates, equal numbers of different spelling, equal features in several rows."""
    texts = [number, x or rng.choice([*features, *features, None]),
             x or rng.choice([*features, *features, None]),
             rng.choice([*CLASSES, *CLASSES, None, "z"]), rng.choice(GROUPS)]
    return "(" + ", ".join([*map(literal, texts), rng.choice(["1.0", "1.00", "2.5", "-3", "NULL"]),
                            rng.choice(["0", "1.5", "-2.25", "NULL"]),
                            rng.choice(["'2026-01-01'", "'2026-02-02'", "NULL"])]) + ")"


def schema_sql(rng: random.Random, largest: int, features: list[str], foreign: bool) -> str:
    """Tables t, u (may be empty) and solo (no two rows with equal features), and relations of every
    other kind made of them. ids are unique in each."""
    parts = []
    for name, rows in (("t", rng.randint(max(1, largest // 2), largest)),
                       ("u", rng.choice([0, 1, *[largest] * 5])), ("solo", len(features))):
        parts.append(f"CREATE TABLE {name} {DEFINE};")
        if rows:
            made = [random_row(rng, i, features, features[i] if name == "solo" else None)
                    for i in range(rows)]
            parts.append(f"INSERT INTO {name} VALUES {', '.join(made)};")
    m = "pgrain.predict('m', x)"
    shown = f"SELECT {NAMES}, {m} AS label FROM t"
    condition = rng.choice([f"{m} = c", f"{m} <> 'a'", f"{m} IN ('b', c)"])
    parts.append(f"""
CREATE TABLE p {DEFINE} PARTITION BY LIST (g);
CREATE TABLE p_low PARTITION OF p FOR VALUES IN (0, 1); CREATE TABLE p_rest PARTITION OF p DEFAULT;
INSERT INTO p SELECT * FROM t UNION ALL SELECT id + 100, {NAMES[4:]} FROM u;
CREATE TABLE parent {DEFINE}; CREATE TABLE child (extra int) INHERITS (parent);
INSERT INTO parent SELECT * FROM t WHERE id % 2 = 0;
INSERT INTO child SELECT *, 1 FROM t WHERE id % 2 = 1;
CREATE VIEW vw AS SELECT * FROM t WHERE g IS DISTINCT FROM 1;
CREATE MATERIALIZED VIEW mv AS SELECT * FROM p;
CREATE MATERIALIZED VIEW mlabel AS {shown};
CREATE FUNCTION all_of_t() RETURNS SETOF t LANGUAGE sql STABLE AS 'SELECT * FROM t ORDER BY id';
CREATE FUNCTION of_group(int) RETURNS SETOF t LANGUAGE plpgsql STABLE AS
 'BEGIN RETURN QUERY SELECT * FROM t WHERE g = $1 ORDER BY id; END';
CREATE VIEW vm AS {shown};
CREATE VIEW vmm AS SELECT *, label = c AS same FROM vm WHERE g IS DISTINCT FROM 2;
CREATE VIEW vmw AS SELECT {NAMES}, label FROM vmm WHERE label {rng.choice(["<> 'b'", "= c"])};
CREATE VIEW vg AS SELECT g, count(*) AS n, sum(v) AS total FROM t WHERE {condition} GROUP BY g;
CREATE VIEW vu AS {shown} UNION ALL SELECT id + 50, {NAMES[4:]}, c FROM u;
CREATE VIEW ve AS SELECT * FROM t WHERE EXISTS (SELECT 1 FROM u AS k WHERE k.g = t.g
 AND pgrain.predict('m', k.x) <> 'b');
CREATE VIEW vo AS SELECT * FROM t; ALTER VIEW vo OWNER TO {OWNER};
CREATE VIEW vom AS {shown} WHERE g IS NOT NULL; ALTER VIEW vom OWNER TO {OWNER};
CREATE TABLE s AS SELECT * FROM t; ALTER TABLE s ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON s TO {READER} USING (g IS DISTINCT FROM 0 OR id IN (SELECT id FROM u));
GRANT USAGE ON SCHEMA public TO {OWNER}, {READER}; GRANT SELECT ON t TO {OWNER};
GRANT SELECT ON s, u TO {READER};""")
    if foreign:
        parts.append(f"CREATE FOREIGN TABLE ft {DEFINE} SERVER loopback"
                     " OPTIONS (schema_name 'public', table_name 't');")
    return "\n".join(parts)


class Parts:
    """Fragments of queries over the schema."""

    def __init__(self, rng: random.Random):
        self.rng = rng

    def pick(self, *choices):
        return self.rng.choice(choices)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def m(self, alias: str) -> str:
        return f"pgrain.predict('m', {alias}.x)"

    def n(self, alias: str) -> str:
        return f"pgrain.predict('n', {alias}.y)"

    def plain_relation(self, alias: str) -> str:
        """A relation with all columns and unique ids, without a model call."""
        return self.pick("t", "t", "t", "u", "u", "p", "vw", "mv", "solo", "parent",
                         "all_of_t()") + f" AS {alias}"

    def on_label(self, label: str, a: str) -> str:
        """A condition on the prediction `label` and on columns of `a`."""
        return self.pick(
            f"{label} = 'a'", f"{label} = 'b'", f"{label} <> {a}.c", f"{label} IN ('a', 'O''k')",
            f"({label} = {a}.c OR {a}.g > 1)", f"{label} IS DISTINCT FROM {a}.c",
            f"NOT ({label} = 'a' OR {label} = {a}.c)", f"coalesce({label}, 'a') = 'a'",
            f"({label} = 'a') = ({a}.v > 1)", f"length({label}) = 1",
            f"CASE WHEN {a}.g > 0 THEN {label} = 'a' ELSE {label} <> 'b' END")

    def on_m(self, a: str) -> str:
        return self.on_label(self.m(a), a)

    def on_n(self, a: str) -> str:
        n = self.n(a)
        return self.pick(f"{n} = '1'", f"{n}::int > 0", f"{n}::int = {a}.g", f"{n} <> '7'",
                         f"{n}::int + {a}.g < 3", f"{n}::numeric BETWEEN 0.5 AND 7")

    def plain(self, a: str) -> str:
        return self.pick(f"{a}.g > 0", f"{a}.g IS NOT NULL", f"{a}.v < 2.5", f"{a}.c = 'a'",
                         f"{a}.id < 5", "true", f"{a}.d >= date '2026-01-15'",
                         f"({a}.c = 'a' OR {a}.g = 1)")

    def meets(self, a: str = "l", b: str = "r") -> str:
        """A condition on columns of two inputs."""
        return self.pick(f"{a}.g = {b}.g", f"{a}.g = {b}.g", f"{a}.id <> {b}.id", f"{a}.c = {b}.c",
                         f"{a}.id < {b}.id", f"{a}.v = {b}.v", f"({a}.g = {b}.g OR {a}.c = {b}.c)")

    def both(self, a: str = "l", b: str = "r") -> str:
        """A condition on two predictions."""
        p, q = self.m(a), self.m(b)
        return self.pick(
            f"{p} = {q}", f"{p} = {q}", f"{p} <> {q}", f"{p} < {q}", f"{p} IN ({q}, 'a')",
            f"({p} = 'a' OR {q} = 'b')", f"({p}, {q}) IN (('a', 'b'), ('b', 'b'))",
            f"({p} = {q} AND {p} <> 'a')", f"{p} IS NOT DISTINCT FROM {q}",
            f"({p} = {b}.c AND {q} = {a}.c)", f"coalesce({p} = {q}, {a}.c = 'a')")

    def key(self, a: str) -> str:
        """A grouping expression of columns."""
        return self.pick(f"{a}.g", f"{a}.c", f"{a}.v", f"{a}.g % 2", f"upper({a}.c)", f"{a}.d",
                         f"coalesce({a}.g, -1)")

    def total(self, a: str) -> str:
        """count or sum without a prediction inside: linear."""
        return self.pick("count(*)", f"count({a}.v)", f"sum({a}.v)", f"sum({a}.g)", f"sum({a}.w)",
                         f"sum({a}.v * 2 + {a}.id)")

    def where(self, *conditions: str) -> str:
        kept = [c for c in conditions if c]
        self.rng.shuffle(kept)
        return "WHERE " + " AND ".join(kept) if kept else ""

    def maybe(self, text: str, probability: float = 0.5) -> str:
        return text if self.chance(probability) else ""

    def shape(self, relation: str, label: str | None = None, *, a: str = "l",
              role: str | None = None) -> Query:
        """One of the simple queries over a relation with all columns; `label` is its prediction."""
        label = label or self.m(a)
        condition, kind = self.on_label(label, a), self.rng.randrange(6)
        if kind == 0:
            return Query(f"SELECT {a}.g, count(*) AS n, sum({a}.v) AS s FROM {relation}"
                         f" WHERE {condition} GROUP BY {a}.g",
                         {"n": EXPECTED, "s": EXPECTED, ROW: ""}, role)
        if kind == 1:
            return Query(f"SELECT {label} AS k, count(*) AS n FROM {relation} GROUP BY 1",
                         {"n": EXPECTED, ROW: ""}, role)
        if kind == 2:
            return Query(f"SELECT {a}.id, {label} AS shown FROM {relation} WHERE {condition}",
                         {"shown": TEXTS, ROW: ""}, role)
        if kind == 3:
            return Query(f"SELECT count(*) FILTER (WHERE {condition}) AS n, count(*) AS \"all\""
                         f" FROM {relation} {self.where(self.plain(a))}", {"n": EXPECTED}, role)
        if kind == 4:
            return Query(f"SELECT DISTINCT {a}.g FROM {relation} WHERE {condition}", {ROW: ""},
                         role)
        return Query(f"SELECT {a}.g FROM {relation} WHERE {condition} GROUP BY {a}.g"
                     f" HAVING count(*) {self.pick('>', '>=', '=', '<', '<>')} {self.pick(1, 2)}",
                     {ROW: ""}, role)


FAMILIES: dict[str, Callable[[Parts], Query]] = {}


def family(name: str):
    """Registers a maker of queries."""
    def register(make):
        if name in FAMILIES:
            raise ValueError(f"two families {name}")
        FAMILIES[name] = make
        return make
    return register
