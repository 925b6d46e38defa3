"""What a session keeps in memory: the connection to the worker, the secret, models, predictions.

The two `load…` functions run as the extension's owner (SECURITY DEFINER stubs in
sql/30_session.sql) and store what they read here. Nothing of it is returned to SQL.

How fresh it is. `predict` is called a row at a time and can't ask the tables each time. It asks at
the first call, after any pause between two calls (`PAUSE_SECONDS`, shorter than what lies between
two statements of a client), and in an unbroken run of calls every `TRUST_SECONDS`; then the tables
are asked only if the snapshot has changed, which within a statement it does not. A change of the
active version made by this session empties the memory at once, and until that transaction has ended
every call asks. The question is asked with the statement's own snapshot, so within one statement
the answer can't change. What remains: a statement that begins within `PAUSE_SECONDS` of the last
call of the one before may miss what another session has committed in between.
"""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from itertools import islice
from struct import Struct
from sys import getsizeof

from pgrain.backend import place
from pgrain.backend.shared_map import fetch
from pgrain.backend.spi import check_interrupts, entry_point, query
from pgrain.errors import NotReady, PgrainError, WorkerUnreachable
from pgrain.settings import REMEMBERED_BYTES
from pgrain.wire.client import START_HINT, Client
from pgrain.wire.identity import DIGEST_BYTES, hasher
from pgrain.wire.prediction_map import PredictionMap

PAUSE_SECONDS = 0.0001
TRUST_SECONDS = 0.005
STALE_SECONDS = 15   # since a worker has said that it lives
LIVE_BYTES = 8 << 20     # of values that are not stored, for one model
LIVE_VALUE_BYTES = 200   # of digest, probabilities and dictionary for each, beside 4 a class
MODELS = 16              # that a session remembers
TAIL_VALUES = 20_000     # in a session's own memory, before it asks for a newer map
LABEL_BYTES = 200        # of a dictionary and a list for each entry
VERSION = os.path.join(os.path.dirname(os.path.dirname(__file__)), "VERSION")   # no pathlib: slow

STANDBY_HINT = ("Start pgrain worker --dsn ... --socket PATH beside it, and name PATH under "
                f"[workers] in {place.FILE}, beside this server's postgresql.conf.")


