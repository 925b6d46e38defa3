"""The methods that sessions call; docs/dev/protocol.md lists them with their parameters."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

import numpy as np
import psycopg

from pgrain.errors import ProtocolViolation
from pgrain.models.registry import check_options, forget_compiled
from pgrain.wire.identity import unpack_value
from pgrain.worker.complaints import Complaints
from pgrain.worker.describe_methods import DescribeMethods
from pgrain.worker.forgetting import Forgetting, empty
from pgrain.worker.plan_methods import PlanMethods
from pgrain.worker.precompute_job import check_options as check_precompute
from pgrain.worker.prediction_maps import PredictionMaps
from pgrain.worker.repair_methods import RepairMethods
from pgrain.worker.resident import Residents
from pgrain.worker.watches import Watches

TIDY_SECONDS = 20.0


class Handlers:
    """Dispatches a request to its method. `connect`: see `Residents`; power: what is wrong with the
    role that the worker logs in as (`database.power`), for `doctor`."""

    def __init__(self, connect: Callable[[], psycopg.Connection], *, version: str, device: str,
                 power: dict | None = None):
        self._connect = connect
        self._about = {"version": version, "device": device, "pid": os.getpid(),
                       "host": socket.gethostname(), "power": power}
        self._tidied = time.monotonic()
        self.begin()

    def begin(self) -> None:
        """Know nothing yet. Also where the extension was made anew: numbers of versions, spectra
        and watches begin again there, and would be taken for those of before."""
        self.residents = residents = Residents(self._connect)
        complaints, repairs = Complaints(residents), RepairMethods(residents)
        plans, maps = PlanMethods(residents), PredictionMaps(residents)
        describing = DescribeMethods(residents)
        self.watches = Watches(residents, complaints)
        self._by_version = (residents, maps, complaints)
        self._methods = {
            "ping": self._ping, "predict": self._predict,
            "prediction_map": maps.open,
            "plan": complaints.plan, "evaluate": complaints.evaluate,
            "learn": complaints.learn, "supply": complaints.supply,
            "verify": complaints.verify, "match": complaints.match,
            "rank": complaints.rank, "cells": complaints.cells,
            "render": complaints.render, "vector": complaints.vector,
            "rank_vector": complaints.rank_vector,
            "describe": describing.describe, "landmarks": describing.landmarks,
            "watch_plan": self.watches.plan, "watch_build": self.watches.build,
            "watch_renew": self.watches.renew,
            "watch_read": self.watches.read,
            "forget": Forgetting(residents).forget,
            "check_options": self._check_options,
            "check_repair": repairs.check, "repair_values": repairs.values,
            "plan_repair": plans.plan_repair, "holds": plans.holds, "assess": plans.assess,
        }

    def tidy(self, connection: psycopg.Connection) -> None:
        """What belongs to versions and watches that are there no more goes from memory, and now and
        then what was compiled: nobody says of which networks there will be another version."""
        if time.monotonic() - self._tidied < TIDY_SECONDS:
            return
        self._tidied = time.monotonic()
        forget_compiled()
        versions = {row["version"] for row in
                    connection.execute("SELECT version FROM pgrain.model_version").fetchall()}
        for part in self._by_version:
            part.keep(versions)
        self.watches.keep({row["watch"] for row in
                           connection.execute("SELECT watch FROM pgrain.watch").fetchall()})

    def handle(self, state: dict, method: str, params: dict, blobs: list) -> tuple:
        """(result, blobs) of one request, and descriptors to hand over, which the caller closes;
        `state` lives as long as its connection."""
        methods = self._methods
        if state.setdefault("methods", methods) is not methods:
            empty(state)
            state["methods"] = methods
        work = methods.get(method)
        if work is None:
            raise ProtocolViolation(f'no such method: "{method}"')
        return work(state, params, blobs)

    def _ping(self, state: dict, params: dict, blobs: list) -> tuple:
        return self._about, []

    def _check_options(self, state: dict, params: dict, blobs: list) -> tuple:
        """Options of a model that is about to be declared, of its training, and of `precompute`:
        22023 for one that cannot be."""
        check_options(params["architecture"], params["options"])
        check_precompute(params.get("precompute", {}))
        return {}, []

    def _predict(self, state: dict, params: dict, blobs: list) -> tuple:
        """Probabilities (float32, one blob of R a value) of raw values that are not stored."""
        resident = self.residents.version(params["version"])
        values = [resident.value(unpack_value(blob, resident.row.kind)) for blob in blobs]
        _, _, p, _ = resident.logits_and_projections(values, None)
        return {}, [np.ascontiguousarray(row, "<f4").tobytes() for row in p]
