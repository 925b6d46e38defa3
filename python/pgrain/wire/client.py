"""The session's end of the wire: one persistent connection, cancellable while it waits.

Waiting goes in slices of at most 50 ms; between two slices the caller's `on_wait` runs, which in a
backend checks for interrupts. When it raises, the connection is closed: that is how the worker
learns that nobody waits for the answer any more.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence

from pgrain.errors import PgrainError, ProtocolViolation, WorkerUnreachable
from pgrain.settings import CONNECT_SECONDS, REQUEST_SECONDS, WAIT_SLICE_SECONDS
from pgrain.wire import address, frames, messages

START_HINT = ("Start the worker: pgrain worker --dsn 'dbname=... user=pgrain_worker', "
              "or make up in a checkout.")
RIGHTS_HINT = ("The OS user that runs PostgreSQL must be able to enter the folder of the socket, "
               "and to write to the socket: see docs/user/worker.md.")


class ConnectionLost(WorkerUnreachable):
    """The connection broke; whether the worker has seen the request is not known."""


class Client:
    """A connection to the worker at an address (`wire/address.py`).

    `version`, `database` and `server` go into the handshake; the worker refuses others than its
    own.
    owner: the OS user who must listen at a Unix socket (or root), None for anybody: a worker that
    has gone may leave its path to others. tls: the files for a remote worker (`wire/tls.py`); not
    needed for a Unix socket.
    """

    def __init__(self, path: str, version: str, database: str,
                 on_wait: Callable[[], None] = lambda: None, tls: Mapping[str, str] | None = None,
                 server: str | None = None, owner: int | None = None):
        self.path, self.version, self.database, self.server = path, version, database, server
        self.on_wait, self.tls, self.owner = on_wait, tls or {}, owner
        self._wants: Callable[[OSError], str | None] = _wants
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
        self.welcome = {}
        where = address.parse(self.path)
        try:
            if isinstance(where, str):
                self._socket = self._open(socket.AF_UNIX, where, deadline)
                self._check_owner()
            else:
                self._connect_remote(where, deadline)
        except OSError as error:
            raise WorkerUnreachable("the worker is not reachable",
                                    detail=f'Socket "{self.path}": {error.strerror or error}.',
                                    hint=RIGHTS_HINT if error.errno == errno.EACCES
                                    else START_HINT) from None
        self._send(frames.encode(messages.HELLO, messages.hello(self.version, self.database,
                                                                self.server)), deadline)
        answer = frames.read_frame(lambda n: self._receive(n, deadline))
        if answer.kind == messages.ERROR:
            raise PgrainError.from_dict(answer.header.get("error") or {})
        if answer.kind != messages.WELCOME:
            raise ProtocolViolation("the worker did not answer the handshake")
        self.welcome = answer.header

    def _check_owner(self) -> None:
        """08006 where somebody else listens than the worker's OS user, as the kernel says; before
        anything is said to them."""
        if self.owner is None:
            return
        data = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED,
                                       struct.calcsize("3i"))
        found = struct.unpack("3i", data)[1]
        if found not in (self.owner, 0):
            self.close()
            raise WorkerUnreachable(
                "somebody else listens where the worker was",
                detail=f'Socket "{self.path}" is of OS user {found}, the worker of {self.owner}.',
                hint="Look who that is, and start the worker with --socket in a folder that only "
                     "its OS user can write to.")

    def _connect_remote(self, where: address.Remote, deadline: float) -> None:
        from pgrain.wire import tls  # `ssl` is only loaded where it is needed
        context, self._wants = tls.context(self.tls, server=False), tls.wants
        failure: OSError | None = None
        for family, _, _, _, place in socket.getaddrinfo(where.host, where.port,
                                                         type=socket.SOCK_STREAM):
            try:
                raw = self._open(family, place, deadline)
                break
            except OSError as error:
                failure = error
        else:
            raise failure or OSError(errno.EHOSTUNREACH, "no such host")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(raw, server_hostname=where.host,
                                           do_handshake_on_connect=False)
        while True:
            try:
                return self._socket.do_handshake()
            except OSError as error:
                if self._wants(error) is None:
                    raise
                self._wait(deadline, write=self._wants(error) == "write")

    def _open(self, family: int, place, deadline: float) -> socket.socket:
        """A connected socket that does not block. A listener that accepts nobody (a hung worker)
        is waited for in slices, like everything else."""
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            opened.setblocking(False)
            while (code := opened.connect_ex(place)) not in (0, errno.EISCONN):
                if code == errno.EAGAIN:             # a Unix socket whose queue is full
                    time.sleep(WAIT_SLICE_SECONDS.default)
                elif code in (errno.EINPROGRESS, errno.EALREADY):
                    poll = select.poll()
                    poll.register(opened.fileno(), select.POLLOUT)
                    poll.poll(WAIT_SLICE_SECONDS.default * 1000)
                else:
                    raise OSError(code, os.strerror(code))
                self.on_wait()
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "it accepts no connection")
        except BaseException:
            opened.close()
            raise
        return opened

    def _send(self, buffers, deadline: float) -> None:
        for buffer in buffers:
            view = memoryview(buffer)
            while view:
                try:
                    sent = self._socket.send(view)
                except OSError as error:
                    self._retry(error, deadline, "write")
                    continue
                view = view[sent:]

    def _receive(self, count: int, deadline: float) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            try:
                got = self._socket.recv_into(view)
            except OSError as error:
                self._retry(error, deadline, "read")
                continue
            if got == 0:
                raise self._lost("the worker closed the connection")
            view = view[got:]
        return data

    def _retry(self, error: OSError, deadline: float, direction: str) -> None:
        """Wait until the socket is ready for more; a real error is a lost connection."""
        wanted = direction if isinstance(error, BlockingIOError) else self._wants(error)
        if wanted is None:
            raise self._lost(error.strerror or str(error)) from None
        self._wait(deadline, write=wanted == "write")

    def _wait(self, deadline: float, write: bool = False) -> None:
        fd = self._socket.fileno()
        poll = select.poll()   # poll, not select: a backend may have more than 1024 files open
        poll.register(fd, select.POLLOUT if write else select.POLLIN)
        while not poll.poll(WAIT_SLICE_SECONDS.default * 1000):
            self.on_wait()
            if time.monotonic() > deadline:
                failure = WorkerUnreachable(
                    "the worker did not answer in time", detail=f'Socket "{self.path}".',
                    hint="See pgrain.workers and the worker's log; restart it if it hangs.")
                failure.timed_out = self.welcome != {}
                raise failure

    def _lost(self, why: str | None) -> ConnectionLost:
        return ConnectionLost("the connection to the worker was lost",
                              detail=f'Socket "{self.path}": {why}.', hint=START_HINT)


def _wants(error: OSError) -> str | None:
    return None   # of a plain socket: what it waits for is a BlockingIOError
