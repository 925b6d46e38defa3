"""Figure 1 and table 4: latency of a complaint against model size, and what it is made of.

Measures for figures 6, 7 and 10 too (`online`, `offline`): one job a model. End to end through SQL;
the steps in process, where nothing but the arrays' shapes matters: fresh weights, random vectors.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pgrain.demo.paper import draw
from pgrain.demo.paper.records import Job

TITLE = "Figure 1 and table 4: latency of a complaint"
HOW = ("end to end through SQL; the steps of table 4, and “of it in process”, with the "
       "library alone")
REPORTED = ("On a V100, Q1: Rain 0.61 s (LogReg), 3.50 (CNN), 1.14 (feed-forward) with 2 "
            "iterations on MNIST, 27 to 71 s (WRN-10 to 26) with 4 on CIFAR-10; Rain++ with 20 "
            "eigenvalues 0.02, 0.16, 0.04 and 0.7 to 2.2 s, nearly all of it the gradient of q; "
            "with that gradient precomputed about 1 ms.")
TIMED = True
MODELS = {
    "logistic_regression": ("logistic_regression", {"tol": 1e-4}),
    "mlp_32": ("mlp", {"hidden": [32]}), "mlp_256": ("mlp", {"hidden": [256]}),
    "mlp_1024": ("mlp", {"hidden": [1024]}), "cnn": ("cnn", {}),
    "wide_resnet_10": ("wide_resnet_10", {})}
ITERATIONS = (1, 2, 4, 8)
K = (1, 5, 10, 20, 30)
PAIRS = 20


def jobs(scale) -> list[Job]:
    names = {"quick": ("mlp_32",), "full": tuple(MODELS)}.get(
        scale.name, tuple(n for n in MODELS if n != "wide_resnet_10"))
    rows = min(5_000, scale.rows["fashion"]) if scale.name != "full" else scale.rows["fashion"]
    return [Job("latency", {"model": name, "architecture": MODELS[name][0],
                            "options": MODELS[name][1], "data": "fashion", "rows": rows,
                            "queried": min(2_000, rows), "pairs": min(30, scale.pairs),
                            "sample": min(1_000, rows), "repeat": 7})
            for name in names]


def measure(what: dict, say) -> dict:
    """Milliseconds: `steps` in process, `sql` end to end (median and least of `repeat` calls),
    `offline` in seconds."""
    return {**_steps(what, say), **_through_sql(what, say),
            "n_rows": what["rows"], "n_query": what["queried"]}


def _steps(what: dict, say) -> dict:
    """Table 4's columns, and the optimised complaint, at k = PAIRS."""
    from pgrain.demo.datasets import fashion_mnist
    from pgrain.demo.timing import median
    from pgrain.influence.baselines import gradient_dot
    from pgrain.influence.gradient import objective_gradient
    from pgrain.influence.hvp import hessian_operator
    from pgrain.influence.projections import objective_projection
    from pgrain.influence.scores import deletion_changes, top_k
    from pgrain.models.registry import build
    from pgrain.models.training import predict_proba
    train, asked = fashion_mnist("train"), fashion_mnist("t10k")
    X, y = train.pixels[:what["rows"], ..., None], train.labels[:what["rows"]].astype(np.int32)
    Xq = asked.pixels[:what["queried"], ..., None]
    model = build(what["architecture"], 10, X.shape[1:], what["options"])
    # The gradient of a net of zeros would be 0, and nothing of it computed.
    rng = np.random.default_rng(0)
    theta = np.asarray(model.init(0)) + rng.normal(0, 1e-3, model.n_parameters).astype(np.float32)
    p = predict_proba(model, theta, Xq)[1]
    half = np.arange(len(Xq)) % 2 == 0
    dq = np.where(half[:, None], p[~half].sum(0), p[half].sum(0))          # of Q1
    sample = slice(what["sample"])
    operator = hessian_operator(model, theta, X[sample], y[sample], 1.0, n_total=len(y))
    V = rng.normal(size=(model.n_parameters, PAIRS)).astype(np.float32)
    V /= np.linalg.norm(V, axis=0)
    J_q = rng.normal(size=(len(Xq), 10, PAIRS)).astype(np.float32)
    A, w = rng.normal(size=(len(y), PAIRS)).astype(np.float32), np.ones(PAIRS)
    gradient = objective_gradient(model, theta, Xq, dq)
    found = {}

    def timed(name, work, repeat):
        say(name)
        found[name] = median(work, repeat)

    timed("gradient", lambda: objective_gradient(model, theta, Xq, dq), 3)
    timed("cg", lambda: np.asarray(operator(gradient)), 3)
    timed("scores", lambda: gradient_dot(model, theta, X, y, gradient), 2)
    timed("ranking", lambda: top_k(-deletion_changes(A, w, V.T @ gradient), 100), 9)
    for k in K:
        if k <= PAIRS:
            # As stored: contiguous for each k.
            J, B = np.ascontiguousarray(J_q[..., :k]), np.ascontiguousarray(A[:, :k])
            timed(f"optimised {k}", lambda J=J, B=B, k=k: top_k(-deletion_changes(
                B, w[:k], objective_projection(p, J, dq)), 100), 9)
    return {"n_parameters": model.n_parameters, "steps": found}


