"""Where a training is, kept in the database, so that a new worker takes it up after its last epoch.

One copy a job, replaced each time: weights, the optimizer's state and the best weights so far, some
16 bytes a parameter. It is written when an epoch has ended and writing takes at most a twentieth of
the time; and it counts only for the same rows, options and first weights.
"""

from __future__ import annotations

import hashlib
import json
import time

import numpy as np
import structlog

from pgrain.errors import DataCorrupted
from pgrain.models.training import State
from pgrain.store import versions

log = structlog.get_logger()
SECONDS = 3.0           # between two copies at least
SHARE = 20              # and as many times what writing the last one took


class Checkpoints:
    """The copy of one job. `subject`: a digest of all that the training depends on."""

    def __init__(self, job, subject: bytes):
        self._job, self._subject = job, np.frombuffer(subject, np.uint8)
        self._due = time.monotonic() + SECONDS

    def resume(self) -> State | None:
        """The state to go on from; None where nothing is kept, or it is of another training."""
        try:
            state = versions.read_checkpoint(self._job.connection, self._job.number)
        except DataCorrupted as error:      # then it is trained from the start
            log.warning("checkpoint dropped", error=error.message)
            return None
        if state is None or not np.array_equal(state.pop("subject"), self._subject):
            return None
        log.info("training resumed", job=self._job.number)
        return state

    def keep(self, state) -> None:
        """`training.train` calls this after every epoch; state() makes the arrays."""
        start = time.monotonic()
        if start < self._due:
            return
        versions.write_checkpoint(self._job.connection, self._job.model, self._job.number,
                                  {**state(), "subject": self._subject})
        now = time.monotonic()
        self._due = now + max(SECONDS, SHARE * (now - start))


def subject(options: dict, start, labels: np.ndarray, rows: list) -> bytes:
    """What a training depends on, as a digest: options, classes, encoding, first weights, and
    every row's features (as their digest) and class, in order."""
    state = hashlib.sha256(json.dumps([options, start.classes, start.encoder.to_json(),
                                       start.network.shapes()], sort_keys=True).encode())
    state.update(b"" if start.theta is None else np.asarray(start.theta).tobytes())
    state.update(labels.tobytes())
    for row in rows:
        state.update(row.digest)
    return state.digest()
