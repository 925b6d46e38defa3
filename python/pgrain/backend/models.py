"""create_model and what else changes the list of models; runs with the caller's own rights."""

from __future__ import annotations

import json
import re

from pgrain.backend import session
from pgrain.backend.hints import no_model
from pgrain.backend.spi import entry_point, json_object, query, refused
from pgrain.errors import (
    DuplicateObject,
    InsufficientPrivilege,
    InvalidArgument,
    NotReady,
    PgrainError,
    UndefinedColumn,
    UndefinedObject,
    no_class,
)

ARCHITECTURES = ("logistic_regression", "mlp", "cnn", "wide_resnet_10", "wide_resnet_18",
                 "wide_resnet_26", "lstm")
# A Flax module of the user's own; the worker imports it, and says where it cannot.
MODULE_PATH = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*:[A-Za-z]\w*\Z")
_TEXT_TYPES = ("text", "character varying", "character")
WORKER_ROLE = "pgrain_worker"
_KEYS_SHOWN = 10
OPTIONS_SECONDS = 3      # how long create_model waits for what `train` would say as well
READER_ROLE = "pgrain_reader"   # as whom the worker reads users' tables: it has no other right
# What the text of a value depends on settings for: DateStyle, bytea_output.
_STYLED = {1082: "({0} OPERATOR(pg_catalog.#>>) '{{}}')",                            # date
           1114: "pg_catalog.replace({0} OPERATOR(pg_catalog.#>>) '{{}}', 'T', ' ')",    # timestamp
           17: "('\\x' OPERATOR(pg_catalog.||) pg_catalog.encode({1}, 'hex'))"}


@entry_point
def create_model(plpy, name: str, relation: str, key: str, features: list[str], label: str,
                 architecture: str, options: str) -> None:
    """Declare a model; the worker's role gets SELECT by the caller's own right to grant it."""
    if not name:
        raise InvalidArgument("a model needs a name")
    fields = json_object(options)
    _check_architecture(architecture)
    if not features or len(set(features)) != len(features):
        raise InvalidArgument("features must name at least one column, each once")
    columns = relation_columns(plpy, relation)
    for column in (key, *features, label):
        _check_column(relation, column, columns)
    if label in features:
        raise InvalidArgument(f'the label "{label}" cannot be a feature')
    kind = _kind(features, columns, architecture)
    if kind == "bytea":
        _check_shape(fields)
    if query(plpy, "SELECT 1 AS x FROM pgrain.model WHERE model = $1", ["text"], [name]):
        raise DuplicateObject(f'model "{name}" already exists',
                              hint=f"Run SELECT pgrain.drop_model({quoted(name)}) first, or "
                                   "choose another name.")
    grant_to_worker(plpy, relation)
    query(plpy, "SELECT pgrain._ensure_secret()")
    if architecture in ARCHITECTURES:
        _check_options(plpy, architecture, fields)
    query(plpy, """
        INSERT INTO pgrain.model (model, training_table, key, features, label, kind, architecture,
                                  options)
        VALUES ($1, $2::regclass, $3, $4::name[], $5, $6, $7, $8::jsonb)
        """, ["text", "text", "name", "text[]", "name", "text", "text", "text"],
        [name, relation, key, features, label, kind, architecture, json.dumps(fields)])
    session.forget_models(plpy)


@entry_point
def alter_model(plpy, name: str | None, relation: str | None, key: str | None,
                features: list[str] | None, label: str | None) -> None:
    """Say where the training rows are by now; what is None stays. Versions stay as they are: the
    next `train` and `precompute` read there. The kind of input can't change, nor can the names of
    many feature columns, by which `predict` takes them."""
    if name is None:
        raise InvalidArgument("alter_model needs the name of a model")
    model = require_model(plpy, name)
    if relation is None and not model["there"]:
        raise gone(name)
    relation = relation or model["training_table"]
    key, label = key or model["key"], label or model["label"]
    features = list(features or model["features"])
    kind, columns = model["kind"], relation_columns(plpy, relation)
    for column in (key, *features, label):
        _check_column(relation, column, columns)
    if label in features or len(set(features)) != len(features):
        raise InvalidArgument("each feature is one column, and none of them the label")
    if kind == "columns" and features != list(model["features"]):
        raise InvalidArgument("features that are many columns keep their names",
                              detail="pgrain.predict takes them by name.",
                              hint="Make a view with these names, and name it as training_table.")
    if len(features) != len(model["features"]):
        raise InvalidArgument(f'model "{name}" reads {len(model["features"])} features, '
                              f"not {len(features)}")
    check_features(relation, features, columns, kind)
    grant_to_worker(plpy, relation)
    query(plpy, "UPDATE pgrain.model SET training_table = $2::pg_catalog.regclass, key = $3, "
                "features = $4::name[], label = $5, pointed_by = current_user WHERE model = $1",
          ["text", "text", "name", "text[]", "name"], [name, relation, key, features, label])
    session.forget_models(plpy)


