"""What the worker keeps in memory, loaded from tables when first asked for.

Versions and spectra are immutable, so a resident copy is never stale: a request names the version,
the spectrum and the last prediction chunk that its snapshot sees, and what is missing is loaded.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import psycopg
import structlog

from pgrain.errors import DataCorrupted, InvalidArgument, NotReady
from pgrain.influence.blocks import ProjectionBlocks
from pgrain.influence.group_step import GroupStep, logits_of
from pgrain.influence.projections import project, training_projection
from pgrain.models.encoding import Encoder
from pgrain.models.predicting import predict_proba
from pgrain.models.registry import Model, build_for
from pgrain.models.softmax import softmax
from pgrain.settings import CHUNK_ROWS
from pgrain.store import interventions, predictions, spectra, versions
from pgrain.store.relations import plain_columns
from pgrain.worker.variables import VariableTable

log = structlog.get_logger()
RESIDENT_VERSIONS = 8
# Of values that are not stored, kept for the next complaint about them: so much, or twice what one
# complaint has asked for, if that is more.
LIVE_BYTES = 64 << 20
ALL_LIVE_BYTES = 256 << 20  # ... of all versions, before those of the versions used least go
PASSING_BYTES = 8 << 20     # of values of changed rows, which are asked for once or twice
REST_SECONDS = 20.0     # the connection that loads is given up when it was not needed for so long


@dataclass
class Training:
    """Projections of the training rows under one spectrum.

    rows: (n,) numbers among the version's learned rows; labels: (n,) classes; J: (n, R, m) float32;
    A: (n, m) float32, a_z = J_z^T (p_z - e_y); residual: (n, R) float32.
    """

    rows: np.ndarray
    labels: np.ndarray
    J: np.ndarray
    A: np.ndarray
    residual: np.ndarray

    def __post_init__(self):
        self._blocks: dict[str, ProjectionBlocks] = {}
        self._lock = threading.Lock()

    def deletions(self, k: int) -> ProjectionBlocks:
        """A by blocks, for scores with k pairs; made when first asked for."""
        return self._by_blocks("A", k)

    def relabellings(self, k: int) -> ProjectionBlocks:
        """J by blocks, for scores with k pairs; made when first asked for."""
        return self._by_blocks("J", k)

    def _by_blocks(self, name: str, k: int) -> ProjectionBlocks:
        with self._lock:
            known = self._blocks.get(name)
            if known is None or known.pairs < k:
                # Most ask for the default k alone; who asks for more gets room for any k.
                pairs = k if known is None else None
                known = self._blocks[name] = ProjectionBlocks(
                    getattr(self, name), self.labels if name == "J" else None, pairs)
            return known


class IdsOnly(Training):
    """Projections out of a bundle with ids only: A, and neither J nor labels."""

    def __init__(self, rows: np.ndarray, A: np.ndarray):
        self.rows, self.A = rows, A
        self.__post_init__()

    def __getattr__(self, name: str):
        if name in ("J", "residual", "labels"):
            raise NotReady("this model came as a bundle with ids only, which ranks deletions alone",
                           hint="Ask for a bundle that was exported without --ids-only.")
        raise AttributeError(name)


@dataclass
class Repair:
    """A feature repair of the training rows, projected under one spectrum.

    at: (n',) positions in `Training.rows` (ascending) of the rows that it changes; A: (n', m)
    float32, a_z' of the row with its new features and its own label (0 where it removes the row);
    belief: (n',) float32, p(y | x') of that label (1 where it removes the row).
    """

    number: int
    name: str
    at: np.ndarray
    A: np.ndarray
    belief: np.ndarray


@dataclass
class Spectrum:
    """One spectrum with its projections."""

    row: spectra.SpectrumRow
    vectors: np.ndarray
    training: Training
    fingerprint: str | None = None      # see `vectors.fingerprint`
    repairs: dict[int, Repair] = field(default_factory=dict)
    logits: np.ndarray | None = None    # see `training_logits`

    def training_logits(self) -> np.ndarray:
        """Logits (n, R) float32 of the training rows, up to a constant a row; made when first
        asked for."""
        if self.logits is None:
            self.logits = logits_of(self.training.residual, self.training.labels)
        return self.logits

    def group_step(self, resident: Resident) -> GroupStep:
        """The version's training problem in this subspace, without edits."""
        theta = self.vectors.T.astype(np.float64) @ resident.theta.astype(np.float64)
        return GroupStep(self.training.J, self.training_logits(), self.training.labels,
                         resident.row.alpha, theta)


