"""Whole queries as nodes: what is found, where it stands, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest
from provenance_queries import QueryMaker
from test_text_and_names import QUERIES

from pgrain.errors import ComplaintSyntax, LimitExceeded, UnsupportedOperator
from pgrain.plan import keywords, nodes
from pgrain.plan.lexer import tokenize
from pgrain.plan.query import build
from pgrain.plan.reader import read_statement
from pgrain.plan.select import read_select

P = "pgrain.predict('m', x)"


def read(text: str) -> nodes.Query:
    return read_statement(text).query


def walk(value) -> Iterator:
    """Every node under `value`, the tokens and operator trees left out."""
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from walk(entry)
    elif is_dataclass(value) and type(value).__module__ == nodes.__name__:
        yield value
        for member in fields(value):
            if member.name not in ("tokens", "tree"):
                yield from walk(getattr(value, member.name))


def all_of(value, kind: type | tuple[type, ...]) -> list:
    return [node for node in walk(value) if isinstance(node, kind)]


def columns(value) -> list[tuple]:
    return [(c.qualifier, c.name) for c in all_of(value, nodes.ColumnRef)]


def item(text: str) -> nodes.Expr:
    return read(f"SELECT {text} FROM t").body.items[0].expression


# --- every node keeps its place ---------------------------------------------------------------

HARD = [
    "SELECT FROM t", "SELECT 1 FROM current_date", "SELECT 1",
    "SELECT 1 FROM ONLY (t), ONLY u, v *, s.w AS x (a, b)",
    "SELECT * FROM ROWS FROM (f(1), g(2) AS (a int, b text)) WITH ORDINALITY AS r (a, b, c),"
    " LATERAL (SELECT t.a) q",
    "SELECT * FROM (a JOIN b USING (x)) AS j, (c NATURAL LEFT JOIN d)",
    "SELECT * FROM a JOIN b JOIN c ON b.x = c.x ON a.x = b.x",
    "SELECT * FROM a CROSS JOIN b LEFT JOIN c ON true RIGHT OUTER JOIN d ON false FULL JOIN e"
    " USING (i)",
    "SELECT * FROM json_to_record('{}') AS x (a int, b text[] COLLATE \"C\", c numeric(10, 2)),"
    " json_to_record('{}') AS (d int, e double precision)",
    "SELECT * FROM unnest(ARRAY[1, 2]) WITH ORDINALITY, generate_series(1, 3) g, CAST(1 AS int) c",
    "SELECT a FROM t UNION ALL SELECT b FROM u INTERSECT SELECT c FROM v EXCEPT SELECT d FROM w"
    " ORDER BY 1 LIMIT 2 OFFSET 1",
    "(SELECT a FROM t ORDER BY a LIMIT 1) UNION (SELECT b FROM u LIMIT 2) ORDER BY 1",
    "((SELECT a FROM t) UNION SELECT 1) LIMIT 3", "(SELECT a FROM t ORDER BY a) LIMIT 3",
    "WITH a AS (SELECT 1), b (x) AS NOT MATERIALIZED (SELECT * FROM a) SELECT * FROM b, a",
    "WITH RECURSIVE r (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM r WHERE n < 5)"
    " SELECT * FROM r",
    "WITH a AS (WITH b AS (SELECT 1) SELECT * FROM b) (SELECT * FROM a)",
    "SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS v (i, c), (VALUES (1) UNION SELECT 2) w"
    " WHERE EXISTS (VALUES (1)) AND 3 IN (TABLE t)",
    "SELECT ((SELECT 1)), (((SELECT 2) UNION (SELECT 3)) LIMIT 1), ((SELECT 1) + 2)",
    f"SELECT x IN (SELECT 1), x NOT IN ((SELECT {P})), (x, y) IN (SELECT 1, 2), NOT EXISTS (SELECT"
    " FROM t), x + 1 > ALL (SELECT 3), ARRAY(SELECT 1 ORDER BY 1), x LIKE ANY (SELECT 'a')",
    "SELECT DISTINCT ON (a, b.c) a, b.* FROM b ORDER BY a, b.c DESC NULLS LAST, d USING <, e ASC",
    "SELECT count(*) FROM t GROUP BY ROLLUP (a, (b, c)), CUBE (d), GROUPING SETS ((a), (), ROLLUP"
    " (b)), e, (f, g), (h), ()",
    "SELECT a, sum(b) OVER w, rank() OVER (PARTITION BY c ORDER BY d ROWS BETWEEN 1 PRECEDING AND"
    " CURRENT ROW), sum(count(e)) OVER (w) FROM t WINDOW w AS (PARTITION BY a)",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x DESC), string_agg(DISTINCT a, ','"
    " ORDER BY a), array_agg(b ORDER BY c) FILTER (WHERE d > 0) FROM t HAVING count(*) > 1",
    "SELECT a FROM t OFFSET 2 ROWS FETCH NEXT 3 ROWS ONLY", "SELECT a FROM t LIMIT ALL OFFSET 2",
    "SELECT a AS year, b \"select\", c AS select, d value FROM t -- end",
    "SELECT 'a'\n 'b' AS c, U&'\\0041' UESCAPE '!', $$x$$ /* y */ FROM t;",
    f"SELECT pgrain.predict_proba('m', x), (pgrain.predict_proba('m', t))[2] p, {P} FROM t",
    f"WITH k AS (SELECT *, {P} AS l FROM t) SELECT l, count(*) FROM (SELECT * FROM k WHERE l <> ("
    f"SELECT {P} FROM u LIMIT 1)) q LEFT JOIN v ON {P} = v.c GROUP BY l HAVING count(*) > 2",
]


@pytest.mark.parametrize("text", HARD + QUERIES)
def test_places(text: str) -> None:
    """``text[start:end]`` is each node; pieces stand in order and apart."""
    statement = read_statement(text)
    for node in walk(statement.query):
        assert isinstance(node, nodes.OrderItem) or 0 <= node.start <= node.end <= len(text)
        if hasattr(node, "text"):
            assert text[node.start:node.end] == node.text
        if isinstance(node, nodes.Expr):
            assert "".join(text[t.start:t.end] for t in node.tokens) == \
                "".join(text[t.start:t.end] for t in tokenize_from(text, node.start, node.end))
            assert (node.tree.start, node.tree.end) == (node.start, node.end)
            places = [node.start, *(p for piece in node.pieces for p in (piece.start, piece.end)),
                      node.end]
            assert places == sorted(places)
            spans = {(p.start, p.end): text[p.start:p.end] for p in node.walk()}
            assert node.substitute(spans) == node.text
    assert left_over(text, statement.query) <= CLAUSES


def tokenize_from(text: str, start: int, end: int) -> list:
    return [t for t in tokenize(text) if start <= t.start and t.end <= end]


CLAUSES = set("( ) , ; . * < select distinct on all from where group by having as union intersect"
              " except order limit offset fetch first next row rows only with recursive not"
              " materialized values table grouping sets rollup cube window asc desc nulls last"
              " using".split())


def left_over(text: str, query: nodes.Query) -> set[str]:
    """What stands in no expression and no relation of FROM, and names no column or CTE."""
    inside = [(n.start, n.end) for n in all_of(query, (nodes.Expr, nodes.FromItem))]
    inside += [(n.start, n.end) for n in all_of(query, nodes.Item) if n.star]
    names = {n.alias for n in all_of(query, nodes.Item)} | {
        name for cte in all_of(query, nodes.Cte) for name in [cte.name, *(cte.columns or [])]}
    end = text.find("WINDOW") if " WINDOW " in text else len(text)     # no node holds its windows
    return {t.value for t in tokenize(text) if t.end <= end and t.value not in names
            and not any(start <= t.start < stop for start, stop in inside)}


# --- expressions ------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "names"), [
    ("extract(epoch FROM ts)", [(None, "ts")]), ("interval '1 day'", []),
    ("x AT TIME ZONE 'utc'", [(None, "x")]), ("(t.c).f", [("t", "c")]),
    ("CASE a WHEN b THEN c ELSE \"D d\" END", [(None, n) for n in ("a", "b", "c", "D d")]),
    ("substring(c FROM 1 FOR n)", [(None, "c"), (None, "n")]),
    ("position('a' IN s.t.c)", [("s.t", "c")]), ("trim(both 'x' FROM c)", [(None, "c")]),
    ("a[1:n]", [(None, "a"), (None, "n")]), ("ROW(a, T.B)", [(None, "a"), ("t", "b")]),
    ("ARRAY[a]", [(None, "a")]), ("current_date", []), ("numeric(10, 2) '1'", []),
    ('c COLLATE "C"', [(None, "c")]), ("t", [(None, "t")]), ("count(t.*)", [("t", "*")]),
    ("j -> 'a' ->> k", [(None, "j"), (None, "k")]), ("x::s.typ[]", [(None, "x")]),
    ("CAST(x AS double precision)", [(None, "x")]), ("a IS DISTINCT FROM b",
                                                     [(None, "a"), (None, "b")]),
    ("a BETWEEN SYMMETRIC b AND c", [(None, n) for n in "abc"]), ("a IS NOT DOCUMENT",
                                                                 [(None, "a")]),
    ("E'a\\'b' || a /* b */ -- c\n", [(None, "a")]), ("f(x => y, z := w)",
                                                      [(None, "y"), (None, "w")]),
    ("s.f(a)", [(None, "a")]), ("date + value", [(None, "date"), (None, "value")]),
    ("date '2026-01-01' + s.t 'x'", []), ("(f(a)).b", [(None, "a")]),
    ("timestamp with time zone '2026-01-01' < time", [(None, "time")]),
    ("interval '1' year to month + year", [(None, "year")]),
    ("normalize(a, NFC)", [(None, "a")]), ("overlay(a placing b from c for d)",
                                           [(None, n) for n in "abcd"]),
    ("a.b[c.d].e", [("a", "b"), ("c", "d")]), ("null AND true OR false", []),
    ("count(*) FILTER (WHERE a) + sum(DISTINCT b)", [(None, "a"), (None, "b")]),
    ("string_agg(a, b ORDER BY c DESC)", [(None, n) for n in "abc"]),
    ("a IN (SELECT b FROM u WHERE c)", [(None, "b"), (None, "c"), (None, "a")]),
    ("sum(a) OVER (PARTITION BY b ORDER BY c)", [(None, n) for n in "abc"]),
    ("ä.\"Ö\"\"o\"", [("ä", 'Ö"o')]), ("a COLLATE s.b", [(None, "a")]),
    ("a OPERATOR(s.+) b", [(None, "a"), (None, "b")]), ("a=-b", [(None, "a"), (None, "b")]),
])
def test_columns(text: str, names: list) -> None:
    assert columns(item(text)) == names


def test_calls() -> None:
    pieces = item(f"count(*) || Sum(DISTINCT a) FILTER (WHERE {P} = 'a') || f({P}) || "
                  "public.max(b) || pg_catalog.max(c) || rank() OVER (ORDER BY d)").pieces
    count, total, call, b, top, window = pieces
    assert (count.function, count.arguments, count.distinct, count.filter) == (
        "count", [], False, None)
    assert total.function == "sum" and total.distinct and total.filter.text == f"{P} = 'a'"
    assert isinstance(call, nodes.ModelCall) and call.argument.text == "x" and not call.bare
    assert isinstance(b, nodes.ColumnRef) and top.function == "max"
    assert isinstance(window, nodes.WindowCall) and not window.model
    assert [part.text for part in window.parts] == ["d"]
    read_in = item(f"f(a, {P}) + g(h(1)) + sum(i(b)) + (SELECT j(c))")
    assert read_in.functions == ("f", "predict", "g", "h", "sum", "i")


def test_windows_that_call_a_model() -> None:
    text = (f"SELECT sum(a) OVER (ORDER BY {P}), sum({P}) OVER w, sum(b) OVER w, sum(c) OVER (w),"
            " sum(d) OVER () FROM t WINDOW w AS (PARTITION BY e)")
    assert [w.model for w in all_of(read(text), nodes.WindowCall)] == [
        True, True, False, False, False]
    text = text.replace("PARTITION BY e", f"PARTITION BY {P}")
    assert [w.model for w in all_of(read(text), nodes.WindowCall)] == [
        True, True, True, True, False]
    assert read(text).body.window


def test_aggregates_of_the_database() -> None:
    text = "SELECT low(a), s.low(a), low(a) OVER (), mode() WITHIN GROUP (ORDER BY b) FROM t"
    items = read_statement(text, keywords.AGGREGATES | {"low", "s.low"}).query.body.items
    kinds = [[type(p).__name__ for p in i.expression.pieces] for i in items]
    assert kinds == [["AggregateCall"], ["AggregateCall"], ["WindowCall"], ["AggregateCall"]]
    assert items[1].expression.pieces[0].function == "s.low"
    ordered = items[3].expression.pieces[0]
    assert ordered.order and [e.text for e in ordered.order_by] == ["b"]
    assert [type(p) for p in item("low(a)").pieces] == [nodes.ColumnRef]


@pytest.mark.parametrize(("text", "forms"), [
    ("(SELECT 1)", [("scalar", None, None)]), ("((SELECT 1))", [("scalar", None, None)]),
    ("NOT EXISTS (SELECT 1)", [("exists", None, None)]),
    ("ARRAY(SELECT 1)", [("array", None, None)]),
    ("a + 1 IN (SELECT 1)", [("any", "=", "a + 1")]),
    ("NOT a NOT IN ((SELECT 1) UNION SELECT 2)", [("all", "<>", "a")]),
    ("(a, b) = ANY (SELECT 1, 2)", [("any", "=", "(a, b)")]),
    ("a < SOME (VALUES (1))", [("any", "<", "a")]),
    ("a NOT LIKE ALL (TABLE u)", [("all", "not like", "a")]),
    ("a = ANY ((SELECT b)::int[])", [("scalar", None, None)]),
    ("((SELECT 1) + a)", [("scalar", None, None)]),
])
def test_subqueries(text: str, forms: list) -> None:
    found = [p for p in item(text).pieces if isinstance(p, nodes.Subquery)]
    assert [(p.form, p.operator, p.operand and p.operand.text) for p in found] == forms


# --- queries ----------------------------------------------------------------------------------

def shape(query: nodes.Query):
    if isinstance(query.body, nodes.SetOperation):
        body = query.body
        return (body.operator + (" all" if body.all else ""), shape(body.left), shape(body.right))
    return query.text


def test_set_operations() -> None:
    query = read("SELECT 1 UNION ALL SELECT 2 INTERSECT SELECT 3 EXCEPT (SELECT 4 UNION SELECT 5"
                 " LIMIT 1) ORDER BY 1 LIMIT 2")
    assert shape(query) == ("except", ("union all", "SELECT 1", ("intersect", "SELECT 2",
                                                                 "SELECT 3")),
                            ("union", "SELECT 4", "SELECT 5"))
    assert query.limit.text == "2" and query.order[0].expression.text == "1"
    assert query.body.right.limit.text == "1"
    assert query.body.right.text == "SELECT 4 UNION SELECT 5 LIMIT 1"


def test_clauses() -> None:
    text = ("SELECT DISTINCT a + 1 AS b, \"C\" c, t.*, * FROM t WHERE d GROUP BY e HAVING f"
            " ORDER BY g DESC NULLS LAST, h OFFSET 5 ROWS FETCH FIRST ROW ONLY")
    query = read(f"( ({text}) ) ;")
    body = query.body
    assert query.text == text
    assert [(i.alias, i.star, i.qualifier) for i in body.items] == [
        ("b", False, None), ("c", False, None), (None, True, "t"), (None, True, None)]
    assert (body.distinct, body.where.text, body.having.text) == (True, "d", "f")
    assert [(g.kind, g.expressions[0].text) for g in body.group] == [("expression", "e")]
    assert [o.suffix for o in query.order] == [" DESC NULLS LAST", ""]
    assert (query.limit.text, query.offset.text) == ("1", "5")


def test_brackets_around_the_body_are_merged() -> None:
    query = read("WITH a AS (SELECT 1) (SELECT b FROM a ORDER BY b) LIMIT 3")
    assert [cte.name for cte in query.ctes] == ["a"]
    assert query.order and query.limit.text == "3" and isinstance(query.body, nodes.Select)
    with pytest.raises(UnsupportedOperator, match="inside and outside"):
        read("(SELECT a FROM t LIMIT 1) LIMIT 2")


def test_groups() -> None:
    def show(items):
        return [(g.kind, [e.text for e in g.expressions], show(g.items)) for g in items]

    body = read("SELECT 1 FROM t GROUP BY ROLLUP (a, (b, c)), GROUPING SETS ((), d, CUBE (e)),"
                " (f, g), (h), (i, j) = (k, l), ROW(m, n)").body
    assert show(body.group) == [
        ("rollup", [], [("expression", ["a"], []), ("list", ["b", "c"], [])]),
        ("sets", [], [("list", [], []), ("expression", ["d"], []),
                      ("cube", [], [("expression", ["e"], [])])]),
        ("list", ["f", "g"], []), ("expression", ["(h)"], []),
        ("expression", ["(i, j) = (k, l)"], []), ("expression", ["ROW(m, n)"], [])]
    assert read("SELECT 1 FROM t").body.group is None


def joined(entry: nodes.FromItem):
    if isinstance(entry, nodes.Join):
        condition = entry.on.text if entry.on else entry.using
        return (("natural " if entry.natural else "") + entry.kind, joined(entry.left),
                joined(entry.right), condition)
    return entry.alias


@pytest.mark.parametrize(("text", "tree"), [
    ("a JOIN b ON x JOIN c ON y", ("inner", ("inner", "a", "b", "x"), "c", "y")),
    ("a JOIN b JOIN c ON x ON y", ("inner", "a", ("inner", "b", "c", "x"), "y")),
    ("a LEFT JOIN b CROSS JOIN c ON x", ("left", "a", ("cross", "b", "c", None), "x")),
    ("a CROSS JOIN b FULL OUTER JOIN c USING (x, y)",
     ("full", ("cross", "a", "b", None), "c", ["x", "y"])),
    ("a NATURAL RIGHT JOIN (b CROSS JOIN c)",
     ("natural right", "a", ("cross", "b", "c", None), None)),
])
def test_joins(text: str, tree) -> None:
    assert joined(read(f"SELECT * FROM {text}").body.from_[0]) == tree


def test_relations() -> None:
    text = ("SELECT * FROM ONLY s.t AS x (a, b), \"U u\", LATERAL (SELECT 1) AS q (c), f(1, d) z,"
            " ROWS FROM (g(), h(e)) WITH ORDINALITY, j() AS k (l int, m numeric(1, 2)[]),"
            " (t JOIN v USING (i)) AS n (o), (SELECT 2) left_one LEFT JOIN w ON true")
    only, quoted, lateral, call, rows, defined, bracket, last = read(text).body.from_
    assert (only.name, only.alias, only.columns, only.only) == (("s", "t"), "x", ["a", "b"], True)
    assert (quoted.name, quoted.alias) == (("U u",), "U u")
    assert (lateral.alias, lateral.columns, lateral.lateral) == ("q", ["c"], True)
    assert (call.function, call.alias, [a.text for a in call.arguments]) == ("f", "z", ["1", "d"])
    assert (rows.function, rows.alias, [a.text for a in rows.arguments]) == (None, "g", ["e"])
    assert (defined.alias, defined.columns) == ("k", ["l", "m"])
    assert (bracket.alias, bracket.columns, bracket.text) == (
        "n", ["o"], "(t JOIN v USING (i)) AS n (o)")
    assert last.left.alias == "left_one" and last.kind == "left"


def test_tables_and_functions() -> None:
    """A name is a CTE's only where the CTE is visible."""
    statement = read_statement(
        "WITH a AS (SELECT * FROM a), b AS (WITH c AS (SELECT f(1)) SELECT * FROM a, c)"
        " SELECT g(x), (SELECT 1 FROM c) FROM b, public.a, D, \"D\" WHERE x IN (TABLE e)")
    assert statement.tables == [("a",), ("c",), ("public", "a"), ("d",), ("D",), ("e",)]
    assert {"f", "g"} <= statement.functions
    recursive = read_statement("WITH RECURSIVE a AS (SELECT 1 UNION SELECT * FROM a, b),"
                               " b (x, y) AS (SELECT 1, 2) SELECT * FROM a")
    assert recursive.tables == [] and recursive.query.recursive


