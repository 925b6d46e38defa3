"""Repairs of texts: words dropped, or replaced by a table of the user's (synonyms, antonyms).

A word is a run of letters, digits and apostrophes; case is ignored, and a replacement begins with a
capital where the word did.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pgrain.errors import InvalidArgument
from pgrain.models.options import Option

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
MOST_WORDS = 100_000


class _Words(Option):
    """A list of words, or an object word -> word."""

    def check(self, value):
        if self.kind == "mapping":
            if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
                raise self._wrong("an object of word and replacement", value)
            pairs = {key.lower(): v for key, v in value.items()}
        else:
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                raise self._wrong("a list of words", value)
            pairs = sorted({word.lower() for word in value})
        if not 0 < len(pairs) <= MOST_WORDS:
            raise self._wrong(f"1 to {MOST_WORDS} words", f"{len(pairs)} words")
        return pairs


WHERE = (Option("columns", "names", "text features that are repaired"),)
DROP = (_Words("words", "words", "words that are dropped"),)
REPLACE = (_Words("words", "mapping", "word -> what takes its place"),)


def complete(options: dict, kind: str, features: Sequence[str], shape) -> None:
    """22023 where the words are missing or the columns are."""
    if "words" not in options:
        raise InvalidArgument('option "words" is missing',
                              hint='Give the words, or "table" with "word" (and "replacement"): '
                                   "a table of yours and its columns.")
    if kind == "columns" and not options.get("columns"):
        raise InvalidArgument('option "columns" is missing',
                              hint=f"The features are: {', '.join(features)}.")
    for name in options.get("columns", ()):
        if name not in features:
            raise InvalidArgument(f'option "columns" names "{name}", which is no feature',
                                  hint=f"The features are: {', '.join(features)}.")


def drop(values: Sequence, options: dict, fitted, shape) -> list:
    """The texts without those words."""
    gone = set(options["words"])

    def work(text: str) -> str:
        kept = WORD.sub(lambda m: "" if m.group().lower() in gone else m.group(), text)
        # Only where something went does white space close up.
        return text if kept == text else re.sub(r"\s{2,}", " ", kept).strip()
    return _texts(values, options, work)


def replace(values: Sequence, options: dict, fitted, shape) -> list:
    """The texts with those words replaced."""
    new = options["words"]

    def word(match: re.Match) -> str:
        found = new.get(match.group().lower())
        if found is None:
            return match.group()
        return found[:1].upper() + found[1:] if match.group()[0].isupper() else found
    return _texts(values, options, lambda text: WORD.sub(word, text))


def _texts(values: Sequence, options: dict, work) -> list:
    if "columns" not in options:
        return [work(value) for value in values]
    return [{**value, **{name: work(value[name]) for name in options["columns"]
                         if isinstance(value[name], str)}} for value in values]
