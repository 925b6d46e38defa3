"""More of what roles try: SQL in every text that an admin may give, protected keys by every way
that leads to keys, others' watches, views that call a model, operators in front of PostgreSQL's."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

REPORT = "SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'red'"
COMPLAIN = f"pgrain.complain($q${REPORT}$q$, 'n too high')"


@pytest.fixture(scope="module")
def place(small):
    """Roles: trudy, an admin who may read items; a table of hers that no text may drop."""
    small.execute("CREATE ROLE trudy LOGIN")
    small.execute("SELECT pgrain.grant_usage('trudy', true)")
    small.execute("GRANT SELECT ON items TO trudy")
    small.execute("CREATE SCHEMA trudy AUTHORIZATION trudy")
    with small.connect("trudy") as session:
        session.execute("CREATE TABLE trudy.canary (id integer)")
        session.execute("CREATE TABLE trudy.own (id integer, x float8[], label text)")
        session.execute("INSERT INTO trudy.own SELECT i, ARRAY[i, i * i % 7], chr(97 + i % 2) "
                        "FROM generate_series(1, 40) AS i")
        session.execute("SELECT pgrain.create_model('hers', 'trudy.own', 'id', '{x}', 'label', "
                        "'logistic_regression')")
        session.execute("CALL pgrain.train('hers')")
    yield small
    small.execute("SELECT pgrain.drop_model('hers')")
    small.execute("DROP SCHEMA trudy CASCADE; DROP OWNED BY trudy; DROP ROLE trudy")


TEXTS = ["x'); DROP TABLE trudy.canary; --", "'; DROP TABLE trudy.canary; --",
         "$$; DROP TABLE trudy.canary; $$", "$q$; DROP TABLE trudy.canary; --",
         '"; DROP TABLE trudy.canary; --', "1; DROP TABLE trudy.canary",
         "\\'; DROP TABLE trudy.canary; --"]
CALLS = [
    "SELECT pgrain.create_model({}, 'trudy.own', 'id', '{{x}}', 'label', 'mlp')",
    "SELECT pgrain.create_model('m', 'trudy.own', {}, '{{x}}', 'label', 'mlp')",
    "SELECT pgrain.create_model('m', 'trudy.own', 'id', ARRAY[{}]::name[], 'label', 'mlp')",
    "SELECT pgrain.create_model('m', 'trudy.own', 'id', '{{x}}', {}, 'mlp')",
    "SELECT pgrain.create_model('m', 'trudy.own', 'id', '{{x}}', 'label', {})",
    "SELECT pgrain.alter_model('hers', key => {})",
    "SELECT pgrain.alter_model('hers', label => {})",
    "SELECT pgrain.alter_model('hers', features => ARRAY[{}]::name[])",
    "SELECT pgrain.alter_model({})",
    "SELECT pgrain.apply('hers', ARRAY[{}], 'delete')",
    "SELECT pgrain.apply('hers', '{{1}}', {})",
    "SELECT pgrain.apply('hers', '{{1}}', 'relabel:' || {})",
    "SELECT pgrain.revert('hers', ARRAY[{}])",
    "SELECT pgrain.forget('hers', ARRAY[{}])",
    "SELECT * FROM pgrain.describe('hers', ARRAY[{}])",
    "SELECT * FROM pgrain.describe('hers', '{{1}}', jsonb_build_object({}, 1))",
    "SELECT pgrain.cluster('hers', {})",
    "SELECT pgrain.resembles({}, '1')",
    "SELECT pgrain.protect_keys({})",
    "SELECT pgrain.create_intervention('hers', {}, library => 'clip')",
    "SELECT pgrain.create_intervention('hers', 'i', library => {})",
    "SELECT pgrain.create_intervention('hers', 'i', ARRAY[{}])",
    "SELECT pgrain.create_intervention('hers', 'i', library => 'words', options => "
    "jsonb_build_object('table', {}, 'word', {}))",
    "SELECT pgrain.drop_intervention('hers', {})",
    "SELECT * FROM pgrain.edits_sql({})",
    "SELECT pgrain.unwatch({})",
    "CALL pgrain.watch({}, 'SELECT 1')",
    "CALL pgrain.watch('w', {})",
    f"CALL pgrain.watch('w', $r${REPORT}$r$, {{}})",
    f"CALL pgrain.repair({{}}, $r${REPORT}$r$, 'n <= 1', {{}})",
    "CALL pgrain.train('hers', jsonb_build_object({}, {}))",
    "CALL pgrain.precompute('hers', jsonb_build_object('proxy', {}))",
    "CALL pgrain.attach('hers', 'items', ARRAY[{}]::name[])",
    f"SELECT * FROM pgrain.plan_repair($r${REPORT}$r$, {{}})",
    f"SELECT * FROM pgrain.assess($r${REPORT}$r$, {{}})",
    "SELECT pgrain.grant_usage({})",
]


def test_sql_in_every_text_of_an_admin(place):
    """One of her own tables is there to be dropped, so nothing but us keeps the text from it."""
    session = place.connect("trudy")
    for call in CALLS:
        for text in TEXTS:
            statement = sql.SQL(call).format(*[sql.Literal(text)] * call.replace("{{", "").count(
                "{}"))
            try:
                session.execute(statement)
            except psycopg.Error as error:
                assert error.sqlstate != "XX000", (call, text, error)
    assert place.value("SELECT to_regclass('trudy.canary') IS NOT NULL")
    assert place.value("SELECT count(*) FROM trudy.own") == 40
    session.execute("SELECT pgrain.revert('hers')")
    for (name,) in place.rows("SELECT model FROM pgrain.models WHERE model LIKE '%%DROP%%'"):
        session.execute("SELECT pgrain.drop_model(%s)", [name])


def test_protected_keys_by_every_way(place):
    """An admin who may not read the training table sees no key: not in rankings, plans, edits (the
    table behind the view), rounds, watches, nor in errors of jobs, earlier ones included."""
    session = place.connect("trudy")
    place.execute("SELECT pgrain.apply('colour', '{3,5}', 'delete')")
    place.execute(f"CALL pgrain.watch('standing', $q${REPORT}$q$)")
    place.execute("GRANT SELECT ON pgrain.repair_round TO trudy")

    def fail():
        place.execute("UPDATE train SET label = NULL WHERE id = 77")
        with pytest.raises(psycopg.errors.NotNullViolation) as caught:
            place.execute("CALL pgrain.train('colour')")
        place.execute("UPDATE train SET label = 'red' WHERE id = 77")
        return caught.value.diag.message_detail
    assert "77" in fail()
    details = "SELECT DISTINCT error ->> 'detail' FROM pgrain.job WHERE model = 'colour'"
    assert any("77" in (row[0] or "") for row in session.execute(details))
    edits = "SELECT train_key FROM pgrain.training_edit WHERE model = 'colour' ORDER BY 1"
    assert session.execute(edits).fetchall() == [("3",), ("5",)]

    place.execute("SELECT pgrain.protect_keys('colour')")
    try:
        assert fail() is None                   # it is in the worker's log
        assert "77" in place.worker.log_tail(50)
        assert session.execute(details).fetchall() == [(None,)]
        assert session.execute(edits).fetchall() == []
        assert session.execute("SELECT train_key FROM pgrain.edits WHERE model = 'colour'"
                               ).fetchall() == [(None,), (None,)]
        for statement in ("SELECT pgrain.revert('colour')",
                          "DELETE FROM pgrain.training_edit WHERE train_key = '3'"):
            session.execute(statement)          # what cannot be seen cannot be taken back
        assert place.rows(edits) == [("3",), ("5",)]
        for source in (COMPLAIN, "pgrain.complain('standing', 'n too high')",
                       f"pgrain.plan_repair($q${REPORT}$q$, 'n <= {place.value(REPORT) - 1}')",
                       f"pgrain.complain($q${REPORT}$q$, 'n too high', 5, 'relabel')"):
            found = session.execute(f"SELECT train_id, train_key FROM {source}").fetchall()
            assert found and set(found) == {(None, None)}, source
        for refused in ("SELECT pgrain.apply('colour', '{3}', 'delete')",
                        "SELECT * FROM pgrain.describe('colour', '{3}')",
                        "SELECT pgrain.resembles('colour', '3')",
                        "SELECT * FROM pgrain.rank('colour', 'x')",
                        "SELECT pgrain.create_intervention('colour', 'i', ARRAY['x'])",
                        "SELECT pgrain.protect_keys('colour', false)",
                        "SELECT pgrain.alter_model('colour', key => 'label')",
                        "CALL pgrain.train('colour')", "CALL pgrain.precompute('colour')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                pytest.fail(f"{refused}: {session.execute(refused).statusmessage}")
        assert session.execute("SELECT * FROM pgrain.edits_sql('colour')").fetchall() == []
        columns = place.rows("SELECT column_name FROM information_schema.columns WHERE "
                             "table_schema = 'pgrain' AND table_name = 'repair_round'")
        assert not any("key" in name for (name,) in columns)
    finally:
        place.execute("SELECT pgrain.protect_keys('colour', false)")
    place.execute("SELECT pgrain.unwatch('standing'); SELECT pgrain.revert('colour')")


def test_others_watches_and_views(place, as_role):
    """What the query would not give, neither a watch on it gives, nor a view that calls a model."""
    eve = as_role(place, "eve", "user")
    place.execute("CREATE TABLE hidden AS SELECT * FROM items WHERE x IS NOT NULL")
    query = REPORT.replace("items", "hidden")
    place.execute(f"CALL pgrain.watch('theirs', $q${query}$q$)")
    place.execute("CREATE VIEW reds AS SELECT hour, count(*) AS n FROM hidden WHERE "
                  "pgrain.predict('colour', x) = 'red' AND id > 50 GROUP BY hour")
    place.execute("GRANT SELECT ON reds TO eve")
    number = place.value("SELECT watch FROM pgrain.watch WHERE name = 'theirs'")
    for forged in ("SELECT 1", "SELECT pgrain._load_watch('theirs', NULL, 'postgres')",
                   f"SELECT pgrain._load_watch(NULL, {number}, 'postgres')",
                   "SELECT pgrain._load_watch_cells('theirs')"):
        try:
            eve.execute(forged)
        except psycopg.Error as error:
            assert error.sqlstate != "XX000", error
        for asked in ("SELECT * FROM pgrain.provenance('theirs')",
                      "SELECT * FROM pgrain.complain('theirs', 'n too high')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                eve.execute(asked)
    # A view's own rights give its rows; lineage would read the table behind it.
    assert eve.execute("SELECT count(*) FROM reds").fetchone()[0] > 0
    for option in ("", ", include_absent => true"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            eve.execute(f"SELECT * FROM pgrain.provenance('SELECT * FROM reds'{option})")
    assert place.rows("SELECT value FROM pgrain.provenance('SELECT sum(n) AS n FROM reds')") == (
        place.rows("SELECT sum(n)::float8 FROM reds"))
    place.execute("SELECT pgrain.unwatch('theirs')")
    place.execute("DROP VIEW reds; DROP TABLE hidden")


def test_a_condition_that_looks_at_its_rows_sees_the_output_only(place, as_role):
    """The complaint's WHERE runs over the circuit's output as the caller: a function in it sees
    what the query returns, nothing else, and writes nothing."""
    eve = as_role(place, "eve", "user")
    place.execute("GRANT SELECT ON items TO eve; CREATE SCHEMA eve AUTHORIZATION eve")
    eve.execute("CREATE TABLE eve.loot (row text)")
    eve.execute("CREATE FUNCTION eve.look(v anyelement) RETURNS boolean LANGUAGE plpgsql STABLE "
                "COST 0.01 AS $$ BEGIN RAISE NOTICE 'seen %', v; RETURN true; END $$")
    seen = []
    eve.add_notice_handler(lambda notice: seen.append(notice.message_primary))
    query = ("SELECT hour, count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'red' "
             "AND hour < 2 GROUP BY hour")
    eve.execute("SELECT * FROM pgrain.complain(%s, 'n too high WHERE eve.look(hour)')", [query])
    looked = {text for text in seen if text.startswith("seen ")}
    assert looked == {f"seen {row[0]}" for row in eve.execute(query)}
    eve.execute("CREATE FUNCTION eve.take(v anyelement) RETURNS boolean LANGUAGE plpgsql AS $$ "
                "BEGIN INSERT INTO eve.loot VALUES (v::text); RETURN true; END $$")
    try:
        eve.execute("SELECT * FROM pgrain.complain(%s, 'n too high WHERE eve.take(hour)')", [query])
    except psycopg.Error as error:
        assert error.sqlstate in ("25006", "0A000")
    assert eve.execute("SELECT count(*) FROM eve.loot").fetchone() == (0,)
    place.execute("DROP SCHEMA eve CASCADE")


def test_operators_in_front_of_postgresql_s_harm_their_owner_alone(place, as_role):
    """Questions to the catalogs are asked as the caller, whose operators may come first. They may
    spoil her own answers, and nobody else's."""
    query = ("SELECT count(*) AS n FROM public.items WHERE pgrain.predict('colour', x) "
             "OPERATOR(pg_catalog.=) 'green' AND hour OPERATOR(pg_catalog.>) 1")
    ask = ("SELECT value FROM pgrain.provenance(%s)", [query])
    eve = as_role(place, "eve", "user")
    place.execute("GRANT SELECT ON items TO eve; CREATE SCHEMA eve AUTHORIZATION eve")
    for number, (operator, left, right) in enumerate([
            ("=", "oid", "oid"), ("=", "name", "name"), ("=", '"char"', '"char"'),
            ("=", "name", "text"), ("<>", "name", "text"), ("~", "text", "text"),
            (">", "smallint", "integer"), ("<>", "oid", "oid"), ("=", "oid", "regclass")]):
        eve.execute(f"CREATE FUNCTION eve.op{number}(a {left}, b {right}) RETURNS boolean LANGUAGE "
                    f"sql IMMUTABLE AS 'SELECT {'false' if number % 2 else 'true'}'")
        eve.execute(f"CREATE OPERATOR eve.{operator} (LEFTARG = {left}, RIGHTARG = {right}, "
                    f"FUNCTION = eve.op{number})")
    eve.execute("SET search_path = eve, pg_catalog")
    for _ in range(2):
        try:
            eve.execute(*ask).fetchall()
        except psycopg.Error as error:
            assert error.diag.message_primary.startswith("pgrain: ")
        # Another role, under the very same search_path's text, and her own session without it.
        place.execute("SET search_path = eve, pg_catalog; RESET search_path")
        assert place.value(*ask) == place.value(query)
    eve.execute("RESET search_path")
    assert eve.execute(*ask).fetchone()[0] == place.value(query)
    place.execute("DROP SCHEMA eve CASCADE")
