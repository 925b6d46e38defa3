"""The same numbers on several devices, on several processes, with the work divided.

Each case runs in processes of its own, since JAX settles its devices once a process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numerics_small import small_model

from pgrain.influence.filters import filter_weights
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.lanczos import lanczos
from pgrain.influence.projections import project, training_projection
from pgrain.influence.scores import deletion_changes
from pgrain.models.softmax import residual

CASE = '''
import json, sys
import numpy as np
from numerics_small import small_model
from pgrain.influence import devices
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.lanczos import lanczos
from pgrain.influence.projections import project
model, theta, X, y = small_model("mlp", n=203)
'''
ONE = CASE + '''
H = hessian_operator(model, theta, X, y, 0.5, n_total=203, chunk=16)
spectrum = lanczos(H, model.n_parameters, 6)
logits, J = project(model, theta, X, spectrum.vectors)
placed = devices.split(np.zeros((8, 3), np.float32), devices.everywhere())
print(json.dumps({"devices": devices.describe(), "values": spectrum.eigenvalues.tolist(),
                  "vectors": spectrum.vectors.tolist(), "J": J.tolist(), "logits": logits.tolist(),
                  "share": [list(s.data.shape) for s in placed.addressable_shards]}))
'''
CREW = '''
import sys
import jax
from pgrain.worker import crew
crew.join(sys.argv[1], 2, int(sys.argv[2]))
from pgrain.models import registry
registry.NETWORKS = 2
if sys.argv[2] == "1":
    print(crew.follow(), len(jax.devices()[0].client.live_executables()))
    sys.exit()
''' + CASE + '''
one = crew.current()
H = one.operator(model, theta, X, y, 0.5, n_total=203, curvature="hessian")
spectrum = lanczos(H, model.n_parameters, 6)
logits, J = one.project(model, theta, X, spectrum.vectors)
for width in range(5, 11):      # as a model with another vocabulary at each training has them
    other = registry.build("mlp", model.n_classes, model.input_shape, {"hidden": [width]})
    theta = np.zeros(other.n_parameters, np.float32)
    one.operator(other, theta, X, y, 0.5, n_total=203, curvature="hessian")(theta)
one.end()
placed = devices.split(np.zeros((8, 3), np.float32), devices.everywhere())
print(json.dumps({"devices": devices.describe(), "values": spectrum.eigenvalues.tolist(),
                  "vectors": spectrum.vectors.tolist(), "J": J.tolist(), "logits": logits.tolist(),
                  "share": [list(s.data.shape) for s in placed.addressable_shards]}))
'''


def start(code: str, *arguments: str, devices: int = 1) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "JAX_PLATFORMS": "cpu",
                   "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def answer(process: subprocess.Popen) -> dict:
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def alone():
    """One device, in this process."""
    model, theta, X, y = small_model("mlp", n=203)
    spectrum = lanczos(hessian_operator(model, theta, X, y, 0.5, n_total=203),
                       model.n_parameters, 6)
    logits, J = project(model, theta, X, spectrum.vectors)
    return y, spectrum, logits, J


def ranking(y, values, logits, J) -> np.ndarray:
    A = training_projection(np.asarray(J, np.float32),
                            residual(None, y, np.asarray(logits, np.float32)))
    # c in terms of rows, so that the signs of eigenvectors do not matter.
    return np.argsort(deletion_changes(A, filter_weights(np.asarray(values)), A[:20].sum(axis=0)))


def same(alone, found: dict) -> None:
    y, spectrum, logits, J = alone
    np.testing.assert_allclose(found["values"], spectrum.eigenvalues, rtol=1e-3)
    np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
    # Each vector is the same up to its sign, and so is what is projected on it.
    overlap = np.abs(np.asarray(found["vectors"]).T @ spectrum.vectors)
    assert np.diag(overlap).min() > 0.999
    ours = ranking(y, spectrum.eigenvalues, logits, J)
    theirs = ranking(y, found["values"], found["logits"], found["J"])
    place = np.empty(len(ours), int)
    place[ours] = np.arange(len(ours))
    assert np.corrcoef(place[theirs], np.arange(len(ours)))[0, 1] > 0.999
    assert len(set(ours[:20]) & set(theirs[:20])) >= 19


@pytest.mark.slow
def test_four_devices_of_one_process(alone):
    found = answer(start(ONE, devices=4))
    assert found["devices"] == "4 cpu devices"
    assert found["share"] == [[2, 3]] * 4                     # of eight rows each has two
    same(alone, found)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_two_processes(alone, devices):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    helper = start(CREW, coordinator, "1", devices=devices)
    try:
        found = answer(start(CREW, coordinator, "0", devices=devices))
        out, error = helper.communicate(timeout=60)
    finally:
        helper.kill()
    assert helper.returncode == 0, error[-3000:]
    assert found["devices"] == f"{2 * devices} cpu devices in 2 processes"
    assert found["share"] == [[8 // (2 * devices), 3]] * devices    # half of the rows are elsewhere
    served, kept = map(int, out.split()[-2:])
    assert served > 26 + 12                     # the operator, its products, the projections
    assert kept < 24                            # of the last two networks, not of all seven (57)
    same(alone, found)
