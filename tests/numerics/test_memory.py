"""What a pass over rows holds beside the rows: under the bound that chunk sizes are computed from,
and no more of it for more rows. By the compiler's own account of its buffers."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from numerics_small import small_model

from pgrain.influence import hvp, projections
from pgrain.models import batches

QUICK = {"xla_backend_optimization_level": 0}      # machine code, not the buffers
BOUND = 64 << 10


@pytest.fixture
def held(monkeypatch):
    """`held(n, memory)`: bytes of intermediates of a Hessian product and of the projections of n
    rows, computed by the product's own code with `memory` bytes as its bound."""
    def start(n: int, memory: int) -> tuple[int, int]:
        model, theta, X, y = small_model("mlp", n=n)
        seen = {}

        def watched(name, real):
            def call(model, *given):
                static = given[:1] if name == "_product" else ()        # the curvature
                given = given[len(static):]
                compiled = real.lower(model, *static, *given).compile(compiler_options=QUICK)
                seen[name] = max(seen.get(name, 0),
                                 compiled.memory_analysis().temp_size_in_bytes)
                return compiled(*given)
            return call

        with monkeypatch.context() as patch:
            for module, name in ((hvp, "_product"), (projections, "_push")):
                patch.setattr(module, name, watched(name, getattr(module, name)))
                patch.setattr(module, "fitting", functools.partial(batches.fitting, memory=memory))
            hvp.hessian_operator(model, theta, X, y, 1.0, n_total=n)(theta)
            projections.project(model, theta, X, np.eye(len(theta), 4, dtype=np.float32))
        return seen["_product"], seen["_push"]
    return start


def test_intermediates_are_bounded_whatever_the_number_of_rows(held):
    few, many = held(6_000, BOUND), held(24_000, BOUND)
    assert few == many
    assert 0 < max(many) <= BOUND
    # Not because the model is small: as many rows as the default bound lets in hold more.
    assert min(held(24_000, batches.MEMORY_BYTES)) > BOUND