@dataclass(eq=False)
class Resident:
    """One trained version: the network, its parameters and encoder, what it learned from.
    erasures: how many of its model there were before it was read; those it knows nothing of."""

    row: versions.VersionRow
    features: list[str]
    model: Model
    theta: np.ndarray
    encoder: Encoder
    learned: versions.LearnedRows
    erasures: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    spectra: OrderedDict[int, Spectrum] = field(default_factory=OrderedDict)
    tables: OrderedDict[int | None, VariableTable] = field(default_factory=OrderedDict)
    passing: OrderedDict[int | None, VariableTable] = field(default_factory=OrderedDict)

    def value(self, raw):
        """A raw value off the wire as the encoder takes it."""
        return plain_columns(raw) if self.row.kind == "columns" else raw

    def check(self, values: list) -> None:
        """22023 where the model cannot read one of the raw feature values."""
        X = self.encoder.encode(values)
        if X.dtype.kind == "f":     # bytes and words are never too large
            _finite(predict_proba(self.model, self.theta, X)[0])

    def logits_and_projections(self, values: list, vectors: np.ndarray | None):
        """(predicted, logits, p float32, J or None) of raw feature values."""
        X = self.encoder.encode(values)
        J = None
        if vectors is None:
            logits, p = predict_proba(self.model, self.theta, X)
        else:
            logits, J = project(self.model, self.theta, X, vectors)
            p = probabilities(logits)
        _finite(logits)
        return p.argmax(axis=1), logits, p, J


def _finite(logits: np.ndarray) -> None:
    if not np.isfinite(logits).all():
        raise InvalidArgument("a feature value is too large for the model",
                              detail="Its logits are not finite numbers.")


def probabilities(logits: np.ndarray) -> np.ndarray:
    """float32 probabilities as they are stored; the predicted class is their first maximum."""

    return softmax(logits).astype(np.float32)


