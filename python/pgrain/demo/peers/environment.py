"""The peers' own environment (`.local/peers`, made by pip when it is not there), and one of them
run in it: their needs (torch among them) are none of ours.

A peer gets the trained weights, the rows and the complaints as arrays in a file, and returns one
score a training row. What it cannot express is given in its nearest terms, said in `runner.py`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import select
import subprocess
import sys
import tempfile
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
            "pydvl": ("torch", "pyDVL", "distributed", "zarr"), "cleanlab": ("cleanlab",)}
FOLDER = Path(".local/peers")
FOLDS = 3
LIMIT = 1800


class PeerFailed(RuntimeError):
    """A peer could not be installed or run; the message says why."""


_there: set[str] = set()
"""Packages that were found or installed."""


def python(peers: tuple[str, ...], say: Callable[[str], None]) -> str:
    """The environment's Python, with the packages of these peers."""
    found = FOLDER.absolute() / "bin" / "python"
    needed = dict.fromkeys(p for peer in peers for p in PACKAGES[peer])
    if needed.keys() <= _there:
        return str(found)
    if not found.exists():
        say(f"making {FOLDER}, some gigabytes with torch")
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
    installed = {line.split("==")[0].lower() for line in subprocess.run(
        [str(found), "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True,
        check=True).stdout.splitlines()}
    for package in needed:
        if package.lower() in installed:
            continue
        say(f"pip install {package}")
        done = subprocess.run([str(found), "-m", "pip", "install", "--quiet", package],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerFailed(f"pip install {package}: " + _last(done.stderr))
    _there.update(needed)
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
           target: int, options: dict, seed: int = 0, held: bool = True) -> None:
    """FOLDER/case.npz. theta: None where no peer asks for the trained model. complaints: by name,
    dq/dp (V, R) of the objective; target: the class that the query counts, for peers that know
    nothing but losses. held: with probabilities out of fold; of texts the words, for a linear model
    that the peer fits."""
    found: dict = {"y": case.y, "query_y": case.query_y, "target": target}
    if held and case.n_tokens:
        found |= {"words": case.X, "folds": FOLDS}
    elif held:
        began = time.perf_counter()
        found["held"] = out_of_fold(case, model, options, seed)
        found["held_seconds"] = time.perf_counter() - began
    if theta is not None:
        found |= {"X": floats(case.X), "query": floats(case.query_X)}
        for i, (kernel, bias) in enumerate(layers(model, theta)):
            found |= {f"kernel{i}": kernel, f"bias{i}": bias}
    np.savez(folder / "case.npz", **found,
             **{f"dq:{name}": np.asarray(dq, np.float32) for name, dq in complaints.items()})


def run(interpreter: str, folder: Path, *names: str
        ) -> dict[str, tuple[dict, dict[str, np.ndarray]]]:
    """Of each peer what it reports (`runner.py`), and its scores by complaint."""
    runner = _runners.get(interpreter)
    if runner is None or runner.process.poll() is not None:
        runner = _runners[interpreter] = _Runner(interpreter)
    title = ", ".join(NAMES[name] for name in names)
    try:
        told = runner.ask([str(folder.absolute()), *names])
    except BaseException as error:               # no later request may get the reply to this one
        runner.end()
        if isinstance(error, TimeoutError):
            raise PeerFailed(f"{title}: more than {LIMIT} s") from error
        raise
    if "error" in told:
        raise PeerFailed(f"{title}: {_last(told['error'])}")
    found = {}
    for name in names:
        with np.load(folder / f"{name}.npz") as scores:
            found[name] = json.loads((folder / f"{name}.json").read_text()), dict(scores)
    return found


class _Runner:
    """`runner.py`, which answers as long as we live: loading torch takes longer than most peers."""

    def __init__(self, interpreter: str):
        self.said = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [interpreter, str(Path(__file__).with_name("runner.py").resolve())], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said)

    def ask(self, request: list[str]) -> dict:
        """The reply; what the process said last as its error where it has ended."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self.process.stdin, flush=True)
        if not select.select([self.process.stdout], [], [], LIMIT)[0]:
            raise TimeoutError
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        self.said.seek(0)
        return {"error": self.said.read() or f"ended with {self.process.returncode}"}

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.said.close()


_runners: dict[str, _Runner] = {}


@atexit.register
def _end() -> None:
    for runner in _runners.values():
        runner.end()
