"""The session's end of the wire: one persistent connection, cancellable while it waits.

Waiting goes in slices of at most 50 ms; between two slices the caller's `on_wait` runs, which in a
backend checks for interrupts. When it raises, the connection is closed: that is how the worker
learns that nobody waits for the answer any more.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Sequence

from pgrain.errors import PgrainError, ProtocolViolation, WorkerUnreachable
from pgrain.settings import CONNECT_SECONDS, REQUEST_SECONDS, WAIT_SLICE_SECONDS
from pgrain.wire import frames, messages

START_HINT = "Start the worker: pgrain worker --dsn ..., or make up in a checkout."


class ConnectionLost(WorkerUnreachable):
    """The connection broke; whether the worker has seen the request is not known."""


class Client:
    """A connection to the worker at a Unix socket `path`.

    `version` and `database` go into the handshake; the worker refuses others than its own.
    """

    def __init__(self, path: str, version: str, database: str,
                 on_wait: Callable[[], None] = lambda: None):
        self.path, self.version, self.database = path, version, database
        self.on_wait = on_wait
        self._socket: socket.socket | None = None
        self._number = 0
        self.welcome: dict = {}

    @property
    def connected(self) -> bool:
        """Whether a connection is open (it may have broken since)."""
        return self._socket is not None

    def close(self) -> None:
        """Drop the connection; the next call opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def call(self, method: str, params: dict, blobs: Sequence = (),
             timeout: float = REQUEST_SECONDS.default) -> tuple[dict, list]:
        """The worker's answer: (result, blobs).

        Requests change nothing in the worker that a repetition would harm, so one that meets a
        connection broken since the last call (a restarted worker) is sent once more on a new one.
        Raises the worker's error as it was raised there; 08006 if it cannot be reached.
        """
        reused = self.connected
        try:
            return self._call(method, params, blobs, timeout)
        except ConnectionLost:
            if not reused:
                raise
        return self._call(method, params, blobs, timeout)

    def _call(self, method, params, blobs, timeout):
        deadline = time.monotonic() + timeout
        try:
            if self._socket is None:
                self._connect()
            self._number += 1
            number = self._number
            self._send(frames.encode(messages.REQUEST,
                                     messages.request(number, method, params), blobs), deadline)
            answer = frames.read_frame(lambda n: self._receive(n, deadline))
            if answer.header.get("id") not in (number, 0):
                raise ProtocolViolation("the worker answered another request")
        except BaseException:
            # Whatever stopped us, an answer may still be on its way: this socket is spent.
            self.close()
            raise
        if answer.kind == messages.ERROR:
            raise PgrainError.from_dict(answer.header.get("error") or {})
        if answer.kind != messages.RESULT:
            self.close()
            raise ProtocolViolation(f"the worker sent a message of kind {answer.kind}")
        return answer.header.get("result"), answer.blobs

    def _connect(self) -> None:
        deadline = time.monotonic() + CONNECT_SECONDS.default
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(CONNECT_SECONDS.default)
            self._socket.connect(self.path)
            self._socket.setblocking(False)
        except OSError as error:
            raise WorkerUnreachable("the worker is not reachable",
                                    detail=f'Socket "{self.path}": {error.strerror or error}.',
                                    hint=START_HINT) from None
        self._send(frames.encode(messages.HELLO, messages.hello(self.version, self.database)),
                   deadline)
        answer = frames.read_frame(lambda n: self._receive(n, deadline))
        if answer.kind == messages.ERROR:
            raise PgrainError.from_dict(answer.header.get("error") or {})
        if answer.kind != messages.WELCOME:
            raise ProtocolViolation("the worker did not answer the handshake")
        self.welcome = answer.header

    def _send(self, buffers, deadline: float) -> None:
        for buffer in buffers:
            view = memoryview(buffer)
            while view:
                try:
                    sent = self._socket.send(view)
                except BlockingIOError:
                    self._wait(deadline, write=True)
                    continue
                except OSError as error:
                    raise self._lost(error.strerror) from None
                view = view[sent:]

    def _receive(self, count: int, deadline: float) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            try:
                got = self._socket.recv_into(view)
            except BlockingIOError:
                self._wait(deadline)
                continue
            except OSError as error:
                raise self._lost(error.strerror) from None
            if got == 0:
                raise self._lost("the worker closed the connection")
            view = view[got:]
        return data

    def _wait(self, deadline: float, write: bool = False) -> None:
        fd = self._socket.fileno()
        poll = select.poll()   # poll, not select: a backend may have more than 1024 files open
        poll.register(fd, select.POLLOUT if write else select.POLLIN)
        while not poll.poll(WAIT_SLICE_SECONDS.default * 1000):
            self.on_wait()
            if time.monotonic() > deadline:
                raise WorkerUnreachable(
                    "the worker did not answer in time",
                    detail=f'Socket "{self.path}".',
                    hint="See pgrain.workers and the worker's log; restart it if it hangs.")

    def _lost(self, why: str | None) -> ConnectionLost:
        return ConnectionLost("the connection to the worker was lost",
                              detail=f'Socket "{self.path}": {why}.', hint=START_HINT)
