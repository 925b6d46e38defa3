"""A client that also takes file descriptors, which a Unix socket carries beside its bytes."""

from __future__ import annotations

import array
import os
import socket
import time

from pgrain.wire import address
from pgrain.wire.client import Client


class DescriptorClient(Client):
    """A connection for one request whose answer may bring descriptors (`descriptors`, the caller's
    to close). `patience`: seconds after which a worker that says nothing is given up; `greeting`:
    one that does not even greet."""

    def __init__(self, path: str, version: str, database: str, *, patience: float,
                 greeting: float, **given):
        super().__init__(path, version, database, **given)
        self.descriptors: list[int] = []
        now = time.monotonic()
        self._until, self._greeted_until = now + patience, now + greeting

    @staticmethod
    def possible(path: str) -> bool:
        """Whether the worker at this address is on this machine."""
        return isinstance(address.parse(path), str)

    def take(self) -> int | None:
        """The first descriptor that came; others, which nobody asked for, are closed."""
        taken = self.descriptors[0] if self.descriptors else None
        for descriptor in self.descriptors[1:]:
            os.close(descriptor)
        self.descriptors.clear()
        return taken

    def _receive(self, count: int, deadline: float) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            try:
                got, beside, _, _ = self._socket.recvmsg_into([view], socket.CMSG_SPACE(4))
            except OSError as error:
                self._retry(error, deadline, "read")
                continue
            for level, kind, content in beside:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    numbers = array.array("i")
                    numbers.frombytes(content[:len(content) - len(content) % numbers.itemsize])
                    self.descriptors.extend(numbers)
            if got == 0:
                raise self._lost("the worker closed the connection")
            view = view[got:]
        return data

    def _wait(self, deadline: float, write: bool = False) -> None:
        super()._wait(min(deadline, self._until if self.welcome else self._greeted_until), write)
