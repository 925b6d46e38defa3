"""What sessions ask for `pgrain.describe`: rules over rows that they have read, landmarks."""

from __future__ import annotations

import json

import numpy as np

from pgrain.describe.columns import Column, features
from pgrain.describe.rules import describe
from pgrain.store import spectra
from pgrain.worker.resident import Residents


class DescribeMethods:
    """The methods; one instance serves all connections."""

    def __init__(self, residents: Residents):
        self._residents = residents

    def describe(self, state: dict, params: dict, blobs: list) -> tuple:
        """Predicates over columns; see backend/describe.py for the blobs."""
        names = params["columns"]
        values: list[list] = [[] for _ in range(len(names) + 1)]
        rest = iter(blobs)
        for parts in params["rows"]:
            for at in range(parts):
                values[at] += json.loads(bytes(next(rest)))
        suspect = np.array(values[0], bool)
        columns = [Column(name["sql"], name["kind"], cells, name["literal"], name["of"])
                   for name, cells in zip(names, values[1:], strict=True)]
        weight = np.where(suspect, 1.0, float(params["step"]))
        if not len(suspect):
            return {"predicates": [], "why": "the training table has no rows"}, []
        options = params["options"]
        predicates, why = describe(features(columns, suspect), suspect, weight,
                                   most=options["most"], precision=options["precision"],
                                   recall=options["recall"])
        return {"predicates": predicates, "why": why}, []

    def landmarks(self, state: dict, params: dict, blobs: list) -> tuple:
        """Keys (JSON), clusters and resembled classes (int16) of the projected training rows."""
        resident = self._residents.version(params["version"])
        chunks = self._residents.with_connection(
            lambda c: list(spectra.chunks(c, params["spectrum"], "landmarks")))
        keys: list[str] = []
        parts = [np.zeros((0, 2), "<i2")]
        for _, arrays in chunks:
            keys += [resident.learned.keys[number] for number in arrays["rows"].tolist()]
            parts.append(np.stack([arrays["cluster"], arrays["resembles"]], axis=1))
        both = np.concatenate(parts).astype("<i2")
        return {}, [json.dumps(keys).encode(), both[:, 0].tobytes(), both[:, 1].tobytes()]
