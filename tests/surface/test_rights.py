"""Rights: the whole matrix, and what a complaint may show to whom."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest

GOLDEN = Path(__file__).parent / "fixtures" / "rights.txt"
REPORT = "SELECT count(*) AS reds FROM items WHERE pgrain.predict('colour', x) = 'red'"
COMPLAIN = (f"SELECT train_id, train_key, score FROM pgrain.complain($q${REPORT}$q$, "
            "'reds too high')")

MATRIX = """
SELECT kind, name, grantee, string_agg(privilege, ' ' ORDER BY privilege) FROM (
    SELECT 'schema' AS kind, nspname::text AS name, a.grantee::oid, privilege_type AS privilege
    FROM pg_namespace, aclexplode(nspacl) a WHERE nspname = 'pgrain'
    UNION ALL
    SELECT CASE relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' ELSE 'sequence' END,
           relname::text, a.grantee, privilege_type
    FROM pg_class, aclexplode(relacl) a
    WHERE relnamespace = 'pgrain'::regnamespace AND relkind IN ('r', 'v', 'S')
    UNION ALL
    SELECT 'column', relname || '.' || attname, a.grantee, privilege_type
    FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(attacl) a
    WHERE relnamespace = 'pgrain'::regnamespace
    UNION ALL
    SELECT CASE prokind WHEN 'p' THEN 'procedure' ELSE 'function' END,
           proname || '(' || pg_get_function_identity_arguments(p.oid) || ')'
               || CASE WHEN prosecdef THEN ' as its owner' ELSE '' END, a.grantee, privilege_type
    FROM pg_proc p, aclexplode(proacl) a WHERE pronamespace = 'pgrain'::regnamespace
) AS found (kind, name, role, privilege)
CROSS JOIN LATERAL (SELECT CASE role WHEN 0 THEN 'PUBLIC' ELSE
    (SELECT rolname::text FROM pg_roles WHERE oid = role) END) AS g (grantee)
WHERE grantee <> 'postgres' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


def test_the_matrix(database, as_role):
    """Role x object x privilege. After a change that is meant: PGRAIN_TEST_WRITE=1, and look at
    the difference."""
    it = database()
    as_role(it, "the_user", "user")
    as_role(it, "the_admin", "admin")
    text = "".join(f"{kind} {name}: {role}: {rights}\n"
                   for kind, name, role, rights in it.rows(MATRIX))
    assert "PUBLIC" not in text
    if os.environ.get("PGRAIN_TEST_WRITE"):
        GOLDEN.write_text(text)
    assert text.splitlines() == GOLDEN.read_text().splitlines()
    definers = {line for line in text.splitlines() if "as its owner" in line and "the_" in line}
    assert all(name in str(sorted(definers)) for name in ("_load_session", "_load_model"))


def test_default_privileges_of_whoever_installs_open_nothing(database):
    """A role for reporting that may read all tables to come does not read the secret, nor call what
    the worker alone calls; neither now nor where a watch makes something."""
    it = database(extension=False)
    it.execute("CREATE ROLE snoop")
    for what in ("TABLES", "SEQUENCES", "ROUTINES", "SCHEMAS"):
        it.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {what} TO snoop, PUBLIC")
    try:
        it.execute("SET client_min_messages = warning; CREATE EXTENSION pgrain CASCADE")
        assert it.value("SELECT count(*) FROM pgrain.installation") == 0
        it.execute("SELECT pgrain._note_again(7)")
        assert not [row for row in it.rows(MATRIX) if row[2] in ("snoop", "PUBLIC")]
        assert it.value("SELECT has_table_privilege('pgrain_worker', 'pgrain.installation', "
                        "'SELECT')")
    finally:
        it.execute("DROP OWNED BY snoop")
        it.execute("ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC; "
                   "ALTER DEFAULT PRIVILEGES REVOKE ALL ON SEQUENCES FROM PUBLIC; "
                   "ALTER DEFAULT PRIVILEGES REVOKE ALL ON SCHEMAS FROM PUBLIC; "
                   "DROP ROLE snoop")


@pytest.fixture
def reader(small, as_role):
    """A session of a role that may read items and complain, but not read train."""
    session = as_role(small, "eve", "user")
    small.execute("GRANT SELECT ON items TO eve")
    yield session
    small.execute("REVOKE ALL ON items, train FROM eve")


