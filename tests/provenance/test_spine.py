"""Expressions as operators: the same structure that PostgreSQL's own parser gives them.

PostgreSQL is asked through a view: pg_get_viewdef writes its tree with all brackets, so two
spellings have one definition exactly if they have one structure.
"""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgrain.errors import UnsupportedOperator
from pgrain.plan.nodes import AggregateCall, ColumnRef, Expr, ModelCall, Subquery
from pgrain.plan.reader import read_statement
from pgrain.plan.spine import Leaf, Node, Op, PieceLeaf, read_tree

P = "pgrain.predict('m', x)"


def expression(text: str) -> Expr:
    return read_statement(f"SELECT {text} FROM t").query.body.items[0].expression


def everything(piece) -> bool:
    return True


def show(node: Node | None):
    """A tree as nested tuples; a piece as ``<text>``."""
    if node is None:
        return None
    if isinstance(node, Op):
        return (node.name, *(show(arg) for arg in node.args))
    if isinstance(node, PieceLeaf):
        piece = node.piece
        return f"<{piece.name if isinstance(piece, ColumnRef) else type(piece).__name__}>"
    return node.text


def tree(text: str, interesting=everything):
    return show(read_tree(expression(text), interesting))


def bracketed(node: Node, source: str) -> str:
    """The text of `node` with brackets around every operand."""
    if not isinstance(node, Op):
        return source[node.start:node.end]
    made, at = [], node.start
    for arg in node.args:
        if arg is None:
            continue
        # A collation is a name; OVERLAPS takes rows; a nested [] of ARRAY is no expression.
        bare = node.name == "collate" and arg is node.args[1] \
            or node.name == "operator:overlaps" \
            or isinstance(arg, Op) and arg.name == "array" and source[arg.start] == "["
        text = bracketed(arg, source)
        made += [source[at:arg.start], text if bare else f"({text})"]
        at = arg.end
    return "".join(made) + source[at:node.end]


