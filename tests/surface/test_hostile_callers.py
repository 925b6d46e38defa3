"""What a role with few rights tries, and what it must not get: others' answers, rows, secrets."""

from __future__ import annotations

import psycopg
import pytest

COUNT = "SELECT count(*) AS n FROM {} WHERE pgrain.predict('colour', x) = 'red'"


@pytest.fixture
def mallory(small, as_role):
    """A session of a role that may predict and complain, with a schema of its own."""
    session = as_role(small, "mallory", "user")
    small.execute("DROP SCHEMA IF EXISTS mallory CASCADE")
    small.execute("CREATE SCHEMA mallory AUTHORIZATION mallory")
    small.execute("GRANT SELECT ON items TO mallory")
    yield session
    small.execute("DROP SCHEMA mallory CASCADE")


def circuit(connection, table):
    return connection.execute("SELECT value FROM pgrain.provenance(%s)",
                              [COUNT.format(table)]).fetchone()[0]


def truth(connection, table):
    return connection.execute(COUNT.format(table)).fetchone()[0]


def fresh_table(small, name, shift):
    """Values that nobody has asked for yet."""
    small.execute(f"DROP TABLE IF EXISTS {name}")
    small.execute(f"CREATE TABLE {name} AS SELECT id, ARRAY[x[1] + {shift}, x[2]] AS x, claim "
                  "FROM items WHERE x IS NOT NULL")
    small.execute(f"GRANT SELECT ON {name} TO mallory")


def test_a_function_that_lies_the_second_time_poisons_nobody(small, mallory):
    """The capture and the fetch evaluate the caller's expression apart; what the fetch gives must
    have the digest that the capture gave."""
    fresh_table(small, "fetched", 1e-7)
    mallory.execute("""
        CREATE FUNCTION mallory.twice(x float8[]) RETURNS float8[] LANGUAGE plpgsql STABLE AS $$
        DECLARE seen integer := coalesce(nullif(current_setting('m.k' || md5(x::text), true), ''),
                                         '0');
        BEGIN
            PERFORM set_config('m.k' || md5(x::text), (seen + 1)::text, false);
            RETURN CASE WHEN seen >= 1 THEN '{9, 9}'::float8[] ELSE x END;
        END $$""")
    for _ in range(3):
        try:
            mallory.execute("SELECT * FROM pgrain.provenance($$ SELECT count(*) AS n FROM "
                            "public.fetched WHERE pgrain.predict('colour', mallory.twice(x)) "
                            "= 'red' $$)")
        except psycopg.Error as error:
            assert error.diag.message_primary.startswith("pgrain: ")
    assert circuit(small.connection, "fetched") == truth(small.connection, "fetched")


def test_a_search_path_that_moves_meanwhile_poisons_no_stamps(small, mallory):
    fresh_table(small, "moved", 2e-7)
    mallory.execute("CREATE VIEW mallory.moved AS SELECT v.ctid, v.xmin, v.tableoid, "
                    "'{0, -3}'::float8[] AS x, v.id FROM public.moved v")
    mallory.execute("""CREATE FUNCTION mallory.flip(i integer) RETURNS boolean LANGUAGE plpgsql
        STABLE AS $$ BEGIN PERFORM set_config('search_path', 'mallory, public', false);
        RETURN true; END $$""")
    mallory.execute("SET search_path = public")
    for argument in ("id", "1"):
        try:
            mallory.execute("SELECT * FROM pgrain.provenance('SELECT count(*) AS n FROM moved "
                            "WHERE pgrain.predict(''colour'', x) = ''red'' "
                            f"AND mallory.flip({argument})')")
        except psycopg.Error as error:
            assert error.diag.message_primary.startswith("pgrain: ")
        mallory.execute("SET search_path = public")
    assert circuit(small.connection, "moved") == truth(small.connection, "moved")


def test_the_secret_is_in_no_plan(small, mallory):
    notices = []
    mallory.add_notice_handler(
        lambda notice: notices.append(f"{notice.message_primary} {notice.message_detail}"))
    mallory.execute("SET client_min_messages = log; SET debug_print_plan = on; "
                    "SET debug_print_parse = on; SET debug_print_rewritten = on; "
                    "SET plan_cache_mode = force_custom_plan")
    mallory.execute("""CREATE FUNCTION mallory.unset(i integer) RETURNS boolean LANGUAGE plpgsql
        STABLE AS $$ BEGIN PERFORM set_config('plan_cache_mode', 'force_custom_plan', false);
        RETURN true; END $$""")
    for source in ("(SELECT x, id FROM items OFFSET 0) AS i", "items"):
        mallory.execute("SELECT * FROM pgrain.provenance(%s)",
                        [COUNT.format(source) + " AND mallory.unset(1)"])
    secret = small.value("SELECT secret FROM pgrain.installation")
    numbers = " ".join(str(byte if byte < 128 else byte - 256) for byte in secret[:12])
    assert any("Query" in text or "PLANNEDSTMT" in text for text in notices)   # plans were printed
    assert not any(numbers in text or secret.hex() in text for text in notices)