def gone(name: str) -> UndefinedObject:
    """The error where a model's training table was dropped."""
    return UndefinedObject(f'the training table of model "{name}" does not exist any more',
                           hint=f"Name another one: SELECT pgrain.alter_model({quoted(name)}, "
                                "'table'). What is stored keeps answering.")


def check_key(plpy, name: str, relation: str, key: str) -> None:
    """42703 if the training table's key column was renamed or dropped."""
    columns = relation_columns(plpy, relation)
    if key not in columns:
        raise UndefinedColumn(
            f'training table {relation} has no column "{key}" any more',
            detail=f"Its columns: {', '.join(columns)}.",
            hint=f"Say the new one: SELECT pgrain.alter_model({quoted(name)}, key => '...').")


@entry_point
def drop_model(plpy, name: str) -> None:
    """All versions, projections, predictions and edits go; unfinished jobs are cancelled, failed
    ones dismissed. Watches stay (they may be others', and a model of this name may come), with a
    notice."""
    require_model(plpy, name)
    watches = [row["name"] for row in query(
        plpy, "SELECT name FROM pgrain.watch WHERE model = $1 ORDER BY name", ["text"], [name])]
    query(plpy, "UPDATE pgrain.job SET cancel_requested = true, state = CASE state "
                "WHEN 'queued' THEN 'cancelled' ELSE state END "
                "WHERE model = $1 AND state IN ('queued', 'running', 'failed')", ["text"], [name])
    query(plpy, "DELETE FROM pgrain.model WHERE model = $1", ["text"], [name])
    session.forget_models(plpy)
    if watches:
        plpy.notice("watches of this model stay, and cannot be computed until there is a model "
                    f"{quoted(name)} again; end them: "
                    + "; ".join(f"SELECT pgrain.unwatch({quoted(it)})" for it in watches))


@entry_point
def activate(plpy, name: str, version: int) -> None:
    """An earlier version is active again; its stored spectrum and predictions with it."""
    require_model(plpy, name)
    rows = query(plpy, "SELECT ready FROM pgrain.model_version WHERE model = $1 AND version = $2",
                 ["text", "bigint"], [name, version])
    if not rows:
        raise UndefinedObject(f'model "{name}" has no version {version}',
                              hint="See pgrain.versions.")
    if not rows[0]["ready"]:
        raise NotReady(f'version {version} of model "{name}" is not trained',
                       hint="See pgrain.jobs for how its training ended.")
    query(plpy, "UPDATE pgrain.model SET active_version = $2 WHERE model = $1",
          ["text", "bigint"], [name, version])
    session.forget_models(plpy)


@entry_point
def detach(plpy, name: str, relation: str) -> None:
    """Forget a relation and the stored predictions that its attach brought."""
    require_model(plpy, name)
    # As a regclass, which reads the number of a dropped relation, too.
    found = query(plpy, "DELETE FROM pgrain.attachment WHERE model = $1 AND relation = $2 "
                        "RETURNING 1 AS x", ["text", "regclass"], [name, relation])
    if not found:
        raise UndefinedObject(f'relation "{relation}" is not attached to model "{name}"',
                              hint="See pgrain.attached.")
    query(plpy, "SELECT pgrain._drop_predictions($1, $2)", ["text", "regclass"], [name, relation])
    session.forget_models(plpy)


