"""predict and predict_proba: stored values from memory, others from the worker.

The hot path, for a value that this session has met, is a look at the clock and a comparison with
the value that came next the last time (in the stubs of sql/50_predict.sql themselves), or else a
dictionary look-up by the value; for others a digest and a look-up in memory that sessions share.
"""

from __future__ import annotations

import re
import struct
from array import array
from time import monotonic

from pgrain.backend import ahead, session
from pgrain.backend.session import PAUSE_SECONDS, STATE
from pgrain.backend.spi import entry_point, from_postgres
from pgrain.errors import InvalidArgument, WorkerUnreachable
from pgrain.wire.identity import DIGEST_BYTES, canonical, pack_value

MODELS = STATE.models
_KIND_NAMES = {"bytea": "bytea", "text": "text", "float8": "float8[]",
               "columns": "jsonb (an object of feature columns) or a row"}


def known() -> tuple:
    """What the stubs look at before they call `predict`: the session's models, the clock, for how
    many seconds what it said is the present."""
    return MODELS, monotonic, PAUSE_SECONDS


def predict(plpy, name: str, value, kind: str) -> str | None:
    """The predicted class of one feature value; None where it is null or only being planned."""
    model = MODELS.get(name)
    now = monotonic()
    if model is None:
        model = _refresh(plpy, name)
        now = monotonic()
    # From the beginning of the last call: one that took long is a pause as well.
    elif not model.until > now < model.trusted:
        model = _still(plpy, model)
        now = monotonic()
    model.until = now + PAUSE_SECONDS
    # By the value itself: bytes, or texts that mean the same whether they came as text or jsonb.
    # A list has no hash; the bytes of its numbers are no bytea.
    key = _packed(model, value) if kind == "float8" else value
    if (kind == "float8") is (model.kind == "float8"):
        node = model.met.get(key)
        if node is not None:
            model.last[2] = model.last = node       # from left to right
            return node[1]
    return _look_up(plpy, model, value, kind, key)


def _look_up(plpy, model, value, kind: str, key) -> str | None:
    """By digest: stored, remembered, or computed by the worker. key: see `Model.remember`."""
    if kind != model.kind:
        value = _convert(plpy, model, value, kind)
        key = _packed(model, value) if model.kind == "float8" else value
    if model.kind == "bytea":
        keyed = STATE.hasher.copy()
        keyed.update(value)
    else:
        keyed = _hashed(plpy, model, value)
    digest = keyed.digest()[:DIGEST_BYTES]
    code = model.code(digest)
    if code is None:
        answer = _live(plpy, model, digest, value)
        if answer is None:
            return None
        code = max(range(len(answer)), key=answer.__getitem__)   # the first of equals, as argmax
        model.until = monotonic() + PAUSE_SECONDS
    label = model.classes[code]
    if key is not None:
        model.remember(key, label, model.kind == "float8")
    return label


def _packed(model, values: list) -> bytes | None:
    """The numbers of an array; None where it has NULLs or more dimensions."""
    try:
        return model.packed(*values)        # twice as quick for as many as the last one had
    except (TypeError, struct.error):
        pass
    try:
        return array("d", values).tobytes()
    except TypeError:
        return None


@entry_point
def predict_proba(plpy, name: str, value, kind: str) -> list[float] | None:
    """The probability of each class, in the order of the model's classes."""
    model = STATE.models.get(name)
    now = monotonic()
    if model is None:
        model = session.model_facts(plpy, name, predictions=True)
    elif not model.until > now < model.trusted:
        model = session.still(plpy, model)
    if kind != model.kind:
        value = _convert(plpy, model, value, kind)
    digest = _hashed(plpy, model, value).digest()[:DIGEST_BYTES]
    stored = model.stored(digest)
    if stored is not None:
        answer = list(struct.unpack(f"<{len(model.classes)}f", stored[1]))
    else:
        answer = _live(plpy, model, digest, value)
    model.until = monotonic() + PAUSE_SECONDS
    return answer


@entry_point
def _refresh(plpy, name: str):
    return session.model_facts(plpy, name, predictions=True)


@entry_point
def _still(plpy, model):
    return session.still(plpy, model)


@entry_point
def _hashed(plpy, model, value):
    keyed = STATE.hasher.copy()
    keyed.update(canonical(value, model.kind, model.features))
    return keyed


@entry_point
def _live(plpy, model, digest: bytes, value) -> list[float] | None:
    try:
        data = _computed(plpy, model, digest, value)
    except WorkerUnreachable:
        # The planner calls a STABLE function on constants; an EXPLAIN must not need the worker.
        if _only_explained(plpy):
            return None
        raise
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def _computed(plpy, model, digest: bytes, value) -> bytes:
    """float32 probabilities of a value that is not stored; computed by the worker, remembered."""
    known = model.live.get(digest)
    if known is not None:
        ahead.asked(model, digest)
        return known
    found = ahead.predict(plpy, model, digest, pack_value(value, model.kind))
    model.keep_live(found)
    return found[digest]


def _only_explained(plpy) -> bool:
    text = plpy.execute("SELECT pg_catalog.current_query() AS q")[0]["q"] or ""
    text = re.sub(r"\A(\s|--[^\n]*\n|/\*.*?\*/)+", "", text, flags=re.S)
    if ";" in text.rstrip().rstrip(";"):
        return False   # several statements: this may be another one
    return (re.match(r"explain\b", text, re.I) is not None
            and re.match(r"explain\s*(\([^)]*\banaly[sz]e\b|analy[sz]e\b)", text, re.I) is None)


@entry_point
def _convert(plpy, model, value, kind: str):
    """A value of another type as the model's kind of input: untyped literals arrive as text."""
    if kind == "text" and model.kind == "bytea":
        return _cast(plpy, value, "bytea")
    if kind == "text" and model.kind == "float8":
        return _cast(plpy, value, "float8[]")
    if kind == "text" and model.kind == "columns":
        try:
            return _cast(plpy, value, "jsonb")
        except plpy.SPIError as error:
            failure = from_postgres(error)
            failure.hint = ("Pass the row (predict('model', t) of a table or subquery t), or a "
                            f"jsonb object of its columns: {', '.join(model.features)}.")
            raise failure from None
    raise InvalidArgument(f'model "{model.name}" takes {_KIND_NAMES[model.kind]}, '
                          f'not {_KIND_NAMES[kind]}',
                          detail=f"Its features: {', '.join(model.features)}.")


def _cast(plpy, value: str, type_name: str):
    from pgrain.backend.spi import query
    return query(plpy, f"SELECT $1::pg_catalog.{type_name} AS x", ["text"], [value])[0]["x"]
