"""Notes that no statement made: who made a watch may insert some for it (docs/dev/watches.md)."""

from __future__ import annotations

import contextlib
import time

import pytest
from psycopg import errors
from watch_checks import agree, folded

QUERY = "SELECT hour, count(*) AS n FROM {} WHERE pgrain.predict('colour', x) = 'red' GROUP BY hour"
COLUMNS = ("tags", "metas", "a", "b", "c")


def with_part(note: dict, tag: str, column: str, part) -> dict:
    """The note, another value in one place."""
    at = note["tags"].index(tag)
    return {**note, column: [*note[column][:at], part, *note[column][at + 1:]]}


FORGERIES = {
    "of no table": lambda note: {**note, "side": 1},
    "no columns": lambda note: dict.fromkeys(COLUMNS),
    "none of one": lambda note: {**note, "c": None},
    "fewer of one": lambda note: {**note, "b": note["b"][:-1]},
    "arrays of arrays": lambda note: {**note, "a": [[*note["a"]], [*note["a"]]]},
    "no tag": lambda note: {**note, "tags": [None, *note["tags"][1:]]},
    "unknown tags": lambda note: {**note, "tags": ["?" for _ in note["tags"]]},
    "half a number": lambda note: with_part(note, "factor:0", "a", b"\0"),
    "no numbers": lambda note: with_part(note, "factor:0", "a", None),
    "no JSON": lambda note: with_part(note, "group", "metas", "["),
    "nested without end": lambda note: with_part(note, "group", "metas", "[" * 100_000),
    "half a value": lambda note: with_part(note, "digest:0", "a", b"\0\0\0\x20\0"),
    "a value of no type": lambda note: with_part(note, "digest:0", "a", b"\0\0\0\x04\0\0\0\7"),
    "values without an end": lambda note: with_part(note, "digest:0", "a", b"\xff\xff\xff\xfc"),
    "two thousand million rows": lambda note: with_part(note, "factor:0", "a", b"\x7f\xff\xff\xff"),
    "a group of as many": lambda note: with_part(note, "group", "a", b"\x7f\xff\xff\xff"),
}


@pytest.fixture(scope="module")
def shop(small):
    small.execute("CREATE TABLE stock AS SELECT * FROM items; CREATE TABLE goods AS "
                  "SELECT * FROM items; CREATE ROLE forger LOGIN")
    small.execute("SELECT pgrain.grant_usage('forger', true)")
    small.execute("GRANT SELECT, TRIGGER ON stock TO forger")
    small.forger = small.connect("forger")
    small.forger.execute("CALL pgrain.watch('mine', %s)", [QUERY.format("stock")])
    small.execute("CALL pgrain.watch('theirs', %s)", [QUERY.format("goods")])
    small.execute("SELECT pgrain.grant_usage('forger', true)")
    yield small
    small.execute("SELECT pgrain.unwatch('mine'), pgrain.unwatch('theirs')")
    small.execute("DROP OWNED BY forger; DROP ROLE forger")


@contextlib.contextmanager
def held(shop, number: int):
    """The worker folds nothing of this watch meanwhile."""
    with shop.connect() as other, other.transaction():
        other.execute("SELECT FROM pgrain.watch_lock WHERE watch = %s FOR UPDATE", [number])
        yield


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_note_is_refused(shop, name):
    """22023 in the worker's log; readers get the query's answer, the watch is computed again."""
    number = shop.value("SELECT watch FROM pgrain.watch WHERE name = 'mine'")
    with held(shop, number):
        shop.execute("INSERT INTO stock SELECT * FROM items WHERE id = 3")
        note = dict(zip(COLUMNS, shop.rows(
            f"SELECT {', '.join(COLUMNS)} FROM pgrain.watch_note WHERE watch = %s", [number])[0],
            strict=True))
    folded(shop)
    began = len(shop.worker.log.read_text())
    seen = []
    shop.connection.add_notice_handler(lambda notice: seen.append(notice.message_primary))
    with held(shop, number):
        made = FORGERIES[name](note)
        shop.forger.execute(
            "INSERT INTO pgrain.watch_note (watch, side, sign, print, snapshot, xid, tags, metas, "
            "a, b, c) SELECT %s, %s, 1, %s, pg_current_snapshot(), pg_current_xact_id(), "
            "%s::text[], %s::text[], %s::bytea[], %s::bytea[], %s::bytea[]",
            [number, made.get("side", 0), shop.value(
                "SELECT notes_print FROM pgrain.watch_state WHERE watch = %s", [number]),
             *(made[column] for column in COLUMNS)])
        shop.execute("SET statement_timeout = '20s'")
        agree(shop, "mine", QUERY.format("stock"))
        shop.rows("SELECT * FROM pgrain.complain('mine', 'n too high')")
        shop.execute("RESET statement_timeout")
        assert any('watch "mine" is to be computed again (' in text
                   for text in seen), seen
    shop.execute("INSERT INTO goods SELECT * FROM items WHERE id < 20")
    deadline = time.monotonic() + 30
    while not shop.value("SELECT bool_and(current) AND sum(pending_notes) = 0 FROM pgrain.watches"):
        assert time.monotonic() < deadline, "the watches are not kept up"
        time.sleep(0.1)
    agree(shop, "mine", QUERY.format("stock"))
    agree(shop, "theirs", QUERY.format("goods"))
    log = shop.worker.log.read_text()[began:]
    assert "notes refused" in log and "22023" in log, log
    assert "Traceback" not in log


def test_a_row_of_nonsense_is_no_watch(shop):
    """What everybody's look at all watches reads has the form that it expects."""
    for settings in ("1", "{}", '{"search_path": "public"}'):
        with pytest.raises(errors.CheckViolation):
            shop.forger.execute(
                "INSERT INTO pgrain.watch (name, query, settings, model, fact, tables, functions, "
                "plain, note_new, note_old, shape) SELECT 'nonsense', query, %s::jsonb, model, "
                "fact, tables, functions, plain, note_new, note_old, shape FROM pgrain.watch "
                "WHERE name = 'mine'", [settings])
    assert shop.value("SELECT count(*) FROM pgrain.watches") == 2


def test_a_watch_that_fails_stops_no_other(shop):
    """Its alert has become one that no notification can carry."""
    shop.execute("UPDATE pgrain.watch SET alert = repeat(' ', 9000) || 'n > 0' WHERE name = 'mine'")
    try:
        shop.execute("INSERT INTO stock SELECT * FROM items WHERE id < 20")
        time.sleep(1)
        shop.execute("INSERT INTO goods SELECT * FROM items WHERE id < 20")
        deadline = time.monotonic() + 20
        while not shop.value("SELECT current AND pending_notes = 0 FROM pgrain.watches "
                             "WHERE name = 'theirs'"):
            assert time.monotonic() < deadline, "the other watch is not kept up"
            time.sleep(0.1)
        for name, table in (("mine", "stock"), ("theirs", "goods")):
            agree(shop, name, QUERY.format(table))
    finally:
        shop.execute("UPDATE pgrain.watch SET alert = NULL WHERE name = 'mine'")
