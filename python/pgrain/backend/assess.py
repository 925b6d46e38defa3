"""assess: is this complaint useful."""

from __future__ import annotations

import time

from pgrain.backend import session
from pgrain.backend.complain import evaluate_complaints
from pgrain.backend.spi import check_interrupts, entry_point, writes_nothing

_REPORT_SECONDS = 2.0
# Any method but the default has the feature values fetched, which the full gradient is made of.
_WITH_VALUES = {"method": "gradient_dot"}


@entry_point
@writes_nothing
def assess(plpy, text: str, complaints: list[str]) -> list[tuple]:
    """Rows of pgrain.assess; see sql/68_assess.sql. The worker thinks in slices."""
    evaluated = evaluate_complaints(plpy, text, complaints, _WITH_VALUES)
    params, reported = evaluated, time.monotonic()
    while True:
        answer, _ = session.call(plpy, "assess", params)
        if "progress" not in answer:
            return [tuple(row) for row in answer["rows"]]
        check_interrupts(plpy)
        if time.monotonic() - reported >= _REPORT_SECONDS:
            plpy.info(f"pgrain: {answer['progress']} checks done")
            reported = time.monotonic()
        params = {"evaluation": evaluated["evaluation"]}
