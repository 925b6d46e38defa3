"""Feature repairs through SQL: signs against retraining, expressions, the library, edits_sql."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import pytest

COUNT = "SELECT count(*) AS n FROM people p WHERE pgrain.predict('income', p) = 'high'"
PEOPLE = """
CREATE TABLE past (id integer PRIMARY KEY, age float8, hours integer, job text, level text);
INSERT INTO past
SELECT i, 20 + i * 7 % 45, 20 + i * 13 % 40, (ARRAY['clerk', 'cook', 'chief'])[1 + i % 3],
       CASE WHEN i * 7 % 45 + i * 13 % 40 + i * 17 % 30 > 55 THEN 'high' ELSE 'low' END
FROM generate_series(1, 200) AS i;
UPDATE past SET hours = 999 WHERE id % 20 = 0;      -- typing errors
CREATE TABLE people AS
SELECT i AS id, 20.0 + i * 11 % 45 AS age, 20 + i * 19 % 40 AS hours,
       (ARRAY['clerk', 'cook', 'chief'])[1 + i % 3] AS job FROM generate_series(1, 90) AS i;
"""


def make(database):
    for statement in PEOPLE.split(";\n"):
        database.execute(statement)
    database.execute("SELECT pgrain.create_model('income', 'past', 'id', '{age, hours, job}', "
                     "'level', 'logistic_regression', '{\"alpha\": 0.3}')")
    database.execute("CALL pgrain.train('income')")


@pytest.fixture(scope="module")
def income(module_database, worker):
    """A model with four repairs: two by expressions, two of the library."""
    database = module_database()
    database.worker = worker(database)
    make(database)
    database.execute("SELECT pgrain.create_intervention('income', 'plain hours', "
                     "ARRAY['age', 'CASE WHEN hours > 168 THEN 35 ELSE hours END', 'job'])")
    database.execute("SELECT pgrain.create_intervention('income', 'older', "
                     "features => ARRAY['age + 10', 'hours', 'job'])")
    database.execute("""SELECT pgrain.create_intervention('income', 'usual hours',
                     library => 'impute', options => '{"columns": ["hours"], "missing": [999]}')""")
    database.execute("""SELECT pgrain.create_intervention('income', 'cook', library => 'constant',
                     options => '{"columns": ["job"], "value": "cook"}')""")
    database.execute("CALL pgrain.precompute('income', '{\"pairs\": 16}')")
    return database


def complain(database, intervention, complaint="n too low", top_k=1000, **options):
    k = database.value("SELECT stored_pairs FROM pgrain.models WHERE model = 'income'")
    return database.rows("SELECT * FROM pgrain.complain(%s, %s::text, %s, %s, %s::jsonb)",
                         [COUNT, complaint, top_k, intervention,
                          json.dumps({"k": k, **options})])


def relaxed(database):
    return database.value("SELECT relaxed FROM pgrain.provenance(%s)", [COUNT])


def retrained(database, key, intervention):
    """The relaxed count after an edit and retraining, with the encoder held (warm start)."""
    database.execute("SELECT pgrain.apply('income', %s, %s)", [[key], intervention])
    try:
        database.execute("CALL pgrain.train('income', '{\"warm_start\": true}')")
        return relaxed(database)
    finally:
        database.execute("SELECT pgrain.revert('income')")


def test_a_repair_is_ranked_for_the_rows_that_it_changes(income):
    wrong = {row[0] for row in income.rows("SELECT id FROM past WHERE hours = 999")}
    for name in ("plain hours", "usual hours"):
        rows = complain(income, name)
        assert {row[2] for row in rows} == wrong
        assert {row[4] for row in rows} == {name}
        assert [row[5] for row in rows] == sorted((row[5] for row in rows), reverse=True)
    assert len(complain(income, "older")) == 200
    assert len(complain(income, "cook")) == income.value(
        "SELECT count(*) FROM past WHERE job <> 'cook'")
    shown = income.rows("SELECT name, kind, precomputed, changed_rows, stale_rows "
                        "FROM pgrain.interventions ORDER BY name")
    assert shown == [("cook", "constant", True, 133, 0), ("older", "sql", True, 200, 0),
                     ("plain hours", "sql", True, 10, 0), ("usual hours", "impute", True, 10, 0)]


@pytest.mark.parametrize("name", ["older", "cook", "plain hours", "usual hours"])
def test_effect_has_the_sign_and_size_of_the_truth(income, name):
    """Rows at both ends of the ranking: replaced by what the repair makes of them, retrained."""
    version = income.value("SELECT version FROM pgrain.models")
    income.execute("CALL pgrain.train('income', '{\"warm_start\": true}')")
    start = relaxed(income)
    income.execute("SELECT pgrain.activate('income', %s)", [version])
    rows = complain(income, name)
    chosen = [rows[i] for i in (0, 1, 2, -3, -2, -1)]
    truth = []
    for row in chosen:
        truth.append(retrained(income, row[3], name) - start)
        income.execute("SELECT pgrain.activate('income', %s)", [version])
    effect = np.array([row[6] for row in chosen])
    truth = np.array(truth)
    assert np.corrcoef(effect, truth)[0, 1] > 0.95
    slope = effect @ truth / (truth @ truth)
    # A typing error of 999 hours is no small change, so its first-order effect is only about right.
    assert 0.7 < slope < 1.4 if name in ("older", "cook") else 0.2 < slope < 5
    large = np.abs(truth) > 0.1 * np.abs(truth).max()
    assert (np.sign(effect) == np.sign(truth))[large].all()


def every_gain(income):
    """train_id -> {intervention: its gain}"""
    every = {}
    for name in ("delete", "relabel:low", "relabel:high", "older", "cook", "plain hours",
                 "usual hours"):
        for row in complain(income, name):
            every.setdefault(row[2], {})[row[4]] = row[5]
    return every


def test_any_picks_the_best_of_all(income):
    every = every_gain(income)
    rows = complain(income, "any", plausible=False)
    assert sorted(row[2] for row in rows) == list(range(1, 201))
    for row in rows:
        assert row[5] == pytest.approx(max(every[row[2]].values()), rel=1e-4, abs=1e-6)
        assert every[row[2]][row[4]] == pytest.approx(row[5], rel=1e-4, abs=1e-6)
    assert len({row[4] for row in rows}) >= 3


def test_any_weighs_gains_by_what_the_model_believes(income):
    """The score is the gain times the probability that the row is right afterwards, of what is best
    by that measure; the effect stays the change of the cell."""
    every = every_gain(income)
    plain = {row[2]: (row[4], row[6]) for row in complain(income, "any", plausible=False)}
    labels = dict(income.rows("SELECT id, level FROM past"))
    place = {name: i for i, name in enumerate(
        income.value("SELECT classes FROM pgrain.models WHERE model = 'income'"))}

    def belief(age="p.age", hours="p.hours", job="p.job"):
        return dict(income.rows(f"SELECT p.id, pgrain.predict_proba('income', c) FROM past p, "
                                f"LATERAL (SELECT {age} AS age, {hours} AS hours, {job} AS job) "
                                "AS c"))

    before = belief()
    after = {"older": belief(age="p.age + 10"), "cook": belief(job="'cook'::text"),
             "plain hours": belief(hours="CASE WHEN p.hours > 168 THEN 35 ELSE p.hours END")}
    rows, checked = complain(income, "any"), 0
    for row in rows:
        own, expected = place[labels[row[2]]], {}
        for name, gain in every[row[2]].items():
            if name == "delete":
                expected[name] = gain * (1 - before[row[2]][own])
            elif name.startswith("relabel:"):
                expected[name] = gain * before[row[2]][place[name.removeprefix("relabel:")]]
            elif name in after:
                expected[name] = gain * after[name][row[2]][own]
        if row[4] not in expected:
            continue
        checked += 1
        assert row[5] == pytest.approx(expected[row[4]], rel=1e-3, abs=1e-6)
        assert row[5] >= max(expected.values()) - 1e-3 * abs(row[5]) - 1e-6
        if plain[row[2]][0] == row[4]:
            assert row[6] == pytest.approx(plain[row[2]][1], rel=1e-4, abs=1e-7)
    assert checked > 150

    def believed(found):
        """How likely the new labels are, on average."""
        return np.mean([before[row[2]][place[row[4].removeprefix("relabel:")]]
                        for row in found if row[4].startswith("relabel:")])

    assert believed(rows[:30]) > believed(complain(income, "any", plausible=False)[:30])
    for options in ({"plausible": "yes"}, {"plausible": True, "normalize": "relatif"}):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="plausible"):
            complain(income, "delete", **options)


def test_any_chooses_among_what_it_is_told(income):
    def ranked(options):
        return income.rows("SELECT * FROM pgrain.complain(%s, 'n too low'::text, 1000, 'any', "
                           "%s::jsonb)", [COUNT, options])
    rows = ranked('{"k": 7, "among": ["delete", "older"], "plausible": false}')
    assert {row[4] for row in rows} == {"delete", "older"}
    best = {}
    for name in ("delete", "older"):
        for row in income.rows("SELECT * FROM pgrain.complain(%s, 'n too low'::text, 1000, %s, "
                               "'{\"k\": 7}')", [COUNT, name]):
            best[row[2]] = max(best.get(row[2], -np.inf), row[5])
    assert {row[2]: row[5] for row in rows} == pytest.approx(best, rel=1e-4, abs=1e-7)
    assert {row[4] for row in ranked('{"among": ["relabel:low", "plain hours"]}')} == {
        "relabel:low", "plain hours"}
    for options in ('{"among": []}', '{"among": ["any"]}', '{"among": "delete"}',
                    '{"among": ["no such"]}'):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            ranked(options)


def test_words_of_a_text_by_a_table_of_the_user(database, worker, as_role):
    """Dropped and replaced words reach the model, by tables that the caller may read."""
    own = database()
    worker(own)
    own.execute("""CREATE TABLE reviews AS SELECT i AS id, 'A ' || (CASE i % 2
        WHEN 0 THEN 'good' ELSE 'bad' END) || (CASE i % 5 WHEN 0 THEN ', long' ELSE '' END)
        || ' film' AS body, CASE i % 2 WHEN 0 THEN 'yes' ELSE 'no' END AS label
        FROM generate_series(1, 60) AS i""")
    own.execute("CREATE TABLE swap (a text, b text)")
    own.execute("INSERT INTO swap VALUES ('Good', 'bad'), ('bad', 'good')")
    own.execute("SELECT pgrain.create_model('r', 'reviews', 'id', '{body}', 'label', 'lstm', "
                "'{\"embedding\": 4, \"units\": 4, \"epochs\": 4, \"batch_size\": 20}')")
    own.execute("CALL pgrain.train('r')")
    own.execute("SELECT pgrain.create_intervention('r', 'antonyms', library => 'replace_words', "
                "options => '{\"table\": \"swap\", \"word\": \"a\", \"replacement\": \"b\"}')")
    own.execute("SELECT pgrain.create_intervention('r', 'shorter', library => 'drop_words', "
                "options => '{\"words\": [\"long\"]}')")
    own.execute("CALL pgrain.precompute('r', '{\"pairs\": 6}')")
    assert own.rows("SELECT name, changed_rows FROM pgrain.interventions ORDER BY name") == [
        ("antonyms", 60), ("shorter", 12)]
    rows = own.rows("SELECT train_id FROM pgrain.complain($$ SELECT count(*) AS n FROM reviews "
                    "WHERE pgrain.predict('r', body) = 'yes' $$, 'n too high'::text, 100, "
                    "'shorter')")
    assert {row[0] % 5 for row in rows} == {0} and len(rows) == 12
    own.execute("SELECT pgrain.apply('r', '{10}', 'antonyms')")
    own.execute("SELECT pgrain.apply('r', '{5}', 'shorter')")
    for (statement,) in own.rows("SELECT pgrain.edits_sql('r')"):
        own.execute(statement)
    assert own.rows("SELECT body FROM reviews WHERE id IN (5, 10) ORDER BY id") == [
        ("A bad, film",), ("A bad, long film",)]
    admin = as_role(own, "wordsmith", "admin")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="swap"):
        admin.execute("SELECT pgrain.create_intervention('r', 'x', library => 'drop_words', "
                      "options => '{\"table\": \"swap\", \"word\": \"a\"}')")


def test_what_is_learned_repaired_is_known_as_such(income):
    """precompute after training with repairs in force: the rows are as learned, the repair is no
    candidate for them any more, and nothing counts as changed."""
    version = income.value("SELECT version FROM pgrain.models")
    income.execute("SELECT pgrain.apply('income', '{20, 40}', 'plain hours')")
    income.execute("SELECT pgrain.apply('income', '{60}', 'usual hours')")
    income.execute("CALL pgrain.train('income')")
    income.execute("CALL pgrain.precompute('income', '{\"pairs\": 16}')")
    assert income.value("SELECT changed_rows FROM pgrain.models") == 0
    assert {row[2] for row in complain(income, "plain hours")} == {
        60, 80, 100, 120, 140, 160, 180, 200}
    assert {row[2] for row in complain(income, "usual hours")} == {
        20, 40, 80, 100, 120, 140, 160, 180, 200}
    assert len(complain(income, "delete")) == 200
    income.execute("SELECT pgrain.revert('income')")
    income.execute("SELECT pgrain.activate('income', %s)", [version])


def test_a_repair_made_later_is_precomputed_alone(income):
    before = income.value("SELECT precomputed_at FROM pgrain.models")
    income.execute("SELECT pgrain.create_intervention('income', 'shorter', "
                   "ARRAY['age', 'hours - 1', 'job'])")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState,
                       match='"shorter" of model "income" is not precomputed'):
        complain(income, "shorter")
    notices = []
    income.connection.add_notice_handler(lambda n: notices.append(n.message_primary))
    assert len(complain(income, "any")) == 200
    assert any('"shorter"' in notice for notice in notices)
    income.execute("CALL pgrain.precompute('income', '{\"only\": \"interventions\"}')")
    assert len(complain(income, "shorter")) == 200
    assert income.value("SELECT precomputed_at FROM pgrain.models") == before
    income.execute("SELECT pgrain.drop_intervention('income', 'shorter')")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="no such intervention"):
        complain(income, "shorter")
    assert income.value("SELECT count(*) FROM pgrain.spectrum_chunk k "
                        "WHERE kind LIKE 'repair:%' AND NOT EXISTS (SELECT FROM "
                        "pgrain.intervention i WHERE kind = 'repair:' || i.intervention)") == 0


def test_a_row_that_changed_after_the_expression_is_left_out(income):
    income.execute("UPDATE past SET age = age + 1 WHERE id = 7")
    try:
        income.execute("SELECT pgrain.apply('income', '{7}', 'older')")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="have changed since"):
            income.execute("CALL pgrain.train('income')")
    finally:
        income.execute("SELECT pgrain.revert('income')")
        income.execute("UPDATE past SET age = age - 1 WHERE id = 7")


def test_expressions_run_with_the_caller_s_rights(income, as_role):
    """An admin who may not read a table reads nothing through an expression, and no worker does it
    for them."""
    income.execute("CREATE TABLE hidden AS SELECT 'treasure'::text AS secret")
    admin = as_role(income, "repairer", "admin")
    income.execute("GRANT SELECT ON past TO repairer")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="hidden"):
        admin.execute("SELECT pgrain.create_intervention('income', 'x', "
                      "ARRAY['age', 'hours', '(SELECT secret FROM hidden)'])")
    with pytest.raises(psycopg.Error):
        admin.execute("SELECT pgrain.create_intervention('income', 'x', "
                      "ARRAY['age', 'hours', '1); DROP TABLE past; SELECT (1'])")
    admin.execute("SELECT pgrain.create_intervention('income', 'mine', "
                  "ARRAY['age', 'hours', '''cook'' -- quoted'])")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        admin.execute("SELECT * FROM pgrain.intervention_value")
    admin.execute("SELECT pgrain.drop_intervention('income', 'mine')")
    income.execute("REVOKE ALL ON past FROM repairer")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="past"):
        admin.execute("SELECT pgrain.create_intervention('income', 'x', "
                      "ARRAY['age', 'hours', 'job'])")


@pytest.mark.parametrize(("arguments", "sqlstate"), [
    ("'delete', ARRAY['age', 'hours', 'job']", "22023"),
    ("'relabel:low', ARRAY['age', 'hours', 'job']", "22023"),
    ("'older', ARRAY['age', 'hours', 'job']", "42710"),
    ("'x', ARRAY['age']", "22023"),
    ("'x', ARRAY['age', 'nothing', 'job']", "42703"),
    ("'x', ARRAY['age', 'hours', 'job'], 'median'", "22023"),
    ("'x'", "22023"),
    ("'x', library => 'median'", "22023"),
    ("'x', library => 'cure_all'", "22023"),
    ("'x', library => 'impute'", "22023"),
    ("'x', library => 'impute', options => '{\"columns\": [\"shoes\"]}'", "22023"),
    ("'x', library => 'clip', options => '{\"columns\": [\"age\"], \"speed\": 1}'", "22023"),
    ("'x', library => 'clip', options => '{\"columns\": [\"age\"], \"low\": 2, \"high\": 1}'",
     "22023"),
    ("'x', ARRAY['generate_series(1, 2)', 'hours', 'job']", "22023"),
])
def test_what_cannot_be_a_repair_is_refused(income, arguments, sqlstate):
    with pytest.raises(psycopg.Error) as caught:
        income.execute(f"SELECT pgrain.create_intervention('income', {arguments})")
    assert caught.value.sqlstate == sqlstate
    assert income.value("SELECT count(*) FROM pgrain.interventions WHERE name = 'x'") == 0


def test_a_repair_that_gives_what_no_input_can_be_is_named(income):
    """With the row, when it is precomputed; a repair of the library with the option."""
    income.execute("SELECT pgrain.create_intervention('income', 'broken', ARRAY[%s, 'hours', "
                   "'job'])", ["CASE WHEN id = 7 THEN 'Infinity'::float8 ELSE age END"])
    try:
        with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
            income.execute("CALL pgrain.precompute('income', '{\"only\": \"interventions\"}')")
        assert 'intervention "broken"' in caught.value.diag.message_primary
        assert "key 7" in caught.value.diag.message_detail
    finally:
        income.execute("SELECT pgrain.drop_intervention('income', 'broken')")
    income.execute("SELECT pgrain.create_intervention('income', 'wordy', library => 'impute', "
                   "options => '{\"columns\": [\"job\"]}')")
    try:
        with pytest.raises(psycopg.errors.InvalidParameterValue, match='intervention "wordy"'):
            income.execute("CALL pgrain.precompute('income', '{\"only\": \"interventions\"}')")
    finally:
        income.execute("SELECT pgrain.drop_intervention('income', 'wordy')")


def test_edits_keep_their_intervention(income):
    income.execute("SELECT pgrain.apply('income', '{1}', 'older')")
    with pytest.raises(psycopg.errors.ObjectInUse):
        income.execute("SELECT pgrain.drop_intervention('income', 'older')")
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        income.execute("SELECT pgrain.apply('income', '{1}', 'no such thing')")
    income.execute("SELECT pgrain.revert('income')")


def test_edits_sql_does_what_training_does(income):
    """The statements, run on the table itself, give the rows that the edits made of it: a model
    trained on the edited copy is the model trained with the edits."""
    edits = [("{1, 2}", "delete"), ("{3}", "relabel:high"), ("{5}", "relabel:low"),
             ("{20, 40}", "plain hours"), ("{60}", "usual hours"), ("{7, 8}", "cook"),
             ("{9}", "older")]
    for keys, intervention in edits:
        income.execute("SELECT pgrain.apply('income', %s, %s)", [keys, intervention])
    statements = [row[0] for row in income.rows("SELECT pgrain.edits_sql('income')")]
    version = income.value("SELECT version FROM pgrain.models WHERE model = 'income'")
    income.execute("CALL pgrain.train('income')")
    probabilities = income.rows("SELECT id, pgrain.predict_proba('income', p) FROM people p "
                                "ORDER BY id")
    income.execute("SELECT pgrain.revert('income')")
    income.execute("SELECT pgrain.activate('income', %s)", [version])
    with income.connection.transaction(force_rollback=True):
        income.execute("SET LOCAL search_path = pg_catalog")
        for statement in statements:
            assert statement.endswith(";")
            income.execute(statement)
        income.execute("SET LOCAL search_path = public")
        edited = income.rows("SELECT * FROM past ORDER BY id")
    income.execute("CREATE TABLE past_edited (LIKE past)")
    with income.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO past_edited VALUES (%s, %s, %s, %s, %s)", edited)
    assert len(edited) == 198
    income.execute("SELECT pgrain.create_model('copy', 'past_edited', 'id', '{age, hours, job}', "
                   "'level', 'logistic_regression', '{\"alpha\": 0.3}')")
    income.execute("CALL pgrain.train('copy')")
    again = income.rows("SELECT id, pgrain.predict_proba('copy', p) FROM people p ORDER BY id")
    np.testing.assert_allclose([p for _, p in probabilities], [p for _, p in again], atol=1e-4)
    income.execute("SELECT pgrain.drop_model('copy')")


def test_edits_sql_quotes(database, worker):
    """Names and values that need quotes, keys that are texts, a float8[] and a bytea."""
    odd = database()
    worker(odd)
    odd.execute('CREATE SCHEMA "Odd schema"')
    # Columns that are called as a statement of ours might call its own.
    odd.execute('CREATE TABLE "Odd schema"."My ""own"" table" ("the key" text PRIMARY KEY, '
                '"Some x" float8[], "Label\'s" text, k text, t text, key text)')
    odd.execute("""INSERT INTO "Odd schema"."My ""own"" table" SELECT 'it''s ' || i,
        ARRAY[i % 7, i % 5], CASE WHEN i % 7 > 3 THEN 'a''b' ELSE 'c\\d' END
        FROM generate_series(1, 60) AS i""")
    odd.execute("""SELECT pgrain.create_model('o''dd', '"Odd schema"."My ""own"" table"', 'the key',
        '{Some x}', 'Label''s', 'logistic_regression')""")
    odd.execute("CALL pgrain.train('o''dd')")
    odd.execute("""SELECT pgrain.create_intervention('o''dd', 'zero', library => 'constant',
        options => '{"elements": [2], "value": 0}')""")
    odd.execute("""SELECT pgrain.create_intervention('o''dd', 'mean', library => 'impute',
        options => '{"elements": [1], "strategy": "mean"}')""")
    odd.execute("""SELECT pgrain.create_intervention('o''dd', 'twin', library => 'duplicates')""")
    odd.execute("CALL pgrain.precompute('o''dd')")
    for key, edit in (("it's 1", "zero"), ("it's 2", "relabel:a'b"), ("it's 3", "delete"),
                      ("it's 4", "mean"), ("it's 41", "twin"), ("it's 5", "relabel:c\\d")):
        odd.execute("SELECT pgrain.apply('o''dd', %s, %s)", [[key], edit])
    for (statement,) in odd.rows("SELECT pgrain.edits_sql('o''dd')"):
        odd.execute(statement)
    rows = {row[0]: row[1:3] for row in odd.rows('TABLE "Odd schema"."My ""own"" table"')}
    mean = float(np.mean([i % 7 for i in range(1, 61)]))
    assert "it's 3" not in rows and "it's 41" not in rows and len(rows) == 58
    assert rows["it's 1"] == ([1, 0], "c\\d")
    assert rows["it's 2"] == ([2, 2], "a'b")
    assert rows["it's 4"] == ([pytest.approx(mean), 4], "a'b")
    assert rows["it's 5"][1] == "c\\d"


def test_duplicates_go_but_for_one(database, worker):
    own = database()
    worker(own)
    make(own)
    own.execute("INSERT INTO past SELECT id + 1000, age, hours, job, level FROM past "
                "WHERE id IN (3, 4, 5)")
    own.execute("INSERT INTO past SELECT id + 2000, age, hours, job, level FROM past WHERE id = 3")
    own.execute("CALL pgrain.train('income')")
    own.execute("SELECT pgrain.create_intervention('income', 'twins', library => 'duplicates')")
    own.execute("""SELECT pgrain.create_intervention('income', 'near', library => 'duplicates',
                options => '{"by": "distance", "distance": 0.0001}')""")
    own.execute("CALL pgrain.precompute('income')")
    natural = {row[0] for row in own.rows("""
        SELECT id FROM past p WHERE EXISTS (SELECT FROM past q WHERE q.id < p.id AND
        (q.age, q.hours, q.job, q.level) = (p.age, p.hours, p.job, p.level))""")}
    assert {1003, 1004, 1005, 2003} <= natural
    deleted = {row[2]: row[5:] for row in complain(own, "delete")}
    for name in ("twins", "near"):
        rows = complain(own, name)
        assert {row[2] for row in rows} == natural
        assert all(deleted[row[2]] == pytest.approx(row[5:], rel=1e-4, abs=1e-9) for row in rows)
    own.execute("SELECT pgrain.apply('income', '{1003}', 'twins')")
    own.execute("CALL pgrain.train('income')")
    assert own.value("SELECT n_rows FROM pgrain.models") == 203


def test_dump_keeps_repairs_and_their_values(income, module_database):
    copy = income.dumped_into(module_database(extension=False))
    query = "SELECT name, kind, features, options FROM pgrain.interventions ORDER BY name"
    assert copy.rows(query) == income.rows(query)
    query = "SELECT intervention, train_key, value FROM pgrain.intervention_value ORDER BY 1, 2"
    assert copy.rows(query) == income.rows(query) != []
