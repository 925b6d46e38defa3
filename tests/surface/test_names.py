"""Names as people give them: reserved words, mixed case, quotes, Unicode, 63 bytes; keys that are
uuid or text; class labels with quotes. The whole way, from create_model to drop_model."""

from __future__ import annotations

import random

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from pgrain.wire.ranked import pack_rows

SCHEMA = 'Größe"; DROP TABLE x; --'
LONG = "ä" * 31 + "z"            # 63 bytes, as long as a name can be
# (In a query a model's name is a plain string: not E'...', as PostgreSQL quotes backslashes.)
MODELS = ["select", "O'Brien's \"model\"", "größe %s {} \\ $1 $$", "x" * 2000, " ", "a\nb"]
LABELS = ["it's", 'a "b"', "größe, {x}", "NULL", "back\\slash", "100%"]


def ident(*names: str) -> sql.Identifier:
    return sql.Identifier(*names)


class Named:
    """A schema with a training table and items whose names are `table` and `columns`."""

    def __init__(self, database, table: str, key: str, feature: str, label: str, kind: str):
        self.it, self.table = database, (SCHEMA, table)
        self.items, self.columns = (SCHEMA, table[:-1] + "i"), (key, feature, label)
        make = {"uuid": "md5(i::text)::uuid", "text": "'k''\"\\ ' || i || ' ü'",
                "bigint": "i::bigint - 120"}[kind]
        number = sql.SQL(make)
        labels = sql.Literal(LABELS)
        database.execute(sql.SQL(
            "CREATE TABLE {} AS SELECT {} AS {}, ARRAY[cos(i * 2.4) + i %% 6 * 2, "
            "sin(i * 1.7) - i %% 6] AS {}, ({}::text[])[i %% 6 + 1] AS {} "
            "FROM generate_series(1, 240) AS i".replace("%%", "%")).format(
                ident(*self.table), number, ident(key), ident(feature), labels, ident(label)))
        database.execute(sql.SQL("CREATE TABLE {} AS TABLE {}").format(
            ident(*self.items), ident(*self.table)))

    def query(self, model: str, label: str) -> str:
        """How many of the items the model calls `label`, under a name that needs quotes."""
        return sql.SQL("SELECT count(*) AS {} FROM {} AS {} WHERE pgrain.predict({}, {}) = {}"
                       ).format(ident("How \"many\"?"), ident(*self.items), ident("from"),
                                sql.SQL("'" + model.replace("'", "''") + "'"),
                                ident("from", self.columns[1]),
                                sql.Literal(label)).as_string(self.it.connection)


CASES = [("Table", "Order", "Group", "user", "uuid", MODELS[0]),
         ('"' * 10 + "t", 'k"', "x'y", "la.bel", "text", MODELS[1]),
         (LONG, LONG, "x" * 63, "ß" * 31, "bigint", MODELS[2]),
         ("SELECT * FROM t; --", "%s", "{}", "$1", "uuid", MODELS[3])]


@pytest.fixture(scope="module")
def place(small):
    small.execute(sql.SQL("CREATE SCHEMA {}").format(ident(SCHEMA)))
    return small


@pytest.mark.parametrize("table,key,feature,label,kind,model", CASES, ids=["reserved", "quotes",
                                                                          "long", "sql"])
