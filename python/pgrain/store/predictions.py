"""Stored predictions of attached feature values: rows of pgrain.prediction_chunk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import psycopg

from pgrain.store.arrays import checksum, verify
from pgrain.wire.identity import DIGEST_BYTES


@dataclass
class Predictions:
    """digests: (n, 16) uint8; predicted: (n,) uint16; logits, probabilities: (n, R) float32."""

    digests: np.ndarray
    predicted: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray


@dataclass
class Names:
    """What a chunk is about. relation: oid of the one whose values it brought first; digests: of
    `DIGEST_BYTES` each."""

    seq: int
    relation: int
    digests: list[bytes]


def names(connection: psycopg.Connection, version: int) -> list[Names]:
    """The chunks of a version. Not verified: a damaged digest is one more value that nobody has."""
    return [Names(row["seq"], row["relation"], split(row["digests"]))
            for row in connection.execute(
                "SELECT seq, relation::bigint AS relation, digests FROM pgrain.prediction_chunk "
                "WHERE version = %s ORDER BY seq", [version], binary=True)]


def split(digests: bytes) -> list[bytes]:
    """One after the other."""
    return [digests[at:at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]


def write(connection: psycopg.Connection, version: int, relation: int,
          values: Predictions) -> int:
    """One chunk; returns its seq."""
    parts = [array.tobytes() for array in (values.digests, values.predicted, values.logits,
                                           values.probabilities)]
    return connection.execute("""
        INSERT INTO pgrain.prediction_chunk (version, relation, n_values, checksum, digests,
                                             predicted, logits, probabilities)
        VALUES (%s, %s, %s, %s, %b, %b, %b, %b) RETURNING seq
        """, [version, relation, len(values.digests), checksum(*parts), *parts]).fetchone()["seq"]


def count(connection: psycopg.Connection, version: int) -> int:
    """How many values of a version are stored."""
    return connection.execute("SELECT coalesce(sum(n_values), 0)::bigint AS n FROM "
                              "pgrain.prediction_chunk WHERE version = %s",
                              [version]).fetchone()["n"]


def seqs(connection: psycopg.Connection, version: int) -> list[int]:
    """The chunks of a version."""
    return [row["seq"] for row in connection.execute(
        "SELECT seq FROM pgrain.prediction_chunk WHERE version = %s ORDER BY seq", [version])]


def read(connection: psycopg.Connection, seq: int, n_classes: int) -> Predictions | None:
    """One chunk; None if it has gone meanwhile. XX001 if it is damaged."""
    row = connection.execute(
        "SELECT checksum, digests, predicted, logits, probabilities FROM pgrain.prediction_chunk "
        "WHERE seq = %s", [seq], binary=True).fetchone()
    if row is None:
        return None
    parts = [row[name] for name in ("digests", "predicted", "logits", "probabilities")]
    verify(row["checksum"], *parts, f"prediction chunk {seq}")
    return Predictions(np.frombuffer(parts[0], np.uint8).reshape(-1, 16),
                       np.frombuffer(parts[1], "<u2"),
                       np.frombuffer(parts[2], "<f4").reshape(-1, n_classes),
                       np.frombuffer(parts[3], "<f4").reshape(-1, n_classes))


def delete(connection: psycopg.Connection, version: int, keep: list[int]) -> None:
    """All chunks of a version but `keep`."""
    connection.execute("DELETE FROM pgrain.prediction_chunk WHERE version = %s "
                       "AND seq <> ALL (%s)", [version, keep])


def take(connection: psycopg.Connection, seqs: list[int]) -> set[int]:
    """Delete these chunks; those that were there."""
    return {row["seq"] for row in connection.execute(
        "DELETE FROM pgrain.prediction_chunk WHERE seq = ANY (%s) RETURNING seq", [seqs])}


def caught_up(connection: psycopg.Connection, model: str, relation: int, version: int,
              n_values: int) -> None:
    """Record that all values of a relation are stored for a version (nothing, if it was detached
    meanwhile)."""
    connection.execute("""
        INSERT INTO pgrain.attachment_state (model, relation, version, n_values)
        SELECT a.model, a.relation, %(version)s, %(n)s FROM pgrain.attachment a
        WHERE a.model = %(model)s AND a.relation = %(relation)s::oid
        ON CONFLICT (model, relation, version) DO UPDATE
            SET n_values = excluded.n_values, read_at = clock_timestamp()""",
        {"model": model, "relation": relation, "version": version, "n": n_values})
    can_be_read(connection, model, relation)


def fell_behind(connection: psycopg.Connection, model: str, relation: int, version: int) -> None:
    """Take back `caught_up`."""
    connection.execute("DELETE FROM pgrain.attachment_state WHERE model = %s "
                       "AND relation = %s::oid AND version = %s", [model, relation, version])


def cannot_read(connection: psycopg.Connection, model: str, relation: int, problem: str,
                hint: str | None) -> bool:
    """Record why an attached relation cannot be read; whether that is news."""
    return connection.execute("""
        INSERT INTO pgrain.attachment_problem AS p (model, relation, problem, hint)
        SELECT a.model, a.relation, %(problem)s, %(hint)s FROM pgrain.attachment a
        WHERE a.model = %(model)s AND a.relation = %(relation)s::oid
        ON CONFLICT (model, relation) DO UPDATE SET problem = excluded.problem, hint = excluded.hint
        WHERE (p.problem, p.hint) IS DISTINCT FROM (excluded.problem, excluded.hint)""",
        {"model": model, "relation": relation, "problem": problem, "hint": hint}).rowcount > 0


def can_be_read(connection: psycopg.Connection, model: str, relation: int) -> bool:
    """Take that back; whether there was something to take back."""
    return connection.execute("DELETE FROM pgrain.attachment_problem WHERE model = %s "
                              "AND relation = %s::oid", [model, relation]).rowcount > 0


def attachments(connection: psycopg.Connection, model: str) -> list[dict]:
    """The attached relations of a model that still exist: relation (oid), features."""
    return connection.execute("""
        SELECT a.relation::oid::bigint AS relation, a.features::text[] AS features,
               a.relation::text AS name, a.attached_by
        FROM pgrain.attachment a JOIN pg_class c ON c.oid = a.relation::oid
        WHERE a.model = %s ORDER BY a.attached_at""", [model]).fetchall()