@entry_point
def apply(plpy, name: str, keys: list[str | None], intervention: str) -> None:
    """Record one edit a key (the last one counts); keys that the table lacks are refused."""
    model = require_model(plpy, name)
    if not model["there"]:
        raise gone(name)
    check_key(plpy, name, model["training_table"], model["key"])
    intervention = check_intervention(plpy, model, intervention)
    if None in keys:
        raise InvalidArgument("a training key is null")
    # Qualified: the training table may have a column of any name.
    key = key_text(plpy, model["training_table"], model["key"])
    missing = query(plpy, "SELECT wanted.k FROM unnest($1) AS wanted (k) WHERE NOT EXISTS "
                          f"(SELECT FROM {model['training_table']} AS t "
                          f"WHERE {key} = wanted.k) LIMIT 1"
                    if len(keys) <= 100 else
                    "SELECT wanted.k FROM unnest($1) AS wanted (k) EXCEPT SELECT "
                    f"{key} FROM {model['training_table']} AS t LIMIT 1", ["text[]"], [keys])
    if missing:
        raise UndefinedObject(f'training table {model["training_table"]} has no row with '
                              f'{model["key"]} = "{missing[0]["k"]}"')
    if model["active_version"] is None and intervention.startswith("relabel:"):
        _warn_of_new_class(plpy, model, intervention[len("relabel:"):])
    query(plpy, """
        INSERT INTO pgrain.training_edit (model, train_key, intervention)
        SELECT DISTINCT $1, k, $3 FROM unnest($2) AS k
        ON CONFLICT (model, train_key) DO UPDATE SET intervention = excluded.intervention,
            applied_by = excluded.applied_by, applied_at = excluded.applied_at
        """, ["text", "text[]", "text"], [name, keys, intervention])


def _warn_of_new_class(plpy, model: dict, label: str) -> None:
    """A notice where no training row has this label: before the first training nobody can say
    that it is no class, but it may be a slip."""
    column = f"t.{plpy.quote_ident(model['label'])}::text"
    table = model["training_table"]
    if not query(plpy, "SELECT pg_catalog.has_column_privilege($1::regclass, $2, 'SELECT') AS ok",
                 ["text", "text"], [table, model["label"]])[0]["ok"]:
        return
    if not query(plpy, f"SELECT 1 AS x FROM {table} AS t WHERE {column} = $1 LIMIT 1", ["text"],
                 [label]):
        plpy.notice(f'no row of training table {table} has label "{label}" so far: training will '
                    "make a class of it")


@entry_point
def revert(plpy, name: str | None, keys: list[str] | None) -> None:
    """Take back the edits of some rows, or all of the model's; a notice where the active version
    was trained with them."""
    if name is None:
        raise InvalidArgument("revert needs the name of a model")
    version = require_model(plpy, name)["active_version"]
    found = query(plpy, """
        WITH gone AS (DELETE FROM pgrain.training_edit WHERE model = $1
                      AND ($2 IS NULL OR train_key = ANY ($2)) RETURNING train_key)
        SELECT (SELECT pg_catalog.count(*) FROM gone JOIN pgrain._version_edit e USING (train_key)
                WHERE e.version = $3 AND e.model = $1 AND e.learned) AS n,
               ARRAY(SELECT k FROM pg_catalog.unnest($2) AS k
                     EXCEPT SELECT train_key FROM gone ORDER BY 1) AS unedited
        """, ["text", "text[]", "bigint"], [name, keys, version])[0]
    gone, unedited = found["n"], found["unedited"]
    if unedited:
        shown = ", ".join("NULL" if key is None else f'"{key}"' for key in unedited[:_KEYS_SHOWN])
        more = len(unedited) - _KEYS_SHOWN
        plpy.notice(f"{len(unedited)} of the keys have no edit, so nothing is taken back for them: "
                    + shown + (f" and {more} more" if more > 0 else ""))
    if gone:
        plpy.notice(f"version {version} was trained with {gone} of the edits taken back; they "
                    f"count no more from the next CALL pgrain.train({quoted(name)})")


def require_model(plpy, name: str) -> dict:
    """The model's row; 42704 if there is none."""
    rows = query(plpy, "SELECT model, training_table::text, key, features, label, kind, "
                       "active_version, EXISTS (SELECT FROM pg_catalog.pg_class c "
                       "WHERE c.oid = training_table) AS there "
                       "FROM pgrain.model WHERE model = $1", ["text"], [name])
    if not rows:
        raise no_model(plpy, name)
    return rows[0]


