"""What sessions ask about feature repairs: whether one can be, and what it makes of given rows."""

from __future__ import annotations

import json

from pgrain.errors import NotReady
from pgrain.intervention import library
from pgrain.store import versions
from pgrain.store.relations import Row, plain_columns
from pgrain.wire.identity import pack_value, unpack_value
from pgrain.worker.repairing import Repairing
from pgrain.worker.resident import Residents


class RepairMethods:
    """The methods; one instance serves all connections."""

    def __init__(self, residents: Residents):
        self._residents = residents

    def check(self, state: dict, params: dict, blobs: list) -> tuple:
        """The options of a repair of the library, checked for this model's features."""
        model = self._residents.with_connection(
            lambda c: versions.read_model(c, params["model"]))
        return {"options": library.check_repair(params["library"], params["options"], model.kind,
                                                model.features, model.options.get("shape"))}, []

    def values(self, state: dict, params: dict, blobs: list) -> tuple:
        """New values of rows under a repair of the library, a blob for each row that changes; of a
        row of columns, a JSON object of the columns that do."""
        def work(connection):
            model = versions.read_model(connection, params["model"])
            repairing = Repairing(connection, model, b"")
            it = repairing.named(params["name"])
            if it.fitted is None and library.REPAIRS[it.library].fit is not None:
                quoted = "'" + model.model.replace("'", "''") + "'"
                raise NotReady(f'intervention "{it.name}" has not learned its values yet',
                               hint=f"Run CALL pgrain.train({quoted}) or pgrain.precompute.")
            rows = []
            for blob in blobs:
                value = unpack_value(blob, model.kind)
                rows.append(Row(None, None, plain_columns(value) if model.kind == "columns"
                                else value, b""))
            return model, rows, repairing.repaired(it, rows)[0]
        model, rows, found = self._residents.with_connection(work)
        packed = []
        for row, new in zip(rows, found, strict=True):
            if new is None:
                continue
            value = new.value
            if model.kind == "columns":
                value = json.dumps({name: cell for name, cell in value.items()
                                    if cell != row.value[name]})
            packed.append(pack_value(value, model.kind))
        return {"changed": [new is not None for new in found]}, packed
