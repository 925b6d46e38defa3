"""Somebody else's process at the socket of a worker that has gone (a folder in /tmp after a restart
of the machine): sessions tell it nothing, and believe nothing of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

LISTEN = """
import os, socket, sys
it = socket.socket(socket.AF_UNIX)
it.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
os.setuid(65534)
it.listen()             # the kernel keeps who has listened
print("listens", flush=True)
while True:
    caller, _ = it.accept()
    caller.settimeout(3)
    try:
        heard = caller.recv(1 << 20)
    except TimeoutError:
        heard = b""
    os.write(1, b"heard %d\\n" % len(heard))
    caller.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="who is somebody else needs root")
def test_sessions_tell_an_impostor_nothing(small):
    ask = "SELECT pgrain.predict('colour', '{123.5,1}'::float8[])"
    expected = small.value(ask)
    path, owner = small.rows("SELECT socket, uid FROM pgrain.worker")[0]
    assert owner == os.stat(path).st_uid
    small.worker.kill()
    Path(path).unlink(missing_ok=True)
    with small.connect() as session, subprocess.Popen(
            [sys.executable, "-c", LISTEN, path], stdout=subprocess.PIPE,
            text=True) as impostor:
        try:
            assert impostor.stdout.readline() == "listens\n"
            with pytest.raises(psycopg.OperationalError, match="somebody else listens") as caught:
                session.execute(ask)
            assert caught.value.sqlstate == "08006" and "65534" in caught.value.diag.message_detail
            [(ok, detail)] = session.execute("SELECT ok, detail FROM pgrain.doctor() WHERE "
                                             "what = 'worker'").fetchall()
            assert not ok and "somebody else" in detail
            assert session.execute("SELECT count(pgrain.predict('colour', x)) FROM items"
                                   ).fetchone()[0] > 100, "what is stored answers"
            time.sleep(1)
        finally:
            impostor.kill()
            heard = impostor.stdout.read().split("\n")
    assert {line for line in heard if line} <= {"heard 0"}, heard
    Path(path).unlink(missing_ok=True)
    small.worker.start()
    assert small.value(ask) == expected