class Model:
    """One model as this session knows it.

    Stored values are in `map`, which the sessions of a machine share, and, where there is none or
    for chunks that came after it, in `tail`: digest -> index of the class, and
    `tail_probabilities`: digest -> (bytes of float32, offset). `met` remembers values themselves, a
    bounded number: a look-up that needs no digest. Each is a list [value, label, the one that came
    next the last time, None], of an array [None, label, the next, the bytes of its numbers]: a scan
    that is repeated meets its values in the same order, and to compare a value with the one that is
    expected takes less time than to look it up. `last` is the one that came last, `nothing` (no
    value's) stands where it is not known what came next.

    trusted, until: at which times (`time.monotonic`) what is known here must be looked up again,
    and before which the next call comes after no pause.
    """

    def __init__(self, row: dict):
        self.name: str = row["model"]
        self.kind: str = row["kind"]
        self.features: list[str] = list(row["features"])
        self.version: int | None = row["version"]
        self.classes: list[str] = list(row["classes"] or [])
        self.spectrum: int | None = row["spectrum"]
        self.last_seq: int = row["last_seq"]
        # Where one must be able to read its training keys; None: anybody may (backend/keys.py).
        self.keys_table: int | None = row["keys_table"]
        self.keys_column: str | None = row["keys_column"]
        self.loaded_seq = 0
        self.map: PredictionMap | None = None
        self.tail: dict[bytes, int] = {}
        self.tail_probabilities: dict[bytes, tuple] = {}
        self.met: dict[object, list] = {}
        self._met_bytes = 0
        self._unmet = 0         # bytes remembered since one was met again
        self._idle = 0          # values still to come of which none is remembered
        self.nothing: list = [None, None, None, None]
        self.nothing[2] = self.last = self._newest = self.nothing
        # Makes bytes of as many numbers as the last new array had.
        self.packed, self._packed_bytes = None, -1
        self.live: OrderedDict[bytes, bytes] = OrderedDict()
        self.ahead = None       # see backend/ahead.py
        self.trusted = 0.0
        self.until = 0.0
        self.snapshot: str | None = None   # under which `still` has looked it up

    def code(self, digest: bytes) -> int | None:
        """The predicted class of a stored value."""
        if self.map is not None:
            place = self.map.find(digest)
            if place is not None:
                return self.map.codes[place]
        return self.tail.get(digest)

    def stored(self, digest: bytes) -> tuple[int, bytes] | None:
        """(the predicted class, float32 probabilities) of a stored value."""
        if self.map is not None:
            place = self.map.find(digest)
            if place is not None:
                return self.map.codes[place], self.map.probabilities(place)
        code = self.tail.get(digest)
        if code is None:
            return None
        data, at = self.tail_probabilities[digest]
        return code, data[at:at + 4 * len(self.classes)]

    def keep_live(self, found: dict[bytes, bytes]) -> None:
        """Probabilities by digest of values that are not stored; those asked for first go."""
        self.live.update(found)
        most = LIVE_BYTES // (LIVE_VALUE_BYTES + 4 * len(self.classes))
        while len(self.live) > most:
            self.live.popitem(last=False)

    def remember(self, value, label: str, an_array: bool = False) -> None:
        """Find a value's label by the value itself (an array's by the bytes of its numbers) from
        now on. Where there is no room, half of them, those met first, go. Has none of as many been
        met again, as in a scan over more than there is room for, that would be idle work: then for
        a while, as many values as there are here, all stays as it is."""
        if self._idle:
            self._idle -= 1
            return
        size, most = getsizeof(value) + LABEL_BYTES, REMEMBERED_BYTES.default
        if size > most / 2:
            return
        if self.last is not self._newest:
            self._unmet = 0
        if self._met_bytes + size > most:
            if self._unmet > most / 3:
                self._idle, self._unmet = len(self.met), 0
                return
            self.met = dict(islice(self.met.items(), len(self.met) // 2 + 1, None))
            self._met_bytes = sum(getsizeof(known) + LABEL_BYTES for known in self.met)
            for node in self.met.values():      # else they would hold those that are to go
                node[2] = self.nothing
            self.nothing[2] = self.last = self.nothing
        if an_array:
            node = [None, label, self.nothing, value]
            if len(value) != self._packed_bytes:
                self._packed_bytes = len(value)
                self.packed = Struct(f"{len(value) // 8}d").pack
        else:
            node = [value, label, self.nothing, None]
        self.met[value] = node
        self.last[2] = self.last = self._newest = node      # from left to right
        self._unmet += size
        self._met_bytes += size

    def same_as(self, other: Model) -> bool:
        """Whether stored predictions of `other` are still those of this model's version."""
        return (self.version, self.kind, self.features) == (other.version, other.kind,
                                                            other.features)


class State:
    """The session's one instance is `STATE`."""

    def __init__(self):
        self.version: str | None = None
        self.database = ""
        self.sockets: list[str] = []          # of the workers, the one to try first in front
        self.owners: dict[str, int] = {}      # socket -> OS user of its worker, where that is known
        self.tls: dict[str, str] = {}
        self.standby = False
        self.incarnation: str | None = None   # of the server: see provenance/stamps.py
        self.server: str | None = None        # which one: a copy's sessions find the same workers
        self.hasher = None
        self.secret: bytes | None = None
        self.models: dict[str, Model] = {}
        self.client: Client | None = None
        self.plans: OrderedDict[tuple, dict] = OrderedDict()
        self.looked_up: OrderedDict[tuple, object] = OrderedDict()   # see complain.Known
        self.watches: dict[str, object] = {}
        self.loaded_watch = None              # by the last call of pgrain._load_watch
        # Settings that the caller of a watch's query and its creator have set differently, (the
        # caller's, the creator's) by name: see watch.query_of.
        self.own: dict[str, tuple[str, str]] = {}
        self.extension: int | None = None
        # The transaction in which this session has changed a model: until it has ended, each call
        # asks anew, for a savepoint or the transaction itself may be rolled back.
        self.changed_in: str | None = None


STATE = State()


@entry_point
def load(plpy) -> None:
    """Read secret, versions and the worker's socket. Runs as the extension's owner."""
    row = query(plpy, """
        SELECT pg_catalog.current_database() AS database,
               (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'pgrain') AS version,
               (SELECT oid::bigint FROM pg_catalog.pg_extension
                WHERE extname = 'pgrain') AS extension,
               (SELECT secret FROM pgrain.installation) AS secret,
               (SELECT backend_start::text FROM pg_catalog.pg_stat_get_activity(NULL)
                WHERE backend_type = 'checkpointer') AS incarnation,
               pg_catalog.concat(
                   extract(epoch FROM pg_catalog.pg_postmaster_start_time()), ' ',
                   (SELECT oid FROM pg_catalog.pg_database
                    WHERE datname = pg_catalog.current_database())) AS server,
               pg_catalog.current_setting('config_file', true) AS config_file,
               pg_catalog.pg_is_in_recovery() AS standby,
               -- Those that were alive just now, the oldest first: so all sessions share one.
               ARRAY(SELECT socket FROM pgrain.worker
                     ORDER BY seen_at < pg_catalog.clock_timestamp()
                              - pg_catalog.make_interval(secs => $1), started_at) AS sockets,
               (SELECT pg_catalog.jsonb_object_agg(socket, uid)::text FROM pgrain.worker
                WHERE uid IS NOT NULL) AS owners
        """, ["float8"], [STALE_SECONDS])[0]
    STATE.version, STATE.database, STATE.sockets = row["version"], row["database"], row["sockets"]
    STATE.owners = json.loads(row["owners"] or "{}")
    STATE.standby = row["standby"]
    STATE.tls, places = place.read(row["config_file"])
    if row["database"] in places:
        STATE.sockets, STATE.owners = [places[row["database"]]], {}
    elif row["standby"]:
        STATE.sockets = []   # the table is the primary's, and so are the workers in it
    STATE.incarnation, STATE.extension = row["incarnation"], row["extension"]
    STATE.server = row["server"]
    if row["secret"] is not None and row["secret"] != STATE.secret:
        STATE.secret, STATE.hasher = row["secret"], hasher(row["secret"])
        STATE.models.clear()


def load_model(plpy, name: str, predictions: bool) -> None:
    """Read a model's facts and, if asked, its new stored predictions. Runs as the owner."""
    rows = query(plpy, """
        SELECT (SELECT oid::bigint FROM pg_catalog.pg_extension
                WHERE extname = 'pgrain') AS extension,
               m.model, m.kind, m.features, m.active_version AS version, v.classes,
               p.training_table::oid::bigint AS keys_table, p.key AS keys_column,
               (SELECT s.spectrum FROM pgrain.spectrum s
                WHERE s.spectrum = v.active_spectrum) AS spectrum,   -- a dump leaves them out
               (SELECT coalesce(max(c.seq), 0) FROM pgrain.prediction_chunk c
                WHERE c.version = m.active_version) AS last_seq
        FROM pgrain.model m LEFT JOIN pgrain.model_version v ON v.version = m.active_version
        LEFT JOIN pgrain.protected_keys p ON p.model = m.model
        WHERE m.model = $1
        """, ["text"], [name])
    if not rows:
        STATE.models.pop(name, None)
        return
    if rows[0]["extension"] != STATE.extension:   # dropped and created again: versions restart
        STATE.models.clear()
        STATE.plans.clear()
        STATE.looked_up.clear()
        STATE.watches.clear()
        load(plpy)
    model, known = Model(rows[0]), STATE.models.get(name)
    if known is not None and known.same_as(model):
        for fact in ("last_seq", "spectrum", "classes", "keys_table", "keys_column"):
            setattr(known, fact, getattr(model, fact))
        model = known
    STATE.models[name] = model
    while len(STATE.models) > MODELS:       # the one that was loaded first
        del STATE.models[next(iter(STATE.models))]
    if predictions and model.version is not None and model.loaded_seq < model.last_seq:
        _load_predictions(plpy, model)


def _load_predictions(plpy, model: Model) -> None:
    width = 4 * len(model.classes)
    for row in query(plpy, """
            SELECT seq, digests, predicted, probabilities FROM pgrain.prediction_chunk
            WHERE version = $1 AND seq > $2 ORDER BY seq
            """, ["bigint", "bigint"], [model.version, model.loaded_seq]):
        digests, codes = row["digests"], memoryview(row["predicted"]).cast("H")
        probabilities = row["probabilities"]
        names = [digests[at:at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]
        model.tail.update(zip(names, codes, strict=True))
        model.tail_probabilities.update(
            (name, (probabilities, number * width)) for number, name in enumerate(names))
    model.loaded_seq = model.last_seq


def ensure_loaded(plpy) -> State:
    """The session's state, loaded if this is its first call."""
    if STATE.version is None or STATE.secret is None:
        query(plpy, "SELECT pgrain._load_session()")
        _check_version()
    return STATE


def _check_version() -> None:
    with open(VERSION) as file:
        installed = file.read().strip()
    if installed != STATE.version:
        raise NotReady(
            f'this session\'s Python is of version {installed}, the extension of {STATE.version}',
            hint="Run ALTER EXTENSION pgrain UPDATE if that is due, and start a new session.")


def model_facts(plpy, name: str, *, predictions: bool = False, trained: bool = True) -> Model:
    """A model as of this statement; 42704 if there is none, 55000 if it is not trained."""
    ensure_loaded(plpy)
    _load(plpy, name, False)
    model = STATE.models.get(name)
    if model is None:
        from pgrain.backend.hints import no_model  # here: most sessions never need it
        raise no_model(plpy, name)
    if trained and model.version is None:
        raise NotReady(f'model "{name}" is not trained',
                       hint=f"Run CALL pgrain.train({_quoted(name)}).")
    if predictions and model.version is not None and model.loaded_seq < model.last_seq:
        _load_stored(plpy, model)
    if STATE.changed_in is not None and STATE.changed_in != _transaction(plpy):
        STATE.changed_in = None
    model.snapshot = None
    model.trusted = time.monotonic() + TRUST_SECONDS if STATE.changed_in is None else 0.0
    return model


def still(plpy, model: Model) -> Model:
    """The same model after a pause or a while: asks the tables only under another snapshot."""
    if STATE.changed_in is None and not STATE.standby:   # there snapshots print less than they see
        snapshot = query(plpy, """
            SELECT CASE WHEN pg_catalog.pg_current_xact_id_if_assigned() IS NULL   -- no own writes
                   THEN pg_catalog.pg_current_snapshot()::text END AS s""")[0]["s"]
        if snapshot is not None and snapshot == model.snapshot:
            model.trusted = time.monotonic() + TRUST_SECONDS
            return model
        fresh = model_facts(plpy, model.name, predictions=True)
        fresh.snapshot = snapshot
        return fresh
    return model_facts(plpy, model.name, predictions=True)


def _load(plpy, name: str, predictions: bool) -> None:
    query(plpy, "SELECT pgrain._load_model($1, $2)", ["text", "boolean"], [name, predictions])


def _load_stored(plpy, model: Model) -> None:
    """The stored predictions that this session lacks: a map if the worker has one, else rows."""
    if model.map is None or len(model.tail) > TAIL_VALUES:
        found = fetch(STATE.sockets, STATE.version, STATE.database, STATE.server, model.version,
                      model.last_seq, lambda: check_interrupts(plpy), STATE.owners)
        if found is not None and found[0].n_classes == len(model.classes):
            model.map, last = found
            model.loaded_seq = max(model.loaded_seq, last)
            model.tail.clear()
            model.tail_probabilities.clear()
    if model.loaded_seq < model.last_seq:
        _load(plpy, model.name, True)


def client(plpy) -> Client:
    """The session's connection to the worker (opened by its first call)."""
    state = ensure_loaded(plpy)
    if not state.sockets:
        query(plpy, "SELECT pgrain._load_session()")
    if not state.sockets:
        raise (WorkerUnreachable("this standby knows no worker of its own", hint=STANDBY_HINT)
               if state.standby else
               WorkerUnreachable("no worker is registered in this database", hint=START_HINT))
    return _client_at(plpy, state.sockets[0])


def _client_at(plpy, address: str) -> Client:
    state = STATE
    if state.client is None or state.client.path != address or state.client.tls != state.tls:
        if state.client is not None:
            state.client.close()
        state.client = Client(address, state.version, state.database, tls=state.tls,
                              server=state.server, owner=state.owners.get(address))
    state.client.on_wait = lambda: check_interrupts(plpy)
    return state.client


def call(plpy, method: str, params: dict, blobs=()):
    """Ask the worker; if it is not where we thought, look up where workers are now, try those."""
    connection = client(plpy)
    try:
        return connection.call(method, params, blobs)
    except WorkerUnreachable as failure:
        if failure.timed_out:
            raise   # it has the request and is at it, or hangs: a second one would do as it did
        query(plpy, "SELECT pgrain._load_session()")
        for address in STATE.sockets:
            if address != connection.path:
                try:
                    answer = _client_at(plpy, address).call(method, params, blobs)
                except WorkerUnreachable:
                    continue
                # Where the others still seem alive, this session stays with the one that answers.
                STATE.sockets.sort(key=lambda known: known != address)
                return answer
        raise


def forget_models(plpy) -> None:
    """Empty the memory of models: this session has changed one."""
    STATE.models.clear()
    STATE.changed_in = _transaction(plpy)


def _transaction(plpy) -> str | None:
    return query(plpy, "SELECT pg_catalog.pg_current_xact_id_if_assigned()::text AS x")[0]["x"]


def live_batch(plpy, model: Model, packed: list[bytes]) -> list[bytes]:
    """float32 probabilities of values that are not stored; computed by the worker."""
    _, blobs = call(plpy, "predict", {"version": model.version, "kind": model.kind}, packed)
    if len(blobs) != len(packed) or any(len(blob) != 4 * len(model.classes) for blob in blobs):
        raise PgrainError("the worker's probabilities have the wrong size")
    return [bytes(blob) for blob in blobs]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
