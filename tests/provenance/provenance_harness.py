"""A stand-in for the model, and the whole path from a query's text to its circuit.

The walker needs no worker: `pgrain.predict` is a function over a table of labels here, which a test
can change at will, and compile, capture and comparison are what the product uses.
"""

from __future__ import annotations

import itertools

import numpy as np
from psycopg import pq

from pgrain.provenance.circuit import Circuit
from pgrain.provenance.compile import Capture, ModelFacts, compile
from pgrain.provenance.probes import ProbeResult
from pgrain.wire import identity

SECRET = b"0123456789abcdef"
SETUP = """
CREATE SCHEMA IF NOT EXISTS pgrain;
CREATE TABLE pgrain.stand_in (model text, value text, label text, PRIMARY KEY (model, value));
CREATE FUNCTION pgrain.label_of(model text, value text) RETURNS text LANGUAGE plpgsql STABLE STRICT
 AS $$ BEGIN RETURN (SELECT s.label FROM pgrain.stand_in AS s
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
CREATE FUNCTION pgrain.predict_proba(model text, x text) RETURNS float8[] LANGUAGE sql STABLE
 AS $$ SELECT ARRAY[0.5] $$;
"""


class Lab:
    """A database with a stand-in model; everything runs as one connection's role."""

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

    def relabel(self, name: str, labels: dict[str, str]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany("UPDATE pgrain.stand_in SET label = %s WHERE model = %s"
                               " AND value = %s",
                               [(label, name, value) for value, label in labels.items()])

    def rows(self, sql: str) -> list[tuple]:
        return self.connection.execute(sql.encode()).fetchall()

    def probe(self, sql: str) -> ProbeResult:
        cursor = self.connection.execute(sql.encode())
        return ProbeResult([c.name for c in cursor.description],
                           [c.type_code for c in cursor.description],
                           [list(row) for row in cursor.fetchall()])

    def explain(self, query: str):
        return self.connection.execute(
            f"EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) {query}".encode()).fetchone()[0]

    def capture(self, query: str, explain=None) -> Capture:
        """What the backend does: compile, answer what it asks, compile again."""
        explain = explain or self.explain(query)
        models, probes = {}, {}
        for _ in range(4):
            step = compile(query, explain, models, probes)
            if isinstance(step, Capture):
                return step
            models |= {name: self.models[name] for name in step.models}
            probes |= {name: self.probe(sql) for name, sql in step.sql.items()}
        raise AssertionError("compile asks too often")

    def raw(self, sql: str, parameters: list[bytes], formats: list[int]) -> list[list]:
        """Rows of a statement with parameters in PostgreSQL's own notation, as bytes."""
        result = self.connection.pgconn.exec_params(
            sql.encode(), parameters, [17 if f else 25 for f in formats], formats, 1)
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise AssertionError(result.error_message.decode() + "\n" + sql)
        return [[result.get_value(i, j) for j in range(result.nfields)]
                for i in range(result.ntuples)]

    def lineage(self, capture: Capture):
        rows = [(tag.decode(), meta and meta.decode(), a, b, c)
                for tag, meta, a, b, c in self.raw(capture.sql, [SECRET], [1])]
        return capture.read(rows)

    def circuit(self, query: str) -> tuple[Circuit, Capture]:
        capture = self.capture(query)
        return Circuit(capture, self.lineage(capture)), capture

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
        model = circuit.model
        labels = dict(self.rows("SELECT value, label FROM pgrain.stand_in"
                                f" WHERE model = '{model}'"))
        classes = self.models[model].classes
        return {model: np.array([classes.index(labels[value])
                                 for value in self.values(model, circuit)], dtype=np.int64)}

    def match(self, capture: Capture, output, where: str) -> list[int]:
        rows = self.raw(capture.match_sql(where), [output.match_json().encode()], [0])
        return [int.from_bytes(row[0], "big") for row in rows]


def random_probabilities(rng: np.random.Generator, circuit: Circuit) -> dict[str, np.ndarray]:
    """(V, R) probabilities away from 0 and 1."""
    variables, classes = circuit.shape
    return {circuit.model: 0.9 * rng.dirichlet(np.ones(classes), variables) + 0.1 / classes}


def enumerate_expectation(circuit: Circuit, P: dict) -> tuple[np.ndarray, np.ndarray]:
    """Expected numbers (NULL counts as 0) and expected presence, by all class assignments."""
    variables, classes = circuit.shape
    p, total, present = P[circuit.model], None, None
    for assignment in itertools.product(range(classes), repeat=variables):
        chosen = np.array(assignment, dtype=np.int64)
        weight = float(np.prod(p[np.arange(variables), chosen]))
        output = circuit.value({circuit.model: chosen})
        numbers = weight * np.nan_to_num(output.numbers)
        total = numbers if total is None else total + numbers
        there = weight * output.present
        present = there if present is None else present + there
    return total, present
