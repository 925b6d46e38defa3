"""DROP, ALTER, RENAME and TRUNCATE of training tables and attached relations: what is stored keeps
answering, what cannot go on says what to do, and nobody's table is in the way of DDL."""

from __future__ import annotations

import re

import psycopg
import pytest

NAMES = iter(range(1000))


class Shop:
    """Tables `t` (training) and `i` (attached) in a schema of their own, and a model on them."""

    def __init__(self, database, schema: str):
        self.it, self.schema, self.model = database, schema, f"m {schema}"
        database.execute(f'CREATE SCHEMA "{schema}"')
        self.run("CREATE TABLE {s}.t AS SELECT * FROM public.train")
        self.run("CREATE TABLE {s}.i AS SELECT id, x, hour FROM public.items WHERE x IS NOT NULL")
        self.run("SELECT pgrain.create_model({m}, '{s}.t', 'id', '{{x}}', 'label', "
                 "'logistic_regression')")
        self.train()
        self.run("CALL pgrain.precompute({m}, '{{\"pairs\": 6}}')")
        self.run("CALL pgrain.attach({m}, '{s}.i')")

    def run(self, text: str):
        cursor = self.it.execute(text.format(s=f'"{self.schema}"', m=f"'{self.model}'"))
        return cursor.fetchall() if cursor.description else None

    def train(self):
        notes = []
        self.it.connection.add_notice_handler(lambda notice: notes.append(notice.message_primary))
        self.run("CALL pgrain.train({m})")
        return notes[-1]

    def complain(self, relation: str = "i", column: str = "x"):
        return self.run("SELECT train_id, train_key FROM pgrain.complain($q$SELECT count(*) AS n "
                        f"FROM {{s}}.{relation} WHERE pgrain.predict({{m}}, {column}) = 'red'$q$, "
                        "'n too high', 5)")

    def refused(self, text: str, sqlstate: str, message: str, more: str = ""):
        with pytest.raises(psycopg.Error) as caught:
            self.run(text)
        diag = caught.value.diag
        assert (caught.value.sqlstate, message in diag.message_primary) == (sqlstate, True), diag
        assert more in f"{diag.message_detail} {diag.message_hint}"

    def problem(self):
        return self.run("SELECT problem FROM pgrain.staleness WHERE model = {m}")[0][0]

    @property
    def attached(self):
        return self.run("SELECT stored_values FROM pgrain.attached WHERE model = {m}")


@pytest.fixture
def shop(small):
    made = Shop(small, f"Odd schema {next(NAMES)}")
    yield made
    small.execute("SELECT pgrain.drop_model(%s)", [made.model])
    small.execute(f'DROP SCHEMA IF EXISTS "{made.schema}" CASCADE')


@pytest.mark.parametrize("column", ["x", "id", "label"])
def test_a_renamed_column_of_the_training_table(shop, column):
    expected = shop.complain()
    shop.run(f"ALTER TABLE {{s}}.t RENAME {column} TO other")
    assert shop.complain() == expected
    assert shop.problem() == f'its training table has no column "{column}" any more'
    assert shop.run("SELECT ok FROM pgrain.doctor() WHERE what = 'model ' || {m}") == [(False,)]
    for call in ("CALL pgrain.train({m})", "CALL pgrain.precompute({m})"):
        shop.refused(call, "42703", f'has no column "{column}" any more', "pgrain.alter_model")
    if column == "id":
        for call in ("SELECT pgrain.apply({m}, '{{1}}', 'delete')",
                     "SELECT * FROM pgrain.describe({m}, '{{1}}')"):
            shop.refused(call, "42703", 'no column "id" any more', "alter_model")
    # What doctor and the view say, with the new name filled in.
    hint, = shop.run("SELECT hint FROM pgrain.doctor() WHERE what = 'model ' || {m} UNION "
                     "SELECT hint FROM pgrain.staleness WHERE model = {m}")
    shop.run(re.sub(r"\w+_now", "other", hint[0]).replace("{", "{{").replace("}", "}}"))
    assert shop.problem() is None
    shop.train()
    shop.run("CALL pgrain.precompute({m}, '{{\"pairs\": 6}}')")
    assert shop.complain() == expected      # the same rows make the same model


