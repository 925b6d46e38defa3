"""Rows of pgrain.watch and pgrain.watch_state, as the worker alone changes them."""

from __future__ import annotations

import json

import psycopg

CHANGES = 256


def lock(connection: psycopg.Connection, number: int, *, wait: bool = False) -> bool:
    """In a transaction, whose end gives it up: nobody else changes the watch's state or takes its
    notes away. False where somebody does, if not `wait`."""
    return connection.execute(
        "SELECT FROM pgrain.watch_lock WHERE watch = %s FOR UPDATE"
        + ("" if wait else " SKIP LOCKED"), [number]).rowcount > 0


def renew(connection: psycopg.Connection, made: dict) -> None:
    """What a watch's query reads, and the statements that note changes, are others by now."""
    with connection.transaction():
        connection.execute("""
            UPDATE pgrain.watch SET fact = %(fact)s::oid::regclass,
                tables = %(oids)s::oid[]::regclass[], plain = %(plain)s,
                note_new = %(note_new)s, note_old = %(note_old)s,
                second = %(second)s::oid::regclass, second_new = %(second_new)s,
                second_old = %(second_old)s, shape = %(shape)s::jsonb
            WHERE watch = %(watch)s""", {**made, "shape": json.dumps(made["shape"])})
        connection.execute("SELECT pgrain._make_watch_functions(%s)", [made["watch"]])


def bury(connection: psycopg.Connection, number: int) -> None:
    """A state that does not stand and cannot be computed again now: it is never to be taken for
    right, also if what was altered becomes what it was; and notes for it are not kept, or they
    would grow without end. Nothing, where it may yet be folded into.

    Where no more was noted (`pgrain._watch_cut`), or notes were another owner's, a new epoch
    begins, and the state is *draining*: those who have left no note that counts may still be under
    way (`writers`, `drained`)."""
    with connection.transaction():
        if not lock(connection, number):
            return
        # Nothing says of a watch without a state that it is draining.
        connection.execute("""
            INSERT INTO pgrain.watch_state (watch, generation, version, pairs, notes_print, print,
                                            changes, epoch, owner)
            SELECT watch, floor(extract(epoch FROM clock_timestamp()) * 1e6)::bigint, 0, 0, '', '',
                   '{}', 1, 0 FROM pgrain.watch w WHERE watch = %s
            AND pgrain._watch_cut(watch) %% 2 = 1
            AND NOT EXISTS (SELECT FROM pgrain.watch_state s WHERE s.watch = w.watch)
            ON CONFLICT DO NOTHING""", [number])
        state = connection.execute("""
            SELECT * FROM (
                SELECT changes, before::text AS before, draining, epoch, print, version,
                       pgrain._watch_cut(watch) IS DISTINCT FROM epoch
                       OR owner <> pgrain._watch_owner(watch) AS cut
                FROM pgrain.watch_state s WHERE watch = %(watch)s FOR UPDATE) AS s
            WHERE cut OR print IS DISTINCT FROM pgrain._watch_print(%(watch)s) OR EXISTS (
                SELECT FROM pgrain.watch_note n WHERE n.watch = %(watch)s AND n.sign = 0)
            OR NOT EXISTS (SELECT FROM pgrain.model_version v WHERE v.version = s.version)
            """, {"watch": number}).fetchone()
        if state is None:
            return
        gone = connection.execute("DELETE FROM pgrain.watch_note WHERE watch = %s RETURNING sign, "
                                  "xid::text AS xid", [number]).fetchall()
        changes = [*state["changes"], *(row["xid"] for row in gone if row["sign"] == 0)]
        epoch = state["epoch"]
        if state["cut"]:
            epoch = connection.execute("SELECT pgrain._note_again(%s) AS epoch",
                                       [number]).fetchone()["epoch"]
        # Who computes it meanwhile, from a snapshot that does not see these notes, begins again.
        _replace(connection, number, changes, state["before"], epoch,
                 state["cut"] or state["draining"])


