"""Rows of pgrain.watch and pgrain.watch_state, as the worker alone changes them."""

from __future__ import annotations

import json

import psycopg

LOCK_CLASS = 0x70677277   # "pgrw": advisory locks of watches are (this, number of the watch)
CHANGES = 256


def renew(connection: psycopg.Connection, made: dict) -> None:
    """What a watch's query reads, and the statements that note changes, are others by now."""
    with connection.transaction():
        connection.execute("""
            UPDATE pgrain.watch SET fact = %(fact)s::oid::regclass,
                tables = %(oids)s::oid[]::regclass[], plain = %(plain)s,
                note_new = %(note_new)s, note_old = %(note_old)s, shape = %(shape)s::jsonb
            WHERE watch = %(watch)s""", {**made, "shape": json.dumps(made["shape"])})
        connection.execute("SELECT pgrain._make_watch_functions(%s)", [made["watch"]])


def bury(connection: psycopg.Connection, number: int) -> None:
    """A state that does not stand and cannot be computed again now: it is never to be taken for
    right, also if what was altered becomes what it was; and notes for it are not kept, or they
    would grow without end. Nothing, where it may yet be folded into."""
    with connection.transaction():
        if not connection.execute("SELECT pg_try_advisory_xact_lock(%s, %s) AS mine",
                                  [LOCK_CLASS, number & 0x7FFFFFFF]).fetchone()["mine"]:
            return
        state = connection.execute("""
            SELECT changes, before::text AS before FROM pgrain.watch_state s
            WHERE watch = %s AND (s.print IS DISTINCT FROM pgrain._watch_print(watch) OR EXISTS (
                SELECT FROM pgrain.watch_note n WHERE n.watch = s.watch AND n.sign = 0))
            FOR UPDATE""", [number]).fetchone()
        if state is None:
            return
        changes, before = trimmed([*state["changes"], *(
            row["xid"] for row in connection.execute(
                "DELETE FROM pgrain.watch_note WHERE watch = %s RETURNING sign, xid::text AS xid",
                [number]).fetchall() if row["sign"] == 0)], state["before"])
        # Who computes it meanwhile, from a snapshot that does not see these notes, begins again.
        connection.execute("UPDATE pgrain.watch_state SET print = '', changes = %s, "
                           "before = %s::text::xid8, generation = generation + 1 WHERE watch = %s",
                           [changes, before, number])


def trimmed(changes: list[str], before: str | None) -> tuple[list[str], str]:
    """The latest of these transactions, and the number up to which all others are."""
    changes = sorted(set(changes), key=int)
    return changes[-CHANGES:], str(max([int(before or 0), *map(int, changes[:-CHANGES])]))
