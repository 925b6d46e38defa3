"""Where float32 or rounding would give a quiet, wrong answer."""

from __future__ import annotations

import numpy as np
import pytest

from pgrain.influence.gradient import logit_cotangent
from pgrain.influence.projections import objective_projection
from pgrain.influence.scores import relatif
from pgrain.models.encoding import Encoder
from pgrain.models.softmax import softmax


@pytest.mark.parametrize("n", [10, 240, 1000])
def test_a_constant_column_is_not_blown_up(n):
    """The deviation of a constant 0.1 is rounding noise; dividing by it makes huge features."""
    arrays = [[0.1, float(i)] for i in range(n)]
    encoder = Encoder.fit("float8", arrays, ["x"], {})
    near = encoder.encode([[0.1 + 1e-7, 1.0]]) - encoder.encode([[0.1, 1.0]])
    assert np.abs(near).max() < 1e-5
    rows = [{"a": 0.1, "b": float(i)} for i in range(n)]
    encoder = Encoder.fit("columns", rows, ["a", "b"], {})
    near = encoder.encode([{"a": 0.1 + 1e-7, "b": 1.0}]) - encoder.encode([{"a": 0.1, "b": 1.0}])
    assert np.abs(near).max() < 1e-5


@pytest.mark.parametrize("gap", [1, 17, 30, 50])
def test_both_ways_to_a_gradient_agree_on_confident_predictions(gap):
    """Through the logits' cotangent, and through stored projections."""
    p = softmax(np.array([[gap, 0.0, 0.0]]))
    g = np.array([[0.0, 1.0, 0.0]])
    J = np.eye(3, dtype=np.float32)[None]
    cotangent = logit_cotangent(p, g)
    assert cotangent[0] == pytest.approx(objective_projection(p, J, g), rel=1e-9)
    # Moving all logits alike changes nothing, so the components sum to zero.
    assert abs(cotangent.sum()) < 1e-12 * np.abs(cotangent).max()
    assert cotangent[0, 0] < 0 < cotangent[0, 1]


def test_relatif_holds_for_rows_that_are_fitted_well():
    """Scaling a row's gradient leaves its normalised change alone, however small it gets."""
    a = np.array([[3.0, -4.0]])
    A = np.concatenate([a * 10.0**-e for e in (0, 10, 20, 30)]).astype(np.float32)
    w, c = np.array([0.5, 0.25]), np.array([1.0, 1.0])
    changes = A.astype(np.float64) @ (w * c)
    assert relatif(changes, A, w) == pytest.approx(np.full(4, relatif(changes, A, w)[0]), rel=1e-5)
