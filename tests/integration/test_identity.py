"""A value has one digest, whether PostgreSQL or Python computes it."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watch_checks import agree, folded

from pgrain.wire.identity import array_received, canonical_sql, digest, digest_sql, hasher

SECRET = bytes(range(32))
# PostgreSQL has no text with a zero byte, and a lone surrogate is no character.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | texts | st.floats(allow_nan=False,
                                                                        allow_infinity=False)
relaxed = settings(max_examples=150, deadline=None,
                   suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def connection(module_database):
    return module_database(extension=False).connection


def in_sql(connection, value, kind, features=(), cast="bytea"):
    sql = digest_sql("v.x", kind, features, secret="v.secret").replace("%", "%%")
    return connection.execute(f"SELECT {sql} FROM (SELECT %s::bytea AS secret, "
                              f"%s::{cast} AS x) v",
                              [SECRET, value]).fetchone()[0]


@given(value=st.binary(max_size=300))
@relaxed
def test_bytea(connection, value):
    assert in_sql(connection, value, "bytea") == digest(hasher(SECRET), value, "bytea")


@given(value=texts)
@relaxed
def test_text(connection, value):
    assert in_sql(connection, value, "text", cast="text") == digest(hasher(SECRET), value, "text")


@given(value=st.lists(st.floats(allow_nan=False), max_size=6))
@relaxed
def test_float8(connection, value):
    assert (in_sql(connection, value, "float8", cast="float8[]")
            == digest(hasher(SECRET), value, "float8"))


@pytest.mark.parametrize("length", [1, 1023, 1024, 1025, 2500])
@pytest.mark.parametrize("last", [-0.0, float("nan"), float("-inf"), 5e-324, None])
def test_long_arrays(connection, length, last):
    """Packed many at a time; one by one where there is a NULL."""
    value = [number / 3 for number in range(length - 1)] + [last]
    assert (in_sql(connection, value, "float8", cast="float8[]")
            == digest(hasher(SECRET), value, "float8"))


@pytest.mark.parametrize("text", ["[0:1]={0.5,-2}", "[-7:-6]={0.5,-2}", "[2147483645:2147483646]="
                                  "{0.5,-2}"])
def test_arrays_that_begin_elsewhere(connection, text):
    """Python has no lower bounds: for a model the numbers are the value."""
    assert (in_sql(connection, text, "float8", cast="float8[]")
            == digest(hasher(SECRET), [0.5, -2.0], "float8"))
    sql = canonical_sql("x", "float8")
    sent = connection.execute(f"SELECT {sql} FROM (SELECT %s::float8[] AS x) AS v",
                              [text]).fetchone()[0]
    assert array_received(sent) == [0.5, -2.0]


@given(value=st.lists(st.none() | st.floats(allow_nan=False), max_size=6))
@relaxed
def test_arrays_come_back(connection, value):
    sql = canonical_sql("x", "float8")
    sent = connection.execute(f"SELECT {sql} FROM (SELECT %s::float8[] AS x) AS v",
                              [value]).fetchone()[0]
    assert array_received(sent) == value


@given(value=st.dictionaries(texts, scalars, max_size=4), data=st.data())
@relaxed
def test_columns(connection, value, data):
    """Also with members that are no features, and in whatever order features are named."""
    features = data.draw(st.permutations(sorted(value)))[:3]
    as_jsonb = connection.execute("SELECT %s::jsonb::text", [json.dumps(value)]).fetchone()[0]
    assert (in_sql(connection, as_jsonb, "columns", features, cast="jsonb")
            == digest(hasher(SECRET), as_jsonb, "columns", features))


def test_another_secret_gives_another_digest():
    assert digest(hasher(b"a"), b"x", "bytea") != digest(hasher(b"b"), b"x", "bytea")


def test_a_table_of_arrays_that_begin_elsewhere(small):
    """Complained about, attached and watched as any other; every value is the one that it equals
    but for its bounds."""
    small.execute("CREATE TABLE zero AS SELECT id, claim, hour, CASE id % 3 WHEN 0 THEN x ELSE "
                  "(format('[%s:%s]=', id % 3 - 2, id % 3 - 1) || x::text)::float8[] END AS x "
                  "FROM items WHERE x IS NOT NULL")
    assert small.value("SELECT count(DISTINCT array_lower(x, 1)) FROM zero") == 3
    query = ("SELECT hour, count(*) AS n FROM {} WHERE x IS NOT NULL AND "
             "pgrain.predict('colour', x) = 'red' GROUP BY hour")

    def asked(what):
        return [small.rows(f"SELECT {columns} FROM pgrain.{call}", [what]) for columns, call in (
            ("train_id, score", "complain(%s, 'n too high', 20)"),
            ("output, value, relaxed", "provenance(%s) ORDER BY output_row"))]

    expected = asked(query.format("items"))
    assert small.rows(query.format("zero")) and expected[0]
    assert asked(query.format("zero")) == expected
    small.execute("CALL pgrain.attach('colour', 'zero')")
    assert asked(query.format("zero")) == expected
    small.execute("CALL pgrain.watch('zeros', %s)", [query.format("zero")])
    small.execute("INSERT INTO zero SELECT id, claim, hour, '[0:1]={1.25,0.5}' FROM zero "
                  "WHERE id < 30")
    agree(small, "zeros", query.format("zero"))
    folded(small)
    agree(small, "zeros", query.format("zero"))
    small.execute("SELECT pgrain.unwatch('zeros'), pgrain.detach('colour', 'zero')")
    small.execute("DROP TABLE zero")
