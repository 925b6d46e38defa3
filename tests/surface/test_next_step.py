"""Errors and answers that say what to do next: all missing rights at once, the value in place of
the row, columns that are nothing to learn from."""

from __future__ import annotations

import psycopg
import pytest

from pgrain.worker.train_job import many_values


@pytest.fixture(scope="module")
def place(small):
    small.execute("""
        CREATE SCHEMA app;
        CREATE TABLE app.plain AS SELECT * FROM items;
        CREATE SCHEMA "Sales";
        CREATE TABLE "Sales"."NewTickets" AS SELECT * FROM items;
        CREATE SCHEMA shut;
        CREATE TABLE shut.inside AS SELECT * FROM items;
        CREATE TABLE tiles AS SELECT i AS id, decode(lpad(to_hex(i), 8, '0'), 'hex') AS image,
            repeat('good ', 1 + i % 3) AS txt, (ARRAY['a', 'b'])[i % 2 + 1] AS label
            FROM generate_series(1, 40) AS i""")
    small.execute("""SELECT pgrain.create_model('tiles', 'tiles', 'id', '{image}', 'label', 'mlp',
                     '{"shape": [2, 2, 1], "hidden": [2], "epochs": 1}')""")
    small.execute("""SELECT pgrain.create_model('words', 'tiles', 'id', '{txt}', 'label', 'lstm',
                     '{"units": 2, "embedding": 2, "epochs": 1}')""")
    for model in ("tiles", "words"):
        small.execute("CALL pgrain.train(%s)", [model])
    return small


def refused(session, query, parameters=None):
    with pytest.raises(psycopg.Error) as caught:
        session.execute(query, parameters)
    return caught.value.sqlstate, caught.value.diag.message_primary, caught.value.diag.message_hint


@pytest.mark.parametrize("relation", ["app.plain", '"Sales"."NewTickets"'])
def test_the_missing_grant_of_a_table_elsewhere(place, as_role, relation):
    analyst = as_role(place, "analyst", "user")
    place.execute('GRANT USAGE ON SCHEMA app, "Sales" TO analyst')
    query = f"SELECT count(*) AS n FROM {relation} WHERE pgrain.predict('colour', x) = 'red'"
    for call in ("SELECT * FROM pgrain.complain(%s, 'n too high')",
                 "SELECT * FROM pgrain.provenance(%s)"):
        sqlstate, _, hint = refused(analyst, call, [query])
        assert sqlstate == "42501"
        assert hint == f"Its owner can run GRANT SELECT ON {relation} TO analyst."


def test_the_missing_usage_of_a_schema(place, as_role):
    analyst = as_role(place, "analyst", "user")
    place.execute("GRANT SELECT ON shut.inside TO analyst")
    assert refused(analyst, "SELECT * FROM pgrain.provenance('SELECT count(*) AS n FROM shut.inside"
                            " WHERE pgrain.predict(''colour'', x) = ''red''')") == (
        "42501", "pgrain: permission denied for schema shut",
        "Its owner can run GRANT USAGE ON SCHEMA shut TO analyst.")


def test_all_missing_grants_at_once(place, as_role):
    """And they are enough."""
    modeller = as_role(place, "modeller", "admin")
    place.execute("CREATE SCHEMA far; CREATE TABLE far.past AS SELECT * FROM train; "
                  "GRANT USAGE ON SCHEMA far TO modeller")
    create = ("SELECT pgrain.create_model('far', 'far.past', 'id', '{x}', 'label', "
              "'logistic_regression')")
    sqlstate, message, hint = refused(modeller, create)
    assert (sqlstate, message) == ("42501", "pgrain: permission denied for relation far.past")
    statements = hint.removeprefix("Its owner can run ").removesuffix(".").split("; ")
    assert len(statements) == 3
    for statement in statements:
        place.execute(statement)
    notes = []
    modeller.add_notice_handler(lambda notice: notes.append(notice.message_primary))
    modeller.execute(create)
    assert notes == []
    place.execute("SELECT pgrain.drop_model('far')")


@pytest.mark.parametrize("model, value, kind", [
    ("tiles", "image", "bytea"), ("words", "txt", "text"), ("colour", "x", "float8[]")])
@pytest.mark.parametrize("call", ["complain(%s, 'n too high')", "provenance(%s)"])
def test_a_row_in_place_of_the_value(place, model, value, kind, call):
    table = "items" if model == "colour" else "tiles"
    query = f"SELECT count(*) AS n FROM {table} AS t WHERE pgrain.predict('{model}', t) = 'a'"
    sqlstate, message, hint = refused(place, f"SELECT * FROM pgrain.{call}", [query])
    assert sqlstate == "22023"
    assert message == f'pgrain: model "{model}" takes a {kind}, not {table}'
    good = hint.removeprefix("Pass the value, not the row: ").removesuffix(".")
    assert good == f"pgrain.predict('{model}', t.{value})"
    place.execute("SELECT * FROM pgrain.provenance(%s)",
                  [query.replace(f"pgrain.predict('{model}', t)", good)])


def test_columns_that_are_nothing_to_learn_from_are_named(place):
    place.execute("CREATE TABLE days AS SELECT i AS id, date '2020-01-01' + i AS day, i % 60 AS n, "
                  "i::text AS label FROM generate_series(1, 120) AS i")
    place.execute("SELECT pgrain.create_model('days', 'days', 'id', '{day, n}', 'label', "
                  "'logistic_regression')")
    place.execute("CALL pgrain.train('days')")
    said = place.value("SELECT message FROM pgrain.jobs WHERE model = 'days'")
    assert 'column "day" has 120 categories in 120 rows' in said
    assert 'label "label" has 120 classes in 120 rows' in said
    assert '"n"' not in said
    place.execute("SELECT pgrain.drop_model('days')")


def test_few_categories_are_nothing_to_say():
    column = {"name": "c", "type": "category", "categories": list(map(str, range(50)))}
    assert many_values({"columns": [column]}, "label", ["a"] * 50, 60) == ""
    column["categories"].append("50")
    assert "51 categories" in many_values({"columns": [column]}, "label", ["a"], 60)
    assert many_values({"columns": [column]}, "label", ["a"], 200) == ""