def test_ids_only_or_not_even_those(small, reader):
    everybody = small.rows(COMPLAIN)
    assert reader.execute(COMPLAIN).fetchall() == everybody
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("SELECT * FROM train")
    target = small.value(REPORT) - 1
    plan = (f"SELECT rank, train_id, train_key FROM pgrain.plan_repair($q${REPORT}$q$, "
            f"'reds <= {target}')")
    small.execute("SELECT pgrain.apply('colour', '{3}', 'delete')")
    small.execute("SELECT pgrain.protect_keys('colour')")
    hidden = [(None, None, score) for _, _, score in everybody]
    assert reader.execute(COMPLAIN).fetchall() == hidden
    assert set(row[1:] for row in reader.execute(plan).fetchall()) == {(None, None)}
    assert reader.execute("SELECT model, train_key FROM pgrain.edits").fetchall() == [
        ("colour", None)]
    assert small.rows(COMPLAIN) == everybody
    assert small.rows("SELECT train_key FROM pgrain.edits") == [("3",)]
    small.execute("GRANT SELECT (label) ON train TO eve")   # another column does not help
    assert reader.execute(COMPLAIN).fetchall() == hidden
    small.execute("GRANT SELECT (id) ON train TO eve")
    assert reader.execute(COMPLAIN).fetchall() == everybody
    # Row security: the keys of those rows that the caller sees.
    small.execute("ALTER TABLE train ENABLE ROW LEVEL SECURITY")
    small.execute("CREATE POLICY even ON train FOR SELECT TO eve USING (id % 2 = 0)")
    assert reader.execute(COMPLAIN).fetchall() == [
        row if row[0] % 2 == 0 else (None, None, row[2]) for row in everybody]
    small.execute("DROP POLICY even ON train; ALTER TABLE train DISABLE ROW LEVEL SECURITY")
    small.execute("REVOKE ALL ON train FROM eve; REVOKE SELECT (id, label) ON train FROM eve")
    assert reader.execute(COMPLAIN).fetchall() == hidden
    small.execute("SELECT pgrain.protect_keys('colour', false)")
    assert reader.execute(COMPLAIN).fetchall() == everybody
    small.execute("SELECT pgrain.revert('colour')")


