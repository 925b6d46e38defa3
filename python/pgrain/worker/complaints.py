"""From a query to ranked training rows: plan, evaluate, verify, match, rank.

A session asks for these in order. What one step found stays in the connection's state, so that
nothing large crosses the wire twice; plans are shared by all connections.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from pgrain.complaint import cell
from pgrain.complaint.grammar import Complaint, parse
from pgrain.complaint.objective import Objective, all_rows, complained_column
from pgrain.errors import InvalidArgument, NotReady, PgrainError
from pgrain.interrupts import check
from pgrain.plan.class_names import misspelt
from pgrain.provenance.circuit import Circuit, Output
from pgrain.provenance.compile import Capture, ModelFacts, compile
from pgrain.provenance.lineage import Lineage
from pgrain.provenance.probes import ProbeResult, Probes
from pgrain.provenance.stamps import (
    STAMP_BYTES,
    Stamped,
    learn_sql,
    of_table,
    values_sql,
    widen,
)
from pgrain.settings import STAMPS
from pgrain.store.versions import read_secret
from pgrain.wire.identity import DIGEST_BYTES, digest, hasher, unpack_value
from pgrain.worker import vectors
from pgrain.worker.circuits import Circuits, Evaluated, same_rows
from pgrain.worker.ranking import (
    METHODS,
    NOTHING,
    STORED,
    Projected,
    Ranker,
    Variables,
    check_options,
)
from pgrain.worker.resident import Resident, Residents
from pgrain.worker.stamp_table import StampTable
from pgrain.worker.variables import VariableTable

PLANS = 256
EVALUATIONS = 4
NOTICES = 5
STAMP_TABLES = 64        # each of at most STAMPS tuples, and so many in all
ALL_STAMPS = 2 * int(STAMPS.default)
UNKNOWN_PLAN = "PG001"
NEEDS_ROWS = "PG002"     # the plan's circuit does not know the presence of rows; plan with `rows`


@dataclass
class Plan:
    """A compiled query. verified: whether PostgreSQL's own result has confirmed the circuit."""

    capture: Capture
    versions: dict[str, int]
    verified: bool = False
    notes: tuple[str, ...] = ()     # what to tell about the query itself


@dataclass
class Evaluation:
    """One evaluated circuit, waiting to be verified, matched and ranked for these complaints."""

    plan: Plan
    evaluated: Evaluated
    complaints: list[Complaint]
    planning: tuple | None = None        # a plan under way and its notices (`plan_methods`)
    assessment: tuple | None = None      # findings to come, findings so far

    @property
    def circuit(self) -> Circuit:
        """The circuit."""
        return self.evaluated.circuit

    @property
    def variables(self) -> dict[str, Variables]:
        """The variables of each model."""
        return self.evaluated.variables

    @property
    def value(self) -> Output:
        """The output on predicted classes."""
        return self.evaluated.value

    @property
    def relaxed(self) -> Output:
        """The output on probabilities."""
        return self.evaluated.relaxed

    def matched(self, matches: list) -> list[list[int]]:
        """The output rows of each complaint; `matches`: those of its WHERE, None without."""
        return [all_rows(self.value, complaint) if rows is None else rows
                for complaint, rows in zip(self.complaints, matches, strict=True)]

    def objective(self, matches: list, sent: dict | None = None) -> Objective:
        """What the complaints add up to. sent: the cell that predictions are to be about
        (`cell.as_sent`), where an earlier round has chosen it."""
        return self.objective_of(self.complaints, self.matched(matches),
                                 sent and cell.found(self.value, sent, len(self.complaints)))

    def projected(self, objective: Objective, effect: bool = False) -> dict[str, np.ndarray]:
        """V^T grad of the objective, or of its cell alone: (m,) for each model that
        moves it."""
        weights = objective.effect_weights() if effect else objective.weights
        return self.evaluated.projected(
            weights, lambda some: objective.circuit.gradient(objective.P, some))

    def objective_of(self, complaints, matched, chosen=None) -> Objective:
        """The same for some of them."""
        return Objective(complaints, self.circuit, self.value, self.relaxed, matched,
                         {name: v.p for name, v in self.variables.items()}, chosen)


@dataclass
class Asked:
    """A request to evaluate, and how far it has got: it waits in the connection's state for what
    was lacking. values: see `_values`; tables: in which values were missing, by model."""

    params: dict
    blobs: list
    key: bytes | None = None
    lineage: Lineage | None = None
    tables: dict[str, VariableTable] = field(default_factory=dict)
    values: dict[str, dict] | None = None