# PostgreSQL's table of precedence, one line of it against the next.
STRUCTURES = [
    ("a + b * c ^ d", ("+", "<a>", ("*", "<b>", ("^", "<c>", "<d>")))),
    ("a - b - c", ("-", ("-", "<a>", "<b>"), "<c>")),
    ("a ^ b ^ c", ("^", ("^", "<a>", "<b>"), "<c>")),
    ("- a ^ b", ("^", ("neg", "<a>"), "<b>")),
    ("- a::int[]", ("neg", ("cast:int[]", "<a>"))),
    ("a=-b", ("=", "<a>", ("neg", "<b>"))),
    ("a || b + c = d", ("=", ("operator:||", "<a>", ("+", "<b>", "<c>")), "<d>")),
    ("@ a + b", ("operator:@", ("+", "<a>", "<b>"))),
    ("a OPERATOR(pg_catalog.+) b * c",
     ("+", "<a>", ("*", "<b>", "<c>"))),
    ("NOT a = b IS NULL", ("not", ("is null", ("=", "<a>", "<b>")))),
    ("NOT a AND b OR c AND d AND e",
     ("or", ("and", ("not", "<a>"), "<b>"), ("and", "<c>", "<d>", "<e>"))),
    ("(a OR b) AND c", ("and", ("or", "<a>", "<b>"), "<c>")),
    ("a BETWEEN b AND c AND d", ("and", ("between", "<a>", "<b>", "<c>"), "<d>")),
    ("a NOT BETWEEN SYMMETRIC b AND c", ("not between symmetric", "<a>", "<b>", "<c>")),
    ("a BETWEEN b = c AND d", ("between", "<a>", ("=", "<b>", "<c>"), "<d>")),
    ("a < b IN (1, c)", ("<", "<a>", ("in", "<b>", "1", "<c>"))),
    ("a NOT IN (b)", ("not in", "<a>", "<b>")),
    ("a LIKE b || c ESCAPE d", ("operator:like", "<a>", ("operator:||", "<b>", "<c>"), "<d>")),
    ("a NOT ILIKE b", ("operator:not ilike", "<a>", "<b>")),
    ("a SIMILAR TO b", ("operator:similar to", "<a>", "<b>")),
    ("a IS NOT DISTINCT FROM b = c", ("is not distinct from", "<a>", ("=", "<b>", "<c>"))),
    ("a ISNULL", ("is null", "<a>")), ("a IS NOT UNKNOWN", ("is not unknown", "<a>")),
    ("a != b", ("<>", "<a>", "<b>")),
    ("a AT TIME ZONE b || 'x'", ("operator:||", ("operator:at time zone", "<a>", "<b>"), "'x'")),
    ('a COLLATE "C" < b', ("<", ("collate", "<a>", '"C"'), "<b>")),
    ("CAST(a + 1 AS numeric(10, 2))", ("cast:numeric(10, 2)", ("+", "<a>", "1"))),
    ("a::timestamp with time zone - b",
     ("-", ("cast:timestamp with time zone", "<a>"), "<b>")),
    ("CASE WHEN a THEN b WHEN c THEN d ELSE e END", ("case", "<a>", "<b>", "<c>", "<d>", "<e>")),
    ("CASE a WHEN 1 THEN b END", ("case_simple", "<a>", "1", "<b>", None)),
    ("round(a, 2) + Ceiling(b)", ("+", ("round", "<a>", "2"), ("ceil", "<b>"))),
    ("pg_catalog.abs(a)", ("abs", "<a>")), ("s.abs(a)", ("function:s.abs", "<a>")),
    ('"F"(a, 1)', ('function:"F"', "<a>", "1")),
    ("f(VARIADIC a)", ("special:f", "<a>")), ("f(x => a)", ("special:f", "<a>")),
    ("extract(epoch FROM a)", ("special:extract", "<a>")),
    ("substring(a FROM 1 FOR b)", ("special:substring", "<a>", "1", "<b>")),
    ("substring(a, 1)", ("function:substring", "<a>", "1")),
    ("position('a' IN b)", ("special:position", "'a'", "<b>")),
    ("trim(both 'x' FROM a)", ("special:trim", "'x'", "<a>")),
    ("trim(a)", ("function:trim", "<a>")),
    ("a[1][b]", ("[]", "<a>", "1", "<b>")), ("(a)[b:2]", ("slice", "<a>", "<b>", "2")),
    ("(t.a).f.g", ("field:g", ("field:f", "<a>"))),
    ("ROW(a, 1) = (b, c)", ("=", ("row", "<a>", "1"), ("row", "<b>", "<c>"))),
    ("ARRAY[a, 1]", ("array", "<a>", "1")),
    ("a = ANY (b) AND c", ("and", ("any:=", "<a>", "<b>"), "<c>")),
    ("a <> ALL (ARRAY[b])", ("all:<>", "<a>", ("array", "<b>"))),
    ("(a, b) OVERLAPS (c, d)", ("operator:overlaps", ("row", "<a>", "<b>"), ("row", "<c>", "<d>"))),
    ("sum(a) / count(*)", ("/", "<AggregateCall>", "<AggregateCall>")),
    ("a + b IN (SELECT 1) AND c", ("and", "<Subquery>", "<c>")),
    ("(SELECT 1) + ((SELECT a))", ("+", "<Subquery>", "<Subquery>")),
]


@pytest.mark.parametrize(("text", "structure"), STRUCTURES)
def test_structure(text: str, structure) -> None:
    assert tree(text) == structure


def test_what_does_not_matter_is_one_leaf() -> None:
    def models(piece) -> bool:
        return isinstance(piece, ModelCall)

    assert tree("a + b * f(c)", models) == "a + b * f(c)"
    assert tree(f"(a + 1) * 2 > 3 AND ({P} = 'a' OR (b /* x */)) AND c", models) == (
        "and", "(a + 1) * 2 > 3", ("or", ("=", "<ModelCall>", "'a'"), "(b /* x */)"), "c")
    assert tree(f"coalesce({P}, c || 'd')", models) == ("coalesce", "<ModelCall>", "c || 'd'")
    assert tree(f"(pgrain.predict_proba('m', x))[1] > 0.5 + {1}", models) == (
        ">", ("[]", "<ModelCall>", "1"), "0.5 + 1")
    assert tree("100 * sum(a + b) / nullif(count(*), 0)",
                lambda piece: isinstance(piece, AggregateCall)) == (
        "/", ("*", "100", "<AggregateCall>"), ("nullif", "<AggregateCall>", "0"))


