"""Evaluated circuits: what a complaint needs of its query, and the last ones by their captures.

Everything here is a function of the plan, the bytes that PostgreSQL's capture brought, and the
model's version and spectrum, which never change. So one that was made for the same bytes is the
answer again, for whoever asks: the capture itself, which runs each time as the caller and in the
caller's snapshot, has decided what that is. Nothing else is asked of the tables' state.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pgrain.plan.lexer import tokenize
from pgrain.provenance.circuit import Circuit, Output
from pgrain.provenance.output import OutputColumn, match_sql
from pgrain.worker.ranking import Variables
from pgrain.worker.resident import Resident

CIRCUITS = 32
KEPT_BYTES = 4 << 20     # of captures in all; arrays made of them take some twenty times as much
SLOPES = 32              # projected gradients kept with each
PRUNE_SECONDS = 0.5


@dataclass
class Match:
    """How PostgreSQL finds the output rows that a WHERE selects: `sql` over `output` (its ``$1``,
    rows in the result alone); `name` changes when `output` does; `more`: some rows are absent."""

    sql: str
    output: str
    name: str
    more: bool


@dataclass
class Evaluated:
    """One circuit on classes (`value`) and on probabilities (`relaxed`); shared, never changed.

    variables, residents: by model.
    """

    circuit: Circuit
    variables: dict[str, Variables]
    value: Output
    relaxed: Output
    residents: dict[str, Resident]
    _matches: dict[str, Match] = field(default_factory=dict)
    _slopes: dict[frozenset, dict] = field(default_factory=dict)

    def match(self, where: str) -> Match:
        """See `Match`."""
        known = self._matches.get(where)
        if known is None:
            columns, sql = _condition(where, tuple(self.circuit.columns))
            output = self.value.match_json(columns=columns)
            known = Match(sql, output,
                          hashlib.sha256(output.encode()).hexdigest(),
                          not bool(self.value.present.all()))
            if len(self._matches) < CIRCUITS:
                self._matches[where] = known
        return known

    def projected(self, weights: dict, slopes: Callable[[dict], dict[str, np.ndarray]]
                  ) -> dict[str, np.ndarray]:
        """V^T grad of the sum of weight x relaxed cell: (m,) float64 for each model on whose
        predictions it depends. `slopes` gives the gradient of weights, (V, R) for each model."""
        if len(weights) == 1:
            (cell, weight), = weights.items()
            if 1e-9 < abs(weight) < 1e9:     # one cell: objective and effect share its gradient
                return {name: weight * c
                        for name, c in self._projected({cell: 1.0}, slopes).items()}
        return self._projected(weights, slopes)

    def _projected(self, weights: dict, slopes) -> dict[str, np.ndarray]:
        key = frozenset(weights.items())
        known = self._slopes.get(key)
        if known is None:
            known = {name: self.variables[name].projection(part)
                     for name, part in slopes(weights).items() if part.any()}
            if len(self._slopes) < SLOPES:
                self._slopes[key] = known
        return known


def same_rows(match: list[Match | None], given: list | None) -> list | None:
    """The output rows of each WHERE (None without one) that a session found beforehand in rows
    that it remembered; None where it found none, or they were others."""
    if not any(match):
        return match
    if given is None or any(m and (g is None or g[0] != m.name or not g[1])
                            for m, g in zip(match, given, strict=True)):
        return None
    return [m and g[1] for m, g in zip(match, given, strict=True)]


@functools.lru_cache(maxsize=256)
def _condition(where: str, columns: tuple[OutputColumn, ...]) -> tuple[set[int] | None, str]:
    """(the columns that a WHERE may read, the statement that finds its rows)."""
    return mentioned(where, [column.name for column in columns]), match_sql(list(columns), where)


def mentioned(where: str, columns: list[str]) -> set[int] | None:
    """Numbers of the columns that a complaint's WHERE may read; None if that may be all of them.

    Rows differ in the others without any difference to it. It has no subquery (the grammar); ``q``
    is the name of the whole row (`match_sql`).
    """
    names = set()
    for token in tokenize(where):
        if token.is_name:
            names.add(token.value)
        elif token.value == "*":     # q.*, perhaps
            return None
    # A name of more than 63 bytes is cut by PostgreSQL, and may be another's then.
    if "q" in names or any(len(name.encode()) > 63 for name in names):
        return None
    return {number for number, name in enumerate(columns) if name in names}


class Circuits:
    """The circuits evaluated last, by what they were made from; one for all connections."""

    def __init__(self):
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, tuple[Evaluated, int]] = OrderedDict()
        self._pruned = 0.0

    def key(self, params: dict, blobs: list) -> bytes | None:
        """A name for the request's capture and models; None where the circuit is not to be kept:
        a large capture pays for its own."""
        if sum(len(blob) for blob in blobs) > KEPT_BYTES:
            return None
        name = hashlib.sha256(json.dumps(
            [params["plan"], params["rows"], params["stamps"], [len(blob) for blob in blobs],
             sorted((model, facts["version"], facts["spectrum"])
                    for model, facts in params["models"].items())]).encode())
        for blob in blobs:
            name.update(blob)
        return name.digest()

    def get(self, key: bytes, current: Callable[[int], Resident]) -> Evaluated | None:
        """The circuit of that name. `current` gives the resident copy of a version; one that holds
        another (rows were erased from it) is dropped."""
        with self._lock:
            known = self._known.get(key)
            if known is None:
                return None
            self._known.move_to_end(key)
        found = known[0]
        if all(current(resident.row.version) is resident for resident in found.residents.values()):
            return found
        with self._lock:
            self._known.pop(key, None)
        return None

    def put(self, key: bytes, made: Evaluated, size: int) -> None:
        """Keep a circuit whose capture had `size` bytes; the oldest go."""
        with self._lock:
            self._known[key] = made, size
            self._known.move_to_end(key)
            while len(self._known) > CIRCUITS or sum(s for _, s in self._known.values()) \
                    > KEPT_BYTES:
                self._known.popitem(last=False)

    def __len__(self) -> int:
        return len(self._known)

    def prune(self, held: Callable[[Resident], bool]) -> None:
        """Drop the circuits of versions that nobody else holds: with a circuit goes the memory of
        a whole version, its projections too; and those of tables of values that have been begun
        anew since. Now and then: it goes through all of them."""
        if time.monotonic() - self._pruned < PRUNE_SECONDS:
            return
        self._pruned = time.monotonic()
        with self._lock:
            known = list(self._known.items())
        spent = [key for key, (made, _) in known
                 if not all(map(held, made.residents.values())) or any(
                     it.resident.tables.get(it.spectrum) is not it.table
                     for it in made.variables.values())]
        with self._lock:
            for key in spent:
                self._known.pop(key, None)
