"""Ours: predicted against retrained. Single rows and groups on a convex model, halves on nets.

On a net one left-out row moves the query less than another seed does, so nothing is said about
single rows there. The linear datamodelling score (Park et al. 2023, TRAK) asks instead whether sums
of scores rank random subsets of the rows as retraining on them does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from pgrain.demo.paper import draw
from pgrain.demo.paper.records import Job

TITLE = "Ours: predicted against retrained"
HOW = "with the library; EK-FAC in a process of its own"
REPORTED = "Nothing: the paper judges rankings by AUC_R alone."
SUBSETS = 40
RETRAININGS = 2
"""Of each subset, by seeds of their own: the mean of both is the truth, and how far they agree says
how much there is to predict."""
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
GROUPS = 12
ALL_PAIRS = 10_000
METHODS = ("rain++", "rain++ best k", "rain", "gradient_dot", "ekfac", "rule", "loss",
           "self_influence")
PEERS = {"mlp": ("ekfac",)}
"""EK-FAC knows dense layers."""
NETS = {"mlp": (("hidden", (32,)), ("epochs", 12), ("batch_size", 128)),
        "cnn": (("channels", (8, 16, 16)), ("epochs", 12), ("batch_size", 128),
                ("learning_rate", 3e-3))}


def jobs(scale) -> list[Job]:
    rows = {"quick": 120, "small": 300, "full": 300}[scale.name]
    found = [scale.setting("adult", "logistic_regression", "flip", rate=0.3, rows=rows,
                           queries=("Q7",), pairs=ALL_PAIRS)]
    if scale.name != "quick":
        found += [scale.setting("fashion", name, "bright", rows=1200, queried=2000, seed=seed,
                                cg=scale.cg, options=options, sample=1200,
                                peers=PEERS.get(name, ()))
                  for name, options in NETS.items() for seed in range(scale.seeds)]
    return [Job("lds", setting.as_json()) for setting in found]


def measure(what: dict, say) -> dict:
    from pgrain.demo.paper.cases import load
    from pgrain.demo.paper.experiments import setting_of
    from pgrain.demo.paper.measure import direction, fit
    from pgrain.influence.projections import objective_projection
    setting = setting_of(what)
    case = load(setting)
    if setting.pairs == ALL_PAIRS:
        setting = _at_the_optimum(setting)
    fitted = fit(setting, case, say)
    query = case.query(setting.queries[0], setting.data)
    sign = direction(query, fitted.predicted, fitted.query_p)
    c = objective_projection(fitted.query_p, fitted.query_J,
                             sign * np.asarray(query.gradient(fitted.query_p), np.float64))

    def objective(p) -> float:
        return sign * query.relaxed(p)

    judged = (_convex if setting.pairs == ALL_PAIRS else _halves)(
        setting, fitted, query, sign, c, objective, say)
    return {"setting": what, "n_parameters": fitted.model.n_parameters, "n_rows": len(case.y),
            "n_wrong": int(case.wrong.sum()), "k": fitted.k,
            "gradient_norm": fitted.metrics["gradient_norm"], **judged}


def _at_the_optimum(setting):
    from dataclasses import replace
    return replace(setting, options=(("tol", 1e-9),))


def _retrained(setting, fitted, keep, seed: int, objective, **given) -> float:
    """The objective after training on the rows `keep` alone."""
    from pgrain.models.softmax import softmax
    from pgrain.models.training import predict_proba, train
    case = fitted.case
    trained = train(fitted.model, case.X[keep], case.y[keep], options=dict(setting.options),
                    seed=seed, **given)
    return objective(softmax(predict_proba(fitted.model, trained.theta, case.query_X)[0]))


def _agreement(predicted, true) -> dict:
    """Rank correlation, and the slope of true on predicted through the origin."""
    predicted, true = np.asarray(predicted, float), np.asarray(true, float)
    return {"spearman": round(float(spearmanr(predicted, true).statistic), 4),
            "slope": round(float(predicted @ true / (predicted @ predicted)), 4)}


def _convex(setting, fitted, query, sign, c, objective, say) -> dict:
    """Every row removed alone; then groups: at random, and from the top of the ranking."""
    from pgrain.influence.group_step import GroupStep, moved_probabilities
    n, values = len(fitted.case.y), fitted.spectrum.eigenvalues
    before = objective(fitted.query_p)
    singles = {"k = d": fitted.A @ (c / values),
               "automatic k": fitted.A[:, :fitted.k] @ (c / values)[:fitted.k]}
    true = []
    for z in range(n):
        if z % 20 == 0:
            say(f"row {z} of {n}")
        keep = np.arange(n) != z
        true.append(_retrained(setting, fitted, keep, 0, objective, theta0=fitted.theta) - before)
    found = {"pairs": len(values), "spread": float(np.std(true)),
             "singles": {name: _agreement(of, true) for name, of in singles.items()}}
    V = fitted.spectrum.vectors.astype(np.float64)
    step = GroupStep(fitted.J, fitted.logits, fitted.case.y, fitted.alpha, V.T @ fitted.theta)
    logits = np.log(fitted.query_p)
    rng, first_order = np.random.default_rng(setting.seed), singles["k = d"]
    worst_first = np.argsort(first_order)
    found["groups"], found["top"] = [], []
    for share in SHARES:
        size = max(round(share * n), 1)
        rows = []
        for group in [*(rng.choice(n, size, replace=False) for _ in range(GROUPS)),
                      worst_first[:size]]:
            keep = np.ones(n, bool)
            keep[group] = False
            after = _retrained(setting, fitted, keep, 0, objective, theta0=fitted.theta)
            step.edit(keep.astype(np.float32), fitted.case.y)
            moved = moved_probabilities(logits, fitted.query_J, step.solve().u)
            rows.append([after - before, float(first_order[group].sum()),
                         objective(moved) - before])
        *random, top = rows
        truth, first, stepped = np.array(random).T
        found["groups"].append([share, _agreement(first, truth), _agreement(stepped, truth)])
        found["top"].append([share, top[0], top[1], top[2]])
    return found


def _halves(setting, fitted, query, sign, c, objective, say) -> dict:
    """The linear datamodelling score of each method over random halves of the rows."""
    from pgrain.demo.paper.measure import cg_steps, dot_products, rule
    from pgrain.influence.baselines import losses
    from pgrain.influence.gradient import objective_gradient
    from pgrain.influence.scores import self_influence
    from pgrain.models.softmax import softmax
    n, k, values = len(fitted.case.y), fitted.k, fitted.spectrum.eigenvalues
    dq = sign * np.asarray(query.gradient(fitted.query_p), np.float64)
    gradient = objective_gradient(fitted.model, fitted.theta, fitted.case.query_X, dq)
    steps, _ = cg_steps(fitted.operator, gradient, setting.cg)
    changes = dot_products(fitted, [gradient, *steps[-1:]])
    by_k = np.cumsum(fitted.A.astype(np.float64) * (c / values), axis=1)
    # What removal does to q; suspicion alone says that removing suspects lowers it.
    removal = {"rain++": by_k[:, k - 1], "gradient_dot": changes[:, 0],
               "loss": -losses(fitted.logits, fitted.case.y),
               "self_influence": -self_influence(fitted.A[:, :k], 1 / values[:k]),
               "rule": -rule(softmax(fitted.logits), fitted.case.y, query.classes, sign)}
    if steps:
        removal["rain"] = changes[:, 1]
    elsewhere = 0.0
    for name in setting.peers:
        suspicion, seconds = _suspicion(name, setting, fitted, dq, say)
        removal[name], elsewhere = -suspicion, elsewhere + seconds
    rng = np.random.default_rng(1000 + setting.seed)
    kept, true = np.zeros((SUBSETS, n), bool), np.zeros((SUBSETS, RETRAININGS))
    for i in range(SUBSETS):
        kept[i, rng.permutation(n)[:n // 2]] = True
        say(f"subset {i + 1} of {SUBSETS}")
        true[i] = [_retrained(setting, fitted, kept[i], 1 + seed, objective)
                   for seed in range(RETRAININGS)]
    truth, removed = true.mean(axis=1), ~kept

    def score(one) -> float:
        return round(float(spearmanr(removed @ one, truth).statistic), 4)

    scores = {name: score(np.asarray(one, np.float64)) for name, one in removal.items()}
    every = [score(by_k[:, i]) for i in range(by_k.shape[1])]
    return {"scores": {**scores, "rain++ best k": max(every)}, "by_k": every,
            "two_retrainings": round(float(spearmanr(*true.T).statistic), 4),
            "rain_steps": len(steps), "elsewhere": elsewhere}


def _suspicion(name: str, setting, fitted, dq, say) -> tuple[np.ndarray, float]:
    """(N,) scores of a peer for the complaint: minus what it says that removal does to q; seconds
    of its process."""
    import tempfile

    from pgrain.demo.paper import peers
    from pgrain.demo.paper.cases import FILTERED
    from pgrain.demo.peers import environment
    interpreter = environment.python((peers.ASKED[name],), say)
    with tempfile.TemporaryDirectory() as folder:
        environment.export(Path(folder), fitted.case, fitted.model, fitted.theta, {"q": dq},
                           FILTERED[setting.data], dict(setting.options), setting.seed, held=False)
        say(name)
        peer = peers.ASKED[name]
        told, scores = environment.run(interpreter, Path(folder), peer)[peer]
    return scores["q"], told["cpu"]


def render(records, folder: Path, scale) -> str:
    return "\n\n".join(part for part in (
        *(_convex_text(record, scale) for record in records if "singles" in record),
        _halves_text([record for record in records if "scores" in record])) if part)


def _convex_text(record, scale) -> str:
    singles = "; ".join(f"{name}: rank correlation {a['spearman']:.3f}, slope {a['slope']:.2f}"
                        for name, a in record["singles"].items())
    top = {share: rest for share, *rest in record["top"]}
    rows = [[f"{share:.0%}", f"{first['spearman']:.3f}", f"{first['slope']:.2f}",
             f"{stepped['spearman']:.3f}", f"{stepped['slope']:.2f}",
             f"{top[share][1] / top[share][0]:.2f}", f"{top[share][2] / top[share][0]:.2f}"]
            for share, first, stepped in record["groups"]]
    return (draw.caption("One row at a time, and groups", [record])
            + f"**One row at a time.** logistic_regression on {record['n_rows']} rows of "
            f"{record['setting']['data'].upper()}, {record['n_wrong']} labels wrong, every row "
            f"left out once and the model trained again to its optimum. k = {record['pairs']} of "
            f"{record['n_parameters']} parameters, automatic k = {record['k']}. {singles}.\n\n"
            f"**Groups**, {GROUPS} random ones of each size (rank correlation and slope of the "
            "retrained change on the predicted one), and the top of the ranking (predicted over "
            "retrained change), all at k = d:\n\n"
            + draw.table(["rows", "first order: correlation", "slope", "group step: correlation",
                          "slope", "top, first order", "top, group step"], rows))


def _halves_text(records) -> str:
    methods = [m for m in METHODS if any(m in r["scores"] for r in records)]
    rows, ceilings = [], []
    for name in dict.fromkeys(r["setting"]["architecture"] for r in records):
        of = [r for r in records if r["setting"]["architecture"] == name]
        agreement = draw.mean([r["two_retrainings"] for r in of])
        ceilings.append(f"{ceiling(agreement):.2f} where r is {agreement:.2f} ({name})")
        rows.append([name, len(of), f"{of[0]['n_parameters']:,}",
                     "-".join(sorted({str(r["k"]) for r in of}, key=int)),
                     *(draw.interval([r["scores"][m] for r in of if m in r["scores"]])
                       for m in methods),
                     draw.interval([r["two_retrainings"] for r in of])])
    if not rows:
        return ""
    return (draw.caption("Linear datamodelling score", records)
            + f"**Linear datamodelling score**: {SUBSETS} random halves of "
            f"{records[0]['n_rows']:,} rows, {RETRAININGS} retrainings each, bright trousers, Q3; "
            "rank correlation of summed scores with the retrained query.\n\n"
            + draw.table(["model", "seeds", "parameters", "k", *methods, "two retrainings"], rows)
            + "\n\nMean over seeds ± half a 95 % interval. “Best k” knows the answer. “Two "
            "retrainings” is the rank correlation r of the same subsets trained with two seeds. "
            "Rain is its last step, "
            f"number {_steps(records)}. "
            "Scores are held against the mean of the two, so that even a perfect prediction would "
            f"reach about √(2r / (1 + r)) only: {', '.join(ceilings)}. Loss, self-influence and "
            "the rule are no predictions of a query; they stand for “removing suspects lowers it”. "
            + ("EK-FAC is kronfluence's, on dense layers alone."
               if any("ekfac" in r["scores"] for r in records) else "EK-FAC is not among them."))


def _steps(records) -> str:
    """What `steps[-1:]` was: conjugate gradient may end before the number asked for. Records of
    before do not say."""
    if all("rain_steps" in record for record in records):
        return draw.span([record["rain_steps"] for record in records])
    return f"{records[0]['setting']['cg']} or, where it stopped by itself, the one before"


def ceiling(agreement: float) -> float:
    """The correlation that a perfect prediction has with the mean of two measurements that agree so
    far (Spearman and Brown's formula)."""
    return float(np.sqrt(max(2 * agreement / (1 + agreement), 0)))
