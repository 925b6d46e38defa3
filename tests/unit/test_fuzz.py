"""Whatever bytes or text come in, what comes out is an answer or one of our errors: never another
exception, and never memory that the input merely claims to need."""

from __future__ import annotations

import json
import struct
import tracemalloc

import flax.serialization
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgrain.complaint.grammar import OPERATORS, parse
from pgrain.errors import DataCorrupted, PgrainError
from pgrain.models import weights
from pgrain.plan.explain import check_calls, check_relations, read_explain
from pgrain.plan.reader import read_statement
from pgrain.store import arrays, bundle_file

MB = 1 << 20
often = settings(max_examples=150, deadline=None)
seldom = settings(max_examples=60, deadline=None)

# Text that is nearly SQL: its words, quotes and brackets in any order.
WORDS = ["SELECT", "FROM", "WHERE", "GROUP BY", "HAVING", "ORDER BY", "LIMIT", "WITH", "AS", "(",
         ")", "[", "]", ",", ".", ";", "'", '"', "$$", "$a$", "/*", "*/", "--", "\n", "::", "E'",
         "U&'", "\\", "count(*)", "t", "x", "n", "a row", "no row", "too high", "too low", "<=",
         ">=", "=", "<>", "1", "-1", "1e9", ".5", "NULL", "CASE WHEN", "END", "IN", "EXISTS",
         "NOT", "AND", "OR", "UNION ALL", "JOIN", "ON", "LATERAL", "OVER", "predict('m', x)",
         "pgrain.predict('m', x)", "\u0000", "größe", "😀", "VALUES", "DISTINCT ON", "INTERVAL",
         "BETWEEN", "*"]
nearly_sql = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=25).map(" ".join)


def ours(work, *arguments):
    """The result, or None where it raised one of our errors, whose message is as promised."""
    try:
        return work(*arguments)
    except PgrainError as error:
        assert len(error.sqlstate) == 5 and error.sqlstate != "XX000"
        assert error.message and not error.message.endswith(".")
        return None


@often
@given(st.text() | nearly_sql)
def test_a_complaint_is_read_or_refused(text):
    found = ours(parse, text)
    if found is not None:
        assert found.text == text
        assert found.operator in (*OPERATORS, "too high", "too low", "no row", "a row")
        assert ";" not in (found.where or "").replace("';'", "") or "'" in found.where or (
            '"' in found.where) or "$" in found.where or "/*" in found.where or "--" in found.where


@often
@given(column=st.text(min_size=1).filter(lambda s: "\0" not in s),
       operator=st.sampled_from(OPERATORS),
       target=st.floats(-1e15, 1e15) | st.text().filter(lambda s: "\0" not in s))
def test_what_is_quoted_is_read_as_it_was_meant(column, operator, target):
    number = isinstance(target, float)
    if not number and operator not in ("=",):
        operator = "="
    quoted = '"' + column.replace('"', '""') + '"'
    text = f"{quoted} {operator} " + (repr(target) if number else
                                      "'" + target.replace("'", "''") + "'")
    found = ours(parse, text)
    if found is not None:       # names and texts that PostgreSQL's lexer refuses are refused
        assert (found.column, found.operator, found.target) == (column, operator, target)
    else:
        assert not (column.isascii() and column.isprintable()
                    and (number or (target.isascii() and target.isprintable())))


@often
@given(nearly_sql.map("SELECT ".__add__) | st.text())
@example("SELECT " + "(" * 3000)
@example("SELECT " + "NOT " * 3000 + "true")
@example("SELECT a" + " + a" * 5000)
@example("SELECT * FROM " + "(SELECT * FROM " * 500)
def test_a_query_is_read_or_refused(text):
    ours(read_statement, text)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | nearly_sql
plans = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
    st.sampled_from(["Plan", "Plans", "Node Type", "Relation Name", "Schema", "Function Name",
                     "One-Time Filter", "Filter", "Output", "Join Filter", "Alias"]) | st.text(),
    inner, max_size=5), max_leaves=20)