class Complaints:
    """The methods; one instance serves all connections."""

    def __init__(self, residents: Residents):
        self._residents = residents
        self._ranker = Ranker(residents)
        self._hasher = None
        self._lock = threading.Lock()
        self._plans: OrderedDict[str, Plan] = OrderedDict()
        self._stamps: OrderedDict[str, StampTable] = OrderedDict()
        self._circuits = Circuits()

    def plan(self, state: dict, params: dict, blobs: list) -> tuple:
        """The capture of a query, or what must be known to make it."""
        models = {name: ModelFacts(name=name, **facts)
                  for name, facts in params["models"].items()}
        probes = {name: ProbeResult(**result) for name, result in params["probes"].items()}
        made = compile(params["query"], json.loads(params["explain"]), models, probes,
                       params["rows"])
        if isinstance(made, Probes):
            return {"need_models": list(made.models), "need_probes": dict(made.sql)}, []
        versions = {name: facts.version for name, facts in models.items()}
        key = hashlib.sha256(json.dumps(
            [params["query"], params["explain"], params["path"], params["role"], versions,
             [[name, facts.classes] for name, facts in models.items()], params["probes"], made.sql,
             ]).encode()).hexdigest()
        with self._lock:
            known = self._plans.get(key)
            self._plans[key] = Plan(made, versions, known.verified if known else False,
                                    known.notes if known else tuple(misspelt(
                                        params["query"], {m.name: m.classes
                                                          for m in models.values()})))
            self._plans.move_to_end(key)
            while len(self._plans) > PLANS:
                self._plans.popitem(last=False)
        return {"plan": key, "capture": made.sql, "result": made.result_sql,
                "columns": [column.name for column in made.output_columns],
                "fetch": {name: made.fetch_sql(name) for name in models},
                "nested_loops": made.nested_loops, "stamped": made.stamped_sql,
                "fingerprint": made.fingerprint_sql,
                "stamps": [_stamp_statements(made, stamp) for stamp in made.stamps]}, []

    def evaluate(self, state: dict, params: dict, blobs: list) -> tuple:
        """Read the capture, find the variables, evaluate the circuit on classes and probabilities;
        rank, if nothing else must be asked of PostgreSQL before.

        Answers {"unknown"} where tuples, {"missing"} where feature values must come along; then
        the session goes on with `learn` or `supply`. Else {"evaluation", "verify", "match": for
        each complaint that has a WHERE, how to find its rows}. With `rank` (of `rank`'s params) it
        answers as `rank` does instead, if there is nothing to verify, and no WHERE, or `matches`
        are of these very rows: a list for each complaint, the name of a `Match` and the rows that
        it gave.
        """
        state.pop("asked", None)        # by someone who did not go on
        return self._answer(state, Asked(params, blobs))

    def _answer(self, state: dict, asked: Asked) -> tuple:
        params = asked.params
        plan = self.known_plan(params["plan"])
        complaints = [parse(text) for text in params["complaints"]]
        if not plan.capture.knows_rows and any(c.column is None for c in complaints):
            raise PgrainError("the plan knows no rows", sqlstate=NEEDS_ROWS)
        options = params["options"]
        verify = options.get("verify", "new")
        if verify not in ("new", "always", "never"):
            raise InvalidArgument(f'no such value of option "verify": "{verify}"',
                                  hint="Values are new, always and never.")
        found, wanted = self._evaluated(plan, asked)
        if isinstance(found, dict):
            state["asked"] = asked
            return found, wanted
        for complaint in complaints:
            complained_column(complaint, found.circuit)    # before anything more is verified
        number = state.get("next", 0)
        state["next"] = number + 1
        kept = state.setdefault("evaluations", OrderedDict())
        kept[number] = Evaluation(plan, found, complaints)
        while len(kept) > EVALUATIONS:
            kept.popitem(last=False)
        match = [None if c.where is None else found.match(c.where) for c in complaints]
        verify = verify == "always" or (verify == "new" and not plan.verified)
        matches = same_rows(match, params.get("matches"))
        if "rank" in params and not verify and matches is not None:
            return self.rank(state, {**params["rank"], "evaluation": number, "matches": matches},
                             [])
        return {"evaluation": number,
                "match": [m and {"sql": m.sql, "output": m.output, "name": m.name,
                                 "more": m.more and c.operator != "no row"}
                          for m, c in zip(match, complaints, strict=True)],
                "verify": verify}, []

    def _evaluated(self, plan: Plan, asked: Asked) -> tuple:
        """(the circuit of a request, None), or what is missing for it (answer, blobs)."""
        params, blobs, options = asked.params, asked.blobs, asked.params["options"]
        every = options.get("method", "rain++") != "rain++"   # these need the values themselves
        values_up_to = options.get("values_up_to", -1)        # so does a plan, of so many
        if params["ranked"]:
            for name, facts in params["models"].items():
                if facts["spectrum"] is None:
                    raise not_precomputed(name)
        # A kept circuit has no values.
        key = None
        if not every and values_up_to < 0 and asked.values is None:
            key = asked.key = asked.key or self._circuits.key(params, blobs)
        known = key and self._circuits.get(key, self._residents.version)
        if known:
            return known, None
        if asked.lineage is None:
            rows = _rows(params["rows"], blobs)
            if params["stamps"]:
                rows, unknown = self._translate(plan.capture, rows, params["stamps"])
                if any(unknown):
                    return {"unknown": True}, unknown
            asked.lineage = plan.capture.read(rows)
        residents, found, missing = {}, {}, {}
        for name, digests in asked.lineage.digests.items():
            facts = params["models"][name]
            resident = residents[name] = self._residents.version(facts["version"])
            # Those in which values were missing a moment ago: another one may lack others.
            table = asked.tables.get(name)
            if table is None:
                table = self._residents.table(resident, facts["spectrum"], facts["last_seq"])
            given = asked.values.get(name) if asked.values is not None else None
            if given is not None:
                self._add_live(resident, table, facts["spectrum"], given)
            rows = table.find(digests)
            absent = np.flatnonzero(rows < 0)
            if given is None and (every or len(digests) <= values_up_to):
                absent = np.arange(len(digests))
            if len(absent):
                missing[name] = digests[absent].tobytes()
            found[name] = Variables(resident, facts["spectrum"], table, rows, digests, given)
        if missing:
            asked.tables = {name: v.table for name, v in found.items()}
            return {"missing": list(missing)}, list(missing.values())
        circuit = plan.capture.circuit(asked.lineage)
        P = {name: v.p for name, v in found.items()}
        made = Evaluated(circuit, found,
                         circuit.value({name: v.predicted for name, v in found.items()}, P),
                         circuit.relaxed(P), residents)
        if key is not None:
            self._circuits.put(key, made, sum(len(blob) for blob in blobs))
            self._circuits.prune(self._residents.holds)
        return made, None

    def known_plan(self, key: str) -> Plan:
        """A compiled query by its key; PG001 where it is not known any more."""
        with self._lock:
            plan = self._plans.get(key)
        if plan is None:
            raise PgrainError("the worker does not know this plan any more", sqlstate=UNKNOWN_PLAN)
        return plan

    def learn(self, state: dict, params: dict, blobs: list) -> tuple:
        """Remember tuple stamps beside their digests, 32 bytes a tuple, one blob a key, and go on
        with the request that did not know them."""
        for key, blob in zip(params["keys"], blobs, strict=True):
            pairs = np.frombuffer(blob, np.uint8).reshape(-1, 2 * DIGEST_BYTES)
            pairs = pairs[of_table(pairs, key)]
            self._stamp_table(key).learn(pairs[:, :DIGEST_BYTES], pairs[:, DIGEST_BYTES:])
        return self._answer(state, _taken(state))

    def supply(self, state: dict, params: dict, blobs: list) -> tuple:
        """Go on with the request that lacked feature values: digest and value alternating, as many
        of each model as `values` says."""
        asked = _taken(state)
        asked.values = _values(params["values"], blobs)
        return self._answer(state, asked)

    def _stamp_table(self, key: str) -> StampTable:
        with self._lock:
            table = self._stamps.setdefault(key, StampTable())
            self._stamps.move_to_end(key)
            while len(self._stamps) > 1 and (len(self._stamps) > STAMP_TABLES or sum(
                    map(len, self._stamps.values())) > ALL_STAMPS):
                self._stamps.popitem(last=False)
            return table

    def keep(self, versions: set[int]) -> None:
        """What belongs to other versions goes: they are there no more."""
        with self._lock:
            for key in [key for key, plan in self._plans.items()
                        if not versions.issuperset(plan.versions.values())]:
                del self._plans[key]
        self._circuits.prune(self._residents.holds)

    def _translate(self, capture: Capture, rows: list[tuple], keys: list[str]):
        """The capture's rows with digests in place of stamps; and, a slot, unknown stamps."""
        result, unknown = [], [b""] * len(keys)
        tables = {capture.stamp_tag(stamp): number for number, stamp in enumerate(capture.stamps)}
        for tag, meta, a, *rest in rows:
            if tag in tables and a is not None:
                number = tables[tag]
                stamps = np.frombuffer(a, np.uint8).reshape(-1, STAMP_BYTES)
                a, missing = self._stamp_table(keys[number]).translate(stamps)
                if missing.any():
                    unknown[number] += widen(stamps[missing], keys[number]).tobytes()
            result.append((tag, meta, a, *rest))
        return result, unknown

    def verify(self, state: dict, params: dict, blobs: list) -> tuple:
        """Compare with the query's own result; XX000 naming the cell where they differ."""
        evaluation = evaluation_of(state, params)
        evaluation.value.compare(params["rows"])
        evaluation.plan.verified = True
        return {}, []

    def match(self, state: dict, params: dict, blobs: list) -> tuple:
        """The statement that evaluates a complaint's WHERE over the rows that are possible, in the
        result or not, and those rows."""
        evaluation = evaluation_of(state, params)
        complaint = evaluation.complaints[params["complaint"]]
        return {"sql": evaluation.value.match_sql(complaint.where),
                "output": evaluation.value.match_json(True)}, []

    def rank(self, state: dict, params: dict, blobs: list) -> tuple:
        """The training rows most suspected (`Ranking.answer`)."""
        evaluation = evaluation_of(state, params, last=True)
        try:
            objective = evaluation.objective(params["matches"])
        except InvalidArgument as error:    # such as no row, for want of such a class
            error.hint = " ".join(filter(None, [error.hint, *(
                f"Note: {note}." for note in evaluation.plan.notes)])) or None
            raise
        intervention, options = params["intervention"], params["options"]
        stored = check_options(options, intervention) in STORED
        gradient, notices = slopes(objective, evaluation.projected if stored else None)
        notices = [*evaluation.plan.notes, *notices]
        if gradient is None:
            return NOTHING.answer(params, notices), []
        variables = evaluation.variables
        if stored:
            effect = evaluation.projected(objective, effect=True)
            variables = {name: Projected(v.resident, v.spectrum) for name, v in variables.items()}
        else:
            effect = objective.effect_gradient()
        ranking = self._ranker.rank(variables, gradient, effect, params["top_k"], intervention,
                                    options, notices)
        return ranking.answer(params, notices + ranking.told()), []

    def vector(self, state: dict, params: dict, blobs: list) -> tuple:
        """The complaint as a vector of numbers (`vectors`), a blob; none if nothing is violated."""
        evaluation = evaluation_of(state, params, last=True)
        objective = evaluation.objective(params["matches"])
        gradient, notices = slopes(objective)
        if gradient is None:
            return {"notices": notices}, []
        of_cell, parts = objective.effect_gradient(), []
        for name in sorted(gradient):
            if gradient[name].any():
                variables = evaluation.variables[name]
                spectrum = self._residents.spectrum(variables.resident, variables.spectrum)
                parts.append(vectors.Part(
                    name, variables.resident.row.version,
                    vectors.fingerprint(variables.resident, spectrum),
                    variables.projection(gradient[name]), variables.projection(of_cell[name])))
        return {"notices": notices}, [vectors.pack(parts)]

    def rank_vector(self, state: dict, params: dict, blobs: list) -> tuple:
        """`rank` by a vector that was made elsewhere; for whoever may read the training rows."""
        parts = vectors.unpack(blobs[0])
        facts = params["model"]
        if facts["spectrum"] is None:
            raise not_precomputed(facts["name"])
        if check_options(params["options"], params["intervention"]) != METHODS[0]:
            raise InvalidArgument(f'a complaint vector is ranked by method "{METHODS[0]}" alone')
        resident = self._residents.version(facts["version"])
        spectrum = self._residents.spectrum(resident, facts["spectrum"])
        part = vectors.part_for(parts, resident, spectrum)
        notices: list[str] = []
        found = self._ranker.suspects(resident, spectrum, part.q, part.cell, params["top_k"],
                                      params["intervention"], params["options"], notices)
        return {"rows": found.rows(facts["name"], resident), "notices": notices}, []

    def cells(self, state: dict, params: dict, blobs: list) -> tuple:
        """Rows of pgrain.provenance: output_row, output, output_column, value, relaxed,
        variables."""
        evaluation = evaluation_of(state, params, last=True)
        counts = evaluation.circuit.variables()
        dependent = [(number, column.name) for number, column in
                     enumerate(evaluation.circuit.columns) if column.model_dependent]
        rows = []
        for row in evaluation.value.json_rows(params["include_absent"]):
            at, output = row["row"] - 1, json.dumps(row["output"])
            for number, name in dependent:
                cells = (evaluation.value.numbers[at, number],
                         evaluation.relaxed.numbers[at, number])
                rows.append([row["row"], output, name,
                             *(None if np.isnan(cell) else float(cell) for cell in cells),
                             int(counts[at])])
        return {"rows": rows}, []

    def render(self, state: dict, params: dict, blobs: list) -> tuple:
        """Lines of the annotated plan."""
        evaluation = evaluation_of(state, params, last=True)
        plan = evaluation.plan
        return {"lines": [*(f"note: {note}" for note in plan.notes),
                          *plan.capture.render(evaluation.circuit)]}, []

    def _keyed(self):
        if self._hasher is None:
            self._hasher = hasher(self._residents.with_connection(read_secret))
        return self._hasher

    def _add_live(self, resident: Resident, table, spectrum: int | None, given: dict) -> None:
        # The values came through the caller's expressions, which may give one thing to the capture
        # and another to the fetch: a value counts for the digest that it has, and no other.
        kind, features = resident.row.kind, resident.features
        keyed, true = self._keyed(), {}
        for name, value in given.items():
            check()
            if digest(keyed, unpack_value(value, kind), kind, features) == name:
                true[name] = value
        given = true
        if not given:
            return
        digests = np.frombuffer(b"".join(given), np.uint8).reshape(-1, DIGEST_BYTES)
        new = table.find(digests) < 0
        if not new.any():
            return
        raw = [value for value, wanted in zip(given.values(), new, strict=True) if wanted]
        vectors = (self._residents.spectrum(resident, spectrum).vectors
                   if spectrum is not None else None)
        values = [resident.value(unpack_value(item, resident.row.kind)) for item in raw]
        predicted, logits, _, J = resident.logits_and_projections(values, vectors)
        table.add(digests[new], predicted, logits, J)


