"""What the worker does about its allocator: memory that many threads have used and freed is given
back. (What a whole worker takes under load is measured by `make load`.)"""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Each thread frees all but one in fifty of its blocks, which are too small to be mapped each alone
PROGRAM = """
import sys, threading
from pgrain.worker import memory
it = memory.Memory()
if sys.argv[1] == "kept within bounds":
    memory.TRIM_SECONDS = -1
    it.begin()
kept, barrier = [], threading.Barrier(16)
def work():
    barrier.wait()
    blocks = [bytearray(60_000) for _ in range(200)]
    for block in blocks:
        block[::4096] = b"x" * len(block[::4096])
    kept.extend(blocks[::50])
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
if sys.argv[1] == "kept within bounds":
    it.trim()
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line[:7] == "RssAnon"))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_threads_have_freed_is_given_back():
    def resident(how: str) -> int:
        """MiB at the end of a process of its own."""
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True,
                              check=True)
        return int(done.stdout) // 1024
    held, left_alone = resident("kept within bounds"), resident("left alone")
    assert left_alone > 100, "the program does not show what it is about"
    assert held < left_alone / 3, (held, left_alone)
