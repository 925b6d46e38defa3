"""Random queries by family: every row of the table of operators that must work.

1. The circuit on predicted classes equals PostgreSQL's own answer, cell by cell. A refusal is a
   failure.
2. Where a query's maker says that the relaxed value is an expectation (design: COUNT and SUM over
   select-project-join, DISTINCT, EXISTS and IN, min and max, HAVING count), it equals the
   enumeration over all class assignments, if these are few; so do the probabilities of rows, and
   of the texts that they show.
3. On the fewest, PostgreSQL itself is asked under every assignment: the circuit equals it each
   time, and the average of its answers, row by row, is the relaxed value.
4. Gradients equal finite differences.

`PGRAIN_TEST_SCHEMAS` sets how many schemas are tried (default 16, with `QUERIES` queries of each
family), `PGRAIN_TEST_SEED` the first. A failure depends on its seed and family alone, and prints
the line that keeps it as a fixture: `fixtures/found_queries.json`.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from provenance_checks import check_expectation, check_gradient, evaluate, key_of
from provenance_families import FAMILIES, make_query
from provenance_family_parts import (
    CLASSES,
    DIGITS,
    EXPECTED,
    FEATURES,
    GROUPS,
    OWNER,
    READER,
    ROW_CLASSES,
    TEXTS,
    Query,
    schema_sql,
)
from provenance_harness import (
    Lab,
    all_assignments,
    assignments,
    enumerate_expectation,
    random_probabilities,
    shapes_of,
)

SCHEMAS = int(os.environ.get("PGRAIN_TEST_SCHEMAS", "16"))
FIRST = int(os.environ.get("PGRAIN_TEST_SEED", "0"))
QUERIES = 2
ENUMERATED = 3 ** 6
ASKED = 3 ** 3
"""Most assignments that are enumerated by the circuit, and by PostgreSQL."""
FOUND = Path(__file__).parent / "fixtures" / "found_queries.json"
RAN: Counter = Counter()
WHOLE_ROWS = [f'[{x}, {g}]' for x in ["null", *(f'"{f}"' for f in FEATURES)]
              for g in ["null" if g is None else g for g in GROUPS]]


class Schemas:
    """The schema of a seed, made when another seed's turn comes."""

    def __init__(self, lab: Lab):
        self.lab, self.seed = lab, None
        execute = lab.connection.execute
        for role in (OWNER, READER):
            execute(f"DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN END $$")
        execute(f"GRANT USAGE ON SCHEMA pgrain TO {OWNER}, {READER};"
                f"GRANT SELECT ON pgrain.stand_in TO {OWNER}, {READER}")
        self.foreign = bool(lab.rows("SELECT 1 FROM pg_available_extensions"
                                     " WHERE name = 'postgres_fdw'"))
        if self.foreign:
            info = lab.connection.info
            execute("CREATE SCHEMA fdw; CREATE EXTENSION postgres_fdw SCHEMA fdw;"
                    "CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS"
                    f" (host '{info.host}', port '{info.port}', dbname '{info.dbname}');"
                    f"CREATE USER MAPPING FOR CURRENT_USER SERVER loopback"
                    f" OPTIONS (user '{info.user}')")
        lab.add_model("m", CLASSES, {f: CLASSES[0] for f in FEATURES})
        lab.add_model("n", DIGITS, {f: DIGITS[0] for f in FEATURES})
        lab.add_model("r", ROW_CLASSES, {row: ROW_CLASSES[0] for row in WHOLE_ROWS}, "columns",
                      ["x", "g"])

    def use(self, seed: int) -> Lab:
        if self.seed == seed:
            return self.lab
        rng = random.Random(f"schema/{seed}")
        # Every other schema is so small that all assignments can be tried.
        features, largest = rng.choice([(FEATURES[:2], 4), (FEATURES[:3], 5), (FEATURES[:3], 7),
                                        (FEATURES, 10)])
        self.lab.connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public;"
                                    + schema_sql(rng, largest, features, self.foreign))
        self.labels = {name: {value: rng.choice(facts.classes) for value in values}
                       for name, values in (("m", FEATURES), ("n", FEATURES), ("r", WHOLE_ROWS))
                       for facts in [self.lab.models[name]]}
        for name, labels in self.labels.items():
            self.lab.relabel(name, labels)
            shares = np.random.default_rng(seed).dirichlet(
                np.ones(len(self.lab.models[name].classes)), len(labels))
            self.lab.set_probabilities(name, dict(zip(labels, shares.tolist(), strict=True)))
        self.seed = seed
        return self.lab

    def close(self) -> None:
        self.lab.connection.execute(
            "DROP SCHEMA public CASCADE; CREATE SCHEMA public;"
            f"DROP OWNED BY {OWNER}, {READER}; DROP ROLE {OWNER}, {READER}")


