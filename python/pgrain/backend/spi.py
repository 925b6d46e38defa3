"""What every entry point needs of PostgreSQL: errors both ways, prepared plans, interrupts."""

from __future__ import annotations

import functools
import json
import re
from collections import OrderedDict
from contextlib import contextmanager

from pgrain.errors import InsufficientPrivilege, InvalidArgument, PgrainError, ReadOnly

PREPARED = 256      # statements of our own that a session keeps prepared; there are about a hundred
_plans: OrderedDict[tuple, object] = OrderedDict()
_DENIED = (r"permission denied for (?:schema|table|view|sequence|function|procedure) "
           r'"?(.+?)"?$')
_IN_PGRAIN = """
SELECT $1 OPERATOR(pg_catalog.=) 'pgrain' OR EXISTS (
    SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'pgrain' AND c.relname::text = $1) OR EXISTS (
    SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = 'pgrain' AND p.proname::text = $1) AS found"""
_CALLER = """
SELECT pg_catalog.quote_literal(current_user) AS role, coalesce(pg_catalog.bool_or(
    pg_catalog.has_function_privilege(p.oid, 'EXECUTE')), false) AS admin
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'pgrain' AND p.proname IN ('complain', 'create_model')"""
# Who writes is given a transaction id, and one for each subtransaction that writes; each is locked.
# Asked apart: a statement that could read the locks takes three times as long where it does not.
_WRITES = "SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL AS writes"
_WRITERS = """
SELECT pg_catalog.count(*) AS n FROM pg_catalog.pg_locks
WHERE locktype OPERATOR(pg_catalog.=) 'transactionid'
AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
AND mode OPERATOR(pg_catalog.=) 'ExclusiveLock' AND granted"""


def prepared(plpy, sql: str, *types: str):
    """The plan of `sql`, one of our own statements, prepared once a session. What depends on a
    caller's query is kept with what is known of that (`complain.Known`), and goes with it."""
    key = (sql, types)
    plan = _plans.get(key)
    if plan is None:
        plan = _plans[key] = plpy.prepare(sql, list(types))
        while len(_plans) > PREPARED:       # PostgreSQL frees a plan that nobody names any more
            _plans.popitem(last=False)
    return plan


def query(plpy, sql: str, types=(), arguments=()):
    """Rows (dicts) of one of our own statements. Where the caller lacks a right to what is
    pgrain's, 42501 with who is to be granted what."""
    try:
        return plpy.execute(prepared(plpy, sql, *types), list(arguments))
    except plpy.SPIError as error:
        if getattr(error, "sqlstate", None) == "42501" and _of_pgrain(plpy, str(error)):
            raise _not_granted(plpy, error) from None
        raise


def _of_pgrain(plpy, message: str) -> bool:
    """Whether it is about something in schema pgrain. (PostgreSQL names no schema there.)"""
    found = re.match(_DENIED, message)
    return found is not None and plpy.execute(
        prepared(plpy, _IN_PGRAIN, "text"), [found[1]])[0]["found"]


def _not_granted(plpy, error) -> InsufficientPrivilege:
    """`grant_usage` as whoever lacks what it gives: an admin's rights, where there are a user's."""
    row = plpy.execute(prepared(plpy, _CALLER))[0]
    admin = ", admin => true" if row["admin"] else ""
    return InsufficientPrivilege(
        str(error), hint=f"A superuser can run SELECT pgrain.grant_usage({row['role']}{admin}), "
                         "again after an upgrade.")


def fetch_all(plpy, source, arguments=None, size: int = 20_000):
    """All rows of one SELECT through a cursor, which refuses several statements."""
    cursor = plpy.cursor(source, arguments) if arguments is not None else plpy.cursor(source)
    rows = []
    while True:
        batch = cursor.fetch(size)
        rows.extend(batch)
        if len(batch) < size:
            cursor.close()
            return rows


def json_object(text: str, what: str = "options") -> dict:
    """A JSON object; 22023 for other JSON, or where it is nested too deep."""
    try:
        fields = json.loads(text)
    except RecursionError:
        raise InvalidArgument(f"{what} is nested too deep") from None
    if not isinstance(fields, dict):
        raise InvalidArgument(f"{what} is not a JSON object")
    return fields


def check_interrupts(plpy) -> None:
    """Raise if this statement is to stop. An SPI call checks; `plpy.debug` would not."""
    plpy.execute(prepared(plpy, "SELECT 1"))


