"""Compares watches with their queries."""

from __future__ import annotations

import contextlib
import time

import pytest
from psycopg import errors

CONFLICTS = (errors.LockNotAvailable, errors.DeadlockDetected, errors.InFailedSqlTransaction)


def cells(database, query, keys=("hour",)):
    """{(keys of the row, column): (value, relaxed)} of pgrain.provenance."""
    return {(str([output.get(key) for key in keys]), column): (value, relaxed)
            for output, column, value, relaxed in database.execute(
                "SELECT output, output_column, value, relaxed FROM pgrain.provenance(%s, true)",
                [query]).fetchall()}


def agree(database, name, query, keys=("hour",)):
    """The watch and its query, cell by cell, as of one snapshot."""
    with database.connect() as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        agree_in(connection, name, query, keys)


def agree_in(connection, name, query, keys=("hour",)):
    """The same in a transaction that is under way, which sees what it has changed itself."""
    standing, scratch = cells(connection, name, keys), cells(connection, query, keys)
    assert standing.keys() == scratch.keys()
    for key, numbers in scratch.items():
        # A value that is not stored is predicted in float32, in whatever batch it comes, and again
        # after the worker was killed: the relaxed cells agree as far as such predictions do.
        for mine, theirs, digits in zip(standing[key], numbers, (1e-9, 1e-6), strict=True):
            assert (mine is None) == (theirs is None), key
            assert mine is None or mine == pytest.approx(theirs, rel=digits, abs=1e-12), (
                key, standing[key], numbers)


def folded(database):
    deadline = time.monotonic() + 20
    while database.value("SELECT count(*) FROM pgrain.watch_note"):
        assert time.monotonic() < deadline, "notes are not folded"
        time.sleep(0.05)


def until_current(database, seconds=20):
    deadline = time.monotonic() + seconds
    while not database.value("SELECT bool_and(current) FROM pgrain.watches"):
        assert time.monotonic() < deadline, database.rows("SELECT * FROM pgrain.watches")
        time.sleep(0.1)


def wander(rng, session, change, conflicts=CONFLICTS):
    """One step of a session with an open transaction: a change, one that is rolled back to a
    savepoint, a change of the other table, the end of the transaction; it is rolled back where
    others are in the way."""
    try:
        action = rng.random()
        if action < 0.6:
            change(rng, session)
        elif action < 0.7:
            with contextlib.suppress(ZeroDivisionError), session.transaction():
                change(rng, session)
                raise ZeroDivisionError    # rolled back to a savepoint
        elif action < 0.75:
            session.execute("UPDATE hours SET name = name || '*' WHERE hour = %s",
                            [rng.randrange(8)])
        elif action < 0.9:
            session.commit()
        else:
            session.rollback()
    except conflicts:
        session.rollback()
