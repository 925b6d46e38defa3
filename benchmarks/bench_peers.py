"""Other public implementations on the same model, data and complaint, in an environment of their
own (`pgrain.demo.peers`). The case is the bright trousers; the complaint says that there are too
few trousers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from bench_common import Bench
from bench_floors import computing, forward, reading

from pgrain.demo.paper.cases import TROUSER, Setting, load
from pgrain.demo.paper.measure import dot_products, fit, judge, rule
from pgrain.demo.peers import environment
from pgrain.demo.timing import median, say
from pgrain.influence.baselines import losses
from pgrain.influence.gradient import objective_gradient
from pgrain.influence.projections import objective_projection
from pgrain.influence.scores import deletion_changes
from pgrain.models.softmax import softmax

SECTION = "Peers: bright trousers, mlp of 256"


def measure(bench: Bench, rows: int | None = None, queried: int = 2_000) -> None:
    say(SECTION)
    setting = Setting("fashion", "mlp", "bright", rows=rows or bench.rows, queries=("Q3",),
                      sample=10_000, options=(("hidden", (256,)),))
    case = load(setting)
    case = type(case)(**{**case.__dict__, "query_X": case.query_X[:queried],
                         "query_y": case.query_y[:queried]})
    fitted = fit(setting, case)
    floors = _floors(bench, fitted)
    dq = _ours(bench, setting, fitted, floors)
    with tempfile.TemporaryDirectory() as folder:
        environment.export(Path(folder), fitted.case, fitted.model, fitted.theta, {"Q3": dq},
                           TROUSER, dict(setting.options))
        for name, what in environment.NAMES.items():
            try:
                found, scores = environment.run(environment.python((name,), say), Path(folder),
                                                name)[name]
            except environment.PeerFailed as error:
                bench.skip(str(error))
                continue
            _add(bench, f"{what}, {found['version']}", found["complaint"], found["prepare"],
                 scores["Q3"], case.wrong, floors[name], found.get("note", ""))


def _floors(bench: Bench, fitted) -> dict[str, dict]:
    """The least that a complaint takes each, with what it prepared."""
    rows, queried = len(fitted.case.y), len(fitted.query_p)
    a_row = forward(fitted.model)
    products = computing(bench, 2 * a_row * (queried + rows))
    products["floor_is"] += " (the complaint's gradient, and its product with every row's)"
    last = computing(bench, a_row * rows)
    last["floor_is"] += " (a pass of every row: the last layer's gradients)"

    def read(size: int, what: str) -> dict:
        return {"floor": reading(bench, size) / 1000,
                "floor_is": f"{size / 1e6:.3g} MB of {what}, read once"}

    pairs = 4 * fitted.k * (rows + queried * fitted.query_p.shape[1])
    return {"pgrain": read(pairs, "projections, the queried rows' too"),
            "gradient_dot": products, "kronfluence": products, "pydvl": products, "captum": last,
            "dattri": read(4 * 512 * rows, "random projections"),
            "cleanlab": read(4 * rows * fitted.query_p.shape[1], "probabilities"),
            "prepared": {"floor_is": "none: nothing is computed for a complaint"}}


def _add(bench: Bench, what: str, complaint: float, prepare: float, scores, wrong, floor: dict,
         note="") -> None:
    bench.add(SECTION, what, complaint, "s a complaint", **floor,
              note=f"{prepare:.1f} s of preparation, AUC_R {judge(scores, wrong):.3f}"
                   + (f"; {note}" if note else ""))


def _ours(bench: Bench, setting: Setting, fitted, floors: dict) -> np.ndarray:
    """Our own rankings; dq/dp of the complaint."""
    query = fitted.case.query("Q3", "fashion")
    dq = -np.asarray(query.gradient(fitted.query_p), np.float64)
    w = 1 / fitted.spectrum.eigenvalues[:fitted.k]

    def complaint():
        c = objective_projection(fitted.query_p, fitted.query_J, dq)[:fitted.k]
        return -deletion_changes(fitted.A[:, :fitted.k], w, c)

    prepare = sum(fitted.seconds[name] for name in fitted.seconds if name != "train")
    wrong = fitted.case.wrong
    _add(bench, f"pgrain, Rain++, k = {fitted.k} (in process, no database)",
         median(complaint, 9) / 1000, prepare, complaint(), wrong, floors["pgrain"])

    def dot():
        return -dot_products(fitted, [objective_gradient(
            fitted.model, fitted.theta, fitted.case.query_X, dq)])[:, 0]

    _add(bench, "pgrain, gradient_dot", median(dot, 3) / 1000, 0, dot(), wrong,
         floors["gradient_dot"])
    p = softmax(fitted.logits)
    _add(bench, "the rule: not labelled trouser, by p(trouser)", 0, 0,
         rule(p, fitted.case.y, query.classes, -1), wrong, floors["prepared"])
    _add(bench, "loss", 0, 0, losses(fitted.logits, fitted.case.y), wrong, floors["prepared"])
    return dq
