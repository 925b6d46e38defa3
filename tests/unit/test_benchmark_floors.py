"""Floors of `make bench`: operations are counted as they are done, and no figure goes without a
floor or the reason why there is none."""

import ast
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench_floors  # noqa: E402
import bench_page  # noqa: E402
from bench_common import Bench  # noqa: E402

from pgrain.models import registry  # noqa: E402


def test_forward_pass_of_a_dense_net():
    """Two operations a weight; biases are no products."""
    model = registry.build("mlp", 10, (28, 28, 1), {"hidden": [32]})
    assert bench_floors.forward(model) == 2 * (784 * 32 + 32 * 10)


def test_forward_pass_of_an_lstm_counts_every_word():
    """The body of a loop is done as often as there are words."""
    found = [bench_floors.forward(registry.build("lstm", 2, (length,), {}, n_tokens=50))
             for length in (8, 16, 24)]
    assert found[2] - found[1] == found[1] - found[0] > 0.9 * found[0]


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (2, 1), (1, 2)])
def test_convolutions(groups, stride):
    """As many as the definition has: a product for every number of the kernel that a place sees."""
    def work(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID", feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 4 // groups, 6))
    side = (8 - 3) // stride + 1
    found = bench_floors._operations(jax.make_jaxpr(work)(x, kernel).jaxpr)
    assert found == 2 * side * side * 6 * 3 * 3 * (4 // groups)


def test_reading_takes_time_that_grows():
    """Sixty-four times as much takes longer, also where the first is in the cache."""
    bench = Bench(1, 1, 1, 1)
    assert 0 < bench_floors.reading(bench, 1 << 20) < bench_floors.reading(bench, 1 << 26)


def test_a_figure_without_a_floor_is_refused():
    with pytest.raises(TypeError, match="floor_is"):
        Bench(1, 1, 1, 1).add("section", "what", 1.0)


def test_every_call_says_its_floor():
    """Found before the quarter of an hour that the run takes."""
    calls = [(path.name, call.lineno, {given.arg for given in call.keywords})
             for path in BENCHMARKS.glob("bench*.py")
             for call in ast.walk(ast.parse(path.read_text()))
             if isinstance(call, ast.Call) and ast.unparse(call.func) == "bench.add"]
    assert len(calls) > 40
    assert [call for call in calls if not call[2] & {"floor_is", None}] == []


def test_the_page_says_why_there_is_no_floor():
    bench = Bench(1, 1, 1, 1)
    bench.add("section", "with", 3.0, floor=2.0, floor_is="bytes")
    bench.add("section", "without", 3.0, floor_is=bench_floors.ITSELF)
    machine = dict.fromkeys(("cpu", "cores", "postgresql", "python", "jax", "numpy", "psycopg",
                             "commit"), "x")
    machine |= {"note": "", "load": [0], "seconds": 1, "rows": 1, "queried": 1, "repeat": 1}
    page = bench_page.render({"machine": machine, "skipped": [],
                              "entries": [e.as_json() for e in bench.entries]}, None, {}, "x")
    assert "| 2: bytes | 1.5 × |" in page
    assert f"| {bench_floors.ITSELF} |  |" in page
    assert np.isclose(bench.entries[0].distance, 1.5)


def test_a_slower_machine_is_not_a_regression():
    """Each time is twice what it was, one four times; memory does not depend on the machine."""
    old = {("s", f"t{n}"): 1.0 for n in range(5)} | {("s", "rate"): 100.0, ("s", "size"): 10.0}
    entries = [{"section": "s", "what": f"t{n}", "value": 4.0 if n == 3 else 2.0, "unit": "ms"}
               for n in range(5)]
    entries += [{"section": "s", "what": "rate", "value": 50.0, "unit": "rows/s"},
                {"section": "s", "what": "size", "value": 15.0, "unit": "MB"}]
    told = bench_page._slower({"entries": entries}, old, "abc")
    assert "2.00 times" in told
    assert [line for line in told.splitlines() if line.startswith("- ")] == [
        "- s: t3: 1 → 4 ms (4.0 ×)", "- s: size: 10 → 15 MB (1.5 ×)"]
