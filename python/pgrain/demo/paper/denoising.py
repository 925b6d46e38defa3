"""Figure 15 and section 6.9: salt and pepper, deleted or denoised, and what that does to the count.

Rankings are judged as everywhere. Beside them the training that a ranking asks for: without the
noisy rows, or with them denoised, as the truth knows them and as the first N of the ranking.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pgrain.demo.paper import draw, surface
from pgrain.demo.paper.experiments import jobs_of
from pgrain.demo.paper.records import Job

TITLE = "Figure 15: delete or denoise"
HOW = "with the library; of the mlp on mnist, seed 0 at 50 and 90 % also through SQL"
REPORTED = ("Deletion is completely ineffective: it reduces the count further. Replacing each "
            "picture by its median-filtered self has peak AUC_R above 0.65, converging to 1 as "
            "the rate goes to 100 %.")
AFTER = {"again": "trained again, another seed", "delete noisy": "the noisy rows deleted",
         "delete first": "the first N deleted", "denoise noisy": "the noisy rows denoised",
         "denoise first": "the first N denoised"}
"""What is trained once more, and its column."""
ANOTHER = 1_000
"""Added to the seed where the same rows are trained once more."""


def jobs(scale) -> list[Job]:
    """Training anew is what takes long: at the small scale the first seeds of the mlp have it,
    others have rankings alone."""
    quick, full = scale.name == "quick", scale.name == "full"
    rates = (0.9,) if quick else (0.5, 0.7, 0.9, 1.0)
    first = len(scale.seeds_at("mlp", rates[0]))
    counted = [("mlp", rate, seed) for seed in range(first) for rate in rates]
    ranked = [] if full else [("mlp", 0.9, seed) for seed in range(first, scale.seeds)]
    if full:
        counted += [("cnn", rate, seed) for seed in range(scale.seeds) for rate in rates]
    elif not quick:
        ranked += [("cnn", rate, 0) for rate in rates]

    def setting(data, architecture, rate, seed):
        return scale.setting(data, architecture, "salt_and_pepper", rate=rate, seed=seed,
                             queries=("Q1", "Q3"), denoise=True, baselines=False)

    settings = [setting("mnist", *of) for of in counted]
    settings += [setting(scale.colour, a, rate, 0) for a in scale.wide_resnets for rate in rates]
    return ([Job("denoising", one.as_json()) for one in settings]
            + jobs_of([setting("mnist", *of) for of in ranked])
            + [job for job in surface.jobs(scale) if job.what["denoise"]])


def measure(what: dict, say) -> dict:
    """The record of the setting, and for each query `after`: its values once trained anew, and
    which share of the first N rows was noisy."""
    from pgrain.demo.paper.cases import load
    from pgrain.demo.paper.experiments import setting_of
    from pgrain.demo.paper.measure import complained, fit, judged
    from pgrain.influence.scores import deletion_changes
    from pgrain.models.training import predict_proba, train
    setting = setting_of(what)
    case = load(setting)
    fitted = fit(setting, case, say)
    record = judged(setting, fitted, say)

    def classes(name: str, X, y, seed: int = setting.seed) -> np.ndarray:
        say(f"train: {name}")
        theta = train(fitted.model, X, y, options=dict(setting.options), seed=seed).theta
        return predict_proba(fitted.model, theta, case.query_X)[1].argmax(axis=1)

    def repaired(name: str, intervention: str, rows: np.ndarray) -> np.ndarray:
        """rows: (N,) bool."""
        if intervention == "delete":
            return classes(name, case.X[~rows], case.y[~rows])
        return classes(name, np.where(_over(rows, case.X), case.denoised, case.X), case.y)

    again = classes("again", case.X, case.y, setting.seed + ANOTHER)
    noisy = {i: repaired(f"{i} noisy", i, case.wrong) for i in ("delete", "denoise")}
    n, w = int(case.wrong.sum()), 1 / fitted.spectrum.eigenvalues[:fitted.k]
    for name in setting.queries:
        query = case.query(name, setting.data)
        _, _, c = complained(fitted, query)
        after = {"again": query.value(again)}
        for intervention, A in (("delete", fitted.A), ("denoise", fitted.A - fitted.A_denoised)):
            changes = deletion_changes(A[:, :fitted.k], w, c[:fitted.k])
            first = np.zeros(len(case.y), bool)
            first[np.argsort(changes, kind="stable")[:n]] = True
            after |= {f"{intervention} noisy": query.value(noisy[intervention]),
                      f"{intervention} first": query.value(
                          repaired(f"{intervention} first, {name}", intervention, first)),
                      f"{intervention} share": float(case.wrong[first].mean())}
        record["queries"][name]["after"] = after
    return record


def _over(rows: np.ndarray, X: np.ndarray) -> np.ndarray:
    """(N,) with as many axes as X."""
    return rows.reshape(-1, *[1] * (X.ndim - 1))


def closer(judged: dict, intervention: str) -> int | None:
    """+1 if training after it brought the value nearer to the clean model's, -1 if farther away;
    None where the damage moved the value by no more than another seed does, so that there is
    nothing to see."""
    value, clean, after = judged["value"], judged["clean"], judged["after"]
    if abs(value - clean) <= abs(value - after["again"]):
        return None
    return int(np.sign(abs(value - clean) - abs(after[intervention] - clean)))


def _as_asked(judged: dict, intervention: str) -> bool:
    """Whether the value went down where it was too high, up where it was too low."""
    change = judged["after"][intervention] - judged["value"]
    return change < 0 if judged["complaint"] == "too high" else change > 0


def _turned(records) -> str:
    """In how many rankings the complaint asks for more of what the noise did."""
    from pgrain.demo.paper.peaks import against
    judged = [j for r in records for j in r["queries"].values()]
    if not judged:
        return ""
    turned = [j for j in judged if against(j)]
    others = [j for j in judged if not against(j)]
    peaks = [draw.span([max(j[what]) for j in of], ".2f") for what in ("denoise", "rain++")
             for of in (turned, others)]
    return (f"In {len(turned)} of the {len(judged)} rankings the complaint, which goes by the true "
            "labels, asks for more of what the noise did to the value, seen from the clean "
            f"model's: denoising has peaks of {peaks[0]} in these and of {peaks[1]} in the others; "
            f"deletion {peaks[2]} and {peaks[3]}, so that it fails whatever the direction.")


def _lines(records) -> list[draw.Line]:
    """Peak AUC_R over the rate, mean over seeds: of deleting and of denoising, in turn."""
    found: dict[str, dict[float, list[dict]]] = {}
    for (data, architecture, rate, query), some in _groups(records).items():
        of = found.setdefault(f"{data}, {architecture}, {query}", {})
        of[rate] = [record["queries"][query] for record in some]
    return [(f"{name}, {title}", [100 * rate for rate in sorted(of)],
             [draw.mean([max(judged[method]) for judged in of[rate]]) for rate in sorted(of)])
            for name, of in found.items()
            for method, title in (("rain++", "delete"), ("denoise", "denoise"))]


def _accuracy(records) -> str:
    """Section 6.8.5: half of a class is noisy, and hardly anything is predicted worse."""
    parts = []
    for architecture in dict.fromkeys(r["setting"]["architecture"] for r in records):
        lost = [100 * (r["accuracy_clean"] - r["accuracy"]) for r in records
                if r["setting"]["architecture"] == architecture and r["setting"]["rate"] == 0.5
                and r["setting"]["data"] == "mnist"]
        if lost:
            parts.append(f"{architecture} {draw.span(lost, '.2f')}")
    return (" The paper says that noise on half of the ones lowers the accuracy by less than 1 %; "
            f"by percentage points it is here, seed by seed, lower by: {'; '.join(parts)}."
            if parts else "")


def render(records, folder: Path, scale) -> str:
    every = [r for r in records if r["kind"] in ("setting", "denoising")]
    own = [r for r in every if r["kind"] == "denoising"]
    draw.lines(folder / "denoising.png", _lines(every), x="per cent of the class that is noisy",
               y="peak AUC_R", pairs=True, points=True, outside=True)
    rankings, counts = [], []
    for name, some in _groups(every).items():
        *_, query = name
        judged = [record["queries"][query] for record in some]
        ks = [record["k"] - 1 for record in some]
        rankings.append([*_cells(name, some), ", ".join(dict.fromkeys(
            j["complaint"] for j in judged)), *(
            cell for method, intervention in (("rain++", "delete"), ("denoise", "denoise"))
            for cell in (draw.interval([max(j[method]) for j in judged]),
                         draw.interval([j[method][k] for j, k in zip(judged, ks, strict=True)]),
                         surface.at(records, some[0]["setting"], query, intervention))),
            f"{some[0]['chance']:.3f}"])
    for name, some in _groups(own).items():
        *_, query = name
        judged = [record["queries"][query] for record in some]
        digits = 0 if query == "Q1" else 1
        counts.append([*_cells(name, some), f"{some[0]['n_wrong']:,}", *(
            draw.interval([j[what] for j in judged], digits) for what in ("value", "clean")),
            f"{judged[0]['truth']:g}",
            *(draw.interval([j["after"][what] for j in judged], digits) for what in AFTER)])
    text = (draw.image("denoising.png", "Salt and pepper on one class, mean over the seeds of the "
                       "table; dashed: rows to delete, solid: rows to denoise", every)
            + draw.caption("Rankings: AUC_R of deleting a row and of denoising it (3 × 3 median), "
                         "complaints about Q1 and about Q3, the number of the class that was "
                         "damaged", records)
            + draw.table(["data, model", "rate", "query", "seeds", "complaint", "delete: peak",
                          "automatic k", "seed 0 through SQL", "denoise: peak", "automatic k",
                          "seed 0 through SQL", "chance"], rankings)
            + "\n\nMean over seeds ± half a 95 % interval; of two seeds, both values. "
            + _turned(every) + _accuracy(every))
    if counts:
        text += ("\n\n"
                 + draw.caption("The query's value before and after training anew. N is the number "
                                "of noisy rows; the first N are those of the ranking at the "
                                "automatic k, of that intervention and query", own)
                 + draw.table(["data, model", "rate", "query", "seeds", "N", "value",
                               "clean model", "truth", *AFTER.values()], counts)
                 + "\n\n" + _text(own))
    return text


def _groups(records) -> dict[tuple, list[dict]]:
    """(data, model, rate, query) -> records, a seed each."""
    found: dict[tuple, list[dict]] = {}
    for record in records:
        of = record["setting"]
        for query in record["queries"]:
            found.setdefault((of["data"], of["architecture"], of["rate"], query),
                             []).append(record)
    return found


def _cells(name: tuple, some: list[dict]) -> list:
    data, architecture, rate, query = name
    return [f"{data}, {architecture}", f"{rate:.0%}", query, len(some)]


def _text(records) -> str:
    sentences = []
    judged = [j for r in records for j in r["queries"].values()]
    for query in dict.fromkeys(q for r in records for q in r["queries"]):
        of = [r["queries"][query] for r in records if query in r["queries"]]
        seen = [j for j in of if closer(j, "again") is not None]
        if not seen:
            continue
        parts = []
        for intervention, column in list(AFTER.items())[1:]:
            found = [closer(j, intervention) for j in seen]
            parts.append(f"{column} {found.count(1)} closer and {found.count(-1)} farther")
        sentences.append(f"{query}: in {len(seen)} of {len(of)} runs the damage moved the value "
                         "by more than another seed does; of those, seen from the clean model's "
                         f"value, {'; '.join(parts)}.")
    worse = [j for r in records for q, j in r["queries"].items()
             if q == "Q3" and closer(j, "again") is not None]
    if worse:
        changes = [float(np.sign(j["after"]["delete noisy"] - j["value"])) for j in worse]
        sentences.append("Deleting the noisy rows made the count of Q3, in these runs, lower in "
                         f"{changes.count(-1)} of {len(worse)}, as the paper says, higher in "
                         f"{changes.count(1)}, and left it in {changes.count(0)}.")
    for intervention in ("delete", "denoise") if judged else ():
        shares = [j["after"][f"{intervention} share"] for j in judged]
        moved = sum(_as_asked(j, f"{intervention} first") for j in judged)
        sentences.append(f"Of the first N rows to {intervention} {draw.span(shares, '.0%')} were "
                         f"noisy; to {intervention} them moved the value as the complaint asked in "
                         f"{moved} of {len(judged)} rankings.")
    return " ".join(sentences)