def test_places_are_slices_with_brackets() -> None:
    text = f"SELECT ( ({P}) = 'a' ) IS TRUE AND (x > 1) FROM t"
    read = read_statement(text).query.body.items[0].expression
    node = read_tree(read, lambda piece: isinstance(piece, ModelCall))
    is_true, plain = node.args
    equal, = is_true.args
    call, constant = equal.args
    assert text[equal.start:equal.end] == f"( ({P}) = 'a' )"
    assert text[call.start:call.end] == f"({P})"
    assert text[call.piece.start:call.piece.end] == P
    assert isinstance(plain, Leaf) and plain.text == "(x > 1)"
    assert constant.text == "'a'"


def test_a_quantified_subquery_is_one_piece_with_its_operand() -> None:
    text = f"SELECT NOT a AND (b, {P}) NOT IN (SELECT 1, 2) OR c + 1 >= SOME (SELECT 2) FROM t"
    first, second, third = read_statement(text).query.body.items[0].expression.pieces
    assert isinstance(first, ColumnRef) and isinstance(second, Subquery)
    assert (second.form, second.operator, second.operand.text) == ("all", "<>", f"(b, {P})")
    assert [type(p) for p in second.operand.pieces] == [ColumnRef, ModelCall]
    assert show(second.operand.tree) == ("row", "<b>", "<ModelCall>")
    assert (third.form, third.operator, third.operand.text) == ("any", ">=", "c + 1")
    assert text[third.start:third.end] == "c + 1 >= SOME (SELECT 2)"


