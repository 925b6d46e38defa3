"""n = (SELECT max(n) FROM k) over many groups: what it costs, and how far its two ways are apart.

    .local/venv/bin/python benchmarks/against_extremes.py [--groups 1000] [--rows 10] [--repeat 9]

By the distributions of the counts (`gates/most.py`, exact for groups without common variables), and
by their moments (`gates/spread.py`). Prints milliseconds of one evaluation, the least of several,
and the largest difference of a row's probability.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from pgrain.provenance.gates.most import AgainstCounts
from pgrain.provenance.gates.network import State
from pgrain.provenance.gates.spread import AgainstExtreme


def distribution(p: np.ndarray) -> np.ndarray:
    """(m + 1,) of the number of successes of m independent trials."""
    made = np.ones(1)
    for q in p:
        made = np.convolve(made, [1.0 - q, q])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    groups, rows = options.groups, options.rows
    p = np.random.default_rng(0).uniform(size=(groups, rows))
    counts = np.stack([distribution(one) for one in p])
    there = 1.0 - counts[:, 0]
    given = counts[:, 1:] / there[:, None]          # that the group is there
    value = np.tile(np.arange(1.0, rows + 1.0), groups)
    group, every = np.repeat(np.arange(groups), rows), np.arange(groups)
    literal, event = 2 + np.arange(groups * rows), 2 + groups * rows + every
    out = 2 + groups * rows + groups
    by_value = AgainstCounts(out, "=", np.zeros(groups, int), group, value, literal,
                             np.ones(len(value), bool), np.zeros(len(value), bool), every,
                             np.zeros(groups, int), event, group, value, literal)
    number = given @ np.arange(1.0, rows + 1.0)
    spread = given @ np.arange(1.0, rows + 1.0) ** 2 - number ** 2
    row, other = np.nonzero(~np.eye(groups, dtype=bool))
    by_moments = AgainstExtreme(out, "=", 1.0, every, groups + every, np.ones(groups, bool), row,
                                other, groups + other, event[other], 0.5)
    P = np.concatenate([[1.0, 0.0], given.ravel(), there, np.zeros(3 * groups)])
    found = []
    for name, layer in (("by distributions", by_value), ("by moments", by_moments)):
        layer.prepare(np.arange(len(P)))
        state = State(P.copy(), np.concatenate([number, spread]), np.ones(2 * groups), False,
                      np.arange(len(P)))
        took = []
        for _ in range(options.repeat):
            began = time.perf_counter()
            layer.forward(state)
            took.append(time.perf_counter() - began)
        found.append(state.P[out:].reshape(-1, 3)[:, 1].copy())
        print(f"{name}: {1000 * min(took):.1f} ms, {groups} groups of {rows} rows")
    print(f"largest difference of a row's probability: {np.abs(found[0] - found[1]).max():.3f}")


if __name__ == "__main__":
    main()
