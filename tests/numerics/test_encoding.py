"""Feature encoders: what they make of values, what they refuse, and that JSON keeps all of it."""

import json
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrain.errors import InvalidArgument, LimitExceeded
from pgrain.models.encoding import Encoder


def stored(encoder: Encoder) -> Encoder:
    """As it comes back from a jsonb column."""
    return Encoder.from_json(json.loads(json.dumps(encoder.to_json())))


def refused(call, *args) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as raised:
        call(*args)
    assert raised.value.sqlstate == "22023"
    return raised.value


IMAGE = {"shape": [28, 28, 1]}


def test_images_of_bytes():
    values = [bytes(range(256)) * 3 + bytes(16), bytes(784)]
    encoder = Encoder.fit("bytea", values, ["image"], IMAGE)
    X = stored(encoder).encode([memoryview(v) for v in values])
    assert X.shape == (2, 28, 28, 1) and X.dtype == np.uint8
    assert X[0, 0, 5, 0] == 5 and X[0, 1, 0, 0] == 28
    assert encoder.input_shape() == (28, 28, 1)
    assert encoder.encode([]).shape == (0, 28, 28, 1)


def test_tensors_of_float32():
    rows = np.arange(12, dtype="<f4").reshape(2, 6) / 7
    encoder = Encoder.fit("bytea", [r.tobytes() for r in rows], ["x"], {"shape": [2, 3]})
    X = stored(encoder).encode([r.tobytes() for r in rows])
    np.testing.assert_array_equal(X, rows.reshape(2, 2, 3))
    assert X.dtype == np.float32
    assert "not nan" in refused(encoder.encode, [np.full(6, np.nan, "<f4").tobytes()]).message
    assert refused(encoder.encode, [bytes(6)]).message == \
        "expected 24 bytes (2 x 3 float32), not 6"


def test_a_picture_of_the_wrong_size_names_both_sizes():
    encoder = Encoder.fit("bytea", [bytes(784)], ["image"], IMAGE)
    wanted = "expected 784 bytes (28 x 28 x 1), not 100"
    assert refused(encoder.encode, [bytes(784), bytes(100)]).message == wanted
    assert refused(Encoder.fit, "bytea", [bytes(100)], ["image"], IMAGE).message == wanted
    assert refused(Encoder.fit, "bytea", [bytes(784), bytes(100)], ["i"], IMAGE).message == wanted
    assert "null" in refused(encoder.encode, [None]).message
    assert "shape" in refused(Encoder.fit, "bytea", [bytes(784)], ["image"], {}).message


@pytest.mark.parametrize("shape", [[], [0], [-1, 2], "28", [2.5], [True], [1 << 40]])
def test_shapes_that_make_no_sense(shape):
    if shape == []:
        encoder = Encoder.fit("bytea", [b"a"], ["x"], {"shape": []})     # one byte: a scalar
        assert encoder.encode([b"a"]).shape == (1,)
    else:
        refused(Encoder.fit, "bytea", [bytes(784)], ["image"], {"shape": shape})


def test_arrays_are_standardised_with_the_training_rows_numbers():
    rows = [[1.0, 10.0, 5.0], [3.0, 30.0, 5.0]]
    encoder = stored(Encoder.fit("float8", rows, ["x"], {}))
    np.testing.assert_allclose(encoder.encode(rows), [[-1, -1, 0], [1, 1, 0]])
    np.testing.assert_allclose(encoder.encode([[2.0, 20.0, 6.0]]), [[0, 0, 1]])   # constant column
    plain = Encoder.fit("float8", rows, ["x"], {"standardize": False})
    np.testing.assert_allclose(plain.encode(rows), rows)
    assert refused(encoder.encode, [[1.0, 2.0]]).message == "expected 3 numbers, not 2"
    assert "null" in refused(encoder.encode, [[1.0, None, 2.0]]).message
    assert "inf" in refused(encoder.encode, [[1.0, float("inf"), 2.0]]).message
    shaped = Encoder.fit("float8", [[1.0] * 6], ["x"], {"shape": [2, 3]})
    assert shaped.encode([[1.0] * 6]).shape == (1, 2, 3)
    refused(Encoder.fit, "float8", [[1.0] * 5], ["x"], {"shape": [2, 3]})


ADULT = [
    {"age": 20, "hours": Decimal("40"), "job": "clerk", "gain": "0", "married": True},
    {"age": 40, "hours": Decimal("20"), "job": "baker", "gain": "10", "married": False},
    {"age": 60, "hours": None, "job": None, "gain": "5", "married": True},
]
COLUMNS = ["age", "hours", "job", "gain", "married"]


