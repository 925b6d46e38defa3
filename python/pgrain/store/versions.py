"""Models, versions and what a version has learned: rows of pgrain.model_version and its chunks."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import psycopg

from pgrain.errors import NotReady, UndefinedObject
from pgrain.store.arrays import pack, pack_texts, unpack, unpack_texts

PART_BYTES = 8 << 20


@dataclass
class ModelRow:
    """pgrain.model."""

    model: str
    training_table: int
    key: str
    features: list[str]
    label: str
    kind: str
    architecture: str
    options: dict
    active_version: int | None


@dataclass
class VersionRow:
    """pgrain.model_version, with what it needs of its model."""

    version: int
    model: str
    classes: list[str]
    encoder: dict
    options: dict
    alpha: float
    architecture: str
    kind: str
    shapes: dict | None
    active_spectrum: int | None


@dataclass
class LearnedRows:
    """What a version learned from: keys, classes (index), digests (N, 16); edited: (N,) bool, whose
    label came from an edit and not from the table; repairs: (N,) int64, the number of the
    intervention that gave the row other features than the table's (0: none)."""

    keys: list[str]
    labels: np.ndarray
    digests: np.ndarray
    edited: np.ndarray
    integer_keys: bool
    repairs: np.ndarray

    def where(self) -> dict[str, int]:
        """The number of each key. A hundred bytes a row: made once a pass, and not kept."""
        return {key: number for number, key in enumerate(self.keys)}

    def is_same(self, number: int, digest: bytes, label: str | None, classes: list[str]) -> bool:
        """Whether the table's row is still the one that was learned as row `number`."""
        return (self.digests[number].tobytes() == digest
                and (bool(self.edited[number]) or classes[self.labels[number]] == label))

    def without(self, numbers: list[int]) -> LearnedRows:
        """The same with some rows blank: no key, no label, no digest."""
        keys, labels, digests = list(self.keys), self.labels.copy(), self.digests.copy()
        edited, repairs = self.edited.copy(), self.repairs.copy()
        for number in numbers:
            keys[number] = ""
        labels[numbers], digests[numbers], edited[numbers], repairs[numbers] = 0, 0, False, 0
        return LearnedRows(keys, labels, digests, edited, self.integer_keys, repairs)


def read_secret(connection: psycopg.Connection) -> bytes:
    """The installation's secret; there is one as soon as there is a model."""
    row = connection.execute("SELECT secret FROM pgrain.installation").fetchone()
    if row is None:
        raise NotReady("no model has been created in this database")
    return row["secret"]


def read_model(connection: psycopg.Connection, model: str) -> ModelRow:
    """A model; 42704 if it has been dropped meanwhile."""
    row = connection.execute("""
        SELECT model, training_table::oid::bigint AS training_table, key, features::text[], label,
               kind, architecture, options, active_version FROM pgrain.model WHERE model = %s
        """, [model]).fetchone()
    if row is None:
        raise UndefinedObject(f'model "{model}" does not exist')
    return ModelRow(**row)


def read_version(connection: psycopg.Connection, version: int) -> VersionRow:
    """A trained version; 42704 if there is none."""
    row = connection.execute("""
        SELECT v.version, v.model, v.classes, v.encoder, v.options, v.alpha, v.shapes,
               m.architecture, m.kind, s.spectrum AS active_spectrum   -- a dump leaves spectra out
        FROM pgrain.model_version v JOIN pgrain.model m USING (model)
        LEFT JOIN pgrain.spectrum s ON s.spectrum = v.active_spectrum
        WHERE v.version = %s AND v.ready
        """, [version]).fetchone()
    if row is None:
        raise UndefinedObject(f"there is no trained version {version}")
    return VersionRow(**row)


def edits(connection: psycopg.Connection, model: str) -> tuple[dict[str, str], dict]:
    """The edits in force (key -> intervention), and what a version's metrics say of them, by
    which `pgrain.staleness` tells what came and went since: how many, and when the latest was
    applied (ISO 8601; None without any)."""
    rows = connection.execute(
        "SELECT train_key, intervention, to_jsonb(max(applied_at) OVER ()) AS latest "
        "FROM pgrain.training_edit WHERE model = %s", [model]).fetchall()
    return ({row["train_key"]: row["intervention"] for row in rows},
            {"edits": len(rows), "edits_until": rows[0]["latest"] if rows else None})


def stored(connection: psycopg.Connection, job: int) -> int | None:
    """The version that an interrupted attempt of this job has stored completely."""
    row = connection.execute("SELECT max(version) AS version FROM pgrain.model_version "
                             "WHERE job = %s AND ready", [job]).fetchone()
    return row["version"]


def begin_version(connection: psycopg.Connection, model: str, job: int) -> int:
    """The version that this job makes, not ready, without what was kept of it so far."""
    row = connection.execute("SELECT version FROM pgrain.model_version WHERE job = %s "
                             "AND NOT ready", [job]).fetchone()
    if row is not None:
        connection.execute("DELETE FROM pgrain.version_chunk WHERE version = %s",
                           [row["version"]])
        return row["version"]
    return connection.execute(
        "INSERT INTO pgrain.model_version (model, job) VALUES (%s, %s) RETURNING version",
        [model, job]).fetchone()["version"]


def drop_unfinished(connection: psycopg.Connection, job: int | None = None) -> None:
    """Delete what this job has kept of an unfinished version, or what jobs that ended left."""
    connection.execute("""
        DELETE FROM pgrain.model_version v USING pgrain.job j WHERE j.job = v.job AND NOT v.ready
        AND (j.job = %s OR j.state NOT IN ('queued', 'running'))""", [job])


