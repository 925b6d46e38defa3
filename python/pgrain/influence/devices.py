"""More than one device: rows divided over a mesh, sums added up by the devices themselves.

JAX's own sharding does the work; this file says which devices and how arrays lie on them. A pass
over training rows gives each device its share of the rows. On several hosts (`jax.distributed`)
every process must make the same calls in the same order: `worker/crew.py` sees to that, and only
what it calls runs on `everywhere()`; all else stays on the devices of its own process.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

ROWS = "rows"


@functools.cache
def everywhere() -> Mesh:
    """All devices of all processes."""
    return Mesh(np.array(jax.devices()), (ROWS,))


@functools.cache
def here() -> Mesh | None:
    """All devices of this process, if there are several and it is alone; else None."""
    if jax.process_count() > 1 or len(jax.devices()) == 1:
        return None
    return everywhere()


def split(rows: np.ndarray, mesh: Mesh) -> jax.Array:
    """`rows` with the leading axis (a multiple of the devices) divided over the mesh. A process
    uploads the parts of its own devices alone."""
    return _placed(rows, NamedSharding(mesh, P(ROWS)))


def copied(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """The whole array on each device."""
    return _placed(array, NamedSharding(mesh, P()))


def _placed(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def collect(array: jax.Array) -> np.ndarray:
    """A divided or copied array on this host."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def describe() -> str:
    """What there is, such as "4 cpu devices in 2 processes"."""
    n, processes = len(jax.devices()), jax.process_count()
    text = f"{n} {jax.devices()[0].platform} device{'s' if n > 1 else ''}"
    return text + (f" in {processes} processes" if processes > 1 else "")
