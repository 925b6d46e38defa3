"""A stand-in for the model, and the whole path from a query's text to its circuit.

The walker needs no worker: `pgrain.predict` is a function over a table of labels here, which a test
can change at will, and compile, capture and comparison are what the product uses. `predict_proba`
reads probabilities of its own: what it returns need not favour the label.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from psycopg import pq, sql

from pgrain.provenance.circuit import Circuit
from pgrain.provenance.compile import Capture, ModelFacts, compile
from pgrain.provenance.probes import ProbeResult, Probes, spelled
from pgrain.wire import identity

SECRET = b"0123456789abcdef"
SETUP = """
CREATE SCHEMA IF NOT EXISTS pgrain;
CREATE TABLE pgrain.stand_in (model text, value text, label text, probabilities float8[],
 PRIMARY KEY (model, value));
CREATE FUNCTION pgrain.label_of(model text, value text) RETURNS text LANGUAGE plpgsql STABLE STRICT
 AS $$ BEGIN
  IF current_setting('lab.capture', true) = 'on' THEN
   RAISE EXCEPTION 'a capture calls a model: the variables of this call are missing';
  END IF;
  RETURN (SELECT s.label FROM pgrain.stand_in AS s
                     WHERE s.model = $1 AND s.value = $2); END $$;
CREATE FUNCTION pgrain.predict(model text, x text) RETURNS text LANGUAGE plpgsql STABLE STRICT
 AS $$ BEGIN RETURN pgrain.label_of($1, $2); END $$;
CREATE FUNCTION pgrain.predict(model text, x bytea) RETURNS text LANGUAGE plpgsql STABLE STRICT
 AS $$ BEGIN RETURN pgrain.label_of($1, $2::text); END $$;
CREATE FUNCTION pgrain.predict(model text, x float8[]) RETURNS text LANGUAGE plpgsql STABLE STRICT
 AS $$ BEGIN RETURN pgrain.label_of($1, $2::text); END $$;
CREATE FUNCTION pgrain.predict(model text, x jsonb) RETURNS text LANGUAGE plpgsql STABLE STRICT
 AS $$ BEGIN RETURN pgrain.label_of($1, jsonb_build_array($2->'x', $2->'g')::text); END $$;
CREATE FUNCTION pgrain.predict(model text, x record) RETURNS text LANGUAGE plpgsql STABLE STRICT
 AS $$ BEGIN RETURN pgrain.predict($1, to_jsonb($2)); END $$;
CREATE FUNCTION pgrain.proba_of(model text, value text) RETURNS float8[] LANGUAGE plpgsql STABLE
 STRICT AS $$ BEGIN RETURN (SELECT s.probabilities FROM pgrain.stand_in AS s
                            WHERE s.model = $1 AND s.value = $2); END $$;
CREATE FUNCTION pgrain.predict_proba(model text, x text) RETURNS float8[] LANGUAGE plpgsql STABLE
 STRICT AS $$ BEGIN RETURN pgrain.proba_of($1, $2); END $$;
CREATE FUNCTION pgrain.predict_proba(model text, x jsonb) RETURNS float8[] LANGUAGE plpgsql STABLE
 STRICT AS $$ BEGIN RETURN pgrain.proba_of($1, jsonb_build_array($2->'x', $2->'g')::text); END $$;
CREATE FUNCTION pgrain.predict_proba(model text, x record) RETURNS float8[] LANGUAGE plpgsql STABLE
 STRICT AS $$ BEGIN RETURN pgrain.predict_proba($1, to_jsonb($2)); END $$;
