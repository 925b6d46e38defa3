"""The worker's end of the socket: who is let in, and how many are answered at a time."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from pgrain import interrupts
from pgrain.errors import Busy, Cancelled, PgrainError, UndefinedObject
from pgrain.wire import frames, messages
from pgrain.wire.client import Client
from pgrain.worker import place
from pgrain.worker.server import Gate, Server

# What a stranger is told: the system's own words, or the worker's.
STRANGER = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
except PermissionError:
    print("permission denied")
else:
    print(s.recv(4096).decode("utf-8", "replace"))
"""


@pytest.fixture
def serve():
    """`serve(handler, **options)`: a worker's server on a socket in a folder of its own."""
    made, folder = [], Path(tempfile.mkdtemp(prefix="pgrain-", dir="/tmp"))

    def start(handler=lambda state, method, params, blobs: (params, blobs), **options) -> Server:
        it = Server(str(folder / "worker.sock"), handler, version="1", database="db",
                    device="cpu", allow_users=[], **options)
        it.listen()
        threading.Thread(target=it.serve, daemon=True).start()
        made.append(it)
        return it
    yield start
    for it in made:
        it.close()
    shutil.rmtree(folder)


@pytest.mark.parametrize("arguments,told", [
    (["--dsn", "dbname=nowhere usr=me"], 'invalid connection option \\"usr\\"'),
    (["--dsn", "host=/nowhere", "--allow-user", "nobody at all"],
     'there is no OS user \\"nobody at all\\"'),
])
def test_what_no_waiting_will_mend_ends_the_worker(arguments, told):
    done = subprocess.run([sys.executable, "-m", "pgrain.cli.main", "worker", "--log-format",
                           "json", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "worker cannot start" in done.stderr and told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_socket_that_cannot_be_made_is_named():
    it = Server("/nowhere/at/all/worker.sock", None, version="1", database="db", device="cpu",
                allow_users=[])
    with pytest.raises(PgrainError, match='cannot listen on "/nowhere/at/all/worker.sock": No '
                                          "such file") as caught:
        it.listen()
    assert "--socket" in caught.value.hint


def test_a_socket_that_was_taken_away_is_made_again(serve):
    it = serve()
    old = Client(it.path, "1", "db")
    assert old.call("echo", {"n": 1})[0] == {"n": 1} and it.reachable()
    folder, away = Path(it.path).parent, Path(it.path).parent.with_name("away-" + it.path[-8:])
    os.unlink(it.path)
    with pytest.raises(PgrainError, match="not reachable"):
        Client(it.path, "1", "db").call("echo", {})
    assert it.reachable()
    for number in range(3):
        assert Client(it.path, "1", "db").call("echo", {"n": number})[0] == {"n": number}
    assert old.call("echo", {"n": 2})[0] == {"n": 2}       # who was in stays in
    folder.rename(away)
    try:
        assert not it.reachable()       # and the worker does not say that it lives
    finally:
        away.rename(folder)
    assert it.reachable() and Path(it.path).stat().st_mode & 0o777 == 0o660
    os.unlink(it.path)
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(it.path)
        another.listen()
        assert not it.reachable()
        it.close()
        assert Path(it.path).exists()       # the other's
    os.unlink(it.path)


@pytest.mark.parametrize("mode, sockets", [(0o2750, 0o660), (0o755, 0o666)])
def test_a_folder_that_was_there_keeps_its_rights(tmp_path, mode, sockets):
    """A worker without --socket in a unit's RuntimeDirectory."""
    run = tmp_path / "run"
    server = next(user for user in pwd.getpwall() if user.pw_uid != os.geteuid())
    run.mkdir()
    if os.geteuid() == 0:
        os.chown(run, -1, server.pw_gid)
    else:
        pytest.skip("needs root")
    run.chmod(mode)
    path, found = place.default_socket("shop", server.pw_uid, run)
    assert Path(path).parent == run and found == sockets
    assert run.stat().st_mode & 0o7777 == mode
    run.rmdir()
    place.default_socket("shop", server.pw_uid, run)        # one of the worker's own
    assert run.stat().st_mode & 0o7777 == 0o2750


def test_permissions_and_peer_credentials_keep_other_users_out(serve):
    """Who may not open the socket does not reach the worker; who may is told no by what the kernel
    says of them."""
    if os.getuid() != 0:
        pytest.skip("only root can be somebody else")
    worker = serve()
    place = Path(worker.path)

    def stranger() -> str:
        done = subprocess.run(["/usr/bin/python3", "-c", STRANGER, worker.path], user=65534,
                              group=65534, extra_groups=[], cwd="/", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout
    assert stranger() == "permission denied\n"      # the folder
    place.parent.chmod(0o755)
    assert stranger() == "permission denied\n"      # the socket
    place.chmod(0o666)
    said = stranger()
    assert "this OS user may not connect to the worker" in said and "42501" in said
    assert Client(worker.path, "1", "db").call("echo", {"a": 1})[0] == {"a": 1}


def test_another_database_is_told_so(serve):
    with pytest.raises(UndefinedObject, match='serves database "db", not "other"'):
        Client(serve().path, "1", "other").call("echo", {})


def test_who_comes_while_no_file_can_be_opened_waits(serve):
    """More sessions than files (ulimit -n) end nothing: those that wait are answered once there is
    one, and so are others."""
    worker = serve()
    clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    hello = b"".join(frames.encode(messages.HELLO, messages.hello("1", "db")))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        for client in clients:
            client.connect(worker.path)
            client.sendall(hello)
        time.sleep(0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for client in clients:
        client.settimeout(10)
        assert b"cpu" in client.recv(4096)
        client.close()
    assert Client(worker.path, "1", "db").call("echo", {"a": 1})[0] == {"a": 1}


def test_who_finds_the_queue_full_is_told_53400(serve):
    """One request computes, one waits, the third is told at once; then all goes on."""
    go, began = threading.Event(), threading.Event()

    def handler(state, method, params, blobs):
        began.set()
        assert go.wait(30)
        return params, []
    worker = serve(handler)
    worker._gate = Gate(1, 1)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(
        Client(worker.path, "1", "db").call("x", {"a": 1})[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert began.wait(10)
    while worker._gate._present < 2:
        time.sleep(0.005)
    with pytest.raises(Busy) as caught:
        Client(worker.path, "1", "db").call("x", {"a": 2})
    assert (caught.value.sqlstate, caught.value.message) == ("53400", "the worker is busy")
    assert caught.value.hint == "Try again in a moment."
    go.set()
    for thread in threads:
        thread.join(10)
    assert answers == [{"a": 1}] * 2
    assert Client(worker.path, "1", "db").call("x", {"a": 3})[0] == {"a": 3}


class Interrupted:
    """`Client(on_wait=...)` of a session that is cancelled while it waits."""

    def __init__(self):
        self.now = threading.Event()

    def __call__(self):
        if self.now.is_set():
            raise Cancelled("cancelled")


def interrupted_calls(worker, n: int):
    """n sessions that wait for the method `long`; they are cancelled by `.now.set()`."""
    cancel, threads = Interrupted(), []

    def call():
        with pytest.raises(Cancelled):
            Client(worker.path, "1", "db", on_wait=cancel).call("long", {})
    for _ in range(n):
        threads.append(threading.Thread(target=call))
        threads[-1].start()
    return cancel, threads


def test_what_nobody_waits_for_ends_and_leaves_its_place(serve):
    """Long requests of sessions that are cancelled, and those that queue behind them, make room;
    who still waits is answered. An answer is never sent to whoever has left."""
    ended, began = [], threading.Semaphore(0)

    def handler(state, method, params, blobs):
        if method == "short":
            return params, []
        began.release()
        until = time.monotonic() + 60
        try:
            while time.monotonic() < until:
                interrupts.check()
        except interrupts.Abandoned:
            ended.append(time.monotonic())
            raise
        return {"too": "late"}, []
    worker = serve(handler)
    worker._gate = Gate(2, 8)
    cancel, threads = interrupted_calls(worker, 2)       # these compute,
    for _ in range(2):
        assert began.acquire(timeout=10)
    leave, queued = interrupted_calls(worker, 3)         # these wait for their turn
    while worker._gate._present < 5:
        time.sleep(0.005)
    answers = []
    patient = threading.Thread(target=lambda: answers.append(
        Client(worker.path, "1", "db").call("short", {"a": 1})[0]))
    patient.start()
    time.sleep(0.1)
    assert not answers, "both places are taken"
    leave.now.set()
    until = time.monotonic() + 10
    while worker._gate._present > 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert worker._gate._present == 3, "who has left leaves the queue"
    cancel.now.set()
    for thread in [*threads, *queued, patient]:
        thread.join(10)
    assert answers == [{"a": 1}]
    until = time.monotonic() + 10
    while worker._gate._present and time.monotonic() < until:
        time.sleep(0.01)
    assert worker._gate._present == 0 and len(ended) == 2
    assert not began.acquire(blocking=False), "a request began that nobody waited for"


def test_only_requests_are_interrupted():
    """In any other thread, and after a request has ended, `check` is nothing."""
    interrupts.check()
    with pytest.raises(interrupts.Abandoned), interrupts.Wanted(lambda: True):
        while True:
            interrupts.check()
    interrupts.check()
    with interrupts.Wanted(lambda: False):
        for _ in range(3):
            time.sleep(interrupts.LOOK_SECONDS)
            interrupts.check()
