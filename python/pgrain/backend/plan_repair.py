"""plan_repair: the edits that are predicted to cure a complaint, with progress while it lasts."""

from __future__ import annotations

import time

from pgrain.backend import session
from pgrain.backend.complain import check_options, evaluate_complaints
from pgrain.backend.keys import visible
from pgrain.backend.spi import check_interrupts, entry_point, writes_nothing

OPTIONS = {"rows", "model", "directions", "k", "damping", "filter", "normalize", "among",
           "plausible"}
VALUES = 100_000          # of one model; of more, a plan has to do with what is stored
OWN = ("rows", "model", "directions")
_REPORT_SECONDS = 2.0


@entry_point
@writes_nothing
def plan_repair(plpy, text: str, complaints: list[str], intervention: str,
                options: str) -> list[tuple]:
    """Rows of pgrain.plan_repair; see sql/67_repair.sql."""
    plan = make_plan(plpy, text, complaints, intervention, check_options(options, OPTIONS))
    for notice in plan["notices"]:
        plpy.notice(notice)
    return visible(plpy, plan["rows"], model=plan["model"], number=1, key=2)


def make_plan(plpy, text: str, complaints: list[str], intervention: str, options: dict,
              cell: dict | None = None) -> dict:
    """{"rows", "notices", "model", "cures"}. cell: which is predicted (`complaints_hold`). The
    worker thinks in slices; between two of them this statement can be cancelled, and says how far
    it is."""
    asked = {name: value for name, value in options.items() if name not in OWN}
    if options.get("directions") != 0:
        asked["values_up_to"] = VALUES      # which directions are made of
    evaluated = evaluate_complaints(plpy, text, complaints, asked)
    params = {**evaluated, "intervention": intervention, "options": options, "cell": cell}
    reported = time.monotonic()
    while True:
        answer, _ = session.call(plpy, "plan_repair", params)
        if "progress" not in answer:
            return answer
        check_interrupts(plpy)
        if time.monotonic() - reported >= _REPORT_SECONDS:
            done, about, message = answer["progress"]
            plpy.info(f"pgrain: prefix {done} of about {max(about, done)}, {message}")
            reported = time.monotonic()
        params = {"evaluation": evaluated["evaluation"]}
