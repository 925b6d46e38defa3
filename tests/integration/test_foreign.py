"""Foreign tables (postgres_fdw) end to end: whole, as a partition, joined with local ones."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

COLUMNS = "id integer, x float8[], claim text, hour integer"
RED = "pgrain.predict('colour', x)"
# Over {items}, which is local or (in part) foreign, and a complaint.
QUERIES = {
    "filter and group": (f"SELECT hour, count(*) AS n FROM {{items}} WHERE {RED} <> claim GROUP BY"
                         " hour", "n too high WHERE hour = 1"),
    "HAVING of two numbers": (f"SELECT hour, sum(id) AS s FROM {{items}} WHERE {RED} = 'red' GROUP"
                              " BY hour HAVING count(*) > 1 AND max(id) > 20",
                              "s too low WHERE hour = 2"),
    "joined with a local table": (
        f"SELECT p.price, count(*) AS n FROM {{items}} AS i JOIN prices AS p ON p.hour = i.hour"
        f" AND {RED.replace('x', 'i.x')} = 'blue' GROUP BY p.price", "n too high WHERE price = 2"),
    "local rows without a foreign partner": (
        "SELECT count(*) AS n FROM prices AS p WHERE NOT EXISTS (SELECT FROM {items} AS i WHERE"
        " i.hour = p.hour AND i.id < 20 AND pgrain.predict('colour', i.x) = 'red')", "n too high"),
    "joined by predictions": (
        "SELECT count(*) AS n FROM {items} AS i JOIN items AS o ON pgrain.predict('colour', i.x) ="
        " pgrain.predict('colour', o.x) AND i.hour = o.hour", "n too high"),
    "rows": (f"SELECT id, {RED} AS label FROM {{items}} WHERE id < 30",
             "label = 'blue' WHERE id = 3"),
}


@pytest.fixture(scope="module")
def far(small, module_database):
    """Foreign tables over a second database: `far` has all items, `mixed` those of hours 2 and 3
    in a foreign partition. The local copy of both is `near`."""
    if not small.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'"):
        pytest.skip("postgres_fdw is not installed")
    other = module_database(extension=False)
    other.execute(f"CREATE TABLE items ({COLUMNS}); CREATE TABLE late ({COLUMNS})")
    for row in small.rows("SELECT * FROM items ORDER BY id"):
        other.execute("INSERT INTO items VALUES (%s, %s, %s, %s)", row)
    other.execute("INSERT INTO late SELECT * FROM items WHERE hour > 1")
    info = other.connection.info
    small.execute("CREATE EXTENSION postgres_fdw")
    small.execute(sql.SQL("CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS"
                          " (host {}, port {}, dbname {})").format(
                              info.host, str(info.port), info.dbname))
    small.execute(sql.SQL("CREATE USER MAPPING FOR PUBLIC SERVER other OPTIONS (user {},"
                          " password_required 'false')").format(info.user))
    small.execute(f"""
CREATE FOREIGN TABLE far ({COLUMNS}) SERVER other OPTIONS (table_name 'items');
CREATE TABLE mixed ({COLUMNS}) PARTITION BY RANGE (hour);
CREATE TABLE mixed_early PARTITION OF mixed FOR VALUES FROM (0) TO (2);
CREATE FOREIGN TABLE mixed_late PARTITION OF mixed FOR VALUES FROM (2) TO (9) SERVER other
 OPTIONS (table_name 'late');
INSERT INTO mixed SELECT * FROM items WHERE hour < 2;
CREATE TABLE near AS SELECT * FROM items;
CREATE TABLE prices (hour int, price int);
INSERT INTO prices VALUES (0, 1), (1, 2), (2, 2), (7, 3)""")
    small.other = other
    yield small
    small.execute("DROP EXTENSION postgres_fdw CASCADE; DROP TABLE mixed, near, prices")


def cells(database, query: str) -> list[tuple]:
    return sorted(database.rows(
        "SELECT output::text, output_column, value, round(relaxed::numeric, 9), variables"
        " FROM pgrain.provenance(%s)", [query]), key=str)


def ranked(database, query: str, complaint: str) -> list[tuple]:
    return database.rows("SELECT rank, train_id, round(score::numeric, 6) FROM pgrain.complain("
                         "%s, %s, top_k => 20, options => '{\"verify\": \"always\"}')",
                         [query, complaint])


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize("table", ["far", "mixed"])
def test_as_over_a_local_copy(far, name: str, table: str) -> None:
    """Captures run on the foreign server as far as PostgreSQL sends them there; what comes of them
    is that of the same rows in a local table, and complaints are compared with the query's own
    result each time."""
    query, complaint = QUERIES[name]
    there, here = query.format(items=table), query.format(items="near")
    assert cells(far, there) == cells(far, here)
    ranking = ranked(far, there, complaint)
    assert len(ranking) == 20
    assert ranking == ranked(far, here, complaint)


def test_what_changes_on_the_other_server_is_seen(far) -> None:
    query = f"SELECT count(*) AS n FROM far WHERE {RED} = claim"
    before, ranks = cells(far, query), ranked(far, query, "n too low")
    far.other.execute("DELETE FROM items WHERE id BETWEEN 40 AND 80")
    try:
        assert cells(far, query) != before
        assert ranked(far, query, "n too low") != ranks
    finally:
        for row in far.rows("SELECT * FROM near WHERE id BETWEEN 40 AND 80"):
            far.other.execute("INSERT INTO items VALUES (%s, %s, %s, %s)", row)
    assert cells(far, query) == before


def test_a_foreign_table_is_attached(far) -> None:
    """Its values are stored beforehand; explain and the view say what is read how often."""
    far.execute("CALL pgrain.attach('colour', 'far')")
    try:
        assert far.value("SELECT count(*) FROM pgrain.attached WHERE relation::text = 'far'") == 1
        query = f"SELECT hour, count(*) AS n FROM far WHERE {RED} = 'blue' GROUP BY hour"
        assert cells(far, query) == cells(far, query.replace("far", "near"))
    finally:
        far.execute("SELECT pgrain.detach('colour', 'far')")


def test_explain_shows_the_foreign_scan(far) -> None:
    lines = [line for (line,) in far.rows(
        "SELECT pgrain.explain(%s)", [QUERIES["filter and group"][0].format(items="mixed")])]
    assert any("Foreign Scan on" in line and "mixed_late" in line for line in lines), lines


@pytest.mark.parametrize("table", ["far", "mixed"])
def test_a_watch_says_what_it_cannot_see(far, table: str) -> None:
    """No trigger of this server tells of changes on another one."""
    query = f"SELECT hour, count(*) AS n FROM {table} WHERE {RED} <> claim GROUP BY hour"
    with pytest.raises(psycopg.Error) as raised:
        far.execute("CALL pgrain.watch('w', %s)", [query])
    assert raised.value.sqlstate == "0A000"
    words = f"{raised.value.diag.message_primary} {raised.value.diag.message_detail}"
    assert ("far" if table == "far" else "mixed_late") in words
    assert "triggers on ordinary and partitioned tables" in words
    assert raised.value.diag.message_hint
