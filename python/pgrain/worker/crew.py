"""Several processes, one worker: the first serves and decides, the others lend their devices.

`pgrain worker --coordinator HOST:PORT --processes N --process I` joins N processes through
`jax.distributed`. Process 0 is the worker as always (database, socket, jobs). The others have no
database: they wait for a command, get the arrays that it needs from process 0, and run the same
collective computation. Lanczos runs on process 0 alone, so that differences in rounding between
hosts cannot make them part ways.

What is divided: Hessian products and projections of training rows, the passes that take long.
Training itself and answers to sessions stay on process 0. If one process dies, JAX ends all of
them; the job is taken up again when they are back.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import jax
import numpy as np
import structlog
from jax.experimental import multihost_utils

from pgrain.errors import UnsupportedOperator
from pgrain.influence import devices
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.projections import project
from pgrain.models.registry import Model, build, forget_compiled

log = structlog.get_logger()
WAIT_MILLISECONDS = 5000
SHUTDOWN_SECONDS = 8
_current: Crew | None = None


def join(coordinator: str, processes: int, process: int) -> None:
    """Become one of `processes`; must come before any computation. Waits for the others."""
    global _current
    # JAX's preemption service would take SIGTERM, which is ours to answer.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(coordinator_address=coordinator, num_processes=processes,
                               process_id=process, shutdown_timeout_seconds=SHUTDOWN_SECONDS)
    _notes()
    log.info("joined", devices=devices.describe(), process=process)
    if process == 0:
        _current = Crew()


def current() -> Crew | None:
    """The crew of this worker; None if it works alone."""
    return _current


def _notes():
    """The key-value store of JAX's coordination service: notes from process 0 to the others.

    JAX has no public name for it (`jax.distributed` has initialize, is_initialized and shutdown);
    this is the one private name that pgrain uses, and `join` asks for it before anything else.
    Public collectives cannot take its place: a process that waits for work would be inside one,
    where it sees no signal and runs into the collective's timeout. pyproject.toml holds JAX to the
    minor version that this was tried with; 0A000 where the name has moved.
    """
    try:
        from jax._src import distributed
        client = distributed.global_state.client
        assert all(hasattr(client, name) for name in (
            "key_value_set", "key_value_delete", "blocking_key_value_get"))
    except (ImportError, AttributeError, AssertionError) as error:
        raise UnsupportedOperator(
            f"several processes do not work with JAX {jax.__version__}",
            detail=f"Its key-value store is not where pgrain looks for it: {error!r}.",
            hint="Install a JAX of the versions that pgrain's extra worker asks for, or start "
                 "the worker without --coordinator.") from error
    return client


class Crew:
    """The end of process 0. One job at a time uses it."""

    def __init__(self):
        self._sent = 0

    def operator(self, model: Model, theta, X, y, alpha: float, *, n_total: int,
                 curvature: str) -> Callable[[np.ndarray], np.ndarray]:
        """`hessian_operator` over the devices of all processes."""
        theta, y = np.asarray(theta, np.float32), np.asarray(y, np.int32)
        self._send("operator", {"model": _spec(model), "alpha": alpha, "n_total": n_total,
                                "curvature": curvature}, [theta, np.asarray(X), y])
        local = hessian_operator(model, theta, X, y, alpha, n_total=n_total, curvature=curvature,
                                 mesh=devices.everywhere())

        def matvec(v: np.ndarray) -> np.ndarray:
            v = np.asarray(v, np.float32)
            self._send("product", {}, [v])
            return local(v)

        return matvec

    def project(self, model: Model, theta, X, V) -> tuple[np.ndarray, np.ndarray]:
        """`project` over the devices of all processes."""
        theta, V = np.asarray(theta, np.float32), np.asarray(V, np.float32)
        self._send("project", {"model": _spec(model)}, [theta, np.asarray(X), V])
        return project(model, theta, X, V, mesh=devices.everywhere())

    def end(self) -> None:
        """Let the others go, and wait for them."""
        self._send("end", {}, [])
        jax.distributed.shutdown()

    def _send(self, command: str, header: dict, arrays: list[np.ndarray]) -> None:
        header = {**header, "command": command,
                  "arrays": [[str(a.dtype), list(a.shape)] for a in arrays]}
        client = _notes()
        client.key_value_set(f"pgrain/{self._sent}", json.dumps(header))
        if self._sent > 16:       # long since read by everybody: a later broadcast waited for them
            client.key_value_delete(f"pgrain/{self._sent - 16}")
        self._sent += 1
        for array in arrays:
            multihost_utils.broadcast_one_to_all(array)


def follow(stopping: Callable[[], bool] = lambda: False) -> int:
    """What the other processes do until they are told to end; how many commands they served."""
    client = _notes()
    number, operator, served = 0, None, 0
    while True:
        try:
            header = json.loads(client.blocking_key_value_get(f"pgrain/{number}",
                                                              WAIT_MILLISECONDS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            if stopping():
                return served
            continue
        number += 1
        arrays = [np.asarray(multihost_utils.broadcast_one_to_all(np.zeros(shape, dtype)))
                  for dtype, shape in header["arrays"]]
        if header["command"] == "end":
            log.info("let go", commands=served)
            jax.distributed.shutdown()
            return served
        if header["command"] == "operator":
            theta, X, y = arrays
            forget_compiled()       # of jobs before this one
            operator = hessian_operator(_model(header["model"]), theta, X, y, header["alpha"],
                                        n_total=header["n_total"], curvature=header["curvature"],
                                        mesh=devices.everywhere())
        elif header["command"] == "product":
            operator(arrays[0])
        elif header["command"] == "project":
            theta, X, V = arrays
            project(_model(header["model"]), theta, X, V, mesh=devices.everywhere())
        served += 1


def _spec(model: Model) -> dict:
    return {"architecture": model.architecture, "n_classes": model.n_classes,
            "input_shape": list(model.input_shape), "options": model.options,
            "n_tokens": model.n_tokens}


def _model(spec: dict) -> Model:
    return build(spec["architecture"], spec["n_classes"], tuple(spec["input_shape"]),
                 spec["options"], n_tokens=spec["n_tokens"])
