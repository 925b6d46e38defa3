"""A worker on another machine: mutual TLS, and nothing less."""

from __future__ import annotations

import datetime
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from pgrain.errors import InvalidArgument, NotReady, PgrainError, WorkerUnreachable
from pgrain.wire import address, frames, messages, tls
from pgrain.wire.client import Client
from pgrain.worker.server import Server


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """`keys[name]`: {ca, certificate, key} of worker, server, analyst and of a stranger, whose
    authority is another one."""
    folder = tmp_path_factory.mktemp("keys")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    def authority(name):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                "-out", f"{name}.pem")

    def certificate(name, ca, days="2"):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key",
                "-CAcreateserial", "-days", days, "-extfile", "names", "-out", f"{name}.pem")
        return {"ca": str(folder / f"{ca}.pem"), "certificate": str(folder / f"{name}.pem"),
                "key": str(folder / f"{name}.key")}
    try:
        authority("ours")
    except FileNotFoundError:
        pytest.skip("no openssl to make certificates with")
    authority("theirs")
    found = {name: certificate(name, "ours") for name in ("worker", "server", "analyst")}
    return {**found, "stranger": certificate("stranger", "theirs")}


@pytest.fixture
def serve(keys):
    """`serve(**options)`: a worker's server that echoes; its address."""
    made = []

    def start(handler=lambda state, method, params, blobs: (params, blobs), **options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        it = Server(f"tls://localhost:{port}", handler, version="1", database="db", device="cpu",
                    allow_users=[], tls=keys["worker"], **options)
        it.listen()
        threading.Thread(target=it.serve, daemon=True).start()
        made.append(it)
        return it.path
    yield start
    for it in made:
        it.close()


def test_both_ways_and_large(serve, keys):
    client = Client(serve(), "1", "db", tls=keys["server"])
    data = bytes(range(256)) * 40_000   # 10 MB: more than any buffer
    for number in range(3):
        answer, blobs = client.call("echo", {"n": number}, [data])
        assert answer == {"n": number} and bytes(blobs[0]) == data
    assert client._socket.version() == "TLSv1.3"


def test_who_is_refused(serve, keys):
    where = serve()
    mixed = {**keys["stranger"], "ca": keys["server"]["ca"]}   # trusts us, we do not know it
    for files in (keys["stranger"], mixed):
        with pytest.raises(WorkerUnreachable):
            Client(where, "1", "db", tls=files).call("echo", {})
    with pytest.raises(NotReady, match="TLS needs the file of its ca"):
        Client(where, "1", "db").call("echo", {})
    with pytest.raises(NotReady, match="cannot be used"):
        Client(where, "1", "db", tls={**keys["server"], "key": keys["analyst"]["key"]}
               ).call("echo", {})
    assert Client(where, "1", "db", tls=keys["server"]).call("echo", {"x": 1})[0] == {"x": 1}


def test_no_certificate_and_no_tls_at_all(serve, keys):
    where = address.parse(serve())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(keys["server"]["ca"])
    with socket.create_connection(tuple(where)) as raw, pytest.raises(OSError):
        with context.wrap_socket(raw, server_hostname="localhost") as connection:
            connection.sendall(b"".join(bytes(b) for b in frames.encode(
                messages.HELLO, messages.hello("1", "db"))))
            if connection.recv(1) == b"":
                raise ConnectionError("closed")
    with socket.create_connection(tuple(where)) as raw:
        raw.settimeout(5)
        raw.sendall(b"".join(bytes(b) for b in frames.encode(
            messages.HELLO, messages.hello("1", "db"))))
        try:
            answer = raw.recv(100)
        except ConnectionError:
            answer = b""
        assert not answer.startswith(frames.MAGIC), "it speaks with somebody without TLS"


def test_names_of_who_may_connect(serve, keys):
    where = serve(tls_peers=["server"])
    assert Client(where, "1", "db", tls=keys["server"]).call("echo", {})[0] == {}
    with pytest.raises((PgrainError, OSError), match="may not connect"):
        Client(where, "1", "db", tls=keys["analyst"]).call("echo", {})


def test_a_worker_under_another_name_is_not_spoken_to(serve, keys, monkeypatch):
    where = address.parse(serve())
    found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(WorkerUnreachable, match="not reachable") as caught:
        Client(f"tls://elsewhere.example:{where.port}", "1", "db", tls=keys["server"]
               ).call("echo", {})
    assert "ertificate" in caught.value.detail


def test_waiting_over_tls_is_sliced(serve, keys):
    release = threading.Event()

    def slow(state, method, params, blobs):
        release.wait(10)
        return {}, []

    class Interrupt(Exception):
        pass

    def stop():
        raise Interrupt
    client = Client(serve(slow), "1", "db", tls=keys["server"])
    client.on_wait = lambda: None
    client._connect()
    client.on_wait = stop
    started = datetime.datetime.now()
    with pytest.raises(Interrupt):
        client.call("echo", {})
    assert (datetime.datetime.now() - started).total_seconds() < 1
    release.set()


def test_a_worker_without_all_its_files_does_not_start(keys):
    for name in ("ca", "certificate", "key"):
        with pytest.raises(NotReady, match=f"TLS needs the file of its {name}"):
            Server("tls://localhost:1", lambda *_: ({}, []), version="1", database="db",
                   device="cpu", allow_users=[], tls={**keys["worker"], name: ""})


@pytest.mark.parametrize("text", ["", "relative/path", "tcp://host:1", "tls://host", "tls://:1",
                                  "tls://host:0", "tls://host:99999", "tls://host:1x", "host:1"])
def test_what_is_no_address(text):
    with pytest.raises(InvalidArgument, match="no address of a worker"):
        address.parse(text)


@pytest.mark.parametrize("remote", [address.Remote("gpu.example", 7433),
                                    address.Remote("fd00::1", 7433)])
def test_addresses_survive(remote):
    assert address.parse(address.write(remote)) == remote


def test_the_certificates_of_the_page_are_ones(tmp_path):
    """docs/user/security.md makes an authority and a certificate a side; the two believe them."""
    page = (Path(__file__).parents[2] / "docs/user/security.md").read_text()
    block, = (text for text in page.split("```sh\n") if text.startswith("umask 077"))
    subprocess.run(["sh", "-ec", block.partition("```")[0]], check=True, capture_output=True,
                   cwd=tmp_path)

    def side(name, server):
        return tls.context({"ca": str(tmp_path / "ca.pem"),
                            "certificate": str(tmp_path / f"{name}.pem"),
                            "key": str(tmp_path / f"{name}.key")}, server=server)

    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    worker = side("gpu", True).wrap_bio(there, back, server_side=True)
    session = side("db", False).wrap_bio(back, there, server_hostname="gpu.example")
    ends = [session, worker]
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert ends == []
    tls.check_name(worker, {"db.example"})
    with pytest.raises(PgrainError):
        tls.check_name(worker, {"gpu.example"})
