"""The SQL surface as the catalogs show it: markers, rights, what a dump takes along."""

from __future__ import annotations

import re
import subprocess

import psycopg
import pytest

USER = {"_worker_here", "_settings",
        "predict", "predict_proba", "predict_batch", "complain", "provenance", "explain", "doctor",
        "_complain", "_ranked", "_load_session", "_load_model", "_explain", "_stamp_key",
        "_snapshot", "_predict_open", "_predict_next", "complaint_vector",
        "plan_repair", "assess", "describe", "brightness", "contrast", "cluster",
        "resembles",
        "_load_watch", "_load_watch_cells", "_watch_print", "_watch_owner", "_watch_cut"}
ADMIN = USER | {"protect_keys",
                "create_model", "alter_model", "drop_model", "activate", "detach", "apply",
                "revert",
                "create_intervention", "drop_intervention", "edits_sql", "rank", "forget",
                "train", "import_weights", "precompute", "attach", "cancel", "repair",
                "_plan_repair", "_holds", "_ensure_secret", "_drop_predictions", "watch",
                "unwatch", "_arm_watch", "_hint_at", "_hold_repair", "_leave"}
VIEWS = {"settings", "sizes", "staleness",
         "attached", "edits", "erasures", "interventions", "jobs", "models", "progress",
         "versions", "watches", "workers"}
TABLES = {"protected_keys", "attachment_hint", "attachment_state",
          "attachment", "attachment_problem", "erasure", "held", "installation", "intervention",
          "intervention_ready",
          "intervention_value", "job", "model", "model_version", "prediction_chunk",
          "repair_round", "spectrum", "spectrum_chunk", "training_edit", "version_chunk", "watch",
          "watch_cell", "watch_lock", "watch_note", "watch_problem", "watch_state", "weights",
          "worker", "training_state"}

SIGNATURES = """
f activate(model text, version bigint) -> void
f alter_model(model text, training_table regclass DEFAULT NULL::regclass, key name DEFAULT NULL::name, features name[] DEFAULT NULL::name[], label name DEFAULT NULL::name) -> void
f apply(model text, train_keys text[], intervention text) -> void
f cancel(job bigint) -> boolean
f assess(query text, complaint text) -> TABLE(check_name text, value double precision, verdict text, hint text)
f assess(query text, complaint text[]) -> TABLE(check_name text, value double precision, verdict text, hint text)
f complain(query text, complaint text, top_k integer DEFAULT 100, intervention text DEFAULT 'delete'::text, options jsonb DEFAULT '{}'::jsonb) -> TABLE(rank integer, model text, train_id bigint, train_key text, intervention text, score double precision, effect double precision)
f complain(query text, complaint text[], top_k integer DEFAULT 100, intervention text DEFAULT 'delete'::text, options jsonb DEFAULT '{}'::jsonb) -> TABLE(rank integer, model text, train_id bigint, train_key text, intervention text, score double precision, effect double precision)
f complaint_vector(query text, complaint text) -> bytea
f complaint_vector(query text, complaint text[]) -> bytea
f create_model(model text, training_table regclass, key name, features name[], label name, architecture text, options jsonb DEFAULT '{}'::jsonb) -> void
f create_intervention(model text, name text, features text[] DEFAULT NULL::text[], library text DEFAULT NULL::text, options jsonb DEFAULT '{}'::jsonb) -> void
f brightness(image bytea) -> double precision
f cluster(model text, train_key text) -> integer
f contrast(image bytea) -> double precision
f describe(model text, train_keys text[], options jsonb DEFAULT '{}'::jsonb) -> TABLE(predicate text, covered bigint, "precision" double precision, recall double precision)
f resembles(model text, train_key text) -> text
f detach(model text, relation regclass) -> void
f doctor() -> TABLE(what text, ok boolean, detail text, hint text)
f drop_model(model text) -> void
f drop_intervention(model text, name text) -> void
f edits_sql(model text) -> SETOF text
f forget(model text, train_keys text[]) -> bigint
f explain(query text) -> SETOF text
f grant_usage(role name, admin boolean DEFAULT false) -> void
f plan_repair(query text, complaint text, intervention text DEFAULT 'delete'::text, options jsonb DEFAULT '{}'::jsonb) -> TABLE(rank integer, train_id bigint, train_key text, intervention text, predicted double precision, low double precision, high double precision)
f plan_repair(query text, complaint text[], intervention text DEFAULT 'delete'::text, options jsonb DEFAULT '{}'::jsonb) -> TABLE(rank integer, train_id bigint, train_key text, intervention text, predicted double precision, low double precision, high double precision)
f predict(model text, x bytea) -> text
f predict(model text, x double precision[]) -> text
f predict(model text, x jsonb) -> text
f predict(model text, x record) -> text
f predict(model text, x text) -> text
f predict_batch(model text, query text) -> TABLE(key text, label text, probabilities double precision[])
f predict_proba(model text, x bytea) -> double precision[]
f predict_proba(model text, x double precision[]) -> double precision[]
f predict_proba(model text, x jsonb) -> double precision[]
f predict_proba(model text, x record) -> double precision[]
f predict_proba(model text, x text) -> double precision[]
f protect_keys(model text, protect boolean DEFAULT true) -> void
f provenance(query text, include_absent boolean DEFAULT false) -> TABLE(output_row integer, output jsonb, output_column text, value double precision, relaxed double precision, variables bigint)
f rank(model text, vector bytea, top_k integer DEFAULT 100, intervention text DEFAULT 'delete'::text, options jsonb DEFAULT '{}'::jsonb) -> TABLE(rank integer, model text, train_id bigint, train_key text, intervention text, score double precision, effect double precision)
f revert(model text, train_keys text[] DEFAULT NULL::text[]) -> void
f unwatch(name text) -> void
p attach(IN model text, IN relation regclass, IN features name[] DEFAULT NULL::name[], IN wait boolean DEFAULT true) ->
p import_weights(IN model text, IN weights bytea, IN options jsonb DEFAULT '{}'::jsonb, IN wait boolean DEFAULT true) ->
p precompute(IN model text, IN options jsonb DEFAULT '{}'::jsonb, IN wait boolean DEFAULT true) ->
p repair(IN name text, IN query text, IN complaint text, IN intervention text DEFAULT 'delete'::text, IN options jsonb DEFAULT '{}'::jsonb) ->
p repair(IN name text, IN query text, IN complaint text[], IN intervention text DEFAULT 'delete'::text, IN options jsonb DEFAULT '{}'::jsonb) ->
p train(IN model text, IN options jsonb DEFAULT '{}'::jsonb, IN wait boolean DEFAULT true) ->
p watch(IN name text, IN query text, IN alert text DEFAULT NULL::text) ->
"""   # noqa: E501