@often
@given(plans)
def test_any_json_is_a_plan_or_none(plan):
    def read(plan):
        facts = read_explain(json.dumps(plan))
        check_calls(facts, [], True)
        check_relations(facts, set(), False)
    ours(read, plan)


TREE = {"dense": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
                  "bias": np.zeros(3, np.float32)}}
FILES = {"safetensors": safetensors.numpy.save({f"dense.{name}": value
                                                for name, value in TREE["dense"].items()}),
         "msgpack": flax.serialization.msgpack_serialize(TREE)}


@st.composite
def damaged(draw, data: bytes):
    """The bytes with some changed, cut out, doubled or put in."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.integers(0, 3))
        if how == 0 and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == 1:
            del data[at:at + draw(st.integers(1, 20))]
        elif how == 2:
            data[at:at] = draw(st.binary(max_size=12))
        else:
            data[at:at] = data[at:at + draw(st.integers(1, 20))]
    return bytes(data)


@pytest.mark.parametrize("kind", FILES)
def test_damaged_weights(kind):
    """Arrays of numbers or an error, whatever the file says of itself."""
    whole = weights.read(FILES[kind])
    assert whole["dense.kernel"].tolist() == TREE["dense"]["kernel"].tolist()

    @often
    @given(damaged(FILES[kind]) | st.binary(max_size=200))
    def read(data):
        found = ours(weights.read, data)
        if found is not None:
            assert all(value.dtype == np.float32 for value in found.values())
            assert sum(value.nbytes for value in found.values()) < MB
    read()


@pytest.mark.parametrize("data", [
    struct.pack("<Q", 1 << 60) + b"{}",
    # arrays that are larger than the file, or of no size at all
    *(struct.pack("<Q", len(head)) + head for head in (
        b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
        b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}    ',
        b"{" + b'"a":{' * 2000,
    )),
    # msgpack: a map of 2^32 entries, an array of 2^32, 4 GB of bytes, an extension type, deep
    b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
    b"\xc7\x04\x01\x00\x00\x00\x00", b"\x91" * 5000, b"\x81\xa1a" * 3000,
    # an ndarray of flax: shape (2^40,), dtype float32, no bytes; one of objects
    flax.serialization.msgpack_serialize({"a": np.zeros(1, np.float32)}).replace(
        b"\x91\x01", b"\x91\xcf\x00\x00\x01\x00\x00\x00\x00\x00"),
    flax.serialization.msgpack_serialize({"a": np.zeros(1, np.float32)}).replace(
        b"float32", b"object0"),
    # a list of what makes no array
    b"\x81\xa1a\x93\x92\x02\x03\xa7float32\xc4\x04\x00\x00\x80\x3f",
], ids=lambda data: data[:12].hex())
def test_files_that_lie_about_their_size(data):
    tracemalloc.start()
    try:
        assert ours(weights.read, data) is None
        assert tracemalloc.get_traced_memory()[1] < 64 * MB
    finally:
        tracemalloc.stop()


@seldom
@given(st.data())
def test_a_stored_chunk_is_whole_or_damaged(data):
    sum_, packed = arrays.pack({"J": np.arange(12, dtype=np.float32), "rows": np.arange(3)})
    other = data.draw(damaged(packed))
    if other != packed:
        with pytest.raises(DataCorrupted):
            arrays.unpack(sum_, other, "chunk 1")
        # With a checksum that fits, somebody who can write tables has written it: no crash either.
        ours(arrays.unpack, arrays.checksum(other), other, "chunk 1")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "whole"
    bundle_file.write(path, {"model": "m"}, {"theta": np.arange(5, dtype=np.float32),
                                             "J": np.ones((2, 3), np.float32)})
    return path


def test_a_damaged_bundle(bundle):
    """No change of any byte gets through, but of those that mean nothing."""
    whole = bundle_file.read(bundle)
    data, target = bundle.read_bytes(), bundle.with_name("damaged")

    @seldom
    @given(damaged(data) | st.binary(max_size=300))
    def read(changed):
        target.write_bytes(changed)
        found = ours(bundle_file.read, target)
        if found is not None:
            assert found[0] == whole[0]
            assert all(np.array_equal(found[1][name], whole[1][name]) for name in whole[1])
    read()
