"""Texts: words, their numbers, padding that changes nothing."""

import json

import numpy as np
import pytest
from numerics_small import WORDS, small_model

from pgrain.errors import InvalidArgument
from pgrain.models import registry, text
from pgrain.models.encoding import Encoder

REVIEWS = ["Good film.", "not GOOD, not bad", "It's the film's end", "good"]


def test_words():
    assert text.tokens("It's 5 o'clock, Zoë!") == ["it's", "5", "o'clock", ",", "zoë", "!"]
    assert text.tokens("  ") == [] and text.tokens("don’t") == ["don’t"]


def test_the_most_frequent_word_comes_first_and_order_of_rows_does_not_matter():
    encoder = Encoder.fit("text", REVIEWS, ["x"], {})
    other = Encoder.fit("text", REVIEWS[::-1], ["x"], {})
    assert encoder.to_json() == other.to_json()
    assert encoder.to_json()["words"][:2] == ["good", "not"]
    assert encoder.input_shape() == (5,) and encoder.n_tokens() == 12
    X = encoder.encode(["good good unheard", "", "not " * 9])
    assert X.dtype == np.int32
    np.testing.assert_array_equal(X, [[2, 2, 1, 0, 0], [0] * 5, [3] * 5])


def test_what_is_learned_is_stored_and_bounded():
    encoder = Encoder.fit("text", REVIEWS, ["x"], {"vocabulary": 3, "length": 2, "min_count": 2})
    assert encoder.input_shape() == (2,)
    assert encoder.to_json()["words"] == ["good", "not"]      # "film" and "film's" differ
    encoder.encode(REVIEWS)
    again = Encoder.from_json(json.loads(json.dumps(encoder.to_json())))
    np.testing.assert_array_equal(again.encode(REVIEWS), encoder.encode(REVIEWS))
    with pytest.raises(InvalidArgument, match="null"):
        encoder.encode([None])


def test_padding_leaves_the_logits_alone():
    model, theta, X, _ = small_model("lstm")
    longer = registry.build("lstm", 3, (11,), {"embedding": 3, "units": 3}, n_tokens=WORDS)
    padded = np.pad(X, ((0, 0), (0, 5)))
    np.testing.assert_allclose(model.logits(theta, X), longer.logits(theta, padded), atol=1e-6)
    # The mask hides nothing that is there: another last word is another text.
    changed = X.copy()
    last = (X != 0).sum(axis=1) - 1
    there = last >= 0
    changed[np.flatnonzero(there), last[there]] = X[np.flatnonzero(there), last[there]] % 7 + 1
    moved = np.abs(np.asarray(model.logits(theta, X) - model.logits(theta, changed))).max(axis=1)
    assert (moved[there & (changed != X).any(axis=1)] > 1e-5).all()


def test_the_papers_size():
    model = registry.build("lstm", 2, (40,), {"embedding": 300, "units": 200}, n_tokens=10_000)
    assert model.n_parameters == 3_401_202


def test_other_architectures_do_not_read_text():
    with pytest.raises(InvalidArgument, match="does not read text"):
        registry.build("mlp", 2, (40,), {}, n_tokens=100)