@pytest.fixture(scope="module")
def fresh(module_database):
    return module_database()


def test_signatures(fresh):
    found = fresh.rows("""
        SELECT prokind, proname, pg_get_function_arguments(oid), coalesce(
               pg_get_function_result(oid), '')
        FROM pg_proc WHERE pronamespace = 'pgrain'::regnamespace AND proname NOT LIKE E'\\\\_%'""")
    lines = sorted(f"{kind} {name}({arguments}) -> {result}".strip()
                   for kind, name, arguments, result in found)
    assert lines == sorted(SIGNATURES.strip().split("\n"))


def test_members(fresh):
    """Everything of the schema belongs to the extension, so that DROP EXTENSION takes it all."""
    relations = {row[0]: row[1] for row in fresh.rows("""
        SELECT c.relname, c.relkind FROM pg_class c JOIN pg_depend d ON d.objid = c.oid
            AND d.deptype = 'e' AND d.classid = 'pg_class'::regclass
        WHERE c.relnamespace = 'pgrain'::regnamespace""")}
    assert {name for name, kind in relations.items() if kind == "r"} == TABLES
    assert {name for name, kind in relations.items() if kind == "v"} == VIEWS | {
        "_version_edit"}


def test_markers(fresh):
    """predict and complain: STABLE, never IMMUTABLE; all of ours parallel unsafe."""
    for name, volatility, parallel, strict, definer, configuration in fresh.rows("""
            SELECT proname, provolatile, proparallel, proisstrict, prosecdef, proconfig
            FROM pg_proc WHERE pronamespace = 'pgrain'::regnamespace"""):
        assert parallel == "u", name
        assert volatility != "i", name
        if name in ("predict", "predict_proba", "predict_batch", "complain", "provenance",
                    "explain", "complaint_vector", "rank", "plan_repair", "assess"):
            # complain is dissolved; of a null it gives no rows, and a notice (test_errors).
            assert (volatility, strict or name == "complain", definer) == ("s", True, False), name
        if name in ("_complain", "provenance", "explain", "complaint_vector", "plan_repair",
                    "_plan_repair", "_holds", "assess"):
            # A capture without nested loops counts as so dear that all of it would be compiled.
            assert configuration[:3] == ["plan_cache_mode=force_generic_plan",
                                         "enable_nestloop=on", "jit=off"], name
            if fresh.value("SHOW server_version_num") < "160000":
                assert configuration[3:] == ["transaction_read_only=on"], name
        elif definer or name == "_as_caller":
            assert configuration[0] == "search_path=pg_catalog, pg_temp", name
            if name == "_watch_print":      # a few rows of catalogs, found by index
                assert configuration[1:] == [
                    "plan_cache_mode=force_generic_plan", "enable_seqscan=off",
                    "enable_hashjoin=off", "enable_mergejoin=off"], configuration
            elif name == "_hint":           # not a plan that was made when there were few
                assert configuration[1:] == ["enable_seqscan=off"], configuration
            else:
                assert configuration[1:] in ([], ["lock_timeout=3s"], ["lock_timeout=1s"],
                                                 ["enable_seqscan=off"]), name


