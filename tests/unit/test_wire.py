"""Conformance of the wire: what one side encodes the other reads, and nothing else gets through."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import socket
import tempfile
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrain import errors
from pgrain.settings import FRAME_BYTES, HEADER_BYTES
from pgrain.wire import frames, messages
from pgrain.wire.client import Client

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.floats(allow_nan=False,
                                                                      allow_infinity=False)
    | st.text(), lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8)


class Truncated(Exception):
    pass


def receiver(data: bytes):
    stream = io.BytesIO(data)

    def receive(count: int) -> bytes:
        got = stream.read(count)
        if len(got) < count:
            raise Truncated
        return got
    return receive


def joined(*arguments) -> bytes:
    return b"".join(bytes(buffer) for buffer in frames.encode(*arguments))


@given(st.sampled_from(sorted(messages.KINDS)),
       st.dictionaries(st.text(max_size=8).filter(lambda key: key != "blobs"), json_values,
                       max_size=4),
       st.lists(st.binary(max_size=200), max_size=4))
def test_what_is_encoded_is_read(kind, header, blobs):
    frame = frames.read_frame(receiver(joined(kind, header, blobs)))
    assert frame.kind == kind
    assert frame.header == header
    assert [bytes(blob) for blob in frame.blobs] == blobs


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_or_short(data):
    with pytest.raises((errors.ProtocolViolation, Truncated)):
        frames.read_frame(receiver(data))


@given(st.data())
@settings(max_examples=300)
def test_a_changed_byte_is_noticed_or_leaves_a_well_formed_frame(data):
    original = bytearray(joined(messages.REQUEST, messages.request(1, "ping", {}), [b"abc", b""]))
    at = data.draw(st.integers(0, len(original) - 1))
    original[at] ^= data.draw(st.integers(1, 255))
    try:
        frame = frames.read_frame(receiver(bytes(original)))
    except (errors.ProtocolViolation, Truncated):
        return
    assert sum(blob.nbytes for blob in frame.blobs) == 3


@pytest.mark.parametrize("prefix", [
    frames.PREFIX.pack(b"PG", frames.PROTOCOL_VERSION, 3, int(HEADER_BYTES.default) + 1, 0),
    frames.PREFIX.pack(b"PG", frames.PROTOCOL_VERSION, 3, 2, int(FRAME_BYTES.default) + 1),
    frames.PREFIX.pack(b"PG", frames.PROTOCOL_VERSION + 1, 3, 2, 0),
    frames.PREFIX.pack(b"HT", frames.PROTOCOL_VERSION, 3, 2, 0),
])
def test_bad_prefixes_are_refused_before_more_is_read(prefix):
    asked = []

    def receive(count):
        asked.append(count)
        return prefix[:count]
    with pytest.raises(errors.ProtocolViolation):
        frames.read_frame(receive)
    assert asked == [frames.PREFIX.size]


@pytest.mark.parametrize("header", [
    b"[]", b"nonsense", b'{"blobs": [1]}', b'{"blobs": [-1, 1]}', b'{"blobs": "x"}',
    b'{"blobs": [true]}', b'{"x": NaN}', b"[" * 100_000, b'"\xff"',
])
def test_bad_headers_are_refused(header):
    data = frames.PREFIX.pack(b"PG", frames.PROTOCOL_VERSION, 3, len(header), 0) + header
    with pytest.raises(errors.ProtocolViolation):
        frames.read_frame(receiver(data))


def test_a_frame_over_the_limit_is_not_sent(monkeypatch):
    with pytest.raises(errors.LimitExceeded):
        frames.encode(messages.RESULT, {"text": "x" * (int(HEADER_BYTES.default) + 1)})


@pytest.mark.parametrize("kind", sorted(
    {kind for kind in vars(errors).values() if isinstance(kind, type)
     and issubclass(kind, errors.PgrainError)}, key=lambda kind: kind.__name__))
def test_errors_survive_the_wire(kind):
    error = kind('model "x" is odd', detail="Because.", hint="Do this.")
    again = errors.PgrainError.from_dict(json.loads(json.dumps(error.to_dict())))
    assert type(again) is kind
    assert (again.message, again.detail, again.hint, again.sqlstate) == (
        error.message, error.detail, error.hint, error.sqlstate)


@pytest.fixture
def stand_in():
    """A socket whose other end a test plays by hand: `serve(script)` runs it in a thread."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()

        def serve(*scripts):
            def run():
                for script in scripts:
                    with contextlib.suppress(OSError):   # the test has ended
                        connection, _ = listener.accept()
                        with connection:
                            script(connection)
            threading.Thread(target=run, daemon=True).start()
            return path
        yield serve
        listener.close()


