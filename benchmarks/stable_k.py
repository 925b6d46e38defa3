"""The rule for k against option `"k": "stable"` against the best k, on errors with a known truth.

    .local/venv/bin/python benchmarks/stable_k.py [--data adult mnist fashion reviews] [--seeds 0 1]

Settings of `pgrain paper --scale small`, flips and the systematic errors. A line of JSON a setting
and query: AUC_R by the rule's k, by the stable one, and the best over k = 1 to 30. Not part of the
test suite; reviews take two minutes a setting, the others seconds.
"""

from __future__ import annotations

import argparse
import json

from pgrain.demo.paper import measure
from pgrain.demo.paper.cases import load
from pgrain.demo.paper.scales import SCALES
from pgrain.influence.filters import filter_weights
from pgrain.influence.selection import stable_k

SMALL = SCALES["small"]


def settings(data: str, seed: int):
    """Of a data set."""
    if data == "adult":
        for rate in (0.5, 0.6, 0.7):
            yield SMALL.setting(data, "logistic_regression", "male_private", rate=rate, seed=seed,
                                queries=("Q4", "Q5", "Q6", "Q7"))
        for rate in (0.2, 0.3, 0.4):
            yield SMALL.setting(data, "logistic_regression", "flip", rate=rate, seed=seed,
                                queries=("Q7",))
    elif data == "reviews":
        for rate in (0.1, 0.4):
            yield SMALL.setting(data, "lstm", "flip", rate=rate, seed=seed, queries=("Q3",))
    else:
        for architecture in ("logistic_regression", "mlp"):
            for rate in (0.2, 0.3, 0.4):
                yield SMALL.setting(data, architecture, "flip", rate=rate, seed=seed,
                                    queries=("Q1", "Q3"))
            if data == "fashion":
                yield SMALL.setting(data, architecture, "bright", seed=seed, queries=("Q3",))


def compared(setting):
    """A dict a query of the setting."""
    case = load(setting)
    fitted = measure.fit(setting, case)
    values = fitted.spectrum.eigenvalues
    for name in setting.queries:
        _, _, c = measure.complained(fitted, case.query(name, setting.data))
        by_k = measure.by_k(fitted.A, values, c, case.wrong)
        stable = stable_k(values, filter_weights(values), c, case.n_classes)
        yield {"data": setting.data, "model": setting.architecture, "error": setting.error,
               "rate": setting.rate, "seed": setting.seed, "query": name, "k": fitted.k,
               "rule": by_k[fitted.k - 1], "stable_k": stable, "stable": by_k[stable - 1],
               "best_k": by_k.index(max(by_k)) + 1, "best": max(by_k)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", nargs="*", default=["adult", "mnist", "fashion", "reviews"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    arguments = parser.parse_args()
    found = []
    for data in arguments.data:
        for seed in arguments.seeds:
            for setting in settings(data, seed):
                for line in compared(setting):
                    found.append(line)
                    print(json.dumps(line), flush=True)
    for column in ("rule", "stable"):
        lost = [line["best"] - line[column] for line in found]
        print(f"{column}: below the best k by {sum(lost) / len(lost):.3f} in the mean, "
              f"{max(lost):.3f} at worst, by more than 0.03 in {sum(x > 0.03 for x in lost)} of "
              f"{len(lost)}")


if __name__ == "__main__":
    main()
