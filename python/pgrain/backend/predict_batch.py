"""predict_batch: the predictions of all rows of a query, the worker asked once for thousands."""

from __future__ import annotations

import itertools
import struct
from collections import OrderedDict
from collections.abc import Iterator

from pgrain.backend import hints, session
from pgrain.backend.session import STATE
from pgrain.backend.spi import check_interrupts, entry_point, from_postgres, only_reads
from pgrain.errors import InvalidArgument
from pgrain.wire.identity import (
    DIGEST_BYTES,
    MissingFeature,
    canonical,
    pack_value,
    value_sql,
)
from pgrain.wire.ranked import quoted, texts

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
        try:
            _batches[number] = Batch(model, _open(plpy, text, model.kind))
        except plpy.SPIError as error:
            raise hints.of_query(plpy, text, error) from None
    while len(_batches) > _NESTED:      # those of statements that failed
        _batches.popitem(last=False)
    return number


@entry_point
def predict_next(plpy, number: int) -> list[tuple[str, str, str]]:
    """Keys, labels and probabilities of the next rows (`_packed`); nothing at the end.

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
    try:
        answers = _answers(plpy, model, values)
    except MissingFeature as error:
        error.hint = ("The query's first column is the key, whatever its name: SELECT a key, then "
                      "the features.")
        raise
    used = sum(len(value) for value in values if value is not None)
    if model.kind == "float8":
        used *= 8
    batch.size = max(1, min(_ROWS, _BYTES * len(rows) // max(used, 1)))
    return list(_packed([row["key"] for row in rows], answers, model.classes))


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


def _answers(plpy, model, values: list) -> list[tuple[int, bytes] | None]:
    """(class, float32 probabilities) of each value (null: None), equal ones computed once."""
    answers: list[tuple[int, bytes] | None] = [None] * len(values)
    wanted: dict[bytes, list[int]] = {}
    copy, stored = STATE.hasher.copy, model.stored
    kind, features = model.kind, model.features
    for place, value in enumerate(values):
        if value is None:
            continue
        keyed = copy()
        keyed.update(value if kind == "bytea" else canonical(value, kind, features))
        digest = keyed.digest()[:DIGEST_BYTES]
        found = answers[place] = stored(digest)
        if found is None:
            wanted.setdefault(digest, []).append(place)
    if wanted:
        packed = [pack_value(values[places[0]], kind) for places in wanted.values()]
        computed = session.live_batch(plpy, model, packed)
        layout = struct.Struct(f"<{len(model.classes)}f")
        for places, probabilities in zip(wanted.values(), computed, strict=True):
            p = layout.unpack(probabilities)
            # The first of equals, as argmax.
            found = max(range(len(p)), key=p.__getitem__), probabilities
            for place in places:
                answers[place] = found
    return answers


def _packed(keys: list, answers: list[tuple[int, bytes] | None],
            classes: list[str]) -> list[tuple[str, str, str]]:
    """The same as texts of arrays: keys, labels, texts of arrays of probabilities; several of each
    where one would be long."""
    labels = [quoted(label) for label in classes]
    unpack = struct.Struct(f"<{len(classes)}f").unpack
    # Nine digits are a float32 exactly, and half the work of the seventeen of a float64.
    numbers = f'"{{{",".join(["%.9g"] * len(classes))}}}"'
    named, shown = [], []
    for answer in answers:
        if answer is None:
            named.append("NULL")
            shown.append("NULL")
        else:
            named.append(labels[answer[0]])
            shown.append(numbers % unpack(answer[1]))
    return [(texts(keys[part]), f"{{{','.join(named[part])}}}", f"{{{','.join(shown[part])}}}")
            for part in _parts(keys, 16 * len(classes))]


def _parts(keys: list, width: int) -> Iterator[slice]:
    """Rows that go together: of some megabytes, at `width` bytes beside each key."""
    begin = size = 0
    for at, key in enumerate(keys):
        more = width + len(key or "")
        if size + more > _BYTES and at > begin:
            yield slice(begin, at)
            begin, size = at, 0
        size += more
    yield slice(begin, len(keys))
