"""Frames: what goes over the socket, byte for byte. The protocol's page is docs/dev/protocol.md.

A frame is a prefix of 12 bytes, a header (a JSON object, UTF-8) and a body (binary blobs, one after
another, whose lengths the header lists under ``blobs``)::

    offset  size  field
    0       2     magic, b"PG"
    2       1     protocol version
    3       1     kind of message (see messages.py)
    4       4     length of the header, big endian
    8       4     length of the body, big endian

Both sides use this one codec. Nothing here reads from a socket: `read_frame` takes a function that
returns exactly n bytes, so that the client can wait in slices and the server can simply block.
"""

from __future__ import annotations

import json
import struct
from collections import namedtuple
from collections.abc import Callable, Sequence

from pgrain.errors import ProtocolViolation
from pgrain.settings import FRAME_BYTES, HEADER_BYTES

PROTOCOL_VERSION = 1
MAGIC = b"PG"
PREFIX = struct.Struct("!2sBBII")


class Frame(namedtuple("Frame", "kind header blobs")):
    """One message: its kind (int), header (dict) and blobs (memoryviews into the body)."""

    __slots__ = ()


def encode(kind: int, header: dict, blobs: Sequence = ()) -> list:
    """The frame as a list of buffers, to be sent in order (no copy of the blobs).

    Raises 54000 if it would be larger than the other side accepts.
    """
    views = [memoryview(blob).cast("B") for blob in blobs]
    if views:
        header = {**header, "blobs": [view.nbytes for view in views]}
    text = _write(header).encode()
    body = sum(view.nbytes for view in views)
    HEADER_BYTES.limit(len(text))
    FRAME_BYTES.limit(PREFIX.size + len(text) + body)
    return [PREFIX.pack(MAGIC, PROTOCOL_VERSION, kind, len(text), body) + text, *views]


def read_frame(receive: Callable[[int], bytes]) -> Frame:
    """The next frame; `receive(n)` returns exactly n bytes or raises.

    Raises ProtocolViolation for anything that `encode` of this version cannot have made. Lengths
    are checked before anything of that length is received.
    """
    magic, version, kind, header_length, body_length = PREFIX.unpack(receive(PREFIX.size))
    if magic != MAGIC:
        raise ProtocolViolation("the other side does not speak the pgrain protocol",
                                detail=f"A frame began with {magic!r}.")
    if version != PROTOCOL_VERSION:
        raise ProtocolViolation(
            f"the other side speaks version {version} of the protocol, "
            f"this side {PROTOCOL_VERSION}",
            hint="Install the same version of the extension and of the worker.")
    if header_length > HEADER_BYTES.default or body_length > FRAME_BYTES.default:
        raise ProtocolViolation("a frame is larger than allowed",
                                detail=f"Header {header_length}, body {body_length} bytes.")
    header = _parse_header(receive(header_length))
    body = memoryview(receive(body_length)) if body_length else memoryview(b"")
    return Frame(kind, header, _split(body, header.pop("blobs", [])))


def _parse_header(text: bytes) -> dict:
    try:
        header = _read(str(text, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation("a frame's header is not JSON", detail=str(error)) from None
    if not isinstance(header, dict):
        raise ProtocolViolation("a frame's header is not a JSON object")
    return header


def _no_constant(name: str):
    raise ValueError(f"{name} is not JSON")


# Made once: json.dumps and json.loads make theirs anew in each call.
_write = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_read = json.JSONDecoder(parse_constant=_no_constant).decode


def _split(body: memoryview, lengths) -> list:
    if (not isinstance(lengths, list)
            or any(type(n) is not int or n < 0 for n in lengths)
            or sum(lengths) != body.nbytes):
        raise ProtocolViolation("a frame's blobs do not add up to its body",
                                detail=f"The body has {body.nbytes} bytes.")
    blobs, at = [], 0
    for length in lengths:
        blobs.append(body[at:at + length])
        at += length
    return blobs
