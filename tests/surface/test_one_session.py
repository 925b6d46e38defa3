"""One session, several identities: what it remembers of one is nothing to the next. Row security by
a setting, SET ROLE, SECURITY DEFINER functions, temporary tables in front of others."""

from __future__ import annotations

import psycopg
import pytest

QUERY = ("SELECT hour, count(*) AS n FROM {} WHERE pgrain.predict('colour', x) = 'red' "
         "GROUP BY hour ORDER BY hour")
ASK = {
    "the query": "{query}",
    "provenance": "SELECT output ->> 'hour', value, variables FROM pgrain.provenance($q${query}$q$)"
                  " ORDER BY 1",
    "a complaint": "SELECT train_id, score FROM pgrain.complain($q${query}$q$, 'n too high', 5)",
    "a complaint about a row": "SELECT train_id, score FROM pgrain.complain($q${query}$q$, "
                               "'n too high WHERE hour = 1', 5)",
    "a vector": "SELECT pgrain.complaint_vector($q${query}$q$, 'n too high')",
    "a plan": "SELECT train_id, predicted FROM pgrain.plan_repair($q${query}$q$, 'n <= 3 WHERE "
              "hour = 1')",
    "an assessment": "SELECT check_name, verdict FROM pgrain.assess($q${query}$q$, 'n too high')",
    "a batch": "SELECT key, label FROM pgrain.predict_batch('colour', 'SELECT id, x FROM {table}')"
               " ORDER BY 1",
}


def answers(session, table="items", query=QUERY) -> dict:
    """What the session is told, or the SQLSTATE it is refused with."""
    found = {}
    for name, statement in ASK.items():
        try:
            found[name] = session.execute(statement.format(
                query=query.format(table), table=table)).fetchall()
        except psycopg.Error as error:
            found[name] = error.sqlstate
    return found


@pytest.fixture(scope="module")
def shop(small):
    small.execute("CREATE TABLE rented AS SELECT *, 'tenant ' || id % 3 AS tenant FROM items")
    small.execute("ALTER TABLE rented ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON rented "
                  "USING (tenant = current_setting('app.tenant', true))")
    small.execute("CREATE TABLE closed AS SELECT * FROM items WHERE id % 3 = 0")
    small.execute("CREATE ROLE ann LOGIN NOINHERIT; CREATE ROLE bea LOGIN; GRANT bea TO ann")
    for role in ("ann", "bea"):
        small.execute("SELECT pgrain.grant_usage(%s)", [role])
        small.execute(f"GRANT SELECT ON rented, items TO {role}")
    small.execute("GRANT SELECT ON closed TO bea; GRANT CREATE ON SCHEMA public TO bea")
    yield small
    small.execute("DROP TABLE rented, closed CASCADE; DROP OWNED BY ann, bea; DROP ROLE ann, bea")


def test_row_security_by_a_setting(shop):
    """As poolers have it: one session, a tenant after the other, the same texts."""
    session = shop.connect("ann")
    for _ in range(2):
        for tenant in ("tenant 0", "tenant 1", "tenant 2", "nobody"):
            session.execute("SELECT set_config('app.tenant', %s, false)", [tenant])
            told = answers(session, "rented")
            with shop.connect("ann") as fresh:
                fresh.execute("SELECT set_config('app.tenant', %s, false)", [tenant])
                assert told == answers(fresh, "rented"), tenant
            assert len(told["a batch"]) == shop.value(
                "SELECT count(*) FROM rented WHERE tenant = %s", [tenant])
    session.execute("SELECT set_config('app.tenant', 'tenant 0', false)")
    first = answers(session, "rented")
    with session.transaction():     # and within one transaction, in one snapshot
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        for tenant in ("tenant 1", "tenant 0"):
            session.execute("SELECT set_config('app.tenant', %s, true)", [tenant])
            told = answers(session, "rented")
    assert told == first


def test_another_role_in_the_same_session(shop):
    session = shop.connect("ann")
    refused = answers(session, "closed")
    assert all(told == "42501" for told in refused.values()), refused
    for _ in range(2):
        session.execute("SET ROLE bea")
        told = answers(session, "closed")
        assert "42501" not in told.values()
        session.execute("RESET ROLE")
        assert answers(session, "closed") == refused


def test_a_definer_s_answers_are_not_the_caller_s(shop):
    """What a function of bea's may complain about, ann may through it alone."""
    session = shop.connect("ann")
    refused = answers(session, "closed")
    ask = ASK["a complaint about a row"].format(query=QUERY.format("closed"))
    with shop.connect("bea") as bea:
        bea.execute(f"CREATE FUNCTION suspects() RETURNS TABLE (a bigint, b float8) LANGUAGE "
                    f"plpgsql SECURITY DEFINER AS $f$ BEGIN RETURN QUERY {ask}; END $f$")
        expected = bea.execute(ask).fetchall()
    for _ in range(3):
        assert session.execute("SELECT * FROM suspects()").fetchall() == expected
        assert answers(session, "closed") == refused
    shop.execute("DROP FUNCTION suspects()")


def test_temporary_tables_in_front(shop):
    """A name means what it means to PostgreSQL at that moment; those of catalogs nothing."""
    session = shop.connect("ann")
    before = answers(session)
    session.execute("CREATE TEMPORARY TABLE items AS SELECT * FROM public.items WHERE id <= 40")
    told = answers(session)
    assert told != before and told == answers(session, "pg_temp.items") | {
        "a batch": told["a batch"]}
    assert len(told["a batch"]) == 40
    session.execute("DROP TABLE pg_temp.items")
    assert answers(session) == before
    for name in ("pg_class", "pg_attribute", "pg_proc", "pg_namespace", "pg_roles", "pg_locks",
                 "pg_extension", "pg_database", "pg_trigger", "model", "worker", "installation"):
        session.execute(f"CREATE TEMPORARY TABLE {name} (oid oid, relname name, secret bytea)")
    assert answers(session) == before
    with shop.connect("ann") as fresh:
        assert answers(fresh) == before
        assert fresh.execute("SELECT bool_and(ok) FROM pgrain.doctor()").fetchone() == (True,)
    assert session.execute("SELECT bool_and(ok) FROM pgrain.doctor()").fetchone() == (True,)


def test_a_view_with_the_rights_of_whoever_asks(shop):
    """security_invoker: the view's owner lends nothing."""
    shop.execute("CREATE VIEW asked WITH (security_invoker) AS SELECT * FROM closed")
    shop.execute("CREATE VIEW lent AS SELECT * FROM closed")
    shop.execute("GRANT SELECT ON asked, lent TO ann, bea")
    with shop.connect("ann") as ann, shop.connect("bea") as bea:
        refused = answers(ann, "asked")
        assert all(told == "42501" for told in refused.values()), refused
        told = answers(ann, "lent")
        assert "42501" not in told.values()
        assert answers(bea, "asked") == answers(bea, "closed") == told
    shop.execute("DROP VIEW asked, lent")
