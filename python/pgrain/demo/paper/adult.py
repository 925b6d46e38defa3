"""Figure 12: ADULT, label errors of men in the private sector, queries of four precisions."""

from __future__ import annotations

from pathlib import Path

from pgrain.demo.paper import draw, peers, surface
from pgrain.demo.paper.experiments import jobs_of

TITLE = "Figure 12: ADULT, feature-conditional errors"
HOW = "with the library; seed 0 also through SQL"
REPORTED = ("Precise queries (Q4: men in the private sector; Q5: private sector) are very "
            "effective at every rate, general ones (Q6: men; Q7: all) not very; AUC_R is high "
            "where the relative difference of the query's value is large.")
QUERIES = ("Q4", "Q5", "Q6", "Q7")


def jobs(scale):
    rates = (0.5, 0.6, 0.7) if scale.name != "quick" else (0.6,)
    own = jobs_of([scale.setting("adult", "logistic_regression", "male_private", rate=rate,
                                 seed=seed, queries=QUERIES, cg=scale.pairs)
                   for seed in range(scale.seeds) for rate in rates])
    return own + [job for module in (surface, peers) for job in module.jobs(scale)
                  if job.what["error"] == "male_private"]


def render(records, folder: Path, scale) -> str:
    every, records = records, [r for r in records if r["kind"] == "setting"]
    elsewhere = peers.columns(every)
    rows, groups = [], []
    for query in QUERIES:
        points = []
        for rate in sorted({r["setting"]["rate"] for r in records}):
            of = [r for r in records if r["setting"]["rate"] == rate]
            judged = [r["queries"][query] for r in of]
            relative = [abs(j["value"] - j["clean"]) / j["clean"] for j in judged]
            points += [(d, max(j["rain++"])) for d, j in zip(relative, judged, strict=True)]
            rows.append([query, f"{rate:.0%}", len(of), f"{draw.mean(relative):.2f}",
                         draw.interval([max(j["rain++"]) for j in judged]),
                         draw.interval([j["rain++"][r["k"] - 1]
                                        for r, j in zip(of, judged, strict=True)]),
                         surface.at(every, of[0]["setting"], query),
                         draw.interval([max(j["rain"]) for j in judged if j.get("rain")]),
                         draw.interval([j["gradient_dot"] for j in judged]),
                         draw.interval([j["rule"] for j in judged]),
                         *(draw.interval(list(peers.beside(
                             elsewhere, "adult", "logistic_regression", "male_private", rate,
                             query).get(column, {}).values())) for column in peers.ASKED),
                         f"{of[0]['chance']:.2f}"])
        groups.append((query, [p[0] for p in points], [p[1] for p in points]))
    draw.scatter(folder / "adult.png", [groups], x="relative difference of the query's value",
                 y=["peak AUC_R"], diagonal=False)
    return (draw.image("adult.png", "Errors of men in the private sector; a point a seed and rate",
                       records)
            + draw.table(["query", "rate", "seeds", "relative difference", "peak AUC_R",
                          "automatic k", "seed 0 through SQL", "Rain, best step", "gradient_dot",
                          "the rule",
                          "EK-FAC", "cleanlab", "chance"], rows)
            + "\n\nMean over seeds ± half a 95 % interval. The rule (label >50K, least p(>50K) "
            "first) knows nothing of the complaint and is the same for all. What beats the "
            f"automatic k is listed with the baselines.{_rain(records)}"
            + (_SMALL if scale.name == "small" else ""))


def _rain(records) -> str:
    """How far Rain came, and where it is best."""
    curves = {query: [j["rain"] for r in records if (j := r["queries"][query]).get("rain")]
              for query in QUERIES}
    if not any(curves.values()):
        return ""
    best = ", ".join(f"{query} {draw.span([draw.peak(curve)[1] for curve in of], to='-')}"
                     for query, of in curves.items())
    return (f" Rain was run for {draw.span([len(c) for of in curves.values() for c in of])} steps; "
            f"it is best after: {best}.")


_SMALL = (" The paper's two groups are here too, Q4 and Q5 above Q6 and Q7 in the peak; within "
          "them the peaks come as Q4 > Q5 and Q6 > Q7, of which Q6 and Q7 overlap at 50 %. With "
          "the automatic k, Q4 "
          "and Q5, and Q6 and Q7, cannot be told apart. The automatic k (the median is 4; the "
          "paper has 6) stays 0.13 to 0.16 below the peak on Q4: the spectrum of two classes over "
          "one-hot columns has its first flat place early, and the ranking for Q4 leaps at the "
          "eighth pair and rises slowly up to the 30 computed (option `k` takes more). One seed of "
          "five took k = 12 at 70 %, hence that interval. **EK-FAC is ahead** of the automatic k "
          "on all four queries at every rate, and on Q5 to Q7 ahead of Rain++ at its best k too.")
