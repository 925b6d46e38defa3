"""Rankings on their way from the worker through a session into PostgreSQL, a column at a time.

A hundred rows of seven values are seven hundred objects to write, read and convert one by one, in
each of three places; a column as the text of an array is one, which PostgreSQL alone takes apart
(sql/60_complain.sql).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

_MODEL = itemgetter(1)


def pack(model: str, keys: Sequence[str | None], ids: bool, interventions: Sequence[str],
         scores: Sequence[float], effects: Sequence[float]) -> list:
    """The rows of one model, best first: [model, ids, keys, intervention, interventions, scores,
    effects], the last six texts of arrays but for `intervention`, which is that of all rows; None
    stands for what is null in all of them.

    ids: whether the keys are the canonical texts of integers. Then they go as `ids` alone.
    """
    alone = len(set(interventions)) == 1
    return [model, f"{{{','.join([key or 'NULL' for key in keys])}}}" if ids else None,
            None if ids else texts(keys),
            interventions[0] if alone else None, None if alone else texts(interventions),
            _numbers(scores), _numbers(effects)]


def pack_rows(rows: Sequence[Sequence]) -> list[list]:
    """The same of rows [rank, model, train_id, train_key, intervention, score, effect], those of
    one model together; one list a model."""
    packed = []
    for model, group in groupby(rows, _MODEL):
        _, _, ids, keys, interventions, scores, effects = zip(*group, strict=True)
        packed.append(pack(model, keys, any(number is not None for number in ids), interventions,
                           scores, effects))
    return packed


def _numbers(values: Sequence[float]) -> str:
    # One format for all: exact in 17 digits, and in less time than the shortest ones take.
    return f"{{{','.join(['%.17g'] * len(values))}}}" % tuple(values)


def texts(values: Sequence[str | None]) -> str:
    """An array of texts as PostgreSQL reads it; None is NULL."""
    return f"{{{','.join(map(quoted, values))}}}"


def quoted(text: str | None) -> str:
    """One text as it stands in an array's."""
    if text is None:
        return "NULL"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
