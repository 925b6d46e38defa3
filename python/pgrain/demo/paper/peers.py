"""EK-FAC and cleanlab on the models of `baselines` and of figure 12, for the same complaints.

They run in an environment of their own (`demo/peers`). No section of its own: the columns stand in
the tables of `baselines` and `adult`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from pgrain.demo.paper.records import Job

ASKED = {"ekfac": "kronfluence", "cleanlab": "cleanlab"}


def jobs(scale) -> list[Job]:
    """Nets of dense layers alone: EK-FAC needs to know each layer."""
    if scale.name == "quick":
        return []
    settings = []
    for seed in range(scale.seeds):
        settings += [
            scale.setting("fashion", "mlp", "bright", queries=("Q3",), seed=seed),
            scale.setting("fashion", "mlp", "flip", rate=scale.rate, queries=("Q1", "Q3"),
                          seed=seed),
            scale.setting("adult", "logistic_regression", "flip", rate=scale.rate,
                          queries=("Q7",), seed=seed),
            scale.setting("adult", "logistic_regression", "male_private", rate=0.6,
                          queries=("Q4", "Q5", "Q6", "Q7"), seed=seed)]
    return [Job("peers", setting.as_json()) for setting in settings]


def measure(what: dict, say) -> dict:
    """AUC_R of each peer and query. No spectrum: they do without."""
    from pgrain.demo.paper.cases import FILTERED, load
    from pgrain.demo.paper.experiments import setting_of
    from pgrain.demo.paper.measure import build_model, direction, judge
    from pgrain.demo.peers import environment
    from pgrain.models.training import predict_proba, train
    interpreter = environment.python(tuple(ASKED.values()), say)
    setting = setting_of(what)
    case = load(setting)
    model, options = build_model(setting, case), dict(setting.options)
    say("train")
    theta = train(model, case.X, case.y, options=options, seed=setting.seed).theta
    p = predict_proba(model, theta, case.query_X)[1]
    complaints = {}
    for name in setting.queries:
        query = case.query(name, setting.data)
        complaints[name] = direction(query, p.argmax(axis=1), p) * np.asarray(query.gradient(p))
    found: dict = {name: {} for name in setting.queries}
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        say("out of fold")
        environment.export(Path(folder), case, model, theta, complaints, FILTERED[setting.data],
                           options, setting.seed)
        for column, peer in ASKED.items():
            say(peer)
            seconds[column], scores = environment.run(interpreter, Path(folder), peer)
            for name, values in scores.items():
                found[name][column] = judge(values, case.wrong)
    return {"n_parameters": model.n_parameters, "n_rows": len(case.y), "peers": found,
            "seconds": seconds}


def columns(records: list[dict]) -> dict[tuple, dict[str, dict[int, float]]]:
    """(data, architecture, error, rate, query) -> column -> seed -> AUC_R."""
    found: dict[tuple, dict[str, dict[int, float]]] = {}
    for record in records:
        if record["kind"] != "peers":
            continue
        s = record["setting"]
        for query, judged in record["peers"].items():
            key = (s["data"], s["architecture"], s["error"], s["rate"], query)
            for column, value in judged.items():
                found.setdefault(key, {}).setdefault(column, {})[s["seed"]] = value
    return found