def test_protected_keys_after_a_rename(shop, as_role):
    """Nobody sees them until they are protected anew, and no view breaks."""
    eve = as_role(shop.it, "eve", "user")
    shop.run("GRANT USAGE ON SCHEMA {s} TO eve; GRANT SELECT ON ALL TABLES IN SCHEMA {s} TO eve")
    shop.run("SELECT pgrain.apply({m}, '{{3}}', 'delete')")
    shop.run("SELECT pgrain.protect_keys({m})")
    edits = f"SELECT train_key FROM pgrain.edits WHERE model = '{shop.model}'"
    assert eve.execute(edits).fetchall() == [("3",)]
    shop.run("ALTER TABLE {s}.t RENAME id TO nr")
    assert set(shop.complain()) == {(None, None)}
    assert eve.execute(edits).fetchall() == [(None,)]
    shop.run("SELECT pgrain.alter_model({m}, key => 'nr')")
    assert set(shop.complain()) == {(None, None)}
    shop.run("SELECT pgrain.protect_keys({m}, false)")
    shop.run("SELECT pgrain.protect_keys({m})")
    assert (None, None) not in shop.complain()
    assert eve.execute(edits).fetchall() == [("3",)]


def test_another_type(shop):
    expected = shop.complain()
    shop.run("ALTER TABLE {s}.t ALTER x TYPE text USING x::text")
    assert shop.complain() == expected
    shop.refused("CALL pgrain.train({m})", "22023",
                 "is text now, but the model reads double precision[]")
    shop.run("ALTER TABLE {s}.t ALTER x TYPE float8[] USING x::float8[]")
    shop.run("ALTER TABLE {s}.t ALTER id TYPE text")
    shop.train()
    shop.run("CALL pgrain.precompute({m}, '{{\"pairs\": 6}}')")
    assert {row[0] for row in shop.complain()} == {None}      # train_id is of integers
    assert {row[1] for row in shop.complain()} == {row[1] for row in expected}


def test_renamed_and_moved_tables_are_followed(shop):
    expected = shop.complain()
    shop.run('ALTER TABLE {s}.t RENAME TO "select"')
    shop.run('ALTER TABLE {s}.i RENAME TO "from"')
    assert shop.complain('"from"') == expected
    shop.it.execute(f'ALTER SCHEMA "{shop.schema}" RENAME TO "{shop.schema} moved"')
    shop.schema += " moved"
    assert "left out" not in shop.train()
    shop.run("CALL pgrain.precompute({m}, '{{\"pairs\": 6}}')")
    assert shop.complain('"from"') == expected
    # Another schema is one that the worker may not enter yet.
    shop.it.execute('CREATE SCHEMA "elsewhere"')
    shop.run('ALTER TABLE {s}."select" SET SCHEMA elsewhere')
    shop.refused("CALL pgrain.train({m})", "42501", 'the worker may not read elsewhere."select"',
                 'GRANT USAGE ON SCHEMA "elsewhere" TO "pgrain_reader"')
    shop.it.execute('GRANT USAGE ON SCHEMA "elsewhere" TO "pgrain_reader"')
    shop.train()
    # As where the role has left that had granted it.
    shop.it.execute('REVOKE SELECT ON elsewhere."select" FROM pgrain_reader')
    shop.refused("CALL pgrain.train({m})", "42501", 'the worker may not read elsewhere."select"',
                 'GRANT SELECT ON "elsewhere"."select" TO "pgrain_reader"')
    shop.it.execute('DROP SCHEMA "elsewhere" CASCADE')


def test_truncated(shop):
    shop.run("TRUNCATE {s}.i")
    assert shop.complain() == []
    shop.run("CALL pgrain.attach({m}, '{s}.i')")
    assert (shop.attached, shop.problem()) == ([(0,)], None)
    shop.run("TRUNCATE {s}.t")
    shop.refused("CALL pgrain.train({m})", "22023", "has no usable rows")
    shop.refused("CALL pgrain.precompute({m})", "55000", "no training row", "CALL pgrain.train")
    shop.refused("SELECT pgrain.apply({m}, '{{1}}', 'delete')", "42704", 'no row with id = "1"')
    shop.run("INSERT INTO {s}.i SELECT id, x, hour FROM public.items WHERE x IS NOT NULL")
    assert len(shop.complain()) == 5        # the version and its projections are stored


