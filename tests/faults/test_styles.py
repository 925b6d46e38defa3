"""How a database, or a session, writes dates and bytes decides nothing: keys have one text."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

STYLES = {"DateStyle": "German, DMY", "IntervalStyle": "sql_standard", "bytea_output": "escape",
          "TimeZone": "Pacific/Kiritimati", "extra_float_digits": "-3", "array_nulls": "off",
          "quote_all_identifiers": "on", "transform_null_equals": "on", "track_activities": "off",
          "plpgsql.extra_errors": "all", "max_stack_depth": "100kB", "work_mem": "64kB"}
KEYS = {"date": ("date '2020-01-01' + i", "2020-01-05"),
        "timestamp": ("timestamp '2020-01-01 10:30' + i * interval '1 day'", "2020-01-05 10:30:00"),
        "bytea": ("decode(lpad(to_hex(i), 4, '0'), 'hex')", "\\x0004"),
        "integer": ("i", "4")}
QUERY = "SELECT count(*) AS n FROM {} AS t WHERE pgrain.predict('{}', t) = 'a'"


@pytest.fixture(scope="module")
def styled(module_database, worker):
    """A database whose every session, the worker's too, has other styles than PostgreSQL's own."""
    it = module_database()
    it.execute("SET client_min_messages = error")
    for name, value in STYLES.items():
        it.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(
            sql.Identifier(it.name), sql.SQL(name), sql.Literal(value)))
    it.connection.close()
    it.worker = worker(it)
    return it


@pytest.mark.parametrize("kind", KEYS)
def test_edits_of_rows_with_keys_of_a_type_that_has_styles(styled, kind):
    expression, key = KEYS[kind]
    name = f"by_{kind}"
    styled.execute(f"CREATE TABLE {name} AS SELECT {expression} AS k, i::float8 AS n, CASE WHEN "
                   "i > 40 THEN 'a' ELSE 'b' END AS label FROM generate_series(1, 80) AS i")
    styled.execute("SELECT pgrain.create_model(%s, %s, 'k', '{n}', 'label', 'logistic_regression')",
                   [name, name])
    styled.execute("CALL pgrain.train(%s)", [name])
    styled.execute("CALL pgrain.precompute(%s)", [name])
    ranked = [row[0] for row in styled.rows(
        "SELECT train_key FROM pgrain.complain(%s, 'n too high', 100)", [QUERY.format(name, name)])]
    assert key in ranked and len(ranked) == 80
    if kind != "integer":       # as this session writes it; silently no row's otherwise
        own = styled.value(f"SELECT k::text FROM {name} WHERE n = 4")
        with pytest.raises(psycopg.errors.UndefinedObject, match="has no row with k"):
            styled.execute("SELECT pgrain.apply(%s, ARRAY[%s], 'delete')", [name, own])
    styled.execute("SELECT pgrain.apply(%s, ARRAY[%s], 'delete')", [name, key])
    styled.execute("CALL pgrain.train(%s)", [name])
    assert styled.value("SELECT n_rows FROM pgrain.models WHERE model = %s", [name]) == 79
    assert styled.rows("SELECT edits_since_training, new_rows, gone_rows, changed_rows FROM "
                       "pgrain.staleness WHERE model = %s", [name]) == [(0, 0, 0, 0)]
    styled.execute("SELECT pgrain.create_intervention(%s, 'half', '{n / 2}')", [name])
    styled.execute("CALL pgrain.precompute(%s)", [name])
    assert styled.rows("SELECT precomputed, changed_rows, stale_rows FROM pgrain.interventions "
                       "WHERE model = %s", [name]) == [(True, 79, 0)]
    assert styled.rows("SELECT * FROM pgrain.describe(%s, %s)", [name, ranked[:30]])
    statement, = styled.rows("SELECT * FROM pgrain.edits_sql(%s)", [name])[0]
    assert styled.execute(statement).rowcount == 1
    assert styled.value("SELECT pgrain.forget(%s, ARRAY[%s])", [name, ranked[0]]) == 1