class Residents:
    """All of them; `connect` gives a connection to the database (autocommit)."""

    def __init__(self, connect: Callable[[], psycopg.Connection]):
        self._connect = connect
        self._connection: psycopg.Connection | None = None
        self._used = 0.0
        self._lock = threading.RLock()
        self._versions: OrderedDict[int, Resident] = OrderedDict()
        self._loaded: weakref.WeakSet[Resident] = weakref.WeakSet()     # some are held elsewhere
        self._erasures: dict[str, int] = {}     # how many of each model have been looked at

    def version(self, number: int) -> Resident:
        """A trained version; 42704 if there is none."""
        with self._lock:
            resident = self._versions.get(number)
            if resident is None:
                resident = self._query(lambda c: load_version(c, number))
                self._versions[number] = resident
                self._loaded.add(resident)
                log.info("version loaded", version=number, model=resident.row.model,
                         parameters=resident.model.n_parameters)
                while len(self._versions) > RESIDENT_VERSIONS:
                    self._versions.popitem(last=False)
            self._versions.move_to_end(number)
            return resident

    def holds(self, resident: Resident) -> bool:
        """Whether this copy is the one that `version` gives."""
        with self._lock:
            return self._versions.get(resident.row.version) is resident

    def spectrum(self, resident: Resident, number: int) -> Spectrum:
        """One of a version's spectra; 42704 if it has been replaced."""
        with resident.lock:
            known = resident.spectra.get(number)
            if known is None:
                with self._lock:
                    known = self._query(lambda c: _load_spectrum(c, resident, number))
                resident.spectra[number] = known
                while len(resident.spectra) > 2:
                    resident.spectra.popitem(last=False)
            return known

    def repairs(self, resident: Resident, spectrum: Spectrum) -> tuple[list[Repair], list[str]]:
        """The feature repairs that can be ranked under a spectrum, and the names of those that are
        not projected yet. Asked of the tables each time: repairs come and go."""
        number = spectrum.row.spectrum
        with self._lock:
            defined = self._query(lambda c: interventions.of_model(c, resident.row.model))
            ready = self._query(lambda c: interventions.ready(c, number)) if defined else set()
            for it in defined:
                if it.number in ready and it.number not in spectrum.repairs:
                    spectrum.repairs[it.number] = self._query(
                        lambda c, it=it: _load_repair(c, resident, spectrum, it))
        return ([spectrum.repairs[it.number] for it in defined if it.number in ready],
                [it.name for it in defined if it.number not in ready])

    def repaired_rows(self, spectrum: Spectrum, repair: Repair, numbers: np.ndarray
                      ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(numbers (r,) of those of the learned rows `numbers` that a repair changes, ascending,
        J (r, R, m), residual (r, R)) with their new features, as stored."""
        R, m = spectrum.training.residual.shape[1], spectrum.vectors.shape[1]
        parts = [(np.zeros(0, np.int64), np.zeros((0, R, m), np.float32),
                  np.zeros((0, R), np.float32))]
        with self._lock:
            kind = interventions.kind_of_chunks(repair.number)
            for _, arrays in self._query(lambda c: list(spectra.chunks(c, spectrum.row.spectrum,
                                                                       kind))):
                here = np.isin(arrays["rows"], numbers)
                if "J" in arrays and here.any():
                    parts.append(tuple(arrays[name][here] for name in ("rows", "J", "residual")))
        rows, J, residual = (np.concatenate([part[i] for part in parts]) for i in range(3))
        return rows, J, residual

    def table(self, resident: Resident, spectrum: int | None, last_seq: int) -> VariableTable:
        """The version's known values, at least those of chunks up to `last_seq`."""
        with resident.lock:
            # Rows come and go, and nobody says which of their values will be asked for again: a
            # table that has collected too many of them begins anew with what is stored.
            table = self._within(resident, resident.tables, spectrum, LIVE_BYTES)
            if table.last_seq < last_seq:
                with self._lock:
                    table = resident.tables[spectrum] = self._query(
                        lambda c: _loaded(c, resident, spectrum, table))
                table.last_seq = last_seq
            return table

    def passing(self, resident: Resident, spectrum: int | None) -> VariableTable:
        """Values of changed rows that may be gone before they are stored."""
        with resident.lock:
            return self._within(resident, resident.passing, spectrum, PASSING_BYTES)

    def _within(self, resident: Resident, tables: OrderedDict, spectrum: int | None,
                most: int) -> VariableTable:
        """The table of a spectrum, an empty one if there is none with so many bytes."""
        table = tables.get(spectrum)
        if table is None or table.live_bytes > max(most, 2 * table.asked_bytes):
            pairs = None
            if spectrum is not None:
                pairs = len(self.spectrum(resident, spectrum).row.eigenvalues)
            table = tables[spectrum] = VariableTable(len(resident.row.classes), pairs)
            while len(tables) > 3:
                tables.popitem(last=False)
        self._make_room(resident)
        return table

    def _make_room(self, resident: Resident) -> None:
        """Values that are not stored go from the versions used least recently, but this one."""
        held = list(self._versions.values())
        live = {id(it): sum(table.live_bytes for tables in (it.tables, it.passing)
                            for table in list(tables.values())) for it in held}
        for other in held:
            if sum(live.values()) <= ALL_LIVE_BYTES:
                return
            if other is not resident and live.pop(id(other)):
                # (others, to not clear under somebody's hands: they go on with what they have)
                other.tables, other.passing = OrderedDict(), OrderedDict()

    def keep(self, versions: set[int]) -> None:
        """Other versions go from memory: they are there no more."""
        with self._lock:
            for number in self._versions.keys() - versions:
                del self._versions[number]

    def forget(self, model: str, erasures: int) -> None:
        """Drop what was read of a model before its last of so many erasures from memory, also for
        those who still hold a version."""
        with self._lock:
            for resident in list(self._loaded):
                if resident.row.model == model and resident.erasures < erasures:
                    if self.holds(resident):
                        del self._versions[resident.row.version]
                    self._loaded.discard(resident)
                    numbers = list(range(len(resident.learned.keys)))
                    resident.learned = resident.learned.without(numbers)
                    resident.spectra.clear()

    def forget_erased(self, connection: psycopg.Connection) -> None:
        """Drop models from memory whose rows were erased, by whichever worker, since last asked."""
        for row in connection.execute("SELECT model, count(*) AS erasures FROM pgrain.erasure "
                                      "GROUP BY model").fetchall():
            if row["erasures"] != self._erasures.get(row["model"]):
                self.forget(row["model"], row["erasures"])
                self._erasures[row["model"]] = row["erasures"]

    def with_connection(self, work: Callable[[psycopg.Connection], object]):
        """Run long `work` with a connection of its own, so that nobody else waits for it."""
        with self._connect() as connection:
            return work(connection)

    def rest(self) -> None:
        """Give up the connection if nothing has been loaded for a while."""
        if self._lock.acquire(blocking=False):
            try:
                if (self._connection is not None
                        and time.monotonic() - self._used > REST_SECONDS):
                    self._connection.close()
                    self._connection = None
            finally:
                self._lock.release()

    def _query(self, work):
        self._used = time.monotonic()
        reused = self._connection is not None and not self._connection.closed
        try:
            return work(self._live())
        except psycopg.OperationalError:
            if not reused:
                raise
            self._connection.close()
            return work(self._live())

    def _live(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection


def load_version(connection: psycopg.Connection, number: int) -> Resident:
    """A version from its tables alone."""
    row = versions.read_version(connection, number)
    encoder = Encoder.from_json(row.encoder)
    model = build_for(row.architecture, len(row.classes), encoder, row.options)
    if row.shapes is not None and row.shapes != model.shapes():
        raise DataCorrupted(
            f"version {number} does not fit its architecture any more",
            detail=f"{row.architecture} has other parameters than when the version was made.",
            hint=f"Bring the class back as it was, or run CALL pgrain.train('{row.model}').")
    theta = versions.read_theta(connection, number)
    if len(theta) != model.n_parameters:
        raise DataCorrupted(f"version {number} has {len(theta)} stored parameters, "
                            f"its architecture {model.n_parameters}")
    features = versions.read_model(connection, row.model).features
    # Counted first: an erasure in between is one too many to know, not one too few.
    erasures = connection.execute("SELECT count(*) AS n FROM pgrain.erasure WHERE model = %s",
                                  [row.model]).fetchone()["n"]
    return Resident(row, features, model, theta, encoder, versions.read_rows(connection, number),
                    erasures)


def _load_spectrum(connection, resident: Resident, number: int) -> Spectrum:
    row = spectra.read(connection, number)
    vectors = spectra.read_vectors(connection, number)
    parts = [arrays for _, arrays in spectra.chunks(connection, number, "training")]
    rows = np.concatenate([part["rows"] for part in parts]) if parts else np.zeros(0, np.int64)
    if parts and "A" in parts[0]:
        return Spectrum(row, vectors, IdsOnly(rows, np.concatenate([part["A"] for part in parts])))
    shape = (0, len(resident.row.classes), vectors.shape[1])
    J = np.concatenate([part["J"] for part in parts]) if parts else np.zeros(shape, np.float32)
    residual = (np.concatenate([part["residual"] for part in parts]) if parts
                else np.zeros(shape[:2], np.float32))
    training = Training(rows, resident.learned.labels[rows], J,
                        training_projection(J, residual), residual)
    log.info("spectrum loaded", spectrum=number, version=row.version, rows=len(rows),
             pairs=len(row.eigenvalues), megabytes=round(J.nbytes / 1e6))
    return Spectrum(row, vectors, training)


def _load_repair(connection, resident: Resident, spectrum: Spectrum,
                 it: interventions.Intervention) -> Repair:
    rows, A = [np.zeros(0, np.int64)], [np.zeros((0, spectrum.vectors.shape[1]), np.float32)]
    belief = [np.zeros(0, np.float32)]
    for _, arrays in spectra.chunks(connection, spectrum.row.spectrum,
                                    interventions.kind_of_chunks(it.number)):
        n, labels = len(arrays["rows"]), resident.learned.labels[arrays["rows"]]
        rows.append(arrays["rows"])
        A.append(training_projection(arrays["J"], arrays["residual"]) if "J" in arrays
                 else np.zeros((n, A[0].shape[1]), np.float32))
        belief.append(1 + arrays["residual"][np.arange(n), labels] if "J" in arrays
                      else np.ones(n, np.float32))
    numbers = np.concatenate(rows)
    there = np.isin(numbers, spectrum.training.rows)
    return Repair(it.number, it.name, np.searchsorted(spectrum.training.rows, numbers[there]),
                  np.concatenate(A)[there], np.concatenate(belief)[there])


def _loaded(connection, resident: Resident, spectrum: int | None,
            table: VariableTable) -> VariableTable:
    """A version's table with all chunks that are stored: `table`, or another one, if most of what
    it knows as stored has been dropped since."""
    _load_chunks(connection, resident, spectrum, table)
    stored = predictions.count(connection, resident.row.version)
    if len(table) - table.live <= 2 * stored + int(CHUNK_ROWS.default):
        return table
    log.info("values dropped", version=resident.row.version, values=len(table) - table.live,
             stored=stored)
    anew = VariableTable(table.n_classes, table.n_pairs)
    _load_chunks(connection, resident, spectrum, anew)
    anew.add_live_of(table)
    return anew


def _load_chunks(connection, resident: Resident, spectrum: int | None,
                 table: VariableTable) -> None:
    missing = [seq for seq in predictions.seqs(connection, resident.row.version)
               if seq not in table.loaded]
    projected = dict.fromkeys(missing)
    if spectrum is not None:
        # A chunk whose projections are not stored stays unknown: its values are computed live.
        projected = {seq: arrays["J"] for seq, arrays in
                     spectra.chunks(connection, spectrum, "attached", missing)}
    found = [(predictions.read(connection, seq, table.n_classes), J)
             for seq, J in projected.items()]
    found = [(values, J) for values, J in found if values is not None]
    if found:   # all at once: each `add` copies the table and sorts its index
        parts = [np.concatenate([getattr(values, name) for values, _ in found])
                 for name in ("digests", "predicted", "logits")]
        table.add(*parts, None if spectrum is None else np.concatenate([J for _, J in found]),
                  live=False)
    table.loaded.update(missing)
