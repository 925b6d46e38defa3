"""Figure 11: complaints about single predictions, relevant and adversarial ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pgrain.demo.paper import draw
from pgrain.demo.paper.records import Job

TITLE = "Figure 11: relevant and adversarial point complaints"
HOW = "with the library"
REPORTED = ("CIFAR-10, 40 %: point complaints about predictions that the error changed have a peak "
            "AUC_R of 86 %; quality does not depend on the number of points, and holds while "
            "adversarial ones weigh at most five times as much as relevant ones.")
WEIGHTS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
COUNTS = (1, 5, 10, 20, 40)


def jobs(scale) -> list[Job]:
    settings = [scale.setting(data, "mlp", "flip", rate=scale.rate, seed=seed, queries=())
                for data in (("mnist", "fashion") if scale.name != "quick" else ("mnist",))
                for seed in range(scale.seeds)]
    settings += [scale.setting(scale.colour, a, "flip", rate=scale.rate, queries=())
                 for a in scale.wide_resnets[:1]]
    return [Job("points", setting.as_json()) for setting in settings]


def measure(what: dict, say) -> dict:
    """Peak AUC_R of single points, and of sums of points with weights."""
    from pgrain.demo.paper.cases import FLIPS, load
    from pgrain.demo.paper.experiments import setting_of
    from pgrain.demo.paper.measure import clean_predictions, fit
    setting = setting_of(what)
    case = load(setting)
    fitted = fit(setting, case, say)
    clean = clean_predictions(setting)
    source, target = FLIPS[setting.data]
    predicted, after = fitted.predicted, clean.argmax(axis=1)
    relevant = np.flatnonzero((case.query_y == source) & (predicted != source)
                              & (after == source))
    adversarial = np.flatnonzero((case.query_y == target) & (predicted == target))
    changed = np.flatnonzero((predicted != after) & (after == case.query_y))
    rng = np.random.default_rng(setting.seed)
    alone = [_peak(fitted, [int(i)], int(after[i])) for i in
             rng.permutation(changed)[:20]]
    weighted = []
    for count in COUNTS:
        if count > min(len(relevant), len(adversarial)):
            break
        mine = rng.choice(relevant, count, replace=False)
        others = rng.choice(adversarial, count, replace=False)
        weighted.append([count, [_peak(fitted, mine, source, others, target, weight)
                                 for weight in WEIGHTS]])
    return {"setting": what, "n_parameters": fitted.model.n_parameters, "n_rows": len(case.y),
            "n_wrong": int(case.wrong.sum()), "k": fitted.k, "alone": alone,
            "n_changed": len(changed), "n_relevant": len(relevant), "weighted": weighted}


def _peak(fitted, rows, label: int, others=(), other_label: int = 0, weight: float = 0.0) -> float:
    """Peak over k for: each of `rows` should be `label`, and, with `weight`, each of `others`
    `other_label`. q is minus the weighted sum of those probabilities."""
    from pgrain.demo.paper.measure import by_k
    from pgrain.influence.projections import objective_projection
    dq = np.zeros_like(fitted.query_p)
    dq[list(rows), label] -= 1
    dq[list(others), other_label] -= weight
    c = objective_projection(fitted.query_p, fitted.query_J, dq)
    return max(by_k(fitted.A, fitted.spectrum.eigenvalues, c, fitted.case.wrong))


_SMALL = (" As in the paper, their number matters less than their weight. **The paper's tolerance "
          "of 5 is not reproduced on MNIST**: there quality falls from weight 1 or 2 on, and is "
          "about a half at 5; "
          "why is not known. On Fashion-MNIST 2 is harmless with 5 or more points; at 5 the runs "
          "fall into two kinds, near 1 and below a third, so that the means describe neither. From "
          "20 on all means are below a third.")


def _tolerance(records) -> str:
    """The paper's weight of 5, and the first beyond it, in numbers of runs."""
    parts = []
    for data in dict.fromkeys(record["setting"]["data"] for record in records):
        for weight in (5.0, 10.0):
            at = WEIGHTS.index(weight)
            of = [values[at] for record in records if record["setting"]["data"] == data
                  for _, values in record["weighted"]]
            if of:
                parts.append(f"{data}, weight {weight:g}: {sum(v >= 0.9 for v in of)} of {len(of)}")
    return f"Runs with at least 0.9: {'; '.join(parts)}." if parts else ""


def render(records, folder: Path, scale) -> str:
    rows, lines, single = [], [], []
    for data in dict.fromkeys(record["setting"]["data"] for record in records):
        some = [record for record in records if record["setting"]["data"] == data]
        every = [value for record in some for value in record["alone"]]
        single.append([data, len(some), sum(r["n_changed"] for r in some), len(every),
                       draw.interval([float(np.median(r["alone"])) for r in some]),
                       draw.interval([float(np.mean(r["alone"])) for r in some]),
                       f"{np.mean(np.array(every) >= 0.86):.0%}"])
        for count in COUNTS:
            values = np.array([v for r in some for n, v in r["weighted"] if n == count])
            if len(values):
                lines.append((f"{data}, {count} + {count} points", [max(w, 0.5) for w in WEIGHTS],
                              values.mean(axis=0).tolist()))
                rows.append([data, count, len(values),
                             *(draw.interval(of.tolist(), 2) for of in values.T)])
    draw.lines(folder / "points.png", lines, x="weight of adversarial points (0 drawn at 0.5)",
               y="peak AUC_R", log_x=True, outside=True)
    return (draw.image("points.png", f"Flips of {scale.rate:.0%}; as many relevant as adversarial "
                                     "points", records)
            + draw.table(["data", "points", "seeds", *(f"weight {w:g}" for w in WEIGHTS)], rows)
            + "\n\nRelevant: the true class is the flipped one, the model is wrong, the model on "
            "clean rows is right. Adversarial: rows of the class that the flips went to, predicted "
            "as such; the complaint that they should stay so argues for the wrong labels. Mean "
            "over seeds ± half a 95 % interval; a complaint has AUC_R between 0 and 1, which wide "
            f"intervals do not know. {_tolerance(records)}{_SMALL if scale.name == 'small' else ''}"
            "\n\nSingle points, of those where the error changed a right prediction (section "
            "6.8.1; the paper asks that the model is wrong and that the repair would help, ours "
            "that the clean model is right too):\n\n"
            + draw.table(["data", "seeds", "such points", "tried", "median peak AUC_R", "mean",
                          "of them at least 0.86"], single))