def problem(connection: psycopg.Connection, number: int, why: str | None) -> None:
    """What `pgrain.watches.problem` says: why a state cannot be computed; None: it has been.
    Whoever ends the watch at this moment is not waited for."""
    try:
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '100ms'")
            if why is None:
                connection.execute("DELETE FROM pgrain.watch_problem WHERE watch = %s", [number])
            else:
                connection.execute(
                    "INSERT INTO pgrain.watch_problem (watch, problem) SELECT watch, %s "
                    "FROM pgrain.watch WHERE watch = %s ON CONFLICT (watch) DO UPDATE "
                    "SET problem = excluded.problem "
                    "WHERE watch_problem.problem <> excluded.problem", [why, number])
    except psycopg.errors.LockNotAvailable:
        pass


def writers(connection: psycopg.Connection, number: int) -> dict[str, str | None]:
    """The transactions that hold a writer's lock on a table of a watch, with their numbers, where
    they have one: who saw that nothing more is noted is among them until it ends."""
    return {row["writer"]: row["xid"] for row in connection.execute(_WRITERS, [number]).fetchall()}


def under_way(then: dict[str, str | None], now: dict[str, str | None]) -> bool:
    """Whether one of those `writers` is still among these. A prepared one has another name when the
    server has been restarted, and its number."""
    return bool(then.keys() & now.keys()
                or {xid for xid in then.values() if xid} & set(now.values()))


def drained(connection: psycopg.Connection, number: int, generation: int) -> bool:
    """All those have ended that were under way when the state had this generation: whoever
    computes it from now on sees what they did. What was noted in a snapshot before this
    transaction may lack that, and counts for nothing."""
    with connection.transaction():
        state = connection.execute(
            "SELECT changes, before::text AS before, epoch, pg_current_xact_id()::text AS here "
            "FROM pgrain.watch_state WHERE watch = %s AND draining AND generation = %s FOR UPDATE",
            [number, generation]).fetchone()
        if state is None:
            return False
        _replace(connection, number, [*state["changes"], state["here"]], state["before"],
                 state["epoch"], False)
        return True


def _replace(connection, number: int, changes: list[str], before: str, epoch: int,
             draining: bool) -> None:
    changes, before = trimmed(changes, before)
    connection.execute(
        "UPDATE pgrain.watch_state SET print = '', changes = %s, before = %s::text::xid8, "
        "generation = generation + 1, epoch = %s, draining = %s, "
        "owner = coalesce(pgrain._watch_owner(watch), owner) WHERE watch = %s",
        [changes, before, epoch, draining, number])


# Rows are written under a RowExclusiveLock, TRUNCATE takes an AccessExclusiveLock. A number in
# pg_locks is the lower half of a transaction's.
_WRITERS = """
WITH RECURSIVE tree (oid) AS (
    SELECT t::oid FROM pgrain.watch w, unnest(w.tables) AS t WHERE w.watch = %s
    UNION
    SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid),
next (number) AS (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::numeric)
SELECT l.virtualtransaction AS writer, min(
    x.transactionid::text::numeric + 4294967296 * floor(
        (number + 2147483648 - x.transactionid::text::numeric) / 4294967296))::text AS xid
FROM next, pg_locks l JOIN tree ON tree.oid = l.relation
LEFT JOIN pg_locks x ON x.virtualtransaction = l.virtualtransaction AND x.granted
    AND x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock'
WHERE l.locktype = 'relation' AND l.granted
    AND l.mode IN ('RowExclusiveLock', 'AccessExclusiveLock') AND l.database = (
        SELECT oid FROM pg_database WHERE datname = current_database())
GROUP BY l.virtualtransaction"""


def trimmed(changes: list[str], before: str | None) -> tuple[list[str], str]:
    """The latest of these transactions, and the number up to which all others are."""
    changes = sorted(set(changes), key=int)
    return changes[-CHANGES:], str(max([int(before or 0), *map(int, changes[:-CHANGES])]))