def slopes(objective: Objective, gradient_of=None
           ) -> tuple[dict[str, np.ndarray] | None, list[str]]:
    """(dq/dP of each model that moves q, or None where there is nothing to lower; what to tell the
    user). `gradient_of` may give another form of these gradients."""
    notices = objective.met[:NOTICES]
    if len(objective.met) > NOTICES:
        notices.append(f"{len(objective.met) - NOTICES} more complained cells are met")
    if not objective.violated:
        return None, [*notices, "nothing is violated, so nothing is ranked"]
    gradient = gradient_of(objective) if gradient_of else {
        name: part for name, part in objective.gradient().items() if part.any()}
    if not gradient:
        return None, [*notices, "the complained cells depend on no prediction, so nothing is "
                                "ranked"]
    return gradient, notices


def not_precomputed(name: str) -> NotReady:
    """The error for a model without a spectrum."""
    quoted = "'" + name.replace("'", "''") + "'"
    return NotReady(f'model "{name}" has no stored spectrum',
                    hint=f"Run CALL pgrain.precompute({quoted}).")


def evaluation_of(state: dict, params: dict, last: bool = False) -> Evaluation:
    """The evaluation that a session refers to; for the last time, where its answer is what the
    session wants: an idle one is not to hold a circuit and a version in memory."""
    kept = state.get("evaluations", {})
    number = params["evaluation"]
    evaluation = kept.pop(number, None) if last else kept.get(number)
    if evaluation is None:
        raise PgrainError("the worker does not know this evaluation")
    return evaluation


def _stamp_statements(capture: Capture, stamp: Stamped) -> dict:
    """What a session needs to tell what is behind the stamps of one slot."""
    model = capture.stamp_model(stamp)
    return {"relation": stamp.relation, "column": stamp.column, "model": model.name,
            "learn": learn_sql(stamp, model.kind, model.features),
            "values": values_sql(stamp, model.kind, model.features)}


def _taken(state: dict) -> Asked:
    """The request that waits; PG001 where there is none, so that it is made anew: what it had
    brought went with a connection that has broken since."""
    asked = state.pop("asked", None)
    if asked is None:
        raise PgrainError("the worker has not been asked before", sqlstate=UNKNOWN_PLAN)
    return asked


def _rows(head: list, blobs: list) -> list[tuple]:
    """The capture's rows (tag, meta, a, b, c) as they left PostgreSQL."""
    rest = iter(blobs)
    return [(tag, meta, *(next(rest) if there else None for there in present))
            for tag, meta, present in head]


def _values(counts: dict, blobs: list) -> dict[str, dict[bytes, memoryview]]:
    """Fetched feature values: model -> digest -> packed value."""
    rest = iter(blobs)
    return {name: {bytes(next(rest)): next(rest) for _ in range(count)}
            for name, count in counts.items()}