def from_postgres(error) -> PgrainError:
    """A plpy.SPIError as ours: the same SQLSTATE, DETAIL and HINT, our own prefix taken off."""
    data = getattr(error, "spidata", None)
    message = str(error)
    sqlstate, detail, hint = "XX000", None, None
    if data:
        sqlstate, detail, hint = _unpack_sqlstate(data[0]), data[1], data[2]
    if message.startswith("pgrain: "):
        message = message[len("pgrain: "):]
    return PgrainError(message, detail=detail, hint=hint, sqlstate=sqlstate)


def refused(plpy, error, what: str) -> PgrainError:
    """A plpy.SPIError of a statement of ours that creates, drops or grants something, as ours;
    `what` says what for. Where nothing else tells what to do, the hint names the event triggers of
    this database, which may have refused it."""
    failure = from_postgres(error)
    if failure.hint is None and failure.sqlstate[:2] not in ("40", "53", "55", "57"):
        names = query(plpy, """
            SELECT pg_catalog.string_agg(pg_catalog.quote_ident(evtname), ', ' ORDER BY evtname)
                AS names FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D'
            AND evtevent IN ('ddl_command_start', 'ddl_command_end', 'sql_drop')""")[0]["names"]
        if names is not None:
            failure.hint = f"{what}, and that is what an event trigger may refuse: {names}."
    return failure


def to_postgres(plpy, error: PgrainError):
    """The exception that makes PL/Python report exactly ``pgrain: <message>``.

    PL/Python prints ``<module>.<type>: <text>`` and leaves the module out when it is "builtins";
    it reads SQLSTATE, DETAIL and HINT from attributes of any subclass of plpy.Error.
    """
    kind = type("pgrain", (plpy.Error,), {"__module__": "builtins"})
    exception = kind(error.message)
    exception.sqlstate = error.sqlstate
    exception.detail = error.detail
    exception.hint = error.hint
    return exception


def entry_point(function):
    """Translate errors once, here: ours and those of SPI. 22023 for an array of arrays, which no
    argument is."""
    @functools.wraps(function)
    def wrapper(plpy, *arguments):
        try:
            for argument in arguments:
                if type(argument) is list and argument and type(argument[0]) is list:
                    raise InvalidArgument("expected an array of one dimension")
            return function(plpy, *arguments)
        except PgrainError as error:
            failure = error
        except plpy.SPIError as error:
            failure = from_postgres(error)
        except plpy.Error:
            raise   # one of ours already, from an entry point within this one
        except Exception as error:
            failure = PgrainError(f"{type(error).__name__}: {error}",
                                  hint="This is a defect of pgrain.")
        raise to_postgres(plpy, failure) from None
    return wrapper


class _Done(Exception):
    """Ends a subtransaction that is never to be committed."""


def writes_nothing(function):
    """Run an entry point in a subtransaction that is always rolled back.

    Whatever functions the caller's query calls, nothing that they write stays, and that they wrote
    is an error (25006). Before PostgreSQL 16 the attempt is one already (sql/82_read_only.sql), but
    for temporary tables; since then a transaction can only be told to be read-only by a statement,
    and PL/Python runs each statement in a subtransaction, with which that ends.
    """
    @functools.wraps(function)
    def wrapper(plpy, *arguments):
        result = None
        try:
            with plpy.subtransaction():
                with _no_writer(plpy):
                    result = function(plpy, *arguments)
                raise _Done
        except _Done:
            return result
    return wrapper


@contextmanager
def only_reads(plpy):
    """25006 if what runs in here writes. In a subtransaction of its own, which holds an id as soon
    as something in it has written; the ids of those within are given up when they end."""
    with plpy.subtransaction(), _no_writer(plpy):
        yield


@contextmanager
def _no_writer(plpy):
    """25006 if the transaction, its subtransactions included, holds more ids afterwards."""
    before = _writers(plpy)
    yield
    if _writers(plpy) != before:
        raise ReadOnly("the query writes", detail="A function that it calls wrote, whatever its "
                       "mark says. What it wrote is undone.", hint="Only ask about queries that "
                       "read.")


def _writers(plpy) -> int:
    if not plpy.execute(prepared(plpy, _WRITES))[0]["writes"]:
        return 0
    return plpy.execute(prepared(plpy, _WRITERS))[0]["n"]


def _unpack_sqlstate(code: int) -> str:
    return "".join(chr(((code >> (6 * i)) & 0x3F) + ord("0")) for i in range(5))
