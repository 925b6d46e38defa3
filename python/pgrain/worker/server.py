"""The socket: who may connect, one thread a connection, a bounded number of requests at a time."""

from __future__ import annotations

import os
import pwd
import select
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import structlog

from pgrain.errors import (
    Busy,
    InsufficientPrivilege,
    PgrainError,
    ProtocolViolation,
    UndefinedObject,
)
from pgrain.settings import CONCURRENT_REQUESTS, QUEUED_REQUESTS
from pgrain.wire import frames, messages

log = structlog.get_logger()
SLOW_SECONDS = 1.0
HANDSHAKE_SECONDS = 10


class ConnectionClosed(Exception):
    """The other side has gone."""


class Gate:
    """At most `running` requests compute at a time and `waiting` wait; more are told 53400."""

    def __init__(self, running: int, waiting: int):
        self._slots = threading.Semaphore(running)
        self._lock = threading.Lock()
        self._present, self._most = 0, running + waiting

    def __enter__(self):
        with self._lock:
            if self._present >= self._most:
                raise Busy("the worker is busy", detail=f"{self._most} requests wait already.",
                           hint="Try again in a moment.")
            self._present += 1
        self._slots.acquire()
        return self

    def __exit__(self, *_):
        self._slots.release()
        with self._lock:
            self._present -= 1


class Server:
    """Accepts sessions on a Unix socket and answers their requests.

    handler(connection_state, method, params, blobs) -> (result, blobs); connection_state is a dict
    that lives as long as the connection. allow_users: OS users that may connect, checked by the
    kernel's peer credentials; the socket's permissions keep out the others before that.
    """

    def __init__(self, path: str, handler: Callable, *, version: str, database: str, device: str,
                 allow_users: list[str]):
        self.path, self.handler = path, handler
        self.version, self.database, self.device = version, database, device
        self._allowed = {os.getuid(), *(pwd.getpwnam(name).pw_uid for name in allow_users)}
        self._gate = Gate(int(CONCURRENT_REQUESTS.default), int(QUEUED_REQUESTS.default))
        self._listener: socket.socket | None = None

    def listen(self) -> None:
        """Bind the socket. A dead one of an earlier worker is replaced, a living one is not."""
        if Path(self.path).exists():
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(self.path)
                except OSError:
                    os.unlink(self.path)
                else:
                    raise PgrainError(f'another worker listens on "{self.path}"',
                                      hint="Stop it, or give this one another --socket.")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        os.chmod(self.path, 0o660)
        self._listener.listen(256)

    def serve(self) -> None:
        """Accept until `close`."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_one, args=(connection,), daemon=True,
                             name="session").start()

    def close(self) -> None:
        """Stop accepting and take the socket away."""
        if self._listener is not None:
            self._listener.close()
            Path(self.path).unlink(missing_ok=True)

    def _serve_one(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(HANDSHAKE_SECONDS)
                self._check_peer(connection)
                self._handshake(connection)
                connection.settimeout(None)
                state: dict = {}
                while True:
                    frame = frames.read_frame(lambda n: _receive(connection, n))
                    if frame.kind != messages.REQUEST:
                        raise ProtocolViolation(f"unexpected message of kind {frame.kind}")
                    self._answer(connection, state, frame)
            except (ConnectionClosed, OSError):
                pass
            except PgrainError as error:
                log.warning("connection refused", error=error.message)
                _send_quietly(connection, messages.ERROR, messages.error(0, error))
            except Exception:
                log.error("connection failed", traceback=traceback.format_exc())

    def _check_peer(self, connection: socket.socket) -> None:
        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", data)
        if uid not in self._allowed:
            raise InsufficientPrivilege("this OS user may not connect to the worker",
                                        detail=f"User id {uid}.",
                                        hint="Name the server's OS user with --allow-user.")

    def _handshake(self, connection: socket.socket) -> None:
        frame = frames.read_frame(lambda n: _receive(connection, n))
        if frame.kind != messages.HELLO:
            raise ProtocolViolation("the first message is not a hello")
        version, database = messages.check_hello(frame.header)
        if version != self.version:
            raise PgrainError(
                f"the extension is of version {version}, the worker of {self.version}",
                sqlstate="55000", hint="Install the same version of both and restart the worker.")
        if database != self.database:
            raise UndefinedObject(f'this worker serves database "{self.database}", '
                                  f'not "{database}"',
                                  hint="Start a worker for this database.")
        _send(connection, messages.WELCOME,
              messages.welcome(self.version, os.getpid(), self.device))

    def _answer(self, connection: socket.socket, state: dict, frame: frames.Frame) -> None:
        number, method, params = messages.check_request(frame.header)
        started = time.monotonic()
        try:
            with self._gate:
                if _gone(connection):
                    raise ConnectionClosed   # cancelled while it waited for its turn
                result, blobs = self.handler(state, method, params, frame.blobs)
            frame_out = frames.encode(messages.RESULT, messages.result(number, result), blobs)
        except PgrainError as error:
            _send(connection, messages.ERROR, messages.error(number, error))
        except ConnectionClosed:
            raise
        except Exception as error:
            log.error("request failed", method=method, traceback=traceback.format_exc())
            _send(connection, messages.ERROR, messages.error(number, PgrainError(
                f"the worker failed: {type(error).__name__}: {error}",
                hint="This is a defect of pgrain; the worker's log has the details.")))
        else:
            for buffer in frame_out:
                connection.sendall(buffer)
        seconds = time.monotonic() - started
        if seconds > SLOW_SECONDS:
            log.info("slow request", method=method, seconds=round(seconds, 3))


def _gone(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0)) and connection.recv(1, socket.MSG_PEEK) == b""


def _receive(connection: socket.socket, count: int) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = connection.recv_into(view)
        if got == 0:
            raise ConnectionClosed
        view = view[got:]
    return data


def _send(connection: socket.socket, kind: int, header: dict) -> None:
    for buffer in frames.encode(kind, header):
        connection.sendall(buffer)


def _send_quietly(connection: socket.socket, kind: int, header: dict) -> None:
    try:
        _send(connection, kind, header)
    except OSError:
        return
