"""Somebody's event trigger refuses DDL: pgrain does without what it can, and says who it was."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

WATCHED = ("SELECT hour, count(*) AS n FROM goods WHERE pgrain.predict('colour', x) = 'red' "
           "GROUP BY hour")


@pytest.fixture(scope="module")
def shop(small):
    small.execute("CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS "
                  "$$ BEGIN RAISE EXCEPTION 'no % on Sundays', tg_tag; END $$")
    for table in ("goods", "wares"):
        small.execute(f"CREATE TABLE {table} AS SELECT id, x, hour FROM items")
    small.execute("GRANT SELECT ON goods TO pgrain_reader")
    return small


@contextlib.contextmanager
def refusing(shop, *tags: str):
    """An event trigger that refuses these commands."""
    shop.execute(f"CREATE EVENT TRIGGER sundays ON ddl_command_start WHEN TAG IN "
                 f"({', '.join(repr(tag) for tag in tags)}) EXECUTE FUNCTION refuse()")
    try:
        yield
    finally:
        shop.execute("DROP EVENT TRIGGER sundays")


def triggers(shop) -> int:
    return shop.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '\\_pgrain%'")


def test_attaching_does_without_its_trigger(shop):
    seen = []
    shop.connection.add_notice_handler(lambda notice: seen.append(notice.message_primary))
    before = triggers(shop)
    with refusing(shop, "CREATE TRIGGER"):
        shop.execute("CALL pgrain.attach('colour', 'goods')")
    assert any("could not be given a trigger (no CREATE TRIGGER on Sundays)" in text
               for text in seen), seen
    assert triggers(shop) == before
    assert shop.value("SELECT stored_values FROM pgrain.attached WHERE relation = "
                      "'goods'::regclass") == shop.value("SELECT count(DISTINCT x) FROM goods")
    shop.execute("SELECT pgrain._hint_at('goods')")
    assert triggers(shop) == before + 1
    with refusing(shop, "DROP TRIGGER"):
        shop.execute("SELECT pgrain.detach('colour', 'goods')")
        assert triggers(shop) == before + 1
        shop.execute("SELECT pgrain._tidy()")
    assert any("goods keeps its trigger for now (no DROP TRIGGER on Sundays)" in text
               for text in seen), seen
    assert not shop.value("SELECT count(*) FROM pgrain.attached WHERE relation = 'goods'::regclass")
    shop.execute("SELECT pgrain._tidy()")
    assert triggers(shop) == before


@pytest.mark.parametrize("tag, statement", [
    ("GRANT", "CALL pgrain.attach('colour', 'wares')"),
    ("GRANT", "SELECT pgrain.create_model('w', 'wares', 'id', '{x}', 'hour', 'mlp')"),
    ("CREATE TRIGGER", f"CALL pgrain.watch('w', $${WATCHED}$$)"),
    ("CREATE FUNCTION", f"CALL pgrain.watch('w', $${WATCHED}$$)"),
    ("CREATE SEQUENCE", f"CALL pgrain.watch('w', $${WATCHED}$$)"),
])
def test_who_may_have_refused_it_is_in_the_hint(shop, tag, statement):
    before = triggers(shop)
    with refusing(shop, tag), pytest.raises(psycopg.Error, match=f"no {tag} on Sundays") as caught:
        shop.execute(statement)
    assert caught.value.diag.message_hint.endswith(": sundays."), caught.value.diag.message_hint
    assert not shop.rows("SELECT FROM pgrain.watch")
    assert triggers(shop) == before


def test_a_watch_that_may_not_be_ended_stays_whole(shop):
    before = triggers(shop)
    shop.execute("CALL pgrain.watch('w', %s)", [WATCHED])
    with refusing(shop, "DROP FUNCTION"), \
            pytest.raises(psycopg.Error, match="no DROP FUNCTION on Sundays") as caught:
        shop.execute("SELECT pgrain.unwatch('w')")
    assert caught.value.diag.message_hint.endswith(": sundays.")
    shop.execute("INSERT INTO goods SELECT id, x, hour FROM items WHERE id < 9")
    assert shop.rows("SELECT output ->> 'hour', value FROM pgrain.provenance('w') ORDER BY 1") == [
        (str(hour), n) for hour, n in shop.rows(WATCHED + " ORDER BY 1")]
    shop.execute("SELECT pgrain.unwatch('w')")
    assert triggers(shop) == before