def write_checkpoint(connection: psycopg.Connection, model: str, job: int,
                     arrays: dict[str, np.ndarray]) -> None:
    """Keep where a training is, in place of what was kept before."""
    checksum, data = pack(arrays)
    with connection.transaction():
        version = begin_version(connection, model, job)
        for seq, at in enumerate(range(0, len(data), PART_BYTES)):
            connection.execute(
                "INSERT INTO pgrain.version_chunk (version, kind, seq, checksum, data) "
                "VALUES (%s, 'checkpoint', %s, %s, %b)",
                [version, seq, checksum, data[at:at + PART_BYTES]])


def read_checkpoint(connection: psycopg.Connection, job: int) -> dict[str, np.ndarray] | None:
    """What `write_checkpoint` kept for this job; None if it kept nothing."""
    parts = connection.execute("""
        SELECT c.checksum, c.data FROM pgrain.version_chunk c JOIN pgrain.model_version v
        USING (version) WHERE v.job = %s AND NOT v.ready AND c.kind = 'checkpoint'
        ORDER BY c.seq""", [job], binary=True).fetchall()
    if not parts:
        return None
    return unpack(parts[0]["checksum"], b"".join(part["data"] for part in parts),
                  f"what job {job} has kept of its training")


def write_version(connection: psycopg.Connection, version: int, *, classes: list[str],
                  encoder: dict, options: dict, alpha: float, metrics: dict,
                  theta: np.ndarray, rows: LearnedRows, shapes: dict) -> None:
    """Store a version; ready with the end of the transaction that this is called in."""
    connection.execute("""
        UPDATE pgrain.model_version SET ready = true, classes = %s, encoder = %s, options = %s,
               alpha = %s, shapes = %s,
               metrics = %s, n_rows = %s, n_parameters = %s WHERE version = %s
        """, [classes, json.dumps(encoder), json.dumps(options), alpha, json.dumps(shapes),
              json.dumps(metrics), len(rows.keys), len(theta), version])
    parts = [("parameters", {"theta": part}) for part in _split(np.asarray(theta, np.float32))]
    parts.append(("rows", _pack_rows(rows)))
    numbers: dict[str, int] = {}
    for kind, arrays in parts:
        checksum, data = pack(arrays)
        connection.execute(
            "INSERT INTO pgrain.version_chunk (version, kind, seq, checksum, data) "
            "VALUES (%s, %s, %s, %s, %b)", [version, kind, numbers.get(kind, 0), checksum, data])
        numbers[kind] = numbers.get(kind, 0) + 1


def read_weights(connection: psycopg.Connection, job: int) -> bytes:
    """The bytes that an import brought."""
    row = connection.execute("SELECT data FROM pgrain.weights WHERE job = %s", [job],
                             binary=True).fetchone()
    if row is None:
        raise NotReady(f"job {job} has no weights any more", hint="Import them again.")
    return bytes(row["data"])


def drop_weights(connection: psycopg.Connection, job: int) -> None:
    """Delete what this job brought, and what jobs that have ended left."""
    connection.execute("DELETE FROM pgrain.weights w USING pgrain.job j WHERE j.job = w.job "
                       "AND (j.job = %s OR j.state NOT IN ('queued', 'running'))", [job])


def write_rows(connection: psycopg.Connection, version: int, rows: LearnedRows) -> None:
    """Replace what is recorded about the rows that a version has learned from."""
    checksum, data = pack(_pack_rows(rows))
    connection.execute("UPDATE pgrain.version_chunk SET checksum = %s, data = %b "
                       "WHERE version = %s AND kind = 'rows'", [checksum, data, version])


def _pack_rows(rows: LearnedRows) -> dict[str, np.ndarray]:
    return {**pack_texts(rows.keys), "labels": rows.labels.astype(np.int32),
            "digests": rows.digests, "edited": rows.edited.astype(np.uint8),
            "repairs": rows.repairs.astype(np.int64),
            "integer_keys": np.array([rows.integer_keys], np.uint8)}


def activate(connection: psycopg.Connection, model: str, version: int) -> None:
    """The version is its model's active one."""
    connection.execute("UPDATE pgrain.model SET active_version = %s WHERE model = %s",
                       [version, model])


def read_theta(connection: psycopg.Connection, version: int) -> np.ndarray:
    """The parameters (d,) float32."""
    parts = [unpack(row["checksum"], row["data"], f"the parameters of version {version}")["theta"]
             for row in _chunks(connection, version, "parameters")]
    if not parts:
        raise NotReady(f"version {version} has no stored parameters")
    return np.concatenate(parts)


def read_rows(connection: psycopg.Connection, version: int) -> LearnedRows:
    """What the version learned from."""
    for row in _chunks(connection, version, "rows"):
        arrays = unpack(row["checksum"], row["data"], f"the rows of version {version}")
        return LearnedRows(unpack_texts(arrays), arrays["labels"], arrays["digests"],
                           arrays["edited"].astype(bool), bool(arrays["integer_keys"][0]),
                           arrays.get("repairs", np.zeros(len(arrays["labels"]), np.int64)))
    raise NotReady(f"version {version} has no stored rows")


def _chunks(connection, version, kind):
    return connection.execute(
        "SELECT seq, checksum, data FROM pgrain.version_chunk WHERE version = %s AND kind = %s "
        "ORDER BY seq", [version, kind], binary=True)


def _split(array: np.ndarray) -> list[np.ndarray]:
    step = max(PART_BYTES // array.itemsize, 1)
    return [array[at:at + step] for at in range(0, max(len(array), 1), step)]