def test_only_who_may_read_the_keys_shows_them(small, as_role):
    small.execute("SELECT pgrain.protect_keys('colour')")
    admin = as_role(small, "nosy", "admin")
    small.execute("GRANT SELECT ON items TO nosy")
    for attempt in ("SELECT pgrain.protect_keys('colour', false)",
                    "DELETE FROM pgrain.protected_keys"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            admin.execute(attempt)
    # Nor by pointing the model at a table of one's own.
    small.execute("CREATE SCHEMA nosy AUTHORIZATION nosy")
    admin.execute("CREATE TABLE nosy.own (id integer, x float8[], label text)")
    admin.execute("BEGIN")
    admin.execute("UPDATE pgrain.model SET training_table = 'nosy.own' WHERE model = 'colour'")
    assert {row[:2] for row in admin.execute(COMPLAIN).fetchall()} == {(None, None)}
    admin.execute("ROLLBACK")
    small.execute("DROP SCHEMA nosy CASCADE")
    small.execute("SELECT pgrain.protect_keys('colour', false)")


def test_a_complaint_sees_what_its_caller_sees(small, reader):
    """Row security, column grants and views: the counts of the circuit are the caller's own."""
    small.execute("CREATE TABLE secret_items AS SELECT * FROM items")
    small.execute("ALTER TABLE secret_items ENABLE ROW LEVEL SECURITY")
    small.execute("CREATE POLICY first_ones ON secret_items FOR SELECT TO eve USING (id <= 30)")
    small.execute("GRANT SELECT (id, x) ON secret_items TO eve")
    query = "SELECT count(*) AS n FROM {} WHERE pgrain.predict('colour', x) = 'red'"
    ask = "SELECT value, variables FROM pgrain.provenance($q${}$q$)"
    own = reader.execute(query.format("secret_items")).fetchone()[0]
    value, variables = reader.execute(ask.format(query.format("secret_items"))).fetchone()
    assert value == own < small.value(query.format("secret_items"))
    assert variables <= 30
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute(ask.format(query.format("secret_items") + " AND claim = 'red'"))
    # A view works with its owner's rights: eve may not read the table, but this view.
    small.execute("CREATE VIEW shown AS SELECT x FROM secret_items WHERE id > 100")
    small.execute("GRANT SELECT ON shown TO eve")
    small.execute("REVOKE ALL ON secret_items FROM eve; "
                  "REVOKE SELECT (id, x) ON secret_items FROM eve")
    assert (reader.execute(ask.format(query.format("shown"))).fetchone()[0]
            == reader.execute(query.format("shown")).fetchone()[0]
            == small.value(query.format("shown")))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute(ask.format(query.format("secret_items")))
    # A security barrier holds: the caller's cheap function is not shown the rows it hides.
    small.execute("CREATE VIEW barred WITH (security_barrier) AS SELECT id, x FROM secret_items "
                  "WHERE id > 100")
    small.execute("GRANT SELECT ON barred TO eve; CREATE SCHEMA eve AUTHORIZATION eve")
    seen = []
    reader.add_notice_handler(lambda notice: seen.append(int(notice.message_primary)))
    reader.execute("CREATE FUNCTION eve.leak(i integer) RETURNS boolean LANGUAGE plpgsql "
                   "STABLE COST 0.01 AS $$ BEGIN RAISE NOTICE '%', i; RETURN true; END $$")
    reader.execute(ask.format(query.format("barred") + " AND eve.leak(id)"))
    assert seen and min(seen) > 100
    small.execute("DROP SCHEMA eve CASCADE; DROP VIEW barred, shown; DROP TABLE secret_items")


EVIL = "x'); DROP TABLE items; --"


@pytest.mark.parametrize("call", [
    "SELECT pgrain.predict({}, ARRAY[1.0, 2.0])",
    "SELECT pgrain.predict('colour', {})",
    "SELECT pgrain.predict_proba({}, ARRAY[1.0, 2.0])",
    "SELECT * FROM pgrain.complain({}, 'reds too high')",
    f"SELECT * FROM pgrain.complain('{REPORT.replace(chr(39), chr(39) * 2)}', {{}})",
    f"SELECT * FROM pgrain.complain('{REPORT.replace(chr(39), chr(39) * 2)}', 'reds too high "
    "WHERE ' || {})",
    f"SELECT * FROM pgrain.complain('{REPORT.replace(chr(39), chr(39) * 2)}', 'reds too high', 5, "
    "{})",
    f"SELECT * FROM pgrain.complain('{REPORT.replace(chr(39), chr(39) * 2)}', 'reds too high', 5, "
    "'delete', jsonb_build_object('method', {}))",
    f"SELECT * FROM pgrain.complain('{REPORT.replace(chr(39), chr(39) * 2)}', 'reds too high', 5, "
    "'delete', jsonb_build_object({}, 1))",
    "SELECT * FROM pgrain.provenance({})",
    "SELECT * FROM pgrain.explain({})",
    "SELECT pgrain._explain('SELECT 1', {})",
    "SELECT * FROM pgrain._stamp_key({}, 'x')",
    "SELECT * FROM pgrain.complaint_vector({}, 'reds too high')",
])
@pytest.mark.parametrize("text", [EVIL, "'", "\\", "$$; DROP TABLE items; $$", "\u202e\u0000x"[:1],
                                  "SELECT 1; DROP TABLE items", "x" * 3000])
def test_sql_in_every_text_is_only_text(small, reader, call, text):
    count = small.value("SELECT count(*) FROM items")
    try:
        reader.execute(psycopg.sql.SQL(call.replace("{", "{").replace("{}", "{}")).format(
            psycopg.sql.Literal(text)))
    except psycopg.Error as error:
        assert error.sqlstate not in ("XX000", "42P01"), error
    assert small.value("SELECT count(*) FROM items") == count


def test_placeholder_settings_decide_nothing(small, reader):
    """Any role can SET pgrain.anything; nothing reads it."""
    expected = reader.execute(COMPLAIN).fetchall()
    for name in ("socket", "worker", "path", "pythonpath", "tls_key", "tls_ca", "config_file",
                 "secret", "database", "version", "role"):
        reader.execute(f"SET pgrain.{name} = '/tmp/evil'")
    assert reader.execute(COMPLAIN).fetchall() == expected
    fresh = psycopg.connect(small.dsn("eve"), autocommit=True,
                            options="-c pgrain.socket=/tmp/evil -c pgrain.path=/tmp/evil")
    assert fresh.execute(COMPLAIN).fetchall() == expected
    fresh.close()
    with pytest.raises(psycopg.errors.CantChangeRuntimeParam):
        reader.execute("SET config_file = '/tmp/evil'")


def test_names_in_front_of_pg_catalog(small, reader):
    """Functions and operators of the caller's own, found before PostgreSQL's, change nothing that
    pgrain itself asks."""
    small.execute("CREATE SCHEMA eve AUTHORIZATION eve")
    expected = reader.execute(COMPLAIN).fetchall()
    for name, arguments, returns in [
            ("current_setting", "text", "text"), ("current_setting", "text, boolean", "text"),
            ("has_column_privilege", "oid, text, text", "boolean"),
            ("has_table_privilege", "text, text", "boolean"), ("sha256", "bytea", "bytea"),
            ("substr", "bytea, integer, integer", "bytea"), ("format", "text", "text"),
            ("set_config", "text, text, boolean", "text"), ("to_jsonb", "record", "jsonb"),
            ("current_database", "", "name"), ("array_send", "float8[]", "bytea")]:
        reader.execute(f"CREATE FUNCTION eve.{name}({arguments}) RETURNS {returns} "
                       f"LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked {name}'; END $$")
    for operator, left, right, returns in [("||", "bytea", "bytea", "bytea"),
                                           ("=", "text", "text", "boolean")]:
        reader.execute(f"CREATE FUNCTION eve.op(a {left}, b {right}) RETURNS {returns} LANGUAGE "
                       "plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked operator %', a; END $$")
        reader.execute(f"CREATE OPERATOR eve.{operator} (LEFTARG = {left}, RIGHTARG = {right}, "
                       "FUNCTION = eve.op)")
    reader.execute("SET search_path = eve, pg_catalog, public")
    session = small.connect("eve")
    session.execute("SET search_path = eve, pg_catalog, public")
    # The caller's own operators are the caller's own business; pgrain's questions are qualified.
    text = "SELECT count(*) AS reds FROM items WHERE pgrain.predict('colour', x) OPERATOR(pg_catalog.=) 'red'"  # noqa: E501
    for who in (reader, session):
        got = who.execute("SELECT train_id, train_key, score FROM pgrain.complain(%s, "
                          "'reds too high')", [text]).fetchall()
        assert got == expected
    reader.execute("RESET search_path")
    small.execute("DROP SCHEMA eve CASCADE")


def test_the_worker_reads_as_a_role_that_can_do_nothing_else(small):
    assert small.value("SELECT has_table_privilege('pgrain_reader', 'train', 'SELECT')")
    assert not small.rows("SELECT relname FROM pg_class WHERE relnamespace = "
                          "'pgrain'::regnamespace AND relkind IN ('r', 'v') "
                          "AND has_table_privilege('pgrain_reader', oid, "
                          "'SELECT, INSERT, UPDATE, DELETE')")
    assert not small.value("SELECT rolcanlogin OR rolsuper FROM pg_roles "
                           "WHERE rolname = 'pgrain_reader'")


def test_who_lacks_a_right_of_pgrain_s_is_told_how_to_get_it(small, as_role):
    """Of what our own code finds out; what PostgreSQL refuses to call says so without us."""
    session = as_role(small, "halfway", "user")
    small.execute("GRANT EXECUTE ON FUNCTION pgrain.drop_model(text) TO halfway")
    fresh = small.connect("halfway")
    try:
        # It is a user, but not an admin.
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            session.execute("SELECT pgrain.drop_model('colour')")
        assert caught.value.diag.message_primary == "pgrain: permission denied for table model"
        assert ("SELECT pgrain.grant_usage('halfway', admin => true)"
                in caught.value.diag.message_hint)
        # What an upgrade brought was not granted yet.
        for name in ("_load_session()", "complain(text, text, integer, text, jsonb)",
                     "complain(text, text[], integer, text, jsonb)"):
            small.execute(f"REVOKE EXECUTE ON FUNCTION pgrain.{name} FROM halfway")
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            fresh.execute("SELECT pgrain.predict('colour', ARRAY[1, 2]::float8[])")
        assert "function _load_session" in caught.value.diag.message_primary
        assert "SELECT pgrain.grant_usage('halfway')" in caught.value.diag.message_hint
        # What is the caller's own business has no such hint.
        small.execute("SELECT pgrain.grant_usage('halfway')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            small.connect("halfway").execute(COMPLAIN)
        assert "grant_usage" not in (caught.value.diag.message_hint or "")
    finally:
        fresh.close()


def test_reading_a_training_table_without_select_says_whose_grant_is_wanted(small, as_role):
    session = as_role(small, "without", "admin")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
        session.execute("SELECT pgrain.create_model('mine', 'train', 'id', '{x}', 'label', "
                        "'logistic_regression')")
    assert "GRANT SELECT ON train TO without" in caught.value.diag.message_hint
