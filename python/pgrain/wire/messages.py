"""Messages: the kinds of frames and what their headers hold. See docs/dev/protocol.md."""

from __future__ import annotations

import os

from pgrain.errors import PgrainError, ProtocolViolation

HELLO = 1      # client: {version, database, server, session}
WELCOME = 2    # worker: {version, pid, device}
REQUEST = 3    # client: {id, method, params}
RESULT = 4     # worker: {id, result}
ERROR = 5      # worker: {id, error: {sqlstate, message, detail, hint}}

KINDS = {HELLO: "hello", WELCOME: "welcome", REQUEST: "request", RESULT: "result", ERROR: "error"}


def hello(version: str, database: str, server: str | None = None) -> dict:
    """What a session says first: its extension's version, its database, which of that name it
    is (of which run of which server; None: whichever), its process id."""
    return {"version": version, "database": database, "server": server, "session": os.getpid()}


def welcome(version: str, pid: int, device: str) -> dict:
    """What the worker answers: its version, process id and the device it computes on."""
    return {"version": version, "pid": pid, "device": device}


def request(number: int, method: str, params: dict) -> dict:
    """A call of `method`; the answer carries the same number."""
    return {"id": number, "method": method, "params": params}


def result(number: int, value) -> dict:
    """The answer to request `number`."""
    return {"id": number, "result": value}


def error(number: int, failure: PgrainError) -> dict:
    """The failure of request `number` (0: of the connection itself)."""
    return {"id": number, "error": failure.to_dict()}


def check_request(header: dict) -> tuple[int, str, dict]:
    """The parts of a request; ProtocolViolation if one is missing or of another type."""
    number, method, params = header.get("id"), header.get("method"), header.get("params")
    if type(number) is not int or not isinstance(method, str) or not isinstance(params, dict):
        raise ProtocolViolation("a request lacks its id, method or params")
    return number, method, params


def check_hello(header: dict) -> tuple[str, str, str | None]:
    """Version, database and server of a hello; ProtocolViolation if one is missing."""
    version, database, server = (header.get(name) for name in ("version", "database", "server"))
    if (not isinstance(version, str) or not isinstance(database, str)
            or not isinstance(server, str | None)):
        raise ProtocolViolation("a hello lacks its version or database")
    return version, database, server
