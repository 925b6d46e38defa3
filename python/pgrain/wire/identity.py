"""Identity by content: the digest that names a feature value, in SQL and in Python alike.

A stored prediction is found by the digest of its feature value: the first 16 bytes of
``sha256(secret || canonical bytes of the value)``. The secret belongs to the installation and never
reaches a caller: the capture takes it as a parameter, `predict` keeps it in process memory. Without
it digests tell nothing about values; by accident two values collide once in 2^64, and on purpose
they can't be made to. docs/dev/semantics.md has the alternatives that were measured.

The canonical bytes by the model's kind of input:

==========  =================================================================================
``bytea``   the bytes
``text``    UTF-8
``float8``  PostgreSQL's binary array format (``array_send``), as if its first place were 1
``columns`` the JSON array of the feature columns, in the model's order, as jsonb prints it
==========  =================================================================================
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from functools import lru_cache

from pgrain.errors import InvalidArgument

DIGEST_BYTES = 16
MOST_ARGUMENTS = 100        # that PostgreSQL takes in one call (FUNC_MAX_ARGS)
_FLOAT8_OID = 701
_TOGETHER = 1024


class _Number(str):
    """A JSON number kept as it was written: 1.0 and 1.00 are two spellings, as in jsonb."""


def hasher(secret: bytes):
    """A keyed hash to `copy` for each value; saves hashing the secret again and again."""
    return hashlib.sha256(secret)


def canonical(value, kind: str, features: Sequence[str] = ()) -> bytes:
    """The canonical bytes of one feature value.

    `value` is bytes (bytea), str (text; for columns: the text of a JSON object), or a list of
    floats (float8). Raises 22023 for another type or a missing feature column.
    """
    if kind == "bytea":
        return bytes(value)
    if kind == "text":
        return value.encode()
    if kind == "float8":
        return _array_send(value)
    if kind == "columns":
        return _columns_text(value, features).encode()
    raise InvalidArgument(f'no such kind of input: "{kind}"')


def digest(keyed_hasher, value, kind: str, features: Sequence[str] = ()) -> bytes:
    """The digest of one feature value; `keyed_hasher` comes from `hasher`."""
    state = keyed_hasher.copy()
    state.update(canonical(value, kind, features))
    return state.digest()[:DIGEST_BYTES]


def canonical_sql(expression: str, kind: str, features: Sequence[str] = ()) -> str:
    """SQL for the canonical bytes of `expression` (bytea), NULL where the value is NULL.

    For ``columns``, `expression` is jsonb or a row (both are given to ``to_jsonb``).
    """
    if kind == "bytea":
        return f"({expression})"
    if kind == "text":
        return f"pg_catalog.convert_to(({expression}), 'UTF8')"
    if kind == "float8":
        # (a slice begins at 1 wherever its array does)
        return f"pg_catalog.array_send((({expression})::pg_catalog.float8[])[:])"
    if kind == "columns":
        cells = json_array_sql([f"j OPERATOR(pg_catalog.->) {_literal(name)}::pg_catalog.text"
                                for name in features])
        return (f"(SELECT pg_catalog.convert_to(({cells})::pg_catalog.text, 'UTF8') "
                f"FROM pg_catalog.to_jsonb({expression}) AS j WHERE j IS NOT NULL)")
    raise InvalidArgument(f'no such kind of input: "{kind}"')


def digest_sql(expression: str, kind: str, features: Sequence[str] = (),
               secret: str = "$1") -> str:
    """SQL for the digest of `expression` (bytea of 16 bytes, or NULL); `secret` is a parameter."""
    content = canonical_sql(expression, kind, features)
    return (f"pg_catalog.substr(pg_catalog.sha256({secret} OPERATOR(pg_catalog.||) {content}), "
            f"1, {DIGEST_BYTES})")


def json_array_sql(parts: Sequence[str]) -> str:
    """SQL for the JSON array (jsonb) of any number of values."""
    chunks = [parts[at:at + MOST_ARGUMENTS]
              for at in range(0, len(parts), MOST_ARGUMENTS)] or [[]]
    return " OPERATOR(pg_catalog.||) ".join(
        f"pg_catalog.jsonb_build_array({', '.join(chunk)})" for chunk in chunks)


def json_object_sql(names: Sequence[str], cells: Sequence[str]) -> str:
    """SQL for the JSON object (jsonb) of any number of values; `names` are quoted identifiers."""
    columns = ", ".join(f"{cell} AS {name}" for name, cell in zip(names, cells, strict=True))
    return f"(SELECT pg_catalog.to_jsonb(_pgrain_row) FROM (SELECT {columns}) AS _pgrain_row)"


def among_sql(digest: str, digests: str = "$2") -> str:
    """SQL for whether `digest` is one of the parameter `digests` (bytea[]), in one step however
    many these are.

    ``= ANY (array)`` looks at them one by one: PostgreSQL has hashes of uuid, and before version 18
    none of bytea. A semi-join might become nested loops; what is no condition by itself is looked
    up in a hash table.
    """
    def name(text: str) -> str:
        return f"pg_catalog.encode({text}, 'hex')::pg_catalog.uuid"

    return (f"CASE WHEN {name(digest)} OPERATOR(pg_catalog.=) ANY (SELECT {name('_pgrain_d')} FROM "
            f"pg_catalog.unnest({digests}::pg_catalog.bytea[]) AS _pgrain_d) THEN true ELSE false "
            "END")


def value_sql(expression: str, kind: str) -> str:
    """SQL for a feature value as `pack_value` takes it: bytea, text, float8[], or JSON as text."""
    return {"bytea": f"({expression})::pg_catalog.bytea",
            "text": f"({expression})::pg_catalog.text",
            "float8": f"({expression})::pg_catalog.float8[]",
            "columns": f"pg_catalog.to_jsonb({expression})::pg_catalog.text"}[kind]


def pack_value(value, kind: str) -> bytes:
    """One feature value as the wire carries it (bytes, UTF-8, or float64 little endian)."""
    if kind == "bytea":
        return bytes(value)
    if kind == "float8":
        _one_dimension(value)
        return struct.pack(f"<{len(value)}d", *(float("nan") if v is None else v for v in value))
    return value.encode()


def unpack_value(data, kind: str):
    """The value that `pack_value` packed: bytes, list of floats, or str."""
    if kind == "bytea":
        return bytes(data)
    if kind == "float8":
        return list(struct.unpack(f"<{len(data) // 8}d", data))
    return bytes(data).decode()


class MissingFeature(InvalidArgument):
    """A row that lacks a column which the model reads."""


def parse_columns(value: str) -> dict:
    """The JSON object of a row, numbers kept as written."""
    try:
        fields = json.loads(value, parse_float=_Number, parse_int=_Number, parse_constant=_Number)
    except ValueError as error:
        raise InvalidArgument("the features are not a JSON object", detail=str(error)) from None
    if not isinstance(fields, dict):
        raise InvalidArgument("the features are not a JSON object",
                              hint="Pass a row, or an object with a member for each feature.")
    return fields


def _columns_text(value: str, features: Sequence[str]) -> str:
    fields = parse_columns(value)
    missing = [name for name in features if name not in fields]
    if missing:
        raise MissingFeature(f'feature "{missing[0]}" is missing',
                             detail=f"The model reads: {', '.join(features)}.")
    return "[" + ", ".join(_jsonb_text(fields[name]) for name in features) + "]"


def _jsonb_text(value) -> str:
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    raise InvalidArgument("a feature column is a number, a text, a boolean or null",
                          detail=f"Not {type(value).__name__}.")


def _array_send(values) -> bytes:
    n = len(values)
    if not n:
        return struct.pack("!iii", 0, 0, _FLOAT8_OID)
    parts, flag = [], 0
    try:
        for at in range(0, n, _TOGETHER):
            some = values[at:at + _TOGETHER]
            pairs = [8] * (2 * len(some))       # a length before each number
            pairs[1::2] = some
            parts.append(_pairs(len(some)).pack(*pairs))
    except struct.error:        # NULL has a length of its own and nothing behind it
        _one_dimension(values)
        flag = int(None in values)
        parts = [struct.pack("!i", -1) if v is None else struct.pack("!id", 8, v) for v in values]
    return b"".join([struct.pack("!iiiii", 1, flag, _FLOAT8_OID, n, 1), *parts])


@lru_cache(maxsize=32)
def _pairs(n: int) -> struct.Struct:
    """n lengths and numbers in turn: packed at once, in a fifth of the time that n calls take."""
    return struct.Struct("!" + n * "id")


def array_received(canonical: bytes) -> list:
    """The numbers of an array's canonical bytes, None for NULL; 22023 for several dimensions."""
    dimensions, = struct.unpack_from("!i", canonical)
    if dimensions == 0:
        return []
    if dimensions != 1:
        raise InvalidArgument("expected an array of one dimension")
    length, = struct.unpack_from("!i", canonical, 12)
    values, at = [], 20
    for _ in range(length):
        size, = struct.unpack_from("!i", canonical, at)
        at += 4
        values.append(None if size < 0 else struct.unpack_from("!d", canonical, at)[0])
        at += max(size, 0)
    return values


def _one_dimension(values) -> None:
    if any(isinstance(value, list) for value in values):
        raise InvalidArgument("expected an array of one dimension")


def _literal(name: str) -> str:
    return " E'" + name.replace("\\", "\\\\").replace("'", "''") + "'"
