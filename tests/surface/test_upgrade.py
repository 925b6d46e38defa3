"""ALTER EXTENSION UPDATE from every released version: the catalog is a fresh one's, the data stays,
and a session that has begun before is told to start anew."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psycopg
import pytest

from pgrain.cli import install
from pgrain.cli.upgrade import statements, upgrade_script

ROOT = Path(__file__).resolve().parents[2]
RELEASED = sorted(path.name.removeprefix("pgrain--").removesuffix(".sql")
                  for path in (ROOT / "extension" / "released").glob("pgrain--*.sql"))

CATALOG = {
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               a.attidentity, a.attstorage, pg_get_expr(d.adbin, d.adrelid), a.attacl::text
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
            AND NOT a.attisdropped LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (c.oid, attnum)
        WHERE c.relnamespace = 'pgrain'::regnamespace AND c.relkind IN ('r', 'v', 'S')""",
    "relations": """
        SELECT relname, relkind, array(SELECT unnest(relacl)::text ORDER BY 1), relrowsecurity
        FROM pg_class
        WHERE relnamespace = 'pgrain'::regnamespace""",
    "constraints": """
        SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'pgrain'::regnamespace""",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'pgrain'",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'pgrain'",
    "triggers": """
        SELECT tgrelid::regclass, tgname, pg_get_triggerdef(t.oid) FROM pg_trigger t
        JOIN pg_class c ON c.oid = tgrelid WHERE c.relnamespace = 'pgrain'::regnamespace
        AND NOT tgisinternal""",
    "functions": """
        SELECT oid::regprocedure, pg_get_functiondef(oid),
               array(SELECT unnest(proacl)::text ORDER BY 1) FROM pg_proc
        WHERE pronamespace = 'pgrain'::regnamespace AND prokind IN ('f', 'p')""",
    "comments": """
        SELECT objtype, objname, objargs, description FROM pg_description,
            pg_identify_object(classoid, objoid, objsubid) AS o,
            pg_identify_object_as_address(classoid, objoid, objsubid) AS a (objtype, objname,
                                                                            objargs)
        WHERE o.schema = 'pgrain'""",
    "members": """
        SELECT pg_describe_object(classid, objid, 0) FROM pg_depend
        WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
        AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pgrain')""",
    "dumped": """
        SELECT t.oid::regclass, c FROM pg_extension, unnest(extconfig, extcondition) AS u (t_oid, c)
        JOIN pg_class t ON t.oid = t_oid WHERE extname = 'pgrain'""",
    "initial rights": """
        SELECT pg_describe_object(classoid, objoid, objsubid), privtype,
               array(SELECT unnest(initprivs)::text ORDER BY 1)
        FROM pg_init_privs
        WHERE pg_describe_object(classoid, objoid, objsubid) LIKE '%%pgrain.%%'""",
}


def catalog(database) -> dict[str, set[str]]:
    return {what: {repr(row) for row in database.rows(query)} for what, query in CATALOG.items()}


@pytest.fixture(scope="module")
def released(server):
    """The scripts of released versions, where CREATE EXTENSION finds them, and a stand-in for the
    Python of each."""
    sharedir = server.server.sharedir
    if not os.access(sharedir / "extension", os.W_OK):
        pytest.skip(f"{sharedir} cannot be written")
    made = []
    for number in RELEASED:
        script = (ROOT / "extension" / "released" / f"pgrain--{number}.sql").read_text()
        home = sharedir / "pgrain" / number
        place = sharedir / "extension" / f"pgrain--{number}.sql"
        place.write_text(install.fill_in(script, str(home), number))
        (home / "pgrain" / "backend").mkdir(parents=True, exist_ok=True)
        (home / "pgrain" / "__init__.py").write_text("")
        (home / "pgrain" / "backend" / "__init__.py").write_text("")
        (home / "pgrain" / "backend" / "entry.py").write_text(
            "def doctor(plpy): return [('old', True, None, None)]\n")
        made += [place, home]
    yield RELEASED
    for path in made:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def make(database, number: str):
    it = database(extension=False)
    it.execute("SET client_min_messages = warning; CREATE EXTENSION plpython3u")
    it.connection.execute(f"CREATE EXTENSION pgrain VERSION '{number}'")
    return it


@pytest.mark.parametrize("number", RELEASED)
def test_an_upgraded_catalog_is_a_fresh_one(database, released, number):
    fresh, old = database(), make(database, number)
    old.execute("ALTER EXTENSION pgrain UPDATE")
    assert old.value("SELECT extversion FROM pg_extension WHERE extname = 'pgrain'"
                     ) == install.version()
    expected, found = catalog(fresh), catalog(old)
    assert all(len(rows) > 1 for what, rows in expected.items()), "a query that finds nothing"
    wrong = {what: {"missing": sorted(expected[what] - found[what]),
                    "too many": sorted(found[what] - expected[what])}
             for what in CATALOG if expected[what] != found[what]}
    assert wrong == {}, ("extension/upgrade/*.sql must say how to get there:\n" + "\n".join(
        f"{what}, {side}: {line}" for what, sides in wrong.items()
        for side, lines in sides.items() for line in lines))


