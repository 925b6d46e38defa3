"""Table 5: two label errors at once (1 -> 7 and 4 -> 9), queries about one or both."""

from __future__ import annotations

from pathlib import Path

from pgrain.demo.paper import draw
from pgrain.demo.paper.experiments import jobs_of

TITLE = "Table 5: two errors at once"
REPORTED = "Q3 about one class: peak AUC_R 0.69-0.85; Q2 about both: 0.98-0.99 (CNN)."
QUERIES = ("Q3:1", "Q3:4", "Q3:7", "Q3:9", "Q2:1,4", "Q2:7,9")
PAPER = {0.1: (0.69, 0.70, 0.78, 0.70, 0.98, 0.98), 0.2: (0.69, 0.73, 0.78, 0.70, 0.99, 0.99),
         0.3: (0.80, 0.72, 0.78, 0.70, 0.99, 0.99), 0.4: (0.85, 0.72, 0.80, 0.70, 0.98, 0.98)}


def jobs(scale):
    architectures = ("cnn", "mlp") if scale.name != "quick" else ("mlp",)
    return jobs_of([scale.setting("mnist", a, "flip2", rate=rate, queries=QUERIES, baselines=False)
                    for a in architectures for rate in scale.rates])


def render(records, folder: Path) -> str:
    rows = []
    for record in records:
        rate, of = record["setting"]["rate"], record["queries"]
        name = f"{record['setting']['architecture']}, {rate:.0%}"
        rows.append([f"{name}, peak", *(f"{max(of[q]['rain++']):.2f}" for q in QUERIES)])
        rows.append([f"{name}, automatic k = {record['k']}",
                     *(f"{of[q]['rain++'][record['k'] - 1]:.2f}" for q in QUERIES)])
        if all("own" in of[q] for q in QUERIES[:4]):
            rows.append([f"{name}, automatic k, against the query's own error",
                         *(f"{of[q]['own'][record['k'] - 1]:.2f}" for q in QUERIES[:4]), "", ""])
        if rate in PAPER and record["setting"]["architecture"] == "cnn":
            rows.append([f"the paper, {rate:.0%}, peak", *(f"{v:.2f}" for v in PAPER[rate])])
    return (draw.table(["", *QUERIES], rows)
            + "\n\nAUC_R against *all* wrong rows: a query about one of the two errors can find "
            "half of them. If it found exactly its half first and nothing else it would get "
            "0.75; against its own error alone, the same would be 1. Queries about both are far "
            "ahead, as in the paper. A value near 0 is a query whose count "
            "was wrong in the other direction, error or not (few flips), so that "
            "the complaint argued for the wrong labels.")
