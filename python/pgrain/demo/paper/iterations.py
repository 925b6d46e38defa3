"""Figure 3: AUC_R of the join-count Q1 over CG iterations (Rain) and eigenvectors (Rain++)."""

from __future__ import annotations

from pathlib import Path

from pgrain.demo.paper import draw
from pgrain.demo.paper.experiments import jobs_of

TITLE = "Figure 3: iterations and eigenvectors"
HOW = "with the library"
REPORTED = ("Q1 on MNIST (0-4 joined with 5-9), rates 0.1-0.4: Rain peaks after few iterations and "
            "then degrades, erratically for the CNN; Rain++ peaks near 10 eigenvectors and does "
            "not suffer from the instability.")


def jobs(scale):
    architectures = [a for a in ("logistic_regression", "cnn") if a in scale.sample]
    return jobs_of([scale.flips("mnist", a, rate, seed)
                    for a in architectures for rate in scale.rates
                    for seed in scale.seeds_at(a, rate)])


def render(records, folder: Path, scale) -> str:
    rows, parts = [], []
    peaks, falls, lasts = [], 0, 0
    for architecture in dict.fromkeys(r["setting"]["architecture"] for r in records):
        lines = []
        of = [r for r in records if r["setting"]["architecture"] == architecture]
        for rate in dict.fromkeys(r["setting"]["rate"] for r in of):
            some = [r for r in of if r["setting"]["rate"] == rate]
            judged = [r["queries"]["Q1"] for r in some]
            # The first seed's Rain goes farther than others'.
            for name, curve in (("Rain++", average([j["rain++"] for j in judged])),
                                ("Rain", judged[0]["rain"])):
                lines.append((f"{name} {rate:g}", range(1, len(curve) + 1), curve))
            found = [draw.peak(j["rain"])[1] for j in judged if j["rain"]]
            peaks += found
            lasts += len(found)
            falls += sum(j["rain"][-1] < max(j["rain"]) - 0.01 for j in judged if j["rain"])
            rows.append([architecture, f"{rate:g}", len(some), some[0]["n_wrong"],
                         draw.interval([max(j["rain"]) for j in judged if j["rain"]]),
                         draw.span(found, to="-"),
                         draw.interval([max(j["rain++"]) for j in judged]),
                         draw.span([draw.peak(j["rain++"])[1] for j in judged], to="-"),
                         draw.span([r["k"] for r in some], to="-"),
                         draw.interval([j["rain++"][r["k"] - 1]
                                        for r, j in zip(some, judged, strict=True)]),
                         f"{some[0]['chance']:.3f}"])
        name = f"iterations_{architecture}.png"
        draw.lines(folder / name, lines, x="CG iterations / eigenvectors", y="AUC_R", pairs=True)
        parts.append(draw.image(name, f"Q1 on MNIST, {architecture}; dashed: Rain++, mean over "
                                      "the seeds of the table, solid: Rain, seed 0", of))
    return ("".join(parts) + draw.table(
        ["model", "rate", "seeds", "wrong rows", "Rain: peak", "at", "Rain++: peak", "at k",
         "k chosen", "AUC_R there", "chance"], rows)
        + f"\n\nMean over seeds ± half a 95 % interval. CG peaks after {draw.span(peaks)} "
        f"iterations, and in {falls} of {lasts} runs has lost more than 0.01 at its last one; in "
        "the paper it peaks early and then degrades. " + stopped(records) + erratic(records))


def stopped(records: list[dict]) -> str:
    """How far Rain came, and how often our solver met what stops it."""
    of = [j for r in records if "rain_status" in (j := r["queries"]["Q1"])]
    met = [len(j["rain"]) for j in of if "curvature" in j["rain_status"]]
    text = (f"Rain was run for {draw.span([len(j['rain']) for j in of])} iterations. Our solver "
            "stops at a direction of nonpositive curvature; in "
            f"{len(met) or 'none'} of these {len(of)} runs was one met")
    return text + (f", after {draw.span(met)} iterations; the paper has them as the reason why the "
                   "cnn's line fluctuates." if met else ".")


def rises(curve: list[float], least: float = 0.05) -> int:
    """How often AUC_R rises by more than this from one step to the next, from its peak on."""
    after = curve[max(range(len(curve)), key=curve.__getitem__):]
    return sum(later - one > least for one, later in zip(after, after[1:], strict=False))


def erratic(records: list[dict]) -> str:
    """Whether Rain only falls after its peak."""
    parts = []
    for architecture in dict.fromkeys(r["setting"]["architecture"] for r in records):
        curves = [r["queries"]["Q1"]["rain"] for r in records
                  if r["setting"]["architecture"] == architecture and r["queries"]["Q1"]["rain"]]
        lowest = [min(curve[curve.index(max(curve)):]) for curve in curves]
        parts.append(f"on {architecture} to {draw.span(lowest, '.2f')}, with a rise of more "
                     "than 0.05 from one iteration to the next in "
                     f"{sum(rises(curve) > 0 for curve in curves)} of {len(curves)} runs")
    return (" After its peak Rain falls, " + "; ".join(parts) + ". In the paper the "
            "cnn's line fluctuates widely; ours are not as long.") if parts else ""


def average(of: list[list[float]]) -> list[float]:
    """The mean of each place that all of them have; where one stopped the line ends."""
    return [draw.mean(values) for values in zip(*(one for one in of if one), strict=False)]
