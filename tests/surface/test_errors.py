"""Bad input: each case has its SQLSTATE, and a hint or detail where there is something to do."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

REPORT = ("SELECT hour, count(*) AS flagged FROM items "
          "WHERE pgrain.predict('colour', x) <> claim GROUP BY hour")
TABLES = """
CREATE TABLE pictures (id integer, image bytea, label text);
INSERT INTO pictures SELECT i, decode(repeat(lpad(to_hex(i % 256), 2, '0'), 4), 'hex'),
    (ARRAY['a', 'b'])[i % 2 + 1] FROM generate_series(1, 40) AS i;
CREATE TABLE copies (LIKE pictures);
INSERT INTO copies SELECT * FROM pictures UNION ALL SELECT 7, '\\x01020304', 'a';
CREATE TABLE unlabelled (LIKE pictures);
INSERT INTO unlabelled SELECT * FROM pictures UNION ALL SELECT 99, '\\x01020304', NULL;
CREATE TABLE crooked (LIKE pictures);
INSERT INTO crooked SELECT * FROM pictures UNION ALL SELECT 99, '\\x0102', 'a';
CREATE TABLE uniform (LIKE pictures);
INSERT INTO uniform SELECT id, image, 'a' FROM pictures;
CREATE TABLE vacant (LIKE pictures);
CREATE TABLE moments AS SELECT id, timestamptz '2020-01-01 00:00+00' AS at, id AS n, label
    FROM uniform;
CREATE TABLE gaps AS SELECT i AS id, ARRAY[CASE WHEN i = 33 THEN float8 'NaN' ELSE i END] AS image,
    (ARRAY['a', 'b'])[i % 2 + 1] AS label FROM generate_series(1, 40) AS i;
CREATE TABLE persons AS SELECT i AS id, i AS age, (ARRAY['a', 'b'])[i % 2 + 1] AS "Town",
    (ARRAY['x', 'y'])[i % 2 + 1] AS label FROM generate_series(1, 40) AS i;
CREATE VIEW report AS SELECT hour, count(*) AS flagged FROM items
    WHERE pgrain.predict('colour', x) <> claim GROUP BY hour;
