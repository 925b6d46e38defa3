"""What a plan will take, before anything is measured: parameters, memory, operations.

Nothing is read and nothing compiled: shapes of the data sets are known, and the products of a
forward pass are counted where JAX traces them. A gradient is three forward passes, a Hessian
product six, a tangent two. Divided by the rate of a large matrix product on a device they give the
least time that it could take; convolutions on a CPU take several times that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pgrain.demo.paper import costs
from pgrain.demo.paper.cases import Setting
from pgrain.demo.paper.experiments import setting_of
from pgrain.demo.paper.records import Job, Records
from pgrain.models.registry import Model, build
from pgrain.models.training import DEFAULTS

PRODUCTS = 2.7
"""Hessian products that Lanczos takes for a pair (seen: 75 to 90 for 30)."""
NEWTON = 100
"""Passes over the rows that a logistic regression takes to its optimum, as gradients; a guess."""


@dataclass(frozen=True)
class Shape:
    """Of a data set as the experiments read it: rows to learn from and to query, one row as the
    model sees it, classes."""

    train: int
    query: int
    row: tuple[int, ...]
    classes: int


SHAPES = {"mnist": Shape(8_000, 2_000, (28, 28, 1), 10),
          "fashion": Shape(60_000, 10_000, (28, 28, 1), 10),
          "cifar10": Shape(50_000, 10_000, (32, 32, 3), 10),
          "adult": Shape(22_000, 10_561, (49,), 2), "reviews": Shape(8_000, 2_605, (46,), 2)}
VOCABULARY = 10_000
"""Words that the lstm's encoder keeps if nothing is said; two more numbers are padding and other
words."""


def model_of(setting: Setting) -> Model:
    """The model of a setting, without its data."""
    shape, options = SHAPES[setting.data], dict(setting.options)
    tokens = options.get("vocabulary", VOCABULARY) + 2 if setting.data == "reviews" else 0
    return build(setting.architecture, shape.classes, shape.row, options, n_tokens=tokens)


@functools.lru_cache(maxsize=64)
def forward(model: Model) -> float:
    """Operations of the matrix products and convolutions in the forward pass of a row."""
    rows = 16
    kind = jnp.int32 if model.input == "tokens" else jnp.float32
    traced = jax.make_jaxpr(model.logits)(
        jax.ShapeDtypeStruct((model.n_parameters,), jnp.float32),
        jax.ShapeDtypeStruct((rows, *model.input_shape), kind))
    return _operations(traced.jaxpr) / rows


def _operations(jaxpr) -> float:
    """Two for each multiplication of a dot product or a convolution, those in loops as often as
    they run."""
    total = 0.0
    for equation in jaxpr.eqns:
        name, given = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = given["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += (2.0 * math.prod(equation.outvars[0].aval.shape)
                      * math.prod(shape[axis] for axis in contracted))
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[given["dimension_numbers"].rhs_spec[0]]
            total += (2.0 * math.prod(equation.outvars[0].aval.shape)
                      * math.prod(kernel) / outputs)
        times = given.get("length", 1) if name == "scan" else 1
        for value in given.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * _operations(inner)
    return total


def rows_of(setting: Setting) -> tuple[int, int]:
    """Rows that are learned from, rows that are queried."""
    shape = SHAPES[setting.data]
    return min(setting.rows, shape.train), min(setting.queried or shape.query, shape.query)


def operations(setting: Setting, model: Model) -> dict[str, float]:
    """Operations of training (with and without the error), the spectrum, Rain, projections."""
    row, (n, asked) = forward(model), rows_of(setting)
    family = setting.architecture.split("_1")[0].split("_2")[0]
    defaults = DEFAULTS.get(family, DEFAULTS["custom"])
    epochs = dict(setting.options).get("epochs", defaults.get("epochs", NEWTON))
    sample = min(setting.sample, n)
    queries = len(setting.queries)
    return {"train": 2 * 3 * row * n * epochs,
            "spectrum": 6 * row * sample * PRODUCTS * setting.pairs,
            "project": 2 * row * setting.pairs * (n * (1 + setting.denoise) + asked),
            "rain": queries * setting.cg * (6 * row * sample + 2 * row * n)}


def memory(setting: Setting, model: Model) -> float:
    """Bytes: Lanczos' basis (float64) with the pairs (float32), and J of all rows."""
    d, n = model.n_parameters, sum(rows_of(setting))
    m = min(setting.pairs, d)
    basis = min(d, int(PRODUCTS * m) + 1)
    return 8 * d * basis + 4 * d * m + 4 * n * model.n_classes * (m + 1)


def describe(jobs: list[Job], records: Records, say: Callable[[str], None],
             rate: float | None = None) -> float:
    """One line for jobs that are alike: how many, sizes, memory, time; the least seconds of all
    that is missing. rate: of matrix products, operations a second: the least time is counted from
    them; without it times are those of kept records, and the sum is 0."""
    total = 0.0
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        what = job.what
        groups.setdefault((what.get("data"), what.get("architecture"), what.get("rows"),
                           str(what.get("options")), what.get("pairs"), what.get("sample")),
                          []).append(job)
    table = costs.known(records)
    for (data, architecture, *_), of in groups.items():
        missing = [job for job in of if records.get(job) is None]
        name = (f"{data or of[0].kind}, {architecture or '-'}: {len(of)} ({len(missing)} to be "
                "measured)")
        about = sum(costs.predict(job, table) for job in missing or of)
        time = f"about {costs.duration(about / len(missing or of))} each"
        try:
            setting = setting_of(of[0].what)
        except (KeyError, TypeError):
            say(f"  {name}: {time}")
            continue
        model = model_of(setting)
        each = sum(operations(setting, model).values())
        if rate:
            total += len(missing) * each / rate
            time = f"at least {costs.duration(each / rate)} each"
        say(f"  {name}: {rows_of(setting)[0]:,} rows of "
            f"{math.prod(model.input_shape):,} numbers, "
            f"{model.n_parameters:,} parameters, "
            f"{min(setting.pairs, model.n_parameters)} pairs; "
            f"{memory(setting, model) / 1e9:.2f} GB beside what one batch takes; "
            f"{each / 1e12:,.2f} T operations, {time}")
    return total
