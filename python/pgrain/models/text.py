"""Texts -> words -> numbers: a tokenizer of our own, learned from the training rows.

A word is a run of letters and digits (with an apostrophe inside), anything else that is no space is
a token of one character. Words are folded to lower case. 0 is "no word" (padding), 1 a word that
the vocabulary does not have, 2 and up the vocabulary, the most frequent word first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from pgrain.errors import InvalidArgument
from pgrain.models.options import Option

OPTIONS = {option.name: option for option in (
    Option("vocabulary", "integer", "words that are told apart, the most frequent ones", 1,
           1_000_000),
    Option("min_count", "integer", "times that a word must occur to be in the vocabulary", 1,
           1_000_000),
    Option("length", "integer", "words of a text that are read; by default enough for 99 % of the "
           "training rows, at most 256", 1, 8192),
)}
DEFAULTS = {"vocabulary": 10_000, "min_count": 1}
UNKNOWN = 1
_MOST_LENGTH = 256
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def tokens(text: str) -> list[str]:
    """The words of a text: `tokens("It's 5.") == ["it's", "5", "."]`."""
    return _TOKEN.findall(text.lower())


def fit(values: Sequence, options: dict) -> dict:
    """What is learned from the training texts, as JSON: the words in order of their numbers, and
    how many words of a text are read."""
    options = {**DEFAULTS, **options}
    counts: Counter[str] = Counter()
    lengths = []
    for value in values:
        words = tokens(_text(value))
        counts.update(words)
        lengths.append(len(words))
    # Ties by spelling: the order of the rows must not decide what a number means.
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [word for word, count in ranked if count >= options["min_count"]]
    length = options.get("length") or min(
        _MOST_LENGTH, max(1, int(np.ceil(np.quantile(lengths, 0.99)))))
    return {"words": words[: options["vocabulary"]], "length": length}


def encode(values: Sequence, state: dict) -> np.ndarray:
    """(N, length) int32. Longer texts are cut at the end; an empty text is all zeros."""
    numbers = state.get("_numbers")
    if numbers is None:
        numbers = state["_numbers"] = {w: i for i, w in enumerate(state["words"], UNKNOWN + 1)}
    out = np.zeros((len(values), state["length"]), np.int32)
    for row, value in enumerate(values):
        found = [numbers.get(word, UNKNOWN) for word in tokens(_text(value))[: state["length"]]]
        out[row, : len(found)] = found
    return out


def n_tokens(state: dict) -> int:
    """Numbers that `encode` can give."""
    return len(state["words"]) + UNKNOWN + 1


def _text(value) -> str:
    if value is None:
        raise InvalidArgument("a feature value is null")
    return value