CREATE FUNCTION second(text, text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $2';
CREATE AGGREGATE max(varchar) (SFUNC = second, STYPE = text);
"""
GAPS = """'{"epochs": 1}'"""
SHAPE = """'{"shape": [2, 2, 1], "epochs": 1}'"""


@pytest.fixture(scope="module")
def place(small):
    """The small model, and one model each on tables with something wrong."""
    for statement in TABLES.split(";\n"):
        if statement.strip():
            small.execute(statement)
    for table in ("pictures", "copies", "unlabelled", "crooked", "uniform", "vacant", "gaps"):
        small.execute(f"SELECT pgrain.create_model('{table}', '{table}', 'id', '{{image}}', "
                      f"'label', 'mlp', {SHAPE if table != 'gaps' else GAPS})")
    small.execute("CALL pgrain.train('pictures')")
    small.execute("SELECT pgrain.create_model('persons', 'persons', 'id', '{age,Town}', 'label', "
                  "'logistic_regression')")
    small.execute("CALL pgrain.train('persons')")
    return small


def failure(database, statement, connection=None):
    with pytest.raises(psycopg.Error) as caught:
        (connection or database.connection).execute(statement).fetchall()
    return caught.value


def create(**changes) -> str:
    given = {"model": "'new'", "table": "'pictures'", "key": "'id'", "features": "'{image}'",
             "label": "'label'", "architecture": "'mlp'", "options": SHAPE, **changes}
    return f"SELECT pgrain.create_model({', '.join(given.values())})"


CASES = [
    # statement, SQLSTATE, part of the message, part of the hint or detail
    ("SELECT pgrain.predict('nope', 'x')", "42704", 'model "nope" does not exist', "pgrain.models"),
    ("CALL pgrain.train('nope')", "42704", 'model "nope" does not exist', "create_model"),
    ("CALL pgrain.attach('colour', 'nope')", "42P01", '"nope" does not exist', ""),
    ("SELECT pgrain.drop_model('nope')", "42704", "does not exist", ""),
    ("SELECT pgrain.activate('colour', 999)", "42704", "no version 999", "pgrain.versions"),
    ("SELECT pgrain.detach('colour', 'pictures')", "42704", "not attached", "pgrain.attached"),
    (create(table="'nope'"), "42P01", '"nope" does not exist', ""),
    (create(key="'nope'"), "42703", 'no column "nope"', "id, image, label"),
    (create(features="'{nope}'"), "42703", 'no column "nope"', "id, image, label"),
    (create(label="'nope'"), "42703", 'no column "nope"', "id, image, label"),
    (create(features="'{}'"), "22023", "at least one column", ""),
    (create(features="'{label}'"), "22023", "cannot be a feature", ""),
    (create(architecture="'oracle'"), "22023", 'no such architecture: "oracle"', "mlp"),
    (create(architecture="'lstm'"), "22023", "one column of type text", "image bytea"),
    (create(options="'{}'"), "22023", "needs its shape", '"shape"'),
    (create(options="'[]'"), "22023", "not a JSON object", ""),
    (create(options="""'{"shape": [2, 2, 1], "epoch": 3}'"""), "22023", "epoch", "epochs"),
    (create(options="""'{"shape": [2, 2, 1], "epochs": -3}'"""), "22023", "epochs", "epochs: "),
    (create(model="'colour'"), "42710", "already exists", "drop_model"),
    ("SELECT pgrain.create_model('m', 'moments', 'id', '{at,n}', 'label', 'logistic_regression')",
     "22023", 'feature "at" is timestamp with time zone', "extract(epoch"),
    ("CALL pgrain.train('copies')", "23505", 'key column "id"', "Key 7 occurs 2 times"),
    ("CALL pgrain.train('unlabelled')", "23502", 'label column "label"', "key 99"),
    ("CALL pgrain.train('crooked')", "22023", "expected 4 bytes (2 x 2 x 1), not 2", "key 99"),
    ("CALL pgrain.train('gaps')", "22023", "expected finite numbers, not nan", "key 33"),
    ("CALL pgrain.train('uniform')", "22023", "one class only", ""),
    ("CALL pgrain.train('vacant')", "22023", "no usable rows", ""),
    ("CALL pgrain.train('pictures', '{\"epoch\": 3}')", "22023", "epoch", "epochs"),
    ("CALL pgrain.precompute('copies')", "55000", "not trained", "CALL pgrain.train('copies')"),
    ("CALL pgrain.precompute('colour', '{\"pairs\": 0}')", "22023", "pairs", ""),
    ("CALL pgrain.attach('colour', 'pictures')", "42703", 'no column "x"', "image"),
    ("CALL pgrain.attach('colour', 'pictures', '{image}')", "22023", "bytea", ""),
    ("CALL pgrain.attach('colour', 'items', '{x,id}')", "22023", "1 features, not 2", ""),
    ("SELECT pgrain.predict('copies', '\\x01020304'::bytea)", "55000", "not trained", "CALL"),
    ("SELECT pgrain.predict('pictures', '\\x0102'::bytea)", "22023",
     "expected 4 bytes (2 x 2 x 1), not 2", ""),
    ("SELECT pgrain.predict('colour', '\\x0102'::bytea)", "22023", "takes float8[]", "x"),
    ("SELECT pgrain.apply('colour', '{1}', 'burn')", "22023", "burn", "delete"),
    ("SELECT pgrain.apply('colour', '{1}', 'relabel:mauve')", "22023", "mauve", "blue"),
    ("SELECT pgrain.apply('colour', '{123456}', 'delete')", "42704", "123456", ""),
    ("SELECT pgrain.predict('persons', label) FROM persons", "22P02", "invalid input syntax",
     "a jsonb object of its columns: age, Town"),
    ("SELECT * FROM pgrain.predict_batch('persons', 'SELECT age, \"Town\" FROM persons')",
     "22023", 'feature "age" is missing', "The query's first column is the key"),
    ("SELECT * FROM pgrain.predict_batch('persons', 'persons')", "42601",
     '"persons" is not a query', "write SELECT * FROM persons."),
    ("SELECT * FROM pgrain.predict_batch('colour', 'public.items;')", "42601",
     '"public.items" is not a query', "write SELECT * FROM public.items."),
    ("SELECT * FROM pgrain.complain('report', 'flagged too high')", "42704",
     'watch "report" does not exist', "relation of that name: write SELECT * FROM report."),
    ("SELECT * FROM pgrain.complain('reports', 'flagged too high')", "42704",
     'watch "reports" does not exist', "See pgrain.watches"),
    ("SELECT * FROM pgrain.provenance($$SELECT sum(hour * 1e400) FROM items WHERE "
     "pgrain.predict('colour', x) = 'red'$$)", "0A000", "a number that is out of range",
     "double precision"),
    # public.max(varchar), of TABLES, fits better than PostgreSQL's max(text).
    ("SELECT * FROM pgrain.provenance($$SELECT max(claim::varchar) FROM items WHERE "
     "pgrain.predict('colour', x) = 'red'$$)", "0A000", "max, which may mean public.max here",
     "pg_catalog.max"),
]


@pytest.mark.parametrize("statement,sqlstate,message,more", CASES)
def test_statement(place, statement, sqlstate, message, more):
    error = failure(place, statement)
    assert error.sqlstate == sqlstate
    assert message in error.diag.message_primary
    assert more in f"{error.diag.message_detail} {error.diag.message_hint}"


COMPLAINTS = [
    # query, complaint, options, SQLSTATE, part of the message, part of the hint or detail
    (REPORT, "flags <= 1", "{}", "42703", "flags", "flagged"),
    (REPORT, "hour <= 1", "{}", "22023", "hour", ""),
    (REPORT, "flagged <= 1 WHERE hour = 99", "{}", "22023", "no", ""),
    (REPORT, "flagged <= 1 WHERE hours = 1", "{}", "42703", "hours", ""),
    (REPORT, 'flagged <= 1 WHERE hour = "North"', "{}", "42703",
     'in the complaint\'s WHERE: column "North" does not exist',
     "The query's output has hour, flagged. A text in it stands in single quotes"),
    (REPORT, "flagged <= 1 WHERE hour = 'North'", "{}", "22P02",
     "in the complaint's WHERE: invalid input syntax for type integer", "hour, flagged"),
    (REPORT, "{flagged <= 1, hour <= 2}", "{}", "42601", "", "'{a <= 1, b <= 2}'::text[]"),
    (REPORT, "flagged <= 1 AND hour <= 2", "{}", "42601", "", "Several complaints are an array"),
    (REPORT, "flagged too high, hour too low", "{}", "42601", "", "Several complaints are"),
    (REPORT, "flagged much too high", "{}", "42601", "", ""),
    (REPORT, "", "{}", "42601", "", ""),
    (REPORT, "flagged <= 1) OR (true", "{}", "42601", "", ""),
    (REPORT + "; SELECT 1", "flagged <= 1", "{}", "42601", "", ""),
    ("SELECT 1; DROP TABLE items", "flagged <= 1", "{}", "42601", "", ""),
    ("INSERT INTO items SELECT * FROM items", "flagged <= 1", "{}", "42601", "", ""),
    ("SELEC hour", "flagged <= 1", "{}", "42601", "", ""),
    ("SELECT hour, count(*) AS n FROM items GROUP BY hour", "n <= 1", "{}", "22023", "", ""),
    ("SELECT count(*) AS n FROM items WHERE pgrain.predict('nope', x) = claim", "n too high", "{}",
     "42704", "nope", "pgrain.models"),
    ("SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = claim "
     "AND id / (id - id) = 1",
     "n too high", "{}", "22012", "division by zero", ""),
    ("SELECT count(*) AS n FROM nope WHERE pgrain.predict('colour', x) = claim", "n too high", "{}",
     "42P01", "nope", ""),
    (REPORT, "flagged too high", '{"method": "magic"}', "22023", "magic", "rain++"),
    (REPORT, "flagged too high", '{"k": 0}', "22023", "k", "stored"),
    (REPORT, "flagged too high", '{"k": 10}', "22023", "k", "precompute"),
    (REPORT, "flagged too high", '{"filter": "sepia"}', "22023", "sepia", ""),
    (REPORT, "flagged too high", '{"depth": 3}', "22023", "depth", "damping"),
]


@pytest.mark.parametrize("query,complaint,options,sqlstate,message,more", COMPLAINTS)
def test_complaint(place, query, complaint, options, sqlstate, message, more):
    with pytest.raises(psycopg.Error) as caught:
        place.execute("SELECT * FROM pgrain.complain(%s, %s, options => %s::jsonb)",
                      [query, complaint, options])
    error = caught.value
    assert error.sqlstate == sqlstate, error
    assert error.diag.message_primary.startswith("pgrain: ")
    assert message in error.diag.message_primary
    assert more in f"{error.diag.message_detail} {error.diag.message_hint}"


def test_misspelt_classes(place):
    """The nearest class is named wherever one is written; in a query it is a notice, for there
    it is no error."""
    complain = "SELECT * FROM pgrain.complain($q$%s$q$, %s, intervention => '%s')"
    labels = "SELECT id, pgrain.predict('colour', x) AS label FROM items"
    for statement in (complain % (REPORT, "'flagged too high'", "relabel:blu"),
                      "SELECT pgrain.apply('colour', '{1}', 'relabel:blu')"):
        error = failure(place, statement)
        assert error.sqlstate == "22023" and 'has no class "blu"' in error.diag.message_primary
        assert error.diag.message_detail == "Its classes: blue, green, red."
        assert error.diag.message_hint == 'Did you mean "blue"?'
    error = failure(place, complain % (labels, "$$label = 'gren' WHERE id = 1$$", "delete"))
    assert error.sqlstate == "22023" and error.diag.message_hint == "Did you mean 'green'?"
    heard = []
    session = place.connect()
    session.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    query = "SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'Red'"
    told = 'has no class "Red"; did you mean "red"? its classes: blue, green, red'
    for _ in range(2):      # also when the plan is known
        session.execute(complain % (query, "'n too low'", "delete"))
        assert [line for line in heard if told in line], heard
        heard.clear()
    error = failure(place, complain % (query + " GROUP BY hour", "'n too low'", "delete"), session)
    assert "no output row" in error.diag.message_primary and told in error.diag.message_hint
    assert any(told in row[0] for row in session.execute(
        "SELECT * FROM pgrain.explain(%s)", [query]).fetchall())


def test_top_k_is_checked(place):
    error = failure(place, f"SELECT * FROM pgrain.complain($q${REPORT}$q$, 'flagged too high', 0)")
    assert error.sqlstate == "22023"
    assert error.diag.message_primary == "pgrain: top_k must be between 1 and 1000000, not 0"


def heard(connection, statement) -> list[str]:
    """The notices of a statement, which returns no row."""
    told = []
    handler = lambda notice: told.append(notice.message_primary)   # noqa: E731
    connection.add_notice_handler(handler)
    cursor = connection.execute(statement)
    assert cursor.description is None or not [row for row in cursor if row != ("",)]
    connection.remove_notice_handler(handler)
    return told


def test_nothing_is_returned_without_a_word(place):
    session = place.connect()
    for complaint in ("NULL", "NULL::text[]"):
        assert heard(session, f"SELECT * FROM pgrain.complain($q${REPORT}$q$, {complaint})") == [
            "an argument of complain is null, so there are no rows"]
    assert heard(session, "SELECT * FROM pgrain.describe('colour', '{W1,W2}')") == [
        "nothing to say: no row of public.train has one of these keys"]


def test_edits_of_a_model_that_is_not_trained(place):
    """A class that no row has may be meant, or a slip."""
    session = place.connect()
    session.execute("BEGIN")
    assert heard(session, "SELECT pgrain.apply('copies', '{1}', 'relabel:b')") == []
    told, = heard(session, "SELECT pgrain.apply('copies', '{1}', 'relabel:B')")
    assert told.startswith('no row of training table copies has label "B" so far')
    session.execute("ROLLBACK")


def test_a_table_that_the_caller_may_not_read(place, as_role):
    session = as_role(place, "no_reader", "user")
    complaint = f"SELECT * FROM pgrain.complain($q${REPORT}$q$, 'flagged too high')"
    error = failure(place, complaint, session)
    assert (error.sqlstate, error.diag.message_primary) == (
        "42501", "pgrain: permission denied for table items")
    assert error.diag.message_hint == "Its owner can run GRANT SELECT ON items TO no_reader."
    place.execute("GRANT SELECT ON items TO no_reader")
    session.execute(complaint).fetchall()
    place.execute("REVOKE SELECT ON items FROM no_reader")


def test_a_query_that_writes_is_stopped(place):
    """A volatile function inside a SELECT can write, and so can what calls one under another mark:
    an error on every version of PostgreSQL, also where the transaction around it wrote before."""
    place.execute("CREATE FUNCTION sneak(i integer) RETURNS boolean LANGUAGE plpgsql VOLATILE AS "
                  "$$ BEGIN DELETE FROM copies; RETURN true; END $$")
    place.execute("CREATE FUNCTION sly(i integer) RETURNS boolean LANGUAGE plpgsql STABLE AS "
                  "$$ BEGIN PERFORM sneak(i); RETURN true; END $$")
    place.execute("CREATE TEMPORARY TABLE heap (i integer)")
    place.execute("CREATE FUNCTION pile(i integer) RETURNS boolean LANGUAGE plpgsql VOLATILE AS "
                  "$$ BEGIN INSERT INTO heap VALUES (i); RETURN true; END $$")
    place.execute("CREATE FUNCTION hoard(i integer) RETURNS boolean LANGUAGE plpgsql STABLE AS "
                  "$$ BEGIN RETURN pile(i); EXCEPTION WHEN division_by_zero THEN RETURN false; "
                  "END $$")
    query = """SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = claim
               AND {name}(id)"""
    statements = ["SELECT * FROM pgrain." + call.replace("{query}", query) for call in (
        "complain($${query}$$, 'n too high')", "provenance($${query}$$)",
        "assess($${query}$$, 'n too high')",
        "predict_batch('colour', $$SELECT id, x FROM items WHERE {name}(id)$$)")]
    session = place.connection
    for before in ("SELECT 1", "DELETE FROM copies WHERE id = 7"):     # with an id of its own
        for name, sqlstate in (("sneak", "0A000"), ("sly", "25006"), ("hoard", "25006")):
            for statement in statements:
                session.execute("BEGIN; SAVEPOINT a;" + before)
                error = failure(place, statement.replace("{name}", name))
                batch = name == "sneak" and "batch" in statement
                assert error.sqlstate == ("25006" if batch else sqlstate), (statement, error)
                session.execute("ROLLBACK")
        session.execute("BEGIN; SAVEPOINT a;" + before)
        for statement in statements:
            session.execute(statement.replace("{name}(id)", "true"))
        session.execute("DELETE FROM copies; ROLLBACK")
    assert place.value("SELECT count(*) FROM copies") == 41
    assert place.value("SELECT count(*) FROM heap") == 0


def test_a_null_feature_has_no_prediction(place):
    assert place.value("SELECT pgrain.predict('pictures', NULL::bytea)") is None


def test_a_model_without_spectrum_says_what_to_run(place):
    error = failure(place, """SELECT * FROM pgrain.complain($$ SELECT count(*) AS n FROM pictures
        WHERE pgrain.predict('pictures', image) = label $$, 'n too low')""")
    assert error.sqlstate == "55000"
    assert error.diag.message_primary == 'pgrain: model "pictures" has no stored spectrum'
    assert error.diag.message_hint == "Run CALL pgrain.precompute('pictures')."


def test_a_call_inside_a_transaction_block(place):
    connection = place.connect()
    connection.execute("BEGIN")
    error = failure(place, "CALL pgrain.train('pictures')", connection)
    assert error.sqlstate == "25001"
    assert "wait => false" in error.diag.message_hint
    connection.execute("ROLLBACK; BEGIN")
    error = failure(place, f"CALL pgrain.repair('r', $q${REPORT}$q$, 'flagged too high')",
                    connection)
    assert error.sqlstate == "25001"
    assert "Run it outside" in error.diag.message_hint and "wait" not in error.diag.message_hint
    connection.execute("ROLLBACK")
    assert place.value("SELECT count(*) FROM pgrain.progress") == 0


def test_train_twice_at_once_and_cancel(place):
    """The second is refused; cancelling the first ends its job, and the next one works."""
    first = place.connect()
    outcome = []

    def run():
        try:
            first.execute("CALL pgrain.train('pictures', '{\"epochs\": 100000}')")
        except psycopg.Error as error:
            outcome.append(error)
    thread = threading.Thread(target=run)
    version = place.value("SELECT version FROM pgrain.models WHERE model = 'pictures'")
    thread.start()
    deadline = time.monotonic() + 60
    while not place.value("SELECT count(*) FROM pgrain.progress WHERE phase = 'train'"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running = place.value("SELECT job FROM pgrain.progress")
    other = place.connect()
    other.execute("BEGIN")
    told, = heard(other, "CALL pgrain.train('copies', wait => false)")
    assert f'behind job {running} (train of model "pictures"); see pgrain.progress' in told
    other.execute("ROLLBACK")
    error = failure(place, "CALL pgrain.train('pictures')")
    assert error.sqlstate == "55006"
    assert "pgrain.progress" in error.diag.message_hint
    cancelled = time.monotonic()
    first.cancel()
    thread.join(10)
    assert time.monotonic() - cancelled < 2
    assert outcome[0].sqlstate == "57014"
    while place.value("SELECT count(*) FROM pgrain.progress"):
        assert time.monotonic() - cancelled < 20
        time.sleep(0.05)
    assert place.value("SELECT state FROM pgrain.jobs ORDER BY job DESC LIMIT 1") == "cancelled"
    assert place.value("SELECT version FROM pgrain.models WHERE model = 'pictures'") == version
    assert place.value("SELECT count(*) FROM pgrain.versions WHERE model = 'pictures' "
                       "AND NOT ready") == 0
    place.execute("CALL pgrain.train('pictures')")