def test_rights(fresh, as_role):
    """Role x function x table: PUBLIC nothing, users what they need, admins models too."""
    as_role(fresh, "somebody")
    as_role(fresh, "analyst", "user")
    as_role(fresh, "modeller", "admin")

    def functions(role):
        return {row[0] for row in fresh.rows(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'pgrain'::regnamespace "
            "AND has_function_privilege(%s, oid, 'EXECUTE')", [role])}

    def relations(role, right):
        return {row[0] for row in fresh.rows(
            "SELECT relname FROM pg_class WHERE relnamespace = 'pgrain'::regnamespace "
            "AND relkind IN ('r', 'v') AND has_table_privilege(%s, oid, %s)", [role, right])}
    writable = {"model", "model_version", "attachment", "training_edit", "intervention"}
    assert functions("somebody") == set()
    assert functions("analyst") == USER
    assert functions("modeller") == ADMIN
    assert not fresh.value("SELECT has_schema_privilege('somebody', 'pgrain', 'USAGE')")
    for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"):
        assert relations("somebody", right) == set()
    assert relations("analyst", "SELECT") == VIEWS
    assert relations("modeller", "SELECT") == VIEWS | writable | {
        "job", "repair_round", "watch", "protected_keys", "_version_edit"}
    for right in ("INSERT", "UPDATE", "DELETE"):
        assert relations("analyst", right) == set()
        assert relations("modeller", right) - {
            "job", "intervention_value", "repair_round", "watch", "weights",
            "protected_keys"} == writable
    assert "intervention_value" not in (relations("modeller", "SELECT")
                                        | relations("modeller", "UPDATE")
                                        | relations("modeller", "DELETE"))
    assert "repair_round" not in relations("modeller", "UPDATE") | relations("modeller", "DELETE")
    assert "job" not in relations("modeller", "UPDATE") | relations("modeller", "DELETE")
    assert "secret" not in str(fresh.rows("SELECT * FROM pg_settings WHERE name LIKE 'pgrain%'"))


def test_no_secret_for_anybody(fresh, as_role):
    for role, grant in (("analyst2", "user"), ("modeller2", "admin")):
        connection = as_role(fresh, role, grant)
        for table in ("installation", "worker", "version_chunk", "prediction_chunk", "weights"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM pgrain.{table}")


def test_drop_extension_leaves_nothing(database):
    own = database()
    own.execute("CREATE TABLE t (id integer PRIMARY KEY, x float8[], label text)")
    own.execute("SELECT pgrain.create_model('m', 't', 'id', '{x}', 'label', 'mlp')")
    own.execute("DROP EXTENSION pgrain")
    assert own.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgrain'") == 0
    assert own.value("SELECT count(*) FROM t") == 0
    own.execute("CREATE EXTENSION pgrain")


def test_the_schema_is_pgrain(fresh):
    """Names in functions are qualified: in another schema nothing would work."""
    fresh.execute("CREATE SCHEMA elsewhere")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="does not support SET SCHEMA"):
        fresh.execute("ALTER EXTENSION pgrain SET SCHEMA elsewhere")
    fresh.execute("DROP SCHEMA elsewhere")