def test_columns_numbers_standardised_categories_one_hot():
    encoder = stored(Encoder.fit("columns", ADULT, COLUMNS, {}))
    X = encoder.encode(ADULT)
    #        age  hours + null  baker clerk + null  gain  false true
    assert encoder.input_shape() == (9,) and X.shape == (3, 9)
    np.testing.assert_allclose(X[:, 0], np.array([-1, 0, 1]) * np.sqrt(1.5), rtol=1e-6)
    np.testing.assert_allclose(X[:, 1:3], [[1, 0], [-1, 0], [0, 1]])
    np.testing.assert_allclose(X[:, 3:6], [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(X[:, 7:9], [[0, 1], [1, 0], [0, 1]])


def test_columns_unknown_categories_and_nulls_never_seen():
    encoder = Encoder.fit("columns", ADULT[:2], COLUMNS, {})
    strange = dict(ADULT[0], age=None, job="pirate", married=None)
    X = encoder.encode([strange])
    assert X[0, 0] == 0                                    # the mean
    assert not X[0, 2:4].any() and not X[0, 5:7].any()     # no category
    assert np.isfinite(X).all()


def test_columns_that_do_not_fit():
    encoder = Encoder.fit("columns", ADULT, COLUMNS, {})
    assert refused(encoder.encode, [dict(ADULT[0], age="old")]).message == \
        'expected a number for column "age", not "old"'
    assert '"job"' in refused(encoder.encode, [{"age": 1}]).message or \
        '"hours"' in refused(encoder.encode, [{"age": 1}]).message
    assert "finite" in refused(encoder.encode, [dict(ADULT[0], age=float("nan"))]).message
    assert "finite" in refused(Encoder.fit, "columns", [{"a": "NaN"}], ["a"], {}).message
    refused(encoder.encode, [None])
    with pytest.raises(LimitExceeded):
        Encoder.fit("columns", [{"a": f"x{i}"} for i in range(1001)], ["a"], {})


@pytest.mark.parametrize("unit", [1e-300, 1e9, 1e200, 1e307])
def test_huge_and_tiny_numbers_are_standardised_like_others(unit):
    plain = [1.0, 2.0, 4.0, 9.0]
    expected = (np.array(plain) - 4) / np.std(plain)
    columns = stored(Encoder.fit("columns", [{"a": v * unit} for v in plain], ["a"], {}))
    arrays = stored(Encoder.fit("float8", [[v * unit] for v in plain], ["a"], {}))
    np.testing.assert_allclose(columns.encode([{"a": v * unit} for v in plain])[:, 0], expected,
                               rtol=1e-5)
    np.testing.assert_allclose(arrays.encode([[v * unit] for v in plain])[:, 0], expected,
                               rtol=1e-5)


def test_a_number_too_far_off_is_refused():
    """In float32 it would be infinite, and every probability NaN."""
    columns = Encoder.fit("columns", [{"a": 1.0}, {"a": 2.0}], ["a"], {})
    arrays = Encoder.fit("float8", [[1.0], [2.0]], ["a"], {})
    for far in (1e60, -1e300):
        assert 'column "a" is too far' in refused(columns.encode, [{"a": far}]).message
        assert "is too far" in refused(arrays.encode, [[far]]).message
    tensor = Encoder.fit("bytea", [np.float32([1, 2]).tobytes()], ["x"], {"shape": [2]})
    assert "is too far" in refused(tensor.encode, [np.float32([1, 3e38]).tobytes()]).message
    assert np.isfinite(columns.encode([{"a": 1e15}])).all()


def test_numbers_that_are_categories():
    rows = [{"code": 1}, {"code": "2"}, {"code": Decimal("1.0")}]
    encoder = Encoder.fit("columns", rows, ["code"], {"categorical": ["code"]})
    np.testing.assert_array_equal(encoder.encode(rows), [[1, 0], [0, 1], [1, 0]])
    assert "no feature" in refused(Encoder.fit, "columns", rows, ["code"],
                                   {"categorical": ["zip"]}).message


def test_a_column_of_nulls_only():
    encoder = Encoder.fit("columns", [{"a": None}, {"a": None}], ["a"], {})
    np.testing.assert_array_equal(encoder.encode([{"a": None}, {"a": 3}]), [[1], [0]])


def test_kinds():
    refused(Encoder.fit, "xml", [1], ["x"], {})
    refused(Encoder.fit, "bytea", [], ["x"], IMAGE)


cell = st.one_of(st.none(), st.booleans(), st.integers(-10**6, 10**6),
                 st.floats(-1e6, 1e6), st.text(max_size=4), st.decimals(-100, 100, places=2))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.fixed_dictionaries({"a": cell, "b": cell}), min_size=1, max_size=12))
def test_any_columns_encode_alike_after_json(rows):
    try:
        encoder = Encoder.fit("columns", rows, ["a", "b"], {})
    except InvalidArgument as error:      # text that reads as a number which is not finite
        assert "finite" in error.message
        return
    X = encoder.encode(rows)
    assert X.shape == (len(rows), *encoder.input_shape()) and np.isfinite(X).all()
    assert X.tobytes() == stored(encoder).encode(rows).tobytes()
    for i, row in enumerate(rows):        # rows do not depend on their neighbours
        assert encoder.encode([row]).tobytes() == X[i: i + 1].tobytes()
