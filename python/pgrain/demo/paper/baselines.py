"""Ours: every ranking on the same models, several seeds, with the automatic k."""

from __future__ import annotations

from pathlib import Path

from pgrain.demo.paper import adult, draw, peers
from pgrain.demo.paper.experiments import jobs_of
from pgrain.demo.paper.scales import UNRELATED

TITLE = "Ours: baselines that the paper lacks"
HOW = "with the library; EK-FAC and cleanlab in a process of their own"
REPORTED = "Nothing: the paper compares with Rain alone."
COLUMNS = ("rain", "gradient_dot", "rule", "loss", "self_influence", *peers.ASKED)


def jobs(scale):
    found, full = [], scale.name != "quick"
    for seed in range(scale.seeds):
        given = {"seed": seed, "cg": scale.cg}
        found.append(scale.setting("fashion", "mlp", "bright", queries=("Q3",), **given))
        found.append(scale.flips("fashion", "mlp", scale.rate, seed))
        found.append(scale.setting("adult", "logistic_regression", "flip", rate=scale.rate,
                                   queries=("Q7",), **{**given, "cg": scale.pairs}))
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
                                queries=("Q7",), seed=seed, cg=scale.pairs)
                  for seed in range(scale.seeds) for rate in scale.rates]
    return jobs_of(found) + [job for job in adult.jobs(scale) if job.kind == "setting"] \
        + peers.jobs(scale)


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


def by_seed(of: list[tuple], column: str, elsewhere: dict) -> dict[int, float]:
    """Seed -> AUC_R of a ranking; "automatic" and "best" are Rain++'s. of: as `groups` has it;
    elsewhere: the peers of that row."""
    if column in elsewhere:
        return elsewhere[column]
    found = {}
    for record, judged in of:
        seed = record["setting"]["seed"]
        if column in ("automatic", "best"):
            curve = judged["rain++"]
            found[seed] = curve[record["k"] - 1] if column == "automatic" else max(curve)
        elif judged.get(column) not in (None, []):
            found[seed] = max(judged[column]) if column == "rain" else judged[column]
    return found


def lead(ours: dict[int, float], theirs: dict[int, float]) -> float | None:
    """How far a ranking is ahead of another, mean over the seeds that both have."""
    seeds = ours.keys() & theirs.keys()
    return draw.mean([theirs[s] - ours[s] for s in sorted(seeds)]) if seeds else None


def render(records, folder: Path, scale) -> str:
    rows, short, beaten, best_too = [], [], {}, {}
    elsewhere = peers.columns(records)
    for (data, architecture, error, rate, query), of in groups(records).items():
        other = peers.beside(elsewhere, data, architecture, error, rate, query)
        automatic, best = (by_seed(of, name, {}) for name in ("automatic", "best"))
        name = f"{data}, {architecture}, {error}" + (f" {rate:.0%}" if rate else "")
        cells = [draw.interval(list(automatic.values())), draw.interval(list(best.values()))]
        for column in COLUMNS:
            values = by_seed(of, column, other)
            cells.append(draw.interval(list(values.values())))
            for least, listed in ((automatic, beaten), (best, best_too)):
                ahead = lead(least, values)
                if ahead is not None and ahead > 0.005:
                    listed.setdefault(column, []).append(f"{name}, {query} ({ahead:.3f})")
        behind = lead(automatic, best)
        if behind > 0.03:
            short.append(f"{name}, {query} ({behind:.3f})")
        first = of[0][0]
        rows.append([name, query, len(of), f"{first['n_rows']:,}", f"{first['n_wrong']:,}",
                     "-".join(sorted({str(r["k"]) for r, _ in of}, key=int)), *cells,
                     f"{first['chance']:.3f}"])
    return (draw.caption("AUC_R of every ranking of the same models, mean over seeds ± half a 95 % "
                         "interval (Student's t)", records)
            + draw.table(["data, model, error", "query", "seeds", "rows", "wrong", "k",
                          "Rain++, automatic k", "Rain++, best k", "Rain, best step",
                          *(SHOWN[column] for column in COLUMNS[1:]), "chance"], rows)
            + "\n\nRain at its best step and Rain++ at its best k know the answer; the automatic k "
            "does not. The rule needs no influence: a count of trousers is too low, so take rows "
            "that are not labelled trouser, those first that the model takes for trousers. It "
            "shares the complaint's direction, nothing else. EK-FAC is kronfluence's, cleanlab its "
            "self-confidence out of fold, both in an environment of their own; EK-FAC sees the "
            "complaint and knows dense layers alone. cleanlab sees neither complaint nor model, "
            "but probabilities of three folds: the row's own model's where they were made (always "
            "on ADULT), else the mlp's on pictures, on the reviews those of scikit-learn's "
            "logistic regression over TF-IDF words; such rows with the same wrong labels have the "
            "same number."
            + (_SMALL if scale.name == "small" else "")
            + _list("**Where a baseline wins against the automatic k**", beaten)
            + _list("Of these, **against Rain++ at its best k too**", best_too)
            + ("\n\n**Where the automatic k is more than 0.03 below the best**: "
               f"{'; '.join(short)}." if short
               else "\n\nThe automatic k is within 0.03 of the best k everywhere here."))


SHOWN = {"rain": "Rain", "gradient_dot": "gradient_dot", "rule": "the rule", "loss": "loss",
         "self_influence": "self-influence", "ekfac": "EK-FAC", "cleanlab": "cleanlab"}
_SMALL = ("\n\nOn ADULT with 10 % flipped the model counts *fewer* rich people than there are, "
          "error or not: against the true labels the complaint is “too low”, which argues for the "
          "wrong labels, and every method that listens to it finds none of them. Section 6.8.5 in "
          "one line: complain where the error shows.")


def _list(title: str, beaten: dict[str, list[str]]) -> str:
    if not beaten:
        return f"\n\n{title}: nowhere."
    return (f"\n\n{title} (mean of the seeds that both have, by more than 0.005):\n\n"
            + "\n".join(f"- {SHOWN[column]}: {'; '.join(names)}"
                        for column, names in beaten.items()))
