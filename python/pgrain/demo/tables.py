"""The tables of the demo: `train`, `sellerdata`, and the truth in a schema of its own.

Nothing here reads a model. `pgrain_demo.truth` is read by the view with the clean labels (for the
model that sets the target) and by the report at the end, never by the model under suspicion.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import psycopg
from psycopg import sql

from pgrain.demo.corruptions import TROUSER, Corrupted
from pgrain.demo.datasets import CLASSES, Images

BUSY_HOUR = 13
BUSY_SHARE = 0.9
"""Share of the trousers that their big sellers upload between 13:00 and 14:00."""
DAY = datetime(2026, 3, 2)
TABLES = ("train", "sellerdata")
_MARK = "pgrain demo "

_DDL = """
DROP SCHEMA IF EXISTS pgrain_demo CASCADE;
DROP TABLE IF EXISTS train, sellerdata CASCADE;
CREATE TABLE train (
    id    bigint PRIMARY KEY,
    image bytea NOT NULL,
    label text NOT NULL
);
CREATE TABLE sellerdata (
    id           bigint PRIMARY KEY,
    image        bytea NOT NULL,
    clothingtype text NOT NULL,
    time_added   timestamp NOT NULL,
    hour         integer GENERATED ALWAYS AS (extract(hour FROM time_added)::integer) STORED
);
CREATE SCHEMA pgrain_demo;
CREATE TABLE pgrain_demo.truth (
    id         bigint PRIMARY KEY,
    true_label text NOT NULL
);
CREATE VIEW pgrain_demo.train_clean AS
    SELECT t.id, t.image, truth.true_label AS label
    FROM train t JOIN pgrain_demo.truth USING (id);
CREATE TABLE pgrain_demo.run (
    settings jsonb PRIMARY KEY,
    dirty    bigint NOT NULL,
    clean    bigint NOT NULL
);
COMMENT ON TABLE pgrain_demo.truth IS 'what the labels should be; no model and no ranking reads it';
COMMENT ON TABLE pgrain_demo.run IS 'model versions of earlier runs, so that a second run is quick';
"""


class TableInTheWay(Exception):
    """A table of the same name that the demo did not make."""


def loaded(connection: psycopg.Connection, data: dict) -> bool:
    """Are the demo's tables here, made from the same `data`? A foreign table of the same name is
    an error: the demo never drops what it did not make."""
    marks = []
    for name in TABLES:
        row = connection.execute(
            "SELECT obj_description(to_regclass(%s), 'pg_class') FROM to_regclass(%s) AS r"
            " WHERE r IS NOT NULL", [f"public.{name}", f"public.{name}"]).fetchone()
        if row is not None and not (row[0] or "").startswith(_MARK):
            raise TableInTheWay(f'table "{name}" is there, and the demo did not make it; '
                                "rename it, or run the demo in another database")
        marks.append(row[0] if row else None)
    return all(mark == _mark(data) for mark in marks)


def _mark(data: dict) -> str:
    return _MARK + json.dumps(data, sort_keys=True)


def load(connection: psycopg.Connection, data: dict, train: Images, test: Images,
         corrupted: Corrupted, seed: int, progress: Callable[[int, int], None]) -> None:
    """Makes and fills the tables, in one transaction."""
    total = len(train) * 2 + len(test)
    done = 0

    def copy(target: str, types: list[str], rows) -> None:
        nonlocal done
        with cursor.copy(f"COPY {target} FROM STDIN (FORMAT binary)") as out:
            out.set_types(types)
            for row in rows:
                out.write_row(row)
                done += 1
                if done % 1000 == 0:
                    progress(done, total)

    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL client_min_messages = warning")
        cursor.execute(_DDL)
        copy("train", ["int8", "bytea", "text"],
             ((i + 1, pixels.tobytes(), CLASSES[label])
              for i, (pixels, label) in enumerate(zip(train.pixels, corrupted.labels,
                                                      strict=True))))
        copy("pgrain_demo.truth", ["int8", "text"],
             ((i + 1, CLASSES[label]) for i, label in enumerate(train.labels)))
        times = upload_times(test.labels, seed)
        copy("sellerdata (id, image, clothingtype, time_added)",
             ["int8", "bytea", "text", "timestamp"],
             ((i + 1, pixels.tobytes(), CLASSES[label], time) for i, (pixels, label, time)
              in enumerate(zip(test.pixels, test.labels, times, strict=True))))
        for name in TABLES:
            cursor.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(
                sql.Identifier(name), sql.Literal(_mark(data))))
        cursor.execute("ANALYZE train, sellerdata, pgrain_demo.truth")
    progress(total, total)


def upload_times(labels: np.ndarray, seed: int) -> list[datetime]:
    """When each picture was uploaded: any time of the day, but 90 % of the trousers come at 13:00,
    when their big sellers upload."""
    rng = np.random.default_rng(seed + 1)
    seconds = rng.integers(0, 24 * 3600, len(labels))
    busy = (labels == TROUSER) & (rng.random(len(labels)) < BUSY_SHARE)
    seconds[busy] = BUSY_HOUR * 3600 + seconds[busy] % 3600
    return [DAY + timedelta(seconds=int(s)) for s in seconds]