@pytest.mark.parametrize("change,reason", [
    ("ALTER TABLE {s}.i RENAME x TO y", 'no column "x" any more'),
    ("ALTER TABLE {s}.i DROP x", 'no column "x" any more'),
    ("ALTER TABLE {s}.i ALTER x TYPE text USING x::text", "is text now"),
    ("REVOKE ALL ON {s}.i FROM pgrain_reader", "the worker may not read"),
])
def test_an_altered_attached_relation_holds_nothing_up(shop, change, reason):
    shop.run(change)
    said = shop.train()
    assert ".i is left out: " in said and reason in said
    assert "accuracy" in said
    shop.run("CALL pgrain.precompute({m}, '{{\"pairs\": 6}}')")
    assert shop.attached == [(0,)]
    assert shop.problem() == "an attached relation has no stored predictions"
    if "RENAME" in change:
        assert len(shop.complain(column="y")) == 5
        shop.refused("CALL pgrain.attach({m}, '{s}.i')", "42703", 'no column "x"', "y")
        shop.run("CALL pgrain.attach({m}, '{s}.i', '{{y}}')")
        assert shop.problem() is None


def test_one_value_that_the_model_cannot_read_is_left_out_alone(shop):
    shop.run("UPDATE {s}.i SET x[1] = 'NaN' WHERE id = 1")
    said = shop.train()
    assert "one value that the model cannot read is left out (expected finite numbers" in said
    assert "accuracy" in said
    shop.run("CALL pgrain.precompute({m}, '{{\"pairs\": 6}}')")
    assert shop.attached == shop.run("SELECT count(DISTINCT x) FROM {s}.i WHERE x[1] <> 'NaN'")
    assert shop.problem() is None


def test_a_dropped_attached_relation(shop, until):
    """It is attached no more, its predictions go, and what others shared with it is stored anew."""
    shop.run("CREATE TABLE {s}.j AS SELECT * FROM {s}.i")
    shop.run("CALL pgrain.attach({m}, '{s}.j')")
    stored = ("SELECT coalesce(sum(n_values), 0) FROM pgrain.prediction_chunk WHERE version = "
              "(SELECT version FROM pgrain.models WHERE model = {m})")
    count = shop.run(stored)[0][0]
    shop.run("DROP TABLE {s}.i")
    assert len(shop.attached) == 1 and shop.problem() is None
    assert "left out" not in shop.train()
    assert shop.run("SELECT count(*) FROM pgrain.attachment WHERE model = {m}") == [(2,)]
    number = shop.run("SELECT relation::oid::text FROM pgrain.attachment WHERE model = {m} "
                      "AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = relation)")[0][0]
    shop.run("SELECT pgrain._tidy()")       # the worker does it once a minute
    assert shop.run("SELECT count(*) FROM pgrain.attachment WHERE model = {m}") == [(1,)]
    until(lambda: shop.run(stored)[0][0] == count, "the other one's values are stored", 30)
    shop.refused(f"SELECT pgrain.detach({{m}}, '{number}')", "42704", "is not attached")


def test_a_dropped_training_table(shop):
    expected = shop.complain()
    shop.run("CREATE TABLE {s}.t2 (LIKE {s}.t); INSERT INTO {s}.t2 SELECT * FROM {s}.t; "
             "DROP TABLE {s}.t; ALTER TABLE {s}.t2 RENAME TO t")
    assert shop.complain() == expected
    shop.run("SELECT pgrain._tidy()")       # a number that another table may get means nothing
    assert shop.run("SELECT training_table::oid::text FROM pgrain.models WHERE model = {m}") == [
        ("0",)]
    assert shop.complain() == expected
    assert shop.problem() == "its training table is gone"
    for call in ("CALL pgrain.train({m})", "CALL pgrain.precompute({m})",
                 "SELECT pgrain.apply({m}, '{{1}}', 'delete')",
                 "SELECT * FROM pgrain.describe({m}, '{{1}}')",
                 "SELECT pgrain.create_intervention({m}, 'i', library => 'clip')",
                 "SELECT * FROM pgrain.edits_sql({m})",
                 "SELECT pgrain.rank({m}, '')", "SELECT pgrain.alter_model({m})"):
        shop.refused(call, "42704", "does not exist any more", "alter_model")
    shop.run("SELECT pgrain.protect_keys({m}); SELECT pgrain.protect_keys({m}, false)")
    assert shop.run("SELECT pgrain.forget({m}, '{{1}}')") == [(1,)]
    shop.run("SELECT pgrain.alter_model({m}, '{s}.t')")
    shop.train()
    shop.run("CALL pgrain.precompute({m}, '{{\"pairs\": 6}}')")
    assert shop.complain() == expected