def test_the_whole_way(place, table, key, feature, label, kind, model):
    it = Named(place, table, key, feature, label, kind)
    relation = ident(*it.table).as_string(place.connection)
    items = ident(*it.items).as_string(place.connection)
    place.execute("SELECT pgrain.create_model(%s, %s, %s, %s, %s, 'logistic_regression')",
                  [model, relation, key, [feature], label])
    place.execute("CALL pgrain.train(%s)", [model])
    place.execute("CALL pgrain.precompute(%s, '{\"pairs\": 12}')", [model])
    place.execute("CALL pgrain.attach(%s, %s)", [model, items])
    assert place.value("SELECT classes FROM pgrain.models WHERE model = %s", [model]) == sorted(
        LABELS)
    for wanted in LABELS:
        query = it.query(model, wanted)
        assert (place.value("SELECT value FROM pgrain.provenance(%s)", [query])
                == place.value(query) > 0)
    query, complaint = it.query(model, LABELS[0]), '"How ""many""?" too high'
    ranked = place.rows("SELECT train_id, train_key, score FROM pgrain.complain(%s, %s, 300)",
                        [query, complaint])
    keys = {str(row[0]) for row in place.rows(sql.SQL("SELECT {}::text FROM {}").format(
        ident(key), ident(*it.table)))}
    assert {row[1] for row in ranked} == keys
    assert all((row[0] is None) == (kind != "bigint") for row in ranked)
    top = [row[1] for row in ranked[:2]]

    assert place.rows("SELECT * FROM pgrain.plan_repair(%s, %s)",
                      [query, f'"How ""many""?" <= {place.value(query) - 1}'])
    place.rows("SELECT * FROM pgrain.explain(%s)", [query])
    place.rows("SELECT * FROM pgrain.describe(%s, %s)", [model, [row[1] for row in ranked[:30]]])
    place.execute("SELECT pgrain.apply(%s, %s, 'delete')", [model, top[:1]])
    place.execute("SELECT pgrain.apply(%s, %s, %s)", [model, top[1:], f"relabel:{LABELS[1]}"])
    # What edits_sql prints can be run, and does to the table what train does beside it.
    statements = [row[0] for row in place.rows("SELECT * FROM pgrain.edits_sql(%s)", [model])]
    with place.connection.transaction(force_rollback=True):
        for statement in statements:
            place.execute(statement.replace("%", "%%"), [])
        assert place.value(sql.SQL("SELECT count(*) FROM {}").format(ident(*it.table))) == 239
        assert place.value(sql.SQL("SELECT {} FROM {} WHERE {}::text = {}").format(
            ident(label), ident(*it.table), ident(key), sql.Literal(top[1]))) == LABELS[1]
    place.execute("CALL pgrain.train(%s)", [model])
    assert place.value("SELECT n_rows FROM pgrain.models WHERE model = %s", [model]) == 239
    place.execute("CALL pgrain.precompute(%s, '{\"pairs\": 12}')", [model])
    assert place.value("SELECT pgrain.forget(%s, %s)", [model, top]) == 2
    place.execute("CALL pgrain.watch(%s, %s)", [f"watch {model}", query])
    assert place.value("SELECT value FROM pgrain.provenance(%s)", [f"watch {model}"]) == (
        place.value(query))
    place.execute(sql.SQL("INSERT INTO {0} SELECT * FROM {0} LIMIT 50").format(ident(*it.items)))
    assert place.value("SELECT value FROM pgrain.provenance(%s)", [f"watch {model}"]) == (
        place.value(query))
    place.execute("SELECT pgrain.unwatch(%s)", [f"watch {model}"])
    place.execute("SELECT pgrain.protect_keys(%s)", [model])
    place.execute("SELECT pgrain.detach(%s, %s)", [model, items])
    place.execute("SELECT pgrain.drop_model(%s)", [model])
    assert all(row[1] for row in place.rows("SELECT * FROM pgrain.doctor()"))


def test_columns_with_odd_names(place):
    """Features that are many columns: `predict` takes them by name, as JSON and as a row."""
    names = ["select", 'a "b"', "größe", "x'y", "Mixed Case", LONG]
    columns = sql.SQL(", ").join(sql.SQL("{} AS {}").format(
        sql.SQL(f"(i * {n + 3} % 17)::float8"), ident(name)) for n, name in enumerate(names[:-1]))
    place.execute(sql.SQL(
        "CREATE TABLE {} AS SELECT i AS id, {}, (ARRAY['ä', 'b\"', NULL])[i % 3 + 1] AS {}, "
        "CASE WHEN i % 2 = 0 THEN 'yes' ELSE 'no' END AS label FROM generate_series(1, 120) i"
        ).format(ident(SCHEMA, "wide"), columns, ident(LONG)))
    relation = ident(SCHEMA, "wide").as_string(place.connection)
    place.execute("SELECT pgrain.create_model('wide', %s, 'id', %s, 'label', "
                  "'logistic_regression')", [relation, names])
    place.execute("CALL pgrain.train('wide')")
    place.execute("CALL pgrain.attach('wide', %s)", [relation])
    table = ident(SCHEMA, "wide")
    by_row = place.rows(sql.SQL("SELECT pgrain.predict('wide', w) FROM {} w ORDER BY id"
                                ).format(table))
    by_json = place.rows(sql.SQL("SELECT pgrain.predict('wide', to_jsonb(w)) FROM {} w ORDER BY id"
                                 ).format(table))
    assert by_row == by_json
    query = sql.SQL("SELECT count(*) AS n FROM {} w WHERE pgrain.predict('wide', w) = 'yes'"
                    ).format(table).as_string(place.connection)
    assert place.value("SELECT value FROM pgrain.provenance(%s)", [query]) == place.value(query)
    place.execute("SELECT pgrain.drop_model('wide')")