@pytest.fixture(scope="module")
def schemas(lab: Lab):
    made = Schemas(lab)
    yield made
    made.close()


def ask_postgresql(schemas: Schemas, circuit, capture, query: Query, P) -> None:
    """Every assignment by PostgreSQL itself: cell by cell, and the average of its answers."""
    lab, relaxed = schemas.lab, circuit.relaxed(P)
    fixed = [c for c, d in enumerate(circuit.columns) if d.role in ("row", "group", "constant")]
    summed = [c for c, d in enumerate(circuit.columns) if query.exact.get(d.name) == EXPECTED]
    total = defaultdict(lambda: np.zeros(len(summed)))
    values = {model: lab.values(model, circuit) for model in shapes_of(circuit)}
    try:
        for predicted, weight in all_assignments(circuit, P):
            for model, classes in predicted.items():
                names = lab.models[model].classes
                lab.relabel(model, {value: names[c] for value, c in
                                    zip(values[model], classes.tolist(), strict=True)})
            with lab.as_role(query.role):
                result = lab.result(capture)
            evaluate(lab, circuit, query, predicted).compare(result)
            for row in result:
                total[key_of(circuit, fixed, row)] += weight * np.array(
                    [float(row[c] or 0) for c in summed])
    finally:
        for model in values:
            lab.relabel(model, schemas.labels[model])
    mine = defaultdict(lambda: np.zeros(len(summed)))
    for row in range(len(relaxed.present)):
        mine[key_of(circuit, fixed, {c: relaxed.text(row, c) for c in fixed})] += np.nan_to_num(
            relaxed.numbers[row, summed])
    zero = np.zeros(len(summed))
    for key in mine.keys() | total.keys():
        np.testing.assert_allclose(mine.get(key, zero), total.get(key, zero), rtol=1e-9, atol=1e-9,
                                   err_msg=f"average of PostgreSQL's answers at {key}")


def check(schemas: Schemas, name: str, query: Query, numbers: np.random.Generator) -> None:
    lab = schemas.lab
    with lab.as_role(query.role):
        circuit, capture = lab.circuit(query.text)
        result = lab.result(capture)
    evaluate(lab, circuit, query, lab.predicted(circuit)).compare(result)
    RAN[name] += 1
    P = random_probabilities(numbers, circuit)
    count = assignments(circuit)
    if query.exact and count <= ENUMERATED:
        texts_of = tuple(c for c, d in enumerate(circuit.columns)
                         if query.exact.get(d.name) == TEXTS)
        raw = P if "predict_proba" in query.text else None
        compared = check_expectation(circuit, query, P,
                                     enumerate_expectation(circuit, P, raw, texts_of))
        RAN[f"{name}: enumerated"] += compared > 0
    if count <= ASKED and "predict_proba" not in query.text:
        ask_postgresql(schemas, circuit, capture, query, P)
        RAN["asked of PostgreSQL under every assignment"] += 1
    RAN["gradients"] += check_gradient(circuit, P, numbers)
    assert all(0 <= v <= sum(n for n, _ in shapes_of(circuit).values())
               for v in circuit.variables())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SCHEMAS))
def test_family(schemas: Schemas, seed: int, name: str) -> None:
    for number in range(QUERIES):
        try_query(schemas, seed, name, number, make_query(name, seed, number))


@pytest.mark.parametrize("found", json.loads(FOUND.read_text()), ids=lambda f: f["family"])
def test_what_failed_once(schemas: Schemas, found: dict) -> None:
    query = Query(found["text"], found["exact"], found["role"])
    try_query(schemas, found["seed"], found["family"], found["number"], query)


def try_query(schemas: Schemas, seed: int, name: str, number: int, query: Query) -> None:
    if name == "relations: foreign table" and not schemas.foreign:
        pytest.skip("postgres_fdw is not installed")
    schemas.use(seed)
    try:
        check(schemas, name, query, np.random.default_rng([seed, number]))
    except Exception as error:
        words = [getattr(error, word, None) for word in ("message", "detail", "hint")]
        fixture = json.dumps({"seed": seed, "family": name, "number": number, "role": query.role,
                              "exact": query.exact, "text": query.text})
        raise AssertionError("\n".join([f"seed {seed}, {name}:", query.text, *filter(None, words),
                                        str(error), f"for {FOUND.name}: {fixture}"])) from error


def test_every_family_was_tried(record_property) -> None:
    """The counts of the run, so that a generator gone quiet is seen."""
    for name, count in sorted(RAN.items()):
        record_property(name, count)
        print(f"{count:6d}  {name}")
    if sum(RAN.values()) < 100:
        pytest.skip("the random queries did not run")
    for name in FAMILIES:
        if name != "relations: foreign table":
            assert RAN[name] > 0, name