OWNED = {
    "a policy": ["CREATE TABLE bob.t AS SELECT id, x FROM items",
                 "ALTER TABLE bob.t ENABLE ROW LEVEL SECURITY",
                 "CREATE POLICY p ON bob.t USING (bob.code(id))"],
    "a view": ["CREATE TABLE bob.b AS SELECT id, x FROM items",
               "CREATE VIEW bob.t AS SELECT id, x FROM bob.b WHERE bob.code(id)"],
    "a view of a view": ["CREATE TABLE bob.b AS SELECT id, x FROM items",
                         "CREATE VIEW bob.v AS SELECT id, x FROM bob.b WHERE bob.code(id)",
                         "CREATE VIEW bob.t AS SELECT id, x FROM bob.v"],
    "a policy under a view": ["CREATE TABLE bob.b AS SELECT id, x FROM items",
                              "ALTER TABLE bob.b ENABLE ROW LEVEL SECURITY",
                              "ALTER TABLE bob.b FORCE ROW LEVEL SECURITY",
                              "CREATE POLICY p ON bob.b USING (bob.code(id))",
                              "CREATE VIEW bob.t AS SELECT id, x FROM bob.b"],
}


@pytest.mark.parametrize("statements", OWNED.values(), ids=OWNED.keys())
def test_the_worker_runs_no_code_of_a_table_s_owner(small, as_role, statements):
    owner = as_role(small, "bob")
    small.execute("DROP SCHEMA IF EXISTS bob CASCADE")
    small.execute("CREATE SCHEMA bob AUTHORIZATION bob")
    small.execute("GRANT SELECT ON items TO bob")
    owner.execute("CREATE TABLE bob.loot (who text)")
    owner.execute("GRANT ALL ON bob.loot TO PUBLIC; GRANT USAGE ON SCHEMA bob TO PUBLIC")
    owner.execute("CREATE FUNCTION bob.code(i integer) RETURNS boolean LANGUAGE plpgsql AS $$ "
                  "BEGIN IF current_user = 'pgrain_worker' THEN RAISE EXCEPTION 'loot: %', "
                  "(SELECT count(*) FROM public.train); END IF; RETURN true; END $$")
    for statement in statements:
        owner.execute(statement)
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
        small.execute("CALL pgrain.attach('colour', 'bob.t')")
    assert "loot" not in str(caught.value)
    small.execute("DELETE FROM pgrain.attachment WHERE relation <> 'items'::regclass")
    small.execute("DROP SCHEMA bob CASCADE")


def test_an_admin_trains_on_nothing_that_he_may_not_read(small, as_role):
    """Neither through create_model nor through the tables that it writes."""
    admin = as_role(small, "curious", "admin")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        admin.execute("SELECT pgrain.create_model('spy', 'train', 'id', '{x}', 'label', "
                      "'logistic_regression')")
    admin.execute("""INSERT INTO pgrain.model (model, training_table, key, features, label, kind,
        architecture, options) VALUES ('spy', 'public.train', 'id', '{x}', 'label', 'float8',
        'logistic_regression', '{}')""")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as refusal:
        admin.execute("CALL pgrain.train('spy')")
    assert refusal.value.diag.message_hint == 'GRANT SELECT ON "public"."train" TO "curious".'
    admin.execute("INSERT INTO pgrain.job (kind, model, submitted_by) "
                  "VALUES ('precompute', 'spy', 'postgres')")
    assert small.value("SELECT submitted_by FROM pgrain.jobs WHERE model = 'spy' "
                       "ORDER BY job DESC LIMIT 1") == "curious"
    small.execute("SELECT pgrain.drop_model('spy')")


def test_own_functions_and_aggregates_are_noticed(small):
    """Also where the same text meant PostgreSQL's own a moment ago."""
    session = small.connect()
    small.execute("CREATE SCHEMA evil")
    session.execute("SET search_path = evil, pg_catalog, public")
    text = "SELECT sum(hour) AS n FROM items WHERE pgrain.predict('colour', x) = 'red'"
    ask = ("SELECT value FROM pgrain.provenance(%s)", [text])
    assert session.execute(*ask).fetchone()[0] == session.execute(text).fetchone()[0]
    small.execute("CREATE AGGREGATE evil.sum(integer) (SFUNC = int4larger, STYPE = integer)")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="evil.sum"):
        session.execute(*ask)
    small.execute("DROP AGGREGATE evil.sum(integer)")

    text = ("SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = claim "
            "AND length(claim) = 3")
    ask = ("SELECT value FROM pgrain.provenance(%s)", [text])
    before = session.execute(*ask).fetchone()[0]
    small.execute("CREATE FUNCTION evil.length(text) RETURNS integer LANGUAGE sql IMMUTABLE AS "
                  "'SELECT 0'")
    assert session.execute(*ask).fetchone()[0] == session.execute(text).fetchone()[0] == 0 < before
    small.execute("DROP SCHEMA evil CASCADE")


def test_a_changed_column_type_is_noticed(small):
    small.execute("CREATE TABLE typed AS SELECT x, hour FROM items")
    text = ("SELECT hour, count(*) AS n FROM typed WHERE pgrain.predict('colour', x) = 'red' "
            "GROUP BY hour")
    ask = "SELECT output ->> 'hour', value FROM pgrain.provenance(%s) ORDER BY 1"
    before = small.rows(ask, [text])
    small.execute("ALTER TABLE typed ALTER hour TYPE text USING 'h' || hour")
    assert small.rows(ask, [text]) == [(f"h{hour}", n) for hour, n in before]
    small.execute("DROP TABLE typed")
