"""The bytes of a bundle: one safetensors file whose metadata holds a manifest with checksums.

The metadata has two entries: `manifest`, a JSON object, and `sha256`, of the manifest's bytes. The
manifest names every tensor with its dtype, shape and SHA-256, and nothing else may be in the file;
so each byte that matters is covered. Checksums find damage and clumsy changes; they do not sign.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pgrain.errors import DataCorrupted, InvalidArgument

FORMAT = 1
_AGAIN = "Have it sent again, or export it again."


def write(path: Path, about: dict, tensors: dict[str, np.ndarray]) -> None:
    """Write a bundle; the file appears under its name when it is whole."""
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    manifest = json.dumps({"format": FORMAT, **about, "tensors": {
        name: _entry(array) for name, array in tensors.items()}}, sort_keys=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, beside, metadata={
            "manifest": manifest, "sha256": hashlib.sha256(manifest.encode()).hexdigest()})
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """(manifest, tensors) of a bundle; XX001 if it is truncated or has been changed, 22023 if it is
    none or of another format."""
    if not path.is_file():
        raise InvalidArgument(f"there is no file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            manifest = _manifest(path, metadata)
            names = set(file.keys())
            if names != set(manifest["tensors"]):
                raise DataCorrupted(f"{path} does not hold the arrays that its manifest names",
                                    hint=_AGAIN)
            tensors = {}
            for name, expected in manifest["tensors"].items():
                array = file.get_tensor(name)
                if _entry(array) != expected:
                    raise DataCorrupted(f"{path} has been changed: the checksum of {name} does not "
                                        "match", hint=_AGAIN)
                tensors[name] = array
    except (SafetensorError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise DataCorrupted(f"{path} is truncated, damaged, or no bundle", detail=str(error),
                            hint=_AGAIN) from None
    return manifest, tensors


def _manifest(path: Path, metadata: dict) -> dict:
    text = metadata.get("manifest")
    if text is None:
        raise InvalidArgument(f"{path} is no bundle of pgrain",
                              detail="It is a safetensors file without a manifest.")
    if hashlib.sha256(text.encode()).hexdigest() != metadata.get("sha256"):
        raise DataCorrupted(f"{path} has been changed: its manifest does not match its checksum",
                            hint=_AGAIN)
    manifest = json.loads(text)
    if manifest.get("format") != FORMAT:
        raise InvalidArgument(f"{path} has format {manifest.get('format')}, not {FORMAT}",
                              hint="Use the version of pgrain that wrote it.")
    return manifest


def _entry(array: np.ndarray) -> dict:
    return {"dtype": array.dtype.str, "shape": list(array.shape),
            "sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}
