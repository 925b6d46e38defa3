"""Figure 5: per cent of the peak AUC_R over k, by data set."""

from __future__ import annotations

from pathlib import Path

from pgrain.demo.paper import adult, baselines, draw, iterations, peaks
from pgrain.demo.paper.records import Job

TITLE = "Figure 5: how many eigenvalues"
REPORTED = ("The best k hardly varies with the model. The heuristic takes 10, 13, 2 and 6 for the "
            "four sets, near the optimum.")
_LEAST = 0.1
"""As in the paper: a query whose peak is below says nothing about k."""


def jobs(scale) -> list[Job]:
    every = [job for module in (iterations, peaks, adult, baselines) for job in module.jobs(scale)]
    return list({job.key: job for job in every if job.kind == "setting"}.values())


def render(records, folder: Path) -> str:
    curves: dict[str, list[list[float]]] = {}
    chosen: dict[str, list[int]] = {}
    for record in records:
        name = record["setting"]["data"]
        for query, judged in record["queries"].items():
            values = judged.get("rain++", [])
            if query not in ("Q1", "Q3", "Q7") or not values or max(values) <= _LEAST:
                continue
            curves.setdefault(name, []).append([100 * v / max(values) for v in values])
            chosen.setdefault(name, []).append(record["k"])
    lines, rows = [], []
    for name, of in curves.items():
        m = min(map(len, of))
        mean = [sum(curve[i] for curve in of) / len(of) for i in range(m)]
        lines.append((name, range(1, m + 1), mean))
        ks = sorted(chosen[name])
        best = max(range(m), key=mean.__getitem__) + 1
        k = ks[len(ks) // 2]
        rows.append([name, len(of), f"{ks[0]}-{ks[-1]}", k, f"{mean[k - 1]:.1f} %", best,
                     f"{mean[best - 1]:.1f} %",
                     {"mnist": 10, "cifar10": 13, "reviews": 2, "adult": 6}.get(name, "")])
    draw.lines(folder / "choice_of_k.png", lines, x="k", y="per cent of the peak AUC_R",
               marks=[(row[0], row[3]) for row in rows])
    return (draw.image("choice_of_k.png", "Mean over errors, rates, models, queries Q1 and Q3 "
                                          "(ADULT: Q7)")
            + draw.table(["data", "curves", "k chosen", "median", "per cent of peak there",
                          "best single k", "per cent there", "the paper's k"], rows)
            + "\n\nThe paper's numbers are 10, 13, 2 and 6 “for the four datasets”; that SST2 "
            "has 2 it says, that MNIST has 10 and ADULT 6 is our reading; 13 would be CIFAR-10's. "
            "On the reviews the rule takes 4 to 8, and quality still rises at 30, the last pair "
            "that was computed.")
