"""Other public implementations on the same model, data and complaint, in an environment of their
own (`.local/peers`, made by pip when it is not there).

The case is the bright trousers; the complaint says that there are too few trousers. Each peer gets
the trained weights and returns one score a training row; what it cannot express (a sum over
probabilities, a sign) is given in its nearest terms, said in peer_run.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_common import Bench, median, say

from pgrain.demo.metrics import auc_r
from pgrain.demo.paper.cases import Setting, load
from pgrain.demo.paper.measure import dot_products, fit, rule
from pgrain.influence.baselines import losses
from pgrain.influence.gradient import objective_gradient
from pgrain.influence.projections import objective_projection
from pgrain.influence.scores import deletion_changes
from pgrain.models.softmax import softmax
from pgrain.models.training import predict_proba, train

PEERS = {"kronfluence": "kronfluence (EK-FAC)", "captum": "captum (TracInCP, one checkpoint)",
         "dattri": "dattri (TRAK, one checkpoint)", "pydvl": "pyDVL (Arnoldi, rank 20)",
         "cleanlab": "cleanlab (self-confidence, out of fold)"}
PACKAGES = ("torch", "kronfluence", "captum", "dattri", "pyDVL", "distributed", "zarr", "cleanlab")
# pyDVL imports distributed and zarr, and does not say so.
ENVIRONMENT = Path(".local/peers")
SECTION = "Peers: bright trousers, mlp of 256"
LIMIT = 900


def measure(bench: Bench, rows: int | None = None, queried: int = 2_000) -> None:
    say(SECTION)
    setting = Setting("fashion", "mlp", "bright", rows=rows or bench.rows, queries=("Q3",),
                      sample=10_000, options=(("hidden", (256,)),))
    case = load(setting)
    case = type(case)(**{**case.__dict__, "query_X": case.query_X[:queried],
                         "query_y": case.query_y[:queried]})
    fitted = fit(setting, case)
    _ours(bench, setting, fitted)
    python = environment()
    if python is None:
        bench.skip("peers: no environment could be made with pip (" + ", ".join(PACKAGES) + ")")
        return
    with tempfile.TemporaryDirectory() as folder:
        _export(Path(folder), setting, fitted)
        for name, what in PEERS.items():
            _peer(bench, python, Path(folder), name, what, case.wrong)


def environment() -> str | None:
    """The peers' Python; made once, in an environment of its own."""
    python = ENVIRONMENT.absolute() / "bin" / "python"
    if not python.exists():
        say(f"  making {ENVIRONMENT}: " + ", ".join(PACKAGES))
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        for package in PACKAGES:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", package], check=False)
    done = subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False)
    return str(python) if done.returncode == 0 else None


def judge(scores: np.ndarray, wrong: np.ndarray) -> float:
    n = int(wrong.sum())
    return auc_r(wrong[np.argsort(-scores, kind="stable")[:n]], n)


def _add(bench: Bench, what: str, complaint: float, prepare: float, scores, wrong, note="") -> None:
    bench.add(SECTION, what, complaint, "s a complaint",
              note=f"{prepare:.1f} s of preparation, AUC_R {judge(scores, wrong):.3f}"
                   + (f"; {note}" if note else ""))


def _ours(bench: Bench, setting: Setting, fitted) -> None:
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


def _export(folder: Path, setting: Setting, fitted) -> None:
    """Weights, rows, and out-of-fold probabilities, as arrays that any Python can read."""
    case = fitted.case
    weights = fitted.model.to_pytree(fitted.theta)
    began = time.perf_counter()
    folds = np.random.default_rng(0).integers(0, 3, len(case.y))
    held = np.zeros((len(case.y), case.n_classes), np.float32)
    for fold in range(3):
        inside = folds != fold
        trained = train(fitted.model, case.X[inside], case.y[inside],
                        options=dict(setting.options), seed=0)
        held[~inside] = predict_proba(fitted.model, trained.theta, case.X[~inside])[1]
    np.savez(folder / "case.npz", X=case.X.reshape(len(case.X), -1), y=case.y,
             query=case.query_X.reshape(len(case.query_X), -1), query_y=case.query_y,
             held=held, held_seconds=time.perf_counter() - began,
             alpha=fitted.alpha, **{f"w:{name}": value for name, value in weights.items()})


def _peer(bench: Bench, python: str, folder: Path, name: str, what: str, wrong) -> None:
    script = Path(__file__).with_name("peer_run.py")
    try:
        done = subprocess.run([python, str(script.resolve()), name, str(folder)], cwd=folder,
                              capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        bench.skip(f"{what}: more than {LIMIT} s")
        return
    if done.returncode:
        bench.skip(f"{what}: " + ([line for line in done.stderr.splitlines() if line.strip()]
                                  or ["failed"])[-1][:200])
        return
    found = json.loads(done.stdout.splitlines()[-1])
    _add(bench, f"{what}, {found['version']}", found["complaint"], found["prepare"],
         np.load(folder / f"{name}.npy"), wrong, found.get("note", ""))
