"""A value has one digest, whether PostgreSQL or Python computes it."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
