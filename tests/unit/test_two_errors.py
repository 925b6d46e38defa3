"""Table 5's rows of one of two errors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pgrain.demo.paper.cases import Setting
from pgrain.demo.paper.measure import own_error


@pytest.mark.parametrize(("classes", "expected"), [
    ((1,), [0]), ((7,), [0]), ((4,), [2]), ((9,), [2]), ((1, 4), None), ((7, 9), None),
    ((3,), None), (None, None)])
def test_a_query_about_one_class_has_the_error_of_that_class(classes, expected):
    case = SimpleNamespace(clean_y=np.array([1, 1, 4, 4, 9]),
                           wrong=np.array([True, False, True, False, False]))
    query = SimpleNamespace(classes=classes, about=None)
    own = own_error(Setting("mnist", "mlp", "flip2"), case, query)
    assert expected is None if own is None else np.flatnonzero(own).tolist() == expected
    assert own_error(Setting("mnist", "mlp", "flip"), case,
                     SimpleNamespace(classes=classes, about=None)) is None