@pytest.mark.parametrize("text", [
    "a < b < c", "a = b = ANY (c)", "a BETWEEN 1 AND 2 BETWEEN 3 AND 4", "a b c", "a +", "f(a",
    "a IS b", "CASE a b END", "a::", "()", "select"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="syntax|bracket"):
        expression(text)


def test_deep_nesting_is_an_error_of_its_own() -> None:
    with pytest.raises(UnsupportedOperator, match="deeply"):
        expression("(" * 3000 + "a" + ")" * 3000)
    with pytest.raises(UnsupportedOperator, match="deeply"):
        read_tree(expression(" + ".join(["a"] * 5000)), everything)


# --- against PostgreSQL -----------------------------------------------------------------------

BINARY = ["+", "-", "*", "/", "%", "^", "||", "@@", "->", "<@", "~", "OPERATOR(pg_catalog.+)"]
COMPARISONS = ["<", "<=", ">", ">=", "<>"]
# One type on which every operator works and which is a boolean where one is needed: any text that
# the grammar allows has a type, so that the grammar alone decides.
UNIVERSE = """
CREATE TYPE u AS ENUM ('u');
CREATE FUNCTION to_bool(u) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 IS NOT NULL';
CREATE FUNCTION to_u(bool) RETURNS u LANGUAGE sql IMMUTABLE AS $$SELECT 'u'::u$$;
CREATE CAST (u AS bool) WITH FUNCTION to_bool(u) AS IMPLICIT;
CREATE CAST (bool AS u) WITH FUNCTION to_u(bool) AS IMPLICIT;
CREATE FUNCTION two(u, u) RETURNS u LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION same(u, u) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE FUNCTION one(u) RETURNS u LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION pg_catalog.timezone(u, u) RETURNS u LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION pg_catalog.like_escape(u, u) RETURNS u LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION pg_catalog.similar_to_escape(u) RETURNS u LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE TABLE t (a u, b u, c u, d u[]);
"""
OPERATORS = ["+", "-", "*", "/", "%", "^", "||", "@@", "->", "<@", "~", "~~", "!~~", "~~*", "!~~*"]


@pytest.fixture(scope="module")
def universe(module_database):
    connection = module_database(extension=False).connection
    connection.execute(UNIVERSE)
    for schema in ("public", "pg_catalog"):
        for operator in OPERATORS:
            connection.execute(f"CREATE OPERATOR {schema}.{operator} (LEFTARG = u, RIGHTARG = u,"
                               " FUNCTION = public.two)")
    for operator in (*COMPARISONS, "="):
        connection.execute(f"CREATE OPERATOR {operator} (LEFTARG = u, RIGHTARG = u,"
                           " FUNCTION = same)")
    for operator in ("+", "-", "@", "~"):
        connection.execute(f"CREATE OPERATOR {operator} (RIGHTARG = u, FUNCTION = one)")
    return connection


def definition(connection, text: str) -> str:
    connection.execute(f"CREATE OR REPLACE TEMP VIEW asked AS SELECT ({text})::u AS x FROM t")
    return connection.execute("SELECT pg_get_viewdef('asked')").fetchone()[0]


FORMS = [
    "NOT {}", "- {}", "@ {}", "{} IS NULL", "{} IS NOT TRUE", "{} NOTNULL", "{} IN ({}, {})",
    "{} IS DISTINCT FROM {}", "{} BETWEEN {} AND {}", "{} NOT BETWEEN SYMMETRIC {} AND {}",
    "{} NOT IN ({})", "{} LIKE {}", "{} NOT ILIKE {}", "{} SIMILAR TO {}", "{} LIKE {} ESCAPE {}",
    "({})", "({})", "{} AT TIME ZONE {}", "{} = ANY (d)", "{}::u", "one({})",
    "CASE WHEN {} THEN {}::u ELSE {}::u END",
    *(f"{{}} {operator} {{}}" for operator in (*BINARY, *COMPARISONS, "=", "AND", "OR", "AND"))]


def spelled(depth: int = 4) -> st.SearchStrategy[str]:
    """Random text by the grammar's productions, few brackets among them."""
    leaf = st.sampled_from(["a", "b", "c", "t.a"])
    if depth == 0:
        return leaf
    part = spelled(depth - 1)
    forms = st.sampled_from(FORMS).flatmap(
        lambda form: st.tuples(*[part] * form.count("{}")).map(lambda parts: form.format(*parts)))
    return st.one_of(forms, forms, forms, leaf)


@settings(max_examples=300, deadline=None, derandomize=True,
          suppress_health_check=list(HealthCheck))
@given(text=spelled())
def test_the_structure_is_postgresqls(universe, text: str) -> None:
    try:
        wanted = definition(universe, text)
    except psycopg.errors.SyntaxError:
        # What PostgreSQL's grammar refuses (a < b < c) need not be read, but never as one tree.
        with pytest.raises(UnsupportedOperator):
            expression(text)
        return
    except psycopg.Error:
        return                                 # types that do not match
    source = f"SELECT {text} FROM t"
    read = read_statement(source).query.body.items[0].expression
    assert read.text == text
    assert definition(universe, bracketed(read.tree, source)) == wanted


REAL = r"""
extract(epoch FROM ts) + 1
interval '1 day' * 2 + interval '2' hour to minute
ts AT TIME ZONE 'utc' AT TIME ZONE 'cet' < now()
CASE n WHEN 1 THEN c || 'x' ELSE NULL END
substring(c FROM 1 FOR 2) || substring(c, 2)
position('a' IN c || 'b') + 1
trim(both 'x' FROM c) || trim(c) || btrim(c, 'x')
(r).f + (k.r).f
v[1]::text || v[-n:3][2:n]::text
v[1:2] || ARRAY[n, 2]
ARRAY[[n, 1], [2, 3]]
ROW(n, c) < ROW(1, 'b')
(n, c) = (1, 'a')
current_date + n
numeric(10, 2) '1.5' + n
c COLLATE "C" < 'b'
(ts, ts) OVERLAPS (ts, interval '1 day')
j -> 'a' ->> 0
(j #>> '{a,0}')::int::numeric(5, 1)
c IS DISTINCT FROM 'a' || 'b'
n BETWEEN SYMMETRIC 3 AND 1 AND true
E'a\'b' || c /* 'x */ || "C d"
overlay(c placing 'x' from 1 for 1)
n <> ALL (v) OR n = ANY ('{1,2}')
coalesce(n, 0) + nullif(n, 1) % greatest(n, 2) / least(2, 1)
-n ^ 2 - - n
n=-1 or n<-1
2 ^ - n ^ 2
NOT n > 1 IS NULL
c LIKE 'a%' ESCAPE '!' = true
c !~~ ANY (ARRAY['a']) IS NULL
date '2026-01-01' - interval '1' year to month
timestamp with time zone '2026-01-01 00:00+00' < ts
left(c, 1) || right(c, 1)
n::double precision / B'101'::bit varying(3)::bit(3)::int
U&'d\0061t\+000061' || c
normalize(c, NFC) IS NFC NORMALIZED
cast(c AS character varying(2)) || c::char varying
collation for (c)
json_build_object('a', n) ->> 'a'
n IN (1, 2 + 3) = (c IN ('a'))
count(*) FILTER (WHERE n > 1 OR c = 'a') * 100 / nullif(count(n), 0)
OPERATOR(pg_catalog.-) n OPERATOR(pg_catalog.*) 2
k.n + k.n
(k).n
percentile_cont(0.5) WITHIN GROUP (ORDER BY n + 1) + 1
n + (SELECT max(o.n) FROM k o WHERE o.n < k.n + 1) * 2
n NOT IN (SELECT o.n FROM k o) AND EXISTS (SELECT FROM k)
n + 1 = ANY (SELECT o.n FROM k o) OR n IN ((SELECT 1))
sum(n) OVER (PARTITION BY c ORDER BY ts ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) + 1
string_agg(c, ',' ORDER BY n DESC NULLS LAST) || 'x'
c ~ '^a' AND c ~* 'B' AND NOT c !~ 'c'
value + date + type + name
ARRAY(SELECT 1)::int[] || v
to_char(ts, 'YYYY')::int4 > 2000
ARRAY[n]::pg_catalog.int8[]::text
(ts AT TIME ZONE 'utc')::date = date '2026-01-01' IS NOT TRUE
n << 1 | 2 & 3 # 4
@ n - 5
xmlconcat(NULL, NULL) IS DOCUMENT
interval(3) '1.23456 s' < '2 s'
'x' || n::text
abs(n) + round(n::numeric, 1) + ceiling(n) + pow(n, 2)
""".strip().splitlines() + ["'a'\n 'b' || c"]


@pytest.fixture(scope="module")
def real(module_database):
    connection = module_database(extension=False).connection
    connection.execute(
        "CREATE TYPE pair AS (f int, g int); CREATE TABLE k (n int, c text, ts timestamptz,"
        ' v int[], r pair, j jsonb, "C d" text, value int, date int, type int, name int);'
        "INSERT INTO k VALUES (1, 'ab', '2026-01-01 10:00+00', '{1,2,3}', '(1,2)',"
        " '{\"a\": [1]}', 'q', 1, 2, 3, 4), (2, NULL, NULL, '{4}', NULL, NULL, 'x', 1, 1, 1, 1)")
    return connection


@pytest.mark.parametrize("text", REAL)
def test_real_expressions(real, text: str) -> None:
    """Structure as above, and the same values."""
    grouped = any(name in text for name in ("count(", "percentile", "string_agg"))
    source = f"SELECT {text} FROM k" + ("" if grouped else " ORDER BY k.n")
    read = read_statement(source).query.body.items[0].expression
    assert read.text == text
    other = source.replace(text, bracketed(read.tree, source), 1)

    def answer(query: str):
        real.execute(f"CREATE TEMP VIEW asked (x) AS {query}")
        found = (real.execute("SELECT pg_get_viewdef('asked')").fetchone(),
                 real.execute("SELECT x::text FROM asked").fetchall())
        real.execute("DROP VIEW asked")
        return found

    assert answer(other) == answer(source)
