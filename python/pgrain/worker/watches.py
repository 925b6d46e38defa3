"""Watches on the worker's side: plan one, build its state, fold notes into it, read it.

The state is written here alone, so that no caller can put vectors of their own in its place. A
reader sends the notes that its snapshot sees; they are added to a copy. docs/dev/watches.md says
why the answers are exact.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict

import numpy as np
import psycopg
import structlog

from pgrain.complaint.grammar import parse
from pgrain.complaint.objective import complained_column
from pgrain.errors import LimitExceeded, NotReady, ObjectInUse
from pgrain.provenance.lineage import read_lineage
from pgrain.provenance.output import match_sql
from pgrain.store.versions import read_secret
from pgrain.watch.joined_state import JoinedState, side_of, state_of
from pgrain.watch.joins import is_join
from pgrain.watch.plan import NEW, OLD, check_alert, note_sql, reading, shape, tables
from pgrain.watch.state import StandingCircuit, State
from pgrain.wire.identity import hasher as keyed_hasher
from pgrain.worker.complaints import Complaints, evaluation_of, not_precomputed
from pgrain.worker.ranking import NOTHING, Projected, Ranker
from pgrain.worker.resident import Resident, Residents
from pgrain.worker.watch_joins import confirm, plan_join, shape_of
from pgrain.worker.watch_notes import as_noted, batches, named, raw_value, rows_of
from pgrain.worker.watch_reading import Read, cells
from pgrain.worker.watch_rows import lock, renew, trimmed

log = structlog.get_logger()
STATES = 64              # of watches, at most GENERATIONS of each, of about so many bytes in all
GENERATIONS = 4
STATES_BYTES = 128 << 20


class Watches:
    """The methods that concern watches; one instance serves all connections and the folder."""

    def __init__(self, residents: Residents, complaints: Complaints):
        self._residents, self._complaints = residents, complaints
        self._ranker = Ranker(residents)
        self._lock = threading.Lock()
        self._states: OrderedDict[tuple, tuple] = OrderedDict()
        self._evaluated: dict[tuple, Read] = {}       # of states that were read

    # --- making one ----------------------------------------------------------------------------

    def plan(self, state: dict, params: dict, blobs: list) -> tuple:
        """The tables of a query that can be watched; given their names, what notes a change. Of a
        join of predictions, the queries of its sides; given their shapes, its own."""
        capture = self._complaints.known_plan(params["plan"]).capture
        if is_join(capture):
            answer = plan_join(capture, params)
            return answer | ({"functions": _functions(capture)} if "shape" in answer else {}), []
        found = tables(capture)
        answer = {"tables": [{"relation": table.relation, "fact": table.fact} for table in found]}
        if "names" in params:
            made = shape(capture)
            if params["alert"] is not None:
                check_alert(params["alert"], made)
            answer |= {"shape": made, "functions": _functions(capture),
                       "note_new": note_sql(capture, params["names"], NEW),
                       "note_old": note_sql(capture, params["names"], OLD)}
        return answer, []

    def renew(self, state: dict, params: dict, blobs: list) -> tuple:
        """Make the statements that note changes anew, for the tables that the query names now;
        notes of the old ones are told by their print. Triggers follow, as they are missing."""
        self._residents.with_connection(lambda connection: renew(connection, params))
        return {}, []

    def build(self, state: dict, params: dict, blobs: list) -> tuple:
        """Store the state that an evaluation of the whole query gives.

        The notes that the evaluation's snapshot saw are in it and go; that nobody has folded any
        other meanwhile is checked by the generation.
        """
        evaluation = evaluation_of(state, params, last=True)
        sides = [evaluation_of(state, {"evaluation": number}, last=True)
                 for number in params.get("sides", ())]
        kept = params["shape"]
        found = [one.variables[kept["model"]] for one in (evaluation, *sides)]
        if (shape_of(evaluation.plan.capture, [one.plan.capture for one in sides]) != kept
                or len({(one.resident.row.version, one.spectrum) for one in found}) > 1):
            raise NotReady("the model's classes or the query's columns have changed",
                           hint="Try again.")
        variables, made, pairs = found[0], state_of(kept)(), 0
        for number, one in enumerate(sides or [evaluation]):
            of_side = one.variables[kept["model"]]
            predicted, p, J = of_side._snapshot()
            rows = of_side.rows
            made.take(kept, number, one.circuit.lineage, predicted[rows], p[rows],
                      None if J is None else J[rows], 1)
            pairs = 0 if J is None else J.shape[2]
        if sides:
            confirm(StandingCircuit(made.standing(kept), kept, pairs), evaluation)
        try:
            self._residents.with_connection(
                lambda connection: self._write(connection, params, made, variables, pairs))
        except psycopg.errors.LockNotAvailable:
            # Who ends it has its row, and waits for its tables, which whoever computes it reads
            # meanwhile.
            raise ObjectInUse("the watch is being ended, or its changes are being folded",
                              hint="Try again.") from None
        return {}, []

    def _write(self, connection, params: dict, made: State | JoinedState, variables,
               pairs: int) -> None:
        number, kept = params["watch"], params["shape"]
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '1500ms'")
            lock(connection, number, wait=True)
            row = connection.execute(
                "SELECT w.alert, s.generation, s.changes, s.before::text AS before, s.alert_holds, "
                "s.print, pg_current_xact_id()::text AS here, s.draining, "
                "pgrain._watch_owner(w.watch)::bigint AS owner, coalesce(s.owner = "
                "pgrain._watch_owner(w.watch), true) AS theirs, "
                "coalesce(s.epoch, %s) AS epoch, pgrain._watch_cut(w.watch) AS cut "
                "FROM pgrain.watch w LEFT JOIN pgrain.watch_state s USING (watch) "
                "WHERE w.watch = %s", [params["cut"], number]).fetchone()
            if row is None or row["generation"] != params["generation"]:
                raise ObjectInUse("the watch has changed meanwhile", hint="Try again.")
            # A first state has the epoch in which it was read, if all was noted in that.
            if (row["draining"] or row["cut"] is None or row["cut"] != row["epoch"]
                    or row["cut"] % 2 or not row["theirs"]):
                raise ObjectInUse("some who have changed its rows are still under way",
                                  detail="More changes waited than are noted.", hint="Try again.")
            connection.execute("DELETE FROM pgrain.watch_note WHERE watch = %s AND note = ANY (%s)",
                               [number, params["notes"]])
            connection.execute(_FORGET_OTHERS, [number, row["owner"]])
            connection.execute("DELETE FROM pgrain.watch_cell WHERE watch = %s", [number])
            # (of the worker's own try, for example, while whoever makes the watch was at it)
            connection.execute("DELETE FROM pgrain.watch_problem WHERE watch = %s", [number])
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO pgrain.watch_cell (watch, key, texts, data) "
                    "VALUES (%s, %s, %s, %b)",
                    [[number, key, *row] for key, row in made.rows().items()])
            changes = [*(row["changes"] or []), *params["changes"]]
            if row["print"] not in (None, params["print"]):
                # What was noted before this is seen may be what a function, a type or a name meant
                # before it was changed: nobody waits for those who are under way.
                changes.append(row["here"])
            changes, before = trimmed(changes, row["before"])
            generation = connection.execute("""
                INSERT INTO pgrain.watch_state (watch, generation, version, spectrum, pairs,
                    notes_print, print, changes, before, epoch, owner, built_at)
                VALUES (%s, (SELECT floor(extract(epoch FROM clock_timestamp()) * 1e6)::bigint),
                        %s, %s, %s, %s, %s, %s, %s::text::xid8, %s, %s::oid,
                        clock_timestamp())
                ON CONFLICT (watch) DO UPDATE SET
                    generation = greatest(watch_state.generation + 1, excluded.generation),
                    version = excluded.version, spectrum = excluded.spectrum,
                    pairs = excluded.pairs, notes_print = excluded.notes_print,
                    print = excluded.print, changes = excluded.changes,
                    before = excluded.before, built_at = excluded.built_at,
                    problem = NULL, problem_since = NULL
                RETURNING generation""",
                [number, variables.resident.row.version, variables.spectrum, pairs,
                 params["notes_print"], params["print"], changes, before, row["epoch"],
                 row["owner"]]
                ).fetchone()["generation"]
            self._alert(connection, number, row["alert"], row["alert_holds"], made, kept, pairs)
        self._remember(number, generation, made, kept)

    # --- folding -------------------------------------------------------------------------------

    def fold(self, connection, number: int) -> str | None:
        """Fold what waits into the state; the reason where it is to be built anew."""
        with connection.transaction():
            if not lock(connection, number):
                return None
            # The watch first, as `unwatch` does: else they would wait for each other.
            if not connection.execute("SELECT FROM pgrain.watch WHERE watch = %s "
                                      "FOR KEY SHARE SKIP LOCKED", [number]).rowcount:
                return None
            row = connection.execute("""
                SELECT w.alert, pgrain._watch_owner(w.watch)::bigint AS owner, w.shape,
                       s.generation, s.version, s.spectrum, s.pairs, s.notes_print, s.changes,
                       s.before::text AS before, s.alert_holds,
                       s.print IS NOT DISTINCT FROM pgrain._watch_print(w.watch)
                       AND s.epoch = pgrain._watch_cut(w.watch) AS stands,
                       (SELECT coalesce(max(c.seq), 0) FROM pgrain.prediction_chunk c
                        WHERE c.version = s.version) AS last_seq
                FROM pgrain.watch w JOIN pgrain.watch_state s USING (watch)
                WHERE w.watch = %s""", [number]).fetchone()
            if row is None:
                return "there is no state yet"
            connection.execute(_FORGET_OTHERS, [number, row["owner"]])
            # All that is to be seen: a part of it might lack what another part takes away again.
            notes = connection.execute("""
                DELETE FROM pgrain.watch_note
                WHERE watch = %(watch)s AND owner = %(owner)s::oid
                RETURNING side, sign, print, tags, metas, a, b, c,
                    pg_snapshot_xmin(snapshot) > %(before)s::text::xid8 AND coalesce((
                        SELECT bool_and(pg_visible_in_snapshot(x::xid8, snapshot))
                        FROM unnest(%(changes)s::text[]) AS x), true) AS sees""",
                {"watch": number, "owner": row["owner"], "before": row["before"],
                 "changes": row["changes"]}).fetchall()
            if not notes:
                return None
            if not row["stands"]:       # nor would an alert be right
                raise Rebuild("tables, triggers or functions were altered")
            for note in notes:
                if note["sign"] == 0 or not note["sees"] or note["print"] != row["notes_print"]:
                    raise Rebuild(note["print"] if note["sign"] == 0 else
                                  "a change was made before another table's, or a partition's")
            kept = row["shape"]
            state = self._state(connection, number, row["generation"], kept).copy()
            resident = self._residents.version(row["version"])
            touched = self._add(state, kept, [(note["side"], note["sign"], rows_of(note))
                                              for note in notes],
                                resident, row["spectrum"], row["last_seq"])
            there = state.rows(sorted(touched))
            gone = [key for key in touched if key not in there]
            if gone:
                connection.execute("DELETE FROM pgrain.watch_cell WHERE watch = %s "
                                   "AND key = ANY (%s)", [number, gone])
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO pgrain.watch_cell (watch, key, texts, data) "
                    "VALUES (%s, %s, %s, %b) ON CONFLICT (watch, key) DO UPDATE "
                    "SET texts = excluded.texts, data = excluded.data",
                    [[number, key, *row] for key, row in there.items()])
            # By the clock: a number that a crash has taken back must not come again for another
            # state, for workers and sessions know states by it.
            generation = connection.execute(
                "UPDATE pgrain.watch_state SET folded_at = clock_timestamp(), generation = "
                "greatest(generation + 1, floor(extract(epoch FROM clock_timestamp()) * 1e6)), "
                "problem = %(why)s, problem_since = CASE WHEN %(why)s::text IS NOT NULL "
                "THEN coalesce(problem_since, clock_timestamp()) END "
                "WHERE watch = %(watch)s RETURNING generation",
                {"why": state.too_large, "watch": number}).fetchone()["generation"]
            if state.too_large is None:
                self._alert(connection, number, row["alert"], row["alert_holds"], state, kept,
                            row["pairs"])
        self._remember(number, generation, state, kept)
        return None

    def _alert(self, connection, number: int, alert: str | None, held: bool | None,
               state: State | JoinedState, kept: dict, pairs: int) -> None:
        """NOTIFY pgrain_watch when an alert starts or stops holding; in the same transaction."""
        if alert is None:
            return
        wanted = parse(alert)
        output = StandingCircuit(state.standing(kept), kept, pairs).output(hard=True)
        column = next(i for i, c in enumerate(kept["columns"]) if c["name"] == wanted.column)
        values = output.numbers[output.present, column]
        compare = {"<": np.less, "<=": np.less_equal, "=": np.equal, ">=": np.greater_equal,
                   ">": np.greater}[wanted.operator]
        holds = bool(compare(values, wanted.target).any())     # NaN (NULL) compares as false
        if holds == held or (held is None and not holds):
            if held is None:
                connection.execute("UPDATE pgrain.watch_state SET alert_holds = false "
                                   "WHERE watch = %s", [number])
            return
        name = connection.execute(
            "UPDATE pgrain.watch_state s SET alert_holds = %s FROM pgrain.watch w "
            "WHERE w.watch = s.watch AND s.watch = %s RETURNING w.name",
            [holds, number]).fetchone()["name"]
        connection.execute("SELECT pg_notify('pgrain_watch', %s)", [json.dumps(
            {"watch": name, "alert": alert, "holds": holds})])

    def _state(self, connection, number: int, generation: int, kept: dict
               ) -> State | JoinedState:
        with self._lock:
            known = self._states.get((number, generation))
        if known is not None:
            return known[0]
        rows = connection.execute("SELECT key, texts, data FROM pgrain.watch_cell "
                                  "WHERE watch = %s", [number]).fetchall()
        return state_of(kept).loaded(((row["key"], row["texts"], row["data"]) for row in rows),
                                     kept)

    def _remember(self, number: int, generation: int, state: State | JoinedState,
                  kept: dict) -> None:
        with self._lock:
            self._states[(number, generation)] = (state, kept)
            self._states.move_to_end((number, generation))
            for key in [key for key in self._states if key[0] == number][:-GENERATIONS]:
                self._drop(key)
            used = sum(it.bytes for it, _ in self._states.values())
            while len(self._states) > 1 and (len(self._states) > STATES or used > STATES_BYTES):
                oldest = next(iter(self._states))
                used -= self._states[oldest][0].bytes
                self._drop(oldest)

    def _drop(self, key: tuple) -> None:
        self._states.pop(key, None)
        self._evaluated.pop(key, None)

    def keep(self, watches: set[int]) -> None:
        """Those of other watches go: they have been ended."""
        with self._lock:
            for key in [key for key in self._states if key[0] not in watches]:
                self._drop(key)

    def _add(self, state: State | JoinedState, kept: dict,
             notes: list[tuple[int, int, list[tuple]]], resident: Resident,
             spectrum: int | None, last_seq: int) -> set[str]:
        """Add (side, sign, rows) of notes to a state; the keys of what they touch."""
        touched: set[str] = set()
        for side in sorted({its for its, _, _ in notes}):
            with as_noted():
                if side and "sides" not in kept:
                    raise ValueError("it is of a second table, and there is one")
                of_side = side_of(kept, side)
            for sign, rows in batches([(sign, rows) for its, sign, rows in notes if its == side]):
                noted = self._noted(of_side, rows, resident, spectrum, last_seq)
                with as_noted():
                    touched |= state.take(kept, side, *noted, sign)
        return touched

    def _noted(self, kept: dict, head: list[tuple], resident: Resident, spectrum: int | None,
               last_seq: int) -> tuple:
        """(lineage, classes, probabilities, projected Jacobians) of a note; predictions that are
        not known are made in one batch."""
        rows, values = named(head, keyed_hasher(self._secret()))
        with as_noted():
            lineage = read_lineage(reading(kept), len(kept["classes"]), rows)
        digests = lineage.digests[kept["model"]]
        table = self._residents.table(resident, spectrum, last_seq)
        at = table.find(digests)
        passing, absent = self._residents.passing(resident, spectrum), digests[at < 0]
        new = absent[passing.find(absent) < 0]
        if len(new):
            vectors = (self._residents.spectrum(resident, spectrum).vectors
                       if spectrum is not None else None)
            raw = [resident.value(raw_value(values[name.tobytes()], resident)) for name in new]
            predicted, logits, _, J = resident.logits_and_projections(raw, vectors)
            passing.add(new, predicted, logits, J)
        return lineage, *table.rows(at, passing, passing.find(absent))

    def _secret(self) -> bytes:
        if not hasattr(self, "_known_secret"):
            self._known_secret = self._residents.with_connection(read_secret)
        return self._known_secret

    # --- reading -------------------------------------------------------------------------------

    def read(self, state: dict, params: dict, blobs: list) -> tuple:
        """Cells, or ranked training rows, of the state and the notes that the reader sees."""
        key = (params["watch"], params["generation"])
        rest = iter(blobs)
        if "state" in params:
            kept = params["shape"]
            known = state_of(kept).loaded(((name, texts, next(rest))
                                           for name, texts in params["state"]), kept), kept
            self._remember(*key, *known)
        else:
            with self._lock:
                known = self._states.get(key)
        if known is None:
            return {"need_state": True}, []
        made, kept = known
        resident = self._residents.version(params["version"])
        try:
            if params.get("notes"):
                made = made.copy()
                notes = [(note["side"], note["sign"],
                          [(tag, meta, *(next(rest) if there else None for there in present))
                           for tag, meta, present in note["rows"]])
                         for note in params["notes"]]
                self._add(made, kept, notes, resident, params["spectrum"], params["last_seq"])
                ready = Read.of(made, kept, params["pairs"])
            else:
                ready = self._ready(key, made, kept, params["pairs"])
        except LimitExceeded as error:      # a join that has grown
            return {"too large": error.message}, []
        circuit, value = ready.circuit, ready.value
        if params.get("cells"):
            return {"rows": cells(circuit, value, ready.relaxed, params["include_absent"])}, []
        complaints = [parse(text) for text in params["complaints"]]
        if any(complaint.column is None for complaint in complaints):
            return {"ad hoc": "complaints about rows need the rows"}, []
        for complaint in complaints:
            complained_column(complaint, circuit)
        if params["matches"] is None and any(c.where is not None for c in complaints):
            return {"match": [None if c.where is None else match_sql(circuit.columns, c.where)
                              for c in complaints], "output": value.match_json(),
                    "absent": not bool(value.present.all())}, []
        matches = params["matches"] or [None] * len(complaints)
        return self._rank(ready, complaints, matches, resident, params), []

    def _ready(self, key: tuple, made: State | JoinedState, kept: dict, pairs: int) -> Read:
        """A state as it is read, for as long as the state itself is kept."""
        with self._lock:
            ready = self._evaluated.get(key)
        if ready is None:
            ready = Read.of(made, kept, pairs)
            with self._lock:
                if key in self._states:
                    self._evaluated[key] = ready
        return ready

    def _rank(self, ready: Read, complaints, matches, resident, params) -> dict:
        model = ready.circuit.shape["model"]
        if params["spectrum"] is None:
            raise not_precomputed(model)
        gradient, effect, told = ready.asked(complaints, matches)
        notices = list(told)
        if gradient is None:
            return NOTHING.answer(params, notices)
        ranking = self._ranker.rank(
            {model: Projected(resident, params["spectrum"])}, gradient, effect, params["top_k"],
            params["intervention"], params["options"], notices)
        return ranking.answer(params, notices + ranking.told())


# Notes of who is not the owner of the watch (any more) count for nothing.
_FORGET_OTHERS = "DELETE FROM pgrain.watch_note WHERE watch = %s AND owner <> %s::oid"


class Rebuild(Exception):
    """The notes cannot be folded; what was deleted is rolled back."""


def _functions(capture) -> list[str]:
    """Names of the functions that the query calls."""
    query = capture.annotated.query
    names = set(query.select.functions)
    for expression in query.expressions():
        names |= set(expression.functions)
    return sorted(names)