def _through_sql(what: dict, say) -> dict:
    from pgrain.demo import shop
    from pgrain.demo.timing import private_server, times
    found: dict[str, list[float]] = {}
    offline = {}
    name = what["model"]
    unseen = [f"(SELECT * FROM unseen WHERE id % 2 = {rest})" for rest in (0, 1)]
    with private_server("paper") as (_, _, connection):
        shop.fill(connection, what["rows"], what["queried"])
        spectrum = {"sample": what["sample"], "pairs": what["pairs"]}
        offline |= shop.model(connection, name, what["architecture"], what["options"], say,
                              spectrum)

        def timed(title, query, repeat, warm=1, **options):
            say(title)
            taken = times(lambda: shop.complain(connection, query, "n too high", **options),
                          repeat, warm)
            found[title] = [float(np.median(taken)), min(taken)]

        attached, repeat = shop.join(name), what["repeat"]
        timed("attached", attached, repeat, 2)
        for k in K:
            if k <= what["pairs"]:
                timed(f"k {k}", attached, repeat, k=k)
        timed("relabel", attached, repeat, intervention="relabel")
        timed("not attached, first", shop.join(name, *unseen), 1, 0)
        timed("not attached, again", shop.join(name, *unseen), repeat)
        for n in ITERATIONS:
            timed(f"rain {n}", attached, repeat, method="rain", k=n)
        # Another seed is another operator: nothing of the spectrum before is used again.
        for i, pairs in enumerate((5, 10, 20), 1):
            if pairs < what["pairs"]:
                say(f"precompute {pairs}")
                given = json.dumps({**spectrum, "pairs": pairs, "seed": i})
                offline[f"precompute {pairs}"] = times(lambda given=given: connection.execute(
                    "CALL pgrain.precompute(%s, %s)", [name, given]), 1, 0)[0] / 1000
    return {"sql": found, "offline": offline, "rain_calls": repeat}


def line(record: dict) -> tuple[float, float]:
    """Of Rain through SQL, by least squares over its iterations: ms an iteration, and ms that do
    not depend on them."""
    slope, start = np.polyfit(ITERATIONS, [record["sql"][f"rain {n}"][0] for n in ITERATIONS], 1)
    return float(slope), float(start)


def _beside(records) -> str:
    """Rain through SQL beside its steps in process, iterations and the rest apart."""
    once, twice, rest = [], [], []
    for record in records:
        step, (slope, start) = record["steps"], line(record)
        fixed = step["gradient"] + step["scores"]
        once.append(record["sql"]["rain 4"][0] / (fixed + 4 * step["cg"]))
        twice.append(slope / step["cg"])
        rest.append(f"{record['setting']['model']} {start:,.0f} beside {fixed:,.0f}")
    return (f" Rain through SQL takes {draw.span(once, '.1f')} times the sum of its steps. Two is "
            "expected: it solves and scores twice, for the objective, which ranks, and for the "
            "complained cell, whose change is the column `effect`. A straight line through its "
            f"times of {draw.span(ITERATIONS)} iterations (figure 6) has {draw.span(twice, '.1f')} "
            "times the Hessian product of the table an iteration. What it has at none, in ms, "
            f"beside gradient and scores once: {'; '.join(rest)}. What is beyond twice that are "
            "round trips, which Rain++ has too, and making the operator for each solution; they "
            "are not measured apart.")