def test_dumps_of_every_form(small, module_database, tmp_path):
    """In parallel (as docs/user/operations.md says), over a database that has it all already, and
    without data."""
    program, count = small.cluster.server.program, "SELECT count(*) FROM pgrain.model"
    subprocess.run([program("pg_dump"), "-Fd", "-j", "2", "-f", tmp_path / "dump", small.dsn()],
                   check=True)
    other = module_database(extension=False)

    def restore(*options) -> None:
        done = subprocess.run([program("pg_restore"), "--exit-on-error", *options, "-d",
                               other.dsn(), tmp_path / "dump"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def in_parallel(*options) -> None:
        listed = subprocess.run([program("pg_restore"), "-l", tmp_path / "dump"], check=True,
                                capture_output=True, text=True).stdout.splitlines(keepends=True)
        for name, own in (("others", False), ("own", True)):
            (tmp_path / name).write_text("".join(
                line for line in listed if (" TABLE DATA pgrain " in line) is own))
        restore("-j", "4", "-L", tmp_path / "others", *options)
        restore("-L", tmp_path / "own")

    in_parallel()
    assert other.value(count) == small.value(count) > 0
    other.execute("INSERT INTO items SELECT id + 5000, x, claim, hour FROM items")
    for options in (("--clean", "--if-exists"), None, ("--clean", "--single-transaction")):
        if options is None:
            in_parallel("--clean", "--if-exists")
        else:
            restore(*options)
        assert other.value(count) == small.value(count), options
        assert other.value("SELECT count(*) FROM items") == small.value(
            "SELECT count(*) FROM items"), options
    bare = module_database(extension=False)
    text = subprocess.run([program("pg_dump"), "--schema-only", small.dsn()], check=True,
                          capture_output=True, text=True).stdout
    done = subprocess.run([program("psql"), "-qX", "-v", "ON_ERROR_STOP=1", bare.dsn()], input=text,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert bare.value(count) == 0
    bare.execute("INSERT INTO items (id, x) VALUES (1, '{1,2}')")
    assert bare.value("SELECT count(*) FROM pgrain.attachment_hint") == 1
    bare.execute("SELECT pgrain._tidy()")
    assert bare.value("SELECT count(*) FROM pgrain.attachment_hint") == 0
    assert bare.value("SELECT count(*) FROM pg_trigger WHERE tgname = '_pgrain_attached'") == 0


def test_dump_and_restore_keep_models(small, module_database, worker):
    """Models, versions, edits and the secret survive; what can be computed again is left out."""
    small.execute("SELECT pgrain.apply('colour', '{3}', 'delete')")
    before = small.rows("SELECT model, version, classes, n_rows FROM pgrain.models")
    labels = small.rows("SELECT id, pgrain.predict('colour', x) FROM items ORDER BY id")
    copy = small.dumped_into(module_database(extension=False))
    assert copy.rows("SELECT model, version, classes, n_rows FROM pgrain.models") == before
    assert copy.rows("SELECT model, train_key, intervention FROM pgrain.edits") == [
        ("colour", "3", "delete")]
    worker(copy)
    assert copy.rows("SELECT id, pgrain.predict('colour', x) FROM items ORDER BY id") == labels
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="no stored spectrum"):
        copy.execute("SELECT * FROM pgrain.complain($$ SELECT count(*) AS n FROM items WHERE "
                     "pgrain.predict('colour', x) = 'red' $$, 'n too high')")
    copy.execute("CALL pgrain.precompute('colour', '{\"pairs\": 9}')")
    report = "SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'red'"
    complain = f"SELECT train_id FROM pgrain.complain($q${report}$q$, 'n too high', 240)"
    assert copy.rows(complain) == small.rows(complain)
    small.execute("SELECT pgrain.revert('colour')")


def test_every_function_and_view_has_a_comment(fresh):
    bare = fresh.rows("""
        SELECT proname FROM pg_proc WHERE pronamespace = 'pgrain'::regnamespace
            AND proname NOT LIKE E'\\\\_%' AND obj_description(oid, 'pg_proc') IS NULL
        UNION ALL SELECT relname FROM pg_class WHERE relnamespace = 'pgrain'::regnamespace
            AND relkind = 'v' AND obj_description(oid, 'pg_class') IS NULL""")
    assert bare == []


def test_error_messages_are_as_promised(fresh):
    """lower case, our prefix once, no final stop."""
    with pytest.raises(psycopg.Error) as caught:
        fresh.execute("SELECT pgrain.predict('Nope', 'x')")
    assert re.fullmatch(r'pgrain: model "Nope" does not exist', caught.value.diag.message_primary)


def test_a_publication_of_all_tables_is_in_nobody_s_way(database):
    """Rows of a table without a key could be neither changed nor deleted then (55000)."""
    it = database()
    it.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    tables = [name for name, in it.rows("SELECT c.oid::regclass::text FROM pg_class c WHERE "
                                        "relnamespace = 'pgrain'::regnamespace AND relkind = 'r'")]
    assert len(tables) == len(TABLES)
    for name in tables:
        it.execute(f"DELETE FROM {name}")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_in_another_encoding_is_refused(server, encoding):
    """Jobs failed there, or sessions crashed (PL/Python), at the first name that was not ASCII."""
    name = f"in_{encoding.lower()}"
    with server.connect("postgres") as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' "
                           "LOCALE 'C'")
        try:
            with server.connect(name) as other:
                with pytest.raises(psycopg.errors.FeatureNotSupported, match=encoding):
                    other.execute("CREATE EXTENSION pgrain CASCADE")
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
