"""The socket: who may connect, one thread a connection, a bounded number of requests at a time.

A request waits for its turn in `Gate`; one that takes long does not keep the others from theirs.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psycopg
import structlog

from pgrain.errors import (
    Busy,
    InsufficientPrivilege,
    InvalidArgument,
    PgrainError,
    ProtocolViolation,
    UndefinedObject,
    WorkerUnreachable,
)
from pgrain.interrupts import Abandoned, Wanted, check
from pgrain.settings import CONCURRENT_REQUESTS, QUEUED_REQUESTS
from pgrain.store.database import failure
from pgrain.wire import address, frames, messages
from pgrain.worker import metrics

log = structlog.get_logger()
SLOW_SECONDS = 1.0
HANDSHAKE_SECONDS = 10
ACCEPT_SECONDS = 0.2    # before trying again where a connection could not be accepted
QUEUE_SECONDS = 0.25    # between two looks whether who waits in the queue is still there


class ConnectionClosed(Exception):
    """The other side has gone."""


class Gate:
    """At most `running` requests compute at a time and `waiting` wait; more are told 53400. What
    nobody waits for any more (`interrupts`) leaves the queue."""

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
        try:
            while not self._slots.acquire(timeout=QUEUE_SECONDS):
                check()
            try:
                check()
            except Abandoned:
                self._slots.release()
                raise
        except Abandoned:
            with self._lock:
                self._present -= 1
            raise
        return self

    def __exit__(self, *_):
        self._slots.release()
        with self._lock:
            self._present -= 1


class Server:
    """Accepts sessions at an address (`wire/address.py`) and answers their requests.

    handler(connection_state, method, params, blobs) -> (result, blobs); connection_state is a dict
    that lives as long as the connection. On a Unix socket, allow_users are the OS users that may
    connect (names or numbers), checked by the kernel's peer credentials; the socket's permissions
    keep out the others before that. A remote address wants tls (`wire/tls.py`), and from whoever
    connects a certificate of the same authority, with one of the names in tls_peers if there are
    any. whose: asks which server the worker's database is in now (None: not checked); a restored
    copy of it has the same database with the same table of workers.
    """

    def __init__(self, path: str, handler: Callable, *, version: str, database: str, device: str,
                 allow_users: Sequence[str | int], tls: Mapping[str, str] | None = None,
                 tls_peers: Sequence[str] = (), mode: int = 0o660,
                 whose: Callable[[], str] | None = None):
        self.path, self.handler = path, handler
        self.version, self.database, self.device = version, database, device
        self._allowed = {os.getuid(), *(user_id(name) for name in allow_users)}
        self._mode, self._whose, self._served = mode, whose, None
        self._where = address.parse(path)
        self._tls = None
        if isinstance(self._where, address.Remote):
            from pgrain.wire import tls as transport
            self._tls = transport.context(tls or {}, server=True)
            self._check_name = lambda peer: transport.check_name(peer, set(tls_peers))
        self._gate = Gate(int(CONCURRENT_REQUESTS.default), int(QUEUED_REQUESTS.default))
        self._listener: socket.socket | None = None
        self._inode: tuple[int, int] | None = None      # of the socket's file
        self._told: str | None = None       # why it cannot be made again
        self._closing = False
        self._log = log.bind()      # `log` looks up how logs are configured each time

    def listen(self) -> None:
        """Bind the socket. A dead one of an earlier worker is replaced, a living one is not."""
        if isinstance(self._where, address.Remote):
            family = socket.getaddrinfo(*self._where, type=socket.SOCK_STREAM)[0][0]
            self._listener = socket.create_server(tuple(self._where), family=family, backlog=256)
            return
        if Path(self.path).exists():
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(self.path)
                except OSError:
                    os.unlink(self.path)
                else:
                    raise PgrainError(f'another worker listens on "{self.path}"',
                                      hint="Stop it, or give this one another --socket.")
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(self.path)
        except OSError as error:        # whose text has no path
            listener.close()
            raise PgrainError(f'cannot listen on "{self.path}": {error.strerror or error}',
                              hint="--socket names a file in a folder that is there and that this "
                                   "user may write to.") from None
        os.chmod(self.path, self._mode)
        listener.listen(256)
        self._inode, old = _inode(self.path), self._listener
        self._listener = listener
        if old is not None:             # whoever accepts wakes up, and goes on with the new one
            with contextlib.suppress(OSError):
                old.shutdown(socket.SHUT_RDWR)
            old.close()

    def reachable(self) -> bool:
        """Whether sessions that come now find this server. A socket whose file somebody has taken
        away (a cleaner of /tmp, a unit that shares the folder) is bound again; one that another
        worker has put in its place is left alone."""
        if not isinstance(self._where, str) or _inode(self.path) == self._inode:
            return True
        try:
            self.listen()
        except (PgrainError, OSError) as error:
            if str(error) != self._told:
                log.warning("the socket is gone, and cannot be made again", socket=self.path,
                            error=str(error))
            self._told = str(error)
            return False
        self._told = None
        log.warning("the socket was gone, and is there again", socket=self.path)
        return True

    def serve(self) -> None:
        """Accept until `close`. Who comes while there is no file or thread to be had waits."""
        while True:
            listener = self._listener
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if self._closing:
                    return
                if listener is not self._listener:      # bound again
                    continue
                log.warning("no connection can be accepted", error=str(error))
                time.sleep(ACCEPT_SECONDS)
                continue
            try:
                threading.Thread(target=self._serve_one, args=(connection,), daemon=True,
                                 name="session").start()
            except RuntimeError as error:       # its client comes again
                connection.close()
                log.warning("no thread for a connection", error=str(error))
                time.sleep(ACCEPT_SECONDS)

    def close(self) -> None:
        """Stop accepting and take the socket away."""
        self._closing = True
        if self._listener is not None:
            self._listener.close()
            if isinstance(self._where, str) and _inode(self.path) == self._inode:
                Path(self.path).unlink(missing_ok=True)     # not what another has put there

    def _serve_one(self, raw: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(raw)
            try:
                connection.settimeout(HANDSHAKE_SECONDS)
                if self._tls is not None:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    try:
                        connection = stack.enter_context(
                            self._tls.wrap_socket(raw, server_side=True))
                    except OSError as error:   # no TLS at all, or a certificate that is not ours
                        log.warning("connection refused", error=str(error))
                        return
                    self._check_name(connection)
                else:
                    self._check_peer(connection)
                peer = self._handshake(connection)
                connection.settimeout(None)
                metrics.connection(1)
                stack.callback(metrics.connection, -1)
                state: dict = {"local": self._tls is None}
                while True:
                    frame = frames.read_frame(lambda n: _receive(connection, n))
                    if frame.kind != messages.REQUEST:
                        raise ProtocolViolation(f"unexpected message of kind {frame.kind}")
                    self._answer(connection, peer, state, frame)
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

    def _handshake(self, connection: socket.socket) -> str:
        """What the session calls itself in logs: the process id of its backend."""
        frame = frames.read_frame(lambda n: _receive(connection, n))
        if frame.kind != messages.HELLO:
            raise ProtocolViolation("the first message is not a hello")
        version, database, server = messages.check_hello(frame.header)
        if version != self.version:
            raise PgrainError(
                f"the extension is of version {version}, the worker of {self.version}",
                sqlstate="55000", hint="Install the same version of both and restart the worker.")
        if database != self.database:
            raise UndefinedObject(f'this worker serves database "{self.database}", '
                                  f'not "{database}"',
                                  hint="Start a worker for this database.")
        if self._whose is not None and server not in (None, self._served):
            # Asked again only then: a server that was restarted is another one, too.
            self._served = self._whose()
            if server != self._served:
                raise WorkerUnreachable(
                    f'the worker at "{self.path}" serves another server',
                    detail=f'Database "{self.database}" there has the same name; this one may be '
                           "a restored copy.", hint="Start a worker for this server.")
        _send(connection, messages.WELCOME,
              messages.welcome(self.version, os.getpid(), self.device))
        session = frame.header.get("session")
        return str(session) if type(session) is int else "?"

    def _answer(self, connection: socket.socket, peer: str, state: dict,
                frame: frames.Frame) -> None:
        """Answer one request. In logs it is `request=<backend's process id>.<its number>`."""
        number, method, params = messages.check_request(frame.header)
        started, sqlstate = time.monotonic(), "00000"
        descriptors: list[int] = []
        metrics.present(1)
        # Of this thread, which answers one connection, until its next request.
        structlog.contextvars.bind_contextvars(request=f"{peer}.{number}")
        try:
            with Wanted(lambda: _gone(connection)), self._gate:
                result, blobs, *descriptors = self.handler(state, method, params, frame.blobs)
            frame_out = frames.encode(messages.RESULT, messages.result(number, result), blobs)
        except PgrainError as error:
            sqlstate = error.sqlstate
            _send(connection, messages.ERROR, messages.error(number, error))
        except psycopg.Error as error:      # no more connections, perhaps
            told = failure(error)
            sqlstate = told.sqlstate
            log.warning("request failed in the database", method=method, error=str(error).strip())
            _send(connection, messages.ERROR, messages.error(number, told))
        except Abandoned:       # cancelled, or its session has gone: nobody reads an answer
            sqlstate = "57014"
            log.info("request stopped: its session waits no more", method=method,
                     seconds=round(time.monotonic() - started, 4))
            raise ConnectionClosed from None
        except Exception as error:
            sqlstate = "XX000"
            log.error("request failed", method=method, traceback=traceback.format_exc())
            _send(connection, messages.ERROR, messages.error(number, PgrainError(
                f"the worker failed: {type(error).__name__}: {error}",
                hint="This is a defect of pgrain; the worker's log has the details "
                     f"(request {peer}.{number}).")))
        else:
            if descriptors:     # they travel with the first byte
                socket.send_fds(connection, [frame_out[0][:1]], descriptors)
                frame_out[0] = memoryview(frame_out[0])[1:]
            for buffer in frame_out:
                connection.sendall(buffer)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            seconds = time.monotonic() - started
            metrics.present(-1)
            metrics.request(method, sqlstate, seconds)
            (self._log.info if seconds > SLOW_SECONDS else self._log.debug)(
                "slow request" if seconds > SLOW_SECONDS else "request", method=method,
                sqlstate=sqlstate, seconds=round(seconds, 4))


def user_id(user: str | int) -> int:
    if isinstance(user, int):
        return user
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise InvalidArgument(f'there is no OS user "{user}"', hint="--allow-user names one of "
                              "this machine.") from None


def _inode(path: str) -> tuple[int, int] | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _gone(connection: socket.socket) -> bool:
    """Whether the other side has closed; looks at the socket itself, for TLS cannot peek."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


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
