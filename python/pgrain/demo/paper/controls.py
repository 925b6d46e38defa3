"""Ours: negative controls. A ranking that finds errors where there are none proves nothing."""

from __future__ import annotations

from pathlib import Path

from pgrain.demo.paper import draw
from pgrain.demo.paper.experiments import jobs_of
from pgrain.demo.paper.scales import UNRELATED

TITLE = "Ours: negative controls"
HOW = "with the library"
REPORTED = "Nothing."


def jobs(scale):
    found = []
    for seed in range(scale.seeds):
        found.append(scale.flips("fashion", "mlp", scale.rate, seed))
        found.append(scale.setting("fashion", "mlp", "permuted", seed=seed, queries=("Q3",)))
        found.append(scale.setting("fashion", "mlp", "marked", seed=seed, queries=("Q3",)))
    return jobs_of(found)


def render(records, folder: Path, scale) -> str:
    rows = []
    for error, query, what in [
            ("flip", "Q3", "the error, its own query (for comparison)"),
            ("flip", UNRELATED, "the same error, a query about bags"),
            ("permuted", "Q3", "all labels permuted; a tenth of the rows marked at random"),
            ("marked", "Q3", "clean labels; a tenth of the rows marked at random")]:
        of = [r for r in records if r["setting"]["error"] == error and query in r["queries"]]
        if not of:
            continue
        judged = [r["queries"][query] for r in of]
        rows.append([what, len(of),
                     draw.interval([j["rain++"][r["k"] - 1]
                                    for r, j in zip(of, judged, strict=True)]),
                     draw.interval([j["gradient_dot"] for j in judged]),
                     f"{draw.mean([r['chance'] for r in of]):.3f}"])
    return (draw.caption("AUC_R, mean over seeds ± half a 95 % interval", records)
            + draw.table(["control", "seeds", "Rain++, automatic k", "gradient_dot", "chance"],
                         rows)
            + "\n\nChance is the share of marked rows, which is what AUC_R of a random order is.")