# --- refusals ---------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "error", "words"), [
    ("", ComplaintSyntax, "empty"), (" ; -- x", ComplaintSyntax, "empty"),
    ("SELECT 1; SELECT 2", ComplaintSyntax, "one statement"),
    ("DELETE FROM t", ComplaintSyntax, "begins with \"DELETE\""),
    ("VALUES (1)", ComplaintSyntax, "begins with \"VALUES\""),
    ("WITH a AS (SELECT 1) INSERT INTO t SELECT 2", ComplaintSyntax, "not a SELECT"),
    ("SELECT 'a", ComplaintSyntax, "read"), ("SELECT (1", ComplaintSyntax, "bracket"),
    ("SELECT a FROM t WHERE b = $1", UnsupportedOperator, "parameter"),
    ("SELECT _pgrain_x FROM t", UnsupportedOperator, "_pgrain_"),
    ("WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a", UnsupportedOperator,
     "data-modifying CTE"),
    ("WITH RECURSIVE a AS (SELECT 1) SEARCH DEPTH FIRST BY x SET o SELECT 1 FROM a",
     UnsupportedOperator, "SEARCH"),
    ("SELECT a INTO b FROM t", UnsupportedOperator, "SELECT INTO"),
    ("SELECT a FROM t FOR NO KEY UPDATE", UnsupportedOperator, "FOR UPDATE"),
    ("SELECT a FROM t x TABLESAMPLE system (1)", UnsupportedOperator, "TABLESAMPLE"),
    ("SELECT a FROM t GROUP BY DISTINCT a", UnsupportedOperator, "GROUP BY DISTINCT"),
    ("SELECT * FROM XMLTABLE('/a' PASSING x COLUMNS b int)", UnsupportedOperator, "XMLTABLE"),
    (f"SELECT * FROM {P}", UnsupportedOperator, "as a relation"),
    ("SELECT pgrain.complain('a', 'b')", UnsupportedOperator, "pgrain.complain"),
    ("SELECT predict_batch('m', x) FROM t", UnsupportedOperator, "pgrain.predict_batch"),
    ("SELECT pgrain.predict(m, x) FROM t", UnsupportedOperator, "not a literal"),
    ("SELECT pgrain.predict('m') FROM t", UnsupportedOperator, "two arguments"),
    ("SELECT pgrain.predict('m', model => 'm') FROM t", UnsupportedOperator, "two arguments"),
    (f"SELECT pgrain.predict('m', {P}) FROM t", UnsupportedOperator, "inside a model call"),
    (f"SELECT pgrain.predict('m', (SELECT {P})) FROM t", UnsupportedOperator,
     "inside a model call"),
    ("SELECT xmlelement(name foo) FROM t", UnsupportedOperator, "syntax"),
    ("SELECT a FROM t WHERE", UnsupportedOperator, "syntax"),
    ("SELECT a, FROM t", UnsupportedOperator, "syntax"), ("SELECT 1_000", UnsupportedOperator,
                                                         "syntax"),
    ("SELECT " + "(" * 5000 + "1" + ")" * 5000, UnsupportedOperator, "deeply"),
    (" UNION ".join(["SELECT a FROM t"] * 5000), UnsupportedOperator, "deeply"),
    ("SELECT a" + " IN (SELECT 1)" * 5000, UnsupportedOperator, "deeply"),
    ("SELECT '" + "x" * 10_000_000 + "'", LimitExceeded, "longer"),
], ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_refused(text: str, error, words: str) -> None:
    with pytest.raises(error) as raised:
        read_statement(text)
    assert words in raised.value.message + (raised.value.detail or "")


