"""Random queries: exact on classes, exact in expectation, gradients equal finite differences.

1. The circuit on predicted classes equals PostgreSQL's own answer, cell by cell; a refusal is a
   failure, for the generator stays inside the families that must work.
2. On few variables, count and sum equal the enumeration over all class assignments.
3. Gradients of all cells equal finite differences.

`PGRAIN_TEST_SCHEMAS` sets how many schemas are tried (default 16, of 20 queries each).
"""

from __future__ import annotations

import math
import os
import random
from collections import Counter

import numpy as np
import pytest
from provenance_harness import (
    Lab,
    assignments,
    enumerate_expectation,
    random_probabilities,
)
from provenance_queries import CLASSES, FEATURES, QueryMaker, schema_sql

SCHEMAS = int(os.environ.get("PGRAIN_TEST_SCHEMAS", "16"))
FIRST = int(os.environ.get("PGRAIN_TEST_SEED", "0"))
QUERIES = 20
ENUMERATED = 4 ** 4
RAN: Counter = Counter()


@pytest.fixture(scope="module")
def model(lab: Lab) -> Lab:
    rng = random.Random(FIRST)
    lab.add_model("m", CLASSES, {f: rng.choice(CLASSES) for f in FEATURES})
    return lab


def make_schema(lab: Lab, rng: random.Random, largest: int) -> None:
    lab.connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public;"
                           + schema_sql(rng, largest))
    lab.relabel("m", {f: rng.choice(CLASSES) for f in FEATURES})


def check_expectation(circuit, P) -> bool:
    """Relaxed counts and sums against all assignments; False if there are too many."""
    if assignments(circuit) > ENUMERATED:
        return False
    relaxed = circuit.relaxed(P)
    expected = enumerate_expectation(circuit, P)
    for column, described in enumerate(circuit.columns):
        if described.role == "aggregate" and circuit.gates.gates[column].function != "avg":
            got = np.nan_to_num(relaxed.numbers[:, column])
            np.testing.assert_allclose(got, expected.numbers[:, column], rtol=1e-9, atol=1e-9)
    if circuit.by_row:
        np.testing.assert_allclose(relaxed.weight, expected.present, rtol=1e-9, atol=1e-12)
    return True


def check_gradient(circuit, P, rng: np.random.Generator) -> None:
    """The slope of a random mixture of cells along random directions, by central differences."""
    relaxed = circuit.relaxed(P)
    cells = [(row, column) for column, described in enumerate(circuit.columns)
             for row in range(len(relaxed.present))
             if not math.isnan(relaxed.numbers[row, column])
             and (described.role != "label" or relaxed.weight[row] > 1e-6)]
    if circuit.by_row:
        cells += [(int(row), column, text)
                  for column in circuit.gates.labels
                  for row in range(min(3, len(relaxed.present)))
                  for text in circuit.possible_texts(column)[:2]]
    if not cells:
        return
    weights = {cell: float(rng.normal()) for cell in cells}
    model = circuit.model

    def mixture(p) -> float:
        output = circuit.relaxed({model: p})
        return sum(w * (circuit.probability({model: p}, *cell) if len(cell) == 3
                        else output.numbers[cell]) for cell, w in weights.items())

    gradient = circuit.gradient(P, weights)[model]
    assert gradient.shape == circuit.shape
    direction = rng.normal(size=circuit.shape)
    step = 1e-6
    slope = (mixture(P[model] + step * direction) - mixture(P[model] - step * direction)) / 2 / step
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-5, abs=2e-5)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SCHEMAS))
def test_circuit_equals_postgresql(model: Lab, seed: int) -> None:
    rng = random.Random(seed)
    numbers = np.random.default_rng(seed)
    make_schema(model, rng, rng.choice([4, 8, 30]))
    maker = QueryMaker(rng)
    for _ in range(QUERIES):
        query = maker.query()
        while "predict" not in query:
            query = maker.query()
        try:
            circuit, capture = model.circuit(query)
            value = circuit.value(model.predicted(circuit))
            value.compare(model.result(capture))
            P = random_probabilities(numbers, circuit)
            enumerated = check_expectation(circuit, P)
            check_gradient(circuit, P, numbers)
            assert circuit.variables().max(initial=0) <= circuit.shape[0]
        except Exception as error:
            detail = getattr(error, "detail", None)
            raise AssertionError(f"seed {seed}: {query}\n{detail or ''}") from error
        RAN[maker.family] += 1
        RAN["enumerated"] += enumerated
        RAN["two sides"] += len(circuit.lineage.sides) == 2
        RAN["shared over two sides"] += len(circuit.lineage.sides) == 2 and bool(
            len(circuit.gates.joint.shared_v))


def test_every_family_was_tried(record_property) -> None:
    """The counts of the run, so that a generator gone quiet is seen."""
    for name, count in sorted(RAN.items()):
        record_property(name, count)
        print(f"{count:6d}  {name}")
    if sum(RAN.values()) < 100:
        pytest.skip("the random queries did not run")
    for name in ("scan, rows", "scan, one group", "scan, groups", "scan, groups by prediction",
                 "join, groups", "self-join, one group", "lateral, groups", "join, rows",
                 "three inputs, groups", "two sides", "shared over two sides", "enumerated"):
        assert RAN[name] > 0, name
