"""Figure 8: many interventions, and what ranking them costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pgrain.demo.paper import draw
from pgrain.demo.paper.records import Job

TITLE = "Figure 8: interventions"
HOW = "with the library, on random arrays; through SQL it is a column of figure 6"
REPORTED = ("60 000 rows, each deleted or given one of nine other labels: 600 000 interventions in "
            "about 1 ms at most, “28 M a second” (which does not agree: see the end of this page). "
            "Latency does not depend on the model.")
TIMED = True
K = (5, 10, 20, 30)
CLASSES = 10


def jobs(scale) -> list[Job]:
    sizes = (10_000, 60_000) if scale.name == "quick" else (10_000, 100_000, 300_000, 600_000)
    return [Job("pool", {"interventions": list(sizes), "k": list(K), "repeat": 9})]


def measure(what: dict, say) -> dict:
    """Milliseconds of one complaint's ranking, in process: c -> all changes -> exact top 100.
    J (N, R, k) is that of the stored rows, the current label's entry stands for the deletion."""
    from pgrain.demo.timing import memory_bandwidth, times
    from pgrain.influence.scores import relabel_changes, top_k
    found = []
    rng = np.random.default_rng(0)
    for n in what["interventions"]:
        rows = n // CLASSES
        y = rng.integers(0, CLASSES, rows)
        for k in what["k"]:
            say(f"{n} x {k}")
            J = rng.normal(size=(rows, CLASSES, k)).astype(np.float32)
            A = rng.normal(size=(rows, k)).astype(np.float32)
            w, c = np.ones(k), rng.normal(size=k)
            both = (w * c).astype(np.float32)

            def all_of_them(J=J, A=A, w=w, c=c, y=y, rows=rows):
                changes = relabel_changes(J, y, w, c)
                changes[np.arange(rows), y] = A @ (w * c).astype(np.float32)
                return top_k(-changes.ravel(), 100)

            def plain(J=J, both=both, k=k):
                return np.argpartition(J.reshape(-1, k) @ both, 100)[:100]

            taken, other = (times(work, what["repeat"], 2) for work in (all_of_them, plain))
            found.append([n, k, float(np.median(taken)), min(taken), min(other)])
            del J, A
    return {"pool": found, "bandwidth": memory_bandwidth()}


def _floor(records) -> str:
    """What reading the array once is, and how often it was no floor."""
    every = [(least, 1000 * 4 * n * k / record["bandwidth"])
             for record in records for n, k, _, least, _ in record["pool"]]
    below = sum(least < once for least, once in every)
    return ("Reading the array once is its size over the bandwidth that was measured beside it, "
            f"from memory and under the same load. It is no floor: in {below} of {len(every)} rows "
            "the least time is below it, since the smaller arrays stay in the caches between "
            "calls, or since the bandwidth was measured at a busier moment. ")


def render(records, folder: Path, scale) -> str:
    rows, lines = [], {}
    for record in records:
        for n, k, middle, least, other in record["pool"]:
            floor = 1000 * 4 * n * k / record["bandwidth"]
            lines.setdefault(f"k = {k}", []).append((n, least))
            rows.append([f"{n:,}", k, f"{middle:.2f}", f"{least:.2f}", f"{other:.2f}",
                         f"{floor:.2f}", f"{n / least / 1000:,.0f} M"])
    draw.lines(folder / "pool.png", [(name, [p[0] for p in points], [p[1] for p in points])
                                     for name, points in lines.items()],
               x="interventions", y="ms (least of nine)", points=True, log_x=True, log_y=True)
    counts = [n for record in records for n in record["setting"]["interventions"]]
    return (draw.image("pool.png", f"{draw.span(counts, ',')} interventions: deletion and nine "
                                   "relabellings a row, exact top 100, one process")
            + draw.table(["interventions", "k", "median, ms", "least, ms",
                          "numpy: product and argpartition, least",
                          "reading the array once, ms", "a second"], rows)
            + "\n\nThe arrays are random numbers of the stored shapes: the time does not depend on "
            "them, nor on the model. "
            + _floor(records) + "A second is the interventions over the least time. The same "
            "through SQL, for the rows of figure 1: the column “relabel” of figure 6.")