# --- against the reader of one SELECT, and PostgreSQL -------------------------------------------

def test_finds_what_the_reader_of_one_select_finds() -> None:
    """The same model calls, columns and functions in 300 random queries."""
    maker = QueryMaker(random.Random(11))
    for text in [*(maker.query() for _ in range(300)), *QUERIES]:
        statement = read_statement(text)
        old = build(read_select(text), {"count", "sum", "avg"})
        calls = [(c.start, c.end, c.function, c.model, c.bare, c.argument.text,
                  set(columns(c.argument))) for c in all_of(statement.query, nodes.ModelCall)]
        # The old text begins after outer brackets, which are blanked: places are the same.
        assert [call for call in calls if call[0] in {c.start for c in old.calls()}] == [
            (c.start, c.end, c.function, c.model, c.bare, c.argument, set(c.columns))
            for c in old.calls()]
        assert statement.tables == old.select.tables or set(statement.tables) == set(
            old.select.tables)
        assert statement.functions == old.select.functions
        refs = [ref for ref in all_of(statement.query, nodes.ColumnRef)
                if not any(start < ref.start < end for start, end, *_ in calls)]
        expressions = {(e.start, e.end): e for e in all_of(statement.query, nodes.Expr)}
        for expression in old.expressions():
            start, end = expression.start, expression.end
            assert {(ref.qualifier, ref.name) for ref in refs if start <= ref.start < end} == set(
                expression.columns), text
            mine = expressions.get((start, end))     # None: a conjunct of an AND
            assert mine is None or set(mine.functions) <= set(expression.functions), text


