"""Figures 6 and 7: online time over iterations and eigenvectors; the gradient of q, precomputed."""

from __future__ import annotations

from pathlib import Path

from pgrain.demo.paper import draw, latency

TITLE = "Figures 6 and 7: online time over iterations and eigenvectors"
HOW = "through SQL; the last two columns with the library alone"
REPORTED = ("Rain++ is an order of magnitude quicker than a single iteration of CG, whatever k; "
            "precomputed gradients of the queried rows take the gradient of q from seconds to "
            "milliseconds.")
TIMED = True
jobs = latency.jobs


def render(records, folder: Path, scale) -> str:
    records = sorted(records, key=lambda r: r["n_parameters"])
    lines, rows = [], []
    for r in records:
        sql, step, name = r["sql"], r["steps"], r["setting"]["model"]
        ks = [k for k in latency.K if f"k {k}" in sql]
        stored = [k for k in latency.K if f"optimised {k}" in step]
        lines += [(f"{name}, Rain++", ks, [sql[f"k {k}"][0] for k in ks]),
                  (f"{name}, Rain", latency.ITERATIONS,
                   [sql[f"rain {n}"][0] for n in latency.ITERATIONS])]
        rows.append([name, *(f"{sql[f'rain {n}'][0]:,.0f}" for n in latency.ITERATIONS),
                     *(f"{sql[f'k {k}'][0]:,.0f}" if k in ks else "–" for k in latency.K),
                     f"{sql['relabel'][0]:,.0f}", f"{step['gradient']:,.1f}",
                     " / ".join(f"{step[f'optimised {k}']:.2f}" for k in stored)])
    stored = " / ".join(str(k) for k in latency.K if k <= latency.PAIRS)
    draw.lines(folder / "online.png", lines, x="iterations / eigenvectors", y="ms, through SQL",
               log_y=True, pairs=True, outside=True)
    return (draw.image("online.png", "Complaints about Q1 through SQL; dashed: Rain++ on attached "
                                     "rows, solid: Rain", records)
            + draw.table(["model", *(f"Rain {n}" for n in latency.ITERATIONS),
                          *(f"k = {k}" for k in latency.K), "relabel (figure 8)",
                          "gradient of q, in process", f"stored instead, k = {stored}"], rows)
            + "\n\nms. The last column is figure 7: the projection of the objective from stored "
            "Jacobians, with the ranking of all training rows, on random arrays of the "
            "stored shapes and untrained weights. Each number of Rain is the median of "
            f"{draw.span([r.get('rain_calls', 2) for r in records])} calls; that it "
            "does not always rise with the iterations is noise.")
