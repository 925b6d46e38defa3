"""What a circuit must meet: the enumeration's expectations, and finite differences."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from provenance_family_parts import EXPECTED, IF_KNOWN, ROW, TEXTS, Query
from provenance_harness import Lab, enumerate_expectation, random_probabilities, shapes_of


def evaluate(lab: Lab, circuit, query: Query, predicted):
    """The circuit's value; with what predict_proba returns, where it is called."""
    return circuit.value(predicted, *([lab.probabilities(circuit)]
                                      if "predict_proba" in query.text else []))


def counts_rows(circuit) -> bool:
    """Is `weight` the expected number of rows of a group, not the probability of an output row?"""
    return not circuit.by_row and hasattr(getattr(circuit, "gates", None), "gates")


def check_expectation(circuit, query: Query, P, expected) -> int:
    """What the maker says is exact; how many things were compared."""
    relaxed, compared = circuit.relaxed(P), 0
    for column, described in enumerate(circuit.columns):
        kind, got = query.exact.get(described.name), relaxed.numbers[:, column]
        want, known = expected.numbers[:, column], expected.known[:, column]
        if not described.model_dependent or kind is None or described.role in ("row", "group"):
            continue        # a label that rows are told apart by: their presence is compared
        if kind == EXPECTED:
            np.testing.assert_allclose(np.nan_to_num(got), want, rtol=1e-9, atol=1e-9,
                                       err_msg=f"expected {described.name}")
        elif kind == IF_KNOWN:
            there = known > 1e-12
            np.testing.assert_allclose(got[there], want[there] / known[there], rtol=1e-9, atol=1e-9,
                                       err_msg=f"{described.name} if known")
        elif kind == TEXTS:
            for text in circuit.possible_texts(column):
                for row in range(len(relaxed.present)):
                    assert circuit.probability(P, row, column, text) == pytest.approx(
                        expected.texts.get((row, column, text), 0.0), rel=1e-9, abs=1e-9), \
                        f"row {row} shows {text!r} in {described.name}"
        compared += 1
    if ROW in query.exact and not counts_rows(circuit):
        np.testing.assert_allclose(relaxed.weight, expected.present, rtol=1e-9, atol=1e-9,
                                   err_msg="probability of the rows")
        compared += 1
    return compared


def check_exact(circuit, query: str, exact: dict) -> None:
    """What is said to be exact, at probabilities of the query's own, and the slopes there."""
    rng = np.random.default_rng(len(query))
    P = random_probabilities(rng, circuit)
    texts_of = tuple(c for c, d in enumerate(circuit.columns) if exact.get(d.name) == TEXTS)
    assert check_expectation(circuit, Query(query, exact), P,
                             enumerate_expectation(circuit, P, None, texts_of))
    check_gradient(circuit, P, rng)


def check_classes(schema: Lab, query: str, labellings) -> object:
    """The circuit of a query, equal to PostgreSQL's result under each of these labellings of its
    values of model m; labellings(n): of n values."""
    circuit, capture = schema.circuit(query)
    values = schema.values("m", circuit)
    for labels in labellings(len(values)):
        schema.relabel("m", dict(zip(values, labels, strict=True)))
        circuit.value(schema.predicted(circuit)).compare(schema.result(capture))
    return circuit


def key_of(circuit, fixed: list[int], texts) -> tuple:
    """The cells by which rows are matched; 1.0 and 1.00 may share a group."""
    return tuple(Decimal(texts[c]) if texts[c] is not None and circuit.columns[c].numeric
                 else texts[c] for c in fixed)


def check_gradient(circuit, P, rng: np.random.Generator) -> int:
    """The slope of a random mixture of cells along a random direction, by central differences."""
    relaxed = circuit.relaxed(P)
    cells = [(row, column) for column, described in enumerate(circuit.columns)
             if described.model_dependent and described.numeric
             for row in range(len(relaxed.present))
             if not math.isnan(relaxed.numbers[row, column]) and relaxed.weight[row] > 1e-6]
    cells += [(row, column, text) for column, described in enumerate(circuit.columns)
              if described.model_dependent and described.role == "label"
              for row in range(min(3, len(relaxed.present)))
              for text in circuit.possible_texts(column)[:2]]
    if not cells:
        return 0
    weights = {cell: float(rng.normal()) for cell in cells}

    def mixture(p) -> float:
        output = circuit.relaxed(p)
        return sum(w * (circuit.probability(p, *cell) if len(cell) == 3 else output.numbers[cell])
                   for cell, w in weights.items())

    gradient = circuit.gradient(P, weights)
    # Probabilities go on adding up to one: elsewhere the circuit means nothing.
    step = {model: 1e-6 * rng.normal(size=shape) for model, shape in shapes_of(circuit).items()}
    step = {model: move - move.mean(axis=1, keepdims=True) for model, move in step.items()}
    slope = (mixture({m: p + step[m] for m, p in P.items()})
             - mixture({m: p - step[m] for m, p in P.items()})) / 2e-6
    along = sum(float((gradient[model] * step[model]).sum()) for model in step) / 1e-6
    assert along == pytest.approx(slope, rel=5e-5, abs=5e-5), "slope"
    return 1
