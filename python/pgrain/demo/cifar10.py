"""CIFAR-10 in its official binary form, for those who have the files: no package carries them.

Six files of 10 000 records, `data_batch_1.bin` ... `data_batch_5.bin` and `test_batch.bin`; a
record is one byte of label and 3 072 bytes of picture: 1 024 red, 1 024 green, 1 024 blue, each
row-major (32 x 32). Point `PGRAIN_CIFAR10` to the folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pgrain.demo.datasets import DatasetBroken, DatasetMissing

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE, CHANNELS = 32, 3
TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILES = ("test_batch.bin",)
_RECORD = 1 + SIDE * SIDE * CHANNELS


@dataclass(frozen=True)
class ColourImages:
    """Pictures with their labels, in the order of the files."""

    pixels: np.ndarray
    """(N, 32, 32, 3) uint8."""
    labels: np.ndarray
    """(N,) uint8, indices into CLASSES."""

    def __len__(self) -> int:
        return len(self.labels)


def folder() -> Path | None:
    """Where the user said the files are; None if nowhere."""
    name = os.environ.get("PGRAIN_CIFAR10")
    return Path(name) if name else None


def read_binary(path: Path) -> ColourImages:
    """One file of records."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if data.size == 0 or data.size % _RECORD:
        raise DatasetBroken(f"{path} has {data.size} bytes, which is no whole number of records "
                            f"of {_RECORD}")
    records = data.reshape(-1, _RECORD)
    labels = records[:, 0].copy()
    if labels.max() >= len(CLASSES):
        raise DatasetBroken(f"{path} has a label {labels.max()}; is it CIFAR-100?")
    planes = records[:, 1:].reshape(-1, CHANNELS, SIDE, SIDE)
    return ColourImages(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)


def file(name: str, where: Path | None = None) -> Path:
    """One of the six files; `DatasetMissing` if it is not there."""
    where = where or folder()
    if where is None:
        raise DatasetMissing("CIFAR-10 is in no package; unpack cifar-10-binary.tar.gz yourself "
                             "and set PGRAIN_CIFAR10 to the folder with data_batch_1.bin")
    if not (where / name).exists():
        raise DatasetMissing(f"{where / name} is not there; PGRAIN_CIFAR10 must name the "
                             "folder of the official binary version")
    return where / name


def cifar10(part: str, where: Path | None = None) -> ColourImages:
    """`part` "train" (50 000 pictures) or "test" (10 000)."""
    parts = [read_binary(file(name, where))
             for name in (TRAIN_FILES if part == "train" else TEST_FILES)]
    return ColourImages(np.concatenate([p.pixels for p in parts]),
                        np.concatenate([p.labels for p in parts]))
