"""predict and predict_proba: stored values from the session's memory, others from the worker.

The hot path is a hash, two comparisons of the clock and a dictionary look-up.
"""

from __future__ import annotations

import re
import struct
from time import monotonic

from pgrain.backend import session
from pgrain.backend.session import PAUSE_SECONDS, STATE, TRUST_SECONDS
from pgrain.backend.spi import entry_point
from pgrain.errors import InvalidArgument, WorkerUnreachable
from pgrain.wire.identity import DIGEST_BYTES, canonical, pack_value

_KIND_NAMES = {"bytea": "bytea", "text": "text", "float8": "float8[]",
               "columns": "jsonb (an object of feature columns) or a row"}


def predict(plpy, name: str, value, kind: str) -> str | None:
    """The predicted class of one feature value; None where it is null or only being planned."""
    model = STATE.models.get(name)
    now = monotonic()
    if (model is None or now - model.called > PAUSE_SECONDS
            or now - model.checked > TRUST_SECONDS):
        model = _refresh(plpy, name)
    model.called = now
    if kind != model.kind:
        value = _convert(plpy, model, value, kind)
    if kind == "bytea":
        keyed = STATE.hasher.copy()
        keyed.update(value)
    else:
        keyed = _hashed(plpy, model, value)
    digest = keyed.digest()[:DIGEST_BYTES]
    code = model.predicted.get(digest)
    if code is None:
        answer = _live(plpy, model, digest, value)
        if answer is None:
            return None
        code = max(range(len(answer)), key=answer.__getitem__)   # the first of equals, as argmax
    model.called = monotonic()
    return model.classes[code]


@entry_point
def predict_proba(plpy, name: str, value, kind: str) -> list[float] | None:
    """The probability of each class, in the order of the model's classes."""
    model = STATE.models.get(name)
    now = monotonic()
    if (model is None or now - model.called > PAUSE_SECONDS
            or now - model.checked > TRUST_SECONDS):
        model = session.model_facts(plpy, name, predictions=True)
    if kind != model.kind:
        value = _convert(plpy, model, value, kind)
    digest = _hashed(plpy, model, value).digest()[:DIGEST_BYTES]
    stored = model.probabilities.get(digest)
    if stored is not None:
        data, at = stored
        answer = list(struct.unpack_from(f"<{len(model.classes)}f", data, at))
    else:
        answer = _live(plpy, model, digest, value)
    model.called = monotonic()
    return answer


@entry_point
def _refresh(plpy, name: str):
    return session.model_facts(plpy, name, predictions=True)


@entry_point
def _hashed(plpy, model, value):
    keyed = STATE.hasher.copy()
    keyed.update(canonical(value, model.kind, model.features))
    return keyed


@entry_point
def _live(plpy, model, digest: bytes, value) -> list[float] | None:
    try:
        data = session.live_probabilities(plpy, model, digest, pack_value(value, model.kind))
    except WorkerUnreachable:
        # The planner calls a STABLE function on constants; an EXPLAIN must not need the worker.
        if _only_explained(plpy):
            return None
        raise
    return list(struct.unpack(f"<{len(data) // 4}f", data))


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
        return _cast(plpy, value, "jsonb")
    raise InvalidArgument(f'model "{model.name}" takes {_KIND_NAMES[model.kind]}, '
                          f'not {_KIND_NAMES[kind]}',
                          detail=f"Its features: {', '.join(model.features)}.")


def _cast(plpy, value: str, type_name: str):
    from pgrain.backend.spi import query
    return query(plpy, f"SELECT $1::pg_catalog.{type_name} AS x", ["text"], [value])[0]["x"]