def test_key_words_and_aggregates_are_the_servers(module_database) -> None:
    connection = module_database(extension=False).connection
    words = connection.execute("SELECT word, catcode, barelabel FROM pg_get_keywords()").fetchall()
    known = {word for word, _, _ in words}
    for code, mine in (("R", keywords.RESERVED), ("T", keywords.FUNCTION_OR_TYPE),
                       ("C", keywords.COLUMN_ONLY)):
        # json became a word of its own grammar in 17; before, and to us, it is a name like others.
        assert {word for word, category, _ in words if category == code} - {"json"} == mine & known
    assert {word for word, _, bare in words if not bare} == keywords.LABEL_AFTER_AS
    aggregates = {name for name, in connection.execute(
        "SELECT DISTINCT proname FROM pg_proc WHERE prokind = 'a'").fetchall()}
    hypothetical = {"rank", "dense_rank", "percent_rank", "cume_dist"}
    assert aggregates - keywords.AGGREGATES == hypothetical


RENAMED = r"""
extract(epoch FROM ts) + extract(year FROM date '2026-01-01') + year
CASE n WHEN 1 THEN c || 'n' ELSE "C d" END || year
substring(c FROM 1 FOR n) || overlay(c placing 'x' from n for 1) || trim(both 'n' FROM c)
position('a' IN c) + (r).n + (k.r).n + k.n + v[n] + array_length(v[1:n], n)
ROW(n, c)::text || ARRAY[n, year]::text || n::numeric(10, 2)::text || c COLLATE "C"
ts AT TIME ZONE 'utc' AT TIME ZONE zone < interval '1 day' * n + ts
to_char(ts, 'n') || make_date(year => 2000, month => n, day => 1) || interval '1' day
repeat(c, n) || left(c, n)
n BETWEEN SYMMETRIC year AND 3 AND c LIKE 'n%' ESCAPE 'n' IS DISTINCT FROM NOT n IN (1, year)
n = ANY (v) AND c /* n */ = E'n\'n' -- c
sum(n) OVER (PARTITION BY c ORDER BY year DESC) + coalesce(n, year) + greatest(n, year, 3)
(SELECT count(*) FROM generate_series(1, 3) AS o (n) WHERE o.n < 2) + n
"""