@pytest.mark.parametrize("number", RELEASED)
def test_models_and_edits_stay(small, module_database, worker, released, number):
    """The rows that 0.1.0 would have written, then the upgrade, then a worker of today."""
    small.execute("SELECT pgrain.apply('colour', '{3}', 'delete')")
    old = module_database(extension=False)
    old.execute("SET client_min_messages = warning; CREATE EXTENSION plpython3u")
    old.execute(f"CREATE EXTENSION pgrain VERSION '{number}'")
    for table in ("train", "items"):
        columns = {"train": "id integer PRIMARY KEY, x float8[], label text",
                   "items": "id integer PRIMARY KEY, x float8[], claim text, hour integer"}[table]
        old.execute(f"CREATE TABLE {table} ({columns})")
        copy(small, old, table, "*")
    old.execute("GRANT SELECT ON train, items TO pgrain_worker")
    old.execute("CREATE ROLE of_old; GRANT USAGE ON SCHEMA pgrain TO of_old; "
                "GRANT EXECUTE ON FUNCTION pgrain._load_session() TO of_old; "
                "GRANT SELECT ON pgrain.models TO of_old")
    for table in ("installation", "model", "model_version", "version_chunk", "attachment",
                  "training_edit"):
        columns = ", ".join(row[0] for row in old.rows(
            "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = %s::regclass "
            "AND attnum > 0 AND NOT attisdropped ORDER BY attnum", [f"pgrain.{table}"]))
        copy(small, old, f"pgrain.{table}", columns)
    old.execute("SELECT setval(pg_get_serial_sequence('pgrain.model_version', 'version'), "
                "(SELECT max(version) FROM pgrain.model_version))")
    session = old.connect()
    assert session.execute("SELECT what FROM pgrain.doctor()").fetchall() == [("old",)]
    notices = []
    old.connection.add_notice_handler(lambda notice: notices.append(notice.message_hint or ""))
    old.execute("SET client_min_messages = notice; ALTER EXTENSION pgrain UPDATE")
    assert any("of_old" in hint and "grant_usage" in hint for hint in notices), notices
    assert old.value("SELECT has_table_privilege('of_old', 'pgrain.models', 'SELECT')")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState,
                       match="another version") as caught:
        session.execute("SELECT what FROM pgrain.doctor()").fetchall()
    assert caught.value.diag.message_hint == "Start a new session."

    worker(old)
    old = old.connect()
    labels = "SELECT id, pgrain.predict('colour', x) FROM items ORDER BY id"
    assert old.execute(labels).fetchall() == small.rows(labels)
    assert old.execute("SELECT model, train_key, intervention FROM pgrain.edits").fetchall() == [
        ("colour", "3", "delete")]
    old.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
    report = "SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'red'"
    complain = f"SELECT train_id FROM pgrain.complain($q${report}$q$, 'n too high', 50)"
    assert old.execute(complain).fetchall() == small.rows(complain)
    old.execute("CALL pgrain.train('colour')")
    assert old.execute("SELECT n_rows FROM pgrain.models").fetchone()[0] == 239   # without row 3
    old.execute("DROP OWNED BY of_old; DROP ROLE of_old")


def copy(source, target, table: str, columns: str) -> None:
    names = "" if columns == "*" else f" ({columns})"
    with source.connection.cursor() as a, target.connection.cursor() as b:
        with a.copy(f"COPY (SELECT {columns} FROM {table}) TO STDOUT") as out, \
                b.copy(f"COPY {table}{names} FROM STDIN") as into:
            for block in out:
                into.write(block)


def test_statements_are_told_apart():
    script = ("-- one; two\nSELECT 'a;''b' /* c; */;\n\\echo no statement\n"
              "DO $$ BEGIN x; END $$;CREATE FUNCTION f() AS $python$ $$;$$ ; $python$;\n-- end\n")
    assert list(statements(script)) == [
        "SELECT 'a;''b' /* c; */;", "DO $$ BEGIN x; END $$;",
        "CREATE FUNCTION f() AS $python$ $$;$$ ; $python$;"]
    with pytest.raises(ValueError, match="no end"):
        list(statements("SELECT 1"))


def test_what_an_upgrade_holds():
    old = "CREATE TABLE p.a (x int);\nCREATE FUNCTION p.f() AS $$1$$;\nCOMMENT ON TABLE p.a IS 'a';"
    new = ("CREATE TABLE p.a (x int, y int);\nCREATE TABLE p.b (z int);\n"
           "CREATE FUNCTION p.f() AS $$1$$;\nCOMMENT ON TABLE p.a IS 'a';\nGRANT x ON p.a TO y;")
    made = upgrade_script(old, new, "ALTER TABLE p.a ADD y int;")
    assert made.index("ALTER TABLE p.a ADD y") < made.index("CREATE TABLE p.b")
    assert "CREATE OR REPLACE FUNCTION p.f()" in made and "GRANT x ON p.a TO y;" in made
    assert "CREATE TABLE p.a" not in made and "COMMENT" not in made
