"""Fashion-MNIST from Debian's package `dataset-fashion-mnist`, read from its IDX files.

An IDX file is big endian: two zero bytes, a type byte (8: unsigned byte), the number of dimensions,
each dimension as uint32, then the values, last dimension fastest.
"""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
           "ankle boot")
SIDE = 28
_UNSIGNED_BYTE = 8


class DatasetMissing(Exception):
    """A data set is not on this machine; the message says how to get it."""


class DatasetBroken(Exception):
    """A file is not what its name says."""


@dataclass(frozen=True)
class Images:
    """Pictures with their true labels, in the order of the file."""

    pixels: np.ndarray
    """(N, 28, 28) uint8; 0 is background."""
    labels: np.ndarray
    """(N,) uint8, indices into CLASSES."""

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, rows: int) -> Images:
        return Images(self.pixels[:rows], self.labels[:rows])


def read_idx(path: Path) -> np.ndarray:
    """The array in one IDX file of unsigned bytes (gzipped if its name ends in .gz)."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as handle:
        data = handle.read()
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UNSIGNED_BYTE:
        raise DatasetBroken(f"{path} is no IDX file of unsigned bytes")
    dimensions = data[3]
    start = 4 + 4 * dimensions
    shape = struct.unpack(f">{dimensions}I", data[4:start]) if len(data) >= start else ()
    values = np.frombuffer(data, np.uint8, offset=min(start, len(data)))
    if len(shape) != dimensions or values.size != int(np.prod(shape)):
        raise DatasetBroken(f"{path} promises {shape} values and holds {values.size}")
    return values.reshape(shape)


def fashion_files(part: str, folder: Path = FOLDER) -> list[Path]:
    """Pictures and labels of a part; `DatasetMissing` unless both are there."""
    names = [folder / f"{part}-images-idx3-ubyte.gz", folder / f"{part}-labels-idx1-ubyte.gz"]
    for name in names:
        if not name.exists():
            raise DatasetMissing(f"{name} is not there; apt-get install dataset-fashion-mnist")
    return names


def fashion_mnist(part: str, folder: Path = FOLDER) -> Images:
    """`part` "train" (60 000 pictures) or "t10k" (10 000)."""
    names = fashion_files(part, folder)
    pixels, labels = map(read_idx, names)
    if pixels.shape != (len(labels), SIDE, SIDE) or labels.max(initial=0) >= len(CLASSES):
        raise DatasetBroken(f"{names[0]} and {names[1]} do not belong together")
    return Images(pixels, labels)
