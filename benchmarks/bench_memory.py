"""What processes hold of the machine's memory, by /proc."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path


def memory_kib(pid: int | None, what: str) -> int | None:
    """KiB: VmRSS or RssAnon now, VmHWM at most so far; None if the process has gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(what + ":"):
                return int(line.split()[1])
    return None


def memory(pid: int, what: str) -> float:
    """The same in MB, of a process that is there."""
    found = memory_kib(pid, what)
    if found is None:
        raise ProcessLookupError(f"no process {pid}")
    return found / 1e3


def of_session(pid: int) -> tuple[float, float]:
    """(private MB, MB of the map of stored predictions) of a session; 0 where it has no map."""
    fields = dict(re.findall(r"^(\w+): +(\d+) kB",
                             Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M))
    found = re.search(r"^(\w+)-(\w+) .*memfd:pgrain predictions",
                      Path(f"/proc/{pid}/maps").read_text(), re.M)
    return ((int(fields["Private_Dirty"]) + int(fields["Private_Clean"])) / 1e3,
            (int(found[2], 16) - int(found[1], 16)) / 1e6 if found else 0.0)
