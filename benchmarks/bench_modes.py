"""Rows on eigenvectors: forward mode against reverse mode, one tangent at a time against several,
on every architecture, with the memory that each takes.

The paper's section 4.2 claims 4 times for J_z and its 5.1 12 times for J_x. What is compared gives
the same numbers: <v_i, grad l_z> for k directions (J_z), and all <grad logit_r, v_i> (J_x).
`make bench ARGS="--only modes"`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from bench_common import Bench
from bench_floors import computing, forward

from pgrain.demo.datasets import fashion_mnist
from pgrain.demo.timing import say
from pgrain.models import registry
from pgrain.models.loss import cross_entropy

K = 20
CASES = {"logistic_regression": ({}, 512, 64), "mlp": ({"hidden": [512]}, 256, 16),
         "cnn": ({}, 64, 16), "wide_resnet_10": ({}, 8, 4), "lstm": ({}, 64, 16)}
"""Architecture: options, rows, rows at a time in reverse mode (a row's Jacobian is R x d)."""
WORDS, LENGTH = 2_000, 32


def measure(bench: Bench) -> None:
    for name, (options, rows, at_a_time) in CASES.items():
        section = f"Forward against reverse mode: {name}"
        say(section)
        model, X, y = _case(name, options, rows)
        theta = model.init(0)
        V = np.linalg.qr(np.random.default_rng(0).standard_normal((model.n_parameters, K)))[0]
        given = theta, jnp.asarray(np.ascontiguousarray(V.T, np.float32)), X, y
        ways = _ways(model, at_a_time)
        found = {way: _timed(work, given) for way, work in ways.items()}
        _same(found)
        one = found["J, forward, one tangent at a time"]
        least = _least(model)
        for way, (seconds, processor, memory, _) in found.items():
            bench.add(section, f"{way}: a 1,000 rows", 1000 * seconds / rows, "s",
                      **computing(bench, 1000 * least[way]),
                      note=f"processor {1000 * processor / rows:.2f} s; {memory / 1e6:,.0f} MB of "
                           f"intermediates for {rows} rows; {processor / one[1]:.1f} x forward "
                           "in processor time")


def _case(name: str, options: dict, rows: int):
    if name == "lstm":
        rng = np.random.default_rng(0)
        X = rng.integers(2, WORDS, (rows, LENGTH)).astype(np.int32)
        return (registry.build(name, 2, (LENGTH,), options, n_tokens=WORDS), jnp.asarray(X),
                jnp.asarray(rng.integers(0, 2, rows)))
    train = fashion_mnist("train").first(rows)
    return (registry.build(name, 10, (28, 28, 1), options), jnp.asarray(train.pixels[..., None]),
            jnp.asarray(train.labels.astype(np.int32)))


def _ways(model, at_a_time: int) -> dict[str, Callable]:
    """Each: (theta, tangents (k, d), X, y) -> (rows, R, k), or (rows, k) for J_z."""
    def forward(together: int | None):
        def work(theta, tangents, X, y):
            _, linear = jax.linearize(lambda t: model.logits(t, X), theta)
            return jnp.moveaxis(jax.lax.map(linear, tangents, batch_size=together), 0, -1)
        return work

    def by_rows(one: Callable):
        """Reverse mode row by row, a few rows at a time: a gradient has d numbers."""
        def work(theta, tangents, X, y):
            return jax.lax.map(lambda row: one(theta, *row) @ tangents.T, (X, y),
                               batch_size=at_a_time)
        return work

    def loss(theta, x, label):
        return cross_entropy(model.logits(theta, x[None]), label[None])[0]

    def logits(theta, x, label):
        return model.logits(theta, x[None])[0]

    return {"J, forward, one tangent at a time": forward(None),
            f"J, forward, {K} tangents together (vmap)": forward(K),
            "J_z alone, reverse: a gradient a row": by_rows(jax.grad(loss)),
            "J_x, reverse: a gradient a row and class": by_rows(jax.jacrev(logits))}


def _least(model) -> dict[str, float]:
    """Operations of a row, each way: the pass and a pass a tangent; or the pass, as much again for
    each gradient, and its products with all tangents."""
    a_row = forward(model)
    gradient = a_row + 2 * model.n_parameters * K
    both = (1 + K) * a_row
    return dict(zip(_ways(model, 1), (both, both, a_row + gradient,
                                      a_row + model.n_classes * gradient), strict=True))


def _timed(work: Callable, given: tuple, repeat: int = 2) -> tuple:
    """Seconds and processor seconds (least of some), bytes of intermediates, the numbers."""
    compiled = jax.jit(work).lower(*given).compile()
    out = compiled(*given).block_until_ready()
    least, least_processor = np.inf, np.inf
    for _ in range(repeat):
        began, used = time.perf_counter(), time.process_time()
        compiled(*given).block_until_ready()
        least = min(least, time.perf_counter() - began)
        least_processor = min(least_processor, time.process_time() - used)
    return least, least_processor, compiled.memory_analysis().temp_size_in_bytes, np.asarray(out)


def _same(found: dict[str, tuple]) -> None:
    """Ways that are compared give the same numbers, or nothing is compared."""
    numbers = [out for *_, out in found.values()]
    for other in (numbers[1], numbers[3]):
        np.testing.assert_allclose(other, numbers[0], rtol=1e-2, atol=1e-3)
