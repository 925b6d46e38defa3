"""Figure 10: what precomputing costs, over the number of eigenvalues."""

from __future__ import annotations

from pathlib import Path

from pgrain.demo.paper import draw, latency

TITLE = "Figure 10: offline cost"
HOW = "through SQL"
REPORTED = ("At k = 20, 20 minutes for WRN-26: the time of fifteen complaints of Rain with 2 "
            "iterations (section 6.7; 2 or 4 iterations: see the end of this page).")
TIMED = True
jobs = latency.jobs


def render(records, folder: Path, scale) -> str:
    if not records:
        return draw.table([], [])
    records = sorted(records, key=lambda r: r["n_parameters"])
    lines, rows = [], []
    for r in records:
        name, offline = r["setting"]["model"], r["offline"]
        most = r["setting"]["pairs"]
        by_k = {int(step.split()[1]): seconds for step, seconds in offline.items()
                if step.startswith("precompute ")} | {most: offline["precompute"]}
        ks = sorted(by_k)
        lines.append((name, ks, [by_k[k] for k in ks]))
        k = 20 if 20 in by_k else most
        rain = r["sql"]["rain 2"][0] / 1000
        rows.append([name, f"{r['n_parameters']:,}", *(f"{by_k[k]:.1f}" for k in ks),
                     f"{offline['attach']:.1f}", f"{offline['train']:.1f}",
                     f"{by_k[k] / rain:.1f}"])
    draw.lines(folder / "offline.png", lines, x="eigenvalues", y="s, CALL pgrain.precompute",
               log_y=True, points=True)
    some = records[0]["setting"]
    return (draw.image("offline.png", "Spectrum and projections of the training rows, and of "
                       f"{some['queried']:,} attached ones", records)
            + draw.table(["model", "parameters", *(f"k = {k}, s" for k in ks), "attach, s",
                          "train, s", "k = 20 in complaints of Rain with 2 iterations"], rows)
            + "\n\nThrough SQL, each from nothing, storing and the attached rows included. Both "
            "the precomputation and Rain use the same rows for the Hessian.")
