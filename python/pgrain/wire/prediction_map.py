"""Stored predictions of one version as one read-only block of memory that all sessions map.

The worker writes it (`pack`) into a sealed memory file and hands its descriptor to sessions over
their Unix socket, so there is no path and no permission that anybody could change, it cannot shrink
under a reader, and it goes when nobody maps it any more. Little endian throughout:

==============  ===============================================================================
64 bytes        `HEADER`: magic, number of values, of classes, shift, length in bytes
buckets         uint32: how many digests are in the buckets before; one more for the end
digests         16 bytes each, ordered by bucket: the first 4 bytes as a number, >> shift
codes           uint16 a digest: the predicted class
probabilities   float32 a digest and class
==============  ===============================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from pgrain.errors import DataCorrupted
from pgrain.wire.identity import DIGEST_BYTES

HEADER = struct.Struct("<8sQIIQ32x")
MAGIC = b"pgrain\x01M"
_A_BUCKET = 2            # digests in a bucket, on average at most


def shift_for(n: int) -> int:
    """How far the first four bytes of a digest are shifted to number its bucket, of n digests."""
    bits = 1
    while bits < 26 and (_A_BUCKET << bits) < n:
        bits += 1
    return 32 - bits


def places(n: int, n_classes: int, shift: int) -> tuple[int, int, int, int, int]:
    """Where buckets, digests, codes and probabilities begin, and the length of it all."""
    buckets = HEADER.size
    digests = _even(buckets + 4 * ((1 << (32 - shift)) + 1))
    codes = digests + DIGEST_BYTES * n
    probabilities = _even(codes + 2 * n)
    return buckets, digests, codes, probabilities, probabilities + 4 * n_classes * n


def _even(at: int) -> int:
    return -(-at // 64) * 64


class PredictionMap:
    """A mapped block: `find` gives a digest's place (or None), `codes[place]` its class.

    data: a bytes-like object with `find`: mmap or bytes.
    """

    def __init__(self, data):
        if len(data) < HEADER.size:
            raise DataCorrupted("the map of stored predictions is cut short")
        magic, self.n, self.n_classes, shift, length = HEADER.unpack_from(data)
        if magic != MAGIC or not 6 <= shift <= 31:
            raise DataCorrupted("the map of stored predictions is none")
        buckets, digests, codes, probabilities, end = places(self.n, self.n_classes, shift)
        if end != length or len(data) < length:
            raise DataCorrupted("the map of stored predictions has the wrong length")
        view = memoryview(data)
        self.nbytes = length
        self.codes = view[codes:codes + 2 * self.n].cast("H")
        self._probabilities = view[probabilities:end]
        self.find = _finder(data, view[buckets:buckets + 4 * ((1 << (32 - shift)) + 1)].cast("I"),
                            digests, shift)

    def probabilities(self, place: int) -> bytes:
        """float32 probabilities of the digest at a place."""
        width = 4 * self.n_classes
        return bytes(self._probabilities[place * width:(place + 1) * width])


def _finder(data, buckets: memoryview, base: int, shift: int) -> Callable[[bytes], int | None]:
    first_number, find = struct.Struct("<I").unpack_from, data.find

    def place_of(digest: bytes) -> int | None:
        bucket = first_number(digest)[0] >> shift
        low, high = base + DIGEST_BYTES * buckets[bucket], base + DIGEST_BYTES * buckets[bucket + 1]
        while low < high:
            at = find(digest, low, high)
            if at < 0:
                return None
            place, beside = divmod(at - base, DIGEST_BYTES)
            if not beside:
                return place
            low = base + DIGEST_BYTES * (place + 1)     # across two digests: none of ours
        return None

    return place_of