def read(connection):
    stream = connection.makefile("rb")
    return frames.read_frame(lambda n: stream.read(n))


def greet(connection):
    assert read(connection).kind == messages.HELLO
    connection.sendall(joined(messages.WELCOME, messages.welcome("1", 1, "cpu")))


def answer(connection, value="ok"):
    request = read(connection)
    connection.sendall(joined(messages.RESULT, messages.result(request.header["id"], value)))


def test_a_connection_lost_between_calls_is_opened_once_more(stand_in):
    def first(connection):
        greet(connection)
        answer(connection, "one")

    def second(connection):
        greet(connection)
        answer(connection, "two")
    client = Client(stand_in(first, second), "1", "db")
    assert client.call("ping", {})[0] == "one"
    time.sleep(0.05)
    assert client.call("ping", {})[0] == "two"


def test_a_connection_lost_twice_is_reported(stand_in):
    client = Client(stand_in(greet, greet), "1", "db")
    with pytest.raises(errors.WorkerUnreachable):
        client.call("ping", {})
    assert not client.connected


def test_no_worker_is_08006_with_a_hint(tmp_path):
    with pytest.raises(errors.WorkerUnreachable) as caught:
        Client(str(tmp_path / "none"), "1", "db").call("ping", {})
    assert caught.value.sqlstate == "08006"
    assert "pgrain worker" in caught.value.hint


def test_a_folder_that_cannot_be_entered_is_no_matter_of_starting(tmp_path, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: errno.EACCES)
    with pytest.raises(errors.WorkerUnreachable) as caught:
        Client(str(tmp_path / "shut"), "1", "db").call("ping", {})
    assert "Permission denied" in caught.value.detail
    assert "must be able to enter the folder" in caught.value.hint
    assert "Start the worker" not in caught.value.hint


def test_waiting_is_sliced_and_can_be_interrupted(stand_in):
    """The caller's check runs at least every 50 ms, and its exception ends the wait."""
    def silent(connection):
        greet(connection)
        connection.recv(1 << 16)
        time.sleep(5)

    class Interrupt(Exception):
        pass
    moments = []

    def on_wait():
        moments.append(time.monotonic())
        if len(moments) == 4:
            raise Interrupt
    client = Client(stand_in(silent), "1", "db", on_wait)
    started = time.monotonic()
    with pytest.raises(Interrupt):
        client.call("ping", {})
    assert time.monotonic() - started < 2
    assert not client.connected   # the late answer can't be taken for that of another request


def test_a_hung_worker_ends_the_wait_at_the_time_limit(stand_in):
    def silent(connection):
        greet(connection)
        time.sleep(5)
    client = Client(stand_in(silent), "1", "db")
    with pytest.raises(errors.WorkerUnreachable, match="in time"):
        client.call("ping", {}, timeout=0.2)


def test_an_error_of_the_handshake_is_raised_as_it_is(stand_in):
    def refuse(connection):
        read(connection)
        connection.sendall(joined(messages.ERROR, messages.error(
            0, errors.NotReady("another version"))))
    with pytest.raises(errors.NotReady, match="another version"):
        Client(stand_in(refuse), "1", "db").call("ping", {})


def test_the_answer_to_another_request_is_refused(stand_in):
    def confused(connection):
        greet(connection)
        read(connection)
        connection.sendall(joined(messages.RESULT, messages.result(99, "x")))
    with pytest.raises(errors.ProtocolViolation):
        Client(stand_in(confused), "1", "db").call("ping", {})
