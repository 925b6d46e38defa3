"""Complaint vectors: a complaint compressed to as many numbers as there are stored eigenpairs.

The team that has the inference data makes one; the team that has the training data ranks by it.
Nothing of the query, of its data or of the training rows is in it. Layout, little endian:

    4 bytes "PGCV", 1 byte layout version, uint32 length of the header
    header: JSON {"models": [{"model", "version", "fingerprint", "pairs"}]}
    for each model float64 c (pairs), V^T grad q, and float64 (pairs), V^T grad of its cell
    32 bytes SHA-256 of all before

The fingerprint is of the parameters and eigenvectors themselves: numbers of versions differ between
databases. All stored pairs are in it, so that k and filter are chosen by whoever ranks. The
checksum finds damage; it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass

import numpy as np

from pgrain.errors import InvalidArgument
from pgrain.worker.resident import Resident, Spectrum

MAGIC, LAYOUT = b"PGCV", 1
_HEAD = struct.Struct("<4sBI")
_CHECKSUM = 32


@dataclass
class Part:
    """One model's share of a complaint. version: its number where the vector was made;
    q, cell: (m,) float64."""

    model: str
    version: int
    fingerprint: str
    q: np.ndarray
    cell: np.ndarray


def fingerprint(resident: Resident, spectrum: Spectrum) -> str:
    """Names parameters, classes and eigenpairs by their content; worked out once a spectrum."""
    if spectrum.fingerprint is None:
        state = hashlib.sha256(json.dumps(resident.row.classes).encode())
        for array, kind in ((resident.theta, "<f4"), (spectrum.row.eigenvalues, "<f8"),
                            (spectrum.vectors.T, "<f4")):
            state.update(np.ascontiguousarray(array, kind).data)
        spectrum.fingerprint = state.hexdigest()
    return spectrum.fingerprint


def pack(parts: list[Part]) -> bytes:
    """The bytes of a vector."""
    header = json.dumps({"models": [
        {"model": part.model, "version": part.version, "fingerprint": part.fingerprint,
         "pairs": len(part.q)} for part in parts]}).encode()
    body = _HEAD.pack(MAGIC, LAYOUT, len(header)) + header + b"".join(
        np.concatenate([part.q, part.cell]).astype("<f8").tobytes() for part in parts)
    return body + hashlib.sha256(body).digest()


def unpack(data: bytes) -> list[Part]:
    """The parts of a vector; 22023 for what is none, or is damaged."""
    data = bytes(data)
    if data[:len(MAGIC)] != MAGIC:
        raise InvalidArgument("this is no complaint vector",
                              hint="Make one with pgrain.complaint_vector(query, complaint).")
    if len(data) < _HEAD.size + _CHECKSUM \
            or hashlib.sha256(data[:-_CHECKSUM]).digest() != data[-_CHECKSUM:]:
        raise InvalidArgument("the complaint vector is truncated or has been changed",
                              detail="Its checksum does not match.", hint="Have it sent again.")
    _, layout, length = _HEAD.unpack_from(data)
    if layout != LAYOUT:
        raise InvalidArgument(f"the complaint vector has layout {layout}, not {LAYOUT}",
                              hint="Use the same version of pgrain on both sides.")
    try:
        described = json.loads(data[_HEAD.size:_HEAD.size + length])["models"]
        numbers = np.frombuffer(data[_HEAD.size + length:-_CHECKSUM], "<f8")
        parts, at = [], 0
        for fields in described:
            pairs = int(fields["pairs"])
            q, cell = numbers[at:at + pairs], numbers[at + pairs:at + 2 * pairs]
            at += 2 * pairs
            parts.append(Part(str(fields["model"]), int(fields["version"]),
                              str(fields["fingerprint"]), q, cell))
        if at != len(numbers) or not np.isfinite(numbers).all():
            raise ValueError("numbers and header do not fit")
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgument("the complaint vector cannot be read", detail=f"{error}.") from None
    return parts


def part_for(parts: list[Part], resident: Resident, spectrum: Spectrum) -> Part:
    """The part about a model as it is active here; 22023 if the vector is of another version."""
    own, name = fingerprint(resident, spectrum), resident.row.model
    for part in parts:
        if part.fingerprint == own:
            return part
    made = ", ".join(f'version {part.version} of "{part.model}"' for part in parts)
    raise InvalidArgument(
        f'the complaint vector is not of the active version of model "{name}"',
        detail=f"It was made with {made}; active here is version {resident.row.version}, with "
               "other parameters or eigenpairs.",
        hint="Activate the version that it was made with, or ask for a new vector.")
