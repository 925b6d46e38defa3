"""The peers' own environment (`.local/peers`, made by pip when it is not there), and one of them
run in it: their needs (torch among them) are none of ours.

A peer gets the trained weights, the rows and the complaints as arrays in a file, and returns one
score a training row. What it cannot express is given in its nearest terms, said in `runner.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pgrain.demo.paper.cases import Case
from pgrain.models.registry import Model
from pgrain.models.training import predict_proba, train

NAMES = {"kronfluence": "kronfluence (EK-FAC)", "captum": "captum (TracInCP, one checkpoint)",
         "dattri": "dattri (TRAK, one checkpoint)", "pydvl": "pyDVL (Arnoldi, rank 20)",
         "cleanlab": "cleanlab (self-confidence, out of fold)"}
PACKAGES = {"kronfluence": ("torch", "kronfluence"), "captum": ("torch", "captum"),
            "dattri": ("torch", "dattri"),
            # pyDVL imports distributed and zarr, and does not say so.
            "pydvl": ("torch", "pyDVL", "distributed", "zarr"), "cleanlab": ("torch", "cleanlab")}
FOLDER = Path(".local/peers")
FOLDS = 3
LIMIT = 1800


class PeerFailed(RuntimeError):
    """A peer could not be installed or run; the message says why."""


def python(peers: tuple[str, ...], say: Callable[[str], None]) -> str:
    """The environment's Python, with the packages of these peers."""
    found = FOLDER.absolute() / "bin" / "python"
    if not found.exists():
        say(f"making {FOLDER}, some gigabytes with torch")
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
    there = {line.split("==")[0].lower() for line in subprocess.run(
        [str(found), "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True,
        check=True).stdout.splitlines()}
    for package in dict.fromkeys(p for peer in peers for p in PACKAGES[peer]):
        if package.lower() in there:
            continue
        say(f"pip install {package}")
        done = subprocess.run([str(found), "-m", "pip", "install", "--quiet", package],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerFailed(f"pip install {package}: " + _last(done.stderr))
    return str(found)


def _last(text: str) -> str:
    return ([line for line in text.splitlines() if line.strip()] or ["failed"])[-1][:200]


def layers(model: Model, theta) -> list[tuple[np.ndarray, np.ndarray]]:
    """(kernel, bias) of a logistic regression's or an mlp's layers, in order."""
    weights = model.to_pytree(theta)
    hidden = sorted((n for n in weights if n.startswith("hidden_") and n.endswith(".kernel")),
                    key=lambda name: int(name.split(".")[0].split("_")[1]))
    names = [n.removesuffix(".kernel") for n in hidden]
    names.append("output" if "output.kernel" in weights else "dense")
    return [(weights[f"{name}.kernel"], weights[f"{name}.bias"]) for name in names]


def floats(X: np.ndarray) -> np.ndarray:
    """(N, features) float32, as the model sees them."""
    X = X.astype(np.float32) / 255 if X.dtype == np.uint8 else X.astype(np.float32)
    return X.reshape(len(X), -1)


def out_of_fold(case: Case, model: Model, options: dict, seed: int) -> np.ndarray:
    """(N, R): probabilities of each row by a model that has not seen it."""
    folds = np.random.default_rng(seed).integers(0, FOLDS, len(case.y))
    held = np.zeros((len(case.y), case.n_classes), np.float32)
    for fold in range(FOLDS):
        inside = folds != fold
        trained = train(model, case.X[inside], case.y[inside], options=options, seed=seed)
        held[~inside] = predict_proba(model, trained.theta, case.X[~inside])[1]
    return held


def export(folder: Path, case: Case, model: Model, theta, complaints: dict[str, np.ndarray],
           target: int, options: dict, seed: int = 0) -> None:
    """FOLDER/case.npz. complaints: by name, dq/dp (V, R) of the objective; target: the class that
    the query counts, for peers that know nothing but losses."""
    began = time.perf_counter()
    held = out_of_fold(case, model, options, seed)
    seconds = time.perf_counter() - began
    weights = {}
    for i, (kernel, bias) in enumerate(layers(model, theta)):
        weights |= {f"kernel{i}": kernel, f"bias{i}": bias}
    np.savez(folder / "case.npz", X=floats(case.X), y=case.y, query=floats(case.query_X),
             query_y=case.query_y, held=held, held_seconds=seconds, target=target, **weights,
             **{f"dq:{name}": np.asarray(dq, np.float32) for name, dq in complaints.items()})


def run(interpreter: str, folder: Path, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """What a peer reports, and its scores by complaint."""
    script = Path(__file__).with_name("runner.py")
    try:
        done = subprocess.run([interpreter, str(script.resolve()), name, str(folder)], cwd=folder,
                              capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        raise PeerFailed(f"{NAMES[name]}: more than {LIMIT} s") from error
    if done.returncode:
        raise PeerFailed(f"{NAMES[name]}: {_last(done.stderr)}")
    with np.load(folder / f"{name}.npz") as scores:
        return json.loads(done.stdout.splitlines()[-1]), dict(scores)
