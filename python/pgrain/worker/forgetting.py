"""Erasure of training rows: their keys, labels, digests, projections, edits and repaired features.

In every version of a model, and in the memory of every worker.

A version keeps the number of its rows, which its loss was a sum of; the place of an erased row is
blank. Parameters and eigenvectors stay: what a model has learned from a row is gone only when it is
trained again without it.
"""

from __future__ import annotations

import numpy as np
import psycopg

from pgrain.errors import ObjectInUse
from pgrain.store import versions
from pgrain.store.arrays import pack, unpack
from pgrain.worker.resident import Residents


class Forgetting:
    """The method, and what each heartbeat looks for."""

    def __init__(self, residents: Residents):
        self._residents = residents

    def forget(self, state: dict, params: dict, blobs: list) -> tuple:
        """Erase rows; how many were known."""
        rows = self._residents.with_connection(
            lambda c: erase(c, params["model"], params["keys"], params["by"]))
        self._residents.with_connection(self._residents.forget_erased)
        empty(state)
        return {"rows": rows}, []


def empty(state: dict) -> None:
    """Drop what a connection's evaluations were made from, and keep what it is."""
    for name in state.keys() - {"local"}:
        del state[name]


def erase(connection: psycopg.Connection, model: str, keys: list[str], by: str) -> int:
    """Erase rows from the tables, in one transaction; how many were known. 55006 while a job of
    the model runs: it has the rows in memory and would write them again."""
    versions.read_model(connection, model)
    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '10s'")
        connection.execute("LOCK TABLE pgrain.job IN SHARE MODE")   # none begins meanwhile
        if connection.execute("SELECT 1 FROM pgrain.job WHERE model = %s AND state = 'running'",
                              [model]).fetchone():
            raise ObjectInUse(f'a job of model "{model}" is under way',
                              hint="See pgrain.progress; wait for it to end.")
        _from_counts(connection, model, keys)
        known = {row["train_key"] for row in connection.execute(
            "DELETE FROM pgrain.training_edit WHERE model = %s AND train_key = ANY (%s) "
            "RETURNING train_key", [model, keys])}
        known |= {row["train_key"] for row in connection.execute(
            "DELETE FROM pgrain.intervention_value v USING pgrain.intervention i "
            "WHERE i.intervention = v.intervention AND i.model = %s AND v.train_key = ANY (%s) "
            "RETURNING v.train_key", [model, keys])}
        for row in connection.execute("SELECT version FROM pgrain.model_version WHERE model = %s",
                                      [model]).fetchall():
            known |= _from_version(connection, row["version"], set(keys))
        # Errors of jobs may quote a key ("in the row with key 17").
        connection.execute("""
            UPDATE pgrain.job SET error = error - 'detail' WHERE model = %s AND EXISTS (
                SELECT FROM unnest(%s::text[]) AS k
                WHERE position('ey ' || k || '.' IN error ->> 'detail') > 0
                   OR position('ey ' || k || ' ' IN error ->> 'detail') > 0)""", [model, keys])
        connection.execute("INSERT INTO pgrain.erasure (model, n_rows, erased_by) "
                           "VALUES (%s, %s, %s)", [model, len(known), by])
    return len(known)


def _from_counts(connection, model: str, keys: list[str]) -> None:
    """An edit that is erased is none that was taken back (`pgrain.staleness`)."""
    connection.execute("""
        UPDATE pgrain.model_version v SET metrics = v.metrics || pg_catalog.jsonb_build_object(
            'edits', (v.metrics ->> 'edits')::bigint - gone.n)
        FROM (SELECT version, count(*) AS n FROM pgrain._version_edit
              WHERE learned AND model = %s AND train_key = ANY (%s) GROUP BY version) AS gone
        WHERE v.version = gone.version AND v.metrics ->> 'edits' IS NOT NULL""", [model, keys])


def _from_version(connection, version: int, keys: set[str]) -> set[str]:
    """Blank the rows in what a version has learned, and take them out of its projections."""
    known: set[str] = set()
    numbers: list[int] = []
    row = connection.execute("SELECT 1 FROM pgrain.version_chunk WHERE version = %s AND "
                             "kind = 'rows'", [version]).fetchone()
    if row is None:
        return known
    learned = versions.read_rows(connection, version)
    for number, key in enumerate(learned.keys):
        if key in keys:
            known.add(key)
            numbers.append(number)
    if numbers:
        versions.write_rows(connection, version, learned.without(numbers))
        _from_projections(connection, version, np.array(numbers, np.int64))
    return known


def _from_projections(connection, version: int, numbers: np.ndarray) -> None:
    for row in connection.execute("""
            SELECT k.spectrum, k.kind, k.seq FROM pgrain.spectrum_chunk k
            JOIN pgrain.spectrum s USING (spectrum) WHERE s.version = %s
            AND (k.kind IN ('training', 'landmarks') OR k.kind LIKE 'repair:%%')""",
            [version]).fetchall():
        place = [row["spectrum"], row["kind"], row["seq"]]
        chunk = connection.execute("SELECT checksum, data FROM pgrain.spectrum_chunk WHERE "
                                   "spectrum = %s AND kind = %s AND seq = %s", place,
                                   binary=True).fetchone()
        arrays = unpack(chunk["checksum"], chunk["data"], f"a chunk of spectrum {place[0]}")
        kept = ~np.isin(arrays["rows"], numbers)
        if kept.all() and not np.isin(arrays.get("asked", numbers[:0]), numbers).any():
            continue
        smaller = {name: array[kept] for name, array in arrays.items()
                   if name not in ("asked", "stale")}
        if "asked" in arrays:
            smaller["asked"] = arrays["asked"][~np.isin(arrays["asked"], numbers)]
        if "stale" in arrays:
            smaller["stale"] = arrays["stale"]
        checksum, data = pack(smaller)
        connection.execute("UPDATE pgrain.spectrum_chunk SET checksum = %s, data = %b WHERE "
                           "spectrum = %s AND kind = %s AND seq = %s", [checksum, data, *place])
