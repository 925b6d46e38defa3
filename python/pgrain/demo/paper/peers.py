"""EK-FAC and cleanlab on the models of `baselines` and of figure 12, for the same complaints.

They run in an environment of their own (`demo/peers`). No section of its own: the columns stand in
the tables of `baselines` and `adult`. cleanlab knows neither the model nor the complaint, only
probabilities out of fold, whose may be any model's. Where a row's own has not been asked they are,
of the same wrong labels, the mlp's on pictures and on the reviews those of a linear model over
words.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from pgrain.demo.paper.records import Job

ASKED = {"ekfac": "kronfluence", "cleanlab": "cleanlab"}


def jobs(scale) -> list[Job]:
    """cleanlab for every row of the tables, EK-FAC for nets of dense layers: it needs to know each
    layer."""
    if scale.name == "quick":
        return []
    settings = []
    for seed in range(scale.seeds):
        settings += [
            scale.setting("fashion", "mlp", "bright", queries=("Q3",), seed=seed),
            scale.setting("fashion", "mlp", "flip", rate=scale.rate, queries=("Q1", "Q3"),
                          seed=seed)]
        settings += [scale.setting("adult", "logistic_regression", "flip", rate=rate,
                                   queries=("Q7",), seed=seed) for rate in scale.rates]
        settings += [scale.setting("adult", "logistic_regression", "male_private", rate=rate,
                                   queries=("Q4", "Q5", "Q6", "Q7"), seed=seed)
                     for rate in (0.5, 0.6, 0.7)]
        flips = {"rate": scale.rate, "queries": ("Q1", "Q3"), "seed": seed}
        settings += [
            scale.setting("mnist", "mlp", "flip", peers=("cleanlab",), **flips),
            scale.setting("mnist", "logistic_regression", "flip", **flips),
            scale.setting("fashion", "logistic_regression", "bright", queries=("Q3",), seed=seed,
                          peers=("ekfac",))]
        settings += [scale.setting("reviews", "lstm", "flip", rate=rate, queries=("Q3",),
                                   seed=seed, peers=("cleanlab",))
                     for rate in scale.rates if not seed or rate == scale.rate]
    return [Job("peers", setting.as_json()) for setting in settings]


def measure(what: dict, say) -> dict:
    """AUC_R of each peer and query. No spectrum: they do without."""
    from pgrain.demo.paper.cases import FILTERED, load
    from pgrain.demo.paper.experiments import setting_of
    from pgrain.demo.paper.measure import build_model, direction, judge
    from pgrain.demo.peers import environment
    from pgrain.models.training import predict_proba, train
    setting = setting_of(what)
    asked = {column: ASKED[column] for column in setting.peers or ASKED}
    interpreter = environment.python(tuple(asked.values()), say)
    case = load(setting)
    model, options = build_model(setting, case), dict(setting.options)
    theta, complaints = None, {name: np.zeros(0) for name in setting.queries}
    if set(asked) != {"cleanlab"}:
        say("train")
        theta = train(model, case.X, case.y, options=options, seed=setting.seed).theta
        p = predict_proba(model, theta, case.query_X)[1]
        for name in setting.queries:
            query = case.query(name, setting.data)
            sign = direction(query, p.argmax(axis=1), p)
            complaints[name] = sign * np.asarray(query.gradient(p))
    found: dict = {name: {} for name in setting.queries}
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        say("export")
        environment.export(Path(folder), case, model, theta, complaints, FILTERED[setting.data],
                           options, setting.seed, held="cleanlab" in asked)
        say(", ".join(asked.values()))
        told = environment.run(interpreter, Path(folder), *asked.values())
        for column, peer in asked.items():
            seconds[column], scores = told[peer]
            for name, values in scores.items():
                found[name][column] = judge(values, case.wrong)
    return {"n_parameters": model.n_parameters, "n_rows": len(case.y), "peers": found,
            "seconds": seconds, "elsewhere": sum(one["cpu"] for one in seconds.values())}


def columns(records: list[dict]) -> dict[tuple, dict[str, dict[int, float]]]:
    """(data, architecture, error, rate, query) -> column -> seed -> AUC_R; the first of cleanlab's
    under no architecture, too. To be asked by `beside`."""
    found: dict[tuple, dict[str, dict[int, float]]] = {}
    for record in records:
        if record["kind"] != "peers":
            continue
        s = record["setting"]
        for query, judged in record["peers"].items():
            for column, value in judged.items():
                for architecture in (s["architecture"], *[None] * (column == "cleanlab")):
                    key = (s["data"], architecture, s["error"], s["rate"], query)
                    found.setdefault(key, {}).setdefault(column, {}).setdefault(s["seed"], value)
    return found


def beside(found: dict, data: str, architecture: str, error: str, rate: float, query: str
           ) -> dict[str, dict[int, float]]:
    """Column -> seed -> AUC_R of what `columns` found, for a row of a table."""
    return {**found.get((data, None, error, rate, query), {}),
            **found.get((data, architecture, error, rate, query), {})}