@pytest.mark.parametrize("text", RENAMED.strip().splitlines())
def test_columns_can_be_replaced(columns_of_k, text: str) -> None:
    """With every column found renamed, and none of that name there, the query says the same."""
    source = f"SELECT {text}\n FROM k"
    expression = read(source).body.items[0].expression
    found = [*expression.walk(), *(piece for window in all_of(expression, nodes.WindowCall)
                                   for part in window.parts for piece in part.walk())]
    spans = {(p.start, p.end): f'new."{p.name}_new"' for p in found
             if isinstance(p, nodes.ColumnRef)}
    assert spans
    new = ", ".join(f'"{name}" AS "{name}_new"' for name in
                    ("n", "c", "ts", "v", "r", "C d", "year", "zone"))
    renamed = expression.substitute(spans)
    other = f"SELECT {renamed}\n FROM (SELECT {new} FROM k) AS new"
    assert columns_of_k.execute(other.encode()).fetchall() == \
        columns_of_k.execute(source.encode()).fetchall()


@pytest.fixture(scope="module")
def columns_of_k(module_database):
    connection = module_database(extension=False).connection
    connection.execute(
        "CREATE TYPE pair AS (n int, g int); CREATE TABLE k (n int, c text, ts timestamptz,"
        ' v int[], r pair, "C d" text, year int, zone text);'
        "INSERT INTO k VALUES (1, 'ab', '2026-01-01 10:00+00', '{1,2,3}', '(1,2)', 'q', 2, 'cet'),"
        " (2, NULL, NULL, '{4}', NULL, NULL, 3, 'utc')")
    return connection
