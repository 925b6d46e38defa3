"""What a plan will take, before anything is measured: parameters, memory, operations.

Operations are counted from the forward pass as XLA lowers it: a gradient is three forward passes,
a Hessian product six, a tangent two. Divided by the rate of a large matrix product on this device
they give the least time that it could take; convolutions on a CPU take several times that.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pgrain.demo.datasets import DatasetBroken, DatasetMissing
from pgrain.demo.paper import costs
from pgrain.demo.paper.cases import Case, Setting, load
from pgrain.demo.paper.experiments import setting_of
from pgrain.demo.paper.measure import build_model
from pgrain.demo.paper.records import Job, Records
from pgrain.demo.timing import device_rate
from pgrain.models.registry import Model
from pgrain.models.training import DEFAULTS

PRODUCTS = 2.7
"""Hessian products that Lanczos takes for a pair (seen: 75 to 90 for 30)."""
NEWTON = 100
"""Passes over the rows that a logistic regression takes to its optimum, as gradients; a guess."""


def forward(model: Model) -> float:
    """Operations of the forward pass of a row."""
    rows = 16
    kind = jnp.int32 if model.input == "tokens" else jnp.float32
    lowered = jax.jit(model.logits).lower(
        jax.ShapeDtypeStruct((model.n_parameters,), jnp.float32),
        jax.ShapeDtypeStruct((rows, *model.input_shape), kind))
    return float((lowered.cost_analysis() or {}).get("flops", 0.0)) / rows


def operations(setting: Setting, case: Case, model: Model) -> dict[str, float]:
    """Operations of training (with and without the error), the spectrum, Rain, projections."""
    row, n, asked = forward(model), len(case.y), len(case.query_y)
    family = setting.architecture.split("_1")[0].split("_2")[0]
    defaults = DEFAULTS.get(family, DEFAULTS["custom"])
    epochs = dict(setting.options).get("epochs", defaults.get("epochs", NEWTON))
    sample = min(setting.sample, n)
    queries = len(setting.queries)
    return {"train": 2 * 3 * row * n * epochs,
            "spectrum": 6 * row * sample * PRODUCTS * setting.pairs,
            "project": 2 * row * setting.pairs * (n * (1 + setting.denoise) + asked),
            "rain": queries * setting.cg * (6 * row * sample + 2 * row * n)}


def memory(setting: Setting, case: Case, model: Model) -> float:
    """Bytes: Lanczos' basis (float64) with the pairs (float32), and J of all rows."""
    d, m = model.n_parameters, setting.pairs
    basis = min(d, int(PRODUCTS * m) + 1)
    return (8 * d * basis + 4 * d * m
            + 4 * (len(case.y) + len(case.query_y)) * case.n_classes * (m + 1))


def describe(jobs: list[Job], records: Records, say: Callable[[str], None]) -> float:
    """One line for jobs that are alike: how many, sizes, memory, the least time; the least seconds
    of all that is missing, those counted whose operations are known."""
    total = 0.0
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        what = job.what
        groups.setdefault((what.get("data"), what.get("architecture"), what.get("rows"),
                           str(what.get("options")), what.get("pairs"), what.get("sample")),
                          []).append(job)
    rate, table = device_rate(), costs.known(records)
    device = jax.devices()[0]
    say(f"device: {device.device_kind}; a matrix product runs at {rate / 1e9:,.0f} G operations "
        "a second")
    for (data, architecture, *_), of in groups.items():
        missing = sum(records.get(job) is None for job in of)
        name = f"{data or of[0].kind}, {architecture or '-'}: {len(of)} ({missing} to be measured)"
        try:
            setting = setting_of(of[0].what)
            case = load(setting)
        except (DatasetMissing, DatasetBroken) as error:
            say(f"  {name}: {error}")
            continue
        except (KeyError, TypeError):
            say(f"  {name}: about {costs.duration(costs.predict(of[0], table))} each")
            continue
        model = build_model(setting, case)
        each = sum(operations(setting, case, model).values())
        total += missing * each / rate
        say(f"  {name}: {len(case.y):,} rows of {np.prod(case.X.shape[1:]):,} numbers, "
            f"{model.n_parameters:,} parameters, {setting.pairs} pairs; "
            f"{memory(setting, case, model) / 1e9:.2f} GB beside what one batch takes; "
            f"{each / 1e12:,.2f} T operations, at least {costs.duration(each / rate)} each")
    return total
