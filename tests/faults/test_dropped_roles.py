"""Roles leave: what they attached, watched and made stays usable, and can be taken away."""

from __future__ import annotations

import time

import psycopg
import pytest

ALICE = "leaving"
QUERY = ("SELECT hour, count(*) AS reds FROM stock WHERE pgrain.predict('colour', x) = 'red' "
         "GROUP BY hour")
ORDERED = f"SELECT hour, reds::float8 FROM ({QUERY}) AS q ORDER BY 1"
WATCHED = ("SELECT (output ->> 'hour')::int, value FROM pgrain.provenance('{}') "
           "WHERE output_column = 'reds' ORDER BY 1")


def same(database, watched: str, query: str) -> None:
    """At every moment from now until the watch has been computed anew."""
    for _ in range(100):
        assert database.rows(watched) == database.rows(query)
        time.sleep(0.05)


@pytest.fixture
def leaving(small):
    """The role's own session, and what its departure takes."""
    small.execute(f"CREATE ROLE {ALICE} LOGIN")
    small.execute(f"SELECT pgrain.grant_usage('{ALICE}', true)")
    small.execute("CREATE TABLE stock AS SELECT id, x, hour FROM items WHERE x IS NOT NULL")
    small.execute(f"GRANT SELECT, TRIGGER ON stock TO {ALICE} WITH GRANT OPTION")
    session = small.connect(ALICE)

    def leave():
        session.close()
        small.execute(f"REASSIGN OWNED BY {ALICE} TO postgres")
        small.execute(f"DROP OWNED BY {ALICE}")
        small.execute(f"DROP ROLE {ALICE}")
    yield session, leave
    session.close()
    small.execute("DROP TABLE stock CASCADE")
    if small.value("SELECT count(*) FROM pg_roles WHERE rolname = %s", [ALICE]):
        leave()


def test_what_a_role_attached_and_watched_outlives_it(small, leaving):
    session, leave = leaving
    session.execute("CALL pgrain.attach('colour', 'stock')")
    session.execute(f"CALL pgrain.watch('left', $$ {QUERY} $$)")
    query, watched = ORDERED, WATCHED.format("left")
    assert small.rows(watched) == small.rows(query)
    leave()
    # others go on attaching, and nobody's statement fails
    small.execute("CREATE TABLE later AS SELECT x FROM items")
    small.execute("CALL pgrain.attach('colour', 'later')")
    small.execute("INSERT INTO stock SELECT id + 5000, x, hour FROM stock WHERE id < 30")
    same(small, watched, query)
    # ... and goes to whom its functions were given
    assert small.value("SELECT owner FROM pgrain.watches WHERE name = 'left'") == "postgres"
    assert all(row[1] for row in small.rows("SELECT what, ok FROM pgrain.doctor()"
                                            " WHERE what LIKE 'watch%'"))
    small.execute("SELECT pgrain.detach('colour', 'stock')")
    small.execute("SELECT pgrain.unwatch('left')")
    assert small.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '_pgrain%' "
                       "AND tgrelid = 'stock'::regclass") == 0
    small.execute("SELECT pgrain.detach('colour', 'later')")
    small.execute("DROP TABLE later")


def test_changes_under_way_while_a_watch_goes_to_another_role(small, leaving):
    """They are noted as the last owner, whose notes count for nothing any more."""
    session, leave = leaving
    session.execute(f"CALL pgrain.watch('handed', $$ {QUERY} $$)")
    query, watched = ORDERED, WATCHED.format("handed")
    current = "SELECT current FROM pgrain.watches WHERE name = 'handed'"
    try:
        with psycopg.connect(small.dsn()) as under_way:
            under_way.execute("INSERT INTO stock SELECT id + 5000, x, hour FROM stock "
                              "WHERE id < 30")
            small.execute(f"REASSIGN OWNED BY {ALICE} TO postgres")
            time.sleep(4)       # the worker has looked
            assert not small.value(current)
        same(small, watched, query)
        deadline = time.monotonic() + 30
        while not small.value(current):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert small.rows(watched) == small.rows(query)
        assert small.value("SELECT count(*) FROM pgrain.watch_note") == 0
    finally:
        small.execute("SELECT pgrain.unwatch('handed')")


def test_a_renamed_role_keeps_its_watches(small, leaving):
    """Another role of the old name has nothing of it."""
    session, _ = leaving
    session.execute(f"CALL pgrain.watch('renamed', $$ {QUERY} $$)")
    small.execute("INSERT INTO stock SELECT id + 7000, x, hour FROM stock WHERE id < 30")
    small.execute(f"ALTER ROLE {ALICE} RENAME TO renamed")
    small.execute(f"CREATE ROLE {ALICE}")
    small.execute(f"SELECT pgrain.grant_usage('{ALICE}', true)")
    try:
        small.execute("INSERT INTO stock SELECT id + 9000, x, hour FROM stock WHERE id < 40")
        same(small, WATCHED.format("renamed"), ORDERED)
        assert small.value("SELECT owner FROM pgrain.watches WHERE name = 'renamed'") == "renamed"
        # Where its triggers are made again, its row has the new name, for the next dump.
        small.execute("ALTER TABLE stock DISABLE TRIGGER ALL")
        deadline = time.monotonic() + 30
        while small.value("SELECT owner FROM pgrain.watch WHERE name = 'renamed'") != "renamed":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        same(small, WATCHED.format("renamed"), ORDERED)
        with small.connect() as thief:
            thief.execute(f"SET ROLE {ALICE}")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                thief.execute("SELECT pgrain.unwatch('renamed')")
            assert thief.execute("DELETE FROM pgrain.watch WHERE name = 'renamed'").rowcount == 0
            thief.execute("SET ROLE renamed")
            thief.execute("SELECT pgrain.unwatch('renamed')")
    finally:
        small.execute(f"DROP OWNED BY {ALICE}; DROP ROLE {ALICE}")
        small.execute(f"ALTER ROLE renamed RENAME TO {ALICE}")


def test_a_watch_knows_when_its_owner_may_note_nothing(small, leaving):
    session, _ = leaving
    session.execute(f"CALL pgrain.watch('robbed', $$ {QUERY} $$)")
    small.execute(f"REVOKE ALL ON pgrain.watch_note FROM {ALICE}")
    small.execute("INSERT INTO stock SELECT id + 5000, x, hour FROM stock WHERE id < 30")
    assert small.rows(WATCHED.format("robbed")) == small.rows(ORDERED)      # at once
    same(small, WATCHED.format("robbed"), ORDERED)
    small.execute("SELECT pgrain.unwatch('robbed')")