def check_intervention(plpy, model: dict, intervention: str) -> str:
    """`delete`, `relabel:<class>` with a class that the active version knows, or the name of one of
    the model's feature repairs."""
    if intervention == "delete":
        return intervention
    if intervention.startswith("relabel:"):
        label = intervention[len("relabel:"):]
        rows = query(plpy, "SELECT classes FROM pgrain.model_version WHERE version = $1",
                     ["bigint"], [model["active_version"]])
        if not rows or label in rows[0]["classes"]:
            return intervention
        raise no_class(model["model"], label, rows[0]["classes"])
    own = [row["name"] for row in query(
        plpy, "SELECT name FROM pgrain.interventions WHERE model = $1 ORDER BY name", ["text"],
        [model["model"]])]
    if intervention in own:
        return intervention
    raise InvalidArgument(f'no such intervention: "{intervention}"',
                          hint="Interventions are 'delete', 'relabel:<class>'"
                               + "".join(f", {quoted(name)}" for name in own) + ".")


def relation_columns(plpy, relation: str) -> dict[str, str]:
    """Columns of a relation: name -> type as PostgreSQL prints it."""
    rows = query(plpy, "SELECT attname::text, pg_catalog.format_type(atttypid, NULL) AS type "
                       "FROM pg_catalog.pg_attribute WHERE attrelid = $1::regclass "
                       "AND attnum > 0 AND NOT attisdropped ORDER BY attnum", ["text"], [relation])
    return {row["attname"]: row["type"] for row in rows}


def key_text(plpy, table: str, key: str, alias: str = "t.") -> str:
    """SQL for a row's key as the worker has read it: in the same style, whatever this session's."""
    column = alias + plpy.quote_ident(key)
    kind = query(plpy, """
        SELECT coalesce(nullif(t.typbasetype, 0), t.oid)::bigint AS oid
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = $1::regclass AND a.attname = $2""", ["text", "text"], [table, key])
    form = _STYLED.get(kind[0]["oid"] if kind else None, "{1}::text")
    return form.format(f"pg_catalog.to_jsonb({column})", column)


def check_features(relation: str, features: list[str], columns: dict[str, str], kind: str) -> None:
    """An attached relation's feature columns must be of the model's kind."""
    for column in features:
        _check_column(relation, column, columns)
    if kind in ("bytea", "float8", "text"):
        found = _kind(features, columns, "lstm" if kind == "text" else "mlp")
        if found != kind:
            raise InvalidArgument(f'column "{features[0]}" of {relation} is '
                                  f"{columns[features[0]]}, but the model reads {kind}")
    else:
        _check_texts(features, columns)


def grant_to_worker(plpy, relation: str, tries: int = 5) -> None:
    """Let the worker read a relation, by the caller's own right to grant that. Where somebody else
    does so at this moment ("tuple concurrently updated", XX000), it is looked at again."""
    row = query(plpy, """
        SELECT c.oid::regclass::text AS relation, n.nspname::text AS schema,
               pg_catalog.has_table_privilege(current_user, c.oid, 'SELECT') AS mine,
               pg_catalog.has_table_privilege($2, c.oid, 'SELECT') AS reads,
               pg_catalog.has_schema_privilege($2, n.oid, 'USAGE') AS enters,
               pg_catalog.has_table_privilege(c.oid, 'SELECT WITH GRANT OPTION') AS gives,
               pg_catalog.has_schema_privilege(n.oid, 'USAGE WITH GRANT OPTION') AS opens,
               pg_catalog.quote_ident(n.nspname) AS named,
               pg_catalog.quote_ident(current_user) AS caller
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = $1::regclass
        """, ["text", "text"], [relation, WORKER_ROLE])[0]
    lacking = []        # all of it at once, before anything is tried
    if not row["mine"]:
        lacking.append(f"GRANT SELECT ON {row['relation']} TO {row['caller']}")
    if not (row["reads"] or row["gives"]):
        lacking.append(f"GRANT SELECT ON {row['relation']} TO {READER_ROLE}")
    if not (row["enters"] or row["opens"]):
        lacking.append(f"GRANT USAGE ON SCHEMA {row['named']} TO {READER_ROLE}")
    if lacking:
        raise InsufficientPrivilege(
            f"the worker may not read {row['relation']}" if row["mine"] else
            f"permission denied for relation {row['relation']}",
            hint=f"Its owner can run {'; '.join(lacking)}.")
    try:
        if not row["enters"]:
            plpy.execute(f"GRANT USAGE ON SCHEMA {plpy.quote_ident(row['schema'])} "
                         f"TO {READER_ROLE}")
        if not row["reads"]:
            plpy.execute(f"GRANT SELECT ON {row['relation']} TO {READER_ROLE}")
    except plpy.SPIError as error:
        if getattr(error, "sqlstate", None) == "XX000" and tries > 1:
            return grant_to_worker(plpy, relation, tries - 1)
        raise refused(plpy, error, f"{READER_ROLE} is granted SELECT on {row['relation']}"
                      ) from None
    granted = query(plpy, "SELECT pg_catalog.has_table_privilege($2, $1::regclass, 'SELECT') AS ok",
                    ["text", "text"], [relation, WORKER_ROLE])[0]["ok"]
    if not granted:
        raise InsufficientPrivilege(
            f"the worker may not read {row['relation']}",
            hint=f"Its owner can run GRANT SELECT ON {row['relation']} TO {READER_ROLE}.")


