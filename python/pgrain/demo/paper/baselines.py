"""Ours: every ranking on the same models, several seeds, with the automatic k."""

from __future__ import annotations

from pathlib import Path

from pgrain.demo.paper import draw, peers
from pgrain.demo.paper.experiments import jobs_of
from pgrain.demo.paper.scales import UNRELATED

TITLE = "Ours: baselines that the paper lacks"
REPORTED = "Nothing: the paper compares with Rain alone."
COLUMNS = ("rain", "gradient_dot", "rule", "loss", "self_influence", *peers.ASKED)


def jobs(scale):
    found, full = [], scale.name != "quick"
    for seed in range(scale.seeds):
        given = {"seed": seed, "cg": scale.cg}
        found.append(scale.setting("fashion", "mlp", "bright", queries=("Q3",), **given))
        found.append(scale.flips("fashion", "mlp", scale.rate, seed))
        found.append(scale.setting("adult", "logistic_regression", "flip", rate=scale.rate,
                                   queries=("Q7",), **{**given, "cg": 4}))
        if full:
            found.append(scale.flips("mnist", "logistic_regression", scale.rate, seed))
            found.append(scale.setting("fashion", "logistic_regression", "bright",
                                       queries=("Q3",), **given))
            found.append(scale.flips("mnist", "cnn", scale.rate, seed))
            found.append(scale.setting("fashion", "cnn", "bright", queries=("Q3",), **given))
    if full:
        found += [scale.setting("reviews", "lstm", "flip", rate=rate, queries=("Q3",),
                                cg=scale.cg, seed=seed)
                  for seed in range(scale.seeds)
                  for rate in scale.rates if not seed or rate == scale.rate]
        found += [scale.setting("adult", "logistic_regression", "flip", rate=rate,
                                queries=("Q7",), seed=seed, cg=4)
                  for seed in range(scale.seeds) for rate in scale.rates]
    return jobs_of(found) + [job for job in peers.jobs(scale)
                             if job.what["error"] != "male_private"]


def groups(records) -> dict[tuple, list[tuple]]:
    """(data, architecture, error, rate, query) -> [(record, judged)], a seed each."""
    found: dict[tuple, list[tuple]] = {}
    for record in (r for r in records if r["kind"] == "setting"):
        s = record["setting"]
        for query, judged in record["queries"].items():
            if "loss" not in judged or query == UNRELATED:
                continue
            key = (s["data"], s["architecture"], s["error"], s["rate"], query)
            found.setdefault(key, []).append((record, judged))
    return found


def render(records, folder: Path) -> str:
    rows, short, beaten = [], [], {}
    elsewhere = peers.columns(records)
    for (data, architecture, error, rate, query), of in groups(records).items():
        automatic = [judged["rain++"][record["k"] - 1] for record, judged in of]
        best = [max(judged["rain++"]) for _, judged in of]
        name = f"{data}, {architecture}, {error}" + (f" {rate:.0%}" if rate else "")
        cells = [draw.interval(automatic), draw.interval(best)]
        for column in COLUMNS:
            values = elsewhere.get((data, architecture, error, rate, query), {}).get(column) or [
                max(judged[column]) if column == "rain" else judged[column]
                for _, judged in of if judged.get(column) not in (None, [])]
            cells.append(draw.interval(values))
            if values and draw.mean(values) > draw.mean(automatic) + 0.005:
                beaten.setdefault(column, []).append(f"{name}, {query}")
        if draw.mean(best) - draw.mean(automatic) > 0.03:
            short.append(f"{name}, {query} ({draw.mean(best) - draw.mean(automatic):.3f})")
        first = of[0][0]
        rows.append([name, query, len(of), f"{first['n_rows']:,}", f"{first['n_wrong']:,}",
                     "-".join(sorted({str(r["k"]) for r, _ in of}, key=int)), *cells,
                     f"{first['chance']:.3f}"])
    return (draw.table(["data, model, error", "query", "seeds", "rows", "wrong", "k",
                        "Rain++, automatic k", "Rain++, best k", "Rain, best step",
                        "gradient_dot", "the rule", "loss", "self-influence", "EK-FAC",
                        "cleanlab", "chance"], rows)
            + "\n\nMean over seeds ± half a 95 % interval (Student's t). Rain at its best step and "
            "Rain++ at its best k know the answer; the automatic k does not. The rule needs no "
            "influence: a count of trousers is too low, so take rows that are not labelled "
            "trouser, those first that the model takes for trousers. It shares the complaint's "
            "direction, nothing else. EK-FAC is kronfluence's, cleanlab its self-confidence out of "
            "fold, both in an environment of their own; EK-FAC sees the complaint, "
            "cleanlab does not.\n\nOn ADULT with 10 % flipped the model counts *fewer* rich "
            "people than there are, error or not: against the true labels the complaint is “too "
            "low”, which argues for the wrong labels, and every method that listens to it finds "
            "none of them. Section 6.8.5 in one line: complain where the error shows."
            + ("\n\n**Where a baseline wins against the automatic k** (by more than 0.005):\n\n"
               + "\n".join(f"- {column}: {'; '.join(names)}" for column, names in beaten.items())
               if beaten else "\n\nNo baseline wins against the automatic k here.")
            + "\n\nOn the movie reviews the rule beats every influence method at each rate, at "
            "the best k too. ADULT's errors by feature are in figure 12, where EK-FAC wins."
            + ("\n\n**Where the automatic k is more than 0.03 below the best**: "
               f"{'; '.join(short)}." if short
               else "\n\nThe automatic k is within 0.03 of the best k everywhere here."))
