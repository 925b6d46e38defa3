"""Numbers on their way out of PostgreSQL: packed, and read as the float8 that PostgreSQL makes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from provenance_harness import Lab

from pgrain.provenance.capture_sql import packed_floats, packed_numerics
from pgrain.provenance.lineage import read_floats, read_numerics

EDGES = ["0", "0.00", "-0.0", "1", "-1", "10000", "9999", "99999999", "0.0001", "0.00001", "1e10",
         "123456789012", "1234567890123", "9007199254740993", "90071992547409930000", "1e22",
         "1e23", "1e-22", "1e-23", "0.1", "0.3", "1e300", "-1e-300", "4503599627370497.5",
         "123456789.123456789123456789", "-0.000000000000000000000123", "32766", "2147483647.5"]


def some_numerics(n: int) -> list[str | None]:
    rng = random.Random(5)
    made: list[str | None] = []
    for _ in range(n):
        digits = "".join(rng.choices("0123456789", k=rng.randint(1, rng.choice((4, 9, 14, 30)))))
        point = rng.randint(0, len(digits))
        made.append(None if rng.random() < 0.1 else
                    rng.choice(("", "-")) + (digits[:point] or "0") + "." + digits[point:] + "0")
    return made


def packed(lab: Lab, numerics: list) -> bytes | None:
    lab.connection.execute("CREATE TEMP TABLE n (i int, x numeric)")
    with lab.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO n VALUES (%s, %s)", list(enumerate(numerics)))
    try:
        return lab.rows(f"SELECT {packed_numerics('x')}, {packed_floats('x::float8')} FROM "
                        "(SELECT x FROM n ORDER BY i) AS n")[0]
    finally:
        lab.connection.execute("DROP TABLE n")


@pytest.mark.parametrize("numerics", [EDGES, [None], [], some_numerics(3000)],
                         ids=["edges", "null", "none", "random"])
def test_numerics_are_the_floats_of_their_text(lab: Lab, numerics: list) -> None:
    as_numerics, as_floats = packed(lab, numerics)
    got, want = read_numerics(as_numerics), read_floats(as_floats)
    np.testing.assert_array_equal(got, want)
    assert np.isnan(got).tolist() == [text is None for text in numerics]


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number(lab: Lab, text: str) -> None:
    assert read_numerics(packed(lab, ["1", None, text])[0]) is None


def test_other_bytes(lab: Lab) -> None:
    with pytest.raises(ValueError, match="layout"):
        read_numerics(packed(lab, ["1", "2"])[0][:-2])


def test_sums_of_numerics(lab: Lab) -> None:
    """A column, an expression, NULLs, FILTER: as PostgreSQL sums them, group by group."""
    lab.connection.execute(
        "CREATE TABLE priced (x text, g int, v numeric, w numeric(8, 3)); INSERT INTO priced SELECT"
        " 'f' || i % 4, i % 3, nullif(i % 7, 3) * 1.25, i * 0.001 FROM generate_series(1, 60) AS i")
    lab.add_model("m", ["a", "b"], {"f0": "a", "f1": "b", "f2": "a", "f3": "b"})
    circuit, capture = lab.circuit(
        "SELECT g, sum(v) AS s, avg(v * w) AS a, sum(w) FILTER (WHERE v > 2) AS f, count(v) AS n "
        "FROM priced WHERE pgrain.predict('m', x) = 'a' GROUP BY g")
    assert capture.sql.count("numeric_send") == 3
    circuit.value(lab.predicted(circuit)).compare(lab.result(capture))
