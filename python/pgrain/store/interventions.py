"""Feature repairs of a model: rows of pgrain.intervention, their values, where they are projected.

The values of a SQL repair are stored in canonical bytes (wire/identity.py) beside the digest of the
value that they were made of (without the installation's secret: sessions compute it, too), so that
a row which has changed since is noticed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import psycopg

from pgrain.store.arrays import unpack
from pgrain.wire.identity import array_received, parse_columns


@dataclass
class Intervention:
    """pgrain.intervention. library: None for values computed by the user's SQL expressions."""

    number: int
    model: str
    name: str
    library: str | None
    options: dict
    fitted: dict | None


def of_model(connection: psycopg.Connection, model: str) -> list[Intervention]:
    """The feature repairs of a model, in the order of their creation."""
    return [Intervention(**row) for row in connection.execute("""
        SELECT intervention AS number, model, name, library, options, fitted
        FROM pgrain.intervention WHERE model = %s ORDER BY intervention""", [model])]


def save_fitted(connection: psycopg.Connection, number: int, fitted: dict) -> dict:
    """Store what a repair has learned from the training values, unless it is there already;
    returns what is there."""
    connection.execute("UPDATE pgrain.intervention SET fitted = %s "
                       "WHERE intervention = %s AND fitted IS NULL", [json.dumps(fitted), number])
    row = connection.execute("SELECT fitted FROM pgrain.intervention WHERE intervention = %s",
                             [number]).fetchone()
    return row["fitted"] if row else fitted


def values(connection: psycopg.Connection, number: int,
           keys: list[str]) -> dict[str, tuple[bytes, bytes]]:
    """key -> (digest of the value it was made of, new value), for the keys that have one."""
    return {row["train_key"]: (bytes(row["source"]), bytes(row["value"]))
            for row in connection.execute(
                "SELECT train_key, source, value FROM pgrain.intervention_value "
                "WHERE intervention = %s AND train_key = ANY (%s)", [number, keys], binary=True)}


def decode(canonical: bytes, kind: str, features: list[str]):
    """A stored value as `relations.read` gives it."""
    if kind == "bytea":
        return canonical
    if kind == "text":
        return canonical.decode()
    if kind == "float8":
        return array_received(canonical)
    cells = parse_columns('{"cells": ' + canonical.decode() + "}")["cells"]
    return {name: float(cell) if isinstance(cell, str) and type(cell) is not str else cell
            for name, cell in zip(features, cells, strict=True)}


def finish(connection: psycopg.Connection, number: int, spectrum: int, n_rows: int,
           stale_rows: int) -> None:
    """The repair can be ranked under this spectrum."""
    connection.execute("""
        INSERT INTO pgrain.intervention_ready (intervention, spectrum, n_rows, stale_rows)
        VALUES (%s, %s, %s, %s) ON CONFLICT (intervention, spectrum) DO UPDATE
        SET n_rows = excluded.n_rows, stale_rows = excluded.stale_rows""",
        [number, spectrum, n_rows, stale_rows])


def ready(connection: psycopg.Connection, spectrum: int) -> set[int]:
    """Numbers of the repairs that are projected under a spectrum."""
    return {row["intervention"] for row in connection.execute(
        "SELECT intervention FROM pgrain.intervention_ready WHERE spectrum = %s", [spectrum])}


def kind_of_chunks(number: int) -> str:
    """The kind of a repair's chunks in pgrain.spectrum_chunk. Arrays: `asked`, the learned rows (by
    number) that were tried; `rows`, those that the repair changes; `J` (n, R, m) and `residual`
    (n, R) of their new features, unless it removes rows; `stale` (1,), rows that were left out."""
    return f"repair:{number}"


def read_chunk(connection: psycopg.Connection, spectrum: int, number: int,
               seq: int) -> dict[str, np.ndarray] | None:
    """The arrays of one chunk; None if it is not there."""
    row = connection.execute(
        "SELECT checksum, data FROM pgrain.spectrum_chunk WHERE spectrum = %s AND kind = %s "
        "AND seq = %s", [spectrum, kind_of_chunks(number), seq], binary=True).fetchone()
    if row is None:
        return None
    return unpack(row["checksum"], row["data"], f"a chunk of spectrum {spectrum}")
