"""A model version with its spectrum and projections, out of a database and into another one.

What travels: parameters, encoder, classes, eigenpairs; of the training rows their keys, labels and
projections; feature repairs that are projected. What does not: feature values, digests (they belong
to the installation's secret), edits, predictions of attached relations, rows that were forgotten.

With `ids_only` a training row is its key and a_z, which is enough to rank deletions: no label, no
probabilities, no slopes by class.
"""

from __future__ import annotations

import json

import numpy as np
import psycopg

from pgrain.errors import (
    DataCorrupted,
    DuplicateObject,
    InsufficientPrivilege,
    InvalidArgument,
    NotReady,
    UndefinedObject,
)
from pgrain.store import interventions
from pgrain.store.arrays import pack, unpack

_MODEL = ("key", "features", "label", "kind", "architecture", "options")
_VERSION = ("classes", "encoder", "options", "alpha", "shapes", "n_rows", "n_parameters", "metrics")
_SPECTRUM = ("eigenvalues", "residuals", "k", "sample_rows", "changed_rows", "status",
             "options")


def collect(connection: psycopg.Connection, model: str, version: int | None = None, *,
            ids_only: bool = False) -> tuple[dict, dict[str, np.ndarray]]:
    """(what the bundle is about, its tensors) of a version, by default the active one, in one
    snapshot. 42704 if there is none, 55000 if it has no spectrum."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = connection.execute("""
            SELECT key::text, features::text[], label::text, kind, architecture, options,
                   active_version, (SELECT extversion FROM pg_extension WHERE extname = 'pgrain')
                   AS pgrain FROM pgrain.model WHERE model = %s""", [model]).fetchone()
        if row is None:
            raise UndefinedObject(f'model "{model}" does not exist')
        number = version if version is not None else row["active_version"]
        trained = connection.execute(
            "SELECT classes, encoder, options, alpha, shapes, n_rows, n_parameters, metrics, "
            "active_spectrum FROM pgrain.model_version "
            "WHERE model = %s AND version = %s AND ready", [model, number]).fetchone()
        if trained is None:
            raise UndefinedObject(f'model "{model}" has no trained version {number}')
        spectrum = connection.execute(
            "SELECT eigenvalues, residuals, k, sample_rows, changed_rows, status, options "
            "FROM pgrain.spectrum WHERE spectrum = %s AND ready",
            [trained["active_spectrum"]]).fetchone()
        if spectrum is None:
            raise NotReady(f'version {number} of model "{model}" has no stored spectrum',
                           hint="CALL pgrain.precompute for it first.")
        tensors: dict[str, np.ndarray] = {}
        _read(connection, tensors, "version", number, ["parameters", "rows"])
        ready = [] if ids_only else [
            it for it in interventions.of_model(connection, model)
            if it.number in interventions.ready(connection, trained["active_spectrum"])]
        kinds = ["vectors", "training"] + ([] if ids_only else ["landmarks"])
        kinds += [interventions.kind_of_chunks(it.number) for it in ready]
        _read(connection, tensors, "spectrum", trained["active_spectrum"], kinds)
        features = {row["intervention"]: row["features"] for row in connection.execute(
            "SELECT intervention, features FROM pgrain.intervention WHERE model = %s", [model])}
    tensors["version/rows/0/digests"] = np.zeros_like(tensors["version/rows/0/digests"])
    if ids_only:
        _ids_only(tensors)
    about = {"pgrain": row["pgrain"], "ids_only": ids_only, "model": model, "version": number,
             "declared": {name: row[name] for name in _MODEL},
             "trained": {name: trained[name] for name in _VERSION},
             "spectrum": {name: spectrum[name] for name in _SPECTRUM},
             "interventions": [{"number": it.number, "name": it.name, "library": it.library,
                                "features": features[it.number], "options": it.options,
                                "fitted": it.fitted} for it in ready]}
    return about, tensors


def restore(connection: psycopg.Connection, about: dict, tensors: dict[str, np.ndarray], *,
            name: str | None = None, training_table: str | None = None,
            modules: bool = False) -> tuple[str, int]:
    """Store a bundle as a new model: (its name, its version), all in one transaction.

    name: another name for it. training_table: the table of the training rows, if this database has
    it. modules: accept an architecture that is a module of Python code. Raises 55000 for another
    version of pgrain, 42710 for a name that is taken, XX001 for parts that do not fit together.
    """
    check(about, tensors)
    model = name or about["model"]
    with connection.transaction():
        here = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'pgrain'"
                                  ).fetchone()
        if here is None:
            raise UndefinedObject("the database has no extension pgrain",
                                  hint="Run CREATE EXTENSION pgrain CASCADE.")
        if here["extversion"] != about["pgrain"]:
            raise NotReady(f"the bundle is of pgrain {about['pgrain']}, "
                           f"the database of {here['extversion']}",
                           hint="Bring both to the same version.")
        if ":" in about["declared"]["architecture"] and not modules:
            raise InsufficientPrivilege(
                f"the bundle needs Python code: {about['declared']['architecture']}",
                detail="The worker would load this module.",
                hint="If you trust it, import with --modules.")
        if connection.execute("SELECT 1 FROM pgrain.model WHERE model = %s", [model]).fetchone():
            raise DuplicateObject(f'model "{model}" already exists',
                                  hint="Import it under another name with --as.")
        connection.execute("SELECT pgrain._ensure_secret()")
        connection.execute("""
            INSERT INTO pgrain.model (model, training_table, key, features, label, kind,
                                      architecture, options)
            VALUES (%s, %s::regclass, %s, %s::name[], %s, %s, %s, %s)""",
            [model, training_table or "-", *_json(about["declared"], _MODEL)])
        version = connection.execute(
            "INSERT INTO pgrain.model_version (model, ready, classes, encoder, options, alpha, "
            "shapes, n_rows, n_parameters, metrics) "
            "VALUES (%s, true, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING version",
            [model, *_json(about["trained"], _VERSION)]).fetchone()["version"]
        spectrum = connection.execute(
            "INSERT INTO pgrain.spectrum (version, ready, eigenvalues, residuals, k, sample_rows, "
            "changed_rows, status, options) VALUES (%s, true, %s, %s, %s, %s, %s, %s, %s) "
            "RETURNING spectrum",
            [version, *_json(about["spectrum"], _SPECTRUM)]).fetchone()["spectrum"]
        renamed = _restore_interventions(connection, model, spectrum, about, tensors)
        _write(connection, tensors, {"version": version, "spectrum": spectrum}, renamed)
        connection.execute("UPDATE pgrain.model_version SET active_spectrum = %s "
                           "WHERE version = %s", [spectrum, version])
        connection.execute("UPDATE pgrain.model SET active_version = %s WHERE model = %s",
                           [version, model])
    return model, version


def check(about: dict, tensors: dict[str, np.ndarray]) -> None:
    """XX001 unless the parts of a bundle fit together."""
    def joined(prefix: str, array: str) -> np.ndarray | None:
        names = sorted((name for name in tensors if name.startswith(prefix)
                        and name.endswith("/" + array)), key=lambda name: int(name.split("/")[2]))
        return np.concatenate([tensors[name] for name in names]) if names else None
    try:
        theta = joined("version/parameters/", "theta")
        vectors = joined("spectrum/vectors/", "vectors")
        offsets = tensors["version/rows/0/offsets"]
        rows = joined("spectrum/training/", "rows")
        d, m = about["trained"]["n_parameters"], len(about["spectrum"]["eigenvalues"])
        R, n = len(about["trained"]["classes"]), about["trained"]["n_rows"]
        A, J = joined("spectrum/training/", "A"), joined("spectrum/training/", "J")
        residual = joined("spectrum/training/", "residual")
        labels, k = tensors["version/rows/0/labels"], about["spectrum"]["k"]
        values = np.asarray(about["spectrum"]["eigenvalues"], np.float64)
        fits = (theta.shape == (d,) and vectors.shape == (m, d) and offsets.shape == (n + 1,)
                and all(np.isfinite(array).all() for array in (theta, vectors, values))
                and (values > 0).all() and 1 <= k <= m
                and len(labels) == n and (labels < R).all() and (np.diff(offsets) >= 0).all()
                and len(set(about["trained"]["classes"])) == R
                and (J is None or (residual is not None and residual.shape == J.shape[:2]))
                and (rows is None or len(rows) == 0
                     or (0 <= rows.min() and rows.max() < n and len(set(rows.tolist())) == len(rows)
                         and ((J is not None and J.shape == (len(rows), R, m))
                              or (A is not None and A.shape == (len(rows), m))))))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataCorrupted("the parts of the bundle do not fit together",
                            detail=f"{type(error).__name__}: {error}") from None
    if not fits:
        raise DataCorrupted("the parts of the bundle do not fit together",
                            hint="Export it again.")


def _read(connection, tensors: dict, owner: str, number: int, kinds: list[str]) -> None:
    if owner not in ("version", "spectrum"):
        raise InvalidArgument(owner)
    for row in connection.execute(
            f"SELECT kind, seq, checksum, data FROM pgrain.{owner}_chunk WHERE {owner} = %s "
            "AND kind = ANY (%s) ORDER BY kind, seq", [number, kinds], binary=True):
        arrays = unpack(row["checksum"], row["data"], f"a chunk of {owner} {number}")
        for name, array in arrays.items():
            tensors[f"{owner}/{row['kind']}/{row['seq']}/{name}"] = array


def _write(connection, tensors: dict, numbers: dict[str, int], renamed: dict[str, str]) -> None:
    chunks: dict[tuple, dict] = {}
    for name, array in tensors.items():
        owner, kind, seq, part = name.split("/")
        chunks.setdefault((owner, renamed.get(kind, kind), int(seq)), {})[part] = array
    for (owner, kind, seq), arrays in chunks.items():
        if owner not in numbers:
            raise DataCorrupted(f'the bundle has an unknown part "{owner}"')
        checksum, data = pack(arrays)
        connection.execute(
            f"INSERT INTO pgrain.{owner}_chunk ({owner}, kind, seq, checksum, data) "
            "VALUES (%s, %s, %s, %s, %b)", [numbers[owner], kind, seq, checksum, data])


def _restore_interventions(connection, model: str, spectrum: int, about: dict,
                           tensors: dict) -> dict[str, str]:
    """Declare the bundle's feature repairs; old kind of chunk -> new."""
    renamed = {}
    for it in about["interventions"]:
        number = connection.execute("""
            INSERT INTO pgrain.intervention (model, name, features, library, options, fitted)
            VALUES (%s, %s, %s, %s, %s, %s) RETURNING intervention""",
            [model, it["name"], it["features"], it["library"], json.dumps(it["options"]),
             None if it["fitted"] is None else json.dumps(it["fitted"])]).fetchone()["intervention"]
        before = interventions.kind_of_chunks(it["number"])
        renamed[before] = interventions.kind_of_chunks(number)
        rows = sum(len(array) for name, array in tensors.items()
                   if name.startswith(f"spectrum/{before}/") and name.endswith("/rows"))
        interventions.finish(connection, number, spectrum, rows, 0)
    return renamed


def _ids_only(tensors: dict[str, np.ndarray]) -> None:
    """Leave of each row its key and a_z."""
    for name in [name for name in tensors if name.startswith("spectrum/training/")
                 and name.endswith("/J")]:
        chunk = name[:-len("J")]
        J, residual = tensors.pop(name), tensors.pop(chunk + "residual")
        tensors[chunk + "A"] = np.matmul(residual[:, None, :], J)[:, 0, :]
    for part in ("labels", "edited", "repairs"):
        if (name := f"version/rows/0/{part}") in tensors:
            tensors[name] = np.zeros_like(tensors[name])


def _json(fields: dict, names: tuple[str, ...]) -> list:
    """The fields in order, JSON objects as text."""
    return [json.dumps(fields[name]) if isinstance(fields[name], dict) else fields[name]
            for name in names]