@pytest.mark.parametrize("name", MODELS[4:] + ["", None])
def test_names_of_models(place, name):
    """Any text but the empty one."""
    call = ("SELECT pgrain.create_model(%s, 'train', 'id', '{x}', 'label', 'mlp')", [name])
    if name == "":
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            place.execute(*call)
        return
    place.execute(*call)
    if name is not None:     # STRICT: nothing happens
        place.execute("SELECT pgrain.drop_model(%s)", [name])


def test_names_that_are_too_long_are_refused_by_postgresql_or_us(place):
    """PostgreSQL cuts identifiers to 63 bytes with a NOTICE; a column of a longer name is found
    where SQL would find it, or said not to be there."""
    with pytest.raises(psycopg.errors.UndefinedColumn):
        place.execute("SELECT pgrain.create_model('m', 'train', %s, '{x}', 'label', 'mlp')",
                      ["y" * 200])
    with pytest.raises(psycopg.errors.UndefinedTable):
        place.execute("SELECT pgrain.create_model('m', %s, 'id', '{x}', 'label', 'mlp')",
                      ["y" * 200])
    with pytest.raises(psycopg.errors.UndefinedColumn):
        place.execute("SELECT * FROM pgrain.complain('SELECT count(*) AS n FROM items WHERE "
                      "pgrain.predict(''colour'', x) = ''red''', %s)", ["y" * 5000 + " too high"])


def test_packed_rankings_are_their_rows(database):
    """Whatever keys, labels and numbers are, PostgreSQL takes the packed columns apart into the
    rows that were packed (in place of a worker's, rows of our own)."""
    it, rng = database(), random.Random(7)
    it.execute("CREATE TABLE packed (model text, ids text, keys text, of_all text, of_each text, "
               "scores text, effects text)")
    it.execute("""CREATE OR REPLACE FUNCTION pgrain._complain(
        query text, complaint text[], top_k integer, intervention text, options jsonb)
        RETURNS TABLE (model text, ids text, keys text, of_all text, of_each text, scores text,
        effects text) LANGUAGE sql STABLE STRICT AS $$ SELECT * FROM packed $$""")
    texts = [*LABELS, *MODELS, "", "null", "{a,b}", "\\", '"', "'", ",", " x ", "\t", LONG]
    number = st.floats(allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-307)

    @given(st.lists(st.tuples(st.sampled_from(["a", "b"]), number, number), max_size=20),
           st.sampled_from(["integers", "texts", "hidden"]), st.booleans())
    @settings(max_examples=60, deadline=None)
    def check(found, kind, alike):
        rows, ranks = [], {}
        for model, score, effect in sorted(found, key=lambda row: row[0]):
            ranks[model] = rank = ranks.get(model, 0) + 1
            key = {"integers": str(rng.randrange(-2**63, 2**63)), "texts": rng.choice(texts),
                   "hidden": None if rng.random() < 0.7 else rng.choice(texts)}[kind]
            rows.append((rank, model, int(key) if kind == "integers" else None, key,
                         "delete" if alike else rng.choice(texts), score, effect))
        it.execute("TRUNCATE packed")
        for part in pack_rows(rows):
            it.execute("INSERT INTO packed VALUES (%s, %s, %s, %s, %s, %s, %s)", part)
        for complaint in ("''", "'{}'::text[]"):
            assert it.rows(f"SELECT * FROM pgrain.complain('', {complaint})") == rows

    check()
    for arguments in ("NULL, ''", "'', NULL::text", "'', NULL::text[]", "'', '', NULL",
                      "'', '', 1, NULL", "'', '', 1, 'delete', NULL"):
        assert it.rows(f"SELECT * FROM pgrain.complain({arguments})") == []