def quoted(text: str) -> str:
    """A SQL literal, for hints."""
    return "'" + text.replace("'", "''") + "'"


def _check_architecture(architecture: str) -> None:
    if architecture in ARCHITECTURES or MODULE_PATH.match(architecture):
        return
    raise InvalidArgument(f'no such architecture: "{architecture}"',
                          hint=f"Available: {', '.join(ARCHITECTURES)}, or a Flax module "
                               "of your own as package.module:Class.")


def _check_column(relation: str, column: str, columns: dict[str, str]) -> None:
    if column not in columns:
        raise UndefinedColumn(f'relation {relation} has no column "{column}"',
                              detail=f"Its columns: {', '.join(columns)}.")


def _kind(features: list[str], columns: dict[str, str], architecture: str) -> str:
    types = [columns[column] for column in features]
    if architecture == "lstm" and (len(types) != 1 or types[0] not in _TEXT_TYPES):
        raise InvalidArgument(
            'architecture "lstm" reads one column of type text',
            detail="The features are " + ", ".join(f"{column} {columns[column]}"
                                                   for column in features) + ".")
    if len(types) == 1:
        if types[0] == "bytea":
            return "bytea"
        if types[0] == "double precision[]":
            return "float8"
        if (architecture == "lstm" or ":" in architecture) and types[0] in _TEXT_TYPES:
            return "text"
    for column, type_name in zip(features, types, strict=True):
        if type_name == "bytea" or type_name.endswith("[]"):
            raise InvalidArgument(
                f'feature "{column}" is {type_name}',
                detail="Features are one bytea, one float8[], one text, or scalar columns.")
    _check_texts(features, columns)
    return "columns"


def _check_texts(features: list[str], columns: dict[str, str]) -> None:
    """Refuse types whose values have another text, and so another prediction, in sessions with
    another TimeZone, IntervalStyle or lc_monetary."""
    for column in features:
        if columns[column] in ("timestamp with time zone", "interval", "money"):
            raise InvalidArgument(
                f'feature "{column}" is {columns[column]}',
                detail="Its text depends on settings of the session, and the prediction would.",
                hint="Use a number: extract(epoch FROM ...) in a generated column or a view.")


def _check_options(plpy, architecture: str, options: dict) -> None:
    """Names and bounds of options, by the worker, which knows them; where none answers at once,
    `train` says what is wrong with them."""
    try:
        session.client(plpy).call("check_options", {"architecture": architecture,
                                                    "options": options}, timeout=OPTIONS_SECONDS)
    except PgrainError as error:
        if isinstance(error, InvalidArgument):
            raise


def _check_shape(options: dict) -> None:
    shape = options.get("shape")
    if (not isinstance(shape, list) or not 1 <= len(shape) <= 4
            or any(type(n) is not int or n < 1 for n in shape)):
        raise InvalidArgument('a bytea feature needs its shape in options',
                              hint="""For example options => '{"shape": [28, 28, 1]}'.""")
