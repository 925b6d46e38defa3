"""Every function and procedure of pgrain's, with arguments that nobody would give: an answer or an
error that says what is wrong, soon, never a defect. All of it in transactions that are undone."""

from __future__ import annotations

import itertools

import psycopg
import pytest

REPORT = ("SELECT hour, count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'red' "
          "GROUP BY hour")
TEXTS = ["''", "' '", "'x'", "repeat('y', 100000)", "''''", "'\"'", "E'\\u0001'", "'größe 😀'",
         "'%s{}\\'", "'SELECT 1'", "'null'", "'{}'", "'n'", "'n = NaN'", "'n <= -1e400'",
         "'colour'", "'items'", "'delete'", "'relabel:'", "'relabel:red'", "'any'"]
LISTS = ["'{}'", "'{NULL}'", "'{\"\"}'", "'[0:1]={1,2}'", "'{{1,2},{3,4}}'", "'{1,1,1}'",
         "'{n too high,n too low}'", "array_fill('x'::text, ARRAY[3000])"]
NUMBERS = ["0", "-1", "1", "2147483647"]
ODD_JSON = ["'null'", "'[]'", "'1'", "'\"x\"'", "'{\"\": 1}'", "'{\"nothing\": 1}'",
            *(f"(repeat('{{\"a\":', {depth}) || '1' || repeat('}}', {depth}))"
              for depth in (200, 900, 3000))]
OPTIONS = ["among", "plausible", "method", "k", "damping", "filter", "normalize", "verify", "rows",
           "margin", "budget", "level", "most", "precision", "recall", "rounds", "train",
           "precompute", "alpha", "epochs", "shape", "table", "word", "replacement", "value"]
ODD_VALUES = ["null", "-1", "0", "1.5", "1e300", "99999999999999999999", '"x"', "[]", "[1]", "{}",
              "true", '["red"]']
ODD = {
    "text": TEXTS, "name": TEXTS, "text[]": LISTS, "name[]": LISTS,
    "integer": NUMBERS, "smallint": NUMBERS[:3], "boolean": ["true", "false"],
    "bigint": [*NUMBERS, "9223372036854775807", "-9223372036854775808"],
    "oid": ["0", "1", "4294967295"], "oid[]": ["'{}'", "'{NULL}'", "'{0}'"],
    "regclass": ["0", "'pg_class'", "'pgrain.jobs'", "'pgrain.job_job_seq'", "'train_pkey'"],
    "regclass[]": ["'{}'", "'{NULL}'", "'{0}'"],
    "aclitem[]": ["'{}'"],
    "bytea": ["''", "'\\x00'", "'\\x50475641'", "decode(repeat('ff', 5000), 'hex')"],
    "double precision[]": ["'{}'", "'{NULL,1}'", "'{NaN,1}'", "'{Infinity,1}'", "'{1e308,-1e308}'",
                           "'{{1,2},{3,4}}'", "'[0:1]={1,2}'", "'{1}'", "'{1,2,3}'"],
    "jsonb": [*ODD_JSON, *("'{{\"{}\": {}}}'".format(*pair)
                           for pair in itertools.product(OPTIONS, ODD_VALUES))],
    "record": ["ROW()", "ROW(1, 'x')", "ROW(NULL)"],
}
# What stands in the other places meanwhile, by the argument's name.
SANE = {
    "model": "'colour'", "name": "'a name'", "query": f"$q${REPORT}$q$", "x": None,
    "complaint": "'n too high'", "complaint[]": "'{n too high}'", "intervention": "'delete'",
    "train_keys": "'{999999}'", "train_key": "'3'", "options": "'{}'", "training_table": "'train'",
    "key": "'id'", "features": "'{x}'", "label": "'label'", "architecture": "'mlp'",
    "relation": "'items'", "wait": "false", "format": "'TEXT'", "role": "'pgrain_reader'",
}


@pytest.fixture(scope="module")
def routines(small):
    return small.rows("""
        SELECT p.proname, p.prokind::text, coalesce(p.proargnames, '{}')::text[],
               ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) AS t)
        FROM pg_proc p WHERE p.pronamespace = 'pgrain'::regnamespace
          AND p.prorettype <> 'trigger'::regtype AND p.proname !~ '^_watch_[0-9]'
        ORDER BY p.proname, p.oid""")


def calls(name, kind, names, types):
    """Statements: each argument in turn is something odd, the others are what is usual."""
    def usual(number):
        argument, of = names[number] if number < len(names) else "", types[number]
        given = SANE.get(argument + "[]" if of.endswith("[]") and argument + "[]" in SANE
                         else argument)
        return f"({given or ODD[of][-1]})::{of}"

    for at, of in enumerate(types):
        for odd in ["NULL", *ODD[of]]:
            given = [f"({odd})::{of}" if number == at else usual(number)
                     for number in range(len(types))]
            yield (f"CALL pgrain.{name}({', '.join(given)})" if kind == "p" else
                   f"SELECT * FROM pgrain.{name}({', '.join(given)})")
    if not types:
        yield f"SELECT * FROM pgrain.{name}()"


def test_no_argument_is_a_defect(small, routines):
    session = small.connect()
    session.autocommit = False
    wrong, number = [], 0
    for name, kind, names, types in routines:
        for statement in calls(name, kind, names, types):
            number += 1
            try:
                session.execute("SET LOCAL statement_timeout = '20s'")
                session.execute(statement).fetchall()
            except psycopg.ProgrammingError as error:
                if error.sqlstate is not None and error.sqlstate[:2] == "XX":
                    wrong.append((statement, str(error)))
            except psycopg.Error as error:
                if error.sqlstate is None or error.sqlstate[:2] == "XX" or \
                        error.sqlstate in ("57014", "57P01", "57P02"):
                    wrong.append((statement, str(error)))
            session.rollback()
    assert number > 1000
    assert not wrong, f"{len(wrong)} of {number}: " + "\n".join(
        f"{statement[:200]}\n    {error[:300]}" for statement, error in wrong[:40])