"""


class Lab:
    """A database with a stand-in model; everything runs as one connection's role."""

    calls_are_data = False       # a function of the query calls a model itself

    def __init__(self, connection):
        self.connection = connection
        self.models: dict[str, ModelFacts] = {}

    def install(self) -> None:
        self.connection.execute(SETUP)

    def add_model(self, name: str, classes: list[str], labels: dict[str, str],
                  kind: str = "text", features=()) -> None:
        """A model whose prediction of a value (as text) stands in `labels`."""
        self.models[name] = ModelFacts(name, 1, classes, kind, list(features))
        with self.connection.cursor() as cursor:
            cursor.executemany("INSERT INTO pgrain.stand_in VALUES (%s, %s, %s)",
                               [(name, value, label) for value, label in labels.items()])

    def set_probabilities(self, name: str, probabilities: dict[str, list[float]]) -> None:
        """What `predict_proba` returns for each value."""
        with self.connection.cursor() as cursor:
            cursor.executemany("UPDATE pgrain.stand_in SET probabilities = %s WHERE model = %s"
                               " AND value = %s",
                               [(p, name, value) for value, p in probabilities.items()])

    @contextlib.contextmanager
    def as_role(self, role: str | None) -> Iterator[None]:
        """Everything in the block runs as `role` (None: nothing changes)."""
        if role is None:
            yield
            return
        self.connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        try:
            yield
        finally:
            self.connection.execute("RESET ROLE")

    def relabel(self, name: str, labels: dict[str, str]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany("UPDATE pgrain.stand_in SET label = %s WHERE model = %s"
                               " AND value = %s",
                               [(label, name, value) for value, label in labels.items()])

    def rows(self, text: str) -> list[tuple]:
        return self.connection.execute(text.encode()).fetchall()

    def probe(self, text: str | tuple) -> ProbeResult:
        cursor = self.connection.execute(spelled(text).encode())
        names, rows = [c.name for c in cursor.description], cursor.fetchall()
        # PL/Python's rows are dictionaries: of columns of one name it keeps one.
        assert not rows or len(set(names)) == len(names), f"a probe's columns share a name: {text}"
        return ProbeResult(names, [c.type_code for c in cursor.description],
                           [list(row) for row in rows])

    def explain(self, query: str):
        return self.connection.execute(
            f"EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) {query}".encode()).fetchone()[0]

    def capture(self, query: str, explain=None) -> Capture:
        """What the backend does: compile, answer what it asks, compile again."""
        explain = explain or self.explain(query)
        models, probes = {}, {}
        for _ in range(12):
            step = compile(query, explain, models, probes)
            if not isinstance(step, Probes):
                return step
            models |= {name: self.models[name] for name in step.models}
            probes |= {name: self.probe(text) for name, text in step.sql.items()}
        raise AssertionError("compile asks too often")

    def raw(self, text: str, parameters: list[bytes], formats: list[int]) -> list[list]:
        """Rows of a statement with parameters in PostgreSQL's own notation, as bytes."""
        result = self.connection.pgconn.exec_params(
            text.encode(), parameters, [17 if f else 25 for f in formats], formats, 1)
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise AssertionError(result.error_message.decode() + "\n" + text)
        return [[result.get_value(i, j) for j in range(result.nfields)]
                for i in range(result.ntuples)]

    def lineage(self, capture: Capture):
        # A call left in the capture would give the right value, and hide what it rests on.
        self.connection.execute(f"SET lab.capture = {'off' if self.calls_are_data else 'on'}")
        try:
            rows = [(tag.decode(), meta and meta.decode(), a, b, c)
                    for tag, meta, a, b, c in self.raw(capture.sql, [SECRET], [1])]
        finally:
            self.connection.execute("SET lab.capture = off")
        return capture.read(rows)

    def circuit(self, query: str) -> tuple[Circuit, Capture]:
        capture = self.capture(query)
        return capture.circuit(self.lineage(capture)), capture

    def result(self, capture: Capture) -> list[tuple]:
        return self.rows(capture.result_sql)

    def values(self, model: str, circuit: Circuit) -> list[str]:
        """The feature value (as text) of each variable of the circuit."""
        facts = self.models[model]
        keyed = identity.hasher(SECRET)
        known = {}
        for (value,) in self.rows("SELECT value FROM pgrain.stand_in WHERE model = '" + model
                                  + "'"):
            content = bytes.fromhex(value[2:]) if facts.kind == "bytea" else value.encode()
            state = keyed.copy()
            state.update(content)
            known[state.digest()[:identity.DIGEST_BYTES]] = value
        return [known[bytes(digest)] for digest in circuit.lineage.digests[model]]

    def predicted(self, circuit: Circuit) -> dict[str, np.ndarray]:
        """The classes that the stand-in predicts for the circuit's variables."""
        return {model: np.array([self.models[model].classes.index(labels[value])
                                 for value in self.values(model, circuit)], dtype=np.int64)
                for model, labels in self._stand_in(circuit, "label").items()}

    def probabilities(self, circuit: Circuit) -> dict[str, np.ndarray]:
        """(V, R) of each model: what the stand-in's predict_proba returns."""
        return {model: np.array([stored[value] for value in self.values(model, circuit)]
                                or np.zeros((0, shapes_of(circuit)[model][1])))
                for model, stored in self._stand_in(circuit, "probabilities").items()}

    def _stand_in(self, circuit: Circuit, column: str) -> dict[str, dict]:
        return {model: dict(self.rows(f"SELECT value, {column} FROM pgrain.stand_in"
                                      f" WHERE model = '{model}'")) for model in shapes_of(circuit)}

    def match(self, capture: Capture, output, where: str) -> list[int]:
        rows = self.raw(capture.match_sql(where), [output.match_json().encode()], [0])
        return [int.from_bytes(row[0], "big") for row in rows]


def shapes_of(circuit: Circuit) -> dict[str, tuple[int, int]]:
    """Model -> (variables, classes)."""
    return getattr(circuit, "shapes", None) or {circuit.model: circuit.shape}


def random_probabilities(rng: np.random.Generator, circuit: Circuit) -> dict[str, np.ndarray]:
    """(V, R) probabilities away from 0 and 1, of each model."""
    return {model: 0.9 * rng.dirichlet(np.ones(classes), variables) + 0.1 / classes
            for model, (variables, classes) in shapes_of(circuit).items()}


def assignments(circuit: Circuit) -> int:
    """How many assignments of classes to variables there are."""
    return math.prod(classes ** variables for variables, classes in shapes_of(circuit).values())


def all_assignments(circuit: Circuit, P: dict) -> Iterator[tuple[dict[str, np.ndarray], float]]:
    """Each assignment of classes to all variables, with its probability under P."""
    sizes = [(model, classes) for model, (variables, classes) in shapes_of(circuit).items()
             for _ in range(variables)]
    for chosen in itertools.product(*(range(classes) for _, classes in sizes)):
        predicted = {model: np.array([c for c, (of, _) in zip(chosen, sizes, strict=True)
                                      if of == model], dtype=np.int64)
                     for model in shapes_of(circuit)}
        yield predicted, math.prod(float(P[model][np.arange(len(c)), c].prod())
                                   for model, c in predicted.items())


@dataclass
class Expectation:
    """What the circuit's cells are on the average over all assignments.

    Attributes
    ----------
    numbers : (G, C) float64
        E[cell], where NULL and cells of absent rows count as 0.
    known : (G, C) float64
        Probability that the row is there and the cell is not NULL.
    present : (G,) float64
    texts : dict
        (row, column, text) -> probability that the row is there and the cell shows the text.
    """

    numbers: np.ndarray
    known: np.ndarray
    present: np.ndarray
    texts: dict = field(default_factory=dict)


def enumerate_expectation(circuit: Circuit, P: dict, raw: dict | None = None,
                          texts_of: tuple[int, ...] = ()) -> Expectation:
    """By all class assignments; `raw` is what predict_proba returns meanwhile."""
    total = None
    for predicted, weight in all_assignments(circuit, P):
        output = circuit.value(predicted, *([] if raw is None else [raw]))
        if total is None:
            shape = output.numbers.shape
            total = Expectation(np.zeros(shape), np.zeros(shape), np.zeros(shape[0]))
        known = output.present[:, None] & ~np.isnan(output.numbers)
        total.numbers += weight * np.where(known, output.numbers, 0.0)
        total.known += weight * known
        total.present += weight * output.present
        for column in texts_of:
            for row in np.flatnonzero(output.present).tolist():
                key = (row, column, output.text(row, column))
                total.texts[key] = total.texts.get(key, 0.0) + weight
    return total