def test_what_alter_model_refuses(shop, as_role):
    for call, sqlstate, message in [
            ("alter_model(NULL)", "22023", "needs the name"),
            ("alter_model('nope')", "42704", "does not exist"),
            ("alter_model({m}, key => 'nope')", "42703", 'no column "nope"'),
            ("alter_model({m}, label => 'x')", "22023", "none of them the label"),
            ("alter_model({m}, features => '{{x,id}}')", "22023", "1 features, not 2"),
            ("alter_model({m}, features => '{{id}}')", "22023", "the model reads"),
            ("alter_model({m}, 'pgrain.models')", "42703", "no column"),
    ]:
        shop.refused(f"SELECT pgrain.{call}", sqlstate, message)
    shop.run("CREATE TABLE {s}.secret (LIKE {s}.t)")
    admin = as_role(shop.it, "nosy", "admin")
    shop.run("GRANT USAGE ON SCHEMA {s} TO nosy")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        admin.execute("SELECT pgrain.alter_model(%s, %s)",
                      [shop.model, f'"{shop.schema}".secret'])


def test_ddl_is_not_in_anybody_s_way(shop):
    """Partitions come and go under the attached table; what is attached can be dropped."""
    shop.run("CREATE TABLE {s}.p (id int, x float8[], hour int) PARTITION BY LIST (hour)")
    shop.run("CREATE TABLE {s}.p1 PARTITION OF {s}.p FOR VALUES IN (1)")
    shop.run("INSERT INTO {s}.p SELECT * FROM {s}.i WHERE hour = 1")
    shop.run("CALL pgrain.attach({m}, '{s}.p')")
    shop.run("CREATE TABLE {s}.p2 AS SELECT * FROM {s}.i WHERE hour = 2")
    shop.run("ALTER TABLE {s}.p ATTACH PARTITION {s}.p2 FOR VALUES IN (2)")
    direct = ("SELECT count(*) FROM {s}.p WHERE pgrain.predict({m}, x) = 'red'")
    circuit = ("SELECT value FROM pgrain.provenance($q$SELECT count(*) AS n FROM {s}.p WHERE "
               "pgrain.predict({m}, x) = 'red'$q$)")
    both = shop.run(direct)
    assert shop.run(circuit) == both
    shop.run("ALTER TABLE {s}.p DETACH PARTITION {s}.p1")
    assert shop.run(circuit) == shop.run(direct) != both
    shop.run("DROP TABLE {s}.p1; DROP TABLE {s}.p; DROP TABLE {s}.t")


def test_a_renamed_column_among_many_features(shop):
    """What the hint says works, in both ways: `predict` takes these columns by name."""
    model = shop.model + " of columns"
    it = shop.it
    shop.run("CREATE TABLE {s}.many AS SELECT i AS id, i * 7 % 11 AS a, i * 5 % 13 AS b, "
             "CASE WHEN i * 7 % 11 > 5 THEN 'x' ELSE 'y' END AS label "
             "FROM generate_series(1, 60) i")
    it.execute("SELECT pgrain.create_model(%s, %s::regclass, 'id', '{a, b}', 'label', "
               "'logistic_regression')", [model, f'"{shop.schema}".many'])
    it.execute("CALL pgrain.train(%s)", [model])

    def hints():
        return {row[0] for row in it.rows(
            "SELECT hint FROM pgrain.doctor() WHERE what = 'model ' || %s UNION "
            "SELECT hint FROM pgrain.staleness WHERE model = %s", [model, model])}

    try:
        for which in (0, 1):
            shop.run("ALTER TABLE {s}.many RENAME b TO other")
            hint, = hints()
            way = hint.split("; or, with a view that has the old name: ")[which]
            way = way.replace("its_name_now", "other").replace("the_view", "kept_names")
            for statement in way.split("; "):
                it.execute(statement)
            assert it.value("SELECT problem FROM pgrain.staleness WHERE model = %s", [model]) == \
                "no spectrum of the active version"
            it.execute("CALL pgrain.train(%s)", [model])
    finally:
        it.execute("SELECT pgrain.drop_model(%s)", [model])
        it.execute("DROP VIEW IF EXISTS kept_names")
