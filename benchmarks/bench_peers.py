"""Other public implementations on the same model, data and complaint, in an environment of their
own (`pgrain.demo.peers`). The case is the bright trousers; the complaint says that there are too
few trousers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from bench_common import Bench

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
    dq = _ours(bench, setting, fitted)
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
                 scores["Q3"], case.wrong, found.get("note", ""))


def _add(bench: Bench, what: str, complaint: float, prepare: float, scores, wrong, note="") -> None:
    bench.add(SECTION, what, complaint, "s a complaint",
              note=f"{prepare:.1f} s of preparation, AUC_R {judge(scores, wrong):.3f}"
                   + (f"; {note}" if note else ""))


def _ours(bench: Bench, setting: Setting, fitted) -> np.ndarray:
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
         median(complaint, 9) / 1000, prepare, complaint(), wrong)

    def dot():
        return -dot_products(fitted, [objective_gradient(
            fitted.model, fitted.theta, fitted.case.query_X, dq)])[:, 0]

    _add(bench, "pgrain, gradient_dot", median(dot, 3) / 1000, 0, dot(), wrong)
    p = softmax(fitted.logits)
    _add(bench, "the rule: not labelled trouser, by p(trouser)", 0, 0,
         rule(p, fitted.case.y, query.classes, -1), wrong)
    _add(bench, "loss", 0, 0, losses(fitted.logits, fitted.case.y), wrong)
    return dq
