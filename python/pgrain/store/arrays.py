"""Arrays as bytes: safetensors, with a SHA-256 that is checked when they are read."""

from __future__ import annotations

import hashlib

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pgrain.errors import DataCorrupted


def pack(arrays: dict[str, np.ndarray]) -> tuple[bytes, bytes]:
    """(checksum, data) of named arrays."""
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return checksum(data), data


def unpack(expected: bytes, data: bytes, what: str) -> dict[str, np.ndarray]:
    """The arrays of `pack`; XX001 if the checksum does not match."""
    verify(expected, data, what)
    try:
        return load(bytes(data))
    except SafetensorError as error:
        raise DataCorrupted(f"{what} cannot be read", detail=str(error)) from None


def checksum(*parts: bytes) -> bytes:
    """SHA-256 over the parts, one after another."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.digest()


def verify(expected: bytes, *arguments) -> None:
    """XX001 unless the parts (all but the last argument, a description) have this checksum."""
    *parts, what = arguments
    if checksum(*parts) != bytes(expected):
        raise DataCorrupted(f"{what} is damaged: its checksum does not match",
                            hint="Check the storage; compute it again with pgrain.precompute "
                                 "or pgrain.train.")


def pack_texts(texts: list[str]) -> dict[str, np.ndarray]:
    """A list of texts as two arrays."""
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    return {"text": np.frombuffer(b"".join(encoded), np.uint8), "offsets": offsets}


def unpack_texts(arrays: dict[str, np.ndarray]) -> list[str]:
    """The list that `pack_texts` packed."""
    data, offsets = arrays["text"].tobytes(), arrays["offsets"].tolist()
    return [data[a:b].decode() for a, b in zip(offsets, offsets[1:], strict=False)]
