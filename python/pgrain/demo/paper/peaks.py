"""Figure 4: peak AUC_R of Rain against Rain++, and what the automatic k loses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pgrain.demo import feature_errors
from pgrain.demo.paper import adult, baselines, draw, iterations
from pgrain.demo.paper.experiments import jobs_of
from pgrain.demo.paper.magnitude import relative_error
from pgrain.demo.paper.records import Job

TITLE = "Figure 4: peak AUC_R, Rain against Rain++"
HOW = "with the library"
REPORTED = "Nearly all points lie near y = x, and are spread over [0, 1]."
ERRORS = ("flip", "male_private", *feature_errors.ERRORS)
"""Those of tables 2 and 3; two flips at once have a table of their own."""
NOISE = ("gaussian_blur", "salt_and_pepper")
WIDE = (0.7, 0.8, 0.9, 1.0)
"""Rates of class-systematic noise for wide residual networks."""
SYSTEMATIC = tuple(n / 10 for n in range(1, 11))
"""Rates of noise of one class for all other models (table 3)."""
SOME = (0.1, 0.2, 0.3, 0.4, 0.7, 1.0)
FEW = (0.4, 1.0)
"""Rates where there is no time for all of them."""
DELETED = (0.4, 0.7, 1.0)
"""Rates where the rows with noise of one class are deleted and the mlp trained anew."""
ANOTHER = 1_000
"""Added to the seed where the same rows are trained on once more."""


def noise(scale, data: str, architecture: str, systematic, random) -> list:
    """Feature errors of one class and of all rows, at these rates."""
    return [scale.setting(data, architecture, error, rate=rate, queries=("Q1", "Q3"), cg=scale.cg,
                          systematic=whom)
            for error in NOISE for whom, rates in ((True, systematic), (False, random))
            for rate in rates]


def jobs(scale):
    found, rates = [], scale.rates
    systematic = rates if scale.name == "quick" else SYSTEMATIC
    for data in ("mnist", "fashion"):
        found += [scale.flips(data, "mlp", rate, seed)
                  for rate in rates for seed in scale.seeds_at("mlp", rate)]
        found += noise(scale, data, "mlp", systematic, rates)
    if scale.name != "quick":
        found += [scale.flips("fashion", "logistic_regression", rate) for rate in rates]
        few = (systematic, rates) if scale.name == "full" else (FEW, FEW[:1])
        found += [scale.flips("fashion", "cnn", rate) for rate in rates]
        for data in ("mnist", "fashion"):
            found += noise(scale, data, "cnn", *few)
        found += noise(scale, "mnist", "logistic_regression",
                       SYSTEMATIC if scale.name == "full" else SOME, rates)
        found += noise(scale, "fashion", "logistic_regression", *few)
    for architecture in scale.wide_resnets:
        found += [scale.flips(scale.colour, architecture, rate) for rate in rates]
        found += noise(scale, scale.colour, architecture, WIDE, rates)
    # Those of figures 3 and 12 and of the baselines; Q7 of ADULT is Q3 divided by the rows.
    others = [job for module in (iterations, baselines, adult) for job in module.jobs(scale)
              if job.kind == "setting" and job.what["error"] in ERRORS and job.what["cg"]]
    trained = [] if scale.name == "quick" else [
        Job("peaks", replace(one, cg=0, pairs=1, sample=1, baselines=False).as_json())
        for data in ("mnist", "fashion") for one in noise(scale, data, "mlp", DELETED, ())]
    return list({job.key: job for job in [*jobs_of(found), *others, *trained]}.values())


def measure(what: dict, say) -> dict:
    """What deleting the wrong rows does to each query, by training without them, and what another
    seed does on all rows. Expectations, of which influence speaks, and values."""
    from pgrain.demo.paper.cases import load
    from pgrain.demo.paper.experiments import setting_of
    from pgrain.demo.paper.measure import build_model
    from pgrain.models.training import predict_proba, train
    setting = setting_of(what)
    case = load(setting)
    model = build_model(setting, case)

    def asked(rows: np.ndarray, seed: int) -> dict:
        theta = train(model, case.X[rows], case.y[rows], options=dict(setting.options),
                      seed=seed).theta
        p = predict_proba(model, theta, case.query_X)[1]
        queries = [case.query(name, setting.data) for name in setting.queries]
        return {q.name: [q.relaxed(p), q.value(p.argmax(axis=1))] for q in queries}

    say("without the wrong rows")
    found = {"deleted": asked(~case.wrong, setting.seed)}
    say("another seed")
    found["again"] = asked(np.ones(len(case.y), bool), setting.seed + ANOTHER)
    return {"n_parameters": model.n_parameters, "n_rows": len(case.y),
            "n_wrong": int(case.wrong.sum()), "n_query": len(case.query_y), **found}


def name_of(setting: dict) -> str:
    """Data, model, error, and whom the error hits."""
    error = setting["error"]
    if error in feature_errors.ERRORS:
        error += ", one class" if setting["systematic"] else ", all rows"
    return f"{setting['data']}, {setting['architecture']}, {error}"


def points(records) -> dict[tuple, list[dict]]:
    """(name, rate, query) -> a dict a seed: peaks, the automatic k, chance."""
    found: dict[tuple, list[dict]] = {}
    for record in records:
        setting = record["setting"]
        for query, judged in record.get("queries", {}).items():
            asked = ("Q7",) if setting["data"] == "adult" else ("Q1", "Q3")
            if query not in asked or not judged.get("rain") or "rain++" not in judged:
                continue
            found.setdefault((name_of(setting), setting["rate"], query), []).append({
                "rain": max(judged["rain"]), "rain++": max(judged["rain++"]),
                "automatic": judged["rain++"][record["k"] - 1], "chance": record["chance"],
                "against": against(judged), "judged": judged, "seed": setting["seed"]})
    return found


def against(judged: dict) -> bool:
    """Whether the complaint asks for more of what the error did to the value, seen from the clean
    model's: "too high" where the error lowered it, or "too low" where it raised it."""
    moved = judged["value"] - judged["clean"]
    return moved != 0 and (moved > 0) != (judged["complaint"] == "too high")


