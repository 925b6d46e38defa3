"""Spectra and projections: rows of pgrain.spectrum and its chunks.

Chunks: ``vectors`` (a block of eigenvectors each), ``training`` (J_z, p_z - e_y and the numbers of
the rows among the version's learned rows), ``attached`` (J_x of one prediction chunk, same seq).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import psycopg

from pgrain.errors import UndefinedObject
from pgrain.store.arrays import pack, unpack

VECTORS_PER_CHUNK_BYTES = 8 << 20


@dataclass
class SpectrumRow:
    """pgrain.spectrum; eigenvalues descending, k the automatic choice."""

    spectrum: int
    version: int
    eigenvalues: np.ndarray
    residuals: np.ndarray
    k: int
    ready: bool
    sample_rows: int
    status: str
    options: dict


def begin(connection: psycopg.Connection, version: int, job: int, *, eigenvalues: np.ndarray,
          residuals: np.ndarray, vectors: np.ndarray, k: int, sample_rows: int,
          status: str, options: dict) -> int:
    """Store a spectrum (not yet active), replacing what an earlier attempt of this job left."""
    with connection.transaction():
        connection.execute("DELETE FROM pgrain.spectrum WHERE job = %s AND NOT ready", [job])
        spectrum = connection.execute("""
            INSERT INTO pgrain.spectrum (version, job, eigenvalues, residuals, k, sample_rows,
                                         status, options)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING spectrum
            """, [version, job, eigenvalues.tolist(), residuals.tolist(), k, sample_rows,
                  status, json.dumps(options)]).fetchone()["spectrum"]
        step = max(VECTORS_PER_CHUNK_BYTES // max(4 * vectors.shape[0], 1), 1)
        for seq, at in enumerate(range(0, vectors.shape[1], step)):
            write(connection, spectrum, "vectors", seq,
                  {"vectors": np.ascontiguousarray(vectors[:, at:at + step].T)})
    return spectrum


def resumable(connection: psycopg.Connection, job: int) -> int | None:
    """The spectrum that an interrupted attempt of this job has stored already."""
    row = connection.execute("SELECT spectrum FROM pgrain.spectrum WHERE job = %s AND NOT ready",
                             [job]).fetchone()
    return row["spectrum"] if row else None


def finish(connection: psycopg.Connection, spectrum: int, changed_rows: int) -> None:
    """The spectrum is its version's active one; earlier ones of the version go."""
    connection.execute("UPDATE pgrain.spectrum SET ready = true, changed_rows = %s "
                       "WHERE spectrum = %s", [changed_rows, spectrum])
    connection.execute("UPDATE pgrain.model_version v SET active_spectrum = s.spectrum "
                       "FROM pgrain.spectrum s WHERE s.spectrum = %s AND v.version = s.version",
                       [spectrum])
    connection.execute("DELETE FROM pgrain.spectrum o USING pgrain.spectrum s "
                       "WHERE s.spectrum = %s AND o.version = s.version "
                       "AND o.spectrum <> s.spectrum", [spectrum])


def write(connection: psycopg.Connection, spectrum: int, kind: str, seq: int,
          arrays: dict[str, np.ndarray]) -> None:
    """One chunk; an equal one of an interrupted attempt is replaced."""
    checksum, data = pack(arrays)
    connection.execute("""
        INSERT INTO pgrain.spectrum_chunk (spectrum, kind, seq, checksum, data)
        VALUES (%s, %s, %s, %s, %b)
        ON CONFLICT (spectrum, kind, seq) DO UPDATE SET checksum = excluded.checksum,
            data = excluded.data""", [spectrum, kind, seq, checksum, data])


def present(connection: psycopg.Connection, spectrum: int, kind: str) -> set[int]:
    """The chunks of a kind that are stored."""
    return {row["seq"] for row in connection.execute(
        "SELECT seq FROM pgrain.spectrum_chunk WHERE spectrum = %s AND kind = %s",
        [spectrum, kind])}


def read_rows(connection: psycopg.Connection, spectrum: int, seq: int) -> np.ndarray:
    """Which of the learned rows a chunk of training projections is about."""
    row = connection.execute("SELECT checksum, data FROM pgrain.spectrum_chunk WHERE spectrum = %s "
                             "AND kind = 'training' AND seq = %s", [spectrum, seq],
                             binary=True).fetchone()
    return unpack(row["checksum"], row["data"], f"chunk {seq} of spectrum {spectrum}")["rows"]


def drop_after(connection: psycopg.Connection, spectrum: int, kind: str, count: int) -> None:
    """Delete the chunks of a kind whose seq is `count` or more."""
    connection.execute("DELETE FROM pgrain.spectrum_chunk WHERE spectrum = %s AND kind = %s "
                       "AND seq >= %s", [spectrum, kind, count])


def read(connection: psycopg.Connection, spectrum: int) -> SpectrumRow:
    """A spectrum; 42704 if it has been replaced meanwhile."""
    row = connection.execute("SELECT spectrum, version, eigenvalues, residuals, k, ready, "
                             "sample_rows, status, options "
                             "FROM pgrain.spectrum WHERE spectrum = %s", [spectrum]).fetchone()
    if row is None:
        raise UndefinedObject(f"there is no spectrum {spectrum}")
    row["eigenvalues"] = np.array(row["eigenvalues"], np.float64)
    row["residuals"] = np.array(row["residuals"], np.float64)
    return SpectrumRow(**row)


def read_vectors(connection: psycopg.Connection, spectrum: int) -> np.ndarray:
    """The eigenvectors (d, m) float32."""
    parts = [arrays["vectors"] for _, arrays in chunks(connection, spectrum, "vectors")]
    return np.concatenate(parts).T


def chunks(connection: psycopg.Connection, spectrum: int,
           kind: str, seqs: list[int] | None = None) -> Iterator[tuple[int, dict]]:
    """(seq, arrays) of the stored chunks of a kind, one in memory at a time."""
    with connection.cursor(name="pgrain_chunks", binary=True, withhold=True) as cursor:
        cursor.itersize = 1
        cursor.execute(
            "SELECT seq, checksum, data FROM pgrain.spectrum_chunk WHERE spectrum = %s "
            "AND kind = %s AND (%s::bigint[] IS NULL OR seq = ANY (%s)) ORDER BY seq",
            [spectrum, kind, seqs, seqs])
        for row in cursor:
            yield row["seq"], unpack(row["checksum"], row["data"],
                                     f"chunk {row['seq']} ({kind}) of spectrum {spectrum}")


