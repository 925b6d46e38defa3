"""predict_batch: the predictions of all rows of a query, the worker asked once for thousands."""

from __future__ import annotations

import itertools
import struct
from collections import OrderedDict
from collections.abc import Iterator

from pgrain.backend import session
from pgrain.backend.session import STATE
from pgrain.backend.spi import check_interrupts, entry_point, from_postgres, only_reads
from pgrain.errors import InvalidArgument
from pgrain.wire.identity import DIGEST_BYTES, canonical, pack_value, value_sql

_ROWS = 5000                # rows fetched at a time, at most
_BYTES = 8 << 20            # and so many that their values take about this much
_NESTED = 32               # a query may call predict_batch itself
_TOO_FEW_COLUMNS = "42P10"


class Batch:
    """A call under way: its model, a cursor over its query, rows of the next block."""

    def __init__(self, model, cursor):
        self.model, self.cursor = model, cursor
        self.size = 200


_batches: OrderedDict[int, Batch] = OrderedDict()
_numbers = itertools.count(1)


@entry_point
def predict_open(plpy, name: str, text: str) -> int:
    """The number of a call of predict_batch, whose rows `predict_next` gives block by block."""
    model = session.model_facts(plpy, name, predictions=True)
    number = next(_numbers)
    with only_reads(plpy):
        _batches[number] = Batch(model, _open(plpy, text, model.kind))
    while len(_batches) > _NESTED:      # those of statements that failed
        _batches.popitem(last=False)
    return number


@entry_point
def predict_next(plpy, number: int) -> list[tuple]:
    """(key, label, probabilities) of the next rows; none at the end.

    So memory is taken for one block alone. A generator would do, but PL/Python says "error
    fetching next item from iterator" in place of the errors that it raises.
    """
    batch = _batches.get(number)
    if batch is None:
        raise InvalidArgument("no such call of predict_batch")
    model = batch.model
    with only_reads(plpy):
        rows = batch.cursor.fetch(batch.size)
    if not rows:
        batch.cursor.close()
        del _batches[number]
        return []
    check_interrupts(plpy)
    values = [row["value"] for row in rows]
    answers = _answers(plpy, model, values)
    used = sum(len(value) for value in values if value is not None)
    if model.kind == "float8":
        used *= 8
    batch.size = max(1, min(_ROWS, _BYTES * len(rows) // max(used, 1)))
    return list(_unpacked([row["key"] for row in rows], answers, model.classes))


def _open(plpy, text: str, kind: str):
    """A cursor over (key, value) of the caller's query, which must be one SELECT."""
    text = text.strip().removesuffix(";")
    names = '"key"' if kind == "columns" else '"key", "value"'
    value = value_sql("q" if kind == "columns" else 'q."value"', kind)
    # A line of its own for the closing bracket: the text may end with a comment.
    source = f'FROM (\n{text}\n) AS q({names}'
    if kind != "columns":
        try:
            plpy.cursor(f'SELECT {source}, "more") LIMIT 0').close()
        except plpy.SPIError as error:
            if from_postgres(error).sqlstate != _TOO_FEW_COLUMNS:
                raise
        else:
            raise InvalidArgument("the query returns more than a key and a feature",
                                  hint="SELECT the key first, then the model's feature.")
    try:
        return plpy.cursor(f'SELECT q."key"::pg_catalog.text AS "key", {value} AS "value" '
                           f"{source})")
    except plpy.SPIError as error:
        if from_postgres(error).sqlstate != _TOO_FEW_COLUMNS:
            raise
        # Unless the query itself fails like that, as ORDER BY 5 does.
        plpy.cursor(f"SELECT FROM (\n{text}\n) AS q LIMIT 0").close()
        raise InvalidArgument("the query returns no feature",
                              hint="SELECT the key first, then the model's feature.") from None


def _answers(plpy, model, values: list) -> list[bytes | None]:
    """float32 probabilities of each value (null: None), equal ones computed once."""
    answers: list[bytes | None] = [None] * len(values)
    wanted: dict[bytes, list[int]] = {}
    for place, value in enumerate(values):
        if value is None:
            continue
        keyed = STATE.hasher.copy()
        keyed.update(canonical(value, model.kind, model.features))
        digest = keyed.digest()[:DIGEST_BYTES]
        answers[place] = model.stored_probabilities(digest)
        if answers[place] is None:
            wanted.setdefault(digest, []).append(place)
    if wanted:
        packed = [pack_value(values[places[0]], model.kind) for places in wanted.values()]
        found = session.live_batch(plpy, model, packed)
        for places, probabilities in zip(wanted.values(), found, strict=True):
            for place in places:
                answers[place] = probabilities
    return answers


def _unpacked(keys: list, answers: list[bytes | None], classes: list[str]) -> Iterator[tuple]:
    layout = struct.Struct(f"<{len(classes)}f")
    for key, packed in zip(keys, answers, strict=True):
        if packed is None:
            yield key, None, None
        else:
            p = layout.unpack(packed)
            # The first of equals, as argmax.
            yield key, classes[max(range(len(p)), key=p.__getitem__)], list(p)