def is_low(seeds: list[dict]) -> bool:
    """Whether a point finds no more than a random order does."""
    return _mean(seeds, "rain++") <= _mean(seeds, "chance") + 0.05


LITTLE = 0.05
"""Of the clean model's value: what an error moves by less is small, as in figure 13."""


def _turned(found: dict[tuple, list[dict]]) -> str:
    """Why points lie at 0."""
    low = [s for s in found.values() if is_low(s)]
    turned = [s for s in low if any(one["against"] for one in s)]
    others = [s for s in low if s not in turned]
    little = [s for s in others if draw.mean([relative_error(one["judged"]) for one in s]) < LITTLE]
    text = (f" In {len(turned)} of those {len(low)} points the complaint, which goes by the true "
            "labels, asks (on some seed) for more of what the error did, seen from the clean "
            f"model's value; in {len(little)} others the error moved the query by less than "
            f"{LITTLE:.0%} of that value, so that it hardly shows; "
            f"{len(others) - len(little)} have neither (see below).")
    example = found.get(("mnist, mlp, flip", 0.1, "Q3"))
    if example and any(one["against"] for one in example):
        counts = [[one["judged"][what] for one in example] for what in ("value", "clean")]
        text += (f" On mnist, mlp, flip of 10 %, Q3 counts {draw.span(counts[0])} of "
                 f"{example[0]['judged']['truth']:g} true ones, while the clean model has "
                 f"{draw.span(counts[1])}: the error lowered a count that is too high with and "
                 "without it, so that “too high” argues for the wrong labels, and AUC_R is "
                 f"{_mean(example, 'rain++'):.2f}.")
    return text


def deletions(found: dict[tuple, list[dict]], records) -> dict[tuple, int]:
    """(name, rate, query) -> what deleting all wrong rows and training anew did to the query's
    expectation: +1 what the complaint asks for, -1 the opposite, 0 no more than another seed does
    on all rows."""
    did = {}
    for record in (r for r in records if "deleted" in r):
        setting = record["setting"]
        for query, (after, _) in record["deleted"].items():
            key = name_of(setting), setting["rate"], query
            before = [one["judged"] for one in found.get(key, []) if one["seed"] == setting["seed"]]
            if not before:
                continue
            moved = after - before[0]["relaxed"]
            again = record["again"][query][0]
            asked = moved < 0 if before[0]["complaint"] == "too high" else moved > 0
            did[key] = (0 if abs(moved) <= abs(again - before[0]["relaxed"]) else
                        1 if asked else -1)
    return did


def _deleted(found: dict[tuple, list[dict]], records) -> str:
    """Section 6.9, for every point that was trained anew: whether deletion is the repair at all."""
    did = deletions(found, records)
    if not did:
        return ""
    rows = []
    for error in dict.fromkeys(name.split(", ", 2)[2] for name, *_ in did):
        for low in (False, True):
            of = [moved for key, moved in did.items()
                  if key[0].split(", ", 2)[2] == error and is_low(found[key]) == low]
            if of:
                rows.append([error, "at chance or below" if low else "above chance", len(of),
                             *(of.count(moved) for moved in (1, -1, 0))])
    rates = sorted({rate for _, rate, _ in did})
    return ("\n\nDoes it help at all to delete the wrong rows? At "
            f"{', '.join(f'{100 * rate:.0f}' for rate in rates)} % the mlp was trained anew "
            "without those of one class, all of them, as the truth knows them. What that did to "
            "the query's expectation, beside what another seed does on all rows:\n\n"
            + draw.table(["error", "points", "trained anew", "as the complaint asks",
                          "the opposite", "no more than another seed"], rows)
            + "\n\nWhere deletion does not do what the complaint asks, a ranking by what deletion "
            "does must not begin with those rows: as in section 6.9, it is the intervention that "
            "is wrong, and not the estimate. At 100 % none of the class is left to learn from.")


