"""Weights that were trained elsewhere, from the bytes of a safetensors or Flax msgpack file.

Both formats hold arrays and names and nothing that is run; pickles (PyTorch's .pt, joblib) are not
read. Names are those of `Model.to_pytree`: layers and parameters joined by dots, with or without a
leading `params`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import flax.serialization
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict

from pgrain.errors import InvalidArgument
from pgrain.models.registry import Model


def read(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file by name; 22023 if it is of neither format."""
    if _looks_like_safetensors(data):
        try:
            return _named(safetensors.numpy.load(bytes(data)))
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise _unreadable(f"as safetensors: {error}") from error
    if data[:2] == b"PK" or data[:1] == b"\x80":
        raise InvalidArgument("the weights are a pickle, which is not read",
                              detail="A pickle runs code when it is opened.",
                              hint="Save them with safetensors (in Python: safetensors.numpy."
                                   "save_file) or flax.serialization.msgpack_serialize.")
    try:
        tree = flax.serialization.msgpack_restore(bytes(data))
    except Exception as error:      # msgpack has a dozen of its own
        raise _unreadable(f"as Flax msgpack: {error}") from error
    if not isinstance(tree, Mapping):
        raise _unreadable("its top level is no map of layers")
    return _named({".".join(map(str, path)): value for path, value in flatten_dict(tree).items()})


def theta_of(model: Model, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """theta (d,) float32 of the model from arrays by name.

    A convolution's kernel may come as Flax's `nn.Conv` has it, (height, width, in, out). 22023 for
    names or shapes that are not the model's, or numbers that are not finite.
    """
    wanted = model.shapes()["parameters"]
    fitted = {}
    for name, value in arrays.items():
        shape = wanted.get(name)
        if (shape is not None and value.ndim == 4 and len(shape) == 2
                and [math.prod(value.shape[:3]), value.shape[3]] == shape):
            value = value.reshape(shape)
        fitted[name] = value
    theta = np.asarray(model.from_pytree(fitted), np.float32)
    if not np.isfinite(theta).all():
        raise InvalidArgument("the weights hold numbers that are not finite")
    return theta


def _looks_like_safetensors(data: bytes) -> bool:
    """Eight bytes of length, then a JSON object of that length."""
    if len(data) < 10:
        return False
    length = int.from_bytes(data[:8], "little")
    return length <= len(data) - 8 and data[8:9] == b"{"


def _named(arrays: Mapping) -> dict[str, np.ndarray]:
    out = {}
    for name, value in arrays.items():
        try:
            value = np.asarray(value)
        except ValueError as error:     # a list of what does not go together
            raise InvalidArgument(f'"{name}" of the weights is no array of numbers') from error
        if value.dtype.kind not in "fiu" and value.dtype.name != "bfloat16":
            raise InvalidArgument(f'"{name}" of the weights is {value.dtype}, not numbers')
        out[name.replace("/", ".").removeprefix("params.")] = value.astype(np.float32)
    if not out:
        raise _unreadable("there is no array in it")
    return out


def _unreadable(why: str) -> InvalidArgument:
    return InvalidArgument("the weights cannot be read", detail=f"They were tried {why}."
                           if why.startswith("as ") else f"{why[0].upper()}{why[1:]}.",
                           hint="Give the bytes of a safetensors or a Flax msgpack file.")