def render(records, folder: Path, scale) -> str:
    if not records:
        return draw.table([], [])
    records = sorted(records, key=lambda r: r["n_parameters"])
    d = [r["n_parameters"] for r in records]
    draw.lines(folder / "latency.png", [
        ("Rain, 4 iterations, SQL", d, [r["sql"]["rain 4"][0] for r in records]),
        ("Rain++, not attached, SQL, first", d,
         [r["sql"]["not attached, first"][0] for r in records]),
        ("Rain++, attached, SQL", d, [r["sql"]["attached"][0] for r in records]),
        ("Rain++, attached, in process", d,
         [r["steps"][f"optimised {PAIRS}"] for r in records])],
        x="parameters", y="ms a complaint", log_x=True, log_y=True, points=True)
    rows, steps = [], []
    for r in records:
        sql, step = r["sql"], r["steps"]
        fast = sql["attached"][0]
        rows.append([r["setting"]["model"], f"{r['n_parameters']:,}",
                     *(f"{sql[name][0]:,.0f}" for name in (
                         "rain 2", "rain 4", "not attached, first", "not attached, again")),
                     f"{fast:,.1f}", f"{step[f'optimised {PAIRS}']:.2f}",
                     f"{sql['rain 4'][0] / fast:,.0f} ×"])
        rain = step["gradient"] + 4 * step["cg"] + step["scores"]
        plain = step["gradient"] + step["ranking"]
        steps.append([r["setting"]["model"], *(f"{v:,.1f}" for v in (
            step["gradient"], step["cg"], step["scores"], rain, plain)),
            f"{step[f'optimised {PAIRS}']:.2f}",
            f"{rain / step[f'optimised {PAIRS}']:,.0f} ×"])
    some = records[0]["setting"]
    slowest = max(records, key=lambda r: r["sql"]["rain 4"][0])["setting"]["model"]
    ratios = [(r["steps"]["gradient"] + 4 * r["steps"]["cg"] + r["steps"]["scores"])
              / (r["steps"]["gradient"] + r["steps"]["ranking"]) for r in records]
    return (draw.image("latency.png", "The complaint of Q1 about the join of the halves of the "
                       f"inference table, {some['queried']:,} rows", records)
            + f"End to end through SQL, ms (the Hessian is that of {some['sample']:,} rows; "
            f"medians of {some['repeat']} calls, of Rain "
            f"{draw.span([r.get('rain_calls', 2) for r in records])}; the first of Rain++ not "
            "attached is one call):\n\n"
            + draw.table(["model", "parameters", "Rain, 2 iterations", "4 iterations",
                          "Rain++, not attached, first", "remembered", "attached",
                          "of it in process", "Rain 4 / attached"], rows)
            + "\n\nTable 4, in process, ms; Rain is the sum with 4 iterations, Rain++ that of the "
            "gradient, Vᵀ∇q and the ranking; optimised: the queried rows' Jacobians are stored "
            f"(section 5.1), k = {PAIRS}. The steps of this table and of figure 7 are timed on "
            "untrained weights with random stored Jacobians, random projections and eigenvectors: "
            "only their shapes matter to the time:\n\n"
            + draw.table(["model", "gradient of q", "a CG iteration", "Rain scores", "Rain",
                          "Rain++", "optimised", "Rain / optimised"], steps)
            + "\n\nRain++'s online time does not depend on the model once the rows are attached, "
            "as in the paper; Rain's grows with the work of a gradient "
            f"({slowest} is the slowest). Without stored Jacobians Rain++ is "
            f"{draw.span(ratios, '.1f')} times quicker than Rain with 4 iterations, in the paper "
            f"20 to 40 times: here the gradient of q is over {some['queried']:,} rows and the "
            f"Hessian has {some['sample']:,}; the paper's has 60 000."
            + (" That, smaller models and no GPU are why the last column has no 70 000."
               if scale.name == "small" else "")
            + _beside(records) + " What is left of Rain++ through SQL is PostgreSQL's and "
            "the round trips, which the paper, a library, does not have. `first` computes the "
            "predictions and the Jacobians of values that nobody has seen, with compilation; "
            "without influence the query itself would have to predict them too.")