def _last(records) -> str:
    """How often Rain's best step is its last, so that more of them might be better."""
    parts, far = [], []
    for record in records:
        for query, judged in record.get("queries", {}).items():
            if query not in ("Q1", "Q3", "Q7") or not judged.get("rain"):
                continue
            curve = judged["rain"]
            if curve.index(max(curve)) == len(curve) - 1 > 0:
                parts.append(record["setting"]["error"])
            far.append(len(curve))
    if not far:
        return ""
    text = "; ".join(f"{error} {parts.count(error)}" for error in dict.fromkeys(parts))
    return (f"\n\nRain was run for {draw.span(far)} iterations; its best one is its last in "
            f"{len(parts)} of {len(far)} complaints" + (f" ({text})" if parts else "")
            + ", where its peak may lie beyond.")


def _mean(seeds: list[dict], what: str) -> float:
    return draw.mean([one[what] for one in seeds])


def render(records, folder: Path, scale) -> str:
    found = points(records)
    names = list(dict.fromkeys(name for name, _, _ in found))
    every = list(found.values())
    draw.scatter(folder / "peaks.png", [
        [(name, [_mean(seeds, "rain") for (n, *_), seeds in found.items() if n == name],
          [_mean(seeds, what) for (n, *_), seeds in found.items() if n == name])
         for name in names] for what in ("rain++", "automatic")],
        x="Rain, peak AUC_R", y=["Rain++, peak AUC_R", "Rain++, AUC_R at the automatic k"],
        parts=True)
    rows, several = [], []
    for name in names:
        for query in dict.fromkeys(q for n, _, q in found if n == name):
            of = {rate: seeds for (n, rate, q), seeds in found.items()
                  if (n, q) == (name, query)}
            rows.append([name, query, ", ".join(f"{100 * rate:.0f}" for rate in sorted(of)) + " %",
                         draw.span(map(len, of.values()), to="-"),
                         *(draw.span([_mean(seeds, what) for seeds in of.values()], ".2f", "-")
                           for what in ("rain", "rain++", "automatic", "chance"))])
            several += [[name, query, f"{rate:.0%}", len(seeds),
                         *(draw.interval([one[what] for one in seeds])
                           for what in ("rain", "rain++", "automatic")),
                         f"{_mean(seeds, 'chance'):.3f}"]
                        for rate, seeds in of.items() if len(seeds) > 1]
    text = (draw.image("peaks.png", "Each point one query on one model with one error at one rate "
                                    "(mean over its seeds)", records)
            + draw.table(["data, model, error", "query", "rates", "seeds", "peak of Rain",
                          "peak of Rain++", "automatic k", "chance"], rows)
            + "\n\nFrom the least to the largest over the rates. Chance is the AUC_R of a random "
            "order, the share of wrong rows. The rates are those that were run. ")
    if not every:
        return text
    close = sum(abs(_mean(s, "rain") - _mean(s, "rain++")) <= 0.1 for s in every)
    worse = sum(_mean(s, "rain++") < _mean(s, "rain") - 0.1 for s in every)
    lost = sorted(_mean(s, "rain++") - _mean(s, "automatic") for s in every)
    low = sum(_mean(s, "rain++") <= _mean(s, "chance") + 0.05 for s in every)
    text += (f"{close} of {len(every)} points lie within 0.1 of y = x; in {worse} Rain is better "
             f"by more. The automatic k costs {lost[len(lost) // 2]:.3f} in the median and "
             f"{lost[-1]:.3f} at worst against the best k, which nobody knows beforehand. The "
             f"paper shows peaks only. {low} points are no more than 0.05 above chance, or below "
             "it: in the paper too they are spread over [0, 1]." + _turned(found))
    bullets = []
    for error in dict.fromkeys(name.split(", ", 2)[2] for name in names):
        above = [_mean(seeds, "rain++") - _mean(seeds, "chance")
                 for (name, _, _), seeds in found.items() if name.split(", ", 2)[2] == error]
        bullets.append(f"- {error}: the peak of Rain++ against chance: {draw.span(above, '+.2f')}; "
                       f"more than 0.05 above it in {sum(a > 0.05 for a in above)} of "
                       f"{len(above)} points")
    text += "\n\n" + "\n".join(bullets)
    text += _deleted(found, records) + _last(records)
    if several:
        text += ("\n\nWith several seeds, mean ± half a 95 % interval:\n\n"
                 + draw.table(["data, model, error", "query", "rate", "seeds", "peak of Rain",
                               "peak of Rain++", "automatic k", "chance"], several))
    return text
