"""Training rows' features, read again where stored projections are not enough: for the baselines
that need gradients of size d, and for the directions that a plan adds (`influence.completion`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pgrain.errors import NotReady
from pgrain.store import relations, versions
from pgrain.worker.repairing import Repairing
from pgrain.worker.resident import Resident, Residents


@dataclass
class Features:
    """X: (n', ...) encoded features of the training rows that are as they were learned; numbers:
    (n',) among the learned rows, ascending; repaired: name of a feature repair -> (numbers,
    encoded features that it gives them)."""

    X: np.ndarray
    numbers: np.ndarray
    repaired: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def training_features(residents: Residents, resident: Resident,
                      repairs: Mapping[str, Sequence[int]] | None = None) -> Features:
    """Reads the training table. repairs: name -> numbers of the rows whose repaired features are
    wanted, too (of repairs that remove no rows). 55000 if no row is as it was learned."""
    repairs = repairs or {}

    def work(connection):
        model = versions.read_model(connection, resident.row.model)
        secret = versions.read_secret(connection)
        repairing = Repairing(connection, model, secret)
        rows = relations.read(connection, model.training_table, model.kind, model.features,
                              secret, reader=None, key=model.key, label=model.label,
                              content=bool(repairing.all))
        pairs = sorted(repairing.as_learned(rows, resident.learned, resident.row.classes,
                                            resident.learned.where()),
                       key=lambda pair: pair[1])
        if not pairs:
            raise NotReady(f'no training row of model "{resident.row.model}" is as it was learned',
                           hint="Train again.")
        numbers = np.array([number for _, number in pairs], np.int64)
        found = Features(resident.encoder.encode([row.value for row, _ in pairs]), numbers)
        for name, wanted in repairs.items():
            it = repairing.named(name)
            repairing.fit([replace(row, value=row.original) for row, _ in pairs], [it])
            at = np.flatnonzero(np.isin(numbers, np.asarray(wanted, np.int64)))
            new, _ = repairing.repaired(it, [replace(pairs[i][0], value=pairs[i][0].original)
                                             for i in at])
            there = [i for i, value in enumerate(new) if value is not None]
            if there:
                found.repaired[name] = (numbers[at[there]], resident.encoder.encode(
                    [new[i].value for i in there]))
        return found
    return residents.with_connection(work)
